/* tests/unit/test_calibrate.c: the statistics behind a calibrated profile. Binomial tails against
 * sums of exact terms; the p-values against what they promise (a true hypothesis is rejected no more
 * often than delta, however the losses are distributed) and against uselessness (a false one is
 * rejected); the whole choice against candidates whose true losses are known; the replay against a
 * second one that is written directly; the direction that is chosen for the policy `length`; that families which
 * learn hold what `static` can be, and save no less; that curves have their edges where programs differ; and what of
 * a log or a request is refused. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "daemon/program/profile.h"
#include "tests/lib/check.h"
#include "tools/calibrate/fit.h"
#include "tools/calibrate/replay.h"
#include "tools/calibrate/report.h"

static struct rng rng;

static double uniform(void)
{
    return (double)(rng_next(&rng) >> 11) * 0x1p-53;
}

/* ---- p-values ----------------------------------------------------------------------------------- */

static void binomial_tails_are_sums_of_terms(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 3000; round++) {
        uint32_t count = 1 + (uint32_t)rng_below(&rng, 400), most = (uint32_t)rng_below(&rng, 400);
        double chance = round % 3 == 0 ? uniform() * 0.02 : uniform();
        long double term = powl(1 - (long double)chance, count), sum = 0;
        for (uint32_t k = 0; k <= most && k <= count; k++) {
            sum += term;
            term *= (long double)(count - k) / (k + 1) * chance / (1 - (long double)chance);
        }
        double got = risk_binomial_at_most(most, count, chance);
        CHECK(fabsl(got - sum) < 1e-9L + 1e-7L * sum,
              "P(Bin(%u, %g) <= %u): %.12g, expected %.12Lg", count, chance, most, got, sum);
    }
    assert_true(fabs(risk_binomial_at_most(0, 100000, 1e-4) - pow(1 - 1e-4, 100000)) < 1e-12);
}

/* One sample of a distribution whose mean is `mean`. */
static float loss_sample(int kind, double mean)
{
    switch (kind) {
    case 0: /* rarely all */
        return uniform() < mean ? 1 : 0;
    case 1: /* more rarely, with gains */
        return uniform() < mean / 0.5 * 0.75 ? 1 : uniform() < mean / 2 ? -1 : 0;
    case 2: /* thirds: problems with three programs */
        return uniform() < 3 * mean ? 1.0f / 3 : 0;
    default: /* often a little */
        return (float)(2 * mean * uniform());
    }
}

static double mean_of(int kind, double mean)
{
    return kind == 1 ? mean * 1.5 - (1 - mean * 1.5) * mean / 2 : mean;
}

static double rejected_share(risk_test *test, int kind, double mean, uint32_t count, double bound)
{
    const uint32_t trials = 2000;
    float losses[1000];
    uint32_t rejected = 0;
    for (uint32_t t = 0; t < trials; t++) {
        for (uint32_t i = 0; i < count; i++)
            losses[i] = loss_sample(kind, mean);
        rejected += test(losses, count, bound) <= 0.05;
    }
    return (double)rejected / trials;
}

/* 2,000 trials: a true share of 0.05 is seen above 0.065 once in 900 runs. */
static void a_true_hypothesis_is_rarely_rejected(void **state)
{
    (void)state;
    for (int kind = 0; kind < 4; kind++) {
        double bound = mean_of(kind, 0.03);
        double betting = rejected_share(risk_betting, kind, 0.03, 300, bound);
        double flips =
            kind == 1 ? 0 : rejected_share(risk_hoeffding_bentkus, kind, 0.03, 300, bound);
        printf("kind %d: rejected though true: betting %.4f, flips %.4f\n", kind, betting, flips);
        CHECK(betting < 0.065 && flips < 0.065, "kind %d", kind);
    }
}

static void a_false_hypothesis_is_often_rejected(void **state)
{
    (void)state;
    for (int kind = 0; kind < 4; kind++) {
        double bound = 4 * mean_of(kind, 0.01);
        double betting = rejected_share(risk_betting, kind, 0.01, 400, bound);
        double flips =
            kind == 1 ? 1 : rejected_share(risk_hoeffding_bentkus, kind, 0.01, 400, bound);
        printf("kind %d: rejected when false: betting %.4f, flips %.4f\n", kind, betting, flips);
        CHECK(betting > 0.6 && flips > 0.6, "kind %d", kind);
    }
    float none[400] = {0};
    /* Nothing lost in n: the exact bound is 1 - delta^(1/n), and both come near it. */
    double exact = 1 - pow(0.05, 1.0 / 400);
    double flips = risk_upper_bound(risk_hoeffding_bentkus, none, 400, 0.05);
    double betting = risk_upper_bound(risk_betting, none, 400, 0.05);
    assert_true(fabs(flips - exact) < 2e-5);
    CHECK(betting >= exact - 2e-5 && betting < 1.3 * exact, "%g, exact %g", betting, exact);
    assert_true(risk_betting(none, 0, 0.5) == 1 && risk_hoeffding_bentkus(none, 0, 0.5) == 1);
    assert_true(risk_betting(none, 400, 0) == 1 && risk_hoeffding_bentkus(none, 400, 0) == 1);
}

