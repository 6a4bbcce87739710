/* tests/unit/test_cuda_graphs.c: decode steps as graphs. Two engines of one tiny model do the same steps: one pads
 * them to buckets and runs what it has recorded, the other launches each as it comes. Row counts, lengths, shared
 * pages, options of sampling, forks, the mixture with prompts are drawn at random; every output must have the
 * same bits, so neither the recording nor a padding row changes any. Here over the emulation, where launches are
 * counted too; tests/gpu/test_graphs.c runs the same on a GPU. SEED from the environment. */
/* timeout: 300 */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/engine/engine_model.h"
#include "daemon/engine/impl.h"
#include "daemon/engine/step.h"
#include "tests/gpu/emulate/emulated.h"
#include "tests/lib/check.h"
#include "tests/lib/schedule.h"
#include "tests/lib/tiny.h"

#ifndef ON_GPU
#define ON_GPU 0
#endif

#if EMULATION_OFF && !ON_GPU
int main(void)
{
    check_skip(EMULATION_SKIPPED);
}
#else

#if ON_GPU
const struct ops *graphs_ops(uint32_t ranks_count);
#define ROWS_MAX 37u
#define SEQS 40u
#define STEPS 200u
#else
#define ROWS_MAX 6u /* a row costs the emulation some ten milliseconds */
#define SEQS 7u
#define STEPS 16u
#endif
#define LENGTH_MAX 160u
#define SEQ_PAGES (LENGTH_MAX / OPS_PAGE_TOKENS)
#define BIASES 3u

static uint64_t seed;

struct seq {
    uint32_t tokens[LENGTH_MAX];
    uint32_t tokens_count; /* known */
    uint32_t done;         /* computed, or will be by this step */
    uint32_t ready;        /* computed by those before it */
    uint32_t pages[SEQ_PAGES];
};

struct rig {
    struct engine *padded, *plain;
    struct engine_batch *batch, *twin; /* of padded, of plain */
    struct engine_info info;
    struct rng rng;
    struct seq seqs[SEQS];
    uint32_t page_next; /* of the cache: none is used twice */
    uint32_t decodes;   /* steps that ought to run as graphs */
};

struct options {
    enum tiny_kind kind;
    bool float32;
    uint32_t ranks_count;
};

static struct engine *engine_on(const struct options *o, char *folder)
{
    char message[ENGINE_MESSAGE_BYTES] = "";
    struct engine *engine = NULL;
#if ON_GPU
    const struct ops *ops = graphs_ops(o->ranks_count);
#else
    static const int devices[2] = {0, 0};
    const struct ops *ops = emulated_ops(o->ranks_count, devices);
#endif
    struct engine_config config = {.directory[ENGINE_POLICY] = folder,
                                   .float32 = o->float32,
                                   .ranks_count = o->ranks_count,
                                   .rows_max = ROWS_MAX,
                                   .tokens_max = 128,
                                   .context_tokens = LENGTH_MAX,
                                   .kv_bytes = ON_GPU ? 256u << 20 : 8u << 20,
                                   .dot_layer = 0};
    CHECK(engine_model_open_on(&config, ops, message, &engine) == 0, "%s", message);
    return engine;
}

static void rig_open(struct rig *r, const struct options *o, uint64_t own_seed)
{
    float vector[TINY_HIDDEN];
    *r = (struct rig){.rng = {own_seed}};
    char *folder = tiny_write(o->kind, own_seed);
    r->padded = engine_on(o, folder);
    r->plain = engine_on(o, folder);
    engine_model_pad(r->plain, false);
    CHECK(engine_batch_new(r->padded, &r->batch) == 0, "no memory");
    CHECK(engine_batch_new(r->plain, &r->twin) == 0, "no memory");
    engine_info(r->padded, ENGINE_POLICY, &r->info);
    for (uint32_t i = 0; i < TINY_HIDDEN; i++)
        vector[i] = (float)i - 20;
    engine_dot_vector(r->padded, vector);
    engine_dot_vector(r->plain, vector);
    tiny_remove(folder);
}

static void rig_close(struct rig *r)
{
    engine_batch_free(r->batch);
    engine_batch_free(r->twin);
    engine_close(r->padded);
    engine_close(r->plain);
}

static uint32_t pick(struct rig *r, uint32_t count)
{
    return (uint32_t)rng_below(&r->rng, count);
}

static uint32_t page_take(struct rig *r)
{
    CHECK(r->page_next < r->info.kv_pages, "the cache is too small for this test");
    return r->page_next++;
}

