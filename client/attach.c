#include "client/parts.h"

#include <errno.h>
#include <poll.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define ANSWER_MAX_NS 10000000000ull /* an answer that takes longer does not come */
#define REFUSED_MAX_NS 2000000000ull /* a daemon that tears down our old session is done by then */
#define FEATURES_WANTED (WIRE_FEATURE_TEXT | WIRE_FEATURE_DESCRIPTOR)
#define ARENA_BLOCKS_MAX 65536u
#define AGAIN 1 /* internal: not now; back off and try once more */

static const struct reason no_daemon = {.kind = REASON_SENTENCE,
                                        .subject = "no daemon answered at the socket path"};

void attach_init(struct attach *a, uint64_t random)
{
    *a = (struct attach){.fd = -1, .backoff_ns = BACKOFF_MIN_NS, .random = random};
}

void attach_reset(struct attach *a)
{
    if (a->fd >= 0)
        (void)close(a->fd); /* nobody reads it any more */
    attach_init(a, a->random);
}

uint64_t attach_jitter(struct attach *a, uint64_t max_ns)
{
    uint64_t z = a->random += 0x9e3779b97f4a7c15ull; /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return max_ns / 2 + (z ^ (z >> 31)) % (max_ns / 2 + 1);
}

static int back_off(struct attach *a)
{
    if (a->fd >= 0)
        (void)close(a->fd); /* nobody reads it any more */
    a->fd = -1;
    a->retry_ns = wait_now_ns() + attach_jitter(a, a->backoff_ns);
    a->backoff_ns = a->backoff_ns * 2 < BACKOFF_MAX_NS ? a->backoff_ns * 2 : BACKOFF_MAX_NS;
    return AGAIN;
}

static bool uid_of_daemon(uid_t uid)
{
    char buffer[4096];
    struct passwd entry;
    struct passwd *found = NULL;
    if (uid == 0 || uid == geteuid())
        return true;
    return getpwnam_r("dynasor", &entry, buffer, sizeof buffer, &found) == 0 && found &&
           found->pw_uid == uid;
}

static int check_peer(struct dynasor_client *c, int fd, struct reason *reason)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
        return reason_call(reason, "getsockopt(SO_PEERCRED)", errno);
    bool expected =
        c->daemon_uid < 0 ? uid_of_daemon(peer.uid) : (uint64_t)c->daemon_uid == peer.uid;
    if (expected)
        return 0;
    if (c->daemon_uid < 0)
        return reason_say(reason, DYNASOR_E_UNTRUSTED,
                          "daemon_uid: the socket is served neither by root, nor by the user "
                          "dynasor, nor by the caller's own uid");
    uint64_t uid = (uint64_t)c->daemon_uid;
    (void)reason_named(reason, "daemon_uid", (const uint64_t[3]){uid, uid, peer.uid}); /* below */
    reason->fault.status = DYNASOR_E_UNTRUSTED;
    return -DYNASOR_E_UNTRUSTED;
}

static int connect_call(struct dynasor_client *c, int fd)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, c->socket_path, sizeof address.sun_path);
    return connect(fd, (const struct sockaddr *)&address, sizeof address) == 0 ? 0 : errno;
}

/* Connects and says hello; AGAIN: nobody listens, or too many at once. */
static int open_socket(struct dynasor_client *c, struct reason *reason)
{
    struct attach *a = &c->attach;
    a->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (a->fd < 0)
        return reason_call(reason, "socket", errno);
    int error = connect_call(c, a->fd);
    if (error == ENOENT || error == ECONNREFUSED || error == EAGAIN || error == EINTR ||
        error == ECONNRESET)
        return back_off(a);
    if (error)
        return reason_call(reason, "connect to the daemon's socket", error);
    int rc = check_peer(c, a->fd, reason);
    if (rc)
        return rc;
    struct wire_hello hello = {.magic = WIRE_MAGIC,
                               .version_min = WIRE_VERSION_MIN,
                               .version_max = WIRE_VERSION_MAX,
                               .features_wanted = FEATURES_WANTED,
                               .lanes_count = c->channels_count,
                               .arena_bytes = c->arena_bytes};
    memcpy(hello.client_uuid, c->uuid, sizeof hello.client_uuid);
    /* EPIPE: refused before it was heard; the reason is there to be read. */
    if (send(a->fd, &hello, sizeof hello, MSG_NOSIGNAL) != (ssize_t)sizeof hello && errno != EPIPE)
        return back_off(a);
    a->answer_until_ns = wait_now_ns() + ANSWER_MAX_NS;
    return 0;
}

struct answer {
    struct wire_reply reply;
    size_t bytes;
    bool cut;
    unsigned fds_count;
    int fds[WIRE_FD_COUNT];
};

static void answer_close(struct answer *answer)
{
    for (unsigned i = 0; i < answer->fds_count; i++)
        if (answer->fds[i] >= 0)
            (void)close(answer->fds[i]); /* not ours to complain about */
    answer->fds_count = 0;
}

