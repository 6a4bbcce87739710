#include "daemon/base/uring.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>

#include "daemon/base/clock.h"

#define TAG_REMOVAL                                                                                \
    (1ull << 63) /* completion of the removal of the poll with the rest as its tag */

struct uring {
    struct io_uring ring;
};

int uring_new(uint32_t entries, uint32_t cq_entries, struct uring **ret_uring)
{
    struct uring *u = calloc(1, sizeof *u);
    if (!u)
        return -ENOMEM;
    struct io_uring_params params = {
        .flags = IORING_SETUP_CQSIZE | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                 IORING_SETUP_TASKRUN_FLAG,
        .cq_entries = cq_entries,
    };
    int r = io_uring_queue_init_params(entries, &u->ring, &params);
    if (r < 0) {
        free(u);
        return r;
    }
    /* Saves the file lookup of each enter; older kernels refuse, and do without. */
    (void)io_uring_register_ring_fd(&u->ring);
    *ret_uring = u;
    return 0;
}

void uring_free(struct uring *u)
{
    if (!u)
        return;
    io_uring_queue_exit(&u->ring);
    free(u);
}

static struct io_uring_sqe *sqe_take(struct uring *u)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    if (!sqe) {                          /* full: what is queued goes out first */
        (void)io_uring_submit(&u->ring); /* on failure the next line finds it still full */
        sqe = io_uring_get_sqe(&u->ring);
    }
    return sqe;
}

int uring_poll_add(struct uring *u, int fd, uint32_t poll_events, uint64_t tag)
{
    struct io_uring_sqe *sqe = sqe_take(u);
    if (!sqe)
        return -EBUSY;
    io_uring_prep_poll_multishot(sqe, fd, poll_events);
    io_uring_sqe_set_data64(sqe, tag);
    return 0;
}

int uring_poll_remove(struct uring *u, uint64_t tag)
{
    struct io_uring_sqe *sqe = sqe_take(u);
    if (!sqe)
        return -EBUSY;
    io_uring_prep_poll_remove(sqe, tag);
    io_uring_sqe_set_data64(sqe, TAG_REMOVAL | tag);
    return 0;
}

int uring_read_add(struct uring *u, int fd, uint64_t offset, void *to, uint32_t bytes, uint64_t tag)
{
    struct io_uring_sqe *sqe = sqe_take(u);
    if (!sqe)
        return -EBUSY;
    io_uring_prep_read(sqe, fd, to, bytes, offset);
    io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
    io_uring_sqe_set_data64(sqe, tag);
    return 0;
}

int uring_submit(struct uring *u)
{
    if (io_uring_sq_ready(&u->ring) == 0)
        return 0;
    int r = io_uring_submit(&u->ring);
    return r < 0 ? r : 0;
}

bool uring_pending(const struct uring *u)
{
    return io_uring_cq_ready(&u->ring) != 0 || io_uring_sq_ready(&u->ring) != 0 ||
           (IO_URING_READ_ONCE(*u->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW));
}

uint32_t uring_drain(struct uring *u, struct uring_event *events, uint32_t max)
{
    (void)uring_submit(u); /* what stays queued is tried again with the next call */
    if (IO_URING_READ_ONCE(*u->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW))
        (void)io_uring_get_events(&u->ring); /* failing, it is asked again next turn */
    uint32_t count = 0;
    struct io_uring_cqe *cqe;
    while (count < max && io_uring_peek_cqe(&u->ring, &cqe) == 0) {
        /* While an event of the poll is on its way it cannot be removed; left armed, it would hold its file
         * for ever and make each later search longer. */
        if (cqe->user_data & TAG_REMOVAL && cqe->res == -EALREADY)
            (void)uring_poll_remove(u, cqe->user_data & ~TAG_REMOVAL);
        else if (!(cqe->user_data & TAG_REMOVAL))
            events[count++] = (struct uring_event){
                .tag = cqe->user_data,
                .res = cqe->res,
                .last = (cqe->flags & IORING_CQE_F_MORE) == 0,
            };
        io_uring_cqe_seen(&u->ring, cqe);
    }
    return count;
}

int uring_wait(struct uring *u, uint64_t timeout_ns)
{
    struct io_uring_cqe *cqe;
    struct __kernel_timespec ts = {.tv_sec = (int64_t)(timeout_ns / NS_PER_S),
                                   .tv_nsec = (long long)(timeout_ns % NS_PER_S)};
    int r = io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1,
                                             timeout_ns == UINT64_MAX ? NULL : &ts, NULL);
    return r < 0 && r != -ETIME && r != -EINTR ? r : 0;
}