/* A prompt of its own, or another sequence as far as that is computed: whole pages are shared, the last
 * is copied in the step. */
static void seq_start(struct rig *r, uint32_t idx)
{
    struct seq *s = &r->seqs[idx];
    const struct seq *parent = &r->seqs[pick(r, SEQS)];
    if (parent == s || parent->ready == 0 || parent->ready >= LENGTH_MAX / 2 || pick(r, 2)) {
        *s = (struct seq){.tokens_count = 1 + pick(r, 70)};
        for (uint32_t i = 0; i < s->tokens_count; i++)
            s->tokens[i] = pick(r, r->info.vocabulary);
        return;
    }
    uint32_t full = parent->ready / OPS_PAGE_TOKENS, rest = parent->ready % OPS_PAGE_TOKENS;
    *s = *parent;
    s->done = s->ready;
    s->tokens_count = s->done + 1;
    s->tokens[s->done] = pick(r, r->info.vocabulary);
    if (rest == 0)
        return;
    s->pages[full] = page_take(r);
    r->batch->copies[r->batch->copies_count++] = (struct ops_page_copy){
        .from = parent->pages[full], .to = s->pages[full], .valid_tokens = rest};
}

static struct ops_sample_row sampling_of(struct rig *r, const struct seq *s)
{
    struct engine_batch *b = r->batch;
    struct ops_sample_row row = {.temperature = pick(r, 2) ? 0.9f : 0,
                                 .top_p = pick(r, 2) ? 0.9f : 1,
                                 .top_k = pick(r, 3) ? 0 : 20,
                                 .repetition = 1,
                                 .forced_token = pick(r, 6) ? OPS_NONE : pick(r, 50),
                                 .random = (uint32_t)rng_next(&r->rng),
                                 .confidence_count = pick(r, 2) ? 8 : 0};
    if (pick(r, 3) == 0) {
        row.repetition = 1.3f;
        row.frequency = 0.2f;
        row.history_first = b->history_count;
        row.history_count = s->tokens_count;
        row.history_prompt_count = s->tokens_count / 2;
        memcpy(b->history + b->history_count, s->tokens, s->tokens_count * sizeof *s->tokens);
        b->history_count += s->tokens_count;
    }
    if (pick(r, 3) == 0) {
        row.bias_first = b->biases_count;
        row.bias_count = BIASES;
        for (uint32_t i = 0; i < BIASES; i++)
            b->biases[b->biases_count++] =
                (struct ops_bias){.token = pick(r, r->info.vocabulary), .bias = (float)pick(r, 9)};
    }
    return row;
}

static void row_add(struct rig *r, uint32_t idx, uint32_t count)
{
    struct engine_batch *b = r->batch;
    struct seq *s = &r->seqs[idx];
    struct engine_row *row = &b->rows[b->rows_count];
    uint32_t *table = b->pages + (size_t)b->rows_count * b->pages_stride, same = 0;
    uint32_t had = (s->done + OPS_PAGE_TOKENS - 1) / OPS_PAGE_TOKENS;
    uint32_t pages = (s->done + count + OPS_PAGE_TOKENS - 1) / OPS_PAGE_TOKENS;
    while (had < pages)
        b->freed[b->freed_count++] = s->pages[had++] = page_take(r);
    memcpy(table, s->pages, pages * sizeof *table);
    for (uint32_t i = pages; i < b->pages_stride; i++)
        table[i] = OPS_NONE; /* nobody may look there */
    while (b->rows_count && same < pages && table[same] == (table - b->pages_stride)[same])
        same++;
    *row = (struct engine_row){.seq = idx,
                               .tokens_first = b->tokens_count,
                               .tokens_count = count,
                               .position = s->done,
                               .shared_pages = same,
                               .want = ENGINE_WANT_TOKEN | (pick(r, 4) ? 0 : ENGINE_WANT_DOT),
                               .sampling = sampling_of(r, s)};
    memcpy(b->tokens + b->tokens_count, s->tokens + s->done, count * sizeof *b->tokens);
    b->tokens_count += count;
    b->rows_count++;
    s->done += count;
}

