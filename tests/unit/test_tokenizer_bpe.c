/* tests/unit/test_tokenizer_bpe.c: merging against the rule itself, the slow way, with random merges in any
 * order and words short and long; and special tokens that begin in plain text or end in it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/text/bpe.h"
#include "daemon/text/tokenizer.h"
#include "tests/lib/check.h"

#define LETTERS 3u
#define TOKENS_MAX 60u
#define WORD_BYTES_MAX 300u

struct merge {
    uint32_t left, right, id;
};

static struct merge merges[TOKENS_MAX];
static uint32_t merges_count;

/* Tokens are words of a few letters; a merge may be of any two whose whole is a token or becomes one. */
static void bpe_random(struct rng *rng, struct vocabulary *v, struct bpe *b)
{
    char texts[TOKENS_MAX][16], both[32];
    struct merge made[TOKENS_MAX];
    uint32_t count = 0, made_count = 0;
    assert_int_equal(vocabulary_init(v, TOKENS_MAX, TOKENS_MAX * 16), 0);
    for (; count < LETTERS; count++) {
        texts[count][0] = (char)('a' + count);
        texts[count][1] = 0;
        assert_true(vocabulary_add(v, count, texts[count], 1));
    }
    for (uint32_t tries = 0; tries < 200 && count < TOKENS_MAX && made_count < TOKENS_MAX;
         tries++) {
        uint32_t left = (uint32_t)rng_below(rng, count), right = (uint32_t)rng_below(rng, count);
        (void)snprintf(both, sizeof both, "%s%s", texts[left], texts[right]);
        if (strlen(both) >= sizeof texts[0])
            continue;
        uint32_t id = vocabulary_find(v, both, strlen(both));
        if (id == VOCABULARY_NONE) {
            id = count++;
            (void)snprintf(texts[id], sizeof texts[id], "%.15s", both);
            assert_true(vocabulary_add(v, id, both, (uint32_t)strlen(both)));
        }
        made[made_count++] = (struct merge){left, right, id};
    }
    *b = (struct bpe){.vocabulary = v, .unknown = VOCABULARY_NONE};
    assert_int_equal(bpe_init(b, TOKENS_MAX), 0);
    merges_count = 0;
    while (made_count > 0) { /* ranks in any order */
        uint32_t i = (uint32_t)rng_below(rng, made_count);
        if (bpe_add(b, made[i].left, made[i].right, made[i].id))
            merges[merges_count++] = made[i];
        made[i] = made[--made_count];
    }
}

/* The rule: of all pairs that merge, the one of lowest rank, leftmost, until none does. */
static uint32_t merge_slowly(uint32_t *ids, uint32_t count)
{
    for (;;) {
        uint32_t best = UINT32_MAX, place = 0;
        for (uint32_t i = 0; i + 1 < count; i++)
            for (uint32_t m = 0; m < merges_count && m < best; m++)
                if (merges[m].left == ids[i] && merges[m].right == ids[i + 1]) {
                    best = m;
                    place = i;
                }
        if (best == UINT32_MAX)
            return count;
        ids[place] = merges[best].id;
        memmove(ids + place + 1, ids + place + 2, (--count - place - 1) * sizeof *ids);
    }
}

static void words_merge_by_the_rule(void **state)
{
    struct rng rng = {check_number("SEED", 3)};
    (void)state;
    printf("SEED=%llu\n", (unsigned long long)rng.state);
    for (uint32_t round = 0; round < 1500; round++) {
        struct vocabulary vocabulary = {0};
        struct bpe bpe;
        struct bpe_scratch scratch;
        bpe_random(&rng, &vocabulary, &bpe);
        assert_int_equal(bpe_scratch_init(&scratch, &bpe, WORD_BYTES_MAX), 0);
        for (uint32_t n = 0; n < 10; n++) {
            uint8_t word[WORD_BYTES_MAX];
            uint32_t want[WORD_BYTES_MAX], got[WORD_BYTES_MAX];
            uint32_t bytes = 1 + (uint32_t)rng_below(&rng, n < 5 ? 40 : WORD_BYTES_MAX);
            uint32_t letters = 1 + (uint32_t)rng_below(&rng, LETTERS);
            for (uint32_t i = 0; i < bytes; i++) {
                want[i] = (uint32_t)rng_below(&rng, letters);
                word[i] = (uint8_t)('a' + want[i]);
            }
            struct ids to = {.ids = got, .count_max = WORD_BYTES_MAX};
            bpe_encode(&bpe, &scratch, word, bytes, &to);
            uint32_t count = merge_slowly(want, bytes);
            CHECK(to.count == count && memcmp(got, want, count * sizeof *got) == 0,
                  "round %u: \"%.*s\"", round, (int)bytes, (const char *)word);
        }
        bpe_scratch_free(&scratch);
        bpe_free(&bpe);
        vocabulary_free(&vocabulary);
    }
}

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

static uint32_t times_found(const struct tokenizer *t, struct tokenizer_scratch *scratch,
                            const char *text, uint64_t start, uint64_t end, const char *token)
{
    uint32_t ids[256], count, id, found = 0;
    struct added_range plain = {start, end};
    struct tokenizer_text in = {.text = (const uint8_t *)text,
                                .bytes = strlen(text),
                                .plain = &plain,
                                .plain_count = end > start};
    CHECK(tokenizer_encode(t, scratch, &in, ids, COUNT_OF(ids), &count), "too many");
    CHECK(tokenizer_find(t, token, &id), "%s", token);
    for (uint32_t i = 0; i < count; i++)
        found += ids[i] == id;
    return found;
}

/* A special token of which a single byte is a user's is none. */
static void special_tokens_are_the_templates_whole(void **state)
{
    static const struct {
        const char *tokenizer, *token;
    } table[] = {{"qwen2", "<|im_end|>"}, {"llama3", "<|eot_id|>"}, {"gpt2", "<|endoftext|>"},
                 {"llama2", "</s>"},      {"phi3", "<|end|>"},      {"wordpiece", "[SEP]"}};
    (void)state;
    for (size_t n = 0; n < COUNT_OF(table); n++) {
        struct tokenizer *t = tokenizer_read(table[n].tokenizer);
        const char *token = table[n].token;
        struct tokenizer_scratch *scratch;
        char text[64];
        uint64_t length = strlen(token);
        CHECK(tokenizer_scratch_new(t, sizeof text, &scratch) == 0, "memory");
        (void)snprintf(text, sizeof text, "a%sb%s", token, token);
        assert_int_equal(times_found(t, scratch, text, 0, 0, token), 2);
        assert_int_equal(times_found(t, scratch, text, 0, strlen(text), token), 0);
        for (uint64_t start = 1; start <= length; start++)
            for (uint64_t end = start + 1; end <= 1 + length; end++)
                assert_int_equal(times_found(t, scratch, text, start, end, token), 1);
        tokenizer_scratch_free(scratch);
        tokenizer_free(t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(words_merge_by_the_rule),
                                       cmocka_unit_test(special_tokens_are_the_templates_whole)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
