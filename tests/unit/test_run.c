/* timeout: 240 */
/* tests/unit/test_run.c: reasoning programs on a real engine with a tiny policy and a tiny reward model, freed
 * pages poisoned with NaN. Each program gives the same answer, tokens and costs alone and beside 64 others
 * in a cache that is too small for them, whatever the limits of a step; programs that are stopped at any
 * time leave nothing behind; the reward model reads each token once, a probe computes nothing that it
 * shares; a broken branch ends its program alone. */
#include <inttypes.h>
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
#define MAX_TOKENS 48u
#define BAD 299u
#define LAST (TINY_VOCABULARY - 1)

/* Text is what the random model writes: ends of lines, digits and the end are made likely. */
static const struct ops_bias biases[] = {{'\n', 5.5f}, {END, 3.5f}, {'1', 5.5f}, {'2', 5.5f}};

static const struct job_kind kind = {.biases = biases,
                                     .biases_count = COUNT_OF(biases),
                                     .answer = {.kind = ANSWER_NUMBER},
                                     .prompt_tokens_max = PROMPT_MAX,
                                     .tokens_max = MAX_TOKENS,
                                     .cap_max = 7};

static const struct mix mixes[] = {
    {DYNASOR_ALGORITHM_SINGLE, "even"}, {DYNASOR_ALGORITHM_SC, "sc-math"},
    {DYNASOR_ALGORITHM_SC, "m_of_n"},   {DYNASOR_ALGORITHM_SC, "deepconf"},
    {DYNASOR_ALGORITHM_REBASE, "even"}, {DYNASOR_ALGORITHM_MCTS, "mcts-gsm8k"},
    {DYNASOR_ALGORITHM_COT, "cot-mid"}, {DYNASOR_ALGORITHM_BEST_OF_N, "even"},
    {DYNASOR_ALGORITHM_BEAM, "even"},   {DYNASOR_ALGORITHM_COT, "cot-high"},
    {DYNASOR_ALGORITHM_SC_COT, "esc"},
};

/* spoiled 1, 2: BAD of the policy or of the reward model is NaN; 3: the reward model does not have LAST */
static void open_spoiled(struct rig *r, const struct sizes *sizes, uint32_t spoiled)
{
    char *folder[ENGINE_ROLE_COUNT] = {
        tiny_write(TINY_LLAMA, 5),
        tiny_write_vocabulary(TINY_REWARD, 6, spoiled == 3 ? LAST : TINY_VOCABULARY)};
    if (spoiled == 1 || spoiled == 2)
        tiny_spoil(folder[spoiled - 1], BAD);
    rig_open(r, folder, sizes);
}

static void open_models(struct rig *r, const struct sizes *sizes)
{
    open_spoiled(r, sizes, 0);
}

static void make(struct job *job, const struct mix *mix, uint64_t seed)
{
    struct rng rng = {.state = seed};
    job_make(job, &kind, mix, &rng);
    job_set(job, DYNASOR_PARAMETER_SUBTREES, (double)(1 + rng_below(&rng, 2)));
    if (strcmp(mix->profile, "cot-high") == 0)
        job_set(job, DYNASOR_PARAMETER_GUIDED, (double)(1 + rng_below(&rng, 2)));
}

static void make_any(struct job *job, struct rng *rng)
{
    const struct mix *mix = &mixes[rng_below(rng, COUNT_OF(mixes))];
    make(job, mix, rng_next(rng));
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
        make(&alone[i], &mixes[i % COUNT_OF(mixes)], seed + i);
    memcpy(together, alone, sizeof alone);
    open_models(&r, &large);
    jobs_run_alone(&r, alone, JOBS);
    rig_close(&r);
    for (uint32_t s = 0; s < COUNT_OF(sizes); s++) {
        open_models(&r, &sizes[s]);
        jobs_run(&r, together, JOBS);
        for (uint32_t i = 0; i < JOBS; i++)
            job_same(&alone[i], &together[i]);
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
    (void)printf("SEED=%" PRIu64 "\n", rng.state);
    open_models(&r, &sizes);
    struct disturbed d = jobs_disturb(&r, together, JOBS, 3, make_any, &rng);
    assert_true(d.done > 20 && d.stopped > 100);
    make(&together[0], &mixes[4], 3); /* all places are free again */
    jobs_run(&r, together, 1);
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
        make(job, mix, 1000 + i);
        open_models(&r, &large);
        jobs_run(&r, job, 1);
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
    make(job, &(struct mix){DYNASOR_ALGORITHM_REBASE, "even"}, 1);
    job->args.sampling.temperature = 0;
    job->args.sampling.bias_count = 1;
    job->args.biases = letter;
    job->args.parameters.max_tokens = 12;
    (void)snprintf(job->args.parameters.step_end, PARAMETER_STEP_END_BYTES, "%s", step_end);
    job_set(job, DYNASOR_PARAMETER_CAP, 1);
    job_set(job, DYNASOR_PARAMETER_DEPTH, 20);
    job_set(job, DYNASOR_PARAMETER_STEP_TOKENS, step_tokens);
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
    open_models(&r, &large);
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
            assert_true(jobs_turn(&r, job, &done));
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
        open_spoiled(&r, &large, of_reward + 1);
        for (uint32_t i = 0; i < JOBS_HERE; i++) {
            make(&together[i], &mixes[of_reward ? 4 : 1 + i % 5], i);
            job_set(&together[i], DYNASOR_PARAMETER_CAP, 6);
            together[i].args.parameters.max_tokens = 40;
            together[i].args.sampling.bias_count = i % 3 ? 3 : 1;
            together[i].args.biases = i % 3 ? never : soon;
            for (uint32_t k = 0; k < together[i].prompt_tokens; k++)
                together[i].prompt[k] %= 200;
            assert_true(job_start(&r, &together[i], i));
        }
        while (done < JOBS_HERE)
            assert_true(jobs_turn(&r, together, &done));
        for (uint32_t i = 0; i < JOBS_HERE; i++) {
            bool ended = together[i].result.end == RUN_NUMERIC;
            CHECK(!ended || i % 3 == 0, "program %u was broken by another", i);
            broken += ended;
        }
        assert_int_equal(broken, JOBS_HERE / 3);
        rig_close(&r);
    }
}