/* ---- the whole choice --------------------------------------------------------------------------- */

#define CANDIDATES 12u
#define PROBLEMS 500u

/* How candidates are decided: as one chain that stood before the data; in an order that one half of the
 * problems gives; or three such chains on all problems and an ordered rest beside them. */
enum way { GRID, FRONTIER, BOTH, WAYS };
static const char *const way_names[WAYS] = {"a grid", "a frontier", "both"};

/* The candidate at level l saves more and truly loses more than the one below it; or, where they are traps, all
 * lose just too much, each on problems of its own. Returns whether the choice truly loses more than
 * is allowed; adds what it saves. */
static bool choose_badly(enum fit_test test, enum way way, bool traps, double allowed_points,
                         double *saved)
{
    static float lost[CANDIDATES * PROBLEMS], tokens[CANDIDATES * PROBLEMS];
    static float full[PROBLEMS], runs[PROBLEMS], none[CANDIDATES * PROBLEMS];
    static uint64_t hashes[PROBLEMS];
    static bool all[PROBLEMS], one[PROBLEMS], other[PROBLEMS];
    static struct policy_options options[CANDIDATES];
    uint32_t chain[CANDIDATES] = {0}, level[CANDIDATES];
    struct evaluation e = {CANDIDATES, PROBLEMS, lost, lost, tokens, none,
                           none,       none,     full, none, runs,   hashes};
    struct family family = {
        options, chain, CANDIDATES, way == BOTH ? 4 : 1, way == BOTH ? 3 : way == GRID ? 1 : 0,
        false};
    struct fit_request request = {test, allowed_points, 0.1, 0, 1};
    for (uint32_t c = 0; c < CANDIDATES; c++) {
        chain[c] = way == BOTH ? c / 3 : 0;
        level[c] = way == BOTH ? c % 3 * 4 + c / 3 : c;
    }
    for (uint32_t p = 0; p < PROBLEMS; p++) {
        double hardness = uniform();
        full[p] = 100;
        runs[p] = 1;
        hashes[p] = p;
        all[p] = true;
        one[p] = p % 2 == 1;
        other[p] = !one[p];
        for (uint32_t c = 0; c < CANDIDATES; c++) {
            hardness = traps ? uniform() : hardness;
            lost[c * PROBLEMS + p] =
                hardness < (traps && c > 0 ? 0.0201 : level[c] * 0.004) ? 1 : 0;
            tokens[c * PROBLEMS + p] = (float)(100 - 5 * level[c]);
        }
    }
    const struct fit_parts parts = {way == FRONTIER ? other : all, one, other};
    uint32_t chosen = level[fit_choose(&e, &family, &request, &parts, NULL)];
    *saved += 5.0 * chosen;
    return traps ? chosen > 0 : chosen * 0.4 > allowed_points + 1e-9;
}

static void a_promise_is_kept(void **state)
{
    const uint32_t trials = 1500;
    (void)state;
    for (uint32_t i = 0; i < 4 * WAYS; i++) {
        enum way way = (enum way)(i % WAYS);
        enum fit_test test = i / WAYS % 2 == 0 ? FIT_BETTING : FIT_FLIPS;
        bool traps = i >= 2 * WAYS;
        double saved = 0;
        uint32_t broken = 0;
        for (uint32_t t = 0; t < trials; t++)
            broken += choose_badly(test, way, traps, 2.0, &saved);
        printf("%s, %s%s: more than promised is lost in %.3f of trials, %.1f %% saved\n",
               fit_test_name(test), way_names[way], traps ? ", traps" : "", (double)broken / trials,
               saved / trials);
        CHECK(broken <= 0.13 * trials, "delta is 0.1"); /* 3.9 deviations above it */
        CHECK(traps || saved / trials > (way == GRID ? 7 : 3), "%.1f %% saved", saved / trials);
    }
    /* And choosing by an estimate without a margin breaks it often: that is what the tests are for. */
    double saved = 0;
    uint32_t broken = 0;
    for (uint32_t t = 0; t < trials; t++)
        broken += choose_badly(FIT_EMPIRICAL, GRID, false, 2.0, &saved);
    printf("empirical: more than allowed is lost in %.3f of trials\n", (double)broken / trials);
    assert_true(broken > 0.2 * trials);
}

/* ---- logs and replay ---------------------------------------------------------------------------- */

#define PROGRAMS 400u
#define STEPS 12u

static bool right_written[PROGRAMS * STEPS]; /* in the order of the log */

static void write_log(const char *path)
{
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    fprintf(file, "problem\tprogram\talgorithm\tn\ttokens\tanswer\tright\treward\n");
    for (uint32_t p = 0; p < PROGRAMS; p++) {
        double skill = uniform();
        for (uint32_t n = 1; n <= STEPS; n++) {
            uint32_t answer = uniform() < skill ? 7 : (uint32_t)rng_below(&rng, 4);
            right_written[p * STEPS + n - 1] = answer == 7;
            fprintf(file, "q%u\t%u\tsc\t%u\t%u\t%s%.0u\t%d\t%.3f\n", p / 2, p, n, 10 * n,
                    answer == 3 ? "" : "x", answer == 3 ? 0 : answer, answer == 7, uniform());
        }
    }
    assert_int_equal(fclose(file), 0);
}

