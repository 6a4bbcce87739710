/* tests/unit/test_text_chat.c: what each family's chat template writes, and the ids of it, are those of
 * Jinja and the `tokenizers` package (tests/golden/tokenizers/chat); a user's text never becomes a
 * special token, whatever it says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/text/chat.h"
#include "daemon/text/tokenizer.h"
#include "tests/lib/check.h"

#define LINES_MIN 200u
#define TEXT_BYTES_MAX 8192u
#define IDS_MAX 4096u

static uint8_t room[TEXT_BYTES_MAX + (CHAT_MESSAGES_MAX + 1) * CHAT_BYTES_MAX];

static struct tokenizer *tokenizer_read(const char *name)
{
    static char json[1 << 20];
    char path[128], message[TOKENIZER_MESSAGE_BYTES];
    struct tokenizer *tokenizer;
    (void)snprintf(path, sizeof path, "tests/golden/tokenizers/%s.json", name);
    FILE *f = fopen(path, "rb");
    CHECK(f, "%s", path);
    size_t bytes = fread(json, 1, sizeof json, f);
    fclose(f);
    CHECK(tokenizer_load(json, bytes, UINT32_MAX, message, &tokenizer) == 0, "%s", message);
    return tokenizer;
}

static uint32_t hex_read(const char *hex, uint8_t *out)
{
    uint32_t bytes = 0;
    for (; *hex && *hex != '.'; hex += 2) {
        char two[3] = {hex[0], hex[1], 0};
        out[bytes++] = (uint8_t)strtoul(two, NULL, 16);
    }
    return bytes;
}

static const struct chat *family(const char *name)
{
    const struct chat *chat = chat_find(name, strlen(name));
    CHECK(chat && strcmp(chat_name(chat), name) == 0, "%s", name);
    return chat;
}

static uint32_t encode(const char *name, const struct chat *chat, const struct chat_text *text,
                       uint32_t *ids)
{
    struct tokenizer *tokenizer = tokenizer_read(name);
    struct tokenizer_scratch *scratch;
    const char *marker;
    uint32_t count;
    for (uint32_t i = 0; (marker = chat_marker(chat, i)); i++)
        tokenizer_set_control(tokenizer, marker);
    CHECK(tokenizer_scratch_new(tokenizer, text->bytes, &scratch) == 0, "memory");
    struct tokenizer_text in = {.text = text->text,
                                .bytes = text->bytes,
                                .plain = text->plain,
                                .plain_count = text->plain_count};
    CHECK(tokenizer_encode(tokenizer, scratch, &in, ids, IDS_MAX, &count), "too many");
    tokenizer_scratch_free(scratch);
    tokenizer_free(tokenizer);
    return count;
}

static void ids_check(const char *line, const char *name, const struct chat *chat,
                      const struct chat_text *text, const char *want)
{
    static uint32_t ids[IDS_MAX];
    uint32_t count = encode(name, chat, text, ids), at = 0;
    for (char *end; *want && *want != '\n'; want = *end == ',' ? end + 1 : end, at++) {
        uint32_t id = (uint32_t)strtoul(want, &end, 36);
        CHECK(at < count && ids[at] == id, "%s: id %u is %u, not %u", line, at, ids[at], id);
    }
    CHECK(at == count, "%s: %u ids, not %u", line, count, at);
}

/* What comes before the next `end`, which becomes a zero byte. */
static char *part_take(char **at, char end)
{
    char *part = *at, *edge = strchr(part, end);
    CHECK(edge, "\"%s\" ends without %c", part, end);
    *edge = 0;
    *at = edge + 1;
    return part;
}

/* text... = */
static uint32_t messages_take(char **at, const char *roles, struct chat_message *messages)
{
    static uint8_t texts[TEXT_BYTES_MAX];
    uint32_t used = 0, count = (uint32_t)strlen(roles);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t bytes = hex_read(part_take(at, ' '), texts + used);
        messages[i] = (struct chat_message){.role = roles[i] == 's'   ? CHAT_SYSTEM
                                                    : roles[i] == 'u' ? CHAT_USER
                                                                      : CHAT_ASSISTANT,
                                            .text = texts + used,
                                            .bytes = bytes};
        used += bytes;
    }
    (void)part_take(at, ' ');
    return count;
}

