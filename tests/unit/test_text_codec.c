/* tests/unit/test_text_codec.c: a model's directory as the daemon opens it: its files, what ends an
 * answer, chat, text that is too long, streams with stop strings; every wrong file is named. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "daemon/text/codec.h"
#include "tests/lib/check.h"

#define TEXT_BYTES_MAX 4096u
#define IDS_MAX 4096u

static char directory[64];
static const char *const files[] = {"tokenizer.json", "config.json", "generation_config.json",
                                    "tokenizer_config.json", "chat_template.jinja"};

static void file_write(const char *name, const char *text, size_t bytes)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(text, 1, bytes, f) == bytes && fclose(f) == 0, "%s", path);
}

static void text_write(const char *name, const char *text)
{
    file_write(name, text, strlen(text));
}

static void tokenizer_write(const char *name)
{
    static char json[1 << 20];
    char path[128];
    (void)snprintf(path, sizeof path, "tests/golden/tokenizers/%s.json", name);
    FILE *f = fopen(path, "rb");
    CHECK(f, "no golden file");
    size_t bytes = fread(json, 1, sizeof json, f);
    fclose(f);
    file_write("tokenizer.json", json, bytes);
}

static int directory_begin(void **state)
{
    (void)state;
    (void)snprintf(directory, sizeof directory, "/tmp/test_text_codec.XXXXXX");
    CHECK(mkdtemp(directory), "mkdtemp");
    tokenizer_write("qwen2");
    return 0;
}

static int directory_end(void **state)
{
    char path[256];
    (void)state;
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        (void)snprintf(path, sizeof path, "%s/%s", directory, files[i]);
        (void)unlink(path);
    }
    return rmdir(directory);
}

static struct codec *opened(void)
{
    char message[CODEC_MESSAGE_BYTES];
    struct codec *codec = NULL;
    CHECK(codec_open(directory, message, &codec) == 0, "%s", message);
    return codec;
}

static uint32_t encoded(const struct codec *codec, const char *text, bool chat, uint32_t *ids)
{
    struct codec_scratch *scratch;
    uint32_t count;
    CHECK(codec_scratch_new(codec, TEXT_BYTES_MAX, &scratch) == 0, "memory");
    CHECK(codec_encode(codec, scratch, (const uint8_t *)text, strlen(text), chat, ids, IDS_MAX,
                       &count) == CODEC_OK,
          "%s", text);
    codec_scratch_free(scratch);
    return count;
}

static void wrong_files_are_named(void **state)
{
    static const struct {
        const char *file, *text, *says;
    } table[] = {
        {"config.json", "{", "config.json: line"},
        {"config.json", "[]", "config.json: not an object"},
        {"config.json", "{\"vocab_size\":0}", "config.json: vocab_size"},
        {"config.json", "{\"vocab_size\":\"9\"}", "config.json: vocab_size"},
        {"config.json", "{\"vocab_size\":10}", "tokenizer.json: model.vocab"},
        {"config.json", "{\"eos_token_id\":-1}", "config.json: eos_token_id"},
        {"config.json", "{\"vocab_size\":9999,\"eos_token_id\":[1,9999]}",
         "config.json: eos_token_id"},
        {"generation_config.json", "{\"eos_token_id\":\"x\"}",
         "generation_config.json: eos_token_id"},
        {"generation_config.json", "{\"eos_token_id\":[1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8]}",
         "generation_config.json: eos_token_id"},
        {"generation_config.json", "nonsense", "generation_config.json: line"},
        {"tokenizer_config.json", "3", "tokenizer_config.json: "},
    };
    char message[CODEC_MESSAGE_BYTES], path[256];
    struct codec *codec = NULL;
    (void)state;
    for (size_t i = 0; i < COUNT_OF(table); i++) {
        text_write(table[i].file, table[i].text);
        CHECK(codec_open(directory, message, &codec) == -EINVAL, "%s is accepted", table[i].text);
        CHECK(strstr(message, table[i].says), "\"%s\" says not \"%s\"", message, table[i].says);
        (void)snprintf(path, sizeof path, "%s/%s", directory, table[i].file);
        CHECK(unlink(path) == 0, "%s", path);
    }
    /* numbers are taken from one place; who has them elsewhere is refused by the engine */
    text_write("config.json", "{\"text_config\":{\"vocab_size\":10,\"eos_token_id\":-1}}");
    codec_free(opened());
    (void)snprintf(path, sizeof path, "%s/config.json", directory);
    CHECK(unlink(path) == 0, "%s", path);
    assert_int_equal(codec_open("/nonexistent", message, &codec), -EINVAL);
    assert_non_null(strstr(message, "/nonexistent: No such file"));
}

