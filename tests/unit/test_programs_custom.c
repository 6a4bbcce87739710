/* tests/unit/test_programs_custom.c: the end of programs whose client says nothing any more, on a real engine, a
 * tiny model and a clock of our own. One that decodes, is told something or is given a command is not idle; of
 * several the idle one ends, alone, and its pages return. */
#include <inttypes.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/program/command.h"
#include "tests/lib/check.h"
#include "tests/lib/tiny.h"

#define PROMPT_TOKENS 20u
#define TOKENS_MAX 200u
#define IDLE_NS 1000u

struct rig {
    char *folder;
    struct engine *engine;
    struct sched *sched;
    struct programs *programs;
    uint64_t now_ns;
};

static void rig_open(struct rig *r)
{
    char message[ENGINE_MESSAGE_BYTES] = "";
    struct engine_config config = {.ranks_count = 1,
                                   .threads_count = 1,
                                   .cpu_level = -1,
                                   .rows_max = 8,
                                   .tokens_max = 64,
                                   .context_tokens = 256,
                                   .kv_bytes = 1u << 20,
                                   .dot_layer = -1};
    *r = (struct rig){.folder = tiny_write(TINY_LLAMA, 5), .now_ns = 50 * IDLE_NS};
    config.directory[ENGINE_POLICY] = r->folder;
    CHECK(engine_open(&config, message, &r->engine) == 0, "%s", message);
    assert_int_equal(
        sched_new(
            &(struct sched_config){
                .seqs_max = 16, .groups_max = 16, .rows_max = 8, .tokens_max = 64, .poison = true},
            r->engine, &r->sched),
        0);
    assert_int_equal(programs_new(&(struct programs_config){.programs_max = 4,
                                                            .branches_max = 16,
                                                            .context_tokens = 256,
                                                            .prompt_bytes_max = 4096,
                                                            .policy = r->sched,
                                                            .idle_ns = IDLE_NS},
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

static uint32_t submit(struct rig *r, uint32_t algorithm)
{
    static uint32_t prompt[PROMPT_TOKENS]; /* is not copied */
    const struct program_setting cap = {.parameter = DYNASOR_PARAMETER_CAP, .value = 4};
    bool custom = algorithm == DYNASOR_ALGORITHM_CUSTOM;
    for (uint32_t i = 0; i < PROMPT_TOKENS; i++)
        prompt[i] = 10 + i * 11;
    struct program_spec spec = {
        .algorithm = algorithm,
        .streams = DYNASOR_STREAM_TOKENS,
        .max_tokens = TOKENS_MAX,
        .prompt = (const uint8_t *)prompt,
        .prompt_bytes = sizeof prompt,
        .prompt_is_tokens = true,
        .settings = &cap,
        .settings_count = custom,
        .sampling = {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .ignore_eos = true}};
    uint32_t handle = program_submit(r->programs, &spec);
    assert_int_not_equal(handle, PROGRAM_NONE);
    return handle;
}

/* One turn, so much later. */
static void turn(struct rig *r, uint64_t later_ns)
{
    int fds[PROGRAMS_FDS];
    r->now_ns += later_ns;
    programs_fds(r->programs, fds);
    if (programs_poll(r->programs, r->now_ns) == 0) {
        struct pollfd fd = {.fd = fds[0], .events = POLLIN};
        (void)poll(&fd, 1, 1);
    }
}

/* Turns until it tells of a branch, or of the prompt (RUN_NONE). */
static void wait_for(struct rig *r, uint32_t handle, uint32_t branch, uint64_t later_ns)
{
    struct program_note note;
    for (uint32_t i = 0;; i++) {
        CHECK(i < 5000, "program %u tells nothing", handle);
        turn(r, later_ns);
        if (!program_note(r->programs, handle, &note))
            continue;
        assert_int_equal(note.kind, PROGRAM_NOTE_BRANCH);
        assert_int_equal(note.branch, branch);
        program_noted(r->programs, handle, &note, 1);
        return;
    }
}

static void fork_branch(struct rig *r, uint32_t handle, uint32_t branch, uint32_t tokens)
{
    struct program_refusal no =
        program_command(r->programs, handle,
                        &(struct program_command){.command = DYNASOR_COMMAND_FORK,
                                                  .branch = branch,
                                                  .parent = UINT32_MAX,
                                                  .tokens_max = tokens});
    assert_int_equal(no.status, DYNASOR_OK);
}

static uint32_t state_of(const struct rig *r, uint32_t handle)
{
    return program_view(r->programs, handle)->state;
}

static void ends_idle(struct rig *r, uint32_t handle)
{
    CHECK(programs_due_ns(r->programs) == r->now_ns + 1, "due at %" PRIu64 ", not %" PRIu64,
          programs_due_ns(r->programs), r->now_ns + 1);
    CHECK(state_of(r, handle) < DYNASOR_STATE_DONE, "it ended before it was idle for so long");
    turn(r, 1);
    assert_int_equal(state_of(r, handle), DYNASOR_STATE_FAILED);
    assert_int_equal(program_view(r->programs, handle)->status, DYNASOR_E_TIMEOUT);
}

static void programs_whose_client_says_nothing_end(void **state)
{
    (void)state;
    struct rig r;
    struct programs_stats stats;
    rig_open(&r);
    uint32_t p = submit(&r, DYNASOR_ALGORITHM_CUSTOM);
    wait_for(&r, p, UINT32_MAX, 0);
    turn(&r, IDLE_NS - 1); /* told that commands may come, and none does */
    ends_idle(&r, p);
    programs_stats(r.programs, &stats);
    assert_int_equal(stats.sched.kv_pages_used + stats.sched.kv_pages_reserved, 0);
    struct program_refusal no =
        program_command(r.programs, p, &(struct program_command){.command = DYNASOR_COMMAND_KILL});
    assert_int_equal(no.status, DYNASOR_OK); /* came too late: its END says so */
    program_free(r.programs, p);
    rig_close(&r);
}

static void programs_that_decode_or_are_driven_are_not_idle(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r);
    uint32_t p = submit(&r, DYNASOR_ALGORITHM_CUSTOM);
    wait_for(&r, p, UINT32_MAX, 0);
    for (uint32_t i = 0; i < 3;
         i++) { /* commands, each at the last moment, and even one that is refused */
        turn(&r, IDLE_NS - 1);
        assert_int_equal(
            program_command(r.programs, p,
                            &(struct program_command){.command = DYNASOR_COMMAND_KILL, .branch = 9})
                .status,
            DYNASOR_E_INVALID);
    }
    fork_branch(&r, p, 0, TOKENS_MAX / 2);
    wait_for(&r, p, 0, 7 * IDLE_NS); /* each step lasts longer than that */
    turn(&r, IDLE_NS - 1);
    fork_branch(&r, p, 1, 3);
    wait_for(&r, p, 1, 0);
    turn(&r, IDLE_NS - 1);
    ends_idle(&r, p);
    program_free(r.programs, p);
    rig_close(&r);
}

static void programs_that_are_idle_end_alone(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r);
    uint32_t idle = submit(&r, DYNASOR_ALGORITHM_CUSTOM);
    uint32_t driven = submit(&r, DYNASOR_ALGORITHM_CUSTOM);
    wait_for(&r, driven, UINT32_MAX, 0);
    uint32_t other = submit(&r, DYNASOR_ALGORITHM_SINGLE); /* nobody reads it: it rests, too */
    turn(&r, IDLE_NS - 1);
    fork_branch(&r, driven, 0, 1);
    turn(&r, 1);
    assert_int_equal(state_of(&r, idle), DYNASOR_STATE_FAILED);
    assert_int_equal(program_view(r.programs, idle)->status, DYNASOR_E_TIMEOUT);
    wait_for(&r, driven, 0, 0);
    for (uint32_t i = 0; i < 50; i++)
        turn(&r, 0);
    turn(&r, IDLE_NS - 1);
    assert_true(state_of(&r, driven) < DYNASOR_STATE_DONE);
    turn(&r, 1);
    assert_int_equal(state_of(&r, driven), DYNASOR_STATE_FAILED);
    turn(&r, 100 * IDLE_NS);
    assert_int_equal(state_of(&r, other), DYNASOR_STATE_RUNNING);
    program_free(r.programs, idle);
    program_free(r.programs, driven);
    program_end(r.programs, other, DYNASOR_STATE_CANCELLED, DYNASOR_OK);
    program_free(r.programs, other);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(programs_whose_client_says_nothing_end),
        cmocka_unit_test(programs_that_decode_or_are_driven_are_not_idle),
        cmocka_unit_test(programs_that_are_idle_end_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
