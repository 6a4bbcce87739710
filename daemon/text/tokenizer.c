#include "daemon/text/tokenizer_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/assert.h"
#include "daemon/text/utf8.h"

#define MARK "\xe2\x96\x81" /* U+2581, a space in SentencePiece */
#define MARK_BYTES 3u

struct tokenizer_scratch {
    struct normalize_scratch normalize;
    struct bpe_scratch bpe;
    uint8_t *prefixed;
    uint64_t text_bytes_max;
};

void tokenizer_free(struct tokenizer *t)
{
    if (!t)
        return;
    vocabulary_free(&t->vocabulary);
    free(t->added_tokens);
    added_free(&t->added_raw);
    added_free(&t->added_normalized);
    bpe_free(&t->bpe);
    free(t);
}

uint32_t tokenizer_ids_count(const struct tokenizer *t)
{
    return t->vocabulary.count;
}

bool tokenizer_find(const struct tokenizer *t, const char *text, uint32_t *ret_id)
{
    *ret_id = vocabulary_find(&t->vocabulary, text, strlen(text));
    return *ret_id != VOCABULARY_NONE;
}

void tokenizer_set_control(struct tokenizer *t, const char *text)
{
    uint32_t id;
    if (!tokenizer_find(t, text, &id))
        return;
    for (uint32_t i = 0; i < t->added_count; i++)
        if (t->added_tokens[i].id == id) {
            t->added_tokens[i].control = true;
            t->vocabulary.entries[id].flags |= VOCABULARY_CONTROL;
        }
}

/* ---- scratch ----------------------------------------------------------------------------------- */

static uint64_t word_bytes_max(const struct tokenizer *t, uint64_t text_bytes)
{
    uint64_t bytes = normalize_bytes_max(&t->normalizer, text_bytes);
    return (t->metaspace ? MARK_BYTES : 1) * bytes + MARK_BYTES;
}

uint64_t tokenizer_text_bytes_max(const struct tokenizer *t)
{
    uint64_t fits = 0,
             does_not = (uint64_t)BPE_WORD_BYTES_MAX + 1; /* nothing makes texts shorter */
    while (t->model == TOKENIZER_BPE && does_not - fits > 1) {
        uint64_t middle = fits + (does_not - fits) / 2;
        if (word_bytes_max(t, middle) <= BPE_WORD_BYTES_MAX)
            fits = middle;
        else
            does_not = middle;
    }
    return t->model == TOKENIZER_BPE ? fits : UINT32_MAX;
}

int tokenizer_scratch_new(const struct tokenizer *t, uint64_t text_bytes_max,
                          struct tokenizer_scratch **ret)
{
    struct tokenizer_scratch *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    uint64_t bytes = word_bytes_max(t, text_bytes_max);
    s->text_bytes_max = text_bytes_max;
    s->prefixed = malloc(bytes);
    int r = s->prefixed ? normalize_scratch_init(&s->normalize, &t->normalizer, text_bytes_max)
                        : -ENOMEM;
    if (r == 0 && t->model == TOKENIZER_BPE)
        r = bpe_scratch_init(&s->bpe, &t->bpe, bytes);
    if (r != 0) {
        tokenizer_scratch_free(s);
        return r;
    }
    *ret = s;
    return 0;
}

void tokenizer_scratch_free(struct tokenizer_scratch *s)
{
    if (!s)
        return;
    normalize_scratch_free(&s->normalize);
    bpe_scratch_free(&s->bpe);
    free(s->prefixed);
    free(s);
}

uint64_t tokenizer_scratch_merges(const struct tokenizer_scratch *s)
{
    return s->bpe.merges_done;
}

uint64_t tokenizer_clean(const uint8_t *text, uint64_t bytes, uint8_t *out)
{
    uint64_t written = 0;
    for (uint64_t at = 0; at < bytes;) {
        uint32_t code;
        at += utf8_read_last(text + at, bytes - at, &code);
        written += utf8_write(code, out + written);
    }
    return written;
}

/* ---- encoding ---------------------------------------------------------------------------------- */

struct encoding {
    const struct tokenizer *t;
    struct tokenizer_scratch *s;
    struct ids to;
};

/* Spaces become U+2581, and the piece gets its prefix unless it has it. */
static const uint8_t *piece_prefix(struct encoding *e, const uint8_t *text, uint64_t *bytes,
                                   bool first)
{
    const struct tokenizer *t = e->t;
    uint8_t *out = e->s->prefixed;
    const char *prefix = t->metaspace ? MARK : " ";
    uint64_t prefix_bytes = strlen(prefix), written = 0;
    bool wanted =
        t->prefix == TOKENIZER_PREFIX_ALWAYS || (t->prefix == TOKENIZER_PREFIX_FIRST && first);
    if (text[0] == ' ' || (*bytes >= prefix_bytes && memcmp(text, prefix, prefix_bytes) == 0))
        wanted = false;
    if (!wanted && !t->metaspace)
        return text;
    if (wanted) {
        memcpy(out, prefix, prefix_bytes);
        written = prefix_bytes;
    }
    for (uint64_t i = 0; i < *bytes; i++) {
        if (text[i] == ' ' && t->metaspace) {
            memcpy(out + written, MARK, MARK_BYTES);
            written += MARK_BYTES;
        } else {
            out[written++] = text[i];
        }
    }
    *bytes = written;
    return out;
}

