/* tests/bench/bench.h — one program that measures the transport against references in the same run.
 *
 * A variant is something that two processes do to each other: a ping-pong or a one-way stream. Each
 * repeat runs every variant in short slices, in turn, and pools the samples of the slices; a bar is
 * a ratio of two variants of the same repeat, then the median over the repeats. So whatever the
 * machine does to one variant during a repeat, it does to the other as well. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bench_util.h"

#define BENCH_REPEATS_MAX 31u
#define BENCH_REPEATS 11u
#define BENCH_SLICES 3u
#define BENCH_SECONDS_MAX 420u /* no new phase starts after it: all ends within ten minutes */

enum bench_id {
    BENCH_RAW,
    BENCH_RING,
    BENCH_RING_PLAIN,
    BENCH_CK,
    BENCH_EVENTFD,
    BENCH_EVENTFD_GAP,
    BENCH_SEQPACKET,
    BENCH_STREAM,
    BENCH_STREAM_SPIN,
    BENCH_ONEWAY_RING,
    BENCH_ONEWAY_RING_BELL,
    BENCH_ONEWAY_RING_BATCH,
    BENCH_ONEWAY_CK,
    BENCH_PROGRAM_AWAKE,
    BENCH_PROGRAM_PAYLOAD,
    BENCH_PROGRAM_ASLEEP,
    BENCH_COUNT,
};

/* Which daemon a variant talks to. */
enum bench_daemon_kind { BENCH_DAEMON_NONE, BENCH_DAEMON_SPIN, BENCH_DAEMON_SLEEP };

struct bench_variant {
    const char *name;
    const char *what;
    uint32_t samples_count; /* of a slice; 0: one way */
    uint32_t warmup_count;
    uint64_t messages_count; /* of a slice, one way */
    enum bench_daemon_kind daemon;
    int (*prepare)(struct bench_run *run); /* in the parent; 0 or negative errno; may be NULL */
    void (*server)(struct bench_run *run); /* on the first CPU; NULL: the daemon is the server */
    void (*client)(struct bench_run *run); /* on the second CPU; measures */
};

extern const struct bench_variant ref_raw, ref_eventfd, ref_eventfd_gap, ref_seqpacket, ref_stream,
    ref_stream_spin;
extern const struct bench_variant ref_ck, ref_ck_oneway, ring_checked, ring_plain;
extern const struct bench_variant oneway_plain, oneway_bell, oneway_batch;
extern const struct bench_variant program_awake, program_payload, program_asleep;

/* One repeat of one variant; valid 0: see reason. */
struct bench_cell {
    bool valid;
    double p50_ns;
    double p99_ns;
    double rate_mps; /* million messages a second, one way */
};

/* Figures that are not ratios, measured once. Negative: not measured. */
struct bench_counts {
    double inline_syscalls;    /* a program, both sides */
    double inline_allocations; /* a program, both sides */
    double payload_preads;     /* a program */
    double payload_syscalls;   /* other than the pread, a program */
    char reason[BENCH_REASON_BYTES];
};

struct bench_idle {
    double bytes_per_client;
    double cpu_percent;
    char reason[BENCH_REASON_BYTES];
};

struct bench_results {
    uint32_t repeats_count;
    struct bench_cell cell[BENCH_COUNT][BENCH_REPEATS_MAX];
    char reason[BENCH_COUNT][BENCH_REASON_BYTES]; /* why the last failed slice failed */
    struct bench_counts counts;
    struct bench_idle idle;
};

/* bars.c */
bool bars_need_variant(const char *only, enum bench_id id);
bool bars_need_counts(const char *only);
bool bars_need_idle(const char *only);
bool bars_match(const char *only);
void bars_print_names(void);
uint32_t bars_print(const char *only, const struct bench_results *results); /* how many are short */

/* counts.c, idle_clients.c: clients_count 0 is the full number. */
void counts_run(struct bench_counts *counts, uint32_t programs_count);
void idle_clients_run(struct bench_idle *idle, uint32_t clients_count, uint32_t seconds);
