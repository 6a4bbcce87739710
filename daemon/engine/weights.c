#include "daemon/engine/weights.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/uring.h"
#include "daemon/engine/reader.h"

/* ---- the split ------------------------------------------------------------------------------ */

int weights_init(struct weights *w, const struct arch *a, const struct names *names, uint32_t rank,
                 uint32_t ranks_count, char message[ARCH_MESSAGE_BYTES])
{
    uint32_t ranks = a->encoder ? 1 : ranks_count; /* encoders are whole on rank 0 */
    bool has_head = a->head == ARCH_HEAD_LOGITS || a->head == ARCH_HEAD_TOKEN_MEAN;
    const struct {
        const char *name;
        uint32_t count;
        bool whole; /* fewer than ranks are repeated */
    } cuts[] = {{"attention heads", a->heads, false},
                {"key and value heads", a->kv_heads, true},
                {"feed-forward columns", a->inner, false},
                {"vocabulary", has_head ? a->vocabulary : 0, false}};
    for (uint32_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        if (cuts[i].count % ranks == 0 || (cuts[i].whole && ranks % cuts[i].count == 0))
            continue;
        (void)snprintf(message, ARCH_MESSAGE_BYTES, "%s: %u %s cannot be split over %u ranks",
                       a->name, cuts[i].count, cuts[i].name, ranks); /* a cut line is as good */
        return -EINVAL;
    }
    *w = (struct weights){.arch = a,
                          .names = names,
                          .rank = rank,
                          .ranks_count = ranks,
                          .heads = a->heads / ranks,
                          .kv_heads = a->kv_heads > ranks ? a->kv_heads / ranks : 1,
                          .inner = a->inner / ranks,
                          .vocabulary = has_head ? a->vocabulary / ranks : 0,
                          .layers = calloc(a->layers, sizeof *w->layers)};
    if (w->layers)
        return 0;
    (void)snprintf(message, ARCH_MESSAGE_BYTES, "no memory for %u layers", a->layers);
    return -ENOMEM;
}

void weights_free(struct weights *w)
{
    free(w->layers);
    w->layers = NULL;
}

uint32_t weights_k_max(const struct weights *w)
{
    uint32_t k = w->arch->hidden, mixed = w->heads * w->arch->head_dim;
    k = mixed > k ? mixed : k;
    return w->inner > k ? w->inner : k;
}

/* ---- places --------------------------------------------------------------------------------- */

struct placer {
    const struct ops *ops;
    enum ops_dtype activation;
    struct slab *slab;
};

static struct ops_matrix place_matrix(const struct placer *p, uint32_t n, uint32_t k)
{
    return (struct ops_matrix){
        .data = slab_take(p->slab, p->ops->matrix_bytes(p->activation, n, k)), .n = n, .k = k};
}

static float *place_vector(const struct placer *p, uint64_t count)
{
    return slab_take(p->slab, count * sizeof(float));
}

static float *place_optional(const struct placer *p, const struct weights *w, enum names_slot slot,
                             uint64_t count)
{
    return names_tensor(w->names, slot, 0) ? place_vector(p, count) : NULL;
}

