/* tests/unit/test_golden_models.c: every family against PyTorch. tests/golden/models holds tiny models of
 * random weights and what transformers computes with them in float32. In float32 each position's logits
 * must agree to 1e-4 of the greatest; in bf16 to the bound of docs/NUMERICS.md. Greedy continuations of
 * 64 tokens must be the same, but where the reference's two greatest logits are closer than the bound.
 * Scores of reward models and vectors of encoders likewise. So are the models that the project ships. */
#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/engine/engine_model.h"
#include "tests/lib/check.h"

#define FOLDER "tests/golden/models/"
#define SHIPPED "tools/model/dynasor-5m/"
#define SHIPPED_BOUND 0.02 /* trained weights are far from the worst; measured: docs/NUMERICS.md */
#define CHUNK 40u          /* no multiple of a page, and the prompt is no multiple of it */

enum kind { LOGITS = 0, SCORES = 1, VECTOR = 2 };

#define KV_BYTES (16u << 20)

static const struct model {
    const char *name;
    uint32_t layers;
    double score;       /* greatest attention score in the reference */
    const char *folder; /* of the model; NULL: its name in FOLDER */
    double bf16;        /* its own bound; 0: that of random weights */
} models[] = {
    {"llama2", 2, 13.9, NULL, 0},
    {"llama3", 2, 11.2, NULL, 0},
    {"llama-linear", 2, 13.4, NULL, 0},
    {"llama-dynamic", 2, 13.9, NULL, 0},
    {"llama-yarn", 2, 16.6, NULL, 0},
    {"llama-bias", 2, 13.1, NULL, 0},
    {"mistral", 2, 14.6, NULL, 0},
    {"qwen2", 2, 11.4, NULL, 0},
    {"qwen2-window", 3, 14.9, NULL, 0},
    {"qwen3", 2, 4.7, NULL, 0},
    {"gemma", 2, 13.0, NULL, 0},
    {"gemma2", 3, 5.0, NULL, 0},
    {"phi3", 2, 16.2, NULL, 0},
    {"phi3-short", 2, 16.2, NULL, 0},
    {"reward-sequence", 2, 14.9, NULL, 0},
    {"reward-process", 2, 14.9, NULL, 0},
    {"reward-value", 2, 11.4, NULL, 0},
    {"reward-token-mean", 2, 13.9, NULL, 0},
    {"bert", 2, 11.6, NULL, 0},
    {"bert-first", 2, 11.6, NULL, 0},
    {"reasoner-policy", 6, 50.8, SHIPPED "policy", SHIPPED_BOUND},
    {"reasoner-policy-game24", 6, 35.4, SHIPPED "policy", SHIPPED_BOUND},
    {"reasoner-policy-long", 6, 50.1, SHIPPED "policy", SHIPPED_BOUND},
    {"reasoner-reward", 6, 45.6, SHIPPED "reward", SHIPPED_BOUND},
};

/* Two thirds of the bound in docs/NUMERICS.md: 6 roundings a layer and 2 at the end. */
static double bound_of(const struct model *m, bool float32)
{
    if (!float32 && m->bf16 > 0)
        return m->bf16;
    return float32 ? 1e-4 : sqrt(6.0 * m->layers + 2) * 1.13e-3 * (1 + m->score);
}

struct golden {
    uint32_t kind;
    uint32_t prompt_count;
    uint32_t columns;
    uint32_t greedy_count;
    uint32_t *tokens; /* prompt, then continuation */
    float *values;
    float *gaps;
};

struct rig {
    struct engine *engine;
    struct engine_batch *batch;
    struct engine_info info;
    enum engine_role role;
};

static void take(FILE *file, void *to, size_t bytes)
{
    CHECK(fread(to, 1, bytes, file) == bytes, "golden.bin is too short");
}

static struct golden golden_read(const char *name)
{
    char path[256], magic[8];
    struct golden g;
    (void)snprintf(path, sizeof path, FOLDER "%s/golden.bin", name);
    FILE *file = fopen(path, "rb");
    CHECK(file, "%s: %m", path);
    take(file, magic, 8);
    CHECK(memcmp(magic, "DYNGOLD1", 8) == 0, "%s: no golden file", path);
    take(file, &g.kind, 4);
    take(file, &g.prompt_count, 4);
    take(file, &g.columns, 4);
    take(file, &g.greedy_count, 4);
    uint32_t rows = g.kind == VECTOR ? 1 : g.prompt_count;
    g.tokens = calloc(g.prompt_count + g.greedy_count, sizeof *g.tokens);
    g.values = calloc((size_t)rows * g.columns, sizeof *g.values);
    g.gaps = calloc(g.greedy_count + 1, sizeof *g.gaps);
    CHECK(g.tokens && g.values && g.gaps, "no memory");
    take(file, g.tokens, 4ul * g.prompt_count);
    take(file, g.values, 4ul * rows * g.columns);
    take(file, g.tokens + g.prompt_count, 4ul * g.greedy_count);
    take(file, g.gaps, 4ul * g.greedy_count);
    CHECK(fgetc(file) == EOF, "%s: too long", path);
    (void)fclose(file); /* only read */
    return g;
}

