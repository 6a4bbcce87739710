#include "daemon/text/chat.h"

#include <stdio.h>
#include <string.h>

#include "daemon/base/assert.h"
#include "daemon/base/hash.h"
#include "daemon/text/unicode.h"
#include "daemon/text/utf8.h"

enum chat_system {
    SYSTEM_TURN,     /* a turn of its own */
    SYSTEM_IN_FIRST, /* in the first user message, before its text */
    SYSTEM_IN_LAST,  /* in the last one */
    SYSTEM_NONE,
};

/* What becomes of the thoughts in an answer, which end with the last </think>. */
enum chat_thoughts {
    THOUGHTS_STAY,
    THOUGHTS_GO,
    THOUGHTS_AND_LINES_GO, /* and the line ends after them */
};

#define TRIM(role) (1u << (role))
#define TRIM_ALL (TRIM(CHAT_SYSTEM) | TRIM(CHAT_USER) | TRIM(CHAT_ASSISTANT))

struct chat {
    const char *name;
    const char *begin;              /* before everything */
    const char *before[CHAT_ROLES]; /* of a message */
    const char *after[CHAT_ROLES];
    const char *answer;         /* asks for it */
    const char *system_default; /* where no message is the system's */
    const char *markers;        /* each with a zero byte after it, and one more */
    enum chat_system system;
    enum chat_thoughts thoughts;
    uint32_t trim; /* roles around whose messages white space goes */
};

#define LLAMA3_TURN(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"
#define LLAMA3_MARKERS "<|start_header_id|>\0<|end_header_id|>\0<|eot_id|>\0<|begin_of_text|>\0"
#define LLAMA3_DATES "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
#define CHATML_TURN(role) "<|im_start|>" role "\n"
#define CHATML                                                                                     \
    .begin = "", .before = {CHATML_TURN("system"), CHATML_TURN("user"), CHATML_TURN("assistant")}, \
    .after = {"<|im_end|>\n", "<|im_end|>\n", "<|im_end|>\n"}, .answer = CHATML_TURN("assistant"), \
    .markers = "<|im_start|>\0<|im_end|>\0<|endoftext|>\0"
#define DEEPSEEK                                                                                   \
    .begin = "<｜begin▁of▁sentence｜>", .before = {"", "<｜User｜>", "<｜Assistant｜>"},           \
    .thoughts = THOUGHTS_GO, .after = {"", "", "<｜end▁of▁sentence｜>"},                           \
    .markers = "<｜begin▁of▁sentence｜>\0<｜end▁of▁sentence｜>\0<｜User｜>\0<｜Assistant｜>\0"
#define MISTRAL_MARKERS "<s>\0</s>\0[INST]\0[/INST]\0"

