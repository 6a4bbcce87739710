/* tests/gpu/backend.h — libdynasor-cuda.so of the build, for tests on a GPU.
 *
 * Thread: one. Fails: ends the test with 77 where there is no device, or neither library nor driver; with 1 where
 * the library does not load, or there is a device and the backend does not start. */
#pragma once
#include "kernels/cuda/backend.h"

/* Every rank on device 0. */
const struct ops *gpu_ops(uint32_t ranks_count);
/* The same with a GPU for each rank; NULL where there are fewer. The last call holds for what is opened next. */
const struct ops *gpu_ops_apart(uint32_t ranks_count);

/* After it: what device 0 does at best, as kernels/cuda/probe.h says. */
void gpu_measure(double *ret_bytes_per_s, double *ret_operations_per_s);
/* Seconds of a product by cuBLASLt; otherwise why there are none. */
const char *gpu_measure_library(uint32_t rows, uint32_t n, uint32_t k, double *ret_seconds);
