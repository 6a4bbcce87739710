#define LEVEL(name) name##_avx2
#include "kernels/cpu/level.h"

const struct cpu_kernels cpu_kernels_avx2 = {LEVEL_KERNELS};