static const struct chat families[] = {
    {.name = "llama-2",
     .begin = "",
     .before = {"<<SYS>>\n", "<s>[INST] ", " "},
     .after = {"\n<</SYS>>\n\n", " [/INST]", " </s>"},
     .answer = "",
     .markers = "<s>\0</s>\0",
     .system = SYSTEM_IN_FIRST,
     .trim = TRIM_ALL},
    {.name = "llama-3",
     .begin = "<|begin_of_text|>",
     .before = {LLAMA3_TURN("system"), LLAMA3_TURN("user"), LLAMA3_TURN("assistant")},
     .after = {"<|eot_id|>", "<|eot_id|>", "<|eot_id|>"},
     .answer = LLAMA3_TURN("assistant"),
     .markers = LLAMA3_MARKERS,
     .trim = TRIM_ALL},
    /* The date is the one that the template itself falls back to: the same text every day. */
    {.name = "llama-3.1",
     .begin = "<|begin_of_text|>",
     .before = {LLAMA3_TURN("system") LLAMA3_DATES, LLAMA3_TURN("user"), LLAMA3_TURN("assistant")},
     .after = {"<|eot_id|>", "<|eot_id|>", "<|eot_id|>"},
     .answer = LLAMA3_TURN("assistant"),
     .system_default = "",
     .markers = LLAMA3_MARKERS,
     .trim = TRIM_ALL},
    {.name = "mistral-v1",
     .begin = "<s>",
     .before = {"", "[INST] ", ""},
     .after = {"\n\n", " [/INST]", "</s>"},
     .answer = "",
     .markers = MISTRAL_MARKERS,
     .system = SYSTEM_NONE},
    {.name = "mistral-v3",
     .begin = "<s>",
     .before = {"", "[INST] ", " "},
     .after = {"\n\n", "[/INST]", "</s>"},
     .answer = "",
     .markers = MISTRAL_MARKERS,
     .system = SYSTEM_IN_LAST,
     .trim = TRIM(CHAT_ASSISTANT)},
    {.name = "chatml", CHATML},
    {.name = "qwen2", CHATML, .system_default = "You are a helpful assistant."},
    {.name = "qwen2.5",
     CHATML,
     .system_default = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
    {.name = "qwen3", CHATML, .thoughts = THOUGHTS_AND_LINES_GO},
    {.name = "gemma",
     .begin = "<bos>",
     .before = {"", "<start_of_turn>user\n", "<start_of_turn>model\n"},
     .after = {"", "<end_of_turn>\n", "<end_of_turn>\n"},
     .answer = "<start_of_turn>model\n",
     .markers = "<bos>\0<eos>\0<start_of_turn>\0<end_of_turn>\0",
     .system = SYSTEM_NONE,
     .trim = TRIM_ALL},
    {.name = "phi-3",
     .begin = "",
     .before = {"<|system|>\n", "<|user|>\n", "<|assistant|>\n"},
     .after = {"<|end|>\n", "<|end|>\n", "<|end|>\n"},
     .answer = "<|assistant|>\n",
     .markers = "<|system|>\0<|user|>\0<|assistant|>\0<|end|>\0<|endoftext|>\0<s>\0</s>\0"},
    {.name = "deepseek-r1", DEEPSEEK, .answer = "<｜Assistant｜>"},
    {.name = "deepseek-r1-think", DEEPSEEK, .answer = "<｜Assistant｜><think>\n"},
};

/* Published templates: the low half of the hash of the text, with a line end in a string written as
 * one or as its escape. tests/golden/chats/published says where each is from, and chats/rendered beside it
 * what Jinja makes of it; Llama 3.2 where it is not told the day. */
static const struct {
    uint64_t hash;
    const char *family;
} published[] = {
    {0xcb7c5112dfc4a3b0, "llama-2"},           /* Llama-2-7b-chat-hf */
    {0x24f6d97f87d647f5, "llama-2"},           /* the same */
    {0xb97891b7adc1beb8, "llama-3"},           /* Meta-Llama-3-8B-Instruct, first */
    {0x80e4830e93c6d9f7, "llama-3"},           /* the same */
    {0x9799ad6e2dea0594, "llama-3"},           /* Meta-Llama-3-8B-Instruct */
    {0x866fc8fa50da12fe, "llama-3"},           /* the same */
    {0xa8344fceb19d98ce, "llama-3.1"},         /* Llama-3.1-8B-Instruct */
    {0x41032903ea170582, "llama-3.1"},         /* Llama-3.2-3B-Instruct */
    {0xa5d004210ebce758, "mistral-v1"},        /* Mixtral-8x7B-Instruct-v0.1 */
    {0x27a26dbe0f7fa896, "mistral-v3"},        /* Mistral-7B-Instruct-v0.3 */
    {0xd5d943bd0bd9082f, "qwen2"},             /* Qwen2-7B-Instruct */
    {0xc79034a9d5f0ae58, "qwen2"},             /* the same */
    {0x639547fe4d33fa67, "qwen2.5"},           /* Qwen2.5-7B-Instruct */
    {0x0283f874ff58d644, "qwen3"},             /* Qwen3-0.6B */
    {0x56191e205a440263, "chatml"},            /* OpenHermes-2.5-Mistral-7B */
    {0xe2be9fd6966bb5eb, "chatml"},            /* the same */
    {0x2c2e86beabccd2a4, "gemma"},             /* gemma-2-2b-it */
    {0x344edb205734f341, "gemma"},             /* the same */
    {0x82fc89c04c54ba66, "phi-3"},             /* Phi-3-mini-4k-instruct */
    {0x94a6330d43aa662a, "phi-3"},             /* the same */
    {0xcd8aff863abd4554, "phi-3"},             /* Phi-3.5-mini-instruct */
    {0x57b9f91cf031b03a, "phi-3"},             /* the same */
    {0xf4262e46cc81f0e0, "phi-3"},             /* Phi-3-vision-128k-instruct */
    {0xda222732fd2b3f7b, "phi-3"},             /* the same */
    {0x78af3769c3733079, "deepseek-r1"},       /* DeepSeek-R1-Distill-Qwen-32B, first */
    {0x759e4eeeb1ec9b77, "deepseek-r1"},       /* the same */
    {0xf48e53fd1793f416, "deepseek-r1-think"}, /* DeepSeek-R1-Distill-Qwen-32B */
    {0x55b25ceb4910aa64, "deepseek-r1-think"}, /* the same */
};

uint64_t chat_fingerprint(uint32_t idx)
{
    return idx < sizeof published / sizeof published[0] ? published[idx].hash : 0;
}

const struct chat *chat_published(uint64_t hash)
{
    for (size_t i = 0; i < sizeof published / sizeof published[0]; i++)
        if (published[i].hash == hash)
            return chat_named(published[i].family);
    return NULL;
}

const struct chat *chat_find(const char *text, size_t bytes)
{
    const struct chat *found = chat_published(hash_bytes(text, bytes, 0).low);
    for (size_t i = 0; !found && i < sizeof families / sizeof families[0]; i++)
        if (strlen(families[i].name) == bytes && memcmp(families[i].name, text, bytes) == 0)
            found = &families[i];
    return found;
}

const struct chat *chat_named(const char *name)
{
    const struct chat *found = NULL;
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++)
        if (strcmp(families[i].name, name) == 0)
            found = &families[i];
    return found;
}

