#include "daemon/text/byte_level.h"

#include <stdbool.h>

#include "daemon/text/utf8.h"

static bool printable(uint32_t byte)
{
    return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
}

/* The bytes that are not printable, in order, have U+0100, U+0101 and so on: 0 to 32, 127 to 160 and
 * 173. */
static uint32_t character_of(uint32_t byte)
{
    if (printable(byte))
        return byte;
    return 0x100 + (byte <= 32 ? byte : byte <= 160 ? byte - 127 + 33 : 67);
}

uint32_t byte_level_spell(const uint8_t *bytes, uint32_t count, uint8_t *out)
{
    uint32_t written = 0;
    for (uint32_t i = 0; i < count; i++)
        written += utf8_write(character_of(bytes[i]), out + written);
    return written;
}

uint32_t byte_level_read(const uint8_t *text, uint32_t text_bytes, uint8_t *out)
{
    uint32_t count = 0;
    for (uint32_t at = 0; at < text_bytes;) {
        uint32_t code;
        at += utf8_read_last(text + at, text_bytes - at, &code);
        if (code >= 0x100 && code <= 0x143)
            code = code <= 0x120 ? code - 0x100 : code < 0x143 ? code - 0x121 + 127 : 173;
        else if (!printable(code) || code > 0xff)
            return BYTE_LEVEL_NONE;
        out[count++] = (uint8_t)code;
    }
    return count;
}