/* The message is the whole path and then what is wrong. */
static void refused(const char *where, const char *file, const char *what)
{
    char message[CODEC_MESSAGE_BYTES], want[CODEC_MESSAGE_BYTES];
    struct codec *codec = NULL;
    (void)snprintf(want, sizeof want, "%s/%s: %s", where, file, what);
    CHECK(codec_open(where, message, &codec) == -EINVAL, "accepted, not \"%s\"", want);
    CHECK(strncmp(message, want, strlen(want)) == 0, "\"%s\", not \"%s\"", message, want);
}

/* Somebody else's file, or what is no file, is refused in the place of each. */
static void files_are_plain_and_our_own(void **state)
{
    char path[256], link[256];
    struct stat info;
    (void)state;
    for (size_t i = 1; i < COUNT_OF(files); i++)
        text_write(files[i], i == 4 ? "qwen3" : "{}");
    codec_free(opened());
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        (void)snprintf(path, sizeof path, "%s/%s", directory, files[i]);
        (void)snprintf(link, sizeof link, "%s/elsewhere", directory);
        CHECK(stat(path, &info) == 0 && chmod(path, 0666) == 0, "%s", path);
        refused(directory, files[i], "others may write it (mode 666)");
        CHECK(chmod(path, info.st_mode & 0777) == 0 && rename(path, link) == 0, "%s", path);
        CHECK(mkfifo(path, 0600) == 0, "%s", path);
        refused(directory, files[i], "not a plain file");
        CHECK(unlink(path) == 0 && mkdir(path, 0700) == 0, "%s", path);
        refused(directory, files[i], "not a plain file");
        CHECK(rmdir(path) == 0 && symlink("elsewhere", path) == 0, "%s", path);
        codec_free(opened());
        CHECK(chmod(directory, 0777) == 0, "%s", directory);
        refused(directory, files[i], "a symbolic link in a directory that others may write");
        CHECK(chmod(directory, 0700) == 0 && rename(link, path) == 0, "%s", directory);
    }
    /* A folder of a long name is named to its end. */
    char deep[256];
    int length = snprintf(deep, sizeof deep, "%s/%0150d", directory, 7);
    CHECK(length > 0 && mkdir(deep, 0700) == 0, "%s", deep);
    refused(deep, "tokenizer.json", "No such file");
    CHECK(rmdir(deep) == 0, "%s", deep);
}

static void ends_come_from_each_file(void **state)
{
    char path[256];
    (void)state;
    struct codec *codec = opened();
    for (uint32_t id = 0; id < 3000; id++)
        assert_false(codec_is_end(codec, id));
    codec_free(codec);
    text_write("tokenizer_config.json", "{\"eos_token\":{\"content\":\"a\"}}");
    codec = opened();
    uint32_t a, count = encoded(codec, "a", false, &a);
    assert_int_equal(count, 1);
    assert_true(codec_is_end(codec, a));
    codec_free(codec);
    text_write("config.json", "{\"vocab_size\":5000,\"eos_token_id\":7}");
    text_write("generation_config.json", "{\"eos_token_id\":[7,8]}");
    codec = opened();
    assert_true(codec_is_end(codec, 7) && codec_is_end(codec, 8) && !codec_is_end(codec, a));
    codec_free(codec);
    (void)snprintf(path, sizeof path, "%s/generation_config.json", directory);
    assert_int_equal(unlink(path), 0);
    assert_false(codec_is_end(NULL, 0));
}

