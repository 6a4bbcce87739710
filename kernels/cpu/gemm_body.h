/* kernels/cpu/gemm_body.h — Y = X W^T of internal.h's layouts, in simd.h. Included by the file of each
 * level, which defines LEVEL(name).
 *
 * A panel of 32 columns is one chunk of work: its weights stream from memory once, for all rows. Each
 * row has its own sums, over k from first to last, so that their order is the same at any number of
 * rows and threads. */
#pragma once
#include "kernels/cpu/internal.h"
#include "kernels/cpu/pack.h"
#include "kernels/cpu/simd.h"

#define PANEL 32u

SIMD_INLINE void gemm_put(const struct ops_gemm *a, uint32_t row, uint32_t column, vec sum)
{
    uint32_t count = a->w.n - column < SIMD_LANES ? a->w.n - column : SIMD_LANES;
    float *y = a->y + (uint64_t)row * a->w.n + column;
    if (a->bias)
        sum += vec_load_part(a->bias + column, count, 0);
    if (a->accumulate)
        sum = vec_load_part(y, count, 0) + sum;
    vec_store_part(y, sum, count);
}

/* ROWS rows of one panel; x: packed rows of one block of 16, from row 0 on. */
#define GEMM_BF16_ROWS(name, ROWS)                                                                 \
    SIMD_INLINE void name(const struct ops_gemm *a, const uint32_t *x, const uint32_t *w,          \
                          uint32_t row, uint32_t column)                                           \
    {                                                                                              \
        uint32_t blocks = cpu_padded(a->w.k) / 32;                                                 \
        vec sum[ROWS][2] = {{{0}}};                                                                \
        for (uint32_t b = 0; b < blocks; b++, x += 16 * 16, w += 2 * 16 * 16)                      \
            for (uint32_t p = 0; p < 16; p++) {                                                    \
                vecu left = vecu_load(w + p * 16), right = vecu_load(w + 256 + p * 16);            \
                vec left_even = vec_even(left), left_odd = vec_odd(left);                          \
                vec right_even = vec_even(right), right_odd = vec_odd(right);                      \
                for (uint32_t r = 0; r < (ROWS); r++) {                                            \
                    uint32_t pair = x[r * 16 + p];                                                 \
                    uint32_t bits_even = pair << 16, bits_odd = pair & 0xffff0000u;                \
                    float even, odd;                                                               \
                    memcpy(&even, &bits_even, 4);                                                  \
                    memcpy(&odd, &bits_odd, 4);                                                    \
                    sum[r][0] += left_even * even;                                                 \
                    sum[r][0] += left_odd * odd;                                                   \
                    sum[r][1] += right_even * even;                                                \
                    sum[r][1] += right_odd * odd;                                                  \
                }                                                                                  \
            }                                                                                      \
        for (uint32_t r = 0; r < (ROWS); r++) {                                                    \
            gemm_put(a, row + r, column, sum[r][0]);                                               \
            if (column + SIMD_LANES < a->w.n)                                                      \
                gemm_put(a, row + r, column + SIMD_LANES, sum[r][1]);                              \
        }                                                                                          \
    }
GEMM_BF16_ROWS(gemm_bf16_1, 1)
GEMM_BF16_ROWS(gemm_bf16_4, 4)

static void LEVEL(cpu_gemm_bf16)(struct ops_device *d, const struct ops_gemm *a, uint32_t thread)
{
    uint32_t k = cpu_padded(a->w.k), panels = cpu_padded(a->w.n) / PANEL;
    const uint8_t *packed = pack_rows(d, a->x, a->rows_count, a->w.k, thread);
    for (uint32_t panel; (panel = cpu_chunk_next(d)) < panels;) {
        const uint32_t *w = (const uint32_t *)a->w.data + (uint64_t)panel * PANEL * k / 2;
        for (uint32_t row = 0; row < a->rows_count;) {
            const uint32_t *x = (const uint32_t *)(const void *)packed +
                                (uint64_t)(row / 16) * 8 * k + row % 16 * 16;
            if (row % 16 <= 12 && a->rows_count - row >= 4) {
                gemm_bf16_4(a, x, w, row, panel * PANEL);
                row += 4;
            } else {
                gemm_bf16_1(a, x, w, row, panel * PANEL);
                row += 1;
            }
        }
    }
}

#define GEMM_F32_ROWS(name, ROWS)                                                                  \
    SIMD_INLINE void name(const struct ops_gemm *a, const float *w, uint32_t row, uint32_t column) \
    {                                                                                              \
        const float *x = (const float *)a->x + (uint64_t)row * a->w.k;                             \
        vec sum[ROWS][2] = {{{0}}};                                                                \
        for (uint32_t k = 0; k < a->w.k; k++, w += PANEL) {                                        \
            vec left = vec_load(w), right = vec_load(w + SIMD_LANES);                              \
            for (uint32_t r = 0; r < (ROWS); r++) {                                                \
                float value = x[(uint64_t)r * a->w.k + k];                                         \
                sum[r][0] += left * value;                                                         \
                sum[r][1] += right * value;                                                        \
            }                                                                                      \
        }                                                                                          \
        for (uint32_t r = 0; r < (ROWS); r++) {                                                    \
            gemm_put(a, row + r, column, sum[r][0]);                                               \
            if (column + SIMD_LANES < a->w.n)                                                      \
                gemm_put(a, row + r, column + SIMD_LANES, sum[r][1]);                              \
        }                                                                                          \
    }
GEMM_F32_ROWS(gemm_f32_1, 1)
GEMM_F32_ROWS(gemm_f32_4, 4)

static void LEVEL(cpu_gemm_f32)(struct ops_device *d, const struct ops_gemm *a, uint32_t thread)
{
    uint32_t panels = cpu_padded(a->w.n) / PANEL;
    (void)thread;
    for (uint32_t panel; (panel = cpu_chunk_next(d)) < panels;) {
        const float *w = (const float *)a->w.data + (uint64_t)panel * PANEL * a->w.k;
        uint32_t row = 0;
        for (; row + 4 <= a->rows_count; row += 4)
            gemm_f32_4(a, w, row, panel * PANEL);
        for (; row < a->rows_count; row++)
            gemm_f32_1(a, w, row, panel * PANEL);
    }
}
