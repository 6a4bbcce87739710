/* Whole texts as rows of the reward role; every batch uses the cache's pages from the first on. */
#include <poll.h>
#include <string.h>

#include "daemon/base/clock.h"
#include "tests/bench/dynasor/options.h"
#include "tests/bench/reasoner/reasoner.h"

void scorer_run(struct engine *engine, struct scored *items, uint32_t count, const char *progress)
{
    struct progress said = {progress, "texts scored", clock_now_ns(), clock_now_ns()};
    struct engine_batch *b;
    struct engine_info info;
    engine_info(engine, ENGINE_REWARD, &info);
    if (engine_batch_new(engine, &b) != 0)
        fail("no memory for a batch");
    for (uint32_t next = 0; next < count;) {
        uint32_t first = next, page = 0;
        b->role = ENGINE_REWARD;
        b->rows_count = b->tokens_count = b->copies_count = b->freed_count = 0;
        b->history_count = b->biases_count = 0;
        while (next < count && b->rows_count < REASONER_ROWS &&
               b->tokens_count + items[next].count <= REASONER_BATCH_TOKENS) {
            const struct scored *item = &items[next++];
            uint32_t pages = (item->count + OPS_PAGE_TOKENS - 1) / OPS_PAGE_TOKENS;
            if (page + pages > info.kv_pages)
                fail("the reward model's cache is too small");
            for (uint32_t i = 0; i < pages; i++)
                b->pages[(size_t)b->rows_count * b->pages_stride + i] = page++;
            memset(b->score + b->tokens_count, 0, item->count);
            b->score[b->tokens_count + item->count - 1] = 1;
            memcpy(b->tokens + b->tokens_count, item->tokens, item->count * sizeof(uint32_t));
            b->rows[b->rows_count++] = (struct engine_row){
                .seq = next, .tokens_first = b->tokens_count, .tokens_count = item->count};
            b->tokens_count += item->count;
        }
        if (next == first)
            fail("a text of %u tokens is too long for the reward model", items[next].count);
        if (engine_post(engine, b, clock_now_ns()) != ENGINE_OK)
            fail("the engine is busy");
        while (!engine_next(engine, b->role, clock_now_ns())) {
            struct pollfd fd = {.fd = engine_fd(engine, b->role), .events = POLLIN};
            (void)poll(&fd, 1, -1); /* interrupted: asked again */
        }
        for (uint32_t r = 0, end = 0; r < b->rows_count; r++) {
            end += b->rows[r].tokens_count;
            items[first + r].last = b->scores[end - 1];
        }
        progress_say(&said, next, count);
    }
    engine_batch_free(b);
}
