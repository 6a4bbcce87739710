/* tests/unit/test_algorithms.c: the reasoning algorithms on a scheduler that makes up tokens and scores, gives
 * them out in any order, and refuses at random (made_up.h). What an algorithm decides, its tokens and its
 * costs must not depend on that. REBASE's trees, the search, the first M of n and DeepConf's bar
 * are held to references written apart. */
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/program/profile.h"
#include "tests/unit/made_up.h"

/* ---- schedules change nothing ---------------------------------------------------------------------- */

static void small(struct job *job, uint32_t algorithm)
{
    bool tree = algorithm == DYNASOR_ALGORITHM_REBASE || algorithm == DYNASOR_ALGORITHM_MCTS ||
                algorithm == DYNASOR_ALGORITHM_BEAM;
    struct rng rng = {.state = job->args.seed};
    if (tree) {
        set(job, DYNASOR_PARAMETER_STEP_TOKENS, (double)(5 + rng_below(&rng, 30)));
        set(job, DYNASOR_PARAMETER_DEPTH, (double)(1 + rng_below(&rng, 6)));
    }
    if (algorithm == DYNASOR_ALGORITHM_MCTS) {
        set(job, DYNASOR_PARAMETER_WIDTH, (double)(1 + rng_below(&rng, 4)));
        set(job, DYNASOR_PARAMETER_CAP, 1 + (double)(rng_below(&rng, 8)));
    }
    if (algorithm == DYNASOR_ALGORITHM_REBASE)
        set(job, DYNASOR_PARAMETER_CAP, (double)(1 + rng_below(&rng, 24)));
    if (algorithm == DYNASOR_ALGORITHM_COT)
        set(job, DYNASOR_PARAMETER_GUIDED, (double)rng_below(&rng, 3));
    if (algorithm == DYNASOR_ALGORITHM_COT || algorithm == DYNASOR_ALGORITHM_SC_COT)
        set(job, DYNASOR_PARAMETER_PROBE_TOKENS, (double)(2 + rng_below(&rng, 8)));
    if (algorithm == DYNASOR_ALGORITHM_SC || algorithm == DYNASOR_ALGORITHM_SC_COT ||
        algorithm == DYNASOR_ALGORITHM_BEST_OF_N)
        set(job, DYNASOR_PARAMETER_CAP, (double)(1 + rng_below(&rng, 24)));
    if (algorithm == DYNASOR_ALGORITHM_BEAM) {
        set(job, DYNASOR_PARAMETER_SUBTREES, (double)(1 + rng_below(&rng, 3)));
        set(job, DYNASOR_PARAMETER_WIDTH, (double)(1 + rng_below(&rng, 6)));
    }
    job->args.parameters.max_tokens = 1 + (uint32_t)rng_below(&rng, 100);
    job->policy.group_tokens = 1 + (uint32_t)rng_below(&rng, 20);
    job->policy.warmup_count = 2 + (uint32_t)rng_below(&rng, 4);
    job->policy.finished_count = 1 + (uint32_t)rng_below(&rng, 12);
    job->policy.probe.first_tokens = 1 + (uint32_t)rng_below(&rng, 20);
    job->policy.probe.interval_tokens = 1 + (uint32_t)rng_below(&rng, 20);
}

