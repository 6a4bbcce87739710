/* What the logs of a campaign say about savings: a table of each kind, and its bars. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/batch/figures.h"

FILE *figure_open(const char *out, const char *name, const char *columns)
{
    char path[4096];
    if (!out)
        return NULL;
    (void)snprintf(path, sizeof path, "%s/%s.tsv", out, name);
    FILE *file = fopen(path, "we");
    if (!file)
        fail("%s: %s", path, strerror(errno));
    (void)fprintf(file, "%s\n", columns);
    return file;
}

void figure_close(FILE *file)
{
    if (file && fclose(file) != 0)
        fail("a table cannot be written: %m");
}

#define JUDGED_COLUMNS                                                                             \
    "right\ttokens\tstopped\tgiven_up\tgained\tgained_low\tgained_high\tsaved\tsaved_low\t"        \
    "saved_high\tlimit"

static void judged_print(FILE *file, const char *first, const struct judged *j)
{
    char limit[16] = "-";
    if (isfinite(j->limit_percent))
        (void)snprintf(limit, sizeof limit, "%.2f", j->limit_percent);
    if (file)
        (void)fprintf(file, "%s\t%.2f\t%.1f\t%.2f\t%.2f\t%.3f\t%.3f\t%.3f\t%.2f\t%.2f\t%.2f\t%s\n",
                      first, j->right_percent, j->tokens, j->stopped_percent, j->given_up_percent,
                      j->gained.value, j->gained.low, j->gained.high, j->saved.value, j->saved.low,
                      j->saved.high, limit);
    printf("  %-44s right %6.2f %%  %8.1f tokens  stopped %5.1f %%  %+.2f [%+.2f, %+.2f] points  "
           "saved %.1f [%.1f, %.1f] %%\n",
           first, j->right_percent, j->tokens, j->stopped_percent, j->gained.value, j->gained.low,
           j->gained.high, j->saved.value, j->saved.low, j->saved.high);
}

/* ---- static, cap by cap ------------------------------------------------------------------------- */

struct batch {
    const char *name; /* of the bars */
    const char *log;  /* with %u: one for each cap */
    const char *even; /* what it is compared with, likewise; NULL: the log itself */
    const char *profile;
    uint32_t
        whole; /* cap at which even is the only log, as a policy has no choice there; 0: none */
    uint32_t caps[8]; /* ends with 0; the last is that of the bars */
};
static const struct batch batches[] = {
    {"sc_words", "sc-words", NULL, "sc-words-static", 0, {5, 10, 15, 20, 25, 30}},
    {"rebase_words",
     "rebase-words-split-%u",
     "rebase-words-even-%u",
     "rebase-words-static",
     16,
     {16, 32, 64, 128}},
    {"mcts_game24", "mcts-game24", NULL, "mcts-game24-static", 0, {3, 7, 10, 15, 20}},
};
#define BATCHES_COUNT (sizeof batches / sizeof batches[0])

static bool open_for_cap(const char *folder, const char *pattern, uint32_t cap, struct study *s)
{
    char name[128];
    const char *number = strstr(pattern, "%u");
    if (number)
        (void)snprintf(name, sizeof name, "%.*s%u", (int)(number - pattern), pattern, cap);
    else
        (void)snprintf(name, sizeof name, "%s", pattern);
    return study_open(folder, name, s);
}

static void batch_bars(const struct batch *b, const struct judged *j)
{
    char bar[64];
    (void)snprintf(bar, sizeof bar, "%s_static_loss", b->name);
    programs_bar_set(bar, 0 - j->gained.value);
    (void)snprintf(bar, sizeof bar, "%s_static_share", b->name);
    programs_bar_set(bar, j->limit_percent > 0 ? 100 * j->saved.value / j->limit_percent : 0);
    if (strcmp(b->name, "sc_words") == 0)
        programs_bar_set("sc_words_static_saving", j->saved.value);
}

static void batch_lacks(const struct batch *b, const char *why)
{
    static const char *const parts[] = {"loss", "share", "saving"};
    for (uint32_t i = 0; i < (strcmp(b->name, "sc_words") == 0 ? 3 : 2); i++) {
        char bar[64];
        (void)snprintf(bar, sizeof bar, "%s_static_%s", b->name, parts[i]);
        if (!programs_bar_known(bar))
            programs_bar_lacks(bar, why);
    }
}

