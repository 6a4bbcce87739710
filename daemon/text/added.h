/* daemon/text/added.h — finds added tokens in a text: the leftmost, of those the longest.
 *
 * Owns a tree of their bytes. Ranges of the text may be plain: in them control tokens are text.
 * Thread: any after loading; a scan is one thread's. Memory: heap, while loading. Time: linear, with
 * the longest added token as a factor. Fails: added_insert() with -ENOMEM. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct added_token {
    uint32_t id;
    bool single_word; /* no word character beside it */
    bool strip_left;  /* takes the white space before it */
    bool strip_right;
    bool normalized; /* is looked for after normalizing */
    bool special;
    bool control; /* no text of a user may become it */
};

struct added_node {
    uint32_t child;
    uint32_t sibling;
    uint32_t token; /* which token ends here, or ADDED_NONE */
    uint8_t byte;
};

struct added {
    struct added_node *nodes;
    uint32_t nodes_count;
    uint32_t nodes_room;
    uint32_t first[256]; /* nodes of first bytes, or ADDED_NONE */
    const struct added_token *tokens;
};
#define ADDED_NONE UINT32_MAX

void added_init(struct added *added, const struct added_token *tokens);
void added_free(struct added *added);
/* 0, -ENOMEM, or -EEXIST: another token has this text. bytes > 0. */
int added_insert(struct added *added, const uint8_t *text, uint64_t bytes, uint32_t token);

/* Bytes from start to end, of the text or, with base, of what the text is a part of. */
struct added_range {
    uint64_t start;
    uint64_t end;
};
struct added_plain {
    const struct added_range *ranges; /* ascending, apart */
    uint32_t count;
    uint64_t base; /* where the text begins in what the ranges count */
};

struct added_scan {
    const struct added *added;
    const uint8_t *text;
    uint64_t bytes;
    uint64_t at;    /* where to look next */
    uint64_t taken; /* end of the last token found */
    struct added_plain plain;
};
struct added_match {
    uint64_t start; /* with the white space that it takes */
    uint64_t end;
    uint32_t id;
};
bool added_next(struct added_scan *scan, struct added_match *ret_match);
