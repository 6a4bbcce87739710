/* tests/gpu/bench_gpu.c: `make bench-gpu`: steps of a model on a GPU beside what the same GPU does at best in
 * the same run: copies for decoding, matrix products for prompts.
 *
 *   bench-gpu MODEL [PEER]   prints `bar NAME VALUE >= LIMIT ok|short`, names in tests/bench/bars-gpu.txt
 *   bench-gpu --probe        0 where there is a GPU, otherwise 77
 *
 * PEER: what tests/bench/peers/transformers_gpu.py wrote just before, lines `NAME TOKENS_PER_S`; ours over
 * theirs is printed as `ratio NAME VALUE`, or why it is not.
 *
 * Exits 0, 1 if a bar is short, 77 without a GPU. Each number is the median of STEPS steps after WARM. What a
 * decoding step must move: every weight but the embedding once, and every KV page that some row attends to
 * once, however often it is read. What determinism costs: our products beside the fastest that cuBLASLt has for
 * the same shape, in the same run. */
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/engine/engine_model.h"
#include "daemon/model/arch.h"
#include "tests/gpu/backend.h"
#include "tests/lib/check.h"

#define ROWS_MAX 64u
#define PREFILL 512u
#define DECODE_POSITION 1000u
#define STEPS 20u
#define WARM 5u
#define SHARED_PAGES 128u /* 4,096 tokens */
#define ROW_PAGES 34u     /* of its own */
#define KV_BYTES (8ull << 30)

struct bench {
    struct engine *engine;
    struct engine_batch *batch;
    uint32_t vocabulary;
    double weights; /* that a token is multiplied with, the output matrix apart */
    double head;
    double kv_page_bytes; /* of all layers */
    double bytes_per_s, operations_per_s;
    const char *peer; /* path; NULL: none */
    uint32_t turn;
    bool is_short;
};

struct load {
    uint32_t rows_count;
    uint32_t tokens_count; /* of each */
    uint32_t position;
    uint32_t shared_pages;
};

static void batch_fill(struct bench *s, const struct load *l)
{
    struct engine_batch *b = s->batch;
    struct rng rng = {++s->turn};
    b->role = ENGINE_POLICY;
    b->rows_count = l->rows_count;
    b->tokens_count = l->rows_count * l->tokens_count;
    for (uint32_t r = 0; r < l->rows_count; r++) {
        b->rows[r] = (struct engine_row){
            .tokens_first = r * l->tokens_count,
            .tokens_count = l->tokens_count,
            .position = l->position,
            .shared_pages = r ? l->shared_pages : 0,
            .want = ENGINE_WANT_TOKEN,
            .sampling = {.temperature = 1, .top_p = 1, .repetition = 1, .forced_token = OPS_NONE}};
        for (uint32_t p = 0; p < b->pages_stride; p++)
            b->pages[r * b->pages_stride + p] =
                p < l->shared_pages
                    ? p
                    : SHARED_PAGES + r * ROW_PAGES + (p - l->shared_pages) % ROW_PAGES;
    }
    for (uint32_t i = 0; i < b->tokens_count; i++)
        b->tokens[i] = (uint32_t)rng_below(&rng, s->vocabulary);
}

static double step(struct bench *s)
{
    uint64_t begin = now_ns();
    CHECK(engine_post(s->engine, s->batch, begin) == ENGINE_OK, "busy");
    while (!engine_next(s->engine, ENGINE_POLICY, now_ns())) {
        struct pollfd fd = {.fd = engine_fd(s->engine, ENGINE_POLICY), .events = POLLIN};
        CHECK(!engine_failure(s->engine), "%s", engine_failure(s->engine));
        (void)poll(&fd, 1, 1000); /* interrupted: asked again */
    }
    return (double)(now_ns() - begin) / 1e9;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds of a step; and the bytes of KV that one reads. */
static double measure(struct bench *s, const struct load *l, double *ret_kv_bytes)
{
    double times[STEPS];
    for (uint32_t i = 0; i < WARM; i++) {
        batch_fill(s, l);
        (void)step(s); /* not counted */
    }
    uint64_t before = engine_model_kv_bytes_read(s->engine);
    for (uint32_t i = 0; i < STEPS; i++) {
        batch_fill(s, l);
        times[i] = step(s);
    }
    *ret_kv_bytes = (double)(engine_model_kv_bytes_read(s->engine) - before) / STEPS;
    qsort(times, STEPS, sizeof *times, compare);
    return times[STEPS / 2];
}

static void bar(struct bench *s, const char *name, double value, double limit)
{
    printf("bar %s %.3f >= %g %s\n", name, value, limit, value >= limit ? "ok" : "short");
    s->is_short |= value < limit;
}

/* Ours over the peer's, both in tokens a second. */
static void ratio(const struct bench *s, const char *name, double tokens_per_s)
{
    char line[128];
    FILE *file = s->peer ? fopen(s->peer, "re") : NULL;
    size_t length = strlen(name);
    double its = 0;
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, name, length) == 0 && line[length] == ' ')
            its = strtod(line + length, NULL);
    if (its > 0)
        printf("ratio %s %.2f (transformers %.0f tokens/s)\n", name, tokens_per_s / its, its);
    else
        printf("ratio %s not measured: %s\n", name,
               file ? "transformers failed at it" : "transformers was not timed");
    if (file)
        (void)fclose(file); /* only read */
}

