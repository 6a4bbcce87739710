/* tests/unit/test_cuda_wide.c: operations of the CUDA backend other than products at the shapes of models, at 1, at
 * primes and at the greatest, against kernels/ref, into memory full of NaN, each twice with the same bits.
 * (tests/unit/test_cuda_ops.c has small odd shapes, and any company.) Here over the emulation, with few rows and
 * short contexts, as it takes a million times a GPU's time; tests/gpu/test_wide.c runs the same with more, and
 * tests/gpu/test_shapes.c products. SEED from the environment. */
/* timeout: 300 */
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/ref/ref.h"
#include "tests/gpu/emulate/emulated.h"
#include "tests/lib/ground.h"

#ifndef ON_GPU
#define ON_GPU 0
#endif

#if EMULATION_OFF && !ON_GPU
int main(void)
{
    check_skip(EMULATION_SKIPPED);
}
#else

#if ON_GPU
const struct ops *wide_ops(void);
#define ROWS 61u
#define CONTEXT_MOST 8191u
#define ELEMENTS 4000037u
#define SEGMENT 509u
#else
#define ROWS 2u
#define CONTEXT_MOST 97u
#define ELEMENTS 200003u
#define SEGMENT 37u
#endif
#define VALUES_MAX (8u << 20)
#define VOCABULARY_MAX 262144u

static uint64_t seed;

struct out {
    float *values; /* [VALUES_MAX] */
    uint64_t count;
};

static struct ground wide_open(const struct ops *ops, enum ops_dtype activation)
{
    struct ground g = {.ops = ops, .activation = activation};
    struct ops_config config = {.slab_bytes = GROUND_BYTES,
                                .activation = activation,
                                .threads_count = 1,
                                .cpu_first = OPS_NONE,
                                .rows_max = GROUND_ROWS_MAX,
                                .vocabulary_max = VOCABULARY_MAX,
                                .k_max = 32768};
    CHECK(ops->open(&config, &g.device) == 0, "%s does not open", ops->name);
    return g;
}

static float *put(struct ground *g, struct rng *rng, uint64_t count)
{
    float *from = malloc(count * sizeof *from + 1);
    CHECK(from, "no memory");
    for (uint64_t i = 0; i < count; i++)
        from[i] = draw_float(rng);
    float *to = ground_put(g, from, count * sizeof *from);
    free(from);
    return to;
}

static void keep(struct out *o, struct ground *g, const float *from, uint64_t count)
{
    CHECK(o->count + count <= VALUES_MAX && g->ops->sync(g->device) == 0, "%s", g->ops->name);
    g->ops->copy_out(g->device, o->values + o->count, from, count * sizeof *from);
    o->count += count;
}

static void keep_act(struct out *o, struct ground *g, const void *from, uint64_t count)
{
    CHECK(o->count + count <= VALUES_MAX, "the test keeps too much");
    ground_get_act(g, o->values + o->count, from, count);
    o->count += count;
}

static uint32_t *put_below(struct ground *g, struct rng *rng, uint32_t count, uint32_t limit)
{
    uint32_t ids[GROUND_ROWS_MAX];
    for (uint32_t i = 0; i < count; i++)
        ids[i] = (uint32_t)rng_below(rng, limit);
    return ground_put(g, ids, count * sizeof *ids);
}

/* ---- rows ------------------------------------------------------------------------------------- */

/* 1, a prime, Qwen2.5 0.5B, Llama 8B, 70B, the widest that any operation is given. */
static const uint32_t widths[] = {1, 1021, 896, 4096, 8192, 16384};

