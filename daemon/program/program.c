#include "daemon/program/program.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "daemon/base/assert.h"
#include "daemon/base/reserve.h"
#include "daemon/program/algorithms.h"
#include "daemon/program/batches.h"
#include "daemon/program/custom.h"
#include "daemon/program/encode.h"
#include "daemon/program/livelog.h"
#include "daemon/text/codec.h"

#define CONFIDENCE_TOKENS 20u /* of the mean top-k log-probability: DeepConf's k */

struct program {                            /* what every token touches first */
    _Alignas(64) TAILQ_ENTRY(program) link; /* in news or free */
    struct run *run;                        /* NULL while QUEUED and once it has ended */
    struct codec_stream text;
    uint64_t resume_text_bytes; /* as in spec */
    uint32_t resume_tokens;     /* likewise */
    uint32_t told;              /* tokens of its path that were said */
    bool news;
    bool gathers; /* QUEUED, and in no queue: its batch is not complete */
    struct program_view view;
    TAILQ_ENTRY(program) queue; /* in waiting, while QUEUED; in driven, while CUSTOM and running */
    uint64_t active_ns;         /* driven: when it last did something */
    uint32_t profile;           /* slot, or PROFILES_NONE: spec.policy */
    struct parameters parameters;
    struct program_spec spec;
    uint8_t short_prompt[PROGRAM_SHORT_PROMPT_BYTES] __attribute__((aligned(8)));
    struct stops stops;
};

TAILQ_HEAD(program_list, program);

struct programs {
    struct programs_config config;
    struct runs *runs;
    struct run_texts texts;
    struct profiles profiles;
    struct parameters defaults[DYNASOR_ALGORITHM_COUNT];
    struct encode *encode; /* NULL: the byte codec, prompts are only counted */
    struct program *all;   /* those from fresh_count on were never touched: no memory behind them */
    uint32_t fresh_count;
    struct program_list news;
    struct program_list free;
    struct program_list waiting; /* oldest first */
    struct program_list driven;  /* CUSTOM ones that run, the longest idle first */
    struct customs *customs;
    struct batches *batches;
    uint64_t now_ns; /* of the last poll */
    bool no_room;    /* the oldest one's prompt is ready, the scheduler was full */
    struct programs_stats stats;
    uint8_t pushed[CODEC_PUSH_BYTES_MAX]; /* text of one token */
};

static bool terminal(const struct program *p)
{
    return p->view.state >= DYNASOR_STATE_DONE;
}

/* What the authors' client appends to a chain (dynasor/core/cot.py). */
#define PROBE                                                                                      \
    "... Oh, I suddenly got the answer to the whole problem, **Final Answer**\n\n\\[ \\boxed{"

static int texts_init(struct programs *ps)
{
    struct codec_scratch *scratch;
    int r = codec_scratch_new(ps->config.codec, sizeof PROBE, &scratch);
    if (r < 0)
        return r;
    r = codec_encode(ps->config.codec, scratch, (const uint8_t *)PROBE, sizeof PROBE - 1, false,
                     ps->texts.probe, RUN_TEXT_TOKENS_MAX, &ps->texts.probe_count);
    codec_scratch_free(scratch);
    ps->texts.step_tag = ps->config.step_tag;
    return r == CODEC_OK ? 0 : -EINVAL;
}

int programs_new(const struct programs_config *config, struct programs **ret_programs)
{
    struct programs *ps = calloc(1, sizeof *ps);
    if (!ps)
        return -ENOMEM;
    ps->config = *config;
    TAILQ_INIT(&ps->news);
    TAILQ_INIT(&ps->free);
    TAILQ_INIT(&ps->waiting);
    TAILQ_INIT(&ps->driven);
    if (!ps->config.idle_ns)
        ps->config.idle_ns = PROGRAM_IDLE_NS;
    profiles_init(&ps->profiles);
    for (uint32_t a = 0; a < DYNASOR_ALGORITHM_COUNT; a++)
        parameters_default(a, &ps->defaults[a]);
    ps->all = reserve(config->programs_max * sizeof *ps->all);
    int r = ps->all ? 0 : -ENOMEM;
    if (r == 0 && config->codec)
        r = encode_new(config->codec, config->prompt_bytes_max, config->context_tokens,
                       &ps->encode);
    if (r == 0)
        r = texts_init(ps);
    if (r == 0)
        r = customs_new(config->programs_max, config->codec, &ps->customs);
    if (r == 0)
        r = batches_new(config->programs_max, config->branches_max, &ps->batches);
    if (r == 0)
        r = runs_new(
            &(struct runs_config){.runs_max = config->programs_max,
                                  .branches_max = config->branches_max,
                                  .context_tokens = config->context_tokens < DYNASOR_MAX_TOKENS_MAX
                                                        ? config->context_tokens
                                                        : DYNASOR_MAX_TOKENS_MAX,
                                  .codec = config->codec,
                                  .policy = config->policy,
                                  .reward = config->reward,
                                  .others = config->others,
                                  .others_count = config->others_count,
                                  .texts = &ps->texts,
                                  .observer = config->log ? livelog_observer(config->log)
                                                          : config->observer,
                                  .embed = config->embed,
                                  .embed_codec = config->embed_codec},
            &ps->runs);
    if (r < 0) {
        programs_free(ps);
        return r;
    }
    *ret_programs = ps;
    return 0;
}

