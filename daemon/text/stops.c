#include "daemon/text/stops.h"

#include <string.h>

#include "daemon/base/assert.h"

static void string_init(struct stops_string *s, const uint8_t *text, uint8_t bytes)
{
    memcpy(s->text, text, bytes);
    s->bytes = bytes;
    s->matched = 0;
    s->border[0] = 0;
    uint8_t border = 0;
    for (uint32_t i = 1; i < bytes; i++) {
        while (border > 0 && text[i] != text[border])
            border = s->border[border - 1];
        if (text[i] == text[border])
            border++;
        s->border[i] = border;
    }
}

void stops_init(struct stops *stops, const uint8_t *list, uint32_t list_bytes, bool include)
{
    stops->count = 0;
    stops->held_bytes = 0;
    stops->include = include;
    for (uint32_t at = 0; at < list_bytes; at += 1u + list[at]) {
        uint8_t bytes = list[at];
        ASSERT(stops->count < STOPS_MAX && bytes >= 1 && bytes <= STOPS_STRING_BYTES_MAX &&
               bytes < list_bytes - at);
        string_init(&stops->strings[stops->count++], list + at + 1, bytes);
    }
}

static void string_step(struct stops_string *s, uint8_t byte)
{
    while (s->matched > 0 && byte != s->text[s->matched])
        s->matched = s->border[s->matched - 1];
    if (byte == s->text[s->matched])
        s->matched++;
}

/* The string of which most is matched; complete ones before others. */
static const struct stops_string *longest(const struct stops *stops, bool *ret_complete)
{
    const struct stops_string *best = NULL;
    *ret_complete = false;
    for (uint32_t i = 0; i < stops->count; i++) {
        const struct stops_string *s = &stops->strings[i];
        bool complete = s->matched == s->bytes;
        if (!best || (complete && !*ret_complete) ||
            (complete == *ret_complete && s->matched > best->matched))
            best = s;
        *ret_complete |= complete;
    }
    return best;
}

/* What is held back is the text's end, so moving on by a byte gives out what is no longer held. */
bool stops_push(struct stops *stops, const uint8_t *text, uint32_t text_bytes, uint8_t *out,
                uint32_t *ret_bytes)
{
    uint32_t bytes = stops_flush(stops, out);
    uint32_t held = bytes;
    for (uint32_t i = 0; i < text_bytes; i++) {
        bool complete;
        out[bytes++] = text[i];
        for (uint32_t n = 0; n < stops->count; n++)
            string_step(&stops->strings[n], text[i]);
        const struct stops_string *best = longest(stops, &complete);
        held = best ? best->matched : 0;
        if (complete) { /* what ended a text begins no end of one that is written behind it */
            for (uint32_t n = 0; n < stops->count; n++)
                stops->strings[n].matched = 0;
            *ret_bytes = stops->include ? bytes : bytes - held;
            return true;
        }
    }
    stops->held_bytes = held;
    *ret_bytes = bytes - held;
    return false;
}

uint32_t stops_flush(struct stops *stops, uint8_t *out)
{
    uint32_t bytes = stops->held_bytes;
    for (uint32_t i = 0; bytes > 0 && i < stops->count; i++)
        if (stops->strings[i].matched == bytes) {
            memcpy(out, stops->strings[i].text, bytes);
            break;
        }
    stops->held_bytes = 0;
    return bytes;
}
