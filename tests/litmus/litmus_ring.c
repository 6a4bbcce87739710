/* tests/litmus/litmus_ring.c: two threads run the real shm/ring.h and shm/bell.h against each other,
 * in both directions at once, on one mapping.
 *
 * Each end sends MESSAGES records and takes as many, with random bursts and stalls, and sleeps when
 * it has nothing to do: one end on a futex word, the other on an eventfd, as client and daemon do.
 * Every record carries its number, a checksum and the place of a payload that is written and read
 * with plain accesses: ThreadSanitizer sees a race on the payload as soon as an ORDER pair of the
 * ring is too weak (it cannot see races of one memory mapped twice, hence one mapping).
 *
 * Shown: no record lost, doubled, torn or reordered, no bad sequence or credit, no lost wake-up. A
 * sleep that ends by its cap although there was work is a lost wake-up only if the wake still has
 * not come LATE_NS later: a host that stops a thread between publishing and waking is forgiven.
 *
 * -DLITMUS_BUG=n weakens one place of the headers; test_mutants.sh shows that each is caught under
 * ThreadSanitizer:
 *  1 sequence stored relaxed      2 sequence loaded relaxed     3 credit stored relaxed
 *  4 credit loaded relaxed        8 credit published before the payload is read
 * 5 (no publisher's fence), 6 (no sleeper's fence) and 7 (no second look) are for runs by hand: with
 * all the traffic here they show once in many runs, in litmus_bell.c at once.
 *
 *   litmus_ring [messages] */
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "shm/atomic.h"

#ifndef LITMUS_BUG
#define LITMUS_BUG 0
#endif

#if LITMUS_BUG
/* The accessors as the headers see them below, with the one seeded weakness. */
static inline void real_store_release(uint64_t *p, uint64_t v)
{
    shm_store_release_u64(p, v);
}
static inline uint64_t real_load_acquire(const uint64_t *p)
{
    return shm_load_acquire_u64(p);
}
static inline void real_fence(void)
{
    shm_fence_full();
}
#define IN(bug, function) (LITMUS_BUG == (bug) && strcmp(__func__, function) == 0)
#define shm_store_release_u64(p, v)                                                                \
    (IN(1, "ring_tx_push") || IN(3, "ring_rx_publish") ? shm_store_u64(p, v)                       \
                                                       : real_store_release(p, v))
#define shm_load_acquire_u64(p)                                                                    \
    (IN(2, "ring_rx_peek") || IN(4, "ring_tx_credit") ? shm_load_u64(p) : real_load_acquire(p))
#define shm_fence_full()                                                                           \
    (IN(5, "bell_fence") || IN(6, "bell_raise") ? __atomic_signal_fence(__ATOMIC_SEQ_CST)          \
                                                : real_fence())
#endif

#include "shm/bell.h"
#include "shm/ring.h"

#define SLOTS 64u
#define PAYLOAD_WORDS 4
#define SLEEP_CAP_NS 100000000ll
#define LATE_NS 2000000000ll

struct way { /* from one end to the other; each line pair has one writer, as in region.h */
    _Alignas(128) struct ring_slot slot[SLOTS];
    _Alignas(128) uint64_t consumed;
    _Alignas(128) uint64_t payload[SLOTS][PAYLOAD_WORDS]; /* plain accesses only */
};

struct shared {
    struct way way[2];
    struct {
        _Alignas(128) uint32_t need;
        _Alignas(128) uint32_t wake; /* futex word of end 0 */
    } end[2];
};

struct end {
    struct shared *shared;
    uint64_t messages;
    uint64_t seed;
    uint64_t sleeps, wakes, caps;
    struct ring_tx tx;
    struct ring_rx rx;
    uint64_t credit_pos; /* published */
    uint32_t me, ticket, answered;
    int own_eventfd, peer_eventfd;
};

static uint32_t failed; /* set by either end; both stop */

static void fail(const struct end *e, const char *what)
{
    if (__atomic_exchange_n(&failed, 1u, __ATOMIC_RELAXED) == 0)
        printf("end %u: %s at sent %llu, taken %llu\n", e->me, what, (unsigned long long)e->tx.pos,
               (unsigned long long)e->rx.pos);
}

