#include "daemon/program/program.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "daemon/base/assert.h"
#include "daemon/program/encode.h"
#include "daemon/text/codec.h"

#define CONFIDENCE_TOKENS 20u /* of the mean top-k log-probability: DeepConf's k */

struct program {
    TAILQ_ENTRY(program) link;  /* in news or free */
    TAILQ_ENTRY(program) queue; /* in waiting, while QUEUED */
    bool news;
    uint32_t seq; /* SCHED_NONE while QUEUED and once the branch is gone */
    struct program_spec spec;
    uint8_t short_prompt[PROGRAM_SHORT_PROMPT_BYTES] __attribute__((aligned(8)));
    struct codec_stream text;
    struct program_view view;
};

TAILQ_HEAD(program_list, program);

struct programs {
    struct programs_config config;
    struct sched *sched;
    struct encode *encode; /* NULL: the byte codec, prompts are only counted */
    struct program *all;   /* those from fresh_count on were never touched: no memory behind them */
    uint32_t fresh_count;
    struct program_list news;
    struct program_list free;
    struct program_list waiting; /* oldest first */
    bool no_room;                /* the oldest one's prompt is ready, the scheduler was full */
    struct programs_stats stats;
};

static bool terminal(const struct program *p)
{
    return p->view.state >= DYNASOR_STATE_DONE;
}

int programs_new(const struct programs_config *config, struct sched *sched,
                 struct programs **ret_programs)
{
    struct programs *ps = calloc(1, sizeof *ps);
    if (!ps)
        return -ENOMEM;
    ps->config = *config;
    ps->sched = sched;
    TAILQ_INIT(&ps->news);
    TAILQ_INIT(&ps->free);
    TAILQ_INIT(&ps->waiting);
    ps->all = calloc(config->programs_max, sizeof *ps->all);
    int r = ps->all ? 0 : -ENOMEM;
    if (r == 0 && config->codec)
        r = encode_new(config->codec, config->prompt_bytes_max, config->context_tokens,
                       &ps->encode);
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
    encode_free(ps->encode);
    free(ps->all);
    free(ps);
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
    ret_fds[0] = sched_fd(ps->sched);
    ret_fds[1] = ps->encode ? encode_fd(ps->encode) : -1;
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
    p->seq = SCHED_NONE;
    p->spec = *spec;
    if (spec->prompt_bytes <= PROGRAM_SHORT_PROMPT_BYTES) {
        memcpy(p->short_prompt, spec->prompt, spec->prompt_bytes);
        p->spec.prompt = p->short_prompt;
    }
    codec_stream_init(&p->text, ps->config.codec, spec->sampling.stops, spec->sampling.stops_bytes,
                      spec->sampling.stop_include);
    view_init(&p->view, spec->streams);
    TAILQ_INSERT_TAIL(&ps->waiting, p, queue);
    ps->stats.active_count++;
    ps->stats.queued_count++;
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
    if (p == TAILQ_FIRST(&ps->waiting)) { /* only the oldest is being tokenized */
        ps->no_room = false;
        if (ps->encode)
            encode_forget(ps->encode);
    }
    TAILQ_REMOVE(&ps->waiting, p, queue);
    ps->stats.queued_count--;
}

