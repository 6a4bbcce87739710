/* tests/litmus/litmus_bell.c: the two fences of shm/bell.h, tried where a processor's store buffer
 * shows: the outcome that must never be seen is "the sleeper finds the ring empty and the publisher
 * finds no ticket".
 *
 * In each of some hundred thousand rounds both threads start together, with a few random pauses of
 * difference; one raises its need and looks again, the other publishes and looks at the need word.
 * The code is the real bell.h and ring.h; nobody sleeps, so a miss of both is simply counted.
 *
 * -DLITMUS_BUG=1 removes the publisher's fence, 2 the sleeper's, 3 the second look, 4 weakens the
 * fences to acquire and release; test_mutants.sh shows that each is caught.
 *
 *   litmus_bell [rounds] */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shm/atomic.h"

#ifndef LITMUS_BUG
#define LITMUS_BUG 0
#endif

#if LITMUS_BUG
static inline void real_fence(void)
{
    shm_fence_full();
}
#define IN(bug, function) (LITMUS_BUG == (bug) && strcmp(__func__, function) == 0)
#define shm_fence_full()                                                                           \
    (LITMUS_BUG == 4                              ? __atomic_thread_fence(__ATOMIC_ACQ_REL)        \
     : IN(1, "bell_fence") || IN(2, "bell_raise") ? __atomic_signal_fence(__ATOMIC_SEQ_CST)        \
                                                  : real_fence())
#endif

#include "shm/bell.h"
#include "shm/ring.h"

#define SLOTS 64u
#define SPINS_BEFORE_YIELD 2000u

static struct {
    _Alignas(128) struct ring_slot slot[SLOTS];
    _Alignas(128) uint32_t need;
    _Alignas(128) uint64_t at[2][16]; /* round that each thread has reached, a line pair each */
    _Alignas(128) bool found[16];     /* by the sleeper's second look */
    _Alignas(128) bool rang[16];      /* by the publisher */
} shared;

static uint64_t rounds;
static uint64_t missed, both; /* rounds in which neither, or each, noticed the other */

static uint64_t random_next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static void meet(int me, uint64_t round)
{
    uint32_t spins = 0;
    shm_store_release_u64(&shared.at[me][0], round);
    while (shm_load_acquire_u64(&shared.at[1 - me][0]) < round)
        if (++spins % SPINS_BEFORE_YIELD == 0)
            (void)sched_yield(); /* the other may have no core of its own */
}

static void scatter(uint64_t *seed)
{
    for (uint64_t i = random_next(seed) % 24; i > 0; i--)
        __atomic_signal_fence(__ATOMIC_SEQ_CST); /* keeps the loop, costs a cycle */
}

static void *run_sleeper(void *unused)
{
    struct ring_rx rx;
    uint32_t ticket = 0;
    uint64_t seed = 88172645463325252ull, word[RING_WORDS];
    (void)unused;
    ring_rx_init(&rx, shared.slot, SLOTS, 0);
    for (uint64_t round = 1; round <= rounds; round++) {
        meet(0, 2 * round);
        scatter(&seed);
        bell_raise(&shared.need, &ticket);
        shared.found[0] = LITMUS_BUG != 3 && ring_rx_peek(&rx) == RING_READY;
        meet(0, 2 * round + 1);
        bell_lower(&shared.need, &ticket);
        if (ring_rx_peek(&rx) != RING_READY) {
            printf("round %llu: the record is not there\n", (unsigned long long)round);
            exit(1);
        }
        ring_rx_take(&rx, word);
        missed += !shared.found[0] && !shared.rang[0];
        both += shared.found[0] && shared.rang[0];
    }
    return NULL;
}

static void *run_publisher(void *unused)
{
    struct ring_tx tx;
    uint32_t answered = 0;
    uint64_t seed = 362436069362436069ull, word[RING_WORDS] = {0};
    (void)unused;
    ring_tx_init(&tx, shared.slot, SLOTS, 0, 0);
    for (uint64_t round = 1; round <= rounds; round++) {
        meet(1, 2 * round);
        scatter(&seed);
        ring_tx_push(&tx, word);
        bell_fence();
        shared.rang[0] = bell_wanted(&shared.need, &answered);
        meet(1, 2 * round + 1);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t sleeper, publisher;
    rounds = argc > 1 ? strtoull(argv[1], NULL, 10) : 500000;
    if (rounds == 0 || pthread_create(&sleeper, NULL, run_sleeper, NULL) != 0 ||
        pthread_create(&publisher, NULL, run_publisher, NULL) != 0)
        return 1;
    (void)pthread_join(sleeper, NULL); /* only fails for a thread that is not ours */
    (void)pthread_join(publisher, NULL);
    printf("%llu rounds, %llu lost wake-ups, %llu noticed by both\n", (unsigned long long)rounds,
           (unsigned long long)missed, (unsigned long long)both);
    return missed == 0 ? 0 : 1;
}
