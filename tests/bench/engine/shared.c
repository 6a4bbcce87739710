/* Attention of 32 branches over a common prefix of 2,048 tokens, in all layers of the model's shape:
 * pages held once and said to be shared, beside a copy for each branch. Both read the same values, so
 * both must give the same bits. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/clock.h"
#include "kernels/cpu/cpu.h"
#include "tests/bench/engine/bench_engine.h"

#define LAYERS 22u /* TinyLlama 1.1B, like the next three */
#define HEADS 32u
#define KV_HEADS 4u
#define HEAD_DIM 64u
#define BRANCHES 32u
#define PREFIX_TOKENS 2048u
#define PREFIX_PAGES (PREFIX_TOKENS / OPS_PAGE_TOKENS)
#define ROW_PAGES (PREFIX_PAGES + 1)
#define PAGES (BRANCHES * ROW_PAGES)
#define COPIES 640u
#define ROW_VALUES ((uint64_t)HEADS * HEAD_DIM)

struct variant { /* what the batch says */
    uint32_t pages[PAGES];
    uint32_t shared[BRANCHES];
    uint16_t out[BRANCHES * HEADS * HEAD_DIM];
    double seconds;
    uint64_t kv_bytes;
};

struct bench {
    const struct ops *ops;
    struct ops_device *device;
    uint64_t page_bytes; /* all heads of one layer */
    uint8_t *kv;         /* [LAYERS, PAGES] */
    uint16_t *q;         /* [LAYERS, BRANCHES, HEADS, HEAD_DIM] */
    uint16_t *out;
    uint32_t *numbers; /* position, seq, shared, pages */
    struct variant shared;
    struct variant alone;
};

/* bf16 of -1 .. 1, from a sequence of numbers. */
static uint16_t value_next(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    uint16_t sign = (uint16_t)(*state >> 16 & 0x8000u), low = (uint16_t)(*state >> 12 & 0x7fu);
    uint16_t exponent = (uint16_t)(0x7e - (*state >> 28 & 3u));
    return (uint16_t)(sign | exponent << 7 | low);
}

static int memory_new(struct bench *s)
{
    s->ops = cpu_ops(cpu_level_best());
    s->page_bytes = s->ops->kv_page_bytes(OPS_BF16, HEAD_DIM) * KV_HEADS;
    uint64_t kv_bytes = LAYERS * PAGES * s->page_bytes;
    uint64_t q_bytes = LAYERS * BRANCHES * ROW_VALUES * sizeof *s->q;
    uint64_t out_bytes = BRANCHES * ROW_VALUES * sizeof *s->out;
    struct ops_config config = {.slab_bytes = kv_bytes + q_bytes + out_bytes + (1u << 20),
                                .activation = OPS_BF16,
                                .cpu_first = OPS_NONE,
                                .rows_max = BRANCHES,
                                .vocabulary_max = 64,
                                .k_max = HEADS * HEAD_DIM};
    if (s->ops->open(&config, &s->device) != 0)
        return 1;
    uint8_t *slab = s->ops->slab(s->device);
    s->kv = slab;
    s->q = (uint16_t *)(void *)(slab + kv_bytes);
    s->out = (uint16_t *)(void *)(slab + kv_bytes + q_bytes);
    s->numbers = (uint32_t *)(void *)(slab + kv_bytes + q_bytes + out_bytes);
    uint32_t state = 7;
    for (uint64_t i = 0; i < q_bytes / sizeof *s->q; i++)
        s->q[i] = value_next(&state);
    for (uint32_t l = 0; l < LAYERS; l++) {
        uint8_t *layer = s->kv + (uint64_t)l * PAGES * s->page_bytes;
        uint16_t *first = (uint16_t *)(void *)layer;
        for (uint64_t i = 0; i < ROW_PAGES * s->page_bytes / 2; i++)
            first[i] = value_next(&state);
        for (uint32_t r = 1; r < BRANCHES; r++)
            memcpy(layer + r * ROW_PAGES * s->page_bytes, layer, ROW_PAGES * s->page_bytes);
    }
    for (uint32_t r = 0; r < BRANCHES; r++)
        for (uint32_t i = 0; i < ROW_PAGES; i++) {
            s->alone.pages[r * ROW_PAGES + i] = r * ROW_PAGES + i;
            s->shared.pages[r * ROW_PAGES + i] = i < PREFIX_PAGES ? i : r * ROW_PAGES + i;
            s->shared.shared[r] = r ? PREFIX_PAGES : 0;
        }
    return 0;
}

