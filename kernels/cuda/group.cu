/* kernels/cuda/group.cu — ranks of one process: sums and concatenations over them.
 *
 * Both are made of one thing, an exchange: every rank gets what every rank shows, side by side. Then each
 * adds up in the order of ranks. A library's own sum may take another order for another size, and then a
 * row's bits would depend on how many rows there are. An exchange moves ranks * bytes into each device,
 * twice what a ring would for four ranks, the same for two.
 *
 * Ranks on different devices exchange through NCCL where there is that library. Otherwise, and where two
 * ranks share a device (tests), each copies from the others' memory; events order the copies after what
 * was computed, and before it is overwritten. An event must be recorded before somebody waits for it, so
 * the ranks' threads meet on the host.
 *
 * A rank that has failed still comes to every meeting: nobody waits for it for ever. NCCL is told not to
 * block, so that its calls, too, are waited for with a limit. A communicator is aborted, never destroyed, and
 * left alone once a device hangs. */
#include "kernels/cuda/internal.cuh"

#include <errno.h>
#include <stdlib.h>

#include "shm/atomic.h"

#define GROUP_THREADS 256u

enum exchange { UNDECIDED = 0, BY_COPIES = 1, BY_NCCL = 2, SHARED_DEVICE = 3 /* by copies */ };

struct ops_group {
    const struct cuda_api *api;
    uint32_t ranks_count;
    uint32_t arrived;
    uint32_t round;
    uint32_t broken; /* some rank has failed */
    uint64_t shown[CUDA_RANKS_MAX];
    void *ready[CUDA_RANKS_MAX]; /* events: what a rank shows has been computed */
    void *done[CUDA_RANKS_MAX];  /* what the others show has been copied */
    uint32_t opened;             /* ranks that have begun to open */
    uint32_t exchange;           /* enum exchange */
    void *comms[CUDA_RANKS_MAX]; /* NCCL's; NULL: none, or given up */
};

uint32_t group_ranks(const struct ops_device *d)
{
    return d->config.group ? d->config.group->ranks_count : 1;
}

/* ---- life ------------------------------------------------------------------------------------ */

static bool devices_differ(const int32_t *devices, uint32_t ranks_count)
{
    for (uint32_t i = 0; i < ranks_count; i++)
        for (uint32_t j = 0; j < i; j++)
            if (devices[i] == devices[j])
                return false;
    return true;
}

int group_make(const struct cuda_api *api, uint32_t ranks_count, struct ops_group **ret_group)
{
    if (ranks_count < 1 || ranks_count > cuda_backend_options.ranks_count)
        return -EINVAL;
    struct ops_group *g = (struct ops_group *)calloc(1, sizeof *g);
    if (!g)
        return -ENOMEM;
    g->api = api;
    g->ranks_count = ranks_count;
    *ret_group = g;
    return 0;
}

void cuda_group_free(struct ops_group *g)
{
    for (uint32_t r = 0; r < g->ranks_count && !device_hung(); r++)
        if (g->comms[r]) /* of a rank that never opened */
            g->api->comm_abort(g->comms[r]);
    free(g);
}

/* Until a call of NCCL that goes on is over; it has the limit of all work, and ends when another rank fails. */
static bool comm_settle(struct ops_device *d, void *comm, int error, const char *call)
{
    uint64_t begin = d->api->time_ns();
    while (error == CUDA_API_COMM_BUSY) {
        if (d->api->time_ns() - begin > cuda_backend_options.sync_limit_ns)
            device_fail(d, -ETIMEDOUT, call, "the group");
        else if (shm_load_acquire_u32(&d->config.group->broken))
            device_fail(d, -EIO, "a failure of another rank", "the group");
        if (d->result)
            return false;
        d->api->give_way();
        error = d->api->comm_error(comm);
        if (error && error != CUDA_API_COMM_BUSY)
            (void)device_did_comm(d, error, "ncclCommGetAsyncError", call);
    }
    return device_did_comm(d, error, call, "the group");
}

static int not_busy(int error)
{
    return error == CUDA_API_COMM_BUSY ? 0 : error;
}

/* One for each rank, from this thread. Returns how ranks will exchange. */
static enum exchange comms_new(struct ops_device *d, const int32_t *devices)
{
    struct ops_group *g = d->config.group;
    struct cuda_comm_id id;
    int own = d->number, error = d->api->comm_id(&id);
    if (error == -ENOENT)
        return BY_COPIES;
    if (!device_did_comm(d, error, "ncclGetUniqueId", "the group") ||
        !device_did_comm(d, d->api->comms_begin(), "ncclGroupStart", "the group"))
        return BY_NCCL;
    for (uint32_t r = 0; r < g->ranks_count; r++) {
        d->number = devices[r]; /* a communicator is of the thread's device */
        if (device_enter(d))
            (void)device_did_comm(d,
                                  not_busy(d->api->comm_new(&g->comms[r], g->ranks_count, &id, r)),
                                  "ncclCommInitRankConfig", "the group");
    }
    d->number = own;
    (void)device_did_comm(d, not_busy(d->api->comms_end()), "ncclGroupEnd",
                          "the group"); /* whatever failed */
    for (uint32_t r = 0; r < g->ranks_count && !d->result; r++)
        (void)comm_settle(d, g->comms[r], CUDA_API_COMM_BUSY, "ncclCommInitRankConfig");
    return BY_NCCL;
}

