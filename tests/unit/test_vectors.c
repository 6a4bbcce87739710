/* timeout: 180 */
/* tests/unit/test_vectors.c: programs that compare answers by likeness, on a real engine with a tiny policy, a
 * tiny reward model and a tiny encoder, freed pages poisoned with NaN. Groups are those of vectors that
 * are computed one text at a time, aside; each program gives the same answer, groups and costs alone and
 * beside 64 others in a cache that is too small for them; what is stopped at any time leaves nothing. */
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

#include "daemon/program/algorithms.h"
#include "daemon/program/profile.h"
#include "daemon/program/runs.h"
#include "tests/lib/check.h"
#include "tests/lib/tiny.h"

#define CONTEXT 160u
#define BRANCHES_MAX 1024u
#define RUNS_MAX 72u
#define JOBS 65u
#define PROMPT_MAX 50u
#define MAX_TOKENS 40u
#define END 300u
#define PAGES_OF_ONE ((CONTEXT + OPS_PAGE_TOKENS - 1) / OPS_PAGE_TOKENS)
#define ANSWERS_MAX 64u

struct sizes {
    uint32_t pages; /* of the policy; the reward model has a quarter, and at least one sequence's */
    uint32_t alive_max;
    uint32_t rows_max;
    uint32_t tokens_max; /* more than any text: what does not fit a step is cut */
    uint32_t texts_max;
};

struct rig {
    char *folder[ENGINE_ROLE_COUNT];
    struct engine *engine;
    struct sched *sched[2];
    struct embed *embed;
    struct runs *runs;
    struct run_texts texts;
};

/* Text is what the random model writes: ends of lines and of the text are made likely, and few letters, so
 * that answers come twice. */
static const struct ops_bias biases[] = {{'\n', 5.5f}, {END, 3.5f}, {'a', 8.5f},
                                         {'b', 8.5f},  {'c', 7.5f}, {' ', 7.5f}};
static const uint32_t end_token = END;

static void rig_open(struct rig *r, const struct sizes *sizes)
{
    static const char probe[] = "so: \\boxed{";
    static const enum tiny_kind kinds[] = {TINY_LLAMA, TINY_REWARD, TINY_BERT};
    char message[ENGINE_MESSAGE_BYTES] = "";
    struct engine_info info;
    struct engine_config config = {.ranks_count = 1,
                                   .threads_count = 1, /* a step is too short for more */
                                   .cpu_level = -1,
                                   .rows_max = sizes->rows_max,
                                   .tokens_max = sizes->tokens_max,
                                   .context_tokens = CONTEXT,
                                   .kv_bytes = 1u << 22,
                                   .dot_layer = -1};
    *r = (struct rig){0};
    for (uint32_t m = 0; m < ENGINE_ROLE_COUNT; m++)
        config.directory[m] = r->folder[m] = tiny_write(kinds[m], 5 + m);
    CHECK(engine_open(&config, message, &r->engine) == 0, "%s", message);
    engine_info(r->engine, ENGINE_POLICY, &info);
    config.kv_bytes = config.kv_bytes / info.kv_pages * sizes->pages;
    engine_close(r->engine);
    CHECK(engine_open(&config, message, &r->engine) == 0, "%s", message);
    for (uint32_t m = 0; m < 2; m++)
        assert_int_equal(sched_new(&(struct sched_config){.role = m ? ENGINE_REWARD : ENGINE_POLICY,
                                                          .seqs_max = BRANCHES_MAX + RUNS_MAX +
                                                                      ENGINE_POOL_SLOTS_MAX,
                                                          .alive_max = sizes->alive_max,
                                                          .groups_max = RUNS_MAX,
                                                          .rows_max = sizes->rows_max,
                                                          .tokens_max = sizes->tokens_max,
                                                          .poison = true},
                                   r->engine, &r->sched[m]),
                         0);
    assert_int_equal(embed_new(&(struct embed_config){.texts_max = sizes->texts_max,
                                                      .rows_max = sizes->rows_max,
                                                      .tokens_max = sizes->tokens_max},
                               r->engine, &r->embed),
                     0);
    r->texts.probe_count = sizeof probe - 1;
    for (uint32_t i = 0; i < sizeof probe - 1; i++)
        r->texts.probe[i] = (uint8_t)probe[i];
    assert_int_equal(runs_new(&(struct runs_config){.runs_max = RUNS_MAX,
                                                    .branches_max = BRANCHES_MAX,
                                                    .context_tokens = CONTEXT,
                                                    .policy = r->sched[0],
                                                    .reward = r->sched[1],
                                                    .embed = r->embed,
                                                    .texts = &r->texts},
                              &r->runs),
                     0);
}

static void rig_close(struct rig *r)
{
    runs_free(r->runs);
    embed_free(r->embed);
    for (uint32_t m = 0; m < 2; m++) {
        struct sched_stats stats;
        sched_stats(r->sched[m], &stats);
        assert_int_equal(stats.kv_pages_used + stats.kv_pages_reserved, 0);
        sched_free(r->sched[m]);
    }
    engine_close(r->engine);
    for (uint32_t m = 0; m < ENGINE_ROLE_COUNT; m++)
        tiny_remove(r->folder[m]);
}

