#include "client/parts.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *const status_names[DYNASOR_STATUS_COUNT] = {
    [DYNASOR_OK] = "OK",
    [DYNASOR_E_INVALID] = "INVALID",
    [DYNASOR_E_TIMEOUT] = "TIMEOUT",
    [DYNASOR_E_AGAIN] = "AGAIN",
    [DYNASOR_E_RESTARTING] = "RESTARTING",
    [DYNASOR_E_LIMIT] = "LIMIT",
    [DYNASOR_E_QUOTA] = "QUOTA",
    [DYNASOR_E_VERSION] = "VERSION",
    [DYNASOR_E_UNTRUSTED] = "UNTRUSTED",
    [DYNASOR_E_PROTOCOL] = "PROTOCOL",
    [DYNASOR_E_SYSTEM] = "SYSTEM",
    [DYNASOR_E_NOTFOUND] = "NOTFOUND",
    [DYNASOR_E_CLOSED] = "CLOSED",
    [DYNASOR_E_UNSUPPORTED] = "UNSUPPORTED",
    [DYNASOR_E_NOMEM] = "NOMEM",
    [DYNASOR_E_CANCELLED] = "CANCELLED",
    [DYNASOR_E_SLOW_CONSUMER] = "SLOW_CONSUMER",
    [DYNASOR_E_POISON] = "POISON",
    [DYNASOR_E_SHUTDOWN] = "SHUTDOWN",
    [DYNASOR_E_NUMERIC] = "NUMERIC",
    [DYNASOR_E_RESTARTED] = "RESTARTED",
};

/* What a status says where no field is named. */
static const char *const status_sentences[DYNASOR_STATUS_COUNT] = {
    [DYNASOR_OK] = "no failure",
    [DYNASOR_E_INVALID] = "an argument is out of range",
    [DYNASOR_E_TIMEOUT] = "nothing happened within the timeout",
    [DYNASOR_E_AGAIN] = "full: take events, release, try again",
    [DYNASOR_E_RESTARTING] = "the daemon is away: call again",
    [DYNASOR_E_LIMIT] = "the daemon is at its limit",
    [DYNASOR_E_QUOTA] = "the quota of this uid is used up",
    [DYNASOR_E_VERSION] = "no ABI version in common with the daemon",
    [DYNASOR_E_UNTRUSTED] = "the socket is served by an unexpected uid",
    [DYNASOR_E_PROTOCOL] = "the daemon ended the session: protocol violation",
    [DYNASOR_E_SYSTEM] = "a system call of the daemon failed",
    [DYNASOR_E_NOTFOUND] = "no such program",
    [DYNASOR_E_CLOSED] = "the handle is closed, or was inherited over fork()",
    [DYNASOR_E_UNSUPPORTED] = "this daemon does not offer it",
    [DYNASOR_E_NOMEM] = "out of memory",
    [DYNASOR_E_CANCELLED] = "cancelled by its client",
    [DYNASOR_E_SLOW_CONSUMER] = "its events were not taken in time",
    [DYNASOR_E_POISON] = "it was running in too many crashes of the daemon",
    [DYNASOR_E_SHUTDOWN] = "the daemon is draining and takes no new work",
    [DYNASOR_E_NUMERIC] = "the model gave logits that are no numbers",
    [DYNASOR_E_RESTARTED] = "the daemon that had its branches is gone: submit it again",
};

