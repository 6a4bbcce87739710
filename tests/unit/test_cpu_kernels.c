/* tests/unit/test_cpu_kernels.c: the CPU kernels alone, every level of this machine, both activation
 * types. Products, norms, gates and the small ones are close to float64 sums made here, over shapes that
 * fill no register; a row's bits are the same alone, in any company, at any place and on any number of
 * threads. Behind every tensor lie NaNs: who reads them shows it in a result, who writes there is seen. */
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

#include "kernels/cpu/cpu.h"
#include "tests/lib/check.h"

#define SLAB_BYTES (48u << 20)
#define GUARD_BYTES 256u
#define GUARDS_MAX 32u
#define ROWS_MAX 545u /* beyond the 512 rows whose sums an AMX product keeps */
#define K_MAX 2100u   /* beyond its slice of k */

static struct rng rng;

/* ---- ground: a device and tensors on it ------------------------------------------------------ */

struct ground {
    const struct ops *ops;
    struct ops_device *device;
    enum ops_dtype type;
    uint8_t *slab;
    uint64_t used;
    uint8_t *guards[GUARDS_MAX];
    uint32_t guards_count;
};

/* False: this machine has no such level. */
static bool ground_open(struct ground *g, enum cpu_level level, enum ops_dtype type,
                        uint32_t threads_count)
{
    *g = (struct ground){.ops = cpu_ops(level), .type = type};
    if (!g->ops)
        return false;
    struct ops_config config = {.slab_bytes = SLAB_BYTES,
                                .activation = type,
                                .threads_count = threads_count,
                                .cpu_first = OPS_NONE,
                                .rows_max = ROWS_MAX,
                                .vocabulary_max = 1,
                                .k_max = K_MAX};
    CHECK(g->ops->open(&config, &g->device) == 0, "%s does not open", g->ops->name);
    g->slab = g->ops->slab(g->device);
    return true;
}

static void guards_check(const struct ground *g)
{
    for (uint32_t i = 0; i < g->guards_count; i++)
        for (uint32_t b = 0; b < GUARD_BYTES; b++)
            CHECK(g->guards[i][b] == 0xff, "%s wrote behind tensor %u", g->ops->name, i);
}

static void ground_close(struct ground *g)
{
    guards_check(g);
    g->ops->close(g->device);
}

/* Tensors begin aligned; the guard begins at their last byte. */
static void *place(struct ground *g, uint64_t bytes)
{
    uint8_t *at = g->slab + g->used;
    CHECK(g->used + bytes + 2 * GUARD_BYTES <= SLAB_BYTES, "the test's slab is too small");
    CHECK(g->guards_count < GUARDS_MAX, "too many tensors");
    memset(at + bytes, 0xff, GUARD_BYTES);
    g->guards[g->guards_count++] = at + bytes;
    g->used += (bytes + GUARD_BYTES + OPS_ALIGN_BYTES - 1) & ~(uint64_t)(OPS_ALIGN_BYTES - 1);
    return at;
}

static float *place_floats(struct ground *g, const float *from, uint64_t count)
{
    float *at = place(g, count * sizeof *at);
    if (from)
        g->ops->copy_in(g->device, at, from, count * sizeof *at);
    return at;
}

static uint64_t type_bytes(enum ops_dtype type)
{
    return type == OPS_F32 ? 4 : 2;
}

static uint32_t bits_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* To 8 significant bits, ties to even, by arithmetic: not how the kernels do it. */
static float rounded(enum ops_dtype type, float f)
{
    int exponent;
    if (type == OPS_F32 || !isfinite(f) || f == 0)
        return f;
    (void)frexpf(f, &exponent);
    exponent = exponent < -125 ? -125 : exponent;
    return (float)ldexp(rint(ldexp((double)f, 8 - exponent)), exponent - 8);
}

static void *place_rows(struct ground *g, const float *from, uint64_t count)
{
    void *at = place(g, count * type_bytes(g->type));
    for (uint64_t i = 0; i < count; i++) {
        if (g->type == OPS_F32)
            ((float *)at)[i] = from[i];
        else
            ((uint16_t *)at)[i] = (uint16_t)(bits_of(rounded(g->type, from[i])) >> 16);
    }
    return at;
}

static float row_value(const struct ground *g, const void *rows, uint64_t i)
{
    return g->type == OPS_F32 ? ((const float *)rows)[i]
                              : float_of((uint32_t)((const uint16_t *)rows)[i] << 16);
}

