/* One lane of the library: submissions, zero-copy events, the program table, the arena, what a wrong
 * argument and what a wrong daemon get. */
#include "tests/lib/client_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

static int setup(void **state)
{
    struct dynasor_connect_options o = {.size = sizeof o, .arena_bytes = 16384, .lanes_count = 2};
    static const struct fake_reply reply = {.max_tokens_max = 2048, .prompt_bytes_max = 8192};
    *state = client_rig_new(sizeof(struct client_rig), &o, &reply, 2);
    return 0;
}

static struct dynasor_program_options simple(void)
{
    return (struct dynasor_program_options){.size = sizeof(struct dynasor_program_options),
                                            .prompt_text = "Why?",
                                            .prompt_bytes = 4,
                                            .max_tokens = 64,
                                            .seed = 7,
                                            .user_data = 99};
}

static uint64_t submit(struct dynasor_lane *lane)
{
    struct dynasor_program_options o = simple();
    uint64_t program = 0;
    int rc = dynasor_submit(lane, &o, &program);
    if (rc)
        fail_msg("submit: %s", dynasor_error(lane));
    assert_int_not_equal(program, 0);
    return program;
}

static void test_program(void **state)
{
    struct client_rig *b = *state;
    struct dynasor_program_options o = simple();
    o.streams = DYNASOR_STREAM_ALL;
    uint64_t before = now_ns();
    uint64_t program;
    assert_int_equal(dynasor_submit(b->lane[0], &o, &program), 0);
    assert_int_equal(dynasor_program_state(b->lane[0], program), DYNASOR_STATE_QUEUED);
    assert_int_equal(dynasor_release(b->lane[0], program), -DYNASOR_E_INVALID);
    union wire_record r = fake_expect(b->s, 0, WIRE_OP_SUBMIT);
    assert_int_equal(r.submit.program_id, program);
    assert_int_equal(r.submit.max_tokens, 64);
    assert_int_equal(r.submit.seed, 7);
    assert_int_equal(r.submit.streams, DYNASOR_STREAM_ALL);
    assert_int_equal(r.submit.bytes, 4);
    assert_memory_equal(r.submit.u.prompt, "Why?\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24);
    fake_tokens(b->s, 0, &r.submit, 0, 11);
    fake_text(b->s, 0, &r.submit, 0, "Because");
    fake_tokens(b->s, 0, &r.submit, 11, 2);
    fake_text(b->s, 0, &r.submit, 7, " so.");
    fake_end(b->s, 0, &r.submit, DYNASOR_STATE_DONE, 0, 13);

    struct dynasor_event e = lane_next(b->lane[0]);
    assert_int_equal(e.kind, DYNASOR_EVENT_TOKENS);
    assert_int_equal(e.count, 11);
    assert_int_equal(e.position, 0);
    assert_int_equal(e.program, program);
    assert_int_equal(e.user_data, 99);
    assert_in_range(e.submitted_ns, before, now_ns());
    for (uint32_t i = 0; i < 11; i++)
        assert_int_equal(e.tokens[i], fake_token(7, i));
    /* zero copy: what the daemon writes into the slot is what the caller reads */
    region_event_ring(b->s->d2c, &b->s->geometry, 0)->word[2] = 0x1234567800000005;
    assert_int_equal(e.tokens[1], 5);
    e = lane_next(b->lane[0]);
    assert_int_equal(e.kind, DYNASOR_EVENT_TEXT);
    assert_int_equal(e.position, 0);
    assert_int_equal(e.count, 7);
    assert_memory_equal(e.text, "Because", 7);
    e = lane_next(b->lane[0]);
    assert_int_equal(e.position, 11);
    assert_int_equal(e.count, 2);
    e = lane_next(b->lane[0]);
    assert_int_equal(e.kind, DYNASOR_EVENT_TEXT);
    assert_int_equal(e.position, 7);
    assert_memory_equal(e.text, " so.", 4);
    assert_int_equal(dynasor_release(b->lane[0], program), -DYNASOR_E_INVALID);
    e = lane_next(b->lane[0]);
    assert_int_equal(e.kind, DYNASOR_EVENT_END);
    assert_int_equal(e.state, DYNASOR_STATE_DONE);
    assert_int_equal(e.tokens_count, 13);
    assert_int_equal(dynasor_program_state(b->lane[0], program), DYNASOR_STATE_DONE);
    assert_int_equal(dynasor_program_state(b->lane[1], program), -DYNASOR_E_NOTFOUND);
    assert_int_equal(dynasor_release(b->lane[1], program), -DYNASOR_E_NOTFOUND);
    assert_int_equal(dynasor_release(b->lane[0], program), 0);
    assert_int_equal(dynasor_release(b->lane[0], program), -DYNASOR_E_NOTFOUND);
    r = fake_expect(b->s, 0, WIRE_OP_RELEASE);
    assert_int_equal(r.release.program_id, program);
    lane_quiet(b->lane[0]);
}

/* Parameters, texts and answer rule, as the daemon finds them behind the spec. */
static void test_algorithm_options(void **state)
{
    struct client_rig *b = *state;
    static const struct dynasor_setting settings[2] = {
        {.parameter = DYNASOR_PARAMETER_CAP, .value = 7},
        {.parameter = DYNASOR_PARAMETER_SPREAD, .value = 0.25}};
    struct dynasor_program_options o = simple();
    o.algorithm = DYNASOR_ALGORITHM_REBASE;
    o.settings = settings;
    o.settings_count = 2;
    o.profile = "mine";
    o.step_end = "\n\n";
    o.answer_prefix = "so:";
    o.answer = DYNASOR_ANSWER_PREFIX;
    o.streams = 0;
    uint64_t submitted;
    assert_int_equal(dynasor_submit(b->lane[0], &o, &submitted), 0);
    struct wire_submit s = fake_expect(b->s, 0, WIRE_OP_SUBMIT).submit;
    assert_int_equal(s.algorithm, DYNASOR_ALGORITHM_REBASE);
    assert_int_equal(s.streams, DYNASOR_STREAM_TOKENS | DYNASOR_STREAM_RESULT);
    assert_int_equal(s.flags, WIRE_SUBMIT_PAYLOAD);
    const uint8_t *payload =
        (const uint8_t *)b->s->c2d + b->s->geometry.c2d_arena_off + s.u.payload.offset;
    const struct wire_limits limits = {
        .arena_bytes = 65536, .prompt_bytes_max = 8192, .vocabulary_count = 1};
    struct wire_spec spec;
    struct wire_parts parts;
    struct wire_fault fault;
    assert_int_equal(wire_check_payload(&s, payload, &limits, &spec, &parts, &fault), WIRE_OK);
    assert_int_equal(spec.settings_count, 2);
    struct wire_setting got[2];
    memcpy(got, payload + parts.settings_off, sizeof got);
    assert_int_equal(got[0].parameter, DYNASOR_PARAMETER_CAP);
    assert_true(got[0].value == 7 && got[1].value == 0.25);
    assert_int_equal(spec.answer, DYNASOR_ANSWER_PREFIX);
    assert_memory_equal(payload + parts.texts_off, "so:\n\nmine", 9);
    assert_memory_equal(payload + parts.prompt_off, "Why?", 4);

    struct dynasor_program_options bad[7];
    static const char *const text[] = {"settings_count 33: accepted 0 to 32",
                                       "settings: NULL",
                                       "answer 8: accepted 0 to 7",
                                       "choice_last 97: accepted 65 to 90",
                                       "bytes of answer_prefix 0: accepted 1 to 64",
                                       "bytes of step_end 16: accepted 1 to 15",
                                       "bytes of answer_prefix 3: accepted 0 to 0"};
    for (size_t i = 0; i < COUNT_OF(bad); i++)
        bad[i] = o;
    bad[0].settings_count = 33;
    bad[1].settings = NULL;
    bad[2].answer = 8;
    bad[3].choice_last = 'a';
    bad[4].answer_prefix = NULL;
    bad[5].step_end = "0123456789abcdef";
    bad[6].answer = DYNASOR_ANSWER_BOXED;
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        uint64_t program;
        assert_int_equal(dynasor_submit(b->lane[0], &bad[i], &program), -DYNASOR_E_INVALID);
        assert_string_equal(dynasor_error(b->lane[0]), text[i]);
    }
}

