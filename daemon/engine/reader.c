#include "daemon/engine/reader.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "daemon/base/assert.h"
#include "daemon/base/uring.h"

struct piece { /* what is left of it */
    uint8_t *to;
    uint64_t offset;
    uint32_t bytes;
    int fd;
    bool asked; /* the kernel has it */
    int result;
};

struct reader {
    struct uring *uring;
    struct piece pieces[READER_STAGES];
};

int reader_new(struct reader **ret_reader)
{
    struct reader *r = calloc(1, sizeof *r);
    if (!r)
        return -ENOMEM;
    int result = uring_new(READER_STAGES, 2 * READER_STAGES, &r->uring);
    if (result) {
        free(r);
        return result;
    }
    *ret_reader = r;
    return 0;
}

void reader_free(struct reader *r)
{
    if (!r)
        return;
    for (uint32_t i = 0; i < READER_STAGES; i++)
        (void)reader_wait(r, i); /* only so that the kernel lets go of the memory */
    uring_free(r->uring);
    free(r);
}

static void ask(struct reader *r, uint32_t stage)
{
    struct piece *p = &r->pieces[stage];
    p->result = uring_read_add(r->uring, p->fd, p->offset, p->to, p->bytes, stage);
    p->asked = p->result == 0;
}

void reader_ask(struct reader *r, uint32_t stage, int fd, uint64_t offset, void *to, uint32_t bytes)
{
    ASSERT(stage < READER_STAGES && !r->pieces[stage].asked && bytes > 0);
    r->pieces[stage] = (struct piece){.to = to, .offset = offset, .bytes = bytes, .fd = fd};
    ask(r, stage);
    (void)uring_submit(r->uring); /* what stays queued goes out with the next wait */
}

/* res: bytes that came, or -errno. */
static void advance(struct reader *r, uint32_t stage, int32_t res)
{
    struct piece *p = &r->pieces[stage];
    p->asked = false;
    if (res == -EINTR || res == -EAGAIN) {
        ask(r, stage);
    } else if (res <= 0) {
        p->result = res ? res : -ENODATA;
    } else {
        ASSERT((uint32_t)res <= p->bytes);
        p->to += res;
        p->offset += (uint32_t)res;
        p->bytes -= (uint32_t)res;
        if (p->bytes)
            ask(r, stage);
    }
}

int reader_wait(struct reader *r, uint32_t stage)
{
    struct uring_event events[READER_STAGES];
    while (r->pieces[stage].asked) {
        (void)uring_wait(r->uring, UINT64_MAX); /* failing, it is asked again */
        uint32_t count = uring_drain(r->uring, events, READER_STAGES);
        for (uint32_t i = 0; i < count; i++)
            advance(r, (uint32_t)events[i].tag, events[i].res);
    }
    return r->pieces[stage].result;
}
