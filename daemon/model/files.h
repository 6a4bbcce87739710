/* daemon/model/files.h — files of a model's directory: opened without following links, plain, and not
 * writable by others; read whole, or mapped.
 *
 * Thread: any. Memory: file_map() address space, file_read() heap; both until file_close(). Fails:
 * with a message that names the file. */
#pragma once
#include <stdint.h>
#include <sys/types.h>
#include <sys/stat.h>

#include "daemon/model/message.h"

struct file {
    uint8_t *bytes; /* NULL: not open */
    uint64_t size;
    int fd; /* -1 once it is read */
    struct stat before;
};

/* directory is open as directory_fd. -ENOENT, without a message, when there is no such file. */
int file_map(int directory_fd, const char *name, char message[MESSAGE_BYTES], struct file *ret);
int file_read(int directory_fd, const char *name, uint64_t bytes_max, char message[MESSAGE_BYTES],
              struct file *ret);
/* -EINVAL when the mapped file is no longer what it was at file_map(). */
int file_unchanged(const struct file *file, const char *name, char message[MESSAGE_BYTES]);
void file_close(struct file *file);

/* Opens a directory; the descriptor, or -errno with a message. */
int file_directory(const char *directory, char message[MESSAGE_BYTES]);
