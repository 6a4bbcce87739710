/* Steps of the whole engine: decoding one and 32 sequences at context 128, a prompt of 512 tokens in
 * one step. Bandwidth and tile peak are measured between them in each repeat, so that a ratio's two
 * sides saw the same machine. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/clock.h"
#include "daemon/base/rng.h"
#include "daemon/engine/engine_model.h"
#include "tests/bench/engine/bench_engine.h"

#define CONTEXT 128u
#define BRANCHES 32u
#define PREFILL 512u
#define CONFIDENCE 20u /* of the signals: mean of the 20 greatest */
#define ROW_PAGES (CONTEXT / OPS_PAGE_TOKENS + 1)
#define KV_BYTES (512ull << 20)

enum kind { KIND_B1, KIND_B32, KIND_PREFILL, KIND_COUNT };
static const struct {
    const char *name;
    uint32_t rows;
    uint32_t tokens;   /* of each row */
    uint32_t position; /* of the first */
    uint32_t steps;    /* of a repeat */
} kinds[KIND_COUNT] = {{"decode, batch 1", 1, 1, CONTEXT, 12},
                       {"decode, batch 32", BRANCHES, 1, CONTEXT, 6},
                       {"prefill 512", 1, PREFILL, 0, 1}};

struct bench {
    struct machine *machine;
    struct engine *engine;
    struct engine_batch *batch;
    uint32_t vocabulary;
    uint32_t turn; /* of random tokens */
    double step_s[KIND_COUNT][BENCH_REPEATS_MAX];
    struct timed timed[KIND_COUNT]; /* of the last step, like the next */
    double last_s[KIND_COUNT];
    double read_bytes_per_s[BENCH_REPEATS_MAX];
    double amx_flops_per_s[BENCH_REPEATS_MAX];
    double signals[BENCH_REPEATS_MAX];
};

static void fill(struct bench *s, uint32_t rows, uint32_t tokens, uint32_t position)
{
    struct engine_batch *b = s->batch;
    b->role = ENGINE_POLICY;
    b->rows_count = rows;
    b->tokens_count = rows * tokens;
    b->copies_count = b->freed_count = b->history_count = b->biases_count = 0;
    uint32_t pages = (position + tokens + OPS_PAGE_TOKENS - 1) / OPS_PAGE_TOKENS;
    for (uint32_t r = 0; r < rows; r++) {
        b->rows[r] = (struct engine_row){.seq = r,
                                         .tokens_first = r * tokens,
                                         .tokens_count = tokens,
                                         .position = position,
                                         .want = ENGINE_WANT_TOKEN,
                                         .sampling = {.top_p = 1,
                                                      .repetition = 1,
                                                      .forced_token = OPS_NONE,
                                                      .confidence_count = CONFIDENCE}};
        for (uint32_t i = 0; i < pages; i++) /* a long prompt has its pages behind all others */
            b->pages[r * b->pages_stride + i] = (tokens > CONTEXT ? BRANCHES : r) * ROW_PAGES + i;
    }
    s->turn++;
    for (uint32_t i = 0; i < b->tokens_count; i++)
        b->tokens[i] = rng_u32(1, s->turn, i) % s->vocabulary;
}

static int step(struct bench *s, double *ret_s)
{
    uint64_t begin_ns = clock_now_ns();
    if (engine_post(s->engine, s->batch, begin_ns) != ENGINE_OK)
        return 1;
    while (!engine_next(s->engine, ENGINE_POLICY, clock_now_ns())) {
        struct pollfd fd = {.fd = engine_fd(s->engine, ENGINE_POLICY), .events = POLLIN};
        (void)poll(&fd, 1, -1); /* interrupted: asked again */
    }
    *ret_s = (double)(clock_now_ns() - begin_ns) / NS_PER_S;
    for (uint32_t r = 0; r < s->batch->rows_count; r++)
        if (s->batch->outputs[r].sampled.numeric) {
            (void)fprintf(stderr, "the logits are not numbers\n");
            return 1;
        }
    return 0;
}

