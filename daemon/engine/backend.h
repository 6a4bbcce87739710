/* daemon/engine/backend.h — which backend of kernels/ops.h an engine runs on, the CPU at its best level or GPUs,
 * and which role lies on which of its devices.
 *
 * A place is devices that hold roles together. The first has the policy, split over its ranks, and every role that
 * is not sent elsewhere; each other one is a GPU with the roles that are sent to it, whole. Without GPUs there is
 * one place.
 *
 * Replicas have the same places, one replica's GPUs behind another's. The first opens the libraries and takes the
 * GPUs for all of them: what a library is told, it is told once.
 *
 * Owns: the locks of all its GPUs, until the first replica's is closed. Thread: control. Memory: none of its own. Time: without a driver
 * under a millisecond, with one seconds. Fails: -errno with a sentence that names the option, the driver, the GPU or
 * the file; with ENGINE_BACKEND_AUTO only where there are GPUs, but not the one that was asked for: otherwise the
 * CPU is taken, and note says why. ENGINE_E_BROKE: with ENGINE_BACKEND_CUDA, GPUs that do not answer as they ought
 * to. */
#pragma once
#include "daemon/engine/engine.h"
#include "kernels/cuda/cuda.h"

struct backend_place {
    uint32_t gpu; /* of the first rank; meaningless without GPUs */
    uint32_t ranks_count;
    uint32_t device_first; /* of the first rank, among the backend's */
    uint64_t memory_bytes; /* for each rank */
};

struct backend {
    const struct ops *ops;
    struct backend_place places[ENGINE_ROLE_COUNT];
    uint32_t places_count;
    uint32_t place_of[ENGINE_ROLE_COUNT];
    struct cuda_gpus gpus;      /* ops NULL: not on GPUs */
    char note[CUDA_TEXT_BYTES]; /* for the operator: which GPUs, or why none; "": nothing to say */
};

int backend_open(const struct engine_config *config, char message[ENGINE_MESSAGE_BYTES],
                 struct backend *ret_backend);
/* Of a further replica, beside the first one's. Cannot fail. */
void backend_beside(const struct backend *first, const struct engine_config *config,
                    struct backend *ret_backend);
/* For tests: this table, on the host's memory; with the places that GPUs would have. */
int backend_on(const struct ops *ops, const struct engine_config *config,
               char message[ENGINE_MESSAGE_BYTES], struct backend *ret_backend);
void backend_close(struct backend *backend); /* its devices are closed before */

/* What its libraries say of the first failure; "" if they say nothing. */
void backend_failure(const struct backend *backend, char text[CUDA_TEXT_BYTES]);
/* Whether result of one of its calls, or of what they were made for, is that of a device which broke, rather than
 * one of a wrong file, of too little memory and the like. */
bool backend_broke(const struct backend *backend, int result);
