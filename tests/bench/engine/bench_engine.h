/* tests/bench/engine/bench_engine.h — parts of `dynasor-bench engine`: each measures, and gives its
 * figures to bars.c.
 *
 * Thread: main. Memory: each part frees what it takes. Fails: with a sentence on stderr and 1. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "kernels/ops.h"

#define BENCH_REPEATS_MAX 15u
#define BENCH_THREADS_MAX 256u

struct bench_options {
    const char *model; /* folder */
    const char *peers; /* file of lines `NAME TOKENS_PER_S`; NULL: none */
    uint32_t repeats_count;
    bool quick;
};

enum bar_id {
    BAR_DECODE_B1_BANDWIDTH,
    BAR_DECODE_B32_OVER_B1,
    BAR_PREFILL512_AMX,
    BAR_SHARED_PREFIX_ATTENTION,
    BAR_SHARED_PREFIX_KV_PAGES,
    BAR_SIGNALS_SHARE,
    BAR_FORK_US,
    BAR_PLAN_US,
    BAR_PEER_DECODE_B1,
    BAR_PEER_DECODE_B32,
    BAR_PEER_PREFILL512,
    BAR_COUNT,
};

void bars_names(void);
void bars_set(enum bar_id id, double value);
/* Why there is no value; a string that lives on. */
void bars_missing(enum bar_id id, const char *reason);
uint32_t bars_print(void); /* returns how many are short */

double bench_median(double *values, uint32_t count); /* sorts */

/* ---- machine.c: what the machine can do, on all cores that this process may use ---------------- */

struct machine;
int machine_new(struct machine **ret_machine);
void machine_free(struct machine *machine);
uint32_t machine_threads(const struct machine *machine);
double machine_read_bytes_per_s(struct machine *machine); /* best of some passes */
double machine_amx_flops_per_s(struct machine *machine);  /* 0: no AMX */

/* ---- timed_ops.c: the CPU backend with a clock around each launch ------------------------------- */

struct timed {
    double sample_s;
    double gemm_s;
    double attention_s;
    double others_s;
    uint64_t matrix_bytes; /* of all matrices multiplied by */
    double flops;          /* of matrices and attention */
};

const struct ops *timed_ops(void); /* best level; NULL is not possible */
void timed_reset(void);
struct timed timed_get(void);

/* ---- parts -------------------------------------------------------------------------------------- */

int bench_model(const struct bench_options *options); /* decode, prefill, signals, peers */
int bench_shared(const struct bench_options *options);
int bench_host(const struct bench_options *options); /* fork, planning */
