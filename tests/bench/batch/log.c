/* A compact log: a line of what was run, a line of names, a line for each program. Its last field has a
 * word for each answer: group (- for none), + right or - wrong, tokens since the answer before; then, where
 * there is such a thing, rNNN reward in thousandths, ! hesitant, pNN tokens of the probe, wNN the step that
 * wins from here on, lNN minus the mean log-probability in thousandths (of sc). */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/program/algorithms.h"
#include "daemon/program/runlog.h"
#include "tests/bench/batch/batch.h"

#define LEVEL_UNSAID "amx" /* logs that do not say it were made on it: docs/RESULTS.md */

#define NAMES                                                                                      \
    "problem\tseed\tlevel\tverdict\tknob\tright\tdecoded\tprobe\treward\tkilled\tlost\tsteps\tms\thash\tanswers"

uint32_t algorithm_number(const char *name)
{
    uint32_t kind = 0;
    while (kind < DYNASOR_ALGORITHM_COUNT && strcmp(algorithm_get(kind)->name, name) != 0)
        kind++;
    return kind;
}

void experiment_set(struct experiment *e, const char *name, const char *value)
{
    char *end;
    double number = strtod(value, &end);
    struct parameter_range range;
    for (uint32_t p = 0; p < DYNASOR_PARAMETER_COUNT; p++) {
        if (!parameter_range(e->algorithm, p, &range) || strcmp(range.name, name) != 0)
            continue;
        if (end == value || *end || !(number >= range.least) || number > range.most ||
            (range.whole && floor(number) < number))
            fail("%s=%s: accepted %g to %g%s", name, value, range.least, range.most,
                 range.whole ? ", whole" : "");
        if (p >= DYNASOR_PARAMETER_BATCH && p <= DYNASOR_PARAMETER_BATCH_PLACE)
            fail("%s: the programs of a seed are a batch where batch_tokens is set", name);
        if (p == DYNASOR_PARAMETER_CAP)
            e->cap = (uint32_t)number;
        else if (e->settings_count < SETTINGS_MAX)
            e->settings[e->settings_count++] =
                (struct program_setting){.parameter = p, .value = number};
        else
            fail("%s: at most %u parameters can be set", name, SETTINGS_MAX);
        return;
    }
    fail("%s: %s has no such parameter", name, algorithm_get(e->algorithm)->name);
}

struct parameters experiment_parameters(const struct experiment *e)
{
    struct parameters p;
    parameters_default(e->algorithm, &p);
    for (uint32_t i = 0; i < e->settings_count; i++)
        p.value[e->settings[i].parameter] = e->settings[i].value;
    if (e->cap)
        p.value[DYNASOR_PARAMETER_CAP] = e->cap;
    return p;
}

uint32_t experiment_cap(const struct experiment *e)
{
    struct parameters p = experiment_parameters(e);
    return parameter_whole(&p, DYNASOR_PARAMETER_CAP);
}

bool experiment_batched(const struct experiment *e)
{
    return experiment_parameters(e).value[DYNASOR_PARAMETER_BATCH_TOKENS] > 0;
}

void items_free(struct items *items)
{
    for (uint32_t i = 0; i < items->count; i++)
        free(items->all[i].steps);
    free(items->all);
    *items = (struct items){0};
}

/* ---- writing ------------------------------------------------------------------------------------ */

static void header_write(FILE *file, const struct items *items)
{
    const struct experiment *e = &items->experiment;
    (void)fprintf(file,
                  "# task=%s set=%s algorithm=%s profile=%s policy=%s cap=%u max_tokens=%u "
                  "temperature=%g seconds=%.1f level=%s",
                  task_names[e->task], e->set, algorithm_get(e->algorithm)->name, e->profile.name,
                  policy_kind_name(e->profile.policy.kind), e->cap, e->max_tokens,
                  (double)e->temperature, items->seconds, items->level);
    for (uint32_t i = 0; i < e->settings_count; i++) {
        struct parameter_range range;
        if (parameter_range(e->algorithm, e->settings[i].parameter, &range))
            (void)fprintf(file, " %s=%.15g", range.name, e->settings[i].value);
    }
    (void)fprintf(file, "\n" NAMES "\n");
}

static void step_write(FILE *file, const struct step *s, const struct step *before, bool with_log)
{
    if (s->group == CERTAINDEX_EMPTY)
        (void)fprintf(file, "-");
    else
        (void)fprintf(file, "%u", s->group);
    (void)fprintf(file, "%c%u", s->right ? '+' : '-', s->tokens - (before ? before->tokens : 0));
    if (s->has_reward)
        (void)fprintf(file, "r%ld", lround((double)s->reward * 1000));
    if (s->hesitant)
        (void)fprintf(file, "!");
    if (s->probe_tokens)
        (void)fprintf(file, "p%u", s->probe_tokens);
    if (!before || s->winner != before->winner)
        (void)fprintf(file, "w%u", s->winner);
    if (s->log_probability < 0 && with_log)
        (void)fprintf(file, "l%ld", lround((double)s->log_probability * -1000));
}

