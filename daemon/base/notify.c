#include "daemon/base/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define LISTEN_FDS_START 3
#define MESSAGE_BYTES 512u

static struct {
    int fd; /* 0: there is no service manager (descriptor 0 is never ours) */
    socklen_t address_bytes;
    struct sockaddr_un address;
    uint64_t watchdog_ns;
    bool fdstore;
} manager;

/* Environment variables are decimal numbers without signs or spaces. */
static bool parse_decimal(const char *text, uint64_t *ret_number)
{
    uint64_t number = 0;
    if (text == NULL || text[0] == '\0') {
        return false;
    }
    for (; *text != '\0'; text++) {
        unsigned digit = (unsigned)(unsigned char)*text - '0';
        if (digit > 9 || __builtin_mul_overflow(number, (uint64_t)10, &number) ||
            __builtin_add_overflow(number, (uint64_t)digit, &number)) {
            return false;
        }
    }
    *ret_number = number;
    return true;
}

/* True also when the variable does not name a process at all: only some set it. */
static bool is_for_us(const char *variable, bool when_unset)
{
    const char *text = getenv(variable);
    uint64_t pid = 0;
    if (text == NULL) {
        return when_unset;
    }
    return parse_decimal(text, &pid) && pid == (uint64_t)getpid();
}

static void read_watchdog(void)
{
    uint64_t us = 0;
    if (is_for_us("WATCHDOG_PID", true) && parse_decimal(getenv("WATCHDOG_USEC"), &us) &&
        us <= UINT64_MAX / 1000) {
        manager.watchdog_ns = us * 1000 / 2;
    }
}

static int set_address(const char *path)
{
    size_t length = strlen(path);
    if ((path[0] != '/' && path[0] != '@') || length < 2 ||
        length >= sizeof(manager.address.sun_path)) {
        return -EINVAL;
    }
    manager.address.sun_family = AF_UNIX;
    memcpy(manager.address.sun_path, path, length);
    size_t bytes = offsetof(struct sockaddr_un, sun_path) + length;
    if (path[0] == '@') {
        manager.address.sun_path[0] = '\0'; /* abstract: the length ends the name */
    } else {
        bytes++;
    }
    manager.address_bytes = (socklen_t)bytes;
    return 0;
}

int notify_open(void)
{
    notify_close();
    const char *path = getenv("NOTIFY_SOCKET");
    if (path == NULL || path[0] == '\0') {
        return 0;
    }
    int r = set_address(path);
    if (r < 0) {
        return r;
    }
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -errno;
    }
    struct timeval wait = {
        .tv_sec = NOTIFY_WAIT_MS / 1000,
        .tv_usec = NOTIFY_WAIT_MS % 1000 * 1000,
    };
    if (fd == 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait)) < 0) {
        r = fd == 0 ? -EBADF : -errno;
        close(fd);
        return r;
    }
    manager.fd = fd;
    read_watchdog();
    const char *store = getenv("FDSTORE");
    manager.fdstore = store == NULL || strcmp(store, "0") != 0;
    return 0;
}

void notify_close(void)
{
    if (manager.fd > 0) {
        close(manager.fd);
    }
    memset(&manager, 0, sizeof(manager));
}

/* ---- messages ---------------------------------------------------------------------------------- */

/* fd < 0: none goes along. */
static int send_message(const char *text, size_t bytes, int fd, int flags)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {.iov_base = (void *)(uintptr_t)text, .iov_len = bytes};
    struct msghdr message = {
        .msg_name = &manager.address,
        .msg_namelen = manager.address_bytes,
        .msg_iov = &part,
        .msg_iovlen = 1,
    };
    if (manager.fd == 0) {
        return 1;
    }
    if (fd >= 0) {
        message.msg_control = control.room;
        message.msg_controllen = sizeof(control.room);
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
    }
    ssize_t n;
    do {
        n = sendmsg(manager.fd, &message, flags | MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        /* ETOOMANYREFS: too many descriptors in flight, the service manager is behind. */
        bool busy = errno == EAGAIN || errno == ENOBUFS || errno == ETOOMANYREFS;
        return busy ? -EAGAIN : -errno;
    }
    return 0;
}

