/* daemon/program/ballot.h — the finished paths of one run, in logical order: their answers, which are
 * the same, and which wins.
 *
 * Thread: control. Memory: fixed at ballots_new(), touched as far as runs have answers. Time: adding is
 * O(text and groups). Fails: only ballots_new(). */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/program/answer.h"
#include "daemon/program/cluster.h"
#include "daemon/program/policy.h"

#define BALLOT_NONE UINT32_MAX

#define BALLOT_ANSWERS_MAX POLICY_ANSWERS_MAX

struct ballot_room { /* of all runs */
    uint8_t *memory;
    size_t bytes;      /* of all */
    size_t bytes_each; /* of a run */
};
int ballots_new(uint32_t runs_max, struct ballot_room *ret_room);
void ballots_free(struct ballot_room *room);

struct hash128;
struct ballot {
    struct cluster cluster;
    struct answer *answers;          /* [count] */
    struct hash128 *raw;             /* [count] of the answers' bytes */
    uint32_t *branch;                /* [count] where each path ends */
    double *weight;                  /* [count] */
    float *reward;                   /* [count] of the path's end */
    float *confidence;               /* [count] least group confidence of the path */
    struct certaindex_probe *probes; /* [count] of a chain of thought, whose answers are probes' */
    uint32_t *counts;                /* [2 count] scratch of ballot_view() */
    double *sums;                    /* [count] scratch */
    uint32_t rewards_count;
    float *units; /* [BALLOT_ANSWERS_MAX, dimensions] of the answers, the caller's; NULL: answers
                        that are equal are one */
    uint32_t dimensions;
    double likeness;       /* cosine from which two answers are one */
    uint32_t knob_decided; /* by the policy that last looked at them; 0: none has */
};
void ballot_init(struct ballot *ballot, const struct ballot_room *room, uint32_t run);

struct ballot_vote {
    uint32_t branch;
    double weight; /* in the majority by weight, and for the best */
    float reward;
    bool has_reward;
    float confidence;
    const float *vector; /* of the answer, where vectors are compared; NULL: none */
};
/* text is the whole path's; its answer may be missing. Returns the answer's number. At most
 * BALLOT_ANSWERS_MAX. */
uint32_t ballot_add(struct ballot *ballot, const struct answer_rule *rule, const char *text,
                    uint32_t bytes, const struct ballot_vote *vote);

/* What the policy looks at, of the answers from first on; knob_done, knob_cap and tokens are the caller's. */
void ballot_view(struct ballot *ballot, uint32_t first, struct policy_view *ret_view);

enum ballot_rule { BALLOT_MAJORITY = 0, BALLOT_WEIGHTED = 1, BALLOT_BEST = 2 };
/* The branch that speaks for the winner: of a majority the first with that answer, of weights the
 * heaviest of its group. An answer that is missing wins only when all are. BALLOT_NONE: no answers. */
uint32_t ballot_winner(struct ballot *ballot, enum ballot_rule rule);
