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
    void (*run)(void *context, uint32_t rank); /* constant, like the next four */
    void *context;
    int fd;
    uint32_t ranks_count;
    pthread_t thread[WORKER_RANKS_MAX];
    uint32_t threads_count;
    uint32_t ranks_given; /* to threads that have started, in order of arrival */
    uint64_t posted_count;
    uint64_t taken_count;
    uint32_t busy_count; /* ranks that have not finished the last step posted */
    bool stops;
};

/* Waits for a step after the first seen_count; false: the end. */
static bool wait_step(struct worker *w, uint64_t seen_count)
{
    pthread_mutex_lock(&w->mutex);
    while (w->posted_count == seen_count && !w->stops)
        pthread_cond_wait(&w->changed, &w->mutex);
    bool found = w->posted_count != seen_count;
    pthread_mutex_unlock(&w->mutex);
    return found;
}

static void *thread_main(void *argument)
{
    struct worker *w = argument;
    pthread_mutex_lock(&w->mutex);
    uint32_t rank = w->ranks_given++;
    pthread_mutex_unlock(&w->mutex);
    for (uint64_t seen = 0; wait_step(w, seen); seen++) {
        w->run(w->context, rank);
        pthread_mutex_lock(&w->mutex);
        int result = --w->busy_count == 0 ? eventfd_write(w->fd, 1) : 0;
        ASSERT(result == 0);
        pthread_mutex_unlock(&w->mutex);
    }
    return NULL;
}

int worker_new(uint32_t ranks_count, void (*run)(void *context, uint32_t rank), void *context,
               struct worker **ret_worker)
{
    ASSERT(ranks_count <= WORKER_RANKS_MAX);
    struct worker *w = calloc(1, sizeof *w);
    if (!w)
        return -ENOMEM;
    w->run = run;
    w->context = context;
    w->ranks_count = ranks_count;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->changed, NULL);
    w->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
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
    ASSERT(w->busy_count == 0 && w->posted_count == w->taken_count);
    w->busy_count = w->ranks_count;
    w->posted_count++;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->mutex);
}

bool worker_take(struct worker *w)
{
    pthread_mutex_lock(&w->mutex);
    bool done = w->posted_count != w->taken_count && w->busy_count == 0;
    if (done) {
        eventfd_t value;
        int result = eventfd_read(w->fd, &value); /* written before busy_count was seen as 0 */
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
