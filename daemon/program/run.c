#include "daemon/program/run.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/reserve.h"
#include "daemon/base/scratch.h"
#include "daemon/program/run_impl.h"
#include "daemon/program/vectors.h"

#define ROOT_USER 0x80000000u /* with the run's number: results of its roots */
#define TEXT_BYTES_MAX (CODEC_PUSH_BYTES_MAX + STOPS_HELD_BYTES_MAX)
#define PROBE_KEYS 0x80000000u /* random numbers of probes: not those of any branch */

static size_t tokens_bytes(const struct runs_config *c)
{
    return (size_t)c->branches_max * row_tokens(c) * sizeof(uint32_t);
}

static size_t numbers_bytes(const struct runs_config *c)
{
    return (size_t)c->runs_max * row_numbers(c) * sizeof(uint32_t);
}

int runs_new(const struct runs_config *config, struct runs **ret_runs)
{
    struct runs *rs = calloc(1, sizeof *rs);
    if (!rs)
        return -ENOMEM;
    rs->config = *config;
    TAILQ_INIT(&rs->free_runs);
    TAILQ_INIT(&rs->news);
    TAILQ_INIT(&rs->free_nodes);
    replicas_begin(rs);
    rs->all = reserve(config->runs_max * sizeof *rs->all);
    rs->nodes = reserve_dense(config->branches_max * sizeof *rs->nodes);
    rs->stops = calloc(config->branches_max, sizeof *rs->stops);
    rs->text = calloc(1, RUN_TEXT_BYTES + RUN_TEXT_TOKENS * CODEC_PUSH_BYTES_MAX);
    rs->path = calloc((size_t)config->context_tokens + RUN_DEPTH_MAX, sizeof *rs->path);
    rs->tokens = reserve(tokens_bytes(config));
    rs->confidences = reserve(tokens_bytes(config));
    rs->node_numbers = reserve(numbers_bytes(config));
    if (ballots_new(2 * config->runs_max, &rs->ballots) != 0 ||
        vectors_new(config, &rs->vectors) != 0) {
        runs_free(rs);
        return -ENOMEM;
    }
    if (!rs->all || !rs->nodes || !rs->stops || !rs->text || !rs->path || !rs->tokens ||
        !rs->confidences || !rs->node_numbers) {
        runs_free(rs);
        return -ENOMEM;
    }
    *ret_runs = rs;
    return 0;
}

void runs_free(struct runs *rs)
{
    if (!rs)
        return;
    unreserve(rs->tokens, tokens_bytes(&rs->config));
    unreserve(rs->confidences, tokens_bytes(&rs->config));
    unreserve(rs->node_numbers, numbers_bytes(&rs->config));
    ballots_free(&rs->ballots);
    vectors_free(rs->vectors);
    free(rs->path);
    free(rs->text);
    free(rs->stops);
    unreserve(rs->nodes, rs->config.branches_max * sizeof *rs->nodes);
    unreserve(rs->all, rs->config.runs_max * sizeof *rs->all);
    free(rs);
}

static void news_add(struct run *r)
{
    if (r->news)
        return;
    r->news = true;
    TAILQ_INSERT_TAIL(&r->runs->news, r, news_link);
}

static void room_changed(struct runs *rs)
{
    rs->room_changed = rs->waiting_due = rs->vectors_due = true;
}

/* ---- branches -------------------------------------------------------------------------------- */

static struct sched *policy_of(const struct run *r)
{
    return r->replica->sched[MODEL_POLICY];
}

/* It has something to do until it has settled. */
static void unsettle(struct node *n)
{
    n->settled = false;
    n->run->pending++;
    n->run->replica->pending++;
}

static void settle(struct node *n)
{
    if (n->settled)
        return;
    n->settled = true;
    ASSERT(n->run->pending > 0);
    n->run->pending--;
    n->run->replica->pending--;
}

static void wait_for_room(struct node *n, enum model model)
{
    n->waits[model] = true;
    TAILQ_INSERT_TAIL(&n->run->replica->waiting[model], n, link);
    n->run->runs->waiting_due = true;
}

static void wait_no_more(struct node *n)
{
    for (uint32_t m = 0; m < MODELS; m++)
        if (n->waits[m])
            TAILQ_REMOVE(&n->run->replica->waiting[m], n, link);
    n->waits[MODEL_POLICY] = n->waits[MODEL_REWARD] = false;
}

