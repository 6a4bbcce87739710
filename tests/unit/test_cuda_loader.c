/* tests/unit/test_cuda_loader.c: finding GPUs and the backend (kernels/cuda/loader.c). Over a fake driver:
 * every call of the driver fails once, each refusal names what is wrong, a device has one daemon, a refusal
 * leaves no lock behind. Over what this machine has: the real library, with and without a driver. */
/* serial */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "kernels/cuda/cuda.h"
#include "tests/gpu/emulate/fake_driver.h"
#include "tests/lib/check.h"

static char fake_path[4096], real_path[4096], directory[4096];
static fake_driver_set_fn *fake_set;
static const struct fake_driver good = {.devices_count = 4, .capability = 90};

static struct cuda_request request_of(uint32_t ranks_count)
{
    struct cuda_request request = {.driver = fake_path,
                                   .monitor = fake_path,
                                   .backend = fake_path,
                                   .lock_directory = directory,
                                   .ranks_count = ranks_count,
                                   .devices = {0, 1, 1, 3}};
    return request;
}

static void refused(const struct cuda_request *request, enum cuda_found why, const char *says)
{
    char message[CUDA_TEXT_BYTES] = "";
    struct cuda_gpus gpus = {.locks_count = 77};
    int found = cuda_gpus_open(request, &gpus, message);
    CHECK(found == (int)why, "found %d, wanted %d: %s", found, why, message);
    CHECK(strstr(message, says), "\"%s\" does not say \"%s\"", message, says);
    CHECK(gpus.locks_count == 77, "a refusal wrote its result");
}

static void opened(const struct cuda_request *request, struct cuda_gpus *gpus)
{
    char message[CUDA_TEXT_BYTES] = "";
    int found = cuda_gpus_open(request, gpus, message);
    CHECK(found == CUDA_FOUND && gpus->ops, "%d: %s", found, message);
    CHECK(strstr(message, "Fake 0"), "%s", message);
    for (uint32_t i = 0; i < request->ranks_count; i++) { /* each is named */
        char name[16];
        (void)snprintf(name, sizeof name, "Fake %d", request->devices[i]); /* fits */
        CHECK(strstr(message, name), "%s: no %s", message, name);
    }
}

static void loader_names_what_is_missing(void **state)
{
    (void)state;
    struct cuda_request request = request_of(1);
    fake_set(&good);
    request.driver = "/nowhere/libcuda.so.1";
    refused(&request, CUDA_NO_DRIVER, "/nowhere/libcuda.so.1");
    request.driver = "libm.so.6";
    refused(&request, CUDA_NO_DRIVER, "lacks");
    request = request_of(1);
    request.backend = "/nowhere/libdynasor-cuda.so";
    refused(&request, CUDA_NO_BACKEND, "/nowhere/libdynasor-cuda.so");
    request.backend = "libm.so.6";
    refused(&request, CUDA_NO_BACKEND, "not the CUDA backend");
    request = request_of(1);
    request.lock_directory = "/nowhere";
    refused(&request, CUDA_NO_LOCK, "/nowhere");
    request = request_of(1);
    request.devices[0] = 4;
    refused(&request, CUDA_NO_SUCH_DEVICE, "GPU 4: there are GPUs 0 to 3");
    request = request_of(2);
    request.devices[1] = 9;
    struct cuda_gpus gpus = {0};
    char message[CUDA_TEXT_BYTES];
    CHECK(cuda_gpus_open(&request, &gpus, message) == CUDA_NO_SUCH_DEVICE && gpus.missing == 9,
          "%s: GPU %u", message, gpus.missing);
    request.devices[1] = -1;
    refused(&request, CUDA_NO_SUCH_DEVICE, "GPU -1");
    request = request_of(CUDA_RANKS_MAX + 1);
    refused(&request, CUDA_NO_DEVICE, "1 to 8");
}

