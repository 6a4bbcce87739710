/* daemon/ipc/listener.c — the client socket: accept, handshake, hand out the regions.
 *
 * A connection costs a slot and a descriptor from accept on, so both limits hold for silent ones
 * too; at the limit it is accepted, told LIMIT, and closed. Descriptors that a client passes are
 * dropped by the kernel: recv() has no room for control data. */
#include <errno.h>
#include <grp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/ipc/state.h"

#define LISTEN_BACKLOG 4096
#define ACCEPTS_MAX 16u /* a turn */

/* Clients have no descriptors to send. Before Linux 6.16 whatever they send waits with the message
 * until it is read; a client's own sockets, sent so, keep the kernel's collector of cycles (unix_gc)
 * running at each close on the machine. */
#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83 /* asm-generic/socket.h */
#endif

static int listen_on(int fd)
{
    int off = 0;
    (void)setsockopt(fd, SOL_SOCKET, SO_PASSRIGHTS, &off,
                     sizeof off); /* accepted ones inherit it */
    return listen(fd, LISTEN_BACKLOG) == 0 ? 0 : -errno;
}

static int fail(char *message, size_t bytes, const char *what, const char *path, int r)
{
    (void)snprintf(message, bytes, "%s %s: %s", what, path, strerror(-r)); /* cut if need be */
    return r;
}

static bool served(const struct sockaddr_un *addr)
{
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    bool answers = connect(fd, (const struct sockaddr *)addr, sizeof *addr) == 0 || errno == EAGAIN;
    (void)close(fd); /* only asked whether somebody listens */
    return answers;
}

/* A socket file that nobody serves any more is removed; one that answers is not ours to take. The
 * io_uring of a daemon that was just killed keeps its listener alive for some milliseconds: that is
 * waited for. */
static int path_clear(const struct sockaddr_un *addr)
{
    struct timespec pause = {.tv_nsec = 10 * (long)NS_PER_MS};
    for (int i = 0; served(addr); i++) {
        if (i == 100)
            return -EADDRINUSE;
        (void)nanosleep(&pause, NULL); /* a shorter pause is as good */
    }
    struct stat st;
    if (lstat(addr->sun_path, &st) == 0 && S_ISSOCK(st.st_mode))
        (void)unlink(addr->sun_path); /* if it stays, bind() says so */
    return 0;
}

static int group_set(const char *path, const char *group)
{
    if (group[0] == '\0')
        return 0;
    struct group *g = getgrnam(group);
    if (!g)
        return -ENOENT;
    return chown(path, (uid_t)-1, g->gr_gid) == 0 ? 0 : -errno;
}

static int socket_open(const char *path, uint32_t mode, const char *group, char *message,
                       size_t message_bytes)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length >= sizeof addr.sun_path)
        return fail(message, message_bytes, "socket path too long", path, -ENAMETOOLONG);
    memcpy(addr.sun_path, path, length);
    int r = path_clear(&addr);
    if (r < 0)
        return fail(message, message_bytes, "another daemon serves", path, r);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fail(message, message_bytes, "socket for", path, -errno);
    mode_t umask_before = umask(0777); /* nobody connects before mode and group are set */
    r = bind(fd, (const struct sockaddr *)&addr, sizeof addr) == 0 ? 0 : -errno;
    (void)umask(umask_before);
    bool bound = r == 0;
    if (r == 0 && (r = group_set(path, group)) < 0)
        (void)fail(message, message_bytes, "group of", path, r);
    else if (r == 0 && chmod(path, mode) != 0)
        (void)fail(message, message_bytes, "mode of", path, r = -errno);
    else if (r == 0 && (r = listen_on(fd)) < 0)
        (void)fail(message, message_bytes, "listen on", path, r);
    else if (r < 0)
        (void)fail(message, message_bytes, "bind", path, r);
    if (r == 0)
        return fd;
    (void)close(fd); /* never served */
    if (bound)
        (void)unlink(path); /* ours, and nobody can use it */
    return r;
}

static int inherited(const struct ipc *ipc, const char *name)
{
    for (uint32_t i = 0; i < ipc->config.inherited_count; i++)
        if (strcmp(ipc->config.inherited[i].name, name) == 0)
            return ipc->config.inherited[i].fd;
    return -1;
}