static const struct {
    uint32_t algorithm;
    const char *profile;
} mixes[] = {
    {DYNASOR_ALGORITHM_SINGLE, "even"},
    {DYNASOR_ALGORITHM_SC, "even"},
    {DYNASOR_ALGORITHM_SC, "sc-math"},
    {DYNASOR_ALGORITHM_SC, "esc"},
    {DYNASOR_ALGORITHM_SC, "m_of_n"},
    {DYNASOR_ALGORITHM_SC, "deepconf"},
    {DYNASOR_ALGORITHM_REBASE, "rebase-gsm8k"},
    {DYNASOR_ALGORITHM_REBASE, "even"},
    {DYNASOR_ALGORITHM_MCTS, "mcts-gsm8k"},
    {DYNASOR_ALGORITHM_MCTS, "even"},
    {DYNASOR_ALGORITHM_COT, "cot-mid"},
    {DYNASOR_ALGORITHM_COT, "even"},
    {DYNASOR_ALGORITHM_BEST_OF_N, "even"},
    {DYNASOR_ALGORITHM_BEST_OF_N, "deepconf"},
    {DYNASOR_ALGORITHM_BEST_OF_N, "m_of_n"},
    {DYNASOR_ALGORITHM_BEAM, "even"},
    {DYNASOR_ALGORITHM_SC, "adaptive_consistency"},
    {DYNASOR_ALGORITHM_SC_COT, "sc_cot-math"},
    {DYNASOR_ALGORITHM_SC_COT, "esc"},
    {DYNASOR_ALGORITHM_SC_COT, "deepconf"},
    {DYNASOR_ALGORITHM_SC_COT, "m_of_n"},
};

static void algorithms_decide_the_same_whatever_the_schedule(void **state)
{
    (void)state;
    enum { JOBS = 64, WORLDS = 12 };
    static struct job jobs[JOBS];
    static struct outcome alone[JOBS], together[JOBS];
    uint64_t seed = check_number("SEED", now_ns()), lost = 0, killed = 0;
    (void)printf("SEED=%" PRIu64 "\n", seed);
    write_token = write_anything;
    for (uint32_t w = 0; w < WORLDS; w++) {
        struct rig r;
        for (uint32_t i = 0; i < JOBS; i++) {
            uint32_t mix = (i + w) % COUNT_OF(mixes);
            job_make(&jobs[i], mixes[mix].algorithm, seed + w * 1000 + i, mixes[mix].profile);
            small(&jobs[i], mixes[mix].algorithm);
        }
        rig_open(&r, seed, 0, 0);
        for (uint32_t i = 0; i < JOBS; i++)
            run_all(&r, &jobs[i], &alone[i], 1);
        rig_close(&r);
        rig_open(&r, seed + w, w % 4 * 20, w % 3 * 30);
        run_all(&r, jobs, together, JOBS);
        rig_close(&r);
        for (uint32_t i = 0; i < JOBS; i++) {
            CHECK(same(&alone[i], &together[i]), "world %u, program %u: %s", w, i,
                  jobs[i].args.algorithm->name);
            lost += together[i].cost.lost_tokens;
            killed += together[i].cost.killed_tokens;
        }
    }
    assert_true(lost > 0 && killed > 0); /* otherwise the policies that end samples did nothing */
}

/* ---- references ------------------------------------------------------------------------------------- */

/* A path of the reference: what each step wrote, by the number of its step. */
struct step {
    uint32_t parent; /* UINT32_MAX: the prompt */
    uint32_t depth;
    uint32_t count; /* tokens of the path, with the prompt */
    uint32_t tokens[CONTEXT];
    double log_sum;
    uint32_t own;
    bool ended;
    double score;
    /* of a search */
    double value_sum, prior;
    uint32_t visits, first_child, children;
    bool expanded, dropped;
};
static struct step steps[BRANCHES_MAX];
static uint32_t steps_count;
static uint64_t decoded;

static uint32_t step_write(const struct job *job, uint32_t parent)
{
    const struct parameters *p = &job->args.parameters;
    struct step *s = &steps[steps_count], *above = parent == UINT32_MAX ? NULL : &steps[parent];
    *s = (struct step){.parent = parent, .depth = above ? above->depth + 1 : 1, .count = 8};
    memcpy(s->tokens, job->prompt, sizeof job->prompt);
    if (above) {
        s->count = above->count;
        memcpy(s->tokens, above->tokens, above->count * sizeof *s->tokens);
    }
    struct seq like = {.args = {.seed = job->args.seed, .branch = steps_count}};
    for (uint32_t token = 0;
         token != '\n' && token != END && s->own < p->value[3] && s->count - 8 < p->max_tokens;) {
        s->log_sum -= rng_u32(like.args.seed, like.args.branch ^ 9, s->own) % 100 / 50.0;
        token = write_anything(&like, s->own++);
        s->tokens[s->count++] = token;
        s->ended = token == END;
    }
    s->ended |= s->count - 8 == p->max_tokens;
    s->score = (double)score_of(s->tokens, s->count);
    decoded += s->own;
    return steps_count++;
}

