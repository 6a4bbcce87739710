#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/cpu/internal.h"
#include "shm/atomic.h"

#define SPINS                                                                                      \
    4000u /* about 40 us of pauses: launches of a step follow each other faster than that */

struct cpu_pool {
    uint32_t threads_count; /* the caller's included */
    pthread_t *threads;
    struct start {
        struct cpu_pool *pool;
        uint32_t thread;
        uint32_t cpu;
    } * starts;
    uint32_t started;
    uint32_t run;      /* rises by one with each launch; workers wait for it */
    uint32_t sleepers; /* workers in futex_wait */
    uint32_t left;     /* workers that are not done with this run */
    uint32_t chunk;
    uint32_t arrived; /* at the barrier */
    uint32_t barriers;
    uint32_t stop;
    struct ops_device *device;
    cpu_task *task;
    const void *args;
};

static void pause_once(void)
{
    __builtin_ia32_pause();
}

/* Waits until *word is not seen. */
static void wait_change(struct cpu_pool *p, uint32_t *word, uint32_t seen)
{
    for (uint32_t i = 0; i < SPINS; i++) {
        if (shm_load_acquire_u32(word) != seen)
            return;
        pause_once();
    }
    /* Sleeper first, then the word once more inside futex_wait: whoever changes it looks for sleepers
     * afterwards, so one of the two sees the other: each side has a full exchange before its look. */
    (void)shm_fetch_add_full_u32(&p->sleepers, 1);
    while (shm_load_acquire_u32(word) == seen)
        (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    (void)shm_fetch_add_full_u32(&p->sleepers, UINT32_MAX); /* one less */
}

static void wake_all(struct cpu_pool *p, uint32_t *word)
{
    if (shm_load_acquire_u32(&p->sleepers))
        (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static void keep_on(uint32_t cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    (void)pthread_setaffinity_np(pthread_self(), sizeof set,
                                 &set); /* elsewhere it is only slower */
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
        if (shm_load_acquire_u32(&p->stop))
            return NULL;
        p->task(p->device, p->args, start->thread);
        (void)shm_fetch_add_full_u32(&p->left, UINT32_MAX); /* one less */
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
    shm_store_u32(&p->stop, 1);
    (void)shm_fetch_add_full_u32(&p->run, 1);
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
    shm_store_u32(&p->chunk, 0);
    if (p->threads_count == 1) {
        task(d, args, 0);
        return;
    }
    p->device = d;
    p->task = task;
    p->args = args;
    shm_store_u32(&p->left, p->threads_count - 1);
    (void)shm_fetch_add_full_u32(&p->run, 1); /* publishes all of that */
    wake_all(p, &p->run);
    task(d, args, 0);
    /* The others are at their last chunk: never long, unless one lost its processor. */
    for (uint32_t i = 0; shm_load_acquire_u32(&p->left); i++) {
        if (i < SPINS)
            pause_once();
        else
            (void)sched_yield();
    }
}

uint32_t cpu_chunk_next(struct ops_device *d)
{
    return shm_fetch_add_full_u32(&d->pool->chunk, 1);
}

void cpu_barrier(struct ops_device *d)
{
    struct cpu_pool *p = d->pool;
    uint32_t round = shm_load_u32(&p->barriers);
    if (shm_fetch_add_full_u32(&p->arrived, 1) + 1 == p->threads_count) {
        shm_store_u32(&p->arrived, 0);
        shm_store_u32(&p->chunk, 0);
        (void)shm_fetch_add_full_u32(&p->barriers, 1);
        return;
    }
    for (uint32_t i = 0; shm_load_acquire_u32(&p->barriers) == round; i++) {
        if (i < SPINS)
            pause_once();
        else
            (void)sched_yield();
    }
}
