#include "client/parts.h"

#include <stdlib.h>
#include <time.h>

void lane_free(struct dynasor_lane *lane)
{
    /* No pthread_cond_destroy(): it has nothing to free, and after fork() it would wait for waiters
     * that do not exist in the child. */
    free(lane->queue);
    free(lane->reason);
    free(lane);
}

static struct dynasor_lane *handle_new(struct dynasor_client *c)
{
    struct dynasor_lane *lane = calloc(1, sizeof *lane);
    if (!lane)
        return NULL;
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&lane->cond, &attributes);
    pthread_condattr_destroy(&attributes);
    lane->client = c;
    lane->reason = calloc(1, sizeof *lane->reason);
    if (!lane->reason) {
        lane_free(lane);
        return NULL;
    }
    return lane;
}

/* A channel of its own, when there is one. */
static struct channel *claim_own(struct dynasor_client *c, struct dynasor_lane *lane)
{
    struct channel *found = NULL;
    pthread_mutex_lock(&c->lanes_mutex);
    lane->number = ++c->handles_count;
    for (uint32_t i = 0; i + 1 < c->channels_count && !found; i++)
        if (!c->channels[i].handles)
            found = &c->channels[i];
    if (found) {
        found->handles = lane;
        found->described = false;
    }
    pthread_mutex_unlock(&c->lanes_mutex);
    return found;
}

int dynasor_lane_open(struct dynasor_client *client, struct dynasor_lane **ret_lane)
{
    struct dynasor_client *c = client;
    if (!ret_lane)
        return -DYNASOR_E_INVALID;
    *ret_lane = NULL;
    if (!c)
        return -DYNASOR_E_INVALID;
    struct reason unused;
    if (shm_load_u64(c->pulse) == 0 || session_ended(c, &unused) == -DYNASOR_E_CLOSED)
        return -DYNASOR_E_CLOSED;
    struct dynasor_lane *lane = handle_new(c);
    if (!lane)
        return -DYNASOR_E_NOMEM;
    lane->channel = claim_own(c, lane);
    if (!lane->channel) {
        struct channel *ch = &c->channels[c->channels_count - 1];
        lane->queue = calloc(QUEUE_SLOTS + 1, sizeof *lane->queue);
        if (!lane->queue) {
            lane_free(lane);
            return -DYNASOR_E_NOMEM;
        }
        lane->channel = ch;
        pthread_mutex_lock(&ch->mutex);
        lane->next = ch->handles;
        ch->handles = lane;
        pthread_mutex_unlock(&ch->mutex);
    }
    *ret_lane = lane; /* its channel is bound by its first call */
    return 0;
}

/* Ends what a program whose handle is gone still has at the daemon. */
static void orphan_send(struct dynasor_client *c, struct channel *ch, struct program *p)
{
    if (p->phase == PHASE_SENT && !p->cancelled && channel_room(c, ch, 1)) {
        p->cancelled = true;
        channel_control(ch, WIRE_OP_CANCEL, p);
    } else if (p->phase == PHASE_ENDED && channel_room(c, ch, 1)) {
        channel_control(ch, WIRE_OP_RELEASE, p);
        table_give(c, ch, p, true);
        ch->orphans_count--;
    }
}

static void orphans_send(struct dynasor_client *c, struct channel *ch)
{
    for (uint32_t i = 0; i < DYNASOR_PROGRAMS_MAX; i++)
        if (table_mine(&c->programs[i], ch) && !c->programs[i].handle)
            orphan_send(c, ch, &c->programs[i]);
    channel_ring(ch);
}

void channel_sweep(struct dynasor_client *c, struct channel *ch)
{
    if (ch->orphans_count == 0)
        return;
    if (shm_load_u64(c->pulse) != ch->epoch || ch->handles) {
        if (shm_load_u64(c->pulse) == ch->epoch)
            orphans_send(c, ch); /* their events are taken by the handle's dynasor_next() */
        return;
    }
    struct dynasor_event event;
    struct program *p;
    (void)next_take(c, ch, &event, &p); /* all programs here are orphans: it returns no event */
    next_credit(ch);
    orphans_send(c, ch);
}

void table_reap(struct dynasor_client *c)
{
    pthread_mutex_lock(&c->lanes_mutex);
    for (uint32_t i = 0; i + 1 < c->channels_count; i++) {
        struct channel *ch = &c->channels[i];
        struct reason unused;
        if (ch->handles || ch->orphans_count == 0)
            continue;
        if (shm_load_u64(c->pulse) != ch->epoch && session_ended(c, &unused) == 0)
            (void)resume_bind(c, ch, &unused); /* drops them: they died with their session */
        else
            channel_sweep(c, ch);
    }
    pthread_mutex_unlock(&c->lanes_mutex);
}

static void abandon(struct dynasor_client *c, struct channel *ch, struct program *p)
{
    bool known = p->epoch == ch->epoch && !p->refused;
    if (p->phase == PHASE_UNSENT || (p->phase != PHASE_SENT && !known)) {
        ch->unsent_count -= p->phase == PHASE_UNSENT;
        table_give(c, ch, p, false);
        return;
    }
    if (p->phase == PHASE_ENDING)
        p->phase = PHASE_ENDED;
    p->handle = NULL;
    shm_store_u64(&p->tag, table_tag(ch, NULL));
    ch->orphans_count++;
}

static void programs_abandon(struct dynasor_client *c, struct channel *ch,
                             const struct dynasor_lane *lane)
{
    for (uint32_t i = 0; i < DYNASOR_PROGRAMS_MAX; i++)
        if (table_mine(&c->programs[i], ch) && c->programs[i].handle == lane)
            abandon(c, ch, &c->programs[i]);
    if (ch->orphans_count && shm_load_u64(c->pulse) == ch->epoch)
        orphans_send(c, ch);
}

static void close_own(struct dynasor_client *c, struct channel *ch, struct dynasor_lane *lane)
{
    if (ch->held)
        session_unref(c, ch->held);
    ch->held = NULL;
    if (ch->armed)
        wait_disarm(ch);
    ch->armed = false;
    programs_abandon(c, ch, lane);
    pthread_mutex_lock(&c->lanes_mutex);
    ch->handles = NULL;
    channel_sweep(c, ch);
    pthread_mutex_unlock(&c->lanes_mutex);
}

static void close_guarded(struct dynasor_client *c, struct channel *ch, struct dynasor_lane *lane)
{
    pthread_mutex_lock(&ch->mutex);
    programs_abandon(c, ch, lane);
    struct dynasor_lane **at = &ch->handles;
    while (*at != lane)
        at = &(*at)->next;
    *at = lane->next;
    ch->stalled = false;
    guarded_help(c, ch); /* perhaps nobody calls dynasor_next() any more */
    if (ch->handles)
        for (struct dynasor_lane *l = ch->handles; l; l = l->next)
            if (l->waiting)
                pthread_cond_signal(&l->cond);
    pthread_mutex_unlock(&ch->mutex);
}

void dynasor_lane_close(struct dynasor_lane *lane)
{
    if (!lane)
        return;
    struct dynasor_client *c = lane->client;
    struct channel *ch = lane->channel;
    if (shm_load_u64(c->pulse) == 0) { /* a child: the session is the parent's, the list ours */
        struct dynasor_lane **at = &ch->handles;
        while (*at && *at != lane)
            at = &(*at)->next;
        if (*at)
            *at = lane->next;
    } else if (ch->guarded) {
        close_guarded(c, ch, lane);
    } else {
        close_own(c, ch, lane);
    }
    lane_free(lane);
}