/* REBASE's tree of this width, node for node. */
static void rebase_tree(const struct job *job, uint32_t width, double spread, uint32_t depth_max)
{
    static uint32_t level[BRANCHES_MAX];
    uint32_t count = 0, left = width;
    for (uint32_t i = 0; i < width; i++)
        level[count++] = step_write(job, UINT32_MAX);
    for (uint32_t depth = 1; depth < depth_max; depth++) {
        uint32_t open[BRANCHES_MAX], opened = 0;
        for (uint32_t i = 0; i < count; i++)
            if (steps[level[i]].ended)
                left--;
            else
                open[opened++] = level[i];
        for (uint32_t i = 1; i < opened; i++)
            for (uint32_t k = i; k > 0 && steps[open[k]].score > steps[open[k - 1]].score; k--) {
                uint32_t swap = open[k];
                open[k] = open[k - 1];
                open[k - 1] = swap;
            }
        count = 0;
        uint32_t share = left;
        for (uint32_t i = 0; i < opened && left; i++) {
            double sum = 0;
            for (uint32_t k = i; k < opened; k++)
                sum += exp((steps[open[k]].score - steps[open[0]].score) / spread);
            double mine = exp((steps[open[i]].score - steps[open[0]].score) / spread) / sum;
            uint32_t children = (uint32_t)ceil(share * mine);
            share -= children;
            for (uint32_t k = 0; k < children; k++)
                level[count++] = step_write(job, open[i]);
        }
    }
}

/* A tree as wide as the policy first looks, and for the rest a second one; of both only the prompt is common, which each
 * model reads once. */
static void algorithms_rebase_grows_the_published_trees(void **state)
{
    (void)state;
    uint64_t seed = check_number("SEED", now_ns());
    uint32_t seconds = 0;
    (void)printf("SEED=%" PRIu64 "\n", seed);
    write_token = write_anything;
    for (uint32_t trial = 0; trial < 600; trial++) {
        struct job job;
        struct outcome outcome;
        struct rig r;
        uint32_t width = 1 + trial % 20, depth = 1 + trial % 7;
        uint32_t detect = trial < 300 ? width : 16, cap = trial < 300 ? width : 16 + width;
        job_make(&job, DYNASOR_ALGORITHM_REBASE, seed + trial,
                 trial < 300 ? "even" : "rebase-gsm8k");
        for (uint32_t i = 0; i < job.policy.limits_count; i++)
            job.policy.limits[i].limits = (struct certaindex_limits){0}; /* never certain */
        set(&job, DYNASOR_PARAMETER_CAP, cap);
        set(&job, DYNASOR_PARAMETER_DEPTH, depth);
        set(&job, DYNASOR_PARAMETER_STEP_TOKENS, 11);
        rig_open(&r, seed, 0, 0);
        run_all(&r, &job, &outcome, 1);
        uint64_t read[] = {r.sched[0]->read_tokens, r.sched[1]->read_tokens};
        rig_close(&r);
        steps_count = 0;
        decoded = 0;
        double spread = job.args.parameters.value[DYNASOR_PARAMETER_SPREAD];
        rebase_tree(&job, detect, spread, depth);
        if (cap > detect)
            rebase_tree(&job, cap - detect, spread, depth);
        seconds += cap > detect;
        assert_int_equal(outcome.result.knob, cap);
        assert_int_equal(outcome.cost.branches_count, steps_count);
        assert_int_equal(outcome.cost.decoded_tokens, decoded);
        assert_int_equal(outcome.cost.reward_tokens, 8 + decoded);
        assert_int_equal(read[0], 8); /* branches fork from what is there */
        assert_int_equal(read[1], 8 + decoded);
    }
    assert_int_equal(seconds, 300);
}

