#include "daemon/program/custom.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/assert.h"
#include "daemon/program/algorithms.h"
#include "daemon/text/codec.h"

/* Beside a run: the text that is to be given to the next probe, and the text of the one branch whose text
 * is being told. */
struct custom {
    uint32_t streamed; /* RUN_NONE: none */
    uint32_t pushed;   /* own tokens of it that the stream has had */
    uint32_t made;     /* bytes that came of them */
    uint32_t held;     /* of them, in text */
    uint32_t given_bytes;
    uint8_t given[DYNASOR_GIVEN_BYTES_MAX];
    uint8_t text[CODEC_PUSH_BYTES_MAX + PROGRAM_NOTE_BYTES];
    struct codec_stream stream;
};

struct customs {
    const struct codec *codec;
    struct codec_scratch *scratch;
    struct custom *all;
    uint32_t ids[RUN_TEXT_TOKENS_MAX];
};

struct state {      /* of a run */
    uint32_t first; /* branch with something to tell; RUN_NONE: none */
    uint32_t last;
    bool read; /* the prompt */
    bool told; /* so */
};
_Static_assert(sizeof(struct state) <= RUN_STATE_BYTES, "");

struct told { /* of a branch */
    uint32_t next;
    uint32_t tokens;
    uint32_t text_bytes;
    uint8_t streams;
    bool listed;
    bool due; /* that it has settled, or is dead */
};
_Static_assert(sizeof(struct told) <= RUN_BRANCH_STATE_BYTES, "");

/* ---- what runs call -------------------------------------------------------------------------- */

static void list(struct run *run, uint32_t branch)
{
    struct state *state = run_state(run);
    struct told *t = run_branch_state(run, branch);
    run_tell(run);
    if (t->listed)
        return;
    t->listed = true;
    t->next = RUN_NONE;
    if (state->first == RUN_NONE)
        state->first = branch;
    else
        ((struct told *)run_branch_state(run, state->last))->next = branch;
    state->last = branch;
}

static void watch(struct run *run, uint32_t branch)
{
    struct state *state = run_state(run);
    if (branch == RUN_NONE) {
        state->read = true;
        run_tell(run);
        return;
    }
    struct told *t = run_branch_state(run, branch);
    t->due |= run_settled(run, branch);
    if (t->due || t->streams & DYNASOR_STREAM_TOKENS)
        list(run, branch);
}

static void start(struct run *run)
{
    *(struct state *)run_state(run) = (struct state){.first = RUN_NONE, .last = RUN_NONE};
    run_watch(run, true);
}

/* Two at least: a run of one would have no root to begin at. */
static uint32_t branches_max(const struct parameters *parameters)
{
    uint32_t cap = parameter_whole(parameters, DYNASOR_PARAMETER_CAP);
    return cap > 2 ? cap : 2;
}

static uint32_t extra_tokens(const struct parameters *parameters, const struct run_texts *texts)
{
    (void)texts;
    return parameter_whole(parameters, DYNASOR_PARAMETER_PROBE_TOKENS);
}

const struct algorithm algorithm_custom = {.name = "custom",
                                           .kind = DYNASOR_ALGORITHM_CUSTOM,
                                           .branches_max = branches_max,
                                           .extra_tokens = extra_tokens,
                                           .start = start,
                                           .watch = watch};
static const struct algorithm scored = {.name = "custom",
                                        .kind = DYNASOR_ALGORITHM_CUSTOM,
                                        .wants_reward = true,
                                        .branches_max = branches_max,
                                        .extra_tokens = extra_tokens,
                                        .start = start,
                                        .watch = watch};

const struct algorithm *custom_algorithm(const struct parameters *parameters)
{
    return parameter_whole(parameters, DYNASOR_PARAMETER_SCORES) ? &scored : &algorithm_custom;
}

/* ---- commands -------------------------------------------------------------------------------- */

static const struct program_refusal accepted = {.status = DYNASOR_OK};

#define REFUSE(which, from, to, was)                                                               \
    (struct program_refusal)                                                                       \
    {                                                                                              \
        .status = DYNASOR_E_INVALID, .field = DYNASOR_FIELD_##which, .least = (from), .max = (to), \
        .got = (was)                                                                               \
    }

