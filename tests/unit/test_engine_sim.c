/* tests/unit/test_engine_sim.c: the engine without a model. Its time is a sum that can be foretold,
 * and a token depends on engine seed, program seed, branch and position alone: random rows are posted
 * alone, in crowds, in other orders, with other numbers, and must give the same tokens. */
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <cmocka.h>

#include "daemon/engine/engine.h"
#include "tests/lib/check.h"

#define ROWS_MAX 32u
#define STEP_NS 1000u
#define PREFILL_NS 10u
#define ROWS_TRIED 2000u

static struct engine *engine_of(uint64_t seed)
{
    struct engine *e = NULL;
    struct engine_config config = {
        .step_ns = STEP_NS, .prefill_ns_per_token = PREFILL_NS, .seed = seed, .rows_max = ROWS_MAX};
    assert_int_equal(engine_open(&config, &e), 0);
    return e;
}

/* One step over these rows, whatever it costs. */
static void run(struct engine *e, struct engine_row *rows, uint32_t count)
{
    struct engine_row *done = NULL;
    assert_int_equal(engine_post(e, rows, count, 0), ENGINE_OK);
    assert_int_equal(engine_next(e, &done, engine_due_ns(e)), count);
    assert_ptr_equal(done, rows);
}

static uint32_t token_of(struct engine *e, uint64_t seed, uint32_t branch, uint32_t position)
{
    struct engine_row row = {.seed = seed, .branch = branch, .position = position};
    run(e, &row, 1);
    return row.token;
}

static void engine_without_a_step_has_nothing(void **state)
{
    struct engine *e = engine_of(0);
    struct engine_row *done = NULL;
    (void)state;
    assert_int_equal(engine_due_ns(e), UINT64_MAX);
    assert_int_equal(engine_next(e, &done, UINT64_MAX), 0);
    assert_null(done);
    engine_close(e);
    engine_close(NULL);
}

static void engine_step_costs_the_same_whatever_its_rows(void **state)
{
    struct engine *e = engine_of(0);
    (void)state;
    for (uint32_t count = 1; count <= ROWS_MAX; count++) {
        struct engine_row rows[ROWS_MAX] = {0};
        struct engine_row *done = NULL;
        assert_int_equal(engine_post(e, rows, count, 500), ENGINE_OK);
        assert_int_equal(engine_due_ns(e), 500 + STEP_NS);
        assert_int_equal(engine_next(e, &done, 500 + STEP_NS - 1), 0);
        assert_int_equal(engine_next(e, &done, 500 + STEP_NS), count);
        assert_int_equal(engine_due_ns(e), UINT64_MAX);
        assert_int_equal(engine_next(e, &done, UINT64_MAX), 0); /* handed out once */
    }
    engine_close(e);
}

static void engine_prefill_costs_each_token_of_each_row(void **state)
{
    struct engine *e = engine_of(0);
    struct engine_row rows[3] = {{.prefill_tokens = 7}, {0}, {.prefill_tokens = UINT32_MAX}};
    (void)state;
    assert_int_equal(engine_post(e, rows, 3, 40), ENGINE_OK);
    assert_int_equal(engine_due_ns(e), 40 + STEP_NS + 7 * PREFILL_NS + UINT64_C(10) * UINT32_MAX);
    engine_close(e); /* with a step in flight */
}

static void engine_has_one_step_in_flight(void **state)
{
    struct engine *e = engine_of(0);
    struct engine_row first = {.seq = 1}, second = {.seq = 2};
    struct engine_row *done = NULL;
    (void)state;
    assert_int_equal(engine_post(e, &first, 1, 0), ENGINE_OK);
    assert_int_equal(engine_post(e, &second, 1, 0), ENGINE_E_BUSY);
    assert_int_equal(engine_due_ns(e), STEP_NS); /* the refused one changed nothing */
    assert_int_equal(engine_next(e, &done, STEP_NS), 1);
    assert_int_equal(done->seq, 1);
    assert_int_equal(engine_post(e, &second, 1, STEP_NS), ENGINE_OK);
    engine_close(e);
}

static void engine_rows_come_back_as_posted_with_a_token(void **state)
{
    struct engine *e = engine_of(3);
    struct engine_row rows[ROWS_MAX], before[ROWS_MAX];
    struct rng rng = {.state = check_number("SEED", 1)};
    (void)state;
    rng_fill(&rng, rows, sizeof rows);
    memcpy(before, rows, sizeof rows);
    run(e, rows, ROWS_MAX);
    for (uint32_t i = 0; i < ROWS_MAX; i++) {
        assert_true(rows[i].token < engine_vocabulary_count(e));
        before[i].token = rows[i].token;
    }
    assert_memory_equal(rows, before, sizeof rows);
    engine_close(e);
}

