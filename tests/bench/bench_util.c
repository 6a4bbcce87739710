#include "bench_util.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shm/atomic.h"

static double ns_per_tick = 1.0;
static int cpus[2];

uint64_t bench_now_ns(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail with this clock */
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void bench_calibrate(void)
{
    uint64_t ns = bench_now_ns();
    uint64_t ticks = bench_ticks();
    struct timespec ts = {.tv_nsec = 50000000};
    (void)nanosleep(&ts, NULL); /* a shorter sleep is as good */
    ns = bench_now_ns() - ns;
    ticks = bench_ticks() - ticks;
    ns_per_tick = (double)ns / (double)ticks;
}

double bench_ns_per_tick(void)
{
    return ns_per_tick;
}

int bench_cpus_init(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return -errno;
    uint32_t found = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE && found < 2; cpu++)
        if (CPU_ISSET((size_t)cpu, &set))
            cpus[found++] = cpu;
    return found == 2 ? 0 : -ENODEV;
}

int bench_cpu(uint32_t side)
{
    return cpus[side];
}

int bench_pin(uint32_t side)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpus[side], &set);
    return sched_setaffinity(0, sizeof set, &set) != 0 ? -errno : 0;
}

int bench_pin_both(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpus[0], &set);
    CPU_SET((size_t)cpus[1], &set);
    return sched_setaffinity(0, sizeof set, &set) != 0 ? -errno : 0;
}

static int compare_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

void bench_sort(double *values, size_t count)
{
    qsort(values, count, sizeof *values, compare_double);
}

double bench_quantile_sorted(const double *values, size_t count, double q)
{
    size_t at = (size_t)(q * (double)(count - 1) + 0.5);
    return values[at];
}

double bench_median(double *values, size_t count)
{
    bench_sort(values, count);
    return count % 2 != 0 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

uint32_t bench_quantile_u32(uint32_t *values, size_t count, double q)
{
    qsort(values, count, sizeof *values, compare_u32);
    return values[(size_t)(q * (double)(count - 1) + 0.5)];
}

noreturn void bench_fail(struct bench_run *run, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(run->reason, sizeof run->reason, format, args); /* cut: still a reason */
    va_end(args);
    _exit(1);
}

void bench_descriptors(uint64_t count)
{
    struct rlimit limit = {.rlim_cur = count, .rlim_max = count};
    if (setrlimit(RLIMIT_NOFILE, &limit) == 0 || getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max; /* only the hard limit needs a right; fewer may do */
    (void)setrlimit(RLIMIT_NOFILE, &limit);
}

void bench_spin_ns(uint64_t ns)
{
    uint64_t until = bench_ticks() + (uint64_t)((double)ns / ns_per_tick);
    while (bench_ticks() < until)
        shm_pause();
}

#define RUN_HEAD_BYTES 4096u
#define RUN_BYTES (RUN_HEAD_BYTES + BENCH_MEMORY_BYTES + BENCH_SAMPLES_MAX * sizeof(uint32_t))
_Static_assert(sizeof(struct bench_run) <= RUN_HEAD_BYTES, "the head fits its page");

struct bench_run *bench_run_new(void)
{
    uint8_t *base =
        mmap(NULL, RUN_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return NULL;
    struct bench_run *run = (struct bench_run *)(void *)base;
    run->memory = base + RUN_HEAD_BYTES;
    run->ticks = (uint32_t *)(void *)(base + RUN_HEAD_BYTES + BENCH_MEMORY_BYTES);
    for (size_t i = 0; i < sizeof run->fd / sizeof run->fd[0]; i++)
        run->fd[i] = -1;
    return run;
}

void bench_run_free(struct bench_run *run)
{
    (void)munmap(run, RUN_BYTES); /* fails only for a range that was never mapped: our mistake */
}

/* A forked child finds shared pages present but not mapped: touch them before anything is timed. */
static void prefault(struct bench_run *run)
{
    uint8_t *base = (uint8_t *)run;
    size_t bytes = RUN_HEAD_BYTES + BENCH_MEMORY_BYTES + run->samples_count * sizeof(uint32_t);
    for (size_t at = 0; at < bytes; at += 4096)
        (void)__atomic_fetch_add(base + at, 0, __ATOMIC_RELAXED); /* a write fault, no change */
}

static noreturn void child(struct bench_run *run, uint32_t side, void (*body)(struct bench_run *),
                           pid_t parent)
{
    /* Should the parent be killed, nothing of ours may spin on. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent)
        _exit(1);
    int r = bench_pin(side);
    if (r < 0)
        bench_fail(run, "cannot pin to CPU %d: %s", bench_cpu(side), strerror(-r));
    prefault(run);
    body(run);
    _exit(0);
}

int bench_wait(pid_t pid, double seconds, int *ret_status)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    int r = fd < 0 ? -errno : 0;
    if (r == 0) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int n = poll(&p, 1, (int)(seconds * 1000));
        r = n > 0 ? 0 : n == 0 ? -ETIMEDOUT : -errno;
        (void)close(fd); /* nothing was written to it */
    }
    if (r < 0)
        (void)kill(pid, SIGKILL); /* our child, not reaped yet: the pid is its own */
    if (waitpid(pid, ret_status, 0) != pid)
        return r < 0 ? r : -errno;
    return r;
}

static int join(struct bench_run *run, const char *who, pid_t pid, double seconds)
{
    int status = 0;
    int r = bench_wait(pid, seconds, &status);
    if (r == 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    if (run->reason[0] != '\0')
        return r < 0 ? r : -EPROTO;
    if (r == -ETIMEDOUT)
        (void)snprintf(run->reason, sizeof run->reason, "%s hung for %.0f s", who, seconds);
    else if (WIFSIGNALED(status))
        (void)snprintf(run->reason, sizeof run->reason, "%s died of signal %d", who,
                       WTERMSIG(status));
    else
        (void)snprintf(run->reason, sizeof run->reason, "%s failed", who);
    return r < 0 ? r : -EPROTO;
}

int bench_pair(struct bench_run *run, void (*server)(struct bench_run *),
               void (*client)(struct bench_run *), double seconds)
{
    pid_t parent = getpid(), pid[2] = {0, 0};
    run->reason[0] = '\0';
    for (uint32_t side = 0; side < 2; side++) {
        void (*body)(struct bench_run *) = side == 0 ? server : client;
        if (!body)
            continue;
        pid[side] = fork();
        if (pid[side] == 0)
            child(run, side, body, parent);
        if (pid[side] < 0) {
            (void)snprintf(run->reason, sizeof run->reason, "fork: %s", strerror(errno));
            pid[side] = 0;
        }
    }
    /* The client ends first; a server that it left alone gets a moment and then a signal. */
    int r = 0;
    if (pid[1] > 0)
        r = join(run, "client", pid[1], seconds);
    if (r < 0 && pid[0] > 0)
        (void)kill(pid[0], SIGKILL);
    if (pid[0] > 0) {
        int s = join(run, "server", pid[0], 2.0);
        r = r < 0 ? r : s;
    }
    return run->reason[0] != '\0' && r == 0 ? -EPROTO : r;
}
