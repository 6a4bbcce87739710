#include "daemon/model/sentence.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "daemon/base/files.h"
#include "daemon/model/fields.h"

#define FILE_BYTES_MAX 65536u
#define DEPTH_MAX 8u

static const char modules_name[] = "modules.json";

static int document_read(int directory_fd, const char *name, char message[MESSAGE_BYTES],
                         struct json **ret)
{
    char why[JSON_ERROR_BYTES];
    struct file file;
    int result = file_read(directory_fd, name, FILE_BYTES_MAX, message, &file);
    if (result)
        return result;
    result = json_parse((const char *)file.bytes, file.size, DEPTH_MAX, why, ret);
    file_close(&file);
    return result == 0 ? 0
                       : message_refuse(message, result, "%s: %s", name,
                                        result == -ENOMEM ? "no memory" : why);
}

/* ---- the pooling -------------------------------------------------------------------------------- */

enum pooling_field {
    P_DIMENSION,
    P_DIMENSION_NEW,
    P_MODE,
    P_CLS,
    P_MEAN,
    P_MAX,
    P_SQRT,
    P_WEIGHTED,
    P_LAST,
    P_PROMPT,
    P_COUNT,
};

static const struct field pooling_table[P_COUNT] = {
    [P_DIMENSION] = {"word_embedding_dimension", FIELD_COUNT, 1, 0, 1, 1u << 20},
    [P_DIMENSION_NEW] = {"embedding_dimension", FIELD_COUNT, 1, 0, 1, 1u << 20},
    [P_MODE] = {"pooling_mode", FIELD_TEXT, 1, 0, 0, 0},
    [P_CLS] = {"pooling_mode_cls_token", FIELD_FLAG, 1, 0, 0, 0},
    [P_MEAN] = {"pooling_mode_mean_tokens", FIELD_FLAG, 1, 0, 0, 0},
    [P_MAX] = {"pooling_mode_max_tokens", FIELD_OFF, 1, 0, 0, 0},
    [P_SQRT] = {"pooling_mode_mean_sqrt_len_tokens", FIELD_OFF, 1, 0, 0, 0},
    [P_WEIGHTED] = {"pooling_mode_weightedmean_tokens", FIELD_OFF, 1, 0, 0, 0},
    [P_LAST] = {"pooling_mode_lasttoken", FIELD_OFF, 1, 0, 0, 0},
    [P_PROMPT] = {"include_prompt", FIELD_FLAG, 1, 0, 0, 0}, /* we add no prompt */
};

/* As flags, or by one name. */
static int pooling_mode(const char *file, const struct json *const *value, struct arch *a,
                        char message[MESSAGE_BYTES])
{
    bool first = field_flag(value[P_CLS], false), mean = field_flag(value[P_MEAN], false);
    if (value[P_MODE]) {
        const char *name = json_text(value[P_MODE], NULL);
        first = json_is(value[P_MODE], "cls");
        mean = json_is(value[P_MODE], "mean");
        if (!first && !mean)
            return message_refuse(message, -EINVAL,
                                  "%s: pooling_mode \"%.100s\"; mean and cls are accepted", file,
                                  name ? name : "");
    }
    if (first == mean)
        return message_refuse(message, -EINVAL,
                              "%s: pooling by %s; one of mean and cls is accepted", file,
                              first ? "mean and cls" : "nothing known");
    a->pool_first = first;
    return 0;
}

static int pooling_take(const char *file, const struct json *document, struct arch *a,
                        char message[MESSAGE_BYTES])
{
    const struct json *value[P_COUNT];
    const struct fields fields = {.file = file,
                                  .prefix = "",
                                  .variant_name = "a pooling",
                                  .table = pooling_table,
                                  .count = P_COUNT,
                                  .variant = 1};
    int result = json_kind(document) == JSON_KIND_OBJECT
                     ? fields_read(&fields, document, message, value)
                     : message_refuse(message, -EINVAL, "%s: not an object", file);
    for (uint32_t i = P_DIMENSION; i <= P_DIMENSION_NEW && !result; i++)
        if (field_count(value[i], a->hidden) != a->hidden)
            result = message_refuse(message, -EINVAL, "%s: %s is %u, the model's is %u", file,
                                    pooling_table[i].name, field_count(value[i], 0), a->hidden);
    return result ? result : pooling_mode(file, value, a, message);
}

