/* The library when the daemon dies, comes back in the same regions, comes back in others, refuses,
 * says goodbye; and after fork(). */
#include "tests/lib/client_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LANES 3

static int setup(void **state)
{
    struct dynasor_connect_options o = {.size = sizeof o, .lanes_count = LANES};
    *state = client_rig_new(sizeof(struct client_rig), &o, NULL, LANES);
    return 0;
}

static const char long_prompt[] = "a prompt that is longer than what a record holds inline";

static uint64_t submit(struct dynasor_lane *lane, uint64_t seed, const char *prompt)
{
    struct dynasor_program_options o = {.size = sizeof o,
                                        .prompt_text = prompt,
                                        .prompt_bytes = strlen(prompt),
                                        .max_tokens = 1000,
                                        .seed = seed,
                                        .streams = DYNASOR_STREAM_ALL,
                                        .user_data = seed + 1};
    uint64_t program = 0;
    int rc = dynasor_submit(lane, &o, &program);
    if (rc)
        fail_msg("submit: %s", dynasor_error(lane));
    return program;
}

/* Goes on through RESTARTING, at most 5 s. */
static struct dynasor_event next(struct dynasor_lane *lane)
{
    struct dynasor_event event;
    uint64_t start = now_ns();
    int rc;
    do
        rc = dynasor_next(lane, &event, NS_PER_S);
    while (rc == -DYNASOR_E_RESTARTING && now_ns() - start < 5 * NS_PER_S);
    if (rc)
        fail_msg("next: %s: %s", dynasor_status_name(rc), dynasor_error(lane));
    return event;
}

static void kill_and_hang_up(struct client_rig *b)
{
    fake_die(b->s);
    fake_session_free(b->s);
    b->s = NULL;
}

struct sleeper {
    pthread_t thread;
    struct dynasor_lane *lane;
    int rc;
    uint64_t returned_ns;
};

static void *sleep_forever(void *argument)
{
    struct sleeper *s = argument;
    struct dynasor_event event;
    s->rc = dynasor_next(s->lane, &event, DYNASOR_FOREVER);
    s->returned_ns = now_ns();
    return NULL;
}

struct keeper { /* a thread that owns the word as the daemon's keeper does */
    struct robust_list_head head;
    struct robust_list node;
    uint32_t *word;
    uint32_t ready;
    uint32_t die;
};

static void *keep(void *argument)
{
    struct keeper *k = argument;
    k->head.list.next = &k->node;
    k->node.next = &k->head.list;
    k->head.futex_offset = (char *)k->word - (char *)&k->node;
    shm_store_u32(k->word, (uint32_t)syscall(SYS_gettid) | FUTEX_WAITERS);
    CHECK(syscall(SYS_set_robust_list, &k->head, sizeof k->head) == 0, "robust list");
    shm_store_u32(&k->ready, 1);
    while (!shm_load_u32(&k->die))
        sleep_ns(NS_PER_MS);
    return NULL;
}

static void assert_all_wake(struct client_rig *b, uint64_t since_ns)
{
    uint64_t asleep;
    do {
        asleep = 0;
        for (uint32_t i = 0; i < LANES; i++)
            asleep += shm_load_u32(&region_c2d_lane(b->s->c2d, i)->need) & 1;
    } while (asleep && now_ns() - since_ns < NS_PER_S);
    assert_in_range(now_ns() - since_ns, 0, 120 * NS_PER_MS);
}

/* The kernel wakes one sleeper of a dead owner's word. That one wakes the others, long before the belt
 * of 100 ms does: none still says that it sleeps. */
