#include "tools/calibrate/fit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tools/calibrate/cross.h"
#include "tools/calibrate/replay.h"

static float *floats(size_t count)
{
    float *memory = calloc(count > 0 ? count : 1, sizeof *memory);
    if (memory == NULL) {
        fprintf(stderr, "dynasor-calibrate: out of memory\n");
        exit(1);
    }
    return memory;
}

/* ---- evaluation --------------------------------------------------------------------------------- */

static void take_outcome(struct evaluation *e, size_t at, const struct outcome *outcome)
{
    e->lost[at] += (float)outcome->full_right - (float)outcome->right;
    e->flipped[at] += outcome->full_right && !outcome->right ? 1 : 0;
    e->tokens[at] += (float)(outcome->tokens + outcome->probe_tokens);
    e->probe_tokens[at] += (float)outcome->probe_tokens;
    e->stopped[at] += outcome->stopped ? 1 : 0;
    e->given_up[at] += outcome->gave_up ? 1 : 0;
}

void evaluation_make(const struct log *log, const struct family *family, uint32_t cap,
                     struct evaluation *ret_evaluation)
{
    size_t problems = log->problems_count;
    size_t cells = family->count * problems;
    struct evaluation e = {
        .candidates_count = family->count,
        .problems_count = log->problems_count,
        .lost = floats(cells),
        .flipped = floats(cells),
        .tokens = floats(cells),
        .probe_tokens = floats(cells),
        .stopped = floats(cells),
        .given_up = floats(cells),
        .full_tokens = floats(problems),
        .full_right = floats(problems),
        .runs = floats(problems),
        .problem_hashes = log->problem_hashes,
    };
    struct replay replay;
    replay_init(&replay, log);
    for (uint32_t r = 0; r < log->runs_count; r++) {
        uint32_t problem = log->runs[r].problem;
        struct outcome outcome = {.tokens = 0};
        for (uint32_t c = 0; c < family->count; c++) {
            outcome = replay_run(&replay, r, &family->options[c], cap);
            take_outcome(&e, c * problems + problem, &outcome);
        }
        e.full_tokens[problem] += (float)outcome.full_tokens;
        e.full_right[problem] += outcome.full_right ? 1 : 0;
        e.runs[problem]++;
    }
    for (size_t at = 0; at < cells; at++) {
        e.lost[at] /= e.runs[at % problems];
        e.flipped[at] /= e.runs[at % problems];
    }
    replay_free(&replay);
    *ret_evaluation = e;
}

void evaluation_free(struct evaluation *e)
{
    free(e->lost);
    free(e->flipped);
    free(e->tokens);
    free(e->probe_tokens);
    free(e->stopped);
    free(e->given_up);
    free(e->full_tokens);
    free(e->full_right);
    free(e->runs);
    *e = (struct evaluation){.candidates_count = 0};
}

struct score score_of(const struct evaluation *e, uint32_t candidate, const bool *mask)
{
    struct score score = {.problems_count = 0};
    size_t row = (size_t)candidate * e->problems_count;
    double runs = 0, right = 0, lost = 0, flipped = 0, tokens = 0, probes = 0, full = 0;
    double stopped = 0, given_up = 0, deviation = 0;
    for (uint32_t p = 0; p < e->problems_count; p++) {
        if (mask != NULL && !mask[p]) {
            continue;
        }
        double weight = (double)e->runs[p];
        score.problems_count++;
        runs += weight;
        right += (double)e->full_right[p];
        lost += weight * (double)e->lost[row + p];
        flipped += weight * (double)e->flipped[row + p];
        tokens += (double)e->tokens[row + p];
        probes += (double)e->probe_tokens[row + p];
        full += (double)e->full_tokens[p];
        stopped += (double)e->stopped[row + p];
        given_up += (double)e->given_up[row + p];
    }
    if (score.problems_count == 0) {
        return score;
    }
    double mean = lost / runs;
    for (uint32_t p = 0; p < e->problems_count; p++) {
        if (mask == NULL || mask[p]) {
            double off = (double)e->runs[p] * ((double)e->lost[row + p] - mean);
            deviation += off * off;
        }
    }
    score.programs_count = (uint32_t)runs;
    score.accuracy_percent = 100 * right / runs;
    score.lost_points = 100 * mean;
    score.lost_error_points = 100 * sqrt(deviation) / runs;
    score.flipped_points = 100 * flipped / runs;
    score.saving_percent = full > 0 ? 100 * (1 - tokens / full) : 0;
    score.probe_percent = full > 0 ? 100 * probes / full : 0;
    score.stopped_percent = 100 * stopped / runs;
    score.given_up_percent = 100 * given_up / runs;
    score.tokens_mean = tokens / runs;
    return score;
}

