/* tests/fuzz/fuzz_arena.c: takes and gives of the buddy allocator by a byte script. Oracle: a map of
 * who owns each block. No two hold the same one, each is aligned to its size, taken bytes add up,
 * FULL is said only when no free run of that size is left, and all given back merge into one. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "shm/arena.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define BLOCKS 64u
#define HELD_MAX 64u

struct held {
    uint64_t offset;
    uint64_t blocks;
};

struct state {
    struct arena *arena;
    uint64_t block_bytes;
    uint64_t taken;
    size_t held_count;
    struct held held[HELD_MAX];
    uint8_t owned[BLOCKS];
};

static void must(int condition)
{
    if (!condition)
        abort();
}

/* Whether an aligned run of that many blocks is free: what a buddy allocator can always give. */
static int run_free(const struct state *s, uint64_t blocks)
{
    for (uint64_t at = 0; at + blocks <= BLOCKS; at += blocks) {
        uint64_t used = 0;
        for (uint64_t i = 0; i < blocks; i++)
            used += s->owned[at + i];
        if (used == 0)
            return 1;
    }
    return 0;
}

static void take(struct state *s, uint64_t bytes)
{
    uint64_t blocks = 1;
    while (blocks * s->block_bytes < bytes)
        blocks *= 2;
    uint64_t offset = arena_take(s->arena, bytes);
    if (offset == ARENA_FULL) {
        must(blocks > BLOCKS || !run_free(s, blocks));
        return;
    }
    must(offset % (blocks * s->block_bytes) == 0);
    must(offset / s->block_bytes + blocks <= BLOCKS);
    for (uint64_t i = 0; i < blocks; i++)
        must(s->owned[offset / s->block_bytes + i]++ == 0);
    s->taken += blocks * s->block_bytes;
    s->held[s->held_count++] = (struct held){offset, blocks};
}

static void give(struct state *s, size_t which)
{
    struct held h = s->held[which];
    arena_give(s->arena, h.offset);
    memset(s->owned + h.offset / s->block_bytes, 0, h.blocks);
    s->taken -= h.blocks * s->block_bytes;
    s->held[which] = s->held[--s->held_count];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct state s = {0};
    if (size < 1)
        return 0;
    s.block_bytes = (uint64_t)ARENA_BLOCK_BYTES_MIN << data[0] % 8;
    void *memory = malloc(arena_state_bytes(BLOCKS * s.block_bytes, s.block_bytes));
    if (!memory)
        return 0;
    s.arena = arena_init(memory, BLOCKS * s.block_bytes, s.block_bytes);
    for (size_t i = 1; i + 1 < size; i += 2) {
        uint64_t n = data[i + 1];
        if (data[i] % 2 == 0 && s.held_count < HELD_MAX)
            take(&s, 1 + n * (data[i] / 2) * s.block_bytes / 64);
        else if (data[i] % 2 == 1 && s.held_count > 0)
            give(&s, n % s.held_count);
        must(arena_taken_bytes(s.arena) == s.taken);
    }
    while (s.held_count > 0)
        give(&s, 0);
    must(arena_taken_bytes(s.arena) == 0);
    must(arena_take(s.arena, BLOCKS * s.block_bytes) == 0);
    free(memory);
    return 0;
}
