/* kernels/ref/sample.h — one row of ops.h's sample(), by sorting. Inner part of kernels/ref. */
#pragma once
#include "kernels/ops.h"

/* scratch: 2 * vocabulary doubles. */
void ref_sample_row(const struct ops_sample *args, uint32_t row, double *scratch);