/* ---- choice ------------------------------------------------------------------------------------- */

const char *fit_test_name(enum fit_test test)
{
    static const char *const names[] = {"empirical", "betting", "flips"};
    return names[test];
}

static uint32_t gather(const struct evaluation *e, uint32_t candidate, enum fit_test test,
                       const bool *mask, float *ret_losses)
{
    const float *from = test == FIT_FLIPS ? e->flipped : e->lost;
    uint32_t count = 0;
    for (uint32_t p = 0; p < e->problems_count; p++) {
        if (mask == NULL || mask[p]) {
            ret_losses[count++] = from[(size_t)candidate * e->problems_count + p];
        }
    }
    return count;
}

static risk_test *test_of(enum fit_test test)
{
    return test == FIT_FLIPS ? risk_hoeffding_bentkus : risk_betting;
}

static bool is_safe(const struct evaluation *e, uint32_t candidate,
                    const struct fit_request *request, double delta, const bool *mask,
                    float *scratch)
{
    uint32_t count = gather(e, candidate, request->test, mask, scratch);
    return test_of(request->test)(scratch, count, request->allowed_points / 100) <= delta;
}

double fit_bound_points(const struct evaluation *e, uint32_t candidate,
                        const struct fit_request *request, const bool *mask)
{
    float *losses = floats(e->problems_count);
    uint32_t count = gather(e, candidate, request->test, mask, losses);
    double bound = risk_upper_bound(test_of(request->test), losses, count, request->delta);
    free(losses);
    return 100 * bound;
}

/* The best so far. */
struct choice {
    uint32_t candidate;
    double saving; /* never stopping counts as nothing saved */
};

static void choice_take(struct choice *choice, const struct evaluation *e, uint32_t candidate,
                        const struct fit_parts *parts)
{
    double saving = score_of(e, candidate, parts->all).saving_percent;
    if (saving > choice->saving) {
        *choice = (struct choice){candidate, saving};
    }
}

const bool *fit_mask(const struct family *family, const struct fit_request *request,
                     uint32_t candidate, const struct fit_parts *parts)
{
    bool needs_order = request->test != FIT_EMPIRICAL || family->learned;
    return needs_order && family->chain[candidate] >= family->ordered_count ? parts->test
                                                                            : parts->all;
}

/* Those whose loss seen has room for so many standard errors below what is allowed. */
static void choose_by_room(const struct evaluation *e, const struct family *family,
                           const struct fit_request *request, double room,
                           const struct fit_parts *parts, struct choice *choice)
{
    for (uint32_t c = 0; c < e->candidates_count; c++) {
        struct score score = score_of(e, c, fit_mask(family, request, c, parts));
        if (cross_room(score.lost_points, score.lost_error_points, request->allowed_points) >=
            room) {
            choice_take(choice, e, c, parts);
        }
    }
}

static void choose_empirical(const struct evaluation *e, const struct family *family,
                             const struct fit_request *request, const struct fit_parts *parts,
                             struct choice *choice, struct fit_estimate *ret_estimate)
{
    struct fit_estimate losses[CROSS_WAYS];
    cross_measure(e, family, request, parts, losses);
    for (uint32_t w = 0; w < CROSS_WAYS; w++) {
        if (losses[w].lost_points <= request->allowed_points) {
            uint32_t before = choice->candidate;
            choose_by_room(e, family, request, request->margin + cross_ways[w], parts, choice);
            *ret_estimate = choice->candidate != before ? losses[w] : *ret_estimate;
            return;
        }
    }
}

