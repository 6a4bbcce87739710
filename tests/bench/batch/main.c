/* dynasor-bench batch: token-to-accuracy experiments with reasoning programs.
 *
 *   dynasor-bench batch --policy DIR [--reward DIR] --tasks DIR --task words|game24|long
 *       --algorithm NAME [--set test|calibration] [--stride N] [--count N] [--seeds N]
 *       [--profile NAME|FILE,...] [--policy-kind KIND,...] [--policy-set KEY=VALUE]...
 *       [--cap N,...] [--set PARAMETER=VALUE]... [--max-tokens N] [--temperature T] [--alone]
 *       [--programs N] [--log FILE] [--rows FOLDER|FILE.tsv] [--csv FILE] [--png FILE] [--progress]
 *
 * Every cap is run with `even` first, unless --alone, and then with each policy. --log writes a run log
 * (dynasor-calibrate reads it), --rows compact ones, which make bench-programs reads: a file for each
 * policy and cap, or the one file of a single one. --policy-set changes the policies that follow it.
 * --set batch_tokens=N makes a batch of the programs of each seed, with N tokens for all of them; batch_cap and
 * batch_step go with it (docs/CERTAINDEX.md). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/program/algorithms.h"
#include "tests/bench/batch/batch.h"
#include "tests/bench/dynasor/dynasor_bench.h"
#include "tests/bench/dynasor/options.h"

#define ARMS_MAX 16u
#define CAPS_MAX 16u
#define PROGRAMS 64u /* in flight */

struct options {
    const char *policy;
    const char *reward;
    const char *tasks;
    const char *log;
    const char *rows;
    const char *csv;
    const char *png;
    uint32_t stride;
    uint32_t count;
    uint32_t seeds;
    uint32_t programs_max;
    bool alone;
    bool progress;
    struct experiment experiment;
    bool task_given;
    bool algorithm_given;
    struct profile arms[ARMS_MAX];
    uint32_t arms_count;
    uint32_t caps[CAPS_MAX];
    uint32_t caps_count;
    const char *parameters[SETTINGS_MAX]; /* name=value, once the algorithm is known */
    uint32_t parameters_count;
};

static int usage(void)
{
    (void)fprintf(
        stderr,
        "usage: dynasor-bench batch --policy DIR [--reward DIR] --tasks DIR\n"
        "           --task words|game24|long --algorithm NAME [--set test|calibration]\n"
        "           [--stride N] [--count N] [--seeds N] [--profile NAME|FILE,...]\n"
        "           [--policy-kind KIND,...] [--policy-set KEY=VALUE]... [--cap N,...]\n"
        "           [--set PARAMETER=VALUE]... [--max-tokens N] [--temperature T] [--alone]\n"
        "           [--programs N] [--log FILE] [--rows FOLDER|FILE.tsv] [--csv FILE]\n"
        "           [--png FILE] [--progress]\n");
    return 2;
}

/* ---- options ------------------------------------------------------------------------------------ */

static struct profile *arm_add(struct options *o)
{
    if (o->arms_count == ARMS_MAX)
        fail("at most %u policies", ARMS_MAX);
    profile_default(&o->arms[o->arms_count]);
    return &o->arms[o->arms_count++];
}

static void profile_add(struct options *o, const char *name)
{
    char message[PROFILE_MESSAGE_BYTES];
    struct profile *p = arm_add(o);
    if (profile_find(name, p) != 0 && profile_load(name, p, message) != 0)
        fail("%s", message);
}

static void kind_add(struct options *o, const char *name)
{
    struct profile *p = arm_add(o);
    uint32_t kind = 0;
    while (kind < POLICY_KINDS && strcmp(policy_kind_name((enum policy_kind)kind), name) != 0)
        kind++;
    if (kind == POLICY_KINDS)
        fail("there is no policy %s", name);
    p->policy.kind = (enum policy_kind)kind;
    (void)snprintf(p->name, sizeof p->name, "%s", name);
}

static void cap_add(struct options *o, const char *text)
{
    if (o->caps_count == CAPS_MAX)
        fail("at most %u caps", CAPS_MAX);
    o->caps[o->caps_count++] = (uint32_t)strtoul(text, NULL, 10);
}

static void each(struct options *o, const char *list, void (*add)(struct options *, const char *))
{
    while (*list) {
        char word[4096];
        size_t bytes = strcspn(list, ",");
        (void)snprintf(word, sizeof word, "%.*s", (int)bytes, list); /* what is cut is not found */
        add(o, word);
        list += bytes + (list[bytes] == ',');
    }
}

