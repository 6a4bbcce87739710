#include "daemon/program/policy.h"

#include <math.h>
#include <stddef.h>

#include "daemon/base/assert.h"

/* ---- what a view shows -------------------------------------------------------------------------- */

const struct policy_edges policy_tenths = {10, {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1}};

uint32_t policy_bin(const struct policy_edges *edges, double signal)
{
    uint32_t bin = 0;
    ASSERT(edges->count <= POLICY_EDGES_MAX);
    while (bin < edges->count && signal >= edges->at[bin] - CERTAINDEX_EQUAL) {
        bin++;
    }
    return bin;
}

/* The bar is a percentile with linear interpolation, as in the published code. */
bool policy_confidence_bar(const struct policy_options *options, const struct policy_view *view,
                           double *ret_bar)
{
    double sorted[POLICY_WARMUP_MAX];
    uint32_t count = options->warmup_count;
    ASSERT(count > 0 && count <= POLICY_WARMUP_MAX);
    if (view->confidences_count < count) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t at = i;
        for (; at > 0 && sorted[at - 1] > (double)view->confidences[i]; at--) {
            sorted[at] = sorted[at - 1];
        }
        sorted[at] = (double)view->confidences[i];
    }
    double place = (1 - options->kept_share) * (count - 1);
    uint32_t below = (uint32_t)fmin(fmax(place, 0), count - 1);
    uint32_t above = below + 1 < count ? below + 1 : below;
    *ret_bar = sorted[below] + (place - below) * (sorted[above] - sorted[below]);
    return true;
}

/* Share of the confidence behind the leading answer, among branches at or above the bar. */
static bool consensus_of(const struct policy_options *options, const struct policy_view *view,
                         double *ret_share)
{
    double weights[POLICY_ANSWERS_MAX] = {0};
    double all = 0;
    double most = 0;
    double bar;
    ASSERT(view->groups_count <= POLICY_ANSWERS_MAX);
    if (options->warmup_count == 0 || !policy_confidence_bar(options, view, &bar)) {
        return false;
    }
    for (uint32_t i = 0; i < view->confidences_count; i++) {
        double weight = (double)view->confidences[i];
        uint32_t group = view->answers[i];
        if (!(weight >= bar) || !(weight > 0)) {
            continue;
        }
        all += weight;
        if (group != CERTAINDEX_EMPTY) {
            ASSERT(group < view->groups_count);
            weights[group] += weight;
            most = fmax(most, weights[group]);
        }
    }
    *ret_share = all > 0 ? most / all : 0;
    return all > 0;
}

void policy_measure(const struct policy_options *options, const struct policy_view *view,
                    struct certaindex *ret_seen)
{
    struct certaindex seen = {.known = 0};
    double *value = seen.value;
    bool known[CERTAINDEX_SIGNALS] = {
        [CERTAINDEX_CERTAINTY] =
            certaindex_certainty(view->counts, view->groups_count, &value[CERTAINDEX_CERTAINTY]),
        [CERTAINDEX_REWARD] = certaindex_reward(view->rewards, view->rewards_count,
                                                options->reward_rule, &value[CERTAINDEX_REWARD]),
        [CERTAINDEX_AGREEMENT] =
            view->probes_count > 0 && options->probe.window > 0 &&
            certaindex_agreement(view->probes, view->probes_count, options->probe.window,
                                 options->probe.rule, &value[CERTAINDEX_AGREEMENT]),
        [CERTAINDEX_CONFIDENCE] = view->confidences_count > 0 &&
                                  consensus_of(options, view, &value[CERTAINDEX_CONFIDENCE]),
    };
    for (uint32_t i = 0; i < CERTAINDEX_SIGNALS; i++) {
        seen.known |= known[i] ? 1u << i : 0;
    }
    *ret_seen = seen;
}

/* ---- rows by knob ------------------------------------------------------------------------------- */

