/* timeout: 300 */
/* tests/unit/test_engine_model.c: the real engine on tiny models. Bit for bit, a token's logits and
 * signals are the same alone in one chunk and in any batch, chunking, fork, sharing, thread count and
 * place in memory, with poison in every page that is not yet written. SEED= repeats a run. */
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/engine/engine.h"
#include "daemon/engine/engine_model.h"
#include "kernels/cpu/cpu.h"
#include "tests/bench/count_malloc.h"
#include "tests/lib/check.h"
#include "tests/lib/schedule.h"
#include "tests/lib/tiny.h"

#define SEQS 5u
#define LONG_MAX 150u
#define BATCH_TOKENS 160u
#define ALL_LEVELS (-1)

struct rig {
    struct engine *engine;
    struct engine_batch *batch;
    struct engine_info info;
    struct rng rng;
};

struct options {
    enum tiny_kind kind;
    enum engine_role role;
    bool float32;
    int32_t level;
    uint32_t threads_count; /* of a rank; 0: 1, like the next */
    uint32_t ranks_count;
    int32_t dot_layer;
};

static struct engine_config config_of(const struct options *o, const char *folder)
{
    uint32_t ranks_count = o->ranks_count ? o->ranks_count : 1;
    struct engine_config config = {.float32 = o->float32,
                                   .ranks_count = ranks_count,
                                   .threads_count =
                                       ranks_count * (o->threads_count ? o->threads_count : 1),
                                   .cpu_level = o->level,
                                   .rows_max = SEQS,
                                   .tokens_max = BATCH_TOKENS,
                                   .kv_bytes = 8u << 20,
                                   .dot_layer = o->dot_layer};
    config.directory[o->role] = folder;
    return config;
}

static void rig_open(struct rig *rig, const struct options *o, const char *folder)
{
    char message[ENGINE_MESSAGE_BYTES] = "";
    struct engine_config config = config_of(o, folder);
    int result = engine_open(&config, message, &rig->engine);
    CHECK(result == 0, "%s", message);
    engine_info(rig->engine, o->role, &rig->info);
    CHECK(engine_batch_new(rig->engine, &rig->batch) == 0, "no memory");
    if (o->role == ENGINE_POLICY) {
        float vector[TINY_HIDDEN];
        for (uint32_t i = 0; i < TINY_HIDDEN; i++)
            vector[i] = (float)i - 20;
        engine_dot_vector(rig->engine, vector);
    }
}

static void rig_close(struct rig *rig)
{
    engine_batch_free(rig->batch);
    engine_close(rig->engine);
}

static uint64_t seed_of_run(void)
{
    uint64_t seed = check_number("SEED", now_ns());
    printf("SEED=%" PRIu64 "\n", seed);
    return seed;
}

/* Sequences of random tokens, some of them forks of an earlier one at a random token. */
static void seqs_new(struct schedule_seq seqs[SEQS], struct rng *rng, uint32_t vocabulary,
                     bool logits)
{
    for (uint32_t i = 0; i < SEQS; i++) {
        struct schedule_seq *q = &seqs[i];
        *q = (struct schedule_seq){.parent = SCHEDULE_NONE};
        q->tokens_count = 1 + (uint32_t)rng_below(rng, LONG_MAX);
        q->tokens = calloc(q->tokens_count, sizeof(uint32_t));
        for (uint32_t t = 0; t < q->tokens_count; t++)
            q->tokens[t] = (uint32_t)rng_below(rng, vocabulary);
        if (i && rng_below(rng, 2)) {
            q->parent = (uint32_t)rng_below(rng, i);
            const struct schedule_seq *parent = &seqs[q->parent];
            uint32_t most =
                parent->tokens_count < q->tokens_count ? parent->tokens_count : q->tokens_count - 1;
            q->fork_at = most ? 1 + (uint32_t)rng_below(rng, most) : 0;
            if (!q->fork_at)
                q->parent = SCHEDULE_NONE;
            memcpy(q->tokens, parent->tokens, q->fork_at * sizeof(uint32_t));
        }
        if (logits)
            q->logits = calloc((size_t)q->tokens_count * vocabulary, sizeof(float));
        q->outputs = calloc(q->tokens_count, sizeof *q->outputs);
        q->known = calloc(q->tokens_count, sizeof *q->known);
    }
}

