/* tests/unit/test_batches.c: the rounds of a batch by themselves (daemon/program/batches.h), without programs: what
 * members that left have spent, when a batch that does not begin is due, and in which order many are asked.
 * Batches of programs: test_budget.c. */
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/program/batches.h"
#include "tests/lib/check.h"

static struct rng rng;

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

/* By asking each time who is next: the whole of them, in order. */
static uint64_t round_plainly(const struct budget *budget, struct budget_member *m, uint32_t count,
                              uint32_t step)
{
    static bool asked[DYNASOR_PROGRAMS_MAX];
    uint64_t left = budget->total - budget->spent, granted = 0;
    for (uint32_t i = 0; i < count; i++) {
        m[i].knob_grant = m[i].knob_done;
        asked[i] = m[i].settled;
    }
    for (;;) {
        uint32_t best = UINT32_MAX;
        for (uint32_t i = 0; i < count; i++)
            if (!asked[i] && (best == UINT32_MAX || m[i].priority > m[best].priority))
                best = i;
        if (best == UINT32_MAX)
            return granted;
        for (uint32_t s = 0; s < step && m[best].knob_grant < m[best].knob_max; s++) {
            if (left < m[best].cost)
                break;
            m[best].knob_grant++;
            left -= m[best].cost;
            granted += m[best].cost;
        }
        asked[best] = true;
    }
}

static void a_round_of_many_goes_by_priority_then_by_place(void **state)
{
    (void)state;
    static struct budget_member members[DYNASOR_PROGRAMS_MAX], plain[DYNASOR_PROGRAMS_MAX];
    for (uint32_t round = 0; round < 200; round++) {
        uint32_t count =
            round % 8 ? 1 + (uint32_t)rng_below(&rng, DYNASOR_PROGRAMS_MAX) : DYNASOR_PROGRAMS_MAX;
        uint64_t classes = 1 + rng_below(&rng, 2ull * count); /* many are equal, or few */
        struct budget budget = {.spent = rng_below(&rng, 100)};
        budget.total = budget.spent + rng_below(&rng, 20ull * count);
        for (uint32_t i = 0; i < count; i++)
            members[i] = (struct budget_member){.cost = 1 + rng_below(&rng, 7),
                                                .knob_done = (uint32_t)rng_below(&rng, 10),
                                                .knob_max = (uint32_t)rng_below(&rng, 20),
                                                .settled = rng_below(&rng, 4) == 0,
                                                .priority = (double)rng_below(&rng, classes)};
        memcpy(plain, members, sizeof plain);
        uint64_t granted = budget_round(&budget, members, count, 3);
        assert_int_equal(granted, round_plainly(&budget, plain, count, 3));
        for (uint32_t i = 0; i < count; i++)
            assert_int_equal(members[i].knob_grant, plain[i].knob_grant);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_tokens_of_those_that_left_are_spent),
        cmocka_unit_test(batches_that_do_not_begin_are_due_in_time),
        cmocka_unit_test(a_round_of_many_goes_by_priority_then_by_place),
    };
    rng.state = check_number("SEED", now_ns());
    (void)printf("SEED=%" PRIu64 "\n", rng.state);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