/* All three kinds of row begin with their knob. */
static const void *row_of(const void *rows, uint32_t count, size_t row_bytes, uint32_t knob)
{
    const void *found = NULL;
    for (uint32_t i = 0; i < count; i++) {
        const void *row = (const char *)rows + i * row_bytes;
        if (*(const uint32_t *)row > knob) {
            break;
        }
        found = row;
    }
    return found;
}

static bool is_certain(const struct policy_options *options, uint32_t knob,
                       const struct certaindex *seen)
{
    const struct policy_limits_row *row =
        row_of(options->limits, options->limits_count, sizeof options->limits[0], knob);
    return row != NULL && certaindex_is_certain(seen, &row->limits);
}

/* A signal that is unknown is the least certain. */
static uint32_t signal_bin(const struct policy_options *options, const struct policy_edges *edges,
                           const struct certaindex *seen)
{
    bool known = (seen->known & 1u << options->curve_signal) != 0;
    return known ? policy_bin(edges, seen->value[options->curve_signal]) : 0;
}

static uint32_t curve_total(const struct policy_options *options, const struct policy_view *view,
                            const struct certaindex *seen)
{
    const struct policy_curve_row *row =
        row_of(options->curve, options->curve_count, sizeof options->curve[0], view->knob_done);
    return row != NULL ? row->total[signal_bin(options, &options->curve_edges, seen)]
                       : view->knob_cap;
}

/* ---- decisions ---------------------------------------------------------------------------------- */

/* Each returns the knob that the program may reach in all; what is not above knob_done stops it. */
typedef uint64_t decide_knob(const struct policy_options *options, const struct policy_view *view,
                             const struct certaindex *seen);

static uint64_t decide_even(const struct policy_options *options, const struct policy_view *view,
                            const struct certaindex *seen)
{
    (void)options;
    (void)seen;
    return view->knob_cap;
}

static uint64_t decide_length(const struct policy_options *options, const struct policy_view *view,
                              const struct certaindex *seen)
{
    (void)seen;
    bool stops = options->length_rule == POLICY_LENGTH_SHORTER
                     ? view->tokens_count <= options->length_tokens
                     : view->tokens_count >= options->length_tokens;
    if (view->knob_done < options->detect) {
        return options->detect;
    }
    return view->knob_done == options->detect && stops ? 0 : view->knob_cap;
}

static uint64_t decide_static(const struct policy_options *options, const struct policy_view *view,
                              const struct certaindex *seen)
{
    if (view->knob_done < options->detect) {
        return options->detect;
    }
    bool stops = view->knob_done == options->detect && is_certain(options, view->knob_done, seen);
    return stops ? 0 : view->knob_cap;
}

/* Readings are at detect, detect + step, ...; elsewhere it goes on to the next one. */
static uint64_t next_reading(const struct policy_options *options, uint32_t knob_done)
{
    if (knob_done < options->detect) {
        return options->detect;
    }
    uint32_t past = (knob_done - options->detect) % options->step;
    return (uint64_t)knob_done + options->step - past;
}

static bool at_reading(const struct policy_options *options, uint32_t knob_done)
{
    return knob_done >= options->detect && (knob_done - options->detect) % options->step == 0;
}

static uint64_t decide_k_step(const struct policy_options *options, const struct policy_view *view,
                              const struct certaindex *seen)
{
    bool stops = at_reading(options, view->knob_done) && is_certain(options, view->knob_done, seen);
    return stops ? 0 : next_reading(options, view->knob_done);
}

static uint64_t decide_curve_once(const struct policy_options *options,
                                  const struct policy_view *view, const struct certaindex *seen)
{
    if (view->knob_done < options->detect) {
        return options->detect;
    }
    /* Past the detect point what was decided there holds, be it used or not. */
    return view->knob_done == options->detect ? curve_total(options, view, seen)
                                              : view->knob_decided;
}

