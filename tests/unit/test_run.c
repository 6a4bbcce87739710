/* timeout: 240 */
/* tests/unit/test_run.c: reasoning programs on a real engine with a tiny policy and a tiny reward model, freed
 * pages poisoned with NaN. Each program gives the same answer, tokens and costs alone and beside 64 others
 * in a cache that is too small for them, whatever the limits of a step; programs that are stopped at any
 * time leave nothing behind; the reward model reads each token once, a probe computes nothing that it
 * shares; a broken branch ends its program alone. */
#include <inttypes.h>
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
#define PROMPT_MAX 70u
#define MAX_TOKENS 48u
#define END 300u
#define PAGES_OF_ONE ((CONTEXT + OPS_PAGE_TOKENS - 1) / OPS_PAGE_TOKENS)

struct sizes {
    uint32_t
        pages; /* of the policy; the reward model has a quarter of it, and at least one sequence's */
    uint32_t alive_max;
    uint32_t rows_max;
    uint32_t tokens_max;
};

struct rig {
    char *folder[2];
    struct engine *engine;
    struct sched *sched[2];
    struct runs *runs;
    struct run_texts texts;
};

/* Text is what the random model writes: ends of lines, digits and the end are made likely. */
static const struct ops_bias biases[] = {{'\n', 5.5f}, {END, 3.5f}, {'1', 5.5f}, {'2', 5.5f}};
static const uint32_t end_token = END;

#define BAD 299u
/* 1, 2: this token of the policy or of the reward model is NaN; 3: the reward model does not have LAST */
static uint32_t spoiled;
#define LAST (TINY_VOCABULARY - 1)

/* All numbers of one token's embedding: NaN. */
static void spoil(const char *folder, uint32_t token)
{
    char path[512], header[65536] = "";
    uint64_t header_bytes, begin;
    const uint32_t nan_bits = 0x7fc00000;
    (void)snprintf(path, sizeof path, "%s/model.safetensors", folder);
    FILE *file = fopen(path, "r+e");
    CHECK(file && fread(&header_bytes, 8, 1, file) == 1 && header_bytes < sizeof header &&
              fread(header, 1, header_bytes, file) == header_bytes,
          "%s: %m", path);
    const char *at = strstr(header, "model.embed_tokens.weight");
    CHECK(at && (at = strstr(at, "data_offsets\":[")), "no embedding");
    begin = strtoull(at + strlen("data_offsets\":["), NULL, 10);
    uint64_t to = 8 + header_bytes + begin + (uint64_t)token * TINY_HIDDEN * sizeof nan_bits;
    CHECK(fseek(file, (long)to, SEEK_SET) == 0, "%m");
    for (uint32_t i = 0; i < TINY_HIDDEN; i++)
        CHECK(fwrite(&nan_bits, sizeof nan_bits, 1, file) == 1, "%m");
    CHECK(fclose(file) == 0, "%m");
}

static void rig_open(struct rig *r, const struct sizes *sizes)
{
    static const char probe[] = "so: \\boxed{";
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
    *r = (struct rig){
        .folder = {tiny_write(TINY_LLAMA, 5),
                   tiny_write_vocabulary(TINY_REWARD, 6, spoiled == 3 ? LAST : TINY_VOCABULARY)}};
    if (spoiled == 1 || spoiled == 2)
        spoil(r->folder[spoiled - 1], BAD);
    config.directory[ENGINE_POLICY] = r->folder[0];
    config.directory[ENGINE_REWARD] = r->folder[1];
    CHECK(engine_open(&config, message, &r->engine) == 0, "%s", message);
    engine_info(r->engine, ENGINE_POLICY, &info);
    config.kv_bytes = config.kv_bytes / info.kv_pages * sizes->pages;
    engine_close(r->engine);
    CHECK(engine_open(&config, message, &r->engine) == 0, "%s", message);
    for (uint32_t m = 0; m < 2; m++)
        assert_int_equal(sched_new(&(struct sched_config){.role = m ? ENGINE_REWARD : ENGINE_POLICY,
                                                          .seqs_max = BRANCHES_MAX + RUNS_MAX,
                                                          .alive_max = sizes->alive_max,
                                                          .groups_max = RUNS_MAX,
                                                          .rows_max = sizes->rows_max,
                                                          .tokens_max = sizes->tokens_max,
                                                          .poison = true},
                                   r->engine, &r->sched[m]),
                         0);
    r->texts.probe_count = sizeof probe - 1;
    for (uint32_t i = 0; i < sizeof probe - 1; i++)
        r->texts.probe[i] = (uint8_t)probe[i];
    assert_int_equal(runs_new(&(struct runs_config){.runs_max = RUNS_MAX,
                                                    .branches_max = BRANCHES_MAX,
                                                    .context_tokens = CONTEXT,
                                                    .policy = r->sched[0],
                                                    .reward = r->sched[1],
                                                    .texts = &r->texts},
                              &r->runs),
                     0);
}

