/* daemon/ipc/outbox.c — events: what programs have to say, into the rings of their lanes.
 *
 * A token event needs a slot beyond those reserved for the END of every accepted program of the
 * lane; without one the program waits in the lane's queue until the client takes events, and pauses
 * when its own buffer is full. Nobody else waits for it.
 *
 * Each publication is three stores, in this order: the slot, the program's entry, the lane's next
 * position. A daemon that died in between left at most one slot that is not accounted for, and the
 * next one redoes the accounting from it (adopt.c). */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/base/assert.h"
#include "daemon/base/scratch.h"
#include "daemon/ipc/state.h"

/* Whether wanted_room slots are free beside the reserved ones. False also when the client's word is
 * impossible; the peer is closed then. */
bool lane_credit(struct ipc *ipc, struct peer *p, struct lane *l, uint32_t wanted_room)
{
    if (ring_tx_room(&l->tx) >= (uint64_t)l->open_count + wanted_room)
        return true;
    uint64_t limit = l->tx.limit;
    if (!ring_tx_credit(&l->tx, &l->c2d->consumed)) {
        struct wire_fault fault = {.status = DYNASOR_E_PROTOCOL,
                                   .field = DYNASOR_FIELD_CONSUMED_POSITION,
                                   .lo = l->tx.pos > l->tx.mask ? l->tx.pos - l->tx.mask - 1 : 0,
                                   .hi = l->tx.pos,
                                   .got = shm_load_u64(&l->c2d->consumed)};
        peer_violation(ipc, p, &fault);
        return false;
    }
    if (l->tx.limit != limit && l->blocked_since_ns)
        l->blocked_since_ns = ipc->now_ns; /* slow, but not standing still */
    return ring_tx_room(&l->tx) >= (uint64_t)l->open_count + wanted_room;
}

static void wake_later(struct ipc *ipc, struct peer *p, uint32_t lane_index)
{
    struct lane *l = &p->lanes[lane_index];
    if (l->published)
        return;
    l->published = true;
    if (ipc->wakes_count == IPC_WAKES_MAX)
        outbox_wake(ipc);
    ipc->wakes[ipc->wakes_count].slot = p->slot;
    ipc->wakes[ipc->wakes_count++].lane = lane_index;
}

static void publish(struct ipc *ipc, struct peer *p, uint32_t lane_index,
                    const union wire_event *event)
{
    struct lane *l = &p->lanes[lane_index];
    ASSERT(ring_tx_room(&l->tx) > 0);
    ring_tx_push(&l->tx, event->word);
    l->active_ns = ipc->now_ns;
    row_add(&ipc->rows[p->slot].events_sent, 1);
    counter_add(ipc->counters, COUNTER_events_sent, 1);
    wake_later(ipc, p, lane_index);
}

static void accounted(struct lane *l)
{
    /* Behind the entry: see the head of this file. */
    shm_store_release_u64(&l->d2c->next, l->tx.pos);
}

void outbox_refuse(struct ipc *ipc, struct peer *p, uint32_t lane_index,
                   const struct wire_submit *submit, uint64_t submit_pos,
                   const struct wire_fault *fault)
{
    union wire_event event = {.end = {.kind = WIRE_EVENT_REFUSED,
                                      .state = DYNASOR_STATE_FAILED,
                                      .status = fault->status,
                                      .index = submit->index,
                                      .program_id = submit->program_id,
                                      .field = fault->field,
                                      .lo = fault->lo,
                                      .hi = fault->hi,
                                      .got = fault->got,
                                      .submit_pos = submit_pos}};
    publish(ipc, p, lane_index, &event);
    accounted(&p->lanes[lane_index]);
}

void outbox_refuse_command(struct ipc *ipc, struct peer *p, uint32_t lane_index,
                           const struct wire_command *command, const struct wire_fault *fault)
{
    union wire_event event = {.command = {.kind = WIRE_EVENT_COMMAND_REFUSED,
                                          .command = command->command,
                                          .status = fault->status,
                                          .index = command->index,
                                          .branch = command->branch,
                                          .field = fault->field,
                                          .lo = fault->lo,
                                          .hi = fault->hi,
                                          .got = fault->got}};
    publish(ipc, p, lane_index, &event);
    accounted(&p->lanes[lane_index]);
}