/* Majority with ties to the first that reached it, straight from the answers. */
static bool right_by_hand(const struct log *log, const struct log_run *run, uint32_t steps)
{
    uint32_t best = 0, best_at = 0, winner = CERTAINDEX_EMPTY;
    for (uint32_t i = 0; i < steps; i++) {
        uint32_t votes = 0, at = 0, group = log->groups[run->first + i];
        for (uint32_t j = 0; j < steps && group != CERTAINDEX_EMPTY; j++)
            if (log->groups[run->first + j] == group) {
                votes++;
                at = j;
            }
        if (votes > best || (votes == best && votes > 0 && at < best_at)) {
            best = votes;
            best_at = at;
            winner = i;
        }
    }
    return winner != CERTAINDEX_EMPTY && right_written[run->first + winner];
}

static void replay_matches_a_direct_one(void **state)
{
    char path[] = "/tmp/calibrate.XXXXXX", message[LOG_MESSAGE_BYTES];
    struct log log;
    struct replay replay;
    struct profile profile;
    (void)state;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)close(fd); /* opened again by name */
    write_log(path);
    CHECK(log_read(path, NULL, &log, message) == 0, "%s", message);
    (void)unlink(path);
    assert_int_equal(log.runs_count, PROGRAMS);
    assert_int_equal(log.problems_count, PROGRAMS / 2);
    assert_true(log.labelled && log.has_reward);
    replay_init(&replay, &log);
    assert_int_equal(profile_find("sc-livecodebench", &profile), 0);
    uint32_t stopped = 0;
    for (uint32_t r = 0; r < PROGRAMS; r++) {
        const struct log_run *run = &log.runs[r];
        uint32_t counts[64] = {0}, empties = 0;
        double h = 0;
        for (uint32_t i = 0; i < 5; i++) {
            uint32_t group = log.groups[run->first + i];
            if (group == CERTAINDEX_EMPTY)
                empties++;
            else
                counts[group]++;
        }
        for (uint32_t g = 0; g < 64; g++)
            h -= counts[g] > 0 ? counts[g] / 5.0 * log2(counts[g] / 5.0) : 0;
        h += empties * 0.2 * log2(5);
        bool stops = 1 - h / log2(5) > 0.4;
        uint32_t end = stops ? 5 : 10;
        struct outcome outcome = replay_run(&replay, r, &profile.policy, 10);
        CHECK(outcome.stopped == stops && outcome.knob == end && outcome.tokens == 10 * end &&
                  outcome.full_tokens == 100 && !outcome.gave_up && outcome.probe_tokens == 0,
              "program %u", r);
        assert_int_equal(outcome.right, right_by_hand(&log, run, end));
        assert_int_equal(outcome.full_right, right_by_hand(&log, run, 10));
        stopped += stops;
    }
    assert_true(stopped > PROGRAMS / 10 && stopped < PROGRAMS - PROGRAMS / 10);
    replay_free(&replay);
    log_free(&log);
}

/* ---- length: both directions, and the better one ------------------------------------------------- */

#define LENGTH_PROGRAMS 1200u

/* Half of the programs are right from the start, half only when there are more answers than the five wrong
 * ones; by their lengths at the detect point they can be told apart. */
static void write_lengths(const char *path, bool short_ones_are_settled)
{
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    fprintf(file, "problem\tprogram\talgorithm\tn\ttokens\tanswer\tright\n");
    for (uint32_t p = 0; p < LENGTH_PROGRAMS; p++) {
        bool settled = p % 2 == 0;
        uint64_t each = (settled == short_ones_are_settled ? 10 : 20) + rng_below(&rng, 6);
        for (uint32_t n = 1; n <= STEPS; n++) {
            bool right = settled || n > 5;
            fprintf(file, "q%u\t%u\tsc\t%u\t%" PRIu64 "\tx%d\t%d\n", p, p, n, each * n, right,
                    right);
        }
    }
    assert_int_equal(fclose(file), 0);
}

