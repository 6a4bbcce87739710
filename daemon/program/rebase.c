/* REBASE (Wu et al., "Inference Scaling Laws", 2408.00724; thu-wyz/inference_scaling): a tree of a fixed
 * width, level by level; the reward model's scores share the width out among a level's nodes.
 *
 * The knob is the width. A tree of the first grant is grown to its leaves; when the policy grants more,
 * the rest is a second tree over the same prompt, and all leaves vote. */
#include <math.h>

#include "daemon/program/algorithms.h"

struct state {
    uint32_t level_first; /* branches of the level that is being decoded */
    uint32_t depth;
    uint32_t width_left; /* leaves that the tree may still get */
    uint32_t knob;       /* granted */
    bool grows;          /* the tree has not all its leaves */
};
_Static_assert(sizeof(struct state) <= RUN_STATE_BYTES, "");

#define WIDTH_MAX 1024u

static uint32_t branches_max(const struct parameters *parameters)
{
    return parameters_cap(parameters) * algorithm_depth(parameters);
}

static void child(struct run *run, uint32_t parent)
{
    (void)run_branch(
        run, &(struct branch_args){
                 .parent = parent,
                 .tokens_max = parameter_whole(run_parameters(run), DYNASOR_PARAMETER_STEP_TOKENS),
                 .stops_at_step = true,
                 .wants_score = true});
}

void rebase_split(const double *scores, uint32_t count, uint32_t width, double spread,
                  uint32_t *ret_counts)
{
    /* From the greatest, so that no exponential overflows. */
    double left[WIDTH_MAX], sum = 0;
    for (uint32_t i = count; i-- > 0;) {
        sum += exp((scores[i] - scores[0]) / spread);
        left[i] = sum;
    }
    for (uint32_t i = 0; i < count; i++) {
        double share = exp((scores[i] - scores[0]) / spread) / left[i];
        ret_counts[i] = width ? (uint32_t)ceil(width * share) : 0;
        if (ret_counts[i] > width)
            ret_counts[i] = width;
        width -= ret_counts[i];
    }
}

static void tree(struct run *run, struct state *state, uint32_t width)
{
    state->level_first = run_branches_count(run);
    state->depth = 1;
    state->width_left = width;
    state->grows = true;
    for (uint32_t i = 0; i < width; i++)
        child(run, RUN_NONE);
}

/* By score, best first; of equals the one that was first. */
static void sort(const struct run *run, uint32_t *nodes, uint32_t count)
{
    for (uint32_t i = 1; i < count; i++)
        for (uint32_t k = i;
             k > 0 && run_get(run, nodes[k])->score > run_get(run, nodes[k - 1])->score; k--) {
            uint32_t swap = nodes[k];
            nodes[k] = nodes[k - 1];
            nodes[k - 1] = swap;
        }
}

/* One level down; false: the tree has all its leaves. */
static bool level(struct run *run, struct state *state)
{
    const struct parameters *p = run_parameters(run);
    uint32_t nodes[WIDTH_MAX], counts[WIDTH_MAX], count = 0, end = run_branches_count(run);
    double scores[WIDTH_MAX];
    bool deepest = state->depth >= parameter_whole(p, DYNASOR_PARAMETER_DEPTH);
    for (uint32_t b = state->level_first; b < end; b++) {
        if (algorithm_is_leaf(run, b) || deepest) {
            algorithm_count(run, b);
            run_retire(run, b);
            state->width_left--;
        } else {
            nodes[count++] = b;
        }
        uint32_t parent = run_get(run, b)->parent; /* all its children have begun */
        if (parent != RUN_NONE)
            run_retire(run, parent);
    }
    if (state->width_left == 0 || count == 0)
        return false;
    sort(run, nodes, count);
    for (uint32_t i = 0; i < count; i++)
        scores[i] = (double)run_get(run, nodes[i])->score;
    rebase_split(scores, count, state->width_left, p->value[DYNASOR_PARAMETER_SPREAD], counts);
    state->level_first = end;
    state->depth++;
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t k = 0; k < counts[i]; k++)
            child(run, nodes[i]);
        if (counts[i] == 0)
            run_retire(run, nodes[i]);
    }
    return true;
}

static void next(struct run *run)
{
    struct state *state = run_state(run);
    uint32_t done = state->knob;
    if (state->grows && level(run, state))
        return;
    state->grows = false;
    if (algorithm_decide(run, 0, done, parameters_cap(run_parameters(run)), &state->knob))
        tree(run, state, state->knob - done);
}

const struct algorithm algorithm_rebase = {.name = "rebase",
                                           .kind = DYNASOR_ALGORITHM_REBASE,
                                           .wants_reward = true,
                                           .branches_max = branches_max,
                                           .start = next,
                                           .next = next};