static void case_embed(struct ground *g, struct rng *rng, struct out *o)
{
    for (uint32_t i = 0; i < COUNT_OF(widths); i++) {
        uint32_t n = 97, k = widths[i];
        struct ops_embed a = {.table = {.n = n, .k = k}, .tokens_count = ROWS, .scale = 1};
        float *source = malloc(4ull * n * k);
        CHECK(source, "no memory");
        for (uint64_t j = 0; j < (uint64_t)n * k; j++)
            source[j] = (float)(int8_t)rng_next(rng) / 16; /* exact in bf16 */
        a.table.data = ground_take_filled(g, g->ops->matrix_bytes(g->activation, n, k), 0);
        struct ops_load load = {.matrix = a.table,
                                .rows_count = n,
                                .host_source = source,
                                .source_dtype = OPS_F32,
                                .source_stride = k};
        CHECK(g->ops->load(g->device, &load) == 0, "load");
        a.token = put_below(g, rng, ROWS, n);
        a.out = ground_take(g, 4ull * ROWS * k);
        g->ops->embed(g->device, &a);
        keep(o, g, a.out, (uint64_t)ROWS * k);
        free(source);
        g->used = 0;
    }
}

static void case_norm(struct ground *g, struct rng *rng, struct out *o)
{
    for (uint32_t i = 0; i < 2 * COUNT_OF(widths); i++) {
        uint32_t columns = widths[i / 2];
        uint64_t count = (uint64_t)ROWS * columns;
        struct ops_norm a = {.out = ground_take(g, count * 4),
                             .out_f32 = ground_take(g, count * 4),
                             .in = put(g, rng, count),
                             .weight = put(g, rng, columns),
                             .bias = i % 2 ? put(g, rng, columns) : NULL,
                             .rows_count = ROWS,
                             .columns = columns,
                             .epsilon = 1e-3f,
                             .kind = i % 2};
        g->ops->norm(g->device, &a);
        keep(o, g, a.out_f32, count);
        keep_act(o, g, a.out, count);
        g->used = 0;
    }
}

static void case_readouts(struct ground *g, struct rng *rng, struct out *o)
{
    for (uint32_t i = 0; i < COUNT_OF(widths); i++) {
        uint32_t columns = widths[i];
        uint64_t count = (uint64_t)ROWS * columns;
        const float *in = put(g, rng, count);
        uint32_t first[GROUND_ROWS_MAX] = {1};
        float *out = ground_take(g, 4 * count);
        g->ops->gather(g->device, &(struct ops_gather){.out = out,
                                                       .in = in,
                                                       .row = put_below(g, rng, ROWS, ROWS),
                                                       .rows_count = ROWS,
                                                       .columns = columns});
        keep(o, g, out, count);
        g->ops->pool(g->device, &(struct ops_pool){.sum = out,
                                                   .in = in,
                                                   .slot = put_below(g, rng, ROWS, 1),
                                                   .first = ground_put(g, first, 4 * ROWS),
                                                   .rows_count = ROWS,
                                                   .columns = columns});
        keep(o, g, out, columns);
        g->ops->dot(g->device, &(struct ops_dot){.out = out,
                                                 .in = in,
                                                 .vector = put(g, rng, columns),
                                                 .rows_count = ROWS,
                                                 .columns = columns});
        keep(o, g, out, ROWS);
        g->ops->row_mean(
            g->device,
            &(struct ops_row_mean){.out = out, .in = in, .rows_count = ROWS, .columns = columns});
        keep(o, g, out, ROWS);
        g->used = 0;
    }
}

/* 1, a prime, Qwen2.5 0.5B, Llama 8B, 70B. */
static void case_gate(struct ground *g, struct rng *rng, struct out *o)
{
    static const uint32_t inner[] = {1, 4861, 4864, 14336, 28672};
    for (uint32_t i = 0; i < COUNT_OF(inner); i++) {
        uint64_t count = (uint64_t)ROWS * inner[i];
        struct ops_gate a = {.out = ground_take(g, 4 * count),
                             .in = put(g, rng, 2 * count),
                             .rows_count = ROWS,
                             .columns = inner[i],
                             .kind = i % 3,
                             .gated = i != 1};
        g->ops->gate(g->device, &a);
        keep_act(o, g, a.out, count);
        g->used = 0;
    }
}

