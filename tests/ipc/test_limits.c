/* tests/ipc/test_limits.c: at its limits the daemon refuses at once and serves whoever is there.
 *
 * First a limit of clients, then RLIMIT_NOFILE=64: two hundred connections, of which those beyond the
 * limit get the status LIMIT in less than 100 ms while an honest client's streams stay what they were
 * and the daemon's CPU stays idle; connections that are given up make room. Silent connections are
 * closed after handshake_timeout_ms, and cannot keep another uid out. */
/* timeout: 60 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/lib/daemon.h"
#include "tests/lib/raw.h"
#include "tests/lib/stream.h"

enum { PROGRAMS = 16, FLOOD = 200, OTHER_UID = 65533 };
#define REFUSAL_MAX_NS (100 * NS_PER_MS)

static const struct stream_limits limits = {.max_tokens = 40, .prompt_bytes = 500};

struct flood {
    struct raw_session session[FLOOD];
    unsigned accepted, refused;
    uint64_t refusal_max_ns;
};

/* Opens sessions until FLOOD were tried. */
static void flood_open(struct flood *f, const struct test_daemon *d)
{
    *f = (struct flood){0};
    for (int i = 0; i < FLOOD; i++) {
        uint64_t begin_ns = now_ns();
        int r = raw_open(&f->session[i], d->socket_path, 1, 4096);
        uint64_t took_ns = now_ns() - begin_ns;
        if (r == 0) {
            f->accepted++;
            continue;
        }
        CHECK(r == DYNASOR_E_LIMIT, "connection %d: %d (%s)", i, r,
              r < 0 ? strerror(-r) : dynasor_status_name(r));
        f->refused++;
        if (took_ns > f->refusal_max_ns)
            f->refusal_max_ns = took_ns;
    }
}

static void flood_close(struct flood *f)
{
    for (int i = 0; i < FLOOD; i++)
        raw_close(&f->session[i]);
}

static void run_programs(struct dynasor_lane *lane, const struct stream_result *expected)
{
    struct stream_result got[PROGRAMS];

    stream_run_all(lane, PROGRAMS, &limits, got);
    for (uint64_t i = 0; expected && i < PROGRAMS; i++)
        stream_check(&got[i], &expected[i], i);
}

/* An idle second with everything at its limit, and one with refusals all the time. */
static void check_cpu(const struct test_daemon *d)
{
    uint64_t before = process_cpu_ns(d->pid);
    sleep_ns(500 * NS_PER_MS);
    uint64_t used = process_cpu_ns(d->pid) - before;

    CHECK(used < 25 * NS_PER_MS, "%" PRIu64 " us of CPU in 500 ms at the limit", used / 1000);
}

static void test_flood(const char *what, const struct daemon_options *options,
                       unsigned accepted_min, unsigned accepted_max)
{
    static struct flood f;
    struct test_daemon d;
    struct stream_result expected[PROGRAMS];
    struct daemon_baseline baseline;

    daemon_open(&d, options);
    daemon_start(&d);
    struct dynasor_client *client = stream_connect(d.socket_path, 1, 1 << 16);
    struct dynasor_lane *lane = stream_lane(client);
    stream_run_all(lane, PROGRAMS, &limits, expected);
    daemon_baseline_take(&d, &baseline);

    flood_open(&f, &d);
    printf("%s: %u accepted, %u refused within %" PRIu64 " us\n", what, f.accepted, f.refused,
           f.refusal_max_ns / 1000);
    CHECK(f.accepted >= accepted_min && f.accepted <= accepted_max, "%u were accepted", f.accepted);
    CHECK(f.refusal_max_ns < REFUSAL_MAX_NS, "a refusal took %" PRIu64 " ms",
          f.refusal_max_ns / NS_PER_MS);
    run_programs(lane, expected);
    check_cpu(&d);
    run_programs(lane, expected);

    flood_close(&f);
    daemon_baseline_check(&d, &baseline, NS_PER_S);
    flood_open(&f, &d);
    CHECK(f.accepted >= accepted_min, "only %u were accepted once the others had gone", f.accepted);
    flood_close(&f);
    run_programs(lane, expected);
    daemon_baseline_check(&d, &baseline, NS_PER_S);
    dynasor_disconnect(client);
    daemon_stop(&d);
    daemon_log_check(&d);
    daemon_close(&d);
}

