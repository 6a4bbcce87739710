/* tests/unit/test_wire.c: every range that wire_check_*() holds a client to, at its lower end minus
 * one, both ends, and the upper end plus one; what is a refusal and what is a violation; UTF-8 by
 * table. A fault must name the field and the range. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "shm/wire.h"

#define ARENA 65536u
#define PROMPT_MAX 8192u
#define VOCABULARY 1000u

static const struct wire_limits limits = {.arena_bytes = ARENA,
                                          .prompt_bytes_max = PROMPT_MAX,
                                          .max_tokens_max = 500,
                                          .programs_count = 512,
                                          .vocabulary_count = VOCABULARY,
                                          .streams = DYNASOR_STREAM_ALL};
static struct wire_fault fault;

static void expect(enum wire_verdict got, enum wire_verdict want, enum dynasor_status status,
                   enum dynasor_field field)
{
    assert_int_equal(got, want);
    if (want != WIRE_OK) {
        assert_int_equal(fault.status, status);
        assert_int_equal(fault.field, field);
        assert_int_equal(fault.reserved, 0);
    }
}

static struct wire_hello hello_good(void)
{
    return (struct wire_hello){.magic = WIRE_MAGIC,
                               .version_min = WIRE_VERSION_MIN,
                               .version_max = WIRE_VERSION_MAX,
                               .lanes_count = 1,
                               .arena_bytes = DYNASOR_ARENA_BYTES_MIN};
}

#define HELLO(set, ...)                                                                            \
    do {                                                                                           \
        struct wire_hello hello = hello_good();                                                    \
        hello.set;                                                                                 \
        expect(wire_check_hello(&hello, sizeof hello, &fault), __VA_ARGS__);                       \
    } while (0)
#define OK WIRE_OK, DYNASOR_OK, DYNASOR_FIELD_NONE
#define REFUSED(field) WIRE_REFUSE, DYNASOR_E_INVALID, DYNASOR_FIELD_##field
#define UNSUPPORTED(field) WIRE_REFUSE, DYNASOR_E_UNSUPPORTED, DYNASOR_FIELD_##field
#define VERSION(field) WIRE_REFUSE, DYNASOR_E_VERSION, DYNASOR_FIELD_##field
#define VIOLATION(field) WIRE_VIOLATION, DYNASOR_E_PROTOCOL, DYNASOR_FIELD_##field

static void hello_fields_are_held_to_their_ranges(void **state)
{
    (void)state;
    HELLO(lanes_count = 0, REFUSED(LANES));
    assert_int_equal(fault.lo, 1);
    assert_int_equal(fault.hi, DYNASOR_LANES_MAX);
    assert_int_equal(fault.got, 0);
    HELLO(lanes_count = 1, OK);
    HELLO(lanes_count = DYNASOR_LANES_MAX, OK);
    HELLO(lanes_count = DYNASOR_LANES_MAX + 1, REFUSED(LANES));
    HELLO(lanes_count = UINT32_MAX, REFUSED(LANES));
    HELLO(arena_bytes = 0, REFUSED(ARENA_BYTES));
    HELLO(arena_bytes = DYNASOR_ARENA_BYTES_MIN - 1, REFUSED(ARENA_BYTES));
    HELLO(arena_bytes = DYNASOR_ARENA_BYTES_MIN / 2, REFUSED(ARENA_BYTES));
    HELLO(arena_bytes = DYNASOR_ARENA_BYTES_MIN + 1, REFUSED(ARENA_BYTES));
    HELLO(arena_bytes = DYNASOR_ARENA_BYTES_MAX, OK);
    HELLO(arena_bytes = DYNASOR_ARENA_BYTES_MAX + 1, REFUSED(ARENA_BYTES));
    HELLO(arena_bytes = 2ull * DYNASOR_ARENA_BYTES_MAX, REFUSED(ARENA_BYTES));
    HELLO(arena_bytes = 1ull << 63, REFUSED(ARENA_BYTES));
    HELLO(features_wanted = UINT64_MAX, OK); /* unknown wishes are ignored */
    HELLO(features_required = WIRE_FEATURES_KNOWN, OK);
    HELLO(features_required = WIRE_FEATURES_KNOWN + 1, VERSION(FEATURES));
    HELLO(features_required = 1ull << 63, VERSION(FEATURES));
    HELLO(magic = WIRE_MAGIC + 1, VIOLATION(HELLO));
    HELLO(reserved0 = 1, VIOLATION(RECORD_RESERVED));
    HELLO(reserved1 = 1, VIOLATION(RECORD_RESERVED));
}

static void hello_versions_need_an_overlap(void **state)
{
    (void)state;
    HELLO(version_max = UINT16_MAX, OK);
    HELLO(version_min = 0, OK);
    HELLO(version_min = WIRE_VERSION_MAX + 1, VERSION(VERSION));
    HELLO(version_max = WIRE_VERSION_MIN - 1, VERSION(VERSION)); /* 0, and below min */
    struct wire_hello hello = hello_good();
    hello.version_min = hello.version_max = 7;
    expect(wire_check_hello(&hello, sizeof hello, &fault), VERSION(VERSION));
    assert_int_equal(fault.lo, WIRE_VERSION_MIN);
    assert_int_equal(fault.hi, WIRE_VERSION_MAX);
}

