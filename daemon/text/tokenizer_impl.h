/* daemon/text/tokenizer_impl.h — what a tokenizer is made of, for the files that load and run it.
 *
 * Thread, memory, fails: see tokenizer.h. */
#pragma once
#include "daemon/text/bpe.h"
#include "daemon/text/normalize.h"
#include "daemon/text/split.h"
#include "daemon/text/tokenizer.h"
#include "daemon/text/vocabulary.h"
#include "daemon/text/wordpiece.h"

#define TOKENIZER_AFFIXES_MAX 8u

enum tokenizer_model { TOKENIZER_BPE, TOKENIZER_WORDPIECE };

/* What goes before the text of each piece. */
enum tokenizer_prefix { TOKENIZER_PREFIX_NEVER, TOKENIZER_PREFIX_FIRST, TOKENIZER_PREFIX_ALWAYS };

/* How a text begins, and the parts it is made of. */
enum tokenizer_decoder {
    TOKENIZER_DECODE_BYTES,     /* byte level */
    TOKENIZER_DECODE_FALLBACK,  /* U+2581 is a space, <0xNN> a byte */
    TOKENIZER_DECODE_STRIP,     /* the same; one space at the beginning goes */
    TOKENIZER_DECODE_METASPACE, /* U+2581 is a space; those of the first token go */
    TOKENIZER_DECODE_KEEP,      /* U+2581 is a space */
    TOKENIZER_DECODE_WORDPIECE, /* a space before each word but the first */
};

struct tokenizer {
    struct vocabulary vocabulary;
    struct added_token *added_tokens;
    uint32_t added_count;
    struct added added_raw;        /* those that are looked for before normalizing */
    struct added added_normalized; /* and after */
    struct normalizer normalizer;
    struct split split;
    bool metaspace; /* spaces become U+2581 after normalizing, and so is the prefix; else a space */
    bool byte_level;
    enum tokenizer_prefix prefix;
    enum tokenizer_model model;
    struct bpe bpe;
    struct wordpiece wordpiece;
    uint32_t before[TOKENIZER_AFFIXES_MAX];
    uint32_t after[TOKENIZER_AFFIXES_MAX];
    uint32_t before_count;
    uint32_t after_count;
    enum tokenizer_decoder decoder;
    bool cleanup;                                      /* of WordPiece's decoder */
    char continuation[WORDPIECE_PREFIX_BYTES_MAX + 1]; /* likewise */
};
