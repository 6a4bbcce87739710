/* daemon/program/program.h — reasoning programs: their life, their branches, what they have to say.
 *
 * Knows programs and their sequences; knows no clients. Down by call (submit, cancel), up by poll:
 * program_next() names programs that have something new, program_view() shows what, and
 * program_consume() says how much of it was passed on. A program whose output is not taken pauses
 * when its buffer is full; nothing else is affected.
 *
 * What a program says is one path of its branches: that of a live algorithm (SINGLE, COT) as it is
 * decoded, that of the others when they have found their answer. How it got there is its result.
 *
 * A program waits QUEUED, first come, first served, until its prompt is tokenized and there is room
 * for its first branch. A long prompt is tokenized by the text worker, one at a time.
 *
 * Thread: control, except programs_text_run(). Memory: fixed at programs_new(). Time: O(1) per call,
 * poll O(tokens of the step, and prompts up to PROGRAM_INLINE_TEXT_BYTES).
 * Fails: PROGRAM_NONE when all programs are taken. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "daemon/program/profiles.h"
#include "daemon/program/runs.h"
#include "dynasor/types.h"

struct programs;

#define PROGRAM_NONE UINT32_MAX
#define PROGRAM_BUFFER_TOKENS 64u       /* undelivered tokens of one program; a power of two */
#define PROGRAM_BUFFER_BYTES 2048u      /* undelivered text; a power of two */
#define PROGRAM_INLINE_TEXT_BYTES 2048u /* longer prompts are the text worker's: about 50 us */
#define PROGRAM_SHORT_PROMPT_BYTES 24u  /* are copied */

/* As the wire has them: bounds are checked, lists are kept by the caller until program_free(). */
struct program_sampling {
    float temperature;
    float top_p;
    float min_p;
    float repetition_penalty;
    float presence_penalty;
    float frequency_penalty;
    uint32_t top_k;
    bool ignore_eos;
    bool stop_include;
    uint16_t biases_count;
    uint16_t stop_tokens_count;
    uint16_t stops_bytes;
    const uint8_t *biases;      /* [biases_count] of struct ops_bias, 8-byte aligned */
    const uint8_t *stop_tokens; /* [stop_tokens_count] of uint32_t */
    const uint8_t *stops;       /* [stops_bytes] each a byte with its length, then so many bytes */
};

/* As the algorithm's defaults but for these: checked by program_check(). */
struct program_setting {
    uint32_t parameter; /* enum dynasor_parameter */
    double value;
};

struct program_spec {
    struct program_sampling sampling;
    const uint8_t *prompt; /* kept until program_free(), unless it is short; tokens: aligned */
    uint64_t seed;
    uint64_t client;    /* whose numbers of batches these are */
    uint32_t tenant;    /* whose earlier prompts this one may share KV with */
    uint32_t algorithm; /* enum dynasor_algorithm */
    uint32_t streams;   /* enum dynasor_stream */
    uint32_t max_tokens;
    const struct program_setting *settings; /* [settings_count] copied */
    uint32_t settings_count;
    const struct answer_rule *answer; /* copied; NULL: that of mathematics */
    const char *step_end;             /* [step_end_bytes] copied; 0: a new line */
    const char *profile;              /* [profile_bytes] a name; 0: its algorithm's */
    uint32_t step_end_bytes;
    uint32_t profile_bytes;
    const struct policy_options
        *policy; /* instead of a profile, kept until program_free(), or NULL */
    uint32_t prompt_bytes;
    bool prompt_is_tokens;      /* uint32_t ids, otherwise UTF-8 text */
    bool restarted;             /* it had begun, in a daemon that is gone */
    bool chat;                  /* the text is a user's message for the chat template */
    uint32_t resume_tokens;     /* stream positions below are not reported */
    uint64_t resume_text_bytes; /* likewise */
};