static void length_takes_the_better_direction(void **state)
{
    (void)state;
    static bool all[LENGTH_PROGRAMS], one[LENGTH_PROGRAMS], other[LENGTH_PROGRAMS];
    for (uint32_t p = 0; p < LENGTH_PROGRAMS; p++) {
        all[p] = true;
        one[p] = p / 2 % 2 == 0;
        other[p] = !one[p];
    }
    for (uint32_t shorter = 0; shorter < 2; shorter++) {
        char path[] = "/tmp/calibrate.XXXXXX", message[LOG_MESSAGE_BYTES];
        struct log log;
        struct profile profile;
        struct family family;
        struct evaluation evaluation;
        profile_default(&profile);
        profile.policy.kind = POLICY_LENGTH;
        struct family_request request = {
            .base = profile.policy, .detects = {5}, .detects_count = 1};
        int fd = mkstemp(path);
        assert_true(fd >= 0);
        (void)close(fd); /* opened again by name */
        write_lengths(path, shorter);
        CHECK(log_read(path, NULL, &log, message) == 0, "%s", message);
        (void)unlink(path);
        family_build(&log, &request, one, &family);
        evaluation_make(&log, &family, 0, &evaluation);
        for (uint32_t test = 0; test < 2; test++) {
            struct fit_request fit = {.test = test ? FIT_BETTING : FIT_EMPIRICAL,
                                      .allowed_points = test ? 2 : 0,
                                      .delta = 0.05};
            const struct fit_parts parts = {all, one, test ? other : all};
            uint32_t chosen = fit_choose(&evaluation, &family, &fit, &parts, NULL);
            const struct policy_options *o = &family.options[chosen];
            struct score score = score_of(&evaluation, chosen, all);
            CHECK(o->length_rule == (shorter ? POLICY_LENGTH_SHORTER : POLICY_LENGTH_LONGER) &&
                      score.lost_points <= fit.allowed_points && score.stopped_percent > 45,
                  "the %s are settled: rule %d at %" PRIu64 " loses %g, stops %g %%",
                  shorter ? "shorter" : "longer", (int)o->length_rule, o->length_tokens,
                  score.lost_points, score.stopped_percent);
        }
        evaluation_free(&evaluation);
        family_free(&family);
        log_free(&log);
    }
}

/* ---- families ------------------------------------------------------------------------------------- */

#define FAMILY_PROBLEMS 1500u

/* What a family does with a log of one program for each problem. */
struct fitted {
    struct log log;
    struct family family;
    struct evaluation evaluation;
};

static void log_take(struct log *log, void (*write)(FILE *file))
{
    char path[] = "/tmp/calibrate.XXXXXX", message[LOG_MESSAGE_BYTES];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *file = fdopen(fd, "we");
    assert_non_null(file);
    fprintf(file, "problem\tprogram\talgorithm\tn\ttokens\tanswer\tright\treward\n");
    write(file);
    assert_int_equal(fclose(file), 0);
    CHECK(log_read(path, NULL, log, message) == 0, "%s", message);
    (void)unlink(path);
}

static bool family_all[FAMILY_PROBLEMS], family_one[FAMILY_PROBLEMS], family_other[FAMILY_PROBLEMS];
static const struct fit_parts family_parts = {family_all, family_one, family_other};

static void fitted_make(struct fitted *f, enum policy_kind kind, bool reward,
                        void (*write)(FILE *file))
{
    struct profile profile;
    profile_default(&profile);
    profile.policy.kind = kind;
    profile.policy.step = 1;
    profile.policy.curve_signal = reward ? CERTAINDEX_REWARD : CERTAINDEX_CERTAINTY;
    struct family_request request = {.base = profile.policy,
                                     .detects = {5},
                                     .detects_count = 1,
                                     .use_certainty = !reward,
                                     .use_reward = reward};
    for (uint32_t p = 0; p < FAMILY_PROBLEMS; p++) {
        family_all[p] = true;
        family_one[p] = p % 3 == 0;
        family_other[p] = !family_one[p];
    }
    log_take(&f->log, write);
    assert_int_equal(f->log.problems_count, FAMILY_PROBLEMS);
    family_build(&f->log, &request, family_one, &f->family);
    evaluation_make(&f->log, &f->family, 0, &f->evaluation);
}

static void fitted_free(struct fitted *f)
{
    evaluation_free(&f->evaluation);
    family_free(&f->family);
    log_free(&f->log);
}

/* The same file each time that it is written with the same state of the generator. */
static struct rng skills;
static void write_skills(FILE *file)
{
    struct rng from = skills;
    for (uint32_t p = 0; p < FAMILY_PROBLEMS; p++) {
        double skill = (double)(rng_next(&from) >> 11) * 0x1p-53;
        for (uint32_t n = 1; n <= STEPS; n++) {
            bool right = (double)(rng_next(&from) >> 11) * 0x1p-53 < sqrt(skill);
            uint32_t answer = right ? 7 : (uint32_t)rng_below(&from, 4);
            fprintf(file, "q%u\t%u\tsc\t%u\t%u\tx%u\t%d\t\n", p, p, n, 10 * n, answer, right);
        }
    }
}

/* Whether a candidate that stood before the data does with every program what this one of static does. */
static bool holds_point(const struct fitted *f, const struct fitted *of_static, uint32_t point)
{
    size_t row = (size_t)point * FAMILY_PROBLEMS, bytes = FAMILY_PROBLEMS * sizeof(float);
    for (uint32_t c = 0; c < f->family.count; c++)
        if (f->family.chain[c] < f->family.ordered_count &&
            memcmp(f->evaluation.tokens + (size_t)c * FAMILY_PROBLEMS,
                   of_static->evaluation.tokens + row, bytes) == 0 &&
            memcmp(f->evaluation.lost + (size_t)c * FAMILY_PROBLEMS,
                   of_static->evaluation.lost + row, bytes) == 0)
            return true;
    return false;
}