static void seqs_give(struct node *n)
{
    wait_no_more(n);
    vectors_drop(n);
    for (uint32_t m = 0; m < MODELS; m++) {
        if (n->seq[m] == SCHED_NONE)
            continue;
        sched_remove(n->run->replica->sched[m], n->seq[m]);
        n->seq[m] = SCHED_NONE;
        room_changed(n->run->runs);
    }
}

/* The lowest number that no branch has. */
static uint32_t number_take(struct run *r)
{
    uint32_t number = r->alive == r->nodes_count ? r->nodes_count : 0;
    while (number < r->nodes_count && r->nodes[number] != RUN_NONE)
        number++;
    r->nodes_count += number == r->nodes_count;
    r->alive++;
    ASSERT(r->alive <= r->reserved);
    return number;
}

/* The one that is taken next: trees take some at once, that nobody has touched for long. */
static void node_prefetch(const struct runs *rs)
{
    const struct node *n = TAILQ_FIRST(&rs->free_nodes);
    if (!n && rs->nodes_fresh == rs->config.branches_max)
        return;
    if (!n)
        n = &rs->nodes[rs->nodes_fresh];
    for (size_t at = 0; at < sizeof *n; at += 64)
        __builtin_prefetch((const uint8_t *)n + at, 1);
}

static struct node *node_take(struct runs *rs)
{
    struct node *n = TAILQ_FIRST(&rs->free_nodes);
    if (n)
        TAILQ_REMOVE(&rs->free_nodes, n, link);
    else
        n = &rs->nodes[rs->nodes_fresh++];
    ASSERT(n < rs->nodes + rs->config.branches_max);
    node_prefetch(rs);
    return n;
}

static __attribute__((noinline)) bool text_take(struct node *n, uint32_t token, bool *ret_step);

/* A parent that has gone on since does not know how its text was there: it is read once more, as far back
 * as a stop string reaches. */
static void text_read(struct node *n)
{
    uint32_t end = n->branch.path_tokens - n->branch.given_tokens, count;
    uint32_t at = end > DYNASOR_STOP_BYTES_MAX ? end - DYNASOR_STOP_BYTES_MAX : 0;
    bool step;
    while (at < end) {
        const uint32_t *tokens = run_path(n->run, n->branch.parent, at, &count);
        for (uint32_t i = 0; i < count && at < end; i++, at++)
            (void)text_take(n, tokens[i], &step); /* what ends there, ended its parent */
    }
}

/* A branch is written on where its parent stopped, in the middle of a character perhaps. */
static void text_begin(struct node *n, const struct node *parent)
{
    const struct run *r = n->run;
    n->looks_at_text = n->stops_at_step || (!is_probe(n) && r->args.stops_bytes > 0);
    if (!n->looks_at_text)
        return;
    struct stops *stops = is_probe(n) || r->args.stops_bytes == 0 ? NULL : stops_of(n);
    /* A probe looked for no stop string, and knows none. */
    bool behind = parent && (n->fork_tokens < parent->branch.tokens_count || is_probe(parent));
    codec_stream_init(&n->text, stops);
    if (is_probe(n) || !parent || !parent->looks_at_text || behind) {
        if (stops)
            stops_init(stops, r->args.stops, r->args.stops_bytes, r->args.stop_include);
        if (behind && !is_probe(n) && (stops || !r->step_end))
            text_read(n);
        return;
    }
    n->text.detokenizer = parent->text.detokenizer;
    if (stops)
        memcpy(stops, stops_of(parent),
               offsetof(struct stops, strings) +
                   stops_of(parent)->count * sizeof stops->strings[0]);
    n->tail_bytes = parent->tail_bytes;
    memcpy(n->tail, parent->tail, sizeof n->tail);
}

