#include "tools/calibrate/family.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/calibrate/replay.h"

#define COUNT_OF(array) ((uint32_t)(sizeof(array) / sizeof((array)[0])))

static void *need(void *memory)
{
    if (memory == NULL) {
        fprintf(stderr, "dynasor-calibrate: out of memory\n");
        exit(1);
    }
    return memory;
}

static void add(struct family *family, uint32_t chain, const struct policy_options *options)
{
    if ((family->count & (family->count - 1)) == 0) { /* full: its room is a power of two */
        uint32_t room = family->count > 0 ? family->count * 2 : 1;
        family->options = need(reallocarray(family->options, room, sizeof *family->options));
        family->chain = need(reallocarray(family->chain, room, sizeof *family->chain));
    }
    family->options[family->count] = *options;
    family->chain[family->count++] = chain;
    family->chains_count = chain + 1 > family->chains_count ? chain + 1 : family->chains_count;
}

void family_free(struct family *family)
{
    free(family->options);
    free(family->chain);
    *family = (struct family){.count = 0};
}

static uint32_t last_step(const struct log *log, uint32_t run, uint32_t cap)
{
    uint32_t count = log->runs[run].count;
    return cap > 0 && cap < count ? cap : count;
}

uint32_t family_oracle_step(const struct log *log, uint32_t run, uint32_t cap)
{
    uint32_t first = log->runs[run].first;
    uint32_t step = last_step(log, run, cap);
    if (log->right[first + step - 1] <= 0) {
        return UINT32_MAX;
    }
    while (step > 1 && log->right[first + step - 2] > 0) {
        step--;
    }
    return step;
}

/* ---- grids -------------------------------------------------------------------------------------- */

/* Between two values that agreement takes; of 100 nothing is above. */
static double threshold_of(int32_t percent)
{
    return percent == 100 ? 1 : (percent - 0.5 + 0.5 * (percent == 0)) / 100;
}

/* A threshold that nothing is above comes first: it never stops. */
static void add_static(const struct family_request *request, struct family *family)
{
    uint32_t chain = 0;
    for (uint32_t d = 0; d < request->detects_count; d++) {
        bool both = request->use_certainty && request->use_reward;
        for (int32_t fixed = both ? 9 : 0; fixed >= 0; fixed -= 3, chain++) {
            for (int32_t percent = 100; percent >= 0; percent--) {
                struct policy_options options = request->base;
                struct certaindex_limits *limits = &options.limits[0].limits;
                double above = threshold_of(percent);
                options.detect = request->detects[d];
                options.limits_count = 1;
                options.limits[0].knob = options.detect;
                limits->used = (request->use_certainty ? 1u << CERTAINDEX_CERTAINTY : 0) |
                               (request->use_reward ? 1u << CERTAINDEX_REWARD : 0);
                limits->above[CERTAINDEX_CERTAINTY] = above;
                limits->above[CERTAINDEX_REWARD] = both ? fixed / 10.0 : above;
                add(family, chain, &options);
            }
        }
    }
}

static void add_probe(const struct family_request *request, struct family *family)
{
    static const uint32_t intervals[] = {32, 64, 96, 128, 192, 256};
    static const double growths[] = {0, 0.05, 0.1, 0.2};
    static const uint32_t windows[] = {2, 3, 5, 8, 12, 16, 24, 32, 48};
    static const double shares[] = {0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8};
    struct policy_options options = request->base;
    options.probe.agreement = 2; /* nothing agrees that much */
    options.probe.first_tokens = 1u << 24;
    add(family, 0, &options);
    for (uint32_t i = 0; i < COUNT_OF(intervals); i++) {
        for (uint32_t g = 0; g < COUNT_OF(growths); g++) {
            for (uint32_t w = 0; w < COUNT_OF(windows); w++) {
                for (uint32_t s = 0; s < COUNT_OF(shares); s++) {
                    options = request->base;
                    options.probe.first_tokens = intervals[i];
                    options.probe.interval_tokens = intervals[i];
                    options.probe.growth = growths[g];
                    options.probe.window = windows[w];
                    options.probe.stable_share = shares[s];
                    add(family, 0, &options);
                }
            }
        }
    }
}

