/* tests/ipc/test_streams.c: the library at work: many lanes, more threads than lanes, streams longer
 * than the rings, slow consumers, an epoll loop of the caller's own, and arguments that are wrong.
 *
 * Every stream must be that of a quiet run. Who does not take its events pauses only its own lane; in
 * time it goes on where it was, after the grace it ends FAILED/SLOW_CONSUMER, and everybody else's
 * streams stay what they were. */
/* timeout: 60 */
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "tests/lib/daemon.h"
#include "tests/lib/raw.h"
#include "tests/lib/stream.h"

enum { PROGRAMS = 48, THREADS = 24, ROUNDS = 20, GRACE_MS = 600, MAX_TOKENS = 60000 };

static const struct stream_limits limits = {.max_tokens = 60, .prompt_bytes = 2000};
static const struct stream_limits long_limits = {.max_tokens = 12000, .prompt_bytes = 4000};

static struct test_daemon d;
static struct stream_result expected[PROGRAMS];

/* ---- lanes and threads --------------------------------------------------------------------------- */

struct worker {
    struct dynasor_client *client;
    uint64_t number;
    pthread_t thread;
};

static void *work(void *argument)
{
    const struct worker *w = argument;
    struct dynasor_lane *lane = stream_lane(w->client);

    for (uint64_t i = 0; i < ROUNDS; i++) {
        uint64_t number = (w->number * 13 + i) % PROGRAMS;
        struct stream_result result;
        int r = stream_run(lane, number, &limits, &result);
        CHECK(r == 0, "thread %" PRIu64 ": %s: %s", w->number, dynasor_status_name(r),
              dynasor_error(lane));
        stream_check(&result, &expected[number], number);
    }
    dynasor_lane_close(lane);
    return NULL;
}

/* Threads beyond the lanes share the last one. */
static void test_threads(uint32_t lanes_count)
{
    struct worker workers[THREADS];
    struct dynasor_client *client = stream_connect(d.socket_path, lanes_count, 1 << 20);

    for (uint64_t i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.client = client, .number = i};
        int r = pthread_create(&workers[i].thread, NULL, work, &workers[i]);
        CHECK(r == 0, "pthread_create: %s", strerror(r));
    }
    for (uint64_t i = 0; i < THREADS; i++)
        (void)pthread_join(workers[i].thread, NULL);
    CHECK(dynasor_reconnects_count(client) == 0, "the session was lost");
    dynasor_disconnect(client);
}

enum { MANY = 400 };

/* Releases what has ended; false when the submission ring is full: later. */
static bool release_ended(struct dynasor_lane *lane, struct stream_result *results)
{
    for (unsigned i = 0; i < MANY; i++) {
        if (results[i].state == 0 || results[i].program == 0)
            continue;
        int r = dynasor_release(lane, results[i].program);
        if (r == -DYNASOR_E_AGAIN)
            return false;
        CHECK(r == 0, "release: %s: %s", dynasor_status_name(r), dynasor_error(lane));
        results[i].program = 0;
    }
    return true;
}

/* Nearly everything the table holds at once, on one lane: both rings wrap many times. */
static void test_many_in_flight(void)
{
    static struct stream_result results[MANY];
    struct dynasor_client *client = stream_connect(d.socket_path, 1, 1 << 22);
    struct dynasor_lane *lane = stream_lane(client);
    struct dynasor_event event;

    for (int round = 0; round < 3; round++) {
        unsigned submitted = 0, ended = 0;
        while (ended < MANY) {
            while (submitted < MANY) {
                int r = stream_submit(lane, submitted % PROGRAMS, &limits, &results[submitted]);
                if (r == -DYNASOR_E_AGAIN)
                    break;
                CHECK(r == 0, "submit: %s: %s", dynasor_status_name(r), dynasor_error(lane));
                submitted++;
            }
            int r = dynasor_next(lane, &event, 10 * NS_PER_S);
            CHECK(r == 0, "next: %s: %s", dynasor_status_name(r), dynasor_error(lane));
            struct stream_result *result = (struct stream_result *)(uintptr_t)event.user_data;
            stream_take(result, &event, now_ns());
            ended += result->state != 0;
            (void)release_ended(lane, results);
        }
        while (!release_ended(lane, results))
            sleep_ns(NS_PER_MS);
        for (unsigned i = 0; i < MANY; i++)
            stream_check(&results[i], &expected[i % PROGRAMS], i);
    }
    dynasor_disconnect(client);
}

