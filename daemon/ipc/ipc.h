/* daemon/ipc/ipc.h — the clients: the last folder that knows them.
 *
 * Takes submissions out of the clients' rings, hands them to programs, and publishes what programs
 * have to say. One reactor (io_uring) watches listeners, sessions, doorbells and signals.
 *
 * Thread: control, except ipc_keeper_run(). Memory: fixed at ipc_new(), but for the mappings of a
 * client's regions, which come and go with it. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/program/program.h"

struct ipc;

struct ipc_fd { /* a descriptor that the daemon was started with */
    int fd;
    const char *name;
};

struct ipc_config {
    const char *socket_path;
    const char *control_path;
    const char *socket_group;  /* "": leave */
    const char *control_group; /* "": leave */
    uint32_t socket_mode;
    uint32_t control_mode;
    uint32_t clients_max;
    uint32_t programs_max;
    uint32_t vocabulary_count;
    uint32_t max_tokens;
    uint32_t handshake_timeout_ms;
    uint32_t slow_consumer_grace_ms;
    uint64_t prompt_bytes;
    uint64_t prompt_pool_bytes; /* a power of two */
    uint64_t quota[4];          /* enum quota_kind */
    const char *version;
    const struct ipc_fd *inherited; /* listening sockets and stored clients; taken over */
    uint32_t inherited_count;
};

/* programs is kept until ipc_free(), which does not free it. On failure *message (message_bytes)
 * says what was tried. Errors: negative errno. */
int ipc_new(const struct ipc_config *config, struct programs *programs, struct ipc **ret_ipc,
            char *message, size_t message_bytes);

/* Stops listening, says goodbye to the clients and ends the keepers. keep: a service manager holds
 * the clients' descriptors for the next daemon; those clients are left as they are, and the end of
 * the keepers tells them that we are gone. */
void ipc_stop(struct ipc *ipc, bool keep);
/* After ipc_stop() and the end of the keeper threads. */
void ipc_free(struct ipc *ipc);

/* Keeper threads (keeper.h): how many the caller has to start, and the body of each. They must run
 * before ipc_start(), and end after ipc_stop(). */
uint32_t ipc_keepers_count(const struct ipc *ipc);
void ipc_keeper_run(struct ipc *ipc, uint32_t keeper);

/* Takes over the inherited clients and begins to listen. */
int ipc_start(struct ipc *ipc, uint64_t now_ns, char *message, size_t message_bytes);

/* ipc_sleep() ends when fd becomes readable, too; whoever empties it is not ipc's business. fd stays
 * open until ipc_free(). */
int ipc_watch(struct ipc *ipc, int fd);

/* One turn: events, submissions, publications, wakes. Returns the work done. */
uint32_t ipc_poll(struct ipc *ipc, uint64_t now_ns);

/* Raises every doorbell, looks once more and sleeps until something comes in or until_ns
 * (CLOCK_MONOTONIC; UINT64_MAX: no limit). False: there was work, it did not sleep. */
bool ipc_sleep(struct ipc *ipc, uint64_t now_ns, uint64_t until_ns);

/* Signals that arrived since the last call: bit n for signal n. */
uint64_t ipc_signals(struct ipc *ipc);

/* A turn of the loop is over: for the counters. */
void ipc_turn_done(struct ipc *ipc, uint64_t turn_ns);
