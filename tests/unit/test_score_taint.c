/* tests/unit/test_score_taint.c: a reward model whose score is NaN. What it computed on the way is not found by the
 * next one that reads the same: it is computed again, and a sequence that shares its first pages with the
 * spoiled one, and nothing else, is scored as if there had been none. */
#include <math.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/sched/sched.h"
#include "tests/lib/check.h"
#include "tests/lib/tiny.h"

#define PROMPT_TOKENS (4 * OPS_PAGE_TOKENS)
#define BAD_TOKEN 7u

struct rig {
    char *folders[2];
    struct engine *engine;
    struct sched *sched;
};

static void rig_open(struct rig *r)
{
    char message[ENGINE_MESSAGE_BYTES] = "";
    struct engine_config config = {.ranks_count = 1,
                                   .threads_count = 1,
                                   .cpu_level = -1,
                                   .rows_max = 8,
                                   .tokens_max = 64,
                                   .context_tokens = 8 * OPS_PAGE_TOKENS,
                                   .kv_bytes = 8u << 20,
                                   .dot_layer = -1};
    *r = (struct rig){.folders = {tiny_write(TINY_LLAMA, 5), tiny_write(TINY_REWARD, 6)}};
    tiny_spoil(r->folders[1], BAD_TOKEN);
    config.directory[ENGINE_POLICY] = r->folders[0];
    config.directory[ENGINE_REWARD] = r->folders[1];
    CHECK(engine_open(&config, message, &r->engine) == 0, "%s", message);
    assert_int_equal(sched_new(&(struct sched_config){.role = ENGINE_REWARD,
                                                      .seqs_max = 8,
                                                      .groups_max = 8,
                                                      .rows_max = 8,
                                                      .tokens_max = 64,
                                                      .poison = true},
                               r->engine, &r->sched),
                     0);
}

static void rig_close(struct rig *r)
{
    sched_free(r->sched);
    engine_close(r->engine);
    tiny_remove(r->folders[0]);
    tiny_remove(r->folders[1]);
}

/* Reads a prompt to its score, and forgets it. What was found of it in the cache is in *ret_cached. */
static float score(struct rig *r, const uint32_t *prompt, uint64_t *ret_cached)
{
    struct sched_result result;
    struct sched_stats before, after;
    uint32_t seq;
    sched_stats(r->sched, &before);
    assert_int_equal(sched_add(r->sched,
                               &(struct sched_seq_args){.tenant = 1,
                                                        .prompt = prompt,
                                                        .prompt_tokens = PROMPT_TOKENS,
                                                        .stem = true,
                                                        .want = SCHED_WANT_SCORE},
                               &seq),
                     SCHED_OK);
    for (uint32_t turns = 0;; turns++) {
        CHECK(turns < 10000, "no score comes");
        struct pollfd fd = {.fd = sched_fd(r->sched), .events = POLLIN};
        if (sched_poll(r->sched, 1) == 0 && sched_due_ns(r->sched) != 0)
            (void)poll(&fd, 1, 10);
        if (sched_next(r->sched, &result))
            break;
    }
    assert_int_equal(result.kind, SCHED_READY);
    sched_remove(r->sched, seq);
    sched_stats(r->sched, &after);
    *ret_cached = after.cached_tokens_count - before.cached_tokens_count;
    return result.score;
}

static void what_a_bad_score_was_read_from_is_not_found_again(void **state)
{
    (void)state;
    struct rig r;
    uint32_t good[PROMPT_TOKENS], bad[PROMPT_TOKENS];
    uint64_t cached;
    for (uint32_t i = 0; i < PROMPT_TOKENS; i++)
        good[i] = bad[i] = 20 + (i * 13) % 200;
    bad[2 * OPS_PAGE_TOKENS + 3] = BAD_TOKEN; /* its third page; the first two are the good one's */
    rig_open(&r);
    assert_true(isnan(score(&r, bad, &cached)));
    assert_int_equal(cached, 0);
    assert_true(isnan(score(&r, bad, &cached)));
    CHECK(cached == 0, "%u tokens of it are found", (unsigned)cached);
    float clean = score(&r, good, &cached);
    assert_true(isfinite(clean));
    assert_int_equal(cached, 0);
    float again = score(&r, good, &cached);
    assert_true(cached > 0); /* so it would have been */
    assert_memory_equal(&clean, &again, sizeof clean);
    rig_close(&r);
    struct rig fresh; /* where nothing was ever spoiled */
    rig_open(&fresh);
    float alone = score(&fresh, good, &cached);
    assert_memory_equal(&clean, &alone, sizeof clean);
    rig_close(&fresh);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_bad_score_was_read_from_is_not_found_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
