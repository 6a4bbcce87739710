/* tests/unit/test_batches.c: the rounds of a batch by themselves (daemon/program/batches.h), without programs: what
 * members that left have spent, and when a batch that does not begin is due. Batches of programs:
 * test_budget.c. */
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/program/batches.h"

static void the_tokens_of_those_that_left_are_spent(void **state)
{
    (void)state;
    struct batches *bs;
    struct parameters p;
    struct batch_order order;
    const struct certaindex seen = {.known = 1u << CERTAINDEX_CERTAINTY, .value = {0.3}};
    const struct certaindex surer = {.known = 1u << CERTAINDEX_CERTAINTY, .value = {0.4}};
    assert_int_equal(batches_new(8, 100, &bs), 0);
    parameters_default(DYNASOR_ALGORITHM_SC, &p);
    p.value[DYNASOR_PARAMETER_CAP] = 4;
    p.value[DYNASOR_PARAMETER_BATCH] = 1;
    p.value[DYNASOR_PARAMETER_BATCH_PROGRAMS] = 3;
    p.value[DYNASOR_PARAMETER_BATCH_TOKENS] = 100;
    p.value[DYNASOR_PARAMETER_BATCH_STEP] = 3;
    for (uint32_t i = 0; i < 3; i++) { /* programs 5, 4, 3 at places 0, 1, 2 */
        p.value[DYNASOR_PARAMETER_BATCH_PLACE] = i;
        assert_int_equal(
            batches_come(bs, &(struct batch_comer){.program = 5 - i, .parameters = &p}, 1), i == 2);
    }
    assert_true(batches_due_ns(bs, 7) == UINT64_MAX);
    batches_wait(bs, 3, 4, 40, &surer); /* 10 a step */
    batches_wait(bs, 5, 4, 20, &seen);  /* 5 a step */
    assert_false(batches_next(bs, &order));
    assert_true(batches_due_ns(bs, 7) == UINT64_MAX);
    batches_leave(bs, 4, 23); /* 17 are left: one step of the surer, one of the other */
    assert_int_equal(batches_due_ns(bs, 7), 0);
    assert_true(batches_next(bs, &order));
    assert_int_equal(order.program, 5);
    assert_int_equal(order.knob, 5);
    assert_true(batches_next(bs, &order));
    assert_int_equal(order.program, 3);
    assert_int_equal(order.knob, 5);
    assert_false(batches_next(bs, &order));
    batches_wait(bs, 5, 5, 24, &seen);
    batches_wait(bs, 3, 5, 49, &surer); /* 4 are left, for nobody */
    for (uint32_t i = 0; i < 2; i++) {
        assert_true(batches_next(bs, &order));
        assert_int_equal(order.program, i ? 3 : 5);
        assert_int_equal(order.knob, 0);
    }
    assert_false(batches_next(bs, &order));
    batches_leave(bs, 5, 24);
    batches_leave(bs, 3, 49);
    batches_leave(bs, 3, 49); /* no member any more */
    batches_free(bs);
}

static void batches_that_do_not_begin_are_due_in_time(void **state)
{
    (void)state;
    struct batches *bs;
    struct parameters p;
    enum dynasor_status status;
    assert_int_equal(batches_new(8, 100, &bs), 0);
    parameters_default(DYNASOR_ALGORITHM_SC, &p);
    p.value[DYNASOR_PARAMETER_BATCH_PROGRAMS] = 2;
    p.value[DYNASOR_PARAMETER_BATCH_TOKENS] = 100;
    for (uint32_t i = 0; i < 3;
         i++) { /* program i of batch i + 1, at 0 (before the clock), 20, 30 */
        p.value[DYNASOR_PARAMETER_BATCH] = i + 1;
        struct batch_comer comer = {.program = i, .parameters = &p};
        assert_false(batches_come(bs, &comer, i ? 10 + 10 * i : 0));
        if (i == 0)
            assert_int_equal(batches_stuck(bs, 15, 10, &status), PROGRAM_NONE);
    }
    assert_int_equal(batches_due_ns(bs, 10), 25);
    assert_int_equal(batches_stuck(bs, 24, 10, &status), PROGRAM_NONE);
    assert_int_equal(batches_stuck(bs, 35, 10, &status), 0);
    assert_int_equal(status, DYNASOR_E_TIMEOUT);
    batches_leave(bs, 0, 0);
    assert_int_equal(batches_stuck(bs, 35, 10, &status), 1);
    batches_leave(bs, 1, 0);
    assert_int_equal(batches_stuck(bs, 35, 10, &status), PROGRAM_NONE);
    assert_int_equal(batches_due_ns(bs, 10), 40);
    p.value[DYNASOR_PARAMETER_BATCH] = 9;
    assert_false(batches_come(
        bs, &(struct batch_comer){.program = 7, .parameters = &p, .restarted = true}, 35));
    assert_int_equal(batches_due_ns(bs, 10), 0);
    assert_int_equal(batches_stuck(bs, 35, 10, &status), 7);
    assert_int_equal(status, DYNASOR_E_RESTARTED);
    batches_free(bs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_tokens_of_those_that_left_are_spent),
        cmocka_unit_test(batches_that_do_not_begin_are_due_in_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
