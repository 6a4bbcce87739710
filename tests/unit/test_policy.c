/* tests/unit/test_policy.c: what each allocation policy decides. Each is driven to its end on small
 * written cases; the stopping criteria of Adaptive-Consistency are compared with direct integration;
 * the set of m_of_n is compared with what running the branches would give, whatever the order of
 * events; and on random programs no policy goes past its cap, stands still or depends on anything
 * but the view. */
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/program/budget.h"
#include "daemon/program/policy.h"
#include "daemon/program/profile.h"
#include "tests/lib/check.h"

#define ANSWERS_MAX 64u

static struct rng rng;

static struct policy_options options_of(enum policy_kind kind)
{
    struct profile profile;
    profile_default(&profile);
    profile.policy.kind = kind;
    return profile.policy;
}

static void use_certainty(struct policy_options *options, uint32_t knob, double above)
{
    struct policy_limits_row *row = &options->limits[options->limits_count++];
    *row = (struct policy_limits_row){.knob = knob, .limits = {.used = 1}};
    row->limits.above[CERTAINDEX_CERTAINTY] = above;
}

/* A program whose answers are letters; it is given knob until it stops. */
struct driven {
    uint32_t knob;
    enum policy_verdict verdict;
    uint32_t decisions;
    char grants[128]; /* "5 10 20": where it was allowed to go */
};

static uint32_t view_of(const char *text, uint32_t steps, uint32_t answers[ANSWERS_MAX],
                        uint32_t counts[ANSWERS_MAX], struct policy_view *view)
{
    uint32_t groups = 0;
    for (uint32_t i = 0; i < steps; i++) {
        answers[i] = text[i] == '-' ? CERTAINDEX_EMPTY : (uint32_t)(text[i] - 'a');
        groups = text[i] != '-' && answers[i] >= groups ? answers[i] + 1 : groups;
    }
    view->groups_count = certaindex_count(answers, steps, groups, true, counts);
    view->answers = answers;
    view->counts = counts;
    view->answers_count = steps;
    view->knob_done = steps;
    return groups;
}

static struct driven drive(const struct policy_options *options, const char *text)
{
    uint32_t answers[ANSWERS_MAX], counts[2 * ANSWERS_MAX];
    struct driven driven = {.knob = 0};
    struct policy_view view = {.knob_cap = (uint32_t)strlen(text)};
    for (;;) {
        (void)view_of(text, driven.knob, answers, counts, &view);
        view.tokens_count = 100 * driven.knob;
        struct policy_decision decision = policy_decide(options, &view);
        driven.verdict = decision.verdict;
        if (decision.verdict != POLICY_CONTINUE)
            return driven;
        assert_true(decision.knob > driven.knob && decision.knob <= view.knob_cap);
        size_t used = strlen(driven.grants);
        (void)snprintf(driven.grants + used, sizeof driven.grants - used, "%s%u",
                       used > 0 ? " " : "", decision.knob);
        driven.knob = decision.knob;
        driven.decisions++;
    }
}

static void expect_grants(const struct policy_options *options, const char *text,
                          const char *grants, enum policy_verdict verdict)
{
    struct driven driven = drive(options, text);
    CHECK(strcmp(driven.grants, grants) == 0 && driven.verdict == verdict,
          "%s on %s: went to %s (verdict %d), expected %s (%d)", policy_kind_name(options->kind),
          text, driven.grants, (int)driven.verdict, grants, (int)verdict);
}

/* ---- single policies ---------------------------------------------------------------------------- */

static void even_goes_to_the_cap(void **state)
{
    (void)state;
    struct policy_options o = options_of(POLICY_EVEN);
    expect_grants(&o, "aaaaaaaaaa", "10", POLICY_STOP);
}

