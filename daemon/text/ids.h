/* daemon/text/ids.h — where encoding puts token ids: the caller's array, which may fill up.
 *
 * Thread: one. Memory: the caller's. Fails: by its flag full, and then no more is stored. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct ids {
    uint32_t *ids;
    uint32_t count;
    uint32_t count_max;
    bool full; /* one more did not fit */
};

static inline void ids_add(struct ids *to, uint32_t id)
{
    if (to->count < to->count_max)
        to->ids[to->count++] = id;
    else
        to->full = true;
}