static void test_long_streams(void)
{
    struct stream_result once[4], again[4];
    struct dynasor_client *client = stream_connect(d.socket_path, 1, 1 << 16);
    struct dynasor_lane *lane = stream_lane(client);

    stream_run_all(lane, COUNT_OF(once), &long_limits, once);
    stream_run_all(lane, COUNT_OF(again), &long_limits, again);
    uint64_t tokens = 0;
    for (uint64_t i = 0; i < COUNT_OF(once); i++) {
        stream_check(&again[i], &once[i], i);
        tokens += once[i].tokens_count + once[i].text_bytes;
    }
    CHECK(tokens > 1024 * 11, "these streams are too short to wrap a ring");
    dynasor_disconnect(client);
}

/* ---- the caller's own loop ----------------------------------------------------------------------- */

static void test_own_loop(void)
{
    enum { SOME = 16 };
    struct stream_result results[SOME];
    struct dynasor_client *client = stream_connect(d.socket_path, 1, 1 << 20);
    struct dynasor_lane *lane = stream_lane(client);
    struct dynasor_event event;
    unsigned ended = 0;

    for (unsigned i = 0; i < SOME; i++)
        CHECK(stream_submit(lane, i, &limits, &results[i]) == 0, "submit: %s", dynasor_error(lane));
    uint64_t deadline = now_ns() + 20 * NS_PER_S;
    while (ended < SOME) {
        int r;
        while ((r = dynasor_next(lane, &event, 0)) == 0) {
            struct stream_result *result = (struct stream_result *)(uintptr_t)event.user_data;
            stream_take(result, &event, now_ns());
            ended += result->state != 0;
        }
        CHECK(r == -DYNASOR_E_TIMEOUT, "next: %s", dynasor_status_name(r));
        r = dynasor_arm(lane);
        CHECK(r == 0 || r == 1, "arm: %s", dynasor_status_name(r));
        CHECK(now_ns() < deadline, "%u of %u programs ended", ended, SOME);
        struct pollfd poll_fd = {.fd = dynasor_descriptor(client), .events = POLLIN};
        CHECK(poll_fd.fd >= 0, "descriptor: %s", dynasor_status_name(poll_fd.fd));
        if (r == 0 && ended < SOME)
            CHECK(poll(&poll_fd, 1, 10000) == 1, "the descriptor did not become readable");
    }
    for (unsigned i = 0; i < SOME; i++)
        stream_check(&results[i], &expected[i], i);
    dynasor_disconnect(client);
}

/* ---- slow consumers ------------------------------------------------------------------------------ */

static void submit_raw(struct raw_session *s, uint32_t lane, uint32_t index, uint64_t id,
                       uint32_t max_tokens)
{
    union wire_record record;

    raw_submit_record(&record, index, id, id, max_tokens);
    CHECK(raw_push(s, lane, &record), "no room in the ring");
    raw_ring(s);
}

/* Takes everything up to the END of the only program of a lane; its tokens must be continuous. */
static void drain(struct raw_session *s, uint32_t lane, union wire_event *event,
                  uint64_t *ret_tokens)
{
    *ret_tokens = 0;
    for (;;) {
        CHECK(raw_event(s, lane, event, 5 * NS_PER_S), "no event after %" PRIu64 " tokens",
              *ret_tokens);
        if (event->kind != WIRE_EVENT_TOKENS)
            break;
        CHECK(event->tokens.position == *ret_tokens, "tokens from %u after %" PRIu64,
              event->tokens.position, *ret_tokens);
        *ret_tokens += event->tokens.count;
    }
}

static bool is_paused(void *unused)
{
    (void)unused;
    return daemon_counter(&d, COUNTER_programs_paused) >= 1;
}

static bool is_unpaused(void *unused)
{
    (void)unused;
    return daemon_counter(&d, COUNTER_programs_paused) == 0;
}

static void check_others(struct dynasor_lane *lane)
{
    struct stream_result got[PROGRAMS];

    stream_run_all(lane, PROGRAMS, &limits, got);
    for (uint64_t i = 0; i < PROGRAMS; i++)
        stream_check(&got[i], &expected[i], i);
}

