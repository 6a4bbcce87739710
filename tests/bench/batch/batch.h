/* tests/bench/batch/batch.h — parts of `dynasor-bench batch` and `dynasor-bench programs`: experiments with
 * reasoning programs over the tasks of the shipped models.
 *
 * Models, scheduler and programs run in this process as the daemon wires them, without clients. An
 * experiment is one task, algorithm, policy and cap over problems and seeds; its outcome is a list of
 * items with every answer that was counted.
 *
 * Thread: main. Memory: heap; what cannot be had ends the process with a sentence (a tool, not the
 * daemon). */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "daemon/program/observe.h"
#include "daemon/program/program.h"
#include "tests/bench/dynasor/tasks.h"

/* ---- what is run ------------------------------------------------------------------------------- */

#define SETTINGS_MAX 8u

struct experiment {
    enum task task;
    char set[32]; /* test or calibration */
    uint32_t algorithm;
    struct profile profile;
    uint32_t cap; /* 0: the algorithm has none, or its default */
    uint32_t max_tokens;
    float temperature;
    struct program_setting settings[SETTINGS_MAX];
    uint32_t settings_count;
};

/* "sc"; DYNASOR_ALGORITHM_COUNT: none of that name. */
uint32_t algorithm_number(const char *name);
/* Name=value of the algorithm; the cap is one of them. */
void experiment_set(struct experiment *e, const char *name, const char *value);
/* Of the algorithm's default where it has one. */
uint32_t experiment_cap(const struct experiment *e);
struct parameters experiment_parameters(const struct experiment *e);
/* The programs of each seed are one batch, in the order of the work (docs/CERTAINDEX.md): all of them have to
 * be in flight. */
bool experiment_batched(const struct experiment *e);

/* ---- what came out ------------------------------------------------------------------------------ */

/* One counted answer. Tokens: decoded by the program in logical order up to here and read by the reward
 * model, without probes. */
struct step {
    uint32_t tokens;
    uint32_t probe_tokens; /* of this one */
    uint32_t winner;       /* step whose answer the program would give now */
    uint32_t group;        /* CERTAINDEX_EMPTY: no answer */
    bool right;
    bool has_reward;
    bool hesitant;
    float reward;
    float log_probability;
    float entropy;
    float confidence;
};

struct item {
    uint32_t problem; /* line of the set */
    uint32_t seed;
    uint32_t level;
    uint32_t verdict; /* enum run_verdict */
    uint32_t knob;
    bool right;
    struct run_cost cost;
    uint32_t latency_steps; /* of the policy model's scheduler, submission to end */
    double latency_s;
    uint64_t hash; /* of all answers' paths */
    uint32_t steps_count;
    struct step *steps;
};

struct items {
    struct experiment experiment;
    struct item *all;
    uint32_t count;
    uint32_t problems_count;
    double seconds;
    char level[16]; /* of instructions; other ones write other tokens */
};
void items_free(struct items *items);

/* Decoded, probed and read by the reward model: the same whoever else ran, as a replay says it. */
static inline uint64_t item_tokens(const struct item *item)
{
    return item->cost.decoded_tokens + item->cost.probe_tokens + item->cost.reward_tokens;
}

/* With what it decoded beyond its logical end and dropped, as its other branches were slower: what a program that
 * was run is charged. */
static inline uint64_t item_charged(const struct item *item)
{
    return item_tokens(item) + item->cost.lost_tokens;
}

/* ---- host.c: the models and their programs ------------------------------------------------------ */

struct host;

struct host *host_open(const char *policy, const char *reward, uint32_t programs_max);
void host_close(struct host *host);
/* What this machine runs at: amx, avx512, avx2 or scalar. */
const char *host_level(void);

struct work {
    const struct problem *problem;
    uint32_t seed;
};
/* Runs the experiment; items in the order of the work, whatever ended first. progress: a name for a line
 * on stderr, or NULL. */
void host_run(struct host *host, const struct experiment *experiment, const struct work *work,
              uint32_t count, const char *progress, struct items *ret_items);

/* ---- log.c: compact logs, that are kept, and run logs, that are calibrated from ------------------ */

void log_items_write(const char *path, const struct items *items);
/* Ends the process for a file that is not one; false: there is none. */
bool log_items_read(const char *path, struct items *ret_items);
/* As daemon/program/runlog.h has it. first: with the header. */
void runlog_items_write(FILE *file, const struct items *items, bool first);

/* ---- table.c ------------------------------------------------------------------------------------- */

/* even: what the others are compared with, of the same cap, or NULL. */
void table_header(FILE *csv);
void table_row(const struct items *items, const struct items *even, FILE *csv);
void table_levels(const struct items *items);
void table_draw(const char *csv, const char *png); /* with gnuplot; says so when there is none */
