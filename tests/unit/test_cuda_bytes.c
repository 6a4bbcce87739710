/* tests/unit/test_cuda_bytes.c: every operation of the CUDA backend moves as many bytes as its formula, which
 * stands beside its launch, says: the emulation sees each access of a kernel, and counts a byte once for
 * reading and once for writing. A page that a gang shares is read once a block of queries, no oftener. And the
 * host's share of a step of 256 branches of 2,000 tokens, over a fake that computes nothing: what the control
 * thread takes to plan a step behind one that is in flight, build its image, collect that one and read its
 * results, and what a rank takes to build an image, copy it to the device and launch 32 layers one by one (a graph
 * takes one call). Medians of the processor's
 * time, not of the clock: other programs may run. */
/* serial */
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "daemon/engine/impl.h"
#include "daemon/engine/engine_model.h"
#include "daemon/engine/step.h"
#include "daemon/sched/sched.h"
#include "tests/gpu/emulate/emulated.h"
#include "tests/lib/ground.h"
#include "tests/lib/tiny.h"

#if EMULATION_OFF
int main(void)
{
    check_skip(EMULATION_SKIPPED);
}
#else

#define ROWS 8u
#define COLUMNS 256u
#define DIM 64u
#define HEADS 4u
#define KV_HEADS 2u
#define VOCABULARY 1000u

static uint32_t wrong_count, checked_count;
static uint64_t slack_bytes,
    lack_bytes;                  /* of what the next launch may touch beyond its formula, or not */
static const uint64_t *kv_bytes; /* of attention: pages are counted by the kernel */

static void launched(const struct cuda_launch *launch, const struct simt_counts *counts)
{
    uint64_t bytes = launch->bytes + (kv_bytes ? *kv_bytes : 0);
    bool kept =
        counts->touched_bytes + lack_bytes >= bytes && counts->touched_bytes <= bytes + slack_bytes;
    checked_count++;
    if (kept)
        return;
    wrong_count++;
    printf("%s: touched %" PRIu64 " bytes, its formula says %" PRIu64 "\n", launch->name,
           counts->touched_bytes, bytes);
}

static void done(struct ground *g)
{
    CHECK(g->ops->sync(g->device) == 0, "sync");
    slack_bytes = lack_bytes = 0;
}

static uint32_t *put_counting(struct ground *g, uint32_t count, uint32_t first, uint32_t step)
{
    uint32_t values[VOCABULARY];
    for (uint32_t i = 0; i < count; i++)
        values[i] = first + i * step;
    return ground_put(g, values, count * sizeof *values);
}

static float *zeros(struct ground *g, uint64_t count)
{
    return ground_take_filled(g, count * sizeof(float), 0);
}

static struct ops_matrix matrix_of(struct ground *g, uint32_t n, uint32_t k)
{
    struct ops_matrix m = {.data =
                               ground_take_filled(g, g->ops->matrix_bytes(g->activation, n, k), 0),
                           .n = n,
                           .k = k};
    return m;
}

