/* tests/unit/test_tokenizer_golden.c: every tokenizer in tests/golden/tokenizers gives every text the ids,
 * and every row of ids the text, that the `tokenizers` package gives (tools/golden/make_tokenizers.py
 * says how the files look). Tokens are decoded as they stream in, one at a time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/text/detokenizer.h"
#include "daemon/text/tokenizer.h"
#include "tests/lib/check.h"

#define FOLDER "tests/golden/tokenizers/"
#define TEXTS_MIN 2000u
#define TEXT_BYTES_MAX 4096u
#define IDS_MAX 8192u

static char *file_read(const char *name, size_t *ret_bytes)
{
    char path[256];
    (void)snprintf(path, sizeof path, FOLDER "%s", name);
    FILE *f = fopen(path, "rb");
    CHECK(f, "%s", path);
    CHECK(fseek(f, 0, SEEK_END) == 0, "%s", path);
    size_t bytes = (size_t)ftell(f);
    rewind(f);
    char *text = malloc(bytes + 1);
    CHECK(text && fread(text, 1, bytes, f) == bytes, "%s", path);
    text[bytes] = 0;
    fclose(f);
    *ret_bytes = bytes;
    return text;
}

static uint32_t hex_read(const char *hex, size_t digits, uint8_t *out)
{
    for (size_t i = 0; i < digits / 2; i++) {
        char two[3] = {hex[2 * i], hex[2 * i + 1], 0};
        out[i] = (uint8_t)strtoul(two, NULL, 16);
    }
    return (uint32_t)(digits / 2);
}

static uint32_t ids_read(const char *text, uint32_t *ids)
{
    uint32_t count = 0;
    while (*text && *text != '|') {
        char *end;
        ids[count++] = (uint32_t)strtoul(text, &end, 36);
        text = *end == ',' ? end + 1 : end;
    }
    return count;
}

struct golden {
    const char *name;
    struct tokenizer *tokenizer;
    struct tokenizer_scratch *scratch;
    uint32_t line;
    uint32_t wrong;
};

static void ids_print(const char *what, const uint32_t *ids, uint32_t count)
{
    printf("  %s:", what);
    for (uint32_t i = 0; i < count && i < 40; i++)
        printf(" %u", ids[i]);
    printf("\n");
}

static void must_encode(struct golden *g, const uint8_t *text, uint64_t bytes, bool plain,
                        const uint32_t *ids, uint32_t count)
{
    static uint32_t got[IDS_MAX];
    uint32_t got_count;
    struct added_range all = {0, bytes};
    struct tokenizer_text in = {
        .text = text, .bytes = bytes, .plain = &all, .plain_count = plain, .affixes = true};
    CHECK(tokenizer_encode(g->tokenizer, g->scratch, &in, got, IDS_MAX, &got_count), "line %u",
          g->line);
    if (got_count == count && memcmp(got, ids, count * sizeof *ids) == 0)
        return;
    if (g->wrong++ > 8)
        return;
    printf("%s line %u%s: \"%.*s\"\n", g->name, g->line, plain ? " (plain)" : "", (int)bytes,
           (const char *)text);
    ids_print("want", ids, count);
    ids_print("got ", got, got_count);
}

static void must_decode(struct golden *g, const uint32_t *ids, uint32_t count, const uint8_t *text,
                        uint32_t bytes)
{
    static uint8_t got[IDS_MAX * DETOKENIZER_PUSH_BYTES_MAX];
    struct detokenizer d = {0};
    uint32_t got_bytes = 0;
    for (uint32_t i = 0; i < count; i++)
        got_bytes += detokenizer_push(&d, g->tokenizer, ids[i], got + got_bytes);
    got_bytes += detokenizer_flush(&d, got + got_bytes);
    if (got_bytes == bytes && memcmp(got, text, bytes) == 0)
        return;
    if (g->wrong++ > 8)
        return;
    printf("%s line %u: decodes to \"%.*s\", not \"%.*s\"\n", g->name, g->line, (int)got_bytes,
           (const char *)got, (int)bytes, (const char *)text);
}

/* line: what NAME.ids says of the text. */
static void text_check(struct golden *g, const char *line, const uint8_t *raw, uint32_t raw_bytes)
{
    static uint32_t ids[IDS_MAX], plain[IDS_MAX];
    static uint8_t text[3 * TEXT_BYTES_MAX], decoded[3 * TEXT_BYTES_MAX];
    uint64_t bytes = tokenizer_clean(raw, raw_bytes, text);
    const char *second = strchr(line, '|') + 1, *third = strchr(second, '|') + 1;
    uint32_t count = ids_read(line, ids), plain_count;
    must_encode(g, text, bytes, false, ids, count);
    if (*second == '=')
        must_encode(g, text, bytes, true, ids, count);
    else if ((plain_count = ids_read(second, plain)) > 0)
        must_encode(g, text, bytes, true, plain, plain_count);
    if (*third == '=')
        must_decode(g, ids, count, text, (uint32_t)bytes);
    else
        must_decode(g, ids, count, decoded, hex_read(third, strlen(third), decoded));
}

