#include "tests/lib/fake.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

void fake_listen(struct fake *f)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, f->path, sizeof f->path);
    (void)unlink(f->path);
    f->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    CHECK(bind(f->listen_fd, (struct sockaddr *)&address, sizeof address) == 0, "%s", f->path);
    CHECK(listen(f->listen_fd, 16) == 0, "%s", f->path);
}

void fake_open(struct fake *f)
{
    static unsigned number;
    const char *folder = getenv("TMPDIR");
    *f = (struct fake){.listen_fd = -1};
    (void)snprintf(f->path, sizeof f->path, "%.80s/f%d.%u", folder ? folder : "/tmp", (int)getpid(),
                   number++);
    fake_listen(f);
}

void fake_close(struct fake *f)
{
    if (f->listen_fd >= 0)
        close(f->listen_fd);
    f->listen_fd = -1;
    (void)unlink(f->path);
}

static void header_write(struct fake_session *s, const struct fake_reply *r)
{
    struct region_d2c_header *h = s->header;
    h->version = WIRE_VERSION_MAX;
    h->layout_hash = wire_layout_hash();
    memcpy(h->client_uuid, s->hello.client_uuid, sizeof h->client_uuid);
    if (r->wrong == FAKE_HEADER_FOREIGN)
        h->client_uuid[0] ^= 1;
    h->geometry = s->geometry;
    h->owner.word = (uint32_t)getpid() | REGION_OWNER_WAITERS;
    h->owner.daemon_cpu = UINT32_MAX;
    shm_store_release_u64(&h->owner.generation, r->generation ? r->generation : 1);
    if (r->wrong != FAKE_HEADER_BLANK)
        shm_store_release_u64(&h->magic, REGION_MAGIC);
}

static void regions_make(struct fake_session *s, const struct fake_reply *r, int fds[3])
{
    struct wire_geometry g;
    region_geometry_init(&s->geometry, s->hello.lanes_count, s->hello.arena_bytes);
    g = s->geometry;
    if (r->wrong == FAKE_D2C_SHORT)
        g.d2c_bytes -= REGION_PAGE_BYTES;
    fds[WIRE_FD_C2D] = region_create_c2d(&s->geometry);
    int d2c_fd = region_create_d2c(&g);
    fds[WIRE_FD_D2C] = region_reopen_readonly(d2c_fd);
    s->doorbell_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    fds[WIRE_FD_DOORBELL] = dup(s->doorbell_fd);
    CHECK(fds[0] >= 0 && fds[1] >= 0 && fds[2] >= 0, "descriptors");
    s->c2d = region_map(fds[WIRE_FD_C2D], s->geometry.c2d_bytes, true);
    s->d2c = region_map(d2c_fd, g.d2c_bytes, true);
    s->d2c_bytes = g.d2c_bytes;
    CHECK(s->c2d && s->d2c, "maps");
    close(d2c_fd);
    s->header = (void *)s->d2c;
    header_write(s, r);
    for (uint32_t i = 0; i < s->geometry.lanes_count; i++) {
        ring_rx_init(&s->submissions[i], region_sub_ring(s->c2d, &s->geometry, i),
                     s->geometry.sub_slots, 0);
        ring_tx_init(&s->events[i], region_event_ring(s->d2c, &s->geometry, i),
                     s->geometry.event_slots, 0, 0);
    }
}

static void reply_send(struct fake_session *s, const struct fake_reply *r, int fds[3])
{
    struct wire_reply reply = {.magic = WIRE_MAGIC,
                               .version = r->version ? r->version : WIRE_VERSION_MAX,
                               .version_min = r->version_min ? r->version_min : WIRE_VERSION_MIN,
                               .fault = r->fault,
                               .layout_hash = r->layout_hash ? r->layout_hash : wire_layout_hash(),
                               .generation = 1,
                               .geometry = s->geometry};
    reply.features = r->features == UINT64_MAX ? 0 : r->features ? r->features : 3;
    reply.prompt_bytes_max = r->prompt_bytes_max ? r->prompt_bytes_max : 100000;
    reply.max_tokens_max = r->max_tokens_max ? r->max_tokens_max : 4096;
    if (r->lanes_count)
        region_geometry_init(&reply.geometry, r->lanes_count, s->hello.arena_bytes);
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(3 * sizeof(int))];
    } control = {0};
    struct iovec part = {&reply, r->reply_bytes ? r->reply_bytes : sizeof reply};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    size_t count = r->fault.status || r->wrong == FAKE_NO_FDS ? 0
                   : r->wrong == FAKE_TWO_FDS                 ? 2
                                                              : 3;
    if (count) {
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *h = CMSG_FIRSTHDR(&message);
        h->cmsg_level = SOL_SOCKET;
        h->cmsg_type = SCM_RIGHTS;
        h->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(h), fds, count * sizeof(int));
    }
    CHECK(sendmsg(s->fd, &message, MSG_NOSIGNAL) > 0, "reply: %s", strerror(errno));
}

