/* daemon/text/normalize.h — the normalizers of tokenizer.json, one after the other.
 *
 * Thread: any; a scratch is one thread's. Memory: heap, in normalize_scratch_init(). Time: linear.
 * Fails: -ENOMEM there, never when normalizing. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define NORMALIZE_STEPS_MAX 8u
#define NORMALIZE_TEXT_BYTES_MAX 8u

enum normalize_kind {
    NORMALIZE_NFC, /* as in enum unicode_form */
    NORMALIZE_NFD,
    NORMALIZE_NFKC,
    NORMALIZE_NFKD,
    NORMALIZE_LOWER,
    NORMALIZE_PREPEND,  /* content, to what is not empty */
    NORMALIZE_REPLACE,  /* each space by content */
    NORMALIZE_CLEAN,    /* no control characters, every white space a space */
    NORMALIZE_CHINESE,  /* spaces around each ideograph */
    NORMALIZE_NO_MARKS, /* that have no width; follows NFD */
};

struct normalize_step {
    enum normalize_kind kind;
    uint8_t content[NORMALIZE_TEXT_BYTES_MAX];
    uint32_t content_bytes;
};

struct normalizer {
    struct normalize_step steps[NORMALIZE_STEPS_MAX];
    uint32_t count;
};

struct normalize_scratch {
    uint8_t *text[2];
    uint32_t *work;
};
/* text_bytes_max: of the text before normalizing. */
int normalize_scratch_init(struct normalize_scratch *scratch, const struct normalizer *normalizer,
                           uint64_t text_bytes_max);
void normalize_scratch_free(struct normalize_scratch *scratch);
/* Bytes that text_bytes may become. */
uint64_t normalize_bytes_max(const struct normalizer *normalizer, uint64_t text_bytes);

/* Returns text itself or what lies in the scratch. */
const uint8_t *normalize(const struct normalizer *normalizer, struct normalize_scratch *scratch,
                         const uint8_t *text, uint64_t text_bytes, uint64_t *ret_bytes);