uint32_t run_branch(struct run *r, const struct branch_args *args)
{
    struct runs *rs = r->runs;
    const struct node *parent = args->parent == RUN_NONE ? NULL : node_of(r, args->parent);
    struct node *n = node_take(rs);
    uint32_t given = args->given_count, at = args->parent_tokens;
    uint32_t path = parent ? parent->branch.path_tokens : 0;
    if (parent && at) {
        ASSERT(at <= parent->branch.tokens_count);
        path -= parent->branch.tokens_count - at;
    }
    memset(n, 0, sizeof *n);
    n->run = r;
    n->idx = number_take(r);
    n->fork_tokens = !parent ? 0 : at ? at : parent->branch.tokens_count;
    n->seq[MODEL_POLICY] = n->seq[MODEL_REWARD] = SCHED_NONE;
    n->held_at = args->tokens_max ? given + args->tokens_max : UINT32_MAX;
    n->window = r->args.policy->group_tokens;
    n->stops_at_step = args->stops_at_step;
    n->wants_score = args->wants_score;
    n->sampling = args->sampling ? *args->sampling : r->args.sampling;
    n->branch = (struct branch){.parent = args->parent,
                                .depth = parent ? parent->branch.depth + 1 : 0,
                                .tokens_count = given,
                                .given_tokens = given,
                                .path_tokens = given + path,
                                .state = BRANCH_WAITING};
    /* What a probe is given and answers comes on top of the program's limit. */
    n->cut_at = given ? n->held_at : r->args.parameters.max_tokens - path;
    n->key = given ? PROBE_KEYS + r->keys[1]++ : r->keys[0]++;
    ASSERT(n->cut_at > given && n->cut_at <= rs->config.context_tokens);
    ASSERT(n->branch.depth < RUN_DEPTH_MAX);
    if (given)
        memcpy(tokens_of(rs, n), args->given, given * sizeof(uint32_t));
    text_begin(n, parent);
    r->nodes[n->idx] = (uint32_t)(n - rs->nodes);
    r->cost.branches_count++;
    unsettle(n);
    if (r->roots_pending == 0)
        wait_for_room(n, MODEL_POLICY);
    return n->idx;
}

void run_extend(struct run *r, uint32_t branch, uint32_t tokens_max)
{
    struct node *n = node_of(r, branch);
    ASSERT((n->branch.state == BRANCH_HELD || n->branch.state == BRANCH_STEP) && n->settled &&
           n->seq[MODEL_POLICY] != SCHED_NONE);
    n->held_at = tokens_max ? n->branch.tokens_count + tokens_max : UINT32_MAX;
    n->branch.state = n->adopted ? BRANCH_WAITING : BRANCH_RUNNING;
    n->branch.scored = false;
    unsettle(n);
    if (n->adopted)
        wait_for_room(n, MODEL_POLICY);
    else if (!(r->paused && branch == 0))
        sched_resume(policy_of(r), n->seq[MODEL_POLICY]);
}

void run_score(struct run *r, uint32_t branch)
{
    struct node *n = node_of(r, branch);
    ASSERT(n->settled && !n->branch.scored && n->branch.state != BRANCH_DEAD);
    unsettle(n);
    wait_for_room(n, MODEL_REWARD);
}

void run_tell(struct run *r)
{
    news_add(r);
}

void run_kill(struct run *r, uint32_t branch)
{
    struct node *n = node_of(r, branch);
    if (n->branch.state == BRANCH_DEAD)
        return;
    if (!is_probe(n))
        r->cost.killed_tokens += n->branch.tokens_count;
    seqs_give(n);
    n->branch.state = BRANCH_DEAD;
    settle(n);
}

void run_cut_back(struct run *r, uint32_t branch, uint32_t tokens_kept)
{
    struct branch *b = &node_of(r, branch)->branch;
    ASSERT(b->state == BRANCH_DEAD && b->given_tokens == 0 && tokens_kept <= b->tokens_count);
    uint32_t lost = b->tokens_count - tokens_kept;
    r->cost.killed_tokens -= lost;
    r->cost.decoded_tokens -= lost;
    r->cost.lost_tokens += lost;
    b->tokens_count -= lost;
    b->path_tokens -= lost;
}

void run_retire(struct run *r, uint32_t branch)
{
    struct node *n = node_of(r, branch);
    ASSERT(n->settled);
    seqs_give(n);
}

void run_forget(struct run *r, uint32_t branch)
{
    struct node *n = node_of(r, branch);
    seqs_give(n);
    settle(n);
    TAILQ_INSERT_HEAD(&r->runs->free_nodes, n, link);
    r->nodes[branch] = RUN_NONE;
    r->alive--;
    while (r->nodes_count && r->nodes[r->nodes_count - 1] == RUN_NONE)
        r->nodes_count--;
}

void run_watch(struct run *r, bool watched)
{
    r->watched = watched;
}

const struct branch *run_get(const struct run *r, uint32_t branch)
{
    return &node_of(r, branch)->branch;
}

uint32_t run_branches_count(const struct run *r)
{
    return r->nodes_count;
}

const struct parameters *run_parameters(const struct run *r)
{
    return &r->args.parameters;
}

const struct run_cost *run_cost(const struct run *r)
{
    return &r->cost;
}

struct ballot *run_ballot(struct run *r)
{
    return &r->ballot;
}

