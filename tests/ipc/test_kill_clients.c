/* tests/ipc/test_kill_clients.c: a client that dies at any instant leaves nothing behind.
 *
 * Several clients at a time connect, submit, cancel, take events and release as fast as they can and
 * are killed with SIGKILL after a random time, from the first instruction after fork() on; each is
 * replaced. Beside them one honest client's streams must equal those of a quiet run. At the end
 * descriptors, mappings and every account of the daemon are exactly what they were before.
 * KILLS (default 1000) is how many; SEED repeats the times. */
/* timeout: 100 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "tests/lib/daemon.h"
#include "tests/lib/raw.h"
#include "tests/lib/stream.h"

enum { PROGRAMS = 64, VICTIMS = 6 };

static const struct stream_limits limits = {.max_tokens = 60, .prompt_bytes = 3000};

struct campaign {
    struct test_daemon daemon;
    struct stream_result expected[PROGRAMS];
    struct shared {
        uint32_t stop;
        uint64_t honest_runs;
        uint64_t connected; /* victims that came so far, about */
        uint64_t submitted;
    } * shared;
    uint64_t seed;
};

struct victim {
    struct campaign *campaign;
    uint64_t number;
};

static int honest_run(void *argument)
{
    struct campaign *c = argument;
    struct dynasor_client *client = stream_connect(c->daemon.socket_path, 1, 1 << 16);
    struct dynasor_lane *lane = stream_lane(client);

    for (uint64_t i = 0; !shm_load_acquire_u32(&c->shared->stop); i = (i + 1) % PROGRAMS) {
        struct stream_result result;
        int r = stream_run(lane, i, &limits, &result);
        CHECK(r == 0, "the honest client: %s: %s", dynasor_status_name(r), dynasor_error(lane));
        stream_check(&result, &c->expected[i], i);
        c->shared->honest_runs++;
    }
    CHECK(dynasor_reconnects_count(client) == 0, "the honest client lost its session");
    dynasor_disconnect(client);
    return 0;
}

/* All that a client can do, in an order of its own. Never ends by itself. */
static void live(struct campaign *c, struct rng *rng)
{
    enum { OPEN = 64 };
    struct stream_result results[OPEN];
    uint32_t lanes = 1 + (uint32_t)rng_below(rng, 3);
    struct dynasor_client *client = stream_connect(c->daemon.socket_path, lanes, 1 << 16);
    struct dynasor_lane *lane[3];

    for (uint32_t i = 0; i < lanes; i++)
        lane[i] = stream_lane(client);
    shm_fetch_add_u64(&c->shared->connected, 1);
    memset(results, 0, sizeof results);
    for (;;) {
        uint32_t i = (uint32_t)rng_below(rng, OPEN);
        uint32_t l = i % lanes;
        struct dynasor_event event;
        if (results[i].program == 0) {
            int r = stream_submit(lane[l], rng_next(rng), &limits, &results[i]);
            CHECK(r == 0 || r == -DYNASOR_E_AGAIN, "submit: %s: %s", dynasor_status_name(r),
                  dynasor_error(lane[l]));
            if (r != 0)
                results[i].program = 0;
            shm_fetch_add_u64(&c->shared->submitted, r == 0);
        } else if (results[i].state == 0 && rng_below(rng, 8) == 0) {
            (void)dynasor_cancel(lane[l], results[i].program); /* AGAIN is fine */
        } else if (results[i].state != 0 && dynasor_release(lane[l], results[i].program) == 0) {
            results[i].program = 0;
        }
        uint64_t patience = rng_below(rng, 4) == 0 ? rng_below(rng, NS_PER_MS) : 0;
        if (dynasor_next(lane[l], &event, patience) == 0)
            stream_take((struct stream_result *)(uintptr_t)event.user_data, &event, now_ns());
    }
}

/* The same by hand, without a bell or a look at the events: dies in the middle of any store. */
static void live_raw(struct campaign *c, struct rng *rng)
{
    struct raw_session s;
    union wire_record record;

    CHECK(raw_open(&s, c->daemon.socket_path, 2, 4096) == 0, "the daemon refused a session");
    shm_fetch_add_u64(&c->shared->connected, 1);
    for (uint64_t id = 1;; id++) {
        uint32_t index = (uint32_t)(id % DYNASOR_PROGRAMS_MAX);
        if (id > DYNASOR_PROGRAMS_MAX) /* its entry is taken: nothing more to submit */
            raw_op_record(&record, WIRE_OP_CANCEL, index, id - DYNASOR_PROGRAMS_MAX);
        else
            raw_submit_record(&record, index, id, rng_next(rng), 1000);
        while (!raw_push(&s, (uint32_t)rng_below(rng, 2), &record))
            raw_ring(&s);
        raw_ring(&s);
        shm_fetch_add_u64(&c->shared->submitted, 1);
    }
}

