#include "kernels/cuda/cuda.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define UUID_BYTES 16u
#define UUID_TEXT_BYTES 37u
#define NAME_BYTES 64u
#define PATH_BYTES 4096u
#define PROCESSES_MAX 256u

/* Attributes and modes of cuda.h. */
enum { COMPUTE_MODE = 20, CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76 };
enum { MODE_PROHIBITED = 2 };

struct driver { /* of libcuda; every result is 0 or an error's number */
    int (*init)(unsigned flags);
    int (*device_count)(int *ret_count);
    int (*device_get)(int *ret_device, int number);
    int (*device_name)(char *name, int bytes, int device);
    int (*device_uuid)(unsigned char uuid[UUID_BYTES], int device);
    int (*device_attribute)(int *ret_value, int attribute, int device);
};

struct process { /* nvmlProcessInfo_t, version 2 and 3 of the call */
    unsigned pid;
    unsigned long long memory_bytes;
    unsigned instances[2];
};

struct monitor { /* of libnvidia-ml */
    int (*init)(void);
    int (*shutdown)(void);
    int (*by_uuid)(const char *uuid, void **ret_device);
    int (*processes)(void *device, unsigned *count, struct process *ret_processes);
};

struct device {
    int number;
    uint32_t capability;
    char name[NAME_BYTES];
    char uuid[UUID_TEXT_BYTES];
};

__attribute__((format(printf, 3, 4))) static int say(char message[CUDA_TEXT_BYTES], int result,
                                                     const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(message, CUDA_TEXT_BYTES, format, args); /* a cut message is as good */
    va_end(args);
    return result;
}

static bool symbol(void *library, const char *name, void *ret_function)
{
    void *found = dlsym(library, name);
    memcpy(ret_function, &found, sizeof found);
    return found != NULL;
}

/* ---- driver ----------------------------------------------------------------------------------- */

static int driver_open(const char *path, struct driver *d, char message[CUDA_TEXT_BYTES])
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return say(message, CUDA_NO_DRIVER, "no NVIDIA driver: %s", dlerror());
    if (!symbol(library, "cuInit", &d->init) ||
        !symbol(library, "cuDeviceGetCount", &d->device_count) ||
        !symbol(library, "cuDeviceGet", &d->device_get) ||
        !symbol(library, "cuDeviceGetName", &d->device_name) ||
        !symbol(library, "cuDeviceGetUuid_v2", &d->device_uuid) ||
        !symbol(library, "cuDeviceGetAttribute", &d->device_attribute))
        return say(message, CUDA_NO_DRIVER, "%s lacks a function that is needed", path);
    return CUDA_FOUND;
}

static void uuid_text(const unsigned char uuid[UUID_BYTES], char text[UUID_TEXT_BYTES])
{
    uint32_t at = 0;
    for (uint32_t i = 0; i < UUID_BYTES; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            text[at++] = '-';
        (void)snprintf(text + at, 3, "%02x", uuid[i]); /* two digits */
        at += 2;
    }
}

static int device_read(const struct driver *d, int number, struct device *to,
                       char message[CUDA_TEXT_BYTES])
{
    unsigned char uuid[UUID_BYTES];
    int device = 0, mode = 0, major = 0, minor = 0;
    int r = d->device_get(&device, number);
    r = r ? r : d->device_name(to->name, NAME_BYTES, device);
    r = r ? r : d->device_uuid(uuid, device);
    r = r ? r : d->device_attribute(&mode, COMPUTE_MODE, device);
    r = r ? r : d->device_attribute(&major, CAPABILITY_MAJOR, device);
    r = r ? r : d->device_attribute(&minor, CAPABILITY_MINOR, device);
    if (r)
        return say(message, CUDA_DRIVER_FAILS, "GPU %d: the driver says error %d", number, r);
    to->name[NAME_BYTES - 1] = 0;
    to->number = number;
    to->capability = (uint32_t)(10 * major + minor);
    uuid_text(uuid, to->uuid);
    if (mode == MODE_PROHIBITED)
        return say(message, CUDA_IN_USE, "GPU %d (%s): its compute mode is \"prohibited\"", number,
                   to->name);
    return to->capability >= 80
               ? CUDA_FOUND
               : say(message, CUDA_NO_DEVICE,
                     "GPU %d (%s): compute capability %d.%d, at least 8.0 is needed", number,
                     to->name, major, minor);
}

