#include "daemon/program/run_impl.h"
#include "daemon/program/vectors.h"

void replicas_begin(struct runs *rs)
{
    const struct runs_config *c = &rs->config;
    ASSERT(c->others_count < RUNS_REPLICAS_MAX);
    rs->replicas_count = 1 + c->others_count;
    for (uint32_t i = 0; i < rs->replicas_count; i++) {
        struct replica *replica = &rs->replicas[i];
        replica->sched[MODEL_POLICY] = i ? c->others[i - 1].policy : c->policy;
        replica->sched[MODEL_REWARD] = i ? c->others[i - 1].reward : c->reward;
        ASSERT(replica->sched[MODEL_POLICY] && !replica->sched[MODEL_REWARD] == !c->reward);
        for (uint32_t m = 0; m < MODELS; m++)
            TAILQ_INIT(&replica->waiting[m]);
        TAILQ_INIT(&replica->vectors_waiting);
    }
    rs->config.others = NULL; /* the caller's */
}

/* Those that have begun there come first. */
static bool may_begin(const struct replica *replica, const struct algorithm *algorithm)
{
    return TAILQ_EMPTY(&replica->waiting[MODEL_POLICY]) &&
           (!algorithm->wants_reward || TAILQ_EMPTY(&replica->waiting[MODEL_REWARD]));
}

/* Which has less to do, in steps and then in memory that is in use or promised. */
static bool has_less(const struct replica *a, const struct replica *b)
{
    struct sched_stats of_a, of_b;
    if (a->pending != b->pending)
        return a->pending < b->pending;
    sched_stats(a->sched[MODEL_POLICY], &of_a);
    sched_stats(b->sched[MODEL_POLICY], &of_b);
    return of_a.kv_pages_used + of_a.kv_pages_reserved <
           of_b.kv_pages_used + of_b.kv_pages_reserved;
}

struct replica *replica_next(struct runs *rs, const struct run_args *args, uint32_t *asked)
{
    struct replica *least = NULL;
    for (uint32_t i = 0; i < rs->replicas_count; i++) {
        /* Where prompts of the same tenant lie in the prefix tree, as long as there is little to do. */
        uint32_t number = (args->tenant % rs->replicas_count + i) % rs->replicas_count;
        struct replica *replica = &rs->replicas[number];
        if (*asked & 1u << number || !may_begin(replica, args->algorithm))
            continue;
        if (!least || has_less(replica, least))
            least = replica;
    }
    if (least)
        *asked |= 1u << (least - rs->replicas);
    return least;
}

void runs_sched_stats(const struct runs *rs, struct sched_stats *ret_stats)
{
    *ret_stats = (struct sched_stats){0};
    for (uint32_t i = 0; i < rs->replicas_count; i++) {
        struct sched_stats of;
        sched_stats(rs->replicas[i].sched[MODEL_POLICY], &of);
        ret_stats->steps_count += of.steps_count;
        ret_stats->rows_count += of.rows_count;
        ret_stats->rows_discarded_count += of.rows_discarded_count;
        ret_stats->prompt_tokens_count += of.prompt_tokens_count;
        ret_stats->cached_tokens_count += of.cached_tokens_count;
        ret_stats->parked_count += of.parked_count;
        ret_stats->recomputed_tokens_count += of.recomputed_tokens_count;
        ret_stats->evictions_count += of.evictions_count;
        ret_stats->kv_pages += of.kv_pages;
        ret_stats->kv_pages_used += of.kv_pages_used;
        ret_stats->kv_pages_cached += of.kv_pages_cached;
        ret_stats->kv_pages_reserved += of.kv_pages_reserved;
    }
}

uint32_t run_replica(const struct run *r)
{
    return (uint32_t)(r->replica - r->runs->replicas);
}

uint64_t runs_due_ns(const struct runs *rs)
{
    uint64_t due_ns = vectors_due_ns(rs);
    for (uint32_t i = 0; i < rs->replicas_count; i++)
        for (uint32_t m = 0; m < MODELS; m++) {
            const struct replica *replica = &rs->replicas[i];
            uint64_t ns = replica->sched[m] ? sched_due_ns(replica->sched[m]) : UINT64_MAX;
            if (rs->waiting_due && !TAILQ_EMPTY(&replica->waiting[m]))
                return 0;
            due_ns = ns < due_ns ? ns : due_ns;
        }
    return due_ns;
}

void runs_fds(const struct runs *rs, int ret_fds[RUNS_FDS])
{
    for (uint32_t i = 0; i < RUNS_REPLICAS_MAX; i++)
        for (uint32_t m = 0; m < MODELS; m++) {
            const struct sched *sched = rs->replicas[i].sched[m];
            ret_fds[MODELS * i + m] = sched ? sched_fd(sched) : -1;
        }
    ret_fds[RUNS_FDS - 1] = rs->config.embed ? embed_fd(rs->config.embed) : -1;
    for (uint32_t i = 1; i < RUNS_FDS; i++) /* models that share devices share it */
        for (uint32_t j = 0; j < i; j++)
            if (ret_fds[i] == ret_fds[j])
                ret_fds[i] = -1;
}