static void static_reads_once_at_its_detect_point(void **state)
{
    (void)state;
    struct policy_options o = options_of(POLICY_STATIC);
    use_certainty(&o, 5, 0.7);
    expect_grants(&o, "aaaaabbbbb", "5", POLICY_STOP);
    expect_grants(&o, "aaaabaaaaa", "5 10", POLICY_STOP); /* 4-1 is 0.689 */
    expect_grants(&o, "aaaa-aaaaa", "5 10", POLICY_STOP); /* what cannot be read agrees with none */
    expect_grants(&o, "aaa", "3", POLICY_STOP);           /* a cap below the detect point */
    o.limits[0].limits.above[CERTAINDEX_CERTAINTY] = 0.4;
    expect_grants(&o, "aaaabaaaaa", "5", POLICY_STOP);
    /* A profile that changed under a running program: past the point it is read no more. */
    uint32_t answers[ANSWERS_MAX], counts[2 * ANSWERS_MAX];
    struct policy_view view = {.knob_cap = 10};
    (void)view_of("aaaaaaaaaa", 6, answers, counts, &view);
    struct policy_decision decision = policy_decide(&o, &view);
    assert_int_equal(decision.verdict, POLICY_CONTINUE);
    assert_int_equal(decision.knob, 10);
}

static void k_step_reads_every_k_with_a_threshold_for_each(void **state)
{
    (void)state;
    struct policy_options o = options_of(POLICY_K_STEP);
    o.step = 5;
    use_certainty(&o, 5, 0.7);
    use_certainty(&o, 10, 0.75); /* 6-4 scores 0.708 at 10: one threshold for all would stop */
    expect_grants(&o, "abababaaabcccccddddd", "5 10 15 20", POLICY_STOP);
    expect_grants(&o, "aaabaaaaaaaaaaaaaaaa", "5 10", POLICY_STOP); /* 9-1: 0.859 */
    o.limits_count = 1;
    expect_grants(&o, "abababaaabcccccddddd", "5 10", POLICY_STOP);
    o.step = 1;
    o.limits_count = 2;
    expect_grants(&o, "abbbbbbbbbbbbbbbbbbb", "5 6", POLICY_STOP); /* 5-1: 0.749 */
}

static void length_stops_short_or_long_programs(void **state)
{
    (void)state;
    struct policy_options o = options_of(POLICY_LENGTH);
    o.length_tokens = 500; /* the driver writes 100 tokens a step */
    expect_grants(&o, "abcdefghij", "5", POLICY_STOP);
    o.length_tokens = 499;
    expect_grants(&o, "abcdefghij", "5 10", POLICY_STOP);
    o.length_rule = POLICY_LENGTH_LONGER;
    expect_grants(&o, "abcdefghij", "5", POLICY_STOP);
    o.length_tokens = 501;
    expect_grants(&o, "abcdefghij", "5 10", POLICY_STOP);
}

static void set_curve(struct policy_options *o, uint32_t knob, uint32_t low, uint32_t high,
                      uint32_t unanimous)
{
    struct policy_curve_row *row = &o->curve[o->curve_count++];
    row->knob = knob;
    for (uint32_t b = 0; b <= o->curve_edges.count; b++)
        row->total[b] = b == o->curve_edges.count ? unanimous : b < 5 ? low : high;
}

static void curves_give_a_total_by_certaindex(void **state)
{
    (void)state;
    struct policy_options o = options_of(POLICY_CURVE_ONCE);
    set_curve(&o, 5, 20, 8, 5);
    expect_grants(&o, "aaaaaaaaaaaa", "5", POLICY_STOP);
    expect_grants(&o, "aaabbaaaaaaa", "5 8", POLICY_STOP);  /* 0.582 */
    expect_grants(&o, "aaabcaaaaaaa", "5 12", POLICY_STOP); /* 0.410: more than the cap */
    o.kind = POLICY_CURVE_EACH_STEP;
    o.step = 2;
    expect_grants(&o, "aaabcaaaaaaaaaaa", "5 7 8", POLICY_STOP);
    set_curve(&o, 7, 20, 20, 7); /* a row of its own from 7 on */
    expect_grants(&o, "aaabcaaaaaaaaaaa", "5 7 9 11 13 15 16", POLICY_STOP);
}

static void bins_are_tenths_unless_a_profile_says_others(void **state)
{
    (void)state;
    struct policy_options o = options_of(POLICY_CURVE_ONCE);
    for (uint32_t p = 0; p <= 1000; p++)
        for (int side = -1; side <= 1; side++) { /* a sum of rounded logarithms */
            double signal = p / 1000.0 + side * 1e-12;
            assert_int_equal(policy_bin(&policy_tenths, signal), p / 100);
            assert_int_equal(policy_bin(&o.curve_edges, signal), p / 100);
            assert_int_equal(policy_bin(&o.chance_edges, signal), p / 100);
        }
    assert_int_equal(policy_bin(&policy_tenths, 0.3 - 1e-8), 2);
    assert_int_equal(policy_bin(&policy_tenths, -0.1), 0);
    assert_int_equal(policy_bin(&policy_tenths, 1.5), 10);
    assert_int_equal(policy_bin(&policy_tenths, (double)NAN), 0);
}

