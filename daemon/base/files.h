/* daemon/base/files.h — files of a model's directory: plain, not writable by others, and read, never
 * mapped: a mapped file that somebody cuts short ends the process.
 *
 * A symbolic link stands for what it leads to (a download cache is made of links), by the same rules;
 * but not in a directory that others may write, for there the link could be anybody's.
 *
 * Thread: any. Memory: file_read() heap, until file_close(). Fails: with a message that names the
 * file. */
#pragma once
#include <stdint.h>
#include <sys/types.h>
#include <sys/stat.h>

#include "daemon/base/message.h"

struct file {
    uint8_t *bytes; /* of file_read(), otherwise NULL */
    uint64_t size;
    int fd; /* -1 once it is read whole */
    struct stat before;
};

/* directory is open as directory_fd. -ENOENT, without a message, when there is no such file. */
int file_open(int directory_fd, const char *name, char message[MESSAGE_BYTES], struct file *ret);
int file_read(int directory_fd, const char *name, uint64_t bytes_max, char message[MESSAGE_BYTES],
              struct file *ret);
/* bytes from first on. -errno, -EIO where the file is shorter. */
int file_read_part(int fd, uint64_t first, void *to, uint64_t bytes);
/* -EINVAL when the open file is no longer what it was at file_open(). */
int file_unchanged(const struct file *file, const char *name, char message[MESSAGE_BYTES]);
void file_close(struct file *file);

/* Opens a directory; the descriptor, or -errno with a message. */
int file_directory(const char *directory, char message[MESSAGE_BYTES]);