static uint64_t decide_curve_each_step(const struct policy_options *options,
                                       const struct policy_view *view,
                                       const struct certaindex *seen)
{
    /* Wherever it was let to is a reading: the total may lie between two. */
    uint64_t next = next_reading(options, view->knob_done);
    if (view->knob_done < options->detect) {
        return next;
    }
    uint64_t total = curve_total(options, view, seen);
    return next < total ? next : total;
}

static uint64_t decide_esc(const struct policy_options *options, const struct policy_view *view,
                           const struct certaindex *seen)
{
    (void)seen;
    uint32_t window = options->esc_window;
    uint32_t count = view->answers_count;
    ASSERT(window > 0);
    bool unanimous = count >= window && count % window == 0;
    for (uint32_t i = count - window; unanimous && i < count; i++) {
        unanimous =
            view->answers[i] != CERTAINDEX_EMPTY && view->answers[i] == view->answers[count - 1];
    }
    return unanimous ? 0 : ((uint64_t)view->knob_done / window + 1) * window;
}

static uint64_t decide_adaptive(const struct policy_options *options,
                                const struct policy_view *view, const struct certaindex *seen)
{
    (void)seen;
    if (view->knob_done < options->detect) {
        return options->detect;
    }
    bool stops = policy_posterior(options->posterior_rule, view->counts, view->groups_count) >
                 options->posterior;
    return stops ? 0 : (uint64_t)view->knob_done + options->step;
}

static uint64_t decide_deepconf(const struct policy_options *options,
                                const struct policy_view *view, const struct certaindex *seen)
{
    bool known = (seen->known & 1u << CERTAINDEX_CONFIDENCE) != 0;
    if (view->knob_done < options->warmup_count) {
        return options->warmup_count;
    }
    bool stops =
        known && seen->value[CERTAINDEX_CONFIDENCE] >= options->consensus - CERTAINDEX_EQUAL;
    return stops ? 0 : (uint64_t)view->knob_done + options->step;
}

/* Among branches that have finished, one counts when fewer than M others can come before it: those
 * that finished at a smaller length (or the same with a smaller index), and those that still run and
 * are not yet longer. */
bool policy_branch_counts(const struct policy_options *options, const struct policy_view *view,
                          uint32_t branch)
{
    uint32_t before = 0;
    uint64_t length = view->branch_tokens[branch];
    ASSERT(branch < view->branches_count);
    for (uint32_t i = 0; i < view->branches_count; i++) {
        uint64_t tokens = view->branch_tokens[i];
        before += i != branch && (tokens < length || (tokens == length && i < branch));
    }
    return view->branch_finished[branch] && before < options->finished_count;
}

static uint64_t decide_m_of_n(const struct policy_options *options, const struct policy_view *view,
                              const struct certaindex *seen)
{
    (void)seen;
    uint32_t counted = 0;
    for (uint32_t i = 0; i < view->branches_count; i++) {
        counted += policy_branch_counts(options, view, i);
    }
    return view->branches_count > 0 && counted >= options->finished_count ? 0 : view->knob_cap;
}

uint64_t policy_probe_next(const struct policy_options *options, uint64_t tokens)
{
    ASSERT(options->probe.interval_tokens > 0 && options->probe.growth >= 0);
    if (tokens < options->probe.first_tokens) {
        return options->probe.first_tokens;
    }
    double share = ceil((double)tokens * options->probe.growth - CERTAINDEX_EQUAL);
    return tokens + (uint64_t)fmax(share, options->probe.interval_tokens);
}

static uint64_t decide_probe(const struct policy_options *options, const struct policy_view *view,
                             const struct certaindex *seen)
{
    double stood =
        (double)certaindex_stable_tokens(view->probes, view->probes_count, options->probe.rule);
    bool agreed = (seen->known & 1u << CERTAINDEX_AGREEMENT) != 0 &&
                  seen->value[CERTAINDEX_AGREEMENT] >= options->probe.agreement - CERTAINDEX_EQUAL;
    /* An agreement that was never reached stays 0 and does not pass a threshold above 0. */
    bool stops =
        agreed && stood + CERTAINDEX_EQUAL >= options->probe.stable_share * view->knob_done;
    return stops ? 0 : policy_probe_next(options, view->knob_done);
}

