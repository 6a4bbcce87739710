/* kernels/cpu/attention.h — what attention is at every level: blocks of rows, pages, states.
 *
 * Thread: within a task. Memory: the thread's scratch. */
#pragma once
#include "kernels/cpu/internal.h"

#define ATTENTION_ROWS 32u /* of a block */
#define ATTENTION_DIM_MAX 256u
#define ATTENTION_QUERIES_MAX 2048u /* rows times query heads of a KV head, of a block */

struct attention_state {
    float greatest;
    float sum;
    float pad[14]; /* values are aligned */
    float values[ATTENTION_DIM_MAX];
};

struct attention_block {
    uint32_t row_first;
    uint32_t rows_count;
    uint32_t kv_head;
    uint32_t group;   /* query heads of a KV head */
    uint8_t *queries; /* [rows_count * group, padded head_dim] activation type, zero-padded; 16 more
                         may be read */
    struct attention_state *states; /* [rows_count * group] of this span */
    struct attention_state *totals;
    float *work; /* ATTENTION_WORK_FLOATS */
};
#define ATTENTION_WORK_QUERIES 32u /* taken at once: two tiles */
#define ATTENTION_WORK_FLOATS                                                                      \
    (ATTENTION_WORK_QUERIES * (OPS_PAGE_TOKENS + OPS_PAGE_TOKENS / 2 + ATTENTION_DIM_MAX))

uint64_t cpu_kv_page_bytes(enum ops_dtype activation, uint32_t head_dim);
uint8_t *attention_kv(const struct ops_device *device, const struct ops_kv *kv, uint32_t page,
                      uint32_t kv_head);
uint32_t attention_page(const struct ops_batch *batch, uint32_t row, uint32_t idx);
/* Key and value of position at of a page. */
void attention_put(const struct ops_device *device, uint8_t *kv, uint32_t dim, uint32_t at,
                   const float *key, const float *value);
/* Whether row looks at this page, and at which positions. */
bool attention_sees(const struct ops_attention *args, uint32_t row, uint32_t page,
                    uint32_t *ret_first, uint32_t *ret_last);
uint64_t attention_scratch_bytes(void);

typedef void attention_page_fn(const struct ops_attention *args,
                               const struct attention_block *block, uint32_t page,
                               const uint8_t *kv, uint32_t row_first, uint32_t row_end);
typedef void attention_span_fn(struct attention_state *total, const struct attention_state *span,
                               uint32_t dim);
typedef void attention_write_fn(struct ops_device *device, const struct ops_attention *args,
                                const struct attention_block *block);
void attention_run(struct ops_device *device, const struct ops_attention *args, uint32_t thread,
                   attention_page_fn *page, attention_span_fn *span, attention_write_fn *write);
