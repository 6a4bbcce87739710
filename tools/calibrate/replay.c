#include "tools/calibrate/replay.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

void replay_init(struct replay *replay, const struct log *log)
{
    *replay = (struct replay){.log = log};
    for (uint32_t i = 0; i < log->runs_count; i++) {
        uint32_t count = log->runs[i].count;
        replay->probes_room = count > replay->probes_room ? count : replay->probes_room;
    }
    replay->probes = calloc(replay->probes_room, sizeof *replay->probes);
    if (replay->probes == NULL) {
        fprintf(stderr, "dynasor-calibrate: out of memory\n");
        exit(1);
    }
}

void replay_free(struct replay *replay)
{
    free(replay->probes);
    replay->probes = NULL;
}

/* ---- chains ------------------------------------------------------------------------------------- */

/* The step whose answer the chain has at its end: the last one, or under a cap that cuts the chain
 * the last probe before it, which is the answer that would be forced there. */
static uint32_t chain_end(const struct log *log, const struct log_run *run, uint32_t cap,
                          uint64_t *ret_length, uint64_t *ret_cost)
{
    uint32_t end = run->first + run->count - 1;
    *ret_length = log->tokens[end]; /* of a stopped one, where that was */
    *ret_cost = log->costs[end];
    if (cap > 0 && cap < *ret_length) {
        *ret_length = cap;
        while (end > run->first && log->tokens[end] > cap) {
            end--;
        }
        /* Of one that took probes over at most: what it was given then, nobody decoded. */
        *ret_cost = log->tokens[end] <= cap ? log->costs[end] + (cap - log->tokens[end]) : cap;
    }
    return end;
}

/* At the tokens a step so far, of chains at one token each. */
static void goes_on(const struct log_run *run, uint32_t knob_seen, uint32_t knob_cap,
                    struct outcome *outcome)
{
    uint64_t left = knob_cap > knob_seen ? knob_cap - knob_seen : 0;
    double step =
        run->chain || knob_seen == 0 ? 1 : (double)outcome->full_tokens / (double)knob_seen;
    outcome->unknown = true;
    outcome->more_tokens = (uint64_t)(step * (double)left);
}

static struct outcome replay_chain(struct replay *replay, const struct log_run *run,
                                   const struct policy_options *options, uint32_t cap)
{
    const struct log *log = replay->log;
    uint64_t length, cost;
    uint32_t end = chain_end(log, run, cap, &length, &cost);
    /* All steps of a stopped chain are probes; otherwise the last one is its end. */
    uint32_t last = run->first + run->count - !run->stopped;
    uint32_t at = run->first;
    bool right = log->right[end] > 0;
    struct outcome outcome = {
        .tokens = cost, .full_tokens = cost, .full_right = right, .right = right};
    uint32_t longest = run->stopped && run->cap > length ? run->cap : (uint32_t)length;
    longest = cap > 0 && cap < longest ? cap : longest;
    struct policy_view view = {.probes = replay->probes, .knob_cap = longest};
    for (uint32_t i = run->first; i <= end && i < last; i++)
        outcome.full_probes += log->adopted[i] ? 0 : log->probe_tokens[i];
    struct policy_decision decision = policy_decide(options, &view);
    while (decision.verdict == POLICY_CONTINUE) {
        while (at < last && log->tokens[at] < decision.knob) {
            at++;
        }
        uint64_t found = at < last ? log->tokens[at] : longest;
        bool asks = decision.knob < length || found < longest; /* else it is at its end */
        outcome.reads += asks;
        outcome.late += asks && found > decision.knob;
        if (at == last && longest > length) {
            goes_on(run, (uint32_t)length, longest, &outcome);
            return outcome;
        }
        if (at == last || log->tokens[at] >= view.knob_cap) {
            outcome.knob = view.knob_cap;
            return outcome;
        }
        replay->probes[view.probes_count++] = (struct certaindex_probe){
            .group = log->groups[at], .hesitant = log->hesitant[at], .tokens = log->tokens[at]};
        outcome.probe_tokens += log->adopted[at] ? 0 : log->probe_tokens[at];
        view.knob_done = (uint32_t)log->tokens[at];
        view.tokens_count = log->tokens[at];
        decision = policy_decide(options, &view);
    }
    outcome.knob = view.knob_done;
    outcome.stopped = true;
    outcome.gave_up = decision.verdict == POLICY_GIVEN_UP;
    outcome.tokens = view.probes_count > 0 ? log->costs[at] : 0;
    outcome.probe_tokens += /* it was asked, and is not yet taken over */
        view.probes_count > 0 && log->adopted[at] ? log->probe_tokens[at] : 0;
    outcome.right = view.probes_count > 0 && log->right[at] > 0;
    outcome.changed = view.probes_count == 0 || log->now[at] != log->now[end];
    return outcome;
}

