/* bench-steps: what programs cost besides the engine, at 256 running branches of each algorithm: the program layer
 * as it is, on the scheduler that makes up tokens (tests/unit/made_up.h).
 *
 *   bench-steps [STEPS [ALGORITHM]]
 *
 * For each algorithm so many programs run that about 256 branches decode, one that ends is followed by another,
 * and each step (2,000) is timed: programs_poll(), and taking what programs say. From that goes what the
 * made-up scheduler takes to poll, add, fork and remove (the linker's --wrap leads that through here) with the clock that
 * is asked before and after, and for as many rows by itself. Before that every program has been followed by another: memory is touched for the first time once
 * in a daemon's life. Time is the wall's: the median of a machine that does something else as well is still near.
 *
 * The last line is `program_step_us MEDIAN` of the algorithm whose median is the greatest, which
 * `make bench-programs` holds to its bar. Exits 0, or 2 for wrong arguments. */
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/program/profile.h"
#include "daemon/program/program.h"
#include "tests/lib/check.h"
#include "tests/unit/made_up.h"

#define PROGRAMS_MAX 512u
#define BRANCHES 256u
#define PROGRAM_BRANCHES                                                                           \
    65536u /* that programs may have by their parameters: trees at their defaults */
#define STEPS_MAX 100000u

/* ---- the scheduler's share ---------------------------------------------------------------------- */

static uint64_t sched_ns;    /* of the step so far */
static uint32_t sched_calls; /* likewise: to ask the clock takes time, too */

#define WRAP(type, name, parameters, arguments)                                                    \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters;                                                                 \
    type __wrap_##name parameters                                                                  \
    {                                                                                              \
        uint64_t begin = now_ns();                                                                 \
        type result = __real_##name arguments;                                                     \
        sched_ns += now_ns() - begin;                                                              \
        sched_calls++;                                                                             \
        return result;                                                                             \
    }

WRAP(uint32_t, sched_poll, (struct sched * s, uint64_t at_ns), (s, at_ns))
WRAP(int, sched_add, (struct sched * s, const struct sched_seq_args *args, uint32_t *ret_seq),
     (s, args, ret_seq))
WRAP(int, sched_fork,
     (struct sched * s, uint32_t parent, const struct sched_seq_args *args, uint32_t *ret_seq),
     (s, parent, args, ret_seq))

void __real_sched_remove(struct sched *s, uint32_t seq);
void __wrap_sched_remove(struct sched *s, uint32_t seq);

void __wrap_sched_remove(struct sched *s, uint32_t seq)
{
    uint64_t begin = now_ns();
    __real_sched_remove(s, seq);
    sched_ns += now_ns() - begin;
    sched_calls++;
}

/* What two questions to the clock take beyond what is between their answers, in nanoseconds. */
static double clock_ns(void)
{
    const uint32_t count = 100000;
    uint64_t between = 0, begin = now_ns();
    for (uint32_t i = 0; i < count; i++) {
        uint64_t first = now_ns();
        between += now_ns() - first;
    }
    return (double)(now_ns() - begin - between) / count;
}

/* ---- programs ----------------------------------------------------------------------------------- */

/* Words, steps that end after 30 to 60 tokens, an answer and an end after 200 to 300. Costs next to nothing. */
static uint32_t write_text(const struct seq *q, uint32_t position)
{
    uint32_t key = q->args.branch * 2654435761u + (uint32_t)q->args.seed * 40503u;
    uint32_t at = q->count - 8; /* of the path, behind the prompt */
    if (q->args.branch >> 31)   /* a probe */
        return position == 0 ? '0' + key % 3 : '}';
    if (at > 200 + key % 100)
        return position % 2 ? END : '0' + key % 7;
    return at % (30 + key % 31) == 29 ? '\n' : at % 6 == 5 ? ' ' : 'a' + at % 16;
}

