/* tests/unit/test_text_push.c: the text of many tokens at once is that of one after the other, for every golden
 * tokenizer and for bytes, over tokens at random, those among them that are half a character, no UTF-8, silent,
 * unknown or an end; a character that is said to be in a token is in a text exactly when such a token is. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "daemon/base/rng.h"
#include "daemon/text/codec.h"
#include "tests/lib/check.h"

#define TOKENS_MAX 200u
#define IDS 40000u /* more than any has */
#define GUARD 0xa5u

static const char *const names[] = {"cased", "gemma", "gpt2",   "llama2",  "llama3",   "mistral",
                                    "phi3",  "qwen2", "tekken", "unknown", "wordpiece"};
static uint32_t odd[IDS], ends[3], odd_count; /* tokens with more than ASCII, or without text */

static void copy_file(const char *from, const char *to)
{
    static char bytes[1 << 20];
    FILE *f = fopen(from, "rbe");
    CHECK(f, "%s", from);
    size_t count = fread(bytes, 1, sizeof bytes, f);
    CHECK(count < sizeof bytes && fclose(f) == 0, "%s", from);
    CHECK((f = fopen(to, "wbe")) && fwrite(bytes, 1, count, f) == count && fclose(f) == 0, "%s",
          to);
}

static struct codec *opened(const char *name)
{
    char folder[] = "/tmp/test_text_push.XXXXXX", from[128], to[2][128];
    char message[CODEC_MESSAGE_BYTES];
    struct codec *codec;
    CHECK(mkdtemp(folder), "%m");
    (void)snprintf(from, sizeof from, "tests/golden/tokenizers/%s.json", name);
    (void)snprintf(to[0], sizeof to[0], "%s/tokenizer.json", folder);
    (void)snprintf(to[1], sizeof to[1], "%s/generation_config.json", folder);
    copy_file(from, to[0]);
    FILE *f = fopen(to[1], "we");
    CHECK(f && fprintf(f, "{\"eos_token_id\":[%u,%u,%u]}", ends[0], ends[1], ends[2]) > 0 &&
              fclose(f) == 0,
          "%s", to[1]);
    CHECK(codec_open(folder, message, &codec) == 0, "%s", message);
    CHECK(unlink(to[0]) == 0 && unlink(to[1]) == 0 && rmdir(folder) == 0, "%m");
    return codec;
}

/* Of a token behind another, alone. */
static uint32_t text_alone(const struct codec *codec, uint32_t before, uint32_t token, uint8_t *out)
{
    struct codec_stream stream;
    uint32_t bytes;
    codec_stream_init(&stream, NULL);
    (void)codec_push(&stream, codec, before, out, &bytes);
    (void)codec_push(&stream, codec, token, out, &bytes);
    return bytes + codec_flush(&stream, codec, out + bytes);
}

static void odd_find(const struct codec *codec)
{
    uint8_t text[2 * CODEC_PUSH_BYTES_MAX];
    odd_count = 0;
    for (uint32_t id = 0; id < IDS; id++) {
        uint32_t bytes = text_alone(codec, 'a', id, text);
        bool is_odd = bytes == 0 && odd_count < 200;
        for (uint32_t i = 0; i < bytes; i++)
            is_odd |= text[i] >= 0x80;
        if (is_odd)
            odd[odd_count++] = id;
    }
}

static uint32_t token_any(struct rng *rng, uint32_t odd_of_100)
{
    if (odd_count && rng_below(rng, 100) < odd_of_100)
        return odd[rng_below(rng, odd_count)];
    if (rng_below(rng, 40) == 0)
        return ends[rng_below(rng, 3)];
    return (uint32_t)rng_below(rng, rng_below(rng, 50) ? 600 : IDS);
}

