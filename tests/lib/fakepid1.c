#include "tests/lib/fakepid1.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

enum { LISTENING = 2, MESSAGE_BYTES = 4096, MESSAGE_FDS_MAX = 16 };

static void address_of(struct sockaddr_un *address, const char *path)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    CHECK((size_t)snprintf(address->sun_path, sizeof address->sun_path, "%s", path) <
              sizeof address->sun_path,
          "%s is too long for a socket", path);
}

static int socket_at(const char *path, int type)
{
    struct sockaddr_un address;
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    address_of(&address, path);
    CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0, "%s: %s", path,
          strerror(errno));
    CHECK(chmod(path, 0666) == 0, "%s: %s", path, strerror(errno));
    if (type == SOCK_SEQPACKET)
        CHECK(listen(fd, 4096) == 0, "%s: %s", path, strerror(errno));
    return fd;
}

void fakepid1_open(struct fakepid1 *p, const struct test_daemon *d)
{
    int bytes = 1 << 20;

    *p = (struct fakepid1){0};
    (void)snprintf(p->notify_path, sizeof p->notify_path, "%s/notify", d->folder);
    p->notify_fd = socket_at(p->notify_path, SOCK_DGRAM);
    (void)setsockopt(p->notify_fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
    p->listen_fd = socket_at(d->socket_path, SOCK_SEQPACKET);
    p->control_fd = socket_at(d->control_path, SOCK_SEQPACKET);
}

void fakepid1_close(struct fakepid1 *p)
{
    for (unsigned i = 0; i < p->stored_count; i++)
        (void)close(p->stored[i].fd);
    (void)close(p->notify_fd);
    (void)close(p->listen_fd);
    (void)close(p->control_fd);
    *p = (struct fakepid1){.notify_fd = -1, .listen_fd = -1, .control_fd = -1};
}

void fakepid1_spawn(struct fakepid1 *p, struct test_daemon *d)
{
    static char names[FAKEPID1_STORE_MAX * FAKEPID1_NAME_BYTES];
    static int fds[FAKEPID1_STORE_MAX + LISTENING];
    char notify[320], count[40];
    unsigned total = 0;

    size_t used = (size_t)snprintf(names, sizeof names, "LISTEN_FDNAMES=dynasor.sock:control.sock");
    fds[total++] = p->listen_fd;
    fds[total++] = p->control_fd;
    for (unsigned i = 0; i < p->stored_count; i++) {
        used += (size_t)snprintf(names + used, sizeof names - used, ":%s", p->stored[i].name);
        fds[total++] = p->stored[i].fd;
    }
    (void)snprintf(notify, sizeof notify, "NOTIFY_SOCKET=%s", p->notify_path);
    (void)snprintf(count, sizeof count, "LISTEN_FDS=%u", total);
    char watchdog[] = "WATCHDOG_USEC=2000000", store[] = "FDSTORE=1024";
    char *environment[] = {notify, count, names, watchdog, store, NULL};
    p->ready = false;
    daemon_spawn(d, environment, fds, total);
}

static void remove_at(struct fakepid1 *p, unsigned i)
{
    (void)close(p->stored[i].fd);
    p->stored[i] = p->stored[--p->stored_count];
    p->removed_count++;
}

void fakepid1_store(struct fakepid1 *p, const char *name, int fd)
{
    pid_t self = getpid();

    for (unsigned i = 0; i < p->stored_count; i++) {
        if (syscall(SYS_kcmp, self, self, KCMP_FILE, fd, p->stored[i].fd) == 0) {
            (void)close(fd); /* the same file again, as systemd has it: kept once */
            return;
        }
    }
    CHECK(p->stored_count < FAKEPID1_STORE_MAX, "the descriptor store is full");
    struct fakepid1_stored *stored = &p->stored[p->stored_count++];
    stored->fd = fd;
    (void)snprintf(stored->name, sizeof stored->name, "%s", name);
}

const struct fakepid1_stored *fakepid1_find(const struct fakepid1 *p, const char *name)
{
    for (unsigned i = 0; i < p->stored_count; i++)
        if (strcmp(p->stored[i].name, name) == 0)
            return &p->stored[i];
    return NULL;
}

/* Whether a line of the message is exactly this; name lines give what follows. */
static bool has_line(const char *message, const char *line)
{
    size_t length = strlen(line);

    for (const char *at = message; *at; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : "")
        if (strncmp(at, line, length) == 0 && (at[length] == '\n' || at[length] == 0))
            return true;
    return false;
}

static void name_of(const char *message, char name[FAKEPID1_NAME_BYTES])
{
    const char *at = strstr(message, "FDNAME=");

    (void)snprintf(name, FAKEPID1_NAME_BYTES, "stored");
    if (at)
        (void)snprintf(name, FAKEPID1_NAME_BYTES, "%.*s", (int)strcspn(at + 7, "\n"), at + 7);
}

static void take_message(struct fakepid1 *p, const char *text, const int *fds, unsigned fds_count)
{
    char name[FAKEPID1_NAME_BYTES];
    bool store = has_line(text, "FDSTORE=1");

    name_of(text, name);
    for (unsigned i = 0; i < fds_count; i++) {
        if (store)
            fakepid1_store(p, name, fds[i]);
        else
            (void)close(fds[i]);
    }
    if (has_line(text, "FDSTOREREMOVE=1"))
        for (unsigned i = p->stored_count; i > 0; i--)
            if (strcmp(p->stored[i - 1].name, name) == 0)
                remove_at(p, i - 1);
    if (has_line(text, "READY=1")) {
        p->ready = true;
        p->ready_count++;
    }
    p->watchdog_count += has_line(text, "WATCHDOG=1");
    p->stopping_count += has_line(text, "STOPPING=1");
}

static bool receive(struct fakepid1 *p)
{
    char text[MESSAGE_BYTES];
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(MESSAGE_FDS_MAX * sizeof(int))];
    } control;
    struct iovec iov = {text, sizeof text - 1};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    int fds[MESSAGE_FDS_MAX];
    unsigned fds_count = 0;

    ssize_t got = recvmsg(p->notify_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0)
        return false;
    text[got] = 0;
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    if (head && head->cmsg_type == SCM_RIGHTS) {
        fds_count = (unsigned)((head->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(head), fds_count * sizeof fds[0]);
    }
    take_message(p, text, fds, fds_count);
    return true;
}