static void rows_case(struct ground *g)
{
    const struct ops *o = g->ops;
    uint64_t all = (uint64_t)ROWS * COLUMNS;
    float *in = zeros(g, 2 * all), *out = zeros(g, 2 * all), *vector = zeros(g, COLUMNS);
    void *act = ground_take(g, 4 * all);
    uint32_t *ids = put_counting(g, ROWS, 1, 2);
    o->embed(g->device, &(struct ops_embed){.out = out,
                                            .table = matrix_of(g, 40, COLUMNS),
                                            .token = ids,
                                            .tokens_count = ROWS,
                                            .scale = 1});
    for (uint32_t kind = 0; kind < 2; kind++)
        o->norm(g->device, &(struct ops_norm){.out = act,
                                              .out_f32 = kind ? out : NULL,
                                              .add_to = kind ? zeros(g, all) : NULL,
                                              .in = in,
                                              .weight = vector,
                                              .bias = kind ? zeros(g, COLUMNS) : NULL,
                                              .rows_count = ROWS,
                                              .columns = COLUMNS,
                                              .kind = kind});
    o->dot(g->device,
           &(struct ops_dot){
               .out = out, .in = in, .vector = vector, .rows_count = ROWS, .columns = COLUMNS});
    o->row_mean(g->device, &(struct ops_row_mean){
                               .out = out, .in = in, .rows_count = ROWS, .columns = COLUMNS});
    o->gather(g->device, &(struct ops_gather){.out = out,
                                              .in = in,
                                              .row = put_counting(g, ROWS, 0, 1),
                                              .rows_count = ROWS,
                                              .columns = COLUMNS});
    o->pool(g->device, &(struct ops_pool){.sum = out,
                                          .in = in,
                                          .slot = put_counting(g, ROWS, 0, 1),
                                          .first = put_counting(g, ROWS, 0, 0),
                                          .rows_count = ROWS,
                                          .columns = COLUMNS});
    o->rope_angles(g->device, &(struct ops_rope_angles){.cosine = out,
                                                        .sine = out + all,
                                                        .position = ids,
                                                        .inverse_frequency = vector,
                                                        .tokens_count = ROWS,
                                                        .pairs_count = DIM / 2});
    for (uint32_t gated = 0; gated < 2; gated++)
        o->gate(g->device,
                &(struct ops_gate){
                    .out = act, .in = in, .rows_count = ROWS, .columns = COLUMNS, .gated = gated});
    o->add(g->device, &(struct ops_add){.to = out, .from = in, .count = all});
    o->softcap(g->device, &(struct ops_softcap){.x = out, .count = all, .cap = 1});
    o->attention_full(g->device,
                      &(struct ops_attention_full){.out = act,
                                                   .qkv = zeros(g, 3 * all),
                                                   .row_first = put_counting(g, ROWS, 0, 0),
                                                   .row_count = put_counting(g, ROWS, ROWS, 0),
                                                   .tokens_count = ROWS,
                                                   .heads = COLUMNS / DIM,
                                                   .head_dim = DIM,
                                                   .scale = 1});
    done(g);
}

static void matrix_case(struct ground *g)
{
    static float source[33 * COLUMNS];
    struct ops_matrix m = matrix_of(g, 33, COLUMNS);
    struct ops_load load = {.matrix = m,
                            .rows_count = 33,
                            .host_source = source,
                            .source_dtype = OPS_F32,
                            .source_stride = COLUMNS};
    CHECK(g->ops->load(g->device, &load) == 0, "load");
    for (uint32_t bias = 0; bias < 2; bias++)
        g->ops->gemm(g->device, &(struct ops_gemm){.y = zeros(g, ROWS * 33),
                                                   .x = ground_take(g, ROWS * COLUMNS * 4ull),
                                                   .w = m,
                                                   .bias = bias ? zeros(g, 33) : NULL,
                                                   .rows_count = ROWS,
                                                   .accumulate = bias});
    done(g);
}

static void attention_case(struct ground *g)
{
    const struct ops *o = g->ops;
    uint64_t page = o->kv_page_bytes(g->activation, DIM) * KV_HEADS;
    struct ops_kv kv = {.data = ground_take_filled(g, page * 32, 0),
                        .pages_count = 32,
                        .kv_heads = KV_HEADS,
                        .head_dim = DIM};
    struct ops_batch batch = {.tokens_count = ROWS,
                              .position = put_counting(g, ROWS, 40, 1),
                              .seq = put_counting(g, ROWS, 0, 1),
                              .shared_pages = put_counting(g, ROWS, 0, 0),
                              .pages = put_counting(g, 2 * ROWS, 0, 1),
                              .pages_stride = 2};
    o->qkv(g->device, &(struct ops_qkv){.q = ground_take(g, ROWS * HEADS * DIM * 4ull),
                                        .qkv = zeros(g, ROWS * (HEADS + 2 * KV_HEADS) * DIM),
                                        .cosine = zeros(g, ROWS * DIM / 2),
                                        .sine = zeros(g, ROWS * DIM / 2),
                                        .kv = kv,
                                        .batch = batch,
                                        .heads = HEADS,
                                        .rotary_dim = DIM});
    done(g);
    /* Two pages of each row; tables beside the formula. */
    uint64_t pages_bytes = 2 * ROWS * page;
    kv_bytes = &pages_bytes;
    slack_bytes = 4 * (3 * ROWS + 2 * ROWS);
    o->attention(g->device,
                 &(struct ops_attention){.out = ground_take(g, ROWS * HEADS * DIM * 4ull),
                                         .q = ground_take(g, ROWS * HEADS * DIM * 4ull),
                                         .kv = kv,
                                         .batch = batch,
                                         .heads = HEADS,
                                         .position_max = 47,
                                         .scale = 1});
    done(g);
    kv_bytes = NULL;
    struct ops_page_copy copies[2] = {{0, 20, 32}, {1, 21, 7}};
    o->pages_copy(g->device,
                  &(struct ops_pages_copy){.kv = kv, .host_copies = copies, .copies_count = 2});
    done(g);
    uint32_t poisoned[3] = {4, 9, 17};
    uint64_t filled = fake_counts().filled_bytes;
    o->pages_poison(g->device,
                    &(struct ops_pages_poison){.kv = kv, .host_pages = poisoned, .pages_count = 3});
    filled = fake_counts().filled_bytes - filled;
    checked_count++;
    wrong_count += filled != 3 * page;
}

