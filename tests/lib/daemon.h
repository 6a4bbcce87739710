/* tests/lib/daemon.h — a real dynasord of a test's own: folder, configuration, start, stop, kill, and
 * what it looks like from outside (counters page, descriptors, mappings, memory, CPU time).
 *
 * The folder lies in $TMPDIR and is removed by daemon_close(). A daemon dies with its test. Which
 * binary: $DYN_DAEMON, or $DYN_BUILD/bin/dynasord. */
#pragma once
#include "shm/counters.h"
#include "tests/lib/check.h"

/* Names in the folder: what a process uses that has changed into it. */
#define DAEMON_SOCKET_NAME "dynasor.sock"
#define DAEMON_CONTROL_NAME "control.sock"

/* Lines of the sections, each with its newline; NULL: nothing. The two paths are the harness's. */
struct daemon_options {
    const char *binary; /* NULL: the default */
    const char *daemon;
    const char *quota;
    const char *engine;
    const char *limits;
    uint32_t descriptors_max; /* RLIMIT_NOFILE of the daemon; 0: as ours */
    bool nice_of_unit;        /* at the nice value of systemd/dynasord.service */
};

struct test_daemon {
    pid_t pid; /* 0: not running */
    char folder[256];
    char socket_path[300];
    char control_path[300];
    char config_path[300];
    char log_path[300];
    char binary[512];
    uint32_t descriptors_max;
    bool nice_of_unit;
    const struct counters_page *page; /* of the life that daemon_start() began, or NULL */
    uint64_t page_bytes;
};

/* Path of a binary of $DYN_BUILD; variant "" or "asan" or "mutant": its folder below. False when it
 * does not exist. */
bool daemon_find(char *path, size_t path_bytes, const char *variant, const char *name);

void daemon_open(struct test_daemon *d, const struct daemon_options *options);
void daemon_configure(struct test_daemon *d, const struct daemon_options *options); /* next start */
void daemon_close(struct test_daemon *d); /* stops it when it runs */

/* Starts it and waits until the control socket answers. */
void daemon_start(struct test_daemon *d);

/* Starts it without waiting. environment: more variables, NULL-terminated, or NULL. keep_count:
 * descriptors keep[i] become 3 + i in the daemon. */
void daemon_spawn(struct test_daemon *d, char *const environment[], const int *keep,
                  unsigned keep_count);
void daemon_wait_ready(struct test_daemon *d);

void daemon_stop(struct test_daemon *d); /* SIGTERM; must end with 0 within 10 s */
void daemon_kill(struct test_daemon *d); /* SIGKILL */
bool daemon_alive(struct test_daemon *d);

/* Asks the control socket; 0 with *ret_fd the counters page, the status of a refusal, or -errno. */
int control_ask(const char *path, struct control_reply *reply, int *ret_fd);

uint64_t daemon_counter(const struct test_daemon *d, enum counters_index i);
const struct counters_row *daemon_rows(const struct test_daemon *d, uint32_t *ret_count);
void daemon_print_counters(const struct test_daemon *d);

unsigned process_descriptors(pid_t pid);
unsigned process_memory_files(pid_t pid); /* mappings of memfds */
uint64_t process_polls(pid_t pid);        /* requests that wait in its io_uring */
uint64_t process_cpu_ns(pid_t pid);
uint64_t process_rss_bytes(pid_t pid);

/* What must come back exactly when clients are gone. */
struct daemon_baseline {
    uint64_t clients, programs_active, region_bytes, queued_bytes, descriptors_counted;
    uint64_t polls; /* armed in its io_uring: each holds a file that no descriptor shows */
    unsigned descriptors, memory_files;
};
/* Waits until nothing changes any more. */
void daemon_baseline_take(const struct test_daemon *d, struct daemon_baseline *ret);
/* Waits up to timeout_ns for it; fails naming what did not come back. */
void daemon_baseline_check(const struct test_daemon *d, const struct daemon_baseline *expected,
                           uint64_t timeout_ns);

/* Fails when the log holds a sanitizer's or an assertion's report. */
void daemon_log_check(const struct test_daemon *d);
bool daemon_log_has(const struct test_daemon *d, const char *text);
void daemon_log_print(const struct test_daemon *d);