static void hello_of_another_size_says_version_before_anything_else(void **state)
{
    uint8_t bytes[128] = {0};
    struct wire_hello hello = hello_good();
    (void)state;
    for (size_t n = 0; n < sizeof bytes; n++) {
        memcpy(bytes, &hello, sizeof hello);
        enum wire_verdict verdict = wire_check_hello(bytes, n, &fault);
        if (n == sizeof hello)
            assert_int_equal(verdict, WIRE_OK);
        else
            expect(verdict, VIOLATION(HELLO));
        ((struct wire_hello *)(void *)bytes)->version_min = 9; /* a later major version */
        ((struct wire_hello *)(void *)bytes)->version_max = 9;
        if (n >= 16)
            expect(wire_check_hello(bytes, n, &fault), VERSION(VERSION));
    }
}

static union wire_record submit_inline(void)
{
    return (union wire_record){.submit = {.op = WIRE_OP_SUBMIT,
                                          .streams = DYNASOR_STREAM_TOKENS,
                                          .program_id = 1,
                                          .max_tokens = 1,
                                          .bytes = 1,
                                          .u.prompt = "x"}};
}

static union wire_record submit_payload(void)
{
    return (union wire_record){.submit = {.op = WIRE_OP_SUBMIT,
                                          .flags = WIRE_SUBMIT_PAYLOAD,
                                          .streams = DYNASOR_STREAM_TOKENS,
                                          .program_id = 1,
                                          .max_tokens = 1,
                                          .bytes = 64}};
}

#define RECORD(make, set, ...)                                                                     \
    do {                                                                                           \
        union wire_record r = make();                                                              \
        r.set;                                                                                     \
        expect(wire_check_record(&r, &limits, &fault), __VA_ARGS__);                               \
    } while (0)

static void submit_fields_are_held_to_their_ranges(void **state)
{
    (void)state;
    RECORD(submit_inline, submit.index = 0, OK);
    RECORD(submit_inline, submit.index = 511, OK);
    RECORD(submit_inline, submit.index = 512, VIOLATION(RECORD_INDEX));
    assert_int_equal(fault.hi, 511);
    RECORD(submit_inline, submit.index = UINT32_MAX, VIOLATION(RECORD_INDEX));
    RECORD(submit_inline, submit.program_id = 0, VIOLATION(PROGRAM_ID));
    RECORD(submit_inline, submit.program_id = UINT64_MAX, OK);
    RECORD(submit_inline, submit.flags = WIRE_SUBMIT_PROMPT_TOKENS, OK);
    RECORD(submit_inline, submit.flags = WIRE_SUBMIT_FLAGS_KNOWN + 1, VIOLATION(RECORD_RESERVED));
    RECORD(submit_inline, submit.flags = WIRE_SUBMIT_RESUMED, VIOLATION(RECORD_RESERVED));
    union wire_record driven = submit_inline();
    driven.submit.algorithm = DYNASOR_ALGORITHM_CUSTOM;
    expect(wire_check_record(&driven, &limits, &fault), OK);
    driven.submit.flags = WIRE_SUBMIT_RESUMED;
    expect(wire_check_record(&driven, &limits, &fault), WIRE_REFUSE, DYNASOR_E_RESTARTED,
           DYNASOR_FIELD_NONE);
    RECORD(submit_inline, submit.flags = 0x80, VIOLATION(RECORD_RESERVED));
    RECORD(submit_inline, submit.algorithm = DYNASOR_ALGORITHM_COUNT - 1, OK);
    RECORD(submit_inline, submit.algorithm = DYNASOR_ALGORITHM_COUNT, UNSUPPORTED(ALGORITHM));
    RECORD(submit_inline, submit.algorithm = 255, UNSUPPORTED(ALGORITHM));
    RECORD(submit_inline, submit.streams = 0, REFUSED(STREAMS));
    RECORD(submit_inline, submit.streams = DYNASOR_STREAM_ALL, OK);
    RECORD(submit_inline, submit.streams = DYNASOR_STREAM_ALL + 1, REFUSED(STREAMS));
    RECORD(submit_inline, submit.max_tokens = 0, REFUSED(MAX_TOKENS));
    RECORD(submit_inline, submit.max_tokens = 1, OK);
    RECORD(submit_inline, submit.max_tokens = 500, OK);
    RECORD(submit_inline, submit.max_tokens = 501, REFUSED(MAX_TOKENS));
    assert_int_equal(fault.lo, 1);
    assert_int_equal(fault.hi, 500);
    assert_int_equal(fault.got, 501);
    RECORD(submit_inline, submit.max_tokens = UINT32_MAX, REFUSED(MAX_TOKENS));
    struct wire_limits tokens_only = limits;
    union wire_record r = submit_inline();
    tokens_only.streams = DYNASOR_STREAM_TOKENS;
    r.submit.streams = DYNASOR_STREAM_TEXT;
    expect(wire_check_record(&r, &tokens_only, &fault), UNSUPPORTED(STREAMS));
}

