#include "kernels/ref/ref.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/ref/sample.h"

struct ops_device {
    struct ops_config config;
    uint8_t *slab;
    double *row; /* scratch of one row: scores or logits */
    struct ops_stats stats;
};

#define ROW_MAX 524288u

/* ---- numbers --------------------------------------------------------------------------------- */

static float bf16_to_f32(uint16_t v)
{
    uint32_t bits = (uint32_t)v << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint16_t f32_to_bf16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

static float f16_to_f32(uint16_t v)
{
    int exponent = v >> 10 & 31, mantissa = v & 1023;
    float sign = v & 0x8000 ? -1.0f : 1.0f;
    if (exponent == 31)
        return mantissa ? NAN : sign * INFINITY;
    if (exponent == 0)
        return sign * ldexpf((float)mantissa, -24);
    return sign * ldexpf((float)(mantissa + 1024), exponent - 25);
}

static float source_at(const struct ops_load *l, uint64_t i)
{
    if (l->source_dtype == OPS_F32)
        return ((const float *)l->host_source)[i];
    uint16_t v = ((const uint16_t *)l->host_source)[i];
    return l->source_dtype == OPS_BF16 ? bf16_to_f32(v) : f16_to_f32(v);
}

static bool is_f32(const struct ops_device *d)
{
    return d->config.activation == OPS_F32;
}

static float act_get(const struct ops_device *d, const void *p, uint64_t i)
{
    return is_f32(d) ? ((const float *)p)[i] : bf16_to_f32(((const uint16_t *)p)[i]);
}

static void act_put(const struct ops_device *d, void *p, uint64_t i, float v)
{
    if (is_f32(d))
        ((float *)p)[i] = v;
    else
        ((uint16_t *)p)[i] = f32_to_bf16(v);
}

static float act_round(const struct ops_device *d, double v)
{
    return is_f32(d) ? (float)v : bf16_to_f32(f32_to_bf16((float)v));
}

/* ---- device ---------------------------------------------------------------------------------- */

static int group_new(uint32_t ranks_count, struct ops_group **ret_group)
{
    (void)ranks_count;
    (void)ret_group;
    return -ENOTSUP; /* one rank */
}

static void group_free(struct ops_group *group)
{
    (void)group;
}

static int device_open(const struct ops_config *config, struct ops_device **ret_device)
{
    struct ops_device *d = calloc(1, sizeof *d);
    if (!d)
        return -ENOMEM;
    d->config = *config;
    d->slab = aligned_alloc(4096, (config->slab_bytes + 4095) & ~4095ull);
    d->row = calloc(ROW_MAX, sizeof *d->row);
    if (!d->slab || !d->row) {
        free(d->slab);
        free(d->row);
        free(d);
        return -ENOMEM;
    }
    memset(d->slab, 0, config->slab_bytes);
    *ret_device = d;
    return 0;
}

static void device_close(struct ops_device *d)
{
    free(d->slab);
    free(d->row);
    free(d);
}

static void *device_slab(struct ops_device *d)
{
    return d->slab;
}

static uint64_t matrix_bytes(enum ops_dtype activation, uint32_t n, uint32_t k)
{
    return (uint64_t)n * k * (activation == OPS_F32 ? 4 : 2);
}

/* K [32][head_dim], then V [32][head_dim]. */
static uint64_t kv_page_bytes(enum ops_dtype activation, uint32_t head_dim)
{
    return 2ull * OPS_PAGE_TOKENS * head_dim * (activation == OPS_F32 ? 4 : 2);
}

static int load(struct ops_device *d, const struct ops_load *l)
{
    for (uint32_t i = 0; i < l->rows_count; i++)
        for (uint32_t j = 0; j < l->matrix.k; j++)
            act_put(d, l->matrix.data, (uint64_t)(l->row_first + i) * l->matrix.k + j,
                    source_at(l, i * l->source_stride + j));
    return 0;
}

static void copy_in(struct ops_device *d, void *to, const void *from, uint64_t bytes)
{
    (void)d;
    memcpy(to, from, bytes);
}

static void copy_out(struct ops_device *d, void *to, const void *from, uint64_t bytes)
{
    (void)d;
    memcpy(to, from, bytes);
}

static int device_sync(struct ops_device *d)
{
    (void)d;
    return 0;
}

static void device_stats(const struct ops_device *d, struct ops_stats *ret)
{
    *ret = d->stats;
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void embed(struct ops_device *d, const struct ops_embed *a)
{
    for (uint32_t i = 0; i < a->tokens_count; i++)
        for (uint32_t j = 0; j < a->table.k; j++)
            a->out[(uint64_t)i * a->table.k + j] =
                a->scale * act_get(d, a->table.data, (uint64_t)a->token[i] * a->table.k + j);
}

static void norm(struct ops_device *d, const struct ops_norm *a)
{
    for (uint32_t i = 0; i < a->rows_count; i++) {
        const float *in = a->in + (uint64_t)i * a->columns;
        double mean = 0, square = 0;
        for (uint32_t j = 0; a->kind == OPS_NORM_LAYER && j < a->columns; j++)
            mean += in[j];
        mean /= a->columns;
        for (uint32_t j = 0; j < a->columns; j++)
            square += (in[j] - mean) * (in[j] - mean);
        double scale = 1 / sqrt(square / a->columns + a->epsilon);
        for (uint32_t j = 0; j < a->columns; j++) {
            uint64_t at = (uint64_t)i * a->columns + j;
            float y =
                (float)((a->in[at] - mean) * scale * a->weight[j] + (a->bias ? a->bias[j] : 0));
            if (a->add_to)
                a->add_to[at] += y;
            if (a->out)
                act_put(d, a->out, at, y);
            d->row[j] = y; /* out_f32 may be in: written when the row was read */
        }
        for (uint32_t j = 0; a->out_f32 && j < a->columns; j++)
            a->out_f32[(uint64_t)i * a->columns + j] = (float)d->row[j];
    }
}

static void gemm(struct ops_device *d, const struct ops_gemm *a)
{
    for (uint32_t i = 0; i < a->rows_count; i++)
        for (uint32_t j = 0; j < a->w.n; j++) {
            double sum = a->bias ? a->bias[j] : 0;
            for (uint32_t k = 0; k < a->w.k; k++)
                sum += (double)act_get(d, a->x, (uint64_t)i * a->w.k + k) *
                       act_get(d, a->w.data, (uint64_t)j * a->w.k + k);
            float *y = &a->y[(uint64_t)i * a->w.n + j];
            *y = a->accumulate ? *y + (float)sum : (float)sum;
        }
}

static void rope_angles(struct ops_device *d, const struct ops_rope_angles *a)
{
    (void)d;
    for (uint32_t i = 0; i < a->tokens_count; i++)
        for (uint32_t j = 0; j < a->pairs_count; j++) {
            /* The angle is rounded to float32, as every implementation has it. */
            float angle = (float)a->position[i] * a->inverse_frequency[j];
            a->cosine[(uint64_t)i * a->pairs_count + j] = a->scale * (float)cos(angle);
            a->sine[(uint64_t)i * a->pairs_count + j] = a->scale * (float)sin(angle);
        }
}

/* ---- attention ------------------------------------------------------------------------------- */

static void *kv_head(const struct ops_device *d, const struct ops_kv *kv, uint32_t page,
                     uint32_t head)
{
    return (uint8_t *)kv->data + ((uint64_t)page * kv->kv_heads + head) *
                                     kv_page_bytes(d->config.activation, kv->head_dim);
}

static uint32_t page_of(const struct ops_batch *b, uint32_t row, uint32_t position)
{
    return b->pages[(uint64_t)b->seq[row] * b->pages_stride + position / OPS_PAGE_TOKENS];
}

static void head_rotate(const struct ops_qkv *a, uint32_t row, const float *weight, const float *in,
                        float *out)
{
    uint32_t dim = a->kv.head_dim, half = a->rotary_dim / 2;
    double square = 0;
    for (uint32_t j = 0; j < dim; j++)
        square += (double)in[j] * in[j];
    float scale = weight ? (float)(1 / sqrt(square / dim + a->norm_epsilon)) : 1;
    for (uint32_t j = 0; j < dim; j++)
        out[j] = weight ? in[j] * scale * weight[j] : in[j];
    for (uint32_t j = 0; j < half; j++) {
        float c = a->cosine[(uint64_t)row * half + j], s = a->sine[(uint64_t)row * half + j];
        float x = out[j], y = out[j + half];
        out[j] = x * c - y * s;
        out[j + half] = y * c + x * s;
    }
}

static void qkv(struct ops_device *d, const struct ops_qkv *a)
{
    uint32_t dim = a->kv.head_dim, all = a->heads + 2 * a->kv.kv_heads;
    float rotated[1024];
    for (uint32_t i = 0; i < a->batch.tokens_count; i++) {
        const float *in = a->qkv + (uint64_t)i * all * dim;
        uint32_t position = a->batch.position[i], at = position % OPS_PAGE_TOKENS;
        uint32_t page = page_of(&a->batch, i, position);
        for (uint32_t h = 0; h < a->heads; h++) {
            head_rotate(a, i, a->q_norm, in + h * dim, rotated);
            for (uint32_t j = 0; j < dim; j++)
                act_put(d, a->q, ((uint64_t)i * a->heads + h) * dim + j, rotated[j]);
        }
        for (uint32_t h = 0; h < a->kv.kv_heads; h++) {
            void *kv = kv_head(d, &a->kv, page, h);
            if (at == 0)
                memset(kv, 0, kv_page_bytes(d->config.activation, dim));
            head_rotate(a, i, a->k_norm, in + (a->heads + h) * dim, rotated);
            const float *v = in + (a->heads + a->kv.kv_heads + h) * dim;
            for (uint32_t j = 0; j < dim; j++) {
                act_put(d, kv, at * dim + j, rotated[j]);
                act_put(d, kv, (OPS_PAGE_TOKENS + at) * dim + j, v[j]);
            }
        }
    }
}

/* One query head over one sequence: plain softmax, weights rounded as ops.h says. */
static void attend(struct ops_device *d, const struct ops_attention *a, uint32_t row, uint32_t head)
{
    uint32_t dim = a->kv.head_dim, kv = head / (a->heads / a->kv.kv_heads);
    uint32_t last = a->batch.position[row];
    uint32_t first = a->window && last + 1 > a->window ? last + 1 - a->window : 0;
    uint64_t q = ((uint64_t)row * a->heads + head) * dim;
    double greatest = -INFINITY, sum = 0;
    for (uint32_t p = first; p <= last; p++) {
        const void *page = kv_head(d, &a->kv, page_of(&a->batch, row, p), kv);
        double score = 0;
        for (uint32_t j = 0; j < dim; j++)
            score +=
                (double)act_get(d, a->q, q + j) * act_get(d, page, (p % OPS_PAGE_TOKENS) * dim + j);
        score *= a->scale;
        if (a->softcap > 0)
            score = a->softcap * tanh(score / a->softcap);
        d->row[p - first] = score;
        greatest = score > greatest ? score : greatest;
    }
    for (uint32_t p = first; p <= last; p++) {
        d->row[p - first] = exp(d->row[p - first] - greatest);
        sum += d->row[p - first];
    }
    for (uint32_t j = 0; j < dim; j++) {
        double value = 0;
        for (uint32_t p = first; p <= last; p++) {
            const void *page = kv_head(d, &a->kv, page_of(&a->batch, row, p), kv);
            value += act_round(d, d->row[p - first]) *
                     act_get(d, page, (OPS_PAGE_TOKENS + p % OPS_PAGE_TOKENS) * dim + j);
        }
        act_put(d, a->out, q + j, (float)(value / sum));
    }
}

static void attention(struct ops_device *d, const struct ops_attention *a)
{
    for (uint32_t i = 0; i < a->batch.tokens_count; i++)
        for (uint32_t h = 0; h < a->heads; h++)
            attend(d, a, i, h);
}

static void attention_full(struct ops_device *d, const struct ops_attention_full *a)
{
    uint32_t dim = a->head_dim, stride = 3 * a->heads * dim;
    for (uint32_t i = 0; i < a->tokens_count; i++)
        for (uint32_t h = 0; h < a->heads; h++) {
            const float *q = a->qkv + (uint64_t)i * stride + h * dim;
            double greatest = -INFINITY, sum = 0;
            for (uint32_t t = 0; t < a->row_count[i]; t++) {
                const float *k =
                    a->qkv + (uint64_t)(a->row_first[i] + t) * stride + (a->heads + h) * dim;
                double score = 0;
                for (uint32_t j = 0; j < dim; j++)
                    score += (double)q[j] * k[j];
                d->row[t] = score * a->scale;
                greatest = d->row[t] > greatest ? d->row[t] : greatest;
            }
            for (uint32_t t = 0; t < a->row_count[i]; t++)
                sum += d->row[t] = exp(d->row[t] - greatest);
            for (uint32_t j = 0; j < dim; j++) {
                double value = 0;
                for (uint32_t t = 0; t < a->row_count[i]; t++)
                    value += d->row[t] * a->qkv[(uint64_t)(a->row_first[i] + t) * stride +
                                                (2 * a->heads + h) * dim + j];
                act_put(d, a->out, ((uint64_t)i * a->heads + h) * dim + j, (float)(value / sum));
            }
        }
}

/* ---- elements -------------------------------------------------------------------------------- */

static double gate_of(enum ops_gate_kind kind, double x)
{
    switch (kind) {
    case OPS_GATE_SILU:
        return x / (1 + exp(-x));
    case OPS_GATE_GELU_TANH:
        return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    case OPS_GATE_GELU_ERF:
        return 0.5 * x * (1 + erf(x * 0.7071067811865476));
    }
    return x;
}

static void gate(struct ops_device *d, const struct ops_gate *a)
{
    uint32_t n = a->columns;
    for (uint32_t i = 0; i < a->rows_count; i++)
        for (uint32_t j = 0; j < n; j++) {
            const float *in = a->in + (uint64_t)i * n * (a->gated ? 2 : 1);
            double y = gate_of(a->kind, in[j]) * (a->gated ? in[n + j] : 1);
            act_put(d, a->out, (uint64_t)i * n + j, (float)y);
        }
}

static void add(struct ops_device *d, const struct ops_add *a)
{
    (void)d;
    for (uint64_t i = 0; i < a->count; i++)
        a->to[i] += a->from[i];
}

static void gather(struct ops_device *d, const struct ops_gather *a)
{
    (void)d;
    for (uint32_t i = 0; i < a->rows_count; i++)
        memcpy(a->out + (uint64_t)i * a->columns, a->in + (uint64_t)a->row[i] * a->columns,
               a->columns * sizeof(float));
}

static void pool(struct ops_device *d, const struct ops_pool *a)
{
    (void)d;
    for (uint32_t i = 0; i < a->rows_count; i++) {
        if (a->slot[i] == OPS_NONE)
            continue;
        float *sum = a->sum + (uint64_t)a->slot[i] * a->columns;
        for (uint32_t j = 0; j < a->columns; j++)
            sum[j] = (a->first[i] ? 0 : sum[j]) + a->in[(uint64_t)i * a->columns + j];
    }
}

static void dot(struct ops_device *d, const struct ops_dot *a)
{
    (void)d;
    for (uint32_t i = 0; i < a->rows_count; i++) {
        double sum = 0;
        for (uint32_t j = 0; j < a->columns; j++)
            sum += (double)a->in[(uint64_t)i * a->columns + j] * a->vector[j];
        a->out[i] = (float)sum;
    }
}

static void row_mean(struct ops_device *d, const struct ops_row_mean *a)
{
    (void)d;
    for (uint32_t i = 0; i < a->rows_count; i++) {
        double sum = 0;
        for (uint32_t j = 0; j < a->columns; j++)
            sum += a->in[(uint64_t)i * a->columns + j];
        a->out[i] = (float)(sum / a->columns);
    }
}

static void softcap(struct ops_device *d, const struct ops_softcap *a)
{
    (void)d;
    for (uint64_t i = 0; i < a->count; i++)
        a->x[i] = (float)(a->cap * tanh((double)a->x[i] / a->cap));
}

static void sample(struct ops_device *d, const struct ops_sample *a)
{
    for (uint32_t i = 0; i < a->rows_count; i++)
        ref_sample_row(a, i, d->row);
}

/* ---- pages and ranks ------------------------------------------------------------------------- */

static void pages_copy(struct ops_device *d, const struct ops_pages_copy *a)
{
    uint64_t dim = a->kv.head_dim, size = is_f32(d) ? 4 : 2;
    for (uint32_t i = 0; i < a->copies_count; i++)
        for (uint32_t h = 0; h < a->kv.kv_heads; h++) {
            const struct ops_page_copy *c = &a->host_copies[i];
            uint8_t *from = kv_head(d, &a->kv, c->from, h), *to = kv_head(d, &a->kv, c->to, h);
            uint64_t half = OPS_PAGE_TOKENS * dim * size, valid = c->valid_tokens * dim * size;
            memset(to, 0, 2 * half);
            memcpy(to, from, valid);
            memcpy(to + half, from + half, valid);
        }
}

static void pages_poison(struct ops_device *d, const struct ops_pages_poison *a)
{
    for (uint32_t i = 0; i < a->pages_count; i++)
        memset(kv_head(d, &a->kv, a->host_pages[i], 0), 0xff,
               a->kv.kv_heads * kv_page_bytes(d->config.activation, a->kv.head_dim));
}

static void all_reduce(struct ops_device *d, const struct ops_all_reduce *a)
{
    (void)d;
    (void)a;
}

static void all_gather(struct ops_device *d, const struct ops_all_gather *a)
{
    (void)d;
    memcpy(a->out, a->in, (uint64_t)a->rows_count * a->columns * sizeof(float));
}

const struct ops *ref_ops(void)
{
    static const struct ops ops = {.name = "reference",
                                   .group_new = group_new,
                                   .group_free = group_free,
                                   .open = device_open,
                                   .close = device_close,
                                   .slab = device_slab,
                                   .matrix_bytes = matrix_bytes,
                                   .kv_page_bytes = kv_page_bytes,
                                   .load = load,
                                   .copy_in = copy_in,
                                   .copy_out = copy_out,
                                   .sync = device_sync,
                                   .stats = device_stats,
                                   .embed = embed,
                                   .norm = norm,
                                   .gemm = gemm,
                                   .rope_angles = rope_angles,
                                   .qkv = qkv,
                                   .attention = attention,
                                   .attention_full = attention_full,
                                   .gate = gate,
                                   .add = add,
                                   .gather = gather,
                                   .pool = pool,
                                   .dot = dot,
                                   .row_mean = row_mean,
                                   .softcap = softcap,
                                   .sample = sample,
                                   .pages_copy = pages_copy,
                                   .pages_poison = pages_poison,
                                   .all_reduce = all_reduce,
                                   .all_gather = all_gather};
    return &ops;
}