static void chat_needs_a_known_template(void **state)
{
    static const char *const known[] = {
        "{\"chat_template\":\"qwen3\"}",
        "{\"chat_template\":[{\"name\":\"tool\",\"template\":\"x\"},"
        "{\"name\":\"default\",\"template\":\"qwen3\"}]}"};
    static const char *const unknown[] = {"{}", "{\"chat_template\":\"{{ messages }}\"}",
                                          "{\"chat_template\":null}"};
    static uint32_t ids[IDS_MAX];
    struct codec_scratch *scratch;
    uint32_t count;
    (void)state;
    for (size_t i = 0; i < COUNT_OF(unknown); i++) {
        text_write("tokenizer_config.json", unknown[i]);
        struct codec *codec = opened();
        CHECK(codec_scratch_new(codec, 10, &scratch) == 0, "memory");
        assert_int_equal(
            codec_encode(codec, scratch, (const uint8_t *)"x", 1, true, ids, IDS_MAX, &count),
            CODEC_E_CHAT);
        codec_scratch_free(scratch);
        codec_free(codec);
    }
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        text_write("tokenizer_config.json", known[i]);
        struct codec *codec = opened();
        uint32_t plain =
            encoded(codec, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", false, ids);
        uint32_t chat = encoded(codec, "Hi", true, ids);
        assert_true(chat < plain && chat > 0);
        codec_free(codec);
    }
    text_write("tokenizer_config.json", "{}");
    text_write("chat_template.jinja", "qwen3");
    struct codec *codec = opened();
    assert_in_range(encoded(codec, "Hi", true, ids), 1, IDS_MAX);
    codec_free(codec);
    CHECK(codec_scratch_new(NULL, 10, &scratch) == 0, "memory");
    assert_int_equal(codec_encode(NULL, scratch, (const uint8_t *)"x", 1, true, ids, 9, &count),
                     CODEC_E_CHAT);
    codec_scratch_free(scratch);
}

/* A template that nobody knows, and a family's name from the configuration. */
static void chat_is_taken_by_a_family_s_name(void **state)
{
    static const char *const all[] = {
        "llama-2", "llama-3", "llama-3.1", "mistral-v1",  "mistral-v3",        "qwen2", "qwen2.5",
        "qwen3",   "gemma",   "phi-3",     "deepseek-r1", "deepseek-r1-think", "chatml"};
    static uint32_t ids[IDS_MAX], want[IDS_MAX];
    char message[CODEC_MESSAGE_BYTES];
    (void)state;
    text_write("tokenizer_config.json", "{\"chat_template\":\"{{ messages }}\"}");
    struct codec *codec = opened();
    assert_null(codec_chat(codec));
    assert_int_equal(codec_set_chat(codec, "qwen4", message), -EINVAL);
    assert_non_null(strstr(message, "chat template \"qwen4\": accepted "));
    for (size_t i = 0; i < COUNT_OF(all); i++)
        CHECK(strstr(message, all[i]), "\"%s\" does not name %s", message, all[i]);
    assert_int_equal(codec_set_chat(codec, "llama-3.1", message), -EINVAL);
    assert_non_null(
        strstr(message, "llama-3.1: the model's tokenizer has no token <|start_header_id|>"));
    assert_null(codec_chat(codec));
    assert_int_equal(codec_set_chat(codec, "qwen2.5", message), 0);
    assert_string_equal(codec_chat(codec), "qwen2.5");
    uint32_t count = encoded(codec, "Hi", true, ids);
    codec_free(codec);
    text_write("tokenizer_config.json", "{\"chat_template\":\"qwen2.5\"}");
    codec = opened();
    assert_int_equal(encoded(codec, "Hi", true, want), count);
    assert_memory_equal(ids, want, count * sizeof *ids);
    /* What the configuration says wins over what the directory does. */
    assert_int_equal(codec_set_chat(codec, "qwen3", message), 0);
    assert_true(encoded(codec, "Hi", true, want) < count);
    codec_free(codec);
}

