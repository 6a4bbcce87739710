/* tests/ipc/test_fdstore.c: with a service manager that keeps descriptors, clients live through the
 * death of their daemon and notice nothing but a new generation number.
 *
 * The test is PID 1 (tests/lib/fakepid1.h). It kills the daemon at random times, during recovery too,
 * while clients stream programs: no client reconnects, every stream equals that of a quiet run. Some
 * clients die while there is no daemon. Then what else may lie in a store: junk, half a session, a
 * session of an unknown version, a program that was running in too many crashes, programs whose client decides, and
 * a batch some of whose members have ended.
 * RESTARTS (default 100) is how many kills; SEED repeats their times. */
/* timeout: 100 */
#include <inttypes.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dynasor/custom.h"
#include "tests/lib/fakepid1.h"
#include "tests/lib/raw.h"
#include "tests/lib/stream.h"

enum { PROGRAMS = 48, CLIENTS = 6 };
#define START_MAX_NS (10 * NS_PER_S)

static const struct stream_limits limits = {.max_tokens = 100, .prompt_bytes = 1500};

struct stage {
    struct test_daemon daemon;
    struct fakepid1 pid1;
    struct stream_result expected[PROGRAMS];
    struct rng rng;
    struct shared {
        uint32_t stop;
        uint64_t kills; /* counted before each */
        uint64_t programs;
        uint64_t poisoned;
        uint64_t restarting; /* calls that said so */
        uint64_t generation[CLIENTS];
        uint64_t reconnects[CLIENTS];
    } * shared;
    pid_t pids[CLIENTS];
};

struct streamer {
    struct stage *stage;
    uint32_t number;
};

static void start_daemon(struct stage *s)
{
    fakepid1_spawn(&s->pid1, &s->daemon);
    fakepid1_run(&s->pid1, &s->daemon, START_MAX_NS, true);
    daemon_wait_ready(&s->daemon);
}

/* One program after the other, two at a time, until told to stop. */
static int streamer_run(void *argument)
{
    const struct streamer *me = argument;
    struct stage *s = me->stage;
    struct dynasor_client *client = stream_connect(s->daemon.socket_path, 1, 1 << 16);
    struct dynasor_lane *lane = stream_lane(client);

    for (uint64_t i = me->number * 7; !shm_load_acquire_u32(&s->shared->stop); i++) {
        struct stream_result result = {0};
        uint64_t number = i % PROGRAMS;
        uint64_t kills = shm_load_acquire_u64(&s->shared->kills);
        int r = stream_run(lane, number, &limits, &result);
        CHECK(r == 0, "client %u: %s: %s", me->number, dynasor_status_name(r), dynasor_error(lane));
        kills = shm_load_acquire_u64(&s->shared->kills) - kills;
        if (kills >= 3 && result.status == DYNASOR_E_POISON)
            shm_fetch_add_u64(&s->shared->poisoned, 1); /* it had the bad luck to run in three */
        else
            stream_check(&result, &s->expected[number], number);
        shm_fetch_add_u64(&s->shared->programs, 1);
        shm_store_u64(&s->shared->generation[me->number], dynasor_generation(client));
        shm_store_u64(&s->shared->reconnects[me->number], dynasor_reconnects_count(client));
    }
    dynasor_disconnect(client);
    return 0;
}

static bool all_stored(const struct stage *s, unsigned clients)
{
    return s->pid1.stored_count == clients * 4;
}

/* Connected, and known to the store: before that a kill may cost a client its session. */
static void run_until_stored(struct stage *s, unsigned clients)
{
    uint64_t deadline = now_ns() + START_MAX_NS;

    while (!all_stored(s, clients)) {
        CHECK(now_ns() < deadline, "%u descriptors are stored for %u clients", s->pid1.stored_count,
              clients);
        CHECK(daemon_alive(&s->daemon), "the daemon is gone");
        fakepid1_run(&s->pid1, &s->daemon, 2 * NS_PER_MS, false);
    }
}

