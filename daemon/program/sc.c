/* Self-consistency (Wang et al., ICLR 2023): independent samples, the majority's answer. The knob is
 * samples. Best-of-n is the same with the reward model's choice in place of the majority.
 *
 * Two policies end samples before their time. deepconf: one whose group confidence falls below the bar,
 * which the warm-up set for good, is killed at that token. m_of_n: of n samples the M that come first by
 * length, then by number, count. What the others have beyond the length of the last of these depends on
 * how they were scheduled: it is cut back, so that tokens and costs do not. */
#include "daemon/program/algorithms.h"

enum watched { WATCHED_NOT = 0, WATCHED_CONFIDENCE, WATCHED_LENGTH };

struct state {
    uint32_t counted;
    uint32_t watched; /* enum watched, of the round */
    double bar;       /* confidence */
    uint32_t window;  /* likewise */
    uint32_t first;   /* M */
    uint64_t
        last; /* place of the M-th of those that have ended; UINT64_MAX: there are not so many */
};
_Static_assert(sizeof(struct state) <= RUN_STATE_BYTES, "");

static bool has_ended(const struct branch *b)
{
    return b->state == BRANCH_ENDED || b->state == BRANCH_CUT;
}

/* By length, then by number. */
static uint64_t place_of(uint32_t tokens, uint32_t number)
{
    return (uint64_t)tokens << 32 | number;
}

/* A sample that still decodes has one more token when it ends. */
static bool is_late(const struct state *state, const struct branch *b, uint32_t number)
{
    return place_of(b->tokens_count + !has_ended(b), number) > state->last;
}

/* Another one has ended. Until there are M the last is unknown; from then on each that comes before it
 * takes its place. */
static void first_take(struct run *run, struct state *state)
{
    uint64_t most = 0, second = 0;
    uint32_t count = 0, end = run_branches_count(run);
    for (uint32_t b = state->counted; b < end; b++) {
        const struct branch *at = run_get(run, b);
        if (!has_ended(at) || is_late(state, at, b))
            continue;
        uint64_t place = place_of(at->tokens_count, b);
        second = place > most ? most : place > second ? place : second;
        most = place > most ? place : most;
        count++;
    }
    if (count < state->first)
        return;
    state->last = count == state->first ? most : second;
    for (uint32_t b = state->counted; b < end; b++)
        if (!has_ended(run_get(run, b)) && is_late(state, run_get(run, b), b))
            run_kill(run, b);
}

static void watch(struct run *run, uint32_t number)
{
    if (number == RUN_NONE) /* the prompt has been read */
        return;
    struct state *state = run_state(run);
    const struct branch *b = run_get(run, number);
    if (state->watched == WATCHED_LENGTH) {
        if (has_ended(b))
            first_take(run, state);
        else if (is_late(state, b, number))
            run_kill(run, number);
    } else if (!has_ended(b) && b->confidence.count >= state->window &&
               (double)run_confidence(run, number) < state->bar) {
        run_kill(run, number);
    }
}

/* Whoever is not among the first M ends where it could not be among them any more. */
static void last_cut(struct run *run, const struct state *state)
{
    uint32_t tokens = (uint32_t)(state->last >> 32), last = (uint32_t)state->last;
    for (uint32_t b = state->counted; b < run_branches_count(run); b++) {
        if (run_get(run, b)->state != BRANCH_DEAD && !is_late(state, run_get(run, b), b))
            continue;
        run_kill(run, b);
        run_cut_back(run, b, tokens - (b > last));
    }
}

static void watch_begin(struct run *run, struct state *state, uint32_t knob, bool scores)
{
    const struct policy_options *policy = run_policy(run);
    struct policy_view view = {0};
    state->watched = WATCHED_NOT;
    state->window = policy->group_tokens;
    state->first = policy->finished_count;
    state->last = UINT64_MAX;
    ballot_view(run_ballot(run), 0, &view);
    /* Which samples the reward model has read by then is up to the schedule: there all count. */
    if (policy->kind == POLICY_M_OF_N && !scores && state->first < knob - state->counted)
        state->watched = WATCHED_LENGTH;
    if (policy->kind == POLICY_DEEPCONF && state->window &&
        policy_confidence_bar(policy, &view, &state->bar))
        state->watched = WATCHED_CONFIDENCE;
    run_watch(run, state->watched != WATCHED_NOT);
}

static void samples(struct run *run, struct state *state, uint32_t knob)
{
    bool scores = run_parameters(run)->algorithm == DYNASOR_ALGORITHM_BEST_OF_N;
    watch_begin(run, state, knob, scores);
    while (run_branches_count(run) < knob)
        (void)run_branch(run, &(struct branch_args){.parent = RUN_NONE, .wants_score = scores});
}

static void next(struct run *run)
{
    struct state *state = run_state(run);
    uint32_t done = run_branches_count(run), knob;
    if (state->watched == WATCHED_LENGTH)
        last_cut(run, state);
    for (; state->counted < done; state->counted++) {
        if (run_get(run, state->counted)->state == BRANCH_DEAD)
            continue;
        algorithm_count(run, state->counted);
        run_retire(run, state->counted);
    }
    if (state->watched == WATCHED_LENGTH) { /* the first M are all that it wanted */
        struct certaindex seen;
        struct policy_view view = {.knob_done = done};
        ballot_view(run_ballot(run), 0, &view);
        policy_measure(run_policy(run), &view, &seen);
        run_report(run, &seen, done);
        algorithm_finish(run, RUN_SETTLED);
    } else if (algorithm_decide(run, 0, done, parameters_cap(run_parameters(run)), &knob))
        samples(run, state, knob);
}

static void start(struct run *run)
{
    next(run); /* the policy says how many come first */
}

const struct algorithm algorithm_sc = {.name = "sc",
                                       .kind = DYNASOR_ALGORITHM_SC,
                                       .branches_max = parameters_cap,
                                       .start = start,
                                       .next = next,
                                       .watch = watch};
const struct algorithm algorithm_best_of_n = {.name = "best_of_n",
                                              .kind = DYNASOR_ALGORITHM_BEST_OF_N,
                                              .wants_reward = true,
                                              .branches_max = parameters_cap,
                                              .start = start,
                                              .next = next,
                                              .watch = watch};
