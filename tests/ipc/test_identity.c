/* tests/ipc/test_identity.c: who a client is, and whom it trusts, is decided by the kernel at connect.
 *
 * A session keeps the uid of its connect through setuid, fork, exec and a passed descriptor, and is
 * charged to it. Handles that were inherited over fork() answer CLOSED and leave the parent's session
 * alone. No descriptor of the library survives exec. The library refuses a socket that an unexpected
 * uid serves, and the control socket refuses other uids: at connect by its mode, and by their
 * credentials when the mode would let them in. */
/* timeout: 60 */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/lib/daemon.h"
#include "tests/lib/raw.h"
#include "tests/lib/stream.h"

enum { UID_A = 65533, UID_B = 65534 };

static const struct stream_limits limits = {.max_tokens = 20, .prompt_bytes = 100};

static bool row_of(const struct test_daemon *d, uint32_t slot, uint32_t *ret_uid)
{
    uint32_t count;
    const struct counters_row *rows = daemon_rows(d, &count);

    for (uint32_t i = 0; i < count; i++) {
        if (shm_load_u32(&rows[i].state) == 1 && shm_load_u32(&rows[i].slot) == slot) {
            *ret_uid = shm_load_u32(&rows[i].uid);
            return true;
        }
    }
    return false;
}

static void check_row(const struct test_daemon *d, uint32_t slot, uint32_t uid, const char *when)
{
    uint32_t found = UINT32_MAX;

    CHECK(row_of(d, slot, &found) && found == uid, "%s the session is of uid %u, not %u", when,
          found, uid);
}

static bool run_one(struct raw_session *s, uint64_t id)
{
    union wire_record record;
    union wire_event event;

    raw_submit_record(&record, (uint32_t)id, id, 1, 20);
    CHECK(raw_push(s, 0, &record), "no room");
    raw_ring(s);
    do
        if (!raw_event(s, 0, &event, 2 * NS_PER_S))
            return false;
    while (event.kind != WIRE_EVENT_END);
    return event.end.state == DYNASOR_STATE_DONE;
}

/* ---- the session's side ------------------------------------------------------------------------- */

struct passed {
    const struct test_daemon *daemon;
    struct raw_session *session;
};

/* Another uid with everything of the session in its hands. */
static int passed_run(void *argument)
{
    const struct passed *p = argument;

    become_uid(UID_B, p->daemon->folder);
    CHECK(run_one(p->session, 2), "a session that was passed on does not work");
    check_row(p->daemon, p->session->reply.slot, UID_A, "used by another uid");
    return 0;
}

static int setuid_run(void *argument)
{
    const struct test_daemon *d = argument;
    struct raw_session s;

    /* Like a set-user-ID program: effective uid at connect, then another one. */
    CHECK(setresuid(UID_A, UID_A, 0) == 0, "seteuid: %s", strerror(errno));
    CHECK(chdir(d->folder) == 0, "chdir: %s", strerror(errno));
    int r = raw_open(&s, DAEMON_SOCKET_NAME, 1, 4096);
    CHECK(r == 0, "no session: %d", r);
    check_row(d, s.reply.slot, UID_A, "after connect");
    CHECK(setresuid(0, 0, 0) == 0, "back to root: %s", strerror(errno));
    CHECK(run_one(&s, 1), "the session does not work");
    check_row(d, s.reply.slot, UID_A, "after setuid");
    struct passed passed = {d, &s};
    CHECK(child_wait(child_start(passed_run, &passed)) == 0, "the other process");
    check_row(d, s.reply.slot, UID_A, "after being passed on");
    /* A copy of the socket in another process must not keep the session alive for ever: the daemon
     * knows who connected. */
    raw_close(&s);
    return 0;
}

/* Connects, leaves a copy of every descriptor to a child that lives on, and dies. */
struct orphan {
    const struct test_daemon *daemon;
    pid_t *pid; /* shared */
};

static int orphaning_run(void *argument)
{
    const struct orphan *o = argument;
    struct raw_session s;

    CHECK(raw_open(&s, o->daemon->socket_path, 1, 4096) == 0, "no session");
    pid_t pid = fork();
    if (pid == 0) {
        sleep_ns(30 * NS_PER_S);
        _exit(0);
    }
    *o->pid = pid;
    (void)kill(getpid(), SIGKILL);
    return 0;
}

static void test_dead_connector(const struct test_daemon *d, const struct daemon_baseline *baseline)
{
    struct orphan o = {d, shared_new(sizeof *o.pid)};

    CHECK(child_wait(child_start(orphaning_run, &o)) == 128 + SIGKILL, "the connecting process");
    CHECK(*o.pid > 0 && kill(*o.pid, 0) == 0, "the child with the copies is gone");
    daemon_baseline_check(d, baseline, 2 * NS_PER_S);
    (void)kill(*o.pid, SIGKILL);
}

