#include "kernels/ref/sample.h"

#include <math.h>
#include <stdlib.h>

static int descending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

static bool broken(const float *logits, uint32_t count)
{
    bool finite = false;
    for (uint32_t i = 0; i < count; i++) {
        if (isnan(logits[i]) || logits[i] == INFINITY)
            return true;
        finite |= logits[i] != -INFINITY;
    }
    return !finite;
}

/* Of the model's own distribution; sorted: descending logits. */
static void signals(const struct ops_sample_row *r, const double *sorted, uint32_t count,
                    struct ops_sampled *out, double *ret_log_sum)
{
    double sum = 0, weighted = 0, confidence = 0;
    for (uint32_t i = 0; i < count; i++)
        sum += exp(sorted[i] - sorted[0]);
    double log_sum = sorted[0] + log(sum);
    for (uint32_t i = 0; i < count && sorted[i] != -INFINITY; i++)
        weighted += exp(sorted[i] - log_sum) * (sorted[i] - log_sum);
    uint32_t k = r->confidence_count < count ? r->confidence_count : count;
    for (uint32_t i = 0; i < k; i++)
        confidence += sorted[i] - log_sum;
    out->entropy = (float)-weighted;
    out->confidence = k ? (float)(confidence / k) : 0;
    out->top_gap = count > 1 ? (float)(sorted[0] - sorted[1]) : INFINITY;
    *ret_log_sum = log_sum;
}

static void penalise(const struct ops_sample *a, const struct ops_sample_row *r, float *logits)
{
    const uint32_t *history = a->history + r->history_first;
    for (uint32_t i = 0; i < r->history_count; i++) {
        bool seen = false;
        for (uint32_t j = 0; j < i; j++)
            seen |= history[j] == history[i];
        float *x = &logits[history[i]];
        if (!seen)
            *x = *x > 0 ? *x / r->repetition : *x * r->repetition;
    }
    for (uint32_t i = r->history_prompt_count; i < r->history_count; i++) {
        uint32_t times = 0;
        bool before = false;
        for (uint32_t j = r->history_prompt_count; j < r->history_count; j++) {
            times += history[j] == history[i];
            before |= j < i && history[j] == history[i];
        }
        if (!before)
            logits[history[i]] -= r->presence + r->frequency * (float)times;
    }
    for (uint32_t i = 0; i < r->bias_count; i++)
        logits[a->bias[r->bias_first + i].token] += a->bias[r->bias_first + i].bias;
}

static uint32_t greatest(const float *logits, uint32_t count)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < count; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

/* Least logit that is kept by top-k, top-p and min-p; ties with it are kept. */
static double threshold(const struct ops_sample_row *r, const double *sorted, uint32_t count)
{
    uint32_t kept = r->top_k && r->top_k < count ? r->top_k : count;
    double sum = 0, so_far = 0;
    while (kept < count && sorted[kept] == sorted[kept - 1])
        kept++;
    for (uint32_t i = 0; i < kept; i++)
        sum += exp(sorted[i] - sorted[0]);
    double least = sorted[kept - 1];
    if (r->top_p < 1)
        for (uint32_t i = 0; i < kept; i++) {
            so_far += exp(sorted[i] - sorted[0]);
            if (so_far >= r->top_p * sum) {
                least = sorted[i];
                break;
            }
        }
    double floor = r->min_p > 0 ? sorted[0] + log(r->min_p) : -INFINITY;
    return least > floor ? least : floor;
}

static uint32_t draw(const struct ops_sample_row *r, const float *logits, uint32_t count,
                     double *sorted)
{
    for (uint32_t i = 0; i < count; i++)
        sorted[i] = (double)logits[i] / r->temperature;
    qsort(sorted, count, sizeof *sorted, descending);
    if (isinf(sorted[0])) /* by biases */
        return greatest(logits, count);
    double least = threshold(r, sorted, count), top = sorted[0], sum = 0, so_far = 0;
    uint32_t last = 0;
    for (uint32_t i = 0; i < count; i++)
        if ((double)logits[i] / r->temperature >= least)
            sum += exp((double)logits[i] / r->temperature - top);
    double target = sum * r->random / 4294967296.0;
    for (uint32_t i = 0; i < count; i++) {
        if (!((double)logits[i] / r->temperature >= least))
            continue;
        so_far += exp((double)logits[i] / r->temperature - top);
        last = i;
        if (so_far > target)
            break;
    }
    return last;
}

void ref_sample_row(const struct ops_sample *a, uint32_t row, double *scratch)
{
    const struct ops_sample_row *r = &a->rows[row];
    uint32_t count = a->vocabulary;
    float *logits = a->logits + (uint64_t)row * count;
    struct ops_sampled *out = &a->out[row];
    *out = (struct ops_sampled){0};
    if (broken(logits, count)) {
        out->numeric = 1;
        return;
    }
    double *own = scratch + count; /* logits as they came */
    double log_sum;
    for (uint32_t i = 0; i < count; i++)
        scratch[i] = own[i] = logits[i];
    qsort(scratch, count, sizeof *scratch, descending);
    signals(r, scratch, count, out, &log_sum);
    penalise(a, r, logits);
    if (r->forced_token != OPS_NONE)
        out->token = r->forced_token;
    else if (r->temperature == 0)
        out->token = greatest(logits, count);
    else
        out->token = draw(r, logits, count, scratch);
    out->log_probability = (float)(own[out->token] - log_sum);
}
