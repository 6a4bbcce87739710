/* tests/unit/test_cuda_ranks.c: sums and concatenations over ranks (kernels/cuda/group.cu) by every way of
 * exchanging, over the emulation: copies between ranks that share a device, copies between devices, NCCL. All
 * three must have the bits of one host that adds in the order of ranks, for one value and for more than an
 * exchange takes at a time. And several devices in one thread: each call goes to the device it is meant for,
 * which the emulation checks at every call. SEED from the environment. */
/* timeout: 300 */
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/gpu/emulate/emulated.h"
#include "tests/lib/check.h"

#if EMULATION_OFF
int main(void)
{
    check_skip(EMULATION_SKIPPED);
}
#else

#define RANKS_MAX 4u
#define CHUNK (1u << 20)   /* values of an exchange */
#define MOST (CHUNK + 19u) /* two exchanges, the second of a few */

static uint64_t seed;

struct rank {
    const struct ops *ops;
    struct ops_group *group;
    uint32_t number;
    uint32_t ranks_count;
    uint32_t rows_count, columns;
    float *in, *sums, *gathered;
};

static float *values_new(uint64_t count)
{
    float *values = malloc(count * sizeof *values);
    CHECK(values, "no memory");
    return values;
}

static void *rank_run(void *argument)
{
    struct rank *r = argument;
    uint64_t count = (uint64_t)r->rows_count * r->columns, bytes = count * sizeof(float);
    struct ops_device *d;
    struct ops_config config = {.slab_bytes = bytes * (2 + r->ranks_count) + 4096,
                                .rank = r->number,
                                .group = r->group,
                                .rows_max = 1};
    CHECK(r->ops->open(&config, &d) == 0, "rank %u does not open", r->number);
    float *x = r->ops->slab(d), *in = x + (count + 63) / 64 * 64,
          *all = in + (count + 63) / 64 * 64;
    r->ops->copy_in(d, x, r->in, bytes);
    r->ops->copy_in(d, in, r->in, bytes);
    r->ops->all_reduce(d, &(struct ops_all_reduce){.x = x, .count = count});
    r->ops->all_gather(
        d, &(struct ops_all_gather){
               .out = all, .in = in, .rows_count = r->rows_count, .columns = r->columns});
    r->ops->copy_out(d, r->sums, x, bytes);
    r->ops->copy_out(d, r->gathered, all, bytes * r->ranks_count);
    CHECK(r->ops->sync(d) == 0, "rank %u broke", r->number);
    r->ops->close(d);
    return NULL;
}

static void rank_check(const struct rank *ranks, const struct rank *r)
{
    uint32_t columns = r->columns, count = r->rows_count * columns;
    for (uint32_t i = 0; i < count; i++) {
        float sum = ranks[0].in[i];
        for (uint32_t k = 1; k < r->ranks_count; k++)
            sum += ranks[k].in[i];
        CHECK(memcmp(&r->sums[i], &sum, sizeof sum) == 0, "sum %u of %u on rank %u: %.9g, not %.9g",
              i, count, r->number, (double)r->sums[i], (double)sum);
        for (uint32_t k = 0; k < r->ranks_count; k++) {
            uint64_t at = ((uint64_t)(i / columns) * r->ranks_count + k) * columns + i % columns;
            CHECK(r->gathered[at] == ranks[k].in[i], "value %u of rank %u on rank %u", i, k,
                  r->number);
        }
    }
}

