/* daemon/engine/engine_model.h — what tests of the real engine may do beyond engine.h.
 *
 * Thread: control. Memory and failure as engine.h. */
#pragma once
#include "daemon/engine/engine.h"

/* engine_open() on a given backend, cpu_level unused: kernels/ref, or one CPU level. */
int engine_model_open_on(const struct engine_config *config, const struct ops *ops,
                         char message[ENGINE_MESSAGE_BYTES], struct engine **ret_engine);

/* Like post, but samples nothing: logits of every token of the batch to logits
 * [tokens_count, vocabulary], which is the caller's until engine_next() returns the batch. */
int engine_model_post_logits(struct engine *engine, struct engine_batch *batch, float *logits);

/* Whether decode steps are padded, and so run as graphs where the device has them; they are from the
 * start. Between steps only. */
void engine_model_pad(struct engine *engine, bool pads);
/* Steps that ran as graphs. Between steps only. */
uint64_t engine_model_graph_runs(const struct engine *engine);

/* What attention has read, summed over the ranks. Between steps only. */
uint64_t engine_model_kv_bytes_read(const struct engine *engine);