/* One slot is two events: RESULT, whose place in D2C is copied, then END. */
static void test_result(void **state)
{
    struct client_rig *b = *state;
    struct dynasor_program_options o = simple();
    o.streams = DYNASOR_STREAM_RESULT;
    uint64_t program;
    assert_int_equal(dynasor_submit(b->lane[0], &o, &program), 0);
    struct wire_submit s = fake_expect(b->s, 0, WIRE_OP_SUBMIT).submit;
    struct dynasor_result *r = region_result(b->s->d2c, &b->s->geometry, s.index);
    *r = (struct dynasor_result){.program = program,
                                 .verdict = DYNASOR_VERDICT_GIVEN_UP,
                                 .knob = 5,
                                 .decoded_tokens = 77,
                                 .answer_bytes = 2,
                                 .answer = "42",
                                 .profile = "mine"};
    union wire_event end = {.end = {.kind = WIRE_EVENT_END,
                                    .state = DYNASOR_STATE_DONE,
                                    .index = s.index,
                                    .program_id = program,
                                    .flags = WIRE_END_RESULT}};
    fake_event(b->s, 0, &end);
    struct dynasor_event e = lane_next(b->lane[0]);
    assert_int_equal(e.kind, DYNASOR_EVENT_RESULT);
    assert_int_equal(e.program, program);
    assert_int_equal(e.user_data, 99);
    r->answer[0] = '7'; /* a copy: what the daemon does with its place is its own affair */
    assert_string_equal(e.result->answer, "42");
    assert_string_equal(e.result->profile, "mine");
    assert_int_equal(e.result->verdict, DYNASOR_VERDICT_GIVEN_UP);
    assert_int_equal(e.result->decoded_tokens, 77);
    assert_int_equal(dynasor_release(b->lane[0], program),
                     -DYNASOR_E_INVALID); /* END comes first */
    const struct dynasor_result *kept = e.result;
    e = lane_next(b->lane[0]);
    assert_int_equal(e.kind, DYNASOR_EVENT_END);
    assert_string_equal(kept->answer, "42");
    lane_quiet(b->lane[0]);
    assert_int_equal(dynasor_release(b->lane[0], program), 0);
}

