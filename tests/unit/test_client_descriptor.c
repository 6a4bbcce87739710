/* The library in somebody else's event loop. */
#include "tests/lib/client_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <poll.h>
#include <stdlib.h>

static int setup(void **state)
{
    *state = client_rig_new(sizeof(struct client_rig), NULL, NULL, 3);
    return 0;
}

static struct wire_submit submit(struct client_rig *b, uint32_t lane)
{
    struct dynasor_program_options o = {
        .size = sizeof o, .prompt_text = "x", .prompt_bytes = 1, .max_tokens = 100};
    uint64_t program;
    assert_int_equal(dynasor_submit(b->lane[lane], &o, &program), 0);
    return fake_expect(b->s, lane, WIRE_OP_SUBMIT).submit;
}

static bool readable(int fd, int timeout_ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, timeout_ms) == 1;
}

static void test_loop(void **state)
{
    struct client_rig *b = *state;
    struct dynasor_event e;
    int fd = dynasor_descriptor(b->client);
    assert_true(fd >= 0);
    struct wire_submit s = submit(b, 0);
    for (uint32_t round = 0; round < 100; round++) {
        lane_quiet(b->lane[0]);
        assert_int_equal(dynasor_arm(b->lane[0]), 0);
        assert_int_equal(region_c2d_lane(b->s->c2d, 0)->need_kind, REGION_NEED_MESSAGE);
        assert_false(readable(fd, 0));
        fake_tokens(b->s, 0, &s, round * 2, 1);
        fake_tokens(b->s, 0, &s, round * 2 + 1, 1); /* one wake for both */
        assert_true(readable(fd, 1000));
        assert_int_equal(dynasor_next(b->lane[0], &e, 0), 0);
        assert_int_equal(e.position, round * 2);
        assert_false(readable(fd, 0)); /* drained */
        assert_int_equal(dynasor_next(b->lane[0], &e, 0), 0);
    }
}

static void test_second_look(void **state)
{
    struct client_rig *b = *state;
    struct dynasor_event e;
    struct wire_submit s = submit(b, 0);
    lane_quiet(b->lane[0]);
    fake_tokens(b->s, 0, &s, 0, 1);
    assert_int_equal(dynasor_arm(b->lane[0]), 1);
    assert_false(readable(dynasor_descriptor(b->client), 0));
    assert_int_equal(dynasor_next(b->lane[0], &e, 0), 0);
}

/* A thread that blocks on its lane leaves the wakes of a lane that polls where they are. */
static void test_beside_sleeper(void **state)
{
    struct client_rig *b = *state;
    struct dynasor_event e;
    int fd = dynasor_descriptor(b->client);
    struct wire_submit s = submit(b, 0);
    lane_quiet(b->lane[0]);
    assert_int_equal(dynasor_arm(b->lane[0]), 0);
    fake_tokens(b->s, 0, &s, 0, 1);
    assert_int_equal(dynasor_next(b->lane[1], &e, 250 * NS_PER_MS), -DYNASOR_E_TIMEOUT);
    assert_true(readable(fd, 0));
    assert_int_equal(dynasor_next(b->lane[0], &e, 0), 0);
}

/* Several lanes in one loop: take from all, then arm all. */
static void test_lanes(void **state)
{
    struct client_rig *b = *state;
    struct wire_submit s[3];
    uint32_t sent[3] = {0};
    uint32_t got[3] = {0};
    struct rng rng = {.state = 5};
    int fd = dynasor_descriptor(b->client);
    for (uint32_t i = 0; i < 3; i++)
        s[i] = submit(b, i);
    for (int round = 0; round < 2000; round++) {
        for (uint32_t i = 0; i < 3; i++) {
            struct dynasor_event e;
            while (dynasor_next(b->lane[i], &e, 0) == 0)
                got[i] += e.count;
            uint32_t at = (uint32_t)rng_below(&rng, 6); /* at any moment something comes */
            if (at < 3)
                fake_tokens(b->s, at, &s[at], sent[at], 1), sent[at]++;
        }
        bool again = false;
        for (uint32_t i = 0; i < 3; i++)
            again |= dynasor_arm(b->lane[i]) == 1;
        bool pending = got[0] + got[1] + got[2] < sent[0] + sent[1] + sent[2];
        if (pending)
            assert_true(again || readable(fd, 0));
    }
}