void chat_names(char *text, size_t bytes)
{
    size_t used = 0;
    text[0] = 0;
    for (size_t i = 0; i < sizeof families / sizeof families[0] && used < bytes; i++)
        used +=
            (size_t)snprintf(text + used, bytes - used, "%s%s", i ? ", " : "", families[i].name);
}

const char *chat_name(const struct chat *c)
{
    return c->name;
}

const char *chat_marker(const struct chat *c, uint32_t idx)
{
    const char *marker = c->markers;
    while (*marker && idx-- > 0)
        marker += strlen(marker) + 1;
    return *marker ? marker : NULL;
}

/* ---- rendering --------------------------------------------------------------------------------- */

static void put(struct chat_text *to, const char *text)
{
    size_t bytes = strlen(text);
    memcpy(to->text + to->bytes, text, bytes);
    to->bytes += bytes;
}

static bool space_at(const uint8_t *text, uint64_t bytes)
{
    uint32_t code;
    (void)utf8_read_last(text, bytes, &code);
    /* What Python strips: White_Space and the four separators below it. */
    return unicode_classes(code) & UNICODE_SPACE || (code >= 0x1c && code <= 0x1f);
}

static struct chat_message trimmed_left(struct chat_message m)
{
    while (m.bytes > 0 && space_at(m.text, m.bytes)) {
        uint32_t code, length = utf8_read_last(m.text, m.bytes, &code);
        m.text += length;
        m.bytes -= length;
    }
    return m;
}

