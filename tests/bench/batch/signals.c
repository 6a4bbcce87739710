/* How well certaindex tells what a program needs: correlation with the steps from which its answer is
 * right for good, by detect step and by threshold, and beside other signals. One of them is a linear probe
 * of the policy model's hidden states (hidden.c): LOG.hidden has its prediction for each problem. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/batch/figures.h"

#define HIDDEN_PROBLEMS_MAX 1000000u

/* A problem over its seeds. */
struct point {
    double programs;
    double certainty;
    double length;
    double log_probability;
    double reward;
    double hidden;
    double needed; /* steps, of the programs that are right at the cap */
    double solved;
};

/* Steps predicted from hidden states, by problem. */
struct hidden {
    double *steps; /* NAN: not predicted */
    uint32_t count;
};

/* False: the campaign made none for this log. */
static bool hidden_read(const char *folder, const char *log, struct hidden *h)
{
    char path[4096], line[256];
    uint32_t problem;
    double steps;
    *h = (struct hidden){0};
    (void)snprintf(path, sizeof path, "%s/%s.hidden", folder, log); /* too long: not found */
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%u\t%lf", &problem, &steps) != 2 || problem >= HIDDEN_PROBLEMS_MAX)
            continue; /* a header */
        if (problem >= h->count) {
            h->steps = need(realloc(h->steps, (problem + 1) * sizeof *h->steps));
            while (h->count <= problem)
                h->steps[h->count++] = NAN;
        }
        h->steps[problem] = steps;
    }
    (void)fclose(file); /* only read */
    return h->count > 0;
}

static double hidden_of(const struct hidden *h, uint32_t problem)
{
    return problem < h->count ? h->steps[problem] : NAN;
}

/* H~ of so many answers, and what else is known then. */
static void point_add(const struct study *s, const struct hidden *h, uint32_t run, uint32_t detect,
                      uint32_t cap, struct point *p)
{
    static const struct policy_options options = {.kind = POLICY_STATIC};
    const struct item *item = &s->items.all[run];
    struct certaindex seen = replay_signals(&s->log, run, &options, detect);
    uint32_t needed = family_oracle_step(&s->log, run, cap);
    p->programs++;
    p->certainty += seen.value[CERTAINDEX_CERTAINTY];
    p->reward += seen.value[CERTAINDEX_REWARD];
    p->hidden += hidden_of(h, item->problem);
    p->length += (double)item->steps[detect - 1].tokens;
    for (uint32_t i = 0; i < detect; i++)
        p->log_probability += (double)item->steps[i].log_probability / detect;
    if (needed != UINT32_MAX) {
        p->solved++;
        p->needed += needed;
    }
}

/* By problem; only those that are solved at least once have needed something. */
static uint32_t points_of(const struct study *s, const struct hidden *h, uint32_t detect,
                          uint32_t cap, struct point **ret_points)
{
    struct point *points = need(calloc(s->items.count, sizeof *points));
    uint32_t count = 0, solved = 0;
    for (uint32_t i = 0; i < s->items.count; i++) {
        if (i == 0 || s->items.all[i].problem != s->items.all[i - 1].problem)
            count++;
        if (s->items.all[i].steps_count >= detect)
            point_add(s, h, i, detect, cap, &points[count - 1]);
    }
    for (uint32_t i = 0; i < count; i++)
        if (points[i].solved > 0)
            points[solved++] = points[i];
    *ret_points = points;
    return solved;
}

enum signal { CERTAINTY, LENGTH, LOG_PROBABILITY, REWARD, HIDDEN, SIGNALS };
static const char *const signal_names[SIGNALS] = {"certainty", "length", "log_probability",
                                                  "reward", "hidden_states"};

static double signal_of(const struct point *p, enum signal signal)
{
    const double sums[SIGNALS] = {p->certainty, p->length, p->log_probability, p->reward,
                                  p->hidden};
    return sums[signal] / p->programs;
}

struct correlation {
    bool known; /* of too few, or where one is the same for all, there is none */
    double pearson, kendall;
};

#define CORRELATED_MIN 3u

