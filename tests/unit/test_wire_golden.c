/* tests/unit/test_wire_golden.c: the ABI as it was released. Every struct that two processes share is
 * listed with its size and each field's offset and size, next to the numbers that travel and the
 * bytes of one filled example of each kind; the listing must equal tests/golden/abi-1.txt. A change
 * that this test finds breaks clients that are already out: it needs a feature bit or a new version.
 *
 *   test_wire_golden [--write]      from the root of the tree; --write stores the listing */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "shm/counters.h"
#include "shm/region.h"
#include "shm/wire.h"

#define GOLDEN "tests/golden/abi-1.txt"
#define LISTING_BYTES_MAX 65536u
#define LAYOUT_HASH 0x143e94cfe561f0eeull

static char listing[LISTING_BYTES_MAX];
static size_t listing_bytes;

static __attribute__((format(printf, 1, 2))) void put(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(listing + listing_bytes, sizeof listing - listing_bytes, format, args);
    va_end(args);
    if (n > 0)
        listing_bytes += (size_t)n;
    if (n < 0 || listing_bytes >= sizeof listing)
        exit(1);
}

#define S(type) put("struct %s %zu\n", #type, sizeof(struct type))
#define F(type, field)                                                                             \
    put("    %4zu %4zu %s\n", offsetof(struct type, field), sizeof(((struct type *)0)->field),     \
        #field)
#define N(name) put("%s %llu\n", #name, (unsigned long long)(name))

static void put_messages(void)
{
    S(wire_hello), F(wire_hello, magic), F(wire_hello, version_min), F(wire_hello, version_max);
    F(wire_hello, reserved0), F(wire_hello, features_wanted), F(wire_hello, features_required);
    F(wire_hello, client_uuid), F(wire_hello, lanes_count), F(wire_hello, reserved1);
    F(wire_hello, arena_bytes);
    S(wire_fault), F(wire_fault, status), F(wire_fault, field), F(wire_fault, reserved);
    F(wire_fault, lo), F(wire_fault, hi), F(wire_fault, got);
    S(wire_geometry), F(wire_geometry, c2d_bytes), F(wire_geometry, d2c_bytes);
    F(wire_geometry, c2d_rings_off), F(wire_geometry, c2d_arena_off);
    F(wire_geometry, c2d_arena_bytes), F(wire_geometry, d2c_lanes_off);
    F(wire_geometry, d2c_programs_off), F(wire_geometry, d2c_rings_off);
    F(wire_geometry, lanes_count), F(wire_geometry, sub_slots), F(wire_geometry, event_slots);
    F(wire_geometry, programs_count);
    S(wire_reply), F(wire_reply, magic), F(wire_reply, version), F(wire_reply, version_min);
    F(wire_reply, reserved0), F(wire_reply, fault), F(wire_reply, features);
    F(wire_reply, generation), F(wire_reply, layout_hash), F(wire_reply, prompt_bytes_max);
    F(wire_reply, max_tokens_max), F(wire_reply, slot), F(wire_reply, geometry);
    F(wire_reply, reserved1);
    S(wire_message), F(wire_message, kind), F(wire_message, reserved), F(wire_message, fault);
}

static void put_records(void)
{
    S(ring_slot), F(ring_slot, word), F(ring_slot, seq);
    S(wire_submit), F(wire_submit, op), F(wire_submit, flags), F(wire_submit, algorithm);
    F(wire_submit, streams), F(wire_submit, index), F(wire_submit, program_id);
    F(wire_submit, seed), F(wire_submit, max_tokens), F(wire_submit, bytes);
    F(wire_submit, u.prompt), F(wire_submit, u.payload.offset), F(wire_submit, u.payload.reserved);
    S(wire_spec), F(wire_spec, spec_bytes), F(wire_spec, resume_tokens);
    F(wire_spec, resume_text_bytes), F(wire_spec, flags), F(wire_spec, temperature);
    F(wire_spec, top_p), F(wire_spec, min_p), F(wire_spec, repetition_penalty);
    F(wire_spec, presence_penalty), F(wire_spec, frequency_penalty), F(wire_spec, top_k);
    F(wire_spec, biases_count), F(wire_spec, stop_tokens_count), F(wire_spec, stops_bytes);
    F(wire_spec, reserved), F(wire_spec, settings_count), F(wire_spec, answer);
    F(wire_spec, choice_last), F(wire_spec, answer_prefix_bytes), F(wire_spec, step_end_bytes);
    F(wire_spec, profile_bytes), F(wire_spec, reserved1), S(wire_setting);
    F(wire_setting, parameter), F(wire_setting, reserved), F(wire_setting, value);
    S(wire_bias), F(wire_bias, token), F(wire_bias, bias);
    S(wire_cancel), F(wire_cancel, op), F(wire_cancel, reserved0), F(wire_cancel, index);
    F(wire_cancel, program_id), F(wire_cancel, reserved1);
    S(wire_release), F(wire_release, op), F(wire_release, reserved0), F(wire_release, index);
    F(wire_release, program_id), F(wire_release, reserved1);
    S(wire_event_tokens), F(wire_event_tokens, kind), F(wire_event_tokens, count);
    F(wire_event_tokens, reserved), F(wire_event_tokens, index), F(wire_event_tokens, position);
    F(wire_event_tokens, token);
    S(wire_event_text), F(wire_event_text, kind), F(wire_event_text, count);
    F(wire_event_text, reserved), F(wire_event_text, index), F(wire_event_text, position_bytes);
    F(wire_event_text, text);
    S(wire_event_end), F(wire_event_end, kind), F(wire_event_end, state);
    F(wire_event_end, status), F(wire_event_end, index), F(wire_event_end, program_id);
    F(wire_event_end, tokens_count), F(wire_event_end, field), F(wire_event_end, flags);
    F(wire_event_end, lo), F(wire_event_end, hi), F(wire_event_end, got);
    F(wire_event_end, submit_pos);
    S(wire_command), F(wire_command, op), F(wire_command, command), F(wire_command, flags);
    F(wire_command, bytes), F(wire_command, index), F(wire_command, program_id);
    F(wire_command, branch), F(wire_command, u.begin.parent);
    F(wire_command, u.begin.parent_tokens), F(wire_command, u.begin.tokens_max);
    F(wire_command, u.begin.temperature), F(wire_command, u.begin.top_p);
    F(wire_command, u.begin.min_p), F(wire_command, u.begin.top_k);
    F(wire_command, u.begin.streams), F(wire_command, u.extend.tokens_max);
    F(wire_command, u.report.signal), F(wire_command, u.report.knob);
    F(wire_command, u.report.value), F(wire_command, u.finish.verdict);
    F(wire_command, u.finish.answer), F(wire_command, u.text);
    S(wire_event_branch_tokens), F(wire_event_branch_tokens, kind);
    F(wire_event_branch_tokens, count), F(wire_event_branch_tokens, index);
    F(wire_event_branch_tokens, branch), F(wire_event_branch_tokens, position);
    F(wire_event_branch_tokens, token);
    S(wire_event_branch_text), F(wire_event_branch_text, kind), F(wire_event_branch_text, count);
    F(wire_event_branch_text, index), F(wire_event_branch_text, branch);
    F(wire_event_branch_text, position_bytes), F(wire_event_branch_text, text);
    S(wire_event_branch), F(wire_event_branch, kind), F(wire_event_branch, state);
    F(wire_event_branch, scored), F(wire_event_branch, index), F(wire_event_branch, branch);
    F(wire_event_branch, tokens_count), F(wire_event_branch, path_tokens);
    F(wire_event_branch, text_bytes), F(wire_event_branch, score);
    F(wire_event_branch, log_probability), F(wire_event_branch, entropy);
    S(wire_event_command), F(wire_event_command, kind), F(wire_event_command, command);
    F(wire_event_command, status), F(wire_event_command, index), F(wire_event_command, branch);
    F(wire_event_command, field), F(wire_event_command, lo), F(wire_event_command, hi);
    F(wire_event_command, got);
}

static void put_regions(void)
{
    S(region_c2d_lane), F(region_c2d_lane, consumed), F(region_c2d_lane, need);
    F(region_c2d_lane, need_kind);
    S(region_d2c_lane), F(region_d2c_lane, need), F(region_d2c_lane, wake);
    F(region_d2c_lane, consumed), F(region_d2c_lane, next);
    S(region_program), F(region_program, program_id), F(region_program, submit_pos);
    F(region_program, state), F(region_program, status), F(region_program, lane);
    F(region_program, restarts_count), F(region_program, tokens_count);
    F(region_program, tokens_sent_count), F(region_program, text_sent_bytes);
    F(region_program, end_sent), F(region_program, submit_word);
    S(region_owner), F(region_owner, word), F(region_owner, daemon_cpu);
    F(region_owner, generation);
    S(region_d2c_header), F(region_d2c_header, magic), F(region_d2c_header, version);
    F(region_d2c_header, slot), F(region_d2c_header, layout_hash), F(region_d2c_header, features);
    F(region_d2c_header, client_uuid), F(region_d2c_header, client_uid);
    F(region_d2c_header, client_pid), F(region_d2c_header, geometry), F(region_d2c_header, owner);
    S(dynasor_result), F(dynasor_result, program), F(dynasor_result, verdict);
    F(dynasor_result, knob), F(dynasor_result, branches_count), F(dynasor_result, known);
    F(dynasor_result, value), F(dynasor_result, decoded_tokens), F(dynasor_result, probe_tokens);
    F(dynasor_result, reward_tokens), F(dynasor_result, killed_tokens);
    F(dynasor_result, answer_bytes), F(dynasor_result, reserved0), F(dynasor_result, profile);
    F(dynasor_result, answer), F(dynasor_result, reserved1);
    S(control_request), F(control_request, magic), F(control_request, version);
    F(control_request, op), F(control_request, reserved);
    S(control_reply), F(control_reply, magic), F(control_reply, version);
    F(control_reply, status), F(control_reply, reserved), F(control_reply, page_bytes);
    F(control_reply, daemon_version), F(control_reply, socket_path);
}

static void put_numbers(void)
{
    N(WIRE_MAGIC), N(WIRE_VERSION_MIN), N(WIRE_VERSION_MAX), N(WIRE_FEATURE_TEXT);
    N(WIRE_FEATURE_DESCRIPTOR), N(WIRE_FD_C2D), N(WIRE_FD_D2C), N(WIRE_FD_DOORBELL);
    N(WIRE_MESSAGE_WAKE), N(WIRE_MESSAGE_BYE), N(WIRE_OP_SUBMIT), N(WIRE_OP_CANCEL);
    N(WIRE_OP_RELEASE), N(WIRE_SUBMIT_PAYLOAD), N(WIRE_SUBMIT_PROMPT_TOKENS);
    N(WIRE_INLINE_BYTES), N(WIRE_SPEC_BYTES_MAX), N(WIRE_EVENT_TOKENS), N(WIRE_EVENT_TEXT);
    N(WIRE_EVENT_END), N(WIRE_EVENT_REFUSED), N(WIRE_EVENT_TOKENS_MAX);
    N(WIRE_EVENT_TEXT_BYTES_MAX), N(REGION_MAGIC), N(REGION_SUB_SLOTS), N(REGION_EVENT_SLOTS);
    N(REGION_NEED_FUTEX), N(REGION_NEED_MESSAGE), N(REGION_OWNER_DIED), N(REGION_OWNER_WAITERS);
    N(DYNASOR_LANES_MAX), N(DYNASOR_PROGRAMS_MAX), N(DYNASOR_ARENA_BYTES_MIN);
    N(DYNASOR_ARENA_BYTES_MAX), N(DYNASOR_MAX_TOKENS_MAX), N(DYNASOR_STATUS_COUNT);
    N(DYNASOR_STATE_FREE), N(DYNASOR_STATE_QUEUED), N(DYNASOR_STATE_RUNNING);
    N(DYNASOR_STATE_DONE), N(DYNASOR_STATE_CANCELLED), N(DYNASOR_STATE_FAILED);
    N(DYNASOR_STREAM_TOKENS), N(DYNASOR_STREAM_TEXT), N(DYNASOR_STREAM_RESULT);
    N(WIRE_END_RESULT), N(DYNASOR_ALGORITHM_COUNT), N(DYNASOR_PARAMETER_COUNT);
    N(DYNASOR_ANSWER_COUNT), N(DYNASOR_VERDICT_COUNT), N(DYNASOR_SIGNAL_COUNT);
    N(DYNASOR_PARAMETERS_MAX), N(DYNASOR_ANSWER_PREFIX_BYTES_MAX), N(DYNASOR_STEP_END_BYTES_MAX);
    N(DYNASOR_PROFILE_BYTES_MAX), N(CONTROL_OP_STATUS), N(CONTROL_OP_GET), N(CONTROL_OP_SET);
    N(CONTROL_OP_PROFILE_LIST), N(CONTROL_OP_PROFILE_SHOW), N(CONTROL_OP_PROFILE_LOAD);
    N(WIRE_OP_COMMAND), N(WIRE_SUBMIT_RESUMED), N(WIRE_COMMAND_SAMPLING);
    N(WIRE_COMMAND_STOPS_AT_STEP), N(WIRE_COMMAND_WANTS_SCORE), N(WIRE_EVENT_BRANCH_TOKENS);
    N(WIRE_EVENT_BRANCH_TEXT), N(WIRE_EVENT_BRANCH), N(WIRE_EVENT_COMMAND_REFUSED);
    N(DYNASOR_COMMAND_COUNT), N(DYNASOR_BRANCH_STATES_COUNT), N(DYNASOR_GIVEN_BYTES_MAX);
    N(DYNASOR_FIELD_COUNT), N(CONTROL_MAGIC);
    put("layout_hash %016llx\n", (unsigned long long)wire_layout_hash());
}

static void put_bytes(const char *name, const void *bytes, size_t count)
{
    const uint8_t *b = bytes;
    put("bytes %s", name);
    for (size_t i = 0; i < count; i++)
        put("%s%02x", i % 16 == 0 ? "\n    " : i % 8 == 0 ? "  " : " ", b[i]);
    put("\n");
}

static void put_examples(void)
{
    const struct wire_hello hello = {.magic = WIRE_MAGIC,
                                     .version_min = 1,
                                     .version_max = 2,
                                     .features_wanted = 3,
                                     .features_required = 1,
                                     .client_uuid = "0123456789abcde",
                                     .lanes_count = 4,
                                     .arena_bytes = 65536};
    const struct wire_submit submit = {.op = WIRE_OP_SUBMIT,
                                       .flags = 2,
                                       .streams = 3,
                                       .index = 511,
                                       .program_id = 0x1122334455667788,
                                       .seed = 0x99,
                                       .max_tokens = 256,
                                       .bytes = 4,
                                       .u.prompt = {1, 2, 3, 4}};
    const struct wire_cancel cancel = {.op = WIRE_OP_CANCEL, .index = 7, .program_id = 0x0102};
    const struct wire_event_tokens tokens = {
        .kind = WIRE_EVENT_TOKENS, .count = 2, .index = 3, .position = 9, .token = {0x0a0b0c0d, 5}};
    const struct wire_event_text text = {
        .kind = WIRE_EVENT_TEXT, .count = 5, .index = 3, .position_bytes = 0x100, .text = "hello"};
    const struct wire_event_end end = {.kind = WIRE_EVENT_END,
                                       .state = DYNASOR_STATE_FAILED,
                                       .status = DYNASOR_E_POISON,
                                       .index = 2,
                                       .program_id = 0xabcd,
                                       .tokens_count = 77,
                                       .field = 1,
                                       .lo = 1,
                                       .hi = 2,
                                       .got = 3,
                                       .submit_pos = 0x1234};
    put_bytes("wire_hello", &hello, sizeof hello);
    put_bytes("wire_submit", &submit, sizeof submit);
    put_bytes("wire_cancel", &cancel, sizeof cancel);
    put_bytes("wire_event_tokens", &tokens, sizeof tokens);
    put_bytes("wire_event_text", &text, sizeof text);
    put_bytes("wire_event_end", &end, sizeof end);
}

static void make_listing(void)
{
    put("# The ABI, version 1: struct name size, then offset size field; written by\n"
        "# tests/unit/test_wire_golden --write. What stands here never changes within version 1.\n");
    put_messages();
    put_records();
    put_regions();
    put_numbers();
    put_examples();
}

static void layouts_numbers_and_bytes_are_those_of_abi_1(void **state)
{
    static char golden[LISTING_BYTES_MAX];
    (void)state;
    FILE *f = fopen(GOLDEN, "r");
    if (!f)
        fail_msg("%s is missing", GOLDEN);
    size_t bytes = fread(golden, 1, sizeof golden - 1, f);
    (void)fclose(f); /* only read from */
    for (size_t i = 0, line = 1; i < bytes || i < listing_bytes; i++) {
        if (golden[i] != listing[i])
            fail_msg("%s differs at line %zu: now %.60s", GOLDEN, line, listing + i);
        line += golden[i] == '\n';
    }
}

/* Pinned a second time, apart from the file that --write replaces. */
static void layout_hash_is_pinned(void **state)
{
    (void)state;
    assert_int_equal(wire_layout_hash(), LAYOUT_HASH);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layouts_numbers_and_bytes_are_those_of_abi_1),
        cmocka_unit_test(layout_hash_is_pinned),
    };
    make_listing();
    if (argc > 1 && strcmp(argv[1], "--write") == 0) {
        FILE *f = fopen(GOLDEN, "w");
        if (!f || fwrite(listing, 1, listing_bytes, f) != listing_bytes || fclose(f) != 0) {
            perror(GOLDEN);
            return 1;
        }
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
