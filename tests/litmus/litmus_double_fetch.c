/* tests/litmus/litmus_double_fetch.c: the record dispatch reads each shared word once, and why that
 * matters.
 *
 * A thread flips op, index and bytes of a slot between values that pass the checks and values that do
 * not. The other runs the dispatch twice over: as the daemon does (ring_rx_take copies, and
 * wire_check_record and the use see the copy), and as a mutant that checks the slot in place and
 * reads it again to use it. Use means: the value that would index a table. The real code must never
 * use a value outside its range; the mutant must do so within MUTANT_SECONDS, otherwise this test
 * could not see the mistake it is there for. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "shm/wire.h"

#define REAL_ROUNDS 1000000u
#define MUTANT_SECONDS 2
#define PROGRAMS 512u
#define ARENA_BYTES 65536u

static _Alignas(64) struct ring_slot slot;
static uint32_t stopping;

static const struct wire_limits limits = {.arena_bytes = ARENA_BYTES,
                                          .prompt_bytes_max = ARENA_BYTES,
                                          .max_tokens_max = 1000,
                                          .programs_count = PROGRAMS,
                                          .vocabulary_count = 1000,
                                          .streams = DYNASOR_STREAM_ALL};

static union wire_record record_good(void)
{
    union wire_record r = {.submit = {.op = WIRE_OP_SUBMIT,
                                      .flags = WIRE_SUBMIT_PAYLOAD,
                                      .streams = DYNASOR_STREAM_TOKENS,
                                      .index = 1,
                                      .program_id = 7,
                                      .max_tokens = 10,
                                      .bytes = 64}};
    return r;
}

static void *run_flipper(void *unused)
{
    union wire_record good = record_good(), bad = record_good();
    (void)unused;
    bad.submit.op = 200;
    bad.submit.index = 0x7fffffff;
    bad.submit.bytes = 0xfffffff0;
    while (shm_load_u32(&stopping) == 0)
        for (int i = 0; i < 4; i++) {
            /* words 0 (op, index) and 3 (max_tokens, bytes), not always together */
            shm_store_u64(&slot.word[0], i & 1 ? bad.word[0] : good.word[0]);
            shm_store_u64(&slot.word[3], i & 2 ? bad.word[3] : good.word[3]);
            for (int j = 0; j < 8; j++)
                shm_pause();
        }
    return NULL;
}

/* What the daemon does with values that were checked; false: it would have gone out of range. */
static bool use(uint32_t op, uint32_t index, uint32_t bytes)
{
    return op >= WIRE_OP_SUBMIT && op <= WIRE_OP_RELEASE && index < PROGRAMS &&
           bytes <= ARENA_BYTES;
}

/* 1: used within range, 0: refused by the check, -1: used out of range. */
static int dispatch_real(void)
{
    struct ring_rx rx;
    union wire_record record;
    struct wire_fault fault;
    ring_rx_init(&rx, &slot, 1, 0);
    ring_rx_take(&rx, record.word);
    if (wire_check_record(&record, &limits, &fault) != WIRE_OK)
        return 0;
    return use(record.op, record.submit.index, record.submit.bytes) ? 1 : -1;
}

/* The mistake: the check and the use each fetch from shared memory, as gcc does by itself for a
 * switch over a plain lvalue. */
static int dispatch_mutant(void)
{
    union wire_record first, second;
    struct wire_fault fault;
    for (int i = 0; i < RING_WORDS; i++)
        first.word[i] = shm_load_u64(&slot.word[i]);
    if (wire_check_record(&first, &limits, &fault) != WIRE_OK)
        return 0;
    for (int i = 0; i < RING_WORDS; i++)
        second.word[i] = shm_load_u64(&slot.word[i]);
    return use(second.op, second.submit.index, second.submit.bytes) ? 1 : -1;
}

static double seconds_now(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t); /* cannot fail for this clock */
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(void)
{
    pthread_t flipper;
    uint64_t count[3] = {0}, tries = 0;
    union wire_record good = record_good();
    int rc = 0;
    memcpy(slot.word, good.word, sizeof slot.word);
    if (pthread_create(&flipper, NULL, run_flipper, NULL) != 0)
        return 1;
    for (uint32_t i = 0; i < REAL_ROUNDS; i++)
        count[dispatch_real() + 1]++;
    double start = seconds_now(), took;
    do {
        for (int i = 0; i < 100 && rc != -1; i++, tries++)
            rc = dispatch_mutant();
        took = seconds_now() - start;
    } while (rc != -1 && took < MUTANT_SECONDS);
    shm_store_u32(&stopping, 1);
    (void)pthread_join(flipper, NULL); /* only fails for a thread that is not ours */
    printf("real code: %llu used, %llu refused, %llu out of range; mutant %s after %llu tries, "
           "%.3f s\n",
           (unsigned long long)count[2], (unsigned long long)count[1], (unsigned long long)count[0],
           rc == -1 ? "caught" : "NOT caught", (unsigned long long)tries, took);
    return count[0] == 0 && rc == -1 ? 0 : 1;
}
