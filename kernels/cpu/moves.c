#include "kernels/cpu/moves.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/group.h"

/* ---- numbers --------------------------------------------------------------------------------- */

static float f32_of_bf16(uint16_t v)
{
    uint32_t bits = (uint32_t)v << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static float f32_of_f16(uint16_t v)
{
    uint32_t sign = (uint32_t)(v & 0x8000) << 16, rest = v & 0x7fff;
    float f;
    uint32_t bits = sign | (rest < 0x7c00 ? (rest << 13) + (112u << 23) : rest << 13 | 0x7f800000u);
    if (rest < 0x400) { /* subnormal there, normal here */
        f = (float)rest * 0x1p-24f;
        return v & 0x8000 ? -f : f;
    }
    memcpy(&f, &bits, sizeof f);
    return f;
}

static float source_at(const struct ops_load *l, uint64_t i)
{
    if (l->source_dtype == OPS_F32) {
        float f; /* files align to 1 byte */
        memcpy(&f, (const uint8_t *)l->host_source + 4 * i, sizeof f);
        return f;
    }
    uint16_t v;
    memcpy(&v, (const uint8_t *)l->host_source + 2 * i, sizeof v);
    return l->source_dtype == OPS_BF16 ? f32_of_bf16(v) : f32_of_f16(v);
}

/* Element [row, k] of a bf16 matrix: internal.h's layout. */
static uint64_t bf16_at(uint32_t row, uint32_t k, uint32_t k_padded)
{
    return (uint64_t)(row / 32) * 32 * k_padded + k / 32 * 1024ull + row % 32 / 16 * 512 +
           k % 32 / 2 * 32 + row % 16 * 2 + k % 2;
}

static uint64_t f32_at(uint32_t row, uint32_t k, uint32_t k_count)
{
    return ((uint64_t)(row / 32) * k_count + k) * 32 + row % 32;
}

/* ---- loading --------------------------------------------------------------------------------- */

static void load_task(struct ops_device *d, const void *args, uint32_t thread)
{
    const struct ops_load *l = args;
    uint32_t k_padded = cpu_padded(l->matrix.k);
    (void)thread;
    for (uint32_t i; (i = cpu_chunk_next(d)) < l->rows_count;) {
        uint32_t row = l->row_first + i;
        for (uint32_t k = 0; k < l->matrix.k; k++) {
            float x = source_at(l, i * l->source_stride + k);
            if (d->config.activation == OPS_F32)
                ((float *)l->matrix.data)[f32_at(row, k, l->matrix.k)] = x;
            else
                ((uint16_t *)l->matrix.data)[bf16_at(row, k, k_padded)] = cpu_bf16_of(x);
        }
    }
}

int cpu_load(struct ops_device *d, const struct ops_load *load)
{
    cpu_run(d, load_task, load); /* padding is zero: the slab was, and is placed once */
    return 0;
}

void cpu_copy_in(struct ops_device *d, void *to, const void *from, uint64_t bytes)
{
    (void)d;
    memcpy(to, from, bytes);
}

void cpu_copy_out(struct ops_device *d, void *to, const void *from, uint64_t bytes)
{
    (void)d;
    memcpy(to, from, bytes);
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void embed_task(struct ops_device *d, const void *args, uint32_t thread)
{
    const struct ops_embed *a = args;
    uint32_t columns = a->table.k, padded = cpu_padded(columns);
    (void)thread;
    for (uint32_t i; (i = cpu_chunk_next(d)) < a->tokens_count;) {
        float *out = a->out + (uint64_t)i * columns;
        for (uint32_t k = 0; k < columns; k++)
            out[k] = a->scale *
                     (d->config.activation == OPS_F32
                          ? ((const float *)a->table.data)[f32_at(a->token[i], k, columns)]
                          : f32_of_bf16((
                                (const uint16_t *)a->table.data)[bf16_at(a->token[i], k, padded)]));
    }
}

void cpu_embed(struct ops_device *d, const struct ops_embed *args)
{
    cpu_run(d, embed_task, args);
}

static void rope_angles_task(struct ops_device *d, const void *args, uint32_t thread)
{
    const struct ops_rope_angles *a = args;
    (void)thread;
    for (uint32_t i; (i = cpu_chunk_next(d)) < a->tokens_count;)
        for (uint32_t j = 0; j < a->pairs_count; j++) {
            float angle = (float)a->position[i] * a->inverse_frequency[j];
            a->cosine[(uint64_t)i * a->pairs_count + j] = cosf(angle) * a->scale;
            a->sine[(uint64_t)i * a->pairs_count + j] = sinf(angle) * a->scale;
        }
}

void cpu_rope_angles(struct ops_device *d, const struct ops_rope_angles *args)
{
    cpu_run(d, rope_angles_task, args);
}

void cpu_gather(struct ops_device *d, const struct ops_gather *a)
{
    (void)d;
    for (uint32_t i = 0; i < a->rows_count; i++)
        memcpy(a->out + (uint64_t)i * a->columns, a->in + (uint64_t)a->row[i] * a->columns,
               a->columns * sizeof *a->out);
}

void cpu_pool_rows(struct ops_device *d, const struct ops_pool *a)
{
    (void)d;
    for (uint32_t i = 0; i < a->rows_count; i++) {
        if (a->slot[i] == OPS_NONE)
            continue;
        float *sum = a->sum + (uint64_t)a->slot[i] * a->columns;
        const float *in = a->in + (uint64_t)i * a->columns;
        if (a->first[i])
            memset(sum, 0, a->columns * sizeof *sum);
        for (uint32_t j = 0; j < a->columns; j++)
            sum[j] += in[j];
    }
}

/* ---- pages ----------------------------------------------------------------------------------- */

static void page_clear_tail(const struct ops_device *d, uint8_t *kv, uint32_t dim, uint32_t valid)
{
    float zero[ATTENTION_DIM_MAX] = {0};
    for (uint32_t t = valid; t < OPS_PAGE_TOKENS; t++)
        attention_put(d, kv, dim, t, zero, zero);
}

void cpu_pages_copy(struct ops_device *d, const struct ops_pages_copy *a)
{
    uint64_t bytes = cpu_kv_page_bytes(d->config.activation, a->kv.head_dim);
    for (uint32_t i = 0; i < a->copies_count; i++)
        for (uint32_t h = 0; h < a->kv.kv_heads; h++) {
            const struct ops_page_copy *c = &a->host_copies[i];
            uint8_t *to = attention_kv(d, &a->kv, c->to, h);
            memcpy(to, attention_kv(d, &a->kv, c->from, h), bytes);
            page_clear_tail(d, to, a->kv.head_dim, c->valid_tokens);
        }
}

void cpu_pages_poison(struct ops_device *d, const struct ops_pages_poison *a)
{
    uint64_t bytes = a->kv.kv_heads * cpu_kv_page_bytes(d->config.activation, a->kv.head_dim);
    for (uint32_t i = 0; i < a->pages_count; i++)
        memset(attention_kv(d, &a->kv, a->host_pages[i], 0), 0xff, bytes);
}

/* ---- ranks ----------------------------------------------------------------------------------- */

/* Each rank sums its own part over all, in order of rank, into its own memory, then everybody copies the
 * others' parts: two meetings in between, and a third before memory is used for something else. */
void cpu_all_reduce(struct ops_device *d, const struct ops_all_reduce *a)
{
    struct ops_group *g = d->config.group;
    uint32_t ranks = cpu_group_count(g), rank = d->config.rank;
    uint64_t first = a->count * rank / ranks, end = a->count * (rank + 1) / ranks;
    cpu_group_show(g, rank, a->x);
    for (uint64_t i = first; i < end; i++) {
        float sum = ((const float *)cpu_group_of(g, 0))[i];
        for (uint32_t r = 1; r < ranks; r++)
            sum += ((const float *)cpu_group_of(g, r))[i];
        a->x[i] = sum;
    }
    cpu_group_done(g);
    for (uint32_t r = 0; r < ranks; r++) {
        uint64_t from = a->count * r / ranks, to = a->count * (r + 1) / ranks;
        if (r != rank)
            memcpy(a->x + from, (const float *)cpu_group_of(g, r) + from,
                   (to - from) * sizeof *a->x);
    }
    cpu_group_done(g);
}

void cpu_all_gather(struct ops_device *d, const struct ops_all_gather *a)
{
    struct ops_group *g = d->config.group;
    uint32_t ranks = cpu_group_count(g);
    cpu_group_show(g, d->config.rank, a->in);
    for (uint32_t i = 0; i < a->rows_count; i++)
        for (uint32_t r = 0; r < ranks; r++)
            memcpy(a->out + ((uint64_t)i * ranks + r) * a->columns,
                   (const float *)cpu_group_of(g, r) + (uint64_t)i * a->columns,
                   a->columns * sizeof *a->out);
    cpu_group_done(g);
}
