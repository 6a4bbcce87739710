/* timeout: 240 */
/* tests/unit/test_replicas.c: programs on several engines with the same models (daemon/program/run_replica.c).
 * On tiny models, freed pages poisoned with NaN: each program gives the same answer, tokens, groups and costs on one
 * replica and on three that are too small for all of them; one program is computed by one replica and by no
 * other; it goes to the one with the least to do, to another where that one is full, and waits where none has
 * room; programs that are stopped at any time leave nothing anywhere. On the simulated engine: whole programs
 * spread, say the same and are counted together; one that pauses goes on where it was. */
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
#include "daemon/program/program.h"
#include "tests/lib/runs_rig.h"

#define JOBS 65u

static const struct ops_bias biases[] = {{'\n', 5.5f}, {END, 3.5f}, {'a', 8.5f},
                                         {'b', 8.5f},  {'c', 7.5f}, {' ', 7.5f}};

static const struct job_kind kind = {.biases = biases,
                                     .biases_count = COUNT_OF(biases),
                                     .answer = {.kind = ANSWER_TEXT},
                                     .prompt_tokens_max = 50,
                                     .tokens_max = 40,
                                     .cap_max = 7};

static const struct mix mixes[] = {
    {DYNASOR_ALGORITHM_SINGLE, "even"}, {DYNASOR_ALGORITHM_SC, "sc-math"},
    {DYNASOR_ALGORITHM_REBASE, "even"}, {DYNASOR_ALGORITHM_MCTS, "mcts-gsm8k"},
    {DYNASOR_ALGORITHM_COT, "cot-mid"}, {DYNASOR_ALGORITHM_BEST_OF_N, "even"},
    {DYNASOR_ALGORITHM_BEAM, "even"},   {DYNASOR_ALGORITHM_SC_COT, "esc"},
    {DYNASOR_ALGORITHM_SC, "deepconf"},
};

static void open_models(struct rig *r, const struct sizes *sizes)
{
    char *folder[ENGINE_ROLE_COUNT] = {tiny_write(TINY_LLAMA, 5), tiny_write(TINY_REWARD, 6),
                                       sizes->texts_max ? tiny_write(TINY_BERT, 7) : NULL};
    rig_open(r, folder, sizes);
}

/* Half of them compare answers by likeness, by either model's vectors. */
static void make(struct job *job, const struct mix *mix, uint64_t seed)
{
    struct rng rng = {.state = seed};
    job_make(job, &kind, mix, &rng);
    job->args.tenant = (uint32_t)rng_below(&rng, 5);
    if (mix->algorithm == DYNASOR_ALGORITHM_SINGLE || rng_below(&rng, 2))
        return;
    job_set(job, DYNASOR_PARAMETER_LIKENESS, 0.9);
    job_set(job, DYNASOR_PARAMETER_LIKENESS_BY, (double)rng_below(&rng, 2));
}

static void make_any(struct job *job, struct rng *rng)
{
    const struct mix *mix = &mixes[rng_below(rng, COUNT_OF(mixes))];
    make(job, mix, rng_next(rng));
}

/* One branch that decodes so many tokens behind so many. */
static void make_single(struct job *job, uint32_t prompt_tokens, uint32_t max_tokens)
{
    make(job, &mixes[0], 1);
    job->args.tenant = 0;
    job->args.ignore_eos = true;
    job->args.stop_tokens_count = 0;
    job->args.parameters.max_tokens = max_tokens;
    job->prompt_tokens = prompt_tokens;
}

static const struct sizes large = {.pages = 4096,
                                   .alive_max = 0,
                                   .rows_max = 16,
                                   .tokens_max = 128,
                                   .texts_max = 64};

static struct sched *sched_of(const struct rig *r, uint32_t replica, uint32_t model)
{
    if (replica == 0)
        return r->sched[model];
    return model ? r->others[replica - 1].reward : r->others[replica - 1].policy;
}

