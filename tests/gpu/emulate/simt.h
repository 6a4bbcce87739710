/* tests/gpu/emulate/simt.h — kernels of kernels/cuda on the host. Compiled before each of them (-include),
 * it brings the names that nvcc has built in.
 *
 * A block's threads are coroutines, run in random order from one barrier to the next. Shared memory holds
 * NaN at first. Every access of a kernel to memory is seen (the sources are compiled with -fsanitize=thread
 * against our own callbacks), so it is counted, must lie in memory of the device that runs it, and must not be
 * seen to race: in shared memory with another thread of the block between the same barriers, in the
 * device's with another block of the launch. A barrier that some thread does not reach, an access that
 * races or is outside: the process ends and says so.
 *
 * Not seen: races of one block's threads in device memory; those of a read with a write, where more threads
 * had read than are remembered (one); whatever atomics do. A warp's threads take turns at its collectives only,
 * so code that needs them in step elsewhere may pass.
 *
 * Thread: one at a time; the caller locks. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define SIMT_THREADS_MAX 1024u
#define SIMT_WARP 32u

struct simt_index {
    unsigned x, y, z;
};

struct simt_shape {
    uint32_t grid[2];
    uint32_t block;
    uint32_t shared_bytes;
    int device; /* that runs it: memory of another is out of bounds */
};

struct simt_counts {        /* of device memory, by one launch */
    uint64_t touched_bytes; /* read or written: each byte once for either */
    uint64_t read_bytes;    /* all reads, and writes, however often */
    uint64_t written_bytes;
};

#ifdef __cplusplus
extern "C" {
#endif

extern struct simt_index threadIdx, blockIdx, blockDim, gridDim;

void simt_seed(uint64_t seed);
/* Memory that kernels may touch: one range at a time is enough for us. bytes 0: none. */
void simt_memory_add(void *memory, uint64_t bytes, int device);
void simt_memory_remove(void *memory);
bool simt_memory_has(const void *memory, uint64_t bytes);
void simt_run(const struct simt_shape *shape, void (*call)(const void *, const void *),
              const void *kernel, const void *argument, uint64_t argument_bytes, const char *name,
              struct simt_counts *ret_counts);

/* What kernels call. */
void *gpu_shared(void);
void __syncthreads(void);
uint64_t simt_shuffle(uint64_t own, unsigned lane);
uint32_t simt_ballot(bool own);
uint64_t simt_atomic_add(void *to, uint64_t value, uint32_t bytes);
void simt_atomic_or(uint32_t *to, uint32_t value);
void simt_matrix_multiply(const float *a, const float *b, float *sums); /* 8 elements a lane */
__attribute__((noreturn, format(printf, 1, 2))) void simt_fail(const char *format, ...);

#ifdef __cplusplus
}

#include <cmath>
#include <cstring>
using std::isinf;
using std::isnan;

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)

struct uint4 {
    unsigned x, y, z, w;
};

static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w)
{
    return {x, y, z, w};
}

static inline uint32_t __float_as_uint(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float __uint_as_float(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

template <typename T> static inline T simt_shuffled(T own, unsigned lane)
{
    uint64_t bits = 0;
    memcpy(&bits, &own, sizeof own);
    bits = simt_shuffle(bits, lane);
    memcpy(&own, &bits, sizeof own);
    return own;
}

template <typename T> static inline T __shfl_xor_sync(unsigned, T own, int mask)
{
    return simt_shuffled(own, threadIdx.x % SIMT_WARP ^ (unsigned)mask);
}

template <typename T> static inline T __shfl_sync(unsigned, T own, int lane)
{
    return simt_shuffled(own, (unsigned)lane % SIMT_WARP);
}

template <typename T> static inline T __shfl_up_sync(unsigned, T own, unsigned step)
{
    unsigned lane = threadIdx.x % SIMT_WARP;
    return simt_shuffled(own, lane < step ? lane : lane - step);
}

static inline uint32_t __ballot_sync(unsigned, bool own)
{
    return simt_ballot(own);
}

static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}

template <typename T> static inline T atomicAdd(T *to, T value)
{
    return (T)simt_atomic_add(to, value, sizeof *to);
}

static inline void atomicOr(uint32_t *to, uint32_t value)
{
    simt_atomic_or(to, value);
}

#include "tests/gpu/emulate/matrix.h"
#endif
