/* dynasor/client.h — submit reasoning programs to the dynasord of this machine and take their
 * events, through shared memory.
 *
 *     struct dynasor_client *client;
 *     struct dynasor_lane *lane;
 *     dynasor_connect(NULL, &client);
 *     dynasor_lane_open(client, &lane);
 *     struct dynasor_program_options options = {.size = sizeof options, .prompt_text = "Why?",
 *                                               .prompt_bytes = 4, .max_tokens = 64};
 *     dynasor_submit(lane, &options, &program);
 *     while (dynasor_next(lane, &event, DYNASOR_FOREVER) == 0) ...
 *
 * A client is one session with the daemon. A lane is one thread's way in and out of it: open one in
 * each thread that submits. Functions that take a lane may be called by one thread at a time for
 * that lane, different lanes by different threads at the same time; functions that take a client
 * may be called by any thread, except dynasor_disconnect(), which must be the last call.
 *
 * The library never ends its host process, prints nothing, installs no signal handler and starts no
 * thread. Every function returns 0 or the negative of an enum dynasor_status; dynasor_error() has
 * the sentence that names the field and the accepted range. After fork() the child's copies of the
 * handles answer -DYNASOR_E_CLOSED.
 *
 * When the daemon dies, sleeping calls return within a second. The library then reconnects with
 * back-off inside the calls, submits unfinished programs again under the same program id and
 * resumes their streams at the token it has: the events go on without a gap and without a
 * repetition. Until the daemon is back, calls answer -DYNASOR_E_RESTARTING: call again. A call that
 * connects anew allocates, and may also answer LIMIT, QUOTA, VERSION, UNTRUSTED, SYSTEM, NOMEM or
 * SHUTDOWN as dynasor_connect() does: "those of reconnecting" below. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <dynasor/types.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

#define DYNASOR_FOREVER UINT64_MAX

struct dynasor_client; /* opaque */
struct dynasor_lane;   /* opaque */

/* Options start with their size and only ever grow; zero means the default. A part that this
 * library does not know must be zero (INVALID otherwise). */
struct dynasor_connect_options {
    uint32_t size;           /* sizeof(struct dynasor_connect_options) */
    uint32_t lanes_count;    /* lanes of one handle each, 1 .. 16; default 4. Handles beyond share
                                one more; of 16 the last is the shared one: 15 are left */
    const char *socket_path; /* default DYNASOR_SOCKET_PATH */
    uint64_t
        arena_bytes; /* room for prompts in flight; power of two, 4 KiB .. 64 MiB; default 4 MiB */
    uint64_t timeout_ns;  /* for the first connection; default 5 s */
    int64_t daemon_uid;   /* uid the daemon must have; default (0): root, the user "dynasor" or
                                 the caller's own; to demand one uid give uid + 1 */
    uint32_t spin_max_ns; /* longest spin before sleeping; default 50 us; adapts below it */
    uint32_t no_spin;     /* 1: always sleep at once */
};

/* Connects to the daemon. options may be NULL. *ret_client is the caller's, for
 * dynasor_disconnect(); it is set also on failure when memory sufficed, so that dynasor_error() can
 * tell the reason (pass it to dynasor_disconnect() then, too); otherwise it is NULL.
 * Errors: INVALID, TIMEOUT (no daemon, or no answer), LIMIT, QUOTA, VERSION, UNTRUSTED, PROTOCOL (a
 * malformed answer), SYSTEM,
 * NOMEM, SHUTDOWN. */
int dynasor_connect(const struct dynasor_connect_options *options,
                    struct dynasor_client **ret_client);

/* Ends the session; the daemon cancels what still runs. Closes every lane of it: no other call may
 * be running. NULL is allowed. */
void dynasor_disconnect(struct dynasor_client *client);

/* Opens a lane for the calling thread. The first lanes_count handles get a lane of their own; later
 * ones share the last lane under a lock: slower, without dynasor_arm(), and a handle that leaves 256
 * events unread stops the events of all that share. Allocates.
 * Errors: INVALID, NOMEM, CLOSED. */
int dynasor_lane_open(struct dynasor_client *client, struct dynasor_lane **ret_lane);

/* Closes a lane: cancels and releases its programs. NULL is allowed. */
void dynasor_lane_close(struct dynasor_lane *lane);

struct dynasor_bias {
    uint32_t token;
    float bias; /* added to the token's logit; -100 .. 100 */
};

/* How tokens are chosen: penalties, biases, temperature, top_k, top_p, min_p, in this order, then by
 * chance (the program's seed). Stop strings end a program DONE; its text ends before the stop. */