static void inline_prompt_bytes_are_held_to_their_range_and_the_rest_is_zero(void **state)
{
    (void)state;
    RECORD(submit_inline, submit.bytes = WIRE_INLINE_BYTES, OK);
    RECORD(submit_inline, submit.bytes = WIRE_INLINE_BYTES + 1, VIOLATION(PROMPT_BYTES));
    RECORD(submit_inline, submit.bytes = UINT32_MAX, VIOLATION(PROMPT_BYTES));
    RECORD(submit_inline, submit.bytes = 0, VIOLATION(RECORD_RESERVED)); /* 'x' is left behind */
    RECORD(submit_inline, submit.u.prompt[1] = 1, VIOLATION(RECORD_RESERVED));
    RECORD(submit_inline, submit.u.prompt[WIRE_INLINE_BYTES - 1] = 1, VIOLATION(RECORD_RESERVED));
}

static void payload_lies_in_the_arena_or_the_session_ends(void **state)
{
    (void)state;
    RECORD(submit_payload, submit.bytes = WIRE_SPEC_BYTES_MIN, OK);
    RECORD(submit_payload, submit.bytes = WIRE_SPEC_BYTES_MIN - 1, VIOLATION(PROMPT_BYTES));
    RECORD(submit_payload, submit.bytes = 0, VIOLATION(PROMPT_BYTES));
    RECORD(submit_payload, submit.bytes = ARENA + 1, VIOLATION(PROMPT_BYTES));
    RECORD(submit_payload, submit.bytes = UINT32_MAX, VIOLATION(PROMPT_BYTES));
    RECORD(submit_payload, submit.bytes = PROMPT_MAX + WIRE_SPEC_BYTES_MAX, OK);
    RECORD(submit_payload, submit.bytes = PROMPT_MAX + WIRE_SPEC_BYTES_MAX + 1,
           REFUSED(PROMPT_BYTES));
    RECORD(submit_payload, submit.bytes = ARENA, REFUSED(PROMPT_BYTES));
    RECORD(submit_payload, submit.u.payload.offset = ARENA - 64, OK); /* 64 bytes: to the end */
    RECORD(submit_payload, submit.u.payload.offset = ARENA - 63, VIOLATION(PAYLOAD_OFFSET));
    RECORD(submit_payload, submit.u.payload.offset = ARENA, VIOLATION(PAYLOAD_OFFSET));
    RECORD(submit_payload, submit.u.payload.offset = 63, VIOLATION(PAYLOAD_OFFSET));
    RECORD(submit_payload, submit.u.payload.offset = 65, VIOLATION(PAYLOAD_OFFSET));
    RECORD(submit_payload, submit.u.payload.offset = UINT64_MAX - 63, VIOLATION(PAYLOAD_OFFSET));
    RECORD(submit_payload, submit.u.payload.reserved[0] = 1, VIOLATION(RECORD_RESERVED));
    RECORD(submit_payload, submit.u.payload.reserved[1] = 1ull << 63, VIOLATION(RECORD_RESERVED));
}

static union wire_record cancel_good(void)
{
    return (union wire_record){.cancel = {.op = WIRE_OP_CANCEL, .index = 3, .program_id = 9}};
}

static union wire_record release_good(void)
{
    return (union wire_record){.release = {.op = WIRE_OP_RELEASE, .index = 3, .program_id = 9}};
}

static void cancel_and_release_are_held_to_their_ranges(void **state)
{
    (void)state;
    RECORD(cancel_good, cancel.index = 511, OK);
    RECORD(cancel_good, cancel.index = 512, VIOLATION(RECORD_INDEX));
    RECORD(cancel_good, cancel.reserved0[2] = 1, VIOLATION(RECORD_RESERVED));
    RECORD(cancel_good, cancel.reserved1[4] = 1, VIOLATION(RECORD_RESERVED));
    RECORD(release_good, release.index = 511, OK);
    RECORD(release_good, release.index = 512, VIOLATION(RECORD_INDEX));
    RECORD(release_good, release.reserved0[0] = 1, VIOLATION(RECORD_RESERVED));
    RECORD(release_good, release.reserved1[0] = 1, VIOLATION(RECORD_RESERVED));
    RECORD(release_good, release.program_id = 0, OK); /* names no program: ignored later */
}

static union wire_record command_of(enum dynasor_command command)
{
    return (union wire_record){
        .command = {
            .op = WIRE_OP_COMMAND, .command = (uint8_t)command, .index = 3, .program_id = 9}};
}

static union wire_record fork_good(void)
{
    union wire_record r = command_of(DYNASOR_COMMAND_FORK);
    r.command.flags = WIRE_COMMAND_FLAGS_KNOWN;
    r.command.u.begin.top_p = 1;
    return r;
}

