#include "daemon/sched/sched.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>

#include "daemon/base/assert.h"
#include "daemon/base/reserve.h"
#include "daemon/base/rng.h"
#include "daemon/kv/kv.h"

#define POOL_NONE UINT32_MAX
/* Token memory that a sequence used beyond this goes back to the kernel when it is removed. */
#define TOKENS_KEPT_BYTES 16384u

enum seq_state {
    SEQ_FREE = 0,
    SEQ_RUNNABLE,
    SEQ_PAUSED,    /* has its room still */
    SEQ_PARKED,    /* paused, without room: another needed it */
    SEQ_RETURNING, /* resumed, and waits for room */
    SEQ_IDLE,      /* it broke: nothing left to do */
};

struct seq {
    TAILQ_ENTRY(seq) link; /* in the list of its state, if that has one */
    uint64_t seed;
    const struct ops_bias *biases;
    struct ops_sample_row sampling;
    uint32_t branch;
    uint32_t user;
    uint32_t generation;
    uint32_t tenant;
    uint32_t group;
    uint32_t tokens_max; /* prompt and all it may sample */
    uint32_t kv;         /* sequence number there, while it has room */
    uint32_t tokens_count;
    uint32_t computed_count; /* of them, have KV: of the results that were handed out */
    uint32_t planned_count;  /* have it when the posted steps are done */
    uint32_t expected_count; /* tokens that those bring */
    uint32_t away_count;     /* rows of it that are posted, and wanted, and not handed out */
    uint32_t row;            /* number of the last of them */
    uint64_t row_step;       /* and of its step */
    uint32_t own_first;      /* tokens before it are prompt */
    uint32_t forced_token;
    uint32_t want;
    uint32_t pool_slot; /* POOL_NONE: none */
    uint8_t state;      /* enum seq_state */
    bool stem;
};

TAILQ_HEAD(seq_list, seq);

struct posted { /* a step */
    struct engine_batch *batch;
    bool *discarded; /* [rows_max] the row was planned ahead in vain */
    uint64_t number; /* from 1 */
};

struct sched {
    struct engine *engine;
    struct kv *kv; /* NULL: the engine has no cache and looks at no tokens */
    struct engine_info info;
    struct sched_config config;
    struct seq *seqs; /* those from fresh_count on were never touched */
    uint32_t fresh_count;
    uint32_t *tokens; /* [seqs_max, context_tokens] touched as far as they are long */
    size_t tokens_bytes;
    uint32_t *chunk; /* [rows_max] tokens of each row that is being planned */
    struct posted steps[ENGINE_STEPS_MAX];
    uint32_t steps_first; /* of those in flight */
    uint32_t steps_count;
    uint64_t steps_sure;          /* steps up to this number are no plans any more */
    const struct posted *results; /* the step that is handed out */
    uint32_t result_idx;          /* next row of it */
    uint32_t result_count;
    bool changed;         /* since nothing was found to post */
    bool room_changed;    /* since the sequences that return were looked at */
    uint32_t alive_count; /* have room */
    uint64_t pool_slots;  /* bits: taken */
    struct sched_stats stats;
    uint32_t *group_last; /* [groups_max] of its runnable sequences; SCHED_NONE: not known */
    struct seq_list runnable;
    struct seq_list paused;    /* longest first */
    struct seq_list returning; /* likewise */
    struct seq_list free;
};

_Static_assert(ENGINE_POOL_SLOTS_MAX == 64, "one bit a slot");

static int memory_new(struct sched *s)
{
    const struct sched_config *c = &s->config;
    s->seqs = reserve(c->seqs_max * sizeof *s->seqs);
    s->chunk = calloc(c->rows_max, sizeof *s->chunk);
    s->group_last = malloc(c->groups_max * sizeof *s->group_last);
    if (!s->seqs || !s->chunk || !s->group_last)
        return -ENOMEM;
    for (uint32_t g = 0; g < c->groups_max; g++)
        s->group_last[g] = SCHED_NONE;
    for (uint32_t i = 0; i < s->info.steps_max; i++) {
        int r = engine_batch_new(s->engine, &s->steps[i].batch);
        s->steps[i].discarded = calloc(c->rows_max, sizeof *s->steps[i].discarded);
        if (r < 0 || !s->steps[i].discarded)
            return -ENOMEM;
    }
    if (s->info.kv_pages == 0)
        return 0;
    s->tokens_bytes = (size_t)c->seqs_max * s->info.context_tokens * sizeof *s->tokens;
    s->tokens = reserve(s->tokens_bytes);
    if (!s->tokens)
        return -ENOMEM;
    uint32_t seq_pages = (s->info.context_tokens + OPS_PAGE_TOKENS - 1) / OPS_PAGE_TOKENS;
    return kv_new(&(struct kv_config){.pages_count = s->info.kv_pages,
                                      .page_tokens = OPS_PAGE_TOKENS,
                                      .seqs_max = c->alive_max,
                                      .groups_max = c->groups_max,
                                      .seq_pages_max = seq_pages},
                  &s->kv);
}

