/* tests/unit/test_ops.c: every operation of kernels/ops.h at every level that this machine has, against
 * kernels/ref, over random odd shapes; and what must be the same bit for bit: any number of threads, rows
 * alone or together, pages shared or not, any chunks. SEED and ROUNDS from the environment.
 *
 * An operation's case draws its arguments from a generator: with the same seed it does the same on each
 * backend, so a case is written once. Memory that it takes holds NaN before: what an operation forgets
 * to write shows. */
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/cpu/cpu.h"
#include "kernels/ref/ref.h"
#include "tests/lib/check.h"
#include "tests/lib/ground.h"

#define VALUES_MAX (4u << 20) /* floats of one case's results */

static uint64_t seed;
static uint32_t rounds;

/* ---- numbers ---------------------------------------------------------------------------------- */

static float *floats(struct rng *rng, uint64_t count)
{
    float *p = malloc(count * sizeof *p + 1);
    for (uint64_t i = 0; i < count; i++)
        p[i] = draw_float(rng);
    return p;
}

static float *put_floats(struct ground *g, struct rng *rng, uint64_t count)
{
    float *from = floats(rng, count), *to = ground_put(g, from, count * sizeof *from);
    free(from);
    return to;
}

static void *put_acts(struct ground *g, struct rng *rng, uint64_t count)
{
    float *from = floats(rng, count);
    void *to = ground_put_act(g, from, count);
    free(from);
    return to;
}

static uint32_t *put_below(struct ground *g, struct rng *rng, uint32_t count, uint32_t limit)
{
    uint32_t ids[GROUND_ROWS_MAX];
    for (uint32_t i = 0; i < count; i++)
        ids[i] = (uint32_t)rng_below(rng, limit);
    return ground_put(g, ids, count * sizeof *ids);
}

/* ---- results ---------------------------------------------------------------------------------- */

struct result {
    float *values; /* VALUES_MAX */
    uint64_t count;
};

static void keep(struct result *r, struct ground *g, const float *from, uint64_t count)
{
    CHECK(r->count + count <= VALUES_MAX, "the test keeps too much");
    CHECK(g->ops->sync(g->device) == 0, "%s broke", g->ops->name);
    g->ops->copy_out(g->device, r->values + r->count, from, count * sizeof *from);
    r->count += count;
}

static void keep_act(struct result *r, struct ground *g, const void *from, uint64_t count)
{
    CHECK(r->count + count <= VALUES_MAX, "the test keeps too much");
    ground_get_act(g, r->values + r->count, from, count);
    r->count += count;
}

static bool same_bits(const struct result *a, const struct result *b)
{
    return a->count == b->count && memcmp(a->values, b->values, a->count * sizeof(float)) == 0;
}

/* Each within relative of itself and absolute of the greatest. NaN is as far as can be. */
static void check_close(const char *what, const char *who, const struct result *got,
                        const struct result *want, double relative, double absolute)
{
    double greatest = 0;
    CHECK(got->count == want->count, "%s, %s: another number of results", what, who);
    for (uint64_t i = 0; i < want->count; i++)
        greatest =
            isfinite(want->values[i]) ? fmax(greatest, fabs((double)want->values[i])) : greatest;
    for (uint64_t i = 0; i < want->count; i++) {
        double a = got->values[i], b = want->values[i];
        bool near = a == b || fabs(a - b) <= relative * fabs(b) + absolute * greatest;
        CHECK(near, "%s, %s, result %" PRIu64 " of %" PRIu64 ": %.9g, wanted %.9g (greatest %.3g)",
              what, who, i, want->count, a, b, greatest);
    }
}

/* ---- rows and matrices ------------------------------------------------------------------------ */

static uint32_t draw_f16(struct rng *rng)
{
    uint64_t bits = rng_next(rng);
    uint32_t exponent = draw(rng, 0, 9) == 0 ? 0 : draw(rng, 8, 15); /* some subnormal */
    return (uint32_t)(bits & 0x83ff) | exponent << 10;
}

/* From a source of any type and stride, in two pieces. */
static struct ops_matrix matrix_new(struct ground *g, struct rng *rng, uint32_t n, uint32_t k)
{
    struct ops_matrix m = {.n = n, .k = k};
    uint64_t stride = k + draw(rng, 0, 5), count = n * stride;
    enum ops_dtype type = draw(rng, 0, 2);
    float *source = floats(rng, count);
    uint16_t *halves = malloc(count * sizeof *halves);
    for (uint64_t i = 0; i < count; i++)
        halves[i] = type == OPS_F16 ? (uint16_t)draw_f16(rng) : bf16_of(source[i]);
    m.data = ground_take_filled(g, g->ops->matrix_bytes(g->activation, n, k), 0);
    uint32_t cut = draw(rng, 0, n);
    for (uint32_t piece = 0; piece < 2; piece++) {
        uint64_t first = piece ? cut : 0;
        struct ops_load load = {.matrix = m,
                                .row_first = (uint32_t)first,
                                .rows_count = piece ? n - cut : cut,
                                .host_source = type == OPS_F32
                                                   ? (const void *)(source + first * stride)
                                                   : (const void *)(halves + first * stride),
                                .source_dtype = type,
                                .source_stride = stride};
        CHECK(load.rows_count == 0 || g->ops->load(g->device, &load) == 0, "load");
    }
    free(source);
    free(halves);
    return m;
}

