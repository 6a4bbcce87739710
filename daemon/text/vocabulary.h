/* daemon/text/vocabulary.h — the texts of a model's tokens, by id and by text.
 *
 * Owns its memory. A token has two texts: as the file spells it, by which it is found, and as the
 * decoder makes it, for output.
 * Thread: any after loading. Memory: heap, from vocabulary_init() to vocabulary_free(). Time:
 * constant for each text looked up. Fails: vocabulary_init() with -ENOMEM. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define VOCABULARY_NONE UINT32_MAX
#define VOCABULARY_COUNT_MAX (1u << 21)
#define VOCABULARY_TEXT_BYTES_MAX 1024u
#define VOCABULARY_SLACK_BYTES 8u /* that may be read behind a text's end */

enum vocabulary_flag {
    VOCABULARY_SILENT = 1,  /* a special token: it has no text in output */
    VOCABULARY_CONTROL = 2, /* no text of a user may become it */
    VOCABULARY_ADDED = 4,   /* one of added_tokens */
    VOCABULARY_ASCII = 8,   /* decoded: and nothing else is in it */
};

struct vocabulary_entry {
    const uint8_t *text;    /* NULL: no token has this id */
    const uint8_t *decoded; /* NULL until set */
    uint16_t text_bytes;
    uint16_t decoded_bytes;
    uint8_t flags;
};

struct vocabulary {
    struct vocabulary_entry *entries;
    uint32_t count;  /* the highest id and one */
    uint32_t *table; /* ids by hash of text */
    uint32_t table_mask;
    uint8_t *blob;
    uint64_t blob_used;
    uint64_t blob_bytes;
};

/* blob_bytes: of all texts, both kinds, together. */
int vocabulary_init(struct vocabulary *vocabulary, uint32_t count, uint64_t blob_bytes);
void vocabulary_free(struct vocabulary *vocabulary);

/* False when the id or the text is there already. id < count. */
bool vocabulary_add(struct vocabulary *vocabulary, uint32_t id, const void *text, uint32_t bytes);
void vocabulary_set_decoded(struct vocabulary *vocabulary, uint32_t id, const void *text,
                            uint32_t bytes);

/* VOCABULARY_NONE when there is none. */
uint32_t vocabulary_find(const struct vocabulary *vocabulary, const void *text, uint64_t bytes);
