/* tests/gpu/test_wide.c: on a GPU, all that tests/unit/test_cuda_wide.c asks of the emulation, with more rows and
 * longer contexts. */
/* serial */
/* timeout: 900 */
#define ON_GPU 1
#include "tests/gpu/backend.h"

const struct ops *wide_ops(void);
const struct ops *wide_ops(void)
{
    return gpu_ops(1);
}

#include "tests/unit/test_cuda_wide.c"
