/* daemon/engine/impl.h — what stands behind engine.h: one table for each kind of engine.
 *
 * Thread: control. */
#pragma once
#include "daemon/engine/engine.h"

/* Room of a batch's lists, the same for who fills them and for the device's copy. */
#define ENGINE_BIASES_OF_ROW 300u   /* as many as OpenAI's API takes for one request */
#define ENGINE_HISTORY_CONTEXTS 16u /* rows with penalties that are as long as the context */

struct engine_impl {
    void (*close)(struct engine *engine);
    void (*describe)(const struct engine *engine, char *text, uint32_t bytes);
    void (*dot_vector)(struct engine *engine, const float *vector);
    void (*post)(struct engine *engine, struct engine_batch *batch, uint64_t now_ns);
    /* The next batch of the place that is done, in the order of their posts. */
    struct engine_batch *(*next)(struct engine *engine, uint32_t place, uint64_t now_ns);
    uint64_t (*due_ns)(const struct engine *engine);
    int (*fd)(const struct engine *engine, uint32_t place);
};

/* What is posted in a place and not taken back, oldest first; kept by engine.c. */
struct engine_queue {
    struct engine_batch *batches[ENGINE_STEPS_MAX];
    uint32_t count;
    uint32_t done_count; /* the first of them */
};

struct engine { /* the first member of each kind's own struct */
    const struct engine_impl *impl;
    struct engine_config config; /* pointers are not kept */
    struct engine_info info[ENGINE_ROLE_COUNT];
    uint32_t place[ENGINE_ROLE_COUNT];             /* roles of one number share devices and turns */
    struct engine_queue queues[ENGINE_ROLE_COUNT]; /* of a place */
    bool wants[ENGINE_ROLE_COUNT];                 /* of a role */
    char failure[ENGINE_MESSAGE_BYTES];            /* "" while no device broke */
};

/* The batch enters its place's queue; ENGINE_E_BUSY: no room. engine_post() without the post. */
int engine_admit(struct engine *engine, struct engine_batch *batch);

int engine_sim_open(const struct engine_config *config, char message[ENGINE_MESSAGE_BYTES],
                    struct engine **ret_engine);
int engine_model_open(const struct engine_config *config, char message[ENGINE_MESSAGE_BYTES],
                      struct engine **ret_engine);
