#include "daemon/program/profile.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/assert.h"

#define KNOB_MAX 16777216.0 /* the largest knob is a chain's tokens */

enum key_type {
    KEY_NAME, /* characters that survive everywhere; max is the room */
    KEY_CHOICE,
    KEY_U32,
    KEY_U64,
    KEY_REAL,
};

struct key {
    const char *section;
    const char *name;
    enum key_type type;
    size_t offset; /* in struct profile */
    double min;
    double max;
    const char *choices; /* " | " between them, in the order of the enum */
};

#define PROFILE_KEY(name, type, min, max, choices)                                                 \
    {                                                                                              \
        "profile", #name, type, offsetof(struct profile, name), min, max, choices                  \
    }
#define POLICY_KEY(section, key, field, type, min, max, choices)                                   \
    {                                                                                              \
        section, key, type, offsetof(struct profile, policy.field), min, max, choices              \
    }
#define RISK_KEY(name, type, min, max)                                                             \
    {                                                                                              \
        "risk", #name, type, offsetof(struct profile, risk.name), min, max, NULL                   \
    }
#define SIGNAL_NAMES "certainty | reward | agreement | confidence"

static const struct key keys[] = {
    PROFILE_KEY(name, KEY_NAME, 0, PROFILE_NAME_BYTES, NULL),
    PROFILE_KEY(algorithm, KEY_NAME, 0, PROFILE_ALGORITHM_BYTES, NULL),
    POLICY_KEY("policy", "kind", kind, KEY_CHOICE, 0, 0,
               "even | length | static | k_step | curve_once | curve_each_step | esc | "
               "adaptive_consistency | deepconf | m_of_n | probe | give_up"),
    POLICY_KEY("policy", "detect", detect, KEY_U32, 1, KNOB_MAX, NULL),
    POLICY_KEY("policy", "step", step, KEY_U32, 1, KNOB_MAX, NULL),
    POLICY_KEY("policy", "reward_rule", reward_rule, KEY_CHOICE, 0, 0, "mean | max"),
    POLICY_KEY("policy", "length_rule", length_rule, KEY_CHOICE, 0, 0, "shorter | longer"),
    POLICY_KEY("policy", "length_tokens", length_tokens, KEY_U64, 0, 1e12, NULL),
    POLICY_KEY("policy", "curve_signal", curve_signal, KEY_CHOICE, 0, 0, SIGNAL_NAMES),
    POLICY_KEY("policy", "esc_window", esc_window, KEY_U32, 1, POLICY_ANSWERS_MAX, NULL),
    POLICY_KEY("policy", "posterior_rule", posterior_rule, KEY_CHOICE, 0, 0, "beta | dirichlet"),
    POLICY_KEY("policy", "posterior", posterior, KEY_REAL, 0, 1, NULL),
    POLICY_KEY("policy", "warmup_count", warmup_count, KEY_U32, 1, POLICY_WARMUP_MAX, NULL),
    POLICY_KEY("policy", "group_tokens", group_tokens, KEY_U32, 1, KNOB_MAX, NULL),
    POLICY_KEY("policy", "kept_share", kept_share, KEY_REAL, 0, 1, NULL),
    POLICY_KEY("policy", "consensus", consensus, KEY_REAL, 0, 1, NULL),
    POLICY_KEY("policy", "finished_count", finished_count, KEY_U32, 1, POLICY_ANSWERS_MAX, NULL),
    POLICY_KEY("policy", "give_up_below", give_up_below, KEY_REAL, 0, 1, NULL),
    POLICY_KEY("probe", "first_tokens", probe.first_tokens, KEY_U32, 0, KNOB_MAX, NULL),
    POLICY_KEY("probe", "interval_tokens", probe.interval_tokens, KEY_U32, 1, KNOB_MAX, NULL),
    POLICY_KEY("probe", "growth", probe.growth, KEY_REAL, 0, 10, NULL),
    POLICY_KEY("probe", "window", probe.window, KEY_U32, 1, 4096, NULL),
    POLICY_KEY("probe", "agreement", probe.agreement, KEY_REAL, 0.01, 2, NULL),
    POLICY_KEY("probe", "hesitation", probe.rule, KEY_CHOICE, 0, 0, "blocks | left_out"),
    POLICY_KEY("probe", "stable_share", probe.stable_share, KEY_REAL, 0, 1, NULL),
    RISK_KEY(method, KEY_NAME, 0, PROFILE_METHOD_BYTES),
    RISK_KEY(allowed_points, KEY_REAL, 0, 100),
    RISK_KEY(delta, KEY_REAL, 0, 1),
    RISK_KEY(lost_points, KEY_REAL, -100, 100),
    RISK_KEY(saving_percent, KEY_REAL, -1000, 100),
    RISK_KEY(stopped_percent, KEY_REAL, 0, 100),
    RISK_KEY(problems_count, KEY_U32, 0, 4294967295.0),
    RISK_KEY(cap, KEY_U32, 0, KNOB_MAX),
};
#define KEYS_COUNT (sizeof keys / sizeof keys[0])
_Static_assert(KEYS_COUNT <= 64, "a bit for each");
_Static_assert(sizeof(enum policy_kind) == 4 && sizeof(enum certaindex_signal) == 4, "as a u32");

