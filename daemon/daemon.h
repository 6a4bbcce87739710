/* daemon/daemon.h — the appliance: builds its modules in the order of the data path, owns them, and
 * runs the control thread's loop.
 *
 *   sched_poll (engine results) -> programs_poll -> ipc_poll, and when all returned 0: spin a
 *   little, then ipc_sleep().
 *
 * Replicas ([engine] replicas) are engines with schedulers of their own, all of this one thread; the encoder of
 * the first one serves all of them.
 *
 * Thread: the caller's becomes the control thread; keeper threads are made here and nowhere else. */
#pragma once
#include <stddef.h>

#include "daemon/config.h"
#include "daemon/ipc/ipc.h"

struct daemon;

/* config is copied. inherited: descriptors from the service manager, taken over. On failure message
 * says what was tried; errors: negative errno, or DAEMON_E_BROKE: a device broke, and the process is to end
 * as it stands, because giving back what is on a device may take for ever. */
#define DAEMON_E_BROKE 1
int daemon_new(const struct daemon_config *config, const struct ipc_fd *inherited,
               uint32_t inherited_count, struct daemon **ret_daemon, char *message,
               size_t message_bytes);

/* Serves until SIGTERM or SIGINT: 0. DAEMON_E_BROKE, and the log says what: without daemon_free(), too. */
int daemon_run(struct daemon *daemon);

/* Waits for the steps in flight. DAEMON_E_BROKE, and the log says what, if a device breaks in one of them. */
int daemon_free(struct daemon *daemon);

#define DYNASOR_VERSION_TEXT "0.1.0"
