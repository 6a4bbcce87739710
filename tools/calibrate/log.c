#include "tools/calibrate/log.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/program/policy.h"
#include "daemon/program/runlog.h"

/* Names that were seen: open addressing, grown by doubling. */
struct names {
    char **text;
    uint32_t *slot; /* idx + 1; 0: free */
    uint32_t count;
    uint32_t slots; /* a power of two */
};

#define NOT_SAID (CERTAINDEX_EMPTY - 1)

struct reading {
    struct log *log;
    const char *path;
    char *message;
    uint32_t line;
    uint32_t steps_room;
    uint32_t runs_room;
    struct names problems;
    struct names programs;
    char **groups; /* of the current program */
    uint32_t groups_count;
    uint32_t empties_count; /* likewise: each of them is a group of its own */
    char algorithm[32];     /* of the programs that are taken */
    char program[128];      /* the current one */
    int8_t *right;          /* [steps] of this step alone */
    int8_t *right_now;      /* as the log says it */
    uint32_t *now;          /* [steps] likewise; NOT_SAID */
};

/* Text of a file, fit for a terminal. */
static void readable(char *text)
{
    for (; *text != '\0'; text++) {
        *text = (unsigned char)*text < 0x20 || *text == 0x7f ? '?' : *text;
    }
}

__attribute__((format(printf, 2, 3))) static int refuse(struct reading *r, const char *format, ...)
{
    char what[RUNLOG_MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(what, sizeof what, format, args); /* a cut message is as good */
    va_end(args);
    readable(what);
    (void)snprintf(r->message, LOG_MESSAGE_BYTES, "%.200s:%u: %s", r->path, r->line, what);
    return -EINVAL;
}

static uint64_t hash_of(const char *text)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (; *text != '\0'; text++) {
        hash = (hash ^ (unsigned char)*text) * 0x100000001b3u;
    }
    hash ^= hash >> 31;
    hash *= 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 29;
}

static void *grow(void *old, size_t count, size_t bytes)
{
    void *fresh = reallocarray(old, count, bytes);
    if (fresh == NULL) {
        fprintf(stderr, "dynasor-calibrate: out of memory\n");
        exit(1);
    }
    return fresh;
}

static char *copy_of(const char *text)
{
    size_t bytes = strlen(text) + 1;
    return memcpy(grow(NULL, bytes, 1), text, bytes);
}

static void names_grow(struct names *names)
{
    uint32_t slots = names->slots > 0 ? names->slots * 2 : 1024;
    free(names->slot);
    names->slot = grow(NULL, slots, sizeof *names->slot);
    memset(names->slot, 0, slots * sizeof *names->slot);
    names->text = grow(names->text, slots, sizeof *names->text);
    names->slots = slots;
    for (uint32_t i = 0; i < names->count; i++) {
        uint32_t at = (uint32_t)hash_of(names->text[i]) & (slots - 1);
        while (names->slot[at] != 0) {
            at = (at + 1) & (slots - 1);
        }
        names->slot[at] = i + 1;
    }
}

static uint32_t names_take(struct names *names, const char *text)
{
    if (names->count * 2 >= names->slots) {
        names_grow(names);
    }
    uint32_t at = (uint32_t)hash_of(text) & (names->slots - 1);
    while (names->slot[at] != 0 && strcmp(names->text[names->slot[at] - 1], text) != 0) {
        at = (at + 1) & (names->slots - 1);
    }
    if (names->slot[at] == 0) {
        names->text[names->count++] = copy_of(text);
        names->slot[at] = names->count;
    }
    return names->slot[at] - 1;
}

static void names_free(struct names *names)
{
    for (uint32_t i = 0; i < names->count; i++) {
        free(names->text[i]);
    }
    free(names->text);
    free(names->slot);
}

/* ---- rows --------------------------------------------------------------------------------------- */

static void forget_groups(struct reading *r)
{
    for (uint32_t i = 0; i < r->groups_count; i++) {
        free(r->groups[i]);
    }
    r->groups_count = 0;
    r->empties_count = 0;
}

static uint32_t group_of(struct reading *r, const char *answer)
{
    if (answer[0] == '\0') {
        return CERTAINDEX_EMPTY;
    }
    for (uint32_t i = 0; i < r->groups_count; i++) {
        if (strcmp(r->groups[i], answer) == 0) {
            return i;
        }
    }
    r->groups = grow(r->groups, r->groups_count + 1u, sizeof *r->groups);
    r->groups[r->groups_count] = copy_of(answer);
    return r->groups_count++;
}