static uint32_t state_of(const struct run *run, uint32_t branch)
{
    static const uint32_t states[] = {
        [BRANCH_WAITING] = DYNASOR_BRANCH_RUNNING, [BRANCH_RUNNING] = DYNASOR_BRANCH_RUNNING,
        [BRANCH_HELD] = DYNASOR_BRANCH_HELD,       [BRANCH_STEP] = DYNASOR_BRANCH_STEP,
        [BRANCH_ENDED] = DYNASOR_BRANCH_ENDED,     [BRANCH_CUT] = DYNASOR_BRANCH_CUT,
        [BRANCH_DEAD] = DYNASOR_BRANCH_DEAD};
    return run_settled(run, branch) ? states[run_get(run, branch)->state] : DYNASOR_BRANCH_RUNNING;
}

/* Whether there is such a branch, in a state of least .. most. */
static struct program_refusal check_branch(const struct run *run, uint32_t branch, uint32_t least,
                                           uint32_t most)
{
    uint32_t count = run_branches_count(run);
    if (branch >= count)
        return REFUSE(BRANCH, 0, count ? count - 1 : 0, branch);
    uint32_t state = state_of(run, branch);
    return state < least || state > most ? REFUSE(BRANCH_STATE, least, most, state) : accepted;
}

static struct program_refusal check_limit(const struct run *run, uint32_t tokens_max)
{
    uint32_t most = run_parameters(run)->max_tokens;
    return tokens_max > most ? REFUSE(BRANCH_TOKENS, 0, most, tokens_max) : accepted;
}

/* Where a branch begins: in *ret_path the tokens of the path before it. */
static struct program_refusal check_parent(const struct run *run, const struct program_command *c,
                                           uint32_t *ret_path)
{
    *ret_path = 0;
    if (c->parent == RUN_NONE)
        return c->parent_tokens ? REFUSE(BRANCH_TOKENS, 0, 0, c->parent_tokens) : accepted;
    uint32_t least = c->parent_tokens ? DYNASOR_BRANCH_RUNNING : DYNASOR_BRANCH_HELD;
    struct program_refusal no = check_branch(run, c->parent, least, DYNASOR_BRANCH_CUT);
    if (no.status != DYNASOR_OK)
        return no;
    const struct branch *b = run_get(run, c->parent);
    if (c->parent_tokens > b->tokens_count)
        return REFUSE(BRANCH_TOKENS, 0, b->tokens_count, c->parent_tokens);
    *ret_path = b->path_tokens - (c->parent_tokens ? b->tokens_count - c->parent_tokens : 0);
    return accepted;
}

static struct program_refusal check_begin(struct customs *cs, const struct custom *own,
                                          const struct run *run, const struct program_command *c,
                                          uint32_t *ret_given)
{
    const struct parameters *p = run_parameters(run);
    uint32_t path, room = parameter_whole(p, DYNASOR_PARAMETER_PROBE_TOKENS);
    bool probe = c->command == DYNASOR_COMMAND_PROBE;
    *ret_given = 0;
    struct program_refusal no = check_parent(run, c, &path);
    if (no.status == DYNASOR_OK)
        no = check_limit(run, c->tokens_max);
    if (no.status != DYNASOR_OK)
        return no;
    if (c->wants_score && !parameter_whole(p, DYNASOR_PARAMETER_SCORES))
        return REFUSE(SCORES, 1, 1, 0);
    /* A fork decodes one token at least; what a probe adds comes on top of max_tokens. */
    if (path + !probe > p->max_tokens)
        return REFUSE(BRANCH_TOKENS, 0, p->max_tokens - !probe, path);
    if (!probe)
        return accepted;
    if (own->given_bytes == 0)
        return REFUSE(GIVEN_BYTES, 1, DYNASOR_GIVEN_BYTES_MAX, 0);
    int result = codec_encode(cs->codec, cs->scratch, own->given, own->given_bytes, false, cs->ids,
                              RUN_TEXT_TOKENS_MAX, ret_given);
    if (result != CODEC_OK || *ret_given == 0) /* or text that the tokenizer drops */
        return REFUSE(PROBE_TOKENS, 2, room, result == CODEC_OK ? 0 : RUN_TEXT_TOKENS_MAX + 1);
    if (*ret_given + 1 > room)
        return REFUSE(PROBE_TOKENS, 2, room, (uint64_t)*ret_given + 1);
    if (c->tokens_max < 1 || c->tokens_max > room - *ret_given)
        return REFUSE(BRANCH_TOKENS, 1, room - *ret_given, c->tokens_max);
    return accepted;
}

/* The number is taken all the same: those that its client gave since hold. */
static void begin_dead(struct run *run, bool probe)
{
    static const uint32_t any = 0;
    uint32_t branch = run_branch(run, &(struct branch_args){.parent = RUN_NONE,
                                                            .tokens_max = 1,
                                                            .given = probe ? &any : NULL,
                                                            .given_count = probe});
    run_kill(run, branch);
}