static void seqs_free(struct schedule_seq seqs[SEQS])
{
    for (uint32_t i = 0; i < SEQS; i++) {
        free(seqs[i].tokens);
        free(seqs[i].logits);
        free(seqs[i].outputs);
        free(seqs[i].known);
    }
}

static void run(struct rig *rig, struct schedule_seq *seqs, uint32_t count, uint32_t chunk_max,
                enum engine_role role, uint32_t want)
{
    struct schedule schedule = {.engine = rig->engine,
                                .batch = rig->batch,
                                .seqs = seqs,
                                .seqs_count = count,
                                .chunk_max = chunk_max,
                                .tokens_max = BATCH_TOKENS,
                                .share = rng_below(&rig->rng, 2),
                                .poison = true,
                                .role = role,
                                .want = want,
                                .rng = &rig->rng};
    schedule_run(&schedule);
}

/* The sequence alone, from its first token, in chunks of chunk_max. */
static struct schedule_seq run_alone(struct rig *rig, const struct schedule_seq *like,
                                     uint32_t chunk_max, enum engine_role role, uint32_t want)
{
    struct schedule_seq q = *like;
    q.parent = SCHEDULE_NONE;
    q.fork_at = q.done = q.pages_count = 0;
    if (like->logits)
        q.logits = calloc((size_t)q.tokens_count * rig->info.vocabulary, sizeof(float));
    q.outputs = calloc(q.tokens_count, sizeof *q.outputs);
    q.known = calloc(q.tokens_count, sizeof *q.known);
    run(rig, &q, 1, chunk_max, role, want);
    return q;
}

static void compare_logits(const struct rig *rig, const struct schedule_seq *a,
                           const struct schedule_seq *b)
{
    uint32_t vocabulary = rig->info.vocabulary;
    for (uint32_t t = a->fork_at; t < a->tokens_count; t++) {
        const float *x = a->logits + (size_t)t * vocabulary;
        const float *y = b->logits + (size_t)t * vocabulary;
        CHECK(isfinite(x[0]), "token %u of %u: not a number", t, a->tokens_count);
        CHECK(memcmp(x, y, vocabulary * sizeof(float)) == 0,
              "token %u of %u (fork at %u): %.9g instead of %.9g", t, a->tokens_count, a->fork_at,
              (double)x[0], (double)y[0]);
    }
}

/* Mixed, on three threads, against each sequence alone in one chunk on one thread. */
static void compare_mixed_with_alone(struct options o, const char *folder, uint64_t seed)
{
    struct rig rig = {.rng = {.state = seed}}, mixed = {.rng = {.state = ~seed}};
    struct schedule_seq seqs[SEQS];
    rig_open(&rig, &o, folder);
    o.threads_count = 3;
    rig_open(&mixed, &o, folder);
    seqs_new(seqs, &rig.rng, rig.info.vocabulary, true);
    run(&mixed, seqs, SEQS, 40, ENGINE_POLICY, 0);
    for (uint32_t q = 0; q < SEQS; q++) {
        struct schedule_seq alone = run_alone(&rig, &seqs[q], LONG_MAX, ENGINE_POLICY, 0);
        compare_logits(&rig, &seqs[q], &alone);
        free(alone.logits);
        free(alone.outputs);
        free(alone.known);
    }
    seqs_free(seqs);
    rig_close(&mixed);
    rig_close(&rig);
}