static void test_blocking_after(void **state)
{
    struct client_rig *b = *state;
    struct dynasor_event e;
    struct wire_submit s = submit(b, 0);
    lane_quiet(b->lane[0]);
    assert_int_equal(dynasor_arm(b->lane[0]), 0);
    assert_int_equal(dynasor_next(b->lane[0], &e, 20 * NS_PER_MS), -DYNASOR_E_TIMEOUT);
    assert_int_equal(region_c2d_lane(b->s->c2d, 0)->need_kind, REGION_NEED_FUTEX);
    fake_tokens(b->s, 0, &s, 0, 1);
    assert_false(readable(dynasor_descriptor(b->client), 0));
    assert_int_equal(dynasor_next(b->lane[0], &e, 0), 0);
}

/* A loop has to learn that its descriptor is another one, however quickly that went. */
static void test_reconnect(void **state)
{
    struct client_rig *b = *state;
    struct dynasor_event e;
    int fd = dynasor_descriptor(b->client);
    lane_quiet(b->lane[0]);
    assert_int_equal(dynasor_arm(b->lane[0]), 0);
    fake_die(b->s);
    fake_session_free(b->s);
    fake_serve(&b->f);
    assert_true(readable(fd, 1000));
    uint64_t start = now_ns();
    int rc;
    unsigned restarting = 0;
    while ((rc = dynasor_next(b->lane[0], &e, 0)) != -DYNASOR_E_TIMEOUT) {
        assert_int_equal(rc, -DYNASOR_E_RESTARTING);
        assert_in_range(now_ns() - start, 0, 3 * NS_PER_S);
        restarting++;
        sleep_ns(NS_PER_MS);
    }
    assert_true(restarting > 0);
    b->s = fake_join(&b->f);
    /* lane 1 never armed: it hears nothing; lane 0 is armed in the new session */
    lane_quiet(b->lane[1]);
    struct wire_submit s = submit(b, 0);
    assert_int_equal(dynasor_arm(b->lane[0]), 0);
    fake_tokens(b->s, 0, &s, 0, 1);
    assert_true(readable(dynasor_descriptor(b->client), 1000));
    /* quick: another lane connects anew within one of its calls */
    fake_die(b->s);
    fake_session_free(b->s);
    fake_serve(&b->f);
    assert_int_equal(dynasor_next(b->lane[1], &e, 300 * NS_PER_MS), -DYNASOR_E_TIMEOUT);
    b->s = fake_join(&b->f);
    assert_int_equal(dynasor_next(b->lane[0], &e, 0), -DYNASOR_E_RESTARTING);
    lane_quiet(b->lane[0]);
}

static void test_unsupported(void **state)
{
    (void)state;
    struct fake f;
    struct dynasor_client *client;
    struct dynasor_lane *lane;
    fake_open(&f);
    f.reply.features = UINT64_MAX;
    struct fake_session *s = fake_connect(&f, NULL, &client);
    assert_int_equal(dynasor_lane_open(client, &lane), 0);
    assert_int_equal(dynasor_descriptor(client), -DYNASOR_E_UNSUPPORTED);
    assert_int_equal(dynasor_arm(lane), -DYNASOR_E_UNSUPPORTED);
    struct dynasor_program_options o = {.size = sizeof o,
                                        .prompt_text = "x",
                                        .prompt_bytes = 1,
                                        .max_tokens = 1,
                                        .streams = DYNASOR_STREAM_TEXT};
    uint64_t program;
    assert_int_equal(dynasor_submit(lane, &o, &program), -DYNASOR_E_UNSUPPORTED);
    dynasor_disconnect(client);
    fake_session_free(s);
    fake_close(&f);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, client_rig_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_loop),
        TEST(test_second_look),
        TEST(test_beside_sleeper),
        TEST(test_lanes),
        TEST(test_blocking_after),
        TEST(test_reconnect),
        cmocka_unit_test(test_unsupported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
