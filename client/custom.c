/* Commands to CUSTOM programs, and the events of their branches. */
#include "client/parts.h"
#include "dynasor/custom.h"

#include <string.h>

bool custom_event(uint32_t kind)
{
    return kind >= WIRE_EVENT_BRANCH_TOKENS && kind < WIRE_EVENT_KINDS;
}

/* ---- events ---------------------------------------------------------------------------------- */

static int take_stream(struct channel *ch, const union wire_event *e, struct dynasor_event *event)
{
    const char *slot = (const char *)ring_rx_slot(&ch->rx);
    bool tokens = e->kind == WIRE_EVENT_BRANCH_TOKENS;
    uint32_t max = tokens ? WIRE_EVENT_BRANCH_TOKENS_MAX : WIRE_EVENT_TEXT_BYTES_MAX;
    event->count = e->branch_tokens.count; /* both have count, branch and position at one place */
    event->position = e->branch_tokens.position;
    ch->branch.number = e->branch_tokens.branch;
    ch->branch.state = DYNASOR_BRANCH_RUNNING;
    if (event->count < 1 || event->count > max)
        return NEXT_BROKEN;
    event->kind = tokens ? DYNASOR_EVENT_TOKENS : DYNASOR_EVENT_TEXT;
    if (tokens)
        event->tokens =
            (const uint32_t *)(const void *)(slot +
                                             offsetof(struct wire_event_branch_tokens, token));
    else
        event->text = slot + offsetof(struct wire_event_branch_text, text);
    return 0;
}

static int take_branch(struct channel *ch, struct program *p, const struct wire_event_branch *e,
                       struct dynasor_event *event)
{
    if (e->state < DYNASOR_BRANCH_RUNNING || e->state >= DYNASOR_BRANCH_STATES_COUNT)
        return NEXT_BROKEN;
    ch->branch = (struct dynasor_branch){.number = e->branch,
                                         .state = e->state,
                                         .tokens_count = e->tokens_count,
                                         .path_tokens = e->path_tokens,
                                         .text_bytes = e->text_bytes,
                                         .scored = e->scored,
                                         .score = e->score,
                                         .log_probability = e->log_probability,
                                         .entropy = e->entropy};
    event->kind = e->branch == DYNASOR_ROOT ? DYNASOR_EVENT_READY : DYNASOR_EVENT_BRANCH;
    event->state = e->state;
    p->ready = true;
    return 0;
}

static int take_refused(struct channel *ch, const union wire_event *e, struct dynasor_event *event)
{
    ch->ended = *e;
    ch->branch.number = e->command.branch;
    ch->branch.command = e->command.command;
    ch->branch.field = e->command.field;
    event->kind = DYNASOR_EVENT_REFUSED;
    event->state = e->command.command;
    event->status = e->command.status;
    return 0;
}

int custom_take(struct channel *ch, struct program *p, struct dynasor_event *event)
{
    struct ring_rx look = ch->rx;
    union wire_event e;
    ring_rx_take(&look, e.word);
    if (p->submit.submit.algorithm != DYNASOR_ALGORITHM_CUSTOM)
        return NEXT_BROKEN;
    ch->branch = (struct dynasor_branch){0};
    *event = (struct dynasor_event){.program = p->submit.submit.program_id,
                                    .user_data = p->user_data,
                                    .submitted_ns = p->submitted_ns,
                                    .branch = &ch->branch};
    switch (e.kind) {
    case WIRE_EVENT_BRANCH:
        return take_branch(ch, p, &e.branch, event);
    case WIRE_EVENT_COMMAND_REFUSED:
        return take_refused(ch, &e, event);
    default:
        return take_stream(ch, &e, event);
    }
}

/* ---- commands -------------------------------------------------------------------------------- */

#define NAMED(name, lo, hi, got) reason_named(lane->reason, name, (const uint64_t[3]){lo, hi, got})

