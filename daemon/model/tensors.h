/* daemon/model/tensors.h — the tensors of a model's directory: model.safetensors, or the shards that
 * model.safetensors.index.json lists.
 *
 * Everything a header says is checked before anything is believed: one object of unique keys, known
 * types, shapes that fill their bytes exactly, bytes that fill the file exactly. The index must list
 * every tensor once, in the shard that holds it, and nothing else. The data is read piece by piece
 * later, small ones by tensors_read(); a file that was changed meanwhile fails tensors_check().
 *
 * Thread: any for reading. Memory: heap for the table. Time: O(headers log tensors). Fails:
 * tensors_open() and tensors_check() with a message that names file and tensor. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#define TENSORS_MESSAGE_BYTES 512u
#define TENSORS_DIMS_MAX 8u
#define TENSORS_COUNT_MAX 65536u
#define TENSORS_NAME_BYTES_MAX 512u

enum tensor_dtype { /* of the format; models here are read in the last three */
                    TENSOR_OTHER = 0,
                    TENSOR_F32,
                    TENSOR_BF16,
                    TENSOR_F16,
};

struct tensor {
    const char *name;
    const char *file; /* its name, in the model's directory */
    enum tensor_dtype dtype;
    uint32_t dims_count;
    uint64_t dims[TENSORS_DIMS_MAX];
    uint64_t offset; /* of its data in the file */
    uint64_t bytes;
    int fd;
};

struct tensors; /* opaque */

int tensors_open(const char *directory, char message[TENSORS_MESSAGE_BYTES],
                 struct tensors **ret_tensors);
void tensors_close(struct tensors *tensors); /* NULL is nothing */

uint32_t tensors_count(const struct tensors *tensors);
const struct tensor *tensors_at(const struct tensors *tensors, uint32_t idx); /* in order of name */
const struct tensor *tensors_find(const struct tensors *tensors, const char *name); /* or NULL */
/* bytes of the data from first on; -errno, -EIO when the file is shorter now. */
int tensors_read(const struct tensor *tensor, uint64_t first, void *to, uint64_t bytes);
/* After the last read of the data: whether the files are what they were at tensors_open(). */
int tensors_check(const struct tensors *tensors, char message[TENSORS_MESSAGE_BYTES]);
/* Data bytes of all tensors. */
uint64_t tensors_bytes(const struct tensors *tensors);