/* Sections of rows: the key is a knob. Thresholds of one signal, then curve and chance. */
enum row_section { ROWS_CURVE = CERTAINDEX_SIGNALS, ROWS_CHANCE, ROW_SECTIONS };
static const char *const row_names[ROW_SECTIONS] = {"certainty",  "reward", "agreement",
                                                    "confidence", "curve",  "chance"};
#define EDGES_KEY "edges" /* of the bins of curve and chance, which their rows have values for */

__attribute__((format(printf, 2, 3))) static int refuse(char message[PROFILE_MESSAGE_BYTES],
                                                        const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(message, PROFILE_MESSAGE_BYTES, format, args); /* a cut message is as good */
    va_end(args);
    return -EINVAL;
}

/* Text of a file, fit for a line of a message. */
static const char *readable(const char *text, char shown[48])
{
    size_t i = 0;
    for (; text[i] != '\0' && i < 44; i++) {
        shown[i] = text[i] < 0x20 || text[i] == 0x7f ? '?' : text[i];
    }
    (void)snprintf(shown + i, 48 - i, "%s", text[i] != '\0' ? "..." : "");
    return shown;
}

/* ---- values ------------------------------------------------------------------------------------- */

static bool parse_real(const char *text, double *ret_value)
{
    char *end;
    size_t length = strspn(text, "0123456789.eE+-"); /* no hex, no inf, no nan */
    if (length == 0 || text[length] != '\0') {
        return false;
    }
    *ret_value = strtod(text, &end);
    return *end == '\0';
}

/* Digits alone, so that no value is rounded or wraps. */
static bool parse_whole(const char *text, uint64_t *ret_value)
{
    size_t length = strspn(text, "0123456789");
    if (length == 0 || length > 18 || text[length] != '\0') {
        return false;
    }
    *ret_value = strtoull(text, NULL, 10);
    return true;
}

static bool is_name(const char *text, size_t room)
{
    size_t length =
        strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");
    return length > 0 && length < room && text[length] == '\0';
}

static bool choose(const char *choices, const char *text, uint32_t *ret_idx)
{
    size_t length = strlen(text);
    for (uint32_t idx = 0; choices != NULL; idx++) {
        const char *next = strstr(choices, " | ");
        size_t here = next != NULL ? (size_t)(next - choices) : strlen(choices);
        if (here == length && memcmp(choices, text, length) == 0) {
            *ret_idx = idx;
            return true;
        }
        choices = next != NULL ? next + 3 : NULL;
    }
    return false;
}

static int refuse_value(const struct key *key, const char *value, char *message)
{
    char shown[48];
    readable(value, shown);
    switch (key->type) {
    case KEY_NAME:
        return refuse(message,
                      "[%s] %s = %s: accepted 1 to %.0f characters out of A-Z a-z 0-9 _ . -",
                      key->section, key->name, shown, key->max - 1);
    case KEY_CHOICE:
        return refuse(message, "[%s] %s = %s: accepted %s", key->section, key->name, shown,
                      key->choices);
    case KEY_U32:
    case KEY_U64:
        return refuse(message, "[%s] %s = %s: accepted a whole number, %.0f to %.0f", key->section,
                      key->name, shown, key->min, key->max);
    case KEY_REAL:
        break;
    }
    return refuse(message, "[%s] %s = %s: accepted a number, %g to %g", key->section, key->name,
                  shown, key->min, key->max);
}

