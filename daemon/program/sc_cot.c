/* Self-consistency over chains of thought that end early: independent chains, each probed on its way and
 * ended by the profile's [probe] section, whatever its policy is (cot.c); then the majority of their answers,
 * and the policy says how many chains there are, as in sc.c. The knob is chains; the i-th decodes what the
 * i-th sample of sc would.
 *
 * Chains rest while they are probed and while others of their round are: what is decided on one depends on
 * nothing but its own tokens, and where m_of_n ends the others of a round, on where they rest. The probes of
 * all share one table; a chain that has used its part of it goes on to its end, and is asked there. */
#include "daemon/program/algorithms.h"
#include "daemon/program/observe.h"

#define NONE 0u /* the first chain: never a probe, and after no other */

struct chain {       /* of a branch */
    uint32_t next;   /* of the round, or NONE */
    uint32_t number; /* in the order of their starts */
    uint32_t probe;  /* branch that is being asked, or NONE */
    uint32_t latest; /* that had an answer, or NONE: its own text has it */
    uint32_t asked;  /* probes */
    bool done;
};
_Static_assert(sizeof(struct chain) <= RUN_BRANCH_STATE_BYTES, "");

struct state {
    uint32_t first; /* chain of the round */
    uint32_t count; /* of chains */
    bool voted;     /* those of the round have */
};
_Static_assert(sizeof(struct state) <= RUN_STATE_BYTES, "");

static uint32_t cap_of(const struct run *run)
{
    return parameters_cap(run_parameters(run));
}

static uint32_t branches_max(const struct parameters *parameters)
{
    return 3 * parameters_cap(parameters); /* a chain and two probes each */
}

/* Probes of each chain at most. */
static uint32_t part_of(const struct run *run)
{
    return BALLOT_ANSWERS_MAX / cap_of(run);
}

static struct policy_decision decide(struct run *run, uint32_t branch)
{
    const struct chain *chain = run_branch_state(run, branch);
    uint32_t tokens = run_get(run, branch)->tokens_count;
    struct policy_view view = {.knob_done = tokens,
                               .knob_cap = run_parameters(run)->max_tokens,
                               .tokens_count = tokens,
                               .probes_count = chain->asked,
                               .probes = run_asked(run)->probes + chain->number * part_of(run)};
    return policy_decide_chain(run_policy(run), &view);
}

/* Its probe has settled. */
static void hear(struct run *run, uint32_t branch)
{
    struct chain *chain = run_branch_state(run, branch);
    struct ballot *asked = run_asked(run);
    uint32_t forgotten = chain->probe;
    struct certaindex_probe heard;
    bool valid = cot_hear(run, asked, chain->probe, &heard);
    asked->probes[chain->number * part_of(run) + chain->asked++] = heard;
    run_retire(run, chain->probe);
    if (valid) {
        forgotten = chain->latest;
        chain->latest = chain->probe;
    }
    if (forgotten != NONE)
        run_forget(run, forgotten);
    chain->probe = NONE;
}

/* False: it is done. */
static bool goes_on(struct run *run, uint32_t branch)
{
    struct chain *chain = run_branch_state(run, branch);
    enum branch_state at = run_get(run, branch)->state;
    if (chain->done)
        return false;
    if (chain->probe == NONE && at != BRANCH_ENDED) {
        chain->probe = cot_ask(run, branch);
        return true;
    }
    if (chain->probe != NONE)
        hear(run, branch);
    if (at == BRANCH_HELD) {
        struct policy_decision decision = decide(run, branch);
        bool again = chain->asked + 1 < part_of(run);
        if (decision.verdict == POLICY_CONTINUE) {
            run_extend(run, branch, again ? decision.knob - run_get(run, branch)->tokens_count : 0);
            return true;
        }
    }
    chain->done = true;
    run_retire(run, branch);
    return false;
}

