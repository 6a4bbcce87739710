/* The CPU backend at its best level, with a clock around each launch. The clock is read on the
 * engine's own thread; figures are read between steps. */
#include "daemon/base/clock.h"
#include "kernels/cpu/cpu.h"
#include "tests/bench/engine/bench_engine.h"

static const struct ops *inner;
static struct timed sums;

static void count_gemm(const struct ops_gemm *a)
{
    sums.matrix_bytes += inner->matrix_bytes(OPS_BF16, a->w.n, a->w.k);
    sums.flops += 2.0 * a->w.n * a->w.k * a->rows_count;
}

static void count_attention(const struct ops_attention *a)
{
    for (uint32_t i = 0; i < a->batch.tokens_count; i++)
        sums.flops += 4.0 * (a->batch.position[i] + 1) * a->heads * a->kv.head_dim;
}

static void count_nothing(const void *a)
{
    (void)a;
}

#define TIMED(name, sum, count)                                                                    \
    static void name##_timed(struct ops_device *device, const struct ops_##name *args)             \
    {                                                                                              \
        uint64_t begin_ns = clock_now_ns();                                                        \
        inner->name(device, args);                                                                 \
        sums.sum += (double)(clock_now_ns() - begin_ns) / NS_PER_S;                                \
        count(args);                                                                               \
    }
TIMED(embed, others_s, count_nothing)
TIMED(norm, others_s, count_nothing)
TIMED(gemm, gemm_s, count_gemm)
TIMED(rope_angles, others_s, count_nothing)
TIMED(qkv, others_s, count_nothing)
TIMED(attention, attention_s, count_attention)
TIMED(gate, others_s, count_nothing)
TIMED(add, others_s, count_nothing)
TIMED(gather, others_s, count_nothing)
TIMED(sample, sample_s, count_nothing)

const struct ops *timed_ops(void)
{
    static struct ops ops;
    inner = cpu_ops(cpu_level_best());
    ops = *inner;
    ops.embed = embed_timed;
    ops.norm = norm_timed;
    ops.gemm = gemm_timed;
    ops.rope_angles = rope_angles_timed;
    ops.qkv = qkv_timed;
    ops.attention = attention_timed;
    ops.gate = gate_timed;
    ops.add = add_timed;
    ops.gather = gather_timed;
    ops.sample = sample_timed;
    return &ops;
}

void timed_reset(void)
{
    sums = (struct timed){0};
}

struct timed timed_get(void)
{
    return sums;
}