static struct program_refusal begin(struct customs *cs, struct custom *own, struct run *run,
                                    const struct program_command *c)
{
    uint32_t count = run_branches_count(run), given;
    uint32_t cap = parameter_whole(run_parameters(run), DYNASOR_PARAMETER_CAP);
    bool probe = c->command == DYNASOR_COMMAND_PROBE;
    if (count >= cap)
        return REFUSE(BRANCHES, 0, cap, (uint64_t)count + 1);
    if (c->branch != count)
        return REFUSE(BRANCH, count, count, c->branch);
    struct program_refusal no = check_begin(cs, own, run, c, &given);
    if (probe)
        own->given_bytes = 0;
    if (no.status != DYNASOR_OK) {
        begin_dead(run, probe);
        return no;
    }
    struct ops_sample_row sampling = run_sampling(run);
    if (c->samples) {
        sampling.temperature = c->temperature;
        sampling.top_p = c->top_p;
        sampling.min_p = c->min_p;
        sampling.top_k = c->top_k;
    }
    uint32_t branch = run_branch(run, &(struct branch_args){.parent = c->parent,
                                                            .parent_tokens = c->parent_tokens,
                                                            .tokens_max = c->tokens_max,
                                                            .stops_at_step = c->stops_at_step,
                                                            .wants_score = c->wants_score,
                                                            .given = given ? cs->ids : NULL,
                                                            .given_count = given,
                                                            .sampling = &sampling});
    ASSERT(branch == c->branch);
    struct told *t = run_branch_state(run, branch);
    t->streams = (uint8_t)c->streams;
    t->tokens = given; /* its client knows them as text */
    return accepted;
}

static struct program_refusal give(struct custom *own, const struct program_command *c)
{
    if (c->text_bytes > DYNASOR_GIVEN_BYTES_MAX - own->given_bytes)
        return REFUSE(GIVEN_BYTES, 1, DYNASOR_GIVEN_BYTES_MAX,
                      (uint64_t)own->given_bytes + c->text_bytes);
    memcpy(own->given + own->given_bytes, c->text, c->text_bytes);
    own->given_bytes += c->text_bytes;
    return accepted;
}

static struct program_refusal extend(struct run *run, const struct program_command *c)
{
    struct program_refusal no =
        check_branch(run, c->branch, DYNASOR_BRANCH_HELD, DYNASOR_BRANCH_STEP);
    if (no.status == DYNASOR_OK)
        no = check_limit(run, c->tokens_max);
    if (no.status == DYNASOR_OK)
        run_extend(run, c->branch, c->tokens_max);
    return no;
}

static struct program_refusal score(struct run *run, const struct program_command *c)
{
    if (!parameter_whole(run_parameters(run), DYNASOR_PARAMETER_SCORES))
        return REFUSE(SCORES, 1, 1, 0);
    struct program_refusal no =
        check_branch(run, c->branch, DYNASOR_BRANCH_HELD, DYNASOR_BRANCH_CUT);
    if (no.status != DYNASOR_OK)
        return no;
    if (!run_get(run, c->branch)->scored) {
        run_score(run, c->branch);
    } else {
        ((struct told *)run_branch_state(run, c->branch))->due = true;
        list(run, c->branch);
    }
    return accepted;
}

static struct program_refusal kill_branch(struct run *run, const struct program_command *c)
{
    struct program_refusal no =
        check_branch(run, c->branch, DYNASOR_BRANCH_RUNNING, DYNASOR_BRANCH_DEAD);
    if (no.status != DYNASOR_OK || state_of(run, c->branch) == DYNASOR_BRANCH_DEAD)
        return no;
    run_kill(run, c->branch);
    ((struct told *)run_branch_state(run, c->branch))->due = true;
    list(run, c->branch);
    return accepted;
}

static struct program_refusal report(struct run *run, const struct program_command *c)
{
    struct certaindex seen = run_result(run)->seen;
    if (c->signal >= DYNASOR_SIGNAL_COUNT)
        return REFUSE(SIGNAL, 0, DYNASOR_SIGNAL_COUNT - 1, c->signal);
    if (!(c->value >= 0 && c->value <= 1)) {
        double thousandths = c->value < 0 ? -1000 * (double)c->value : 1000 * (double)c->value;
        return REFUSE(SIGNAL_VALUE, 0, 1000,
                      thousandths < 1e15 ? (uint64_t)thousandths : UINT64_MAX);
    }
    seen.known |= 1u << c->signal;
    seen.value[c->signal] = (double)c->value;
    run_report(run, &seen, c->knob);
    return accepted;
}

