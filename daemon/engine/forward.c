#include "daemon/engine/forward.h"

#include <math.h>

#include "daemon/base/assert.h"

/* ---- places --------------------------------------------------------------------------------- */

void forward_place_scratch(struct model *m, struct slab *slab, uint64_t image_bytes)
{
    const struct arch *a = m->arch;
    const struct weights *w = &m->weights;
    struct scratch *s = &m->scratch;
    uint64_t rows = m->tokens_max, heads = m->head_rows, f32 = sizeof(float);
    uint64_t act = m->activation == OPS_F32 ? 4 : 2;
    uint64_t head_columns = (uint64_t)w->heads * a->head_dim;
    uint64_t kv_columns = (uint64_t)w->kv_heads * a->head_dim;
    s->x = slab_take(slab, rows * a->hidden * f32);
    s->h = slab_take(slab, rows * a->hidden * act);
    s->qkv = slab_take(slab, rows * (head_columns + 2 * kv_columns) * f32);
    s->q = slab_take(slab, rows * head_columns * act);
    s->mixed = slab_take(slab, rows * head_columns * act);
    s->sum = slab_take(slab, rows * a->hidden * f32);
    s->gate_up = slab_take(slab, rows * 2 * w->inner * f32);
    s->gated = slab_take(slab, rows * w->inner * act);
    s->cosine = slab_take(slab, rows * (a->rotary_dim / 2) * f32);
    s->sine = slab_take(slab, rows * (a->rotary_dim / 2) * f32);
    s->head_x = slab_take(slab, heads * a->hidden * f32);
    if (w->vocabulary) {
        s->head_h = slab_take(slab, heads * a->hidden * act);
        s->logits_part = w->ranks_count > 1 ? slab_take(slab, heads * w->vocabulary * f32) : NULL;
        s->logits = slab_take(slab, heads * a->vocabulary * f32);
    }
    s->sampled = slab_take(slab, m->rows_max * sizeof *s->sampled);
    s->dots = slab_take(slab, m->rows_max * f32);
    s->scores = slab_take(slab, WEIGHTS_OUTPUTS_MAX * rows * f32);
    s->image = slab_take(slab, image_bytes);
}

uint64_t forward_page_bytes(const struct model *m)
{
    return m->ops->kv_page_bytes(m->activation, m->arch->head_dim) * m->weights.kv_heads *
           m->arch->layers;
}

void forward_place_state(struct model *m, struct slab *slab)
{
    const struct arch *a = m->arch;
    uint32_t pages = m->kv_pages + (m->ops->graph_run ? 1 : 0);
    uint64_t layer_bytes = m->kv_pages ? forward_page_bytes(m) / a->layers * pages : 0;
    for (uint32_t i = 0; m->kv_pages && i < a->layers; i++)
        m->kv[i] = (struct ops_kv){.data = slab_take(slab, layer_bytes),
                                   .pages_count = pages,
                                   .kv_heads = m->weights.kv_heads,
                                   .head_dim = a->head_dim};
    uint64_t slots = m->kv_pages ? ENGINE_POOL_SLOTS_MAX : m->rows_max;
    m->pool_sums = slab_take(slab, slots * a->hidden * sizeof(float));
    m->dot_vector = slab_take(slab, a->hidden * sizeof(float));
    m->inverse_frequency = slab_take(slab, a->rotary_dim / 2 * sizeof(float));
}

/* ---- launches ------------------------------------------------------------------------------- */

static const uint32_t *at(const struct model *m, uint64_t offset)
{
    return (const uint32_t *)(const void *)(m->scratch.image + offset);
}

static struct ops_batch batch_of(const struct model *m, const struct step *step)
{
    return (struct ops_batch){.tokens_count = step->tokens_count,
                              .token = at(m, step->tokens),
                              .position = at(m, step->positions),
                              .seq = at(m, step->seqs),
                              .pages = at(m, step->lists),
                              .shared_pages = at(m, step->shared_pages),
                              .pages_stride = 1};
}

