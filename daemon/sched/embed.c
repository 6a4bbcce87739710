#include "daemon/sched/embed.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "daemon/base/assert.h"

enum text_state { TEXT_FREE = 0, TEXT_WAITING, TEXT_AWAY, TEXT_DROPPED /* while it was away */ };

struct text {
    TAILQ_ENTRY(text) link; /* in waiting or free */
    uint32_t user;
    uint32_t count;
    enum text_state state;
};
TAILQ_HEAD(text_list, text);

struct embed {
    struct engine *engine;
    struct embed_config config;
    uint32_t tokens_max; /* of a text */
    uint32_t vector_size;
    struct text *texts;
    uint32_t *tokens; /* [texts_max, tokens_max] */
    struct engine_batch *batch;
    struct text_list waiting; /* oldest first */
    struct text_list free;
    uint32_t result_idx; /* next row of the batch to hand out */
    uint32_t result_count;
    bool in_flight;
};

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

int embed_new(const struct embed_config *config, struct engine *engine, struct embed **ret_embed)
{
    struct engine_info info;
    engine_info(engine, ENGINE_EMBED, &info);
    if (!info.present)
        return -ENOENT;
    struct embed *e = calloc(1, sizeof *e);
    if (!e)
        return -ENOMEM;
    e->engine = engine;
    e->config = *config;
    e->vector_size = info.vector_size;
    e->tokens_max = least(least(info.context_tokens, config->tokens_max), EMBED_TEXT_TOKENS_MAX);
    TAILQ_INIT(&e->waiting);
    TAILQ_INIT(&e->free);
    e->texts = calloc(config->texts_max, sizeof *e->texts);
    e->tokens = calloc((size_t)config->texts_max * e->tokens_max, sizeof *e->tokens);
    int r = e->texts && e->tokens ? engine_batch_new(engine, &e->batch) : -ENOMEM;
    if (r < 0) {
        embed_free(e);
        return r;
    }
    for (uint32_t i = 0; i < config->texts_max; i++)
        TAILQ_INSERT_TAIL(&e->free, &e->texts[i], link);
    *ret_embed = e;
    return 0;
}

void embed_free(struct embed *e)
{
    if (!e)
        return;
    /* Of a device that broke nothing comes back; then our batch stays with the engine. */
    while (e->in_flight && !engine_failure(e->engine) &&
           !engine_next(e->engine, ENGINE_EMBED, UINT64_MAX)) {
        struct pollfd fd = {.fd = embed_fd(e), .events = POLLIN};
        (void)poll(&fd, 1, 100); /* interrupted or late: asked again */
    }
    engine_want(e->engine, ENGINE_EMBED, false);
    engine_batch_free(e->batch);
    free(e->tokens);
    free(e->texts);
    free(e);
}

uint32_t embed_tokens_max(const struct embed *e)
{
    return e->tokens_max;
}

uint32_t embed_vector_size(const struct embed *e)
{
    return e->vector_size;
}

static uint32_t *tokens_of(const struct embed *e, const struct text *t)
{
    return e->tokens + (size_t)(t - e->texts) * e->tokens_max;
}

static void text_give(struct embed *e, struct text *t)
{
    t->state = TEXT_FREE;
    TAILQ_INSERT_HEAD(&e->free, t, link);
}

int embed_add(struct embed *e, uint32_t user, const uint32_t *tokens, uint32_t count,
              uint32_t *ret_text)
{
    ASSERT(count >= 1 && count <= e->tokens_max);
    struct text *t = TAILQ_FIRST(&e->free);
    if (!t)
        return EMBED_E_FULL;
    TAILQ_REMOVE(&e->free, t, link);
    TAILQ_INSERT_TAIL(&e->waiting, t, link);
    t->user = user;
    t->count = count;
    t->state = TEXT_WAITING;
    memcpy(tokens_of(e, t), tokens, count * sizeof *tokens);
    *ret_text = (uint32_t)(t - e->texts);
    return EMBED_OK;
}

void embed_remove(struct embed *e, uint32_t text)
{
    struct text *t = &e->texts[text];
    ASSERT(t->state == TEXT_WAITING || t->state == TEXT_AWAY);
    if (t->state == TEXT_AWAY) {
        t->state = TEXT_DROPPED;
        return;
    }
    TAILQ_REMOVE(&e->waiting, t, link);
    text_give(e, t);
}

static uint32_t step_post(struct embed *e, uint64_t now_ns)
{
    struct engine_batch *b = e->batch;
    struct text *t;
    engine_want(e->engine, ENGINE_EMBED, !TAILQ_EMPTY(&e->waiting));
    if (engine_busy(e->engine, ENGINE_EMBED)) /* with other models' steps */
        return 0;
    b->role = ENGINE_EMBED;
    b->rows_count = b->tokens_count = b->copies_count = 0;
    b->history_count = b->biases_count = b->freed_count = 0;
    while ((t = TAILQ_FIRST(&e->waiting)) && b->rows_count < e->config.rows_max &&
           t->count <= e->config.tokens_max - b->tokens_count) {
        TAILQ_REMOVE(&e->waiting, t, link);
        t->state = TEXT_AWAY;
        memcpy(b->tokens + b->tokens_count, tokens_of(e, t), t->count * sizeof(uint32_t));
        b->rows[b->rows_count++] = (struct engine_row){.seq = (uint32_t)(t - e->texts),
                                                       .tokens_first = b->tokens_count,
                                                       .tokens_count = t->count,
                                                       .want = ENGINE_WANT_POOL};
        b->tokens_count += t->count;
    }
    if (b->rows_count == 0)
        return 0;
    int r = engine_post(e->engine, b, now_ns);
    ASSERT(r == ENGINE_OK); /* we post only when nothing is in flight */
    e->in_flight = true;
    return b->rows_count;
}

uint32_t embed_poll(struct embed *e, uint64_t now_ns)
{
    ASSERT(e->result_count == 0);
    uint32_t work = e->in_flight ? 0 : step_post(e, now_ns);
    if (!e->in_flight || !engine_next(e->engine, ENGINE_EMBED, now_ns))
        return work;
    e->in_flight = false;
    e->result_idx = 0;
    e->result_count = e->batch->rows_count;
    return work + e->result_count;
}

bool embed_next(struct embed *e, struct embed_result *ret_result)
{
    while (e->result_count) {
        uint32_t row = e->result_idx++;
        struct text *t = &e->texts[e->batch->rows[row].seq];
        bool wanted = t->state == TEXT_AWAY;
        e->result_count--;
        *ret_result = (struct embed_result){
            .user = t->user, .vector = e->batch->vectors + (size_t)row * e->vector_size};
        text_give(e, t);
        if (wanted)
            return true;
    }
    return false;
}

uint64_t embed_due_ns(const struct embed *e)
{
    bool posts =
        !e->in_flight && !TAILQ_EMPTY(&e->waiting) && !engine_busy(e->engine, ENGINE_EMBED);
    return posts ? 0 : engine_due_ns(e->engine);
}

int embed_fd(const struct embed *e)
{
    return engine_fd(e->engine, ENGINE_EMBED);
}