void programs_free(struct programs *ps)
{
    if (!ps)
        return;
    runs_free(ps->runs);
    encode_free(ps->encode);
    customs_free(ps->customs);
    batches_free(ps->batches);
    unreserve(ps->all, ps->config.programs_max * sizeof *ps->all);
    free(ps);
}

struct policy_options *programs_policy(struct programs *ps, uint32_t algorithm)
{
    ASSERT(algorithm < DYNASOR_ALGORITHM_COUNT);
    return &ps->profiles.all[ps->profiles.defaults[algorithm]].policy;
}

struct profiles *programs_profiles(struct programs *ps)
{
    return &ps->profiles;
}

void programs_text_run(struct programs *ps)
{
    if (ps->encode)
        encode_run(ps->encode);
}

void programs_text_stop(struct programs *ps)
{
    if (ps->encode)
        encode_stop(ps->encode);
}

void programs_fds(const struct programs *ps, int ret_fds[PROGRAMS_FDS])
{
    runs_fds(ps->runs, ret_fds);
    ret_fds[RUNS_FDS] = ps->encode ? encode_fd(ps->encode) : -1;
}

static void news_add(struct programs *ps, struct program *p)
{
    if (p->news)
        return;
    p->news = true;
    TAILQ_INSERT_TAIL(&ps->news, p, link);
}

static void news_remove(struct programs *ps, struct program *p)
{
    if (!p->news)
        return;
    p->news = false;
    TAILQ_REMOVE(&ps->news, p, link);
}

/* ---- life ------------------------------------------------------------------------------------ */

static struct program_refusal refusal(enum dynasor_status status, enum dynasor_field field,
                                      uint64_t max, uint64_t got)
{
    return (struct program_refusal){.status = status, .field = field, .max = max, .got = got};
}

static uint64_t thousandths(double value)
{
    double magnitude = value < 0 ? -value : value;
    return magnitude < 1e15 ? (uint64_t)(magnitude * 1000.0) : UINT64_MAX; /* NaN: the last */
}

static struct program_refusal refusal_of_setting(uint32_t algorithm,
                                                 const struct program_setting *setting)
{
    struct parameter_range range;
    if (setting->parameter >= DYNASOR_PARAMETER_COUNT)
        return refusal(DYNASOR_E_INVALID, DYNASOR_FIELD_PARAMETER, DYNASOR_PARAMETER_COUNT - 1,
                       setting->parameter);
    enum dynasor_field field = (enum dynasor_field)(DYNASOR_FIELD_CAP + setting->parameter);
    if (!parameter_range(algorithm, setting->parameter, &range)) /* it does not use it */
        return refusal(DYNASOR_E_UNSUPPORTED, field, 0, thousandths(setting->value) / 1000);
    uint64_t unit = range.whole ? 1000 : 1;
    struct program_refusal r = refusal(DYNASOR_E_INVALID, field, thousandths(range.most) / unit,
                                       thousandths(setting->value) / unit);
    r.least = thousandths(range.least) / unit;
    return r;
}