/* ---- the library over fork and exec -------------------------------------------------------------- */

static void test_fork(const struct test_daemon *d)
{
    struct dynasor_client *client = stream_connect(d->socket_path, 2, 1 << 16);
    struct dynasor_lane *lane = stream_lane(client);
    struct stream_result before, after;
    struct dynasor_event event;

    stream_run_all(lane, 1, &limits, &before);
    (void)fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0, "fork: %s", strerror(errno));
    if (pid == 0) {
        struct stream_result result;
        struct dynasor_lane *other = NULL;
        bool closed = stream_submit(lane, 0, &limits, &result) == -DYNASOR_E_CLOSED &&
                      dynasor_next(lane, &event, 0) == -DYNASOR_E_CLOSED &&
                      dynasor_cancel(lane, before.program) == -DYNASOR_E_CLOSED &&
                      dynasor_release(lane, before.program) == -DYNASOR_E_CLOSED &&
                      dynasor_lane_open(client, &other) == -DYNASOR_E_CLOSED &&
                      dynasor_descriptor(client) == -DYNASOR_E_CLOSED;
        dynasor_lane_close(lane);
        dynasor_disconnect(client); /* frees this copy, and ends nothing */
        _exit(closed ? 0 : 1);
    }
    CHECK(child_wait(pid) == 0, "an inherited handle answered something else than CLOSED");
    stream_run_all(lane, 1, &limits, &after);
    stream_check(&after, &before, 0);
    CHECK(dynasor_reconnects_count(client) == 0, "the child ended its parent's session");
    dynasor_disconnect(client);
}

/* As another program: how many descriptors are open that could be of a session. */
static int exec_main(void)
{
    char path[64], target[256];
    struct dirent *entry;
    DIR *folder = opendir("/proc/self/fd");
    int found = 0;

    while (folder && (entry = readdir(folder))) {
        (void)snprintf(path, sizeof path, "/proc/self/fd/%.20s", entry->d_name);
        ssize_t length = readlink(path, target, sizeof target - 1);
        if (length <= 0)
            continue;
        target[length] = 0;
        if (strstr(target, "/memfd:") || strstr(target, "eventfd") || strstr(target, "socket:"))
            found++;
    }
    if (folder)
        (void)closedir(folder);
    return found;
}

static int descriptors_after_exec(void)
{
    char *argv[] = {(char[]){"/proc/self/exe"}, (char[]){"--descriptors"}, NULL};

    (void)fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        (void)execv(argv[0], argv);
        _exit(255);
    }
    int found = child_wait(pid);
    CHECK(found != 255, "exec");
    return found;
}

static void test_exec(const struct test_daemon *d)
{
    int before = descriptors_after_exec(); /* what we were started with */
    struct dynasor_client *client = stream_connect(d->socket_path, 1, 1 << 16);

    CHECK(dynasor_descriptor(client) >= 0, "no descriptor");
    CHECK(descriptors_after_exec() == before, "a descriptor of the library survived exec");
    dynasor_disconnect(client);
}

/* ---- whom the library trusts ---------------------------------------------------------------------- */

/* Serves a socket as uid UID_A and answers nothing. */
static int fake_run(void *argument)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);

    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", (const char *)argument);
    CHECK(setresgid(UID_A, UID_A, UID_A) == 0 && setresuid(UID_A, UID_A, UID_A) == 0, "setuid");
    CHECK(bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 16) == 0,
          "%s: %s", address.sun_path, strerror(errno));
    (void)chmod(address.sun_path, 0666);
    for (;;) {
        char byte;
        int client = accept(fd, NULL, NULL);
        if (client >= 0 && recv(client, &byte, 1, 0) > 0)
            _exit(3); /* the library told a stranger something */
        (void)close(client);
    }
}

static int connect_status(const char *path, int64_t daemon_uid, char *sentence, size_t bytes)
{
    struct dynasor_client *client = NULL;
    struct dynasor_connect_options options = {.size = sizeof options,
                                              .socket_path = path,
                                              .timeout_ns = 2 * NS_PER_S,
                                              .daemon_uid = daemon_uid};
    int r = dynasor_connect(&options, &client);

    (void)snprintf(sentence, bytes, "%s", client ? dynasor_connect_error(client) : "");
    dynasor_disconnect(client);
    return r;
}

static void expect_untrusted(const char *path, int64_t daemon_uid, const char *what)
{
    char sentence[300];
    int r = connect_status(path, daemon_uid, sentence, sizeof sentence);

    CHECK(r == -DYNASOR_E_UNTRUSTED, "%s: %s: %s", what, dynasor_status_name(r), sentence);
    CHECK(strstr(sentence, "uid") != NULL, "%s: the sentence names no uid: %s", what, sentence);
}

