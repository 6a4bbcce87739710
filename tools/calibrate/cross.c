#include "tools/calibrate/cross.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

const double cross_ways[CROSS_WAYS] = {0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 2.5, 3, 4, 6};

double cross_room(double lost_points, double error_points, double allowed_points)
{
    double room = allowed_points - lost_points;
    return room < 0 ? -INFINITY : error_points > 0 ? room / error_points : INFINITY;
}

/* Sums over problems, from which a score follows without a second pass. */
struct sums {
    double runs;
    double runs_squared;
    double lost; /* by all of a problem's runs */
    double lost_runs;
    double lost_squared;
    double tokens; /* these over all problems, decided on or not */
    double full_tokens;
};

static void sums_add(struct sums *sums, const struct sums *other, double sign)
{
    sums->runs += sign * other->runs;
    sums->runs_squared += sign * other->runs_squared;
    sums->lost += sign * other->lost;
    sums->lost_runs += sign * other->lost_runs;
    sums->lost_squared += sign * other->lost_squared;
    sums->tokens += sign * other->tokens;
    sums->full_tokens += sign * other->full_tokens;
}

static void sums_take(struct sums *sums, double runs, double lost)
{
    sums->runs += runs;
    sums->runs_squared += runs * runs;
    sums->lost += lost;
    sums->lost_runs += lost * runs;
    sums->lost_squared += lost * lost;
}

static struct fit_estimate loss_of(const struct sums *sums)
{
    if (sums->runs <= 0) {
        return (struct fit_estimate){0, 0};
    }
    double mean = sums->lost / sums->runs;
    double deviation =
        sums->lost_squared - 2 * mean * sums->lost_runs + mean * mean * sums->runs_squared;
    return (struct fit_estimate){100 * mean, 100 * sqrt(fmax(deviation, 0)) / sums->runs};
}

/* What was chosen with a fold left out, by way. */
struct pick {
    uint32_t candidate;
    double saving; /* never stopping counts as nothing saved */
};

struct cross {
    const struct evaluation *evaluation;
    const struct family *family;
    const struct fit_request *request;
    const struct fit_parts *parts;
    uint8_t *fold; /* [problems_count] */
    float *lost; /* [problems_count] by way: by what was chosen without the problem, over repeats */
    float *chosen; /* likewise: repeats in which anything was */
    struct pick picks[CROSS_FOLDS][CROSS_WAYS];
};

static void take_candidate(struct cross *x, uint32_t candidate)
{
    const struct evaluation *e = x->evaluation;
    const bool *mask = fit_mask(x->family, x->request, candidate, x->parts);
    size_t row = (size_t)candidate * e->problems_count;
    struct sums folds[CROSS_FOLDS] = {{0}}, all = {0};
    for (uint32_t p = 0; p < e->problems_count; p++) {
        if (!x->parts->all[p]) {
            continue;
        }
        struct sums *fold = &folds[x->fold[p]];
        fold->tokens += (double)e->tokens[row + p];
        fold->full_tokens += (double)e->full_tokens[p];
        if (mask[p]) {
            sums_take(fold, (double)e->runs[p], (double)e->runs[p] * (double)e->lost[row + p]);
        }
    }
    for (uint32_t f = 0; f < CROSS_FOLDS; f++) {
        sums_add(&all, &folds[f], 1);
    }
    for (uint32_t f = 0; f < CROSS_FOLDS; f++) {
        struct sums others = all;
        sums_add(&others, &folds[f], -1);
        struct fit_estimate seen = loss_of(&others);
        double room = cross_room(seen.lost_points, seen.error_points, x->request->allowed_points);
        double saving = others.full_tokens > 0 ? 1 - others.tokens / others.full_tokens : 0;
        for (uint32_t w = 0; w < CROSS_WAYS && room >= x->request->margin + cross_ways[w]; w++) {
            if (saving > x->picks[f][w].saving) {
                x->picks[f][w] = (struct pick){candidate, saving};
            }
        }
    }
}

/* splitmix64's finisher. */
static uint8_t fold_of(uint64_t hash, uint64_t seed)
{
    uint64_t z = hash ^ (seed + 1) * 0xd1342543de82ef95u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint8_t)((z ^ z >> 31) % CROSS_FOLDS);
}

static void run_repeat(struct cross *x, uint32_t repeat)
{
    const struct evaluation *e = x->evaluation;
    for (uint32_t f = 0; f < CROSS_FOLDS; f++) {
        for (uint32_t w = 0; w < CROSS_WAYS; w++) {
            x->picks[f][w] = (struct pick){.candidate = 0};
        }
    }
    for (uint32_t p = 0; p < e->problems_count; p++) {
        x->fold[p] =
            fold_of(e->problem_hashes[p], (uint64_t)x->request->seed * CROSS_REPEATS + repeat);
    }
    for (uint32_t c = 0; c < e->candidates_count; c++) {
        take_candidate(x, c);
    }
    for (uint32_t p = 0; p < e->problems_count; p++) {
        for (uint32_t w = 0; w < CROSS_WAYS; w++) {
            size_t c = x->picks[x->fold[p]][w].candidate;
            x->lost[(size_t)p * CROSS_WAYS + w] += e->lost[c * e->problems_count + p];
            x->chosen[(size_t)p * CROSS_WAYS + w] += c > 0 ? 1 : 0;
        }
    }
}

/* Over the folds without which anything was chosen: never stopping, which loses nothing, would dilute what is lost
 * by the rest. Where that is less than half of them, the way is no way. */
static struct fit_estimate estimate_of(const struct cross *x, uint32_t way)
{
    /* What was learned has seen the problems that it was learned from: they say nothing of it. */
    const bool *unseen = x->family->learned ? x->parts->test : x->parts->all;
    struct sums sums = {0};
    double runs = 0;
    for (uint32_t p = 0; p < x->evaluation->problems_count; p++) {
        size_t at = (size_t)p * CROSS_WAYS + way;
        if (unseen[p]) {
            double each = (double)x->evaluation->runs[p] / CROSS_REPEATS;
            sums_take(&sums, each * (double)x->chosen[at], each * (double)x->lost[at]);
            runs += (double)x->evaluation->runs[p];
        }
    }
    return sums.runs < runs / 2 ? (struct fit_estimate){INFINITY, 0} : loss_of(&sums);
}

void cross_measure(const struct evaluation *e, const struct family *family,
                   const struct fit_request *request, const struct fit_parts *parts,
                   struct fit_estimate ret_losses[CROSS_WAYS])
{
    struct cross x = {.evaluation = e, .family = family, .request = request, .parts = parts};
    x.fold = calloc((size_t)e->problems_count + 1, sizeof *x.fold);
    x.lost = calloc((size_t)e->problems_count * CROSS_WAYS + 1, sizeof *x.lost);
    x.chosen = calloc((size_t)e->problems_count * CROSS_WAYS + 1, sizeof *x.chosen);
    if (x.fold == NULL || x.lost == NULL || x.chosen == NULL) {
        fprintf(stderr, "dynasor-calibrate: out of memory\n");
        exit(1);
    }
    for (uint32_t repeat = 0; repeat < CROSS_REPEATS; repeat++) {
        run_repeat(&x, repeat);
    }
    for (uint32_t w = 0; w < CROSS_WAYS; w++) {
        ret_losses[w] = estimate_of(&x, w);
    }
    free(x.fold);
    free(x.lost);
    free(x.chosen);
}
