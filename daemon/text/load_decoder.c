#include "daemon/text/load.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "daemon/text/byte_level.h"

#define MARK "\xe2\x96\x81" /* U+2581 */
#define MARK_BYTES 3u

/* ---- the decoder's kind ------------------------------------------------------------------------ */

/* {"String": pattern} becomes content. */
static int decode_replace(struct load *l, const struct json *value, const char *path)
{
    const struct json *pattern = json_member(value, "pattern");
    int r = load_object(l, value, path, "type pattern content ");
    if (r == 0 && (json_count(pattern) != 1 || !json_is(json_member(pattern, "String"), MARK)))
        return load_fault(l, "%s.pattern: only {\"String\": \"" MARK "\"} is accepted", path);
    return r == 0 ? load_is(l, value, path, "content", " ") : r;
}

static int decode_strip(struct load *l, const struct json *value, const char *path)
{
    uint32_t count;
    int r;
    if ((r = load_object(l, value, path, "type content start stop ")) != 0 ||
        (r = load_is(l, value, path, "content", " ")) != 0 ||
        (r = load_u32(l, value, path, "start", 1, 1, &count)) != 0)
        return r;
    return load_u32(l, value, path, "stop", 0, 0, &count);
}

static int decode_plain(struct load *l, const struct json *value, const char *path)
{
    return load_object(l, value, path, "type ");
}

/* Replace, ByteFallback, Fuse and perhaps Strip, which is what SentencePiece does. */
static int decode_sequence(struct load *l, const struct json *value)
{
    static const struct {
        const char *type;
        int (*function)(struct load *l, const struct json *value, const char *path);
    } known[] = {{"Replace", decode_replace},
                 {"ByteFallback", decode_plain},
                 {"Fuse", decode_plain},
                 {"Strip", decode_strip}};
    const struct json *list = json_member(value, "decoders");
    uint32_t count = json_count(list);
    char path[LOAD_PATH_BYTES];
    int r = load_object(l, value, "decoder", "type decoders ");
    if (r == 0 && (json_kind(list) != JSON_KIND_ARRAY || count < 3 || count > 4))
        return load_fault(l, "decoder.decoders: not an array of 3 or 4");
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        const char *type;
        (void)snprintf(path, sizeof path, "decoder.decoders[%u]", i);
        r = load_type(l, json_element(list, i), path, &type);
        if (r == 0 && strcmp(type, known[i].type) != 0)
            return load_fault(l, "%s.type: only %s is accepted here", path, known[i].type);
        if (r == 0)
            r = known[i].function(l, json_element(list, i), path);
    }
    l->tokenizer->decoder = count == 4 ? TOKENIZER_DECODE_STRIP : TOKENIZER_DECODE_FALLBACK;
    return r;
}

static int decode_metaspace(struct load *l, const struct json *value)
{
    bool prefix = true;
    int r;
    if ((r = load_object(l, value, "decoder",
                         "type replacement str_rep add_prefix_space prepend_scheme split ")) != 0 ||
        (r = load_is(l, value, "decoder", "replacement", MARK)) != 0 ||
        (r = load_bool_or(l, value, "decoder", "add_prefix_space", &prefix)) != 0)
        return r;
    if (json_is(json_member(value, "prepend_scheme"), "never"))
        prefix = false;
    else if (json_member(value, "prepend_scheme") &&
             !json_is(json_member(value, "prepend_scheme"), "first") &&
             !json_is(json_member(value, "prepend_scheme"), "always"))
        return load_fault(l, "decoder.prepend_scheme: only always, first and never are accepted");
    l->tokenizer->decoder = prefix ? TOKENIZER_DECODE_METASPACE : TOKENIZER_DECODE_KEEP;
    return 0;
}

static int decode_wordpiece(struct load *l, const struct json *value)
{
    struct tokenizer *t = l->tokenizer;
    const char *prefix;
    uint32_t bytes;
    int r;
    if ((r = load_object(l, value, "decoder", "type prefix cleanup ")) != 0 ||
        (r = load_text(l, value, "decoder", "prefix", WORDPIECE_PREFIX_BYTES_MAX, &prefix,
                       &bytes)) != 0 ||
        (r = load_bool(l, value, "decoder", "cleanup", &t->cleanup)) != 0)
        return r;
    memcpy(t->continuation, prefix, bytes);
    t->decoder = TOKENIZER_DECODE_WORDPIECE;
    return 0;
}

int load_decoder(struct load *l, const struct json *value)
{
    const char *type;
    int r = load_type(l, value, "decoder", &type);
    if (r != 0)
        return r;
    if (strcmp(type, "Sequence") == 0)
        return decode_sequence(l, value);
    if (strcmp(type, "Metaspace") == 0)
        return decode_metaspace(l, value);
    if (strcmp(type, "WordPiece") == 0)
        return decode_wordpiece(l, value);
    if (strcmp(type, "ByteLevel") == 0) {
        l->tokenizer->decoder = TOKENIZER_DECODE_BYTES;
        return load_object(l, value, "decoder", "type add_prefix_space trim_offsets use_regex ");
    }
    return load_fault(l,
                      "decoder.type: %.60s is not accepted; ByteLevel, Metaspace, Sequence and "
                      "WordPiece are",
                      type);
}

/* ---- texts of tokens --------------------------------------------------------------------------- */

