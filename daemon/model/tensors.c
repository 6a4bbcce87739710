#include "daemon/model/tensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/base/assert.h"
#include "daemon/base/files.h"
#include "daemon/model/safetensors.h"

#define INDEX_BYTES_MAX 100000000u

static const char one_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";

struct tensors {
    struct shards shards; /* of one file: no index, its name alone */
    struct file *files;   /* [shards.count] */
    struct safetensors *tables;
    const struct tensor **list; /* [count] in order of name */
    uint32_t count;
    uint64_t bytes;
};

/* Length and header; the length alone, or less, where safetensors_read() will refuse that. */
static int read_head(const struct file *file, uint8_t **ret_head)
{
    uint8_t length[8] = {0};
    uint64_t bytes = file->size < 8 ? file->size : 8;
    int result = file_read_part(file->fd, 0, length, bytes);
    if (result == 0 && file->size >= 8)
        bytes = safetensors_head_bytes(length, file->size);
    *ret_head = malloc(bytes + 1);
    if (!*ret_head)
        return -ENOMEM;
    return result ? result : file_read_part(file->fd, 0, *ret_head, bytes);
}

static int open_shard(struct tensors *t, int directory_fd, uint32_t idx,
                      char message[MESSAGE_BYTES])
{
    const char *name = t->shards.name[idx];
    struct file *file = &t->files[idx];
    struct safetensors *table = &t->tables[idx];
    int result = file_open(directory_fd, name, message, file);
    if (result == -ENOENT)
        return message_refuse(message, result, "%s: no such file", name);
    if (result)
        return result;
    uint8_t *head = NULL;
    result = read_head(file, &head);
    if (result)
        (void)message_refuse(message, result, "%s: %s", name, strerror(-result));
    result = result ? result : safetensors_read(name, head, file->size, message, table);
    free(head);
    for (uint32_t i = 0; i < table->count && !result; i++) {
        table->list[i].fd = file->fd;
        table->list[i].file = name;
    }
    return result ? result : file_unchanged(file, name, message);
}

static int by_name(const void *a, const void *b)
{
    const struct tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static int merge(struct tensors *t, char message[MESSAGE_BYTES])
{
    uint32_t total = 0;
    for (uint32_t s = 0; s < t->shards.count; s++)
        total += t->tables[s].count;
    t->list = calloc(total + 1u, sizeof(struct tensor *));
    if (!t->list)
        return message_refuse(message, -ENOMEM, "no memory for a table of %u tensors", total);
    for (uint32_t s = 0; s < t->shards.count; s++)
        for (uint32_t i = 0; i < t->tables[s].count; i++) {
            t->list[t->count++] = &t->tables[s].list[i];
            t->bytes += t->tables[s].list[i].bytes;
        }
    qsort(t->list, t->count, sizeof(struct tensor *), by_name);
    return 0;
}

static int read_index(struct tensors *t, int directory_fd, char message[MESSAGE_BYTES])
{
    struct file file;
    int result = file_read(directory_fd, index_name, INDEX_BYTES_MAX, message, &file);
    if (result == -ENOENT)
        return message_refuse(message, result, "neither %s nor %s is there", one_name, index_name);
    if (result)
        return result;
    result = shards_read(index_name, (const char *)file.bytes, file.size, message, &t->shards);
    file_close(&file);
    return result;
}

static int open_all(struct tensors *t, int directory_fd, char message[MESSAGE_BYTES])
{
    int result = 0;
    if (faccessat(directory_fd, one_name, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
        t->shards.name[0] = one_name;
        t->shards.count = 1;
    } else {
        result = read_index(t, directory_fd, message);
    }
    if (result)
        return result;
    t->tables = calloc(t->shards.count, sizeof *t->tables);
    t->files = calloc(t->shards.count, sizeof *t->files);
    if (!t->tables || !t->files)
        return message_refuse(message, -ENOMEM, "no memory for %u shards", t->shards.count);
    for (uint32_t i = 0; i < t->shards.count; i++)
        t->files[i].fd = -1;
    for (uint32_t i = 0; i < t->shards.count && !result; i++)
        result = open_shard(t, directory_fd, i, message);
    if (result == 0 && t->shards.index)
        result = shards_check(&t->shards, t->tables, message);
    return result ? result : merge(t, message);
}

int tensors_open(const char *directory, char message[TENSORS_MESSAGE_BYTES],
                 struct tensors **ret_tensors)
{
    char why[MESSAGE_BYTES];
    int fd = file_directory(directory, message);
    if (fd < 0)
        return fd;
    struct tensors *t = calloc(1, sizeof *t);
    int result = t ? open_all(t, fd, why) : message_refuse(why, -ENOMEM, "no memory");
    (void)close(fd); /* only read from */
    if (result) {
        tensors_close(t);
        return message_refuse(message, result, "%.200s: %s", directory, why);
    }
    *ret_tensors = t;
    return 0;
}

void tensors_close(struct tensors *tensors)
{
    if (!tensors)
        return;
    for (uint32_t i = 0; i < tensors->shards.count; i++) {
        if (tensors->tables)
            safetensors_free(&tensors->tables[i]);
        if (tensors->files)
            file_close(&tensors->files[i]);
    }
    free(tensors->tables);
    free(tensors->files);
    free(tensors->list);
    shards_free(&tensors->shards);
    free(tensors);
}

uint32_t tensors_count(const struct tensors *tensors)
{
    return tensors->count;
}

const struct tensor *tensors_at(const struct tensors *tensors, uint32_t idx)
{
    return tensors->list[idx];
}

const struct tensor *tensors_find(const struct tensors *tensors, const char *name)
{
    struct tensor it = {.name = name};
    const struct tensor *key = &it;
    const struct tensor **at =
        bsearch(&key, tensors->list, tensors->count, sizeof(struct tensor *), by_name);
    return at ? *at : NULL;
}

int tensors_read(const struct tensor *tensor, uint64_t first, void *to, uint64_t bytes)
{
    ASSERT(first <= tensor->bytes && bytes <= tensor->bytes - first);
    return file_read_part(tensor->fd, tensor->offset + first, to, bytes);
}

int tensors_check(const struct tensors *tensors, char message[TENSORS_MESSAGE_BYTES])
{
    int result = 0;
    for (uint32_t i = 0; i < tensors->shards.count && !result; i++)
        result = file_unchanged(&tensors->files[i], tensors->shards.name[i], message);
    return result;
}

uint64_t tensors_bytes(const struct tensors *tensors)
{
    return tensors->bytes;
}