static const char *const field_names[DYNASOR_FIELD_COUNT] = {
    [DYNASOR_FIELD_NONE] = "none",
    [DYNASOR_FIELD_MAX_TOKENS] = "max_tokens",
    [DYNASOR_FIELD_ALGORITHM] = "algorithm",
    [DYNASOR_FIELD_STREAMS] = "streams",
    [DYNASOR_FIELD_PROMPT_BYTES] = "prompt_bytes",
    [DYNASOR_FIELD_PROMPT_TOKEN] = "prompt_token",
    [DYNASOR_FIELD_RESUME_TOKENS] = "resume_tokens",
    [DYNASOR_FIELD_RESUME_TEXT_BYTES] = "resume_text_bytes",
    [DYNASOR_FIELD_SPEC_SIZE] = "spec_size",
    [DYNASOR_FIELD_LANES] = "lanes_count",
    [DYNASOR_FIELD_ARENA_BYTES] = "arena_bytes",
    [DYNASOR_FIELD_FEATURES] = "features",
    [DYNASOR_FIELD_VERSION] = "version",
    [DYNASOR_FIELD_PROGRAMS_OF_UID] = "programs_of_uid",
    [DYNASOR_FIELD_QUEUED_BYTES_OF_UID] = "queued_bytes_of_uid",
    [DYNASOR_FIELD_CONNECTIONS_OF_UID] = "connections_of_uid",
    [DYNASOR_FIELD_REGION_BYTES_OF_UID] = "region_bytes_of_uid",
    [DYNASOR_FIELD_CLIENTS] = "clients",
    [DYNASOR_FIELD_RECORD_OP] = "record_op",
    [DYNASOR_FIELD_RECORD_INDEX] = "record_index",
    [DYNASOR_FIELD_RECORD_RESERVED] = "record_reserved",
    [DYNASOR_FIELD_RECORD_SEQUENCE] = "record_sequence",
    [DYNASOR_FIELD_PAYLOAD_OFFSET] = "payload_offset",
    [DYNASOR_FIELD_CONSUMED_POSITION] = "consumed_position",
    [DYNASOR_FIELD_PROGRAM_ID] = "program_id",
    [DYNASOR_FIELD_HELLO] = "hello",
    [DYNASOR_FIELD_OPTIONS_SIZE] = "options_size",
    [DYNASOR_FIELD_PROMPTS_TOTAL_BYTES] = "prompts_total_bytes",
    [DYNASOR_FIELD_PROGRAMS] = "programs",
    [DYNASOR_FIELD_PROMPT_TEXT] = "prompt_text",
    [DYNASOR_FIELD_DOORBELL] = "doorbell",
    [DYNASOR_FIELD_TEMPERATURE] = "temperature (thousandths)",
    [DYNASOR_FIELD_TOP_P] = "top_p (thousandths)",
    [DYNASOR_FIELD_MIN_P] = "min_p (thousandths)",
    [DYNASOR_FIELD_TOP_K] = "top_k",
    [DYNASOR_FIELD_REPETITION_PENALTY] = "repetition_penalty (thousandths)",
    [DYNASOR_FIELD_PRESENCE_PENALTY] = "magnitude of presence_penalty (thousandths)",
    [DYNASOR_FIELD_FREQUENCY_PENALTY] = "magnitude of frequency_penalty (thousandths)",
    [DYNASOR_FIELD_BIASES] = "biases_count",
    [DYNASOR_FIELD_BIAS] = "magnitude of a bias (thousandths)",
    [DYNASOR_FIELD_BIAS_TOKEN] = "token of a bias",
    [DYNASOR_FIELD_STOPS] = "stops_count",
    [DYNASOR_FIELD_STOP_BYTES] = "bytes of a stop string",
    [DYNASOR_FIELD_STOP_TOKENS] = "stop_tokens_count",
    [DYNASOR_FIELD_STOP_TOKEN] = "stop_token",
    [DYNASOR_FIELD_SPEC_FLAGS] = "spec_flags",
    [DYNASOR_FIELD_CONTEXT_TOKENS] = "tokens of prompt and max_tokens together",
    [DYNASOR_FIELD_CHAT] = "chat",
    [DYNASOR_FIELD_PARAMETER] = "parameter",
    [DYNASOR_FIELD_BRANCHES] = "branches",
    [DYNASOR_FIELD_PARAMETERS] = "settings_count",
    [DYNASOR_FIELD_PROFILE] = "profile",
    [DYNASOR_FIELD_ANSWER] = "answer",
    [DYNASOR_FIELD_CHOICE_LAST] = "choice_last",
    [DYNASOR_FIELD_ANSWER_PREFIX_BYTES] = "bytes of answer_prefix",
    [DYNASOR_FIELD_STEP_END_BYTES] = "bytes of step_end",
    [DYNASOR_FIELD_COMMAND] = "command",
    [DYNASOR_FIELD_BRANCH] = "branch",
    [DYNASOR_FIELD_BRANCH_STATE] = "state of the branch",
    [DYNASOR_FIELD_BRANCH_TOKENS] = "tokens of the branch",
    [DYNASOR_FIELD_GIVEN_BYTES] = "bytes that a probe is given",
    [DYNASOR_FIELD_SIGNAL] = "signal",
    [DYNASOR_FIELD_SIGNAL_VALUE] = "value of the signal (thousandths)",
    [DYNASOR_FIELD_VERDICT] = "verdict",
    [DYNASOR_FIELD_CAP] = "cap",
    [DYNASOR_FIELD_WIDTH] = "width",
    [DYNASOR_FIELD_DEPTH] = "depth",
    [DYNASOR_FIELD_STEP_TOKENS] = "step_tokens",
    [DYNASOR_FIELD_SPREAD] = "spread (thousandths)",
    [DYNASOR_FIELD_WEIGHT] = "weight",
    [DYNASOR_FIELD_VOTE] = "vote",
    [DYNASOR_FIELD_EXPLORATION] = "exploration (thousandths)",
    [DYNASOR_FIELD_EXPLORATION_BASE] = "exploration_base (thousandths)",
    [DYNASOR_FIELD_EXPANSION] = "expansion",
    [DYNASOR_FIELD_SUBTREES] = "subtrees",
    [DYNASOR_FIELD_PROBE_TOKENS] = "probe_tokens",
    [DYNASOR_FIELD_PROBE_TEMPERATURE] = "probe_temperature (thousandths)",
    [DYNASOR_FIELD_PROBE_TOP_P] = "probe_top_p (thousandths)",
    [DYNASOR_FIELD_HESITATION] = "hesitation",
    [DYNASOR_FIELD_LIKENESS] = "likeness (thousandths)",
    [DYNASOR_FIELD_LIKENESS_BY] = "likeness_by",
    [DYNASOR_FIELD_GUIDED] = "guided",
    [DYNASOR_FIELD_SCORES] = "scores",
    [DYNASOR_FIELD_BATCH] = "batch",
    [DYNASOR_FIELD_BATCH_PROGRAMS] = "batch_programs",
    [DYNASOR_FIELD_BATCH_PLACE] = "batch_place",
    [DYNASOR_FIELD_BATCH_TOKENS] = "batch_tokens",
    [DYNASOR_FIELD_BATCH_CAP] = "batch_cap",
    [DYNASOR_FIELD_BATCH_STEP] = "batch_step",
    [DYNASOR_FIELD_PRIOR] = "prior",
};

