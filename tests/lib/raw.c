#include "tests/lib/raw.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

void raw_hello(struct wire_hello *hello, uint32_t lanes_count, uint64_t arena_bytes)
{
    *hello = (struct wire_hello){
        .magic = WIRE_MAGIC,
        .version_min = WIRE_VERSION_MIN,
        .version_max = WIRE_VERSION_MAX,
        .features_wanted = WIRE_FEATURES_KNOWN,
        .lanes_count = lanes_count,
        .arena_bytes = arena_bytes,
    };
    CHECK(getrandom(hello->client_uuid, sizeof hello->client_uuid, 0) ==
              (ssize_t)sizeof hello->client_uuid,
          "getrandom: %s", strerror(errno));
}

int raw_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval timeout = {.tv_sec = 10};

    if ((size_t)snprintf(address.sun_path, sizeof address.sun_path, "%s", path) >=
        sizeof address.sun_path)
        return -ENAMETOOLONG;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) != 0 ||
        connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        int saved = errno;
        (void)close(fd); /* nothing was sent */
        return -saved;
    }
    return fd;
}

/* Receives the reply and what comes with it. */
static int receive_reply(struct raw_session *s)
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(WIRE_FD_COUNT * sizeof(int))];
    } control = {0};
    struct iovec iov = {&s->reply, sizeof s->reply};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    int fds[WIRE_FD_COUNT];

    ssize_t got = recvmsg(s->fd, &message, MSG_CMSG_CLOEXEC);
    if (got < 0)
        return -errno;
    if (got == 0)
        return -ECONNRESET;
    if (got < (ssize_t)sizeof s->reply || s->reply.magic != WIRE_MAGIC)
        return -EBADMSG;
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    if (!head)
        return s->reply.fault.status ? s->reply.fault.status : -EBADMSG;
    if (head->cmsg_type != SCM_RIGHTS || head->cmsg_len != CMSG_LEN(sizeof fds))
        return -EBADMSG;
    memcpy(fds, CMSG_DATA(head), sizeof fds);
    s->c2d_fd = fds[WIRE_FD_C2D];
    s->d2c_fd = fds[WIRE_FD_D2C];
    s->bell_fd = fds[WIRE_FD_DOORBELL];
    return s->reply.fault.status ? -EBADMSG : 0;
}

static int map(struct raw_session *s)
{
    const struct wire_geometry *g = &s->reply.geometry;

    s->c2d = region_map(s->c2d_fd, g->c2d_bytes, true);
    s->d2c = region_map(s->d2c_fd, g->d2c_bytes, false);
    if (!s->c2d || !s->d2c)
        return -errno;
    for (uint32_t i = 0; i < g->lanes_count; i++) {
        ring_tx_init(&s->submit[i], region_sub_ring(s->c2d, g, i), g->sub_slots, 0, 0);
        ring_rx_init(&s->events[i], region_event_ring((void *)(uintptr_t)s->d2c, g, i),
                     g->event_slots, 0);
    }
    return 0;
}

int raw_open_with(struct raw_session *s, const char *path, const void *hello, size_t hello_bytes)
{
    *s = (struct raw_session){.fd = -1, .c2d_fd = -1, .d2c_fd = -1, .bell_fd = -1};
    int fd = raw_connect(path);
    if (fd < 0)
        return fd;
    s->fd = fd;
    int r = send(fd, hello, hello_bytes, MSG_NOSIGNAL) == (ssize_t)hello_bytes ? 0 : -errno;
    /* A refusal that came before the hello was read is still to be had. */
    if (r == 0 || r == -EPIPE)
        r = receive_reply(s);
    if (r == 0)
        r = map(s);
    if (r != 0)
        raw_close(s);
    return r;
}

int raw_open(struct raw_session *s, const char *path, uint32_t lanes_count, uint64_t arena_bytes)
{
    struct wire_hello hello;

    raw_hello(&hello, lanes_count, arena_bytes);
    return raw_open_with(s, path, &hello, sizeof hello);
}

