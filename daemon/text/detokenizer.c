#include "daemon/base/scratch.h"
#include "daemon/text/detokenizer.h"

#include <string.h>

#include "daemon/text/tokenizer.h"
#include "daemon/text/utf8.h"

/* Copies; false where there is more than ASCII. */
static bool ascii_copy(uint8_t *to, const uint8_t *from, uint32_t bytes)
{
    uint8_t seen = 0;
    for (uint32_t i = 0; i < bytes; i++)
        seen |= to[i] = from[i];
    return seen < 0x80;
}

static __attribute__((noinline)) uint32_t push_any(struct detokenizer *d, const uint8_t *text,
                                                   uint32_t text_bytes, uint8_t *out)
{
    SCRATCH uint8_t all[sizeof d->held + DETOKENIZER_TOKEN_BYTES_MAX];
    uint32_t bytes = d->held_bytes + text_bytes, written = 0;
    memcpy(all, d->held, d->held_bytes);
    memcpy(all + d->held_bytes, text, text_bytes);
    d->held_bytes = 0;
    for (uint32_t at = 0, length; at < bytes; at += length) {
        uint32_t code;
        length = utf8_read(all + at, bytes - at, &code);
        if (code == UTF8_CUT) {
            d->held_bytes = (uint8_t)length;
            memcpy(d->held, all + at, length);
        } else {
            written += utf8_write(code, out + written);
        }
    }
    return written;
}

static inline uint32_t push(struct detokenizer *d, const uint8_t *text, uint32_t text_bytes,
                            uint8_t *out)
{
    if (d->held_bytes == 0 && ascii_copy(out, text, text_bytes)) /* nearly always */
        return text_bytes;
    return push_any(d, text, text_bytes, out);
}

uint32_t detokenizer_push(struct detokenizer *d, const struct tokenizer *tokenizer, uint32_t token,
                          uint8_t *out)
{
    uint32_t bytes;
    const uint8_t *text = tokenizer_text_of(tokenizer, token, !d->started, &bytes);
    if (!text)
        return 0;
    d->started = true;
    return push(d, text, bytes, out);
}

uint32_t detokenizer_push_all(struct detokenizer *d, const struct tokenizer *tokenizer,
                              const uint32_t *tokens, uint32_t count, uint8_t *out)
{
    uint32_t written = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t bytes;
        if (d->started && d->held_bytes == 0) {
            i += tokenizer_texts_of(tokenizer, tokens + i, count - i, out + written, &bytes);
            written += bytes;
            if (i == count)
                break;
        }
        const uint8_t *text = tokenizer_text_of(tokenizer, tokens[i], !d->started, &bytes);
        if (!text)
            continue;
        d->started = true;
        written += push(d, text, bytes, out + written);
    }
    return written;
}

uint32_t detokenizer_push_byte(struct detokenizer *d, uint8_t byte, uint8_t *out)
{
    return push(d, &byte, 1, out);
}

uint32_t detokenizer_flush(struct detokenizer *d, uint8_t *out)
{
    uint32_t bytes = d->held_bytes ? utf8_write(UTF8_REPLACEMENT, out) : 0;
    d->held_bytes = 0;
    return bytes;
}
