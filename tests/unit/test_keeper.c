/* tests/unit/test_keeper.c: the kernel marks and wakes every listed word when the daemon is killed.
 *
 * An owner process keeps 3,000 words with three keepers and is killed with SIGKILL; sleepers in this
 * process, on a read-only mapping, must wake within a second. Then the list: an owner that adds and
 * removes at random is killed at random points, and exactly the listed words are marked. Lastly an
 * owner is stopped after every single instruction of keeper_add() and keeper_remove(), and at each
 * the list is walked as the kernel would walk it. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "daemon/ipc/keeper.h"
#include "shm/atomic.h"
#include "tests/lib/check.h"

#define STRIDE 64u /* of nodes and of words, as in the daemon (there: a page) */
#define WORDS 3000u
#define KEEPERS 3u
#define SLEEPERS 48u
#define CHURN_WORDS 200u

enum listing { UNLISTED = 0, LISTED = 1, CHANGING = 2 };

/* Shared by owner and test. Nodes are at one address in both, so the test can walk them. */
struct field {
    uint8_t *nodes;
    uint8_t *words;            /* the owner's mapping */
    const uint8_t *words_seen; /* ours, read-only */
    uint32_t *listing;         /* enum listing of each, as the owner knows it */
    uint32_t *ready;
    uint32_t *turns; /* operations of the owner so far */
    uint64_t seed;
};

static struct keeper_node *node_at(const struct field *f, uint32_t i)
{
    return (struct keeper_node *)(void *)(f->nodes + (size_t)i * STRIDE);
}

static uint32_t *word_at(const struct field *f, uint32_t i)
{
    return (uint32_t *)(void *)(f->words + (size_t)i * STRIDE);
}

static uint32_t word_seen(const struct field *f, uint32_t i)
{
    return shm_load_u32((const uint32_t *)(const void *)(f->words_seen + (size_t)i * STRIDE));
}

