/* tests/unit/test_cpu_pool.c: threads and ranks of the CPU backend. Each chunk is handed out once in
 * each phase of a launch, awake or asleep; idle threads use no processor; ranks get the same bits, which
 * are the sum in rank order. More threads than processors must only be slower. */
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "kernels/cpu/internal.h"
#include "shm/atomic.h"
#include "tests/lib/check.h"

#define THREADS_MAX 4u
#define CHUNKS 37u
#define RANKS_MAX 4u

static struct ops_device *device_new(uint32_t threads_count, uint32_t rank, struct ops_group *group)
{
    struct ops_config config = {.slab_bytes = 1u << 20,
                                .threads_count = threads_count,
                                .cpu_first = OPS_NONE,
                                .rank = rank,
                                .group = group,
                                .rows_max = 1,
                                .vocabulary_max = 1,
                                .k_max = 1};
    struct ops_device *d = NULL;
    CHECK(cpu_ops(CPU_SCALAR)->open(&config, &d) == 0, "open fails");
    return d;
}

/* ---- launches -------------------------------------------------------------------------------- */

struct count {
    uint32_t first[CHUNKS];  /* times that a chunk was handed out before the barrier */
    uint32_t second[CHUNKS]; /* and after it */
    uint32_t early;          /* chunks of the first phase that the second did not see done */
    uint32_t threads[THREADS_MAX];
};

static void count_task(struct ops_device *d, const void *args, uint32_t thread)
{
    struct count *c = *(struct count *const *)args;
    (void)shm_fetch_add_full_u32(&c->threads[thread], 1);
    for (uint32_t i; (i = cpu_chunk_next(d)) < CHUNKS;)
        (void)shm_fetch_add_full_u32(&c->first[i], 1);
    cpu_barrier(d);
    for (uint32_t i; (i = cpu_chunk_next(d)) < CHUNKS;) {
        for (uint32_t j = 0; j < CHUNKS; j++)
            if (shm_load_acquire_u32(&c->first[j]) != 1)
                (void)shm_fetch_add_full_u32(&c->early, 1);
        (void)shm_fetch_add_full_u32(&c->second[i], 1);
    }
}

static void launch_check(struct ops_device *d, uint32_t threads_count)
{
    struct count c = {0}, *args = &c;
    cpu_run(d, count_task, &args);
    for (uint32_t i = 0; i < CHUNKS; i++) {
        CHECK(c.first[i] == 1, "chunk %u was handed out %u times", i, c.first[i]);
        CHECK(c.second[i] == 1, "behind the barrier chunk %u: %u times", i, c.second[i]);
    }
    CHECK(c.early == 0, "the barrier let somebody through");
    for (uint32_t t = 0; t < threads_count; t++)
        CHECK(c.threads[t] == 1, "thread %u ran the task %u times", t, c.threads[t]);
}

static void launches_hand_out_each_chunk_once(void **state)
{
    struct rng rng = {.state = check_number("SEED", 1)};
    (void)state;
    for (uint32_t threads = 1; threads <= THREADS_MAX; threads++) {
        struct ops_device *d = device_new(threads, 0, NULL);
        /* With too few processors each phase costs a turn of the scheduler. */
        uint32_t launches = (int)threads > cpu_count() ? 20 : 2000;
        for (uint32_t i = 0; i < launches; i++) {
            launch_check(d, threads);
            if (i % 16 == 0) /* some find the workers awake, some falling asleep, some asleep */
                sleep_ns(rng_below(&rng, NS_PER_MS));
        }
        cpu_ops(CPU_SCALAR)->close(d);
    }
}

static uint64_t used_ns(void)
{
    struct timespec t;
    CHECK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t) == 0, "no clock");
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static void idle_threads_use_no_processor(void **state)
{
    struct ops_device *d = device_new(THREADS_MAX, 0, NULL);
    (void)state;
    launch_check(d, THREADS_MAX);
    sleep_ns(100 * NS_PER_MS); /* to fall asleep */
    uint64_t before = used_ns();
    sleep_ns(300 * NS_PER_MS);
    uint64_t used = used_ns() - before;
    CHECK(used < 10 * NS_PER_MS, "%u idle threads used %" PRIu64 " us in 300 ms", THREADS_MAX,
          used / 1000);
    launch_check(d, THREADS_MAX); /* and they wake */
    cpu_ops(CPU_SCALAR)->close(d);
}

