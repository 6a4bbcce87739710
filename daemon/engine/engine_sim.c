/* daemon/engine/engine_sim.c — the engine without a model: a cost model in time, and tokens that are
 * a function of (seed, branch, position) through the row's random bits.
 *
 * A step costs sim_step_ns, plus the prefill of what is more than one token a row, as one decode step
 * of a memory-bound model costs the same whatever its rows. Tokens are bytes of lower-case words: the
 * vocabulary of the byte codec (daemon/text). It has no KV cache and takes prompts of any length in
 * one step; like the real engine it lets any position follow any other. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "daemon/base/assert.h"
#include "daemon/engine/impl.h"

struct sim_step {
    struct engine_batch *batch;
    uint64_t due_ns;
};

struct engine_sim {
    struct engine base;
    struct sim_step steps[ENGINE_STEPS_MAX]; /* in flight, oldest first */
    uint32_t steps_count;
};

static struct engine_sim *of(const struct engine *e)
{
    return (struct engine_sim *)(uintptr_t)e; /* its first member */
}

static void sim_close(struct engine *e)
{
    free(of(e));
}

static void sim_describe(const struct engine *e, char *text, uint32_t bytes)
{
    (void)snprintf(text, bytes, "simulated engine: no model, a step takes %llu ns",
                   (unsigned long long)e->config.sim_step_ns); /* a cut line is as good */
}

static void sim_dot_vector(struct engine *e, const float *vector)
{
    (void)e;
    (void)vector;
}

static void sim_post(struct engine *e, struct engine_batch *batch, uint64_t now_ns)
{
    struct engine_sim *s = of(e);
    uint64_t begin_ns = now_ns;
    if (s->steps_count && s->steps[s->steps_count - 1].due_ns > now_ns)
        begin_ns = s->steps[s->steps_count - 1].due_ns;
    s->steps[s->steps_count++] = (struct sim_step){
        .batch = batch,
        .due_ns = begin_ns + e->config.sim_step_ns +
                  (batch->tokens_count - batch->rows_count) * e->config.sim_prefill_ns_per_token};
}

static uint32_t sim_token(const struct ops_sample_row *sampling)
{
    static const char letters[] = "etaoinshrdlucmfwypvbgkjqxz      ";
    if (sampling->forced_token != OPS_NONE)
        return sampling->forced_token;
    return (uint8_t)letters[(uint64_t)sampling->random * (sizeof letters - 1) >> 32];
}

static struct engine_batch *sim_next(struct engine *e, uint32_t place, uint64_t now_ns)
{
    struct engine_sim *s = of(e);
    (void)place;
    if (s->steps_count == 0 || now_ns < s->steps[0].due_ns)
        return NULL;
    struct engine_batch *batch = s->steps[0].batch;
    for (uint32_t i = 0; i < batch->rows_count; i++)
        batch->outputs[i] =
            (struct engine_output){.sampled.token = sim_token(&batch->rows[i].sampling)};
    s->steps_count--;
    for (uint32_t i = 0; i < s->steps_count; i++)
        s->steps[i] = s->steps[i + 1];
    return batch;
}

static uint64_t sim_due_ns(const struct engine *e)
{
    const struct engine_sim *s = of(e);
    return s->steps_count ? s->steps[0].due_ns : UINT64_MAX;
}

static int sim_fd(const struct engine *e, uint32_t place)
{
    (void)e, (void)place;
    return -1;
}

int engine_sim_open(const struct engine_config *config, char message[ENGINE_MESSAGE_BYTES],
                    struct engine **ret_engine)
{
    static const struct engine_impl impl = {.close = sim_close,
                                            .describe = sim_describe,
                                            .dot_vector = sim_dot_vector,
                                            .post = sim_post,
                                            .next = sim_next,
                                            .due_ns = sim_due_ns,
                                            .fd = sim_fd};
    struct engine_sim *s = calloc(1, sizeof *s);
    if (!s) {
        (void)snprintf(message, ENGINE_MESSAGE_BYTES, "no memory for the simulated engine");
        return -ENOMEM;
    }
    s->base.impl = &impl;
    s->base.config = *config;
    s->base.info[ENGINE_POLICY] = (struct engine_info){.present = true,
                                                       .vocabulary = 256,
                                                       .context_tokens = UINT32_MAX,
                                                       .steps_max = config->steps_max};
    *ret_engine = &s->base;
    return 0;
}