static void *serve(void *argument)
{
    struct fake *f = argument;
    const struct fake_reply *r = &f->reply;
    struct fake_session *s = calloc(1, sizeof *s);
    s->fd = accept4(f->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    CHECK(s->fd >= 0, "accept: %s", strerror(errno));
    CHECK(recv(s->fd, &s->hello, sizeof s->hello, 0) == (ssize_t)sizeof s->hello, "hello");
    int fds[3];
    regions_make(s, r, fds);
    int pipe_fds[2] = {-1, -1};
    if (r->wrong == FAKE_FDS_SWAPPED) {
        int c2d = fds[0];
        fds[0] = fds[2];
        fds[2] = c2d;
    } else if (r->wrong == FAKE_DOORBELL_PIPE) {
        CHECK(pipe(pipe_fds) == 0, "pipe");
        close(fds[2]);
        fds[2] = pipe_fds[1];
        close(pipe_fds[0]);
    }
    reply_send(s, r, fds);
    for (int i = 0; i < 3; i++)
        close(fds[i]);
    f->accepted = s;
    if (r->fault.status) {
        fake_session_free(s);
        f->accepted = NULL;
    }
    return NULL;
}

void fake_serve(struct fake *f)
{
    CHECK(pthread_create(&f->thread, NULL, serve, f) == 0, "thread");
}

struct fake_session *fake_join(struct fake *f)
{
    CHECK(pthread_join(f->thread, NULL) == 0, "thread");
    return f->accepted;
}

void fake_session_free(struct fake_session *s)
{
    region_unmap(s->c2d, s->geometry.c2d_bytes);
    region_unmap(s->d2c, s->d2c_bytes);
    close(s->fd);
    close(s->doorbell_fd);
    free(s);
}

struct fake_session *fake_connect(struct fake *f, const struct dynasor_connect_options *options,
                                  struct dynasor_client **ret_client)
{
    struct dynasor_connect_options o = {.size = sizeof o};
    if (options)
        o = *options;
    o.socket_path = f->path;
    fake_serve(f);
    int rc = dynasor_connect(&o, ret_client);
    CHECK(rc == 0, "connect: %s", dynasor_connect_error(*ret_client));
    return fake_join(f);
}

bool fake_take(struct fake_session *s, uint32_t lane, union wire_record *record)
{
    enum ring_peek peek = ring_rx_peek(&s->submissions[lane]);
    CHECK(peek != RING_BAD, "lane %u", lane);
    if (peek == RING_EMPTY)
        return false;
    ring_rx_take(&s->submissions[lane], record->word);
    ring_rx_publish(&s->submissions[lane], &region_d2c_lane(s->d2c, &s->geometry, lane)->consumed);
    return true;
}

union wire_record fake_expect(struct fake_session *s, uint32_t lane, enum wire_op op)
{
    union wire_record record = {.word = {0}};
    for (int i = 0; i < 2000; i++) {
        if (fake_take(s, lane, &record)) {
            CHECK(record.op == op, "op %u instead of %u", record.op, op);
            return record;
        }
        sleep_ns(NS_PER_MS);
    }
    CHECK(false, "no record of op %u on lane %u", op, lane);
    return record;
}

const char *fake_prompt(const struct fake_session *s, const struct wire_submit *submit,
                        uint32_t *ret_bytes, struct wire_spec *ret_spec)
{
    *ret_spec = (struct wire_spec){.spec_bytes = 0};
    *ret_bytes = submit->bytes;
    if (!(submit->flags & WIRE_SUBMIT_PAYLOAD))
        return (const char *)submit->u.prompt;
    const char *payload = s->c2d + s->geometry.c2d_arena_off + submit->u.payload.offset;
    memcpy(ret_spec, payload, sizeof *ret_spec);
    *ret_bytes = submit->bytes - ret_spec->spec_bytes;
    return payload + ret_spec->spec_bytes;
}

static void wake(struct fake_session *s, uint32_t lane)
{
    struct region_c2d_lane *c2d = region_c2d_lane(s->c2d, lane);
    struct region_d2c_lane *d2c = region_d2c_lane(s->d2c, &s->geometry, lane);
    bell_fence();
    if (!bell_wanted(&c2d->need, &s->answered[lane]))
        return;
    if (shm_load_u32(&c2d->need_kind) == REGION_NEED_MESSAGE) {
        struct wire_message message = {.kind = WIRE_MESSAGE_WAKE};
        (void)send(s->fd, &message, sizeof message, MSG_NOSIGNAL | MSG_DONTWAIT);
        return;
    }
    shm_store_u32(&d2c->wake, d2c->wake + 1);
    syscall(SYS_futex, &d2c->wake, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

bool fake_room(struct fake_session *s, uint32_t lane)
{
    struct ring_tx *tx = &s->events[lane];
    CHECK(ring_tx_credit(tx, &region_c2d_lane(s->c2d, lane)->consumed), "impossible position");
    return ring_tx_room(tx) > 0;
}

void fake_event(struct fake_session *s, uint32_t lane, const union wire_event *event)
{
    CHECK(fake_room(s, lane), "the event ring of lane %u is full", lane);
    ring_tx_push(&s->events[lane], event->word);
    shm_store_u64(&region_d2c_lane(s->d2c, &s->geometry, lane)->next, s->events[lane].pos);
    wake(s, lane);
}

uint32_t fake_token(uint64_t seed, uint64_t position)
{
    return (uint32_t)((seed + 1) * 2654435761u + position * 40503u) & 0xffff;
}

void fake_tokens(struct fake_session *s, uint32_t lane, const struct wire_submit *submit,
                 uint32_t position, uint8_t count)
{
    union wire_event e = {.tokens = {.kind = WIRE_EVENT_TOKENS,
                                     .count = count,
                                     .index = submit->index,
                                     .position = position}};
    for (uint32_t i = 0; i < count && i < WIRE_EVENT_TOKENS_MAX; i++)
        e.tokens.token[i] = fake_token(submit->seed, position + i);
    fake_event(s, lane, &e);
}

void fake_text(struct fake_session *s, uint32_t lane, const struct wire_submit *submit,
               uint64_t position, const char *text)
{
    union wire_event e = {.text = {.kind = WIRE_EVENT_TEXT,
                                   .count = (uint8_t)strlen(text),
                                   .index = submit->index,
                                   .position_bytes = position}};
    memcpy(e.text.text, text, strlen(text));
    fake_event(s, lane, &e);
}

void fake_end(struct fake_session *s, uint32_t lane, const struct wire_submit *submit,
              enum dynasor_state state, enum dynasor_status status, uint32_t tokens_count)
{
    union wire_event e = {.end = {.kind = WIRE_EVENT_END,
                                  .state = (uint8_t)state,
                                  .status = (uint16_t)status,
                                  .index = submit->index,
                                  .program_id = submit->program_id,
                                  .tokens_count = tokens_count}};
    fake_event(s, lane, &e);
}

void fake_refuse(struct fake_session *s, uint32_t lane, const struct wire_submit *submit,
                 const struct wire_fault *fault)
{
    union wire_event e = {.end = {.kind = WIRE_EVENT_REFUSED,
                                  .state = DYNASOR_STATE_FAILED,
                                  .status = fault->status,
                                  .index = submit->index,
                                  .program_id = submit->program_id,
                                  .field = fault->field,
                                  .lo = fault->lo,
                                  .hi = fault->hi,
                                  .got = fault->got}};
    fake_event(s, lane, &e);
}

void fake_need(struct fake_session *s, uint32_t lane, bool raised)
{
    uint32_t *need = &region_d2c_lane(s->d2c, &s->geometry, lane)->need;
    if (raised)
        bell_raise(need, &s->tickets[lane]);
    else
        bell_lower(need, &s->tickets[lane]);
}

uint64_t fake_bells(struct fake_session *s)
{
    uint64_t count = 0;
    return read(s->doorbell_fd, &count, sizeof count) == (ssize_t)sizeof count ? count : 0;
}

void fake_die(struct fake_session *s)
{
    shm_store_u32(&s->header->owner.word, REGION_OWNER_DIED | REGION_OWNER_WAITERS);
    syscall(SYS_futex, &s->header->owner.word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

void fake_adopt(struct fake_session *s, uint64_t generation)
{
    shm_store_u32(&s->header->owner.word, (uint32_t)getpid() | REGION_OWNER_WAITERS);
    shm_store_release_u64(&s->header->owner.generation, generation);
    for (uint32_t i = 0; i < s->geometry.lanes_count; i++)
        wake(s, i);
    syscall(SYS_futex, &s->header->owner.word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void fake_bye(struct fake_session *s, const struct wire_fault *fault)
{
    struct wire_message message = {.kind = WIRE_MESSAGE_BYE, .fault = *fault};
    CHECK(send(s->fd, &message, sizeof message, MSG_NOSIGNAL) > 0, "bye");
}
