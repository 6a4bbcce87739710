/* More handles than lanes: the last channel is shared under a lock. And handles on lanes of their own
 * beside it. */
#include "tests/lib/client_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define HANDLES 7u
#define PROGRAMS 40u
#define TOKENS 23u

struct bench {
    struct client_rig r;
    uint32_t stop;
};

static int setup(void **state)
{
    struct dynasor_connect_options o = {.size = sizeof o, .lanes_count = 2};
    *state = client_rig_new(sizeof(struct bench), &o, NULL, HANDLES);
    return 0;
}

static uint64_t submit(struct dynasor_lane *lane, uint64_t seed)
{
    struct dynasor_program_options o = {.size = sizeof o,
                                        .prompt_text = "Why?",
                                        .prompt_bytes = 4,
                                        .max_tokens = 1000,
                                        .seed = seed,
                                        .user_data = seed};
    uint64_t program = 0;
    int rc;
    while ((rc = dynasor_submit(lane, &o, &program)) == -DYNASOR_E_AGAIN ||
           rc == -DYNASOR_E_RESTARTING)
        sleep_ns(NS_PER_MS);
    CHECK(rc == 0, "submit: %s", dynasor_error(lane));
    return program;
}

static void *daemon_thread(void *argument)
{
    struct bench *b = argument;
    while (!shm_load_u32(&b->stop)) {
        bool any = false;
        for (uint32_t lane = 0; lane < b->r.s->geometry.lanes_count; lane++) {
            union wire_record r;
            if (!fake_take(b->r.s, lane, &r))
                continue;
            any = true;
            if (r.op != WIRE_OP_SUBMIT)
                continue;
            for (uint32_t at = 0; at <= TOKENS; at += 5) {
                while (!fake_room(b->r.s, lane))
                    sleep_ns(NS_PER_MS / 10);
                if (at < TOKENS)
                    fake_tokens(b->r.s, lane, &r.submit, at,
                                (uint8_t)(TOKENS - at < 5 ? TOKENS - at : 5));
            }
            while (!fake_room(b->r.s, lane))
                sleep_ns(NS_PER_MS / 10);
            fake_end(b->r.s, lane, &r.submit, DYNASOR_STATE_DONE, 0, TOKENS);
        }
        if (!any)
            sleep_ns(NS_PER_MS / 5);
    }
    return NULL;
}

struct worker {
    pthread_t thread;
    struct dynasor_lane *lane;
    uint64_t number;
};

static void *work(void *argument)
{
    struct worker *w = argument;
    for (uint64_t round = 0; round < PROGRAMS / 4; round++) {
        uint64_t program[4];
        uint32_t got[4] = {0};
        unsigned ended = 0;
        for (uint64_t i = 0; i < 4; i++)
            program[i] = submit(w->lane, w->number << 32 | round << 8 | i);
        while (ended < 4) {
            struct dynasor_event e;
            int rc = dynasor_next(w->lane, &e, 10 * NS_PER_S);
            CHECK(rc == 0, "next: %s", dynasor_error(w->lane));
            uint64_t i = e.user_data & 0xff;
            CHECK(e.user_data == (w->number << 32 | round << 8 | i) && program[i] == e.program,
                  "an event of handle %u", (unsigned)(e.user_data >> 32));
            if (e.kind == DYNASOR_EVENT_END) {
                CHECK(got[i] == TOKENS, "%u tokens", got[i]);
                CHECK(dynasor_release(w->lane, e.program) == 0, "%s", dynasor_error(w->lane));
                ended++;
                continue;
            }
            CHECK(e.position == got[i], "gap");
            for (uint32_t k = 0; k < e.count; k++)
                CHECK(e.tokens[k] == fake_token(e.user_data, got[i]++), "token");
        }
    }
    return NULL;
}

static void test_threads(void **state)
{
    struct bench *b = *state;
    struct worker workers[HANDLES];
    pthread_t daemon;
    pthread_create(&daemon, NULL, daemon_thread, b);
    for (unsigned i = 0; i < HANDLES; i++) {
        workers[i] = (struct worker){.lane = b->r.lane[i], .number = i + 1};
        pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    }
    for (unsigned i = 0; i < HANDLES; i++)
        pthread_join(workers[i].thread, NULL);
    shm_store_u32(&b->stop, 1);
    pthread_join(daemon, NULL);
}

