/* Log lines as the administrator sees them: levels, prefixes, no forged lines, a flood that is held
 * back and counted, a reader that does not read. Lines go into a pipe of the test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "daemon/base/assert.h"
#include "daemon/base/log.h"
#include "tests/lib/check.h"

static int pipe_fds[2];
static char text[1 << 18];

static int open_pipe(void **unused)
{
    (void)unused;
    return pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK);
}

static int close_pipe(void **unused)
{
    (void)unused;
    log_open(STDERR_FILENO, false);
    log_set_level(LOG_LEVEL_INFO);
    (void)close(pipe_fds[0]);
    return close(pipe_fds[1]);
}

/* Everything written so far, as a string. */
static const char *take(void)
{
    size_t length = 0;
    ssize_t n;
    while ((n = read(pipe_fds[0], text + length, sizeof(text) - 1 - length)) > 0) {
        length += (size_t)n;
    }
    text[length] = '\0';
    return text;
}

static uint32_t lines_in(const char *from)
{
    uint32_t lines = 0;
    for (; *from != '\0'; from++) {
        lines += *from == '\n';
    }
    return lines;
}

static void log_priorities(void **unused)
{
    (void)unused;
    log_open(pipe_fds[1], true);
    log_set_level(LOG_LEVEL_DEBUG);
    log_error("client %u uid %u", 3u, 1000u);
    log_warn("w");
    log_info("i");
    log_debug("d");
    assert_string_equal(take(), "<3>client 3 uid 1000\n<4>w\n<6>i\n<7>d\n");
}

static void log_readable(void **unused)
{
    (void)unused;
    unsigned long long seconds = 0, micros = 0;
    char rest[64];
    log_open(pipe_fds[1], false);
    uint64_t before_ns = now_ns();
    log_warn("slow");
    assert_int_equal(sscanf(take(), "[ %llu.%6llu] %63[^\n]", &seconds, &micros, rest), 3);
    assert_string_equal(rest, "warn: slow");
    uint64_t line_ns = seconds * NS_PER_S + micros * 1000;
    assert_true(line_ns + 1000 >= before_ns && line_ns <= now_ns());
}

static void log_levels(void **unused)
{
    (void)unused;
    static const char *const expected[LOG_LEVEL_COUNT] = {
        "<3>e\n", "<3>e\n<4>w\n", "<3>e\n<4>w\n<6>i\n", "<3>e\n<4>w\n<6>i\n<7>d\n"};
    log_open(pipe_fds[1], true);
    for (uint32_t i = 0; i < LOG_LEVEL_COUNT; i++) {
        log_set_level((enum log_level)i);
        assert_int_equal(log_get_level(), i);
        log_error("e");
        log_warn("w");
        log_info("i");
        log_debug("d");
        assert_string_equal(take(), expected[i]);
    }
    assert_string_equal(log_level_name(LOG_LEVEL_ERROR), "error");
    assert_string_equal(log_level_name(LOG_LEVEL_COUNT), "unknown");
}

static void log_keeps_errno(void **unused)
{
    (void)unused;
    int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    assert_true(full >= 0);
    log_open(full, true);
    errno = ENOTTY;
    log_error("x"); /* write fails with ENOSPC */
    assert_int_equal(errno, ENOTTY);
    (void)close(full);
}

static void log_no_forged_lines(void **unused)
{
    (void)unused;
    log_open(pipe_fds[1], true);
    log_error("name %s end", "a\n<0>kernel panic\r\x1b[2J\x7f");
    assert_string_equal(take(), "<3>name a?<0>kernel panic??[2J? end\n");
}

static void log_long_lines(void **unused)
{
    (void)unused;
    char big[4096];
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    log_open(pipe_fds[1], true);
    log_error("%s", big);
    log_error("next");
    const char *got = take();
    assert_int_equal(lines_in(got), 2);
    assert_true(strchr(got, '\n') - got < (ptrdiff_t)LOG_LINE_BYTES);
    assert_non_null(strstr(got, "\n<3>next\n"));
}