/* family tokenizer roles text... = rendered|ids */
static void line_check(char *at)
{
    static uint8_t want[TEXT_BYTES_MAX];
    struct chat_message messages[CHAT_MESSAGES_MAX];
    struct chat_text text = {.text = room};
    char *name = part_take(&at, ' '), *tokenizer = part_take(&at, ' ');
    char *roles = part_take(&at, ' ');
    uint32_t count = messages_take(&at, roles, messages);
    char *rendered = part_take(&at, '|');
    CHECK(chat_render(family(name), messages, count, &text), "%s %s", name, roles);
    uint32_t bytes = hex_read(rendered, want);
    CHECK(text.bytes == bytes && memcmp(text.text, want, bytes) == 0,
          "%s %s: \"%.*s\", not \"%.*s\"", name, roles, (int)text.bytes, (const char *)text.text,
          (int)bytes, (const char *)want);
    if (strcmp(tokenizer, "-") != 0)
        ids_check(name, tokenizer, family(name), &text, at);
}

static void families_write_and_encode_the_same(void **state)
{
    static char line[4 * TEXT_BYTES_MAX];
    FILE *f = fopen("tests/golden/tokenizers/chat", "r");
    uint32_t lines = 0;
    (void)state;
    CHECK(f, "no golden file");
    for (; fgets(line, sizeof line, f); lines++) {
        line[strcspn(line, "\n")] = 0;
        line_check(line);
    }
    fclose(f);
    assert_in_range(lines, LINES_MIN, UINT32_MAX);
}

/* Every fingerprint stands in the table of origins with its family, and every row there is known. */
static void fingerprints_are_those_of_the_table(void **state)
{
    char line[1024], name[64];
    FILE *f = fopen("tests/golden/chats/published", "r");
    uint32_t lines = 0, idx;
    (void)state;
    CHECK(f, "no table");
    for (; fgets(line, sizeof line, f); lines++) {
        char *rest;
        uint64_t hash = strtoull(line, &rest, 16);
        const struct chat *chat = chat_published(hash);
        CHECK(sscanf(rest, "%63s", name) == 1, "%s", line);
        CHECK(chat && strcmp(chat_name(chat), name) == 0, "%s", line);
        for (idx = 0; chat_fingerprint(idx) != hash && chat_fingerprint(idx);)
            idx++;
        CHECK(idx == lines, "row %u of the table is fingerprint %u", lines, idx);
    }
    fclose(f);
    CHECK(lines > 0 && chat_fingerprint(lines) == 0, "more fingerprints than the table's %u",
          lines);
    assert_null(chat_published(0));
}

/* hash roles text... = what Jinja made of the published template, or "refused". */
static void published_check(char *at)
{
    static uint8_t want[TEXT_BYTES_MAX];
    struct chat_message messages[CHAT_MESSAGES_MAX];
    struct chat_text text = {.text = room};
    char *hash = part_take(&at, ' '), *roles = part_take(&at, ' ');
    const struct chat *chat = chat_published(strtoull(hash, NULL, 16));
    uint32_t count = messages_take(&at, roles, messages);
    CHECK(chat, "%s is not known", hash);
    bool done = chat_render(chat, messages, count, &text);
    if (strcmp(at, "refused") == 0) {
        CHECK(!done, "%s %s: Jinja refuses, we do not", chat_name(chat), roles);
        return;
    }
    uint32_t bytes = hex_read(at, want);
    CHECK(done && text.bytes == bytes && memcmp(text.text, want, bytes) == 0,
          "%s %s %s: \"%.*s\", not \"%.*s\"", chat_name(chat), hash, roles, (int)text.bytes,
          (const char *)text.text, (int)bytes, (const char *)want);
}

static void published_templates_are_rendered_as_by_jinja(void **state)
{
    static char line[4 * TEXT_BYTES_MAX];
    FILE *f = fopen("tests/golden/chats/rendered", "r");
    uint32_t lines = 0;
    (void)state;
    CHECK(f, "no golden file");
    for (; fgets(line, sizeof line, f); lines++) {
        line[strcspn(line, "\n")] = 0;
        published_check(line);
    }
    fclose(f);
    assert_in_range(lines, LINES_MIN, UINT32_MAX);
}

