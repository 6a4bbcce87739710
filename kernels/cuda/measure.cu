/* kernels/cuda/measure.cu: what a device does at best, for benchmarks to compare with: copies, matrix products of
 * the tensor cores alone, and one matrix product by cuBLASLt, which is opened when somebody asks and is nothing
 * that the backend needs.
 *
 * Each takes the least of some runs: a device clocks up while it works. */
#include "kernels/cuda/probe.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <mma.h>
#include <string.h>
#if __has_include(<cublasLt.h>)
#include <cublasLt.h>
#define HAS_LIBRARY 1
#else
#define HAS_LIBRARY 0
#endif

/* ---- measuring ------------------------------------------------------------------------------- */

#define MEASURE_BYTES (1ull << 30)
#define MEASURE_RUNS 5u
#define PRODUCT_TURNS 4096u
#define PRODUCT_SUMS 8u   /* independent, so that none waits for another */
#define PRODUCT_WARPS 8u  /* of a block */
#define PRODUCT_BLOCKS 4u /* of a multiprocessor */
#define PRODUCT_OPERATIONS (2ull * 16 * 16 * 16)

__global__ void __launch_bounds__(32 * PRODUCT_WARPS) product_kernel(float *out)
{
    using namespace nvcuda;
    wmma::fragment<wmma::matrix_a, 16, 16, 16, __nv_bfloat16, wmma::row_major> left;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, __nv_bfloat16, wmma::col_major> right;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sums[PRODUCT_SUMS];

    wmma::fill_fragment(left, __float2bfloat16(1.0f));
    wmma::fill_fragment(right, __float2bfloat16(0.5f));
#pragma unroll
    for (uint32_t i = 0; i < PRODUCT_SUMS; i++)
        wmma::fill_fragment(sums[i], (float)threadIdx.x);
    for (uint32_t turn = 0; turn < PRODUCT_TURNS; turn++) {
#pragma unroll
        for (uint32_t i = 0; i < PRODUCT_SUMS; i++)
            wmma::mma_sync(sums[i], left, right, sums[i]);
    }
    float sum = 0;
#pragma unroll
    for (uint32_t i = 0; i < PRODUCT_SUMS; i++)
        sum += sums[i].x[0];
    if (sum < 0) /* never; but the compiler does not know */
        *out = sum;
}

static cudaError_t work_run(uint8_t *memory, uint32_t blocks)
{
    if (blocks == 0)
        return cudaMemcpyAsync(memory, memory + MEASURE_BYTES, MEASURE_BYTES,
                               cudaMemcpyDeviceToDevice, cudaStreamPerThread);
    product_kernel<<<blocks, 32 * PRODUCT_WARPS, 0, cudaStreamPerThread>>>((float *)(void *)memory);
    return cudaGetLastError();
}

/* Milliseconds of copies (blocks 0) or of products, the least. */
static cudaError_t work_time(uint8_t *memory, uint32_t blocks, cudaEvent_t begin, cudaEvent_t end,
                             float *ret_ms)
{
    cudaError_t error = cudaSuccess;

    for (uint32_t i = 0; i < MEASURE_RUNS && !error; i++) {
        float ms = 0;
        error = cudaEventRecord(begin, cudaStreamPerThread);
        if (!error)
            error = work_run(memory, blocks);
        if (!error)
            error = cudaEventRecord(end, cudaStreamPerThread);
        if (!error)
            error = cudaEventSynchronize(end);
        if (!error)
            error = cudaEventElapsedTime(&ms, begin, end);
        *ret_ms = i == 0 || ms < *ret_ms ? ms : *ret_ms;
    }
    return error;
}