static void case_elements(struct ground *g, struct rng *rng, struct out *o)
{
    static const uint32_t counts[] = {1, ELEMENTS};
    for (uint32_t i = 0; i < COUNT_OF(counts); i++) {
        float *to = put(g, rng, counts[i]);
        g->ops->add(g->device, &(struct ops_add){
                                   .to = to, .from = put(g, rng, counts[i]), .count = counts[i]});
        g->ops->softcap(g->device, &(struct ops_softcap){.x = to, .count = counts[i], .cap = 30});
        keep(o, g, to, counts[i]);
        g->used = 0;
    }
}

/* Up to the last position of the longest context that is accepted; angles below 1, which are exact enough. */
static void case_angles(struct ground *g, struct rng *rng, struct out *o)
{
    static const uint32_t pairs[] = {1, 32, 61, 64, 128};
    for (uint32_t i = 0; i < COUNT_OF(pairs); i++) {
        uint64_t count = (uint64_t)ROWS * pairs[i];
        float frequency[128];
        for (uint32_t j = 0; j < pairs[i]; j++)
            frequency[j] = 7e-6f / (float)(1 + j);
        struct ops_rope_angles a = {.cosine = ground_take(g, 4 * count),
                                    .sine = ground_take(g, 4 * count),
                                    .position = put_below(g, rng, ROWS, 131072),
                                    .inverse_frequency = ground_put(g, frequency, 4 * pairs[i]),
                                    .tokens_count = ROWS,
                                    .pairs_count = pairs[i],
                                    .scale = 1};
        g->ops->rope_angles(g->device, &a);
        keep(o, g, a.cosine, count);
        keep(o, g, a.sine, count);
        g->used = 0;
    }
}

/* ---- attention -------------------------------------------------------------------------------- */

static const struct
    heads { /* Llama 8B, Qwen2.5 0.5B, Gemma 2 2B, Falcon 7B, a multiple of 8, the least */
    uint32_t heads, kv_heads, dim, context;
} models[] = {{32, 8, 128, CONTEXT_MOST},
              {14, 2, 64, CONTEXT_MOST},
              {8, 4, 256, CONTEXT_MOST / 2},
              {71, 1, 64, CONTEXT_MOST / 2},
              {3, 3, 88, CONTEXT_MOST},
              {1, 1, 8, 2081},
              {5, 1, 16, 1}};

/* Keys and values of all positions, chunk by chunk, then attention of the last rows of the sequence. */
static void attention_run(struct ground *g, struct rng *rng, const struct heads *m, struct out *o)
{
    enum { CHUNK = 64 };
    uint32_t width = (m->heads + 2 * m->kv_heads) * m->dim, pages = m->context / 32 + 1;
    uint32_t table[CONTEXT_MOST / 32 + 80], zero[CHUNK] = {0}, position[CHUNK], rows = 0;
    uint64_t page = g->ops->kv_page_bytes(g->activation, m->dim) * m->kv_heads;
    struct ops_kv kv = {.data = ground_take(g, page * pages),
                        .pages_count = pages,
                        .kv_heads = m->kv_heads,
                        .head_dim = m->dim};
    for (uint32_t i = 0; i < pages; i++)
        table[i] = pages - 1 - i;
    const uint32_t *list = ground_put(g, table, 4ull * pages);
    uint64_t used = g->used;
    void *q = NULL;
    struct ops_batch batch = {0};
    for (uint32_t first = 0; first < m->context; first += rows) {
        rows = m->context - first < CHUNK ? m->context - first : CHUNK;
        g->used = used;
        for (uint32_t i = 0; i < rows; i++)
            position[i] = first + i;
        batch = (struct ops_batch){.tokens_count = rows,
                                   .position = ground_put(g, position, 4ull * rows),
                                   .seq = ground_put(g, zero, 4ull * rows),
                                   .shared_pages = ground_put(g, zero, 4ull * rows),
                                   .pages = list,
                                   .pages_stride = pages};
        q = ground_take(g, 4ull * rows * m->heads * m->dim);
        g->ops->qkv(g->device, &(struct ops_qkv){.q = q,
                                                 .qkv = put(g, rng, (uint64_t)rows * width),
                                                 .cosine = put(g, rng, (uint64_t)rows * m->dim / 2),
                                                 .sine = put(g, rng, (uint64_t)rows * m->dim / 2),
                                                 .kv = kv,
                                                 .batch = batch,
                                                 .heads = m->heads,
                                                 .rotary_dim = m->dim});
    }
    uint64_t count = (uint64_t)rows * m->heads * m->dim;
    struct ops_attention a = {.out = ground_take(g, 4 * count),
                              .q = q,
                              .kv = kv,
                              .batch = batch,
                              .heads = m->heads,
                              .position_max = m->context - 1,
                              .scale = 1 / sqrtf((float)m->dim)};
    g->ops->attention(g->device, &a);
    keep_act(o, g, q, count);
    keep_act(o, g, a.out, count);
    g->used = 0;
}