static struct ops_matrix place_matrix(struct ground *g, const float *from, uint32_t n, uint32_t k)
{
    struct ops_matrix m = {.data = place(g, g->ops->matrix_bytes(g->type, n, k)), .n = n, .k = k};
    struct ops_load load = {.matrix = m,
                            .rows_count = n,
                            .host_source = from,
                            .source_dtype = OPS_F32,
                            .source_stride = k};
    CHECK(g->ops->load(g->device, &load) == 0, "load fails");
    return m;
}

static float *floats_random(uint64_t count, float middle)
{
    float *f = malloc(count * sizeof *f);
    CHECK(f, "no memory");
    for (uint64_t i = 0; i < count; i++)
        f[i] = middle + (float)((double)(int64_t)rng_next(&rng) * 0x1p-63);
    return f;
}

static void near(double got, double want, double bound, const char *name, const char *what,
                 uint64_t at)
{
    CHECK(fabs(got - want) <= bound, "%s: %s [%" PRIu64 "] is %.9g, not %.9g (bound %.3g)", name,
          what, at, got, want, bound);
}

/* Every level, both types: calls test with a ground of threads_count threads. */
static void on_each(uint32_t threads_count, void (*test)(struct ground *g))
{
    struct ground g;
    for (enum cpu_level level = CPU_SCALAR; level < CPU_LEVEL_COUNT; level++)
        for (enum ops_dtype type = OPS_F32; type <= OPS_BF16; type++)
            if (ground_open(&g, level, type, threads_count)) {
                test(&g);
                ground_close(&g);
            }
}

/* ---- products -------------------------------------------------------------------------------- */

#define PRODUCT_ROWS 130u
static const struct {
    uint32_t n;
    uint32_t k;
} shapes[] = {{1, 1}, {33, 31}, {64, 64}, {97, 100}, {15, 333}, {31, K_MAX}};
static const uint32_t product_rows[] = {1, 2, 15, 16, 17, 31, 33, 64, PRODUCT_ROWS};

struct product {
    float *x, *w, *bias, *old;
    double *sum, *size; /* of products, and of their magnitudes */
};

static struct product product_new(enum ops_dtype type, uint32_t n, uint32_t k)
{
    struct product p = {.x = floats_random((uint64_t)PRODUCT_ROWS * k, 0),
                        .w = floats_random((uint64_t)n * k, 0),
                        .bias = floats_random(n, 0),
                        .old = floats_random((uint64_t)PRODUCT_ROWS * n, 0),
                        .sum = calloc((uint64_t)PRODUCT_ROWS * n, sizeof *p.sum),
                        .size = calloc((uint64_t)PRODUCT_ROWS * n, sizeof *p.size)};
    CHECK(p.sum && p.size, "no memory");
    for (uint64_t i = 0; i < (uint64_t)n * k; i++)
        p.w[i] = rounded(type, p.w[i]);
    for (uint64_t i = 0; i < (uint64_t)PRODUCT_ROWS * k; i++)
        p.x[i] = rounded(type, p.x[i]);
    for (uint32_t row = 0; row < PRODUCT_ROWS; row++)
        for (uint32_t column = 0; column < n; column++)
            for (uint32_t j = 0; j < k; j++) {
                double one =
                    (double)p.x[(uint64_t)row * k + j] * (double)p.w[(uint64_t)column * k + j];
                p.sum[row * n + column] += one;
                p.size[row * n + column] += fabs(one);
            }
    return p;
}

static void product_free(struct product *p)
{
    free(p->x);
    free(p->w);
    free(p->bias);
    free(p->old);
    free(p->sum);
    free(p->size);
}

static void product_check(struct ground *g, const struct product *p, uint32_t n, uint32_t k)
{
    struct ops_gemm a = {.w = place_matrix(g, p->w, n, k)};
    const float *bias = place_floats(g, p->bias, n);
    for (uint32_t i = 0; i < COUNT_OF(product_rows); i++) {
        a.rows_count = product_rows[i];
        a.x = place_rows(g, p->x, (uint64_t)a.rows_count * k);
        a.y = place_floats(g, p->old, (uint64_t)a.rows_count * n);
        a.bias = rng_below(&rng, 2) ? bias : NULL;
        a.accumulate = rng_below(&rng, 2);
        g->ops->gemm(g->device, &a);
        CHECK(g->ops->sync(g->device) == 0, "sync fails");
        for (uint32_t at = 0; at < a.rows_count * n; at++) {
            double more =
                (a.bias ? (double)p->bias[at % n] : 0) + (a.accumulate ? (double)p->old[at] : 0);
            near(a.y[at], p->sum[at] + more, 0x1p-23 * (4 + sqrt(k)) * (p->size[at] + fabs(more)),
                 g->ops->name, "product", at);
        }
    }
}