static void field_open(struct field *f)
{
    size_t bytes = (size_t)WORDS * STRIDE;
    int fd = memfd_create("words", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    f->words = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    f->words_seen = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    assert_true(f->words != MAP_FAILED && f->words_seen != MAP_FAILED);
    (void)close(fd);
    f->nodes = shared_new(bytes);
    f->listing = shared_new(WORDS * sizeof *f->listing);
    f->ready = shared_new(sizeof *f->ready);
    f->turns = shared_new(sizeof *f->turns);
}

static void field_close(struct field *f)
{
    size_t bytes = (size_t)WORDS * STRIDE;
    (void)munmap(f->words, bytes);
    (void)munmap((void *)(uintptr_t)f->words_seen, bytes);
    (void)munmap(f->nodes, bytes);
    (void)munmap(f->listing, WORDS * sizeof *f->listing);
    (void)munmap(f->ready, sizeof *f->ready);
    (void)munmap(f->turns, sizeof *f->turns);
}

/* ---- the owner ---------------------------------------------------------------------------------- */

static void *keeper_thread(void *keeper)
{
    keeper_run(keeper);
    return NULL;
}

/* A keeper with its thread; in the owner, which is killed, so nobody joins it. */
static struct keeper *keeper_started(const struct field *f)
{
    struct keeper *k = NULL;
    pthread_t thread;
    CHECK(keeper_new(f->words - f->nodes, &k) == 0, "keeper_new");
    CHECK(pthread_create(&thread, NULL, keeper_thread, k) == 0, "pthread_create");
    return k;
}

static int owner_of_many(void *argument)
{
    const struct field *f = argument;
    struct keeper *keeper[KEEPERS];
    for (uint32_t i = 0; i < KEEPERS; i++)
        keeper[i] = keeper_started(f);
    for (uint32_t i = 0; i < WORDS; i++) {
        struct keeper *k = keeper[i / (WORDS / KEEPERS)];
        shm_store_u32(word_at(f, i), keeper_tid(k) | FUTEX_WAITERS);
        keeper_add(k, node_at(f, i));
    }
    shm_store_release_u32(f->ready, 1);
    (void)pause(); /* until it is killed */
    return 1;
}

static void owner_change(const struct field *f, struct keeper *k, uint32_t i)
{
    bool listed = shm_load_u32(&f->listing[i]) == LISTED;
    shm_store_release_u32(&f->listing[i], CHANGING);
    shm_fence_compiler();
    if (listed)
        keeper_remove(k, node_at(f, i));
    else
        keeper_add(k, node_at(f, i));
    shm_fence_compiler();
    shm_store_release_u32(&f->listing[i], listed ? UNLISTED : LISTED);
}

static int owner_that_churns(void *argument)
{
    const struct field *f = argument;
    struct rng rng = {.state = f->seed};
    struct keeper *k = keeper_started(f);
    uint32_t tid = keeper_tid(k);
    for (uint32_t i = 0; i < CHURN_WORDS; i++) /* all of them: only the list makes the difference */
        shm_store_u32(word_at(f, i), tid | FUTEX_WAITERS);
    for (uint32_t turns = 0; turns < UINT32_MAX; turns++) {
        owner_change(f, k, (uint32_t)rng_below(&rng, CHURN_WORDS));
        shm_store_release_u32(f->turns, turns + 1);
    }
    return 1; /* nobody came to kill it */
}

static bool is_set(void *word)
{
    return shm_load_acquire_u32(word) != 0;
}

/* ---- sleepers ----------------------------------------------------------------------------------- */

struct sleeper {
    const uint32_t *word;
    pthread_t thread;
    uint32_t tid;
    uint32_t marked; /* the word had FUTEX_OWNER_DIED */
    uint64_t woke_ns;
};

static void *sleeper_thread(void *argument)
{
    struct sleeper *s = argument;
    struct timespec limit = {.tv_sec = 30};
    shm_store_release_u32(&s->tid, (uint32_t)gettid());
    for (uint32_t seen; ((seen = shm_load_u32(s->word)) & FUTEX_OWNER_DIED) == 0;)
        if (syscall(SYS_futex, s->word, FUTEX_WAIT, seen, &limit, NULL, 0) != 0 &&
            errno == ETIMEDOUT)
            return NULL;
    s->woke_ns = now_ns();
    s->marked = 1;
    return NULL;
}

/* Whether the thread sleeps, which it does nowhere but in its futex. */
static bool sleeps(void *argument)
{
    struct sleeper *s = argument;
    char path[64], line[256] = "";
    if (!is_set(&s->tid))
        return false;
    (void)snprintf(path, sizeof path, "/proc/self/task/%" PRIu32 "/stat", s->tid);
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    bool ok = fgets(line, sizeof line, file) != NULL;
    (void)fclose(file); /* only read from */
    const char *end = ok ? strrchr(line, ')') : NULL;
    return end && strncmp(end, ") S", 3) == 0;
}

static void keeper_words_are_marked_and_sleepers_wake_when_the_owner_is_killed(void **state)
{
    static struct sleeper sleeper[SLEEPERS];
    struct field f = {0};
    (void)state;
    field_open(&f);
    pid_t owner = child_start(owner_of_many, &f);
    assert_true(wait_until(is_set, f.ready, 20 * NS_PER_S));
    for (uint32_t i = 0; i < SLEEPERS; i++) { /* first and last of each keeper among them */
        uint32_t word = i < 2 * KEEPERS ? i / 2 * (WORDS / KEEPERS) + i % 2 * (WORDS / KEEPERS - 1)
                                        : i * (WORDS / SLEEPERS);
        sleeper[i] = (struct sleeper){
            .word = (const uint32_t *)(const void *)(f.words_seen + (size_t)word * STRIDE)};
        assert_int_equal(pthread_create(&sleeper[i].thread, NULL, sleeper_thread, &sleeper[i]), 0);
    }
    for (uint32_t i = 0; i < SLEEPERS; i++)
        assert_true(wait_until(sleeps, &sleeper[i], 20 * NS_PER_S));
    for (uint32_t i = 0; i < WORDS; i++)
        assert_int_equal(word_seen(&f, i) & FUTEX_OWNER_DIED, 0);
    uint64_t killed_ns = now_ns();
    child_kill(owner);
    for (uint32_t i = 0; i < SLEEPERS; i++) {
        assert_int_equal(pthread_join(sleeper[i].thread, NULL), 0);
        assert_true(sleeper[i].marked);
        assert_true(sleeper[i].woke_ns - killed_ns < NS_PER_S);
    }
    for (uint32_t i = 0; i < WORDS; i++)
        assert_true(word_seen(&f, i) & FUTEX_OWNER_DIED);
    field_close(&f);
}

/* ---- kills at random ---------------------------------------------------------------------------- */

static void keeper_marks_exactly_what_is_listed_at_any_moment(void **state)
{
    struct rng rng = {.state = check_number("SEED", 1)};
    uint64_t kills = check_number("KILLS", 100), marked = 0;
    (void)state;
    for (uint64_t n = 0; n < kills; n++) {
        struct field f = {.seed = rng_next(&rng)};
        uint32_t turns = 1 + (uint32_t)rng_below(&rng, 20000), changing = 0;
        field_open(&f);
        pid_t owner = child_start(owner_that_churns, &f);
        uint64_t limit_ns = now_ns() + 20 * NS_PER_S;
        while (shm_load_acquire_u32(f.turns) < turns)
            assert_true(now_ns() < limit_ns);
        child_kill(owner); /* which it meets somewhere in the turns that follow */
        for (uint32_t i = 0; i < CHURN_WORDS; i++) {
            uint32_t listing = shm_load_acquire_u32(&f.listing[i]);
            bool died = (word_seen(&f, i) & FUTEX_OWNER_DIED) != 0;
            changing += listing == CHANGING;
            marked += died;
            if (listing != CHANGING)
                assert_int_equal(died, listing == LISTED);
        }
        assert_in_range(changing, 0, 1);
        field_close(&f);
    }
    assert_true(marked > kills);
}

/* ---- every instruction -------------------------------------------------------------------------- */

/* What the owner does while it is watched: node, added or removed; -1 is the end. */
static const int watched[] = {0, 1, 2, 3, 1, 3, 0, 2, 1, 1, 0, 1, 2, 0, 1, 2, -1};

/* head is published as its address; the listing says what must be found. */
struct watch {
    struct field field;
    struct robust_list_head **head;
};

static int owner_that_is_watched(void *argument)
{
    struct watch *w = argument;
    struct keeper *k = keeper_started(&w->field);
    uint32_t tid = keeper_tid(k);
    size_t bytes = 0;
    CHECK(syscall(SYS_get_robust_list, tid, w->head, &bytes) == 0, "get_robust_list");
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
        return 77;
    (void)raise(SIGSTOP);
    for (const int *i = watched; *i >= 0; i++)
        owner_change(&w->field, k, (uint32_t)*i);
    shm_store_release_u32(w->field.ready, 1);
    (void)pause(); /* until it is killed */
    return 1;
}

/* The walk of the kernel's exit_robust_list(). The head lies in the owner's private memory. */
static void walk(const struct watch *w, pid_t owner)
{
    uint32_t found = 0, steps = 0;
    errno = 0;
    long first = ptrace(PTRACE_PEEKDATA, owner, &(*w->head)->list.next, NULL);
    assert_int_equal(errno, 0);
    const struct robust_list *at = (const struct robust_list *)(uintptr_t)first;
    while (at != &(*w->head)->list) {
        size_t offset = (size_t)((const uint8_t *)at - w->field.nodes);
        assert_true((const uint8_t *)at >= w->field.nodes && offset < STRIDE * 8u);
        assert_true(offset % STRIDE == 0 && steps++ < 8);
        found |= 1u << (offset / STRIDE);
        at = at->next;
    }
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t listing = shm_load_acquire_u32(&w->field.listing[i]);
        if (listing != CHANGING)
            assert_int_equal((found >> i) & 1, listing == LISTED);
    }
}

