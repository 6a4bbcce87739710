/* kernels/cpu/rows_body.h — what is done to each row or element by itself, in simd.h. Included by the file
 * of each level, which defines LEVEL(name). A row is one chunk of work. */
#pragma once
#include "kernels/cpu/internal.h"
#include "kernels/cpu/simd.h"

SIMD_INLINE void act_put(const struct ops_device *d, void *to, uint64_t at, vec v, uint32_t count)
{
    if (d->config.activation == OPS_F32) {
        vec_store_part((float *)to + at, v, count);
    } else {
        vech h = vec_to_bf16(v);
        if (count == SIMD_LANES)
            memcpy((uint16_t *)to + at, &h, sizeof h);
        else
            memcpy((uint16_t *)to + at, &h, count * sizeof(uint16_t));
    }
}

SIMD_INLINE uint32_t lanes_at(uint32_t at, uint32_t columns)
{
    return columns - at < SIMD_LANES ? columns - at : SIMD_LANES;
}

static void norm_row(struct ops_device *d, const struct ops_norm *a, uint64_t row)
{
    uint64_t base = row * a->columns;
    const float *in = a->in + base;
    vec sum = {0}, squares = {0};
    float mean = 0;
    if (a->kind == OPS_NORM_LAYER) {
        for (uint32_t j = 0; j < a->columns; j += SIMD_LANES)
            sum += vec_load_part(in + j, lanes_at(j, a->columns), 0);
        mean = vec_sum(sum) / (float)a->columns;
    }
    for (uint32_t j = 0; j < a->columns; j += SIMD_LANES) {
        vec x = vec_load_part(in + j, lanes_at(j, a->columns), mean) - mean;
        squares += x * x;
    }
    float scale = 1.0f / sqrtf(vec_sum(squares) / (float)a->columns + a->epsilon);
    for (uint32_t j = 0; j < a->columns; j += SIMD_LANES) {
        uint32_t count = lanes_at(j, a->columns);
        vec y = (vec_load_part(in + j, count, 0) - mean) * scale;
        y *= vec_load_part(a->weight + j, count, 0);
        if (a->bias)
            y += vec_load_part(a->bias + j, count, 0);
        if (a->out)
            act_put(d, a->out, base + j, y, count);
        if (a->add_to) {
            vec to = vec_load_part(a->add_to + base + j, count, 0) + y;
            vec_store_part(a->add_to + base + j, to, count);
        }
        if (a->out_f32)
            vec_store_part(a->out_f32 + base + j, y, count);
    }
}

static void LEVEL(cpu_norm)(struct ops_device *d, const struct ops_norm *a, uint32_t thread)
{
    (void)thread;
    for (uint32_t row; (row = cpu_chunk_next(d)) < a->rows_count;)
        norm_row(d, a, row);
}

SIMD_INLINE vec gate_of(enum ops_gate_kind kind, vec x)
{
    if (kind == OPS_GATE_SILU)
        return x / (1.0f + vec_exp(-x));
    if (kind == OPS_GATE_GELU_TANH)
        return 0.5f * x * (1.0f + vec_tanh(0.7978845608028654f * (x + 0.044715f * x * x * x)));
    float e[SIMD_LANES];
    vec_store(e, x);
    for (uint32_t i = 0; i < SIMD_LANES; i++)
        e[i] = erff(e[i] * 0.70710678f);
    return 0.5f * x * (1.0f + vec_load(e));
}

static void LEVEL(cpu_gate)(struct ops_device *d, const struct ops_gate *a, uint32_t thread)
{
    (void)thread;
    for (uint32_t row; (row = cpu_chunk_next(d)) < a->rows_count;) {
        const float *in = a->in + (uint64_t)row * a->columns * (a->gated ? 2 : 1);
        for (uint32_t j = 0; j < a->columns; j += SIMD_LANES) {
            uint32_t count = lanes_at(j, a->columns);
            vec y = gate_of(a->kind, vec_load_part(in + j, count, 0));
            if (a->gated)
                y *= vec_load_part(in + a->columns + j, count, 0);
            act_put(d, a->out, (uint64_t)row * a->columns + j, y, count);
        }
    }
}

#define ADD_CHUNK 16384u

static void LEVEL(cpu_add)(struct ops_device *d, const struct ops_add *a, uint32_t thread)
{
    uint64_t chunks = (a->count + ADD_CHUNK - 1) / ADD_CHUNK;
    (void)thread;
    for (uint64_t c; (c = cpu_chunk_next(d)) < chunks;) {
        uint64_t end = (c + 1) * ADD_CHUNK < a->count ? (c + 1) * ADD_CHUNK : a->count;
        for (uint64_t i = c * ADD_CHUNK; i < end; i++)
            a->to[i] += a->from[i];
    }
}

static void LEVEL(cpu_dot)(struct ops_device *d, const struct ops_dot *a, uint32_t thread)
{
    (void)thread;
    for (uint32_t row; (row = cpu_chunk_next(d)) < a->rows_count;) {
        vec sum = {0};
        for (uint32_t j = 0; j < a->columns; j += SIMD_LANES) {
            uint32_t count = lanes_at(j, a->columns);
            sum += vec_load_part(a->in + (uint64_t)row * a->columns + j, count, 0) *
                   vec_load_part(a->vector + j, count, 0);
        }
        a->out[row] = vec_sum(sum);
    }
}

static void LEVEL(cpu_row_mean)(struct ops_device *d, const struct ops_row_mean *a, uint32_t thread)
{
    (void)thread;
    for (uint32_t row; (row = cpu_chunk_next(d)) < a->rows_count;) {
        vec sum = {0};
        for (uint32_t j = 0; j < a->columns; j += SIMD_LANES)
            sum +=
                vec_load_part(a->in + (uint64_t)row * a->columns + j, lanes_at(j, a->columns), 0);
        a->out[row] = vec_sum(sum) / (float)a->columns;
    }
}

static void LEVEL(cpu_softcap)(struct ops_device *d, const struct ops_softcap *a, uint32_t thread)
{
    uint64_t chunks = (a->count + ADD_CHUNK - 1) / ADD_CHUNK;
    (void)thread;
    for (uint64_t c; (c = cpu_chunk_next(d)) < chunks;) {
        uint64_t end = (c + 1) * ADD_CHUNK < a->count ? (c + 1) * ADD_CHUNK : a->count;
        for (uint64_t i = c * ADD_CHUNK; i < end; i += SIMD_LANES) {
            uint32_t count =
                lanes_at((uint32_t)(i - c * ADD_CHUNK), (uint32_t)(end - c * ADD_CHUNK));
            vec x = vec_tanh(vec_load_part(a->x + i, count, 0) / a->cap) * a->cap;
            vec_store_part(a->x + i, x, count);
        }
    }
}
