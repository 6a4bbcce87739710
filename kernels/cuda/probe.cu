/* kernels/cuda/probe.cu: device discovery and a self-test that fails where real kernels would.
 *
 * The self-test multiplies 4,194,304 words by an odd constant and adds their index, in place:
 * 32 MiB of traffic, one thread a word. It proves that this library holds code for the device, that
 * copies both ways arrive and that every multiprocessor answers; it measures nothing. */
#include "kernels/cuda/probe.h"

#include <cuda_runtime_api.h>
#include <stdio.h>

#define SELFTEST_WORDS (4u << 20)
#define SELFTEST_FACTOR 2654435761u
#define CHUNK_WORDS 4096u
#define BLOCK_THREADS 256u

int cuda_status_of(int error)
{
    /* Clears the runtime's last-error state, so that a later launch check sees only its own. */
    (void)cudaGetLastError();
    switch (error) {
    case cudaSuccess:
        return DYNASOR_CUDA_OK;
    case cudaErrorInsufficientDriver:
    case cudaErrorStubLibrary:
    case cudaErrorSystemDriverMismatch:
        return DYNASOR_CUDA_E_NO_DRIVER;
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
        return DYNASOR_CUDA_E_NO_DEVICE;
    case cudaErrorMemoryAllocation:
        return DYNASOR_CUDA_E_MEMORY;
    default:
        return DYNASOR_CUDA_E_DEVICE;
    }
}

int dynasor_cuda_device_count(uint32_t *ret_count)
{
    int count = 0;
    int r = cuda_status_of(cudaGetDeviceCount(&count));

    if (r)
        return r;
    *ret_count = (uint32_t)count;
    return DYNASOR_CUDA_OK;
}

int dynasor_cuda_device_read(uint32_t device_idx, struct dynasor_cuda_device *ret_device)
{
    struct dynasor_cuda_device device = {};
    cudaDeviceProp prop;
    uint32_t count = 0;
    int r = dynasor_cuda_device_count(&count);

    if (r)
        return r;
    if (device_idx >= count)
        return DYNASOR_CUDA_E_NO_DEVICE;
    r = cuda_status_of(cudaGetDeviceProperties(&prop, (int)device_idx));
    if (r)
        return r;
    (void)snprintf(device.name, sizeof(device.name), "%s", prop.name); /* cutting is fine */
    device.memory_bytes = prop.totalGlobalMem;
    device.capability_major = (uint32_t)prop.major;
    device.capability_minor = (uint32_t)prop.minor;
    device.multiprocessor_count = (uint32_t)prop.multiProcessorCount;
    *ret_device = device;
    return DYNASOR_CUDA_OK;
}

__global__ void selftest_kernel(uint32_t *words) /* [SELFTEST_WORDS] u32 */
{
    uint32_t i = blockIdx.x * BLOCK_THREADS + threadIdx.x;

    words[i] = words[i] * SELFTEST_FACTOR + i;
}

static uint32_t selftest_word(uint32_t i)
{
    return i ^ 0x5bd1e995u;
}

/* Returns what cudaMemcpy says; a wrong word is reported by `ret_wrong`. */
static cudaError_t selftest_compare(const uint32_t *words, bool *ret_wrong)
{
    uint32_t chunk[CHUNK_WORDS];

    *ret_wrong = false;
    for (uint32_t at = 0; at < SELFTEST_WORDS; at += CHUNK_WORDS) {
        cudaError_t error = cudaMemcpy(chunk, words + at, sizeof(chunk), cudaMemcpyDeviceToHost);

        if (error)
            return error;
        for (uint32_t i = 0; i < CHUNK_WORDS; i++) {
            if (chunk[i] != selftest_word(at + i) * SELFTEST_FACTOR + at + i)
                *ret_wrong = true;
        }
    }
    return cudaSuccess;
}

static cudaError_t selftest_run(uint32_t *words, bool *ret_wrong)
{
    uint32_t chunk[CHUNK_WORDS];
    cudaError_t error;

    for (uint32_t at = 0; at < SELFTEST_WORDS; at += CHUNK_WORDS) {
        for (uint32_t i = 0; i < CHUNK_WORDS; i++)
            chunk[i] = selftest_word(at + i);
        error = cudaMemcpy(words + at, chunk, sizeof(chunk), cudaMemcpyHostToDevice);
        if (error)
            return error;
    }
    selftest_kernel<<<SELFTEST_WORDS / BLOCK_THREADS, BLOCK_THREADS, 0, cudaStreamPerThread>>>(
        words);
    error = cudaGetLastError();
    if (!error)
        error = cudaStreamSynchronize(cudaStreamPerThread);
    return error ? error : selftest_compare(words, ret_wrong);
}

int dynasor_cuda_selftest(uint32_t device_idx)
{
    uint32_t *words = NULL;
    bool wrong = false;
    uint32_t count = 0;
    int r = dynasor_cuda_device_count(&count);

    if (r)
        return r;
    if (device_idx >= count)
        return DYNASOR_CUDA_E_NO_DEVICE;
    r = cuda_status_of(cudaSetDevice((int)device_idx));
    if (!r)
        r = cuda_status_of(cudaMalloc((void **)&words, SELFTEST_WORDS * sizeof(*words)));
    if (!r)
        r = cuda_status_of(selftest_run(words, &wrong));
    (void)cudaFree(words); /* the status above is what matters */
    return r ? r : wrong ? DYNASOR_CUDA_E_WRONG : DYNASOR_CUDA_OK;
}

const char *dynasor_cuda_status_text(int status)
{
    switch (status) {
    case DYNASOR_CUDA_OK:
        return "ok";
    case DYNASOR_CUDA_E_NO_DRIVER:
        return "no CUDA driver, or one too old";
    case DYNASOR_CUDA_E_NO_DEVICE:
        return "no such CUDA device";
    case DYNASOR_CUDA_E_MEMORY:
        return "no memory left on the CUDA device";
    case DYNASOR_CUDA_E_DEVICE:
        return "the CUDA device reported an error";
    case DYNASOR_CUDA_E_WRONG:
        return "the CUDA device gave a wrong result";
    case DYNASOR_CUDA_E_NO_LIBRARY:
        return "no cuBLASLt here, or not when this was built";
    default:
        return "unknown status";
    }
}
