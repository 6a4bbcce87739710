#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/assert.h"
#include "daemon/base/clock.h"
#include "daemon/engine/engine.h"
#include "kernels/cpu/cpu.h"
#include "tests/bench/batch/batch.h"
#include "tests/bench/dynasor/options.h"

#define ROWS 257u
#define STEP_TOKENS 2048u
#define CONTEXT_TOKENS 2048u
#define KV_BYTES (1ull << 30)
#define BRANCHES_MAX 32768u /* of all programs together */
#define SEQS_PER_ROW 4u     /* as the daemon has it */
#define RING 65536u
#define PROMPT_BYTES_MAX 8192u

#define IDLE_NS (1000ull * 3600 * 1000000000) /* a batch may wait for places as long as it takes */

struct seat { /* of a program in a batch */
    uint32_t number;
    uint32_t programs;
    uint32_t place;
};

struct flight { /* a program that is under way */
    struct item *item;
    const struct work *work;
    const char *prompt;
    uint64_t begin_ns;
    uint64_t begin_steps;
    uint32_t own_sum; /* logical: tokens of the answers so far */
    uint32_t steps_room;
    struct answer *groups; /* of a chain: what was answered first of each */
    uint32_t groups_count;
};

struct host {
    struct codec *codec;
    struct engine *engine;
    struct sched *policy;
    struct sched *reward;
    struct programs *programs;
    struct observer observer;
    uint32_t programs_max;
    struct flight *flights; /* [programs_max] by handle */
};

struct host *host_open(const char *policy, const char *reward, uint32_t programs_max)
{
    struct host *h = need(calloc(1, sizeof *h));
    models_open(
        (struct engine_config){.directory = {[ENGINE_POLICY] = policy, [ENGINE_REWARD] = reward},
                               .rows_max = ROWS,
                               .tokens_max = STEP_TOKENS,
                               .context_tokens = CONTEXT_TOKENS,
                               .kv_bytes = KV_BYTES},
        &h->codec, &h->engine);
    struct sched_config sched = {.role = ENGINE_POLICY,
                                 .seqs_max = BRANCHES_MAX + programs_max,
                                 .alive_max = SEQS_PER_ROW * ROWS,
                                 .groups_max = programs_max,
                                 .rows_max = ROWS,
                                 .tokens_max = STEP_TOKENS};
    int r = sched_new(&sched, h->engine, &h->policy);
    sched.role = ENGINE_REWARD;
    if (r == 0 && reward)
        r = sched_new(&sched, h->engine, &h->reward);
    h->programs_max = programs_max;
    h->flights = need(calloc(programs_max, sizeof *h->flights));
    h->observer =
        (struct observer){.ring = need(calloc(RING, sizeof *h->observer.ring)), .size = RING};
    struct engine_info info;
    engine_info(h->engine, ENGINE_POLICY, &info);
    if (r == 0)
        r = programs_new(&(struct programs_config){.programs_max = programs_max,
                                                   .branches_max = BRANCHES_MAX,
                                                   .context_tokens = info.context_tokens,
                                                   .prompt_bytes_max = PROMPT_BYTES_MAX,
                                                   .codec = h->codec,
                                                   .policy = h->policy,
                                                   .reward = h->reward,
                                                   .idle_ns = IDLE_NS,
                                                   .observer = &h->observer},
                         &h->programs);
    if (r != 0)
        fail("programs cannot start: %s", strerror(-r));
    return h;
}

const char *host_level(void)
{
    static const char *const names[CPU_LEVEL_COUNT] = {
        [CPU_SCALAR] = "scalar", [CPU_AVX2] = "avx2", [CPU_AVX512] = "avx512", [CPU_AMX] = "amx"};
    return names[cpu_level_best()];
}

void host_close(struct host *h)
{
    programs_free(h->programs);
    sched_free(h->reward);
    sched_free(h->policy);
    engine_close(h->engine);
    codec_free(h->codec);
    free(h->observer.ring);
    free(h->flights);
    free(h);
}

/* ---- one program -------------------------------------------------------------------------------- */

static uint64_t steps_now(const struct host *h)
{
    struct programs_stats stats;
    programs_stats(h->programs, &stats);
    return stats.sched.steps_count;
}