/* ---- a live branch that waits --------------------------------------------------------------------------- */

/* Paused while it is probed: the chain rests when the probe is heard, until it is let go on. */
static void paused_chain(double guided)
{
    struct rig r;
    struct job *job = &together[0];
    uint32_t done = 0, count = 0;
    make(&alone[0], &(struct mix){DYNASOR_ALGORITHM_COT, "cot-mid"}, 7);
    alone[0].args.stop_tokens_count = 0;
    alone[0].args.parameters.max_tokens = MAX_TOKENS;
    alone[0].policy.probe.window = 40; /* never certain */
    job_set(&alone[0], DYNASOR_PARAMETER_GUIDED, guided);
    *job = alone[0];
    open_models(&r, &large);
    jobs_run(&r, &alone[0], 1);
    assert_true(job_start(&r, job, 0));
    for (uint32_t pauses = 0; !done; pauses++) {
        while (!done &&
               (run_branches_count(job->run) < 2 || !(count = run_get(job->run, 0)->tokens_count) ||
                run_get(job->run, 0)->state != BRANCH_HELD))
            (void)jobs_turn(&r, together, &done);
        if (done)
            break;
        run_pause(job->run);
        for (uint32_t i = 0; i < 200 && run_get(job->run, 0)->state == BRANCH_HELD; i++)
            (void)jobs_turn(&r, together, &done);
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
    job_same(&alone[0], job);
    rig_close(&r);
}

static void runs_a_paused_chain_decodes_nothing(void **state)
{
    (void)state;
    paused_chain(0);
    paused_chain(1);
}

/* There is room for one sequence. A returns to it, and is paused again with a row in flight: when that has
 * come back, what waits gets the room, and nobody new before it. False: it came back too soon to be seen. */
static bool room_of_a_row_in_flight(void)
{
    static const struct sizes one = {
        .pages = 4 * PAGES_OF_ONE, .alive_max = 1, .rows_max = 4, .tokens_max = 128};
    struct rig r;
    struct job *a = &together[0], *b = &together[1], *c = &together[2];
    uint32_t done = 0;
    for (uint32_t i = 0; i < 3; i++) {
        make(&together[i], &mixes[i == 1], 20 + i);
        together[i].args.stop_tokens_count = 0;
        together[i].args.parameters.max_tokens = 30;
        together[i].policy.kind = POLICY_EVEN;
        job_set(&together[i], DYNASOR_PARAMETER_CAP, 3);
    }
    open_models(&r, &one);
    assert_true(job_start(&r, a, 0));
    while (run_get(a->run, 0)->tokens_count < 3)
        (void)jobs_turn(&r, together, &done);
    run_pause(a->run);
    while (!job_start(&r, b, 1))
        (void)jobs_turn(&r, together, &done);
    struct sched_stats stats = {0};
    while (stats.prompt_tokens_count < a->prompt_tokens + b->prompt_tokens) {
        (void)jobs_turn(&r, together, &done); /* until its prompt is computed */
        sched_stats(r.sched[0], &stats);
    }
    run_resume(a->run);
    uint32_t before = run_get(a->run, 0)->tokens_count;
    while (runs_poll(r.runs, 0) == 0)
        ;
    assert_int_equal(run_get(b->run, 0)->state, BRANCH_WAITING);
    if (run_get(a->run, 0)->tokens_count != before) {
        job_stop(a);
        job_stop(b);
        rig_close(&r);
        return false;
    }
    run_pause(a->run);
    while (run_get(a->run, 0)->tokens_count == before &&
           run_get(b->run, 0)->state == BRANCH_WAITING)
        CHECK(jobs_turn(&r, together, &done), "nothing goes on");
    assert_false(job_start(&r, c, 2)); /* b was here before */
    while (!b->done)
        CHECK(jobs_turn(&r, together, &done), "what waits does not see the room");
    run_resume(a->run);
    while (!a->done)
        CHECK(jobs_turn(&r, together, &done), "nothing goes on");
    rig_close(&r);
    return true;
}

static void runs_room_of_a_row_in_flight_is_found_when_it_is_back(void **state)
{
    (void)state;
    uint32_t tries = 1;
    while (!room_of_a_row_in_flight())
        CHECK(tries++ < 50, "no row is ever in flight");
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
