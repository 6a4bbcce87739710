/* tests/lib/fake.h — a daemon in the test's own process, driven by hand: it answers hello, takes
 * records and publishes events when the test says so, and can be wrong in every way that a client
 * library has to survive.
 *
 * Fails: CHECK ends the test. */
#pragma once
#include <pthread.h>

#include "dynasor/client.h"
#include "shm/bell.h"
#include "shm/region.h"
#include "tests/lib/check.h"

enum fake_wrong { /* what is wrong with the descriptors */
                  FAKE_RIGHT = 0,
                  FAKE_NO_FDS,
                  FAKE_TWO_FDS,
                  FAKE_FDS_SWAPPED,
                  FAKE_D2C_SHORT,
                  FAKE_DOORBELL_PIPE,
                  FAKE_HEADER_BLANK,
                  FAKE_HEADER_FOREIGN,
};

/* Zero means: as a good daemon does it. */
struct fake_reply {
    uint16_t version;
    uint16_t version_min;
    uint64_t layout_hash;
    struct wire_fault fault;
    uint64_t features; /* UINT64_MAX: none */
    uint32_t max_tokens_max;
    uint64_t prompt_bytes_max;
    uint64_t reply_bytes; /* cut to this */
    uint32_t lanes_count; /* geometry for another number of lanes */
    uint64_t generation;
    enum fake_wrong wrong;
};

struct fake_session {
    int fd;
    int doorbell_fd;
    struct wire_hello hello;
    struct wire_geometry geometry;
    char *c2d;
    char *d2c;
    uint64_t d2c_bytes; /* mapped */
    struct region_d2c_header *header;
    struct ring_rx submissions[DYNASOR_LANES_MAX];
    struct ring_tx events[DYNASOR_LANES_MAX];
    uint32_t answered[DYNASOR_LANES_MAX];
    uint32_t tickets[DYNASOR_LANES_MAX]; /* our need */
};

struct fake {
    char path[108];
    int listen_fd;
    struct fake_reply reply; /* of the next session */
    struct fake_session *accepted;
    pthread_t thread;
};

void fake_open(struct fake *f); /* listens; path is new and short */
void fake_close(struct fake *f);
void fake_listen(struct fake *f); /* again, at the same path */

/* Accepts one connection in a thread and answers it; fake_join() returns the session, or NULL when
 * the answer was a refusal. */
void fake_serve(struct fake *f);
struct fake_session *fake_join(struct fake *f);
void fake_session_free(struct fake_session *s); /* hangs up */

/* Connects a client to a session of f; options may be NULL. */
struct fake_session *fake_connect(struct fake *f, const struct dynasor_connect_options *options,
                                  struct dynasor_client **ret_client);

/* The next record of a lane; false when there is none. Waits up to 2 s in fake_expect(). */
bool fake_take(struct fake_session *s, uint32_t lane, union wire_record *record);
union wire_record fake_expect(struct fake_session *s, uint32_t lane, enum wire_op op);
const char *fake_prompt(const struct fake_session *s, const struct wire_submit *submit,
                        uint32_t *ret_bytes, struct wire_spec *ret_spec);

bool fake_room(struct fake_session *s, uint32_t lane);
void fake_event(struct fake_session *s, uint32_t lane, const union wire_event *event);
/* Token i of a stream of tests is fake_token(seed, i). */
uint32_t fake_token(uint64_t seed, uint64_t position);
void fake_tokens(struct fake_session *s, uint32_t lane, const struct wire_submit *submit,
                 uint32_t position, uint8_t count);
void fake_text(struct fake_session *s, uint32_t lane, const struct wire_submit *submit,
               uint64_t position, const char *text);
void fake_end(struct fake_session *s, uint32_t lane, const struct wire_submit *submit,
              enum dynasor_state state, enum dynasor_status status, uint32_t tokens_count);
void fake_refuse(struct fake_session *s, uint32_t lane, const struct wire_submit *submit,
                 const struct wire_fault *fault);

void fake_need(struct fake_session *s, uint32_t lane, bool raised);
uint64_t fake_bells(struct fake_session *s); /* doorbell counter since the last call */
void fake_die(struct fake_session *s);       /* as the kernel does: word, and one sleeper woken */
void fake_adopt(struct fake_session *s,
                uint64_t generation); /* a new daemon takes the region over */
void fake_bye(struct fake_session *s, const struct wire_fault *fault);