static void test_death_wakes_all(void **state)
{
    struct client_rig *b = *state;
    struct sleeper sleepers[LANES];
    struct keeper *keeper = shared_new(sizeof *keeper);
    pthread_t thread;
    keeper->word = &b->s->header->owner.word;
    pthread_create(&thread, NULL, keep, keeper);
    while (!shm_load_u32(&keeper->ready))
        sleep_ns(NS_PER_MS);
    for (int i = 0; i < LANES; i++) {
        sleepers[i].lane = b->lane[i];
        pthread_create(&sleepers[i].thread, NULL, sleep_forever, &sleepers[i]);
    }
    sleep_ns(110 * NS_PER_MS); /* all have slept through a belt; the next ends in 190 ms */
    shm_store_u32(&keeper->die, 1);
    pthread_join(thread, NULL);
    assert_int_equal(shm_load_u32(keeper->word), FUTEX_OWNER_DIED | FUTEX_WAITERS);
    uint64_t died = now_ns();
    assert_all_wake(b, died);
    for (int i = 0; i < LANES; i++) {
        pthread_join(sleepers[i].thread, NULL);
        assert_int_equal(sleepers[i].rc, -DYNASOR_E_RESTARTING);
        assert_in_range(sleepers[i].returned_ns - died, 0, NS_PER_S);
    }
}

static void *die_quietly(void *argument)
{
    struct client_rig *b = argument;
    sleep_ns(20 * NS_PER_MS);
    shm_store_u32(&b->s->header->owner.word, REGION_OWNER_DIED | REGION_OWNER_WAITERS);
    return NULL;
}

/* A second death after an adoption that nobody had to wait for wakes all again. */
static void test_second_death_wakes_all(void **state)
{
    struct client_rig *b = *state;
    struct sleeper sleepers[LANES];
    struct dynasor_event e;
    pthread_t thread;
    for (int i = 0; i < LANES; i++) /* binds them */
        assert_int_equal(dynasor_next(b->lane[i], &e, 0), -DYNASOR_E_TIMEOUT);
    pthread_create(&thread, NULL, die_quietly, b);
    /* It sleeps to the end of its time, and tells what it sees then. */
    assert_int_equal(dynasor_next(b->lane[0], &e, 60 * NS_PER_MS), -DYNASOR_E_TIMEOUT);
    pthread_join(thread, NULL);
    fake_adopt(b->s, 2);
    for (int i = 0; i < LANES; i++) {
        sleepers[i].lane = b->lane[i];
        pthread_create(&sleepers[i].thread, NULL, sleep_forever, &sleepers[i]);
    }
    sleep_ns(110 * NS_PER_MS);
    uint64_t died = now_ns();
    fake_die(b->s);
    assert_all_wake(b, died);
    for (int i = 0; i < LANES; i++) {
        pthread_join(sleepers[i].thread, NULL);
        assert_int_equal(sleepers[i].rc, -DYNASOR_E_RESTARTING);
    }
}

/* What one lane finds wrong the others hear at once. */
static void test_break_wakes_all(void **state)
{
    struct client_rig *b = *state;
    struct sleeper sleepers[LANES];
    struct dynasor_event e;
    (void)submit(b->lane[0], 1, "x");
    struct wire_submit s = fake_expect(b->s, 0, WIRE_OP_SUBMIT).submit;
    for (int i = 1; i < LANES; i++) {
        sleepers[i].lane = b->lane[i];
        pthread_create(&sleepers[i].thread, NULL, sleep_forever, &sleepers[i]);
    }
    sleep_ns(110 * NS_PER_MS);
    fake_tokens(b->s, 0, &s, 0, 0);
    uint64_t broke = now_ns();
    assert_int_equal(dynasor_next(b->lane[0], &e, 0), -DYNASOR_E_PROTOCOL);
    for (int i = 1; i < LANES; i++) {
        pthread_join(sleepers[i].thread, NULL);
        assert_int_equal(sleepers[i].rc, -DYNASOR_E_PROTOCOL);
        assert_in_range(sleepers[i].returned_ns - broke, 0, 120 * NS_PER_MS);
    }
}

static void *adopt_later(void *argument)
{
    struct client_rig *b = argument;
    sleep_ns(50 * NS_PER_MS);
    fake_die(b->s);
    sleep_ns(100 * NS_PER_MS);
    fake_adopt(b->s, 2);
    return NULL;
}

