/* The protocol of a record and its event, both ways, over the real layouts: publish, look whether
 * the peer sleeps, take, check every field. The plain variant leaves out checks and doorbells. */
#include <string.h>

#include "bench.h"
#include "ring_region.h"

#define VOCABULARY 32000u
#define PROMPT "question"
#define PROMPT_BYTES 8u /* one word */

static const struct wire_limits limits = {
    .arena_bytes = DYNASOR_ARENA_BYTES_MIN,
    .prompt_bytes_max = DYNASOR_ARENA_BYTES_MIN,
    .max_tokens_max = 4096,
    .programs_count = DYNASOR_PROGRAMS_MAX,
    .vocabulary_count = VOCABULARY,
    .streams = DYNASOR_STREAM_ALL,
};

struct end { /* private to one process */
    struct ring_region region;
    struct ring_tx tx;
    struct ring_rx rx;
    uint32_t answered;
};

static void wait_record(struct bench_run *run, const struct end *e)
{
    enum ring_peek peek;
    while ((peek = ring_rx_peek(&e->rx)) == RING_EMPTY)
        shm_pause();
    if (peek == RING_BAD)
        bench_fail(run, "bad sequence at %llu", (unsigned long long)e->rx.pos);
}

static void daemon_init(struct bench_run *run, struct end *e)
{
    ring_region_init(&e->region, run);
    const struct wire_geometry *g = &e->region.geometry;
    ring_tx_init(&e->tx, region_event_ring(e->region.d2c, g, 0), g->event_slots, 0, 0);
    ring_rx_init(&e->rx, region_sub_ring(e->region.c2d, g, 0), g->sub_slots, 0);
    e->answered = 0;
}

static void client_init(struct bench_run *run, struct end *e)
{
    ring_region_init(&e->region, run);
    const struct wire_geometry *g = &e->region.geometry;
    ring_tx_init(&e->tx, region_sub_ring(e->region.c2d, g, 0), g->sub_slots, 0, 0);
    ring_rx_init(&e->rx, region_event_ring(e->region.d2c, g, 0), g->event_slots, 0);
    e->answered = 0;
}

/* Records are put together a word at a time. Written field by field they would be read back by
 * ring_tx_push() in wider pieces than they were stored in, which waits for the store buffer: 3 % of
 * the round trip. */
static inline void submit_fill(uint64_t word[RING_WORDS], uint64_t round)
{
    word[0] = (uint64_t)WIRE_OP_SUBMIT | (uint64_t)DYNASOR_STREAM_TOKENS << 24 |
              (round % DYNASOR_PROGRAMS_MAX) << 32;
    word[1] = round + 1;                        /* program_id */
    word[2] = round % VOCABULARY;               /* seed */
    word[3] = 1 | (uint64_t)PROMPT_BYTES << 32; /* max_tokens, bytes */
    memcpy(&word[4], PROMPT, sizeof word[4]);
    word[5] = 0;
    word[6] = 0;
}

static inline void tokens_fill(uint64_t word[RING_WORDS], const struct wire_submit *submit)
{
    word[0] = (uint64_t)WIRE_EVENT_TOKENS | 1u << 8 | (uint64_t)submit->index << 32;
    word[1] = submit->seed << 32; /* position 0 and the token */
    for (int i = 2; i < RING_WORDS; i++)
        word[i] = 0;
}

static void server(struct bench_run *run)
{
    struct end e;
    daemon_init(run, &e);
    struct region_d2c_lane *own = e.region.daemon_line;
    uint64_t total = (uint64_t)run->warmup_count + run->samples_count, wakes = 0;
    for (uint64_t i = 0; i < total; i++) {
        union wire_record record;
        struct wire_fault fault;
        wait_record(run, &e);
        ring_rx_take(&e.rx, record.word);
        if (wire_check_record(&record, &limits, &fault) != WIRE_OK)
            bench_fail(run, "record %llu was not accepted", (unsigned long long)i);
        union wire_event event;
        tokens_fill(event.word, &record.submit);
        if (ring_tx_room(&e.tx) == 0 && !ring_tx_credit(&e.tx, &e.region.client_line->consumed))
            bench_fail(run, "impossible consumed position");
        ring_tx_push(&e.tx, event.word);
        bell_fence();
        wakes += bell_wanted(&e.region.client_line->need, &e.answered);
        shm_store_u64(&own->next, e.tx.pos);
        ring_rx_publish(&e.rx, &own->consumed);
    }
    if (wakes != 0)
        bench_fail(run, "a spinning client asked to be woken");
}