int group_open(struct ops_device *d)
{
    struct ops_group *g = d->config.group;
    const int32_t *devices = cuda_backend_options.devices + d->config.device_first;
    uint32_t rank = d->config.rank;
    static const char *const words[] = {
        /* enum exchange */
        "", ", ranks exchange by copies: no libnccl.so.2 from 2.14 on", ", ranks exchange by NCCL",
        ", ranks exchange by copies: they share a GPU"};
    if (!g)
        return 0;
    if (rank >= g->ranks_count ||
        (uint64_t)d->config.device_first + g->ranks_count > cuda_backend_options.ranks_count)
        return -EINVAL;
    if (shm_fetch_add_full_u32(&g->opened, 1) == 0) {
        enum exchange by = g->ranks_count > 1 && devices_differ(devices, g->ranks_count)
                               ? comms_new(d, devices)
                               : SHARED_DEVICE;
        backend_name(words[by]);
        shm_store_release_u32(&g->exchange, by);
    }
    if (device_enter(d) &&
        device_did(d, d->api->event_new(&g->ready[rank]), "cudaEventCreate", "the group"))
        (void)device_did(d, d->api->event_new(&g->done[rank]), "cudaEventCreate", "the group");
    return d->result;
}

static void comm_abort(struct ops_device *d)
{
    struct ops_group *g = d->config.group;
    if (g->comms[d->config.rank] && !device_hung()) {
        graphs_close(d);
        d->api->comm_abort(g->comms[d->config.rank]);
    }
    g->comms[d->config.rank] = NULL;
}

void group_close(struct ops_device *d)
{
    struct ops_group *g = d->config.group;
    if (!g)
        return;
    if (g->ready[d->config.rank])
        (void)d->api->event_free(g->ready[d->config.rank]); /* as device_close() */
    if (g->done[d->config.rank])
        (void)d->api->event_free(g->done[d->config.rank]);
    g->ready[d->config.rank] = g->done[d->config.rank] = NULL;
    comm_abort(d);
}

/* One fails, all fail; and nobody's work waits for a communicator that is broken. */
void group_poll(struct ops_device *d)
{
    struct ops_group *g = d->config.group;
    if (!g)
        return;
    if (!d->result && g->comms[d->config.rank])
        (void)device_did_comm(d, not_busy(d->api->comm_error(g->comms[d->config.rank])),
                              "ncclCommGetAsyncError", "the group");
    if (shm_load_acquire_u32(&g->broken) && !d->result)
        device_fail(d, -EIO, "a failure of another rank", "the group");
    if (d->result) {
        shm_store_release_u32(&g->broken, 1);
        comm_abort(d);
    }
}

/* ---- exchange -------------------------------------------------------------------------------- */

/* Also of a rank that has failed. Returns false when somebody did not come. */
static bool meet(struct ops_device *d)
{
    struct ops_group *g = d->config.group;
    uint32_t round = shm_load_acquire_u32(&g->round);
    uint64_t begin = d->api->time_ns();
    if (shm_fetch_add_full_u32(&g->arrived, 1) + 1 == g->ranks_count) {
        shm_store_u32(&g->arrived, 0);
        (void)shm_fetch_add_full_u32(&g->round, 1);
        return true;
    }
    while (shm_load_acquire_u32(&g->round) == round) {
        if (d->api->time_ns() - begin > cuda_backend_options.sync_limit_ns) {
            device_fail(d, -ETIMEDOUT, "waiting", "the other ranks");
            return false;
        }
        d->api->give_way();
    }
    return true;
}

void group_exchange(struct ops_device *d, const void *from, uint64_t bytes)
{
    struct ops_group *g = d->config.group;
    uint32_t rank = d->config.rank;
    const char *call = "cudaEventRecord";
    shm_store_u64(&g->shown[rank], (uintptr_t)from);
    if (device_enter(d))
        (void)device_did(d, d->api->event_record(g->ready[rank], d->stream), call, "the group");
    if (!meet(d))
        return;
    for (uint32_t r = 0; r < g->ranks_count && device_enter(d); r++) {
        const void *shown = (const void *)(uintptr_t)shm_load_u64(&g->shown[r]);
        if (device_did(d, d->api->event_wait(g->ready[r], d->stream), "cudaStreamWaitEvent",
                       "the group"))
            (void)device_did(d, d->api->copy(d->exchange + r * bytes, shown, bytes, d->stream),
                             "cudaMemcpyAsync", "the group");
    }
    if (device_enter(d))
        (void)device_did(d, d->api->event_record(g->done[rank], d->stream), call, "the group");
    if (!meet(d))
        return;
    for (uint32_t r = 0; r < g->ranks_count && device_enter(d); r++)
        (void)device_did(d, d->api->event_wait(g->done[r], d->stream), "cudaStreamWaitEvent",
                         "the group");
}

