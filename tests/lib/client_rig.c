#include "tests/lib/client_rig.h"

#include <stdlib.h>

void *client_rig_new(size_t bytes, const struct dynasor_connect_options *options,
                     const struct fake_reply *reply, uint32_t lanes_count)
{
    struct client_rig *r = calloc(1, bytes);
    CHECK(r && lanes_count <= CLIENT_RIG_LANES_MAX, "%u lanes", lanes_count);
    fake_open(&r->f);
    if (reply)
        r->f.reply = *reply;
    r->s = fake_connect(&r->f, options, &r->client);
    for (uint32_t i = 0; i < lanes_count; i++) {
        int rc = dynasor_lane_open(r->client, &r->lane[i]);
        CHECK(rc == 0, "lane %u: %s", i, dynasor_status_name(rc));
    }
    return r;
}

int client_rig_teardown(void **state)
{
    struct client_rig *r = *state;
    dynasor_disconnect(r->client);
    if (r->s)
        fake_session_free(r->s);
    fake_close(&r->f);
    free(r);
    return 0;
}

struct dynasor_event lane_next(struct dynasor_lane *lane)
{
    struct dynasor_event event;
    int rc = dynasor_next(lane, &event, NS_PER_S);
    CHECK(rc == 0, "next: %s: %s", dynasor_status_name(rc), dynasor_error(lane));
    return event;
}

void lane_quiet(struct dynasor_lane *lane)
{
    struct dynasor_event event;
    int rc = dynasor_next(lane, &event, 0);
    CHECK(rc == -DYNASOR_E_TIMEOUT, "next: %s", dynasor_status_name(rc));
}