static void place_layer(struct weights *w, const struct placer *p, struct weights_layer *l)
{
    const struct arch *a = w->arch;
    uint32_t mixed = w->heads * a->head_dim;
    uint32_t qkv = mixed + 2 * w->kv_heads * a->head_dim;
    uint32_t wide = a->gated ? 2 * w->inner : w->inner;
    bool first = w->rank == 0;
    l->attention_norm = place_optional(p, w, NAMES_ATTENTION_NORM, a->hidden);
    l->attention_norm_bias = place_optional(p, w, NAMES_ATTENTION_NORM_BIAS, a->hidden);
    l->attention_after_norm = place_optional(p, w, NAMES_ATTENTION_AFTER_NORM, a->hidden);
    l->ffn_norm = place_optional(p, w, NAMES_FFN_NORM, a->hidden);
    l->ffn_norm_bias = place_optional(p, w, NAMES_FFN_NORM_BIAS, a->hidden);
    l->ffn_after_norm = place_optional(p, w, NAMES_FFN_AFTER_NORM, a->hidden);
    l->q_norm = place_optional(p, w, NAMES_Q_NORM, a->head_dim);
    l->k_norm = place_optional(p, w, NAMES_K_NORM, a->head_dim);
    l->qkv = place_matrix(p, qkv, a->hidden);
    l->qkv_bias = place_optional(p, w, NAMES_Q_BIAS, qkv);
    l->o = place_matrix(p, a->hidden, mixed);
    l->o_bias = first ? place_optional(p, w, NAMES_O_BIAS, a->hidden) : NULL;
    l->gate_up = place_matrix(p, wide, a->hidden);
    l->gate_up_bias = place_optional(p, w, NAMES_UP_BIAS, wide);
    l->down = place_matrix(p, a->hidden, w->inner);
    l->down_bias = first ? place_optional(p, w, NAMES_DOWN_BIAS, a->hidden) : NULL;
}

void weights_place(struct weights *w, const struct ops *ops, enum ops_dtype activation,
                   struct slab *slab)
{
    const struct arch *a = w->arch;
    const struct placer p = {.ops = ops, .activation = activation, .slab = slab};
    w->embedding = place_matrix(&p, a->vocabulary, a->hidden);
    if (w->vocabulary)
        w->head = a->tied && w->ranks_count == 1 ? w->embedding
                                                 : place_matrix(&p, w->vocabulary, a->hidden);
    if (a->encoder) {
        w->position_embedding = place_matrix(&p, a->context_tokens, a->hidden);
        w->type_embedding = place_matrix(&p, a->types_count, a->hidden);
    }
    w->embedding_norm = place_optional(&p, w, NAMES_EMBEDDING_NORM, a->hidden);
    w->embedding_norm_bias = place_optional(&p, w, NAMES_EMBEDDING_NORM_BIAS, a->hidden);
    w->final_norm = place_optional(&p, w, NAMES_FINAL_NORM, a->hidden);
    w->readout = place_optional(&p, w, NAMES_READOUT, (uint64_t)a->outputs * a->hidden);
    for (uint32_t i = 0; i < a->layers; i++)
        place_layer(w, &p, &w->layers[i]);
}

/* ---- loading -------------------------------------------------------------------------------- */

/* What is read at once: rows of a matrix or elements of a vector. */
struct piece {
    const struct tensor *tensor;
    uint64_t first; /* in the tensor's bytes, like the next */
    uint32_t bytes;
    uint32_t rows_count;      /* 0: a vector */
    struct ops_matrix matrix; /* of a matrix, like the next two */
    uint32_t row_first;
    uint64_t column;
    float *to; /* of a vector, like the next */
    float plus;
};

#define TILE_ROWS 32u
#define VECTOR_MAX 65536u /* elements of a vector at once */
static_assert(OPS_STAGES == READER_STAGES, "one for the other");
static_assert(VECTOR_MAX * sizeof(float) <= OPS_STAGE_BYTES, "it is read into a stage");

/* The same code for every model lists what is read first; then it is read in that order, several pieces ahead
 * of the device. */
struct loader {
    const struct weights *w;
    const struct ops *ops;
    struct ops_device *device;
    struct piece *pieces;
    uint64_t pieces_count;
    uint64_t pieces_max;
    uint8_t *stages; /* [OPS_STAGES, OPS_STAGE_BYTES] */
    bool stages_ours;
    struct reader *reader;
    float *row; /* [VECTOR_MAX] a vector on its way */
    int result; /* the first that failed, and what it was: */
    const char *failed;
    const struct tensor *failed_tensor; /* NULL: none was to blame */
};

