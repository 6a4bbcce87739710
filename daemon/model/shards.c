#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/model/safetensors.h"

#define DEPTH_MAX 8u

/* A shard lies in the directory itself: its name has no way out of it. */
static bool name_plain(const char *name, size_t bytes)
{
    static const char suffix[] = ".safetensors";
    size_t end = sizeof suffix - 1;
    return bytes > end && bytes <= 255 && strlen(name) == bytes && name[0] != '.' &&
           !strchr(name, '/') && !strstr(name, "..") && strcmp(name + bytes - end, suffix) == 0;
}

static int name_order(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static uint32_t shard_of(const struct shards *it, const char *name)
{
    const char *const *at = bsearch(&name, it->name, it->count, sizeof it->name[0], name_order);
    return at ? (uint32_t)(at - it->name) : it->count;
}

/* Runs of tensors name the same file, mostly: only changes are looked up. */
static int collect(const char *file, char message[MESSAGE_BYTES], struct shards *it)
{
    void *cursor = NULL;
    const char *key, *last = "";
    const struct json *value;
    while (json_next(it->map, &cursor, &key, &value)) {
        size_t bytes = 0;
        const char *name = json_text(value, &bytes);
        if (!name || !name_plain(name, bytes))
            return message_refuse(message, -EINVAL,
                                  "%s: tensor \"%.150s\": \"%.100s\" is not the plain name of a "
                                  ".safetensors file",
                                  file, key, name ? name : "");
        if (strcmp(name, last) == 0)
            continue;
        last = name;
        if (shard_of(it, name) < it->count)
            continue;
        if (it->count == SHARDS_MAX)
            return message_refuse(message, -EINVAL, "%s: more than %u shards", file, SHARDS_MAX);
        it->name[it->count++] = name;
        qsort(it->name, it->count, sizeof it->name[0], name_order);
    }
    return 0;
}

int shards_read(const char *name, const char *text, uint64_t bytes, char message[MESSAGE_BYTES],
                struct shards *ret)
{
    char why[JSON_ERROR_BYTES];
    *ret = (struct shards){0};
    int result = json_parse(text, bytes, DEPTH_MAX, why, &ret->index);
    if (result)
        return message_refuse(message, result, "%s: %s", name,
                              result == -ENOMEM ? "no memory" : why);
    ret->map = json_member(ret->index, "weight_map");
    const struct json *metadata = json_member(ret->index, "metadata");
    if (json_kind(ret->index) != JSON_KIND_OBJECT ||
        json_count(ret->index) != 1u + (metadata != NULL))
        result =
            message_refuse(message, -EINVAL, "%s: not an object of metadata and weight_map", name);
    else if (json_kind(ret->map) != JSON_KIND_OBJECT || json_count(ret->map) == 0 ||
             json_count(ret->map) > TENSORS_COUNT_MAX)
        result =
            message_refuse(message, -EINVAL, "%s: weight_map is not an object of 1 to %u tensors",
                           name, TENSORS_COUNT_MAX);
    else
        result = collect(name, message, ret);
    if (result)
        shards_free(ret);
    return result;
}

void shards_free(struct shards *it)
{
    json_free(it->index);
    *it = (struct shards){0};
}

int shards_check(const struct shards *it, const struct safetensors *files,
                 char message[MESSAGE_BYTES])
{
    void *cursor = NULL;
    const char *key;
    const struct json *value;
    while (json_next(it->map, &cursor, &key, &value)) {
        const char *name = json_text(value, NULL);
        if (!safetensors_find(&files[shard_of(it, name)], key))
            return message_refuse(message, -EINVAL,
                                  "%s: tensor \"%.200s\" is listed for this shard but not in it",
                                  name, key);
    }
    for (uint32_t s = 0; s < it->count; s++)
        for (uint32_t i = 0; i < files[s].count; i++)
            if (!json_is(json_member(it->map, files[s].list[i].name), it->name[s]))
                return message_refuse(message, -EINVAL,
                                      "%s: tensor \"%.200s\" is not listed for this shard",
                                      it->name[s], files[s].list[i].name);
    return 0;
}