/* Page copies and poison come first: the host's lists are the batch's own. */
static void run_pages(struct model *m, const struct step *step)
{
    const struct engine_batch *b = step->batch;
    for (uint32_t i = 0; i < m->arch->layers; i++) {
        if (b->copies_count)
            m->ops->pages_copy(m->device,
                               &(struct ops_pages_copy){.kv = m->kv[i],
                                                        .host_copies = b->copies,
                                                        .copies_count = b->copies_count});
        if (b->freed_count)
            m->ops->pages_poison(m->device,
                                 &(struct ops_pages_poison){.kv = m->kv[i],
                                                            .host_pages = b->freed,
                                                            .pages_count = b->freed_count});
    }
}

static void run_norm(struct model *m, struct ops_norm norm)
{
    norm.columns = m->arch->hidden;
    norm.epsilon = m->arch->norm_epsilon;
    norm.kind = OPS_NORM_RMS;
    m->ops->norm(m->device, &norm);
}

/* x += in w^T, summed over the ranks and through the norm that some families put behind it. */
static void run_back(struct model *m, uint32_t rows, const void *in, struct ops_matrix w,
                     const float *bias, const float *after_norm)
{
    struct scratch *s = &m->scratch;
    bool direct = m->weights.ranks_count == 1 && !after_norm;
    m->ops->gemm(m->device, &(struct ops_gemm){.y = direct ? s->x : s->sum,
                                               .x = in,
                                               .w = w,
                                               .bias = bias,
                                               .rows_count = rows,
                                               .accumulate = direct});
    uint64_t count = (uint64_t)rows * m->arch->hidden;
    if (m->weights.ranks_count > 1)
        m->ops->all_reduce(m->device, &(struct ops_all_reduce){.x = s->sum, .count = count});
    if (after_norm)
        run_norm(m, (struct ops_norm){
                        .add_to = s->x, .in = s->sum, .weight = after_norm, .rows_count = rows});
    else if (!direct)
        m->ops->add(m->device, &(struct ops_add){.to = s->x, .from = s->sum, .count = count});
}

static void run_attention(struct model *m, const struct step *step, uint32_t layer)
{
    const struct arch *a = m->arch;
    const struct weights_layer *w = &m->weights.layers[layer];
    struct scratch *s = &m->scratch;
    struct ops_batch batch = batch_of(m, step);
    uint32_t rows = batch.tokens_count;
    /* Recorded launches are for all steps of the bucket. */
    uint32_t position_max = step->bucket == STEP_EAGER ? step->position_max : a->context_tokens - 1;
    run_norm(m, (struct ops_norm){
                    .out = s->h, .in = s->x, .weight = w->attention_norm, .rows_count = rows});
    m->ops->gemm(m->device,
                 &(struct ops_gemm){
                     .y = s->qkv, .x = s->h, .w = w->qkv, .bias = w->qkv_bias, .rows_count = rows});
    m->ops->qkv(m->device, &(struct ops_qkv){.q = s->q,
                                             .qkv = s->qkv,
                                             .q_norm = w->q_norm,
                                             .k_norm = w->k_norm,
                                             .cosine = s->cosine,
                                             .sine = s->sine,
                                             .kv = m->kv[layer],
                                             .batch = batch,
                                             .heads = m->weights.heads,
                                             .rotary_dim = a->rotary_dim,
                                             .norm_epsilon = a->norm_epsilon});
    m->ops->attention(m->device, &(struct ops_attention){.out = s->mixed,
                                                         .q = s->q,
                                                         .kv = m->kv[layer],
                                                         .batch = batch,
                                                         .heads = m->weights.heads,
                                                         .window = a->window[layer],
                                                         .position_max = position_max,
                                                         .scale = a->attention_scale,
                                                         .softcap = a->attention_softcap});
    run_back(m, rows, s->mixed, w->o, w->o_bias, w->attention_after_norm);
}

