/* tests/unit/test_programs_model.c: programs on a real engine, a tiny model and a cache that is too small. A tenant that
 * does not read does not keep another's programs QUEUED, and what it reads later is what it would have read
 * alone. A program whose logits are NaN ends FAILED/NUMERIC, alone. A prompt of which the tokenizer leaves
 * nothing is refused by name. */
#include <inttypes.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "daemon/program/program.h"
#include "daemon/text/codec.h"
#include "tests/lib/check.h"
#include "tests/lib/tiny.h"

#define ROWS_MAX 8u
#define TOKENS_MAX 64u
#define PROMPT_TOKENS 20u
#define ANSWER_TOKENS 200u /* more than PROGRAM_BUFFER_TOKENS three times */
#define PAGES_OF_ONE 7u    /* (20 + 200) / 32 */

struct rig {
    char *folder;
    struct codec *codec;
    struct engine *engine;
    struct sched *sched;
    struct programs *programs;
};

struct reader { /* of one program */
    uint32_t handle;
    uint32_t count;
    uint32_t token[ANSWER_TOKENS];
};

/* nan_token: the token that is spoiled, or OPS_NONE */
static void rig_open(struct rig *r, uint32_t kv_pages, uint32_t nan_token)
{
    char message[ENGINE_MESSAGE_BYTES] = "";
    struct engine_info info;
    struct engine_config config = {.ranks_count = 1,
                                   .threads_count = 1, /* a step is too short for more */
                                   .cpu_level = -1,
                                   .rows_max = ROWS_MAX,
                                   .tokens_max = TOKENS_MAX,
                                   .context_tokens = PAGES_OF_ONE * OPS_PAGE_TOKENS,
                                   .kv_bytes = 1u << 20,
                                   .dot_layer = -1};
    r->folder = tiny_write(TINY_LLAMA, 5);
    if (nan_token != OPS_NONE)
        tiny_spoil(r->folder, nan_token);
    config.directory[ENGINE_POLICY] = r->folder;
    CHECK(engine_open(&config, message, &r->engine) == 0, "%s", message);
    engine_info(r->engine, ENGINE_POLICY, &info);
    config.kv_bytes = config.kv_bytes / info.kv_pages * kv_pages; /* exactly so many */
    engine_close(r->engine);
    CHECK(engine_open(&config, message, &r->engine) == 0, "%s", message);
    assert_int_equal(sched_new(&(struct sched_config){.seqs_max = 16,
                                                      .groups_max = 16,
                                                      .rows_max = ROWS_MAX,
                                                      .tokens_max = TOKENS_MAX,
                                                      .poison = true},
                               r->engine, &r->sched),
                     0);
    assert_int_equal(programs_new(&(struct programs_config){.programs_max = 16,
                                                            .branches_max = 16,
                                                            .context_tokens = config.context_tokens,
                                                            .prompt_bytes_max = 4096,
                                                            .codec = r->codec,
                                                            .policy = r->sched},
                                  &r->programs),
                     0);
}

static void rig_close(struct rig *r)
{
    programs_free(r->programs);
    sched_free(r->sched);
    engine_close(r->engine);
    tiny_remove(r->folder);
}

/* Until something was done; false: there is nothing to do. */
static bool turn(struct rig *r)
{
    int fds[PROGRAMS_FDS];
    programs_fds(r->programs, fds);
    if (programs_poll(r->programs, 0) || programs_due_ns(r->programs) == 0)
        return true;
    struct programs_stats stats;
    programs_stats(r->programs, &stats);
    if (stats.active_count == stats.paused_count + stats.queued_count)
        return false;
    struct pollfd fd = {.fd = fds[0], .events = POLLIN};
    return poll(&fd, 1, 100) == 1; /* a step of this model takes less than a millisecond */
}

static uint32_t submit(struct rig *r, uint32_t tenant, uint64_t seed, const uint32_t *prompt)
{
    struct program_spec spec = {
        .seed = seed,
        .tenant = tenant,
        .streams = DYNASOR_STREAM_TOKENS,
        .max_tokens = ANSWER_TOKENS,
        .prompt = (const uint8_t *)prompt,
        .prompt_bytes = PROMPT_TOKENS * sizeof *prompt,
        .prompt_is_tokens = true,
        .sampling = {.temperature = 0.8f, .top_p = 1, .repetition_penalty = 1, .ignore_eos = true}};
    uint32_t handle = program_submit(r->programs, &spec);
    assert_int_not_equal(handle, PROGRAM_NONE);
    return handle;
}

static void take(struct rig *r, struct reader *reader)
{
    const struct program_view *v = program_view(r->programs, reader->handle);
    for (; reader->count < v->tokens_count; reader->count++)
        reader->token[reader->count] = v->tokens[reader->count % PROGRAM_BUFFER_TOKENS];
    program_consume(r->programs, reader->handle, v->tokens_count, v->text_bytes_count);
}

