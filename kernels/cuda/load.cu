/* kernels/cuda/load.cu — weights from a checkpoint's layout and type to the device's.
 *
 * A matrix lies row after row in activation type, each row padded with zeros to whole vectors of 16
 * bytes (matrix_stride()). Rows are copied as they lie in the file, then converted on the device; both in
 * the order of the stream, so that one buffer there is enough. From a stage, which is pinned, the copy is
 * under way when the call returns; the stage's event says when it may be filled again. Traffic: the source
 * once over the bus, once more read, and the matrix written. */
#include "kernels/cuda/internal.cuh"

#include <errno.h>

#define LOAD_THREADS 256u

struct convert {
    void *to;         /* [rows, stride] activation type */
    const void *from; /* [rows, source_stride] of source_dtype */
    uint64_t source_stride;
    uint32_t rows_count;
    uint32_t k;
    uint32_t stride;
    enum ops_dtype source_dtype;
};

static __device__ float f32_of_f16(uint16_t v)
{
    uint32_t sign = (uint32_t)(v & 0x8000u) << 16, rest = v & 0x7fffu;
    if (rest < 0x400u) /* subnormal there, normal here */
        return __uint_as_float(sign | __float_as_uint((float)rest * 5.9604644775390625e-8f));
    return __uint_as_float(
        sign | (rest < 0x7c00u ? (rest << 13) + (112u << 23) : rest << 13 | 0x7f800000u));
}

static __device__ float source_at(const struct convert *c, uint64_t i)
{
    if (c->source_dtype == OPS_F32)
        return ((const float *)c->from)[i];
    uint16_t v = ((const uint16_t *)c->from)[i];
    return c->source_dtype == OPS_BF16 ? __uint_as_float((uint32_t)v << 16) : f32_of_f16(v);
}

template <typename T> static __global__ void convert_kernel(struct convert c)
{
    uint64_t i = (uint64_t)blockIdx.x * LOAD_THREADS + threadIdx.x;
    if (i >= (uint64_t)c.rows_count * c.stride)
        return;
    uint64_t row = i / c.stride, column = i % c.stride;
    put((T *)c.to + i, column < c.k ? source_at(&c, row * c.source_stride + column) : 0.0f);
}

uint64_t cuda_matrix_bytes(enum ops_dtype activation, uint32_t n, uint32_t k)
{
    return (uint64_t)n * matrix_stride(k) * (activation == OPS_F32 ? 4 : 2);
}

static void convert_launch(struct ops_device *d, const struct convert *c)
{
    struct shape shape = {};
    shape.x = divided_up((uint64_t)c->rows_count * c->stride, LOAD_THREADS);
    shape.y = 1;
    shape.threads = LOAD_THREADS;
    shape.bytes = (uint64_t)c->rows_count * c->k * (c->source_dtype == OPS_F32 ? 4 : 2) +
                  (uint64_t)c->rows_count * c->stride * act_bytes(d);
    launch(d, "load",
           d->config.activation == OPS_F32 ? convert_kernel<float> : convert_kernel<bf16>, shape,
           *c);
}

/* ---- stages ---------------------------------------------------------------------------------- */

int cuda_stages_open(struct ops_device *d, void **ret_stages)
{
    if (device_enter(d))
        (void)device_did(d, d->api->pinned_new(&d->stages, (uint64_t)OPS_STAGES * OPS_STAGE_BYTES),
                         "cudaMallocHost", "stages");
    for (uint32_t i = 0; i < OPS_STAGES && !d->result; i++)
        (void)device_did(d, d->api->event_new(&d->stage_events[i]), "cudaEventCreate", "stages");
    if (!d->result)
        *ret_stages = d->stages;
    return d->result;
}

/* What freeing says does not matter, as with the device. */
void cuda_stages_close(struct ops_device *d)
{
    if (device_hung())
        return;
    for (uint32_t i = 0; i < OPS_STAGES; i++) {
        if (d->stage_events[i])
            (void)d->api->event_free(d->stage_events[i]);
        d->stage_events[i] = NULL;
    }
    if (d->stages)
        (void)d->api->pinned_free(d->stages);
    d->stages = NULL;
}

int cuda_stage_wait(struct ops_device *d, uint32_t stage)
{
    if (device_enter(d))
        (void)device_wait(d, d->stage_events[stage]);
    return d->result;
}

/* ---- loading --------------------------------------------------------------------------------- */

static void rows_load(struct ops_device *d, const struct ops_load *l, uint32_t row,
                      uint32_t rows_count)
{
    uint64_t element = l->source_dtype == OPS_F32 ? 4 : 2, stride = l->source_stride;
    const uint8_t *from = (const uint8_t *)l->host_source + row * stride * element;
    uint64_t span = (rows_count - 1) * stride + l->matrix.k; /* behind it may be nothing */
    if (!device_enter(d) ||
        !device_did(d, d->api->copy(d->arrived, from, span * element, d->stream), "cudaMemcpyAsync",
                    "load"))
        return;
    struct convert c = {};
    c.stride = matrix_stride(l->matrix.k);
    c.to = (uint8_t *)l->matrix.data + (uint64_t)(l->row_first + row) * c.stride * act_bytes(d);
    c.from = d->arrived;
    c.source_stride = stride;
    c.rows_count = rows_count;
    c.k = l->matrix.k;
    c.source_dtype = l->source_dtype;
    convert_launch(d, &c);
}

int cuda_load(struct ops_device *d, const struct ops_load *l)
{
    uint64_t row_bytes = l->source_stride * (l->source_dtype == OPS_F32 ? 4 : 2);
    if (l->matrix.k == 0 || l->matrix.k > l->source_stride || row_bytes > OPS_STAGE_BYTES)
        return -EINVAL;
    uint32_t rows = (uint32_t)(OPS_STAGE_BYTES / row_bytes);
    for (uint32_t row = 0; row < l->rows_count; row += rows) {
        uint32_t left = l->rows_count - row;
        rows_load(d, l, row, left < rows ? left : rows);
    }
    if (device_enter(d) && l->stage)
        (void)device_did(d, d->api->event_record(d->stage_events[l->stage - 1], d->stream),
                         "cudaEventRecord", "load");
    else if (device_enter(d))
        (void)device_wait(d, NULL); /* the source is the caller's again, and failures his */
    return d->result;
}
