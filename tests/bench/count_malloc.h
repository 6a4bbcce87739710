/* tests/bench/count_malloc.h — heap allocations of a process, counted where others can read them.
 *
 * count_malloc.c replaces malloc and its family by glibc's own behind a counter. It is linked into
 * bench-ipc, for its client side, and built as count_malloc.so, which the counted daemon preloads:
 * the daemon is the binary that is installed, with nothing added. Frees are not counted. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

/* The file that a preloaded process counts into, one uint64_t. */
#define COUNT_MALLOC_ENVIRONMENT "DYNASOR_BENCH_ALLOCATIONS"

/* From now on this process counts into *word, which may be shared; NULL: it does not. */
void count_malloc_into(uint64_t *word);

/* False in builds whose sanitizer needs malloc for itself. */
bool count_malloc_works(void);
