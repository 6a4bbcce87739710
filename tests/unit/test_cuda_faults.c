/* tests/unit/test_cuda_faults.c: what the CUDA backend makes of errors. Over the emulation, everything that
 * calls the runtime or NCCL runs once for each of its calls, which fails: alone, and with all calls after it;
 * with an error of each class on one rank, on two with those that may be mistaken for each other. Then the
 * device says so in open(), load() or sync() and for ever after, dynasor_cuda_failure() names the call, the
 * library and its number, both ranks of a group end, and closing gives all back. A device that hangs, from
 * any call on, is given up at the limit, and closing touches it no more. Each run is a process of its own, as
 * the words are kept once for each process.
 *
 * Two ranks are two threads, whose calls come in another order in each run. So with two a number is not always the
 * same call, those that a run makes fewer of are not counted, nor is asked which error of two the device keeps; a
 * rank whose call comes behind one that fails for good may say it first, then words suffice. With any number
 * of ranks a call of closing, from which nobody learns, counts as right. */
/* timeout: 300 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/gpu/emulate/emulated.h"
#include "tests/lib/check.h"

#if EMULATION_OFF
int main(void)
{
    check_skip(EMULATION_SKIPPED);
}
#else

#define RANKS 2u
#define COLUMNS 64u
#define ROWS 3u
/* What a process says beside 0 and 1. */
enum { IN_CLOSING = 40, NO_SUCH_CALL = 41 };

#define SLAB_BYTES (1u << 20)

#define NOT_READY 600

struct fault {
    uint64_t call; /* from 1; 0: none */
    int error;     /* 0: FAKE_ERROR */
    int comm_error;
    bool stays;
    bool ranks;     /* two, in threads */
    bool nccl;      /* on a device each, otherwise both on one */
    bool hangs;     /* once everything is open */
    bool hang_call; /* call is where it begins to hang, and does not fail */
};

struct rank {
    const struct ops *ops;
    struct ops_group *group;
    uint32_t number;
    const struct fault *fault;
    struct ops_device *device;
    int result;
    uint64_t calls; /* up to where it begins to close */
};

/* Launches of each kind that takes another way to the runtime. */
static void launch_all(const struct ops *ops, struct ops_device *d, uint8_t *slab, bool ranks)
{
    const float *x = (const float *)(const void *)slab;
    struct ops_matrix w = {.data = slab + 65536, .n = COLUMNS, .k = COLUMNS};
    struct ops_kv kv = {
        .data = slab + 131072, .pages_count = 2, .kv_heads = 1, .head_dim = COLUMNS};
    struct ops_page_copy copy = {.from = 0, .to = 1, .valid_tokens = 5};
    uint32_t pages[1] = {0};
    ops->gemm(d, &(struct ops_gemm){
                     .y = (float *)(void *)(slab + 32768), .x = x, .w = w, .rows_count = ROWS});
    ops->pages_poison(d,
                      &(struct ops_pages_poison){.kv = kv, .host_pages = pages, .pages_count = 1});
    ops->pages_copy(d, &(struct ops_pages_copy){.kv = kv, .host_copies = &copy, .copies_count = 1});
    if (ranks) {
        ops->all_reduce(d, &(struct ops_all_reduce){.x = (float *)(void *)(slab + 32768),
                                                    .count = ROWS * COLUMNS});
        ops->all_gather(d, &(struct ops_all_gather){.out = (float *)(void *)(slab + 49152),
                                                    .in = x,
                                                    .rows_count = ROWS,
                                                    .columns = COLUMNS});
    }
}

static void step_launch(const struct ops *ops, struct ops_device *d, uint8_t *slab, bool ranks)
{
    struct ops_matrix w = {.data = slab + 65536, .n = COLUMNS, .k = COLUMNS};
    ops->gemm(d, &(struct ops_gemm){.y = (float *)(void *)(slab + 32768),
                                    .x = (const float *)(const void *)slab,
                                    .w = w,
                                    .rows_count = ROWS});
    if (ranks)
        ops->all_reduce(d, &(struct ops_all_reduce){.x = (float *)(void *)(slab + 32768),
                                                    .count = ROWS * COLUMNS});
}

/* As daemon/engine/forward.c does: launched as it comes where it is not recorded. */
static void graph_use(const struct ops *ops, struct ops_device *d, uint8_t *slab, bool ranks)
{
    if (ops->graph_begin(d, 3)) {
        step_launch(ops, d, slab, ranks);
        ops->graph_end(d);
    }
    for (uint32_t i = 0; i < 2; i++)
        if (!ops->graph_run(d, 3))
            step_launch(ops, d, slab, ranks);
}

