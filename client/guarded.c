#include "client/parts.h"

#include <time.h>

/* One thread at a time leads: it waits at the rings without the mutex, takes what has come for
 * whomever it is, and hands over when it leaves. The others sleep on their own condition. */

static void wake_waiting(struct channel *ch, const struct dynasor_lane *except, bool one)
{
    for (struct dynasor_lane *l = ch->handles; l; l = l->next) {
        if (l == except || !l->waiting)
            continue;
        pthread_cond_signal(&l->cond);
        if (one)
            return;
    }
}

static void sleep_follower(struct dynasor_lane *lane, uint64_t deadline_ns)
{
    uint64_t now = wait_now_ns();
    uint64_t until = deadline_ns - now < BELT_MIN_NS ? deadline_ns : now + BELT_MIN_NS;
    if (now >= deadline_ns)
        return;
    struct timespec t = {.tv_sec = (time_t)(until / 1000000000u),
                         .tv_nsec = (long)(until % 1000000000u)};
    lane->waiting = true;
    (void)pthread_cond_timedwait(&lane->cond, &lane->channel->mutex, &t); /* the caller looks */
    lane->waiting = false;
}

int guarded_resume(struct dynasor_lane *lane, uint64_t deadline_ns)
{
    struct dynasor_client *c = lane->client;
    struct channel *ch = lane->channel;
    while (ch->led) {
        if (wait_now_ns() >= deadline_ns)
            return reason_say(lane->reason, DYNASOR_E_RESTARTING, NULL);
        sleep_follower(lane, deadline_ns);
    }
    ch->led = true;
    int rc;
    do {
        pthread_mutex_unlock(&ch->mutex);
        rc = resume_session(c, ch, lane->reason, deadline_ns);
        pthread_mutex_lock(&ch->mutex);
        if (rc == 0 && shm_load_u64(c->pulse) != ch->epoch)
            rc = resume_bind(c, ch, lane->reason);
    } while (rc == 0 && shm_load_u64(c->pulse) != ch->epoch);
    if (rc == 0 && ch->unsent_count)
        resume_pump(c, ch);
    ch->led = false;
    wake_waiting(ch, lane, false);
    return rc;
}

/* Whether the event at the front is for a handle that has no room for it. */
static bool front_stalls(struct dynasor_client *c, const struct channel *ch)
{
    union wire_event head;
    head.word[0] = shm_load_u64(&ring_rx_slot(&ch->rx)->word[0]);
    const struct program *p = &c->programs[head.tokens.index % DYNASOR_PROGRAMS_MAX];
    return table_mine(p, ch) && p->handle && p->handle->queue_count == QUEUE_SLOTS;
}

static void queue_push(struct channel *ch, const struct dynasor_event *event, struct program *p)
{
    struct dynasor_lane *to = p->handle;
    struct queued *q = &to->queue[(to->queue_head + to->queue_count++) % QUEUE_SLOTS];
    const struct ring_slot *slot = next_slot(ch);
    q->event = *event;
    if (event->branch == &ch->branch)
        q->branch = ch->branch;
    if (event->kind == DYNASOR_EVENT_END || event->kind == DYNASOR_EVENT_REFUSED)
        q->raw = ch->ended;
    else
        for (int i = 0; i < RING_WORDS; i++)
            q->raw.word[i] = shm_load_u64(&slot->word[i]);
    const char *data = event->text ? event->text : (const char *)event->tokens;
    q->data_off = data ? (size_t)(data - (const char *)slot) : 0;
    if (to->waiting)
        pthread_cond_signal(&to->cond);
}

/* Takes everything that has come. */
static int gather(struct dynasor_client *c, struct channel *ch)
{
    ch->stalled = false;
    while (ring_rx_peek(&ch->rx) != RING_EMPTY) {
        struct dynasor_event event;
        struct program *p;
        if (front_stalls(c, ch)) {
            ch->stalled = true;
            break;
        }
        int rc = next_take(c, ch, &event, &p);
        if (rc < 0)
            return rc;
        if (rc == 0)
            queue_push(ch, &event, p);
        next_credit(ch);
    }
    return 0;
}

void guarded_help(struct dynasor_client *c, struct channel *ch)
{
    struct reason unused;
    if (ch->led || ch->orphans_count == 0)
        return;
    if (shm_load_u64(c->pulse) != ch->epoch) {
        if (session_ended(c, &unused) == 0)
            (void)resume_bind(c, ch, &unused); /* drops them: they died with their session */
        return;
    }
    if (ch->handles)
        (void)gather(c, ch); /* a failure is in the pulse */
    channel_sweep(c, ch);
}

