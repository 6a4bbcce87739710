/* timeout: 180 */
/* tests/unit/test_vectors.c: programs that compare answers by likeness, on a real engine with a tiny policy, a
 * tiny reward model and a tiny encoder, freed pages poisoned with NaN. Groups are those of vectors that
 * are computed one text at a time, aside; each program gives the same answer, groups and costs alone and
 * beside 64 others in a cache that is too small for them; what is stopped at any time leaves nothing. */
#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/program/algorithms.h"
#include "tests/lib/runs_rig.h"

#define JOBS 65u

/* Text is what the random model writes: ends of lines and of the text are made likely, and few letters, so
 * that answers come twice. */
static const struct ops_bias biases[] = {{'\n', 5.5f}, {END, 3.5f}, {'a', 8.5f},
                                         {'b', 8.5f},  {'c', 7.5f}, {' ', 7.5f}};

static const struct job_kind kind = {.biases = biases,
                                     .biases_count = COUNT_OF(biases),
                                     .answer = {.kind = ANSWER_TEXT},
                                     .prompt_tokens_max = 50,
                                     .tokens_max = 40,
                                     .cap_max = 12};

static const struct mix mixes[] = {
    {DYNASOR_ALGORITHM_SC, "sc-math"},      {DYNASOR_ALGORITHM_SC, "m_of_n"},
    {DYNASOR_ALGORITHM_SC, "deepconf"},     {DYNASOR_ALGORITHM_REBASE, "even"},
    {DYNASOR_ALGORITHM_MCTS, "mcts-gsm8k"}, {DYNASOR_ALGORITHM_COT, "cot-mid"},
    {DYNASOR_ALGORITHM_BEST_OF_N, "even"},  {DYNASOR_ALGORITHM_BEAM, "even"},
};

static void open_models(struct rig *r, const struct sizes *sizes)
{
    char *folder[ENGINE_ROLE_COUNT] = {tiny_write(TINY_LLAMA, 5), tiny_write(TINY_REWARD, 6),
                                       tiny_write(TINY_BERT, 7)};
    rig_open(r, folder, sizes);
}

static void make(struct job *job, const struct mix *mix, uint64_t seed)
{
    static const double likeness[] = {0.02, 0.5, 0.8, 0.9, 0.99, 1};
    struct rng rng = {.state = seed};
    job_make(job, &kind, mix, &rng);
    job_set(job, DYNASOR_PARAMETER_LIKENESS, likeness[rng_below(&rng, COUNT_OF(likeness))]);
    job_set(job, DYNASOR_PARAMETER_LIKENESS_BY, (double)rng_below(&rng, 2));
}

static void make_any(struct job *job, struct rng *rng)
{
    const struct mix *mix = &mixes[rng_below(rng, COUNT_OF(mixes))];
    make(job, mix, rng_next(rng));
}

static const struct sizes large = {.pages = 4096,
                                   .alive_max = 0,
                                   .rows_max = 16,
                                   .tokens_max = 128,
                                   .texts_max = 64};

static struct job alone[JOBS], together[JOBS];

/* ---- against vectors computed aside -------------------------------------------------------------------- */

/* One text alone in a step of the engine. */
static void vector_aside(struct rig *r, enum engine_role role, const char *text, uint32_t bytes,
                         float *vector)
{
    static struct engine_batch *batch;
    struct engine_info info;
    engine_info(r->engine, role, &info);
    assert_int_equal(engine_batch_new(r->engine, &batch), 0);
    batch->role = role;
    batch->rows_count = 1;
    batch->tokens_count = bytes;
    batch->rows[0] = (struct engine_row){.tokens_count = bytes, .want = ENGINE_WANT_POOL};
    for (uint32_t i = 0; i < bytes; i++)
        batch->tokens[i] = (uint8_t)text[i];
    for (uint32_t i = 0; i < batch->pages_stride; i++)
        batch->pages[i] = i;
    assert_int_equal(engine_post(r->engine, batch, 0), ENGINE_OK);
    while (!engine_next(r->engine, batch->role, 0)) {
        struct pollfd fd = {.fd = engine_fd(r->engine, batch->role), .events = POLLIN};
        (void)poll(&fd, 1, 1000);
    }
    memcpy(vector, batch->vectors, info.vector_size * sizeof *vector);
    engine_batch_free(batch);
}

static double cosine(const float *x, const float *y)
{
    double xy = 0, xx = 0, yy = 0;
    for (uint32_t d = 0; d < TINY_HIDDEN; d++) {
        xy += (double)x[d] * (double)y[d];
        xx += (double)x[d] * (double)x[d];
        yy += (double)y[d] * (double)y[d];
    }
    return xy / sqrt(xx * yy);
}

/* What the groups must be: the most alike leader, of equals the first. Counts those that are alike and not
 * equal. */