static bool says_what_one_before_says(uint32_t first, uint32_t step)
{
    const struct step *s = &steps[step];
    for (uint32_t b = first; b < step; b++) {
        const struct step *o = &steps[b];
        uint32_t skip = o->tokens[o->count - 1] == '\n', mine = s->tokens[s->count - 1] == '\n';
        if (!o->dropped && o->own - skip == s->own - mine &&
            memcmp(o->tokens + o->count - o->own, s->tokens + s->count - s->own,
                   (s->own - mine) * sizeof *s->tokens) == 0)
            return true;
    }
    return false;
}

static void expand(const struct job *job, struct step *at, uint32_t number, uint32_t width)
{
    double rule = job->args.parameters.value[DYNASOR_PARAMETER_PRIOR], sum = 0;
    at->expanded = true;
    at->first_child = steps_count;
    at->children = width;
    for (uint32_t i = 0; i < width; i++)
        (void)step_write(job, number);
    for (uint32_t b = at->first_child; b < at->first_child + width; b++) {
        struct step *s = &steps[b];
        bool empty = s->own == 1 && s->tokens[s->count - 1] == '\n';
        s->dropped = empty || says_what_one_before_says(at->first_child, b);
        s->prior = rule < 1 ? exp(s->log_sum / s->own) : rule < 2 ? exp(s->log_sum) : 1;
        s->prior = s->dropped ? 0 : s->prior;
        sum += s->prior;
    }
    for (uint32_t b = at->first_child; b < at->first_child + width; b++)
        steps[b].prior /= sum;
    if (sum == 0)
        at->children = 0;
}

/* A path of nothing is no answer. */
static bool says(const struct step *s)
{
    for (uint32_t i = 8; i < s->count; i++)
        if (s->tokens[i] != '\n' && s->tokens[i] != END)
            return true;
    return false;
}

/* The search of TS-LLM's rap, one iteration after another. Returns the leaf of most reward; of equals the
 * first. */
static uint32_t search(const struct job *job, uint32_t iterations, uint32_t width, uint32_t depth)
{
    struct step root = {.count = 8};
    uint32_t best = UINT32_MAX;
    for (uint32_t i = 0; i < iterations; i++) {
        uint32_t number = UINT32_MAX, path[64], length = 0;
        struct step *at = &root;
        while (number == UINT32_MAX || !(at->ended || at->depth == depth)) {
            if (!at->expanded)
                expand(job, at, number, width);
            if (at->children == 0)
                break;
            double most = -1e9;
            uint32_t chosen = 0;
            for (uint32_t b = at->first_child; b < at->first_child + at->children; b++) {
                const struct step *s = &steps[b];
                double q = s->visits ? s->value_sum / s->visits : s->score;
                double c = log((at->visits + 19652.0 + 1) / 19652.0) + 10;
                double u = q + c * (double)(float)s->prior * sqrt(at->visits) / (1 + s->visits);
                if (s->dropped || u <= most)
                    continue;
                most = u;
                chosen = b;
            }
            number = chosen;
            at = &steps[number];
            path[length++] = number;
        }
        if (number == UINT32_MAX)
            return UINT32_MAX;
        root.visits++;
        for (uint32_t k = 0; k < length; k++) {
            steps[path[k]].visits++;
            steps[path[k]].value_sum += at->score;
        }
        if (best == UINT32_MAX || (says(at) && !says(&steps[best])) ||
            (says(at) == says(&steps[best]) && at->score > steps[best].score))
            best = number;
    }
    return best;
}