static void room_for_step(struct reading *r)
{
    struct log *log = r->log;
    if (log->steps_count < r->steps_room) {
        return;
    }
    uint32_t room = r->steps_room > 0 ? r->steps_room * 2 : 4096;
    log->groups = grow(log->groups, room, sizeof *log->groups);
    log->tokens = grow(log->tokens, room, sizeof *log->tokens);
    log->costs = grow(log->costs, room, sizeof *log->costs);
    log->probe_tokens = grow(log->probe_tokens, room, sizeof *log->probe_tokens);
    log->adopted = grow(log->adopted, room, sizeof *log->adopted);
    log->rewards = grow(log->rewards, room, sizeof *log->rewards);
    log->confidences = grow(log->confidences, room, sizeof *log->confidences);
    log->hesitant = grow(log->hesitant, room, sizeof *log->hesitant);
    log->right = grow(log->right, room, sizeof *log->right);
    log->now = grow(log->now, room, sizeof *log->now);
    r->right = grow(r->right, room, sizeof *r->right);
    r->right_now = grow(r->right_now, room, sizeof *r->right_now);
    r->now = grow(r->now, room, sizeof *r->now);
    r->steps_room = room;
}

/* ---- profiles ----------------------------------------------------------------------------------- */

static uint32_t version_find(const struct log *log, const struct runlog_row *row)
{
    char name[LOG_VERSION_BYTES];
    (void)snprintf(name, sizeof name, "%.47s@%.20s", row->profile, row->version); /* cut: no such */
    uint32_t v = 0;
    while (v < log->versions_count && strcmp(log->versions[v].name, name) != 0) {
        v++;
    }
    return v < log->versions_count ? v : LOG_NO_VERSION;
}

#define VERSION_DIGITS 16u

/* NAME@VERSION, as the daemon writes it. */
static bool is_versioned(const char *name)
{
    size_t bytes =
        strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");
    return bytes > 0 && bytes < PROFILE_NAME_BYTES && name[bytes] == '@' &&
           strspn(name + bytes + 1, "0123456789abcdef") == VERSION_DIGITS &&
           name[bytes + 1 + VERSION_DIGITS] == '\0';
}

/* A line of runlog.h's: NAME@VERSION and the text, with tabs for line ends. */
static int take_profile(struct reading *r, char *line)
{
    struct log *log = r->log;
    char *name = line + sizeof RUNLOG_PROFILE_LINE - 1, *text = strchr(name, '\t');
    char what[PROFILE_MESSAGE_BYTES];
    struct log_version version;
    if (text != NULL) {
        *text++ = '\0';
    }
    if (text == NULL || !is_versioned(name)) {
        return refuse(r, "#profile: accepted NAME@VERSION, of %u digits 0-9 a-f, and a text",
                      VERSION_DIGITS);
    }
    for (char *tab = text; (tab = strchr(tab, '\t')) != NULL;) {
        *tab = '\n';
    }
    FILE *file = fmemopen(text, strlen(text), "r");
    int rc = file != NULL ? profile_read(file, name, &version.profile, what) : -ENOMEM;
    if (file != NULL) {
        (void)fclose(file); /* memory */
    }
    size_t bytes = rc == 0 ? strlen(version.profile.name) : 0;
    if (rc == 0 && (strncmp(name, version.profile.name, bytes) != 0 || name[bytes] != '@')) {
        return refuse(r, "#profile %.60s: accepted the name of the profile, %s", name,
                      version.profile.name);
    }
    if (rc != 0) {
        return refuse(r, "#profile %s", file != NULL ? what : "without a text");
    }
    (void)snprintf(version.name, sizeof version.name, "%s", name); /* fits */
    for (uint32_t v = 0; v < log->versions_count; v++) {
        if (strcmp(log->versions[v].name, version.name) == 0) {
            return 0;
        }
    }
    log->versions = grow(log->versions, log->versions_count + 1u, sizeof *log->versions);
    log->versions[log->versions_count++] = version;
    return 0;
}

/* ---- programs ----------------------------------------------------------------------------------- */

