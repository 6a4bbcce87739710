/* daemon/program/runs.h — all programs that decode, as program.c drives them.
 *
 * Down by call (start, pause, stop), up by poll: runs_news() names runs with new tokens of a live branch,
 * or that have finished.
 *
 * There may be replicas: engines with the same models, each with a cache of its own. A run is bound to one when it
 * starts, branches fork within a cache, and is there until it is stopped: to the one with the least to do that
 * has room for it, and if several have as little, to the one that its tenant's runs go to then. What comes of
 * a run does not depend on the replica.
 *
 * Thread: control. Memory: fixed at runs_new(); tokens and branches are touched as they are used. Time:
 * poll is O(results of the step and rounds that ended with it). */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "daemon/program/run.h"

#define RUNS_REPLICAS_MAX 8u

struct runs_replica {
    struct sched *policy; /* kept until runs_free(), which does not free them; each holds at
                             least branches_max + runs_max sequences */
    struct sched *reward; /* NULL: no reward model */
};

struct runs_config {
    uint32_t runs_max;
    uint32_t branches_max; /* of all runs together */
    uint32_t context_tokens;
    const struct codec *codec;
    struct sched *policy; /* of the first replica, as struct runs_replica says */
    struct sched *reward;
    const struct runs_replica
        *others;                     /* [others_count] further ones, with the same models; copied */
    uint32_t others_count;           /* below RUNS_REPLICAS_MAX */
    const struct run_texts *texts;   /* kept, like the next */
    struct observer *observer;       /* NULL: none */
    struct embed *embed;             /* of all replicas; likewise; NULL: no embed model */
    const struct codec *embed_codec; /* of that model */
};
/* Whether programs may compare answers by likeness. */
bool runs_have_vectors(const struct runs *runs);
int runs_new(const struct runs_config *config, struct runs **ret_runs);
void runs_free(struct runs *runs);

struct run_args {
    const struct algorithm *algorithm;
    const uint8_t *stop_tokens; /* [stop_tokens_count] of uint32_t; lists are the caller's until
                                   run_stop() */
    uint32_t stop_tokens_count;
    bool ignore_eos;
    bool stop_include;
    struct parameters parameters;
    const struct policy_options *policy; /* kept until run_stop(); may change meanwhile */
    uint32_t user;                       /* comes back from runs_news() */
    uint64_t seed;
    uint32_t tenant;
    uint32_t group;
    struct ops_sample_row sampling;
    const struct ops_bias *biases;
    const uint8_t *stops; /* each a byte with its length, then so many bytes */
    uint32_t stops_bytes;
};

enum runs_result {
    RUNS_OK = 0,
    RUNS_E_FULL = 1, /* not now */
    RUNS_E_LONG = 2, /* prompt and max_tokens are more than the cache holds */
    RUNS_E_WIDE = 3, /* it may have more branches at once than there can be */
};
/* prompt is copied; NULL with an engine that looks at no tokens. */
enum runs_result runs_start(struct runs *runs, const struct run_args *args, const uint32_t *prompt,
                            uint32_t prompt_tokens, struct run **ret_run);
/* Ends a run wherever it is and forgets it. */
void run_stop(struct run *run);

/* Runs the schedulers, takes their results and lets algorithms whose round is over decide. Returns the
 * work done. */
uint32_t runs_poll(struct runs *runs, uint64_t now_ns);
/* Next run with news, each once until it has news again; NULL: none. */
struct run *runs_news(struct runs *runs, uint32_t *ret_user);

enum run_end { RUN_GOES_ON = 0, RUN_DONE, RUN_NUMERIC };
struct run_result {
    enum run_end end;
    enum run_verdict verdict;
    uint32_t branch; /* the path to it is what the program says; RUN_NONE: nothing */
    uint32_t answer; /* branch with its answer, or RUN_NONE */
    uint32_t knob;
    struct certaindex seen;
};
const struct run_result *run_result(const struct run *run);

/* Tokens of the path to a branch from position `from` on, as many as lie together; 0: it ends there. */
const uint32_t *run_path(const struct run *run, uint32_t branch, uint32_t from,
                         uint32_t *ret_count);
/* The answer's text, not terminated, at most ANSWER_BYTES_MAX of it; valid until the next call on any
 * run. False: there is none. */
bool run_answer(struct run *run, const char **ret_text, uint32_t *ret_bytes);
/* A live branch waits until it is let go on, and keeps its tokens meanwhile. */
void run_pause(struct run *run);
void run_resume(struct run *run);

/* It waits for its batch. Lets it go on to a knob above the one it has reached, or (0) end with what it has. */
bool run_waits(const struct run *run);
void run_go_on(struct run *run, uint32_t knob);

uint64_t runs_tokens_count(const struct runs *runs); /* decoded since runs_new() */
void runs_sched_stats(const struct runs *runs,
                      struct sched_stats *ret_stats); /* of policies, summed over the replicas */
uint32_t run_replica(const struct run *run);          /* the first is 0 */

/* There may be room for a run that was FULL before. */
bool runs_room_changed(struct runs *runs);
uint64_t runs_due_ns(const struct runs *runs);
#define RUNS_FDS (2u * RUNS_REPLICAS_MAX + 1u)
void runs_fds(const struct runs *runs, int ret_fds[RUNS_FDS]); /* -1: none */