static int pooling_read(int directory_fd, const char *folder, struct arch *a,
                        char message[MESSAGE_BYTES])
{
    static const char file[] = "config.json";
    char why[MESSAGE_BYTES];
    struct json *document = NULL;
    int fd = openat(directory_fd, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return message_refuse(message, -errno, "%s: %s", folder, strerror(errno));
    int result = document_read(fd, file, why, &document);
    (void)close(fd); /* only read from */
    if (result == -ENOENT)
        (void)message_refuse(why, result, "%s: no such file", file);
    result = result ? result : pooling_take(file, document, a, why);
    json_free(document);
    return result ? message_refuse(message, result, "%s/%s", folder, why) : 0;
}

/* ---- the modules -------------------------------------------------------------------------------- */

enum module { MODULE_TRANSFORMER = 0, MODULE_POOLING, MODULE_NORMALIZE, MODULE_COUNT };
static const char *const module_names[MODULE_COUNT + 1] = {"Transformer", "Pooling", "Normalize",
                                                           "nothing more"};

/* The package moved its classes over time; their names stayed. */
static bool is_module(const char *type, uint32_t module)
{
    static const char package[] = "sentence_transformers.";
    return module < MODULE_COUNT && strncmp(type, package, strlen(package)) == 0 &&
           strcmp(strrchr(type, '.') + 1, module_names[module]) == 0;
}

/* A folder of the directory itself. */
static bool is_plain(const char *path)
{
    size_t bytes = 0;
    while (isalnum((unsigned char)path[bytes]) || path[bytes] == '_' || path[bytes] == '-')
        bytes++;
    return bytes > 0 && bytes <= 64 && path[bytes] == 0;
}

static int module_read(int directory_fd, const struct json *entry, uint32_t idx, struct arch *a,
                       char message[MESSAGE_BYTES])
{
    const char *type = json_text(json_member(entry, "type"), NULL);
    const char *path = json_text(json_member(entry, "path"), NULL);
    if (!type || !path)
        return message_refuse(message, -EINVAL, "%s: module %u has no type and path", modules_name,
                              idx);
    if (!is_module(type, idx))
        return message_refuse(
            message, -EINVAL, "%s: module %u is \"%.100s\"; sentence_transformers: %s is accepted",
            modules_name, idx, type, module_names[idx < MODULE_COUNT ? idx : MODULE_COUNT]);
    if (idx == MODULE_TRANSFORMER && path[0])
        return message_refuse(message, -EINVAL,
                              "%s: module 0 lies in \"%.100s\"; \"\" is accepted: the model beside "
                              "this file",
                              modules_name, path);
    if (idx == MODULE_NORMALIZE)
        a->normalize = true;
    if (idx != MODULE_POOLING)
        return 0;
    if (!is_plain(path))
        return message_refuse(message, -EINVAL,
                              "%s: module 1 lies in \"%.100s\"; a folder's plain name is accepted",
                              modules_name, path);
    return pooling_read(directory_fd, path, a, message);
}

int sentence_read(int directory_fd, struct arch *a, char message[ARCH_MESSAGE_BYTES])
{
    struct json *document = NULL;
    int result = document_read(directory_fd, modules_name, message, &document);
    if (result == -ENOENT)
        return 0;
    if (result)
        return result;
    uint32_t count = json_count(document);
    if (json_kind(document) != JSON_KIND_ARRAY || count < 2)
        result = message_refuse(message, -EINVAL,
                                "%s: not a list of Transformer, Pooling and "
                                "perhaps Normalize",
                                modules_name);
    for (uint32_t i = 0; i < count && !result; i++)
        result = module_read(directory_fd, json_element(document, i), i, a, message);
    json_free(document);
    return result;
}