static union wire_record give_good(void)
{
    union wire_record r = command_of(DYNASOR_COMMAND_GIVE);
    r.command.bytes = 3;
    memcpy(r.command.u.text, "\xe2\x82\xac", 3);
    return r;
}

static void commands_are_held_to_their_ranges(void **state)
{
    (void)state;
    RECORD(fork_good, command.index = 511, OK);
    RECORD(fork_good, command.index = 512, VIOLATION(RECORD_INDEX));
    RECORD(fork_good, command.program_id = 0, OK); /* names no program: ignored later */
    RECORD(fork_good, command.command = 0, UNSUPPORTED(COMMAND));
    RECORD(fork_good, command.command = DYNASOR_COMMAND_COUNT, UNSUPPORTED(COMMAND));
    assert_int_equal(fault.lo, 1);
    assert_int_equal(fault.hi, DYNASOR_COMMAND_COUNT - 1);
    RECORD(fork_good, command.command = DYNASOR_COMMAND_PROBE, OK);
    RECORD(fork_good, command.command = DYNASOR_COMMAND_KILL, VIOLATION(RECORD_RESERVED));
    RECORD(fork_good, command.flags = WIRE_COMMAND_FLAGS_KNOWN + 1, VIOLATION(RECORD_RESERVED));
    RECORD(fork_good, command.bytes = 1, VIOLATION(RECORD_RESERVED));
    RECORD(fork_good, command.u.begin.reserved = 1, VIOLATION(RECORD_RESERVED));
    RECORD(fork_good, command.u.begin.streams = 3, OK);
    RECORD(fork_good, command.u.begin.streams = 4, REFUSED(STREAMS));
    RECORD(fork_good, command.u.begin.temperature = -1, REFUSED(TEMPERATURE));
    RECORD(fork_good, command.u.begin.top_p = 0, REFUSED(TOP_P));
    RECORD(fork_good, command.u.begin.min_p = 2, REFUSED(MIN_P));
    RECORD(fork_good, command.flags = 0; r.command.u.begin.top_p = 0, OK);
    RECORD(fork_good, command.u.begin.parent = UINT32_MAX, OK); /* the program knows its branches */
}

static void what_a_command_does_not_use_is_zero(void **state)
{
    static const uint8_t words[DYNASOR_COMMAND_COUNT] = {0, 9, 8, 8, 1, 0, 0, 3, 2};
    (void)state;
    for (uint32_t c = DYNASOR_COMMAND_FORK; c < DYNASOR_COMMAND_COUNT; c++)
        for (uint32_t w = 0; w < 9; w++) {
            union wire_record r = command_of((enum dynasor_command)c);
            r.command.u.word[w] = 1;
            if (w < words[c])
                expect(wire_check_record(&r, &limits, &fault), OK);
            else
                expect(wire_check_record(&r, &limits, &fault), VIOLATION(RECORD_RESERVED));
        }
}

static void given_text_is_whole_characters(void **state)
{
    (void)state;
    RECORD(give_good, command.bytes = 3, OK);
    RECORD(give_good, command.bytes = 0, VIOLATION(GIVEN_BYTES));
    RECORD(give_good, command.bytes = WIRE_GIVE_BYTES, OK); /* zeros are text */
    RECORD(give_good, command.bytes = WIRE_GIVE_BYTES + 1, VIOLATION(GIVEN_BYTES));
    RECORD(give_good, command.u.text[3] = 1, VIOLATION(RECORD_RESERVED));
    RECORD(give_good, command.u.text[2] = 0, VIOLATION(PROMPT_TEXT));
    RECORD(give_good, command.flags = 1, VIOLATION(RECORD_RESERVED));
}

static void every_other_op_is_a_violation(void **state)
{
    (void)state;
    for (unsigned op = 0; op < 256; op++) {
        union wire_record r = submit_inline();
        r.op = (uint8_t)op;
        if (op < WIRE_OP_SUBMIT || op > WIRE_OP_COMMAND)
            expect(wire_check_record(&r, &limits, &fault), VIOLATION(RECORD_OP));
    }
}

/* Runs wire_check_payload over a payload of exactly `bytes`, so that a sanitizer sees any excess. */
static enum wire_verdict payload(uint32_t bytes, struct wire_spec spec, uint32_t extra_at,
                                 uint32_t max_tokens)
{
    union wire_record r = submit_payload();
    struct wire_spec got;
    struct wire_parts parts = {0};
    uint8_t *copy = calloc(1, bytes);
    assert_non_null(copy);
    /* A short spec ends where it says; what follows is the prompt. */
    memcpy(copy, &spec, spec.spec_bytes < sizeof spec ? spec.spec_bytes : sizeof spec);
    memcpy(copy, &spec.spec_bytes, sizeof spec.spec_bytes);
    if (extra_at)
        copy[extra_at] = 1;
    r.submit.bytes = bytes;
    r.submit.max_tokens = max_tokens;
    enum wire_verdict verdict = wire_check_payload(&r.submit, copy, &limits, &got, &parts, &fault);
    if (verdict == WIRE_OK) {
        assert_int_equal(parts.prompt_off, spec.spec_bytes);
        assert_memory_equal(&got, &spec, sizeof got);
    }
    free(copy);
    return verdict;
}

