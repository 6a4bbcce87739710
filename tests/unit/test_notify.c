/* The service manager's protocol against a fake one: a datagram socket of the test's own, by path and
 * abstract. Inherited descriptors are tried in children, which set them up as PID 1 would. */
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
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/base/notify.h"
#include "tests/lib/check.h"

static char folder[300];
static char socket_path[330];

/* Binds the fake service manager and names it in the environment. */
static int manager_open(bool abstract)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char name[100];
    size_t length;
    if (abstract) {
        length = (size_t)snprintf(name, sizeof(name), "@dynasor-test-notify-%d", (int)getpid());
    } else {
        length = (size_t)snprintf(name, sizeof(name), "%s", socket_path);
    }
    CHECK(length < sizeof(name), "TMPDIR is too long for a socket");
    memcpy(address.sun_path, name, length);
    size_t bytes = offsetof(struct sockaddr_un, sun_path) + length + (abstract ? 0 : 1);
    if (abstract) {
        address.sun_path[0] = '\0';
    }
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    (void)unlink(socket_path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, (socklen_t)bytes), 0);
    assert_int_equal(setenv("NOTIFY_SOCKET", name, 1), 0);
    return fd;
}

static void clear_environment(void)
{
    static const char *const names[] = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID",
                                        "FDSTORE",       "LISTEN_PID",    "LISTEN_FDS",
                                        "LISTEN_FDNAMES"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        (void)unsetenv(names[i]);
    }
}

/* Next message, or "" when there is none; *ret_fd is the descriptor with it, or -1. */
static const char *manager_take(int fd, int *ret_fd)
{
    static char text[1024];
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int) * 4)];
    } control;
    struct iovec part = {.iov_base = text, .iov_len = sizeof(text) - 1};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.room,
                             .msg_controllen = sizeof(control.room)};
    ssize_t n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    text[n > 0 ? n : 0] = '\0';
    int got = -1;
    struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (c != NULL) {
        assert_int_equal(c->cmsg_len, CMSG_LEN(sizeof(int)));
        memcpy(&got, CMSG_DATA(c), sizeof(got));
    }
    if (ret_fd != NULL) {
        *ret_fd = got;
    } else {
        assert_int_equal(got, -1);
    }
    return text;
}

static void notify_without_manager(void **unused)
{
    (void)unused;
    clear_environment();
    assert_int_equal(notify_open(), 0);
    assert_int_equal(notify_ready(), 1);
    assert_int_equal(notify_status("x"), 1);
    assert_int_equal(notify_stopping(), 1);
    assert_int_equal(notify_watchdog(), 1);
    assert_int_equal(notify_fdstore("1s", 0), 1);
    assert_int_equal(notify_fdstore_remove("1s"), 1);
    assert_false(notify_fdstore_enabled());
    assert_int_equal(notify_watchdog_interval_ns(), 0);
    (void)setenv("WATCHDOG_USEC", "20000000", 1); /* nobody to send it to */
    assert_int_equal(notify_open(), 0);
    assert_int_equal(notify_watchdog_interval_ns(), 0);
}

static void talk(int fd)
{
    assert_int_equal(notify_open(), 0);
    assert_int_equal(notify_ready(), 0);
    assert_string_equal(manager_take(fd, NULL), "READY=1");
    assert_int_equal(notify_status("serving\nREADY=1"), 0);
    assert_string_equal(manager_take(fd, NULL), "STATUS=serving READY=1");
    assert_int_equal(notify_watchdog(), 0);
    assert_string_equal(manager_take(fd, NULL), "WATCHDOG=1");
    assert_int_equal(notify_stopping(), 0);
    assert_string_equal(manager_take(fd, NULL), "STOPPING=1");
    notify_close();
    assert_int_equal(notify_ready(), 1);
}

static void notify_messages(void **unused)
{
    (void)unused;
    for (int abstract = 0; abstract < 2; abstract++) {
        clear_environment();
        int fd = manager_open(abstract == 1);
        talk(fd);
        (void)close(fd);
    }
}

static void notify_long_status(void **unused)
{
    (void)unused;
    char text[2000];
    clear_environment();
    int fd = manager_open(false);
    assert_int_equal(notify_open(), 0);
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    assert_int_equal(notify_status(text), 0);
    assert_true(strncmp(manager_take(fd, NULL), "STATUS=xxx", 10) == 0);
    notify_close();
    (void)close(fd);
}

static void notify_bad_addresses(void **unused)
{
    (void)unused;
    char path[200];
    static const char *const bad[] = {"relative", "@", "/", "vsock:1:2", " /run/x"};
    clear_environment();
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        (void)setenv("NOTIFY_SOCKET", bad[i], 1);
        assert_int_equal(notify_open(), -EINVAL);
        assert_int_equal(notify_ready(), 1);
    }
    memset(path, 'a', sizeof(path));
    path[0] = '/';
    path[108] = '\0';
    (void)setenv("NOTIFY_SOCKET", path, 1);
    assert_int_equal(notify_open(), -EINVAL);
    path[107] = '\0';
    (void)setenv("NOTIFY_SOCKET", path, 1);
    assert_int_equal(notify_open(), 0);
    assert_int_equal(notify_ready(), -ENOENT); /* it is a path; nobody is there */
    (void)setenv("NOTIFY_SOCKET", "", 1);
    assert_int_equal(notify_open(), 0);
    assert_int_equal(notify_ready(), 1);
}