static void test_adopted(void **state)
{
    struct client_rig *b = *state;
    struct dynasor_event e;
    pthread_t thread;
    (void)submit(b->lane[0], 3, "x");
    struct wire_submit s = fake_expect(b->s, 0, WIRE_OP_SUBMIT).submit;
    fake_tokens(b->s, 0, &s, 0, 2);
    (void)next(b->lane[0]);
    pthread_create(&thread, NULL, adopt_later, b);
    assert_int_equal(dynasor_next(b->lane[0], &e, 300 * NS_PER_MS), -DYNASOR_E_TIMEOUT);
    pthread_join(thread, NULL);
    fake_tokens(b->s, 0, &s, 2, 2);
    assert_int_equal(next(b->lane[0]).position, 2);
    assert_int_equal(dynasor_generation(b->client), 2);
    assert_int_equal(dynasor_reconnects_count(b->client), 0);
    /* and a second time */
    fake_die(b->s);
    assert_int_equal(dynasor_next(b->lane[0], &e, 0), -DYNASOR_E_RESTARTING);
    fake_adopt(b->s, 3);
    fake_tokens(b->s, 0, &s, 4, 2);
    assert_int_equal(next(b->lane[0]).position, 4);
}

static void test_away(void **state)
{
    struct client_rig *b = *state;
    struct dynasor_event e;
    struct dynasor_program_options o = {
        .size = sizeof o, .prompt_text = "x", .prompt_bytes = 1, .max_tokens = 1};
    uint64_t program;
    fake_close(&b->f);
    kill_and_hang_up(b);
    for (int i = 0; i < 3; i++) {
        uint64_t start = now_ns();
        assert_int_equal(dynasor_next(b->lane[0], &e, DYNASOR_FOREVER), -DYNASOR_E_RESTARTING);
        assert_in_range(now_ns() - start, 100 * NS_PER_MS, 900 * NS_PER_MS);
        start = now_ns();
        assert_int_equal(dynasor_submit(b->lane[1], &o, &program), -DYNASOR_E_RESTARTING);
        assert_int_equal(dynasor_next(b->lane[2], &e, 0), -DYNASOR_E_RESTARTING);
        assert_in_range(now_ns() - start, 0, 200 * NS_PER_MS);
    }
    assert_int_equal(dynasor_descriptor(b->client), -DYNASOR_E_RESTARTING);
}

struct expected {
    const char *prompt;
    uint64_t program;
    uint64_t seed;
    uint32_t tokens;
    uint32_t text_bytes;
    bool cancelled;
};

static void expect_again(struct client_rig *b, uint32_t lane, const struct expected *x,
                         size_t count, struct wire_submit *ret)
{
    for (size_t n = 0; n < count; n++) {
        struct wire_spec spec;
        uint32_t bytes;
        struct wire_submit s = fake_expect(b->s, lane, WIRE_OP_SUBMIT).submit;
        size_t i = 0;
        while (i < count && x[i].program != s.program_id)
            i++;
        assert_in_range(i, 0, count - 1);
        const char *prompt = fake_prompt(b->s, &s, &bytes, &spec);
        assert_int_equal(s.seed, x[i].seed);
        assert_int_equal(s.max_tokens, 1000);
        assert_int_equal(s.streams, DYNASOR_STREAM_ALL);
        assert_int_equal(spec.resume_tokens, x[i].tokens);
        assert_int_equal(spec.resume_text_bytes, x[i].text_bytes);
        assert_int_equal(bytes, strlen(x[i].prompt));
        assert_memory_equal(prompt, x[i].prompt, bytes);
        if (x[i].cancelled)
            assert_int_equal(fake_expect(b->s, lane, WIRE_OP_CANCEL).cancel.program_id,
                             s.program_id);
        ret[i] = s;
    }
}