struct dynasor_sampling {
    uint32_t size;              /* sizeof(struct dynasor_sampling) */
    uint32_t top_k;             /* the k most probable tokens; 0: all */
    float temperature;          /* 0: always the most probable token; .. 100 */
    float top_p;                /* smallest set of tokens with so much probability; 0 or 1: all */
    float min_p;                /* tokens with so much of the greatest probability; 0: all; .. 1 */
    float repetition_penalty;   /* of tokens seen in prompt or output; 0 or 1: none; .. 100 */
    float presence_penalty;     /* off the logit of tokens seen in the output; -100 .. 100 */
    float frequency_penalty;    /* the same for each time it was seen; -100 .. 100 */
    uint32_t biases_count;      /* .. DYNASOR_BIASES_MAX */
    uint32_t stops_count;       /* .. DYNASOR_STOPS_MAX */
    uint32_t stop_tokens_count; /* .. DYNASOR_STOP_TOKENS_MAX */
    uint32_t stop_include;      /* 1: the text includes the stop string */
    uint32_t ignore_eos;        /* 1: the model's end tokens do not end the program */
    uint32_t reserved;
    const struct dynasor_bias *biases;
    const char *const *stops; /* UTF-8, each 1 .. DYNASOR_STOP_BYTES_MAX bytes */
    const uint32_t *stop_tokens;
};

/* A number of an algorithm that is not to have its default. */
struct dynasor_setting {
    uint32_t parameter; /* enum dynasor_parameter: one that the algorithm uses */
    uint32_t reserved;
    double value;
};

struct dynasor_program_options {
    uint32_t size;           /* sizeof(struct dynasor_program_options) */
    uint32_t algorithm;      /* enum dynasor_algorithm; default SINGLE */
    uint32_t streams;        /* enum dynasor_stream; default TOKENS, and RESULT unless SINGLE */
    uint32_t max_tokens;     /* of a path, 1 .. the daemon's limit; no default */
    uint64_t seed;           /* same program, same seed: same tokens */
    const char *prompt_text; /* UTF-8, prompt_bytes long, or */
    const uint32_t *prompt_tokens; /* prompt_tokens_count token ids; exactly one of the two */
    size_t prompt_bytes;
    size_t prompt_tokens_count;
    uint64_t user_data;                      /* comes back in each event of the program */
    const struct dynasor_sampling *sampling; /* copied; default: temperature 1, nothing else */
    uint32_t chat;           /* 1: prompt_text is a user's message for the model's chat template */
    uint32_t settings_count; /* .. DYNASOR_PARAMETERS_MAX; copied, as are the texts */
    const struct dynasor_setting *settings; /* the last of two for one parameter counts */
    const char *profile;       /* name; default: the daemon's for the algorithm (dynasorctl) */
    const char *step_end;      /* ends a step of a tree; 1 .. 15 bytes; default: a new line */
    const char *answer_prefix; /* of PREFIX: 1 .. 64 bytes */
    uint32_t answer;           /* enum dynasor_answer; default MATH */
    uint32_t choice_last;      /* of CHOICE: 'A' .. 'Z'; default 'E' */
};

/* Submits a program; *ret_program is its id, unique in this client. The prompt is copied. Wakes the
 * daemon if it sleeps; otherwise no system call and no allocation, except to reconnect or when
 * something is full. What the daemon refuses later (quota) arrives as an END event with its status.
 * Errors: INVALID, UNSUPPORTED, AGAIN (ring, program table or arena is full), RESTARTING, PROTOCOL,
 * CLOSED, and those of reconnecting. */
int dynasor_submit(struct dynasor_lane *lane, const struct dynasor_program_options *options,
                   uint64_t *ret_program);

/* Asks the daemon to end a program before its next step. It still ends with an END event: CANCELLED,
 * or DONE if that came first.
 * Errors: INVALID, NOTFOUND, AGAIN, RESTARTING, PROTOCOL, CLOSED, and those of reconnecting. */
int dynasor_cancel(struct dynasor_lane *lane, uint64_t program);

/* Frees what is kept of an ended program. Until then its terminal state stays readable with
 * dynasor_program_state() and its place in the table is taken.
 * Errors: NOTFOUND, INVALID (has not ended), AGAIN, RESTARTING, PROTOCOL, CLOSED, and those of
 * reconnecting. */
int dynasor_release(struct dynasor_lane *lane, uint64_t program);