static struct sched_stats stats_of(const struct rig *r, uint32_t replica, uint32_t model)
{
    struct sched_stats stats;
    sched_stats(sched_of(r, replica, model), &stats);
    return stats;
}

static struct job alone[JOBS], together[JOBS];

/* ---- what comes of them -------------------------------------------------------------------------------- */

static void runs_are_the_same_on_one_replica_and_on_three(void **state)
{
    static const struct sizes sizes[] = {
        {.pages = 4 * PAGES_OF_ONE, .rows_max = 5, .tokens_max = 64, .texts_max = 1},
        {.pages = 8 * PAGES_OF_ONE,
         .alive_max = 6,
         .rows_max = 8,
         .tokens_max = 80,
         .texts_max = 9},
    };
    uint64_t seed = check_number("SEED", now_ns());
    struct rig r;
    (void)state;
    (void)printf("SEED=%" PRIu64 "\n", seed);
    for (uint32_t i = 0; i < JOBS; i++)
        make(&alone[i], &mixes[i % COUNT_OF(mixes)], seed + i);
    memcpy(together, alone, sizeof alone);
    open_models(&r, &large);
    jobs_run_alone(&r, alone, JOBS);
    rig_close(&r);
    for (uint32_t s = 0; s < COUNT_OF(sizes); s++) {
        struct sizes three = sizes[s];
        uint64_t rows[3], parked = 0;
        three.replicas = 3;
        open_models(&r, &three);
        jobs_run(&r, together, JOBS);
        for (uint32_t i = 0; i < JOBS; i++)
            job_same(&alone[i], &together[i]);
        for (uint32_t i = 0; i < 3; i++) {
            rows[i] = stats_of(&r, i, 0).rows_count;
            parked += stats_of(&r, i, 0).parked_count;
        }
        rig_close(&r);
        (void)printf("rows: %" PRIu64 ", %" PRIu64 ", %" PRIu64 "; parked %" PRIu64 " times\n",
                     rows[0], rows[1], rows[2], parked);
        assert_true(parked > 10);
        for (uint32_t i = 0; i < 3; i++)
            assert_true(rows[i] > (rows[0] + rows[1] + rows[2]) / 20);
    }
}

/* Branches, what scores them and vectors of the policy: all of it on the replica of the tenant. */
static void a_run_is_computed_by_one_replica(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 2 * COUNT_OF(mixes); i++) {
        struct sizes sizes = large;
        struct rig r;
        uint32_t its = i % 3;
        sizes.replicas = 3;
        make(&together[0], &mixes[i % COUNT_OF(mixes)], 100 + i);
        together[0].args.tenant = its;
        if (parameter_whole(&together[0].args.parameters, DYNASOR_PARAMETER_LIKENESS_BY) == 0)
            job_set(&together[0], DYNASOR_PARAMETER_LIKENESS_BY, 1);
        open_models(&r, &sizes);
        jobs_run(&r, together, 1);
        for (uint32_t replica = 0; replica < 3; replica++) {
            uint64_t policy = stats_of(&r, replica, 0).rows_count;
            uint64_t reward = stats_of(&r, replica, 1).rows_count;
            bool scores = replica == its && together[0].args.algorithm->wants_reward;
            CHECK((policy > 0) == (replica == its) && (reward > 0) == scores,
                  "%s of tenant %u: replica %u has %" PRIu64 " and %" PRIu64 " rows",
                  together[0].args.algorithm->name, its, replica, policy, reward);
        }
        rig_close(&r);
    }
}

static void runs_stopped_at_any_time_leave_nothing(void **state)
{
    static const struct sizes sizes = {.pages = 8 * PAGES_OF_ONE,
                                       .alive_max = 12,
                                       .rows_max = 8,
                                       .tokens_max = 64,
                                       .texts_max = 3,
                                       .replicas = 4};
    struct rng rng = {.state = check_number("SEED", now_ns())};
    struct rig r;
    (void)state;
    (void)printf("SEED=%" PRIu64 "\n", rng.state);
    open_models(&r, &sizes);
    struct disturbed d = jobs_disturb(&r, together, JOBS, 3, make_any, &rng);
    assert_true(d.done > 20 && d.stopped > 100);
    rig_close(&r);
}