static int rank_use(struct rank *r, struct ops_device *d)
{
    static float values[COLUMNS * COLUMNS], out[ROWS * COLUMNS];
    uint8_t *slab = r->ops->slab(d);
    struct ops_load load = {.matrix = {.data = slab + 65536, .n = COLUMNS, .k = COLUMNS},
                            .rows_count = COLUMNS,
                            .host_source = values,
                            .source_dtype = OPS_F32,
                            .source_stride = COLUMNS};
    int loaded = r->ops->load(d, &load);
    if (r->fault->hangs)
        fake_hang();
    r->ops->copy_in(d, slab, values, ROWS * COLUMNS * sizeof(float));
    launch_all(r->ops, d, slab, r->fault->ranks);
    graph_use(r->ops, d, slab, r->fault->ranks);
    r->ops->copy_out(d, r->number ? values : out, slab + 32768, sizeof out);
    int first = r->ops->sync(d), second = r->ops->sync(d);
    r->calls = fake_counts().calls;
    CHECK(!loaded || first == loaded, "load() said %d, sync() %d", loaded, first);
    CHECK(!first || second == first, "sync() said %d, then %d", first, second);
    return second;
}

static int rank_open(struct rank *r)
{
    struct ops_config config = {.slab_bytes = SLAB_BYTES,
                                .rank = r->number,
                                .group = r->group,
                                .rows_max = ROWS,
                                .vocabulary_max = COLUMNS,
                                .k_max = COLUMNS};
    return r->result = r->ops->open(&config, &r->device);
}

static void *rank_run(void *argument)
{
    struct rank *r = argument;
    r->result = rank_use(r, r->device);
    return NULL;
}

/* As the daemon does: ranks open one after the other, then each has its thread. */
static int ranks_run(struct rank *ranks, uint32_t count)
{
    pthread_t threads[RANKS];
    int result = 0;
    for (uint32_t i = 0; i < count && !result; i++)
        result = rank_open(&ranks[i]);
    for (uint32_t i = 0; i < count && !result; i++)
        CHECK(pthread_create(&threads[i], NULL, rank_run, &ranks[i]) == 0, "thread");
    for (uint32_t i = 0; i < count && !result; i++)
        (void)pthread_join(threads[i], NULL); /* it was created just now */
    for (uint32_t i = 0; i < count; i++)
        result = result ? result : ranks[i].result;
    /* What hangs after the last wait is found by nobody, and freeing would wait. */
    for (uint32_t i = 0; i < count && (result || !ranks[0].fault->hang_call); i++)
        if (ranks[i].device)
            ranks[i].ops->close(ranks[i].device);
    return result;
}

/* The calls that can be seen to fail: all before closing. */
static uint64_t calls_before_close(const struct rank *ranks, uint32_t count)
{
    uint64_t calls = UINT64_MAX;
    for (uint32_t i = 0; i < count; i++)
        calls = ranks[i].calls < calls ? ranks[i].calls : calls;
    return calls;
}

/* A rank may see that the other gave up before its own time is over. */
static int outcome_hang(const struct fault *f, int result, const char *text)
{
    CHECK(result == -ETIMEDOUT || (f->ranks && result < 0), "%d, \"%s\"", result, text);
    CHECK(strstr(text, "timed out"), "\"%s\"", text);
    return 0;
}

static int outcome_fault(const struct fault *f, int result, const char *text)
{
    const char *call = fake_failed_call();
    bool of_nccl = strncmp(call, "nccl", 4) == 0, question = strstr(call, "Query") != NULL;
    int error = of_nccl ? (f->comm_error ? f->comm_error : FAKE_COMM_ERROR)
                        : (f->error ? f->error : FAKE_ERROR);
    int wanted = of_nccl ? -ECOMM : error == CUDA_API_MEMORY ? -ENOMEM : -EIO;
    char number[32];
    if (!of_nccl && question && f->error == NOT_READY) {
        CHECK(f->stays ? result < 0 : result == 0, "not ready, and %d, \"%s\"", result, text);
        return 0;
    }
    CHECK(result < 0, "%s failed, and nobody says so", call);
    /* A rank whose call comes after the failing one may say it first. */
    if (f->stays && f->ranks && !strstr(text, call))
        return text[0] ? 0 : 1;
    (void)snprintf(number, sizeof number, "%s error %d,", of_nccl ? "NCCL" : "CUDA", error);
    CHECK(strstr(text, call) && strstr(text, number), "%s failed with %s and the words are \"%s\"",
          call, number, text);
    CHECK(result == wanted || f->ranks, "%s: %d instead of %d", call, result, wanted);
    return 0;
}