static void case_embed(struct ground *g, struct rng *rng, struct result *r)
{
    uint32_t n = draw(rng, 1, 200), k = draw(rng, 1, 130), count = draw(rng, 1, 40);
    struct ops_embed a = {.table = matrix_new(g, rng, n, k),
                          .token = put_below(g, rng, count, n),
                          .tokens_count = count,
                          .scale = draw(rng, 0, 1) ? 1 : 11.5f};
    a.out = ground_take(g, (uint64_t)count * k * sizeof(float));
    g->ops->embed(g->device, &a);
    keep(r, g, a.out, (uint64_t)count * k);
}

static void case_norm(struct ground *g, struct rng *rng, struct result *r)
{
    uint32_t rows = draw(rng, 1, 20), columns = draw(rng, 1, 300);
    uint64_t count = (uint64_t)rows * columns;
    bool in_place = draw(rng, 0, 1);
    float *in = put_floats(g, rng, count);
    struct ops_norm a = {.out = ground_take(g, count * 4),
                         .out_f32 = in_place ? in : ground_take(g, count * sizeof(float)),
                         .add_to = put_floats(g, rng, count),
                         .in = in,
                         .weight = put_floats(g, rng, columns),
                         .bias = draw(rng, 0, 1) ? put_floats(g, rng, columns) : NULL,
                         .rows_count = rows,
                         .columns = columns,
                         .epsilon = 1e-3f,
                         .kind = draw(rng, 0, 1)};
    g->ops->norm(g->device, &a);
    keep_act(r, g, a.out, count);
    keep(r, g, a.out_f32, count);
    keep(r, g, a.add_to, count);
}

/* Half of the time beside a multiple of 16: tiles and vectors end there. */
static uint32_t draw_edge(struct rng *rng, uint32_t least, uint32_t most)
{
    uint32_t edge = 16 * draw(rng, 1, most / 16 ? most / 16 : 1) + draw(rng, 0, 2) - 1;
    return draw(rng, 0, 1) && edge >= least && edge <= most ? edge : draw(rng, least, most);
}

/* Now and then so many rows and columns that a backend cuts them. */
static void case_gemm(struct ground *g, struct rng *rng, struct result *r)
{
    bool large = draw(rng, 0, 5) == 0;
    uint32_t rows = large ? draw_edge(rng, 100, 600) : draw_edge(rng, 1, 70);
    uint32_t n = draw_edge(rng, 1, large ? 70 : 100), k = draw_edge(rng, 1, large ? 700 : 300);
    struct ops_gemm a = {.x = put_acts(g, rng, (uint64_t)rows * k),
                         .w = matrix_new(g, rng, n, k),
                         .bias = draw(rng, 0, 1) ? put_floats(g, rng, n) : NULL,
                         .rows_count = rows,
                         .accumulate = draw(rng, 0, 1)};
    a.y = a.accumulate ? put_floats(g, rng, (uint64_t)rows * n)
                       : ground_take(g, (uint64_t)rows * n * sizeof(float));
    g->ops->gemm(g->device, &a);
    keep(r, g, a.y, (uint64_t)rows * n);
}

static void case_rope_angles(struct ground *g, struct rng *rng, struct result *r)
{
    uint32_t count = draw(rng, 1, 40), pairs = draw(rng, 1, 70);
    uint64_t all = (uint64_t)count * pairs;
    struct ops_rope_angles a = {.cosine = ground_take(g, all * sizeof(float)),
                                .sine = ground_take(g, all * sizeof(float)),
                                .position = put_below(g, rng, count, 4000),
                                .inverse_frequency = put_floats(g, rng, pairs),
                                .tokens_count = count,
                                .pairs_count = pairs,
                                .scale = 1.25f};
    g->ops->rope_angles(g->device, &a);
    keep(r, g, a.cosine, all);
    keep(r, g, a.sine, all);
}

static void case_gate(struct ground *g, struct rng *rng, struct result *r)
{
    uint32_t rows = draw(rng, 1, 20), columns = draw(rng, 1, 200);
    struct ops_gate a = {.out = ground_take(g, 4ull * rows * columns),
                         .rows_count = rows,
                         .columns = columns,
                         .kind = draw(rng, 0, 2),
                         .gated = draw(rng, 0, 1)};
    a.in = put_floats(g, rng, (uint64_t)rows * columns * (a.gated ? 2 : 1));
    g->ops->gate(g->device, &a);
    keep_act(r, g, a.out, (uint64_t)rows * columns);
}

static void case_elements(struct ground *g, struct rng *rng, struct result *r)
{
    uint64_t count = draw(rng, 1, draw(rng, 0, 1) ? 100 : 40000);
    struct ops_add add = {.to = put_floats(g, rng, count), .count = count};
    add.from = put_floats(g, rng, count);
    g->ops->add(g->device, &add);
    keep(r, g, add.to, count);
    struct ops_softcap cap = {.x = add.to, .count = count, .cap = draw(rng, 0, 1) ? 30 : 0.5f};
    g->ops->softcap(g->device, &cap);
    keep(r, g, cap.x, count);
}

