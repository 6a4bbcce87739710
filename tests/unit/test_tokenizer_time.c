/* tests/unit/test_tokenizer_time.c: tokenizing takes time linear in the text, whatever the text: twice as
 * much of it takes less than 2.3 times as long, as the median over pairs of runs, in processor time. And
 * encoding allocates nothing. */
/* timeout: 300 */
/* serial */
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "daemon/text/tokenizer.h"
#include "tests/lib/check.h"

/* The longer of a pair takes a millisecond or two: other programs hardly get between, and the
 * core's own cache holds it all. A thousandth of a nanosecond for each pair of bytes still shows. */
#define BYTES_MAX (1u << 15)
#define LONG_BYTES                                                                                 \
    (1u << 20) /* once, for what grows slower: may cost LONG_MAX times as much a byte */
#define LONG_MAX 5.0
#define LOAD_COUNT 4000u
#define LOAD_BYTES (8u * LOAD_COUNT * 180)
#define RATIO_MAX 2.3
#define RUNS_MIN 5u
#define RUNS_MAX 12u

/* Texts that are slow for one way or another of doing this wrong. */
static const struct {
    const char *name, *unit;
} families[] = {
    {"one word of a", "a"},
    {"one word of two letters", "ab"},
    {"words that merge", "the"},
    {"spaces", " "},
    {"line ends and spaces", "\n "},
    {"spaces, then a letter", "          x"},
    {"digits", "1"},
    {"symbols", "-"},
    {"quotes", "'"},
    {"marks out of order", "\xcc\x81\xcc\xa3"},
    {"a letter and marks", "A\xcc\x81"},
    {"letters that change case", "Aa"},
    {"ideographs", "\xe4\xb8\xad"},
    {"beginnings of special tokens", "<|im_"},
    {"special tokens", "<|im_end|>"},
    {"what strips beside itself", "<left>  "},
    {"space that is stripped", "<|end|>\n\n\n\n\n"},
    {"bytes that no token has", "\xf0\x9f\x98\x80"},
};

static const char *const names[] = {"gpt2",    "llama3", "qwen2", "tekken",  "llama2",   "phi3",
                                    "mistral", "gemma",  "cased", "unknown", "wordpiece"};

static uint8_t text[LONG_BYTES];
static uint32_t ids[4 * LONG_BYTES];

static struct tokenizer *tokenizer_read(const char *name)
{
    static char json[1 << 20];
    char path[128], message[TOKENIZER_MESSAGE_BYTES];
    struct tokenizer *tokenizer;
    (void)snprintf(path, sizeof path, "tests/golden/tokenizers/%s.json", name);
    FILE *f = fopen(path, "rb");
    CHECK(f, "%s", path);
    size_t bytes = fread(json, 1, sizeof json, f);
    fclose(f);
    CHECK(tokenizer_load(json, bytes, UINT32_MAX, message, &tokenizer) == 0, "%s", message);
    return tokenizer;
}

static uint64_t thread_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static uint64_t encode_ns(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch,
                          uint64_t bytes)
{
    struct tokenizer_text in = {.text = text, .bytes = bytes, .affixes = true};
    uint32_t count;
    uint64_t begin_ns = thread_ns();
    CHECK(tokenizer_encode(tokenizer, scratch, &in, ids, COUNT_OF(ids), &count), "too many");
    return thread_ns() - begin_ns;
}

/* bytes of family, whole units. */
static uint64_t fill(size_t family, uint64_t bytes)
{
    size_t unit = strlen(families[family].unit);
    for (uint64_t at = 0; at + unit <= bytes; at += unit)
        memcpy(text + at, families[family].unit, unit);
    return bytes / unit * unit;
}

/* The median of pairs, each of two runs one after the other: a run that was lucky, or was disturbed,
 * spoils its own pair only. */
static double ratio_of(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch,
                       uint64_t once, uint64_t twice, uint64_t *ret_ns)
{
    double ratios[RUNS_MAX], median = 0;
    *ret_ns = UINT64_MAX;
    for (uint32_t run = 0; run < RUNS_MAX; run++) {
        uint64_t one = encode_ns(tokenizer, scratch, once);
        uint64_t two = encode_ns(tokenizer, scratch, twice);
        double ratio = (double)two / (double)one;
        uint32_t at = run;
        for (; at > 0 && ratios[at - 1] > ratio; at--)
            ratios[at] = ratios[at - 1];
        ratios[at] = ratio;
        median = (ratios[run / 2] + ratios[(run + 1) / 2]) / 2;
        *ret_ns = two < *ret_ns ? two : *ret_ns;
        if (run + 1 >= RUNS_MIN && median < RATIO_MAX)
            break;
    }
    return median;
}

/* What a byte of a long text costs, in what one of a short text does. */
static double long_of(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch,
                      size_t family, double short_ns)
{
    if (check_sanitized())
        return 0;
    uint64_t bytes = fill(family, LONG_BYTES);
    return (double)encode_ns(tokenizer, scratch, bytes) / (double)bytes / short_ns;
}

