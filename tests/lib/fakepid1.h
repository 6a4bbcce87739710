/* tests/lib/fakepid1.h — a stand-in for PID 1: what systemd does for a daemon with socket units and a
 * descriptor store, without systemd.
 *
 * It owns the listening sockets, receives sd_notify(3) datagrams with descriptors (FDSTORE=1,
 * FDSTOREREMOVE=1, READY=1, WATCHDOG=1, STOPPING=1), keeps what it is given while no daemon runs, and
 * hands everything to the next one as descriptors 3 .. with LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES.
 * Like systemd it stores a descriptor once, closes a stored one that hung up, and reads all
 * notifications of a dead daemon before it starts the next. */
#pragma once
#include "tests/lib/daemon.h"

#define FAKEPID1_STORE_MAX 1024u
#define FAKEPID1_NAME_BYTES 64u

struct fakepid1_stored {
    int fd;
    char name[FAKEPID1_NAME_BYTES];
};

struct fakepid1 {
    int notify_fd;
    int listen_fd, control_fd;
    char notify_path[300];
    struct fakepid1_stored stored[FAKEPID1_STORE_MAX];
    unsigned stored_count;
    bool ready;        /* READY=1 came since the start */
    bool keep_hung_up; /* a socket that hung up stays stored (FDPOLL=0) */
    unsigned watchdog_count, stopping_count, ready_count, removed_count;
};

/* Makes the sockets in d's folder. */
void fakepid1_open(struct fakepid1 *p, const struct test_daemon *d);
void fakepid1_close(struct fakepid1 *p);

/* Starts the daemon with the listening sockets and everything that is stored. Does not wait. */
void fakepid1_spawn(struct fakepid1 *p, struct test_daemon *d);

/* Receives notifications for duration_ns, or, with until_ready, until READY=1 came (which must come
 * within duration_ns). */
void fakepid1_run(struct fakepid1 *p, struct test_daemon *d, uint64_t duration_ns,
                  bool until_ready);

/* Kills the daemon and takes what it said before it died. */
void fakepid1_kill(struct fakepid1 *p, struct test_daemon *d);

/* Puts a descriptor into the store as if an earlier daemon had; it belongs to the store then. */
void fakepid1_store(struct fakepid1 *p, const char *name, int fd);

const struct fakepid1_stored *fakepid1_find(const struct fakepid1 *p, const char *name);
