/* tests/lib/runs_rig.h — reasoning programs on a real engine with tiny models, and what came of each: freed
 * pages are poisoned with NaN, programs are started, turned and taken by index.
 *
 * Thread: one. Memory: runs_rig_open() until runs_rig_close(), which removes the models' folders too.
 * Fails: CHECK ends the test. */
#pragma once
#include "daemon/program/profile.h"
#include "daemon/program/runs.h"
#include "tests/lib/check.h"
#include "tests/lib/tiny.h"

#define CONTEXT 160u
#define BRANCHES_MAX 1024u
#define RUNS_MAX 72u
#define PROMPT_MAX 70u
#define ANSWERS_MAX 64u
#define END 300u /* the token that ends a text */
#define PAGES_OF_ONE ((CONTEXT + OPS_PAGE_TOKENS - 1) / OPS_PAGE_TOKENS)

struct sizes {
    uint32_t pages; /* of the policy; the reward model has a quarter, and at least one sequence's */
    uint32_t alive_max;
    uint32_t rows_max;
    uint32_t tokens_max;
    uint32_t
        texts_max; /* of the encoder, where there is one; tokens_max is then more than any text */
    uint32_t replicas; /* 0: one */
};

#define RIG_OTHERS_MAX 3u

struct rig {
    char *folder[ENGINE_ROLE_COUNT];
    struct engine *engine; /* of the first replica, like the next */
    struct sched *sched[2];
    struct engine *other_engines[RIG_OTHERS_MAX];
    struct runs_replica others[RIG_OTHERS_MAX];
    struct embed *embed;
    struct runs *runs;
    struct run_texts texts;
};

/* folder: of tiny_write(), taken over; NULL: no encoder. */
void rig_open(struct rig *r, char *const folder[ENGINE_ROLE_COUNT], const struct sizes *sizes);
void rig_close(struct rig *r); /* no page may be in use */

struct mix {
    uint32_t algorithm;
    const char *profile;
};

struct job {
    struct run_args args;
    struct policy_options policy;
    uint32_t prompt[PROMPT_MAX];
    uint32_t prompt_tokens;
    struct run *run;
    /* what came of it */
    bool done;
    struct run_result result;
    struct run_cost cost; /* without what was computed again */
    uint32_t said[CONTEXT];
    uint32_t said_count;
    char answer[ANSWER_BYTES_MAX];
    uint32_t answer_bytes;
    uint32_t answers_count;
    uint32_t groups_count;
    uint32_t group[ANSWERS_MAX]; /* of each answer, and whether it is one, and its text */
    bool valid[ANSWERS_MAX];
    char text[ANSWERS_MAX][ANSWER_BYTES_MAX];
    uint32_t bytes[ANSWERS_MAX];
};

/* What jobs are made within. */
struct job_kind {
    const struct ops_bias *biases; /* a random model writes text only where it is made likely */
    uint32_t biases_count;
    struct answer_rule answer;
    uint32_t prompt_tokens_max;
    uint32_t tokens_max;
    uint32_t cap_max;
};

void job_make(struct job *job, const struct job_kind *kind, const struct mix *mix, struct rng *rng);
/* Also where the algorithm has no such parameter. */
void job_set(struct job *job, uint32_t parameter, double value);
/* False: it is full. user: its index among the jobs of jobs_turn(). */
bool job_start(struct rig *r, struct job *job, uint32_t user);
void job_stop(struct job *job);
void job_same(const struct job *a, const struct job *b);

/* A step; false: nothing is done and nothing will be. Adds to ret_done. */
bool jobs_turn(struct rig *r, struct job *jobs, uint32_t *ret_done);
void jobs_run(struct rig *r, struct job *jobs, uint32_t count);
/* One after another; each must end DONE. */
void jobs_run_alone(struct rig *r, struct job *jobs, uint32_t count);

/* A random job of jobs is made and started, stopped one time in stop_odds, or paused, and all get a turn;
 * this for a few thousand times. What runs at the end is stopped. */
struct disturbed {
    uint32_t done;
    uint32_t stopped;
};
struct disturbed jobs_disturb(struct rig *r, struct job *jobs, uint32_t count, uint32_t stop_odds,
                              void (*make)(struct job *job, struct rng *rng), struct rng *rng);
