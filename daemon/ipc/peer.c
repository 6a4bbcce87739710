#include "daemon/ipc/state.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/base/assert.h"
#include "daemon/base/log.h"
#include "daemon/base/notify.h"

static struct region_owner *peer_owner(struct ipc *ipc, const struct peer *p)
{
    char *page = ipc->owners_base + (size_t)p->slot * PEER_PAGE_BYTES;
    return &((struct region_d2c_header *)(void *)page)->owner;
}

static struct keeper *peer_keeper(struct ipc *ipc, const struct peer *p)
{
    return ipc->keepers[p->slot / KEEPER_NODES_MAX];
}

static struct peer *slot_open(struct ipc *ipc, struct peer *p)
{
    ipc->clients_count++;
    uint32_t generation = p->generation + 1;
    uint32_t slot = p->slot;
    memset(p, 0, sizeof *p);
    p->slot = slot;
    p->generation = generation;
    p->socket_fd = p->c2d_fd = p->bell_fd = p->pid_fd = p->d2c_fd = -1;
    p->since_ns = ipc->now_ns;
    p->daemon_cpu = UINT32_MAX;
    memset(&ipc->rows[slot], 0, sizeof ipc->rows[slot]);
    return p;
}

static struct peer *slot_fresh(struct ipc *ipc)
{
    if (ipc->slots_fresh == ipc->config.clients_max)
        return NULL;
    struct peer *p = ipc_peer(ipc, ipc->slots_fresh);
    p->slot = ipc->slots_fresh++;
    return p;
}

struct peer *peer_take(struct ipc *ipc)
{
    if (ipc->clients_count >= ipc->clients_limit)
        return NULL;
    struct peer *p = TAILQ_FIRST(&ipc->free);
    if (p)
        TAILQ_REMOVE(&ipc->free, p, link);
    else
        p = slot_fresh(ipc);
    return p ? slot_open(ipc, p) : NULL;
}

void peer_untake(struct ipc *ipc, struct peer *p)
{
    p->state = PEER_FREE;
    ipc->clients_count--;
    TAILQ_INSERT_HEAD(&ipc->free, p, link);
}

struct peer *peer_take_slot(struct ipc *ipc, uint32_t slot)
{
    while (ipc->slots_fresh <= slot) {
        struct peer *fresh = slot_fresh(ipc); /* the macro evaluates its arguments many times */
        TAILQ_INSERT_TAIL(&ipc->free, fresh, link);
    }
    struct peer *p = ipc_peer(ipc, slot);
    if (p->state != PEER_FREE || ipc->clients_count >= ipc->clients_limit)
        return NULL;
    TAILQ_REMOVE(&ipc->free, p, link);
    return slot_open(ipc, p);
}

static int over_quota(struct wire_fault *fault, enum dynasor_field field, uint64_t max,
                      uint64_t got)
{
    *fault = (struct wire_fault){
        .status = DYNASOR_E_QUOTA, .field = (uint16_t)field, .lo = 0, .hi = max, .got = got};
    return -EDQUOT;
}

int peer_charge_connection(struct ipc *ipc, struct peer *p, struct wire_fault *fault)
{
    struct quota *q = ipc->quota;
    struct quota_user *user = quota_ref(q, p->uid);
    ASSERT(user); /* there are as many rows as clients */
    if (!quota_charge(q, user, QUOTA_CONNECTIONS, 1)) {
        uint64_t got = quota_used(user, QUOTA_CONNECTIONS) + 1;
        quota_unref(q, user);
        return over_quota(fault, DYNASOR_FIELD_CONNECTIONS_OF_UID, quota_max(q, QUOTA_CONNECTIONS),
                          got);
    }
    p->user = user;
    return 0;
}

int peer_charge_region(struct ipc *ipc, struct peer *p, struct wire_fault *fault)
{
    uint64_t bytes = p->geometry.c2d_bytes + p->geometry.d2c_bytes;
    if (!quota_charge(ipc->quota, p->user, QUOTA_REGION_BYTES, bytes))
        return over_quota(fault, DYNASOR_FIELD_REGION_BYTES_OF_UID,
                          quota_max(ipc->quota, QUOTA_REGION_BYTES),
                          quota_used(p->user, QUOTA_REGION_BYTES) + bytes);
    p->region_bytes = bytes;
    return 0;
}

