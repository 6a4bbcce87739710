#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/cpu/internal.h"

#define SPINS 4000u /* about 40 us of pauses: launches of a step follow each other faster than that */

struct cpu_pool {
    uint32_t threads_count; /* the caller's included */
    pthread_t *threads;
    struct start {
        struct cpu_pool *pool;
        uint32_t thread;
        uint32_t cpu;
    } * starts;
    uint32_t started;
    _Atomic uint32_t run;      /* rises by one with each launch; workers wait for it */
    _Atomic uint32_t sleepers; /* workers in futex_wait */
    _Atomic uint32_t left;     /* workers that are not done with this run */
    _Atomic uint32_t chunk;
    _Atomic uint32_t arrived; /* at the barrier */
    _Atomic uint32_t barriers;
    _Atomic bool stop;
    struct ops_device *device;
    cpu_task *task;
    const void *args;
};

static void pause_once(void)
{
    __builtin_ia32_pause();
}

/* Waits until *word is not seen. */
static void wait_change(struct cpu_pool *p, _Atomic uint32_t *word, uint32_t seen)
{
    for (uint32_t i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != seen)
            return;
        pause_once();
    }
    /* Sleeper first, then the word once more inside futex_wait: whoever changes it looks for sleepers
     * afterwards, so one of the two sees the other (both sequentially consistent). */
    atomic_fetch_add(&p->sleepers, 1);
    while (atomic_load(word) == seen)
        (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    atomic_fetch_sub(&p->sleepers, 1);
}

static void wake_all(struct cpu_pool *p, _Atomic uint32_t *word)
{
    if (atomic_load(&p->sleepers))
        (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static void keep_on(uint32_t cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    (void)pthread_setaffinity_np(pthread_self(), sizeof set, &set); /* elsewhere it is only slower */
}

static void *worker(void *argument)
{
    const struct start *start = argument;
    struct cpu_pool *p = start->pool;
    uint32_t seen = 0;
    if (start->cpu != OPS_NONE)
        keep_on(start->cpu);
    for (;;) {
        wait_change(p, &p->run, seen);
        seen++;
        if (atomic_load_explicit(&p->stop, memory_order_acquire))
            return NULL;
        p->task(p->device, p->args, start->thread);
        atomic_fetch_sub_explicit(&p->left, 1, memory_order_release);
    }
}

int cpu_pool_new(uint32_t threads_count, uint32_t cpu_first, struct cpu_pool **ret_pool)
{
    struct cpu_pool *p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    p->threads_count = threads_count;
    p->threads = calloc(threads_count, sizeof *p->threads);
    p->starts = calloc(threads_count, sizeof *p->starts);
    int r = p->threads && p->starts ? 0 : ENOMEM;
    for (uint32_t i = 1; i < threads_count && r == 0; i++) {
        p->starts[i] = (struct start){
            .pool = p, .thread = i, .cpu = cpu_first == OPS_NONE ? OPS_NONE : cpu_first + i};
        r = pthread_create(&p->threads[i], NULL, worker, &p->starts[i]);
        if (r == 0)
            p->started = i;
    }
    if (r) {
        cpu_pool_free(p);
        return -r;
    }
    *ret_pool = p;
    return 0;
}

void cpu_pool_free(struct cpu_pool *p)
{
    if (!p)
        return;
    atomic_store(&p->stop, true);
    atomic_fetch_add(&p->run, 1);
    wake_all(p, &p->run);
    for (uint32_t i = 1; i <= p->started; i++)
        (void)pthread_join(p->threads[i], NULL); /* joinable and not joined before */
    free(p->starts);
    free(p->threads);
    free(p);
}

uint32_t cpu_pool_threads(const struct cpu_pool *pool)
{
    return pool->threads_count;
}

void cpu_run(struct ops_device *d, cpu_task *task, const void *args)
{
    struct cpu_pool *p = d->pool;
    d->stats.launches_count++;
    atomic_store_explicit(&p->chunk, 0, memory_order_relaxed);
    if (p->threads_count == 1) {
        task(d, args, 0);
        return;
    }
    p->device = d;
    p->task = task;
    p->args = args;
    atomic_store_explicit(&p->left, p->threads_count - 1, memory_order_relaxed);
    atomic_fetch_add(&p->run, 1); /* publishes all of that */
    wake_all(p, &p->run);
    task(d, args, 0);
    /* The others are at their last chunk: never long, unless one lost its processor. */
    for (uint32_t i = 0; atomic_load_explicit(&p->left, memory_order_acquire); i++) {
        if (i < 100 * SPINS)
            pause_once();
        else
            (void)sched_yield();
    }
}

uint32_t cpu_chunk_next(struct ops_device *d)
{
    return atomic_fetch_add_explicit(&d->pool->chunk, 1, memory_order_relaxed);
}

void cpu_barrier(struct ops_device *d)
{
    struct cpu_pool *p = d->pool;
    uint32_t round = atomic_load_explicit(&p->barriers, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&p->arrived, 1, memory_order_acq_rel) + 1 == p->threads_count) {
        atomic_store_explicit(&p->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&p->chunk, 0, memory_order_relaxed);
        atomic_fetch_add_explicit(&p->barriers, 1, memory_order_release);
        return;
    }
    for (uint32_t i = 0; atomic_load_explicit(&p->barriers, memory_order_acquire) == round; i++) {
        if (i < 100 * SPINS)
            pause_once();
        else
            (void)sched_yield();
    }
}