int dynasor_cuda_measure(uint32_t device_idx, double *ret_bytes_per_s, double *ret_operations_per_s)
{
    struct dynasor_cuda_device device;
    uint8_t *memory = NULL;
    cudaEvent_t begin = NULL, end = NULL;
    float copy_ms = 0, product_ms = 0;
    int r = dynasor_cuda_device_read(device_idx, &device);

    if (r)
        return r;
    uint32_t blocks = device.multiprocessor_count * PRODUCT_BLOCKS;
    r = cuda_status_of(cudaSetDevice((int)device_idx));
    r = r ? r : cuda_status_of(cudaMalloc((void **)&memory, 2 * MEASURE_BYTES));
    r = r ? r : cuda_status_of(cudaMemset(memory, 0, 2 * MEASURE_BYTES));
    r = r ? r : cuda_status_of(cudaEventCreate(&begin));
    r = r ? r : cuda_status_of(cudaEventCreate(&end));
    r = r ? r : cuda_status_of(work_time(memory, 0, begin, end, &copy_ms));
    r = r ? r : cuda_status_of(work_time(memory, blocks, begin, end, &product_ms));
    if (begin)
        (void)cudaEventDestroy(begin); /* the status above is what matters */
    if (end)
        (void)cudaEventDestroy(end);
    (void)cudaFree(memory);
    if (r)
        return r;
    *ret_bytes_per_s = 2.0 * (double)MEASURE_BYTES / ((double)copy_ms * 1e-3);
    *ret_operations_per_s = (double)blocks * PRODUCT_WARPS * PRODUCT_TURNS * PRODUCT_SUMS *
                            (double)PRODUCT_OPERATIONS / ((double)product_ms * 1e-3);
    return DYNASOR_CUDA_OK;
}

/* ---- cuBLASLt -------------------------------------------------------------------------------- */

#if HAS_LIBRARY
#define ALGORITHMS_MAX 16
#define WORKSPACE_BYTES (32ull << 20)
#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
#define LIBRARY "libcublasLt.so." TEXT(CUBLAS_VER_MAJOR)

static struct lt { /* the calls that are used */
    decltype(&cublasLtCreate) create;
    decltype(&cublasLtDestroy) destroy;
    decltype(&cublasLtMatmulDescCreate) desc_create;
    decltype(&cublasLtMatmulDescDestroy) desc_destroy;
    decltype(&cublasLtMatmulDescSetAttribute) desc_set;
    decltype(&cublasLtMatrixLayoutCreate) layout_create;
    decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
    decltype(&cublasLtMatmulPreferenceCreate) preference_create;
    decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
    decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
    decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
    decltype(&cublasLtMatmul) matmul;
} lt;

struct product { /* column after column, as the library sees it: y^T = w^T^T x^T */
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t w; /* [k, n] */
    cublasLtMatrixLayout_t x; /* [k, rows] */
    cublasLtMatrixLayout_t y; /* [n, rows] */
    cublasLtMatmulPreference_t preference;
    uint8_t *memory; /* w, x, y, workspace */
    uint64_t at_x, at_y, at_workspace;
    cudaEvent_t begin, end;
};

static bool symbol(void *library, const char *name, void *ret_function)
{
    void *found = dlsym(library, name);
    memcpy(ret_function, &found, sizeof found);
    return found != NULL;
}

static bool library_open(void)
{
    void *l = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    return l && symbol(l, "cublasLtCreate", &lt.create) &&
           symbol(l, "cublasLtDestroy", &lt.destroy) &&
           symbol(l, "cublasLtMatmulDescCreate", &lt.desc_create) &&
           symbol(l, "cublasLtMatmulDescDestroy", &lt.desc_destroy) &&
           symbol(l, "cublasLtMatmulDescSetAttribute", &lt.desc_set) &&
           symbol(l, "cublasLtMatrixLayoutCreate", &lt.layout_create) &&
           symbol(l, "cublasLtMatrixLayoutDestroy", &lt.layout_destroy) &&
           symbol(l, "cublasLtMatmulPreferenceCreate", &lt.preference_create) &&
           symbol(l, "cublasLtMatmulPreferenceDestroy", &lt.preference_destroy) &&
           symbol(l, "cublasLtMatmulPreferenceSetAttribute", &lt.preference_set) &&
           symbol(l, "cublasLtMatmulAlgoGetHeuristic", &lt.heuristic) &&
           symbol(l, "cublasLtMatmul", &lt.matmul);
}