/* Starting sequences whole, others by a token. Some wait, so that numbers of rows vary. */
static void batch_fill(struct rig *r, bool starts)
{
    struct engine_batch *b = r->batch;
    uint32_t most = 1 + pick(r, ROWS_MAX);
    b->role = ENGINE_POLICY;
    b->rows_count = b->tokens_count = b->copies_count = b->freed_count = 0;
    b->history_count = b->biases_count = 0;
    for (uint32_t i = 0, first = pick(r, SEQS); i < SEQS && b->rows_count < most; i++) {
        uint32_t idx = (first + i) % SEQS;
        struct seq *s = &r->seqs[idx];
        bool ends = s->tokens_count == 0 || s->done == LENGTH_MAX;
        if (ends && starts)
            seq_start(r, idx);
        uint32_t count = s->tokens_count - s->done;
        if (count && b->tokens_count + count <= 128)
            row_add(r, idx, count);
    }
}

/* Numbers and lists of the twin; its room is the same. */
static void batch_repeat(const struct engine_batch *b, struct engine_batch *t)
{
    t->role = b->role;
    t->rows_count = b->rows_count;
    t->tokens_count = b->tokens_count;
    t->copies_count = b->copies_count;
    t->freed_count = b->freed_count;
    t->history_count = b->history_count;
    t->biases_count = b->biases_count;
    memcpy(t->rows, b->rows, b->rows_count * sizeof *b->rows);
    memcpy(t->tokens, b->tokens, b->tokens_count * sizeof *b->tokens);
    memcpy(t->pages, b->pages, (size_t)b->rows_count * b->pages_stride * sizeof *b->pages);
    memcpy(t->copies, b->copies, b->copies_count * sizeof *b->copies);
    memcpy(t->freed, b->freed, b->freed_count * sizeof *b->freed);
    memcpy(t->history, b->history, b->history_count * sizeof *b->history);
    memcpy(t->biases, b->biases, b->biases_count * sizeof *b->biases);
}

/* Launches that a step made, from the table or from a graph. */
static uint64_t step_run(struct engine *engine, struct engine_batch *batch)
{
    struct fake_counts before = {0}, after = {0};
#if !ON_GPU
    before = fake_counts();
#endif
    schedule_step(engine, batch, NULL);
#if !ON_GPU
    after = fake_counts();
    bool graph = after.replayed > before.replayed;
    CHECK(!graph || after.launches - before.launches <= 2u * TINY_LAYERS * batch->copies_count,
          "a step ran as a graph, and launched more than copies of pages");
#endif
    return after.launches + after.replayed - before.launches - before.replayed;
}

static void step_compare(struct rig *r)
{
    const struct engine_batch *b = r->batch;
    uint64_t runs = engine_model_graph_runs(r->padded);
    bool decodes = b->tokens_count == b->rows_count;
    batch_repeat(b, r->twin);
    uint64_t launches = step_run(r->padded, r->batch), plain = step_run(r->plain, r->twin);
    CHECK(engine_model_graph_runs(r->padded) - runs == decodes, "%u rows of %u tokens: %s",
          b->rows_count, b->tokens_count, decodes ? "no graph ran" : "a graph ran");
    /* Of what hangs on a layer, padded steps have all. */
    CHECK(launches >= plain && launches <= plain + 2, "%" PRIu64 " launches, %" PRIu64 " without",
          launches, plain);
    r->decodes += decodes;
    for (uint32_t i = 0; i < b->rows_count; i++) {
        const struct engine_output *x = &b->outputs[i], *y = &r->twin->outputs[i];
        CHECK(memcmp(x, y, sizeof *x) == 0,
              "row %u of %u: token %u %.9g dot %.9g, without graphs %u %.9g dot %.9g", i,
              b->rows_count, x->sampled.token, (double)x->sampled.log_probability, (double)x->dot,
              y->sampled.token, (double)y->sampled.log_probability, (double)y->dot);
        CHECK(!x->sampled.numeric, "row %u is not a number", i);
        struct seq *s = &r->seqs[b->rows[i].seq];
        s->ready = s->done;
        if (s->tokens_count < LENGTH_MAX)
            s->tokens[s->tokens_count++] = x->sampled.token;
    }
}