struct ballot *run_asked(struct run *r)
{
    return &r->asked;
}

struct observer *run_observer(const struct run *r)
{
    return r->runs->config.observer;
}

uint32_t run_user(const struct run *r)
{
    return r->args.user;
}

const struct policy_options *run_policy(const struct run *r)
{
    return r->args.policy;
}

uint32_t run_grant(const struct run *r)
{
    return r->grant;
}

bool run_waits(const struct run *r)
{
    return r->waits;
}

void *run_state(struct run *r)
{
    return r->state;
}

void *run_branch_state(struct run *r, uint32_t branch)
{
    return node_of(r, branch)->state;
}

float run_confidence(const struct run *r, uint32_t branch)
{
    const struct node *n = node_of(r, branch);
    double least;
    return n->window && certaindex_groups_least(&n->branch.confidence, n->window, &least)
               ? (float)least
               : 0;
}

const struct run_texts *run_texts(const struct run *r)
{
    return r->runs->config.texts;
}

/* ---- room ------------------------------------------------------------------------------------ */

static bool find_room(struct node *n, enum model model)
{
    int result = model == MODEL_POLICY ? room_to_decode(n) : room_to_score(n);
    ASSERT(result != SCHED_E_LONG); /* the run was checked as a whole */
    if (result != SCHED_OK)
        return false;
    if (model == MODEL_POLICY) {
        n->branch.state = BRANCH_RUNNING;
        if (n->run->paused && n->idx == 0)
            sched_pause(policy_of(n->run), n->seq[MODEL_POLICY]);
    }
    wait_no_more(n);
    return true;
}

/* Oldest first; of each model of a replica until one finds no room. */
static uint32_t waiting_admit(struct runs *rs)
{
    uint32_t admitted = 0;
    struct node *n;
    if (!rs->waiting_due)
        return 0;
    rs->waiting_due = false;
    for (uint32_t i = 0; i < rs->replicas_count; i++)
        for (uint32_t m = 0; m < MODELS; m++)
            while ((n = TAILQ_FIRST(&rs->replicas[i].waiting[m])) && find_room(n, (enum model)m))
                admitted++;
    rs->room_changed |= admitted > 0; /* those who were new had to stand back */
    return admitted;
}

/* ---- a run's life ---------------------------------------------------------------------------- */

static void roots_give(struct run *r)
{
    for (uint32_t m = 0; m < MODELS; m++)
        if (r->root[m] != SCHED_NONE)
            sched_remove(r->replica->sched[m], r->root[m]);
    r->root[MODEL_POLICY] = r->root[MODEL_REWARD] = SCHED_NONE;
    r->roots_pending = 0;
    room_changed(r->runs);
}

static int roots_add(struct run *r)
{
    struct runs *rs = r->runs;
    struct sched_seq_args args = {.user = ROOT_USER | (uint32_t)(r - rs->all),
                                  .tenant = r->args.tenant,
                                  .group = r->args.group,
                                  .prompt = r->prompt,
                                  .prompt_tokens = r->prompt_tokens,
                                  .sampling = r->args.sampling,
                                  .stem = true};
    uint32_t models = r->args.algorithm->wants_reward ? 2 : 1;
    for (uint32_t m = 0; m < models; m++) {
        int result = sched_add(r->replica->sched[m], &args, &r->root[m]);
        if (result != SCHED_OK) {
            roots_give(r);
            return result;
        }
    }
    r->roots_pending = models;
    r->cost.reward_tokens += models == 2 ? r->prompt_tokens : 0;
    return SCHED_OK;
}

static void run_give(struct run *r)
{
    struct runs *rs = r->runs;
    vectors_end(r);
    for (uint32_t i = r->nodes_count; i-- > 0;)
        if (i < r->nodes_count && r->nodes[i] != RUN_NONE)
            run_forget(r, i);
    ASSERT(r->alive == 0 && r->pending == 0);
    roots_give(r);
    rs->reserved -= r->reserved;
    if (r->news)
        TAILQ_REMOVE(&rs->news, r, news_link);
    TAILQ_INSERT_HEAD(&rs->free_runs, r, link);
}

/* One character that is the same wherever it stands: most often a step ends with a line. */
static bool is_simple(const char *step_end)
{
    return strlen(step_end) == 1 && *step_end != ' ' && *step_end != '#' && *step_end > 0;
}