static void algorithms_mcts_searches_as_published(void **state)
{
    (void)state;
    uint64_t seed = check_number("SEED", now_ns());
    (void)printf("SEED=%" PRIu64 "\n", seed);
    write_token = write_anything;
    for (uint32_t trial = 0; trial < 300; trial++) {
        struct job job;
        struct outcome outcome;
        struct rig r;
        uint32_t width = 1 + trial % 5, depth = 1 + trial % 6, iterations = 1 + trial % 9;
        job_make(&job, DYNASOR_ALGORITHM_MCTS, seed + trial, "even");
        job.args.parameters.answer.kind = ANSWER_TEXT; /* every path has one */
        set(&job, DYNASOR_PARAMETER_CAP, iterations);
        set(&job, DYNASOR_PARAMETER_DEPTH, depth);
        set(&job, DYNASOR_PARAMETER_WIDTH, width);
        set(&job, DYNASOR_PARAMETER_STEP_TOKENS, 1 + trial % 4); /* short ones say the same */
        set(&job, DYNASOR_PARAMETER_PRIOR, trial % 7 % 3);
        rig_open(&r, seed, 0, 0);
        run_all(&r, &job, &outcome, 1);
        rig_close(&r);
        steps_count = 0;
        decoded = 0;
        uint32_t best = search(&job, iterations, width, depth);
        assert_int_equal(outcome.cost.branches_count, steps_count);
        assert_int_equal(outcome.cost.decoded_tokens, decoded);
        assert_int_equal(outcome.cost.reward_tokens, 8 + decoded);
        assert_int_equal(outcome.result.branch, best);
    }
}

/* Beam search within one subtree: each of its beams that has not ended takes the best step left of the level.
 * Steps of all subtrees are numbered level by level, so it is done level by level, too. */
struct subtree {
    uint32_t beams, ended, opened;
    uint32_t level[BRANCHES_MAX], count;
    uint32_t open[BRANCHES_MAX];
};

static void beams_take(struct subtree *t, bool deepest, uint32_t *best)
{
    t->opened = 0;
    for (uint32_t beam = t->ended; beam < t->beams; beam++) {
        uint32_t at = UINT32_MAX;
        for (uint32_t i = 0; i < t->count; i++)
            if (t->level[i] != UINT32_MAX &&
                (at == UINT32_MAX || steps[t->level[i]].score > steps[t->level[at]].score))
                at = i;
        if (at == UINT32_MAX)
            return;
        uint32_t taken = t->level[at];
        t->level[at] = UINT32_MAX;
        if (!steps[taken].ended && !deepest) {
            t->open[t->opened++] = taken;
            continue;
        }
        t->ended++;
        if (*best == UINT32_MAX || (says(&steps[taken]) && !says(&steps[*best])) ||
            (says(&steps[taken]) == says(&steps[*best]) && steps[taken].score > steps[*best].score))
            *best = taken;
    }
}

static uint32_t beam_search(const struct job *job, uint32_t width, uint32_t expansion,
                            uint32_t subtrees, uint32_t depth_max)
{
    static struct subtree trees[8];
    uint32_t best = UINT32_MAX;
    for (uint32_t s = 0; s < subtrees; s++) {
        trees[s].beams = width / subtrees + (s < width % subtrees);
        trees[s].ended = trees[s].count = 0;
        for (uint32_t i = 0; i < trees[s].beams * expansion; i++)
            trees[s].level[trees[s].count++] = step_write(job, UINT32_MAX);
    }
    for (uint32_t depth = 1; depth <= depth_max; depth++)
        for (uint32_t s = 0; s < subtrees; s++) {
            struct subtree *t = &trees[s];
            beams_take(t, depth == depth_max, &best);
            t->count = 0;
            for (uint32_t i = 0; i < t->opened * expansion; i++)
                t->level[t->count++] = step_write(job, t->open[i / expansion]);
        }
    return best;
}

