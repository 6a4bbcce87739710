#include "shm/wire.h"

#include <stdbool.h>
#include <string.h>

/* By value: arrays made on the spot would each have a place on the stack that a sanitizer guards. */
static void fault_set(struct wire_fault *fault, uint32_t status, uint32_t field, uint64_t lo,
                      uint64_t hi, uint64_t got)
{
    fault->status = (uint16_t)status;
    fault->field = (uint16_t)field;
    fault->reserved = 0;
    fault->lo = lo;
    fault->hi = hi;
    fault->got = got;
}

#define FAULT(verdict, status, field, lo, hi, got)                                                 \
    (fault_set(fault, DYNASOR_E_##status, field, lo, hi, got), WIRE_##verdict)
#define REFUSE(field, lo, hi, got) FAULT(REFUSE, INVALID, DYNASOR_FIELD_##field, lo, hi, got)
#define UNSUPPORTED(field, lo, hi, got)                                                            \
    FAULT(REFUSE, UNSUPPORTED, DYNASOR_FIELD_##field, lo, hi, got)
#define VIOLATION(field, lo, hi, got) FAULT(VIOLATION, PROTOCOL, DYNASOR_FIELD_##field, lo, hi, got)

static bool all_zero(const void *bytes, size_t count)
{
    const uint8_t *b = bytes;
    uint8_t any = 0;
    for (size_t i = 0; i < count; i++)
        any |= b[i];
    return any == 0;
}

enum wire_verdict wire_check_hello(const void *message, size_t message_bytes,
                                   struct wire_fault *fault)
{
    struct wire_hello hello = {0};
    if (message_bytes < 16)
        return VIOLATION(HELLO, sizeof hello, sizeof hello, message_bytes);
    memcpy(&hello, message, message_bytes < sizeof hello ? message_bytes : sizeof hello);
    if (hello.magic != WIRE_MAGIC)
        return VIOLATION(HELLO, WIRE_MAGIC, WIRE_MAGIC, hello.magic);
    /* Before anything else is interpreted: another version may mean something else by it. */
    if (hello.version_min > WIRE_VERSION_MAX || hello.version_max < WIRE_VERSION_MIN ||
        hello.version_min > hello.version_max)
        return FAULT(REFUSE, VERSION, DYNASOR_FIELD_VERSION, WIRE_VERSION_MIN, WIRE_VERSION_MAX,
                     hello.version_max);
    if (message_bytes != sizeof hello)
        return VIOLATION(HELLO, sizeof hello, sizeof hello, message_bytes);
    if (hello.reserved0 != 0 || hello.reserved1 != 0)
        return VIOLATION(RECORD_RESERVED, 0, 0, hello.reserved0 | hello.reserved1);
    if (hello.features_required & ~WIRE_FEATURES_KNOWN)
        return FAULT(REFUSE, VERSION, DYNASOR_FIELD_FEATURES, 0, WIRE_FEATURES_KNOWN,
                     hello.features_required);
    if (hello.lanes_count < 1 || hello.lanes_count > DYNASOR_LANES_MAX)
        return REFUSE(LANES, 1, DYNASOR_LANES_MAX, hello.lanes_count);
    if (hello.arena_bytes < DYNASOR_ARENA_BYTES_MIN ||
        hello.arena_bytes > DYNASOR_ARENA_BYTES_MAX ||
        (hello.arena_bytes & (hello.arena_bytes - 1)) != 0)
        return REFUSE(ARENA_BYTES, DYNASOR_ARENA_BYTES_MIN, DYNASOR_ARENA_BYTES_MAX,
                      hello.arena_bytes);
    return WIRE_OK;
}

/* Whether what follows the inline prompt is zero; r->bytes is in range. */
static bool inline_tail_zero(const struct wire_submit *r)
{
    uint64_t word[WIRE_INLINE_BYTES / 8];
    uint64_t any = 0;
    memcpy(word, r->u.prompt, sizeof word);
    for (uint32_t i = 0; i < WIRE_INLINE_BYTES / 8; i++) {
        uint32_t used = r->bytes > 8 * i ? r->bytes - 8 * i : 0;
        any |= used >= 8 ? 0 : word[i] >> (8 * used);
    }
    return any == 0;
}

/* Of two programs with one record the CUSTOM one cannot be run again: who knew its branches is gone. */
static enum wire_verdict check_resumed(const struct wire_submit *r, struct wire_fault *fault)
{
    if (r->algorithm != DYNASOR_ALGORITHM_CUSTOM)
        return VIOLATION(RECORD_RESERVED, 0, WIRE_SUBMIT_RESUMED - 1, r->flags);
    return FAULT(REFUSE, RESTARTED, DYNASOR_FIELD_NONE, 0, 0, 0);
}

static enum wire_verdict check_submit(const struct wire_submit *r, const struct wire_limits *limits,
                                      struct wire_fault *fault)
{
    if (r->index >= limits->programs_count)
        return VIOLATION(RECORD_INDEX, 0, limits->programs_count - 1, r->index);
    if (r->program_id == 0)
        return VIOLATION(PROGRAM_ID, 1, UINT64_MAX, 0);
    if (r->flags & ~WIRE_SUBMIT_FLAGS_KNOWN)
        return VIOLATION(RECORD_RESERVED, 0, WIRE_SUBMIT_FLAGS_KNOWN, r->flags);
    if (r->flags & WIRE_SUBMIT_PAYLOAD) {
        if ((r->u.payload.reserved[0] | r->u.payload.reserved[1]) != 0)
            return VIOLATION(RECORD_RESERVED, 0, 0, r->u.payload.reserved[0]);
        if (r->bytes < WIRE_SPEC_BYTES_MIN || r->bytes > limits->arena_bytes)
            return VIOLATION(PROMPT_BYTES, WIRE_SPEC_BYTES_MIN, limits->arena_bytes, r->bytes);
        if (r->u.payload.offset % 64 != 0 || r->u.payload.offset > limits->arena_bytes - r->bytes)
            return VIOLATION(PAYLOAD_OFFSET, 0, limits->arena_bytes - r->bytes,
                             r->u.payload.offset);
        if (r->bytes > limits->prompt_bytes_max + WIRE_SPEC_BYTES_MAX)
            return REFUSE(PROMPT_BYTES, 1, limits->prompt_bytes_max, r->bytes);
    } else {
        if (r->bytes > WIRE_INLINE_BYTES)
            return VIOLATION(PROMPT_BYTES, 1, WIRE_INLINE_BYTES, r->bytes);
        if (!inline_tail_zero(r))
            return VIOLATION(RECORD_RESERVED, 0, 0, 1);
    }
    if (r->algorithm >= DYNASOR_ALGORITHM_COUNT)
        return UNSUPPORTED(ALGORITHM, 0, DYNASOR_ALGORITHM_COUNT - 1, r->algorithm);
    if (r->streams == 0 || (r->streams & ~(uint32_t)DYNASOR_STREAM_ALL) != 0)
        return REFUSE(STREAMS, 1, DYNASOR_STREAM_ALL, r->streams);
    if ((r->streams & ~limits->streams) != 0)
        return UNSUPPORTED(STREAMS, 1, limits->streams, r->streams);
    if (r->max_tokens < 1 || r->max_tokens > limits->max_tokens_max)
        return REFUSE(MAX_TOKENS, 1, limits->max_tokens_max, r->max_tokens);
    return r->flags & WIRE_SUBMIT_RESUMED ? check_resumed(r, fault) : WIRE_OK;
}

struct range { /* of a float in a spec; the comparisons refuse NaN as well */
    uint16_t field;
    uint16_t offset;
    float lo;
    float hi;
};

static const struct range ranges[] = {
    {DYNASOR_FIELD_TEMPERATURE, offsetof(struct wire_spec, temperature), 0, 100},
    {DYNASOR_FIELD_TOP_P, offsetof(struct wire_spec, top_p), 0.001f, 1},
    {DYNASOR_FIELD_MIN_P, offsetof(struct wire_spec, min_p), 0, 1},
    {DYNASOR_FIELD_REPETITION_PENALTY, offsetof(struct wire_spec, repetition_penalty), 0.001f, 100},
    {DYNASOR_FIELD_PRESENCE_PENALTY, offsetof(struct wire_spec, presence_penalty), -100, 100},
    {DYNASOR_FIELD_FREQUENCY_PENALTY, offsetof(struct wire_spec, frequency_penalty), -100, 100},
};

static uint64_t thousandths(float value)
{
    float magnitude = value < 0 ? -value : value;
    return magnitude < 1e15f ? (uint64_t)(magnitude * 1000.0f) : UINT64_MAX; /* NaN: the last */
}

static enum wire_verdict refuse_float(const struct range *r, float value, struct wire_fault *fault)
{
    return FAULT(REFUSE, INVALID, (uint32_t)r->field, r->lo < 0 ? 0 : thousandths(r->lo),
                 thousandths(r->hi), thousandths(value));
}

static enum wire_verdict check_ranges(const struct wire_spec *spec, struct wire_fault *fault)
{
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        float value;
        memcpy(&value, (const char *)spec + ranges[i].offset, sizeof value);
        if (!(value >= ranges[i].lo && value <= ranges[i].hi))
            return refuse_float(&ranges[i], value, fault);
    }
    return WIRE_OK;
}

/* Length of the UTF-8 character at s (1 .. 4), or 0 when there is no valid one in `left` bytes
 * (RFC 3629: no overlong forms, no surrogates, at most U+10FFFF). */
static uint32_t utf8_length(const uint8_t *s, uint32_t left)
{
    uint32_t c = s[0];
    uint32_t length = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
    if (length > left)
        return 0;
    for (uint32_t i = 1; i < length; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((c == 0xe0 && s[1] < 0xa0) || (c == 0xed && s[1] > 0x9f) || (c == 0xf0 && s[1] < 0x90) ||
        (c == 0xf4 && s[1] > 0x8f))
        return 0;
    return length;
}

static uint32_t utf8_first_bad(const uint8_t *text, uint32_t bytes)
{
    uint32_t at = 0;
    while (at < bytes) {
        uint64_t w[8]; /* most prompts are ASCII: 64 characters a step */
        if (bytes - at >= sizeof w) {
            memcpy(w, text + at, sizeof w);
            uint64_t any = w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] | w[7];
            if ((any & 0x8080808080808080ull) == 0) {
                at += (uint32_t)sizeof w;
                continue;
            }
        }
        uint32_t length = utf8_length(text + at, bytes - at);
        if (length == 0)
            return at;
        at += length;
    }
    return bytes;
}

/* Which words of u a command uses: those behind them are zero. */
static const uint8_t command_words[DYNASOR_COMMAND_COUNT] = {
    [DYNASOR_COMMAND_GIVE] = 9,   [DYNASOR_COMMAND_FORK] = 8,   [DYNASOR_COMMAND_PROBE] = 8,
    [DYNASOR_COMMAND_EXTEND] = 1, [DYNASOR_COMMAND_REPORT] = 3, [DYNASOR_COMMAND_FINISH] = 2,
};

static enum wire_verdict check_give(const struct wire_command *r, struct wire_fault *fault)
{
    if (r->bytes < 1 || r->bytes > WIRE_GIVE_BYTES)
        return VIOLATION(GIVEN_BYTES, 1, WIRE_GIVE_BYTES, r->bytes);
    if (!all_zero(r->u.text + r->bytes, WIRE_GIVE_BYTES - r->bytes))
        return VIOLATION(RECORD_RESERVED, 0, 0, 1);
    return wire_utf8_valid(r->u.text, r->bytes) ? WIRE_OK
                                                : VIOLATION(PROMPT_TEXT, 0, 0xf4, r->u.text[0]);
}

static enum wire_verdict check_begin(const struct wire_command *r, struct wire_fault *fault)
{
    const struct wire_spec spec = {.temperature = r->u.begin.temperature,
                                   .top_p = r->u.begin.top_p,
                                   .min_p = r->u.begin.min_p,
                                   .repetition_penalty = 1};
    if (r->u.begin.streams & ~(uint32_t)(DYNASOR_STREAM_TOKENS | DYNASOR_STREAM_TEXT))
        return REFUSE(STREAMS, 0, DYNASOR_STREAM_TOKENS | DYNASOR_STREAM_TEXT, r->u.begin.streams);
    return r->flags & WIRE_COMMAND_SAMPLING ? check_ranges(&spec, fault) : WIRE_OK;
}

static enum wire_verdict check_command(const struct wire_command *r,
                                       const struct wire_limits *limits, struct wire_fault *fault)
{
    bool begins = r->command == DYNASOR_COMMAND_FORK || r->command == DYNASOR_COMMAND_PROBE;
    if (r->index >= limits->programs_count)
        return VIOLATION(RECORD_INDEX, 0, limits->programs_count - 1, r->index);
    if (r->command < DYNASOR_COMMAND_GIVE || r->command >= DYNASOR_COMMAND_COUNT)
        return UNSUPPORTED(COMMAND, DYNASOR_COMMAND_GIVE, DYNASOR_COMMAND_COUNT - 1, r->command);
    uint32_t words = command_words[r->command];
    if (r->flags & ~(begins ? WIRE_COMMAND_FLAGS_KNOWN : 0u))
        return VIOLATION(RECORD_RESERVED, 0, begins ? WIRE_COMMAND_FLAGS_KNOWN : 0, r->flags);
    if (!all_zero(r->u.word + words, (9 - words) * sizeof r->u.word[0]))
        return VIOLATION(RECORD_RESERVED, 0, 0, 1);
    if (r->command == DYNASOR_COMMAND_GIVE)
        return check_give(r, fault);
    if (r->bytes)
        return VIOLATION(RECORD_RESERVED, 0, 0, r->bytes);
    return begins ? check_begin(r, fault) : WIRE_OK;
}

enum wire_verdict wire_check_record(const union wire_record *record,
                                    const struct wire_limits *limits, struct wire_fault *fault)
{
    const struct wire_cancel *c = &record->cancel; /* cancel and release have one layout */
    switch (record->op) {
    case WIRE_OP_SUBMIT:
        return check_submit(&record->submit, limits, fault);
    case WIRE_OP_CANCEL:
    case WIRE_OP_RELEASE:
        if (c->index >= limits->programs_count)
            return VIOLATION(RECORD_INDEX, 0, limits->programs_count - 1, c->index);
        if ((c->reserved0[0] | c->reserved0[1] | c->reserved0[2]) != 0 ||
            (c->reserved1[0] | c->reserved1[1] | c->reserved1[2] | c->reserved1[3] |
             c->reserved1[4]) != 0)
            return VIOLATION(RECORD_RESERVED, 0, 0, 1);
        return WIRE_OK;
    case WIRE_OP_COMMAND:
        return check_command(&record->command, limits, fault);
    default:
        return VIOLATION(RECORD_OP, WIRE_OP_SUBMIT, WIRE_OP_COMMAND, record->op);
    }
}

void wire_parts_of(const struct wire_spec *spec, struct wire_parts *ret_parts)
{
    ret_parts->biases_off = spec->spec_bytes;
    ret_parts->settings_off =
        ret_parts->biases_off + spec->biases_count * (uint32_t)sizeof(struct wire_bias);
    ret_parts->stop_tokens_off =
        ret_parts->settings_off + spec->settings_count * (uint32_t)sizeof(struct wire_setting);
    ret_parts->stops_off =
        ret_parts->stop_tokens_off + spec->stop_tokens_count * (uint32_t)sizeof(uint32_t);
    ret_parts->texts_off = ret_parts->stops_off + spec->stops_bytes;
    uint32_t texts_bytes =
        0u + spec->answer_prefix_bytes + spec->step_end_bytes + spec->profile_bytes;
    ret_parts->prompt_off = (ret_parts->texts_off + texts_bytes + 7u) & ~7u;
}

/* What is about the algorithm, not about sampling. */
static enum wire_verdict check_algorithm(const struct wire_spec *spec, struct wire_fault *fault)
{
    if (spec->reserved1)
        return UNSUPPORTED(SPEC_SIZE, 0, 0, spec->reserved1);
    if (spec->settings_count > DYNASOR_PARAMETERS_MAX)
        return REFUSE(PARAMETERS, 0, DYNASOR_PARAMETERS_MAX, spec->settings_count);
    if (spec->answer >= DYNASOR_ANSWER_COUNT)
        return UNSUPPORTED(ANSWER, 0, DYNASOR_ANSWER_COUNT - 1, spec->answer);
    bool choice = spec->answer == DYNASOR_ANSWER_CHOICE;
    if (spec->choice_last != 0 && (!choice || spec->choice_last < 'A' || spec->choice_last > 'Z'))
        return REFUSE(CHOICE_LAST, choice ? 'A' : 0, choice ? 'Z' : 0, spec->choice_last);
    bool prefix = spec->answer == DYNASOR_ANSWER_PREFIX;
    uint32_t prefix_max = prefix ? DYNASOR_ANSWER_PREFIX_BYTES_MAX : 0;
    if (spec->answer_prefix_bytes < prefix || spec->answer_prefix_bytes > prefix_max)
        return REFUSE(ANSWER_PREFIX_BYTES, prefix, prefix_max, spec->answer_prefix_bytes);
    if (spec->step_end_bytes > DYNASOR_STEP_END_BYTES_MAX)
        return REFUSE(STEP_END_BYTES, 1, DYNASOR_STEP_END_BYTES_MAX, spec->step_end_bytes);
    if (spec->profile_bytes > DYNASOR_PROFILE_BYTES_MAX)
        return REFUSE(PROFILE, 1, DYNASOR_PROFILE_BYTES_MAX, spec->profile_bytes);
    return WIRE_OK;
}

enum wire_verdict wire_check_spec(const struct wire_spec *spec, struct wire_fault *fault)
{
    if (spec->flags & ~WIRE_SPEC_FLAGS_KNOWN)
        return UNSUPPORTED(SPEC_FLAGS, 0, WIRE_SPEC_FLAGS_KNOWN, spec->flags);
    if (spec->reserved)
        return UNSUPPORTED(SPEC_SIZE, 0, 0, spec->reserved);
    if (spec->biases_count > DYNASOR_BIASES_MAX)
        return REFUSE(BIASES, 0, DYNASOR_BIASES_MAX, spec->biases_count);
    if (spec->stop_tokens_count > DYNASOR_STOP_TOKENS_MAX)
        return REFUSE(STOP_TOKENS, 0, DYNASOR_STOP_TOKENS_MAX, spec->stop_tokens_count);
    if (spec->stops_bytes > DYNASOR_STOPS_MAX * (1 + DYNASOR_STOP_BYTES_MAX))
        return REFUSE(STOP_BYTES, 0, DYNASOR_STOPS_MAX * (1 + DYNASOR_STOP_BYTES_MAX),
                      spec->stops_bytes);
    enum wire_verdict verdict = check_algorithm(spec, fault);
    return verdict == WIRE_OK && spec->flags & WIRE_SPEC_SAMPLING ? check_ranges(spec, fault)
                                                                  : verdict;
}

/* Of the texts behind the stop strings no byte is zero; what follows them is. */
static enum wire_verdict check_texts(const struct wire_spec *spec, const struct wire_parts *parts,
                                     const uint8_t *payload, struct wire_fault *fault)
{
    const struct {
        enum dynasor_field field;
        uint32_t bytes;
    } texts[] = {{DYNASOR_FIELD_ANSWER_PREFIX_BYTES, spec->answer_prefix_bytes},
                 {DYNASOR_FIELD_STEP_END_BYTES, spec->step_end_bytes},
                 {DYNASOR_FIELD_PROFILE, spec->profile_bytes}};
    const uint8_t *at = payload + parts->texts_off;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; at += texts[i++].bytes)
        if (texts[i].bytes && memchr(at, 0, texts[i].bytes))
            return FAULT(REFUSE, INVALID, texts[i].field, texts[i].bytes, texts[i].bytes,
                         strlen((const char *)at));
    if (!all_zero(at, (size_t)(payload + parts->prompt_off - at)))
        return UNSUPPORTED(SPEC_SIZE, 0, 0, 1);
    return WIRE_OK;
}

static enum wire_verdict check_lists(const struct wire_spec *spec, const struct wire_parts *parts,
                                     const uint8_t *payload, const struct wire_limits *limits,
                                     struct wire_fault *fault)
{
    static const struct range bias_range = {DYNASOR_FIELD_BIAS, 0, -100, 100};
    for (uint32_t i = 0; i < spec->biases_count; i++) {
        struct wire_bias bias;
        memcpy(&bias, payload + parts->biases_off + i * sizeof bias, sizeof bias);
        if (bias.token >= limits->vocabulary_count)
            return REFUSE(BIAS_TOKEN, 0, limits->vocabulary_count - 1, bias.token);
        if (!(bias.bias >= bias_range.lo && bias.bias <= bias_range.hi))
            return refuse_float(&bias_range, bias.bias, fault);
    }
    for (uint32_t i = 0; i < spec->stop_tokens_count; i++) {
        uint32_t token;
        memcpy(&token, payload + parts->stop_tokens_off + i * sizeof token, sizeof token);
        if (token >= limits->vocabulary_count)
            return REFUSE(STOP_TOKEN, 0, limits->vocabulary_count - 1, token);
    }
    for (uint32_t i = 0; i < spec->settings_count; i++) {
        struct wire_setting setting;
        memcpy(&setting, payload + parts->settings_off + i * sizeof setting, sizeof setting);
        if (setting.reserved)
            return UNSUPPORTED(PARAMETER, 0, 0, setting.reserved);
    }
    return check_texts(spec, parts, payload, fault);
}

static enum wire_verdict check_stops(const struct wire_parts *parts, const uint8_t *payload,
                                     struct wire_fault *fault)
{
    uint32_t count = 0;
    const uint8_t *end = payload + parts->texts_off;
    for (const uint8_t *at = payload + parts->stops_off; at < end; at += 1 + at[0], count++) {
        if (at[0] < 1 || at[0] > DYNASOR_STOP_BYTES_MAX || at[0] >= end - at)
            return REFUSE(STOP_BYTES, 1, DYNASOR_STOP_BYTES_MAX, at[0]);
        if (count == DYNASOR_STOPS_MAX)
            return REFUSE(STOPS, 0, DYNASOR_STOPS_MAX, (uint64_t)count + 1);
    }
    return WIRE_OK;
}

enum wire_verdict wire_check_payload(const struct wire_submit *submit, const uint8_t *payload,
                                     const struct wire_limits *limits, struct wire_spec *ret_spec,
                                     struct wire_parts *ret_parts, struct wire_fault *fault)
{
    struct wire_spec spec = {0};
    uint32_t bytes;
    memcpy(&bytes, payload, sizeof bytes);
    uint32_t max = submit->bytes < WIRE_SPEC_BYTES_MAX ? submit->bytes : WIRE_SPEC_BYTES_MAX;
    if (bytes < WIRE_SPEC_BYTES_MIN || bytes > max || bytes % 8 != 0)
        return REFUSE(SPEC_SIZE, WIRE_SPEC_BYTES_MIN, max, bytes);
    memcpy(&spec, payload, bytes < sizeof spec ? bytes : sizeof spec);
    if (bytes > sizeof spec && !all_zero(payload + sizeof spec, bytes - sizeof spec))
        return UNSUPPORTED(SPEC_SIZE, sizeof spec, sizeof spec, bytes);
    enum wire_verdict verdict = wire_check_spec(&spec, fault);
    if (verdict != WIRE_OK)
        return verdict;
    if ((spec.flags & WIRE_SPEC_CHAT) && (submit->flags & WIRE_SUBMIT_PROMPT_TOKENS))
        return REFUSE(CHAT, 0, 0, 1); /* a template is for text */
    struct wire_parts parts;
    wire_parts_of(&spec, &parts);
    if (parts.prompt_off > submit->bytes)
        return REFUSE(SPEC_SIZE, 0, submit->bytes, parts.prompt_off);
    if (spec.resume_tokens > submit->max_tokens)
        return REFUSE(RESUME_TOKENS, 0, submit->max_tokens, spec.resume_tokens);
    /* No token of a known vocabulary is longer than 256 bytes. */
    if (spec.resume_text_bytes > (uint64_t)submit->max_tokens * 256)
        return REFUSE(RESUME_TEXT_BYTES, 0, (uint64_t)submit->max_tokens * 256,
                      spec.resume_text_bytes);
    if (submit->bytes - parts.prompt_off > limits->prompt_bytes_max)
        return REFUSE(PROMPT_BYTES, 1, limits->prompt_bytes_max, submit->bytes - parts.prompt_off);
    verdict = check_lists(&spec, &parts, payload, limits, fault);
    if (verdict == WIRE_OK)
        verdict = check_stops(&parts, payload, fault);
    if (verdict != WIRE_OK)
        return verdict;
    *ret_spec = spec;
    *ret_parts = parts;
    return WIRE_OK;
}

bool wire_utf8_valid(const uint8_t *text, uint32_t bytes)
{
    return utf8_first_bad(text, bytes) == bytes;
}

uint32_t wire_utf8_whole(const uint8_t *text, uint32_t bytes)
{
    for (uint32_t back = 1; back <= 3 && back <= bytes; back++) {
        uint8_t c = text[bytes - back];
        if ((c & 0xc0) == 0x80)
            continue; /* inside a character: its first byte decides */
        uint32_t length = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
        return length > back ? bytes - back : bytes;
    }
    return bytes;
}

enum wire_verdict wire_check_prompt(const struct wire_submit *submit, const uint8_t *prompt,
                                    uint32_t prompt_bytes, const struct wire_limits *limits,
                                    struct wire_fault *fault)
{
    if (prompt_bytes < 1 || prompt_bytes > limits->prompt_bytes_max)
        return REFUSE(PROMPT_BYTES, 1, limits->prompt_bytes_max, prompt_bytes);
    if (submit->flags & WIRE_SUBMIT_PROMPT_TOKENS) {
        if (prompt_bytes % sizeof(uint32_t) != 0)
            return REFUSE(PROMPT_BYTES, sizeof(uint32_t), limits->prompt_bytes_max, prompt_bytes);
        for (uint32_t at = 0; at < prompt_bytes; at += (uint32_t)sizeof(uint32_t)) {
            uint32_t token;
            memcpy(&token, prompt + at, sizeof token);
            if (token >= limits->vocabulary_count)
                return REFUSE(PROMPT_TOKEN, 0, limits->vocabulary_count - 1, token);
        }
        return WIRE_OK;
    }
    uint32_t bad = utf8_first_bad(prompt, prompt_bytes);
    if (bad != prompt_bytes) /* the range that UTF-8 accepts as a first byte, and what was there */
        return REFUSE(PROMPT_TEXT, 0, 0xf4, prompt[bad]);
    return WIRE_OK;
}