#define SPEC(...) ((struct wire_spec){__VA_ARGS__})

static void spec_is_held_to_its_ranges(void **state)
{
    (void)state;
    expect(payload(64, SPEC(.spec_bytes = 16), 0, 10), OK);
    expect(payload(64, SPEC(.spec_bytes = 0), 0, 10), REFUSED(SPEC_SIZE));
    expect(payload(64, SPEC(.spec_bytes = 15), 0, 10), REFUSED(SPEC_SIZE));
    expect(payload(64, SPEC(.spec_bytes = 17), 0, 10), REFUSED(SPEC_SIZE));
    expect(payload(64, SPEC(.spec_bytes = 64), 0, 10), OK);
    expect(payload(64, SPEC(.spec_bytes = 72), 0, 10), REFUSED(SPEC_SIZE));
    expect(payload(64, SPEC(.spec_bytes = UINT32_MAX), 0, 10), REFUSED(SPEC_SIZE));
    expect(payload(8192, SPEC(.spec_bytes = WIRE_SPEC_BYTES_MAX), 0, 10), OK);
    expect(payload(8192, SPEC(.spec_bytes = WIRE_SPEC_BYTES_MAX + 8), 0, 10), REFUSED(SPEC_SIZE));
    expect(payload(128, SPEC(.spec_bytes = 64), 63, 10), UNSUPPORTED(SPEC_SIZE));
    expect(payload(128, SPEC(.spec_bytes = 64), 64, 10), OK); /* that byte is the prompt's */
    expect(payload(64, SPEC(.spec_bytes = 24), 24, 10), OK);
    expect(payload(64, SPEC(.spec_bytes = 16, .resume_tokens = 10), 0, 10), OK);
    expect(payload(64, SPEC(.spec_bytes = 16, .resume_tokens = 11), 0, 10), REFUSED(RESUME_TOKENS));
    expect(payload(64, SPEC(.spec_bytes = 16, .resume_text_bytes = 2560), 0, 10), OK);
    expect(payload(64, SPEC(.spec_bytes = 16, .resume_text_bytes = 2561), 0, 10),
           REFUSED(RESUME_TEXT_BYTES));
    expect(payload(64, SPEC(.spec_bytes = 16, .resume_text_bytes = UINT64_MAX), 0, 10),
           REFUSED(RESUME_TEXT_BYTES));
    expect(payload(PROMPT_MAX + 16, SPEC(.spec_bytes = 16), 0, 10), OK);
    expect(payload(PROMPT_MAX + 17, SPEC(.spec_bytes = 16), 0, 10), REFUSED(PROMPT_BYTES));
    expect(payload(PROMPT_MAX + 24, SPEC(.spec_bytes = 24), 0, 10), OK);
}

/* Sampling numbers at and beyond each end of their ranges; without the flag they do not count. */
static void sampling_is_held_to_its_ranges(void **state)
{
    static const struct {
        size_t offset;
        float low, below, high, above;
        uint32_t field;
    } cases[] = {
        {offsetof(struct wire_spec, temperature), 0, -0.01f, 100, 100.1f,
         DYNASOR_FIELD_TEMPERATURE},
        {offsetof(struct wire_spec, top_p), 0.001f, 0, 1, 1.001f, DYNASOR_FIELD_TOP_P},
        {offsetof(struct wire_spec, min_p), 0, -0.001f, 1, 1.001f, DYNASOR_FIELD_MIN_P},
        {offsetof(struct wire_spec, repetition_penalty), 0.001f, 0, 100, 101,
         DYNASOR_FIELD_REPETITION_PENALTY},
        {offsetof(struct wire_spec, presence_penalty), -100, -101, 100, 101,
         DYNASOR_FIELD_PRESENCE_PENALTY},
        {offsetof(struct wire_spec, frequency_penalty), -100, -101, 100, 101,
         DYNASOR_FIELD_FREQUENCY_PENALTY},
    };
    const float nan = __builtin_nanf("");
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const float values[5] = {cases[i].low, cases[i].high, cases[i].below, cases[i].above, nan};
        for (uint32_t v = 0; v < 5; v++) {
            struct wire_spec spec = {.spec_bytes = sizeof spec,
                                     .flags = WIRE_SPEC_SAMPLING,
                                     .top_p = 1,
                                     .repetition_penalty = 1};
            memcpy((char *)&spec + cases[i].offset, &values[v], sizeof(float));
            assert_int_equal(payload(128, spec, 0, 10), v < 2 ? WIRE_OK : WIRE_REFUSE);
            if (v >= 2)
                assert_int_equal(fault.field, cases[i].field);
            spec.flags = 0;
            expect(payload(128, spec, 0, 10), OK);
        }
    }
    expect(payload(128, SPEC(.spec_bytes = 56, .flags = 16), 0, 10), UNSUPPORTED(SPEC_FLAGS));
    expect(payload(128, SPEC(.spec_bytes = 56, .flags = WIRE_SPEC_CHAT), 0, 10), OK);
}