static void start_streamers(struct stage *s)
{
    for (uint32_t i = 0; i < CLIENTS; i++) {
        struct streamer me = {s, i};
        s->pids[i] = child_start(streamer_run, &me);
    }
    run_until_stored(s, CLIENTS);
}

static void check_streamers(struct stage *s)
{
    for (uint32_t i = 0; i < CLIENTS; i++) {
        int status = 0;
        siginfo_t info = {0};
        (void)waitid(P_PID, (id_t)s->pids[i], &info, WEXITED | WNOHANG | WNOWAIT);
        if (info.si_pid)
            status = child_wait(s->pids[i]);
        CHECK(info.si_pid == 0, "client %u ended with %d", i, status);
        CHECK(shm_load_u64(&s->shared->reconnects[i]) == 0, "client %u had to connect anew", i);
    }
}

/* A client dies while nobody is there to see it; the next daemon has to clean up after it. */
static void replace_a_client(struct stage *s)
{
    uint32_t i = (uint32_t)rng_below(&s->rng, CLIENTS);
    struct streamer me = {s, i};

    child_kill(s->pids[i]);
    start_daemon(s);
    run_until_stored(s, CLIENTS - 1);
    s->pids[i] = child_start(streamer_run, &me);
    run_until_stored(s, CLIENTS);
}

static void kill_many(struct stage *s, uint64_t kills)
{
    for (uint64_t i = 0; i < kills; i++) {
        shm_fetch_add_u64(&s->shared->kills, 1);
        if (i % 16 == 7 && s->pid1.ready)
            daemon_stop(&s->daemon); /* an orderly restart keeps clients as well */
        else
            fakepid1_kill(&s->pid1, &s->daemon);
        check_streamers(s);
        if (rng_below(&s->rng, 10) == 0) {
            replace_a_client(s);
        } else if (rng_below(&s->rng, 4) == 0) { /* dies in the middle of recovery */
            fakepid1_spawn(&s->pid1, &s->daemon);
            fakepid1_run(&s->pid1, &s->daemon, rng_below(&s->rng, 30 * NS_PER_MS), false);
        } else {
            start_daemon(s);
            fakepid1_run(&s->pid1, &s->daemon, 20 * NS_PER_MS + rng_below(&s->rng, 60 * NS_PER_MS),
                         false);
        }
    }
    if (s->daemon.page == NULL) { /* the last one was not waited for */
        fakepid1_run(&s->pid1, &s->daemon, START_MAX_NS, true);
        daemon_wait_ready(&s->daemon);
    }
}

static void stop_streamers(struct stage *s)
{
    uint64_t generation = daemon_counter(&s->daemon, COUNTER_generation);

    fakepid1_run(&s->pid1, &s->daemon, 200 * NS_PER_MS, false);
    shm_store_release_u32(&s->shared->stop, 1);
    fakepid1_run(&s->pid1, &s->daemon, 300 * NS_PER_MS, false);
    for (uint32_t i = 0; i < CLIENTS; i++) {
        CHECK(child_wait(s->pids[i]) == 0, "client %u failed", i);
        CHECK(s->shared->reconnects[i] == 0, "client %u had to connect anew", i);
        CHECK(s->shared->generation[i] == generation,
              "client %u is of generation %" PRIu64 ", the daemon of %" PRIu64, i,
              s->shared->generation[i], generation);
    }
    run_until_stored(s, 0);
}

static void test_random_kills(struct stage *s, const struct daemon_baseline *baseline)
{
    uint64_t kills = check_number("RESTARTS", check_sanitized() ? 30 : 100);
    uint64_t first = daemon_counter(&s->daemon, COUNTER_generation);

    start_streamers(s);
    kill_many(s, kills);
    CHECK(daemon_counter(&s->daemon, COUNTER_generation) != first, "the generation did not change");
    stop_streamers(s);
    daemon_baseline_check(&s->daemon, baseline, 2 * NS_PER_S);
    printf("%" PRIu64 " kills: %" PRIu64 " programs, %" PRIu64 " of them poisoned, %" PRIu64
           " clients taken over by the last daemon\n",
           kills, s->shared->programs, s->shared->poisoned,
           daemon_counter(&s->daemon, COUNTER_clients_reattached));
    CHECK(s->shared->programs > 0, "no program ended");
}

