/* One lane of a client's two regions, laid out in a run's memory as in the memory files. */
#pragma once
#include "bench_util.h"
#include "shm/bell.h"
#include "shm/region.h"

struct ring_region {
    struct wire_geometry geometry;
    uint8_t *c2d;
    uint8_t *d2c;
    struct region_c2d_lane *client_line;
    struct region_d2c_lane *daemon_line;
};

static inline void ring_region_init(struct ring_region *r, struct bench_run *run)
{
    region_geometry_init(&r->geometry, 1, DYNASOR_ARENA_BYTES_MIN);
    r->c2d = run->memory;
    r->d2c = run->memory + r->geometry.c2d_bytes;
    r->client_line = region_c2d_lane(r->c2d, 0);
    r->daemon_line = region_d2c_lane(r->d2c, &r->geometry, 0);
    if (r->geometry.c2d_bytes + r->geometry.d2c_bytes > BENCH_MEMORY_BYTES)
        bench_fail(run, "the regions of one lane do not fit the run's memory");
}
