/* tests/unit/test_engine_sim.c: the engine without a model. Its time is a sum that can be foretold,
 * and a token depends on the row's random bits alone: random rows are posted alone, in crowds, in other
 * orders, with other numbers, and must give the same tokens. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "daemon/base/rng.h"
#include "daemon/engine/engine.h"
#include "tests/lib/check.h"

#define ROWS_MAX 32u
#define STEP_NS 1000u
#define PREFILL_NS 10u
#define ROWS_TRIED 2000u

struct rig {
    struct engine *engine;
    struct engine_batch *batch;
};

static void rig_open_steps(struct rig *r, uint32_t steps_max)
{
    char message[ENGINE_MESSAGE_BYTES];
    struct engine_config config = {.simulate = true,
                                   .sim_step_ns = STEP_NS,
                                   .sim_prefill_ns_per_token = PREFILL_NS,
                                   .steps_max = steps_max,
                                   .rows_max = ROWS_MAX,
                                   .tokens_max = 4096};
    assert_int_equal(engine_open(&config, message, &r->engine), 0);
    assert_int_equal(engine_batch_new(r->engine, &r->batch), 0);
}

static void rig_open(struct rig *r)
{
    rig_open_steps(r, 0);
}

static void rig_close(struct rig *r)
{
    engine_batch_free(r->batch);
    engine_close(r->engine);
}

/* A decoding row for each random number. */
static void fill(struct rig *r, const uint32_t *random, uint32_t count)
{
    r->batch->rows_count = r->batch->tokens_count = count;
    for (uint32_t i = 0; i < count; i++)
        r->batch->rows[i] =
            (struct engine_row){.seq = i,
                                .tokens_count = 1,
                                .want = ENGINE_WANT_TOKEN,
                                .sampling = {.forced_token = OPS_NONE, .random = random[i]}};
}

static uint32_t token_of(struct rig *r, uint32_t random)
{
    fill(r, &random, 1);
    assert_int_equal(engine_post(r->engine, r->batch, 0), ENGINE_OK);
    assert_ptr_equal(engine_next(r->engine, ENGINE_POLICY, engine_due_ns(r->engine)), r->batch);
    return r->batch->outputs[0].sampled.token;
}

static void engine_without_a_step_has_nothing(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r);
    assert_int_equal(engine_due_ns(r.engine), UINT64_MAX);
    assert_null(engine_next(r.engine, ENGINE_POLICY, UINT64_MAX));
    rig_close(&r);
    engine_close(NULL);
}

static void engine_step_costs_the_same_whatever_its_rows(void **state)
{
    struct rig r;
    uint32_t random[ROWS_MAX] = {0};
    (void)state;
    rig_open(&r);
    for (uint32_t count = 1; count <= ROWS_MAX; count++) {
        fill(&r, random, count);
        assert_int_equal(engine_post(r.engine, r.batch, 500), ENGINE_OK);
        assert_int_equal(engine_due_ns(r.engine), 500 + STEP_NS);
        assert_null(engine_next(r.engine, ENGINE_POLICY, 500 + STEP_NS - 1));
        assert_ptr_equal(engine_next(r.engine, ENGINE_POLICY, 500 + STEP_NS), r.batch);
        assert_int_equal(engine_due_ns(r.engine), UINT64_MAX);
        assert_null(engine_next(r.engine, ENGINE_POLICY, UINT64_MAX)); /* handed out once */
    }
    rig_close(&r);
}

static void engine_prefill_costs_each_token_beyond_one_a_row(void **state)
{
    struct rig r;
    uint32_t random[3] = {0};
    (void)state;
    rig_open(&r);
    fill(&r, random, 3);
    r.batch->tokens_count = 3 + 700;
    assert_int_equal(engine_post(r.engine, r.batch, 40), ENGINE_OK);
    assert_int_equal(engine_due_ns(r.engine), 40 + STEP_NS + 700 * PREFILL_NS);
    rig_close(&r); /* with a step in flight */
}

static void engine_has_one_step_in_flight(void **state)
{
    struct rig r;
    uint32_t random = 0;
    struct engine_batch *second;
    (void)state;
    rig_open(&r);
    assert_int_equal(engine_batch_new(r.engine, &second), 0);
    fill(&r, &random, 1);
    assert_int_equal(engine_post(r.engine, r.batch, 0), ENGINE_OK);
    second->rows_count = second->tokens_count = 1;
    assert_int_equal(engine_post(r.engine, second, 0), ENGINE_E_BUSY);
    assert_int_equal(engine_due_ns(r.engine), STEP_NS); /* the refused one changed nothing */
    assert_ptr_equal(engine_next(r.engine, ENGINE_POLICY, STEP_NS), r.batch);
    engine_batch_free(second);
    rig_close(&r);
}

