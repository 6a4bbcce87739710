/* daemon/base/hash.h — a 128-bit hash of bytes that we hold: keys of tables (XXH3).
 *
 * Not against an adversary who can choose its inputs and gain by a collision: whoever looks a key up
 * compares the bytes as well, or says who is deceived where it cannot. The only file that includes xxhash.
 * Thread: any. Fails: never. */
#pragma once
#define XXH_INLINE_ALL
#include <stddef.h>
#include <stdint.h>
#include <xxhash.h>

struct hash128 {
    uint64_t low;
    uint64_t high;
};

static inline struct hash128 hash_bytes(const void *data, size_t bytes, uint64_t seed)
{
    XXH128_hash_t h = XXH3_128bits_withSeed(data, bytes, seed);
    return (struct hash128){.low = h.low64, .high = h.high64};
}
