/* tests/lib/ground.h — a device of any backend of kernels/ops.h and memory on it, for tests of single
 * operations. Memory holds NaN when it is taken: what an operation forgets to write shows.
 *
 * Thread: one for each ground. Memory: of the device's slab, taken upwards; used set back gives it
 * back. Fails: ends the test. */
#pragma once
#include "kernels/ops.h"
#include "tests/lib/check.h"

#define GROUND_BYTES (96u << 20)
#define GROUND_ROWS_MAX 1024u
#define GROUND_K_MAX 1024u
#define GROUND_VOCABULARY_MAX 33000u

struct ground {
    const struct ops *ops;
    struct ops_device *device;
    enum ops_dtype activation;
    uint64_t used;
};

struct ground ground_open(const struct ops *ops, enum ops_dtype activation, uint32_t threads);
void ground_close(struct ground *g);

void *ground_take(struct ground *g, uint64_t bytes);
void *ground_take_filled(struct ground *g, uint64_t bytes, int byte);
void *ground_put(struct ground *g, const void *from, uint64_t bytes);

/* Floats to and from the device's activation type. */
uint64_t ground_act_bytes(const struct ground *g);
void *ground_put_act(struct ground *g, const float *from, uint64_t count);
void ground_get_act(struct ground *g, float *to, const void *from, uint64_t count);

uint16_t bf16_of(float x);
float of_bf16(uint16_t x);

uint32_t draw(struct rng *rng, uint32_t least, uint32_t most);
float draw_float(struct rng *rng); /* about normal, variance 1 */
