/* tests/unit/test_ridge.c: the linear probe of the benchmarks against what is known: exact weights where data is
 * linear, the normal equations where it is not, a penalty that shrinks, columns that say nothing. */
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "tests/bench/batch/ridge.h"
#include "tests/lib/check.h"

enum { ROWS = 200, COLUMNS = 7, FEW_ROWS = 25, DRAWS = 30 };

static float x[ROWS * COLUMNS];
static double y[ROWS];

static double uniform(struct rng *rng)
{
    return (double)rng_below(rng, 2000001) / 1e6 - 1;
}

/* Columns of unlike scales and places; the last one does not vary. noise: of y. */
static void data_make(uint64_t seed, double noise)
{
    struct rng rng = {.state = seed};
    for (uint32_t i = 0; i < ROWS; i++) {
        y[i] = 3 + noise * uniform(&rng);
        for (uint32_t c = 0; c < COLUMNS; c++) {
            double v = c + 1 == COLUMNS ? 5 : (c + 1) * uniform(&rng) + 10 * c;
            x[i * COLUMNS + c] = (float)v;
            y[i] += c + 1 == COLUMNS ? 0 : (c % 2 ? -0.5 : 1.5) * (double)x[i * COLUMNS + c];
        }
    }
}

static void ridge_finds_what_is_linear(void **state)
{
    struct ridge r;
    uint64_t seed = check_number("SEED", now_ns());
    (void)state;
    printf("SEED=%" PRIu64 "\n", seed);
    data_make(seed, 0);
    ridge_fit(x, y, ROWS, COLUMNS, 1e-12, &r);
    for (uint32_t c = 0; c < COLUMNS; c++)
        CHECK(fabs(r.weight[c] - (c + 1 == COLUMNS ? 0
                                  : c % 2          ? -0.5
                                                   : 1.5)) < 1e-6,
              "weight %u is %g", c, r.weight[c]);
    CHECK(fabs(r.intercept - 3) < 1e-4, "intercept %g", r.intercept);
    for (uint32_t i = 0; i < ROWS; i++)
        assert_true(fabs(ridge_value(&r, &x[i * COLUMNS]) - y[i]) < 1e-5);
    ridge_free(&r);
}

/* At the least of the sum of squares and the penalty its derivatives are 0. */
static void ridge_is_the_minimum_of_errors_and_penalty(void **state)
{
    const double penalty = 0.3;
    struct ridge r;
    double sum = 0;
    (void)state;
    data_make(11, 4);
    ridge_fit(x, y, ROWS, COLUMNS, penalty, &r);
    for (uint32_t i = 0; i < ROWS; i++)
        sum += y[i] - ridge_value(&r, &x[i * COLUMNS]);
    CHECK(fabs(sum) < 1e-7, "errors sum to %g", sum);
    for (uint32_t c = 0; c + 1 < COLUMNS; c++) {
        double mean = 0, variance = 0, slope = 0;
        for (uint32_t i = 0; i < ROWS; i++)
            mean += (double)x[i * COLUMNS + c] / ROWS;
        for (uint32_t i = 0; i < ROWS; i++) {
            double d = (double)x[i * COLUMNS + c] - mean;
            variance += d * d / ROWS;
            slope += d * (y[i] - ridge_value(&r, &x[i * COLUMNS]));
        }
        CHECK(fabs(slope - penalty * ROWS * variance * r.weight[c]) < 1e-5, "column %u: %g", c,
              slope - penalty * ROWS * variance * r.weight[c]);
    }
    ridge_free(&r);
}

static void ridge_chooses_by_what_was_left_out(void **state)
{
    struct ridge few, none;
    struct rng rng = {.state = 5};
    double mean = 0;
    (void)state;
    data_make(12, 1);
    ridge_choose(x, y, ROWS, COLUMNS, &few);
    CHECK(few.correlation > 0.95 && few.penalty <= 0.03, "%g at penalty %g", few.correlation,
          few.penalty);
    for (uint32_t draw = 0; draw < DRAWS;
         draw++) { /* few rows: a fit that has seen them finds much */
        for (uint32_t i = 0; i < FEW_ROWS; i++)
            y[i] = uniform(&rng);
        ridge_choose(x, y, FEW_ROWS, COLUMNS, &none);
        mean += none.correlation / DRAWS;
        ridge_free(&none);
    }
    CHECK(mean < 0.25, "%g of noise", mean);
    ridge_free(&few);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ridge_finds_what_is_linear),
        cmocka_unit_test(ridge_is_the_minimum_of_errors_and_penalty),
        cmocka_unit_test(ridge_chooses_by_what_was_left_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
