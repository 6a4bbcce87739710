/* tests/ipc/test_hostile.c: clients that break every rule harm nobody but themselves.
 *
 * Nine attackers (tests/lib/attack.h) under a second uid against a daemon with ASan and UBSan; beside
 * them an honest client whose streams must equal those of a quiet run. Slices with attackers
 * alternate with slices in which as many processes only burn CPU: the honest client's p99 from submit
 * to first event may at most double. Attackers that are frozen in mid-attack must leave the daemon
 * asleep; at the end everything it held for them is back.
 * HOSTILE_SECONDS (default 60) is the length of all slices together; SEED repeats the attacks. */
/* timeout: 150 */
/* serial */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/attack.h"
#include "tests/lib/daemon.h"
#include "tests/lib/stream.h"

enum {
    PROGRAMS = 64,
    LATENCIES_MAX = 1 << 18, /* of one slice */
    SLICES_MAX = 4096,
    HOSTILE_UID = 65533,
};
#define ATTACK_SLICE_NS (4 * NS_PER_S)
#define BURN_SLICE_NS (2 * NS_PER_S)
#define SETTLE_NS (150 * NS_PER_MS)
#define STALL_MAX_NS NS_PER_S
#define THINK_NS NS_PER_MS

static const struct stream_limits limits = {.max_tokens = 40, .prompt_bytes = 2000};

struct honest {     /* shared with the honest client's process */
    uint32_t slice; /* 0: pause; odd numbers: measure; grows with each slice */
    uint32_t paused;
    uint32_t stop;
    uint64_t runs;
    uint64_t latencies_count;
    uint64_t latency_max;
    uint64_t latency[LATENCIES_MAX];
};

struct hostile {
    struct test_daemon daemon;
    struct daemon_baseline baseline;
    struct honest *honest;
    struct attack_counts *counts; /* one for each mode */
    struct stream_result expected[PROGRAMS];
    struct attack attacks[ATTACK_MODES];
    pid_t children[ATTACK_MODES];
    pid_t honest_pid;
    uint64_t seed;
    uint64_t p99[2][SLICES_MAX]; /* [burn] */
    size_t p99_count[2];
};

static int honest_run(void *argument)
{
    struct hostile *h = argument;
    struct honest *honest = h->honest;
    struct dynasor_client *client = stream_connect(h->daemon.socket_path, 1, 1 << 16);
    struct dynasor_lane *lane = stream_lane(client);
    struct rng rng = {h->seed};

    for (uint64_t number = 0; !shm_load_acquire_u32(&honest->stop);
         number = (number + 1) % PROGRAMS) {
        struct stream_result result;
        uint32_t slice = shm_load_acquire_u32(&honest->slice);
        shm_store_release_u32(&honest->paused, slice == 0);
        if (slice == 0) {
            sleep_ns(NS_PER_MS);
            continue;
        }
        int r = stream_run(lane, number, &limits, &result);
        CHECK(r == 0, "the honest client: %s: %s", dynasor_status_name(r), dynasor_error(lane));
        stream_check(&result, &h->expected[number], number);
        uint64_t latency = result.first_ns - result.submitted_ns;
        uint64_t at = honest->latencies_count;
        if (shm_load_acquire_u32(&honest->slice) == slice && at < LATENCIES_MAX) {
            honest->latency[at] = latency;
            shm_store_release_u64(&honest->latencies_count, at + 1);
        }
        if (latency > honest->latency_max)
            honest->latency_max = latency;
        honest->runs++;
        /* Asked at random moments, as people do: back to back, its own speed would decide how many of
         * the answers meet a busy processor, and so where the p99 lies. */
        sleep_ns(rng_below(&rng, 2 * THINK_NS));
    }
    CHECK(dynasor_reconnects_count(client) == 0, "the honest client lost its session");
    dynasor_disconnect(client);
    return 0;
}