static void products_are_close_to_float64_over_odd_shapes(void **state)
{
    (void)state;
    for (uint32_t s = 0; s < COUNT_OF(shapes); s++)
        for (enum ops_dtype type = OPS_F32; type <= OPS_BF16; type++) {
            struct product p = product_new(type, shapes[s].n, shapes[s].k);
            struct ground g;
            for (enum cpu_level level = CPU_SCALAR; level < CPU_LEVEL_COUNT; level++)
                if (ground_open(&g, level, type, 2)) {
                    product_check(&g, &p, shapes[s].n, shapes[s].k);
                    ground_close(&g);
                }
            product_free(&p);
        }
}

/* Bias and old values are added behind the sum: one rounding each, in this order. */
static void bias_and_old_values_are_added_after_the_sum(struct ground *g)
{
    enum { N = 40, K = 70, ROWS = 19 };
    float *x = floats_random(ROWS * K, 0), *w = floats_random(N * K, 0);
    float *bias = floats_random(N, 0), *old = floats_random(ROWS * N, 0);
    struct ops_gemm a = {.w = place_matrix(g, w, N, K), .rows_count = ROWS};
    a.x = place_rows(g, x, ROWS * K);
    float *plain = a.y = place_floats(g, old, ROWS * N);
    g->ops->gemm(g->device, &a);
    a.y = place_floats(g, old, ROWS * N);
    a.bias = place_floats(g, bias, N);
    a.accumulate = true;
    g->ops->gemm(g->device, &a);
    for (uint32_t i = 0; i < ROWS * N; i++) {
        float sum = plain[i] + bias[i % N];
        CHECK(a.y[i] == old[i] + sum, "%s: %.9g + (%.9g + %.9g) became %.9g", g->ops->name,
              (double)old[i], (double)plain[i], (double)bias[i % N], (double)a.y[i]);
    }
    free(x), free(w), free(bias), free(old);
}

static void products_add_bias_and_old_values_after_the_sum(void **state)
{
    (void)state;
    on_each(2, bias_and_old_values_are_added_after_the_sum);
}

/* Scratch that held NaNs, and a row of NaNs in the same product, change no other row. */
static void nans_stay_where_they_are(struct ground *g)
{
    enum { N = 40, K = 45, ROWS = 37, BROKEN = 18 };
    float *x = floats_random(ROWS * K, 0), *w = floats_random(N * K, 0);
    float *wide = floats_random(N * K_MAX, 0);
    struct ops_gemm a = {.w = place_matrix(g, w, N, K)}, b = {.w = place_matrix(g, wide, N, K_MAX)};
    uint8_t *rows = place_rows(g, x, ROWS * K);
    void *broken = place(g, ROWS * K_MAX * type_bytes(g->type));
    memset(broken, 0xff, ROWS * K_MAX * type_bytes(g->type));
    float *first = place_floats(g, NULL, ROWS * N), *then = place_floats(g, NULL, ROWS * N);
    a.x = rows;
    b.x = broken;
    b.y = place_floats(g, NULL, ROWS * N);
    for (uint32_t count = 5; count <= ROWS; count += ROWS - 5) { /* both ways of packing */
        a.rows_count = b.rows_count = count;
        a.y = first;
        g->ops->gemm(g->device, &a);
        g->ops->gemm(g->device, &b);
        a.y = then;
        g->ops->gemm(g->device, &a);
        CHECK(!memcmp(first, then, count * N * sizeof *first),
              "%s, type %d: NaNs of the product before are in this one of %u rows", g->ops->name,
              g->type, count);
    }
    memset(rows + BROKEN * K * type_bytes(g->type), 0xff, K * type_bytes(g->type));
    g->ops->gemm(g->device, &a);
    for (uint32_t i = 0; i < ROWS * N; i++)
        CHECK(i / N == BROKEN ? isnan(then[i]) : bits_of(then[i]) == bits_of(first[i]),
              "%s, type %d: row %u beside a row of NaNs", g->ops->name, g->type, i / N);
    free(x), free(w), free(wide);
}

static void products_keep_nans_to_their_row(void **state)
{
    (void)state;
    on_each(2, nans_stay_where_they_are);
}

#define SAME_N 97u
static const uint32_t same_rows[] = {2, 15, 16, 17, 31, 33, 64, 127, 128, 129, ROWS_MAX};

