#include "tests/lib/runs_rig.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "daemon/program/algorithms.h"

/* ---- the engine ----------------------------------------------------------------------------------------- */

/* Of exactly so many pages, each. */
static void open_engines(struct rig *r, const struct sizes *sizes)
{
    char message[ENGINE_MESSAGE_BYTES] = "";
    struct engine_info info;
    struct engine_config config = {.ranks_count = 1,
                                   .threads_count = 1, /* a step is too short for more */
                                   .cpu_level = -1,
                                   .rows_max = sizes->rows_max,
                                   .tokens_max = sizes->tokens_max,
                                   .context_tokens = CONTEXT,
                                   .kv_bytes = 1u << 22,
                                   .steps_max = (uint32_t)check_number("STEPS_MAX", 0),
                                   .dot_layer = -1};
    for (uint32_t m = 0; m < ENGINE_ROLE_COUNT; m++)
        config.directory[m] = r->folder[m];
    CHECK(engine_open(&config, message, &r->engine) == 0, "%s", message);
    engine_info(r->engine, ENGINE_POLICY, &info);
    config.kv_bytes = config.kv_bytes / info.kv_pages * sizes->pages;
    engine_close(r->engine);
    config.replicas_count = config.threads_count = sizes->replicas ? sizes->replicas : 1;
    CHECK(engine_open(&config, message, &r->engine) == 0, "%s", message);
    CHECK(sizes->replicas <= 1 + RIG_OTHERS_MAX, "%u replicas", sizes->replicas);
    config.first = r->engine;
    config.directory[ENGINE_EMBED] = NULL;
    for (config.replica = 1; config.replica < sizes->replicas; config.replica++)
        CHECK(engine_open(&config, message, &r->other_engines[config.replica - 1]) == 0, "%s",
              message);
}

static int open_sched(const struct rig *r, const struct sizes *sizes, enum engine_role role,
                      struct engine *engine, struct sched **ret_sched)
{
    return sched_new(
        &(struct sched_config){.role = role,
                               .seqs_max = BRANCHES_MAX + RUNS_MAX +
                                           (r->folder[ENGINE_EMBED] ? ENGINE_POOL_SLOTS_MAX : 0),
                               .alive_max = sizes->alive_max,
                               .groups_max = RUNS_MAX,
                               .rows_max = sizes->rows_max,
                               .tokens_max = sizes->tokens_max,
                               .poison = true},
        engine, ret_sched);
}

static int open_scheds(struct rig *r, const struct sizes *sizes)
{
    int result = open_sched(r, sizes, ENGINE_POLICY, r->engine, &r->sched[0]);
    result = result ? result : open_sched(r, sizes, ENGINE_REWARD, r->engine, &r->sched[1]);
    for (uint32_t i = 0; i < RIG_OTHERS_MAX && r->other_engines[i] && !result; i++) {
        struct engine *engine = r->other_engines[i];
        result = open_sched(r, sizes, ENGINE_POLICY, engine, &r->others[i].policy);
        result =
            result ? result : open_sched(r, sizes, ENGINE_REWARD, engine, &r->others[i].reward);
    }
    return result;
}

void rig_open(struct rig *r, char *const folder[ENGINE_ROLE_COUNT], const struct sizes *sizes)
{
    static const char probe[] = "so: \\boxed{";
    *r = (struct rig){.texts.probe_count = sizeof probe - 1};
    memcpy(r->folder, folder, sizeof r->folder);
    open_engines(r, sizes);
    int result = open_scheds(r, sizes);
    if (result == 0 && folder[ENGINE_EMBED])
        result = embed_new(&(struct embed_config){.texts_max = sizes->texts_max,
                                                  .rows_max = sizes->rows_max,
                                                  .tokens_max = sizes->tokens_max},
                           r->engine, &r->embed);
    for (uint32_t i = 0; i < sizeof probe - 1; i++)
        r->texts.probe[i] = (uint8_t)probe[i];
    if (result == 0)
        result = runs_new(
            &(struct runs_config){.runs_max = RUNS_MAX,
                                  .branches_max = BRANCHES_MAX,
                                  .context_tokens = CONTEXT,
                                  .policy = r->sched[0],
                                  .reward = r->sched[1],
                                  .others = r->others,
                                  .others_count = sizes->replicas ? sizes->replicas - 1 : 0,
                                  .embed = r->embed,
                                  .texts = &r->texts},
            &r->runs);
    CHECK(result == 0, "%s", strerror(-result));
}

