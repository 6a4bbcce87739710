/* tests/fuzz/fuzz_record.c: a submission record and its payload through every check that the daemon
 * makes before it acts: wire_check_record, wire_check_payload, wire_check_prompt. Input: the 56 bytes
 * of the record, a byte that picks the limits, the arena. OK must mean that every range that
 * docs/ABI.md promises holds, judged here by other code; the payload lies in memory of exactly its
 * size, so that a sanitizer sees a read beyond it. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "shm/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ARENA_BYTES 4096u

static void must(int condition)
{
    if (!condition)
        abort();
}

static int zero(const uint8_t *bytes, size_t count)
{
    while (count > 0 && bytes[count - 1] == 0)
        count--;
    return count == 0;
}

static struct wire_limits limits_of(uint8_t choice)
{
    return (struct wire_limits){.arena_bytes = ARENA_BYTES,
                                .prompt_bytes_max = choice & 1 ? 64 : 2048,
                                .max_tokens_max = choice & 2 ? 1 : DYNASOR_MAX_TOKENS_MAX,
                                .programs_count = choice & 4 ? 1 : DYNASOR_PROGRAMS_MAX,
                                .vocabulary_count = choice & 8 ? 1 : 50000,
                                .streams =
                                    choice & 16 ? DYNASOR_STREAM_TOKENS : DYNASOR_STREAM_ALL};
}

static void judge_fault(enum wire_verdict verdict, const struct wire_fault *fault)
{
    must(fault->status > 0 && fault->status < DYNASOR_STATUS_COUNT);
    must((fault->field > 0 || fault->status == DYNASOR_E_RESTARTED) &&
         fault->field < DYNASOR_FIELD_COUNT && fault->reserved == 0);
    must((verdict == WIRE_VIOLATION) == (fault->status == DYNASOR_E_PROTOCOL));
}

static int utf8_valid(const uint8_t *s, uint32_t bytes);

static void judge_command(const struct wire_command *c)
{
    static const uint8_t used[DYNASOR_COMMAND_COUNT] = {0, 36, 32, 32, 4, 0, 0, 12, 8};
    must(c->command > 0 && c->command < DYNASOR_COMMAND_COUNT);
    must(zero((const uint8_t *)&c->u + used[c->command], 36u - used[c->command]));
    must(c->command == DYNASOR_COMMAND_GIVE
             ? c->bytes >= 1 && c->bytes <= 36 && utf8_valid(c->u.text, c->bytes) &&
                   zero(c->u.text + c->bytes, 36u - c->bytes)
             : c->bytes == 0);
    must(c->flags == 0 || c->command == DYNASOR_COMMAND_FORK ||
         c->command == DYNASOR_COMMAND_PROBE);
    must((c->flags & ~7) == 0);
    if (c->flags & WIRE_COMMAND_SAMPLING)
        must(c->u.begin.temperature >= 0 && c->u.begin.temperature <= 100 && c->u.begin.top_p > 0 &&
             c->u.begin.top_p <= 1 && c->u.begin.min_p >= 0 && c->u.begin.min_p <= 1);
}

static void judge_record(const union wire_record *r, const struct wire_limits *limits)
{
    const uint8_t *bytes = (const uint8_t *)r;
    must(r->op >= WIRE_OP_SUBMIT && r->op <= WIRE_OP_COMMAND);
    must(r->cancel.index < limits->programs_count);
    if (r->op == WIRE_OP_COMMAND) {
        judge_command(&r->command);
        return;
    }
    if (r->op != WIRE_OP_SUBMIT) {
        must(zero(bytes + 1, 3) && zero(bytes + 16, 40));
        return;
    }
    must(r->submit.program_id != 0 && (r->submit.flags & ~3u) == 0);
    must(r->submit.algorithm < DYNASOR_ALGORITHM_COUNT);
    must(r->submit.streams != 0 && (r->submit.streams & ~limits->streams) == 0);
    must(r->submit.max_tokens >= 1 && r->submit.max_tokens <= limits->max_tokens_max);
    if (r->submit.flags & WIRE_SUBMIT_PAYLOAD) {
        must(r->submit.u.payload.offset % 64 == 0 && r->submit.u.payload.offset < ARENA_BYTES);
        must(r->submit.bytes >= 16 && r->submit.bytes <= ARENA_BYTES);
        must(r->submit.u.payload.offset + r->submit.bytes <= ARENA_BYTES);
        must(zero(bytes + 40, 16));
    } else {
        must(r->submit.bytes <= 24 && zero(bytes + 32 + r->submit.bytes, 24 - r->submit.bytes));
    }
}

/* UTF-8 once more, by decoding: the slow way. */
static int utf8_valid(const uint8_t *s, uint32_t bytes)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    for (uint32_t at = 0; at < bytes;) {
        uint32_t c = s[at], length = c < 0x80 ? 1 : c >> 5 == 6 ? 2 : c >> 4 == 14 ? 3 : 4;
        if (c >= 0x80 && (c < 0xc0 || c >= 0xf8))
            return 0;
        if (length > bytes - at)
            return 0;
        uint32_t code = length == 1 ? c : c & (0x7fu >> length);
        for (uint32_t i = 1; i < length; i++) {
            if (s[at + i] >> 6 != 2)
                return 0;
            code = code << 6 | (s[at + i] & 0x3f);
        }
        if (code < least[length] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
            return 0;
        at += length;
    }
    return 1;
}