static void case_readouts(struct ground *g, struct rng *rng, struct result *r)
{
    uint32_t rows = draw(rng, 1, 30), columns = draw(rng, 1, 300), slots = 7;
    uint32_t slot[30], first[30];
    for (uint32_t i = 0; i < rows; i++) {
        slot[i] = draw(rng, 0, 3) == 0 ? OPS_NONE : draw(rng, 0, slots - 1);
        first[i] = draw(rng, 0, 3) == 0;
    }
    const float *in = put_floats(g, rng, (uint64_t)rows * columns);
    struct ops_gather gather = {.out = ground_take(g, 4ull * rows * columns),
                                .in = in,
                                .row = put_below(g, rng, rows, rows),
                                .rows_count = rows,
                                .columns = columns};
    g->ops->gather(g->device, &gather);
    keep(r, g, gather.out, (uint64_t)rows * columns);
    struct ops_pool pool = {.sum = put_floats(g, rng, (uint64_t)slots * columns),
                            .in = in,
                            .slot = ground_put(g, slot, rows * sizeof *slot),
                            .first = ground_put(g, first, rows * sizeof *first),
                            .rows_count = rows,
                            .columns = columns};
    g->ops->pool(g->device, &pool);
    keep(r, g, pool.sum, (uint64_t)slots * columns);
    struct ops_dot dot = {.out = ground_take(g, 4ull * rows),
                          .in = in,
                          .vector = put_floats(g, rng, columns),
                          .rows_count = rows,
                          .columns = columns};
    g->ops->dot(g->device, &dot);
    keep(r, g, dot.out, rows);
    struct ops_row_mean mean = {
        .out = ground_take(g, 4ull * rows), .in = in, .rows_count = rows, .columns = columns};
    g->ops->row_mean(g->device, &mean);
    keep(r, g, mean.out, rows);
}

static const uint32_t dims[] = {16, 32, 40, 64, 80, 96, 128, 256};

static void case_attention_full(struct ground *g, struct rng *rng, struct result *r)
{
    uint32_t first[200], count[200], rows = 0, heads = draw(rng, 1, 4);
    uint32_t dim = dims[draw(rng, 0, COUNT_OF(dims) - 1)];
    for (uint32_t segment = draw(rng, 1, 4); segment > 0; segment--) {
        uint32_t at = rows, length = draw(rng, 1, 50);
        for (uint32_t i = 0; i < length; i++, rows++) {
            first[rows] = at;
            count[rows] = length;
        }
    }
    uint64_t values = (uint64_t)rows * heads * dim;
    struct ops_attention_full a = {.out = ground_take(g, 4 * values),
                                   .qkv = put_floats(g, rng, 3 * values),
                                   .row_first = ground_put(g, first, rows * sizeof *first),
                                   .row_count = ground_put(g, count, rows * sizeof *count),
                                   .tokens_count = rows,
                                   .heads = heads,
                                   .head_dim = dim,
                                   .scale = 1.0f / sqrtf((float)dim)};
    g->ops->attention_full(g->device, &a);
    keep_act(r, g, a.out, values);
}

/* ---- worlds: sequences with a common prefix, and their pages ---------------------------------- */

#define SEQS_MAX 6u
#define STRIDE_MAX 100u
#define QUERIES_MAX 200u

struct world {
    uint64_t content; /* of keys, values and queries */
    uint32_t seqs;
    uint32_t prefix_pages; /* of sequence 0, in all the others too */
    uint32_t length[SEQS_MAX];
    uint32_t stride;
    uint32_t table[SEQS_MAX * STRIDE_MAX];
    uint32_t pages_count;
    uint32_t heads;
    uint32_t kv_heads;
    uint32_t dim;
    uint32_t rotary_dim;
    bool norm;
    uint32_t window;
    float softcap;
    float scale;      /* large: later pages have scores far above those of the first */
    struct ops_kv kv; /* on the ground where it was built */
};

struct query {
    uint32_t seq;
    uint32_t position;
};

