#include "daemon/program/runlog.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum column_type { TYPE_TEXT, TYPE_U32, TYPE_U64, TYPE_TRUTH, TYPE_FLAG, TYPE_REAL };

static const struct {
    const char *name;
    enum column_type type;
    bool required;
    size_t offset;
} columns[RUNLOG_COLUMNS] = {
    [RUNLOG_PROBLEM] = {"problem", TYPE_TEXT, true, offsetof(struct runlog_row, problem)},
    [RUNLOG_PROGRAM] = {"program", TYPE_TEXT, true, offsetof(struct runlog_row, program)},
    [RUNLOG_ALGORITHM] = {"algorithm", TYPE_TEXT, true, offsetof(struct runlog_row, algorithm)},
    [RUNLOG_LEVEL] = {"level", TYPE_TEXT, false, offsetof(struct runlog_row, level)},
    [RUNLOG_N] = {"n", TYPE_U32, true, offsetof(struct runlog_row, n)},
    [RUNLOG_TOKENS] = {"tokens", TYPE_U64, true, offsetof(struct runlog_row, tokens)},
    [RUNLOG_ANSWER] = {"answer", TYPE_TEXT, true, offsetof(struct runlog_row, answer)},
    [RUNLOG_RIGHT] = {"right", TYPE_TRUTH, false, offsetof(struct runlog_row, right)},
    [RUNLOG_RIGHT_NOW] = {"right_now", TYPE_TRUTH, false, offsetof(struct runlog_row, right_now)},
    [RUNLOG_REWARD] = {"reward", TYPE_REAL, false, offsetof(struct runlog_row, reward)},
    [RUNLOG_LOGPROB] = {"logprob", TYPE_REAL, false, offsetof(struct runlog_row, logprob)},
    [RUNLOG_ENTROPY] = {"entropy", TYPE_REAL, false, offsetof(struct runlog_row, entropy)},
    [RUNLOG_CONFIDENCE] = {"confidence", TYPE_REAL, false, offsetof(struct runlog_row, confidence)},
    [RUNLOG_HESITANT] = {"hesitant", TYPE_FLAG, false, offsetof(struct runlog_row, hesitant)},
    [RUNLOG_PROBE_TOKENS] = {"probe_tokens", TYPE_U32, false,
                             offsetof(struct runlog_row, probe_tokens)},
    [RUNLOG_ANSWER_NOW] = {"answer_now", TYPE_TEXT, false, offsetof(struct runlog_row, answer_now)},
    [RUNLOG_ENDED] = {"ended", TYPE_TEXT, false, offsetof(struct runlog_row, ended)},
    [RUNLOG_KNOB] = {"knob", TYPE_U32, false, offsetof(struct runlog_row, knob)},
    [RUNLOG_CAP] = {"cap", TYPE_U32, false, offsetof(struct runlog_row, cap)},
    [RUNLOG_PROFILE] = {"profile", TYPE_TEXT, false, offsetof(struct runlog_row, profile)},
    [RUNLOG_VERSION] = {"version", TYPE_TEXT, false, offsetof(struct runlog_row, version)},
    [RUNLOG_BATCH] = {"batch", TYPE_FLAG, false, offsetof(struct runlog_row, batch)},
    [RUNLOG_CHARGED_TOKENS] = {"charged_tokens", TYPE_U64, false,
                               offsetof(struct runlog_row, charged_tokens)},
};

__attribute__((format(printf, 2, 3))) static int refuse(char message[RUNLOG_MESSAGE_BYTES],
                                                        const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(message, RUNLOG_MESSAGE_BYTES, format, args); /* a cut message is as good */
    va_end(args);
    return -EINVAL;
}

void runlog_row_init(struct runlog_row *row)
{
    *row = (struct runlog_row){
        .problem = "",
        .program = "",
        .algorithm = "",
        .level = "",
        .answer = "",
        .answer_now = "",
        .ended = "",
        .profile = "",
        .version = "",
        .right = RUNLOG_UNKNOWN,
        .right_now = RUNLOG_UNKNOWN,
        .reward = (double)NAN,
        .logprob = (double)NAN,
        .entropy = (double)NAN,
        .confidence = (double)NAN,
    };
}

/* ---- writing ------------------------------------------------------------------------------------ */

int runlog_write_header(FILE *file)
{
    for (uint32_t i = 0; i < RUNLOG_COLUMNS; i++) {
        fprintf(file, "%s%s", columns[i].name, i + 1 < RUNLOG_COLUMNS ? "\t" : "\n");
    }
    return ferror(file) ? -EIO : 0;
}

/* An answer may come from a model: what would break the table becomes a space. */
static void write_text(FILE *file, const char *text)
{
    for (; *text != '\0'; text++) {
        bool breaks = (unsigned char)*text < 0x20;
        (void)putc(breaks ? ' ' : *text, file); /* the caller looks at ferror() */
    }
}

