/* tests/unit/test_engine_places.c: roles on devices of their own (daemon/engine/backend.c, engine_model.c). What
 * they compute is the same to the bit, wherever they lie; of two places both have a step in flight at once, of one
 * place one; a GPU that the policy's ranks have is refused by option and number; the table of memory names each
 * place. */
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/engine/engine_model.h"
#include "kernels/cpu/cpu.h"
#include "tests/lib/check.h"
#include "tests/lib/tiny.h"

#define TOKENS 7u

#ifndef PLACES_OPS
#define PLACES_OPS(config) cpu_ops(CPU_SCALAR)
#endif

static char *folders[ENGINE_ROLE_COUNT];

struct rig {
    struct engine *engine;
    struct engine_batch *batch[ENGINE_ROLE_COUNT];
};

static struct engine_config config_of(uint32_t ranks, uint32_t reward_gpu, uint32_t embed_gpu)
{
    return (struct engine_config){.directory = {folders[0], folders[1], folders[2]},
                                  .role_device = {0, 1 + reward_gpu, 1 + embed_gpu},
                                  .ranks_count = ranks,
                                  .threads_count = 4,
                                  .rows_max = 2,
                                  .tokens_max = 32,
                                  .kv_bytes = 1u << 20,
                                  .dot_layer = -1};
}

static void rig_open(struct rig *r, const struct engine_config *config)
{
    char message[ENGINE_MESSAGE_BYTES] = "";
    CHECK(engine_model_open_on(config, PLACES_OPS(config), message, &r->engine) == 0, "%s",
          message);
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT; i++)
        CHECK(engine_batch_new(r->engine, &r->batch[i]) == 0, "no memory");
}

static void rig_close(struct rig *r)
{
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT; i++)
        engine_batch_free(r->batch[i]);
    engine_close(r->engine);
}

static int post(struct rig *r, enum engine_role role)
{
    struct engine_batch *b = r->batch[role];
    b->role = role;
    b->rows_count = 1;
    b->tokens_count = TOKENS;
    b->copies_count = b->freed_count = b->history_count = b->biases_count = 0;
    b->rows[0] =
        (struct engine_row){.tokens_count = TOKENS,
                            .want = role == ENGINE_POLICY  ? ENGINE_WANT_TOKEN
                                    : role == ENGINE_EMBED ? ENGINE_WANT_POOL
                                                           : 0,
                            .sampling = {.top_p = 1, .repetition = 1, .forced_token = OPS_NONE}};
    for (uint32_t i = 0; i < TOKENS; i++) {
        b->tokens[i] = 3 + 11 * i;
        b->score[i] = role == ENGINE_REWARD;
    }
    for (uint32_t i = 0; i < b->pages_stride; i++)
        b->pages[i] = i;
    return engine_post(r->engine, b, 0);
}

static void take(struct rig *r, enum engine_role role)
{
    struct pollfd fd = {.fd = engine_fd(r->engine, role), .events = POLLIN};
    struct engine_batch *b;
    while (!(b = engine_next(r->engine, role, 0))) {
        CHECK(!engine_failure(r->engine), "%s", engine_failure(r->engine));
        (void)poll(&fd, 1, 1000);
    }
    CHECK(b == r->batch[role], "another role's batch came back");
}

/* What a step of each role gives. */
struct results {
    struct ops_sampled sampled;
    float scores[TOKENS];
    float vector[TINY_HIDDEN];
};

static struct results results_of(const struct rig *r)
{
    struct results found = {.sampled = r->batch[ENGINE_POLICY]->outputs[0].sampled};
    memcpy(found.scores, r->batch[ENGINE_REWARD]->scores, sizeof found.scores);
    memcpy(found.vector, r->batch[ENGINE_EMBED]->vectors, sizeof found.vector);
    return found;
}

