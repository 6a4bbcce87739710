#include "tests/lib/daemon.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { DESCRIPTORS_KEPT_MAX = 2048 };

extern char **environ;

/* So that a failing test shows what its daemon said. */
static struct test_daemon *opened;
static pid_t opened_by;

static void show_log_of_failed_test(int status, void *unused)
{
    (void)unused;
    if (status == 0 || status == 77 || !opened || getpid() != opened_by)
        return;
    daemon_log_print(opened);
    if (opened->pid > 0)
        (void)kill(opened->pid, SIGKILL);
}

bool daemon_find(char *path, size_t path_bytes, const char *variant, const char *name)
{
    const char *build = getenv("DYN_BUILD");
    char relative[512];

    (void)snprintf(relative, sizeof relative, "%s%s%s/bin/%s", build ? build : "build",
                   *variant ? "/" : "", variant, name);
    char *absolute = realpath(relative, NULL); /* a test changes its folder */
    if (!absolute)
        return false;
    (void)snprintf(path, path_bytes, "%s", absolute);
    free(absolute);
    return true;
}

void daemon_configure(struct test_daemon *d, const struct daemon_options *options)
{
    FILE *file = fopen(d->config_path, "w");

    CHECK(file != NULL, "%s: %s", d->config_path, strerror(errno));
    (void)fprintf(file, "[daemon]\nsocket_path = %s\ncontrol_path = %s\n%s", d->socket_path,
                  d->control_path, options->daemon ? options->daemon : "");
    const char *engine = options->engine ? options->engine : "";
    (void)fprintf(file, "[quota]\n%s[engine]\n%s%s[limits]\n%s",
                  options->quota ? options->quota : "",
                  strstr(engine, "policy") ? "" : "simulate = 1\n", engine,
                  options->limits ? options->limits : "");
    CHECK(fclose(file) == 0, "%s: %s", d->config_path, strerror(errno));
    d->descriptors_max = options->descriptors_max;
    d->nice_of_unit = options->nice_of_unit;
}

void daemon_open(struct test_daemon *d, const struct daemon_options *options)
{
    const char *temporary = getenv("TMPDIR");
    const char *chosen = getenv("DYN_DAEMON");

    *d = (struct test_daemon){0};
    if (options->binary)
        (void)snprintf(d->binary, sizeof d->binary, "%s", options->binary);
    else if (chosen && *chosen)
        (void)snprintf(d->binary, sizeof d->binary, "%s", chosen);
    else
        CHECK(daemon_find(d->binary, sizeof d->binary, "", "dynasord"), "no daemon was built");
    (void)snprintf(d->folder, sizeof d->folder, "%s/dynXXXXXX", temporary ? temporary : "/tmp");
    CHECK(mkdtemp(d->folder) != NULL, "%s: %s", d->folder, strerror(errno));
    CHECK(chmod(d->folder, 0755) == 0, "%s: %s", d->folder, strerror(errno));
    (void)snprintf(d->socket_path, sizeof d->socket_path, "%s/%s", d->folder, DAEMON_SOCKET_NAME);
    (void)snprintf(d->control_path, sizeof d->control_path, "%s/%s", d->folder,
                   DAEMON_CONTROL_NAME);
    (void)snprintf(d->config_path, sizeof d->config_path, "%s/dynasord.conf", d->folder);
    (void)snprintf(d->log_path, sizeof d->log_path, "%s/log", d->folder);
    daemon_configure(d, options);
    if (!opened)
        (void)on_exit(show_log_of_failed_test, NULL);
    opened = d;
    opened_by = getpid();
}

void daemon_close(struct test_daemon *d)
{
    DIR *folder;
    struct dirent *entry;

    if (d->pid > 0)
        daemon_stop(d);
    if (d->page)
        (void)munmap((void *)(uintptr_t)d->page, d->page_bytes);
    d->page = NULL;
    folder = opendir(d->folder);
    while (folder && (entry = readdir(folder)))
        (void)unlinkat(dirfd(folder), entry->d_name, 0); /* "." and ".." refuse */
    if (folder)
        (void)closedir(folder);
    (void)rmdir(d->folder);
    if (opened == d)
        opened = NULL;
}

/* Moves the kept descriptors to 3 .. in the child. All are first lifted above that range, so that
 * none is overwritten before it was moved. */
