/* daemon/ipc/command.c — commands to CUSTOM programs: checked on the copy, then said to the program; and what
 * such a program tells, as events. */
#include <string.h>

#include "daemon/ipc/state.h"

_Static_assert(DYNASOR_ROOT == RUN_NONE, "one number for no branch");
_Static_assert(WIRE_EVENT_BRANCH_TOKENS_MAX == PROGRAM_NOTE_TOKENS_MAX &&
                   WIRE_EVENT_TEXT_BYTES_MAX == PROGRAM_NOTE_BYTES,
               "a note is an event");

static struct program_command command_of(const struct wire_command *w)
{
    struct program_command c = {.command = w->command, .branch = w->branch};
    switch (w->command) {
    case DYNASOR_COMMAND_GIVE:
        c.text = w->u.text;
        c.text_bytes = w->bytes;
        break;
    case DYNASOR_COMMAND_FORK:
    case DYNASOR_COMMAND_PROBE:
        c.parent = w->u.begin.parent;
        c.parent_tokens = w->u.begin.parent_tokens;
        c.tokens_max = w->u.begin.tokens_max;
        c.streams = w->u.begin.streams;
        c.stops_at_step = w->flags & WIRE_COMMAND_STOPS_AT_STEP;
        c.wants_score = w->flags & WIRE_COMMAND_WANTS_SCORE;
        c.samples = w->flags & WIRE_COMMAND_SAMPLING;
        c.temperature = w->u.begin.temperature;
        c.top_p = w->u.begin.top_p;
        c.min_p = w->u.begin.min_p;
        c.top_k = w->u.begin.top_k;
        break;
    case DYNASOR_COMMAND_EXTEND:
        c.tokens_max = w->u.extend.tokens_max;
        break;
    case DYNASOR_COMMAND_REPORT:
        c.signal = w->u.report.signal;
        c.knob = w->u.report.knob;
        c.value = w->u.report.value;
        break;
    case DYNASOR_COMMAND_FINISH:
        c.verdict = w->u.finish.verdict;
        c.answer = w->u.finish.answer;
        break;
    default: /* SCORE and KILL name a branch, nothing else */
        break;
    }
    return c;
}

bool command_take(struct ipc *ipc, struct peer *p, uint32_t lane_index,
                  const struct wire_limits *limits, const union wire_record *record)
{
    const struct wire_command *w = &record->command;
    struct wire_fault fault = {0};
    enum wire_verdict verdict = wire_check_record(record, limits, &fault);
    uint32_t handle = HANDLE_FREE;
    if (verdict != WIRE_VIOLATION) /* index and id lie where CANCEL has them */
        handle = inbox_named_handle(ipc, p, &record->cancel);
    bool ours = handle >= HANDLE_FIRST;
    if (ours && ipc->jobs[handle - HANDLE_FIRST].lane != lane_index) {
        fault = (struct wire_fault){.status = DYNASOR_E_PROTOCOL,
                                    .field = DYNASOR_FIELD_RECORD_INDEX,
                                    .hi = limits->programs_count - 1,
                                    .got = w->index};
        verdict = WIRE_VIOLATION;
    }
    if (verdict == WIRE_VIOLATION) {
        peer_violation(ipc, p, &fault);
        return false;
    }
    if (!ours)
        return true;
    if (verdict == WIRE_OK) {
        struct program_command command = command_of(w);
        struct program_refusal no = program_command(ipc->programs, handle - HANDLE_FIRST, &command);
        fault = (struct wire_fault){.status = (uint16_t)no.status,
                                    .field = (uint16_t)no.field,
                                    .lo = no.least,
                                    .hi = no.max,
                                    .got = no.got};
    }
    if (fault.status != DYNASOR_OK)
        outbox_refuse_command(ipc, p, lane_index, w, &fault);
    return true;
}

void command_note(const struct program_note *note, uint32_t index, union wire_event *ret_event,
                  uint32_t *ret_count)
{
    *ret_count = note->count;
    *ret_event = (union wire_event){.word = {0}};
    if (note->kind == PROGRAM_NOTE_TOKENS) {
        struct wire_event_branch_tokens *to = &ret_event->branch_tokens;
        *to = (struct wire_event_branch_tokens){.kind = WIRE_EVENT_BRANCH_TOKENS,
                                                .count = (uint8_t)note->count,
                                                .index = index,
                                                .branch = note->branch,
                                                .position = note->position};
        memcpy(to->token, note->tokens, note->count * sizeof to->token[0]);
    } else if (note->kind == PROGRAM_NOTE_TEXT) {
        struct wire_event_branch_text *to = &ret_event->branch_text;
        *ret_count = wire_utf8_whole(note->text, note->count);
        if (*ret_count == 0) /* no UTF-8 at all: what the model's tokens say */
            *ret_count = note->count;
        *to = (struct wire_event_branch_text){.kind = WIRE_EVENT_BRANCH_TEXT,
                                              .count = (uint8_t)*ret_count,
                                              .index = index,
                                              .branch = note->branch,
                                              .position_bytes = note->position};
        memcpy(to->text, note->text, *ret_count);
    } else {
        const struct dynasor_branch *b = &note->state;
        ret_event->branch = (struct wire_event_branch){.kind = WIRE_EVENT_BRANCH,
                                                       .state = (uint8_t)b->state,
                                                       .scored = b->scored != 0,
                                                       .index = index,
                                                       .branch = note->branch,
                                                       .tokens_count = b->tokens_count,
                                                       .path_tokens = b->path_tokens,
                                                       .text_bytes = b->text_bytes,
                                                       .score = b->score,
                                                       .log_probability = b->log_probability,
                                                       .entropy = b->entropy};
    }
}
