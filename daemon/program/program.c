#include "daemon/program/program.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/queue.h>

#include "daemon/base/assert.h"
#include "daemon/text/codec.h"

struct program {
    TAILQ_ENTRY(program) link; /* in news or free */
    bool news;
    uint32_t seq; /* SCHED_NONE once the branch is gone */
    struct program_spec spec;
    struct program_view view;
};

TAILQ_HEAD(program_list, program);

struct programs {
    struct sched *sched;
    struct program *all; /* those from fresh_count on were never touched: no memory behind them */
    uint32_t fresh_count;
    uint32_t max_count;
    struct program_list news;
    struct program_list free;
    struct programs_stats stats;
};

static bool terminal(const struct program *p)
{
    return p->view.state >= DYNASOR_STATE_DONE;
}

int programs_new(uint32_t programs_max, struct sched *sched, struct programs **ret_programs)
{
    struct programs *ps = calloc(1, sizeof *ps);
    if (!ps)
        return -ENOMEM;
    ps->all = calloc(programs_max, sizeof *ps->all);
    if (!ps->all) {
        free(ps);
        return -ENOMEM;
    }
    ps->sched = sched;
    TAILQ_INIT(&ps->news);
    TAILQ_INIT(&ps->free);
    ps->max_count = programs_max;
    *ret_programs = ps;
    return 0;
}

void programs_free(struct programs *ps)
{
    if (!ps)
        return;
    free(ps->all);
    free(ps);
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

uint32_t program_submit(struct programs *ps, const struct program_spec *spec)
{
    struct program *p = TAILQ_FIRST(&ps->free);
    if (!p && ps->fresh_count == ps->max_count)
        return PROGRAM_NONE;
    bool fresh = !p;
    p = p ? p : &ps->all[ps->fresh_count];
    uint32_t handle = (uint32_t)(p - ps->all);
    uint32_t prompt_tokens = spec->prompt_is_tokens
                                 ? spec->prompt_bytes / (uint32_t)sizeof(uint32_t)
                                 : codec_count(spec->prompt_bytes);
    uint32_t seq = sched_add(ps->sched, &(struct sched_seq_args){.seed = spec->seed,
                                                                 .prompt_tokens = prompt_tokens,
                                                                 .user = handle});
    if (seq == SCHED_NONE)
        return PROGRAM_NONE;
    if (fresh)
        ps->fresh_count++;
    else
        TAILQ_REMOVE(&ps->free, p, link);
    p->seq = seq;
    p->spec = *spec;
    p->view.state = DYNASOR_STATE_QUEUED;
    p->view.status = DYNASOR_OK;
    p->view.streams = spec->streams;
    p->view.tokens_count = 0;
    p->view.tokens_taken = 0;
    p->view.text_bytes_count = 0;
    p->view.text_bytes_taken = 0;
    p->view.paused = false;
    ps->stats.active_count++;
    return handle;
}

static void unpause(struct programs *ps, struct program *p)
{
    if (!p->view.paused)
        return;
    p->view.paused = false;
    ps->stats.paused_count--;
}

static void finish(struct programs *ps, struct program *p, uint32_t state, uint32_t status)
{
    sched_remove(ps->sched, p->seq);
    p->seq = SCHED_NONE;
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

static bool buffers_full(const struct program_view *v)
{
    return v->tokens_count - v->tokens_taken >= PROGRAM_BUFFER_TOKENS ||
           v->text_bytes_count - v->text_bytes_taken > PROGRAM_BUFFER_BYTES - CODEC_TOKEN_BYTES_MAX;
}

/* A stream that the client did not ask for, or already has, counts as taken. */
static void token_store(struct program *p, uint32_t token)
{
    struct program_view *v = &p->view;
    v->tokens[v->tokens_count++ & (PROGRAM_BUFFER_TOKENS - 1)] = token;
    if (!(v->streams & DYNASOR_STREAM_TOKENS) || v->tokens_count <= p->spec.resume_tokens)
        v->tokens_taken = v->tokens_count;
    uint8_t text[CODEC_TOKEN_BYTES_MAX];
    uint32_t text_bytes = codec_decode(token, text);
    for (uint32_t i = 0; i < text_bytes; i++)
        v->text[v->text_bytes_count++ & (PROGRAM_BUFFER_BYTES - 1)] = text[i];
    if (!(v->streams & DYNASOR_STREAM_TEXT))
        v->text_bytes_taken = v->text_bytes_count;
    else if (v->text_bytes_taken < p->spec.resume_text_bytes)
        v->text_bytes_taken = v->text_bytes_count < p->spec.resume_text_bytes
                                  ? v->text_bytes_count
                                  : p->spec.resume_text_bytes;
}

static void token_take(struct programs *ps, const struct sched_result *result)
{
    struct program *p = &ps->all[result->user];
    ASSERT(!terminal(p) && result->position == p->view.tokens_count);
    p->view.state = DYNASOR_STATE_RUNNING;
    token_store(p, result->token);
    ps->stats.tokens_count++;
    if (p->view.tokens_count == p->spec.max_tokens) {
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
    uint32_t work = sched_poll(ps->sched, now_ns);
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
    return sched_due_ns(ps->sched);
}

void programs_stats(const struct programs *ps, struct programs_stats *ret_stats)
{
    *ret_stats = ps->stats;
    ret_stats->steps_count = sched_steps_count(ps->sched);
}
