#include "kernels/cpu/amx.h"

const struct cpu_kernels cpu_kernels_amx = {.gemm_bf16 = cpu_gemm_bf16_amx,
                                            .attention_bf16 = cpu_attention_bf16_amx};
