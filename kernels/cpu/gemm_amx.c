/* kernels/cpu/gemm_amx.c — Y = X W^T on AMX tiles: 32 rows by 32 columns at a time, four sums.
 *
 * A tile product adds for each of its 16 rows a sum over 32 of k that the other rows have no part in, so
 * a row's result is the same in any company. Tiles are configured by each task and released by it; the
 * configuration is loaded by assembly with a memory clobber, because gcc 12 may otherwise move the writes
 * that fill it behind the instruction that reads it. */
#include "kernels/cpu/amx.h"
#include "kernels/cpu/pack.h"
#include "kernels/cpu/simd.h"

#define PANEL 32u

/* Rows [row, row + 16 * tiles) of a panel, tiles 1 or 2; x: packed rows of the first 16. */
static void product(const struct ops_gemm *a, const uint8_t *x, const uint8_t *w, uint32_t tiles,
                    uint32_t blocks)
{
    uint64_t next = (uint64_t)blocks * AMX_TILE_BYTES; /* from 16 rows to the next 16 */
    (void)a;
    AMX_ZERO(0);
    AMX_ZERO(1);
    if (tiles == 1) {
        for (uint32_t b = 0; b < blocks; b++, x += AMX_TILE_BYTES, w += 2 * AMX_TILE_BYTES) {
            __builtin_prefetch(w + 8 * AMX_TILE_BYTES);
            AMX_LOAD(4, x, 64);
            AMX_LOAD(6, w, 64);
            AMX_LOAD(7, w + AMX_TILE_BYTES, 64);
            AMX_DOT(0, 4, 6);
            AMX_DOT(1, 4, 7);
        }
        return;
    }
    AMX_ZERO(2);
    AMX_ZERO(3);
    for (uint32_t b = 0; b < blocks; b++, x += AMX_TILE_BYTES, w += 2 * AMX_TILE_BYTES) {
        AMX_LOAD(4, x, 64);
        AMX_LOAD(6, w, 64);
        AMX_LOAD(7, w + AMX_TILE_BYTES, 64);
        AMX_LOAD(5, x + next, 64);
        AMX_DOT(0, 4, 6);
        AMX_DOT(1, 4, 7);
        AMX_DOT(2, 5, 6);
        AMX_DOT(3, 5, 7);
    }
}

static void put(const struct ops_gemm *a, const float *tile, uint32_t row, uint32_t column)
{
    if (column >= a->w.n)
        return;
    uint32_t count = a->w.n - column < SIMD_LANES ? a->w.n - column : SIMD_LANES;
    uint32_t rows = a->rows_count - row < 16 ? a->rows_count - row : 16;
    vec bias = a->bias ? vec_load_part(a->bias + column, count, 0) : vec_set(0);
    for (uint32_t r = 0; r < rows; r++, tile += SIMD_LANES) {
        float *y = a->y + (uint64_t)(row + r) * a->w.n + column;
        vec sum = vec_load(tile) + bias;
        vec_store_part(y, a->accumulate ? vec_load_part(y, count, 0) + sum : sum, count);
    }
}

void cpu_gemm_bf16_amx(struct ops_device *d, const struct ops_gemm *a, uint32_t thread)
{
    uint32_t k = cpu_padded(a->w.k), blocks = k / 32, panels = cpu_padded(a->w.n) / PANEL;
    float out[4][256] __attribute__((aligned(64)));
    const uint8_t *packed = pack_rows(d, a->x, a->rows_count, a->w.k, thread);
    amx_begin();
    for (uint32_t panel; (panel = cpu_chunk_next(d)) < panels;) {
        const uint8_t *w = (const uint8_t *)a->w.data + (uint64_t)panel * PANEL * k * 2;
        for (uint32_t row = 0; row < a->rows_count; row += 32) {
            uint32_t tiles = a->rows_count - row > 16 ? 2 : 1;
            product(a, packed + (uint64_t)row * k * 2, w, tiles, blocks);
            AMX_STORE(0, out[0], 64);
            AMX_STORE(1, out[1], 64);
            put(a, out[0], row, panel * PANEL);
            put(a, out[1], row, panel * PANEL + 16);
            if (tiles == 1)
                continue;
            AMX_STORE(2, out[2], 64);
            AMX_STORE(3, out[3], 64);
            put(a, out[2], row + 16, panel * PANEL);
            put(a, out[3], row + 16, panel * PANEL + 16);
        }
    }
    amx_end();
}
