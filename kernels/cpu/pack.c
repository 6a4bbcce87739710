#include "kernels/cpu/pack.h"

#include <string.h>

#define ROWS 16u
#define COLUMNS 32u

uint64_t pack_bytes(uint32_t rows_max, uint32_t k_max)
{
    return ((uint64_t)rows_max + ROWS - 1) / ROWS * ROWS * cpu_padded(k_max) * sizeof(uint16_t);
}

static void pack_block(uint16_t *to, const uint16_t *x, uint32_t rows_count, uint32_t k)
{
    for (uint32_t column = 0; column < k; column += COLUMNS, to += ROWS * COLUMNS) {
        uint32_t count = k - column < COLUMNS ? k - column : COLUMNS;
        if (count < COLUMNS || rows_count < ROWS)
            memset(to, 0, ROWS * COLUMNS * sizeof *to);
        for (uint32_t r = 0; r < rows_count; r++)
            memcpy(to + r * COLUMNS, x + (uint64_t)r * k + column, count * sizeof *to);
    }
}

const uint8_t *pack_rows(struct ops_device *d, const void *x, uint32_t rows_count, uint32_t k,
                         uint32_t thread)
{
    const uint16_t *from = x;
    uint64_t block = (uint64_t)ROWS * cpu_padded(k);
    if (rows_count <= ROWS) {
        pack_block((uint16_t *)(void *)d->scratch[thread], from, rows_count, k);
        return d->scratch[thread];
    }
    uint32_t blocks = (rows_count + ROWS - 1) / ROWS;
    for (uint32_t b; (b = cpu_chunk_next(d)) < blocks;) {
        uint32_t rows = rows_count - b * ROWS < ROWS ? rows_count - b * ROWS : ROWS;
        pack_block((uint16_t *)(void *)d->packed + b * block, from + (uint64_t)b * ROWS * k, rows,
                   k);
    }
    cpu_barrier(d);
    return d->packed;
}