static void case_attention(struct ground *g, struct rng *rng, struct out *o)
{
    for (uint32_t i = 0; i < COUNT_OF(models); i++)
        attention_run(g, rng, &models[i], o);
}

/* Encoders of BERT's sizes. */
static void case_attention_full(struct ground *g, struct rng *rng, struct out *o)
{
    static const uint32_t sizes[][3] = {/* heads, head_dim, rows of the segment */
                                        {12, 64, SEGMENT},
                                        {12, 32, SEGMENT},
                                        {16, 64, 1}};
    for (uint32_t i = 0; i < COUNT_OF(sizes); i++) {
        uint32_t rows = sizes[i][2], first[SEGMENT] = {0}, all[SEGMENT];
        uint64_t count = (uint64_t)rows * sizes[i][0] * sizes[i][1];
        for (uint32_t j = 0; j < rows; j++)
            all[j] = rows;
        struct ops_attention_full a = {.out = ground_take(g, 4 * count),
                                       .qkv = put(g, rng, 3 * count),
                                       .row_first = ground_put(g, first, 4ull * rows),
                                       .row_count = ground_put(g, all, 4ull * rows),
                                       .tokens_count = rows,
                                       .heads = sizes[i][0],
                                       .head_dim = sizes[i][1],
                                       .scale = 1 / sqrtf((float)sizes[i][1])};
        g->ops->attention_full(g->device, &a);
        keep_act(o, g, a.out, count);
        g->used = 0;
    }
}

/* ---- sampling: what does not hang on a draw ---------------------------------------------------- */

static void case_sample(struct ground *g, struct rng *rng, struct out *o)
{
    static const uint32_t sizes[] = {1, 31991, 128256, 151936, VOCABULARY_MAX};
    for (uint32_t i = 0; i < COUNT_OF(sizes); i++) {
        struct ops_sample_row rows[ROWS];
        struct ops_sampled sampled[ROWS];
        for (uint32_t r = 0; r < ROWS; r++)
            rows[r] = (struct ops_sample_row){.top_p = 1,
                                              .repetition = 1,
                                              .forced_token = OPS_NONE,
                                              .confidence_count = sizes[i] < 64 ? 1 : 64};
        struct ops_sample a = {.out = ground_take(g, sizeof sampled),
                               .logits = put(g, rng, (uint64_t)ROWS * sizes[i]),
                               .rows = ground_put(g, rows, sizeof rows),
                               .rows_count = ROWS,
                               .vocabulary = sizes[i]};
        g->ops->sample(g->device, &a);
        CHECK(g->ops->sync(g->device) == 0, "sample broke");
        g->ops->copy_out(g->device, sampled, a.out, sizeof sampled);
        for (uint32_t r = 0; r < ROWS; r++) {
            const struct ops_sampled *s = &sampled[r];
            const float values[] = {
                /* a token counts digit by digit: no tolerance lets another by */
                (float)(s->token & 63) / 8,
                (float)(s->token >> 6 & 63) / 8,
                (float)(s->token >> 12) / 8,
                s->log_probability,
                s->entropy,
                s->confidence,
                sizes[i] > 1 ? s->top_gap : 0};
            CHECK(!s->numeric, "%s: row %u of %u is no number", g->ops->name, r, sizes[i]);
            memcpy(o->values + o->count, values, sizeof values);
            o->count += COUNT_OF(values);
        }
        g->used = 0;
    }
}

