/* daemon/base/clock.h — the one clock of the serving path: CLOCK_MONOTONIC in nanoseconds.
 *
 * Read once a turn by the loop and passed down as now_ns, so that modules run under a virtual
 * clock. Thread: any. Fails: never. */
#pragma once
#include <stdint.h>
#include <time.h>

#define NS_PER_US 1000ull
#define NS_PER_MS 1000000ull
#define NS_PER_S 1000000000ull

static inline uint64_t clock_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail with this clock */
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}
