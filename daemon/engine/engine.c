#include "daemon/engine/engine.h"

#include <errno.h>
#include <stdlib.h>

#include "daemon/base/assert.h"
#include "daemon/engine/impl.h"

int engine_open(const struct engine_config *config, char message[ENGINE_MESSAGE_BYTES],
                struct engine **ret_engine)
{
    return config->simulate ? engine_sim_open(config, message, ret_engine)
                            : engine_model_open(config, message, ret_engine);
}

void engine_close(struct engine *e)
{
    if (e)
        e->impl->close(e);
}

void engine_info(const struct engine *e, enum engine_role role, struct engine_info *ret_info)
{
    *ret_info = e->info[role];
}

void engine_describe(const struct engine *e, char *text, uint32_t bytes)
{
    e->impl->describe(e, text, bytes);
}

static uint32_t greatest(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

int engine_batch_new(const struct engine *e, struct engine_batch **ret_batch)
{
    const struct engine_config *c = &e->config;
    uint32_t context = 0, pages = 0, vector = 0;
    for (int role = 0; role < ENGINE_ROLE_COUNT; role++) {
        const struct engine_info *info = &e->info[role];
        context = greatest(context, info->kv_pages ? info->context_tokens : 0);
        pages = greatest(pages, info->kv_pages);
        vector = greatest(vector, info->vector_size);
    }
    struct engine_batch *b = calloc(1, sizeof *b);
    if (!b)
        return -ENOMEM;
    b->pages_stride = (context + OPS_PAGE_TOKENS - 1) / OPS_PAGE_TOKENS;
    b->history_max = context * ENGINE_HISTORY_CONTEXTS;
    b->biases_max = pages ? c->rows_max * ENGINE_BIASES_OF_ROW : 0;
    size_t tokens = c->simulate ? 1 : c->tokens_max; /* counted there, never looked at */
    b->rows = calloc(c->rows_max, sizeof *b->rows);
    b->tokens = calloc(tokens, sizeof *b->tokens);
    b->score = calloc(tokens, sizeof *b->score);
    b->pages = calloc((size_t)c->rows_max * b->pages_stride + 1, sizeof *b->pages);
    b->copies = calloc(c->rows_max, sizeof *b->copies);
    b->freed = calloc(pages + 1, sizeof *b->freed);
    b->history = calloc(b->history_max + 1, sizeof *b->history);
    b->biases = calloc(b->biases_max + 1, sizeof *b->biases);
    b->outputs = calloc(c->rows_max, sizeof *b->outputs);
    b->scores = calloc(tokens, sizeof *b->scores);
    b->vectors = calloc((size_t)c->rows_max * vector + 1, sizeof *b->vectors);
    if (!b->rows || !b->tokens || !b->score || !b->pages || !b->copies || !b->freed ||
        !b->history || !b->biases || !b->outputs || !b->scores || !b->vectors) {
        engine_batch_free(b);
        return -ENOMEM;
    }
    *ret_batch = b;
    return 0;
}

void engine_batch_free(struct engine_batch *b)
{
    if (!b)
        return;
    free(b->rows);
    free(b->tokens);
    free(b->score);
    free(b->pages);
    free(b->copies);
    free(b->freed);
    free(b->history);
    free(b->biases);
    free(b->outputs);
    free(b->scores);
    free(b->vectors);
    free(b);
}

void engine_dot_vector(struct engine *e, const float *vector)
{
    e->impl->dot_vector(e, vector);
}

int engine_post(struct engine *e, struct engine_batch *batch, uint64_t now_ns)
{
    ASSERT(batch->rows_count >= 1 && batch->rows_count <= e->config.rows_max);
    ASSERT(batch->tokens_count >= 1 && batch->tokens_count <= e->config.tokens_max);
    ASSERT(batch->role < ENGINE_ROLE_COUNT && e->info[batch->role].present);
    int result = e->impl->post(e, batch, now_ns);
    e->busy[e->place[batch->role]] = true; /* with this one or another */
    return result;
}

bool engine_busy(const struct engine *e, enum engine_role role)
{
    return e->busy[e->place[role]];
}

struct engine_batch *engine_next(struct engine *e, enum engine_role role, uint64_t now_ns)
{
    struct engine_batch *batch = e->impl->next(e, e->place[role], now_ns);
    if (batch)
        e->busy[e->place[role]] = false;
    return batch;
}

const char *engine_failure(const struct engine *e)
{
    return e->failure[0] ? e->failure : NULL;
}

uint64_t engine_due_ns(const struct engine *e)
{
    return e->impl->due_ns(e);
}

int engine_fd(const struct engine *e, enum engine_role role)
{
    return e->impl->fd(e, e->place[role]);
}