/* long_: over more than a span of pages, of few and small heads. */
static struct world world_draw(struct rng *rng, bool long_)
{
    struct world w = {.content = rng_next(rng), .seqs = draw(rng, 1, SEQS_MAX)};
    w.prefix_pages = long_ ? draw(rng, 55, 70) : draw(rng, 0, 5);
    w.kv_heads = draw(rng, 1, long_ ? 2 : 8);
    w.heads = w.kv_heads * draw(rng, 1, long_ ? 3 : 8);
    w.dim = dims[draw(rng, 0, long_ ? 3 : COUNT_OF(dims) - 1)];
    w.rotary_dim = draw(rng, 0, w.dim / 2) * 2;
    w.norm = draw(rng, 0, 1);
    w.window = draw(rng, 0, 2) ? 0 : draw(rng, 1, long_ ? 2500 : 150);
    w.softcap = draw(rng, 0, 2) ? 0 : 2.5f;
    w.scale = (draw(rng, 0, 2) ? 1.5f : 6.0f) / sqrtf((float)w.dim);
    for (uint32_t s = 0; s < w.seqs; s++) {
        w.length[s] = w.prefix_pages * OPS_PAGE_TOKENS + draw(rng, 1, 90);
        uint32_t pages = (w.length[s] + OPS_PAGE_TOKENS - 1) / OPS_PAGE_TOKENS;
        w.stride = pages > w.stride ? pages : w.stride;
    }
    w.stride += 1; /* a page nobody has */
    CHECK(w.stride <= STRIDE_MAX, "stride");
    w.pages_count = w.prefix_pages + w.seqs * (w.stride - w.prefix_pages);
    uint32_t order[SEQS_MAX * STRIDE_MAX];
    for (uint32_t i = 0; i < w.pages_count; i++) {
        uint32_t j = (uint32_t)rng_below(rng, i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    for (uint32_t s = 0; s < w.seqs; s++)
        for (uint32_t i = 0; i < w.stride; i++)
            w.table[s * w.stride + i] =
                order[i < w.prefix_pages ? i : i + s * (w.stride - w.prefix_pages)];
    return w;
}

/* What a row holds depends on nothing but where it is in its sequence. */
static void row_fill(const struct world *w, struct query q, uint32_t kind, float *to,
                     uint32_t count)
{
    uint32_t owner = q.position < w->prefix_pages * OPS_PAGE_TOKENS && kind == 0 ? 0 : q.seq;
    struct rng rng = {w->content ^ ((uint64_t)owner << 40) ^ ((uint64_t)q.position << 8) ^ kind};
    for (uint32_t i = 0; i < count; i++)
        to[i] = draw_float(&rng);
}

static uint32_t shared_of(const struct world *w, struct query a, struct query b)
{
    uint32_t least = a.position < b.position ? a.position : b.position, i = 0;
    while (i <= least / OPS_PAGE_TOKENS &&
           w->table[a.seq * w->stride + i] == w->table[b.seq * w->stride + i])
        i++;
    return i;
}

static struct ops_batch batch_put(struct ground *g, const struct world *w, const struct query *q,
                                  uint32_t count, bool share)
{
    uint32_t position[GROUND_ROWS_MAX], seq[GROUND_ROWS_MAX], shared[GROUND_ROWS_MAX];
    for (uint32_t i = 0; i < count; i++) {
        position[i] = q[i].position;
        seq[i] = q[i].seq;
        shared[i] = share && i ? shared_of(w, q[i - 1], q[i]) : 0;
    }
    return (struct ops_batch){.tokens_count = count,
                              .position = ground_put(g, position, count * sizeof *position),
                              .seq = ground_put(g, seq, count * sizeof *seq),
                              .shared_pages = ground_put(g, shared, count * sizeof *shared),
                              .pages = ground_put(g, w->table, 4ull * w->seqs * w->stride),
                              .pages_stride = w->stride};
}

/* Keys and values of rows to their pages; their rotated queries to r. */
static void rows_write(struct ground *g, const struct world *w, const struct query *q,
                       uint32_t count, struct result *r)
{
    uint64_t used = g->used;
    uint32_t width = (w->heads + 2 * w->kv_heads) * w->dim, half = w->rotary_dim / 2;
    float *qkv = malloc(sizeof(float) * count * width);
    float *angles = malloc(sizeof(float) * 2 * count * half + 1);
    for (uint32_t i = 0; i < count; i++) {
        row_fill(w, q[i], 0, qkv + (uint64_t)i * width, width);
        for (uint32_t j = 0; j < half; j++) {
            double angle = (double)q[i].position / (1 + j);
            angles[(uint64_t)i * half + j] = (float)cos(angle);
            angles[(uint64_t)(count + i) * half + j] = (float)sin(angle);
        }
    }
    struct rng rng = {w->content};
    uint64_t queries = (uint64_t)count * w->heads * w->dim;
    struct ops_qkv a = {
        .q = ground_take(g, 4 * queries),
        .qkv = ground_put(g, qkv, sizeof(float) * count * width),
        .q_norm = w->norm ? put_floats(g, &rng, w->dim) : NULL,
        .k_norm = w->norm ? put_floats(g, &rng, w->dim) : NULL,
        .cosine = ground_put(g, angles, sizeof(float) * count * half),
        .sine = ground_put(g, angles + (uint64_t)count * half, sizeof(float) * count * half),
        .kv = w->kv,
        .batch = batch_put(g, w, q, count, true),
        .heads = w->heads,
        .rotary_dim = w->rotary_dim,
        .norm_epsilon = 1e-5f};
    g->ops->qkv(g->device, &a);
    if (r)
        keep_act(r, g, a.q, queries);
    free(qkv);
    free(angles);
    g->used = used;
}

/* All pages NaN, then every position of every sequence, rows_most at a time. */
static void world_build(struct ground *g, struct world *w, uint32_t rows_most, struct result *r)
{
    uint32_t all[SEQS_MAX * STRIDE_MAX], rows = 0;
    struct query q[GROUND_ROWS_MAX];
    uint64_t page = g->ops->kv_page_bytes(g->activation, w->dim) * w->kv_heads;
    w->kv = (struct ops_kv){.data = ground_take_filled(g, page * w->pages_count, 0),
                            .pages_count = w->pages_count,
                            .kv_heads = w->kv_heads,
                            .head_dim = w->dim};
    for (uint32_t i = 0; i < w->pages_count; i++)
        all[i] = i;
    g->ops->pages_poison(
        g->device,
        &(struct ops_pages_poison){.kv = w->kv, .host_pages = all, .pages_count = w->pages_count});
    for (uint32_t s = 0; s < w->seqs; s++)
        for (uint32_t p = s ? w->prefix_pages * OPS_PAGE_TOKENS : 0; p < w->length[s]; p++) {
            q[rows++] = (struct query){.seq = s, .position = p};
            if (rows == rows_most) {
                rows_write(g, w, q, rows, r);
                rows = 0;
            }
        }
    if (rows)
        rows_write(g, w, q, rows, r);
}

static void attend(struct ground *g, const struct world *w, const struct query *q, uint32_t count,
                   bool share, uint32_t window, struct result *r)
{
    uint64_t used = g->used, width = (uint64_t)w->heads * w->dim;
    float *queries = malloc(sizeof(float) * count * width);
    for (uint32_t i = 0; i < count; i++)
        row_fill(w, q[i], 1, queries + i * width, (uint32_t)width);
    struct ops_attention a = {.out = ground_take(g, 4 * count * width),
                              .q = ground_put_act(g, queries, count * width),
                              .kv = w->kv,
                              .batch = batch_put(g, w, q, count, share),
                              .heads = w->heads,
                              .window = window,
                              .scale = w->scale,
                              .softcap = w->softcap};
    for (uint32_t i = 0; i < count; i++)
        a.position_max = q[i].position > a.position_max ? q[i].position : a.position_max;
    g->ops->attention(g->device, &a);
    keep_act(r, g, a.out, count * width);
    free(queries);
    g->used = used;
}

/* Some of the last positions of each sequence, in order: a batch of chunks and single steps. */
static uint32_t queries_draw(const struct world *w, struct rng *rng, struct query *q)
{
    uint32_t rows = 0;
    for (uint32_t s = 0; s < w->seqs; s++) {
        uint32_t most = w->length[s] < 33 ? w->length[s] : 33;
        uint32_t count = draw(rng, 0, 1) ? 1 : draw(rng, 1, most);
        for (uint32_t i = 0; i < count; i++)
            q[rows++] = (struct query){.seq = s, .position = w->length[s] - count + i};
    }
    return rows;
}

static void world_case(struct ground *g, struct rng *rng, struct result *r, bool long_)
{
    struct query q[QUERIES_MAX];
    struct world w = world_draw(rng, long_);
    world_build(g, &w, draw(rng, 1, 300), NULL);
    uint32_t count = queries_draw(&w, rng, q);
    attend(g, &w, q, count, true, w.window, r);
}

static void case_attention(struct ground *g, struct rng *rng, struct result *r)
{
    world_case(g, rng, r, false);
}

static void case_attention_long(struct ground *g, struct rng *rng, struct result *r)
{
    world_case(g, rng, r, true);
}

/* Queries as they come; values by rows that see only themselves. Keys: by attention's cases. */
static void case_qkv(struct ground *g, struct rng *rng, struct result *r)
{
    struct world w = world_draw(rng, false);
    struct query q[QUERIES_MAX];
    w.seqs = w.seqs < 2 ? w.seqs : 2; /* all their queries are kept */
    w.heads = w.kv_heads * draw(rng, 1, 2);
    world_build(g, &w, draw(rng, 1, 40), r);
    uint32_t count = queries_draw(&w, rng, q);
    attend(g, &w, q, count, true, 1, r);
}

/* A copied page serves as the first one did, up to where it was valid. */
static void case_pages_copy(struct ground *g, struct rng *rng, struct result *r)
{
    struct query q[OPS_PAGE_TOKENS];
    struct world w = world_draw(rng, false);
    w.length[0] = OPS_PAGE_TOKENS * (w.length[0] / OPS_PAGE_TOKENS) + draw(rng, 1, 32);
    w.stride = STRIDE_MAX;
    w.seqs = 1;
    w.pages_count = STRIDE_MAX + 1;
    uint32_t last = (w.length[0] - 1) / OPS_PAGE_TOKENS, count = 0;
    for (uint32_t i = 0; i < STRIDE_MAX; i++)
        w.table[i] = i;
    world_build(g, &w, 300, NULL);
    struct ops_page_copy copy = {
        .from = last, .to = STRIDE_MAX, .valid_tokens = draw(rng, 1, (w.length[0] - 1) % 32 + 1)};
    g->ops->pages_copy(
        g->device, &(struct ops_pages_copy){.kv = w.kv, .host_copies = &copy, .copies_count = 1});
    CHECK(g->ops->sync(g->device) == 0, "sync");
    w.table[last] = STRIDE_MAX;
    for (; count < copy.valid_tokens; count++)
        q[count] = (struct query){.position = last * OPS_PAGE_TOKENS + count};
    attend(g, &w, q, count, true, 0, r);
    /* A row of the whole page: keys and values of the rest are 0. */
    q[0].position = last * OPS_PAGE_TOKENS + OPS_PAGE_TOKENS - 1;
    attend(g, &w, q, 1, true, 0, r);
}

/* ---- every case at every level ---------------------------------------------------------------- */

static const struct ops_case {
    const char *name;
    void (*run)(struct ground *g, struct rng *rng, struct result *r);
    uint32_t rounds; /* of each ROUNDS 10 */
    /* Bounds: of float32 results, and where activations are bf16. An activation has 8 bits, so the
     * last of them may fall either way: 2^-8 of itself, and 2^-9 of what it was made of. */
    double f32;
    double bf16_relative;
    double bf16_absolute;
} cases[] = {
    {"embed", case_embed, 10, 0, 0, 0},
    {"norm", case_norm, 20, 2e-6, 0.0079, 1e-6},
    {"gemm", case_gemm, 60, 5e-6, 0, 5e-6},
    {"rope_angles", case_rope_angles, 10, 2e-7, 0, 2e-7},
    {"gate", case_gate, 20, 2e-6, 0.0079, 2e-6},
    {"elements", case_elements, 10, 1e-6, 0, 1e-6},
    {"readouts", case_readouts, 10, 3e-6, 0, 3e-6},
    {"attention_full", case_attention_full, 10, 3e-6, 0.0079, 3e-6},
    {"qkv", case_qkv, 15, 3e-6, 0.0079, 3e-6},
    {"attention", case_attention, 25, 1e-5, 0.0079, 0.004},
    {"attention_long", case_attention_long, 4, 1e-5, 0.0079, 0.004},
    {"pages_copy", case_pages_copy, 6, 1e-5, 0.0079, 0.004},
};

static void case_run(const struct ops_case *c, struct ground *g, uint64_t number, struct result *r)
{
    struct rng rng = {number};
    g->used = 0;
    r->count = 0;
    c->run(g, &rng, r);
}

static struct result result_new(void)
{
    struct result r = {.values = malloc(VALUES_MAX * sizeof(float))};
    CHECK(r.values, "no memory");
    return r;
}

#define THREADS_MOST 3u

static void type_run(enum ops_dtype activation)
{
    struct result want = result_new(), first = result_new(), other = result_new();
    struct ground ref = ground_open(ref_ops(), activation, 1);
    struct ground ground[CPU_LEVEL_COUNT][THREADS_MOST];
    for (uint32_t level = 0; level < CPU_LEVEL_COUNT && cpu_ops(level); level++)
        for (uint32_t t = 0; t < THREADS_MOST; t++)
            ground[level][t] = ground_open(cpu_ops(level), activation, t + 1);
    for (uint32_t i = 0; i < COUNT_OF(cases); i++) {
        const struct ops_case *c = &cases[i];
        uint32_t count = (c->rounds * rounds + 9) / 10;
        for (uint32_t round = 0; round < count; round++) {
            uint64_t number = seed + i * UINT64_C(1000003) + round * UINT64_C(7919);
            case_run(c, &ref, number, &want);
            for (uint32_t level = 0; level < CPU_LEVEL_COUNT && cpu_ops(level); level++) {
                const char *name = cpu_ops(level)->name;
                bool bf16 = activation == OPS_BF16;
                case_run(c, &ground[level][0], number, &first);
                check_close(c->name, name, &first, &want, bf16 ? c->bf16_relative : c->f32,
                            bf16 ? c->bf16_absolute : c->f32);
                uint32_t t = 1 + round % (THREADS_MOST - 1);
                case_run(c, &ground[level][t], number, &other);
                CHECK(same_bits(&first, &other), "%s, %s: %u threads differ from one", c->name,
                      name, t + 1);
            }
        }
        printf("%s, %s: %u rounds\n", c->name, activation == OPS_BF16 ? "bf16" : "float32", count);
    }
    for (uint32_t level = 0; level < CPU_LEVEL_COUNT && cpu_ops(level); level++)
        for (uint32_t t = 0; t < THREADS_MOST; t++)
            ground_close(&ground[level][t]);
    ground_close(&ref);
    free(want.values);
    free(first.values);
    free(other.values);
}

static void float32_is_close_to_the_reference(void **state)
{
    (void)state;
    type_run(OPS_F32);
}

static void bf16_is_close_to_the_reference(void **state)
{
    (void)state;
    type_run(OPS_BF16);
}

/* ---- the same bits in any company ------------------------------------------------------------- */

/* Rows by sequence, the sequences in any order: some follow one they share less with. */
static void queries_shuffle(struct rng *rng, const struct query *q, uint32_t count,
                            struct query *to, uint32_t *from)
{
    uint32_t order[SEQS_MAX], rows = 0;
    for (uint32_t i = 0; i < SEQS_MAX; i++) {
        uint32_t j = (uint32_t)rng_below(rng, i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    for (uint32_t s = 0; s < SEQS_MAX; s++)
        for (uint32_t i = 0; i < count; i++)
            if (q[i].seq == order[s]) {
                to[rows] = q[i];
                from[rows++] = i;
            }
}

static void attention_alone_or_together(struct ground *g, bool long_, struct rng *rng,
                                        struct result *alone, struct result *together)
{
    struct query q[QUERIES_MAX], mixed[QUERIES_MAX];
    uint32_t from[QUERIES_MAX];
    struct world w = world_draw(rng, long_);
    uint64_t width = (uint64_t)w.heads * w.dim;
    const char *name = g->ops->name;
    g->used = 0;
    world_build(g, &w, draw(rng, 1, 300), NULL);
    uint32_t count = queries_draw(&w, rng, q);
    alone->count = 0;
    for (uint32_t i = 0; i < count; i++)
        attend(g, &w, q + i, 1, true, w.window, alone);
    for (uint32_t share = 0; share < 2; share++) {
        together->count = 0;
        attend(g, &w, q, count, share, w.window, together);
        CHECK(same_bits(alone, together), "%s: rows together (shared: %u) differ", name, share);
        together->count = 0;
        for (uint32_t i = 0, rows; i < count; i += rows) {
            rows = draw(rng, 1, count - i);
            attend(g, &w, q + i, rows, share, w.window, together);
        }
        CHECK(same_bits(alone, together), "%s: rows in chunks (shared: %u) differ", name, share);
        queries_shuffle(rng, q, count, mixed, from);
        together->count = 0;
        attend(g, &w, mixed, count, share, w.window, together);
        for (uint32_t i = 0; i < count; i++)
            CHECK(memcmp(together->values + i * width, alone->values + from[i] * width,
                         width * sizeof(float)) == 0,
                  "%s: row %u in another order (shared: %u) differs", name, i, share);
    }
    g->used = 0; /* the same pages, written in other chunks */
    world_build(g, &w, draw(rng, 1, 50), NULL);
    together->count = 0;
    attend(g, &w, q, count, true, w.window, together);
    CHECK(same_bits(alone, together), "%s: pages written in other chunks differ", name);
}

static void gemm_alone_or_together(struct ground *g, struct rng *rng, struct result *alone,
                                   struct result *together)
{
    uint32_t rows = draw_edge(rng, 2, draw(rng, 0, 1) ? 40 : 300), n = draw_edge(rng, 1, 70);
    uint32_t k = draw_edge(rng, 1, 700);
    g->used = 0;
    alone->count = together->count = 0;
    struct ops_gemm a = {.x = put_acts(g, rng, (uint64_t)rows * k),
                         .w = matrix_new(g, rng, n, k),
                         .rows_count = rows};
    a.y = ground_take(g, (uint64_t)rows * n * sizeof(float));
    g->ops->gemm(g->device, &a);
    keep(together, g, a.y, (uint64_t)rows * n);
    const uint8_t *x = a.x;
    for (uint32_t i = 0, some; i < rows; i += some) {
        some = draw(rng, 0, 1) ? 1 : draw(rng, 1, rows - i);
        a.x = x + (uint64_t)i * k * ground_act_bytes(g);
        a.rows_count = some;
        g->ops->gemm(g->device, &a);
        keep(alone, g, a.y, (uint64_t)some * n);
    }
    CHECK(same_bits(alone, together), "%s: %u x %u x %u: products of fewer rows differ",
          g->ops->name, rows, n, k);
}

static void company_changes_no_bit(void **state)
{
    (void)state;
    struct result alone = result_new(), together = result_new();
    struct rng rng = {seed};
    for (uint32_t i = 0; i < 2 * CPU_LEVEL_COUNT; i++) {
        if (!cpu_ops(i / 2))
            continue;
        struct ground g = ground_open(cpu_ops(i / 2), i % 2 ? OPS_BF16 : OPS_F32, 2);
        for (uint32_t round = 0; round < rounds; round++) {
            attention_alone_or_together(&g, round % 8 == 7, &rng, &alone, &together);
            gemm_alone_or_together(&g, &rng, &alone, &together);
        }
        ground_close(&g);
    }
    free(alone.values);
    free(together.values);
}

static uint64_t bytes_read(struct ground *g, const struct world *w, const struct query *q,
                           uint32_t count, bool share, struct result *r)
{
    struct ops_stats before, after;
    r->count = 0;
    g->ops->stats(g->device, &before);
    attend(g, w, q, count, share, 0, r);
    g->ops->stats(g->device, &after);
    return after.kv_bytes_read - before.kv_bytes_read;
}

/* One row of each sequence, as many as a block of any backend holds (64 queries of a KV head, 32 where heads are
 * wide): shared, every page counts once; not shared, once for each row. */
static void shared_pages_are_read_once(void **state)
{
    (void)state;
    struct result r = result_new();
    struct rng rng = {seed};
    for (uint32_t i = 0; i < 2 * CPU_LEVEL_COUNT * rounds; i++) {
        uint32_t level = i / 2 % CPU_LEVEL_COUNT;
        if (!cpu_ops(level))
            continue;
        struct ground g = ground_open(cpu_ops(level), i % 2 ? OPS_BF16 : OPS_F32, 2);
        struct world w = world_draw(&rng, false);
        struct query q[SEQS_MAX];
        uint64_t all = 0, bytes = w.kv_heads * g.ops->kv_page_bytes(g.activation, w.dim);
        world_build(&g, &w, 300, NULL);
        uint32_t most = (w.dim > 128 ? 32 : 64) / (w.heads / w.kv_heads);
        uint32_t rows = w.seqs < most ? w.seqs : most;
        for (uint32_t s = 0; s < rows; s++) {
            q[s] = (struct query){.seq = s, .position = w.length[s] - 1};
            all += q[s].position / OPS_PAGE_TOKENS + 1;
        }
        uint64_t unique = all - (rows - 1) * w.prefix_pages;
        uint64_t shared = bytes_read(&g, &w, q, rows, true, &r);
        uint64_t apart = bytes_read(&g, &w, q, rows, false, &r);
        CHECK(shared == unique * bytes && apart == all * bytes,
              "%s: read %" PRIu64 " and %" PRIu64 " bytes of %" PRIu64 " and %" PRIu64, g.ops->name,
              shared, apart, unique * bytes, all * bytes);
        ground_close(&g);
    }
    free(r.values);
}

/* ---- ranks ------------------------------------------------------------------------------------ */

#define RANKS_MOST 4u
#define RANK_VALUES 1000u

struct rank {
    struct ops_group *group;
    uint32_t number;
    uint32_t count;
    float in[RANK_VALUES];
    float sums[RANK_VALUES];
    float gathered[RANK_VALUES * RANKS_MOST];
};

static void *rank_run(void *argument)
{
    struct rank *r = argument;
    const struct ops *ops = cpu_ops(CPU_SCALAR);
    struct ops_config config = {.slab_bytes = 1u << 20,
                                .rank = r->number,
                                .threads_count = 1,
                                .cpu_first = OPS_NONE,
                                .group = r->group,
                                .rows_max = 1};
    struct ground g = {.ops = ops};
    CHECK(ops->open(&config, &g.device) == 0, "rank %u does not open", r->number);
    float *x = ground_put(&g, r->in, r->count * sizeof *x);
    float *all = (float *)(void *)((uint8_t *)x + 8192);
    ops->all_gather(g.device, &(struct ops_all_gather){
                                  .out = all, .in = x, .rows_count = 2, .columns = r->count / 2});
    ops->all_reduce(g.device, &(struct ops_all_reduce){.x = x, .count = r->count});
    CHECK(ops->sync(g.device) == 0, "sync");
    ops->copy_out(g.device, r->sums, x, sizeof r->sums);
    ops->copy_out(g.device, r->gathered, all, sizeof r->gathered);
    ops->close(g.device);
    return NULL;
}

static void ranks_add_and_gather(void **state)
{
    (void)state;
    static struct rank rank[RANKS_MOST];
    struct rng rng = {seed};
    for (uint32_t ranks = 1; ranks <= RANKS_MOST; ranks++) {
        pthread_t thread[RANKS_MOST];
        struct ops_group *group;
        uint32_t columns = draw(&rng, 1, RANK_VALUES / 2), count = 2 * columns;
        CHECK(cpu_ops(CPU_SCALAR)->group_new(ranks, &group) == 0, "group");
        for (uint32_t i = 0; i < ranks; i++) {
            rank[i] = (struct rank){.group = group, .number = i, .count = count};
            for (uint32_t j = 0; j < count; j++)
                rank[i].in[j] = draw_float(&rng);
            CHECK(pthread_create(&thread[i], NULL, rank_run, &rank[i]) == 0, "thread");
        }
        for (uint32_t i = 0; i < ranks; i++)
            (void)pthread_join(thread[i], NULL); /* it was created just now */
        for (uint32_t j = 0; j < count; j++) {
            float sum = rank[0].in[j];
            for (uint32_t i = 1; i < ranks; i++)
                sum += rank[i].in[j];
            for (uint32_t i = 0; i < ranks; i++) {
                uint32_t from = j / columns * ranks * columns + j % columns;
                CHECK(rank[i].sums[j] == sum, "%u ranks: sum %u on rank %u", ranks, j, i);
                for (uint32_t k = 0; k < ranks; k++)
                    CHECK(rank[i].gathered[from + k * columns] == rank[k].in[j],
                          "%u ranks: value %u of %u on rank %u", ranks, j, k, i);
            }
        }
        cpu_ops(CPU_SCALAR)->group_free(group);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(float32_is_close_to_the_reference),
        cmocka_unit_test(bf16_is_close_to_the_reference),
        cmocka_unit_test(company_changes_no_bit),
        cmocka_unit_test(shared_pages_are_read_once),
        cmocka_unit_test(ranks_add_and_gather),
    };
    seed = check_number("SEED", now_ns());
    rounds = (uint32_t)check_number("ROUNDS", 2);
    printf("SEED=%" PRIu64 " ROUNDS=%" PRIu32 "\n", seed, rounds);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