static const enum policy_kind beyond_static[] = {POLICY_K_STEP, POLICY_CURVE_ONCE,
                                                 POLICY_CURVE_EACH_STEP};
#define BEYOND_COUNT (sizeof beyond_static / sizeof beyond_static[0])

/* Most rewards near 0, those of programs that end well less so. */
static void write_skewed_rewards(FILE *file)
{
    struct rng from = skills;
    for (uint32_t p = 0; p < FAMILY_PROBLEMS; p++) {
        double skill = pow((double)(rng_next(&from) >> 11) * 0x1p-53, 6);
        for (uint32_t n = 1; n <= STEPS; n++) {
            double reward = skill * (double)(rng_next(&from) >> 11) * 0x1p-53;
            bool right = (double)(rng_next(&from) >> 11) * 0x1p-53 < sqrt(skill);
            fprintf(file, "q%u\t%u\tmcts\t%u\t%u\tx%d\t%d\t%.9g\n", p, p, n, 10 * n, right, right,
                    reward);
        }
    }
}

/* Half of them are exactly what a threshold of the grid is. */
static void write_tied_rewards(FILE *file)
{
    struct rng from = skills;
    for (uint32_t p = 0; p < FAMILY_PROBLEMS; p++) {
        double skill = (double)(rng_next(&from) >> 11) * 0x1p-53;
        double reward = p % 2 == 0 ? (2 * floor(4 * skill) + 1) / 8 : skill;
        for (uint32_t n = 1; n <= STEPS; n++) {
            bool right = (double)(rng_next(&from) >> 11) * 0x1p-53 < skill;
            fprintf(file, "q%u\t%u\tmcts\t%u\t%u\tx%d\t%d\t%.9g\n", p, p, n, 10 * n, right, right,
                    reward);
        }
    }
}

static void what_static_can_be_is_in_every_family(void **state)
{
    static void (*const writes[])(FILE *) = {write_skills, write_skewed_rewards,
                                             write_tied_rewards};
    struct fitted of_static, f;
    (void)state;
    skills = rng;
    for (uint32_t w = 0; w < sizeof writes / sizeof writes[0]; w++) {
        void (*write)(FILE *) = writes[w];
        bool reward = w > 0;
        uint32_t signal = reward ? CERTAINDEX_REWARD : CERTAINDEX_CERTAINTY;
        fitted_make(&of_static, POLICY_STATIC, reward, write);
        for (size_t i = 0; i < BEYOND_COUNT; i++) {
            fitted_make(&f, beyond_static[i], reward, write);
            for (uint32_t c = 0; c < of_static.family.count; c++)
                CHECK(holds_point(&f, &of_static, c), "%s has not what static does above %g",
                      policy_kind_name(beyond_static[i]),
                      of_static.family.options[c].limits[0].limits.above[signal]);
            fitted_free(&f);
        }
        fitted_free(&of_static);
    }
}

/* A file could hold each of them, and none lets more certain programs go further. */
static void curves_are_curves(void **state)
{
    (void)state;
    skills = rng;
    for (size_t i = 2; i < 2 * BEYOND_COUNT; i++) { /* k_step has none */
        struct fitted f;
        uint32_t most = 0;
        fitted_make(&f, beyond_static[i / 2], i % 2, i % 2 ? write_skewed_rewards : write_skills);
        for (uint32_t c = 0; c < f.family.count; c++) {
            const struct policy_options *o = &f.family.options[c];
            const struct policy_edges *edges = &o->curve_edges;
            assert_true(edges->count > 0 && edges->count <= POLICY_EDGES_MAX);
            for (uint32_t e = 0; e < edges->count; e++)
                assert_true(edges->at[e] > (e > 0 ? edges->at[e - 1] : 0) && edges->at[e] <= 1);
            for (uint32_t k = 0; k < o->curve_count; k++)
                for (uint32_t e = 0; e < edges->count; e++)
                    assert_true(o->curve[k].total[e] >= o->curve[k].total[e + 1]);
            most = edges->count > most ? edges->count : most;
        }
        CHECK(most >= 3, "%s: at most %u edges", policy_kind_name(beyond_static[i / 2]), most);
        fitted_free(&f);
    }
}

/* So whatever is promised, they save what static saves with half of delta, and more where they learned more. */
static void what_is_learned_only_adds_to_static(void **state)
{
    (void)state;
    skills = rng;
    for (size_t i = 0; i < BEYOND_COUNT; i++) {
        struct fitted of_static, f;
        uint32_t stopped = 0, more = 0;
        fitted_make(&of_static, POLICY_STATIC, false, write_skills);
        fitted_make(&f, beyond_static[i], false, write_skills);
        for (uint32_t points = 1; points <= 8; points++) {
            struct fit_request request = {FIT_BETTING, points, 0.025, 0, 1};
            uint32_t s =
                fit_choose(&of_static.evaluation, &of_static.family, &request, &family_parts, NULL);
            request.delta = 0.05;
            uint32_t c = fit_choose(&f.evaluation, &f.family, &request, &family_parts, NULL);
            double least = score_of(&of_static.evaluation, s, family_all).saving_percent;
            double saved = score_of(&f.evaluation, c, family_all).saving_percent;
            CHECK(saved >= least - 1e-9, "%s at %u points: saves %g %%, static %g %%",
                  policy_kind_name(beyond_static[i]), points, saved, least);
            stopped += s > 0;
            more += saved > least + 1;
        }
        printf("%s: static stops at %u of 8 promises, more is saved at %u\n",
               policy_kind_name(beyond_static[i]), stopped, more);
        CHECK(stopped >= 4, "at %u promises", stopped);
        CHECK(more > 0 || beyond_static[i] == POLICY_CURVE_ONCE, "nothing is added");
        fitted_free(&of_static);
        fitted_free(&f);
    }
}