static void test_resumed(void **state)
{
    struct client_rig *b = *state;
    struct wire_submit s[4];
    struct expected x[3] = {{.prompt = "short", .seed = 1, .tokens = 13, .text_bytes = 4},
                            {.prompt = long_prompt, .seed = 2},
                            {.prompt = long_prompt, .seed = 3, .tokens = 1, .cancelled = true}};
    for (size_t i = 0; i < 3; i++) {
        x[i].program = submit(b->lane[0], x[i].seed, x[i].prompt);
        s[i] = fake_expect(b->s, 0, WIRE_OP_SUBMIT).submit;
    }
    uint64_t ended = submit(b->lane[0], 4, "ended");
    s[3] = fake_expect(b->s, 0, WIRE_OP_SUBMIT).submit;
    fake_end(b->s, 0, &s[3], DYNASOR_STATE_DONE, 0, 0);
    fake_text(b->s, 0, &s[0], 0, "\xc3\xa4zz");
    fake_tokens(b->s, 0, &s[2], 0, 1);
    fake_tokens(b->s, 0, &s[0], 0, 11);
    for (int i = 0; i < 4; i++)
        (void)next(b->lane[0]);
    assert_int_equal(dynasor_cancel(b->lane[0], x[2].program), 0);
    fake_tokens(b->s, 0, &s[0], 11, 2);
    fake_tokens(b->s, 0, &s[0], 13, 9); /* published, never taken: it is sent once more */
    struct dynasor_event e = next(b->lane[0]);
    const uint8_t uuid_first = b->s->hello.client_uuid[5];
    kill_and_hang_up(b);
    b->f.reply.generation = 2;
    fake_serve(&b->f);
    struct dynasor_event other;
    int rc = dynasor_next(b->lane[1], &other, 400 * NS_PER_MS); /* another lane connects */
    assert_int_equal(rc, -DYNASOR_E_TIMEOUT);
    b->s = fake_join(&b->f);
    assert_int_equal(b->s->hello.client_uuid[5], uuid_first);
    assert_int_equal(dynasor_reconnects_count(b->client), 1);
    assert_int_equal(dynasor_generation(b->client), 2);
    (void)submit(b->lane[0], 50, "new"); /* binds the lane, sends the old ones first */
    /* What the last event pointed to is still there. */
    assert_int_equal(e.position, 11);
    assert_int_equal(e.tokens[0], fake_token(1, 11));
    expect_again(b, 0, x, 3, s);
    (void)fake_expect(b->s, 0, WIRE_OP_SUBMIT);
    fake_tokens(b->s, 0, &s[0], 13, 7);
    e = next(b->lane[0]);
    assert_int_equal(e.program, x[0].program);
    assert_int_equal(e.user_data, 2);
    assert_int_equal(e.position, 13);
    assert_int_equal(e.tokens[6], fake_token(1, 19));
    assert_int_equal(dynasor_program_state(b->lane[0], ended), DYNASOR_STATE_DONE);
    assert_int_equal(dynasor_release(b->lane[0], ended), 0);
    union wire_record r;
    assert_false(fake_take(b->s, 0, &r)); /* this daemon never knew it */
}

/* Restarts in a row: nothing is lost, whatever was or was not sent again in between. */
static void test_resumed_often(void **state)
{
    struct client_rig *b = *state;
    struct wire_submit s[2];
    struct expected x[2] = {{.prompt = long_prompt, .seed = 1}, {.prompt = "short", .seed = 2}};
    for (size_t i = 0; i < 2; i++) {
        x[i].program = submit(b->lane[0], x[i].seed, x[i].prompt);
        s[i] = fake_expect(b->s, 0, WIRE_OP_SUBMIT).submit;
    }
    for (int life = 0; life < 20; life++) {
        size_t i = (size_t)life % 2;
        if (life % 3) {
            fake_tokens(b->s, 0, &s[i], x[i].tokens, 3);
            struct dynasor_event e = next(b->lane[0]);
            assert_int_equal(e.position, x[i].tokens);
            assert_int_equal(e.tokens[2], fake_token(x[i].seed, x[i].tokens + 2));
            x[i].tokens += 3;
        }
        kill_and_hang_up(b);
        fake_serve(&b->f);
        struct dynasor_event e;
        assert_int_equal(dynasor_next(b->lane[0], &e, 300 * NS_PER_MS), -DYNASOR_E_TIMEOUT);
        b->s = fake_join(&b->f);
        expect_again(b, 0, x, 2, s);
    }
}