int sched_new(const struct sched_config *config, struct engine *engine, struct sched **ret_sched)
{
    struct sched *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->engine = engine;
    s->config = *config;
    if (config->alive_max == 0 || config->alive_max > config->seqs_max)
        s->config.alive_max = config->seqs_max;
    engine_info(engine, config->role, &s->info);
    if (s->info.steps_max == 0)
        s->info.steps_max = 1;
    TAILQ_INIT(&s->runnable);
    TAILQ_INIT(&s->paused);
    TAILQ_INIT(&s->returning);
    TAILQ_INIT(&s->free);
    int r = memory_new(s);
    if (r < 0) {
        sched_free(s);
        return r;
    }
    s->stats.kv_pages = s->info.kv_pages;
    *ret_sched = s;
    return 0;
}

/* Of a device that broke nothing comes back; then our batches stay with the engine, which may write to them. */
static void steps_finish(struct sched *s)
{
    while (s->steps_count && !engine_failure(s->engine)) {
        struct pollfd fd = {.fd = sched_fd(s), .events = POLLIN};
        if (engine_next(s->engine, s->config.role, UINT64_MAX))
            s->steps_count--;
        else
            (void)poll(&fd, 1, 100); /* interrupted or late: asked again */
    }
}

void sched_free(struct sched *s)
{
    if (!s)
        return;
    steps_finish(s);
    engine_want(s->engine, s->config.role, false);
    kv_free(s->kv);
    for (uint32_t i = 0; i < ENGINE_STEPS_MAX; i++) {
        engine_batch_free(s->steps[i].batch);
        free(s->steps[i].discarded);
    }
    unreserve(s->tokens, s->tokens_bytes);
    free(s->chunk);
    free(s->group_last);
    unreserve(s->seqs, s->config.seqs_max * sizeof *s->seqs);
    free(s);
}

/* The i-th in flight, from the oldest; the first that is not, when i is their count. */
static struct posted *posted_at(struct sched *s, uint32_t i)
{
    return &s->steps[(s->steps_first + i) % s->info.steps_max];
}

/* ---- sequences ------------------------------------------------------------------------------- */

static uint32_t *tokens_of(const struct sched *s, const struct seq *q)
{
    return s->tokens + (size_t)(q - s->seqs) * s->info.context_tokens;
}

static struct seq *seq_get(struct sched *s, uint32_t seq)
{
    struct seq *q = &s->seqs[seq];
    ASSERT(q->state != SEQ_FREE);
    return q;
}

static struct seq *seq_take(struct sched *s)
{
    struct seq *q = TAILQ_FIRST(&s->free);
    if (q)
        TAILQ_REMOVE(&s->free, q, link);
    else if (s->fresh_count < s->config.seqs_max)
        q = &s->seqs[s->fresh_count++];
    return q;
}

static void seq_give(struct sched *s, struct seq *q)
{
    q->state = SEQ_FREE;
    TAILQ_INSERT_HEAD(&s->free, q, link);
}

static bool pool_take(struct sched *s, uint32_t want, uint32_t *ret_slot)
{
    *ret_slot = POOL_NONE;
    if (!(want & ENGINE_WANT_POOL))
        return true;
    if (s->pool_slots == UINT64_MAX)
        return false;
    *ret_slot = (uint32_t)__builtin_ctzll(~s->pool_slots);
    s->pool_slots |= 1ull << *ret_slot;
    return true;
}

static void pool_give(struct sched *s, uint32_t slot)
{
    if (slot != POOL_NONE)
        s->pool_slots &= ~(1ull << slot);
}

static uint32_t pages_for(uint64_t tokens)
{
    return (uint32_t)((tokens + OPS_PAGE_TOKENS - 1) / OPS_PAGE_TOKENS);
}

