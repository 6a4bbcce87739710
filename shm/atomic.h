/* shm/atomic.h — the only place that names memory orders.
 *
 * Shared memory holds plain fixed-width integers, so that the layouts compile as C, C++ and in a
 * debugger alike; these accessors give each access its order. A plain read of memory that another
 * process can write is never correct here: compilers may load it twice (the "double fetch").
 *
 * Thread: any. Memory: none. Fails: never. */
#pragma once
#include <stdint.h>

static inline uint32_t shm_load_u32(const uint32_t *p) /* relaxed */
{
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline uint64_t shm_load_u64(const uint64_t *p) /* relaxed */
{
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline uint32_t shm_load_acquire_u32(const uint32_t *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline uint64_t shm_load_acquire_u64(const uint64_t *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline void shm_store_u32(uint32_t *p, uint32_t v) /* relaxed */
{
    __atomic_store_n(p, v, __ATOMIC_RELAXED);
}

static inline void shm_store_u64(uint64_t *p, uint64_t v) /* relaxed */
{
    __atomic_store_n(p, v, __ATOMIC_RELAXED);
}

static inline void shm_store_release_u32(uint32_t *p, uint32_t v)
{
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}

static inline void shm_store_release_u64(uint64_t *p, uint64_t v)
{
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}

static inline uint64_t shm_fetch_and_u64(uint64_t *p, uint64_t v)
{
    return __atomic_fetch_and(p, v, __ATOMIC_ACQ_REL);
}

static inline uint64_t shm_fetch_or_u64(uint64_t *p, uint64_t v)
{
    return __atomic_fetch_or(p, v, __ATOMIC_ACQ_REL);
}

/* Acquires, releases, and is in one order with other full operations. */
static inline uint32_t shm_fetch_add_full_u32(uint32_t *p, uint32_t v)
{
    return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
}

static inline uint64_t shm_fetch_add_u64(uint64_t *p, uint64_t v) /* relaxed */
{
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}

/* Full fence: everything before it is visible to all before anything after it is read. Under
 * ThreadSanitizer, which cannot see fences, it is a seq_cst operation on a word of this thread: as
 * strong on the hardware, and it creates no order between threads that the code did not ask for. */
static inline void shm_fence_full(void)
{
#if defined(__SANITIZE_THREAD__)
    static __thread uint32_t own_word;
    (void)__atomic_fetch_add(&own_word, 1u, __ATOMIC_SEQ_CST);
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/* Keeps the compiler from moving memory accesses across; for readers that see this thread's stores in
 * program order, such as the kernel when the thread is dead. */
static inline void shm_fence_compiler(void)
{
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* One spin-wait hint: lets the sibling hyperthread run and avoids a mis-speculated loop exit. */
static inline void shm_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}
