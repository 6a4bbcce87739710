#include "client/parts.h"

#include <string.h>
#include <unistd.h>

bool channel_room(struct dynasor_client *c, struct channel *ch, uint64_t records)
{
    if (ring_tx_room(&ch->tx) >= records)
        return true;
    if (!ring_tx_credit(&ch->tx, &ch->d2c_lane->consumed)) {
        struct wire_fault fault = {.field = DYNASOR_FIELD_CONSUMED_POSITION,
                                   .lo = ch->tx.limit - ch->tx.mask - 1,
                                   .hi = ch->tx.pos,
                                   .got = shm_load_u64(&ch->d2c_lane->consumed)};
        (void)session_fail(c, ch->mapping, &fault); /* the next call says so */
        return false;
    }
    return ring_tx_room(&ch->tx) >= records;
}

void channel_push(struct channel *ch, const union wire_record *record)
{
    ring_tx_push(&ch->tx, record->word);
}

void channel_ring(struct channel *ch)
{
    bell_fence();
    if (bell_wanted(&ch->d2c_lane->need, &ch->answered_ticket)) {
        const uint64_t one = 1;
        /* A counter that is full wakes the daemon as well. */
        ssize_t written = write(ch->mapping->doorbell_fd, &one, sizeof one);
        (void)written;
    }
}

void channel_control(struct channel *ch, enum wire_op op, const struct program *p)
{
    union wire_record record = {.word = {0}};
    record.cancel.op = (uint8_t)op; /* cancel and release have one layout */
    record.cancel.index = p->submit.submit.index;
    record.cancel.program_id = p->submit.submit.program_id;
    channel_push(ch, &record);
}

int channel_begin(struct dynasor_lane *lane)
{
    struct dynasor_client *c = lane->client;
    struct channel *ch = lane->channel;
    if (shm_load_u64(c->pulse) == 0) /* before any lock: its holder may not exist here */
        return reason_say(lane->reason, DYNASOR_E_CLOSED, NULL);
    if (ch->guarded)
        pthread_mutex_lock(&ch->mutex);
    if (channel_steady(c, ch))
        return 0;
    uint64_t deadline = wait_now_ns() + AWAY_BRIEF_NS;
    int rc = ch->guarded ? guarded_resume(lane, deadline)
                         : resume_channel(c, ch, lane->reason, deadline);
    if (rc == 0 && ch->unsent_count)
        rc = reason_say(lane->reason, DYNASOR_E_RESTARTING,
                        "programs from before the restart are still being submitted: take events");
    if (rc && ch->guarded)
        pthread_mutex_unlock(&ch->mutex);
    return rc;
}

void channel_end(struct dynasor_lane *lane)
{
    if (lane->channel->guarded)
        pthread_mutex_unlock(&lane->channel->mutex);
}