/* One half is right from the sixth step on, with rewards that grow to 0.3; the other half never, with less. */
static void write_low_rewards(FILE *file)
{
    for (uint32_t p = 0; p < FAMILY_PROBLEMS; p++)
        for (uint32_t n = 1; n <= STEPS; n++) {
            bool good = p % 2 == 0, right = good && n >= 6;
            fprintf(file, "q%u\t%u\tbest_of_n\t%u\t%u\tx%d\t%d\t%.3f\n", p, p, n, 10 * n, right,
                    right, right ? 0.3 : 0.02);
        }
}

static void low_rewards_have_thresholds(void **state)
{
    struct fitted f;
    uint32_t found = 0;
    (void)state;
    fitted_make(&f, POLICY_K_STEP, true, write_low_rewards);
    for (uint32_t c = 0; c < f.family.count; c++) {
        struct score score = score_of(&f.evaluation, c, family_all);
        bool waits = f.family.options[c].limits[0].limits.above[CERTAINDEX_REWARD] >= 1;
        found += waits && score.lost_points <= 0 && score.stopped_percent > 45;
    }
    CHECK(found > 0, "no candidate waits for step 6 and stops there, of %u", f.family.count);
    fitted_free(&f);
}

/* The first ones are right from step 8 on, the others from step 11; both have rewards that tenths cannot tell
 * apart. */
static uint32_t first_ones;
static void write_tiny_rewards(FILE *file)
{
    for (uint32_t p = 0; p < FAMILY_PROBLEMS; p++)
        for (uint32_t n = 1; n <= STEPS; n++) {
            bool good = p < first_ones;
            bool right = n >= (good ? 7 : 10); /* and the second vote decides */
            fprintf(file, "q%u\t%u\tsc\t%u\t%u\tx%u\t%d\t%.3f\n", p, p, n, 10 * n, right ? 0 : n,
                    right, good ? 0.04 : 0.002);
        }
}

/* Half of them, which proves that no large share is lost; and so few that only their own quantile says it. */
static void curves_have_edges_where_programs_differ(void **state)
{
    (void)state;
    for (size_t i = 2; i < 2 * BEYOND_COUNT; i++) {
        struct fitted f;
        double most = 0;
        first_ones = i % 2 ? FAMILY_PROBLEMS / 2 : 18;
        double all = (4.0 * first_ones + 1.0 * (FAMILY_PROBLEMS - first_ones)) / FAMILY_PROBLEMS;
        fitted_make(&f, beyond_static[i / 2], true, write_tiny_rewards);
        for (uint32_t c = 0; c < f.family.count; c++) {
            struct score score = score_of(&f.evaluation, c, family_all);
            if (score.lost_points <= 0)
                most = fmax(most, score.saving_percent);
        }
        CHECK(fabs(most - 100 * all / STEPS) < 1e-3, "%s saves %g %% without a loss, not %g",
              policy_kind_name(beyond_static[i / 2]), most, 100 * all / STEPS);
        fitted_free(&f);
    }
}

/* All agree from the start, to a cap beyond every window that is tried. */
static void write_unanimous(FILE *file)
{
    for (uint32_t p = 0; p < FAMILY_PROBLEMS; p++)
        for (uint32_t n = 1; n <= 25; n++)
            fprintf(file, "q%u\t%u\tsc\t%u\t%u\tx\t1\t\n", p, p, n, 10 * n);
}

static void the_first_candidate_never_stops(void **state)
{
    static const enum policy_kind kinds[] = {POLICY_STATIC,
                                             POLICY_K_STEP,
                                             POLICY_ESC,
                                             POLICY_CURVE_ONCE,
                                             POLICY_LENGTH,
                                             POLICY_GIVE_UP,
                                             POLICY_CURVE_EACH_STEP,
                                             POLICY_ADAPTIVE_CONSISTENCY};
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        struct fitted f;
        fitted_make(&f, kinds[i], false, write_unanimous);
        struct score score = score_of(&f.evaluation, 0, family_all);
        CHECK(score.stopped_percent <= 0 && score.given_up_percent <= 0 &&
                  score.saving_percent <= 0,
              "%s: %g %% stopped", policy_kind_name(kinds[i]), score.stopped_percent);
        fitted_free(&f);
    }
}

/* ---- what is refused ----------------------------------------------------------------------------- */

#define HEAD "problem\tprogram\talgorithm\tn\ttokens\tanswer\tright"