static void test_bad_options(void **state)
{
    struct client_rig *b = *state;
    static const uint32_t tokens[2] = {1, 2};
    struct dynasor_program_options o[12];
    for (size_t i = 0; i < COUNT_OF(o); i++)
        o[i] = simple();
    const char *const text[] = {"options_size 8: accepted 64 to 4096",
                                "algorithm 9: accepted 0 to 8 (this daemon does not offer it)",
                                "streams 8: accepted 1 to 7",
                                "max_tokens 0: accepted 1 to 2048",
                                "max_tokens 2049: accepted 1 to 2048",
                                "prompt_bytes 0: accepted 1 to 8192",
                                "prompt_bytes 8193: accepted 1 to 8192",
                                "prompt_text, prompt_tokens: exactly one of them must be given",
                                "prompt_text, prompt_tokens: exactly one of them must be given",
                                "prompt_tokens_count with prompt_text 3: accepted 0 to 0",
                                "prompt_tokens_count 2049: accepted 1 to 2048",
                                "prompt_bytes with prompt_tokens 4: accepted 0 to 0"};
    o[0].size = 8;
    o[1].algorithm = 9;
    o[2].streams = 8;
    o[3].max_tokens = 0;
    o[4].max_tokens = 2049;
    o[5].prompt_bytes = 0;
    o[6].prompt_bytes = 8193;
    o[7].prompt_text = NULL;
    o[8].prompt_tokens = tokens;
    o[9].prompt_tokens_count = 3;
    o[10].prompt_text = NULL, o[10].prompt_bytes = 0, o[10].prompt_tokens = tokens;
    o[10].prompt_tokens_count = 2049;
    o[11].prompt_text = NULL, o[11].prompt_tokens = tokens;
    uint64_t program = 0;
    for (size_t i = 0; i < COUNT_OF(o); i++) {
        int rc = dynasor_submit(b->lane[0], &o[i], &program);
        assert_int_equal(rc, i == 1 ? -DYNASOR_E_UNSUPPORTED : -DYNASOR_E_INVALID);
        assert_string_equal(dynasor_error(b->lane[0]), text[i]);
    }
    assert_int_equal(dynasor_submit(NULL, o, &program), -DYNASOR_E_INVALID);
    assert_int_equal(dynasor_submit(b->lane[0], NULL, &program), -DYNASOR_E_INVALID);
    assert_int_equal(dynasor_submit(b->lane[0], o, NULL), -DYNASOR_E_INVALID);
    assert_int_equal(dynasor_next(b->lane[0], NULL, 0), -DYNASOR_E_INVALID);
    assert_int_equal(dynasor_cancel(b->lane[0], 12345), -DYNASOR_E_NOTFOUND);
    assert_int_equal(dynasor_cancel(b->lane[0], 0), -DYNASOR_E_NOTFOUND);
    union wire_record r;
    assert_false(fake_take(b->s, 0, &r));
}

