/* kernels/cpu/cpu.h — the CPU backend of ops.h, at the best instruction-set level of this machine.
 *
 * Thread: any. Memory: none. */
#pragma once
#include "kernels/ops.h"

enum cpu_level { CPU_SCALAR = 0, CPU_AVX2 = 1, CPU_AVX512 = 2, CPU_AMX = 3, CPU_LEVEL_COUNT = 4 };

/* The best level that processor and kernel support (AMX needs permission of the kernel, which this
 * asks for). */
enum cpu_level cpu_level_best(void);

/* The backend at level, or NULL when this machine does not have it. */
const struct ops *cpu_ops(enum cpu_level level);
