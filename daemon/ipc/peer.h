/* daemon/ipc/peer.h — a client as the daemon sees it: its lanes, its programs, its life.
 *
 * A peer is a slot with one page of private memory; everything a client can make us keep hangs on
 * it. A lane is one submission ring and one event ring. A job is the client's side of a program: who
 * gets its events, and where they stand.
 *
 * Private to daemon/ipc. Thread: control. Invariant (peer_assert_valid): lane.open_count is the
 * number of the lane's accepted programs that have not sent END. */
#pragma once
#include <sys/queue.h>

#include "daemon/ipc/ipc.h"
#include "daemon/ipc/keeper.h"
#include "daemon/ipc/quota.h"
#include "shm/bell.h"
#include "shm/counters.h"
#include "shm/region.h"

#define PEER_PAGE_BYTES 4096u
#define PEER_BELLS_SLACK 32u     /* doorbells beyond those asked for before it is an attack */
#define PEER_RECORDS_MAX 32u     /* taken from one lane in one turn */
#define PROMPT_BLOCK_BYTES 1024u /* prompts are rounded up to a power of two of it */
#define LANE_HOT_NS 1000000u     /* an idle lane leaves the poll set after this */
/* What an entry of a client's program table means to us; untouched memory says HANDLE_FREE. */
#define HANDLE_FREE 0u
#define HANDLE_ENDED 1u /* END sent, RELEASE outstanding */
#define HANDLE_FIRST 2u /* + program handle */

struct lane {
    struct ring_rx rx;
    struct ring_tx tx;
    struct region_c2d_lane *c2d;
    struct region_d2c_lane *d2c;
    uint64_t active_ns;        /* when it last had something */
    uint64_t blocked_since_ns; /* no credit since; 0: not blocked */
    uint32_t need_ticket;      /* ours, bell.h */
    uint32_t answered_ticket;  /* of the client's need */
    uint32_t open_count;
    uint32_t blocked_first; /* jobs that wait for credit, PROGRAM_NONE: none */
    uint32_t blocked_last;
    bool stalled;                /* a record waits for room for its answer */
    uint64_t throttled_until_ns; /* a payload waits: its uid handed in too much; 0: no */
    bool published;              /* in this turn's list of wakes */
};

enum peer_state { PEER_FREE = 0, PEER_HELLO, PEER_ATTACHED, PEER_LEAVING };

struct peer {
    struct keeper_node keeper_node; /* first: its distance to the owner word is that of the pages */
    TAILQ_ENTRY(peer) link;         /* free, hello or hot, by state */
    TAILQ_ENTRY(peer) blocked_link; /* peers with a blocked lane */
    TAILQ_ENTRY(peer) store_link;   /* peers that the fd store had no room for yet */
    struct quota_user *user;
    char *c2d;
    char *d2c;
    uint64_t since_ns;
    uint64_t region_bytes; /* charged */
    uint64_t bells_seen;
    uint64_t bells_asked;
    uint64_t features;
    uint32_t slot;
    uint32_t generation; /* of the slot: tells late events of its predecessor */
    uint32_t uid;
    uint32_t pid;
    int32_t socket_fd;
    int32_t c2d_fd;
    int32_t bell_fd;
    int32_t pid_fd;
    int32_t d2c_fd;      /* only while the peer waits for the fd store; otherwise -1 */
    uint16_t version;    /* of the ABI, as negotiated */
    uint32_t daemon_cpu; /* as last published */
    uint16_t lanes_hot;  /* bit i: lane i is polled */
    uint8_t state;
    uint8_t stores;   /* bit i: descriptor i is still to be given to the fd store */
    uint8_t removals; /* bit i: fd-store name i is still to be removed */
    bool hot;
    bool blocked;
    bool stored; /* the fd store holds some of its descriptors */
    bool kept;   /* all four: the next daemon goes on with it */
    struct wire_geometry geometry;
    struct lane lanes[DYNASOR_LANES_MAX];
};
_Static_assert(sizeof(struct peer) <= PEER_PAGE_BYTES, "a peer is one page");

struct job { /* by program handle */
    uint64_t program_id;
    uint64_t submit_pos;
    uint64_t prompt_off; /* in the prompt pool; ARENA_FULL: none */
    uint32_t prompt_bytes;
    uint32_t slot;
    uint32_t index;
    uint32_t blocked_next;
    uint8_t lane;
    bool blocked;
};

struct ipc; /* state.h */

struct peer *peer_take(struct ipc *ipc);                     /* NULL: at the limit */
struct peer *peer_take_slot(struct ipc *ipc, uint32_t slot); /* NULL: taken, or at the limit */
void peer_untake(struct ipc *ipc, struct peer *peer);        /* the slot is free again */
/* Charge the connection, then its regions, to the peer's uid: 0, or -EDQUOT with the fault. */
int peer_charge_connection(struct ipc *ipc, struct peer *peer, struct wire_fault *fault);
int peer_charge_region(struct ipc *ipc, struct peer *peer, struct wire_fault *fault);
void peer_close(struct ipc *ipc, struct peer *peer, const struct wire_fault *reason);
/* Maps the regions and starts the lanes of a peer whose descriptors, geometry, uid and user are set.
 * uuid: 16 bytes of the hello; NULL: the region lived on, go on where it says. */
int peer_attach(struct ipc *ipc, struct peer *peer, int d2c_fd, const uint8_t *uuid);
/* Says that the region is ours: owner word, robust list, generation. After the region is right. */
void peer_own(struct ipc *ipc, struct peer *peer);
void peer_watch(struct ipc *ipc, struct peer *peer); /* polls its socket */
void peer_watch_session(struct ipc *ipc,
                        struct peer *peer); /* and, attached, its doorbell and process */
void peer_heat(struct ipc *ipc, struct peer *peer, uint32_t lanes_mask); /* into the poll set */
void peer_violation(struct ipc *ipc, struct peer *peer, const struct wire_fault *fault);
void peer_store(struct ipc *ipc, struct peer *peer, int d2c_fd); /* into the fd store */
void peer_store_retry(struct ipc *ipc);                          /* those that it had no room for */
int peer_store_remove(uint32_t slot, int kind);                  /* kind: s, c, d, e as 0 .. 3 */
bool peer_leave(struct ipc *ipc, struct peer *peer);             /* out of it; false: try again */