static void finish(struct programs *ps, struct program *p, uint32_t state, uint32_t status)
{
    if (p->view.state == DYNASOR_STATE_QUEUED && p->seq == SCHED_NONE) {
        unqueue(ps, p);
    } else {
        sched_remove(ps->sched, p->seq);
        p->seq = SCHED_NONE;
        ps->no_room = false; /* there may be some now */
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
    uint32_t seq;
    int r = sched_add(ps->sched,
                      &(struct sched_seq_args){
                          .seed = spec->seed,
                          .user = handle,
                          .tenant = spec->tenant,
                          .group = handle,
                          .prompt = ids,
                          .prompt_tokens = count,
                          .max_tokens = spec->max_tokens,
                          .sampling = sampling_of(&spec->sampling),
                          .biases = (const struct ops_bias *)(const void *)spec->sampling.biases},
                      &seq);
    if (r == SCHED_E_LONG) {
        refuse(ps, p, DYNASOR_E_INVALID, DYNASOR_FIELD_CONTEXT_TOKENS, ps->config.context_tokens,
               (uint64_t)count + spec->max_tokens);
        return true;
    }
    if (r == SCHED_E_FULL) {
        ps->no_room = true;
        return false;
    }
    unqueue(ps, p);
    p->seq = seq;
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
    else if (v->text_bytes_taken < p->spec.resume_text_bytes)
        v->text_bytes_taken = v->text_bytes_count < p->spec.resume_text_bytes
                                  ? v->text_bytes_count
                                  : p->spec.resume_text_bytes;
}

/* A stream that the client did not ask for, or already has, counts as taken. True: the text ends. */
static bool token_store(struct programs *ps, struct program *p, uint32_t token, bool last)
{
    struct program_view *v = &p->view;
    v->tokens[v->tokens_count++ & (PROGRAM_BUFFER_TOKENS - 1)] = token;
    if (!(v->streams & DYNASOR_STREAM_TOKENS) || v->tokens_count <= p->spec.resume_tokens)
        v->tokens_taken = v->tokens_count;
    uint8_t text[CODEC_PUSH_BYTES_MAX];
    uint32_t bytes;
    bool stopped = codec_push(&p->text, ps->config.codec, token, text, &bytes);
    text_store(p, text, bytes);
    if (!stopped && last)
        text_store(p, text, codec_flush(&p->text, ps->config.codec, text));
    return stopped;
}

static bool ends(const struct programs *ps, const struct program *p, uint32_t token)
{
    const struct program_sampling *s = &p->spec.sampling;
    for (uint32_t i = 0; i < s->stop_tokens_count; i++) {
        uint32_t stop;
        memcpy(&stop, s->stop_tokens + i * sizeof stop, sizeof stop);
        if (stop == token)
            return true;
    }
    return !s->ignore_eos && codec_is_end(ps->config.codec, token);
}

static void token_take(struct programs *ps, const struct sched_result *result)
{
    struct program *p = &ps->all[result->user];
    ASSERT(!terminal(p) && result->position == p->view.tokens_count);
    if (result->sampled.numeric) {
        finish(ps, p, DYNASOR_STATE_FAILED, DYNASOR_E_NUMERIC);
        return;
    }
    p->view.state = DYNASOR_STATE_RUNNING;
    ps->stats.tokens_count++;
    bool last =
        p->view.tokens_count + 1 == p->spec.max_tokens || ends(ps, p, result->sampled.token);
    if (token_store(ps, p, result->sampled.token, last) || last) {
        finish(ps, p, DYNASOR_STATE_DONE, DYNASOR_OK);
        return;
    }
    if (buffers_full(&p->view)) {
        sched_pause(ps->sched, p->seq);
        p->view.paused = true;
        ps->stats.paused_count++;
    }
    if (p->view.tokens_count > p->view.tokens_taken ||
        p->view.text_bytes_count > p->view.text_bytes_taken)
        news_add(ps, p);
}

uint32_t programs_poll(struct programs *ps, uint64_t now_ns)
{
    uint32_t work = admit(ps); /* before the next step is posted */
    work += sched_poll(ps->sched, now_ns);
    struct sched_result result;
    while (sched_next(ps->sched, &result))
        token_take(ps, &result);
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
        sched_resume(ps->sched, p->seq);
    }
}

uint64_t programs_due_ns(const struct programs *ps)
{
    const struct program *first = TAILQ_FIRST(&ps->waiting);
    if (first && !ps->no_room && !(ps->encode && encode_busy(ps->encode)))
        return 0;
    return sched_due_ns(ps->sched);
}

void programs_stats(const struct programs *ps, struct programs_stats *ret_stats)
{
    *ret_stats = ps->stats;
    sched_stats(ps->sched, &ret_stats->sched);
}