/* Greedy, without options: the row once. Not every field of a row's options is looked at. */
static void sample_case(struct ground *g)
{
    struct ops_sample_row rows[ROWS];
    for (uint32_t i = 0; i < ROWS; i++)
        rows[i] = (struct ops_sample_row){.top_p = 1, .repetition = 1, .forced_token = OPS_NONE};
    struct ops_sample a = {.out = ground_take(g, ROWS * sizeof *a.out),
                           .logits = zeros(g, ROWS * VOCABULARY),
                           .rows = ground_put(g, rows, sizeof rows),
                           .rows_count = ROWS,
                           .vocabulary = VOCABULARY};
    lack_bytes = ROWS * (sizeof *rows);
    g->ops->sample(g->device, &a);
    done(g);
}

/* ---- ranks: their launches come behind exchanges ---------------------------------------------- */

#define RANKS 2u
#define SUMS 1000u

struct rank {
    const struct ops *ops;
    struct ops_group *group;
    uint32_t number;
};

static void *rank_run(void *argument)
{
    struct rank *r = argument;
    struct ops_device *d;
    struct ops_config config = {
        .slab_bytes = 1u << 20, .rank = r->number, .group = r->group, .rows_max = 1};
    CHECK(r->ops->open(&config, &d) == 0, "rank %u", r->number);
    float *x = r->ops->slab(d);
    r->ops->all_reduce(d, &(struct ops_all_reduce){.x = x, .count = SUMS});
    r->ops->all_gather(d, &(struct ops_all_gather){
                              .out = x + 4096, .in = x, .rows_count = 10, .columns = SUMS / 10});
    CHECK(r->ops->sync(d) == 0, "rank %u broke", r->number);
    r->ops->close(d);
    return NULL;
}

static void ranks_case(void)
{
    static const int devices[RANKS] = {0, 0};
    struct rank ranks[RANKS];
    pthread_t threads[RANKS];
    struct ops_group *group;
    fake_reset(&(struct fake_config){
        .devices_count = 1, .shared_bytes_max = 99u << 10, .launched = launched});
    const struct ops *ops = emulated_ops(RANKS, devices);
    uint32_t checked = checked_count;
    CHECK(ops->group_new(RANKS, &group) == 0, "group");
    for (uint32_t r = 0; r < RANKS; r++) {
        ranks[r] = (struct rank){ops, group, r};
        CHECK(pthread_create(&threads[r], NULL, rank_run, &ranks[r]) == 0, "thread");
    }
    for (uint32_t r = 0; r < RANKS; r++)
        (void)pthread_join(threads[r], NULL); /* it was created just now */
    ops->group_free(group);
    CHECK(checked_count == checked + 2 * RANKS, "%u launches of ranks", checked_count - checked);
}

/* ---- what gangs share ------------------------------------------------------------------------- */

