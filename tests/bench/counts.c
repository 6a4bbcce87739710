/* System calls and heap allocations of a program while client and daemon are awake.
 *
 * A tracer (this process) stops both at every system call and books it on the chunk of programs
 * that the client is in. A process that makes no call is never stopped, so what is counted is what
 * happens untraced; a pread is delayed by some 10 us, which a spinning client bridges. The tracer
 * shares the daemon's CPU: it works while the daemon is stopped.
 *
 * Nobody can promise that the host never takes a CPU away for longer than a spin lasts, so a chunk
 * counts as awake when the daemon's own counters say that nobody slept or was woken in it or beside
 * it; in those chunks the bar is exact. Allocations are counted over the whole time. */
#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"
#include "bench_daemon.h"
#include "count_malloc.h"
#include "dynasor/client.h"

#define CHUNK_PROGRAMS 20u
#define CHUNKS_MAX 1024u
#define WARMUP_PROGRAMS 2000u
#define PROMPT_BYTES 4096u
#define PHASE_SECONDS 20
#define TASKS_MAX 32u
#define CALLS_MAX 512u /* system call numbers that are told apart */

struct chunk {
    uint32_t calls;  /* of both processes, preads of the daemon apart */
    uint32_t preads; /* of the daemon */
    bool slept;      /* by the daemon's counters */
};

struct tally {      /* in shared memory: the client says where it is, the tracer counts */
    uint32_t go;    /* 1: the tracer is ready */
    uint32_t chunk; /* that the client is in, + 1; 0: before the first or after the last */
    uint32_t chunks_count;
    uint32_t done;
    uint64_t allocations_of_client;
    struct chunk chunks[CHUNKS_MAX];
    uint32_t calls_by_number[2][CALLS_MAX]; /* in awake chunks or not; client, daemon */
};
_Static_assert(sizeof(struct tally) <= BENCH_MEMORY_BYTES, "fits the run's memory");

struct task {
    pid_t tid;
    bool daemon;
};

struct trace {
    struct tally *tally;
    struct task tasks[TASKS_MAX];
    uint32_t tasks_count;
    pid_t client;
    struct bench_daemon *daemon;
    uint64_t deadline_ns;
};

/* ---- the client ---- */

static void one_program(struct bench_run *run, struct dynasor_lane *lane,
                        const struct dynasor_program_options *options)
{
    struct dynasor_event event = {0};
    uint64_t program;
    int r = dynasor_submit(lane, options, &program);
    while (r == 0 && event.kind != DYNASOR_EVENT_END)
        r = dynasor_next(lane, &event, DYNASOR_FOREVER);
    if (r == 0 && event.state == DYNASOR_STATE_DONE)
        r = dynasor_release(lane, program);
    if (r < 0 || event.state != DYNASOR_STATE_DONE)
        bench_fail(run, "a program failed: %s %s", dynasor_status_name(r), dynasor_error(lane));
}

static uint64_t sleeps_and_wakes(const struct counters_page *page)
{
    return shm_load_u64(&page->value[COUNTER_sleeps]) +
           shm_load_u64(&page->value[COUNTER_wakes_sent]);
}

static void client(struct bench_run *run, size_t prompt_bytes)
{
    struct tally *t = (struct tally *)(void *)run->memory;
    char prompt[PROMPT_BYTES];
    memset(prompt, 'p', sizeof prompt);
    struct dynasor_program_options options = {.size = sizeof options,
                                              .streams = DYNASOR_STREAM_TOKENS,
                                              .max_tokens = 1,
                                              .prompt_text = prompt,
                                              .prompt_bytes = prompt_bytes};
    struct dynasor_connect_options connect = {
        .size = sizeof connect, .lanes_count = 1, .socket_path = run->socket_path};
    struct dynasor_client *c;
    struct dynasor_lane *lane;
    size_t bytes;
    /* A process that is confined to one CPU when it connects does not spin: pin it afterwards. */
    if (dynasor_connect(&connect, &c) < 0 || dynasor_lane_open(c, &lane) < 0 || bench_pin(1) < 0)
        bench_fail(run, "cannot connect");
    const struct counters_page *page = bench_counters(run->control_path, &bytes);
    if (!page)
        bench_fail(run, "the daemon does not hand out its counters");
    while (shm_load_acquire_u32(&t->go) == 0)
        bench_spin_ns(100000);
    for (uint32_t i = 0; i < WARMUP_PROGRAMS; i++)
        one_program(run, lane, &options);
    uint64_t before = sleeps_and_wakes(page);
    count_malloc_into(&t->allocations_of_client);
    for (uint32_t k = 0; k < t->chunks_count; k++) {
        shm_store_release_u32(&t->chunk, k + 1);
        for (uint32_t i = 0; i < CHUNK_PROGRAMS; i++)
            one_program(run, lane, &options);
        uint64_t now = sleeps_and_wakes(page);
        t->chunks[k].slept = now != before;
        before = now;
    }
    shm_store_release_u32(&t->chunk, 0);
    count_malloc_into(NULL);
    shm_store_release_u32(&t->done, 1);
    dynasor_disconnect(c);
}

