/* tests/bench/bench_util.h — clock, statistics, and two pinned processes that share memory.
 *
 * The parent never spins and always has a deadline: a peer that hangs costs its slice, not the run. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdnoreturn.h>
#include <sys/types.h>
#include <time.h>

#define BENCH_REASON_BYTES 160u
#define BENCH_MEMORY_BYTES (512u << 10)
#define BENCH_SAMPLES_MAX 400000u /* of a slice */

struct bench_run {   /* one slice of one variant; in shared memory */
    uint8_t *memory; /* BENCH_MEMORY_BYTES, page-aligned, zero when the slice starts */
    uint32_t *ticks; /* the client's samples */
    uint32_t samples_count;
    uint32_t warmup_count;
    uint32_t turn; /* number of the slice, from 0 through all repeats */
    uint64_t messages_count;
    double seconds; /* one way: what messages_count took, as the receiver saw it */
    uint32_t server_ready;
    int fd[4];               /* opened by prepare(), closed after the slice; -1: none */
    const char *socket_path; /* of the daemon, where the variant has one */
    const char *control_path;
    char reason[BENCH_REASON_BYTES];
};

/* A time stamp that earlier instructions cannot slip behind: 16 ns on the reference machine. */
static inline uint64_t bench_ticks(void)
{
#if defined(__x86_64__)
    unsigned int cpu;
    return __builtin_ia32_rdtscp(&cpu);
#else
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail with this clock */
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
#endif
}

uint64_t bench_now_ns(void);
void bench_calibrate(void);
double bench_ns_per_tick(void);

/* The two CPUs that the run is pinned to; negative errno when there are no two. */
int bench_cpus_init(void);
int bench_cpu(uint32_t side); /* 0: server, 1: client */
int bench_pin(uint32_t side);
int bench_pin_both(void); /* to either of them */

/* Sorts values; q of 0 .. 1. */
void bench_sort(double *values, size_t count);
double bench_quantile_sorted(const double *values, size_t count, double q);
double bench_median(double *values, size_t count);                     /* sorts */
uint32_t bench_quantile_u32(uint32_t *values, size_t count, double q); /* reorders */

/* In a child: ends it, with the reason for the table. */
noreturn void bench_fail(struct bench_run *run, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Allows this process as many descriptors, or as many as it may have. */
void bench_descriptors(uint64_t count);

/* Waits actively: the machine must not fall into a deeper sleep than the variant asks for. */
void bench_spin_ns(uint64_t ns);

/* Memory for runs, shared with children; NULL when there is none. */
struct bench_run *bench_run_new(void);
void bench_run_free(struct bench_run *run);

/* Forks server (may be NULL) and client, pins them, waits at most seconds. 0, or negative with
 * run->reason set. Nothing that it started survives it. */
int bench_pair(struct bench_run *run, void (*server)(struct bench_run *),
               void (*client)(struct bench_run *), double seconds);

/* Waits until the process ended; kills it at the deadline. The wait status, or negative errno. */
int bench_wait(pid_t pid, double seconds, int *ret_status);