/* Lists and texts of reasoning programs: counts and lengths, then what lies behind them. */
static void algorithm_options_are_held_to_their_ranges(void **state)
{
    const uint32_t size = sizeof(struct wire_spec);
    (void)state;
#define FAULTY(set, ...)                                                                           \
    do {                                                                                           \
        struct wire_spec spec = {.spec_bytes = size, set};                                         \
        expect(wire_check_spec(&spec, &fault), __VA_ARGS__);                                       \
    } while (0)
    FAULTY(.settings_count = DYNASOR_PARAMETERS_MAX, OK);
    FAULTY(.settings_count = DYNASOR_PARAMETERS_MAX + 1, REFUSED(PARAMETERS));
    FAULTY(.answer = DYNASOR_ANSWER_TEXT, OK);
    FAULTY(.answer = DYNASOR_ANSWER_COUNT, UNSUPPORTED(ANSWER));
    FAULTY(.choice_last = 'E', REFUSED(CHOICE_LAST));
    for (unsigned c = 1; c < 256; c++) {
        struct wire_spec spec = {
            .spec_bytes = size, .answer = DYNASOR_ANSWER_CHOICE, .choice_last = (uint8_t)c};
        assert_int_equal(wire_check_spec(&spec, &fault),
                         c >= 'A' && c <= 'Z' ? WIRE_OK : WIRE_REFUSE);
    }
    FAULTY(.answer = DYNASOR_ANSWER_PREFIX, REFUSED(ANSWER_PREFIX_BYTES));
    FAULTY(.answer_prefix_bytes = 1, REFUSED(ANSWER_PREFIX_BYTES));
    FAULTY(.step_end_bytes = DYNASOR_STEP_END_BYTES_MAX, OK);
    FAULTY(.step_end_bytes = DYNASOR_STEP_END_BYTES_MAX + 1, REFUSED(STEP_END_BYTES));
    FAULTY(.profile_bytes = DYNASOR_PROFILE_BYTES_MAX, OK);
    FAULTY(.profile_bytes = DYNASOR_PROFILE_BYTES_MAX + 1, REFUSED(PROFILE));
    FAULTY(.reserved1 = 1, UNSUPPORTED(SPEC_SIZE));
#undef FAULTY
    struct wire_spec spec = {.spec_bytes = size,
                             .settings_count = 1,
                             .answer = DYNASOR_ANSWER_PREFIX,
                             .answer_prefix_bytes = 2,
                             .step_end_bytes = 1,
                             .profile_bytes = 3};
    union wire_record r = submit_payload();
    struct wire_spec got;
    struct wire_parts parts;
    static uint8_t good[96] __attribute__((aligned(8)));
    const struct wire_setting setting = {.parameter = 1, .value = 2.5};
    memcpy(good, &spec, size);
    memcpy(good + size, &setting, sizeof setting);
    memcpy(good + size + sizeof setting, "p:\nabc\0\0prompt!!", 16);
    r.submit.bytes = sizeof good;
    expect(wire_check_payload(&r.submit, good, &limits, &got, &parts, &fault), OK);
    assert_int_equal(parts.settings_off, size);
    assert_int_equal(parts.texts_off, size + 16);
    assert_int_equal(parts.prompt_off, size + 24);
    const struct {
        uint32_t at;
        uint8_t byte;
        uint32_t field;
    } bad[] = {{size + 4, 1, DYNASOR_FIELD_PARAMETER},
               {size + 16, 0, DYNASOR_FIELD_ANSWER_PREFIX_BYTES},
               {size + 18, 0, DYNASOR_FIELD_STEP_END_BYTES},
               {size + 20, 0, DYNASOR_FIELD_PROFILE},
               {size + 22, 1, DYNASOR_FIELD_SPEC_SIZE}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint8_t copy[sizeof good];
        memcpy(copy, good, sizeof copy);
        copy[bad[i].at] = bad[i].byte;
        assert_int_equal(wire_check_payload(&r.submit, copy, &limits, &got, &parts, &fault),
                         WIRE_REFUSE);
        assert_int_equal(fault.field, bad[i].field);
    }
}

struct list_case {
    uint16_t biases_count, stop_tokens_count, stops_bytes;
    uint32_t token;      /* in every bias and stop token */
    uint8_t stop_length; /* written before every stop */
    uint32_t bytes;      /* of the payload */
    int verdict;
    uint32_t field;
};

