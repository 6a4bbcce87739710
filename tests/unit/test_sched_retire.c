/* tests/unit/test_sched_retire.c: a sequence that is removed or paused while a step that is posted writes its pages, on
 * a real engine and a cache that holds two. Removed, its pages are free at once, and whoever comes next gets them
 * in the same breath: that one's rows are of later steps, which the engine takes in their order, so that nothing of
 * the step in flight is seen, neither by it nor by the neighbour: both write what they write alone. What
 * the step brings for who was removed is nobody's. Freed pages are poisoned with NaN. One step at a time, and planned
 * ahead. */
#include <inttypes.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/base/rng.h"
#include "daemon/engine/impl.h"
#include "daemon/sched/sched.h"
#include "tests/lib/check.h"
#include "tests/lib/tiny.h"

#define CONTEXT 96u
#define OWN 24u
#define PROMPT_MAX (CONTEXT - OWN)
#define PAGES_OF_ONE ((CONTEXT + OPS_PAGE_TOKENS - 1) / OPS_PAGE_TOKENS)
#define PAGES (2 * PAGES_OF_ONE)
enum { VICTIM = 0, NEIGHBOUR = 1, NEXT = 2, USERS = 3 };

struct rig {
    char *folder;
    struct engine *engine;
    struct sched *sched;
};

struct life {
    uint32_t prompt[PROMPT_MAX];
    uint32_t prompt_count;
    uint64_t seed;
    uint32_t seq;
    uint32_t own[OWN];
    uint32_t own_count;
};

static void rig_open(struct rig *r, uint32_t steps_max)
{
    char message[ENGINE_MESSAGE_BYTES] = "";
    struct engine_info info;
    r->folder = tiny_write(TINY_LLAMA, 5);
    struct engine_config config = {.ranks_count = 1,
                                   .threads_count = 1,
                                   .cpu_level = -1,
                                   .rows_max = 4,
                                   .tokens_max = 16, /* prompts come in chunks */
                                   .context_tokens = CONTEXT,
                                   .kv_bytes = 1u << 20,
                                   .steps_max = steps_max,
                                   .directory[ENGINE_POLICY] = r->folder};
    CHECK(engine_open(&config, message, &r->engine) == 0, "%s", message);
    engine_info(r->engine, ENGINE_POLICY, &info);
    config.kv_bytes = config.kv_bytes / info.kv_pages * PAGES;
    engine_close(r->engine);
    CHECK(engine_open(&config, message, &r->engine) == 0, "%s", message);
    engine_info(r->engine, ENGINE_POLICY, &info);
    assert_int_equal(info.kv_pages, PAGES);
}

static void sched_make(struct rig *r)
{
    assert_int_equal(sched_new(&(struct sched_config){.seqs_max = USERS,
                                                      .groups_max = USERS,
                                                      .rows_max = 4,
                                                      .tokens_max = 16,
                                                      .poison = true},
                               r->engine, &r->sched),
                     0);
}

static void rig_close(struct rig *r)
{
    engine_close(r->engine);
    tiny_remove(r->folder);
}

static int add(struct rig *r, struct life *l, uint32_t user)
{
    return sched_add(r->sched,
                     &(struct sched_seq_args){
                         .seed = l->seed,
                         .user = user,
                         .tenant = 1,
                         .group = user,
                         .prompt = l->prompt,
                         .prompt_tokens = l->prompt_count,
                         .max_tokens = OWN,
                         .sampling = {.temperature = 0.8f, .top_p = 0.95f, .repetition = 1}},
                     &l->seq);
}

static void take(struct rig *r, struct life *lives, uint32_t gone)
{
    struct sched_result result;
    while (sched_next(r->sched, &result)) {
        struct life *l = &lives[result.user];
        CHECK(result.user != gone, "it was removed");
        CHECK(result.sampled.numeric == 0, "user %u reads what was freed", result.user);
        assert_int_equal(result.position, l->own_count);
        l->own[l->own_count++] = result.sampled.token;
        if (l->own_count == OWN)
            sched_remove(r->sched, l->seq);
    }
}

/* Posts what it can and takes what has come. */
static void turn(struct rig *r, struct life *lives, uint32_t gone)
{
    struct pollfd fd = {.fd = sched_fd(r->sched), .events = POLLIN};
    if (sched_poll(r->sched, 0) == 0 && sched_due_ns(r->sched) == UINT64_MAX)
        (void)poll(&fd, 1, 1000);
    take(r, lives, gone);
}

static uint32_t in_flight(const struct rig *r)
{
    return r->engine->queues[0].count;
}

/* Until its own step is in flight and nothing of it has been seen. */
static bool fly(struct rig *r, struct life *lives, uint32_t tokens)
{
    for (uint32_t i = 0; i < 10000000 && lives[VICTIM].own_count < OWN - 2; i++) {
        (void)sched_poll(r->sched, 0);
        uint32_t before = lives[VICTIM].own_count;
        take(r, lives, USERS);
        if (before == lives[VICTIM].own_count && before >= tokens && in_flight(r))
            return true;
    }
    return false;
}

