/* daemon/base/notify.h — talking to the service manager: the protocol of sd_notify(3) and sd_listen_fds(3).
 *
 * One datagram a message, never blocking except for notify_ready() and notify_stopping(), which wait
 * up to NOTIFY_WAIT_MS for room: a lost READY=1 would be a failed start. Without a service manager
 * every message returns 1 and does nothing.
 *
 * Thread: control thread. Memory: static. Fails: -EAGAIN when the service manager has no room now
 * (try again later), another -errno when it cannot be reached, -EINVAL for what is never accepted. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define NOTIFY_WAIT_MS 1000u
#define NOTIFY_NAME_BYTES 32u /* of a stored descriptor, with the terminator */

/* Reads NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID and FDSTORE, once, at start-up. 0 also when there
 * is no service manager. -EINVAL: the variable is set to what cannot be a socket. */
int notify_open(void);
void notify_close(void);

int notify_ready(void);
int notify_stopping(void);
int notify_status(const char *text); /* one line, for people: what `systemctl status` shows */
int notify_watchdog(void);

/* How often to call notify_watchdog(): half of what the service manager waits. 0: never. */
uint64_t notify_watchdog_interval_ns(void);

/* Gives the service manager a copy of fd, or has it close the copies of that name. It hands them to
 * the next life of this daemon. A full queue is -EAGAIN: nothing was stored. */
int notify_fdstore(const char *name, int fd);
int notify_fdstore_remove(const char *name);

/* False when descriptors would surely not be kept. A service manager before systemd 254 does not
 * tell whether it has a store; then this is true and unkept descriptors cost nothing. */
bool notify_fdstore_enabled(void);

struct notify_fd {
    int fd;
    char name[NOTIFY_NAME_BYTES]; /* "unknown" when it has none, or one that is not ours */
};

/* The descriptors this process was started with (LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES): sockets of
 * the socket units and what an earlier life stored. Each is made close-on-exec. -EINVAL: the
 * variables make no sense; -EBADF: one of the descriptors is not open; -E2BIG: more than max. After
 * an error *ret_count is 0. */
int notify_listen_fds(struct notify_fd *out, uint32_t max, uint32_t *ret_count);
