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

/* What one register of the level holds: compilers keep vectors that are longer in memory, and spread a number over
 * them lane by lane. Each lane has a sum of its own, so that nothing depends on how many there are. */
#if defined __AVX512F__
#define PART 16u
#elif defined __AVX__
#define PART 8u
#else
#define PART 4u
#endif
typedef float part __attribute__((vector_size(4 * PART)));
typedef uint32_t partu __attribute__((vector_size(4 * PART)));

SIMD_INLINE part part_load(const float *p, uint32_t count)
{
    part v = {0};
    if (count == PART)
        memcpy(&v, p, sizeof v);
    else
        memcpy(&v, p, count * sizeof *p);
    return v;
}

SIMD_INLINE void gemm_put(const struct ops_gemm *a, uint32_t row, uint32_t column, part sum)
{
    if (column >= a->w.n)
        return;
    uint32_t count = a->w.n - column < PART ? a->w.n - column : PART;
    float *y = a->y + (uint64_t)row * a->w.n + column;
    if (a->bias)
        sum += part_load(a->bias + column, count);
    if (a->accumulate)
        sum = part_load(y, count) + sum;
    if (count == PART)
        memcpy(y, &sum, sizeof sum);
    else
        memcpy(y, &sum, count * sizeof *y);
}

/* ROWS rows of one panel, two parts of its columns at a time; x: packed rows of one block of 16, from row 0 on. */
#define GEMM_BF16_ROWS(name, ROWS)                                                                 \
    SIMD_INLINE void name(const struct ops_gemm *a, const uint32_t *x, const uint32_t *w,          \
                          uint32_t row, uint32_t column)                                           \
    {                                                                                              \
        uint32_t blocks = cpu_padded(a->w.k) / 32;                                                 \
        for (uint32_t at = 0; at < PANEL; at += 2 * PART) {                                        \
            const uint32_t *ws = w + at / 16 * 256 + at % 16, *xs = x;                             \
            uint32_t next = PART == 16 ? 256 : PART;                                               \
            part sum[ROWS][2] = {{{0}}};                                                           \
            for (uint32_t b = 0; b < blocks; b++, xs += 16 * 16, ws += 2 * 16 * 16)                \
                for (uint32_t p = 0; p < 16; p++) {                                                \
                    partu pairs[2];                                                                \
                    memcpy(&pairs[0], ws + p * 16, sizeof pairs[0]);                               \
                    memcpy(&pairs[1], ws + p * 16 + next, sizeof pairs[1]);                        \
                    for (uint32_t r = 0; r < (ROWS); r++) {                                        \
                        uint32_t pair = xs[r * 16 + p];                                            \
                        uint32_t bits_even = pair << 16, bits_odd = pair & 0xffff0000u;            \
                        float even, odd;                                                           \
                        memcpy(&even, &bits_even, 4);                                              \
                        memcpy(&odd, &bits_odd, 4);                                                \
                        sum[r][0] += (part)(pairs[0] << 16) * even;                                \
                        sum[r][0] += (part)(pairs[0] & 0xffff0000u) * odd;                         \
                        sum[r][1] += (part)(pairs[1] << 16) * even;                                \
                        sum[r][1] += (part)(pairs[1] & 0xffff0000u) * odd;                         \
                    }                                                                              \
                }                                                                                  \
            for (uint32_t r = 0; r < (ROWS); r++) {                                                \
                gemm_put(a, row + r, column + at, sum[r][0]);                                      \
                gemm_put(a, row + r, column + at + PART, sum[r][1]);                               \
            }                                                                                      \
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
        for (uint32_t at = 0; at < PANEL; at += 2 * PART) {                                        \
            const float *ws = w + at;                                                              \
            part sum[ROWS][2] = {{{0}}};                                                           \
            for (uint32_t k = 0; k < a->w.k; k++, ws += PANEL) {                                   \
                part parts[2];                                                                     \
                memcpy(parts, ws, sizeof parts);                                                   \
                for (uint32_t r = 0; r < (ROWS); r++) {                                            \
                    float value = x[(uint64_t)r * a->w.k + k];                                     \
                    sum[r][0] += parts[0] * value;                                                 \
                    sum[r][1] += parts[1] * value;                                                 \
                }                                                                                  \
            }                                                                                      \
            for (uint32_t r = 0; r < (ROWS); r++) {                                                \
                gemm_put(a, row + r, column + at, sum[r][0]);                                      \
                gemm_put(a, row + r, column + at + PART, sum[r][1]);                               \
            }                                                                                      \
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
