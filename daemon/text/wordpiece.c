#include "daemon/text/wordpiece.h"

#include <string.h>

static bool continues(uint8_t byte)
{
    return (byte & 0xc0) == 0x80;
}

/* The longest token at the beginning of text, which lies in the middle of a word or not. */
static uint32_t longest(const struct wordpiece *w, const uint8_t *text, uint64_t bytes, bool within,
                        uint64_t *ret_bytes)
{
    uint8_t spelled[WORDPIECE_PREFIX_BYTES_MAX + VOCABULARY_TEXT_BYTES_MAX];
    uint32_t prefix_bytes = within ? w->prefix_bytes : 0;
    if (bytes > w->token_bytes_max)
        bytes = w->token_bytes_max;
    memcpy(spelled, w->prefix, prefix_bytes);
    memcpy(spelled + prefix_bytes, text, bytes);
    for (; bytes > 0; bytes--) {
        uint32_t id = vocabulary_find(w->vocabulary, spelled, prefix_bytes + bytes);
        if (id != VOCABULARY_NONE) {
            *ret_bytes = bytes;
            return id;
        }
        while (bytes > 1 && continues(text[bytes - 1]))
            bytes--;
    }
    return VOCABULARY_NONE;
}

void wordpiece_encode(const struct wordpiece *w, const uint8_t *word, uint64_t bytes,
                      struct ids *to)
{
    uint32_t count = to->count;
    uint64_t characters = 0;
    for (uint64_t i = 0; i < bytes; i++)
        characters += !continues(word[i]);
    for (uint64_t at = 0; at < bytes && characters <= w->characters_max;) {
        uint64_t length;
        uint32_t id = longest(w, word + at, bytes - at, at > 0, &length);
        if (id == VOCABULARY_NONE)
            break;
        ids_add(to, id);
        at += length;
        if (at == bytes)
            return;
    }
    to->count = count;
    ids_add(to, w->unknown);
}
