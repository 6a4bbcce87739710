/* daemon/ipc/state.h — the state of this folder, and what its files offer each other.
 *
 * Private to daemon/ipc. Thread: control. */
#pragma once
#include "daemon/base/uring.h"
#include "daemon/ipc/peer.h"
#include "daemon/program/command.h"
#include "shm/arena.h"

TAILQ_HEAD(peer_list, peer);

#define IPC_WAKES_MAX 256u
#define IPC_CONTROLS_MAX 16u

struct ipc {
    struct ipc_config config;
    struct programs *programs;
    struct uring *uring;
    struct quota *quota;
    struct counters_page *counters;
    struct counters_row *rows;
    int counters_fd;
    uint64_t counters_bytes;
    uint64_t generation;
    uint64_t now_ns; /* of this turn */

    char *peers_base;  /* clients_max pages of struct peer */
    char *owners_base; /* clients_max pages: page 0 of each D2C */
    struct keeper **keepers;
    uint32_t keepers_count;
    uint32_t clients_limit; /* clients_max, or what the descriptors allow */
    uint32_t clients_count;
    uint32_t descriptors_count; /* held for clients */
    uint32_t slots_fresh;       /* slots from here on were never used: no memory behind them */
    struct peer_list free;
    struct peer_list hello; /* oldest first */
    struct peer_list hot;
    struct peer_list blocked;
    struct peer_list leaving; /* waiting to tell the fd store */
    struct peer_list storing; /* waiting to be told to the fd store */

    uint32_t *handles; /* [clients_max][DYNASOR_PROGRAMS_MAX] program handles */
    struct job *jobs;  /* [programs_max] */
    uint8_t *prompts;
    struct arena *prompt_pool;
    void *prompt_pool_state;

    struct {
        uint32_t slot;
        uint32_t lane;
    } wakes[IPC_WAKES_MAX];
    uint32_t wakes_count;

    int listen_fd;
    int control_listen_fd;
    int signal_fd;
    int controls[IPC_CONTROLS_MAX]; /* -1: free */
    uint32_t control_generation[IPC_CONTROLS_MAX];
    uint32_t controls_next; /* whose place is taken when none is free */
    bool unlink_socket;
    bool unlink_control;
    bool accept_ready;
    uint64_t accept_after_ns; /* out of descriptors: not before */
    uint64_t housekeeping_ns;
    uint64_t signals;
};

static inline struct peer *ipc_peer(struct ipc *ipc, uint32_t slot)
{
    return (struct peer *)(void *)(ipc->peers_base + (size_t)slot * PEER_PAGE_BYTES);
}

static inline uint32_t *ipc_handle(struct ipc *ipc, const struct peer *peer, uint32_t index)
{
    return &ipc->handles[(size_t)peer->slot * DYNASOR_PROGRAMS_MAX + index];
}

/* reactor tags */
enum tag_kind {
    TAG_LISTEN = 1,
    TAG_CONTROL_LISTEN,
    TAG_CONTROL,
    TAG_SIGNAL,
    TAG_PEER_SOCKET,
    TAG_PEER_BELL,
    TAG_PEER_PID,
    TAG_WATCH,
};

static inline uint64_t tag_make(enum tag_kind kind, uint32_t generation, uint32_t slot)
{
    return (uint64_t)kind << 56 | (uint64_t)(generation & 0xffffffu) << 32 | slot;
}

/* listener.c — sockets, accept, handshake. */
int listener_open(struct ipc *ipc, char *message, size_t message_bytes);
void listener_close(struct ipc *ipc);
uint32_t listener_accept(struct ipc *ipc);
void listener_hello(struct ipc *ipc, struct peer *peer);
void listener_expire(struct ipc *ipc);

/* control.c — the administrator's socket. */
void control_accept(struct ipc *ipc);
void control_ready(struct ipc *ipc, uint32_t place, bool last);

/* inbox.c — submissions. Returns the records taken. May close the peer. */
uint32_t inbox_drain(struct ipc *ipc, struct peer *peer, uint32_t lane_index);
/* Runs an accepted program again, as its entry tells. 0, or the enum dynasor_status of why not. */
uint16_t inbox_rerun(struct ipc *ipc, struct peer *peer, uint32_t index);

/* command.c — what clients say to CUSTOM programs. False: the peer is gone. */
bool command_take(struct ipc *ipc, struct peer *peer, uint32_t lane_index,
                  const struct wire_limits *limits, const union wire_record *record);
void command_note(const struct program_note *note, uint32_t index, union wire_event *ret_event,
                  uint32_t *ret_count); /* as an event; so much of it */

/* The entry's program if it is the one that the record names and has not been released. */
uint32_t inbox_named_handle(struct ipc *ipc, struct peer *peer, const struct wire_cancel *record);

/* outbox.c — events. */
bool lane_credit(struct ipc *ipc, struct peer *peer, struct lane *lane, uint32_t wanted_room);
void outbox_refuse(struct ipc *ipc, struct peer *peer, uint32_t lane_index,
                   const struct wire_submit *submit, uint64_t submit_pos,
                   const struct wire_fault *fault);
void outbox_refuse_command(struct ipc *ipc, struct peer *peer, uint32_t lane_index,
                           const struct wire_command *command, const struct wire_fault *fault);
void outbox_cancel(struct ipc *ipc, struct peer *peer, uint32_t handle);
/* Publishes END as the program's entry tells it. */
void outbox_end(struct ipc *ipc, struct peer *peer, uint32_t lane_index, uint32_t index);
uint32_t outbox_poll(struct ipc *ipc);
void outbox_retry(struct ipc *ipc, struct peer *peer, uint32_t lane_index);
void outbox_wake(struct ipc *ipc);
void outbox_expire(struct ipc *ipc);
void job_free(struct ipc *ipc, uint32_t handle); /* gives back what the program held */

/* adopt.c — what the daemon before left in the fd store. */
int adopt_clients(struct ipc *ipc);