static void golden_free(struct golden *g)
{
    free(g->tokens);
    free(g->values);
    free(g->gaps);
}

static void rig_open_sized(struct rig *r, const struct model *model, const struct golden *g,
                           bool float32, uint32_t context_tokens, uint64_t kv_bytes)
{
    const char *name = model->name;
    char path[256], message[ENGINE_MESSAGE_BYTES] = "";
    (void)snprintf(path, sizeof path, FOLDER "%s", name);
    if (model->folder)
        (void)snprintf(path, sizeof path, "%s", model->folder);
    r->role = g->kind == LOGITS ? ENGINE_POLICY : g->kind == SCORES ? ENGINE_REWARD : ENGINE_EMBED;
    struct engine_config config = {.float32 = float32,
                                   .ranks_count = 1,
                                   .cpu_level = -1,
                                   .rows_max = 4,
                                   .tokens_max = 256,
                                   .context_tokens = context_tokens,
                                   .kv_bytes = kv_bytes,
                                   .dot_layer = -1};
    config.directory[r->role] = path;
    CHECK(engine_open(&config, message, &r->engine) == 0, "%s: %s", name, message);
    CHECK(engine_batch_new(r->engine, &r->batch) == 0, "no memory");
    engine_info(r->engine, r->role, &r->info);
}

static void rig_open(struct rig *r, const struct model *model, const struct golden *g, bool float32)
{
    rig_open_sized(r, model, g, float32, 256, KV_BYTES); /* phi3-short: its short factors */
}

static void rig_close(struct rig *r)
{
    engine_batch_free(r->batch);
    engine_close(r->engine);
}

/* One row with these tokens; page i of the sequence is page i. */
static void fill(struct rig *r, const uint32_t *tokens, uint32_t position, uint32_t count,
                 uint32_t want)
{
    struct engine_batch *b = r->batch;
    b->role = r->role;
    b->rows_count = 1;
    b->tokens_count = count;
    b->copies_count = b->freed_count = b->history_count = b->biases_count = 0;
    b->rows[0] =
        (struct engine_row){.tokens_count = count,
                            .position = position,
                            .want = want,
                            .sampling = {.top_p = 1, .repetition = 1, .forced_token = OPS_NONE}};
    for (uint32_t i = 0; i < count; i++) {
        b->tokens[i] = tokens[position + i];
        b->score[i] = r->role == ENGINE_REWARD;
    }
    for (uint32_t i = 0; i < b->pages_stride; i++)
        b->pages[i] = i;
}

static void wait_done(struct rig *r)
{
    struct pollfd fd = {.fd = engine_fd(r->engine, r->batch->role), .events = POLLIN};
    while (!engine_next(r->engine, r->batch->role, 0))
        (void)poll(&fd, 1, 1000);
}

static void step(struct rig *r)
{
    CHECK(engine_post(r->engine, r->batch, 0) == ENGINE_OK, "busy");
    wait_done(r);
}

/* Greatest difference of a row over its greatest value. */
static double difference(const float *got, const float *want, uint32_t count)
{
    double worst = 0, greatest = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (!isfinite(got[i]))
            return INFINITY;
        worst = fmax(worst, fabs((double)got[i] - (double)want[i]));
        greatest = fmax(greatest, fabs((double)want[i]));
    }
    return worst / greatest;
}

static double run_logits(struct rig *r, const struct golden *g)
{
    double worst = 0;
    float *logits = calloc((size_t)CHUNK * g->columns, sizeof *logits);
    CHECK(logits, "no memory");
    assert_int_equal(r->info.vocabulary, g->columns);
    for (uint32_t at = 0; at < g->prompt_count; at += CHUNK) {
        uint32_t count = g->prompt_count - at < CHUNK ? g->prompt_count - at : CHUNK;
        fill(r, g->tokens, at, count, 0);
        CHECK(engine_model_post_logits(r->engine, r->batch, logits) == ENGINE_OK, "busy");
        wait_done(r);
        for (uint32_t i = 0; i < count; i++)
            worst = fmax(worst, difference(logits + (size_t)i * g->columns,
                                           g->values + (size_t)(at + i) * g->columns, g->columns));
    }
    free(logits);
    return worst;
}

