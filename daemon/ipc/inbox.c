/* daemon/ipc/inbox.c — submissions: copy, check, charge, hand to the programs.
 *
 * A record is copied out of the ring once (ring_rx_take) and a payload once (one pread); everything
 * after that looks at the copies. The order of the stores to D2C is what lets a restarted daemon go
 * on exactly (docs/ABI.md): entry, its state with release, then the lane's consumed position. */
#include <string.h>
#include <unistd.h>

#include "daemon/base/assert.h"
#include "daemon/ipc/state.h"

struct intake { /* a submission on its way in */
    const struct wire_submit *submit;
    uint64_t submit_pos;
    uint32_t lane_index;
    uint32_t prompt_bytes;
    uint64_t prompt_off;
    const uint8_t *prompt;
    const uint8_t *payload; /* NULL: there is none */
    struct wire_spec spec;
    struct wire_parts parts;
    struct program_setting settings[DYNASOR_PARAMETERS_MAX];
    struct answer_rule answer;
    bool restarted;
};

static void limits_of(const struct ipc *ipc, const struct peer *p, struct wire_limits *limits)
{
    *limits = (struct wire_limits){
        .arena_bytes = p->geometry.c2d_arena_bytes,
        .prompt_bytes_max = ipc->config.prompt_bytes,
        .max_tokens_max = ipc->config.max_tokens,
        .programs_count = p->geometry.programs_count,
        .vocabulary_count = ipc->config.vocabulary_count,
        .streams = DYNASOR_STREAM_TOKENS | DYNASOR_STREAM_RESULT |
                   ((p->features & WIRE_FEATURE_TEXT) ? (uint32_t)DYNASOR_STREAM_TEXT : 0),
    };
}

static enum wire_verdict quota_fault(struct wire_fault *fault, enum dynasor_field field,
                                     uint64_t max, uint64_t got)
{
    *fault = (struct wire_fault){
        .status = DYNASOR_E_QUOTA, .field = (uint16_t)field, .lo = 0, .hi = max, .got = got};
    return WIRE_REFUSE;
}

/* Charges the uid and finds room for the prompt; all or nothing. */
static enum wire_verdict charge(struct ipc *ipc, struct peer *p, struct intake *in,
                                struct wire_fault *fault)
{
    if (!quota_charge(ipc->quota, p->user, QUOTA_PROGRAMS, 1))
        return quota_fault(fault, DYNASOR_FIELD_PROGRAMS_OF_UID,
                           quota_max(ipc->quota, QUOTA_PROGRAMS),
                           quota_used(p->user, QUOTA_PROGRAMS) + 1);
    uint32_t bytes = in->submit->bytes;
    in->prompt_off = ARENA_FULL;
    if (quota_charge(ipc->quota, p->user, QUOTA_QUEUED_BYTES, bytes)) {
        if (!(in->submit->flags & WIRE_SUBMIT_PAYLOAD))
            return WIRE_OK;
        in->prompt_off = arena_take(ipc->prompt_pool, bytes);
        if (in->prompt_off != ARENA_FULL)
            return WIRE_OK;
        quota_give(ipc->quota, p->user, QUOTA_QUEUED_BYTES, bytes);
        (void)quota_fault(fault, DYNASOR_FIELD_PROMPTS_TOTAL_BYTES, ipc->config.prompt_pool_bytes,
                          arena_taken_bytes(ipc->prompt_pool) + bytes);
        fault->status = DYNASOR_E_LIMIT;
    } else {
        (void)quota_fault(fault, DYNASOR_FIELD_QUEUED_BYTES_OF_UID,
                          quota_max(ipc->quota, QUOTA_QUEUED_BYTES),
                          quota_used(p->user, QUOTA_QUEUED_BYTES) + bytes);
    }
    quota_give(ipc->quota, p->user, QUOTA_PROGRAMS, 1);
    return WIRE_REFUSE;
}

static void uncharge(struct ipc *ipc, struct peer *p, const struct intake *in)
{
    if (in->prompt_off != ARENA_FULL)
        arena_give(ipc->prompt_pool, in->prompt_off);
    quota_give(ipc->quota, p->user, QUOTA_QUEUED_BYTES, in->submit->bytes);
    quota_give(ipc->quota, p->user, QUOTA_PROGRAMS, 1);
}