static uint32_t state_of(const struct rig *r, uint32_t handle)
{
    return program_view(r->programs, handle)->state;
}

/* Reads these as they write until all are done. */
static void read_all(struct rig *r, struct reader *readers, uint32_t count)
{
    uint32_t done = 0, stuck = 0;
    while (done < count) {
        stuck = turn(r) ? 0 : stuck + 1;
        CHECK(stuck < 20, "nothing goes on, %u of %u are done", done, count);
        done = 0;
        for (uint32_t i = 0; i < count; i++) {
            take(r, &readers[i]);
            done += state_of(r, readers[i].handle) >= DYNASOR_STATE_DONE;
        }
    }
}

static void prompt_make(uint32_t seed, uint32_t prompt[PROMPT_TOKENS])
{
    for (uint32_t i = 0; i < PROMPT_TOKENS; i++)
        prompt[i] = (seed * 31 + i * 11) % 300 + 10;
}

static void run_alone(uint64_t seed, const uint32_t *prompt, struct reader *reader)
{
    struct rig r = {0};
    rig_open(&r, 2 * PAGES_OF_ONE, OPS_NONE);
    *reader = (struct reader){.handle = submit(&r, 1, seed, prompt)};
    read_all(&r, reader, 1);
    assert_int_equal(reader->count, ANSWER_TOKENS);
    rig_close(&r);
}

/* The cache has room for two programs. Tenant 1 takes both and reads nothing, while tenant 2 waits. */
static void programs_a_tenant_that_does_not_read_keeps_nobody_waiting(void **state)
{
    (void)state;
    enum { SLOW = 2, QUICK = 5 };
    static struct reader slow[SLOW], quick[QUICK], alone;
    uint32_t prompts[SLOW + QUICK][PROMPT_TOKENS];
    struct rig r = {0};
    struct programs_stats stats;
    rig_open(&r, 2 * PAGES_OF_ONE, OPS_NONE);
    for (uint32_t i = 0; i < SLOW + QUICK; i++)
        prompt_make(i, prompts[i]);
    for (uint32_t i = 0; i < SLOW; i++)
        slow[i] = (struct reader){.handle = submit(&r, 1, i, prompts[i])};
    for (uint32_t i = 0; i < QUICK; i++)
        quick[i] = (struct reader){.handle = submit(&r, 2, 10 + i, prompts[SLOW + i])};
    read_all(&r, quick, QUICK);
    for (uint32_t i = 0; i < SLOW; i++) {
        assert_int_equal(state_of(&r, slow[i].handle), DYNASOR_STATE_RUNNING);
        assert_int_equal(program_view(r.programs, slow[i].handle)->tokens_count,
                         PROGRAM_BUFFER_TOKENS);
    }
    programs_stats(r.programs, &stats);
    assert_int_equal(stats.sched.parked_count, SLOW);
    assert_int_equal(stats.paused_count, SLOW);
    read_all(&r, slow, SLOW);
    programs_stats(r.programs, &stats);
    assert_true(stats.sched.recomputed_tokens_count > 0);
    assert_int_equal(stats.sched.kv_pages_used + stats.sched.kv_pages_reserved, 0);
    rig_close(&r);
    for (uint32_t i = 0; i < SLOW + QUICK; i++) {
        const struct reader *got = i < SLOW ? &slow[i] : &quick[i - SLOW];
        run_alone(i < SLOW ? i : 10 + i - SLOW, prompts[i], &alone);
        assert_memory_equal(got->token, alone.token, sizeof alone.token);
    }
}

/* Both tenants read in bursts, with programs for thrice the cache: all end, with what they write alone. */
static void programs_that_take_turns_in_a_small_cache_all_end(void **state)
{
    (void)state;
    enum { COUNT = 6 };
    static struct reader readers[COUNT], alone;
    uint32_t prompts[COUNT][PROMPT_TOKENS], done = 0;
    struct rig r = {0};
    struct programs_stats stats;
    rig_open(&r, 2 * PAGES_OF_ONE, OPS_NONE);
    for (uint32_t i = 0; i < COUNT; i++) {
        prompt_make(i, prompts[i]);
        readers[i] = (struct reader){.handle = submit(&r, i % 2, i, prompts[i])};
    }
    for (uint32_t burst = 0; done < COUNT; burst++) {
        for (uint32_t i = 0; i < 300 && turn(&r); i++)
            ;
        take(&r, &readers[burst % COUNT]);
        done = 0;
        for (uint32_t i = 0; i < COUNT; i++)
            done += readers[i].count == ANSWER_TOKENS;
        assert_true(burst < 1000);
    }
    programs_stats(r.programs, &stats);
    assert_true(stats.sched.parked_count > 2);
    rig_close(&r);
    for (uint32_t i = 0; i < COUNT; i++) {
        run_alone(i, prompts[i], &alone);
        assert_memory_equal(readers[i].token, alone.token, sizeof alone.token);
    }
}