/* Each token after the reference's own; returns how many differ where the gap is at least tie. */
static uint32_t run_greedy(struct rig *r, const struct golden *g, double tie)
{
    uint32_t wrong = 0;
    for (uint32_t n = 0; n < g->greedy_count; n++) {
        uint32_t position = n ? g->prompt_count + n - 1 : 0;
        fill(r, g->tokens, position, n ? 1 : g->prompt_count, ENGINE_WANT_TOKEN);
        step(r);
        assert_int_equal(r->batch->outputs[0].sampled.numeric, 0);
        if (r->batch->outputs[0].sampled.token != g->tokens[g->prompt_count + n] &&
            (double)g->gaps[n] >= tie)
            wrong++;
    }
    return wrong;
}

static double run_scores(struct rig *r, const struct golden *g)
{
    float *got = calloc(g->prompt_count, sizeof *got);
    CHECK(got, "no memory");
    for (uint32_t at = 0; at < g->prompt_count; at += CHUNK) {
        uint32_t count = g->prompt_count - at < CHUNK ? g->prompt_count - at : CHUNK;
        fill(r, g->tokens, at, count, 0);
        step(r);
        memcpy(got + at, r->batch->scores, count * sizeof *got);
    }
    double worst = difference(got, g->values, g->prompt_count);
    free(got);
    return worst;
}

static double run_vector(struct rig *r, const struct golden *g)
{
    fill(r, g->tokens, 0, g->prompt_count, ENGINE_WANT_POOL);
    step(r);
    assert_int_equal(r->info.vector_size, g->columns);
    return difference(r->batch->vectors, g->values, g->columns);
}

static float greatest_of(const struct golden *g)
{
    float greatest = 0;
    for (size_t i = 0; i < (size_t)g->prompt_count * g->columns; i++)
        greatest = fmaxf(greatest, fabsf(g->values[i]));
    return greatest;
}

static void run_all(bool float32)
{
    uint32_t failed = 0;
    for (size_t i = 0; i < COUNT_OF(models); i++) {
        struct golden g = golden_read(models[i].name);
        struct rig r;
        double bound = bound_of(&models[i], float32);
        rig_open(&r, &models[i], &g, float32);
        double worst = g.kind == LOGITS   ? run_logits(&r, &g)
                       : g.kind == SCORES ? run_scores(&r, &g)
                                          : run_vector(&r, &g);
        /* Both of the two greatest may be off by the bound. */
        double tie = g.kind == LOGITS ? 2 * bound * (double)greatest_of(&g) : 0;
        uint32_t wrong = g.kind == LOGITS ? run_greedy(&r, &g, tie) : 0, clear = 0;
        for (uint32_t n = 0; n < g.greedy_count; n++)
            clear += (double)g.gaps[n] >= tie;
        printf(
            "%-18s %s: %.2g of the greatest, at most %.2g; of %u tokens %u are clear, %u differ\n",
            models[i].name, float32 ? "float32" : "bf16", worst, bound, g.greedy_count, clear,
            wrong);
        failed += worst > bound || wrong;
        rig_close(&r);
        golden_free(&g);
    }
    assert_int_equal(failed, 0);
}

static void models_agree_with_the_reference_in_float32(void **state)
{
    (void)state;
    run_all(true);
}

static void models_agree_with_the_reference_in_bf16(void **state)
{
    (void)state;
    run_all(false);
}

/* Long factors are chosen by the context that was asked for, or the model's own, not by what a small cache
 * leaves of it: 64 tokens, for which the model has short ones. */
static void the_cache_decides_no_frequencies(void **state)
{
    (void)state;
    const struct model *phi3 = models;
    while (strcmp(phi3->name, "phi3") != 0)
        phi3++;
    struct golden g = golden_read(phi3->name);
    struct rig r;
    rig_open_sized(&r, phi3, &g, true, 0, KV_BYTES);
    uint64_t page_bytes = KV_BYTES / r.info.kv_pages;
    rig_close(&r);
    rig_open_sized(&r, phi3, &g, true, 0, 2 * page_bytes);
    assert_int_equal(r.info.context_tokens, 2 * OPS_PAGE_TOKENS);
    assert_true(g.prompt_count > 2 * OPS_PAGE_TOKENS);
    g.prompt_count = 2 * OPS_PAGE_TOKENS;
    assert_true(run_logits(&r, &g) <= bound_of(phi3, true));
    rig_close(&r);
    golden_free(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(models_agree_with_the_reference_in_float32),
        cmocka_unit_test(models_agree_with_the_reference_in_bf16),
        cmocka_unit_test(the_cache_decides_no_frequencies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
