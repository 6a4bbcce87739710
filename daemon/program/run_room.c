#include <string.h>

#include "daemon/base/scratch.h"
#include "daemon/program/run.h"
#include "daemon/program/run_impl.h"

static struct sched_seq_args seq_args(const struct node *n)
{
    const struct run_args *a = &n->run->args;
    return (struct sched_seq_args){.seed = a->seed,
                                   .branch = n->key,
                                   .user = (uint32_t)(n - n->run->runs->nodes),
                                   .tenant = a->tenant,
                                   .group = a->group,
                                   .sampling = n->sampling,
                                   .biases = a->biases};
}

/* The reward model's own end of a step comes behind it, in place of what the model ends its text with. */
static uint32_t tag_add(const struct runs *rs, uint32_t count)
{
    uint32_t tag = rs->config.texts->step_tag;
    if (count > 1 && codec_is_end(rs->config.codec, rs->path[count - 1]))
        count--;
    if (count == 0 || rs->path[count - 1] != tag)
        rs->path[count++] = tag;
    return count;
}

/* The nearest sequence, of n or above it, that has no token beyond the way down to n, and to runs->path
 * the tokens that it lacks. A parent may be gone: then it is its parent's, and the root's at last. */
static uint32_t way_to(const struct node *n, enum model model, uint32_t *ret_count)
{
    const struct run *r = n->run;
    struct runs *rs = r->runs;
    struct {
        const struct node *node;
        uint32_t from, end;
    } way[RUN_DEPTH_MAX] SCRATCH;
    uint32_t depth = 0, count = 0, end = n->branch.tokens_count, seq = SCHED_NONE;
    for (; n && seq == SCHED_NONE; n = parent_of(n)) {
        uint32_t has = model == MODEL_POLICY ? n->branch.tokens_count : n->read_tokens;
        bool moves = model == MODEL_POLICY && n->branch.state == BRANCH_RUNNING;
        bool usable = n->seq[model] != SCHED_NONE && has <= end && !moves;
        seq = usable ? n->seq[model] : SCHED_NONE;
        way[depth].node = n;
        way[depth].from = usable ? has : 0;
        way[depth++].end = end;
        end = n->fork_tokens;
    }
    while (depth--) {
        uint32_t more = way[depth].end - way[depth].from;
        const struct node *at = way[depth].node;
        memcpy(rs->path + count, tokens_of(rs, at) + way[depth].from, more * sizeof(uint32_t));
        count += more;
        bool read = depth == 0 || (at->branch.scored && at->read_tokens == way[depth].end);
        if (model == MODEL_REWARD && rs->config.texts->step_tag && read && more)
            count = tag_add(rs, count);
    }
    *ret_count = count;
    return seq != SCHED_NONE ? seq : r->root[model];
}

/* A branch's first room: it forks from above, or is the prompt's own sequence. Its next one, from what it
 * adopted. */
int room_to_decode(struct node *n)
{
    const struct run *r = n->run;
    struct sched *sched = r->replica->sched[MODEL_POLICY];
    struct sched_seq_args args = seq_args(n);
    args.max_tokens = n->cut_at - n->branch.tokens_count;
    if (r->root[MODEL_POLICY] == SCHED_NONE) {
        ASSERT(n->branch.parent == RUN_NONE && r->prompt_tokens);
        args.prompt = r->prompt;
        args.prompt_tokens = r->prompt_tokens;
        return sched_add(sched, &args, &n->seq[MODEL_POLICY]);
    }
    uint32_t parent = way_to(n, MODEL_POLICY, &args.prompt_tokens), seq;
    args.prompt = r->runs->path;
    int result = sched_fork(sched, parent, &args, &seq);
    if (result != SCHED_OK)
        return result;
    if (n->seq[MODEL_POLICY] != SCHED_NONE)
        sched_remove(sched, n->seq[MODEL_POLICY]);
    n->seq[MODEL_POLICY] = seq;
    n->adopted = false;
    return SCHED_OK;
}

int room_to_score(struct node *n)
{
    struct sched *sched = n->run->replica->sched[MODEL_REWARD];
    struct sched_seq_args args = seq_args(n);
    uint32_t parent = way_to(n, MODEL_REWARD, &args.prompt_tokens), seq;
    args.prompt = n->run->runs->path;
    args.stem = true;
    args.want = SCHED_WANT_SCORE;
    int result = sched_fork(sched, parent, &args, &seq);
    if (result != SCHED_OK)
        return result;
    if (n->seq[MODEL_REWARD] != SCHED_NONE) /* that read it before it was let go on */
        sched_remove(sched, n->seq[MODEL_REWARD]);
    n->seq[MODEL_REWARD] = seq;
    n->read_tokens = n->branch.tokens_count;
    n->run->cost.reward_tokens += args.prompt_tokens;
    return SCHED_OK;
}