static void quiet_run(struct hostile *h)
{
    struct dynasor_client *client = stream_connect(h->daemon.socket_path, 1, 1 << 16);
    struct dynasor_lane *lane = stream_lane(client);
    struct stream_result again[PROGRAMS];

    stream_run_all(lane, PROGRAMS, &limits, h->expected);
    stream_run_all(lane, PROGRAMS, &limits, again);
    for (uint64_t i = 0; i < PROGRAMS; i++)
        stream_check(&again[i], &h->expected[i], i);
    dynasor_disconnect(client);
}

static void pause_honest(struct hostile *h)
{
    shm_store_release_u32(&h->honest->slice, 0);
    uint64_t deadline = now_ns() + 10 * NS_PER_S;
    while (!shm_load_acquire_u32(&h->honest->paused)) {
        CHECK(now_ns() < deadline, "the honest client makes no progress");
        sleep_ns(NS_PER_MS);
    }
}

/* With every attacker frozen where it was, and nobody else: nothing may keep the daemon busy. */
static void check_sleeps(struct hostile *h)
{
    uint64_t deadline = now_ns() + 5 * NS_PER_S;

    for (int i = 0; i < ATTACK_MODES; i++)
        (void)kill(h->children[i], SIGSTOP);
    pause_honest(h);
    for (;;) {
        uint64_t before = process_cpu_ns(h->daemon.pid);
        sleep_ns(200 * NS_PER_MS);
        uint64_t used = process_cpu_ns(h->daemon.pid) - before;
        if (used < 10 * NS_PER_MS)
            return;
        CHECK(now_ns() < deadline,
              "frozen attackers keep the daemon busy: %" PRIu64 " us of 200 ms", used / 1000);
    }
}

static void run_slice(struct hostile *h, uint32_t slice, bool burn, uint64_t duration_ns)
{
    struct honest *honest = h->honest;

    for (int i = 0; i < ATTACK_MODES; i++) {
        h->attacks[i].seed = h->seed ^ (uint64_t)slice << 32 ^ (uint64_t)i << 16;
        h->children[i] = child_start(burn ? burn_run : attack_run, &h->attacks[i]);
    }
    sleep_ns(SETTLE_NS);
    honest->latencies_count = 0;
    honest->latency_max = 0;
    shm_store_release_u32(&honest->slice, slice);
    sleep_ns(duration_ns);
    if (burn)
        pause_honest(h);
    else
        check_sleeps(h);
    for (int i = 0; i < ATTACK_MODES; i++)
        child_kill(h->children[i]);
    size_t count = (size_t)honest->latencies_count;
    CHECK(count > 0, "the honest client finished nothing in a slice");
    CHECK(honest->latency_max < STALL_MAX_NS, "the honest client waited %" PRIu64 " ms",
          honest->latency_max / NS_PER_MS);
    CHECK(daemon_alive(&h->daemon), "the daemon is gone");
    uint64_t p50 = percentile(honest->latency, count, 500);
    uint64_t p99 = percentile(honest->latency, count, 990);
    h->p99[burn][h->p99_count[burn]++] = p99;
    printf("slice %u %s: %zu programs, submit to first event p50 %" PRIu64 " us, p99 %" PRIu64
           " us, most %" PRIu64 " us\n",
           slice, burn ? "burners  " : "attackers", count, p50 / 1000, p99 / 1000,
           honest->latency_max / 1000);
    (void)fflush(stdout);
}