static void test_refused(void **state)
{
    struct client_rig *b = *state;
    uint64_t program = submit(b->lane[0]);
    union wire_record r = fake_expect(b->s, 0, WIRE_OP_SUBMIT);
    struct wire_fault fault = {
        .status = DYNASOR_E_QUOTA, .field = DYNASOR_FIELD_PROGRAMS_OF_UID, .hi = 32, .got = 33};
    fake_refuse(b->s, 0, &r.submit, &fault);
    struct dynasor_event e = lane_next(b->lane[0]);
    assert_int_equal(e.kind, DYNASOR_EVENT_END);
    assert_int_equal(e.program, program);
    assert_int_equal(e.state, DYNASOR_STATE_FAILED);
    assert_int_equal(e.status, DYNASOR_E_QUOTA);
    assert_string_equal(dynasor_error(b->lane[0]),
                        "programs_of_uid 33: accepted 0 to 32 (the quota "
                        "of this uid is used up)");
    assert_int_equal(dynasor_program_state(b->lane[0], program), DYNASOR_STATE_FAILED);
    assert_int_equal(dynasor_release(b->lane[0], program), 0);
    assert_false(fake_take(b->s, 0, &r)); /* the daemon never had it */
    /* A piece of the prompt never gets into a message. */
    (void)submit(b->lane[0]);
    r = fake_expect(b->s, 0, WIRE_OP_SUBMIT);
    fault = (struct wire_fault){
        .status = DYNASOR_E_INVALID, .field = DYNASOR_FIELD_PROMPT_TEXT, .hi = 0xf4, .got = 0xff};
    fake_refuse(b->s, 0, &r.submit, &fault);
    (void)lane_next(b->lane[0]);
    assert_string_equal(dynasor_error(b->lane[0]), "prompt_text: not valid UTF-8");
}

static void test_cancel(void **state)
{
    struct client_rig *b = *state;
    uint64_t program = submit(b->lane[0]);
    union wire_record r = fake_expect(b->s, 0, WIRE_OP_SUBMIT);
    assert_int_equal(dynasor_cancel(b->lane[1], program), -DYNASOR_E_NOTFOUND);
    assert_int_equal(dynasor_cancel(b->lane[0], program), 0);
    assert_int_equal(dynasor_cancel(b->lane[0], program), 0); /* once is enough */
    union wire_record c = fake_expect(b->s, 0, WIRE_OP_CANCEL);
    assert_int_equal(c.cancel.program_id, program);
    assert_int_equal(c.cancel.index, r.submit.index);
    assert_false(fake_take(b->s, 0, &c));
    fake_end(b->s, 0, &r.submit, DYNASOR_STATE_CANCELLED, DYNASOR_E_CANCELLED, 0);
    struct dynasor_event e = lane_next(b->lane[0]);
    assert_int_equal(e.status, DYNASOR_E_CANCELLED);
    assert_string_equal(dynasor_error(b->lane[0]), "cancelled by its client");
    assert_int_equal(dynasor_cancel(b->lane[0], program), 0); /* it came first */
}

/* Many laps of both rings, the daemon always as far ahead as it may. */
static void test_wrap(void **state)
{
    struct client_rig *b = *state;
    for (int lap = 0; lap < 12; lap++) {
        uint64_t program = submit(b->lane[0]);
        union wire_record r = fake_expect(b->s, 0, WIRE_OP_SUBMIT);
        uint32_t sent = 0;
        uint32_t got = 0;
        while (got < 2000) {
            while (sent < 2000 && fake_room(b->s, 0))
                fake_tokens(b->s, 0, &r.submit, sent, 1), sent++;
            struct dynasor_event e = lane_next(b->lane[0]);
            assert_int_equal(e.position, got);
            assert_int_equal(e.tokens[0], fake_token(7, got));
            got++;
        }
        fake_end(b->s, 0, &r.submit, DYNASOR_STATE_DONE, 0, got);
        assert_int_equal(lane_next(b->lane[0]).kind, DYNASOR_EVENT_END);
        assert_int_equal(dynasor_release(b->lane[0], program), 0);
        (void)fake_expect(b->s, 0, WIRE_OP_RELEASE);
    }
}

/* A slot is given back no earlier than the next call after its event was handed out. */
static void test_slot_stays(void **state)
{
    struct client_rig *b = *state;
    (void)submit(b->lane[0]);
    union wire_record r = fake_expect(b->s, 0, WIRE_OP_SUBMIT);
    const uint64_t *consumed = &region_c2d_lane(b->s->c2d, 0)->consumed;
    for (uint32_t i = 0; i < 1024; i++)
        fake_tokens(b->s, 0, &r.submit, i, 1);
    for (uint32_t i = 0; i < 1024; i++) {
        struct dynasor_event e = lane_next(b->lane[0]);
        assert_int_equal(e.position, i);
        assert_in_range(shm_load_u64(consumed), i > 300 ? i - 300 : 0, i);
    }
}

