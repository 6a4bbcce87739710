/* Whole messages over a socket, however the kernel cuts them. */
#pragma once
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench_util.h"

static inline void socket_put(struct bench_run *run, int fd, const void *data, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        ssize_t n = send(fd, (const char *)data + at, bytes - at, MSG_NOSIGNAL);
        if (n < 0)
            bench_fail(run, "send: %s", strerror(errno));
        at += (size_t)n;
    }
}

static inline void socket_get(struct bench_run *run, int fd, void *data, size_t bytes, int flags)
{
    for (size_t at = 0; at < bytes;) {
        ssize_t n = recv(fd, (char *)data + at, bytes - at, flags);
        if (n < 0 && errno == EAGAIN)
            continue; /* only with MSG_DONTWAIT: look again */
        if (n <= 0)
            bench_fail(run, "recv: %s", n == 0 ? "peer closed" : strerror(errno));
        at += (size_t)n;
    }
}

static inline int socket_prepare(struct bench_run *run, int type)
{
    return socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, run->fd) != 0 ? -errno : 0;
}