static void add_esc(const struct family_request *request, struct family *family)
{
    struct policy_options options = request->base;
    for (uint32_t window = 20; window >= 2; window--) {
        options.esc_window = window;
        add(family, 0, &options);
    }
}

static void add_adaptive(const struct family_request *request, struct family *family)
{
    static const double posteriors[] = {1,    0.9999, 0.9995, 0.999, 0.998, 0.995, 0.99, 0.98,
                                        0.97, 0.95,   0.93,   0.9,   0.85,  0.8,   0.7,  0.6};
    struct policy_options options = request->base;
    for (uint32_t i = 0; i < COUNT_OF(posteriors); i++) {
        options.posterior = posteriors[i];
        add(family, 0, &options);
    }
}

/* ---- read off the data -------------------------------------------------------------------------- */

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* In one chain few programs stop that wrote little, then more; in the other those that wrote much. */
static void add_length(const struct log *log, const struct family_request *request,
                       const bool *learn_from, struct family *family)
{
    struct policy_options options = request->base;
    double *lengths = need(calloc(log->runs_count, sizeof *lengths));
    uint32_t count = 0;
    options.detect = request->detects[0];
    for (uint32_t i = 0; i < log->runs_count; i++) {
        if (learn_from[log->runs[i].problem] && last_step(log, i, request->cap) >= options.detect) {
            lengths[count++] = (double)log->tokens[log->runs[i].first + options.detect - 1];
        }
    }
    qsort(lengths, count, sizeof *lengths, ascending);
    for (uint32_t chain = 0; chain < 2; chain++) {
        options.length_rule = chain == 0 ? POLICY_LENGTH_SHORTER : POLICY_LENGTH_LONGER;
        options.length_tokens = chain == 0 ? 0 : UINT64_MAX / 2;
        add(family, chain, &options);
        for (uint32_t i = 1; i < 50 && count > 0; i++) {
            uint32_t at = (chain == 0 ? i : 50 - i) * count / 50;
            options.length_tokens = (uint64_t)lengths[at < count ? at : count - 1];
            add(family, chain, &options);
        }
    }
    free(lengths);
}

/* Every reading of the detect point and after it, at most POLICY_ROWS_MAX of them. */
static uint32_t readings(const struct log *log, const struct family_request *request,
                         uint32_t knobs[POLICY_ROWS_MAX])
{
    uint32_t longest = 0;
    uint32_t count = 0;
    for (uint32_t i = 0; i < log->runs_count; i++) {
        uint32_t last = last_step(log, i, request->cap);
        longest = last > longest ? last : longest;
    }
    for (uint32_t n = request->detects[0]; n < longest && count < POLICY_ROWS_MAX;
         n += request->base.step) {
        knobs[count++] = n;
    }
    return count;
}

static double signal_at(const struct log *log, uint32_t run, const struct policy_options *options,
                        uint32_t step, enum certaindex_signal signal)
{
    struct certaindex seen = replay_signals(log, run, options, step);
    return (seen.known & 1u << signal) != 0 ? seen.value[signal] : 0;
}

/* Of the programs above each hundredth at this reading: how many, and how many of them would turn
 * from right to wrong. */
struct above {
    uint32_t stopped[101];
    uint32_t lost[101];
};

static void count_above(const struct log *log, const struct family_request *request,
                        const bool *learn_from, uint32_t knob, struct above *ret_above)
{
    const enum certaindex_signal signal = request->base.curve_signal;
    memset(ret_above, 0, sizeof *ret_above);
    for (uint32_t i = 0; i < log->runs_count; i++) {
        uint32_t last = last_step(log, i, request->cap);
        uint32_t first = log->runs[i].first;
        if (!learn_from[log->runs[i].problem] || last <= knob) {
            continue;
        }
        double value = signal_at(log, i, &request->base, knob, signal);
        bool lost = log->right[first + last - 1] > 0 && log->right[first + knob - 1] <= 0;
        for (uint32_t p = 0; p <= 100 && value > p / 100.0 + CERTAINDEX_EQUAL; p++) {
            ret_above->stopped[p]++;
            ret_above->lost[p] += lost;
        }
    }
}

static void limits_row(struct policy_options *options, uint32_t row, uint32_t knob, double above)
{
    options->limits[row] =
        (struct policy_limits_row){.knob = knob, .limits = {.used = 1u << options->curve_signal}};
    options->limits[row].limits.above[options->curve_signal] = above;
}

