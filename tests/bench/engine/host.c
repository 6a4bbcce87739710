/* What the host does between steps, without the steps: an engine that answers at once. It builds the
 * step's image as the real one does when a batch is posted. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/clock.h"
#include "daemon/engine/impl.h"
#include "daemon/engine/step.h"
#include "daemon/sched/sched.h"
#include "tests/bench/engine/bench_engine.h"

#define VOCABULARY 32000u
#define CONTEXT 4096u
#define PROMPT 2000u
#define TOKENS 1024u /* that a branch may sample */
#define BRANCHES 256u
#define STEMS 8u
#define KV_PAGES 16384u
#define TOKENS_MAX 2048u
#define SAMPLES_MAX 2000u

struct null_engine {
    struct engine base;
    struct engine_batch *batch; /* posted; NULL: none */
    struct step step;
    uint8_t *image;
};

static struct null_engine *of(const struct engine *e)
{
    return (struct null_engine *)(uintptr_t)e; /* its first member */
}

static void null_close(struct engine *e)
{
    free(of(e)->image);
    free(of(e));
}

static void null_post(struct engine *e, struct engine_batch *batch, uint64_t now_ns)
{
    (void)now_ns;
    step_build(&of(e)->step, batch, true, NULL);
    of(e)->batch = batch;
}

static struct engine_batch *null_next(struct engine *e, uint32_t place, uint64_t now_ns)
{
    (void)place, (void)now_ns;
    struct engine_batch *batch = of(e)->batch;
    of(e)->batch = NULL;
    for (uint32_t i = 0; batch && i < batch->rows_count; i++)
        batch->outputs[i] =
            (struct engine_output){.sampled.token = batch->rows[i].sampling.random % VOCABULARY};
    return batch;
}

static uint64_t null_due_ns(const struct engine *e)
{
    (void)e;
    return 0;
}

static int null_fd(const struct engine *e, uint32_t place)
{
    (void)e, (void)place;
    return -1;
}

static struct engine *null_open(void)
{
    static const struct engine_impl impl = {.close = null_close,
                                            .post = null_post,
                                            .next = null_next,
                                            .due_ns = null_due_ns,
                                            .fd = null_fd};
    struct null_engine *e = calloc(1, sizeof *e);
    struct step_limits limits = {.rows_max = BRANCHES,
                                 .tokens_max = TOKENS_MAX,
                                 .pages_stride = CONTEXT / OPS_PAGE_TOKENS,
                                 .history_max = CONTEXT,
                                 .biases_max = BRANCHES};
    uint64_t bytes = (step_image_bytes(&limits) + OPS_ALIGN_BYTES - 1) / OPS_ALIGN_BYTES;
    if (!e || !(e->image = aligned_alloc(OPS_ALIGN_BYTES, bytes * OPS_ALIGN_BYTES)))
        abort(); /* a few megabytes */
    step_init(&e->step, e->image, bytes * OPS_ALIGN_BYTES);
    e->base.impl = &impl;
    e->base.config =
        (struct engine_config){.rows_max = BRANCHES, .tokens_max = TOKENS_MAX, .ranks_count = 1};
    e->base.info[ENGINE_POLICY] = (struct engine_info){
        .present = true, .vocabulary = VOCABULARY, .context_tokens = CONTEXT, .kv_pages = KV_PAGES};
    return &e->base;
}

static uint32_t collect(struct sched *s)
{
    struct sched_result result;
    uint32_t count = 0;
    while (sched_next(s, &result))
        count++;
    return count;
}

static struct sched_seq_args args_of(uint32_t group, uint32_t branch)
{
    return (struct sched_seq_args){.seed = 1,
                                   .branch = branch,
                                   .group = group,
                                   .max_tokens = TOKENS,
                                   .sampling = {.temperature = 1,
                                                .top_p = 1,
                                                .repetition = 1,
                                                .forced_token = OPS_NONE,
                                                .confidence_count = 20}};
}

/* A computed prompt of its own for each group. */
static int stems_new(struct sched *s, uint32_t *ret_stems)
{
    static uint32_t prompt[PROMPT];
    for (uint32_t g = 0; g < STEMS; g++) {
        struct sched_seq_args args = args_of(g, 0);
        for (uint32_t i = 0; i < PROMPT; i++)
            prompt[i] = (g * 7919 + i * 31) % VOCABULARY;
        args.prompt = prompt;
        args.prompt_tokens = PROMPT;
        args.stem = true;
        if (sched_add(s, &args, &ret_stems[g]) != SCHED_OK)
            return 1;
    }
    for (uint32_t i = 0; i < 4 * STEMS; i++) {
        (void)sched_poll(s, i);
        (void)collect(s);
    }
    return 0;
}

static int forks_run(struct sched *s, uint32_t stem, uint32_t count, double *ret_us)
{
    uint32_t seqs[BRANCHES];
    for (uint32_t at = 0; at < count; at++) {
        struct sched_seq_args args = args_of(0, at);
        uint64_t begin_ns = clock_now_ns();
        if (sched_fork(s, stem, &args, &seqs[at % 32]) != SCHED_OK)
            return 1;
        ret_us[at] = (double)(clock_now_ns() - begin_ns) / NS_PER_US;
        for (uint32_t i = 0; at % 32 == 31 && i < 32; i++)
            sched_remove(s, seqs[i]);
    }
    return 0;
}

static int plans_run(struct sched *s, const uint32_t *stems, uint32_t count, double *ret_us)
{
    uint32_t seq;
    for (uint32_t i = 0; i < BRANCHES; i++) {
        struct sched_seq_args args = args_of(i * STEMS / BRANCHES, i);
        if (sched_fork(s, stems[i * STEMS / BRANCHES], &args, &seq) != SCHED_OK)
            return 1;
    }
    for (uint32_t at = 0; at < count; at++) {
        uint64_t begin_ns = clock_now_ns();
        (void)sched_poll(s, begin_ns);
        uint32_t rows = collect(s);
        ret_us[at] = (double)(clock_now_ns() - begin_ns) / NS_PER_US;
        if (rows != BRANCHES)
            return 1;
    }
    return 0;
}

int bench_host(const struct bench_options *o)
{
    static double us[SAMPLES_MAX];
    uint32_t stems[STEMS], forks = o->quick ? 640 : 1920, plans = o->quick ? 200 : 800;
    struct engine *engine = null_open();
    struct sched *sched = NULL;
    struct sched_config config = {
        .seqs_max = 512, .groups_max = STEMS, .rows_max = BRANCHES, .tokens_max = TOKENS_MAX};
    int failed = sched_new(&config, engine, &sched) != 0 || stems_new(sched, stems) != 0;
    failed = failed || forks_run(sched, stems[0], forks, us) != 0;
    if (!failed) {
        double median = bench_median(us, forks);
        printf("fork of %u tokens: %.2f us, 99 %% below %.2f us\n", PROMPT, median,
               us[forks * 99 / 100]);
        bars_set(BAR_FORK_US, median);
    }
    failed = failed || plans_run(sched, stems, plans, us) != 0;
    if (!failed) {
        double median = bench_median(us, plans);
        printf("planning of %u branches: %.1f us a step, 99 %% below %.1f us\n", BRANCHES, median,
               us[plans * 99 / 100]);
        bars_set(BAR_PLAN_US, median);
    }
    if (failed)
        (void)fprintf(stderr, "the scheduler did not take the branches\n");
    sched_free(sched);
    engine_close(engine);
    return failed;
}