/* alone: the rows one by one, on one thread. */
static void rows_alone(enum cpu_level level, enum ops_dtype type, const float *x, const float *w,
                       uint32_t rows_count, float *ret_alone)
{
    struct ground g;
    CHECK(ground_open(&g, level, type, 1), "level is gone");
    struct ops_gemm a = {.w = place_matrix(&g, w, SAME_N, K_MAX), .rows_count = 1};
    const uint8_t *rows = place_rows(&g, x, (uint64_t)rows_count * K_MAX);
    a.y = place_floats(&g, NULL, SAME_N);
    for (uint32_t row = 0; row < rows_count; row++) {
        a.x = rows + row * K_MAX * type_bytes(type);
        g.ops->gemm(g.device, &a);
        g.ops->copy_out(g.device, ret_alone + row * SAME_N, a.y, SAME_N * sizeof(float));
    }
    ground_close(&g);
}

static void rows_together(enum cpu_level level, enum ops_dtype type, const float *x, const float *w,
                          uint32_t threads_count, const float *alone)
{
    struct ground g;
    CHECK(ground_open(&g, level, type, threads_count), "level is gone");
    struct ops_gemm a = {.w = place_matrix(&g, w, SAME_N, K_MAX)};
    const uint8_t *rows = place_rows(&g, x, (uint64_t)ROWS_MAX * K_MAX);
    a.y = place_floats(&g, NULL, ROWS_MAX * SAME_N);
    for (uint32_t i = 0; i < COUNT_OF(same_rows); i++) {
        a.rows_count = same_rows[i];
        uint32_t first = (uint32_t)rng_below(&rng, ROWS_MAX - a.rows_count + 1);
        a.x = rows + first * K_MAX * type_bytes(type);
        g.ops->gemm(g.device, &a);
        for (uint32_t row = 0; row < a.rows_count; row++)
            CHECK(
                !memcmp(a.y + row * SAME_N, alone + (first + row) * SAME_N, SAME_N * sizeof(float)),
                "%s, type %d: row %u of %u on %u threads differs from the same row alone",
                g.ops->name, type, row, a.rows_count, threads_count);
    }
    ground_close(&g);
}

static void products_of_a_row_have_the_same_bits_in_any_company(void **state)
{
    float *x = floats_random((uint64_t)ROWS_MAX * K_MAX, 0);
    float *w = floats_random(SAME_N * K_MAX, 0), *alone = calloc(ROWS_MAX * SAME_N, sizeof *alone);
    (void)state;
    CHECK(alone, "no memory");
    for (enum cpu_level level = CPU_SCALAR; level < CPU_LEVEL_COUNT; level++)
        for (enum ops_dtype type = OPS_F32; cpu_ops(level) && type <= OPS_BF16; type++) {
            rows_alone(level, type, x, w, ROWS_MAX, alone);
            for (uint32_t threads = 1; threads <= 3; threads++)
                rows_together(level, type, x, w, threads, alone);
        }
    free(x);
    free(w);
    free(alone);
}

/* ---- loading --------------------------------------------------------------------------------- */

static float half_value(uint32_t half)
{
    int exponent = (int)(half >> 10 & 31), mantissa = (int)(half & 1023);
    float sign = half & 0x8000 ? -1.0f : 1.0f;
    if (exponent == 31)
        return mantissa ? NAN : sign * INFINITY;
    return sign *
           ldexpf((float)(exponent ? mantissa + 1024 : mantissa), exponent ? exponent - 25 : -24);
}

#define LOAD_K 1021u /* fits no tile */
#define LOAD_N 65u   /* 65 * 1021 > 65536: every half there is */

static uint32_t source_bits(enum ops_dtype source, uint32_t i)
{
    static const uint32_t edges[] = {0x3f808000, 0x3f818000, 0x3f807fff, 0x3f808001, 0x7f7fffff,
                                     0x00000001, 0x00008000, 0x00018000, 0x807fffff, 0x7f800000,
                                     0xff800000, 0x7f800001, 0xffffffff, 0x80000000};
    if (source != OPS_F32)
        return i & 0xffff;
    return i < COUNT_OF(edges) ? edges[i] : i * 2654435761u;
}

static float source_value(enum ops_dtype source, uint32_t i)
{
    uint32_t bits = source_bits(source, i);
    if (source == OPS_F16)
        return half_value(bits);
    return float_of(source == OPS_BF16 ? bits << 16 : bits);
}