static void vote(struct run *run, uint32_t branch)
{
    static const struct answer_rule of_probe = {.kind = ANSWER_PROBE};
    const struct chain *chain = run_branch_state(run, branch);
    bool probed = chain->latest != NONE && run_get(run, branch)->state != BRANCH_ENDED;
    struct ballot_vote own = {.branch = probed ? chain->latest : branch,
                              .weight = 1,
                              .confidence = run_confidence(run, branch)};
    uint32_t bytes;
    const char *text =
        probed ? run_text_own(run, chain->latest, &bytes) : run_text(run, branch, &bytes);
    uint32_t idx = ballot_add(run_ballot(run), probed ? &of_probe : &run_parameters(run)->answer,
                              text, bytes, &own);
    run_ballot(run)->probes[idx] = (struct certaindex_probe){.group = CERTAINDEX_EMPTY};
    observe_answer(run);
}

/* More chains, up to so many. */
static void chains(struct run *run, struct state *state, uint32_t knob)
{
    struct policy_view none = {.knob_cap = run_parameters(run)->max_tokens};
    struct policy_decision first = policy_decide_chain(run_policy(run), &none);
    uint32_t *link = &state->first;
    state->voted = false;
    while (state->count < knob) {
        uint32_t branch =
            run_branch(run, &(struct branch_args){.parent = RUN_NONE,
                                                  .tokens_max = part_of(run) > 1 ? first.knob : 0});
        struct chain *chain = run_branch_state(run, branch);
        chain->number = state->count++;
        *link = branch;
        link = &chain->next;
    }
}

/* m_of_n: whether M chains of the round have ended that no other can come before, by length, then by number.
 * They vote, and the others end where they rest. */
static bool first_take(struct run *run, const struct state *state)
{
    const struct policy_options *policy = run_policy(run);
    uint32_t all[BALLOT_ANSWERS_MAX], ended_count = 0, counted = 0, n = 0, branch = state->first;
    uint64_t tokens[BALLOT_ANSWERS_MAX];
    bool ended[BALLOT_ANSWERS_MAX], counts[BALLOT_ANSWERS_MAX];
    if (policy->kind != POLICY_M_OF_N || state->count == 0)
        return false;
    do {
        const struct chain *chain = run_branch_state(run, branch);
        all[n] = branch;
        tokens[n] = run_get(run, branch)->tokens_count;
        ended_count += ended[n++] = chain->done;
        branch = chain->next;
    } while (branch != NONE);
    struct policy_view view = {.knob_done = state->count,
                               .branches_count = n,
                               .branch_tokens = tokens,
                               .branch_finished = ended};
    if (policy->finished_count >= n || ended_count < policy->finished_count)
        return false;
    for (uint32_t i = 0; i < n; i++)
        counted += counts[i] = policy_branch_counts(policy, &view, i);
    if (counted < policy->finished_count)
        return false;
    for (uint32_t i = 0; i < n; i++)
        if (counts[i])
            vote(run, all[i]);
        else if (!ended[i])
            run_kill(run, all[i]);
    struct certaindex seen;
    ballot_view(run_ballot(run), 0, &view);
    policy_measure(policy, &view, &seen);
    run_report(run, &seen, state->count);
    algorithm_finish(run, RUN_SETTLED);
    return true;
}

static void next(struct run *run)
{
    struct state *state = run_state(run);
    uint32_t knob, end = state->count, branch = state->first;
    bool going = false;
    for (uint32_t more = end > 0; more; more = branch != NONE) {
        going |= goes_on(run, branch);
        branch = ((const struct chain *)run_branch_state(run, branch))->next;
    }
    if (first_take(run, state) || going)
        return;
    branch = state->first;
    for (uint32_t more = end > 0 && !state->voted; more; more = branch != NONE) {
        vote(run, branch);
        branch = ((const struct chain *)run_branch_state(run, branch))->next;
    }
    state->voted = true;
    if (algorithm_decide(run, 0, end, cap_of(run), &knob))
        chains(run, state, knob);
}

const struct algorithm algorithm_sc_cot = {.name = "sc_cot",
                                           .kind = DYNASOR_ALGORITHM_SC_COT,
                                           .branches_max = branches_max,
                                           .extra_tokens = cot_extra_tokens,
                                           .start = next,
                                           .next = next};