/* Everything but tokens and KV. */
static void seq_init(struct seq *q, const struct sched_seq_args *args, uint32_t pool_slot,
                     uint64_t tokens_max)
{
    struct ops_sample_row sampling = args->sampling;
    if (!args->biases)
        sampling.bias_count = 0;
    *q = (struct seq){.seed = args->seed,
                      .branch = args->branch,
                      .user = args->user,
                      .generation = q->generation + 1,
                      .tenant = args->tenant,
                      .group = args->group,
                      .tokens_max = (uint32_t)tokens_max,
                      .sampling = sampling,
                      .biases = args->biases,
                      .forced_token = OPS_NONE,
                      .want = args->want,
                      .pool_slot = pool_slot,
                      .stem = args->stem,
                      .state = SEQ_RUNNABLE};
}

/* Pages that nobody else can be asked to give back: KV is kept of all tokens but the last sampled. */
static bool too_long(const struct sched *s, uint64_t tokens)
{
    return s->kv && (tokens > s->info.context_tokens || pages_for(tokens) > s->info.kv_pages);
}

/* ---- room: pages for the worst case, and a place among those alive --------------------------- */

static bool has_room(const struct seq *q)
{
    return q->state == SEQ_RUNNABLE || q->state == SEQ_PAUSED || q->state == SEQ_IDLE;
}

static void room_give(struct sched *s, const struct seq *q)
{
    /* At once, though steps in flight may write these pages yet: the engine takes its steps in their order, and whoever
     * gets them reads only what it wrote, in later ones (test_sched_retire). */
    if (s->kv)
        kv_seq_free(s->kv, q->kv);
    s->alive_count--;
    s->room_changed = true;
}

/* The longest paused gives up its room. What it computed stays in the prefix tree as long as nobody
 * needs that; the rest is computed again, and comes out the same, bit for bit. False: there is none. */
static bool park_one(struct sched *s, const struct seq *but)
{
    struct seq *q = TAILQ_FIRST(&s->paused);
    while (q && (q == but || q->away_count)) /* what is away brings a result yet */
        q = TAILQ_NEXT(q, link);
    if (!q)
        return false;
    TAILQ_REMOVE(&s->paused, q, link);
    room_give(s, q);
    q->state = SEQ_PARKED;
    s->stats.parked_count++;
    return true;
}

/* computed: tokens that a fork of parent (NULL: none) has in common with it. */
static bool room_find(struct sched *s, struct seq *q, const struct seq *parent, uint32_t computed)
{
    if (s->alive_count == s->config.alive_max)
        return false;
    if (!s->kv)
        return true;
    uint32_t pages_max = pages_for(q->tokens_max);
    if (parent)
        return kv_seq_fork(s->kv, parent->kv, pages_max, computed, &q->kv) == KV_OK;
    return kv_seq_new(s->kv, q->tenant, q->group, pages_max, &q->kv) == KV_OK;
}

/* A parent that is paused keeps the pages it shares as long as others can be parked, and then is parked
 * itself: its fork finds what the tree has of them. */
static bool room_take(struct sched *s, struct seq *q, const struct seq *parent, uint32_t computed)
{
    while (!room_find(s, q, parent, computed)) {
        if (park_one(s, parent))
            continue;
        if (!parent || !park_one(s, NULL))
            return false;
        parent = NULL;
    }
    s->alive_count++;
    return true;
}

/* What the tenant computed before is taken over. Hidden states are pooled over the whole prompt: all
 * of it must pass by. */
static void prefix_take(struct sched *s, struct seq *q)
{
    q->computed_count = 0;
    if (s->kv && q->pool_slot == POOL_NONE)
        q->computed_count = kv_seq_match(s->kv, q->kv, tokens_of(s, q), q->tokens_count);
    q->planned_count = q->computed_count;
}

/* Behind `before`, a runnable sequence of its group, or behind all of them: rows that share pages are to
 * be neighbours, since attention reads what a row has in common with the one before it once. */
static void runnable_insert(struct sched *s, struct seq *q, struct seq *before)
{
    uint32_t *last = &s->group_last[q->group];
    if (!before && *last != SCHED_NONE)
        before = &s->seqs[*last];
    bool is_last = !before || (uint32_t)(before - s->seqs) == *last;
    if (before)
        TAILQ_INSERT_AFTER(&s->runnable, before, q, link);
    else
        TAILQ_INSERT_TAIL(&s->runnable, q, link);
    if (is_last)
        *last = (uint32_t)(q - s->seqs);
    s->changed = true;
}

static void runnable_remove(struct sched *s, struct seq *q)
{
    if (s->group_last[q->group] == (uint32_t)(q - s->seqs)) {
        const struct seq *before = TAILQ_PREV(q, seq_list, link);
        bool together = before && before->group == q->group;
        s->group_last[q->group] = together ? (uint32_t)(before - s->seqs) : SCHED_NONE;
    }
    TAILQ_REMOVE(&s->runnable, q, link);
}