#define PAGES (4 * PAGES_OF_ONE) /* the least: the reward model gets a quarter */

/* ---- where they go ------------------------------------------------------------------------------------- */

static void start(struct rig *r, uint32_t number, uint32_t tokens, uint32_t replica)
{
    make_single(&together[number], 1, tokens);
    CHECK(job_start(r, &together[number], number), "program %u finds no room", number);
    CHECK(run_replica(together[number].run) == replica, "program %u is on replica %u, not %u",
          number, run_replica(together[number].run), replica);
}

/* Long ones take all pages, short ones a page each. */
static void a_full_replica_is_passed_over(void **state)
{
    static const struct sizes sizes = {
        .pages = PAGES, .rows_max = 16, .tokens_max = 128, .replicas = 2};
    enum { LONG = 8, ALL = LONG + PAGES };
    uint32_t done = 0;
    struct rig r;
    (void)state;
    open_models(&r, &sizes);
    for (uint32_t i = 0; i < LONG; i++)
        start(&r, i, CONTEXT - 1, i % 2);
    for (uint32_t i = 1; i < LONG; i += 2)
        job_stop(&together[i]);
    for (uint32_t i = LONG; i < ALL; i++)
        start(&r, i, OPS_PAGE_TOKENS - 1, 1); /* at last the first has less to do, and no room */
    (void)runs_room_changed(r.runs);
    make_single(&together[ALL], 1, 8);
    CHECK(!job_start(&r, &together[ALL], ALL), "there is room that cannot be");
    CHECK(!runs_room_changed(r.runs), "a refusal changed the room");
    job_stop(&together[0]);
    CHECK(runs_room_changed(r.runs), "nobody is told of the room");
    start(&r, ALL, 8, 0);
    job_stop(&together[LONG]);
    start(&r, LONG, 8, 0); /* 4 against 19 */
    while (done < LONG / 2 - 1 + PAGES + 1)
        CHECK(jobs_turn(&r, together, &done), "nothing goes on");
    rig_close(&r);
}

/* The third goes where two branches are as much as one long one, in steps, but less memory. */
static void the_one_with_least_to_do_is_taken(void **state)
{
    struct sizes sizes = large;
    struct rig r;
    (void)state;
    sizes.replicas = 3;
    open_models(&r, &sizes);
    start(&r, 0, 100, 0);
    start(&r, 1, 10, 1);
    start(&r, 2, 40, 2);
    start(&r, 3, 10, 1);
    start(&r, 4, 10, 2);
    start(&r, 5, 10, 0);
    start(&r, 6, 10, 1);
    job_stop(&together[0]);
    job_stop(&together[5]);
    start(&r, 7, 10, 0);
    for (uint32_t i = 0; i < 8; i++)
        if (together[i].run)
            job_stop(&together[i]);
    /* Nothing to do anywhere: each tenant's own, also the greatest number's. */
    for (uint32_t tenant = UINT32_MAX - 6; tenant != 3; tenant++) {
        make_single(&together[0], 1, 10);
        together[0].args.tenant = tenant;
        assert_true(job_start(&r, &together[0], 0));
        assert_int_equal(run_replica(together[0].run), tenant % 3);
        job_stop(&together[0]);
    }
    start(&r, 0, 10, 0);
    start(&r, 1, 10, 1);
    make_single(&together[2], 1, 10);
    together[2].args.tenant = UINT32_MAX;
    assert_true(job_start(&r, &together[2], 2));
    assert_int_equal(run_replica(together[2].run), 2);
    for (uint32_t i = 0; i < 3; i++)
        job_stop(&together[i]);
    rig_close(&r);
}