static void loader_names_what_is_wrong(void **state)
{
    (void)state;
    struct cuda_request request = request_of(1);
    struct fake_driver fake = good;
    fake.devices_count = 0;
    fake_set(&fake);
    refused(&request, CUDA_NO_DEVICE, "no GPU");
    fake = good;
    fake.mode = 2;
    fake_set(&fake);
    refused(&request, CUDA_IN_USE, "prohibited");
    fake = good;
    fake.capability = 75;
    fake_set(&fake);
    refused(&request, CUDA_NO_DEVICE, "7.5");
    fake = good;
    fake.pid = 1;
    fake_set(&fake);
    refused(&request, CUDA_IN_USE, "process 1 (");
    fake.pid = (unsigned)getpid();
    fake_set(&fake);
    struct cuda_gpus gpus;
    opened(&request, &gpus); /* ourselves are nobody else */
    cuda_gpus_close(&gpus);
    fake = good;
    fake.backend_result = -EINVAL;
    fake_set(&fake);
    refused(&request, CUDA_NO_BACKEND, "another build");
    fake.backend_result = -ENODEV; /* fewer devices than the driver has */
    fake_set(&fake);
    refused(&request, CUDA_NO_BACKEND, "a failure of the fake");
    fake.backend_result = -EIO;
    fake_set(&fake);
    refused(&request, CUDA_DRIVER_FAILS, "a failure of the fake");
    fake = good;
    fake.memory_result = -EIO;
    fake_set(&fake);
    refused(&request, CUDA_DRIVER_FAILS, "a failure of the fake");
}

/* Each of the driver's calls, with an error of its own and with "no device". */
static void loader_survives_every_error_of_the_driver(void **state)
{
    (void)state;
    struct cuda_request request = request_of(3);
    struct cuda_gpus gpus;
    uint32_t calls = 2 + 3 * 6;
    for (uint32_t i = 1; i <= calls; i++) {
        struct fake_driver fake = good;
        fake.fail_call = (int)i;
        fake.fail_error = 999;
        fake_set(&fake);
        refused(&request, CUDA_DRIVER_FAILS, "error 999");
        fake.fail_error = 100;
        fake_set(&fake);
        refused(&request, i <= 2 ? CUDA_NO_DEVICE : CUDA_DRIVER_FAILS, i <= 2 ? "no GPU" : "100");
    }
    struct fake_driver fake = good;
    fake.fail_call = (int)calls + 1;
    fake.fail_error = 999;
    fake_set(&fake);
    opened(&request, &gpus); /* there is no other call */
    CHECK(gpus.locks_count == 2, "%u locks of two devices", gpus.locks_count);
    /* GPU 0 has a GiB; two ranks share GPU 1, which says two to one and three to the other. */
    CHECK(gpus.memory_bytes[0] == 1ull << 30 && gpus.memory_bytes[1] == 1ull << 30 &&
              gpus.memory_bytes[2] == 3ull << 29,
          "%" PRIu64 ", %" PRIu64 ", %" PRIu64 " bytes", gpus.memory_bytes[0], gpus.memory_bytes[1],
          gpus.memory_bytes[2]);
    cuda_gpus_close(&gpus);
}

static int other_daemon(void *argument)
{
    const int *to = argument;
    struct cuda_request request = request_of(1);
    struct cuda_gpus gpus;
    char byte = 0;
    opened(&request, &gpus);
    CHECK(write(to[1], &byte, 1) == 1, "write");
    for (;;)
        (void)pause();
}

static void loader_gives_a_device_to_one_daemon(void **state)
{
    (void)state;
    struct cuda_request request = request_of(1), other = request_of(1);
    struct cuda_gpus gpus, more;
    char says[64], byte;
    int to[2];
    fake_set(&good);
    opened(&request, &gpus);
    (void)snprintf(says, sizeof says, "process %d (", getpid()); /* fits */
    refused(&request, CUDA_IN_USE, says);
    other.devices[0] = 3;
    char message[CUDA_TEXT_BYTES];
    CHECK(cuda_gpus_open(&other, &more, message) == CUDA_FOUND, "%s", message);
    CHECK(more.memory_bytes[0] == 1ull << 30, "%" PRIu64 " bytes", more.memory_bytes[0]);
    cuda_gpus_close(&more);
    cuda_gpus_close(&gpus);
    CHECK(pipe(to) == 0, "pipe");
    pid_t child = child_start(other_daemon, to);
    CHECK(read(to[0], &byte, 1) == 1, "read");
    (void)snprintf(says, sizeof says, "another dynasord, process %d (", child); /* fits */
    refused(&request, CUDA_IN_USE, says);
    child_kill(child); /* leaves the file, not the lock */
    opened(&request, &gpus);
    cuda_gpus_close(&gpus);
}

