/* tests/unit/test_text.c: the parts of daemon/text/ that need no tokenizer: reading UTF-8, normal forms in
 * any order of marks, and stop strings against a plain search, in a text that comes in any parts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/text/codec.h"
#include "daemon/text/tokenizer.h"
#include "daemon/text/unicode.h"
#include "daemon/text/utf8.h"
#include "dynasor/types.h"
#include "tests/lib/check.h"

_Static_assert(STOPS_MAX == DYNASOR_STOPS_MAX, "as a submission may hold");
_Static_assert(STOPS_STRING_BYTES_MAX == DYNASOR_STOP_BYTES_MAX, "as a submission may hold");

/* ---- UTF-8 ------------------------------------------------------------------------------------- */

static void invalid_utf8_is_replaced_by_part(void **state)
{
    /* One replacement for each maximal part of a character. */
    static const struct {
        const char *in, *out;
    } table[] = {
        {"a\xff"
         "b",
         "a\xef\xbf\xbd"
         "b"},
        {"\xc3", "\xef\xbf\xbd"},
        {"\xe2\x82", "\xef\xbf\xbd"},
        {"\xe2\x82x", "\xef\xbf\xbdx"},
        {"\xf0\x9f\x98", "\xef\xbf\xbd"},
        {"\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf4\x90\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xe0\x80", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf0\x9f\xc3\xa9", "\xef\xbf\xbd\xc3\xa9"},
        {"\xe2\x82\xac\xf0\x9f\x98\x80", "\xe2\x82\xac\xf0\x9f\x98\x80"},
    };
    uint8_t out[64];
    (void)state;
    for (size_t i = 0; i < COUNT_OF(table); i++) {
        uint64_t bytes = tokenizer_clean((const uint8_t *)table[i].in, strlen(table[i].in), out);
        CHECK(bytes == strlen(table[i].out) && memcmp(out, table[i].out, bytes) == 0, "row %zu", i);
    }
}

static void every_character_reads_as_it_is_written(void **state)
{
    (void)state;
    for (uint32_t code = 0; code <= 0x10ffff; code++) {
        uint8_t text[UTF8_BYTES_MAX];
        uint32_t got;
        if (code >= 0xd800 && code < 0xe000)
            continue;
        uint32_t bytes = utf8_write(code, text);
        CHECK(utf8_read(text, bytes, &got) == bytes && got == code, "U+%04X", code);
        for (uint32_t part = 1; part < bytes; part++)
            CHECK(utf8_read(text, part, &got) == part && got == UTF8_CUT, "U+%04X", code);
    }
}

/* The byte codec holds back what is no character yet, and gives out the same text in the end. */
static void bytes_stream_as_whole_characters(void **state)
{
    struct rng rng = {check_number("SEED", 7)};
    (void)state;
    printf("SEED=%llu\n", (unsigned long long)rng.state);
    for (uint32_t round = 0; round < 20000; round++) {
        uint8_t bytes[24], want[72], got[CODEC_PUSH_BYTES_MAX * 25], part;
        uint32_t count = (uint32_t)rng_below(&rng, sizeof bytes), got_bytes = 0, more;
        for (uint32_t i = 0; i < count; i++)
            bytes[i] = (uint8_t)("aZ\x80\x9f\xbf\xc3\xe2\x82\xac\xed\xf0\x9f\xf4\xff"[rng_below(
                &rng, 14)]);
        uint64_t want_bytes = tokenizer_clean(bytes, count, want);
        struct codec_stream stream;
        codec_stream_init(&stream, NULL);
        for (uint32_t i = 0; i < count; i++) {
            CHECK(!codec_push(&stream, NULL, bytes[i], got + got_bytes, &more), "no stops");
            for (uint32_t at = 0, code; at < more; at += part) {
                part = (uint8_t)utf8_read(got + got_bytes + at, more - at, &code);
                CHECK(code != UTF8_CUT, "a split character");
            }
            got_bytes += more;
        }
        got_bytes += codec_flush(&stream, NULL, got + got_bytes);
        CHECK(got_bytes == want_bytes && memcmp(got, want, want_bytes) == 0, "round %u", round);
    }
}

/* ---- normal forms ------------------------------------------------------------------------------ */

static void marks_in_any_order_are_one_form(void **state)
{
    static const char *const orders[] = {"a\xcc\xa3\xcc\x82", "a\xcc\x82\xcc\xa3"};
    uint32_t work[4096];
    uint8_t out[256], again[768];
    (void)state;
    for (size_t i = 0; i < COUNT_OF(orders); i++) {
        const uint8_t *text = (const uint8_t *)orders[i];
        uint64_t bytes = unicode_normalize(UNICODE_NFC, text, strlen(orders[i]), work, out);
        assert_int_equal(bytes, 3);
        assert_memory_equal(out, "\xe1\xba\xad", 3); /* U+1EAD */
        bytes = unicode_normalize(UNICODE_NFD, out, bytes, work, again);
        assert_int_equal(bytes, 5);
        assert_memory_equal(again, "a\xcc\xa3\xcc\x82", 5);
    }
    /* The longest that a character becomes. */
    assert_int_equal(unicode_normalize(UNICODE_NFKD, (const uint8_t *)"\xef\xb7\xba", 3, work, out),
                     33);
    assert_int_equal(
        unicode_normalize(UNICODE_NFC, (const uint8_t *)"\xf0\x9d\x85\xa0", 4, work, out), 12);
}

static void no_character_outgrows_its_room(void **state)
{
    uint32_t work[256];
    uint8_t text[UTF8_BYTES_MAX], out[64];
    (void)state;
    for (uint32_t code = 1; code <= 0x10ffff; code++) {
        if (code >= 0xd800 && code < 0xe000)
            continue;
        uint32_t bytes = utf8_write(code, text);
        for (uint32_t form = UNICODE_NFC; form <= UNICODE_NFKD; form++) {
            uint64_t got = unicode_normalize((enum unicode_form)form, text, bytes, work, out);
            CHECK(got <= unicode_bytes_max((enum unicode_form)form, bytes), "U+%04X", code);
        }
        uint32_t lower[2], count = unicode_lower(code, lower), lower_bytes = 0;
        for (uint32_t i = 0; i < count; i++)
            lower_bytes += utf8_write(lower[i], out);
        CHECK(lower_bytes <= 2 * bytes, "U+%04X", code);
    }
}

/* ---- stop strings ------------------------------------------------------------------------------ */

/* Where the text ends, by trying every place: the first end of any stop string. */
static uint32_t plain_search(const char *text, uint32_t bytes, char stops[][8], uint32_t count,
                             bool include)
{
    for (uint32_t end = 1; end <= bytes; end++) {
        uint32_t longest = 0;
        for (uint32_t i = 0; i < count; i++) {
            uint32_t length = (uint32_t)strlen(stops[i]);
            if (length <= end && memcmp(text + end - length, stops[i], length) == 0 &&
                length > longest)
                longest = length;
        }
        if (longest > 0)
            return include ? end : end - longest;
    }
    return UINT32_MAX;
}

static void letters_random(struct rng *rng, char *out, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i++)
        out[i] = (char)('a' + rng_below(rng, 2));
    out[bytes] = 0;
}