static struct program_refusal check_parameters(const struct programs *ps,
                                               const struct program_spec *spec,
                                               const struct parameters *parameters)
{
    if (custom_algorithm(parameters)->wants_reward && !ps->config.reward)
        return refusal(DYNASOR_E_UNSUPPORTED, DYNASOR_FIELD_SCORES, 0, 1);
    if (parameters->value[DYNASOR_PARAMETER_LIKENESS] > 0 && !runs_have_vectors(ps->runs))
        return refusal(DYNASOR_E_UNSUPPORTED, DYNASOR_FIELD_LIKENESS, 0,
                       thousandths(parameters->value[DYNASOR_PARAMETER_LIKENESS]));
    if (spec->profile_bytes > 0) {
        uint32_t slot = profiles_find(&ps->profiles, spec->profile, spec->profile_bytes);
        if (slot == PROFILES_NONE || !profiles_fit(&ps->profiles, slot, spec->algorithm))
            return refusal(DYNASOR_E_INVALID, DYNASOR_FIELD_PROFILE, 0, spec->profile_bytes);
    }
    const struct algorithm *algorithm = algorithm_get(spec->algorithm);
    uint32_t branches = algorithm->branches_max(parameters);
    if (branches > ps->config.branches_max)
        return refusal(DYNASOR_E_INVALID, DYNASOR_FIELD_BRANCHES, ps->config.branches_max,
                       branches);
    return batches_check(ps->batches, spec->client, parameters);
}

/* Apart: a SINGLE program mostly sets nothing, and needs no copy. */
__attribute__((noinline)) static struct program_refusal check_settings(
    const struct programs *ps, const struct program_spec *spec)
{
    struct parameters parameters = ps->defaults[spec->algorithm];
    parameters.max_tokens = spec->max_tokens; /* a tree is as deep as it has tokens */
    for (uint32_t i = 0; i < spec->settings_count; i++)
        if (!parameter_set(&parameters, spec->settings[i].parameter, spec->settings[i].value))
            return refusal_of_setting(spec->algorithm, &spec->settings[i]);
    return check_parameters(ps, spec, &parameters);
}

struct program_refusal program_check(const struct programs *ps, const struct program_spec *spec)
{
    const struct algorithm *algorithm = algorithm_get(spec->algorithm);
    /* The simulated engine keeps no KV: nothing can fork. */
    bool forks = spec->algorithm != DYNASOR_ALGORITHM_SINGLE;
    if ((forks && !ps->encode) || (algorithm->wants_reward && !ps->config.reward))
        return refusal(DYNASOR_E_UNSUPPORTED, DYNASOR_FIELD_ALGORITHM, 0, spec->algorithm);
    if (forks || spec->settings_count > 0)
        return check_settings(ps, spec);
    return check_parameters(ps, spec, &ps->defaults[spec->algorithm]);
}

static void view_init(struct program_view *v, uint32_t streams)
{
    v->state = DYNASOR_STATE_QUEUED;
    v->status = DYNASOR_OK;
    v->field = DYNASOR_FIELD_NONE;
    v->max = v->got = 0;
    v->streams = streams;
    v->tokens_count = v->tokens_taken = 0;
    v->text_bytes_count = v->text_bytes_taken = 0;
    v->paused = false;
    memset(&v->result, 0, sizeof v->result);
}

/* What is not a number: answer rule, end of a step, profile. */
static void settle_choices(const struct programs *ps, struct program *p,
                           const struct program_spec *spec)
{
    if (spec->answer)
        p->parameters.answer = *spec->answer;
    if (spec->step_end_bytes > 0) {
        ASSERT(spec->step_end_bytes < PARAMETER_STEP_END_BYTES);
        memcpy(p->parameters.step_end, spec->step_end, spec->step_end_bytes);
        p->parameters.step_end[spec->step_end_bytes] = '\0';
    }
    p->profile = PROFILES_NONE;
    if (spec->profile_bytes > 0)
        p->profile = profiles_find(&ps->profiles, spec->profile, spec->profile_bytes);
    else if (!spec->policy)
        p->profile = ps->profiles.defaults[spec->algorithm];
    ASSERT(p->profile != PROFILES_NONE || spec->policy);
}

/* The last one to come lets all of them stand in the queue, one behind the other. */
static void batch_join(struct programs *ps, struct program *p)
{
    uint32_t handle = (uint32_t)(p - ps->all), other = PROGRAM_NONE;
    const struct batch_comer comer = {.program = handle,
                                      .client = p->spec.client,
                                      .parameters = &p->parameters,
                                      .restarted = p->spec.restarted};
    if (!batches_come(ps->batches, &comer, ps->now_ns))
        return;
    while ((other = batches_member(ps->batches, handle, other)) != PROGRAM_NONE) {
        struct program *member = &ps->all[other];
        member->gathers = false;
        TAILQ_INSERT_TAIL(&ps->waiting, member, queue);
        /* That the batch has begun is known of each after a restart, also of those that wait for room. */
        member->view.state = DYNASOR_STATE_RUNNING;
        news_add(ps, member);
    }
}

