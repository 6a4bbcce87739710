/* kernels/cuda/api.cu — the table of api.h over the CUDA runtime (linked statically) and NCCL, which is
 * opened when ranks need it: it is 220 MB, and one device does without. */
#include "kernels/cuda/api.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <time.h>

/* Every call clears the runtime's last error: an error is told once, where it happened. One that breaks
 * the context comes back from each later call. */
static int told(cudaError_t error)
{
    if (error)
        (void)cudaGetLastError();
    return (int)error;
}

static int device_count(int *ret_count)
{
    int count = 0, error = told(cudaGetDeviceCount(&count));
    if (!error)
        *ret_count = count;
    return error;
}

static int device_info(int device, struct cuda_device_info *ret_info)
{
    int major = 0, minor = 0, shared = 0;
    int error = told(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    if (!error)
        error = told(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
    if (!error)
        error =
            told(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    if (error)
        return error;
    ret_info->capability = (uint32_t)(10 * major + minor);
    ret_info->shared_bytes_max = (uint32_t)shared;
    return 0;
}

static int device_set(int device)
{
    return told(cudaSetDevice(device));
}

static int memory_new(void **ret_memory, uint64_t bytes)
{
    return told(cudaMalloc(ret_memory, bytes));
}

static int memory_free(void *memory)
{
    return told(cudaFree(memory));
}

static int memory_room(uint64_t *ret_bytes)
{
    size_t room = 0, all = 0;
    int error = told(cudaMemGetInfo(&room, &all));
    if (!error)
        *ret_bytes = room;
    return error;
}

static int pinned_new(void **ret_memory, uint64_t bytes)
{
    return told(cudaMallocHost(ret_memory, bytes));
}

static int pinned_free(void *memory)
{
    return told(cudaFreeHost(memory));
}

static int stream_new(void **ret_stream)
{
    return told(cudaStreamCreateWithFlags((cudaStream_t *)ret_stream, cudaStreamNonBlocking));
}

static int stream_free(void *stream)
{
    return told(cudaStreamDestroy((cudaStream_t)stream));
}

static int stream_query(void *stream)
{
    return told(cudaStreamQuery((cudaStream_t)stream));
}

static int event_new(void **ret_event)
{
    return told(cudaEventCreateWithFlags((cudaEvent_t *)ret_event, cudaEventDisableTiming));
}

static int event_free(void *event)
{
    return told(cudaEventDestroy((cudaEvent_t)event));
}

static int event_record(void *event, void *stream)
{
    return told(cudaEventRecord((cudaEvent_t)event, (cudaStream_t)stream));
}

static int event_wait(void *event, void *stream)
{
    return told(cudaStreamWaitEvent((cudaStream_t)stream, (cudaEvent_t)event, 0));
}

static int event_query(void *event)
{
    return told(cudaEventQuery((cudaEvent_t)event));
}

static int copy(void *to, const void *from, uint64_t bytes, void *stream)
{
    return told(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, (cudaStream_t)stream));
}

static int fill(void *to, int byte, uint64_t bytes, void *stream)
{
    return told(cudaMemsetAsync(to, byte, bytes, (cudaStream_t)stream));
}

static int kernel_shared(const void *kernel, uint32_t bytes)
{
    return told(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
}

static int launch(const struct cuda_launch *l, void *stream)
{
    void *arguments[1];
    memcpy(arguments, &l->argument, sizeof arguments); /* it is read, not written */
    return told(cudaLaunchKernel(l->kernel, dim3(l->grid[0], l->grid[1]), dim3(l->block), arguments,
                                 l->shared_bytes, (cudaStream_t)stream));
}

/* Only this thread's calls must keep the rules of a capture: another rank's may load weights. */
static int capture_begin(void *stream)
{
    return told(cudaStreamBeginCapture((cudaStream_t)stream, cudaStreamCaptureModeThreadLocal));
}

static int capture_end(void *stream, void **ret_captured)
{
    return told(cudaStreamEndCapture((cudaStream_t)stream, (cudaGraph_t *)ret_captured));
}

static int capture_free(void *captured)
{
    return told(cudaGraphDestroy((cudaGraph_t)captured));
}

static int graph_new(void **ret_graph, void *captured)
{
    return told(
        cudaGraphInstantiateWithFlags((cudaGraphExec_t *)ret_graph, (cudaGraph_t)captured, 0));
}

static int graph_free(void *graph)
{
    return told(cudaGraphExecDestroy((cudaGraphExec_t)graph));
}

static int graph_upload(void *graph, void *stream)
{
    return told(cudaGraphUpload((cudaGraphExec_t)graph, (cudaStream_t)stream));
}

static int graph_launch(void *graph, void *stream)
{
    return told(cudaGraphLaunch((cudaGraphExec_t)graph, (cudaStream_t)stream));
}

static const char *error_text(int error)
{
    return cudaGetErrorString((cudaError_t)error);
}

static uint64_t time_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail for this clock */
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void give_way(void)
{
    (void)sched_yield(); /* always succeeds */
}

/* ---- NCCL ------------------------------------------------------------------------------------ */

enum { NCCL_INT8 = 0 }; /* ncclDataType_t */
#define NCCL_MAGIC 0xcafebeefu
#define NCCL_VERSION 21400u

struct
    nccl_config { /* ncclConfig_t of version 2.14; newer ones take its fields and default the others */
    size_t bytes;
    unsigned magic;
    unsigned version;
    int blocking;
};

static struct nccl { /* the calls that are used, of version 2.14 on */
    int (*id)(struct cuda_comm_id *ret_id);
    int (*group_start)(void);
    int (*group_end)(void);
    int (*init)(void **ret_comm, int count, struct cuda_comm_id id, int rank,
                struct nccl_config *config);
    int (*all_gather)(const void *from, void *to, size_t count, int type, void *comm,
                      cudaStream_t stream);
    int (*async_error)(void *comm, int *ret_error);
    int (*abort)(void *comm);
    const char *(*error_text)(int error);
} nccl;

static bool symbol(void *library, const char *name, void *ret_function)
{
    void *found = dlsym(library, name);
    memcpy(ret_function, &found, sizeof found);
    return found != NULL;
}

static int comm_id(struct cuda_comm_id *ret_id)
{
    void *library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return -ENOENT;
    if (!symbol(library, "ncclGetUniqueId", &nccl.id) ||
        !symbol(library, "ncclGroupStart", &nccl.group_start) ||
        !symbol(library, "ncclGroupEnd", &nccl.group_end) ||
        !symbol(library, "ncclCommInitRankConfig", &nccl.init) ||
        !symbol(library, "ncclAllGather", &nccl.all_gather) ||
        !symbol(library, "ncclCommGetAsyncError", &nccl.async_error) ||
        !symbol(library, "ncclCommAbort", &nccl.abort) ||
        !symbol(library, "ncclGetErrorString", &nccl.error_text))
        return -ENOENT;
    return nccl.id(ret_id);
}

static int comms_begin(void)
{
    return nccl.group_start();
}

static int comm_new(void **ret_comm, uint32_t count, const struct cuda_comm_id *id, uint32_t rank)
{
    struct nccl_config config = {};
    config.bytes = sizeof config;
    config.magic = NCCL_MAGIC;
    config.version = NCCL_VERSION;
    return nccl.init(ret_comm, (int)count, *id, (int)rank, &config);
}

static int comms_end(void)
{
    return nccl.group_end();
}

static int comm_gather(void *comm, const void *from, void *to, uint64_t bytes, void *stream)
{
    return nccl.all_gather(from, to, bytes, NCCL_INT8, comm, (cudaStream_t)stream);
}

static int comm_error(void *comm)
{
    int error = 0, result = nccl.async_error(comm, &error);
    return result ? result : error;
}

static void comm_abort(void *comm)
{
    (void)nccl.abort(comm); /* it is given up whatever it says */
}

static const char *comm_text(int error)
{
    return nccl.error_text(error);
}

/* ---- table ----------------------------------------------------------------------------------- */

extern "C" const struct cuda_api *cuda_api_real(void)
{
    static const struct cuda_api api = {
        device_count,  device_info,  device_set,    memory_new,  memory_free,  memory_room,
        pinned_new,    pinned_free,  stream_new,    stream_free, stream_query, event_new,
        event_free,    event_record, event_wait,    event_query, copy,         fill,
        kernel_shared, launch,       capture_begin, capture_end, capture_free, graph_new,
        graph_free,    graph_upload, graph_launch,  error_text,  time_ns,      give_way,
        comm_id,       comms_begin,  comm_new,      comms_end,   comm_gather,  comm_error,
        comm_abort,    comm_text};
    return &api;
}
