/* kernels/cpu/moves.h — the operations that move or convert and need no vectors: loading, embedding, angles,
 * gathering, pooling, pages, ranks. Arguments and meaning as in ops.h. */
#pragma once
#include "kernels/cpu/internal.h"

int cpu_load(struct ops_device *device, const struct ops_load *load);
void cpu_copy_in(struct ops_device *device, void *to, const void *host_from, uint64_t bytes);
void cpu_copy_out(struct ops_device *device, void *host_to, const void *from, uint64_t bytes);
void cpu_embed(struct ops_device *device, const struct ops_embed *args);
void cpu_rope_angles(struct ops_device *device, const struct ops_rope_angles *args);
void cpu_gather(struct ops_device *device, const struct ops_gather *args);
void cpu_pool_rows(struct ops_device *device, const struct ops_pool *args);
void cpu_pages_copy(struct ops_device *device, const struct ops_pages_copy *args);
void cpu_pages_poison(struct ops_device *device, const struct ops_pages_poison *args);
void cpu_all_reduce(struct ops_device *device, const struct ops_all_reduce *args);
void cpu_all_gather(struct ops_device *device, const struct ops_all_gather *args);
