#include "daemon/engine/step.h"

#include <string.h>

#include "daemon/base/assert.h"

static uint64_t padded(uint64_t bytes)
{
    return (bytes + OPS_ALIGN_BYTES - 1) / OPS_ALIGN_BYTES * OPS_ALIGN_BYTES;
}

uint64_t step_image_bytes(const struct step_limits *l)
{
    uint64_t of_tokens = padded((uint64_t)l->tokens_max * sizeof(uint32_t));
    uint64_t of_rows = padded((uint64_t)l->rows_max * sizeof(uint32_t));
    return 9 * of_tokens   /* tokens, positions, seqs, shared, pools, segments, zeros */
           + 2 * of_tokens /* heads (tests want every position) and scores */
           + of_rows       /* lasts */
           + padded((uint64_t)l->rows_max * l->pages_stride * sizeof(uint32_t)) /* pages */
           + padded((uint64_t)l->rows_max * sizeof(struct ops_sample_row)) +
           padded((uint64_t)l->history_max * sizeof(uint32_t)) +
           padded((uint64_t)l->biases_max * sizeof(struct ops_bias)) + OPS_ALIGN_BYTES;
}

void step_init(struct step *s, uint8_t *image, uint64_t image_bytes)
{
    *s = (struct step){.image = image, .image_max_bytes = image_bytes};
}

static void *take(struct step *s, uint64_t bytes, uint64_t *ret_offset)
{
    *ret_offset = s->image_bytes;
    s->image_bytes += padded(bytes);
    ASSERT(s->image_bytes <= s->image_max_bytes);
    return s->image + *ret_offset;
}

static void put(struct step *s, const void *from, uint64_t bytes, uint64_t *ret_offset)
{
    void *to = take(s, bytes, ret_offset);
    if (bytes)
        memcpy(to, from, bytes);
}

