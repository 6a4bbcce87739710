/* tests/gpu/test_probe.c: libdynasor-cuda.so loads, names the devices and each computes correctly.
 *
 * Skipped (77) where no device is there; a library that does not load fails. The refusals are checked
 * everywhere the library loads: they are what a machine without a GPU runs. */
/* serial */
#include "kernels/cuda/probe.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct probe {
    int (*device_count)(uint32_t *ret_count);
    int (*device_read)(uint32_t device_idx, struct dynasor_cuda_device *ret_device);
    int (*selftest)(uint32_t device_idx);
    const char *(*status_text)(int status);
};

__attribute__((format(printf, 2, 3), noreturn)) static void finish(int status, const char *text,
                                                                   ...)
{
    va_list args;

    va_start(args, text);
    (void)vprintf(text, args);
    va_end(args);
    (void)putchar('\n');
    exit(status);
}

static void probe_symbol(void *library, const char *name, void *ret_function)
{
    void *symbol = dlsym(library, name);

    if (!symbol)
        finish(1, "the library lacks %s", name);
    memcpy(ret_function, &symbol, sizeof(symbol));
}

static void probe_open(struct probe *probe)
{
    const char *build = getenv("DYN_BUILD");
    char path[4096];
    void *library;

    (void)snprintf(path, sizeof(path), "%s/lib/libdynasor-cuda.so", build ? build : "build");
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const char *why = library ? "" : dlerror();
    if (!library && (access(path, F_OK) == 0 || dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL)))
        finish(1, "the CUDA library does not load: %s", why);
    if (!library)
        finish(77, "no GPU, and no CUDA library");
    probe_symbol(library, "dynasor_cuda_device_count", &probe->device_count);
    probe_symbol(library, "dynasor_cuda_device_read", &probe->device_read);
    probe_symbol(library, "dynasor_cuda_selftest", &probe->selftest);
    probe_symbol(library, "dynasor_cuda_status_text", &probe->status_text);
}

static void check_refusals(const struct probe *probe, uint32_t beyond)
{
    struct dynasor_cuda_device device;

    memset(&device, 0x5a, sizeof(device));
    if (probe->device_read(beyond, &device) == DYNASOR_CUDA_OK)
        finish(1, "device %" PRIu32 " does not exist and was read", beyond);
    if (device.memory_bytes != 0x5a5a5a5a5a5a5a5au)
        finish(1, "a failed read wrote its result");
    if (probe->selftest(beyond) == DYNASOR_CUDA_OK)
        finish(1, "device %" PRIu32 " does not exist and passed", beyond);
}

static void check_device(const struct probe *probe, uint32_t idx)
{
    struct dynasor_cuda_device device;
    int r = probe->device_read(idx, &device);

    if (r)
        finish(1, "device %" PRIu32 ": %s", idx, probe->status_text(r));
    printf("device %" PRIu32 ": %s, %" PRIu64 " MiB, capability %" PRIu32 ".%" PRIu32 ", %" PRIu32
           " multiprocessors\n",
           idx, device.name, device.memory_bytes >> 20, device.capability_major,
           device.capability_minor, device.multiprocessor_count);
    if (!device.name[0] || !memchr(device.name, 0, sizeof(device.name)))
        finish(1, "device %" PRIu32 " has no usable name", idx);
    if (!device.memory_bytes || !device.capability_major || !device.multiprocessor_count)
        finish(1, "device %" PRIu32 " reports zeros", idx);
    /* Twice: the second run starts on memory the first left dirty. */
    for (int i = 0; i < 2; i++) {
        r = probe->selftest(idx);
        if (r)
            finish(1, "device %" PRIu32 " self-test: %s", idx, probe->status_text(r));
    }
}

int main(void)
{
    struct probe probe;
    uint32_t count = 0;
    int r;

    probe_open(&probe);
    r = probe.device_count(&count);
    check_refusals(&probe, r ? 0 : count);
    if (r == DYNASOR_CUDA_E_NO_DRIVER || r == DYNASOR_CUDA_E_NO_DEVICE || (!r && count == 0))
        finish(77, "no GPU: %s", probe.status_text(r ? r : DYNASOR_CUDA_E_NO_DEVICE));
    if (r)
        finish(1, "counting devices: %s", probe.status_text(r));
    for (uint32_t i = 0; i < count; i++)
        check_device(&probe, i);
    return 0;
}