enum dynasor_event_kind {
    DYNASOR_EVENT_TOKENS = 1,
    DYNASOR_EVENT_TEXT = 2,
    DYNASOR_EVENT_END = 3,
    DYNASOR_EVENT_RESULT = 4, /* the last but one, for who asked for DYNASOR_STREAM_RESULT */
    /* Of CUSTOM programs (dynasor/custom.h). */
    DYNASOR_EVENT_READY = 5,   /* commands may come */
    DYNASOR_EVENT_BRANCH = 6,  /* a branch has settled, has been scored, or is dead */
    DYNASOR_EVENT_REFUSED = 7, /* a command did nothing: dynasor_error() says why */
};

struct dynasor_event {
    uint32_t kind;  /* enum dynasor_event_kind */
    uint32_t count; /* TOKENS: tokens; TEXT: bytes; END: 0 */
    uint64_t program;
    uint64_t user_data;
    uint64_t position;      /* of the first token or byte in the program's stream */
    const uint32_t *tokens; /* TOKENS: in shared memory, valid until the next dynasor_next(),
                               dynasor_arm() or dynasor_lane_close() on this lane */
    const char *text;       /* TEXT: likewise; whole UTF-8 characters; not terminated by 0 */
    uint32_t state;         /* END: enum dynasor_state: DONE, CANCELLED or FAILED; BRANCH: enum
                        dynasor_branch_state; REFUSED: enum dynasor_command */
    uint32_t status; /* END, REFUSED: enum dynasor_status, 0 with DONE; dynasor_error() explains */
    uint64_t tokens_count; /* END: tokens decoded in total */
    uint64_t submitted_ns; /* CLOCK_MONOTONIC of its dynasor_submit() */
    union {
        const struct dynasor_result
            *result; /* RESULT: valid until dynasor_release() of the program */
        const struct dynasor_branch
            *branch; /* READY, BRANCH, REFUSED, and TOKENS and TEXT of a branch:
                                                valid as tokens are; otherwise NULL */
    };
};

/* Takes the next event of this lane's programs, in order for each program. Waits at most timeout_ns
 * (0: does not wait, DYNASOR_FOREVER: as long as it takes): spins briefly when that paid lately,
 * then sleeps. No allocation when an event is there, and no system call, but to wake a daemon that
 * waits for room.
 * Errors: INVALID, TIMEOUT, RESTARTING, PROTOCOL, CLOSED, and those of reconnecting. */
int dynasor_next(struct dynasor_lane *lane, struct dynasor_event *event, uint64_t timeout_ns);

/* For the caller's own epoll, poll or io_uring loop: a descriptor that becomes readable. Protocol:
 *     dynasor_next(lane, &event, 0) until -DYNASOR_E_TIMEOUT;
 *     dynasor_arm(lane): 1 = something arrived meanwhile, go on taking; 0 = wait for POLLIN;
 *         it gives the last event's tokens and text back to the daemon;
 *     on POLLIN: dynasor_next(lane, &event, 0) again (it drains the descriptor).
 * The descriptor belongs to the client, is shared by its lanes, stays the library's (do not read or
 * close it) and changes when the library reconnects: ask again after -DYNASOR_E_RESTARTING, and while
 * either function answers that, call dynasor_next() on a timer of 10 ms or so.
 * dynasor_descriptor() has no dynasor_error(). It returns the descriptor, or the negative of INVALID,
 * RESTARTING, PROTOCOL, CLOSED or UNSUPPORTED; dynasor_arm() likewise, and those of reconnecting. */
int dynasor_descriptor(struct dynasor_client *client);
int dynasor_arm(struct dynasor_lane *lane);

/* The state of a program as the daemon published it (enum dynasor_state), readable until released.
 * Errors: INVALID, NOTFOUND, CLOSED. */
int dynasor_program_state(struct dynasor_lane *lane, uint64_t program);

/* Number of the daemon's life that serves this client: changes when the daemon was restarted. */
uint64_t dynasor_generation(struct dynasor_client *client);

/* Times that the library had to connect anew; 0 as long as the first session lives. */
uint64_t dynasor_reconnects_count(struct dynasor_client *client);

/* The reason of the last failure, or of the last END event with a status, of this lane (or of
 * dynasor_connect): one sentence that names field, value and accepted range. Valid until the next
 * call on the handle. Never NULL. */
const char *dynasor_error(const struct dynasor_lane *lane);
const char *dynasor_connect_error(const struct dynasor_client *client);

/* The name of a status ("INVALID") or field ("max_tokens"), given as positive or negative number;
 * "unknown" for others. */
const char *dynasor_status_name(int status);
const char *dynasor_field_name(int field);

/* Version of the library, "major.minor.patch". */
const char *dynasor_version(void);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