static int open_engine(struct bench *s, const struct bench_options *o)
{
    char message[ENGINE_MESSAGE_BYTES] = "";
    struct engine_config config = {.directory[ENGINE_POLICY] = o->model,
                                   .ranks_count = 1,
                                   .threads_count = machine_threads(s->machine),
                                   .cpu_level = -1,
                                   .rows_max = BRANCHES,
                                   .tokens_max = PREFILL,
                                   .context_tokens = 1024,
                                   .kv_bytes = KV_BYTES,
                                   .dot_layer = -1};
    if (engine_model_open_on(&config, timed_ops(), message, &s->engine) != 0 ||
        engine_batch_new(s->engine, &s->batch) != 0) {
        (void)fprintf(stderr, "%s\n", message[0] ? message : "no memory for a batch");
        return 1;
    }
    struct engine_info info;
    engine_info(s->engine, ENGINE_POLICY, &info);
    s->vocabulary = info.vocabulary;
    if (info.kv_pages < BRANCHES * ROW_PAGES + PREFILL / OPS_PAGE_TOKENS) {
        (void)fprintf(stderr, "%s: %u KV pages are too few\n", o->model, info.kv_pages);
        return 1;
    }
    char text[1024];
    engine_describe(s->engine, text, sizeof text);
    printf("%s\n", text);
    for (uint32_t r = 0; r < BRANCHES; r++) { /* what decoding looks back at */
        double seconds;
        fill(s, 1, CONTEXT, 0);
        for (uint32_t i = 0; i < ROW_PAGES; i++)
            s->batch->pages[i] = r * ROW_PAGES + i;
        if (step(s, &seconds) != 0)
            return 1;
    }
    return 0;
}

/* Median of the steps of one repeat, and its signals' share of a step. */
static int kind_run(struct bench *s, enum kind kind, uint32_t repeat, double *ret_share)
{
    double seconds[16], shares[16];
    for (uint32_t i = 0; i < kinds[kind].steps; i++) {
        fill(s, kinds[kind].rows, kinds[kind].tokens, kinds[kind].position);
        timed_reset();
        if (step(s, &seconds[i]) != 0)
            return 1;
        s->timed[kind] = timed_get();
        s->last_s[kind] = seconds[i];
        shares[i] = s->timed[kind].sample_s / seconds[i];
    }
    s->step_s[kind][repeat] = bench_median(seconds, kinds[kind].steps);
    *ret_share = bench_median(shares, kinds[kind].steps);
    return 0;
}

static int repeat_run(struct bench *s, uint32_t r)
{
    double share[KIND_COUNT];
    s->read_bytes_per_s[r] = machine_read_bytes_per_s(s->machine);
    if (kind_run(s, KIND_B1, r, &share[KIND_B1]) != 0 ||
        kind_run(s, KIND_B32, r, &share[KIND_B32]) != 0)
        return 1;
    s->amx_flops_per_s[r] = machine_amx_flops_per_s(s->machine);
    if (kind_run(s, KIND_PREFILL, r, &share[KIND_PREFILL]) != 0)
        return 1;
    s->signals[r] = share[KIND_B1] > share[KIND_B32] ? share[KIND_B1] : share[KIND_B32];
    double b1 = s->step_s[KIND_B1][r], b32 = s->step_s[KIND_B32][r];
    double prefill = s->step_s[KIND_PREFILL][r];
    printf("repeat %u: read %.1f GB/s, tiles %.2f TFLOPS; batch 1 %.2f ms, batch 32 %.2f ms, "
           "prefill %.0f ms; signals %.2f %% and %.2f %%\n",
           r, s->read_bytes_per_s[r] * 1e-9, s->amx_flops_per_s[r] * 1e-12, b1 * 1e3, b32 * 1e3,
           prefill * 1e3, share[KIND_B1] * 100, share[KIND_B32] * 100);
    return 0;
}