/* A handle that does not read its events stops the shared lane, until it reads. */
static void test_stall(void **state)
{
    struct bench *b = *state;
    struct dynasor_event e;
    (void)submit(b->r.lane[3], 3);
    (void)submit(b->r.lane[4], 4);
    struct wire_submit lazy = fake_expect(b->r.s, 2, WIRE_OP_SUBMIT).submit;
    struct wire_submit other = fake_expect(b->r.s, 2, WIRE_OP_SUBMIT).submit;
    for (uint32_t i = 0; i < 300; i++)
        fake_tokens(b->r.s, 2, &lazy, i, 1);
    fake_tokens(b->r.s, 2, &other, 0, 1);
    assert_int_equal(dynasor_next(b->r.lane[4], &e, 30 * NS_PER_MS), -DYNASOR_E_TIMEOUT);
    for (uint32_t i = 0; i < 300; i++) {
        assert_int_equal(dynasor_next(b->r.lane[3], &e, NS_PER_S), 0);
        assert_int_equal(e.position, i);
        assert_int_equal(e.tokens[0], fake_token(3, i));
        if (i == 100)
            assert_int_equal(dynasor_next(b->r.lane[4], &(struct dynasor_event){0}, NS_PER_S), 0);
    }
    /* an own lane beside it is not affected */
    (void)submit(b->r.lane[0], 9);
    struct wire_submit own = fake_expect(b->r.s, 0, WIRE_OP_SUBMIT).submit;
    fake_tokens(b->r.s, 0, &own, 0, 1);
    assert_int_equal(dynasor_next(b->r.lane[0], &e, NS_PER_S), 0);
}

static void *close_it(void *argument)
{
    struct worker *w = argument;
    sleep_ns(50 * NS_PER_MS);
    dynasor_lane_close(w->lane);
    return NULL;
}

/* Closing one while another leads; its programs are cancelled, the other's go on. */
static void test_close(void **state)
{
    struct bench *b = *state;
    struct dynasor_event e;
    struct worker w = {.lane = b->r.lane[3]};
    uint64_t gone = submit(b->r.lane[3], 3);
    (void)submit(b->r.lane[4], 4);
    struct wire_submit closed = fake_expect(b->r.s, 2, WIRE_OP_SUBMIT).submit;
    struct wire_submit other = fake_expect(b->r.s, 2, WIRE_OP_SUBMIT).submit;
    pthread_create(&w.thread, NULL, close_it, &w);
    assert_int_equal(dynasor_next(b->r.lane[4], &e, 150 * NS_PER_MS), -DYNASOR_E_TIMEOUT);
    pthread_join(w.thread, NULL);
    assert_int_equal(fake_expect(b->r.s, 2, WIRE_OP_CANCEL).cancel.program_id, gone);
    fake_tokens(b->r.s, 2, &closed, 0, 3);
    fake_tokens(b->r.s, 2, &closed, 3, 3);
    fake_end(b->r.s, 2, &closed, DYNASOR_STATE_CANCELLED, DYNASOR_E_CANCELLED, 6);
    fake_tokens(b->r.s, 2, &other, 0, 1);
    assert_int_equal(dynasor_next(b->r.lane[4], &e, NS_PER_S), 0);
    assert_int_equal(e.user_data, 4);
    assert_int_equal(fake_expect(b->r.s, 2, WIRE_OP_RELEASE).release.program_id, gone);
}

static void *sleep_forever(void *argument)
{
    struct worker *w = argument;
    struct dynasor_event e;
    int rc = dynasor_next(w->lane, &e, DYNASOR_FOREVER);
    w->number = now_ns();
    return (void *)(intptr_t)rc;
}

static void test_death(void **state)
{
    struct bench *b = *state;
    struct worker w[HANDLES];
    for (unsigned i = 0; i < HANDLES; i++) {
        w[i].lane = b->r.lane[i];
        pthread_create(&w[i].thread, NULL, sleep_forever, &w[i]);
    }
    sleep_ns(50 * NS_PER_MS);
    uint64_t died = now_ns();
    fake_die(b->r.s);
    for (unsigned i = 0; i < HANDLES; i++) {
        void *rc;
        pthread_join(w[i].thread, &rc);
        assert_int_equal((intptr_t)rc, -DYNASOR_E_RESTARTING);
        assert_in_range(w[i].number - died, 0, NS_PER_S);
    }
}