static void devices_open_and_close_without_a_launch(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 50; i++)
        cpu_ops(CPU_SCALAR)->close(device_new(1 + i % THREADS_MAX, 0, NULL));
}

/* ---- ranks ----------------------------------------------------------------------------------- */

#define ROUNDS 60u
#define COUNT_MAX 1003u
static const uint32_t counts[] = {1, 3, 64, COUNT_MAX};

struct rank {
    struct ops_group *group;
    uint32_t ranks_count;
    uint32_t rank;
};

/* Magnitudes differ, so that another order gives other bits. */
static float rank_value(uint32_t round, uint32_t rank, uint32_t i)
{
    uint32_t mixed = (round * 7919 + rank * 104729 + i) * 2654435761u;
    return (float)(int32_t)mixed * (mixed & 64 ? 0x1p-31f : 0x1p-20f);
}

static void reduce_check(struct ops_device *d, const struct rank *r, uint32_t round)
{
    float *x = cpu_ops(CPU_SCALAR)->slab(d);
    uint32_t count = counts[round % COUNT_OF(counts)];
    for (uint32_t i = 0; i < count; i++)
        x[i] = rank_value(round, r->rank, i);
    struct ops_all_reduce a = {.x = x, .count = count};
    cpu_ops(CPU_SCALAR)->all_reduce(d, &a);
    for (uint32_t i = 0; i < count; i++) {
        float sum = rank_value(round, 0, i);
        for (uint32_t other = 1; other < r->ranks_count; other++)
            sum += rank_value(round, other, i);
        CHECK(!memcmp(&x[i], &sum, sizeof sum), "rank %u of %u: sum %u of round %u", r->rank,
              r->ranks_count, i, round);
    }
}

static void gather_check(struct ops_device *d, const struct rank *r, uint32_t round)
{
    enum { ROWS = 3 };
    uint32_t columns = counts[round % COUNT_OF(counts)];
    float *in = cpu_ops(CPU_SCALAR)->slab(d), *out = in + ROWS * COUNT_MAX;
    for (uint32_t i = 0; i < ROWS * columns; i++)
        in[i] = rank_value(round, r->rank, i);
    struct ops_all_gather a = {.out = out, .in = in, .rows_count = ROWS, .columns = columns};
    cpu_ops(CPU_SCALAR)->all_gather(d, &a);
    for (uint32_t row = 0; row < ROWS; row++)
        for (uint32_t j = 0; j < r->ranks_count * columns; j++)
            CHECK(out[row * r->ranks_count * columns + j] ==
                      rank_value(round, j / columns, row * columns + j % columns),
                  "rank %u of %u: row %u, column %u of round %u", r->rank, r->ranks_count, row, j,
                  round);
}

static void *rank_run(void *argument)
{
    const struct rank *r = argument;
    struct ops_device *d = device_new(1, r->rank, r->group);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        reduce_check(d, r, round);
        gather_check(d, r, round);
    }
    cpu_ops(CPU_SCALAR)->close(d);
    return NULL;
}

static void ranks_get_the_sum_in_rank_order_and_all_columns(void **state)
{
    (void)state;
    for (uint32_t ranks = 1; ranks <= RANKS_MAX; ranks++) {
        struct ops_group *group = NULL;
        struct rank r[RANKS_MAX];
        pthread_t threads[RANKS_MAX];
        CHECK(cpu_ops(CPU_SCALAR)->group_new(ranks, &group) == 0, "no group of %u", ranks);
        for (uint32_t i = 0; i < ranks; i++) {
            r[i] = (struct rank){.group = group, .ranks_count = ranks, .rank = i};
            CHECK(pthread_create(&threads[i], NULL, rank_run, &r[i]) == 0, "no thread");
        }
        for (uint32_t i = 0; i < ranks; i++)
            CHECK(pthread_join(threads[i], NULL) == 0, "join fails");
        cpu_ops(CPU_SCALAR)->group_free(group);
    }
}

/* ---- pages ----------------------------------------------------------------------------------- */

