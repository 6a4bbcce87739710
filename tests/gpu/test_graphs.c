/* tests/gpu/test_graphs.c: graphs equal launches on a GPU, bit for bit, through all that
 * tests/unit/test_cuda_graphs.c asks of the emulation, with more rows and steps; two ranks share the GPU. */
/* serial */
/* timeout: 600 */
#define ON_GPU 1
#include "tests/gpu/backend.h"

const struct ops *graphs_ops(uint32_t ranks_count);
const struct ops *graphs_ops(uint32_t ranks_count)
{
    return gpu_ops(ranks_count);
}

#include "tests/unit/test_cuda_graphs.c"
