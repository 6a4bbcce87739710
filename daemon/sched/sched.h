/* daemon/sched/sched.h — which branches run in the next step.
 *
 * Knows sequences (branches) of opaque groups; knows neither programs nor clients. Order: first
 * come, first served, up to rows_max rows a step; when there are more, they take turns. A sequence
 * that is removed or paused while a step is in flight has its row of that step discarded (removed)
 * or delivered (paused).
 *
 * Thread: control. Memory: fixed at sched_new(). Time: add, remove O(1); poll O(rows).
 * Fails: sched_add() says SCHED_NONE when all sequences are taken. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "daemon/engine/engine.h"

struct sched;

#define SCHED_NONE UINT32_MAX

struct sched_config {
    uint32_t seqs_max; /* sequences alive at once */
    uint32_t rows_max; /* rows of a step */
};

struct sched_seq_args {
    uint64_t seed;
    uint32_t branch;
    uint32_t prompt_tokens; /* computed in the row of its first step */
    uint32_t user;          /* comes back in struct sched_result */
};

struct sched_result { /* one decoded token */
    uint32_t user;
    uint32_t position;
    uint32_t token;
};

/* engine is kept until sched_free(), which does not close it. */
int sched_new(const struct sched_config *config, struct engine *engine, struct sched **ret_sched);
void sched_free(struct sched *sched);

uint32_t sched_add(struct sched *sched, const struct sched_seq_args *args);
void sched_remove(struct sched *sched, uint32_t seq);
/* A paused sequence takes part in no step until it is resumed. Idempotent. */
void sched_pause(struct sched *sched, uint32_t seq);
void sched_resume(struct sched *sched, uint32_t seq);

/* Collects the step that is done and posts the next. Returns the rows collected and posted. */
uint32_t sched_poll(struct sched *sched, uint64_t now_ns);

/* Next token of the collected step; false: no more. Drain it before the next sched_poll(). */
bool sched_next(struct sched *sched, struct sched_result *ret_result);

/* When sched_poll() has something to do: now (0), or at a time; UINT64_MAX: idle. */
uint64_t sched_due_ns(const struct sched *sched);

/* Engine steps posted so far. */
uint64_t sched_steps_count(const struct sched *sched);
