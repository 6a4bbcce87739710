/* daemon/model/safetensors.h — the parts of tensors.h that read bytes in memory: one file, and the
 * index of shards. Apart so that tests and fuzzers reach them without files.
 *
 * Thread: any. Memory: heap. Fails: with a message. */
#pragma once
#include "daemon/base/json.h"
#include "daemon/base/message.h"
#include "daemon/model/tensors.h"

struct safetensors {
    struct json *header; /* names of the tensors lie in it */
    struct tensor *list; /* [count] in order of name */
    uint32_t count;
};

/* Bytes of a file of size that safetensors_read() looks at: length and header; 8 when that is too long.
 * length: its first 8 bytes. */
uint64_t safetensors_head_bytes(const uint8_t length[8], uint64_t size);

/* So many bytes of the file lie at bytes (all of a file of less than 8), until the call ends. */
int safetensors_read(const char *name, const uint8_t *bytes, uint64_t size,
                     char message[MESSAGE_BYTES], struct safetensors *ret);
void safetensors_free(struct safetensors *it); /* zeros are nothing */
const struct tensor *safetensors_find(const struct safetensors *it, const char *name);

#define SHARDS_MAX 1024u

struct shards {
    struct json *index;
    const struct json *map;       /* tensor name: name of its file */
    const char *name[SHARDS_MAX]; /* in order, each once */
    uint32_t count;
};

int shards_read(const char *name, const char *text, uint64_t bytes, char message[MESSAGE_BYTES],
                struct shards *ret);
void shards_free(struct shards *it);
/* Whether the index and the files say the same; files[i] is what shards->name[i] holds. */
int shards_check(const struct shards *it, const struct safetensors *files,
                 char message[MESSAGE_BYTES]);
