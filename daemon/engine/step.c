#include "daemon/engine/step.h"

#include <assert.h>
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
           + padded(((uint64_t)l->rows_max * l->pages_stride + 1) * sizeof(uint32_t)) /* pages */
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

/* ---- buckets -------------------------------------------------------------------------------- */

/* Never more than 31 rows of padding: as many places as a page has beside the first. */
static const uint32_t buckets[] = {1,  2,  4,  8,   16,  24,  32,  40,  48, 56,
                                   64, 80, 96, 112, 128, 160, 192, 224, 256};

#define BUCKETS_COUNT (sizeof buckets / sizeof *buckets)

static_assert(BUCKETS_COUNT <= OPS_GRAPHS_MAX, "a bucket is a key of ops.h");

uint32_t step_bucket_rows(uint32_t bucket, uint32_t rows_max)
{
    if (bucket >= BUCKETS_COUNT || (bucket && buckets[bucket - 1] >= rows_max))
        return 0;
    return least(buckets[bucket], rows_max);
}

void step_pad(struct step *s, uint32_t rows_max, uint32_t page)
{
    s->pad_rows_max = rows_max;
    s->pad_page = page;
}

/* Steps that read anything else off the hidden states are launched as they come. */
static uint32_t bucket_of(const struct step *s)
{
    const struct engine_batch *b = s->batch;
    uint32_t bucket = 0, rows;
    if (b->role != ENGINE_POLICY || b->tokens_count != b->rows_count || s->all_logits)
        return STEP_EAGER;
    for (uint32_t r = 0; r < b->rows_count; r++)
        if (!(b->rows[r].want & ENGINE_WANT_TOKEN) || (b->rows[r].want & ENGINE_WANT_POOL))
            return STEP_EAGER;
    while ((rows = step_bucket_rows(bucket, s->pad_rows_max)) != 0 && rows < b->rows_count)
        bucket++;
    return rows ? bucket : STEP_EAGER;
}

/* ---- parts of the image --------------------------------------------------------------------- */

/* Positions and shared pages of every token, and where its row's pages begin. */
static void put_places(struct step *s)
{
    const struct engine_batch *b = s->batch;
    uint64_t bytes = (uint64_t)s->tokens_count * sizeof(uint32_t);
    uint32_t *token = take(s, bytes, &s->tokens);
    uint32_t *position = take(s, bytes, &s->positions);
    uint32_t *seq = take(s, bytes, &s->seqs);
    uint32_t *shared = take(s, bytes, &s->shared_pages);
    uint32_t at = 0, before = 0; /* before: pages that the token before attends to */
    uint32_t list = s->bucket != STEP_EAGER;
    if (b->tokens_count)
        memcpy(token, b->tokens, b->tokens_count * sizeof(uint32_t));
    for (uint32_t r = 0; r < b->rows_count; r++, list += before) {
        const struct engine_row *row = &b->rows[r];
        ASSERT(row->tokens_count >= 1 && row->tokens_first == at);
        ASSERT(!row->follows ||
               (b->after && row->tokens_count == 1 && row->follows <= b->after->rows_count));
        for (uint32_t i = 0; i < row->tokens_count; i++, at++) {
            uint32_t now = pages_of(row->position + i + 1);
            position[at] = row->position + i;
            seq[at] = list;
            shared[at] = least(i ? before : row->shared_pages, least(before, now));
            before = now;
        }
        if (position[at - 1] > s->position_max)
            s->position_max = position[at - 1];
    }
    ASSERT(at == b->tokens_count);
    for (uint32_t i = 0; at < s->tokens_count; i++, at++) {
        token[at] = seq[at] = shared[at] = 0;
        position[at] =
            1 + i % (OPS_PAGE_TOKENS - 1); /* not the first, which would clear the page */
    }
}

