#include "tools/calibrate/report.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "tools/calibrate/inforce.h"
#include "tools/calibrate/replay.h"

/* The problems by what they are used for: judged ones are seen by nothing before. */
struct parts {
    bool *judge;
    bool *fit;   /* all others */
    bool *learn; /* of fit: thresholds are read off, candidates put in order */
    bool *test;  /* of fit: decided on */
};

__attribute__((format(printf, 2, 3))) static int fail(char message[LOG_MESSAGE_BYTES],
                                                      const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(message, LOG_MESSAGE_BYTES, format, args); /* a cut message is as good */
    va_end(args);
    return -EINVAL;
}

static bool *flags(uint32_t count)
{
    bool *memory = calloc(count > 0 ? count : 1, sizeof *memory);
    if (memory == NULL) {
        fprintf(stderr, "dynasor-calibrate: out of memory\n");
        exit(1);
    }
    return memory;
}

static void parts_init(struct parts *parts, uint32_t problems_count)
{
    *parts = (struct parts){flags(problems_count), flags(problems_count), flags(problems_count),
                            flags(problems_count)};
}

static void parts_free(struct parts *parts)
{
    free(parts->judge);
    free(parts->fit);
    free(parts->learn);
    free(parts->test);
}

/* splitmix64's finisher: where a problem goes depends on its name and the seed alone. */
static double share_of(uint64_t hash, uint64_t seed)
{
    uint64_t z = hash + seed * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

static void parts_choose(struct parts *parts, const struct log *log, const struct request *request,
                         uint32_t split)
{
    for (uint32_t p = 0; p < log->problems_count; p++) {
        uint64_t hash = log->problem_hashes[p];
        uint64_t seed = (uint64_t)request->seed + split;
        parts->judge[p] = share_of(hash, 2 * seed) < request->judge_share;
        parts->fit[p] = !parts->judge[p];
        bool learn = share_of(hash, 2 * seed + 1) < request->learn_share;
        parts->learn[p] = parts->fit[p] && learn;
        parts->test[p] = parts->fit[p] && !learn;
    }
}

/* ---- calibration -------------------------------------------------------------------------------- */

/* Sums over splits of one line of the table. */
struct line {
    double lost;
    double squares;
    double flipped;
    double saved;
    double stopped;
    double probes;
    double given_up;
    uint32_t stops_nothing;
};

static void line_add(struct line *line, const struct score *score, bool nothing)
{
    line->lost += score->lost_points;
    line->squares += score->lost_points * score->lost_points;
    line->flipped += score->flipped_points;
    line->saved += score->saving_percent;
    line->stopped += score->stopped_percent;
    line->probes += score->probe_percent;
    line->given_up += score->given_up_percent;
    line->stops_nothing += nothing;
}

static void line_print(double allowed, const char *part, const struct line *line, uint32_t splits)
{
    double n = splits;
    double mean = line->lost / n;
    double spread = sqrt(fmax(line->squares / n - mean * mean, 0));
    printf("%7.2f  %-6s %7.2f %6.2f %8.2f %8.2f %8.2f %8.2f %8.2f %6u/%u\n", allowed, part, mean,
           spread, line->flipped / n, line->saved / n, line->stopped / n, line->given_up / n,
           line->probes / n, line->stops_nothing, splits);
}

static int write_profile(const struct log *log, const struct request *request,
                         const struct evaluation *e, const struct family *family, uint32_t chosen,
                         double allowed, const struct fit_estimate *estimate, const bool *mask,
                         char *message)
{
    struct profile profile;
    struct score score = score_of(e, chosen, mask);
    char what[PROFILE_MESSAGE_BYTES];
    profile_default(&profile);
    if (profile_set(&profile, "profile.name", request->name, what) != 0 ||
        profile_set(&profile, "profile.algorithm",
                    request->algorithm != NULL ? request->algorithm
                    : log->runs[0].chain       ? "cot"
                                               : "any",
                    what) != 0) {
        return fail(message, "%s", what);
    }
    profile.policy = family->options[chosen];
    (void)snprintf(profile.risk.method, sizeof profile.risk.method, "%s",
                   fit_test_name(request->fit.test));
    profile.risk.allowed_points = allowed;
    profile.risk.delta = request->fit.test == FIT_EMPIRICAL ? 0 : request->fit.delta;
    /* Of what is only estimated not the loss seen, which is less by the luck of what was chosen. */
    profile.risk.lost_points =
        request->fit.test == FIT_EMPIRICAL ? estimate->lost_points : score.lost_points;
    profile.risk.saving_percent = score.saving_percent;
    profile.risk.stopped_percent = score.stopped_percent;
    profile.risk.problems_count = score.problems_count;
    profile.risk.cap = request->family.cap;
    FILE *file = fopen(request->output, "we");
    if (file == NULL) {
        return fail(message, "%s: %s", request->output, strerror(errno));
    }
    int rc = profile_write(file, &profile);
    if (fclose(file) != 0 || rc != 0) {
        return fail(message, "%s: cannot be written", request->output);
    }
    return 0;
}

struct calibration {
    const struct log *log;
    const struct request *request;
    struct family family;
    struct evaluation evaluation;
    struct parts parts;
    struct line fitted[ALLOWED_MAX];
    struct line judged[ALLOWED_MAX];
    uint32_t chosen[ALLOWED_MAX]; /* by the first split */
    struct fit_estimate estimates[ALLOWED_MAX];
};

static void run_split(struct calibration *c, uint32_t split)
{
    const struct request *request = c->request;
    bool judges = request->judge_share > 0;
    parts_choose(&c->parts, c->log, request, split);
    if (c->family.count == 0 || c->family.learned) {
        family_free(&c->family);
        evaluation_free(&c->evaluation);
        family_build(c->log, &request->family, c->parts.learn, &c->family);
        evaluation_make(c->log, &c->family, request->family.cap, &c->evaluation);
    }
    for (uint32_t a = 0; a < request->allowed_count; a++) {
        struct fit_request fit = request->fit;
        fit.allowed_points = request->allowed_points[a];
        fit.seed = request->seed + split;
        const struct fit_parts parts = {c->parts.fit, c->parts.learn, c->parts.test};
        uint32_t chosen = fit_choose(&c->evaluation, &c->family, &fit, &parts, &c->estimates[a]);
        struct score fitted =
            score_of(&c->evaluation, chosen, fit_mask(&c->family, &fit, chosen, &parts));
        line_add(&c->fitted[a], &fitted, chosen == 0);
        if (judges) {
            struct score judged = score_of(&c->evaluation, chosen, c->parts.judge);
            line_add(&c->judged[a], &judged, chosen == 0);
        }
        c->chosen[a] = chosen;
    }
}

static void print_choice(const struct calibration *c, uint32_t a)
{
    const struct policy_options *o = &c->family.options[c->chosen[a]];
    const struct request *request = c->request;
    double allowed = request->allowed_points[a];
    printf("at %.2f points: ", allowed);
    if (c->chosen[a] == 0) {
        printf("never stops\n");
        return;
    }
    switch (o->kind) {
    case POLICY_STATIC:
        printf("reads at %u, stops above", o->detect);
        for (uint32_t s = 0; s < CERTAINDEX_SIGNALS; s++) {
            if ((o->limits[0].limits.used & 1u << s) != 0) {
                printf(" %s %.3f", certaindex_signal_name((enum certaindex_signal)s),
                       o->limits[0].limits.above[s]);
            }
        }
        break;
    case POLICY_PROBE:
        printf("probes every %u tokens, later every %.0f %%; stops when %u agree and have for %.0f "
               "%% of the chain",
               o->probe.interval_tokens, 100 * o->probe.growth, o->probe.window,
               100 * o->probe.stable_share);
        break;
    case POLICY_LENGTH:
        printf("stops at %u when %s than %llu tokens", o->detect,
               o->length_rule == POLICY_LENGTH_SHORTER ? "not longer" : "not shorter",
               (unsigned long long)o->length_tokens);
        break;
    default:
        printf("setting %u of %u, see the profile", c->chosen[a], c->family.count - 1);
        break;
    }
    if (request->fit.test == FIT_EMPIRICAL) {
        printf("; such a choice loses %.2f points, +- %.2f, where it has not looked",
               c->estimates[a].lost_points, c->estimates[a].error_points);
    } else {
        printf("; %s: at most %.2f points are lost, but for a chance of %.3g",
               fit_test_name(request->fit.test), allowed, request->fit.delta);
    }
    printf("\n");
}

static void print_table(const struct calibration *c)
{
    const struct request *request = c->request;
    struct score full = score_of(&c->evaluation, 0, NULL);
    printf("%u programs of %u problems, %.2f %% right at the cap\n", full.programs_count,
           full.problems_count, full.accuracy_percent);
    printf("policy %s, %u settings, test %s\n", policy_kind_name(request->family.base.kind),
           c->family.count, fit_test_name(request->fit.test));
    printf("allowed  part      lost spread  flipped    saved  stopped given up   probes never\n");
    for (uint32_t a = 0; a < request->allowed_count; a++) {
        double allowed = request->allowed_points[a];
        line_print(allowed, "fitted", &c->fitted[a], request->splits_count);
        if (request->judge_share > 0) {
            line_print(allowed, "judged", &c->judged[a], request->splits_count);
        }
    }
    for (uint32_t a = 0; a < request->allowed_count; a++) {
        print_choice(c, a);
    }
}

/* Whether there is something to choose, and programs that are read before their end. */
static int check_choice(const struct log *log, const struct request *request, char *message)
{
    const struct family_request *family = &request->family;
    enum policy_kind kind = family->base.kind;
    uint32_t longest = family_longest(log, family->cap);
    if (!family_has_choice(kind)) {
        return fail(message,
                    "--policy %s: has nothing to choose: accepted static, k_step, curve_once, "
                    "curve_each_step, length, esc, adaptive_consistency, give_up and probe",
                    policy_kind_name(kind));
    }
    if (family->detects_count > family_detects(kind) && family_detects(kind) > 0) {
        return fail(message, "--detect: accepted one first reading of policy %s",
                    policy_kind_name(kind));
    }
    for (uint32_t d = 0; d < family->detects_count && family_detects(kind) > 0; d++) {
        if (family->detects[d] >= longest) {
            return fail(message,
                        "--detect %u: accepted less than %u, the steps of the longest program",
                        family->detects[d], longest);
        }
    }
    return 0;
}

static int check_request(const struct log *log, struct request *request, char *message)
{
    struct family_request *family = &request->family;
    if (!request->policy_given) {
        family->base.kind = log->runs[0].chain ? POLICY_PROBE : POLICY_STATIC;
    }
    bool probes = family->base.kind == POLICY_PROBE;
    if (probes != log->runs[0].chain) {
        return fail(message, "--policy %s: accepted %s for this log",
                    policy_kind_name(family->base.kind),
                    log->runs[0].chain ? "probe alone" : "any but probe");
    }
    if (request->shadow == NULL && check_choice(log, request, message) != 0) {
        return -EINVAL;
    }
    if (family->use_reward && !log->has_reward) {
        return fail(message, "--signal: the log has no rewards");
    }
    if (!log->labelled && request->shadow == NULL) {
        return fail(message, "%s: the column right or right_now must be filled to calibrate",
                    request->log_path);
    }
    for (uint32_t i = 0; request->ignore_hesitation && i < log->steps_count; i++) {
        log->hesitant[i] = false;
    }
    return 0;
}

int report_calibration(struct log *log, struct request *request, char message[LOG_MESSAGE_BYTES])
{
    struct calibration c = {.log = log, .request = request};
    int rc = check_request(log, request, message);
    if (rc != 0) {
        return rc;
    }
    parts_init(&c.parts, log->problems_count);
    /* The first split comes last: its choice is what is printed and written. */
    for (uint32_t split = request->splits_count; split-- > 0;) {
        run_split(&c, split);
    }
    print_table(&c);
    const struct fit_parts parts = {c.parts.fit, c.parts.learn, c.parts.test};
    const bool *mask = fit_mask(&c.family, &request->fit, c.chosen[0], &parts);
    if (request->output != NULL) {
        rc = write_profile(log, request, &c.evaluation, &c.family, c.chosen[0],
                           request->allowed_points[0], &c.estimates[0], mask, message);
    }
    if (rc == 0 && request->plot != NULL) {
        rc = plot_write(request->plot, &c.evaluation, &c.family, mask, c.chosen[0], message);
    }
    evaluation_free(&c.evaluation);
    family_free(&c.family);
    parts_free(&c.parts);
    return rc;
}

/* ---- shadow ------------------------------------------------------------------------------------- */

/* Nothing was chosen on this log, so one test says how much the profile can lose elsewhere. */
static void print_bound(const struct log *log, struct policy_options *options,
                        const struct request *request)
{
    uint32_t chain = 0;
    struct family family = {.options = options, .chain = &chain, .count = 1, .chains_count = 1};
    struct evaluation evaluation;
    struct fit_request fit = request->fit;
    fit.test = fit.test == FIT_EMPIRICAL ? FIT_BETTING : fit.test;
    evaluation_make(log, &family, request->family.cap, &evaluation);
    printf("%s: at most %.2f points on problems like these, but for a chance of %.3g\n",
           fit_test_name(fit.test), fit_bound_points(&evaluation, 0, &fit, NULL), fit.delta);
    evaluation_free(&evaluation);
}

/* Sums over the programs that the profile can be judged by. */
struct shadow {
    uint32_t judged;
    uint32_t judged_cut; /* of those: the log has them only up to where they were stopped */
    uint32_t unknown;
    uint32_t stopped;
    uint32_t given_up;
    uint32_t changed;
    uint32_t changed_cut; /* likewise */
    uint32_t right;
    uint32_t full_right;
    uint64_t full;
    uint64_t full_probes;
    uint64_t tokens;
    uint64_t probes;
    uint64_t more; /* of the unknown */
    uint32_t regrown;
    uint32_t of_batch;
    uint32_t trees_changed; /* their profile was, while they grew */
    uint32_t reads;         /* of all chains: decisions on probes */
    uint32_t late;
    const struct log_run *other; /* a program whose trees the profile would not have grown, ... */
    uint32_t other_grants[2];    /* ... as struct outcome has them */
};

static void shadow_add(struct shadow *s, const struct log_run *run, const struct outcome *outcome)
{
    if (outcome->regrown) {
        if (s->regrown++ == 0) {
            s->other = run;
            memcpy(s->other_grants, outcome->grants, sizeof s->other_grants);
        }
        return;
    }
    s->reads += outcome->reads;
    s->late += outcome->late;
    if (outcome->unknown) {
        s->unknown++;
        s->more += outcome->more_tokens;
        return;
    }
    s->judged++;
    s->judged_cut += run->stopped;
    s->full += outcome->full_tokens;
    s->full_probes += outcome->full_probes;
    s->tokens += outcome->tokens;
    s->probes += outcome->probe_tokens;
    s->stopped += outcome->stopped && !outcome->gave_up;
    s->given_up += outcome->gave_up;
    s->changed += outcome->changed;
    s->changed_cut += outcome->changed && run->stopped;
    s->right += outcome->right;
    s->full_right += outcome->full_right;
}

static double percent(uint64_t part, uint64_t whole)
{
    return whole > 0 ? 100 * (double)part / (double)whole : 0;
}

static void shadow_print(const struct shadow *s)
{
    double saved = s->full > 0 ? 100 - percent(s->tokens + s->probes, s->full) : 0;
    printf("tokens %llu instead of %llu, and %llu for probes: saved %.2f %%\n",
           (unsigned long long)s->tokens, (unsigned long long)s->full,
           (unsigned long long)s->probes, saved);
    printf("answers other than at the end: %u (%.2f %%)\n", s->changed,
           percent(s->changed, s->judged));
}

/* Of a live log: what it does not say. */
static void shadow_print_cut(const struct shadow *s, bool labelled)
{
    uint32_t whole = s->judged - s->judged_cut;
    printf(
        "judged by %u of %u programs: %u that did all they were allowed to, %u that had been stopped, "
        "where this profile stops no later\n",
        s->judged, s->judged + s->unknown, whole, s->judged_cut);
    if (s->unknown > 0)
        printf(
            "not judged: %u that had been stopped where this profile goes on; what would have come is "
            "not known, and costs up to about %llu tokens more\n",
            s->unknown, (unsigned long long)s->more);
    if (s->judged_cut > 0)
        printf(
            "of those stopped, \"instead of\" is what they spent, and the end is where they were "
            "stopped: %u of %u answers differ from that, %u of %u from that at the cap\n",
            s->changed_cut, s->judged_cut, s->changed - s->changed_cut, whole);
    if (s->unknown > 0 && s->judged_cut < s->unknown)
        printf(
            "programs that went on are the harder ones: the share that this profile stops of all is "
            "higher than here\n");
    if (!labelled)
        printf(
            "nothing is labelled: another answer than at the end is a disagreement, not a mistake\n");
}

/* Not all that is asked about is in the log. */
static void shadow_print_other(const struct shadow *s, const char *name)
{
    if (s->late > 0)
        printf(
            "%u of %u decisions were taken at a later probe than %s makes, or never: the log has those "
            "that were made, and with its own it may end chains sooner\n",
            s->late, s->reads, name);
    if (s->regrown > 0)
        printf(
            "not judged: %u whose trees %s would not have grown: those of profile %s went to %u leaves "
            "where it goes to %u\n",
            s->regrown, name, s->other->profile, s->other_grants[0], s->other_grants[1]);
    if (s->trees_changed > 0)
        printf("not judged: %u whose trees grew while their profile was changed\n",
               s->trees_changed);
    if (s->of_batch > 0)
        printf("not judged: %u of batches, which went on or stopped by what their common total "
               "left\n",
               s->of_batch);
}

/* Where nothing is left that the log could say. */
static int shadow_check(const struct log *log, const struct shadow *s, const char *name,
                        char message[LOG_MESSAGE_BYTES])
{
    if (s->of_batch == log->runs_count)
        return fail(
            message,
            "--shadow %s: accepted programs that their policies ended: all %u are of batches, "
            "which went on or stopped by what their common total left",
            name, s->of_batch);
    if (s->regrown > 0 && s->regrown == log->runs_count)
        return fail(
            message,
            "--shadow %s: accepted a profile that grows the trees of the log, whose profile %.47s "
            "went to %u leaves where this one goes to %u: the first leaves of a tree are no smaller tree",
            name, s->other->profile, s->other_grants[0], s->other_grants[1]);
    if (s->late > 0 && s->late == s->reads)
        return fail(message,
                    "--shadow %s: accepted a profile that probes where the log has probes: each of "
                    "%u decisions would be taken at a later one, or never",
                    name, s->reads);
    if (s->judged + s->unknown == 0)
        return fail(message,
                    "--shadow %s: accepted a log with programs to judge: of %u, %u are of batches, "
                    "%u have trees that it would not have grown, and of %u the trees grew while "
                    "their profile was changed",
                    name, log->runs_count, s->of_batch, s->regrown, s->trees_changed);
    return 0;
}

/* Whether a program can be judged; 0 or 1: it is counted among those that cannot. Of trees also the policy that
 * grew them. */
static int shadow_begin(const struct log *log, const struct log_run *run,
                        const struct profile *shadow, struct shadow *s,
                        struct profile *ret_grown_by, char message[LOG_MESSAGE_BYTES])
{
    s->of_batch += run->of_batch;
    if (run->of_batch || !run->trees)
        return run->of_batch;
    int rc = inforce_find(log, run, shadow, ret_grown_by);
    s->trees_changed += rc == -ESTALE;
    if (rc == 0 || rc == -ESTALE)
        return rc != 0;
    return fail(
        message,
        "--shadow %s: program %s: profile = '%.47s': of Rebase accepted one whose text the log "
        "has, this one or a built-in one, as where its trees end is not known of others",
        shadow->name, run->name, run->profile);
}

static int shadow_replay(const struct log *log, const struct profile *profile, uint32_t cap,
                         struct shadow *ret_shadow, char message[LOG_MESSAGE_BYTES])
{
    struct replay replay;
    struct profile live;
    int rc = 0;
    replay_init(&replay, log);
    for (uint32_t r = 0; rc == 0 && r < log->runs_count; r++) {
        const struct log_run *run = &log->runs[r];
        rc = shadow_begin(log, run, profile, ret_shadow, &live, message);
        if (rc < 0)
            break;
        if (rc > 0) {
            rc = 0;
            continue;
        }
        replay.grown_by = run->trees ? &live.policy : NULL;
        struct outcome outcome = replay_run(&replay, r, &profile->policy, cap);
        shadow_add(ret_shadow, run, &outcome);
    }
    replay_free(&replay);
    return rc == 0 ? shadow_check(log, ret_shadow, profile->name, message) : rc;
}

/* They end branches while these decode, which a log of whole answers does not show. */
static bool is_judged_by_answers(enum policy_kind kind)
{
    return kind != POLICY_M_OF_N && kind != POLICY_DEEPCONF;
}

int report_shadow(struct log *log, struct request *request, char message[LOG_MESSAGE_BYTES])
{
    struct profile profile;
    char what[PROFILE_MESSAGE_BYTES];
    struct shadow shadow = {0};
    bool cut = false;
    if (profile_find(request->shadow, &profile) != 0 &&
        inforce_named(log, request->shadow, &profile) != 0 &&
        profile_load(request->shadow, &profile, what) != 0) {
        return fail(message, "%s", what);
    }
    if (!is_judged_by_answers(profile.policy.kind)) {
        return fail(
            message,
            "--shadow %s: accepted any policy but %s, which ends branches while they decode",
            request->shadow, policy_kind_name(profile.policy.kind));
    }
    request->family.base = profile.policy;
    request->policy_given = true;
    int rc = check_request(log, request, message);
    if (rc == 0) {
        rc = shadow_replay(log, &profile, request->family.cap, &shadow, message);
    }
    if (rc != 0) {
        return rc;
    }
    for (uint32_t r = 0; r < log->runs_count; r++) {
        cut = cut || log->runs[r].stopped;
    }
    printf("profile %s, policy %s: %u programs, %u stopped early, %u given up\n", profile.name,
           policy_kind_name(profile.policy.kind), shadow.judged, shadow.stopped, shadow.given_up);
    inforce_print(log, &profile);
    shadow_print(&shadow);
    shadow_print_other(&shadow, profile.name);
    if (log->labelled) {
        printf("right %u instead of %u: lost %.2f points\n", shadow.right, shadow.full_right,
               percent(shadow.full_right, shadow.judged) - percent(shadow.right, shadow.judged));
    }
    if (cut) {
        shadow_print_cut(&shadow, log->labelled);
    } else if (log->labelled && shadow.regrown == 0 && shadow.of_batch == 0 &&
               shadow.trees_changed == 0) {
        print_bound(log, &profile.policy, request);
    } else if (!log->labelled) {
        printf(
            "nothing is labelled: another answer than at the end is a disagreement, not a mistake\n");
    }
    return 0;
}
