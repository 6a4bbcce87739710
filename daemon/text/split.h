/* daemon/text/split.h — cuts a text into the words that merge or match by themselves.
 *
 * The regular expressions of tokenizer.json are known ones, each with a scanner here that finds the
 * same matches in linear time and without memory; another expression is refused when loading.
 * Thread: any. Memory: none. Time: linear. Fails: split_pattern() with NULL. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum split_kind {
    SPLIT_NONE, /* the text is one word */
    SPLIT_PATTERN,
    SPLIT_AFTER_SPACE, /* a space ends the word before it */
    SPLIT_METASPACE,   /* U+2581 begins a word */
    SPLIT_BERT,        /* white space goes, punctuation stands alone */
};

struct split_pattern; /* a known regular expression */

/* NULL when it is unknown. */
const struct split_pattern *split_pattern(const char *expression, size_t bytes);
const struct split_pattern *split_pattern_gpt2(void);

struct split {
    enum split_kind kind;
    const struct split_pattern *pattern;
};

/* The first word at or after *at, which moves to its end. False: there is none. */
bool split_next(const struct split *split, const uint8_t *text, uint64_t bytes, uint64_t *at,
                uint64_t *ret_start);