static void store_junk(struct stage *s)
{
    static const char *const names[] = {"junk", "zz9", "ffffffs", "3c", "s", "unknown"};
    int pair[2];

    for (size_t i = 0; i < COUNT_OF(names); i += 2) {
        CHECK(pipe(pair) == 0, "pipe");
        fakepid1_store(&s->pid1, names[i], pair[0]);
        fakepid1_store(&s->pid1, names[i + 1], pair[1]);
    }
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0, "socketpair");
    fakepid1_store(&s->pid1, "1s", pair[0]); /* half a session, whose client lives */
    fakepid1_store(&s->pid1, "5s", pair[1]);
}

static void test_junk(struct stage *s, const struct daemon_baseline *baseline)
{
    fakepid1_kill(&s->pid1, &s->daemon);
    s->pid1.keep_hung_up = true;
    store_junk(s);
    unsigned junk = s->pid1.stored_count;
    start_daemon(s);
    run_until_stored(s, 0);
    daemon_baseline_check(&s->daemon, baseline, 2 * NS_PER_S);
    s->pid1.keep_hung_up = false;
    printf("%u foreign descriptors were closed and removed\n", junk);
}

/* A session whose D2C header says another version must not be interpreted. */
static void test_version(struct stage *s)
{
    static const struct {
        const char *what;
        size_t offset;
        uint32_t value;
    } edits[] = {
        {"version", offsetof(struct region_d2c_header, version), 99},
        {"layout_hash", offsetof(struct region_d2c_header, layout_hash), 1},
        {"magic", offsetof(struct region_d2c_header, magic), 0},
    };

    for (size_t i = 0; i < COUNT_OF(edits); i++) {
        struct raw_session raw;
        CHECK(raw_open(&raw, s->daemon.socket_path, 1, 4096) == 0, "no session");
        run_until_stored(s, 1);
        char name[16];
        (void)snprintf(name, sizeof name, "%xd", raw.reply.slot);
        fakepid1_kill(&s->pid1, &s->daemon);
        const struct fakepid1_stored *stored = fakepid1_find(&s->pid1, name);
        CHECK(stored != NULL, "D2C is not stored as %s", name);
        CHECK(pwrite(stored->fd, &edits[i].value, sizeof edits[i].value, (off_t)edits[i].offset) ==
                  sizeof edits[i].value,
              "the stored D2C is not writable");
        start_daemon(s);
        CHECK(daemon_counter(&s->daemon, COUNTER_clients) == 0, "a session with another %s lives",
              edits[i].what);
        run_until_stored(s, 0);
        CHECK(raw_hung_up(&raw), "the client was not told");
        raw_close(&raw);
    }
    printf("sessions of an unknown version, layout or magic were refused and removed\n");
}

/* After such a refusal the library connects anew and resumes. */
static void test_version_resumes(struct stage *s)
{
    uint32_t version = 99;
    struct dynasor_client *client = stream_connect(s->daemon.socket_path, 1, 1 << 16);
    struct dynasor_lane *lane = stream_lane(client);
    struct stream_result result;

    run_until_stored(s, 1);
    CHECK(stream_submit(lane, 5, &limits, &result) == 0, "submit");
    fakepid1_kill(&s->pid1, &s->daemon);
    for (unsigned i = 0; i < s->pid1.stored_count; i++)
        if (strchr(s->pid1.stored[i].name, 'd'))
            CHECK(pwrite(s->pid1.stored[i].fd, &version, sizeof version,
                         offsetof(struct region_d2c_header, version)) == sizeof version,
                  "the stored D2C is not writable");
    start_daemon(s);
    while (result.state == 0) {
        struct dynasor_event event;
        int r = dynasor_next(lane, &event, 10 * NS_PER_S);
        fakepid1_run(&s->pid1, &s->daemon, 0, false);
        CHECK(r == 0 || r == -DYNASOR_E_RESTARTING, "next: %s", dynasor_status_name(r));
        if (r == 0)
            stream_take(&result, &event, now_ns());
    }
    stream_check(&result, &s->expected[5], 5);
    CHECK(dynasor_reconnects_count(client) == 1, "reconnects: %" PRIu64,
          dynasor_reconnects_count(client));
    dynasor_disconnect(client);
    run_until_stored(s, 0);
}

