/* dynasor-calibrate — from a log of programs that ran to their cap to a profile: when to stop, what
 * that saves, and how much accuracy it can cost at most.
 *
 * Exit status: 0, 1 (failed; the message says what), 2 (the command line makes no sense). */
#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/calibrate/report.h"

enum option_key {
    KEY_OUTPUT = 'o',
    KEY_POLICY = 'p',
    KEY_ALGORITHM = 'a',
    KEY_CAP = 'c',
    KEY_DETECT = 'd',
    KEY_STEP = 256,
    KEY_SIGNAL,
    KEY_ALLOWED,
    KEY_DELTA,
    KEY_TEST,
    KEY_MARGIN,
    KEY_JUDGE,
    KEY_LEARN,
    KEY_SPLITS,
    KEY_SEED,
    KEY_PLOT,
    KEY_SHADOW,
    KEY_NAME,
    KEY_GIVE_UP,
    KEY_HESITATION,
};

static const struct argp_option option_table[] = {
    {"output", KEY_OUTPUT, "FILE", 0, "writes the profile to FILE", 0},
    {"name", KEY_NAME, "NAME", 0, "its name (calibrated)", 0},
    {"policy", KEY_POLICY, "KIND", 0,
     "static, k_step, curve_once, curve_each_step, length, esc, adaptive_consistency, give_up or "
     "probe (static; for chains of thought probe)",
     0},
    {"algorithm", KEY_ALGORITHM, "NAME", 0, "reads programs of this algorithm only", 0},
    {"cap", KEY_CAP, "N", 0, "as if programs had run to N steps, or tokens of a chain", 0},
    {"detect", KEY_DETECT, "N,...", 0, "first readings to choose from (5)", 0},
    {"step", KEY_STEP, "N", 0, "steps between readings (1)", 0},
    {"signal", KEY_SIGNAL, "NAME", 0, "certainty, reward or both (certainty)", 0},
    {"hesitation", KEY_HESITATION, "RULE", 0,
     "hesitant probes: blocks, left_out or ignored (blocks)", 0},
    {"give-up", KEY_GIVE_UP, "CHANCE", 0, "also gives up below this chance of being right", 0},
    {"allowed", KEY_ALLOWED, "POINTS,...", 0, "accuracy that may be lost, in points (1)", 0},
    {"delta", KEY_DELTA, "P", 0, "chance that more is lost (0.05)", 0},
    {"test", KEY_TEST, "NAME", 0, "betting, flips or empirical (betting)", 0},
    {"margin", KEY_MARGIN, "Z", 0, "empirical: standard errors added to the loss seen (1)", 0},
    {"learn", KEY_LEARN, "SHARE", 0,
     "learns curves, thresholds for each n and orders from this share of the problems (0.5)", 0},
    {"judge", KEY_JUDGE, "SHARE", 0, "keeps this share of the problems to judge by (0)", 0},
    {"splits", KEY_SPLITS, "N", 0, "repeats that with N different parts (1)", 0},
    {"seed", KEY_SEED, "N", 0, "of the choice of parts, and of folds (1)", 0},
    {"plot", KEY_PLOT, "PREFIX", 0, "writes PREFIX.dat and PREFIX.gp; PREFIX.png with gnuplot", 0},
    {"shadow", KEY_SHADOW, "PROFILE", 0,
     "instead: what this profile (file, name of a built-in one, or NAME@VERSION of one that the log "
     "has) would have saved and cost",
     0},
    {0},
};

static double real(struct argp_state *state, const char *text, double least, double most)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= least && value <= most)) {
        argp_error(state, "'%s': a number from %g to %g is wanted", text, least, most);
    }
    return value;
}

static uint32_t whole(struct argp_state *state, const char *text, uint32_t least, uint32_t most)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (end == text || *end || text[0] == '-' || value < least || value > most) {
        argp_error(state, "'%s': a whole number from %u to %u is wanted", text, least, most);
    }
    return (uint32_t)value;
}

/* Numbers with commas between them; returns how many. */
static uint32_t list(struct argp_state *state, const char *text, double least, double most,
                     double *ret_values, uint32_t room)
{
    uint32_t count = 0;
    for (bool more = true; more;) {
        char word[32];
        size_t length = strcspn(text, ",");
        if (count == room || length >= sizeof word) {
            argp_error(state, "'%s': at most %u numbers are wanted", text, room);
            return count;
        }
        memcpy(word, text, length);
        word[length] = '\0';
        ret_values[count++] = real(state, word, least, most);
        more = text[length] == ',';
        text += length + 1;
    }
    return count;
}

/* Index of a word in a list that ends with NULL. */
static uint32_t choice(struct argp_state *state, const char *text, const char *const *names)
{
    uint32_t idx = 0;
    while (names[idx] != NULL && strcmp(names[idx], text) != 0) {
        idx++;
    }
    if (names[idx] == NULL) {
        argp_error(state, "'%s' is not known; see --help", text);
    }
    return idx;
}

static void take_policy(struct argp_state *state, struct request *r, const char *text)
{
    for (uint32_t kind = 0; kind < POLICY_KINDS; kind++) {
        if (strcmp(policy_kind_name((enum policy_kind)kind), text) == 0) {
            r->family.base.kind = (enum policy_kind)kind;
            r->policy_given = true;
            return;
        }
    }
    argp_error(state, "'%s' is no policy; see --help", text);
}