/* A daemon that sleeps because the ring is full is woken when there is room. */
static void test_credit_rings(void **state)
{
    struct client_rig *b = *state;
    (void)submit(b->lane[0]);
    union wire_record r = fake_expect(b->s, 0, WIRE_OP_SUBMIT);
    for (uint32_t i = 0; i < 1024; i++)
        fake_tokens(b->s, 0, &r.submit, i, 1);
    fake_need(b->s, 0, true);
    (void)fake_bells(b->s);
    for (uint32_t i = 0; i < 300; i++)
        (void)lane_next(b->lane[0]);
    assert_int_equal(fake_bells(b->s), 1);
    for (uint32_t i = 0; i < 700; i++)
        (void)lane_next(b->lane[0]);
    assert_int_equal(fake_bells(b->s), 0); /* one ring for one ticket */
}

static void test_bell(void **state)
{
    struct client_rig *b = *state;
    (void)submit(b->lane[0]);
    assert_int_equal(fake_bells(b->s), 0); /* awake: no system call */
    fake_need(b->s, 0, true);
    (void)submit(b->lane[0]);
    (void)submit(b->lane[0]);
    assert_int_equal(fake_bells(b->s), 1);
    (void)submit(b->lane[1]); /* another lane's need is not raised */
    assert_int_equal(fake_bells(b->s), 0);
    fake_need(b->s, 0, false);
    fake_need(b->s, 0, true);
    (void)submit(b->lane[0]);
    assert_int_equal(fake_bells(b->s), 1);
}

static void test_ring_full(void **state)
{
    struct client_rig *b = *state;
    struct dynasor_program_options o = simple();
    uint64_t program = 0;
    for (int i = 0; i < 256; i++)
        program = submit(b->lane[0]);
    assert_int_equal(dynasor_submit(b->lane[0], &o, &program), -DYNASOR_E_AGAIN);
    assert_non_null(strstr(dynasor_error(b->lane[0]), "submission ring"));
    assert_int_equal(dynasor_cancel(b->lane[0], program), -DYNASOR_E_AGAIN);
    (void)fake_expect(b->s, 0, WIRE_OP_SUBMIT);
    assert_int_equal(dynasor_submit(b->lane[0], &o, &program), 0);
    assert_int_equal(dynasor_submit(b->lane[0], &o, &program), -DYNASOR_E_AGAIN);
}

/* An index may not be used on one lane before the daemon has seen its RELEASE on another: it would
 * be a submission of a taken index, a violation. */
static void test_index_order(void **state)
{
    struct client_rig *b = *state;
    struct dynasor_program_options o = simple();
    union wire_record r[512];
    uint64_t program[512];
    for (int i = 0; i < 512; i++) {
        program[i] = submit(b->lane[0]);
        r[i] = fake_expect(b->s, 0, WIRE_OP_SUBMIT);
        for (int k = 0; k < i; k++)
            assert_int_not_equal(r[i].submit.index, r[k].submit.index);
    }
    uint64_t id;
    assert_int_equal(dynasor_submit(b->lane[1], &o, &id), -DYNASOR_E_AGAIN);
    assert_non_null(strstr(dynasor_error(b->lane[1]), "program table"));
    fake_end(b->s, 0, &r[3].submit, DYNASOR_STATE_DONE, 0, 0);
    (void)lane_next(b->lane[0]);
    assert_int_equal(dynasor_submit(b->lane[1], &o, &id), -DYNASOR_E_AGAIN); /* not released */
    assert_int_equal(dynasor_release(b->lane[0], program[3]), 0);
    assert_int_equal(dynasor_submit(b->lane[1], &o, &id), -DYNASOR_E_AGAIN); /* not yet seen */
    (void)fake_expect(b->s, 0, WIRE_OP_RELEASE);
    assert_int_equal(dynasor_submit(b->lane[1], &o, &id), 0);
    assert_int_equal(fake_expect(b->s, 1, WIRE_OP_SUBMIT).submit.index, r[3].submit.index);
    assert_int_not_equal(id, program[3]);
    /* on its own lane the order of the ring suffices */
    fake_end(b->s, 0, &r[5].submit, DYNASOR_STATE_DONE, 0, 0);
    (void)lane_next(b->lane[0]);
    assert_int_equal(dynasor_release(b->lane[0], program[5]), 0);
    assert_int_equal(dynasor_submit(b->lane[0], &o, &id), 0);
}

