/* tests/unit/test_cuda_ahead.c: steps that are planned while another runs, on the CUDA backend with two ranks. As
 * graphs and as launches they give the bits that steps give one at a time, with prompts in chunks, penalties and a
 * forced token between them; a scheduler ends with a device that breaks while a step waits behind the one that
 * fails. Here over the emulation; tests/gpu/test_ahead.c runs the same on a GPU. */
/* timeout: 300 */
#include <inttypes.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "daemon/engine/engine_model.h"
#include "daemon/sched/sched.h"
#include "tests/gpu/emulate/emulated.h"
#include "tests/lib/check.h"
#include "tests/lib/tiny.h"

#ifndef ON_GPU
#define ON_GPU 0
#endif

#if EMULATION_OFF && !ON_GPU
int main(void)
{
    check_skip(EMULATION_SKIPPED);
}
#else

#if ON_GPU
const struct ops *ahead_ops(uint32_t ranks_count);
#else
static const struct ops *ahead_ops(uint32_t ranks_count)
{
    static const int devices[2] = {0, 0};
    fake_reset(&(struct fake_config){
        .seed = 1, .devices_count = 1, .memory_bytes = 1u << 30, .shared_bytes_max = 99u << 10});
    return emulated_ops(ranks_count, devices);
}
#endif

#define AHEAD_SEQS 3u
#define AHEAD_OWN 9u
#define AHEAD_FORCED 3u

struct ahead {
    char *folder;
    struct engine *engine;
    struct sched *sched;
    uint32_t seqs[AHEAD_SEQS];
};

static void ahead_open(struct ahead *a, uint32_t steps_max)
{
    char message[ENGINE_MESSAGE_BYTES] = "";
    struct engine_config config = {.steps_max = steps_max,
                                   .ranks_count = 2,
                                   .rows_max = AHEAD_SEQS,
                                   .tokens_max = 24,
                                   .context_tokens = 96,
                                   .kv_bytes = 8u << 20,
                                   .dot_layer = -1};
    a->folder = tiny_write(TINY_LLAMA, 7);
    config.directory[ENGINE_POLICY] = a->folder;
    CHECK(engine_model_open_on(&config, ahead_ops(2), message, &a->engine) == 0, "%s", message);
    tiny_remove(a->folder);
    CHECK(sched_new(&(struct sched_config){.seqs_max = 8,
                                           .groups_max = 1,
                                           .rows_max = AHEAD_SEQS,
                                           .tokens_max = 24,
                                           .poison = true},
                    a->engine, &a->sched) == 0,
          "no memory");
    for (uint32_t i = 0; i < AHEAD_SEQS; i++) {
        uint32_t prompt[40];
        for (uint32_t t = 0; t < COUNT_OF(prompt); t++)
            prompt[t] = (t * 7 + i) % TINY_VOCABULARY;
        struct sched_seq_args args = {.seed = i,
                                      .user = i,
                                      .prompt = prompt,
                                      .prompt_tokens = i ? 5 * i : 40, /* one in chunks */
                                      .max_tokens = AHEAD_OWN,
                                      .sampling = {.temperature = 1,
                                                   .top_p = 0.9f,
                                                   .repetition = i == 1 ? 1.3f : 1,
                                                   .presence = i == 1 ? 0.5f : 0,
                                                   .confidence_count = 4}};
        CHECK(sched_add(a->sched, &args, &a->seqs[i]) == SCHED_OK, "no room");
    }
}

/* All to their ends. The last is forced once, which discards what was planned for it. */
static void ahead_run(struct ahead *a, struct ops_sampled own[AHEAD_SEQS][AHEAD_OWN])
{
    struct pollfd fd = {.fd = sched_fd(a->sched), .events = POLLIN};
    struct sched_result result;
    for (uint32_t left = AHEAD_SEQS; left;) {
        if (sched_poll(a->sched, 0) == 0)
            (void)poll(&fd, 1, 1000);
        CHECK(!engine_failure(a->engine), "%s", engine_failure(a->engine));
        while (sched_next(a->sched, &result)) {
            own[result.user][result.position] = result.sampled;
            if (result.user == 2 && result.position == AHEAD_FORCED)
                sched_force(a->sched, a->seqs[2], 300);
            if (result.position + 1 < AHEAD_OWN)
                continue;
            sched_remove(a->sched, a->seqs[result.user]);
            left--;
        }
    }
}

static void steps_planned_ahead_give_the_same_bits(void **state)
{
    static struct ops_sampled own[3][AHEAD_SEQS][AHEAD_OWN]; /* ahead, as graphs; ahead; neither */
    struct sched_stats stats;
    struct ahead a;
    (void)state;
    for (uint32_t i = 0; i < COUNT_OF(own); i++) {
        ahead_open(&a, i < 2 ? 2 : 1);
        engine_model_pad(a.engine, i == 0);
        ahead_run(&a, own[i]);
        sched_stats(a.sched, &stats);
        printf("%" PRIu64 " steps, %" PRIu64 " of %" PRIu64 " rows in vain, %" PRIu64 " graphs\n",
               stats.steps_count, stats.rows_discarded_count, stats.rows_count,
               engine_model_graph_runs(a.engine));
        CHECK((engine_model_graph_runs(a.engine) > AHEAD_OWN / 2) == (i == 0), "graphs");
        CHECK((stats.rows_discarded_count > 0) == (i < 2), "nothing was planned ahead");
        sched_free(a.sched);
        engine_close(a.engine);
        CHECK(own[i][2][AHEAD_FORCED + 1].token == 300, "another token than the forced one");
        CHECK(memcmp(own[i], own[0], sizeof own[i]) == 0, "case %u has other bits", i);
    }
}

#if !ON_GPU
/* With a step behind it that is never run. */
static int breaking_ahead(void *argument)
{
    struct ahead a;
    struct sched_stats stats;
    (void)argument;
    (void)alarm(120); /* it ends what hangs */
    ahead_open(&a, 2);
    fake_fail(fake_counts().calls + 30, FAKE_ERROR);
    (void)sched_poll(a.sched, 0);
    sched_stats(a.sched, &stats);
    CHECK(stats.steps_count == 2, "%" PRIu64 " steps are in flight", stats.steps_count);
    sched_free(a.sched);
    CHECK(engine_failure(a.engine), "nothing broke");
    printf("%s\n", engine_failure(a.engine));
    engine_close(a.engine);
    return 0;
}

static void a_scheduler_ends_with_a_device_that_breaks(void **state)
{
    (void)state;
    CHECK(child_wait(child_start(breaking_ahead, NULL)) == 0, "status");
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_planned_ahead_give_the_same_bits),
#if !ON_GPU
        cmocka_unit_test(a_scheduler_ends_with_a_device_that_breaks),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
