/* tests/unit/test_client_custom.c: commands to CUSTOM programs as the library writes them, what it refuses
 * before they leave, the events of branches as it hands them out, and a daemon that says nonsense. */
#include "dynasor/custom.h"
#include "tests/lib/client_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <string.h>

struct bench {
    struct client_rig r;
    uint64_t program;
    union wire_record submit;
};

static void say(struct bench *b, union wire_event event)
{
    event.branch.index = b->submit.submit.index;
    fake_event(b->r.s, 0, &event);
}

static uint64_t submit(struct bench *b, uint32_t algorithm)
{
    struct dynasor_program_options o = {.size = sizeof o,
                                        .algorithm = algorithm,
                                        .prompt_text = "Why?",
                                        .prompt_bytes = 4,
                                        .max_tokens = 64,
                                        .user_data = 99};
    assert_int_equal(dynasor_submit(b->r.lane[0], &o, &b->program), 0);
    b->submit = fake_expect(b->r.s, 0, WIRE_OP_SUBMIT);
    return b->program;
}

static void ready(struct bench *b)
{
    say(b, (union wire_event){.branch = {.kind = WIRE_EVENT_BRANCH,
                                         .state = DYNASOR_BRANCH_HELD,
                                         .branch = DYNASOR_ROOT,
                                         .path_tokens = 12}});
    struct dynasor_event e = lane_next(b->r.lane[0]);
    assert_int_equal(e.kind, DYNASOR_EVENT_READY);
    assert_int_equal(e.program, b->program);
    assert_int_equal(e.user_data, 99);
    assert_int_equal(e.branch->path_tokens, 12);
}

static int setup(void **state)
{
    struct dynasor_connect_options o = {.size = sizeof o, .arena_bytes = 16384, .lanes_count = 2};
    static const struct fake_reply reply = {.max_tokens_max = 2048, .prompt_bytes_max = 8192};
    *state = client_rig_new(sizeof(struct bench), &o, &reply, 1);
    (void)submit(*state, DYNASOR_ALGORITHM_CUSTOM);
    return 0;
}

static struct dynasor_branch_options root(void)
{
    return (struct dynasor_branch_options){.size = sizeof(struct dynasor_branch_options),
                                           .parent = DYNASOR_ROOT};
}