static void notify_fdstore_messages(void **unused)
{
    (void)unused;
    int got = -1;
    struct stat mine, theirs;
    clear_environment();
    int fd = manager_open(false);
    int file = memfd_create("stored", MFD_CLOEXEC);
    assert_true(file >= 0);
    assert_int_equal(notify_open(), 0);
    assert_true(notify_fdstore_enabled());

    assert_int_equal(notify_fdstore("1fc", file), 0);
    assert_string_equal(manager_take(fd, &got), "FDSTORE=1\nFDNAME=1fc");
    assert_true(got >= 0);
    assert_int_equal(fstat(file, &mine), 0);
    assert_int_equal(fstat(got, &theirs), 0);
    assert_int_equal(mine.st_ino, theirs.st_ino);
    (void)close(got);

    assert_int_equal(notify_fdstore_remove("1fc"), 0);
    assert_string_equal(manager_take(fd, NULL), "FDSTOREREMOVE=1\nFDNAME=1fc");

    static const char *const bad[] = {
        "", "a:b", "a\nREADY=1", "a b", "\xc3\xa4", "0123456789012345678901234567890123456789"};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        assert_int_equal(notify_fdstore(bad[i], file), -EINVAL);
        assert_int_equal(notify_fdstore_remove(bad[i]), -EINVAL);
    }
    assert_int_equal(notify_fdstore("x", -1), -EBADF);
    (void)close(file);
    assert_int_equal(notify_fdstore("x", file), -EBADF);
    assert_string_equal(manager_take(fd, NULL), "");
    notify_close();
    (void)close(fd);
}

static void notify_fdstore_variable(void **unused)
{
    (void)unused;
    clear_environment();
    int fd = manager_open(false);
    (void)setenv("FDSTORE", "16448", 1);
    assert_int_equal(notify_open(), 0);
    assert_true(notify_fdstore_enabled());
    (void)setenv("FDSTORE", "0", 1);
    assert_int_equal(notify_open(), 0);
    assert_false(notify_fdstore_enabled());
    notify_close();
    (void)close(fd);
}

/* A service manager that does not read: no call blocks, nothing is lost silently. */
static void notify_full_queue(void **unused)
{
    (void)unused;
    int got = -1;
    uint32_t stored = 0, received = 0;
    clear_environment();
    int fd = manager_open(false);
    int file = memfd_create("stored", MFD_CLOEXEC);
    assert_int_equal(notify_open(), 0);
    uint64_t start_ns = now_ns();
    while (notify_fdstore("1c", file) == 0) {
        stored++;
        CHECK(stored < 100000, "the queue of a datagram socket has no end");
    }
    assert_int_equal(notify_fdstore("1c", file), -EAGAIN);
    assert_int_equal(notify_watchdog(), -EAGAIN);
    assert_int_equal(notify_status("x"), -EAGAIN);
    assert_true(now_ns() - start_ns < 900 * NS_PER_MS);
    assert_int_equal(notify_ready(), -EAGAIN); /* after waiting */
    assert_true(now_ns() - start_ns >= 900 * NS_PER_MS);
    while (manager_take(fd, &got)[0] != '\0') {
        (void)close(got);
        received++;
    }
    assert_int_equal(received, stored);
    assert_int_equal(notify_ready(), 0);
    notify_close();
    (void)close(file);
    (void)close(fd);
}

static void notify_watchdog_interval(void **unused)
{
    (void)unused;
    char pid[32];
    static const struct {
        const char *us;
        uint64_t ns;
    } cases[] = {{"20000000", 10000000000ull},
                 {"1", 500},
                 {"0", 0},
                 {"", 0},
                 {"-5", 0},
                 {"5x", 0},
                 {"99999999999999999999", 0},
                 {"18446744073709551615", 0}};
    clear_environment();
    int fd = manager_open(false);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        (void)setenv("WATCHDOG_USEC", cases[i].us, 1);
        assert_int_equal(notify_open(), 0);
        assert_int_equal(notify_watchdog_interval_ns(), cases[i].ns);
    }
    (void)setenv("WATCHDOG_USEC", "20000000", 1);
    (void)snprintf(pid, sizeof(pid), "%d", (int)getpid());
    (void)setenv("WATCHDOG_PID", pid, 1);
    assert_int_equal(notify_open(), 0);
    assert_int_equal(notify_watchdog_interval_ns(), 10000000000ull);
    (void)setenv("WATCHDOG_PID", "1", 1);
    assert_int_equal(notify_open(), 0);
    assert_int_equal(notify_watchdog_interval_ns(), 0);
    notify_close();
    (void)close(fd);
}

/* ---- inherited descriptors --------------------------------------------------------------------- */