static void test_arena(void **state)
{
    struct client_rig *b = *state;
    static char text[8192];
    memset(text, 'x', sizeof text);
    struct dynasor_program_options o = simple();
    o.prompt_text = text;
    for (int round = 0; round < 600; round++) { /* 16 KiB: four of these, then none */
        uint64_t program[5];
        union wire_record r[4];
        o.prompt_bytes = 4096 - sizeof(struct wire_spec);
        for (int i = 0; i < 4; i++) {
            text[0] = (char)('a' + i);
            assert_int_equal(dynasor_submit(b->lane[0], &o, &program[i]), 0);
        }
        assert_int_equal(dynasor_submit(b->lane[0], &o, &program[4]), -DYNASOR_E_AGAIN);
        assert_non_null(strstr(dynasor_error(b->lane[0]), "arena"));
        for (int i = 0; i < 4; i++) {
            struct wire_spec spec;
            uint32_t bytes;
            r[i] = fake_expect(b->s, 0, WIRE_OP_SUBMIT);
            const char *prompt = fake_prompt(b->s, &r[i].submit, &bytes, &spec);
            assert_int_equal(bytes, o.prompt_bytes);
            assert_int_equal(prompt[0], 'a' + i);
            assert_int_equal(prompt[1], 'x');
            assert_int_equal(spec.resume_tokens, 0);
            assert_int_equal(r[i].submit.u.payload.offset % 64, 0);
        }
        for (int i = 0; i < 4; i++) {
            struct wire_fault fault = {.status = DYNASOR_E_QUOTA};
            if (i == 2) /* a refusal gives it back, too */
                fake_refuse(b->s, 0, &r[i].submit, &fault);
            else
                fake_end(b->s, 0, &r[i].submit, DYNASOR_STATE_DONE, 0, 0);
            (void)lane_next(b->lane[0]);
            assert_int_equal(dynasor_release(b->lane[0], program[i]), 0);
            if (i != 2)
                (void)fake_expect(b->s, 0, WIRE_OP_RELEASE);
        }
    }
}

static void test_prompt_tokens(void **state)
{
    struct client_rig *b = *state;
    static const uint32_t tokens[10] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    struct dynasor_program_options o = simple();
    uint64_t program;
    o.prompt_text = NULL;
    o.prompt_bytes = 0;
    o.prompt_tokens = tokens;
    for (uint32_t count = 6; count <= 10; count += 4) { /* inline, and in the arena */
        struct wire_spec spec;
        uint32_t bytes;
        o.prompt_tokens_count = count;
        assert_int_equal(dynasor_submit(b->lane[0], &o, &program), 0);
        union wire_record r = fake_expect(b->s, 0, WIRE_OP_SUBMIT);
        assert_int_equal(r.submit.flags & WIRE_SUBMIT_PROMPT_TOKENS, WIRE_SUBMIT_PROMPT_TOKENS);
        assert_int_equal((r.submit.flags & WIRE_SUBMIT_PAYLOAD) != 0, count == 10);
        assert_memory_equal(fake_prompt(b->s, &r.submit, &bytes, &spec), tokens, count * 4);
        assert_int_equal(bytes, count * 4);
    }
}

/* A closed lane cancels and releases what it had; its place serves the next one. */
static void test_lane_close(void **state)
{
    struct client_rig *b = *state;
    uint64_t ended = submit(b->lane[0]);
    union wire_record r0 = fake_expect(b->s, 0, WIRE_OP_SUBMIT);
    uint64_t running = submit(b->lane[0]);
    union wire_record r1 = fake_expect(b->s, 0, WIRE_OP_SUBMIT);
    fake_tokens(b->s, 0, &r1.submit, 0, 3);
    (void)lane_next(b->lane[0]);
    fake_end(b->s, 0, &r0.submit, DYNASOR_STATE_DONE, 0, 0);
    (void)lane_next(b->lane[0]);
    dynasor_lane_close(b->lane[0]);
    union wire_record a = {.word = {0}};
    union wire_record c = {.word = {0}};
    assert_true(fake_take(b->s, 0, &a) && fake_take(b->s, 0, &c));
    const union wire_record *release = a.op == WIRE_OP_RELEASE ? &a : &c;
    const union wire_record *cancel = a.op == WIRE_OP_RELEASE ? &c : &a;
    assert_int_equal(release->op, WIRE_OP_RELEASE);
    assert_int_equal(release->release.program_id, ended);
    assert_int_equal(cancel->op, WIRE_OP_CANCEL);
    assert_int_equal(cancel->cancel.program_id, running);
    assert_int_equal(dynasor_lane_open(b->client, &b->lane[0]), 0);
    uint64_t program = submit(b->lane[0]);
    union wire_record r2 = fake_expect(b->s, 0, WIRE_OP_SUBMIT);
    fake_tokens(b->s, 0, &r1.submit, 3, 3);
    fake_tokens(b->s, 0, &r1.submit, 6, 3);
    fake_end(b->s, 0, &r1.submit, DYNASOR_STATE_CANCELLED, DYNASOR_E_CANCELLED, 9);
    fake_tokens(b->s, 0, &r2.submit, 0, 1);
    assert_int_equal(lane_next(b->lane[0]).program, program); /* nothing of the one before */
    r0 = fake_expect(b->s, 0, WIRE_OP_RELEASE);
    assert_int_equal(r0.release.program_id, running);
}