static void algorithms_beam_subtrees_do_not_compete(void **state)
{
    (void)state;
    uint64_t seed = check_number("SEED", now_ns()), differ = 0;
    (void)printf("SEED=%" PRIu64 "\n", seed);
    write_token = write_anything;
    for (uint32_t trial = 0; trial < 300; trial++) {
        struct job job;
        struct outcome outcome;
        struct rig r;
        uint32_t width = 1 + trial % 6, subtrees = 1 + trial / 6 % 4, depth = 1 + trial % 5;
        uint32_t expansion = 1 + trial % 4, own = subtrees < width ? subtrees : width;
        job_make(&job, DYNASOR_ALGORITHM_BEAM, seed + trial, "even");
        job.args.parameters.answer.kind = ANSWER_TEXT; /* every path has one */
        set(&job, DYNASOR_PARAMETER_WIDTH, width);
        set(&job, DYNASOR_PARAMETER_SUBTREES, subtrees);
        set(&job, DYNASOR_PARAMETER_EXPANSION, expansion);
        set(&job, DYNASOR_PARAMETER_DEPTH, depth);
        set(&job, DYNASOR_PARAMETER_STEP_TOKENS, 11);
        rig_open(&r, seed, 0, 0);
        run_all(&r, &job, &outcome, 1);
        rig_close(&r);
        steps_count = 0;
        uint32_t alike = beam_search(&job, width, expansion, 1, depth);
        steps_count = 0;
        decoded = 0;
        uint32_t best = beam_search(&job, width, expansion, own, depth);
        differ += alike != best;
        assert_int_equal(outcome.cost.branches_count, steps_count);
        assert_int_equal(outcome.cost.decoded_tokens, decoded);
        assert_int_equal(outcome.result.branch, best);
    }
    assert_true(differ > 30); /* the subtrees change what is found */
}

/* ---- policies within a round --------------------------------------------------------------------------- */

static uint32_t length_of(const struct job *job, uint32_t sample)
{
    struct seq like = {.args = {.seed = job->args.seed, .branch = sample}};
    uint32_t length = 0;
    while (length < job->args.parameters.max_tokens && write_anything(&like, length++) != END)
        ;
    return length;
}

static void algorithms_the_first_m_of_n_count(void **state)
{
    (void)state;
    uint64_t seed = check_number("SEED", now_ns());
    (void)printf("SEED=%" PRIu64 "\n", seed);
    write_token = write_anything;
    for (uint32_t trial = 0; trial < 200; trial++) {
        enum { N = 12 };
        struct job job;
        struct outcome outcome;
        struct rig r;
        uint32_t length[N], m = 1 + trial % (N - 1);
        uint64_t kept = 0, killed = 0;
        job_make(&job, DYNASOR_ALGORITHM_SC, seed + trial, "m_of_n");
        set(&job, DYNASOR_PARAMETER_CAP, N);
        job.policy.finished_count = m;
        rig_open(&r, seed + trial, 60, 20);
        run_all(&r, &job, &outcome, 1);
        rig_close(&r);
        for (uint32_t i = 0; i < N; i++)
            length[i] = length_of(&job, i);
        for (uint32_t i = 0; i < N; i++) {
            uint32_t before = 0, last = 0, last_tokens = 0;
            for (uint32_t k = 0; k < N; k++) {
                uint32_t place = 0; /* of k */
                for (uint32_t o = 0; o < N; o++)
                    place += length[o] < length[k] || (length[o] == length[k] && o < k);
                before += length[k] < length[i] || (length[k] == length[i] && k < i);
                if (place == m - 1) {
                    last = k;
                    last_tokens = length[k];
                }
            }
            *(before < m ? &kept : &killed) +=
                before < m ? length[i] : last_tokens - (i > last ? 1 : 0);
        }
        assert_int_equal(outcome.result.verdict, RUN_SETTLED);
        assert_int_equal(outcome.cost.killed_tokens, killed);
        assert_int_equal(outcome.cost.decoded_tokens, kept + killed);
    }
}

