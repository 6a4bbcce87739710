/* client/internal.h — what the files of the library share.
 *
 * A client is one session; it survives reconnects, its mapping does not. A channel is one lane of
 * the wire: a submission ring and an event ring. A struct dynasor_lane is a handle on a channel of
 * its own or, beyond those, on the last one, which is guarded by a mutex.
 *
 * Who may touch what: a channel belongs to the thread of its handle (guarded: to whoever holds its
 * mutex; its receiving end and its mapping to the thread that leads it; without a handle: to whoever
 * holds client.lanes_mutex). An entry of the program table belongs to the channel in its tag. A mapping
 * is kept alive by references, counted under client.mutex.
 * Locks, outer first: guarded channel, lanes_mutex, resume_mutex, socket_mutex, mutex; arena_mutex. */
#pragma once
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dynasor/client.h"
#include "shm/arena.h"
#include "shm/bell.h"
#include "shm/region.h"
#include "shm/spin.h"

#define PROGRAMS_WORDS (DYNASOR_PROGRAMS_MAX / 64u)
#define PROGRAM_NONE UINT32_MAX
/* Belt: no sleep depends on a wake for longer, first the one, then twice as long each time up to the
 * other: ten looks a second of 12,000 sleepers keep a machine busy. */
#define BELT_MIN_NS 100000000ull
#define BELT_MAX_NS 1600000000ull
#define SLEEP_SIMPLE_NS 25000000ull /* the same where nothing tells that the daemon died */
#define AWAY_MAX_NS 400000000ull    /* calls wait half to all of it for a daemon that is away */
#define AWAY_BRIEF_NS 10000000ull   /* the same for calls that do not wait for events */
#define BACKOFF_MIN_NS 30000000ull  /* thousands of clients try at the same time */
#define UNSENT_POLL_NS 1000000ull
#define BACKOFF_MAX_NS 400000000ull
#define QUEUE_SLOTS 256u /* events that a handle of the guarded channel may leave unread */

/* Why a call failed, as numbers; text is made when somebody asks for it (error.c). */
enum reason_kind { REASON_NONE, REASON_FIELD, REASON_CALL, REASON_SENTENCE };
struct reason {
    enum reason_kind kind;
    int error_number;    /* CALL */
    const char *subject; /* FIELD: its name, CALL: what was called, SENTENCE: the sentence */
    struct wire_fault fault;
    char text[256];
};

/* The regions and descriptors of one connection. */
struct mapping {
    char *c2d;
    char *d2c;
    struct wire_geometry geometry;
    uint64_t features;
    uint64_t prompt_bytes_max;
    uint64_t epoch; /* client.pulse when it was the newest */
    uint32_t max_tokens_max;
    uint32_t refs_count; /* under client.mutex */
    uint32_t lost;       /* the socket hung up; atomic */
    uint64_t death_told; /* generation of the owner after whose death sleepers were woken; atomic */
    int socket_fd;
    int doorbell_fd;
    pthread_mutex_t socket_mutex; /* one reader at a time: messages are handled in order */
    pthread_mutex_t arena_mutex;
    struct arena *arena; /* of the payloads in C2D */
};

enum program_phase {
    PHASE_FREE = 0,
    PHASE_UNSENT, /* after a reconnect: waits to be submitted again */
    PHASE_SENT,
    PHASE_ENDING, /* END lies in the queue of a handle */
    PHASE_ENDED,
};

struct program {
    uint64_t program_id; /* serial << 9 | index; atomic, read by other lanes; 0: none */
    uint64_t tag; /* handle number << 8 | channel number + 1; atomic, likewise; 0: nobody's */
    uint64_t freed_epoch; /* a limbo entry: where and when its RELEASE was sent; atomic */
    uint64_t freed_at;    /* channel number << 56 | position; atomic */
    uint64_t serial;
    struct dynasor_lane *handle; /* NULL: its handle was closed */
    uint64_t user_data;
    uint64_t submitted_ns;
    uint64_t epoch;          /* session that its last SUBMIT went to */
    uint64_t payload_offset; /* in the arena, or ARENA_FULL */
    uint64_t text_bytes;     /* received */
    uint32_t tokens_count;   /* received */
    uint32_t prompt_bytes;
    char *parcel; /* private copy of the payload between two mappings; NULL in a free entry */
    uint8_t phase;
    uint8_t state;               /* once ended */
    bool refused;                /* never had an entry at the daemon */
    bool cancelled, told, ready; /* told: its RESULT, not yet its END; ready: commands may go */
    uint32_t branches_count;     /* begun */
    union wire_record submit;    /* as last sent */
};

