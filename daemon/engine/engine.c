#include "daemon/engine/engine.h"

#include <errno.h>
#include <stdlib.h>

#include "daemon/base/assert.h"
#include "daemon/engine/impl.h"

int engine_open(const struct engine_config *config, char message[ENGINE_MESSAGE_BYTES],
                struct engine **ret_engine)
{
    *ret_engine = NULL;
    return config->simulate ? engine_sim_open(config, message, ret_engine)
                            : engine_model_open(config, message, ret_engine);
}

/* Its threads have ended then, and nobody writes to a batch any more. */
void engine_close(struct engine *e)
{
    struct engine_batch *left[ENGINE_ROLE_COUNT * ENGINE_STEPS_MAX];
    uint32_t count = 0;
    if (!e)
        return;
    for (uint32_t p = 0; p < ENGINE_ROLE_COUNT; p++)
        for (uint32_t i = 0; i < e->queues[p].count; i++)
            left[count++] = e->queues[p].batches[i];
    e->impl->close(e);
    while (count--) {
        left[count]->posted = false;
        if (left[count]->orphan)
            engine_batch_free(left[count]);
    }
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
    if (b->posted) {
        b->orphan = true;
        return;
    }
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

static uint32_t steps_max(const struct engine *e, uint32_t role)
{
    return greatest(1, e->info[role].steps_max);
}

static bool is_posted(const struct engine_queue *q, const struct engine_batch *batch)
{
    uint32_t i = 0;
    while (i < q->count && q->batches[i] != batch)
        i++;
    return i < q->count;
}

int engine_admit(struct engine *e, struct engine_batch *batch)
{
    ASSERT(batch->rows_count >= 1 && batch->rows_count <= e->config.rows_max);
    ASSERT(batch->tokens_count >= 1 && batch->tokens_count <= e->config.tokens_max);
    ASSERT(batch->role < ENGINE_ROLE_COUNT && e->info[batch->role].present);
    struct engine_queue *q = &e->queues[e->place[batch->role]];
    if (q->count == steps_max(e, batch->role))
        return ENGINE_E_BUSY;
    ASSERT(!batch->posted && (!batch->after || is_posted(q, batch->after)));
    batch->posted = true;
    q->batches[q->count++] = batch;
    e->wants[batch->role] = false;
    return ENGINE_OK;
}

int engine_post(struct engine *e, struct engine_batch *batch, uint64_t now_ns)
{
    int result = engine_admit(e, batch);
    if (result == ENGINE_OK)
        e->impl->post(e, batch, now_ns);
    return result;
}

void engine_want(struct engine *e, enum engine_role role, bool wants)
{
    e->wants[role] = wants;
}

static bool another_wants(const struct engine *e, enum engine_role role)
{
    bool wants = false;
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT; i++)
        wants |= i != role && e->place[i] == e->place[role] && e->wants[i];
    return wants;
}

bool engine_busy(const struct engine *e, enum engine_role role)
{
    const struct engine_queue *q = &e->queues[e->place[role]];
    if (q->count == 0)
        return false;
    return q->count == steps_max(e, role) ||
           (q->batches[q->count - 1]->role == role && another_wants(e, role));
}

/* Whoever asks first takes off the devices what is done; each role has its own of it. */
struct engine_batch *engine_next(struct engine *e, enum engine_role role, uint64_t now_ns)
{
    struct engine_queue *q = &e->queues[e->place[role]];
    struct engine_batch *batch;
    while (q->done_count < q->count && (batch = e->impl->next(e, e->place[role], now_ns))) {
        ASSERT(batch == q->batches[q->done_count]);
        q->done_count++;
    }
    uint32_t i = 0;
    while (i < q->done_count && q->batches[i]->role != role)
        i++;
    if (i == q->done_count)
        return NULL;
    batch = q->batches[i];
    q->count--;
    q->done_count--;
    for (; i < q->count; i++)
        q->batches[i] = q->batches[i + 1];
    batch->posted = false;
    return batch;
}

const char *engine_failure(const struct engine *e)
{
    return e->failure[0] ? e->failure : NULL;
}

uint64_t engine_due_ns(const struct engine *e)
{
    for (uint32_t p = 0; p < ENGINE_ROLE_COUNT; p++)
        if (e->queues[p].done_count)
            return 0;
    return e->impl->due_ns(e);
}

int engine_fd(const struct engine *e, enum engine_role role)
{
    return e->impl->fd(e, e->place[role]);
}
