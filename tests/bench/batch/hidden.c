/* dynasor-bench hidden: what a linear probe of the policy model's hidden states says about a problem, before
 * anything is decoded.
 *
 *   dynasor-bench hidden --policy DIR --tasks DIR --task words|game24|long --log RUNLOG --rows FILE
 *
 * Features of a problem: the final hidden states of its prompt, their mean over all tokens and that of the
 * last. Ridge regression on the solvable problems of RUNLOG, programs that ran to their cap on the
 * calibration set, to the step from which their answer is right for good; the penalty is chosen by what is
 * left out. FILE gets a line for each problem of the test set: its number and the steps predicted. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/clock.h"
#include "daemon/sched/sched.h"
#include "daemon/text/codec.h"
#include "tests/bench/batch/ridge.h"
#include "tests/bench/batch/study.h"
#include "tests/bench/dynasor/dynasor_bench.h"
#include "tests/bench/dynasor/options.h"

#define ROWS 64u
#define STEP_TOKENS 4096u
#define PROMPT_TOKENS_MAX 1024u
#define PROMPT_BYTES_MAX 8192u

struct options {
    const char *policy;
    const char *tasks;
    const char *task;
    const char *log;
    const char *rows;
};

struct machine {
    struct codec *codec;
    struct codec_scratch *scratch;
    struct engine *engine;
    struct sched *sched;
    uint32_t size; /* of a hidden state */
};

static void machine_open(const char *policy, struct machine *m)
{
    struct engine_info info;
    *m = (struct machine){0};
    models_open((struct engine_config){.directory = {[ENGINE_POLICY] = policy},
                                       .rows_max = ROWS,
                                       .tokens_max = STEP_TOKENS,
                                       .context_tokens = PROMPT_TOKENS_MAX,
                                       .kv_bytes = 1ull << 28},
                &m->codec, &m->engine);
    engine_info(m->engine, ENGINE_POLICY, &info);
    m->size = info.vector_size;
    if (codec_scratch_new(m->codec, PROMPT_BYTES_MAX, &m->scratch) != 0 ||
        sched_new(&(struct sched_config){.role = ENGINE_POLICY,
                                         .seqs_max = ROWS,
                                         .groups_max = 1,
                                         .rows_max = ROWS,
                                         .tokens_max = STEP_TOKENS},
                  m->engine, &m->sched) != 0)
        fail("no memory");
}

static void machine_close(struct machine *m)
{
    sched_free(m->sched);
    engine_close(m->engine);
    codec_scratch_free(m->scratch);
    codec_free(m->codec);
}

static uint32_t prompt_of(struct machine *m, bool is_long, const struct problem *p, uint32_t *ids)
{
    char text[PROMPT_BYTES_MAX];
    uint32_t count;
    int bytes = snprintf(text, sizeof text, "%s%s", is_long ? LONG_ASK : "", p->text);
    if (bytes < 0 || (size_t)bytes >= sizeof text ||
        codec_encode(m->codec, m->scratch, (const uint8_t *)text, (uint64_t)bytes, true, ids,
                     PROMPT_TOKENS_MAX, &count) != CODEC_OK ||
        count < 2)
        fail("problem %u: no prompt", p->line);
    return count;
}

/* Two sequences for each problem, whole and without its last token: from the two means comes the state of
 * the last one. Until there is no room; returns how many problems are under way. */
static uint32_t ask(struct machine *m, bool is_long, const struct problem *problems, uint32_t count,
                    uint32_t *lengths)
{
    uint32_t ids[PROMPT_TOKENS_MAX], asked = 0, seq;
    for (; asked < count && asked < ROWS / 2; asked++) {
        lengths[asked] = prompt_of(m, is_long, &problems[asked], ids);
        for (uint32_t half = 0; half < 2; half++)
            if (sched_add(m->sched,
                          &(struct sched_seq_args){.user = 2 * asked + half,
                                                   .prompt = ids,
                                                   .prompt_tokens = lengths[asked] - half,
                                                   .stem = true,
                                                   .want = ENGINE_WANT_POOL,
                                                   .sampling = {.repetition = 1}},
                          &seq) != SCHED_OK)
                fail("problem %u: no room", problems[asked].line);
    }
    return asked;
}

/* To features[count, 2 size]: mean, last. */
static void features(struct machine *m, bool is_long, const struct problem *problems,
                     uint32_t count, float *to)
{
    uint32_t size = m->size, lengths[ROWS / 2];
    for (uint32_t first = 0, asked; first < count; first += asked) {
        uint32_t open = 2 * (asked = ask(m, is_long, problems + first, count - first, lengths));
        float *at = to + (size_t)first * 2 * size;
        while (open) {
            struct sched_result r;
            if (sched_poll(m->sched, clock_now_ns()) == 0) {
                struct pollfd fd = {.fd = sched_fd(m->sched), .events = POLLIN};
                (void)poll(&fd, 1, 100); /* asked again either way */
            }
            while (sched_next(m->sched, &r)) {
                memcpy(at + (size_t)r.user * size, r.vector, size * sizeof *r.vector);
                sched_remove(m->sched, r.seq);
                open--;
            }
        }
        for (uint32_t i = 0; i < asked; i++)
            for (uint32_t d = 0; d < size; d++) {
                float *mean = at + (size_t)2 * i * size, *last = mean + size;
                last[d] = (float)lengths[i] * mean[d] - (float)(lengths[i] - 1) * last[d];
            }
    }
}