static void place_descriptors(const int *keep, unsigned keep_count)
{
    int lifted[DESCRIPTORS_KEPT_MAX];

    if (keep_count > DESCRIPTORS_KEPT_MAX)
        _exit(119);
    for (unsigned i = 0; i < keep_count; i++)
        if ((lifted[i] = fcntl(keep[i], F_DUPFD, 3 + (int)keep_count)) < 0)
            _exit(120);
    for (unsigned i = 0; i < keep_count; i++)
        if (dup2(lifted[i], 3 + (int)i) < 0)
            _exit(120);
    (void)close_range(3 + keep_count, ~0u, 0);
}

/* Counts first what is too many: two lists into one. */
static char **environment_join(char *const more[])
{
    size_t count = 0, more_count = 0;

    while (environ[count])
        count++;
    while (more && more[more_count])
        more_count++;
    char **joined = calloc(count + more_count + 1, sizeof *joined);
    if (!joined)
        _exit(121);
    for (size_t i = 0; i < more_count; i++)
        joined[i] = more[i];
    for (size_t i = 0; i < count; i++)
        joined[more_count + i] = environ[i];
    return joined;
}

static void run_daemon(const struct test_daemon *d, char *const environment[], const int *keep,
                       unsigned keep_count)
{
    char *argv[] = {(char *)(uintptr_t)d->binary, (char *)(uintptr_t) "--config",
                    (char *)(uintptr_t)d->config_path, NULL};
    char pid_variable[40];
    char *with_pid[8] = {pid_variable};
    int log = open(d->log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);

    if (log < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0)
        _exit(122);
    (void)snprintf(pid_variable, sizeof pid_variable, "LISTEN_PID=%d", (int)getpid());
    for (unsigned i = 0; i < COUNT_OF(with_pid) - 2 && environment && environment[i]; i++)
        with_pid[i + 1] = environment[i];
    char **joined = environment_join(environment ? with_pid : NULL);
    place_descriptors(keep, keep_count);
    if (d->descriptors_max) {
        struct rlimit limit = {d->descriptors_max, d->descriptors_max};
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
    (void)execve(d->binary, argv, joined);
    _exit(127);
}

/* The daemon's nice value as its unit sets it. */
static int unit_nice(void)
{
    char line[512];
    int nice = 0;
    FILE *unit = fopen("systemd/dynasord.service", "re");
    while (unit && fgets(line, sizeof line, unit))
        if (strncmp(line, "Nice=", 5) == 0)
            nice = (int)strtol(line + 5, NULL, 10);
    if (unit)
        (void)fclose(unit);
    return nice;
}

void daemon_spawn(struct test_daemon *d, char *const environment[], const int *keep,
                  unsigned keep_count)
{
    pid_t parent = getpid();

    CHECK(d->pid == 0, "the daemon already runs");
    if (d->page)
        (void)munmap((void *)(uintptr_t)d->page, d->page_bytes);
    d->page = NULL;
    d->pid = fork();
    CHECK(d->pid >= 0, "fork: %s", strerror(errno));
    if (d->pid > 0)
        return;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (d->nice_of_unit) /* without the right to, it stays as it is */
        (void)setpriority(PRIO_PROCESS, 0, unit_nice());
    if (getppid() == parent)
        run_daemon(d, environment, keep, keep_count);
    _exit(123);
}

int control_ask(const char *path, struct control_reply *reply, int *ret_fd)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct control_request request = {
        .magic = CONTROL_MAGIC, .version = CONTROL_VERSION, .op = CONTROL_OP_STATUS};
    struct timeval timeout = {.tv_sec = 10};
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec iov = {reply, sizeof *reply};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};

    *ret_fd = -1;
    if ((size_t)snprintf(address.sun_path, sizeof address.sun_path, "%s", path) >=
        sizeof address.sun_path)
        return -ENAMETOOLONG;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    int r = fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) != 0 ||
                    connect(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
                    send(fd, &request, sizeof request, MSG_NOSIGNAL) != sizeof request
                ? -errno
                : 0;
    if (r == 0) {
        ssize_t got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
        r = got < 0 ? -errno : got == 0 ? -ECONNRESET : got != sizeof *reply ? -EBADMSG : 0;
    }
    if (fd >= 0)
        (void)close(fd);
    if (r != 0)
        return r;
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    if (head && head->cmsg_type == SCM_RIGHTS)
        memcpy(ret_fd, CMSG_DATA(head), sizeof *ret_fd);
    if (reply->magic != CONTROL_MAGIC || (reply->status == 0 && *ret_fd < 0))
        return -EBADMSG;
    return reply->status;
}