static void submit(struct host *h, const struct experiment *e, const struct work *work,
                   const struct seat *seat, struct item *item)
{
    size_t room = strlen(work->problem->text) + sizeof LONG_ASK;
    char *prompt = need(malloc(room));
    (void)snprintf(prompt, room, "%s%s", e->task == TASK_LONG ? LONG_ASK : "", work->problem->text);
    const struct program_setting of_batch[] = {{DYNASOR_PARAMETER_BATCH, seat->number},
                                               {DYNASOR_PARAMETER_BATCH_PROGRAMS, seat->programs},
                                               {DYNASOR_PARAMETER_BATCH_PLACE, seat->place}};
    struct program_setting settings[SETTINGS_MAX + 4];
    memcpy(settings, e->settings, sizeof e->settings);
    uint32_t settings_count = e->settings_count;
    for (uint32_t i = 0; seat->number && i < sizeof of_batch / sizeof of_batch[0]; i++)
        settings[settings_count++] = of_batch[i];
    if (e->cap)
        settings[settings_count++] =
            (struct program_setting){.parameter = DYNASOR_PARAMETER_CAP, .value = e->cap};
    struct program_spec spec = {
        .sampling = {.temperature = e->temperature, .top_p = 1, .repetition_penalty = 1},
        .prompt = (const uint8_t *)prompt,
        .prompt_bytes = (uint32_t)strlen(prompt),
        .chat = true,
        .seed = work->seed + 1000003ull * work->problem->line,
        .algorithm = e->algorithm,
        .max_tokens = e->max_tokens,
        .settings = settings,
        .settings_count = settings_count,
        .policy = &e->profile.policy};
    struct program_refusal refusal = program_check(h->programs, &spec);
    if (refusal.status != DYNASOR_OK)
        fail("the program cannot run: field %d, %llu of at most %llu%s", (int)refusal.field,
             (unsigned long long)refusal.got, (unsigned long long)refusal.max,
             h->reward ? "" : " (is --reward missing?)");
    uint32_t handle = program_submit(h->programs, &spec);
    ASSERT(handle != PROGRAM_NONE);
    *item = (struct item){
        .problem = work->problem->line, .seed = work->seed, .level = work->problem->level};
    h->flights[handle] = (struct flight){.item = item,
                                         .work = work,
                                         .prompt = prompt,
                                         .begin_ns = clock_now_ns(),
                                         .begin_steps = steps_now(h)};
}

static bool is_right(const struct experiment *e, const struct work *work, const char *text,
                     uint32_t bytes)
{
    char answer[ANSWER_BYTES_MAX + 1];
    if (bytes == 0)
        return false;
    memcpy(answer, text, bytes);
    answer[bytes] = 0;
    return answer_right(e->task, work->problem, answer);
}

static struct step *step_add(struct flight *f)
{
    struct item *item = f->item;
    if (item->steps_count == f->steps_room) {
        f->steps_room = f->steps_room ? 2 * f->steps_room : 16;
        item->steps = need(realloc(item->steps, f->steps_room * sizeof *item->steps));
    }
    return &item->steps[item->steps_count++];
}

static bool is_flat(
    uint32_t algorithm) /* answers are branches, all started before the first is counted */
{
    return algorithm == DYNASOR_ALGORITHM_SC || algorithm == DYNASOR_ALGORITHM_BEST_OF_N;
}

static void group_note(struct flight *f, const struct observed *o)
{
    if (o->answer_bytes == 0 || o->group < f->groups_count)
        return;
    f->groups = need(realloc(f->groups, (o->group + 1) * sizeof *f->groups));
    answer_prepare(o->answer, o->answer_bytes, &f->groups[o->group]);
    f->groups_count = o->group + 1; /* groups are dense, in order */
}

static void answers_take(struct host *h, const struct experiment *e)
{
    const struct observed *o;
    while ((o = observe_next(&h->observer))) {
        struct flight *f = &h->flights[o->user];
        struct item *item = f->item;
        uint64_t probed = item->cost.probe_tokens;
        bool chain = e->algorithm == DYNASOR_ALGORITHM_COT;
        f->own_sum += o->own_tokens * (o->has_reward ? 2u : 1u);
        struct step *s = step_add(f);
        *s = (struct step){.tokens =
                               (uint32_t)(chain ? o->at_tokens
                                          : is_flat(e->algorithm)
                                              ? f->own_sum
                                              : o->cost.decoded_tokens + o->cost.reward_tokens),
                           .probe_tokens = (uint32_t)(o->cost.probe_tokens - probed),
                           .winner = o->winner,
                           .group = o->answer_bytes ? o->group : CERTAINDEX_EMPTY,
                           .right = is_right(e, f->work, o->answer, o->answer_bytes),
                           .has_reward = o->has_reward,
                           .hesitant = o->hesitant,
                           .reward = o->reward,
                           .log_probability = (float)o->log_probability,
                           .entropy = (float)o->entropy,
                           .confidence = o->confidence};
        if (chain)
            group_note(f, o);
        item->cost = o->cost;
        item->hash = (item->hash ^ o->tokens_hash) * 0x100000001b3u;
    }
    if (h->observer.lost)
        fail("%llu answers were not seen", (unsigned long long)h->observer.lost);
}

