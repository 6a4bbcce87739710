#include "daemon/base/json.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

/* jansson's own type behind ours: casts in one place only. */
static const json_t *in(const struct json *value)
{
    return (const json_t *)(const void *)value;
}

static const struct json *out(const json_t *value)
{
    return (const struct json *)(const void *)value;
}

/* Nesting is counted before parsing: jansson's own limit is compiled in. Brackets within strings do
 * not count. */
static uint32_t depth_of(const char *text, size_t bytes)
{
    uint32_t depth = 0;
    uint32_t deepest = 0;
    bool quoted = false;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (quoted) {
            if (c == '\\')
                i++;
            else if (c == '"')
                quoted = false;
        } else if (c == '"') {
            quoted = true;
        } else if (c == '[' || c == '{') {
            depth++;
            deepest = depth > deepest ? depth : deepest;
        } else if ((c == ']' || c == '}') && depth > 0) {
            depth--;
        }
    }
    return deepest;
}

int json_parse(const char *text, size_t bytes, uint32_t depth_max, char message[JSON_ERROR_BYTES],
               struct json **ret_document)
{
    uint32_t depth = depth_of(text, bytes);
    if (depth > depth_max) {
        (void)snprintf(message, JSON_ERROR_BYTES, "nested %u deep; at most %u is accepted", depth,
                       depth_max);
        return -EINVAL;
    }
    json_error_t error;
    json_t *document = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (!document) {
        if (json_error_code(&error) == json_error_out_of_memory)
            return -ENOMEM;
        (void)snprintf(message, JSON_ERROR_BYTES, "line %d, column %d: %.140s", error.line,
                       error.column, error.text);
        return -EINVAL;
    }
    *ret_document = (struct json *)(void *)document;
    return 0;
}

void json_free(struct json *document)
{
    if (document)
        json_decref((json_t *)(void *)document);
}

enum json_kind json_kind(const struct json *value)
{
    if (!value)
        return JSON_KIND_NULL;
    switch (json_typeof(in(value))) {
    case JSON_TRUE:
    case JSON_FALSE:
        return JSON_KIND_BOOL;
    case JSON_INTEGER:
        return JSON_KIND_INTEGER;
    case JSON_REAL:
        return JSON_KIND_REAL;
    case JSON_STRING:
        return JSON_KIND_STRING;
    case JSON_ARRAY:
        return JSON_KIND_ARRAY;
    case JSON_OBJECT:
        return JSON_KIND_OBJECT;
    default:
        return JSON_KIND_NULL;
    }
}

const struct json *json_member(const struct json *value, const char *key)
{
    return out(json_object_get(in(value), key)); /* NULL for anything but an object */
}

uint32_t json_count(const struct json *value)
{
    size_t count =
        json_is_object(in(value)) ? json_object_size(in(value)) : json_array_size(in(value));
    return (uint32_t)count;
}

const struct json *json_element(const struct json *value, uint32_t idx)
{
    return out(json_array_get(in(value), idx));
}

bool json_next(const struct json *object, void **cursor, const char **ret_key,
               const struct json **ret_value)
{
    json_t *o = (json_t *)(uintptr_t)object; /* jansson's iterators take no const */
    void *at = *cursor ? json_object_iter_next(o, *cursor) : json_object_iter(o);
    if (!at)
        return false;
    *cursor = at;
    *ret_key = json_object_iter_key(at);
    *ret_value = out(json_object_iter_value(at));
    return true;
}

bool json_i64(const struct json *value, int64_t *ret)
{
    if (!value || !json_is_integer(in(value)))
        return false;
    *ret = json_integer_value(in(value));
    return true;
}

bool json_u64(const struct json *value, uint64_t *ret)
{
    int64_t number;
    if (!json_i64(value, &number) || number < 0)
        return false;
    *ret = (uint64_t)number;
    return true;
}

bool json_double(const struct json *value, double *ret)
{
    if (!value || !json_is_number(in(value)))
        return false;
    *ret = json_number_value(in(value));
    return true;
}

bool json_bool(const struct json *value, bool *ret)
{
    if (!value || !json_is_boolean(in(value)))
        return false;
    *ret = json_is_true(in(value));
    return true;
}

const char *json_text(const struct json *value, size_t *ret_bytes)
{
    const char *text = json_string_value(in(value));
    if (text && ret_bytes)
        *ret_bytes = json_string_length(in(value));
    return text;
}

bool json_is(const struct json *value, const char *text)
{
    size_t bytes;
    const char *own = json_text(value, &bytes);
    return own && bytes == strlen(text) && memcmp(own, text, bytes) == 0;
}
