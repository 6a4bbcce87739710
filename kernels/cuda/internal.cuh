/* kernels/cuda/internal.cuh — what the files of the CUDA backend share on the host: the device, how it
 * fails, launches.
 *
 * The first error of a device is kept; later launches do nothing, and sync() returns it for ever: after a
 * CUDA error nothing that the device holds can be believed. */
#pragma once
#include "kernels/cuda/api.h"
#include "kernels/cuda/backend.h"
#include "kernels/cuda/gpu.cuh"

#define EXCHANGE_BYTES (4u << 20) /* of each rank, at a time, in a sum over ranks */
#define SAMPLE_BLOCKS_MAX 128u    /* rows of sample() at a time */
#define ATTENTION_DIM_MAX 256u

struct graph_piece { /* of a recording: a graph, and the exchange behind it that it cannot hold */
    void *graph;
    const void *exchange_from;
    uint64_t exchange_bytes; /* 0: none */
};

struct graph {
    struct graph_piece *pieces; /* NULL: nothing is recorded */
    uint32_t pieces_count;
};

struct ops_device {
    const struct cuda_api *api;
    struct ops_config config;
    struct cuda_device_info info;
    int number; /* CUDA's, of the device */
    void *stream;
    uint8_t *memory;           /* slab, then the backend's own: */
    uint8_t *arrived;          /* [OPS_STAGE_BYTES] weights as they lay in a file */
    float *sample_work;        /* [SAMPLE_BLOCKS_MAX, vocabulary_max] */
    uint8_t *exchange;         /* [ranks, EXCHANGE_BYTES] */
    uint64_t *kv_bytes;        /* read by attention */
    uint64_t *kv_bytes_copied; /* pinned */
    void *stages;              /* [OPS_STAGES, OPS_STAGE_BYTES] pinned, while weights are loaded */
    void *stage_events[OPS_STAGES];
    struct graph graphs[OPS_GRAPHS_MAX];
    struct graph *recording; /* NULL: launches run */
    bool capturing;          /* the stream is; not once a recording has failed */
    uint64_t room_before;    /* the recording */
    struct ops_stats stats;
    int result; /* of the first failure; 0: none */
};

extern "C" struct cuda_options cuda_backend_options;
/* The table over an api; cuda_backend_options are set before. Tests bring their own api. */
extern "C" const struct ops *cuda_backend_ops(const struct cuda_api *api);
/* Whether the runtime takes the driver and has the devices; otherwise -EIO, and dynasor_cuda_failure() says
 * why. Names the backend after the first device. */
extern "C" int cuda_backend_start(void);

/* What the log calls the backend: "cuda sm_90", and more. */
void backend_name(const char *more);

/* Keeps the first failure, here and for dynasor_cuda_failure(). result says what it is. */
void device_fail(struct ops_device *d, int result, const char *call, const char *operation);
/* Makes the device the calling thread's. False: it has failed before, or does now. */
bool device_enter(struct ops_device *d);
/* Whether a call went well; otherwise fails. Of the runtime, with -ENOMEM or -EIO; of NCCL, with -ECOMM. */
bool device_did(struct ops_device *d, int error, const char *call, const char *operation);
bool device_did_comm(struct ops_device *d, int error, const char *call, const char *operation);
/* Whether any device of the process has been waited for in vain: from then on nothing is given back or
 * aborted, as each of these calls may wait for it too; the process is about to end. */
bool device_hung(void);
/* Waits until event (or, if NULL, all work) is done, at most the limit; then fails. */
bool device_wait(struct ops_device *d, void *event);

uint32_t group_ranks(const struct ops_device *d);
int group_make(const struct cuda_api *api, uint32_t ranks_count, struct ops_group **ret_group);
int group_open(struct ops_device *d); /* the first rank's connects all */
void group_close(struct ops_device *d);
void group_poll(struct ops_device *d);
/* Of ranks that exchange by copies; from: what this rank shows. Meets the others. */
void group_exchange(struct ops_device *d, const void *from, uint64_t bytes);

bool graph_begin(struct ops_device *d, uint32_t key);
void graph_end(struct ops_device *d);
bool graph_run(struct ops_device *d, uint32_t key);
/* While recording: an exchange by copies comes here. */
void graph_cut(struct ops_device *d, const void *from, uint64_t bytes);
/* Before the communicators are given up: NCCL waits for graphs that hold its launches. */
void graphs_close(struct ops_device *d);

/* The launches of ops.h, named as there. */
int cuda_group_new(uint32_t ranks_count, struct ops_group **ret_group);
void cuda_group_free(struct ops_group *group);
uint64_t cuda_matrix_bytes(enum ops_dtype activation, uint32_t n, uint32_t k);
uint64_t cuda_kv_page_bytes(enum ops_dtype activation, uint32_t head_dim);
int cuda_load(struct ops_device *d, const struct ops_load *load);
int cuda_stages_open(struct ops_device *d, void **ret_stages);
void cuda_stages_close(struct ops_device *d);
int cuda_stage_wait(struct ops_device *d, uint32_t stage);
/* clang-format off */
#define CUDA_LAUNCHES(X)                                                                           \
    X(embed) X(norm) X(gemm) X(rope_angles) X(qkv) X(attention) X(attention_full) X(gate) X(add)   \
    X(gather) X(pool) X(dot) X(row_mean) X(softcap) X(sample) X(pages_copy) X(pages_poison)        \
    X(all_reduce) X(all_gather)
/* clang-format on */
#define CUDA_LAUNCH_DECLARE(name)                                                                  \
    void cuda_##name(struct ops_device *d, const struct ops_##name *a);
CUDA_LAUNCHES(CUDA_LAUNCH_DECLARE)

/* Columns of a matrix as they lie in memory: whole vectors of 16 bytes, the rest of them 0. */
static __host__ __device__ inline uint32_t matrix_stride(uint32_t k)
{
    return (k + 7u) / 8u * 8u;
}

static inline uint64_t act_bytes(const struct ops_device *d)
{
    return d->config.activation == OPS_F32 ? 4 : 2;
}

static inline uint64_t divided_up(uint64_t a, uint64_t b)
{
    return (a + b - 1) / b;
}

struct shape {  /* of a launch */
    uint64_t x; /* blocks */
    uint64_t y;
    uint32_t threads;
    uint32_t shared_bytes;
    uint64_t bytes; /* moved, by the operation's formula */
};

void device_launch(struct ops_device *d, struct cuda_launch *launch, const struct shape *shape);

template <typename A> static void host_call(const void *kernel, const void *argument)
{
    ((void (*)(A))kernel)(*(const A *)argument);
}

/* Nothing to do in a shape without blocks. */
template <typename A>
static void launch(struct ops_device *d, const char *name, void (*kernel)(A), struct shape shape,
                   const A &argument)
{
    struct cuda_launch l = {};
    l.kernel = (const void *)kernel;
    l.host_call = host_call<A>;
    l.name = name;
    l.argument = &argument;
    l.argument_bytes = sizeof argument;
    device_launch(d, &l, &shape);
}
