/* tests/unit/test_clock_rng.c: the clock only moves forward and is CLOCK_MONOTONIC; the random
 * numbers are Philox4x32-10: a second implementation, itself shown right by the published vectors,
 * must give the same number for random seeds, branches and positions. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <cmocka.h>

#include "daemon/base/clock.h"
#include "daemon/base/rng.h"

static uint64_t seed = 1;

static uint64_t random_u64(uint64_t *state) /* splitmix64 */
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static void philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t k0 = key[0], k1 = key[1];
    for (int i = 0; i < 4; i++)
        out[i] = counter[i];
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * out[0], b = (uint64_t)0xCD9E8D57u * out[2];
        uint32_t next[4] = {(uint32_t)(b >> 32) ^ out[1] ^ k0, (uint32_t)b,
                            (uint32_t)(a >> 32) ^ out[3] ^ k1, (uint32_t)a};
        for (int i = 0; i < 4; i++)
            out[i] = next[i];
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

static void rng_second_implementation_gives_the_published_vectors(void **state)
{
    /* Random123, kat_vectors: philox4x32 10. */
    static const uint32_t vector[3][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u},
        {~0u, ~0u, ~0u, ~0u, ~0u, ~0u, 0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu},
        {0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u, 0xa4093822u, 0x299f31d0u, 0xd16cfe09u,
         0x94fdccebu, 0x5001e420u, 0x24126ea1u},
    };
    (void)state;
    for (int i = 0; i < 3; i++) {
        uint32_t out[4];
        philox(vector[i], vector[i] + 4, out);
        assert_memory_equal(out, vector[i] + 6, sizeof out);
    }
}

static void rng_is_philox_of_seed_branch_and_position(void **state)
{
    uint64_t random = seed;
    (void)state;
    assert_int_equal(rng_u32(0, 0, 0), 0x6627e8d5u);
    for (int i = 0; i < 10000; i++) {
        uint64_t key = random_u64(&random), at = random_u64(&random);
        uint32_t counter[4] = {(uint32_t)at, (uint32_t)(at >> 32), 0, 0};
        uint32_t keys[2] = {(uint32_t)key, (uint32_t)(key >> 32)};
        uint32_t out[4];
        philox(counter, keys, out);
        assert_int_equal(rng_u32(key, (uint32_t)(at >> 32), (uint32_t)at), out[0]);
    }
}

static void clock_is_the_monotonic_one_in_nanoseconds(void **state)
{
    struct timespec before, after;
    (void)state;
    clock_gettime(CLOCK_MONOTONIC, &before);
    uint64_t now = clock_now_ns();
    clock_gettime(CLOCK_MONOTONIC, &after);
    assert_true(now >= (uint64_t)before.tv_sec * NS_PER_S + (uint64_t)before.tv_nsec);
    assert_true(now <= (uint64_t)after.tv_sec * NS_PER_S + (uint64_t)after.tv_nsec);
}

static void clock_never_goes_back(void **state)
{
    uint64_t last = 0;
    (void)state;
    for (int i = 0; i < 100000; i++) {
        uint64_t now = clock_now_ns();
        assert_true(now >= last);
        last = now;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rng_second_implementation_gives_the_published_vectors),
        cmocka_unit_test(rng_is_philox_of_seed_branch_and_position),
        cmocka_unit_test(clock_is_the_monotonic_one_in_nanoseconds),
        cmocka_unit_test(clock_never_goes_back),
    };
    const char *text = getenv("SEED");
    if (text && *text)
        seed = strtoull(text, NULL, 10);
    printf("SEED=%" PRIu64 "\n", seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
