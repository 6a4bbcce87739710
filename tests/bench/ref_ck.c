/* ConcurrencyKit's single-producer single-consumer ring with 64-byte entries in shared memory, two
 * processes: the best known ring that a Debian system has. Same number of slots as ours. */
#include <ck_ring.h>

#include "bench.h"
#include "shm/region.h"

#define SLOTS REGION_EVENT_SLOTS

struct message {
    uint64_t word[8];
};

CK_RING_PROTOTYPE(message, message)

struct channel {
    ck_ring_t ring __attribute__((aligned(128)));
    struct message buffer[SLOTS] __attribute__((aligned(128)));
};

struct pair {
    struct channel request;
    struct channel reply;
    uint32_t ready;
};
_Static_assert(sizeof(struct pair) <= BENCH_MEMORY_BYTES, "fits the run's memory");

static int prepare(struct bench_run *run)
{
    struct pair *p = (struct pair *)(void *)run->memory;
    ck_ring_init(&p->request.ring, SLOTS);
    ck_ring_init(&p->reply.ring, SLOTS);
    return 0;
}

static void put(struct channel *c, struct message *m)
{
    while (!ck_ring_enqueue_spsc_message(&c->ring, c->buffer, m))
        shm_pause();
}

static void get(struct channel *c, struct message *m)
{
    while (!ck_ring_dequeue_spsc_message(&c->ring, c->buffer, m))
        shm_pause();
}

static void server(struct bench_run *run)
{
    struct pair *p = (struct pair *)(void *)run->memory;
    struct message m;
    uint64_t total = (uint64_t)run->warmup_count + run->samples_count;
    for (uint64_t i = 0; i < total; i++) {
        get(&p->request, &m);
        put(&p->reply, &m);
    }
}

static void client(struct bench_run *run)
{
    struct pair *p = (struct pair *)(void *)run->memory;
    struct message m = {{0}};
    uint64_t total = (uint64_t)run->warmup_count + run->samples_count, before = bench_ticks();
    for (uint64_t i = 0; i < total; i++) {
        m.word[0] = i;
        put(&p->request, &m);
        get(&p->reply, &m);
        uint64_t now = bench_ticks();
        if (m.word[0] != i)
            bench_fail(run, "message %llu came out of order", (unsigned long long)i);
        if (i >= run->warmup_count)
            run->ticks[i - run->warmup_count] = (uint32_t)(now - before);
        before = now;
    }
}

static void oneway_send(struct bench_run *run)
{
    struct pair *p = (struct pair *)(void *)run->memory;
    struct message m = {{0}};
    for (uint64_t i = 0; i < run->messages_count + run->warmup_count; i++) {
        m.word[0] = i;
        m.word[7] = ~i;
        put(&p->request, &m);
    }
}

static void oneway_receive(struct bench_run *run)
{
    struct pair *p = (struct pair *)(void *)run->memory;
    struct message m;
    uint64_t before = 0;
    for (uint64_t i = 0; i < run->messages_count + run->warmup_count; i++) {
        get(&p->request, &m);
        if (m.word[0] != i || m.word[7] != ~i)
            bench_fail(run, "message %llu is wrong", (unsigned long long)i);
        if (i + 1 == run->warmup_count)
            before = bench_ticks();
    }
    run->seconds = (double)(bench_ticks() - before) * bench_ns_per_tick() / 1e9;
}

const struct bench_variant ref_ck = {
    .name = "ck_ring",
    .what = "ConcurrencyKit SPSC, 64 B, ping-pong",
    .samples_count = 60000,
    .warmup_count = 5000,
    .prepare = prepare,
    .server = server,
    .client = client,
};

const struct bench_variant ref_ck_oneway = {
    .name = "oneway-ck",
    .what = "ConcurrencyKit SPSC, one way",
    .warmup_count = 20000,
    .messages_count = 2000000,
    .prepare = prepare,
    .server = oneway_send,
    .client = oneway_receive,
};
