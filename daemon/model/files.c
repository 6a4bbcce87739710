#include "daemon/model/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int file_directory(const char *directory, char message[MESSAGE_BYTES])
{
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return message_refuse(message, -errno, "%s: %s", directory, strerror(errno));
    return fd;
}

static int file_open(int directory_fd, const char *name, char message[MESSAGE_BYTES],
                     struct file *f)
{
    *f = (struct file){.fd = openat(directory_fd, name,
                                    O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)};
    if (f->fd < 0 && errno == ENOENT)
        return -ENOENT;
    if (f->fd < 0 && errno == ELOOP)
        return message_refuse(message, -EINVAL, "%s: a symbolic link; a plain file is accepted",
                              name);
    if (f->fd < 0 || fstat(f->fd, &f->before) != 0)
        return message_refuse(message, -errno, "%s: %s", name, strerror(errno));
    if (!S_ISREG(f->before.st_mode))
        return message_refuse(message, -EINVAL, "%s: not a plain file", name);
    if (f->before.st_mode & S_IWOTH)
        return message_refuse(message, -EINVAL, "%s: others may write it (mode %03o)", name,
                              f->before.st_mode & 0777);
    f->size = (uint64_t)f->before.st_size;
    return 0;
}

int file_map(int directory_fd, const char *name, char message[MESSAGE_BYTES], struct file *ret)
{
    int result = file_open(directory_fd, name, message, ret);
    if (result == 0 && ret->size > 0) {
        void *at = mmap(NULL, ret->size, PROT_READ, MAP_SHARED, ret->fd, 0);
        if (at == MAP_FAILED)
            result = message_refuse(message, -errno, "%s: %s", name, strerror(errno));
        else
            ret->bytes = at;
    }
    if (result)
        file_close(ret);
    return result;
}

int file_unchanged(const struct file *file, const char *name, char message[MESSAGE_BYTES])
{
    struct stat now;
    if (fstat(file->fd, &now) != 0)
        return message_refuse(message, -errno, "%s: %s", name, strerror(errno));
    const struct stat *was = &file->before;
    if (now.st_size != was->st_size || now.st_mtim.tv_sec != was->st_mtim.tv_sec ||
        now.st_mtim.tv_nsec != was->st_mtim.tv_nsec)
        return message_refuse(message, -EINVAL, "%s: changed while it was read", name);
    return 0;
}

static int read_all(struct file *f)
{
    uint64_t done = 0;
    while (done < f->size) {
        ssize_t got = pread(f->fd, f->bytes + done, f->size - done, (off_t)done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? -errno : -EINVAL;
        done += (uint64_t)got;
    }
    return 0;
}

int file_read(int directory_fd, const char *name, uint64_t bytes_max, char message[MESSAGE_BYTES],
              struct file *ret)
{
    int result = file_open(directory_fd, name, message, ret);
    if (result == 0 && ret->size > bytes_max)
        result = message_refuse(message, -EINVAL, "%s: %llu bytes; at most %llu are accepted", name,
                                (unsigned long long)ret->size, (unsigned long long)bytes_max);
    if (result == 0) {
        ret->bytes = malloc(ret->size + 1);
        result = ret->bytes ? read_all(ret) : -ENOMEM;
        if (result)
            (void)message_refuse(message, result, "%s: %s", name, strerror(-result));
    }
    result = result ? result : file_unchanged(ret, name, message);
    if (ret->fd >= 0)
        (void)close(ret->fd); /* only read from */
    ret->fd = -1;
    if (result)
        file_close(ret);
    return result;
}

void file_close(struct file *file)
{
    if (file->fd >= 0) {
        if (file->bytes)
            (void)munmap(file->bytes, file->size);
        (void)close(file->fd); /* only read from */
    } else {
        free(file->bytes);
    }
    *file = (struct file){.fd = -1};
}