static void run_ffn(struct model *m, uint32_t rows, uint32_t layer)
{
    const struct weights_layer *w = &m->weights.layers[layer];
    struct scratch *s = &m->scratch;
    run_norm(m,
             (struct ops_norm){.out = s->h, .in = s->x, .weight = w->ffn_norm, .rows_count = rows});
    m->ops->gemm(m->device, &(struct ops_gemm){.y = s->gate_up,
                                               .x = s->h,
                                               .w = w->gate_up,
                                               .bias = w->gate_up_bias,
                                               .rows_count = rows});
    m->ops->gate(m->device, &(struct ops_gate){.out = s->gated,
                                               .in = s->gate_up,
                                               .rows_count = rows,
                                               .columns = m->weights.inner,
                                               .kind = m->arch->gate,
                                               .gated = true});
    run_back(m, rows, s->gated, w->down, w->down_bias, w->ffn_after_norm);
}

/* ---- what is read off the hidden states ----------------------------------------------------- */

static void run_dots(struct model *m, const struct step *step)
{
    struct scratch *s = &m->scratch;
    uint32_t rows = step->rows_count;
    m->ops->gather(m->device, &(struct ops_gather){.out = s->sum,
                                                   .in = s->x,
                                                   .row = at(m, step->lasts),
                                                   .rows_count = rows,
                                                   .columns = m->arch->hidden});
    m->ops->dot(m->device, &(struct ops_dot){.out = s->dots,
                                             .in = s->sum,
                                             .vector = m->dot_vector,
                                             .rows_count = rows,
                                             .columns = m->arch->hidden});
}

/* Logits of tokens_count rows of x, named by token, in scratch.logits. */
static void run_logits(struct model *m, const uint32_t *token, uint32_t rows)
{
    const struct arch *a = m->arch;
    const struct weights *w = &m->weights;
    struct scratch *s = &m->scratch;
    m->ops->gather(
        m->device,
        &(struct ops_gather){
            .out = s->head_x, .in = s->x, .row = token, .rows_count = rows, .columns = a->hidden});
    run_norm(m,
             (struct ops_norm){
                 .out = s->head_h, .in = s->head_x, .weight = w->final_norm, .rows_count = rows});
    float *part = w->ranks_count > 1 ? s->logits_part : s->logits;
    m->ops->gemm(m->device,
                 &(struct ops_gemm){.y = part, .x = s->head_h, .w = w->head, .rows_count = rows});
    if (w->ranks_count > 1)
        m->ops->all_gather(m->device, &(struct ops_all_gather){.out = s->logits,
                                                               .in = part,
                                                               .rows_count = rows,
                                                               .columns = w->vocabulary});
    if (a->logits_softcap > 0)
        m->ops->softcap(m->device, &(struct ops_softcap){.x = s->logits,
                                                         .count = (uint64_t)rows * a->vocabulary,
                                                         .cap = a->logits_softcap});
}

static void run_heads(struct model *m, const struct step *step)
{
    struct scratch *s = &m->scratch;
    uint32_t vocabulary = m->arch->vocabulary;
    ASSERT(step->heads_count == 0 || m->weights.vocabulary);
    for (uint32_t i = 0; i < step->heads_count; i += m->head_rows) {
        uint32_t left = step->heads_count - i;
        uint32_t rows = left < m->head_rows ? left : m->head_rows;
        run_logits(m, at(m, step->heads) + i, rows);
        if (m->weights.rank != 0)
            continue;
        if (step->all_logits) {
            m->ops->copy_out(m->device, step->all_logits + (size_t)i * vocabulary, s->logits,
                             (uint64_t)rows * vocabulary * sizeof(float));
            continue;
        }
        const struct ops_sample_row *samples = (const void *)at(m, step->samples);
        m->ops->sample(m->device, &(struct ops_sample){.out = s->sampled + i,
                                                       .logits = s->logits,
                                                       .rows = samples + i,
                                                       .history = at(m, step->lists),
                                                       .bias = (const void *)at(m, step->lists),
                                                       .rows_count = rows,
                                                       .vocabulary = vocabulary});
    }
}

