/* kernels/cpu/attention_body.h — attention() of ops.h in simd.h. Included by the file of each level,
 * which defines LEVEL(name).
 *
 * Work is cut into blocks of ATTENTION_ROWS neighbouring rows times a KV head. A block goes through the pages
 * in order; at each place the rows that have the same page there take it one after the other, while it is in
 * the cache, so it comes from memory once. What a query does with a page is the same function whoever else
 * is there: that is what makes the result independent of the batch. */
#pragma once
#include "kernels/cpu/attention_vec.h"

/* ---- attention ------------------------------------------------------------------------------- */

/* Scores of 32 tokens, then their weighted sum of values; bf16: pairs as internal.h lays them out. */
SIMD_INLINE void scores_bf16(const uint32_t *q, const uint32_t *k, uint32_t pairs, vec s[2])
{
    vec left = {0}, right = {0};
    const uint32_t *second = k + pairs * 16;
    for (uint32_t p = 0; p < pairs; p++, k += 16, second += 16) {
        uint32_t bits_even = q[p] << 16, bits_odd = q[p] & 0xffff0000u;
        float even, odd;
        memcpy(&even, &bits_even, 4);
        memcpy(&odd, &bits_odd, 4);
        vecu a = vecu_load(k), b = vecu_load(second);
        left += vec_even(a) * even;
        left += vec_odd(a) * odd;
        right += vec_even(b) * even;
        right += vec_odd(b) * odd;
    }
    s[0] = left;
    s[1] = right;
}

SIMD_INLINE void scores_f32(const float *q, const float *k, uint32_t dim, vec s[2])
{
    vec left = {0}, right = {0};
    for (uint32_t j = 0; j < dim; j++, k += OPS_PAGE_TOKENS) {
        left += vec_load(k) * q[j];
        right += vec_load(k + SIMD_LANES) * q[j];
    }
    s[0] = left;
    s[1] = right;
}

SIMD_INLINE vec values_bf16(const uint32_t *weights, const uint32_t *v)
{
    vec sum = {0};
    for (uint32_t p = 0; p < 16; p++, v += 16) {
        uint32_t bits_even = weights[p] << 16, bits_odd = weights[p] & 0xffff0000u;
        float even, odd;
        memcpy(&even, &bits_even, 4);
        memcpy(&odd, &bits_odd, 4);
        vecu a = vecu_load(v);
        sum += vec_even(a) * even;
        sum += vec_odd(a) * odd;
    }
    return sum;
}

SIMD_INLINE vec values_f32(const float *weights, const float *v, uint32_t dim)
{
    vec sum = {0};
    for (uint32_t t = 0; t < OPS_PAGE_TOKENS; t++, v += dim)
        sum += vec_load(v) * weights[t];
    return sum;
}

SIMD_INLINE void query_page(const struct ops_attention *a, bool f32, const void *q,
                            const uint8_t *kv, uint32_t page, uint32_t first, uint32_t last,
                            struct attention_state *state)
{
    uint32_t dim = cpu_padded(a->kv.head_dim);
    float values[ATTENTION_DIM_MAX];
    vec s[2];
    if (f32)
        scores_f32(q, (const float *)(const void *)kv, dim, s);
    else
        scores_bf16(q, (const uint32_t *)(const void *)kv, dim / 2, s);
    float greatest = scores_finish(a, page, first, last, s);
    vec left = vec_exp(s[0] - greatest), right = vec_exp(s[1] - greatest);
    const uint8_t *v = kv + (uint64_t)OPS_PAGE_TOKENS * dim * (f32 ? 4 : 2);
    if (f32) {
        float weights[OPS_PAGE_TOKENS];
        vec_store(weights, left);
        vec_store(weights + SIMD_LANES, right);
        for (uint32_t j = 0; j < dim; j += SIMD_LANES)
            vec_store(values + j, values_f32(weights, (const float *)(const void *)v + j, dim));
    } else {
        uint32_t weights[16];
        vech h[2] = {vec_to_bf16(left), vec_to_bf16(right)};
        memcpy(weights, h, sizeof weights);
        for (uint32_t j = 0; j < dim; j += SIMD_LANES)
            vec_store(values + j, values_bf16(weights, (const uint32_t *)(const void *)v + j * 16));
    }
    state_add(state, dim, greatest, vec_sum(left) + vec_sum(right), values);
}