static void run_begin(struct replica *replica, struct runs *rs, struct run *r,
                      const struct run_args *args, const uint32_t *prompt, uint32_t prompt_tokens,
                      uint32_t branches)
{
    memset(r, 0, sizeof *r);
    r->runs = rs;
    r->replica = replica;
    r->args = *args;
    r->root[MODEL_POLICY] = r->root[MODEL_REWARD] = SCHED_NONE;
    r->reserved = branches;
    r->prompt_tokens = prompt_tokens;
    r->prompt = prompt;
    r->nodes = branches <= RUN_FEW_BRANCHES
                   ? r->few
                   : rs->node_numbers + (size_t)(r - rs->all) * row_numbers(&rs->config);
    r->result.branch = r->result.answer = RUN_NONE;
    r->grant = parameter_whole(&args->parameters, DYNASOR_PARAMETER_CAP);
    r->live = args->algorithm->live;
    r->step_end_bytes = (uint8_t)strlen(args->parameters.step_end);
    r->step_end = is_simple(args->parameters.step_end) ? args->parameters.step_end[0] : '\0';
    r->has_stop_tokens = args->stop_tokens_count > 0;
    /* Ids above the tokenizer's pad a model's vocabulary, of each model differently: the reward model may
     * not have one, and then nothing can be said of the branch. */
    r->tokens_below =
        args->algorithm->wants_reward ? sched_vocabulary(replica->sched[MODEL_REWARD]) : UINT32_MAX;
    if (args->parameters.algorithm != DYNASOR_ALGORITHM_SINGLE) { /* which votes on nothing */
        ballot_init(&r->ballot, &rs->ballots, (uint32_t)(r - rs->all));
        ballot_init(&r->asked, &rs->ballots, rs->config.runs_max + (uint32_t)(r - rs->all));
    }
    vectors_begin(r);
    rs->reserved += branches;
}

/* Whether there is a place for it now, before anything is asked of the schedulers. */
static bool has_place(const struct runs *rs, uint32_t branches)
{
    return branches <= rs->config.branches_max - rs->reserved &&
           (!TAILQ_EMPTY(&rs->free_runs) || rs->runs_fresh < rs->config.runs_max);
}

/* Alone it needs no root: it is the prompt's own sequence, and has to find room at once. */
static int run_take_room(struct run *r)
{
    bool alone = r->reserved == 1 && !r->args.algorithm->wants_reward;
    int result = alone ? SCHED_OK : roots_add(r);
    if (result != SCHED_OK)
        return result;
    r->args.algorithm->start(r);
    return alone && r->nodes_count && !find_room(node_of(r, 0), MODEL_POLICY) ? SCHED_E_FULL
                                                                              : SCHED_OK;
}

/* Steps of a path that are scored: each has a token at least. */
static uint32_t tags_max(const struct run_args *args)
{
    uint32_t depth = parameter_whole(&args->parameters, DYNASOR_PARAMETER_DEPTH);
    if (depth == 0)
        depth = args->algorithm->next ? 1 : RUN_DEPTH_MAX;
    return depth < args->parameters.max_tokens ? depth : args->parameters.max_tokens;
}

static enum runs_result start_on(struct replica *replica, struct runs *rs,
                                 const struct run_args *args, const uint32_t *prompt,
                                 uint32_t prompt_tokens, uint32_t branches, struct run **ret_run)
{
    struct run *r = TAILQ_FIRST(&rs->free_runs);
    if (r)
        TAILQ_REMOVE(&rs->free_runs, r, link);
    else
        r = &rs->all[rs->runs_fresh++];
    bool changed = rs->room_changed;
    run_begin(replica, rs, r, args, prompt, prompt_tokens, branches);
    int result = run_take_room(r);
    r->prompt = NULL;
    if (result == SCHED_OK) {
        *ret_run = r;
        return RUNS_OK;
    }
    run_give(r);
    rs->room_changed = changed; /* what it gave back it had not got */
    return result == SCHED_E_FULL ? RUNS_E_FULL : RUNS_E_LONG;
}

