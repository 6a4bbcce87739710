/* daemon/program/program.h — reasoning programs: their life, their branches, what they have to say.
 *
 * Knows programs and their sequences; knows no clients. Down by call (submit, cancel), up by poll:
 * program_next() names programs that have something new, program_view() shows what, and
 * program_consume() says how much of it was passed on. A program whose output is not taken pauses
 * when its buffer is full; nothing else is affected.
 *
 * SINGLE (the first algorithm) is one branch decoded to max_tokens.
 *
 * Thread: control. Memory: fixed at programs_new(). Time: O(1) per call, poll O(tokens of the step).
 * Fails: PROGRAM_NONE when all programs are taken. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "daemon/sched/sched.h"
#include "dynasor/types.h"

struct programs;

#define PROGRAM_NONE UINT32_MAX
#define PROGRAM_BUFFER_TOKENS 64u /* undelivered tokens of one program; a power of two */
#define PROGRAM_BUFFER_BYTES 64u  /* undelivered text; a power of two */

struct program_spec {
    uint64_t seed;
    uint32_t algorithm; /* enum dynasor_algorithm */
    uint32_t streams;   /* enum dynasor_stream */
    uint32_t max_tokens;
    uint32_t prompt_bytes;
    bool prompt_is_tokens;      /* uint32_t ids, otherwise UTF-8 text */
    uint32_t resume_tokens;     /* stream positions below are not reported */
    uint64_t resume_text_bytes; /* likewise */
};

/* What a program has produced. Positions are those of its streams; output between *_taken and
 * *_count lies in the buffers at (position & (size - 1)). */
struct program_view {
    uint32_t state;  /* enum dynasor_state */
    uint32_t status; /* enum dynasor_status once terminal */
    uint32_t streams;
    uint32_t tokens_count; /* decoded */
    uint32_t tokens_taken;
    uint64_t text_bytes_count;
    uint64_t text_bytes_taken;
    bool paused;
    uint32_t tokens[PROGRAM_BUFFER_TOKENS];
    uint8_t text[PROGRAM_BUFFER_BYTES];
};

/* sched is kept until programs_free(), which does not free it. */
int programs_new(uint32_t programs_max, struct sched *sched, struct programs **ret_programs);
void programs_free(struct programs *programs);

/* Starts a program; the spec was checked (wire_check_*). Returns its handle, valid until
 * program_free(). */
uint32_t program_submit(struct programs *programs, const struct program_spec *spec);

/* Ends a program that has not ended; its output that was not taken is dropped. No-op afterwards. */
void program_end(struct programs *programs, uint32_t handle, uint32_t state, uint32_t status);

/* Forgets a program, ending it first if need be. */
void program_free(struct programs *programs, uint32_t handle);

/* Runs the scheduler and takes its tokens in. Returns the work done. */
uint32_t programs_poll(struct programs *programs, uint64_t now_ns);

/* Next program with new output, or that has ended; each is named once until it has news again. */
bool program_next(struct programs *programs, uint32_t *ret_handle);

const struct program_view *program_view(const struct programs *programs, uint32_t handle);

/* Output up to these stream positions was passed on. Resumes a paused program when it has room. */
void program_consume(struct programs *programs, uint32_t handle, uint32_t tokens_taken,
                     uint64_t text_bytes_taken);

/* When programs_poll() has something to do (CLOCK_MONOTONIC ns; 0 now; UINT64_MAX nothing). */
uint64_t programs_due_ns(const struct programs *programs);

struct programs_stats {
    uint64_t active_count;
    uint64_t paused_count;
    uint64_t tokens_count; /* decoded since start */
    uint64_t steps_count;
};
void programs_stats(const struct programs *programs, struct programs_stats *ret_stats);
