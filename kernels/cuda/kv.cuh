/* kernels/cuda/kv.cuh — where keys and values lie: a head of a page is K [32, head_dim], then V
 * [32, head_dim], in activation type. head_dim is a multiple of 8, so every row is whole vectors. */
#pragma once
#include <errno.h>

#include "kernels/cuda/internal.cuh"

static __device__ inline uint64_t kv_head_at(const struct ops_kv *kv, uint32_t page, uint32_t head)
{
    return ((uint64_t)page * kv->kv_heads + head) * (2ull * OPS_PAGE_TOKENS * kv->head_dim);
}

static __device__ inline uint32_t page_of(const struct ops_batch *b, uint32_t row, uint32_t place)
{
    return b->pages[(uint64_t)b->seq[row] * b->pages_stride + place];
}

/* Whether the kernels take this width; otherwise the device fails. */
static inline bool kv_dim_check(struct ops_device *d, uint32_t dim, const char *operation)
{
    bool fits = dim >= 8 && dim <= ATTENTION_DIM_MAX && dim % 8 == 0;
    if (!fits)
        device_fail(d, -EINVAL, "head_dim that is not 8, 16, ... 256", operation);
    return fits;
}