static int assign(struct profile *profile, const struct key *key, const char *value, char *message)
{
    char *field = (char *)profile + key->offset;
    uint64_t whole = 0;
    uint32_t choice = 0;
    double real = 0;
    bool good = false;
    switch (key->type) {
    case KEY_NAME:
        good = is_name(value, (size_t)key->max);
        break;
    case KEY_CHOICE:
        good = choose(key->choices, value, &choice);
        break;
    case KEY_U32:
    case KEY_U64:
        good = parse_whole(value, &whole) && (double)whole >= key->min && (double)whole <= key->max;
        choice = (uint32_t)whole;
        break;
    case KEY_REAL:
        good = parse_real(value, &real) && real >= key->min && real <= key->max;
        break;
    }
    if (!good) {
        return refuse_value(key, value, message);
    }
    if (key->type == KEY_NAME) {
        memset(field, 0, (size_t)key->max);
        memcpy(field, value, strlen(value));
    } else if (key->type == KEY_U64) {
        memcpy(field, &whole, sizeof whole);
    } else if (key->type == KEY_REAL) {
        memcpy(field, &real, sizeof real);
    } else {
        memcpy(field, &choice, sizeof choice);
    }
    return 0;
}

/* ---- rows --------------------------------------------------------------------------------------- */

struct row_table {
    void *rows;
    uint32_t *count;
    size_t row_bytes;
    struct policy_edges *edges; /* of its bins; NULL: a row is one value */
    double max;
    bool whole;
};

static struct row_table row_table(struct profile *profile, uint32_t section)
{
    struct policy_options *p = &profile->policy;
    if (section == ROWS_CURVE) {
        return (struct row_table){p->curve,        &p->curve_count, sizeof p->curve[0],
                                  &p->curve_edges, KNOB_MAX,        true};
    }
    if (section == ROWS_CHANCE) {
        return (struct row_table){
            p->chance, &p->chance_count, sizeof p->chance[0], &p->chance_edges, 1, false};
    }
    return (struct row_table){p->limits, &p->limits_count, sizeof p->limits[0], NULL, 1, false};
}

static const struct policy_edges *edges_of(const struct policy_options *p, uint32_t section)
{
    return section == ROWS_CURVE    ? &p->curve_edges
           : section == ROWS_CHANCE ? &p->chance_edges
                                    : NULL;
}

/* The row of a knob, made in its place when there is none. NULL: no room. */
static void *row_take(const struct row_table *table, uint32_t knob)
{
    char *rows = table->rows;
    uint32_t at = 0;
    while (at < *table->count && *(uint32_t *)(void *)(rows + at * table->row_bytes) < knob) {
        at++;
    }
    char *row = rows + at * table->row_bytes;
    if (at < *table->count && *(uint32_t *)(void *)row == knob) {
        return row;
    }
    if (*table->count == POLICY_ROWS_MAX) {
        return NULL;
    }
    memmove(row + table->row_bytes, row, (*table->count - at) * table->row_bytes);
    memset(row, 0, table->row_bytes);
    memcpy(row, &knob, sizeof knob);
    (*table->count)++;
    return row;
}

/* Values separated by spaces. Returns how many there are; 0 when one is not what is wanted, or there are more
 * than have room. */
static uint32_t parse_list(const char *text, bool whole_ones, double max,
                           double values[POLICY_BINS_MAX])
{
    uint32_t count = 0;
    for (text += strspn(text, " \t"); *text != '\0'; text += strspn(text, " \t")) {
        char word[32];
        uint64_t whole = 0;
        double value = 0;
        size_t length = strcspn(text, " \t");
        if (count == POLICY_BINS_MAX || length >= sizeof word) {
            return 0;
        }
        memcpy(word, text, length);
        word[length] = '\0';
        bool good = whole_ones ? parse_whole(word, &whole) : parse_real(word, &value);
        value = whole_ones ? (double)whole : value;
        if (!good || value < 0 || value > max) {
            return 0;
        }
        values[count++] = value;
        text += length;
    }
    return count;
}