static void policy_set(struct options *o, const char *text)
{
    char name[128], message[PROFILE_MESSAGE_BYTES];
    const char *value = strchr(text, '=');
    if (o->arms_count == 0 || !value || (size_t)(value - text) >= sizeof name)
        fail("--policy-set %s: KEY=VALUE after a policy is wanted", text);
    (void)snprintf(name, sizeof name, "%.*s", (int)(value - text), text);
    if (profile_set(&o->arms[o->arms_count - 1], name, value + 1, message) != 0)
        fail("%s", message);
}

static void set(struct options *o, const char *value)
{
    if (!strchr(value, '='))
        (void)snprintf(o->experiment.set, sizeof o->experiment.set, "%s", value);
    else if (o->parameters_count < SETTINGS_MAX)
        o->parameters[o->parameters_count++] = value;
    else
        fail("at most %u parameters", SETTINGS_MAX);
}

/* One that its client drives has nobody to drive it here. */
static void algorithm_set(struct options *o, const char *name)
{
    char accepted[256] = "";
    size_t used = 0;
    o->experiment.algorithm = algorithm_number(name);
    if (o->experiment.algorithm < DYNASOR_ALGORITHM_COUNT &&
        algorithm_get(o->experiment.algorithm)->next) {
        o->algorithm_given = true;
        return;
    }
    for (uint32_t i = 0; i < DYNASOR_ALGORITHM_COUNT; i++)
        if (algorithm_get(i)->next && used < sizeof accepted)
            used += (size_t)snprintf(accepted + used, sizeof accepted - used, "%s%s",
                                     used ? ", " : "", algorithm_get(i)->name);
    fail("--algorithm %s: accepted %s", name, accepted);
}

static bool parse_text(struct options *o, const char *name, const char *value)
{
    const struct option table[] = {{"--policy", &o->policy, NULL},
                                   {"--reward", &o->reward, NULL},
                                   {"--tasks", &o->tasks, NULL},
                                   {"--log", &o->log, NULL},
                                   {"--rows", &o->rows, NULL},
                                   {"--csv", &o->csv, NULL},
                                   {"--png", &o->png, NULL},
                                   {"--stride", NULL, &o->stride},
                                   {"--count", NULL, &o->count},
                                   {"--seeds", NULL, &o->seeds},
                                   {"--programs", NULL, &o->programs_max},
                                   {"--max-tokens", NULL, &o->experiment.max_tokens}};
    return option_take(table, sizeof table / sizeof table[0], name, value);
}

static bool parse(struct options *o, const char *name, const char *value)
{
    struct experiment *e = &o->experiment;
    if (parse_text(o, name, value))
        return true;
    if (strcmp(name, "--set") == 0) {
        set(o, value);
    } else if (strcmp(name, "--profile") == 0) {
        each(o, value, profile_add);
    } else if (strcmp(name, "--policy-kind") == 0) {
        each(o, value, kind_add);
    } else if (strcmp(name, "--policy-set") == 0) {
        policy_set(o, value);
    } else if (strcmp(name, "--cap") == 0) {
        each(o, value, cap_add);
    } else if (strcmp(name, "--temperature") == 0) {
        e->temperature = strtof(value, NULL);
    } else if (strcmp(name, "--task") == 0) {
        while (e->task < TASK_COUNT && strcmp(task_names[e->task], value) != 0)
            e->task++;
        o->task_given = e->task < TASK_COUNT;
        return o->task_given;
    } else if (strcmp(name, "--algorithm") == 0) {
        algorithm_set(o, value);
    } else {
        return false;
    }
    return true;
}

static bool parse_all(struct options *o, int argc, char **argv)
{
    static const uint32_t tokens[TASK_COUNT] = {REASONER_TOKENS_WORDS, REASONER_TOKENS_GAME24,
                                                REASONER_TOKENS_LONG};
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--progress") == 0)
            o->progress = true;
        else if (strcmp(argv[i], "--alone") == 0)
            o->alone = true;
        else if (i + 1 >= argc || !parse(o, argv[i], argv[i + 1]))
            return false;
        else
            i++;
    }
    if (!o->policy || !o->tasks || !o->task_given || !o->algorithm_given || o->stride < 1 ||
        o->seeds < 1 || o->programs_max < 1 || !(o->experiment.temperature >= 0))
        return false;
    if (o->experiment.max_tokens == 0)
        o->experiment.max_tokens = tokens[o->experiment.task];
    for (uint32_t i = 0; i < o->parameters_count; i++) {
        char name[64];
        const char *value = strchr(o->parameters[i], '=');
        (void)snprintf(name, sizeof name, "%.*s", (int)(value - o->parameters[i]),
                       o->parameters[i]);
        experiment_set(&o->experiment, name, value + 1);
    }
    if (o->caps_count == 0)
        o->caps[o->caps_count++] = o->experiment.cap;
    if (!o->alone || o->arms_count == 0) {
        if (o->arms_count == ARMS_MAX)
            fail("at most %u policies besides even", ARMS_MAX - 1);
        memmove(o->arms + 1, o->arms, o->arms_count * sizeof o->arms[0]);
        profile_default(&o->arms[0]);
        o->arms_count++;
    }
    return true;
}