/* name: of the load, as the peer has it. */
static void decode(struct bench *s, const char *name, const struct load *l, double limit)
{
    char of_bar[64];
    double kv_read, seconds = measure(s, l, &kv_read);
    uint32_t pages = l->position / OPS_PAGE_TOKENS + 1 - l->shared_pages; /* of a row */
    double kv_bytes = s->kv_page_bytes * (l->shared_pages + l->rows_count * pages);
    double bytes = 2 * (s->weights + s->head) + kv_bytes;
    printf("%s: %u rows, %.2f ms a step, %.0f tokens/s, %.2f GB of KV, read %.2f times\n", name,
           l->rows_count, seconds * 1e3, l->rows_count / seconds, kv_bytes / 1e9,
           kv_read / kv_bytes);
    (void)snprintf(of_bar, sizeof of_bar, "%s_bandwidth", name); /* fits */
    bar(s, of_bar, bytes / seconds / s->bytes_per_s, limit);
    ratio(s, name, l->rows_count / seconds);
}

static void prefill(struct bench *s)
{
    double kv_bytes, seconds = measure(s, &(struct load){1, PREFILL, 0, 0}, &kv_bytes);
    printf("prefill512: %.1f ms, %.0f tokens/s\n", seconds * 1e3, PREFILL / seconds);
    bar(s, "prefill512_matrix",
        2 * (s->weights * PREFILL + s->head) / seconds / s->operations_per_s, 0.3);
    ratio(s, "prefill512", PREFILL / seconds);
}

/* The same decode steps, launched as they come. */
static void eager(struct bench *s)
{
    double kv_bytes;
    uint64_t runs = engine_model_graph_runs(s->engine);
    engine_model_pad(s->engine, false);
    double seconds = measure(s, &(struct load){1, 1, DECODE_POSITION, 0}, &kv_bytes);
    printf("decode_b1 without graphs: %.2f ms a step; %" PRIu64 " steps before it were graphs\n",
           seconds * 1e3, runs);
    engine_model_pad(s->engine, true);
}

/* ---- what determinism costs ------------------------------------------------------------------- */

struct products { /* a device of their own, before the model takes its memory */
    const struct ops *ops;
    struct ops_device *device;
    uint8_t *slab;
};

/* Any values but zeros: those draw less power. */
static void products_open(struct products *p, uint64_t bytes)
{
    enum { PIECE = 4 << 20 };
    uint16_t *piece = malloc(PIECE);
    struct ops_config config = {.slab_bytes = bytes,
                                .activation = OPS_BF16,
                                .rows_max = PREFILL,
                                .vocabulary_max = 1,
                                .k_max = 1u << 16};
    p->ops = gpu_ops(1);
    CHECK(piece && p->ops->open(&config, &p->device) == 0, "no memory for products");
    p->slab = p->ops->slab(p->device);
    for (uint32_t i = 0; i < PIECE / sizeof *piece; i++)
        piece[i] = 0x3c3c; /* as the library's */
    for (uint64_t at = 0; at + PIECE <= bytes; at += PIECE)
        p->ops->copy_in(p->device, p->slab + at, piece, PIECE);
    free(piece);
}

/* Seconds of ours: the least of some runs, as the library's. */
static double product_seconds(const struct products *p, uint32_t rows, uint32_t n, uint32_t k)
{
    enum { RUNS = 5, REPEATS = 10 };
    uint64_t w_bytes = p->ops->matrix_bytes(OPS_BF16, n, k), x_bytes = 2ull * rows * k;
    uint64_t at_x = (w_bytes + 255) / 256 * 256, at_y = at_x + (x_bytes + 255) / 256 * 256;
    struct ops_gemm a = {.y = (float *)(void *)(p->slab + at_y),
                         .x = p->slab + at_x,
                         .w = {.data = p->slab, .n = n, .k = k},
                         .rows_count = rows};
    double least = 1e9;
    for (uint32_t run = 0; run < RUNS; run++) {
        CHECK(p->ops->sync(p->device) == 0, "the device broke");
        uint64_t begin = now_ns();
        for (uint32_t i = 0; i < REPEATS; i++)
            p->ops->gemm(p->device, &a);
        CHECK(p->ops->sync(p->device) == 0, "the device broke");
        double seconds = (double)(now_ns() - begin) / 1e9 / REPEATS;
        least = seconds < least ? seconds : least;
    }
    return least;
}

