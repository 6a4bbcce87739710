/* kernels/cpu/sample_body.h — one row of sample() in time linear in the vocabulary. Included by the file of
 * each level, which defines LEVEL(name). A row is one chunk of work, so sums do not depend on threads.
 *
 * Thresholds of top-k and top-p are found by three passes over buckets of the order-preserving integer of
 * a float (11, 11 and 10 bits): of counts for top-k, of probability for top-p. Ties with a threshold are
 * kept. */
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

/* Sum of the k greatest, by a heap whose least is first; most logits do not reach it. */
static float row_top_sum(const float *logits, uint32_t count, uint32_t k)
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
        sum += heap[i];
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
        out->confidence =
            row_top_sum(logits, count, k) / (float)k - top.greatest - log_sum;
    return top.greatest + log_sum;
}

/* to = x / temperature, or e^(from - greatest) where from reaches least, else 0. */
static void row_scale(float *logits, uint32_t count, float temperature)
{
    for (uint32_t i = 0; i < count; i += SIMD_LANES) {
        uint32_t lanes = row_lanes(i, count);
        vec_store_part(logits + i, vec_load_part(logits + i, lanes, 0) / temperature, lanes);
    }
}

static void row_weights(float *to, const float *from, uint32_t count, float greatest, float least)
{
    for (uint32_t i = 0; i < count; i += SIMD_LANES) {
        uint32_t lanes = row_lanes(i, count);
        vec x = vec_load_part(from + i, lanes, -INFINITY);
        vec_store_part(to + i, vec_pick(x >= least, vec_exp(x - greatest), vec_set(0)), lanes);
    }
}

static double block_mass(const float *masses, uint32_t first, uint32_t end)
{
    vec sum = {0};
    for (uint32_t i = first; i < end; i += SIMD_LANES)
        sum += vec_load_part(masses + i, row_lanes(i, end), 0);
    return (double)vec_sum(sum);
}

/* The token at random / 2^32 of all mass, in order of id. */
static uint32_t row_pick(const float *masses, uint32_t count, uint32_t random)
{
    double total = 0, so_far = 0;
    for (uint32_t i = 0; i < count; i += SAMPLE_BLOCK)
        total += block_mass(masses, i, count - i < SAMPLE_BLOCK ? count : i + SAMPLE_BLOCK);
    double target = total * (double)random / 4294967296.0;
    uint32_t last = 0;
    for (uint32_t i = 0; i < count; i += SAMPLE_BLOCK) {
        uint32_t end = count - i < SAMPLE_BLOCK ? count : i + SAMPLE_BLOCK;
        double block = block_mass(masses, i, end);
        if (block > 0)
            for (last = end - 1; masses[last] == 0;)
                last--;
        if (so_far + block <= target) {
            so_far += block;
            continue;
        }
        for (uint32_t j = i; j < end; j++) {
            so_far += (double)masses[j];
            if (so_far > target)
                return j;
        }
        return last; /* one by one they round to a little less than together */
    }
    return last;
}

static uint32_t row_draw(const struct ops_sample_row *r, float *logits, uint32_t count,
                         float *masses)
{
    row_scale(logits, count, r->temperature);
    struct row_top top = row_scan(logits, count);
    if (top.broken) /* infinite by a temperature near 0 or by biases: the greatest, then */
        return sample_greatest(logits, count);
    float least = -INFINITY;
    if (r->top_k && r->top_k < count)
        least = sample_top_k(logits, count, r->top_k);
    if (r->top_p < 1) {
        row_weights(masses, logits, count, top.greatest, least);
        float reached = sample_top_p(logits, masses, count, r->top_p);
        least = reached > least ? reached : least;
    }
    float floor = r->min_p > 0 ? top.greatest + logf(r->min_p) : -INFINITY;
    row_weights(masses, logits, count, top.greatest, floor > least ? floor : least);
    return row_pick(masses, count, r->random);
}

static void sample_row(const struct ops_sample *a, uint32_t row, float *scratch)
{
    const struct ops_sample_row *r = &a->rows[row];
    uint32_t count = a->vocabulary;
    float *logits = a->logits + (uint64_t)row * count;
    float *own = scratch, *masses = scratch + sample_scratch_floats(count) / 2;
    struct ops_sampled *out = &a->out[row];
    *out = (struct ops_sampled){0};
    struct row_top top = row_scan(logits, count);
    if (top.broken) {
        out->numeric = 1;
        return;
    }
    float log_sum = row_signals(r, logits, count, top, out);
    memcpy(own, logits, count * sizeof *own);
    if (r->history_count || r->bias_count) {
        memset(masses, 0, count * sizeof *masses);
        sample_penalise(a, r, logits, (uint32_t *)(void *)masses);
    }
    if (r->forced_token != OPS_NONE)
        out->token = r->forced_token;
    else if (r->temperature == 0)
        out->token = sample_greatest(logits, count);
    else
        out->token = row_draw(r, logits, count, masses);
    out->log_probability = own[out->token] - log_sum;
}

static void LEVEL(cpu_sample)(struct ops_device *d, const struct ops_sample *a, uint32_t thread)
{
    for (uint32_t row; (row = cpu_chunk_next(d)) < a->rows_count;)
        sample_row(a, row, (float *)(void *)d->scratch[thread]);
}