/* Thresholds at the first reading, from the highest: of those between which no program of the log lies one, for
 * they do the same. No label is looked at. */
static uint32_t first_thresholds(const struct log *log, const struct family_request *request,
                                 double thresholds[101])
{
    bool taken[102] = {
        true}; /* by a program that is above threshold i and not above the one before */
    uint32_t count = 0;
    for (uint32_t i = 0; i < log->runs_count; i++) {
        uint32_t place = 0;
        if (last_step(log, i, request->cap) < request->detects[0]) {
            continue;
        }
        double value =
            signal_at(log, i, &request->base, request->detects[0], request->base.curve_signal);
        while (place <= 100 && value <= threshold_of(100 - (int32_t)place) + CERTAINDEX_EQUAL) {
            place++;
        }
        taken[place] = true;
    }
    for (int32_t percent = 100; percent >= 0; percent--) {
        if (taken[100 - percent]) {
            thresholds[count++] = threshold_of(percent);
        }
    }
    return count;
}

/* At the detect point every threshold, as `static` has them; at each reading after it the lowest one above
 * which, whatever comes above it, no larger share than this is lost, counting one more than was: few programs
 * without a loss prove little. In the first chain nobody stops there: it is what `static` can be, was not
 * learned, and so is decided on all problems as `static` is. */
static void add_k_step(const struct log *log, const struct family_request *request,
                       const bool *learn_from, struct family *family)
{
    static const double shares[] = {0,     0.001,  0.002, 0.003, 0.004, 0.005,
                                    0.006, 0.0075, 0.01,  0.02,  0.05,  0.1};
    double thresholds[101];
    uint32_t knobs[POLICY_ROWS_MAX];
    uint32_t thresholds_count = first_thresholds(log, request, thresholds);
    uint32_t count = readings(log, request, knobs);
    struct above *above = need(calloc(count > 0 ? count : 1, sizeof *above));
    for (uint32_t k = 0; k < count; k++) {
        count_above(log, request, learn_from, knobs[k], &above[k]);
    }
    for (uint32_t s = 0; s < COUNT_OF(shares); s++) {
        struct policy_options options = request->base;
        options.detect = request->detects[0];
        options.limits_count = count;
        for (uint32_t k = 0; k < count; k++) {
            uint32_t lowest = 100;
            for (uint32_t p = 100; p-- > 0;) {
                bool kept = above[k].lost[p] + 1.0 <= shares[s] * (above[k].stopped[p] + 1.0);
                lowest = kept ? p : lowest;
            }
            limits_row(&options, k, knobs[k], lowest / 100.0);
        }
        for (uint32_t t = 0; t < thresholds_count; t++) {
            limits_row(&options, 0, options.detect, thresholds[t]);
            add(family, s, &options);
        }
    }
    free(above);
}

/* ---- curves ------------------------------------------------------------------------------------- */

/* Oracle steps of the solvable programs by bin of one reading, as one sorted list for each bin. */
struct bins {
    double *steps[POLICY_BINS];
    uint32_t count[POLICY_BINS];
    uint32_t solved[POLICY_BINS];
    uint32_t all[POLICY_BINS];
};

static void bins_fill(const struct log *log, const struct family_request *request,
                      const bool *learn_from, uint32_t knob, struct bins *bins)
{
    memset(bins, 0, sizeof *bins);
    for (uint32_t b = 0; b < POLICY_BINS; b++) {
        bins->steps[b] = need(calloc(log->runs_count, sizeof(double)));
    }
    for (uint32_t i = 0; i < log->runs_count; i++) {
        if (!learn_from[log->runs[i].problem] || last_step(log, i, request->cap) < knob) {
            continue;
        }
        uint32_t oracle = family_oracle_step(log, i, request->cap);
        uint32_t b =
            policy_bin(signal_at(log, i, &request->base, knob, request->base.curve_signal));
        bins->all[b]++;
        if (oracle != UINT32_MAX) {
            bins->solved[b]++;
            bins->steps[b][bins->count[b]++] = oracle;
        }
    }
    for (uint32_t b = 0; b < POLICY_BINS; b++) {
        qsort(bins->steps[b], bins->count[b], sizeof(double), ascending);
    }
}