static void client_inline(struct bench_run *run)
{
    client(run, 8);
}

static void client_payload(struct bench_run *run)
{
    client(run, PROMPT_BYTES);
}

/* ---- the tracer ---- */

static int seize(struct trace *t, pid_t tid, bool daemon)
{
    if (t->tasks_count == TASKS_MAX)
        return -ENOSPC;
    /* A request and its options travel in pointer arguments. */
    if (ptrace(PTRACE_SEIZE, tid, NULL, (void *)(uintptr_t)PTRACE_O_TRACESYSGOOD) != 0 ||
        ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) != 0)
        return -errno;
    t->tasks[t->tasks_count++] = (struct task){.tid = tid, .daemon = daemon};
    return 0;
}

static int seize_process(struct trace *t, pid_t pid)
{
    char path[64];
    int r = 0;
    (void)snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *folder = opendir(path);
    if (!folder)
        return -errno;
    for (struct dirent *e; r == 0 && (e = readdir(folder));)
        if (e->d_name[0] != '.')
            r = seize(t, (pid_t)strtol(e->d_name, NULL, 10), true);
    (void)closedir(folder); /* only read */
    return r;
}

static void book(struct trace *t, const struct task *task)
{
    struct tally *tally = t->tally;
    uint32_t chunk = shm_load_acquire_u32(&tally->chunk);
    struct __ptrace_syscall_info info;
    if (chunk == 0 || ptrace(PTRACE_GET_SYSCALL_INFO, task->tid, (void *)sizeof info, &info) <= 0 ||
        info.op != PTRACE_SYSCALL_INFO_ENTRY)
        return;
    struct chunk *c = &tally->chunks[chunk - 1];
    if (task->daemon && info.entry.nr == SYS_pread64)
        c->preads++;
    else
        c->calls++;
    if (info.entry.nr < CALLS_MAX)
        tally->calls_by_number[task->daemon][info.entry.nr]++;
}

/* Lets a stopped task go on, with the signal that it was about to get. */
static void resume(struct trace *t, pid_t tid, int status)
{
    const struct task *task = NULL;
    for (uint32_t i = 0; i < t->tasks_count; i++)
        if (t->tasks[i].tid == tid)
            task = &t->tasks[i];
    int stop = WSTOPSIG(status), event = status >> 16;
    uintptr_t signal_number = 0;
    if (stop == (SIGTRAP | 0x80) && task)
        book(t, task);
    else if (stop != (SIGTRAP | 0x80) && event == 0)
        signal_number = (uintptr_t)stop;
    (void)ptrace(PTRACE_SYSCALL, tid, NULL, (void *)signal_number); /* it may just have died */
}

/* Until the client ended. 0 or negative errno; *ret_status is the client's. */
static int trace_loop(struct trace *t, int *ret_status)
{
    sigset_t chld;
    (void)sigemptyset(&chld); /* cannot fail, nor can the next */
    (void)sigaddset(&chld, SIGCHLD);
    for (;;) {
        int status;
        pid_t pid = waitpid(-1, &status, __WALL | WNOHANG);
        if (bench_now_ns() > t->deadline_ns)
            return -ETIMEDOUT;
        if (pid > 0 && WIFSTOPPED(status)) {
            resume(t, pid, status);
        } else if (pid == t->client) {
            *ret_status = status;
            return 0;
        } else if (pid == t->daemon->pid) {
            t->daemon->pid = 0;
            return -ESRCH;
        } else if (pid < 0) {
            return -errno;
        } else if (pid == 0) {
            struct timespec patience = {.tv_nsec = 100000000};
            (void)sigtimedwait(&chld, NULL, &patience); /* a stop, or the time is up */
        }
    }
}