int notify_ready(void)
{
    return send_message("READY=1", strlen("READY=1"), -1, 0);
}

int notify_stopping(void)
{
    return send_message("STOPPING=1", strlen("STOPPING=1"), -1, 0);
}

int notify_watchdog(void)
{
    return send_message("WATCHDOG=1", strlen("WATCHDOG=1"), -1, MSG_DONTWAIT);
}

int notify_status(const char *text)
{
    char message[MESSAGE_BYTES];
    int n = snprintf(message, sizeof(message), "STATUS=%s", text);
    if (n < 0) {
        return -EINVAL;
    }
    /* A newline would start another assignment, and this text may quote a configuration. */
    size_t length = strnlen(message, sizeof(message));
    for (size_t i = 0; i < length; i++) {
        if ((unsigned char)message[i] < 0x20) {
            message[i] = ' ';
        }
    }
    return send_message(message, length, -1, MSG_DONTWAIT);
}

uint64_t notify_watchdog_interval_ns(void)
{
    return manager.watchdog_ns;
}

bool notify_fdstore_enabled(void)
{
    return manager.fd > 0 && manager.fdstore;
}

/* LISTEN_FDNAMES is separated by colons, and a message by newlines. */
static bool name_accepted(const char *name)
{
    size_t length = strnlen(name, NOTIFY_NAME_BYTES);
    if (length == 0 || length == NOTIFY_NAME_BYTES) {
        return false;
    }
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)name[i];
        if (c <= 0x20 || c >= 0x7f || c == ':') {
            return false;
        }
    }
    return true;
}

static int store_message(const char *verb, const char *name, int fd)
{
    char message[MESSAGE_BYTES];
    if (!name_accepted(name)) {
        return -EINVAL;
    }
    int n = snprintf(message, sizeof(message), "%s=1\nFDNAME=%s", verb, name);
    return n < 0 ? -EINVAL : send_message(message, (size_t)n, fd, MSG_DONTWAIT);
}

int notify_fdstore(const char *name, int fd)
{
    return fd < 0 ? -EBADF : store_message("FDSTORE", name, fd);
}

int notify_fdstore_remove(const char *name)
{
    return store_message("FDSTOREREMOVE", name, -1);
}

/* ---- inherited descriptors --------------------------------------------------------------------- */

/* Takes the name up to the next colon; returns where the next one starts, NULL after the last. */
static const char *take_name(const char *names, char name[static NOTIFY_NAME_BYTES])
{
    const char *next = NULL;
    (void)snprintf(name, NOTIFY_NAME_BYTES, "unknown");
    if (names == NULL) {
        return NULL;
    }
    size_t length = strcspn(names, ":");
    if (names[length] == ':') {
        next = names + length + 1;
    }
    if (length > 0 && length < NOTIFY_NAME_BYTES) {
        memcpy(name, names, length);
        name[length] = '\0';
    }
    return next;
}

int notify_listen_fds(struct notify_fd *out, uint32_t max, uint32_t *ret_count)
{
    const char *count_text = getenv("LISTEN_FDS");
    const char *names = getenv("LISTEN_FDNAMES");
    uint64_t pid = 0;
    uint64_t count = 0;
    *ret_count = 0;
    if (getenv("LISTEN_PID") == NULL || count_text == NULL) {
        return 0;
    }
    if (!parse_decimal(getenv("LISTEN_PID"), &pid) || !parse_decimal(count_text, &count) ||
        count > INT32_MAX - LISTEN_FDS_START) {
        return -EINVAL;
    }
    if (pid != (uint64_t)getpid()) {
        return 0; /* meant for a process above us that did not clear its environment */
    }
    if (count > max) {
        return -E2BIG;
    }
    for (uint32_t i = 0; i < count; i++) {
        int fd = LISTEN_FDS_START + (int)i;
        int flags = fcntl(fd, F_GETFD);
        if (flags < 0 || fcntl(fd, F_SETFD, flags | FD_CLOEXEC) < 0) {
            return -errno;
        }
        out[i].fd = fd;
        names = take_name(names, out[i].name);
    }
    *ret_count = (uint32_t)count;
    return 0;
}