/* Those of a table with rows may move, but not become more or fewer: each row has a value for each bin. */
static int assign_edges(struct profile *profile, uint32_t section, const char *value, char *message)
{
    char shown[48];
    double values[POLICY_BINS_MAX];
    struct row_table table = row_table(profile, section);
    uint32_t least = *table.count > 0 ? table.edges->count : 1;
    uint32_t most = *table.count > 0 ? table.edges->count : POLICY_EDGES_MAX;
    uint32_t count = parse_list(value, false, 1, values);
    bool good = count >= least && count <= most;
    for (uint32_t i = 0; i < count; i++) {
        /* What differs by less is equal to it (policy_bin), and its bin would be another's. */
        good = good && values[i] - (i > 0 ? values[i - 1] : 0) > CERTAINDEX_EQUAL;
    }
    if (!good) {
        return refuse(
            message,
            "[%s] edges = %s: accepted %u to %u ascending numbers above %g and at most 1, more than "
            "that apart%s",
            row_names[section], readable(value, shown), least, most, CERTAINDEX_EQUAL,
            *table.count > 0 ? ", one less than the rows have" : "");
    }
    memset(table.edges, 0, sizeof *table.edges);
    memcpy(table.edges->at, values, count * sizeof values[0]);
    table.edges->count = count;
    return 0;
}

static int assign_row(struct profile *profile, uint32_t section, const char *name,
                      const char *value, char *message)
{
    char shown_name[48];
    char shown[48];
    uint64_t knob = 0;
    double values[POLICY_BINS_MAX] = {0};
    struct row_table table = row_table(profile, section);
    uint32_t wanted = table.edges != NULL ? table.edges->count + 1 : 1;
    readable(name, shown_name);
    if (table.edges != NULL && strcmp(name, EDGES_KEY) == 0) {
        return assign_edges(profile, section, value, message);
    }
    if (!parse_whole(name, &knob) || knob < 1 || (double)knob > KNOB_MAX) {
        return refuse(message, "[%s] %s: accepted keys are knobs, 1 to %.0f%s", row_names[section],
                      shown_name, KNOB_MAX, table.edges != NULL ? ", and edges" : "");
    }
    if (parse_list(value, table.whole, table.max, values) != wanted) {
        return refuse(message, "[%s] %s = %s: accepted %u %s of 0 to %.0f", row_names[section],
                      shown_name, readable(value, shown), wanted,
                      table.whole ? "whole numbers" : "numbers", table.max);
    }
    void *row = row_take(&table, (uint32_t)knob);
    if (row == NULL) {
        return refuse(message, "[%s] %s: accepted at most %u knobs", row_names[section], shown_name,
                      POLICY_ROWS_MAX);
    }
    if (section < CERTAINDEX_SIGNALS) {
        struct policy_limits_row *limits = row;
        limits->limits.above[section] = values[0];
        limits->limits.used |= 1u << section;
    }
    for (uint32_t i = 0; i < wanted && section >= CERTAINDEX_SIGNALS; i++) {
        if (section == ROWS_CURVE) {
            ((struct policy_curve_row *)row)->total[i] = (uint32_t)values[i];
        } else {
            ((struct policy_chance_row *)row)->chance[i] = values[i];
        }
    }
    return 0;
}

/* ---- names -------------------------------------------------------------------------------------- */

static const struct key *key_find(const char *section, const char *name)
{
    for (size_t i = 0; i < KEYS_COUNT; i++) {
        if (strcmp(keys[i].section, section) == 0 && strcmp(keys[i].name, name) == 0) {
            return &keys[i];
        }
    }
    return NULL;
}

static uint32_t row_section_find(const char *section)
{
    uint32_t i = 0;
    while (i < ROW_SECTIONS && strcmp(row_names[i], section) != 0) {
        i++;
    }
    return i;
}

static int refuse_section(const char *section, char *message)
{
    char shown[48];
    return refuse(message,
                  "[%s]: accepted sections are profile, policy, probe, risk, certainty, reward, "
                  "agreement, confidence, curve and chance",
                  readable(section, shown));
}

static bool section_known(const char *section)
{
    bool known = row_section_find(section) < ROW_SECTIONS;
    for (size_t i = 0; i < KEYS_COUNT && !known; i++) {
        known = strcmp(keys[i].section, section) == 0;
    }
    return known;
}

static int assign_name(struct profile *profile, const char *section, const char *name,
                       const char *value, char *message)
{
    char shown[48];
    uint32_t rows = row_section_find(section);
    const struct key *key = key_find(section, name);
    if (rows < ROW_SECTIONS) {
        return assign_row(profile, rows, name, value, message);
    }
    if (!section_known(section)) {
        return refuse_section(section, message);
    }
    if (key != NULL) {
        return assign(profile, key, value, message);
    }
    return refuse(message, "[%s] %s: no such key", section, readable(name, shown));
}

