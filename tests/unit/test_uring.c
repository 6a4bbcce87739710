/* tests/unit/test_uring.c: what the reactor relies on in io_uring, shown on the kernel at hand:
 * multishot polls of an eventfd that nobody reads, removal that lets go of the file, waits that end,
 * and drains that are bounded. Skipped where the kernel forbids io_uring. */
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "daemon/base/uring.h"
#include "tests/lib/check.h"

#define WRITES 1000u
#define FDS 100u
#define EVENTS_MAX 64u

static struct uring *uring_of(uint32_t entries)
{
    struct uring *u = NULL;
    assert_int_equal(uring_new(entries, 256, &u), 0);
    return u;
}

static int eventfd_new(void)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    assert_true(fd >= 0);
    return fd;
}

static void ring_it(int fd)
{
    uint64_t one = 1;
    assert_int_equal(write(fd, &one, sizeof one), sizeof one);
}

/* Takes everything that is there; returns the count, all of which must be readiness of tag. */
static uint32_t drain(struct uring *u, uint64_t tag, int fd)
{
    struct uring_event event[EVENTS_MAX];
    uint32_t count = uring_drain(u, event, EVENTS_MAX);
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(event[i].tag, tag);
        assert_true(event[i].res > 0 && (event[i].res & POLLIN));
        if (event[i].last)
            assert_int_equal(uring_poll_add(u, fd, POLLIN, tag), 0);
    }
    return count;
}

static void uring_each_write_to_an_eventfd_nobody_reads_ends_a_sleep(void **state)
{
    struct uring *u = uring_of(8);
    int fd = eventfd_new();
    (void)state;
    assert_int_equal(uring_poll_add(u, fd, POLLIN, 7), 0);
    assert_int_equal(uring_submit(u), 0);
    assert_int_equal(drain(u, 7, fd), 0);
    for (uint32_t i = 0; i < WRITES; i++) {
        for (uint32_t n = 0; n <= i % 3; n++)
            ring_it(fd);
        uint64_t before_ns = now_ns();
        assert_int_equal(uring_wait(u, 10 * NS_PER_S), 0);
        assert_true(now_ns() - before_ns < 5 * NS_PER_S);
        assert_true(drain(u, 7, fd) >= 1);
    }
    uring_free(u);
    (void)close(fd);
}

/* A poll that reports the same readiness again and again would make the loop spin. */
static void uring_an_eventfd_left_full_reports_no_second_time(void **state)
{
    struct uring *u = uring_of(8);
    int fd = eventfd_new();
    (void)state;
    assert_int_equal(uring_poll_add(u, fd, POLLIN, 7), 0);
    for (int round = 0; round < 5; round++) {
        ring_it(fd);
        assert_int_equal(uring_wait(u, 10 * NS_PER_S), 0);
        assert_true(drain(u, 7, fd) >= 1);
        uint64_t before_ns = now_ns();
        assert_int_equal(uring_wait(u, 2 * NS_PER_MS), 0);
        assert_true(now_ns() - before_ns >= 2 * NS_PER_MS);
        assert_int_equal(drain(u, 7, fd), 0);
        assert_false(uring_pending(u));
    }
    uring_free(u);
    (void)close(fd);
}

static void uring_readiness_from_before_the_poll_is_reported(void **state)
{
    struct uring *u = uring_of(8);
    int fd = eventfd_new();
    (void)state;
    ring_it(fd);
    assert_int_equal(uring_poll_add(u, fd, POLLIN, 7), 0);
    assert_true(uring_pending(u)); /* there is a request to hand over */
    assert_int_equal(uring_wait(u, 10 * NS_PER_S), 0);
    assert_int_equal(drain(u, 7, fd), 1);
    assert_false(uring_pending(u));
    uring_free(u);
    (void)close(fd);
}

struct peer {
    struct uring *uring;
    int fd;
    bool eof;
};

static bool peer_sees_eof(void *argument)
{
    struct peer *p = argument;
    struct uring_event event[4];
    char byte;
    p->eof = recv(p->fd, &byte, 1, MSG_DONTWAIT) == 0;
    /* The removal completes inside the ring; of the poll itself a last word is allowed. */
    uint32_t count = uring_drain(p->uring, event, 4);
    for (uint32_t i = 0; i < count; i++)
        assert_true(event[i].last && event[i].tag == 3);
    return p->eof;
}

static void uring_a_removed_poll_lets_go_of_the_file(void **state)
{
    struct uring *u = uring_of(8);
    int pair[2];
    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(uring_poll_add(u, pair[0], POLLIN | POLLRDHUP, 3), 0);
    assert_int_equal(uring_submit(u), 0);
    assert_int_equal(uring_poll_remove(u, 3), 0);
    (void)close(pair[0]);
    struct peer p = {.uring = u, .fd = pair[1]};
    assert_true(wait_until(peer_sees_eof, &p, 5 * NS_PER_S));
    uring_free(u);
    (void)close(pair[1]);
}