static int other_trust_run(void *argument)
{
    char sentence[300];

    become_uid(UID_B, argument);
    expect_untrusted("fake.sock", 0, "a stranger's server, by uid 65534");
    int r = connect_status(DAEMON_SOCKET_NAME, 0, sentence, sizeof sentence);
    CHECK(r == 0, "root's server, by uid 65534: %s: %s", dynasor_status_name(r), sentence);
    return 0;
}

static void test_trust(const struct test_daemon *d)
{
    char path[320], sentence[300];

    (void)snprintf(path, sizeof path, "%s/fake.sock", d->folder);
    CHECK(chmod(d->folder, 01777) == 0, "chmod"); /* like a shared folder: anybody may squat */
    pid_t fake = child_start(fake_run, path);
    struct stat st;
    uint64_t deadline = now_ns() + 5 * NS_PER_S;
    while ((stat(path, &st) != 0 || (st.st_mode & 0777) != 0666) && now_ns() < deadline)
        sleep_ns(NS_PER_MS);
    expect_untrusted(path, 0, "a stranger's server");
    expect_untrusted(path, 0 + 1, "a stranger's server, root demanded");
    expect_untrusted(d->socket_path, UID_A + 1, "root's server, another uid demanded");
    int r = connect_status(d->socket_path, 0 + 1, sentence, sizeof sentence);
    CHECK(r == 0, "root's server, root demanded: %s: %s", dynasor_status_name(r), sentence);
    CHECK(child_wait(child_start(other_trust_run, (void *)(uintptr_t)d->folder)) == 0, "uid 65534");
    (void)kill(fake, SIGKILL);
    CHECK(child_wait(fake) == 128 + SIGKILL, "the library said hello to a stranger");
    CHECK(chmod(d->folder, 0755) == 0 && unlink(path) == 0, "clean up");
}

/* ---- the control socket ------------------------------------------------------------------------- */

static int control_refused_run(void *argument)
{
    struct control_reply reply;
    int fd;

    become_uid(UID_B, argument);
    int r = control_ask(DAEMON_CONTROL_NAME, &reply, &fd);
    CHECK(r != 0 && fd < 0, "uid 65534 got the counters page");
    printf("control socket, uid 65534: %s\n", r < 0 ? strerror(-r) : dynasor_status_name(r));
    return r == -EACCES ? 10 : r == -ECONNRESET || r == -EPIPE || r > 0 ? 11 : 12;
}

static void test_control(const struct test_daemon *d)
{
    struct control_reply reply;
    void *folder = (void *)(uintptr_t)d->folder;
    int fd;

    CHECK(child_wait(child_start(control_refused_run, folder)) == 10,
          "the mode of the control socket lets everybody in");
    /* Somebody opened the door: the daemon looks at who it is as well. */
    CHECK(chmod(d->control_path, 0666) == 0, "chmod: %s", strerror(errno));
    CHECK(child_wait(child_start(control_refused_run, folder)) == 11,
          "a stranger was not turned away");
    CHECK(chmod(d->control_path, 0660) == 0, "chmod: %s", strerror(errno));
    CHECK(control_ask(d->control_path, &reply, &fd) == 0, "root is refused");
    /* What it got is for reading only. */
    CHECK(pwrite(fd, "x", 1, 0) == -1 && ftruncate(fd, 0) == -1, "the counters page is writable");
    (void)close(fd);
}

int main(int argc, char **argv)
{
    static struct test_daemon d;
    struct daemon_baseline baseline;
    struct daemon_options options = {
        .daemon = "socket_mode = 0666\nlog_level = error\n",
        .engine = "sim_step_ns = 0\n",
    };

    if (argc > 1 && strcmp(argv[1], "--descriptors") == 0)
        return exec_main();
    if (geteuid() != 0)
        check_skip("only root can become other uids");
    daemon_open(&d, &options);
    daemon_start(&d);
    daemon_baseline_take(&d, &baseline);
    CHECK(child_wait(child_start(setuid_run, &d)) == 0, "setuid");
    daemon_baseline_check(&d, &baseline, NS_PER_S);
    test_dead_connector(&d, &baseline);
    test_fork(&d);
    test_exec(&d);
    daemon_baseline_check(&d, &baseline, NS_PER_S);
    test_trust(&d);
    test_control(&d);
    daemon_baseline_check(&d, &baseline, NS_PER_S);
    daemon_stop(&d);
    daemon_log_check(&d);
    daemon_close(&d);
    return 0;
}
