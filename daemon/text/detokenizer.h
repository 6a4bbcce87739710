/* daemon/text/detokenizer.h — tokens of one sequence to text that never splits a character.
 *
 * The start of a character whose rest has not come yet is held back, 3 bytes at most; what is no UTF-8
 * becomes U+FFFD. Special tokens have no text. The text of a whole sequence is what the decoder in
 * tokenizer.json would make of it, but for bytes that form no character: see utf8.h.
 *
 * Thread: one for each detokenizer. Memory: none. Time: linear in the token's bytes. Fails: never. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct tokenizer;

/* A tokenizer with a longer token is refused. */
#define DETOKENIZER_TOKEN_BYTES_MAX 256u
/* Each byte may become a replacement character of 3; so may what was held back, once. */
#define DETOKENIZER_PUSH_BYTES_MAX (3 * DETOKENIZER_TOKEN_BYTES_MAX + 3)

struct detokenizer { /* zeroed: at the beginning */
    uint8_t held[3];
    uint8_t held_bytes;
    bool started; /* a token that has text came */
};

/* To out[DETOKENIZER_PUSH_BYTES_MAX]; returns how many bytes. A token that the tokenizer does not
 * have, as models with a padded vocabulary may choose, has no text. */
uint32_t detokenizer_push(struct detokenizer *detokenizer, const struct tokenizer *tokenizer,
                          uint32_t token, uint8_t *out);
/* Of some, one behind the other: out[count * DETOKENIZER_PUSH_BYTES_MAX]. */
uint32_t detokenizer_push_all(struct detokenizer *detokenizer, const struct tokenizer *tokenizer,
                              const uint32_t *tokens, uint32_t count, uint8_t *out);
/* The same for a token that stands for one byte. */
uint32_t detokenizer_push_byte(struct detokenizer *detokenizer, uint8_t byte, uint8_t *out);
/* What is held back, as no more tokens come: out[3]. */
uint32_t detokenizer_flush(struct detokenizer *detokenizer, uint8_t *out);
