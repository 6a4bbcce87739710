#include "tests/lib/schedule.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/engine/engine_model.h"

void schedule_step(struct engine *engine, struct engine_batch *batch, float *all_logits)
{
    int result = all_logits ? engine_model_post_logits(engine, batch, all_logits)
                            : engine_post(engine, batch, 0);
    CHECK(result == ENGINE_OK, "post: %d", result);
    struct pollfd fd = {.fd = engine_fd(engine, batch->role), .events = POLLIN};
    CHECK(poll(&fd, 1, 120000) == 1, "a step took two minutes");
    CHECK(engine_next(engine, batch->role, 0) == batch, "readable, and no batch");
    CHECK(!engine_next(engine, batch->role, 0), "the batch came twice");
}

/* Page numbers come from a shuffled pool, so that neighbours in a table are not in memory. */
struct pool {
    uint32_t *free;
    uint32_t count;
};

static void pool_init(struct pool *pool, uint32_t pages, struct rng *rng)
{
    pool->free = malloc(pages * sizeof *pool->free);
    CHECK(pool->free, "no memory");
    pool->count = pages;
    for (uint32_t i = 0; i < pages; i++) {
        uint32_t j = (uint32_t)rng_below(rng, i + 1);
        pool->free[i] = pool->free[j];
        pool->free[j] = i;
    }
}

static uint32_t pool_take(const struct schedule *s, struct pool *pool)
{
    CHECK(pool->count > 0, "the pool is too small for this test");
    uint32_t page = pool->free[--pool->count];
    if (s->poison)
        s->batch->freed[s->batch->freed_count++] = page;
    return page;
}

/* A copy goes before the poison of its step, so a copied page is not poisoned. */
static void start(struct schedule *s, struct schedule_seq *q, struct pool *pool)
{
    const struct schedule_seq *parent = &s->seqs[q->parent];
    uint32_t full = q->fork_at / OPS_PAGE_TOKENS, rest = q->fork_at % OPS_PAGE_TOKENS;
    memcpy(q->pages, parent->pages, full * sizeof *q->pages);
    q->pages_count = full;
    q->done = q->fork_at;
    if (!rest)
        return;
    CHECK(pool->count > 0, "the pool is too small for this test");
    q->pages[q->pages_count++] = pool->free[--pool->count];
    s->batch->copies[s->batch->copies_count++] = (struct ops_page_copy){
        .from = parent->pages[full], .to = q->pages[full], .valid_tokens = rest};
}

static void add_row(struct schedule *s, uint32_t idx, uint32_t tokens, struct pool *pool)
{
    struct engine_batch *b = s->batch;
    struct schedule_seq *q = &s->seqs[idx];
    struct engine_row *row = &b->rows[b->rows_count];
    uint32_t pages = (q->done + tokens + OPS_PAGE_TOKENS - 1) / OPS_PAGE_TOKENS;
    CHECK(pages <= SCHEDULE_PAGES_MAX, "a sequence is too long");
    while (q->pages_count < pages)
        q->pages[q->pages_count++] = pool_take(s, pool);
    *row = (struct engine_row){.seq = idx,
                               .tokens_first = b->tokens_count,
                               .tokens_count = tokens,
                               .position = q->done,
                               .want = s->want,
                               .pool_slot = idx,
                               .sampling = {.temperature = 0.8f,
                                            .top_p = 0.95f,
                                            .repetition = 1,
                                            .forced_token = OPS_NONE,
                                            .confidence_count = 8,
                                            .random = 0x9e3779b9u * (q->done + tokens)}};
    uint32_t *table = b->pages + (size_t)b->rows_count * b->pages_stride;
    memcpy(table, q->pages, pages * sizeof *table);
    if (s->share && b->rows_count > 0) {
        const uint32_t *before = table - b->pages_stride;
        uint32_t most =
            (row[-1].position + row[-1].tokens_count + OPS_PAGE_TOKENS - 1) / OPS_PAGE_TOKENS;
        uint32_t same = 0;
        while (same < most && same < pages && before[same] == table[same])
            same++;
        row->shared_pages = same;
    }
    for (uint32_t i = 0; i < tokens; i++)
        b->score[b->tokens_count + i] = s->role == ENGINE_REWARD;
    memcpy(b->tokens + b->tokens_count, q->tokens + q->done, tokens * sizeof *b->tokens);
    b->tokens_count += tokens;
    b->rows_count++;
}

static void take_results(struct schedule *s, const float *all_logits, uint32_t vocabulary)
{
    const struct engine_batch *b = s->batch;
    for (uint32_t r = 0; r < b->rows_count; r++) {
        const struct engine_row *row = &b->rows[r];
        struct schedule_seq *q = &s->seqs[row->seq];
        if (all_logits)
            memcpy(q->logits + (size_t)row->position * vocabulary,
                   all_logits + (size_t)row->tokens_first * vocabulary,
                   (size_t)row->tokens_count * vocabulary * sizeof(float));
        q->done += row->tokens_count;
        if (q->outputs) {
            q->outputs[q->done - 1] = b->outputs[r];
            q->known[q->done - 1] = true;
            for (uint32_t i = 0; s->role == ENGINE_REWARD && i < row->tokens_count; i++)
                q->outputs[row->position + i].dot = b->scores[row->tokens_first + i];
        }
    }
}

void schedule_run(struct schedule *s)
{
    struct engine_info info;
    engine_info(s->engine, s->role, &info);
    float *all = s->seqs[0].logits ? malloc((size_t)s->tokens_max * info.vocabulary * 4) : NULL;
    struct pool pool;
    pool_init(&pool, info.kv_pages, s->rng);
    struct engine_batch *b = s->batch;
    for (bool left = true; left;) {
        left = false;
        b->role = s->role;
        b->rows_count = b->tokens_count = b->copies_count = b->freed_count = 0;
        b->history_count = b->biases_count = 0;
        for (uint32_t i = 0; i < s->seqs_count; i++) {
            struct schedule_seq *q = &s->seqs[i];
            bool waits = q->parent != SCHEDULE_NONE && q->done == 0;
            left |= q->done < q->tokens_count;
            if (q->done == q->tokens_count || (s->seqs_count > 1 && rng_below(s->rng, 4) == 0) ||
                (waits && s->seqs[q->parent].done < q->fork_at) || b->tokens_count == s->tokens_max)
                continue;
            if (waits)
                start(s, q, &pool);
            uint32_t most = s->chunk_max, of_seq = q->tokens_count - q->done;
            uint32_t of_batch = s->tokens_max - b->tokens_count;
            most = of_seq < most ? of_seq : most;
            most = of_batch < most ? of_batch : most;
            uint32_t tokens = s->seqs_count > 1 ? 1 + (uint32_t)rng_below(s->rng, most) : most;
            add_row(s, i, tokens, &pool);
        }
        if (b->rows_count) {
            schedule_step(s->engine, b, all);
            take_results(s, all, info.vocabulary);
        }
    }
    free(pool.free);
    free(all);
}