void raw_close(struct raw_session *s)
{
    int *const fds[] = {&s->fd, &s->c2d_fd, &s->d2c_fd, &s->bell_fd};

    region_unmap(s->c2d, s->reply.geometry.c2d_bytes);
    region_unmap((void *)(uintptr_t)s->d2c, s->reply.geometry.d2c_bytes);
    s->c2d = NULL;
    s->d2c = NULL;
    for (size_t i = 0; i < COUNT_OF(fds); i++) {
        if (*fds[i] >= 0)
            (void)close(*fds[i]);
        *fds[i] = -1;
    }
}

bool raw_push(struct raw_session *s, uint32_t lane, const union wire_record *record)
{
    const struct region_d2c_lane *d2c_lane =
        region_d2c_lane((void *)(uintptr_t)s->d2c, &s->reply.geometry, lane);

    if (ring_tx_room(&s->submit[lane]) == 0 &&
        (!ring_tx_credit(&s->submit[lane], &d2c_lane->consumed) ||
         ring_tx_room(&s->submit[lane]) == 0))
        return false;
    ring_tx_push(&s->submit[lane], record->word);
    return true;
}

void raw_ring_rudely(const struct raw_session *s)
{
    uint64_t one = 1;

    (void)!write(s->bell_fd, &one, sizeof one); /* full: it rings already */
}

void raw_ring(struct raw_session *s)
{
    bool wanted = false;

    bell_fence();
    for (uint32_t i = 0; i < s->reply.geometry.lanes_count; i++)
        wanted |=
            bell_wanted(&region_d2c_lane((void *)(uintptr_t)s->d2c, &s->reply.geometry, i)->need,
                        &s->answered[i]);
    if (wanted)
        raw_ring_rudely(s);
}

void raw_submit_record(union wire_record *record, uint32_t index, uint64_t program_id,
                       uint64_t seed, uint32_t max_tokens)
{
    static const char prompt[] = "why is the sky";

    *record = (union wire_record){.word = {0}};
    record->submit = (struct wire_submit){
        .op = WIRE_OP_SUBMIT,
        .streams = DYNASOR_STREAM_TOKENS,
        .index = index,
        .program_id = program_id,
        .seed = seed,
        .max_tokens = max_tokens,
        .bytes = sizeof prompt - 1,
    };
    memcpy(record->submit.u.prompt, prompt, sizeof prompt - 1);
}

void raw_op_record(union wire_record *record, enum wire_op op, uint32_t index, uint64_t program_id)
{
    *record = (union wire_record){.word = {0}};
    record->cancel =
        (struct wire_cancel){.op = (uint8_t)op, .index = index, .program_id = program_id};
}

bool raw_event(struct raw_session *s, uint32_t lane, union wire_event *event, uint64_t timeout_ns)
{
    uint64_t deadline = now_ns() + timeout_ns;

    while (ring_rx_peek(&s->events[lane]) != RING_READY) {
        if (now_ns() >= deadline)
            return false;
        sleep_ns(100000);
    }
    ring_rx_take(&s->events[lane], event->word);
    ring_rx_publish(&s->events[lane], &region_c2d_lane(s->c2d, lane)->consumed);
    raw_ring(s); /* credit counts as a submission: a record may wait for it, and the daemon sleep */
    return true;
}

int raw_bye(struct raw_session *s, struct wire_fault *ret_fault)
{
    for (;;) {
        struct wire_message message;
        ssize_t got = recv(s->fd, &message, sizeof message, 0);
        if (got < 0)
            return -errno;
        if (got == 0)
            return -ECONNRESET;
        if (got != sizeof message)
            return -EBADMSG;
        if (message.kind == WIRE_MESSAGE_BYE) {
            *ret_fault = message.fault;
            return 0;
        }
    }
}

bool raw_hung_up(const struct raw_session *s)
{
    struct pollfd p = {.fd = s->fd};

    return poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR)) != 0;
}
