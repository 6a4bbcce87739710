#include "daemon/ipc/ipc.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/base/assert.h"
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/ipc/state.h"

#define FDS_RESERVED 32u  /* never given to clients: a dozen of our own, 16 controls, a handshake */
#define FDS_PER_CLIENT 4u /* socket, C2D, doorbell, pidfd */
#define EVENTS_MAX 64u    /* reactor events of a turn */
#define HOUSEKEEPING_NS (10 * NS_PER_MS)
#define EXPIRY_NS (50 * NS_PER_MS) /* how late a timeout may be noticed */
#define URING_ENTRIES 1024u

static int fail(char *message, size_t bytes, const char *what, int r)
{
    (void)snprintf(message, bytes, "%s: %s", what, strerror(-r)); /* cut if need be */
    return r;
}

static void *reserve(size_t bytes, int prot)
{
    void *p = mmap(NULL, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static int pools_new(struct ipc *ipc)
{
    const struct ipc_config *c = &ipc->config;
    size_t pages_bytes = (size_t)c->clients_max * PEER_PAGE_BYTES;
    size_t handles_bytes = (size_t)c->clients_max * DYNASOR_PROGRAMS_MAX * sizeof(uint32_t);
    /* Reserved whole and paid for by page when a client first uses it. */
    ipc->peers_base = reserve(pages_bytes, PROT_READ | PROT_WRITE);
    ipc->owners_base = reserve(pages_bytes, PROT_NONE);
    ipc->handles = reserve(handles_bytes, PROT_READ | PROT_WRITE);
    ipc->jobs = reserve(c->programs_max * sizeof *ipc->jobs, PROT_READ | PROT_WRITE);
    ipc->prompts = reserve(c->prompt_pool_bytes, PROT_READ | PROT_WRITE);
    ipc->prompt_pool_state = malloc(arena_state_bytes(c->prompt_pool_bytes, PROMPT_BLOCK_BYTES));
    if (!ipc->peers_base || !ipc->owners_base || !ipc->handles || !ipc->jobs || !ipc->prompts ||
        !ipc->prompt_pool_state)
        return -ENOMEM;
    ipc->prompt_pool = arena_init(ipc->prompt_pool_state, c->prompt_pool_bytes, PROMPT_BLOCK_BYTES);
    return quota_new(c->clients_max, c->quota, &ipc->quota);
}

static void pools_free(struct ipc *ipc)
{
    const struct ipc_config *c = &ipc->config;
    size_t pages_bytes = (size_t)c->clients_max * PEER_PAGE_BYTES;
    if (ipc->peers_base)
        (void)munmap(ipc->peers_base, pages_bytes); /* ranges of ours: cannot fail */
    if (ipc->owners_base)
        (void)munmap(ipc->owners_base, pages_bytes);
    if (ipc->handles)
        (void)munmap(ipc->handles,
                     (size_t)c->clients_max * DYNASOR_PROGRAMS_MAX * sizeof(uint32_t));
    if (ipc->jobs)
        (void)munmap(ipc->jobs, c->programs_max * sizeof *ipc->jobs);
    if (ipc->prompts)
        (void)munmap(ipc->prompts, c->prompt_pool_bytes);
    free(ipc->prompt_pool_state);
    quota_free(ipc->quota);
}

static int counters_new(struct ipc *ipc)
{
    uint64_t rows_off = (sizeof(struct counters_page) + 63) / 64 * 64;
    ipc->counters_bytes = rows_off + ipc->config.clients_max * sizeof(struct counters_row);
    ipc->counters_fd = region_create_private("dynasor-counters", ipc->counters_bytes);
    if (ipc->counters_fd < 0)
        return ipc->counters_fd;
    ipc->counters = region_map(ipc->counters_fd, ipc->counters_bytes, true);
    if (!ipc->counters)
        return -errno;
    struct counters_page *page = ipc->counters;
    ipc->rows = (struct counters_row *)(void *)((char *)page + rows_off);
    page->version = COUNTERS_VERSION;
    page->counters_count = COUNTERS_COUNT;
    page->rows_count = ipc->config.clients_max;
    page->rows_off = (uint32_t)rows_off;
    counter_set(page, COUNTER_pid, (uint64_t)getpid());
    counter_set(page, COUNTER_generation, ipc->generation);
    counter_set(page, COUNTER_started_ns, clock_now_ns());
    counter_set(page, COUNTER_clients_max, ipc->clients_limit);
    /* ORDER(region_magic) publish: the page describes itself. */
    shm_store_release_u64(&page->magic, COUNTERS_MAGIC);
    return 0;
}

static int keepers_new(struct ipc *ipc)
{
    ipc->keepers_count = (ipc->config.clients_max + KEEPER_NODES_MAX - 1) / KEEPER_NODES_MAX;
    ipc->keepers = calloc(ipc->keepers_count, sizeof(struct keeper *));
    if (!ipc->keepers)
        return -ENOMEM;
    intptr_t distance = (ipc->owners_base - ipc->peers_base) +
                        (intptr_t)offsetof(struct region_d2c_header, owner.word) -
                        (intptr_t)offsetof(struct peer, keeper_node.list);
    for (uint32_t i = 0; i < ipc->keepers_count; i++) {
        int r = keeper_new(distance, &ipc->keepers[i]);
        if (r < 0)
            return r;
    }
    return 0;
}

/* As many clients as configured, or as descriptors allow. */
static void limit_set(struct ipc *ipc)
{
    struct rlimit limit;
    ipc->clients_limit = ipc->config.clients_max;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0 && getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    uint64_t room = limit.rlim_cur > FDS_RESERVED ? (limit.rlim_cur - FDS_RESERVED) : 0;
    if (room / FDS_PER_CLIENT >= ipc->clients_limit)
        return;
    ipc->clients_limit = (uint32_t)(room / FDS_PER_CLIENT);
    log_warn("clients_max %u lowered to %u: RLIMIT_NOFILE is %llu, a client takes %u",
             ipc->config.clients_max, ipc->clients_limit, (unsigned long long)limit.rlim_cur,
             FDS_PER_CLIENT);
}

static int signals_open(struct ipc *ipc)
{
    sigset_t set;
    (void)sigemptyset(&set); /* these three fail for invalid numbers only */
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGHUP);
    if (sigprocmask(SIG_BLOCK, &set, NULL) != 0)
        return -errno;
    ipc->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (ipc->signal_fd < 0)
        return -errno;
    return uring_poll_add(ipc->uring, ipc->signal_fd, POLLIN, tag_make(TAG_SIGNAL, 0, 0));
}

static void state_init(struct ipc *ipc, const struct ipc_config *config, struct programs *programs)
{
    ipc->config = *config;
    ipc->programs = programs;
    ipc->now_ns = clock_now_ns();
    ipc->generation = ipc->now_ns; /* grows with every start within a boot, and never repeats */
    ipc->listen_fd = ipc->control_listen_fd = ipc->signal_fd = ipc->counters_fd = -1;
    for (uint32_t i = 0; i < IPC_CONTROLS_MAX; i++)
        ipc->controls[i] = -1;
    TAILQ_INIT(&ipc->free);
    TAILQ_INIT(&ipc->hello);
    TAILQ_INIT(&ipc->hot);
    TAILQ_INIT(&ipc->blocked);
    TAILQ_INIT(&ipc->leaving);
    TAILQ_INIT(&ipc->storing);
}

int ipc_new(const struct ipc_config *config, struct programs *programs, struct ipc **ret_ipc,
            char *message, size_t message_bytes)
{
    struct ipc *ipc = calloc(1, sizeof *ipc);
    if (!ipc)
        return fail(message, message_bytes, "memory", -ENOMEM);
    state_init(ipc, config, programs);
    limit_set(ipc);
    int r =
        uring_new(URING_ENTRIES, config->clients_max * FDS_PER_CLIENT + URING_ENTRIES, &ipc->uring);
    if (r < 0) {
        (void)fail(message, message_bytes, URING_REQUIRED, r);
        ipc_stop(ipc, false);
        ipc_free(ipc);
        return r;
    }
    if ((r = pools_new(ipc)) < 0)
        (void)fail(message, message_bytes, "memory for clients and prompts", r);
    else if ((r = counters_new(ipc)) < 0)
        (void)fail(message, message_bytes, "counters page", r);
    else if ((r = keepers_new(ipc)) < 0)
        (void)fail(message, message_bytes, "keepers", r);
    else if ((r = signals_open(ipc)) < 0)
        (void)fail(message, message_bytes, "signalfd", r);
    if (r < 0) {
        ipc_stop(ipc, false);
        ipc_free(ipc);
        return r;
    }
    *ret_ipc = ipc;
    return 0;
}

static void peers_close(struct ipc *ipc, bool keep)
{
    struct wire_fault shutdown_fault = {.status = DYNASOR_E_SHUTDOWN};
    for (uint32_t slot = 0; slot < ipc->slots_fresh; slot++) {
        struct peer *p = ipc_peer(ipc, slot);
        if (keep && p->kept && p->state == PEER_ATTACHED)
            continue; /* the kernel tells the client when we exit; the next daemon goes on */
        if (p->state == PEER_HELLO || p->state == PEER_ATTACHED)
            peer_close(ipc, p, &shutdown_fault);
    }
}

void ipc_stop(struct ipc *ipc, bool keep)
{
    listener_close(ipc);
    if (ipc->peers_base && ipc->uring)
        peers_close(ipc, keep);
    for (uint32_t i = 0; i < ipc->keepers_count && ipc->keepers; i++)
        if (ipc->keepers[i])
            keeper_stop(ipc->keepers[i]);
}

void ipc_free(struct ipc *ipc)
{
    if (!ipc)
        return;
    for (uint32_t i = 0; i < IPC_CONTROLS_MAX; i++)
        if (ipc->controls[i] >= 0)
            (void)close(ipc->controls[i]); /* nothing owed */
    if (ipc->signal_fd >= 0)
        (void)close(ipc->signal_fd);
    uring_free(ipc->uring);
    for (uint32_t i = 0; i < ipc->keepers_count && ipc->keepers; i++)
        keeper_free(ipc->keepers[i]);
    free(ipc->keepers);
    region_unmap(ipc->counters, ipc->counters_bytes);
    if (ipc->counters_fd >= 0)
        (void)close(ipc->counters_fd);
    pools_free(ipc); /* kept sessions' owner words were marked when the keeper threads ended */
    free(ipc);
}

uint32_t ipc_keepers_count(const struct ipc *ipc)
{
    return ipc->keepers_count;
}

void ipc_keeper_run(struct ipc *ipc, uint32_t keeper)
{
    keeper_run(ipc->keepers[keeper]);
}

int ipc_start(struct ipc *ipc, uint64_t now_ns, char *message, size_t message_bytes)
{
    ipc->now_ns = now_ns;
    int r = listener_open(ipc, message, message_bytes);
    if (r < 0)
        return r;
    r = adopt_clients(ipc);
    if (r < 0)
        return fail(message, message_bytes, "stored clients", r);
    r = uring_submit(ipc->uring);
    return r < 0 ? fail(message, message_bytes, "io_uring", r) : 0;
}

static void signal_ready(struct ipc *ipc)
{
    struct signalfd_siginfo info;
    while (read(ipc->signal_fd, &info, sizeof info) == (ssize_t)sizeof info)
        ipc->signals |= 1ull << info.ssi_signo;
}

static void bell_ready(struct ipc *ipc, struct peer *p)
{
    p->bells_seen++;
    if (p->bells_seen > p->bells_asked + PEER_BELLS_SLACK) {
        struct wire_fault fault = {.status = DYNASOR_E_PROTOCOL,
                                   .field = DYNASOR_FIELD_DOORBELL,
                                   .hi = p->bells_asked + PEER_BELLS_SLACK,
                                   .got = p->bells_seen};
        peer_violation(ipc, p, &fault);
        return;
    }
    /* Any lane may have rung, and its ticket is used up: all of them are looked at. */
    peer_heat(ipc, p, (1u << p->geometry.lanes_count) - 1);
}

static void peer_event(struct ipc *ipc, struct peer *p, enum tag_kind kind,
                       const struct uring_event *event)
{
    if (kind == TAG_PEER_BELL) {
        bell_ready(ipc, p);
    } else if (kind == TAG_PEER_SOCKET && p->state == PEER_HELLO) {
        listener_hello(ipc, p);
    } else if (kind == TAG_PEER_SOCKET && p->state == PEER_ATTACHED) {
        char byte;
        ssize_t n = recv(p->socket_fd, &byte, sizeof byte, MSG_DONTWAIT);
        struct wire_fault fault = {.status = DYNASOR_E_PROTOCOL, .field = DYNASOR_FIELD_HELLO};
        if (n > 0)
            peer_violation(ipc, p, &fault); /* after the hello a client has nothing to say there */
        else if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
            peer_close(ipc, p, NULL);
    } else if (kind == TAG_PEER_PID) {
        peer_close(ipc, p, NULL); /* the process ended; a child may still hold the socket */
    }
    if (event->last && (p->state == PEER_HELLO || p->state == PEER_ATTACHED)) {
        int fd = kind == TAG_PEER_BELL ? p->bell_fd : p->socket_fd;
        int r = uring_poll_add(ipc->uring, fd, kind == TAG_PEER_BELL ? POLLIN : POLLIN | POLLRDHUP,
                               event->tag);
        ASSERT(r == 0); /* the submission queue is emptied whenever it is full */
    }
}

static void rearm(struct ipc *ipc, const struct uring_event *event, int fd)
{
    if (event->last && uring_poll_add(ipc->uring, fd, POLLIN, event->tag) < 0)
        log_error("a poll could not be armed again");
}

static void dispatch(struct ipc *ipc, const struct uring_event *event)
{
    enum tag_kind kind = (enum tag_kind)(event->tag >> 56);
    uint32_t generation = (uint32_t)(event->tag >> 32) & 0xffffffu;
    uint32_t slot = (uint32_t)event->tag;
    if (event->res == -ECANCELED)
        return; /* we removed it */
    switch (kind) {
    case TAG_LISTEN:
        ipc->accept_ready = true;
        rearm(ipc, event, ipc->listen_fd);
        break;
    case TAG_CONTROL_LISTEN:
        control_accept(ipc);
        rearm(ipc, event, ipc->control_listen_fd);
        break;
    case TAG_CONTROL:
        if (ipc->controls[slot] >= 0 && (ipc->control_generation[slot] & 0xffffffu) == generation)
            control_ready(ipc, slot, event->last);
        break;
    case TAG_SIGNAL:
        signal_ready(ipc);
        rearm(ipc, event, ipc->signal_fd);
        break;
    case TAG_WATCH: /* whoever was to be woken is polled in every turn */
        if (event->last)
            (void)ipc_watch(ipc, (int)slot); /* fails only out of memory: polling goes on awake */
        break;
    case TAG_PEER_SOCKET:
    case TAG_PEER_BELL:
    case TAG_PEER_PID: {
        struct peer *p = ipc_peer(ipc, slot);
        if ((p->generation & 0xffffffu) == generation &&
            (p->state == PEER_HELLO || p->state == PEER_ATTACHED))
            peer_event(ipc, p, kind, event);
        break;
    }
    default:
        ASSERT(false); /* every tag is made by tag_make() */
    }
}

int ipc_watch(struct ipc *ipc, int fd)
{
    return uring_poll_add(ipc->uring, fd, POLLIN, tag_make(TAG_WATCH, 0, (uint32_t)fd));
}

static uint32_t reactor_poll(struct ipc *ipc)
{
    struct uring_event events[EVENTS_MAX];
    if (!uring_pending(ipc->uring))
        return 0;
    uint32_t count = uring_drain(ipc->uring, events, EVENTS_MAX);
    for (uint32_t i = 0; i < count; i++)
        dispatch(ipc, &events[i]);
    return count;
}

/* Raises the lane's need and looks once more. True: it may cool; false: there is work after all. */
static bool lane_cool(struct peer *p, struct lane *l)
{
    bell_raise(&l->d2c->need, &l->need_ticket);
    p->bells_asked++;
    bool waits_for_credit = l->stalled || l->blocked_first != PROGRAM_NONE;
    if (!l->stalled && ring_rx_peek(&l->rx) != RING_EMPTY)
        return false;
    return !waits_for_credit || shm_load_u64(&l->c2d->consumed) + l->tx.mask + 1 == l->tx.limit;
}

static void peer_cool(struct ipc *ipc, struct peer *p)
{
    if (p->lanes_hot == 0 && p->hot) {
        p->hot = false;
        TAILQ_REMOVE(&ipc->hot, p, link);
    }
}

static uint32_t lane_poll(struct ipc *ipc, struct peer *p, uint32_t lane_index)
{
    struct lane *l = &p->lanes[lane_index];
    uint32_t work = inbox_drain(ipc, p, lane_index);
    if (p->state == PEER_ATTACHED && l->blocked_first != PROGRAM_NONE) {
        uint64_t limit = l->tx.limit;
        outbox_retry(ipc, p, lane_index);
        work += limit != l->tx.limit;
    }
    if (work || p->state != PEER_ATTACHED || ipc->now_ns - l->active_ns < LANE_HOT_NS ||
        l->throttled_until_ns > ipc->now_ns)
        return work;
    if (lane_cool(p, l))
        p->lanes_hot = (uint16_t)(p->lanes_hot & ~(1u << lane_index));
    else
        bell_lower(&l->d2c->need, &l->need_ticket);
    return 0;
}

static uint32_t lanes_poll(struct ipc *ipc)
{
    uint32_t work = 0;
    struct peer *next;
    for (struct peer *p = TAILQ_FIRST(&ipc->hot); p; p = next) {
        next = TAILQ_NEXT(p, link);
        for (uint32_t mask = p->lanes_hot; mask && p->state == PEER_ATTACHED; mask &= mask - 1)
            work += lane_poll(ipc, p, (uint32_t)__builtin_ctz(mask));
        if (p->state == PEER_ATTACHED)
            peer_cool(ipc, p);
    }
    return work;
}

static void counters_publish(struct ipc *ipc)
{
    struct programs_stats stats;
    programs_stats(ipc->programs, &stats);
    counter_set(ipc->counters, COUNTER_clients, ipc->clients_count);
    counter_set(ipc->counters, COUNTER_programs_active, stats.active_count);
    counter_set(ipc->counters, COUNTER_programs_paused, stats.paused_count);
    counter_set(ipc->counters, COUNTER_tokens_decoded, stats.tokens_count);
    counter_set(ipc->counters, COUNTER_steps, stats.sched.steps_count);
    counter_set(ipc->counters, COUNTER_rows, stats.sched.rows_count);
    counter_set(ipc->counters, COUNTER_rows_discarded, stats.sched.rows_discarded_count);
    counter_set(ipc->counters, COUNTER_programs_logged, stats.logged_count);
    counter_set(ipc->counters, COUNTER_programs_unlogged, stats.unlogged_count);
    counter_set(ipc->counters, COUNTER_quota_region_bytes,
                quota_total(ipc->quota, QUOTA_REGION_BYTES));
    counter_set(ipc->counters, COUNTER_quota_queued_bytes,
                quota_total(ipc->quota, QUOTA_QUEUED_BYTES));
    counter_set(ipc->counters, COUNTER_descriptors, ipc->descriptors_count);
}

static void housekeeping(struct ipc *ipc)
{
    if (ipc->now_ns - ipc->housekeeping_ns < HOUSEKEEPING_NS)
        return;
    ipc->housekeeping_ns = ipc->now_ns;
    listener_expire(ipc);
    outbox_expire(ipc);
    struct peer *p;
    while ((p = TAILQ_FIRST(&ipc->leaving))) {
        TAILQ_REMOVE(&ipc->leaving, p, link);
        if (!peer_leave(ipc, p)) {
            TAILQ_INSERT_HEAD(&ipc->leaving, p, link);
            break;
        }
    }
    peer_store_retry(ipc);
    counters_publish(ipc);
}

uint32_t ipc_poll(struct ipc *ipc, uint64_t now_ns)
{
    ipc->now_ns = now_ns;
    uint32_t work = outbox_poll(ipc); /* first what is ready: its clients wait for it */
    outbox_wake(ipc);
    work += reactor_poll(ipc);
    work += lanes_poll(ipc);
    outbox_wake(ipc); /* refusals, and what credit let out */
    work += listener_accept(ipc);
    housekeeping(ipc);
    return work;
}

/* Whether something waits for a clock that no descriptor rings. */
static uint64_t timer_due(const struct ipc *ipc, uint64_t until_ns)
{
    bool soon = !TAILQ_EMPTY(&ipc->leaving) || !TAILQ_EMPTY(&ipc->storing) || ipc->accept_ready;
    bool later = !TAILQ_EMPTY(&ipc->hello) || !TAILQ_EMPTY(&ipc->blocked);
    uint64_t due_ns = soon    ? ipc->now_ns + HOUSEKEEPING_NS
                      : later ? ipc->now_ns + EXPIRY_NS
                              : UINT64_MAX;
    return due_ns < until_ns ? due_ns : until_ns;
}

/* Every lane that a bell can bring back; a throttled one stays hot, a clock brings it on. */
static bool all_cool(struct ipc *ipc, uint64_t *until_ns)
{
    struct peer *next;
    for (struct peer *p = TAILQ_FIRST(&ipc->hot); p; p = next) {
        next = TAILQ_NEXT(p, link);
        for (uint32_t mask = p->lanes_hot; mask; mask &= mask - 1) {
            uint32_t i = (uint32_t)__builtin_ctz(mask);
            uint64_t due_ns = p->lanes[i].throttled_until_ns;
            if (due_ns > ipc->now_ns) {
                *until_ns = due_ns < *until_ns ? due_ns : *until_ns;
                continue;
            }
            if (!lane_cool(p, &p->lanes[i]))
                return false; /* stays hot; a raised need costs the client one needless ring */
            p->lanes_hot = (uint16_t)(p->lanes_hot & ~(1u << i));
        }
        peer_cool(ipc, p);
    }
    return true;
}

static void cpu_publish(struct ipc *ipc)
{
    int cpu = sched_getcpu();
    struct peer *p;
    TAILQ_FOREACH(p, &ipc->hot, link)
    {
        if (p->daemon_cpu == (uint32_t)cpu)
            continue;
        p->daemon_cpu = (uint32_t)cpu;
        struct region_d2c_header *h = (struct region_d2c_header *)(void *)p->d2c;
        shm_store_u32(&h->owner.daemon_cpu, (uint32_t)cpu);
    }
}

bool ipc_sleep(struct ipc *ipc, uint64_t now_ns, uint64_t until_ns)
{
    ipc->now_ns = now_ns;
    cpu_publish(ipc);
    if (!all_cool(ipc, &until_ns) || uring_pending(ipc->uring))
        return false;
    counters_publish(ipc);
    uint64_t due_ns = timer_due(ipc, until_ns);
    if (due_ns <= now_ns)
        return false;
    counter_add(ipc->counters, COUNTER_sleeps, 1);
    int r = uring_wait(ipc->uring, due_ns == UINT64_MAX ? UINT64_MAX : due_ns - now_ns);
    if (r < 0)
        log_error("io_uring wait: %s", strerror(-r));
    return true;
}

uint64_t ipc_signals(struct ipc *ipc)
{
    uint64_t signals = ipc->signals;
    ipc->signals = 0;
    return signals;
}

void ipc_turn_done(struct ipc *ipc, uint64_t turn_ns)
{
    counter_add(ipc->counters, COUNTER_loops, 1);
    if (turn_ns > ipc->counters->value[COUNTER_loop_max_ns])
        counter_set(ipc->counters, COUNTER_loop_max_ns, turn_ns);
}
