/* kernels/cuda/api.h — every call that the CUDA backend makes to the CUDA runtime and to NCCL, as one table.
 *
 * The real table is filled by api.cu; tests fill it with an emulation that runs the same kernels on the
 * host, counts, and fails where it is told to. Results are the library's own numbers: 0 is success, and the
 * others mean one thing for the runtime and another for NCCL.
 *
 * Thread: the runtime's rules; device_set() is of the calling thread. Memory: of the library. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum cuda_api_error { /* numbers of the runtime that the backend tells apart */
                      CUDA_API_MEMORY = 2,
                      CUDA_API_NO_DEVICE = 100,
                      CUDA_API_NOT_READY = 600
};

enum { CUDA_API_COMM_BUSY = 7 }; /* NCCL's number of a call that goes on after it has returned */

struct cuda_comm_id { /* by which the ranks of a group find each other */
    char bytes[128];
};

struct cuda_launch {
    const void *kernel;                            /* a __global__ function of one argument */
    void (*host_call)(const void *, const void *); /* calls it with that argument; for emulation */
    const char *name;                              /* of the operation, for messages */
    const void *argument;
    uint64_t argument_bytes;
    uint64_t bytes; /* that the kernel must move, by the formula of its operation; 0: not said */
    uint32_t grid[2];
    uint32_t block;
    uint32_t shared_bytes;
};

struct cuda_device_info {
    uint32_t capability;       /* 90 in 9.0 */
    uint32_t shared_bytes_max; /* of a block that asks for more than 48 KiB */
};

struct cuda_api {
    int (*device_count)(int *ret_count);
    int (*device_info)(int device, struct cuda_device_info *ret_info);
    int (*device_set)(int device);
    int (*memory_new)(void **ret_memory, uint64_t bytes);
    int (*memory_free)(void *memory);
    int (*memory_room)(uint64_t *ret_bytes); /* free on the thread's device */
    int (*pinned_new)(void **ret_memory, uint64_t bytes);
    int (*pinned_free)(void *memory);
    int (*stream_new)(void **ret_stream);
    int (*stream_free)(void *stream);
    int (*stream_query)(void *stream); /* CUDA_API_NOT_READY: work is left */
    int (*event_new)(void **ret_event);
    int (*event_free)(void *event);
    int (*event_record)(void *event, void *stream);
    int (*event_wait)(void *event, void *stream); /* the stream waits */
    int (*event_query)(void *event);
    int (*copy)(void *to, const void *from, uint64_t bytes, void *stream);
    int (*fill)(void *to, int byte, uint64_t bytes, void *stream);
    int (*kernel_shared)(const void *kernel, uint32_t bytes); /* allows that much in a block */
    int (*launch)(const struct cuda_launch *launch, void *stream);
    int (*capture_begin)(void *stream); /* launches are kept from here on, not run */
    int (*capture_end)(void *stream, void **ret_captured);
    int (*capture_free)(void *captured);
    int (*graph_new)(void **ret_graph, void *captured);
    int (*graph_free)(void *graph);
    int (*graph_upload)(void *graph, void *stream);
    int (*graph_launch)(void *graph, void *stream);
    const char *(*error_text)(int error);
    uint64_t (*time_ns)(void); /* monotonic */
    void (*give_way)(void);    /* of a thread that waits for the device */

    /* NCCL, which never blocks: CUDA_API_COMM_BUSY says that a call goes on, and comm_error() when it is over.
     * comm_id fails with -ENOENT when there is no library that has all of this. comm_new: of the thread's
     * device; between comms_begin and comms_end for all ranks of a group. */
    int (*comm_id)(struct cuda_comm_id *ret_id);
    int (*comms_begin)(void);
    int (*comm_new)(void **ret_comm, uint32_t count, const struct cuda_comm_id *id, uint32_t rank);
    int (*comms_end)(void);
    int (*comm_gather)(void *comm, const void *from, void *to, uint64_t bytes, void *stream);
    int (*comm_error)(void *comm);  /* also what went wrong behind a call that returned */
    void (*comm_abort)(void *comm); /* never destroy: that can wait for ever */
    const char *(*comm_text)(int error);
};

const struct cuda_api *cuda_api_real(void);

#ifdef __cplusplus
}
#endif
