/* daemon/engine/slab.h — carving a device's memory. The same code runs twice: over no memory, to
 * count it, and over the device's, to place things.
 *
 * Thread: one. Memory: what it is given. Fails: never. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "daemon/base/assert.h"
#include "kernels/ops.h"

struct slab {
    uint8_t *base; /* NULL: only counts */
    uint64_t bytes;
    uint64_t used_bytes;
};

static inline void *slab_take(struct slab *slab, uint64_t bytes)
{
    uint64_t at = slab->used_bytes;
    slab->used_bytes += (bytes + OPS_ALIGN_BYTES - 1) / OPS_ALIGN_BYTES * OPS_ALIGN_BYTES;
    if (!slab->base)
        return NULL;
    ASSERT(slab->used_bytes <= slab->bytes);
    return slab->base + at;
}
