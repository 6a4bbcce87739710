#include "daemon/program/observe.h"

#include <string.h>

#include "daemon/program/runs.h"

#define FNV_BASIS 0xcbf29ce484222325u
#define FNV_PRIME 0x100000001b3u

uint64_t observe_hash(const struct run *run, uint32_t branch)
{
    uint64_t hash = FNV_BASIS;
    uint32_t at = 0, count = 0;
    const uint32_t *tokens;
    while ((tokens = run_path(run, branch, at, &count)) && count > 0) {
        for (uint32_t i = 0; i < count; i++)
            hash = (hash ^ tokens[i]) * FNV_PRIME;
        at += count;
    }
    return hash;
}

/* What the path says of itself: means over the tokens that it decoded. */
static void measure(const struct run *run, uint32_t branch, struct observed *o)
{
    double log_sum = 0, entropy_sum = 0;
    uint32_t decoded = 0;
    for (uint32_t b = branch; b != RUN_NONE; b = run_get(run, b)->parent) {
        const struct branch *at = run_get(run, b);
        log_sum += at->log_sum;
        entropy_sum += at->entropy_sum;
        decoded += at->tokens_count - at->given_tokens;
    }
    o->log_probability = decoded ? log_sum / decoded : 0;
    o->entropy = decoded ? entropy_sum / decoded : 0;
}

static void answer_text(struct run *run, uint32_t branch, bool probe, struct observed *o)
{
    static const struct answer_rule of_probe = {.kind = ANSWER_PROBE};
    struct answer_span span;
    uint32_t bytes;
    const char *text = probe ? run_text_own(run, branch, &bytes) : run_text(run, branch, &bytes);
    const struct answer_rule *rule = probe ? &of_probe : &run_parameters(run)->answer;
    if (answer_extract(rule, text, bytes, &span) != 0 || span.bytes > ANSWER_BYTES_MAX)
        return;
    o->answer_bytes = span.bytes;
    memcpy(o->answer, text + span.start, span.bytes);
}

static uint32_t winner(struct run *run)
{
    struct ballot *ballot = run_ballot(run);
    uint32_t rule = parameter_whole(run_parameters(run), DYNASOR_PARAMETER_VOTE);
    uint32_t branch = ballot_winner(ballot, (enum ballot_rule)rule), n = 0;
    while (ballot->branch[n] != branch)
        n++;
    return n;
}

void observe_answer(struct run *run)
{
    struct observer *to = run_observer(run);
    if (!to)
        return;
    if (to->put - to->taken == to->size) {
        to->lost++;
        return;
    }
    struct ballot *ballot = run_ballot(run);
    uint32_t n = ballot->cluster.count - 1, branch = ballot->branch[n];
    const struct branch *b = run_get(run, branch);
    bool probe = b->given_tokens > 0;
    struct observed *o = &to->ring[to->put++ & (to->size - 1)];
    *o = (struct observed){.user = run_user(run),
                           .n = n,
                           .group = ballot->cluster.group[n],
                           .at_tokens = b->path_tokens - (probe ? b->tokens_count : 0),
                           .own_tokens = b->tokens_count,
                           .cost = *run_cost(run),
                           .tokens_hash = observe_hash(run, branch),
                           .weight = ballot->weight[n],
                           .confidence = ballot->confidence[n],
                           .reward = b->score,
                           .has_reward = b->scored,
                           .hesitant = probe && ballot->probes[n].hesitant};
    o->winner = run_parameters(run)->algorithm == DYNASOR_ALGORITHM_COT ? n : winner(run);
    measure(run, branch, o);
    answer_text(run, branch, probe, o);
}

/* By equality, also where answers are alike by their vectors: the end has none. */
uint32_t observe_end_group(struct run *run, const struct run_result *result)
{
    const struct ballot *ballot = run_ballot(run);
    const struct cluster *cluster = &ballot->cluster;
    struct answer answer;
    const char *text;
    uint32_t bytes;
    /* Numbers of branches come again: the latest it is. */
    for (uint32_t n = cluster->count; result->answer != RUN_NONE && n-- > 0;)
        if (ballot->branch[n] == result->answer)
            return cluster->group[n];
    if (!run_answer(run, &text, &bytes) || bytes == 0)
        return CERTAINDEX_EMPTY;
    answer_prepare(text, bytes, &answer);
    for (uint32_t g = 0; g < cluster->groups; g++)
        if (answer_equal(&ballot->answers[cluster->leader[g]], &answer))
            return g;
    return cluster->groups;
}

const struct observed *observe_next(struct observer *observer)
{
    if (observer->taken == observer->put)
        return NULL;
    return &observer->ring[observer->taken++ & (observer->size - 1)];
}