/* Rows of a gang have the first pages in common and one each of their own, with the last token in it. */
static void gang_case(struct ground *g, uint32_t rows, uint32_t heads, uint32_t dim)
{
    enum { SHARED = 3 };
    uint64_t page = g->ops->kv_page_bytes(g->activation, dim) * KV_HEADS;
    uint64_t width = 4ull * rows * heads * dim;
    uint32_t table[GROUND_ROWS_MAX / 4 * (SHARED + 1)];
    struct ops_stats before, after;
    g->used = 0;
    for (uint32_t i = 0; i < rows; i++)
        for (uint32_t p = 0; p <= SHARED; p++)
            table[i * (SHARED + 1) + p] = p < SHARED ? p : SHARED + i;
    uint32_t *shared = put_counting(g, rows, SHARED, 0), none = 0;
    g->ops->copy_in(g->device, shared, &none, sizeof none);
    struct ops_attention a = {
        .out = ground_take(g, width),
        .q = ground_take_filled(g, width, 0),
        .kv = {.data = ground_take_filled(g, page * (SHARED + rows), 0),
               .pages_count = SHARED + rows,
               .kv_heads = KV_HEADS,
               .head_dim = dim},
        .batch = {.tokens_count = rows,
                  .position = put_counting(g, rows, SHARED * OPS_PAGE_TOKENS, 0),
                  .seq = put_counting(g, rows, 0, 1),
                  .shared_pages = shared,
                  .pages = ground_put(g, table, 4ull * rows * (SHARED + 1)),
                  .pages_stride = SHARED + 1},
        .heads = heads,
        .position_max = SHARED * OPS_PAGE_TOKENS,
        .scale = 1};
    g->ops->stats(g->device, &before);
    g->ops->attention(g->device, &a);
    CHECK(g->ops->sync(g->device) == 0, "attention broke");
    g->ops->stats(g->device, &after);
    uint64_t read = (after.kv_bytes_read - before.kv_bytes_read) / page;
    uint32_t of_block = (dim > 128 ? 32 : 64) / (heads / KV_HEADS);
    uint64_t wanted = (uint64_t)(rows + of_block - 1) / of_block * SHARED + rows;
    CHECK(read == wanted, "%u rows of %u heads of %u: %" PRIu64 " pages read, not %" PRIu64, rows,
          heads, dim, read, wanted);
}

static void shared_pages_are_read_once_a_block(void **state)
{
    static const int device[1] = {0};
    static const uint32_t cases[][3] = {/* rows, heads, head_dim */
                                        {16, 8, 32}, {17, 8, 32},  {100, 8, 16}, {64, 2, 16},
                                        {65, 2, 16}, {40, 2, 256}, {33, 16, 40}};
    (void)state;
    fake_reset(&(struct fake_config){.devices_count = 1, .shared_bytes_max = 99u << 10});
    struct ground g = ground_open(emulated_ops(1, device), OPS_BF16, 1);
    for (uint32_t i = 0; i < COUNT_OF(cases); i++)
        gang_case(&g, cases[i][0], cases[i][1], cases[i][2]);
    ground_close(&g);
}

static void operations_move_what_their_formulas_say(void **state)
{
    static const int device[1] = {0};
    (void)state;
    for (uint32_t f32 = 0; f32 < 2; f32++) {
        fake_reset(&(struct fake_config){
            .devices_count = 1, .shared_bytes_max = 99u << 10, .launched = launched});
        struct ground g = ground_open(emulated_ops(1, device), f32 ? OPS_F32 : OPS_BF16, 1);
        rows_case(&g);
        matrix_case(&g);
        attention_case(&g);
        sample_case(&g);
        ground_close(&g);
    }
    ranks_case();
    printf("bar counted_bytes_wrong %u <= 0 %s\n", wrong_count, wrong_count ? "short" : "ok");
    CHECK(wrong_count == 0 && checked_count > 30, "%u of %u launches", wrong_count, checked_count);
}

/* ---- loading ---------------------------------------------------------------------------------- */

/* More than both stages hold, several times: none is filled again before it was read. Bytes of the rows
 * are what is expected, as the activation type is the source's. */