/* The second begins when the first is done, and no earlier than it is posted. */
static void engine_takes_a_second_step_behind_the_first(void **state)
{
    struct rig r;
    struct engine_batch *second;
    uint32_t random = 0;
    (void)state;
    rig_open_steps(&r, 2);
    assert_int_equal(engine_batch_new(r.engine, &second), 0);
    fill(&r, &random, 1);
    struct engine_batch *first = r.batch;
    r.batch = second;
    fill(&r, &random, 1);
    for (uint64_t late = 0; late <= STEP_NS; late += STEP_NS / 2) {
        uint64_t begin = 1 + 10 * late;
        assert_false(engine_busy(r.engine, ENGINE_POLICY));
        assert_int_equal(engine_post(r.engine, first, begin), ENGINE_OK);
        assert_false(engine_busy(r.engine, ENGINE_POLICY));
        assert_int_equal(engine_post(r.engine, second, begin + late), ENGINE_OK);
        assert_true(engine_busy(r.engine, ENGINE_POLICY));
        assert_int_equal(engine_due_ns(r.engine), begin + STEP_NS);
        assert_null(engine_next(r.engine, ENGINE_POLICY, begin + STEP_NS - 1));
        assert_ptr_equal(engine_next(r.engine, ENGINE_POLICY, begin + STEP_NS), first);
        assert_int_equal(engine_due_ns(r.engine), begin + 2 * STEP_NS);
        assert_null(engine_next(r.engine, ENGINE_POLICY, begin + 2 * STEP_NS - 1));
        assert_ptr_equal(engine_next(r.engine, ENGINE_POLICY, begin + 2 * STEP_NS), second);
    }
    assert_int_equal(engine_post(r.engine, first, 0), ENGINE_OK);
    engine_batch_free(first); /* it is the engine's now, which frees it */
    rig_close(&r);
}

static void engine_tokens_depend_on_the_random_bits_alone(void **state)
{
    struct rng rng = {.state = check_number("SEED", 1)};
    struct rig crowd, alone;
    (void)state;
    rig_open(&crowd);
    rig_open(&alone);
    for (uint32_t tried = 0; tried < ROWS_TRIED;) {
        uint32_t random[ROWS_MAX];
        uint32_t count = 1 + (uint32_t)rng_below(&rng, ROWS_MAX);
        rng_fill(&rng, random, sizeof random);
        fill(&crowd, random, count);
        assert_int_equal(engine_post(crowd.engine, crowd.batch, 0), ENGINE_OK);
        assert_ptr_equal(engine_next(crowd.engine, ENGINE_POLICY, UINT64_MAX), crowd.batch);
        for (uint32_t i = count; i-- > 0; tried++) /* in another order */
            assert_int_equal(crowd.batch->outputs[i].sampled.token, token_of(&alone, random[i]));
    }
    rig_close(&crowd);
    rig_close(&alone);
}

static void engine_forced_token_is_the_token(void **state)
{
    struct rig r;
    uint32_t random = 7;
    (void)state;
    rig_open(&r);
    fill(&r, &random, 1);
    r.batch->rows[0].sampling.forced_token = 'Q';
    assert_int_equal(engine_post(r.engine, r.batch, 0), ENGINE_OK);
    assert_ptr_equal(engine_next(r.engine, ENGINE_POLICY, STEP_NS), r.batch);
    assert_int_equal(r.batch->outputs[0].sampled.token, 'Q');
    rig_close(&r);
}

/* Pinned: a client that reconnects to a newer daemon resumes its stream in the middle. */
static void engine_tokens_of_a_seed_are_those_of_every_release(void **state)
{
    struct rig r;
    char text[25] = {0};
    (void)state;
    rig_open(&r);
    for (uint32_t i = 0; i < 24; i++)
        text[i] = (char)token_of(&r, rng_u32(42, 0, i));
    assert_string_equal(text, "b  qllhuprylchrq okllc d");
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(engine_without_a_step_has_nothing),
        cmocka_unit_test(engine_step_costs_the_same_whatever_its_rows),
        cmocka_unit_test(engine_prefill_costs_each_token_beyond_one_a_row),
        cmocka_unit_test(engine_has_one_step_in_flight),
        cmocka_unit_test(engine_takes_a_second_step_behind_the_first),
        cmocka_unit_test(engine_tokens_depend_on_the_random_bits_alone),
        cmocka_unit_test(engine_forced_token_is_the_token),
        cmocka_unit_test(engine_tokens_of_a_seed_are_those_of_every_release),
    };
    printf("SEED=%" PRIu64 "\n", check_number("SEED", 1));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