static void logits_depend_on_the_prefix_alone(void **state)
{
    (void)state;
    uint64_t seed = seed_of_run();
    for (enum tiny_kind kind = TINY_LLAMA; kind < TINY_WRITERS_COUNT; kind++) {
        char *folder = tiny_write(kind, seed);
        for (uint32_t i = 0; i < 2 * CPU_LEVEL_COUNT; i++) {
            struct options o = {.kind = kind, .float32 = i % 2, .level = (int32_t)(i / 2)};
            if (!cpu_ops(i / 2))
                continue;
            printf("kind %u, %s, level %u\n", kind, o.float32 ? "float32" : "bf16", i / 2);
            compare_mixed_with_alone(o, folder, seed + i);
        }
        tiny_remove(folder);
    }
}

/* The same where the work is cut over ranks. */
static void logits_of_ranks_depend_on_the_prefix_alone(void **state)
{
    (void)state;
    static const enum tiny_kind kinds[] = {TINY_LLAMA, TINY_GEMMA2, TINY_PHI3};
    uint64_t seed = seed_of_run();
    for (uint32_t k = 0; k < COUNT_OF(kinds); k++) {
        char *folder = tiny_write(kinds[k], seed);
        for (uint32_t i = 0; i < 4; i++) {
            struct options o = {.kind = kinds[k],
                                .float32 = i % 2,
                                .level = ALL_LEVELS,
                                .ranks_count = i / 2 ? 4 : 2};
            compare_mixed_with_alone(o, folder, seed + i);
        }
        tiny_remove(folder);
    }
}

static void signals_depend_on_the_prefix_alone(void **state)
{
    (void)state;
    uint64_t seed = seed_of_run();
    static const struct {
        enum tiny_kind kind;
        enum engine_role role;
    } cases[] = {{TINY_LLAMA, ENGINE_POLICY},
                 {TINY_REWARD, ENGINE_REWARD}, /* value head */
                 {TINY_QWEN2, ENGINE_REWARD}}; /* mean of the logits */
    for (uint32_t i = 0; i < 2 * COUNT_OF(cases); i++) {
        struct options o = {.kind = cases[i / 2].kind,
                            .role = cases[i / 2].role,
                            .float32 = i % 2,
                            .level = ALL_LEVELS};
        bool reward = o.role == ENGINE_REWARD;
        uint32_t want = reward ? 0 : ENGINE_WANT_TOKEN | ENGINE_WANT_DOT;
        struct rig rig = {.rng = {.state = seed + i}};
        struct schedule_seq seqs[SEQS];
        char *folder = tiny_write(o.kind, seed);
        rig_open(&rig, &o, folder);
        seqs_new(seqs, &rig.rng, rig.info.vocabulary, false);
        run(&rig, seqs, SEQS, 20, o.role, want);
        for (uint32_t q = 0; q < SEQS; q++) {
            struct schedule_seq alone = run_alone(&rig, &seqs[q], 1, o.role, want);
            for (uint32_t t = seqs[q].fork_at; t < seqs[q].tokens_count; t++) {
                const struct engine_output *a = &seqs[q].outputs[t], *b = &alone.outputs[t];
                CHECK(!reward || a->dot != 0, "no score of token %u", t);
                if (reward || seqs[q].known[t])
                    CHECK(memcmp(a, b, sizeof *a) == 0,
                          "token %u: %u %.9g dot %.9g instead of %u %.9g dot %.9g", t,
                          a->sampled.token, (double)a->sampled.log_probability, (double)a->dot,
                          b->sampled.token, (double)b->sampled.log_probability, (double)b->dot);
            }
            free(alone.outputs);
            free(alone.known);
        }
        seqs_free(seqs);
        rig_close(&rig);
        tiny_remove(folder);
    }
}