/* False: the machine was so slow that it was not in time. */
static bool slow_in_time(struct dynasor_lane *others)
{
    struct raw_session s;
    union wire_event event;
    uint64_t tokens;
    int r = raw_open(&s, d.socket_path, 2, 4096);

    CHECK(r == 0, "no session: %d", r);
    uint64_t begin_ns = now_ns();
    submit_raw(&s, 0, 1, 1, MAX_TOKENS);
    CHECK(wait_until(is_paused, NULL, 5 * NS_PER_S), "a full ring pauses nothing");
    submit_raw(&s, 1, 2, 2, 500); /* the other lane of the same client */
    drain(&s, 1, &event, &tokens);
    CHECK(event.end.state == DYNASOR_STATE_DONE && tokens == 500, "the lane beside it: state %u",
          event.end.state);
    check_others(others);
    bool in_time = now_ns() - begin_ns < GRACE_MS * NS_PER_MS;
    drain(&s, 0, &event, &tokens);
    CHECK(!in_time || (event.end.state == DYNASOR_STATE_DONE && tokens == MAX_TOKENS),
          "taken up again in time it ended in state %u after %" PRIu64 " tokens", event.end.state,
          tokens);
    CHECK(wait_until(is_unpaused, NULL, NS_PER_S), "something is still paused");
    raw_close(&s);
    return in_time;
}

static void test_slow_in_time(struct dynasor_lane *others)
{
    for (int i = 0; i < 5; i++)
        if (slow_in_time(others))
            return;
    CHECK(false, "five times what takes milliseconds took longer than the grace");
}

/* Two programs of one lane are given up. Returns false where the first filled the ring before the second
 * was accepted, which then rightly waits and runs to its end. */
static bool slow_too_late(struct dynasor_lane *others)
{
    struct raw_session s;
    union wire_event event;
    uint64_t tokens;
    int r = raw_open(&s, d.socket_path, 2, 4096);

    CHECK(r == 0, "no session: %d", r);
    submit_raw(&s, 0, 1, 1, MAX_TOKENS);
    submit_raw(&s, 0, 2, 2, MAX_TOKENS);
    uint64_t begin_ns = now_ns();
    for (uint32_t index = 1; index <= 2; index++) {
        const struct region_program *entry =
            region_program((void *)(uintptr_t)s.d2c, &s.reply.geometry, index);
        if (index == 2 && shm_load_acquire_u32(&entry->state) == DYNASOR_STATE_FREE) {
            raw_close(&s);
            return false;
        }
        while (shm_load_acquire_u32(&entry->state) < DYNASOR_STATE_DONE) {
            check_others(others);
            CHECK(now_ns() - begin_ns < 20 * NS_PER_S, "a slow consumer is waited for without end");
        }
        CHECK(entry->state == DYNASOR_STATE_FAILED && entry->status == DYNASOR_E_SLOW_CONSUMER,
              "%u ended in state %u with %s", index, entry->state,
              dynasor_status_name((int)entry->status));
        CHECK(now_ns() - begin_ns >= GRACE_MS * NS_PER_MS, "%u had less than the grace", index);
    }
    /* Both ENDs are in the ring, although it was full. */
    unsigned ends = 0;
    uint64_t deadline = now_ns() + 10 * NS_PER_S;
    while (ends < 2) {
        CHECK(raw_event(&s, 0, &event, 5 * NS_PER_S) && now_ns() < deadline, "%u ENDs", ends);
        if (event.kind != WIRE_EVENT_END)
            continue;
        CHECK(event.end.state == DYNASOR_STATE_FAILED &&
                  event.end.status == DYNASOR_E_SLOW_CONSUMER,
              "END with state %u and %s", event.end.state, dynasor_status_name(event.end.status));
        ends++;
    }
    submit_raw(&s, 0, 3, 3, 100);
    drain(&s, 0, &event, &tokens);
    CHECK(event.end.state == DYNASOR_STATE_DONE && tokens == 100, "the session does not go on");
    raw_close(&s);
    return true;
}

static void test_slow_too_late(struct dynasor_lane *others)
{
    for (int i = 0; i < 10; i++)
        if (slow_too_late(others))
            return;
    CHECK(false, "ten times the second program was not accepted beside the first");
}

