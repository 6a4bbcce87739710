/* tests/gpu/test_ahead.c: steps planned while another runs, on a GPU that two ranks share: what
 * tests/unit/test_cuda_ahead.c asks of the emulation. */
/* serial */
/* timeout: 600 */
#define ON_GPU 1
#include "tests/gpu/backend.h"

const struct ops *ahead_ops(uint32_t ranks_count);
const struct ops *ahead_ops(uint32_t ranks_count)
{
    return gpu_ops(ranks_count);
}

#include "tests/unit/test_cuda_ahead.c"