uint32_t program_submit(struct programs *ps, const struct program_spec *spec)
{
    struct program *p = TAILQ_FIRST(&ps->free);
    if (p)
        TAILQ_REMOVE(&ps->free, p, link);
    else if (ps->fresh_count < ps->config.programs_max)
        p = &ps->all[ps->fresh_count++];
    else
        return PROGRAM_NONE;
    p->run = NULL;
    p->told = 0;
    p->spec = *spec;
    p->parameters = ps->defaults[spec->algorithm];
    p->parameters.max_tokens = spec->max_tokens;
    for (uint32_t i = 0; i < spec->settings_count; i++) {
        bool set =
            parameter_set(&p->parameters, spec->settings[i].parameter, spec->settings[i].value);
        ASSERT(set);
    }
    settle_choices(ps, p, spec);
    if (spec->prompt_bytes <= PROGRAM_SHORT_PROMPT_BYTES) {
        memcpy(p->short_prompt, spec->prompt, spec->prompt_bytes);
        p->spec.prompt = p->short_prompt;
    }
    p->resume_tokens = spec->resume_tokens;
    p->resume_text_bytes = spec->resume_text_bytes;
    if (spec->sampling.stops_bytes > 0)
        stops_init(&p->stops, spec->sampling.stops, spec->sampling.stops_bytes,
                   spec->sampling.stop_include);
    codec_stream_init(&p->text, spec->sampling.stops_bytes > 0 ? &p->stops : NULL);
    view_init(&p->view, spec->streams);
    ps->stats.active_count++;
    ps->stats.queued_count++;
    p->gathers = parameters_batched(&p->parameters);
    if (p->gathers)
        batch_join(ps, p);
    else
        TAILQ_INSERT_TAIL(&ps->waiting, p, queue);
    return (uint32_t)(p - ps->all);
}

static void unpause(struct programs *ps, struct program *p)
{
    if (!p->view.paused)
        return;
    p->view.paused = false;
    ps->stats.paused_count--;
}

static void unqueue(struct programs *ps, struct program *p)
{
    ps->stats.queued_count--;
    if (p->gathers)
        return;
    if (p == TAILQ_FIRST(&ps->waiting)) { /* only the oldest is being tokenized */
        ps->no_room = false;
        if (ps->encode)
            encode_forget(ps->encode);
    }
    TAILQ_REMOVE(&ps->waiting, p, queue);
}

/* Decoded, probed and read by the reward model: what a program is charged. */
static uint64_t tokens_of(const struct run *run)
{
    const struct run_cost *cost = run_cost(run);
    return cost->decoded_tokens + cost->probe_tokens + cost->reward_tokens;
}

static bool driven(const struct program *p)
{
    return p->spec.algorithm == DYNASOR_ALGORITHM_CUSTOM;
}

/* To the end of those that are driven. */
static void active(struct programs *ps, struct program *p)
{
    TAILQ_REMOVE(&ps->driven, p, queue);
    p->active_ns = ps->now_ns;
    TAILQ_INSERT_TAIL(&ps->driven, p, queue);
}

/* What it has spent is known, be it told or not. */
static void batch_leave(struct programs *ps, struct program *p)
{
    if (parameters_batched(&p->parameters))
        batches_leave(ps->batches, (uint32_t)(p - ps->all), p->run ? tokens_of(p->run) : 0);
}

/* Programs that a policy ends: those of one answer are in no log of answers. */
static bool is_logged(const struct programs *ps, const struct program *p)
{
    return ps->config.log && p->spec.algorithm != DYNASOR_ALGORITHM_SINGLE && !driven(p);
}

