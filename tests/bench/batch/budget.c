/* One total for the programs of a seed: daemon/program/budget.h, on samples that were all run. */
#include <stdlib.h>

#include "daemon/program/budget.h"
#include "tests/bench/batch/figures.h"

#define BUDGET_CAP 10u /* of even, for the same tokens */
#define BUDGET_STEP 1u
#define BUDGET_KEPT 0.99 /* a grant is an estimate: the total is not passed */

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

static double even_tokens(const struct study *s, const uint32_t *runs, uint32_t count)
{
    double even = 0;
    for (uint32_t i = 0; i < count; i++)
        even += (double)s->log.tokens[s->log.runs[runs[i]].first + BUDGET_CAP - 1];
    return even;
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

/* live-sc-words-budget, where there is one. */
static void figure_live(const char *folder, struct study *s)
{
    char path[4096];
    struct items live;
    struct profile profile;
    (void)snprintf(path, sizeof path, "%s/live-sc-words-budget.tsv", folder);
    if (!log_items_read(path, &live))
        return;
    if (!study_profile(folder, live.experiment.profile.name, &profile))
        fail("%s: there is no profile %s", path, live.experiment.profile.name);
    uint32_t differ = 0, raised = 0, right = 0, batches = 0, seed_count = 0, count;
    double tokens = 0;
    for (uint32_t i = 0; i < live.count; i++) {
        raised += live.all[i].knob > experiment_cap(&live.experiment);
        right += live.all[i].right;
        tokens += (double)item_tokens(&live.all[i]);
        seed_count = live.all[i].seed >= seed_count ? live.all[i].seed + 1 : seed_count;
    }
    for (uint32_t seed = 0; seed < seed_count; seed++) {
        differ += live_batch(s, &live, seed, &profile.policy, &count);
        batches += count > 0;
    }
    printf(
        "  live: %u programs in %u batches, %u raised above their cap, right %.2f %%, %.1f tokens; "
        "%u differ from the replay\n",
        live.count, batches, raised, 100.0 * right / (live.count ? live.count : 1),
        tokens / (live.count ? live.count : 1), differ);
    items_free(&live);
}

/* ---- against even -------------------------------------------------------------------------------- */

void figure_budget(const char *folder, const char *out)
{
    struct study s;
    struct profile profile;
    if (!study_open(folder, "sc-words", &s))
        return;
    if (!study_profile(folder, "sc-words-static", &profile) || s.log.runs[0].count < BUDGET_CAP) {
        study_close(&s);
        return;
    }
    uint32_t count = s.items.count, seeds = count / s.items.problems_count;
    struct pair *pairs = need(calloc(s.items.problems_count, sizeof *pairs));
    uint32_t *runs = need(calloc(count, sizeof *runs)), *knob = need(calloc(count, sizeof *knob));
    for (uint32_t seed = 0; seed < seeds; seed++) {
        uint32_t batch = 0;
        for (uint32_t i = seed; i < count; i += seeds)
            runs[batch++] = i;
        struct rounds rounds = {.first = profile.policy.detect,
                                .step = BUDGET_STEP,
                                .most = UINT32_MAX,
                                .total = (uint64_t)(BUDGET_KEPT * even_tokens(&s, runs, batch))};
        rounds_replay(&s, &profile.policy, &rounds, runs, batch, knob);
        for (uint32_t i = 0; i < batch; i++) {
            uint32_t first = s.log.runs[runs[i]].first;
            struct pair *p = &pairs[i];
            p->programs++;
            p->a_right += s.log.right[first + BUDGET_CAP - 1] > 0;
            p->a_tokens += (double)s.log.tokens[first + BUDGET_CAP - 1];
            p->b_right += knob[i] && s.log.right[first + knob[i] - 1] > 0;
            p->b_tokens += knob[i] ? (double)s.log.tokens[first + knob[i] - 1] : 0;
        }
    }
    struct interval gained, saved;
    bootstrap_pairs(pairs, s.items.problems_count, 24, &gained, &saved);
    FILE *file = figure_open(out, "budget", "cap\tgained\tgained_low\tgained_high\tsaved");
    if (file)
        (void)fprintf(file, "%u\t%.3f\t%.3f\t%.3f\t%.3f\n", BUDGET_CAP, gained.value, gained.low,
                      gained.high, saved.value);
    printf("\nbudget of even at %u samples: %+.2f [%+.2f, %+.2f] points, %.2f %% of its tokens\n",
           BUDGET_CAP, gained.value, gained.low, gained.high, 100 - saved.value);
    programs_bar_set("budget_tokens", 1 - saved.value / 100);
    programs_bar_set("budget_gain_low", gained.low);
    figure_close(file);
    figure_live(folder, &s);
    free(pairs);
    free(runs);
    free(knob);
    study_close(&s);
}