static void a_curve_may_have_edges_of_its_own(void **state)
{
    (void)state;
    struct policy_options o = options_of(POLICY_CURVE_ONCE);
    float rewards[] = {0.01f, 0.02f, 0.03f};
    struct policy_view view = {
        .knob_done = 3, .knob_cap = 20, .rewards = rewards, .rewards_count = 3};
    static const struct {
        float reward;
        uint32_t knob;
    } cases[] = {{0, 20},   {0.0099f, 20}, {0.0101f, 9}, {0.0449f, 9}, {0.0451f, 5},
                 {0.5f, 5}, {0.99f, 5},    {1, 3},       {NAN, 20}}; /* no number: unknown */
    o.detect = 3;
    o.curve_signal = CERTAINDEX_REWARD;
    o.curve_edges = (struct policy_edges){3, {0.01, 0.045, 1}};
    o.curve_count = 1;
    o.curve[0] = (struct policy_curve_row){.knob = 3, .total = {20, 9, 5, 3}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        rewards[0] = rewards[1] = rewards[2] = cases[i].reward;
        struct policy_decision decision = policy_decide(&o, &view);
        CHECK(decision.knob == cases[i].knob &&
                  decision.verdict == (cases[i].knob > 3 ? POLICY_CONTINUE : POLICY_STOP),
              "reward %g: to %u", (double)cases[i].reward, decision.knob);
    }
    /* The edges of the chances are others. */
    o.give_up_below = 0.5;
    o.chance_count = 1;
    o.chance_edges = (struct policy_edges){1, {0.02}};
    o.chance[0] = (struct policy_chance_row){.knob = 3, .chance = {0.4, 0.6}};
    rewards[0] = rewards[1] = rewards[2] = 0.019f;
    assert_int_equal(policy_decide(&o, &view).verdict, POLICY_GIVEN_UP);
    rewards[0] = rewards[1] = rewards[2] = 0.021f;
    assert_int_equal(policy_decide(&o, &view).verdict, POLICY_CONTINUE);
    /* As many as there is room for. */
    o.curve_edges.count = POLICY_EDGES_MAX;
    for (uint32_t e = 0; e < POLICY_EDGES_MAX; e++)
        o.curve_edges.at[e] = (e + 1) / 100.0;
    for (uint32_t b = 0; b < POLICY_BINS_MAX; b++)
        o.curve[0].total[b] = 50 - b;
    view.knob_cap = 60;
    for (uint32_t b = 2; b < POLICY_BINS_MAX; b++) {
        rewards[0] = rewards[1] = rewards[2] = (float)b / 100 + 0.005f;
        assert_int_equal(policy_decide(&o, &view).knob, 50 - b);
    }
}

static void esc_stops_on_a_unanimous_window(void **state)
{
    (void)state;
    struct policy_options o = options_of(POLICY_ESC);
    expect_grants(&o, "aaaaabbbbb", "5", POLICY_STOP);
    expect_grants(&o, "aaaabbbbbbbbbbb", "5 10", POLICY_STOP);
    expect_grants(&o, "abbbbbabbbbbbbb", "5 10 15", POLICY_STOP); /* five in a row across windows */
    expect_grants(&o, "-----aaaaabbbbb", "5 10", POLICY_STOP);
    /* Asked in the middle of a window, under a policy that is new to the program. */
    uint32_t answers[ANSWERS_MAX], counts[2 * ANSWERS_MAX];
    struct policy_view view = {.knob_cap = 20};
    (void)view_of("abbbbb", 6, answers, counts, &view);
    assert_int_equal(policy_decide(&o, &view).knob, 10);
    o.esc_window = 4;
    expect_grants(&o, "abcabc", "4 6", POLICY_STOP);
}

