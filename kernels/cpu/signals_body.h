/* kernels/cpu/signals_body.h — what is told of a row of logits as it came: broken or not, entropy, gap, mean of
 * the most probable. Inner part of sample_body.h. */
#pragma once
#include "kernels/cpu/internal.h"
#include "kernels/cpu/sample.h"
#include "kernels/cpu/simd.h"

SIMD_INLINE uint32_t row_lanes(uint32_t at, uint32_t count)
{
    return count - at < SIMD_LANES ? count - at : SIMD_LANES;
}

struct row_top { /* of the logits as they came */
    float greatest;
    float second;
    bool broken;
};

static struct row_top row_scan(const float *logits, uint32_t count)
{
    vec first = vec_set(-INFINITY), second = first;
    veci bad = {0};
    for (uint32_t i = 0; i < count; i += SIMD_LANES) {
        vec x = vec_load_part(logits + i, row_lanes(i, count), -INFINITY);
        bad |= (x != x) | (x == vec_set(INFINITY));
        second = vec_max(second, vec_pick(x > first, first, x));
        first = vec_max(first, x);
    }
    struct row_top top = {.greatest = -INFINITY, .second = -INFINITY};
    for (uint32_t i = 0; i < 32; i++) {
        float x = i < 16 ? first[i] : second[i - 16];
        if (x > top.greatest) {
            top.second = top.greatest;
            top.greatest = x;
        } else if (x > top.second) {
            top.second = x;
        }
        top.broken |= bad[i % 16] != 0;
    }
    top.broken |= top.greatest == -INFINITY;
    return top;
}

/* Sums of e^(x - greatest), and of e^(x - greatest) (x - greatest). */
static float row_mass(const float *logits, uint32_t count, float greatest, float *ret_weighted)
{
    vec sum = {0}, weighted = {0};
    for (uint32_t i = 0; i < count; i += SIMD_LANES) {
        vec x = vec_load_part(logits + i, row_lanes(i, count), -INFINITY) - greatest;
        vec e = vec_exp(x);
        sum += e;
        weighted += vec_pick(e > 0, e * x, vec_set(0)); /* 0 times -infinity is 0 here */
    }
    *ret_weighted = vec_sum(weighted);
    return vec_sum(sum);
}

/* How far the k greatest are below the greatest, in all, by a heap whose least is first; most logits do not
 * reach it. The distances are summed, not the logits: great logits would take the digits of a small mean. */
static float row_top_below(const float *logits, uint32_t count, uint32_t k, float greatest)
{
    float heap[SAMPLE_CONFIDENCE_MAX];
    for (uint32_t i = 0; i < k; i++)
        heap[i] = -INFINITY;
    for (uint32_t i = 0; i < count; i += SIMD_LANES) {
        uint32_t lanes = row_lanes(i, count);
        vec x = vec_load_part(logits + i, lanes, -INFINITY);
        if (!(vec_greatest(x) > heap[0]))
            continue;
        for (uint32_t lane = 0; lane < lanes; lane++)
            if (x[lane] > heap[0])
                sample_heap_replace(heap, k, x[lane]);
    }
    float sum = 0;
    for (uint32_t i = 0; i < k; i++)
        sum += greatest - heap[i];
    return sum;
}

static float row_signals(const struct ops_sample_row *r, const float *logits, uint32_t count,
                         struct row_top top, struct ops_sampled *out)
{
    float weighted, sum = row_mass(logits, count, top.greatest, &weighted);
    float log_sum = logf(sum); /* beside greatest */
    uint32_t k = r->confidence_count < count ? r->confidence_count : count;
    k = k < SAMPLE_CONFIDENCE_MAX ? k : SAMPLE_CONFIDENCE_MAX;
    out->entropy = log_sum - weighted / sum;
    out->top_gap = top.greatest - top.second;
    if (k)
        out->confidence = -row_top_below(logits, count, k, top.greatest) / (float)k - log_sum;
    return top.greatest + log_sum;
}