static int hex_digit(uint8_t c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

static uint32_t decode_marks(const struct vocabulary_entry *e, bool fallback, uint8_t *out)
{
    const uint8_t *text = e->text;
    uint32_t bytes = e->text_bytes, written = 0;
    if (fallback && bytes == 6 && memcmp(text, "<0x", 3) == 0 && text[5] == '>' &&
        hex_digit(text[3]) >= 0 && hex_digit(text[4]) >= 0) {
        out[0] = (uint8_t)(hex_digit(text[3]) << 4 | hex_digit(text[4]));
        return 1;
    }
    for (uint32_t i = 0; i < bytes;) {
        bool mark = bytes - i >= MARK_BYTES && memcmp(text + i, MARK, MARK_BYTES) == 0;
        out[written++] = mark ? ' ' : text[i];
        i += mark ? MARK_BYTES : 1;
    }
    return written;
}

/* English as it is written, where words were cut off with a space. */
static uint32_t clean_up(uint8_t *text, uint32_t bytes)
{
    static const char *const rules[][2] = {{" .", "."},     {" ?", "?"},           {" !", "!"},
                                           {" ,", ","},     {" ' ", "'"},          {" n't", "n't"},
                                           {" 'm", "'m"},   {" do not", " don't"}, {" 's", "'s"},
                                           {" 've", "'ve"}, {" 're", "'re"}};
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        uint32_t from = (uint32_t)strlen(rules[i][0]), to = (uint32_t)strlen(rules[i][1]);
        for (uint32_t at = 0; at + from <= bytes;) {
            if (memcmp(text + at, rules[i][0], from) != 0) {
                at++;
                continue;
            }
            memcpy(text + at, rules[i][1], to);
            memmove(text + at + to, text + at + from, bytes - at - from);
            bytes -= from - to;
            at += to;
        }
    }
    return bytes;
}

static uint32_t decode_word(const struct tokenizer *t, const struct vocabulary_entry *e,
                            uint8_t *out)
{
    uint32_t prefix = (uint32_t)strlen(t->continuation), bytes = 0;
    if (e->text_bytes >= prefix && memcmp(e->text, t->continuation, prefix) == 0) {
        bytes = e->text_bytes - prefix;
        memcpy(out, e->text + prefix, bytes);
    } else {
        out[bytes++] = ' ';
        memcpy(out + bytes, e->text, e->text_bytes);
        bytes += e->text_bytes;
    }
    return t->cleanup ? clean_up(out, bytes) : bytes;
}

static uint32_t decode(const struct tokenizer *t, const struct vocabulary_entry *e, uint8_t *out)
{
    uint32_t bytes;
    switch (t->decoder) {
    case TOKENIZER_DECODE_BYTES:
        bytes = byte_level_read(e->text, e->text_bytes, out);
        if (bytes != BYTE_LEVEL_NONE)
            return bytes;
        memcpy(out, e->text, e->text_bytes);
        return e->text_bytes;
    case TOKENIZER_DECODE_FALLBACK:
    case TOKENIZER_DECODE_STRIP:
        return decode_marks(e, true, out);
    case TOKENIZER_DECODE_METASPACE:
    case TOKENIZER_DECODE_KEEP:
        return decode_marks(e, false, out);
    case TOKENIZER_DECODE_WORDPIECE:
        break;
    }
    return decode_word(t, e, out);
}

static int decode_all(struct load *l)
{
    struct vocabulary *v = &l->tokenizer->vocabulary;
    uint8_t text[VOCABULARY_TEXT_BYTES_MAX + 1];
    for (uint32_t i = 0; i < v->count; i++) {
        if (!v->entries[i].text)
            continue;
        uint32_t bytes = decode(l->tokenizer, &v->entries[i], text), longest = bytes;
        if (l->tokenizer->decoder == TOKENIZER_DECODE_WORDPIECE && v->entries[i].text_bytes > bytes)
            longest = v->entries[i].text_bytes; /* a text may begin with it */
        if (longest > DETOKENIZER_TOKEN_BYTES_MAX)
            return load_fault(l, "model.vocab: token %u has %u bytes; at most %u are accepted", i,
                              longest, DETOKENIZER_TOKEN_BYTES_MAX);
        vocabulary_set_decoded(v, i, text, bytes);
    }
    return 0;
}

/* ---- the trees of added tokens ----------------------------------------------------------------- */

static int added_insert_one(struct load *l, struct normalize_scratch *scratch, uint32_t idx)
{
    struct tokenizer *t = l->tokenizer;
    const struct added_token *token = &t->added_tokens[idx];
    const uint8_t *text = t->vocabulary.entries[token->id].text;
    uint64_t bytes = t->vocabulary.entries[token->id].text_bytes;
    if (!token->normalized)
        return added_insert(&t->added_raw, text, bytes, idx);
    text = normalize(&t->normalizer, scratch, text, bytes, &bytes);
    /* Two may be one after normalizing: the first counts. */
    int r = bytes > 0 ? added_insert(&t->added_normalized, text, bytes, idx) : 0;
    return r == -EEXIST ? 0 : r;
}

int load_finish(struct load *l)
{
    struct tokenizer *t = l->tokenizer;
    struct normalize_scratch scratch = {0};
    int r = decode_all(l);
    if (r != 0)
        return r;
    added_init(&t->added_raw, t->added_tokens);
    added_init(&t->added_normalized, t->added_tokens);
    r = normalize_scratch_init(&scratch, &t->normalizer, DETOKENIZER_TOKEN_BYTES_MAX);
    for (uint32_t i = 0; r == 0 && i < t->added_count; i++)
        r = added_insert_one(l, &scratch, i);
    normalize_scratch_free(&scratch);
    return r;
}