static bool varies(const double *x, uint32_t count)
{
    for (uint32_t i = 1; i < count; i++)
        if (x[i] < x[0] || x[i] > x[0])
            return true;
    return false;
}

static struct correlation correlation_of(const double *x, const double *y, uint32_t count)
{
    if (count < CORRELATED_MIN || !varies(x, count) || !varies(y, count))
        return (struct correlation){.known = false};
    return (struct correlation){true, pearson(x, y, count), kendall(x, y, count)};
}

static void bar_set(const char *bar, const struct correlation *c, double value)
{
    if (c->known)
        programs_bar_set(bar, value);
    else
        programs_bar_lacks(bar, "too few programs, or all alike");
}

static struct correlation correlate(const struct study *s, const struct hidden *h, uint32_t detect,
                                    enum signal signal)
{
    struct point *points;
    uint32_t count = points_of(s, h, detect, 0, &points);
    double *x = need(calloc(count + 1, sizeof *x)), *y = need(calloc(count + 1, sizeof *y));
    for (uint32_t i = 0; i < count; i++) {
        x[i] = signal_of(&points[i], signal);
        y[i] = points[i].needed / points[i].solved;
    }
    struct correlation c = correlation_of(x, y, count);
    free(x);
    free(y);
    free(points);
    return c;
}

/* ---- what is looked at ---------------------------------------------------------------------------- */

static const struct row {
    const char *log;
    const char *bar;
    uint32_t detect;
    enum signal signal;
} rows[] = {{"sc-words", "pearson_sc_words", 5, CERTAINTY},
            {"rebase-words-split-128", "pearson_rebase_words", 16, CERTAINTY},
            {"mcts-game24", "pearson_mcts_game24", 3, REWARD}};

/* ---- tokens at equal accuracy --------------------------------------------------------------------- */

/* What a program is when it stops at the detect step, and when it does not. */
struct choice {
    double signal;
    double tokens[2]; /* stopped, whole */
    bool right[2];
};

static struct choice choice_of(const struct study *s, const struct hidden *h, uint32_t run,
                               uint32_t detect, enum signal signal)
{
    const struct item *item = &s->items.all[run];
    const struct log_run *of = &s->log.runs[run];
    struct point p = {0};
    point_add(s, h, run, detect, 0, &p);
    return (struct choice){.signal = signal_of(&p, signal),
                           .tokens = {(double)item->steps[detect - 1].tokens,
                                      (double)item->steps[item->steps_count - 1].tokens},
                           .right = {s->log.right[of->first + detect - 1] > 0,
                                     s->log.right[of->first + of->count - 1] > 0}};
}

static int by_signal(const void *a, const void *b)
{
    const struct choice *x = a, *y = b;
    return (x->signal > y->signal) - (x->signal < y->signal);
}

/* Most tokens saved, in percent, by stopping everybody on one side of a threshold, such that accuracy at
 * the cap falls by no more than so many points. Threshold and side are the best ones here, for each
 * signal alike. */
static double saved_at_equal(const struct study *s, const struct hidden *h, uint32_t detect,
                             enum signal signal, double points)
{
    struct choice *c = need(calloc(s->items.count, sizeof *c));
    uint32_t count = 0;
    double whole = 0, best = 0;
    for (uint32_t i = 0; i < s->items.count; i++)
        if (s->items.all[i].steps_count >= detect) {
            c[count] = choice_of(s, h, i, detect, signal);
            whole += c[count++].tokens[1];
        }
    qsort(c, count, sizeof *c, by_signal);
    for (uint32_t side = 0; side < 2; side++) {
        double saved = 0, lost = 0;
        for (uint32_t i = 0; i < count; i++) {
            const struct choice *at = &c[side ? i : count - 1 - i];
            const struct choice *next = i + 1 < count ? &c[side ? i + 1 : count - 2 - i] : NULL;
            saved += at->tokens[1] - at->tokens[0];
            lost += (double)at->right[1] - (double)at->right[0];
            bool threshold = !next || next->signal > at->signal || next->signal < at->signal;
            if (threshold && 100 * lost <= points * count && saved > best)
                best = saved;
        }
    }
    free(c);
    return whole > 0 ? 100 * best / whole : 0;
}

