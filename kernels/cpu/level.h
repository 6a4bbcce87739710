/* kernels/cpu/level.h — every kernel in the instructions of one level. Included once by each of
 * level_scalar.c, level_avx2.c and level_avx512.c, which define LEVEL(name) and are compiled for it. */
#pragma once
#include "kernels/cpu/attention_body.h"
#include "kernels/cpu/gemm_body.h"
#include "kernels/cpu/qkv_body.h"
#include "kernels/cpu/rows_body.h"
#include "kernels/cpu/sample_body.h"

#define LEVEL_KERNELS                                                                              \
    .gemm_bf16 = LEVEL(cpu_gemm_bf16), .gemm_f32 = LEVEL(cpu_gemm_f32), .norm = LEVEL(cpu_norm),   \
    .qkv = LEVEL(cpu_qkv), .attention_bf16 = LEVEL(cpu_attention_bf16),                            \
    .attention_f32 = LEVEL(cpu_attention_f32), .attention_full = LEVEL(cpu_attention_full),        \
    .gate = LEVEL(cpu_gate), .add = LEVEL(cpu_add), .dot = LEVEL(cpu_dot),                         \
    .row_mean = LEVEL(cpu_row_mean), .softcap = LEVEL(cpu_softcap), .sample = LEVEL(cpu_sample)
