#include "client/parts.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_futex_waitv /* linux 5.16 */
#define SYS_futex_waitv 449
#endif

#define SPIN_CLOCK_TURNS 16u /* pauses between two looks at the clock */
#define SPIN_OWNER_TURNS 64u /* looks at the clock between two looks at the daemon */

uint64_t wait_now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t); /* cannot fail: the clock exists */
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t wait_deadline_ns(uint64_t timeout_ns)
{
    if (timeout_ns == DYNASOR_FOREVER)
        return UINT64_MAX;
    uint64_t now = wait_now_ns();
    return timeout_ns > UINT64_MAX - 1 - now ? UINT64_MAX - 1 : now + timeout_ns;
}

uint64_t wait_away_ns(void)
{
    uint64_t now = wait_now_ns();
    return now + AWAY_MAX_NS / 2 + now * 0x9e3779b97f4a7c15ull % (AWAY_MAX_NS / 2);
}

static struct timespec timespec_of(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000u),
                             .tv_nsec = (long)(ns % 1000000000u)};
}

static void fill(struct futex_waitv *w, const struct wait_word *from)
{
    *w = (struct futex_waitv){.val = from->value,
                              .uaddr = (uintptr_t)from->word,
                              .flags = FUTEX_32 | (from->shared ? 0u : FUTEX_PRIVATE_FLAG)};
}

/* Where futex_waitv is missing or forbidden: one word and short sleeps. */
static bool sleep_simple(const struct wait_word *word, uint64_t until_ns)
{
    uint64_t now = wait_now_ns();
    if (now >= until_ns)
        return false;
    uint64_t left = until_ns - now;
    struct timespec t = timespec_of(left < SLEEP_SIMPLE_NS ? left : SLEEP_SIMPLE_NS);
    int op = FUTEX_WAIT | (word->shared ? 0 : FUTEX_PRIVATE_FLAG);
    long rc = syscall(SYS_futex, word->word, op, word->value, &t, NULL, 0);
    return rc == 0 || errno != ETIMEDOUT || wait_now_ns() < until_ns;
}

bool wait_sleep(const struct wait_word words[2], uint64_t until_ns)
{
    struct futex_waitv w[2];
    unsigned count = words[1].word ? 2 : 1;
    for (unsigned i = 0; i < count; i++)
        fill(&w[i], &words[i]);
    struct timespec until = timespec_of(until_ns);
    if (syscall(SYS_futex_waitv, w, count, 0u, &until, CLOCK_MONOTONIC) >= 0)
        return true;
    if (errno == ETIMEDOUT)
        return false;
    if (errno == EAGAIN || errno == EINTR)
        return true;
    return sleep_simple(&words[0], until_ns);
}

void wait_wake(const uint32_t *word, bool shared)
{
    /* Wakes, whatever it returns: an address that is mapped cannot fail. */
    (void)syscall(SYS_futex, word, FUTEX_WAKE | (shared ? 0 : FUTEX_PRIVATE_FLAG), INT_MAX, NULL,
                  NULL, 0);
}

/* How to be woken changes only while the need is lowered, and before it is raised again. */
void wait_arm(struct channel *ch, enum region_need kind)
{
    if (ch->need_kind != (uint32_t)kind) {
        ch->need_kind = (uint32_t)kind;
        shm_store_u32(&ch->c2d_lane->need_kind, (uint32_t)kind);
        bell_fence();
    }
    bell_raise(&ch->c2d_lane->need, &ch->need_ticket);
}

void wait_disarm(struct channel *ch)
{
    bell_lower(&ch->c2d_lane->need, &ch->need_ticket);
}

static bool spin_wait(const struct dynasor_client *c, const struct channel *ch, uint64_t until_ns)
{
    for (uint32_t turn = 1;; turn++) {
        for (unsigned i = 0; i < SPIN_CLOCK_TURNS; i++) {
            if (ring_rx_peek(&ch->rx) != RING_EMPTY)
                return true;
            shm_pause();
        }
        if (turn % SPIN_OWNER_TURNS == 0 &&
            (!owner_alive(shm_load_u32(&ch->owner->word)) || shm_load_u64(c->pulse) != ch->epoch))
            return true;
        if (wait_now_ns() >= until_ns)
            return false;
    }
}

static bool spin_first(const struct dynasor_client *c, struct channel *ch, uint64_t now_ns,
                       uint64_t until_ns)
{
    uint32_t budget_ns = spin_begin(&ch->spin);
    /* On the daemon's own CPU it cannot answer while we spin. */
    if (budget_ns == 0 || (uint32_t)sched_getcpu() == shm_load_u32(&ch->owner->daemon_cpu))
        return false;
    bool cut = until_ns - now_ns < budget_ns;
    bool hit = spin_wait(c, ch, cut ? until_ns : now_ns + budget_ns);
    if (hit || !cut)
        spin_end(&ch->spin, hit);
    return hit;
}

bool wait_once(struct dynasor_client *c, struct channel *ch, uint64_t deadline_ns, bool unsent)
{
    uint64_t now = wait_now_ns();
    uint64_t until = deadline_ns - now < ch->belt_ns ? deadline_ns : now + ch->belt_ns;
    if (now >= deadline_ns)
        return true;
    if (unsent && until > now + UNSENT_POLL_NS)
        until = now + UNSENT_POLL_NS; /* nobody wakes us for room in the submission ring */
    if (spin_first(c, ch, now, until))
        return false;
    next_credit_all(ch);
    struct wait_word words[2] = {{.word = &ch->d2c_lane->wake, .shared = 1},
                                 {.word = &ch->owner->word, .shared = 1}};
    words[0].value = shm_load_u32(words[0].word);
    wait_arm(ch, REGION_NEED_FUTEX);
    words[1].value = shm_load_u32(words[1].word);
    bool woken = true;
    if (ring_rx_peek(&ch->rx) == RING_EMPTY && owner_alive(words[1].value) &&
        shm_load_u64(c->pulse) == ch->epoch)
        woken = wait_sleep(words, until);
    wait_disarm(ch);
    session_tell_death(ch->mapping);
    if (woken)
        return false;
    /* Thousands of idle threads must not keep a machine busy with looking. */
    ch->belt_ns = ch->belt_ns < BELT_MAX_NS ? ch->belt_ns * 2 : BELT_MAX_NS;
    return true;
}