static void run_until_unmoved(struct stage *s, const struct region_program *entry)
{
    uint32_t sent, state;

    do {
        sent = shm_load_u32(&entry->tokens_sent_count);
        state = shm_load_u32(&entry->state);
        fakepid1_run(&s->pid1, &s->daemon, 20 * NS_PER_MS, false);
    } while (state < DYNASOR_STATE_RUNNING || sent != shm_load_u32(&entry->tokens_sent_count));
}

/* A program that gets no further between one crash and the next: the third restart serves without
 * it. That it stands still is our doing: nobody takes its events. */
static void test_poison(struct stage *s)
{
    struct raw_session raw;
    union wire_record record;
    union wire_event event;
    unsigned crashes = 0;
    struct daemon_options fast = {
        .daemon = "clients_max = 64\nlog_level = error\n",
        .engine = "sim_step_ns = 0\nsim_prefill_ns_per_token = 0\n",
    };

    daemon_configure(&s->daemon, &fast);
    fakepid1_kill(&s->pid1, &s->daemon);
    start_daemon(s);
    CHECK(raw_open(&raw, s->daemon.socket_path, 1, 4096) == 0, "no session");
    run_until_stored(s, 1);
    raw_submit_record(&record, 0, 1, 1, 1000000);
    CHECK(raw_push(&raw, 0, &record), "no room");
    raw_ring(&raw);
    const struct region_program *entry =
        region_program((void *)(uintptr_t)raw.d2c, &raw.reply.geometry, 0);
    while (run_until_unmoved(s, entry), entry->state != DYNASOR_STATE_FAILED) {
        CHECK(++crashes <= 3, "it runs again after three crashes");
        fakepid1_kill(&s->pid1, &s->daemon);
        start_daemon(s);
    }
    CHECK(crashes == 3, "quarantined after %u crashes", crashes);
    do
        CHECK(raw_event(&raw, 0, &event, 2 * NS_PER_S), "no END");
    while (event.kind != WIRE_EVENT_END);
    CHECK(event.end.state == DYNASOR_STATE_FAILED && event.end.status == DYNASOR_E_POISON,
          "END with state %u, status %u", event.end.state, event.end.status);
    raw_op_record(&record, WIRE_OP_RELEASE, 0, 1);
    CHECK(raw_push(&raw, 0, &record), "no room");
    raw_submit_record(&record, 0, 2, 1, 3);
    CHECK(raw_push(&raw, 0, &record), "no room");
    raw_ring(&raw);
    do
        CHECK(raw_event(&raw, 0, &event, 2 * NS_PER_S), "the session does not go on");
    while (event.kind != WIRE_EVENT_END);
    CHECK(event.end.program_id == 2 && event.end.state == DYNASOR_STATE_DONE, "another END");
    raw_close(&raw);
    run_until_stored(s, 0);
    printf("a program that ran in %u crashes ended FAILED/POISON\n", crashes);
}

/* ---- programs whose client decides ----------------------------------------------------------- */

enum { BUSY = 6, BUSY_TOKENS = 1500 };

/* With the shipped model, and room for four sequences a row. */
static void start_with_model(struct stage *s, uint32_t rows)
{
    char here[256], engine[512];
    CHECK(getcwd(here, sizeof here), "%m");
    (void)snprintf(engine, sizeof engine,
                   "policy = %s/tools/model/dynasor-5m/policy\nbatch_rows_max = %u\n", here, rows);
    daemon_configure(&s->daemon,
                     &(struct daemon_options){.daemon = "log_level = error\n", .engine = engine});
    fakepid1_kill(&s->pid1, &s->daemon);
    start_daemon(s);
}