static float half_to_float(uint16_t half)
{
    uint32_t exponent = half >> 10 & 31u, mantissa = half & 1023u;
    float value = exponent == 0    ? ldexpf((float)mantissa, -24)
                  : exponent != 31 ? ldexpf((float)(mantissa + 1024), (int)exponent - 25)
                  : mantissa       ? NAN
                                   : INFINITY;
    return half >> 15 ? -value : value;
}

static const struct {
    enum ops_dtype type;
    uint64_t bytes;
} stored[] =
    {[TENSOR_F32] = {OPS_F32, 4}, [TENSOR_BF16] = {OPS_BF16, 2}, [TENSOR_F16] = {OPS_F16, 2}};

static float element(const uint8_t *data, enum tensor_dtype dtype, uint64_t idx)
{
    uint16_t half;
    float value;
    if (dtype == TENSOR_F32) {
        memcpy(&value, data + idx * sizeof value, sizeof value);
        return value;
    }
    memcpy(&half, data + idx * sizeof half, sizeof half);
    if (dtype == TENSOR_F16)
        return half_to_float(half);
    uint32_t bits = (uint32_t)half << 16;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void load_failed(struct loader *l, int result, const char *what, const struct tensor *t)
{
    if (result && !l->result) {
        l->result = result;
        l->failed = what;
        l->failed_tensor = t;
    }
}

/* ---- the list ---- */

static void piece_add(struct loader *l, const struct piece *piece)
{
    if (l->pieces_count == l->pieces_max && !l->result) {
        uint64_t max = l->pieces_max ? 2 * l->pieces_max : 1024;
        struct piece *more = realloc(l->pieces, max * sizeof *more);
        if (!more) {
            load_failed(l, -ENOMEM, "no memory for the list of what is to be read", NULL);
            return;
        }
        l->pieces = more;
        l->pieces_max = max;
    }
    if (!l->result)
        l->pieces[l->pieces_count++] = *piece;
}

/* count elements from source_first to to[to_first ...]; to NULL: this rank has no such vector. */
static void load_vector(struct loader *l, float *to, uint64_t to_first, const struct tensor *t,
                        uint64_t source_first, uint64_t count, float plus)
{
    if (!to || !t)
        return;
    uint64_t unit = stored[t->dtype].bytes;
    ASSERT((source_first + count) * unit <= t->bytes);
    for (uint64_t done = 0; done < count;) {
        uint64_t left = count - done, part = left < VECTOR_MAX ? left : VECTOR_MAX;
        piece_add(l, &(struct piece){.tensor = t,
                                     .first = (source_first + done) * unit,
                                     .bytes = (uint32_t)(part * unit),
                                     .to = to + to_first + done,
                                     .plus = plus});
        done += part;
    }
}

/* A part of a checkpoint's matrix. */
struct part {
    const struct tensor *tensor;
    uint64_t row; /* its first, there */
    uint32_t rows_count;
    uint64_t column;
};

/* Whole tiles of the CPU's layout at a time. */
static void load_part(struct loader *l, struct ops_matrix matrix, uint32_t row_first,
                      struct part part)
{
    const struct tensor *t = part.tensor;
    ASSERT(t && t->dims_count == 2 && part.row + part.rows_count <= t->dims[0] &&
           part.column + matrix.k <= t->dims[1]);
    uint64_t row_bytes = t->dims[1] * stored[t->dtype].bytes, most = OPS_STAGE_BYTES / row_bytes;
    if (most == 0)
        load_failed(l, -EINVAL, "a row is longer than 4 MiB", t);
    most = most > TILE_ROWS ? most / TILE_ROWS * TILE_ROWS : most;
    for (uint32_t done = 0; done < part.rows_count && !l->result;) {
        uint64_t left = part.rows_count - done, rows = left < most ? left : most;
        piece_add(l, &(struct piece){.tensor = t,
                                     .first = (part.row + done) * row_bytes,
                                     .bytes = (uint32_t)(rows * row_bytes),
                                     .rows_count = (uint32_t)rows,
                                     .matrix = matrix,
                                     .row_first = row_first + done,
                                     .column = part.column});
        done += (uint32_t)rows;
    }
}

static void load_qkv(struct loader *l, uint32_t layer)
{
    const struct weights *w = l->w;
    const struct arch *a = w->arch;
    const struct weights_layer *to = &w->layers[layer];
    const struct tensor *fused = names_tensor(w->names, NAMES_QKV, layer);
    uint32_t kv_first = w->rank * w->heads / (a->heads / a->kv_heads);
    const struct {
        enum names_slot slot, bias;
        uint32_t first, count, all; /* heads */
    } parts[] = {{NAMES_Q, NAMES_Q_BIAS, w->rank * w->heads, w->heads, a->heads},
                 {NAMES_K, NAMES_K_BIAS, kv_first, w->kv_heads, a->kv_heads},
                 {NAMES_V, NAMES_V_BIAS, kv_first, w->kv_heads, a->kv_heads}};
    uint32_t row = 0, before = 0; /* before: heads of the fused tensor's earlier parts */
    for (uint32_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        uint32_t first = parts[i].first * a->head_dim, count = parts[i].count * a->head_dim;
        struct part part = {.tensor = fused ? fused : names_tensor(w->names, parts[i].slot, layer),
                            .row = first + (fused ? before * a->head_dim : 0),
                            .rows_count = count};
        load_part(l, to->qkv, row, part);
        load_vector(l, to->qkv_bias, row, names_tensor(w->names, parts[i].bias, layer), first,
                    count, 0);
        row += count;
        before += parts[i].all;
    }
}

static void load_ffn(struct loader *l, uint32_t layer)
{
    const struct weights *w = l->w;
    const struct arch *a = w->arch;
    const struct weights_layer *to = &w->layers[layer];
    const struct tensor *fused = names_tensor(w->names, NAMES_GATE_UP, layer);
    uint32_t first = w->rank * w->inner;
    const struct {
        enum names_slot slot, bias;
    } parts[] = {{NAMES_GATE, NAMES_GATE_BIAS}, {NAMES_UP, NAMES_UP_BIAS}};
    uint32_t row = 0;
    for (uint32_t i = a->gated ? 0 : 1; i < 2; i++) {
        struct part part = {.tensor = fused ? fused : names_tensor(w->names, parts[i].slot, layer),
                            .row = first + (fused ? i * a->inner : 0),
                            .rows_count = w->inner};
        load_part(l, to->gate_up, row, part);
        load_vector(l, to->gate_up_bias, row, names_tensor(w->names, parts[i].bias, layer), first,
                    w->inner, 0);
        row += w->inner;
    }
    load_part(l, to->down, 0,
              (struct part){.tensor = names_tensor(w->names, NAMES_DOWN, layer),
                            .rows_count = a->hidden,
                            .column = first});
}

static void load_layer(struct loader *l, uint32_t layer)
{
    const struct weights *w = l->w;
    const struct arch *a = w->arch;
    const struct weights_layer *to = &w->layers[layer];
    float plus = a->norm_plus_one ? 1 : 0;
    const struct {
        float *to;
        enum names_slot slot;
        uint32_t count;
        float plus;
    } vectors[] = {{to->attention_norm, NAMES_ATTENTION_NORM, a->hidden, plus},
                   {to->attention_norm_bias, NAMES_ATTENTION_NORM_BIAS, a->hidden, 0},
                   {to->attention_after_norm, NAMES_ATTENTION_AFTER_NORM, a->hidden, plus},
                   {to->ffn_norm, NAMES_FFN_NORM, a->hidden, plus},
                   {to->ffn_norm_bias, NAMES_FFN_NORM_BIAS, a->hidden, 0},
                   {to->ffn_after_norm, NAMES_FFN_AFTER_NORM, a->hidden, plus},
                   {to->q_norm, NAMES_Q_NORM, a->head_dim, plus},
                   {to->k_norm, NAMES_K_NORM, a->head_dim, plus},
                   {to->o_bias, NAMES_O_BIAS, a->hidden, 0},
                   {to->down_bias, NAMES_DOWN_BIAS, a->hidden, 0}};
    for (uint32_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++)
        load_vector(l, vectors[i].to, 0, names_tensor(w->names, vectors[i].slot, layer), 0,
                    vectors[i].count, vectors[i].plus);
    load_qkv(l, layer);
    load_part(l, to->o, 0,
              (struct part){.tensor = names_tensor(w->names, NAMES_O, layer),
                            .rows_count = a->hidden,
                            .column = (uint64_t)w->rank * w->heads * a->head_dim});
    load_ffn(l, layer);
}

static void load_globals(struct loader *l)
{
    const struct weights *w = l->w;
    const struct arch *a = w->arch;
    const struct tensor *embedding = names_tensor(w->names, NAMES_EMBEDDING, 0);
    const struct tensor *readout = names_tensor(w->names, NAMES_READOUT, 0);
    load_part(l, w->embedding, 0, (struct part){.tensor = embedding, .rows_count = a->vocabulary});
    if (w->head.data && w->head.data != w->embedding.data)
        load_part(
            l, w->head, 0,
            (struct part){.tensor = a->tied ? embedding : names_tensor(w->names, NAMES_HEAD, 0),
                          .row = (uint64_t)w->rank * w->vocabulary,
                          .rows_count = w->vocabulary});
    if (a->encoder) {
        load_part(l, w->position_embedding, 0,
                  (struct part){.tensor = names_tensor(w->names, NAMES_POSITION, 0),
                                .rows_count = a->context_tokens});
        load_part(l, w->type_embedding, 0,
                  (struct part){.tensor = names_tensor(w->names, NAMES_TYPE, 0),
                                .rows_count = a->types_count});
    }
    load_vector(l, w->embedding_norm, 0, names_tensor(w->names, NAMES_EMBEDDING_NORM, 0), 0,
                a->hidden, 0);
    load_vector(l, w->embedding_norm_bias, 0, names_tensor(w->names, NAMES_EMBEDDING_NORM_BIAS, 0),
                0, a->hidden, 0);
    load_vector(l, w->final_norm, 0, names_tensor(w->names, NAMES_FINAL_NORM, 0), 0, a->hidden,
                a->norm_plus_one ? 1 : 0);
    for (uint32_t i = 0; readout && i < a->outputs; i++)
        load_vector(l, w->readout, (uint64_t)i * a->hidden, readout, (uint64_t)i * a->hidden,
                    a->hidden, 0);
}

/* ---- reading it ---- */

static void vector_arrived(struct loader *l, const struct piece *p, const uint8_t *stage)
{
    uint64_t count = p->bytes / stored[p->tensor->dtype].bytes;
    for (uint64_t i = 0; i < count; i++)
        l->row[i] = element(stage, p->tensor->dtype, i) + p->plus;
    l->ops->copy_in(l->device, p->to, l->row, count * sizeof(float));
    load_failed(l, l->ops->sync(l->device), NULL, p->tensor); /* the row is used again */
}

static void rows_arrived(struct loader *l, const struct piece *p, uint32_t stage)
{
    const struct tensor *t = p->tensor;
    const struct ops_load load = {.matrix = p->matrix,
                                  .row_first = p->row_first,
                                  .rows_count = p->rows_count,
                                  .host_source = l->stages + (uint64_t)stage * OPS_STAGE_BYTES +
                                                 p->column * stored[t->dtype].bytes,
                                  .source_dtype = stored[t->dtype].type,
                                  .source_stride = t->dims[1],
                                  .stage = 1 + stage};
    load_failed(l, l->ops->load(l->device, &load), NULL, t);
}

static void piece_ask(struct loader *l, uint64_t idx)
{
    const struct piece *p = &l->pieces[idx];
    uint32_t stage = (uint32_t)(idx % OPS_STAGES);
    if (l->ops->stage_wait)
        load_failed(l, l->ops->stage_wait(l->device, stage), NULL, p->tensor);
    if (!l->result)
        reader_ask(l->reader, stage, p->tensor->fd, p->tensor->offset + p->first,
                   l->stages + (uint64_t)stage * OPS_STAGE_BYTES, p->bytes);
}

/* One stage is left to the device: it takes from there what was handed to it last. */
static void pieces_load(struct loader *l)
{
    uint64_t asked = 0;
    for (uint64_t i = 0; i < l->pieces_count && !l->result; i++) {
        const struct piece *p = &l->pieces[i];
        uint32_t stage = (uint32_t)(i % OPS_STAGES);
        for (; asked < l->pieces_count && asked - i < OPS_STAGES - 1 && !l->result; asked++)
            piece_ask(l, asked);
        int read = l->result ? 0 : reader_wait(l->reader, stage);
        load_failed(l, read, read == -ENODATA ? "the file ends in it" : NULL, p->tensor);
        if (!l->result && p->rows_count)
            rows_arrived(l, p, stage);
        else if (!l->result)
            vector_arrived(l, p, l->stages + (uint64_t)stage * OPS_STAGE_BYTES);
    }
}

static void loader_open(struct loader *l)
{
    void *stages = NULL;
    l->stages_ours = !l->ops->stages_open;
    if (l->stages_ours) {
        stages = aligned_alloc(4096, (size_t)OPS_STAGES * OPS_STAGE_BYTES);
        load_failed(l, stages ? 0 : -ENOMEM, "no memory to load it", NULL);
    } else {
        load_failed(l, l->ops->stages_open(l->device, &stages), "pinned memory to load it", NULL);
    }
    l->stages = stages;
    l->row = calloc(VECTOR_MAX, sizeof *l->row);
    load_failed(l, l->row ? 0 : -ENOMEM, "no memory to load it", NULL);
    load_failed(l, l->result ? 0 : reader_new(&l->reader), URING_REQUIRED, NULL);
}

/* Nothing takes from the stages or fills them any more when they are given back. */
static void loader_close(struct loader *l)
{
    reader_free(l->reader);
    load_failed(l, l->ops->sync(l->device), "the device", NULL);
    if (l->stages_ours)
        free(l->stages);
    else
        l->ops->stages_close(l->device);
    free(l->row);
    free(l->pieces);
}

static int loader_result(const struct loader *l, char message[ARCH_MESSAGE_BYTES])
{
    const struct tensor *t = l->failed_tensor;
    const char *why = l->failed ? l->failed : strerror(-l->result);
    if (l->result && t)
        (void)snprintf(message, ARCH_MESSAGE_BYTES, "%s: %s: loading it: %s", t->file, t->name,
                       why);
    else if (l->result)
        (void)snprintf(message, ARCH_MESSAGE_BYTES, "%s: %s", why, strerror(-l->result));
    return l->result;
}

int weights_load(struct weights *w, const struct ops *ops, struct ops_device *device,
                 char message[ARCH_MESSAGE_BYTES])
{
    const struct arch *a = w->arch;
    struct loader l = {.w = w, .ops = ops, .device = device};
    load_globals(&l);
    for (uint32_t i = 0; i < a->layers; i++)
        load_layer(&l, i);
    loader_open(&l);
    pieces_load(&l);
    loader_close(&l);
    const struct tensor *bias = names_tensor(w->names, NAMES_READOUT_BIAS, 0);
    uint8_t bytes[WEIGHTS_OUTPUTS_MAX * sizeof(float)];
    if (bias && !l.result) {
        ASSERT(bias->bytes <= sizeof bytes);
        load_failed(&l, tensors_read(bias, 0, bytes, bias->bytes), NULL, bias);
        for (uint32_t i = 0; i < a->outputs; i++)
            w->readout_bias[i] = element(bytes, bias->dtype, i);
    }
    w->names = NULL;
    return loader_result(&l, message);
}
