/* One total for the programs of a seed: daemon/program/budget.h, on samples that were all run. And the choice
 * of its profile, on a calibration log:
 *
 *   dynasor-bench budget --log RUNLOG [--even N] [--problems N] PROFILE.ini...
 *
 * What each gains over even with N samples (3) where N problems (250) share a total; the last line names the
 * one that gains most, of those that spend no more. Exits 0, 1 with a sentence, 2 for wrong arguments. */
#include <stdlib.h>
#include <string.h>

#include "daemon/program/budget.h"
#include "tests/bench/batch/figures.h"
#include "tests/bench/dynasor/dynasor_bench.h"
#include "tests/bench/dynasor/options.h"

#define BUDGET_PROFILE "sc-words-budget"
#define BUDGET_STEP 1u
#define BUDGET_KEPT 0.99 /* a grant is an estimate: the total is not passed */
#define BOOTSTRAP_SEED 24u

/* Samples of even, for the same tokens. For each the profile that gained most on the calibration log. The first
 * one has the bars: there it gained more than at any other. */
static const uint32_t even_caps[] = {3, 4, 5, 6, 8, 10};
#define EVEN_CAPS_COUNT (sizeof even_caps / sizeof even_caps[0])

struct rounds {
    uint32_t first; /* knob that each may reach before there is a round */
    uint32_t step;
    uint32_t most;
    uint64_t total;
};

/* Where it is with a grant: the policy ends it, there or before, or it waits. */
static void member_replay(struct study *s, const struct policy_options *options, uint32_t run,
                          uint32_t grant, struct budget_member *m)
{
    struct outcome o = replay_run(&s->replay, run, options, grant);
    struct certaindex seen = replay_signals(&s->log, run, options, o.knob);
    budget_report(m, o.knob, o.tokens, &seen);
    m->settled = o.stopped || o.knob == m->knob_max || policy_is_certain(options, o.knob, &seen);
}

/* One batch takes what is granted, until the total is spent. */
static void rounds_replay(struct study *s, const struct policy_options *options,
                          const struct rounds *rounds, const uint32_t *runs, uint32_t count,
                          uint32_t *ret_knob)
{
    struct budget_member *members = need(calloc(count, sizeof *members));
    struct budget budget = {.total = rounds->total};
    for (uint32_t i = 0; i < count; i++) {
        uint32_t all = s->log.runs[runs[i]].count;
        members[i].knob_max = all < rounds->most ? all : rounds->most;
        members[i].knob_grant =
            rounds->first < members[i].knob_max ? rounds->first : members[i].knob_max;
    }
    do {
        budget.spent = 0;
        for (uint32_t i = 0; i < count; i++) {
            struct budget_member *m = &members[i];
            if (!m->settled)
                member_replay(s, options, runs[i], m->knob_grant, m);
            budget.spent += s->log.tokens[s->log.runs[runs[i]].first + m->knob_done - 1];
        }
    } while (budget_round(&budget, members, count, rounds->step) > 0);
    for (uint32_t i = 0; i < count; i++)
        ret_knob[i] = members[i].knob_done;
    free(members);
}

/* ---- against even -------------------------------------------------------------------------------- */

struct gain {
    double even_right_percent, right_percent; /* of programs */
    double even_tokens;                       /* mean of a program */
    struct interval gained, saved;
};

static uint32_t step_at(const struct study *s, uint32_t run, uint32_t knob)
{
    uint32_t count = s->log.runs[run].count;
    return s->log.runs[run].first + (knob < count ? knob : count) - 1;
}

static void pair_note(const struct study *s, uint32_t run, uint32_t even_cap, uint32_t knob,
                      struct pair *p)
{
    uint32_t even = step_at(s, run, even_cap);
    p->programs++;
    p->a_right += s->log.right[even] > 0;
    p->a_tokens += (double)s->log.tokens[even];
    if (knob == 0)
        return;
    p->b_right += s->log.right[step_at(s, run, knob)] > 0;
    p->b_tokens += (double)s->log.tokens[step_at(s, run, knob)];
}

static struct gain gain_of(const struct pair *pairs, uint32_t count)
{
    struct gain g = {.even_tokens = 0};
    double programs = 0;
    for (uint32_t i = 0; i < count; i++) {
        programs += pairs[i].programs;
        g.even_right_percent += 100 * pairs[i].a_right;
        g.right_percent += 100 * pairs[i].b_right;
        g.even_tokens += pairs[i].a_tokens;
    }
    g.even_right_percent /= programs;
    g.right_percent /= programs;
    g.even_tokens /= programs;
    bootstrap_pairs(pairs, count, BOOTSTRAP_SEED, &g.gained, &g.saved);
    return g;
}

/* Programs of a problem stand together, so many of each; one of each for `problems` problems in a row share
 * what even would spend on them. */