static void client(struct bench_run *run)
{
    struct end e;
    client_init(run, &e);
    uint64_t total = (uint64_t)run->warmup_count + run->samples_count, wakes = 0;
    uint64_t before = bench_ticks();
    for (uint64_t i = 0; i < total; i++) {
        union wire_record record;
        union wire_event event;
        if (ring_tx_room(&e.tx) == 0 && !ring_tx_credit(&e.tx, &e.region.daemon_line->consumed))
            bench_fail(run, "impossible consumed position");
        submit_fill(record.word, i);
        ring_tx_push(&e.tx, record.word);
        bell_fence();
        wakes += bell_wanted(&e.region.daemon_line->need, &e.answered);
        wait_record(run, &e);
        ring_rx_take(&e.rx, event.word);
        if (event.kind != WIRE_EVENT_TOKENS || event.tokens.count != 1 ||
            event.tokens.index != record.submit.index ||
            event.tokens.token[0] != record.submit.seed)
            bench_fail(run, "event %llu is wrong", (unsigned long long)i);
        if (e.rx.pos % (REGION_EVENT_SLOTS / 4) == 0)
            ring_rx_publish(&e.rx, &e.region.client_line->consumed);
        uint64_t now = bench_ticks();
        if (i >= run->warmup_count)
            run->ticks[i - run->warmup_count] = (uint32_t)(now - before);
        before = now;
    }
    if (wakes != 0)
        bench_fail(run, "a spinning daemon asked to be woken");
}

static void plain_server(struct bench_run *run)
{
    struct end e;
    daemon_init(run, &e);
    uint64_t word[RING_WORDS], total = (uint64_t)run->warmup_count + run->samples_count;
    for (uint64_t i = 0; i < total; i++) {
        wait_record(run, &e);
        ring_rx_take(&e.rx, word);
        if (ring_tx_room(&e.tx) == 0)
            (void)ring_tx_credit(&e.tx, &e.region.client_line->consumed);
        ring_tx_push(&e.tx, word);
        if (e.rx.pos % (REGION_SUB_SLOTS / 4) == 0)
            ring_rx_publish(&e.rx, &e.region.daemon_line->consumed);
    }
}

static void plain_client(struct bench_run *run)
{
    struct end e;
    client_init(run, &e);
    uint64_t word[RING_WORDS] = {0}, total = (uint64_t)run->warmup_count + run->samples_count;
    uint64_t before = bench_ticks();
    for (uint64_t i = 0; i < total; i++) {
        word[0] = i;
        if (ring_tx_room(&e.tx) == 0)
            (void)ring_tx_credit(&e.tx, &e.region.daemon_line->consumed);
        ring_tx_push(&e.tx, word);
        wait_record(run, &e);
        ring_rx_take(&e.rx, word);
        if (e.rx.pos % (REGION_EVENT_SLOTS / 4) == 0)
            ring_rx_publish(&e.rx, &e.region.client_line->consumed);
        uint64_t now = bench_ticks();
        if (i >= run->warmup_count)
            run->ticks[i - run->warmup_count] = (uint32_t)(now - before);
        before = now;
    }
}

const struct bench_variant ring_checked = {
    .name = "ring",
    .what = "ring: validation and wake check, both ways",
    .samples_count = 60000,
    .warmup_count = 5000,
    .server = server,
    .client = client,
};

const struct bench_variant ring_plain = {
    .name = "ring-plain",
    .what = "ring: push and take only",
    .samples_count = 60000,
    .warmup_count = 5000,
    .server = plain_server,
    .client = plain_client,
};