static void groups_check(struct rig *r, const struct job *job, uint32_t *ret_alike)
{
    static float vector[ANSWERS_MAX][TINY_HIDDEN];
    uint32_t leader[ANSWERS_MAX], groups = 0;
    const struct parameters *p = &job->args.parameters;
    enum engine_role role =
        p->value[DYNASOR_PARAMETER_LIKENESS_BY] > 0 ? ENGINE_POLICY : ENGINE_EMBED;
    uint64_t tokens = 0;
    for (uint32_t i = 0; i < job->answers_count; i++) {
        uint32_t joined = CLUSTER_NONE;
        double best = p->value[DYNASOR_PARAMETER_LIKENESS] - 1e-6;
        tokens += job->bytes[i];
        if (!job->valid[i]) { /* of dots alone, for instance */
            CHECK(job->group[i] == CLUSTER_NONE, "answer %u is empty", i);
            continue;
        }
        vector_aside(r, role, job->text[i], job->bytes[i], vector[i]);
        for (uint32_t g = 0; g < groups; g++) {
            double likeness = cosine(vector[i], vector[leader[g]]);
            if (likeness > best || (joined == CLUSTER_NONE && likeness >= best)) {
                best = likeness;
                joined = g;
            }
        }
        if (joined == CLUSTER_NONE)
            leader[joined = groups++] = i;
        CHECK(job->group[i] == joined, "answer %u of %u: group %u, wanted %u at %g", i,
              job->answers_count, job->group[i], joined, best);
        *ret_alike += leader[joined] != i &&
                      (job->bytes[i] != job->bytes[leader[joined]] ||
                       memcmp(job->text[i], job->text[leader[joined]], job->bytes[i]) != 0);
    }
    assert_int_equal(groups, job->groups_count);
    if (p->algorithm == DYNASOR_ALGORITHM_SC) /* else a path may be counted twice, and costs once */
        assert_int_equal(tokens, job->cost.vector_tokens);
}

static void vectors_group_answers_as_computed_aside(void **state)
{
    (void)state;
    uint64_t seed = check_number("SEED", now_ns());
    uint32_t alike = 0, apart = 0, answers = 0;
    struct rig r;
    (void)printf("SEED=%" PRIu64 "\n", seed);
    open_models(&r, &large);
    for (uint32_t i = 0; i < 60; i++) {
        struct job *job = &alone[0];
        /* Deepest steps and samples have vectors; dead ends of mcts have none. */
        make(job, &mixes[i % 4], seed + i * 1000);
        job->args.parameters.max_tokens = 12 + i % 24;
        job_set(job, DYNASOR_PARAMETER_LIKENESS_BY, i / 4 % 2);
        jobs_run(&r, job, 1);
        groups_check(&r, job, &alike);
        answers += job->answers_count;
        apart += job->groups_count;
    }
    rig_close(&r);
    (void)printf("%u answers, %u groups, %u alike and not equal\n", answers, apart, alike);
    assert_true(alike > 20 && apart > 80);
}

static void vectors_are_the_same_alone_and_beside_64_others(void **state)
{
    static const struct sizes sizes[] = {
        {.pages = 4 * PAGES_OF_ONE,
         .alive_max = 0,
         .rows_max = 5,
         .tokens_max = 120,
         .texts_max = 3},
        {.pages = 4 * PAGES_OF_ONE,
         .alive_max = 1,
         .rows_max = 1,
         .tokens_max = 120,
         .texts_max = 1},
        {.pages = 40 * PAGES_OF_ONE, .rows_max = 24, .tokens_max = 200, .texts_max = 64},
    };
    uint64_t seed = check_number("SEED", now_ns()), tokens = 0;
    struct rig r;
    (void)state;
    (void)printf("SEED=%" PRIu64 "\n", seed);
    for (uint32_t i = 0; i < JOBS; i++)
        make(&alone[i], &mixes[i % COUNT_OF(mixes)], seed + i);
    memcpy(together, alone, sizeof alone);
    open_models(&r, &large);
    jobs_run_alone(&r, alone, JOBS);
    for (uint32_t i = 0; i < JOBS; i++)
        tokens += alone[i].cost.vector_tokens;
    rig_close(&r);
    for (uint32_t s = 0; s < COUNT_OF(sizes); s++) {
        open_models(&r, &sizes[s]);
        jobs_run(&r, together, JOBS);
        for (uint32_t i = 0; i < JOBS; i++)
            job_same(&alone[i], &together[i]);
        rig_close(&r);
    }
    (void)printf("%" PRIu64 " tokens were read for vectors\n", tokens);
    assert_true(tokens > 1000);
}

static void vectors_of_programs_stopped_at_any_time_leave_nothing(void **state)
{
    static const struct sizes sizes = {.pages = 8 * PAGES_OF_ONE,
                                       .alive_max = 12,
                                       .rows_max = 8,
                                       .tokens_max = 120,
                                       .texts_max = 4};
    struct rng rng = {.state = check_number("SEED", now_ns())};
    struct rig r;
    (void)state;
    (void)printf("SEED=%" PRIu64 "\n", rng.state);
    open_models(&r, &sizes);
    struct disturbed d = jobs_disturb(&r, together, JOBS, 6, make_any, &rng);
    assert_true(d.done > 10 && d.stopped > 30);
    for (uint32_t i = 0; i < JOBS; i++) /* all places are free again */
        make(&together[i], &mixes[0], i);
    jobs_run(&r, together, JOBS);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_group_answers_as_computed_aside),
        cmocka_unit_test(vectors_are_the_same_alone_and_beside_64_others),
        cmocka_unit_test(vectors_of_programs_stopped_at_any_time_leave_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
