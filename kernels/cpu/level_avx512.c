#define LEVEL(name) name##_avx512
#include "kernels/cpu/level.h"

const struct cpu_kernels cpu_kernels_avx512 = {LEVEL_KERNELS};
