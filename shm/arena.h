/* shm/arena.h — buddy allocator that hands out offsets; its bookkeeping lies in memory of the
 * caller's, never in the memory that it manages.
 *
 * Used by the client library for the payload arena in C2D and by the daemon for its prompt pool.
 * Nothing of it is shared: a peer can corrupt what is stored at an offset, never the allocator.
 *
 * Owner: one thread, or the caller's lock. Time: O(log n). Memory: arena_state_bytes().
 * Fails: ARENA_FULL. Invariant: free + taken bytes == arena bytes; two free buddies never remain. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARENA_FULL UINT64_MAX
#define ARENA_BLOCK_BYTES_MIN 64u
#define ARENA_ORDERS_MAX 32u

struct arena; /* opaque, placed in caller's memory of arena_state_bytes() */

/* bytes and block_bytes: powers of two, block_bytes >= 64, bytes / block_bytes <= 2^30. */
size_t arena_state_bytes(uint64_t bytes, uint64_t block_bytes);
struct arena *arena_init(void *state, uint64_t bytes, uint64_t block_bytes);

/* Takes at least bytes (> 0), aligned to its power of two. Returns the offset, or ARENA_FULL. */
uint64_t arena_take(struct arena *arena, uint64_t bytes);

/* Gives back what arena_take() returned; asserts that it was taken. */
void arena_give(struct arena *arena, uint64_t offset);

/* Bytes taken, rounded up to what their blocks occupy. */
uint64_t arena_taken_bytes(const struct arena *arena);