static uint64_t submit_chat(struct dynasor_lane *lane, uint32_t algorithm, uint32_t max_tokens)
{
    static const char prompt[] = "What is 3 + 4?";
    uint64_t program;
    struct dynasor_sampling sampling = {.size = sizeof sampling, .temperature = 1, .ignore_eos = 1};
    struct dynasor_program_options o = {.size = sizeof o,
                                        .algorithm = algorithm,
                                        .sampling = &sampling,
                                        .seed = 1,
                                        .max_tokens = max_tokens,
                                        .chat = 1,
                                        .prompt_text = prompt,
                                        .prompt_bytes = sizeof prompt - 1};
    CHECK(dynasor_submit(lane, &o, &program) == 0, "submit: %s", dynasor_error(lane));
    return program;
}

/* Its next event of that kind; those of others are dropped. */
static struct dynasor_event take_event(struct stage *s, struct dynasor_lane *lane, uint64_t program,
                                       uint32_t kind)
{
    struct dynasor_event e;
    uint64_t deadline = now_ns() + START_MAX_NS;
    for (;;) {
        int r = dynasor_next(lane, &e, 10 * NS_PER_MS);
        CHECK(now_ns() < deadline, "program %" PRIu64 ": no event %u", program, kind);
        fakepid1_run(&s->pid1, &s->daemon, 0, false);
        CHECK(r == 0 || r == -DYNASOR_E_TIMEOUT || r == -DYNASOR_E_RESTARTING, "next: %s",
              dynasor_status_name(r));
        if (r != 0 || e.program != program)
            continue;
        CHECK(e.kind == kind || e.kind != DYNASOR_EVENT_END, "it ended in state %u, status %u",
              e.state, e.status);
        if (e.kind == kind)
            return e;
    }
}

/* In the only session that is stored. */
static uint32_t stored_state(struct stage *s, uint64_t program)
{
    for (unsigned i = 0; i < s->pid1.stored_count; i++) {
        if (!strchr(s->pid1.stored[i].name, 'd'))
            continue;
        struct region_d2c_header header;
        struct region_program entry;
        int fd = s->pid1.stored[i].fd;
        CHECK(pread(fd, &header, sizeof header, 0) == sizeof header, "%m");
        for (uint32_t k = 0; k < header.geometry.programs_count; k++) {
            off_t at = (off_t)(header.geometry.d2c_programs_off + k * sizeof entry);
            CHECK(pread(fd, &entry, sizeof entry, at) == sizeof entry, "%m");
            if (entry.program_id == program && entry.state != DYNASOR_STATE_FREE)
                return entry.state;
        }
    }
    return DYNASOR_STATE_FREE;
}

static uint32_t fork_branch(struct dynasor_lane *lane, uint64_t program)
{
    uint32_t branch;
    struct dynasor_branch_options o = {.size = sizeof o, .parent = DYNASOR_ROOT, .tokens_max = 4};
    CHECK(dynasor_fork(lane, program, &o, &branch) == 0, "fork: %s", dynasor_error(lane));
    return branch;
}

/* What a RUNNING one told of its branches died with the daemon: it ends FAILED/RESTARTED. A QUEUED one has told
 * nothing: the next daemon runs it. Both without a new connection. */