#define INVALID(field, lo, hi, got)                                                                \
    reason_field(reason, DYNASOR_FIELD_##field, (const uint64_t[3]){lo, hi, got})

static int unsupported(struct reason *reason, enum dynasor_field field, const uint64_t lo_hi_got[3])
{
    (void)reason_field(reason, field, lo_hi_got); /* the status is ours */
    reason->fault.status = DYNASOR_E_UNSUPPORTED;
    return -DYNASOR_E_UNSUPPORTED;
}

static int check_prompt(const struct mapping *m, const struct dynasor_program_options *o,
                        struct reason *reason)
{
    if (!o->prompt_text == !o->prompt_tokens)
        return reason_say(reason, DYNASOR_E_INVALID,
                          "prompt_text, prompt_tokens: exactly one of them must be given");
    if (o->prompt_text && o->prompt_tokens_count != 0)
        return reason_named(reason, "prompt_tokens_count with prompt_text",
                            (const uint64_t[3]){0, 0, o->prompt_tokens_count});
    if (o->prompt_tokens && o->prompt_bytes != 0)
        return reason_named(reason, "prompt_bytes with prompt_tokens",
                            (const uint64_t[3]){0, 0, o->prompt_bytes});
    uint64_t head = payload_head_bytes(o); /* at most a few KiB; the arena may be 4 KiB */
    uint64_t room = head < m->geometry.c2d_arena_bytes ? m->geometry.c2d_arena_bytes - head : 0;
    uint64_t max = m->prompt_bytes_max < room ? m->prompt_bytes_max : room;
    if (o->prompt_text && (o->prompt_bytes < 1 || o->prompt_bytes > max))
        return INVALID(PROMPT_BYTES, 1, max, o->prompt_bytes);
    uint64_t tokens_max = max / sizeof(uint32_t);
    if (o->prompt_tokens && (o->prompt_tokens_count < 1 || o->prompt_tokens_count > tokens_max))
        return reason_named(reason, "prompt_tokens_count",
                            (const uint64_t[3]){1, tokens_max, o->prompt_tokens_count});
    return 0;
}

/* Options of the first version end before sampling; what a caller's lack is zero, and what a newer
 * caller's have beyond ours must be. */
#define OPTIONS_BYTES_MIN offsetof(struct dynasor_program_options, sampling)

static int take_options(const struct dynasor_program_options *from, struct reason *reason,
                        struct dynasor_program_options *ret)
{
    const uint32_t size = from->size;
    if (size < OPTIONS_BYTES_MIN || size > 4096)
        return INVALID(OPTIONS_SIZE, OPTIONS_BYTES_MIN, 4096, size);
    for (size_t at = sizeof *ret; at < size; at++)
        if (((const char *)from)[at] != 0)
            return INVALID(OPTIONS_SIZE, OPTIONS_BYTES_MIN, sizeof *ret, size);
    memset(ret, 0, sizeof *ret);
    memcpy(ret, from, size < sizeof *ret ? size : sizeof *ret);
    return 0;
}

static int check_options(const struct mapping *m, const struct dynasor_program_options *o,
                         struct reason *reason)
{
    if (o->algorithm >= DYNASOR_ALGORITHM_COUNT)
        return unsupported(reason, DYNASOR_FIELD_ALGORITHM,
                           (const uint64_t[3]){0, DYNASOR_ALGORITHM_COUNT - 1, o->algorithm});
    if (o->streams & ~(uint32_t)DYNASOR_STREAM_ALL)
        return INVALID(STREAMS, 1, DYNASOR_STREAM_ALL, o->streams);
    if ((o->streams & DYNASOR_STREAM_TEXT) && !(m->features & WIRE_FEATURE_TEXT))
        return unsupported(reason, DYNASOR_FIELD_STREAMS,
                           (const uint64_t[3]){1, DYNASOR_STREAM_TOKENS, o->streams});
    if (o->max_tokens < 1 || o->max_tokens > m->max_tokens_max)
        return INVALID(MAX_TOKENS, 1, m->max_tokens_max, o->max_tokens);
    if (o->chat > 1 || (o->chat && !o->prompt_text))
        return reason_named(reason, o->chat > 1 ? "chat" : "chat without prompt_text",
                            (const uint64_t[3]){0, o->chat > 1, o->chat});
    int rc = payload_check(o, reason);
    return rc ? rc : check_prompt(m, o, reason);
}

static uint8_t streams_of(const struct dynasor_program_options *o)
{
    if (o->streams)
        return (uint8_t)o->streams;
    return o->algorithm == DYNASOR_ALGORITHM_SINGLE ? DYNASOR_STREAM_TOKENS
                                                    : DYNASOR_STREAM_TOKENS | DYNASOR_STREAM_RESULT;
}

/* Fills an entry that was taken from the table; false: the arena is full. */
static bool program_fill(struct dynasor_lane *lane, struct program *p, uint32_t index,
                         const struct dynasor_program_options *o)
{
    struct channel *ch = lane->channel;
    const void *prompt = o->prompt_text ? (const void *)o->prompt_text : o->prompt_tokens;
    p->prompt_bytes =
        (uint32_t)(o->prompt_text ? o->prompt_bytes : o->prompt_tokens_count * sizeof(uint32_t));
    p->tokens_count = 0;
    p->text_bytes = 0;
    p->payload_offset = ARENA_FULL;
    p->submit.submit =
        (struct wire_submit){.op = WIRE_OP_SUBMIT,
                             .flags = o->prompt_tokens ? WIRE_SUBMIT_PROMPT_TOKENS : 0,
                             .algorithm = (uint8_t)o->algorithm,
                             .streams = streams_of(o),
                             .index = index,
                             .program_id = ++p->serial * DYNASOR_PROGRAMS_MAX + index,
                             .seed = o->seed,
                             .max_tokens = o->max_tokens,
                             .bytes = p->prompt_bytes};
    if (p->prompt_bytes <= WIRE_INLINE_BYTES && !payload_needed(o))
        memcpy(p->submit.submit.u.prompt, prompt, p->prompt_bytes);
    else if (!payload_put(ch->mapping, p, o, prompt))
        return false;
    p->handle = lane;
    p->user_data = o->user_data;
    p->submitted_ns = wait_now_ns();
    p->epoch = ch->epoch;
    p->phase = PHASE_SENT;
    p->state = DYNASOR_STATE_QUEUED;
    p->refused = false;
    p->cancelled = false;
    p->told = false;
    p->ready = false;
    p->branches_count = 0;
    shm_store_u64(&p->program_id, p->submit.submit.program_id);
    shm_store_u64(&p->tag, table_tag(ch, lane));
    return true;
}

/* Something is full: see whether that is because of something that happened, or can be helped. */
static void help_full(struct dynasor_lane *lane)
{
    struct dynasor_client *c = lane->client;
    struct channel *shared = &c->channels[c->channels_count - 1];
    next_look(c, lane->channel);
    if (lane->channel == shared) {
        guarded_help(c, shared);
    } else {
        channel_sweep(c, lane->channel);
        if (pthread_mutex_trylock(&shared->mutex) == 0) { /* otherwise somebody is at it */
            guarded_help(c, shared);
            pthread_mutex_unlock(&shared->mutex);
        }
    }
    table_reap(c);
}

static int full(struct dynasor_lane *lane, const char *what)
{
    return reason_say(lane->reason, DYNASOR_E_AGAIN, what);
}

static int submit(struct dynasor_lane *lane, const struct dynasor_program_options *options,
                  uint64_t *ret_program)
{
    struct dynasor_client *c = lane->client;
    struct channel *ch = lane->channel;
    struct dynasor_program_options taken;
    const struct dynasor_program_options *o = &taken;
    int rc = take_options(options, lane->reason, &taken);
    if (!rc)
        rc = check_options(ch->mapping, o, lane->reason);
    if (rc)
        return rc;
    if (!channel_room(c, ch, 1)) {
        next_look(c, ch);
        return full(lane, "the submission ring is full: try again");
    }
    uint32_t index = table_take(c, ch);
    if (index == PROGRAM_NONE) {
        help_full(lane);
        if (channel_steady(c, ch))
            index = table_take(c, ch);
    }
    if (index == PROGRAM_NONE)
        return full(lane, "the program table is full: release ended programs");
    struct program *p = &c->programs[index];
    if (!program_fill(lane, p, index, o)) {
        table_undo(c, p);
        help_full(lane); /* for the next try */
        return full(lane, "the arena is full: take events of programs in flight");
    }
    channel_push(ch, &p->submit);
    channel_ring(ch);
    *ret_program = p->submit.submit.program_id;
    return 0;
}

int dynasor_submit(struct dynasor_lane *lane, const struct dynasor_program_options *options,
                   uint64_t *ret_program)
{
    if (!lane)
        return -DYNASOR_E_INVALID;
    if (!options || !ret_program)
        return reason_say(lane->reason, DYNASOR_E_INVALID, "options, ret_program: NULL");
    int rc = channel_begin(lane);
    if (rc)
        return rc;
    rc = submit(lane, options, ret_program);
    channel_end(lane);
    return rc;
}

static int say_unknown(struct dynasor_lane *lane)
{
    return reason_say(lane->reason, DYNASOR_E_NOTFOUND,
                      "program: not one of this lane, or already released");
}

int dynasor_cancel(struct dynasor_lane *lane, uint64_t program)
{
    if (!lane)
        return -DYNASOR_E_INVALID;
    int rc = channel_begin(lane);
    if (rc)
        return rc;
    struct channel *ch = lane->channel;
    struct program *p = table_find(lane->client, table_tag(ch, lane), program);
    if (!p) {
        rc = say_unknown(lane);
    } else if (p->phase == PHASE_SENT && !p->cancelled) {
        if (channel_room(lane->client, ch, 1)) {
            p->cancelled = true;
            channel_control(ch, WIRE_OP_CANCEL, p);
            channel_ring(ch);
        } else {
            next_look(lane->client, ch);
            rc = full(lane, "the submission ring is full: try again");
        }
    }
    channel_end(lane);
    return rc;
}

static int release(struct dynasor_lane *lane, uint64_t program)
{
    struct dynasor_client *c = lane->client;
    struct channel *ch = lane->channel;
    struct program *p = table_find(c, table_tag(ch, lane), program);
    if (!p)
        return say_unknown(lane);
    if (p->phase != PHASE_ENDED)
        return reason_say(lane->reason, DYNASOR_E_INVALID,
                          "program: has not ended; take its END event first");
    if (p->refused || p->epoch != ch->epoch) { /* the daemon does not know it */
        table_give(c, ch, p, false);
        return 0;
    }
    if (!channel_room(c, ch, 1)) {
        next_look(c, ch);
        return full(lane, "the submission ring is full: try again");
    }
    channel_control(ch, WIRE_OP_RELEASE, p);
    table_give(c, ch, p, true);
    channel_ring(ch);
    return 0;
}

int dynasor_release(struct dynasor_lane *lane, uint64_t program)
{
    if (!lane)
        return -DYNASOR_E_INVALID;
    int rc = channel_begin(lane);
    if (rc)
        return rc;
    rc = release(lane, program);
    channel_end(lane);
    return rc;
}

int dynasor_program_state(struct dynasor_lane *lane, uint64_t program)
{
    if (!lane)
        return -DYNASOR_E_INVALID;
    struct dynasor_client *c = lane->client;
    struct channel *ch = lane->channel;
    if (shm_load_u64(c->pulse) == 0)
        return reason_say(lane->reason, DYNASOR_E_CLOSED, NULL);
    if (ch->guarded)
        pthread_mutex_lock(&ch->mutex);
    struct program *p = table_find(c, table_tag(ch, lane), program);
    int state = p ? (int)p->state : say_unknown(lane);
    if (p && p->phase == PHASE_SENT) {
        const struct mapping *m = ch->mapping;
        const struct region_program *entry =
            region_program(m->d2c, &m->geometry, p->submit.submit.index);
        /* ORDER(program_state) observe: the rest of the entry is as complete as the state says. */
        uint32_t seen = shm_load_acquire_u32(&entry->state);
        if (shm_load_u64(&entry->program_id) == program && seen < DYNASOR_STATE_COUNT &&
            seen != DYNASOR_STATE_FREE)
            state = (int)seen;
    }
    channel_end(lane);
    return state;
}