/* Element dimension of token of a page's keys or values, as internal.h lays them out. */
static uint32_t page_at(enum ops_dtype type, uint32_t dim, bool value, uint32_t token,
                        uint32_t dimension)
{
    uint32_t padded = cpu_padded(dim), base = value ? padded * OPS_PAGE_TOKENS : 0;
    if (type == OPS_F32)
        return base + (value ? token * padded + dimension : dimension * OPS_PAGE_TOKENS + token);
    if (!value)
        return token / 16 * padded * 16 + dimension / 2 * 32 + token % 16 * 2 + dimension % 2;
    return base + dimension / 16 * 512 + token / 2 * 32 + dimension % 16 * 2 + token % 2;
}

static bool element_same(const uint8_t *a, const uint8_t *b, uint64_t at, uint64_t width)
{
    return !memcmp(a + at * width, b + at * width, width);
}

static void copy_check(enum ops_dtype type, uint32_t dim)
{
    enum { PAGES = 3, HEADS = 2, FROM = 2, TO = 1 };
    const struct ops *ops = cpu_ops(CPU_SCALAR);
    struct ops_device *d = device_new(1, 0, NULL);
    d->config.activation = type;
    uint64_t page = ops->kv_page_bytes(type, dim), width = cpu_element_bytes(type);
    uint8_t *kv = ops->slab(d), *zero = calloc(1, width);
    CHECK(zero && PAGES * HEADS * page <= d->config.slab_bytes, "too large a page");
    struct ops_kv about = {.data = kv, .pages_count = PAGES, .kv_heads = HEADS, .head_dim = dim};
    for (uint32_t valid = 1; valid <= OPS_PAGE_TOKENS; valid += 5) {
        memset(kv, 0x41, HEADS * page);
        memset(kv + TO * HEADS * page, 0xff, HEADS * page); /* NaN from before */
        for (uint64_t i = 0; i < HEADS * page; i++)
            kv[FROM * HEADS * page + i] = (uint8_t)(i * 31 + 1) & 0x3f;
        struct ops_page_copy one = {.from = FROM, .to = TO, .valid_tokens = valid};
        struct ops_pages_copy a = {.kv = about, .host_copies = &one, .copies_count = 1};
        ops->pages_copy(d, &a);
        for (uint32_t i = 0; i < HEADS * 2 * OPS_PAGE_TOKENS * dim; i++) {
            uint32_t head = i / (2 * OPS_PAGE_TOKENS * dim), token = i / dim % OPS_PAGE_TOKENS;
            bool value = i / (OPS_PAGE_TOKENS * dim) % 2;
            uint32_t at = page_at(type, dim, value, token, i % dim);
            const uint8_t *to = kv + (TO * HEADS + head) * page;
            const uint8_t *from = kv + (FROM * HEADS + head) * page;
            bool good = token < valid ? element_same(to, from, at, width)
                                      : !memcmp(to + at * width, zero, width);
            CHECK(good, "type %d, dim %u, %u valid: head %u, %s of token %u, element %u", type, dim,
                  valid, head, value ? "value" : "key", token, i % dim);
        }
        CHECK(kv[0] == 0x41 && kv[HEADS * page - 1] == 0x41, "another page was written");
    }
    const uint32_t poisoned[] = {TO};
    struct ops_pages_poison p = {.kv = about, .host_pages = poisoned, .pages_count = 1};
    ops->pages_poison(d, &p);
    for (uint64_t i = 0; i < HEADS * page; i++) {
        CHECK(kv[TO * HEADS * page + i] == 0xff, "byte %" PRIu64 " is not poisoned", i);
        CHECK(kv[i] == 0x41 && kv[FROM * HEADS * page + i] != 0xff, "another page is poisoned");
    }
    free(zero);
    ops->close(d);
}

static void page_copies_keep_what_is_valid_and_clear_the_rest(void **state)
{
    (void)state;
    for (enum ops_dtype type = OPS_F32; type <= OPS_BF16; type++) {
        copy_check(type, 64);
        copy_check(type, 80);
        copy_check(type, 256);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(launches_hand_out_each_chunk_once),
        cmocka_unit_test(idle_threads_use_no_processor),
        cmocka_unit_test(devices_open_and_close_without_a_launch),
        cmocka_unit_test(ranks_get_the_sum_in_rank_order_and_all_columns),
        cmocka_unit_test(page_copies_keep_what_is_valid_and_clear_the_rest),
    };
    printf("SEED=%" PRIu64 "\n", check_number("SEED", 1));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
