/* daemon/text/wordpiece.h — WordPiece: a word to the longest tokens that begin what is left of it.
 *
 * Thread: any. Memory: none. Time: at most characters_max times the longest token for each word.
 * Fails: never; a word that does not come out is the unknown token. */
#pragma once
#include <stdint.h>

#include "daemon/text/ids.h"
#include "daemon/text/vocabulary.h"

#define WORDPIECE_PREFIX_BYTES_MAX 16u
#define WORDPIECE_CHARACTERS_MAX 1000u

struct wordpiece {
    const struct vocabulary *vocabulary;
    uint8_t prefix[WORDPIECE_PREFIX_BYTES_MAX]; /* of a token within a word */
    uint32_t prefix_bytes;
    uint32_t characters_max; /* a longer word is unknown */
    uint32_t token_bytes_max;
    uint32_t unknown;
};

void wordpiece_encode(const struct wordpiece *wordpiece, const uint8_t *word, uint64_t bytes,
                      struct ids *to);
