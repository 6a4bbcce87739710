/* daemon/text/tokenizer.h — a tokenizer as its tokenizer.json describes it: text to token ids.
 *
 * Byte-level BPE, SentencePiece-style BPE and WordPiece with the normalizers, pre-tokenizers, added
 * tokens, post-processors and decoders of their families. Ids are those of the `tokenizers` package,
 * but that its truncation and padding are not done. A component, field or pattern that is not known
 * is refused by name, never passed over.
 *
 * Thread: any; a scratch is one thread's. Memory: heap, at loading and in tokenizer_scratch_new().
 * Time: linear in the text. Fails: loading with a message; encoding when there are too many tokens. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/text/added.h"
#include "daemon/text/detokenizer.h"

struct tokenizer;
struct tokenizer_scratch;

#define TOKENIZER_MESSAGE_BYTES 384u

/* json: the content of tokenizer.json. Tokens that were added with an id of ids_max or more are left
 * out: a model has no row for them. Returns 0, -EINVAL with a message, or -ENOMEM. */
int tokenizer_load(const char *json, size_t bytes, uint32_t ids_max,
                   char message[TOKENIZER_MESSAGE_BYTES], struct tokenizer **ret_tokenizer);
void tokenizer_free(struct tokenizer *tokenizer);

uint32_t tokenizer_ids_count(const struct tokenizer *tokenizer); /* the highest and one */
/* By its text, as the file spells it; false when there is none. */
bool tokenizer_find(const struct tokenizer *tokenizer, const char *text, uint32_t *ret_id);
/* No text in a plain range becomes this token from now on. While loading only. */
void tokenizer_set_control(struct tokenizer *tokenizer, const char *text);

/* Most bytes for which tokenizer_scratch_new() does not fail with -EFBIG: normalizers make texts longer. */
uint64_t tokenizer_text_bytes_max(const struct tokenizer *tokenizer);
/* Room for text_bytes_max bytes of valid UTF-8. 0, -EFBIG or -ENOMEM. */
int tokenizer_scratch_new(const struct tokenizer *tokenizer, uint64_t text_bytes_max,
                          struct tokenizer_scratch **ret_scratch);
void tokenizer_scratch_free(struct tokenizer_scratch *scratch);
/* Merges done so far: what the time of BPE goes with. */
uint64_t tokenizer_scratch_merges(const struct tokenizer_scratch *scratch);

struct tokenizer_text {
    const uint8_t *text; /* valid UTF-8 */
    uint64_t bytes;
    const struct added_range *plain; /* where special tokens are text; ascending, apart */
    uint32_t plain_count;
    bool affixes; /* what the post-processor puts around a text: the beginning token and so on */
};
/* False: there are more than ids_max. */
bool tokenizer_encode(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch,
                      const struct tokenizer_text *text, uint32_t *ids, uint32_t ids_max,
                      uint32_t *ret_count);

/* Any bytes to valid UTF-8 in out[3 * bytes]; see utf8.h. Returns how many. */
uint64_t tokenizer_clean(const uint8_t *text, uint64_t bytes, uint8_t *out);

/* What the first of some tokens add to a text that has begun, as long as it is ASCII: to out[8 + what it is]. Returns how
 * many tokens. */
uint32_t tokenizer_texts_of(const struct tokenizer *tokenizer, const uint32_t *tokens,
                            uint32_t count, uint8_t *out, uint32_t *ret_bytes);
/* What a token adds to a text that has begun, or begins with it; NULL with *ret_bytes 0: nothing. */
const uint8_t *tokenizer_text_of(const struct tokenizer *tokenizer, uint32_t token, bool begins,
                                 uint32_t *ret_bytes);