static void pidfd_watch(struct ipc *ipc, struct peer *p)
{
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* linux 6.5; without it the socket's hang-up alone tells of a death */
#endif
    int fd = -1;
    socklen_t bytes = sizeof fd;
    if (getsockopt(p->socket_fd, SOL_SOCKET, SO_PEERPIDFD, &fd, &bytes) != 0)
        return;
    p->pid_fd = fd;
    ipc->descriptors_count++;
    int r = uring_poll_add(ipc->uring, fd, POLLIN, tag_make(TAG_PEER_PID, p->generation, p->slot));
    ASSERT(r == 0); /* the submission queue is emptied whenever it is full */
}

/* Page 0 of D2C a second time, at the fixed distance from the peer's page that the robust list
 * needs. */
static int owner_map(struct ipc *ipc, struct peer *p, int d2c_fd)
{
    char *page = ipc->owners_base + (size_t)p->slot * PEER_PAGE_BYTES;
    void *m =
        mmap(page, PEER_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, d2c_fd, 0);
    return m == MAP_FAILED ? -errno : 0;
}

static void owner_unmap(struct ipc *ipc, struct peer *p)
{
    char *page = ipc->owners_base + (size_t)p->slot * PEER_PAGE_BYTES;
    void *m = mmap(page, PEER_PAGE_BYTES, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    ASSERT(m != MAP_FAILED); /* it replaces one mapping by one that joins its neighbours */
}

static void lanes_start(struct peer *p, bool adopt, uint64_t now_ns)
{
    const struct wire_geometry *g = &p->geometry;
    for (uint32_t i = 0; i < g->lanes_count; i++) {
        struct lane *l = &p->lanes[i];
        l->c2d = region_c2d_lane(p->c2d, i);
        l->d2c = region_d2c_lane(p->d2c, g, i);
        l->blocked_first = l->blocked_last = PROGRAM_NONE;
        l->active_ns = now_ns;
        uint64_t taken = adopt ? shm_load_u64(&l->d2c->consumed) : 0;
        uint64_t next = adopt ? shm_load_u64(&l->d2c->next) : 0;
        l->need_ticket = adopt ? shm_load_u32(&l->d2c->need) : 0;
        ring_rx_init(&l->rx, region_sub_ring(p->c2d, g, i), g->sub_slots, taken);
        /* No credit assumed: it comes from the client's word when it is first needed. */
        ring_tx_init(&l->tx, region_event_ring(p->d2c, g, i), g->event_slots, next,
                     next > g->event_slots ? next - g->event_slots : 0);
    }
}

static void header_init(struct peer *p, const uint8_t uuid[16])
{
    struct region_d2c_header *h = (struct region_d2c_header *)(void *)p->d2c;
    h->version = p->version;
    h->slot = p->slot;
    h->layout_hash = wire_layout_hash();
    h->features = p->features;
    memcpy(h->client_uuid, uuid, sizeof h->client_uuid);
    h->client_uid = p->uid;
    h->client_pid = p->pid;
    h->geometry = p->geometry;
    /* ORDER(region_magic) publish: the header is complete. */
    shm_store_release_u64(&h->magic, REGION_MAGIC);
}

static void peer_row_update(struct ipc *ipc, struct peer *p)
{
    struct counters_row *row = &ipc->rows[p->slot];
    shm_store_u32(&row->slot, p->slot);
    shm_store_u32(&row->uid, p->uid);
    shm_store_u32(&row->pid, p->pid);
    shm_store_u64(&row->region_bytes, p->region_bytes);
    shm_store_u32(&row->state, 1);
}

int peer_attach(struct ipc *ipc, struct peer *p, int d2c_fd, const uint8_t *uuid)
{
    bool adopt = uuid == NULL;
    int r = owner_map(ipc, p, d2c_fd);
    if (r < 0)
        return r;
    p->c2d = region_map(p->c2d_fd, p->geometry.c2d_arena_off, true);
    p->d2c = p->c2d ? region_map(d2c_fd, p->geometry.d2c_bytes, true) : NULL;
    if (!p->d2c) {
        r = -errno;
        region_unmap(p->c2d, p->geometry.c2d_arena_off);
        p->c2d = NULL;
        owner_unmap(ipc, p);
        return r;
    }
    if (!adopt)
        header_init(p, uuid);
    lanes_start(p, adopt, ipc->now_ns);
    p->state = PEER_ATTACHED;
    peer_row_update(ipc, p); /* before the client knows that it is connected */
    peer_heat(ipc, p, (1u << p->geometry.lanes_count) - 1);
    return 0;
}

void peer_own(struct ipc *ipc, struct peer *p)
{
    struct region_owner *owner = peer_owner(ipc, p);
    struct keeper *keeper = peer_keeper(ipc, p);
    /* ORDER(owner_generation) publish: the region is ours and its positions are right. */
    shm_store_release_u64(&owner->generation, ipc->generation);
    shm_store_release_u32(&owner->word, keeper_tid(keeper) | REGION_OWNER_WAITERS);
    keeper_add(keeper, &p->keeper_node);
}

void peer_watch(struct ipc *ipc, struct peer *p)
{
    int r = uring_poll_add(ipc->uring, p->socket_fd, POLLIN | POLLRDHUP,
                           tag_make(TAG_PEER_SOCKET, p->generation, p->slot));
    ASSERT(r == 0); /* the submission queue is emptied whenever it is full */
}

void peer_watch_session(struct ipc *ipc, struct peer *p)
{
    int r = uring_poll_add(ipc->uring, p->bell_fd, POLLIN,
                           tag_make(TAG_PEER_BELL, p->generation, p->slot));
    ASSERT(r == 0);
    if (p->d2c_fd < 0) /* four descriptors a client: D2C is still held for the fd store */
        pidfd_watch(ipc, p);
}

void peer_heat(struct ipc *ipc, struct peer *p, uint32_t lanes_mask)
{
    for (uint32_t mask = lanes_mask & ~(uint32_t)p->lanes_hot; mask; mask &= mask - 1) {
        struct lane *l = &p->lanes[__builtin_ctz(mask)];
        l->active_ns = ipc->now_ns;
        bell_lower(&l->d2c->need, &l->need_ticket);
    }
    p->lanes_hot = (uint16_t)(p->lanes_hot | lanes_mask);
    if (!p->hot) {
        p->hot = true;
        TAILQ_INSERT_TAIL(&ipc->hot, p, link);
    }
}

void peer_violation(struct ipc *ipc, struct peer *p, const struct wire_fault *fault)
{
    counter_add(ipc->counters, COUNTER_clients_violated, 1);
    log_warn("client %u uid %u pid %u violated the protocol: field %u got %llu", p->slot, p->uid,
             p->pid, fault->field, (unsigned long long)fault->got);
    peer_close(ipc, p, fault);
}

static void programs_drop(struct ipc *ipc, struct peer *p)
{
    for (uint32_t i = 0; i < DYNASOR_PROGRAMS_MAX; i++) {
        uint32_t *handle = ipc_handle(ipc, p, i);
        if (*handle >= HANDLE_FIRST) {
            counter_add(ipc->counters, COUNTER_programs_cancelled, 1);
            job_free(ipc, *handle - HANDLE_FIRST);
        }
        if (*handle != HANDLE_FREE) /* an unused page is not written to */
            *handle = HANDLE_FREE;
    }
}

static void region_detach(struct ipc *ipc, struct peer *p)
{
    struct region_owner *owner = peer_owner(ipc, p);
    if (p->keeper_node.prev) /* not yet, when re-attaching failed half-way */
        keeper_remove(peer_keeper(ipc, p), &p->keeper_node);
    /* The same sign that the kernel would leave, so that sleepers notice at once. */
    shm_store_u32(&owner->word, REGION_OWNER_DIED | REGION_OWNER_WAITERS);
    (void)syscall(SYS_futex, &owner->word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    region_unmap(p->c2d, p->geometry.c2d_arena_off);
    region_unmap(p->d2c, p->geometry.d2c_bytes);
    owner_unmap(ipc, p);
    p->c2d = p->d2c = NULL;
}

static void fd_close(struct ipc *ipc, int32_t *fd)
{
    if (*fd < 0)
        return;
    (void)close(*fd); /* sockets, memfds and eventfds have nothing to flush */
    ipc->descriptors_count--;
    *fd = -1;
}

static void polls_remove(struct ipc *ipc, struct peer *p)
{
    /* A poll holds its file: without this the socket would stay open behind close(). */
    (void)uring_poll_remove(ipc->uring, tag_make(TAG_PEER_SOCKET, p->generation, p->slot));
    if (p->bell_fd >= 0)
        (void)uring_poll_remove(ipc->uring, tag_make(TAG_PEER_BELL, p->generation, p->slot));
    if (p->pid_fd >= 0)
        (void)uring_poll_remove(ipc->uring, tag_make(TAG_PEER_PID, p->generation, p->slot));
}

void peer_close(struct ipc *ipc, struct peer *p, const struct wire_fault *reason)
{
    bool attached = p->state == PEER_ATTACHED;
    if (reason && attached) {
        struct wire_message bye = {.kind = WIRE_MESSAGE_BYE, .fault = *reason};
        (void)send(p->socket_fd, &bye, sizeof bye, MSG_DONTWAIT | MSG_NOSIGNAL); /* best effort */
    }
    (void)shutdown(p->socket_fd, SHUT_RDWR); /* a copy may live on in the fd store or a child */
    polls_remove(ipc, p);
    if (p->state == PEER_HELLO)
        TAILQ_REMOVE(&ipc->hello, p, link);
    if (p->hot)
        TAILQ_REMOVE(&ipc->hot, p, link);
    if (p->blocked)
        TAILQ_REMOVE(&ipc->blocked, p, blocked_link);
    if (p->d2c_fd >= 0)
        TAILQ_REMOVE(&ipc->storing, p, store_link);
    if (attached) {
        programs_drop(ipc, p);
        region_detach(ipc, p);
    }
    fd_close(ipc, &p->socket_fd);
    fd_close(ipc, &p->c2d_fd);
    fd_close(ipc, &p->bell_fd);
    fd_close(ipc, &p->pid_fd);
    fd_close(ipc, &p->d2c_fd);
    if (p->user) {
        quota_give(ipc->quota, p->user, QUOTA_REGION_BYTES, p->region_bytes);
        quota_give(ipc->quota, p->user, QUOTA_CONNECTIONS, 1);
        quota_unref(ipc->quota, p->user);
    }
    ipc->rows[p->slot].state = 0;
    p->hot = p->blocked = false;
    p->lanes_hot = 0;
    p->user = NULL;
    p->state = PEER_LEAVING;
    p->removals = p->stored ? 0xf : 0;
    if (!peer_leave(ipc, p))
        TAILQ_INSERT_TAIL(&ipc->leaving, p, link);
}

static const char store_kinds[4] = {'s', 'c', 'd', 'e'};

static void store_name(uint32_t slot, int kind, char name[16])
{
    (void)snprintf(name, 16, "%x%c", slot, store_kinds[kind]); /* fits: 8 + 1 + 1 */
}

int peer_store_remove(uint32_t slot, int kind)
{
    char name[16];
    store_name(slot, kind, name);
    return notify_fdstore_remove(name);
}

/* False: the service manager is behind; the rest later. */
static bool store_some(struct peer *p, int d2c_fd)
{
    const int fds[4] = {p->socket_fd, p->c2d_fd, d2c_fd, p->bell_fd};
    for (int kind = 0; kind < 4; kind++) {
        char name[16];
        if (!(p->stores & (1 << kind)))
            continue;
        store_name(p->slot, kind, name);
        int r = notify_fdstore(name, fds[kind]);
        if (r == -EAGAIN)
            return false;
        if (r != 0) { /* the client works, but will have to reconnect after a restart */
            log_warn("client %u is not kept over a restart: fd store: %s", p->slot, strerror(-r));
            p->stores = 0;
            return true;
        }
        p->stores = (uint8_t)(p->stores & ~(1 << kind));
        p->stored = true;
    }
    p->kept = true;
    return true;
}

void peer_store(struct ipc *ipc, struct peer *p, int d2c_fd)
{
    if (!notify_fdstore_enabled())
        return;
    p->stores = 0xf;
    if (store_some(p, d2c_fd))
        return;
    p->d2c_fd = fcntl(d2c_fd, F_DUPFD_CLOEXEC, 0);
    if (p->d2c_fd < 0) {
        log_warn("client %u is not kept over a restart: %s", p->slot, strerror(errno));
        return;
    }
    ipc->descriptors_count++;
    TAILQ_INSERT_TAIL(&ipc->storing, p, store_link);
}

void peer_store_retry(struct ipc *ipc)
{
    struct peer *p;
    while ((p = TAILQ_FIRST(&ipc->storing)) && store_some(p, p->d2c_fd)) {
        TAILQ_REMOVE(&ipc->storing, p, store_link);
        fd_close(ipc, &p->d2c_fd);
        pidfd_watch(ipc, p);
    }
}

bool peer_leave(struct ipc *ipc, struct peer *p)
{
    for (int kind = 0; kind < 4; kind++) {
        if ((p->removals & (1 << kind)) && peer_store_remove(p->slot, kind) == -EAGAIN)
            return false; /* the name may not be used again before it is free */
        p->removals = (uint8_t)(p->removals & ~(1 << kind));
    }
    peer_untake(ipc, p);
    return true;
}
