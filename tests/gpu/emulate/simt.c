#include "tests/gpu/emulate/simt.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/lib/check.h"

#define STACK_BYTES (128u << 10)
#define SHARED_MAX (256u << 10)
#define GUARD_BYTES 4096u
#define MEMORIES_MAX 16u
#define NOBODY UINT32_MAX

struct simt_index threadIdx, blockIdx, blockDim, gridDim;

enum fiber_state { READY, AT_BLOCK, AT_WARP, DONE };

struct fiber {
    void *stack_pointer;
    uint8_t *stack;
    enum fiber_state state;
    uint32_t exchanges_count;
};

struct warp {
    uint64_t slots[2][SIMT_WARP];
    float a[256], b[256];
    uint32_t waiting_count;
    uint32_t done_count;
    uint32_t epoch; /* collectives that all its threads have been through */
};

#define UNIT 2u /* bytes that are looked at together: the least that kernels access */

/* Who last read and wrote a unit. Readers: the first since the last write, and whether there
 * were others. */
struct shadow {
    uint32_t writer, reader;          /* thread in shared memory, block in device memory */
    uint32_t write_epoch, read_epoch; /* barrier of the block; number of the launch */
    uint32_t write_warp, read_warp;   /* collective of the warp; unused */
    bool readers;                     /* more than one */
    uint8_t touched;                  /* 1: read, 2: written, by this launch */
    uint32_t touched_epoch;
};

struct memory {
    uint8_t *first;
    uint64_t bytes;
    int device;
    struct shadow *shadow; /* of each unit */
};

static struct fiber fibers[SIMT_THREADS_MAX];
static struct warp warps[SIMT_THREADS_MAX / SIMT_WARP];
static struct memory memories[MEMORIES_MAX];
static struct rng order;
static uint8_t *shared; /* guard, SHARED_MAX, guard */
static struct shadow *shared_shadow;
static uint32_t shared_bytes, threads_count, block_waiting, done_count, block_epoch, launch_epoch;
static uint32_t current = NOBODY; /* thread; NOBODY: in none */
static __thread bool in_kernel;   /* other threads of the process are the backend's own */
static uint32_t block_number;
static int running_device;
static void *scheduler_stack;
static void (*kernel_call)(const void *, const void *);
static const void *kernel_function, *kernel_argument;
static uint64_t kernel_argument_bytes;
static const char *kernel_name = "nothing";
static struct simt_counts counts;

void simt_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)fprintf(stderr, "kernel %s, block %u.%u, thread %u: ", kernel_name, blockIdx.x,
                  blockIdx.y, current);
    (void)vfprintf(stderr, format, args);
    (void)fputc('\n', stderr);
    va_end(args);
    exit(1);
}

/* ---- coroutines ------------------------------------------------------------------------------- */

/* Saves what a call preserves, changes stacks, restores. */
void simt_switch(void **save, void *to);
__asm__(
    ".text\n.globl simt_switch\n.type simt_switch,@function\nsimt_switch:\n"
    "    endbr64\n"
    "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n    pushq %r15\n"
    "    movq %rsp, (%rdi)\n    movq %rsi, %rsp\n"
    "    popq %r15\n    popq %r14\n    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n"
    "    ret\n"
    ".size simt_switch,.-simt_switch\n");

static void fiber_yield(enum fiber_state state)
{
    struct fiber *f = &fibers[current];
    f->state = state;
    simt_switch(&f->stack_pointer, scheduler_stack);
}

static void fiber_main(void)
{
    kernel_call(kernel_function, kernel_argument);
    fiber_yield(DONE);
    simt_fail("a thread that ended goes on");
}

static void fiber_init(struct fiber *f)
{
    if (!f->stack) {
        f->stack =
            mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(f->stack != MAP_FAILED, "no stack");
    }
    /* As after a call: the stack is 8 short of a multiple of 16 when the function begins. */
    uintptr_t *top = (uintptr_t *)(void *)(f->stack + STACK_BYTES) - 2;
    *top = (uintptr_t)fiber_main;
    memset(top - 6, 0, 6 * sizeof *top);
    f->stack_pointer = top - 6;
    f->state = READY;
    f->exchanges_count = 0;
}

