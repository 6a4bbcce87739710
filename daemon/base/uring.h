/* daemon/base/uring.h — what is used of io_uring: multishot polls and a timed wait for the reactor, reads of
 * files for who loads models. A ring is for one of the two.
 *
 * One ring, one issuer. Completions are kernel work of this thread (DEFER_TASKRUN): they appear
 * only while it is inside uring_wait() or uring_drain(), never in between, and uring_pending() says
 * without a system call whether there is anything to fetch.
 *
 * A poll keeps its file alive until it is removed: uring_poll_remove() before close().
 *
 * Owner: the thread that called uring_new(). Memory: the ring, at uring_new(). Fails: negative
 * errno. The only file that includes liburing.h is uring.c. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct uring;

/* What who cannot do without says before the reason. */
#define URING_REQUIRED "io_uring is required (kernel.io_uring_disabled, seccomp?): io_uring_setup"

struct uring_event {
    uint64_t tag;
    int32_t res; /* poll bits or bytes read, or negative errno */
    bool last;   /* the poll is over: arm it again if it is still wanted; a read always is */
};

/* entries: size of the submission queue; the completion queue is cq_entries and never drops. */
int uring_new(uint32_t entries, uint32_t cq_entries, struct uring **ret_uring);
void uring_free(struct uring *uring);

/* Asks to be told, each time anew, when fd becomes ready for poll_events (POLLIN ...). Takes effect
 * at the next uring_submit(), uring_drain() or uring_wait(). tag: below 2^63. */
int uring_poll_add(struct uring *uring, int fd, uint32_t poll_events, uint64_t tag);
/* Ends it. No event is reported for the removal; the poll itself may report a last one. */
int uring_poll_remove(struct uring *uring, uint64_t tag);

/* Asks for bytes of a file from offset on. Its event has how many came, 0 at the file's end. The memory is the
 * kernel's until then. A kernel thread does the work also where the bytes are in the page cache: copying them
 * is what takes the time. tag: below 2^63. */
int uring_read_add(struct uring *uring, int fd, uint64_t offset, void *to, uint32_t bytes,
                   uint64_t tag);

/* Hands queued requests to the kernel now. */
int uring_submit(struct uring *uring);

/* Whether uring_drain() would find something. No system call. */
bool uring_pending(const struct uring *uring);

/* Takes up to max events. One system call when kernel work is due, otherwise none. */
uint32_t uring_drain(struct uring *uring, struct uring_event *events, uint32_t max);

/* Sleeps until an event is there or timeout_ns passed (UINT64_MAX: no limit). */
int uring_wait(struct uring *uring, uint64_t timeout_ns);
