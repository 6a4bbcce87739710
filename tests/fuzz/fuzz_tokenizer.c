/* tests/fuzz/fuzz_tokenizer.c: any bytes as a tokenizer.json. What is refused must say why; with what is
 * loaded, a text full of everything is encoded and decoded: every id exists, and within plain text none
 * is a special token's. */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/text/detokenizer.h"
#include "daemon/text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define IDS_MAX 4096u

static void must(int condition)
{
    if (!condition)
        abort();
}

static void encode(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch,
                   const struct tokenizer_text *text)
{
    static uint32_t ids[IDS_MAX];
    static uint8_t out[DETOKENIZER_PUSH_BYTES_MAX];
    struct detokenizer detokenizer = {0};
    uint32_t count;
    (void)tokenizer_encode(tokenizer, scratch, text, ids, IDS_MAX, &count);
    must(count <= IDS_MAX);
    for (uint32_t i = 0; i < count; i++) {
        must(ids[i] < tokenizer_ids_count(tokenizer));
        must(detokenizer_push(&detokenizer, tokenizer, ids[i], out) <= sizeof out);
    }
    must(detokenizer_flush(&detokenizer, out) <= 3);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] =
        "Hello <a><b> [U] it's  a\xcc\x81\xcc\xa3 12345 \xe4\xb8\xad\n\n\xf0\x9f\x98\x80"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabababababab \xe2\x96\x81x";
    char message[TOKENIZER_MESSAGE_BYTES] = "";
    struct tokenizer *tokenizer = NULL;
    struct tokenizer_scratch *scratch;
    int r = tokenizer_load((const char *)data, size, UINT32_MAX, message, &tokenizer);
    if (r != 0) {
        must(r == -ENOMEM || (r == -EINVAL && message[0]));
        return 0;
    }
    if (tokenizer_scratch_new(tokenizer, sizeof text, &scratch) == 0) {
        struct added_range all = {0, sizeof text - 1};
        struct tokenizer_text in = {
            .text = (const uint8_t *)text, .bytes = sizeof text - 1, .affixes = true};
        encode(tokenizer, scratch, &in);
        in.plain = &all;
        in.plain_count = 1;
        encode(tokenizer, scratch, &in);
        tokenizer_scratch_free(scratch);
    }
    tokenizer_free(tokenizer);
    return 0;
}