/* How a program ended. */
struct program_result {
    enum run_verdict verdict;
    uint32_t knob;
    struct certaindex seen; /* at its last decision */
    struct run_cost cost;
    uint32_t profile;      /* slot, or PROFILES_NONE: the spec's policy */
    uint32_t answer_bytes; /* 0: no answer */
    char answer[ANSWER_BYTES_MAX];
};

/* What a program has produced. Positions are those of its streams; output between *_taken and
 * *_count lies in the buffers at (position & (size - 1)). */
struct program_view {
    uint32_t state;  /* enum dynasor_state */
    uint32_t status; /* enum dynasor_status once terminal */
    uint32_t field;  /* enum dynasor_field that the status is about: got, of 0 .. max */
    bool paused;
    uint64_t max;
    uint64_t got;
    uint32_t streams;
    uint32_t tokens_count; /* said */
    uint32_t tokens_taken;
    uint64_t text_bytes_count;
    uint64_t text_bytes_taken;
    struct program_result result; /* once DONE */
    uint32_t tokens[PROGRAM_BUFFER_TOKENS];
    uint8_t text[PROGRAM_BUFFER_BYTES];
};

/* One that decodes nothing and is told nothing for so long ends FAILED/TIMEOUT: it holds its branches. So
 * do the members of a batch of which no other has come for so long. */
#define PROGRAM_IDLE_NS 60000000000ull

struct programs_config {
    uint32_t programs_max;
    uint32_t branches_max;   /* of all programs together */
    uint32_t context_tokens; /* most tokens of a prompt */
    uint64_t prompt_bytes_max;
    const struct codec *codec;
    struct sched *policy;
    struct sched *reward;              /* NULL: no reward model */
    const struct runs_replica *others; /* [others_count] further replicas of these two (runs.h) */
    uint32_t others_count;
    uint32_t step_tag;         /* token behind each step that it scores; 0: none */
    uint64_t idle_ns;          /* of CUSTOM programs and batches; 0: PROGRAM_IDLE_NS */
    struct observer *observer; /* notes every answer (observe.h); NULL: none, or that of log */
    struct livelog *log;       /* takes them, and what came of their programs; NULL: none */
    struct embed *embed;       /* NULL: no embed model */
    const struct codec *embed_codec;
};

/* codec and the schedulers are kept until programs_free(), which does not free them. */
int programs_new(const struct programs_config *config, struct programs **ret_programs);
void programs_free(struct programs *programs);

/* The text worker's body, for a thread of the caller's; returns after programs_text_stop(). */
void programs_text_run(struct programs *programs);
void programs_text_stop(struct programs *programs);
/* Descriptors that become readable when programs_poll() has something to do. */
#define PROGRAMS_FDS (RUNS_FDS + 1u)
void programs_fds(const struct programs *programs, int ret_fds[PROGRAMS_FDS]); /* -1: none */

/* Whether this daemon can run it. Otherwise what is wrong: status and field, got, of least .. max;
 * in thousandths for a parameter that need not be whole. */
struct program_refusal {
    enum dynasor_status status; /* DYNASOR_OK: it can */
    enum dynasor_field field;
    uint64_t least;
    uint64_t max;
    uint64_t got;
};
struct program_refusal program_check(const struct programs *programs,
                                     const struct program_spec *spec);

/* May be changed between two polls. */
struct profiles *programs_profiles(struct programs *programs);
/* The policy of an algorithm's programs that name none; likewise. */
struct policy_options *programs_policy(struct programs *programs, uint32_t algorithm);

/* Starts a program; the spec was checked (wire_check_*, program_check()). Returns its handle, valid until
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
    uint64_t tokens_count;   /* decoded since start */
    uint64_t queued_count;   /* of the active: not yet running */
    uint64_t logged_count;   /* programs since start, with programs_config.log */
    uint64_t unlogged_count; /* that should have been, too */
    struct sched_stats sched;
};
void programs_stats(const struct programs *programs, struct programs_stats *ret_stats);
