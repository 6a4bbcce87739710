/* base/log.h — lines for the administrator on stderr.
 *
 * A line is one write(2) of at most LOG_LINE_BYTES; control characters become '?', so that no text
 * from outside can forge a line. Each level has a token bucket: a client that provokes errors cannot
 * flood the log, and what was left out is counted and said later. A reader that does not read
 * (full pipe) costs lines, not time.
 *
 * Never on the data path. Prompts, tokens and secrets never stand in a line.
 *
 * Thread: any; a mutex orders the lines. Memory: static. Fails: never; a line may be dropped. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define LOG_LINE_BYTES 1024u
#define LOG_BURST 100u            /* lines of one level at once */
#define LOG_INTERVAL_NS 50000000u /* one more each 50 ms: 20 lines a second */
#define LOG_REPORT_NS 1000000000u /* at most one "lines suppressed" a second and level */

enum log_level {
    LOG_LEVEL_ERROR,
    LOG_LEVEL_WARN,
    LOG_LEVEL_INFO,
    LOG_LEVEL_DEBUG,
    LOG_LEVEL_COUNT
};

/* Where lines go from now on, and how: with_priority puts the <N> prefixes of sd-daemon(3) first,
 * otherwise a monotonic timestamp and the name of the level. Before the first call: stderr, plain.
 * Forgets the state of the rate limit. */
void log_open(int fd, bool with_priority);

void log_set_level(enum log_level level);
enum log_level log_get_level(void);
const char *log_level_name(enum log_level level);

/* Says how many lines have been left out since the last report; call it before the process ends. */
void log_flush(void);

__attribute__((format(printf, 2, 3))) void log_line(enum log_level level, const char *format, ...);

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* The rate limit by itself, with the time given: what the tests drive. A zeroed bucket is full. */
struct log_bucket {
    uint64_t used;        /* tokens taken and not yet given back, at most LOG_BURST */
    uint64_t refilled_ns; /* up to when tokens have been given back */
    uint64_t suppressed;  /* lines left out and not yet reported */
    uint64_t reported_ns;
};

/* True: the line may go out, and *ret_report says how many to report before it (0: no report now).
 * False: it is left out and counted. */
bool log_bucket_take(struct log_bucket *bucket, uint64_t now_ns, uint64_t *ret_report);
