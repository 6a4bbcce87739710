/* daemon/ipc/control.c — the administrator's socket: status.
 *
 * The kernel checks mode and group of the socket file at connect; we check again, by the credentials
 * of the process that connected, because the file's mode can be wrong. The answer to STATUS is a read-only descriptor of the
 * counters page; whoever watches it costs the daemon nothing from then on. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/base/log.h"
#include "daemon/ipc/state.h"

#define GROUPS_MAX 256
#define REQUESTS_MAX 16 /* of one connection in one turn */

/* The group that may connect: that of the socket file. */
static bool control_gid(const struct ipc *ipc, gid_t *ret_gid)
{
    struct sockaddr_un addr = {0};
    socklen_t bytes = sizeof addr;
    struct stat st;
    if (getsockname(ipc->control_listen_fd, (struct sockaddr *)&addr, &bytes) != 0 ||
        addr.sun_path[0] != '/' || stat(addr.sun_path, &st) != 0)
        return false;
    *ret_gid = st.st_gid;
    return true;
}

static bool allowed(const struct ipc *ipc, int fd, struct ucred *cred)
{
    socklen_t bytes = sizeof *cred;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, cred, &bytes) != 0)
        return false;
    if (cred->uid == 0 || cred->uid == geteuid())
        return true;
    gid_t gid;
    gid_t groups[GROUPS_MAX];
    socklen_t groups_bytes = sizeof groups;
    if (!control_gid(ipc, &gid) || gid == 0)
        return false;
    if (cred->gid == gid)
        return true;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &groups_bytes) != 0)
        return false;
    for (size_t i = 0; i < groups_bytes / sizeof groups[0]; i++)
        if (groups[i] == gid)
            return true;
    return false;
}

static void control_close(struct ipc *ipc, uint32_t place)
{
    (void)uring_poll_remove(ipc->uring,
                            tag_make(TAG_CONTROL, ipc->control_generation[place], place));
    (void)close(ipc->controls[place]);
    ipc->controls[place] = -1;
}

/* A free place; when all are taken, that of the connection which came first. */
static uint32_t place_take(struct ipc *ipc)
{
    for (uint32_t i = 0; i < IPC_CONTROLS_MAX; i++)
        if (ipc->controls[i] < 0)
            return i;
    uint32_t place = ipc->controls_next++ % IPC_CONTROLS_MAX;
    control_close(ipc, place);
    return place;
}

void control_accept(struct ipc *ipc)
{
    for (;;) {
        int fd = accept4(ipc->control_listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0)
            return;
        struct ucred cred = {0};
        if (!allowed(ipc, fd, &cred)) {
            log_warn("control: refused uid %u pid %d", cred.uid, cred.pid);
            (void)close(fd);
            continue;
        }
        uint32_t place = place_take(ipc);
        ipc->controls[place] = fd;
        ipc->control_generation[place]++;
        if (uring_poll_add(ipc->uring, fd, POLLIN | POLLRDHUP,
                           tag_make(TAG_CONTROL, ipc->control_generation[place], place)) < 0) {
            ipc->controls[place] = -1;
            (void)close(fd);
        }
    }
}

static bool reply_send(int fd, const struct control_reply *reply, int page_fd)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec iov = {.iov_base = (void *)(uintptr_t)reply, .iov_len = sizeof *reply};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    if (page_fd >= 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &page_fd, sizeof page_fd);
    }
    return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof *reply;
}

static uint16_t request_check(const struct control_request *request, ssize_t bytes)
{
    if (bytes != (ssize_t)sizeof *request || request->magic != CONTROL_MAGIC)
        return DYNASOR_E_PROTOCOL;
    if (request->version != CONTROL_VERSION)
        return DYNASOR_E_VERSION;
    return request->op == CONTROL_OP_STATUS ? DYNASOR_OK : DYNASOR_E_UNSUPPORTED;
}

/* One request. False: there is none, or the connection is gone. */
static bool request_serve(struct ipc *ipc, uint32_t place)
{
    struct control_request request;
    struct control_reply reply = {.magic = CONTROL_MAGIC, .version = CONTROL_VERSION};
    ssize_t n = recv(ipc->controls[place], &request, sizeof request, MSG_DONTWAIT | MSG_TRUNC);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return false;
    if (n <= 0) {
        control_close(ipc, place);
        return false;
    }
    reply.status = request_check(&request, n);
    reply.page_bytes = ipc->counters_bytes;
    /* Both are for people: cut if need be. */
    (void)snprintf(reply.daemon_version, sizeof reply.daemon_version, "%s", ipc->config.version);
    (void)snprintf(reply.socket_path, sizeof reply.socket_path, "%s", ipc->config.socket_path);
    int page_fd = reply.status == DYNASOR_OK ? region_reopen_readonly(ipc->counters_fd) : -1;
    if (reply.status == DYNASOR_OK && page_fd < 0)
        reply.status = DYNASOR_E_SYSTEM;
    bool sent = reply_send(ipc->controls[place], &reply, page_fd);
    if (page_fd >= 0)
        (void)close(page_fd);
    if (sent && reply.status == DYNASOR_OK)
        return true;
    control_close(ipc, place);
    return false;
}

void control_ready(struct ipc *ipc, uint32_t place, bool last)
{
    for (int i = 0; i < REQUESTS_MAX && request_serve(ipc, place); i++)
        if (i + 1 == REQUESTS_MAX) { /* who asks so much in one go gets no more */
            control_close(ipc, place);
            return;
        }
    if (last && ipc->controls[place] >= 0)
        control_close(ipc, place); /* its poll is over; dynasorctl connects again */
}
