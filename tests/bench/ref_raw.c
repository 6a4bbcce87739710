/* The floor: two cache lines, each written by one process and awaited by the other.
 *
 * Where the two lines lie decides which slice of the last-level cache they cross: between one pair
 * and another the round trip differs by 10 %. A ring walks over all slices and meets the average,
 * so the floor moves on, too: PLACE_ROUNDS round trips at a place, other places in each slice. The
 * first round trips at a place fetch the lines from afar and are not counted. */
#include "bench.h"
#include "shm/atomic.h"

#define PLACE_ROUNDS 250u
#define PLACE_WARMUP 6u
#define PLACES_COUNT (BENCH_MEMORY_BYTES / sizeof(struct lines))
#define PLACE_STEP 331u /* odd, so that it comes through all places; not the next page each time */

struct lines { /* 128 bytes apart: the adjacent-line prefetcher pulls lines in pairs */
    uint64_t request;
    uint8_t pad0[120];
    uint64_t reply;
    uint8_t pad1[120];
};
_Static_assert((PLACES_COUNT & (PLACES_COUNT - 1)) == 0, "the step meets every place");

static struct lines *place(const struct bench_run *run, uint32_t number)
{
    struct lines *l = (struct lines *)(void *)run->memory;
    uint32_t first = run->turn * (run->samples_count / PLACE_ROUNDS);
    return &l[(first + number) * PLACE_STEP % PLACES_COUNT];
}

static void server(struct bench_run *run)
{
    for (uint32_t p = 0; p < run->samples_count / PLACE_ROUNDS; p++) {
        struct lines *l = place(run, p);
        for (uint64_t i = 1; i <= PLACE_WARMUP + PLACE_ROUNDS; i++) {
            while (shm_load_acquire_u64(&l->request) != i)
                shm_pause();
            shm_store_release_u64(&l->reply, i);
        }
    }
}

static void client(struct bench_run *run)
{
    uint32_t *sample = run->ticks;
    for (uint32_t p = 0; p < run->samples_count / PLACE_ROUNDS; p++) {
        struct lines *l = place(run, p);
        uint64_t before = bench_ticks();
        for (uint64_t i = 1; i <= PLACE_WARMUP + PLACE_ROUNDS; i++) {
            shm_store_release_u64(&l->request, i);
            while (shm_load_acquire_u64(&l->reply) != i)
                shm_pause();
            uint64_t now = bench_ticks();
            if (i > PLACE_WARMUP)
                *sample++ = (uint32_t)(now - before);
            before = now;
        }
    }
}

const struct bench_variant ref_raw = {
    .name = "raw",
    .what = "raw two-line cache ping-pong",
    .samples_count = 60000,
    .server = server,
    .client = client,
};
