#include "bench_daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_SECONDS 5
#define DESCRIPTORS_PER_CLIENT 8u

bool bench_folder(char *ret_path, size_t bytes)
{
    ssize_t n = readlink("/proc/self/exe", ret_path, bytes - 1);
    if (n <= 0)
        return false;
    ret_path[n] = '\0';
    char *slash = strrchr(ret_path, '/');
    if (!slash)
        return false;
    *slash = '\0';
    return true;
}

static int path_in(const struct bench_daemon *d, const char *name, char *ret_path, size_t bytes)
{
    int n = snprintf(ret_path, bytes, "%s/%s", d->folder, name);
    return n > 0 && (size_t)n < bytes ? 0 : -ENAMETOOLONG;
}

static int write_config(const struct bench_daemon *d, const struct bench_daemon_options *o)
{
    char path[108];
    int r = path_in(d, "dynasord.conf", path, sizeof path);
    FILE *f = r == 0 ? fopen(path, "w") : NULL;
    if (!f)
        return r < 0 ? r : -errno;
    int n =
        fprintf(f,
                "[daemon]\nsocket_path = %s\ncontrol_path = %s\nclients_max = %u\n"
                "spin_max_us = %u\nlog_level = warn\n"
                "[quota]\nconnections = %u\nregion_bytes = 1099511627776\n"
                "programs = 65536\nqueued_bytes = 268435456\n"
                "[engine]\nsimulate = 1\nsim_step_ns = 0\nsim_prefill_ns_per_token = 0\n",
                d->socket_path, d->control_path, o->clients_max, o->spin_max_us, o->clients_max);
    return fclose(f) == 0 && n > 0 ? 0 : -EIO;
}

/* In the child; what goes wrong here shows as a daemon that did not come up. */
static void execute(const struct bench_daemon *d, const struct bench_daemon_options *o,
                    pid_t parent)
{
    char binary[256], config[108], log[108], preload[256];
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent)
        _exit(126);
    if (path_in(d, "log", log, sizeof log) < 0 ||
        path_in(d, "dynasord.conf", config, sizeof config) < 0)
        _exit(126);
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0)
        _exit(126);
    bench_descriptors((uint64_t)o->clients_max * DESCRIPTORS_PER_CLIENT + 1024);
    if (o->pinned && bench_pin(0) < 0)
        _exit(126);
    size_t used = bench_folder(binary, sizeof binary - 16) ? strlen(binary) : 0;
    memcpy(binary + used, "/dynasord", sizeof "/dynasord");
    char *arguments[] = {binary, (char[]){"--config"}, config, NULL};
    char *environment[3] = {NULL, NULL, NULL};
    char setting[256];
    if (o->preload) {
        (void)snprintf(preload, sizeof preload, "LD_PRELOAD=%s", o->preload);
        (void)snprintf(setting, sizeof setting, "%s", o->preload_environment);
        environment[0] = preload;
        environment[1] = setting;
    }
    (void)execve(binary, arguments, environment); /* returns only on failure */
    (void)dprintf(2, "exec %s: %s\n", binary, strerror(errno));
    _exit(127);
}

static bool answers(const struct bench_daemon *d)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, d->socket_path, sizeof address.sun_path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    bool ok = connect(fd, (const struct sockaddr *)&address, sizeof address) == 0;
    (void)close(fd); /* nothing was written to it */
    return ok;
}

/* The last line that it logged says most. */
static void explain(struct bench_daemon *d, const char *what)
{
    char path[108], line[100] = "", last[100] = "no output";
    FILE *f = path_in(d, "log", path, sizeof path) == 0 ? fopen(path, "r") : NULL;
    while (f && fgets(line, sizeof line, f))
        if (line[0] != '\n')
            memcpy(last, line, sizeof last);
    if (f)
        (void)fclose(f); /* only read */
    last[strcspn(last, "\n")] = '\0';
    (void)snprintf(d->reason, sizeof d->reason, "the daemon %s: %s", what, last);
}