static void test_reconnect(void **state)
{
    struct bench *b = *state;
    struct dynasor_event e;
    uint64_t program[2];
    uint32_t received[2] = {0, 0};
    for (unsigned i = 0; i < 2; i++)
        program[i] = submit(b->r.lane[3 + i], i);
    for (unsigned i = 0; i < 2; i++) {
        struct wire_submit s = fake_expect(b->r.s, 2, WIRE_OP_SUBMIT).submit;
        fake_tokens(b->r.s, 2, &s, 0, 4);
        received[i] = 4;
    }
    assert_int_equal(dynasor_next(b->r.lane[3], &e, NS_PER_S), 0); /* takes the other's, too */
    fake_die(b->r.s);
    fake_session_free(b->r.s);
    fake_serve(&b->r.f);
    assert_int_equal(dynasor_next(b->r.lane[3], &e, 400 * NS_PER_MS), -DYNASOR_E_TIMEOUT);
    b->r.s = fake_join(&b->r.f);
    for (unsigned n = 0; n < 2; n++) {
        struct wire_spec spec;
        uint32_t bytes;
        struct wire_submit s = fake_expect(b->r.s, 2, WIRE_OP_SUBMIT).submit;
        unsigned i = s.program_id == program[1];
        (void)fake_prompt(b->r.s, &s, &bytes, &spec);
        assert_int_equal(spec.resume_tokens, received[i]);
        fake_tokens(b->r.s, 2, &s, 4, 2);
    }
    assert_int_equal(dynasor_next(b->r.lane[3], &e, NS_PER_S), 0);
    assert_int_equal(e.position, 4);
    assert_int_equal(dynasor_next(b->r.lane[4], &e, NS_PER_S), 0); /* from before, in its queue */
    assert_int_equal(e.position, 0);
    assert_int_equal(e.tokens[3], fake_token(1, 3));
    assert_int_equal(dynasor_next(b->r.lane[4], &e, NS_PER_S), 0);
    assert_int_equal(e.position, 4);
}

/* Whoever leads sleeps, after a first short spin. */
static void test_leader_sleeps(void **state)
{
    struct bench *b = *state;
    struct dynasor_event e;
    struct timespec before;
    struct timespec after;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    for (unsigned i = 3; i < 5; i++) /* also the second that leads */
        assert_int_equal(dynasor_next(b->r.lane[i], &e, 400 * NS_PER_MS), -DYNASOR_E_TIMEOUT);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    int64_t spent_ns = (int64_t)(after.tv_sec - before.tv_sec) * (int64_t)NS_PER_S +
                       (after.tv_nsec - before.tv_nsec);
    assert_in_range(spent_ns, 0, 100 * NS_PER_MS);
}

struct canceller { /* a daemon whose programs run until they are cancelled */
    struct fake_session *s;
    struct wire_submit submit[DYNASOR_PROGRAMS_MAX];
    uint32_t stop;
};

static void *canceller_thread(void *argument)
{
    struct canceller *d = argument;
    while (!shm_load_u32(&d->stop)) {
        bool any = false;
        for (uint32_t lane = 0; lane < d->s->geometry.lanes_count; lane++) {
            union wire_record r;
            if (!fake_room(d->s, lane) || !fake_take(d->s, lane, &r))
                continue;
            any = true;
            if (r.op == WIRE_OP_SUBMIT)
                d->submit[r.submit.index] = r.submit;
            else if (r.op == WIRE_OP_CANCEL)
                fake_end(d->s, lane, &d->submit[r.cancel.index], DYNASOR_STATE_CANCELLED,
                         DYNASOR_E_CANCELLED, 0);
        }
        if (!any)
            sleep_ns(NS_PER_MS / 5);
    }
    return NULL;
}

static void submit_within(struct dynasor_lane *lane, uint64_t ns)
{
    struct dynasor_program_options o = {
        .size = sizeof o, .prompt_text = "x", .prompt_bytes = 1, .max_tokens = 1};
    uint64_t program;
    uint64_t start = now_ns();
    int rc;
    while ((rc = dynasor_submit(lane, &o, &program)) == -DYNASOR_E_AGAIN && now_ns() - start < ns)
        sleep_ns(NS_PER_MS);
    assert_int_equal(rc, 0);
}

/* The programs of shared handles that were closed leave the table, though no shared handle takes
 * events: the table is that of all lanes. */
