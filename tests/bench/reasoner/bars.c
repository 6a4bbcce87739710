/* What the shipped model is held to. The names are the list in tests/bench/bars-reasoner.txt. */
#include "tests/bench/reasoner/reasoner.h"

enum op { OP_AT_MOST, OP_AT_LEAST };
static const char *const op_text[] = {"<=", ">="};

static const struct bar {
    const char *name;
    enum op op;
    double limit;
} bars[BAR_COUNT] = {
    [BAR_WORDS_SINGLE_LEAST] = {"words_single_least", OP_AT_LEAST, 55},
    [BAR_WORDS_SINGLE_MOST] = {"words_single_most", OP_AT_MOST, 80},
    [BAR_WORDS_MAJORITY_GAIN] = {"words_majority_gain", OP_AT_LEAST, 8},
    [BAR_WORDS_UNANIMOUS] = {"words_unanimous", OP_AT_LEAST, 40},
    [BAR_WORDS_UNANIMOUS_WRONG_LEAST] = {"words_unanimous_wrong_least", OP_AT_LEAST, 2},
    [BAR_WORDS_UNANIMOUS_WRONG_MOST] = {"words_unanimous_wrong_most", OP_AT_MOST, 8},
    [BAR_WORDS_NEVER] = {"words_never", OP_AT_LEAST, 8},
    [BAR_WORDS_LEVEL_SLOPE] = {"words_level_slope", OP_AT_MOST, -1},
    [BAR_GAME24_REWARD_GAIN] = {"game24_reward_gain", OP_AT_LEAST, 10},
    [BAR_GAME24_AUC] = {"game24_auc", OP_AT_LEAST, 0.80},
    [BAR_WORDS_AUC] = {"words_auc", OP_AT_LEAST, 0.80},
    [BAR_LONG_PROBE_AGREES] = {"long_probe_agrees", OP_AT_LEAST, 90},
    [BAR_LONG_TOKENS_AFTER] = {"long_tokens_after", OP_AT_LEAST, 25},
    [BAR_LONG_SINGLE_LEAST] = {"long_single_least", OP_AT_LEAST, 55},
    [BAR_LONG_SINGLE_MOST] = {"long_single_most", OP_AT_MOST, 90},
    [BAR_LONG_CHANGES] = {"long_changes", OP_AT_LEAST, 10},
    [BAR_CERTAINDEX_PEARSON] = {"certaindex_pearson", OP_AT_MOST, -0.4},
    [BAR_GREEDY_DIFFER] = {"greedy_differ", OP_AT_MOST, 0},
    [BAR_TOKENS_PER_S] = {"tokens_per_s", OP_AT_LEAST, 20000},
    [BAR_PAIR_MEGABYTES] = {"pair_megabytes", OP_AT_MOST, 20},
};

static struct value {
    bool known;
    double value;
} values[BAR_COUNT];

void reasoner_bars_names(void)
{
    for (uint32_t i = 0; i < BAR_COUNT; i++)
        printf("%s\n", bars[i].name);
}

void reasoner_bar_set(enum bar_id id, double value)
{
    values[id] = (struct value){.known = true, .value = value};
}

uint32_t reasoner_bars_print(void)
{
    uint32_t short_count = 0;
    for (uint32_t i = 0; i < BAR_COUNT; i++) {
        const struct bar *bar = &bars[i];
        const struct value *v = &values[i];
        bool ok =
            v->known && (bar->op == OP_AT_MOST ? v->value <= bar->limit : v->value >= bar->limit);
        short_count += !ok;
        if (v->known)
            printf("bar %s %.4g %s %g %s\n", bar->name, v->value, op_text[bar->op], bar->limit,
                   ok ? "ok" : "short");
        else
            printf("bar %s - %s %g short: not measured\n", bar->name, op_text[bar->op], bar->limit);
    }
    return short_count;
}