static void graphs_equal_launches(const struct options *o, uint64_t own_seed)
{
    struct rig *r = calloc(1, sizeof *r);
    uint64_t begin = now_ns();
    CHECK(r, "no memory");
#if !ON_GPU
    fake_reset(&(struct fake_config){.seed = own_seed,
                                     .devices_count = 1,
                                     .memory_bytes = 1u << 30,
                                     .shared_bytes_max = 99u << 10});
#endif
    rig_open(r, o, own_seed);
    for (uint32_t i = 0; i < STEPS; i++) {
        batch_fill(r, i % 4 == 0);
        if (r->batch->rows_count)
            step_compare(r);
    }
    printf("kind %u, %s, %u rank%s: %u of %u steps as graphs; %.1f s\n", o->kind,
           o->float32 ? "float32" : "bf16", o->ranks_count, o->ranks_count > 1 ? "s" : "",
           r->decodes, STEPS, (double)(now_ns() - begin) / 1e9);
    CHECK(r->decodes >= STEPS / 3, "too few decode steps for this test");
    CHECK(engine_model_graph_runs(r->plain) == 0, "the twin ran graphs");
    rig_close(r);
    free(r);
}

static void graphs_equal_launches_bit_for_bit(void **state)
{
    static const struct options all[] = {{TINY_LLAMA, true, 1},
                                         {TINY_LLAMA, false, 1},
                                         {TINY_GEMMA2, false, 1},
                                         {TINY_LLAMA, false, 2}};
    (void)state;
    for (uint32_t i = 0; i < COUNT_OF(all); i++)
        graphs_equal_launches(&all[i], seed + i);
}

/* ---- buckets ---------------------------------------------------------------------------------- */

static void buckets_rise_and_pad_little(void **state)
{
    (void)state;
    for (uint32_t rows_max = 1; rows_max <= 300; rows_max++) {
        uint32_t before = 0, rows;
        for (uint32_t i = 0; (rows = step_bucket_rows(i, rows_max)) != 0; i++, before = rows) {
            CHECK(i < OPS_GRAPHS_MAX && rows > before && rows <= rows_max, "bucket %u of %u", i,
                  rows_max);
            CHECK(rows - before <= OPS_PAGE_TOKENS, "bucket %u: too much padding", i);
        }
        CHECK(before == (rows_max < 256 ? rows_max : 256), "the last of %u has %u", rows_max,
              before);
    }
    CHECK(step_bucket_rows(0, 0) == 0, "no rows, and a bucket");
}

struct made {
    struct step step;
    struct engine_batch *batch;
};

struct plan { /* what launches are made of */
    uint64_t offsets[8];
    uint32_t counts[4];
};

static struct plan plan_of(const struct step *s)
{
    return (struct plan){{s->tokens, s->positions, s->seqs, s->shared_pages, s->lasts, s->heads,
                          s->samples, s->lists},
                         {s->rows_count, s->tokens_count, s->heads_count, s->samples_count}};
}

/* A decode step of any rows. */
static void made_step(struct made *m, struct rng *rng, uint32_t rows)
{
    struct engine_batch *b = m->batch;
    b->rows_count = b->tokens_count = rows;
    b->history_count = 8 + (uint32_t)rng_below(rng, 100);
    b->biases_count = 10 + (uint32_t)rng_below(rng, 100);
    for (uint32_t r = 0; r < rows; r++)
        b->rows[r] = (struct engine_row){.tokens_first = r,
                                         .tokens_count = 1,
                                         .position = (uint32_t)rng_below(rng, LENGTH_MAX),
                                         .want = ENGINE_WANT_TOKEN,
                                         .sampling = {.history_first = 7, .bias_first = 9}};
    for (uint32_t i = 0; i < rows * b->pages_stride; i++)
        b->pages[i] = i;
    step_build(&m->step, b, true, NULL);
}

static void check_lists(const struct made *m)
{
    const struct step *s = &m->step;
    const struct engine_batch *b = m->batch;
    const uint32_t *lists = (const void *)(s->image + s->lists);
    const uint32_t *seq = (const void *)(s->image + s->seqs);
    const uint32_t *position = (const void *)(s->image + s->positions);
    const struct ops_sample_row *sample = (const void *)(s->image + s->samples);
    for (uint32_t r = 0; r < s->rows_count; r++) {
        if (r >= b->rows_count) {
            CHECK(lists[seq[r]] == s->pad_page && position[r] >= 1 &&
                      position[r] < OPS_PAGE_TOKENS && sample[r].forced_token == OPS_NONE,
                  "padding row %u", r);
            for (uint32_t i = b->rows_count; i < r; i++)
                CHECK(position[i] != position[r], "padding rows %u and %u share a place", i, r);
            continue;
        }
        for (uint32_t i = 0; i <= position[r] / OPS_PAGE_TOKENS; i++)
            CHECK(lists[seq[r] + i] == r * b->pages_stride + i, "row %u, page %u", r, i);
        const uint8_t *bias =
            (const uint8_t *)lists + sample[r].bias_first * sizeof(struct ops_bias);
        CHECK(memcmp(lists + sample[r].history_first, b->history + 7, 4) == 0, "history");
        CHECK(memcmp(bias, b->biases + 9, sizeof(struct ops_bias)) == 0, "biases");
    }
}