enum runs_result runs_start(struct runs *rs, const struct run_args *args, const uint32_t *prompt,
                            uint32_t prompt_tokens, struct run **ret_run)
{
    const struct algorithm *a = args->algorithm;
    uint32_t branches = a->branches_max(&args->parameters);
    uint64_t tokens = (uint64_t)prompt_tokens + args->parameters.max_tokens;
    uint32_t extra = a->extra_tokens ? a->extra_tokens(&args->parameters, rs->config.texts) : 0;
    uint32_t tags = rs->config.texts->step_tag ? tags_max(args) : 0;
    *ret_run = NULL;
    if (branches > rs->config.branches_max)
        return RUNS_E_WIDE;
    if (!sched_fits(rs->config.policy, tokens + extra) ||
        (a->wants_reward && !sched_fits(rs->config.reward, tokens + tags)))
        return RUNS_E_LONG;
    if (!has_place(rs, branches))
        return RUNS_E_FULL;
    enum runs_result result = RUNS_E_FULL;
    struct replica *replica;
    uint32_t asked = 0;
    while (result == RUNS_E_FULL && (replica = replica_next(rs, args, &asked)))
        result = start_on(replica, rs, args, prompt, prompt_tokens, branches, ret_run);
    return result;
}

void run_stop(struct run *r)
{
    run_give(r);
}

void run_finish(struct run *r, enum run_verdict verdict, uint32_t branch, uint32_t answer)
{
    ASSERT(r->result.end == RUN_GOES_ON);
    r->result.end = RUN_DONE;
    r->result.verdict = verdict;
    r->result.branch = branch;
    r->result.answer = answer;
    for (uint32_t i = 0; i < r->nodes_count; i++) {
        if (r->nodes[i] == RUN_NONE)
            continue;
        if (node_of(r, i)->settled)
            run_retire(r, i);
        else
            run_kill(r, i);
    }
    roots_give(r);
    news_add(r);
}

void run_report(struct run *r, const struct certaindex *seen, uint32_t knob)
{
    r->result.seen = *seen;
    r->result.knob = knob;
}

const struct run_result *run_result(const struct run *r)
{
    return &r->result;
}

/* ---- results of a step ----------------------------------------------------------------------- */

static void decide(struct run *r)
{
    while (r->pending == 0 && r->roots_pending == 0 && r->result.end == RUN_GOES_ON &&
           r->nodes_count > 0 && r->args.algorithm->next && !r->waits)
        r->args.algorithm->next(r);
}

void run_wait(struct run *r)
{
    ASSERT(r->pending == 0 && r->result.end == RUN_GOES_ON);
    r->waits = true;
    news_add(r);
}

void run_go_on(struct run *r, uint32_t knob)
{
    ASSERT(r->waits && (knob == 0 || knob > r->grant));
    r->waits = false;
    r->grant = knob;
    decide(r);
}

static void stop_decoding(struct node *n, enum branch_state state)
{
    n->branch.state = state;
    sched_pause(policy_of(n->run), n->seq[MODEL_POLICY]);
    room_changed(n->run->runs);
    if (n->wants_score)
        wait_for_room(n, MODEL_REWARD);
    if (!vectors_ask(n) && !n->wants_score)
        settle(n);
}

static bool is_stop_token(const struct run *r, uint32_t token)
{
    for (uint32_t i = 0; i < r->args.stop_tokens_count; i++) {
        uint32_t stop;
        memcpy(&stop, r->args.stop_tokens + i * sizeof stop, sizeof stop);
        if (stop == token)
            return true;
    }
    return false;
}

static bool ends(const struct node *n, uint32_t token)
{
    const struct run *r = n->run;
    if (codec_is_end(r->runs->config.codec, token) && (is_probe(n) || !r->args.ignore_eos))
        return true;
    return r->has_stop_tokens && !is_probe(n) && is_stop_token(r, token);
}

/* Whether this text, after what came before it, completes step_end. What ended a step does not begin the
 * next one's end. */
static bool step_ends(struct node *n, const uint8_t *text, uint32_t bytes)
{
    const char *end = n->run->args.parameters.step_end;
    size_t end_bytes = n->run->step_end_bytes;
    SCRATCH char both[PARAMETER_STEP_END_BYTES + TEXT_BYTES_MAX];
    if (end_bytes == 0)
        return false;
    memcpy(both, n->tail, n->tail_bytes);
    memcpy(both + n->tail_bytes, text, bytes);
    size_t both_bytes = n->tail_bytes + bytes;
    n->tail_bytes = 0;
    if (memmem(both, both_bytes, end, end_bytes))
        return true;
    n->tail_bytes = (uint8_t)(both_bytes < end_bytes - 1 ? both_bytes : end_bytes - 1);
    memcpy(n->tail, both + both_bytes - n->tail_bytes, n->tail_bytes);
    return false;
}