/* Those that were here before come before those that are new. True: nobody waits any more. */
static bool returning_admit(struct sched *s)
{
    struct seq *q;
    s->room_changed = false;
    while ((q = TAILQ_FIRST(&s->returning))) {
        if (!room_take(s, q, NULL, 0)) {
            s->room_changed = false; /* by parking others, in vain */
            return false;
        }
        TAILQ_REMOVE(&s->returning, q, link);
        prefix_take(s, q);
        s->stats.recomputed_tokens_count += q->tokens_count - 1 - q->computed_count;
        q->state = SEQ_RUNNABLE;
        runnable_insert(s, q, NULL);
    }
    return true;
}

/* ---- their life ------------------------------------------------------------------------------ */

uint32_t sched_vocabulary(const struct sched *s)
{
    return s->info.vocabulary;
}

uint32_t sched_vector_size(const struct sched *s)
{
    return s->kv ? s->info.vector_size : 0;
}

bool sched_fits(const struct sched *s, uint64_t tokens)
{
    return !too_long(s, tokens);
}

/* The caller checked them: a token that the model does not have is memory that is not ours. */
static void tokens_take(struct sched *s, const struct seq *q, uint32_t at, const uint32_t *tokens,
                        uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        ASSERT(tokens[i] < s->info.vocabulary);
    memcpy(tokens_of(s, q) + at, tokens, count * sizeof *tokens);
}

int sched_add(struct sched *s, const struct sched_seq_args *args, uint32_t *ret_seq)
{
    ASSERT(args->prompt_tokens >= 1);
    uint64_t total = (uint64_t)args->prompt_tokens + args->max_tokens;
    if (too_long(s, total))
        return SCHED_E_LONG;
    uint32_t pool_slot;
    if (!returning_admit(s) || !pool_take(s, args->want, &pool_slot))
        return SCHED_E_FULL;
    struct seq *q = seq_take(s);
    if (q)
        seq_init(q, args, pool_slot, total);
    if (!q || !room_take(s, q, NULL, 0)) {
        if (q)
            seq_give(s, q);
        pool_give(s, pool_slot);
        return SCHED_E_FULL;
    }
    q->tokens_count = q->own_first = args->prompt_tokens;
    if (s->kv)
        tokens_take(s, q, 0, args->prompt, args->prompt_tokens);
    prefix_take(s, q);
    s->stats.cached_tokens_count += q->computed_count;
    runnable_insert(s, q, NULL);
    *ret_seq = (uint32_t)(q - s->seqs);
    return SCHED_OK;
}

/* A parent without room has no pages to share; what the tree has of it the child finds there. */
static void fork_begin(struct sched *s, struct seq *q, const struct seq *parent, uint32_t computed)
{
    if (has_room(parent))
        q->planned_count = q->computed_count = computed;
    else
        prefix_take(s, q);
    runnable_insert(s, q, parent->state == SEQ_RUNNABLE ? &s->seqs[parent - s->seqs] : NULL);
}

int sched_fork(struct sched *s, uint32_t parent, const struct sched_seq_args *args,
               uint32_t *ret_seq)
{
    struct seq *p = seq_get(s, parent);
    ASSERT(s->kv && !(args->want & ENGINE_WANT_POOL)); /* what was pooled so far is the parent's */
    uint32_t prompt_tokens = p->tokens_count + args->prompt_tokens;
    uint64_t total = (uint64_t)prompt_tokens + args->max_tokens;
    if (too_long(s, total))
        return SCHED_E_LONG;
    struct seq *q = returning_admit(s) ? seq_take(s) : NULL;
    if (!q)
        return SCHED_E_FULL;
    seq_init(q, args, POOL_NONE, total);
    q->tenant = p->tenant;
    q->group = p->group;
    /* At least the last token is computed anew: sampling needs its logits. */
    uint32_t computed = p->computed_count < prompt_tokens ? p->computed_count : prompt_tokens - 1;
    if (!room_take(s, q, has_room(p) ? p : NULL, computed)) {
        seq_give(s, q);
        return SCHED_E_FULL;
    }
    q->tokens_count = q->own_first = prompt_tokens;
    memcpy(tokens_of(s, q), tokens_of(s, p), p->tokens_count * sizeof(uint32_t));
    if (args->prompt_tokens)
        tokens_take(s, q, p->tokens_count, args->prompt, args->prompt_tokens);
    fork_begin(s, q, p, computed);
    *ret_seq = (uint32_t)(q - s->seqs);
    return SCHED_OK;
}

