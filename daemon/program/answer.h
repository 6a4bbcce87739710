/* daemon/program/answer.h — final answers in what a model wrote: finding them, and whether two say the same.
 *
 * answer_extract() finds the answer in a text and copies nothing. answer_prepare() brings one into a
 * canonical form, once; answer_equal() compares two prepared ones. An answer of more than
 * ANSWER_BYTES_MAX bytes is equal only to the same bytes. An empty one is equal to nothing, not even
 * to another empty one: it counts towards no agreement.
 *
 * The tests are, in this order: the same text; a choice letter; numbers; brackets apart, the same
 * text; unions, lists, intervals and matrices by element; equations; values (expression.h). Where the
 * published rules call unlike things the same, these do not: 50 and 0.5 are the same only when one of
 * them has a percent sign; numbers must agree to the last digit that both give, not only to 1e-4; an
 * open interval is not a closed one; two different units differ (one unit and none do not).
 * answer_equal() is symmetric and reflexive, but not transitive: 5 m, 5, 5 cm.
 *
 * Thread: any; nothing is shared. Memory: the caller's, at most 64 KiB of stack. Time: linear in the
 * text for extraction; bounded by ANSWER_BYTES_MAX for the rest, whatever the bytes are.
 * Fails: never; what cannot be read as mathematics is compared as text. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "daemon/program/expression.h"

#define ANSWER_BYTES_MAX 256u
#define ANSWER_PREFIX_BYTES_MAX 64u

/* ---- finding ---- */

enum answer_kind {
    ANSWER_MATH,   /* the last box; else what follows the last "answer is"; else the last number */
    ANSWER_BOXED,  /* the last box that is closed and not empty */
    ANSWER_CHOICE, /* a letter from A to the rule's */
    ANSWER_NUMBER, /* the last number */
    ANSWER_CODE,   /* the last fenced block; one that is cut off reaches to the end */
    ANSWER_PREFIX, /* what follows the last prefix, to the end of its line */
    ANSWER_PROBE,  /* everything up to the first closing brace that nothing opened */
    ANSWER_TEXT,   /* everything */
    ANSWER_NONE,   /* there is never any */
    ANSWER_KINDS
};

struct answer_rule {
    enum answer_kind kind;
    char choice_last;     /* CHOICE: 'E', for instance; 0 means 'E' */
    uint8_t prefix_bytes; /* PREFIX: 1 to ANSWER_PREFIX_BYTES_MAX */
    char prefix[ANSWER_PREFIX_BYTES_MAX];
};

struct answer_span {
    uint32_t start, bytes;
};

#define ANSWER_E_NONE 1 /* there is no such thing in the text */

/* Blanks around the answer are not part of it, and it is never empty. */
int answer_extract(const struct answer_rule *rule, const char *text, uint32_t bytes,
                   struct answer_span *ret_span);

/* ---- comparing ---- */

struct answer_unit {
    uint32_t
        names[2]; /* hashes of the unit and, as in km/h, of the one it is divided by; 0: none */
    int8_t powers[2];
};

struct answer {
    uint16_t bytes;   /* of text; 0: empty, equal to nothing */
    uint16_t rest;    /* where text goes on after a leading `x=` */
    char choice;      /* the answer is this letter of A to E, perhaps with words around it; or 0 */
    bool percent;     /* a percent sign was taken off the end */
    bool as_bytes;    /* too long: text holds the first bytes, and hash is compared */
    uint64_t hash[2]; /* of the original bytes, when as_bytes */
    struct answer_unit unit;
    struct expression_value value; /* of text from rest on */
    char text[ANSWER_BYTES_MAX];
};

void answer_prepare(const char *text, uint32_t bytes, struct answer *ret_answer);

static inline bool answer_valid(const struct answer *a)
{
    return a->bytes > 0;
}

bool answer_equal(const struct answer *a, const struct answer *b);