static void test_custom(struct stage *s)
{
    start_with_model(s, 1);
    struct dynasor_client *client = stream_connect(s->daemon.socket_path, 1, 1 << 16);
    struct dynasor_lane *lane = stream_lane(client);
    uint64_t busy[BUSY], running = submit_chat(lane, DYNASOR_ALGORITHM_CUSTOM, 64);
    run_until_stored(s, 1);
    (void)take_event(s, lane, running, DYNASOR_EVENT_READY);
    CHECK(fork_branch(lane, running) == 0, "its first branch is another");
    struct dynasor_event e = take_event(s, lane, running, DYNASOR_EVENT_BRANCH);
    CHECK(e.state == DYNASOR_BRANCH_HELD, "its branch is in state %u", e.state);
    for (uint32_t i = 0; i < BUSY; i++)
        busy[i] = submit_chat(lane, DYNASOR_ALGORITHM_SINGLE, BUSY_TOKENS);
    uint64_t queued = submit_chat(lane, DYNASOR_ALGORITHM_CUSTOM, 64);
    uint64_t deadline = now_ns() + START_MAX_NS;
    while (stored_state(s, queued) == DYNASOR_STATE_FREE)
        CHECK(now_ns() < deadline, "it is not taken");
    fakepid1_kill(&s->pid1, &s->daemon);
    CHECK(stored_state(s, running) == DYNASOR_STATE_RUNNING, "the one that runs does not");
    CHECK(stored_state(s, queued) == DYNASOR_STATE_QUEUED, "the one that waits does not");
    start_daemon(s);

    e = take_event(s, lane, running, DYNASOR_EVENT_END);
    CHECK(e.state == DYNASOR_STATE_FAILED && e.status == DYNASOR_E_RESTARTED,
          "it ended in state %u, status %u", e.state, e.status);
    CHECK(dynasor_kill(lane, running, 0) == -DYNASOR_E_CLOSED, "it takes commands: %s",
          dynasor_error(lane));
    for (uint32_t i = 0; i < BUSY; i++)
        (void)dynasor_cancel(lane, busy[i]); /* it may have ended */
    (void)take_event(s, lane, queued, DYNASOR_EVENT_READY);
    CHECK(fork_branch(lane, queued) == 0, "the branches of the one before are counted");
    (void)take_event(s, lane, queued, DYNASOR_EVENT_BRANCH);
    CHECK(dynasor_finish(lane, queued, DYNASOR_VERDICT_WHOLE, 0, DYNASOR_ROOT) == 0, "finish: %s",
          dynasor_error(lane));
    e = take_event(s, lane, queued, DYNASOR_EVENT_END);
    CHECK(e.state == DYNASOR_STATE_DONE, "it ended in state %u, status %u", e.state, e.status);
    CHECK(dynasor_reconnects_count(client) == 0, "the client had to connect anew");
    dynasor_disconnect(client);
    run_until_stored(s, 0);
    printf("custom: the one that ran ended FAILED/RESTARTED, the one that waited ran\n");
}

/* ---- a batch ---------------------------------------------------------------------------------- */

enum { MEMBERS = 3 };

/* The members of a batch; the first one has little to say. */
static void submit_members(struct dynasor_lane *lane, uint32_t max_tokens,
                           uint64_t ret_programs[MEMBERS])
{
    static const char prompt[] = "What is 3 + 4?";
    struct dynasor_sampling sampling = {.size = sizeof sampling, .temperature = 1, .ignore_eos = 1};
    for (uint32_t i = 0; i < MEMBERS; i++) {
        const struct dynasor_setting settings[] = {
            {.parameter = DYNASOR_PARAMETER_CAP, .value = 1},
            {.parameter = DYNASOR_PARAMETER_BATCH, .value = 9},
            {.parameter = DYNASOR_PARAMETER_BATCH_PROGRAMS, .value = MEMBERS},
            {.parameter = DYNASOR_PARAMETER_BATCH_TOKENS, .value = 1},
            {.parameter = DYNASOR_PARAMETER_BATCH_CAP, .value = 1}, /* it waits for nobody */
            {.parameter = DYNASOR_PARAMETER_BATCH_PLACE, .value = i},
        };
        struct dynasor_program_options o = {
            .size = sizeof o,
            .algorithm = DYNASOR_ALGORITHM_SC,
            .streams = DYNASOR_STREAM_RESULT,
            .sampling = &sampling,
            .seed = 1,
            .max_tokens = i > 0 ? max_tokens : 2,
            .chat = 1,
            .prompt_text = prompt,
            .prompt_bytes = sizeof prompt - 1,
            .settings = settings,
            .settings_count = sizeof settings / sizeof settings[0],
        };
        CHECK(dynasor_submit(lane, &o, &ret_programs[i]) == 0, "submit: %s", dynasor_error(lane));
    }
}

