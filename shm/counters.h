/* shm/counters.h — the daemon's counters page: observing the daemon costs it nothing.
 *
 * One memfd of the daemon's, handed out read-only over the control socket. Every word has one
 * writer, the control thread, and is stored relaxed; a reader sees values that are each right and
 * together about right. The table below is the page: a row is name, unit, help. */
#pragma once
#include "shm/wire.h"

#define COUNTERS_TABLE(X)                                                                          \
    X(clients, "clients", "connected clients")                                                     \
    X(clients_accepted, "clients", "sessions opened since start")                                  \
    X(clients_refused, "clients", "connections refused: limit, quota, version")                    \
    X(clients_violated, "clients", "sessions ended for a protocol violation")                      \
    X(clients_reattached, "clients", "sessions taken over from the daemon before")                 \
    X(programs_active, "programs", "accepted and not ended")                                       \
    X(programs_accepted, "programs", "accepted since start")                                       \
    X(programs_refused, "programs", "submissions answered with REFUSED")                           \
    X(programs_done, "programs", "ended DONE")                                                     \
    X(programs_cancelled, "programs", "ended CANCELLED")                                           \
    X(programs_failed, "programs", "ended FAILED")                                                 \
    X(programs_paused, "programs", "now paused by a full event ring")                              \
    X(tokens_decoded, "tokens", "tokens from the engine")                                          \
    X(tokens_sent, "tokens", "tokens published to clients")                                        \
    X(steps, "steps", "engine steps")                                                              \
    X(records_taken, "records", "submission records taken")                                        \
    X(events_sent, "events", "events published")                                                   \
    X(payload_reads, "calls", "pread calls for payloads")                                          \
    X(wakes_sent, "calls", "clients woken")                                                        \
    X(sleeps, "calls", "times the control thread slept")                                           \
    X(loops, "turns", "turns of the control loop")                                                 \
    X(loop_max_ns, "ns", "longest turn since start")                                               \
    X(quota_region_bytes, "bytes", "region bytes charged to all uids")                             \
    X(quota_queued_bytes, "bytes", "prompt bytes charged to all uids")                             \
    X(descriptors, "fds", "descriptors held for clients")                                          \
    X(generation, "", "number of this daemon's life")                                              \
    X(started_ns, "ns", "CLOCK_MONOTONIC at start")                                                \
    X(pid, "", "process id")                                                                       \
    X(clients_max, "clients", "limit of clients")                                                  \
    X(programs_logged, "programs", "written to [log] programs since start")                        \
    X(programs_unlogged, "programs", "that should have been: slow or full disk")                   \
    X(rows, "rows", "branches and prompts in engine steps")                                        \
    X(rows_discarded, "rows", "of these, planned ahead in vain")

#define COUNTERS_MAGIC 0x3153544e43594444ull /* "DDYCNTS1" */
#define COUNTERS_VERSION 1u

enum counters_index {
#define X(name, unit, help) COUNTER_##name,
    COUNTERS_TABLE(X)
#undef X
        COUNTERS_COUNT
};

struct counters_row { /* one connected client; state 0: free row */
    uint32_t state;   /* 1: connected */
    uint32_t slot;
    uint32_t uid;
    uint32_t pid; /* at connect, for people */
    uint64_t programs_active;
    uint64_t programs_accepted;
    uint64_t tokens_sent;
    uint64_t events_sent;
    uint64_t region_bytes;
    uint64_t queued_bytes;
};
WIRE_ASSERT(sizeof(struct counters_row) == 64);

struct counters_page {
    uint64_t magic; /* stored last */
    uint32_t version;
    uint32_t counters_count;
    uint32_t rows_count; /* clients_max of the daemon */
    uint32_t rows_off;   /* bytes from the start of the page */
    uint64_t reserved[5];
    uint64_t value[COUNTERS_COUNT];
};
WIRE_ASSERT(offsetof(struct counters_page, value) == 64);

static inline void counter_add(struct counters_page *page, enum counters_index i, uint64_t v)
{
    shm_store_u64(&page->value[i],
                  page->value[i] + v); /* the only writer: a plain read is enough */
}

static inline void counter_set(struct counters_page *page, enum counters_index i, uint64_t v)
{
    shm_store_u64(&page->value[i], v);
}

static inline void row_add(uint64_t *word, uint64_t v)
{
    shm_store_u64(word, *word + v); /* likewise */
}

/* Control socket: AF_UNIX SEQPACKET, one request and one reply a connection or more. */
enum control_op {
    CONTROL_OP_STATUS = 1,
    CONTROL_OP_GET = 2,          /* "KEY" */
    CONTROL_OP_SET = 3,          /* "KEY\nVALUE"; root and the daemon's own user only */
    CONTROL_OP_PROFILE_LIST = 4, /* "" */
    CONTROL_OP_PROFILE_SHOW = 5, /* "NAME" */
    CONTROL_OP_PROFILE_LOAD = 6, /* "PATH\nCONTENTS"; likewise */
};

/* Text behind a request, and behind its reply: what was asked for, or why it is refused. */
#define CONTROL_TEXT_BYTES_MAX 65536u

struct control_request {
    uint64_t magic; /* CONTROL_MAGIC */
    uint16_t version;
    uint16_t op; /* enum control_op */
    uint32_t reserved;
};
WIRE_ASSERT(sizeof(struct control_request) == 16);

struct control_reply { /* to STATUS with one descriptor when status is 0: the counters page */
    uint64_t magic;
    uint16_t version;
    uint16_t status; /* enum dynasor_status */
    uint32_t reserved;
    uint64_t page_bytes;
    char daemon_version[32]; /* NUL-terminated */
    char socket_path[112];   /* of the client socket, NUL-terminated */
};
WIRE_ASSERT(sizeof(struct control_reply) == 168);
#define CONTROL_MAGIC 0x314c544344594444ull /* "DDYDCTL1" */
#define CONTROL_VERSION 1u
#define CONTROL_SOCKET_PATH "/run/dynasor/control.sock"
