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

struct engine_sim {
    struct engine base;
    struct engine_batch *batch; /* of the step in flight; NULL: none */
    uint64_t due_ns;
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

static int sim_post(struct engine *e, struct engine_batch *batch, uint64_t now_ns)
{
    struct engine_sim *s = of(e);
    if (s->batch)
        return ENGINE_E_BUSY;
    s->batch = batch;
    s->due_ns = now_ns + e->config.sim_step_ns +
                (batch->tokens_count - batch->rows_count) * e->config.sim_prefill_ns_per_token;
    return ENGINE_OK;
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
    struct engine_batch *batch = s->batch;
    if (!batch || now_ns < s->due_ns)
        return NULL;
    for (uint32_t i = 0; i < batch->rows_count; i++)
        batch->outputs[i] =
            (struct engine_output){.sampled.token = sim_token(&batch->rows[i].sampling)};
    s->batch = NULL;
    s->due_ns = UINT64_MAX;
    return batch;
}

static uint64_t sim_due_ns(const struct engine *e)
{
    return of(e)->due_ns;
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
    s->base.info[ENGINE_POLICY] =
        (struct engine_info){.present = true, .vocabulary = 256, .context_tokens = UINT32_MAX};
    s->due_ns = UINT64_MAX;
    *ret_engine = &s->base;
    return 0;
}