static void log_end(struct programs *ps, const struct program *p, uint32_t state)
{
    uint32_t handle = (uint32_t)(p - ps->all), algorithm = p->spec.algorithm;
    bool chain = algorithm == DYNASOR_ALGORITHM_COT;
    const struct program_result *result = &p->view.result;
    if (!is_logged(ps, p))
        return;
    if (state != DYNASOR_STATE_DONE || !p->run) {
        livelog_forget(ps->config.log, handle);
        return;
    }
    livelog_end(
        ps->config.log,
        &(struct livelog_end){
            .program = handle,
            .algorithm = algorithm,
            .verdict = result->verdict,
            .knob = result->knob,
            .cap = chain ? p->parameters.max_tokens : parameters_cap(&p->parameters),
            .group = chain ? observe_end_group(p->run, run_result(p->run)) : 0,
            .path_tokens = chain ? run_get(p->run, run_result(p->run)->branch)->path_tokens : 0,
            .of_batch = parameters_batched(&p->parameters),
            .answers_count = run_ballot(p->run)->cluster.count,
            .cost = result->cost,
            .prompt = p->spec.prompt,
            .prompt_bytes = p->spec.prompt_bytes});
}

static void finish(struct programs *ps, struct program *p, uint32_t state, uint32_t status)
{
    batch_leave(ps, p);
    log_end(ps, p, state);
    if (p->run) {
        if (driven(p))
            TAILQ_REMOVE(&ps->driven, p, queue);
        run_stop(p->run);
        p->run = NULL;
        ps->no_room = false; /* there may be some now */
    } else {
        unqueue(ps, p);
    }
    unpause(ps, p);
    p->view.state = state;
    p->view.status = status;
    ps->stats.active_count--;
    news_add(ps, p);
}

void program_end(struct programs *ps, uint32_t handle, uint32_t state, uint32_t status)
{
    struct program *p = &ps->all[handle];
    ASSERT(state >= DYNASOR_STATE_DONE && state < DYNASOR_STATE_COUNT);
    if (terminal(p))
        return;
    p->view.tokens_taken = p->view.tokens_count;
    p->view.text_bytes_taken = p->view.text_bytes_count;
    finish(ps, p, state, status);
}

void program_free(struct programs *ps, uint32_t handle)
{
    struct program *p = &ps->all[handle];
    ASSERT(p->view.state != DYNASOR_STATE_FREE);
    program_end(ps, handle, DYNASOR_STATE_CANCELLED, DYNASOR_E_CANCELLED);
    news_remove(ps, p);
    p->view.state = DYNASOR_STATE_FREE;
    TAILQ_INSERT_HEAD(&ps->free, p, link);
}

static void refuse(struct programs *ps, struct program *p, enum dynasor_status status,
                   enum dynasor_field field, uint64_t max, uint64_t got)
{
    p->view.field = field;
    p->view.max = max;
    p->view.got = got;
    finish(ps, p, DYNASOR_STATE_FAILED, status);
}

/* ---- admission ------------------------------------------------------------------------------- */

static struct ops_sample_row sampling_of(const struct program_sampling *s)
{
    return (struct ops_sample_row){.temperature = s->temperature,
                                   .top_p = s->top_p,
                                   .min_p = s->min_p,
                                   .top_k = s->top_k,
                                   .repetition = s->repetition_penalty,
                                   .presence = s->presence_penalty,
                                   .frequency = s->frequency_penalty,
                                   .bias_count = s->biases_count,
                                   .forced_token = OPS_NONE,
                                   .confidence_count = CONFIDENCE_TOKENS};
}

/* 0: the prompt's tokens are at *ret_ids (NULL: nobody looks at them); 1: not yet; 2: it was refused. */
static int prompt_ready(struct programs *ps, struct program *p, const uint32_t **ret_ids,
                        uint32_t *ret_count)
{
    const struct program_spec *spec = &p->spec;
    uint32_t tokens = spec->prompt_bytes / (uint32_t)sizeof(uint32_t);
    *ret_ids = (const uint32_t *)(const void *)spec->prompt;
    *ret_count = tokens;
    if (spec->prompt_is_tokens)
        return 0;
    if (!ps->encode) {
        *ret_ids = NULL;
        *ret_count = spec->prompt_bytes;
        return 0;
    }
    switch (encode_prompt(ps->encode, spec->prompt, spec->prompt_bytes, spec->chat, ret_ids,
                          ret_count)) {
    case ENCODE_DONE:
        if (*ret_count > 0)
            return 0;
        /* Text of nothing but characters that this tokenizer drops. */
        refuse(ps, p, DYNASOR_E_INVALID, DYNASOR_FIELD_CONTEXT_TOKENS, ps->config.context_tokens,
               0);
        return 2;
    case ENCODE_E_MANY:
        refuse(ps, p, DYNASOR_E_INVALID, DYNASOR_FIELD_CONTEXT_TOKENS, ps->config.context_tokens,
               (uint64_t)ps->config.context_tokens + spec->max_tokens);
        return 2;
    case ENCODE_E_CHAT:
        refuse(ps, p, DYNASOR_E_UNSUPPORTED, DYNASOR_FIELD_CHAT, 0, 1);
        return 2;
    default:
        return 1;
    }
}