static void take_detect(struct argp_state *state, struct request *r, const char *text)
{
    double values[DETECTS_MAX];
    r->family.detects_count = list(state, text, 1, POLICY_ANSWERS_MAX, values, DETECTS_MAX);
    for (uint32_t i = 0; i < r->family.detects_count; i++) {
        r->family.detects[i] = (uint32_t)values[i];
    }
}

static void take_signal(struct argp_state *state, struct request *r, const char *text)
{
    static const char *const names[] = {"certainty", "reward", "both", NULL};
    uint32_t idx = choice(state, text, names);
    r->family.use_certainty = idx != 1;
    r->family.use_reward = idx != 0;
    r->family.base.curve_signal = idx == 1 ? CERTAINDEX_REWARD : CERTAINDEX_CERTAINTY;
}

static void take_hesitation(struct argp_state *state, struct request *r, const char *text)
{
    static const char *const names[] = {"blocks", "left_out", "ignored", NULL};
    uint32_t idx = choice(state, text, names);
    r->ignore_hesitation = idx == 2;
    r->family.base.probe.rule =
        idx == 1 ? CERTAINDEX_HESITATION_LEFT_OUT : CERTAINDEX_HESITATION_BLOCKS;
}

static error_t take_fit_option(int key, char *text, struct argp_state *state, struct request *r)
{
    static const char *const tests[] = {"empirical", "betting", "flips", NULL};
    switch (key) {
    case KEY_ALLOWED:
        r->allowed_count = list(state, text, 0, 100, r->allowed_points, ALLOWED_MAX);
        return 0;
    case KEY_DELTA:
        r->fit.delta = real(state, text, 1e-6, 0.5);
        return 0;
    case KEY_TEST:
        r->fit.test = (enum fit_test)choice(state, text, tests);
        return 0;
    case KEY_MARGIN:
        r->fit.margin = real(state, text, 0, 10);
        return 0;
    case KEY_LEARN:
        r->learn_share = real(state, text, 0.05, 0.95);
        return 0;
    case KEY_JUDGE:
        r->judge_share = real(state, text, 0, 0.9);
        return 0;
    case KEY_SPLITS:
        r->splits_count = whole(state, text, 1, 10000);
        return 0;
    case KEY_SEED:
        r->seed = whole(state, text, 0, UINT32_MAX);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t take_option(int key, char *text, struct argp_state *state)
{
    struct request *r = state->input;
    switch (key) {
    case KEY_OUTPUT:
        r->output = text;
        return 0;
    case KEY_NAME:
        r->name = text;
        return 0;
    case KEY_POLICY:
        take_policy(state, r, text);
        return 0;
    case KEY_ALGORITHM:
        r->algorithm = text;
        return 0;
    case KEY_CAP:
        r->family.cap = whole(state, text, 1, 1u << 24);
        return 0;
    case KEY_DETECT:
        take_detect(state, r, text);
        return 0;
    case KEY_STEP:
        r->family.base.step = whole(state, text, 1, POLICY_ANSWERS_MAX);
        return 0;
    case KEY_SIGNAL:
        take_signal(state, r, text);
        return 0;
    case KEY_HESITATION:
        take_hesitation(state, r, text);
        return 0;
    case KEY_GIVE_UP:
        r->family.give_up_below = real(state, text, 0, 1);
        return 0;
    case KEY_PLOT:
        r->plot = text;
        return 0;
    case KEY_SHADOW:
        r->shadow = text;
        return 0;
    case ARGP_KEY_ARG:
        if (state->arg_num > 0) {
            argp_error(state, "one log is wanted");
        }
        r->log_path = text;
        return 0;
    case ARGP_KEY_NO_ARGS:
        argp_error(state, "the run log is missing");
        return 0;
    default:
        return take_fit_option(key, text, state, r);
    }
}

static const struct argp parser = {
    option_table,
    take_option,
    "LOG",
    "Calibrates when reasoning programs stop, from a run log (- is standard input) of programs that "
    "ran to their cap. dynasor-calibrate(1) says what the columns are.",
    NULL,
    NULL,
    NULL};

int main(int argc, char **argv)
{
    struct profile defaults;
    struct log log;
    char message[LOG_MESSAGE_BYTES];
    profile_default(&defaults);
    struct request request = {
        .family = {.base = defaults.policy,
                   .detects = {5},
                   .detects_count = 1,
                   .use_certainty = true},
        .fit = {.test = FIT_BETTING, .delta = 0.05, .margin = 1},
        .allowed_points = {1},
        .allowed_count = 1,
        .learn_share = 0.5,
        .splits_count = 1,
        .seed = 1,
        .name = "calibrated",
    };
    argp_err_exit_status = 2;
    argp_parse(&parser, argc, argv, 0, NULL, &request);
    int rc = log_read(request.log_path, request.algorithm, &log, message);
    if (rc == 0) {
        rc = request.shadow != NULL ? report_shadow(&log, &request, message)
                                    : report_calibration(&log, &request, message);
        log_free(&log);
    }
    if (rc != 0) {
        fprintf(stderr, "dynasor-calibrate: %s\n", message);
    }
    return rc == 0 ? 0 : 1;
}