/* Whether the program asked for its result and it has been written: also by the daemon before. */
static bool has_result(const struct peer *p, uint32_t index, const struct region_program *entry)
{
    union wire_record record;
    memcpy(record.word, entry->submit_word, sizeof record.word);
    return entry->state == DYNASOR_STATE_DONE && (record.submit.streams & DYNASOR_STREAM_RESULT) &&
           region_result(p->d2c, &p->geometry, index)->program == entry->program_id;
}

void outbox_end(struct ipc *ipc, struct peer *p, uint32_t lane_index, uint32_t index)
{
    struct region_program *entry = region_program(p->d2c, &p->geometry, index);
    union wire_event event = {.end = {.kind = WIRE_EVENT_END,
                                      .state = (uint8_t)entry->state,
                                      .status = (uint16_t)entry->status,
                                      .index = index,
                                      .program_id = entry->program_id,
                                      .tokens_count = entry->tokens_count,
                                      .field = (uint16_t)entry->field,
                                      .flags = has_result(p, index, entry) ? WIRE_END_RESULT : 0,
                                      .hi = entry->field_max,
                                      .got = entry->field_got,
                                      .submit_pos = entry->submit_pos}};
    publish(ipc, p, lane_index, &event);
    shm_store_release_u32(&entry->end_sent, 1); /* behind the slot: see the head of this file */
    accounted(&p->lanes[lane_index]);
}

void job_free(struct ipc *ipc, uint32_t handle)
{
    struct job *job = &ipc->jobs[handle];
    struct peer *p = ipc_peer(ipc, job->slot);
    program_free(ipc->programs, handle);
    if (job->prompt_off != ARENA_FULL)
        arena_give(ipc->prompt_pool, job->prompt_off);
    quota_give(ipc->quota, p->user, QUOTA_QUEUED_BYTES, job->prompt_bytes);
    quota_give(ipc->quota, p->user, QUOTA_PROGRAMS, 1);
    row_add(&ipc->rows[p->slot].programs_active, UINT64_MAX); /* - 1 */
    row_add(&ipc->rows[p->slot].queued_bytes, 0 - (uint64_t)job->prompt_bytes);
}

static void entry_settle(struct region_program *entry, const struct program_view *view)
{
    entry->status = view->status;
    entry->tokens_count = view->tokens_count;
    entry->field = view->field;
    entry->field_max = view->max;
    entry->field_got = view->got;
    /* ORDER(program_state) publish: status and tokens_count are those of the end. */
    shm_store_release_u32(&entry->state, view->state);
}

void outbox_cancel(struct ipc *ipc, struct peer *p, uint32_t handle)
{
    const struct program_view *view = program_view(ipc->programs, handle);
    if (view->state >= DYNASOR_STATE_DONE)
        return; /* it ended first */
    program_end(ipc->programs, handle, DYNASOR_STATE_CANCELLED, DYNASOR_E_CANCELLED);
    /* Before the record counts as consumed: a daemon that restarts in between must not run it. */
    entry_settle(region_program(p->d2c, &p->geometry, ipc->jobs[handle].index), view);
}

_Static_assert(DYNASOR_VERDICT_WHOLE == (int)RUN_WHOLE &&
                   DYNASOR_VERDICT_GIVEN_UP == (int)RUN_GIVEN_UP,
               "one order of verdicts");
_Static_assert(DYNASOR_SIGNAL_COUNT == (int)CERTAINDEX_SIGNALS &&
                   DYNASOR_SIGNAL_CONFIDENCE == (int)CERTAINDEX_CONFIDENCE &&
                   DYNASOR_SIGNAL_AGREEMENT == (int)CERTAINDEX_AGREEMENT,
               "one order of signals");
_Static_assert(DYNASOR_ANSWER_BYTES_MAX == ANSWER_BYTES_MAX &&
                   DYNASOR_PROFILE_BYTES_MAX + 1 == PROFILE_NAME_BYTES,
               "one size of texts");

/* Before the entry says DONE: whoever finds it so finds the result as well. */
static __attribute__((noinline)) void result_write(struct ipc *ipc, struct peer *p, uint32_t index,
                                                   uint64_t program_id,
                                                   const struct program_result *from)
{
    struct dynasor_result to = {.program = program_id,
                                .verdict = (uint32_t)from->verdict,
                                .knob = from->knob,
                                .branches_count = from->cost.branches_count,
                                .known = from->seen.known,
                                .decoded_tokens = from->cost.decoded_tokens,
                                .probe_tokens = from->cost.probe_tokens,
                                .reward_tokens = from->cost.reward_tokens,
                                .killed_tokens = from->cost.killed_tokens,
                                .answer_bytes = from->answer_bytes};
    for (uint32_t i = 0; i < DYNASOR_SIGNAL_COUNT; i++)
        to.value[i] = from->seen.known >> i & 1 ? from->seen.value[i] : 0;
    memcpy(to.answer, from->answer, from->answer_bytes);
    if (from->profile != PROFILES_NONE)
        memcpy(to.profile, programs_profiles(ipc->programs)->all[from->profile].name,
               sizeof to.profile);
    memcpy(region_result(p->d2c, &p->geometry, index), &to, sizeof to);
}