static void lists_are_counted_and_held_to_their_ranges(void **state)
{
    static const struct list_case cases[] = {
        {2, 2, 8, VOCABULARY - 1, 3, 128, WIRE_OK, 0},
        {DYNASOR_BIASES_MAX, 0, 0, 1, 3, 4096, WIRE_OK, 0},
        {DYNASOR_BIASES_MAX + 1, 0, 0, 1, 3, 4096, WIRE_REFUSE, DYNASOR_FIELD_BIASES},
        {1, 0, 0, VOCABULARY, 3, 128, WIRE_REFUSE, DYNASOR_FIELD_BIAS_TOKEN},
        {0, 1, 0, VOCABULARY, 3, 128, WIRE_REFUSE, DYNASOR_FIELD_STOP_TOKEN},
        {0, DYNASOR_STOP_TOKENS_MAX + 1, 0, 1, 3, 128, WIRE_REFUSE, DYNASOR_FIELD_STOP_TOKENS},
        {0, 0, 8, 1, 0, 128, WIRE_REFUSE, DYNASOR_FIELD_STOP_BYTES},
        {0, 0, 8, 1, 8, 128, WIRE_REFUSE, DYNASOR_FIELD_STOP_BYTES}, /* one byte is missing */
        {0, 0, 36, 1, 3, 128, WIRE_REFUSE, DYNASOR_FIELD_STOPS},     /* nine stops */
        {60, 0, 0, 1, 3, 128, WIRE_REFUSE, DYNASOR_FIELD_SPEC_SIZE}, /* beyond the payload */
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct list_case *c = &cases[i];
        struct wire_spec spec = {.spec_bytes = sizeof spec,
                                 .biases_count = c->biases_count,
                                 .stop_tokens_count = c->stop_tokens_count,
                                 .stops_bytes = c->stops_bytes};
        union wire_record r = submit_payload();
        struct wire_spec got;
        struct wire_parts parts;
        uint8_t *copy = calloc(1, c->bytes);
        assert_non_null(copy);
        memcpy(copy, &spec, sizeof spec);
        uint32_t at = sizeof spec;
        for (uint32_t n = 0; n < c->biases_count && at + 8 <= c->bytes; n++, at += 8)
            memcpy(copy + at, &(struct wire_bias){c->token, 1.5f}, 8);
        for (uint32_t n = 0; n < c->stop_tokens_count && at + 4 <= c->bytes; n++, at += 4)
            memcpy(copy + at, &c->token, 4);
        for (uint32_t n = 0; n < c->stops_bytes; n += 4)
            copy[at + n] = c->stop_length;
        r.submit.bytes = c->bytes;
        int verdict = (int)wire_check_payload(&r.submit, copy, &limits, &got, &parts, &fault);
        assert_int_equal(verdict, c->verdict);
        if (verdict != WIRE_OK)
            assert_int_equal(fault.field, c->field);
        free(copy);
    }
}

static enum wire_verdict prompt(uint8_t flags, const void *bytes, uint32_t count)
{
    union wire_record r = submit_payload();
    uint8_t *copy = malloc(count ? count : 1);
    assert_non_null(copy);
    if (count)
        memcpy(copy, bytes, count);
    r.submit.flags = (uint8_t)(WIRE_SUBMIT_PAYLOAD | flags);
    enum wire_verdict verdict = wire_check_prompt(&r.submit, copy, count, &limits, &fault);
    free(copy);
    return verdict;
}

static void token_prompts_are_whole_and_in_the_vocabulary(void **state)
{
    const uint8_t tokens = WIRE_SUBMIT_PROMPT_TOKENS;
    uint32_t t[3] = {0, VOCABULARY - 1, 5};
    (void)state;
    expect(prompt(tokens, t, 12), OK);
    expect(prompt(tokens, t, 0), REFUSED(PROMPT_BYTES));
    for (uint32_t n = 1; n < 12; n++)
        if (n % 4 != 0)
            expect(prompt(tokens, t, n), REFUSED(PROMPT_BYTES));
    t[2] = VOCABULARY;
    expect(prompt(tokens, t, 8), OK);
    expect(prompt(tokens, t, 12), REFUSED(PROMPT_TOKEN));
    assert_int_equal(fault.hi, VOCABULARY - 1);
    assert_int_equal(fault.got, VOCABULARY);
    t[2] = UINT32_MAX;
    expect(prompt(tokens, t, 12), REFUSED(PROMPT_TOKEN));
}

static void prompt_bytes_are_held_to_their_range(void **state)
{
    static uint8_t text[PROMPT_MAX + 1];
    (void)state;
    memset(text, 'a', sizeof text);
    expect(prompt(0, text, 0), REFUSED(PROMPT_BYTES));
    expect(prompt(0, text, 1), OK);
    expect(prompt(0, text, PROMPT_MAX), OK);
    expect(prompt(0, text, PROMPT_MAX + 1), REFUSED(PROMPT_BYTES));
}

struct utf8_case {
    const char *bytes;
    uint32_t count;
    bool valid;
};

