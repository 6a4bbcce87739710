#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "kernels/cpu/group.h"

struct ops_group {
    uint32_t ranks_count;
    _Atomic uint32_t arrived;
    _Atomic uint32_t round;
    const void *_Atomic shown[GROUP_RANKS_MAX];
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
    uint32_t round = atomic_load_explicit(&g->round, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&g->arrived, 1, memory_order_acq_rel) + 1 == g->ranks_count) {
        atomic_store_explicit(&g->arrived, 0, memory_order_relaxed);
        atomic_fetch_add_explicit(&g->round, 1, memory_order_release);
        return;
    }
    /* Ranks may share a processor with each other: spinning long would keep the others from coming. */
    for (uint32_t i = 0; atomic_load_explicit(&g->round, memory_order_acquire) == round; i++) {
        if (i < 1000)
            __builtin_ia32_pause();
        else
            (void)sched_yield();
    }
}

void cpu_group_show(struct ops_group *g, uint32_t rank, const void *data)
{
    atomic_store_explicit(&g->shown[rank], data, memory_order_relaxed);
    meet(g);
}

const void *cpu_group_of(struct ops_group *g, uint32_t rank)
{
    return atomic_load_explicit(&g->shown[rank], memory_order_relaxed);
}

void cpu_group_done(struct ops_group *g)
{
    meet(g);
}
