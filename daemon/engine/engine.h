/* daemon/engine/engine.h — the narrow way into the engine: open, post a batch, next result, close.
 *
 * The engine knows a model and a batch of rows. Who asked for a row, and what comes after it, it
 * does not know. One batch is in flight at a time.
 *
 * Thread: control. Memory: fixed at engine_open(). Time: post and next are O(rows). */
#pragma once
#include <stdint.h>

struct engine; /* opaque; engine_sim.c is the implementation without a model */

struct engine_config {
    uint64_t step_ns;              /* cost of one decode step, whatever its rows */
    uint64_t prefill_ns_per_token; /* cost of each prompt token in a row */
    uint64_t seed;                 /* stands for the model: another seed, other tokens */
    uint32_t rows_max;             /* rows of a batch */
};

struct engine_row {          /* one branch, one step: at most one new token */
    uint32_t seq;            /* the caller's number for the branch; comes back */
    uint32_t seq_generation; /* likewise: tells a row of a branch that is gone */
    uint32_t position;       /* of the token to decode; 0 is the first after the prompt */
    uint32_t prefill_tokens; /* prompt tokens that this row computes first */
    uint64_t seed;
    uint32_t branch;
    uint32_t token; /* result */
};

enum engine_result { ENGINE_OK = 0, ENGINE_E_BUSY = 1 };

int engine_open(const struct engine_config *config, struct engine **ret_engine);
void engine_close(struct engine *engine);

/* Starts a step over rows[rows_count], rows_count 1 .. rows_max; the rows stay the caller's and are
 * filled in (token) when engine_next() returns them. ENGINE_E_BUSY: a step is in flight. */
int engine_post(struct engine *engine, struct engine_row *rows, uint32_t rows_count,
                uint64_t now_ns);

/* Rows of the step that is done, as they were posted; 0: none is. */
uint32_t engine_next(struct engine *engine, struct engine_row **ret_rows, uint64_t now_ns);

/* When engine_next() has something; UINT64_MAX: nothing is in flight. */
uint64_t engine_due_ns(const struct engine *engine);

/* Token ids are below it. */
uint32_t engine_vocabulary_count(const struct engine *engine);