static void close_sched(struct sched *sched)
{
    struct sched_stats stats;
    sched_stats(sched, &stats);
    CHECK(stats.kv_pages_used + stats.kv_pages_reserved == 0, "%u pages are in use",
          stats.kv_pages_used + stats.kv_pages_reserved);
    sched_free(sched);
}

void rig_close(struct rig *r)
{
    runs_free(r->runs);
    embed_free(r->embed);
    for (uint32_t i = RIG_OTHERS_MAX; i-- > 0;) {
        if (!r->other_engines[i])
            continue;
        close_sched(r->others[i].policy);
        close_sched(r->others[i].reward);
        engine_close(r->other_engines[i]);
    }
    close_sched(r->sched[0]);
    close_sched(r->sched[1]);
    engine_close(r->engine);
    for (uint32_t m = 0; m < ENGINE_ROLE_COUNT; m++)
        if (r->folder[m])
            tiny_remove(r->folder[m]);
}

/* ---- one program ---------------------------------------------------------------------------------------- */

void job_set(struct job *job, uint32_t parameter, double value)
{
    if (parameter_set(&job->args.parameters, parameter, value))
        return;
    struct parameter_range range; /* it may be one of another algorithm */
    CHECK(!parameter_range(job->args.parameters.algorithm, parameter, &range), "%g", value);
}

void job_make(struct job *job, const struct job_kind *kind, const struct mix *mix, struct rng *rng)
{
    static const uint32_t end_token = END;
    struct profile found;
    uint64_t seed = rng->state;
    memset(job, 0, sizeof *job);
    CHECK(profile_find(mix->profile, &found) == 0, "no profile %s", mix->profile);
    job->policy = found.policy;
    job->policy.group_tokens = 4;
    job->policy.warmup_count = 3;
    job->policy.finished_count = 3;
    job->policy.probe.first_tokens = 6;
    job->policy.probe.interval_tokens = 7;
    job->args = (struct run_args){.algorithm = algorithm_get(mix->algorithm),
                                  .seed = seed,
                                  .tenant = (uint32_t)rng_below(rng, 2),
                                  .sampling = {.temperature = 0.9f,
                                               .top_p = 1,
                                               .repetition = 1,
                                               .bias_count = kind->biases_count,
                                               .forced_token = OPS_NONE,
                                               .confidence_count = 8},
                                  .biases = kind->biases,
                                  .stop_tokens = (const uint8_t *)&end_token,
                                  .stop_tokens_count = 1};
    parameters_default(mix->algorithm, &job->args.parameters);
    job->args.parameters.max_tokens = 1 + (uint32_t)rng_below(rng, kind->tokens_max);
    job->args.parameters.answer = kind->answer;
    job_set(job, DYNASOR_PARAMETER_CAP, (double)(1 + rng_below(rng, kind->cap_max)));
    job_set(job, DYNASOR_PARAMETER_WIDTH, (double)(1 + rng_below(rng, 3)));
    job_set(job, DYNASOR_PARAMETER_DEPTH, (double)(1 + rng_below(rng, 5)));
    job_set(job, DYNASOR_PARAMETER_STEP_TOKENS, (double)(3 + rng_below(rng, 12)));
    job_set(job, DYNASOR_PARAMETER_EXPANSION, 3);
    job_set(job, DYNASOR_PARAMETER_PROBE_TOKENS, (double)(1 + rng_below(rng, 8)));
    job->prompt_tokens = 1 + (uint32_t)rng_below(rng, kind->prompt_tokens_max);
    for (uint32_t i = 0; i < job->prompt_tokens; i++)
        job->prompt[i] = (uint32_t)rng_below(rng, 250);
}

bool job_start(struct rig *r, struct job *job, uint32_t user)
{
    job->args.user = job->args.group = user;
    job->args.policy = &job->policy;
    enum runs_result result =
        runs_start(r->runs, &job->args, job->prompt, job->prompt_tokens, &job->run);
    CHECK(result <= RUNS_E_FULL, "refused with %d", (int)result);
    return result == RUNS_OK;
}