static int begin_run(struct reading *r, const struct runlog_row *row)
{
    struct log *log = r->log;
    uint32_t programs = r->programs.count;
    if (names_take(&r->programs, row->program) < programs) {
        return refuse(r, "program %.60s: accepted its lines together", row->program);
    }
    if (r->algorithm[0] == '\0') {
        (void)snprintf(r->algorithm, sizeof r->algorithm, "%.31s", row->algorithm);
    } else if (strcmp(r->algorithm, row->algorithm) != 0) {
        return refuse(r, "algorithm = %.40s: accepted one in a log, or --algorithm",
                      row->algorithm);
    }
    if (log->runs_count == r->runs_room) {
        r->runs_room = r->runs_room > 0 ? r->runs_room * 2 : 1024;
        log->runs = grow(log->runs, r->runs_room, sizeof *log->runs);
    }
    struct log_run *run = &log->runs[log->runs_count++];
    *run = (struct log_run){.first = log->steps_count,
                            .problem = names_take(&r->problems, row->problem),
                            .chain = strcmp(row->algorithm, "cot") == 0,
                            .trees = strcmp(row->algorithm, "rebase") == 0,
                            .stopped = strcmp(row->ended, "settled") == 0 ||
                                       strcmp(row->ended, "given_up") == 0 ||
                                       strcmp(row->ended, "budget") == 0,
                            .knob = row->knob,
                            .cap = row->cap,
                            .version = version_find(log, row),
                            .changed = strcmp(row->version, RUNLOG_CHANGED) == 0,
                            .of_batch = row->batch || strcmp(row->ended, "budget") == 0};
    (void)snprintf(run->level, sizeof run->level, "%.15s", row->level);
    (void)snprintf(run->name, sizeof run->name, "%.31s", row->program);
    (void)snprintf(run->profile, sizeof run->profile, "%.47s", row->profile);
    readable(run->name);
    readable(run->profile);
    (void)snprintf(r->program, sizeof r->program, "%.127s", row->program);
    forget_groups(r);
    return 0;
}

static int take_row(struct reading *r, const char *algorithm, const struct runlog_row *row)
{
    struct log *log = r->log;
    int rc = 0;
    if (algorithm != NULL && strcmp(algorithm, row->algorithm) != 0) {
        return 0;
    }
    if (log->runs_count == 0 || strcmp(r->program, row->program) != 0) {
        rc = begin_run(r, row);
    }
    if (rc != 0) {
        return rc;
    }
    struct log_run *run = &log->runs[log->runs_count - 1];
    uint32_t at = log->steps_count;
    if (row->n != run->count + 1) {
        return refuse(r, "n = %u: accepted %u, the next step of program %.60s", row->n,
                      run->count + 1, row->program);
    }
    if (run->count > 0 && row->tokens < log->tokens[at - 1]) {
        return refuse(r, "tokens = %llu: accepted at least those of the step before",
                      (unsigned long long)row->tokens);
    }
    if (!run->chain && run->count == POLICY_ANSWERS_MAX) {
        return refuse(r, "n = %u: accepted at most %u", row->n, POLICY_ANSWERS_MAX);
    }
    if (run->chain && row->charged_tokens > row->tokens) {
        return refuse(r, "charged_tokens = %llu: accepted at most tokens",
                      (unsigned long long)row->charged_tokens);
    }
    room_for_step(r);
    /* Until its chain is whole, the tokens it decoded itself. */
    log->costs[at] = run->chain && row->charged_tokens > 0 ? row->charged_tokens : row->tokens;
    log->adopted[at] = false;
    log->groups[at] = group_of(r, row->answer);
    log->tokens[at] = row->tokens;
    log->probe_tokens[at] = row->probe_tokens;
    log->rewards[at] = (float)row->reward;
    log->confidences[at] = (float)row->confidence;
    log->hesitant[at] = row->hesitant;
    r->right[at] = (int8_t)row->right;
    r->right_now[at] = (int8_t)row->right_now;
    r->now[at] = row->answer_now[0] != '\0' ? group_of(r, row->answer_now) : NOT_SAID;
    r->empties_count += row->answer[0] == '\0';
    if (!run->chain && r->groups_count + r->empties_count > POLICY_ANSWERS_MAX) {
        return refuse(r,
                      "program %.60s: accepted at most %u different answers, with those of "
                      "answer_now and each empty one",
                      row->program, POLICY_ANSWERS_MAX);
    }
    log->has_reward = log->has_reward || isfinite(row->reward);
    log->has_confidence = log->has_confidence || isfinite(row->confidence);
    log->steps_count++;
    run->count++;
    return 0;
}

/* ---- the program's answer at each step ---------------------------------------------------------- */

/* Majority; ties go to the group that reached the number first. */
static void aggregate_majority(const struct reading *r, const struct log_run *run)
{
    struct log *log = r->log;
    uint32_t counts[POLICY_ANSWERS_MAX] = {0};
    uint32_t most = 0;
    uint32_t now = CERTAINDEX_EMPTY;
    int8_t right = 0; /* no answer at all is not right */
    for (uint32_t i = run->first; i < run->first + run->count; i++) {
        uint32_t group = log->groups[i];
        if (group != CERTAINDEX_EMPTY && ++counts[group] > most) {
            most = counts[group];
            now = group;
            right = r->right[i];
        }
        log->right[i] = r->right[i] < 0 ? -1 : right;
        log->now[i] = now;
    }
}

static void aggregate_best(const struct reading *r, const struct log_run *run)
{
    struct log *log = r->log;
    float best = -INFINITY;
    uint32_t now = CERTAINDEX_EMPTY;
    int8_t right = 0;
    for (uint32_t i = run->first; i < run->first + run->count; i++) {
        if (log->rewards[i] > best) {
            best = log->rewards[i];
            now = log->groups[i];
            right = r->right[i];
        }
        log->right[i] = r->right[i] < 0 ? -1 : right;
        log->now[i] = now;
    }
}