/* What was planned ahead for it is not to be: that row's result is nobody's, and what it computes is computed
 * again, to the same bits. Its pages may go to others, whose rows are of later steps. */
static void row_discard(struct sched *s, struct seq *q)
{
    if (q->away_count == 0 || q->row_step <= s->steps_sure)
        return;
    struct posted *p = posted_at(s, s->steps_count - 1);
    const struct engine_row *row = &p->batch->rows[q->row];
    ASSERT(p->number == q->row_step && &s->seqs[row->seq] == q);
    p->discarded[q->row] = true;
    q->row_step = s->steps_sure;
    q->away_count--;
    q->planned_count = row->position;
    if (row->want & ENGINE_WANT_TOKEN) {
        q->expected_count--;
        q->forced_token = row->sampling.forced_token;
    }
    if (s->kv)
        kv_seq_truncate(s->kv, q->kv, row->position);
    s->stats.rows_discarded_count++;
    s->changed = true;
}

void sched_force(struct sched *s, uint32_t seq, uint32_t token)
{
    struct seq *q = seq_get(s, seq);
    ASSERT(token < s->info.vocabulary);
    row_discard(s, q);
    q->forced_token = token;
}

/* The list that a sequence is in by its state; NULL: none. */
static struct seq_list *list_of(struct sched *s, const struct seq *q)
{
    return q->state == SEQ_RUNNABLE    ? &s->runnable
           : q->state == SEQ_PAUSED    ? &s->paused
           : q->state == SEQ_RETURNING ? &s->returning
                                       : NULL;
}

static void seq_move(struct sched *s, struct seq *q, enum seq_state state)
{
    struct seq_list *list = list_of(s, q);
    row_discard(s, q);
    if (list == &s->runnable)
        runnable_remove(s, q);
    else if (list)
        TAILQ_REMOVE(list, q, link);
    q->state = (uint8_t)state;
    list = list_of(s, q);
    if (list == &s->runnable)
        runnable_insert(s, q, NULL);
    else if (list)
        TAILQ_INSERT_TAIL(list, q, link);
    s->room_changed = s->changed = true;
}

static void tokens_forget(struct sched *s, const struct seq *q)
{
    size_t stride = s->info.context_tokens * sizeof(uint32_t);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = (uintptr_t)tokens_of(s, q);
    uintptr_t from = (begin + TOKENS_KEPT_BYTES + page - 1) / page * page;
    uintptr_t to = (begin + stride) / page * page;
    if (q->tokens_count * sizeof(uint32_t) > TOKENS_KEPT_BYTES && from < to)
        (void)madvise((uint8_t *)s->tokens + (from - (uintptr_t)s->tokens), to - from,
                      MADV_DONTNEED); /* refused: they stay, until somebody uses them */
}

void sched_remove(struct sched *s, uint32_t seq)
{
    struct seq *q = seq_get(s, seq);
    row_discard(s, q);
    if (has_room(q))
        room_give(s, q);
    pool_give(s, q->pool_slot);
    if (s->kv)
        tokens_forget(s, q);
    seq_move(s, q, SEQ_FREE);
    seq_give(s, q);
}

void sched_pause(struct sched *s, uint32_t seq)
{
    struct seq *q = seq_get(s, seq);
    if (q->state == SEQ_RUNNABLE)
        seq_move(s, q, SEQ_PAUSED);
    else if (q->state == SEQ_RETURNING)
        seq_move(s, q, SEQ_PARKED);
}

void sched_resume(struct sched *s, uint32_t seq)
{
    struct seq *q = seq_get(s, seq);
    if (q->state == SEQ_PAUSED)
        seq_move(s, q, SEQ_RUNNABLE);
    else if (q->state == SEQ_PARKED)
        seq_move(s, q, SEQ_RETURNING);
}

/* ---- a step ---------------------------------------------------------------------------------- */

static uint32_t pending(const struct seq *q)
{
    return q->tokens_count + q->expected_count - q->planned_count;
}

/* Who has all tokens that it may have with those on their way is about to be removed. */
static uint32_t wanted(const struct sched *s, const struct seq *q)
{
    bool last = s->kv && q->expected_count && q->tokens_count + q->expected_count >= q->tokens_max;
    return last ? 0 : pending(q);
}

static bool has_penalty(const struct ops_sample_row *r)
{
    return r->repetition != 1.0f || r->presence != 0.0f || r->frequency != 0.0f;
}

