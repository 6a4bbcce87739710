/* daemon/engine/engine_sim.c — the engine without a model: a cost model in time, and tokens that are
 * a function of (seed, branch, position).
 *
 * A step costs step_ns plus the prefill of its rows, as one decode step of a memory-bound model
 * costs the same whatever its rows. Tokens are bytes of lower-case words, so that the byte codec
 * (daemon/text) makes text of them. */
#include <errno.h>
#include <stdlib.h>

#include "daemon/base/assert.h"
#include "daemon/base/rng.h"
#include "daemon/engine/engine.h"

struct engine {
    struct engine_config config;
    struct engine_row *rows; /* of the step in flight; NULL: none */
    uint32_t rows_count;
    uint64_t due_ns;
};

int engine_open(const struct engine_config *config, struct engine **ret_engine)
{
    struct engine *e = calloc(1, sizeof *e);
    if (!e)
        return -ENOMEM;
    e->config = *config;
    e->due_ns = UINT64_MAX;
    *ret_engine = e;
    return 0;
}

void engine_close(struct engine *e)
{
    free(e);
}

int engine_post(struct engine *e, struct engine_row *rows, uint32_t rows_count, uint64_t now_ns)
{
    ASSERT(rows_count >= 1 && rows_count <= e->config.rows_max);
    if (e->rows)
        return ENGINE_E_BUSY;
    uint64_t cost_ns = e->config.step_ns;
    for (uint32_t i = 0; i < rows_count; i++)
        cost_ns += rows[i].prefill_tokens * e->config.prefill_ns_per_token;
    e->rows = rows;
    e->rows_count = rows_count;
    e->due_ns = now_ns + cost_ns;
    return ENGINE_OK;
}

static uint32_t sim_token(const struct engine *e, const struct engine_row *row)
{
    static const char letters[] = "etaoinshrdlucmfwypvbgkjqxz      ";
    uint32_t pick = rng_below(row->seed ^ e->config.seed, row->branch, row->position,
                              (uint32_t)sizeof letters - 1);
    return (uint8_t)letters[pick];
}

uint32_t engine_next(struct engine *e, struct engine_row **ret_rows, uint64_t now_ns)
{
    if (!e->rows || now_ns < e->due_ns)
        return 0;
    for (uint32_t i = 0; i < e->rows_count; i++)
        e->rows[i].token = sim_token(e, &e->rows[i]);
    *ret_rows = e->rows;
    e->rows = NULL;
    e->due_ns = UINT64_MAX;
    return e->rows_count;
}

uint64_t engine_due_ns(const struct engine *e)
{
    return e->due_ns;
}

uint32_t engine_vocabulary_count(const struct engine *e)
{
    (void)e; /* every byte is a token */
    return 256;
}