static void run_scores(struct model *m, const struct step *step)
{
    const struct arch *a = m->arch;
    uint32_t outputs = a->head == ARCH_HEAD_TOKEN_MEAN ? 1 : a->outputs;
    struct scratch *s = &m->scratch;
    for (uint32_t i = 0; i < step->scores_count; i += m->head_rows) {
        uint32_t left = step->scores_count - i;
        uint32_t rows = left < m->head_rows ? left : m->head_rows;
        const uint32_t *token = at(m, step->scores) + i;
        if (a->head == ARCH_HEAD_TOKEN_MEAN) {
            run_logits(m, token, rows);
            m->ops->row_mean(m->device, &(struct ops_row_mean){.out = s->scores + i,
                                                               .in = s->logits,
                                                               .rows_count = rows,
                                                               .columns = a->vocabulary});
            continue;
        }
        m->ops->gather(m->device, &(struct ops_gather){.out = s->head_x,
                                                       .in = s->x,
                                                       .row = token,
                                                       .rows_count = rows,
                                                       .columns = a->hidden});
        run_norm(m, (struct ops_norm){.out_f32 = s->head_x,
                                      .in = s->head_x,
                                      .weight = m->weights.final_norm,
                                      .rows_count = rows});
        for (uint32_t o = 0; o < a->outputs; o++)
            m->ops->dot(m->device,
                        &(struct ops_dot){.out = s->scores + (uint64_t)o * m->tokens_max + i,
                                          .in = s->head_x,
                                          .vector = m->weights.readout + (uint64_t)o * a->hidden,
                                          .rows_count = rows,
                                          .columns = a->hidden});
    }
    for (uint32_t o = 0; m->weights.rank == 0 && step->scores_count && o < outputs; o++)
        m->ops->copy_out(m->device, m->host_scores + (uint64_t)o * m->tokens_max,
                         s->scores + (uint64_t)o * m->tokens_max,
                         step->scores_count * sizeof(float));
}

static void copy_firsts(struct model *m, const struct engine_batch *b, const float *hidden)
{
    uint64_t columns = m->arch->hidden;
    for (uint32_t r = 0; r < b->rows_count; r++)
        m->ops->copy_out(m->device, b->vectors + r * columns,
                         hidden + b->rows[r].tokens_first * columns, columns * sizeof(float));
}

void forward_pool(struct model *m, const struct step *step, const float *hidden)
{
    const struct engine_batch *b = step->batch;
    uint64_t columns = m->arch->hidden;
    if (m->arch->pool_first) {
        copy_firsts(m, b, hidden);
        return;
    }
    m->ops->pool(m->device, &(struct ops_pool){.sum = m->pool_sums,
                                               .in = hidden,
                                               .slot = at(m, step->pool_slots),
                                               .first = at(m, step->pool_firsts),
                                               .rows_count = b->tokens_count,
                                               .columns = m->arch->hidden});
    for (uint32_t r = 0; r < b->rows_count; r++) {
        const struct engine_row *row = &b->rows[r];
        if (m->kv_pages && !(row->want & ENGINE_WANT_POOL))
            continue;
        uint64_t slot = m->kv_pages ? row->pool_slot : r;
        m->ops->copy_out(m->device, b->vectors + r * columns, m->pool_sums + slot * columns,
                         columns * sizeof(float));
    }
}

static void run_pool(struct model *m, const struct step *step)
{
    run_norm(m, (struct ops_norm){.out_f32 = m->scratch.sum,
                                  .in = m->scratch.x,
                                  .weight = m->weights.final_norm,
                                  .rows_count = step->batch->tokens_count});
    forward_pool(m, step, m->scratch.sum);
}

