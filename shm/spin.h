/* shm/spin.h — how long to spin before sleeping: bounded, and only as long as it pays.
 *
 * The budget doubles when what was waited for came within it and halves when not, down to nothing;
 * every SPIN_PROBE_EVERY-th wait then tries the longest budget again. The longest, because two ends
 * that both sleep at once only ever see each other's wake-up latency: a shorter look would never find
 * the peer that would answer in a microsecond if we were awake. Break-even is what a block and a
 * wake cost; beyond 50 us spinning never paid in our measurements (docs/ARCHITECTURE.md).
 *
 * Owner: one thread. Time: O(1). */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define SPIN_MIN_NS 2000u
#define SPIN_START_NS 20000u
#define SPIN_MAX_NS 50000u
#define SPIN_PROBE_EVERY 16u

struct spin {
    uint32_t budget_ns;   /* 0: sleep at once */
    uint32_t max_ns;      /* 0: never spin */
    uint32_t waits_count; /* since the budget fell to 0 */
};

static inline void spin_init(struct spin *spin, uint32_t max_ns)
{
    spin->max_ns = max_ns < SPIN_MAX_NS ? max_ns : SPIN_MAX_NS;
    spin->budget_ns = spin->max_ns < SPIN_START_NS ? spin->max_ns : SPIN_START_NS;
    spin->waits_count = 0;
}

/* The budget of the wait that starts now. */
static inline uint32_t spin_begin(struct spin *spin)
{
    if (spin->budget_ns == 0 && spin->max_ns != 0 && ++spin->waits_count % SPIN_PROBE_EVERY == 0)
        return spin->max_ns;
    return spin->budget_ns;
}

/* hit: what was waited for came while spinning. */
static inline void spin_end(struct spin *spin, bool hit)
{
    if (hit) {
        uint32_t doubled = spin->budget_ns ? spin->budget_ns * 2 : spin->max_ns;
        spin->budget_ns = doubled < spin->max_ns ? doubled : spin->max_ns;
    } else {
        spin->budget_ns = spin->budget_ns / 2 < SPIN_MIN_NS ? 0 : spin->budget_ns / 2;
    }
}