void log_items_write(const char *path, const struct items *items)
{
    char fresh[4096];
    (void)snprintf(fresh, sizeof fresh, "%s.new", path); /* too long: cannot be opened */
    FILE *file = fopen(fresh, "we");
    if (!file)
        fail("%s: %s", fresh, strerror(errno));
    header_write(file, items);
    for (uint32_t i = 0; i < items->count; i++) {
        const struct item *it = &items->all[i];
        (void)fprintf(
            file, "%u\t%u\t%u\t%u\t%u\t%d\t%llu\t%llu\t%llu\t%llu\t%llu\t%u\t%.0f\t%016llx\t",
            it->problem, it->seed, it->level, it->verdict, it->knob, it->right,
            (unsigned long long)it->cost.decoded_tokens, (unsigned long long)it->cost.probe_tokens,
            (unsigned long long)it->cost.reward_tokens, (unsigned long long)it->cost.killed_tokens,
            (unsigned long long)it->cost.lost_tokens, it->latency_steps, it->latency_s * 1e3,
            (unsigned long long)it->hash);
        for (uint32_t k = 0; k < it->steps_count; k++) {
            if (k)
                (void)fputc(' ', file);
            step_write(file, &it->steps[k], k ? &it->steps[k - 1] : NULL,
                       items->experiment.algorithm == DYNASOR_ALGORITHM_SC);
        }
        (void)fputc('\n', file);
    }
    bool failed = ferror(file) != 0;
    if (fclose(file) != 0 || failed || rename(fresh, path) != 0)
        fail("%s: %s", path, strerror(errno));
}

/* ---- reading ------------------------------------------------------------------------------------ */

static uint32_t number(char **at)
{
    return (uint32_t)strtoul(*at, at, 10);
}

/* One word of the last field; false: it is none. */
static bool step_read(char **at, const struct step *before, struct step *s)
{
    *s = (struct step){.group = CERTAINDEX_EMPTY, .winner = before ? before->winner : 0};
    if (isdigit((unsigned char)**at))
        s->group = number(at);
    else if (*(*at)++ != '-')
        return false;
    if (**at != '+' && **at != '-')
        return false;
    s->right = *(*at)++ == '+';
    s->tokens = number(at) + (before ? before->tokens : 0);
    while (**at && **at != ' ' && **at != '\n') {
        switch (*(*at)++) {
        case 'r':
            s->has_reward = true;
            s->reward = (float)number(at) / 1000;
            break;
        case '!':
            s->hesitant = true;
            break;
        case 'p':
            s->probe_tokens = number(at);
            break;
        case 'w':
            s->winner = number(at);
            break;
        case 'l':
            s->log_probability = (float)number(at) / -1000;
            break;
        default:
            return false;
        }
    }
    *at += **at == ' ';
    return true;
}

static bool item_read(char *line, bool with_lost, struct item *it)
{
    unsigned long long decoded, probe, reward, killed, lost = 0, hash;
    int right, used = 0, more = 0;
    double ms;
    *it = (struct item){0};
    if (sscanf(line, "%u\t%u\t%u\t%u\t%u\t%d\t%llu\t%llu\t%llu\t%llu\t%n", &it->problem, &it->seed,
               &it->level, &it->verdict, &it->knob, &right, &decoded, &probe, &reward, &killed,
               &used) != 10 ||
        (with_lost && sscanf(line + used, "%llu\t%n", &lost, &more) != 1))
        return false;
    used += more;
    if (sscanf(line + used, "%u\t%lf\t%llx\t%n", &it->latency_steps, &ms, &hash, &more) != 3)
        return false;
    used += more;
    it->right = right != 0;
    it->cost = (struct run_cost){.decoded_tokens = decoded,
                                 .probe_tokens = probe,
                                 .reward_tokens = reward,
                                 .killed_tokens = killed,
                                 .lost_tokens = lost};
    it->latency_s = ms / 1e3;
    it->hash = hash;
    uint32_t room = 1;
    for (const char *c = line + used; *c; c++)
        room += *c == ' ';
    it->steps = need(calloc(room, sizeof *it->steps));
    for (char *at = line + used; *at && *at != '\n'; it->steps_count++) {
        uint32_t n = it->steps_count;
        if (!step_read(&at, n ? &it->steps[n - 1] : NULL, &it->steps[n]) || it->steps[n].winner > n)
            return false;
    }
    return true;
}

