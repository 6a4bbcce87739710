/* kernels/cpu/internal.h — what the files of the CPU backend share: device, threads, kernels by level.
 *
 * A launch runs one task on every thread of the device's pool, the caller's included, and returns
 * when all are done. Tasks share work by chunk_next(), so that a thread which lost its core holds up
 * one chunk and not a half.
 *
 * Files named *_avx2.c, *_avx512.c, *_amx.c are compiled for that level and called only through
 * struct cpu_kernels; everything else is baseline x86-64. */
#pragma once
#include <string.h>

#include "kernels/cpu/cpu.h"

struct cpu_pool;

/* threads_count includes the caller. cpu_first OPS_NONE: threads are not pinned. */
int cpu_pool_new(uint32_t threads_count, uint32_t cpu_first, struct cpu_pool **ret_pool);
void cpu_pool_free(struct cpu_pool *pool);
uint32_t cpu_pool_threads(const struct cpu_pool *pool);

typedef void cpu_task(struct ops_device *device, const void *args, uint32_t thread);
void cpu_run(struct ops_device *device, cpu_task *task, const void *args);
/* Within a task: the next chunk number, each handed out once in a run; starts at 0. */
uint32_t cpu_chunk_next(struct ops_device *device);
/* Within a task: waits until every thread has come here; the chunk counter starts at 0 again. */
void cpu_barrier(struct ops_device *device);

struct ops_device {
    struct ops_config config;
    const struct cpu_kernels *kernels;
    struct cpu_pool *pool;
    uint8_t *slab;
    uint8_t *packed;   /* activations of a matrix product, repacked */
    uint8_t **scratch; /* [threads] SCRATCH_BYTES, 64-byte aligned, of attention and sampling */
    uint64_t scratch_bytes;
    struct ops_stats stats;
};

/* Layouts. A matrix is padded to a multiple of 32 rows, in bf16 of 32 columns too, by zeros.
 * bf16: [n / 32][k / 32][2][16 pairs of k][16 of n][2 of k]: two AMX B tiles of 1 KiB for each step of
 *       32 in k.
 * f32:  [n / 32][k][32 of n].
 * KV page of one head, head_dim padded to a multiple of 32 by zeros:
 * bf16: K [2 halves of 16 tokens][head_dim / 2][16 tokens][2], then V [head_dim / 16][16 pairs of
 *       tokens][16][2]: both are sequences of B tiles.
 * f32:  K [head_dim][32 tokens], then V [32 tokens][head_dim]. */
static inline uint32_t cpu_padded(uint32_t count)
{
    return (count + 31u) & ~31u;
}

static inline uint64_t cpu_element_bytes(enum ops_dtype activation)
{
    return activation == OPS_F32 ? 4u : 2u;
}

/* To nearest, ties to even; NaN stays one. */
static inline uint16_t cpu_bf16_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

/* One table for each level; a NULL entry is taken from the level below. */
struct cpu_kernels {
    /* gemm_*.c: rows [0, rows) x panel of 32 columns of w. */
    void (*gemm_bf16)(struct ops_device *device, const struct ops_gemm *args, uint32_t thread);
    void (*gemm_f32)(struct ops_device *device, const struct ops_gemm *args, uint32_t thread);
    void (*norm)(struct ops_device *device, const struct ops_norm *args, uint32_t thread);
    void (*qkv)(struct ops_device *device, const struct ops_qkv *args, uint32_t thread);
    void (*attention_bf16)(struct ops_device *device, const struct ops_attention *args,
                           uint32_t thread);
    void (*attention_f32)(struct ops_device *device, const struct ops_attention *args,
                          uint32_t thread);
    void (*attention_full)(struct ops_device *device, const struct ops_attention_full *args,
                           uint32_t thread);
    void (*gate)(struct ops_device *device, const struct ops_gate *args, uint32_t thread);
    void (*add)(struct ops_device *device, const struct ops_add *args, uint32_t thread);
    void (*dot)(struct ops_device *device, const struct ops_dot *args, uint32_t thread);
    void (*row_mean)(struct ops_device *device, const struct ops_row_mean *args, uint32_t thread);
    void (*softcap)(struct ops_device *device, const struct ops_softcap *args, uint32_t thread);
    void (*sample)(struct ops_device *device, const struct ops_sample *args, uint32_t thread);
};
extern const struct cpu_kernels cpu_kernels_scalar;
extern const struct cpu_kernels cpu_kernels_avx2;
extern const struct cpu_kernels cpu_kernels_avx512;
extern const struct cpu_kernels cpu_kernels_amx;