static uint32_t pages_of(uint32_t tokens)
{
    return (tokens + OPS_PAGE_TOKENS - 1) / OPS_PAGE_TOKENS;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Positions, sequence numbers and shared pages of every token. */
static void put_places(struct step *s)
{
    const struct engine_batch *b = s->batch;
    uint64_t bytes = (uint64_t)b->tokens_count * sizeof(uint32_t);
    put(s, b->tokens, bytes, &s->tokens);
    uint32_t *position = take(s, bytes, &s->positions);
    uint32_t *seq = take(s, bytes, &s->seqs);
    uint32_t *shared = take(s, bytes, &s->shared_pages);
    uint32_t at = 0, before = 0; /* before: pages that the token before attends to */
    for (uint32_t r = 0; r < b->rows_count; r++) {
        const struct engine_row *row = &b->rows[r];
        ASSERT(row->tokens_count >= 1 && row->tokens_first == at);
        for (uint32_t i = 0; i < row->tokens_count; i++, at++) {
            uint32_t now = pages_of(row->position + i + 1);
            position[at] = row->position + i;
            seq[at] = r;
            shared[at] = least(i ? before : row->shared_pages, least(before, now));
            before = now;
        }
        if (position[at - 1] > s->position_max)
            s->position_max = position[at - 1];
    }
    ASSERT(at == b->tokens_count);
}

static void put_pages(struct step *s)
{
    const struct engine_batch *b = s->batch;
    s->pages_stride = pages_of(s->position_max + 1);
    ASSERT(s->pages_stride <= b->pages_stride);
    uint64_t bytes = (uint64_t)s->pages_stride * sizeof(uint32_t);
    uint8_t *to = take(s, bytes * b->rows_count, &s->pages);
    for (uint32_t r = 0; r < b->rows_count; r++)
        memcpy(to + r * bytes, b->pages + (uint64_t)r * b->pages_stride, bytes);
}

/* What is read off the hidden states, and where. */
static void put_heads(struct step *s)
{
    const struct engine_batch *b = s->batch;
    uint32_t *last = take(s, b->rows_count * sizeof(uint32_t), &s->lasts);
    uint64_t heads_max = s->all_logits ? b->tokens_count : b->rows_count;
    uint32_t *head = take(s, heads_max * sizeof(uint32_t), &s->heads);
    for (uint32_t r = 0; r < b->rows_count; r++) {
        const struct engine_row *row = &b->rows[r];
        last[r] = row->tokens_first + row->tokens_count - 1;
        s->dots |= (row->want & ENGINE_WANT_DOT) != 0;
        s->pools |= (row->want & ENGINE_WANT_POOL) != 0;
        if (!s->all_logits && (row->want & ENGINE_WANT_TOKEN))
            head[s->heads_count++] = last[r];
    }
    s->samples_count = s->heads_count;
    for (uint32_t t = 0; s->all_logits && t < b->tokens_count; t++)
        head[s->heads_count++] = t;
    if (b->role != ENGINE_REWARD)
        return;
    uint32_t *score = take(s, (uint64_t)b->tokens_count * sizeof(uint32_t), &s->scores);
    for (uint32_t t = 0; t < b->tokens_count; t++)
        if (b->score[t])
            score[s->scores_count++] = t;
}

static void put_sampling(struct step *s)
{
    const struct engine_batch *b = s->batch;
    if (!s->samples_count)
        return;
    struct ops_sample_row *sample =
        take(s, s->samples_count * sizeof(struct ops_sample_row), &s->samples);
    for (uint32_t r = 0; r < b->rows_count; r++)
        if (b->rows[r].want & ENGINE_WANT_TOKEN)
            *sample++ = b->rows[r].sampling;
    put(s, b->history, b->history_count * sizeof(uint32_t), &s->history);
    put(s, b->biases, b->biases_count * sizeof(struct ops_bias), &s->biases);
}

/* An encoder pools every row into the slot of its number. */
static void put_pools(struct step *s, bool paged)
{
    const struct engine_batch *b = s->batch;
    s->pools |= !paged;
    if (!s->pools)
        return;
    uint64_t bytes = (uint64_t)b->tokens_count * sizeof(uint32_t);
    uint32_t *slot = take(s, bytes, &s->pool_slots);
    uint32_t *first = take(s, bytes, &s->pool_firsts);
    for (uint32_t r = 0; r < b->rows_count; r++) {
        const struct engine_row *row = &b->rows[r];
        bool pools = !paged || (row->want & ENGINE_WANT_POOL);
        ASSERT(!paged || !pools || row->pool_slot < ENGINE_POOL_SLOTS_MAX);
        for (uint32_t i = 0; i < row->tokens_count; i++) {
            slot[row->tokens_first + i] = !pools ? OPS_NONE : paged ? row->pool_slot : r;
            first[row->tokens_first + i] = row->position + i == 0;
        }
    }
}

static void put_segments(struct step *s)
{
    const struct engine_batch *b = s->batch;
    uint64_t bytes = (uint64_t)b->tokens_count * sizeof(uint32_t);
    uint32_t *first = take(s, bytes, &s->segment_first);
    uint32_t *count = take(s, bytes, &s->segment_count);
    memset(take(s, bytes, &s->zeros), 0, bytes);
    for (uint32_t r = 0; r < b->rows_count; r++) {
        const struct engine_row *row = &b->rows[r];
        ASSERT(row->position == 0); /* a text is encoded as a whole */
        for (uint32_t i = 0; i < row->tokens_count; i++) {
            first[row->tokens_first + i] = row->tokens_first;
            count[row->tokens_first + i] = row->tokens_count;
        }
    }
}

void step_build(struct step *s, struct engine_batch *batch, bool paged, float *all_logits)
{
    *s = (struct step){.batch = batch,
                       .all_logits = all_logits,
                       .image = s->image,
                       .image_max_bytes = s->image_max_bytes};
    put_places(s);
    put_heads(s);
    put_sampling(s);
    put_pools(s, paged);
    if (paged)
        put_pages(s);
    else
        put_segments(s);
}