/* What no single value can say. */
static int check_whole(const struct profile *profile, char *message)
{
    const struct policy_options *p = &profile->policy;
    bool reads_limits = p->kind == POLICY_STATIC || p->kind == POLICY_K_STEP;
    bool reads_curve = p->kind == POLICY_CURVE_ONCE || p->kind == POLICY_CURVE_EACH_STEP;
    if (reads_limits && (p->limits_count == 0 || p->limits[0].knob > p->detect)) {
        return refuse(
            message,
            "[policy] kind = %s: needs a threshold ([certainty], [reward], [agreement] or "
            "[confidence]) for the knob detect = %u or a lower one",
            policy_kind_name(p->kind), p->detect);
    }
    if (reads_curve && (p->curve_count == 0 || p->curve[0].knob > p->detect)) {
        return refuse(message,
                      "[policy] kind = %s: needs a [curve] for the knob detect = %u or a lower one",
                      policy_kind_name(p->kind), p->detect);
    }
    if ((p->give_up_below > 0 || p->kind == POLICY_GIVE_UP) && p->chance_count == 0) {
        return refuse(message, "[policy] give_up_below: needs a [chance] table");
    }
    return 0;
}

int profile_set(struct profile *profile, const char *name, const char *value,
                char ret_message[PROFILE_MESSAGE_BYTES])
{
    char section[32];
    char shown[48];
    struct profile changed = *profile;
    const char *dot = strchr(name, '.');
    if (dot == NULL || (size_t)(dot - name) >= sizeof section) {
        return refuse(ret_message, "%s: accepted section.key", readable(name, shown));
    }
    memcpy(section, name, (size_t)(dot - name));
    section[dot - name] = '\0';
    int rc = assign_name(&changed, section, dot + 1, value, ret_message);
    rc = rc == 0 ? check_whole(&changed, ret_message) : rc;
    if (rc == 0) {
        *profile = changed;
    }
    return rc;
}

/* ---- writing ------------------------------------------------------------------------------------ */

/* The shortest decimal that reads back to the same bits. */
static void real_text(double value, char text[32])
{
    for (int digits = 15; digits <= 17; digits++) {
        (void)snprintf(text, 32, "%.*g", digits, value);
        if (strtod(text, NULL) == value) {
            return;
        }
    }
}

static void value_text(const struct profile *profile, const struct key *key, char text[64])
{
    const char *field = (const char *)profile + key->offset;
    uint64_t whole;
    uint32_t number;
    double real;
    memcpy(&number, field, sizeof number);
    switch (key->type) {
    case KEY_NAME:
        (void)snprintf(text, 64, "%.*s", (int)key->max, field);
        return;
    case KEY_CHOICE: {
        const char *choice = key->choices;
        for (; number > 0; number--) {
            choice = strstr(choice, " | ");
            ASSERT(choice != NULL);
            choice += 3;
        }
        (void)snprintf(text, 64, "%.*s", (int)strcspn(choice, " "), choice);
        return;
    }
    case KEY_U32:
        (void)snprintf(text, 64, "%u", number);
        return;
    case KEY_U64:
        memcpy(&whole, field, sizeof whole);
        (void)snprintf(text, 64, "%llu", (unsigned long long)whole);
        return;
    case KEY_REAL:
        memcpy(&real, field, sizeof real);
        real_text(real, text);
        return;
    }
}

static void list_add(char *text, size_t bytes, double value)
{
    char word[32];
    size_t used = strlen(text);
    real_text(value, word);
    (void)snprintf(text + used, bytes - used, "%s%s", used > 0 ? " " : "", word);
}

static void edges_text(const struct policy_edges *edges, size_t bytes, char *text)
{
    text[0] = '\0';
    for (uint32_t i = 0; i < edges->count; i++) {
        list_add(text, bytes, edges->at[i]);
    }
}