/* False: the oldest one has to wait, and so have the others. */
static bool admit_first(struct programs *ps, struct program *p)
{
    const uint32_t *ids;
    uint32_t count;
    int ready = prompt_ready(ps, p, &ids, &count);
    if (ready != 0)
        return ready == 2;
    const struct program_spec *spec = &p->spec;
    uint32_t handle = (uint32_t)(p - ps->all);
    const struct algorithm *algorithm =
        driven(p) ? custom_algorithm(&p->parameters) : algorithm_get(spec->algorithm);
    enum runs_result r =
        runs_start(ps->runs,
                   &(struct run_args){
                       .algorithm = algorithm,
                       .parameters = p->parameters,
                       .policy = p->profile == PROFILES_NONE ? spec->policy
                                                             : &ps->profiles.all[p->profile].policy,
                       .user = handle,
                       .seed = spec->seed,
                       .tenant = spec->tenant,
                       .group = handle,
                       .sampling = sampling_of(&spec->sampling),
                       .biases = (const struct ops_bias *)(const void *)spec->sampling.biases,
                       .stop_tokens = spec->sampling.stop_tokens,
                       .stop_tokens_count = spec->sampling.stop_tokens_count,
                       .stops = spec->sampling.stops,
                       .stops_bytes = spec->sampling.stops_bytes,
                       .stop_include = spec->sampling.stop_include,
                       .ignore_eos = spec->sampling.ignore_eos},
                   ids, count, &p->run);
    if (r == RUNS_E_LONG) {
        refuse(ps, p, DYNASOR_E_INVALID, DYNASOR_FIELD_CONTEXT_TOKENS, ps->config.context_tokens,
               (uint64_t)count + spec->max_tokens);
        return true;
    }
    ASSERT(r != RUNS_E_WIDE); /* program_check() */
    if (r == RUNS_E_FULL) {
        ps->no_room = true;
        return false;
    }
    unqueue(ps, p);
    if (is_logged(ps, p))
        livelog_begin(ps->config.log, handle, &ps->profiles, p->profile);
    if (!algorithm->live)
        p->view.state = DYNASOR_STATE_RUNNING;
    if (driven(p)) {
        custom_begin(ps->customs, handle);
        p->active_ns = ps->now_ns;
        TAILQ_INSERT_TAIL(&ps->driven, p, queue);
    }
    return true;
}

static uint32_t admit(struct programs *ps)
{
    uint32_t admitted = 0;
    struct program *p;
    while (!ps->no_room && (p = TAILQ_FIRST(&ps->waiting)) && admit_first(ps, p))
        admitted++;
    return admitted;
}

/* ---- tokens ---------------------------------------------------------------------------------- */

static bool buffers_full(const struct program_view *v)
{
    return v->tokens_count - v->tokens_taken >= PROGRAM_BUFFER_TOKENS ||
           v->text_bytes_count - v->text_bytes_taken > PROGRAM_BUFFER_BYTES - CODEC_PUSH_BYTES_MAX;
}

static void text_store(struct program *p, const uint8_t *text, uint32_t bytes)
{
    struct program_view *v = &p->view;
    for (uint32_t i = 0; i < bytes; i++)
        v->text[v->text_bytes_count++ & (PROGRAM_BUFFER_BYTES - 1)] = text[i];
    if (!(v->streams & DYNASOR_STREAM_TEXT))
        v->text_bytes_taken = v->text_bytes_count;
    else if (v->text_bytes_taken < p->resume_text_bytes)
        v->text_bytes_taken =
            v->text_bytes_count < p->resume_text_bytes ? v->text_bytes_count : p->resume_text_bytes;
}

/* A stream that the client did not ask for, or already has, counts as taken. True: the text ends. */
static bool token_store(struct programs *ps, struct program *p, uint32_t token, bool last)
{
    struct program_view *v = &p->view;
    v->tokens[v->tokens_count++ & (PROGRAM_BUFFER_TOKENS - 1)] = token;
    if (!(v->streams & DYNASOR_STREAM_TOKENS) || v->tokens_count <= p->resume_tokens)
        v->tokens_taken = v->tokens_count;
    uint32_t bytes;
    bool stopped = codec_push(&p->text, ps->config.codec, token, ps->pushed, &bytes);
    text_store(p, ps->pushed, bytes);
    if (!stopped && last)
        text_store(p, ps->pushed, codec_flush(&p->text, ps->config.codec, ps->pushed));
    return stopped;
}