static void a_large_matrix_goes_through_both_stages(void **state)
{
    static const int device[1] = {0};
    uint32_t n = 2100, k = 1024;
    uint64_t count = (uint64_t)n * k;
    float *from = malloc(count * sizeof *from), *to = malloc(count * sizeof *to);
    struct rng rng = {now_ns()};
    (void)state;
    CHECK(from && to, "no memory");
    fake_reset(&(struct fake_config){
        .seed = rng.state, .devices_count = 1, .shared_bytes_max = 99u << 10});
    struct ground g = ground_open(emulated_ops(1, device), OPS_F32, 1);
    for (uint64_t i = 0; i < count; i++)
        from[i] = draw_float(&rng);
    struct ops_load load = {.matrix = matrix_of(&g, n, k),
                            .rows_count = n,
                            .host_source = from,
                            .source_dtype = OPS_F32,
                            .source_stride = k};
    CHECK(g.ops->load(g.device, &load) == 0, "load");
    g.ops->copy_out(g.device, to, load.matrix.data, count * sizeof *to);
    CHECK(memcmp(from, to, count * sizeof *to) == 0, "other values arrived");
    ground_close(&g);
    free(from);
    free(to);
}

/* ---- the host's share of a step --------------------------------------------------------------- */

#define BRANCHES 256u
#define LAYERS 32u
#define STEMS 8u
#define CONTEXT 4096u
#define POSITION 2000u
#define STEP_SLAB_BYTES (16u << 20)
#define LAUNCHES 501u

/* This thread's, of the processor. */
static uint64_t own_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now); /* cannot fail for this clock */
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static void bar_median(const char *name, uint64_t *times, uint32_t count)
{
    uint64_t median = percentile(times, count, 500);
    printf("bar %s %.1f <= 50 %s\n", name, (double)median / 1e3, median <= 50000 ? "ok" : "short");
    printf("%s: %.1f to %.1f, a tenth above %.1f\n", name, (double)times[0] / 1e3,
           (double)times[count - 1] / 1e3, (double)percentile(times, count, 900) / 1e3);
    CHECK(median <= 50000, "above");
}

/* What the scheduler hands over: branches of eight prompts, which share all but their last pages. */
static struct engine_batch *batch_of_branches(void)
{
    struct engine e = {.config = {.rows_max = BRANCHES, .tokens_max = 2 * BRANCHES}};
    struct engine_batch *b;
    e.info[ENGINE_POLICY] = (struct engine_info){
        .present = true, .vocabulary = VOCABULARY, .context_tokens = CONTEXT, .kv_pages = 8192};
    CHECK(engine_batch_new(&e, &b) == 0, "no memory");
    b->role = ENGINE_POLICY;
    b->rows_count = b->tokens_count = BRANCHES;
    for (uint32_t i = 0; i < BRANCHES; i++) {
        uint32_t pages = POSITION / OPS_PAGE_TOKENS, stem = i * STEMS / BRANCHES;
        b->rows[i] = (struct engine_row){
            .tokens_first = i,
            .tokens_count = 1,
            .position = POSITION + i % OPS_PAGE_TOKENS,
            .shared_pages = i % (BRANCHES / STEMS) ? pages : 0,
            .want = ENGINE_WANT_TOKEN,
            .sampling = {.temperature = 1, .top_p = 1, .repetition = 1, .forced_token = OPS_NONE}};
        for (uint32_t p = 0; p < b->pages_stride; p++)
            b->pages[i * b->pages_stride + p] = p < pages ? stem * pages + p : 1000 + i;
    }
    return b;
}

