/* kernels/cpu/attention_amx.c — attention over bf16 pages on AMX tiles, 16 queries at a time. A page's keys
 * and values are stored as B tiles. Rows of a tile know nothing of each other, so a query's numbers are the
 * same with whomever it shares one. */
#include "kernels/cpu/amx.h"
#include "kernels/cpu/attention_vec.h"

/* Scores of 16 queries with the 32 tokens of a page: [16][32]. */
static void scores(const uint8_t *q, const uint8_t *k, uint32_t dim, float *out)
{
    AMX_ZERO(0);
    AMX_ZERO(1);
    for (uint32_t j = 0; j < dim / 32; j++) {
        AMX_LOAD(4, q + j * 64, dim * 2);
        AMX_LOAD(6, k + j * AMX_TILE_BYTES, 64);
        AMX_LOAD(7, k + (uint64_t)dim * 32 + j * AMX_TILE_BYTES, 64);
        AMX_DOT(0, 4, 6);
        AMX_DOT(1, 4, 7);
    }
    AMX_STORE(0, out, 128);
    AMX_STORE(1, out + 16, 128);
}

/* Weighted values of 16 queries: [16][dim]. */
static void values(const uint16_t *weights, const uint8_t *v, uint32_t dim, float *out)
{
    AMX_LOAD(4, weights, 64);
    for (uint32_t j = 0; j < dim / 16; j += 2) {
        AMX_ZERO(0);
        AMX_ZERO(1);
        AMX_LOAD(6, v + j * AMX_TILE_BYTES, 64);
        AMX_LOAD(7, v + (j + 1) * AMX_TILE_BYTES, 64);
        AMX_DOT(0, 4, 6);
        AMX_DOT(1, 4, 7);
        AMX_STORE(0, out + j * 16, dim * 4);
        AMX_STORE(1, out + j * 16 + 16, dim * 4);
    }
}

static void queries_page(const struct ops_attention *a, const struct attention_block *b,
                         uint32_t page, const uint8_t *kv, uint32_t row_first, uint32_t row_end)
{
    uint32_t dim = cpu_padded(a->kv.head_dim);
    float *score = b->work, *value = score + 16 * OPS_PAGE_TOKENS;
    uint16_t *weight = (uint16_t *)(void *)(value + 16 * ATTENTION_DIM_MAX);
    uint32_t end = row_end * b->group;
    for (uint32_t i = row_first * b->group; i < end; i += 16) {
        uint32_t count = end - i < 16 ? end - i : 16;
        float greatest[16], sum[16];
        scores(b->queries + (uint64_t)i * dim * 2, kv, dim, score);
        memset(weight, 0, 16 * OPS_PAGE_TOKENS * sizeof *weight);
        for (uint32_t r = 0; r < count; r++) {
            uint32_t first, last;
            sum[r] = 0;
            if (!attention_sees(a, b->row_first + (i + r) / b->group, page, &first, &last))
                continue;
            vec s[2] = {vec_load(score + r * 32), vec_load(score + r * 32 + 16)};
            greatest[r] = scores_finish(a, page, first, last, s);
            vec left = vec_exp(s[0] - greatest[r]), right = vec_exp(s[1] - greatest[r]);
            vech h[2] = {vec_to_bf16(left), vec_to_bf16(right)};
            memcpy(weight + r * OPS_PAGE_TOKENS, h, sizeof h);
            sum[r] = vec_sum(left) + vec_sum(right);
        }
        values(weight, kv + (uint64_t)OPS_PAGE_TOKENS * dim * 2, dim, value);
        for (uint32_t r = 0; r < count; r++)
            if (sum[r] > 0)
                state_add(&b->states[i + r], dim, greatest[r], sum[r], value + r * dim);
    }
}

void cpu_attention_bf16_amx(struct ops_device *d, const struct ops_attention *a, uint32_t thread)
{
    amx_begin();
    attention_run(d, a, thread, queries_page, span_add, block_write);
    amx_end();
}