static void rig_close(struct rig *r)
{
    runs_free(r->runs);
    for (uint32_t m = 0; m < 2; m++) {
        struct sched_stats stats;
        sched_stats(r->sched[m], &stats);
        assert_int_equal(stats.kv_pages_used + stats.kv_pages_reserved, 0);
        sched_free(r->sched[m]);
        tiny_remove(r->folder[m]);
    }
    engine_close(r->engine);
}

struct job {
    struct run_args args;
    struct policy_options policy;
    uint32_t prompt[PROMPT_MAX];
    uint32_t prompt_tokens;
    struct run *run;
    struct run_result result;
    struct run_cost cost;
    uint32_t said[CONTEXT];
    uint32_t said_count;
    char answer[ANSWER_BYTES_MAX];
    uint32_t answer_bytes;
    bool done;
};

static const struct mix {
    uint32_t algorithm;
    const char *profile;
} mixes[] = {
    {DYNASOR_ALGORITHM_SINGLE, "even"}, {DYNASOR_ALGORITHM_SC, "sc-math"},
    {DYNASOR_ALGORITHM_SC, "m_of_n"},   {DYNASOR_ALGORITHM_SC, "deepconf"},
    {DYNASOR_ALGORITHM_REBASE, "even"}, {DYNASOR_ALGORITHM_MCTS, "mcts-gsm8k"},
    {DYNASOR_ALGORITHM_COT, "cot-mid"}, {DYNASOR_ALGORITHM_BEST_OF_N, "even"},
    {DYNASOR_ALGORITHM_BEAM, "even"},   {DYNASOR_ALGORITHM_COT, "cot-high"},
    {DYNASOR_ALGORITHM_SC_COT, "esc"},
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
    job->args.parameters.answer = (struct answer_rule){.kind = ANSWER_NUMBER};
    set(job, DYNASOR_PARAMETER_CAP, (double)(1 + rng_below(&rng, 7)));
    set(job, DYNASOR_PARAMETER_WIDTH, (double)(1 + rng_below(&rng, 3)));
    set(job, DYNASOR_PARAMETER_DEPTH, (double)(1 + rng_below(&rng, 5)));
    set(job, DYNASOR_PARAMETER_STEP_TOKENS, (double)(3 + rng_below(&rng, 12)));
    set(job, DYNASOR_PARAMETER_EXPANSION, 3);
    set(job, DYNASOR_PARAMETER_SUBTREES, (double)(1 + rng_below(&rng, 2)));
    set(job, DYNASOR_PARAMETER_PROBE_TOKENS, (double)(1 + rng_below(&rng, 8)));
    if (strcmp(mix->profile, "cot-high") == 0)
        set(job, DYNASOR_PARAMETER_GUIDED, (double)(1 + rng_below(&rng, 2)));
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
    const char *answer;
    uint32_t count;
    const uint32_t *tokens;
    job->result = *run_result(job->run);
    job->cost = *run_cost(job->run);
    job->cost.lost_tokens = 0;
    job->said_count = job->answer_bytes = 0;
    while (job->result.branch != RUN_NONE &&
           (tokens = run_path(job->run, job->result.branch, job->said_count, &count)) != NULL)
        job->said[job->said_count++] = tokens[0];
    if (run_answer(job->run, &answer, &job->answer_bytes))
        memcpy(job->answer, answer, job->answer_bytes);
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
    CHECK(a->said_count == b->said_count &&
              memcmp(a->said, b->said, a->said_count * sizeof a->said[0]) == 0,
          "%s: tokens", name);
    CHECK(a->answer_bytes == b->answer_bytes && memcmp(a->answer, b->answer, a->answer_bytes) == 0,
          "%s: answer", name);
}