struct job {
    struct run_args args;
    struct policy_options policy;
    uint32_t prompt[PROMPT_MAX];
    uint32_t prompt_tokens;
    struct run *run;
    struct run_result result;
    struct run_cost cost;
    uint32_t answers_count;
    uint32_t groups_count;
    uint32_t group[ANSWERS_MAX];
    char text[ANSWERS_MAX][ANSWER_BYTES_MAX];
    uint32_t bytes[ANSWERS_MAX];
    bool valid[ANSWERS_MAX];
    bool done;
};

static const struct mix {
    uint32_t algorithm;
    const char *profile;
} mixes[] = {
    {DYNASOR_ALGORITHM_SC, "sc-math"},      {DYNASOR_ALGORITHM_SC, "m_of_n"},
    {DYNASOR_ALGORITHM_SC, "deepconf"},     {DYNASOR_ALGORITHM_REBASE, "even"},
    {DYNASOR_ALGORITHM_MCTS, "mcts-gsm8k"}, {DYNASOR_ALGORITHM_COT, "cot-mid"},
    {DYNASOR_ALGORITHM_BEST_OF_N, "even"},  {DYNASOR_ALGORITHM_BEAM, "even"},
};

static void set(struct job *job, uint32_t parameter, double value)
{
    if (parameter_set(&job->args.parameters, parameter, value))
        return;
    struct parameter_range range; /* it may be one of another algorithm */
    CHECK(!parameter_range(job->args.parameters.algorithm, parameter, &range), "%g", value);
}

static void job_make(struct job *job, const struct mix *mix, uint64_t seed)
{
    static const double likeness[] = {0.02, 0.5, 0.8, 0.9, 0.99, 1};
    struct profile found;
    struct rng rng = {.state = seed};
    memset(job, 0, sizeof *job);
    assert_int_equal(profile_find(mix->profile, &found), 0);
    job->policy = found.policy;
    job->policy.group_tokens = 4;
    job->policy.warmup_count = 3;
    job->policy.finished_count = 3;
    job->policy.probe.first_tokens = 6;
    job->policy.probe.interval_tokens = 7;
    job->args = (struct run_args){.algorithm = algorithm_get(mix->algorithm),
                                  .seed = seed,
                                  .tenant = (uint32_t)rng_below(&rng, 2),
                                  .sampling = {.temperature = 0.9f,
                                               .top_p = 1,
                                               .repetition = 1,
                                               .bias_count = COUNT_OF(biases),
                                               .forced_token = OPS_NONE,
                                               .confidence_count = 8},
                                  .biases = biases,
                                  .stop_tokens = (const uint8_t *)&end_token,
                                  .stop_tokens_count = 1};
    parameters_default(mix->algorithm, &job->args.parameters);
    job->args.parameters.max_tokens = 1 + (uint32_t)rng_below(&rng, MAX_TOKENS);
    job->args.parameters.answer = (struct answer_rule){.kind = ANSWER_TEXT};
    set(job, DYNASOR_PARAMETER_CAP, (double)(1 + rng_below(&rng, 12)));
    set(job, DYNASOR_PARAMETER_WIDTH, (double)(1 + rng_below(&rng, 3)));
    set(job, DYNASOR_PARAMETER_DEPTH, (double)(1 + rng_below(&rng, 5)));
    set(job, DYNASOR_PARAMETER_STEP_TOKENS, (double)(3 + rng_below(&rng, 12)));
    set(job, DYNASOR_PARAMETER_EXPANSION, 3);
    set(job, DYNASOR_PARAMETER_PROBE_TOKENS, (double)(1 + rng_below(&rng, 8)));
    set(job, DYNASOR_PARAMETER_LIKENESS, likeness[rng_below(&rng, COUNT_OF(likeness))]);
    set(job, DYNASOR_PARAMETER_LIKENESS_BY, (double)rng_below(&rng, 2));
    job->prompt_tokens = 1 + (uint32_t)rng_below(&rng, PROMPT_MAX);
    for (uint32_t i = 0; i < job->prompt_tokens; i++)
        job->prompt[i] = (uint32_t)rng_below(&rng, 250);
}

static bool job_start(struct rig *r, struct job *job, uint32_t user)
{
    job->args.user = job->args.group = user;
    job->args.policy = &job->policy;
    enum runs_result result =
        runs_start(r->runs, &job->args, job->prompt, job->prompt_tokens, &job->run);
    CHECK(result <= RUNS_E_FULL, "refused with %d", (int)result);
    return result == RUNS_OK;
}