/* 0, or what log_read says. */
static int log_of(const char *text, struct log *log, char message[LOG_MESSAGE_BYTES])
{
    char path[] = "/tmp/calibrate.XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *file = fdopen(fd, "we");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
    int rc = log_read(path, NULL, log, message);
    (void)unlink(path);
    return rc;
}

/* Counted by group, in tables of so many. */
static void more_answers_than_a_table_has_are_refused(void **state)
{
    static char text[1u << 17];
    (void)state;
    for (uint32_t round = 0; round < 6; round++) {
        uint32_t steps = round % 2 == 0 ? POLICY_ANSWERS_MAX / 2 : POLICY_ANSWERS_MAX / 2 + 1;
        bool empty = round / 2 == 1, chain = round / 2 == 2;
        char message[LOG_MESSAGE_BYTES] = "";
        struct log log;
        int at = snprintf(text, sizeof text, HEAD "\tanswer_now\n");
        for (uint32_t n = 1; n <= steps; n++)
            at +=
                snprintf(text + at, sizeof text - (size_t)at, "q\tp\t%s\t%u\t%u\t%s%.0u\t1\ty%u\n",
                         chain ? "cot" : "sc", n, n, empty ? "" : "x", empty ? 0 : n, n);
        int rc = log_of(text, &log, message);
        bool good = chain || round % 2 == 0;
        CHECK(rc == (good ? 0 : -EINVAL), "%u steps: %d %s", steps, rc, message);
        if (good)
            log_free(&log);
        else
            CHECK(strstr(message, ": program p: accepted at most 1024 different answers") != NULL,
                  "%s", message);
    }
}

/* A probe that ends where the cap is: what it took over until then was not decoded. */
static void a_guided_chain_costs_no_more_at_a_probe_on_its_cap(void **state)
{
    struct log log;
    struct replay replay;
    struct profile profile;
    char message[LOG_MESSAGE_BYTES] = "";
    (void)state;
    profile_default(&profile);
    profile.policy.kind = POLICY_PROBE;
    profile.policy.probe.agreement = 2;
    CHECK(log_of(HEAD "\tprobe_tokens\tcharged_tokens\nq\tp\tcot\t1\t40\tx\t1\t9\t32\n"
                      "q\tp\tcot\t2\t81\ty\t0\t9\t64\nq\tp\tcot\t3\t100\ty\t0\t0\t83\n",
                 &log, message) == 0,
          "%s", message);
    replay_init(&replay, &log);
    struct outcome o = replay_run(&replay, 0, &profile.policy, 81);
    CHECK(o.full_tokens == 64 + 9, "%" PRIu64 " tokens", o.full_tokens);
    o = replay_run(&replay, 0, &profile.policy, 84);
    CHECK(o.full_tokens == 64 + 9 + 3, "%" PRIu64 " tokens", o.full_tokens);
    replay_free(&replay);
    log_free(&log);
}

#define VERSION "0123456789abcdef"
#define TEXT "[profile]\tname = mine\t"

static void a_version_is_what_the_daemon_writes(void **state)
{
    static const char *const bad[] = {"mine@\t" TEXT,           "mine@" VERSION "0\t" TEXT,
                                      "mine@0123\t" TEXT,       "mine@0123456789abcdeF\t" TEXT,
                                      "\33[31m@" VERSION "\t.", "@" VERSION "\t" TEXT,
                                      "mine@" VERSION};
    char text[512], message[LOG_MESSAGE_BYTES];
    struct log log;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        (void)snprintf(text, sizeof text, "#profile\t%s\n" HEAD "\nq\tp\tsc\t1\t9\tx\t1\n", bad[i]);
        message[0] = '\0';
        CHECK(log_of(text, &log, message) == -EINVAL &&
                  strstr(message, ":1: #profile: accepted NAME@VERSION, of 16 digits") != NULL &&
                  strchr(message, '\33') == NULL,
              "%zu: %s", i, message);
    }
    int rc = log_of("#profile\tmine@" VERSION "\t" TEXT "\n" HEAD "\tprofile\tversion\n"
                    "q\tp\tsc\t1\t9\tx\t1\tmine\t\nq\tr\tsc\t1\t9\tx\t1\tmine\t" VERSION "\n"
                    "q\ts\tsc\t1\t9\tx\t1\tm\33[1m\t\n",
                    &log, message);
    CHECK(rc == 0, "%s", message);
    assert_true(log.runs[0].version == LOG_NO_VERSION && log.runs[1].version == 0);
    assert_string_equal(log.runs[2].profile, "m?[1m");
    log_free(&log);
}

/* Its trees grew while their profile was changed: nothing can be said, and that is no success. */
static void a_shadow_of_nothing_is_refused(void **state)
{
    struct log log;
    struct request request = {.shadow = "even", .fit = {.delta = 0.05}};
    char message[LOG_MESSAGE_BYTES] = "";
    (void)state;
    CHECK(log_of(HEAD "\tprofile\tversion\nq\tp\trebase\t1\t9\tx\t1\teven\tchanged\n", &log,
                 message) == 0,
          "%s", message);
    assert_int_equal(report_shadow(&log, &request, message), -EINVAL);
    assert_string_equal(message,
                        "--shadow even: accepted a log with programs to judge: of 1, 0 are "
                        "of batches, 0 have trees that it would not have grown, and of 1 "
                        "the trees grew while their profile was changed");
    log_free(&log);
}