static void commands_are_what_the_wire_says(void **state)
{
    struct bench *b = *state;
    struct dynasor_branch_options o = root();
    uint32_t branch = 77;
    assert_int_equal(dynasor_fork(b->r.lane[0], b->program, &o, &branch), -DYNASOR_E_AGAIN);
    assert_non_null(strstr(dynasor_error(b->r.lane[0]), "READY"));
    ready(b);
    assert_int_equal(dynasor_fork(b->r.lane[0], b->program, &o, &branch), 0);
    assert_int_equal(branch, 0); /* the one that was too early took no number */
    union wire_record r = fake_expect(b->r.s, 0, WIRE_OP_COMMAND);
    assert_int_equal(r.command.command, DYNASOR_COMMAND_FORK);
    assert_int_equal(r.command.program_id, b->program);
    assert_int_equal(r.command.flags, 0);
    assert_int_equal(r.command.u.begin.parent, DYNASOR_ROOT);
    o = (struct dynasor_branch_options){.size = sizeof o,
                                        .parent = 0,
                                        .parent_tokens = 3,
                                        .tokens_max = 20,
                                        .streams = 3,
                                        .stops_at_step = 1,
                                        .wants_score = 1,
                                        .sampling = 1,
                                        .temperature = 0.5f,
                                        .top_k = 7};
    static const char text[] = "1234567890123456789012345678901234\xe2\x82\xac and more";
    assert_int_equal(dynasor_probe(b->r.lane[0], b->program, &o, text, sizeof text - 1, &branch),
                     0);
    assert_int_equal(branch, 1);
    r = fake_expect(b->r.s, 0, WIRE_OP_COMMAND);
    assert_int_equal(r.command.command, DYNASOR_COMMAND_GIVE);
    assert_int_equal(r.command.bytes, 34); /* no half of a character */
    r = fake_expect(b->r.s, 0, WIRE_OP_COMMAND);
    assert_int_equal(r.command.bytes, sizeof text - 1 - 34);
    assert_memory_equal(r.command.u.text, text + 34, sizeof text - 1 - 34);
    r = fake_expect(b->r.s, 0, WIRE_OP_COMMAND);
    assert_int_equal(r.command.command, DYNASOR_COMMAND_PROBE);
    assert_int_equal(r.command.branch, 1);
    assert_int_equal(r.command.flags, WIRE_COMMAND_FLAGS_KNOWN);
    assert_int_equal(r.command.u.begin.parent_tokens, 3);
    assert_int_equal(r.command.u.begin.tokens_max, 20);
    assert_int_equal(r.command.u.begin.streams, 3);
    assert_true(r.command.u.begin.top_p >= 1); /* 0 means the default */
    assert_int_equal(r.command.u.begin.top_k, 7);
    assert_int_equal(dynasor_extend(b->r.lane[0], b->program, 0, 9), 0);
    r = fake_expect(b->r.s, 0, WIRE_OP_COMMAND);
    assert_int_equal(r.command.u.extend.tokens_max, 9);
    assert_int_equal(dynasor_report(b->r.lane[0], b->program, 3, 0.5f, 6), 0);
    r = fake_expect(b->r.s, 0, WIRE_OP_COMMAND);
    assert_int_equal(r.command.u.report.signal, 3);
    assert_int_equal(r.command.u.report.knob, 6);
    assert_int_equal(dynasor_score(b->r.lane[0], b->program, 1), 0);
    assert_int_equal(fake_expect(b->r.s, 0, WIRE_OP_COMMAND).command.command,
                     DYNASOR_COMMAND_SCORE);
    assert_int_equal(dynasor_kill(b->r.lane[0], b->program, 1), 0);
    assert_int_equal(fake_expect(b->r.s, 0, WIRE_OP_COMMAND).command.branch, 1);
    assert_int_equal(dynasor_finish(b->r.lane[0], b->program, 1, 0, 1), 0);
    r = fake_expect(b->r.s, 0, WIRE_OP_COMMAND);
    assert_int_equal(r.command.u.finish.verdict, 1);
    assert_int_equal(r.command.u.finish.answer, 1);
    fake_end(b->r.s, 0, &b->submit.submit, DYNASOR_STATE_DONE, 0, 0);
    assert_int_equal(lane_next(b->r.lane[0]).kind, DYNASOR_EVENT_END);
    assert_int_equal(dynasor_kill(b->r.lane[0], b->program, 0), -DYNASOR_E_CLOSED);
    assert_int_equal(dynasor_release(b->r.lane[0], b->program), 0);
    assert_int_equal(dynasor_kill(b->r.lane[0], b->program, 0), -DYNASOR_E_NOTFOUND);
}