/* What it was given and took over is what its length has more than it decoded itself: where that grows, the
 * probe before became a part of it. */
static void count_adopted(struct log *log, const struct log_run *run)
{
    uint64_t taken = 0, before = 0;
    for (uint32_t i = run->first; i < run->first + run->count; i++) {
        uint64_t over = log->tokens[i] - log->costs[i];
        if (i > run->first && over > before) {
            log->adopted[i - 1] = true;
            taken += log->probe_tokens[i - 1];
        }
        before = over;
        log->costs[i] += taken;
    }
}

static void aggregate(const struct reading *r)
{
    struct log *log = r->log;
    bool best = strcmp(r->algorithm, "mcts") == 0 || strcmp(r->algorithm, "best_of_n") == 0;
    log->labelled = log->runs_count > 0;
    for (uint32_t i = 0; i < log->runs_count; i++) {
        const struct log_run *run = &log->runs[i];
        if (run->chain) {
            count_adopted(log, run);
            memcpy(log->right + run->first, r->right + run->first, run->count);
            memcpy(log->now + run->first, log->groups + run->first, run->count * sizeof *log->now);
        } else if (best) {
            aggregate_best(r, run);
        } else {
            aggregate_majority(r, run);
        }
        for (uint32_t s = run->first; s < run->first + run->count; s++) {
            log->right[s] = r->right_now[s] >= 0 ? r->right_now[s] : log->right[s];
            log->now[s] = r->now[s] != NOT_SAID ? r->now[s] : log->now[s];
            log->labelled = log->labelled && log->right[s] >= 0;
        }
    }
}

/* ---- the file ----------------------------------------------------------------------------------- */

static int read_lines(struct reading *r, FILE *file, const char *algorithm)
{
    struct runlog_layout layout = {.fields_count = 0};
    struct runlog_row row;
    char what[RUNLOG_MESSAGE_BYTES];
    char *line = NULL;
    size_t bytes = 0;
    int rc = 0;
    while (rc == 0 && getline(&line, &bytes, file) >= 0) {
        r->line++;
        if (strncmp(line, RUNLOG_PROFILE_LINE, sizeof RUNLOG_PROFILE_LINE - 1) == 0) {
            rc = take_profile(r, line);
            continue;
        }
        if (line[0] == '#' || line[0] == '\n') {
            continue;
        }
        if (layout.fields_count == 0) {
            rc = runlog_parse_header(line, &layout, what);
        } else {
            rc = runlog_parse(&layout, line, &row, what);
            if (rc == 0) {
                rc = take_row(r, algorithm, &row);
                continue;
            }
        }
        rc = rc != 0 ? refuse(r, "%s", what) : 0;
    }
    free(line);
    if (rc == 0 && r->log->runs_count == 0) {
        rc = refuse(r, "no programs%s%s", algorithm != NULL ? " of algorithm " : "",
                    algorithm != NULL ? algorithm : "");
    }
    return rc;
}

int log_read(const char *path, const char *algorithm, struct log *ret_log,
             char ret_message[LOG_MESSAGE_BYTES])
{
    struct log log = {.runs_count = 0};
    struct reading r = {.log = &log, .path = path, .message = ret_message};
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    if (file == NULL) {
        int error = errno;
        (void)snprintf(ret_message, LOG_MESSAGE_BYTES, "%.200s: %s", path, strerror(error));
        return -error;
    }
    int rc = read_lines(&r, file, algorithm);
    if (rc == 0) {
        aggregate(&r);
        log.problems_count = r.problems.count;
        log.problem_hashes = grow(NULL, log.problems_count, sizeof *log.problem_hashes);
        for (uint32_t i = 0; i < log.problems_count; i++) {
            log.problem_hashes[i] = hash_of(r.problems.text[i]);
        }
    }
    if (file != stdin) {
        (void)fclose(file); /* only read */
    }
    forget_groups(&r);
    free(r.groups);
    free(r.right);
    free(r.right_now);
    free(r.now);
    names_free(&r.problems);
    names_free(&r.programs);
    if (rc != 0) {
        log_free(&log);
        return rc;
    }
    *ret_log = log;
    return 0;
}

void log_free(struct log *log)
{
    free(log->runs);
    free(log->groups);
    free(log->tokens);
    free(log->versions);
    free(log->costs);
    free(log->probe_tokens);
    free(log->adopted);
    free(log->rewards);
    free(log->confidences);
    free(log->hesitant);
    free(log->right);
    free(log->now);
    free(log->problem_hashes);
    *log = (struct log){.runs_count = 0};
}