static int devices_read(const struct cuda_request *request, struct device *devices,
                        uint32_t *ret_missing, char message[CUDA_TEXT_BYTES])
{
    struct driver d = {0};
    int count = 0, r = driver_open(request->driver, &d, message);
    if (r)
        return r;
    enum { NO_DEVICE = 100 };
    int error = d.init(0);
    error = error ? error : d.device_count(&count);
    if (error == NO_DEVICE || (!error && count <= 0))
        return say(message, CUDA_NO_DEVICE, "an NVIDIA driver, but no GPU");
    if (error)
        return say(message, CUDA_DRIVER_FAILS, "the NVIDIA driver does not start: error %d", error);
    for (uint32_t i = 0; i < request->ranks_count && !r; i++) {
        int number = request->devices[i];
        *ret_missing = (uint32_t)number;
        r = number >= 0 && number < count
                ? device_read(&d, number, &devices[i], message)
                : say(message, CUDA_NO_SUCH_DEVICE, "GPU %d: there are GPUs 0 to %d", number,
                      count - 1);
    }
    return r;
}

/* ---- other users ------------------------------------------------------------------------------ */

/* What runs on the device according to the monitor; 0: nobody else, or it cannot tell. */
static unsigned process_on(const struct monitor *m, const struct device *device)
{
    struct process processes[PROCESSES_MAX];
    char uuid[UUID_TEXT_BYTES + 4];
    unsigned count = PROCESSES_MAX;
    void *handle = NULL;
    (void)snprintf(uuid, sizeof uuid, "GPU-%s", device->uuid); /* fits */
    if (m->by_uuid(uuid, &handle) || m->processes(handle, &count, processes))
        return 0;
    for (unsigned i = 0; i < count && i < PROCESSES_MAX; i++)
        if (processes[i].pid != (unsigned)getpid())
            return processes[i].pid;
    return 0;
}

static void process_name(unsigned pid, char name[NAME_BYTES])
{
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%u/comm", pid); /* fits */
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t bytes = fd < 0 ? 0 : read(fd, name, NAME_BYTES - 1);
    name[bytes > 0 ? bytes : 0] = 0;
    name[strcspn(name, "\n")] = 0;
    if (fd >= 0)
        (void)close(fd); /* it was only read */
}

static int others_check(const struct cuda_request *request, const struct device *devices,
                        char message[CUDA_TEXT_BYTES])
{
    struct monitor m = {0};
    void *library = request->monitor ? dlopen(request->monitor, RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!library || !symbol(library, "nvmlInit_v2", &m.init) ||
        !symbol(library, "nvmlShutdown", &m.shutdown) ||
        !symbol(library, "nvmlDeviceGetHandleByUUID", &m.by_uuid) ||
        !symbol(library, "nvmlDeviceGetComputeRunningProcesses_v3", &m.processes) || m.init())
        return CUDA_FOUND; /* nobody to ask: the lock and the driver decide */
    int r = CUDA_FOUND;
    for (uint32_t i = 0; i < request->ranks_count && !r; i++) {
        char name[NAME_BYTES];
        unsigned pid = process_on(&m, &devices[i]);
        if (!pid)
            continue;
        process_name(pid, name);
        r = say(message, CUDA_IN_USE, "GPU %d (%s): used by process %u (%s)", devices[i].number,
                devices[i].name, pid, name[0] ? name : "of another namespace");
    }
    (void)m.shutdown(); /* only its memory is at stake */
    return r;
}

/* ---- locks ------------------------------------------------------------------------------------ */

/* The lock is the kernel's and goes with the process; the number in the file is only for the message. */
static int lock_take(const char *directory, const struct device *device, int *ret_fd,
                     char message[CUDA_TEXT_BYTES])
{
    char path[PATH_BYTES], holder[16] = "";
    (void)snprintf(path, sizeof path, "%s/gpu-%s.lock", directory, device->uuid);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return say(message, CUDA_NO_LOCK, "GPU %d (%s): lock file %s: %s", device->number,
                   device->name, path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
        int bytes = snprintf(holder, sizeof holder, "%d\n", getpid());
        if (ftruncate(fd, 0) || write(fd, holder, (size_t)bytes) != bytes)
            errno = 0; /* then the message of another lacks a number */
        *ret_fd = fd;
        return CUDA_FOUND;
    }
    int error = errno;
    ssize_t bytes = read(fd, holder, sizeof holder - 1);
    holder[bytes > 0 ? bytes : 0] = 0;
    (void)close(fd); /* it is not locked */
    if (error != EWOULDBLOCK)
        return say(message, CUDA_NO_LOCK, "GPU %d (%s): lock file %s: %s", device->number,
                   device->name, path, strerror(error));
    return say(message, CUDA_IN_USE, "GPU %d (%s): used by another dynasord, process %ld (%s)",
               device->number, device->name, strtol(holder, NULL, 10), path);
}