/* ---- runs --------------------------------------------------------------------------------------- */

static struct work *work_make(const struct options *o, struct problems *problems,
                              uint32_t *ret_count)
{
    char file[4096];
    const char *task = o->experiment.task == TASK_LONG ? "words" : task_names[o->experiment.task];
    (void)snprintf(file, sizeof file, "%s/%s.%s.tsv", o->tasks, task, o->experiment.set);
    problems_read(file, o->stride, problems);
    uint32_t used = o->count && o->count < problems->count ? o->count : problems->count;
    struct work *work = need(calloc((size_t)used * o->seeds + 1, sizeof *work));
    for (uint32_t i = 0; i < used * o->seeds; i++)
        work[i] = (struct work){.problem = &problems->items[i / o->seeds], .seed = i % o->seeds};
    *ret_count = used * o->seeds;
    return work;
}

static void rows_write(const struct options *o, const struct items *items)
{
    char path[4096];
    const struct experiment *e = &items->experiment;
    size_t length = strlen(o->rows);
    if (length > 4 && strcmp(o->rows + length - 4, ".tsv") == 0)
        (void)snprintf(path, sizeof path, "%s", o->rows);
    else
        (void)snprintf(path, sizeof path, "%s/%s-%s-%s-%u.tsv", o->rows, task_names[e->task],
                       algorithm_get(e->algorithm)->name, e->profile.name, experiment_cap(e));
    log_items_write(path, items);
}

static void run_all(const struct options *o, struct host *host, const struct work *work,
                    uint32_t count, FILE *csv, FILE *log)
{
    table_header(csv);
    for (uint32_t c = 0; c < o->caps_count; c++) {
        struct items even = {0};
        for (uint32_t a = 0; a < o->arms_count; a++) {
            struct experiment e = o->experiment;
            struct items items;
            e.profile = o->arms[a];
            e.cap = o->caps[c];
            host_run(host, &e, work, count, o->progress ? e.profile.name : NULL, &items);
            table_row(&items, a ? &even : NULL, csv);
            table_levels(&items);
            if (o->rows)
                rows_write(o, &items);
            if (log)
                runlog_items_write(log, &items, true);
            if (a == 0)
                even = items;
            else
                items_free(&items);
        }
        items_free(&even);
    }
}

static FILE *file_open(const char *path)
{
    FILE *file = path ? fopen(path, "we") : NULL;
    if (path && !file)
        fail("%s: %s", path, strerror(errno));
    return file;
}

static void file_close(FILE *file, const char *path)
{
    bool failed = file && ferror(file);
    if (file && (fclose(file) != 0 || failed))
        fail("%s: cannot be written", path);
}

int bench_batch_main(int argc, char **argv)
{
    struct options o = {.stride = 1,
                        .seeds = 1,
                        .programs_max = PROGRAMS,
                        .experiment = {.set = "test", .temperature = 0.9f}};
    if (!parse_all(&o, argc, argv))
        return usage();
    bool single = o.arms_count * o.caps_count == 1;
    size_t rows_length = o.rows ? strlen(o.rows) : 0;
    bool one_file = rows_length > 4 && strcmp(o.rows + rows_length - 4, ".tsv") == 0;
    if (!single && (o.log || one_file))
        fail("a log of one file takes one policy and one cap (--alone)");
    if (o.png && !o.csv)
        fail("--png draws from what --csv writes");
    (void)setvbuf(stdout, NULL, _IOLBF, 1u << 16); /* only for those who watch */
    struct problems problems;
    uint32_t count;
    struct work *work = work_make(&o, &problems, &count);
    if (experiment_batched(&o.experiment) && count / o.seeds > o.programs_max)
        o.programs_max = count / o.seeds;
    struct host *host = host_open(o.policy, o.reward, o.programs_max);
    FILE *csv = file_open(o.csv), *log = file_open(o.log);
    run_all(&o, host, work, count, csv, log);
    file_close(csv, o.csv);
    file_close(log, o.log);
    if (o.png)
        table_draw(o.csv, o.png);
    host_close(host);
    free(work);
    problems_free(&problems);
    return 0;
}
