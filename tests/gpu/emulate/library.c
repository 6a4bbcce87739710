/* tests/gpu/emulate/library.c: stands where api.cu does in a libdynasor-cuda.so whose device is the emulation,
 * so that whole programs run on it. EMULATED_FAIL_CALL: the number of the call from which on all fail;
 * EMULATED_HANG_CALL: from which on nothing is ever done, and time flies. EMULATED_FAIL_GRAPH, EMULATED_HANG_GRAPH:
 * the same of launches of graphs, on device EMULATED_GRAPH_DEVICE and those behind it. EMULATED_BYTES: free memory of
 * each of its EMULATED_DEVICES, 2. EMULATED_NCCL: 1, there is one. */
#include <stdlib.h>

#include "tests/gpu/emulate/fake_api.h"
#include "tests/lib/check.h"

const struct cuda_api *cuda_api_real(void)
{
    fake_reset(&(struct fake_config){
        .devices_count = (uint32_t)check_number("EMULATED_DEVICES", 2),
        .memory_bytes = check_number("EMULATED_BYTES", 1u << 30),
        .shared_bytes_max = 99u << 10,
        .fail_graph = check_number("EMULATED_FAIL_GRAPH", 0),
        .fail_call = check_number("EMULATED_FAIL_CALL", 0),
        .hang_call = check_number("EMULATED_HANG_CALL", 0),
        .hang_graph = check_number("EMULATED_HANG_GRAPH", 0),
        .graph_device_first = (uint32_t)check_number("EMULATED_GRAPH_DEVICE", 0),
        .virtual_time =
            check_number("EMULATED_HANG_CALL", 0) + check_number("EMULATED_HANG_GRAPH", 0) > 0,
        .has_nccl = check_number("EMULATED_NCCL", 0),
        .fail_error = FAKE_ERROR,
        .fail_stays = true});
    return fake_api();
}