/* Why uring_poll_remove() comes before close(): the contract of the header, not a wish of ours. */
static void uring_a_poll_that_is_not_removed_keeps_the_file(void **state)
{
    struct uring *u = uring_of(8);
    struct uring_event event[4];
    int pair[2];
    char byte;
    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(uring_poll_add(u, pair[0], POLLIN, 3), 0);
    assert_int_equal(uring_submit(u), 0);
    (void)close(pair[0]);
    assert_int_equal(uring_drain(u, event, 4), 0);
    assert_int_equal(recv(pair[1], &byte, 1, MSG_DONTWAIT), -1);
    assert_int_equal(errno, EAGAIN);
    uring_free(u);
    (void)close(pair[1]);
}

static void uring_events_after_a_removal_carry_no_foreign_tag(void **state)
{
    struct uring *u = uring_of(8);
    struct uring_event event[EVENTS_MAX];
    int gone = eventfd_new(), stays = eventfd_new();
    (void)state;
    assert_int_equal(uring_poll_add(u, gone, POLLIN, 1), 0);
    assert_int_equal(uring_poll_add(u, stays, POLLIN, 2), 0);
    assert_int_equal(uring_submit(u), 0);
    assert_int_equal(uring_poll_remove(u, 1), 0);
    assert_int_equal(uring_poll_remove(u, 99), 0); /* there is none: no event either */
    assert_int_equal(uring_submit(u), 0);
    uint32_t count = uring_drain(u, event, EVENTS_MAX);
    for (uint32_t i = 0; i < count; i++)
        assert_true(event[i].tag == 1 && event[i].last);
    ring_it(gone);
    ring_it(stays);
    assert_int_equal(uring_wait(u, 10 * NS_PER_S), 0);
    assert_int_equal(drain(u, 2, stays), 1);
    uring_free(u);
    (void)close(gone);
    (void)close(stays);
}

static void uring_a_hangup_is_reported(void **state)
{
    struct uring *u = uring_of(8);
    struct uring_event event[4];
    int pair[2];
    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(uring_poll_add(u, pair[0], POLLIN | POLLRDHUP, 5), 0);
    assert_int_equal(uring_submit(u), 0);
    (void)close(pair[1]);
    assert_int_equal(uring_wait(u, 10 * NS_PER_S), 0);
    assert_true(uring_drain(u, event, 4) >= 1);
    assert_int_equal(event[0].tag, 5);
    assert_true(event[0].res > 0 && (event[0].res & (POLLHUP | POLLRDHUP)));
    assert_int_equal(uring_poll_remove(u, 5), 0);
    uring_free(u);
    (void)close(pair[0]);
}

static void uring_wait_ends_at_its_timeout(void **state)
{
    struct uring *u = uring_of(8);
    struct uring_event event[4];
    (void)state;
    static const uint64_t timeouts_ns[] = {0, 1, 20 * NS_PER_MS};
    for (size_t i = 0; i < COUNT_OF(timeouts_ns); i++) {
        uint64_t before_ns = now_ns();
        assert_int_equal(uring_wait(u, timeouts_ns[i]), 0);
        uint64_t took_ns = now_ns() - before_ns;
        assert_true(took_ns >= timeouts_ns[i] && took_ns < 5 * NS_PER_S);
        assert_int_equal(uring_drain(u, event, 4), 0); /* the timeout itself is no event */
    }
    uring_free(u);
}

static int ring_later(void *argument)
{
    sleep_ns(5 * NS_PER_MS); /* most likely it sleeps by then; either way it must wake */
    uint64_t one = 1;
    return write(*(const int *)argument, &one, sizeof one) == sizeof one ? 0 : 1;
}

static void uring_wait_without_limit_ends_with_an_event(void **state)
{
    int fd = eventfd_new();
    (void)state;
    pid_t child = child_start(ring_later, &fd); /* before the ring exists: it belongs to one task */
    struct uring *u = uring_of(8);
    assert_int_equal(uring_poll_add(u, fd, POLLIN, 7), 0);
    assert_int_equal(uring_wait(u, UINT64_MAX), 0);
    assert_int_equal(drain(u, 7, fd), 1);
    assert_int_equal(uring_wait(u, 0), 0);
    assert_int_equal(child_wait(child), 0);
    uring_free(u);
    (void)close(fd);
}

static void uring_drain_takes_at_most_what_it_was_asked_for(void **state)
{
    struct uring *u = uring_of(16);
    struct uring_event event[EVENTS_MAX];
    int fd[8];
    uint32_t seen = 0;
    static const uint32_t parts[] = {3, 0, 3, 2, 0};
    (void)state;
    for (uint32_t i = 0; i < 8; i++) {
        fd[i] = eventfd_new();
        assert_int_equal(uring_poll_add(u, fd[i], POLLIN, i), 0);
    }
    assert_int_equal(uring_submit(u), 0);
    for (uint32_t i = 0; i < 8; i++)
        ring_it(fd[i]);
    for (size_t i = 0; i < COUNT_OF(parts); i++) {
        memset(event, 0xff, sizeof event);
        uint32_t max = parts[i] == 2 ? 3 : parts[i];
        assert_int_equal(uring_drain(u, event, max), parts[i]);
        for (uint32_t n = 0; n < parts[i]; n++)
            seen |= 1u << event[n].tag;
        assert_int_equal(event[parts[i]].tag, UINT64_MAX); /* nothing is written behind them */
        assert_int_equal(uring_pending(u), i < 3);
    }
    assert_int_equal(seen, 0xff);
    uring_free(u);
    for (uint32_t i = 0; i < 8; i++)
        (void)close(fd[i]);
}