/* Pooled hidden states: the same sum in any chunks, started anew with the sequence. */
static void pools_are_means_in_any_chunks(void **state)
{
    (void)state;
    struct options o = {.kind = TINY_LLAMA, .level = ALL_LEVELS};
    struct rig rig = {.rng = {.state = seed_of_run()}};
    char *folder = tiny_write(o.kind, 1);
    rig_open(&rig, &o, folder);
    uint32_t tokens[90];
    float want[TINY_HIDDEN];
    for (uint32_t i = 0; i < COUNT_OF(tokens); i++)
        tokens[i] = (uint32_t)rng_below(&rig.rng, rig.info.vocabulary);
    const uint32_t chunks[] = {COUNT_OF(tokens), 7, 1};
    for (uint32_t i = 0; i < COUNT_OF(chunks); i++) {
        uint32_t chunk = chunks[i];
        struct schedule_seq q = {
            .tokens = tokens, .tokens_count = COUNT_OF(tokens), .parent = SCHEDULE_NONE};
        run(&rig, &q, 1, chunk, ENGINE_POLICY, ENGINE_WANT_POOL);
        if (i == 0)
            memcpy(want, rig.batch->vectors, sizeof want);
        CHECK(want[0] != 0 && isfinite(want[0]), "mean %g", (double)want[0]);
        CHECK(memcmp(want, rig.batch->vectors, sizeof want) == 0, "chunks of %u: %g, not %g", chunk,
              (double)rig.batch->vectors[0], (double)want[0]);
    }
    rig_close(&rig);
    tiny_remove(folder);
}

/* ---- hidden states, held against the model's own file --------------------------------------------- */

/* Where a tensor of float32 lies in the folder's file; count: of its numbers. */
static FILE *tensor_open(const char *folder, const char *name, long *ret_at, uint32_t *ret_count)
{
    char path[512], key[128], header[65536] = "";
    uint64_t header_bytes, begin, end;
    (void)snprintf(path, sizeof path, "%s/model.safetensors", folder);
    (void)snprintf(key, sizeof key, "\"%s\":", name);
    FILE *file = fopen(path, "r+e");
    CHECK(file && fread(&header_bytes, 8, 1, file) == 1 && header_bytes < sizeof header &&
              fread(header, 1, header_bytes, file) == header_bytes,
          "%s: %m", path);
    const char *at = strstr(header, key);
    CHECK(at && (at = strstr(at, "data_offsets\":[")), "no %s", name);
    char *rest;
    begin = strtoull(at + strlen("data_offsets\":["), &rest, 10);
    end = strtoull(rest + 1, NULL, 10);
    *ret_at = (long)(8 + header_bytes + begin);
    *ret_count = (uint32_t)(end - begin) / 4;
    CHECK(fseek(file, *ret_at, SEEK_SET) == 0, "%m");
    return file;
}

static float *tensor_read(const char *folder, const char *name)
{
    long at;
    uint32_t count;
    FILE *file = tensor_open(folder, name, &at, &count);
    float *values = calloc(count, sizeof *values);
    CHECK(values && fread(values, sizeof *values, count, file) == count, "%s: %m", name);
    (void)fclose(file); /* only read */
    return values;
}

static void tensor_clear(const char *folder, const char *name)
{
    static const float zero;
    long at;
    uint32_t count;
    FILE *file = tensor_open(folder, name, &at, &count);
    for (uint32_t i = 0; i < count; i++)
        CHECK(fwrite(&zero, sizeof zero, 1, file) == 1, "%m");
    CHECK(fclose(file) == 0, "%m");
}

/* The first tokens of a sequence in one row. */
static void one_row(struct rig *rig, const uint32_t *tokens, uint32_t count, uint32_t want,
                    float *logits)
{
    struct engine_batch *b = rig->batch;
    b->role = ENGINE_POLICY;
    b->rows_count = 1;
    b->tokens_count = count;
    b->copies_count = b->freed_count = b->history_count = b->biases_count = 0;
    b->rows[0] =
        (struct engine_row){.tokens_count = count,
                            .want = want,
                            .sampling = {.forced_token = OPS_NONE, .top_p = 1, .repetition = 1}};
    memcpy(b->tokens, tokens, count * sizeof *tokens);
    b->pages[0] = 0;
    schedule_step(rig->engine, b, logits);
}

