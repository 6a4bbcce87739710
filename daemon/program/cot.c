/* One long chain of thought, probed on its way (the paper's section 2.1 and its client, dynasor/core/cot.py):
 * at intervals the chain is forked, asked for its answer at once, and the fork is thrown away. When the
 * last answers agree, the chain ends with the latest. The knob is tokens.
 *
 * The chain rests while it is probed: an answer is then acted on at the token where it was asked for,
 * whoever else is running, and no token is decoded in vain.
 *
 * Guided (the paper's first version, section 6.7): what a probe was given and answers is not thrown away,
 * the chain goes on behind it, or ends where the model ended its answer. With Cut the policy may end it,
 * too, and the answer that it was led to is then the last thing it says. What it takes over counts towards
 * max_tokens: a probe that would fill it is thrown away. */
#include <string.h>
#include <strings.h>

#include "daemon/base/assert.h"
#include "daemon/program/algorithms.h"
#include "daemon/program/observe.h"

#define CHAIN 0u /* its branch */

enum guided { GUIDED_NOT = 0, GUIDED = 1, GUIDED_CUT = 2 };

struct state {
    uint32_t probe;  /* branch that is being asked; CHAIN: none */
    uint32_t latest; /* that had an answer; CHAIN: none yet */
};
_Static_assert(sizeof(struct state) <= RUN_STATE_BYTES, "");

static uint32_t branches_max(const struct parameters *parameters)
{
    (void)parameters;
    return 3; /* the chain, and both probes of the state */
}

uint32_t cot_extra_tokens(const struct parameters *parameters, const struct run_texts *texts)
{
    return texts->probe_count + parameter_whole(parameters, DYNASOR_PARAMETER_PROBE_TOKENS);
}

bool cot_hesitates(const char *text, uint32_t bytes)
{
    static const char *const words[] = {"wait", "hold", "but", "okay", "no", "hmm"};
    for (uint32_t i = 0; i < bytes; i++) {
        if (!text[i] || !strchr("whbonWHBON", text[i])) /* most letters begin none */
            continue;
        for (size_t w = 0; w < sizeof words / sizeof words[0]; w++) {
            size_t word_bytes = strlen(words[w]);
            if (word_bytes <= bytes - i && strncasecmp(text + i, words[w], word_bytes) == 0)
                return true;
        }
    }
    return false;
}

uint32_t cot_ask(struct run *run, uint32_t chain)
{
    const struct parameters *p = run_parameters(run);
    const struct run_texts *texts = run_texts(run);
    struct ops_sample_row sampling = {.temperature =
                                          (float)p->value[DYNASOR_PARAMETER_PROBE_TEMPERATURE],
                                      .top_p = (float)p->value[DYNASOR_PARAMETER_PROBE_TOP_P],
                                      .repetition = 1,
                                      .forced_token = OPS_NONE};
    return run_branch(
        run, &(struct branch_args){.parent = chain,
                                   .given = texts->probe,
                                   .given_count = texts->probe_count,
                                   .tokens_max = parameter_whole(p, DYNASOR_PARAMETER_PROBE_TOKENS),
                                   .sampling = &sampling});
}

static enum guided guided_of(const struct run *run)
{
    return (enum guided)parameter_whole(run_parameters(run), DYNASOR_PARAMETER_GUIDED);
}

bool cot_hear(struct run *run, struct ballot *ballot, uint32_t probe, struct certaindex_probe *ret)
{
    static const struct answer_rule rule = {.kind = ANSWER_PROBE};
    uint32_t bytes, chain = run_get(run, probe)->parent;
    const char *text = run_text_own(run, probe, &bytes);
    bool listens = run_parameters(run)->value[DYNASOR_PARAMETER_HESITATION] > 0;
    bool hesitant = listens && cot_hesitates(text, bytes);
    const float *vector = ballot == run_ballot(run) ? run_vector_take(run, probe) : NULL;
    uint32_t idx =
        ballot_add(ballot, &rule, text, bytes,
                   &(struct ballot_vote){.branch = probe, .weight = 1, .vector = vector});
    *ret = (struct certaindex_probe){.group = ballot->cluster.group[idx],
                                     .hesitant = hesitant,
                                     .tokens = run_get(run, chain)->tokens_count};
    return answer_valid(&ballot->answers[idx]);
}