static void fiber_run(uint32_t thread)
{
    current = thread;
    threadIdx.x = thread;
    simt_switch(&scheduler_stack, fibers[thread].stack_pointer);
    current = NOBODY;
    struct warp *w = &warps[thread / SIMT_WARP];
    switch (fibers[thread].state) {
    case DONE:
        w->done_count++;
        done_count++;
        break;
    case AT_BLOCK:
        block_waiting++;
        break;
    case AT_WARP:
        w->waiting_count++;
        break;
    case READY:
        break;
    }
}

static void warp_release(uint32_t warp)
{
    struct warp *w = &warps[warp];
    if (w->waiting_count < SIMT_WARP)
        return;
    w->waiting_count = 0;
    w->epoch++;
    for (uint32_t i = 0; i < SIMT_WARP; i++)
        fibers[warp * SIMT_WARP + i].state = READY;
}

static void block_release(void)
{
    if (block_waiting < threads_count)
        return;
    block_waiting = 0;
    block_epoch++;
    for (uint32_t i = 0; i < threads_count; i++)
        fibers[i].state = READY;
}

static void block_run(void)
{
    block_waiting = done_count = 0;
    block_epoch++;
    for (uint32_t i = 0; i < threads_count; i++)
        fiber_init(&fibers[i]);
    for (uint32_t i = 0; i < threads_count / SIMT_WARP; i++)
        warps[i].waiting_count = warps[i].done_count = 0;
    memset(shared, 0xa5, 2 * GUARD_BYTES + SHARED_MAX);
    memset(shared + GUARD_BYTES, 0xff, shared_bytes);
    while (done_count < threads_count) {
        uint32_t start = (uint32_t)rng_next(&order), step = (uint32_t)rng_next(&order) | 1, ran = 0;
        for (uint32_t i = 0; i < threads_count; i++) {
            uint32_t thread = (start + i * step) % threads_count; /* a power of two */
            if (fibers[thread].state != READY)
                continue;
            fiber_run(thread);
            warp_release(thread / SIMT_WARP);
            ran++;
        }
        block_release();
        if (ran == 0)
            simt_fail("%u of %u threads wait at a barrier, %u have ended", block_waiting,
                      threads_count, done_count);
    }
    for (uint32_t i = 0; i < GUARD_BYTES; i++)
        if (shared[i] != 0xa5 || shared[GUARD_BYTES + shared_bytes + i] != 0xa5)
            simt_fail("wrote outside its %u bytes of shared memory", shared_bytes);
}

void simt_seed(uint64_t seed)
{
    order.state = seed;
}

static void count_touched(void)
{
    for (uint32_t m = 0; m < MEMORIES_MAX; m++)
        for (uint64_t i = 0; memories[m].first && i < memories[m].bytes / UNIT; i++) {
            const struct shadow *s = &memories[m].shadow[i];
            if (s->touched_epoch == launch_epoch)
                counts.touched_bytes += UNIT * (uint64_t)__builtin_popcount(s->touched);
        }
}