/* With the channel: whether so many commands can go to it now. */
static int check_program(struct dynasor_lane *lane, uint64_t program, uint32_t records,
                         struct program **ret)
{
    struct channel *ch = lane->channel;
    struct program *p = table_find(lane->client, table_tag(ch, lane), program);
    if (!p)
        return reason_say(lane->reason, DYNASOR_E_NOTFOUND,
                          "program: not one of this lane, or already released");
    if (p->submit.submit.algorithm != DYNASOR_ALGORITHM_CUSTOM)
        return reason_say(lane->reason, DYNASOR_E_UNSUPPORTED,
                          "program: not one of DYNASOR_ALGORITHM_CUSTOM");
    if (p->phase == PHASE_ENDING || p->phase == PHASE_ENDED)
        return reason_say(lane->reason, DYNASOR_E_CLOSED, "program: has ended");
    if (!p->ready || p->phase != PHASE_SENT)
        return reason_say(lane->reason, DYNASOR_E_AGAIN,
                          "program: wait for its READY event before the first command");
    if (!channel_room(lane->client, ch, records)) {
        next_look(lane->client, ch);
        return reason_say(lane->reason, DYNASOR_E_AGAIN, "the submission ring is full: try again");
    }
    *ret = p;
    return 0;
}

static void push(struct channel *ch, const struct program *p, union wire_record *record)
{
    record->command.op = WIRE_OP_COMMAND;
    record->command.index = p->submit.submit.index;
    record->command.program_id = p->submit.submit.program_id;
    channel_push(ch, record);
}

/* A command that is one record. */
static int send(struct dynasor_lane *lane, uint64_t program, union wire_record *record)
{
    struct program *p;
    int rc = channel_begin(lane);
    if (rc)
        return rc;
    rc = check_program(lane, program, 1, &p);
    if (rc == 0) {
        push(lane->channel, p, record);
        channel_ring(lane->channel);
    }
    channel_end(lane);
    return rc;
}

static int check_sampling(struct dynasor_lane *lane, const struct dynasor_branch_options *o,
                          struct wire_command *w)
{
    struct wire_spec spec = {.spec_bytes = sizeof spec,
                             .flags = WIRE_SPEC_SAMPLING,
                             .temperature = o->temperature,
                             .top_p = o->top_p > 0 || o->top_p < 0 ? o->top_p : 1,
                             .min_p = o->min_p,
                             .repetition_penalty = 1};
    struct wire_fault fault;
    if (wire_check_spec(&spec, &fault) != WIRE_OK)
        return reason_fault(lane->reason, &fault);
    w->flags |= WIRE_COMMAND_SAMPLING;
    w->u.begin.temperature = spec.temperature;
    w->u.begin.top_p = spec.top_p;
    w->u.begin.min_p = spec.min_p;
    w->u.begin.top_k = o->top_k;
    return 0;
}

static int begin_fill(struct dynasor_lane *lane, const struct dynasor_branch_options *o,
                      struct wire_command *w)
{
    const uint32_t streams = DYNASOR_STREAM_TOKENS | DYNASOR_STREAM_TEXT;
    if (o->size != sizeof *o)
        return NAMED("size of the branch's options", sizeof *o, sizeof *o, o->size);
    if (o->streams & ~streams)
        return NAMED("streams of a branch", 0, streams, o->streams);
    if (o->stops_at_step > 1)
        return NAMED("stops_at_step", 0, 1, o->stops_at_step);
    if (o->wants_score > 1)
        return NAMED("wants_score", 0, 1, o->wants_score);
    if (o->sampling > 1)
        return NAMED("sampling", 0, 1, o->sampling);
    w->flags = (uint8_t)((o->stops_at_step ? WIRE_COMMAND_STOPS_AT_STEP : 0) |
                         (o->wants_score ? WIRE_COMMAND_WANTS_SCORE : 0));
    w->u.begin.parent = o->parent;
    w->u.begin.parent_tokens = o->parent_tokens;
    w->u.begin.tokens_max = o->tokens_max;
    w->u.begin.streams = o->streams;
    return o->sampling ? check_sampling(lane, o, w) : 0;
}

/* As so many GIVE commands as it takes. */
static uint32_t give(struct channel *ch, const struct program *p, const char *text, size_t bytes)
{
    uint32_t records = 0;
    for (size_t at = 0; at < bytes; records++) {
        union wire_record r = {.command = {.command = DYNASOR_COMMAND_GIVE}};
        size_t left = bytes - at;
        uint32_t piece = (uint32_t)(left < WIRE_GIVE_BYTES ? left : WIRE_GIVE_BYTES);
        uint32_t whole = wire_utf8_whole((const uint8_t *)text + at, piece);
        r.command.bytes = (uint8_t)whole;
        memcpy(r.command.u.text, text + at, whole);
        if (ch)
            push(ch, p, &r);
        at += whole;
    }
    return records;
}