static void users_never_write_special_tokens(void **state)
{
    static const struct {
        const char *family, *tokenizer;
    } table[] = {{"llama-3", "llama3"}, {"qwen2.5", "qwen2"},      {"llama-2", "llama2"},
                 {"phi-3", "phi3"},     {"mistral-v3", "mistral"}, {"gemma", "gemma"}};
    static uint32_t ids[IDS_MAX];
    char said[512];
    (void)state;
    for (size_t i = 0; i < COUNT_OF(table); i++) {
        const struct chat *chat = family(table[i].family);
        struct tokenizer *t = tokenizer_read(table[i].tokenizer);
        struct chat_text text = {.text = room};
        struct chat_message message = {.role = CHAT_USER, .text = (uint8_t *)said};
        uint32_t seen[2] = {0}, id;
        const char *marker;
        for (uint32_t hostile = 0; hostile < 2; hostile++) {
            said[0] = 0;
            for (uint32_t m = 0; (marker = chat_marker(chat, m)); m++)
                for (uint32_t twice = 0; twice < 2; twice++)
                    (void)snprintf(said + strlen(said), sizeof said - strlen(said), "%s%s",
                                   twice ? " x" : "", hostile ? marker : "y");
            message.bytes = strlen(said);
            CHECK(chat_render(chat, &message, 1, &text), "%s", table[i].family);
            uint32_t count = encode(table[i].tokenizer, chat, &text, ids);
            for (uint32_t at = 0; at < count; at++)
                for (uint32_t m = 0; (marker = chat_marker(chat, m)); m++)
                    seen[hostile] += tokenizer_find(t, marker, &id) && id == ids[at];
        }
        CHECK(seen[0] > 0 && seen[0] == seen[1], "%s: %u markers, not %u", table[i].family, seen[1],
              seen[0]);
        tokenizer_free(t);
    }
}

/* A marker whose beginning the user wrote just before the template's own. */
static void templates_markers_stay_whole(void **state)
{
    static const char *const endings[] = {"<|im_end|", "<|im_end|>", "<|im_", "<", "<|im_end|>\n"};
    static uint32_t ids[IDS_MAX];
    struct tokenizer *t = tokenizer_read("qwen2");
    const struct chat *chat = family("qwen3");
    uint32_t end;
    (void)state;
    assert_true(tokenizer_find(t, "<|im_end|>", &end));
    for (size_t i = 0; i < COUNT_OF(endings); i++) {
        struct chat_text text = {.text = room};
        struct chat_message message = {
            .role = CHAT_USER, .text = (const uint8_t *)endings[i], .bytes = strlen(endings[i])};
        assert_true(chat_render(chat, &message, 1, &text));
        uint32_t count = encode("qwen2", chat, &text, ids), seen = 0;
        for (uint32_t at = 0; at < count; at++)
            seen += ids[at] == end;
        assert_int_equal(seen, 1);
    }
    tokenizer_free(t);
}

/* ChatML as its authors publish it, with both ways to write a line end. */
static void published_templates_are_known(void **state)
{
    static const char *const texts[] = {
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
        "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ "
        "'<|im_start|>assistant\\n' }}{% endif %}",
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
        "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ "
        "'<|im_start|>assistant\n' }}{% endif %}"};
    (void)state;
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        const struct chat *chat = chat_find(texts[i], strlen(texts[i]));
        assert_non_null(chat);
        assert_string_equal(chat_name(chat), "chatml");
        assert_null(chat_find(texts[i], strlen(texts[i]) - 1));
    }
}

static void unknown_templates_and_wrong_turns_are_refused(void **state)
{
    static const enum chat_role wrong[][3] = {{CHAT_ASSISTANT, CHAT_USER, CHAT_ASSISTANT},
                                              {CHAT_USER, CHAT_USER, CHAT_USER},
                                              {CHAT_USER, CHAT_SYSTEM, CHAT_USER},
                                              {CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT},
                                              {CHAT_SYSTEM, CHAT_SYSTEM, CHAT_USER}};
    struct chat_text text = {.text = room};
    struct chat_message messages[3] = {0};
    (void)state;
    assert_null(chat_find("{{ messages }}", 14));
    assert_null(chat_find("", 0));
    assert_null(chat_find("llama-3 ", 8));
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        for (uint32_t m = 0; m < 3; m++)
            messages[m].role = wrong[i][m];
        assert_false(chat_render(family("qwen3"), messages, 3, &text));
    }
    assert_false(chat_render(family("qwen3"), messages, 0, &text));
    assert_false(chat_render(family("gemma"), messages, 3, &text));
    messages[0].role = CHAT_SYSTEM;
    assert_false(chat_render(family("qwen3"), messages, 1, &text));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(families_write_and_encode_the_same),
        cmocka_unit_test(fingerprints_are_those_of_the_table),
        cmocka_unit_test(published_templates_are_rendered_as_by_jinja),
        cmocka_unit_test(users_never_write_special_tokens),
        cmocka_unit_test(templates_markers_stay_whole),
        cmocka_unit_test(published_templates_are_known),
        cmocka_unit_test(unknown_templates_and_wrong_turns_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