/* More unfinished programs than the submission ring has slots. */
static void test_resumed_many(void **state)
{
    struct client_rig *b = *state;
    for (uint64_t i = 0; i < 500; i++) {
        (void)submit(b->lane[0], i, i % 2 ? long_prompt : "short");
        (void)fake_expect(b->s, 0, WIRE_OP_SUBMIT);
    }
    kill_and_hang_up(b);
    fake_serve(&b->f);
    struct dynasor_event e;
    assert_int_equal(dynasor_next(b->lane[0], &e, 300 * NS_PER_MS), -DYNASOR_E_TIMEOUT);
    b->s = fake_join(&b->f);
    uint64_t program;
    struct dynasor_program_options o = {
        .size = sizeof o, .prompt_text = "x", .prompt_bytes = 1, .max_tokens = 1};
    assert_int_equal(dynasor_submit(b->lane[0], &o, &program), -DYNASOR_E_RESTARTING);
    assert_int_equal(dynasor_arm(b->lane[0]), -DYNASOR_E_RESTARTING); /* do not wait, nor spin */
    for (int i = 0; i < 500; i++) {
        union wire_record r;
        while (!fake_take(b->s, 0, &r))
            assert_int_equal(dynasor_next(b->lane[0], &e, 0), -DYNASOR_E_TIMEOUT);
        assert_int_equal(r.op, WIRE_OP_SUBMIT);
    }
    assert_int_equal(dynasor_submit(b->lane[0], &o, &program), 0);
}

static void *refuse_then_serve(void *argument)
{
    struct client_rig *b = argument;
    for (int i = 0; i < 3; i++) { /* our old session still counts */
        fake_serve(&b->f);
        assert_null(fake_join(&b->f));
    }
    b->f.reply = (struct fake_reply){.generation = 2};
    fake_serve(&b->f);
    b->s = fake_join(&b->f);
    return NULL;
}

static void test_limit_passes(void **state)
{
    struct client_rig *b = *state;
    pthread_t thread;
    uint64_t program = submit(b->lane[0], 1, "x");
    kill_and_hang_up(b);
    b->f.reply.fault =
        (struct wire_fault){.status = DYNASOR_E_LIMIT, .field = DYNASOR_FIELD_CLIENTS};
    pthread_create(&thread, NULL, refuse_then_serve, b);
    struct dynasor_event e;
    assert_int_equal(dynasor_next(b->lane[0], &e, 300 * NS_PER_MS), -DYNASOR_E_TIMEOUT);
    pthread_join(thread, NULL);
    assert_int_equal(fake_expect(b->s, 0, WIRE_OP_SUBMIT).submit.program_id, program);
}

static void test_refused_for_good(void **state)
{
    struct client_rig *b = *state;
    struct dynasor_event e;
    kill_and_hang_up(b);
    b->f.reply.layout_hash = 1;
    fake_serve(&b->f);
    assert_int_equal(dynasor_next(b->lane[0], &e, NS_PER_S), -DYNASOR_E_VERSION);
    assert_non_null(strstr(dynasor_error(b->lane[0]), "layout_hash"));
    fake_session_free(fake_join(&b->f));
    b->f.reply.layout_hash = 0; /* the right one after all */
    fake_serve(&b->f);
    assert_int_equal(dynasor_next(b->lane[0], &e, 300 * NS_PER_MS), -DYNASOR_E_TIMEOUT);
    b->s = fake_join(&b->f);
}