static void answers_take(struct job *job)
{
    const struct ballot *ballot = run_ballot(job->run);
    job->answers_count = ballot->cluster.count;
    job->groups_count = ballot->cluster.groups;
    CHECK(job->answers_count <= ANSWERS_MAX, "%u answers", job->answers_count);
    for (uint32_t i = 0; i < job->answers_count; i++) {
        const char *text;
        job->group[i] = ballot->cluster.group[i];
        job->valid[i] = answer_valid(&ballot->answers[i]);
        if (job->args.algorithm->live || /* probes are forgotten */
            !run_answer_of(job->run, ballot->branch[i], &text, &job->bytes[i]))
            job->bytes[i] = 0;
        else
            memcpy(job->text[i], text, job->bytes[i]);
    }
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
    answers_take(job);
}

void job_stop(struct job *job)
{
    run_stop(job->run);
    job->run = NULL;
    job->done = true;
}

void job_same(const struct job *a, const struct job *b)
{
    const char *name = a->args.algorithm->name;
    CHECK(memcmp(&a->result, &b->result, sizeof a->result) == 0, "%s: result", name);
    CHECK(memcmp(&a->cost, &b->cost, sizeof a->cost) == 0, "%s: cost", name);
    CHECK(a->said_count == b->said_count &&
              memcmp(a->said, b->said, a->said_count * sizeof a->said[0]) == 0,
          "%s: tokens", name);
    CHECK(a->answer_bytes == b->answer_bytes && memcmp(a->answer, b->answer, a->answer_bytes) == 0,
          "%s: answer", name);
    CHECK(a->answers_count == b->answers_count && a->groups_count == b->groups_count &&
              memcmp(a->group, b->group, a->answers_count * sizeof a->group[0]) == 0,
          "%s: groups", name);
}

/* ---- many programs -------------------------------------------------------------------------------------- */

bool jobs_turn(struct rig *r, struct job *jobs, uint32_t *ret_done)
{
    struct run *run;
    uint32_t user, work = runs_poll(r->runs, 0);
    while ((run = runs_news(r->runs, &user))) {
        CHECK(run == jobs[user].run, "news of another program than %u", user);
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
    struct pollfd polled[RUNS_FDS];
    runs_fds(r->runs, fds);
    for (uint32_t i = 0; i < RUNS_FDS; i++)
        polled[i] = (struct pollfd){.fd = fds[i], .events = POLLIN}; /* not one below 0 */
    return poll(polled, RUNS_FDS, 5000) > 0;
}

void jobs_run(struct rig *r, struct job *jobs, uint32_t count)
{
    uint32_t started = 0, done = 0;
    while (done < count) {
        while (started < count && job_start(r, &jobs[started], started))
            started++;
        CHECK(jobs_turn(r, jobs, &done), "nothing goes on: %u of %u are done", done, count);
    }
}

void jobs_run_alone(struct rig *r, struct job *jobs, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t done = 0;
        CHECK(job_start(r, &jobs[i], i), "program %u is not started", i);
        while (!done)
            CHECK(jobs_turn(r, jobs, &done), "program %u does not go on", i);
        CHECK(jobs[i].result.end == RUN_DONE, "program %u ends with %d", i,
              (int)jobs[i].result.end);
    }
}

static bool any_runs(const struct job *jobs, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (jobs[i].run)
            return true;
    return false;
}

struct disturbed jobs_disturb(struct rig *r, struct job *jobs, uint32_t count, uint32_t stop_odds,
                              void (*make)(struct job *job, struct rng *rng), struct rng *rng)
{
    struct disturbed d = {0};
    for (uint32_t i = 0; i < count; i++)
        jobs[i].run = NULL;
    for (uint32_t i = 0; i < 4000; i++) {
        struct job *job = &jobs[rng_below(rng, count)];
        if (!job->run) {
            make(job, rng);
            if (!job_start(r, job, (uint32_t)(job - jobs)))
                job->run = NULL;
        } else if (rng_below(rng, stop_odds) == 0) {
            job_stop(job); /* a step of it may be in flight */
            d.stopped++;
        } else if (job->args.algorithm->live && rng_below(rng, 2)) {
            run_pause(job->run);
            (void)jobs_turn(r, jobs, &d.done);
            if (job->run)
                run_resume(job->run);
        }
        if (any_runs(jobs, count))
            CHECK(jobs_turn(r, jobs, &d.done), "nothing goes on, %u done", d.done);
    }
    for (uint32_t i = 0; i < count; i++)
        if (jobs[i].run)
            job_stop(&jobs[i]);
    (void)printf("%u done, %u stopped\n", d.done, d.stopped);
    return d;
}
