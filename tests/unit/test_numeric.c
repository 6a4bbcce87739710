/* tests/unit/test_numeric.c: a NaN anywhere in what a token attends to ends in a row that says so, at every
 * level, in both types: it is never left out of a sum. The last page of a short and the first of a long
 * sequence are poisoned while everything else is sound. */
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "daemon/engine/engine_model.h"
#include "kernels/cpu/cpu.h"
#include "tests/lib/check.h"

static void step(struct engine *engine, struct engine_batch *b)
{
    CHECK(engine_post(engine, b, 0) == ENGINE_OK, "busy");
    struct pollfd fd = {.fd = engine_fd(engine, b->role), .events = POLLIN};
    while (!engine_next(engine, b->role, 0))
        (void)poll(&fd, 1, 1000);
}

/* Whether the token after length others is numeric, with one page poisoned before it; OPS_NONE: none. */
static uint32_t numeric_after(struct engine *engine, struct engine_batch *b, uint32_t length,
                              uint32_t poisoned)
{
    for (uint32_t at = 0; at <= length; at += at == 0 ? length : 1) {
        uint32_t count = at == 0 ? length : 1;
        b->role = ENGINE_POLICY;
        b->rows_count = 1;
        b->tokens_count = count;
        b->freed_count = at && poisoned != OPS_NONE;
        b->freed[0] = poisoned;
        b->rows[0] = (struct engine_row){
            .tokens_count = count,
            .position = at,
            .want = ENGINE_WANT_TOKEN,
            .sampling = {.top_p = 1, .repetition = 1, .forced_token = OPS_NONE}};
        for (uint32_t i = 0; i < count; i++)
            b->tokens[i] = 3 + i % 200;
        for (uint32_t i = 0; i < b->pages_stride; i++)
            b->pages[i] = i;
        step(engine, b);
    }
    return b->outputs[0].sampled.numeric;
}

static void numeric_nan_in_any_page_shows_in_the_row(void **state)
{
    (void)state;
    for (uint32_t n = 0; n < 2 * CPU_LEVEL_COUNT; n++) {
        const struct ops *ops = cpu_ops((enum cpu_level)(n / 2));
        if (!ops)
            continue;
        struct engine *engine;
        struct engine_batch *batch;
        char message[ENGINE_MESSAGE_BYTES] = "";
        struct engine_config config = {.directory = {"tests/golden/models/llama2"},
                                       .float32 = n % 2,
                                       .ranks_count = 1,
                                       .rows_max = 1,
                                       .tokens_max = 256,
                                       .kv_bytes = 1u << 20,
                                       .dot_layer = -1};
        CHECK(engine_model_open_on(&config, ops, message, &engine) == 0, "%s", message);
        CHECK(engine_batch_new(engine, &batch) == 0, "no memory");
        assert_int_equal(numeric_after(engine, batch, 20, OPS_NONE), 0);
        assert_int_equal(numeric_after(engine, batch, 200, OPS_NONE), 0);
        assert_int_equal(numeric_after(engine, batch, 20, 0), 1);
        assert_int_equal(numeric_after(engine, batch, 200, 0), 1);
        assert_int_equal(numeric_after(engine, batch, 200, 3), 1);
        engine_batch_free(batch);
        engine_close(engine);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numeric_nan_in_any_page_shows_in_the_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
