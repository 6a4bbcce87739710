/* daemon/text/unicode.h — what the pipelines of tokenizers ask about code points, and normal forms.
 *
 * The only user of utf8proc.
 * Thread: any. Memory: the caller's. Time: linear, on any input. Fails: never. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

enum unicode_class {                       /* bits */
                     UNICODE_UPPER = 1,    /* Lu, Lt */
                     UNICODE_LOWER = 2,    /* Ll */
                     UNICODE_CASELESS = 4, /* Lm, Lo */
                     UNICODE_LETTER = UNICODE_UPPER | UNICODE_LOWER | UNICODE_CASELESS,
                     UNICODE_MARK = 8,          /* M* */
                     UNICODE_NONSPACING = 16,   /* Mn */
                     UNICODE_NUMBER = 32,       /* N* */
                     UNICODE_SPACE = 64,        /* White_Space */
                     UNICODE_PUNCTUATION = 128, /* P* */
                     UNICODE_WORD = 256,        /* \w of UTS 18 */
                     UNICODE_OTHER = 512,       /* C*, but for those not assigned */
};
uint32_t unicode_classes(uint32_t code);

/* Full lower case without context; to[2]; returns how many. */
uint32_t unicode_lower(uint32_t code, uint32_t *to);

enum unicode_form { UNICODE_NFC, UNICODE_NFD, UNICODE_NFKC, UNICODE_NFKD };
/* Code points of work, and bytes of output, that text_bytes of valid UTF-8 may take. */
uint64_t unicode_work_count(enum unicode_form form, uint64_t text_bytes);
uint64_t unicode_bytes_max(enum unicode_form form, uint64_t text_bytes);
/* Returns the bytes in out. */
uint64_t unicode_normalize(enum unicode_form form, const uint8_t *text, uint64_t text_bytes,
                           uint32_t *work, uint8_t *out);