static void algorithms_deepconf_kills_below_the_bar(void **state)
{
    (void)state;
    uint64_t seed = check_number("SEED", now_ns()), killed_count = 0;
    (void)printf("SEED=%" PRIu64 "\n", seed);
    write_token = write_anything;
    for (uint32_t trial = 0; trial < 200; trial++) {
        enum { N = 12, WARMUP = 5, WINDOW = 6 };
        struct job job;
        struct outcome outcome;
        struct rig r;
        double least[N], bar = 0;
        uint64_t killed = 0, all = 0;
        job_make(&job, DYNASOR_ALGORITHM_SC, seed + trial, "deepconf");
        set(&job, DYNASOR_PARAMETER_CAP, N);
        job.policy.warmup_count = WARMUP;
        job.policy.group_tokens = WINDOW;
        job.policy.kept_share = 0.5; /* the bar is the third of five */
        job.policy.consensus = 2;    /* never */
        job.policy.step = N;
        rig_open(&r, seed + trial, 60, 20);
        run_all(&r, &job, &outcome, 1);
        rig_close(&r);
        for (uint32_t i = 0; i < N; i++) {
            uint32_t length = length_of(&job, i), end = length;
            least[i] = 1e9;
            for (uint32_t at = WINDOW; at <= length && end == length; at++) {
                double sum = 0;
                for (uint32_t k = at - WINDOW; k < at; k++)
                    sum += (double)confidence_of(job.args.seed, i, k);
                least[i] = fmin(least[i], sum / WINDOW);
                if (i >= WARMUP && at < length && least[i] < bar - 1e-9)
                    end = at;
            }
            double sum = 0;
            for (uint32_t k = 0; k < length && length < WINDOW; k++)
                sum += (double)confidence_of(job.args.seed, i, k);
            least[i] = length < WINDOW ? sum / length : least[i];
            all += end;
            killed += end < length ? end : 0;
            killed_count += end < length;
            if (i != WARMUP - 1)
                continue;
            for (uint32_t k = 0; k < WARMUP; k++) {
                uint32_t below = 0, equal = 0;
                for (uint32_t o = 0; o < WARMUP; o++) {
                    below += least[o] < least[k];
                    equal += fabs(least[o] - least[k]) <= 0;
                }
                if (below <= 2 && below + equal > 2)
                    bar = least[k];
            }
        }
        assert_int_equal(outcome.cost.killed_tokens, killed);
        assert_int_equal(outcome.cost.decoded_tokens, all);
    }
    assert_true(killed_count > 100);
}

/* ---- the step tag ------------------------------------------------------------------------------------- */

#define TAG 'A' /* nobody writes it, but for some steps that end with it */

/* Steps of a few letters, an end now and then. */
static uint32_t write_steps(const struct seq *q, uint32_t position)
{
    uint32_t h = rng_u32(q->args.seed, q->args.branch, position);
    if (h % 6 == 0)
        return '\n';
    if (h % 23 == 1)
        return END;
    return h % 5 == 2 && position > 0 && q->tokens[q->count - 1] != TAG ? TAG : 'a' + h / 11 % 26;
}

static uint64_t tags_seen;

/* What the reward model is given: each step ends with one tag, that of the model's end too, and is at most as
 * long as it may be. */
static void see_tags(const struct seq *q)
{
    uint32_t length = 0;
    CHECK(q->tokens[q->count - 1] == TAG, "it ends with %u", q->tokens[q->count - 1]);
    for (uint32_t i = 8; i < q->count; i++) {
        bool last = i + 1 == q->count;
        CHECK(q->tokens[i] != END || (!last && length == 0), "an end at %u of %u", i, q->count);
        length = q->tokens[i] == TAG ? 0 : length + 1;
        CHECK(length <= 7, "a step of %u tokens at %u of %u", length, i, q->count);
        CHECK(q->tokens[i] != TAG || q->tokens[i - 1] != TAG, "twice at %u", i);
        CHECK(last || q->tokens[i] != '\n' || q->tokens[i + 1] == TAG, "no tag behind %u", i);
    }
    tags_seen++;
}