/* ---- programs of branches ----------------------------------------------------------------------- */

static void view_steps(const struct log *log, const struct log_run *run, uint32_t steps,
                       uint32_t counts[POLICY_ANSWERS_MAX], struct policy_view *view)
{
    uint32_t groups_count = 0;
    for (uint32_t i = run->first; i < run->first + steps; i++) {
        uint32_t group = log->groups[i];
        groups_count =
            group != CERTAINDEX_EMPTY && group >= groups_count ? group + 1 : groups_count;
    }
    /* An answer that cannot be read agrees with nothing: a group of its own. */
    view->groups_count =
        certaindex_count(log->groups + run->first, steps, groups_count, true, counts);
    view->knob_done = steps;
    view->answers_count = steps;
    view->answers = log->groups + run->first;
    view->counts = counts;
    view->tokens_count = steps > 0 ? log->tokens[run->first + steps - 1] : 0;
    view->rewards = log->rewards + run->first;
    view->rewards_count = log->has_reward ? steps : 0;
    view->confidences = log->confidences + run->first;
    view->confidences_count = log->has_confidence ? steps : 0;
}

struct certaindex replay_signals(const struct log *log, uint32_t run,
                                 const struct policy_options *options, uint32_t steps)
{
    uint32_t counts[2 * POLICY_ANSWERS_MAX];
    struct policy_view view = {.knob_done = 0};
    struct certaindex seen;
    view_steps(log, &log->runs[run], steps, counts, &view);
    policy_measure(options, &view, &seen);
    return seen;
}

/* Steps of a program that has reached this knob. Not every step gives an answer: those that gave none are
 * taken to be the last. */
static uint32_t steps_at(const struct log_run *run, uint32_t knob_seen, uint32_t knob)
{
    return knob >= knob_seen || knob > run->count ? run->count : knob;
}

/* What those who grew the trees went on to from here, by the policy they are said to have had. */
static bool is_regrown(const struct policy_options *grown_by, const struct policy_view *view,
                       uint32_t own_cap, uint32_t knob, struct outcome *outcome)
{
    struct policy_view own = *view; /* whatever cap is asked about now */
    if (grown_by == NULL) {
        return false;
    }
    own.knob_cap = own_cap;
    outcome->grants[0] = policy_decide(grown_by, &own).knob;
    outcome->grants[1] = knob;
    outcome->regrown = outcome->grants[0] != knob;
    return outcome->regrown;
}

struct outcome replay_run(struct replay *replay, uint32_t idx, const struct policy_options *options,
                          uint32_t cap)
{
    const struct log *log = replay->log;
    const struct log_run *run = &log->runs[idx];
    uint32_t counts[2 * POLICY_ANSWERS_MAX];
    if (run->chain) {
        return replay_chain(replay, run, options, cap);
    }
    uint32_t seen = run->knob > 0 ? run->knob : run->count;
    uint32_t knob_cap = run->stopped && run->cap > seen ? run->cap : seen;
    knob_cap = cap > 0 && cap < knob_cap ? cap : knob_cap;
    uint32_t last = run->first + steps_at(run, seen, knob_cap) - 1;
    struct policy_view view = {.knob_cap = knob_cap};
    struct outcome outcome = {.full_tokens = log->tokens[last], .full_right = log->right[last] > 0};
    view_steps(log, run, 0, counts, &view);
    struct policy_decision decision = policy_decide(options, &view);
    while (decision.verdict == POLICY_CONTINUE) {
        if (view.knob_done < seen &&
            is_regrown(replay->grown_by, &view, run->cap > 0 ? run->cap : seen, decision.knob,
                       &outcome)) {
            return outcome;
        }
        if (decision.knob > seen) {
            goes_on(run, seen, knob_cap, &outcome);
            return outcome;
        }
        view_steps(log, run, steps_at(run, seen, decision.knob), counts, &view);
        view.knob_done = decision.knob;
        decision = policy_decide(options, &view);
    }
    outcome.knob = view.knob_done;
    outcome.stopped = view.knob_done < knob_cap;
    outcome.gave_up = decision.verdict == POLICY_GIVEN_UP;
    outcome.tokens = view.tokens_count;
    uint32_t at = run->first + view.answers_count - 1;
    outcome.right = view.answers_count > 0 && log->right[at] > 0;
    outcome.changed = view.answers_count == 0 || log->now[at] != log->now[last];
    return outcome;
}
