/* kernels/cpu/sample_body.h — one row of sample() in time linear in the vocabulary. Included by the file of
 * each level, which defines LEVEL(name). A row is one chunk of work, so sums do not depend on threads.
 *
 * Thresholds of top-k and top-p are found by three passes over buckets of the order-preserving integer of
 * a float (11, 11 and 10 bits): of counts for top-k, of probability for top-p. Ties with a threshold are
 * kept. */
#pragma once
#include "kernels/cpu/signals_body.h"

static void row_scale(float *logits, uint32_t count, float temperature)
{
    for (uint32_t i = 0; i < count; i += SIMD_LANES) {
        uint32_t lanes = row_lanes(i, count);
        vec_store_part(logits + i, vec_load_part(logits + i, lanes, 0) / temperature, lanes);
    }
}

/* to = e^(from - greatest) where from reaches least, else 0. */
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

/* The token at a fraction of a block's mass. One by one they round to a little other than together, so
 * the fraction is taken of the sum one by one: else the walk might run off to a last token that nobody
 * would draw. */
static uint32_t block_pick(const float *masses, uint32_t first, uint32_t end, double fraction)
{
    double total = 0, so_far = 0;
    for (uint32_t i = first; i < end; i++)
        total += (double)masses[i];
    for (uint32_t i = first; i < end; i++) {
        so_far += (double)masses[i];
        if (so_far > total * fraction)
            return i;
    }
    return first + sample_greatest(masses + first, end - first); /* a fraction rounded to 1 */
}

/* The token at random / 2^32 of all mass, in order of id. */
static uint32_t row_pick(const float *masses, uint32_t count, uint32_t random)
{
    double total = 0, so_far = 0;
    for (uint32_t i = 0; i < count; i += SAMPLE_BLOCK)
        total += block_mass(masses, i, count - i < SAMPLE_BLOCK ? count : i + SAMPLE_BLOCK);
    double target = total * (double)random / 4294967296.0;
    for (uint32_t i = 0; i < count; i += SAMPLE_BLOCK) {
        uint32_t end = count - i < SAMPLE_BLOCK ? count : i + SAMPLE_BLOCK;
        double block = block_mass(masses, i, end);
        if (so_far + block <= target) {
            so_far += block;
            continue;
        }
        return block_pick(masses, i, end, (target - so_far) / block);
    }
    return sample_greatest(masses, count); /* not reached: target is below total */
}

static uint32_t row_draw(const struct ops_sample_row *r, float *logits, uint32_t count,
                         float *masses)
{
    struct row_top top = row_scan(logits, count);
    top.greatest /= r->temperature;        /* what the greatest will be: rounding keeps the order */
    if (top.broken || isinf(top.greatest)) /* by biases, or a temperature near 0: the greatest */
        return sample_greatest(logits, count);
    row_scale(logits, count, r->temperature);
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

/* The lowest id of this logit, which one of them is. */
static uint32_t row_find(const float *logits, float value)
{
    uint32_t i = 0;
    while (logits[i] != value)
        i++;
    return i;
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
    bool changes = r->history_count || r->bias_count;
    if (changes || r->temperature != 0)
        memcpy(own, logits, count * sizeof *own);
    else
        own = logits;
    if (changes) {
        memset(masses, 0, count * sizeof *masses);
        sample_penalise(a, r, logits, (uint32_t *)(void *)masses);
    }
    if (r->forced_token != OPS_NONE)
        out->token = r->forced_token;
    else if (r->temperature == 0)
        out->token = changes ? sample_greatest(logits, count) : row_find(logits, top.greatest);
    else
        out->token = row_draw(r, logits, count, masses);
    out->log_probability = own[out->token] - log_sum;
}

static void LEVEL(cpu_sample)(struct ops_device *d, const struct ops_sample *a, uint32_t thread)
{
    for (uint32_t row; (row = cpu_chunk_next(d)) < a->rows_count;)
        sample_row(a, row, (float *)(void *)d->scratch[thread]);
}