/* The prompt into private memory: inline it is there already, a payload is read with one pread,
 * which cannot fault and charges us no page of the client's. */
static enum wire_verdict fetch(struct ipc *ipc, struct peer *p, struct intake *in,
                               const struct wire_limits *limits, struct wire_fault *fault)
{
    const struct wire_submit *submit = in->submit;
    if (!(submit->flags & WIRE_SUBMIT_PAYLOAD)) {
        in->prompt = submit->u.prompt;
        in->prompt_bytes = submit->bytes;
        return wire_check_prompt(submit, in->prompt, in->prompt_bytes, limits, fault);
    }
    uint8_t *payload = ipc->prompts + in->prompt_off;
    ssize_t n = pread(p->c2d_fd, payload, submit->bytes,
                      (off_t)(p->geometry.c2d_arena_off + submit->u.payload.offset));
    counter_add(ipc->counters, COUNTER_payload_reads, 1);
    quota_bytes_take(p->user, submit->bytes); /* what was read, not what a record claims */
    if (n !=
        (ssize_t)submit->bytes) { /* the range was checked, the file is sealed: out of memory */
        *fault = (struct wire_fault){.status = DYNASOR_E_SYSTEM,
                                     .field = DYNASOR_FIELD_PAYLOAD_OFFSET,
                                     .hi = limits->arena_bytes,
                                     .got = submit->u.payload.offset};
        return WIRE_REFUSE;
    }
    enum wire_verdict verdict =
        wire_check_payload(submit, payload, limits, &in->spec, &in->parts, fault);
    if (verdict != WIRE_OK)
        return verdict;
    in->payload = payload;
    in->prompt = payload + in->parts.prompt_off;
    in->prompt_bytes = submit->bytes - in->parts.prompt_off;
    return wire_check_prompt(submit, in->prompt, in->prompt_bytes, limits, fault);
}

/* What the spec says of sampling, as the program knows it. Without: the library's defaults. */
static struct program_sampling sampling_of(const struct intake *in)
{
    const struct wire_spec *w = &in->spec;
    if (!(w->flags & WIRE_SPEC_SAMPLING))
        return (struct program_sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1};
    return (struct program_sampling){
        .temperature = w->temperature,
        .top_p = w->top_p,
        .min_p = w->min_p,
        .top_k = w->top_k,
        .repetition_penalty = w->repetition_penalty,
        .presence_penalty = w->presence_penalty,
        .frequency_penalty = w->frequency_penalty,
        .ignore_eos = w->flags & WIRE_SPEC_IGNORE_EOS,
        .stop_include = w->flags & WIRE_SPEC_STOP_INCLUDE,
        .biases_count = w->biases_count,
        .stop_tokens_count = w->stop_tokens_count,
        .stops_bytes = w->stops_bytes,
        .biases = in->payload + in->parts.biases_off,
        .stop_tokens = in->payload + in->parts.stop_tokens_off,
        .stops = in->payload + in->parts.stops_off,
    };
}

static void answer_of(const struct intake *in, struct answer_rule *ret_rule)
{
    static const enum answer_kind kinds[DYNASOR_ANSWER_COUNT] = {
        [DYNASOR_ANSWER_MATH] = ANSWER_MATH,     [DYNASOR_ANSWER_BOXED] = ANSWER_BOXED,
        [DYNASOR_ANSWER_CHOICE] = ANSWER_CHOICE, [DYNASOR_ANSWER_NUMBER] = ANSWER_NUMBER,
        [DYNASOR_ANSWER_CODE] = ANSWER_CODE,     [DYNASOR_ANSWER_PREFIX] = ANSWER_PREFIX,
        [DYNASOR_ANSWER_TEXT] = ANSWER_TEXT,
    };
    const struct wire_spec *w = &in->spec;
    *ret_rule = (struct answer_rule){.kind = kinds[w->answer],
                                     .choice_last = (char)w->choice_last,
                                     .prefix_bytes = w->answer_prefix_bytes};
    if (w->answer_prefix_bytes > 0)
        memcpy(ret_rule->prefix, in->payload + in->parts.texts_off, w->answer_prefix_bytes);
}