/* How many tokens each of the first rows_max sequences computes; those that decode come first to the
 * budget, whatever their place. Returns the sequences looked at; 0: nothing can be planned ahead now, for who
 * has its hidden states pooled must not have a row discarded: it would count twice. */
static uint32_t step_divide(struct sched *s)
{
    uint32_t budget = s->config.tokens_max;
    uint32_t count = 0;
    struct seq *q;
    TAILQ_FOREACH(q, &s->runnable, link)
    {
        if (count == s->config.rows_max)
            break;
        if (s->steps_count && q->pool_slot != POOL_NONE && pending(q))
            return 0;
        s->chunk[count] = wanted(s, q) == 1 && budget ? 1 : 0;
        budget -= s->chunk[count++];
    }
    uint32_t i = 0;
    TAILQ_FOREACH(q, &s->runnable, link)
    {
        if (i == count)
            break;
        if (s->chunk[i] == 0) {
            s->chunk[i] = wanted(s, q) < budget ? wanted(s, q) : budget;
            budget -= s->chunk[i];
        }
        i++;
    }
    return count;
}

static bool lists_add(struct engine_batch *b, const struct sched *s, const struct seq *q,
                      struct ops_sample_row *sampling)
{
    uint32_t count = q->tokens_count + q->expected_count; /* what is expected, the engine puts in */
    sampling->history_count = 0;
    if (s->kv && has_penalty(sampling)) {
        if (count > b->history_max - b->history_count)
            return false;
        memcpy(b->history + b->history_count, tokens_of(s, q), q->tokens_count * sizeof(uint32_t));
        sampling->history_first = b->history_count;
        sampling->history_count = count;
        sampling->history_prompt_count = q->own_first;
        b->history_count += count;
    }
    if (s->kv && sampling->bias_count) {
        if (sampling->bias_count > b->biases_max - b->biases_count)
            return false;
        memcpy(b->biases + b->biases_count, q->biases, sampling->bias_count * sizeof *q->biases);
        sampling->bias_first = b->biases_count;
        b->biases_count += sampling->bias_count;
    }
    return true;
}

static uint32_t pages_in_common(const uint32_t *a, const uint32_t *b, uint32_t count)
{
    uint32_t i = 0;
    while (i + 16 <= count && memcmp(a + i, b + i, 16 * sizeof *a) == 0)
        i += 16;
    while (i < count && a[i] == b[i])
        i++;
    return i;
}

static void row_pages(struct sched *s, struct engine_batch *b, const struct seq *q,
                      struct engine_row *row)
{
    uint32_t idx = (uint32_t)(row - b->rows);
    uint32_t *table = b->pages + (size_t)idx * b->pages_stride;
    uint32_t *tokens = row->follows ? NULL : b->tokens + row->tokens_first;
    if (tokens)
        memcpy(tokens, tokens_of(s, q) + row->position, row->tokens_count * sizeof *tokens);
    else
        b->tokens[row->tokens_first] = 0; /* until the engine knows it */
    struct kv_copy copy;
    kv_seq_extend(s->kv, q->kv, tokens, row->tokens_count, &copy);
    if (copy.valid_tokens)
        b->copies[b->copies_count++] = (struct ops_page_copy){
            .from = copy.from, .to = copy.to, .valid_tokens = copy.valid_tokens};
    uint32_t pages_count;
    const uint32_t *pages = kv_seq_pages(s->kv, q->kv, &pages_count);
    uint32_t used = pages_for((uint64_t)row->position + row->tokens_count);
    ASSERT(used <= pages_count);
    memcpy(table, pages, used * sizeof(uint32_t));
    if (idx == 0)
        return;
    const struct engine_row *before = row - 1;
    uint32_t of_before = pages_for((uint64_t)before->position + before->tokens_count);
    uint32_t of_this = pages_for((uint64_t)row->position + 1);
    row->shared_pages =
        pages_in_common(table - b->pages_stride, table, of_before < of_this ? of_before : of_this);
}