static void batch_cap(const char *folder, const struct batch *b, const struct profile *profile,
                      uint32_t cap, bool last, FILE *file)
{
    struct study study, even = {.items = {.count = 0}};
    struct judged j;
    char label[128];
    struct profile full;
    profile_default(&full);
    if (!open_for_cap(folder, cap == b->whole ? b->even : b->log, cap, &study) ||
        (b->even && !open_for_cap(folder, b->even, cap, &even))) {
        study_close(&study);
        batch_lacks(b, "no log of it");
        return;
    }
    study_judge(b->even ? &even : &study, &full.policy, b->even ? 0 : cap, NULL, &j);
    (void)snprintf(label, sizeof label, "%s\teven\t%u", b->name, cap);
    judged_print(file, label, &j);
    if (profile) {
        study_judge(&study, &profile->policy, b->even ? 0 : cap, b->even ? &even : NULL, &j);
        (void)snprintf(label, sizeof label, "%s\tstatic\t%u", b->name, cap);
        judged_print(file, label, &j);
        if (last)
            batch_bars(b, &j);
    }
    study_close(&study);
    study_close(&even);
}

static void figure_caps(const char *folder, const char *out)
{
    FILE *file = figure_open(out, "caps", "task\tpolicy\tcap\t" JUDGED_COLUMNS);
    printf("\nstatic, cap by cap\n");
    for (size_t i = 0; i < BATCHES_COUNT; i++) {
        const struct batch *b = &batches[i];
        struct profile profile;
        bool calibrated = study_profile(folder, b->profile, &profile);
        if (!calibrated)
            batch_lacks(b, "no profile of it");
        for (uint32_t c = 0; b->caps[c]; c++)
            batch_cap(folder, b, calibrated ? &profile : NULL, b->caps[c], !b->caps[c + 1], file);
    }
    figure_close(file);
}

/* ---- the six policies, as they were run --------------------------------------------------------- */

static const struct {
    const char *name;
    bool looks_again; /* after the detect point */
} policies[] = {{"even", false},   {"static", false}, {"curve_once", false},
                {"k_step5", true}, {"k_step1", true}, {"curve_each_step", true}};
#define POLICIES_COUNT (sizeof policies / sizeof policies[0])

/* Ended no program elsewhere than the other. */
static bool does_the_same(const struct study *a, const struct study *b)
{
    bool same = a->items.count == b->items.count;
    for (uint32_t i = 0; same && i < a->items.count; i++)
        same = a->items.all[i].knob == b->items.all[i].knob &&
               a->items.all[i].verdict == b->items.all[i].verdict;
    return same;
}

/* Those that do something else than every one before them. */
static uint32_t distinct_count(const struct study *studies)
{
    uint32_t distinct = 0;
    for (uint32_t i = 0; i < POLICIES_COUNT; i++) {
        bool fresh = studies[i].items.count > 0;
        for (uint32_t k = 0; fresh && k < i; k++)
            fresh = studies[k].items.count == 0 || !does_the_same(&studies[k], &studies[i]);
        distinct += fresh;
    }
    return distinct;
}

static void policies_bars(const char *bars, const struct study *studies, double least)
{
    char bar[64];
    uint32_t missing = 0;
    for (uint32_t i = 0; i < POLICIES_COUNT; i++)
        missing += studies[i].items.count == 0;
    (void)snprintf(bar, sizeof bar, "%s_policies_distinct", bars);
    if (missing > 0)
        programs_bar_lacks(bar, "some of the six were not run");
    else
        programs_bar_set(bar, distinct_count(studies));
    (void)snprintf(bar, sizeof bar, "%s_per_step_over_static", bars);
    if (isfinite(least))
        programs_bar_set(bar, least);
}

/* Mean latency over that of static: what looking again costs. */
static void latency_price(const struct study *s, const struct study *as_static, char over[16])
{
    (void)snprintf(over, 16, "-");
    if (as_static->items.count > 0)
        (void)snprintf(over, 16, "%.2f", study_latency_s(s) / study_latency_s(as_static));
}