/* What is read off the hidden states, and where. */
static void put_heads(struct step *s)
{
    const struct engine_batch *b = s->batch;
    uint32_t *last = take(s, s->rows_count * sizeof(uint32_t), &s->lasts);
    uint64_t heads_max = s->all_logits ? b->tokens_count : s->rows_count;
    uint32_t *head = take(s, heads_max * sizeof(uint32_t), &s->heads);
    for (uint32_t r = 0; r < b->rows_count; r++) {
        const struct engine_row *row = &b->rows[r];
        last[r] = row->tokens_first + row->tokens_count - 1;
        s->dots |= (row->want & ENGINE_WANT_DOT) != 0;
        s->pools |= (row->want & ENGINE_WANT_POOL) != 0;
        if (!s->all_logits && (row->want & ENGINE_WANT_TOKEN))
            head[s->heads_count++] = last[r];
    }
    for (uint32_t r = b->rows_count; r < s->rows_count; r++)
        head[s->heads_count++] = last[r] = r;
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

/* What padding rows draw with does not matter, but that it is quick. */
static struct ops_sample_row *put_samples(struct step *s)
{
    const struct engine_batch *b = s->batch;
    const struct ops_sample_row greedy = {.top_p = 1, .repetition = 1, .forced_token = OPS_NONE};
    struct ops_sample_row *sample =
        take(s, s->samples_count * sizeof(struct ops_sample_row), &s->samples);
    uint32_t at = 0;
    for (uint32_t r = 0; s->samples_count && r < b->rows_count; r++)
        if (b->rows[r].want & ENGINE_WANT_TOKEN)
            sample[at++] = b->rows[r].sampling;
    while (at < s->samples_count)
        sample[at++] = greedy;
    return sample;
}

/* Of any length, so they come last. The table's rows have as many pages as they are long. */
static void put_lists(struct step *s, struct ops_sample_row *samples)
{
    const struct engine_batch *b = s->batch;
    uint32_t count = s->bucket != STEP_EAGER;
    uint64_t biases;
    for (uint32_t r = 0; r < b->rows_count; r++)
        count += pages_of(b->rows[r].position + b->rows[r].tokens_count);
    uint32_t *to = take(s, count * sizeof(uint32_t), &s->lists);
    if (s->bucket != STEP_EAGER)
        *to++ = s->pad_page;
    for (uint32_t r = 0; r < b->rows_count; r++) {
        uint32_t pages = pages_of(b->rows[r].position + b->rows[r].tokens_count);
        ASSERT(pages <= b->pages_stride);
        const uint32_t *from = b->pages + (uint64_t)r * b->pages_stride;
        /* Most are what they were: what is not written stays in the cache of the thread that reads it. */
        if (memcmp(to, from, pages * sizeof *to) != 0)
            memcpy(to, from, pages * sizeof *to);
        to += pages;
    }
    if (!s->samples_count)
        return;
    put(s, b->history, b->history_count * sizeof(uint32_t), &s->history);
    put(s, b->biases, b->biases_count * sizeof(struct ops_bias), &biases);
    for (uint32_t i = 0; i < s->samples_count; i++) {
        samples[i].history_first += (uint32_t)((s->history - s->lists) / sizeof(uint32_t));
        samples[i].bias_first += (uint32_t)((biases - s->lists) / sizeof(struct ops_bias));
    }
}

static void step_clear(struct step *s, struct engine_batch *batch, float *all_logits)
{
    *s = (struct step){.batch = batch,
                       .all_logits = all_logits,
                       .image = s->image,
                       .image_max_bytes = s->image_max_bytes,
                       .pad_rows_max = s->pad_rows_max,
                       .pad_page = s->pad_page,
                       .bucket = STEP_EAGER,
                       .rows_count = batch->rows_count,
                       .tokens_count = batch->tokens_count};
}

static void put_all(struct step *s, bool paged)
{
    if (s->bucket != STEP_EAGER)
        s->rows_count = s->tokens_count = step_bucket_rows(s->bucket, s->pad_rows_max);
    put_places(s);
    put_heads(s);
    struct ops_sample_row *samples = put_samples(s);
    put_pools(s, paged);
    if (paged)
        put_lists(s, samples);
    else
        put_segments(s);
}

void step_build(struct step *s, struct engine_batch *batch, bool paged, float *all_logits)
{
    step_clear(s, batch, all_logits);
    s->bucket = bucket_of(s);
    put_all(s, paged);
}

static uint32_t *image_at(struct step *s, uint64_t offset)
{
    return (void *)(s->image + offset);
}

void step_follow(struct step *s)
{
    const struct engine_batch *b = s->batch;
    uint32_t *token = image_at(s, s->tokens);
    uint32_t *history = image_at(s, s->history);
    for (uint32_t r = 0; b->after && r < b->rows_count; r++) {
        const struct engine_row *row = &b->rows[r];
        const struct ops_sample_row *sampling = &row->sampling;
        if (row->follows == 0)
            continue;
        token[row->tokens_first] = b->after->outputs[row->follows - 1].sampled.token;
        if (sampling->history_count)
            history[sampling->history_first + sampling->history_count - 1] =
                token[row->tokens_first];
    }
}

void step_build_empty(struct step *s, struct engine_batch *batch, uint32_t bucket)
{
    step_clear(s, batch, NULL);
    s->bucket = bucket;
    put_all(s, true);
}
