#include "daemon/engine/worker.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "daemon/base/assert.h"

struct worker {
    pthread_mutex_t mutex; /* all below but the constants */
    pthread_cond_t changed;
    struct worker_calls calls; /* constant, like the next five */
    int fd;
    uint32_t steps_max;
    uint32_t ranks_count;
    pthread_t thread[WORKER_RANKS_MAX];
    uint32_t threads_count;
    uint32_t ranks_given;  /* to threads that have started, in order of arrival */
    uint64_t posted_count; /* steps; each of the next three is at most the one before it */
    uint64_t begun_count;
    uint64_t done_count;
    uint64_t taken_count;
    uint32_t busy_count; /* ranks that have not finished the step that has begun */
    bool stops;
};

/* With the mutex: the next step, if there is one and none runs. */
static void begin_step(struct worker *w)
{
    if (w->begun_count == w->posted_count || w->begun_count != w->done_count)
        return;
    w->calls.begin(w->calls.context, w->begun_count);
    w->busy_count = w->ranks_count;
    w->begun_count++;
    pthread_cond_broadcast(&w->changed);
}

/* Waits for a step after the first seen_count; false: the end. */
static bool wait_step(struct worker *w, uint64_t seen_count)
{
    pthread_mutex_lock(&w->mutex);
    while (w->begun_count == seen_count && !(w->stops && w->posted_count == seen_count))
        pthread_cond_wait(&w->changed, &w->mutex);
    bool found = w->begun_count != seen_count;
    pthread_mutex_unlock(&w->mutex);
    return found;
}

static void finish_step(struct worker *w)
{
    pthread_mutex_lock(&w->mutex);
    if (--w->busy_count == 0) {
        w->done_count++;
        begin_step(w); /* before anybody can take what it goes on from */
        int result = eventfd_write(w->fd, 1);
        ASSERT(result == 0);
    }
    pthread_mutex_unlock(&w->mutex);
}

static void *thread_main(void *argument)
{
    struct worker *w = argument;
    pthread_mutex_lock(&w->mutex);
    uint32_t rank = w->ranks_given++;
    pthread_mutex_unlock(&w->mutex);
    for (uint64_t seen = 0; wait_step(w, seen); seen++) {
        w->calls.run(w->calls.context, rank, seen);
        finish_step(w);
    }
    return NULL;
}

int worker_new(uint32_t ranks_count, uint32_t steps_max, const struct worker_calls *calls,
               struct worker **ret_worker)
{
    ASSERT(ranks_count <= WORKER_RANKS_MAX);
    struct worker *w = calloc(1, sizeof *w);
    if (!w)
        return -ENOMEM;
    w->calls = *calls;
    w->steps_max = steps_max;
    w->ranks_count = ranks_count;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->changed, NULL);
    w->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
    int result = w->fd < 0 ? -errno : 0;
    for (; result == 0 && w->threads_count < ranks_count; w->threads_count += result == 0)
        result = -pthread_create(&w->thread[w->threads_count], NULL, thread_main, w);
    if (result < 0) {
        worker_free(w);
        return result;
    }
    *ret_worker = w;
    return 0;
}

void worker_free(struct worker *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->mutex);
    w->stops = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->mutex);
    for (uint32_t i = 0; i < w->threads_count; i++)
        pthread_join(w->thread[i], NULL);
    if (w->fd >= 0)
        (void)close(w->fd); /* nothing of it is left to lose */
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->mutex);
    free(w);
}

void worker_post(struct worker *w)
{
    pthread_mutex_lock(&w->mutex);
    ASSERT(w->posted_count - w->taken_count < w->steps_max);
    w->posted_count++;
    begin_step(w);
    pthread_mutex_unlock(&w->mutex);
}

bool worker_take(struct worker *w)
{
    pthread_mutex_lock(&w->mutex);
    bool done = w->done_count != w->taken_count;
    if (done) {
        eventfd_t value;
        int result = eventfd_read(w->fd, &value); /* written with done_count */
        ASSERT(result == 0);
        w->taken_count++;
    }
    pthread_mutex_unlock(&w->mutex);
    return done;
}

int worker_fd(const struct worker *w)
{
    return w->fd;
}