static void step_launch(const struct ops *o, struct ops_device *d, uint8_t *slab)
{
    float *f = (float *)(void *)slab;
    struct ops_matrix w = {.data = slab, .n = 4096, .k = 4096};
    struct ops_batch batch = {.tokens_count = BRANCHES, .pages_stride = 128};
    struct ops_kv kv = {.data = slab, .pages_count = 1, .kv_heads = 8, .head_dim = 128};
    o->embed(d, &(struct ops_embed){.out = f, .table = w, .tokens_count = BRANCHES});
    o->rope_angles(d, &(struct ops_rope_angles){.tokens_count = BRANCHES, .pairs_count = 64});
    for (uint32_t i = 0; i < LAYERS; i++) {
        struct ops_norm norm = {.out = f, .in = f, .rows_count = BRANCHES, .columns = 4096};
        struct ops_gemm gemm = {.y = f, .x = f, .w = w, .rows_count = BRANCHES};
        o->norm(d, &norm);
        o->gemm(d, &gemm);
        o->qkv(d, &(struct ops_qkv){.kv = kv, .batch = batch, .heads = 32, .rotary_dim = 128});
        o->attention(d, &(struct ops_attention){.kv = kv, .batch = batch, .heads = 32});
        o->gemm(d, &gemm);
        o->norm(d, &norm);
        o->gemm(d, &gemm);
        o->gate(d, &(struct ops_gate){.rows_count = BRANCHES, .columns = 14336, .gated = true});
        o->gemm(d, &gemm);
    }
    o->gather(d, &(struct ops_gather){.rows_count = BRANCHES, .columns = 4096});
    o->gemm(d, &(struct ops_gemm){.y = f, .x = f, .w = w, .rows_count = BRANCHES});
    o->sample(d, &(struct ops_sample){.rows_count = BRANCHES, .vocabulary = VOCABULARY});
}

static void launching_a_step_takes_little_of_the_host(void **state)
{
    static const int device[1] = {0};
    struct ops_device *d;
    struct ops_config config = {.slab_bytes = STEP_SLAB_BYTES,
                                .activation = OPS_BF16,
                                .rows_max = BRANCHES,
                                .vocabulary_max = VOCABULARY};
    uint64_t times[LAUNCHES];
    (void)state;
    fake_reset(
        &(struct fake_config){.devices_count = 1, .shared_bytes_max = 99u << 10, .idle = true});
    const struct ops *o = emulated_ops(1, device);
    CHECK(o->open(&config, &d) == 0, "open");
    struct step_limits limits = {.rows_max = BRANCHES,
                                 .tokens_max = 2 * BRANCHES,
                                 .pages_stride = CONTEXT / OPS_PAGE_TOKENS,
                                 .history_max = CONTEXT,
                                 .biases_max = BRANCHES};
    struct engine_batch *batch = batch_of_branches();
    uint64_t image_bytes = step_image_bytes(&limits);
    struct step step;
    uint8_t *image = aligned_alloc(OPS_ALIGN_BYTES, image_bytes);
    CHECK(image && image_bytes <= STEP_SLAB_BYTES, "no memory for an image");
    step_init(&step, image, image_bytes);
    for (uint32_t i = 0; i < LAUNCHES; i++) {
        uint64_t begin = own_ns();
        step_build(&step, batch, true, NULL);
        o->copy_in(d, o->slab(d), step.image, step.image_bytes);
        step_launch(o, d, o->slab(d));
        times[i] = own_ns() - begin;
    }
    o->close(d);
    engine_batch_free(batch);
    free(image);
    printf("an image of %" PRIu64 " bytes\n", step.image_bytes);
    bar_median("launch_step_us", times, LAUNCHES);
}

/* ---- the scheduler's share -------------------------------------------------------------------- */

#define STEPS 300u
#define PROMPT 2000u
#define OWN (2 * STEPS)

/* A tiny model whose configuration allows CONTEXT tokens. */
static char *wide_model(void)
{
    static char text[65536], path[4096];
    char *folder = tiny_write(TINY_LLAMA, 1), *at, wanted[64];
    (void)snprintf(path, sizeof path, "%s/config.json", folder);                         /* fits */
    (void)snprintf(wanted, sizeof wanted, "max_position_embeddings\":%u", TINY_CONTEXT); /* fits */
    FILE *file = fopen(path, "r+e");
    CHECK(file, "%s", path);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    CHECK((at = strstr(text, wanted)) != NULL, "%s", text);
    CHECK(fseek(file, 0, SEEK_SET) == 0, "%s", path);
    CHECK(fprintf(file, "%.*smax_position_embeddings\":%u%s", (int)(at - text), text, CONTEXT,
                  at + strlen(wanted)) > 0 &&
              fclose(file) == 0,
          "%s", path);
    return folder;
}

