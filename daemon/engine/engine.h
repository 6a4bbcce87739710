/* daemon/engine/engine.h — the narrow way into the engine: open, post a batch, next result, close.
 *
 * The engine knows models, one for each role, and a batch of rows of one role. Who asked for a row, and what
 * comes after it, it does not know. Roles share the devices of the policy, or have a GPU apart; the roles that
 * share devices have steps_max batches in flight together, which run one after the other in the order of their posts.
 * A batch holds numbers and indices only; the engine copies it to the device as it is. One that is posted while the
 * step before it runs may go on from that: a row whose token that step samples names the row that samples it, and
 * the engine puts the token in between the two.
 *
 * There may be several, replicas: the same models, each on devices of its own and with its own caches.
 *
 * Thread: control. Memory: fixed at engine_open() and engine_batch_new(). Time: post and next are
 * O(batch); opening reads the model files. Fails: engine_open() with a message that names file,
 * tensor or field, before device memory is taken, or ENGINE_E_BROKE where a device breaks meanwhile; after
 * one broke no batch comes back, and engine_failure() says why: the process is to end, for nothing that the
 * device holds can be believed. A batch that does not come back stays the engine's: engine_batch_free() leaves it to
 * engine_close(). */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "kernels/ops.h"

struct engine; /* opaque; engine_sim.c is the twin without a model */

enum engine_role {
    ENGINE_POLICY = 0, /* writes */
    ENGINE_REWARD = 1, /* scores steps */
    ENGINE_EMBED = 2,  /* turns a text into a vector */
    ENGINE_ROLE_COUNT = 3,
};

#define ENGINE_MESSAGE_BYTES 512u
#define ENGINE_STEPS_MAX 2u
#define ENGINE_POOL_SLOTS_MAX 64u /* sequences with pooled hidden states at once */

enum engine_backend {
    ENGINE_BACKEND_CPU = 0,
    ENGINE_BACKEND_AUTO = 1, /* GPUs if they can be used, otherwise the CPU */
    ENGINE_BACKEND_CUDA = 2, /* GPUs, or engine_open() fails */
};

struct engine_config {
    const char *directory[ENGINE_ROLE_COUNT]; /* Hugging Face directories; NULL: no such role */
    bool simulate;                            /* no model: sim_* below */
    bool float32; /* activations, matrices and KV in float32, not bf16 */
    enum engine_backend backend;
    uint32_t device; /* GPU of rank 0; rank 1 has the next, and so on */
    /* 1 + number of the GPU that the whole role is on, apart from the policy's; 0: on the policy's. */
    uint32_t role_device[ENGINE_ROLE_COUNT];
    const char *lock_directory; /* of the GPUs' lock files: exists, ours */
    uint32_t ranks_count;       /* tensor parallel, in one process: 1, 2 or 4 */
    uint32_t replicas_count;    /* to be opened, this one is one of them; 0: 1 */
    uint32_t replica;       /* number of this one; its ranks' GPUs follow those of the one before */
    struct engine *first;   /* number 0, which is closed last; not of number 0 itself */
    uint32_t threads_count; /* CPU threads of all ranks and replicas together; 0: all cores */
    int32_t cpu_level;      /* at most this enum cpu_level; negative: the best */
    uint32_t rows_max;      /* rows (sequences) of a batch */
    uint32_t tokens_max;    /* new tokens of a batch */
    uint32_t context_tokens; /* most tokens of a sequence; 0: what the model allows, up to 131072 */
    uint64_t kv_bytes;       /* KV cache of the policy; the reward model gets a quarter of it */
    int32_t dot_layer;    /* hidden states after this layer feed ENGINE_WANT_DOT; negative: none */
    uint32_t steps_max;   /* of engine_info, for tests; 0: 2 on GPUs, otherwise 1 */
    uint64_t sim_step_ns; /* cost of one decode step, whatever its rows */
    uint64_t sim_prefill_ns_per_token; /* cost of each further token of a batch */
};

struct engine_info { /* of one role */
    bool present;
    uint32_t vocabulary; /* token ids are below it */
    uint32_t context_tokens;
    uint32_t kv_pages;    /* pages of OPS_PAGE_TOKENS positions; 0: the role has no KV cache */
    uint32_t vector_size; /* of an embedding or a pooled hidden state */
    uint32_t steps_max;   /* in flight at once on the role's devices */
};

enum engine_want {
    ENGINE_WANT_TOKEN = 1u << 0, /* sample the token after the row's last */
    ENGINE_WANT_POOL =
        1u
        << 1, /* add the row's final hidden states to pool_slot; vector is the mean; encoders pool
                    every row as their folder says */
    ENGINE_WANT_DOT = 1u << 2, /* hidden state of the last token after dot_layer . dot vector */
};

