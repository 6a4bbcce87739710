#include <errno.h>
#include <sched.h>
#include <stdlib.h>

#include "kernels/cpu/group.h"
#include "shm/atomic.h"

struct ops_group {
    uint32_t ranks_count;
    uint32_t arrived;
    uint32_t round;
    uint64_t shown[GROUP_RANKS_MAX];
};

int cpu_group_new(uint32_t ranks_count, struct ops_group **ret_group)
{
    if (ranks_count < 1 || ranks_count > GROUP_RANKS_MAX)
        return -EINVAL;
    struct ops_group *g = calloc(1, sizeof *g);
    if (!g)
        return -ENOMEM;
    g->ranks_count = ranks_count;
    *ret_group = g;
    return 0;
}

void cpu_group_free(struct ops_group *group)
{
    free(group);
}

uint32_t cpu_group_count(const struct ops_group *group)
{
    return group->ranks_count;
}

static void meet(struct ops_group *g)
{
    uint32_t round = shm_load_u32(&g->round);
    if (shm_fetch_add_full_u32(&g->arrived, 1) + 1 == g->ranks_count) {
        shm_store_u32(&g->arrived, 0);
        (void)shm_fetch_add_full_u32(&g->round, 1);
        return;
    }
    /* Ranks may share a processor with each other: spinning long would keep the others from coming. */
    for (uint32_t i = 0; shm_load_acquire_u32(&g->round) == round; i++) {
        if (i < 1000)
            __builtin_ia32_pause();
        else
            (void)sched_yield();
    }
}

void cpu_group_show(struct ops_group *g, uint32_t rank, const void *data)
{
    shm_store_u64(&g->shown[rank], (uintptr_t)data);
    meet(g);
}

const void *cpu_group_of(struct ops_group *g, uint32_t rank)
{
    return (const void *)(uintptr_t)shm_load_u64(&g->shown[rank]);
}

void cpu_group_done(struct ops_group *g)
{
    meet(g);
}