int listener_open(struct ipc *ipc, char *message, size_t message_bytes)
{
    const struct ipc_config *c = &ipc->config;
    ipc->listen_fd = inherited(ipc, "dynasor.sock");
    ipc->control_listen_fd = inherited(ipc, "control.sock");
    if (ipc->listen_fd < 0) {
        ipc->listen_fd =
            socket_open(c->socket_path, c->socket_mode, c->socket_group, message, message_bytes);
        if (ipc->listen_fd < 0)
            return ipc->listen_fd;
        ipc->unlink_socket = true;
    }
    if (ipc->control_listen_fd < 0) {
        ipc->control_listen_fd =
            socket_open(c->control_path, c->control_mode, c->control_group, message, message_bytes);
        if (ipc->control_listen_fd < 0)
            return ipc->control_listen_fd;
        ipc->unlink_control = true;
    }
    /* Again, also where the service manager did: who calls it last is whom clients see as peer. */
    int r = listen_on(ipc->listen_fd);
    if (r == 0)
        r = listen_on(ipc->control_listen_fd);
    if (r == 0)
        r = uring_poll_add(ipc->uring, ipc->listen_fd, POLLIN, tag_make(TAG_LISTEN, 0, 0));
    if (r == 0)
        r = uring_poll_add(ipc->uring, ipc->control_listen_fd, POLLIN,
                           tag_make(TAG_CONTROL_LISTEN, 0, 0));
    ipc->accept_ready = true;
    return r < 0 ? fail(message, message_bytes, "listen on", c->socket_path, r) : 0;
}

void listener_close(struct ipc *ipc)
{
    if (ipc->unlink_socket)
        (void)unlink(ipc->config.socket_path); /* already gone is as good */
    if (ipc->unlink_control)
        (void)unlink(ipc->config.control_path);
    if (ipc->listen_fd >= 0)
        (void)close(ipc->listen_fd);
    if (ipc->control_listen_fd >= 0)
        (void)close(ipc->control_listen_fd);
    ipc->listen_fd = ipc->control_listen_fd = -1;
    ipc->unlink_socket = ipc->unlink_control = false;
}

static void reply_init(const struct ipc *ipc, struct wire_reply *reply)
{
    *reply = (struct wire_reply){.magic = WIRE_MAGIC,
                                 .version = WIRE_VERSION_MAX,
                                 .version_min = WIRE_VERSION_MIN,
                                 .generation = ipc->generation,
                                 .layout_hash = wire_layout_hash()};
}

static void refuse(struct ipc *ipc, int fd, const struct wire_fault *fault)
{
    struct wire_reply reply;
    reply_init(ipc, &reply);
    reply.fault = *fault;
    (void)send(fd, &reply, sizeof reply, MSG_DONTWAIT | MSG_NOSIGNAL); /* best effort */
    counter_add(ipc->counters, COUNTER_clients_refused, 1);
}

static void refuse_limit(struct ipc *ipc, int fd)
{
    struct wire_fault fault = {.status = DYNASOR_E_LIMIT,
                               .field = DYNASOR_FIELD_CLIENTS,
                               .hi = ipc->clients_limit,
                               .got = (uint64_t)ipc->clients_count + 1};
    refuse(ipc, fd, &fault);
}

/* Closes a connection that was refused before its hello was read. Unread bytes at close() would make
 * the kernel report ECONNRESET to the client ahead of our reply, so nothing may arrive any more. */
static void refused_close(int fd)
{
    char byte;
    (void)shutdown(fd, SHUT_RDWR); /* gone already is as good */
    while (recv(fd, &byte, sizeof byte, MSG_DONTWAIT) > 0)
        continue;
    (void)close(fd); /* the reply is on its way, or lost */
}

static void accept_one(struct ipc *ipc, int fd)
{
    struct peer *p = peer_take(ipc);
    struct ucred cred;
    socklen_t cred_bytes = sizeof cred;
    if (!p || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &cred_bytes) != 0) {
        refuse_limit(ipc, fd);
        refused_close(fd);
        if (p)
            peer_untake(ipc, p);
        return;
    }
    p->uid = (uint32_t)cred.uid;
    p->pid = (uint32_t)cred.pid;
    struct wire_fault fault;
    if (peer_charge_connection(ipc, p, &fault) < 0) {
        refuse(ipc, fd, &fault);
        refused_close(fd);
        peer_untake(ipc, p);
        return;
    }
    p->socket_fd = fd;
    ipc->descriptors_count++;
    p->state = PEER_HELLO;
    TAILQ_INSERT_TAIL(&ipc->hello, p, link);
    peer_watch(ipc, p);
}

uint32_t listener_accept(struct ipc *ipc)
{
    uint32_t count = 0;
    if (!ipc->accept_ready || ipc->now_ns < ipc->accept_after_ns)
        return 0;
    while (count < ACCEPTS_MAX) {
        int fd = accept4(ipc->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
            ipc->accept_after_ns = ipc->now_ns + 100 * NS_PER_MS; /* trying at once would spin */
            log_warn("accept: %s: trying again in 100 ms", strerror(errno));
            return count;
        }
        if (fd < 0) {
            ipc->accept_ready = errno != EAGAIN && errno != EWOULDBLOCK;
            return count;
        }
        accept_one(ipc, fd);
        count++;
    }
    return count;
}

