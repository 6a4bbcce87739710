/* kernels/cuda/attention.cu — causal attention over KV pages, for prompts and single tokens alike.
 *
 * A block takes some neighbouring rows times some query heads of one KV head: at most 64 queries, four to a
 * warp; half as many where heads are large. It goes through the places of the page table in order; at each
 * place, rows that have the same page there (ops_batch.shared_pages) form a run, and a run's page is read
 * once, into shared memory. A query meets a page in one way, whoever else is there:
 *
 *   scores   lane t has token t: sum over j = 0 .. dim-1 of q[j] k[t][j], in order; scale, cap, mask
 *   weights  e^(score - greatest of the page), summed by a butterfly; then in activation type
 *   values   lane l has columns l, l + 32, ...: sum over t = 0 .. 31 of weight[t] v[t][column], in order
 *
 * and joins it to its running state; states of spans of OPS_SPAN_PAGES pages join likewise. So the order of
 * every sum is a function of the position alone.
 *
 * Traffic: each page once a run and block, plus queries and results. A gang of more queries than a block's
 * has its shared pages read by several blocks: what a query has summed up (dim + 2 floats) must stay in
 * registers, and on one multiprocessor there are registers for these only. Such blocks are neighbours of one
 * KV head and go through the same pages at about the same time, so that the L2 cache can answer all but
 * the first; stats() counts every one. */
#include "kernels/cuda/kv.cuh"

#include <math.h>

#define WARPS 16u
#define THREADS (WARPS * WARP)

struct attention {
    struct ops_attention a;
    uint64_t *kv_bytes;
    uint32_t rows_of_block;
    uint32_t heads_of_block; /* of a group: the query heads of a KV head */
    uint32_t parts;          /* of a group */
    uint32_t queries_max;
};

/* Queries of a warp at COLUMNS a lane: as many as its registers hold. */
static __host__ __device__ constexpr uint32_t queries_of_warp(uint32_t columns)
{
    return columns <= 4 ? 4 : 2;
}

template <uint32_t COLUMNS> struct state { /* of a query; lane l: columns l + 32 i */
    float greatest;
    float sum;
    float values[COLUMNS];
};

/* Rows of K in shared memory are an odd number of words apart, so that 32 lanes read 32 banks. */
static __host__ __device__ inline uint32_t key_stride(uint32_t dim, uint32_t element_bytes)
{
    return dim + 4 / element_bytes;
}

struct block {          /* of the kernel's block; pointers are shared memory */
    void *queries;      /* [queries_max, dim] */
    uint32_t *position; /* [queries_max] of rows */
    uint32_t *shared;   /* [queries_max] */
    void *keys;         /* [32, key_stride] */
    void *values;       /* [32, dim] */
    uint32_t row_first;
    uint32_t rows_count;
    uint32_t head_first;
    uint32_t heads_count;
    uint32_t kv_head;
};

static __host__ __device__ inline uint32_t block_bytes(uint32_t queries_max, uint32_t dim,
                                                       uint32_t element_bytes)
{
    return queries_max * (dim * element_bytes + 8) +
           OPS_PAGE_TOKENS * (key_stride(dim, element_bytes) + dim) * element_bytes;
}

template <typename T> static __device__ struct block block_of(const struct attention *c)
{
    const struct ops_attention *a = &c->a;
    uint32_t dim = a->kv.head_dim, group = a->heads / a->kv.kv_heads;
    uint32_t part = blockIdx.y % c->parts * c->heads_of_block;
    struct block b;
    b.queries = gpu_shared();
    b.position = (uint32_t *)((T *)b.queries + c->queries_max * dim);
    b.shared = b.position + c->queries_max;
    b.values = b.shared + c->queries_max;
    b.keys = (T *)b.values + OPS_PAGE_TOKENS * dim;
    b.kv_head = blockIdx.y / c->parts;
    b.row_first = blockIdx.x * c->rows_of_block;
    uint32_t left = a->batch.tokens_count - b.row_first;
    b.rows_count = left < c->rows_of_block ? left : c->rows_of_block;
    b.head_first = b.kv_head * group + part;
    b.heads_count = group - part < c->heads_of_block ? group - part : c->heads_of_block;
    return b;
}

