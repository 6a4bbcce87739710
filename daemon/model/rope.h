/* daemon/model/rope.h — rotation frequencies of the seven kinds, as transformers computes them, in
 * float32 and in its order of operations.
 *
 * Thread: any. Memory: the caller's. Fails: rope_read() with a message. */
#pragma once
#include "daemon/model/arch.h"
#include "daemon/model/fields.h"

struct rope_source {
    const char *file;
    const char *field;         /* "rope_scaling" or "rope_parameters" */
    const struct json *object; /* NULL: default */
    double theta;              /* where the object has none */
    uint32_t original_tokens;  /* likewise; 0: none */
    double partial;            /* likewise */
};

/* Sets rope, rotary_dim, rope_scale and the frequencies; the shape and context_tokens are there. */
int rope_read(const struct rope_source *source, struct arch *arch, char message[MESSAGE_BYTES]);