/* The published criterion as an integral: Simpson's rule on Beta(first + 1, second + 1). */
static double beta_by_integral(uint32_t first, uint32_t second)
{
    const uint32_t points = 20000;
    long double below = 0, all = 0;
    for (uint32_t i = 0; i <= points; i++) {
        long double p = (long double)i / points;
        long double value = powl(p, first) * powl(1 - p, second);
        value *= i == 0 || i == points ? 1 : i % 2 == 1 ? 4 : 2;
        all += value;
        if (i <= points / 2)
            below += i == points / 2 ? value / 2 : value; /* its two halves meet there */
    }
    return (double)(1 - below / all);
}

/* Dirichlet by sampling: normalised exponentials' sums, seeded. */
static double dirichlet_by_samples(const uint32_t *counts, uint32_t groups)
{
    const uint32_t samples = 40000;
    uint32_t leads = 0;
    for (uint32_t s = 0; s < samples; s++) {
        double most = -1;
        uint32_t leader = 0;
        for (uint32_t g = 0; g < groups; g++) {
            double gamma = 0;
            for (uint32_t i = 0; i <= counts[g]; i++)
                gamma -= log(((double)rng_below(&rng, 1u << 30) + 1) / (1u << 30));
            leader = gamma > most ? g : leader;
            most = gamma > most ? gamma : most;
        }
        leads += leader == 0;
    }
    return (double)leads / samples;
}

static void adaptive_consistency_has_the_published_criterion(void **state)
{
    (void)state;
    struct policy_options o = options_of(POLICY_ADAPTIVE_CONSISTENCY);
    for (uint32_t first = 1; first < 30; first += 3) {
        for (uint32_t second = 0; second <= first; second += 2) {
            uint32_t counts[] = {second, first, second / 2};
            double got = policy_posterior(POLICY_POSTERIOR_BETA, counts, 3);
            double expected = beta_by_integral(first, second);
            CHECK(fabs(got - expected) < 1e-6, "%u against %u: %.9f, expected %.9f", first, second,
                  got, expected);
        }
    }
    /* Dirichlet: first in front of several. */
    static const uint32_t cases[][4] = {{3, 1, 1, 0}, {5, 4, 0, 0}, {2, 2, 2, 2}, {9, 3, 3, 3}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        uint32_t groups = cases[i][2] == 0 ? 2 : cases[i][3] == 0 ? 3 : 4;
        double got = policy_posterior(POLICY_POSTERIOR_DIRICHLET, cases[i], groups);
        double expected = dirichlet_by_samples(cases[i], groups);
        CHECK(fabs(got - expected) < 0.012, "case %zu: %.4f, expected about %.4f", i, got,
              expected);
    }
    /* With two groups, both criteria say the same. */
    assert_true(fabs(policy_posterior(POLICY_POSTERIOR_DIRICHLET, (uint32_t[]){7, 3}, 2) -
                     policy_posterior(POLICY_POSTERIOR_BETA, (uint32_t[]){7, 3}, 2)) < 1e-6);
    assert_true(policy_posterior(POLICY_POSTERIOR_BETA, NULL, 0) == 0);
    /* Above 0.95: four of four (31/32), and 9 of 11. */
    o.detect = 1;
    expect_grants(&o, "aaaaaaaaaa", "1 2 3 4", POLICY_STOP);
    expect_grants(&o, "abaaaaaaaa", "1 2 3 4 5 6 7", POLICY_STOP);
}

static void deepconf_sets_a_bar_and_stops_at_consensus(void **state)
{
    (void)state;
    struct policy_options o = options_of(POLICY_DEEPCONF);
    float confidences[] = {4, 1, 3, 2, 5, 10, 0.5f};
    uint32_t answers[] = {0, 1, 0, 0, 1, 0, 2}, counts[8];
    struct policy_view view = {.knob_done = 4,
                               .knob_cap = 20,
                               .answers_count = 4,
                               .answers = answers,
                               .groups_count = certaindex_count(answers, 4, 3, true, counts),
                               .counts = counts,
                               .confidences_count = 3,
                               .confidences = confidences};
    double bar = -1;
    o.warmup_count = 4;
    o.kept_share = 0.9;
    assert_false(policy_confidence_bar(&o, &view, &bar));
    view.confidences_count = 4;
    assert_true(policy_confidence_bar(&o, &view, &bar));
    assert_true(fabs(bar - 1.3) < 1e-6); /* the 10th percentile of 1 2 3 4 */
    o.kept_share = 0.1;
    assert_true(policy_confidence_bar(&o, &view, &bar));
    assert_true(fabs(bar - 3.7) < 1e-6);
    o.kept_share = 0.9;
    /* Below the bar is not heard: 4, 3 and 2 for the first answer, nobody else. */
    struct policy_decision decision = policy_decide(&o, &view);
    assert_int_equal(decision.verdict, POLICY_STOP);
    assert_true(fabs(decision.seen.value[CERTAINDEX_CONFIDENCE] - 1) < 1e-9);
    view.knob_done = view.answers_count = view.confidences_count = 7;
    view.groups_count = certaindex_count(answers, 7, 3, true, counts);
    decision = policy_decide(&o, &view); /* 19 of 24 */
    assert_int_equal(decision.verdict, POLICY_CONTINUE);
    assert_int_equal(decision.knob, 8);
    assert_true(fabs(decision.seen.value[CERTAINDEX_CONFIDENCE] - 19.0 / 24) < 1e-9);
    o.consensus = 0.75;
    assert_int_equal(policy_decide(&o, &view).verdict, POLICY_STOP);
    view.knob_done = 2;
    assert_int_equal(policy_decide(&o, &view).knob, 4); /* first the warm-up */
}