static void test_bye(void **state)
{
    struct client_rig *b = *state;
    struct dynasor_event e;
    struct wire_fault fault = {.status = DYNASOR_E_SHUTDOWN};
    uint64_t program = submit(b->lane[0], 1, "x");
    fake_bye(b->s, &fault);
    fake_session_free(b->s);
    fake_serve(&b->f);
    assert_int_equal(dynasor_next(b->lane[0], &e, 400 * NS_PER_MS), -DYNASOR_E_TIMEOUT);
    b->s = fake_join(&b->f);
    assert_int_equal(fake_expect(b->s, 0, WIRE_OP_SUBMIT).submit.program_id, program);
    fault = (struct wire_fault){
        .status = DYNASOR_E_PROTOCOL, .field = DYNASOR_FIELD_RECORD_INDEX, .hi = 511, .got = 600};
    struct wire_message wake = {.kind = WIRE_MESSAGE_WAKE}; /* of a lane that polls: in the way */
    assert_true(send(b->s->fd, &wake, sizeof wake, 0) > 0);
    fake_bye(b->s, &fault);
    fake_session_free(b->s);
    b->s = NULL;
    assert_int_equal(dynasor_next(b->lane[0], &e, NS_PER_S), -DYNASOR_E_PROTOCOL);
    assert_string_equal(dynasor_error(b->lane[0]),
                        "record_index 600: accepted 0 to 511 (the daemon "
                        "ended the session: protocol violation)");
    assert_int_equal(dynasor_next(b->lane[1], &e, 0), -DYNASOR_E_PROTOCOL);
    assert_int_equal(dynasor_reconnects_count(b->client), 1);
}

static int in_child(struct client_rig *b, uint64_t program)
{
    struct dynasor_program_options o = {
        .size = sizeof o, .prompt_text = "x", .prompt_bytes = 1, .max_tokens = 1};
    struct dynasor_event e;
    struct dynasor_lane *lane;
    uint64_t id;
    int wrong = 0;
    wrong += dynasor_submit(b->lane[0], &o, &id) != -DYNASOR_E_CLOSED;
    wrong += dynasor_next(b->lane[0], &e, DYNASOR_FOREVER) != -DYNASOR_E_CLOSED;
    wrong += dynasor_cancel(b->lane[0], program) != -DYNASOR_E_CLOSED;
    wrong += dynasor_release(b->lane[0], program) != -DYNASOR_E_CLOSED;
    wrong += dynasor_program_state(b->lane[0], program) != -DYNASOR_E_CLOSED;
    wrong += dynasor_arm(b->lane[0]) != -DYNASOR_E_CLOSED;
    wrong += dynasor_descriptor(b->client) != -DYNASOR_E_CLOSED;
    wrong += dynasor_lane_open(b->client, &lane) != -DYNASOR_E_CLOSED;
    wrong += strstr(dynasor_error(b->lane[0]), "fork") == NULL;
    dynasor_lane_close(b->lane[1]);
    dynasor_disconnect(b->client);
    return wrong;
}

static void test_fork(void **state)
{
    struct client_rig *b = *state;
    uint64_t program = submit(b->lane[0], 1, "x");
    struct wire_submit s = fake_expect(b->s, 0, WIRE_OP_SUBMIT).submit;
    pid_t pid = fork();
    if (pid == 0)
        _exit(in_child(b, program));
    assert_int_equal(child_wait(pid), 0);
    fake_tokens(b->s, 0, &s, 0, 1);
    assert_int_equal(next(b->lane[0]).program, program);
    (void)submit(b->lane[1], 1, "x");
    (void)fake_expect(b->s, 1, WIRE_OP_SUBMIT);
    char byte;
    assert_int_equal(recv(b->s->fd, &byte, 1, MSG_DONTWAIT), -1); /* the session lives */
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, client_rig_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_death_wakes_all),
        TEST(test_second_death_wakes_all),
        TEST(test_break_wakes_all),
        TEST(test_adopted),
        TEST(test_away),
        TEST(test_resumed),
        TEST(test_resumed_often),
        TEST(test_resumed_many),
        TEST(test_limit_passes),
        TEST(test_refused_for_good),
        TEST(test_bye),
        TEST(test_fork),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
