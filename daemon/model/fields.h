/* daemon/model/fields.h — holds a JSON object against a table of fields: each by name, kind, range and
 * the variants that have it.
 *
 * Thread: any. Memory: values point into the document. Fails: fields_read() with a message that names
 * the field and what is accepted. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/json.h"
#include "daemon/base/message.h"

enum field_kind {
    FIELD_COUNT, /* an integer from min to max */
    FIELD_NUMBER,
    FIELD_FLAG,
    FIELD_OFF,  /* false, or the model is another one */
    FIELD_TEXT, /* the three below: looked at by who asked */
    FIELD_LIST,
    FIELD_OBJECT,
    FIELD_TOKENS, /* an integer, or a list of them */
};

struct field {
    const char *name;
    enum field_kind kind;
    uint32_t variants; /* bits: has the field */
    uint32_t required; /* bits: must have it */
    double min;
    double max;
};

struct fields {
    const char *file;
    const char *prefix; /* of a field's name in messages */
    const char *variant_name;
    const struct field *table;
    uint32_t count;
    uint32_t variant;           /* one bit */
    const char *const *ignored; /* NULL at the end; or NULL */
};

/* values[i] is the value of table[i], NULL where it is absent or null. */
int fields_read(const struct fields *fields, const struct json *object, char message[MESSAGE_BYTES],
                const struct json **values);

/* Of a value that was checked; otherwise where it is NULL. */
uint32_t field_count(const struct json *value, uint32_t otherwise);
double field_number(const struct json *value, double otherwise);
bool field_flag(const struct json *value, bool otherwise);