/* All at once, in two parts cut anywhere, from a stream that has begun or not. */
static void compare(const struct codec *codec, const char *name, struct rng *rng)
{
    static uint8_t want[TOKENS_MAX * CODEC_PUSH_BYTES_MAX], got[sizeof want + 64];
    uint32_t tokens[TOKENS_MAX], count = (uint32_t)rng_below(rng, TOKENS_MAX + 1);
    uint32_t odd_of_100 = (uint32_t)rng_below(rng, 4) * 30, bytes = 0, more;
    uint32_t cut = (uint32_t)rng_below(rng, count + 1);
    struct codec_stream one, all;
    codec_stream_init(&one, NULL);
    codec_stream_init(&all, NULL);
    for (uint32_t i = 0; i < count; i++) {
        tokens[i] = token_any(rng, odd_of_100);
        if (codec_is_end(codec, tokens[i]))
            continue;
        assert_false(codec_push(&one, codec, tokens[i], want + bytes, &more));
        bytes += more;
    }
    memset(got, GUARD, sizeof got);
    more = codec_push_all(&all, codec, tokens, cut, got);
    more += codec_push_all(&all, codec, tokens + cut, count - cut, got + more);
    CHECK(more == bytes && memcmp(got, want, bytes) == 0, "%s: %u bytes, not %u: \"%.*s\"", name,
          more, bytes, (int)more, (const char *)got);
    for (uint32_t i = count * CODEC_PUSH_BYTES_MAX; i < sizeof got; i++)
        assert_int_equal(got[i], GUARD);
    assert_memory_equal(&one, &all, sizeof one); /* what is held back, too */
    assert_int_equal(codec_flush(&all, codec, got), codec_flush(&one, codec, want));
}

static void ends_choose(struct rng *rng)
{
    for (uint32_t i = 0; i < 3; i++)
        ends[i] = (uint32_t)rng_below(rng, 200);
}

static void text_of_many_tokens_is_that_of_one_after_the_other(void **state)
{
    (void)state;
    struct rng rng = {.state = check_number("SEED", now_ns())};
    (void)printf("SEED=%" PRIu64 "\n", rng.state);
    for (uint32_t n = 0; n <= COUNT_OF(names); n++) {
        const char *name = n < COUNT_OF(names) ? names[n] : NULL;
        ends_choose(&rng);
        struct codec *codec = name ? opened(name) : NULL;
        odd_find(codec);
        CHECK(odd_count > 20, "%s: %u odd tokens", name, odd_count);
        for (uint32_t trial = 0; trial < 600; trial++)
            compare(codec, name ? name : "bytes", &rng);
        codec_free(codec);
    }
}

/* Behind each of some tokens, whole ones, parts of characters, and nothing at all. */
static void text_has_a_character_where_a_token_has_it(void **state)
{
    (void)state;
    static const char characters[] = "\n\t!.,a1}\\";
    struct rng rng = {.state = 7};
    uint8_t text[2 * CODEC_PUSH_BYTES_MAX];
    for (uint32_t n = 0; n <= COUNT_OF(names); n++) {
        const char *name = n < COUNT_OF(names) ? names[n] : NULL;
        struct codec *codec = name ? opened(name) : NULL;
        uint32_t found[sizeof characters - 1] = {0};
        odd_find(codec);
        for (uint32_t id = 0; id < IDS; id++) {
            /* What stands before it has none of them. */
            uint32_t before = odd_count ? odd[rng_below(&rng, odd_count)] : 200;
            for (uint32_t c = 0; c < sizeof characters - 1; c++) {
                struct codec_stream stream;
                uint32_t bytes;
                codec_stream_init(&stream, NULL);
                if (id % 3)
                    (void)codec_push(&stream, codec, before, text, &bytes);
                (void)codec_push(&stream, codec, id, text, &bytes);
                bool has = memchr(text, characters[c], bytes) != NULL;
                CHECK(codec_has(codec, id, characters[c]) == has, "%s: token %u has%s \\x%02x",
                      name ? name : "bytes", id, has ? "" : " no", characters[c]);
                found[c] += has;
            }
        }
        CHECK(found[5] > 0 && found[3] > 0, "%s", name); /* an a, a full stop */
        codec_free(codec);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_of_many_tokens_is_that_of_one_after_the_other),
        cmocka_unit_test(text_has_a_character_where_a_token_has_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
