/* What a client that does nothing costs beyond its two regions: memory of the daemon, its page
 * tables, and what the kernel's allocators hold more than before (sockets, descriptors, maps and
 * inodes, those of the client's side included). And CPU: none.
 *
 * Each cycle looks at the memory before, with all clients there, and after they left: the mean of
 * before and after cancels what grows or shrinks meanwhile; the median of the cycles is the result.
 * The region's own share of the kernel's memory (two files) is measured the same way, by a process
 * that holds as many regions and nothing else. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"
#include "bench_daemon.h"
#include "dynasor/client.h"
#include "shm/region.h"

#define CLIENTS_COUNT 4096u
#define CONNECT_SECONDS 8
#define DESCRIPTORS_PER_CLIENT 8u
#define CYCLES 5u
#define SETTLE_MS 300

struct memory { /* bytes */
    double anonymous;
    double tables;
    double kernel;
};

/* "Name: value kB" of a file in /proc; 0 when the line is missing. */
static double proc_bytes(const char *path, const char *name)
{
    char line[256];
    double value = 0;
    size_t length = strlen(name);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, name, length) == 0 && line[length] == ':')
            value = strtod(line + length + 1, NULL) * 1024;
    if (f)
        (void)fclose(f); /* only read */
    return value;
}

/* Objects in use of all the kernel's slab caches: unlike the pages that hold them, which stay
 * behind half empty, they go as soon as their owner does. Needs root; pages otherwise. */
static double slab_bytes(void)
{
    char line[512];
    double sum = 0;
    FILE *f = fopen("/proc/slabinfo", "r");
    if (!f)
        return proc_bytes("/proc/meminfo", "Slab");
    while (fgets(line, sizeof line, f)) {
        unsigned long active, all, bytes;
        if (sscanf(line, "%*s %lu %lu %lu", &active, &all, &bytes) == 3)
            sum += (double)active * (double)bytes;
    }
    (void)fclose(f); /* only read */
    return sum;
}

/* Names that were looked up once stay in the kernel until it needs the room (/proc/self/fd/N of
 * each client, for one): they are nobody's cost, and they make the difference noisy. */
static void drop_unused(void)
{
    int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;                 /* not allowed: the figure is higher */
    for (int i = 0; i < 4; i++) /* a name holds an inode: one pass leaves something for the next */
        (void)(write(fd, "2", 1) == 1); /* likewise */
    (void)close(fd);
}

static struct memory memory_now(pid_t daemon) /* 0: there is none */
{
    char path[64];
    drop_unused();
    (void)snprintf(path, sizeof path, "/proc/%d/status", daemon);
    return (struct memory){.anonymous = proc_bytes(path, "RssAnon"),
                           .tables = proc_bytes(path, "VmPTE"),
                           .kernel = slab_bytes() + proc_bytes("/proc/meminfo", "KernelStack") +
                                     proc_bytes("/proc/meminfo", "Percpu")};
}

static double cpu_seconds(pid_t pid)
{
    clockid_t clock;
    struct timespec ts;
    if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &ts) != 0)
        return -1;
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void hold_clients(struct bench_run *run, uint32_t clients_count)
{
    struct dynasor_connect_options options = {.size = sizeof options,
                                              .lanes_count = 1,
                                              .socket_path = run->socket_path,
                                              .arena_bytes = DYNASOR_ARENA_BYTES_MIN,
                                              .timeout_ns = 10000000000u};
    for (uint32_t i = 0; i < clients_count; i++) {
        struct dynasor_client *client;
        struct dynasor_lane *lane;
        int r = dynasor_connect(&options, &client);
        if (r < 0)
            bench_fail(run, "client %u: %s", i, client ? dynasor_connect_error(client) : "memory");
        r = dynasor_lane_open(client, &lane);
        if (r < 0)
            bench_fail(run, "lane of client %u: %s", i, dynasor_status_name(r));
    }
    /* The handles stay open until the process is killed: that is how idle clients are. */
}

/* A file whose pages need a tree as those of the real one do: more than the first is there. */
static int hold_file(int fd, uint64_t bytes)
{
    char *base = fd < 0 ? NULL : region_map(fd, bytes, true);
    if (!base)
        return -1;
    base[0] = 1;
    base[REGION_PAGE_BYTES] = 1;
    region_unmap(base, bytes);
    return 0;
}

static void hold_regions(struct bench_run *run, uint32_t regions_count)
{
    struct wire_geometry g;
    region_geometry_init(&g, 1, DYNASOR_ARENA_BYTES_MIN);
    for (uint32_t i = 0; i < regions_count; i++)
        if (hold_file(region_create_c2d(&g), g.c2d_bytes) < 0 ||
            hold_file(region_create_d2c(&g), g.d2c_bytes) < 0)
            bench_fail(run, "region %u: %s", i, strerror(errno));
}

typedef void (*hold_fn)(struct bench_run *run, uint32_t count);