static void load_from(struct ground *g, enum ops_dtype source)
{
    uint64_t width = source == OPS_F32 ? 4 : 2, stride = LOAD_K + 3;
    uint8_t *file = calloc(LOAD_N * stride + 1, width);
    CHECK(file, "no memory");
    for (uint32_t i = 0; i < LOAD_N * LOAD_K; i++) {
        uint32_t bits = source_bits(source, i);
        memcpy(file + 1 + (i / LOAD_K * stride + i % LOAD_K) * width, &bits, width);
    }
    struct ops_load l = {.matrix = {.data = place(g, g->ops->matrix_bytes(g->type, LOAD_N, LOAD_K)),
                                    .n = LOAD_N,
                                    .k = LOAD_K},
                         .source_dtype = source,
                         .source_stride = stride};
    /* In three pieces, the last first, from an odd address: files align to nothing. */
    static const uint32_t cuts[] = {40, LOAD_N, 7, 40, 0, 7};
    for (uint32_t i = 0; i < COUNT_OF(cuts); i += 2) {
        l.row_first = cuts[i];
        l.rows_count = cuts[i + 1] - cuts[i];
        l.host_source = file + 1 + cuts[i] * stride * width;
        CHECK(g->ops->load(g->device, &l) == 0, "load fails");
    }
    uint32_t *tokens = place(g, LOAD_N * sizeof *tokens);
    for (uint32_t i = 0; i < LOAD_N; i++)
        tokens[i] = LOAD_N - 1 - i;
    struct ops_embed e = {.out = place_floats(g, NULL, LOAD_N * LOAD_K),
                          .table = l.matrix,
                          .token = tokens,
                          .tokens_count = LOAD_N,
                          .scale = 2};
    g->ops->embed(g->device, &e);
    for (uint32_t i = 0; i < LOAD_N * LOAD_K; i++) {
        float want = 2 * rounded(g->type, source_value(source, i));
        float got = e.out[(LOAD_N - 1 - i / LOAD_K) * LOAD_K + i % LOAD_K];
        CHECK(isnan(want) ? isnan(got) : bits_of(got) == bits_of(want),
              "%s: source type %d, %08x became %.9g, not %.9g", g->ops->name, source,
              source_bits(source, i), (double)got, (double)want);
    }
    free(file);
}

static void load_from_all(struct ground *g)
{
    load_from(g, OPS_F32);
    load_from(g, OPS_BF16);
    load_from(g, OPS_F16);
}

static void loading_rounds_to_nearest_even_from_every_source(void **state)
{
    (void)state;
    on_each(2, load_from_all);
}

/* ---- rows ------------------------------------------------------------------------------------ */

static const uint32_t widths[] = {1, 7, 16, 33, 2053};

/* What a value in activation type may be off by, besides bound: 8 significant bits, so half a unit of the last
 * is at most 2^-8 of it. */
static double type_bound(enum ops_dtype type, double value, double bound)
{
    return type == OPS_F32 ? bound : bound * 1.01 + fabs(value) * 0x1.01p-8;
}

struct moments {
    double mean, scale;
};

static struct moments moments_of(const float *in, uint32_t columns, bool layer, double epsilon)
{
    struct moments m = {0};
    double squares = 0;
    for (uint32_t j = 0; layer && j < columns; j++)
        m.mean += (double)in[j] / columns;
    for (uint32_t j = 0; j < columns; j++)
        squares += ((double)in[j] - m.mean) * ((double)in[j] - m.mean);
    m.scale = 1 / sqrt(squares / columns + epsilon);
    return m;
}

static void norm_check(struct ground *g, uint32_t rows, uint32_t columns, enum ops_norm_kind kind)
{
    uint64_t count = (uint64_t)rows * columns;
    float *in = floats_random(count, 0.5f), *weight = floats_random(columns, 1);
    float *bias = floats_random(columns, 0), *old = floats_random(count, 0);
    g->used = g->guards_count = 0;
    struct ops_norm a = {.in = place_floats(g, in, count),
                         .weight = place_floats(g, weight, columns),
                         .bias = kind == OPS_NORM_LAYER ? place_floats(g, bias, columns) : NULL,
                         .add_to = place_floats(g, old, count),
                         .rows_count = rows,
                         .columns = columns,
                         .epsilon = 1e-3f,
                         .kind = kind};
    a.out = place(g, count * type_bytes(g->type));
    a.out_f32 = place_floats(g, NULL, count);
    g->ops->norm(g->device, &a);
    for (uint64_t i = 0; i < count; i++) {
        const float *row = in + i / columns * columns;
        struct moments m = moments_of(row, columns, kind == OPS_NORM_LAYER, (double)a.epsilon);
        double y = ((double)in[i] - m.mean) * m.scale * (double)weight[i % columns];
        double size = (fabs((double)in[i]) + fabs(m.mean)) * m.scale + 1;
        y += a.bias ? (double)bias[i % columns] : 0;
        double bound = 1e-6 * size * 2;
        near(a.out_f32[i], y, bound, g->ops->name, "norm", i);
        near(row_value(g, a.out, i), y, type_bound(g->type, y, bound), g->ops->name, "norm out", i);
        near(a.add_to[i], y + (double)old[i], bound + 1e-6, g->ops->name, "norm add_to", i);
    }
    float *apart = malloc(count * sizeof *apart);
    CHECK(apart, "no memory");
    memcpy(apart, a.out_f32, count * sizeof *apart);
    a.out_f32 = place_floats(g, in, count); /* in place */
    a.in = a.out_f32;
    a.out = a.add_to = NULL;
    g->ops->norm(g->device, &a);
    CHECK(!memcmp(apart, a.out_f32, count * sizeof *apart), "%s: norm in place", g->ops->name);
    guards_check(g);
    free(in), free(weight), free(bias), free(old), free(apart);
}