SIMD_INLINE void queries_page(const struct ops_attention *a, bool f32,
                              const struct attention_block *b, uint32_t page, const uint8_t *kv,
                              uint32_t row_first, uint32_t row_end)
{
    uint64_t dim = cpu_padded(a->kv.head_dim);
    for (uint32_t i = row_first * b->group; i < row_end * b->group; i++) {
        uint32_t first, last;
        if (attention_sees(a, b->row_first + i / b->group, page, &first, &last))
            query_page(a, f32, b->queries + i * dim * (f32 ? 4 : 2), kv, page, first, last,
                       &b->states[i]);
    }
}

static void queries_page_bf16(const struct ops_attention *a, const struct attention_block *b,
                              uint32_t page, const uint8_t *kv, uint32_t row_first,
                              uint32_t row_end)
{
    queries_page(a, false, b, page, kv, row_first, row_end);
}

static void queries_page_f32(const struct ops_attention *a, const struct attention_block *b,
                             uint32_t page, const uint8_t *kv, uint32_t row_first, uint32_t row_end)
{
    queries_page(a, true, b, page, kv, row_first, row_end);
}

static void LEVEL(cpu_attention_bf16)(struct ops_device *d, const struct ops_attention *a,
                                      uint32_t thread)
{
    attention_run(d, a, thread, queries_page_bf16, span_add, block_write);
}

static void LEVEL(cpu_attention_f32)(struct ops_device *d, const struct ops_attention *a,
                                     uint32_t thread)
{
    attention_run(d, a, thread, queries_page_f32, span_add, block_write);
}

/* ---- encoders -------------------------------------------------------------------------------- */

static void full_row(struct ops_device *d, const struct ops_attention_full *a, uint32_t row,
                     uint32_t head, float *scores)
{
    uint32_t dim = a->head_dim, count = a->row_count[row];
    uint64_t stride = 3ull * a->heads * dim;
    const float *q = a->qkv + row * stride + head * dim;
    const float *k = a->qkv + a->row_first[row] * stride + (a->heads + head) * dim;
    float greatest = -INFINITY, sum = 0, out[ATTENTION_DIM_MAX] = {0};
    for (uint32_t t = 0; t < count; t++, k += stride) {
        vec dot = {0};
        for (uint32_t j = 0; j < dim; j += SIMD_LANES) {
            uint32_t lanes = dim - j < SIMD_LANES ? dim - j : SIMD_LANES;
            dot += vec_load_part(q + j, lanes, 0) * vec_load_part(k + j, lanes, 0);
        }
        scores[t] = vec_sum(dot) * a->scale;
        greatest = scores[t] > greatest ? scores[t] : greatest;
    }
    for (uint32_t t = 0; t < count; t += SIMD_LANES) {
        uint32_t lanes = count - t < SIMD_LANES ? count - t : SIMD_LANES;
        vec w = vec_exp(vec_load_part(scores + t, lanes, -INFINITY) - greatest);
        vec_store_part(scores + t, w, lanes);
        sum += vec_sum(w);
    }
    const float *v = a->qkv + a->row_first[row] * stride + (2 * a->heads + head) * dim;
    for (uint32_t t = 0; t < count; t++, v += stride)
        for (uint32_t j = 0; j < dim; j++)
            out[j] += scores[t] * v[j];
    for (uint32_t j = 0; j < dim; j++)
        out[j] /= sum;
    to_act(d, a->out, ((uint64_t)row * a->heads + head) * dim, out, dim);
}

static void LEVEL(cpu_attention_full)(struct ops_device *d, const struct ops_attention_full *a,
                                      uint32_t thread)
{
    uint32_t items = a->tokens_count * a->heads;
    for (uint32_t i; (i = cpu_chunk_next(d)) < items;)
        full_row(d, a, i / a->heads, i % a->heads, (float *)(void *)d->scratch[thread]);
}