/* Settings and texts point into the intake: the programs copy them. */
static struct program_spec spec_of(const struct peer *p, struct intake *in)
{
    const struct wire_submit *submit = in->submit;
    struct program_spec spec = {
        .seed = submit->seed,
        .algorithm = submit->algorithm,
        .streams = submit->streams,
        .max_tokens = submit->max_tokens,
        .client = (uint64_t)p->generation << 32 | p->slot,
        .tenant = p->uid,
        .prompt = in->prompt,
        .prompt_bytes = in->prompt_bytes,
        .prompt_is_tokens = submit->flags & WIRE_SUBMIT_PROMPT_TOKENS,
        .chat = in->spec.flags & WIRE_SPEC_CHAT,
        .restarted = in->restarted,
        .sampling = sampling_of(in),
        .resume_tokens = in->spec.resume_tokens,
        .resume_text_bytes = in->spec.resume_text_bytes,
    };
    if (!in->payload)
        return spec;
    for (uint32_t i = 0; i < in->spec.settings_count; i++) {
        struct wire_setting setting;
        memcpy(&setting, in->payload + in->parts.settings_off + i * sizeof setting, sizeof setting);
        in->settings[i] =
            (struct program_setting){.parameter = setting.parameter, .value = setting.value};
    }
    spec.settings = in->settings;
    spec.settings_count = in->spec.settings_count;
    if (in->spec.answer != DYNASOR_ANSWER_DEFAULT) {
        answer_of(in, &in->answer);
        spec.answer = &in->answer;
    }
    const char *texts = (const char *)in->payload + in->parts.texts_off;
    spec.step_end = texts + in->spec.answer_prefix_bytes;
    spec.step_end_bytes = in->spec.step_end_bytes;
    spec.profile = spec.step_end + spec.step_end_bytes;
    spec.profile_bytes = in->spec.profile_bytes;
    return spec;
}

static enum wire_verdict start(struct ipc *ipc, struct peer *p, struct intake *in,
                               struct wire_fault *fault)
{
    const struct wire_submit *submit = in->submit;
    struct program_spec spec = spec_of(p, in);
    struct program_refusal no = program_check(ipc->programs, &spec);
    if (no.status != DYNASOR_OK) {
        *fault = (struct wire_fault){.status = (uint16_t)no.status,
                                     .field = (uint16_t)no.field,
                                     .lo = no.least,
                                     .hi = no.max,
                                     .got = no.got};
        return WIRE_REFUSE;
    }
    uint32_t handle = program_submit(ipc->programs, &spec);
    if (handle == PROGRAM_NONE) {
        *fault = (struct wire_fault){.status = DYNASOR_E_LIMIT,
                                     .field = DYNASOR_FIELD_PROGRAMS,
                                     .hi = ipc->config.programs_max,
                                     .got = (uint64_t)ipc->config.programs_max + 1};
        return WIRE_REFUSE;
    }
    ipc->jobs[handle] = (struct job){.program_id = submit->program_id,
                                     .submit_pos = in->submit_pos,
                                     .prompt_off = in->prompt_off,
                                     .prompt_bytes = submit->bytes,
                                     .slot = p->slot,
                                     .index = submit->index,
                                     .lane = (uint8_t)in->lane_index,
                                     .blocked_next = PROGRAM_NONE};
    *ipc_handle(ipc, p, submit->index) = HANDLE_FIRST + handle;
    p->lanes[in->lane_index].open_count++;
    row_add(&ipc->rows[p->slot].programs_active, 1);
    row_add(&ipc->rows[p->slot].queued_bytes, submit->bytes);
    return WIRE_OK;
}

#ifdef DYN_MUTANT_DOUBLE_FETCH
/* The bug that this file is built to avoid, for tests/ipc/test_mutant.c: what was checked is read
 * again from where the client can change it. */
static void mutant_fetch_again(struct peer *p, struct intake *in)
{
    static union wire_record again;
    const struct lane *l = &p->lanes[in->lane_index];
    const struct ring_slot *slot = &l->rx.slots[in->submit_pos & l->rx.mask];
    for (int i = 0; i < RING_WORDS; i++)
        again.word[i] = shm_load_u64(&slot->word[i]);
    in->submit = &again.submit;
}
#endif