static void job_take(struct job *job)
{
    const struct ballot *ballot = run_ballot(job->run);
    job->result = *run_result(job->run);
    job->cost = *run_cost(job->run);
    job->cost.lost_tokens = 0;
    job->answers_count = ballot->cluster.count;
    job->groups_count = ballot->cluster.groups;
    CHECK(job->answers_count <= ANSWERS_MAX, "%u answers", job->answers_count);
    for (uint32_t i = 0; i < job->answers_count; i++) {
        job->group[i] = ballot->cluster.group[i];
        job->valid[i] = answer_valid(&ballot->answers[i]);
        const char *text;
        if (job->args.algorithm->live || /* probes are forgotten */
            !run_answer_of(job->run, ballot->branch[i], &text, &job->bytes[i]))
            job->bytes[i] = 0;
        else
            memcpy(job->text[i], text, job->bytes[i]);
    }
}

static void job_stop(struct job *job)
{
    run_stop(job->run);
    job->run = NULL;
    job->done = true;
}

/* A step; false: nothing is done and nothing will be. */
static bool turn(struct rig *r, struct job *jobs, uint32_t *ret_done)
{
    struct run *run;
    uint32_t user, work = runs_poll(r->runs, 0);
    while ((run = runs_news(r->runs, &user))) {
        assert_ptr_equal(run, jobs[user].run);
        if (run_result(run)->end == RUN_GOES_ON)
            continue;
        job_take(&jobs[user]);
        job_stop(&jobs[user]);
        ++*ret_done;
        work++;
    }
    if (work || runs_due_ns(r->runs) == 0)
        return true;
    int fds[RUNS_FDS];
    runs_fds(r->runs, fds);
    struct pollfd fd = {.fd = fds[0], .events = POLLIN};
    return poll(&fd, 1, 5000) == 1;
}

static void run_all(struct rig *r, struct job *jobs, uint32_t count)
{
    uint32_t started = 0, done = 0;
    while (done < count) {
        while (started < count && job_start(r, &jobs[started], started))
            started++;
        CHECK(turn(r, jobs, &done), "nothing goes on: %u of %u are done", done, count);
    }
}

static void same(const struct job *a, const struct job *b)
{
    const char *name = a->args.algorithm->name;
    CHECK(memcmp(&a->result, &b->result, sizeof a->result) == 0, "%s: result", name);
    CHECK(memcmp(&a->cost, &b->cost, sizeof a->cost) == 0, "%s: cost", name);
    CHECK(a->answers_count == b->answers_count && a->groups_count == b->groups_count &&
              memcmp(a->group, b->group, a->answers_count * sizeof a->group[0]) == 0,
          "%s: groups", name);
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
    while (!engine_next(r->engine, 0)) {
        struct pollfd fd = {.fd = engine_fd(r->engine), .events = POLLIN};
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
    rig_open(&r, &large);
    for (uint32_t i = 0; i < 60; i++) {
        struct job *job = &alone[0];
        /* Deepest steps and samples have vectors; dead ends of mcts have none. */
        job_make(job, &mixes[i % 4], seed + i * 1000);
        job->args.parameters.max_tokens = 12 + i % 24;
        set(job, DYNASOR_PARAMETER_LIKENESS_BY, i / 4 % 2);
        run_all(&r, job, 1);
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
        job_make(&alone[i], &mixes[i % COUNT_OF(mixes)], seed + i);
    memcpy(together, alone, sizeof alone);
    rig_open(&r, &large);
    for (uint32_t i = 0; i < JOBS; i++) {
        uint32_t done = 0;
        assert_true(job_start(&r, &alone[i], i));
        while (!done)
            CHECK(turn(&r, alone, &done), "program %u does not go on", i);
        assert_int_equal(alone[i].result.end, RUN_DONE);
        tokens += alone[i].cost.vector_tokens;
    }
    rig_close(&r);
    for (uint32_t s = 0; s < COUNT_OF(sizes); s++) {
        rig_open(&r, &sizes[s]);
        run_all(&r, together, JOBS);
        for (uint32_t i = 0; i < JOBS; i++)
            same(&alone[i], &together[i]);
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
    uint32_t done = 0, stopped = 0;
    (void)state;
    (void)printf("SEED=%" PRIu64 "\n", rng.state);
    rig_open(&r, &sizes);
    for (uint32_t i = 0; i < JOBS; i++)
        together[i].run = NULL;
    for (uint32_t i = 0; i < 4000; i++) {
        struct job *job = &together[rng_below(&rng, JOBS)];
        if (!job->run) {
            job_make(job, &mixes[rng_below(&rng, COUNT_OF(mixes))], rng_next(&rng));
            if (!job_start(&r, job, (uint32_t)(job - together)))
                job->run = NULL;
        } else if (rng_below(&rng, 10) == 0) {
            job_stop(job); /* a step of it may be in flight */
            stopped++;
        }
        bool any = false;
        for (uint32_t k = 0; k < JOBS; k++)
            any |= together[k].run != NULL;
        if (any)
            CHECK(turn(&r, together, &done), "nothing goes on, %u done", done);
    }
    for (uint32_t i = 0; i < JOBS; i++)
        if (together[i].run)
            job_stop(&together[i]);
    (void)printf("%u done, %u stopped\n", done, stopped);
    assert_true(done > 10 && stopped > 30);
    for (uint32_t i = 0; i < JOBS; i++) /* all places are free again */
        job_make(&together[i], &mixes[0], i);
    run_all(&r, together, JOBS);
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
