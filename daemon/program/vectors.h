/* daemon/program/vectors.h — vectors of answers, for programs that compare answers by likeness.
 *
 * A branch whose answer may be counted settles when its answer's vector is there, too. The vector is that
 * of the answer's text alone, whoever else runs: the embed model's, or the mean of the policy model's
 * final hidden states over the answer's tokens. Only the first VECTORS_TEXT_BYTES_MAX of the text, and
 * as many tokens of it as the model takes, are looked at.
 *
 * Which branches: probes; of an algorithm that is not live, those that ended, are as deep as a path
 * goes, or have an answer. An answer that is counted without a vector (a search that ends in a dead end)
 * is compared as equal or not.
 *
 * Thread: control. Memory: fixed at vectors_new(), touched as far as answers have vectors. Time: O(text and
 * path) for each answer. Fails: only vectors_new(). */
#pragma once
#include "daemon/program/run_impl.h"

#define VECTORS_TEXT_BYTES_MAX 2048u
#define VECTORS_USER 0x40000000u /* with the node's number: results of our sequences */

enum vector_state { VECTOR_NONE = 0, VECTOR_WAITS, VECTOR_AWAY, VECTOR_THERE };

/* *ret_vectors is NULL when no model gives vectors. */
int vectors_new(const struct runs_config *config, struct vectors **ret_vectors);
void vectors_free(struct vectors *vectors);

/* At a run's begin and end. */
void vectors_begin(struct run *run);
void vectors_end(struct run *run);

/* The branch has just stopped. True: its vector has been asked for. */
bool vectors_ask(struct node *node);
/* Nobody needs it any more. */
void vectors_drop(struct node *node);

static inline bool vectors_pending(const struct node *n)
{
    return n->vector == VECTOR_WAITS || n->vector == VECTOR_AWAY;
}

/* Of the policy's scheduler, with VECTORS_USER; returns the branch that it is of. */
struct node *vectors_result(struct runs *runs, const struct sched_result *result);
/* Runs the embed model. Returns the work done. */
uint32_t vectors_poll(struct runs *runs, uint64_t now_ns);
/* Next branch whose vector came from there; NULL: no more. */
struct node *vectors_next(struct runs *runs);
uint64_t vectors_due_ns(const struct runs *runs);
