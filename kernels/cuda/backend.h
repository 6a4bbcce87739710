/* kernels/cuda/backend.h — what libdynasor-cuda.so exports besides probe.h: the backend of kernels/ops.h.
 *
 * Thread: dynasor_cuda_backend() once, at start-up; dynasor_cuda_failure() any. Memory: static. */
#pragma once
#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CUDA_BACKEND_VERSION 4u /* of this header and of ops.h: changes with either */
#define CUDA_RANKS_MAX 8u
#define CUDA_TEXT_BYTES 256u

struct cuda_options {
    uint32_t bytes;       /* sizeof this struct */
    uint32_t ranks_count; /* 1 to CUDA_RANKS_MAX */
    int32_t
        devices[CUDA_RANKS_MAX]; /* CUDA number of each rank's device; two ranks may share one */
    uint64_t sync_limit_ns; /* device work that takes longer has hung: sync() returns -ETIMEDOUT */
    uint64_t ops_bytes;     /* sizeof(struct ops): both sides have the same table */
};

/* 0, or -EINVAL when version or sizes differ (another build). */
typedef int dynasor_cuda_backend_fn(uint32_t version, const struct cuda_options *options,
                                    const struct ops **ret_ops);
__attribute__((visibility("default"))) dynasor_cuda_backend_fn dynasor_cuda_backend;

/* Free memory of a rank's device. 0, or -errno and dynasor_cuda_failure() says why. */
typedef int dynasor_cuda_memory_fn(uint32_t rank, uint64_t *ret_bytes);
__attribute__((visibility("default"))) dynasor_cuda_memory_fn dynasor_cuda_memory;

/* The first failure of this process in words, "" while there was none: which call for which operation, and
 * what the library said. */
typedef void dynasor_cuda_failure_fn(char text[CUDA_TEXT_BYTES]);
__attribute__((visibility("default"))) dynasor_cuda_failure_fn dynasor_cuda_failure;

#ifdef __cplusplus
}
#endif
