/* tests/unit/test_arena.c: the buddy allocator: sizes at the edges of a power of two, exhaustion,
 * merging, and a long random run against a plain map of who owns which byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "shm/arena.h"

#define BYTES 65536u
#define BLOCK 64u

static struct arena *arena_new(uint64_t bytes, uint64_t block_bytes)
{
    void *memory = malloc(arena_state_bytes(bytes, block_bytes));
    assert_non_null(memory);
    return arena_init(memory, bytes, block_bytes);
}

static void sizes_round_up_to_a_power_of_two_of_blocks(void **state)
{
    const struct {
        uint64_t ask, get;
    } table[] = {{1, 64},       {63, 64},     {64, 64},     {65, 128},    {128, 128},
                 {129, 256},    {4095, 4096}, {4096, 4096}, {4097, 8192}, {BYTES / 2 + 1, BYTES},
                 {BYTES, BYTES}};
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        struct arena *a = arena_new(BYTES, BLOCK);
        uint64_t offset = arena_take(a, table[i].ask);
        assert_int_not_equal(offset, ARENA_FULL);
        assert_int_equal(offset % table[i].get, 0);
        assert_int_equal(arena_taken_bytes(a), table[i].get);
        arena_give(a, offset);
        assert_int_equal(arena_taken_bytes(a), 0);
        free(a);
    }
}

static void more_than_the_arena_is_full_not_an_overflow(void **state)
{
    const uint64_t sizes[] = {BYTES + 1,  BYTES * 2,       1ull << 40,
                              1ull << 63, UINT64_MAX - 63, UINT64_MAX};
    struct arena *a = arena_new(BYTES, BLOCK);
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        assert_int_equal(arena_take(a, sizes[i]), ARENA_FULL);
    assert_int_equal(arena_taken_bytes(a), 0);
    free(a);
}

static void full_arena_merges_back_to_one_block_in_any_order(void **state)
{
    enum { COUNT = BYTES / BLOCK };
    static uint64_t offset[COUNT];
    struct arena *a = arena_new(BYTES, BLOCK);
    (void)state;
    for (size_t step = 1; step < COUNT; step += 2 * 97) { /* odd: visits every block */
        for (size_t i = 0; i < COUNT; i++) {
            offset[i] = arena_take(a, BLOCK);
            assert_int_not_equal(offset[i], ARENA_FULL);
        }
        assert_int_equal(arena_take(a, 1), ARENA_FULL);
        for (size_t i = 0; i < COUNT; i++)
            arena_give(a, offset[i * step % COUNT]);
        assert_int_equal(arena_take(a, BYTES), 0);
        arena_give(a, 0);
    }
    free(a);
}

static void smallest_arena_is_one_block(void **state)
{
    struct arena *a = arena_new(4096, 4096);
    (void)state;
    assert_int_equal(arena_take(a, 1), 0);
    assert_int_equal(arena_take(a, 1), ARENA_FULL);
    arena_give(a, 0);
    assert_int_equal(arena_take(a, 4096), 0);
    free(a);
}

static void random_takes_never_overlap_and_bytes_are_conserved(void **state)
{
    static uint8_t owner[BYTES / BLOCK];
    struct {
        uint64_t offset, bytes;
    } held[255] = {0};
    struct arena *a = arena_new(BYTES, BLOCK);
    uint64_t seed = 12345, taken = 0;
    (void)state;
    memset(owner, 0, sizeof owner);
    for (int round = 0; round < 200000; round++) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        size_t i = (seed >> 33) % 255;
        if (held[i].bytes) {
            for (uint64_t b = 0; b < held[i].bytes / BLOCK; b++) {
                assert_int_equal(owner[held[i].offset / BLOCK + b], i + 1);
                owner[held[i].offset / BLOCK + b] = 0;
            }
            arena_give(a, held[i].offset);
            taken -= held[i].bytes;
            held[i].bytes = 0;
        } else {
            uint64_t ask = 1 + (seed >> 40) % (1u << ((seed >> 20) % 13)), bytes = BLOCK;
            uint64_t offset = arena_take(a, ask);
            while (bytes < ask)
                bytes *= 2;
            if (offset == ARENA_FULL)
                continue;
            assert_true(offset + bytes <= BYTES);
            for (uint64_t b = 0; b < bytes / BLOCK; b++) {
                assert_int_equal(owner[offset / BLOCK + b], 0);
                owner[offset / BLOCK + b] = (uint8_t)(i + 1);
            }
            held[i].offset = offset;
            held[i].bytes = bytes;
            taken += bytes;
        }
        assert_int_equal(arena_taken_bytes(a), taken);
    }
    for (size_t i = 0; i < 255; i++)
        if (held[i].bytes)
            arena_give(a, held[i].offset);
    assert_int_equal(arena_take(a, BYTES), 0);
    free(a);
}

/* Runs arena_give in a child: true when it died there. */
static int dies(struct arena *a, uint64_t offset)
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        (void)close(2); /* the assertion's message is expected */
        arena_give(a, offset);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void giving_what_was_not_taken_is_an_assertion(void **state)
{
    struct arena *a = arena_new(BYTES, BLOCK);
    uint64_t offset = arena_take(a, 256);
    (void)state;
    assert_true(dies(a, offset + 64)); /* in the middle */
    assert_true(dies(a, offset + 1));
    assert_true(dies(a, BYTES));
    assert_true(dies(a, BYTES / 2)); /* free */
    assert_false(dies(a, offset));
    arena_give(a, offset);
    assert_true(dies(a, offset)); /* twice */
    free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_round_up_to_a_power_of_two_of_blocks),
        cmocka_unit_test(more_than_the_arena_is_full_not_an_overflow),
        cmocka_unit_test(full_arena_merges_back_to_one_block_in_any_order),
        cmocka_unit_test(smallest_arena_is_one_block),
        cmocka_unit_test(random_takes_never_overlap_and_bytes_are_conserved),
        cmocka_unit_test(giving_what_was_not_taken_is_an_assertion),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