/* The probe has settled. */
static void hear(struct run *run, struct state *state)
{
    struct ballot *ballot = run_ballot(run);
    uint32_t forgotten = state->probe;
    struct certaindex_probe heard;
    bool valid = cot_hear(run, ballot, state->probe, &heard);
    ballot->probes[ballot->cluster.count - 1] = heard;
    observe_answer(run);
    const struct branch *chain = run_get(run, CHAIN);
    uint32_t room = run_parameters(run)->max_tokens - chain->tokens_count;
    if (guided_of(run) != GUIDED_NOT && chain->state == BRANCH_HELD &&
        run_get(run, state->probe)->tokens_count < room)
        run_adopt(run, CHAIN, state->probe);
    run_retire(run, state->probe);
    if (valid) {
        forgotten = state->latest;
        state->latest = state->probe;
    }
    if (forgotten != CHAIN)
        run_forget(run, forgotten);
    state->probe = CHAIN;
}

static void decide(struct run *run, struct state *state)
{
    const struct branch *chain = run_get(run, CHAIN);
    const struct ballot *ballot = run_ballot(run);
    struct policy_view view = {.knob_done = chain->tokens_count,
                               .knob_cap = run_parameters(run)->max_tokens,
                               .tokens_count = chain->tokens_count,
                               .probes_count = ballot->cluster.count,
                               .probes = ballot->probes};
    struct policy_decision decision = policy_decide(run_policy(run), &view);
    run_report(run, &decision.seen, chain->tokens_count);
    bool stops = decision.verdict != POLICY_CONTINUE;
    if (stops && guided_of(run) != GUIDED) {
        run_finish(run, decision.verdict == POLICY_STOP ? RUN_SETTLED : RUN_GIVEN_UP, CHAIN,
                   state->latest);
        return;
    }
    /* Asked often enough: it goes to its end by itself, and is asked there once more. */
    bool again = ballot->cluster.count + 1 < BALLOT_ANSWERS_MAX;
    uint64_t knob = stops ? policy_probe_next(run_policy(run), chain->tokens_count) : decision.knob;
    run_extend(run, CHAIN, again ? (uint32_t)knob - chain->tokens_count : 0);
}

static void next(struct run *run)
{
    struct state *state = run_state(run);
    enum branch_state chain = run_get(run, CHAIN)->state;
    if (chain == BRANCH_ENDED) {
        run_finish(run, RUN_WHOLE, CHAIN, CHAIN);
        return;
    }
    if (state->probe == CHAIN) {
        state->probe = cot_ask(run, CHAIN);
        return;
    }
    hear(run, state);
    if (run_get(run, CHAIN)->state == BRANCH_ENDED)
        run_finish(run, RUN_WHOLE, CHAIN, state->latest);
    else if (chain == BRANCH_CUT) /* at the cap: the answer it gives when asked */
        run_finish(run, RUN_CAPPED, CHAIN, state->latest);
    else
        decide(run, state);
}

static void start(struct run *run)
{
    struct policy_view view = {.knob_cap = run_parameters(run)->max_tokens};
    struct policy_decision decision = policy_decide(run_policy(run), &view);
    (void)run_branch(run, &(struct branch_args){.parent = RUN_NONE, .tokens_max = decision.knob});
}

const struct algorithm algorithm_cot = {.name = "cot",
                                        .kind = DYNASOR_ALGORITHM_COT,
                                        .live = true,
                                        .branches_max = branches_max,
                                        .extra_tokens = cot_extra_tokens,
                                        .start = start,
                                        .next = next};
