/* Monte-Carlo tree search over steps (TS-LLM, 2309.17179, its `rap` loop; PUCT as AlphaZero's). A node is
 * a step; all actions of a node are sampled at once, those that say the same are one; the reward model
 * values each when it is made. An iteration goes down by PUCT, making nodes on its way, to a leaf that
 * ends, whose value is backed up. The knob is iterations; each adds the path it ended at to the ballot. */
#include <math.h>
#include <string.h>

#include "daemon/base/hash.h"
#include "daemon/program/algorithms.h"

/* Of a branch. All that the way down looks at: a tree is larger than the caches, and another line of each node on
 * it would cost more than what is done there. */
struct edge {
    double value_sum; /* the reward model's value before the first visit */
    uint32_t visits;
    float prior;
    uint32_t child_first; /* valid when child_count is not 0 */
    uint16_t child_count;
    bool expanded : 1;
    bool answered : 1; /* a path ends here */
    bool dropped : 1;  /* empty, or says what a sibling before it says */
    uint64_t said;     /* hash of what it says */
};
_Static_assert(sizeof(struct edge) <= RUN_BRANCH_STATE_BYTES, "");

struct state {
    struct edge root;
    uint32_t at; /* whose actions are being made; RUN_NONE: the root */
    uint32_t iterations;
    uint32_t knob; /* granted */
    bool expands;  /* actions are being made */
};
_Static_assert(sizeof(struct state) <= RUN_STATE_BYTES, "");

static uint32_t branches_max(const struct parameters *p)
{
    return parameters_cap(p) * algorithm_depth(p) * parameter_whole(p, DYNASOR_PARAMETER_WIDTH);
}

double mcts_prior(uint32_t rule, double log_sum, uint32_t tokens_count, double log_sum_best)
{
    switch (rule) {
    case MCTS_PRIOR_MEAN:
        return exp(tokens_count ? log_sum / tokens_count : 0);
    case MCTS_PRIOR_SUM:
        return exp(log_sum - log_sum_best);
    default:
        return 1;
    }
}

double mcts_exploration(uint32_t parent_visits, double base, double init)
{
    return (log((parent_visits + base + 1) / base) + init) * sqrt(parent_visits);
}

double mcts_priority(double value, double prior, uint32_t visits, double exploration)
{
    return value + exploration * prior / (1 + visits);
}

static struct edge *edge_of(struct run *run, uint32_t branch)
{
    return branch == RUN_NONE ? &((struct state *)run_state(run))->root
                              : run_branch_state(run, branch);
}

/* depth: steps to the branch, with its own. */
static bool terminal(const struct run *run, const struct edge *edge, uint32_t depth)
{
    return edge->answered ||
           depth >= parameter_whole(run_parameters(run), DYNASOR_PARAMETER_DEPTH) ||
           (edge->expanded && edge->child_count == 0);
}

static void expand(struct run *run, struct state *state, uint32_t branch)
{
    const struct parameters *p = run_parameters(run);
    struct edge *edge = edge_of(run, branch);
    edge->child_first = run_branches_count(run);
    edge->child_count = (uint16_t)parameter_whole(p, DYNASOR_PARAMETER_WIDTH);
    state->at = branch;
    state->expands = true;
    for (uint32_t i = 0; i < edge->child_count; i++)
        (void)run_branch(run, &(struct branch_args){
                                  .parent = branch,
                                  .tokens_max = parameter_whole(p, DYNASOR_PARAMETER_STEP_TOKENS),
                                  .stops_at_step = true,
                                  .wants_score = true});
}

/* What the step says, without blanks around it; of steps that say the same the hash is. 0: nothing. */
static uint64_t said(struct run *run, uint32_t branch)
{
    uint32_t bytes;
    const char *text = run_text_own(run, branch, &bytes);
    while (bytes && memchr(" \t\r\n", text[bytes - 1], 4))
        bytes--;
    while (bytes && memchr(" \t\r\n", *text, 4)) {
        text++;
        bytes--;
    }
    return bytes ? hash_bytes(text, bytes, 0).low | 1 : 0;
}

/* Two steps with one hash are not compared: that they differ nevertheless is as likely as a wrong bit in
 * memory, and costs an action. */
static bool drops(struct run *run, uint32_t first, uint32_t branch)
{
    uint64_t says = edge_of(run, branch)->said;
    if (says == 0 && run_get(run, branch)->state != BRANCH_ENDED)
        return true;
    for (uint32_t b = first; b < branch; b++)
        if (edge_of(run, b)->said == says)
            return true;
    return false;
}