/* A burst goes through, the rest is counted; one level's flood does not silence another. */
static void log_flood(void **unused)
{
    (void)unused;
    unsigned suppressed = 0;
    const uint32_t sent = 5000;
    log_open(pipe_fds[1], true);
    uint64_t start_ns = now_ns();
    for (uint32_t i = 0; i < sent; i++) {
        log_warn("line %u", i);
    }
    uint64_t earned = (now_ns() - start_ns) / LOG_INTERVAL_NS + 1;
    log_error("still heard");
    log_flush();
    const char *got = take();
    assert_non_null(strstr(got, "<3>still heard\n"));
    const char *report = strstr(got, "<4>4");
    assert_non_null(report);
    assert_int_equal(sscanf(report, "<4>%u lines of level warn suppressed", &suppressed), 1);
    uint32_t passed = lines_in(got) - 2;
    assert_true(passed >= LOG_BURST && passed <= LOG_BURST + earned);
    assert_int_equal(passed + suppressed, sent);
    log_flush();
    assert_string_equal(take(), ""); /* reported once */
}

static void log_reader_that_does_not_read(void **unused)
{
    (void)unused;
    char page[4096];
    memset(page, 'x', sizeof(page));
    while (write(pipe_fds[1], page, sizeof(page)) > 0) {
    }
    int flags = fcntl(pipe_fds[1], F_GETFL);
    assert_int_equal(fcntl(pipe_fds[1], F_SETFL, flags & ~O_NONBLOCK), 0); /* as stderr is */
    log_open(pipe_fds[1], true);
    log_error("lost");
    (void)take();
    log_error("heard");
    log_flush();
    assert_string_equal(take(), "<3>1 lines of level error suppressed\n<3>heard\n");
}

/* The limit by itself, on a clock of our own. */
static void log_bucket_rate(void **unused)
{
    (void)unused;
    struct log_bucket bucket = {0};
    uint64_t t = 12345 * NS_PER_S, report = 0, passed = 0, reported = 0;
    for (uint32_t i = 0; i < LOG_BURST; i++) {
        assert_true(log_bucket_take(&bucket, t, &report));
        assert_int_equal(report, 0);
    }
    assert_false(log_bucket_take(&bucket, t, &report));
    assert_false(log_bucket_take(&bucket, t + LOG_INTERVAL_NS - 1, &report));
    assert_true(log_bucket_take(&bucket, t + LOG_INTERVAL_NS, &report));
    assert_int_equal(report, 2);
    assert_false(log_bucket_take(&bucket, t + LOG_INTERVAL_NS, &report));
    assert_false(log_bucket_take(&bucket, t - NS_PER_S, &report)); /* a clock that went back */

    /* Ten seconds with a line each 100 us: 20 a second, and a report a second at most. */
    bucket = (struct log_bucket){0};
    uint32_t reports = 0;
    for (uint64_t i = 0; i < 100000; i++) {
        t += 100000;
        passed += log_bucket_take(&bucket, t, &report);
        reported += report;
        reports += report > 0;
    }
    assert_in_range(passed, LOG_BURST + 195, LOG_BURST + 201);
    assert_in_range(reports, 1, 10);
    assert_int_equal(passed + reported + bucket.suppressed, 100000);

    /* After silence the whole burst is there again, and no more. */
    t += 3600 * NS_PER_S;
    for (passed = 0; log_bucket_take(&bucket, t, &report); passed++) {
    }
    assert_int_equal(passed, LOG_BURST);
}

static int failing_assertion(void *unused)
{
    (void)unused;
    const struct rlimit none = {0, 0};
    (void)setrlimit(RLIMIT_CORE, &none);
    (void)dup2(pipe_fds[1], STDERR_FILENO);
    ASSERT(1 + 1 == 3);
    return 0;
}

static void log_assert_aborts(void **unused)
{
    (void)unused;
    ASSERT(1 + 1 == 2);
    assert_int_equal(child_wait(child_start(failing_assertion, NULL)), 128 + 6);
    const char *got = take();
    assert_non_null(strstr(got, "test_log.c:"));
    assert_non_null(strstr(got, "assertion failed: 1 + 1 == 3\n"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_pipe, close_pipe)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(log_priorities),      TEST(log_readable),
        TEST(log_levels),          TEST(log_keeps_errno),
        TEST(log_no_forged_lines), TEST(log_long_lines),
        TEST(log_flood),           TEST(log_reader_that_does_not_read),
        TEST(log_bucket_rate),     TEST(log_assert_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