static void variant_run(struct bench *s, struct variant *v)
{
    uint32_t *position = s->numbers, *seq = position + BRANCHES, *shared = seq + BRANCHES;
    uint32_t *pages = shared + BRANCHES;
    for (uint32_t r = 0; r < BRANCHES; r++) {
        position[r] = PREFIX_TOKENS;
        seq[r] = r;
    }
    memcpy(shared, v->shared, sizeof v->shared);
    memcpy(pages, v->pages, sizeof v->pages);
    struct ops_stats before, after;
    s->ops->stats(s->device, &before);
    uint64_t begin_ns = clock_now_ns();
    for (uint32_t l = 0; l < LAYERS; l++)
        s->ops->attention(s->device, &(struct ops_attention){
                                         .out = s->out,
                                         .q = s->q + l * BRANCHES * ROW_VALUES,
                                         .kv = {.data = s->kv + (uint64_t)l * PAGES * s->page_bytes,
                                                .pages_count = PAGES,
                                                .kv_heads = KV_HEADS,
                                                .head_dim = HEAD_DIM},
                                         .batch = {.tokens_count = BRANCHES,
                                                   .position = position,
                                                   .seq = seq,
                                                   .pages = pages,
                                                   .shared_pages = shared,
                                                   .pages_stride = ROW_PAGES},
                                         .heads = HEADS,
                                         .position_max = PREFIX_TOKENS,
                                         .scale = 0.125f});
    (void)s->ops->sync(s->device); /* of the CPU: nothing can break */
    v->seconds = (double)(clock_now_ns() - begin_ns) / NS_PER_S;
    s->ops->stats(s->device, &after);
    v->kv_bytes = after.kv_bytes_read - before.kv_bytes_read;
    memcpy(v->out, s->out, sizeof v->out);
}

/* What a fork of a branch of 2,000 tokens leaves to the device: its first step copies the page that both
 * go on writing, in every layer. */
static void copies_run(struct bench *s)
{
    static double us[COPIES];
    for (uint32_t i = 0; i < COPIES; i++) {
        struct ops_page_copy copy = {.from = i % BRANCHES * ROW_PAGES,
                                     .to = i % BRANCHES * ROW_PAGES + PREFIX_PAGES,
                                     .valid_tokens = 1999 % OPS_PAGE_TOKENS};
        uint64_t begin_ns = clock_now_ns();
        for (uint32_t l = 0; l < LAYERS; l++)
            s->ops->pages_copy(
                s->device,
                &(struct ops_pages_copy){.kv = {.data = s->kv + (uint64_t)l * PAGES * s->page_bytes,
                                                .pages_count = PAGES,
                                                .kv_heads = KV_HEADS,
                                                .head_dim = HEAD_DIM},
                                         .host_copies = &copy,
                                         .copies_count = 1});
        (void)s->ops->sync(s->device);
        us[i] = (double)(clock_now_ns() - begin_ns) / NS_PER_US;
    }
    printf("first step of a fork: %.0f KiB of the page it shares in part, in %.1f us\n",
           (double)(LAYERS * s->page_bytes) / 1024, bench_median(us, COPIES));
}

int bench_shared(const struct bench_options *o)
{
    static struct bench s;
    double ratio[BENCH_REPEATS_MAX];
    if (memory_new(&s) != 0) {
        (void)fprintf(stderr, "no memory for the KV pages of 32 branches\n");
        return 1;
    }
    variant_run(&s, &s.shared); /* warm */
    for (uint32_t r = 0; r < o->repeats_count; r++) {
        variant_run(&s, &s.alone);
        variant_run(&s, &s.shared);
        ratio[r] = s.alone.seconds / s.shared.seconds;
    }
    uint64_t unique = (PREFIX_PAGES + BRANCHES) * s.page_bytes * LAYERS;
    printf("attention of 32 branches, prefix 2,048, 22 layers: %.2f ms unshared, %.2f ms shared; "
           "%.1f and %.1f MB of KV read\n",
           s.alone.seconds * 1e3, s.shared.seconds * 1e3, (double)s.alone.kv_bytes * 1e-6,
           (double)s.shared.kv_bytes * 1e-6);
    bars_set(BAR_SHARED_PREFIX_ATTENTION, bench_median(ratio, o->repeats_count));
    bars_set(BAR_SHARED_PREFIX_KV_PAGES, (double)s.shared.kv_bytes / (double)unique);
    int differs = memcmp(s.shared.out, s.alone.out, sizeof s.alone.out) != 0;
    if (differs)
        (void)fprintf(stderr, "sharing changes the result of attention\n");
    copies_run(&s);
    s.ops->close(s.device);
    return differs;
}
