/* kernels/cpu/group.h — ranks of one process that look at each other's memory.
 *
 * Thread: each rank's own. Memory: heap. Time: waits for the slowest rank. */
#pragma once
#include "kernels/cpu/internal.h"

#define GROUP_RANKS_MAX 8u

int cpu_group_new(uint32_t ranks_count, struct ops_group **ret_group);
void cpu_group_free(struct ops_group *group);
uint32_t cpu_group_count(const struct ops_group *group);
/* Shows data to the others and waits until all have shown theirs. */
void cpu_group_show(struct ops_group *group, uint32_t rank, const void *data);
const void *cpu_group_of(struct ops_group *group, uint32_t rank);
/* Nobody looks any more, when it returns. */
void cpu_group_done(struct ops_group *group);
