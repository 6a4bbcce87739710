/* daemon/ipc/adopt.c — clients that the daemon before us left in the fd store.
 *
 * The rules are those of docs/ABI.md, "What a restarted daemon does with a region", and
 * tests/models/reattach.pml checks them with a kill between any two stores. The header and the
 * table lie in D2C, which only our uid can have written; they are verified like foreign data all the
 * same, because they may be another version's. What cannot be taken over is closed and removed. */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/base/assert.h"
#include "daemon/base/log.h"
#include "daemon/base/notify.h"
#include "daemon/ipc/state.h"

/* A program that was running in more restarts, without getting further in between, is not tried
 * again. */
#define RESTARTS_MAX 2u

struct stored { /* descriptors of one slot: s, c, d, e */
    int fd[4];
};

static const char kinds[] = "scde";

/* Slot and kind of a stored name: hex digits, then one of the letters. */
static bool name_parse(const char *name, uint32_t slots, uint32_t *slot, int *kind)
{
    char *end;
    if (strlen(name) < 2 || strlen(name) > 4 || strspn(name, "0123456789abcdefABCDEF") < 1)
        return false;
    /* 'c', 'd' and 'e' are hex digits too: the kind is the last letter, whatever it looks like. */
    char digits[8];
    size_t length = strlen(name);
    memcpy(digits, name, length - 1);
    digits[length - 1] = '\0';
    unsigned long value = strtoul(digits, &end, 16);
    const char *letter = strchr(kinds, name[length - 1]);
    if (*end != '\0' || !letter || value >= slots)
        return false;
    *slot = (uint32_t)value;
    *kind = (int)(letter - kinds);
    return true;
}

static bool header_usable(const struct region_d2c_header *h, uint32_t slot)
{
    return h->magic == REGION_MAGIC && h->version >= WIRE_VERSION_MIN &&
           h->version <= WIRE_VERSION_MAX && h->layout_hash == wire_layout_hash() &&
           h->slot == slot && (h->features & ~WIRE_FEATURES_KNOWN) == 0 &&
           region_geometry_valid(&h->geometry);
}