static void norms_check(struct ground *g)
{
    for (uint32_t i = 0; i < COUNT_OF(widths); i++)
        for (uint32_t rows = 1; rows <= 3; rows += 2) {
            norm_check(g, rows, widths[i], OPS_NORM_RMS);
            norm_check(g, rows, widths[i], OPS_NORM_LAYER);
        }
}

static void norms_are_close_to_float64(void **state)
{
    (void)state;
    on_each(2, norms_check);
}

static double gate_value(enum ops_gate_kind kind, double x)
{
    switch (kind) {
    case OPS_GATE_SILU:
        return x / (1 + exp(-x));
    case OPS_GATE_GELU_TANH:
        return x * 0.5 * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case OPS_GATE_GELU_ERF:
        return x * 0.5 * (1 + erf(x / sqrt(2)));
    }
    return NAN;
}

#define GATE_ROWS 3u
#define GATE_COLUMNS 1003u

static void gate_check(struct ground *g, enum ops_gate_kind kind, bool gated)
{
    uint32_t width = gated ? 2 * GATE_COLUMNS : GATE_COLUMNS;
    float *in = floats_random(GATE_ROWS * width, 0);
    static const float spread[GATE_ROWS] = {1, 12, 120}; /* near 0; the bend; far out */
    for (uint32_t i = 0; i < GATE_ROWS * width; i++)
        in[i] *= i % width < GATE_COLUMNS ? spread[i / width] : 1;
    in[0] = 0;
    in[1] = -0.0f;
    in[2] = 1e-20f;
    g->used = g->guards_count = 0;
    struct ops_gate a = {.in = place_floats(g, in, GATE_ROWS * width),
                         .rows_count = GATE_ROWS,
                         .columns = GATE_COLUMNS,
                         .kind = kind,
                         .gated = gated};
    a.out = place(g, GATE_ROWS * GATE_COLUMNS * type_bytes(g->type));
    g->ops->gate(g->device, &a);
    for (uint32_t i = 0; i < GATE_ROWS * GATE_COLUMNS; i++) {
        const float *row = in + i / GATE_COLUMNS * width, up = row[i % GATE_COLUMNS];
        double y = gate_value(kind, (double)up);
        /* The gates of GELU are 1 + something, so an error of theirs counts beside 1, not beside y. */
        double bound = 4e-7 * fabs(kind == OPS_GATE_SILU ? y : (double)up) + 1e-35;
        double by = gated ? (double)row[i % GATE_COLUMNS + GATE_COLUMNS] : 1;
        near(row_value(g, a.out, i), y * by, type_bound(g->type, y * by, bound), g->ops->name,
             "gate", i);
    }
    guards_check(g);
    free(in);
}

static void gates_check(struct ground *g)
{
    for (enum ops_gate_kind kind = OPS_GATE_SILU; kind <= OPS_GATE_GELU_ERF; kind++) {
        gate_check(g, kind, true);
        gate_check(g, kind, false);
    }
}

static void gates_are_close_to_float64(void **state)
{
    (void)state;
    on_each(2, gates_check);
}

static void dots_check(struct ground *g)
{
    for (uint32_t i = 0; i < COUNT_OF(widths); i++) {
        uint32_t columns = widths[i], rows = 5;
        float *in = floats_random(rows * columns, 0), *v = floats_random(columns, 0);
        g->used = g->guards_count = 0;
        struct ops_dot dot = {.out = place_floats(g, NULL, rows),
                              .in = place_floats(g, in, rows * columns),
                              .vector = place_floats(g, v, columns),
                              .rows_count = rows,
                              .columns = columns};
        struct ops_row_mean mean = {.out = place_floats(g, NULL, rows),
                                    .in = dot.in,
                                    .rows_count = rows,
                                    .columns = columns};
        g->ops->dot(g->device, &dot);
        g->ops->row_mean(g->device, &mean);
        for (uint32_t row = 0; row < rows; row++) {
            double sum = 0, product = 0;
            for (uint32_t j = 0; j < columns; j++) {
                sum += (double)in[row * columns + j];
                product += (double)in[row * columns + j] * (double)v[j];
            }
            double bound = 0x1p-23 * (4 + sqrt(columns)) * columns;
            near(dot.out[row], product, bound, g->ops->name, "dot", row);
            near(mean.out[row], sum / columns, bound / columns, g->ops->name, "row_mean", row);
        }
        guards_check(g);
        free(in), free(v);
    }
}