/* One line's values; "" when this signal is not used in that row. */
static void row_text(const struct policy_options *p, uint32_t section, uint32_t idx, size_t bytes,
                     char *text)
{
    text[0] = '\0';
    if (section < CERTAINDEX_SIGNALS) {
        if ((p->limits[idx].limits.used & 1u << section) != 0) {
            list_add(text, bytes, p->limits[idx].limits.above[section]);
        }
        return;
    }
    for (uint32_t i = 0; i <= edges_of(p, section)->count; i++) {
        list_add(text, bytes,
                 section == ROWS_CURVE ? p->curve[idx].total[i] : p->chance[idx].chance[i]);
    }
}

static uint32_t row_knob(const struct policy_options *p, uint32_t section, uint32_t idx)
{
    return section == ROWS_CURVE    ? p->curve[idx].knob
           : section == ROWS_CHANCE ? p->chance[idx].knob
                                    : p->limits[idx].knob;
}

static uint32_t rows_count(const struct policy_options *p, uint32_t section)
{
    return section == ROWS_CURVE    ? p->curve_count
           : section == ROWS_CHANCE ? p->chance_count
                                    : p->limits_count;
}

static bool edges_equal(const struct policy_edges *a, const struct policy_edges *b)
{
    bool equal = a->count == b->count;
    for (uint32_t i = 0; equal && i < a->count; i++) {
        equal = a->at[i] == b->at[i];
    }
    return equal;
}

/* Edges come before the rows that they give their number of values. */
static void write_rows(FILE *file, const struct policy_options *p, uint32_t section)
{
    const struct policy_edges *edges = edges_of(p, section);
    char text[PROFILE_LINE_BYTES];
    bool begun = edges != NULL && !edges_equal(edges, &policy_tenths);
    if (begun) {
        edges_text(edges, sizeof text, text);
        fprintf(file, "\n[%s]\n" EDGES_KEY " = %s\n", row_names[section], text);
    }
    for (uint32_t i = 0; i < rows_count(p, section); i++) {
        row_text(p, section, i, sizeof text, text);
        if (text[0] != '\0') {
            fprintf(file, "%s%s%s%u = %s\n", begun ? "" : "\n[", begun ? "" : row_names[section],
                    begun ? "" : "]\n", row_knob(p, section, i), text);
            begun = true;
        }
    }
}

int profile_write(FILE *file, const struct profile *profile)
{
    const char *section = "";
    char text[PROFILE_LINE_BYTES];
    fprintf(file, "# A profile of Dynasor; what each key means: docs/CERTAINDEX.md\n");
    for (size_t i = 0; i < KEYS_COUNT; i++) {
        value_text(profile, &keys[i], text);
        if (strcmp(section, keys[i].section) != 0) {
            section = keys[i].section;
            fprintf(file, "\n[%s]\n", section);
        }
        fprintf(file, "%s = %s\n", keys[i].name, text);
    }
    for (uint32_t s = 0; s < ROW_SECTIONS; s++) {
        write_rows(file, &profile->policy, s);
    }
    return ferror(file) ? -EIO : 0;
}

int profile_get(const struct profile *profile, const char *name, char *ret_value,
                size_t value_bytes)
{
    char text[PROFILE_LINE_BYTES] = "";
    const char *dot = strchr(name, '.');
    uint64_t knob;
    for (size_t i = 0; dot != NULL && i < KEYS_COUNT; i++) {
        size_t length = strlen(keys[i].section);
        if (strncmp(name, keys[i].section, length) == 0 && name + length == dot &&
            strcmp(dot + 1, keys[i].name) == 0) {
            value_text(profile, &keys[i], text);
        }
    }
    for (uint32_t s = 0; dot != NULL && s < ROW_SECTIONS; s++) {
        size_t length = strlen(row_names[s]);
        const struct policy_options *p = &profile->policy;
        bool here = strncmp(name, row_names[s], length) == 0 && name + length == dot;
        if (here && edges_of(p, s) != NULL && strcmp(dot + 1, EDGES_KEY) == 0) {
            edges_text(edges_of(p, s), sizeof text, text);
        }
        here = here && parse_whole(dot + 1, &knob);
        for (uint32_t i = 0; here && i < rows_count(p, s); i++) {
            if (row_knob(p, s, i) == knob) {
                row_text(p, s, i, sizeof text, text);
            }
        }
    }
    if (text[0] == '\0') {
        return -ENOENT;
    }
    int n = snprintf(ret_value, value_bytes, "%s", text);
    return n >= 0 && (size_t)n < value_bytes ? 0 : -ENOSPC;
}

