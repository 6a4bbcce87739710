/* shm/ring.h — single-producer single-consumer ring of 64-byte slots between two processes.
 *
 * A slot is seven words of record and, last, its sequence: position + 1, stored with release once
 * the record is complete. One cache line moves per record; an unpublished slot was never sent, so a
 * producer killed at any instant leaves nothing to repair. Positions are free-running 64-bit.
 *
 * Each end keeps base, mask and its own position in private memory (struct ring_tx, struct
 * ring_rx) and never reads them back. The consumer's progress reaches the producer through a word
 * outside the slots (region.h), checked by ring_tx_credit() each time it is read.
 *
 * Owner: each end belongs to one thread. Time: O(1). Fails: ring_rx_peek() says RING_BAD when the
 * sequence is neither the next one nor the one a lap before; the producer then broke the protocol.
 *
 * ORDER pairs (docs/ABI.md): ring_slot — the release of seq makes the seven words visible to the
 * acquire of seq. ring_credit — the release of the consumed position says that the consumer's
 * reads of the slots before it are over, so that the producer may write them again. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "shm/atomic.h"

#define RING_WORDS 7

struct ring_slot {
    uint64_t word[RING_WORDS];
    uint64_t seq;
};

struct ring_tx { /* private to the producer */
    struct ring_slot *slots;
    uint64_t pos;   /* next position to publish */
    uint64_t limit; /* first position that may not be written yet */
    uint64_t mask;
};

struct ring_rx { /* private to the consumer */
    const struct ring_slot *slots;
    uint64_t pos; /* next position to take */
    uint64_t mask;
};

enum ring_peek { RING_EMPTY = 0, RING_READY = 1, RING_BAD = 2 };

/* slots: slots_count entries, a power of two, zero-filled when pos is 0. pos and consumed differ
 * from 0 only when a restarted daemon attaches to a ring that lived on. consumed is taken on trust:
 * over a ring whose consumer is not trusted pass pos - slots_count, which leaves no room, and let
 * ring_tx_credit() check the consumer's word. */
static inline void ring_tx_init(struct ring_tx *tx, struct ring_slot *slots, uint32_t slots_count,
                                uint64_t pos, uint64_t consumed)
{
    tx->slots = slots;
    tx->pos = pos;
    tx->limit = consumed + slots_count;
    tx->mask = (uint64_t)slots_count - 1;
}

static inline void ring_rx_init(struct ring_rx *rx, const struct ring_slot *slots,
                                uint32_t slots_count, uint64_t pos)
{
    rx->slots = slots;
    rx->pos = pos;
    rx->mask = (uint64_t)slots_count - 1;
}

/* Slots that may be written without asking for more credit. */
static inline uint64_t ring_tx_room(const struct ring_tx *tx)
{
    return tx->limit - tx->pos;
}

/* Takes over the consumer's position, read once from where it publishes it. False: the position is
 * impossible (ahead of us, more than a lap behind, or behind what it said before). */
static inline bool ring_tx_credit(struct ring_tx *tx, const uint64_t *consumed_word)
{
    /* ORDER(ring_credit) observe: slots before it are no longer read by the consumer. */
    uint64_t consumed = shm_load_acquire_u64(consumed_word);
    uint64_t limit = consumed + tx->mask + 1;
    if (tx->pos - consumed > tx->mask + 1 || limit - tx->limit > tx->mask + 1)
        return false;
    tx->limit = limit;
    return true;
}

/* Publishes one record. Needs ring_tx_room() > 0. */
static inline void ring_tx_push(struct ring_tx *tx, const uint64_t word[RING_WORDS])
{
    struct ring_slot *slot = &tx->slots[tx->pos & tx->mask];
    for (int i = 0; i < RING_WORDS; i++)
        shm_store_u64(&slot->word[i], word[i]);
    tx->pos++;
    /* ORDER(ring_slot) publish: the record is complete before its sequence says so. */
    shm_store_release_u64(&slot->seq, tx->pos);
}

static inline enum ring_peek ring_rx_peek(const struct ring_rx *rx)
{
    /* ORDER(ring_slot) observe: the record behind this sequence is complete. */
    uint64_t seq = shm_load_acquire_u64(&rx->slots[rx->pos & rx->mask].seq);
    if (seq == rx->pos + 1)
        return RING_READY;
    /* Before its first lap a slot holds 0; afterwards exactly the sequence of the lap before. */
    if (seq == (rx->pos > rx->mask ? rx->pos - rx->mask : 0))
        return RING_EMPTY;
    return RING_BAD;
}

/* Copies the record at the current position, word by word and each word once, and steps on. Only
 * after ring_rx_peek() said RING_READY. A hostile producer can tear the record while it is copied,
 * which is why every check happens on the copy. */
static inline void ring_rx_take(struct ring_rx *rx, uint64_t word[RING_WORDS])
{
    const struct ring_slot *slot = &rx->slots[rx->pos & rx->mask];
    for (int i = 0; i < RING_WORDS; i++)
        word[i] = shm_load_u64(&slot->word[i]);
    rx->pos++;
}

/* The slot at the current position, for a consumer that trusts its producer and reads in place. It
 * stays valid until the position after it is published with ring_rx_publish(). */
static inline const struct ring_slot *ring_rx_slot(const struct ring_rx *rx)
{
    return &rx->slots[rx->pos & rx->mask];
}

static inline void ring_rx_publish(const struct ring_rx *rx, uint64_t *consumed_word)
{
    /* ORDER(ring_credit) publish: our reads of the slots before pos are over. */
    shm_store_release_u64(consumed_word, rx->pos);
}
