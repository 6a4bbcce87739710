/* kernels/cpu/qkv_body.h — qkv() of ops.h in simd.h: norms, rotation, and keys and values to their pages.
 * Included by the file of each level, which defines LEVEL(name). A row is one chunk of work. */
#pragma once
#include "kernels/cpu/attention_vec.h"

static void head_rotate(const struct ops_qkv *a, uint32_t row, const float *weight, const float *in,
                        float *out)
{
    uint32_t dim = a->kv.head_dim, half = a->rotary_dim / 2;
    float scale = 1;
    if (weight) {
        vec squares = {0};
        for (uint32_t j = 0; j < dim; j += SIMD_LANES) {
            vec x = vec_load_part(in + j, dim - j < SIMD_LANES ? dim - j : SIMD_LANES, 0);
            squares += x * x;
        }
        scale = 1.0f / sqrtf(vec_sum(squares) / (float)dim + a->norm_epsilon);
    }
    for (uint32_t j = 0; j < dim; j += SIMD_LANES) {
        uint32_t lanes = dim - j < SIMD_LANES ? dim - j : SIMD_LANES;
        vec x = vec_load_part(in + j, lanes, 0);
        if (weight)
            x = x * scale * vec_load_part(weight + j, lanes, 0);
        vec_store_part(out + j, x, lanes);
    }
    const float *cosine = a->cosine + (uint64_t)row * half, *sine = a->sine + (uint64_t)row * half;
    for (uint32_t j = 0; j < half; j += SIMD_LANES) {
        uint32_t lanes = half - j < SIMD_LANES ? half - j : SIMD_LANES;
        vec c = vec_load_part(cosine + j, lanes, 0), s = vec_load_part(sine + j, lanes, 0);
        vec x = vec_load_part(out + j, lanes, 0), y = vec_load_part(out + j + half, lanes, 0);
        vec_store_part(out + j, x * c - y * s, lanes);
        vec_store_part(out + j + half, y * c + x * s, lanes);
    }
}

static void qkv_row(struct ops_device *d, const struct ops_qkv *a, uint32_t row)
{
    uint32_t dim = a->kv.head_dim, all = a->heads + 2 * a->kv.kv_heads;
    const float *in = a->qkv + (uint64_t)row * all * dim;
    uint32_t position = a->batch.position[row], at = position % OPS_PAGE_TOKENS;
    uint32_t page = attention_page(&a->batch, row, position / OPS_PAGE_TOKENS);
    float rotated[ATTENTION_DIM_MAX];
    for (uint32_t h = 0; h < a->heads; h++) {
        head_rotate(a, row, a->q_norm, in + h * dim, rotated);
        to_act(d, a->q, ((uint64_t)row * a->heads + h) * dim, rotated, dim);
    }
    for (uint32_t h = 0; h < a->kv.kv_heads; h++) {
        uint8_t *kv = attention_kv(d, &a->kv, page, h);
        head_rotate(a, row, a->k_norm, in + (a->heads + h) * dim, rotated);
        attention_put(d, kv, dim, at, rotated, in + (a->heads + a->kv.kv_heads + h) * dim);
    }
}

static void page_begin(struct ops_device *d, const struct ops_qkv *a, uint32_t row)
{
    uint32_t position = a->batch.position[row];
    if (position % OPS_PAGE_TOKENS)
        return;
    uint32_t page = attention_page(&a->batch, row, position / OPS_PAGE_TOKENS);
    memset(attention_kv(d, &a->kv, page, 0), 0,
           a->kv.kv_heads * cpu_kv_page_bytes(d->config.activation, a->kv.head_dim));
}

static void LEVEL(cpu_qkv)(struct ops_device *d, const struct ops_qkv *a, uint32_t thread)
{
    if (a->batch.tokens_count == 1) { /* not worth a meeting */
        if (thread == 0) {
            page_begin(d, a, 0);
            qkv_row(d, a, 0);
        }
        return;
    }
    /* All pages that begin here are cleared before anybody writes to one: their rows are spread over
     * the threads. */
    for (uint32_t row; (row = cpu_chunk_next(d)) < a->batch.tokens_count;)
        page_begin(d, a, row);
    cpu_barrier(d);
    for (uint32_t row; (row = cpu_chunk_next(d)) < a->batch.tokens_count;)
        qkv_row(d, a, row);
}