/* ---- every case ------------------------------------------------------------------------------- */

static const struct wide_case {
    const char *name;
    void (*run)(struct ground *g, struct rng *rng, struct out *o);
    /* Of the greatest, in float32; where activations are bf16, of itself, and of the greatest. Sums over more
     * have wider bounds than in tests/unit/test_ops.c. */
    double f32, bf16_relative, bf16_absolute;
} cases[] = {
    {"embed", case_embed, 0, 0, 0},
    {"norm", case_norm, 4e-6, 0.0079, 4e-6},
    {"readouts", case_readouts, 1e-5, 0, 1e-5},
    {"gate", case_gate, 2e-6, 0.0079, 2e-6},
    {"elements", case_elements, 1e-6, 0, 1e-6},
    {"rope_angles", case_angles, 4e-7, 0, 4e-7},
    {"attention", case_attention, 1e-5, 0.0079, 0.004},
    {"attention_full", case_attention_full, 1e-5, 0.0079, 1e-5},
    {"sample", case_sample, 1e-5, 0, 1e-5},
};

static struct out out_new(void)
{
    struct out o = {.values = malloc(VALUES_MAX * sizeof(float))};
    CHECK(o.values, "no memory");
    return o;
}

static void case_run(const struct wide_case *c, struct ground *g, uint64_t number, struct out *o)
{
    struct rng rng = {number};
    o->count = 0;
    g->used = 0;
    c->run(g, &rng, o);
}

static void compare(const struct wide_case *c, bool bf16, const struct out *got,
                    const struct out *want)
{
    double greatest = 0, worst = 0;
    double relative = bf16 ? c->bf16_relative : 0, absolute = bf16 ? c->bf16_absolute : c->f32;
    CHECK(got->count == want->count, "%s: another number of results", c->name);
    for (uint64_t i = 0; i < want->count; i++)
        greatest = fmax(greatest, fabs((double)want->values[i]));
    for (uint64_t i = 0; i < want->count; i++) {
        double a = got->values[i], b = want->values[i], off = fabs(a - b);
        CHECK(off <= relative * fabs(b) + absolute * greatest,
              "%s, result %" PRIu64 " of %" PRIu64 ": %.9g, wanted %.9g (greatest %.3g)", c->name,
              i, want->count, a, b, greatest);
        worst = fmax(worst, off);
    }
    printf("%s, %s: %" PRIu64 " results, %.2g of the greatest at most\n", c->name,
           bf16 ? "bf16" : "float32", want->count, greatest > 0 ? worst / greatest : 0);
}

static void type_run(enum ops_dtype activation)
{
    struct out want = out_new(), first = out_new(), second = out_new();
#if ON_GPU
    const struct ops *ops = wide_ops();
#else
    static const int device[1] = {0};
    fake_reset(
        &(struct fake_config){.seed = seed, .devices_count = 1, .shared_bytes_max = 99u << 10});
    const struct ops *ops = emulated_ops(1, device);
#endif
    struct ground ref = wide_open(ref_ops(), activation), g = wide_open(ops, activation);
    for (uint32_t i = 0; i < COUNT_OF(cases); i++) {
        case_run(&cases[i], &ref, seed + i, &want);
        case_run(&cases[i], &g, seed + i, &first);
        compare(&cases[i], activation == OPS_BF16, &first, &want);
        case_run(&cases[i], &g, seed + i, &second);
        CHECK(memcmp(first.values, second.values, first.count * sizeof(float)) == 0,
              "%s: twice differs", cases[i].name);
    }
    ground_close(&ref);
    ground_close(&g);
    free(want.values);
    free(first.values);
    free(second.values);
}

static void wide_in_float32(void **state)
{
    (void)state;
    type_run(OPS_F32);
}

static void wide_in_bf16(void **state)
{
    (void)state;
    type_run(OPS_BF16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wide_in_float32),
        cmocka_unit_test(wide_in_bf16),
    };
    seed = check_number("SEED", now_ns());
    printf("SEED=%" PRIu64 "\n", seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