struct inherit {
    const char *pid; /* NULL: the child's own; "": not set */
    const char *fds;
    const char *names;
    int open; /* descriptors that are open from 3 on */
    uint32_t max;
    int result;
    uint32_t count;
    const char *expected[8];
};

static int inherit_child(void *argument)
{
    const struct inherit *c = argument;
    struct notify_fd out[8];
    char pid[32];
    uint32_t count = 99;
    clear_environment();
    for (int i = 0; i < 8; i++) {
        if (i < c->open) {
            CHECK(dup2(STDERR_FILENO, 3 + i) == 3 + i, "dup2: %s", strerror(errno));
        } else {
            (void)close(3 + i);
        }
    }
    (void)snprintf(pid, sizeof(pid), "%d", (int)getpid());
    if (c->pid == NULL || c->pid[0] != '\0') {
        (void)setenv("LISTEN_PID", c->pid != NULL ? c->pid : pid, 1);
    }
    if (c->fds != NULL) {
        (void)setenv("LISTEN_FDS", c->fds, 1);
    }
    if (c->names != NULL) {
        (void)setenv("LISTEN_FDNAMES", c->names, 1);
    }
    int r = notify_listen_fds(out, c->max, &count);
    CHECK(r == c->result, "%d, expected %d", r, c->result);
    CHECK(count == c->count, "%u descriptors, expected %u", count, c->count);
    for (uint32_t i = 0; i < count; i++) {
        CHECK(out[i].fd == 3 + (int)i, "descriptor %d", out[i].fd);
        CHECK((fcntl(out[i].fd, F_GETFD) & FD_CLOEXEC) != 0, "%d is not close-on-exec", out[i].fd);
        CHECK(strcmp(out[i].name, c->expected[i]) == 0, "name %s, expected %s", out[i].name,
              c->expected[i]);
    }
    return 0;
}

static void notify_inherited(void **unused)
{
    (void)unused;
    static struct inherit cases[] = {
        {.pid = "", .fds = "2", .open = 2, .max = 8},
        {.fds = NULL, .open = 2, .max = 8},
        {.pid = "1", .fds = "2", .open = 2, .max = 8},
        {.fds = "0", .max = 8},
        {.fds = "3",
         .names = "dynasor.sock:control.sock:1fs",
         .open = 3,
         .max = 3,
         .count = 3,
         .expected = {"dynasor.sock", "control.sock", "1fs"}},
        {.fds = "2", .open = 2, .max = 8, .count = 2, .expected = {"unknown", "unknown"}},
        {.fds = "3",
         .names = "a",
         .open = 3,
         .max = 8,
         .count = 3,
         .expected = {"a", "unknown", "unknown"}},
        {.fds = "3",
         .names = ":b:",
         .open = 3,
         .max = 8,
         .count = 3,
         .expected = {"unknown", "b", "unknown"}},
        {.fds = "1", .names = "a:b:c", .open = 1, .max = 8, .count = 1, .expected = {"a"}},
        {.fds = "1",
         .names = "0123456789012345678901234567890",
         .open = 1,
         .max = 8,
         .count = 1,
         .expected = {"0123456789012345678901234567890"}},
        {.fds = "2",
         .names = "01234567890123456789012345678901:b",
         .open = 2,
         .max = 8,
         .count = 2,
         .expected = {"unknown", "b"}},
        {.fds = "", .max = 8, .result = -EINVAL},
        {.fds = "-1", .max = 8, .result = -EINVAL},
        {.fds = "1x", .open = 1, .max = 8, .result = -EINVAL},
        {.fds = " 1", .open = 1, .max = 8, .result = -EINVAL},
        {.fds = "99999999999999999999999", .max = 8, .result = -EINVAL},
        {.fds = "2147483645", .max = UINT32_MAX, .result = -EINVAL},
        {.pid = "x", .fds = "1", .open = 1, .max = 8, .result = -EINVAL},
        {.fds = "3", .open = 3, .max = 2, .result = -E2BIG},
        {.fds = "3", .open = 2, .max = 8, .result = -EBADF},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        if (child_wait(child_start(inherit_child, &cases[i])) != 0) {
            fail_msg("case %zu", i);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(notify_without_manager),  cmocka_unit_test(notify_messages),
        cmocka_unit_test(notify_long_status),      cmocka_unit_test(notify_bad_addresses),
        cmocka_unit_test(notify_fdstore_messages), cmocka_unit_test(notify_fdstore_variable),
        cmocka_unit_test(notify_full_queue),       cmocka_unit_test(notify_watchdog_interval),
        cmocka_unit_test(notify_inherited),
    };
    const char *base = getenv("TMPDIR");
    (void)snprintf(folder, sizeof(folder), "%s/notify-XXXXXX", base != NULL ? base : "/tmp");
    CHECK(mkdtemp(folder) != NULL, "%s: %s", folder, strerror(errno));
    (void)snprintf(socket_path, sizeof(socket_path), "%s/s", folder);
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    (void)unlink(socket_path);
    (void)rmdir(folder);
    return r;
}
