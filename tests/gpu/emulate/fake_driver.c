#include "tests/gpu/emulate/fake_driver.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/backend.h"

/* Unless a test says otherwise: what the daemon meets when it runs over the emulation, with EMULATED_DEVICES
 * where that is set. */
static struct fake_driver fake = {.devices_count = 2, .capability = 80};
static int calls_count;

fake_driver_set_fn fake_driver_set;
int cuInit(unsigned flags);
int cuDeviceGetCount(int *ret_count);
int cuDeviceGet(int *ret_device, int number);
int cuDeviceGetName(char *name, int bytes, int device);
int cuDeviceGetUuid_v2(unsigned char uuid[16], int device);
int cuDeviceGetAttribute(int *ret_value, int attribute, int device);
int nvmlInit_v2(void);
int nvmlShutdown(void);
int nvmlDeviceGetHandleByUUID(const char *uuid, void **ret_device);
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, void *ret_processes);

void fake_driver_set(const struct fake_driver *driver)
{
    fake = *driver;
    calls_count = 0;
}

static int call(void)
{
    return ++calls_count == fake.fail_call ? fake.fail_error : 0;
}

int cuInit(unsigned flags)
{
    const char *count = getenv("EMULATED_DEVICES");
    if (count)
        fake.devices_count = (int)strtol(count, NULL, 10);
    return flags ? 1 : call();
}

int cuDeviceGetCount(int *ret_count)
{
    *ret_count = fake.devices_count;
    return call();
}

int cuDeviceGet(int *ret_device, int number)
{
    *ret_device = 100 + number;
    return call();
}

int cuDeviceGetName(char *name, int bytes, int device)
{
    (void)snprintf(name, (size_t)bytes, "Fake %d", device - 100); /* fits */
    return call();
}

int cuDeviceGetUuid_v2(unsigned char uuid[16], int device)
{
    memset(uuid, device, 16);
    return call();
}

int cuDeviceGetAttribute(int *ret_value, int attribute, int device)
{
    (void)device;
    *ret_value = attribute == 20   ? fake.mode
                 : attribute == 75 ? fake.capability / 10
                                   : fake.capability % 10;
    return call();
}

int nvmlInit_v2(void)
{
    return 0;
}

int nvmlShutdown(void)
{
    return 0;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **ret_device)
{
    *ret_device = &fake;
    return strncmp(uuid, "GPU-", 4) == 0 && strlen(uuid) == 40 ? 0 : 2;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, void *ret_processes)
{
    (void)device;
    *count = fake.pid != 0;
    if (fake.pid)
        memcpy(ret_processes, &fake.pid, sizeof fake.pid);
    return 0;
}

int dynasor_cuda_backend(uint32_t version, const struct cuda_options *options,
                         const struct ops **ret_ops)
{
    static const struct ops ops = {.name = "fake"};
    *ret_ops = &ops;
    return version == CUDA_BACKEND_VERSION && options->bytes == sizeof *options
               ? fake.backend_result
               : -1;
}

int dynasor_cuda_memory(uint32_t rank, uint64_t *ret_bytes)
{
    *ret_bytes = (uint64_t)(rank + 1) << 30;
    return fake.memory_result;
}

void dynasor_cuda_failure(char text[CUDA_TEXT_BYTES])
{
    (void)snprintf(text, CUDA_TEXT_BYTES, "a failure of the fake");
}