static void confidence_take(struct node *n, float confidence)
{
    const struct runs *rs = n->run->runs;
    float *all = rs->confidences + (size_t)(n - rs->nodes) * row_tokens(&rs->config);
    uint32_t idx = n->branch.confidence.count;
    if (n->cut_at > n->window) /* or nothing ever leaves the window */
        all[idx] = confidence;
    certaindex_groups_add(&n->branch.confidence, n->window, confidence,
                          idx >= n->window ? all[idx - n->window] : 0);
}

/* Not inlined, for its buffers: most tokens come without it. The text is looked at only for what may end it. True: a stop string is complete. */
static __attribute__((noinline)) bool text_take(struct node *n, uint32_t token, bool *ret_step)
{
    SCRATCH uint8_t text[TEXT_BYTES_MAX];
    const struct stops *stops = n->text.stops;
    uint32_t bytes, held = stops ? stops->held_bytes : 0;
    *ret_step = false;
    bool stopped = codec_push(&n->text, n->run->runs->config.codec, token, text, &bytes);
    if (stopped || !n->stops_at_step)
        return stopped;
    if (stops && stops->held_bytes) { /* it may begin a stop string, and end a step all the same */
        struct stops copy = *stops;
        bytes += stops_flush(&copy, text + bytes);
    }
    *ret_step = step_ends(n, text + held, bytes - held);
    return false;
}

void run_adopt(struct run *r, uint32_t branch, uint32_t probe)
{
    struct node *n = node_of(r, branch), *from = node_of(r, probe);
    struct branch *b = &n->branch;
    const uint32_t *tokens = tokens_of(r->runs, from);
    uint32_t count = 0, end = from->branch.tokens_count;
    bool stopped = false, step;
    ASSERT(b->state == BRANCH_HELD && n->settled && is_probe(from) && from->settled);
    ASSERT(from->branch.parent == branch && from->fork_tokens == b->tokens_count);
    ASSERT(from->seq[MODEL_POLICY] != SCHED_NONE && end < n->cut_at - b->tokens_count);
    while (count < end && !stopped) {
        uint32_t token = tokens[count++];
        tokens_of(r->runs, n)[b->tokens_count++] = token;
        stopped = n->looks_at_text && text_take(n, token, &step);
    }
    b->path_tokens += count;
    b->log_sum += from->branch.log_sum;
    b->entropy_sum += from->branch.entropy_sum;
    seqs_give(n);
    n->key = r->keys[0]++; /* a fork counts its tokens from 0 */
    if (stopped || (from->branch.state == BRANCH_ENDED && !r->args.ignore_eos))
        b->state = BRANCH_ENDED;
    if (count < end)
        return;
    n->seq[MODEL_POLICY] = from->seq[MODEL_POLICY];
    from->seq[MODEL_POLICY] = SCHED_NONE;
    n->adopted = true;
}

static void token_take(struct node *n, const struct sched_result *result)
{
    struct run *r = n->run;
    struct runs *rs = r->runs;
    struct branch *b = &n->branch;
    const struct ops_sampled *sampled = &result->sampled;
    bool step = false;
    tokens_of(rs, n)[b->tokens_count++] = sampled->token;
    b->path_tokens++;
    b->log_sum += (double)sampled->log_probability;
    b->entropy_sum += (double)sampled->entropy;
    *(is_probe(n) ? &r->cost.probe_tokens : &r->cost.decoded_tokens) += 1;
    rs->tokens_count++;
    if (n->window)
        confidence_take(n, sampled->confidence);
    bool stopped = false;
    if (n->stops_at_step && !n->text.stops && r->step_end)
        step = codec_has(rs->config.codec, sampled->token, r->step_end);
    else if (n->looks_at_text)
        stopped = text_take(n, sampled->token, &step);
    if (stopped || ends(n, sampled->token))
        stop_decoding(n, BRANCH_ENDED);
    else if (b->tokens_count >= n->cut_at)
        stop_decoding(n, BRANCH_CUT);
    else if (step)
        stop_decoding(n, BRANCH_STEP);
    else if (b->tokens_count >= n->held_at)
        stop_decoding(n, BRANCH_HELD);
}

static void numeric(struct run *r)
{
    r->result.end = RUN_NUMERIC;
    news_add(r);
}

static void root_result(struct run *r)
{
    room_changed(r->runs); /* it may be parked from now on */
    if (--r->roots_pending > 0)
        return;
    for (uint32_t i = 0; i < r->nodes_count; i++)
        if (node_of(r, i)->branch.state == BRANCH_WAITING)
            wait_for_room(node_of(r, i), MODEL_POLICY);
    if (r->watched)
        r->args.algorithm->watch(r, RUN_NONE);
}