struct channel {
    struct mapping *mapping;
    uint64_t epoch; /* differs from client.pulse: something happened, see resume.c */
    struct ring_tx tx;
    struct ring_rx rx;
    struct region_c2d_lane *c2d_lane;
    const struct region_d2c_lane *d2c_lane;
    const struct region_owner *owner;
    uint64_t published; /* consumed position that the daemon knows */
    uint32_t need_ticket, answered_ticket, need_kind;
    uint32_t unsent_count;
    uint32_t orphans_count;
    uint32_t empty_turns;
    uint64_t belt_ns; /* of the next sleep */
    struct spin spin;
    struct mapping *held;   /* an old mapping in which the last event handed out lies */
    union wire_event ended; /* our copy of the END or refusal that next_take() returned last */
    struct dynasor_branch branch; /* of the event that it returned last */
    struct dynasor_lane *handles;
    uint32_t number;
    bool armed, guarded;
    bool described; /* was armed in this session: a new descriptor must be told */
    bool led;       /* guarded: a thread waits at the rings for all */
    bool stalled;   /* guarded: a handle's queue is full */
    pthread_mutex_t mutex;
} __attribute__((aligned(128)));

struct queued { /* an event that another thread took for this handle */
    struct dynasor_event event;
    union wire_event raw;
    size_t data_off; /* of its tokens or text in raw */
    struct dynasor_branch branch;
};

struct dynasor_lane {
    struct dynasor_client *client;
    struct channel *channel;
    struct reason *reason;
    uint64_t number;
    struct dynasor_lane *next; /* in channel.handles */
    struct queued
        *queue; /* guarded: QUEUE_SLOTS, and one more for the event in the caller's hands */
    uint32_t queue_head;
    uint32_t queue_count;
    bool waiting;
    pthread_cond_t cond;
};

struct attach { /* a connection in the making (attach.c) */
    int fd;     /* hello was sent; -1: none */
    uint64_t retry_ns;
    uint64_t backoff_ns;
    uint64_t answer_until_ns;
    uint64_t refused_since_ns;
    uint64_t random;
};

struct dynasor_client {
    /* On a page that fork() wipes: 0 in a child. Otherwise counts what changed for all channels: a new
     * mapping, the end of the session. */
    uint64_t *pulse;
    struct reason reason;
    const char *error_text; /* of reason, made once: any thread may ask for it */
    char socket_path[108];
    uint8_t uuid[16];
    uint64_t arena_bytes;
    int64_t daemon_uid; /* -1: default rule */
    uint32_t channels_count;
    uint32_t spin_max_ns;
    pthread_mutex_t mutex;
    struct mapping *mapping;     /* the newest; under mutex */
    struct reason end_reason;    /* under mutex */
    pthread_mutex_t lanes_mutex; /* owns channels without a handle, and who has one */
    uint32_t end_status;         /* positive status that every call answers; 0: open; under mutex */
    uint64_t handles_count;      /* ever opened; under lanes_mutex */
    uint64_t reconnects_count;   /* atomic */
    pthread_mutex_t resume_mutex;
    struct attach attach; /* under resume_mutex */
    uint64_t free_bits[PROGRAMS_WORDS] __attribute__((aligned(128)));
    uint64_t limbo_bits[PROGRAMS_WORDS]; /* released; RELEASE perhaps not yet seen by the daemon */
    struct program programs[DYNASOR_PROGRAMS_MAX];
    struct channel channels[DYNASOR_LANES_MAX];
    struct dynasor_result results[DYNASOR_PROGRAMS_MAX]; /* copies; pages touched as they come */
};

static inline bool owner_alive(uint32_t word)
{
    return (word & REGION_OWNER_DIED) == 0 && (word & 0x3fffffffu) != 0;
}

/* The rings cannot be used as they are: see resume.c. */
static inline bool channel_troubled(const struct dynasor_client *c, const struct channel *ch)
{
    return shm_load_u64(c->pulse) != ch->epoch || !owner_alive(shm_load_u32(&ch->owner->word)) ||
           shm_load_u32(&ch->mapping->lost) != 0;
}

/* Nothing happened since the channel was bound; relaxed: seen late, it is seen before sleeping. */
static inline bool channel_steady(const struct dynasor_client *c, const struct channel *ch)
{
    return shm_load_u64(c->pulse) == ch->epoch && owner_alive(shm_load_u32(&ch->owner->word)) &&
           ch->unsent_count == 0;
}