static struct gain gain_replay(struct study *s, const struct policy_options *options,
                               uint32_t even_cap, uint32_t seeds, uint32_t problems)
{
    uint32_t all = s->log.runs_count / seeds;
    struct pair *pairs = need(calloc(all + 1, sizeof *pairs));
    uint32_t *runs = need(calloc(problems + 1, sizeof *runs));
    uint32_t *knob = need(calloc(problems + 1, sizeof *knob));
    for (uint32_t b = 0; b < seeds * ((all + problems - 1) / problems); b++) {
        uint32_t first = b / seeds * problems, count = 0;
        double total = 0;
        for (uint32_t p = first; p < all && count < problems; p++) {
            runs[count] = p * seeds + b % seeds;
            total += (double)s->log.tokens[step_at(s, runs[count++], even_cap)];
        }
        const struct rounds rounds = {.first = options->detect,
                                      .step = BUDGET_STEP,
                                      .most = UINT32_MAX,
                                      .total = (uint64_t)(BUDGET_KEPT * total)};
        rounds_replay(s, options, &rounds, runs, count, knob);
        for (uint32_t i = 0; i < count; i++)
            pair_note(s, runs[i], even_cap, knob[i], &pairs[first + i]);
    }
    struct gain g = gain_of(pairs, all);
    free(pairs);
    free(runs);
    free(knob);
    return g;
}

static void gain_print(FILE *file, const char *name, uint32_t even_cap, const struct gain *g)
{
    printf("  %-28s even %2u: right %.2f %%, %.1f tokens; %+.2f [%+.2f, %+.2f] points, %.1f %% of "
           "the tokens\n",
           name, even_cap, g->even_right_percent, g->even_tokens, g->gained.value, g->gained.low,
           g->gained.high, 100 - g->saved.value);
    if (file)
        (void)fprintf(file, "%s\t%u\t%.2f\t%.1f\t%.2f\t%.3f\t%.3f\t%.3f\t%.2f\n", name, even_cap,
                      g->even_right_percent, g->even_tokens, g->right_percent, g->gained.value,
                      g->gained.low, g->gained.high, g->saved.value);
}

/* ---- live ---------------------------------------------------------------------------------------- */

static uint32_t run_of(const struct study *s, const struct item *item)
{
    uint32_t i = 0;
    while (i < s->items.count &&
           (s->items.all[i].problem != item->problem || s->items.all[i].seed != item->seed))
        i++;
    if (i == s->items.count)
        fail("problem %u, seed %u: there is no log of all its samples", item->problem, item->seed);
    return i;
}

/* The batch of a seed. Returns how many of its programs the replay would have ended elsewhere. */
static uint32_t live_batch(struct study *s, const struct items *live, uint32_t seed,
                           const struct policy_options *options, uint32_t *ret_count)
{
    struct parameters p = experiment_parameters(&live->experiment);
    p.value[DYNASOR_PARAMETER_BATCH] = 1;
    const struct rounds rounds = {.first = parameter_whole(&p, DYNASOR_PARAMETER_CAP),
                                  .step = parameter_whole(&p, DYNASOR_PARAMETER_BATCH_STEP),
                                  .most = parameters_cap(&p),
                                  .total = (uint64_t)p.value[DYNASOR_PARAMETER_BATCH_TOKENS]};
    uint32_t *runs = need(calloc(live->count, sizeof *runs)), count = 0, differ = 0;
    uint32_t *knob = need(calloc(live->count, sizeof *knob));
    const struct item **of = need(calloc(live->count, sizeof *of));
    for (uint32_t i = 0; i < live->count; i++) {
        if (live->all[i].seed != seed)
            continue;
        of[count] = &live->all[i];
        runs[count++] = run_of(s, &live->all[i]);
    }
    rounds_replay(s, options, &rounds, runs, count, knob);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t at = s->log.runs[runs[i]].first + knob[i] - 1;
        differ += of[i]->knob != knob[i] || item_tokens(of[i]) != s->log.tokens[at] ||
                  of[i]->right != (s->log.right[at] > 0);
    }
    free(runs);
    free(knob);
    free((void *)of);
    *ret_count = count;
    return differ;
}