static void closed_rounds(bool idle_handle)
{
    struct fake f;
    struct dynasor_client *client;
    struct dynasor_lane *own;
    struct dynasor_lane *shared;
    struct dynasor_connect_options o = {.size = sizeof o, .lanes_count = 1};
    struct canceller *d = calloc(1, sizeof *d);
    pthread_t thread;
    fake_open(&f);
    d->s = fake_connect(&f, &o, &client);
    pthread_create(&thread, NULL, canceller_thread, d);
    assert_int_equal(dynasor_lane_open(client, &own), 0);
    if (idle_handle) {
        assert_int_equal(dynasor_lane_open(client, &shared), 0);
        submit_within(shared, NS_PER_S);
    }
    for (unsigned round = 0; round < 30; round++) {
        assert_int_equal(dynasor_lane_open(client, &shared), 0);
        for (unsigned i = 0; i < 50; i++)
            submit_within(shared, 2 * NS_PER_S);
        dynasor_lane_close(shared);
    }
    for (unsigned i = 0; i < 400; i++) /* more than was left */
        submit_within(own, 2 * NS_PER_S);
    shm_store_u32(&d->stop, 1);
    pthread_join(thread, NULL);
    dynasor_disconnect(client);
    fake_session_free(d->s);
    fake_close(&f);
    free(d);
}

static void test_closed_rounds(void **state)
{
    (void)state;
    closed_rounds(false);
    closed_rounds(true);
}

static void *next_for_a_while(void *argument)
{
    struct worker *w = argument;
    struct dynasor_event e;
    int rc;
    do /* a rig's daemon that got no processor for a while is away */
        rc = dynasor_next(w->lane, &e, 400 * NS_PER_MS);
    while (rc == -DYNASOR_E_RESTARTING);
    return (void *)(intptr_t)rc;
}

/* The child of a fork() can free the handles on which threads of the parent sleep. */
static void test_fork(void **state)
{
    struct bench *b = *state;
    struct worker w[3];
    for (unsigned i = 0; i < 3; i++) {
        w[i].lane = b->r.lane[3 + i];
        pthread_create(&w[i].thread, NULL, next_for_a_while, &w[i]);
    }
    sleep_ns(50 * NS_PER_MS);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(5);
        for (unsigned i = 3; i < 6; i++)
            dynasor_lane_close(b->r.lane[i]);
        dynasor_disconnect(b->r.client);
        _exit(0);
    }
    assert_int_equal(child_wait(pid), 0);
    for (unsigned i = 0; i < 3; i++) {
        void *rc;
        pthread_join(w[i].thread, &rc);
        assert_int_equal((intptr_t)rc, -DYNASOR_E_TIMEOUT);
    }
}

static void test_arm(void **state)
{
    struct bench *b = *state;
    assert_int_equal(dynasor_arm(b->r.lane[5]), -DYNASOR_E_UNSUPPORTED);
}

/* With sixteen lanes the last own one is the shared one. */
static void test_sixteen(void **state)
{
    (void)state;
    struct fake f;
    struct dynasor_client *client;
    struct dynasor_lane *lane[20];
    struct dynasor_connect_options o = {.size = sizeof o, .lanes_count = 16};
    fake_open(&f);
    struct fake_session *s = fake_connect(&f, &o, &client);
    assert_int_equal(s->hello.lanes_count, 16);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(dynasor_lane_open(client, &lane[i]), 0);
    for (unsigned i = 0; i < 20; i++) {
        struct dynasor_event e;
        uint32_t at = i < 15 ? i : 15;
        (void)submit(lane[i], i);
        struct wire_submit r = fake_expect(s, at, WIRE_OP_SUBMIT).submit;
        fake_tokens(s, at, &r, 0, 1);
        assert_int_equal(dynasor_next(lane[i], &e, NS_PER_S), 0);
        assert_int_equal(e.user_data, i);
    }
    for (unsigned i = 0; i < 20; i += 2)
        dynasor_lane_close(lane[i]);
    dynasor_disconnect(client);
    fake_session_free(s);
    fake_close(&f);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, client_rig_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_threads),
        TEST(test_stall),
        TEST(test_close),
        TEST(test_death),
        TEST(test_reconnect),
        TEST(test_leader_sleeps),
        TEST(test_fork),
        TEST(test_arm),
        cmocka_unit_test(test_closed_rounds),
        cmocka_unit_test(test_sixteen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