static int outcome(const struct fault *f, int result, uint64_t calls)
{
    char text[CUDA_TEXT_BYTES];
    struct fake_counts counts = fake_counts();
    dynasor_cuda_failure(text);
    if (f->hangs)
        return outcome_hang(f, result, text);
    if (f->hang_call) {
        if (counts.calls < f->call)
            return NO_SUCH_CALL;
        return result == 0 ? IN_CLOSING : outcome_hang(f, result, text);
    }
    bool waits = f->error == NOT_READY && f->stays; /* for ever, if it was a question */
    CHECK(counts.live == 0 || (waits && strstr(text, "waiting")),
          "%" PRIu64 " things were not given back", counts.live);
    if (!f->call) {
        CHECK(result == 0 && !text[0], "no fault, and %d, \"%s\"", result, text);
        return 0;
    }
    if (!fake_failed_call()[0]) /* threads have made fewer calls this time */
        return NO_SUCH_CALL;
    if (f->call > calls)
        return IN_CLOSING; /* in closing, where nobody asks any more */
    return outcome_fault(f, result, text);
}

static int fault_run(void *argument)
{
    static const int one[RANKS] = {0, 0}, two[RANKS] = {0, 1};
    const struct fault *f = argument;
    uint32_t count = f->ranks ? RANKS : 1;
    struct rank ranks[RANKS] = {0};
    struct ops_group *group = NULL;
    fake_reset(
        &(struct fake_config){.seed = 1,
                              .devices_count = RANKS,
                              .shared_bytes_max = 99u << 10,
                              .lean = true,
                              .fail_call = f->hang_call ? 0 : f->call,
                              .fail_error = f->error ? f->error : FAKE_ERROR,
                              .fail_comm_error = f->comm_error,
                              .fail_stays = f->stays,
                              .hang_call = f->hang_call ? f->call : 0,
                              .virtual_time = f->hangs || f->hang_call || f->error == NOT_READY,
                              .has_nccl = f->nccl});
    const struct ops *ops = emulated_ops(RANKS, f->nccl ? two : one);
    int result = f->ranks ? ops->group_new(count, &group) : 0;
    for (uint32_t i = 0; i < count; i++)
        ranks[i] =
            (struct rank){.ops = ops, .group = group, .number = i, .fault = f, .calls = UINT64_MAX};
    if (!result)
        result = ranks_run(ranks, count);
    if (group && (result || !f->hang_call))
        ops->group_free(group);
    return outcome(f, result, calls_before_close(ranks, count));
}

#define AT_ONCE 8u      /* children: they wait more than they work */
#define CALLS_MAX 5000u /* of one way through: more would be a sweep that does not end */

static uint32_t wrong_count;

/* Every call of one way through; returns how many there were. */
static uint32_t sweep(struct fault fault, uint32_t *ret_closing)
{
    uint32_t sites = 0;
    bool more = true;
    *ret_closing = 0;
    for (uint64_t call = 1; more && call < CALLS_MAX; call += AT_ONCE) {
        pid_t children[AT_ONCE];
        for (uint32_t i = 0; i < AT_ONCE; i++) {
            fault.call = call + i;
            children[i] = child_start(fault_run, &fault);
        }
        for (uint32_t i = 0; i < AT_ONCE; i++) {
            int status = child_wait(children[i]);
            more = more && status != NO_SUCH_CALL;
            sites += status != NO_SUCH_CALL;
            *ret_closing += status == IN_CLOSING;
            if (status == 0 || status == IN_CLOSING || status == NO_SUCH_CALL)
                continue;
            wrong_count++;
            printf("call %" PRIu64 "%s%s: status %d\n", call + i,
                   fault.hang_call ? " hanging" : " failing", fault.stays ? " for good" : "",
                   status);
        }
    }
    return sites;
}

static uint32_t all_count;

static void way_sweep(struct fault way, const char *name)
{
    struct fault none = way;
    uint32_t closing;
    none.hang_call = false;
    CHECK(child_wait(child_start(fault_run, &none)) == 0, "without a fault");
    uint32_t sites = sweep(way, &closing);
    CHECK(sites > 20 && closing < sites, "only %u calls, %u of them in closing", sites, closing);
    printf("%s%s%s, %s: %u calls, %u of them in closing\n", way.ranks ? "two ranks" : "one rank",
           way.nccl ? ", nccl" : "", way.stays ? ", for good" : "", name, sites, closing);
    all_count += sites;
}