static void roles_compute_the_same_wherever_they_lie(void **state)
{
    static const uint32_t places[][2] = {{0, 0}, {1, 0}, {1, 1}, {2, 1}};
    struct results wanted, found;
    (void)state;
    for (uint32_t i = 0; i < COUNT_OF(places); i++) {
        struct rig r;
        struct engine_config config = config_of(1, places[i][0], places[i][1]);
        rig_open(&r, &config);
        for (enum engine_role role = 0; role < ENGINE_ROLE_COUNT; role++) {
            CHECK(post(&r, role) == ENGINE_OK, "busy");
            take(&r, role);
        }
        found = results_of(&r);
        wanted = i ? wanted : found;
        CHECK(found.scores[TOKENS - 1] != 0 && found.vector[0] != 0, "nothing computed");
        CHECK(memcmp(&found, &wanted, sizeof found) == 0, "places %u differ", i);
        rig_close(&r);
    }
}

static void places_do_not_wait_for_each_other(void **state)
{
    struct rig r;
    struct engine_config config = config_of(1, 1, 1);
    (void)state;
    rig_open(&r, &config);
    CHECK(engine_fd(r.engine, ENGINE_REWARD) != engine_fd(r.engine, ENGINE_POLICY) &&
              engine_fd(r.engine, ENGINE_REWARD) == engine_fd(r.engine, ENGINE_EMBED),
          "descriptors are not those of places");
    CHECK(post(&r, ENGINE_POLICY) == ENGINE_OK, "busy");
    CHECK(!engine_busy(r.engine, ENGINE_REWARD), "the reward model waits for the policy");
    CHECK(post(&r, ENGINE_REWARD) == ENGINE_OK, "busy");
    CHECK(engine_busy(r.engine, ENGINE_EMBED) && post(&r, ENGINE_EMBED) == ENGINE_E_BUSY,
          "two steps in one place");
    take(&r, ENGINE_REWARD);
    CHECK(engine_busy(r.engine, ENGINE_POLICY) && !engine_busy(r.engine, ENGINE_REWARD), "busy");
    take(&r, ENGINE_POLICY);
    CHECK(!engine_next(r.engine, ENGINE_POLICY, 0) && !engine_next(r.engine, ENGINE_REWARD, 0),
          "a batch came twice");
    CHECK(post(&r, ENGINE_EMBED) == ENGINE_OK, "busy");
    take(&r, ENGINE_EMBED);
    rig_close(&r);
}

static void ranks_of_the_policy_are_not_given_twice(void **state)
{
    char message[ENGINE_MESSAGE_BYTES] = "", text[2048];
    struct engine_config config = config_of(2, 1, 0);
    struct engine *engine = NULL;
    struct rig r;
    (void)state;
    CHECK(engine_model_open_on(&config, PLACES_OPS(&config), message, &engine) == -EINVAL,
          "it opens");
    CHECK(strcmp(message, "[engine] reward_device = 1: accepted 0, to share GPUs 0 to 1 with the "
                          "policy, or another than these") == 0,
          "%s", message);
    config = config_of(2, 0, 1);
    CHECK(engine_model_open_on(&config, PLACES_OPS(&config), message, &engine) == -EINVAL &&
              strstr(message, "[engine] embed_device = 1"),
          "%s", message);
    config = config_of(2, 2, 0); /* beside both ranks: good */
    rig_open(&r, &config);
    for (enum engine_role role = 0; role < ENGINE_ROLE_COUNT; role++) {
        CHECK(post(&r, role) == ENGINE_OK, "busy");
        take(&r, role);
    }
    engine_describe(r.engine, text, sizeof text);
    printf("%s\n", text);
    CHECK(strstr(text, "memory of each of 2 ranks: policy: weights 1 MiB") &&
              strstr(text, "; embed: weights ") &&
              strstr(text, "memory of the host: reward: weights "),
          "%s", text);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(roles_compute_the_same_wherever_they_lie),
        cmocka_unit_test(places_do_not_wait_for_each_other),
        cmocka_unit_test(ranks_of_the_policy_are_not_given_twice),
    };
    folders[ENGINE_POLICY] = tiny_write(TINY_LLAMA, 1);
    folders[ENGINE_REWARD] = tiny_write(TINY_REWARD, 2);
    folders[ENGINE_EMBED] = tiny_write(TINY_BERT, 3);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT; i++)
        tiny_remove(folders[i]);
    return failed;
}