/* Traced tasks must be stopped before they can be let go. */
static void release_all(struct trace *t)
{
    for (uint32_t i = 0; i < t->tasks_count; i++) {
        int status;
        if (!t->tasks[i].daemon || ptrace(PTRACE_INTERRUPT, t->tasks[i].tid, NULL, NULL) != 0)
            continue;
        if (waitpid(t->tasks[i].tid, &status, __WALL) == t->tasks[i].tid && WIFSTOPPED(status))
            (void)ptrace(PTRACE_DETACH, t->tasks[i].tid, NULL, NULL); /* it may just have died */
    }
}

static pid_t client_start(struct bench_run *run, void (*body)(struct bench_run *))
{
    pid_t parent = getpid(), pid = fork();
    if (pid != 0)
        return pid;
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent || bench_pin_both() < 0)
        _exit(1);
    body(run);
    _exit(0);
}

/* Runs one phase; 0, or negative with run->reason set. */
static int phase_run(struct bench_run *run, struct bench_daemon *d, uint32_t programs_count,
                     void (*body)(struct bench_run *))
{
    struct tally *tally = (struct tally *)(void *)run->memory;
    struct trace trace = {
        .tally = tally, .daemon = d, .deadline_ns = bench_now_ns() + PHASE_SECONDS * 1000000000ull};
    int status = 0;
    memset(run->memory, 0, BENCH_MEMORY_BYTES);
    run->reason[0] = '\0';
    tally->chunks_count = programs_count / CHUNK_PROGRAMS;
    trace.client = client_start(run, body);
    int r = trace.client < 0 ? -errno : seize_process(&trace, d->pid);
    if (r == 0)
        r = seize(&trace, trace.client, false);
    shm_store_release_u32(&tally->go, 1);
    if (r == 0)
        r = trace_loop(&trace, &status);
    if (r < 0 && trace.client > 0) {
        (void)kill(trace.client, SIGKILL); /* our child, not reaped yet: the pid is its own */
        (void)waitpid(trace.client, &status, __WALL);
    }
    release_all(&trace);
    if (r == 0 && (!WIFEXITED(status) || WEXITSTATUS(status) != 0))
        r = -EPROTO;
    if (r < 0 && run->reason[0] == '\0')
        (void)snprintf(run->reason, sizeof run->reason, "counting under ptrace: %s",
                       r == -EPROTO  ? "the client died"
                       : r == -ESRCH ? "the daemon died"
                                     : strerror(-r));
    return r;
}

/* A chunk says what happens awake when nobody slept in it or in its neighbours: the daemon may
 * account for a sleep a moment later. */
static bool awake(const struct tally *t, uint32_t k)
{
    return !t->chunks[k].slept && (k == 0 || !t->chunks[k - 1].slept) && k + 1 < t->chunks_count &&
           !t->chunks[k + 1].slept;
}

struct sums {
    double programs;
    double calls;
    double preads;
};

static int sum_up(struct bench_run *run, const char *what, struct sums *ret_sums)
{
    const struct tally *t = (const struct tally *)(void *)run->memory;
    uint32_t chunks = 0;
    *ret_sums = (struct sums){0};
    for (uint32_t k = 0; k < t->chunks_count; k++) {
        if (!awake(t, k))
            continue;
        chunks++;
        ret_sums->calls += t->chunks[k].calls;
        ret_sums->preads += t->chunks[k].preads;
    }
    ret_sums->programs = (double)chunks * CHUNK_PROGRAMS;
    printf("counts: %s, %.0f of %u programs awake: %.0f preads and %.0f other system calls; in all",
           what, ret_sums->programs, t->chunks_count * CHUNK_PROGRAMS, ret_sums->preads,
           ret_sums->calls);
    for (uint32_t side = 0; side < 2; side++)
        for (uint32_t nr = 0; nr < CALLS_MAX; nr++)
            if (t->calls_by_number[side][nr] != 0)
                printf(" %s/%u:%u", side == 0 ? "client" : "daemon", nr,
                       t->calls_by_number[side][nr]);
    printf("\n");
    if (chunks * 2 >= t->chunks_count)
        return 0;
    (void)snprintf(run->reason, sizeof run->reason,
                   "both were awake in only %u of %u chunks of programs", chunks, t->chunks_count);
    return -EAGAIN;
}

