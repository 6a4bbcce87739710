/* One way: a producer that never waits for an answer, a consumer that copies each record out and
 * checks its sequence. Batch 1 with and without looking whether the consumer sleeps, and batches of
 * 32 with one fence and one look a batch. */
#include "bench.h"
#include "ring_region.h"

#define BATCH 32u

static void credit(struct bench_run *run, struct ring_tx *tx, struct ring_region *region)
{
    while (ring_tx_room(tx) == 0) {
        if (!ring_tx_credit(tx, &region->client_line->consumed))
            bench_fail(run, "impossible consumed position");
        if (ring_tx_room(tx) == 0)
            shm_pause();
    }
}

/* look_every 0: never looks. A constant in each caller, so that each variant is its own loop. */
static inline void send_all(struct bench_run *run, uint64_t look_every)
{
    struct ring_region region;
    struct ring_tx tx;
    ring_region_init(&region, run);
    ring_tx_init(&tx, region_event_ring(region.d2c, &region.geometry, 0),
                 region.geometry.event_slots, 0, 0);
    uint64_t word[RING_WORDS] = {0}, total = run->warmup_count + run->messages_count, wakes = 0;
    uint32_t answered = 0;
    for (uint64_t i = 0; i < total; i++) {
        if (ring_tx_room(&tx) == 0)
            credit(run, &tx, &region);
        word[0] = i;
        word[6] = ~i;
        ring_tx_push(&tx, word);
        if (look_every != 0 && (i + 1) % look_every == 0) {
            bell_fence();
            wakes += bell_wanted(&region.client_line->need, &answered);
        }
    }
    if (wakes != 0)
        bench_fail(run, "a spinning consumer asked to be woken");
}

static void send_plain(struct bench_run *run)
{
    send_all(run, 0);
}

static void send_bell(struct bench_run *run)
{
    send_all(run, 1);
}

static void send_batch(struct bench_run *run)
{
    send_all(run, BATCH);
}

static void receive(struct bench_run *run)
{
    struct ring_region region;
    struct ring_rx rx;
    ring_region_init(&region, run);
    ring_rx_init(&rx, region_event_ring(region.d2c, &region.geometry, 0),
                 region.geometry.event_slots, 0);
    uint64_t word[RING_WORDS], before = 0, total = run->warmup_count + run->messages_count;
    for (uint64_t i = 0; i < total; i++) {
        enum ring_peek peek;
        while ((peek = ring_rx_peek(&rx)) == RING_EMPTY)
            shm_pause();
        if (peek == RING_BAD)
            bench_fail(run, "bad sequence at %llu", (unsigned long long)i);
        ring_rx_take(&rx, word);
        if (word[0] != i || word[6] != ~i)
            bench_fail(run, "message %llu is wrong", (unsigned long long)i);
        if (rx.pos % (REGION_EVENT_SLOTS / 4) == 0)
            ring_rx_publish(&rx, &region.client_line->consumed);
        if (i + 1 == run->warmup_count)
            before = bench_ticks();
    }
    run->seconds = (double)(bench_ticks() - before) * bench_ns_per_tick() / 1e9;
}

const struct bench_variant oneway_plain = {
    .name = "oneway-ring",
    .what = "ring, one way, batch 1, no doorbell check",
    .warmup_count = 20480,
    .messages_count = 2000000,
    .server = send_plain,
    .client = receive,
};

const struct bench_variant oneway_bell = {
    .name = "oneway-bell",
    .what = "ring, one way, batch 1, doorbell check",
    .warmup_count = 20480,
    .messages_count = 2000000,
    .server = send_bell,
    .client = receive,
};

const struct bench_variant oneway_batch = {
    .name = "oneway-batch",
    .what = "ring, one way, batch 32, one fence a batch",
    .warmup_count = 20480,
    .messages_count = 2000000,
    .server = send_batch,
    .client = receive,
};