/* Connected and silent: told TIMEOUT and closed by the daemon in time. */
static void test_silent(const struct test_daemon *d)
{
    int fds[8];
    struct wire_reply reply;

    uint64_t begin_ns = now_ns();
    for (size_t i = 0; i < COUNT_OF(fds); i++) {
        fds[i] = raw_connect(d->socket_path);
        CHECK(fds[i] >= 0, "connect: %s", strerror(-fds[i]));
    }
    for (size_t i = 0; i < COUNT_OF(fds); i++) {
        ssize_t got = recv(fds[i], &reply, sizeof reply, 0);
        CHECK(got == (ssize_t)sizeof reply && reply.fault.status == DYNASOR_E_TIMEOUT &&
                  reply.fault.field == DYNASOR_FIELD_HELLO,
              "a silent connection: %zd, %s", got, strerror(errno));
        got = recv(fds[i], &reply, sizeof reply, 0);
        CHECK(got == 0 || (got < 0 && errno == ECONNRESET), "after the refusal: %zd, %s", got,
              strerror(errno));
        (void)close(fds[i]);
    }
    uint64_t took_ns = now_ns() - begin_ns;
    CHECK(took_ns > 250 * NS_PER_MS && took_ns < 3 * NS_PER_S,
          "silent connections ended after %" PRIu64 " ms", took_ns / NS_PER_MS);
}

struct squatter {
    const struct test_daemon *daemon;
    uint32_t *ready;
};

/* Keeps as many silent connections as it can, anew whenever one ends. */
__attribute__((noreturn)) static int squat(void *argument)
{
    const struct squatter *s = argument;
    struct pollfd fds[FLOOD];

    become_uid(OTHER_UID, s->daemon->folder);
    for (int i = 0; i < FLOOD; i++)
        fds[i].fd = -1;
    for (;;) {
        for (int i = 0; i < FLOOD; i++) {
            fds[i].events = POLLIN;
            if (fds[i].fd < 0)
                fds[i].fd = raw_connect(DAEMON_SOCKET_NAME);
        }
        shm_store_release_u32(s->ready, 1);
        (void)poll(fds, FLOOD, 20);
        for (int i = 0; i < FLOOD; i++) {
            if (fds[i].fd < 0 || (fds[i].revents & (POLLIN | POLLHUP)) == 0)
                continue;
            (void)close(fds[i].fd);
            fds[i].fd = -1;
        }
    }
}

static void test_squatters(const struct test_daemon *d)
{
    struct squatter s = {d, shared_new(sizeof(uint32_t))};
    pid_t pid = child_start(squat, &s);

    while (!shm_load_acquire_u32(s.ready))
        sleep_ns(NS_PER_MS);
    for (int i = 0; i < 20; i++) {
        struct raw_session session;
        int r = raw_open(&session, d->socket_path, 1, 4096);
        CHECK(r == 0, "silent connections of another uid keep us out: %d (%s)", r,
              r < 0 ? strerror(-r) : dynasor_status_name(r));
        raw_close(&session);
        sleep_ns(20 * NS_PER_MS);
    }
    child_kill(pid);
}

int main(void)
{
    struct test_daemon d;
    struct daemon_baseline baseline;
    struct daemon_options options = {
        .daemon = "clients_max = 32\nlog_level = error\n",
        .quota = "connections = 4096\n",
        .engine = "sim_step_ns = 0\nsim_prefill_ns_per_token = 0\n",
    };

    test_flood("clients_max = 32", &options, 31, 31);
    /* Each session takes four descriptors, or three; some are the daemon's own. */
    options.daemon = "clients_max = 512\nlog_level = error\n";
    options.descriptors_max = 64;
    test_flood("RLIMIT_NOFILE = 64", &options, 4, 15);

    options.daemon = "clients_max = 64\nlog_level = error\nhandshake_timeout_ms = 300\n"
                     "socket_mode = 0666\n";
    options.quota = "connections = 16\n";
    options.descriptors_max = 0;
    daemon_open(&d, &options);
    daemon_start(&d);
    daemon_baseline_take(&d, &baseline);
    test_silent(&d);
    daemon_baseline_check(&d, &baseline, NS_PER_S);
    if (geteuid() == 0)
        test_squatters(&d);
    else
        printf("[  SKIPPED ] squatters: only root can become a second uid\n");
    daemon_baseline_check(&d, &baseline, NS_PER_S);
    daemon_stop(&d);
    daemon_log_check(&d);
    daemon_close(&d);
    return 0;
}