/* Normalizers make texts longer; how long a text may be is known beforehand. */
static void texts_have_a_greatest_length(void **state)
{
    static const char *const names[] = {"qwen2", "llama2", "unknown"};
    (void)state;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct codec_scratch *scratch;
        tokenizer_write(names[i]);
        struct codec *codec = opened();
        uint64_t most = codec_text_bytes_max(codec);
        CHECK(most > 1u << 20 && most < 1u << 29, "%s: %llu", names[i], (unsigned long long)most);
        assert_int_equal(codec_scratch_new(codec, most + 1, &scratch), -EFBIG);
        int result = codec_scratch_new(codec, most, &scratch);
        assert_true(result == 0 || result == -ENOMEM); /* gigabytes, not touched */
        if (result == 0)
            codec_scratch_free(scratch);
        codec_free(codec);
    }
}

static void too_many_tokens_are_refused(void **state)
{
    uint32_t ids[9] = {[8] = 77}, count;
    struct codec *codecs[] = {opened(), NULL};
    (void)state;
    for (size_t i = 0; i < COUNT_OF(codecs); i++) {
        struct codec_scratch *scratch;
        CHECK(codec_scratch_new(codecs[i], 64, &scratch) == 0, "memory");
        const uint8_t *text = (const uint8_t *)"12345678";
        assert_int_equal(codec_encode(codecs[i], scratch, text, 8, false, ids, 8, &count),
                         CODEC_OK);
        assert_int_equal(count, 8);
        assert_int_equal(codec_encode(codecs[i], scratch, text, 8, false, ids, 7, &count),
                         CODEC_E_MANY);
        assert_int_equal(codec_encode(codecs[i], scratch, text, 0, false, ids, 0, &count),
                         CODEC_OK);
        assert_int_equal(count, 0);
        assert_int_equal(ids[8], 77);
        codec_scratch_free(scratch);
        codec_free(codecs[i]);
    }
}

/* A stop string that begins in one token and ends in another. */
static void streams_stop_across_tokens(void **state)
{
    static uint32_t ids[IDS_MAX];
    static uint8_t got[IDS_MAX * 8];
    static const uint8_t stops[] = "\x05\xe2\x82\xac. ";
    struct codec *codec = opened();
    uint32_t count = encoded(codec, "It costs 5 \xe2\x82\xac. And more", false, ids);
    (void)state;
    for (uint32_t include = 0; include < 2; include++) {
        struct codec_stream stream;
        uint32_t bytes = 0, more, i;
        bool stopped = false;
        struct stops found;
        stops_init(&found, stops, 6, include);
        codec_stream_init(&stream, &found);
        for (i = 0; i < count && !stopped; i++, bytes += more)
            stopped = codec_push(&stream, codec, ids[i], got + bytes, &more);
        assert_true(stopped && i < count);
        const char *want = include ? "It costs 5 \xe2\x82\xac. " : "It costs 5 ";
        CHECK(bytes == strlen(want) && memcmp(got, want, bytes) == 0, "\"%.*s\"", (int)bytes,
              (const char *)got);
    }
    codec_free(codec);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(wrong_files_are_named, directory_begin, directory_end),
        cmocka_unit_test_setup_teardown(files_are_plain_and_our_own, directory_begin,
                                        directory_end),
        cmocka_unit_test_setup_teardown(ends_come_from_each_file, directory_begin, directory_end),
        cmocka_unit_test_setup_teardown(chat_needs_a_known_template, directory_begin,
                                        directory_end),
        cmocka_unit_test_setup_teardown(chat_is_taken_by_a_family_s_name, directory_begin,
                                        directory_end),
        cmocka_unit_test_setup_teardown(texts_have_a_greatest_length, directory_begin,
                                        directory_end),
        cmocka_unit_test_setup_teardown(too_many_tokens_are_refused, directory_begin,
                                        directory_end),
        cmocka_unit_test_setup_teardown(streams_stop_across_tokens, directory_begin, directory_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