/* A lane that nobody reopens does not keep its places for ever. */
static void test_reap(void **state)
{
    struct client_rig *b = *state;
    union wire_record r[512];
    for (int i = 0; i < 512; i++) {
        (void)submit(b->lane[0]);
        r[i] = fake_expect(b->s, 0, WIRE_OP_SUBMIT);
    }
    dynasor_lane_close(b->lane[0]);
    for (int i = 0; i < 256; i++)
        (void)fake_expect(b->s, 0, WIRE_OP_CANCEL); /* a ring full of them */
    struct dynasor_program_options o = simple();
    uint64_t program;
    assert_int_equal(dynasor_submit(b->lane[1], &o, &program), -DYNASOR_E_AGAIN);
    for (int i = 0; i < 256; i++) /* the others followed */
        (void)fake_expect(b->s, 0, WIRE_OP_CANCEL);
    for (int i = 0; i < 512; i++)
        fake_end(b->s, 0, &r[i].submit, DYNASOR_STATE_CANCELLED, DYNASOR_E_CANCELLED, 0);
    assert_int_equal(dynasor_submit(b->lane[1], &o, &program), -DYNASOR_E_AGAIN);
    for (int i = 0; i < 256; i++)
        (void)fake_expect(b->s, 0, WIRE_OP_RELEASE);
    assert_int_equal(dynasor_submit(b->lane[1], &o, &program), 0);
    assert_int_equal(dynasor_lane_open(b->client, &b->lane[0]), 0);
}

/* What only a broken daemon sends ends the session, and is said. */
static void test_broken_daemon(void **state)
{
    struct client_rig *b = *state;
    (void)submit(b->lane[0]);
    struct wire_submit good = fake_expect(b->s, 0, WIRE_OP_SUBMIT).submit;
    struct wire_submit bad = good;
    bad.index = good.index + 1;
    fake_tokens(b->s, 0, &bad, 0, 1);
    struct dynasor_event e;
    assert_int_equal(dynasor_next(b->lane[0], &e, NS_PER_S), -DYNASOR_E_PROTOCOL);
    assert_non_null(strstr(dynasor_error(b->lane[0]), "record_index"));
    assert_int_equal(dynasor_next(b->lane[1], &e, NS_PER_S), -DYNASOR_E_PROTOCOL);
    uint64_t program;
    struct dynasor_program_options o = simple();
    assert_int_equal(dynasor_submit(b->lane[0], &o, &program), -DYNASOR_E_PROTOCOL);
    assert_int_equal(dynasor_cancel(b->lane[0], program), -DYNASOR_E_PROTOCOL);
    assert_int_equal(dynasor_descriptor(b->client), -DYNASOR_E_PROTOCOL);
}

static void broken_event(struct client_rig *b, int variant, const struct wire_submit *good)
{
    union wire_event e = {.tokens = {.kind = WIRE_EVENT_TOKENS, .count = 1, .index = good->index}};
    switch (variant) {
    case 0: /* a gap */
        e.tokens.position = 5;
        break;
    case 1:
        e.tokens.count = 12;
        break;
    case 2:
        e.tokens.count = 0;
        break;
    case 3:
        e.tokens.kind = 77;
        break;
    case 4:
        e.tokens.index = 512;
        break;
    case 5:
        e.text =
            (struct wire_event_text){.kind = WIRE_EVENT_TEXT, .count = 41, .index = good->index};
        break;
    case 6:
        e.end = (struct wire_event_end){.kind = WIRE_EVENT_END,
                                        .state = DYNASOR_STATE_DONE,
                                        .index = good->index,
                                        .program_id = good->program_id + 1};
        break;
    case 7:
        e.end = (struct wire_event_end){.kind = WIRE_EVENT_END,
                                        .state = DYNASOR_STATE_RUNNING,
                                        .index = good->index,
                                        .program_id = good->program_id};
        break;
    default: /* a sequence that was never due */
        shm_store_release_u64(&region_event_ring(b->s->d2c, &b->s->geometry, 0)->seq, 4711);
        return;
    }
    fake_event(b->s, 0, &e);
}