static void bins_free(struct bins *bins)
{
    for (uint32_t b = 0; b < POLICY_BINS; b++) {
        free(bins->steps[b]);
    }
}

/* The envelope: a quantile of each bin as if one more program stood beyond all that were seen, never
 * rising with the signal. A bin without data takes the next less certain one's, and the cap where
 * there is none. */
static void curve_row(const struct bins *bins, uint32_t knob, uint32_t cap, double quantile,
                      struct policy_curve_row *ret_row)
{
    uint32_t total = cap;
    ret_row->knob = knob;
    for (uint32_t b = 0; b < POLICY_BINS; b++) {
        if (bins->count[b] > 0) {
            uint32_t place = (uint32_t)ceil(quantile * (bins->count[b] + 1.0));
            total = place > bins->count[b] ? cap : (uint32_t)bins->steps[b][place - 1];
        }
        ret_row->total[b] = total;
    }
    for (uint32_t b = POLICY_BINS - 1; b-- > 0;) {
        uint32_t more = ret_row->total[b + 1];
        ret_row->total[b] = ret_row->total[b] > more ? ret_row->total[b] : more;
    }
}

/* What `static` can be, with thresholds of tenths: whoever is not let stop at the first reading goes to the
 * cap. */
static void add_curve_once_bold(const struct family_request *request, uint32_t cap,
                                struct family *family)
{
    struct policy_options options = request->base;
    options.detect = request->detects[0];
    options.curve_count = 2;
    options.curve[0].knob = options.detect;
    options.curve[1].knob = options.detect + 1;
    for (uint32_t b = 0; b < POLICY_BINS; b++) {
        options.curve[0].total[b] = options.curve[1].total[b] = cap;
    }
    add(family, 0, &options);
    for (uint32_t b = POLICY_BINS; b-- > 0;) {
        options.curve[0].total[b] = options.detect;
        add(family, 0, &options);
    }
}

static void add_curve(const struct log *log, const struct family_request *request,
                      const bool *learn_from, struct family *family)
{
    static const double quantiles[] = {0.9995, 0.999, 0.998, 0.997, 0.996, 0.995, 0.993,
                                       0.99,   0.985, 0.98,  0.97,  0.96,  0.95,  0.9,
                                       0.85,   0.8,   0.7,   0.6,   0.5};
    uint32_t knobs[POLICY_ROWS_MAX];
    uint32_t count = readings(log, request, knobs);
    uint32_t cap = 0;
    struct policy_options *made = need(calloc(COUNT_OF(quantiles), sizeof *made));
    count = request->base.kind == POLICY_CURVE_ONCE && count > 0 ? 1 : count;
    for (uint32_t i = 0; i < log->runs_count; i++) {
        uint32_t last = last_step(log, i, request->cap);
        cap = last > cap ? last : cap;
    }
    add_curve_once_bold(request, cap, family);
    for (uint32_t k = 0; k < count; k++) {
        struct bins bins;
        bins_fill(log, request, learn_from, knobs[k], &bins);
        for (uint32_t q = 0; q < COUNT_OF(quantiles); q++) {
            curve_row(&bins, knobs[k], cap, quantiles[q], &made[q].curve[k]);
        }
        bins_free(&bins);
    }
    for (uint32_t q = 0; q < COUNT_OF(quantiles); q++) {
        struct policy_options options = request->base;
        options.detect = request->detects[0];
        options.curve_count = count;
        memcpy(options.curve, made[q].curve, sizeof options.curve);
        add(family, q + 1, &options);
        /* And bold at the first reading, as `static` is: from a bin on it stops there. */
        for (uint32_t b = POLICY_BINS; b-- > 0 && count > 0;) {
            options.curve[0].total[b] = knobs[0];
            add(family, q + 1, &options);
        }
    }
    free(made);
}