/* ---- reading ------------------------------------------------------------------------------------ */

struct reading {
    struct profile profile; /* as far as the file was read; nobody else sees it */
    char section[32];
    uint64_t seen;                                         /* keys */
    uint32_t rows_seen[ROW_SECTIONS][POLICY_ROWS_MAX + 1]; /* knobs, and 0 for the edges */
    uint32_t rows_count[ROW_SECTIONS];
};

/* Cuts what surrounds a word; the result points into the line. */
static char *trim(char *text)
{
    text += strspn(text, " \t\r");
    size_t length = strlen(text);
    while (length > 0 && strchr(" \t\r\n", text[length - 1]) != NULL) {
        text[--length] = '\0';
    }
    return text;
}

static bool seen_before(struct reading *r, const char *name)
{
    uint32_t rows = row_section_find(r->section);
    const struct key *key = key_find(r->section, name);
    if (rows == ROW_SECTIONS) {
        uint64_t bit = UINT64_C(1) << (key - keys);
        bool seen = (r->seen & bit) != 0;
        r->seen |= bit;
        return seen;
    }
    uint32_t knob = (uint32_t)strtoul(name, NULL, 10);
    for (uint32_t i = 0; i < r->rows_count[rows]; i++) {
        if (r->rows_seen[rows][i] == knob) {
            return true;
        }
    }
    r->rows_seen[rows][r->rows_count[rows]++] = knob; /* there was room for its row */
    return false;
}

static int read_line(struct reading *r, char *line, char *message)
{
    char shown[48];
    line = trim(line);
    if (line[0] == '\0' || line[0] == '#' || line[0] == ';') {
        return 0;
    }
    if (line[0] == '[') {
        char *end = strchr(line, ']');
        if (end == NULL || end[1] != '\0' || (size_t)(end - line) > sizeof r->section) {
            return refuse(message, "%s: accepted [section] or key = value", readable(line, shown));
        }
        *end = '\0';
        (void)snprintf(r->section, sizeof r->section, "%s", line + 1);
        return section_known(r->section) ? 0 : refuse_section(r->section, message);
    }
    char *equals = strchr(line, '=');
    if (equals == NULL || r->section[0] == '\0') {
        return refuse(message, "%s: accepted %s", readable(line, shown),
                      equals == NULL ? "[section] or key = value" : "keys below a [section]");
    }
    *equals = '\0';
    char *name = trim(line);
    int rc = assign_name(&r->profile, r->section, name, trim(equals + 1), message);
    if (rc == 0 && seen_before(r, name)) {
        rc = refuse(message, "[%s] %s: accepted once", r->section, readable(name, shown));
    }
    return rc;
}

int profile_read(FILE *file, const char *path, struct profile *ret_profile,
                 char ret_message[PROFILE_MESSAGE_BYTES])
{
    struct reading reading = {.seen = 0};
    char what[PROFILE_MESSAGE_BYTES];
    char line[PROFILE_LINE_BYTES];
    unsigned number = 0;
    int rc = 0;
    profile_default(&reading.profile);
    while (rc == 0 && fgets(line, sizeof line, file) != NULL) {
        number++;
        /* A zero byte ends the line for us, so it looks like a line without its end. */
        bool whole = strchr(line, '\n') != NULL || (feof(file) && strlen(line) < sizeof line - 1);
        rc = whole ? read_line(&reading, line, what)
                   : refuse(what, "accepted lines of text of at most %u characters",
                            PROFILE_LINE_BYTES - 2);
    }
    if (rc == 0 && ferror(file)) {
        (void)refuse(ret_message, "%s: cannot be read", path);
        return -EIO;
    }
    if (rc != 0) {
        return refuse(ret_message, "%s:%u: %.250s", path, number, what);
    }
    rc = check_whole(&reading.profile, what);
    if (rc != 0) {
        return refuse(ret_message, "%s: %.250s", path, what);
    }
    *ret_profile = reading.profile;
    return 0;
}

int profile_load(const char *path, struct profile *ret_profile,
                 char ret_message[PROFILE_MESSAGE_BYTES])
{
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        int error = errno;
        (void)refuse(ret_message, "%s: %s", path, strerror(error));
        return -error;
    }
    int rc = profile_read(file, path, ret_profile, ret_message);
    (void)fclose(file); /* only read */
    return rc;
}