/* ---- programs of branches ------------------------------------------------------------------------- */

#define EQUAL_POINTS 0.5 /* accuracy that counts as equal */

static void figure_correlations(const char *folder, FILE *file)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct study s;
        struct hidden h;
        if (!study_open(folder, rows[i].log, &s))
            continue;
        bool with_hidden = hidden_read(folder, rows[i].log, &h);
        for (uint32_t k = 0; k < SIGNALS; k++) {
            enum signal signal = (enum signal)k;
            if (signal == HIDDEN && !with_hidden)
                continue;
            struct correlation c = correlate(&s, &h, rows[i].detect, signal);
            if (signal == rows[i].signal)
                bar_set(rows[i].bar, &c, c.pearson);
            if (!c.known) /* not logged, most often */
                continue;
            double saved = saved_at_equal(&s, &h, rows[i].detect, signal, EQUAL_POINTS);
            printf("  %-24s %-16s Pearson %+.3f, Kendall %+.3f, saves %.1f %% at equal accuracy\n",
                   rows[i].log, signal_names[k], c.pearson, c.kendall, saved);
            if (file)
                (void)fprintf(file, "%s\t%u\t%s\t%.4f\t%.4f\t%.2f\n", rows[i].log, rows[i].detect,
                              signal_names[k], c.pearson, c.kendall, saved);
        }
        free(h.steps);
        study_close(&s);
    }
}

/* |Pearson| of certainty above that of another signal. */
static void beside(const struct study *s, const struct hidden *h, enum signal signal,
                   const char *bar)
{
    struct correlation certainty = correlate(s, h, 5, CERTAINTY), c = correlate(s, h, 5, signal);
    c.known &= certainty.known;
    bar_set(bar, &c, fabs(certainty.pearson) - fabs(c.pearson));
}

static void figure_beside(const char *folder)
{
    struct study s;
    struct hidden h;
    if (!study_open(folder, "sc-words", &s))
        return;
    bool with_hidden = hidden_read(folder, "sc-words", &h);
    beside(&s, &h, LENGTH, "certainty_over_length");
    beside(&s, &h, LOG_PROBABILITY, "certainty_over_log_probability");
    if (with_hidden)
        beside(&s, &h, HIDDEN, "certainty_over_hidden_states");
    else
        programs_bar_lacks("certainty_over_hidden_states", "there is no sc-words.hidden");
    free(h.steps);
    study_close(&s);
}

/* ---- chains: agreement of the first probes, and the tokens from which they are right ------------- */

#define PROBES 6u
#define PROBES_WINDOW 3u

static bool chain_point(const struct study *s, uint32_t run, double *ret_agreement,
                        double *ret_needed)
{
    const struct item *item = &s->items.all[run];
    uint32_t probes = item->steps_count - 1, latest = PROBES - 1, agree = 0, k = item->steps_count;
    if (item->steps_count <= PROBES || !item->steps[probes].right)
        return false;
    for (uint32_t i = PROBES - PROBES_WINDOW; i < PROBES; i++)
        agree += item->steps[i].group != CERTAINDEX_EMPTY &&
                 item->steps[i].group == item->steps[latest].group;
    while (k > 0 && item->steps[k - 1].right)
        k--;
    *ret_agreement = (double)agree / PROBES_WINDOW;
    *ret_needed = (double)item->steps[k].tokens;
    return true;
}

static void figure_chain(const char *folder, FILE *file)
{
    struct study s;
    uint32_t count = 0;
    if (!study_open(folder, "cot-long", &s))
        return;
    double *x = need(calloc(s.items.count, sizeof *x)), *y = need(calloc(s.items.count, sizeof *y));
    for (uint32_t i = 0; i < s.items.count; i++)
        if (chain_point(&s, i, &x[count], &y[count]))
            count++;
    struct correlation c = correlation_of(x, y, count);
    bar_set("pearson_cot_long", &c, c.pearson);
    if (c.known)
        printf("  %-24s %-16s Pearson %+.3f, Kendall %+.3f\n", "cot-long", "agreement", c.pearson,
               c.kendall);
    if (file && c.known)
        (void)fprintf(file, "cot-long\t%u\tagreement\t%.4f\t%.4f\t\n", PROBES, c.pearson,
                      c.kendall);
    free(x);
    free(y);
    study_close(&s);
}