static void algorithms_each_scored_step_ends_with_the_tag(void **state)
{
    (void)state;
    enum { JOBS = 40 };
    static struct job jobs[JOBS];
    static struct outcome alone[JOBS], together[JOBS];
    static const uint32_t kinds[] = {DYNASOR_ALGORITHM_REBASE, DYNASOR_ALGORITHM_MCTS,
                                     DYNASOR_ALGORITHM_BEAM};
    uint64_t seed = check_number("SEED", now_ns());
    (void)printf("SEED=%" PRIu64 "\n", seed);
    struct codec *codec = codec_make();
    write_token = write_steps;
    read_score = see_tags;
    tags_seen = 0;
    for (uint32_t i = 0; i < JOBS; i++) {
        struct rig r;
        job_make(&jobs[i], kinds[i % COUNT_OF(kinds)], seed + i, "even");
        small(&jobs[i], kinds[i % COUNT_OF(kinds)]);
        set(&jobs[i], DYNASOR_PARAMETER_STEP_TOKENS, 7);
        jobs[i].args.stop_tokens_count = 0; /* the model alone ends it */
        rig_open_with(&r, codec, seed, 0, 0);
        r.texts.step_tag = TAG;
        run_all(&r, &jobs[i], &alone[i], 1);
        assert_int_equal(r.sched[1]->read_tokens, alone[i].cost.reward_tokens);
        rig_close(&r);
    }
    struct rig r;
    rig_open_with(&r, codec, seed, 40, 30);
    r.texts.step_tag = TAG;
    run_all(&r, jobs, together, JOBS);
    rig_close(&r);
    for (uint32_t i = 0; i < JOBS; i++)
        CHECK(same(&alone[i], &together[i]), "program %u: %s", i, jobs[i].args.algorithm->name);
    read_score = NULL;
    codec_free(codec);
    assert_true(tags_seen > 1000);
}

/* Steps in a row, each of whose parents is let go before it is read. */
static void row_next(struct run *run)
{
    uint32_t last = run_branches_count(run);
    if (last > 0 && (last == 6 || run_get(run, last - 1)->state != BRANCH_STEP)) {
        run_finish(run, RUN_WHOLE, last - 1, last - 1);
        return;
    }
    (void)run_branch(run, &(struct branch_args){.parent = last > 0 ? last - 1 : RUN_NONE,
                                                .tokens_max = 7,
                                                .stops_at_step = true,
                                                .wants_score = true});
    if (last > 1)
        run_retire(run, last - 2);
    if (last > 0)
        run_retire(run, last - 1);
}

static uint32_t row_branches(const struct parameters *parameters)
{
    (void)parameters;
    return 8;
}

static void algorithms_the_tag_is_there_when_a_path_is_read_again(void **state)
{
    (void)state;
    static const struct algorithm row = {.name = "row",
                                         .kind = DYNASOR_ALGORITHM_BEAM,
                                         .wants_reward = true,
                                         .branches_max = row_branches,
                                         .start = row_next,
                                         .next = row_next};
    struct codec *codec = codec_make();
    uint64_t read = 0, again = 0;
    write_token = write_steps;
    read_score = see_tags;
    for (uint32_t i = 0; i < 50; i++) {
        struct job job;
        struct outcome o;
        struct rig r;
        struct run *run;
        job_make(&job, DYNASOR_ALGORITHM_BEAM, i, "even");
        job.args.algorithm = &row;
        job.args.stop_tokens_count = 0;
        rig_open_with(&r, codec, i, 0, 0);
        r.texts.step_tag = TAG;
        run_all(&r, &job, &o, 1);
        read += o.cost.decoded_tokens;
        again += o.cost.reward_tokens;
        /* What fits to the token has no room for tags. */
        job.args.policy = &job.policy;
        job.args.parameters.max_tokens = CONTEXT - 8;
        assert_int_equal(runs_start(r.runs, &job.args, job.prompt, 8, &run), RUNS_E_LONG);
        r.texts.step_tag = 0;
        assert_int_equal(runs_start(r.runs, &job.args, job.prompt, 8, &run), RUNS_OK);
        run_stop(run);
        rig_close(&r);
    }
    read_score = NULL;
    codec_free(codec);
    assert_true(again > 2 * read); /* otherwise nothing was read again */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(algorithms_decide_the_same_whatever_the_schedule),
        cmocka_unit_test(algorithms_rebase_grows_the_published_trees),
        cmocka_unit_test(algorithms_mcts_searches_as_published),
        cmocka_unit_test(algorithms_beam_subtrees_do_not_compete),
        cmocka_unit_test(algorithms_the_first_m_of_n_count),
        cmocka_unit_test(algorithms_deepconf_kills_below_the_bar),
        cmocka_unit_test(algorithms_each_scored_step_ends_with_the_tag),
        cmocka_unit_test(algorithms_the_tag_is_there_when_a_path_is_read_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