/* A process that holds count of something; 0 with *ret_pid, or negative with the reason. */
static int holder_start(struct bench_run *run, hold_fn hold, uint32_t count, pid_t *ret_pid)
{
    pid_t parent = getpid();
    run->reason[0] = '\0';
    run->server_ready = 0;
    *ret_pid = fork();
    if (*ret_pid < 0)
        return -errno;
    if (*ret_pid == 0) {
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent)
            _exit(1);
        bench_descriptors((uint64_t)count * DESCRIPTORS_PER_CLIENT + 1024);
        hold(run, count);
        shm_store_release_u32(&run->server_ready, 1);
        for (;;)
            (void)pause(); /* until it is killed */
    }
    for (int i = 0; i < CONNECT_SECONDS * 100; i++) {
        int status;
        if (shm_load_acquire_u32(&run->server_ready) == 1)
            return 0;
        if (waitpid(*ret_pid, &status, WNOHANG) == *ret_pid) {
            *ret_pid = 0;
            return -EPROTO;
        }
        (void)poll(NULL, 0, 10); /* a shorter pause is as good */
    }
    (void)snprintf(run->reason, sizeof run->reason, "connecting took longer than %d s",
                   CONNECT_SECONDS);
    return -ETIMEDOUT;
}

static void holder_stop(pid_t pid)
{
    int status;
    if (pid <= 0)
        return;
    (void)kill(pid, SIGKILL); /* our child, not reaped yet: the pid is its own */
    (void)waitpid(pid, &status, 0);
}

struct crowd { /* what is held, and by whom it is paid */
    hold_fn hold;
    uint32_t count;
    uint32_t idle_seconds; /* 0: the CPU is of no interest */
    pid_t daemon;          /* 0: none */
};

static int cycle_run(struct bench_run *run, const struct crowd *crowd, struct memory *ret_each,
                     double *ret_cpu_seconds)
{
    pid_t holder;
    struct memory before = memory_now(crowd->daemon);
    int r = holder_start(run, crowd->hold, crowd->count, &holder);
    if (r < 0) {
        holder_stop(holder);
        return r;
    }
    (void)poll(NULL, 0, SETTLE_MS); /* a shorter pause is as good */
    struct memory during = memory_now(crowd->daemon);
    if (crowd->idle_seconds > 0) {
        double cpu = cpu_seconds(crowd->daemon);
        (void)poll(NULL, 0, (int)crowd->idle_seconds * 1000);
        *ret_cpu_seconds = cpu_seconds(crowd->daemon) - cpu;
    }
    holder_stop(holder);
    (void)poll(NULL, 0, SETTLE_MS); /* the kernel frees with a delay */
    struct memory after = memory_now(crowd->daemon);
    double n = crowd->count;
    /* The daemon may keep what it once touched: compare with before. */
    *ret_each = (struct memory){
        .anonymous = (during.anonymous - before.anonymous) / n,
        .tables = (during.tables - before.tables) / n,
        .kernel = (during.kernel - (before.kernel + after.kernel) / 2) / n,
    };
    return 0;
}

/* Memory of the daemon is what the first cycle needed: later ones find it there. */
static int cycles_run(struct bench_run *run, struct crowd *crowd, uint32_t cycles,
                      struct memory *ret_each, double *ret_cpu_seconds)
{
    double kernel[CYCLES];
    uint32_t idle_seconds = crowd->idle_seconds;
    for (uint32_t i = 0; i < cycles; i++) {
        struct memory each;
        crowd->idle_seconds = i + 1 == cycles ? idle_seconds : 0;
        int r = cycle_run(run, crowd, &each, ret_cpu_seconds);
        if (r < 0)
            return r;
        kernel[i] = each.kernel;
        if (i == 0)
            *ret_each = each;
    }
    ret_each->kernel = bench_median(kernel, cycles);
    return 0;
}

static void measure(struct bench_idle *idle, struct bench_run *run, pid_t daemon,
                    uint32_t clients_count, uint32_t seconds)
{
    struct crowd clients = {hold_clients, clients_count, seconds, daemon};
    struct crowd regions = {hold_regions, clients_count, 0, 0};
    struct memory client, region;
    double cpu = 0;
    uint32_t cycles = clients_count == CLIENTS_COUNT ? CYCLES : 1;
    int r = cycles_run(run, &regions, cycles, &region, &cpu);
    if (r == 0)
        r = cycles_run(run, &clients, cycles, &client, &cpu);
    if (r < 0) {
        (void)snprintf(idle->reason, sizeof idle->reason, "%s",
                       run->reason[0] != '\0' ? run->reason : strerror(-r));
        return;
    }
    idle->bytes_per_client = client.anonymous + client.tables + client.kernel - region.kernel;
    idle->cpu_percent = 100 * cpu / seconds;
    printf("idle: %u clients cost the daemon %.0f B of memory and %.0f B of page tables, and the "
           "kernel %.0f B, of which %.0f B are for the files of the region, each; the daemon used "
           "%.2f ms of CPU in %u s\n",
           clients_count, client.anonymous, client.tables, client.kernel, region.kernel, cpu * 1000,
           seconds);
}

void idle_clients_run(struct bench_idle *idle, uint32_t clients_count, uint32_t seconds)
{
    uint32_t count = clients_count != 0 ? clients_count : CLIENTS_COUNT;
    struct bench_daemon_options options = {.spin_max_us = 20, .clients_max = CLIENTS_COUNT};
    struct bench_daemon daemon;
    struct bench_run *run = bench_run_new();
    if (!run) {
        (void)snprintf(idle->reason, sizeof idle->reason, "no memory");
        return;
    }
    if (bench_daemon_start(&daemon, &options) < 0) {
        memcpy(idle->reason, daemon.reason, sizeof idle->reason);
    } else {
        run->socket_path = daemon.socket_path;
        run->control_path = daemon.control_path;
        measure(idle, run, daemon.pid, count, seconds);
    }
    bench_daemon_stop(&daemon);
    bench_run_free(run);
}
