/* daemon/text/load.h — what the parts of a tokenizer's loader share: its fields and its complaints.
 *
 * Owns nothing. Every function returns 0, -EINVAL with a message that names the field, or -ENOMEM.
 * Thread: the loading one. Memory: none. Time: linear in the file. */
#pragma once
#include "daemon/base/json.h"
#include "daemon/text/tokenizer_impl.h"

#define LOAD_PATH_BYTES 96u

struct load {
    struct tokenizer *tokenizer;
    char *message; /* TOKENIZER_MESSAGE_BYTES */
    uint32_t ids_max;
    bool after_split; /* of the pre-tokenizer: a Split came before */
};

/* Always -EINVAL. */
__attribute__((format(printf, 2, 3))) int load_fault(struct load *load, const char *format, ...);

/* value is an object with no members but the named ones; names: with a space after each. */
int load_object(struct load *load, const struct json *value, const char *path, const char *names);
/* The member `type` of an object. */
int load_type(struct load *load, const struct json *value, const char *path, const char **ret_type);
int load_bool(struct load *load, const struct json *object, const char *path, const char *name,
              bool *ret);
/* The same where it may be missing: then *ret stays. */
int load_bool_or(struct load *load, const struct json *object, const char *path, const char *name,
                 bool *ret);
/* 1 to bytes_max bytes without a zero. */
int load_text(struct load *load, const struct json *object, const char *path, const char *name,
              uint32_t bytes_max, const char **ret_text, uint32_t *ret_bytes);
int load_u32(struct load *load, const struct json *object, const char *path, const char *name,
             uint32_t low, uint32_t high, uint32_t *ret);
/* The member must equal text. */
int load_is(struct load *load, const struct json *object, const char *path, const char *name,
            const char *text);
/* path of an element: "path.name[idx]". */
void load_path(char out[LOAD_PATH_BYTES], const char *path, const char *name, uint32_t idx);

int load_normalizer(struct load *load, const struct json *value);
int load_pre_tokenizer(struct load *load, const struct json *value);
int load_post_processor(struct load *load, const struct json *value);
int load_decoder(struct load *load, const struct json *value);
/* Vocabulary, merges and added tokens; before the others. */
int load_model(struct load *load, const struct json *model, const struct json *added);
/* After all others. */
int load_finish(struct load *load);