template <typename T>
static __device__ void queries_load(const struct ops_attention *a, const struct block *b)
{
    uint32_t dim = a->kv.head_dim, of_row = b->heads_count * dim;
    for (uint32_t i = threadIdx.x; i < b->rows_count * of_row; i += THREADS) {
        uint64_t head = (uint64_t)(b->row_first + i / of_row) * a->heads + b->head_first;
        ((T *)b->queries)[i] = ((const T *)a->q)[head * dim + i % of_row];
    }
    for (uint32_t i = threadIdx.x; i < b->rows_count; i += THREADS) {
        b->position[i] = a->batch.position[b->row_first + i];
        b->shared[i] = i ? a->batch.shared_pages[b->row_first + i] : 0;
    }
}

/* Vectors of 16 bytes in, words out: rows of K are not aligned to more. */
template <typename T>
static __device__ void page_load(const struct ops_attention *a, const struct block *b,
                                 uint32_t page)
{
    uint32_t dim = a->kv.head_dim, words = dim * (uint32_t)sizeof(T) / 4;
    uint32_t key_words = key_stride(dim, sizeof(T)) * (uint32_t)sizeof(T) / 4;
    const uint4 *from =
        (const uint4 *)((const T *)a->kv.data + kv_head_at(&a->kv, page, b->kv_head));
    uint32_t *keys = (uint32_t *)b->keys, *values = (uint32_t *)b->values;
    uint32_t vectors = OPS_PAGE_TOKENS * words / 4;
    for (uint32_t i = threadIdx.x; i < vectors; i += THREADS) {
        uint4 key = from[i], value = from[vectors + i];
        uint32_t *k = keys + 4 * i / words * key_words + 4 * i % words, *v = values + 4 * i;
        k[0] = key.x, k[1] = key.y, k[2] = key.z, k[3] = key.w;
        v[0] = value.x, v[1] = value.y, v[2] = value.z, v[3] = value.w;
    }
}

/* ---- a query and a page ---------------------------------------------------------------------- */

static __device__ float key_dot(const float *q, const float *k, uint32_t dim)
{
    float sum = 0;
    for (uint32_t j = 0; j < dim; j++)
        sum = fmaf(q[j], k[j], sum);
    return sum;
}

static __device__ float key_dot(const bf16 *q, const bf16 *k, uint32_t dim)
{
    const uint32_t *pairs = (const uint32_t *)k, *own = (const uint32_t *)q;
    float sum = 0;
    for (uint32_t j = 0; j < dim; j += 2) {
        uint32_t pair = pairs[j / 2], with = own[j / 2];
        sum = fmaf(__uint_as_float(with << 16), __uint_as_float(pair << 16), sum);
        sum = fmaf(__uint_as_float(with & 0xffff0000u), __uint_as_float(pair & 0xffff0000u), sum);
    }
    return sum;
}

/* Whether row of the block sees anything of the page at place, and from where to where. */
static __device__ bool row_sees(const struct ops_attention *a, const struct block *b, uint32_t row,
                                uint32_t place, uint32_t *ret_first, uint32_t *ret_last)
{
    uint32_t last = b->position[row];
    uint32_t first = a->window && last + 1 > a->window ? last + 1 - a->window : 0;
    *ret_first = first;
    *ret_last = last;
    return place * OPS_PAGE_TOKENS <= last && (place + 1) * OPS_PAGE_TOKENS > first;
}

/* Two states of different parts of a sequence into one. */
template <uint32_t COLUMNS>
static __device__ void state_join(struct state<COLUMNS> *s, float greatest, float sum,
                                  const float *values)
{
    bool rises = greatest > s->greatest;
    float factor = expf(rises ? s->greatest - greatest : greatest - s->greatest);
    float own = rises ? factor : 1.0f, its = rises ? 1.0f : factor;
#pragma unroll
    for (uint32_t i = 0; i < COLUMNS; i++)
        s->values[i] = s->values[i] * own + values[i] * its;
    s->sum = s->sum * own + sum * its;
    s->greatest = rises ? greatest : s->greatest;
}