static void header_word(struct items *items, const char *name, const char *value)
{
    struct experiment *e = &items->experiment;
    if (strcmp(name, "task") == 0) {
        while (e->task < TASK_COUNT && strcmp(task_names[e->task], value) != 0)
            e->task++;
    } else if (strcmp(name, "set") == 0) {
        (void)snprintf(e->set, sizeof e->set, "%s", value);
    } else if (strcmp(name, "algorithm") == 0) {
        e->algorithm = algorithm_number(value);
    } else if (strcmp(name, "profile") == 0) {
        (void)snprintf(e->profile.name, sizeof e->profile.name, "%s", value);
    } else if (strcmp(name, "policy") == 0) {
        for (uint32_t k = 0; k < POLICY_KINDS; k++)
            if (strcmp(policy_kind_name((enum policy_kind)k), value) == 0)
                e->profile.policy.kind = (enum policy_kind)k;
    } else if (strcmp(name, "max_tokens") == 0) {
        e->max_tokens = (uint32_t)strtoul(value, NULL, 10);
    } else if (strcmp(name, "temperature") == 0) {
        e->temperature = strtof(value, NULL);
    } else if (strcmp(name, "seconds") == 0) {
        items->seconds = strtod(value, NULL);
    } else if (strcmp(name, "level") == 0) {
        (void)snprintf(items->level, sizeof items->level, "%s", value);
    } else if (strcmp(name, "cap") != 0) {
        experiment_set(e, name, value);
    } else {
        e->cap = (uint32_t)strtoul(value, NULL, 10);
    }
}

static void header_read(const char *path, char *line, struct items *items)
{
    profile_default(&items->experiment.profile);
    for (char *word = line + 2, *end; *word && *word != '\n'; word = end) {
        size_t bytes = strcspn(word, " \n");
        char *value = memchr(word, '=', bytes);
        if (!value)
            fail("%s:1: name=value is wanted", path);
        end = word + bytes + (word[bytes] != 0);
        word[bytes] = 0;
        *value = 0;
        header_word(items, word, value + 1);
    }
    if (items->experiment.task >= TASK_COUNT ||
        items->experiment.algorithm >= DYNASOR_ALGORITHM_COUNT)
        fail("%s:1: no such task or algorithm", path);
}

bool log_items_read(const char *path, struct items *ret_items)
{
    FILE *file = fopen(path, "re");
    struct items items = {.level = LEVEL_UNSAID};
    char *line = NULL;
    size_t bytes = 0;
    uint32_t room = 0, line_number = 0;
    bool with_lost = false;
    *ret_items = (struct items){0};
    if (!file)
        return false;
    while (getline(&line, &bytes, file) > 0) {
        line_number++;
        if (line_number == 1 && strncmp(line, "# ", 2) == 0) {
            header_read(path, line, &items);
            continue;
        }
        if (line_number == 2)
            with_lost = strstr(line, "\tlost\t") != NULL; /* logs of before have none */
        if (line_number <= 2)
            continue;
        if (items.count == room) {
            room = room ? 2 * room : 256;
            items.all = need(realloc(items.all, room * sizeof *items.all));
        }
        if (!item_read(line, with_lost, &items.all[items.count]))
            fail("%s:%u: this is no program", path, line_number);
        items.problems_count += items.count == 0 || items.all[items.count].problem !=
                                                        items.all[items.count - 1].problem;
        items.count++;
    }
    free(line);
    (void)fclose(file); /* only read */
    if (line_number < 2)
        fail("%s: no header", path);
    *ret_items = items;
    return true;
}

/* ---- run logs ----------------------------------------------------------------------------------- */

void runlog_items_write(FILE *file, const struct items *items, bool first)
{
    if (first)
        (void)runlog_write_header(file); /* checked with the file */
    for (uint32_t i = 0; i < items->count; i++) {
        const struct item *it = &items->all[i];
        char problem[16], program[32], level[16], answer[16];
        (void)snprintf(problem, sizeof problem, "%u", it->problem);
        (void)snprintf(program, sizeof program, "%u.%u", it->problem, it->seed);
        (void)snprintf(level, sizeof level, "%u", it->level);
        for (uint32_t k = 0; k < it->steps_count; k++) {
            const struct step *s = &it->steps[k];
            struct runlog_row row;
            (void)snprintf(answer, sizeof answer, "%u", s->group);
            runlog_row_init(&row);
            row.problem = problem;
            row.program = program;
            row.algorithm = algorithm_get(items->experiment.algorithm)->name;
            row.level = level;
            row.answer = s->group == CERTAINDEX_EMPTY ? "" : answer;
            row.tokens = s->tokens;
            row.n = k + 1;
            row.right = s->right;
            row.right_now = it->steps[s->winner].right;
            row.reward = s->has_reward ? (double)s->reward : NAN;
            row.logprob = (double)s->log_probability;
            row.entropy = (double)s->entropy;
            row.confidence = s->confidence > 0 ? (double)s->confidence : NAN;
            row.hesitant = s->hesitant;
            row.probe_tokens = s->probe_tokens;
            (void)runlog_write(file, &row);
        }
    }
}
