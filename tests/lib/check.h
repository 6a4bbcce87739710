/* tests/lib/check.h — how a test says that something is wrong, and the small things that each needs:
 * a seeded generator, the clock, shared memory between a test's processes, children.
 *
 * CHECK ends the process with 1 and says file, line, condition and a sentence. Every child that is
 * started through child_start() dies with its parent, so a test that fails leaves nothing behind. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition))                                                                          \
            check_failed(__FILE__, __LINE__, #condition, __VA_ARGS__);                             \
    } while (0)

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S UINT64_C(1000000000)

__attribute__((noreturn, format(printf, 4, 5))) void check_failed(const char *file, int line,
                                                                  const char *condition,
                                                                  const char *format, ...);

/* Ends the test with 77; the sentence is its last line. */
__attribute__((noreturn, format(printf, 1, 2))) void check_skip(const char *format, ...);

/* Whether this test was built with a sanitizer: processes are then large and slow. */
bool check_sanitized(void);

/* A number from the environment, or fallback when it is not set. */
uint64_t check_number(const char *variable, uint64_t fallback);

uint64_t now_ns(void); /* CLOCK_MONOTONIC */
void sleep_ns(uint64_t ns);

/* Processors this process may use, and keeping the calling thread, or a process, on the n-th. */
int cpu_count(void);
void cpu_keep(int n);
void cpu_keep_process(pid_t pid, int n);

/* splitmix64: any seed is a good one, and each sequence can be repeated. */
struct rng {
    uint64_t state;
};
uint64_t rng_next(struct rng *rng);
uint64_t rng_below(struct rng *rng, uint64_t limit); /* limit > 0 */
void rng_fill(struct rng *rng, void *bytes, size_t count);

/* Zeroed memory that children share with their parent. */
void *shared_new(size_t bytes);

/* Forks. In the child: runs function(argument) and ends with its result; dies with the parent. */
pid_t child_start(int (*function)(void *argument), void *argument);

/* Waits for a child and returns its exit status, or 128 + the signal that ended it. */
int child_wait(pid_t pid);
void child_kill(pid_t pid); /* SIGKILL, and waits */

/* For a child: becomes another uid for good and works in folder, whose own mode must let it in. Who
 * is not root stays who it is. */
void become_uid(uid_t uid, const char *folder);

/* Waits until function(argument) is true, at most timeout_ns; returns whether it became so. */
bool wait_until(bool (*function)(void *argument), void *argument, uint64_t timeout_ns);

/* Sorts and returns the value below which per_mille of the values lie; 0 when there are none. */
uint64_t percentile(uint64_t *values, size_t count, unsigned per_mille);
