/* tests/unit/test_forward.c: the same forward pass on different ground. Logits of every CPU level are
 * close to those of kernels/ref, those of 2 and 4 ranks to those of one; where matrices are bf16 the
 * bound is that of bf16 (docs/NUMERICS.md). */
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/engine/engine_model.h"
#include "kernels/cpu/cpu.h"
#include "kernels/ref/ref.h"
#include "tests/lib/check.h"
#include "tests/lib/schedule.h"
#include "tests/lib/tiny.h"

#define LENGTH 100u /* more than three pages, more than Gemma2's window */
#define F32_BOUND 5e-6f
#define BF16_BOUND 1.5e-2f /* 2 layers of roundings to 8 bits */

static struct engine_config config_of(const char *folder, bool float32, uint32_t ranks_count)
{
    return (struct engine_config){.directory[ENGINE_POLICY] = folder,
                                  .float32 = float32,
                                  .ranks_count = ranks_count,
                                  .threads_count = ranks_count,
                                  .cpu_level = -1,
                                  .rows_max = 1,
                                  .tokens_max = LENGTH,
                                  .kv_bytes = 8u << 20,
                                  .dot_layer = -1};
}

/* Logits of LENGTH tokens in one chunk; ops NULL: what this machine has. */
static float *logits_of(const struct engine_config *config, const struct ops *ops)
{
    char message[ENGINE_MESSAGE_BYTES] = "";
    struct engine *engine;
    struct engine_batch *batch;
    int result = ops ? engine_model_open_on(config, ops, message, &engine)
                     : engine_open(config, message, &engine);
    CHECK(result == 0, "%s", message);
    CHECK(engine_batch_new(engine, &batch) == 0, "no memory");
    float *logits = calloc((size_t)LENGTH * TINY_VOCABULARY, sizeof *logits);
    batch->role = ENGINE_POLICY;
    batch->rows_count = 1;
    batch->tokens_count = LENGTH;
    batch->rows[0] = (struct engine_row){.tokens_count = LENGTH};
    for (uint32_t i = 0; i < LENGTH; i++)
        batch->tokens[i] = (i * 71 + i / 3) % TINY_VOCABULARY;
    for (uint32_t i = 0; i <= LENGTH / OPS_PAGE_TOKENS; i++)
        batch->pages[i] = 5 - i;
    schedule_step(engine, batch, logits);
    engine_batch_free(batch);
    engine_close(engine);
    return logits;
}

/* Greatest difference at one position over the greatest logit there. */
static float distance(const float *a, const float *b)
{
    float worst = 0;
    for (uint32_t t = 0; t < LENGTH; t++) {
        float difference = 0, greatest = 0;
        for (uint32_t i = 0; i < TINY_VOCABULARY; i++) {
            float x = a[t * TINY_VOCABULARY + i], y = b[t * TINY_VOCABULARY + i];
            difference = fmaxf(difference, isfinite(x) ? fabsf(x - y) : INFINITY);
            greatest = fmaxf(greatest, fabsf(y));
        }
        worst = fmaxf(worst, difference / greatest);
    }
    return worst;
}

static void every_level_is_close_to_the_reference(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 2 * TINY_WRITERS_COUNT; i++) {
        bool float32 = i % 2 == 0;
        char *folder = tiny_write(i / 2, 7);
        struct engine_config config = config_of(folder, float32, 1);
        float *want = logits_of(&config, ref_ops());
        for (uint32_t level = 0; level < CPU_LEVEL_COUNT; level++) {
            const struct ops *ops = cpu_ops(level);
            if (!ops)
                continue;
            float *got = logits_of(&config, ops);
            float far = distance(got, want);
            printf("kind %u %s %s: %.2g\n", i / 2, float32 ? "float32" : "bf16", ops->name,
                   (double)far);
            CHECK(far <= (float32 ? F32_BOUND : BF16_BOUND), "%s: %g from the reference", ops->name,
                  (double)far);
            free(got);
        }
        free(want);
        tiny_remove(folder);
    }
}

static void ranks_are_close_to_one_rank(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 2 * TINY_WRITERS_COUNT; i++) {
        bool float32 = i % 2 == 0;
        char *folder = tiny_write(i / 2, 7);
        struct engine_config config = config_of(folder, float32, 1);
        float *want = logits_of(&config, NULL);
        for (uint32_t ranks = 2; ranks <= 4; ranks *= 2) {
            config = config_of(folder, float32, ranks);
            float *got = logits_of(&config, NULL), *again = logits_of(&config, NULL);
            float far = distance(got, want);
            printf("kind %u %s, %u ranks: %.2g\n", i / 2, float32 ? "float32" : "bf16", ranks,
                   (double)far);
            CHECK(far <= (float32 ? F32_BOUND : BF16_BOUND), "%u ranks: %g from one", ranks,
                  (double)far);
            CHECK(memcmp(got, again, (size_t)LENGTH * TINY_VOCABULARY * sizeof(float)) == 0,
                  "%u ranks: two runs differ", ranks);
            free(got);
            free(again);
        }
        free(want);
        tiny_remove(folder);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_level_is_close_to_the_reference),
        cmocka_unit_test(ranks_are_close_to_one_rank),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
