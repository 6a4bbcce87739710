/* What the machine can do at most: bytes read by all cores, and tile products without memory. */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "daemon/base/clock.h"
#include "kernels/cpu/amx.h"
#include "tests/bench/engine/bench_engine.h"

#define BUFFER_BYTES (2ull << 30) /* as large as the model: no cache helps */
#define READ_PASSES 4u
#define DOT_ROUNDS 200000u
#define DOTS_PER_ROUND 6u
#define DOT_FLOPS (2.0 * 16 * 16 * 32)

enum work { WORK_FILL, WORK_READ_1, WORK_READ_4, WORK_DOT };

struct core {
    struct machine *machine;
    int cpu;
    uint32_t idx;
    uint64_t begin_ns;
    uint64_t end_ns;
};

struct machine {
    uint8_t *buffer;
    uint32_t cores_count;
    bool amx;
    enum work work;
    pthread_barrier_t start;
    struct core cores[BENCH_THREADS_MAX];
};

typedef int64_t lanes __attribute__((vector_size(64)));

/* Sums 64-byte lanes that lie in streams, each a part of the whole. */
#ifdef __SANITIZE_THREAD__ /* it is not up yet when the copy is chosen */
#define CLONES
#else
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
CLONES static int64_t read_sum(const uint8_t *from, uint64_t bytes, uint32_t streams)
{
    lanes sum[4] = {{0}};
    uint64_t part = bytes / streams;
    for (uint64_t at = 0; at < part; at += 256)
        for (uint32_t s = 0; s < streams; s++)
            for (uint32_t i = 0; i < 4; i++)
                sum[i] += *(const lanes *)(const void *)(from + s * part + at + i * 64);
    int64_t all = 0;
    for (uint32_t i = 0; i < 32; i++)
        all += sum[i / 8][i % 8];
    return all;
}

static void dots_run(void)
{
    amx_begin();
    AMX_ZERO(0);
    AMX_ZERO(1);
    AMX_ZERO(2);
    AMX_ZERO(3);
    AMX_ZERO(4);
    AMX_ZERO(5);
    AMX_ZERO(6);
    AMX_ZERO(7);
    for (uint32_t i = 0; i < DOT_ROUNDS; i++) {
        AMX_DOT(0, 6, 7);
        AMX_DOT(1, 6, 7);
        AMX_DOT(2, 6, 7);
        AMX_DOT(3, 6, 7);
        AMX_DOT(4, 6, 7);
        AMX_DOT(5, 6, 7);
    }
    amx_end();
}

static void *core_run(void *argument)
{
    int64_t sum = 0;
    struct core *c = argument;
    struct machine *m = c->machine;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)c->cpu, &set);
    (void)pthread_setaffinity_np(pthread_self(), sizeof set, &set); /* elsewhere it is as good */
    uint64_t bytes = BUFFER_BYTES / m->cores_count / 4096 * 4096;
    uint8_t *own = m->buffer + c->idx * bytes;
    (void)pthread_barrier_wait(&m->start);
    c->begin_ns = clock_now_ns();
    switch (m->work) {
    case WORK_FILL:
        memset(own, (int)c->idx + 1, bytes);
        break;
    case WORK_READ_1:
        sum = read_sum(own, bytes, 1);
        break;
    case WORK_READ_4:
        sum = read_sum(own, bytes, 4);
        break;
    case WORK_DOT:
        dots_run();
        break;
    }
    __asm__ volatile("" : : "r"(sum)); /* somebody wants it */
    c->end_ns = clock_now_ns();
    return NULL;
}

/* Seconds from the first that began to the last that ended; negative: no threads. */
static double all_run(struct machine *m, enum work work)
{
    pthread_t threads[BENCH_THREADS_MAX];
    m->work = work;
    for (uint32_t i = 0; i < m->cores_count; i++)
        if (pthread_create(&threads[i], NULL, core_run, &m->cores[i]) != 0)
            abort(); /* the barrier would wait for ever */
    uint64_t begin_ns = UINT64_MAX, end_ns = 0;
    for (uint32_t i = 0; i < m->cores_count; i++) {
        (void)pthread_join(threads[i], NULL); /* joinable, once */
        const struct core *c = &m->cores[i];
        begin_ns = c->begin_ns < begin_ns ? c->begin_ns : begin_ns;
        end_ns = c->end_ns > end_ns ? c->end_ns : end_ns;
    }
    return (double)(end_ns - begin_ns) / NS_PER_S;
}

int machine_new(struct machine **ret_machine)
{
    struct machine *m = calloc(1, sizeof *m);
    cpu_set_t set;
    if (!m || sched_getaffinity(0, sizeof set, &set) != 0) {
        free(m);
        (void)fprintf(stderr, "no memory, or no list of cores\n");
        return 1;
    }
    for (int cpu = 0; cpu < CPU_SETSIZE && m->cores_count < BENCH_THREADS_MAX; cpu++)
        if (CPU_ISSET((size_t)cpu, &set)) {
            m->cores[m->cores_count] =
                (struct core){.machine = m, .cpu = cpu, .idx = m->cores_count};
            m->cores_count++;
        }
    m->buffer =
        mmap(NULL, BUFFER_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m->buffer == MAP_FAILED || pthread_barrier_init(&m->start, NULL, m->cores_count) != 0) {
        free(m);
        (void)fprintf(stderr, "no memory for 2 GiB to read\n");
        return 1;
    }
    (void)madvise(m->buffer, BUFFER_BYTES, MADV_HUGEPAGE); /* as the engine's slab */
    m->amx = cpu_level_best() == CPU_AMX;
    (void)all_run(m, WORK_FILL);
    *ret_machine = m;
    return 0;
}

void machine_free(struct machine *m)
{
    if (!m)
        return;
    (void)pthread_barrier_destroy(&m->start); /* nobody waits */
    (void)munmap(m->buffer, BUFFER_BYTES);    /* our own mapping */
    free(m);
}

uint32_t machine_threads(const struct machine *m)
{
    return m->cores_count;
}

double machine_read_bytes_per_s(struct machine *m)
{
    double best_s = 1e9;
    for (uint32_t i = 0; i < READ_PASSES; i++) {
        double s = all_run(m, i % 2 ? WORK_READ_4 : WORK_READ_1);
        best_s = s < best_s ? s : best_s;
    }
    return (double)BUFFER_BYTES / best_s;
}

double machine_amx_flops_per_s(struct machine *m)
{
    if (!m->amx)
        return 0;
    double best_s = 1e9;
    for (uint32_t i = 0; i < 3; i++) {
        double s = all_run(m, WORK_DOT);
        best_s = s < best_s ? s : best_s;
    }
    return DOT_FLOPS * DOTS_PER_ROUND * DOT_ROUNDS * m->cores_count / best_s;
}