static void policies_of(const char *folder, const char *task, const char *bars, FILE *file)
{
    struct study studies[POLICIES_COUNT];
    char name[128], label[128];
    double saved_static = NAN, least = INFINITY;
    for (size_t i = 0; i < POLICIES_COUNT; i++) {
        (void)snprintf(name, sizeof name, "live-%s-%s", task, policies[i].name);
        (void)study_open(folder, name, &studies[i]); /* of what is not there nothing is said */
    }
    for (size_t i = 0; i < POLICIES_COUNT && studies[0].items.count > 0; i++) {
        struct judged j;
        char over[16];
        if (studies[i].items.count == 0)
            continue;
        latency_price(&studies[i], &studies[1], over);
        study_live(&studies[i], &studies[0], &j);
        (void)snprintf(label, sizeof label, "%s\t%s\t%.2f\t%s", task, policies[i].name,
                       study_latency_s(&studies[i]), over);
        judged_print(file, label, &j);
        if (strcmp(policies[i].name, "static") == 0)
            saved_static = j.saved.value;
        if (policies[i].looks_again)
            least = fmin(least, j.saved.value - saved_static);
    }
    policies_bars(bars, studies, least);
    for (size_t i = 0; i < POLICIES_COUNT; i++)
        study_close(&studies[i]);
}

static void figure_policies(const char *folder, const char *out)
{
    FILE *file =
        figure_open(out, "policies", "task\tpolicy\tlatency\tover_static\t" JUDGED_COLUMNS);
    printf("\nsix policies, mean latency in seconds, and over that of static\n");
    policies_of(folder, "sc-words", "sc_words", file);
    policies_of(folder, "mcts-game24", "mcts_game24", file);
    figure_close(file);
}

/* ---- others on the samples of words ------------------------------------------------------------- */

static const char *const others[] = {
    "sc-words-static",      "sc-words-length",   "sc-words-curve_once",
    "sc-words-k_step5",     "sc-words-k_step1",  "sc-words-curve_each_step",
    "sc-words-esc",         "sc-words-adaptive", "esc",
    "adaptive_consistency", "sc-words-give_up"};

static const struct {
    const char *log;
    const char *name;
} ran[] = {{"live-sc-words-deepconf", "deepconf"}, {"live-sc-words-m_of_n", "m_of_n 10, run"}};

/* m_of_n for a few M, the built-in one first. */
static void figure_first(const struct study *study, FILE *file)
{
    struct profile profile;
    if (!study_profile("", "m_of_n", &profile))
        return;
    const uint32_t firsts[] = {profile.policy.finished_count, 10, 20};
    for (size_t i = 0; i < sizeof firsts / sizeof firsts[0]; i++) {
        char label[32];
        struct judged j;
        (void)snprintf(label, sizeof label, "m_of_n %u", firsts[i]);
        profile.policy.finished_count = firsts[i];
        study_first(study, &profile.policy, &j);
        judged_print(file, label, &j);
    }
}

static void figure_others(const char *folder, const char *out)
{
    struct study study, live;
    struct judged j;
    if (!study_open(folder, "sc-words", &study))
        return;
    FILE *file = figure_open(out, "others", "policy\t" JUDGED_COLUMNS);
    printf("\nother policies on words, 30 samples\n");
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        struct profile profile;
        if (!study_profile(folder, others[i], &profile))
            continue;
        study_judge(&study, &profile.policy, 0, NULL, &j);
        judged_print(file, others[i], &j);
    }
    figure_first(&study, file);
    for (size_t i = 0; i < sizeof ran / sizeof ran[0]; i++) {
        if (!study_open(folder, ran[i].log, &live))
            continue;
        study_live(&live, &study, &j);
        judged_print(file, ran[i].name, &j);
        study_close(&live);
    }
    figure_close(file);
    study_close(&study);
}

/* ---- giving up ------------------------------------------------------------------------------------ */

