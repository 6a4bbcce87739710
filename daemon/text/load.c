#include "daemon/text/load.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int load_fault(struct load *l, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(l->message, TOKENIZER_MESSAGE_BYTES, format, arguments);
    va_end(arguments);
    return -EINVAL;
}

void load_path(char out[LOAD_PATH_BYTES], const char *path, const char *name, uint32_t idx)
{
    (void)snprintf(out, LOAD_PATH_BYTES, "%.40s.%.30s[%u]", path, name, idx);
}

/* Whether name is one of names, each of which a space follows. */
static bool named(const char *names, const char *name)
{
    size_t bytes = strlen(name);
    for (const char *at = names; *at; at = strchr(at, ' ') + 1)
        if (strncmp(at, name, bytes) == 0 && at[bytes] == ' ')
            return true;
    return false;
}

int load_object(struct load *l, const struct json *value, const char *path, const char *names)
{
    void *cursor = NULL;
    const char *key;
    const struct json *member;
    if (json_kind(value) != JSON_KIND_OBJECT)
        return load_fault(l, "%s: not an object", path);
    while (json_next(value, &cursor, &key, &member))
        if (!named(names, key))
            return load_fault(l, "%s.%.80s: unknown field; known are: %s", path, key, names);
    return 0;
}

int load_type(struct load *l, const struct json *value, const char *path, const char **ret_type)
{
    if (json_kind(value) != JSON_KIND_OBJECT)
        return load_fault(l, "%s: not an object", path);
    *ret_type = json_text(json_member(value, "type"), NULL);
    return *ret_type ? 0 : load_fault(l, "%s.type: not a string", path);
}

int load_bool(struct load *l, const struct json *object, const char *path, const char *name,
              bool *ret)
{
    if (json_bool(json_member(object, name), ret))
        return 0;
    return load_fault(l, "%s.%s: not true or false", path, name);
}

int load_bool_or(struct load *l, const struct json *object, const char *path, const char *name,
                 bool *ret)
{
    return json_member(object, name) ? load_bool(l, object, path, name, ret) : 0;
}

int load_text(struct load *l, const struct json *object, const char *path, const char *name,
              uint32_t bytes_max, const char **ret_text, uint32_t *ret_bytes)
{
    size_t bytes = 0;
    const char *text = json_text(json_member(object, name), &bytes);
    if (!text)
        return load_fault(l, "%s.%s: not a string", path, name);
    if (bytes == 0 || bytes > bytes_max || memchr(text, 0, bytes))
        return load_fault(l, "%s.%s: 1 to %u bytes are accepted, none of them 0", path, name,
                          bytes_max);
    *ret_text = text;
    *ret_bytes = (uint32_t)bytes;
    return 0;
}

int load_u32(struct load *l, const struct json *object, const char *path, const char *name,
             uint32_t low, uint32_t high, uint32_t *ret)
{
    uint64_t value;
    if (!json_u64(json_member(object, name), &value) || value < low || value > high)
        return load_fault(l, "%s.%s: a number from %u to %u is accepted", path, name, low, high);
    *ret = (uint32_t)value;
    return 0;
}

int load_is(struct load *l, const struct json *object, const char *path, const char *name,
            const char *text)
{
    if (json_is(json_member(object, name), text))
        return 0;
    return load_fault(l, "%s.%s: only \"%s\" is accepted", path, name, text);
}

/* ------------------------------------------------------------------------------------------------ */

static int load_batch_field(struct load *l, const struct json *document, const char *name)
{
    /* How transformers cuts and fills batches; ours have no need of it. */
    enum json_kind kind = json_kind(json_member(document, name));
    if (kind == JSON_KIND_NULL || kind == JSON_KIND_OBJECT)
        return 0;
    return load_fault(l, "%s: not null or an object", name);
}

static int load_document(struct load *l, const struct json *document)
{
    void *cursor = NULL;
    const char *key;
    const struct json *member;
    int r;
    if (json_kind(document) != JSON_KIND_OBJECT)
        return load_fault(l, "not an object");
    while (json_next(document, &cursor, &key, &member))
        if (!named("version truncation padding added_tokens normalizer pre_tokenizer "
                   "post_processor decoder model ",
                   key))
            return load_fault(l, "%.80s: unknown field", key);
    if (!json_is(json_member(document, "version"), "1.0"))
        return load_fault(l, "version: only \"1.0\" is accepted");
    if ((r = load_batch_field(l, document, "truncation")) != 0 ||
        (r = load_batch_field(l, document, "padding")) != 0 ||
        (r = load_normalizer(l, json_member(document, "normalizer"))) != 0 ||
        (r = load_pre_tokenizer(l, json_member(document, "pre_tokenizer"))) != 0 ||
        (r = load_decoder(l, json_member(document, "decoder"))) != 0 ||
        (r = load_model(l, json_member(document, "model"),
                        json_member(document, "added_tokens"))) != 0 ||
        (r = load_post_processor(l, json_member(document, "post_processor"))) != 0)
        return r;
    return load_finish(l);
}

int tokenizer_load(const char *json, size_t bytes, uint32_t ids_max,
                   char message[TOKENIZER_MESSAGE_BYTES], struct tokenizer **ret_tokenizer)
{
    struct json *document = NULL;
    char error[JSON_ERROR_BYTES];
    struct load l = {.message = message, .ids_max = ids_max};
    int r = json_parse(json, bytes, 16, error, &document);
    if (r != 0)
        return r == -EINVAL ? load_fault(&l, "%s", error) : r;
    l.tokenizer = calloc(1, sizeof *l.tokenizer);
    r = l.tokenizer ? load_document(&l, document) : -ENOMEM;
    json_free(document);
    if (r != 0) {
        tokenizer_free(l.tokenizer);
        return r;
    }
    *ret_tokenizer = l.tokenizer;
    return 0;
}