static void job_end(struct ipc *ipc, struct peer *p, uint32_t handle,
                    const struct program_view *view)
{
    struct job *job = &ipc->jobs[handle];
    struct region_program *entry = region_program(p->d2c, &p->geometry, job->index);
    enum counters_index counter = view->state == DYNASOR_STATE_DONE ? COUNTER_programs_done
                                  : view->state == DYNASOR_STATE_CANCELLED
                                      ? COUNTER_programs_cancelled
                                      : COUNTER_programs_failed;
    counter_add(ipc->counters, counter, 1);
    if (view->state == DYNASOR_STATE_DONE && (view->streams & DYNASOR_STREAM_RESULT))
        result_write(ipc, p, job->index, job->program_id, &view->result);
    entry_settle(entry, view);
    uint32_t lane_index = job->lane;
    uint32_t index = job->index;
    p->lanes[lane_index].open_count--;
    *ipc_handle(ipc, p, index) = HANDLE_ENDED;
    job_free(ipc, handle);
    outbox_end(ipc, p, lane_index, index);
}

static uint32_t tokens_fill(const struct program_view *view, uint32_t index,
                            struct wire_event_tokens *event)
{
    uint32_t left = view->tokens_count - view->tokens_taken;
    uint32_t count = left < WIRE_EVENT_TOKENS_MAX ? left : WIRE_EVENT_TOKENS_MAX;
    *event = (struct wire_event_tokens){.kind = WIRE_EVENT_TOKENS,
                                        .count = (uint8_t)count,
                                        .index = index,
                                        .position = view->tokens_taken};
    for (uint32_t i = 0; i < count; i++)
        event->token[i] = view->tokens[(view->tokens_taken + i) & (PROGRAM_BUFFER_TOKENS - 1)];
    return count;
}

/* Whole characters only: up to three bytes that begin one wait for the rest of it, unless there is
 * no rest to come. */
static uint32_t text_fill(const struct program_view *view, uint32_t index,
                          struct wire_event_text *event)
{
    uint64_t left = view->text_bytes_count - view->text_bytes_taken;
    uint32_t count = left < WIRE_EVENT_TEXT_BYTES_MAX ? (uint32_t)left : WIRE_EVENT_TEXT_BYTES_MAX;
    *event = (struct wire_event_text){
        .kind = WIRE_EVENT_TEXT, .index = index, .position_bytes = view->text_bytes_taken};
    for (uint32_t i = 0; i < count; i++)
        event->text[i] = view->text[(view->text_bytes_taken + i) & (PROGRAM_BUFFER_BYTES - 1)];
    uint32_t whole = wire_utf8_whole(event->text, count);
    if (whole == 0 && view->state >= DYNASOR_STATE_DONE)
        whole = count;
    memset(event->text + whole, 0, count - whole);
    event->count = (uint8_t)whole;
    return whole;
}

static void send_tokens(struct ipc *ipc, struct peer *p, const struct job *job,
                        struct region_program *entry, const struct program_view *view,
                        uint32_t handle)
{
    union wire_event event;
    uint32_t taken = view->tokens_taken + tokens_fill(view, job->index, &event.tokens);
    counter_add(ipc->counters, COUNTER_tokens_sent, taken - view->tokens_taken);
    row_add(&ipc->rows[p->slot].tokens_sent, taken - view->tokens_taken);
    publish(ipc, p, job->lane, &event);
    shm_store_release_u32(&entry->tokens_sent_count, taken); /* behind the slot */
    entry->restarts_count = 0;                               /* it got further than before */
    accounted(&p->lanes[job->lane]);
    program_consume(ipc->programs, handle, taken, view->text_bytes_taken);
}