static void wrong_arguments_do_not_leave(void **state)
{
    struct bench *b = *state;
    char text[DYNASOR_GIVEN_BYTES_MAX + 1];
    uint32_t branch = 77;
    union wire_record r;
    memset(text, 'x', sizeof text);
    ready(b);
#define WRONG(word, ...)                                                                           \
    do {                                                                                           \
        struct dynasor_branch_options o = root();                                                  \
        __VA_ARGS__;                                                                               \
        assert_int_equal(dynasor_fork(b->r.lane[0], b->program, &o, &branch), -DYNASOR_E_INVALID); \
        assert_non_null(strstr(dynasor_error(b->r.lane[0]), word));                                \
    } while (0)
    WRONG("size", o.size = 8);
    WRONG("streams", o.streams = 4);
    WRONG("stops_at_step", o.stops_at_step = 2);
    WRONG("wants_score", o.wants_score = 2);
    WRONG("sampling", o.sampling = 2);
    WRONG("temperature", o.sampling = 1; o.temperature = 101);
    WRONG("top_p", o.sampling = 1; o.top_p = -1);
    WRONG("min_p", o.sampling = 1; o.min_p = 2);
    struct dynasor_branch_options o = root();
    assert_int_equal(dynasor_probe(b->r.lane[0], b->program, &o, text, sizeof text, &branch),
                     -DYNASOR_E_INVALID);
    assert_int_equal(dynasor_probe(b->r.lane[0], b->program, &o, text, 0, &branch),
                     -DYNASOR_E_INVALID);
    assert_int_equal(dynasor_probe(b->r.lane[0], b->program, &o, "\xe2\x82", 2, &branch),
                     -DYNASOR_E_INVALID);
    assert_int_equal(dynasor_probe(b->r.lane[0], b->program, &o, NULL, 2, &branch),
                     -DYNASOR_E_INVALID);
    assert_int_equal(dynasor_fork(b->r.lane[0], b->program, NULL, &branch), -DYNASOR_E_INVALID);
    assert_int_equal(dynasor_fork(NULL, b->program, &o, &branch), -DYNASOR_E_INVALID);
    assert_int_equal(dynasor_kill(b->r.lane[0], 5555, 0), -DYNASOR_E_NOTFOUND);
    assert_int_equal(branch, 77);
    assert_false(fake_take(b->r.s, 0, &r));
    uint64_t other = submit(b, DYNASOR_ALGORITHM_SINGLE);
    assert_int_equal(dynasor_kill(b->r.lane[0], other, 0), -DYNASOR_E_UNSUPPORTED);
    assert_false(fake_take(b->r.s, 0, &r));
}

static void a_full_ring_takes_all_of_a_probe_or_nothing(void **state)
{
    struct bench *b = *state;
    struct dynasor_branch_options o = root();
    uint32_t branch = 77, sent = 0;
    char text[DYNASOR_GIVEN_BYTES_MAX];
    union wire_record r;
    memset(text, 'x', sizeof text);
    ready(b);
    while (dynasor_probe(b->r.lane[0], b->program, &o, text, sizeof text, &branch) == 0)
        sent++;
    assert_int_equal(sent, REGION_SUB_SLOTS / 30); /* 29 pieces and the command */
    assert_int_equal(branch, sent - 1);
    assert_non_null(strstr(dynasor_error(b->r.lane[0]), "full"));
    for (uint32_t i = 0; i < sent * 30; i++)
        (void)fake_expect(b->r.s, 0, WIRE_OP_COMMAND);
    assert_false(fake_take(b->r.s, 0, &r));
    assert_int_equal(dynasor_probe(b->r.lane[0], b->program, &o, text, sizeof text, &branch), 0);
    assert_int_equal(branch, sent);
}

