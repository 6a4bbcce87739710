/* daemon/engine/worker.h — one thread for each rank; all of them run one step at a time, in the order of
 * their posts.
 *
 * The control thread posts, the threads run the step together, the last to finish writes the
 * eventfd. A step begins when all ranks have finished the one before it. What was written before the post is
 * seen by the threads, and what they write by the control thread once worker_take() has returned true.
 *
 * Thread: control. Memory: fixed at worker_new(). Time: post and take do not wait. Fails:
 * worker_new() with -errno. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct worker;

#define WORKER_RANKS_MAX 4u

struct worker_calls {
    /* Once before each step, by one thread while all others wait: it is short. steps: that were posted before
     * this one, all of them done; until it returns none of these is taken. */
    void (*begin)(void *context, uint64_t steps);
    /* One rank's part of the step. */
    void (*run)(void *context, uint32_t rank, uint64_t steps);
    void *context;
};

/* steps_max: in flight at once. */
int worker_new(uint32_t ranks_count, uint32_t steps_max, const struct worker_calls *calls,
               struct worker **ret_worker);
void worker_free(struct worker *worker); /* waits for the steps in flight */

void worker_post(struct worker *worker); /* fewer than steps_max are in flight */

/* True once after each post, when that step is done, in their order; takes one off the eventfd. */
bool worker_take(struct worker *worker);

int worker_fd(const struct worker *worker);
