/* daemon/text/stops.h — finds stop strings in a text that comes in parts.
 *
 * Text that may be the beginning of a stop string is held back until it is not. The stop string that
 * is complete first ends the text; of two that end at the same byte, the longer one.
 *
 * Thread: one for each struct. Memory: none beyond it. Time: linear in the text, times the number of
 * stop strings. Fails: never. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

/* What a submission may hold (include/dynasor/types.h): the layers do not let us include that. */
#define STOPS_MAX 8u
#define STOPS_STRING_BYTES_MAX 128u
#define STOPS_HELD_BYTES_MAX (STOPS_STRING_BYTES_MAX - 1)

/* One stop string after Knuth, Morris and Pratt. */
struct stops_string {
    uint8_t text[STOPS_STRING_BYTES_MAX];
    uint8_t border[STOPS_STRING_BYTES_MAX]; /* of the first i + 1 bytes */
    uint8_t bytes;
    uint8_t matched; /* bytes of it that the text ends with */
};

struct stops {
    uint32_t count;
    uint32_t held_bytes; /* the longest of matched; what is held are that string's first bytes */
    bool include;        /* the stop string belongs to the text */
    struct stops_string strings[STOPS_MAX];
};

/* list: each string a byte with its length, at least 1, and so many bytes; copied. */
void stops_init(struct stops *stops, const uint8_t *list, uint32_t list_bytes, bool include);

/* Moves text to out[text_bytes + STOPS_HELD_BYTES_MAX], less what is held back. True: a stop string
 * is complete and the text ends with what is in out. */
bool stops_push(struct stops *stops, const uint8_t *text, uint32_t text_bytes, uint8_t *out,
                uint32_t *ret_bytes);
/* What is held back: out[STOPS_HELD_BYTES_MAX]. */
uint32_t stops_flush(struct stops *stops, uint8_t *out);