/* Collects, plans and posts; returns the processor's time for it. Results are looked at, and forgotten. */
static uint64_t plan(struct sched *s, uint32_t *ret_results)
{
    struct sched_result result;
    uint64_t begin = own_ns();
    (void)sched_poll(s, 0);
    while (sched_next(s, &result))
        ++*ret_results;
    return own_ns() - begin;
}

/* Until the next step has come back, whatever it takes of polls: from step to step one is planned and posted
 * behind the one that is in flight, and that one is collected. */
static uint64_t plan_next(struct sched *s, uint32_t *ret_results)
{
    uint64_t took = 0;
    *ret_results = 0;
    for (;;) {
        took += plan(s, ret_results);
        if (*ret_results)
            return took;
        struct pollfd fd = {.fd = sched_fd(s), .events = POLLIN};
        if (sched_due_ns(s) == UINT64_MAX)
            (void)poll(&fd, 1, 1000); /* interrupted: asked again */
    }
}

static void branches_add(struct sched *s)
{
    static uint32_t prompt[PROMPT];
    uint32_t results = 0, stems[STEMS], seq;
    struct sched_seq_args args = {.tenant = 1,
                                  .prompt = prompt,
                                  .prompt_tokens = PROMPT,
                                  .max_tokens = OWN,
                                  .sampling = {.temperature = 1, .top_p = 1, .repetition = 1}};
    for (uint32_t i = 0; i < STEMS; i++) {
        prompt[0] = args.group = i; /* no prompt like another */
        CHECK(sched_add(s, &args, &stems[i]) == SCHED_OK, "stem %u", i);
    }
    while (results < STEMS)
        (void)plan_next(s, &results);
    args.prompt_tokens = 0;
    args.max_tokens = OWN - 100;
    for (uint32_t i = STEMS; i < BRANCHES; i++) {
        args.group = i % STEMS;
        args.seed = i;
        CHECK(sched_fork(s, stems[i % STEMS], &args, &seq) == SCHED_OK, "branch %u", i);
    }
    while (results < BRANCHES)
        (void)plan_next(s, &results);
}

static void planning_a_step_takes_little_of_the_host(void **state)
{
    static const int device[1] = {0};
    char message[ENGINE_MESSAGE_BYTES] = "", *folder = wide_model();
    struct engine_config config = {.directory[ENGINE_POLICY] = folder,
                                   .ranks_count = 1,
                                   .rows_max = BRANCHES,
                                   .tokens_max = 2 * BRANCHES,
                                   .context_tokens = CONTEXT,
                                   .kv_bytes = 64u << 20,
                                   .steps_max = 2,
                                   .dot_layer = -1};
    struct engine_info info;
    struct engine *engine;
    struct sched *s;
    uint64_t times[STEPS];
    uint32_t results;
    (void)state;
    fake_reset(&(struct fake_config){
        .devices_count = 1, .memory_bytes = 1u << 30, .shared_bytes_max = 99u << 10, .idle = true});
    CHECK(engine_model_open_on(&config, emulated_ops(1, device), message, &engine) == 0, "%s",
          message);
    engine_info(engine, ENGINE_POLICY, &info);
    CHECK(info.steps_max == 2, "%u steps at once", info.steps_max);
    CHECK(sched_new(&(struct sched_config){.seqs_max = BRANCHES,
                                           .groups_max = STEMS,
                                           .rows_max = BRANCHES,
                                           .tokens_max = 2 * BRANCHES},
                    engine, &s) == 0,
          "no scheduler");
    branches_add(s);
    for (uint32_t i = 0; i < STEPS; i++) {
        times[i] = plan_next(s, &results);
        CHECK(results == BRANCHES, "a step of %u rows", results);
    }
    sched_free(s);
    engine_close(engine);
    tiny_remove(folder);
    bar_median("plan_step_us", times, STEPS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operations_move_what_their_formulas_say),
        cmocka_unit_test(a_large_matrix_goes_through_both_stages),
        cmocka_unit_test(shared_pages_are_read_once_a_block),
        cmocka_unit_test(launching_a_step_takes_little_of_the_host),
        cmocka_unit_test(planning_a_step_takes_little_of_the_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
