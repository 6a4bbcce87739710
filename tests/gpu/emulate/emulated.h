/* tests/gpu/emulate/emulated.h — the CUDA backend over fake_api.h, for tests of kernels/ops.h.
 *
 * Thread: one opens. Memory: static. */
#pragma once
#include "kernels/cuda/backend.h"
#include "tests/gpu/emulate/fake_api.h"

/* The emulation has its own stacks and stands where a sanitizer would. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define EMULATION_OFF 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define EMULATION_OFF 1
#endif
#endif
#ifndef EMULATION_OFF
#define EMULATION_OFF 0
#endif
#define EMULATION_SKIPPED "kernels on the host do not run under a sanitizer"

/* The backend; devices: of each rank. Limits and faults as fake_reset() says. */
const struct ops *emulated_ops(uint32_t ranks_count, const int *devices);
int cuda_backend_start(void); /* of kernels/cuda, on the same devices */