/* False: no room in the batch's lists; it waits for the next step. */
static bool row_add(struct sched *s, struct posted *step, struct seq *q, uint32_t tokens)
{
    struct engine_batch *b = step->batch;
    struct ops_sample_row sampling = q->sampling;
    bool samples = tokens == pending(q) && !q->stem;
    ASSERT(q->expected_count == 0 || (tokens == 1 && q->row_step + 1 == step->number));
    if (samples && !lists_add(b, s, q, &sampling))
        return false;
    struct engine_row *row = &b->rows[b->rows_count];
    *row = (struct engine_row){.seq = (uint32_t)(q - s->seqs),
                               .seq_generation = q->generation,
                               .tokens_first = b->tokens_count,
                               .tokens_count = tokens,
                               .follows = q->expected_count ? q->row + 1 : 0,
                               .position = q->planned_count,
                               .pool_slot = q->pool_slot,
                               .want = samples ? q->want | ENGINE_WANT_TOKEN
                                               : q->want & ENGINE_WANT_POOL,
                               .sampling = sampling};
    row->sampling.forced_token = q->forced_token;
    if (samples)
        q->forced_token = OPS_NONE; /* what is asked from now on is for the token after this one */
    row->sampling.random =
        rng_u32(q->seed, q->branch, q->tokens_count + q->expected_count - q->own_first);
    if (s->kv)
        row_pages(s, b, q, row);
    if (s->kv)
        memset(b->score + b->tokens_count, 0, tokens);
    if (q->want & SCHED_WANT_SCORE && tokens == pending(q))
        b->score[b->tokens_count + tokens - 1] = 1;
    step->discarded[b->rows_count] = false;
    q->row = b->rows_count++;
    q->row_step = step->number;
    q->away_count++;
    q->planned_count += tokens;
    q->expected_count += samples;
    b->tokens_count += tokens;
    return true;
}

/* Moves everything up to last behind the rest. */
static void rotate(struct sched *s, struct seq *last)
{
    struct seq *q;
    do {
        q = TAILQ_FIRST(&s->runnable);
        TAILQ_REMOVE(&s->runnable, q, link);
        TAILQ_INSERT_TAIL(&s->runnable, q, link);
        s->group_last[q->group] = (uint32_t)(q - s->seqs);
    } while (q != last);
}

static void batch_begin(const struct sched *s, struct engine_batch *b,
                        const struct engine_batch *after)
{
    b->role = s->config.role;
    b->after = after;
    b->rows_count = b->tokens_count = b->copies_count = 0;
    b->history_count = b->biases_count = b->freed_count = 0;
}

/* Posts the step that is planned. Returns its rows. */
static uint32_t step_send(struct sched *s, struct posted *step, uint64_t now_ns)
{
    struct engine_batch *b = step->batch;
    if (s->kv && s->config.poison)
        while (kv_freed_next(s->kv, &b->freed[b->freed_count]))
            b->freed_count++;
    int r = engine_post(s->engine, b, now_ns);
    ASSERT(r == ENGINE_OK); /* it was not busy */
    if (s->steps_count++ == 0)
        s->steps_sure = step->number;
    s->stats.steps_count++;
    s->stats.rows_count += b->rows_count;
    return b->rows_count;
}

/* One that is posted while another is in flight is planned ahead, as if that had come to its end. */
static uint32_t step_post(struct sched *s, uint64_t now_ns)
{
    engine_want(s->engine, s->config.role, !TAILQ_EMPTY(&s->runnable));
    if (engine_busy(s->engine, s->config.role))
        return 0;
    struct posted *step = posted_at(s, s->steps_count);
    step->number = s->stats.steps_count + 1;
    batch_begin(s, step->batch, s->steps_count ? posted_at(s, s->steps_count - 1)->batch : NULL);
    uint32_t looked_at = step_divide(s);
    struct seq *q = TAILQ_FIRST(&s->runnable);
    struct seq *last = NULL;
    for (uint32_t i = 0; i < looked_at; i++, q = TAILQ_NEXT(q, link)) {
        if (s->chunk[i] && !row_add(s, step, q, s->chunk[i]))
            break;
        last = q;
    }
    s->changed = step->batch->rows_count > 0;
    if (!s->changed)
        return 0;
    uint32_t rows = step_send(s, step, now_ns);
    if (TAILQ_NEXT(last, link)) /* some had to wait: they come first next time */
        rotate(s, last);
    return rows;
}

static uint32_t step_collect(struct sched *s, uint64_t now_ns)
{
    const struct engine_batch *b = engine_next(s->engine, s->config.role, now_ns);
    if (!b)
        return 0;
    s->results = posted_at(s, 0);
    ASSERT(s->results->batch == b);
    s->steps_first = (s->steps_first + 1) % s->info.steps_max;
    s->steps_count--;
    s->result_idx = 0;
    s->result_count = b->rows_count;
    s->changed = true;
    return b->rows_count;
}