static void dots_and_means_are_close_to_float64(void **state)
{
    (void)state;
    on_each(2, dots_check);
}

#define LONG_COUNT 32773u /* two chunks and five */

static void elements_check(struct ground *g)
{
    float *x = floats_random(LONG_COUNT, 0), *y = floats_random(LONG_COUNT, 0);
    for (uint32_t i = 0; i < LONG_COUNT; i++)
        x[i] *= i % 3 ? 300 : 15;
    struct ops_add add = {.to = place_floats(g, x, LONG_COUNT),
                          .from = place_floats(g, y, LONG_COUNT),
                          .count = LONG_COUNT};
    struct ops_softcap softcap = {
        .x = place_floats(g, x, LONG_COUNT), .count = LONG_COUNT, .cap = 30};
    g->ops->add(g->device, &add);
    g->ops->softcap(g->device, &softcap);
    for (uint32_t i = 0; i < LONG_COUNT; i++) {
        CHECK(add.to[i] == x[i] + y[i], "%s: sum %u", g->ops->name, i);
        double want = 30 * tanh((double)x[i] / 30);
        near(softcap.x[i], want, 4.5e-7 * fabs(want), g->ops->name, "softcap", i);
    }
    free(x), free(y);
}

static void sums_are_exact_and_softcap_is_close(void **state)
{
    (void)state;
    on_each(2, elements_check);
}

/* Everything that works by rows, into one buffer of outputs. */
static void row_operations(struct ground *g, const float *in, uint32_t rows, uint32_t columns,
                           float *ret_out)
{
    float *weight = place(g, columns * sizeof *weight);
    for (uint32_t j = 0; j < columns; j++)
        weight[j] = 0.5f + (float)j / (float)columns;
    const float *from = place_floats(g, in, (uint64_t)rows * columns);
    struct ops_norm norm = {.out_f32 = place_floats(g, NULL, (uint64_t)rows * columns),
                            .in = from,
                            .weight = weight,
                            .rows_count = rows,
                            .columns = columns,
                            .epsilon = 1e-5f,
                            .kind = OPS_NORM_LAYER};
    struct ops_gate gate = {.in = from, .rows_count = rows, .columns = columns};
    gate.out = place(g, (uint64_t)rows * columns * type_bytes(g->type));
    struct ops_dot dot = {.out = place_floats(g, NULL, rows),
                          .in = from,
                          .vector = weight,
                          .rows_count = rows,
                          .columns = columns};
    struct ops_row_mean mean = {
        .out = place_floats(g, NULL, rows), .in = from, .rows_count = rows, .columns = columns};
    g->ops->norm(g->device, &norm);
    g->ops->gate(g->device, &gate);
    g->ops->dot(g->device, &dot);
    g->ops->row_mean(g->device, &mean);
    for (uint32_t row = 0; row < rows; row++, ret_out += 2 * columns + 2) {
        memcpy(ret_out, norm.out_f32 + (uint64_t)row * columns, columns * sizeof *ret_out);
        for (uint32_t j = 0; j < columns; j++)
            ret_out[columns + j] = row_value(g, gate.out, (uint64_t)row * columns + j);
        ret_out[2 * columns] = dot.out[row];
        ret_out[2 * columns + 1] = mean.out[row];
    }
}

static void rows_have_the_same_bits_in_any_company(void **state)
{
    enum { ROWS = 33, COLUMNS = 203, WIDTH = 2 * COLUMNS + 2 };
    float *in = floats_random(ROWS * COLUMNS, 0);
    float *alone = calloc(ROWS * WIDTH, sizeof *alone), *all = calloc(ROWS * WIDTH, sizeof *all);
    struct ground g;
    (void)state;
    CHECK(alone && all, "no memory");
    for (enum cpu_level level = CPU_SCALAR; level < CPU_LEVEL_COUNT; level++)
        for (enum ops_dtype type = OPS_F32; cpu_ops(level) && type <= OPS_BF16; type++) {
            CHECK(ground_open(&g, level, type, 1), "level is gone");
            for (uint32_t row = 0; row < ROWS; row++) {
                g.used = g.guards_count = 0;
                row_operations(&g, in + row * COLUMNS, 1, COLUMNS, alone + row * WIDTH);
            }
            ground_close(&g);
            for (uint32_t threads = 1; threads <= 3; threads++) {
                CHECK(ground_open(&g, level, type, threads), "level is gone");
                row_operations(&g, in, ROWS, COLUMNS, all);
                CHECK(!memcmp(alone, all, ROWS * WIDTH * sizeof *all),
                      "%s, type %d: rows differ on %u threads", g.ops->name, type, threads);
                ground_close(&g);
            }
        }
    free(in), free(alone), free(all);
}

