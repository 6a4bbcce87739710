/* daemon/base/json.h — reads JSON files strictly: model configuration, tokenizers, tensor headers.
 *
 * Refuses duplicate keys, invalid UTF-8, nesting deeper than asked for and anything after the value.
 * The only user of jansson. A value belongs to its document and lives until json_free().
 *
 * Thread: any, one at a time for each document. Memory: heap, until json_free(). Time: linear.
 * Fails: json_parse() with a message that names line and column; a getter says false or NULL when
 * the value is absent or of another kind. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json; /* a value; the document is the value that json_parse() returned */

#define JSON_ERROR_BYTES 192u

/* depth_max counts nested arrays and objects; the outermost is 1. Returns 0, -EINVAL (message) or
 * -ENOMEM. bytes need no terminator. */
int json_parse(const char *text, size_t bytes, uint32_t depth_max, char message[JSON_ERROR_BYTES],
               struct json **ret_document);
void json_free(struct json *document);

enum json_kind {
    JSON_KIND_NULL,
    JSON_KIND_BOOL,
    JSON_KIND_INTEGER,
    JSON_KIND_REAL,
    JSON_KIND_STRING,
    JSON_KIND_ARRAY,
    JSON_KIND_OBJECT,
};
enum json_kind json_kind(const struct json *value); /* of NULL: JSON_KIND_NULL */

/* Member of an object, or NULL (also when value is NULL or no object). */
const struct json *json_member(const struct json *value, const char *key);
/* Elements of an array or members of an object; 0 of anything else. */
uint32_t json_count(const struct json *value);
const struct json *json_element(const struct json *value, uint32_t idx); /* of an array; O(1) */

/* Members in the order of the file. Begin with *cursor NULL; false: no more. */
bool json_next(const struct json *object, void **cursor, const char **ret_key,
               const struct json **ret_value);

bool json_u64(const struct json *value, uint64_t *ret);  /* an integer, 0 or more */
bool json_i64(const struct json *value, int64_t *ret);   /* an integer */
bool json_double(const struct json *value, double *ret); /* an integer or a real */
bool json_bool(const struct json *value, bool *ret);
/* UTF-8 with its length (it may hold zero bytes); NULL when it is no string. */
const char *json_text(const struct json *value, size_t *ret_bytes);
/* True when value is a string equal to text. */
bool json_is(const struct json *value, const char *text);