struct engine_row {          /* one sequence, one step: consecutive new tokens of it */
    uint32_t seq;            /* the caller's number; not interpreted, like the next */
    uint32_t seq_generation; /* tells a row of a sequence that is gone */
    uint32_t tokens_first;   /* in batch.tokens */
    uint32_t tokens_count;
    uint32_t
        follows; /* 1 + the row of batch.after that samples this row's only token, which is last
                              in its history too; what stands in their places is not looked at; 0: none */
    uint32_t position;     /* of the first of them */
    uint32_t shared_pages; /* leading pages in common with the row before; 0 for the first */
    uint32_t want;         /* enum engine_want */
    uint32_t pool_slot;    /* below ENGINE_POOL_SLOTS_MAX; started anew at position 0 */
    struct ops_sample_row sampling; /* history and bias lie in the batch's arrays */
};

struct engine_output { /* of one row */
    struct ops_sampled sampled;
    float dot;
    uint32_t pad;
};

struct engine_batch {
    uint32_t role;
    uint32_t rows_count;
    uint32_t tokens_count;
    uint32_t copies_count;
    uint32_t freed_count;
    uint32_t history_count;
    uint32_t biases_count;
    uint32_t pages_stride;            /* pages of a row of the table; set by engine_batch_new() */
    bool posted;                      /* the engine's own, like the next */
    bool orphan;                      /* freed while it was posted */
    const struct engine_batch *after; /* posted, not taken back; NULL: no row follows one */
    struct engine_row *rows;          /* [rows_max] */
    uint32_t *tokens;                 /* [tokens_max], row after row */
    uint8_t *score;                   /* [tokens_max] reward role: 1 where a score is wanted */
    uint32_t *pages;                  /* [rows_max, pages_stride] */
    struct ops_page_copy *copies;     /* [rows_max] done in order before the step */
    uint32_t *freed;               /* [kv_pages] test builds: pages to poison, after the copies */
    uint32_t *history;             /* [history_max] */
    struct ops_bias *biases;       /* [biases_max] */
    struct engine_output *outputs; /* [rows_max] result */
    float *scores;                 /* [tokens_max] result where score is 1 */
    float *vectors; /* [rows_max, vector_size] result of ENGINE_WANT_POOL, embed role */
    uint32_t history_max;
    uint32_t biases_max;
};

enum engine_result { ENGINE_OK = 0, ENGINE_E_BUSY = 1, ENGINE_E_BROKE = 2 };

/* -errno, or ENGINE_E_BROKE: a device failed or hung. Then there may be an engine, not NULL, that can only be
 * closed, and that may take for ever: the process does better to end without. */
int engine_open(const struct engine_config *config, char message[ENGINE_MESSAGE_BYTES],
                struct engine **ret_engine);
void engine_close(struct engine *engine);
void engine_info(const struct engine *engine, enum engine_role role, struct engine_info *ret_info);
/* For the operator: backend, models, memory; one line each, at most bytes. */
void engine_describe(const struct engine *engine, char *text, uint32_t bytes);

/* An empty batch with room for this engine's limits. */
int engine_batch_new(const struct engine *engine, struct engine_batch **ret_batch);
void engine_batch_free(struct engine_batch *batch);

/* The vector of ENGINE_WANT_DOT, hidden floats; between steps only. */
void engine_dot_vector(struct engine *engine, const float *vector);

/* Starts the step, or has it wait for the one before it; the batch stays the caller's, untouched until engine_next()
 * returns it with its results. ENGINE_E_BUSY: as many as can be are in flight on the role's devices. */
int engine_post(struct engine *engine, struct engine_batch *batch, uint64_t now_ns);

/* Whether the role has a step to post as soon as it can; a post takes it back. */
void engine_want(struct engine *engine, enum engine_role role, bool wants);
/* Whether the role is to wait: as many batches as can be are posted on its devices and not taken back, or the last
 * is its own and another role there wants the turn. */
bool engine_busy(const struct engine *engine, enum engine_role role);

/* The role's oldest batch, if its step is done, or NULL. */
struct engine_batch *engine_next(struct engine *engine, enum engine_role role, uint64_t now_ns);

/* What broke, in words; NULL while nothing has. */
const char *engine_failure(const struct engine *engine);

/* When engine_next() has something, as far as that is known: a time for the simulated engine, 0 when
 * it has for another role than took it off the devices, UINT64_MAX while a real step runs (engine_fd() tells) or
 * nothing is in flight. */
uint64_t engine_due_ns(const struct engine *engine);

/* Readable when a step is done on the role's devices, an eventfd that the engine writes and engine_next()
 * empties; -1: the simulated engine. */
int engine_fd(const struct engine *engine, enum engine_role role);