static void keeper_list_is_whole_after_every_instruction(void **state)
{
    struct watch w = {0};
    int status = 0;
    uint64_t instructions = 0;
    (void)state;
    field_open(&w.field);
    w.head = shared_new(sizeof(void *));
    pid_t owner = child_start(owner_that_is_watched, &w);
    assert_int_equal(waitpid(owner, &status, 0), owner);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        printf("ptrace is not permitted\n");
        skip();
    }
    assert_true(WIFSTOPPED(status));
    while (!is_set(w.field.ready)) {
        walk(&w, owner);
        assert_int_equal(ptrace(PTRACE_SINGLESTEP, owner, NULL, NULL), 0);
        assert_int_equal(waitpid(owner, &status, 0), owner);
        assert_true(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
        instructions++;
    }
    walk(&w, owner);
    assert_true(instructions > 10 * (COUNT_OF(watched) - 1));
    child_kill(owner);
    (void)munmap(w.head, sizeof(void *));
    field_close(&w.field);
}

/* ---- life of a keeper --------------------------------------------------------------------------- */

static void keeper_thread_ends_when_it_is_stopped(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++) {
        struct keeper *k = NULL;
        pthread_t thread;
        assert_int_equal(keeper_new(0, &k), 0);
        assert_int_equal(pthread_create(&thread, NULL, keeper_thread, k), 0);
        if (i % 2) { /* otherwise it is perhaps stopped before it began */
            uint32_t tid = keeper_tid(k);
            assert_true(tid != 0 && tid != (uint32_t)gettid());
        }
        keeper_stop(k);
        assert_int_equal(pthread_join(thread, NULL), 0);
        keeper_free(k);
    }
    keeper_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeper_words_are_marked_and_sleepers_wake_when_the_owner_is_killed),
        cmocka_unit_test(keeper_marks_exactly_what_is_listed_at_any_moment),
        cmocka_unit_test(keeper_list_is_whole_after_every_instruction),
        cmocka_unit_test(keeper_thread_ends_when_it_is_stopped),
    };
    printf("SEED=%" PRIu64 "\n", check_number("SEED", 1));
    (void)fflush(stdout); /* or children would print it again */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