static bool queue_pop(struct dynasor_lane *lane, struct dynasor_event *event)
{
    if (lane->queue_count == 0)
        return false;
    struct queued *hand = &lane->queue[QUEUE_SLOTS]; /* stays until the next call */
    *hand = lane->queue[lane->queue_head];
    lane->queue_head = (lane->queue_head + 1) % QUEUE_SLOTS;
    lane->queue_count--;
    *event = hand->event;
    const char *data = (const char *)&hand->raw + hand->data_off;
    if (event->kind != DYNASOR_EVENT_RESULT && event->branch)
        event->branch = &hand->branch;
    if (event->kind == DYNASOR_EVENT_TOKENS)
        event->tokens = (const uint32_t *)(const void *)data;
    else if (event->kind == DYNASOR_EVENT_TEXT)
        event->text = data;
    else if (event->kind == DYNASOR_EVENT_REFUSED)
        next_refused(lane->reason, &hand->raw.command);
    else if (event->kind == DYNASOR_EVENT_END)
        next_ended(lane->reason, &lane->client->programs[event->program % DYNASOR_PROGRAMS_MAX],
                   &hand->raw.end);
    if (lane->channel->stalled) {
        lane->channel->stalled = false;
        wake_waiting(lane->channel, lane, true);
    }
    return true;
}

static bool lead(struct dynasor_lane *lane, uint64_t deadline_ns)
{
    struct channel *ch = lane->channel;
    ch->led = true;
    bool unsent = ch->unsent_count != 0; /* abandon() may change it while we wait */
    next_credit_all(ch); /* here, where we may ring: wait_once() has nothing left to publish */
    pthread_mutex_unlock(&ch->mutex);
    bool idle = wait_once(lane->client, ch, deadline_ns, unsent);
    if (idle)
        session_listen(lane->client, ch->mapping, false);
    pthread_mutex_lock(&ch->mutex);
    ch->led = false;
    return idle;
}

/* One turn of guarded_next(): NEXT_EMPTY to go on. */
static int turn(struct dynasor_lane *lane, struct dynasor_event *event, uint64_t deadline_ns,
                uint64_t *away_ns)
{
    struct dynasor_client *c = lane->client;
    struct channel *ch = lane->channel;
    if (queue_pop(lane, event))
        return 0;
    if (channel_troubled(c, ch)) {
        if (*away_ns == 0)
            *away_ns = deadline_ns ? wait_away_ns() : 0;
        int rc = guarded_resume(lane, *away_ns < deadline_ns ? *away_ns : deadline_ns);
        return rc ? rc : NEXT_EMPTY;
    }
    *away_ns = 0;
    if (ch->unsent_count)
        resume_pump(c, ch);
    if (!ch->led) {
        int rc = gather(c, ch);
        if (rc < 0)
            return NEXT_EMPTY; /* the pulse has changed: the next turn says why, or binds anew */
        if (queue_pop(lane, event))
            return 0;
    }
    if (deadline_ns == 0)
        next_look(c, ch);
    else if (ch->led || ch->stalled)
        sleep_follower(lane, deadline_ns);
    else if (!lead(lane, deadline_ns))
        return NEXT_EMPTY;
    if (lane->queue_count == 0 && (deadline_ns == 0 || wait_now_ns() >= deadline_ns))
        return reason_say(lane->reason, DYNASOR_E_TIMEOUT, NULL);
    return NEXT_EMPTY;
}

int guarded_next(struct dynasor_lane *lane, struct dynasor_event *event, uint64_t timeout_ns)
{
    struct channel *ch = lane->channel;
    uint64_t deadline = timeout_ns == 0 ? 0 : wait_deadline_ns(timeout_ns);
    uint64_t away = 0;
    int rc;
    pthread_mutex_lock(&ch->mutex);
    if (!ch->led) /* otherwise it is the leader's */
        ch->belt_ns = BELT_MIN_NS;
    do
        rc = turn(lane, event, deadline, &away);
    while (rc == NEXT_EMPTY);
    if (!ch->led)
        wake_waiting(ch, lane, true); /* somebody else leads now */
    pthread_mutex_unlock(&ch->mutex);
    return rc;
}
