#include "daemon/model/fields.h"

#include <errno.h>
#include <string.h>

static bool is_ignored(const struct fields *f, const char *key)
{
    for (const char *const *at = f->ignored; at && *at; at++)
        if (strcmp(*at, key) == 0)
            return true;
    return false;
}

static uint32_t find(const struct fields *f, const char *key)
{
    uint32_t i = 0;
    while (i < f->count && strcmp(f->table[i].name, key) != 0)
        i++;
    return i;
}

static int refuse_kind(const struct fields *f, const struct field *field, const char *wanted,
                       char message[MESSAGE_BYTES])
{
    return message_refuse(message, -EINVAL, "%s: %s%s is not %s", f->file, f->prefix, field->name,
                          wanted);
}

static int check_number(const struct fields *f, const struct field *field, const struct json *value,
                        char message[MESSAGE_BYTES])
{
    double number = 0;
    if (field->kind == FIELD_COUNT && json_kind(value) != JSON_KIND_INTEGER)
        return message_refuse(message, -EINVAL,
                              "%s: %s%s is not an integer; %.0f to %.0f is accepted", f->file,
                              f->prefix, field->name, field->min, field->max);
    if (!json_double(value, &number))
        return message_refuse(message, -EINVAL, "%s: %s%s is not a number; %g to %g is accepted",
                              f->file, f->prefix, field->name, field->min, field->max);
    if (number >= field->min && number <= field->max)
        return 0;
    if (field->kind == FIELD_COUNT)
        return message_refuse(message, -EINVAL, "%s: %s%s is %.0f; %.0f to %.0f is accepted",
                              f->file, f->prefix, field->name, number, field->min, field->max);
    return message_refuse(message, -EINVAL, "%s: %s%s is %g; %g to %g is accepted", f->file,
                          f->prefix, field->name, number, field->min, field->max);
}

static int check_kind(const struct fields *f, const struct field *field, const struct json *value,
                      char message[MESSAGE_BYTES])
{
    enum json_kind kind = json_kind(value);
    bool on = false;
    switch (field->kind) {
    case FIELD_COUNT:
    case FIELD_NUMBER:
        return check_number(f, field, value, message);
    case FIELD_FLAG:
        return kind == JSON_KIND_BOOL ? 0 : refuse_kind(f, field, "true or false", message);
    case FIELD_OFF:
        return json_bool(value, &on) && !on ? 0 : refuse_kind(f, field, "false", message);
    case FIELD_TEXT:
        return kind == JSON_KIND_STRING ? 0 : refuse_kind(f, field, "a string", message);
    case FIELD_LIST:
        return kind == JSON_KIND_ARRAY ? 0 : refuse_kind(f, field, "a list", message);
    case FIELD_OBJECT:
        return kind == JSON_KIND_OBJECT ? 0 : refuse_kind(f, field, "an object", message);
    case FIELD_TOKENS:
        return kind == JSON_KIND_INTEGER || kind == JSON_KIND_ARRAY
                   ? 0
                   : refuse_kind(f, field, "a token id or a list of them", message);
    }
    return refuse_kind(f, field, "known", message);
}

int fields_read(const struct fields *fields, const struct json *object, char message[MESSAGE_BYTES],
                const struct json **values)
{
    void *cursor = NULL;
    const char *key;
    const struct json *value;
    memset(values, 0, fields->count * sizeof *values);
    while (json_next(object, &cursor, &key, &value)) {
        bool off = false;
        if (json_kind(value) == JSON_KIND_NULL || is_ignored(fields, key))
            continue;
        uint32_t i = find(fields, key);
        if (i == fields->count)
            return message_refuse(
                message, -EINVAL,
                "%s: %s%.100s is not known; it may change what the model computes", fields->file,
                fields->prefix, key);
        const struct field *field = &fields->table[i];
        if (field->variants & fields->variant) {
            int result = check_kind(fields, field, value, message);
            if (result)
                return result;
            values[i] = value;
        } else if (!(field->kind == FIELD_FLAG && json_bool(value, &off) && !off)) {
            return message_refuse(message, -EINVAL, "%s: %s%s is no field of %s", fields->file,
                                  fields->prefix, key, fields->variant_name);
        }
    }
    for (uint32_t i = 0; i < fields->count; i++) {
        const struct field *field = &fields->table[i];
        if (values[i] || !(field->required & fields->variant))
            continue;
        if (field->kind == FIELD_COUNT || field->kind == FIELD_NUMBER)
            return message_refuse(message, -EINVAL, "%s: %s%s is missing; %g to %.10g is accepted",
                                  fields->file, fields->prefix, field->name, field->min,
                                  field->max);
        return message_refuse(message, -EINVAL, "%s: %s%s is missing", fields->file, fields->prefix,
                              field->name);
    }
    return 0;
}

uint32_t field_count(const struct json *value, uint32_t otherwise)
{
    uint64_t number;
    return json_u64(value, &number) ? (uint32_t)number : otherwise;
}

double field_number(const struct json *value, double otherwise)
{
    double number;
    return json_double(value, &number) ? number : otherwise;
}

bool field_flag(const struct json *value, bool otherwise)
{
    bool flag;
    return json_bool(value, &flag) ? flag : otherwise;
}
