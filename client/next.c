#include "client/parts.h"

#include <string.h>

#define LOOK_TURNS 1024u /* calls that found nothing between two looks at the socket */

static int broken(struct dynasor_client *c, struct channel *ch, enum dynasor_field field,
                  const uint64_t lo_hi_got[3])
{
    struct wire_fault fault = {
        .field = (uint16_t)field, .lo = lo_hi_got[0], .hi = lo_hi_got[1], .got = lo_hi_got[2]};
    return session_fail(c, ch->mapping, &fault);
}

#define BROKEN(field, lo, hi, got)                                                                 \
    broken(c, ch, DYNASOR_FIELD_##field, (const uint64_t[3]){lo, hi, got})

const struct ring_slot *next_slot(const struct channel *ch)
{
    return &ch->rx.slots[(ch->rx.pos - 1) & ch->rx.mask];
}

void next_credit(struct channel *ch)
{
    uint64_t before = ch->published;
    if (ch->rx.pos - before <= ch->rx.mask / 4)
        return;
    ring_rx_publish(&ch->rx, &ch->c2d_lane->consumed);
    ch->published = ch->rx.pos;
    /* A daemon that has no credit may sleep until there is some. It keeps a slot for the end of each
     * program, so that can be only when half the ring was full. */
    uint64_t half = before + ch->rx.mask / 2;
    bell_fence();
    if (shm_load_u64(&ch->rx.slots[half & ch->rx.mask].seq) > half)
        channel_ring(ch);
}

void next_credit_all(struct channel *ch)
{
    if (ch->published == ch->rx.pos)
        return;
    ring_rx_publish(&ch->rx, &ch->c2d_lane->consumed);
    ch->published = ch->rx.pos;
    channel_ring(ch); /* fences; a daemon that waits for credit is told before we sleep */
}

/* What a part of a stream repeats of what was received before; all of it when nobody listens. */
static int stream_skip(struct dynasor_client *c, struct channel *ch, const struct program *p,
                       const uint64_t received_position[2], uint32_t *ret_skip)
{
    uint64_t received = received_position[0];
    uint64_t position = received_position[1];
    *ret_skip = UINT32_MAX;
    if (!p->handle)
        return 0;
    if (position > received)
        return BROKEN(RECORD_SEQUENCE, received, received, position);
    if (received - position < UINT32_MAX)
        *ret_skip = (uint32_t)(received - position);
    return 0;
}

static int take_tokens(struct dynasor_client *c, struct channel *ch, struct program *p,
                       struct dynasor_event *event)
{
    const struct ring_slot *slot = ring_rx_slot(&ch->rx);
    union wire_event head;
    head.word[0] = shm_load_u64(&slot->word[0]);
    head.word[1] = shm_load_u64(&slot->word[1]);
    uint32_t count = head.tokens.count;
    uint32_t skip = 0;
    if (count < 1 || count > WIRE_EVENT_TOKENS_MAX)
        return BROKEN(RECORD_RESERVED, 1, WIRE_EVENT_TOKENS_MAX, count);
    int rc =
        stream_skip(c, ch, p, (const uint64_t[2]){p->tokens_count, head.tokens.position}, &skip);
    if (rc)
        return rc;
    ch->rx.pos++;
    if (skip >= count)
        return NEXT_EMPTY;
    const char *at = (const char *)slot + offsetof(struct wire_event_tokens, token);
    *event = (struct dynasor_event){.kind = DYNASOR_EVENT_TOKENS,
                                    .count = count - skip,
                                    .program = p->submit.submit.program_id,
                                    .user_data = p->user_data,
                                    .position = p->tokens_count,
                                    .tokens = (const uint32_t *)(const void *)at + skip,
                                    .submitted_ns = p->submitted_ns};
    p->tokens_count += count - skip;
    return 0;
}

static int take_text(struct dynasor_client *c, struct channel *ch, struct program *p,
                     struct dynasor_event *event)
{
    const struct ring_slot *slot = ring_rx_slot(&ch->rx);
    union wire_event head;
    head.word[0] = shm_load_u64(&slot->word[0]);
    head.word[1] = shm_load_u64(&slot->word[1]);
    uint32_t count = head.text.count;
    uint32_t skip = 0;
    if (count < 1 || count > WIRE_EVENT_TEXT_BYTES_MAX)
        return BROKEN(RECORD_RESERVED, 1, WIRE_EVENT_TEXT_BYTES_MAX, count);
    int rc =
        stream_skip(c, ch, p, (const uint64_t[2]){p->text_bytes, head.text.position_bytes}, &skip);
    if (rc)
        return rc;
    ch->rx.pos++;
    if (skip >= count)
        return NEXT_EMPTY;
    const char *at = (const char *)slot + offsetof(struct wire_event_text, text);
    *event = (struct dynasor_event){.kind = DYNASOR_EVENT_TEXT,
                                    .count = count - skip,
                                    .program = p->submit.submit.program_id,
                                    .user_data = p->user_data,
                                    .position = p->text_bytes,
                                    .text = at + skip,
                                    .submitted_ns = p->submitted_ns};
    p->text_bytes += count - skip;
    return 0;
}

/* The end of a program whose handle was closed: nobody else will release it. */
static void orphan_ended(struct dynasor_client *c, struct channel *ch, struct program *p)
{
    if (p->refused) {
        table_give(c, ch, p, false);
    } else if (channel_room(c, ch, 1)) {
        channel_control(ch, WIRE_OP_RELEASE, p);
        table_give(c, ch, p, true);
    } else {
        p->phase = PHASE_ENDED; /* channel_sweep() tries again */
        return;
    }
    ch->orphans_count--;
}

/* Numbers and texts as they are; only what the caller would trip over is checked. */
static int take_result(struct dynasor_client *c, struct channel *ch, struct program *p,
                       struct dynasor_event *event)
{
    const struct mapping *m = ch->mapping;
    uint32_t index = (uint32_t)(p - c->programs);
    struct dynasor_result *r = &c->results[index];
    memcpy(r, region_result(m->d2c, &m->geometry, index), sizeof *r);
    if (r->program != p->submit.submit.program_id)
        return BROKEN(PROGRAM_ID, p->submit.submit.program_id, p->submit.submit.program_id,
                      r->program);
    if (r->answer_bytes > DYNASOR_ANSWER_BYTES_MAX)
        return BROKEN(RECORD_RESERVED, 0, DYNASOR_ANSWER_BYTES_MAX, r->answer_bytes);
    r->profile[DYNASOR_PROFILE_BYTES_MAX] = r->answer[r->answer_bytes] = '\0';
    p->told = true;
    *event = (struct dynasor_event){.kind = DYNASOR_EVENT_RESULT,
                                    .program = r->program,
                                    .user_data = p->user_data,
                                    .position = p->tokens_count,
                                    .result = r,
                                    .submitted_ns = p->submitted_ns};
    return 0;
}

static int take_end(struct dynasor_client *c, struct channel *ch, struct program *p,
                    struct dynasor_event *event)
{
    struct ring_rx at = ch->rx;
    ring_rx_take(&at, ch->ended.word);
    /* One slot is two events: it is taken with the second. */
    if ((ch->ended.end.flags & WIRE_END_RESULT) && p->handle && !p->told)
        return take_result(c, ch, p, event);
    ch->rx = at;
    const struct wire_event_end *end = &ch->ended.end;
    if (end->program_id != p->submit.submit.program_id)
        return BROKEN(PROGRAM_ID, p->submit.submit.program_id, p->submit.submit.program_id,
                      end->program_id);
    if (end->state < DYNASOR_STATE_DONE || end->state > DYNASOR_STATE_FAILED)
        return BROKEN(RECORD_RESERVED, DYNASOR_STATE_DONE, DYNASOR_STATE_FAILED, end->state);
    payload_drop(ch->mapping, p);
    p->refused = end->kind == WIRE_EVENT_REFUSED;
    p->state = end->state;
    p->phase = PHASE_ENDING;
    if (!p->handle) {
        orphan_ended(c, ch, p);
        return NEXT_EMPTY;
    }
    *event = (struct dynasor_event){.kind = DYNASOR_EVENT_END,
                                    .program = end->program_id,
                                    .user_data = p->user_data,
                                    .position = p->tokens_count,
                                    .state = end->state,
                                    .status = end->status,
                                    .tokens_count = end->tokens_count,
                                    .submitted_ns = p->submitted_ns};
    return 0;
}

static int take_custom(struct dynasor_client *c, struct channel *ch, struct program *p,
                       struct dynasor_event *event)
{
    int rc = custom_take(ch, p, event);
    if (rc == NEXT_BROKEN)
        return BROKEN(RECORD_RESERVED, 0, 0, ring_rx_slot(&ch->rx)->word[0]);
    ch->rx.pos++;
    return p->handle ? rc : NEXT_EMPTY;
}

int next_take(struct dynasor_client *c, struct channel *ch, struct dynasor_event *event,
              struct program **ret_program)
{
    for (;;) {
        enum ring_peek peek = ring_rx_peek(&ch->rx);
        if (peek == RING_EMPTY)
            return NEXT_EMPTY;
        const struct ring_slot *slot = ring_rx_slot(&ch->rx);
        if (peek == RING_BAD)
            return BROKEN(RECORD_SEQUENCE, ch->rx.pos, ch->rx.pos + 1, shm_load_u64(&slot->seq));
        union wire_event head;
        head.word[0] = shm_load_u64(&slot->word[0]);
        uint32_t index = head.tokens.index; /* at one place in all kinds */
        struct program *p = &c->programs[index % DYNASOR_PROGRAMS_MAX];
        if (index >= DYNASOR_PROGRAMS_MAX || !table_mine(p, ch) || p->phase != PHASE_SENT)
            return BROKEN(RECORD_INDEX, 0, DYNASOR_PROGRAMS_MAX - 1, index);
        *ret_program = p;
        int rc;
        if (head.kind == WIRE_EVENT_TOKENS)
            rc = take_tokens(c, ch, p, event);
        else if (head.kind == WIRE_EVENT_TEXT)
            rc = take_text(c, ch, p, event);
        else if (head.kind == WIRE_EVENT_END || head.kind == WIRE_EVENT_REFUSED)
            rc = take_end(c, ch, p, event);
        else if (custom_event(head.kind))
            rc = take_custom(c, ch, p, event);
        else
            rc = BROKEN(RECORD_OP, WIRE_EVENT_TOKENS, WIRE_EVENT_KINDS - 1, head.kind);
        if (rc != NEXT_EMPTY)
            return rc;
    }
}

void next_ended(struct reason *reason, struct program *p, const struct wire_event_end *end)
{
    p->phase = PHASE_ENDED;
    if (end->status == DYNASOR_OK)
        return;
    struct wire_fault fault = {
        .status = end->status, .field = end->field, .lo = end->lo, .hi = end->hi, .got = end->got};
    (void)reason_fault(reason, &fault); /* for dynasor_error() */
}

void next_refused(struct reason *reason, const struct wire_event_command *refused)
{
    struct wire_fault fault = {.status = refused->status,
                               .field = refused->field,
                               .lo = refused->lo,
                               .hi = refused->hi,
                               .got = refused->got};
    (void)reason_fault(reason, &fault);
}

void next_look(struct dynasor_client *c, struct channel *ch)
{
    if (++ch->empty_turns % LOOK_TURNS == 0)
        session_listen(c, ch->mapping, false);
}

static int next_own(struct dynasor_lane *lane, struct dynasor_event *event)
{
    struct program *p;
    int rc = next_take(lane->client, lane->channel, event, &p);
    if (rc == 0 && event->kind == DYNASOR_EVENT_END)
        next_ended(lane->reason, p, &lane->channel->ended.end);
    if (rc == 0 && event->kind == DYNASOR_EVENT_REFUSED)
        next_refused(lane->reason, &lane->channel->ended.command);
    return rc;
}

static int next_wait(struct dynasor_lane *lane, struct dynasor_event *event, uint64_t timeout_ns)
{
    struct dynasor_client *c = lane->client;
    struct channel *ch = lane->channel;
    uint64_t deadline = timeout_ns == 0 ? 0 : wait_deadline_ns(timeout_ns);
    ch->belt_ns = BELT_MIN_NS;
    for (;;) {
        if (ch->unsent_count || channel_troubled(c, ch)) {
            uint64_t away = timeout_ns == 0 ? 0 : wait_away_ns();
            int rc = resume_channel(c, ch, lane->reason, away < deadline ? away : deadline);
            if (rc)
                return rc;
        }
        int rc = next_own(lane, event);
        if (rc == -DYNASOR_E_PROTOCOL)
            continue; /* the pulse has changed: the next turn says why, or binds anew */
        if (rc != NEXT_EMPTY)
            return rc;
        if (timeout_ns == 0) {
            next_look(c, ch);
            return reason_say(lane->reason, DYNASOR_E_TIMEOUT, NULL);
        }
        if (!wait_once(c, ch, deadline, ch->unsent_count != 0))
            continue;
        session_listen(c, ch->mapping, false);
        if (wait_now_ns() >= deadline && ring_rx_peek(&ch->rx) == RING_EMPTY)
            return reason_say(lane->reason, DYNASOR_E_TIMEOUT, NULL);
    }
}

int dynasor_next(struct dynasor_lane *lane, struct dynasor_event *event, uint64_t timeout_ns)
{
    if (!lane)
        return -DYNASOR_E_INVALID;
    if (!event)
        return reason_say(lane->reason, DYNASOR_E_INVALID, "event: NULL");
    struct dynasor_client *c = lane->client;
    struct channel *ch = lane->channel;
    uint64_t pulse = shm_load_u64(c->pulse);
    if (pulse == 0)
        return reason_say(lane->reason, DYNASOR_E_CLOSED, NULL);
    if (ch->guarded)
        return guarded_next(lane, event, timeout_ns);
    if (ch->held) { /* what the caller was last given lies in it; this call takes it back */
        session_unref(c, ch->held);
        ch->held = NULL;
    }
    if (pulse != ch->epoch || ch->unsent_count)
        return next_wait(lane, event, timeout_ns);
    if (ch->armed) {
        ch->armed = false;
        wait_disarm(ch);
        session_listen(c, ch->mapping, true);
    }
    next_credit(ch);
    int rc = next_own(lane, event);
    return rc == 0 ? 0 : next_wait(lane, event, timeout_ns);
}
