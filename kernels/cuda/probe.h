/* kernels/cuda/probe.h: which CUDA devices there are, and whether one computes correctly.
 *
 * Exported by libdynasor-cuda.so, which is loaded at run time; plain C.
 * Thread: any. Memory: allocates nothing on the host. Time: the first call starts the CUDA driver
 * (up to seconds). Fails: a positive enum dynasor_cuda_status, to be handled by the caller. */
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum dynasor_cuda_status {
    DYNASOR_CUDA_OK = 0,
    DYNASOR_CUDA_E_NO_DRIVER = 1, /* no driver, or one older than the runtime needs */
    DYNASOR_CUDA_E_NO_DEVICE = 2, /* a driver, but no device; or no device of that number */
    DYNASOR_CUDA_E_MEMORY = 3,    /* the device has no memory left for the test */
    DYNASOR_CUDA_E_DEVICE = 4,    /* any other CUDA error: do not use this device */
    DYNASOR_CUDA_E_WRONG = 5,     /* the device ran and gave a wrong result */
    DYNASOR_CUDA_E_NO_LIBRARY = 6 /* no cuBLASLt to compare with */
};

enum { DYNASOR_CUDA_NAME_BYTES = 256 };

struct dynasor_cuda_device {
    char name[DYNASOR_CUDA_NAME_BYTES]; /* ends with a zero byte */
    uint64_t memory_bytes;
    uint32_t capability_major; /* 9 in 9.0 */
    uint32_t capability_minor;
    uint32_t multiprocessor_count;
    uint32_t pad0;
};

/* Results are written only when the status is DYNASOR_CUDA_OK. */
__attribute__((visibility("default"))) int dynasor_cuda_device_count(uint32_t *ret_count);
__attribute__((visibility("default"))) int dynasor_cuda_device_read(
    uint32_t device_idx, struct dynasor_cuda_device *ret_device);

/* Sends a buffer to the device, changes it there, and compares what comes back. */
__attribute__((visibility("default"))) int dynasor_cuda_selftest(uint32_t device_idx);

/* What the device does at best, for benchmarks to compare with: bytes read and written by a second of copies of
 * 1 GiB, and operations (a multiplication and an addition are two) of a second of bf16 matrix products of
 * warps, whose factors never leave the registers. */
__attribute__((visibility("default"))) int dynasor_cuda_measure(uint32_t device_idx,
                                                                double *ret_bytes_per_s,
                                                                double *ret_operations_per_s);

/* Seconds that cuBLASLt takes for y = x w^T at [rows, k] and [n, k], bf16 into float32, by the fastest of the
 * algorithms that it proposes. */
__attribute__((visibility("default"))) int dynasor_cuda_measure_library(uint32_t device_idx,
                                                                        uint32_t rows, uint32_t n,
                                                                        uint32_t k,
                                                                        double *ret_seconds);

/* Of an error of the runtime, for files of this folder. */
int cuda_status_of(int error);

/* A constant string for a status. */
__attribute__((visibility("default"))) const char *dynasor_cuda_status_text(int status);

#ifdef __cplusplus
}
#endif