static void offsets_are_functions_of_the_bucket(void **state)
{
    struct engine e = {.config = {.rows_max = 256, .tokens_max = 256}};
    struct step_limits limits = {256, 256, SEQ_PAGES, 4096, 4096};
    struct rng rng = {seed};
    struct made m = {0};
    uint8_t *image = aligned_alloc(OPS_ALIGN_BYTES, step_image_bytes(&limits) / 256 * 256 + 256);
    (void)state;
    e.info[ENGINE_POLICY] = (struct engine_info){
        .present = true, .vocabulary = 9, .context_tokens = LENGTH_MAX, .kv_pages = 99};
    CHECK(image && engine_batch_new(&e, &m.batch) == 0, "no memory");
    for (uint32_t i = 0; i < 200; i++) {
        m.batch->history[i] = i;
        m.batch->biases[i] = (struct ops_bias){.token = i};
    }
    step_init(&m.step, image, step_image_bytes(&limits));
    step_pad(&m.step, 250, 1234567);
    for (uint32_t i = 0; i < 500; i++) {
        uint32_t rows = 1 + (uint32_t)rng_below(&rng, 256);
        made_step(&m, &rng, rows);
        check_lists(&m);
        uint32_t bucket = m.step.bucket;
        CHECK((bucket == STEP_EAGER) == (rows > 250), "%u rows", rows);
        if (bucket == STEP_EAGER)
            continue;
        struct plan first = plan_of(&m.step);
        uint32_t least = bucket ? step_bucket_rows(bucket - 1, 250) + 1 : 1;
        CHECK(rows >= least && rows <= m.step.rows_count, "%u rows, bucket %u", rows, bucket);
        made_step(&m, &rng, least + (uint32_t)rng_below(&rng, m.step.rows_count - least + 1));
        struct plan second = plan_of(&m.step);
        CHECK(memcmp(&first, &second, sizeof first) == 0, "steps of bucket %u differ", bucket);
    }
    engine_batch_free(m.batch);
    free(image);
}

/* ---- counts ------------------------------------------------------------------------------------ */

#if !ON_GPU
/* One graph a bucket; with ranks that share a device, one between two exchanges. */
static void graphs_are_few_and_their_memory_is_told(void **state)
{
    char *folder = tiny_write(TINY_LLAMA, 1), text[1024];
    (void)state;
    for (uint32_t ranks = 1; ranks <= 2; ranks++) {
        fake_reset(&(struct fake_config){
            .devices_count = 1, .memory_bytes = 1u << 30, .shared_bytes_max = 99u << 10});
        struct options o = {TINY_LLAMA, false, ranks};
        struct engine *engine = engine_on(&o, folder);
        uint32_t buckets = 0;
        while (step_bucket_rows(buckets, ROWS_MAX))
            buckets++;
        /* Two sums in each layer, and the gathering of logits. */
        uint64_t pieces = ranks == 1 ? 1 : 2 * TINY_LAYERS + 2;
        uint64_t graphs = fake_counts().graphs;
        CHECK(graphs == ranks * buckets * pieces, "%" PRIu64 " graphs", graphs);
        engine_describe(engine, text, sizeof text);
        const char *line = strstr(text, "graphs: ");
        CHECK(line, "\"%s\"", text);
        printf("%.*s\n", (int)strcspn(line, "\n"), line);
        (void)snprintf(text, sizeof text, "%s", line);
        CHECK(ranks > 1 || strstr(text, "graphs: 4, for steps of up to 6 rows, 4 MiB"), "%s", text);
        engine_close(engine);
        CHECK(fake_counts().live == 0, "something is left");
    }
    tiny_remove(folder);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buckets_rise_and_pad_little),
        cmocka_unit_test(offsets_are_functions_of_the_bucket),
#if !ON_GPU
        cmocka_unit_test(graphs_are_few_and_their_memory_is_told),
#endif
        cmocka_unit_test(graphs_equal_launches_bit_for_bit),
    };
#if ON_GPU
    (void)graphs_ops(2); /* ends here without a GPU */
#endif
    seed = check_number("SEED", now_ns());
    printf("SEED=%" PRIu64 "\n", seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