static void time_is_linear(void **state)
{
    /* A sanitizer's own tables are not linear. */
    uint64_t bytes = check_sanitized() ? BYTES_MAX / 4 : BYTES_MAX;
    uint32_t wrong = 0;
    (void)state;
    for (size_t n = 0; n < COUNT_OF(names); n++) {
        struct tokenizer *tokenizer = tokenizer_read(names[n]);
        struct tokenizer_scratch *scratch;
        CHECK(tokenizer_scratch_new(tokenizer, LONG_BYTES, &scratch) == 0, "memory");
        double worst = 0, slowest = 0;
        for (size_t i = 0; i < COUNT_OF(families); i++) {
            uint64_t once = fill(i, bytes / 2), twice = fill(i, bytes), ns;
            double ratio = ratio_of(tokenizer, scratch, once, twice, &ns);
            double longer = long_of(tokenizer, scratch, i, (double)ns / (double)twice);
            worst = ratio > worst ? ratio : worst;
            slowest = (double)ns / (double)twice > slowest ? (double)ns / (double)twice : slowest;
            if (ratio >= RATIO_MAX) {
                printf("%s, %s: %.2f times as long\n", names[n], families[i].name, ratio);
                wrong++;
            }
            if (longer >= LONG_MAX) {
                printf("%s, %s: a long text costs %.1f times as much a byte\n", names[n],
                       families[i].name, longer);
                wrong++;
            }
        }
        printf("%-10s worst ratio %.2f, at most %.0f ns a byte\n", names[n], worst, slowest);
        tokenizer_scratch_free(scratch);
        tokenizer_free(tokenizer);
    }
    assert_true(wrong == 0 || check_sanitized());
}

/* A file whose `count` tokens are all in the vocabulary and added besides. Processor time to load it. */
static uint64_t load_ns(uint32_t count)
{
    static char json[LOAD_BYTES];
    static const char *const between[] = {
        "],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,"
        "\"trim_offsets\":true},\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\","
        "\"vocab\":{",
        "},\"merges\":[]}}"};
    size_t at = 0;
    at += (size_t)snprintf(json, sizeof json, "{\"version\":\"1.0\",\"added_tokens\":[");
    for (uint32_t i = 0; i < count; i++)
        at += (size_t)snprintf(json + at, sizeof json - at,
                               "%s{\"id\":%u,\"content\":\"t%u\",\"single_word\":false,\"lstrip\":"
                               "false,\"rstrip\":false,\"normalized\":false,\"special\":true}",
                               i ? "," : "", i, i);
    at += (size_t)snprintf(json + at, sizeof json - at, "%s", between[0]);
    for (uint32_t i = 0; i < count; i++)
        at += (size_t)snprintf(json + at, sizeof json - at, "%s\"t%u\":%u", i ? "," : "", i, i);
    at += (size_t)snprintf(json + at, sizeof json - at, "%s", between[1]);
    CHECK(at < sizeof json, "%zu bytes", at);
    char message[TOKENIZER_MESSAGE_BYTES];
    struct tokenizer *tokenizer;
    uint64_t begin_ns = thread_ns();
    CHECK(tokenizer_load(json, at, UINT32_MAX, message, &tokenizer) == 0, "%s", message);
    uint64_t took_ns = thread_ns() - begin_ns;
    tokenizer_free(tokenizer);
    return took_ns;
}

static void loading_is_linear(void **state)
{
    (void)state;
    uint64_t once = UINT64_MAX, eight = UINT64_MAX;
    for (int i = 0; i < 5; i++) {
        uint64_t few = load_ns(LOAD_COUNT), many = load_ns(8 * LOAD_COUNT);
        once = few < once ? few : once;
        eight = many < eight ? many : eight;
    }
    double ratio = (double)eight / (double)once;
    printf("loading %u added tokens %.1f ms, eight times as many %.1f times as long\n", LOAD_COUNT,
           (double)once * 1e-6, ratio);
    assert_true(ratio < 16 || check_sanitized()); /* caches; a square is 64 */
}

static void encoding_allocates_nothing(void **state)
{
    (void)state;
    for (size_t n = 0; n < COUNT_OF(names); n++) {
        struct tokenizer *tokenizer = tokenizer_read(names[n]);
        struct tokenizer_scratch *scratch;
        CHECK(tokenizer_scratch_new(tokenizer, 65536, &scratch) == 0, "memory");
        size_t before = mallinfo2().uordblks + mallinfo2().hblkhd;
        for (size_t i = 0; i < COUNT_OF(families); i++)
            (void)encode_ns(tokenizer, scratch, fill(i, 65536));
        assert_int_equal(mallinfo2().uordblks + mallinfo2().hblkhd, before);
        tokenizer_scratch_free(scratch);
        tokenizer_free(tokenizer);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(time_is_linear),
                                       cmocka_unit_test(loading_is_linear),
                                       cmocka_unit_test(encoding_allocates_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
