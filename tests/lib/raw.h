/* tests/lib/raw.h — a client without the library: what an attacker, or a test of one rule of the wire,
 * does by hand. It checks nothing that it sends. */
#pragma once
#include <sys/types.h>

#include "shm/bell.h"
#include "shm/region.h"
#include "tests/lib/check.h"

struct raw_session {
    int fd; /* the socket; -1: none */
    int c2d_fd, d2c_fd, bell_fd;
    uint8_t *c2d;
    const uint8_t *d2c;
    struct wire_reply reply;
    struct ring_tx submit[DYNASOR_LANES_MAX];
    struct ring_rx events[DYNASOR_LANES_MAX];
    uint32_t answered[DYNASOR_LANES_MAX]; /* of the daemon's need tickets */
    uint64_t program_id;                  /* the last one given */
};

void raw_hello(struct wire_hello *hello, uint32_t lanes_count, uint64_t arena_bytes);

/* A connected SEQPACKET socket with a receive timeout of 10 s, or -errno. */
int raw_connect(const char *path);

/* Sends bytes and receives the reply. 0: *ret is a mapped session (the descriptors are its own);
 * > 0: the status of the refusal, which stands in ret->reply; < 0: -errno of what failed,
 * -ECONNRESET when the daemon closed. */
int raw_open_with(struct raw_session *ret, const char *path, const void *hello, size_t hello_bytes);
int raw_open(struct raw_session *ret, const char *path, uint32_t lanes_count, uint64_t arena_bytes);
void raw_close(struct raw_session *s);

/* One record into a lane's ring; false when it has no room. Rings no bell. */
bool raw_push(struct raw_session *s, uint32_t lane, const union wire_record *record);
/* The doorbell as it should be rung: when the daemon asked for it. And whether or not it did. */
void raw_ring(struct raw_session *s);
void raw_ring_rudely(const struct raw_session *s);

/* A correct SUBMIT with an inline prompt, to be pushed as it is or spoilt before. */
void raw_submit_record(union wire_record *record, uint32_t index, uint64_t program_id,
                       uint64_t seed, uint32_t max_tokens);
void raw_op_record(union wire_record *record, enum wire_op op, uint32_t index, uint64_t program_id);

/* Takes the next event of a lane; false when there was none within timeout_ns. */
bool raw_event(struct raw_session *s, uint32_t lane, union wire_event *event, uint64_t timeout_ns);

/* Takes messages from the socket until BYE: 0 with *ret_fault, or -errno (-ECONNRESET: closed without
 * a BYE). WAKE is skipped. */
int raw_bye(struct raw_session *s, struct wire_fault *ret_fault);

/* Whether the daemon has closed the session's socket. Does not wait. */
bool raw_hung_up(const struct raw_session *s);