/* Even, with readings in between at which it may turn out hopeless. */
static uint64_t decide_give_up(const struct policy_options *options, const struct policy_view *view,
                               const struct certaindex *seen)
{
    (void)seen;
    return next_reading(options, view->knob_done);
}

static const struct {
    const char *name;
    decide_knob *decide;
} table[] = {
    [POLICY_EVEN] = {"even", decide_even},
    [POLICY_LENGTH] = {"length", decide_length},
    [POLICY_STATIC] = {"static", decide_static},
    [POLICY_K_STEP] = {"k_step", decide_k_step},
    [POLICY_CURVE_ONCE] = {"curve_once", decide_curve_once},
    [POLICY_CURVE_EACH_STEP] = {"curve_each_step", decide_curve_each_step},
    [POLICY_ESC] = {"esc", decide_esc},
    [POLICY_ADAPTIVE_CONSISTENCY] = {"adaptive_consistency", decide_adaptive},
    [POLICY_DEEPCONF] = {"deepconf", decide_deepconf},
    [POLICY_M_OF_N] = {"m_of_n", decide_m_of_n},
    [POLICY_PROBE] = {"probe", decide_probe},
    [POLICY_GIVE_UP] = {"give_up", decide_give_up},
};
_Static_assert(sizeof(table) / sizeof(table[0]) == POLICY_KINDS, "a function for each");

const char *policy_kind_name(enum policy_kind kind)
{
    ASSERT(kind < POLICY_KINDS);
    return table[kind].name;
}

/* Whether the calibrated chance of being right at the cap is below the bound, from the detect point on. */
static bool gives_up(const struct policy_options *options, const struct policy_view *view,
                     const struct certaindex *seen)
{
    const struct policy_chance_row *row =
        row_of(options->chance, options->chance_count, sizeof options->chance[0], view->knob_done);
    return options->give_up_below > 0 && view->knob_done >= options->detect && row != NULL &&
           row->chance[signal_bin(options, &options->chance_edges, seen)] < options->give_up_below;
}

struct policy_decision policy_decide(const struct policy_options *options,
                                     const struct policy_view *view)
{
    struct policy_decision decision = {.verdict = POLICY_STOP, .knob = view->knob_done};
    ASSERT(options->kind < POLICY_KINDS && options->step > 0);
    policy_measure(options, view, &decision.seen);
    if (view->knob_done >= view->knob_cap) {
        return decision;
    }
    uint64_t knob = table[options->kind].decide(options, view, &decision.seen);
    knob = knob < view->knob_cap ? knob : view->knob_cap;
    if (knob <= view->knob_done) {
        return decision;
    }
    if (gives_up(options, view, &decision.seen)) {
        decision.verdict = POLICY_GIVEN_UP;
        return decision;
    }
    decision.verdict = POLICY_CONTINUE;
    decision.knob = (uint32_t)knob;
    return decision;
}

bool policy_is_certain(const struct policy_options *options, uint32_t knob,
                       const struct certaindex *seen)
{
    bool by_thresholds = options->kind == POLICY_STATIC || options->kind == POLICY_K_STEP;
    return by_thresholds && is_certain(options, knob, seen);
}

struct policy_decision policy_decide_chain(const struct policy_options *options,
                                           const struct policy_view *view)
{
    struct policy_decision decision = {.verdict = POLICY_STOP, .knob = view->knob_done};
    policy_measure(options, view, &decision.seen);
    uint64_t knob = decide_probe(options, view, &decision.seen);
    knob = knob < view->knob_cap ? knob : view->knob_cap;
    if (knob <= view->knob_done) {
        return decision;
    }
    decision.verdict = POLICY_CONTINUE;
    decision.knob = (uint32_t)knob;
    return decision;
}