static enum wire_verdict intake_run(struct ipc *ipc, struct peer *p, struct intake *in,
                                    struct wire_fault *fault)
{
    struct wire_limits limits;
    limits_of(ipc, p, &limits);
    enum wire_verdict verdict =
        wire_check_record((const union wire_record *)in->submit, &limits, fault);
    if (verdict != WIRE_OK)
        return verdict;
#ifdef DYN_MUTANT_DOUBLE_FETCH
    mutant_fetch_again(p, in);
#endif
    if (*ipc_handle(ipc, p, in->submit->index) != HANDLE_FREE) {
        *fault = (struct wire_fault){.status = DYNASOR_E_PROTOCOL,
                                     .field = DYNASOR_FIELD_RECORD_INDEX,
                                     .hi = p->geometry.programs_count - 1,
                                     .got = in->submit->index};
        return WIRE_VIOLATION;
    }
    verdict = charge(ipc, p, in, fault);
    if (verdict != WIRE_OK)
        return verdict;
    verdict = fetch(ipc, p, in, &limits, fault);
    if (verdict == WIRE_OK)
        verdict = start(ipc, p, in, fault);
    if (verdict != WIRE_OK)
        uncharge(ipc, p, in);
    return verdict;
}

static void entry_write(struct peer *p, const struct intake *in)
{
    struct region_program *entry = region_program(p->d2c, &p->geometry, in->submit->index);
    entry->program_id = in->submit->program_id;
    entry->submit_pos = in->submit_pos;
    entry->status = 0;
    entry->lane = in->lane_index;
    entry->restarts_count = 0;
    entry->tokens_count = 0;
    entry->tokens_sent_count = in->spec.resume_tokens;
    entry->text_sent_bytes = in->spec.resume_text_bytes;
    entry->end_sent = 0;
    memcpy(entry->submit_word, in->submit, sizeof entry->submit_word);
    /* ORDER(program_state) publish: the entry is complete; the program is accepted. */
    shm_store_release_u32(&entry->state, DYNASOR_STATE_QUEUED);
}

/* False: the peer is gone. */
static bool take_submit(struct ipc *ipc, struct peer *p, uint32_t lane_index,
                        const union wire_record *record, uint64_t pos)
{
    struct intake in = {.submit = &record->submit, .submit_pos = pos, .lane_index = lane_index};
    struct wire_fault fault;
    switch (intake_run(ipc, p, &in, &fault)) {
    case WIRE_OK:
        entry_write(p, &in);
        counter_add(ipc->counters, COUNTER_programs_accepted, 1);
        row_add(&ipc->rows[p->slot].programs_accepted, 1);
        return true;
    case WIRE_REFUSE:
        counter_add(ipc->counters, COUNTER_programs_refused, 1);
        outbox_refuse(ipc, p, lane_index, &record->submit, pos, &fault);
        return true;
    default:
        peer_violation(ipc, p, &fault);
        return false;
    }
}

uint32_t inbox_named_handle(struct ipc *ipc, struct peer *p, const struct wire_cancel *record)
{
    uint32_t handle = *ipc_handle(ipc, p, record->index);
    if (handle == HANDLE_FREE)
        return HANDLE_FREE;
    const struct region_program *entry = region_program(p->d2c, &p->geometry, record->index);
    return entry->program_id == record->program_id ? handle : HANDLE_FREE;
}

static bool take_other(struct ipc *ipc, struct peer *p, uint32_t lane_index,
                       const union wire_record *record)
{
    struct wire_limits limits;
    struct wire_fault fault;
    limits_of(ipc, p, &limits);
    if (record->op == WIRE_OP_COMMAND)
        return command_take(ipc, p, lane_index, &limits, record);
    if (wire_check_record(record, &limits, &fault) != WIRE_OK) {
        peer_violation(ipc, p, &fault);
        return false;
    }
    uint32_t handle = inbox_named_handle(ipc, p, &record->cancel);
    if (handle == HANDLE_FREE)
        return true;
    if (record->op == WIRE_OP_CANCEL && handle != HANDLE_ENDED)
        outbox_cancel(ipc, p, handle - HANDLE_FIRST);
    if (record->op == WIRE_OP_RELEASE && handle == HANDLE_ENDED) {
        struct region_program *entry = region_program(p->d2c, &p->geometry, record->release.index);
        *ipc_handle(ipc, p, record->release.index) = HANDLE_FREE;
        shm_store_release_u32(&entry->state, DYNASOR_STATE_FREE);
    }
    return true;
}