static bool holds(const uint32_t *tokens, uint32_t count, uint32_t token)
{
    uint32_t i = 0;
    while (i < count && tokens[i] != token)
        i++;
    return i < count;
}

static void programs_nan_ends_its_program_alone(void **state)
{
    (void)state;
    static struct reader readers[3], alone[3];
    uint32_t prompt[PROMPT_TOKENS], bad[PROMPT_TOKENS], token = 0;
    struct rig r = {0};
    prompt_make(3, prompt);
    prompt_make(3, bad);
    run_alone(0, prompt, &alone[0]);
    run_alone(2, prompt, &alone[2]);
    while (holds(prompt, PROMPT_TOKENS, token) || holds(alone[0].token, ANSWER_TOKENS, token) ||
           holds(alone[2].token, ANSWER_TOKENS, token))
        token++;
    bad[PROMPT_TOKENS - 1] = token; /* nobody else meets it */
    rig_open(&r, 4 * PAGES_OF_ONE, token);
    for (uint32_t i = 0; i < 3; i++)
        readers[i] = (struct reader){.handle = submit(&r, 1, i, i == 1 ? bad : prompt)};
    read_all(&r, readers, 3);
    const struct program_view *v = program_view(r.programs, readers[1].handle);
    assert_int_equal(v->state, DYNASOR_STATE_FAILED);
    assert_int_equal(v->status, DYNASOR_E_NUMERIC);
    assert_int_equal(v->tokens_count, 0);
    for (uint32_t i = 0; i < 3; i += 2)
        assert_int_equal(state_of(&r, readers[i].handle), DYNASOR_STATE_DONE);
    struct reader after = {.handle = submit(&r, 1, 2, prompt)};
    read_all(&r, &after, 1);
    assert_memory_equal(after.token, readers[2].token, sizeof after.token);
    rig_close(&r);
    for (uint32_t i = 0; i < 3; i += 2)
        assert_memory_equal(readers[i].token, alone[i].token, sizeof alone[i].token);
}

/* A tokenizer that drops what its normalizer cleans, and adds nothing. */
static void programs_a_prompt_of_which_nothing_is_left_is_refused(void **state)
{
    (void)state;
    static const char tokenizer[] =
        "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[],"
        "\"normalizer\":{\"type\":\"BertNormalizer\",\"clean_text\":true,"
        "\"handle_chinese_chars\":true,\"strip_accents\":null,\"lowercase\":true},"
        "\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},\"post_processor\":null,"
        "\"decoder\":{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true},"
        "\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"[U]\","
        "\"continuing_subword_prefix\":\"##\",\"max_input_chars_per_word\":100,"
        "\"vocab\":{\"[U]\":0,\"a\":1,\"##b\":2}}}";
    char folder[] = "/tmp/dynasor-codec-XXXXXX", path[64], message[CODEC_MESSAGE_BYTES];
    CHECK(mkdtemp(folder), "%m");
    (void)snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    FILE *file = fopen(path, "we");
    CHECK(file && fputs(tokenizer, file) >= 0 && fclose(file) == 0, "%m");
    struct rig r = {0};
    CHECK(codec_open(folder, message, &r.codec) == 0, "%s", message);
    CHECK(unlink(path) == 0 && rmdir(folder) == 0, "%m");
    rig_open(&r, 2 * PAGES_OF_ONE, OPS_NONE);
    static const uint8_t nothing[] = "\x01\x02 \x03", something[] = "ab a";
    struct program_spec spec = {.streams = DYNASOR_STREAM_TOKENS,
                                .max_tokens = 5,
                                .prompt = nothing,
                                .prompt_bytes = sizeof nothing - 1,
                                .sampling = {.top_p = 1, .repetition_penalty = 1}};
    uint32_t empty = program_submit(r.programs, &spec);
    spec.prompt = something;
    struct reader reader = {.handle = program_submit(r.programs, &spec)};
    read_all(&r, &reader, 1);
    const struct program_view *v = program_view(r.programs, empty);
    assert_int_equal(v->state, DYNASOR_STATE_FAILED);
    assert_int_equal(v->status, DYNASOR_E_INVALID);
    assert_int_equal(v->field, DYNASOR_FIELD_CONTEXT_TOKENS);
    assert_int_equal(v->got, 0);
    assert_int_equal(v->max, PAGES_OF_ONE * OPS_PAGE_TOKENS);
    assert_int_equal(state_of(&r, reader.handle), DYNASOR_STATE_DONE);
    rig_close(&r);
    codec_free(r.codec);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(programs_a_tenant_that_does_not_read_keeps_nobody_waiting),
        cmocka_unit_test(programs_that_take_turns_in_a_small_cache_all_end),
        cmocka_unit_test(programs_nan_ends_its_program_alone),
        cmocka_unit_test(programs_a_prompt_of_which_nothing_is_left_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
