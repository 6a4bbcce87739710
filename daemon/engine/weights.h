/* daemon/engine/weights.h — one model's weights on one rank: which there are, how they are split over
 * ranks, and loading them.
 *
 * Split, rank r of R: query heads, key and value heads (repeated where there are fewer than ranks),
 * the inner columns of the feed-forward and the rows of the output matrix are cut into R equal parts;
 * embedding, norms and readouts are whole on every rank. With R > 1 a tied output matrix is a second
 * copy of the rank's part of the embedding; with one rank it is the same memory.
 *
 * Thread: control, at start-up; read-only afterwards. Memory: tensors in the device's slab, the table
 * of layers on the heap. Fails: weights_check() and weights_load() with a message. */
#pragma once
#include <stdint.h>

#include "daemon/engine/slab.h"
#include "daemon/model/arch.h"
#include "daemon/model/names.h"
#include "daemon/model/tensors.h"

#define WEIGHTS_OUTPUTS_MAX 2u

struct weights_layer {
    float *attention_norm; /* [hidden], like the others; before attention, or after it (encoders) */
    float *attention_norm_bias;
    float *attention_after_norm; /* NULL: none, like all that a model may lack */
    float *ffn_norm;
    float *ffn_norm_bias;
    float *ffn_after_norm;
    float *q_norm; /* [head_dim] */
    float *k_norm;
    struct ops_matrix qkv; /* [(heads + 2 kv_heads) * head_dim, hidden] */
    float *qkv_bias;
    struct ops_matrix o;       /* [hidden, heads * head_dim] */
    float *o_bias;             /* on rank 0 only, like down_bias */
    struct ops_matrix gate_up; /* [2 * inner, hidden]: gate, up; not gated: [inner, hidden] */
    float *gate_up_bias;
    struct ops_matrix down; /* [hidden, inner] */
    float *down_bias;
};

struct weights {
    const struct arch *arch;
    const struct names *names; /* while opening */
    uint32_t rank;
    uint32_t ranks_count;
    uint32_t heads; /* of this rank, like the next three */
    uint32_t kv_heads;
    uint32_t inner;
    uint32_t vocabulary;
    struct ops_matrix embedding;
    struct ops_matrix position_embedding; /* encoders */
    struct ops_matrix type_embedding;
    float *embedding_norm;
    float *embedding_norm_bias;
    float *final_norm;
    struct ops_matrix head; /* [vocabulary, hidden]; n 0: none */
    float *readout;         /* [outputs, hidden], reward models with a value head */
    float readout_bias[WEIGHTS_OUTPUTS_MAX]; /* on the host */
    struct weights_layer *layers;
};

/* Splits the shape; refuses by name what cannot be split over ranks_count. arch is kept, names until
 * weights_load() is done. */
int weights_init(struct weights *weights, const struct arch *arch, const struct names *names,
                 uint32_t rank, uint32_t ranks_count, char message[ARCH_MESSAGE_BYTES]);
void weights_free(struct weights *weights);

void weights_place(struct weights *weights, const struct ops *ops, enum ops_dtype activation,
                   struct slab *slab);
int weights_load(struct weights *weights, const struct ops *ops, struct ops_device *device,
                 char message[ARCH_MESSAGE_BYTES]);

uint32_t weights_k_max(const struct weights *weights); /* columns of the widest matrix */