static const struct load {
    uint32_t algorithm;
    uint32_t programs;
    const char *profile;
    uint32_t streams;
    struct program_setting settings[3];
} loads[] = {
    {DYNASOR_ALGORITHM_SINGLE,
     BRANCHES,
     "even",
     DYNASOR_STREAM_TOKENS | DYNASOR_STREAM_TEXT,
     {{0}}},
    {DYNASOR_ALGORITHM_SC, 18, "even", 0, {{DYNASOR_PARAMETER_CAP, 16}}},
    {DYNASOR_ALGORITHM_BEST_OF_N, 18, "even", 0, {{DYNASOR_PARAMETER_CAP, 16}}},
    {DYNASOR_ALGORITHM_REBASE, 44, "even", 0, {{DYNASOR_PARAMETER_CAP, 16}}},
    {DYNASOR_ALGORITHM_MCTS, 78, "even", 0, {{0}}},
    {DYNASOR_ALGORITHM_BEAM, 43, "even", 0, {{0}}},
    {DYNASOR_ALGORITHM_COT, BRANCHES, "cot-mid", DYNASOR_STREAM_TOKENS, {{0}}},
    {DYNASOR_ALGORITHM_SC_COT, 38, "sc_cot-math", 0, {{DYNASOR_PARAMETER_CAP, 16}}},
};

struct bench {
    struct rig rig;
    struct programs *programs;
    const struct load *load;
    uint64_t submitted;
    uint32_t running; /* programs */
    uint64_t tokens;  /* of the steps measured, like the next */
    uint64_t begun;   /* programs */
    uint64_t *step_ns;
    uint32_t steps;
    double clock_ns; /* as clock_ns() */
};

static void submit(struct bench *b)
{
    static const char prompt[] = "how many";
    const struct load *l = b->load;
    uint32_t count = 0;
    while (count < COUNT_OF(l->settings) && l->settings[count].value > 0)
        count++;
    static const struct answer_rule number = {.kind = ANSWER_NUMBER};
    struct program_spec spec = {.sampling = {.temperature = 1, .repetition_penalty = 1},
                                .prompt = (const uint8_t *)prompt,
                                .prompt_bytes = sizeof prompt - 1,
                                .seed = ++b->submitted,
                                .algorithm = l->algorithm,
                                .streams = l->streams | DYNASOR_STREAM_RESULT,
                                .max_tokens = 400,
                                .settings = l->settings,
                                .settings_count = count,
                                .answer = l->algorithm == DYNASOR_ALGORITHM_SINGLE ? NULL : &number,
                                .profile = l->profile,
                                .profile_bytes = (uint32_t)strlen(l->profile)};
    struct program_refusal no = program_check(b->programs, &spec);
    CHECK(no.status == DYNASOR_OK, "refused: field %d, %" PRIu64 " of %" PRIu64, (int)no.field,
          no.got, no.max);
    CHECK(program_submit(b->programs, &spec) != PROGRAM_NONE, "no place");
    b->running++;
}

/* What ipc does with it, but for the rings. Returns how many have ended. */
static uint32_t listen(struct bench *b)
{
    uint32_t handle, ended = 0;
    while (program_next(b->programs, &handle)) {
        const struct program_view *v = program_view(b->programs, handle);
        program_consume(b->programs, handle, v->tokens_count, v->text_bytes_count);
        if (v->state < DYNASOR_STATE_DONE)
            continue;
        CHECK(v->state == DYNASOR_STATE_DONE, "state %u, status %u", v->state, v->status);
        program_free(b->programs, handle);
        ended++;
    }
    return ended;
}

static void run(struct bench *b, uint32_t steps)
{
    struct programs_stats stats;
    programs_stats(b->programs, &stats);
    uint64_t before = stats.tokens_count, submitted = b->submitted;
    for (b->steps = 0; b->steps < steps; b->steps++) {
        while (b->running < b->load->programs)
            submit(b);
        sched_ns = sched_calls = 0;
        uint64_t begin = now_ns();
        (void)programs_poll(b->programs, 1);
        b->running -= listen(b);
        uint64_t took = now_ns() - begin;
        uint64_t not_ours = sched_ns + (uint64_t)(sched_calls * b->clock_ns);
        b->step_ns[b->steps] = took > not_ours ? took - not_ours : 0;
    }
    programs_stats(b->programs, &stats);
    b->tokens = stats.tokens_count - before;
    b->begun = b->submitted - submitted;
}