/* ---- the first M, in logical order -------------------------------------------------------------- */

/* Branches grow in a random order of events until the policy stops; what counts then must be the M
 * shortest by (length, index), however the events fell. */
static void m_of_n_does_not_depend_on_the_order_of_events(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 500; round++) {
        struct policy_options o = options_of(POLICY_M_OF_N);
        uint32_t n = 2 + (uint32_t)rng_below(&rng, 9);
        uint64_t length[16], tokens[16] = {0};
        bool finished[16] = {false};
        o.finished_count = 1 + (uint32_t)rng_below(&rng, n);
        for (uint32_t i = 0; i < n; i++)
            length[i] = 1 + rng_below(&rng, 12);
        struct policy_view view = {.knob_done = 1,
                                   .knob_cap = n + 1,
                                   .branches_count = n,
                                   .branch_tokens = tokens,
                                   .branch_finished = finished};
        while (policy_decide(&o, &view).verdict == POLICY_CONTINUE) {
            uint32_t i = (uint32_t)rng_below(&rng, n);
            if (!finished[i])
                finished[i] = ++tokens[i] == length[i];
        }
        for (uint32_t i = 0; i < n; i++) {
            uint32_t before = 0;
            for (uint32_t j = 0; j < n; j++)
                before += length[j] < length[i] || (length[j] == length[i] && j < i);
            CHECK(policy_branch_counts(&o, &view, i) == (before < o.finished_count),
                  "round %u: branch %u of length %" PRIu64 ", %u before it, M %u", round, i,
                  length[i], before, o.finished_count);
        }
    }
}

/* ---- chains ------------------------------------------------------------------------------------- */

static struct policy_decision probe_decision(const struct policy_options *o, const char *text,
                                             uint32_t interval)
{
    struct certaindex_probe probes[64];
    uint32_t count = 0;
    for (; text[count] != '\0'; count++)
        probes[count] = (struct certaindex_probe){
            .group = text[count] == '-' ? CERTAINDEX_EMPTY : (uint32_t)(text[count] | 0x20),
            .hesitant = text[count] >= 'A' && text[count] <= 'Z',
            .tokens = (uint64_t)interval * (count + 1)};
    struct policy_view view = {
        .knob_done = interval * count, .knob_cap = 100000, .probes_count = count, .probes = probes};
    return policy_decide(o, &view);
}