static struct chat_message trimmed_right(struct chat_message m)
{
    while (m.bytes > 0) {
        uint64_t last = m.bytes - 1;
        while (last > 0 && (m.text[last] & 0xc0) == 0x80)
            last--;
        if (!space_at(m.text + last, m.bytes - last))
            break;
        m.bytes = last;
    }
    return m;
}

static void put_message(struct chat_text *to, struct chat_message m)
{
    if (m.bytes > 0)
        memcpy(to->text + to->bytes, m.text, m.bytes);
    to->plain[to->plain_count++] =
        (struct added_range){.start = to->bytes, .end = to->bytes + m.bytes};
    to->bytes += m.bytes;
}

/* The system's text and a user's as one, whose ends alone are trimmed, if any. */
static void put_joined(const struct chat *c, struct chat_text *to,
                       const struct chat_message *system, const struct chat_message *user)
{
    bool trim = c->trim & TRIM(CHAT_USER);
    put(to, c->before[CHAT_USER]);
    put(to, c->before[CHAT_SYSTEM]);
    put_message(to, *system);
    put(to, c->after[CHAT_SYSTEM]);
    put_message(to, trim ? trimmed_right(*user) : *user);
    struct added_range *plain = &to->plain[to->plain_count - 1];
    while (trim && plain->start == plain->end && to->text[to->bytes - 1] == '\n')
        plain->start = plain->end = --to->bytes;
    put(to, c->after[CHAT_USER]);
}

static struct chat_message thoughtless(const struct chat *c, struct chat_message m)
{
    static const char end[] = "</think>";
    uint64_t at = m.bytes, length = sizeof end - 1;
    if (c->thoughts == THOUGHTS_STAY || m.bytes < length)
        return m;
    for (at -= length; at > 0 && memcmp(m.text + at, end, length) != 0; at--)
        continue;
    if (memcmp(m.text + at, end, length) != 0)
        return m;
    m.text += at + length;
    m.bytes -= at + length;
    for (; c->thoughts == THOUGHTS_AND_LINES_GO && m.bytes > 0 && *m.text == '\n'; m.bytes--)
        m.text++;
    return m;
}

static void put_turn(const struct chat *c, struct chat_text *to, struct chat_message m)
{
    put(to, c->before[m.role]);
    if (m.role == CHAT_ASSISTANT)
        m = thoughtless(c, m);
    put_message(to, c->trim & TRIM(m.role) ? trimmed_left(trimmed_right(m)) : m);
    put(to, c->after[m.role]);
}

static bool in_turn(const struct chat *c, const struct chat_message *messages, uint32_t count)
{
    uint32_t first = count > 0 && messages[0].role == CHAT_SYSTEM;
    if (count <= first || count > CHAT_MESSAGES_MAX || (first && c->system == SYSTEM_NONE))
        return false;
    for (uint32_t i = first; i < count; i++)
        if (messages[i].role != ((i - first) % 2 == 0 ? CHAT_USER : CHAT_ASSISTANT))
            return false;
    return (count - first) % 2 == 1;
}

bool chat_render(const struct chat *c, const struct chat_message *messages, uint32_t count,
                 struct chat_text *to)
{
    to->bytes = 0;
    to->plain_count = 0;
    if (!in_turn(c, messages, count))
        return false;
    put(to, c->begin);
    if (messages[0].role != CHAT_SYSTEM && c->system_default) {
        put(to, c->before[CHAT_SYSTEM]);
        put(to, c->system_default);
        put(to, c->after[CHAT_SYSTEM]);
    }
    bool joined = messages[0].role == CHAT_SYSTEM && c->system != SYSTEM_TURN;
    uint32_t with = c->system == SYSTEM_IN_FIRST ? 1 : count - 1;
    for (uint32_t i = joined; i < count; i++) {
        if (joined && i == with)
            put_joined(c, to, &messages[0], &messages[i]);
        else
            put_turn(c, to, messages[i]);
    }
    put(to, c->answer);
    return true;
}