uint32_t sched_poll(struct sched *s, uint64_t now_ns)
{
    ASSERT(s->result_count == 0);
    uint32_t work = 0, rows = 1;
    if (s->steps_count) /* what it was planned after has been handed out, and answered */
        s->steps_sure = posted_at(s, 0)->number;
    while (rows && s->steps_count < s->info.steps_max) {
        (void)returning_admit(s); /* who has no room waits on */
        rows = step_post(s, now_ns);
        work += rows;
    }
    return s->steps_count ? work + step_collect(s, now_ns) : work;
}

/* What a row brought its sequence; false: nothing to tell. */
static bool row_result(struct sched *s, struct seq *q, const struct engine_row *row,
                       const struct engine_output *output, struct sched_result *ret)
{
    const struct engine_batch *b = s->results->batch;
    uint32_t sampled_before = q->tokens_count - q->own_first;
    q->away_count--;
    q->expected_count -= (row->want & ENGINE_WANT_TOKEN) != 0;
    s->room_changed = true; /* if it is paused, it may be parked now */
    if (sampled_before == 0)
        s->stats.prompt_tokens_count += row->tokens_count;
    q->computed_count = row->position + row->tokens_count;
    if (s->kv)
        kv_seq_commit(s->kv, q->kv, q->computed_count);
    *ret = (struct sched_result){
        .user = q->user, .seq = row->seq, .position = sampled_before, .dot = output->dot};
    if (q->stem && q->computed_count == q->tokens_count) {
        ret->kind = SCHED_READY;
        if (q->want & SCHED_WANT_SCORE) {
            ret->score = b->scores[row->tokens_first + row->tokens_count - 1];
            if (s->kv && !isfinite(ret->score))
                kv_seq_taint(s->kv, q->kv);
        }
        if (q->want & ENGINE_WANT_POOL)
            ret->vector = b->vectors + (size_t)(row - b->rows) * s->info.vector_size;
        seq_move(s, q, SEQ_PAUSED); /* forks of it need its room no more than it does */
        return true;
    }
    if (!(row->want & ENGINE_WANT_TOKEN))
        return false;
    ret->kind = SCHED_TOKEN;
    ret->sampled = output->sampled;
    if (output->sampled.numeric) {
        if (s->kv)
            kv_seq_taint(s->kv, q->kv);
        seq_move(s, q, SEQ_IDLE);
        return true;
    }
    if (s->kv && q->tokens_count < s->info.context_tokens)
        tokens_of(s, q)[q->tokens_count] = output->sampled.token;
    q->tokens_count++;
    if (s->kv && q->planned_count == q->tokens_count) /* its KV was planned ahead */
        kv_seq_tell(s->kv, q->kv, output->sampled.token);
    return true;
}

bool sched_next(struct sched *s, struct sched_result *ret_result)
{
    while (s->result_count) {
        const struct engine_row *row = &s->results->batch->rows[s->result_idx];
        const struct engine_output *output = &s->results->batch->outputs[s->result_idx];
        bool discarded = s->results->discarded[s->result_idx];
        s->result_idx++;
        s->result_count--;
        struct seq *q = &s->seqs[row->seq];
        if (discarded || q->state == SEQ_FREE || q->generation != row->seq_generation)
            continue; /* removed while its step was in flight */
        if (row_result(s, q, row, output, ret_result))
            return true;
    }
    return false;
}

uint32_t sched_user_ahead(const struct sched *s)
{
    if (s->result_count < 2)
        return SCHED_NONE;
    return s->seqs[s->results->batch->rows[s->result_idx + 1].seq].user;
}

uint64_t sched_due_ns(const struct sched *s)
{
    bool returns = s->room_changed && !TAILQ_EMPTY(&s->returning);
    bool plans = (s->changed || s->steps_count == 0) && !TAILQ_EMPTY(&s->runnable);
    bool may_post = s->steps_count < s->info.steps_max && !engine_busy(s->engine, s->config.role);
    return may_post && (returns || plans) ? 0 : engine_due_ns(s->engine);
}

int sched_fd(const struct sched *s)
{
    return engine_fd(s->engine, s->config.role);
}

void sched_stats(const struct sched *s, struct sched_stats *ret_stats)
{
    *ret_stats = s->stats;
    if (!s->kv)
        return;
    struct kv_stats kv;
    kv_stats(s->kv, &kv);
    ret_stats->evictions_count = kv.evictions_count;
    ret_stats->kv_pages_used = kv.pages_used;
    ret_stats->kv_pages_cached = kv.pages_cached;
    ret_stats->kv_pages_reserved = kv.pages_reserved;
}
