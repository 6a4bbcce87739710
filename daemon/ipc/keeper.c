#include "daemon/ipc/keeper.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/base/assert.h"
#include "shm/atomic.h"

struct keeper {
    struct robust_list_head head;
    uint32_t tid; /* 0 until registered */
    uint32_t stop;
};

int keeper_new(intptr_t word_distance, struct keeper **ret_keeper)
{
    struct keeper *k = calloc(1, sizeof *k);
    if (!k)
        return -ENOMEM;
    k->head.list.next = &k->head.list;
    k->head.futex_offset = (long)word_distance;
    *ret_keeper = k;
    return 0;
}

void keeper_free(struct keeper *k)
{
    free(k);
}

static void word_wait(uint32_t *word, uint32_t value)
{
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL,
                  0); /* callers look again */
}

static void word_wake(uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

void keeper_run(struct keeper *k)
{
    /* Takes the place of the list that the C library registered for robust mutexes of this thread;
     * it uses none. */
    long r = syscall(SYS_set_robust_list, &k->head, sizeof k->head);
    ASSERT(r == 0);
    /* ORDER(keeper_tid) publish: the list is registered. */
    shm_store_release_u32(&k->tid, (uint32_t)gettid());
    word_wake(&k->tid);
    while (shm_load_acquire_u32(&k->stop) == 0)
        word_wait(&k->stop, 0);
}

uint32_t keeper_tid(struct keeper *k)
{
    uint32_t tid;
    /* ORDER(keeper_tid) observe: words with this tid are honoured from now on. */
    while ((tid = shm_load_acquire_u32(&k->tid)) == 0)
        word_wait(&k->tid, 0);
    return tid;
}

void keeper_stop(struct keeper *k)
{
    shm_store_release_u32(&k->stop, 1);
    word_wake(&k->stop);
}

/* The kernel may walk the list between any two stores of these two functions; each store leaves it
 * whole. The signal fence keeps the compiler from reordering what the kernel, on this very machine
 * and behind the process's last instruction, sees in program order. */
void keeper_add(struct keeper *k, struct keeper_node *node)
{
    ASSERT(node->prev == NULL);
    struct robust_list *first = k->head.list.next;
    node->list.next = first;
    node->prev = (struct keeper_node *)&k->head.list;
    if (first != &k->head.list)
        ((struct keeper_node *)first)->prev = node;
    shm_fence_compiler();
    k->head.list.next = &node->list;
}

void keeper_remove(struct keeper *k, struct keeper_node *node)
{
    ASSERT(node->prev != NULL);
    struct robust_list *next = node->list.next;
    node->prev->list.next = next;
    shm_fence_compiler();
    if (next != &k->head.list)
        ((struct keeper_node *)next)->prev = node->prev;
    node->prev = NULL;
}
