#include "tests/lib/ground.h"

#include <stdlib.h>
#include <string.h>

struct ground ground_open(const struct ops *ops, enum ops_dtype activation, uint32_t threads)
{
    struct ground g = {.ops = ops, .activation = activation};
    struct ops_config config = {.slab_bytes = GROUND_BYTES,
                                .activation = activation,
                                .threads_count = threads,
                                .cpu_first = OPS_NONE,
                                .rows_max = GROUND_ROWS_MAX,
                                .vocabulary_max = GROUND_VOCABULARY_MAX,
                                .k_max = GROUND_K_MAX};
    CHECK(ops->open(&config, &g.device) == 0, "%s does not open", ops->name);
    return g;
}

void ground_close(struct ground *g)
{
    g->ops->close(g->device);
}

void *ground_take_filled(struct ground *g, uint64_t bytes, int byte)
{
    void *to = (uint8_t *)g->ops->slab(g->device) + g->used, *from = malloc(bytes + 1);
    g->used += (bytes + OPS_ALIGN_BYTES - 1) / OPS_ALIGN_BYTES * OPS_ALIGN_BYTES;
    CHECK(from && g->used <= GROUND_BYTES, "the test takes more than its slab");
    memset(from, byte, bytes);
    g->ops->copy_in(g->device, to, from, bytes);
    free(from);
    return to;
}

void *ground_take(struct ground *g, uint64_t bytes)
{
    return ground_take_filled(g, bytes, 0xff);
}

void *ground_put(struct ground *g, const void *from, uint64_t bytes)
{
    void *to = ground_take(g, bytes);
    g->ops->copy_in(g->device, to, from, bytes);
    return to;
}

uint64_t ground_act_bytes(const struct ground *g)
{
    return g->activation == OPS_F32 ? 4 : 2;
}

uint16_t bf16_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float of_bf16(uint16_t x)
{
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

void *ground_put_act(struct ground *g, const float *from, uint64_t count)
{
    if (g->activation == OPS_F32)
        return ground_put(g, from, count * sizeof *from);
    uint16_t *h = malloc(count * sizeof *h + 1);
    for (uint64_t i = 0; i < count; i++)
        h[i] = bf16_of(from[i]);
    void *to = ground_put(g, h, count * sizeof *h);
    free(h);
    return to;
}

void ground_get_act(struct ground *g, float *to, const void *from, uint64_t count)
{
    CHECK(g->ops->sync(g->device) == 0, "%s broke", g->ops->name);
    g->ops->copy_out(g->device, to, from, count * ground_act_bytes(g));
    for (uint64_t i = count; g->activation == OPS_BF16 && i-- > 0;) {
        uint16_t h;
        memcpy(&h, (uint8_t *)to + 2 * i, sizeof h);
        to[i] = of_bf16(h); /* from the last: it grows in place */
    }
}

uint32_t draw(struct rng *rng, uint32_t least, uint32_t most)
{
    return least + (uint32_t)rng_below(rng, most - least + 1);
}

float draw_float(struct rng *rng)
{
    uint64_t bits = rng_next(rng);
    double sum = 0;
    for (uint32_t i = 0; i < 4; i++)
        sum += (double)(bits >> 16 * i & 0xffff) / 65536 - 0.5;
    return (float)(sum * 1.7320508);
}
