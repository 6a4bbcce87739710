/* timeout: 300 */
/* tests/unit/test_cuda_places.c: all of tests/unit/test_engine_places.c on the CUDA backend, its kernels run on the
 * host (tests/gpu/emulate), on three devices. And loading onto a device: a stage is filled again only when it was
 * read; each call of the runtime fails once, then the engine is refused with the call's name, and nothing stays
 * allocated; out of memory for a graph names the option that decides how much there is. */
#include "kernels/ops.h"
#include "tests/gpu/emulate/emulated.h"

#if EMULATION_OFF
#include "tests/lib/check.h"
int main(void)
{
    check_skip(EMULATION_SKIPPED);
}
#else
struct engine_config;
static const struct ops *ops_of(const struct engine_config *config);
#define PLACES_OPS(config) ops_of(config)
#define main places_main
int places_main(void);
#include "tests/unit/test_engine_places.c"
#undef main

/* The devices that backend.h's places have, in their order. */
static const struct ops *ops_of(const struct engine_config *c)
{
    int devices[4];
    uint32_t count = 0;
    for (uint32_t r = 0; r < c->ranks_count; r++)
        devices[count++] = (int)(c->device + r);
    for (uint32_t i = 1; i < ENGINE_ROLE_COUNT; i++) {
        int gpu = (int)c->role_device[i] - 1;
        if (gpu >= (int)c->ranks_count && devices[count - 1] != gpu)
            devices[count++] = gpu;
    }
    fake_reset(&(struct fake_config){
        .seed = 1, .devices_count = 3, .memory_bytes = 1u << 30, .shared_bytes_max = 99u << 10});
    return emulated_ops(count, devices);
}

enum { OPENED = 0, REFUSED = 2, REFUSED_GRAPH = 3 };

struct failing {
    uint32_t call;
    int error;
};

/* Memory for recordings is asked of the cache's option. True: it was for one. */
static bool graph_fails(const struct failing *f, int result, const char *message)
{
    const char *call = fake_failed_call();
    if (strcmp(call, "cudaGraphInstantiate") != 0 && strcmp(call, "cudaGraphUpload") != 0)
        return false;
    bool memory = f->error == CUDA_API_MEMORY;
    CHECK(result == (memory ? -ENOMEM : -EIO), "%s: %d", call, result);
    CHECK(!memory == !strstr(message, "[engine] kv_bytes = "), "%s: \"%s\"", call, message);
    return true;
}

/* In a process of its own: the backend keeps the first failure for ever. */
static int failing_open(void *argument)
{
    const struct failing *f = argument;
    const uint32_t *call = &f->call;
    const int devices[2] = {0, 1};
    char message[ENGINE_MESSAGE_BYTES] = "";
    struct engine_config config = config_of(1, 1, 0);
    struct engine *engine = NULL;
    bool of_graph = false;
    config.directory[ENGINE_EMBED] = NULL;
    fake_reset(&(struct fake_config){.seed = 1,
                                     .devices_count = 2,
                                     .memory_bytes = 1u << 30,
                                     .shared_bytes_max = 99u << 10,
                                     .idle = true,
                                     .fail_call = *call,
                                     .fail_error = f->error});
    int result = engine_model_open_on(&config, emulated_ops(2, devices), message, &engine);
    if (result == 0) {
        engine_close(engine);
    } else {
        char text[CUDA_TEXT_BYTES];
        dynasor_cuda_failure(text);
        CHECK(!engine && strstr(text, fake_failed_call()), "%s: %s", fake_failed_call(), text);
        CHECK(message[0], "call %u: nothing said", *call);
        of_graph = graph_fails(f, result, message);
    }
    CHECK(fake_counts().live == 0, "call %u, %s: %llu things are left", *call, fake_failed_call(),
          (unsigned long long)fake_counts().live);
    if (of_graph)
        return REFUSED_GRAPH;
    return result == 0 && fake_failed_call()[0] == '\0' ? OPENED : REFUSED;
}