static uint64_t rounded_up(uint64_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

static bool product_describe(struct product *p, uint32_t rows, uint32_t n, uint32_t k)
{
    cublasOperation_t transposed = CUBLAS_OP_T;
    uint64_t workspace = WORKSPACE_BYTES;
    return !lt.create(&p->handle) && !lt.desc_create(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) &&
           !lt.desc_set(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed) &&
           !lt.layout_create(&p->w, CUDA_R_16BF, k, n, k) &&
           !lt.layout_create(&p->x, CUDA_R_16BF, k, rows, k) &&
           !lt.layout_create(&p->y, CUDA_R_32F, n, rows, n) &&
           !lt.preference_create(&p->preference) &&
           !lt.preference_set(p->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                              sizeof workspace);
}

static int product_memory(struct product *p, uint32_t rows, uint32_t n, uint32_t k)
{
    p->at_x = rounded_up(2ull * n * k);
    p->at_y = p->at_x + rounded_up(2ull * rows * k);
    p->at_workspace = p->at_y + rounded_up(4ull * rows * n);
    int r = cuda_status_of(cudaMalloc((void **)&p->memory, p->at_workspace + WORKSPACE_BYTES));
    r = r ? r : cuda_status_of(cudaMemset(p->memory, 0x3c, p->at_y)); /* 0.0115 everywhere */
    r = r ? r : cuda_status_of(cudaEventCreate(&p->begin));
    return r ? r : cuda_status_of(cudaEventCreate(&p->end));
}

/* The least of MEASURE_RUNS, each of PRODUCT_REPEATS; false: this algorithm does not run here. */
#define PRODUCT_REPEATS 10u
static bool algorithm_time(const struct product *p, const cublasLtMatmulAlgo_t *algorithm,
                           float *ret_ms)
{
    float one = 1, zero = 0;
    for (uint32_t run = 0; run < MEASURE_RUNS; run++) {
        float ms = 0;
        bool went = !cudaEventRecord(p->begin, cudaStreamPerThread);
        for (uint32_t i = 0; i < PRODUCT_REPEATS && went; i++)
            went =
                !lt.matmul(p->handle, p->desc, &one, p->memory, p->w, p->memory + p->at_x, p->x,
                           &zero, p->memory + p->at_y, p->y, p->memory + p->at_y, p->y, algorithm,
                           p->memory + p->at_workspace, WORKSPACE_BYTES, cudaStreamPerThread);
        if (!went || cudaEventRecord(p->end, cudaStreamPerThread) || cudaEventSynchronize(p->end) ||
            cudaEventElapsedTime(&ms, p->begin, p->end))
            return false;
        *ret_ms = run == 0 || ms < *ret_ms ? ms : *ret_ms;
    }
    *ret_ms /= PRODUCT_REPEATS;
    return true;
}

static int product_time(struct product *p, double *ret_seconds)
{
    cublasLtMatmulHeuristicResult_t found[ALGORITHMS_MAX];
    int count = 0;
    float least = 0, ms = 0;
    if (lt.heuristic(p->handle, p->desc, p->w, p->x, p->y, p->y, p->preference, ALGORITHMS_MAX,
                     found, &count))
        return DYNASOR_CUDA_E_DEVICE;
    for (int i = 0; i < count; i++)
        if (algorithm_time(p, &found[i].algo, &ms))
            least = least == 0 || ms < least ? ms : least;
    *ret_seconds = least * 1e-3;
    return least > 0 ? DYNASOR_CUDA_OK : DYNASOR_CUDA_E_DEVICE;
}

/* What freeing says does not matter: the measurement is done, or has failed. */
static void product_free(struct product *p)
{
    if (p->begin)
        (void)cudaEventDestroy(p->begin);
    if (p->end)
        (void)cudaEventDestroy(p->end);
    (void)cudaFree(p->memory);
    if (p->preference)
        (void)lt.preference_destroy(p->preference);
    if (p->w)
        (void)lt.layout_destroy(p->w);
    if (p->x)
        (void)lt.layout_destroy(p->x);
    if (p->y)
        (void)lt.layout_destroy(p->y);
    if (p->desc)
        (void)lt.desc_destroy(p->desc);
    if (p->handle)
        (void)lt.destroy(p->handle);
}

int dynasor_cuda_measure_library(uint32_t device_idx, uint32_t rows, uint32_t n, uint32_t k,
                                 double *ret_seconds)
{
    struct product p = {};
    if (!library_open())
        return DYNASOR_CUDA_E_NO_LIBRARY;
    int r = cuda_status_of(cudaSetDevice((int)device_idx));
    r = r ? r : product_describe(&p, rows, n, k) ? DYNASOR_CUDA_OK : DYNASOR_CUDA_E_DEVICE;
    r = r ? r : product_memory(&p, rows, n, k);
    r = r ? r : product_time(&p, ret_seconds);
    product_free(&p);
    return r;
}
#else
int dynasor_cuda_measure_library(uint32_t device_idx, uint32_t rows, uint32_t n, uint32_t k,
                                 double *ret_seconds)
{
    (void)device_idx, (void)rows, (void)n, (void)k, (void)ret_seconds;
    return DYNASOR_CUDA_E_NO_LIBRARY;
}
#endif
