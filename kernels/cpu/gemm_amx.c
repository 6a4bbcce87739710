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

#define STEP_BYTES (2u * AMX_TILE_BYTES) /* of a panel's weights, 32 of k */

/* Adds steps of 32 of k to the sums of 32 rows (second: the upper 16 of them too) and 32 columns; x and the next
 * 16 rows behind it are next_bytes apart. */
static void product(const uint8_t *x, uint64_t next_bytes, const uint8_t *w, bool second,
                    uint32_t steps)
{
    if (!second) {
        for (uint32_t b = 0; b < steps; b++, x += AMX_TILE_BYTES, w += STEP_BYTES) {
            AMX_LOAD(4, x, 64);
            AMX_LOAD(6, w, 64);
            AMX_LOAD(7, w + AMX_TILE_BYTES, 64);
            AMX_DOT(0, 4, 6);
            AMX_DOT(1, 4, 7);
        }
        return;
    }
    for (uint32_t b = 0; b < steps; b++, x += AMX_TILE_BYTES, w += STEP_BYTES) {
        AMX_LOAD(4, x, 64);
        AMX_LOAD(6, w, 64);
        AMX_LOAD(7, w + AMX_TILE_BYTES, 64);
        AMX_LOAD(5, x + next_bytes, 64);
        AMX_DOT(0, 4, 6);
        AMX_DOT(1, 4, 7);
        AMX_DOT(2, 5, 6);
        AMX_DOT(3, 5, 7);
    }
}

static void sums_begin(bool second)
{
    AMX_ZERO(0);
    AMX_ZERO(1);
    if (second) {
        AMX_ZERO(2);
        AMX_ZERO(3);
    }
}

static void sums_load(const float *sums, bool second)
{
    AMX_LOAD(0, sums, 64);
    AMX_LOAD(1, sums + 256, 64);
    if (second) {
        AMX_LOAD(2, sums + 512, 64);
        AMX_LOAD(3, sums + 768, 64);
    }
}

static void sums_store(float *sums, bool second)
{
    AMX_STORE(0, sums, 64);
    AMX_STORE(1, sums + 256, 64);
    if (second) {
        AMX_STORE(2, sums + 512, 64);
        AMX_STORE(3, sums + 768, 64);
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

/* A chunk of rows of one panel, SLICE_STEPS of k at a time: so much of the panel stays in the L1 cache while all
 * rows go over it. Sums wait in memory meanwhile, in full precision: the order is as if they had not. */
#define SLICE_STEPS 64u

static void panel_rows(const struct ops_gemm *a, const uint8_t *packed, float *sums, uint32_t panel,
                       uint32_t row_first, uint32_t row_end)
{
    uint32_t steps = cpu_padded(a->w.k) / 32;
    uint64_t block_bytes = (uint64_t)steps * AMX_TILE_BYTES; /* of 16 rows */
    const uint8_t *w = (const uint8_t *)a->w.data + panel * (uint64_t)steps * STEP_BYTES;
    uint32_t slice = row_end - row_first > 32 ? SLICE_STEPS : steps;
    for (uint32_t at = 0; at < steps; at += slice) {
        uint32_t count = steps - at < slice ? steps - at : slice;
        float *sum = sums;
        for (uint32_t row = row_first; row < row_end; row += 32, sum += 1024) {
            bool second = a->rows_count - row > 16;
            if (at == 0)
                sums_begin(second);
            else
                sums_load(sum, second);
            product(packed + row / 16 * block_bytes + at * (uint64_t)AMX_TILE_BYTES, block_bytes,
                    w + at * (uint64_t)STEP_BYTES, second, count);
            sums_store(sum, second);
        }
    }
    for (uint32_t row = row_first; row < row_end; row += 16)
        for (uint32_t half = 0; half < 2; half++)
            put(a,
                sums + (row - row_first) / 32 * 1024 + (row - row_first) % 32 / 16 * 512 +
                    half * 256,
                row, panel * PANEL + 16 * half);
}

/* Few rows: each panel once over all of them, so its weights come from memory once. Many rows do not stay in the
 * cache beside it: then a chunk of rows goes over a group of panels, both about half of a 2 MiB L2. */
#define MANY_ROWS 128u
#define SHARE_BYTES 1000000u

/* Sums of a chunk lie behind the 16 rows that each thread packs for itself. */
static float *sums_of(const struct ops_device *d, uint32_t thread)
{
    return (float *)(void *)(d->scratch[thread] + pack_bytes(16, d->config.k_max));
}

void cpu_gemm_bf16_amx(struct ops_device *d, const struct ops_gemm *a, uint32_t thread)
{
    uint32_t k = cpu_padded(a->w.k), panels = cpu_padded(a->w.n) / PANEL;
    uint32_t group = 1, rows = (a->rows_count + 31) & ~31u;
    if (a->rows_count >= MANY_ROWS) {
        group = SHARE_BYTES / (2 * PANEL * k) > 2 ? SHARE_BYTES / (2 * PANEL * k) : 2;
        rows = SHARE_BYTES / (2 * k) > 64 ? SHARE_BYTES / (2 * k) & ~31u : 64;
        rows = rows < GEMM_CHUNK_ROWS ? rows : GEMM_CHUNK_ROWS;
    }
    const uint8_t *packed = pack_rows(d, a->x, a->rows_count, a->w.k, thread);
    amx_begin();
    for (uint32_t item; (item = cpu_chunk_next(d)) < (panels + group - 1) / group;) {
        uint32_t end = (item + 1) * group < panels ? (item + 1) * group : panels;
        for (uint32_t row = 0; row < a->rows_count; row += rows) {
            uint32_t row_end = row + rows < a->rows_count ? row + rows : a->rows_count;
            for (uint32_t panel = item * group; panel < end; panel++)
                panel_rows(a, packed, sums_of(d, thread), panel, row, row_end);
        }
    }
    amx_end();
}