static const struct sizes large = {.pages = 4096,
                                   .alive_max = 0,
                                   .rows_max = 16,
                                   .tokens_max = 128};

/* ---- the tests ---------------------------------------------------------------------------------------- */

static struct job alone[JOBS], together[JOBS];

static void runs_are_the_same_alone_and_beside_64_others(void **state)
{
    (void)state;
    static const struct sizes sizes[] = {
        {.pages = 4 * PAGES_OF_ONE, .alive_max = 0, .rows_max = 5, .tokens_max = 24},
        {.pages = 4 * PAGES_OF_ONE, .alive_max = 1, .rows_max = 1, .tokens_max = 7},
        {.pages = 40 * PAGES_OF_ONE, .alive_max = 24, .rows_max = 24, .tokens_max = 200},
    };
    uint64_t seed = check_number("SEED", now_ns()), parked = 0, recomputed = 0;
    struct rig r;
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
    }
    rig_close(&r);
    for (uint32_t s = 0; s < COUNT_OF(sizes); s++) {
        rig_open(&r, &sizes[s]);
        run_all(&r, together, JOBS);
        for (uint32_t i = 0; i < JOBS; i++)
            same(&alone[i], &together[i]);
        for (uint32_t m = 0; m < 2; m++) {
            struct sched_stats stats;
            sched_stats(r.sched[m], &stats);
            parked += stats.parked_count;
            recomputed += stats.recomputed_tokens_count;
        }
        rig_close(&r);
    }
    (void)printf("parked %" PRIu64 " times, computed %" PRIu64 " tokens again\n", parked,
                 recomputed);
    assert_true(parked > 100);
}

static void runs_stopped_at_any_time_leave_nothing(void **state)
{
    (void)state;
    static const struct sizes sizes = {
        .pages = 8 * PAGES_OF_ONE, .alive_max = 12, .rows_max = 8, .tokens_max = 32};
    struct rng rng = {.state = check_number("SEED", now_ns())};
    struct rig r;
    uint32_t done = 0, stopped = 0;
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
        } else if (rng_below(&rng, 3) == 0) {
            job_stop(job); /* a step of it may be in flight */
            stopped++;
        } else if (job->args.algorithm->live && rng_below(&rng, 2)) {
            run_pause(job->run);
            (void)turn(&r, together, &done);
            if (job->run)
                run_resume(job->run);
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
    assert_true(done > 20 && stopped > 100);
    job_make(&together[0], &mixes[4], 3); /* all places are free again */
    run_all(&r, together, 1);
    rig_close(&r);
}

/* What the schedulers computed is what the costs say. */
static void runs_each_token_is_read_once(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 40; i++) {
        struct rig r;
        struct sched_stats policy, reward;
        struct job *job = &alone[0];
        const struct mix *mix = &mixes[4 + i % 5];
        job_make(job, mix, 1000 + i);
        rig_open(&r, &large);
        run_all(&r, job, 1);
        sched_stats(r.sched[0], &policy);
        sched_stats(r.sched[1], &reward);
        rig_close(&r);
        assert_int_equal(reward.prompt_tokens_count, job->cost.reward_tokens);
        uint32_t probes =
            mix->algorithm == DYNASOR_ALGORITHM_COT ? job->cost.branches_count - 1 : 0;
        if (mix->algorithm != DYNASOR_ALGORITHM_COT)
            assert_int_equal(job->cost.reward_tokens,
                             job->prompt_tokens + job->cost.decoded_tokens);
        else /* the prompt, its last token again for the chain, and what each probe is given */
            assert_int_equal(policy.prompt_tokens_count,
                             job->prompt_tokens + 1 + probes * (r.texts.probe_count + 1));
    }
}

/* ---- where steps and texts end ------------------------------------------------------------------------ */

/* A program that writes nothing but one letter. */
static void letters(struct job *job, const struct ops_bias *letter, const char *step_end,
                    uint32_t step_tokens)
{
    job_make(job, &(struct mix){DYNASOR_ALGORITHM_REBASE, "even"}, 1);
    job->args.sampling.temperature = 0;
    job->args.sampling.bias_count = 1;
    job->args.biases = letter;
    job->args.parameters.max_tokens = 12;
    (void)snprintf(job->args.parameters.step_end, PARAMETER_STEP_END_BYTES, "%s", step_end);
    set(job, DYNASOR_PARAMETER_CAP, 1);
    set(job, DYNASOR_PARAMETER_DEPTH, 20);
    set(job, DYNASOR_PARAMETER_STEP_TOKENS, step_tokens);
}

