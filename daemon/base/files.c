#include "daemon/base/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int file_directory(const char *directory, char message[MESSAGE_BYTES])
{
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return message_refuse(message, -errno, "%s: %s", directory, strerror(errno));
    return fd;
}

static const int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;

/* The descriptor of what a link leads to. */
static int link_open(int directory_fd, const char *name, char message[MESSAGE_BYTES])
{
    struct stat directory;
    if (fstat(directory_fd, &directory) != 0)
        return message_refuse(message, -errno, "%s: %s", name, strerror(errno));
    if (directory.st_mode & S_IWOTH)
        return message_refuse(
            message, -EINVAL,
            "%s: a symbolic link in a directory that others may write (mode %03o)", name,
            directory.st_mode & 0777);
    int fd = openat(directory_fd, name, flags);
    if (fd < 0 && errno == ENOENT)
        return message_refuse(message, -EINVAL, "%s: a symbolic link to nothing", name);
    return fd < 0 ? message_refuse(message, -errno, "%s: %s", name, strerror(errno)) : fd;
}

static int file_check(struct file *f, const char *name, char message[MESSAGE_BYTES])
{
    if (fstat(f->fd, &f->before) != 0)
        return message_refuse(message, -errno, "%s: %s", name, strerror(errno));
    if (!S_ISREG(f->before.st_mode))
        return message_refuse(message, -EINVAL, "%s: not a plain file", name);
    if (f->before.st_mode & S_IWOTH)
        return message_refuse(message, -EINVAL, "%s: others may write it (mode %03o)", name,
                              f->before.st_mode & 0777);
    f->size = (uint64_t)f->before.st_size;
    return 0;
}

int file_open(int directory_fd, const char *name, char message[MESSAGE_BYTES], struct file *ret)
{
    *ret = (struct file){.fd = openat(directory_fd, name, flags | O_NOFOLLOW)};
    if (ret->fd < 0 && errno == ENOENT)
        return -ENOENT;
    if (ret->fd < 0 && errno == ELOOP)
        ret->fd = link_open(directory_fd, name, message);
    else if (ret->fd < 0)
        ret->fd = message_refuse(message, -errno, "%s: %s", name, strerror(errno));
    int result = ret->fd < 0 ? ret->fd : file_check(ret, name, message);
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

int file_read_part(int fd, uint64_t first, void *to, uint64_t bytes)
{
    for (uint64_t done = 0; done < bytes;) {
        ssize_t got = pread(fd, (uint8_t *)to + done, bytes - done, (off_t)(first + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? -errno : -EIO;
        done += (uint64_t)got;
    }
    return 0;
}

int file_read(int directory_fd, const char *name, uint64_t bytes_max, char message[MESSAGE_BYTES],
              struct file *ret)
{
    int result = file_open(directory_fd, name, message, ret);
    if (result)
        return result;
    if (ret->size > bytes_max) {
        result = message_refuse(message, -EINVAL, "%s: %llu bytes; at most %llu are accepted", name,
                                (unsigned long long)ret->size, (unsigned long long)bytes_max);
    } else {
        ret->bytes = malloc(ret->size + 1);
        result = ret->bytes ? file_read_part(ret->fd, 0, ret->bytes, ret->size) : -ENOMEM;
        if (result)
            (void)message_refuse(message, result, "%s: %s", name, strerror(-result));
    }
    result = result ? result : file_unchanged(ret, name, message);
    (void)close(ret->fd); /* only read from */
    ret->fd = -1;
    if (result)
        file_close(ret);
    return result;
}

void file_close(struct file *file)
{
    if (file->fd >= 0)
        (void)close(file->fd); /* only read from */
    free(file->bytes);
    *file = (struct file){.fd = -1};
}
