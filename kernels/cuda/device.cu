/* kernels/cuda/device.cu — a device: its memory, its one stream, and how it fails. */
#include "kernels/cuda/internal.cuh"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shm/atomic.h"

static char failure[CUDA_TEXT_BYTES];
static uint32_t failures_count;
static uint32_t failure_told;                  /* 1: failure stands, and stays as it is */
static uint32_t hung;                          /* device_hung() */
static thread_local int device_of_thread = -1; /* not known */
static const struct cuda_api *backend_api;
static uint32_t capability; /* of the first device */
static struct ops ops;
struct cuda_options cuda_backend_options;

void backend_name(const char *more)
{
    static char name[96];
    (void)snprintf(name, sizeof name, "cuda sm_%u%s", capability, more); /* fits */
    ops.name = name;
}

/* ---- failing --------------------------------------------------------------------------------- */

/* why: in the words of whoever failed. */
static void fail(struct ops_device *d, int result, const char *call, const char *operation,
                 const char *why)
{
    if (d->result)
        return;
    d->result = result;
    if (result == -ETIMEDOUT)
        shm_store_release_u32(&hung, 1);
    if (shm_fetch_add_full_u32(&failures_count, 1)) /* one is enough, and not torn in two */
        return;
    (void)snprintf(failure, sizeof failure, "CUDA device %d: %s for %s: %.150s", d->number, call,
                   operation, why);
    shm_store_release_u32(&failure_told, 1);
}

void device_fail(struct ops_device *d, int result, const char *call, const char *operation)
{
    fail(d, result, call, operation, strerror(-result));
}

bool device_hung(void)
{
    return shm_load_acquire_u32(&hung);
}

extern "C" void dynasor_cuda_failure(char text[CUDA_TEXT_BYTES])
{
    text[0] = '\0';
    if (shm_load_acquire_u32(&failure_told))
        memcpy(text, failure, sizeof failure);
}

bool device_did(struct ops_device *d, int error, const char *call, const char *operation)
{
    char why[CUDA_TEXT_BYTES];
    if (!error)
        return true;
    (void)snprintf(why, sizeof why, "CUDA error %d, %s", error, d->api->error_text(error));
    fail(d, error == CUDA_API_MEMORY ? -ENOMEM : -EIO, call, operation, why);
    return false;
}

bool device_did_comm(struct ops_device *d, int error, const char *call, const char *operation)
{
    char why[CUDA_TEXT_BYTES];
    if (!error)
        return true;
    (void)snprintf(why, sizeof why, "NCCL error %d, %s", error, d->api->comm_text(error));
    fail(d, -ECOMM, call, operation, why);
    return false;
}

static int thread_enter(struct ops_device *d)
{
    int error = d->api->device_set(d->number);
    device_of_thread = error ? -1 : d->number;
    return error;
}

bool device_enter(struct ops_device *d)
{
    if (d->result)
        return false;
    return device_of_thread == d->number ||
           device_did(d, thread_enter(d), "cudaSetDevice", "a thread");
}

bool device_wait(struct ops_device *d, void *event)
{
    uint64_t begin = d->api->time_ns();
    for (;;) {
        int error = event ? d->api->event_query(event) : d->api->stream_query(d->stream);
        if (error != CUDA_API_NOT_READY)
            return device_did(d, error, event ? "cudaEventQuery" : "cudaStreamQuery", "waiting");
        if (d->api->time_ns() - begin > cuda_backend_options.sync_limit_ns) {
            device_fail(d, -ETIMEDOUT, "waiting", "the device's work");
            return false;
        }
        if (d->config.group) { /* a rank that fails lets the others go */
            group_poll(d);
            if (d->result)
                return false;
        }
        d->api->give_way();
    }
}

/* ---- memory ---------------------------------------------------------------------------------- */