static void determinism(const struct arch *a)
{
    static const uint32_t rows[] = {1, 8, ROWS_MAX, PREFILL};
    uint32_t heads = a->heads * a->head_dim, both = 2 * a->kv_heads * a->head_dim;
    const struct {
        uint32_t n, k, count; /* of a step */
    } shapes[] = {{heads + both, a->hidden, a->layers},
                  {a->hidden, heads, a->layers},
                  {2 * a->inner, a->hidden, a->layers},
                  {a->hidden, a->inner, a->layers},
                  {a->vocabulary, a->hidden, 1}};
    struct products p;
    products_open(&p, 4ull * a->vocabulary * (a->hidden + PREFILL) + (64u << 20));
    for (uint32_t i = 0; i < COUNT_OF(rows); i++) {
        double ours = 0, theirs = 0;
        const char *why = NULL;
        for (uint32_t j = 0; j < COUNT_OF(shapes) && !why; j++) {
            double own = product_seconds(&p, rows[i], shapes[j].n, shapes[j].k), its = 0;
            why = gpu_measure_library(rows[i], shapes[j].n, shapes[j].k, &its);
            if (!why)
                printf("product %u x %u x %u: %.1f us, cuBLASLt %.1f us\n", rows[i], shapes[j].n,
                       shapes[j].k, own * 1e6, its * 1e6);
            ours += shapes[j].count * own;
            theirs += shapes[j].count * its;
        }
        if (why)
            printf("determinism rows %u: products of a step %.2f ms; not compared: %s\n", rows[i],
                   ours * 1e3, why);
        else
            printf("determinism rows %u: products of a step %.2f ms, by cuBLASLt's fastest %.2f "
                   "ms: it costs %.2f ms, %.2f times\n",
                   rows[i], ours * 1e3, theirs * 1e3, (ours - theirs) * 1e3, ours / theirs);
    }
    p.ops->close(p.device);
}

static void model_open(struct bench *s, const char *directory)
{
    char message[ENGINE_MESSAGE_BYTES] = "";
    struct arch arch;
    struct engine_info info;
    struct engine_config config = {.directory[ENGINE_POLICY] = directory,
                                   .ranks_count = 1,
                                   .rows_max = ROWS_MAX,
                                   .tokens_max = PREFILL,
                                   .context_tokens = (SHARED_PAGES + ROW_PAGES) * OPS_PAGE_TOKENS,
                                   .kv_bytes = KV_BYTES,
                                   .dot_layer = -1};
    CHECK(arch_read(directory, &arch, message) == 0, "%s", message);
    determinism(&arch);
    CHECK(engine_model_open_on(&config, gpu_ops(1), message, &s->engine) == 0, "%s", message);
    CHECK(engine_batch_new(s->engine, &s->batch) == 0, "no memory");
    engine_info(s->engine, ENGINE_POLICY, &info);
    CHECK(info.kv_pages >= SHARED_PAGES + ROWS_MAX * ROW_PAGES, "too few KV pages");
    s->vocabulary = info.vocabulary;
    double attention = (double)(2 * arch.heads + 2 * arch.kv_heads) * arch.head_dim;
    s->weights = (double)arch.layers * arch.hidden * (attention + 3.0 * arch.inner);
    s->head = (double)arch.vocabulary * arch.hidden;
    s->kv_page_bytes = 2.0 * 2 * OPS_PAGE_TOKENS * arch.head_dim * arch.kv_heads * arch.layers;
}

int main(int argc, char **argv)
{
    struct bench s = {0};
    CHECK(argc == 2 || argc == 3, "bench-gpu MODEL [PEER], or --probe");
    if (strcmp(argv[1], "--probe") == 0)
        return gpu_ops(1) ? 0 : 1;
    (void)gpu_ops(1); /* ends here without a GPU */
    gpu_measure(&s.bytes_per_s, &s.operations_per_s);
    printf("this GPU: %.0f GB/s read and written by copies, %.0f TFLOP/s of bf16 products\n",
           s.bytes_per_s / 1e9, s.operations_per_s / 1e12);
    s.peer = argc == 3 ? argv[2] : NULL;
    model_open(&s, argv[1]);
    decode(&s, "decode_b1", &(struct load){1, 1, DECODE_POSITION, 0}, 0.5);
    decode(&s, "decode_b8", &(struct load){8, 1, DECODE_POSITION, 0}, 0.5);
    decode(&s, "decode_b64", &(struct load){64, 1, DECODE_POSITION, 0}, 0.4);
    decode(&s, "shared_prefix_b64",
           &(struct load){64, 1, SHARED_PAGES * OPS_PAGE_TOKENS + 100, SHARED_PAGES}, 0.4);
    eager(&s);
    prefill(&s);
    engine_batch_free(s.batch);
    engine_close(s.engine);
    return s.is_short;
}