void simt_run(const struct simt_shape *shape, void (*call)(const void *, const void *),
              const void *kernel, const void *argument, uint64_t argument_bytes, const char *name,
              struct simt_counts *ret_counts)
{
    if (!shared) {
        shared = mmap(NULL, 2 * GUARD_BYTES + SHARED_MAX, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        shared_shadow = calloc(SHARED_MAX / UNIT, sizeof *shared_shadow);
        CHECK(shared != MAP_FAILED && shared_shadow, "no memory");
    }
    kernel_name = name;
    in_kernel = true;
    CHECK(shape->block && (shape->block & (shape->block - 1)) == 0 && shape->block >= SIMT_WARP &&
              shape->block <= SIMT_THREADS_MAX && shape->shared_bytes <= SHARED_MAX - GUARD_BYTES,
          "kernel %s: a block of %u threads, %u bytes", name, shape->block, shape->shared_bytes);
    kernel_call = call, kernel_function = kernel;
    kernel_argument = argument, kernel_argument_bytes = argument_bytes;
    threads_count = shape->block;
    shared_bytes = shape->shared_bytes;
    running_device = shape->device;
    launch_epoch++;
    counts = (struct simt_counts){0};
    gridDim = (struct simt_index){shape->grid[0], shape->grid[1], 1};
    blockDim = (struct simt_index){shape->block, 1, 1};
    uint32_t blocks = shape->grid[0] * shape->grid[1];
    uint32_t first = (uint32_t)rng_below(&order, blocks);
    for (uint32_t i = 0; i < blocks; i++) {
        block_number = (first + i) % blocks;
        blockIdx = (struct simt_index){block_number % gridDim.x, block_number / gridDim.x, 0};
        block_run();
    }
    if (ret_counts) {
        count_touched();
        *ret_counts = counts;
    }
    kernel_name = "nothing";
    in_kernel = false;
}

/* ---- what kernels call ------------------------------------------------------------------------ */

void *gpu_shared(void)
{
    return shared + GUARD_BYTES;
}

void __syncthreads(void)
{
    fiber_yield(AT_BLOCK);
}

static struct warp *own_warp(void)
{
    return &warps[current / SIMT_WARP];
}

uint64_t simt_shuffle(uint64_t own, unsigned lane)
{
    struct warp *w = own_warp();
    uint64_t *slots = w->slots[fibers[current].exchanges_count++ % 2];
    slots[current % SIMT_WARP] = own;
    fiber_yield(AT_WARP);
    return slots[lane];
}

uint32_t simt_ballot(bool own)
{
    struct warp *w = own_warp();
    uint64_t *slots = w->slots[fibers[current].exchanges_count++ % 2];
    uint32_t bits = 0;
    slots[current % SIMT_WARP] = own;
    fiber_yield(AT_WARP);
    for (uint32_t i = 0; i < SIMT_WARP; i++)
        bits |= (uint32_t)slots[i] << i;
    return bits;
}

void simt_matrix_multiply(const float *a, const float *b, float *sums)
{
    struct warp *w = own_warp();
    uint32_t lane = current % SIMT_WARP;
    memcpy(w->a + 8 * lane, a, 8 * sizeof *a);
    memcpy(w->b + 8 * lane, b, 8 * sizeof *b);
    fiber_yield(AT_WARP);
    for (uint32_t i = 0; i < 8; i++)
        for (uint32_t k = 0; k < 16; k++)
            sums[i] += w->a[lane / 2 * 16 + k] * w->b[k * 16 + lane % 2 * 8 + i];
    fiber_yield(AT_WARP);
}

/* ---- memory ----------------------------------------------------------------------------------- */

void simt_memory_add(void *memory, uint64_t bytes, int device)
{
    for (uint32_t i = 0; i < MEMORIES_MAX; i++) {
        struct memory *m = &memories[i];
        if (m->first)
            continue;
        uint64_t shadow_bytes = (bytes / UNIT + 1) * sizeof *m->shadow;
        *m = (struct memory){.first = memory, .bytes = bytes, .device = device};
        m->shadow = mmap(NULL, shadow_bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        CHECK(m->shadow != MAP_FAILED, "no memory");
        return;
    }
    CHECK(false, "too many memories");
}

void simt_memory_remove(void *memory)
{
    for (uint32_t i = 0; i < MEMORIES_MAX; i++) {
        struct memory *m = &memories[i];
        if (m->first != memory)
            continue;
        (void)munmap(m->shadow, (m->bytes / UNIT + 1) * sizeof *m->shadow); /* ours */
        *m = (struct memory){0};
    }
}

static struct memory *memory_of(const void *at, uint64_t bytes)
{
    const uint8_t *p = at;
    for (uint32_t i = 0; i < MEMORIES_MAX; i++)
        if (memories[i].first && p >= memories[i].first &&
            p + bytes <= memories[i].first + memories[i].bytes)
            return &memories[i];
    return NULL;
}

bool simt_memory_has(const void *memory, uint64_t bytes)
{
    return memory_of(memory, bytes) != NULL;
}

/* Threads of one warp are ordered by its collectives, all by the block's barriers. */
static bool shared_races(uint32_t other, uint32_t epoch, uint32_t warp_epoch)
{
    return other != NOBODY && other != current && epoch == block_epoch &&
           (other / SIMT_WARP != current / SIMT_WARP || warp_epoch == own_warp()->epoch);
}

static void shared_access(struct shadow *s, bool write, uint64_t at)
{
    uint32_t warp_epoch = own_warp()->epoch;
    if (s->write_epoch == block_epoch && shared_races(s->writer, s->write_epoch, s->write_warp))
        simt_fail("byte %llu of shared memory: %s races with a write of thread %u",
                  (unsigned long long)at, write ? "write" : "read", s->writer);
    if (!write) {
        if (s->read_epoch != block_epoch || s->reader == current)
            s->reader = current, s->read_epoch = block_epoch, s->read_warp = warp_epoch,
            s->readers = false;
        else if (s->reader / SIMT_WARP != current / SIMT_WARP || s->read_warp == warp_epoch)
            s->readers = true; /* cannot be told apart any more */
        else
            s->reader = current, s->read_warp = warp_epoch;
        return;
    }
    if (s->read_epoch == block_epoch &&
        (shared_races(s->reader, s->read_epoch, s->read_warp) ||
         (s->readers &&
          (s->reader / SIMT_WARP != current / SIMT_WARP || s->read_warp == warp_epoch))))
        simt_fail("byte %llu of shared memory: write races with a read of thread %u",
                  (unsigned long long)at, s->reader);
    s->writer = current, s->write_epoch = block_epoch, s->write_warp = warp_epoch;
}

/* Between blocks nothing is ordered; within one, threads that share device memory use barriers, which is
 * not looked at. */
static void device_access(struct shadow *s, bool write)
{
    bool written = s->write_epoch == launch_epoch && s->writer != block_number;
    bool read = s->read_epoch == launch_epoch && (s->reader != block_number || s->readers);
    if (written || (write && read))
        simt_fail("%s races with a %s of block %u in device memory", write ? "write" : "read",
                  written ? "write" : "read", written ? s->writer : s->reader);
    if (s->touched_epoch != launch_epoch) {
        s->touched_epoch = launch_epoch;
        s->touched = 0;
        s->readers = false;
    }
    s->touched |= write ? 2 : 1;
    if (write) {
        s->writer = block_number, s->write_epoch = launch_epoch;
    } else {
        s->readers |= s->read_epoch == launch_epoch && s->reader != block_number;
        s->reader = block_number, s->read_epoch = launch_epoch;
    }
}

#define OF_LINKER extern __attribute__((visibility("hidden"))) char
OF_LINKER __ehdr_start, _end;

/* The argument, constants, threadIdx and its kind. */
static bool is_program(const uint8_t *p, uint64_t bytes)
{
    const uint8_t *argument = kernel_argument;
    return (p >= argument && p + bytes <= argument + kernel_argument_bytes) ||
           ((const char *)p >= &__ehdr_start && (const char *)p < &_end);
}

static void access_see(const void *at, uint64_t bytes, bool write)
{
    if (!in_kernel || current == NOBODY)
        return;
    const uint8_t *p = at, *stack = fibers[current].stack;
    if (p >= stack && p < stack + STACK_BYTES)
        return;
    if (p >= shared && p < shared + 2 * GUARD_BYTES + SHARED_MAX) {
        uint64_t offset = (uint64_t)(p - shared) - GUARD_BYTES;
        if (offset + bytes > shared_bytes)
            simt_fail("byte %lld of %u bytes of shared memory", (long long)offset, shared_bytes);
        for (uint64_t i = offset / UNIT; i <= (offset + bytes - 1) / UNIT; i++)
            shared_access(&shared_shadow[i], write, UNIT * i);
        return;
    }
    struct memory *m = memory_of(at, bytes);
    if (!m && !is_program(p, bytes))
        simt_fail("%s %llu bytes at %p, outside the device", write ? "writes" : "reads",
                  (unsigned long long)bytes, at);
    if (!m)
        return;
    if (m->device != running_device)
        simt_fail("%s memory of device %d, and runs on device %d", write ? "writes" : "reads",
                  m->device, running_device);
    *(write ? &counts.written_bytes : &counts.read_bytes) += bytes;
    uint64_t first = (uint64_t)(p - m->first), end = first + bytes;
    for (uint64_t i = first / UNIT; i <= (end - 1) / UNIT; i++) {
        device_access(&m->shadow[i], write);
    }
}

uint64_t simt_atomic_add(void *to, uint64_t value, uint32_t bytes)
{
    uint64_t old = 0;
    memcpy(&old, to, bytes);
    uint64_t sum = old + value;
    memcpy(to, &sum, bytes);
    return old;
}

void simt_atomic_or(uint32_t *to, uint32_t value)
{
    *to |= value;
}

/* ---- what the compiler calls for -fsanitize=thread --------------------------------------------- */

#define SEEN(bytes)                                                                                \
    void __tsan_read##bytes(void *p);                                                              \
    void __tsan_write##bytes(void *p);                                                             \
    void __tsan_unaligned_read##bytes(void *p);                                                    \
    void __tsan_unaligned_write##bytes(void *p);                                                   \
    void __tsan_read##bytes(void *p)                                                               \
    {                                                                                              \
        access_see(p, bytes, false);                                                               \
    }                                                                                              \
    void __tsan_write##bytes(void *p)                                                              \
    {                                                                                              \
        access_see(p, bytes, true);                                                                \
    }                                                                                              \
    void __tsan_unaligned_read##bytes(void *p)                                                     \
    {                                                                                              \
        access_see(p, bytes, false);                                                               \
    }                                                                                              \
    void __tsan_unaligned_write##bytes(void *p)                                                    \
    {                                                                                              \
        access_see(p, bytes, true);                                                                \
    }
SEEN(1)
SEEN(2)
SEEN(4)
SEEN(8)
SEEN(16)

void __tsan_init(void);
void __tsan_func_entry(void *caller);
void __tsan_func_exit(void);
void __tsan_read_range(void *p, unsigned long bytes);
void __tsan_write_range(void *p, unsigned long bytes);
uint32_t __tsan_atomic32_load(const uint32_t *p, int order_);
uint64_t __tsan_atomic64_load(const uint64_t *p, int order_);
void __tsan_atomic32_store(uint32_t *p, uint32_t v, int order_);
void __tsan_atomic64_store(uint64_t *p, uint64_t v, int order_);
uint32_t __tsan_atomic32_fetch_add(uint32_t *p, uint32_t v, int order_);

void __tsan_init(void)
{
}

void __tsan_func_entry(void *caller)
{
    (void)caller;
}

void __tsan_func_exit(void)
{
}

void __tsan_read_range(void *p, unsigned long bytes)
{
    access_see(p, bytes, false);
}

void __tsan_write_range(void *p, unsigned long bytes)
{
    access_see(p, bytes, true);
}

uint32_t __tsan_atomic32_load(const uint32_t *p, int order_)
{
    (void)order_;
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}

uint64_t __tsan_atomic64_load(const uint64_t *p, int order_)
{
    (void)order_;
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}

void __tsan_atomic32_store(uint32_t *p, uint32_t v, int order_)
{
    (void)order_;
    __atomic_store_n(p, v, __ATOMIC_SEQ_CST);
}

void __tsan_atomic64_store(uint64_t *p, uint64_t v, int order_)
{
    (void)order_;
    __atomic_store_n(p, v, __ATOMIC_SEQ_CST);
}

uint32_t __tsan_atomic32_fetch_add(uint32_t *p, uint32_t v, int order_)
{
    (void)order_;
    return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
}
