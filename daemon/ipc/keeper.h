/* daemon/ipc/keeper.h — how a dead daemon wakes its clients at once: robust futexes.
 *
 * Each client's D2C has an owner word that holds the tid of one of the daemon's keeper threads. When
 * the daemon dies, however, the kernel walks each thread's robust list before it tears down the
 * memory, sets FUTEX_OWNER_DIED in every word and wakes one sleeper of it (which wakes the rest).
 * The kernel walks at most 2,048 entries a thread, so the clients are spread over several threads
 * that live as long as the daemon and do nothing else.
 *
 * A list entry and its futex word lie at one fixed distance for the whole list. The entries are in
 * private memory (struct keeper_node in the peer page of a slot); the words are reached through a
 * window that maps page 0 of each D2C with the same stride.
 *
 * Thread: the list of each keeper is changed by the control thread only, in single stores that leave
 * it walkable at every instant; keeper threads sleep. Fails: negative errno. */
#pragma once
#include <linux/futex.h>
#include <stdbool.h>
#include <stdint.h>

#define KEEPER_NODES_MAX 1024u /* per thread; the kernel's limit is 2,048 (ROBUST_LIST_LIMIT) */

struct keeper_node {          /* private memory, fixed place */
    struct robust_list list;  /* what the kernel reads */
    struct keeper_node *prev; /* NULL: not listed */
};

struct keeper;

/* word_distance: address of a node's futex word minus address of the node. */
int keeper_new(intptr_t word_distance, struct keeper **ret_keeper);
void keeper_free(struct keeper *keeper);

/* Body of a keeper thread; returns after keeper_stop(). */
void keeper_run(struct keeper *keeper);
/* Waits until keeper_run() has registered with the kernel; returns its tid, what owner words hold. */
uint32_t keeper_tid(struct keeper *keeper);
void keeper_stop(struct keeper *keeper);

/* The word of node already holds keeper_tid() | FUTEX_WAITERS. */
void keeper_add(struct keeper *keeper, struct keeper_node *node);
void keeper_remove(struct keeper *keeper, struct keeper_node *node);
