#include "daemon/program/algorithms.h"

#include <string.h>

#include "daemon/base/assert.h"
#include "daemon/program/observe.h"

static const struct algorithm *const table[DYNASOR_ALGORITHM_COUNT] = {
    [DYNASOR_ALGORITHM_SINGLE] = &algorithm_single,
    [DYNASOR_ALGORITHM_SC] = &algorithm_sc,
    [DYNASOR_ALGORITHM_REBASE] = &algorithm_rebase,
    [DYNASOR_ALGORITHM_MCTS] = &algorithm_mcts,
    [DYNASOR_ALGORITHM_COT] = &algorithm_cot,
    [DYNASOR_ALGORITHM_BEST_OF_N] = &algorithm_best_of_n,
    [DYNASOR_ALGORITHM_BEAM] = &algorithm_beam,
    [DYNASOR_ALGORITHM_SC_COT] = &algorithm_sc_cot,
    [DYNASOR_ALGORITHM_CUSTOM] = &algorithm_custom,
};

const struct algorithm *algorithm_get(uint32_t kind)
{
    ASSERT(kind < DYNASOR_ALGORITHM_COUNT);
    return table[kind];
}

uint32_t algorithm_depth(const struct parameters *parameters)
{
    uint32_t depth = parameter_whole(parameters, DYNASOR_PARAMETER_DEPTH);
    return depth < parameters->max_tokens ? depth : parameters->max_tokens;
}

/* A box or a phrase comes before an answer; a number or a letter may be anything. */
static bool shows_answer(const struct answer_rule *rule)
{
    return rule->kind == ANSWER_MATH || rule->kind == ANSWER_BOXED || rule->kind == ANSWER_PREFIX;
}

static bool has_answer(const struct answer_rule *rule, const char *text, uint32_t bytes)
{
    static const char phrase[] = "nswer is";
    static const struct answer_rule boxed = {.kind = ANSWER_BOXED};
    struct answer_span span;
    if (rule->kind != ANSWER_MATH)
        return answer_extract(rule, text, bytes, &span) == 0;
    return memmem(text, bytes, phrase, sizeof phrase - 1) ||
           answer_extract(&boxed, text, bytes, &span) == 0;
}

bool algorithm_is_leaf(struct run *run, uint32_t branch)
{
    enum branch_state state = run_get(run, branch)->state;
    if (state != BRANCH_STEP)
        return state == BRANCH_ENDED || state == BRANCH_CUT;
    const struct answer_rule *rule = &run_parameters(run)->answer;
    if (!shows_answer(rule))
        return false;
    uint32_t bytes;
    const char *text = run_text_own(run, branch, &bytes);
    return has_answer(rule, text, bytes);
}

enum weight_rule { WEIGHT_ONE = 0, WEIGHT_LEAST, WEIGHT_MEAN, WEIGHT_PRODUCT, WEIGHT_LAST };

double algorithm_weight(const struct run *run, uint32_t branch)
{
    uint32_t rule = parameter_whole(run_parameters(run), DYNASOR_PARAMETER_WEIGHT), count = 0;
    double least = 0, sum = 0, product = 1, last = 0;
    for (uint32_t b = branch; b != RUN_NONE && rule != WEIGHT_ONE; b = run_get(run, b)->parent) {
        const struct branch *at = run_get(run, b);
        if (!at->scored)
            continue;
        double score = (double)at->score;
        last = count == 0 ? score : last;
        least = count == 0 || score < least ? score : least;
        sum += score;
        product *= score;
        count++;
    }
    if (count == 0)
        return 1;
    switch (rule) {
    case WEIGHT_LEAST:
        return least;
    case WEIGHT_MEAN:
        return sum / count;
    case WEIGHT_PRODUCT:
        return product;
    default:
        return last;
    }
}

void algorithm_count(struct run *run, uint32_t branch)
{
    uint32_t bytes;
    const char *text = run_text(run, branch, &bytes);
    const struct branch *b = run_get(run, branch);
    (void)ballot_add(run_ballot(run), &run_parameters(run)->answer, text, bytes,
                     &(struct ballot_vote){.branch = branch,
                                           .weight = algorithm_weight(run, branch),
                                           .reward = b->score,
                                           .has_reward = b->scored,
                                           .confidence = run_confidence(run, branch),
                                           .vector = run_vector_take(run, branch)});
    observe_answer(run);
}

bool algorithm_decide(struct run *run, uint32_t first, uint32_t knob_done, uint32_t knob_cap,
                      uint32_t *ret_knob)
{
    struct policy_view view = {.knob_done = knob_done,
                               .knob_cap = knob_cap,
                               .tokens_count = run_cost(run)->decoded_tokens};
    ballot_view(run_ballot(run), first, &view);
    struct policy_decision decision = policy_decide(run_policy(run), &view);
    if (decision.verdict == POLICY_CONTINUE)
        run_ballot(run)->knob_decided = decision.knob;
    run_report(run, &decision.seen, knob_done);
    uint32_t grant = run_grant(run) < knob_cap ? run_grant(run) : knob_cap;
    bool goes_on = decision.verdict == POLICY_CONTINUE && knob_done < knob_cap;
    if (goes_on && knob_done < grant) {
        *ret_knob = decision.knob < grant ? decision.knob : grant;
        return true;
    }
    if (goes_on && !policy_is_certain(run_policy(run), knob_done, &decision.seen)) {
        if (run_grant(run) > 0)
            run_wait(run);
        else
            algorithm_finish(run, RUN_CAPPED);
        return false;
    }
    algorithm_finish(run, decision.verdict == POLICY_GIVEN_UP ? RUN_GIVEN_UP
                          : knob_done < knob_cap              ? RUN_SETTLED
                                                              : RUN_CAPPED);
    return false;
}

/* DeepConf: an answer weighs what its path's confidence is, and nothing below the bar. */
static bool confidence_weights(struct run *run)
{
    struct ballot *ballot = run_ballot(run);
    struct policy_view view = {0};
    double bar;
    ballot_view(ballot, 0, &view);
    if (run_policy(run)->kind != POLICY_DEEPCONF ||
        !policy_confidence_bar(run_policy(run), &view, &bar))
        return false;
    for (uint32_t i = 0; i < ballot->cluster.count; i++) {
        double confidence = (double)ballot->confidence[i];
        ballot->weight[i] = confidence >= bar ? confidence : 0;
    }
    return true;
}

void algorithm_finish(struct run *run, enum run_verdict verdict)
{
    uint32_t vote = parameter_whole(run_parameters(run), DYNASOR_PARAMETER_VOTE);
    uint32_t rule = confidence_weights(run) ? BALLOT_WEIGHTED : vote;
    uint32_t winner = ballot_winner(run_ballot(run), (enum ballot_rule)rule);
    /* What a probe answered, its chain says. */
    bool probed = winner != BALLOT_NONE && run_get(run, winner)->given_tokens > 0;
    run_finish(run, verdict, probed ? run_get(run, winner)->parent : winner, winner);
}
