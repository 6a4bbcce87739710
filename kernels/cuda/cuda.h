/* kernels/cuda/cuda.h — GPUs for a program that links no CUDA: finds the driver, takes the devices, opens
 * libdynasor-cuda.so.
 *
 * Owns: a lock file for each device, "gpu-UUID.lock" in the runtime directory, held until close or the
 * process ends: two daemons never share a device. Thread: start-up. Memory: none on the heap of its own;
 * libraries stay loaded. Time: 0.2 ms without a driver; with one, seconds (the driver starts).
 * Fails: enum cuda_found, with a sentence that names what is wrong. */
#pragma once
#include "kernels/cuda/backend.h"

enum cuda_found {
    CUDA_FOUND = 0,
    CUDA_NO_DRIVER = 1,     /* no libcuda, or one that lacks what is needed */
    CUDA_NO_DEVICE = 2,     /* a driver, but no GPU, or one that is too old */
    CUDA_DRIVER_FAILS = 3,  /* or the runtime, which is linked into the backend */
    CUDA_IN_USE = 4,        /* another process has the device, or is kept from it by its mode */
    CUDA_NO_LOCK = 5,       /* the lock file cannot be made */
    CUDA_NO_BACKEND = 6,    /* no libdynasor-cuda.so, one of another build, or it sees fewer GPUs */
    CUDA_NO_SUCH_DEVICE = 7 /* GPUs, but not one of this number */
};

struct cuda_request {
    const char *driver;  /* "libcuda.so.1" */
    const char *monitor; /* "libnvidia-ml.so.1": tells who else uses a device; NULL: not asked */
    const char *backend; /* "libdynasor-cuda.so", with its folder */
    const char *lock_directory; /* exists, and is ours */
    uint64_t sync_limit_ns;     /* of backend.h */
    uint32_t ranks_count;
    int32_t devices[CUDA_RANKS_MAX]; /* CUDA's number of each rank's device */
};

struct cuda_gpus {
    const struct ops *ops;
    dynasor_cuda_failure_fn *failure;
    uint64_t
        memory_bytes[CUDA_RANKS_MAX]; /* free: what ranks that share a device have is divided */
    uint32_t missing; /* CUDA_NO_SUCH_DEVICE: its number, all that is written then */
    int locks[CUDA_RANKS_MAX];
    uint32_t locks_count;
};

/* message: on success which devices, otherwise why not. */
int cuda_gpus_open(const struct cuda_request *request, struct cuda_gpus *ret_gpus,
                   char message[CUDA_TEXT_BYTES]);
void cuda_gpus_close(struct cuda_gpus *gpus); /* its devices are closed before */