static void loader_follows_no_link(void **state)
{
    (void)state;
    struct cuda_request request = request_of(1);
    struct cuda_gpus gpus;
    char link[8192], target[8192];
    fake_set(&good);
    opened(&request, &gpus);
    cuda_gpus_close(&gpus);
    (void)snprintf(target, sizeof target, "%s/target", directory);
    (void)snprintf(link, sizeof link, "%s/gpu-64646464-6464-6464-6464-646464646464.lock",
                   directory);
    CHECK(unlink(link) == 0 && symlink(target, link) == 0, "link");
    refused(&request, CUDA_NO_LOCK, link);
    CHECK(access(target, F_OK) != 0, "it wrote where a link led");
    CHECK(unlink(link) == 0, "unlink");
}

/* ---- what this machine has -------------------------------------------------------------------- */

static void real_library_opens_or_says_why(void **state)
{
    (void)state;
    struct cuda_request request = request_of(1);
    char message[CUDA_TEXT_BYTES] = "";
    struct cuda_gpus gpus;
    request.driver = "libcuda.so.1";
    request.monitor = NULL;
    request.backend = real_path;
    int found = cuda_gpus_open(&request, &gpus, message);
    printf("this machine: %d, %s\n", found, message);
    if (found == CUDA_FOUND)
        cuda_gpus_close(&gpus);
    CHECK(message[0], "nothing said");
    /* The real backend over the fake driver: the runtime finds no real one and says so. */
    if (found == CUDA_FOUND || access(real_path, R_OK) != 0)
        skip();
    fake_set(&good);
    request.driver = fake_path;
    refused(&request, CUDA_DRIVER_FAILS, "cudaGetDeviceCount for the backend");
}

static uint64_t resident_bytes(void)
{
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    CHECK(f && fscanf(f, "%*s %lu", &pages) == 1, "statm");
    (void)fclose(f); /* it was only read */
    return pages * 4096u;
}

static void bar(const char *name, double value, double limit)
{
    printf("bar %s %.3f <= %.3f %s\n", name, value, limit, value <= limit ? "ok" : "short");
}

/* In a process of its own: whatever a first look costs is counted. */
static int start_measure(void *argument)
{
    (void)argument;
    struct cuda_request request = request_of(1);
    struct cuda_gpus gpus;
    char message[CUDA_TEXT_BYTES];
    request.driver = "/nowhere/libcuda.so.1";
    uint64_t bytes = resident_bytes(), begin = now_ns();
    CHECK(cuda_gpus_open(&request, &gpus, message) == CUDA_NO_DRIVER, "%s", message);
    uint64_t took = now_ns() - begin;
    bytes = resident_bytes() - bytes;
    bar("start_without_driver_ms", (double)took / 1e6, 5);
    bar("start_without_driver_mib", (double)bytes / 1048576, 1);
    return took > 5 * NS_PER_MS || bytes > 1u << 20;
}

static void start_without_a_driver_is_cheap(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip(); /* a sanitizer's shadow memory is not ours */
#endif
    (void)fflush(stdout); /* else the child prints it again; cannot fail for good */
    CHECK(child_wait(child_start(start_measure, NULL)) == 0, "above");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(start_without_a_driver_is_cheap),
        cmocka_unit_test(loader_names_what_is_missing),
        cmocka_unit_test(loader_names_what_is_wrong),
        cmocka_unit_test(loader_survives_every_error_of_the_driver),
        cmocka_unit_test(loader_gives_a_device_to_one_daemon),
        cmocka_unit_test(loader_follows_no_link),
        cmocka_unit_test(real_library_opens_or_says_why),
    };
    const char *build = getenv("DYN_BUILD"), *tmp = getenv("TMPDIR");
    (void)snprintf(fake_path, sizeof fake_path, "%s/lib/fake-libcuda.so", build ? build : "build");
    (void)snprintf(real_path, sizeof real_path, "%s/lib/libdynasor-cuda.so",
                   build ? build : "build");
    (void)snprintf(directory, sizeof directory, "%s/test-cuda-XXXXXX", tmp ? tmp : "/tmp");
    CHECK(mkdtemp(directory), "%s", directory);
    void *library = dlopen(fake_path, RTLD_NOW | RTLD_LOCAL), *found;
    CHECK(library && (found = dlsym(library, "fake_driver_set")), "%s", dlerror());
    memcpy(&fake_set, &found, sizeof found);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
