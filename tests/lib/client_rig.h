/* tests/lib/client_rig.h — a client of the library on one session of the test's own daemon, with lanes open.
 *
 * A test that needs more makes a struct that begins with this one. Memory: client_rig_new() until
 * client_rig_teardown(), which is as cmocka wants it. Fails: CHECK ends the test. */
#pragma once
#include "tests/lib/fake.h"

#define CLIENT_RIG_LANES_MAX 8u

struct client_rig {
    struct fake f;
    struct dynasor_client *client;
    struct fake_session *s; /* NULL: there is none any more */
    struct dynasor_lane *lane[CLIENT_RIG_LANES_MAX];
};

/* bytes: of the struct that begins with it, zeroed. options and reply may be NULL. */
void *client_rig_new(size_t bytes, const struct dynasor_connect_options *options,
                     const struct fake_reply *reply, uint32_t lanes_count);
int client_rig_teardown(void **state);

struct dynasor_event lane_next(struct dynasor_lane *lane); /* waits for it */
void lane_quiet(struct dynasor_lane *lane);                /* it has none */
