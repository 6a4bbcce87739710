/* tests/unit/test_spin.c: the spin budget doubles on hits, halves on misses down to nothing, stays
 * within its bounds and now and then tries again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "shm/spin.h"

static void budget_starts_at_its_start_or_below_the_caller_s_limit(void **state)
{
    struct spin s;
    (void)state;
    spin_init(&s, SPIN_MAX_NS);
    assert_int_equal(spin_begin(&s), SPIN_START_NS);
    spin_init(&s, 5000);
    assert_int_equal(spin_begin(&s), 5000);
    spin_init(&s, UINT32_MAX);
    assert_int_equal(s.max_ns, SPIN_MAX_NS);
}

static void limit_zero_never_spins(void **state)
{
    struct spin s;
    (void)state;
    spin_init(&s, 0);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(spin_begin(&s), 0);
        spin_end(&s, i % 3 == 0);
    }
}

static void hits_double_up_to_the_limit(void **state)
{
    struct spin s;
    (void)state;
    spin_init(&s, SPIN_MAX_NS);
    spin_end(&s, true);
    assert_int_equal(spin_begin(&s), 2 * SPIN_START_NS);
    for (int i = 0; i < 40; i++)
        spin_end(&s, true);
    assert_int_equal(spin_begin(&s), SPIN_MAX_NS);
}

static void misses_halve_down_to_nothing(void **state)
{
    struct spin s;
    uint32_t budget = SPIN_START_NS;
    (void)state;
    spin_init(&s, SPIN_MAX_NS);
    while (budget / 2 >= SPIN_MIN_NS) {
        spin_end(&s, false);
        budget /= 2;
        assert_int_equal(spin_begin(&s), budget);
    }
    spin_end(&s, false);
    assert_int_equal(spin_begin(&s), 0);
}

static void every_sixteenth_wait_tries_again_and_a_hit_brings_it_back(void **state)
{
    struct spin s;
    uint32_t probes = 0;
    (void)state;
    spin_init(&s, SPIN_MAX_NS);
    for (int i = 0; i < 10; i++)
        spin_end(&s, false);
    for (uint32_t i = 0; i < 4 * SPIN_PROBE_EVERY; i++) {
        uint32_t budget = spin_begin(&s);
        assert_true(budget == 0 || budget == SPIN_MAX_NS);
        probes += budget != 0;
        spin_end(&s, false);
    }
    assert_int_equal(probes, 4);
    spin_end(&s, true);
    assert_int_equal(spin_begin(&s), SPIN_MAX_NS);
}

static void budget_never_passes_a_small_limit(void **state)
{
    (void)state;
    for (uint32_t max = 1; max <= SPIN_MAX_NS; max += 777) {
        struct spin s;
        uint32_t pattern = 0x9e3779b9u ^ max;
        spin_init(&s, max);
        for (int i = 0; i < 200; i++) {
            assert_true(spin_begin(&s) <= max);
            spin_end(&s, (pattern >> (i % 32)) & 1);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(budget_starts_at_its_start_or_below_the_caller_s_limit),
        cmocka_unit_test(limit_zero_never_spins),
        cmocka_unit_test(hits_double_up_to_the_limit),
        cmocka_unit_test(misses_halve_down_to_nothing),
        cmocka_unit_test(every_sixteenth_wait_tries_again_and_a_hit_brings_it_back),
        cmocka_unit_test(budget_never_passes_a_small_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