/* One more right and one more wrong one than were seen, so that no bin is hopeless for lack of data. */
static void chance_rows(const struct log *log, const struct family_request *request,
                        const bool *learn_from, struct policy_options *options)
{
    uint32_t knobs[POLICY_ROWS_MAX];
    uint32_t count = readings(log, request, knobs);
    for (uint32_t k = 0; k < count; k++) {
        struct bins bins;
        bins_fill(log, request, learn_from, knobs[k], &bins);
        options->chance[k].knob = knobs[k];
        for (uint32_t b = 0; b < POLICY_BINS; b++) {
            options->chance[k].chance[b] = (bins.solved[b] + 1.0) / (bins.all[b] + 2.0);
        }
        bins_free(&bins);
    }
    options->chance_count = count;
}

static void add_give_up(const struct family_request *request, const struct policy_options *table,
                        struct family *family)
{
    static const double chances[] = {0,    0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03,
                                     0.04, 0.05,  0.075, 0.1,   0.15, 0.2,   0.3};
    for (uint32_t i = 0; i < COUNT_OF(chances); i++) {
        struct policy_options options = *table;
        options.detect = request->detects[0];
        options.give_up_below = chances[i];
        add(family, 0, &options);
    }
}

/* Every candidate once more, that gives up as well. The table was learned, and so are they. */
static void add_giving_up(const struct log *log, const struct family_request *request,
                          const bool *learn_from, struct family *family)
{
    struct policy_options table = request->base;
    uint32_t count = family->count;
    uint32_t chains = family->chains_count;
    table.detect = request->detects[0];
    chance_rows(log, request, learn_from, &table);
    for (uint32_t c = 0; c < count; c++) {
        struct policy_options options = family->options[c];
        options.give_up_below = request->give_up_below;
        options.chance_count = table.chance_count;
        memcpy(options.chance, table.chance, sizeof options.chance);
        add(family, chains + family->chain[c], &options);
    }
}

bool family_is_learned(const struct family_request *request)
{
    static const bool learned[POLICY_KINDS] = {[POLICY_K_STEP] = true,
                                               [POLICY_CURVE_ONCE] = true,
                                               [POLICY_CURVE_EACH_STEP] = true,
                                               [POLICY_LENGTH] = true,
                                               [POLICY_GIVE_UP] = true};
    return learned[request->base.kind] || request->give_up_below > 0;
}

/* Grids; of what is learned the first chain, which is `static`. */
static const uint32_t ordered_chains[POLICY_KINDS] = {
    [POLICY_STATIC] = UINT32_MAX, [POLICY_ESC] = UINT32_MAX,
    [POLICY_K_STEP] = 1,          [POLICY_ADAPTIVE_CONSISTENCY] = UINT32_MAX,
    [POLICY_CURVE_ONCE] = 1,      [POLICY_CURVE_EACH_STEP] = 1};

void family_build(const struct log *log, const struct family_request *request,
                  const bool *learn_from, struct family *ret_family)
{
    struct family_request with = *request;
    *ret_family = (struct family){.learned = family_is_learned(request)};
    if (request->base.kind == POLICY_GIVE_UP) {
        chance_rows(log, request, learn_from, &with.base);
    }
    switch (request->base.kind) {
    case POLICY_STATIC:
        add_static(&with, ret_family);
        break;
    case POLICY_K_STEP:
        add_k_step(log, &with, learn_from, ret_family);
        break;
    case POLICY_CURVE_ONCE:
    case POLICY_CURVE_EACH_STEP:
        add_curve(log, &with, learn_from, ret_family);
        break;
    case POLICY_LENGTH:
        add_length(log, &with, learn_from, ret_family);
        break;
    case POLICY_ESC:
        add_esc(&with, ret_family);
        break;
    case POLICY_ADAPTIVE_CONSISTENCY:
        add_adaptive(&with, ret_family);
        break;
    case POLICY_PROBE:
        add_probe(&with, ret_family);
        break;
    case POLICY_GIVE_UP:
        add_give_up(&with, &with.base, ret_family);
        break;
    case POLICY_EVEN:
    case POLICY_DEEPCONF:
    case POLICY_M_OF_N:
    case POLICY_KINDS:
        add(ret_family, 0, &with.base); /* nothing to choose */
        break;
    }
    uint32_t ordered = ordered_chains[request->base.kind];
    ret_family->ordered_count =
        ordered < ret_family->chains_count ? ordered : ret_family->chains_count;
    if (request->give_up_below > 0) {
        add_giving_up(log, request, learn_from, ret_family);
    }
}