static struct program_refusal finish(struct run *run, const struct program_command *c)
{
    struct program_refusal no = accepted;
    if (c->verdict >= DYNASOR_VERDICT_COUNT)
        return REFUSE(VERDICT, 0, DYNASOR_VERDICT_COUNT - 1, c->verdict);
    if (c->branch != RUN_NONE)
        no = check_branch(run, c->branch, DYNASOR_BRANCH_HELD, DYNASOR_BRANCH_CUT);
    if (no.status == DYNASOR_OK && c->answer != RUN_NONE)
        no = check_branch(run, c->answer, DYNASOR_BRANCH_HELD, DYNASOR_BRANCH_CUT);
    if (no.status == DYNASOR_OK)
        run_finish(run, (enum run_verdict)c->verdict, c->branch, c->answer);
    return no;
}

struct program_refusal custom_command(struct customs *cs, uint32_t program, struct run *run,
                                      const struct program_command *c)
{
    const struct state *state = run_state(run);
    if (!state->read) {
        struct program_refusal no = REFUSE(COMMAND, 0, 0, c->command);
        no.status = DYNASOR_E_AGAIN;
        return no;
    }
    switch (c->command) {
    case DYNASOR_COMMAND_GIVE:
        return give(&cs->all[program], c);
    case DYNASOR_COMMAND_FORK:
    case DYNASOR_COMMAND_PROBE:
        return begin(cs, &cs->all[program], run, c);
    case DYNASOR_COMMAND_EXTEND:
        return extend(run, c);
    case DYNASOR_COMMAND_SCORE:
        return score(run, c);
    case DYNASOR_COMMAND_KILL:
        return kill_branch(run, c);
    case DYNASOR_COMMAND_REPORT:
        return report(run, c);
    default:
        ASSERT(c->command == DYNASOR_COMMAND_FINISH);
        return finish(run, c);
    }
}

/* ---- notes ----------------------------------------------------------------------------------- */

static uint32_t decoded_tokens(const struct branch *b)
{
    return b->tokens_count - b->given_tokens;
}

/* Own tokens of a branch from one on, as many as lie together. */
static const uint32_t *own_tokens(const struct run *run, uint32_t branch, uint32_t from,
                                  uint32_t *ret_count)
{
    const struct branch *b = run_get(run, branch);
    return run_path(run, branch, b->path_tokens - b->tokens_count + from, ret_count);
}

static bool note_tokens(const struct run *run, uint32_t branch, const struct told *t,
                        struct program_note *note)
{
    uint32_t count;
    if (!(t->streams & DYNASOR_STREAM_TOKENS) || t->tokens >= run_get(run, branch)->tokens_count)
        return false;
    const uint32_t *tokens = own_tokens(run, branch, t->tokens, &count);
    *note = (struct program_note){
        .kind = PROGRAM_NOTE_TOKENS,
        .branch = branch,
        .position = t->tokens,
        .count = count < PROGRAM_NOTE_TOKENS_MAX ? count : PROGRAM_NOTE_TOKENS_MAX};
    memcpy(note->tokens, tokens, note->count * sizeof *tokens);
    return true;
}

/* Text of the settled branch until there is a note of it or no more. The end of a character that is cut is
 * made up only where nothing can follow. */
static void text_make(struct customs *cs, struct custom *own, const struct run *run,
                      uint32_t branch, uint32_t told_bytes)
{
    const struct branch *b = run_get(run, branch);
    uint32_t end = b->tokens_count, count;
    bool whole = b->state == BRANCH_ENDED || b->state == BRANCH_CUT;
    if (own->streamed != branch || own->pushed < b->given_tokens) {
        own->streamed = branch;
        own->pushed = b->given_tokens;
        own->made = own->held = 0;
        codec_stream_init(&own->stream, NULL);
    }
    while (own->held < PROGRAM_NOTE_BYTES && own->pushed <= end) {
        uint8_t *at = own->text + own->held;
        uint32_t bytes = 0;
        if (own->pushed == end && !whole)
            return;
        if (own->pushed == end)
            bytes = codec_flush(&own->stream, cs->codec, at);
        else if (!codec_is_end(cs->codec, *own_tokens(run, branch, own->pushed, &count)))
            (void)codec_push(&own->stream, cs->codec, *own_tokens(run, branch, own->pushed, &count),
                             at, &bytes); /* no stops */
        own->pushed++;                    /* one more than there are: flushed */
        own->made += bytes;
        own->held += bytes;
        uint32_t known = own->made - own->held; /* of what was told before, drop what is here */
        uint32_t drop = told_bytes > known ? told_bytes - known : 0;
        drop = drop < own->held ? drop : own->held;
        memmove(own->text, own->text + drop, own->held - drop);
        own->held -= drop;
    }
}

