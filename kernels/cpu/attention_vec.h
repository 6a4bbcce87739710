/* kernels/cpu/attention_vec.h — the parts of attention that all levels with simd.h share. Inner part of
 * attention_body.h and attention_amx.c. */
#pragma once
#include "kernels/cpu/attention.h"
#include "kernels/cpu/simd.h"

SIMD_INLINE void to_act(const struct ops_device *d, void *to, uint64_t at, const float *from,
                        uint32_t count)
{
    if (d->config.activation == OPS_F32) {
        memcpy((float *)to + at, from, count * sizeof(float));
        return;
    }
    for (uint32_t j = 0; j < count; j += SIMD_LANES) {
        uint32_t lanes = count - j < SIMD_LANES ? count - j : SIMD_LANES;
        vech h = vec_to_bf16(vec_load_part(from + j, lanes, 0));
        if (lanes == SIMD_LANES)
            memcpy((uint16_t *)to + at + j, &h, sizeof h);
        else
            memcpy((uint16_t *)to + at + j, &h, lanes * sizeof(uint16_t));
    }
}

/* Scale, cap, mask; returns the greatest. */
SIMD_INLINE float scores_finish(const struct ops_attention *a, uint32_t page, uint32_t first,
                                uint32_t last, vec s[2])
{
    const veci lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    vec greatest = vec_set(-INFINITY);
    bool whole = first <= page * OPS_PAGE_TOKENS && last >= (page + 1) * OPS_PAGE_TOKENS - 1;
    for (uint32_t i = 0; i < 2; i++) {
        vec x = s[i] * a->scale;
        if (a->softcap > 0)
            x = vec_tanh(x / a->softcap) * a->softcap;
        if (whole) {
            s[i] = x;
            greatest = vec_max(greatest, x);
            continue;
        }
        veci position = lane + (int32_t)(page * OPS_PAGE_TOKENS + i * SIMD_LANES);
        veci seen = (position >= (int32_t)first) & (position <= (int32_t)last);
        s[i] = vec_pick(seen, x, vec_set(-INFINITY));
        greatest = vec_max(greatest, s[i]);
    }
    return vec_greatest(greatest);
}

/* One page of one query into its running state: maximum, sum, values [dim]. factor is e to the power of
 * minus the distance of the two maxima. */
SIMD_INLINE void state_join(struct attention_state *state, uint32_t dim, float greatest, float sum,
                            float factor, const float *values)
{
    if (greatest > state->greatest) {
        for (uint32_t j = 0; j < dim; j += SIMD_LANES)
            vec_store(state->values + j,
                      vec_load(state->values + j) * factor + vec_load(values + j));
        state->sum = state->sum * factor + sum;
        state->greatest = greatest;
        return;
    }
    for (uint32_t j = 0; j < dim; j += SIMD_LANES)
        vec_store(state->values + j, vec_load(state->values + j) + vec_load(values + j) * factor);
    state->sum = state->sum + sum * factor;
}

SIMD_INLINE void state_add(struct attention_state *state, uint32_t dim, float greatest, float sum,
                           const float *values)
{
    float old = state->greatest;
    vec factor = vec_exp(vec_set(greatest > old ? old - greatest : greatest - old));
    state_join(state, dim, greatest, sum, factor[0], values);
}

/* A span's state into the total. */
static __attribute__((unused)) void span_add(struct attention_state *total,
                                             const struct attention_state *span, uint32_t dim)
{
    if (!(span->sum == 0)) /* a NaN must show in the logits */
        state_add(total, dim, span->greatest, span->sum, span->values);
}

static __attribute__((unused)) void block_write(struct ops_device *d, const struct ops_attention *a,
                                                const struct attention_block *b)
{
    uint32_t dim = a->kv.head_dim;
    for (uint32_t i = 0; i < b->rows_count * b->group; i++) {
        const struct attention_state *s = &b->totals[i];
        float out[ATTENTION_DIM_MAX];
        for (uint32_t j = 0; j < dim; j++)
            out[j] = s->values[j] / s->sum;
        uint64_t row = b->row_first + i / b->group;
        to_act(d, a->out, (row * a->heads + b->kv_head * b->group + i % b->group) * dim, out, dim);
    }
}