static int reply_send(struct peer *p, const struct wire_reply *reply, const int fds[WIRE_FD_COUNT])
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(WIRE_FD_COUNT * sizeof(int))];
    } control = {0};
    struct iovec iov = {.iov_base = (void *)(uintptr_t)reply, .iov_len = sizeof *reply};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(WIRE_FD_COUNT * sizeof(int));
    memcpy(CMSG_DATA(c), fds, WIRE_FD_COUNT * sizeof(int));
    ssize_t n = sendmsg(p->socket_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    return n == (ssize_t)sizeof *reply ? 0 : -EIO;
}

/* Makes both files, maps them, sends them. On failure everything but the peer is undone. */
static int session_open(struct ipc *ipc, struct peer *p, const struct wire_hello *hello)
{
    int d2c_fd = region_create_d2c(&p->geometry);
    int d2c_readonly_fd = d2c_fd < 0 ? d2c_fd : region_reopen_readonly(d2c_fd);
    p->c2d_fd = region_create_c2d(&p->geometry);
    p->bell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ipc->descriptors_count += (uint32_t)(p->c2d_fd >= 0) + (uint32_t)(p->bell_fd >= 0);
    int r = d2c_readonly_fd < 0 ? d2c_readonly_fd : p->c2d_fd < 0 ? p->c2d_fd : 0;
    if (r == 0 && p->bell_fd < 0)
        r = -errno;
    if (r == 0) {
        TAILQ_REMOVE(&ipc->hello, p, link);
        r = peer_attach(ipc, p, d2c_fd, hello->client_uuid);
        if (r < 0)
            TAILQ_INSERT_TAIL(&ipc->hello, p, link);
    }
    if (r == 0) {
        peer_own(ipc, p); /* before the client looks: without an owner it takes us for dead */
        struct wire_reply reply;
        reply_init(ipc, &reply);
        reply.version = p->version;
        reply.features = p->features;
        reply.prompt_bytes_max = ipc->config.prompt_bytes;
        reply.max_tokens_max = ipc->config.max_tokens;
        reply.slot = p->slot;
        reply.geometry = p->geometry;
        r = reply_send(p, &reply, (int[]){p->c2d_fd, d2c_readonly_fd, p->bell_fd});
    }
    if (r == 0)
        peer_store(ipc, p, d2c_fd);
    if (d2c_fd >= 0)
        (void)close(d2c_fd); /* mapped; the client and the fd store have their own */
    if (d2c_readonly_fd >= 0)
        (void)close(d2c_readonly_fd);
    return r;
}

static void hello_accept(struct ipc *ipc, struct peer *p, const struct wire_hello *hello)
{
    struct wire_fault fault;
    region_geometry_init(&p->geometry, hello->lanes_count, hello->arena_bytes);
    p->version = hello->version_max < WIRE_VERSION_MAX ? hello->version_max : WIRE_VERSION_MAX;
    p->features = (hello->features_wanted | hello->features_required) & WIRE_FEATURES_KNOWN;
    if (peer_charge_region(ipc, p, &fault) < 0) {
        refuse(ipc, p->socket_fd, &fault);
        peer_close(ipc, p, NULL);
        return;
    }
    int r = session_open(ipc, p, hello);
    if (r < 0) {
        log_warn("client %u uid %u: session not opened: %s", p->slot, p->uid, strerror(-r));
        fault = (struct wire_fault){.status = DYNASOR_E_SYSTEM, .got = (uint64_t)-r};
        if (p->state == PEER_HELLO)
            refuse(ipc, p->socket_fd, &fault);
        peer_close(ipc, p, NULL);
        return;
    }
    peer_watch_session(ipc, p);
    counter_add(ipc->counters, COUNTER_clients_accepted, 1);
    log_debug("client %u uid %u pid %u attached: %u lanes", p->slot, p->uid, p->pid,
              p->geometry.lanes_count);
}

void listener_hello(struct ipc *ipc, struct peer *p)
{
    uint8_t message[sizeof(struct wire_hello) + 1]; /* one more: a longer hello is noticed */
    ssize_t n = recv(p->socket_fd, message, sizeof message, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return;
    if (n <= 0) {
        peer_close(ipc, p, NULL);
        return;
    }
    struct wire_fault fault;
    if (wire_check_hello(message, (size_t)n, &fault) != WIRE_OK) {
        refuse(ipc, p->socket_fd, &fault);
        peer_close(ipc, p, NULL);
        return;
    }
    struct wire_hello hello;
    memcpy(&hello, message, sizeof hello);
    hello_accept(ipc, p, &hello);
}

void listener_expire(struct ipc *ipc)
{
    uint64_t timeout_ns = ipc->config.handshake_timeout_ms * NS_PER_MS;
    struct peer *p;
    while ((p = TAILQ_FIRST(&ipc->hello)) && ipc->now_ns - p->since_ns > timeout_ns) {
        struct wire_fault fault = {.status = DYNASOR_E_TIMEOUT,
                                   .field = DYNASOR_FIELD_HELLO,
                                   .hi = timeout_ns,
                                   .got = ipc->now_ns - p->since_ns};
        refuse(ipc, p->socket_fd, &fault);
        peer_close(ipc, p, NULL);
    }
}