static int ascending(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static double us_of(const uint64_t *sorted, uint32_t count, double share)
{
    return (double)sorted[(uint32_t)(share * (count - 1))] / 1e3;
}

/* So many rows of the made-up scheduler by themselves: median of a step. */
static double scheduler_us(uint32_t rows, uint64_t *step_ns, uint32_t steps)
{
    struct rig r;
    uint32_t tokens[8] = {0}, seq[BRANCHES];
    rig_open_with(&r, NULL, 1, 0, 0);
    for (uint32_t i = 0; i < rows; i++)
        assert_int_equal(sched_add(r.sched[0],
                                   &(struct sched_seq_args){.prompt = tokens,
                                                            .prompt_tokens = 8,
                                                            .max_tokens = CONTEXT - 8,
                                                            .branch = i},
                                   &seq[i]),
                         SCHED_OK);
    steps = steps < CONTEXT - 8 ? steps : CONTEXT - 8;
    for (uint32_t s = 0; s < steps; s++) {
        struct sched_result result;
        (void)sched_poll(r.sched[0], 1);
        uint64_t begin = now_ns();
        while (sched_next(r.sched[0], &result))
            ;
        step_ns[s] = now_ns() - begin;
    }
    for (uint32_t i = 0; i < rows; i++)
        sched_remove(r.sched[0], seq[i]);
    rig_close(&r);
    qsort(step_ns, steps, sizeof *step_ns, ascending);
    return us_of(step_ns, steps, 0.5);
}

/* The median. */
static double measure(struct codec *codec, const struct load *load, uint64_t *step_ns,
                      uint32_t steps)
{
    struct bench b = {.load = load, .step_ns = step_ns, .clock_ns = clock_ns()};
    rig_open_with(&b.rig, codec, 1, 0, 0);
    assert_int_equal(programs_new(&(struct programs_config){.programs_max = PROGRAMS_MAX,
                                                            .branches_max = PROGRAM_BRANCHES,
                                                            .context_tokens = CONTEXT,
                                                            .prompt_bytes_max = 4096,
                                                            .codec = codec,
                                                            .policy = b.rig.sched[0],
                                                            .reward = b.rig.sched[1]},
                                  &b.programs),
                     0);
    while (b.submitted < 2ull * load->programs)
        run(&b, 10);
    run(&b, steps);
    uint32_t rows = (uint32_t)(b.tokens / steps);
    qsort(step_ns, steps, sizeof *step_ns, ascending);
    double median = us_of(step_ns, steps, 0.5), late = us_of(step_ns, steps, 0.99), sum = 0;
    for (uint32_t i = 0; i < steps; i++)
        sum += (double)step_ns[i] / 1e3 / steps;
    for (uint32_t handle = 0; handle < PROGRAMS_MAX; handle++)
        if (program_view(b.programs, handle)->state != DYNASOR_STATE_FREE)
            program_free(b.programs, handle);
    programs_free(b.programs);
    rig_close(&b.rig);
    rows = rows < BRANCHES ? rows : BRANCHES;
    double alone = scheduler_us(rows, step_ns, steps);
    (void)printf(
        "%-10s %3u rows and %.2f new programs a step: median %6.1f us, mean %6.1f us, 99 %% "
        "below %7.1f us; the scheduler's %.1f us are taken off\n",
        algorithm_get(load->algorithm)->name, rows, (double)b.begun / steps, median - alone,
        sum - alone, late - alone, alone);
    return median - alone;
}

int main(int argc, char **argv)
{
    static uint64_t step_ns[STEPS_MAX];
    char *end = NULL;
    unsigned long steps = argc > 1 ? strtoul(argv[1], &end, 10) : 2000;
    const char *only = argc > 2 ? argv[2] : NULL; /* for who looks for the time */
    if (argc > 3 || (end && *end) || steps < 10 || steps > STEPS_MAX) {
        (void)fprintf(stderr, "usage: bench-steps [10..%u [ALGORITHM]]\n", STEPS_MAX);
        return 2;
    }
    struct codec *codec = codec_make();
    double worst = 0;
    write_token = write_text;
    is_measured = true;
    for (uint32_t i = 0; i < COUNT_OF(loads); i++) {
        if (only && strcmp(only, algorithm_get(loads[i].algorithm)->name) != 0)
            continue;
        double median = measure(codec, &loads[i], step_ns, (uint32_t)steps);
        worst = median > worst ? median : worst;
    }
    codec_free(codec);
    if (worst == 0) {
        (void)fprintf(stderr, "bench-steps: there is no load of %s\n", only);
        return 2;
    }
    (void)printf("program_step_us %.2f\n", worst);
    return 0;
}