static void check_result(struct hostile *h)
{
    uint64_t attack_p99 = percentile(h->p99[0], h->p99_count[0], 500);
    uint64_t burn_p99 = percentile(h->p99[1], h->p99_count[1], 500);

    for (int i = 0; i < ATTACK_MODES; i++) {
        const struct attack_counts *c = &h->counts[i];
        printf("  %-12s %8" PRIu64 " actions, %6" PRIu64 " sessions, %6" PRIu64
               " ended by the daemon, %6" PRIu64 " refused\n",
               attack_names[i], c->actions, c->sessions, c->byes, c->refusals);
        CHECK(c->actions > 0, "attack %s did nothing", attack_names[i]);
    }
    printf("p99, median of slices: %" PRIu64 " us attacked, %" PRIu64 " us beside burners\n",
           attack_p99 / 1000, burn_p99 / 1000);
    daemon_print_counters(&h->daemon);
#if defined(__SANITIZE_THREAD__)
    printf("ThreadSanitizer slows the daemon, not the burners: the two are not compared\n");
#else
    CHECK(attack_p99 <= 2 * burn_p99, "the attackers cost more than twice what burners cost");
#endif
    uint64_t turn_ns = daemon_counter(&h->daemon, COUNTER_loop_max_ns);
    CHECK(turn_ns < STALL_MAX_NS, "a turn of the daemon took %" PRIu64 " ms", turn_ns / NS_PER_MS);
    CHECK(daemon_counter(&h->daemon, COUNTER_clients_violated) > 0, "no violation was noticed");
}

static void open_all(struct hostile *h, const char *binary)
{
    struct daemon_options options = {
        .binary = binary,
        .daemon = "socket_mode = 0666\nclients_max = 128\nhandshake_timeout_ms = 100\n"
                  "slow_consumer_grace_ms = 500\nlog_level = error\n",
        .quota = "connections = 48\nprograms = 200\n",
        .engine = "sim_step_ns = 0\nsim_prefill_ns_per_token = 0\n",
        .nice_of_unit = true, /* part of the defence: attackers' processes burn both cores */
    };

    daemon_open(&h->daemon, &options);
    h->honest = shared_new(sizeof *h->honest);
    h->counts = shared_new(ATTACK_MODES * sizeof *h->counts);
    for (int i = 0; i < ATTACK_MODES; i++)
        h->attacks[i] = (struct attack){.mode = (enum attack_mode)i,
                                        .socket_path = DAEMON_SOCKET_NAME,
                                        .folder = h->daemon.folder,
                                        .uid = HOSTILE_UID,
                                        .counts = &h->counts[i]};
    daemon_start(&h->daemon);
    quiet_run(h);
    daemon_baseline_take(&h->daemon, &h->baseline);
    CHECK(h->baseline.clients == 0, "the quiet client is still there");
    h->honest_pid = child_start(honest_run, h);
}

int main(void)
{
    static struct hostile h;
    char binary[512];
    uint64_t slices_ns = check_number("HOSTILE_SECONDS", 60) * NS_PER_S;
    bool sanitized = daemon_find(binary, sizeof binary, "asan", "dynasord");

    h.seed = check_number("SEED", 20240611);
    if (!sanitized && !check_sanitized() && !getenv("DYN_DAEMON"))
        CHECK(false, "there is no dynasord with sanitizers in $DYN_BUILD/asan/bin");
    printf("seed %" PRIu64 ", daemon %s\n", h.seed, sanitized ? "asan" : "of this build");
    open_all(&h, sanitized && !getenv("DYN_DAEMON") ? binary : NULL);

    uint64_t started_ns = daemon_counter(&h.daemon, COUNTER_started_ns);
    uint64_t pairs = slices_ns / (ATTACK_SLICE_NS + BURN_SLICE_NS);
    pairs = pairs < 1 ? 1 : pairs > SLICES_MAX ? SLICES_MAX : pairs;
    for (uint32_t i = 0; i < pairs; i++) {
        run_slice(&h, 4 * i + 1, false, ATTACK_SLICE_NS);
        run_slice(&h, 4 * i + 3, true, BURN_SLICE_NS);
    }
    shm_store_release_u32(&h.honest->stop, 1);
    CHECK(child_wait(h.honest_pid) == 0, "the honest client failed");
    daemon_baseline_check(&h.daemon, &h.baseline, 3 * NS_PER_S);
    CHECK(daemon_counter(&h.daemon, COUNTER_started_ns) == started_ns, "it is another daemon");
    check_result(&h);
    daemon_stop(&h.daemon);
    daemon_log_check(&h.daemon);
    daemon_close(&h.daemon);
    return 0;
}