static void decode_check(struct golden *g, const char *line)
{
    uint32_t ids[64];
    static uint8_t decoded[3 * TEXT_BYTES_MAX];
    const char *hex = strchr(line, '|') + 1;
    must_decode(g, ids, ids_read(line, ids), decoded, hex_read(hex, strlen(hex), decoded));
}

/* The line at *at, ended by a zero byte; NULL after the last. */
static char *line_take(char **at)
{
    char *line = *at, *end = strchr(line, '\n');
    if (!end)
        return NULL;
    *end = 0;
    *at = end + 1;
    return line;
}

static void lines_check(struct golden *g, char *ids, char *texts)
{
    static uint8_t raw[TEXT_BYTES_MAX];
    uint32_t texts_count = 0;
    for (char *line; (line = line_take(&ids));) {
        g->line++;
        if (strncmp(line, "decode ", 7) == 0) {
            decode_check(g, line + 7);
            continue;
        }
        char *text = line_take(&texts); /* may be empty */
        CHECK(text && strlen(text) / 2 <= TEXT_BYTES_MAX, "text %u", g->line);
        text_check(g, line, raw, hex_read(text, strlen(text), raw));
        texts_count++;
    }
    CHECK(*texts == 0 && texts_count >= TEXTS_MIN, "%s: %u texts", g->name, texts_count);
}

static void golden_check(const char *name)
{
    char file[64], message[TOKENIZER_MESSAGE_BYTES];
    struct golden g = {.name = name};
    size_t bytes;
    (void)snprintf(file, sizeof file, "%s.json", name);
    char *json = file_read(file, &bytes);
    int r = tokenizer_load(json, bytes, UINT32_MAX, message, &g.tokenizer);
    CHECK(r == 0, "%s: %s", name, message);
    CHECK(tokenizer_scratch_new(g.tokenizer, 3 * TEXT_BYTES_MAX, &g.scratch) == 0, "memory");
    (void)snprintf(file, sizeof file, "%s.ids", name);
    char *ids = file_read(file, &bytes), *texts = file_read("texts", &bytes);
    lines_check(&g, ids, texts);
    assert_int_equal(g.wrong, 0);
    tokenizer_scratch_free(g.scratch);
    tokenizer_free(g.tokenizer);
    free(json);
    free(ids);
    free(texts);
}

#define TOKENIZERS(DO)                                                                             \
    DO(gpt2)                                                                                       \
    DO(llama3)                                                                                     \
    DO(qwen2)                                                                                      \
    DO(tekken) DO(llama2) DO(mistral) DO(phi3) DO(gemma) DO(unknown) DO(wordpiece) DO(cased)
#define CASE(name)                                                                                 \
    static void name##_is_the_same(void **state)                                                   \
    {                                                                                              \
        (void)state;                                                                               \
        golden_check(#name);                                                                       \
    }
#define ENTRY(name) cmocka_unit_test(name##_is_the_same),
TOKENIZERS(CASE)

int main(void)
{
    const struct CMUnitTest tests[] = {TOKENIZERS(ENTRY)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