/* Memory that is promised becomes memory in use as tokens are written, and counts as it did. */
static void memory_in_use_counts_as_promised_memory_does(void **state)
{
    struct sizes sizes = large;
    struct rig r;
    (void)state;
    sizes.replicas = 2;
    open_models(&r, &sizes);
    start(&r, 0, 4 * OPS_PAGE_TOKENS - 1, 0);
    while (stats_of(&r, 0, 0).kv_pages_used < 4)
        (void)runs_poll(r.runs, 0);
    assert_true(together[0].run && stats_of(&r, 0, 0).kv_pages_reserved == 0);
    start(&r, 1, 2 * OPS_PAGE_TOKENS - 1, 1);
    start(&r, 2, 1, 1);
    for (uint32_t i = 0; i < 3; i++)
        job_stop(&together[i]);
    rig_close(&r);
}

/* Branches of a wide program wait on their replica: a new one does not overtake them there. */
static void new_runs_stand_back_behind_those_that_wait(void **state)
{
    static const struct sizes sizes = {
        .pages = PAGES, .rows_max = 16, .tokens_max = 128, .replicas = 2};
    enum { LONG = PAGES / PAGES_OF_ONE };
    struct job *wide = &together[0];
    uint32_t done = 0;
    struct rig r;
    (void)state;
    open_models(&r, &sizes);
    make(wide, &mixes[1], 7);
    job_set(wide, DYNASOR_PARAMETER_LIKENESS, 0);
    job_set(wide, DYNASOR_PARAMETER_CAP, 24);
    wide->args.tenant = 0;
    wide->args.parameters.max_tokens = 80;
    wide->prompt_tokens = 1;
    assert_true(job_start(&r, wide, 0));
    while (runs_poll(r.runs, 0) == 0 || stats_of(&r, 0, 0).kv_pages_reserved < PAGES - 3)
        ; /* its prompt is read, branches have what room there is, but for a page */
    CHECK(stats_of(&r, 0, 0).kv_pages_reserved < PAGES, "there is no room at all");
    for (uint32_t i = 1; i <= LONG; i++)
        start(&r, i, CONTEXT - 1, 1);
    make_single(&together[LONG + 1], 1, 1);
    CHECK(!job_start(&r, &together[LONG + 1], LONG + 1), "it has overtaken those that wait");
    while (done < LONG + 1)
        CHECK(jobs_turn(&r, together, &done), "nothing goes on");
    start(&r, 1, 1, 0);
    job_stop(&together[1]);
    rig_close(&r);
}

/* ---- whole programs, simulated ------------------------------------------------------------------------- */

#define STEP_NS 1000u
#define PROGRAMS 12u
#define TOKENS 200u

struct sim {
    struct engine *engine[3];
    struct runs_replica replicas[3];
    struct programs *programs;
    uint64_t now_ns;
};

struct said {
    uint32_t count;
    uint32_t token[TOKENS];
};

static void sim_open(struct sim *s, uint32_t replicas)
{
    char message[ENGINE_MESSAGE_BYTES];
    *s = (struct sim){.now_ns = 1};
    for (uint32_t i = 0; i < replicas; i++) {
        const struct engine_config config = {
            .simulate = true, .sim_step_ns = STEP_NS, .rows_max = 4, .tokens_max = 4096};
        const struct sched_config sched = {.seqs_max = 2 * PROGRAMS,
                                           .alive_max = 3,
                                           .groups_max = PROGRAMS,
                                           .rows_max = 4,
                                           .tokens_max = 4096};
        assert_int_equal(engine_open(&config, message, &s->engine[i]), 0);
        assert_int_equal(sched_new(&sched, s->engine[i], &s->replicas[i].policy), 0);
    }
    assert_int_equal(programs_new(&(struct programs_config){.programs_max = PROGRAMS,
                                                            .branches_max = PROGRAMS,
                                                            .context_tokens = UINT32_MAX,
                                                            .prompt_bytes_max = 4096,
                                                            .policy = s->replicas[0].policy,
                                                            .others = &s->replicas[1],
                                                            .others_count = replicas - 1},
                                  &s->programs),
                     0);
}