template <uint32_t COLUMNS> static __device__ void state_clear(struct state<COLUMNS> *s)
{
    s->greatest = -INFINITY;
    s->sum = 0;
#pragma unroll
    for (uint32_t i = 0; i < COLUMNS; i++)
        s->values[i] = 0;
}

/* fmaxf passes over a NaN, but its weight is one again and shows in the sums. */
template <typename T, uint32_t COLUMNS>
static __device__ void query_page(const struct ops_attention *a, const struct block *b, const T *q,
                                  uint32_t place, uint32_t first, uint32_t last,
                                  struct state<COLUMNS> *s)
{
    uint32_t dim = a->kv.head_dim, lane = threadIdx.x % WARP;
    uint32_t position = place * OPS_PAGE_TOKENS + lane;
    const T *key = (const T *)b->keys + lane * key_stride(dim, sizeof(T));
    const T *v = (const T *)b->values;
    float score = key_dot(q, key, dim) * a->scale;
    if (a->softcap > 0)
        score = a->softcap * tanhf(score / a->softcap);
    if (position < first || position > last)
        score = -INFINITY;
    float greatest = warp_greatest(score);
    float weight = expf(score - greatest), sum = warp_sum(weight);
    float values[COLUMNS];
    weight = rounded<T>(weight);
#pragma unroll
    for (uint32_t i = 0; i < COLUMNS; i++)
        values[i] = 0;
    for (uint32_t t = 0; t < OPS_PAGE_TOKENS; t++, v += dim) {
        float w = __shfl_sync(WARP_ALL, weight, (int)t);
#pragma unroll
        for (uint32_t i = 0; i < COLUMNS; i++)
            if (lane + WARP * i < dim)
                values[i] = fmaf(w, to_f32(v[lane + WARP * i]), values[i]);
    }
    state_join(s, greatest, sum, values);
}

/* ---- the kernel ------------------------------------------------------------------------------ */

/* A run of rows and their page. spans: of this warp's queries. */
template <typename T, uint32_t COLUMNS>
static __device__ void run_page(const struct ops_attention *a, const struct block *b,
                                uint32_t place, uint32_t row_first, uint32_t row_end,
                                struct state<COLUMNS> *spans)
{
#pragma unroll
    for (uint32_t i = 0; i < queries_of_warp(COLUMNS); i++) {
        uint32_t query = threadIdx.x / WARP + WARPS * i, row = query / b->heads_count, first, last;
        if (row >= row_first && row < row_end && row_sees(a, b, row, place, &first, &last))
            query_page<T>(a, b, (const T *)b->queries + query * a->kv.head_dim, place, first, last,
                          &spans[i]);
    }
}

/* All rows of the block at one place. Returns the pages read. */
template <typename T, uint32_t COLUMNS>
static __device__ uint32_t place_run(const struct ops_attention *a, const struct block *b,
                                     uint32_t place, struct state<COLUMNS> *spans)
{
    uint32_t read = 0, first, last;
    for (uint32_t row = 0, end; row < b->rows_count; row = end) {
        bool seen = row_sees(a, b, row, place, &first, &last);
        for (end = row + 1; end < b->rows_count && b->shared[end] > place; end++)
            seen = row_sees(a, b, end, place, &first, &last) || seen;
        if (!seen)
            continue;
        __syncthreads(); /* whoever still uses the last page */
        page_load<T>(a, b, page_of(&a->batch, b->row_first + row, place));
        __syncthreads();
        run_page<T>(a, b, place, row, end, spans);
        read++;
    }
    return read;
}

template <typename T, uint32_t COLUMNS>
static __device__ void queries_store(const struct ops_attention *a, const struct block *b,
                                     const struct state<COLUMNS> *totals)
{
    uint32_t dim = a->kv.head_dim, lane = threadIdx.x % WARP;
#pragma unroll
    for (uint32_t i = 0; i < queries_of_warp(COLUMNS); i++) {
        uint32_t query = threadIdx.x / WARP + WARPS * i, row = query / b->heads_count;
        if (row >= b->rows_count)
            continue;
        uint64_t head =
            (uint64_t)(b->row_first + row) * a->heads + b->head_first + query % b->heads_count;
#pragma unroll
        for (uint32_t j = 0; j < COLUMNS; j++)
            if (lane + WARP * j < dim)
                put((T *)a->out + head * dim + lane + WARP * j,
                    totals[i].values[j] / totals[i].sum);
    }
}

