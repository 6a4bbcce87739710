#include "client/parts.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

void mapping_free(struct mapping *m)
{
    if (!m)
        return;
    region_unmap(m->c2d, m->geometry.c2d_bytes);
    region_unmap(m->d2c, m->geometry.d2c_bytes);
    if (m->socket_fd >= 0)
        (void)close(m->socket_fd); /* nothing to lose: we only ever read from it */
    if (m->doorbell_fd >= 0)
        (void)close(m->doorbell_fd); /* likewise, writes are complete */
    free(m->arena);
    free(m);
}

/* A new pulse: every channel looks what happened at its next turn, sleepers included; those that wait
 * for events sleep on the owner word of their mapping, m (NULL: there are none).
 * A sleep that begins just now may miss it, and ends by its belt. */
static void pulse_beat(struct dynasor_client *c, const struct mapping *m)
{
    shm_store_u64(c->pulse, shm_load_u64(c->pulse) + 1);
    wait_wake((const uint32_t *)(const void *)c->pulse, false);
    if (m)
        wait_wake(&((const struct region_d2c_header *)(const void *)m->d2c)->owner.word, true);
}

void session_install(struct dynasor_client *c, struct mapping *m)
{
    pthread_mutex_lock(&c->mutex);
    struct mapping *old = c->mapping;
    m->refs_count = 1;
    m->epoch = shm_load_u64(c->pulse) + 1;
    c->mapping = m;
    pulse_beat(c, old);
    if (old) {
        shm_store_u64(&c->reconnects_count, c->reconnects_count + 1);
        if (--old->refs_count > 0)
            old = NULL;
    }
    pthread_mutex_unlock(&c->mutex);
    mapping_free(old);
}

struct mapping *session_ref(struct dynasor_client *c)
{
    pthread_mutex_lock(&c->mutex);
    struct mapping *m = c->mapping;
    m->refs_count++;
    pthread_mutex_unlock(&c->mutex);
    return m;
}

void session_unref(struct dynasor_client *c, struct mapping *m)
{
    if (!m)
        return;
    pthread_mutex_lock(&c->mutex);
    bool last = --m->refs_count == 0;
    pthread_mutex_unlock(&c->mutex);
    if (last)
        mapping_free(m);
}

int session_fail(struct dynasor_client *c, struct mapping *m, const struct wire_fault *fault)
{
    pthread_mutex_lock(&c->mutex);
    if (c->end_status == 0 && m == c->mapping) {
        c->end_status = DYNASOR_E_PROTOCOL;
        struct wire_fault f = *fault;
        f.status = DYNASOR_E_PROTOCOL;
        (void)reason_fault(&c->end_reason, &f); /* the status is stored above */
        pulse_beat(c, m);
    }
    pthread_mutex_unlock(&c->mutex);
    return -DYNASOR_E_PROTOCOL;
}

int session_ended(struct dynasor_client *c, struct reason *reason)
{
    pthread_mutex_lock(&c->mutex);
    int rc = -(int)c->end_status;
    if (rc)
        *reason = c->end_reason;
    pthread_mutex_unlock(&c->mutex);
    return rc;
}

void session_tell_death(struct mapping *m)
{
    const struct region_d2c_header *header = (const void *)m->d2c;
    if (owner_alive(shm_load_u32(&header->owner.word)))
        return;
    /* Relaxed: a generation that is seen late only makes for one wake more, or for the belt. */
    uint64_t dead = shm_load_u64(&header->owner.generation);
    if (shm_load_u64(&m->death_told) == dead)
        return;
    /* Once a death: those it wakes come here as well. The kernel wakes only one sleeper. */
    shm_store_u64(&m->death_told, dead);
    wait_wake(&header->owner.word, true);
}

static void message_take(struct dynasor_client *c, struct mapping *m,
                         const struct wire_message *message)
{
    struct wire_fault bad = {.field = DYNASOR_FIELD_RECORD_OP,
                             .lo = WIRE_MESSAGE_WAKE,
                             .hi = WIRE_MESSAGE_BYE,
                             .got = message->kind};
    if (message->kind == WIRE_MESSAGE_WAKE)
        return;
    if (message->kind != WIRE_MESSAGE_BYE)
        (void)session_fail(c, m, &bad); /* seen at the next turn */
    else if (message->fault.status != DYNASOR_OK && message->fault.status != DYNASOR_E_SHUTDOWN &&
             message->fault.status != DYNASOR_E_RESTARTING)
        (void)session_fail(c, m, &message->fault); /* likewise */
    shm_store_u32(&m->lost, 1);
}

/* Once the daemon hung up nobody needs its wakes, but perhaps its reason stands behind them. */
static bool hung_up(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLRDHUP};
    return poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & (POLLHUP | POLLRDHUP | POLLERR)) != 0;
}

void session_listen(struct dynasor_client *c, struct mapping *m, bool drain)
{
    struct wire_message message;
    const ssize_t size = (ssize_t)sizeof message;
    if (shm_load_u32(&m->lost) || pthread_mutex_trylock(&m->socket_mutex) != 0)
        return;
    while (!shm_load_u32(&m->lost)) {
        if (!drain) {
            ssize_t n = recv(m->socket_fd, &message, sizeof message, MSG_DONTWAIT | MSG_PEEK);
            if ((n < 0 && errno == EAGAIN) ||
                (n == size && message.kind == WIRE_MESSAGE_WAKE && !hung_up(m->socket_fd)))
                break;
        }
        ssize_t n = recv(m->socket_fd, &message, sizeof message, MSG_DONTWAIT);
        if (n == size)
            message_take(c, m, &message);
        else if (n < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        else
            shm_store_u32(&m->lost, 1); /* hung up, or beyond understanding: connect anew */
    }
    pthread_mutex_unlock(&m->socket_mutex);
}