static void runs_a_step_ends_across_tokens_and_branches(void **state)
{
    (void)state;
    static const struct ops_bias letter = {'a', 1000};
    static const struct {
        const char *step_end;
        const char *stop;
        uint32_t step_tokens;
        uint32_t steps[13]; /* tokens of each */
    } cases[] = {
        {"aa", "", 9, {2, 2, 2, 2, 2, 2}}, /* what ended a step is not the next one's beginning */
        {"aaa", "", 2, {2, 1, 2, 1, 2, 1, 2, 1}}, {"b", "", 5, {5, 5, 2}},
        {"aa", "\5aaaaa", 9, {2, 2, 1}},          {"b", "\7aaaaaaa", 3, {3, 3, 1}},
    };
    struct rig r;
    rig_open(&r, &large);
    for (uint32_t i = 0; i < COUNT_OF(cases); i++) {
        struct job *job = &alone[0];
        uint32_t done = 0, count = 0;
        letters(job, &letter, cases[i].step_end, cases[i].step_tokens);
        job->args.stops = (const uint8_t *)cases[i].stop;
        job->args.stops_bytes = (uint32_t)strlen(cases[i].stop);
        assert_true(job_start(&r, job, 0));
        while (run_result(job->run)->end == RUN_GOES_ON) {
            (void)runs_poll(r.runs, 0);
            count = run_branches_count(job->run);
        }
        for (uint32_t b = 0; b < count; b++)
            CHECK(run_get(job->run, b)->tokens_count == cases[i].steps[b],
                  "case %u, step %u: %u tokens", i, b, run_get(job->run, b)->tokens_count);
        assert_int_equal(cases[i].steps[count], 0);
        while (!done)
            assert_true(turn(&r, job, &done));
    }
    rig_close(&r);
}

/* ---- a branch that breaks ------------------------------------------------------------------------------- */

static void runs_a_broken_branch_ends_its_program_alone(void **state)
{
    (void)state;
    enum { JOBS_HERE = 9 };
    for (uint32_t of_reward = 0; of_reward < 3; of_reward++) {
        const uint32_t bad = of_reward == 2 ? LAST : BAD;
        const struct ops_bias never[] = {{'\n', 5}, {END, 3}, {bad, -1000}}, soon[] = {{bad, 5}};
        struct rig r;
        uint32_t done = 0, broken = 0;
        spoiled = of_reward + 1;
        rig_open(&r, &large);
        for (uint32_t i = 0; i < JOBS_HERE; i++) {
            job_make(&together[i], &mixes[of_reward ? 4 : 1 + i % 5], i);
            set(&together[i], DYNASOR_PARAMETER_CAP, 6);
            together[i].args.parameters.max_tokens = 40;
            together[i].args.sampling.bias_count = i % 3 ? 3 : 1;
            together[i].args.biases = i % 3 ? never : soon;
            for (uint32_t k = 0; k < together[i].prompt_tokens; k++)
                together[i].prompt[k] %= 200;
            assert_true(job_start(&r, &together[i], i));
        }
        while (done < JOBS_HERE)
            assert_true(turn(&r, together, &done));
        for (uint32_t i = 0; i < JOBS_HERE; i++) {
            bool ended = together[i].result.end == RUN_NUMERIC;
            CHECK(!ended || i % 3 == 0, "program %u was broken by another", i);
            broken += ended;
        }
        assert_int_equal(broken, JOBS_HERE / 3);
        rig_close(&r);
    }
    spoiled = 0;
}

/* ---- a live branch that waits --------------------------------------------------------------------------- */

