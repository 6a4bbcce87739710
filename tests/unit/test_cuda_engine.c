/* tests/unit/test_cuda_engine.c: the real engine on the CUDA backend, its kernels run on the host
 * (tests/gpu/emulate): a golden model against PyTorch, held to the bounds of tests/unit/test_golden_models.c, in
 * float32 and bf16, greedy tokens the same; two ranks on one device likewise; more memory than the device has
 * is refused; a device that breaks in a step gives no batch back, and the engine says what broke. */
/* timeout: 300 */
#define main golden_main
int golden_main(void);
#define engine_open engine_on_cuda /* its declaration too */
#include "tests/unit/test_golden_models.c"
#undef main

#include "tests/gpu/emulate/emulated.h"

#if EMULATION_OFF
int main(void)
{
    (void)golden_main;
    check_skip(EMULATION_SKIPPED);
}
int engine_on_cuda(const struct engine_config *config, char message[ENGINE_MESSAGE_BYTES],
                   struct engine **ret_engine)
{
    (void)config, (void)message, (void)ret_engine;
    return -1;
}
#else

#define GREEDY 12u /* of 64: a token costs the emulation a tenth of a second */

static uint32_t ranks_count = 1;

int engine_on_cuda(const struct engine_config *config, char message[ENGINE_MESSAGE_BYTES],
                   struct engine **ret_engine)
{
    static const int devices[2] = {0, 0};
    struct engine_config c = *config;
    c.ranks_count = ranks_count;
    c.tokens_max = 96;
    fake_reset(&(struct fake_config){
        .seed = 1, .devices_count = 1, .memory_bytes = 1u << 30, .shared_bytes_max = 99u << 10});
    return engine_model_open_on(&c, emulated_ops(ranks_count, devices), message, ret_engine);
}

static const struct model *model_named(const char *name)
{
    const struct model *m = models;
    while (strcmp(m->name, name) != 0)
        m++;
    return m;
}

static void model_agrees(const char *name, bool float32)
{
    const struct model *m = model_named(name);
    struct golden g = golden_read(name);
    struct rig r;
    double bound = bound_of(m, float32);
    uint64_t begin = now_ns();
    rig_open(&r, m, &g, float32);
    double worst = run_logits(&r, &g);
    g.greedy_count = g.greedy_count < GREEDY ? g.greedy_count : GREEDY;
    uint32_t wrong = run_greedy(&r, &g, 2 * bound * (double)greatest_of(&g));
    printf("%s, %u ranks, %s: %.2g of the greatest, at most %.2g; %u of %u tokens differ; %.1f s\n",
           name, ranks_count, float32 ? "float32" : "bf16", worst, bound, wrong, g.greedy_count,
           (double)(now_ns() - begin) / 1e9);
    CHECK(worst <= bound && !wrong, "too far off");
    rig_close(&r);
    golden_free(&g);
}

static void one_rank_agrees_with_the_reference(void **state)
{
    (void)state;
    ranks_count = 1;
    model_agrees("llama3", true);
    model_agrees("llama3", false);
}

static void two_ranks_on_a_device_agree_with_the_reference(void **state)
{
    (void)state;
    ranks_count = 2;
    model_agrees("llama3", true);
    model_agrees("llama3", false);
}

/* The call that fails lies in the second step. */
static int breaking_run(void *argument)
{
    struct golden g = golden_read("llama3");
    struct rig r;
    (void)argument;
    ranks_count = 2;
    rig_open(&r, model_named("llama3"), &g, true);
    fill(&r, g.tokens, 0, 4, ENGINE_WANT_TOKEN);
    step(&r);
    CHECK(!engine_failure(r.engine), "it broke too early");
    fake_fail(fake_counts().calls + 30, FAKE_ERROR);
    fill(&r, g.tokens, 4, 4, ENGINE_WANT_TOKEN);
    CHECK(engine_post(r.engine, r.batch, 0) == ENGINE_OK, "busy");
    struct pollfd fd = {.fd = engine_fd(r.engine, ENGINE_POLICY), .events = POLLIN};
    uint64_t begin = now_ns();
    while (!engine_failure(r.engine)) {
        CHECK(!engine_next(r.engine, ENGINE_POLICY, 0), "a batch of a broken device came back");
        CHECK(now_ns() - begin < 60 * NS_PER_S, "nobody says that it broke");
        (void)poll(&fd, 1, 10);
    }
    char text[CUDA_TEXT_BYTES];
    dynasor_cuda_failure(text);
    printf("%s; %s\n", engine_failure(r.engine), text);
    CHECK(strstr(text, fake_failed_call()), "the call is not named");
    CHECK(!engine_next(r.engine, ENGINE_POLICY, 0), "a batch of a broken device came back");
    rig_close(&r);
    golden_free(&g);
    return 0;
}

static void a_device_that_breaks_in_a_step_ends_the_engine(void **state)
{
    (void)state;
    CHECK(child_wait(child_start(breaking_run, NULL)) == 0, "status");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_rank_agrees_with_the_reference),
        cmocka_unit_test(two_ranks_on_a_device_agree_with_the_reference),
        cmocka_unit_test(a_device_that_breaks_in_a_step_ends_the_engine),
    };
    (void)golden_main;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