template <typename T, uint32_t COLUMNS>
static __global__ void __launch_bounds__(THREADS, 1) attention_kernel(struct attention c)
{
    struct ops_attention *a = &c.a;
    struct block b = block_of<T>(&c);
    struct state<COLUMNS> totals[queries_of_warp(COLUMNS)], spans[queries_of_warp(COLUMNS)];
    uint32_t read = 0, greatest = 0;
    queries_load<T>(a, &b);
    __syncthreads();
    for (uint32_t i = 0; i < b.rows_count; i++)
        greatest = b.position[i] > greatest ? b.position[i] : greatest;
#pragma unroll
    for (uint32_t i = 0; i < queries_of_warp(COLUMNS); i++) {
        state_clear(&totals[i]);
        state_clear(&spans[i]);
    }
    uint32_t places = greatest / OPS_PAGE_TOKENS + 1;
    for (uint32_t place = 0; place < places; place++) {
        read += place_run<T>(a, &b, place, spans);
        if ((place + 1) % OPS_SPAN_PAGES && place + 1 < places)
            continue;
#pragma unroll
        for (uint32_t i = 0; i < queries_of_warp(COLUMNS); i++) {
            if (!(spans[i].sum == 0)) /* a NaN is let through */
                state_join(&totals[i], spans[i].greatest, spans[i].sum, spans[i].values);
            state_clear(&spans[i]);
        }
    }
    queries_store<T>(a, &b, totals);
    if (threadIdx.x == 0)
        atomicAdd((unsigned long long *)c.kv_bytes,
                  read * (2ull * OPS_PAGE_TOKENS * a->kv.head_dim * sizeof(T)));
}

/* ---- launch ---------------------------------------------------------------------------------- */

typedef void attention_fn(struct attention);

/* Of a lane: as few as hold the dimension, where there are such models. */
static uint32_t columns_of(uint32_t dim)
{
    uint32_t columns = (uint32_t)divided_up(dim, WARP);
    return columns <= 4 ? columns : 8;
}

/* By type, and by columns of a lane. */
static attention_fn *kernel_of(bool f32, uint32_t dim)
{
    switch (columns_of(dim)) {
    case 1:
        return f32 ? attention_kernel<float, 1> : attention_kernel<bf16, 1>;
    case 2:
        return f32 ? attention_kernel<float, 2> : attention_kernel<bf16, 2>;
    case 3:
        return f32 ? attention_kernel<float, 3> : attention_kernel<bf16, 3>;
    case 4:
        return f32 ? attention_kernel<float, 4> : attention_kernel<bf16, 4>;
    default:
        return f32 ? attention_kernel<float, 8> : attention_kernel<bf16, 8>;
    }
}

void cuda_attention(struct ops_device *d, const struct ops_attention *a)
{
    uint32_t dim = a->kv.head_dim, element = (uint32_t)act_bytes(d);
    if (!kv_dim_check(d, dim, "attention"))
        return;
    struct attention c = {};
    uint32_t group = a->heads / a->kv.kv_heads;
    c.a = *a;
    c.kv_bytes = d->kv_bytes;
    c.queries_max = WARPS * queries_of_warp(columns_of(dim));
    c.heads_of_block = group < c.queries_max ? group : c.queries_max;
    c.rows_of_block = c.queries_max / c.heads_of_block;
    c.parts = (uint32_t)divided_up(group, c.heads_of_block);
    struct shape shape = {divided_up(a->batch.tokens_count, c.rows_of_block),
                          (uint64_t)a->kv.kv_heads * c.parts, THREADS,
                          block_bytes(c.queries_max, dim, element),
                          2ull * a->batch.tokens_count * a->heads * dim * element};
    launch(d, "attention", kernel_of(d->config.activation == OPS_F32, dim), shape, c);
}