/* Of the actions from first on that are not dropped. */
static void set_priors(struct run *run, uint32_t first, uint32_t end, double log_sum_best)
{
    uint32_t rule = parameter_whole(run_parameters(run), DYNASOR_PARAMETER_PRIOR);
    double sum = 0;
    for (uint32_t b = first; b < end; b++) {
        struct edge *e = edge_of(run, b);
        const struct branch *branch = run_get(run, b);
        if (e->dropped)
            continue;
        e->prior = (float)mcts_prior(rule, branch->log_sum, branch->tokens_count, log_sum_best);
        sum += (double)e->prior;
    }
    for (uint32_t b = first; b < end && sum > 0; b++)
        edge_of(run, b)->prior /= (float)sum;
}

/* The actions of state->at were sampled and valued: priors of those that are different. */
static void expanded(struct run *run, const struct state *state)
{
    struct edge *edge = edge_of(run, state->at);
    double log_sum_best = -INFINITY;
    uint32_t end = edge->child_first + edge->child_count, kept = 0;
    for (uint32_t b = edge->child_first; b < end; b++) {
        struct edge *e = edge_of(run, b);
        const struct branch *branch = run_get(run, b);
        e->said = said(run, b);
        e->answered = algorithm_is_leaf(run, b);
        e->dropped = drops(run, edge->child_first, b);
        e->value_sum = (double)branch->score;
        if (e->dropped || terminal(run, e, branch->depth + 1))
            run_retire(run, b);
        if (e->dropped)
            continue;
        log_sum_best = fmax(log_sum_best, branch->log_sum);
        kept++;
    }
    set_priors(run, edge->child_first, end, log_sum_best);
    edge->expanded = true;
    if (kept == 0)
        edge->child_count = 0;
    if (state->at != RUN_NONE)
        run_retire(run, state->at);
}

static uint32_t choose(struct run *run, uint32_t branch)
{
    const struct parameters *p = run_parameters(run);
    const struct edge *edge = edge_of(run, branch);
    uint32_t best = RUN_NONE;
    double best_priority = 0,
           exploration =
               mcts_exploration(edge->visits, p->value[DYNASOR_PARAMETER_EXPLORATION_BASE],
                                p->value[DYNASOR_PARAMETER_EXPLORATION]);
    for (uint32_t b = edge->child_first; b < edge->child_first + edge->child_count; b++) {
        const struct edge *e = edge_of(run, b);
        if (e->dropped)
            continue;
        double value = e->visits ? e->value_sum / e->visits : e->value_sum;
        double priority = mcts_priority(value, (double)e->prior, e->visits, exploration);
        if (best == RUN_NONE || priority > best_priority) {
            best = b;
            best_priority = priority;
        }
    }
    return best;
}

static void back_up(struct run *run, uint32_t leaf)
{
    double value = (double)run_get(run, leaf)->score;
    uint32_t b = leaf;
    for (;;) {
        struct edge *e = edge_of(run, b);
        e->value_sum = e->visits ? e->value_sum + value : value;
        e->visits++;
        if (b == RUN_NONE)
            return;
        b = run_get(run, b)->parent;
    }
}

/* Goes down from the root until actions have to be made, or the policy says that it is enough. */
static void iterate(struct run *run, struct state *state)
{
    uint32_t cap = parameters_cap(run_parameters(run));
    for (;;) {
        if (state->iterations == state->knob &&
            !algorithm_decide(run, 0, state->iterations, cap, &state->knob))
            return;
        uint32_t at = RUN_NONE;
        for (uint32_t depth = 0; at == RUN_NONE || !terminal(run, edge_of(run, at), depth);
             depth++) {
            if (!edge_of(run, at)->expanded) {
                expand(run, state, at);
                return;
            }
            at = choose(run, at);
            if (at == RUN_NONE) { /* not even a first step: nothing to search */
                algorithm_finish(run, RUN_WHOLE);
                return;
            }
        }
        back_up(run, at);
        algorithm_count(run, at);
        state->iterations++;
    }
}

static void next(struct run *run)
{
    struct state *state = run_state(run);
    if (state->expands)
        expanded(run, state);
    state->expands = false;
    iterate(run, state);
}

const struct algorithm algorithm_mcts = {.name = "mcts",
                                         .kind = DYNASOR_ALGORITHM_MCTS,
                                         .wants_reward = true,
                                         .branches_max = branches_max,
                                         .start = next,
                                         .next = next};
