#include "tests/gpu/backend.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cuda/probe.h"
#include "tests/lib/check.h"

static void symbol(void *library, const char *name, void *ret_function)
{
    void *found = dlsym(library, name);
    CHECK(found, "the library lacks %s", name);
    memcpy(ret_function, &found, sizeof found);
}

static void *library;

static bool has_driver(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (driver)
        (void)dlclose(driver); /* it was only looked for */
    return driver != NULL;
}

/* Nothing to test without a GPU; but a library that does not load where there is a driver is a fault. */
static void library_open(void)
{
    const char *build = getenv("DYN_BUILD");
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/lib/libdynasor-cuda.so", build ? build : "build");
    library = library ? library : dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library)
        return;
    const char *why = dlerror();
    CHECK(access(path, F_OK) != 0 && !has_driver(), "%s", why);
    check_skip("no GPU, and no CUDA library");
}

static uint32_t devices_count(void)
{
    int (*device_count)(uint32_t *);
    const char *(*status_text)(int);
    uint32_t count = 0;
    library_open();
    symbol(library, "dynasor_cuda_device_count", &device_count);
    symbol(library, "dynasor_cuda_status_text", &status_text);
    int found = device_count(&count);
    if (found == DYNASOR_CUDA_E_NO_DRIVER || found == DYNASOR_CUDA_E_NO_DEVICE || !count)
        check_skip("no GPU");
    CHECK(found == 0, "counting devices: %s", status_text(found));
    return count;
}

static const struct ops *backend_of(struct cuda_options *options)
{
    char text[CUDA_TEXT_BYTES] = "";
    dynasor_cuda_backend_fn *backend;
    dynasor_cuda_failure_fn *failure;
    const struct ops *ops = NULL;
    options->bytes = sizeof *options;
    options->sync_limit_ns = 60 * NS_PER_S;
    options->ops_bytes = sizeof(struct ops);
    symbol(library, "dynasor_cuda_backend", &backend);
    symbol(library, "dynasor_cuda_failure", &failure);
    int result = backend(CUDA_BACKEND_VERSION, options, &ops);
    failure(text);
    CHECK(result == 0, "the backend does not start: %d, %s", result, text);
    return ops;
}

const struct ops *gpu_ops(uint32_t ranks_count)
{
    struct cuda_options options = {.ranks_count = ranks_count};
    (void)devices_count(); /* ends here without one */
    return backend_of(&options);
}

const struct ops *gpu_ops_apart(uint32_t ranks_count)
{
    struct cuda_options options = {.ranks_count = ranks_count};
    for (uint32_t i = 0; i < ranks_count; i++)
        options.devices[i] = (int32_t)i;
    return devices_count() < ranks_count ? NULL : backend_of(&options);
}

void gpu_measure(double *ret_bytes_per_s, double *ret_operations_per_s)
{
    int (*measure)(uint32_t, double *, double *);
    symbol(library, "dynasor_cuda_measure", &measure);
    int result = measure(0, ret_bytes_per_s, ret_operations_per_s);
    CHECK(result == 0, "the device cannot be measured: status %d", result);
}

const char *gpu_measure_library(uint32_t rows, uint32_t n, uint32_t k, double *ret_seconds)
{
    int (*measure)(uint32_t, uint32_t, uint32_t, uint32_t, double *);
    const char *(*status_text)(int);
    symbol(library, "dynasor_cuda_measure_library", &measure);
    symbol(library, "dynasor_cuda_status_text", &status_text);
    int result = measure(0, rows, n, k, ret_seconds);
    return result ? status_text(result) : NULL;
}
