/* daemon/engine/worker.h — one thread for each rank; all of them run one step at a time.
 *
 * The control thread posts, the threads run the step together, the last to finish writes the
 * eventfd. What was written before the post is seen by the threads, and what they write by the
 * control thread once worker_take() has returned true.
 *
 * Thread: control. Memory: fixed at worker_new(). Time: post and take do not wait. Fails:
 * worker_new() with -errno. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct worker;

#define WORKER_RANKS_MAX 4u

/* run(context, rank) is one rank's part of a step. */
int worker_new(uint32_t ranks_count, void (*run)(void *context, uint32_t rank), void *context,
               struct worker **ret_worker);
void worker_free(struct worker *worker); /* waits for the step in flight */

void worker_post(struct worker *worker); /* no step may be in flight */

/* True once after each post, when the step is done; empties the eventfd. */
bool worker_take(struct worker *worker);

int worker_fd(const struct worker *worker);