static void policy_result(struct runs *rs, const struct sched_result *result)
{
    struct node *n = &rs->nodes[result->user];
    struct run *r = n->run;
    if (r->result.end != RUN_GOES_ON)
        return;
    if (result->sampled.numeric || result->sampled.token >= r->tokens_below) {
        numeric(r);
        return;
    }
    token_take(n, result);
    if (r->paused)
        room_changed(rs); /* nothing of its live branch is away any more */
    if (r->live && n->idx == 0)
        news_add(r);
    if (r->watched)
        r->args.algorithm->watch(r, n->idx);
    decide(r);
}

static void reward_result(struct runs *rs, const struct sched_result *result)
{
    struct node *n = &rs->nodes[result->user];
    room_changed(rs); /* what has been read may be parked */
    if (n->run->result.end != RUN_GOES_ON)
        return;
    if (!(result->score >= -1e30f && result->score <= 1e30f)) {
        numeric(n->run);
        return;
    }
    n->branch.score = result->score;
    n->branch.scored = true;
    if (!vectors_pending(n))
        settle(n);
    if (n->run->watched)
        n->run->args.algorithm->watch(n->run, n->idx);
    decide(n->run);
}

static void vector_result(struct node *n)
{
    if (n->run->result.end != RUN_GOES_ON)
        return;
    if (!n->wants_score || n->branch.scored)
        settle(n);
    decide(n->run);
}

/* A branch is touched once a step, and far from the others: by the next step its memory is cold. */
static void branch_prefetch(const struct runs *rs, const struct sched *sched)
{
    uint32_t user = sched_user_ahead(sched);
    if (user & (ROOT_USER | VECTORS_USER))
        return;
    __builtin_prefetch(&rs->nodes[user], 1);
    __builtin_prefetch((const uint8_t *)&rs->nodes[user] + 64, 1);
}

static uint32_t model_poll(struct runs *rs, struct replica *replica, enum model model,
                           uint64_t now_ns)
{
    struct sched_result result;
    struct sched *sched = replica->sched[model];
    uint32_t work = waiting_admit(rs);
    if (!sched)
        return work;
    work += sched_poll(sched, now_ns);
    while (sched_next(sched, &result)) {
        branch_prefetch(rs, sched);
        if (result.user & ROOT_USER)
            root_result(&rs->all[result.user & ~ROOT_USER]);
        else if (result.user & VECTORS_USER)
            vector_result(vectors_result(rs, &result));
        else if (model == MODEL_POLICY)
            policy_result(rs, &result);
        else
            reward_result(rs, &result);
    }
    return work;
}

uint32_t runs_poll(struct runs *rs, uint64_t now_ns)
{
    /* The reward model first: what waits for it decides what is decoded next. */
    struct node *n;
    uint32_t work = 0;
    for (uint32_t i = 0; i < rs->replicas_count; i++)
        work += model_poll(rs, &rs->replicas[i], MODEL_REWARD, now_ns);
    work += vectors_poll(rs, now_ns);
    while ((n = vectors_next(rs)))
        vector_result(n);
    for (uint32_t i = 0; i < rs->replicas_count; i++)
        work += model_poll(rs, &rs->replicas[i], MODEL_POLICY, now_ns);
    return work;
}

struct run *runs_news(struct runs *rs, uint32_t *ret_user)
{
    struct run *r = TAILQ_FIRST(&rs->news);
    if (!r)
        return NULL;
    r->news = false;
    TAILQ_REMOVE(&rs->news, r, news_link);
    *ret_user = r->args.user;
    return r;
}

void run_pause(struct run *r)
{
    const struct node *n = node_of(r, 0);
    r->paused = true;
    if (n->branch.state == BRANCH_RUNNING) {
        sched_pause(policy_of(r), n->seq[MODEL_POLICY]);
        room_changed(r->runs);
    }
}

void run_resume(struct run *r)
{
    const struct node *n = node_of(r, 0);
    r->paused = false;
    if (n->branch.state == BRANCH_RUNNING)
        sched_resume(policy_of(r), n->seq[MODEL_POLICY]);
}

bool runs_room_changed(struct runs *rs)
{
    bool changed = rs->room_changed;
    rs->room_changed = false;
    return changed;
}

uint64_t runs_tokens_count(const struct runs *rs)
{
    return rs->tokens_count;
}

bool runs_have_vectors(const struct runs *rs)
{
    return rs->vectors != NULL;
}
