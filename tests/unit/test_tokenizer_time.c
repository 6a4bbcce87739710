/* tests/unit/test_tokenizer_time.c: tokenizing takes time linear in the text, whatever the text: twice as
 * much of it takes less than 2.3 times as long, as the smallest processor time of several runs. And
 * encoding allocates nothing. */
/* timeout: 300 */
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

#define BYTES_MAX (1u << 20)
#define RATIO_MAX 2.3
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

static const char *const names[] = {"gpt2", "llama3", "qwen2",   "tekken",   "llama2",
                                    "phi3", "gemma",  "unknown", "wordpiece"};

static uint8_t text[BYTES_MAX];
static uint32_t ids[4 * BYTES_MAX];

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

static uint64_t encode_ns(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch,
                          uint64_t bytes)
{
    struct timespec begin, end;
    struct tokenizer_text in = {.text = text, .bytes = bytes, .affixes = true};
    uint32_t count;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
    CHECK(tokenizer_encode(tokenizer, scratch, &in, ids, COUNT_OF(ids), &count), "too many");
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
    return (uint64_t)(end.tv_sec - begin.tv_sec) * NS_PER_S + (uint64_t)end.tv_nsec -
           (uint64_t)begin.tv_nsec;
}

static uint64_t less(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* bytes of family, whole units. */
static uint64_t fill(size_t family, uint64_t bytes)
{
    size_t unit = strlen(families[family].unit);
    for (uint64_t at = 0; at + unit <= bytes; at += unit)
        memcpy(text + at, families[family].unit, unit);
    return bytes / unit * unit;
}

static double ratio_of(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch,
                       uint64_t once, uint64_t twice, uint64_t *ret_ns)
{
    uint64_t one = UINT64_MAX, two = UINT64_MAX;
    double ratio = 0;
    for (uint32_t run = 0; run < RUNS_MAX; run++) {
        one = less(one, encode_ns(tokenizer, scratch, once));
        two = less(two, encode_ns(tokenizer, scratch, twice));
        ratio = (double)two / (double)one;
        if (run >= 1 && ratio < RATIO_MAX)
            break;
    }
    *ret_ns = two;
    return ratio;
}

static void time_is_linear(void **state)
{
    /* The first family is of words of 512 KB and 1 MB. A sanitizer's own tables are not linear. */
    uint32_t part = check_sanitized() ? 32 : 2, wrong = 0;
    (void)state;
    for (size_t n = 0; n < COUNT_OF(names); n++) {
        struct tokenizer *tokenizer = tokenizer_read(names[n]);
        struct tokenizer_scratch *scratch;
        CHECK(tokenizer_scratch_new(tokenizer, BYTES_MAX, &scratch) == 0, "memory");
        double worst = 0, slowest = 0;
        for (size_t i = 0; i < COUNT_OF(families); i++) {
            uint64_t ns, bytes = BYTES_MAX / (i == 0 && part == 2 ? 1 : part);
            uint64_t once = fill(i, bytes / 2), twice = fill(i, bytes);
            double ratio = ratio_of(tokenizer, scratch, once, twice, &ns);
            worst = ratio > worst ? ratio : worst;
            slowest = (double)ns / (double)twice > slowest ? (double)ns / (double)twice : slowest;
            if (ratio >= RATIO_MAX) {
                printf("%s, %s: %.2f times as long\n", names[n], families[i].name, ratio);
                wrong++;
            }
        }
        printf("%-10s worst ratio %.2f, at most %.0f ns a byte\n", names[n], worst, slowest);
        tokenizer_scratch_free(scratch);
        tokenizer_free(tokenizer);
    }
    assert_true(wrong == 0 || check_sanitized());
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
                                       cmocka_unit_test(encoding_allocates_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