/* The output matrix is linear: what it makes of the pooled states is the mean of the logits. */
static void pooled_states_are_what_the_output_matrix_reads(void **state)
{
    (void)state;
    static const enum tiny_kind kinds[] = {TINY_LLAMA, TINY_PHI3}; /* have one of their own */
    const uint32_t tokens[] = {7, 300, 41, 41, 119};
    static float logits[COUNT_OF(tokens) * TINY_VOCABULARY];
    for (uint32_t k = 0; k < COUNT_OF(kinds); k++) {
        struct options o = {.kind = kinds[k], .float32 = true, .level = ALL_LEVELS};
        struct rig rig;
        char *folder = tiny_write(o.kind, 3);
        float *head = tensor_read(folder, "lm_head.weight");
        rig_open(&rig, &o, folder);
        for (uint32_t count = 1; count <= COUNT_OF(tokens); count += COUNT_OF(tokens) - 1) {
            double worst = 0, greatest = 0;
            one_row(&rig, tokens, count, 0, logits);
            one_row(&rig, tokens, count, ENGINE_WANT_POOL, NULL);
            for (uint32_t v = 0; v < TINY_VOCABULARY; v++) {
                double got = 0, want = 0;
                for (uint32_t i = 0; i < TINY_HIDDEN; i++)
                    got += (double)head[v * TINY_HIDDEN + i] * (double)rig.batch->vectors[i];
                for (uint32_t t = 0; t < count; t++)
                    want += (double)logits[t * TINY_VOCABULARY + v] / count;
                worst = fmax(worst, fabs(got - want));
                greatest = fmax(greatest, fabs(want));
            }
            CHECK(worst <= 1e-5 * greatest, "kind %u, %u tokens: %g of %g", o.kind, count, worst,
                  greatest);
        }
        rig_close(&rig);
        free(head);
        tiny_remove(folder);
    }
}

/* The hidden state of one token after a layer, number by number, and pooled behind the last norm. */
static void hidden_of(const char *folder, int32_t layer, float hidden[TINY_HIDDEN],
                      float pooled[TINY_HIDDEN])
{
    struct options o = {.float32 = true, .level = ALL_LEVELS, .dot_layer = layer};
    const uint32_t token = 123;
    struct rig rig;
    rig_open(&rig, &o, folder);
    for (uint32_t i = 0; i < TINY_HIDDEN; i++) {
        float unit[TINY_HIDDEN] = {0};
        unit[i] = 1;
        engine_dot_vector(rig.engine, unit);
        one_row(&rig, &token, 1, ENGINE_WANT_TOKEN | ENGINE_WANT_DOT | ENGINE_WANT_POOL, NULL);
        hidden[i] = rig.batch->outputs[0].dot;
    }
    memcpy(pooled, rig.batch->vectors, TINY_HIDDEN * sizeof *pooled);
    rig_close(&rig);
}

static void check_norm(const float hidden[TINY_HIDDEN], const float pooled[TINY_HIDDEN],
                       const float *weight)
{
    double squares = 0;
    for (uint32_t i = 0; i < TINY_HIDDEN; i++)
        squares += (double)hidden[i] * (double)hidden[i];
    for (uint32_t i = 0; i < TINY_HIDDEN; i++) {
        double want = (double)hidden[i] / sqrt(squares / TINY_HIDDEN + 1e-5) * (double)weight[i];
        CHECK(fabs((double)pooled[i] - want) <= 1e-5, "number %u: %g, pooled %g", i, want,
              (double)pooled[i]);
    }
}

/* After the last layer they are what the last norm reads. A second layer that adds nothing shows what
 * there was after the first. */
static void dots_are_of_the_chosen_layer(void **state)
{
    (void)state;
    float first[TINY_HIDDEN], last[TINY_HIDDEN], alone[TINY_HIDDEN], pooled[TINY_HIDDEN];
    char *folder = tiny_write(TINY_LLAMA, 3);
    float *norm = tensor_read(folder, "model.norm.weight");
    hidden_of(folder, 0, first, pooled);
    hidden_of(folder, 1, last, pooled);
    check_norm(last, pooled, norm);
    CHECK(fabsf(first[0] - last[0]) > 1e-3f, "the layers are alike: %g", (double)first[0]);
    tensor_clear(folder, "model.layers.1.self_attn.o_proj.weight");
    tensor_clear(folder, "model.layers.1.mlp.down_proj.weight");
    hidden_of(folder, 1, alone, pooled);
    check_norm(alone, pooled, norm);
    assert_memory_equal(first, alone, sizeof first);
    free(norm);
    tiny_remove(folder);
}