int bench_daemon_start(struct bench_daemon *d, const struct bench_daemon_options *o)
{
    char folder[] = "/tmp/dynasor-bench-XXXXXX";
    *d = (struct bench_daemon){0};
    if (!mkdtemp(folder)) {
        (void)snprintf(d->reason, sizeof d->reason, "mkdtemp: %s", strerror(errno));
        return -errno;
    }
    memcpy(d->folder, folder, sizeof folder);
    int r = path_in(d, "dynasor.sock", d->socket_path, sizeof d->socket_path);
    if (r == 0)
        r = path_in(d, "control.sock", d->control_path, sizeof d->control_path);
    if (r == 0)
        r = write_config(d, o);
    pid_t parent = getpid();
    if (r == 0) {
        d->pid = fork();
        if (d->pid == 0)
            execute(d, o, parent);
        r = d->pid < 0 ? -errno : 0;
    }
    if (r < 0) {
        bench_daemon_stop(d);
        (void)snprintf(d->reason, sizeof d->reason, "cannot start the daemon: %s", strerror(-r));
        return r;
    }
    for (int i = 0; i < START_SECONDS * 200; i++) {
        int status;
        if (waitpid(d->pid, &status, WNOHANG) == d->pid) {
            d->pid = 0;
            break;
        }
        if (answers(d))
            return 0;
        (void)poll(NULL, 0, 5); /* a shorter pause is as good */
    }
    explain(d, d->pid == 0 ? "ended at once" : "does not answer");
    bench_daemon_stop(d);
    return -EPROTO;
}

void bench_daemon_stop(struct bench_daemon *d)
{
    static const char *const names[] = {"dynasor.sock", "control.sock", "dynasord.conf", "log"};
    int status;
    if (d->pid > 0) {
        (void)kill(d->pid, SIGTERM); /* our child, not reaped yet: the pid is its own */
        (void)bench_wait(d->pid, 3.0, &status);
    }
    d->pid = 0;
    for (size_t i = 0; d->folder[0] != '\0' && i < sizeof names / sizeof names[0]; i++) {
        char path[108];
        if (path_in(d, names[i], path, sizeof path) == 0)
            (void)unlink(path); /* the daemon removed some of them itself */
    }
    if (d->folder[0] != '\0')
        (void)rmdir(d->folder); /* a leftover folder in /tmp harms nothing */
    d->folder[0] = '\0';
}

static int receive_page(int fd, struct control_reply *ret_reply)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec iov = {.iov_base = ret_reply, .iov_len = sizeof *ret_reply};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    if (recvmsg(fd, &message, MSG_CMSG_CLOEXEC) != sizeof *ret_reply)
        return -EPROTO;
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
        return -EPROTO;
    int page_fd;
    memcpy(&page_fd, CMSG_DATA(c), sizeof page_fd);
    return page_fd;
}

const struct counters_page *bench_counters(const char *control_path, size_t *ret_bytes)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", control_path);
    struct control_request request = {
        .magic = CONTROL_MAGIC, .version = CONTROL_VERSION, .op = CONTROL_OP_STATUS};
    struct control_reply reply = {0};
    struct timeval patience = {.tv_sec = 2};
    int page_fd = -1;
    void *page = MAP_FAILED;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return NULL;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0 &&
        connect(fd, (const struct sockaddr *)&address, sizeof address) == 0 &&
        send(fd, &request, sizeof request, MSG_NOSIGNAL) == sizeof request)
        page_fd = receive_page(fd, &reply);
    if (page_fd >= 0) {
        page = mmap(NULL, reply.page_bytes, PROT_READ, MAP_SHARED, page_fd, 0);
        (void)close(page_fd); /* the map keeps the file */
    }
    (void)close(fd); /* the request was answered or never will be */
    *ret_bytes = reply.page_bytes;
    return page == MAP_FAILED ? NULL : page;
}
