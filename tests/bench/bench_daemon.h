/* tests/bench/bench_daemon.h — the real daemon as a child, with an engine that answers at once. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "bench_util.h"
#include "shm/counters.h"

struct bench_daemon_options {
    bool pinned;                     /* to the server's CPU */
    uint32_t spin_max_us;            /* 0: sleeps as soon as it has nothing to do */
    uint32_t clients_max;            /* quotas are raised to match */
    const char *preload;             /* LD_PRELOAD of the daemon, or NULL */
    const char *preload_environment; /* "NAME=value" for it, or NULL */
};

struct bench_daemon { /* zero: not started */
    pid_t pid;
    char folder[64];
    char socket_path[108];
    char control_path[108];
    char reason[BENCH_REASON_BYTES]; /* why it did not start */
};

/* The folder of this program: the daemon lies beside it. False: it is not known. */
bool bench_folder(char *ret_path, size_t bytes);

/* 0, or negative with daemon->reason set. */
int bench_daemon_start(struct bench_daemon *daemon, const struct bench_daemon_options *options);

/* Ends it and removes its folder. Nothing happens to one that was not started. */
void bench_daemon_stop(struct bench_daemon *daemon);

/* The counters page of a running daemon, mapped for reading; NULL with errno when there is none. */
const struct counters_page *bench_counters(const char *control_path, size_t *ret_bytes);