static void embed(struct rig *rig, const uint32_t *lengths, uint32_t rows)
{
    struct engine_batch *b = rig->batch;
    b->role = ENGINE_EMBED;
    b->rows_count = rows;
    b->tokens_count = 0;
    for (uint32_t r = 0; r < rows; r++) {
        b->rows[r] =
            (struct engine_row){.tokens_first = b->tokens_count, .tokens_count = lengths[r]};
        for (uint32_t i = 0; i < lengths[r]; i++)
            b->tokens[b->tokens_count++] = (lengths[r] * 7 + i * 31) % TINY_VOCABULARY;
    }
    schedule_step(rig->engine, b, NULL);
}

static void texts_embed_alike_alone_and_together(void **state)
{
    (void)state;
    struct options o = {.kind = TINY_BERT, .role = ENGINE_EMBED, .level = ALL_LEVELS};
    struct rig rig = {0};
    char *folder = tiny_write(o.kind, 1);
    rig_open(&rig, &o, folder);
    const uint32_t lengths[] = {1, 40, 7, 100};
    float together[COUNT_OF(lengths)][TINY_HIDDEN];
    assert_int_equal(rig.info.vector_size, TINY_HIDDEN);
    embed(&rig, lengths, COUNT_OF(lengths));
    memcpy(together, rig.batch->vectors, sizeof together);
    for (uint32_t i = 0; i < COUNT_OF(lengths); i++) {
        embed(&rig, &lengths[i], 1);
        CHECK(memcmp(together[i], rig.batch->vectors, sizeof together[i]) == 0,
              "text of %u tokens: %g, not %g", lengths[i], (double)rig.batch->vectors[0],
              (double)together[i][0]);
        CHECK(together[i][0] != 0 && (i == 0 || together[i][0] != together[0][0]), "no vector");
    }
    rig_close(&rig);
    tiny_remove(folder);
}

/* Several roles in one engine: each answers as it does alone. */
static void roles_share_a_device(void **state)
{
    (void)state;
    char *folders[ENGINE_ROLE_COUNT] = {tiny_write(TINY_QWEN3, 1), tiny_write(TINY_REWARD, 2),
                                        tiny_write(TINY_BERT, 3)};
    struct options o = {.level = ALL_LEVELS};
    struct engine_config config = config_of(&o, folders[0]);
    char message[ENGINE_MESSAGE_BYTES] = "";
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT; i++)
        config.directory[i] = folders[i];
    struct rig all = {.rng = {.state = 1}};
    CHECK(engine_open(&config, message, &all.engine) == 0, "%s", message);
    CHECK(engine_batch_new(all.engine, &all.batch) == 0, "no memory");
    uint32_t tokens[70] = {1, 2, 3};
    float first[2][70];
    for (uint32_t turn = 0; turn < 2; turn++) {
        for (enum engine_role role = ENGINE_POLICY; role <= ENGINE_REWARD; role++) {
            struct engine_output outputs[70] = {0};
            bool known[70];
            struct schedule_seq q = {.tokens = tokens,
                                     .tokens_count = COUNT_OF(tokens),
                                     .parent = SCHEDULE_NONE,
                                     .outputs = outputs,
                                     .known = known};
            engine_info(all.engine, role, &all.info);
            run(&all, &q, 1, 33, role, role == ENGINE_POLICY ? ENGINE_WANT_TOKEN : 0);
            float result = role == ENGINE_POLICY ? outputs[69].sampled.entropy : outputs[69].dot;
            CHECK(result != 0, "no result");
            CHECK(!turn || first[role][0] == result, "%g, first %g", (double)result,
                  (double)first[role][0]);
            first[role][0] = result;
        }
        uint32_t length = 30;
        embed(&all, &length, 1);
    }
    char text[1024] = "";
    engine_describe(all.engine, text, sizeof text);
    CHECK(strstr(text, "policy") && strstr(text, "reward") && strstr(text, "embed"), "%s", text);
    rig_close(&all);
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT; i++)
        tiny_remove(folders[i]);
}

