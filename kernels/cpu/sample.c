#include "kernels/cpu/sample.h"

#include <math.h>
#include <string.h>

#define WRITTEN 1u       /* counters count written tokens */
#define SEEN 0x80000000u /* and mark those seen at all */
#define BUCKETS 2048u

uint64_t sample_scratch_floats(uint32_t vocabulary)
{
    return 2ull * ((vocabulary + 15u) & ~15u);
}

void sample_penalise(const struct ops_sample *a, const struct ops_sample_row *r, float *logits,
                     uint32_t *counters)
{
    const uint32_t *history = a->history + r->history_first;
    for (uint32_t i = 0; i < r->history_count; i++) {
        counters[history[i]] |= SEEN;
        if (i >= r->history_prompt_count)
            counters[history[i]] += WRITTEN;
    }
    for (uint32_t i = 0; i < r->history_count; i++) {
        uint32_t *counter = &counters[history[i]];
        float *x = &logits[history[i]];
        uint32_t times = *counter & ~SEEN;
        if (*counter == 0)
            continue; /* done at its first place */
        *x = *x > 0 ? *x / r->repetition : *x * r->repetition;
        if (times)
            *x -= r->presence + r->frequency * (float)times;
        *counter = 0;
    }
    for (uint32_t i = 0; i < r->bias_count; i++)
        logits[a->bias[r->bias_first + i].token] += a->bias[r->bias_first + i].bias;
}

uint32_t sample_greatest(const float *logits, uint32_t count)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < count; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

/* Rises with the float; -0 and 0 are one. */
static uint32_t key_of(float x)
{
    uint32_t bits;
    x += 0.0f;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static float float_of(uint32_t key)
{
    uint32_t bits = key & 0x80000000u ? key & 0x7fffffffu : ~key;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The key at which the weight of all greater ones and its own reaches wanted, digit after digit. */
static float reach(const float *logits, const float *masses, uint32_t count, double wanted)
{
    static const struct {
        uint32_t shift;
        uint32_t bits;
    } digits[3] = {{21, 11}, {10, 11}, {0, 10}};
    uint32_t prefix = 0, known = 0; /* bits of the key found so far */
    double above = 0;
    for (uint32_t digit = 0; digit < 3; digit++) {
        double bucket[BUCKETS] = {0};
        uint32_t buckets = 1u << digits[digit].bits;
        for (uint32_t i = 0; i < count; i++) {
            uint32_t key = key_of(logits[i]);
            if ((key & known) != prefix)
                continue;
            bucket[key >> digits[digit].shift & (buckets - 1)] += masses ? (double)masses[i] : 1;
        }
        /* Rounding may leave the sum a last bit below wanted: then the least that has any weight,
         * whose own weight is not above itself. */
        uint32_t b = 0;
        double last = 0;
        for (uint32_t i = buckets; i-- > 0;) {
            if (bucket[i] == 0)
                continue;
            above += last;
            b = i;
            last = bucket[i];
            if (above + last >= wanted)
                break;
        }
        prefix |= b << digits[digit].shift;
        known |= (buckets - 1) << digits[digit].shift;
    }
    return float_of(prefix);
}

float sample_top_k(const float *logits, uint32_t count, uint32_t k)
{
    return reach(logits, NULL, count, k);
}

float sample_top_p(const float *logits, const float *masses, uint32_t count, float top_p)
{
    double total = 0;
    for (uint32_t i = 0; i < count; i++)
        total += (double)masses[i];
    return reach(logits, masses, count, total * (double)top_p);
}

void sample_heap_replace(float *heap, uint32_t count, float x)
{
    uint32_t i = 0;
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= count)
            break;
        if (child + 1 < count && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= x)
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = x;
}