static void stops_round(struct rng *rng, bool include)
{
    char text[40], stops[STOPS_MAX][8];
    uint8_t list[STOPS_MAX * 9], out[64 + STOPS_HELD_BYTES_MAX];
    uint32_t count = (uint32_t)rng_below(rng, 4), list_bytes = 0, got = 0, more;
    uint32_t bytes = (uint32_t)rng_below(rng, sizeof text);
    letters_random(rng, text, bytes);
    for (uint32_t i = 0; i < count; i++) {
        letters_random(rng, stops[i], 1 + (uint32_t)rng_below(rng, 7));
        list[list_bytes] = (uint8_t)strlen(stops[i]);
        memcpy(list + list_bytes + 1, stops[i], list[list_bytes]);
        list_bytes += 1u + list[list_bytes];
    }
    struct stops s;
    bool stopped = false;
    stops_init(&s, list, list_bytes, include);
    for (uint32_t at = 0, part; at < bytes && !stopped; at += part) {
        part = (uint32_t)rng_below(rng, bytes - at + 1);
        stopped = stops_push(&s, (const uint8_t *)text + at, part, out + got, &more);
        got += more;
    }
    if (!stopped)
        got += stops_flush(&s, out + got);
    uint32_t want = plain_search(text, bytes, stops, count, include);
    CHECK(stopped == (want != UINT32_MAX), "\"%s\"", text);
    CHECK(got == (stopped ? want : bytes) && memcmp(out, text, got) == 0, "\"%s\": %u of %u", text,
          got, want);
}

static void stops_are_found_across_parts(void **state)
{
    struct rng rng = {check_number("SEED", 11)};
    (void)state;
    printf("SEED=%llu\n", (unsigned long long)rng.state);
    for (uint32_t round = 0; round < 200000; round++)
        stops_round(&rng, round & 1);
}

/* The longest stop strings, all but found: everything is held, and nothing more than may be. */
static void what_is_held_is_bounded(void **state)
{
    uint8_t list[STOPS_MAX * (1 + STOPS_STRING_BYTES_MAX)], out[STOPS_HELD_BYTES_MAX + 1];
    struct stops s;
    uint32_t more;
    (void)state;
    for (uint32_t i = 0; i < STOPS_MAX; i++) {
        list[i * (1 + STOPS_STRING_BYTES_MAX)] = STOPS_STRING_BYTES_MAX;
        memset(list + i * (1 + STOPS_STRING_BYTES_MAX) + 1, 'x', STOPS_STRING_BYTES_MAX);
        list[(i + 1) * (1 + STOPS_STRING_BYTES_MAX) - 1] = (uint8_t)i;
    }
    stops_init(&s, list, sizeof list, false);
    for (uint32_t i = 0; i < STOPS_HELD_BYTES_MAX; i++) {
        assert_false(stops_push(&s, (const uint8_t *)"x", 1, out, &more));
        assert_int_equal(more, 0);
    }
    assert_false(stops_push(&s, (const uint8_t *)"x", 1, out, &more));
    assert_int_equal(more, 1);
    assert_int_equal(stops_flush(&s, out), STOPS_HELD_BYTES_MAX);
    stops_init(&s, list, sizeof list, true);
    for (uint32_t i = 0; i < STOPS_HELD_BYTES_MAX; i++)
        assert_false(stops_push(&s, (const uint8_t *)"x", 1, out, &more));
    assert_true(stops_push(&s, (const uint8_t *)"\x07", 1, out, &more));
    assert_int_equal(more, STOPS_STRING_BYTES_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(invalid_utf8_is_replaced_by_part),
        cmocka_unit_test(every_character_reads_as_it_is_written),
        cmocka_unit_test(bytes_stream_as_whole_characters),
        cmocka_unit_test(marks_in_any_order_are_one_form),
        cmocka_unit_test(no_character_outgrows_its_room),
        cmocka_unit_test(stops_are_found_across_parts),
        cmocka_unit_test(what_is_held_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