static void measure(struct bench_counts *counts, struct bench_run *run, struct bench_daemon *d,
                    uint32_t programs_count, const uint64_t *allocations_of_daemon)
{
    struct tally *tally = (struct tally *)(void *)run->memory;
    struct sums sums;
    uint64_t allocations = allocations_of_daemon ? shm_load_u64(allocations_of_daemon) : 0;
    int r = phase_run(run, d, programs_count, client_inline);
    if (r == 0 && allocations_of_daemon && count_malloc_works()) {
        allocations = shm_load_u64(allocations_of_daemon) - allocations;
        printf("counts: %llu allocations of the daemon, %llu of the client in %u programs\n",
               (unsigned long long)allocations, (unsigned long long)tally->allocations_of_client,
               programs_count);
        counts->inline_allocations = (double)(allocations + tally->allocations_of_client);
    }
    if (r == 0)
        r = sum_up(run, "prompt in the record", &sums);
    if (r == 0) {
        counts->inline_syscalls = (sums.calls + sums.preads) / sums.programs;
        r = phase_run(run, d, programs_count, client_payload);
    }
    if (r == 0)
        r = sum_up(run, "prompt of 4 KiB", &sums);
    if (r == 0) {
        counts->payload_preads = sums.preads / sums.programs;
        counts->payload_syscalls = sums.calls / sums.programs;
    }
    if (r < 0)
        memcpy(counts->reason, run->reason, sizeof counts->reason);
}

/* The word that the daemon counts its allocations into; NULL without the shared object. */
static uint64_t *allocations_map(char *ret_library, char *ret_file, size_t bytes)
{
    char folder[160], file[] = "/tmp/dynasor-bench-allocations-XXXXXX";
    if (!bench_folder(folder, sizeof folder))
        return NULL;
    (void)snprintf(ret_library, bytes, "%s/../lib/count_malloc.so", folder);
    if (access(ret_library, R_OK) != 0)
        return NULL;
    int fd = mkstemp(file);
    if (fd < 0)
        return NULL;
    void *word = MAP_FAILED;
    if (ftruncate(fd, 4096) == 0)
        word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    (void)close(fd); /* the map keeps the file */
    (void)snprintf(ret_file, bytes, "%s", file);
    return word == MAP_FAILED ? NULL : word;
}

/* The tracer shares the daemon's CPU, and waits for stops without looking at a clock. */
static void measure_traced(struct bench_counts *counts, struct bench_run *run,
                           struct bench_daemon *d, uint32_t programs_count,
                           const uint64_t *allocations)
{
    sigset_t chld, old;
    cpu_set_t everywhere;
    (void)sigemptyset(&chld); /* cannot fail, nor can the next three */
    (void)sigaddset(&chld, SIGCHLD);
    (void)sigprocmask(SIG_BLOCK, &chld, &old);
    bool moved = sched_getaffinity(0, sizeof everywhere, &everywhere) == 0 && bench_pin(0) == 0;
    run->socket_path = d->socket_path;
    run->control_path = d->control_path;
    measure(counts, run, d, programs_count, allocations);
    if (moved)
        (void)sched_setaffinity(0, sizeof everywhere, &everywhere); /* costs only idle time */
    (void)sigprocmask(SIG_SETMASK, &old, NULL);
}

void counts_run(struct bench_counts *counts, uint32_t programs_count)
{
    char library[256] = "", file[256] = "", environment[320] = "";
    uint32_t most = CHUNKS_MAX * CHUNK_PROGRAMS;
    struct bench_daemon daemon;
    struct bench_run *run = bench_run_new();
    if (!run) {
        (void)snprintf(counts->reason, sizeof counts->reason, "no memory");
        return;
    }
    uint64_t *allocations = allocations_map(library, file, sizeof library);
    if (!allocations || !count_malloc_works())
        (void)snprintf(counts->reason, sizeof counts->reason,
                       "count_malloc.so is missing or cannot count in this build");
    (void)snprintf(environment, sizeof environment, "%s=%s", COUNT_MALLOC_ENVIRONMENT, file);
    struct bench_daemon_options options = {.pinned = true,
                                           .spin_max_us = 50,
                                           .clients_max = 8,
                                           .preload = allocations ? library : NULL,
                                           .preload_environment = environment};
    if (bench_daemon_start(&daemon, &options) < 0)
        memcpy(counts->reason, daemon.reason, sizeof counts->reason);
    else
        measure_traced(counts, run, &daemon, programs_count < most ? programs_count : most,
                       allocations);
    bench_daemon_stop(&daemon);
    if (file[0] != '\0')
        (void)unlink(file); /* a leftover in /tmp harms nothing */
    bench_run_free(run);
}