static void judge_prompt(enum wire_verdict verdict, const struct wire_submit *submit,
                         const uint8_t *prompt, uint32_t bytes, const struct wire_limits *limits)
{
    int valid = bytes >= 1 && bytes <= limits->prompt_bytes_max;
    if (valid && submit->flags & WIRE_SUBMIT_PROMPT_TOKENS) {
        valid = bytes % 4 == 0;
        for (uint32_t at = 0; valid && at < bytes; at += 4) {
            uint32_t token;
            memcpy(&token, prompt + at, 4);
            valid = token < limits->vocabulary_count;
        }
    } else if (valid) {
        valid = utf8_valid(prompt, bytes);
    }
    must(valid == (verdict == WIRE_OK));
}

/* What was let through is what programs rely on. */
static void judge_lists(const uint8_t *copy, const struct wire_spec *spec,
                        const struct wire_parts *parts, const struct wire_limits *limits)
{
    uint32_t stops_count = 0;
    must(parts->stop_tokens_off == parts->biases_off + spec->biases_count * 8u);
    must(parts->stops_off == parts->stop_tokens_off + spec->stop_tokens_count * 4u);
    must(parts->stops_off + spec->stops_bytes <= parts->prompt_off);
    must(spec->biases_count <= DYNASOR_BIASES_MAX);
    must(spec->stop_tokens_count <= DYNASOR_STOP_TOKENS_MAX);
    for (uint32_t i = 0; i < spec->biases_count + spec->stop_tokens_count; i++) {
        uint32_t token, at = i < spec->biases_count
                                 ? parts->biases_off + 8 * i
                                 : parts->stop_tokens_off + 4 * (i - spec->biases_count);
        memcpy(&token, copy + at, 4);
        must(token < limits->vocabulary_count);
    }
    for (uint32_t at = 0; at < spec->stops_bytes; stops_count++) {
        uint8_t length = copy[parts->stops_off + at];
        must(length >= 1 && length <= DYNASOR_STOP_BYTES_MAX);
        at += 1u + length;
        must(at <= spec->stops_bytes);
    }
    must(stops_count <= DYNASOR_STOPS_MAX);
    if (spec->flags & WIRE_SPEC_SAMPLING)
        must(spec->temperature >= 0 && spec->top_p > 0 && spec->top_p <= 1 &&
             spec->repetition_penalty > 0);
}

static void run_payload(const struct wire_submit *submit, const uint8_t *arena,
                        const struct wire_limits *limits)
{
    struct wire_fault fault = {0};
    struct wire_spec spec;
    struct wire_parts parts = {0};
    uint32_t prompt_off = 0, bytes = submit->bytes;
    uint8_t *copy = malloc(bytes ? bytes : 1);
    if (!copy)
        return;
    if (submit->flags & WIRE_SUBMIT_PAYLOAD) {
        memcpy(copy, arena + submit->u.payload.offset, bytes);
        enum wire_verdict verdict = wire_check_payload(submit, copy, limits, &spec, &parts, &fault);
        if (verdict != WIRE_OK) {
            judge_fault(verdict, &fault);
            free(copy);
            return;
        }
        prompt_off = parts.prompt_off;
        must(prompt_off >= WIRE_SPEC_BYTES_MIN && prompt_off <= bytes && prompt_off % 8 == 0);
        must(spec.spec_bytes <= WIRE_SPEC_BYTES_MAX && parts.biases_off == spec.spec_bytes);
        if (spec.spec_bytes > sizeof spec)
            must(zero(copy + sizeof spec, spec.spec_bytes - sizeof spec));
        judge_lists(copy, &spec, &parts, limits);
        must(spec.resume_tokens <= submit->max_tokens);
        must(spec.resume_text_bytes <= (uint64_t)submit->max_tokens * 256);
        must(bytes - prompt_off <= limits->prompt_bytes_max);
    } else {
        memcpy(copy, submit->u.prompt, bytes);
    }
    enum wire_verdict verdict =
        wire_check_prompt(submit, copy + prompt_off, bytes - prompt_off, limits, &fault);
    judge_prompt(verdict, submit, copy + prompt_off, bytes - prompt_off, limits);
    if (verdict != WIRE_OK)
        judge_fault(verdict, &fault);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t arena[ARENA_BYTES];
    union wire_record record;
    struct wire_fault fault = {0};
    if (size < sizeof record + 1)
        return 0;
    memcpy(&record, data, sizeof record);
    struct wire_limits limits = limits_of(data[sizeof record]);
    data += sizeof record + 1;
    size -= sizeof record + 1;
    memset(arena, 0, sizeof arena);
    memcpy(arena, data, size < sizeof arena ? size : sizeof arena);
    enum wire_verdict verdict = wire_check_record(&record, &limits, &fault);
    if (verdict != WIRE_OK) {
        judge_fault(verdict, &fault);
        return 0;
    }
    judge_record(&record, &limits);
    if (record.op == WIRE_OP_SUBMIT)
        run_payload(&record.submit, arena, &limits);
    return 0;
}