/* A failure of what is given back at the end is not told. */
static void each_call_of_loading_may_fail(void **state)
{
    struct failing f = {1, FAKE_ERROR};
    uint32_t graphs = 0;
    int status = REFUSED;
    (void)state;
    (void)fflush(stdout); /* else the children print it again */
    for (; status != OPENED; f.call++) {
        status = child_wait(child_start(failing_open, &f));
        CHECK(status == OPENED || status == REFUSED || status == REFUSED_GRAPH, "call %u", f.call);
        if (status != REFUSED_GRAPH)
            continue;
        struct failing memory = {f.call, CUDA_API_MEMORY};
        CHECK(child_wait(child_start(failing_open, &memory)) == REFUSED_GRAPH, "call %u", f.call);
        graphs++;
    }
    printf("%u calls, %u of graphs\n", f.call - 2, graphs);
    CHECK(f.call > 150 && graphs >= 2, "%u calls, %u of graphs", f.call, graphs);
}

#define ROWS 8u
#define ROUNDS 40u
#define COLUMNS 64u
#define SOURCE_COLUMNS 80u /* the matrix is columns 16 to 79 of it */

/* Streams work late: what is written too early to a stage is found in the matrix. */
static void a_stage_is_read_before_it_is_filled_again(void **state)
{
    static uint16_t out[ROUNDS * ROWS * COLUMNS];
    const int devices[1] = {0};
    struct ops_device *device;
    void *stages = NULL;
    (void)state;
    fake_reset(&(struct fake_config){
        .seed = 1, .devices_count = 1, .memory_bytes = 1u << 30, .shared_bytes_max = 99u << 10});
    const struct ops *ops = emulated_ops(1, devices);
    struct ops_config config = {
        .slab_bytes = 1u << 20, .activation = OPS_BF16, .rows_max = 1, .vocabulary_max = 1};
    CHECK(ops->open(&config, &device) == 0 && ops->stages_open(device, &stages) == 0, "no device");
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint32_t stage = i % OPS_STAGES;
        CHECK(ops->stage_wait(device, stage) == 0, "it broke");
        float *source = (float *)(void *)((uint8_t *)stages + (size_t)stage * OPS_STAGE_BYTES);
        for (uint32_t k = 0; k < ROWS * SOURCE_COLUMNS; k++)
            source[k] = (float)(i + k % SOURCE_COLUMNS); /* exact in bf16 */
        const struct ops_load load = {
            .matrix = {.data = ops->slab(device), .n = ROUNDS * ROWS, .k = COLUMNS},
            .row_first = i * ROWS,
            .rows_count = ROWS,
            .host_source = source + SOURCE_COLUMNS - COLUMNS,
            .source_dtype = OPS_F32,
            .source_stride = SOURCE_COLUMNS,
            .stage = 1 + stage};
        CHECK(ops->load(device, &load) == 0, "it broke");
    }
    CHECK(ops->sync(device) == 0, "it broke");
    ops->copy_out(device, out, ops->slab(device), sizeof out);
    CHECK(ops->sync(device) == 0, "it broke");
    for (uint32_t i = 0; i < COUNT_OF(out); i++) {
        uint32_t bits = (uint32_t)out[i] << 16;
        float got, wanted = (float)(i / (ROWS * COLUMNS) + i % COLUMNS + SOURCE_COLUMNS - COLUMNS);
        memcpy(&got, &bits, sizeof got);
        CHECK(got == wanted, "row %u, column %u: %g, wanted %g", i / COLUMNS, i % COLUMNS,
              (double)got, (double)wanted);
    }
    ops->stages_close(device);
    ops->close(device);
    CHECK(fake_counts().live == 0, "something is left");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stage_is_read_before_it_is_filled_again),
        cmocka_unit_test(each_call_of_loading_may_fail),
    };
    folders[ENGINE_POLICY] = tiny_write(TINY_LLAMA, 1);
    folders[ENGINE_REWARD] = tiny_write(TINY_REWARD, 2);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    tiny_remove(folders[ENGINE_POLICY]);
    tiny_remove(folders[ENGINE_REWARD]);
    return failed + places_main();
}
#endif
