#include "kernels/cpu/attention.h"

#include <math.h>
#include <string.h>

#include "shm/atomic.h"

uint64_t cpu_kv_page_bytes(enum ops_dtype activation, uint32_t head_dim)
{
    return 2ull * OPS_PAGE_TOKENS * cpu_padded(head_dim) * cpu_element_bytes(activation);
}

uint8_t *attention_kv(const struct ops_device *d, const struct ops_kv *kv, uint32_t page,
                      uint32_t kv_head)
{
    return (uint8_t *)kv->data + ((uint64_t)page * kv->kv_heads + kv_head) *
                                     cpu_kv_page_bytes(d->config.activation, kv->head_dim);
}

uint32_t attention_page(const struct ops_batch *b, uint32_t row, uint32_t idx)
{
    return b->pages[(uint64_t)b->seq[row] * b->pages_stride + idx];
}

void attention_put(const struct ops_device *d, uint8_t *kv, uint32_t dim, uint32_t at,
                   const float *key, const float *value)
{
    uint32_t padded = cpu_padded(dim);
    if (d->config.activation == OPS_F32) {
        float *k = (float *)(void *)kv, *v = k + OPS_PAGE_TOKENS * padded;
        for (uint32_t j = 0; j < dim; j++) {
            k[j * OPS_PAGE_TOKENS + at] = key[j];
            v[at * padded + j] = value[j];
        }
        return;
    }
    uint16_t *k = (uint16_t *)(void *)kv + at / 16 * 16 * padded;
    uint16_t *v = (uint16_t *)(void *)kv + OPS_PAGE_TOKENS * padded;
    for (uint32_t j = 0; j < dim; j++) {
        k[j / 2 * 32 + at % 16 * 2 + j % 2] = cpu_bf16_of(key[j]);
        v[j / 16 * 512 + at / 2 * 32 + j % 16 * 2 + at % 2] = cpu_bf16_of(value[j]);
    }
}

bool attention_sees(const struct ops_attention *a, uint32_t row, uint32_t page, uint32_t *ret_first,
                    uint32_t *ret_last)
{
    uint32_t last = a->batch.position[row];
    uint32_t first = a->window && last + 1 > a->window ? last + 1 - a->window : 0;
    *ret_first = first;
    *ret_last = last;
    return page * OPS_PAGE_TOKENS <= last && (page + 1) * OPS_PAGE_TOKENS > first;
}

/* What a block needs of a thread's scratch: queries, two states each, work. */
uint64_t attention_scratch_bytes(void)
{
    return (ATTENTION_QUERIES_MAX + 16ull) * ATTENTION_DIM_MAX * sizeof(float) +
           2ull * ATTENTION_QUERIES_MAX * sizeof(struct attention_state) +
           ATTENTION_WORK_FLOATS * sizeof(float);
}

static void block_begin(const struct ops_device *d, const struct ops_attention *a,
                        struct attention_block *b, uint8_t *scratch)
{
    uint64_t element = cpu_element_bytes(d->config.activation), dim = a->kv.head_dim;
    uint64_t padded = cpu_padded(a->kv.head_dim) * element;
    uint32_t count = b->rows_count * b->group;
    b->queries = scratch;
    scratch += (ATTENTION_QUERIES_MAX + 16ull) * ATTENTION_DIM_MAX * sizeof(float);
    b->states = (struct attention_state *)(void *)scratch;
    b->totals = b->states + ATTENTION_QUERIES_MAX;
    b->work = (float *)(void *)(b->totals + ATTENTION_QUERIES_MAX);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t head = (uint64_t)(b->row_first + i / b->group) * a->heads + b->kv_head * b->group +
                        i % b->group;
        memcpy(b->queries + i * padded, (const uint8_t *)a->q + head * dim * element,
               dim * element);
        memset(b->queries + i * padded + dim * element, 0, padded - dim * element);
    }
    memset(b->queries + count * padded, 0, 16 * padded);
}

static void states_clear(struct attention_state *s, uint32_t count, uint32_t dim)
{
    for (uint32_t i = 0; i < count; i++) {
        s[i].greatest = -INFINITY;
        s[i].sum = 0;
        memset(s[i].values, 0, dim * sizeof(float));
    }
}

/* All rows of the block at one place of their sequences. Returns the pages read. */
static uint32_t place_run(const struct ops_device *d, const struct ops_attention *a,
                          const struct attention_block *b, uint32_t place, attention_page_fn *page)
{
    uint32_t read = 0;
    for (uint32_t i = 0; i < b->rows_count;) {
        uint32_t row = b->row_first + i, end = i + 1, first, last;
        if (place * OPS_PAGE_TOKENS > a->batch.position[row]) {
            i++;
            continue;
        }
        bool seen = attention_sees(a, row, place, &first, &last);
        for (; end < b->rows_count && a->batch.shared_pages[b->row_first + end] > place; end++)
            seen |= attention_sees(a, b->row_first + end, place, &first, &last);
        if (seen) {
            const uint8_t *kv =
                attention_kv(d, &a->kv, attention_page(&a->batch, row, place), b->kv_head);
            page(a, b, place, kv, i, end);
            read++;
        }
        i = end;
    }
    return read;
}

static uint64_t block_run(struct ops_device *d, const struct ops_attention *a,
                          struct attention_block *b, uint8_t *scratch, attention_page_fn *page,
                          attention_span_fn *span)
{
    uint32_t dim = cpu_padded(a->kv.head_dim), count = b->rows_count * b->group;
    uint32_t greatest = 0;
    uint64_t read = 0;
    block_begin(d, a, b, scratch);
    states_clear(b->totals, count, dim);
    states_clear(b->states, count, dim);
    for (uint32_t i = 0; i < b->rows_count; i++)
        if (a->batch.position[b->row_first + i] > greatest)
            greatest = a->batch.position[b->row_first + i];
    uint32_t places = greatest / OPS_PAGE_TOKENS + 1;
    for (uint32_t place = 0; place < places; place++) {
        read += place_run(d, a, b, place, page);
        if ((place + 1) % OPS_SPAN_PAGES && place + 1 < places)
            continue;
        for (uint32_t i = 0; i < count; i++)
            span(&b->totals[i], &b->states[i], dim);
        states_clear(b->states, count, dim);
    }
    return read * cpu_kv_page_bytes(d->config.activation, a->kv.head_dim);
}

void attention_run(struct ops_device *d, const struct ops_attention *a, uint32_t thread,
                   attention_page_fn *page, attention_span_fn *span, attention_write_fn *write)
{
    uint32_t group = a->heads / a->kv.kv_heads;
    uint32_t rows = ATTENTION_QUERIES_MAX / group;
    rows = rows < ATTENTION_ROWS ? rows : ATTENTION_ROWS;
    uint32_t blocks = (a->batch.tokens_count + rows - 1) / rows, items = blocks * a->kv.kv_heads;
    uint64_t bytes = 0;
    for (uint32_t item; (item = cpu_chunk_next(d)) < items;) {
        uint32_t row = item / a->kv.kv_heads * rows, left = a->batch.tokens_count - row;
        struct attention_block b = {.row_first = row,
                                    .rows_count = left < rows ? left : rows,
                                    .kv_head = item % a->kv.kv_heads,
                                    .group = group};
        bytes += block_run(d, a, &b, d->scratch[thread], page, span);
        write(d, a, &b);
    }
    (void)shm_fetch_add_u64(&d->stats.kv_bytes_read, bytes);
}