/* ---- moves ----------------------------------------------------------------------------------- */

static void angles_and_rows_check(struct ground *g)
{
    enum { T = 9, PAIRS = 37, ROWS = 6, COLUMNS = 19 };
    uint32_t *position = place(g, T * sizeof *position), *row = place(g, T * sizeof *row);
    uint32_t *slot = place(g, T * sizeof *slot), *first = place(g, T * sizeof *first);
    float *rate = place_floats(g, NULL, PAIRS), *in = floats_random(T * COLUMNS, 0);
    for (uint32_t i = 0; i < T; i++) {
        position[i] = (uint32_t)rng_below(&rng, 131072);
        row[i] = (uint32_t)rng_below(&rng, ROWS);
        slot[i] = i % 4 == 3 ? OPS_NONE : i % 2;
        first[i] = i < 2 || i == 6; /* slot 0 starts anew at row 6 */
    }
    for (uint32_t j = 0; j < PAIRS; j++)
        rate[j] = powf(10000, -(float)j / PAIRS);
    struct ops_rope_angles angles = {.cosine = place_floats(g, NULL, T * PAIRS),
                                     .sine = place_floats(g, NULL, T * PAIRS),
                                     .position = position,
                                     .inverse_frequency = rate,
                                     .tokens_count = T,
                                     .pairs_count = PAIRS,
                                     .scale = 1.25f};
    struct ops_gather gather = {.out = place_floats(g, NULL, T * COLUMNS),
                                .in = place_floats(g, in, T * COLUMNS),
                                .row = row,
                                .rows_count = T,
                                .columns = COLUMNS};
    struct ops_pool pool = {.sum = place_floats(g, NULL, 2 * COLUMNS),
                            .in = gather.in,
                            .slot = slot,
                            .first = first,
                            .rows_count = T,
                            .columns = COLUMNS};
    memset(pool.sum, 0xff, 2 * COLUMNS * sizeof *pool.sum); /* NaN, which a new start forgets */
    g->ops->rope_angles(g->device, &angles);
    g->ops->gather(g->device, &gather);
    g->ops->pool(g->device, &pool);
    for (uint32_t i = 0; i < T * PAIRS; i++) {
        double angle = (double)((float)position[i / PAIRS] * rate[i % PAIRS]);
        near(angles.cosine[i], cos(angle) * 1.25, 3e-7, g->ops->name, "cosine", i);
        near(angles.sine[i], sin(angle) * 1.25, 3e-7, g->ops->name, "sine", i);
    }
    for (uint32_t i = 0; i < T * COLUMNS; i++)
        CHECK(gather.out[i] == in[row[i / COLUMNS] * COLUMNS + i % COLUMNS], "gather %u", i);
    for (uint32_t j = 0; j < COLUMNS; j++) { /* slot 0: 6, 8; slot 1: 1, 5 (3 and 7 are none) */
        CHECK(pool.sum[j] == in[6 * COLUMNS + j] + in[8 * COLUMNS + j], "pool 0, %u", j);
        CHECK(pool.sum[COLUMNS + j] == in[COLUMNS + j] + in[5 * COLUMNS + j], "pool 1, %u", j);
    }
    free(in);
}

static void angles_gathering_and_pooling_are_right(void **state)
{
    (void)state;
    on_each(2, angles_and_rows_check);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_close_to_float64_over_odd_shapes),
        cmocka_unit_test(products_add_bias_and_old_values_after_the_sum),
        cmocka_unit_test(products_keep_nans_to_their_row),
        cmocka_unit_test(products_of_a_row_have_the_same_bits_in_any_company),
        cmocka_unit_test(loading_rounds_to_nearest_even_from_every_source),
        cmocka_unit_test(norms_are_close_to_float64),
        cmocka_unit_test(gates_are_close_to_float64),
        cmocka_unit_test(dots_and_means_are_close_to_float64),
        cmocka_unit_test(sums_are_exact_and_softcap_is_close),
        cmocka_unit_test(rows_have_the_same_bits_in_any_company),
        cmocka_unit_test(angles_gathering_and_pooling_are_right),
    };
    rng.state = check_number("SEED", 1);
    printf("SEED=%" PRIu64 ", best level: %s\n", rng.state, cpu_ops(cpu_level_best())->name);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
