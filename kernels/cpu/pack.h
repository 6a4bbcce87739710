/* kernels/cpu/pack.h — bf16 rows as AMX A tiles: [rows / 16][k / 32][16 rows][32 of k], padded by zeros,
 * so that sixteen rows of a product lie in one piece (in place they would be k apart, and with k a power of
 * two all in one set of the cache).
 *
 * Thread: within a task, on every thread of the pool. Memory: the device's. */
#pragma once
#include "kernels/cpu/internal.h"

#define GEMM_CHUNK_ROWS 512u /* most rows whose sums wait at once */

/* Bytes for rows_max rows of k_max columns. */
uint64_t pack_bytes(uint32_t rows_max, uint32_t k_max);

/* Up to 16 rows each thread packs for itself; more are shared out, and all wait for each other. The
 * chunk counter is at 0 afterwards. */
const uint8_t *pack_rows(struct ops_device *device, const void *x, uint32_t rows_count, uint32_t k,
                         uint32_t thread);