void daemon_wait_ready(struct test_daemon *d)
{
    struct control_reply reply;
    uint64_t deadline = now_ns() + 20 * NS_PER_S;
    int fd, r;

    while ((r = control_ask(d->control_path, &reply, &fd)) != 0) {
        CHECK(daemon_alive(d), "the daemon ended while it was starting");
        CHECK(now_ns() < deadline, "the control socket does not answer: %d (%s)", r,
              r < 0 ? strerror(-r) : "status");
        sleep_ns(2 * NS_PER_MS);
    }
    d->page_bytes = reply.page_bytes;
    void *page = mmap(NULL, d->page_bytes, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(page != MAP_FAILED, "counters page of %" PRIu64 " bytes: %s", d->page_bytes,
          strerror(errno));
    (void)close(fd);
    d->page = page;
    CHECK(shm_load_acquire_u64(&d->page->magic) == COUNTERS_MAGIC &&
              d->page->version == COUNTERS_VERSION && d->page->counters_count >= COUNTERS_COUNT,
          "this is no counters page");
}

void daemon_start(struct test_daemon *d)
{
    daemon_spawn(d, NULL, NULL, 0);
    daemon_wait_ready(d);
}

bool daemon_alive(struct test_daemon *d)
{
    int status;

    if (d->pid <= 0)
        return false;
    pid_t pid = waitpid(d->pid, &status, WNOHANG);
    if (pid == 0)
        return true;
    if (pid == d->pid)
        (void)fprintf(stderr, "the daemon ended: %s %d\n", WIFEXITED(status) ? "status" : "signal",
                      WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
    d->pid = 0;
    return false;
}

static bool is_zombie(void *argument)
{
    const struct test_daemon *d = argument;
    siginfo_t info = {0};

    return waitid(P_PID, (id_t)d->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid == d->pid;
}

void daemon_stop(struct test_daemon *d)
{
    CHECK(daemon_alive(d), "the daemon does not run any more");
    (void)kill(d->pid, SIGTERM);
    CHECK(wait_until(is_zombie, d, 10 * NS_PER_S), "SIGTERM does not end the daemon");
    int status = child_wait(d->pid);
    d->pid = 0;
    CHECK(status == 0, "the daemon ended with %d after SIGTERM", status);
}

void daemon_kill(struct test_daemon *d)
{
    CHECK(daemon_alive(d), "the daemon does not run any more");
    child_kill(d->pid);
    d->pid = 0;
}

uint64_t daemon_counter(const struct test_daemon *d, enum counters_index i)
{
    return shm_load_u64(&d->page->value[i]);
}

const struct counters_row *daemon_rows(const struct test_daemon *d, uint32_t *ret_count)
{
    *ret_count = d->page->rows_count;
    return (const struct counters_row *)(const void *)((const char *)d->page + d->page->rows_off);
}

void daemon_print_counters(const struct test_daemon *d)
{
#define X(name, unit, help)                                                                        \
    printf("  %-20s %" PRIu64 " %s\n", #name, daemon_counter(d, COUNTER_##name), unit);
    COUNTERS_TABLE(X)
#undef X
}

unsigned process_descriptors(pid_t pid)
{
    char path[64];
    unsigned count = 0;
    struct dirent *entry;

    (void)snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    DIR *folder = opendir(path);
    CHECK(folder != NULL, "%s: %s", path, strerror(errno));
    while ((entry = readdir(folder)))
        count += entry->d_name[0] != '.';
    (void)closedir(folder);
    return count;
}

unsigned process_memory_files(pid_t pid)
{
    char path[64], line[512];
    unsigned count = 0;

    (void)snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *file = fopen(path, "r");
    CHECK(file != NULL, "%s: %s", path, strerror(errno));
    while (fgets(line, sizeof line, file))
        count += strstr(line, "/memfd:") != NULL;
    (void)fclose(file);
    return count;
}

/* fdinfo of an io_uring lists them behind "PollList:", as "  op=6, task_works=0". */
static uint64_t polls_of(const char *path)
{
    char line[256];
    uint64_t count = 0;
    bool listed = false;
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        listed = listed ? line[0] == ' ' : strncmp(line, "PollList:", 9) == 0;
        count += listed && strncmp(line, "  op=", 5) == 0;
    }
    if (file)
        (void)fclose(file); /* it was only read */
    return count;
}

uint64_t process_polls(pid_t pid)
{
    char path[64], target[64];
    uint64_t count = 0;
    for (int fd = 0; fd < 64; fd++) { /* it is opened at start */
        (void)snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, fd);
        ssize_t bytes = readlink(path, target, sizeof target - 1);
        target[bytes > 0 ? bytes : 0] = '\0';
        if (strcmp(target, "anon_inode:[io_uring]") != 0)
            continue;
        (void)snprintf(path, sizeof path, "/proc/%d/fdinfo/%d", (int)pid, fd);
        count += polls_of(path);
    }
    return count;
}

uint64_t process_cpu_ns(pid_t pid)
{
    clockid_t clock;
    struct timespec t;

    CHECK(clock_getcpuclockid(pid, &clock) == 0 && clock_gettime(clock, &t) == 0,
          "CPU time of process %d", (int)pid);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

uint64_t process_rss_bytes(pid_t pid)
{
    char path[64];
    unsigned long long total, resident = 0;

    (void)snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    FILE *file = fopen(path, "r");
    CHECK(file != NULL && fscanf(file, "%llu %llu", &total, &resident) == 2, "%s", path);
    (void)fclose(file);
    return resident * 4096;
}

static void baseline_sample(const struct test_daemon *d, struct daemon_baseline *ret)
{
    *ret = (struct daemon_baseline){
        .clients = daemon_counter(d, COUNTER_clients),
        .programs_active = daemon_counter(d, COUNTER_programs_active),
        .region_bytes = daemon_counter(d, COUNTER_quota_region_bytes),
        .queued_bytes = daemon_counter(d, COUNTER_quota_queued_bytes),
        .descriptors_counted = daemon_counter(d, COUNTER_descriptors),
        .polls = process_polls(d->pid),
        .descriptors = process_descriptors(d->pid),
        .memory_files = process_memory_files(d->pid),
    };
}

void daemon_baseline_take(const struct test_daemon *d, struct daemon_baseline *ret)
{
    struct daemon_baseline before;

    /* What was closed on our side just now is still being closed on the other. */
    baseline_sample(d, ret);
    for (int same = 0; same < 5; same++) {
        before = *ret;
        sleep_ns(10 * NS_PER_MS);
        baseline_sample(d, ret);
        if (memcmp(&before, ret, sizeof before) != 0)
            same = 0;
    }
}

struct baseline_wait {
    const struct test_daemon *daemon;
    const struct daemon_baseline *expected;
    struct daemon_baseline now;
};

static bool baseline_reached(void *argument)
{
    struct baseline_wait *wait = argument;

    baseline_sample(wait->daemon, &wait->now);
    return memcmp(&wait->now, wait->expected, sizeof wait->now) == 0;
}

void daemon_baseline_check(const struct test_daemon *d, const struct daemon_baseline *expected,
                           uint64_t timeout_ns)
{
    struct baseline_wait wait = {.daemon = d, .expected = expected};

    if (wait_until(baseline_reached, &wait, timeout_ns))
        return;
    const struct daemon_baseline *n = &wait.now;
    CHECK(
        false,
        "clients %" PRIu64 " (%" PRIu64 "), programs %" PRIu64 " (%" PRIu64
        "), region bytes %" PRIu64 " (%" PRIu64 "), queued bytes %" PRIu64 " (%" PRIu64
        "), descriptors %" PRIu64 " (%" PRIu64 ") counted, %u (%u) open, %u (%u) mappings, %" PRIu64
        " (%" PRIu64 ") polls; in brackets what was expected",
        n->clients, expected->clients, n->programs_active, expected->programs_active,
        n->region_bytes, expected->region_bytes, n->queued_bytes, expected->queued_bytes,
        n->descriptors_counted, expected->descriptors_counted, n->descriptors,
        expected->descriptors, n->memory_files, expected->memory_files, n->polls, expected->polls);
}

static char *log_read(const struct test_daemon *d)
{
    FILE *file = fopen(d->log_path, "r");
    char *text = NULL;
    size_t bytes = 0;

    if (!file)
        return NULL;
    ssize_t got = getdelim(&text, &bytes, 0, file);
    (void)fclose(file);
    if (got < 0) {
        free(text);
        return NULL;
    }
    return text;
}

bool daemon_log_has(const struct test_daemon *d, const char *wanted)
{
    char *text = log_read(d);
    bool has = text && strstr(text, wanted);

    free(text);
    return has;
}

void daemon_log_print(const struct test_daemon *d)
{
    char *text = log_read(d);

    if (text) {
        size_t bytes = strlen(text);
        (void)fprintf(stderr, "--- the daemon's log ---\n%s",
                      text + (bytes > 8000 ? bytes - 8000 : 0));
    }
    free(text);
}

void daemon_log_check(const struct test_daemon *d)
{
    static const char *const reports[] = {"Sanitizer", "runtime error:", "ssertion"};

    for (size_t i = 0; i < COUNT_OF(reports); i++)
        CHECK(!daemon_log_has(d, reports[i]), "the daemon's log holds \"%s\"", reports[i]);
}
