/* kernels/cpu/attention_amx.c — attention over bf16 pages on AMX tiles, 16 queries at a time. A page's keys
 * and values are stored as B tiles. Rows of a tile know nothing of each other, so a query's numbers are the
 * same with whomever it shares one. */
#include "kernels/cpu/amx.h"
#include "kernels/cpu/attention_vec.h"

struct page_sums { /* of 16 queries over one page */
    float greatest[16];
    float sum[16];
};

/* Scores of 16 queries (second: and the next 16) with the 32 tokens of a page: [16 or 32][32]. */
static void scores(const uint8_t *q, bool second, const uint8_t *k, uint32_t dim, float *out)
{
    AMX_ZERO(0);
    AMX_ZERO(1);
    AMX_ZERO(2);
    AMX_ZERO(3);
    for (uint32_t j = 0; j < dim / 32; j++) {
        AMX_LOAD(4, q + j * 64, dim * 2);
        AMX_LOAD(6, k + j * AMX_TILE_BYTES, 64);
        AMX_LOAD(7, k + (uint64_t)dim * 32 + j * AMX_TILE_BYTES, 64);
        AMX_DOT(0, 4, 6);
        AMX_DOT(1, 4, 7);
        if (!second)
            continue;
        AMX_LOAD(5, q + dim * 32 + j * 64, dim * 2);
        AMX_DOT(2, 5, 6);
        AMX_DOT(3, 5, 7);
    }
    AMX_STORE(0, out, 128);
    AMX_STORE(1, out + 16, 128);
    if (second) {
        AMX_STORE(2, out + 16 * OPS_PAGE_TOKENS, 128);
        AMX_STORE(3, out + 16 * OPS_PAGE_TOKENS + 16, 128);
    }
}

/* Weighted values of 16 queries (second: and the next 16): [16 or 32][dim]. */
static void values(const uint16_t *weights, bool second, const uint8_t *v, uint32_t dim, float *out)
{
    AMX_LOAD(4, weights, 64);
    if (second)
        AMX_LOAD(5, weights + 16 * OPS_PAGE_TOKENS, 64);
    for (uint32_t j = 0; j < dim / 16; j += 2) {
        AMX_ZERO(0);
        AMX_ZERO(1);
        AMX_LOAD(6, v + j * AMX_TILE_BYTES, 64);
        AMX_LOAD(7, v + (j + 1) * AMX_TILE_BYTES, 64);
        AMX_DOT(0, 4, 6);
        AMX_DOT(1, 4, 7);
        if (second) {
            AMX_ZERO(2);
            AMX_ZERO(3);
            AMX_DOT(2, 5, 6);
            AMX_DOT(3, 5, 7);
        }
        AMX_STORE(0, out + j * 16, dim * 4);
        AMX_STORE(1, out + j * 16 + 16, dim * 4);
        if (second) {
            AMX_STORE(2, out + 16 * dim + j * 16, dim * 4);
            AMX_STORE(3, out + 16 * dim + j * 16 + 16, dim * 4);
        }
    }
}

/* What up to 16 queries make of their scores: weights in activation type, their sums, the greatest. */
static void weights_make(const struct ops_attention *a, const struct attention_block *b,
                         uint32_t page, uint32_t query, uint32_t count, const float *score,
                         uint16_t *weight, struct page_sums *sums)
{
    for (uint32_t r = 0; r < count; r++) {
        uint32_t first, last;
        vech *to = (vech *)(void *)(weight + r * OPS_PAGE_TOKENS);
        sums->sum[r] = 0;
        if (!attention_sees(a, b->row_first + (query + r) / b->group, page, &first, &last)) {
            to[0] = to[1] = (vech){0};
            sums->greatest[r] = -INFINITY;
            continue;
        }
        vec s[2] = {vec_load(score + r * 32), vec_load(score + r * 32 + 16)};
        sums->greatest[r] = scores_finish(a, page, first, last, s);
        vec left = vec_exp(s[0] - sums->greatest[r]), right = vec_exp(s[1] - sums->greatest[r]);
        to[0] = vec_to_bf16(left);
        to[1] = vec_to_bf16(right);
        sums->sum[r] = vec_sum(left) + vec_sum(right);
    }
    if (count < 16)
        memset(weight + count * OPS_PAGE_TOKENS, 0,
               (16 - count) * OPS_PAGE_TOKENS * sizeof *weight);
}

/* A page of up to 16 queries into their running states, as state_add() does; the exponentials of all
 * are one vector. */
static void states_add(struct attention_state *states, uint32_t count, uint32_t dim,
                       const struct page_sums *sums, const float *value)
{
    float before[16] = {0}, factor[16];
    for (uint32_t r = 0; r < count; r++)
        before[r] = states[r].greatest;
    vec old = vec_load(before), new = vec_load(sums->greatest);
    vec_store(factor, vec_exp(vec_pick(new > old, old - new, new - old)));
    for (uint32_t r = 0; r < count; r++, value += dim)
        if (!(sums->sum[r] == 0)) /* 0: nothing seen; a NaN must show */
            state_join(&states[r], dim, sums->greatest[r], sums->sum[r], factor[r], value);
}

/* Two times 16 queries at once: four sums keep the tile unit busy, and each key and value is loaded
 * once for both. */
static void queries_page(const struct ops_attention *a, const struct attention_block *b,
                         uint32_t page, const uint8_t *kv, uint32_t row_first, uint32_t row_end)
{
    uint32_t dim = cpu_padded(a->kv.head_dim);
    float *score = b->work, *value = score + ATTENTION_WORK_QUERIES * OPS_PAGE_TOKENS;
    uint16_t *weight = (uint16_t *)(void *)(value + ATTENTION_WORK_QUERIES * ATTENTION_DIM_MAX);
    uint32_t end = row_end * b->group;
    for (uint32_t i = row_first * b->group; i < end; i += ATTENTION_WORK_QUERIES) {
        struct page_sums sums[ATTENTION_WORK_QUERIES / 16] = {0};
        uint32_t count = end - i < ATTENTION_WORK_QUERIES ? end - i : ATTENTION_WORK_QUERIES;
        scores(b->queries + (uint64_t)i * dim * 2, count > 16, kv, dim, score);
        for (uint32_t r = 0; r < count; r += 16)
            weights_make(a, b, page, i + r, count - r < 16 ? count - r : 16, score + r * 32,
                         weight + r * OPS_PAGE_TOKENS, &sums[r / 16]);
        values(weight, count > 16, kv + (uint64_t)OPS_PAGE_TOKENS * dim * 2, dim, value);
        for (uint32_t r = 0; r < count; r += 16)
            states_add(b->states + i + r, count - r < 16 ? count - r : 16, dim, &sums[r / 16],
                       value + r * dim);
    }
}

void cpu_attention_bf16_amx(struct ops_device *d, const struct ops_attention *a, uint32_t thread)
{
    amx_begin();
    attention_run(d, a, thread, queries_page, span_add, block_write);
    amx_end();
}