/* 0, AGAIN (gone), or -TIMEOUT: nothing there. */
static int receive(int fd, struct answer *answer)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * WIRE_FD_COUNT)];
    } control = {0};
    struct iovec part = {&answer->reply, sizeof answer->reply};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    ssize_t n = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_NOSIGNAL);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return -DYNASOR_E_TIMEOUT;
    if (n <= 0)
        return AGAIN;
    answer->bytes = (size_t)n;
    answer->cut = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
    for (struct cmsghdr *h = CMSG_FIRSTHDR(&message); h; h = CMSG_NXTHDR(&message, h)) {
        if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
            continue;
        size_t bytes = h->cmsg_len - CMSG_LEN(0);
        for (size_t at = 0; at + sizeof(int) <= bytes; at += sizeof(int)) {
            int passed;
            memcpy(&passed, CMSG_DATA(h) + at, sizeof passed);
            if (answer->fds_count < WIRE_FD_COUNT)
                answer->fds[answer->fds_count++] = passed;
            else
                (void)close(passed); /* more than the protocol has */
        }
    }
    return 0;
}

static int say_version(struct reason *reason, const struct wire_reply *reply)
{
    struct wire_fault fault = {.status = DYNASOR_E_VERSION,
                               .field = DYNASOR_FIELD_VERSION,
                               .lo = reply->version_min,
                               .hi = reply->version,
                               .got = WIRE_VERSION_MAX};
    return reason_fault(reason, &fault);
}

static int say_broken(struct reason *reason, const char *sentence)
{
    return reason_say(reason, DYNASOR_E_PROTOCOL, sentence);
}

/* What may be believed of the reply's bytes, in the order in which it can be. */
static int check_reply(const struct dynasor_client *c, const struct answer *answer,
                       struct reason *reason)
{
    const struct wire_reply *r = &answer->reply;
    if (answer->bytes < 16 || r->magic != WIRE_MAGIC)
        return say_broken(reason, "hello reply: not from a dynasord");
    if (r->version < WIRE_VERSION_MIN || r->version > WIRE_VERSION_MAX)
        return say_version(reason, r);
    if (answer->bytes != sizeof *r || answer->cut)
        return say_broken(reason, "hello reply: wrong size");
    if (r->fault.status == DYNASOR_E_VERSION && r->fault.field == DYNASOR_FIELD_NONE)
        return say_version(reason, r);
    if (r->fault.status >= DYNASOR_STATUS_COUNT)
        return say_broken(reason, "hello reply: unknown status");
    if (r->fault.status != DYNASOR_OK)
        return reason_fault(reason, &r->fault);
    if (r->layout_hash != wire_layout_hash())
        return reason_say(reason, DYNASOR_E_VERSION,
                          "layout_hash: library and daemon were built from different layouts");
    uint64_t reserved = r->reserved0;
    for (size_t i = 0; i < sizeof r->reserved1 / sizeof r->reserved1[0]; i++)
        reserved |= r->reserved1[i];
    if (reserved || (r->features & ~FEATURES_WANTED) || answer->fds_count != WIRE_FD_COUNT)
        return say_broken(reason, "hello reply: more or less than was asked for");
    if (!region_geometry_valid(&r->geometry) || r->geometry.lanes_count != c->channels_count ||
        r->geometry.c2d_arena_bytes != c->arena_bytes || r->prompt_bytes_max == 0 ||
        r->max_tokens_max == 0)
        return say_broken(reason, "hello reply: impossible geometry or limits");
    return 0;
}

/* A doorbell that is a pipe or socket could raise SIGPIPE in our host. */
static bool doorbell_valid(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && !S_ISFIFO(st.st_mode) && !S_ISSOCK(st.st_mode) &&
           !S_ISDIR(st.st_mode) && !S_ISCHR(st.st_mode) && !S_ISBLK(st.st_mode);
}

static bool header_valid(const struct dynasor_client *c, const struct mapping *m)
{
    const struct region_d2c_header *h = (const void *)m->d2c;
    /* ORDER(region_magic) observe: the header behind it is complete. */
    if (shm_load_acquire_u64(&h->magic) != REGION_MAGIC)
        return false;
    /* Written once, by a daemon whose uid we checked. */
    return shm_load_u64(&h->layout_hash) == wire_layout_hash() &&
           memcmp(h->client_uuid, c->uuid, sizeof c->uuid) == 0 &&
           memcmp(&h->geometry, &m->geometry, sizeof m->geometry) == 0;
}