static void uring_takes_more_requests_than_its_queue_holds(void **state)
{
    struct uring *u = uring_of(4);
    struct uring_event event[EVENTS_MAX];
    int fd[FDS];
    uint32_t seen[FDS] = {0}, count;
    (void)state;
    for (uint32_t i = 0; i < FDS; i++) {
        fd[i] = eventfd_new();
        assert_int_equal(uring_poll_add(u, fd[i], POLLIN, i), 0);
    }
    for (uint32_t i = 0; i < FDS; i++)
        ring_it(fd[i]);
    assert_int_equal(uring_wait(u, 10 * NS_PER_S), 0);
    while ((count = uring_drain(u, event, EVENTS_MAX)) > 0)
        for (uint32_t i = 0; i < count; i++)
            seen[event[i].tag]++;
    for (uint32_t i = 0; i < FDS; i++) {
        assert_true(seen[i] >= 1);
        (void)close(fd[i]);
    }
    uring_free(u);
}

/* More events than the completion queue has places: the kernel keeps them, none is lost. */
static void uring_a_full_completion_queue_loses_nothing(void **state)
{
    struct uring *u = NULL;
    struct uring_event event[EVENTS_MAX];
    int fd[FDS];
    uint32_t seen[FDS] = {0}, count;
    (void)state;
    assert_int_equal(uring_new(4, 8, &u), 0);
    for (uint32_t i = 0; i < FDS; i++) {
        fd[i] = eventfd_new();
        assert_int_equal(uring_poll_add(u, fd[i], POLLIN, i), 0);
    }
    assert_int_equal(uring_submit(u), 0);
    for (uint32_t i = 0; i < FDS; i++)
        ring_it(fd[i]);
    do {
        count = uring_drain(u, event, EVENTS_MAX);
        for (uint32_t i = 0; i < count; i++)
            seen[event[i].tag]++;
    } while (count || uring_pending(u));
    for (uint32_t i = 0; i < FDS; i++) {
        assert_true(seen[i] >= 1);
        (void)close(fd[i]);
    }
    uring_free(u);
}

static void uring_new_passes_the_error_on(void **state)
{
    struct uring *u = NULL;
    (void)state;
    assert_int_equal(uring_new(0, 8, &u), -EINVAL);
    assert_int_equal(uring_new(16, 8, &u), -EINVAL); /* fewer completions than requests */
    assert_null(u);
    uring_free(NULL);
}

static void uring_a_poll_of_a_closed_descriptor_ends_with_an_error(void **state)
{
    struct uring *u = uring_of(8);
    struct uring_event event[4];
    int fd = eventfd_new();
    (void)state;
    (void)close(fd);
    assert_int_equal(uring_poll_add(u, fd, POLLIN, 7), 0);
    assert_int_equal(uring_wait(u, 10 * NS_PER_S), 0);
    assert_int_equal(uring_drain(u, event, 4), 1);
    assert_int_equal(event[0].res, -EBADF);
    assert_true(event[0].last);
    uring_free(u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(uring_each_write_to_an_eventfd_nobody_reads_ends_a_sleep),
        cmocka_unit_test(uring_an_eventfd_left_full_reports_no_second_time),
        cmocka_unit_test(uring_readiness_from_before_the_poll_is_reported),
        cmocka_unit_test(uring_a_removed_poll_lets_go_of_the_file),
        cmocka_unit_test(uring_a_poll_that_is_not_removed_keeps_the_file),
        cmocka_unit_test(uring_events_after_a_removal_carry_no_foreign_tag),
        cmocka_unit_test(uring_a_hangup_is_reported),
        cmocka_unit_test(uring_wait_ends_at_its_timeout),
        cmocka_unit_test(uring_wait_without_limit_ends_with_an_event),
        cmocka_unit_test(uring_drain_takes_at_most_what_it_was_asked_for),
        cmocka_unit_test(uring_takes_more_requests_than_its_queue_holds),
        cmocka_unit_test(uring_a_full_completion_queue_loses_nothing),
        cmocka_unit_test(uring_new_passes_the_error_on),
        cmocka_unit_test(uring_a_poll_of_a_closed_descriptor_ends_with_an_error),
    };
    struct uring *u = NULL;
    int r = uring_new(8, 16, &u);
    uring_free(u);
    if (r == -ENOSYS || r == -EPERM)
        check_skip("io_uring_setup: %s", strerror(-r));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