static const struct utf8_case utf8_cases[] = {
    {"\0", 1, true},                /* U+0000 */
    {"\x7f", 1, true},              /* last of one byte */
    {"\xc2\x80", 2, true},          /* first of two */
    {"\xdf\xbf", 2, true},          /* last of two */
    {"\xe0\xa0\x80", 3, true},      /* first of three */
    {"\xed\x9f\xbf", 3, true},      /* U+D7FF, before the surrogates */
    {"\xee\x80\x80", 3, true},      /* U+E000, after them */
    {"\xef\xbf\xbf", 3, true},      /* U+FFFF */
    {"\xf0\x90\x80\x80", 4, true},  /* first of four */
    {"\xf4\x8f\xbf\xbf", 4, true},  /* U+10FFFF, the last */
    {"\xf4\x90\x80\x80", 4, false}, /* U+110000 */
    {"\xf5\x80\x80\x80", 4, false},
    {"\xf8\x88\x80\x80\x80", 5, false},
    {"\xfc\x84\x80\x80\x80\x80", 6, false},
    {"\xfe", 1, false},
    {"\xff", 1, false},
    {"\x80", 1, false}, /* a continuation alone */
    {"\xbf", 1, false},
    {"a\x80", 2, false},
    {"\xc0\x80", 2, false}, /* overlong forms */
    {"\xc0\xaf", 2, false},
    {"\xc1\xbf", 2, false},
    {"\xe0\x80\xaf", 3, false},
    {"\xe0\x9f\xbf", 3, false},
    {"\xf0\x80\x80\xaf", 4, false},
    {"\xf0\x8f\xbf\xbf", 4, false},
    {"\xed\xa0\x80", 3, false}, /* surrogates */
    {"\xed\xaf\xbf", 3, false},
    {"\xed\xb0\x80", 3, false},
    {"\xed\xbf\xbf", 3, false},
    {"\xc2", 1, false}, /* cut at the end */
    {"\xe2\x82", 2, false},
    {"\xe2", 1, false},
    {"\xf0\x9f\x98", 3, false},
    {"\xf0\x9f", 2, false},
    {"\xf0", 1, false},
    {"\xc2\x41", 2, false}, /* what follows is no continuation */
    {"\xe2\x82\x41", 3, false},
    {"\xe2\x41\xac", 3, false},
    {"\xf0\x9f\x98\x41", 4, false},
    {"\xe2\x82\xc2", 3, false},
};

/* Each case alone, and behind and before ASCII of every length, since eight ASCII characters at a
 * time take another path. */
static void utf8_is_what_rfc_3629_says(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof utf8_cases / sizeof utf8_cases[0]; i++) {
        const struct utf8_case *c = &utf8_cases[i];
        for (uint32_t before = 0; before <= 17; before++)
            for (uint32_t after = 0; after <= 9; after += 3) {
                uint8_t text[64];
                memset(text, 'a', sizeof text);
                memcpy(text + before, c->bytes, c->count);
                if (c->valid)
                    expect(prompt(0, text, before + c->count + after), OK);
                else
                    expect(prompt(0, text, before + c->count + after), REFUSED(PROMPT_TEXT));
            }
    }
}

static uint32_t utf8_encode(uint32_t code, uint8_t out[4])
{
    if (code < 0x80) {
        out[0] = (uint8_t)code;
        return 1;
    }
    uint32_t length = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (uint32_t i = length - 1; i > 0; i--, code >>= 6)
        out[i] = (uint8_t)(0x80 | (code & 0x3f));
    out[0] = (uint8_t)(((0xf00u >> length) & 0xff) | code);
    return length;
}

static void every_code_point_and_no_surrogate_is_valid(void **state)
{
    union wire_record r = submit_payload();
    (void)state;
    for (uint32_t code = 0; code < 0x110400; code++) {
        uint8_t text[4];
        uint32_t count = utf8_encode(code, text);
        bool valid = code < 0xd800 || (code > 0xdfff && code < 0x110000);
        if ((wire_check_prompt(&r.submit, text, count, &limits, &fault) == WIRE_OK) != valid)
            fail_msg("U+%04X is %s", code, valid ? "refused" : "accepted");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hello_fields_are_held_to_their_ranges),
        cmocka_unit_test(hello_versions_need_an_overlap),
        cmocka_unit_test(hello_of_another_size_says_version_before_anything_else),
        cmocka_unit_test(submit_fields_are_held_to_their_ranges),
        cmocka_unit_test(inline_prompt_bytes_are_held_to_their_range_and_the_rest_is_zero),
        cmocka_unit_test(payload_lies_in_the_arena_or_the_session_ends),
        cmocka_unit_test(cancel_and_release_are_held_to_their_ranges),
        cmocka_unit_test(commands_are_held_to_their_ranges),
        cmocka_unit_test(what_a_command_does_not_use_is_zero),
        cmocka_unit_test(given_text_is_whole_characters),
        cmocka_unit_test(every_other_op_is_a_violation),
        cmocka_unit_test(spec_is_held_to_its_ranges),
        cmocka_unit_test(sampling_is_held_to_its_ranges),
        cmocka_unit_test(algorithm_options_are_held_to_their_ranges),
        cmocka_unit_test(lists_are_counted_and_held_to_their_ranges),
        cmocka_unit_test(token_prompts_are_whole_and_in_the_vocabulary),
        cmocka_unit_test(prompt_bytes_are_held_to_their_range),
        cmocka_unit_test(utf8_is_what_rfc_3629_says),
        cmocka_unit_test(every_code_point_and_no_surrogate_is_valid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
