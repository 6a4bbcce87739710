/* daemon/base/reserve.h — large zeroed memory that is paid for page by page, when it is first touched.
 *
 * Thread: any. Memory: a mapping, aligned to a page; of whole pools that a daemon touches as far as it is used.
 * Fails: NULL when there are no addresses left. */
#pragma once
#include <stddef.h>
#include <sys/mman.h>

static inline void *reserve(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

/* The same for a pool of small things of which many are touched in one step: in large pages where the kernel has
 * them, as there are more things than a CPU remembers pages. */
static inline void *reserve_dense(size_t bytes)
{
    void *memory = reserve(bytes);
    if (memory)
        (void)madvise(memory, bytes, MADV_HUGEPAGE); /* a wish */
    return memory;
}

/* NULL: nothing. */
static inline void unreserve(void *memory, size_t bytes)
{
    if (memory)
        (void)munmap(memory, bytes); /* of reserve(), so that it does not fail */
}
