/* tests/bench/dynasor/options.h — what the benchmarks' programs share at their start: arguments by a table, and
 * models opened in this process.
 *
 * Thread: main. Memory: values point into argv; models until codec_free() and engine_close(). What cannot be
 * had ends the process with a sentence (a tool, not the daemon). */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/engine/engine.h"
#include "daemon/text/codec.h"

struct option { /* of text, or of a number */
    const char *name;
    const char **text;
    uint32_t *number;
};

/* False: it is none of them. */
bool option_take(const struct option *options, size_t count, const char *name, const char *value);

/* What config.directory names, on one rank and as this CPU can; a reward model must read the policy's tokens. */
void models_open(struct engine_config config, struct codec **ret_codec, struct engine **ret_engine);