/* To d->exchange, [ranks, bytes]. The first rank may still be connecting all. */
static void exchange(struct ops_device *d, const void *from, uint64_t bytes)
{
    struct ops_group *g = d->config.group;
    uint32_t by;
    while ((by = shm_load_acquire_u32(&g->exchange)) == UNDECIDED)
        d->api->give_way(); /* it has a limit there */
    if (by != BY_NCCL) {
        (d->recording ? graph_cut : group_exchange)(d, from, bytes);
        return;
    }
    void *comm = g->comms[d->config.rank];
    if (comm && device_enter(d))
        (void)comm_settle(d, comm, d->api->comm_gather(comm, from, d->exchange, bytes, d->stream),
                          "ncclAllGather");
}

/* ---- all_reduce ------------------------------------------------------------------------------ */

struct sum {
    float *x;          /* [count] */
    const float *from; /* [ranks, count] */
    uint32_t count;
    uint32_t ranks_count;
};

static __global__ void sum_kernel(struct sum s)
{
    uint32_t i = blockIdx.x * GROUP_THREADS + threadIdx.x;
    if (i >= s.count)
        return;
    float sum = s.from[i];
    for (uint32_t r = 1; r < s.ranks_count; r++)
        sum += s.from[(uint64_t)r * s.count + i];
    s.x[i] = sum;
}

void cuda_all_reduce(struct ops_device *d, const struct ops_all_reduce *a)
{
    uint64_t most = EXCHANGE_BYTES / sizeof(float);
    struct sum s = {};
    s.ranks_count = group_ranks(d);
    s.from = (const float *)(const void *)d->exchange;
    if (s.ranks_count == 1)
        return;
    for (uint64_t at = 0; at < a->count; at += most) {
        s.x = a->x + at;
        s.count = (uint32_t)(a->count - at < most ? a->count - at : most);
        exchange(d, s.x, s.count * sizeof(float));
        struct shape shape = {divided_up(s.count, GROUP_THREADS), 1, GROUP_THREADS, 0,
                              4ull * s.count * (s.ranks_count + 1)};
        launch(d, "all_reduce", sum_kernel, shape, s);
    }
}

/* ---- all_gather ------------------------------------------------------------------------------ */

struct spread {
    float *out;        /* [rows, ranks, columns] */
    const float *from; /* [ranks, rows, columns] */
    uint32_t rows_count;
    uint32_t ranks_count;
    uint32_t columns;
    uint32_t pad;
};

static __global__ void spread_kernel(struct spread s)
{
    uint64_t i = (uint64_t)blockIdx.x * GROUP_THREADS + threadIdx.x, columns = s.columns;
    uint64_t of_row = s.ranks_count * columns, row = i / of_row, rank = i % of_row / columns;
    if (row < s.rows_count)
        s.out[i] = s.from[(rank * s.rows_count + row) * columns + i % columns];
}

void cuda_all_gather(struct ops_device *d, const struct ops_all_gather *a)
{
    uint64_t row_bytes = a->columns * sizeof(float);
    struct spread s = {};
    s.ranks_count = group_ranks(d);
    s.columns = a->columns;
    s.from = s.ranks_count > 1 ? (const float *)(const void *)d->exchange : a->in;
    uint32_t rows = s.ranks_count > 1 ? (uint32_t)(EXCHANGE_BYTES / row_bytes) : a->rows_count;
    if (rows == 0 && a->rows_count)
        device_fail(d, -EINVAL, "columns that are too many", "all_gather");
    for (uint32_t row = 0; rows && row < a->rows_count; row += rows) {
        uint64_t at = (uint64_t)row * a->columns;
        s.rows_count = a->rows_count - row < rows ? a->rows_count - row : rows;
        s.out = a->out + at * s.ranks_count;
        if (s.ranks_count > 1)
            exchange(d, a->in + at, s.rows_count * row_bytes);
        uint64_t count = (uint64_t)s.rows_count * s.ranks_count * s.columns;
        struct shape shape = {divided_up(count, GROUP_THREADS), 1, GROUP_THREADS, 0, 8 * count};
        launch(d, "all_gather", spread_kernel, shape, s);
    }
}