static bool stop(void)
{
    return shm_load_u32(&failed) != 0;
}

static uint64_t random_next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdull;
    return x ^ (x >> 29);
}

static void stall(struct end *e)
{
    uint64_t r = random_next(&e->seed);
    if (r % 4096 == 0) {
        struct timespec nap = {.tv_nsec = (long)(r >> 40) % 100000};
        (void)nanosleep(&nap, NULL); /* cut short is as good */
    } else if (r % 8 == 0) {
        for (uint64_t i = (r >> 32) % 200; i > 0; i--)
            shm_pause();
    }
}

/* The peer sleeps on what it chose: end 0 on its futex word, end 1 on its eventfd. System calls are
 * made raw: a sanitizer's wrapper would order the threads by the descriptor and hide a race. */
static void wake_peer(struct end *e)
{
    uint32_t peer = 1 - e->me;
    e->wakes++;
    if (peer == 0) {
        uint32_t *word = &e->shared->end[0].wake;
        shm_store_u32(word, shm_load_u32(word) + 1);
        (void)syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0); /* nobody waits: fine */
    } else {
        uint64_t one = 1;
        if (syscall(SYS_write, e->peer_eventfd, &one, sizeof one) != (long)sizeof one)
            fail(e, "eventfd write");
    }
}

/* Sleeps until woken (true) or until the time is over (false). */
static bool sleep_ns(struct end *e, uint32_t wake_seen, long long ns)
{
    struct timespec left = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
    if (e->me == 0) {
        long rc =
            syscall(SYS_futex, &e->shared->end[0].wake, FUTEX_WAIT, wake_seen, &left, NULL, 0);
        return rc == 0 || errno != ETIMEDOUT;
    }
    struct pollfd pfd = {.fd = e->own_eventfd, .events = POLLIN};
    uint64_t count;
    return syscall(SYS_ppoll, &pfd, 1, &left, NULL, 0) == 1 &&
           syscall(SYS_read, e->own_eventfd, &count, sizeof count) == (long)sizeof count;
}

static bool send_some(struct end *e)
{
    struct way *out = &e->shared->way[e->me];
    uint64_t burst = 1 + random_next(&e->seed) % 16;
    uint64_t before = e->tx.pos;
    if (e->tx.pos < e->messages && ring_tx_room(&e->tx) == 0 &&
        !ring_tx_credit(&e->tx, &out->consumed))
        fail(e, "impossible credit");
    while (burst-- > 0 && e->tx.pos < e->messages && ring_tx_room(&e->tx) > 0) {
        uint64_t word[RING_WORDS], *payload = out->payload[e->tx.pos % SLOTS];
        uint64_t check = 0;
        for (int i = 0; i < PAYLOAD_WORDS; i++)
            check += payload[i] = mix(e->tx.pos + (uint64_t)i + e->me);
        word[0] = e->tx.pos;
        word[1] = check;
        for (int i = 2; i < RING_WORDS; i++)
            word[i] = mix(e->tx.pos * 8 + (uint64_t)i);
        ring_tx_push(&e->tx, word);
    }
    return e->tx.pos != before;
}

static bool take_one(struct end *e)
{
    struct way *in = &e->shared->way[1 - e->me];
    uint64_t word[RING_WORDS], check = 0, pos = e->rx.pos;
    const uint64_t *payload = in->payload[pos % SLOTS];
    enum ring_peek peek = ring_rx_peek(&e->rx);
    if (peek == RING_BAD)
        fail(e, "bad sequence");
    if (peek != RING_READY)
        return false;
    ring_rx_take(&e->rx, word);
    if (LITMUS_BUG == 8)
        ring_rx_publish(&e->rx, &in->consumed);
    for (int i = 0; i < PAYLOAD_WORDS; i++)
        check += payload[i];
    bool whole = word[0] == pos && word[1] == check;
    for (int i = 2; i < RING_WORDS; i++)
        whole = whole && word[i] == mix(pos * 8 + (uint64_t)i);
    if (!whole)
        fail(e, "record torn, lost or doubled");
    return true;
}

