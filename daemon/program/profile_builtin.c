/* The profiles that need no file: thresholds as published, each row with its source. */
#include <errno.h>
#include <string.h>

#include "daemon/base/assert.h"
#include "daemon/program/profile.h"

#define UNUSED (-1.0)

/* Thresholds of the paper (arXiv 2412.20993 v2, Table 3), one reading at the detect point. The last row is not
 * there: chains vote as samples do, each ended as by cot-mid. */
static const struct {
    const char *name;
    const char *algorithm;
    uint32_t detect;
    double certainty;
    double reward;
    enum certaindex_reward_rule rule;
} rows[] = {
    {"sc-math", "sc", 5, 0.7, UNUSED, CERTAINDEX_REWARD_MEAN},
    {"sc-gsm8k", "sc", 5, 0.7, UNUSED, CERTAINDEX_REWARD_MEAN},
    {"sc-livecodebench", "sc", 5, 0.4, UNUSED, CERTAINDEX_REWARD_MEAN},
    {"mcts-gsm8k", "mcts", 3, 0.99, 0.4, CERTAINDEX_REWARD_MEAN},
    {"mcts-asdiv", "mcts", 3, UNUSED, 0.4, CERTAINDEX_REWARD_MEAN},
    {"rebase-gsm8k", "rebase", 16, 0.85, 0.99, CERTAINDEX_REWARD_MAX},
    {"rebase-math", "rebase", 16, 0.75, UNUSED, CERTAINDEX_REWARD_MAX},
    {"sc_cot-math", "sc_cot", 5, 0.7, UNUSED, CERTAINDEX_REWARD_MEAN},
};
#define ROWS_COUNT ((uint32_t)(sizeof rows / sizeof rows[0]))

/* Effort presets of the authors' probing client: window and interval. */
static const struct {
    const char *name;
    uint32_t window;
    uint32_t interval_tokens;
} presets[] = {
    {"cot-mild", 8, 64}, {"cot-low", 5, 64},   {"cot-mid", 3, 64},
    {"cot-high", 2, 64}, {"cot-crazy", 2, 32},
};
#define PRESETS_COUNT ((uint32_t)(sizeof presets / sizeof presets[0]))

/* One of each remaining policy, with the parameters its authors publish. */
static const enum policy_kind plain[] = {POLICY_EVEN, POLICY_ESC, POLICY_ADAPTIVE_CONSISTENCY,
                                         POLICY_DEEPCONF, POLICY_M_OF_N};
#define PLAIN_COUNT ((uint32_t)(sizeof plain / sizeof plain[0]))

static void name_set(struct profile *profile, const char *name, const char *algorithm)
{
    (void)snprintf(profile->name, sizeof profile->name, "%s", name);
    (void)snprintf(profile->algorithm, sizeof profile->algorithm, "%s", algorithm);
}

void profile_default(struct profile *profile)
{
    memset(profile, 0, sizeof *profile);
    name_set(profile, "even", "any");
    (void)snprintf(profile->risk.method, sizeof profile->risk.method, "none");
    profile->policy = (struct policy_options){
        .kind = POLICY_EVEN,
        .detect = 5,
        .step = 1,
        .reward_rule = CERTAINDEX_REWARD_MEAN,
        .curve_signal = CERTAINDEX_CERTAINTY,
        .curve_edges = policy_tenths,
        .chance_edges = policy_tenths,
        .esc_window = 5,
        .posterior_rule = POLICY_POSTERIOR_BETA,
        .posterior = 0.95,
        .warmup_count = 16,
        .group_tokens = 2048,
        .kept_share = 0.9,
        .consensus = 0.95,
        .finished_count = 4,
        .probe = {.first_tokens = 64,
                  .interval_tokens = 64,
                  .window = 3,
                  .agreement = 1,
                  .rule = CERTAINDEX_HESITATION_BLOCKS},
    };
}

uint32_t profile_builtin_count(void)
{
    return ROWS_COUNT + PRESETS_COUNT + PLAIN_COUNT;
}

static void builtin_row(uint32_t idx, struct profile *profile)
{
    struct policy_limits_row row = {.knob = rows[idx].detect};
    if (rows[idx].certainty > UNUSED) {
        row.limits.used |= 1u << CERTAINDEX_CERTAINTY;
        row.limits.above[CERTAINDEX_CERTAINTY] = rows[idx].certainty;
    }
    if (rows[idx].reward > UNUSED) {
        row.limits.used |= 1u << CERTAINDEX_REWARD;
        row.limits.above[CERTAINDEX_REWARD] = rows[idx].reward;
    }
    name_set(profile, rows[idx].name, rows[idx].algorithm);
    profile->policy.kind = POLICY_STATIC;
    profile->policy.detect = rows[idx].detect;
    profile->policy.reward_rule = rows[idx].rule;
    profile->policy.limits_count = 1;
    profile->policy.limits[0] = row;
    if (row.limits.used == 1u << CERTAINDEX_REWARD) {
        profile->policy.curve_signal = CERTAINDEX_REWARD;
    }
}

void profile_builtin(uint32_t idx, struct profile *ret_profile)
{
    ASSERT(idx < profile_builtin_count());
    profile_default(ret_profile);
    if (idx < ROWS_COUNT) {
        builtin_row(idx, ret_profile);
        return;
    }
    idx -= ROWS_COUNT;
    if (idx < PRESETS_COUNT) {
        name_set(ret_profile, presets[idx].name, "cot");
        ret_profile->policy.kind = POLICY_PROBE;
        ret_profile->policy.curve_signal = CERTAINDEX_AGREEMENT;
        ret_profile->policy.probe.window = presets[idx].window;
        ret_profile->policy.probe.interval_tokens = presets[idx].interval_tokens;
        ret_profile->policy.probe.first_tokens = presets[idx].interval_tokens;
        return;
    }
    idx -= PRESETS_COUNT;
    ret_profile->policy.kind = plain[idx];
    ret_profile->policy.detect = plain[idx] == POLICY_ADAPTIVE_CONSISTENCY ? 1 : 5;
    name_set(ret_profile, policy_kind_name(plain[idx]), "any");
}

int profile_find(const char *name, struct profile *ret_profile)
{
    for (uint32_t i = 0; i < profile_builtin_count(); i++) {
        profile_builtin(i, ret_profile);
        if (strcmp(ret_profile->name, name) == 0) {
            return 0;
        }
    }
    return -ENOENT;
}