static void encode_words(struct encoding *e, const uint8_t *text, uint64_t bytes, bool first)
{
    const struct tokenizer *t = e->t;
    uint64_t at = 0, start;
    if (bytes == 0)
        return;
    text = piece_prefix(e, text, &bytes, first);
    while (!e->to.full && split_next(&t->split, text, bytes, &at, &start)) {
        if (t->model == TOKENIZER_BPE)
            bpe_encode(&t->bpe, &e->s->bpe, text + start, at - start, &e->to);
        else
            wordpiece_encode(&t->wordpiece, text + start, at - start, &e->to);
    }
}

/* plain has its base at the piece. */
static void encode_piece(struct encoding *e, const uint8_t *text, uint64_t bytes,
                         struct added_plain plain)
{
    const struct tokenizer *t = e->t;
    static const struct added_range all = {0, UINT64_MAX};
    bool first = plain.base == 0;
    if (t->normalizer.count > 0) {
        /* Where ranges went is not known: the piece is plain if any of it is. */
        while (plain.count > 0 && plain.ranges->end <= plain.base) {
            plain.ranges++;
            plain.count--;
        }
        bool any = plain.count > 0 && plain.ranges->start < plain.base + bytes;
        plain = (struct added_plain){.ranges = &all, .count = any};
        text = normalize(&t->normalizer, &e->s->normalize, text, bytes, &bytes);
    }
    struct added_scan scan = {
        .added = &t->added_normalized, .text = text, .bytes = bytes, .plain = plain};
    struct added_match match;
    uint64_t at = 0;
    while (!e->to.full && added_next(&scan, &match)) {
        encode_words(e, text + at, match.start - at, first && at == 0);
        ids_add(&e->to, match.id);
        at = match.end;
    }
    encode_words(e, text + at, bytes - at, first && at == 0);
}

bool tokenizer_encode(const struct tokenizer *t, struct tokenizer_scratch *s,
                      const struct tokenizer_text *in, uint32_t *ids, uint32_t ids_max,
                      uint32_t *ret_count)
{
    struct encoding e = {.t = t, .s = s, .to = {.ids = ids, .count_max = ids_max}};
    struct added_plain plain = {.ranges = in->plain, .count = in->plain_count};
    struct added_scan scan = {
        .added = &t->added_raw, .text = in->text, .bytes = in->bytes, .plain = plain};
    struct added_match match;
    ASSERT(in->bytes <= s->text_bytes_max);
    for (uint32_t i = 0; in->affixes && i < t->before_count; i++)
        ids_add(&e.to, t->before[i]);
    while (!e.to.full && added_next(&scan, &match)) {
        encode_piece(&e, in->text + plain.base, match.start - plain.base, plain);
        ids_add(&e.to, match.id);
        plain.base = match.end;
        plain.ranges = scan.plain.ranges;
        plain.count = scan.plain.count;
    }
    encode_piece(&e, in->text + plain.base, in->bytes - plain.base, plain);
    for (uint32_t i = 0; in->affixes && i < t->after_count; i++)
        ids_add(&e.to, t->after[i]);
    *ret_count = e.to.count;
    return !e.to.full;
}

/* ---- text of tokens ---------------------------------------------------------------------------- */

/* A program's text is made again and again, so that a token costs but a few instructions. */
uint32_t tokenizer_texts_of(const struct tokenizer *t, const uint32_t *tokens, uint32_t count,
                            uint8_t *out, uint32_t *ret_bytes)
{
    uint32_t bytes = 0, i;
    for (i = 0; i < count && tokens[i] < t->vocabulary.count; i++) {
        const struct vocabulary_entry *e = &t->vocabulary.entries[tokens[i]];
        if ((e->flags & (VOCABULARY_ASCII | VOCABULARY_SILENT)) != VOCABULARY_ASCII)
            break;
        if (e->decoded_bytes <= VOCABULARY_SLACK_BYTES)
            memcpy(out + bytes, e->decoded, VOCABULARY_SLACK_BYTES); /* behind it anything */
        else
            memcpy(out + bytes, e->decoded, e->decoded_bytes);
        bytes += e->decoded_bytes;
    }
    *ret_bytes = bytes;
    return i;
}

const uint8_t *tokenizer_text_of(const struct tokenizer *t, uint32_t token, bool begins,
                                 uint32_t *ret_bytes)
{
    *ret_bytes = 0;
    if (token >= t->vocabulary.count || !t->vocabulary.entries[token].text)
        return NULL;
    const struct vocabulary_entry *e = &t->vocabulary.entries[token];
    if (e->flags & VOCABULARY_SILENT)
        return NULL;
    const uint8_t *text = e->decoded;
    uint32_t bytes = e->decoded_bytes;
    if (begins && t->decoder == TOKENIZER_DECODE_WORDPIECE) {
        text = e->text;
        bytes = e->text_bytes;
    } else if (begins && t->decoder == TOKENIZER_DECODE_STRIP) {
        uint32_t space = bytes > 0 && text[0] == ' ';
        text += space;
        bytes -= space;
    } else if (begins && t->decoder == TOKENIZER_DECODE_METASPACE) {
        for (; bytes > 0 && text[0] == ' '; bytes--)
            text++;
    }
    *ret_bytes = bytes;
    return text;
}
