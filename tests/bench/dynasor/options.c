#include "tests/bench/dynasor/options.h"

#include <stdlib.h>
#include <string.h>

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