static bool socket_alive(int fd)
{
    char byte;
    ssize_t n = recv(fd, &byte, sizeof byte, MSG_DONTWAIT | MSG_PEEK);
    return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

/* 0, or a negative errno that says what is wrong with the set. */
static int stored_verify(const struct stored *st, uint32_t slot, struct region_d2c_header *h,
                         struct ucred *cred)
{
    for (int i = 0; i < 4; i++)
        if (st->fd[i] < 0)
            return -ENOENT;
    socklen_t cred_bytes = sizeof *cred;
    if (getsockopt(st->fd[0], SOL_SOCKET, SO_PEERCRED, cred, &cred_bytes) != 0)
        return -errno;
    if (pread(st->fd[2], h, sizeof *h, 0) != (ssize_t)sizeof *h)
        return -EINVAL;
    if (!header_usable(h, slot))
        return -EPROTONOSUPPORT;
    int r = region_verify_d2c(st->fd[2], h->geometry.d2c_bytes);
    if (r == 0)
        r = region_verify_c2d(st->fd[1], &h->geometry);
    if (r < 0)
        return r;
    return socket_alive(st->fd[0]) ? 0 : -ECONNRESET;
}

/* Rule 2: at most one event of a lane is published and not accounted for; it tells what to do. */
static void lane_redo(struct peer *p, struct lane *l)
{
    const struct ring_slot *slot = &l->tx.slots[l->tx.pos & l->tx.mask];
    if (shm_load_acquire_u64(&slot->seq) == l->tx.pos + 1) {
        union wire_event event;
        memcpy(event.word, slot->word, sizeof event.word);
        uint32_t index = event.tokens.index; /* every event has it in the same place */
        if (index < p->geometry.programs_count) {
            struct region_program *entry = region_program(p->d2c, &p->geometry, index);
            if (event.kind == WIRE_EVENT_TOKENS)
                entry->tokens_sent_count = event.tokens.position + event.tokens.count;
            else if (event.kind == WIRE_EVENT_TEXT)
                entry->text_sent_bytes = event.text.position_bytes + event.text.count;
            else if (event.kind == WIRE_EVENT_END)
                shm_store_u32(&entry->end_sent, 1);
        }
        l->tx.pos++;
        if (l->tx.limit < l->tx.pos) /* it was written, so there was credit for it */
            l->tx.limit = l->tx.pos;
        shm_store_release_u64(&l->d2c->next, l->tx.pos);
    }
    if (l->tx.pos == 0)
        return;
    union wire_event last;
    memcpy(last.word, l->tx.slots[(l->tx.pos - 1) & l->tx.mask].word, sizeof last.word);
    if (last.kind == WIRE_EVENT_REFUSED && last.end.submit_pos == l->rx.pos) {
        l->rx.pos++;
        ring_rx_publish(&l->rx, &l->d2c->consumed);
    }
}

/* Rule 3: the SUBMIT at the consumed position may have been accepted already. Before anything runs:
 * a RELEASE that another lane takes first would make it look new. */
static void lane_skip(struct peer *p, uint32_t lane_index)
{
    struct lane *l = &p->lanes[lane_index];
    if (ring_rx_peek(&l->rx) != RING_READY)
        return;
    struct ring_rx look = l->rx;
    union wire_record record;
    ring_rx_take(&look, record.word);
    if (record.op != WIRE_OP_SUBMIT || record.submit.index >= p->geometry.programs_count)
        return;
    const struct region_program *entry = region_program(p->d2c, &p->geometry, record.submit.index);
    if (entry->state == DYNASOR_STATE_FREE || entry->lane != lane_index ||
        entry->submit_pos != l->rx.pos || entry->program_id != record.submit.program_id)
        return;
    l->rx = look;
    ring_rx_publish(&l->rx, &l->d2c->consumed);
}

static void entry_fail(struct region_program *entry, uint16_t status)
{
    entry->status = status;
    entry->tokens_count = entry->tokens_sent_count;
    /* ORDER(program_state) publish: status and tokens_count are those of the end. */
    shm_store_release_u32(&entry->state, DYNASOR_STATE_FAILED);
}

/* Every accepted program first, so that each END finds its slot reserved; then they run again. */
static void programs_count(struct peer *p)
{
    for (uint32_t i = 0; i < p->geometry.programs_count; i++) {
        struct region_program *entry = region_program(p->d2c, &p->geometry, i);
        if (entry->state != DYNASOR_STATE_FREE && !entry->end_sent &&
            entry->lane < p->geometry.lanes_count)
            p->lanes[entry->lane].open_count++;
    }
}

/* What its client has been told of its branches died with the daemon before us. */
static bool is_driven(const struct region_program *entry)
{
    union wire_record record;
    memcpy(record.word, entry->submit_word, sizeof record.word);
    return record.submit.algorithm == DYNASOR_ALGORITHM_CUSTOM;
}

static void program_adopt(struct ipc *ipc, struct peer *p, uint32_t index)
{
    struct region_program *entry = region_program(p->d2c, &p->geometry, index);
    if (entry->state == DYNASOR_STATE_FREE || entry->lane >= p->geometry.lanes_count)
        return;
    if (entry->end_sent) {
        *ipc_handle(ipc, p, index) = HANDLE_ENDED;
        return;
    }
    struct lane *l = &p->lanes[entry->lane];
    l->open_count--; /* inbox_rerun() counts it again */
    if (entry->state < DYNASOR_STATE_DONE) {
        uint16_t status = DYNASOR_E_POISON;
        if (entry->state == DYNASOR_STATE_RUNNING && is_driven(entry))
            status = DYNASOR_E_RESTARTED;
        else if (entry->state == DYNASOR_STATE_QUEUED || ++entry->restarts_count <= RESTARTS_MAX)
            status = inbox_rerun(ipc, p, index);
        if (status == 0)
            return;
        entry_fail(entry, status);
    }
    *ipc_handle(ipc, p, index) = HANDLE_ENDED;
    if (lane_credit(ipc, p, l, 1))
        outbox_end(ipc, p, entry->lane, index);
}

static void lanes_wake(struct peer *p)
{
    for (uint32_t i = 0; i < p->geometry.lanes_count; i++) {
        struct region_d2c_lane *d2c = p->lanes[i].d2c;
        shm_store_u32(&d2c->wake, d2c->wake + 1);
        (void)syscall(SYS_futex, &d2c->wake, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    }
    struct region_owner *owner = &((struct region_d2c_header *)(void *)p->d2c)->owner;
    (void)syscall(SYS_futex, &owner->word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    struct wire_message message = {.kind = WIRE_MESSAGE_WAKE};
    if (p->features & WIRE_FEATURE_DESCRIPTOR) /* a wake that the old daemon owed */
        (void)send(p->socket_fd, &message, sizeof message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* The reserved slots of END events are real only by the client's own word: it must be possible. */
static bool lanes_credit(struct ipc *ipc, struct peer *p)
{
    for (uint32_t i = 0; i < p->geometry.lanes_count; i++)
        if (!lane_credit(ipc, p, &p->lanes[i], 0)) {
            struct wire_fault fault = {.status = DYNASOR_E_PROTOCOL,
                                       .field = DYNASOR_FIELD_CONSUMED_POSITION};
            if (p->state == PEER_ATTACHED)
                peer_violation(ipc, p, &fault);
            return false;
        }
    return true;
}

/* With its region mapped: the rules of docs/ABI.md, in their order. False: the peer is gone. */
static bool region_repair(struct ipc *ipc, struct peer *p)
{
    for (uint32_t i = 0; i < p->geometry.lanes_count; i++)
        lane_redo(p, &p->lanes[i]);
    for (uint32_t i = 0; i < p->geometry.lanes_count; i++)
        lane_skip(p, i);
    programs_count(p);
    if (!lanes_credit(ipc, p))
        return false;
    for (uint32_t i = 0; i < p->geometry.programs_count && p->state == PEER_ATTACHED; i++)
        program_adopt(ipc, p, i);
    return p->state == PEER_ATTACHED;
}

static void peer_fill(struct ipc *ipc, struct peer *p, const struct stored *st,
                      const struct region_d2c_header *h, const struct ucred *cred)
{
    p->uid = (uint32_t)cred->uid;
    p->pid = (uint32_t)cred->pid;
    p->version = (uint16_t)h->version;
    p->features = h->features;
    p->geometry = h->geometry;
    p->socket_fd = st->fd[0];
    p->c2d_fd = st->fd[1];
    p->bell_fd = st->fd[3];
    p->stored = p->kept = true;
    ipc->descriptors_count += 3;
}

static int client_adopt(struct ipc *ipc, uint32_t slot, const struct stored *st)
{
    struct region_d2c_header h;
    struct ucred cred;
    int r = stored_verify(st, slot, &h, &cred);
    if (r < 0)
        return r;
    struct peer *p = peer_take_slot(ipc, slot);
    if (!p)
        return -EMFILE;
    peer_fill(ipc, p, st, &h, &cred);
    struct wire_fault fault;
    r = peer_charge_connection(ipc, p, &fault);
    if (r == 0)
        r = peer_charge_region(ipc, p, &fault);
    if (r == 0)
        r = peer_attach(ipc, p, st->fd[2], NULL);
    (void)close(st->fd[2]); /* mapped; the fd store has its own copy */
    if (r < 0) {
        log_warn("stored client %u is not taken over: %s", slot, strerror(-r));
        peer_close(ipc, p, NULL);
        return 0;
    }
    peer_watch(ipc, p); /* before anything can close it: that removes its polls */
    if (!region_repair(ipc, p))
        return 0;
    peer_own(ipc, p);
    peer_watch_session(ipc, p);
    lanes_wake(p);
    counter_add(ipc->counters, COUNTER_clients_reattached, 1);
    return 0;
}

/* What is not taken over keeps its slot until the fd store has forgotten its names. */
static void stored_drop(struct ipc *ipc, uint32_t slot, const struct stored *st, int reason)
{
    log_warn("stored client %u is not taken over: %s", slot, strerror(-reason));
    uint8_t removals = 0;
    for (int kind = 0; kind < 4; kind++)
        if (st->fd[kind] >= 0) {
            (void)shutdown(st->fd[kind], SHUT_RDWR); /* a live client notices; files: no-op */
            (void)close(st->fd[kind]);
            removals |= (uint8_t)(1 << kind);
        }
    struct peer *p = peer_take_slot(ipc, slot);
    if (!p)
        return; /* above our limit: the name is not used in this life */
    p->state = PEER_LEAVING;
    p->removals = removals;
    if (!peer_leave(ipc, p))
        TAILQ_INSERT_TAIL(&ipc->leaving, p, link);
}

static void sort_in(struct ipc *ipc, struct stored *all, const struct ipc_fd *in)
{
    uint32_t slot;
    int kind;
    if (in->fd == ipc->listen_fd || in->fd == ipc->control_listen_fd)
        return;
    bool ours = name_parse(in->name, ipc->config.clients_max, &slot, &kind);
    if (ours && all[slot].fd[kind] < 0) {
        all[slot].fd[kind] = in->fd;
        return;
    }
    log_warn("stored descriptor \"%s\" is %s: closed", in->name, ours ? "double" : "unknown");
    (void)close(in->fd);
    if (!ours) /* by name: it would take the one that we keep along */
        (void)notify_fdstore_remove(in->name); /* no room: the next start meets it again */
}

int adopt_clients(struct ipc *ipc)
{
    struct stored *all = malloc(ipc->config.clients_max * sizeof *all);
    if (!all)
        return -ENOMEM;
    memset(all, 0xff, ipc->config.clients_max * sizeof *all);
    for (uint32_t i = 0; i < ipc->config.inherited_count; i++)
        sort_in(ipc, all, &ipc->config.inherited[i]);
    for (uint32_t slot = 0; slot < ipc->config.clients_max; slot++) {
        const struct stored *st = &all[slot];
        if (st->fd[0] < 0 && st->fd[1] < 0 && st->fd[2] < 0 && st->fd[3] < 0)
            continue;
        int r = client_adopt(ipc, slot, st);
        if (r < 0)
            stored_drop(ipc, slot, st, r);
    }
    free(all);
    return 0;
}
