/* What reasoning programs are held to. The names are the list in tests/bench/bars-programs.txt. */
#include <string.h>

#include "tests/bench/batch/study.h"

enum op { OP_AT_MOST, OP_AT_LEAST, OP_ABOVE };
static const char *const op_text[] = {"<=", ">=", ">"};

static struct bar {
    const char *name;
    enum op op;
    double limit; /* of a bar that depends on the logs: programs_bar_limit() */
} bars[] = {
    {"replay_programs", OP_AT_LEAST,
     1}, /* one percent of all that are logged, rounded up for each log */
    {"replay_differ", OP_AT_MOST, 0},
    /* decoded beyond a logical end, as others were slower, and dropped: of what is charged, by the log that lost
     * most */
    {"lost_tokens_percent", OP_AT_MOST, 1},
    {"bench_minutes", OP_AT_MOST, 10},
    /* static, calibrated on the calibration set: points lost, tokens saved of what can be, and in all */
    {"sc_words_static_loss", OP_AT_MOST, 0.5},
    {"sc_words_static_share", OP_AT_LEAST, 95},
    {"sc_words_static_saving", OP_AT_LEAST, 30},
    {"rebase_words_static_loss", OP_AT_MOST, 0.5},
    {"rebase_words_static_share", OP_AT_LEAST, 95},
    {"mcts_game24_static_loss", OP_AT_MOST, 0.5},
    {"mcts_game24_static_share", OP_AT_LEAST, 95},
    /* the six policies, as many as end some program elsewhere than each other does; percent saved beyond
     * static, by the worst of those that look more often */
    {"sc_words_policies_distinct", OP_AT_LEAST, 6},
    {"sc_words_per_step_over_static", OP_AT_LEAST, 0},
    {"mcts_game24_policies_distinct", OP_AT_LEAST, 6},
    {"mcts_game24_per_step_over_static", OP_AT_LEAST, 0},
    {"give_up_saving", OP_ABOVE, 0},
    {"give_up_right_lost", OP_AT_MOST, 0.5}, /* right without giving up, in percent of programs */
    {"budget_tokens", OP_AT_MOST, 1},        /* of what even spends on three samples each */
    {"budget_gain_low", OP_ABOVE, 0},
    {"budget_gain_low_least", OP_ABOVE, 0},    /* of all totals that were looked at */
    {"budget_live_differ", OP_AT_MOST, 0},     /* programs that end elsewhere than in the replay */
    {"rebase_over_best_of_n", OP_AT_LEAST, 0}, /* points, at equal tokens */
    {"mcts_over_best_of_n", OP_AT_LEAST, 0},
    {"beam_over_best_of_n", OP_AT_LEAST, 0},
    {"beam_diverse_over_best_of_n", OP_AT_LEAST, 0},
    /* correlation of certaindex with the steps needed */
    {"pearson_sc_words", OP_AT_MOST, -0.17},
    {"pearson_rebase_words", OP_AT_MOST, -0.17},
    {"pearson_mcts_game24", OP_AT_MOST, -0.17},
    {"pearson_cot_long", OP_AT_MOST, -0.17},
    {"pearson_sc_words_detects", OP_AT_MOST, -0.17}, /* the worst of all detect steps */
    {"certainty_over_length", OP_AT_LEAST, 0},       /* absolute correlation, likewise */
    {"certainty_over_log_probability", OP_AT_LEAST, 0},
    {"certainty_over_hidden_states", OP_AT_LEAST, 0},
    /* chains: tokens with probes, the answer forced at the cap on both sides */
    {"cot_long_loss_1", OP_AT_MOST, 1},
    {"cot_long_loss_1_high", OP_AT_MOST, 1}, /* upper end of its interval */
    {"cot_long_loss_2", OP_AT_MOST, 2},
    {"cot_long_loss_5", OP_AT_MOST, 5},
    {"cot_long_saving_1", OP_AT_LEAST, 10},
    {"chains_r1_loss_1", OP_AT_MOST, 1}, /* mean over halves of the problems */
    {"chains_r1_loss_2", OP_AT_MOST, 2},
    {"chains_r1_loss_5", OP_AT_MOST, 5},
    {"chains_r1_saving_1", OP_ABOVE, 0},
    {"chains_r1_saving_2", OP_ABOVE, 0},
    {"chains_r1_saving_5", OP_ABOVE, 0},
    {"chains_qwen3_loss_1", OP_AT_MOST, 1},
    {"chains_qwen3_loss_2", OP_AT_MOST, 2},
    {"chains_qwen3_loss_5", OP_AT_MOST, 5},
    {"chains_qwen3_saving_1", OP_ABOVE, 0},
    {"chains_qwen3_saving_2", OP_ABOVE, 0},
    {"chains_qwen3_saving_5", OP_ABOVE, 0},
    /* labelled pairs of answers, and free-form answers by similarity: what the unit tests ask for */
    {"equivalence_precision", OP_AT_LEAST, 1},
    {"equivalence_recall", OP_AT_LEAST, 0.97},
    {"f1_embed", OP_AT_LEAST, 0.58},
    /* 0.05 below one group for all: the shipped model knows little of meaning */
    {"f1_pooled", OP_AT_LEAST, 0.371},
    /* microseconds of a step beside the engine's, at 256 running branches of the algorithm that takes most */
    {"program_step_us", OP_AT_MOST, 20},
};
#define BARS_COUNT (sizeof bars / sizeof bars[0])

static struct value {
    bool known;
    double value;
    char reason[128];
} values[BARS_COUNT];

void programs_bars_names(void)
{
    for (size_t i = 0; i < BARS_COUNT; i++)
        printf("%s\n", bars[i].name);
}

static struct value *find(const char *name)
{
    for (size_t i = 0; i < BARS_COUNT; i++)
        if (strcmp(bars[i].name, name) == 0)
            return &values[i];
    fail("there is no bar %s", name);
}

void programs_bar_set(const char *name, double value)
{
    *find(name) = (struct value){.known = true, .value = value};
}

void programs_bar_limit(const char *name, double limit)
{
    bars[find(name) - values].limit = limit;
}

void programs_bar_lacks(const char *name, const char *reason)
{
    struct value *v = find(name);
    v->known = false;
    (void)snprintf(v->reason, sizeof v->reason, "%s", reason);
}

bool programs_bar_known(const char *name)
{
    return find(name)->known;
}

static bool holds(const struct bar *bar, double value)
{
    switch (bar->op) {
    case OP_AT_MOST:
        return value <= bar->limit;
    case OP_AT_LEAST:
        return value >= bar->limit;
    default:
        return value > bar->limit;
    }
}

uint32_t programs_bars_print(void)
{
    uint32_t short_count = 0;
    for (size_t i = 0; i < BARS_COUNT; i++) {
        const struct value *v = &values[i];
        bool ok = v->known && holds(&bars[i], v->value);
        short_count += !ok;
        if (v->known)
            printf("bar %s %.4g %s %g %s\n", bars[i].name, v->value, op_text[bars[i].op],
                   bars[i].limit, ok ? "ok" : "short");
        else
            printf("bar %s - %s %g short: %s\n", bars[i].name, op_text[bars[i].op], bars[i].limit,
                   *v->reason ? v->reason : "not measured");
    }
    return short_count;
}