static void nothing_is_allocated_by_steps(void **state)
{
    (void)state;
    if (!count_malloc_works())
        skip(); /* the sanitizer needs malloc for itself */
    struct options o = {.kind = TINY_LLAMA, .level = ALL_LEVELS, .threads_count = 2};
    struct rig rig = {.rng = {.state = 1}};
    static uint64_t calls;
    const uint32_t tokens[] = {1, 2, 3, 4, 5};
    char *folder = tiny_write(o.kind, 1);
    rig_open(&rig, &o, folder);
    for (uint32_t turn = 0; turn < 100; turn++) {
        if (turn == 1)
            count_malloc_into(&calls);
        one_row(&rig, tokens, COUNT_OF(tokens),
                ENGINE_WANT_TOKEN | ENGINE_WANT_POOL | ENGINE_WANT_DOT, NULL);
    }
    count_malloc_into(NULL);
    assert_int_equal(calls, 0);
    rig_close(&rig);
    tiny_remove(folder);
}

static void refused(struct engine_config *config, const char *what)
{
    char message[ENGINE_MESSAGE_BYTES] = "";
    struct engine *engine = NULL;
    int result = engine_open(config, message, &engine);
    CHECK(result < 0 && !engine, "opened, though %s is wrong", what);
    CHECK(strstr(message, what), "'%s' does not name %s", message, what);
}

static void wrong_options_are_refused_by_name(void **state)
{
    (void)state;
    struct options o = {.level = ALL_LEVELS};
    char *folder = tiny_write(TINY_LLAMA, 1);
    struct engine_config good = config_of(&o, folder), c;
    c = good;
    c.ranks_count = 3;
    refused(&c, "[engine] ranks = 3: accepted 1, 2 or 4");
    c = good;
    c.ranks_count = 4;
    c.threads_count = 1;
    refused(&c, "[engine] threads = 1: accepted 4 to");
    c = good;
    c.context_tokens = TINY_CONTEXT + 1;
    refused(&c, "context");
    c = good;
    c.kv_bytes = 100;
    refused(&c, "KV cache");
    c = good;
    c.dot_layer = TINY_LAYERS;
    refused(&c, "dot layer 2");
    c = good;
    c.kv_bytes = UINT64_C(1) << 50;
    refused(&c, "MiB");
    c = good;
    c.directory[ENGINE_POLICY] = NULL;
    c.directory[ENGINE_EMBED] = folder;
    refused(&c, "embed");
    char path[512];
    (void)snprintf(path, sizeof path, "%s/config.json", folder);
    FILE *config = fopen(path, "r+e");
    char text[4096] = "", *at;
    CHECK(config && fread(text, 1, sizeof text - 1, config) > 0, "%m");
    CHECK((at = strstr(text, "\"intermediate_size\":96")), "no intermediate_size");
    memcpy(at, "\"intermediate_size\":94", strlen("\"intermediate_size\":94"));
    rewind(config);
    CHECK(fputs(text, config) >= 0 && fclose(config) == 0, "%m");
    (void)snprintf(path, sizeof path, "%s: tensor \"model.layers.0.mlp", folder);
    refused(&good, path);
    tiny_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_depend_on_the_prefix_alone),
        cmocka_unit_test(logits_of_ranks_depend_on_the_prefix_alone),
        cmocka_unit_test(signals_depend_on_the_prefix_alone),
        cmocka_unit_test(pools_are_means_in_any_chunks),
        cmocka_unit_test(pooled_states_are_what_the_output_matrix_reads),
        cmocka_unit_test(dots_are_of_the_chosen_layer),
        cmocka_unit_test(texts_embed_alike_alone_and_together),
        cmocka_unit_test(roles_share_a_device),
        cmocka_unit_test(nothing_is_allocated_by_steps),
        cmocka_unit_test(wrong_options_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
