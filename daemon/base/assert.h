/* base/assert.h — what must be true, checked in every build.
 *
 * A wrong daemon stops at once: a fast crash is the one kind of crash that restart handles. So the
 * check is never compiled out. The condition must have no side effects all the same.
 *
 * Thread: any. Memory: none. Fails: does not return. */
#pragma once
#include <stdio.h>
#include <stdlib.h>

#define ASSERT(condition)                                                                          \
    do {                                                                                           \
        if (__builtin_expect(!(condition), 0)) {                                                   \
            assert_failed(__FILE__, __LINE__, #condition);                                         \
        }                                                                                          \
    } while (0)

/* dprintf, not the log: the log may be what is broken. Prefix <2> is "critical" for the journal. */
__attribute__((noreturn, cold, unused)) static void assert_failed(const char *file, int line,
                                                                  const char *condition)
{
    (void)dprintf(2, "<2>%s:%d: assertion failed: %s\n", file, line, condition);
    abort();
}