/* ---- what a program says --------------------------------------------------------------------- */

static void result_take(struct program *p)
{
    const struct run_result *result = run_result(p->run);
    struct program_result *to = &p->view.result;
    const char *answer;
    to->verdict = result->verdict;
    to->knob = result->knob;
    to->seen = result->seen;
    to->cost = *run_cost(p->run);
    to->profile = p->profile;
    if (run_answer(p->run, &answer, &to->answer_bytes))
        memcpy(to->answer, answer, to->answer_bytes);
}

/* Passes on what the run has said beyond that, as far as the buffers hold. */
static void tell(struct programs *ps, struct program *p, const struct run_result *result)
{
    bool over = result->end == RUN_DONE, stopped = false, full = buffers_full(&p->view);
    uint32_t branch = over ? result->branch : 0, count, end = 0;
    if (branch != RUN_NONE)
        end = run_get(p->run, branch)->path_tokens;
    while (p->told < end && !stopped && !full) {
        const uint32_t *tokens = run_path(p->run, branch, p->told, &count);
        p->view.state = DYNASOR_STATE_RUNNING;
        for (uint32_t i = 0; i < count && !stopped && !full; i++) {
            p->told++;
            stopped = token_store(ps, p, tokens[i], over && p->told == end);
            full = buffers_full(&p->view);
        }
    }
    if (over && (stopped || p->told >= end)) {
        result_take(p);
        finish(ps, p, DYNASOR_STATE_DONE, DYNASOR_OK);
        return;
    }
    if (full && !p->view.paused) {
        if (!over)
            run_pause(p->run);
        p->view.paused = true;
        ps->stats.paused_count++;
        ps->no_room = false; /* its room is there for others */
    }
    if (p->view.tokens_count > p->view.tokens_taken ||
        p->view.text_bytes_count > p->view.text_bytes_taken)
        news_add(ps, p);
}

/* ---- programs whose client decides ----------------------------------------------------------- */

struct program_refusal program_command(struct programs *ps, uint32_t handle,
                                       const struct program_command *command)
{
    struct program *p = &ps->all[handle];
    if (!driven(p))
        return refusal(DYNASOR_E_UNSUPPORTED, DYNASOR_FIELD_ALGORITHM, 0, p->spec.algorithm);
    if (terminal(p) || (p->run && run_result(p->run)->end != RUN_GOES_ON))
        return refusal(DYNASOR_OK, DYNASOR_FIELD_NONE, 0, 0);
    if (!p->run)
        return refusal(DYNASOR_E_AGAIN, DYNASOR_FIELD_COMMAND, 0, command->command);
    active(ps, p);
    return custom_command(ps->customs, handle, p->run, command);
}

bool program_is_driven(const struct programs *ps, uint32_t handle)
{
    return driven(&ps->all[handle]);
}

/* Of one that has finished nobody wants to know more. */
bool program_note(struct programs *ps, uint32_t handle, struct program_note *ret_note)
{
    const struct program *p = &ps->all[handle];
    return driven(p) && p->run && run_result(p->run)->end == RUN_GOES_ON &&
           custom_note(ps->customs, handle, p->run, ret_note);
}

void program_noted(struct programs *ps, uint32_t handle, const struct program_note *note,
                   uint32_t count)
{
    ASSERT(count > 0 && count <= note->count);
    custom_noted(ps->customs, handle, ps->all[handle].run, note, count);
}

static void notes_add(struct programs *ps, struct program *p)
{
    active(ps, p);
    news_add(ps, p);
}

static void idle_end(struct programs *ps)
{
    struct program *p;
    while ((p = TAILQ_FIRST(&ps->driven)) && ps->now_ns - p->active_ns >= ps->config.idle_ns) {
        active(ps, p);
        if (run_rests(p->run) && run_result(p->run)->end == RUN_GOES_ON)
            program_end(ps, (uint32_t)(p - ps->all), DYNASOR_STATE_FAILED, DYNASOR_E_TIMEOUT);
    }
}

/* ---- batches --------------------------------------------------------------------------------- */