static void engine_tokens_depend_on_seeds_branch_and_position_alone(void **state)
{
    struct rng rng = {.state = check_number("SEED", 1)};
    struct engine *crowd = engine_of(77), *alone = engine_of(77);
    (void)state;
    for (uint32_t tried = 0; tried < ROWS_TRIED;) {
        struct engine_row rows[ROWS_MAX];
        uint32_t count = 1 + (uint32_t)rng_below(&rng, ROWS_MAX);
        rng_fill(&rng, rows, sizeof rows); /* numbers, generations, prefill, old tokens: anything */
        run(crowd, rows, count);
        for (uint32_t i = count; i-- > 0; tried++) /* in another order */
            assert_int_equal(rows[i].token,
                             token_of(alone, rows[i].seed, rows[i].branch, rows[i].position));
    }
    engine_close(crowd);
    engine_close(alone);
}

static void stream(struct engine *e, uint64_t seed, uint32_t branch, uint32_t out[64])
{
    for (uint32_t i = 0; i < 64; i++)
        out[i] = token_of(e, seed, branch, i);
}

static void engine_each_input_changes_the_stream(void **state)
{
    struct engine *e = engine_of(0), *other = engine_of(UINT64_C(1) << 63);
    uint32_t base[64], changed[64];
    (void)state;
    stream(e, 9, 0, base);
    for (int bit = 0; bit < 64; bit++) {
        stream(e, 9 ^ (UINT64_C(1) << bit), 0, changed);
        assert_memory_not_equal(base, changed, sizeof base);
    }
    for (int bit = 0; bit < 32; bit++) {
        stream(e, 9, 1u << bit, changed);
        assert_memory_not_equal(base, changed, sizeof base);
    }
    stream(other, 9, 0, changed);
    assert_memory_not_equal(base, changed, sizeof base);
    for (uint32_t i = 1, same = 1; i < 64; i++) { /* nor is it one token for ever */
        same += base[i] == base[0];
        assert_true(same < 32);
    }
    engine_close(e);
    engine_close(other);
}

/* Pinned: a client that reconnects to a newer daemon resumes its stream in the middle. */
static void engine_tokens_of_a_seed_are_those_of_every_release(void **state)
{
    struct engine *e = engine_of(1);
    char text[25] = {0};
    (void)state;
    for (uint32_t i = 0; i < 24; i++)
        text[i] = (char)token_of(e, 42, 0, i);
    assert_string_equal(text, "onhzvhfyeob a bfxefn j  ");
    engine_close(e);
}

static int misuse(void *argument)
{
    struct rlimit no_core = {0};
    (void)setrlimit(RLIMIT_CORE, &no_core); /* a core file would only be litter */
    (void)signal(SIGABRT, SIG_DFL);
    struct engine_row rows[ROWS_MAX + 1] = {0};
    return engine_post(engine_of(0), rows, *(const uint32_t *)argument, 0);
}

static void engine_a_batch_of_no_or_too_many_rows_stops_the_process(void **state)
{
    uint32_t none = 0, all = ROWS_MAX, more = ROWS_MAX + 1;
    (void)state;
    assert_int_equal(child_wait(child_start(misuse, &none)), 128 + SIGABRT);
    assert_int_equal(child_wait(child_start(misuse, &more)), 128 + SIGABRT);
    assert_int_equal(child_wait(child_start(misuse, &all)), ENGINE_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(engine_without_a_step_has_nothing),
        cmocka_unit_test(engine_step_costs_the_same_whatever_its_rows),
        cmocka_unit_test(engine_prefill_costs_each_token_of_each_row),
        cmocka_unit_test(engine_has_one_step_in_flight),
        cmocka_unit_test(engine_rows_come_back_as_posted_with_a_token),
        cmocka_unit_test(engine_tokens_depend_on_seeds_branch_and_position_alone),
        cmocka_unit_test(engine_each_input_changes_the_stream),
        cmocka_unit_test(engine_tokens_of_a_seed_are_those_of_every_release),
        cmocka_unit_test(engine_a_batch_of_no_or_too_many_rows_stops_the_process),
    };
    printf("SEED=%" PRIu64 "\n", check_number("SEED", 1));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
