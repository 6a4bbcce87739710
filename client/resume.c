#include "client/parts.h"

#include <stdlib.h>
#include <string.h>

/* A daemon that is away. Either a new one adopts our regions (the owner word lives again, nothing
 * else changes), or the socket hangs up and we connect anew. One thread works on that at a time; the
 * others sleep until it is done. Many processes may be in the same position at the same moment, so
 * every wait grows, is spread by chance, and ends. */

static int say_away(struct reason *reason)
{
    return reason_say(reason, DYNASOR_E_RESTARTING, NULL);
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void sleep_away(const struct dynasor_client *c, const struct channel *ch, uint64_t until_ns)
{
    const uint32_t *pulse = (const uint32_t *)(const void *)c->pulse;
    struct wait_word words[2] = {
        {.word = &ch->owner->word, .shared = 1, .value = shm_load_u32(&ch->owner->word)},
        {.word = pulse, .value = (uint32_t)ch->epoch}};
    if (shm_load_u32(&ch->mapping->lost) || !owner_alive(words[0].value))
        (void)wait_sleep(words, until_ns); /* the caller looks why it ended */
}

/* With resume_mutex. 0: something changed, look again; -TIMEOUT: nothing did. */
static int restore(struct dynasor_client *c, const struct channel *ch, struct reason *reason,
                   uint64_t deadline_ns)
{
    struct mapping *m = ch->mapping;
    struct attach *a = &c->attach;
    bool lost_before = shm_load_u32(&m->lost) != 0;
    session_listen(c, m, false);
    if (shm_load_u64(c->pulse) != ch->epoch)
        return 0;
    if (shm_load_u32(&m->lost)) {
        struct mapping *fresh = NULL;
        if (!lost_before)
            attach_reset(a); /* from here on the waits are between connections */
        int rc = attach_step(c, deadline_ns, reason, &fresh);
        if (rc == 0)
            session_install(c, fresh);
        return rc;
    }
    if (owner_alive(shm_load_u32(&ch->owner->word))) {
        attach_reset(a);
        return 0;
    }
    uint64_t now = wait_now_ns();
    if (now >= deadline_ns)
        return -DYNASOR_E_TIMEOUT;
    sleep_away(c, ch, earlier(deadline_ns, now + attach_jitter(a, a->backoff_ns)));
    a->backoff_ns = earlier(a->backoff_ns * 8, BACKOFF_MAX_NS); /* a large daemon dies slowly */
    return 0;
}

int resume_session(struct dynasor_client *c, const struct channel *ch, struct reason *reason,
                   uint64_t deadline_ns)
{
    for (;;) {
        uint64_t pulse = shm_load_u64(c->pulse);
        if (pulse == 0)
            return reason_say(reason, DYNASOR_E_CLOSED, NULL);
        if (pulse != ch->epoch)
            return session_ended(c, reason);
        if (!channel_troubled(c, ch))
            return 0;
        session_tell_death(ch->mapping);
        int rc = -DYNASOR_E_TIMEOUT;
        if (pthread_mutex_trylock(&c->resume_mutex) == 0) {
            rc = restore(c, ch, reason, deadline_ns);
            pthread_mutex_unlock(&c->resume_mutex);
        } else {
            uint64_t now = wait_now_ns();
            if (now < deadline_ns) {
                sleep_away(c, ch, deadline_ns); /* whoever works on it wakes us when it is done */
                rc = 0;
            }
        }
        if (rc == -DYNASOR_E_TIMEOUT)
            return say_away(reason);
        if (rc != 0)
            return rc;
    }
}

/* Prompts of unfinished programs leave the old arena, so that nothing of it is needed later. */
static bool save_prompts(struct dynasor_client *c, const struct channel *ch)
{
    for (uint32_t i = 0; i < DYNASOR_PROGRAMS_MAX; i++) {
        struct program *p = &c->programs[i];
        if (!table_mine(p, ch) || p->phase != PHASE_SENT || !p->handle || p->parcel ||
            p->payload_offset == ARENA_FULL)
            continue;
        if (!payload_save(ch->mapping, p))
            return false;
    }
    return true;
}

static void programs_rebind(struct dynasor_client *c, struct channel *ch)
{
    for (uint32_t i = 0; i < DYNASOR_PROGRAMS_MAX; i++) {
        struct program *p = &c->programs[i];
        if (!table_mine(p, ch))
            continue;
        if (!p->handle) { /* cancelled together with its session */
            table_give(c, ch, p, false);
        } else if (p->phase == PHASE_SENT) {
            p->phase = PHASE_UNSENT;
            p->payload_offset = ARENA_FULL;
            ch->unsent_count++;
        }
    }
    ch->orphans_count = 0;
}

int resume_bind(struct dynasor_client *c, struct channel *ch, struct reason *reason)
{
    struct mapping *old = ch->mapping;
    if (old && !save_prompts(c, ch))
        return reason_say(reason, DYNASOR_E_NOMEM, NULL);
    struct mapping *m = session_ref(c);
    const struct wire_geometry *g = &m->geometry;
    ch->mapping = m;
    ch->epoch = m->epoch;
    ch->c2d_lane = region_c2d_lane(m->c2d, ch->number);
    ch->d2c_lane = region_d2c_lane(m->d2c, g, ch->number);
    ch->owner = &((const struct region_d2c_header *)(const void *)m->d2c)->owner;
    ring_tx_init(&ch->tx, region_sub_ring(m->c2d, g, ch->number), g->sub_slots, 0, 0);
    ring_rx_init(&ch->rx, region_event_ring(m->d2c, g, ch->number), g->event_slots, 0);
    ch->published = 0;
    ch->need_ticket = 0;
    ch->answered_ticket = 0;
    ch->need_kind = REGION_NEED_FUTEX;
    ch->armed = false;
    if (!old)
        return 0;
    programs_rebind(c, ch);
    if (ch->held || ch->guarded) {
        session_unref(c, old);
    } else {
        ch->held = old;
    }
    return 0;
}

static bool submit_again(struct channel *ch, struct program *p)
{
    char prompt[WIRE_INLINE_BYTES];
    const struct dynasor_program_options plain = {0};
    bool put = true;
    if (p->parcel) {
        put = payload_put_again(ch->mapping, p);
    } else if (p->tokens_count || p->text_bytes) { /* a record has no room to say what we have */
        memcpy(prompt, p->submit.submit.u.prompt, sizeof prompt);
        put = payload_put(ch->mapping, p, &plain, prompt);
    }
    if (!put)
        return false;
    if (p->ready) /* nobody knows its branches: the answer is its end */
        p->submit.submit.flags |= WIRE_SUBMIT_RESUMED;
    p->phase = PHASE_SENT;
    p->epoch = ch->epoch;
    free(p->parcel);
    p->parcel = NULL;
    ch->unsent_count--;
    channel_push(ch, &p->submit);
    return true;
}

void resume_pump(struct dynasor_client *c, struct channel *ch)
{
    bool pushed = false;
    for (uint32_t i = 0; i < DYNASOR_PROGRAMS_MAX && ch->unsent_count; i++) {
        struct program *p = &c->programs[i];
        if (!table_mine(p, ch) || p->phase != PHASE_UNSENT)
            continue;
        if (!channel_room(c, ch, 2))
            break;
        if (!submit_again(ch, p))
            continue;
        pushed = true;
        if (p->cancelled)
            channel_control(ch, WIRE_OP_CANCEL, p);
    }
    if (pushed)
        channel_ring(ch);
}

int resume_channel(struct dynasor_client *c, struct channel *ch, struct reason *reason,
                   uint64_t deadline_ns)
{
    bool renewed = false;
    for (;;) {
        int rc = resume_session(c, ch, reason, deadline_ns);
        if (rc)
            return rc;
        if (shm_load_u64(c->pulse) == ch->epoch)
            break;
        renewed = ch->mapping != NULL;
        rc = resume_bind(c, ch, reason);
        if (rc)
            return rc;
    }
    if (ch->unsent_count)
        resume_pump(c, ch);
    if (renewed && ch->described) { /* the caller's loop still waits for the old descriptor */
        ch->described = false;
        return say_away(reason);
    }
    return 0;
}