/* What giving up adds to the policy without it: tokens, and the answers that would have been right. */
static void figure_give_up(const char *folder, const char *out)
{
    struct study s;
    struct profile profile;
    struct judged with, without;
    uint32_t lost = 0, gained = 0;
    if (!study_open(folder, "sc-words", &s))
        return;
    if (!study_profile(folder, "sc-words-give_up", &profile)) {
        programs_bar_lacks("give_up_saving", "there is no profile sc-words-give_up");
        programs_bar_lacks("give_up_right_lost", "there is no profile sc-words-give_up");
        study_close(&s);
        return;
    }
    struct policy_options stays = profile.policy;
    stays.give_up_below = 0;
    study_judge(&s, &profile.policy, 0, NULL, &with);
    study_judge(&s, &stays, 0, NULL, &without);
    for (uint32_t i = 0; i < s.items.count; i++) {
        struct outcome a = replay_run(&s.replay, i, &stays, 0);
        struct outcome b = replay_run(&s.replay, i, &profile.policy, 0);
        lost += a.right && !b.right;
        gained += !a.right && b.right;
    }
    double n = s.items.count, saved = 100 * (without.tokens - with.tokens) / without.tokens;
    printf(
        "\ngiving up: %.2f %% of programs, %.1f %% of the tokens saved, %.2f %% right answers lost, "
        "%.2f %% gained\n",
        with.given_up_percent, saved, 100 * lost / n, 100 * gained / n);
    FILE *file = figure_open(out, "give_up",
                             "given_up\tright_without\tright\ttokens_without\ttokens\tsaved\t"
                             "right_lost\tright_gained");
    if (file)
        (void)fprintf(file, "%.2f\t%.2f\t%.2f\t%.1f\t%.1f\t%.2f\t%.2f\t%.2f\n",
                      with.given_up_percent, without.right_percent, with.right_percent,
                      without.tokens, with.tokens, saved, 100 * lost / n, 100 * gained / n);
    programs_bar_set("give_up_saving", saved);
    programs_bar_set("give_up_right_lost", 100 * lost / n);
    figure_close(file);
    study_close(&s);
}

/* ---- trees against best of n ----------------------------------------------------------------------- */

static const struct {
    const char *log;
    const char *bar;
} trees[] = {{"rebase-game24", "rebase_over_best_of_n"},
             {"mcts-game24", "mcts_over_best_of_n"},
             {"beam-game24", "beam_over_best_of_n"},
             {"beam-diverse-game24", "beam_diverse_over_best_of_n"}};

#define BEST_OF_MAX 64u

/* Best of n for the tokens of a tree: between two n, so much of the upper one. */
struct between {
    uint32_t upper;
    double share;
};

static struct between between_of(const struct judged *best, uint32_t cap, double tokens)
{
    uint32_t n = 1;
    while (n < cap && best[n - 1].tokens < tokens)
        n++;
    double share = 1;
    if (n > 1 && best[n - 1].tokens >= tokens)
        share = (tokens - best[n - 2].tokens) / (best[n - 1].tokens - best[n - 2].tokens);
    return (struct between){n, share};
}

static double right_between(struct study *best, uint32_t run, const struct policy_options *full,
                            const struct between *b)
{
    double right = b->share * replay_run(&best->replay, run, full, b->upper).right;
    if (b->share < 1)
        right += (1 - b->share) * replay_run(&best->replay, run, full, b->upper - 1).right;
    return right;
}

/* On the problems of best of n, which the tree's log may have more than. */
static struct interval tree_over(struct study *best, const struct study *tree,
                                 const struct policy_options *full, const struct between *b)
{
    struct pair *pairs = need(calloc(best->items.count, sizeof *pairs));
    uint32_t count = 0;
    struct interval gained, saved;
    for (uint32_t i = 0; i < best->items.count; i++) {
        const struct item *of = &best->items.all[i], *it = &tree->items.all[i];
        if (i >= tree->items.count || it->problem != of->problem || it->seed != of->seed)
            fail("a tree and best of n have not the same problems and seeds");
        count += i == 0 || of->problem != best->items.all[i - 1].problem;
        struct pair *p = &pairs[count - 1];
        p->programs++;
        p->a_right += right_between(best, i, full, b);
        p->b_right += it->right;
    }
    bootstrap_pairs(pairs, count, 24, &gained, &saved);
    free(pairs);
    return gained;
}