static uint64_t take(uint64_t *used, uint64_t bytes)
{
    uint64_t at = *used;
    *used += divided_up(bytes, OPS_ALIGN_BYTES) * OPS_ALIGN_BYTES;
    return at;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* The slab first, so that it begins where cudaMalloc aligns. */
static bool memory_open(struct ops_device *d)
{
    const struct ops_config *c = &d->config;
    uint64_t used = 0, slab = take(&used, c->slab_bytes), slab_end = used;
    uint64_t arrived = take(&used, OPS_STAGE_BYTES), kv_bytes = take(&used, sizeof(uint64_t));
    uint64_t rows = least(c->rows_max, SAMPLE_BLOCKS_MAX);
    uint64_t work = take(&used, rows * c->vocabulary_max * sizeof(float));
    uint64_t ranks = group_ranks(d);
    uint64_t exchange = take(&used, ranks > 1 ? ranks * EXCHANGE_BYTES : 0);
    void *memory = NULL, *pinned = NULL;
    if (!device_did(d, d->api->memory_new(&memory, used), "cudaMalloc", "the slab"))
        return false;
    d->memory = (uint8_t *)memory;
    d->stats.own_bytes = used - slab_end;
    d->arrived = d->memory + arrived;
    d->kv_bytes = (uint64_t *)(void *)(d->memory + kv_bytes);
    d->sample_work = (float *)(void *)(d->memory + work);
    d->exchange = d->memory + exchange;
    if (!device_did(d, d->api->fill(d->memory + slab, 0, used, d->stream), "cudaMemsetAsync",
                    "the slab"))
        return false;
    if (!device_did(d, d->api->pinned_new(&pinned, sizeof(uint64_t)), "cudaMallocHost",
                    "statistics"))
        return false;
    d->kv_bytes_copied = (uint64_t *)pinned;
    return true;
}

static bool parts_open(struct ops_device *d)
{
    if (!device_enter(d) || !device_did(d, d->api->device_info(d->number, &d->info),
                                        "cudaDeviceGetAttribute", "the device"))
        return false;
    if (!device_did(d, d->api->stream_new(&d->stream), "cudaStreamCreate", "the device"))
        return false;
    return memory_open(d) && device_wait(d, NULL);
}

/* What freeing says does not matter: it also repeats errors of earlier work. */
static void device_close(struct ops_device *d)
{
    if (device_hung())
        return;
    (void)thread_enter(d);
    graphs_close(d);
    group_close(d);
    cuda_stages_close(d);
    if (d->stream)
        (void)d->api->stream_free(d->stream);
    if (d->kv_bytes_copied)
        (void)d->api->pinned_free(d->kv_bytes_copied);
    if (d->memory)
        (void)d->api->memory_free(d->memory);
    free(d);
}

static int device_open(const struct ops_config *config, struct ops_device **ret_device)
{
    uint64_t idx = (uint64_t)config->device_first + config->rank;
    if (idx >= cuda_backend_options.ranks_count)
        return -EINVAL;
    struct ops_device *d = (struct ops_device *)calloc(1, sizeof *d);
    if (!d)
        return -ENOMEM;
    d->api = backend_api;
    d->config = *config;
    d->number = cuda_backend_options.devices[idx];
    int result = parts_open(d) ? group_open(d) : d->result;
    result = result ? result : d->result;
    if (result) {
        device_close(d);
        return result;
    }
    *ret_device = d;
    return 0;
}

static void *device_slab(struct ops_device *d)
{
    return d->memory;
}

/* ---- work ------------------------------------------------------------------------------------ */

void device_launch(struct ops_device *d, struct cuda_launch *launch, const struct shape *shape)
{
    if (!device_enter(d) || shape->x == 0 || shape->y == 0)
        return;
    if (shape->x > INT32_MAX || shape->y > UINT16_MAX ||
        shape->shared_bytes > d->info.shared_bytes_max) {
        device_fail(d, -EINVAL, "a launch too large", launch->name);
        return;
    }
    launch->bytes = shape->bytes;
    launch->grid[0] = (uint32_t)shape->x;
    launch->grid[1] = (uint32_t)shape->y;
    launch->block = shape->threads;
    launch->shared_bytes = shape->shared_bytes;
    if (shape->shared_bytes > 48u << 10 &&
        !device_did(d, d->api->kernel_shared(launch->kernel, shape->shared_bytes),
                    "cudaFuncSetAttribute", launch->name))
        return;
    d->stats.launches_count += !d->recording;
    (void)device_did(d, d->api->launch(launch, d->stream), "cudaLaunchKernel", launch->name);
}

/* From memory that is not pinned: what it holds has been read when the call returns. */
static void copy_in(struct ops_device *d, void *to, const void *host_from, uint64_t bytes)
{
    if (bytes && device_enter(d))
        (void)device_did(d, d->api->copy(to, host_from, bytes, d->stream), "cudaMemcpyAsync",
                         "copy_in");
}

/* Into memory that is not pinned: the call returns when it is there. The wait before it has a limit, the
 * copy's own has none. */
static void copy_out(struct ops_device *d, void *host_to, const void *from, uint64_t bytes)
{
    if (bytes && device_enter(d) && device_wait(d, NULL))
        (void)device_did(d, d->api->copy(host_to, from, bytes, d->stream), "cudaMemcpyAsync",
                         "copy_out");
}

static int device_sync(struct ops_device *d)
{
    uint64_t *copied = d->kv_bytes_copied;
    if (device_enter(d) &&
        device_did(d, d->api->copy(copied, d->kv_bytes, sizeof *copied, d->stream),
                   "cudaMemcpyAsync", "statistics") &&
        device_wait(d, NULL))
        d->stats.kv_bytes_read = *copied;
    group_poll(d);
    return d->result;
}

static void device_stats(const struct ops_device *d, struct ops_stats *ret_stats)
{
    *ret_stats = d->stats;
}

int cuda_group_new(uint32_t ranks_count, struct ops_group **ret_group)
{
    return group_make(backend_api, ranks_count, ret_group);
}

/* ---- table ----------------------------------------------------------------------------------- */

/* The runtime may have fewer devices than the driver: CUDA_VISIBLE_DEVICES. */
extern "C" int cuda_backend_start(void)
{
    struct ops_device d = {}; /* to fail with */
    struct cuda_device_info info = {};
    int count = 0;
    d.api = backend_api;
    bool known = device_did(&d, d.api->device_count(&count), "cudaGetDeviceCount", "the backend");
    for (uint32_t i = cuda_backend_options.ranks_count; known && i-- > 0;) {
        d.number = cuda_backend_options.devices[i];
        if (d.number < 0 || d.number >= count)
            device_fail(&d, -ENODEV, "cudaGetDeviceCount", "the backend");
    }
    if (!d.result) /* d is the first now */
        (void)device_did(&d, d.api->device_info(d.number, &info), "cudaDeviceGetAttribute",
                         "the backend");
    capability = info.capability;
    backend_name("");
    return d.result;
}

extern "C" int dynasor_cuda_memory(uint32_t rank, uint64_t *ret_bytes)
{
    struct ops_device d = {}; /* to fail with */
    if (rank >= cuda_backend_options.ranks_count)
        return -EINVAL;
    d.api = backend_api;
    d.number = cuda_backend_options.devices[rank];
    if (device_enter(&d))
        (void)device_did(&d, d.api->memory_room(ret_bytes), "cudaMemGetInfo", "the backend");
    return d.result;
}

extern "C" const struct ops *cuda_backend_ops(const struct cuda_api *api)
{
    backend_api = api;
    ops.name = "cuda";
    ops.group_new = cuda_group_new;
    ops.group_free = cuda_group_free;
    ops.open = device_open;
    ops.close = device_close;
    ops.slab = device_slab;
    ops.matrix_bytes = cuda_matrix_bytes;
    ops.kv_page_bytes = cuda_kv_page_bytes;
    ops.stages_open = cuda_stages_open;
    ops.stages_close = cuda_stages_close;
    ops.stage_wait = cuda_stage_wait;
    ops.load = cuda_load;
    ops.copy_in = copy_in;
    ops.copy_out = copy_out;
    ops.sync = device_sync;
    ops.stats = device_stats;
    ops.graph_begin = graph_begin;
    ops.graph_end = graph_end;
    ops.graph_run = graph_run;
#define CUDA_LAUNCH_FILL(name) ops.name = cuda_##name;
    CUDA_LAUNCHES(CUDA_LAUNCH_FILL)
    return &ops;
}