static int victim_run(void *argument)
{
    const struct victim *v = argument;
    struct rng rng = {v->campaign->seed ^ v->number << 20};

    if (rng_below(&rng, 3) == 0)
        live_raw(v->campaign, &rng);
    else
        live(v->campaign, &rng);
    return 1;
}

static void kill_many(struct campaign *c, uint64_t kills)
{
    struct rng rng = {c->seed};
    pid_t pids[VICTIMS] = {0};

    for (uint64_t i = 0; i < kills + VICTIMS; i++) {
        pid_t *pid = &pids[i % VICTIMS];
        if (*pid) {
            int status;
            (void)kill(*pid, SIGKILL);
            status = child_wait(*pid);
            CHECK(status == 128 + SIGKILL, "a client ended by itself: %d", status);
            *pid = 0;
        }
        if (i >= kills)
            continue;
        struct victim v = {c, i};
        *pid = child_start(victim_run, &v);
        /* A third dies young, in its handshake; the others live up to some 20 ms. */
        if (rng_below(&rng, 3) == 0) {
            sleep_ns(rng_below(&rng, NS_PER_MS));
            (void)kill(*pid, SIGKILL);
        } else {
            sleep_ns(rng_below(&rng, 4 * NS_PER_MS));
        }
    }
}

int main(void)
{
    static struct campaign c;
    struct daemon_baseline baseline;
    uint64_t kills = check_number("KILLS", 1000);
    struct daemon_options options = {
        .daemon = "clients_max = 64\nlog_level = warn\n",
        .quota = "programs = 65536\n",
        .engine = "sim_step_ns = 20000\nsim_prefill_ns_per_token = 0\n",
    };

    c.seed = check_number("SEED", 7);
    printf("seed %" PRIu64 "\n", c.seed);
    c.shared = shared_new(sizeof *c.shared);
    daemon_open(&c.daemon, &options);
    daemon_start(&c.daemon);
    struct dynasor_client *client = stream_connect(c.daemon.socket_path, 1, 1 << 16);
    stream_run_all(stream_lane(client), PROGRAMS, &limits, c.expected);
    dynasor_disconnect(client);
    daemon_baseline_take(&c.daemon, &baseline);
    CHECK(baseline.clients == 0 && baseline.region_bytes == 0 && baseline.queued_bytes == 0 &&
              baseline.programs_active == 0,
          "a client that left is still accounted for");

    pid_t honest = child_start(honest_run, &c);
    uint64_t begin_ns = now_ns();
    kill_many(&c, kills);
    uint64_t took_ms = (now_ns() - begin_ns) / NS_PER_MS;
    shm_store_release_u32(&c.shared->stop, 1);
    CHECK(child_wait(honest) == 0, "the honest client failed");
    daemon_baseline_check(&c.daemon, &baseline, NS_PER_S);
    printf("%" PRIu64 " kills in %" PRIu64 " ms: %" PRIu64 " had connected, %" PRIu64
           " programs submitted; the honest client ran %" PRIu64 "\n",
           kills, took_ms, c.shared->connected, c.shared->submitted, c.shared->honest_runs);
    daemon_print_counters(&c.daemon);
    CHECK(c.shared->connected * 4 > kills, "most clients were killed before they had connected");
    CHECK(c.shared->honest_runs > 0, "the honest client did nothing");
    CHECK(daemon_counter(&c.daemon, COUNTER_programs_accepted) ==
              daemon_counter(&c.daemon, COUNTER_programs_done) +
                  daemon_counter(&c.daemon, COUNTER_programs_cancelled) +
                  daemon_counter(&c.daemon, COUNTER_programs_failed),
          "accepted programs and ended programs differ");
    daemon_stop(&c.daemon);
    daemon_log_check(&c.daemon);
    daemon_close(&c.daemon);
    return 0;
}