static void request_make(struct request *request, enum policy_kind kind, uint32_t detect)
{
    struct profile profile;
    profile_default(&profile);
    *request = (struct request){.family = {.base = profile.policy,
                                           .detects = {detect, 5},
                                           .detects_count = 1,
                                           .use_certainty = true},
                                .fit = {.test = FIT_EMPIRICAL, .margin = 1},
                                .allowed_points = {3},
                                .allowed_count = 1,
                                .learn_share = 0.5,
                                .splits_count = 1,
                                .seed = 1,
                                .policy_given = true,
                                .name = "mine"};
    request->family.base.kind = kind;
}

static void requests_without_a_choice_are_refused(void **state)
{
    static const struct {
        enum policy_kind kind;
        uint32_t detect, detects_count;
        const char *message;
    } cases[] = {
        {POLICY_DEEPCONF, 5, 1,
         "--policy deepconf: has nothing to choose: accepted static, k_step, "},
        {POLICY_M_OF_N, 5, 1, "--policy m_of_n: has nothing to choose: accepted static, k_step, "},
        {POLICY_K_STEP, STEPS, 1,
         "--detect 12: accepted less than 12, the steps of the longest program"},
        {POLICY_STATIC, STEPS + 1, 2, "--detect 13: accepted less than 12, the steps of "},
        {POLICY_CURVE_EACH_STEP, 3, 2,
         "--detect: accepted one first reading of policy curve_each_step"},
    };
    struct log log;
    (void)state;
    skills = rng;
    log_take(&log, write_skills);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char message[LOG_MESSAGE_BYTES] = "";
        struct request request;
        request_make(&request, cases[i].kind, cases[i].detect);
        request.family.detects_count = cases[i].detects_count;
        CHECK(report_calibration(&log, &request, message) == -EINVAL &&
                  strncmp(message, cases[i].message, strlen(cases[i].message)) == 0,
              "case %zu: %s", i, message);
    }
    log_free(&log);
}

/* The loss seen would be less, by the luck of the one that was chosen. */
static void a_profile_says_the_loss_that_is_to_be_expected(void **state)
{
    char path[] = "/tmp/calibrate.XXXXXX", message[LOG_MESSAGE_BYTES] = "";
    struct fitted f;
    struct request request;
    struct fit_estimate estimate;
    struct profile profile;
    (void)state;
    skills.state = 1;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)close(fd); /* opened again by name */
    request_make(&request, POLICY_STATIC, 5);
    request.allowed_points[0] = 1.3; /* so that not every fold chooses the same */
    request.output = path;
    fitted_make(&f, POLICY_STATIC, false, write_skills);
    CHECK(report_calibration(&f.log, &request, message) == 0, "%s", message);
    CHECK(profile_load(path, &profile, message) == 0, "%s", message);
    (void)unlink(path);
    request.fit.allowed_points = request.allowed_points[0];
    request.fit.seed = 1;
    uint32_t chosen = fit_choose(&f.evaluation, &f.family, &request.fit, &family_parts, &estimate);
    struct score seen = score_of(&f.evaluation, chosen, family_all);
    assert_true(chosen > 0 && fabs(estimate.lost_points - seen.lost_points) > 1e-6);
    CHECK(fabs(profile.risk.lost_points - estimate.lost_points) < 1e-9, "%g, expected %g, seen %g",
          profile.risk.lost_points, estimate.lost_points, seen.lost_points);
    fitted_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(binomial_tails_are_sums_of_terms),
        cmocka_unit_test(a_true_hypothesis_is_rarely_rejected),
        cmocka_unit_test(a_false_hypothesis_is_often_rejected),
        cmocka_unit_test(a_promise_is_kept),
        cmocka_unit_test(replay_matches_a_direct_one),
        cmocka_unit_test(length_takes_the_better_direction),
        cmocka_unit_test(what_static_can_be_is_in_every_family),
        cmocka_unit_test(curves_are_curves),
        cmocka_unit_test(what_is_learned_only_adds_to_static),
        cmocka_unit_test(low_rewards_have_thresholds),
        cmocka_unit_test(curves_have_edges_where_programs_differ),
        cmocka_unit_test(the_first_candidate_never_stops),
        cmocka_unit_test(more_answers_than_a_table_has_are_refused),
        cmocka_unit_test(a_guided_chain_costs_no_more_at_a_probe_on_its_cap),
        cmocka_unit_test(a_version_is_what_the_daemon_writes),
        cmocka_unit_test(a_shadow_of_nothing_is_refused),
        cmocka_unit_test(requests_without_a_choice_are_refused),
        cmocka_unit_test(a_profile_says_the_loss_that_is_to_be_expected),
    };
    rng.state = check_number("SEED", 1);
    printf("SEED=%" PRIu64 "\n", rng.state);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
