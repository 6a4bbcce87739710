/* tests/unit/test_tree_rules.c: how REBASE splits a width and PUCT ranks, against the published formulas written
 * apart in float64; what an action's prior is, by hand. */
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "daemon/program/algorithms.h"
#include "tests/lib/check.h"

/* As the published code has it, without any care for overflow. */
static void tree_rebase_split_is_the_published_one(void **state)
{
    (void)state;
    struct rng rng = {.state = check_number("SEED", now_ns())};
    (void)printf("SEED=%" PRIu64 "\n", rng.state);
    for (uint32_t trial = 0; trial < 20000; trial++) {
        double scores[64];
        uint32_t counts[64], count = 1 + (uint32_t)rng_below(&rng, 64), sum = 0;
        uint32_t width = (uint32_t)rng_below(&rng, 200), left = width;
        double spread = 0.05 + (double)rng_below(&rng, 1000) / 500;
        for (uint32_t i = 0; i < count; i++)
            scores[i] = (double)rng_below(&rng, 1 + rng_below(&rng, 1000)) / 1000;
        for (uint32_t i = 1; i < count; i++) /* descending */
            for (uint32_t k = i; k > 0 && scores[k] > scores[k - 1]; k--) {
                double swap = scores[k];
                scores[k] = scores[k - 1];
                scores[k - 1] = swap;
            }
        rebase_split(scores, count, width, spread, counts);
        for (uint32_t i = 0; i < count; i++) {
            double all = 0;
            for (uint32_t k = i; k < count; k++)
                all += exp(scores[k] / spread);
            double share = left * exp(scores[i] / spread) / all;
            /* Where the ceiling hangs on the last bit both are right. */
            if (fabs(share - round(share)) > 1e-9)
                CHECK(counts[i] == (uint32_t)ceil(share), "child %u: %u, not %g", i, counts[i],
                      ceil(share));
            assert_true(counts[i] <= left);
            left -= counts[i];
            sum += counts[i];
        }
        assert_int_equal(sum, width); /* nobody's share is lost */
    }
    double far[3] = {5000, 0, -5000};
    uint32_t counts[3];
    rebase_split(far, 3, 7, 0.01, counts);
    assert_int_equal(counts[0], 7);
}

static double puct(double value, double prior, uint32_t visits, uint32_t above, double base,
                   double init)
{
    return mcts_priority(value, prior, visits, mcts_exploration(above, base, init));
}

static void tree_puct_is_the_published_one(void **state)
{
    (void)state;
    /* tree.py: log((N + pb_c_base + 1) / pb_c_base) + pb_c_init, times sqrt(N) / (1 + n), times P, plus Q;
     * by hand with a calculator of more digits. */
    assert_true(fabs(puct(0.25, 0.5, 3, 16, 19652, 1.25) - 0.8754323) < 1e-6);
    assert_true(fabs(puct(0, 1, 0, 1, 19652, 10) - 10.0001017) < 1e-6);
    assert_true(fabs(puct(0.7, 0.3, 9, 0, 19652, 10) - 0.7) < 1e-12);
    struct rng rng = {.state = 3};
    for (uint32_t i = 0; i < 10000; i++) {
        double q = (double)rng_below(&rng, 1000) / 1000, p = (double)rng_below(&rng, 1000) / 1000;
        uint32_t n = (uint32_t)rng_below(&rng, 50), above = n + (uint32_t)rng_below(&rng, 500);
        double init = (double)rng_below(&rng, 20), base = 1 + (double)rng_below(&rng, 30000);
        double c = init + log1p((above + 1.0) / base);
        double want = q + p * c * sqrt((double)above) / (n + 1.0);
        assert_true(fabs(puct(q, p, n, above, base, init) - want) < 1e-9 * (1 + want));
    }
}

/* Three steps of log-probabilities that are logarithms of plain numbers: 1/4 over two tokens, 1/64 over three, 1/2
 * over one. */
static void tree_priors_are_those_by_hand(void **state)
{
    (void)state;
    static const uint32_t tokens[] = {2, 3, 1};
    static const double likely[] = {0.25, 1.0 / 64, 0.5};
    static const double want[][3] = {
        [MCTS_PRIOR_MEAN] = {0.4, 0.2, 0.4}, /* 1/2, 1/4, 1/2 of 5/4 */
        [MCTS_PRIOR_SUM] = {16.0 / 49, 1.0 / 49, 32.0 / 49},
        [MCTS_PRIOR_UNIFORM] = {1.0 / 3, 1.0 / 3, 1.0 / 3},
    };
    for (uint32_t rule = 0; rule < COUNT_OF(want); rule++) {
        double all = 0;
        for (uint32_t i = 0; i < 3; i++)
            all += mcts_prior(rule, log(likely[i]), tokens[i], log(0.5));
        for (uint32_t i = 0; i < 3; i++) {
            double prior = mcts_prior(rule, log(likely[i]), tokens[i], log(0.5)) / all;
            CHECK(fabs(prior - want[rule][i]) < 1e-12, "rule %u, step %u: %g", rule, i, prior);
        }
    }
    /* A step so long that its chance is no double: its siblings' are told apart. */
    assert_true(fabs(mcts_prior(MCTS_PRIOR_SUM, -5000, 900, -4999) - exp(-1)) < 1e-12);
    assert_true(fabs(mcts_prior(MCTS_PRIOR_MEAN, 0, 0, 0) - 1) < 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tree_rebase_split_is_the_published_one),
        cmocka_unit_test(tree_puct_is_the_published_one),
        cmocka_unit_test(tree_priors_are_those_by_hand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