/* ---- arguments ----------------------------------------------------------------------------------- */

static void expect(struct dynasor_lane *lane, const struct dynasor_program_options *options,
                   int status, const char *first, const char *second)
{
    uint64_t program = 77;
    int r = dynasor_submit(lane, options, &program);
    const char *sentence = dynasor_error(lane);

    CHECK(r == -status, "%s instead of %s: %s", dynasor_status_name(r), dynasor_status_name(status),
          sentence);
    CHECK(strstr(sentence, first) && strstr(sentence, second), "\"%s\" lacks %s or %s", sentence,
          first, second);
}

static void test_arguments(void)
{
    static const char bad_text[] = "abc\xff";
    struct dynasor_client *client = stream_connect(d.socket_path, 1, 1 << 16);
    struct dynasor_lane *lane = stream_lane(client);
    const struct dynasor_program_options good = {
        .size = sizeof good, .prompt_text = "abc", .prompt_bytes = 3, .max_tokens = 4};
    struct dynasor_program_options o = good;
    struct stream_result result;

    o.max_tokens = 0;
    expect(lane, &o, DYNASOR_E_INVALID, "max_tokens", "60000");
    o.max_tokens = MAX_TOKENS + 1;
    expect(lane, &o, DYNASOR_E_INVALID, "max_tokens", "60001");
    o = good;
    o.algorithm = 99;
    expect(lane, &o, DYNASOR_E_UNSUPPORTED, "algorithm", "99");
    o = good;
    o.streams = 8;
    expect(lane, &o, DYNASOR_E_INVALID, "streams", "8");
    o = good;
    o.prompt_bytes = 0;
    expect(lane, &o, DYNASOR_E_INVALID, "prompt", "0");
    o = good;
    o.prompt_text = bad_text;
    o.prompt_bytes = 4;
    o.max_tokens = 4;
    uint64_t program;
    int r = dynasor_submit(lane, &o, &program);
    if (r == 0) { /* what the library lets through the daemon refuses, as an END */
        struct dynasor_event event;
        r = dynasor_next(lane, &event, 5 * NS_PER_S);
        CHECK(r == 0 && event.kind == DYNASOR_EVENT_END && event.status == DYNASOR_E_INVALID,
              "a prompt that is no UTF-8: %s", dynasor_status_name(r));
        CHECK(strstr(dynasor_error(lane), "prompt"), "\"%s\"", dynasor_error(lane));
        CHECK(dynasor_release(lane, program) == 0, "release");
    } else {
        CHECK(r == -DYNASOR_E_INVALID && strstr(dynasor_error(lane), "prompt"), "\"%s\"",
              dynasor_error(lane));
    }
    CHECK(dynasor_cancel(lane, 12345) == -DYNASOR_E_NOTFOUND, "cancel of an unknown program");
    CHECK(dynasor_release(lane, 12345) == -DYNASOR_E_NOTFOUND, "release of an unknown program");
    CHECK(stream_run(lane, 3, &limits, &result) == 0, "the session does not go on");
    stream_check(&result, &expected[3], 3);
    dynasor_disconnect(client);
}

int main(void)
{
    struct daemon_baseline baseline;
    struct daemon_options options = {
        .daemon = "log_level = error\nslow_consumer_grace_ms = 600\n",
        .quota = "connections = 64\n",
        .engine = "sim_step_ns = 0\nsim_prefill_ns_per_token = 0\n",
        .limits = "max_tokens = 60000\n",
    };

    daemon_open(&d, &options);
    daemon_start(&d);
    struct dynasor_client *client = stream_connect(d.socket_path, 1, 1 << 16);
    struct dynasor_lane *lane = stream_lane(client);
    stream_run_all(lane, PROGRAMS, &limits, expected);
    daemon_baseline_take(&d, &baseline);
    test_threads(16);
    test_threads(3);
    test_many_in_flight();
    test_long_streams();
    test_own_loop();
    test_slow_in_time(lane);
    test_slow_too_late(lane);
    test_arguments();
    daemon_baseline_check(&d, &baseline, NS_PER_S);
    dynasor_disconnect(client);
    daemon_stop(&d);
    daemon_log_check(&d);
    daemon_close(&d);
    return 0;
}