static int begin(struct dynasor_lane *lane, uint64_t program, union wire_record *record,
                 const char *text, size_t bytes, uint32_t *ret_branch)
{
    struct program *p;
    uint32_t records = give(NULL, NULL, text, bytes) + 1;
    int rc = channel_begin(lane);
    if (rc)
        return rc;
    rc = check_program(lane, program, records, &p);
    if (rc == 0) {
        (void)give(lane->channel, p, text, bytes);
        *ret_branch = record->command.branch = p->branches_count++;
        push(lane->channel, p, record);
        channel_ring(lane->channel);
    }
    channel_end(lane);
    return rc;
}

static int say_null(struct dynasor_lane *lane, const char *what)
{
    return lane ? reason_say(lane->reason, DYNASOR_E_INVALID, what) : -DYNASOR_E_INVALID;
}

int dynasor_fork(struct dynasor_lane *lane, uint64_t program,
                 const struct dynasor_branch_options *options, uint32_t *ret_branch)
{
    union wire_record r = {.command = {.command = DYNASOR_COMMAND_FORK}};
    if (!lane || !options || !ret_branch)
        return say_null(lane, "options, ret_branch: NULL");
    int rc = begin_fill(lane, options, &r.command);
    return rc ? rc : begin(lane, program, &r, NULL, 0, ret_branch);
}

int dynasor_probe(struct dynasor_lane *lane, uint64_t program,
                  const struct dynasor_branch_options *options, const char *text, size_t bytes,
                  uint32_t *ret_branch)
{
    union wire_record r = {.command = {.command = DYNASOR_COMMAND_PROBE}};
    if (!lane || !options || !text || !ret_branch)
        return say_null(lane, "options, text, ret_branch: NULL");
    if (bytes < 1 || bytes > DYNASOR_GIVEN_BYTES_MAX)
        return NAMED("bytes that a probe is given", 1, DYNASOR_GIVEN_BYTES_MAX, bytes);
    if (!wire_utf8_valid((const uint8_t *)text, (uint32_t)bytes))
        return say_null(lane, "text: not valid UTF-8");
    int rc = begin_fill(lane, options, &r.command);
    return rc ? rc : begin(lane, program, &r, text, bytes, ret_branch);
}

int dynasor_extend(struct dynasor_lane *lane, uint64_t program, uint32_t branch,
                   uint32_t tokens_max)
{
    union wire_record r = {.command = {.command = DYNASOR_COMMAND_EXTEND,
                                       .branch = branch,
                                       .u.extend.tokens_max = tokens_max}};
    return lane ? send(lane, program, &r) : -DYNASOR_E_INVALID;
}

int dynasor_score(struct dynasor_lane *lane, uint64_t program, uint32_t branch)
{
    union wire_record r = {.command = {.command = DYNASOR_COMMAND_SCORE, .branch = branch}};
    return lane ? send(lane, program, &r) : -DYNASOR_E_INVALID;
}

int dynasor_kill(struct dynasor_lane *lane, uint64_t program, uint32_t branch)
{
    union wire_record r = {.command = {.command = DYNASOR_COMMAND_KILL, .branch = branch}};
    return lane ? send(lane, program, &r) : -DYNASOR_E_INVALID;
}

int dynasor_report(struct dynasor_lane *lane, uint64_t program, uint32_t signal, float value,
                   uint32_t knob)
{
    union wire_record r = {
        .command = {.command = DYNASOR_COMMAND_REPORT,
                    .u.report = {.signal = signal, .knob = knob, .value = value}}};
    return lane ? send(lane, program, &r) : -DYNASOR_E_INVALID;
}

int dynasor_finish(struct dynasor_lane *lane, uint64_t program, uint32_t verdict, uint32_t branch,
                   uint32_t answer)
{
    union wire_record r = {.command = {.command = DYNASOR_COMMAND_FINISH,
                                       .branch = branch,
                                       .u.finish = {.verdict = verdict, .answer = answer}}};
    return lane ? send(lane, program, &r) : -DYNASOR_E_INVALID;
}
