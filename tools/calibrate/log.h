/* tools/calibrate/log.h — a run log in memory, as columns, ready for the policies of the daemon.
 *
 * Reads what daemon/program/runlog.h describes. Answers become dense groups in order of appearance;
 * the program's own answer at each step is aggregated where the log does not say it.
 * What a chain took over from its probes is in its length, and in what these cost: it is counted once.
 *
 * Memory: heap, until log_free(). Fails: -EINVAL with a message that names file and line; -errno. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "daemon/program/profile.h"

#define LOG_MESSAGE_BYTES 512u

struct log_run {
    uint32_t first; /* of its steps, in the columns */
    uint32_t count;
    uint32_t problem; /* 0 .. problems_count-1 */
    bool chain;       /* cot: steps are probes, the last one is the end */
    bool trees;       /* rebase: each grant of the policy grew a tree of its own */
    bool stopped;     /* before its cap: what would have come then is unknown */
    uint32_t knob;    /* that it had reached; fewer steps may have given an answer. 0: not said */
    uint32_t cap;     /* likewise, that it might have reached */
    char level[16];
    char name[32];
    char profile[PROFILE_NAME_BYTES]; /* that it ran under; "": not said */
    uint32_t version;                 /* of that, among log.versions; LOG_NO_VERSION: not said */
    bool changed;                     /* it was another when the program ended */
    bool of_batch;                    /* it shared one total with others */
};
#define LOG_NO_VERSION UINT32_MAX

/* A profile as it was in force. */
#define LOG_VERSION_BYTES (PROFILE_NAME_BYTES + 24u)
struct log_version {
    char name[LOG_VERSION_BYTES]; /* NAME@VERSION */
    struct profile profile;
};

struct log {
    uint32_t runs_count;
    uint32_t steps_count;
    uint32_t problems_count;
    bool labelled;
    bool has_reward;
    bool has_confidence;
    struct log_run *runs;
    uint32_t versions_count;
    struct log_version *versions;
    uint32_t *groups; /* [steps_count] answer; CERTAINDEX_EMPTY: none */
    uint64_t *tokens; /* by the program so far */
    uint64_t *costs;  /* charged up to here, but for probes that are no part of the program */
    uint32_t *probe_tokens;
    bool *adopted; /* the chain took the probe over: `costs` have it from the next step on */
    float *rewards;
    float *confidences;
    bool *hesitant;
    uint32_t *now;            /* group of the program's answer there */
    int8_t *right;            /* of the program's answer there; -1: not labelled */
    uint64_t *problem_hashes; /* [problems_count] of their names: what splits go by */
};

/* algorithm: only those programs; NULL: all, which must then be of one algorithm. */
int log_read(const char *path, const char *algorithm, struct log *ret_log,
             char ret_message[LOG_MESSAGE_BYTES]);
void log_free(struct log *log);