static bool take_some(struct end *e)
{
    bool any = false;
    uint64_t burst = 1 + random_next(&e->seed) % 32;
    while (burst-- > 0 && take_one(e))
        any = true;
    return any;
}

/* Publishes the credit every quarter ring, and all of it before sleeping. */
static bool publish_credit(struct end *e, bool all)
{
    uint64_t due = e->rx.pos - e->credit_pos;
    if (due == 0 || (!all && due < SLOTS / 4))
        return false;
    ring_rx_publish(&e->rx, &e->shared->way[1 - e->me].consumed);
    e->credit_pos = e->rx.pos;
    return true;
}

static void bell(struct end *e)
{
    bell_fence();
    if (bell_wanted(&e->shared->end[1 - e->me].need, &e->answered))
        wake_peer(e);
}

/* Whether there is something to do: the second look. */
static bool look(struct end *e)
{
    if (ring_rx_peek(&e->rx) != RING_EMPTY)
        return true;
    return e->tx.pos < e->messages && ring_tx_credit(&e->tx, &e->shared->way[e->me].consumed) &&
           ring_tx_room(&e->tx) > 0;
}

static void wait_for_peer(struct end *e)
{
    uint32_t wake_seen = shm_load_u32(&e->shared->end[0].wake);
    bell_raise(&e->shared->end[e->me].need, &e->ticket);
    if (LITMUS_BUG == 7 || !look(e)) {
        e->sleeps++;
        while (!sleep_ns(e, wake_seen, SLEEP_CAP_NS) && !stop()) {
            e->caps++;
            if (!look(e))
                continue; /* the peer is slow, nothing was missed */
            if (!sleep_ns(e, wake_seen, LATE_NS))
                fail(e, "lost wake-up");
            break;
        }
    }
    bell_lower(&e->shared->end[e->me].need, &e->ticket);
}

static void *run_end(void *argument)
{
    struct end *e = argument;
    while ((e->tx.pos < e->messages || e->rx.pos < e->messages) && !stop()) {
        bool sent = send_some(e);
        bool taken = take_some(e);
        bool idle = !sent && !taken;
        if (publish_credit(e, idle) || sent)
            bell(e);
        else if (idle)
            wait_for_peer(e);
        stall(e);
    }
    publish_credit(e, true);
    bell(e);
    return NULL;
}

int main(int argc, char **argv)
{
#if defined(__SANITIZE_THREAD__)
    uint64_t messages = 200000;
#else
    uint64_t messages = 4000000;
#endif
    struct end end[2];
    pthread_t thread[2];
    int fd[2] = {eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    struct shared *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (argc > 1)
        messages = strtoull(argv[1], NULL, 10);
    if (shared == MAP_FAILED || fd[0] < 0 || fd[1] < 0 || messages == 0)
        return 1;
    for (uint32_t i = 0; i < 2; i++) {
        end[i] = (struct end){.shared = shared,
                              .messages = messages,
                              .me = i,
                              .seed = 0x9e3779b97f4a7c15ull + i,
                              .own_eventfd = fd[i],
                              .peer_eventfd = fd[1 - i]};
        ring_tx_init(&end[i].tx, shared->way[i].slot, SLOTS, 0, 0);
        ring_rx_init(&end[i].rx, shared->way[1 - i].slot, SLOTS, 0);
    }
    for (int i = 0; i < 2; i++)
        if (pthread_create(&thread[i], NULL, run_end, &end[i]) != 0)
            return 1;
    for (int i = 0; i < 2; i++)
        (void)pthread_join(thread[i], NULL); /* only fails for a thread that is not ours */
    for (int i = 0; i < 2; i++)
        printf("end %d: sent %llu, taken %llu, slept %llu, woke the peer %llu, caps %llu\n", i,
               (unsigned long long)end[i].tx.pos, (unsigned long long)end[i].rx.pos,
               (unsigned long long)end[i].sleeps, (unsigned long long)end[i].wakes,
               (unsigned long long)end[i].caps);
    return stop() ? 1 : 0;
}
