/* tests/ipc/test_mutant.c: the hostile flips find a double fetch.
 *
 * A daemon that reads op and length of a record from shared memory again after the check (built with
 * DYN_MUTANT_DOUBLE_FETCH and ASan) must be seen to crash, or to be reported by a sanitizer, within 20
 * seconds of the attack that the real daemon survives in test_hostile. */
/* timeout: 60 */
/* serial */
#include <inttypes.h>
#include <stdio.h>

#include "tests/lib/attack.h"
#include "tests/lib/daemon.h"

#define CAUGHT_MAX_NS (20 * NS_PER_S)

static bool caught(void *argument)
{
    struct test_daemon *d = argument;

    return !daemon_alive(d) || daemon_log_has(d, "Sanitizer") ||
           daemon_log_has(d, "runtime error:");
}

int main(void)
{
    struct test_daemon d;
    char binary[512];
    struct attack_counts *counts = shared_new(sizeof *counts);
    struct daemon_options options = {
        .binary = binary,
        .daemon = "clients_max = 64\nlog_level = error\n",
        .engine = "sim_step_ns = 0\nsim_prefill_ns_per_token = 0\n",
    };

    if (check_sanitized())
        check_skip("the mutant is hunted once, from the ordinary build");
    CHECK(daemon_find(binary, sizeof binary, "mutant/asan", "dynasord") ||
              daemon_find(binary, sizeof binary, "mutant", "dynasord"),
          "there is no mutant in $DYN_BUILD/mutant/asan/bin");
    daemon_open(&d, &options);
    daemon_start(&d);
    cpu_keep_process(d.pid, 0); /* the flips come from another core, or they never meet it */
    uint64_t begin_ns = now_ns();
    struct attack attack = {
        .mode = ATTACK_FLIP, .socket_path = d.socket_path, .seed = 1, .counts = counts};
    pid_t pid = child_start(attack_run, &attack);
    bool found = wait_until(caught, &d, CAUGHT_MAX_NS);
    uint64_t actions = counts->actions, sessions = counts->sessions;
    child_kill(pid);
    printf("%" PRIu64 " flipped records in %" PRIu64 " sessions and %" PRIu64 " ms\n", actions,
           sessions, (now_ns() - begin_ns) / NS_PER_MS);
    CHECK(found, "the mutant was not caught");
    if (daemon_alive(&d))
        daemon_kill(&d);
    daemon_close(&d);
    return 0;
}
