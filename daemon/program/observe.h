/* daemon/program/observe.h — what every counted answer of a program looked like, for experiments and
 * calibration logs.
 *
 * A ring of records that the owner gives at start-up. An algorithm that counts an answer fills one;
 * without an observer nothing happens. When the ring is full, records are lost, and counted.
 *
 * Thread: control. Memory: the owner's ring; none of its own. Time: O(path and answers so far) an answer.
 * Fails: never. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "daemon/program/answer.h"
#include "daemon/program/runs.h"

struct observed {
    uint32_t user;      /* handle of its program */
    uint32_t n;         /* of the answer: 0, 1, ... in logical order */
    uint32_t group;     /* dense; CERTAINDEX_EMPTY: no answer */
    uint32_t winner;    /* the answer that the program would give now */
    uint32_t at_tokens; /* of a chain, where it was probed */
    uint32_t own_tokens;
    struct run_cost cost; /* of the program so far */
    uint64_t tokens_hash; /* of the path */
    double weight;
    double log_probability; /* mean over the path's tokens; likewise */
    double entropy;
    float confidence; /* 0: not watched */
    float reward;
    bool has_reward;
    bool hesitant;
    uint32_t answer_bytes; /* as it was written; 0: none, or too long */
    char answer[ANSWER_BYTES_MAX];
};

struct observer {
    struct observed *ring; /* [size] */
    uint32_t size;         /* a power of two */
    uint64_t put;
    uint64_t taken;
    uint64_t lost;
};

/* The answer that the run's ballot got last. */
void observe_answer(struct run *run);
/* The oldest record that was not taken; valid until the next answer is counted. NULL: none. */
const struct observed *observe_next(struct observer *observer);

/* Group of what the run, a chain that has finished, gives as its answer, among the answers it was asked for on
 * its way; the next one where it is none of them. CERTAINDEX_EMPTY: it gives none. */
uint32_t observe_end_group(struct run *run, const struct run_result *result);

/* FNV-1a over the tokens of a path. */
uint64_t observe_hash(const struct run *run, uint32_t branch);