/* Numbers of the runtime; those up to 6 are also NCCL's. */
static const struct {
    int error;
    const char *name;
} classes[] = {{FAKE_ERROR, "launch failure"},
               {700, "illegal address"},
               {CUDA_API_MEMORY, "out of memory"},
               {NOT_READY, "not ready"},
               {1, "invalid value"},
               {35, "insufficient driver"},
               {46, "device unavailable"},
               {CUDA_API_NO_DEVICE, "no device"},
               {101, "invalid device"},
               {214, "uncorrectable memory"},
               {802, "system not ready"},
               {999, "unknown"}};

static void every_call_that_fails_is_told(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < COUNT_OF(classes); i++)
        for (uint32_t stays = 0; stays < 2; stays++)
            way_sweep((struct fault){.error = classes[i].error, .stays = stays}, classes[i].name);
    for (uint32_t way = 0; way < 4; way++)
        way_sweep((struct fault){.stays = way % 2, .ranks = true, .nccl = way / 2},
                  "launch failure");
    way_sweep((struct fault){.error = CUDA_API_MEMORY, .ranks = true}, "out of memory");
    /* The same number means memory to the one and a system call to the other; 1 and 5 likewise. */
    way_sweep((struct fault){.error = 2, .comm_error = 2, .ranks = true, .nccl = true}, "number 2");
    CHECK(wrong_count == 0, "of %u sites", all_count);
}

static void a_device_that_hangs_from_any_call_on_is_given_up(void **state)
{
    (void)state;
    for (uint32_t way = 0; way < 3; way++)
        way_sweep((struct fault){.hang_call = true, .ranks = way > 0, .nccl = way > 1}, "hanging");
    /* The last sweep: all that came before counts. */
    printf("%u in all\n", all_count);
    printf("bar fault_sites_wrong %u <= 0 %s\n", wrong_count, wrong_count ? "short" : "ok");
    CHECK(wrong_count == 0, "hangs");
}

static void a_device_that_hangs_is_given_up(void **state)
{
    struct fault fault = {.hangs = true};
    (void)state;
    CHECK(child_wait(child_start(fault_run, &fault)) == 0, "one rank");
    fault.ranks = true;
    CHECK(child_wait(child_start(fault_run, &fault)) == 0, "two ranks");
    fault.nccl = true;
    CHECK(child_wait(child_start(fault_run, &fault)) == 0, "two ranks, nccl");
}

static int wrong_open(void *argument)
{
    static const int beyond[1] = {7}, first[1] = {0};
    uint32_t which = *(const uint32_t *)argument;
    struct ops_device *d = NULL;
    struct ops_group *group = NULL;
    struct ops_config config = {.slab_bytes = SLAB_BYTES, .rows_max = 1, .vocabulary_max = 1};
    fake_reset(&(struct fake_config){.devices_count = 1,
                                     .shared_bytes_max = 99u << 10,
                                     .fail_call = which == 2 ? 4 : 0,
                                     .fail_error = CUDA_API_MEMORY});
    const struct ops *ops = emulated_ops(1, which == 0 ? beyond : first);
    config.rank = which == 1 ? 1 : 0;
    if (which == 3)
        return ops->group_new(2, &group) == -EINVAL ? 0 : 1;
    int result = ops->open(&config, &d);
    CHECK(fake_counts().live == 0, "something is left");
    return result < 0 ? 0 : 1;
}

/* The driver has seen more devices than the runtime says, or fewer than none. */
static int wrong_count_run(void *argument)
{
    static const int devices[2] = {0, 1};
    char text[CUDA_TEXT_BYTES];
    fake_reset(&(struct fake_config){.devices_count = *(const uint32_t *)argument});
    (void)emulated_ops(2, devices);
    int result = cuda_backend_start();
    dynasor_cuda_failure(text);
    bool said = strstr(text, "cudaGetDeviceCount") && strstr(text, "No such device");
    return result == -ENODEV && said ? 0 : 1;
}

static void wrong_numbers_are_refused(void **state)
{
    static const uint32_t counts[] = {0, 1, (uint32_t)-3};
    (void)state;
    for (uint32_t i = 0; i < COUNT_OF(counts); i++) {
        uint32_t count = counts[i];
        CHECK(child_wait(child_start(wrong_count_run, &count)) == 0, "%d devices", (int)count);
    }
    for (uint32_t which = 0; which < 4; which++)
        CHECK(child_wait(child_start(wrong_open, &which)) == 0, "case %u", which);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_call_that_fails_is_told),
        cmocka_unit_test(a_device_that_hangs_is_given_up),
        cmocka_unit_test(a_device_that_hangs_from_any_call_on_is_given_up),
        cmocka_unit_test(wrong_numbers_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
