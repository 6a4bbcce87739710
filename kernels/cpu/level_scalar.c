#define LEVEL(name) name##_scalar
#include "kernels/cpu/level.h"

const struct cpu_kernels cpu_kernels_scalar = {LEVEL_KERNELS};
