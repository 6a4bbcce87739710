/* tests/ipc/test_d2c_readonly.c: no client of another uid can write what the daemon writes, and what it
 * does to its own region hurts only itself.
 *
 * On the descriptors that the live daemon handed out, as a second uid: D2C is mapped writable,
 * mprotected, re-opened through /proc, resized, punched, sealed, chmodded and chowned; none may
 * succeed and none may change a byte. C2D must refuse to be resized and sealed further; holes in it
 * are allowed and may end this session, but not the one beside it. */
/* timeout: 30 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/daemon.h"
#include "tests/lib/raw.h"
#include "tests/lib/stream.h"

enum { OTHER_UID = 65533, PROGRAMS = 16 };

static const struct stream_limits limits = {.max_tokens = 40, .prompt_bytes = 500};

/* Call must fail. */
#define REFUSED(call)                                                                              \
    do {                                                                                           \
        errno = 0;                                                                                 \
        CHECK((intptr_t)(call) == -1, "this was allowed");                                         \
        printf("  %-60s %s\n", #call, strerror(errno));                                            \
    } while (0)

static uint64_t checksum(const struct raw_session *s)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < s->reply.geometry.d2c_bytes; i += 8)
        sum = sum * 31 + shm_load_u64((const uint64_t *)(const void *)(s->d2c + i));
    return sum;
}

static void attack_d2c(const struct raw_session *s)
{
    int fd = s->d2c_fd;
    size_t bytes = s->reply.geometry.d2c_bytes;
    void *mapped = (void *)(uintptr_t)s->d2c;
    char path[64];

    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    CHECK(geteuid() == OTHER_UID, "this would be allowed to root");
    REFUSED(mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    REFUSED(mprotect(mapped, 4096, PROT_READ | PROT_WRITE));
    REFUSED(open(path, O_RDWR));
    REFUSED(open(path, O_WRONLY));
    REFUSED(open(path, O_RDWR | O_TRUNC));
    REFUSED(truncate(path, 0));
    REFUSED(ftruncate(fd, 0));
    REFUSED(ftruncate(fd, (off_t)bytes * 2));
    REFUSED(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)bytes));
    REFUSED(fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, (off_t)bytes));
    REFUSED(madvise(mapped, bytes, MADV_REMOVE));
    REFUSED(pwrite(fd, "x", 1, 0));
    REFUSED(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    REFUSED(fchmod(fd, 0666));
    REFUSED(chmod(path, 0666));
    REFUSED(fchown(fd, OTHER_UID, OTHER_UID));
    /* Allowed on any shared mapping, and must not reach the file. */
    (void)madvise(mapped, bytes, MADV_DONTNEED);
    void *private = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK(private != MAP_FAILED, "a private copy: %s", strerror(errno));
    memset(private, 0xff, bytes);
    CHECK(munmap(private, bytes) == 0, "munmap");
}

static void attack_c2d(const struct raw_session *s)
{
    int fd = s->c2d_fd;
    off_t bytes = (off_t)s->reply.geometry.c2d_bytes;

    REFUSED(ftruncate(fd, 0));
    REFUSED(ftruncate(fd, bytes - 4096));
    REFUSED(ftruncate(fd, bytes + 4096));
    REFUSED(fallocate(fd, 0, bytes, 4096));
    REFUSED(pwrite(fd, "x", 1, bytes));
    REFUSED(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    REFUSED(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
}

/* One program by hand; returns whether it ended DONE. */
static bool run_one(struct raw_session *s, uint64_t id)
{
    union wire_record record;
    union wire_event event;

    raw_submit_record(&record, (uint32_t)id, id, 1, 20);
    if (!raw_push(s, 0, &record))
        return false;
    raw_ring(s);
    do
        if (!raw_event(s, 0, &event, 2 * NS_PER_S))
            return false;
    while (event.kind != WIRE_EVENT_END);
    return event.end.program_id == id && event.end.state == DYNASOR_STATE_DONE;
}

/* The daemon's own last words after an END, that it sleeps now for one, may still be on their way. */
static uint64_t checksum_settled(const struct raw_session *s)
{
    uint64_t before, now = checksum(s);
    do {
        before = now;
        sleep_ns(50 * NS_PER_MS);
        now = checksum(s);
    } while (now != before);
    return now;
}

static int other_run(void *argument)
{
    const struct test_daemon *d = argument;
    struct raw_session s;

    become_uid(OTHER_UID, d->folder);
    int r = raw_open(&s, DAEMON_SOCKET_NAME, 1, 4096);
    CHECK(r == 0, "no session for uid %d: %d", OTHER_UID, r);
    CHECK(run_one(&s, 1), "the session does not work");
    uint64_t before = checksum_settled(&s);
    attack_d2c(&s);
    CHECK(checksum(&s) == before, "D2C changed");
    attack_c2d(&s);
    CHECK(run_one(&s, 2), "the session did not live through refused system calls");
    /* All that this uid can reach is now zero: its own doing, and its own loss. */
    CHECK(fallocate(s.c2d_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                    (off_t)s.reply.geometry.c2d_bytes) == 0,
          "a hole in C2D: %s", strerror(errno));
    raw_ring_rudely(&s);
    bool works = run_one(&s, 3);
    printf("after a hole in all of C2D the session %s\n", works ? "goes on" : "has ended");
    CHECK(works || raw_hung_up(&s), "a session that neither goes on nor ends");
    raw_close(&s);
    return 0;
}

int main(void)
{
    struct test_daemon d;
    struct daemon_baseline baseline;
    struct stream_result expected[PROGRAMS], got[PROGRAMS];
    struct daemon_options options = {
        .daemon = "socket_mode = 0666\nlog_level = warn\n",
        .engine = "sim_step_ns = 0\n",
    };

    if (geteuid() != 0)
        check_skip("only root can become a second uid");
    daemon_open(&d, &options);
    daemon_start(&d);
    struct dynasor_client *client = stream_connect(d.socket_path, 1, 1 << 16);
    struct dynasor_lane *lane = stream_lane(client);
    stream_run_all(lane, PROGRAMS, &limits, expected);
    daemon_baseline_take(&d, &baseline);
    CHECK(child_wait(child_start(other_run, &d)) == 0, "the other uid");
    stream_run_all(lane, PROGRAMS, &limits, got);
    for (uint64_t i = 0; i < PROGRAMS; i++)
        stream_check(&got[i], &expected[i], i);
    daemon_baseline_check(&d, &baseline, NS_PER_S);
    CHECK(dynasor_reconnects_count(client) == 0, "the session beside it was ended");
    dynasor_disconnect(client);
    daemon_stop(&d);
    daemon_log_check(&d);
    daemon_close(&d);
    return 0;
}