int runlog_write(FILE *file, const struct runlog_row *row)
{
    for (uint32_t i = 0; i < RUNLOG_COLUMNS; i++) {
        const void *field = (const char *)row + columns[i].offset;
        int32_t truth;
        double real;
        switch (columns[i].type) {
        case TYPE_TEXT:
            write_text(file, *(const char *const *)field);
            break;
        case TYPE_U32:
            fprintf(file, "%u", *(const uint32_t *)field);
            break;
        case TYPE_U64:
            fprintf(file, "%llu", (unsigned long long)*(const uint64_t *)field);
            break;
        case TYPE_FLAG:
            fprintf(file, "%d", *(const bool *)field);
            break;
        case TYPE_TRUTH:
            truth = *(const int32_t *)field;
            fprintf(file, "%s", truth == RUNLOG_UNKNOWN ? "" : truth != 0 ? "1" : "0");
            break;
        case TYPE_REAL:
            real = *(const double *)field;
            if (isfinite(real)) {
                fprintf(file, "%.9g", real);
            }
            break;
        }
        (void)putc(i + 1 < RUNLOG_COLUMNS ? '\t' : '\n', file); /* likewise */
    }
    return ferror(file) ? -EIO : 0;
}

/* ---- reading ------------------------------------------------------------------------------------ */

/* Cuts one field off; NULL after the last one. */
static char *cut(char **rest, char separator)
{
    char *field = *rest;
    if (field != NULL) {
        char *end = strchr(field, separator);
        if (end != NULL) {
            *end = '\0';
        }
        *rest = end != NULL ? end + 1 : NULL;
    }
    return field;
}

static void cut_line_end(char *line)
{
    size_t length = strlen(line);
    while (length > 0 && (line[length - 1] == '\n' || line[length - 1] == '\r')) {
        line[--length] = '\0';
    }
}

int runlog_parse_header(char *line, struct runlog_layout *ret_layout,
                        char ret_message[RUNLOG_MESSAGE_BYTES])
{
    struct runlog_layout layout = {.separator = strchr(line, '\t') != NULL ? '\t' : ','};
    uint32_t seen = 0;
    cut_line_end(line);
    for (char *name = cut(&line, layout.separator); name != NULL;
         name = cut(&line, layout.separator)) {
        int32_t column = -1;
        if (layout.fields_count == sizeof layout.column_of / sizeof layout.column_of[0]) {
            return refuse(ret_message, "accepted at most 64 columns");
        }
        for (int32_t i = 0; i < RUNLOG_COLUMNS; i++) {
            column = strcmp(columns[i].name, name) == 0 ? i : column;
        }
        if (column >= 0 && (seen & 1u << column) != 0) {
            return refuse(ret_message, "column %s: accepted once", name);
        }
        seen |= column >= 0 ? 1u << column : 0;
        layout.column_of[layout.fields_count++] = column;
    }
    for (uint32_t i = 0; i < RUNLOG_COLUMNS; i++) {
        if (columns[i].required && (seen & 1u << i) == 0) {
            return refuse(ret_message, "column %s is missing", columns[i].name);
        }
    }
    *ret_layout = layout;
    return 0;
}

static bool take_whole(const char *text, uint64_t max, uint64_t *ret_value)
{
    size_t length = strspn(text, "0123456789");
    if (length == 0 || length > 18 || text[length] != '\0') {
        return false;
    }
    *ret_value = strtoull(text, NULL, 10);
    return *ret_value <= max;
}

static int take_field(uint32_t column, char *text, struct runlog_row *row, char *message)
{
    static const uint64_t most[] = {
        [TYPE_TEXT] = 0,  [TYPE_U32] = UINT32_MAX, [TYPE_U64] = 1ull << 48,
        [TYPE_TRUTH] = 1, [TYPE_FLAG] = 1,         [TYPE_REAL] = 0};
    void *field = (char *)row + columns[column].offset;
    enum column_type type = columns[column].type;
    uint64_t whole = 0;
    if (type == TYPE_TEXT) {
        *(const char **)field = text;
        return 0;
    }
    if (text[0] == '\0' && !columns[column].required) {
        return 0; /* not known: what runlog_row_init() says */
    }
    if (type == TYPE_REAL) {
        char *end;
        double real = strtod(text, &end);
        if (*end != '\0' || !isfinite(real)) {
            return refuse(message, "%s = %.40s: accepted a number", columns[column].name, text);
        }
        *(double *)field = real;
        return 0;
    }
    if (!take_whole(text, most[type], &whole)) {
        return refuse(message, "%s = %.40s: accepted a whole number, 0 to %llu",
                      columns[column].name, text, (unsigned long long)most[type]);
    }
    if (type == TYPE_U64) {
        *(uint64_t *)field = whole;
    } else if (type == TYPE_FLAG) {
        *(bool *)field = whole != 0;
    } else if (type == TYPE_TRUTH) {
        *(int32_t *)field = (int32_t)whole;
    } else {
        *(uint32_t *)field = (uint32_t)whole;
    }
    return 0;
}

int runlog_parse(const struct runlog_layout *layout, char *line, struct runlog_row *ret_row,
                 char ret_message[RUNLOG_MESSAGE_BYTES])
{
    runlog_row_init(ret_row);
    cut_line_end(line);
    for (uint32_t i = 0; i < layout->fields_count; i++) {
        char *text = cut(&line, layout->separator);
        if (text == NULL) {
            return refuse(ret_message, "%u fields: accepted %u, as in the header", i,
                          layout->fields_count);
        }
        int32_t column = layout->column_of[i];
        int rc = column < 0 ? 0 : take_field((uint32_t)column, text, ret_row, ret_message);
        if (rc != 0) {
            return rc;
        }
    }
    if (line != NULL) {
        return refuse(ret_message, "more than %u fields: accepted as many as in the header",
                      layout->fields_count);
    }
    return ret_row->n > 0 ? 0 : refuse(ret_message, "n = 0: accepted 1 or more");
}
