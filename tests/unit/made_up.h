/* tests/unit/made_up.h — runs on a scheduler of our own, which makes up tokens and scores, gives them out in
 * any order, and refuses at random.
 *
 * made_up.c takes the place of daemon/sched/sched.c in the tests that link it. Thread: the test's. Memory: the
 * test's. Fails: the test, by CHECK. */
#pragma once
#include "daemon/base/rng.h"
#include "daemon/program/algorithms.h"
#include "daemon/program/observe.h"
#include "daemon/program/runs.h"
#include "tests/lib/check.h"

#define SEQS_MAX 32768u
#define CONTEXT 1024u
#define BRANCHES_MAX 2048u
#define RUNS_MAX 80u
#define END 256u  /* token that ends a text; others are bytes */
#define LONG 257u /* but for this, of LONG_BYTES x, in the codec of codec_make() */
#define LONG_BYTES 200u

enum seq_state { FREE = 0, RUNS, PAUSED };

struct seq {
    enum seq_state state;
    bool stem;
    struct sched_seq_args args;
    uint32_t count; /* tokens */
    uint32_t own_first;
    uint32_t told;    /* of own */
    uint32_t *tokens; /* [CONTEXT], apart: what a step looks at is dense, as a scheduler's is */
};

struct sched {
    struct seq *seqs;
    uint32_t *tokens;             /* [SEQS_MAX, CONTEXT] */
    uint64_t runs[SEQS_MAX / 64]; /* a bit for each that RUNS */
    uint32_t fresh;
    uint32_t taken; /* none below is free */
    uint32_t used;
    uint64_t read_tokens; /* given to forks and roots */
    struct rng rng;
    uint32_t lazy;    /* of 100: how often a sequence has no row in a step */
    uint32_t refuses; /* of 100 */
    uint32_t *order;  /* [SEQS_MAX] of the step's results */
    uint32_t results;
    uint32_t next;
    bool is_reward;
};

typedef uint32_t writer(const struct seq *seq, uint32_t position);
extern writer *write_token;
extern void (*read_score)(const struct seq *seq); /* sees what is scored, or NULL */
extern struct observer *observed_by;              /* of the next rig; NULL: nobody */
extern bool is_measured;                          /* scores and confidences are not made up */

/* Letters, digits, ends of lines and of the text, and what probes answer, by nothing but seed, branch key and
 * position. */
uint32_t write_anything(const struct seq *seq, uint32_t position);
float confidence_of(uint64_t seed, uint32_t key, uint32_t position);
uint64_t hash_of(const uint32_t *tokens, uint32_t count);
float score_of(const uint32_t *tokens, uint32_t count);

struct job {
    struct run_args args;
    struct policy_options policy;
    uint32_t prompt[8];
};

struct outcome {
    bool done;
    struct run_result result;
    struct run_cost cost;
    uint64_t said; /* hash of its tokens */
    uint32_t said_count;
    uint32_t answer_bytes;
    char answer[ANSWER_BYTES_MAX];
};

struct rig {
    struct sched *sched[2];
    struct runs *runs;
    struct run_texts texts;
    struct codec *codec; /* bytes, and END ends a text; NULL: it does not */
};

/* A codec whose tokens are bytes, and which knows END. */
struct codec *codec_make(void);
/* lazy: of 100, how often a sequence has no row in a step; refuses: likewise, a fork. */
void rig_open(struct rig *rig, uint64_t seed, uint32_t lazy, uint32_t refuses);
void rig_open_with(struct rig *rig, struct codec *codec, uint64_t seed, uint32_t lazy,
                   uint32_t refuses);
void rig_close(struct rig *rig);
void job_make(struct job *job, uint32_t algorithm, uint64_t seed, const char *profile);
void set(struct job *job, uint32_t parameter, double value);
/* Starts what has a place and takes what is done, until all are. */
void run_all(struct rig *rig, struct job *jobs, struct outcome *outcomes, uint32_t count);
/* All but what is lost to the schedule. */
bool same(const struct outcome *a, const struct outcome *b);