static int map_regions(struct dynasor_client *c, const struct answer *answer, struct mapping *m,
                       struct reason *reason)
{
    const struct wire_geometry *g = &m->geometry;
    if (region_verify_c2d(answer->fds[WIRE_FD_C2D], g) != 0 ||
        region_verify_d2c(answer->fds[WIRE_FD_D2C], g->d2c_bytes) != 0 ||
        !doorbell_valid(answer->fds[WIRE_FD_DOORBELL]))
        return say_broken(reason, "hello reply: a descriptor is not what it should be");
    m->c2d = region_map(answer->fds[WIRE_FD_C2D], g->c2d_bytes, true);
    if (!m->c2d)
        return reason_call(reason, "mmap", errno);
    m->d2c = region_map(answer->fds[WIRE_FD_D2C], g->d2c_bytes, false);
    if (!m->d2c)
        return reason_call(reason, "mmap", errno);
    if (!header_valid(c, m))
        return say_broken(reason, "D2C: its header is not that of this session");
    uint64_t block = g->c2d_arena_bytes / ARENA_BLOCKS_MAX;
    block = block < ARENA_BLOCK_BYTES_MIN ? ARENA_BLOCK_BYTES_MIN : block;
    void *state = malloc(arena_state_bytes(g->c2d_arena_bytes, block));
    if (!state)
        return reason_call(reason, "malloc", ENOMEM);
    m->arena = arena_init(state, g->c2d_arena_bytes, block);
    return 0;
}

static int mapping_new(struct dynasor_client *c, struct answer *answer, struct reason *reason,
                       struct mapping **ret_mapping)
{
    const struct wire_reply *r = &answer->reply;
    struct mapping *m = calloc(1, sizeof *m);
    if (!m)
        return reason_call(reason, "calloc", ENOMEM);
    m->geometry = r->geometry;
    m->features = r->features;
    m->prompt_bytes_max = r->prompt_bytes_max;
    m->max_tokens_max = r->max_tokens_max;
    m->socket_fd = -1;
    m->doorbell_fd = -1;
    pthread_mutex_init(&m->socket_mutex, NULL);
    pthread_mutex_init(&m->arena_mutex, NULL);
    int rc = map_regions(c, answer, m, reason);
    if (rc) {
        mapping_free(m);
        return rc;
    }
    m->doorbell_fd = answer->fds[WIRE_FD_DOORBELL];
    answer->fds[WIRE_FD_DOORBELL] = -1;
    m->socket_fd = c->attach.fd;
    c->attach.fd = -1;
    *ret_mapping = m;
    return 0;
}

/* A refusal that goes by itself: our old session still counts, or a new daemon is on its way. */
static bool passes(struct dynasor_client *c, int rc)
{
    struct attach *a = &c->attach;
    if (rc != -DYNASOR_E_LIMIT && rc != -DYNASOR_E_QUOTA && rc != -DYNASOR_E_SHUTDOWN)
        return false;
    uint64_t now = wait_now_ns();
    a->refused_since_ns = a->refused_since_ns ? a->refused_since_ns : now;
    return c->mapping && now - a->refused_since_ns < REFUSED_MAX_NS;
}

static int take_answer(struct dynasor_client *c, struct reason *reason,
                       struct mapping **ret_mapping)
{
    struct answer answer = {0};
    int rc = receive(c->attach.fd, &answer);
    if (rc == 0)
        rc = check_reply(c, &answer, reason);
    if (rc == 0)
        rc = mapping_new(c, &answer, reason, ret_mapping);
    answer_close(&answer);
    if (rc == 0) {
        attach_reset(&c->attach);
        return 0;
    }
    if (rc == -DYNASOR_E_TIMEOUT)
        return rc;
    return rc == AGAIN || passes(c, rc) ? back_off(&c->attach) : rc;
}

static void sleep_until(uint64_t until_ns)
{
    struct timespec t = {.tv_sec = (time_t)(until_ns / 1000000000u),
                         .tv_nsec = (long)(until_ns % 1000000000u)};
    (void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL); /* shorter is as good */
}

static void wait_answer(const struct attach *a, uint64_t now_ns, uint64_t until_ns)
{
    struct pollfd poll_fd = {.fd = a->fd, .events = POLLIN};
    uint64_t ns = until_ns > now_ns ? until_ns - now_ns : 0;
    struct timespec t = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
    (void)ppoll(&poll_fd, 1, &t, NULL); /* looked at by recvmsg */
}

int attach_step(struct dynasor_client *c, uint64_t deadline_ns, struct reason *reason,
                struct mapping **ret_mapping)
{
    struct attach *a = &c->attach;
    for (;;) {
        uint64_t now = wait_now_ns();
        int rc;
        if (a->fd < 0 && now < a->retry_ns) {
            if (now < deadline_ns)
                sleep_until(a->retry_ns < deadline_ns ? a->retry_ns : deadline_ns);
            rc = now < deadline_ns ? AGAIN : -DYNASOR_E_TIMEOUT;
        } else if (a->fd < 0) {
            rc = open_socket(c, reason);
            rc = rc == 0 ? AGAIN : rc;
        } else {
            rc = take_answer(c, reason, ret_mapping);
            if (rc == -DYNASOR_E_TIMEOUT && now >= a->answer_until_ns)
                rc = back_off(a);
            else if (rc == -DYNASOR_E_TIMEOUT && now < deadline_ns) {
                wait_answer(a, now,
                            deadline_ns < a->answer_until_ns ? deadline_ns : a->answer_until_ns);
                rc = AGAIN;
            }
        }
        if (rc == AGAIN)
            continue;
        if (rc == -DYNASOR_E_TIMEOUT)
            *reason = no_daemon;
        else if (rc)
            (void)back_off(a); /* whoever calls again does so at a bounded rate */
        return rc;
    }
}
