/* tests/fuzz/fuzz_ring.c: the fuzzer plays a hostile peer on both rings of a lane by a byte script:
 * it writes anywhere in what the peer may write, publishes right and wrong sequences and positions,
 * and lets the daemon's ends take, push and ask for credit in between.
 *
 * The region lies in memory of exactly its size (a sanitizer sees any access outside). The oracle
 * keeps its own count: a record is taken only at the position that is next, each position once, only
 * with its own sequence; a credit is accepted only when it lies between what was accepted before and
 * what was pushed, and room never exceeds the ring; what the daemon pushes never overwrites a slot
 * that the accepted credit does not cover. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "shm/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SLOTS 8u

struct peer_memory { /* what the hostile peer writes */
    struct ring_slot slot[SLOTS];
    uint64_t consumed;
};

struct state {
    struct peer_memory *peer;
    struct ring_slot *events;
    struct ring_rx rx;
    struct ring_tx tx;
    uint64_t honest;   /* position that an honest producer would publish next */
    uint64_t taken;    /* oracle: records taken */
    uint64_t pushed;   /* oracle: events pushed */
    uint64_t credited; /* oracle: highest consumed position that was accepted */
    const uint8_t *data;
    size_t size;
};

static void must(int condition)
{
    if (!condition)
        abort();
}

static uint64_t script(struct state *s, size_t bytes)
{
    uint64_t value = 0;
    while (bytes-- > 0 && s->size > 0) {
        value = value << 8 | *s->data++;
        s->size--;
    }
    return value;
}

static void take(struct state *s)
{
    const struct wire_limits limits = {.arena_bytes = 4096,
                                       .prompt_bytes_max = 4096,
                                       .max_tokens_max = 100,
                                       .programs_count = 16,
                                       .vocabulary_count = 100,
                                       .streams = DYNASOR_STREAM_ALL};
    union wire_record record;
    struct wire_fault fault;
    const struct ring_slot *slot = &s->peer->slot[s->taken % SLOTS];
    uint64_t lap_before = s->taken >= SLOTS ? s->taken + 1 - SLOTS : 0;
    enum ring_peek peek = ring_rx_peek(&s->rx);
    must(s->rx.pos == s->taken && ring_rx_slot(&s->rx) == slot);
    must((peek == RING_READY) == (slot->seq == s->taken + 1));
    must((peek == RING_EMPTY) == (slot->seq == lap_before));
    if (peek != RING_READY)
        return;
    ring_rx_take(&s->rx, record.word);
    s->taken++;
    must(memcmp(record.word, slot->word, sizeof record.word) == 0);
    must(ring_rx_peek(&s->rx) != RING_READY || s->rx.pos == s->taken); /* never this one again */
    if (wire_check_record(&record, &limits, &fault) == WIRE_OK)
        must(record.cancel.index < limits.programs_count);
}

static void credit(struct state *s)
{
    uint64_t word = s->peer->consumed;
    int possible = word >= s->credited && word <= s->pushed;
    must(ring_tx_credit(&s->tx, &s->peer->consumed) == possible);
    if (possible)
        s->credited = word;
    must(ring_tx_room(&s->tx) == SLOTS - (s->pushed - s->credited));
    must(ring_tx_room(&s->tx) <= SLOTS);
}

static void push(struct state *s)
{
    uint64_t word[RING_WORDS];
    if (ring_tx_room(&s->tx) == 0)
        return;
    must(s->pushed - s->credited < SLOTS);
    for (int i = 0; i < RING_WORDS; i++)
        word[i] = s->pushed;
    ring_tx_push(&s->tx, word);
    must(s->events[s->pushed % SLOTS].seq == s->pushed + 1);
    s->pushed++;
}

static void step(struct state *s)
{
    uint8_t op = (uint8_t)script(s, 1);
    uint64_t where;
    switch (op % 8) {
    case 0: /* a byte anywhere */
        where = script(s, 2) % sizeof *s->peer;
        ((uint8_t *)s->peer)[where] = (uint8_t)script(s, 1);
        break;
    case 1: /* a sequence near the right one */
        s->peer->slot[script(s, 1) % SLOTS].seq = s->honest + script(s, 1) - 128;
        break;
    case 2: /* an honest record, its bytes from the script */
        for (int i = 0; i < RING_WORDS; i++)
            s->peer->slot[s->honest % SLOTS].word[i] = script(s, 1);
        s->peer->slot[s->honest % SLOTS].seq = s->honest + 1;
        s->honest++;
        break;
    case 3: /* a position near the right one, or far away */
        s->peer->consumed = s->pushed + script(s, 1) - 128;
        break;
    case 4:
        s->peer->consumed = script(s, 8);
        break;
    case 5:
        take(s);
        break;
    case 6:
        credit(s);
        break;
    default:
        push(s);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct state s = {.peer = calloc(1, sizeof(struct peer_memory)),
                      .events = calloc(SLOTS, sizeof(struct ring_slot)),
                      .data = data,
                      .size = size};
    if (s.peer && s.events) {
        ring_rx_init(&s.rx, s.peer->slot, SLOTS, 0);
        ring_tx_init(&s.tx, s.events, SLOTS, 0, 0);
        while (s.size > 0)
            step(&s);
    }
    free(s.peer);
    free(s.events);
    return 0;
}