static const char *entry(const char *const *table, int count, int number)
{
    /* INT_MIN has no positive counterpart; as itself it is out of range anyway. */
    int i = number < 0 && number >= -count ? -number : number;
    return i >= 0 && i < count && table[i] ? table[i] : "unknown";
}

const char *dynasor_status_name(int status)
{
    return entry(status_names, DYNASOR_STATUS_COUNT, status);
}

const char *dynasor_field_name(int field)
{
    return entry(field_names, DYNASOR_FIELD_COUNT, field);
}

int reason_fault(struct reason *reason, const struct wire_fault *fault)
{
    reason->kind = REASON_FIELD;
    reason->fault = *fault;
    reason->subject = dynasor_field_name(fault->field);
    return -(int)fault->status;
}

int reason_field(struct reason *reason, enum dynasor_field field, const uint64_t lo_hi_got[3])
{
    struct wire_fault fault = {.status = DYNASOR_E_INVALID,
                               .field = (uint16_t)field,
                               .lo = lo_hi_got[0],
                               .hi = lo_hi_got[1],
                               .got = lo_hi_got[2]};
    return reason_fault(reason, &fault);
}

int reason_named(struct reason *reason, const char *name, const uint64_t lo_hi_got[3])
{
    (void)reason_field(reason, DYNASOR_FIELD_NONE, lo_hi_got); /* the status is ours */
    reason->fault.field = DYNASOR_FIELD_COUNT;
    reason->subject = name;
    return -DYNASOR_E_INVALID;
}

int reason_call(struct reason *reason, const char *call, int error_number)
{
    reason->kind = REASON_CALL;
    reason->subject = call;
    reason->error_number = error_number;
    return error_number == ENOMEM ? -DYNASOR_E_NOMEM : -DYNASOR_E_SYSTEM;
}

int reason_say(struct reason *reason, enum dynasor_status status, const char *sentence)
{
    reason->kind = REASON_SENTENCE;
    reason->subject = sentence ? sentence : status_sentences[status];
    return -(int)status;
}

static void text_fault(struct reason *r)
{
    const struct wire_fault *f = &r->fault;
    const char *sentence = entry(status_sentences, DYNASOR_STATUS_COUNT, f->status);
    size_t size = sizeof r->text;
    if (f->field == DYNASOR_FIELD_NONE) {
        (void)snprintf(r->text, size, "%s", sentence); /* cut: still readable */
        return;
    }
    if (f->field == DYNASOR_FIELD_PROMPT_TEXT) { /* what was got is a piece of the prompt */
        (void)snprintf(r->text, size, "prompt_text: not valid UTF-8"); /* fits */
        return;
    }
    if (f->field == DYNASOR_FIELD_PROFILE && f->hi == 0) {
        (void)snprintf(r->text, size,
                       "profile: none of that name for this algorithm; accepted are those of "
                       "`dynasorctl profile list`"); /* fits */
        return;
    }
    int used = snprintf(r->text, size, "%s %" PRIu64 ": accepted %" PRIu64 " to %" PRIu64,
                        r->subject, f->got, f->lo, f->hi);
    const char *more = f->field == DYNASOR_FIELD_ARENA_BYTES ? ", power of two" : "";
    if (used < 0 || (size_t)used >= size)
        return;
    size -= (size_t)used;
    if (f->status == DYNASOR_E_INVALID)
        (void)snprintf(r->text + used, size, "%s", more); /* cut: still readable */
    else
        (void)snprintf(r->text + used, size, "%s (%s)", more, sentence); /* likewise */
}

const char *reason_text(struct reason *r)
{
    switch (r->kind) {
    case REASON_FIELD:
        text_fault(r);
        return r->text;
    case REASON_CALL: {
        const char *what = strerrordesc_np(r->error_number);
        (void)snprintf(r->text, sizeof r->text, "%s: %s", r->subject,
                       what ? what : "unknown error"); /* cut: still readable */
        return r->text;
    }
    case REASON_SENTENCE:
        return r->subject;
    case REASON_NONE:
        break;
    }
    return status_sentences[DYNASOR_OK];
}

const char *dynasor_error(const struct dynasor_lane *lane)
{
    return lane ? reason_text(lane->reason) : "the lane is NULL";
}
