/* Statistics and logs of dynasor-bench batch: intervals and correlations against values worked out by
 * hand or counted directly, and that a log is read as it was written. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/bench/batch/batch.h"
#include "tests/bench/batch/stats.h"

/* Last: it has a macro of the name of a function above. */
#include <cmocka.h>

static void batch_percentiles(void **state)
{
    (void)state;
    double values[] = {5, 1, 4, 2, 3};
    assert_true(fabs(quantile(values, 5, 0) - 1) < 1e-12);
    assert_true(fabs(quantile(values, 5, 0.5) - 3) < 1e-12);
    assert_true(fabs(quantile(values, 5, 0.9) - 4.6) < 1e-12);
    assert_true(fabs(quantile(values, 5, 1) - 5) < 1e-12);
    assert_true(quantile(values, 0, 0.5) <= 0);
}

static void batch_correlations(void **state)
{
    (void)state;
    const double x[] = {1, 2, 3, 4}, y[] = {2, 4, 6, 8}, down[] = {4, 3, 2, 1},
                 flat[] = {1, 1, 1, 1};
    const double some[] = {1, 3, 2, 4}, tied[] = {1, 1, 2, 2};
    assert_true(fabs(pearson(x, y, 4) - 1) < 1e-12);
    assert_true(fabs(pearson(x, down, 4) + 1) < 1e-12);
    assert_true(fabs(pearson(x, flat, 4)) < 1e-12);
    assert_true(fabs(pearson(x, some, 4) - 0.8) < 1e-12);
    assert_true(fabs(kendall(x, some, 4) - 4.0 / 6) < 1e-12);      /* one of six pairs is turned */
    assert_true(fabs(kendall(x, tied, 4) - 4 / sqrt(24)) < 1e-12); /* two are ties */
}

/* Problems that all behave alike leave no doubt; the point estimates are those of the sums. */
static void batch_bootstrap_alike(void **state)
{
    (void)state;
    struct pair pairs[50];
    struct interval gained, saved;
    for (int i = 0; i < 50; i++)
        pairs[i] = (struct pair){
            .programs = 10, .a_right = 8, .b_right = 7, .a_tokens = 1000, .b_tokens = 600};
    bootstrap_pairs(pairs, 50, 1, &gained, &saved);
    assert_true(fabs(gained.value + 10) < 1e-9 && fabs(gained.low + 10) < 1e-9 &&
                fabs(gained.high + 10) < 1e-9);
    assert_true(fabs(saved.value - 40) < 1e-9 && fabs(saved.high - saved.low) < 1e-9);
}

/* Independent problems: the interval is that of a normal mean, 1.96 standard errors on each side. Programs of
 * one problem are drawn together: ten that are alike say no more than one. */
static void batch_bootstrap_width(void **state)
{
    (void)state;
    enum { COUNT = 400 };
    struct pair *pairs = calloc(COUNT, sizeof *pairs);
    struct interval gained, saved, again;
    assert_non_null(pairs);
    for (int i = 0; i < COUNT; i++)
        pairs[i] = (struct pair){
            .programs = 10, .a_right = 0, .b_right = i % 2 ? 10 : 0, .a_tokens = 1, .b_tokens = 1};
    bootstrap_pairs(pairs, COUNT, 7, &gained, &saved);
    double expected = 1.96 * 100 * 0.5 / sqrt(COUNT);
    assert_true(fabs(gained.value - 50) < 1e-9);
    assert_true(fabs(gained.high - gained.value - expected) < 0.15 * expected);
    assert_true(fabs(gained.value - gained.low - expected) < 0.15 * expected);
    bootstrap_pairs(pairs, COUNT, 7, &again, &saved);
    assert_memory_equal(&gained, &again, sizeof gained);
    free(pairs);
}

