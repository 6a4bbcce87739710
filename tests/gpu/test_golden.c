/* tests/gpu/test_golden.c: the engine on a GPU. Every golden model against PyTorch as tests/unit/test_golden_models.c
 * holds the CPU to it; one of them on two ranks that share the GPU, and on two GPUs where there are so many;
 * and the shipped model, greedy in float32,
 * writes the tokens that it writes on the CPU. */
/* serial */
/* timeout: 600 */
#define main golden_main
int golden_main(void);
#define engine_open engine_on_gpu /* its declaration too */
#include "tests/unit/test_golden_models.c"
#undef main
#undef engine_open

#include "kernels/cpu/cpu.h"
#include "tests/gpu/backend.h"

#define PROMPTS 8u
#define PROMPT_TOKENS 24u
#define GREEDY_TOKENS 100u

static const struct ops *gpu;
static uint32_t ranks_count = 1;
static bool on_cpu;

int engine_on_gpu(const struct engine_config *config, char message[ENGINE_MESSAGE_BYTES],
                  struct engine **ret_engine)
{
    struct engine_config c = *config;
    c.ranks_count = ranks_count;
    return engine_model_open_on(&c, on_cpu ? cpu_ops(CPU_SCALAR) : gpu, message, ret_engine);
}

static void two_ranks_on_a_gpu_agree_with_the_reference(void **state)
{
    const struct model *m = models;
    struct golden g = golden_read("llama3");
    struct rig r;
    (void)state;
    while (strcmp(m->name, "llama3") != 0)
        m++;
    ranks_count = 2;
    for (uint32_t float32 = 0; float32 < 2; float32++) {
        double bound = bound_of(m, float32), tie = 2 * bound * (double)greatest_of(&g);
        rig_open(&r, m, &g, float32);
        double worst = run_logits(&r, &g);
        uint32_t wrong = run_greedy(&r, &g, tie);
        CHECK(worst <= bound && !wrong, "%.2g of the greatest, at most %.2g; %u tokens differ",
              worst, bound, wrong);
        rig_close(&r);
    }
    ranks_count = 1;
    golden_free(&g);
}

static void two_ranks_on_two_gpus_agree_with_the_reference(void **state)
{
    const struct ops *kept = gpu;
    gpu = gpu_ops_apart(2);
    if (!gpu) {
        gpu = kept;
        skip(); /* there is one GPU */
    }
    two_ranks_on_a_gpu_agree_with_the_reference(state);
    gpu = gpu_ops(2);
}

/* Of one prompt of any tokens; tokens: the prompt, then room for what is written. */
static void write_greedily(struct rig *r, uint32_t *tokens)
{
    for (uint32_t n = 0; n < GREEDY_TOKENS; n++) {
        fill(r, tokens, n ? PROMPT_TOKENS + n - 1 : 0, n ? 1 : PROMPT_TOKENS, ENGINE_WANT_TOKEN);
        step(r);
        tokens[PROMPT_TOKENS + n] = r->batch->outputs[0].sampled.token;
    }
}

static void shipped_model_writes_the_cpus_tokens(void **state)
{
    static uint32_t tokens[2][PROMPTS][PROMPT_TOKENS + GREEDY_TOKENS];
    const struct golden as_policy = {.kind = LOGITS};
    const struct model *shipped = models;
    (void)state;
    while (strcmp(shipped->name, "reasoner-policy") != 0)
        shipped++;
    for (uint32_t side = 0; side < 2; side++) {
        struct rng rng = {1};
        struct rig r;
        on_cpu = side == 0;
        rig_open(&r, shipped, &as_policy, true);
        for (uint32_t p = 0; p < PROMPTS; p++) {
            for (uint32_t i = 0; i < PROMPT_TOKENS; i++)
                tokens[side][p][i] = (uint32_t)rng_below(&rng, r.info.vocabulary);
            write_greedily(&r, tokens[side][p]);
        }
        rig_close(&r);
    }
    on_cpu = false;
    CHECK(memcmp(tokens[0], tokens[1], sizeof tokens[0]) == 0, "other tokens");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(models_agree_with_the_reference_in_float32),
        cmocka_unit_test(models_agree_with_the_reference_in_bf16),
        cmocka_unit_test(two_ranks_on_a_gpu_agree_with_the_reference),
        cmocka_unit_test(two_ranks_on_two_gpus_agree_with_the_reference),
        cmocka_unit_test(shipped_model_writes_the_cpus_tokens),
    };
    gpu = gpu_ops(2);
    (void)golden_main;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