/* Mean over a problem's programs that are right at the cap; 0: none is. By the problem's line. */
static double *needed_of(const char *path, uint32_t problems_count)
{
    char message[LOG_MESSAGE_BYTES];
    struct log log;
    double *needed = need(calloc(problems_count, sizeof *needed));
    double *count = need(calloc(problems_count, sizeof *count));
    if (log_read(path, NULL, &log, message) != 0)
        fail("%s", message);
    for (uint32_t i = 0; i < log.runs_count; i++) {
        uint32_t line = (uint32_t)strtoul(log.runs[i].name, NULL, 10);
        uint32_t step = family_oracle_step(&log, i, 0);
        if (line >= problems_count)
            fail("%s: problem %u is not in the set", path, line);
        if (step == UINT32_MAX)
            continue;
        needed[line] += step;
        count[line]++;
    }
    for (uint32_t i = 0; i < problems_count; i++)
        needed[i] = count[i] > 0 ? needed[i] / count[i] : 0;
    free(count);
    log_free(&log);
    return needed;
}

static void set_read(const struct options *o, const char *set, struct problems *ret)
{
    char path[4096];
    const char *task =
        strcmp(o->task, task_names[TASK_LONG]) == 0 ? task_names[TASK_WORDS] : o->task;
    (void)snprintf(path, sizeof path, "%s/%s.%s.tsv", o->tasks, task, set);
    problems_read(path, 1, ret);
}

static void fit(const struct options *o, struct machine *m, bool is_long, struct ridge *ret)
{
    struct problems all;
    uint32_t count = 0, columns = 2 * m->size;
    set_read(o, "calibration", &all);
    double *needed = needed_of(o->log, all.count);
    struct problem *solvable = need(calloc(all.count, sizeof *solvable));
    for (uint32_t i = 0; i < all.count; i++) {
        if (!(needed[i] > 0))
            continue;
        needed[count] = needed[i];
        solvable[count++] = all.items[i];
    }
    if (count < 2 * RIDGE_FOLDS)
        fail("%s: only %u problems are right at the cap", o->log, count);
    float *x = need(calloc((size_t)count * columns, sizeof *x));
    features(m, is_long, solvable, count, x);
    ridge_choose(x, needed, count, columns, ret);
    printf(
        "hidden states: %u problems, %u features, penalty %g, Pearson of what was left out %+.3f\n",
        count, columns, ret->penalty, ret->correlation);
    free(x);
    free(solvable);
    free(needed);
    problems_free(&all);
}

static void predict(const struct options *o, struct machine *m, bool is_long,
                    const struct ridge *ridge)
{
    struct problems all;
    set_read(o, "test", &all);
    float *x = need(calloc((size_t)all.count * ridge->columns, sizeof *x));
    features(m, is_long, all.items, all.count, x);
    FILE *file = fopen(o->rows, "we");
    if (!file)
        fail("%s: %s", o->rows, strerror(errno));
    (void)fprintf(file, "# task=%s penalty=%g left_out_pearson=%.3f\nproblem\tsteps\n", o->task,
                  ridge->penalty, ridge->correlation);
    for (uint32_t i = 0; i < all.count; i++)
        (void)fprintf(file, "%u\t%.2f\n", all.items[i].line,
                      ridge_value(ridge, x + (size_t)i * ridge->columns));
    if (ferror(file) || fclose(file) != 0)
        fail("%s: cannot be written", o->rows);
    free(x);
    problems_free(&all);
}

static bool parse(struct options *o, const char *name, const char *value)
{
    const struct option table[] = {{"--policy", &o->policy, NULL},
                                   {"--tasks", &o->tasks, NULL},
                                   {"--task", &o->task, NULL},
                                   {"--log", &o->log, NULL},
                                   {"--rows", &o->rows, NULL}};
    return option_take(table, sizeof table / sizeof table[0], name, value);
}

int bench_hidden_main(int argc, char **argv)
{
    struct options o = {0};
    struct machine m;
    struct ridge ridge;
    bool known = true;
    for (int i = 0; i < argc && known; i += 2)
        known = i + 1 < argc && parse(&o, argv[i], argv[i + 1]);
    if (!known || !o.policy || !o.tasks || !o.task || !o.log || !o.rows) {
        (void)fprintf(stderr, "usage: dynasor-bench hidden --policy DIR --tasks DIR --task "
                              "words|game24|long --log RUNLOG --rows FILE\n");
        return 2;
    }
    bool is_long = strcmp(o.task, task_names[TASK_LONG]) == 0;
    machine_open(o.policy, &m);
    fit(&o, &m, is_long, &ridge);
    predict(&o, &m, is_long, &ridge);
    ridge_free(&ridge);
    machine_close(&m);
    return 0;
}
