/* tests/lib/lexical.h — an encoder that knows words and no meaning, written as a Hugging Face directory (BERT, WordPiece).
 *
 * Made, not trained: a word's vector is random, words with the same first letters share one, and the
 * frequent words of English, punctuation and what frames a text are silenced by the last norm. So a
 * text's vector, the mean over its tokens, is that of its bag of words: what there is without a trained
 * encoder, and better than groups of letters. */
#pragma once
#include <stdint.h>

/* Knows the words of these texts, in lower case. A new folder, removed by lexical_remove(). */
char *lexical_write(const char *const *texts, uint32_t count);
void lexical_remove(char *folder);