static void batch_log_reads_what_it_wrote(void **state)
{
    (void)state;
    char path[] = "/tmp/test_batch.XXXXXX";
    int fd = mkstemp(path);
    struct step steps[] = {
        {.tokens = 35, .group = 0, .right = true, .winner = 0, .log_probability = -0.125f},
        {.tokens = 80,
         .group = CERTAINDEX_EMPTY,
         .winner = 0,
         .probe_tokens = 12,
         .hesitant = true},
        {
            .tokens = 80,
            .group = 12,
            .winner = 2,
            .has_reward = true,
            .reward = 0.75f,
        },
    };
    struct item items_in[2] = {
        {.problem = 3,
         .seed = 1,
         .level = 5,
         .verdict = RUN_SETTLED,
         .knob = 3,
         .right = true,
         .cost = {.decoded_tokens = 80, .probe_tokens = 12, .reward_tokens = 9, .lost_tokens = 7},
         .latency_steps = 44,
         .latency_s = 0.125,
         .hash = 0xfedcba9876543210u,
         .steps_count = 3,
         .steps = steps},
        {.problem = 4, .verdict = RUN_CAPPED}};
    struct items in = {.all = items_in, .count = 2}, out;
    profile_default(&in.experiment.profile);
    in.experiment.task = TASK_GAME24;
    in.experiment.algorithm = DYNASOR_ALGORITHM_SC;
    in.experiment.max_tokens = 112;
    in.experiment.temperature = 0.75f;
    (void)snprintf(in.experiment.set, sizeof in.experiment.set, "test");
    experiment_set(&in.experiment, "cap", "17");
    assert_true(fd >= 0);
    close(fd);
    log_items_write(path, &in);
    assert_true(log_items_read(path, &out));
    unlink(path);
    assert_int_equal(out.count, 2);
    assert_int_equal(out.problems_count, 2);
    assert_int_equal(out.experiment.task, TASK_GAME24);
    assert_int_equal(out.experiment.algorithm, DYNASOR_ALGORITHM_SC);
    assert_int_equal(out.experiment.cap, 17);
    assert_int_equal(out.experiment.max_tokens, 112);
    const struct item *got = &out.all[0];
    assert_true(got->hash == items_in[0].hash && got->right && got->knob == 3 && got->level == 5);
    assert_int_equal(item_tokens(got), 101);
    assert_int_equal(got->cost.lost_tokens, 7);
    assert_int_equal(got->steps_count, 3);
    for (int i = 0; i < 3; i++)
        assert_memory_equal(&got->steps[i], &steps[i], offsetof(struct step, right));
    assert_true(got->steps[0].right && !got->steps[2].right && got->steps[1].hesitant);
    assert_true(fabsf(got->steps[0].log_probability + 0.125f) < 1e-6f);
    assert_true(got->steps[2].has_reward && fabsf(got->steps[2].reward - 0.75f) < 1e-6f);
    assert_int_equal(out.all[1].steps_count, 0);
    items_free(&out);
    assert_false(log_items_read("/nonexistent/log.tsv", &out));
}

/* A parameter of an algorithm that has some. */
static void batch_log_keeps_parameters(void **state)
{
    (void)state;
    char path[] = "/tmp/test_batch.XXXXXX";
    int fd = mkstemp(path);
    struct item one = {.problem = 4, .verdict = RUN_CAPPED};
    struct items in = {.all = &one, .count = 1}, out;
    assert_true(fd >= 0);
    close(fd);
    profile_default(&in.experiment.profile);
    (void)snprintf(in.experiment.set, sizeof in.experiment.set, "test");
    in.experiment.algorithm = DYNASOR_ALGORITHM_REBASE;
    experiment_set(&in.experiment, "spread", "0.5");
    log_items_write(path, &in);
    assert_true(log_items_read(path, &out));
    unlink(path);
    assert_int_equal(out.experiment.algorithm, DYNASOR_ALGORITHM_REBASE);
    assert_int_equal(out.experiment.settings_count, 1);
    assert_int_equal(out.experiment.settings[0].parameter, DYNASOR_PARAMETER_SPREAD);
    assert_true(fabs(out.experiment.settings[0].value - 0.5) < 1e-9);
    items_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batch_percentiles),
        cmocka_unit_test(batch_correlations),
        cmocka_unit_test(batch_bootstrap_alike),
        cmocka_unit_test(batch_bootstrap_width),
        cmocka_unit_test(batch_log_reads_what_it_wrote),
        cmocka_unit_test(batch_log_keeps_parameters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