/* The ends of so many members, in any order. */
static void take_ends(struct stage *s, struct dynasor_lane *lane, uint32_t count, uint32_t state,
                      uint32_t status)
{
    struct dynasor_event e;
    uint64_t deadline = now_ns() + START_MAX_NS;
    while (count > 0) {
        int r = dynasor_next(lane, &e, 10 * NS_PER_MS);
        CHECK(now_ns() < deadline, "%u have not ended", count);
        fakepid1_run(&s->pid1, &s->daemon, 0, false);
        if (r != 0 || e.kind != DYNASOR_EVENT_END)
            continue;
        CHECK(e.state == state && e.status == status, "one ended in state %u, status %u", e.state,
              e.status);
        count--;
    }
}

/* The daemon dies when a member of a batch has ended: what that spent the next one does not know, and the others
 * end FAILED/RESTARTED, at once. The number is free then. */
static void test_batch(struct stage *s)
{
    start_with_model(s, MEMBERS);
    struct dynasor_client *client = stream_connect(s->daemon.socket_path, 1, 1 << 16);
    struct dynasor_lane *lane = stream_lane(client);
    uint64_t members[MEMBERS];
    run_until_stored(s, 1);
    submit_members(lane, 1900, members);
    take_ends(s, lane, 1, DYNASOR_STATE_DONE, 0);
    fakepid1_kill(&s->pid1, &s->daemon);
    for (uint32_t i = 1; i < MEMBERS; i++)
        CHECK(stored_state(s, members[i]) == DYNASOR_STATE_RUNNING, "member %u is in state %u", i,
              stored_state(s, members[i]));
    start_daemon(s);
    take_ends(s, lane, MEMBERS - 1, DYNASOR_STATE_FAILED, DYNASOR_E_RESTARTED);
    submit_members(lane, 3, members);
    take_ends(s, lane, MEMBERS, DYNASOR_STATE_DONE, 0);
    CHECK(dynasor_reconnects_count(client) == 0, "the client had to connect anew");
    dynasor_disconnect(client);
    run_until_stored(s, 0);
    printf("a batch that had lost a member: the others ended FAILED/RESTARTED\n");
}

static void test_manager(struct stage *s)
{
    s->pid1.watchdog_count = 0;
    fakepid1_run(&s->pid1, &s->daemon, 1200 * NS_PER_MS, false);
    CHECK(s->pid1.watchdog_count >= 1, "no WATCHDOG=1 in 1.2 s with WATCHDOG_USEC=2000000");
    unsigned stopping = s->pid1.stopping_count;
    daemon_stop(&s->daemon);
    fakepid1_run(&s->pid1, &s->daemon, 0, false);
    CHECK(s->pid1.stopping_count == stopping + 1, "STOPPING=1 was not sent");
    CHECK(access(s->daemon.socket_path, F_OK) == 0, "PID 1's socket was removed");
}

int main(void)
{
    static struct stage s;
    struct daemon_baseline baseline;
    struct daemon_options options = {
        .daemon = "clients_max = 64\nlog_level = warn\n",
        .engine = "sim_step_ns = 50000\nsim_prefill_ns_per_token = 0\n",
    };

    s.rng.state = check_number("SEED", 11);
    printf("seed %" PRIu64 "\n", s.rng.state);
    s.shared = shared_new(sizeof *s.shared);
    daemon_open(&s.daemon, &options);
    fakepid1_open(&s.pid1, &s.daemon);
    start_daemon(&s);
    struct dynasor_client *client = stream_connect(s.daemon.socket_path, 1, 1 << 16);
    stream_run_all(stream_lane(client), PROGRAMS, &limits, s.expected);
    dynasor_disconnect(client);
    run_until_stored(&s, 0);
    daemon_baseline_take(&s.daemon, &baseline);
    test_random_kills(&s, &baseline);
    test_junk(&s, &baseline);
    test_version(&s);
    test_version_resumes(&s);
    test_poison(&s);
    test_custom(&s);
    test_batch(&s);
    test_manager(&s);
    daemon_log_check(&s.daemon);
    fakepid1_close(&s.pid1);
    daemon_close(&s.daemon);
    return 0;
}