static bool send_text(struct ipc *ipc, struct peer *p, const struct job *job,
                      struct region_program *entry, const struct program_view *view,
                      uint32_t handle)
{
    union wire_event event;
    uint32_t count = text_fill(view, job->index, &event.text);
    if (count == 0)
        return false;
    uint64_t taken = view->text_bytes_taken + count;
    publish(ipc, p, job->lane, &event);
    shm_store_release_u64(&entry->text_sent_bytes, taken); /* behind the slot */
    entry->restarts_count = 0;
    accounted(&p->lanes[job->lane]);
    program_consume(ipc->programs, handle, view->tokens_taken, taken);
    return true;
}

static void send_note(struct ipc *ipc, struct peer *p, const struct job *job, uint32_t handle,
                      const struct program_note *note)
{
    union wire_event event;
    uint32_t count;
    command_note(note, job->index, &event, &count);
    if (note->kind == PROGRAM_NOTE_TOKENS) {
        counter_add(ipc->counters, COUNTER_tokens_sent, count);
        row_add(&ipc->rows[p->slot].tokens_sent, count);
    }
    publish(ipc, p, job->lane, &event);
    accounted(&p->lanes[job->lane]);
    program_noted(ipc->programs, handle, note, count);
}

enum delivery { DELIVERED, BLOCKED, CLOSED };

/* Not inlined, for the note's kilobyte: few programs have any. */
static __attribute__((noinline)) enum delivery deliver_notes(struct ipc *ipc, struct peer *p,
                                                             uint32_t handle)
{
    const struct job *job = &ipc->jobs[handle];
    SCRATCH struct program_note note;
    while (program_note(ipc->programs, handle, &note)) {
        if (!lane_credit(ipc, p, &p->lanes[job->lane], 1))
            return p->state == PEER_ATTACHED ? BLOCKED : CLOSED;
        send_note(ipc, p, job, handle, &note);
    }
    return DELIVERED;
}

static enum delivery deliver(struct ipc *ipc, struct peer *p, uint32_t handle)
{
    const struct job *job = &ipc->jobs[handle];
    struct lane *l = &p->lanes[job->lane];
    const struct program_view *view = program_view(ipc->programs, handle);
    struct region_program *entry = region_program(p->d2c, &p->geometry, job->index);
    if (entry->state == DYNASOR_STATE_QUEUED && view->state != DYNASOR_STATE_QUEUED)
        shm_store_release_u32(&entry->state, DYNASOR_STATE_RUNNING);
    for (;;) {
        bool tokens = view->tokens_count > view->tokens_taken;
        bool text = view->text_bytes_count > view->text_bytes_taken;
        if (!tokens && !text)
            break;
        if (!lane_credit(ipc, p, l, 1))
            return p->state == PEER_ATTACHED ? BLOCKED : CLOSED;
        if (tokens)
            send_tokens(ipc, p, job, entry, view, handle);
        else if (!send_text(ipc, p, job, entry, view, handle))
            break;
    }
    if (program_is_driven(ipc->programs, handle)) {
        enum delivery notes = deliver_notes(ipc, p, handle);
        if (notes != DELIVERED)
            return notes;
    }
    if (view->state >= DYNASOR_STATE_DONE)
        job_end(ipc, p, handle, view);
    return DELIVERED;
}

static void block(struct ipc *ipc, struct peer *p, uint32_t handle)
{
    struct job *job = &ipc->jobs[handle];
    struct lane *l = &p->lanes[job->lane];
    job->blocked = true;
    job->blocked_next = PROGRAM_NONE;
    if (l->blocked_first == PROGRAM_NONE)
        l->blocked_first = handle;
    else
        ipc->jobs[l->blocked_last].blocked_next = handle;
    l->blocked_last = handle;
    if (!l->blocked_since_ns)
        l->blocked_since_ns = ipc->now_ns;
    if (!p->blocked) {
        p->blocked = true;
        TAILQ_INSERT_TAIL(&ipc->blocked, p, blocked_link);
    }
    /* Credit rings no bell of its own: look for it until the lane cools, then the need is raised. */
    peer_heat(ipc, p, 1u << job->lane);
}

static void unblock(struct ipc *ipc, struct lane *l, uint32_t handle)
{
    uint32_t before = PROGRAM_NONE;
    for (uint32_t h = l->blocked_first; h != handle; h = ipc->jobs[h].blocked_next)
        before = h;
    uint32_t next = ipc->jobs[handle].blocked_next;
    if (before == PROGRAM_NONE)
        l->blocked_first = next;
    else
        ipc->jobs[before].blocked_next = next;
    if (l->blocked_last == handle)
        l->blocked_last = before;
    if (l->blocked_first == PROGRAM_NONE)
        l->blocked_since_ns = 0;
    ipc->jobs[handle].blocked = false;
}