/* What stands before the data as if it were alone, so that what is learned only adds to it. */
static void choose_ordered(const struct evaluation *e, const struct family *family,
                           const struct fit_request *request, const struct fit_parts *parts,
                           struct choice *choice, struct fit_estimate *ret_estimate)
{
    struct evaluation own = *e;
    struct family ordered = *family;
    while (ordered.count > 0 && family->chain[ordered.count - 1] >= family->ordered_count) {
        ordered.count--;
    }
    ordered.learned = false;
    own.candidates_count = ordered.count;
    if (family->learned && ordered.count > 0 && ordered.count < family->count) {
        choose_empirical(&own, &ordered, request, parts, choice, ret_estimate);
    }
}

/* Chains one after the other; each ends at the first candidate that is not shown to be safe. What
 * was tested before does not depend on what comes after, so one level serves a whole chain. */
static void choose_by_chains(const struct evaluation *e, const struct family *family,
                             const struct fit_request *request, double delta,
                             const struct fit_parts *parts, struct choice *choice)
{
    float *scratch = floats(e->problems_count);
    uint32_t ended = UINT32_MAX;
    for (uint32_t c = 0; c < family->count && family->chain[c] < family->ordered_count; c++) {
        if (family->chain[c] == ended) {
            continue;
        }
        if (!is_safe(e, c, request, delta, parts->all, scratch)) {
            ended = family->chain[c];
            continue;
        }
        choice_take(choice, e, c, parts);
    }
    free(scratch);
}

struct place {
    double flipped;
    double saving;
    uint32_t candidate;
};

static int by_flips(const void *a, const void *b)
{
    const struct place *x = a;
    const struct place *y = b;
    int flips = (x->flipped > y->flipped) - (x->flipped < y->flipped);
    int saving = (x->saving < y->saving) - (x->saving > y->saving);
    return flips != 0 ? flips : saving != 0 ? saving : (x->candidate > y->candidate) * 2 - 1;
}

/* The frontier of flips and saving on one part of the problems, from safe to bold, is one chain for the
 * other part (Laufer-Goldshtein et al. 2023). */
static void choose_by_frontier(const struct evaluation *e, const struct family *family,
                               const struct fit_request *request, double delta,
                               const struct fit_parts *parts, struct choice *choice)
{
    struct place *places = calloc(e->candidates_count, sizeof *places);
    float *scratch = floats(e->problems_count);
    uint32_t count = 0;
    double most = 0;
    for (uint32_t c = 0; places != NULL && c < e->candidates_count; c++) {
        if (family->chain[c] >= family->ordered_count) {
            struct score score = score_of(e, c, parts->learn);
            /* Flips, not the net loss: what gained by luck on this part is not the safest on the other. */
            places[count++] = (struct place){score.flipped_points, score.saving_percent, c};
        }
    }
    if (places != NULL) {
        qsort(places, count, sizeof *places, by_flips);
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t c = places[i].candidate;
        if (places[i].saving <= most) {
            continue; /* not on the frontier */
        }
        if (!is_safe(e, c, request, delta, parts->test, scratch)) {
            break;
        }
        most = places[i].saving;
        choice_take(choice, e, c, parts);
    }
    free(scratch);
    free(places);
}

uint32_t fit_choose(const struct evaluation *evaluation, const struct family *family,
                    const struct fit_request *request, const struct fit_parts *parts,
                    struct fit_estimate *ret_estimate)
{
    struct choice choice = {.candidate = 0};
    struct fit_estimate estimate = {0, 0};
    /* Chains stand side by side, so each has its part of delta, and the frontier of the rest one: with
     * a chance of at least 1 - delta none of them passes a candidate that loses too much, and then
     * whichever of those that passed is taken does not. So what stands before the data is decided on all
     * problems, and what was learned can only add to it. */
    bool has_others = family->chains_count > family->ordered_count;
    double delta = request->delta / (family->ordered_count + has_others);
    if (request->test == FIT_EMPIRICAL) {
        choose_ordered(evaluation, family, request, parts, &choice, &estimate);
        choose_empirical(evaluation, family, request, parts, &choice, &estimate);
    } else {
        choose_by_chains(evaluation, family, request, delta, parts, &choice);
        choose_by_frontier(evaluation, family, request, delta, parts, &choice);
    }
    if (ret_estimate != NULL) {
        *ret_estimate = estimate;
    }
    return choice.candidate;
}