static void test_broken_events(void **state)
{
    (void)state;
    for (int variant = 0; variant <= 8; variant++) {
        void *own;
        setup(&own);
        struct client_rig *b = own;
        (void)submit(b->lane[0]);
        struct wire_submit good = fake_expect(b->s, 0, WIRE_OP_SUBMIT).submit;
        broken_event(b, variant, &good);
        struct dynasor_event e;
        if (dynasor_next(b->lane[0], &e, NS_PER_S) != -DYNASOR_E_PROTOCOL)
            fail_msg("variant %d was accepted", variant);
        client_rig_teardown(&own);
    }
}

/* What repeats is dropped, what overlaps is cut. */
static void test_repetition(void **state)
{
    struct client_rig *b = *state;
    (void)submit(b->lane[0]);
    struct wire_submit s = fake_expect(b->s, 0, WIRE_OP_SUBMIT).submit;
    fake_tokens(b->s, 0, &s, 0, 4);
    fake_tokens(b->s, 0, &s, 0, 4);
    fake_tokens(b->s, 0, &s, 2, 5);
    assert_int_equal(lane_next(b->lane[0]).count, 4);
    struct dynasor_event e = lane_next(b->lane[0]);
    assert_int_equal(e.position, 4);
    assert_int_equal(e.count, 3);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(e.tokens[i], fake_token(7, 4 + i));
    lane_quiet(b->lane[0]);
}

static void test_timeout(void **state)
{
    struct client_rig *b = *state;
    struct dynasor_event e;
    uint64_t start = now_ns();
    assert_int_equal(dynasor_next(b->lane[0], &e, 30 * NS_PER_MS), -DYNASOR_E_TIMEOUT);
    assert_in_range(now_ns() - start, 30 * NS_PER_MS, 200 * NS_PER_MS);
    start = now_ns();
    assert_int_equal(dynasor_next(b->lane[0], &e, 250 * NS_PER_MS), -DYNASOR_E_TIMEOUT);
    assert_in_range(now_ns() - start, 250 * NS_PER_MS, 600 * NS_PER_MS);
}

static void *send_later(void *argument)
{
    struct client_rig *b = argument;
    struct wire_submit s = fake_expect(b->s, 0, WIRE_OP_SUBMIT).submit;
    sleep_ns(30 * NS_PER_MS);
    fake_tokens(b->s, 0, &s, 0, 1);
    return NULL;
}

static void test_woken(void **state)
{
    struct client_rig *b = *state;
    uint64_t shortest = UINT64_MAX;
    for (int attempt = 0; attempt < 8 && shortest > 85 * NS_PER_MS; attempt++) {
        pthread_t thread;
        struct dynasor_event e;
        pthread_create(&thread, NULL, send_later, b);
        (void)submit(b->lane[0]);
        uint64_t start = now_ns();
        assert_int_equal(dynasor_next(b->lane[0], &e, DYNASOR_FOREVER), 0);
        uint64_t took = now_ns() - start;
        shortest = took < shortest ? took : shortest;
        pthread_join(thread, NULL);
    }
    /* By the wake, not by the belt of 100 ms; once, on a machine that may be busy. */
    assert_in_range(shortest, 0, 85 * NS_PER_MS);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, client_rig_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_program),    TEST(test_bad_options),   TEST(test_refused),
        TEST(test_cancel),     TEST(test_result),        TEST(test_algorithm_options),
        TEST(test_wrap),       TEST(test_slot_stays),    TEST(test_credit_rings),
        TEST(test_bell),       TEST(test_ring_full),     TEST(test_index_order),
        TEST(test_arena),      TEST(test_prompt_tokens), TEST(test_lane_close),
        TEST(test_reap),       TEST(test_broken_daemon), cmocka_unit_test(test_broken_events),
        TEST(test_repetition), TEST(test_timeout),       TEST(test_woken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