static bool only_end_left(const struct program_view *view)
{
    return view->state >= DYNASOR_STATE_DONE && view->tokens_taken == view->tokens_count &&
           view->text_bytes_taken == view->text_bytes_count;
}

uint32_t outbox_poll(struct ipc *ipc)
{
    uint32_t work = 0;
    uint32_t handle;
    while (program_next(ipc->programs, &handle)) {
        struct job *job = &ipc->jobs[handle];
        work++;
        struct peer *p = ipc_peer(ipc, job->slot);
        if (job->blocked) { /* its output comes with credit, in order; a bare END at once */
            if (only_end_left(program_view(ipc->programs, handle))) {
                unblock(ipc, &p->lanes[job->lane], handle);
                (void)deliver(ipc, p, handle); /* the END's slot is reserved */
            }
            continue;
        }
        bool waits = p->lanes[job->lane].blocked_first != PROGRAM_NONE &&
                     !only_end_left(program_view(ipc->programs, handle));
        if (waits || deliver(ipc, p, handle) == BLOCKED)
            block(ipc, p, handle);
    }
    return work;
}

void outbox_retry(struct ipc *ipc, struct peer *p, uint32_t lane_index)
{
    struct lane *l = &p->lanes[lane_index];
    while (l->blocked_first != PROGRAM_NONE) {
        uint32_t handle = l->blocked_first;
        uint32_t next = ipc->jobs[handle].blocked_next;
        enum delivery d = deliver(ipc, p, handle);
        if (d == CLOSED || d == BLOCKED)
            return;
        ipc->jobs[handle].blocked = false;
        l->blocked_first = next;
    }
    l->blocked_last = PROGRAM_NONE;
    l->blocked_since_ns = 0;
}

static void wake(struct ipc *ipc, struct peer *p, struct lane *l)
{
    counter_add(ipc->counters, COUNTER_wakes_sent, 1);
    if (shm_load_u32(&l->c2d->need_kind) == REGION_NEED_MESSAGE) {
        struct wire_message message = {.kind = WIRE_MESSAGE_WAKE};
        /* Full means that unread wakes are there already. */
        (void)send(p->socket_fd, &message, sizeof message, MSG_DONTWAIT | MSG_NOSIGNAL);
        return;
    }
    shm_store_u32(&l->d2c->wake, l->d2c->wake + 1);
    (void)syscall(SYS_futex, &l->d2c->wake, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void outbox_wake(struct ipc *ipc)
{
    if (ipc->wakes_count == 0)
        return;
    bell_fence();
    for (uint32_t i = 0; i < ipc->wakes_count; i++) {
        struct peer *p = ipc_peer(ipc, ipc->wakes[i].slot);
        struct lane *l = &p->lanes[ipc->wakes[i].lane];
        if (p->state != PEER_ATTACHED || !l->published)
            continue; /* closed meanwhile */
        l->published = false;
        if (bell_wanted(&l->c2d->need, &l->answered_ticket))
            wake(ipc, p, l);
    }
    ipc->wakes_count = 0;
}

static void lane_expire(struct ipc *ipc, struct lane *l)
{
    uint64_t grace_ns = (uint64_t)ipc->config.slow_consumer_grace_ms * 1000000u;
    if (!l->blocked_since_ns || ipc->now_ns - l->blocked_since_ns < grace_ns)
        return;
    for (uint32_t h = l->blocked_first; h != PROGRAM_NONE; h = ipc->jobs[h].blocked_next)
        program_end(ipc->programs, h, DYNASOR_STATE_FAILED, DYNASOR_E_SLOW_CONSUMER);
    l->blocked_since_ns = ipc->now_ns;
}

void outbox_expire(struct ipc *ipc)
{
    struct peer *p = TAILQ_FIRST(&ipc->blocked);
    while (p) {
        struct peer *next = TAILQ_NEXT(p, blocked_link);
        bool any = false;
        for (uint32_t i = 0; i < p->geometry.lanes_count && p->state == PEER_ATTACHED; i++) {
            lane_expire(ipc, &p->lanes[i]);
            if (p->lanes[i].blocked_since_ns)
                outbox_retry(ipc, p, i);
            any |= p->lanes[i].blocked_since_ns != 0;
        }
        if (p->state == PEER_ATTACHED && !any) {
            p->blocked = false;
            TAILQ_REMOVE(&ipc->blocked, p, blocked_link);
        }
        p = next;
    }
}
