#include "daemon/sched/sched.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/queue.h>

#include "daemon/base/assert.h"

struct seq {
    TAILQ_ENTRY(seq) link; /* in runnable or free */
    uint64_t seed;
    uint32_t branch;
    uint32_t user;
    uint32_t prompt_tokens; /* still to compute */
    uint32_t position;      /* of the next token */
    uint32_t generation;
    bool alive;
    bool paused;
};

TAILQ_HEAD(seq_list, seq);

struct sched {
    struct engine *engine;
    struct seq *seqs; /* those from fresh_count on were never touched: no memory behind them */
    uint32_t fresh_count;
    uint32_t seqs_max;
    struct engine_row *rows;   /* of the step in flight or being read */
    struct engine_row *result; /* collected step; next row to hand out */
    uint32_t result_count;
    uint32_t rows_max;
    uint64_t steps_count;
    bool in_flight;
    struct seq_list runnable;
    struct seq_list free;
};

int sched_new(const struct sched_config *config, struct engine *engine, struct sched **ret_sched)
{
    struct sched *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->engine = engine;
    s->rows_max = config->rows_max;
    s->seqs = calloc(config->seqs_max, sizeof *s->seqs);
    s->rows = calloc(config->rows_max, sizeof *s->rows);
    TAILQ_INIT(&s->runnable);
    TAILQ_INIT(&s->free);
    if (!s->seqs || !s->rows) {
        sched_free(s);
        return -ENOMEM;
    }
    s->seqs_max = config->seqs_max;
    *ret_sched = s;
    return 0;
}

void sched_free(struct sched *s)
{
    if (!s)
        return;
    free(s->seqs);
    free(s->rows);
    free(s);
}

uint32_t sched_add(struct sched *s, const struct sched_seq_args *args)
{
    struct seq *q = TAILQ_FIRST(&s->free);
    if (q)
        TAILQ_REMOVE(&s->free, q, link);
    else if (s->fresh_count < s->seqs_max)
        q = &s->seqs[s->fresh_count++];
    else
        return SCHED_NONE;
    *q = (struct seq){.seed = args->seed,
                      .branch = args->branch,
                      .user = args->user,
                      .prompt_tokens = args->prompt_tokens,
                      .generation = q->generation + 1,
                      .alive = true};
    TAILQ_INSERT_TAIL(&s->runnable, q, link);
    return (uint32_t)(q - s->seqs);
}

void sched_remove(struct sched *s, uint32_t seq)
{
    struct seq *q = &s->seqs[seq];
    ASSERT(q->alive);
    if (!q->paused)
        TAILQ_REMOVE(&s->runnable, q, link);
    q->alive = false;
    TAILQ_INSERT_HEAD(&s->free, q, link);
}

void sched_pause(struct sched *s, uint32_t seq)
{
    struct seq *q = &s->seqs[seq];
    ASSERT(q->alive);
    if (q->paused)
        return;
    TAILQ_REMOVE(&s->runnable, q, link);
    q->paused = true;
}

void sched_resume(struct sched *s, uint32_t seq)
{
    struct seq *q = &s->seqs[seq];
    ASSERT(q->alive);
    if (!q->paused)
        return;
    q->paused = false;
    TAILQ_INSERT_TAIL(&s->runnable, q, link);
}

static uint32_t step_collect(struct sched *s, uint64_t now_ns)
{
    s->result_count = engine_next(s->engine, &s->result, now_ns);
    if (s->result_count)
        s->in_flight = false;
    return s->result_count;
}

/* Moves everything up to last behind the rest. */
static void rotate(struct sched *s, struct seq *last)
{
    struct seq *q;
    do {
        q = TAILQ_FIRST(&s->runnable);
        TAILQ_REMOVE(&s->runnable, q, link);
        TAILQ_INSERT_TAIL(&s->runnable, q, link);
    } while (q != last);
}

static uint32_t step_post(struct sched *s, uint64_t now_ns)
{
    uint32_t count = 0;
    struct seq *q;
    struct seq *last = NULL;
    TAILQ_FOREACH(q, &s->runnable, link)
    {
        if (count == s->rows_max)
            break;
        last = q;
        s->rows[count++] = (struct engine_row){.seq = (uint32_t)(q - s->seqs),
                                               .seq_generation = q->generation,
                                               .position = q->position,
                                               .prefill_tokens = q->prompt_tokens,
                                               .seed = q->seed,
                                               .branch = q->branch};
    }
    if (count == 0)
        return 0;
    int r = engine_post(s->engine, s->rows, count, now_ns);
    ASSERT(r == ENGINE_OK); /* we post only when nothing is in flight */
    s->in_flight = true;
    s->steps_count++;
    if (TAILQ_NEXT(last, link)) /* some had to wait: they come first next time */
        rotate(s, last);
    return count;
}

uint32_t sched_poll(struct sched *s, uint64_t now_ns)
{
    ASSERT(s->result_count == 0);
    uint32_t work = 0;
    if (!s->in_flight)
        work += step_post(s, now_ns);
    if (s->in_flight)
        work += step_collect(s, now_ns);
    return work;
}

bool sched_next(struct sched *s, struct sched_result *ret_result)
{
    while (s->result_count) {
        struct engine_row *row = s->result++;
        s->result_count--;
        struct seq *q = &s->seqs[row->seq];
        if (!q->alive || q->generation != row->seq_generation)
            continue; /* removed while its step was in flight */
        q->prompt_tokens = 0;
        q->position = row->position + 1;
        *ret_result =
            (struct sched_result){.user = q->user, .position = row->position, .token = row->token};
        return true;
    }
    return false;
}

uint64_t sched_due_ns(const struct sched *s)
{
    if (s->in_flight)
        return engine_due_ns(s->engine);
    return TAILQ_EMPTY(&s->runnable) ? UINT64_MAX : 0;
}

uint64_t sched_steps_count(const struct sched *s)
{
    return s->steps_count;
}