/* live-sc-words-budget, as it was run, against even on the same problems; and against the replay. */
static void figure_live(const char *folder, struct study *s, FILE *file)
{
    char path[4096];
    struct items live;
    struct profile profile;
    (void)snprintf(path, sizeof path, "%s/live-" BUDGET_PROFILE ".tsv", folder);
    if (!log_items_read(path, &live) || live.count == 0) {
        programs_bar_lacks("budget_live_differ", "nothing was run live");
        return;
    }
    if (!study_profile(folder, live.experiment.profile.name, &profile))
        fail("%s: there is no profile %s", path, live.experiment.profile.name);
    uint32_t differ = 0, raised = 0, batches = 0, seed_count = 0, problems = 0, count;
    struct pair *pairs = need(calloc(live.count, sizeof *pairs));
    for (uint32_t i = 0; i < live.count; i++) {
        const struct item *it = &live.all[i];
        problems += i == 0 || it->problem != live.all[i - 1].problem;
        struct pair *p = &pairs[problems - 1];
        pair_note(s, run_of(s, it), even_caps[0], 0, p);
        p->b_right += it->right;
        p->b_tokens += (double)item_tokens(it);
        raised += it->knob > experiment_cap(&live.experiment);
        seed_count = it->seed >= seed_count ? it->seed + 1 : seed_count;
    }
    for (uint32_t seed = 0; seed < seed_count; seed++) {
        differ += live_batch(s, &live, seed, &profile.policy, &count);
        batches += count > 0;
    }
    struct gain g = gain_of(pairs, problems);
    gain_print(file, "live", even_caps[0], &g);
    printf(
        "  live: %u programs in %u batches, %u raised above their cap; %u differ from the replay\n",
        live.count, batches, raised, differ);
    programs_bar_set("budget_live_differ", differ);
    free(pairs);
    items_free(&live);
}

/* ---- both ---------------------------------------------------------------------------------------- */

void figure_budget(const char *folder, const char *out)
{
    struct study s;
    struct profile profile;
    double least = 100;
    size_t judged = 0;
    if (!study_open(folder, "sc-words", &s))
        return;
    FILE *file = figure_open(
        out, "budget",
        "run\teven\teven_right\teven_tokens\tright\tgained\tgained_low\tgained_high\tsaved");
    printf("\nbudget of what even spends\n");
    for (size_t i = 0; i < EVEN_CAPS_COUNT; i++) {
        char name[64] = BUDGET_PROFILE;
        if (i > 0)
            (void)snprintf(name, sizeof name, "%s-%u", BUDGET_PROFILE, even_caps[i]);
        if (!study_profile(folder, name, &profile))
            continue;
        struct gain g = gain_replay(&s, &profile.policy, even_caps[i],
                                    s.items.count / s.items.problems_count, s.items.problems_count);
        gain_print(file, "replay", even_caps[i], &g);
        least = g.gained.low < least ? g.gained.low : least;
        if (++judged == EVEN_CAPS_COUNT)
            programs_bar_set("budget_gain_low_least", least);
        if (i > 0)
            continue;
        programs_bar_set("budget_tokens", 1 - g.saved.value / 100);
        programs_bar_set("budget_gain_low", g.gained.low);
    }
    static const char *const bars[] = {"budget_tokens", "budget_gain_low", "budget_gain_low_least"};
    for (size_t i = 0; i < sizeof bars / sizeof bars[0]; i++)
        if (!programs_bar_known(bars[i]))
            programs_bar_lacks(bars[i],
                               "there is no profile " BUDGET_PROFILE ", or not for every total");
    figure_live(folder, &s, file);
    figure_close(file);
    study_close(&s);
}

/* ---- which profile -------------------------------------------------------------------------------- */

static int budget_usage(void)
{
    (void)fprintf(stderr, "usage: dynasor-bench budget --log RUNLOG [--even N] [--problems N] "
                          "PROFILE.ini...\n");
    return 2;
}

int bench_budget_main(int argc, char **argv)
{
    const char *log = NULL, *best = NULL;
    uint32_t even = even_caps[0], problems = 250;
    const struct option options[] = {
        {"--log", &log, NULL}, {"--even", NULL, &even}, {"--problems", NULL, &problems}};
    int first = 0;
    while (first + 1 < argc &&
           option_take(options, sizeof options / sizeof options[0], argv[first], argv[first + 1]))
        first += 2;
    if (!log || first >= argc || even == 0 || problems == 0)
        return budget_usage();
    struct study s = {.items = {.count = 0}};
    char message[LOG_MESSAGE_BYTES];
    if (log_read(log, "sc", &s.log, message) != 0)
        fail("%s", message);
    if (s.log.runs_count == 0 || s.log.runs_count % s.log.problems_count != 0)
        fail("%s: not as many programs of each problem", log);
    replay_init(&s.replay, &s.log);
    double most = 0;
    for (int i = first; i < argc; i++) {
        struct profile profile;
        char text[PROFILE_MESSAGE_BYTES];
        if (profile_load(argv[i], &profile, text) != 0)
            fail("%s", text);
        struct gain g = gain_replay(&s, &profile.policy, even,
                                    s.log.runs_count / s.log.problems_count, problems);
        gain_print(NULL, argv[i], even, &g);
        if (g.saved.value >= 0 && (!best || g.gained.value > most)) {
            best = argv[i];
            most = g.gained.value;
        }
    }
    if (!best)
        fail("each of them spends more than even");
    printf("best %s\n", best);
    replay_free(&s.replay);
    log_free(&s.log);
    return 0;
}