/* Paused while it is probed: the chain rests when the probe is heard, until it is let go on. */
static void paused_chain(double guided)
{
    struct rig r;
    struct job *job = &together[0];
    uint32_t done = 0, count = 0;
    job_make(&alone[0], &(struct mix){DYNASOR_ALGORITHM_COT, "cot-mid"}, 7);
    alone[0].args.stop_tokens_count = 0;
    alone[0].args.parameters.max_tokens = MAX_TOKENS;
    alone[0].policy.probe.window = 40; /* never certain */
    set(&alone[0], DYNASOR_PARAMETER_GUIDED, guided);
    *job = alone[0];
    rig_open(&r, &large);
    run_all(&r, &alone[0], 1);
    assert_true(job_start(&r, job, 0));
    for (uint32_t pauses = 0; !done; pauses++) {
        while (!done &&
               (run_branches_count(job->run) < 2 || !(count = run_get(job->run, 0)->tokens_count) ||
                run_get(job->run, 0)->state != BRANCH_HELD))
            (void)turn(&r, together, &done);
        if (done)
            break;
        run_pause(job->run);
        for (uint32_t i = 0; i < 200 && run_get(job->run, 0)->state == BRANCH_HELD; i++)
            (void)turn(&r, together, &done);
        if (guided > 0) /* what it was told is its own by now */
            count = run_get(job->run, 0)->tokens_count;
        for (uint32_t i = 0; i < 20; i++) {
            (void)runs_poll(r.runs, 0);
            sleep_ns(NS_PER_MS / 10); /* a step is shorter */
        }
        assert_int_equal(run_get(job->run, 0)->tokens_count, count);
        run_resume(job->run);
        CHECK(pauses < 100, "it does not end");
    }
    same(&alone[0], job);
    rig_close(&r);
}

static void runs_a_paused_chain_decodes_nothing(void **state)
{
    (void)state;
    paused_chain(0);
    paused_chain(1);
}

/* There is room for one sequence. A returns to it, and is paused again with a row in flight: when that has
 * come back, what waits gets the room, and nobody new before it. */
static void runs_room_of_a_row_in_flight_is_found_when_it_is_back(void **state)
{
    (void)state;
    static const struct sizes one = {
        .pages = 4 * PAGES_OF_ONE, .alive_max = 1, .rows_max = 4, .tokens_max = 128};
    struct rig r;
    struct job *a = &together[0], *b = &together[1], *c = &together[2];
    uint32_t done = 0;
    for (uint32_t i = 0; i < 3; i++) {
        job_make(&together[i], &mixes[i == 1], 20 + i);
        together[i].args.stop_tokens_count = 0;
        together[i].args.parameters.max_tokens = 30;
        together[i].policy.kind = POLICY_EVEN;
        set(&together[i], DYNASOR_PARAMETER_CAP, 3);
    }
    rig_open(&r, &one);
    assert_true(job_start(&r, a, 0));
    while (run_get(a->run, 0)->tokens_count < 3)
        (void)turn(&r, together, &done);
    run_pause(a->run);
    while (!job_start(&r, b, 1))
        (void)turn(&r, together, &done);
    struct sched_stats stats = {0};
    while (stats.prompt_tokens_count < a->prompt_tokens + b->prompt_tokens) {
        (void)turn(&r, together, &done); /* until its prompt is computed */
        sched_stats(r.sched[0], &stats);
    }
    run_resume(a->run);
    uint32_t before = run_get(a->run, 0)->tokens_count;
    while (runs_poll(r.runs, 0) == 0)
        ;
    assert_int_equal(run_get(b->run, 0)->state, BRANCH_WAITING);
    assert_int_equal(run_get(a->run, 0)->tokens_count, before); /* it is in flight */
    run_pause(a->run);
    while (run_get(a->run, 0)->tokens_count == before &&
           run_get(b->run, 0)->state == BRANCH_WAITING)
        CHECK(turn(&r, together, &done), "nothing goes on");
    assert_false(job_start(&r, c, 2)); /* b was here before */
    while (!b->done)
        CHECK(turn(&r, together, &done), "what waits does not see the room");
    run_resume(a->run);
    while (!a->done)
        CHECK(turn(&r, together, &done), "nothing goes on");
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_are_the_same_alone_and_beside_64_others),
        cmocka_unit_test(runs_stopped_at_any_time_leave_nothing),
        cmocka_unit_test(runs_each_token_is_read_once),
        cmocka_unit_test(runs_a_step_ends_across_tokens_and_branches),
        cmocka_unit_test(runs_a_broken_branch_ends_its_program_alone),
        cmocka_unit_test(runs_a_paused_chain_decodes_nothing),
        cmocka_unit_test(runs_room_of_a_row_in_flight_is_found_when_it_is_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