static void group_run(const struct ops *ops, uint32_t ranks_count, uint32_t rows, uint32_t columns)
{
    struct rank ranks[RANKS_MAX];
    pthread_t threads[RANKS_MAX];
    struct ops_group *group;
    struct rng rng = {seed};
    uint64_t count = (uint64_t)rows * columns;
    CHECK(ops->group_new(ranks_count, &group) == 0, "no group");
    for (uint32_t r = 0; r < ranks_count; r++) {
        ranks[r] = (struct rank){.ops = ops,
                                 .group = group,
                                 .number = r,
                                 .ranks_count = ranks_count,
                                 .rows_count = rows,
                                 .columns = columns,
                                 .in = values_new(count),
                                 .sums = values_new(count),
                                 .gathered = values_new(count * ranks_count)};
        for (uint64_t i = 0; i < count; i++) /* sums of which depend on their order */
            ranks[r].in[i] = (float)((double)rng_next(&rng) / 1e18 - 9) * (r % 2 ? 1 : 1e4f);
    }
    for (uint32_t r = 0; r < ranks_count; r++)
        CHECK(pthread_create(&threads[r], NULL, rank_run, &ranks[r]) == 0, "thread");
    for (uint32_t r = 0; r < ranks_count; r++)
        (void)pthread_join(threads[r], NULL); /* it was created just now */
    for (uint32_t r = 0; r < ranks_count; r++)
        rank_check(ranks, &ranks[r]);
    ops->group_free(group);
    for (uint32_t r = 0; r < ranks_count; r++) {
        free(ranks[r].in);
        free(ranks[r].sums);
        free(ranks[r].gathered);
    }
    CHECK(fake_counts().live == 0, "something is left");
}

static const struct way {
    const char *says; /* the backend's name, for the log */
    int devices[RANKS_MAX];
    bool has_nccl;
} ways[] = {{"by copies: they share a GPU", {0, 0, 0, 0}, true},
            {"by copies: no libnccl", {0, 1, 2, 3}, false},
            {"by NCCL", {0, 1, 2, 3}, true},
            {"by NCCL", {2, 0, 3, 1}, true}};

static const struct ops *way_ops(const struct way *way, uint32_t ranks_count)
{
    fake_reset(&(struct fake_config){.seed = seed,
                                     .devices_count = RANKS_MAX,
                                     .shared_bytes_max = 99u << 10,
                                     .has_nccl = way->has_nccl});
    return emulated_ops(ranks_count, way->devices);
}

static void every_exchange_has_the_bits_of_one_host(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < COUNT_OF(ways); i++)
        for (uint32_t ranks = 2; ranks <= RANKS_MAX; ranks++) {
            const struct ops *ops = way_ops(&ways[i], ranks);
            group_run(ops, ranks, 1, 1);
            group_run(ops, ranks, 7, 61);
            CHECK(strstr(ops->name, ways[i].says), "\"%s\" does not say \"%s\"", ops->name,
                  ways[i].says);
        }
}

/* Rows of which many fit an exchange, and rows of which one does. */
static void what_is_more_than_an_exchange_is_cut(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 3; i++)
        group_run(way_ops(&ways[i], 2), 2, i ? 1 : MOST / 61 + 1, i ? CHUNK : 61);
}

/* One thread, two devices; closing one makes it the runtime's current device. */
static void a_thread_has_the_device_that_it_uses(void **state)
{
    static const struct way two = {"", {1, 0, 1, 0}, false};
    struct ops_device *d[2];
    float value = 3, got = 0;
    (void)state;
    const struct ops *ops = way_ops(&two, 2);
    struct ops_config config = {.slab_bytes = 4096, .rows_max = 1};
    for (config.rank = 0; config.rank < 2; config.rank++)
        CHECK(ops->open(&config, &d[config.rank]) == 0, "device %u", config.rank);
    ops->close(d[0]);
    ops->copy_in(d[1], ops->slab(d[1]), &value, sizeof value);
    ops->add(d[1], &(struct ops_add){.to = ops->slab(d[1]), .from = ops->slab(d[1]), .count = 1});
    ops->copy_out(d[1], &got, ops->slab(d[1]), sizeof got);
    CHECK(ops->sync(d[1]) == 0 && got == 6, "%g", (double)got);
    ops->close(d[1]);
    CHECK(fake_counts().live == 0, "something is left");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_exchange_has_the_bits_of_one_host),
        cmocka_unit_test(what_is_more_than_an_exchange_is_cut),
        cmocka_unit_test(a_thread_has_the_device_that_it_uses),
    };
    seed = check_number("SEED", now_ns());
    printf("SEED=%" PRIu64 "\n", seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