static void run_launches(struct model *m, const struct step *step)
{
    const struct arch *a = m->arch;
    struct scratch *s = &m->scratch;
    uint32_t rows = step->tokens_count;
    bool reads = m->weights.rank == 0, padded = step->bucket != STEP_EAGER;
    m->ops->embed(m->device, &(struct ops_embed){.out = s->x,
                                                 .table = m->weights.embedding,
                                                 .token = at(m, step->tokens),
                                                 .tokens_count = rows,
                                                 .scale = a->embedding_scale});
    if (a->rotary_dim)
        m->ops->rope_angles(m->device,
                            &(struct ops_rope_angles){.cosine = s->cosine,
                                                      .sine = s->sine,
                                                      .position = at(m, step->positions),
                                                      .inverse_frequency = m->inverse_frequency,
                                                      .tokens_count = rows,
                                                      .pairs_count = a->rotary_dim / 2,
                                                      .scale = a->rope_scale});
    for (uint32_t layer = 0; layer < a->layers; layer++) {
        run_attention(m, step, layer);
        run_ffn(m, rows, layer);
        if (reads && (step->dots || padded) && (int32_t)layer == m->dot_layer)
            run_dots(m, step);
    }
    if (reads && step->pools)
        run_pool(m, step);
    run_scores(m, step);
    run_heads(m, step);
}

/* What every decode step may have; the other copies stand behind their launches. */
static void copy_results(struct model *m, const struct step *step)
{
    const struct engine_batch *b = step->batch;
    uint64_t samples = step->bucket == STEP_EAGER ? step->samples_count : b->rows_count;
    if (m->weights.rank != 0)
        return;
    if (step->dots && m->dot_layer >= 0)
        m->ops->copy_out(m->device, m->host_dots, m->scratch.dots, b->rows_count * sizeof(float));
    if (samples)
        m->ops->copy_out(m->device, m->host_sampled, m->scratch.sampled,
                         samples * sizeof *m->scratch.sampled);
}

void forward_run(struct model *m, const struct step *step)
{
    m->ops->copy_in(m->device, m->scratch.image, step->image, step->image_bytes);
    run_pages(m, step);
    if (step->bucket == STEP_EAGER || !m->ops->graph_run(m->device, step->bucket))
        run_launches(m, step);
    copy_results(m, step);
}

void forward_record(struct model *m, const struct step *step)
{
    if (!m->ops->graph_begin(m->device, step->bucket))
        return;
    run_launches(m, step);
    m->ops->graph_end(m->device);
}

static float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* Of the score-th token that wants one. */
static float score_of(const struct model *m, uint32_t score)
{
    const struct arch *a = m->arch;
    const float *bias = m->weights.readout_bias; /* 0 where there is none */
    float x = m->host_scores[score] + bias[0];
    if (a->head == ARCH_HEAD_VALUE && a->outputs == 2)
        return sigmoid(m->host_scores[m->tokens_max + score] + bias[1] - x);
    return a->score_sigmoid ? sigmoid(x) : x;
}

/* From a sum, or the first token's, to the row's vector. */
static void vector_finish(const struct arch *a, const struct engine_row *row, float *vector)
{
    float count = a->pool_first ? 1 : (float)(row->position + row->tokens_count);
    double squares = 0;
    for (uint32_t i = 0; i < a->hidden; i++) {
        vector[i] /= count;
        squares += (double)vector[i] * (double)vector[i];
    }
    float length = fmaxf((float)sqrt(squares), 1e-12f);
    for (uint32_t i = 0; a->normalize && i < a->hidden; i++)
        vector[i] /= length;
}

void forward_results(struct model *m, const struct step *step)
{
    struct engine_batch *b = step->batch;
    uint32_t sample = 0, score = 0;
    for (uint32_t r = 0; r < b->rows_count; r++) {
        const struct engine_row *row = &b->rows[r];
        struct engine_output *out = &b->outputs[r];
        *out = (struct engine_output){0};
        if (step->samples_count && (row->want & ENGINE_WANT_TOKEN))
            out->sampled = m->host_sampled[sample++];
        if (step->dots && (row->want & ENGINE_WANT_DOT))
            out->dot = m->dot_layer >= 0 ? m->host_dots[r] : 0;
        if (!m->kv_pages || (row->want & ENGINE_WANT_POOL))
            vector_finish(m->arch, row, b->vectors + (size_t)r * m->arch->hidden);
    }
    for (uint32_t t = 0; step->scores_count && t < b->tokens_count; t++)
        if (b->score[t])
            b->scores[t] = score_of(m, score++);
}