static bool note_text(struct customs *cs, struct custom *own, const struct run *run,
                      uint32_t branch, const struct told *t, struct program_note *note)
{
    if (!(t->streams & DYNASOR_STREAM_TEXT) || run_get(run, branch)->state == BRANCH_DEAD)
        return false;
    text_make(cs, own, run, branch, t->text_bytes);
    if (own->held == 0)
        return false;
    *note = (struct program_note){.kind = PROGRAM_NOTE_TEXT,
                                  .branch = branch,
                                  .position = t->text_bytes,
                                  .count = own->held < PROGRAM_NOTE_BYTES ? own->held
                                                                          : PROGRAM_NOTE_BYTES};
    memcpy(note->text, own->text, note->count);
    return true;
}

static void note_branch(const struct run *run, uint32_t branch, const struct told *t,
                        struct program_note *note)
{
    const struct branch *b = run_get(run, branch);
    double decoded = decoded_tokens(b) ? decoded_tokens(b) : 1;
    *note = (struct program_note){.kind = PROGRAM_NOTE_BRANCH,
                                  .branch = branch,
                                  .count = 1,
                                  .state = {.number = branch,
                                            .state = state_of(run, branch),
                                            .tokens_count = b->tokens_count,
                                            .path_tokens = b->path_tokens,
                                            .text_bytes = t->text_bytes,
                                            .scored = b->scored,
                                            .score = b->scored ? b->score : 0,
                                            .log_probability = (float)(b->log_sum / decoded),
                                            .entropy = (float)(b->entropy_sum / decoded)}};
}

static void pop(struct run *run, struct state *state)
{
    struct told *t = run_branch_state(run, state->first);
    t->listed = false;
    state->first = t->next;
}

bool custom_note(struct customs *cs, uint32_t program, struct run *run, struct program_note *note)
{
    struct state *state = run_state(run);
    struct custom *own = &cs->all[program];
    if (state->read && !state->told) {
        *note = (struct program_note){.kind = PROGRAM_NOTE_BRANCH,
                                      .branch = RUN_NONE,
                                      .count = 1,
                                      .state = {.number = RUN_NONE,
                                                .state = DYNASOR_BRANCH_HELD,
                                                .path_tokens = run_prompt_tokens(run)}};
        return true;
    }
    while (state->first != RUN_NONE) {
        uint32_t branch = state->first;
        const struct told *t = run_branch_state(run, branch);
        if (note_tokens(run, branch, t, note))
            return true;
        if (t->due && run_settled(run, branch)) { /* it may have been let go on since */
            if (!note_text(cs, own, run, branch, t, note))
                note_branch(run, branch, t, note);
            return true;
        }
        pop(run, state);
    }
    return false;
}

void custom_noted(struct customs *cs, uint32_t program, struct run *run,
                  const struct program_note *note, uint32_t count)
{
    struct state *state = run_state(run);
    struct custom *own = &cs->all[program];
    if (note->branch == RUN_NONE) {
        state->told = true;
        return;
    }
    struct told *t = run_branch_state(run, note->branch);
    if (note->kind == PROGRAM_NOTE_TOKENS) {
        t->tokens += count;
    } else if (note->kind == PROGRAM_NOTE_TEXT) {
        t->text_bytes += count;
        memmove(own->text, own->text + count, own->held - count);
        own->held -= count;
    } else {
        t->due = false;
        ASSERT(state->first == note->branch);
        pop(run, state);
    }
}

void custom_begin(struct customs *cs, uint32_t program)
{
    cs->all[program].streamed = RUN_NONE;
    cs->all[program].given_bytes = 0;
}

int customs_new(uint32_t programs_max, const struct codec *codec, struct customs **ret_customs)
{
    struct customs *cs = calloc(1, sizeof *cs);
    if (!cs)
        return -ENOMEM;
    cs->codec = codec;
    cs->all = calloc(programs_max, sizeof *cs->all);
    int r = cs->all ? 0 : -ENOMEM;
    if (r == 0)
        r = codec_scratch_new(codec, DYNASOR_GIVEN_BYTES_MAX, &cs->scratch);
    if (r < 0) {
        customs_free(cs);
        return r;
    }
    *ret_customs = cs;
    return 0;
}

void customs_free(struct customs *cs)
{
    if (!cs)
        return;
    if (cs->scratch)
        codec_scratch_free(cs->scratch);
    free(cs->all);
    free(cs);
}
