/* kernels/ref/ref.h — ops.h in plain C: one thread, row-major layouts, sums in float64. The judge of the
 * other backends, never served from.
 *
 * Thread, memory and failure as ops.h. */
#pragma once
#include "kernels/ops.h"

const struct ops *ref_ops(void);