/* ---- by detect step, by threshold ------------------------------------------------------------------ */

/* Of a program at a detect step. Early-stoppable: right at the cap, and certain and right there; solvable: the
 * other ones that are right at the cap. */
enum class { STOPPABLE, SOLVABLE, UNSOLVABLE, CLASSES };
static const char *const class_names[CLASSES] = {"early-stoppable", "solvable", "unsolvable"};
#define CERTAIN_ABOVE 0.7

struct class_points {
    uint32_t count;
    uint32_t certain;
    double certainty_sum, steps_sum;
    double *certainty, *steps; /* [count] */
};

static void class_add(struct class_points *c, double certainty, double steps)
{
    c->certainty[c->count] = certainty;
    c->steps[c->count++] = steps;
    c->certain += certainty > CERTAIN_ABOVE;
    c->certainty_sum += certainty;
    c->steps_sum += steps;
}

static void classes_fill(const struct study *s, uint32_t detect,
                         struct class_points classes[CLASSES])
{
    static const struct policy_options options = {.kind = POLICY_STATIC};
    for (uint32_t i = 0; i < s->items.count; i++) {
        const struct log_run *run = &s->log.runs[i];
        double certainty = replay_signals(&s->log, i, &options, detect).value[CERTAINDEX_CERTAINTY];
        uint32_t needed = family_oracle_step(&s->log, i, 0);
        bool early = certainty > CERTAIN_ABOVE && s->log.right[run->first + detect - 1] > 0;
        enum class class = needed == UINT32_MAX ? UNSOLVABLE : early ? STOPPABLE : SOLVABLE;
        class_add(&classes[class], certainty, class == UNSOLVABLE ? run->count : needed);
    }
}

static void class_print(FILE *file, uint32_t detect, const char *name, const struct class_points *c,
                        uint32_t programs)
{
    double n = c->count ? c->count : 1;
    struct correlation r = correlation_of(c->certainty, c->steps, c->count);
    char text[16] = "-";
    if (r.known)
        (void)snprintf(text, sizeof text, "%+.4f", r.pearson);
    printf(
        "  detect at %-2u %-16s %5.1f %% of programs, H~ %.3f, certain %5.1f %%, %.1f steps, Pearson %s\n",
        detect, name, 100.0 * c->count / programs, c->certainty_sum / n, 100 * c->certain / n,
        c->steps_sum / n, text);
    if (file)
        (void)fprintf(file, "%u\t%s\t%.2f\t%.3f\t%.2f\t%.2f\t%s\n", detect, name,
                      100.0 * c->count / programs, c->certainty_sum / n, 100 * c->certain / n,
                      c->steps_sum / n, text);
}

static void figure_classes(const struct study *s, uint32_t detect, FILE *file)
{
    struct class_points classes[CLASSES] = {{.count = 0}};
    for (uint32_t c = 0; c < CLASSES; c++) {
        classes[c].certainty = need(calloc(s->items.count, sizeof(double)));
        classes[c].steps = need(calloc(s->items.count, sizeof(double)));
    }
    classes_fill(s, detect, classes);
    for (uint32_t c = 0; c < CLASSES; c++) {
        class_print(file, detect, class_names[c], &classes[c], s->items.count);
        free(classes[c].certainty);
        free(classes[c].steps);
    }
}