static void probes_stop_a_chain_when_they_agree(void **state)
{
    (void)state;
    struct policy_options o = options_of(POLICY_PROBE); /* 3 of 64 tokens */
    assert_int_equal(probe_decision(&o, "aa", 64).verdict, POLICY_CONTINUE);
    assert_int_equal(probe_decision(&o, "aa", 64).knob, 192);
    assert_int_equal(probe_decision(&o, "baaa", 64).verdict, POLICY_STOP);
    assert_int_equal(probe_decision(&o, "aaba", 64).verdict, POLICY_CONTINUE);
    assert_int_equal(probe_decision(&o, "aa-", 64).verdict, POLICY_CONTINUE);
    assert_int_equal(probe_decision(&o, "---", 64).verdict, POLICY_CONTINUE);
    assert_int_equal(probe_decision(&o, "aaA", 64).verdict, POLICY_CONTINUE);
    assert_int_equal(probe_decision(&o, "aAaa", 64).verdict, POLICY_CONTINUE);
    o.probe.rule = CERTAINDEX_HESITATION_LEFT_OUT;
    assert_int_equal(probe_decision(&o, "aAaa", 64).verdict, POLICY_STOP);
    o.probe.agreement = 0.6;
    assert_int_equal(probe_decision(&o, "aaba", 64).verdict, POLICY_STOP);
    o.probe.agreement = 1;
    o.probe.stable_share = 0.5; /* 128 of 384 tokens are not half, 192 of 384 are */
    assert_int_equal(probe_decision(&o, "bbbaaa", 64).verdict, POLICY_CONTINUE);
    assert_int_equal(probe_decision(&o, "bbaaaa", 64).verdict, POLICY_STOP);
}

static void probes_are_spaced_by_length(void **state)
{
    (void)state;
    struct policy_options o = options_of(POLICY_PROBE);
    o.probe.first_tokens = 500;
    o.probe.interval_tokens = 64;
    o.probe.growth = 0.1;
    assert_int_equal(policy_probe_next(&o, 0), 500);
    assert_int_equal(policy_probe_next(&o, 500), 564);
    assert_int_equal(policy_probe_next(&o, 640), 704);
    assert_int_equal(policy_probe_next(&o, 1000), 1100);
    assert_int_equal(policy_probe_next(&o, 1001), 1102);
    o.probe.growth = 0;
    assert_int_equal(policy_probe_next(&o, 100000), 100064);
}

/* ---- giving up, budget -------------------------------------------------------------------------- */

static void hopeless_programs_are_given_up(void **state)
{
    (void)state;
    struct policy_options o = options_of(POLICY_GIVE_UP);
    o.step = 5;
    o.give_up_below = 0.05;
    o.chance_count = 1;
    o.chance[0] = (struct policy_chance_row){.knob = 5, .chance = {0.04, 0.2, 0.3}};
    for (uint32_t b = 3; b <= o.chance_edges.count; b++)
        o.chance[0].chance[b] = 0.9;
    expect_grants(&o, "abcdeaaaaa", "5", POLICY_GIVEN_UP);
    expect_grants(&o, "aabcdaaaaa", "5 10", POLICY_STOP);
    o.kind = POLICY_STATIC; /* any policy gives up, but stops first where it is certain */
    use_certainty(&o, 5, -1);
    expect_grants(&o, "abcdeaaaaa", "5", POLICY_STOP);
    o.limits[0].limits.above[CERTAINDEX_CERTAINTY] = 0.7;
    expect_grants(&o, "abcdeaaaaa", "5", POLICY_GIVEN_UP);
    o.give_up_below = 0.04; /* equal is not below */
    expect_grants(&o, "abcdeaaaaa", "5 10", POLICY_STOP);
}

static void a_budget_gives_what_settled_programs_leave(void **state)
{
    (void)state;
    struct budget budget = {.total = 4 * 10};
    struct budget_member m[4] = {{.cost = 1, .knob_max = 100},
                                 {.cost = 1, .knob_max = 100},
                                 {.cost = 1, .knob_max = 100},
                                 {.cost = 1, .knob_max = 12}};
    assert_int_equal(budget_round(&budget, m, 4, 5), 20);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(m[i].knob_grant, 5);
        m[i].knob_done = 5;
    }
    budget.spent = 20;
    m[0].settled = m[1].settled = true;
    m[3].priority = 1;
    assert_int_equal(budget_round(&budget, m, 4, 8), 15);
    assert_int_equal(m[0].knob_grant, 5);
    assert_int_equal(m[2].knob_grant, 13); /* more than an even share of 10 */
    assert_int_equal(m[3].knob_grant, 12); /* its own end */
    m[2].knob_done = 13;
    m[3].knob_done = 12;
    budget.spent = 35;
    assert_int_equal(budget_round(&budget, m, 4, 8), 5);
    assert_int_equal(m[2].knob_grant, 18); /* the rest */
    budget.spent = 40;
    m[2].knob_done = 18;
    assert_int_equal(budget_round(&budget, m, 4, 8), 0);
}

