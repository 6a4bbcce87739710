/* tests/fuzz/fuzz_tokenize.c: any bytes as a text, through the tokenizers of tests/golden/tokenizers. Input:
 * which one, where a plain range begins and ends, the text. Every id exists; byte-level tokens decode to
 * the text again; the stream is UTF-8 in whole characters. Runs in the repository's root. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/text/detokenizer.h"
#include "daemon/text/tokenizer.h"
#include "daemon/text/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define TEXT_BYTES_MAX 1024u
#define NAMES_COUNT 11u

static const char *const names[NAMES_COUNT] = {
    /* Those that give back the text come first. */
    "tekken", "llama3", "gpt2",  "qwen2",   "llama2",    "mistral",
    "phi3",   "gemma",  "cased", "unknown", "wordpiece",
};
#define ROUND_TRIPS 2u

static struct {
    struct tokenizer *tokenizer;
    struct tokenizer_scratch *scratch;
} all[NAMES_COUNT];

static void must(int condition)
{
    if (!condition)
        abort();
}

static void load(uint32_t idx)
{
    static char json[1 << 20];
    char path[128], message[TOKENIZER_MESSAGE_BYTES];
    (void)snprintf(path, sizeof path, "tests/golden/tokenizers/%s.json", names[idx]);
    FILE *f = fopen(path, "rb");
    must(f != NULL);
    size_t bytes = fread(json, 1, sizeof json, f);
    fclose(f);
    must(tokenizer_load(json, bytes, UINT32_MAX, message, &all[idx].tokenizer) == 0);
    must(tokenizer_scratch_new(all[idx].tokenizer, 3 * TEXT_BYTES_MAX, &all[idx].scratch) == 0);
}

/* Returns what all the tokens say, checked to be whole characters at every step. */
static uint32_t stream(const struct tokenizer *t, const uint32_t *ids, uint32_t count, uint8_t *out)
{
    struct detokenizer d = {0};
    uint32_t bytes = 0;
    for (uint32_t i = 0; i <= count; i++) {
        uint32_t more = i < count ? detokenizer_push(&d, t, ids[i], out + bytes)
                                  : detokenizer_flush(&d, out + bytes);
        must(more <= DETOKENIZER_PUSH_BYTES_MAX);
        for (uint32_t at = 0, code; at < more;) {
            at += utf8_read(out + bytes + at, more - at, &code);
            must(code != UTF8_CUT);
        }
        bytes += more;
    }
    return bytes;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t text[3 * TEXT_BYTES_MAX], out[64 * 3 * TEXT_BYTES_MAX];
    static uint32_t ids[9 * TEXT_BYTES_MAX];
    uint32_t count;
    if (size < 3 || size > TEXT_BYTES_MAX)
        return 0;
    uint32_t idx = data[0] % NAMES_COUNT;
    if (!all[idx].tokenizer)
        load(idx);
    const struct tokenizer *t = all[idx].tokenizer;
    uint64_t bytes = tokenizer_clean(data + 3, size - 3, text);
    struct added_range plain = {data[1], (uint64_t)data[1] + data[2]};
    struct tokenizer_text in = {.text = text, .bytes = bytes, .plain = &plain, .plain_count = 1};
    must(tokenizer_encode(t, all[idx].scratch, &in, ids, sizeof ids / sizeof ids[0], &count));
    for (uint32_t i = 0; i < count; i++)
        must(ids[i] < tokenizer_ids_count(t));
    plain = (struct added_range){0, bytes};
    if (idx < ROUND_TRIPS) {
        must(tokenizer_encode(t, all[idx].scratch, &in, ids, sizeof ids / sizeof ids[0], &count));
        must(stream(t, ids, count, out) == bytes && memcmp(out, text, bytes) == 0);
    } else {
        (void)stream(t, ids, count, out);
    }
    return 0;
}
