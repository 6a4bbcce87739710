#include "daemon/text/unicode.h"

#include <string.h>
#include <utf8proc.h>

#include "daemon/base/assert.h"
#include "daemon/text/utf8.h"

static bool white_space(uint32_t c)
{
    if (c < 0x80)
        return c == ' ' || (c >= 9 && c <= 13);
    return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/* Letters in circles and squares, symbols that are Alphabetic; and the joiners. */
static bool word_besides(uint32_t c)
{
    return c == 0x200c || c == 0x200d || (c >= 0x24b6 && c <= 0x24e9) ||
           (c >= 0x1f130 && c <= 0x1f149) || (c >= 0x1f150 && c <= 0x1f169) ||
           (c >= 0x1f170 && c <= 0x1f189);
}

uint32_t unicode_classes(uint32_t code)
{
    static const uint32_t of_category[] = {
        [UTF8PROC_CATEGORY_LU] = UNICODE_UPPER | UNICODE_WORD,
        [UTF8PROC_CATEGORY_LL] = UNICODE_LOWER | UNICODE_WORD,
        [UTF8PROC_CATEGORY_LT] = UNICODE_UPPER | UNICODE_WORD,
        [UTF8PROC_CATEGORY_LM] = UNICODE_CASELESS | UNICODE_WORD,
        [UTF8PROC_CATEGORY_LO] = UNICODE_CASELESS | UNICODE_WORD,
        [UTF8PROC_CATEGORY_MN] = UNICODE_MARK | UNICODE_NONSPACING | UNICODE_WORD,
        [UTF8PROC_CATEGORY_MC] = UNICODE_MARK | UNICODE_WORD,
        [UTF8PROC_CATEGORY_ME] = UNICODE_MARK | UNICODE_WORD,
        [UTF8PROC_CATEGORY_ND] = UNICODE_NUMBER | UNICODE_WORD,
        [UTF8PROC_CATEGORY_NL] = UNICODE_NUMBER | UNICODE_WORD,
        [UTF8PROC_CATEGORY_NO] = UNICODE_NUMBER,
        [UTF8PROC_CATEGORY_PC] = UNICODE_PUNCTUATION | UNICODE_WORD,
        [UTF8PROC_CATEGORY_PD] = UNICODE_PUNCTUATION,
        [UTF8PROC_CATEGORY_PS] = UNICODE_PUNCTUATION,
        [UTF8PROC_CATEGORY_PE] = UNICODE_PUNCTUATION,
        [UTF8PROC_CATEGORY_PI] = UNICODE_PUNCTUATION,
        [UTF8PROC_CATEGORY_PF] = UNICODE_PUNCTUATION,
        [UTF8PROC_CATEGORY_PO] = UNICODE_PUNCTUATION,
        [UTF8PROC_CATEGORY_CC] = UNICODE_OTHER,
        [UTF8PROC_CATEGORY_CF] = UNICODE_OTHER,
        [UTF8PROC_CATEGORY_CS] = UNICODE_OTHER,
        [UTF8PROC_CATEGORY_CO] = UNICODE_OTHER,
    };
    uint32_t classes = of_category[utf8proc_category((utf8proc_int32_t)code)];
    if (white_space(code))
        classes |= UNICODE_SPACE;
    if (word_besides(code))
        classes |= UNICODE_WORD;
    return classes;
}

uint32_t unicode_lower(uint32_t code, uint32_t *to)
{
    if (code == 0x130) { /* the only one whose lower case is two characters */
        to[0] = 'i';
        to[1] = 0x307;
        return 2;
    }
    to[0] = (uint32_t)utf8proc_tolower((utf8proc_int32_t)code);
    return 1;
}

/* ---- normal forms ------------------------------------------------------------------------------ */

static bool compatible(enum unicode_form form)
{
    return form == UNICODE_NFKC || form == UNICODE_NFKD;
}

/* Code points that a byte decomposes to: canonically 3 for 2 bytes (U+0390), else 18 for 3 (U+FDFA). */
static uint64_t points_max(enum unicode_form form, uint64_t text_bytes)
{
    return (compatible(form) ? 6 : 2) * text_bytes + 18;
}

uint64_t unicode_work_count(enum unicode_form form, uint64_t text_bytes)
{
    return 2 * points_max(form, text_bytes);
}

/* Bytes out for a byte in: canonically 3 (U+1D160 has 4, becomes 12), else 11 (U+FDFA: 3 and 33). */
uint64_t unicode_bytes_max(enum unicode_form form, uint64_t text_bytes)
{
    return (compatible(form) ? 11 : 3) * text_bytes;
}

static uint32_t combining_class(uint32_t code)
{
    return code < 0x300 ? 0
                        : (uint32_t)utf8proc_get_property((utf8proc_int32_t)code)->combining_class;
}

/* A stable sort of a run of marks by combining class, linear however long the run is. */
static void marks_sort(uint32_t *marks, uint64_t count, uint32_t *spare)
{
    uint64_t start[257] = {0};
    for (uint64_t i = 0; i < count; i++)
        start[combining_class(marks[i]) + 1]++;
    for (uint32_t c = 1; c < 257; c++)
        start[c] += start[c - 1];
    for (uint64_t i = 0; i < count; i++)
        spare[start[combining_class(marks[i])]++] = marks[i];
    memcpy(marks, spare, count * sizeof *marks);
}

static void marks_order(uint32_t *points, uint64_t count, uint32_t *spare)
{
    for (uint64_t at = 0; at < count;) {
        uint32_t last = combining_class(points[at]);
        uint64_t end = at + 1;
        bool ordered = true;
        if (last > 0)
            for (uint32_t next; end < count && (next = combining_class(points[end])) > 0; end++) {
                ordered &= next >= last;
                last = next;
            }
        if (!ordered)
            marks_sort(points + at, end - at, spare);
        at = end;
    }
}

/* Below U+0300 every character is its own NFC and follows no other; its first byte is below 0xcc. */
static bool surely_composed(const uint8_t *text, uint64_t text_bytes)
{
    for (uint64_t i = 0; i < text_bytes; i++)
        if (text[i] >= 0xcc)
            return false;
    return true;
}

uint64_t unicode_normalize(enum unicode_form form, const uint8_t *text, uint64_t text_bytes,
                           uint32_t *work, uint8_t *out)
{
    if (form == UNICODE_NFC && surely_composed(text, text_bytes)) {
        memcpy(out, text, text_bytes);
        return text_bytes;
    }
    int how = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatible(form) ? UTF8PROC_COMPAT : 0);
    uint64_t room = points_max(form, text_bytes), count = 0;
    for (uint64_t at = 0; at < text_bytes;) {
        uint32_t code;
        at += utf8_read_last(text + at, text_bytes - at, &code);
        utf8proc_ssize_t added =
            utf8proc_decompose_char((utf8proc_int32_t)code, (utf8proc_int32_t *)work + count,
                                    (utf8proc_ssize_t)(room - count), (utf8proc_option_t)how, NULL);
        ASSERT(added >= 0 && (uint64_t)added <= room - count);
        count += (uint64_t)added;
    }
    marks_order(work, count, work + room);
    if (form == UNICODE_NFC || form == UNICODE_NFKC)
        count = (uint64_t)utf8proc_normalize_utf32(
            (utf8proc_int32_t *)work, (utf8proc_ssize_t)count,
            (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    uint64_t bytes = 0;
    for (uint64_t i = 0; i < count; i++)
        bytes += utf8_write(work[i], out + bytes);
    return bytes;
}