static void alone(struct rig *r, const struct life *like)
{
    struct life l = *like;
    l.own_count = 0;
    sched_make(r);
    assert_int_equal(add(r, &l, VICTIM), SCHED_OK);
    while (l.own_count < OWN)
        turn(r, &l, USERS);
    assert_memory_equal(l.own, like->own, sizeof l.own);
    sched_free(r->sched);
}

static uint32_t pages_used(const struct rig *r)
{
    struct sched_stats stats;
    sched_stats(r->sched, &stats);
    return stats.kv_pages_used + stats.kv_pages_reserved;
}

static void life_make(struct life *l, uint64_t seed, const struct life *like, struct rng *rng)
{
    *l = (struct life){.seed = seed};
    l->prompt_count = PAGES_OF_ONE * OPS_PAGE_TOKENS - OWN - (uint32_t)rng_below(rng, 9);
    for (uint32_t i = 0; i < l->prompt_count; i++)
        l->prompt[i] = (uint32_t)rng_below(rng, TINY_VOCABULARY);
    if (like) /* some of it is in the tree */
        memcpy(l->prompt, like->prompt, (size_t)rng_below(rng, 40) * sizeof *l->prompt);
}

/* False: no step was in flight at the right moment. */
static bool removed_in_flight(struct rig *r, struct rng *rng, bool pause)
{
    struct life lives[USERS];
    uint64_t seed = rng_next(rng);
    uint32_t tokens = (uint32_t)rng_below(rng, 12);
    for (uint32_t u = 0; u < USERS; u++)
        life_make(&lives[u], seed + u, u == NEXT ? &lives[VICTIM] : NULL, rng);
    sched_make(r);
    assert_int_equal(add(r, &lives[VICTIM], VICTIM), SCHED_OK);
    assert_int_equal(add(r, &lives[NEIGHBOUR], NEIGHBOUR), SCHED_OK);
    bool flies = fly(r, lives, tokens);
    if (flies && !pause) {
        assert_int_equal(add(r, &lives[NEXT], NEXT), SCHED_E_FULL);
        assert_int_equal(pages_used(r), PAGES);
        sched_remove(r->sched, lives[VICTIM].seq);
        assert_true(in_flight(r) > 0);
        assert_true(pages_used(r) <= PAGES_OF_ONE); /* the neighbour's: it returned them */
        assert_int_equal(add(r, &lives[NEXT], NEXT), SCHED_OK);
        uint32_t used = pages_used(r);
        turn(r, lives, VICTIM); /* the step retires: nothing returns twice */
        assert_int_equal(pages_used(r), used);
    } else if (flies) {
        sched_pause(r->sched, lives[VICTIM].seq);
        assert_int_equal(pages_used(r), PAGES); /* its row is delivered yet */
        while (add(r, &lives[NEXT], NEXT) != SCHED_OK)
            turn(r, lives, USERS);
    }
    while (flies && (lives[NEIGHBOUR].own_count < OWN || lives[NEXT].own_count < OWN))
        turn(r, lives, pause ? USERS : VICTIM);
    if (flies && pause) {
        sched_resume(r->sched, lives[VICTIM].seq);
        while (lives[VICTIM].own_count < OWN)
            turn(r, lives, USERS);
    }
    if (flies)
        assert_int_equal(pages_used(r), 0);
    sched_free(r->sched);
    for (uint32_t u = pause ? VICTIM : NEIGHBOUR; flies && u < USERS; u++)
        alone(r, &lives[u]);
    return flies;
}

static void retire(uint32_t steps_max, bool pause)
{
    enum { SEEN = 60, ROUNDS = 5000 };
    struct rig r;
    struct rng rng = {.state = check_number("SEED", now_ns())};
    uint32_t seen = 0, rounds = 0;
    (void)printf("SEED=%" PRIu64 "\n", rng.state);
    rig_open(&r, steps_max);
    for (; seen < SEEN; rounds++) {
        CHECK(rounds < ROUNDS, "only %u times a step was in flight", seen);
        seen += removed_in_flight(&r, &rng, pause);
    }
    rig_close(&r);
    (void)printf("%u of %u with a step in flight\n", seen, rounds);
}

static void sched_pages_of_who_is_removed_in_flight_are_safe(void **state)
{
    (void)state;
    retire(1, false);
    retire(2, false);
}

static void sched_who_is_paused_in_flight_gives_pages_when_it_is_back(void **state)
{
    (void)state;
    retire(1, true);
    retire(2, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sched_pages_of_who_is_removed_in_flight_are_safe),
        cmocka_unit_test(sched_who_is_paused_in_flight_gives_pages_when_it_is_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
