/* daemon/program/livelog.h — the run log of a daemon at work: every program that came to an answer, as
 * runlog.h has it, into a file that dynasor-calibrate --shadow reads. Groups of answers, tokens and
 * signals, and the profiles that were in force, with what was changed of them at run time; no prompt, no text,
 * no label.
 *
 * Answers come from the observer of the runs (observe.h), once a poll, and go with each program's end as
 * records of one size through a pipe that never waits to a thread that keeps them until the end, writes
 * the program's lines in one piece and turns the file over when it is full: FILE becomes FILE.1, and
 * the FILE.1 before it is gone; the daemon's log says so. Whatever is not written (a disk that is slow, or
 * full) is a whole program, and counted.
 *
 * Thread: control; livelog_run() is the body of its own thread. Memory: fixed at livelog_new(). Time: an
 * answer costs what observe.h says, which nobody pays without a log: a walk over its path that hashes the
 * tokens, its text (run_text) and what is extracted from it; then a copy and 1/32 of a system call. A
 * program: up to 8 KiB of its prompt hashed. No lock. Fails: livelog_new() with a message; afterwards
 * programs are lost and counted. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/message.h"
#include "daemon/program/observe.h"
#include "daemon/program/profiles.h"
#include "daemon/program/run.h"

#define LIVELOG_FILE_BYTES_MIN 1048576u

struct livelog;

struct livelog_config {
    const char *path;
    uint64_t
        file_bytes; /* FILE is turned over before it is longer; at least LIVELOG_FILE_BYTES_MIN */
    uint32_t programs_max;
};
/* Opens the file, to go on behind what is there. */
int livelog_new(const struct livelog_config *config, struct livelog **ret_log,
                char ret_message[MESSAGE_BYTES]);
void livelog_free(struct livelog *log); /* after livelog_run() has returned */

/* Writes until livelog_stop(), and then what is under way. */
void livelog_run(struct livelog *log);
void livelog_stop(struct livelog *log);

/* For runs_new(). */
struct observer *livelog_observer(struct livelog *log);

/* The program is about to decode under the profile in this slot, or PROFILES_NONE. Both are there until it has ended. */
void livelog_begin(struct livelog *log, uint32_t program, const struct profiles *profiles,
                   uint32_t slot);

struct livelog_end {
    uint32_t program;   /* handle */
    uint32_t algorithm; /* enum dynasor_algorithm */
    enum run_verdict verdict;
    uint32_t knob;        /* reached */
    uint32_t cap;         /* the most it might have reached; chains: tokens */
    uint32_t group;       /* of a chain's answer at its end; CERTAINDEX_EMPTY: none */
    uint32_t path_tokens; /* of a chain at its end, with what it took over from probes */
    bool of_batch;
    uint32_t answers_count; /* that were observed, if none was lost */
    struct run_cost cost;
    const uint8_t *prompt;
    uint32_t prompt_bytes;
};
/* Takes what was observed. */
void livelog_take(struct livelog *log);
/* The program has ended with an answer: everything that was observed of it is taken. */
void livelog_end(struct livelog *log, const struct livelog_end *end);
/* It has ended otherwise, and is in no log. */
void livelog_forget(struct livelog *log, uint32_t program);
/* Hands over what was taken. */
void livelog_flush(struct livelog *log);

struct livelog_stats {
    uint64_t programs_written;
    uint64_t programs_lost;
};
void livelog_stats(struct livelog *log, struct livelog_stats *ret_stats);