static void events_name_their_branch(void **state)
{
    struct bench *b = *state;
    ready(b);
    say(b, (union wire_event){.branch_tokens = {.kind = WIRE_EVENT_BRANCH_TOKENS,
                                                .count = 2,
                                                .branch = 5,
                                                .position = 9,
                                                .token = {3, 4}}});
    say(b, (union wire_event){.branch_text = {.kind = WIRE_EVENT_BRANCH_TEXT,
                                              .count = 3,
                                              .branch = 6,
                                              .position_bytes = 8,
                                              .text = "abc"}});
    say(b, (union wire_event){.branch = {.kind = WIRE_EVENT_BRANCH,
                                         .state = DYNASOR_BRANCH_STEP,
                                         .scored = 1,
                                         .branch = 7,
                                         .tokens_count = 10,
                                         .path_tokens = 20,
                                         .text_bytes = 30,
                                         .score = 0.5f,
                                         .log_probability = -1,
                                         .entropy = 2}});
    say(b, (union wire_event){.command = {.kind = WIRE_EVENT_COMMAND_REFUSED,
                                          .command = DYNASOR_COMMAND_EXTEND,
                                          .status = DYNASOR_E_INVALID,
                                          .field = DYNASOR_FIELD_BRANCH_STATE,
                                          .branch = 8,
                                          .lo = 2,
                                          .hi = 3,
                                          .got = 6}});
    struct dynasor_event e = lane_next(b->r.lane[0]);
    assert_int_equal(e.kind, DYNASOR_EVENT_TOKENS);
    assert_int_equal(e.branch->number, 5);
    assert_int_equal(e.position, 9);
    assert_int_equal(e.count, 2);
    assert_int_equal(e.tokens[1], 4);
    e = lane_next(b->r.lane[0]);
    assert_int_equal(e.kind, DYNASOR_EVENT_TEXT);
    assert_int_equal(e.branch->number, 6);
    assert_int_equal(e.position, 8);
    assert_memory_equal(e.text, "abc", 3);
    e = lane_next(b->r.lane[0]);
    assert_int_equal(e.kind, DYNASOR_EVENT_BRANCH);
    assert_int_equal(e.state, DYNASOR_BRANCH_STEP);
    assert_int_equal(e.branch->number, 7);
    assert_int_equal(e.branch->path_tokens, 20);
    assert_int_equal(e.branch->text_bytes, 30);
    assert_int_equal(e.branch->scored, 1);
    assert_true(e.branch->score > 0.4f && e.branch->entropy > 1);
    e = lane_next(b->r.lane[0]);
    assert_int_equal(e.kind, DYNASOR_EVENT_REFUSED);
    assert_int_equal(e.state, DYNASOR_COMMAND_EXTEND);
    assert_int_equal(e.status, DYNASOR_E_INVALID);
    assert_int_equal(e.branch->number, 8);
    assert_int_equal(e.branch->field, DYNASOR_FIELD_BRANCH_STATE);
    assert_non_null(strstr(dynasor_error(b->r.lane[0]), "state of the branch"));
    fake_tokens(b->r.s, 0, &b->submit.submit, 0, 3); /* what the program says is no branch's */
    e = lane_next(b->r.lane[0]);
    assert_int_equal(e.count, 3);
    assert_null(e.branch);
}

static void nonsense_ends_the_session(void **state)
{
    static const union wire_event bad[] = {
        {.branch_tokens = {.kind = WIRE_EVENT_BRANCH_TOKENS, .count = 11}},
        {.branch_text = {.kind = WIRE_EVENT_BRANCH_TEXT, .count = 41}},
        {.branch_text = {.kind = WIRE_EVENT_BRANCH_TEXT}},
        {.branch = {.kind = WIRE_EVENT_BRANCH, .state = DYNASOR_BRANCH_STATES_COUNT}},
        {.branch = {.kind = WIRE_EVENT_KINDS, .state = 1}},
    };
    (void)state;
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        void *fresh;
        struct dynasor_event event;
        (void)setup(&fresh);
        struct bench *b = fresh;
        ready(b);
        say(b, bad[i]);
        assert_int_equal(dynasor_next(b->r.lane[0], &event, NS_PER_S), -DYNASOR_E_PROTOCOL);
        (void)client_rig_teardown(&fresh);
    }
    void *fresh;
    struct dynasor_event event;
    (void)setup(&fresh); /* branches of a program that has none */
    struct bench *b = fresh;
    (void)submit(b, DYNASOR_ALGORITHM_SC);
    say(b, (union wire_event){.branch = {.kind = WIRE_EVENT_BRANCH, .state = 2}});
    assert_int_equal(dynasor_next(b->r.lane[0], &event, NS_PER_S), -DYNASOR_E_PROTOCOL);
    (void)client_rig_teardown(&fresh);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(commands_are_what_the_wire_says, setup,
                                        client_rig_teardown),
        cmocka_unit_test_setup_teardown(wrong_arguments_do_not_leave, setup, client_rig_teardown),
        cmocka_unit_test_setup_teardown(a_full_ring_takes_all_of_a_probe_or_nothing, setup,
                                        client_rig_teardown),
        cmocka_unit_test_setup_teardown(events_name_their_branch, setup, client_rig_teardown),
        cmocka_unit_test(nonsense_ends_the_session),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
