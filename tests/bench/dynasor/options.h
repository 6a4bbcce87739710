/* tests/bench/dynasor/options.h — what the benchmarks' programs share: arguments by a table, models opened in this
 * process, and how far a long run is.
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

struct progress {
    const char *name; /* NULL: says nothing */
    const char *unit; /* what is counted */
    uint64_t begin_ns;
    uint64_t said_ns;
};
/* A line to stderr, over the one before: at most once a second, and when all are done. */
void progress_say(struct progress *progress, uint32_t done, uint32_t count);
