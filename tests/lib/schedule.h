/* tests/lib/schedule.h — a random scheduler over the real engine: sequences of known tokens, cut into
 * chunks, mixed into batches, forked off each other, on pages in no order.
 *
 * Everything that a token's logits must not depend on is drawn at random here; a test compares with
 * the same tokens alone in one chunk. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "daemon/engine/engine.h"
#include "tests/lib/check.h"

#define SCHEDULE_SEQS_MAX 8u
#define SCHEDULE_PAGES_MAX 16u /* of a sequence */
#define SCHEDULE_NONE UINT32_MAX

struct schedule_seq {
    uint32_t *tokens; /* [tokens_count] the caller's */
    uint32_t tokens_count;
    uint32_t parent;  /* SCHEDULE_NONE, or an earlier sequence that has the same first fork_at */
    uint32_t fork_at; /* tokens taken over from it */
    float *logits;    /* [tokens_count, vocabulary] result from fork_at on; NULL: outputs instead */
    struct engine_output *outputs; /* [tokens_count] of the tokens that ended a chunk */
    bool *known;                   /* [tokens_count] which of outputs are */
    uint32_t done;                 /* start with 0 */
    uint32_t pages[SCHEDULE_PAGES_MAX];
    uint32_t pages_count;
};

struct schedule {
    struct engine *engine;
    struct engine_batch *batch;
    struct schedule_seq *seqs;
    uint32_t seqs_count;
    uint32_t chunk_max; /* most tokens of a row */
    uint32_t tokens_max;
    bool share;  /* say which pages neighbours have in common */
    bool poison; /* poison pages before their first use */
    enum engine_role role;
    uint32_t want; /* of the last token of each row; pool slot is the sequence's number */
    struct rng *rng;
};

/* Runs all of them to their ends. */
void schedule_run(struct schedule *schedule);

/* Posts the batch, to all_logits when that is not NULL, and waits. */
void schedule_step(struct engine *engine, struct engine_batch *batch, float *all_logits);
