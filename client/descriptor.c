#include "client/parts.h"

int dynasor_descriptor(struct dynasor_client *client)
{
    struct dynasor_client *c = client;
    if (!c)
        return -DYNASOR_E_INVALID;
    if (shm_load_u64(c->pulse) == 0)
        return -DYNASOR_E_CLOSED;
    pthread_mutex_lock(&c->mutex);
    int rc;
    if (c->end_status != 0)
        rc = -(int)c->end_status;
    else if (shm_load_u32(&c->mapping->lost))
        rc = -DYNASOR_E_RESTARTING;
    else if ((c->mapping->features & WIRE_FEATURE_DESCRIPTOR) == 0)
        rc = -DYNASOR_E_UNSUPPORTED;
    else
        rc = c->mapping->socket_fd;
    pthread_mutex_unlock(&c->mutex);
    return rc;
}

int dynasor_arm(struct dynasor_lane *lane)
{
    if (!lane)
        return -DYNASOR_E_INVALID;
    struct dynasor_client *c = lane->client;
    struct channel *ch = lane->channel;
    if (shm_load_u64(c->pulse) == 0)
        return reason_say(lane->reason, DYNASOR_E_CLOSED, NULL);
    if (ch->guarded)
        return reason_say(lane->reason, DYNASOR_E_UNSUPPORTED,
                          "lanes beyond lanes_count share one and cannot be armed");
    int rc = resume_channel(c, ch, lane->reason, 0);
    if (rc)
        return rc;
    if ((ch->mapping->features & WIRE_FEATURE_DESCRIPTOR) == 0)
        return reason_say(lane->reason, DYNASOR_E_UNSUPPORTED,
                          "this daemon does not wake descriptors");
    next_credit_all(ch);
    if (ch->unsent_count) /* nothing makes the descriptor readable when there is room for them */
        return reason_say(
            lane->reason, DYNASOR_E_RESTARTING,
            "programs from before the restart are still being submitted: take events, "
            "call again in 10 ms");
    ch->described = true;
    wait_arm(ch, REGION_NEED_MESSAGE);
    if (ring_rx_peek(&ch->rx) != RING_EMPTY || channel_troubled(c, ch)) {
        wait_disarm(ch);
        return 1;
    }
    ch->armed = true;
    return 0;
}