static void figure_trees(const char *folder, const char *out)
{
    struct study best;
    struct judged even[BEST_OF_MAX];
    struct profile full;
    profile_default(&full);
    if (!study_open(folder, "best_of_n-game24", &best))
        return;
    FILE *file = figure_open(
        out, "trees",
        "algorithm\tn\tright\ttokens\tbest_of_n_right\tgained\tgained_low\tgained_high");
    uint32_t count = best.log.runs[0].count, cap = count < BEST_OF_MAX ? count : BEST_OF_MAX;
    printf("\ntrees against best of n, on game24\n");
    for (uint32_t n = 1; n <= cap; n++) {
        study_judge(&best, &full.policy, n, NULL, &even[n - 1]);
        if (file && (n <= 4 || n % 4 == 0))
            (void)fprintf(file, "best_of_n\t%u\t%.2f\t%.1f\t\t\t\t\n", n, even[n - 1].right_percent,
                          even[n - 1].tokens);
    }
    for (size_t i = 0; i < sizeof trees / sizeof trees[0]; i++) {
        struct study tree;
        struct judged j;
        if (!study_open(folder, trees[i].log, &tree))
            continue;
        study_live_until(&tree, best.items.all[best.items.count - 1].problem, &j);
        struct between at = between_of(even, cap, j.tokens);
        struct interval gained = tree_over(&best, &tree, &full.policy, &at);
        printf(
            "  %-20s right %.2f %% with %.0f tokens, %+.2f [%+.2f, %+.2f] points over best of n\n",
            trees[i].log, j.right_percent, j.tokens, gained.value, gained.low, gained.high);
        if (file)
            (void)fprintf(file, "%s\t%u\t%.2f\t%.1f\t%.2f\t%.2f\t%.2f\t%.2f\n", trees[i].log,
                          tree.items.experiment.cap, j.right_percent, j.tokens,
                          j.right_percent - gained.value, gained.value, gained.low, gained.high);
        programs_bar_set(trees[i].bar, gained.value);
        study_close(&tree);
    }
    figure_close(file);
    study_close(&best);
}

/* ---- chains -------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    const char *loss; /* bars */
    const char *high;
    const char *saving;
} presets[] = {{"cot-mild", NULL, NULL, NULL},
               {"cot-low", NULL, NULL, NULL},
               {"cot-mid", NULL, NULL, NULL},
               {"cot-high", NULL, NULL, NULL},
               {"cot-crazy", NULL, NULL, NULL},
               {"cot-long-1", "cot_long_loss_1", "cot_long_loss_1_high", "cot_long_saving_1"},
               {"cot-long-2", "cot_long_loss_2", NULL, NULL},
               {"cot-long-5", "cot_long_loss_5", NULL, NULL}};

static void figure_chains(const char *folder, const char *out)
{
    struct study s;
    if (!study_open(folder, "cot-long", &s))
        return;
    FILE *file = figure_open(out, "chains", "profile\thesitation\t" JUDGED_COLUMNS);
    printf("\nchains of long\n");
    for (uint32_t pass = 0; pass < 2; pass++) {
        bool heeded = pass == 0;
        for (uint32_t i = 0; !heeded && i < s.log.steps_count; i++)
            s.log.hesitant[i] = false;
        for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++) {
            struct profile profile;
            struct judged j;
            char label[64];
            if (!study_profile(folder, presets[i].name, &profile))
                continue;
            study_judge(&s, &profile.policy, 0, NULL, &j);
            (void)snprintf(label, sizeof label, "%s\t%s", presets[i].name,
                           heeded ? "heeded" : "ignored");
            judged_print(file, label, &j);
            if (heeded && presets[i].loss)
                programs_bar_set(presets[i].loss, 0 - j.gained.value);
            if (heeded && presets[i].high)
                programs_bar_set(presets[i].high, 0 - j.gained.low);
            if (heeded && presets[i].saving)
                programs_bar_set(presets[i].saving, j.saved.value);
        }
    }
    figure_close(file);
    study_close(&s);
}

/* ---- all -------------------------------------------------------------------------------------------- */

void figures_all(const char *folder, const char *out)
{
    figure_caps(folder, out);
    figure_policies(folder, out);
    figure_others(folder, out);
    figure_give_up(folder, out);
    figure_budget(folder, out);
    figure_trees(folder, out);
    figure_chains(folder, out);
    figures_signals(folder, out);
}