/* Ranks that share a device share its lock. */
static int locks_take(const struct cuda_request *request, const struct device *devices,
                      struct cuda_gpus *gpus, char message[CUDA_TEXT_BYTES])
{
    int r = CUDA_FOUND;
    for (uint32_t i = 0; i < request->ranks_count && !r; i++) {
        bool had = false;
        for (uint32_t j = 0; j < i; j++)
            had |= request->devices[j] == request->devices[i];
        if (had)
            continue;
        r = lock_take(request->lock_directory, &devices[i], &gpus->locks[gpus->locks_count],
                      message);
        gpus->locks_count += r == CUDA_FOUND;
    }
    return r;
}

/* ---- backend ---------------------------------------------------------------------------------- */

static int memory_read(const struct cuda_request *request, dynasor_cuda_memory_fn *memory,
                       struct cuda_gpus *gpus, char message[CUDA_TEXT_BYTES])
{
    for (uint32_t i = 0; i < request->ranks_count; i++) {
        uint64_t bytes = 0, sharing = 0;
        for (uint32_t j = 0; j < request->ranks_count; j++)
            sharing += request->devices[j] == request->devices[i];
        if (memory(i, &bytes)) {
            gpus->failure(message);
            return CUDA_DRIVER_FAILS;
        }
        gpus->memory_bytes[i] = bytes / sharing;
    }
    return CUDA_FOUND;
}

static int backend_open(const struct cuda_request *request, struct cuda_gpus *gpus,
                        char message[CUDA_TEXT_BYTES])
{
    dynasor_cuda_backend_fn *backend;
    dynasor_cuda_memory_fn *memory;
    char failure[CUDA_TEXT_BYTES] = "";
    struct cuda_options options = {.bytes = sizeof options,
                                   .ranks_count = request->ranks_count,
                                   .sync_limit_ns = request->sync_limit_ns,
                                   .ops_bytes = sizeof(struct ops)};
    memcpy(options.devices, request->devices, sizeof options.devices);
    void *library = dlopen(request->backend, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return say(message, CUDA_NO_BACKEND, "no CUDA backend: %s", dlerror());
    if (!symbol(library, "dynasor_cuda_backend", &backend) ||
        !symbol(library, "dynasor_cuda_memory", &memory) ||
        !symbol(library, "dynasor_cuda_failure", &gpus->failure))
        return say(message, CUDA_NO_BACKEND, "%s is not the CUDA backend", request->backend);
    int r = backend(CUDA_BACKEND_VERSION, &options, &gpus->ops);
    if (r == -EINVAL)
        return say(message, CUDA_NO_BACKEND, "%s is of another build than this program",
                   request->backend);
    gpus->failure(failure);
    if (r)
        return say(message, r == -EIO ? CUDA_DRIVER_FAILS : CUDA_NO_BACKEND, "%s", failure);
    return memory_read(request, memory, gpus, message);
}

static void devices_say(const struct device *devices, uint32_t count, char message[CUDA_TEXT_BYTES])
{
    uint32_t used = 0;
    for (uint32_t i = 0; i < count && used < CUDA_TEXT_BYTES; i++) {
        const struct device *d = &devices[i];
        int more = snprintf(message + used, CUDA_TEXT_BYTES - used,
                            "%sGPU %d (%s, compute capability %u.%u)", i ? ", " : "", d->number,
                            d->name, d->capability / 10, d->capability % 10);
        used += more > 0 ? (uint32_t)more : CUDA_TEXT_BYTES; /* a cut list is as good */
    }
}

int cuda_gpus_open(const struct cuda_request *request, struct cuda_gpus *ret_gpus,
                   char message[CUDA_TEXT_BYTES])
{
    struct device devices[CUDA_RANKS_MAX];
    struct cuda_gpus gpus = {0};
    if (request->ranks_count < 1 || request->ranks_count > CUDA_RANKS_MAX)
        return say(message, CUDA_NO_DEVICE, "%u ranks on GPUs: 1 to %u are possible",
                   request->ranks_count, CUDA_RANKS_MAX);
    uint32_t missing = 0;
    int r = devices_read(request, devices, &missing, message);
    r = r ? r : locks_take(request, devices, &gpus, message);
    r = r ? r : others_check(request, devices, message);
    r = r ? r : backend_open(request, &gpus, message);
    if (r == CUDA_NO_SUCH_DEVICE)
        ret_gpus->missing = missing;
    if (r) {
        cuda_gpus_close(&gpus);
        return r;
    }
    *ret_gpus = gpus;
    devices_say(devices, request->ranks_count, message);
    return CUDA_FOUND;
}

void cuda_gpus_close(struct cuda_gpus *gpus)
{
    for (uint32_t i = 0; i < gpus->locks_count; i++)
        (void)close(gpus->locks[i]); /* closing gives the lock back */
    *gpus = (struct cuda_gpus){0};
}
