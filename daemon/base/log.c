#include "daemon/base/log.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const struct {
    const char *name;
    unsigned priority; /* syslog's number */
} levels[LOG_LEVEL_COUNT] = {
    [LOG_LEVEL_ERROR] = {"error", 3},
    [LOG_LEVEL_WARN] = {"warn", 4},
    [LOG_LEVEL_INFO] = {"info", 6},
    [LOG_LEVEL_DEBUG] = {"debug", 7},
};

static struct {
    pthread_mutex_t mutex;
    int fd;
    bool with_priority;
    enum log_level level;
    struct log_bucket bucket[LOG_LEVEL_COUNT];
} state = {
    .mutex = PTHREAD_MUTEX_INITIALIZER,
    .fd = STDERR_FILENO,
    .level = LOG_LEVEL_INFO,
};

static uint64_t log_now_ns(void)
{
    struct timespec t = {0};
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

bool log_bucket_take(struct log_bucket *bucket, uint64_t now_ns, uint64_t *ret_report)
{
    *ret_report = 0;
    if (bucket->used == 0) {
        bucket->refilled_ns = now_ns;
    } else if (now_ns > bucket->refilled_ns) {
        uint64_t back = (now_ns - bucket->refilled_ns) / LOG_INTERVAL_NS;
        bucket->refilled_ns += back * LOG_INTERVAL_NS;
        bucket->used = back < bucket->used ? bucket->used - back : 0;
    }
    if (bucket->used >= LOG_BURST) {
        bucket->suppressed++;
        return false;
    }
    bucket->used++;
    if (bucket->suppressed > 0 && now_ns - bucket->reported_ns >= LOG_REPORT_NS) {
        *ret_report = bucket->suppressed;
        bucket->suppressed = 0;
        bucket->reported_ns = now_ns;
    }
    return true;
}

/* Appends; what does not fit is cut. Returns the new length, always below `bytes`. */
__attribute__((format(printf, 4, 0))) static size_t append(char *line, size_t bytes, size_t length,
                                                           const char *format, va_list args)
{
    int n = vsnprintf(line + length, bytes - length, format, args);
    if (n < 0) {
        return length;
    }
    size_t end = length + (size_t)n;
    return end < bytes ? end : bytes - 1;
}

__attribute__((format(printf, 4, 5))) static size_t append_args(char *line, size_t bytes,
                                                                size_t length, const char *format,
                                                                ...)
{
    va_list args;
    va_start(args, format);
    length = append(line, bytes, length, format, args);
    va_end(args);
    return length;
}

static size_t start_line(char *line, size_t bytes, enum log_level level, uint64_t now_ns)
{
    if (state.with_priority) {
        return append_args(line, bytes, 0, "<%u>", levels[level].priority);
    }
    return append_args(line, bytes, 0,
                       "[%6llu.%06llu] %s: ", (unsigned long long)(now_ns / 1000000000u),
                       (unsigned long long)(now_ns % 1000000000u / 1000u), levels[level].name);
}

/* A line below PIPE_BUF into a descriptor that polls writable does not block. */
static void put_line(enum log_level level, char *line, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)line[i];
        if (c < 0x20 || c == 0x7f) {
            line[i] = '?';
        }
    }
    line[length++] = '\n';

    struct pollfd p = {.fd = state.fd, .events = POLLOUT};
    ssize_t n = -1;
    if (poll(&p, 1, 0) == 1 && (p.revents & POLLOUT) != 0) {
        do {
            n = write(state.fd, line, length);
        } while (n < 0 && errno == EINTR);
    }
    if (n < 0) {
        state.bucket[level].suppressed++;
    }
}

static void put_report(enum log_level level, uint64_t suppressed, uint64_t now_ns)
{
    char line[LOG_LINE_BYTES];
    size_t length = start_line(line, sizeof(line) - 1, level, now_ns);
    length = append_args(line, sizeof(line) - 1, length, "%llu lines of level %s suppressed",
                         (unsigned long long)suppressed, levels[level].name);
    put_line(level, line, length);
}

void log_open(int fd, bool with_priority)
{
    pthread_mutex_lock(&state.mutex);
    state.fd = fd;
    state.with_priority = with_priority;
    memset(state.bucket, 0, sizeof(state.bucket));
    pthread_mutex_unlock(&state.mutex);
}

void log_set_level(enum log_level level)
{
    pthread_mutex_lock(&state.mutex);
    state.level = level < LOG_LEVEL_COUNT ? level : LOG_LEVEL_DEBUG;
    pthread_mutex_unlock(&state.mutex);
}

enum log_level log_get_level(void)
{
    pthread_mutex_lock(&state.mutex);
    enum log_level level = state.level;
    pthread_mutex_unlock(&state.mutex);
    return level;
}

const char *log_level_name(enum log_level level)
{
    return level < LOG_LEVEL_COUNT ? levels[level].name : "unknown";
}

void log_flush(void)
{
    pthread_mutex_lock(&state.mutex);
    uint64_t now_ns = log_now_ns();
    for (uint32_t i = 0; i < LOG_LEVEL_COUNT; i++) {
        uint64_t suppressed = state.bucket[i].suppressed;
        if (suppressed > 0) {
            state.bucket[i].suppressed = 0;
            state.bucket[i].reported_ns = now_ns;
            put_report((enum log_level)i, suppressed, now_ns);
        }
    }
    pthread_mutex_unlock(&state.mutex);
}

void log_line(enum log_level level, const char *format, ...)
{
    int saved_errno = errno;
    pthread_mutex_lock(&state.mutex);
    uint64_t now_ns = log_now_ns();
    uint64_t report = 0;
    if (level < LOG_LEVEL_COUNT && level <= state.level &&
        log_bucket_take(&state.bucket[level], now_ns, &report)) {
        if (report > 0) {
            put_report(level, report, now_ns);
        }
        char line[LOG_LINE_BYTES];
        size_t length = start_line(line, sizeof(line) - 1, level, now_ns);
        va_list args;
        va_start(args, format);
        length = append(line, sizeof(line) - 1, length, format, args);
        va_end(args);
        put_line(level, line, length);
    }
    pthread_mutex_unlock(&state.mutex);
    errno = saved_errno;
}