static void sim_close(struct sim *s)
{
    programs_free(s->programs);
    for (uint32_t i = 0; i < 3; i++) {
        sched_free(s->replicas[i].policy);
        engine_close(s->engine[i]);
    }
}

static void sim_take(struct sim *s, uint32_t handle, struct said *said)
{
    const struct program_view *v = program_view(s->programs, handle);
    for (uint32_t i = v->tokens_taken; i < v->tokens_count; i++)
        said->token[said->count++] = v->tokens[i % PROGRAM_BUFFER_TOKENS];
    program_consume(s->programs, handle, v->tokens_count, v->text_bytes_count);
}

/* The slow one is not read, and pauses, until nothing else goes on. Returns the time that it took. */
static uint64_t sim_run(struct sim *s, uint32_t slow, struct said said[PROGRAMS])
{
    static const uint8_t prompt[4];
    uint32_t handle[PROGRAMS];
    memset(said, 0, PROGRAMS * sizeof *said);
    for (uint32_t i = 0; i < PROGRAMS; i++) {
        struct program_spec spec = {.seed = 7 + i,
                                    .streams = DYNASOR_STREAM_TOKENS,
                                    .max_tokens = TOKENS - i,
                                    .prompt = prompt,
                                    .prompt_bytes = sizeof prompt};
        handle[i] = program_submit(s->programs, &spec);
    }
    for (;;) {
        uint32_t work = programs_poll(s->programs, s->now_ns);
        for (uint32_t i = 0; i < PROGRAMS; i++)
            if (i != slow)
                sim_take(s, handle[i], &said[i]);
        uint64_t due_ns = programs_due_ns(s->programs);
        if (work || due_ns <= s->now_ns)
            continue;
        if (due_ns == UINT64_MAX && slow == PROGRAMS)
            break;
        if (due_ns == UINT64_MAX)
            slow = PROGRAMS;
        else
            s->now_ns = due_ns;
    }
    for (uint32_t i = 0; i < PROGRAMS; i++) {
        assert_int_equal(program_view(s->programs, handle[i])->state, DYNASOR_STATE_DONE);
        program_free(s->programs, handle[i]);
    }
    return s->now_ns;
}

static void programs_spread_and_say_the_same(void **state)
{
    static struct said wanted[PROGRAMS], found[PROGRAMS];
    struct programs_stats stats;
    struct sim s;
    (void)state;
    sim_open(&s, 1);
    uint64_t one_ns = sim_run(&s, PROGRAMS, wanted);
    sim_close(&s);
    assert_int_equal(wanted[3].count, TOKENS - 3);
    for (uint32_t slow = 0; slow <= PROGRAMS; slow += 5) {
        uint64_t steps = 0;
        sim_open(&s, 3);
        uint64_t three_ns = sim_run(&s, slow == 10 ? PROGRAMS : slow, found);
        assert_memory_equal(found, wanted, sizeof found);
        programs_stats(s.programs, &stats);
        for (uint32_t i = 0; i < 3; i++) {
            struct sched_stats of;
            sched_stats(s.replicas[i].policy, &of);
            CHECK(of.rows_count > 2 * TOKENS, "replica %u: %" PRIu64 " rows", i, of.rows_count);
            steps += of.steps_count;
        }
        assert_int_equal(stats.sched.steps_count, steps);
        assert_int_equal(stats.active_count, 0);
        CHECK(slow != 10 || three_ns < one_ns / 2, "%" PRIu64 " ns, on one %" PRIu64, three_ns,
              one_ns);
        sim_close(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_are_the_same_on_one_replica_and_on_three),
        cmocka_unit_test(a_run_is_computed_by_one_replica),
        cmocka_unit_test(runs_stopped_at_any_time_leave_nothing),
        cmocka_unit_test(a_full_replica_is_passed_over),
        cmocka_unit_test(the_one_with_least_to_do_is_taken),
        cmocka_unit_test(memory_in_use_counts_as_promised_memory_does),
        cmocka_unit_test(new_runs_stand_back_behind_those_that_wait),
        cmocka_unit_test(programs_spread_and_say_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
