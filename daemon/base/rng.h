/* daemon/base/rng.h — counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel Random
 * Numbers: As Easy as 1, 2, 3", SC 2011), the same stream on CPU and GPU.
 *
 * A number is a function of (seed, branch, position) and nothing else, which is what makes a
 * program's tokens independent of batch, order and restarts. The only file that includes Random123.
 * Thread: any. Fails: never. */
#pragma once
#include <Random123/philox.h>
#include <stdint.h>

static inline uint32_t rng_u32(uint64_t seed, uint32_t branch, uint32_t position)
{
    philox4x32_ctr_t counter = {{position, branch, 0, 0}};
    philox4x32_key_t key = {{(uint32_t)seed, (uint32_t)(seed >> 32)}};
    return philox4x32(counter, key).v[0];
}
