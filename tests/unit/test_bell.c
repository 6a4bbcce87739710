/* tests/unit/test_bell.c: tickets of shm/bell.h step by step: when a wake is due and when it is not,
 * over restarts of either side and around 2^32. The order between two processors is tests/models and
 * tests/litmus. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "shm/bell.h"

static void nobody_sleeps_nobody_is_woken(void **state)
{
    uint32_t need = 0, answered = 0;
    (void)state;
    assert_false(bell_wanted(&need, &answered));
    assert_int_equal(answered, 0);
}

static void one_sleep_costs_one_wake(void **state)
{
    uint32_t need = 0, ticket = 0, answered = 0;
    (void)state;
    for (int i = 0; i < 5; i++) {
        bell_raise(&need, &ticket);
        assert_true(bell_wanted(&need, &answered));
        assert_false(bell_wanted(&need, &answered));
        bell_lower(&need, &ticket);
        assert_false(bell_wanted(&need, &answered));
    }
}

static void word_is_odd_while_asleep_even_while_awake_and_only_grows(void **state)
{
    uint32_t need = 0, ticket = 0, before = 0;
    (void)state;
    for (int i = 0; i < 10; i++) {
        bell_raise(&need, &ticket);
        assert_int_equal(need & 1, 1);
        assert_true(need > before);
        before = need;
        bell_lower(&need, &ticket);
        assert_int_equal(need & 1, 0);
        assert_true(need > before);
        before = need;
    }
}

static void lowering_twice_changes_nothing(void **state)
{
    uint32_t need = 0, ticket = 0;
    (void)state;
    bell_raise(&need, &ticket);
    bell_lower(&need, &ticket);
    uint32_t once = need;
    bell_lower(&need, &ticket);
    assert_int_equal(need, once);
}

static void raising_again_without_lowering_asks_for_another_wake(void **state)
{
    uint32_t need = 0, ticket = 0, answered = 0;
    (void)state;
    bell_raise(&need, &ticket);
    assert_true(bell_wanted(&need, &answered));
    bell_raise(&need, &ticket);
    assert_int_equal(need & 1, 1);
    assert_true(bell_wanted(&need, &answered));
}

/* The sleeper died asleep; the next life takes its ticket from the word. */
static void restarted_sleeper_is_woken_for_its_first_sleep(void **state)
{
    uint32_t need = 0, ticket = 0, answered = 0;
    (void)state;
    bell_raise(&need, &ticket);
    assert_true(bell_wanted(&need, &answered));
    uint32_t next_life = need;
    bell_raise(&need, &next_life);
    assert_true(bell_wanted(&need, &answered));
    bell_lower(&need, &next_life);
    next_life = need;
    bell_raise(&need, &next_life);
    assert_true(bell_wanted(&need, &answered));
}

/* The publisher died; its next life remembers no answer, and one wake too many is the price. */
static void restarted_publisher_wakes_a_sleeper_again(void **state)
{
    uint32_t need = 0, ticket = 0, answered = 0, next_life = 0;
    (void)state;
    bell_raise(&need, &ticket);
    assert_true(bell_wanted(&need, &answered));
    assert_true(bell_wanted(&need, &next_life));
    assert_false(bell_wanted(&need, &next_life));
}

static void tickets_go_on_over_two_to_the_thirty_two(void **state)
{
    uint32_t need = UINT32_MAX - 5, ticket = UINT32_MAX - 5, answered = UINT32_MAX - 6;
    (void)state;
    for (int i = 0; i < 8; i++) {
        bell_raise(&need, &ticket);
        assert_int_equal(need & 1, 1);
        assert_true(bell_wanted(&need, &answered));
        bell_lower(&need, &ticket);
        assert_int_equal(need & 1, 0);
    }
    assert_true(need < 16);
}

/* A peer that writes its word at will gets at most one wake for each odd value. */
static void any_word_of_a_hostile_peer_costs_one_wake(void **state)
{
    const uint32_t words[] = {1, 7, 0x80000001u, UINT32_MAX, 3};
    uint32_t answered = 0;
    (void)state;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        uint32_t need = words[i];
        assert_true(bell_wanted(&need, &answered));
        assert_false(bell_wanted(&need, &answered));
        need = words[i] - 1;
        assert_false(bell_wanted(&need, &answered));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nobody_sleeps_nobody_is_woken),
        cmocka_unit_test(one_sleep_costs_one_wake),
        cmocka_unit_test(word_is_odd_while_asleep_even_while_awake_and_only_grows),
        cmocka_unit_test(lowering_twice_changes_nothing),
        cmocka_unit_test(raising_again_without_lowering_asks_for_another_wake),
        cmocka_unit_test(restarted_sleeper_is_woken_for_its_first_sleep),
        cmocka_unit_test(restarted_publisher_wakes_a_sleeper_again),
        cmocka_unit_test(tickets_go_on_over_two_to_the_thirty_two),
        cmocka_unit_test(any_word_of_a_hostile_peer_costs_one_wake),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
