/* daemon/sched/sched.h — which branches of a model run in the next step, and where their KV lies. There
 * is one for each model; those that share an engine post their steps in turn.
 *
 * Knows sequences (branches) of opaque groups and tenants; knows neither programs nor clients. A
 * sequence is its tokens: a prompt, then what was sampled. Whatever of it has no KV yet is computed,
 * in chunks, mixed with the decoding of others; when all has, the next token is sampled.
 *
 * Order: first come, first served, up to rows_max rows and tokens_max tokens a step; decoding rows
 * take their one token first, prompts share the rest in order; when there are more rows they take
 * turns. A fork stands behind its parent, or, where that does not run, behind the last of its group
 * that does, like one that is resumed: branches which share pages are neighbours. A sequence that is
 * removed or paused while a step is in flight has its row of that step discarded (removed) or
 * delivered (paused).
 *
 * Where the engine takes two steps, the second is planned ahead, as if all went on: a row then goes on from the token
 * that the first brings. It is in flight in the sense of this header from the first sched_poll() after the first one's
 * results; until then whoever is removed, paused or forced, or broke, has its row of it discarded, to be computed
 * again, and gets the tokens that it gets without. The price is that row, and that who is new waits for a step more.
 *
 * KV pages are reserved for the worst case when a sequence is added (prompt and max_tokens), so a
 * running sequence never lacks one; one that cannot have them is refused with SCHED_E_FULL until
 * others end or pause. Prompts find the KV that the same tenant computed before.
 *
 * A paused sequence keeps its room (pages and a place among alive_max) only until somebody needs it:
 * then the longest paused are parked, keep their tokens alone, and what the prefix tree has lost of
 * them by the time they are resumed is computed again, to the same bits. Those that were resumed and
 * find no room wait for it before everybody new.
 *
 * Thread: control. Memory: fixed at sched_new(). Time: add is O(prompt), remove O(pages), poll
 * O(rows and tokens of the step). */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "daemon/engine/engine.h"

struct sched;

#define SCHED_NONE UINT32_MAX

enum sched_result_code {
    SCHED_OK = 0,
    SCHED_E_FULL = 1, /* no room now: try again when some ended or paused */
    SCHED_E_LONG = 2, /* prompt and max_tokens are more than a sequence or the whole cache holds */
};

enum sched_want {
    SCHED_WANT_SCORE = 1u << 16
}; /* besides enum engine_want; a stem of the reward role */

struct sched_config {
    enum engine_role role; /* POLICY, or REWARD: its sequences are stems */
    uint32_t seqs_max;     /* sequences at once */
    uint32_t alive_max;    /* of them with KV pages; 0: all */
    uint32_t groups_max;   /* group numbers are below it */
    uint32_t rows_max;     /* rows of a step */
    uint32_t tokens_max;   /* new tokens of a step */
    bool poison;           /* test builds: freed pages are filled with NaN */
};

struct sched_seq_args {
    uint64_t seed;
    uint32_t branch;
    uint32_t user; /* comes back in struct sched_result */
    uint32_t tenant;
    uint32_t group;
    const uint32_t *prompt; /* copied, ids the model has; NULL with an engine that looks at none */
    uint32_t prompt_tokens; /* 1 or more */
    uint32_t max_tokens;    /* to be sampled, at most; the caller removes the sequence */
    bool stem;              /* samples nothing: SCHED_READY when its KV is computed; paused then */
    uint32_t want;          /* ENGINE_WANT_POOL (no fork), ENGINE_WANT_DOT, SCHED_WANT_SCORE */
    struct ops_sample_row sampling; /* its history, bias, random and forced fields are not used */
    const struct ops_bias *biases;  /* [sampling.bias_count], kept until the sequence is removed */
};

enum sched_kind { SCHED_TOKEN = 0, SCHED_READY = 1 };

struct sched_result {
    uint32_t user;
    uint32_t seq;
    uint32_t kind;
    uint32_t position; /* of the token among the sampled; 0 is the first after the prompt */
    struct ops_sampled sampled; /* numeric: the sequence is taken out, remove it */
    float dot;
    float score;         /* READY, with SCHED_WANT_SCORE: of the last token */
    const float *vector; /* READY, with ENGINE_WANT_POOL; until the next sched_poll(); else NULL */
};

/* engine is kept until sched_free(), which waits for the steps in flight, unless a device broke, and does not close
 * it. */
int sched_new(const struct sched_config *config, struct engine *engine, struct sched **ret_sched);
void sched_free(struct sched *sched);

/* Token ids are below it. */
uint32_t sched_vocabulary(const struct sched *sched);
/* Of a pooled hidden state; 0: the model has none. */
uint32_t sched_vector_size(const struct sched *sched);
/* Whether a sequence of so many tokens can ever have room. */
bool sched_fits(const struct sched *sched, uint64_t tokens);

/* Returns enum sched_result_code. */
int sched_add(struct sched *sched, const struct sched_seq_args *args, uint32_t *ret_seq);

/* A new sequence that shares everything parent has computed, followed by the rest of parent's tokens
 * and then by args->prompt (here 0 or more tokens). It counts its own sampled tokens from 0. */
int sched_fork(struct sched *sched, uint32_t parent, const struct sched_seq_args *args,
               uint32_t *ret_seq);

/* The next token is this one; its probability is reported as if it were sampled. While a step is in
 * flight that brings a token, it is the one after that. The last word counts. */
void sched_force(struct sched *sched, uint32_t seq, uint32_t token);

void sched_remove(struct sched *sched, uint32_t seq);
/* A paused sequence takes part in no step until it is resumed, and others may get its room. Idempotent. */
void sched_pause(struct sched *sched, uint32_t seq);
void sched_resume(struct sched *sched, uint32_t seq);

/* Posts what can be posted and collects the step that is done. Returns the rows collected and posted. */
uint32_t sched_poll(struct sched *sched, uint64_t now_ns);

/* Next result of the collected step; false: no more. Drain it before the next sched_poll(). */
bool sched_next(struct sched *sched, struct sched_result *ret_result);
/* User of the row after the next one, for who wants its memory at hand by then; SCHED_NONE: there is none. It may
 * have no result, and its user may be gone. */
uint32_t sched_user_ahead(const struct sched *sched);

/* When sched_poll() has something to do: now (0), or at a time; UINT64_MAX: idle, or not before
 * sched_fd() is readable. */
uint64_t sched_due_ns(const struct sched *sched);
/* Readable when a step is done; -1 when due_ns tells the time of it. */
int sched_fd(const struct sched *sched);

struct sched_stats {
    uint64_t steps_count;
    uint64_t rows_count;              /* of all steps */
    uint64_t rows_discarded_count;    /* of them: planned ahead in vain */
    uint64_t prompt_tokens_count;     /* computed */
    uint64_t cached_tokens_count;     /* of prompts, found in the prefix tree */
    uint64_t parked_count;            /* paused sequences that gave up their room */
    uint64_t recomputed_tokens_count; /* of those that came back, not found there any more */
    uint64_t evictions_count;         /* of cached pages */
    uint32_t kv_pages;
    uint32_t kv_pages_used; /* referenced by sequences */
    uint32_t kv_pages_cached;
    uint32_t kv_pages_reserved;
};
void sched_stats(const struct sched *sched, struct sched_stats *ret_stats);
