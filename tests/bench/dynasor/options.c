#include "tests/bench/dynasor/options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/clock.h"
#include "tests/bench/dynasor/tasks.h"

bool option_take(const struct option *options, size_t count, const char *name, const char *value)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(name, options[i].name) != 0)
            continue;
        if (options[i].text)
            *options[i].text = value;
        else
            *options[i].number = (uint32_t)strtoul(value, NULL, 10);
        return true;
    }
    return false;
}

void models_open(struct engine_config config, struct codec **ret_codec, struct engine **ret_engine)
{
    char message[ENGINE_MESSAGE_BYTES];
    const char *reward = config.directory[ENGINE_REWARD];
    config.ranks_count = 1;
    config.cpu_level = -1;
    config.dot_layer = -1;
    if (codec_open(config.directory[ENGINE_POLICY], message, ret_codec) != 0 ||
        (reward && codec_check_reader(*ret_codec, reward, message) != 0) ||
        engine_open(&config, message, ret_engine) != 0)
        fail("%s", message);
}

void progress_say(struct progress *progress, uint32_t done, uint32_t count)
{
    uint64_t now = clock_now_ns();
    if (!progress->name || (now - progress->said_ns < 1000000000u && done < count))
        return;
    double seconds = (double)(now - progress->begin_ns) / 1e9;
    (void)fprintf(stderr, "\r%s: %u of %u %s, %.0f s, %.0f s left  %s", progress->name, done, count,
                  progress->unit, seconds, done ? seconds / done * (count - done) : 0,
                  done == count ? "\n" : "");
    progress->said_ns = now;
}