/* The end of a chain is no probe: its answer is in no ballot. */
static void chain_end(struct flight *f, const struct program_result *result)
{
    struct answer answer;
    uint32_t group = 0;
    answer_prepare(result->answer, result->answer_bytes, &answer);
    while (group < f->groups_count && !answer_equal(&f->groups[group], &answer))
        group++;
    struct step *s = step_add(f);
    *s = (struct step){.tokens = (uint32_t)result->cost.decoded_tokens,
                       .winner = f->item->steps_count - 1,
                       .group = result->answer_bytes ? group : CERTAINDEX_EMPTY,
                       .right = f->item->right};
}

static void finish(struct host *h, const struct experiment *e, uint32_t handle)
{
    const struct program_view *v = program_view(h->programs, handle);
    struct flight *f = &h->flights[handle];
    struct item *item = f->item;
    if (v->state != DYNASOR_STATE_DONE)
        fail("problem %u, seed %u ended in state %u, status %u", item->problem, item->seed,
             v->state, v->status);
    const struct program_result *result = &v->result;
    item->verdict = result->verdict;
    item->knob = result->knob;
    item->cost = result->cost;
    item->right = is_right(e, f->work, result->answer, result->answer_bytes);
    item->latency_steps = (uint32_t)(steps_now(h) - f->begin_steps);
    item->latency_s = (double)(clock_now_ns() - f->begin_ns) / 1e9;
    if (e->algorithm == DYNASOR_ALGORITHM_COT)
        chain_end(f, result);
    else if (is_flat(e->algorithm) && item->steps_count) {
        /* What is charged but belongs to no answer: the prompt, read by the reward model. */
        uint64_t rest = item_tokens(item) > f->own_sum ? item_tokens(item) - f->own_sum : 0;
        for (uint32_t i = 0; i < item->steps_count; i++)
            item->steps[i].tokens += (uint32_t)rest;
    }
    program_free(h->programs, handle);
    free((void *)(uintptr_t)f->prompt);
    free(f->groups);
    *f = (struct flight){0};
}

/* ---- all of them -------------------------------------------------------------------------------- */

static void wait_for_work(struct host *h)
{
    int fds[PROGRAMS_FDS];
    struct pollfd polled[PROGRAMS_FDS];
    programs_fds(h->programs, fds);
    for (uint32_t i = 0; i < PROGRAMS_FDS; i++)
        polled[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
    (void)poll(polled, PROGRAMS_FDS, 100); /* asked again either way */
}

/* In which order programs are submitted, and where each has its seat. A batch after the other: one that is
 * complete ends by itself, and makes room for the next. */
static struct seat *seats_make(const struct host *h, const struct experiment *e,
                               const struct work *work, uint32_t count, uint32_t *order)
{
    struct seat *seats = need(calloc(count + 1, sizeof *seats));
    uint32_t taken = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (!experiment_batched(e))
            order[taken++] = i;
        if (!experiment_batched(e) || seats[i].number)
            continue;
        uint32_t first = taken;
        for (uint32_t k = i; k < count; k++) {
            if (work[k].seed != work[i].seed)
                continue;
            seats[k] = (struct seat){.number = work[i].seed + 1, .place = taken - first};
            order[taken++] = k;
        }
        for (uint32_t k = first; k < taken; k++)
            seats[order[k]].programs = taken - first;
        if (taken - first > h->programs_max)
            fail("a batch of %u programs is more than --programs %u", taken - first,
                 h->programs_max);
    }
    return seats;
}

void host_run(struct host *h, const struct experiment *e, const struct work *work, uint32_t count,
              const char *progress, struct items *ret_items)
{
    struct items items = {.experiment = *e, .count = count};
    items.all = need(calloc(count ? count : 1, sizeof *items.all));
    uint64_t begin_ns = clock_now_ns();
    struct progress said = {progress, "programs", begin_ns, begin_ns};
    uint32_t next = 0, done = 0;
    uint32_t *order = need(calloc(count + 1, sizeof *order));
    struct seat *seats = seats_make(h, e, work, count, order);
    while (done < count) {
        for (; next < count && next - done < h->programs_max; next++) {
            uint32_t at = order[next];
            submit(h, e, &work[at], &seats[at], &items.all[at]);
        }
        uint32_t handle, did = programs_poll(h->programs, clock_now_ns());
        answers_take(h, e);
        while (program_next(h->programs, &handle)) {
            const struct program_view *v = program_view(h->programs, handle);
            if (v->state >= DYNASOR_STATE_DONE) {
                finish(h, e, handle);
                done++;
            } else {
                program_consume(h->programs, handle, v->tokens_count, v->text_bytes_count);
            }
        }
        if (did == 0 && programs_due_ns(h->programs) == UINT64_MAX)
            wait_for_work(h);
        progress_say(&said, done, count);
    }
    free(order);
    free(seats);
    items.seconds = (double)(clock_now_ns() - begin_ns) / 1e9;
    (void)snprintf(items.level, sizeof items.level, "%s", host_level());
    for (uint32_t i = 0; i < count; i++)
        items.problems_count += i == 0 || items.all[i].problem != items.all[i - 1].problem;
    *ret_items = items;
}