static void batch_wait(struct programs *ps, const struct program *p)
{
    const struct run_result *result = run_result(p->run);
    batches_wait(ps->batches, (uint32_t)(p - ps->all), result->knob, tokens_of(p->run),
                 &result->seen);
}

static uint32_t batches_go_on(struct programs *ps)
{
    struct batch_order order;
    enum dynasor_status status;
    uint32_t handle, work = 0;
    for (; batches_next(ps->batches, &order); work++)
        run_go_on(ps->all[order.program].run, order.knob);
    while ((handle = batches_stuck(ps->batches, ps->now_ns, ps->config.idle_ns, &status)) !=
           PROGRAM_NONE)
        program_end(ps, handle, DYNASOR_STATE_FAILED, status);
    return work;
}

uint32_t programs_poll(struct programs *ps, uint64_t now_ns)
{
    ps->now_ns = now_ns;
    uint32_t user, work = batches_go_on(ps);
    struct run *run;
    work += admit(ps); /* before the next step is posted */
    work += runs_poll(ps->runs, now_ns);
    if (ps->config.log)
        livelog_take(ps->config.log);
    while ((run = runs_news(ps->runs, &user))) {
        struct program *p = &ps->all[user];
        ASSERT(p->run == run && !terminal(p));
        const struct run_result *result = run_result(run);
        if (result->end != RUN_GOES_ON)
            batch_leave(ps, p);
        if (run_waits(run))
            batch_wait(ps, p);
        else if (result->end == RUN_NUMERIC)
            finish(ps, p, DYNASOR_STATE_FAILED, DYNASOR_E_NUMERIC);
        else if (driven(p) && result->end == RUN_GOES_ON)
            notes_add(ps, p);
        else
            tell(ps, p, result);
    }
    idle_end(ps);
    if (ps->config.log)
        livelog_flush(ps->config.log);
    if (runs_room_changed(ps->runs))
        ps->no_room = false;
    return work;
}

bool program_next(struct programs *ps, uint32_t *ret_handle)
{
    struct program *p = TAILQ_FIRST(&ps->news);
    if (!p)
        return false;
    news_remove(ps, p);
    *ret_handle = (uint32_t)(p - ps->all);
    return true;
}

const struct program_view *program_view(const struct programs *ps, uint32_t handle)
{
    return &ps->all[handle].view;
}

void program_consume(struct programs *ps, uint32_t handle, uint32_t tokens_taken,
                     uint64_t text_bytes_taken)
{
    struct program *p = &ps->all[handle];
    ASSERT(tokens_taken <= p->view.tokens_count && tokens_taken >= p->view.tokens_taken);
    ASSERT(text_bytes_taken <= p->view.text_bytes_count &&
           text_bytes_taken >= p->view.text_bytes_taken);
    p->view.tokens_taken = tokens_taken;
    p->view.text_bytes_taken = text_bytes_taken;
    if (p->view.paused && !buffers_full(&p->view)) {
        unpause(ps, p);
        tell(ps, p,
             run_result(p->run)); /* what was decoded meanwhile; it may fill them again, or end */
        if (p->run && !p->view.paused && run_result(p->run)->end == RUN_GOES_ON)
            run_resume(p->run);
    }
}

uint64_t programs_due_ns(const struct programs *ps)
{
    const struct program *first = TAILQ_FIRST(&ps->waiting);
    if (first && !ps->no_room && !(ps->encode && encode_busy(ps->encode)))
        return 0;
    const struct program *idle = TAILQ_FIRST(&ps->driven);
    uint64_t due_ns = runs_due_ns(ps->runs);
    uint64_t idle_ns = idle ? idle->active_ns + ps->config.idle_ns : UINT64_MAX;
    uint64_t batch_ns = batches_due_ns(ps->batches, ps->config.idle_ns);
    due_ns = due_ns < idle_ns ? due_ns : idle_ns;
    return due_ns < batch_ns ? due_ns : batch_ns;
}

void programs_stats(const struct programs *ps, struct programs_stats *ret_stats)
{
    *ret_stats = ps->stats;
    ret_stats->tokens_count = runs_tokens_count(ps->runs);
    runs_sched_stats(ps->runs, &ret_stats->sched);
    if (ps->config.log) {
        struct livelog_stats log;
        livelog_stats(ps->config.log, &log);
        ret_stats->logged_count = log.programs_written;
        ret_stats->unlogged_count = log.programs_lost;
    }
}
