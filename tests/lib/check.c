#include "tests/lib/check.h"

#include <errno.h>
#include <grp.h>
#include <signal.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

void check_failed(const char *file, int line, const char *condition, const char *format, ...)
{
    va_list args;

    (void)fprintf(stderr, "%s:%d: (%s) is not so: ", file, line, condition);
    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fputc('\n', stderr);
    exit(1);
}

void check_skip(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vprintf(format, args);
    va_end(args);
    (void)putchar('\n');
    exit(77);
}

bool check_sanitized(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return true;
#else
    return false;
#endif
}

uint64_t check_number(const char *variable, uint64_t fallback)
{
    const char *text = getenv(variable);
    char *end;

    if (!text || !*text)
        return fallback;
    errno = 0;
    uint64_t number = strtoull(text, &end, 10);
    CHECK(errno == 0 && *end == 0 && number > 0, "%s=%s is no positive number", variable, text);
    return number;
}

uint64_t now_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t); /* cannot fail with this clock */
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

void sleep_ns(uint64_t ns)
{
    struct timespec t = {.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};

    while (nanosleep(&t, &t) != 0 && errno == EINTR)
        continue;
}

uint64_t rng_next(struct rng *rng)
{
    uint64_t z = (rng->state += 0x9e3779b97f4a7c15ull);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

uint64_t rng_below(struct rng *rng, uint64_t limit)
{
    return rng_next(rng) % limit;
}

void rng_fill(struct rng *rng, void *bytes, size_t count)
{
    uint8_t *at = bytes;

    while (count > 0) {
        uint64_t word = rng_next(rng);
        size_t part = count < sizeof word ? count : sizeof word;
        memcpy(at, &word, part);
        at += part;
        count -= part;
    }
}

void *shared_new(size_t bytes)
{
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    CHECK(base != MAP_FAILED, "shared memory of %zu bytes: %s", bytes, strerror(errno));
    return base;
}

pid_t child_start(int (*function)(void *argument), void *argument)
{
    pid_t parent = getpid();

    (void)fflush(NULL); /* or the child prints it again */
    pid_t pid = fork();
    CHECK(pid >= 0, "fork: %s", strerror(errno));
    if (pid > 0)
        return pid;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    int status = function(argument);
    (void)fflush(NULL);
    _exit(status); /* the parent's exit handlers are not ours to run */
}

int child_wait(pid_t pid)
{
    int status;

    while (waitpid(pid, &status, 0) < 0)
        CHECK(errno == EINTR, "waitpid(%d): %s", (int)pid, strerror(errno));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void child_kill(pid_t pid)
{
    (void)kill(pid, SIGKILL); /* already dead is as good */
    (void)child_wait(pid);
}

void become_uid(uid_t uid, const char *folder)
{
    gid_t gid = (gid_t)uid;

    CHECK(chdir(folder) == 0, "chdir(%s): %s", folder, strerror(errno));
    if (geteuid() != 0)
        return;
    CHECK(setgroups(0, NULL) == 0 && setresgid(gid, gid, gid) == 0 && setresuid(uid, uid, uid) == 0,
          "become uid %u: %s", uid, strerror(errno));
    /* Changing the uid cleared it, and made /proc/self root's. */
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)prctl(PR_SET_DUMPABLE, 1);
}

bool wait_until(bool (*function)(void *argument), void *argument, uint64_t timeout_ns)
{
    uint64_t deadline = now_ns() + timeout_ns;

    while (!function(argument)) {
        if (now_ns() >= deadline)
            return function(argument);
        sleep_ns(2 * NS_PER_MS);
    }
    return true;
}

static int compare(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

    return (left > right) - (left < right);
}

uint64_t percentile(uint64_t *values, size_t count, unsigned per_mille)
{
    if (count == 0)
        return 0;
    qsort(values, count, sizeof values[0], compare);
    return values[(count - 1) * per_mille / 1000];
}

int cpu_count(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

void cpu_keep_process(pid_t pid, int n)
{
    cpu_set_t allowed, one;
    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        return; /* then it runs where it likes */
    for (size_t cpu = 0; cpu < CPU_SETSIZE && n >= 0; cpu++)
        if (CPU_ISSET(cpu, &allowed) && n-- == 0)
            CPU_SET(cpu, &one);
    (void)sched_setaffinity(pid, sizeof one, &one); /* likewise */
}

void cpu_keep(int n)
{
    cpu_keep_process(0, n);
}
