/* daemon/model/names.h — which tensors an architecture has, what they are called and what shape they
 * must have.
 *
 * names_check() holds a model's tensors against that list before any memory is taken for them:
 * missing, mis-shaped, of a type that is not read, or extra (save those known to carry nothing).
 *
 * Thread: any. Memory: the caller's; points into the tensors, which must outlive it. Time: at most
 * tensors squared; a few hundred thousand steps for the models there are. Fails: names_check() with a message that names the tensor and what was expected. */
#pragma once
#include "daemon/model/arch.h"
#include "daemon/model/tensors.h"

enum names_slot {
    NAMES_EMBEDDING = 0,  /* [vocabulary, hidden] */
    NAMES_FINAL_NORM,     /* [hidden] */
    NAMES_HEAD,           /* [vocabulary, hidden]; the embedding when tied */
    NAMES_READOUT,        /* [outputs, hidden] ARCH_HEAD_VALUE */
    NAMES_READOUT_BIAS,   /* [outputs] or none */
    NAMES_POSITION,       /* [context, hidden] encoders, and the next three */
    NAMES_TYPE,           /* [types_count, hidden] */
    NAMES_EMBEDDING_NORM, /* [hidden] */
    NAMES_EMBEDDING_NORM_BIAS,
    NAMES_GLOBAL_COUNT,
    /* Of a layer. */
    NAMES_ATTENTION_NORM = NAMES_GLOBAL_COUNT, /* [hidden] before attention; encoders: after it */
    NAMES_ATTENTION_NORM_BIAS,
    NAMES_ATTENTION_AFTER_NORM, /* [hidden] after_norms, like NAMES_FFN_AFTER_NORM */
    NAMES_FFN_NORM,             /* [hidden] before the feed-forward; encoders: after it */
    NAMES_FFN_NORM_BIAS,
    NAMES_FFN_AFTER_NORM,
    NAMES_Q_NORM, /* [head_dim] qk_norm */
    NAMES_K_NORM,
    NAMES_QKV, /* [(heads + 2 kv_heads) * head_dim, hidden] fused; otherwise q, k, v */
    NAMES_Q,   /* [heads * head_dim, hidden] */
    NAMES_K,   /* [kv_heads * head_dim, hidden] */
    NAMES_V,
    NAMES_Q_BIAS,
    NAMES_K_BIAS,
    NAMES_V_BIAS,
    NAMES_O, /* [hidden, heads * head_dim] */
    NAMES_O_BIAS,
    NAMES_GATE_UP, /* [2 inner, hidden] fused: gate, up; otherwise gate, up */
    NAMES_GATE,    /* [inner, hidden] when gated */
    NAMES_UP,      /* [inner, hidden] */
    NAMES_GATE_BIAS,
    NAMES_UP_BIAS,
    NAMES_DOWN, /* [hidden, inner] */
    NAMES_DOWN_BIAS,
    NAMES_SLOT_COUNT,
};
#define NAMES_LAYER_COUNT (NAMES_SLOT_COUNT - NAMES_GLOBAL_COUNT)

struct names {
    const struct tensor *global[NAMES_GLOBAL_COUNT];
    const struct tensor *layer[ARCH_LAYERS_MAX][NAMES_LAYER_COUNT];
};

/* May change arch: a language model whose tensors have v_head.summary gets ARCH_HEAD_VALUE. */
int names_check(struct arch *arch, const struct tensors *tensors, char message[ARCH_MESSAGE_BYTES],
                struct names *ret_names);

/* NULL: this architecture has none. layer is ignored for slots below NAMES_GLOBAL_COUNT. */
const struct tensor *names_tensor(const struct names *names, enum names_slot slot, uint32_t layer);

/* One entry of the list, for who makes models. dims_count is 1 or 2. */
struct names_want {
    enum names_slot slot;
    char name[128];
    uint32_t dims_count;
    uint64_t dims[2];
};
/* False: slot has no tensor in this architecture. */
bool names_want(const struct arch *arch, enum names_slot slot, uint32_t layer,
                struct names_want *ret_want);