static void figure_detects(const char *folder, const char *out)
{
    struct study s;
    struct correlation worst = {.known = false, .pearson = -1};
    if (!study_open(folder, "sc-words", &s))
        return;
    FILE *file = figure_open(out, "detects", "detect\tpearson\tkendall");
    FILE *by_class =
        figure_open(out, "classes", "detect\tclass\tprograms\tcertainty\tcertain\tsteps\tpearson");
    for (uint32_t detect = 5; detect < s.log.runs[0].count; detect += 5) {
        struct correlation c = correlate(&s, &(struct hidden){0}, detect, CERTAINTY);
        if (c.known && c.pearson >= worst.pearson)
            worst = c;
        printf("  detect at %-2u: Pearson %+.4f over solvable problems\n", detect, c.pearson);
        if (file && c.known)
            (void)fprintf(file, "%u\t%+.4f\t%+.4f\n", detect, c.pearson, c.kendall);
        figure_classes(&s, detect, by_class);
    }
    bar_set("pearson_sc_words_detects", &worst, worst.pearson);
    figure_close(file);
    figure_close(by_class);
    study_close(&s);
}

#define SWEPT 5u

static const struct swept {
    const char *log;
    const char *signal;
    struct policy_options options; /* but for the threshold */
    double above[SWEPT];
} sweeps[] = {{"sc-words",
               "certainty",
               {.kind = POLICY_STATIC, .detect = 5, .step = 1, .limits_count = 1},
               {0.7, 0.5, 0.4, 0.3, 0.1}},
              {"rebase-words-split-128",
               "certainty",
               {.kind = POLICY_STATIC,
                .detect = 16,
                .step = 1,
                .limits_count = 1,
                .reward_rule = CERTAINDEX_REWARD_MAX},
               {0.95, 0.85, 0.75, 0.6, 0.4}},
              {"mcts-game24",
               "reward",
               {.kind = POLICY_STATIC,
                .detect = 3,
                .step = 1,
                .limits_count = 1,
                .reward_rule = CERTAINDEX_REWARD_MEAN},
               {0.05, 0.1, 0.4, 0.7, 0.9}},
              /* So many probes in a row that agree, every 64 tokens. */
              {"cot-long",
               "agreeing",
               {.kind = POLICY_PROBE,
                .step = 1,
                .probe = {.first_tokens = 64, .interval_tokens = 64, .agreement = 1}},
               {5, 4, 3, 2, 1}}};

static struct policy_options sweep_options(const struct swept *of, double above)
{
    struct policy_options options = of->options;
    struct certaindex_limits *limits = &options.limits[0].limits;
    enum certaindex_signal signal =
        strcmp(of->signal, "reward") == 0 ? CERTAINDEX_REWARD : CERTAINDEX_CERTAINTY;
    if (options.kind == POLICY_PROBE) {
        options.probe.window = (uint32_t)above;
        return options;
    }
    options.limits[0].knob = options.detect;
    limits->used = 1u << signal;
    limits->above[signal] = above;
    return options;
}

static void figure_thresholds(const char *folder, const char *out)
{
    FILE *file = figure_open(out, "thresholds", "log\tsignal\tabove\tright\ttokens\tsaved\tgained");
    for (size_t i = 0; i < sizeof sweeps / sizeof sweeps[0]; i++) {
        struct study s;
        if (!study_open(folder, sweeps[i].log, &s))
            continue;
        for (uint32_t k = 0; k < SWEPT; k++) {
            struct policy_options options = sweep_options(&sweeps[i], sweeps[i].above[k]);
            struct judged j;
            study_judge(&s, &options, 0, NULL, &j);
            printf("  %-24s %s %.2f: right %.2f %%, %.1f tokens, saved %.1f %%\n", sweeps[i].log,
                   sweeps[i].signal, sweeps[i].above[k], j.right_percent, j.tokens, j.saved.value);
            if (file)
                (void)fprintf(file, "%s\t%s\t%.2f\t%.2f\t%.1f\t%.2f\t%.3f\n", sweeps[i].log,
                              sweeps[i].signal, sweeps[i].above[k], j.right_percent, j.tokens,
                              j.saved.value, j.gained.value);
        }
        study_close(&s);
    }
    figure_close(file);
}

void figures_signals(const char *folder, const char *out)
{
    printf("\nsignals and the steps that are needed\n");
    FILE *file = figure_open(out, "correlations", "log\tdetect\tsignal\tpearson\tkendall\tsaved");
    figure_correlations(folder, file);
    figure_chain(folder, file);
    figure_close(file);
    figure_beside(folder);
    figure_detects(folder, out);
    figure_thresholds(folder, out);
}
