/* daemon/text/utf8.h — reads and writes UTF-8, one code point at a time.
 *
 * What is no UTF-8 reads as U+FFFD, one for each maximal part of a character (as Python's
 * errors='replace' and the WHATWG decoder do).
 * Thread: any. Memory: none. Time: constant. Fails: never. */
#pragma once
#include <stdint.h>

#define UTF8_REPLACEMENT 0xfffdu
#define UTF8_CUT UINT32_MAX /* the bytes end within a character that is valid so far */
#define UTF8_BYTES_MAX 4u

/* bytes > 0. Returns the length of what was read: 1 to 4; *ret_code is the code point,
 * UTF8_REPLACEMENT or UTF8_CUT. */
static inline uint32_t utf8_read(const uint8_t *text, uint64_t bytes, uint32_t *ret_code)
{
    uint32_t c = text[0];
    if (c < 0x80) {
        *ret_code = c;
        return 1;
    }
    *ret_code = UTF8_REPLACEMENT;
    if (c < 0xc2 || c > 0xf4)
        return 1;
    uint32_t length = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    uint32_t low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    uint32_t high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    uint32_t code = c & (0x7fu >> length);
    for (uint32_t i = 1; i < length; i++) {
        if (i == bytes) {
            *ret_code = UTF8_CUT;
            return i;
        }
        if (text[i] < low || text[i] > high)
            return i;
        code = code << 6 | (text[i] & 0x3fu);
        low = 0x80;
        high = 0xbf;
    }
    *ret_code = code;
    return length;
}

/* The same where the text ends: a character cut short is a replacement too. */
static inline uint32_t utf8_read_last(const uint8_t *text, uint64_t bytes, uint32_t *ret_code)
{
    uint32_t length = utf8_read(text, bytes, ret_code);
    if (*ret_code == UTF8_CUT)
        *ret_code = UTF8_REPLACEMENT;
    return length;
}

/* out[UTF8_BYTES_MAX]; code is a scalar value. Returns the length. */
static inline uint32_t utf8_write(uint32_t code, uint8_t *out)
{
    if (code < 0x80) {
        out[0] = (uint8_t)code;
        return 1;
    }
    uint32_t length = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (uint32_t i = length - 1; i > 0; i--) {
        out[i] = (uint8_t)(0x80 | (code & 0x3f));
        code >>= 6;
    }
    out[0] = (uint8_t)((0xf00u >> length) | code);
    return length;
}
