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
    options.esc_window = POLICY_ANSWERS_MAX; /* no program has so many before its cap */
    add(family, 0, &options);
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
    uint32_t longest = family_longest(log, request->cap);
    uint32_t count = 0;
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
    uint32_t all; /* that go on there */
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
        ret_above->all++;
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

/* Of those that a reading lets stop, and that may be lost by it. */
static const double shares[] = {0,     0.001,  0.002, 0.003, 0.004, 0.005,
                                0.006, 0.0075, 0.01,  0.02,  0.05,  0.1};

/* At the detect point every threshold, as `static` has them; at each reading after it the lowest one above
 * which, whatever comes above it, no larger share than this is lost, counting one more than was: few programs
 * without a loss prove little. In the first chain nobody stops there: it is what `static` can be, was not
 * learned, and so is decided on all problems as `static` is. */
static void add_k_step(const struct log *log, const struct family_request *request,
                       const bool *learn_from, struct family *family)
{
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
                /* What lets all of them stop is another cap, no certainty. */
                bool kept = above[k].lost[p] + 1.0 <= shares[s] * (above[k].stopped[p] + 1.0) &&
                            above[k].stopped[p] < above[k].all;
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

#define EDGES_LEARNED 16u /* at most: a bin of few programs proves nothing */

/* What one reading shows of a program to learn from that is not at its end there. */
struct shown {
    double signal;
    uint32_t run;
    uint32_t oracle;
};

static int by_certainty(const void *a, const void *b)
{
    const struct shown *x = a;
    const struct shown *y = b;
    int by_signal = (x->signal < y->signal) - (x->signal > y->signal);
    return by_signal != 0 ? by_signal : (x->run > y->run) - (x->run < y->run);
}

/* What curves are learned from. */
struct lesson {
    const struct log *log;
    const struct family_request *request;
    uint32_t cap;
    uint32_t count; /* readings */
    uint32_t knobs[POLICY_ROWS_MAX];
    struct shown *shown[POLICY_ROWS_MAX]; /* the most certain first */
    uint32_t shown_count[POLICY_ROWS_MAX];
    struct policy_edges edges;
    double *steps; /* [runs_count] scratch */
};

/* One reading's totals: edge[i] is where the signal begins that total[i] is enough for. */
struct stairs {
    uint32_t count;
    uint32_t total[POLICY_BINS_MAX]; /* ascending */
    double edge[POLICY_BINS_MAX];    /* descending */
    uint32_t rest;                   /* total below all of them */
};

static uint32_t edge_place(const struct policy_edges *edges, double edge)
{
    uint32_t at = 0;
    while (at < edges->count && edges->at[at] < edge) {
        at++;
    }
    return at;
}

static void edge_add(struct policy_edges *edges, double edge)
{
    uint32_t at = edge_place(edges, edge);
    if (at < edges->count && edges->at[at] == edge) {
        return;
    }
    memmove(edges->at + at + 1, edges->at + at, (edges->count - at) * sizeof edge);
    edges->at[at] = edge;
    edges->count++;
}

static void edge_remove(struct policy_edges *edges, uint32_t at)
{
    edges->count--;
    memmove(edges->at + at, edges->at + at + 1, (edges->count - at) * sizeof edges->at[0]);
}

/* Closer than this no profile may have two. */
static bool edges_touch(double low, double high)
{
    return high - low <= 2 * CERTAINDEX_EQUAL;
}

/* In place of those that it touches. */
static void edge_add_instead(struct policy_edges *edges, double edge)
{
    uint32_t at = edge_place(edges, edge);
    while (at < edges->count && edges_touch(edge, edges->at[at])) {
        edge_remove(edges, at);
    }
    while (at > 0 && edges_touch(edges->at[at - 1], edge)) {
        edge_remove(edges, --at);
    }
    edge_add(edges, edge);
}

/* Leaves room for one more; one that touches another is that one. Of the two that are closest the lower one goes:
 * who is between them goes on as those below. */
static void edge_add_in_room(struct policy_edges *edges, double edge)
{
    uint32_t closest = 0;
    uint32_t at = edge_place(edges, edge);
    if ((at < edges->count && edges_touch(edge, edges->at[at])) ||
        (at > 0 && edges_touch(edges->at[at - 1], edge))) {
        return;
    }
    edge_add(edges, edge);
    if (edges->count < POLICY_EDGES_MAX) {
        return;
    }
    for (uint32_t i = 1; i + 1 < edges->count; i++) {
        double here = edges->at[i + 1] - edges->at[i];
        closest = here < edges->at[closest + 1] - edges->at[closest] ? i : closest;
    }
    edge_remove(edges, closest);
}

static bool is_above(double high, double low)
{
    return high - low > 4 * CERTAINDEX_EQUAL;
}

/* Between two values, with as few decimals as tell it from both. */
static double edge_between(double low, double high)
{
    for (double unit = 100; unit <= 1e9; unit *= 10) {
        double edge = round((low + high) / 2 * unit) / unit;
        if (edge > low + 2 * CERTAINDEX_EQUAL && edge <= high - 2 * CERTAINDEX_EQUAL) {
            return edge;
        }
    }
    return high;
}

/* The bins of all readings: one for each value where these are few, else so that each holds as many programs; a
 * reward lies near 0 for most. */
static void learn_edges(struct lesson *l)
{
    size_t count = 0, most = 0;
    uint32_t distinct = 0;
    for (uint32_t k = 0; k < l->count; k++) {
        most += l->shown_count[k];
    }
    double *values = need(calloc(most + 1, sizeof *values));
    for (uint32_t k = 0; k < l->count; k++) {
        for (uint32_t i = 0; i < l->shown_count[k]; i++) {
            values[count++] = l->shown[k][i].signal;
        }
    }
    qsort(values, count, sizeof *values, ascending);
    for (size_t i = 1; i < count; i++) {
        distinct += is_above(values[i], values[i - 1]);
    }
    l->edges.count = 0;
    size_t next = 0;
    for (size_t i = 1; i < count && l->edges.count + 1 < EDGES_LEARNED; i++) {
        bool full = distinct < EDGES_LEARNED || i >= next + count / EDGES_LEARNED;
        if (full && is_above(values[i], values[i - 1])) {
            edge_add(&l->edges, edge_between(values[i - 1], values[i]));
            next = i;
        }
    }
    edge_add(&l->edges, 1);
    free(values);
}

/* Of the programs from `from` on that would be given this total, as far down as no larger share of all that
 * are more certain is lost, counting one more than was. Never all: that would be another cap. Returns where they
 * end. */
static uint32_t stair_end(const struct lesson *l, uint32_t k, uint32_t from, uint32_t total,
                          double share, uint32_t *lost)
{
    const struct shown *shown = l->shown[k];
    uint32_t end = from;
    uint32_t seen = *lost;
    for (uint32_t i = from; i < l->shown_count[k] && is_above(shown[i].signal, 0); i++) {
        uint32_t first = l->log->runs[shown[i].run].first;
        uint32_t last = last_step(l->log, shown[i].run, l->request->cap);
        uint32_t at = total < last ? total : last;
        seen += l->log->right[first + last - 1] > 0 && l->log->right[first + at - 1] <= 0;
        bool apart = i + 1 < l->shown_count[k] && is_above(shown[i].signal, shown[i + 1].signal);
        if (apart && seen + 1.0 <= share * (i + 2.0)) {
            end = i + 1;
            *lost = seen;
        }
    }
    return end;
}

/* From the least total up, each to those that what came before it did not take. The grid has the detect point;
 * totals beyond the next reading decide nothing where that decides again. */
static void stairs_by_share(const struct lesson *l, uint32_t k, double share, struct stairs *stairs)
{
    bool once = l->request->base.kind == POLICY_CURVE_ONCE;
    uint32_t least = l->knobs[k] + (k == 0);
    uint32_t next = l->knobs[k] + l->request->base.step;
    uint32_t most = once || next > l->cap ? l->cap : next;
    uint32_t stride = most > least ? (most - least - 1) / POLICY_EDGES_MAX + 1 : 1;
    uint32_t from = 0;
    uint32_t lost = 0;
    *stairs = (struct stairs){.rest = l->cap};
    for (uint32_t total = least; total < most; total += stride) {
        uint32_t end = stair_end(l, k, from, total, share, &lost);
        if (end > from) {
            double below = l->shown[k][end].signal;
            stairs->total[stairs->count] = total;
            stairs->edge[stairs->count++] = edge_between(below, l->shown[k][end - 1].signal);
            from = end;
        }
    }
}

/* For each bin a quantile of the oracle steps of its solvable programs, as if one more stood beyond all that were
 * seen; never rising with the signal. A bin without any takes that of the next less certain one. */
static void stairs_by_quantile(const struct lesson *l, uint32_t k, double quantile,
                               struct stairs *stairs)
{
    const struct shown *shown = l->shown[k];
    uint32_t bin_total[POLICY_BINS_MAX];
    uint32_t i = l->shown_count[k];
    uint32_t total = l->cap;
    for (uint32_t b = 0; b <= l->edges.count; b++) {
        uint32_t count = 0;
        for (; i > 0 && policy_bin(&l->edges, shown[i - 1].signal) == b; i--) {
            l->steps[count] = shown[i - 1].oracle;
            count += shown[i - 1].oracle != UINT32_MAX;
        }
        if (count > 0) {
            uint32_t place = (uint32_t)ceil(quantile * (count + 1.0));
            qsort(l->steps, count, sizeof *l->steps, ascending);
            total = place > count ? l->cap : (uint32_t)l->steps[place - 1];
            total = total > l->knobs[k] ? total : l->knobs[k];
        }
        bin_total[b] = total;
    }
    *stairs = (struct stairs){.count = 0};
    for (uint32_t b = l->edges.count; b > 0; b--) {
        total = bin_total[b] > stairs->rest ? bin_total[b] : stairs->rest;
        stairs->count += stairs->count == 0 || total > stairs->rest;
        stairs->total[stairs->count - 1] = total;
        stairs->edge[stairs->count - 1] = l->edges.at[b - 1];
        stairs->rest = total;
    }
    stairs->rest = bin_total[0] > stairs->rest ? bin_total[0] : stairs->rest;
}

static uint32_t stairs_total(const struct stairs *stairs, double signal)
{
    for (uint32_t i = 0; i < stairs->count; i++) {
        if (signal >= stairs->edge[i]) {
            return stairs->total[i];
        }
    }
    return stairs->rest;
}

/* Edges on both sides of which every row says the same say nothing. */
static void curve_tidy(struct policy_options *options)
{
    struct policy_edges *edges = &options->curve_edges;
    for (uint32_t e = edges->count; e-- > 0 && edges->count > 1;) {
        bool same = true;
        for (uint32_t k = 0; k < options->curve_count; k++) {
            same = same && options->curve[k].total[e] == options->curve[k].total[e + 1];
        }
        if (!same) {
            continue;
        }
        edge_remove(edges, e);
        for (uint32_t k = 0; k < options->curve_count; k++) {
            uint32_t *total = options->curve[k].total;
            memmove(total + e, total + e + 1, (edges->count + 1 - e) * sizeof *total);
        }
    }
}

/* Where the bin begins of who is above this. A program that is equal to it is not above, but would be in a bin
 * that begins there. */
static double edge_above(const struct lesson *l, double above)
{
    const enum certaindex_signal signal = l->request->base.curve_signal;
    const uint32_t knob = l->request->detects[0];
    bool tie = above <= 0;
    for (uint32_t i = 0; i < l->log->runs_count && !tie && above < 1; i++) {
        tie =
            last_step(l->log, i, l->request->cap) > knob &&
            fabs(signal_at(l->log, i, &l->request->base, knob, signal) - above) <= CERTAINDEX_EQUAL;
    }
    return tie ? above + 2 * CERTAINDEX_EQUAL : above;
}

/* Who is above this at the first reading stops there, as under `static`; all others by the stairs. */
static void add_curve_above(const struct lesson *l, const struct stairs *stairs, double above,
                            double edge, uint32_t chain, struct family *family)
{
    struct policy_options options = l->request->base;
    struct policy_edges *edges = &options.curve_edges;
    *edges = (struct policy_edges){.count = 0};
    for (uint32_t k = 0; k < l->count; k++) {
        for (uint32_t i = 0; i < stairs[k].count; i++) {
            edge_add_in_room(edges, stairs[k].edge[i]);
        }
    }
    edge_add_instead(edges, edge);
    options.detect = l->request->detects[0];
    options.curve_count = l->count;
    for (uint32_t k = 0; k < l->count; k++) {
        options.curve[k].knob = l->knobs[k];
        options.curve[k].total[0] = stairs[k].rest;
        for (uint32_t e = 0; e < edges->count; e++) {
            bool stops = k == 0 && above < 1 && edges->at[e] >= edge;
            options.curve[k].total[e + 1] =
                stops ? l->knobs[0] : stairs_total(&stairs[k], edges->at[e]);
        }
    }
    curve_tidy(&options);
    add(family, chain, &options);
}

static void lesson_begin(const struct log *log, const struct family_request *request,
                         const bool *learn_from, struct lesson *l)
{
    *l = (struct lesson){.log = log, .request = request};
    l->count = readings(log, request, l->knobs);
    l->count = request->base.kind == POLICY_CURVE_ONCE && l->count > 0 ? 1 : l->count;
    l->steps = need(calloc(log->runs_count, sizeof *l->steps));
    for (uint32_t k = 0; k < l->count; k++) {
        l->shown[k] = need(calloc(log->runs_count, sizeof *l->shown[k]));
    }
    for (uint32_t i = 0; i < log->runs_count; i++) {
        uint32_t last = last_step(log, i, request->cap);
        l->cap = last > l->cap ? last : l->cap;
        for (uint32_t k = 0; k < l->count; k++) {
            if (learn_from[log->runs[i].problem] && last > l->knobs[k]) {
                double signal =
                    signal_at(log, i, &request->base, l->knobs[k], request->base.curve_signal);
                l->shown[k][l->shown_count[k]++] = (struct shown){
                    fmin(fmax(signal, 0), 1), i, family_oracle_step(log, i, request->cap)};
            }
        }
    }
    for (uint32_t k = 0; k < l->count; k++) {
        qsort(l->shown[k], l->shown_count[k], sizeof *l->shown[k], by_certainty);
    }
    learn_edges(l);
}

static void lesson_end(struct lesson *l)
{
    free(l->steps);
    for (uint32_t k = 0; k < l->count; k++) {
        free(l->shown[k]);
    }
}

/* At the detect point every threshold, as `static` has them; below it and at each reading after it one of two
 * kinds of stairs. In the first chain these let nobody stop: it is what `static` can be, as of k_step. */
static void add_curve(const struct log *log, const struct family_request *request,
                      const bool *learn_from, struct family *family)
{
    static const double quantiles[] = {0.9995, 0.999, 0.998, 0.997, 0.996, 0.995, 0.993,
                                       0.99,   0.985, 0.98,  0.97,  0.96,  0.95,  0.9,
                                       0.85,   0.8,   0.7,   0.6,   0.5};
    struct stairs stairs[POLICY_ROWS_MAX];
    struct lesson l;
    double thresholds[101];
    double edges[101];
    uint32_t thresholds_count = first_thresholds(log, request, thresholds);
    lesson_begin(log, request, learn_from, &l);
    for (uint32_t t = 0; t < thresholds_count; t++) {
        edges[t] = edge_above(&l, thresholds[t]);
    }
    for (uint32_t chain = 0; chain < COUNT_OF(shares) + COUNT_OF(quantiles); chain++) {
        for (uint32_t k = 0; k < l.count; k++) {
            if (chain < COUNT_OF(shares)) {
                stairs_by_share(&l, k, shares[chain], &stairs[k]);
            } else {
                stairs_by_quantile(&l, k, quantiles[chain - COUNT_OF(shares)], &stairs[k]);
            }
        }
        for (uint32_t t = 0; t < thresholds_count; t++) {
            add_curve_above(&l, stairs, thresholds[t], edges[t], chain, family);
        }
    }
    lesson_end(&l);
}

/* ---- chances ------------------------------------------------------------------------------------ */

struct bins {
    uint32_t solved[POLICY_BINS_MAX];
    uint32_t all[POLICY_BINS_MAX];
};

static void bins_fill(const struct log *log, const struct family_request *request,
                      const bool *learn_from, uint32_t knob, struct bins *bins)
{
    memset(bins, 0, sizeof *bins);
    for (uint32_t i = 0; i < log->runs_count; i++) {
        uint32_t last = last_step(log, i, request->cap);
        if (!learn_from[log->runs[i].problem] || last < knob) {
            continue;
        }
        double signal = signal_at(log, i, &request->base, knob, request->base.curve_signal);
        uint32_t b = policy_bin(&request->base.chance_edges, signal);
        bins->all[b]++;
        bins->solved[b] += log->right[log->runs[i].first + last - 1] > 0;
    }
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
        for (uint32_t b = 0; b <= request->base.chance_edges.count; b++) {
            options->chance[k].chance[b] = (bins.solved[b] + 1.0) / (bins.all[b] + 2.0);
        }
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

uint32_t family_longest(const struct log *log, uint32_t cap)
{
    uint32_t longest = 0;
    for (uint32_t i = 0; i < log->runs_count; i++) {
        uint32_t last = last_step(log, i, cap);
        longest = last > longest ? last : longest;
    }
    return longest;
}

bool family_has_choice(enum policy_kind kind)
{
    return kind != POLICY_EVEN && kind != POLICY_DEEPCONF && kind != POLICY_M_OF_N;
}

uint32_t family_detects(enum policy_kind kind)
{
    static const uint32_t detects[POLICY_KINDS] = {
        [POLICY_STATIC] = DETECTS_MAX, [POLICY_K_STEP] = 1, [POLICY_CURVE_ONCE] = 1,
        [POLICY_CURVE_EACH_STEP] = 1,  [POLICY_LENGTH] = 1, [POLICY_GIVE_UP] = 1};
    return detects[kind];
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
        add(ret_family, 0, &with.base); /* of those that are refused */
        break;
    }
    uint32_t ordered = ordered_chains[request->base.kind];
    ret_family->ordered_count =
        ordered < ret_family->chains_count ? ordered : ret_family->chains_count;
    if (request->give_up_below > 0) {
        add_giving_up(log, request, learn_from, ret_family);
    }
}