static void own_bars(struct bench *s, uint32_t count)
{
    double bandwidth[BENCH_REPEATS_MAX], ratio[BENCH_REPEATS_MAX], amx[BENCH_REPEATS_MAX];
    for (uint32_t r = 0; r < count; r++) {
        bandwidth[r] =
            (double)s->timed[KIND_B1].matrix_bytes / s->step_s[KIND_B1][r] / s->read_bytes_per_s[r];
        ratio[r] = BRANCHES * s->step_s[KIND_B1][r] / s->step_s[KIND_B32][r];
        amx[r] = s->amx_flops_per_s[r] > 0 ? s->timed[KIND_PREFILL].flops /
                                                 s->step_s[KIND_PREFILL][r] / s->amx_flops_per_s[r]
                                           : 0;
    }
    bars_set(BAR_DECODE_B1_BANDWIDTH, bench_median(bandwidth, count));
    bars_set(BAR_DECODE_B32_OVER_B1, bench_median(ratio, count));
    bars_set(BAR_SIGNALS_SHARE, bench_median(s->signals, count));
    if (s->amx_flops_per_s[0] > 0)
        bars_set(BAR_PREFILL512_AMX, bench_median(amx, count));
    else
        bars_missing(BAR_PREFILL512_AMX, "this machine has no AMX");
}

/* Lines `decode_b1 TOKENS_PER_S` and so on are the peer in bf16; behind `best_` in the fastest of its formats,
 * which is told beside. Lines of other names are not ours. */
static void peer_bars(const struct bench_options *o, const double *tokens_per_s)
{
    static const char *const names[KIND_COUNT] = {"decode_b1", "decode_b32", "prefill512"};
    for (uint32_t k = 0; k < KIND_COUNT; k++)
        bars_missing(BAR_PEER_DECODE_B1 + k, "make peers was not run");
    FILE *file = o->peers ? fopen(o->peers, "re") : NULL;
    if (!file)
        return;
    for (uint32_t k = 0; k < KIND_COUNT; k++)
        bars_missing(BAR_PEER_DECODE_B1 + k, "the peers' result has no such line");
    char line[256], name[64], number[64];
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%63s %63s", name, number) != 2)
            continue;
        double peer = strtod(number, NULL);
        bool best = strncmp(name, "best_", 5) == 0;
        for (uint32_t k = 0; k < KIND_COUNT; k++) {
            if (strcmp(name + (best ? 5 : 0), names[k]) != 0 || !(peer > 0))
                continue;
            printf("%-18s %10.1f tokens/s, the peer %.1f (%s): %.2f\n", kinds[k].name,
                   tokens_per_s[k], peer, best ? "its best format" : "bf16",
                   tokens_per_s[k] / peer);
            if (!best)
                bars_set(BAR_PEER_DECODE_B1 + k, tokens_per_s[k] / peer);
        }
    }
    (void)fclose(file); /* only read */
}

static void report(struct bench *s, const struct bench_options *o)
{
    double tokens_per_s[KIND_COUNT];
    own_bars(s, o->repeats_count);
    printf("\n%-19s %10s %10s | %9s %9s %9s %9s %9s\n", "medians | last step", "step ms",
           "tokens/s", "matrices", "attention", "sample", "others", "between");
    for (uint32_t k = 0; k < KIND_COUNT; k++) {
        const struct timed *t = &s->timed[k];
        double within = t->gemm_s + t->attention_s + t->sample_s + t->others_s;
        double median = bench_median(s->step_s[k], o->repeats_count);
        tokens_per_s[k] = kinds[k].rows * kinds[k].tokens / median;
        printf("%-19s %10.2f %10.1f | %9.2f %9.2f %9.2f %9.2f %9.2f\n", kinds[k].name, median * 1e3,
               tokens_per_s[k], t->gemm_s * 1e3, t->attention_s * 1e3, t->sample_s * 1e3,
               t->others_s * 1e3, (s->last_s[k] - within) * 1e3);
    }
    printf("a step reads %.1f MB of matrices; prefill %.0f GFLOP\n",
           (double)s->timed[KIND_B1].matrix_bytes * 1e-6, s->timed[KIND_PREFILL].flops * 1e-9);
    peer_bars(o, tokens_per_s);
}

int bench_model(const struct bench_options *o)
{
    static struct bench s;
    int failed = machine_new(&s.machine);
    failed = failed ? failed : open_engine(&s, o);
    double share;
    for (enum kind k = 0; k < KIND_COUNT && !failed; k++) /* warm */
        failed = kind_run(&s, k, 0, &share);
    for (uint32_t r = 0; r < o->repeats_count && !failed; r++)
        failed = repeat_run(&s, r);
    if (!failed)
        report(&s, o);
    engine_batch_free(s.batch);
    engine_close(s.engine);
    machine_free(s.machine);
    return failed;
}
