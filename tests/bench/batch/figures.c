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
    uint32_t caps[8]; /* ends with 0; the last is that of the bars */
};
static const struct batch batches[] = {
    {"sc_words", "sc-words", NULL, "sc-words-static", {5, 10, 15, 20, 25, 30}},
    {"rebase_words",
     "rebase-words-split-%u",
     "rebase-words-even-%u",
     "rebase-words-static",
     {32, 64, 128}},
    {"mcts_game24", "mcts-game24", NULL, "mcts-game24-static", {3, 7, 10, 15, 20}},
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
    if (!open_for_cap(folder, b->log, cap, &study) ||
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

static const char *const policies[] = {"even",    "static",  "curve_once",
                                       "k_step5", "k_step1", "curve_each_step"};
#define POLICIES_COUNT (sizeof policies / sizeof policies[0])

static void policies_of(const char *folder, const char *task, const char *bars, FILE *file)
{
    struct study even;
    char name[128], label[128], bar[64];
    double saved_static = NAN, least = INFINITY;
    uint32_t count = 0;
    (void)snprintf(name, sizeof name, "live-%s-even", task);
    if (!study_open(folder, name, &even))
        return;
    for (size_t i = 0; i < POLICIES_COUNT; i++) {
        struct study study;
        struct judged j;
        (void)snprintf(name, sizeof name, "live-%s-%s", task, policies[i]);
        if (!study_open(folder, name, &study))
            continue;
        count++;
        study_live(&study, &even, &j);
        (void)snprintf(label, sizeof label, "%s\t%s\t%.2f", task, policies[i],
                       study_latency_s(&study));
        judged_print(file, label, &j);
        if (strcmp(policies[i], "static") == 0)
            saved_static = j.saved.value;
        else if (i > 1 && j.saved.value - saved_static < least &&
                 strcmp(policies[i], "curve_once") != 0)
            least = j.saved.value - saved_static;
        study_close(&study);
    }
    study_close(&even);
    (void)snprintf(bar, sizeof bar, "%s_policies", bars);
    programs_bar_set(bar, count);
    (void)snprintf(bar, sizeof bar, "%s_per_step_over_static", bars);
    if (isfinite(least))
        programs_bar_set(bar, least);
}

static void figure_policies(const char *folder, const char *out)
{
    FILE *file = figure_open(out, "policies", "task\tpolicy\tlatency\t" JUDGED_COLUMNS);
    printf("\nsix policies, mean latency in seconds\n");
    policies_of(folder, "sc-words", "sc_words", file);
    policies_of(folder, "mcts-game24", "mcts_game24", file);
    figure_close(file);
}

/* ---- others on the samples of words ------------------------------------------------------------- */

static const char *const others[] = {
    "sc-words-static",          "sc-words-length", "sc-words-curve_once", "sc-words-k_step1",
    "sc-words-curve_each_step", "sc-words-esc",    "sc-words-adaptive",   "esc",
    "adaptive_consistency",     "sc-words-give_up"};

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
        if (strcmp(others[i], "sc-words-give_up") == 0) {
            /* What giving up adds to the policy without it. */
            struct judged without;
            struct policy_options stays = profile.policy;
            stays.give_up_below = 0;
            study_judge(&study, &stays, 0, NULL, &without);
            programs_bar_set("give_up_saving", j.saved.value - without.saved.value);
            programs_bar_set("give_up_loss", without.gained.value - j.gained.value);
        }
    }
    figure_first(&study, file);
    if (study_open(folder, "live-sc-words-deepconf", &live)) {
        study_live(&live, &study, &j);
        judged_print(file, "deepconf", &j);
        study_close(&live);
    }
    figure_close(file);
    study_close(&study);
}

/* ---- trees against best of n ----------------------------------------------------------------------- */

static void figure_trees(const char *folder, const char *out)
{
    static const char *const trees[] = {"rebase-game24", "mcts-game24", "beam-game24",
                                        "beam-diverse-game24"};
    struct study best;
    struct judged even[64];
    struct profile full;
    double most = -INFINITY;
    profile_default(&full);
    if (!study_open(folder, "best_of_n-game24", &best))
        return;
    FILE *file = figure_open(out, "trees", "algorithm\tn\tright\ttokens\tbest_of_n_right");
    uint32_t cap = best.log.runs[0].count < 64 ? best.log.runs[0].count : 64;
    printf("\ntrees against best of n, on game24\n");
    for (uint32_t n = 1; n <= cap; n++) {
        study_judge(&best, &full.policy, n, NULL, &even[n - 1]);
        if (file && (n <= 4 || n % 4 == 0))
            (void)fprintf(file, "best_of_n\t%u\t%.2f\t%.1f\t\n", n, even[n - 1].right_percent,
                          even[n - 1].tokens);
    }
    for (size_t i = 0; i < sizeof trees / sizeof trees[0]; i++) {
        struct study tree;
        struct judged j;
        if (!study_open(folder, trees[i], &tree))
            continue;
        study_live_until(&tree, best.items.all[best.items.count - 1].problem, &j);
        uint32_t n = 1;
        while (n < cap && even[n - 1].tokens < j.tokens)
            n++;
        double at = even[n - 1].right_percent;
        if (n > 1 && even[n - 1].tokens >= j.tokens)
            at -= (even[n - 1].tokens - j.tokens) / (even[n - 1].tokens - even[n - 2].tokens) *
                  (even[n - 1].right_percent - even[n - 2].right_percent);
        printf("  %-20s right %.2f %% with %.0f tokens, best of n %.2f %%\n", trees[i],
               j.right_percent, j.tokens, at);
        if (file)
            (void)fprintf(file, "%s\t%u\t%.2f\t%.1f\t%.2f\n", trees[i], tree.items.experiment.cap,
                          j.right_percent, j.tokens, at);
        most = j.right_percent - at > most ? j.right_percent - at : most;
        study_close(&tree);
    }
    if (isfinite(most))
        programs_bar_set("trees_over_best_of_n", most);
    figure_close(file);
    study_close(&best);
}

/* ---- chains -------------------------------------------------------------------------------------- */

static const char *const presets[] = {"cot-mild",  "cot-low",    "cot-mid",    "cot-high",
                                      "cot-crazy", "cot-long-1", "cot-long-2", "cot-long-5"};

static void figure_chains(const char *folder, const char *out)
{
    struct study s;
    uint32_t built_in = 0;
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
            if (!study_profile(folder, presets[i], &profile))
                continue;
            study_judge(&s, &profile.policy, 0, NULL, &j);
            (void)snprintf(label, sizeof label, "%s\t%s", presets[i],
                           heeded ? "heeded" : "ignored");
            judged_print(file, label, &j);
            built_in += heeded && i < 5;
            if (heeded && strcmp(presets[i], "cot-long-1") == 0) {
                programs_bar_set("cot_long_calibrated_loss", 0 - j.gained.value);
                programs_bar_set("cot_long_calibrated_saving", j.saved.value);
            }
        }
    }
    programs_bar_set("cot_long_presets", built_in);
    figure_close(file);
    study_close(&s);
}

/* ---- all -------------------------------------------------------------------------------------------- */

void figures_all(const char *folder, const char *out)
{
    figure_caps(folder, out);
    figure_policies(folder, out);
    figure_others(folder, out);
    figure_budget(folder, out);
    figure_trees(folder, out);
    figure_chains(folder, out);
    figures_signals(folder, out);
}