static void drop_hung_up(struct fakepid1 *p)
{
    for (unsigned i = p->stored_count; i > 0 && !p->keep_hung_up; i--) {
        struct pollfd poll_fd = {.fd = p->stored[i - 1].fd};
        if (poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & (POLLHUP | POLLERR)) != 0)
            remove_at(p, i - 1);
    }
}

void fakepid1_run(struct fakepid1 *p, struct test_daemon *d, uint64_t duration_ns, bool until_ready)
{
    uint64_t deadline = now_ns() + duration_ns;

    for (;;) {
        while (receive(p))
            continue;
        drop_hung_up(p);
        uint64_t now = now_ns();
        if ((until_ready && p->ready) || (!until_ready && now >= deadline))
            return;
        CHECK(now < deadline, "READY=1 did not come");
        CHECK(!until_ready || daemon_alive(d), "the daemon ended before READY=1");
        struct pollfd poll_fd = {.fd = p->notify_fd, .events = POLLIN};
        uint64_t wait_ns = deadline - now < 20 * NS_PER_MS ? deadline - now : 20 * NS_PER_MS;
        struct timespec wait = {.tv_nsec = (long)wait_ns};
        (void)ppoll(&poll_fd, 1, &wait, NULL); /* whatever it says, we look */
    }
}

void fakepid1_kill(struct fakepid1 *p, struct test_daemon *d)
{
    daemon_kill(d);
    while (receive(p))
        continue;
    drop_hung_up(p);
}