static void a_budget_is_never_exceeded_and_priority_goes_first(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 2000; round++) {
        struct budget_member m[12];
        uint32_t count = 1 + (uint32_t)rng_below(&rng, 12), step = 1 + (uint32_t)rng_below(&rng, 6);
        struct budget budget = {.total = rng_below(&rng, 300), .spent = rng_below(&rng, 100)};
        uint64_t granted = 0;
        for (uint32_t i = 0; i < count; i++)
            m[i] = (struct budget_member){.cost = 1 + rng_below(&rng, 7),
                                          .knob_done = (uint32_t)rng_below(&rng, 10),
                                          .knob_max = (uint32_t)rng_below(&rng, 20),
                                          .settled = rng_below(&rng, 3) == 0,
                                          .priority = (double)rng_below(&rng, 3)};
        uint64_t said = budget_round(&budget, m, count, step);
        for (uint32_t i = 0; i < count; i++) {
            uint32_t more = m[i].knob_grant - m[i].knob_done;
            granted += more * m[i].cost;
            assert_true(m[i].knob_grant >= m[i].knob_done && more <= step);
            assert_true(!m[i].settled || more == 0);
            /* Somebody behind who got something: then this one got all it could use. */
            for (uint32_t j = 0; j < count; j++) {
                bool behind =
                    m[j].priority < m[i].priority || (m[j].priority == m[i].priority && j > i);
                bool full = m[i].settled || more == step || m[i].knob_grant >= m[i].knob_max;
                uint64_t left = budget.total > budget.spent ? budget.total - budget.spent : 0;
                assert_true(!behind || m[j].knob_grant == m[j].knob_done || full ||
                            m[j].cost < m[i].cost || left == 0);
            }
        }
        assert_int_equal(said, granted);
        assert_true(granted == 0 || budget.spent + granted <= budget.total);
    }
}

/* ---- every policy ------------------------------------------------------------------------------- */

static void every_policy_ends_by_its_cap_and_repeats_itself(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 4000; round++) {
        char text[ANSWERS_MAX];
        uint32_t length = 1 + (uint32_t)rng_below(&rng, ANSWERS_MAX - 1);
        uint32_t letters = 1 + (uint32_t)rng_below(&rng, 5);
        struct policy_options o = options_of((enum policy_kind)rng_below(&rng, POLICY_PROBE));
        for (uint32_t i = 0; i < length; i++)
            text[i] = rng_below(&rng, 9) == 0 ? '-' : (char)('a' + rng_below(&rng, letters));
        text[length] = '\0';
        o.detect = 1 + (uint32_t)rng_below(&rng, 10);
        o.step = 1 + (uint32_t)rng_below(&rng, 6);
        use_certainty(&o, o.detect, (double)rng_below(&rng, 100) / 100);
        set_curve(&o, o.detect, 30, 12, 3);
        struct driven once = drive(&o, text);
        struct driven again = drive(&o, text);
        assert_memory_equal(&once, &again, sizeof once);
        assert_true(once.knob >= 1 && once.knob <= length);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(even_goes_to_the_cap),
        cmocka_unit_test(static_reads_once_at_its_detect_point),
        cmocka_unit_test(k_step_reads_every_k_with_a_threshold_for_each),
        cmocka_unit_test(length_stops_short_or_long_programs),
        cmocka_unit_test(curves_give_a_total_by_certaindex),
        cmocka_unit_test(bins_are_tenths_unless_a_profile_says_others),
        cmocka_unit_test(a_curve_may_have_edges_of_its_own),
        cmocka_unit_test(esc_stops_on_a_unanimous_window),
        cmocka_unit_test(adaptive_consistency_has_the_published_criterion),
        cmocka_unit_test(deepconf_sets_a_bar_and_stops_at_consensus),
        cmocka_unit_test(m_of_n_does_not_depend_on_the_order_of_events),
        cmocka_unit_test(probes_stop_a_chain_when_they_agree),
        cmocka_unit_test(probes_are_spaced_by_length),
        cmocka_unit_test(hopeless_programs_are_given_up),
        cmocka_unit_test(a_budget_gives_what_settled_programs_leave),
        cmocka_unit_test(a_budget_is_never_exceeded_and_priority_goes_first),
        cmocka_unit_test(every_policy_ends_by_its_cap_and_repeats_itself),
    };
    rng.state = check_number("SEED", 1);
    printf("SEED=%" PRIu64 "\n", rng.state);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
