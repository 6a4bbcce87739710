/* shm/bell.h — when to wake a sleeping peer: the one store-fence-load pair of the project.
 *
 *   sleeper:   need = ticket; full fence; look again; sleep.
 *   publisher: publish; full fence; read need; wake if it is raised.
 *
 * Either the sleeper's second look finds what was published, or the publisher finds the ticket;
 * without both fences each may miss the other. (tests/models/bell.pml proves it and what happens
 * when one part is dropped.)
 *
 * A need word has one writer, the sleeper, and only ever grows: odd while it sleeps, even while it
 * is awake. The publisher remembers the odd value that it answered, so one sleep costs one wake
 * however often it looks, and a peer that raises its need and never sleeps pays for its own wakes
 * only. Because the word itself carries the history, a restarted daemon goes on from it.
 *
 * Thread: each end by the owner of its ring. Fails: never. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "shm/atomic.h"

/* Says that this end is about to sleep; look at the ring once more after. ticket is this end's
 * private copy of the word. */
static inline void bell_raise(uint32_t *need_word, uint32_t *ticket)
{
    *ticket = (*ticket + 1) | 1;
    /* ORDER(bell_need) publish: the ticket is visible to all before the ring is read again. */
    shm_store_u32(need_word, *ticket);
    shm_fence_full();
}

static inline void bell_lower(uint32_t *need_word, uint32_t *ticket)
{
    *ticket += *ticket & 1;
    shm_store_u32(need_word, *ticket); /* relaxed: seen late it costs one needless wake, no more */
}

/* After publishing, once for any number of records and rings: makes them visible before
 * bell_wanted() reads the need words. */
static inline void bell_fence(void)
{
    shm_fence_full();
}

/* Whether the peer asked to be woken since the last wake. Only after bell_fence(). */
static inline bool bell_wanted(const uint32_t *need_word, uint32_t *answered_ticket)
{
    /* ORDER(bell_need) observe: behind the fence; if it reads 0, the sleeper's second look comes
     * after our publication. Acquire, for what the sleeper says beside it (need_kind). */
    uint32_t ticket = shm_load_acquire_u32(need_word);
    if ((ticket & 1) == 0 || ticket == *answered_ticket)
        return false;
    *answered_ticket = ticket;
    return true;
}
