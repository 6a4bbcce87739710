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
    int (*post)(struct engine *engine, struct engine_batch *batch, uint64_t now_ns);
    struct engine_batch *(*next)(struct engine *engine, uint32_t place, uint64_t now_ns);
    uint64_t (*due_ns)(const struct engine *engine);
    int (*fd)(const struct engine *engine, uint32_t place);
};

struct engine { /* the first member of each kind's own struct */
    const struct engine_impl *impl;
    struct engine_config config; /* pointers are not kept */
    struct engine_info info[ENGINE_ROLE_COUNT];
    uint32_t place[ENGINE_ROLE_COUNT];  /* roles of one number share devices and turns */
    bool busy[ENGINE_ROLE_COUNT];       /* of a place; kept by engine.c */
    char failure[ENGINE_MESSAGE_BYTES]; /* "" while no device broke */
};

int engine_sim_open(const struct engine_config *config, char message[ENGINE_MESSAGE_BYTES],
                    struct engine **ret_engine);
int engine_model_open(const struct engine_config *config, char message[ENGINE_MESSAGE_BYTES],
                      struct engine **ret_engine);