/* SUBMIT and COMMAND need a slot for their answer, and a payload time of this thread that its uid may have. */
static bool may_take(struct ipc *ipc, struct peer *p, struct lane *l,
                     const struct wire_submit *submit)
{
    if (submit->op != WIRE_OP_SUBMIT && submit->op != WIRE_OP_COMMAND)
        return true;
    l->stalled = !lane_credit(ipc, p, l, 1);
    if (l->stalled || p->state != PEER_ATTACHED)
        return false;
    if (submit->op != WIRE_OP_SUBMIT || !(submit->flags & WIRE_SUBMIT_PAYLOAD))
        return true;
    l->throttled_until_ns = quota_bytes_due_ns(p->user, ipc->now_ns);
    return l->throttled_until_ns == 0;
}

uint32_t inbox_drain(struct ipc *ipc, struct peer *p, uint32_t lane_index)
{
    struct lane *l = &p->lanes[lane_index];
    uint32_t taken = 0;
    while (taken < PEER_RECORDS_MAX) {
        enum ring_peek peek = ring_rx_peek(&l->rx);
        if (peek == RING_EMPTY) {
            l->stalled = false; /* what waited for room was taken back */
            l->throttled_until_ns = 0;
            break;
        }
        if (peek == RING_BAD) {
            struct wire_fault fault = {.status = DYNASOR_E_PROTOCOL,
                                       .field = DYNASOR_FIELD_RECORD_SEQUENCE,
                                       .lo = l->rx.pos + 1,
                                       .hi = l->rx.pos + 1};
            peer_violation(ipc, p, &fault);
            return taken + 1;
        }
        union wire_record record;
        uint64_t pos = l->rx.pos;
        ring_rx_take(&l->rx, record.word);
        if (!may_take(ipc, p, l, &record.submit)) {
            l->rx.pos = pos; /* it stays; what is read of it later is a fetch of its own */
            break;
        }
        taken++;
        bool alive = true;
        if (record.op != WIRE_OP_SUBMIT)
            alive = take_other(ipc, p, lane_index, &record);
        else
            alive = take_submit(ipc, p, lane_index, &record, pos);
        if (!alive)
            return taken;
        ring_rx_publish(&l->rx, &l->d2c->consumed);
    }
    if (taken) {
        l->active_ns = ipc->now_ns;
        counter_add(ipc->counters, COUNTER_records_taken, taken);
    }
    return taken;
}

uint16_t inbox_rerun(struct ipc *ipc, struct peer *p, uint32_t index)
{
    struct region_program *entry = region_program(p->d2c, &p->geometry, index);
    union wire_record record;
    memcpy(record.word, entry->submit_word, sizeof record.word);
    struct intake in = {.submit = &record.submit,
                        .submit_pos = entry->submit_pos,
                        .lane_index = entry->lane,
                        .restarted = entry->state == DYNASOR_STATE_RUNNING};
    if (record.op != WIRE_OP_SUBMIT || record.submit.index != index ||
        entry->lane >= p->geometry.lanes_count)
        return DYNASOR_E_INVALID;
    struct wire_limits limits;
    struct wire_fault fault;
    limits_of(ipc, p, &limits);
    if (wire_check_record(&record, &limits, &fault) != WIRE_OK ||
        charge(ipc, p, &in, &fault) != WIRE_OK)
        return fault.status;
    enum wire_verdict verdict = fetch(ipc, p, &in, &limits, &fault);
    /* What was sent is not sent again: the entry knows better than the spec. */
    in.spec.resume_tokens = entry->tokens_sent_count;
    in.spec.resume_text_bytes = entry->text_sent_bytes;
    if (verdict == WIRE_OK)
        verdict = start(ipc, p, &in, &fault);
    if (verdict == WIRE_OK)
        return 0;
    uncharge(ipc, p, &in);
    return fault.status;
}
