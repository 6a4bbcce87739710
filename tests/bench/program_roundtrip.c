/* dynasor_submit() until the first event, through the client library and the daemon's own loop,
 * with an engine that answers at once. What belongs to the program after its first event (END,
 * release) happens between the samples. */
#include <stdio.h>
#include <string.h>

#include "bench.h"
#include "bench_daemon.h"
#include "dynasor/client.h"

#define GAP_NS 50000u /* as in ref_eventfd.c: both ends are asleep when a sample starts */
#define PROMPT_BYTES 4096u

struct session {
    struct dynasor_client *client;
    struct dynasor_lane *lane;
    const struct counters_page *counters;
    uint64_t sleeps;
    uint64_t wakes;
};

static void session_open(struct bench_run *run, struct session *s, bool no_spin)
{
    struct dynasor_connect_options options = {.size = sizeof options,
                                              .lanes_count = 1,
                                              .socket_path = run->socket_path,
                                              .timeout_ns = 2000000000u,
                                              .no_spin = no_spin};
    size_t bytes;
    /* A process that is confined to one CPU when it connects does not spin. */
    if (bench_pin_both() < 0)
        bench_fail(run, "cannot leave the CPU");
    int r = dynasor_connect(&options, &s->client);
    if (r < 0)
        bench_fail(run, "connect: %s", s->client ? dynasor_connect_error(s->client) : "no memory");
    if (bench_pin(1) < 0)
        bench_fail(run, "cannot pin");
    r = dynasor_lane_open(s->client, &s->lane);
    if (r < 0)
        bench_fail(run, "lane: %s", dynasor_status_name(r));
    s->counters = bench_counters(run->control_path, &bytes);
    if (!s->counters)
        bench_fail(run, "the daemon does not hand out its counters");
}

static void next(struct bench_run *run, struct session *s, struct dynasor_event *event)
{
    int r = dynasor_next(s->lane, event, DYNASOR_FOREVER);
    if (r < 0)
        bench_fail(run, "next: %s %s", dynasor_status_name(r), dynasor_error(s->lane));
}

/* Returns the ticks from submission to first event. */
static uint64_t program_run(struct bench_run *run, struct session *s,
                            const struct dynasor_program_options *options)
{
    struct dynasor_event event;
    uint64_t program;
    uint64_t before = bench_ticks();
    int r = dynasor_submit(s->lane, options, &program);
    if (r < 0)
        bench_fail(run, "submit: %s %s", dynasor_status_name(r), dynasor_error(s->lane));
    next(run, s, &event);
    uint64_t ticks = bench_ticks() - before;
    if (event.kind != DYNASOR_EVENT_TOKENS || event.program != program)
        bench_fail(run, "the first event is of kind %u: %s", event.kind, dynasor_error(s->lane));
    while (event.kind != DYNASOR_EVENT_END)
        next(run, s, &event);
    if (event.state != DYNASOR_STATE_DONE)
        bench_fail(run, "a program ended %s", dynasor_error(s->lane));
    r = dynasor_release(s->lane, program);
    if (r < 0)
        bench_fail(run, "release: %s %s", dynasor_status_name(r), dynasor_error(s->lane));
    return ticks;
}

static void measure(struct bench_run *run, struct session *s, uint64_t gap_ns,
                    const struct dynasor_program_options *options)
{
    uint32_t total = run->warmup_count + run->samples_count;
    for (uint32_t i = 0; i < total; i++) {
        if (i == run->warmup_count) {
            s->sleeps = shm_load_u64(&s->counters->value[COUNTER_sleeps]);
            s->wakes = shm_load_u64(&s->counters->value[COUNTER_wakes_sent]);
        }
        if (gap_ns > 0)
            bench_spin_ns(gap_ns);
        uint64_t ticks = program_run(run, s, options);
        if (i >= run->warmup_count)
            run->ticks[i - run->warmup_count] = (uint32_t)ticks;
    }
    s->sleeps = shm_load_u64(&s->counters->value[COUNTER_sleeps]) - s->sleeps;
    s->wakes = shm_load_u64(&s->counters->value[COUNTER_wakes_sent]) - s->wakes;
}

/* An awake sample is one of a run in which hardly anybody slept, and the reverse. */
static void check_awake(struct bench_run *run, const struct session *s)
{
    if (s->sleeps + s->wakes > run->samples_count / 20)
        bench_fail(run, "not awake: %llu sleeps, %llu wakes in %u samples",
                   (unsigned long long)s->sleeps, (unsigned long long)s->wakes, run->samples_count);
}

static void check_asleep(struct bench_run *run, const struct session *s)
{
    uint32_t least = run->samples_count - run->samples_count / 20;
    if (s->sleeps < least || s->wakes < least)
        bench_fail(run, "not asleep: %llu sleeps, %llu wakes in %u samples",
                   (unsigned long long)s->sleeps, (unsigned long long)s->wakes, run->samples_count);
}

static const struct dynasor_program_options short_program = {
    .size = sizeof(struct dynasor_program_options),
    .streams = DYNASOR_STREAM_TOKENS,
    .max_tokens = 1,
    .prompt_text = "question",
    .prompt_bytes = 8,
};

static void awake(struct bench_run *run)
{
    struct session s;
    session_open(run, &s, false);
    measure(run, &s, 0, &short_program);
    check_awake(run, &s);
    dynasor_disconnect(s.client);
}

static void payload(struct bench_run *run)
{
    char prompt[PROMPT_BYTES];
    struct dynasor_program_options options = short_program;
    struct session s;
    memset(prompt, 'p', sizeof prompt);
    options.prompt_text = prompt;
    options.prompt_bytes = sizeof prompt;
    session_open(run, &s, false);
    measure(run, &s, 0, &options);
    check_awake(run, &s);
    dynasor_disconnect(s.client);
}

static void asleep(struct bench_run *run)
{
    struct session s;
    session_open(run, &s, true);
    measure(run, &s, GAP_NS, &short_program);
    check_asleep(run, &s);
    dynasor_disconnect(s.client);
}

const struct bench_variant program_awake = {
    .name = "program",
    .what = "submit to first event, both awake",
    .samples_count = 20000,
    .warmup_count = 2000,
    .daemon = BENCH_DAEMON_SPIN,
    .client = awake,
};

const struct bench_variant program_payload = {
    .name = "program-4k",
    .what = "the same with a prompt of 4 KiB",
    .samples_count = 10000,
    .warmup_count = 1000,
    .daemon = BENCH_DAEMON_SPIN,
    .client = payload,
};

const struct bench_variant program_asleep = {
    .name = "program-asleep",
    .what = "submit to first event, both asleep, 50 us gap",
    .samples_count = 2000,
    .warmup_count = 200,
    .daemon = BENCH_DAEMON_SLEEP,
    .client = asleep,
};
