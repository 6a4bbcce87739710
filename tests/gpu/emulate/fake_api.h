/* tests/gpu/emulate/fake_api.h — the table of kernels/cuda/api.h without a GPU: streams that do their work late,
 * kernels by simt.h, errors where they are asked for, counts.
 *
 * Work is queued and done piece by piece when somebody asks whether it is done, as late as the real thing
 * may: memory that is pinned is read only then, other memory at once. A stream that captures keeps launches
 * and gathers for a graph; whatever else is asked of it ends the test. So does a call for a device that is not
 * the thread's, or one that would wait for a device that hangs. NCCL's calls go on for a while after they
 * have returned. What is still allocated shows in the counts. Thread: any. */
#pragma once
#include "kernels/cuda/api.h"
#include "tests/gpu/emulate/simt.h"

#define FAKE_ERROR 719              /* cudaErrorLaunchFailure, one that stays */
#define FAKE_COMM_ERROR 3           /* ncclInternalError */
#define FAKE_GRAPH_BYTES (1u << 20) /* that a graph takes of free memory */

struct fake_config {
    uint64_t seed;
    uint32_t devices_count;
    uint64_t memory_bytes;       /* free, as a device says */
    uint64_t fail_call;          /* the number of the call that fails, from 1; 0: none */
    uint64_t fail_graph;         /* or the graph launch that fails: none is at start-up */
    uint64_t hang_graph;         /* or from which on nothing is ever done */
    uint32_t graph_device_first; /* both count launches on this device and those behind it */
    int fail_error;              /* of the runtime; NCCL's calls fail with: */
    int fail_comm_error;         /* 0: FAKE_COMM_ERROR */
    uint64_t
        hang_call; /* from this call on nothing is ever done, and what waits for it ends the test */
    bool fail_stays;           /* and every call after it */
    uint32_t shared_bytes_max; /* of a block */
    bool hangs;                /* no work is ever done */
    bool has_nccl;
    bool virtual_time; /* 100 milliseconds pass whenever a thread gives way, otherwise none */
    bool idle;         /* kernels are counted, not run; copies are made at once; memory is 0 */
    bool lean;         /* memory is left as it comes, and not filled: values do not matter */
    void (*launched)(const struct cuda_launch *launch, const struct simt_counts *counts);
};

struct fake_counts {
    uint64_t calls;
    uint64_t launches;
    uint64_t launch_bytes; /* by the operations' formulas */
    uint64_t copied_bytes;
    uint64_t filled_bytes;
    uint64_t graphs;   /* made, and not freed */
    uint64_t replayed; /* launches out of graphs; launches above are those of the table */
    uint64_t live;     /* memories, streams, events, communicators, graphs that were not freed */
    uint64_t aborted;  /* communicators */
};

void fake_reset(const struct fake_config *config);
void fake_hang(void); /* from now on nothing is ever done */
void fake_fail(uint64_t call,
               int error); /* this call and all after it, counted like counts.calls */
struct fake_counts fake_counts(void);
const char *fake_failed_call(void); /* which call fail_call was; "" if it did not come to it */
const struct cuda_api *fake_api(void);
