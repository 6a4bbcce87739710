/* tests/unit/test_worker.c: the threads of the ranks. Two steps are in flight most of the time and ranks take unequal
 * times: each step begins once, in order, when all ranks have finished the one before; each is taken once, and the
 * descriptor is readable as long as one is there to be taken; what is in flight at the end is run. */
#include <inttypes.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "daemon/engine/worker.h"
#include "tests/lib/check.h"

#define RANKS 3u
#define STEPS 2000u

struct seen {
    uint64_t begun;
    uint64_t run[RANKS];
    uint64_t rest_ns;
    uint64_t sum; /* of what the step before left, and so on: in the steps' order or not at all */
    uint64_t left[2][RANKS];
};

static void begin(void *context, uint64_t steps)
{
    struct seen *s = context;
    CHECK(s->begun == steps, "step %" PRIu64 " begins after %" PRIu64, steps, s->begun);
    for (uint32_t r = 0; r < RANKS; r++) {
        CHECK(s->run[r] == steps, "rank %u has run %" PRIu64 " steps", r, s->run[r]);
        s->sum = s->sum * 31 + (steps ? s->left[(steps - 1) % 2][r] : 0);
    }
    s->begun++;
}

static void run(void *context, uint32_t rank, uint64_t steps)
{
    struct seen *s = context;
    CHECK(s->begun == steps + 1, "rank %u is in step %" PRIu64, rank, steps);
    if ((steps * 7 + rank) % 5 == 0)
        sleep_ns(s->rest_ns);
    s->left[steps % 2][rank] = steps * RANKS + rank;
    s->run[rank]++;
}

static bool readable(const struct worker *w, int timeout_ms)
{
    struct pollfd fd = {.fd = worker_fd(w), .events = POLLIN};
    return poll(&fd, 1, timeout_ms) == 1;
}

static struct worker *worker_make(struct seen *s)
{
    struct worker *w = NULL;
    const struct worker_calls calls = {begin, run, s};
    assert_int_equal(worker_new(RANKS, 2, &calls, &w), 0);
    assert_false(worker_take(w) || readable(w, 0));
    return w;
}

static void worker_runs_steps_one_after_the_other(void **state)
{
    static struct seen s;
    uint64_t sum = 0;
    (void)state;
    s = (struct seen){.rest_ns = 20000};
    struct worker *w = worker_make(&s);
    for (uint32_t posted = 0, taken = 0; taken < STEPS;) {
        while (posted < STEPS && posted - taken < 2) {
            worker_post(w);
            posted++;
        }
        if (taken % 3 == 0)
            sleep_ns(2 * s.rest_ns); /* both may be done */
        CHECK(readable(w, 10000), "step %u does not end", taken);
        assert_true(worker_take(w));
        CHECK(s.begun > taken, "step %u was not run", taken);
        taken++;
    }
    assert_false(worker_take(w) || readable(w, 0));
    worker_free(w);
    for (uint64_t step = 0; step < STEPS; step++)
        for (uint32_t r = 0; r < RANKS; r++)
            sum = sum * 31 + (step ? (step - 1) * RANKS + r : 0);
    assert_true(s.sum == sum);
}

static void worker_ends_when_what_was_posted_is_done(void **state)
{
    static struct seen s;
    (void)state;
    for (uint32_t i = 0; i < 50; i++) {
        s = (struct seen){.rest_ns = 50000 * (i % 2)};
        struct worker *w = worker_make(&s);
        for (uint32_t posted = 0; posted < i % 3; posted++)
            worker_post(w);
        worker_free(w);
        assert_int_equal(s.begun, i % 3);
        assert_int_equal(s.run[RANKS - 1], i % 3);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(worker_runs_steps_one_after_the_other),
        cmocka_unit_test(worker_ends_when_what_was_posted_is_done),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
