#include "daemon/model/names.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "daemon/base/message.h"

/* ---- the list --------------------------------------------------------------------------------- */

/* Sizes of a tensor, by name of what they count. */
enum size {
    S_NONE,
    S_HIDDEN,
    S_VOCABULARY,
    S_CONTEXT,
    S_TYPES,
    S_OUTPUTS,
    S_HEAD_DIM,
    S_Q,
    S_KV,
    S_QKV,
    S_INNER,
    S_INNER_2,
    S_COUNT,
};

/* When an architecture has it: all of these conditions. */
enum when {
    W_ENCODER = 1 << 0,
    W_DECODER = 1 << 1,
    W_LOGITS = 1 << 2, /* an output matrix of its own */
    W_VALUE = 1 << 3,
    W_AFTER = 1 << 4,
    W_QK_NORM = 1 << 5,
    W_FUSED = 1 << 6,
    W_APART = 1 << 7, /* not fused */
    W_QKV_BIAS = 1 << 8,
    W_O_BIAS = 1 << 9,
    W_FFN_BIAS = 1 << 10,
    W_GATED = 1 << 11,
};

struct entry {
    const char *decoder; /* name after the prefix, "" where it has none */
    const char *encoder;
    uint32_t when;
    enum size rows;
    enum size columns;
};

static const struct entry entries[NAMES_SLOT_COUNT] = {
    [NAMES_EMBEDDING] = {"embed_tokens.weight", "embeddings.word_embeddings.weight", 0,
                         S_VOCABULARY, S_HIDDEN},
    [NAMES_FINAL_NORM] = {"norm.weight", "", W_DECODER, S_HIDDEN, S_NONE},
    [NAMES_HEAD] = {"lm_head.weight", "", W_LOGITS, S_VOCABULARY, S_HIDDEN},
    [NAMES_READOUT] = {"score.weight", "", W_VALUE, S_OUTPUTS, S_HIDDEN},
    [NAMES_READOUT_BIAS] = {"score.bias", "", W_VALUE, S_OUTPUTS, S_NONE},
    [NAMES_POSITION] = {"", "embeddings.position_embeddings.weight", W_ENCODER, S_CONTEXT,
                        S_HIDDEN},
    [NAMES_TYPE] = {"", "embeddings.token_type_embeddings.weight", W_ENCODER, S_TYPES, S_HIDDEN},
    [NAMES_EMBEDDING_NORM] = {"", "embeddings.LayerNorm.weight", W_ENCODER, S_HIDDEN, S_NONE},
    [NAMES_EMBEDDING_NORM_BIAS] = {"", "embeddings.LayerNorm.bias", W_ENCODER, S_HIDDEN, S_NONE},
    [NAMES_ATTENTION_NORM] = {"input_layernorm.weight", "attention.output.LayerNorm.weight", 0,
                              S_HIDDEN, S_NONE},
    [NAMES_ATTENTION_NORM_BIAS] = {"", "attention.output.LayerNorm.bias", W_ENCODER, S_HIDDEN,
                                   S_NONE},
    [NAMES_ATTENTION_AFTER_NORM] = {"post_attention_layernorm.weight", "", W_AFTER, S_HIDDEN,
                                    S_NONE},
    [NAMES_FFN_NORM] = {"post_attention_layernorm.weight", "output.LayerNorm.weight", 0, S_HIDDEN,
                        S_NONE},
    [NAMES_FFN_NORM_BIAS] = {"", "output.LayerNorm.bias", W_ENCODER, S_HIDDEN, S_NONE},
    [NAMES_FFN_AFTER_NORM] = {"post_feedforward_layernorm.weight", "", W_AFTER, S_HIDDEN, S_NONE},
    [NAMES_Q_NORM] = {"self_attn.q_norm.weight", "", W_QK_NORM, S_HEAD_DIM, S_NONE},
    [NAMES_K_NORM] = {"self_attn.k_norm.weight", "", W_QK_NORM, S_HEAD_DIM, S_NONE},
    [NAMES_QKV] = {"self_attn.qkv_proj.weight", "", W_FUSED, S_QKV, S_HIDDEN},
    [NAMES_Q] = {"self_attn.q_proj.weight", "attention.self.query.weight", W_APART, S_Q, S_HIDDEN},
    [NAMES_K] = {"self_attn.k_proj.weight", "attention.self.key.weight", W_APART, S_KV, S_HIDDEN},
    [NAMES_V] = {"self_attn.v_proj.weight", "attention.self.value.weight", W_APART, S_KV, S_HIDDEN},
    [NAMES_Q_BIAS] = {"self_attn.q_proj.bias", "attention.self.query.bias", W_QKV_BIAS, S_Q,
                      S_NONE},
    [NAMES_K_BIAS] = {"self_attn.k_proj.bias", "attention.self.key.bias", W_QKV_BIAS, S_KV, S_NONE},
    [NAMES_V_BIAS] = {"self_attn.v_proj.bias", "attention.self.value.bias", W_QKV_BIAS, S_KV,
                      S_NONE},
    [NAMES_O] = {"self_attn.o_proj.weight", "attention.output.dense.weight", 0, S_HIDDEN, S_Q},
    [NAMES_O_BIAS] = {"self_attn.o_proj.bias", "attention.output.dense.bias", W_O_BIAS, S_HIDDEN,
                      S_NONE},
    [NAMES_GATE_UP] = {"mlp.gate_up_proj.weight", "", W_FUSED, S_INNER_2, S_HIDDEN},
    [NAMES_GATE] = {"mlp.gate_proj.weight", "", W_APART | W_GATED, S_INNER, S_HIDDEN},
    [NAMES_UP] = {"mlp.up_proj.weight", "intermediate.dense.weight", W_APART, S_INNER, S_HIDDEN},
    [NAMES_GATE_BIAS] = {"mlp.gate_proj.bias", "", W_FFN_BIAS | W_GATED, S_INNER, S_NONE},
    [NAMES_UP_BIAS] = {"mlp.up_proj.bias", "intermediate.dense.bias", W_FFN_BIAS, S_INNER, S_NONE},
    [NAMES_DOWN] = {"mlp.down_proj.weight", "output.dense.weight", 0, S_HIDDEN, S_INNER},
    [NAMES_DOWN_BIAS] = {"mlp.down_proj.bias", "output.dense.bias", W_FFN_BIAS, S_HIDDEN, S_NONE},
};

static uint32_t conditions(const struct arch *a)
{
    bool logits = a->head == ARCH_HEAD_LOGITS || a->head == ARCH_HEAD_TOKEN_MEAN;
    const struct {
        bool on;
        enum when bit;
    } all[] = {{a->encoder, W_ENCODER},
               {!a->encoder, W_DECODER},
               {logits && !a->tied, W_LOGITS},
               {a->head == ARCH_HEAD_VALUE, W_VALUE},
               {a->after_norms, W_AFTER},
               {a->qk_norm, W_QK_NORM},
               {a->fused, W_FUSED},
               {!a->fused, W_APART},
               {a->qkv_bias, W_QKV_BIAS},
               {a->o_bias, W_O_BIAS},
               {a->ffn_bias, W_FFN_BIAS},
               {a->gated, W_GATED}};
    uint32_t bits = 0;
    for (uint32_t i = 0; i < sizeof all / sizeof all[0]; i++)
        bits |= all[i].on ? (uint32_t)all[i].bit : 0;
    return bits;
}

static uint64_t size_of(const struct arch *a, enum size size)
{
    uint64_t q = (uint64_t)a->heads * a->head_dim, kv = (uint64_t)a->kv_heads * a->head_dim;
    const uint64_t sizes[S_COUNT] = {[S_HIDDEN] = a->hidden,
                                     [S_VOCABULARY] = a->vocabulary,
                                     [S_CONTEXT] = a->context_tokens,
                                     [S_TYPES] = a->types_count,
                                     [S_OUTPUTS] = a->outputs,
                                     [S_HEAD_DIM] = a->head_dim,
                                     [S_Q] = q,
                                     [S_KV] = kv,
                                     [S_QKV] = q + 2 * kv,
                                     [S_INNER] = a->inner,
                                     [S_INNER_2] = 2 * (uint64_t)a->inner};
    return sizes[size];
}

/* How a file may begin its names: as the whole model saved itself, its body alone, or a wrapper. */
static const char *const decoder_prefixes[] = {"model.", "", "pretrained_model.model."};
static const char *const encoder_prefixes[] = {"", "bert."};
/* What a wrapper of training calls the readout. */
static const char value_weight[] = "v_head.summary.weight", value_bias[] = "v_head.summary.bias";

struct style { /* of one file */
    const char *prefix;
    bool value_head;
};

static bool want(const struct arch *a, const struct style *style, enum names_slot slot,
                 uint32_t layer, struct names_want *ret)
{
    const struct entry *e = &entries[slot];
    const char *name = a->encoder ? e->encoder : e->decoder;
    bool outer = slot == NAMES_HEAD || slot == NAMES_READOUT || slot == NAMES_READOUT_BIAS;
    if (!name[0] || (e->when & conditions(a)) != e->when)
        return false;
    if (slot == NAMES_FFN_NORM && a->after_norms)
        name = "pre_feedforward_layernorm.weight";
    if (style->value_head && slot == NAMES_READOUT)
        name = value_weight;
    if (style->value_head && slot == NAMES_READOUT_BIAS)
        name = value_bias;
    *ret = (struct names_want){.slot = slot, .dims_count = e->columns == S_NONE ? 1 : 2};
    ret->dims[0] = size_of(a, e->rows);
    ret->dims[1] = e->columns == S_NONE ? 0 : size_of(a, e->columns);
    if (slot >= NAMES_GLOBAL_COUNT)
        (void)snprintf(ret->name, sizeof ret->name, "%s%s.%u.%s", style->prefix,
                       a->encoder ? "encoder.layer" : "layers", layer, name);
    else
        (void)snprintf(ret->name, sizeof ret->name, "%s%s", outer ? "" : style->prefix, name);
    return true;
}

static struct style style_of_new(const struct arch *a)
{
    return (struct style){.prefix = a->encoder ? "" : "model."};
}

bool names_want(const struct arch *arch, enum names_slot slot, uint32_t layer,
                struct names_want *ret_want)
{
    const struct style style = style_of_new(arch);
    return want(arch, &style, slot, layer, ret_want);
}

/* ---- holding tensors against it --------------------------------------------------------------- */

static struct style style_of(const struct arch *a, const struct tensors *t)
{
    const char *const *prefixes = a->encoder ? encoder_prefixes : decoder_prefixes;
    uint32_t count = a->encoder ? sizeof encoder_prefixes / sizeof encoder_prefixes[0]
                                : sizeof decoder_prefixes / sizeof decoder_prefixes[0];
    struct style style = style_of_new(a);
    struct names_want w;
    for (uint32_t i = 0; i < count; i++) {
        struct style it = {.prefix = prefixes[i]};
        if (want(a, &it, NAMES_EMBEDDING, 0, &w) && tensors_find(t, w.name)) {
            style = it;
            break;
        }
    }
    style.value_head = !a->encoder && tensors_find(t, value_weight);
    return style;
}

static void shape_text(uint32_t count, const uint64_t *dims, char text[128])
{
    size_t used = 0;
    text[0] = 0;
    for (uint32_t i = 0; i < count && used < 100; i++)
        used += (size_t)snprintf(text + used, 128 - used, "%s%llu", i ? ", " : "",
                                 (unsigned long long)dims[i]);
}

static int check_one(const struct names_want *w, const struct tensor *t,
                     char message[ARCH_MESSAGE_BYTES])
{
    char is[128], wanted[128];
    uint64_t unit = t->dtype == TENSOR_F32 ? 4 : 2;
    shape_text(w->dims_count, w->dims, wanted);
    shape_text(t->dims_count, t->dims, is);
    if (t->dims_count != w->dims_count || memcmp(t->dims, w->dims, w->dims_count * sizeof *w->dims))
        return message_refuse(message, -EINVAL,
                              "tensor \"%s\" has shape [%s]; config.json says [%s]", w->name, is,
                              wanted);
    if (t->dtype == TENSOR_OTHER)
        return message_refuse(message, -EINVAL, "tensor \"%s\" is not of dtype BF16, F16 or F32",
                              w->name);
    if (t->offset % unit)
        return message_refuse(message, -EINVAL,
                              "tensor \"%s\" does not begin at a multiple of %llu", w->name,
                              (unsigned long long)unit);
    return 0;
}

static bool ends(const char *name, const char *end)
{
    size_t bytes = strlen(name), tail = strlen(end);
    return bytes >= tail && strcmp(name + bytes - tail, end) == 0;
}

/* Tables that are computed, and heads that this use of the model does not read. */
static bool is_idle(const struct arch *a, const char *name)
{
    if (a->encoder)
        return ends(name, "pooler.dense.weight") || ends(name, "pooler.dense.bias") ||
               ends(name, "embeddings.position_ids") || strncmp(name, "cls.", 4) == 0;
    return ends(name, ".rotary_emb.inv_freq") ||
           ((a->tied || a->head == ARCH_HEAD_VALUE) && ends(name, "lm_head.weight"));
}

/* Every tensor is in the list or idle. */
static int check_extra(const struct arch *a, const struct tensors *t, const struct names *names,
                       char message[ARCH_MESSAGE_BYTES])
{
    for (uint32_t i = 0; i < tensors_count(t); i++) {
        const struct tensor *it = tensors_at(t, i);
        bool known = is_idle(a, it->name);
        for (uint32_t s = 0; s < NAMES_GLOBAL_COUNT && !known; s++)
            known = names->global[s] == it;
        for (uint32_t l = 0; l < a->layers && !known; l++)
            for (uint32_t s = 0; s < NAMES_LAYER_COUNT && !known; s++)
                known = names->layer[l][s] == it;
        if (!known)
            return message_refuse(message, -EINVAL, "tensor \"%.200s\" is none that %s has",
                                  it->name, a->name);
    }
    return 0;
}

static int check_slot(const struct arch *a, const struct tensors *t, const struct style *style,
                      enum names_slot slot, uint32_t layer, const struct tensor **ret,
                      char message[ARCH_MESSAGE_BYTES])
{
    struct names_want w;
    if (!want(a, style, slot, layer, &w))
        return 0;
    *ret = tensors_find(t, w.name);
    if (*ret)
        return check_one(&w, *ret, message);
    if (slot == NAMES_READOUT_BIAS)
        return 0;
    if (slot == NAMES_READOUT && tensors_find(t, "score.0.weight"))
        return message_refuse(message, -EINVAL,
                              "tensor \"score.0.weight\": a readout of two layers; one is "
                              "accepted, score.weight");
    return message_refuse(message, -EINVAL, "tensor \"%s\" is missing", w.name);
}

int names_check(struct arch *arch, const struct tensors *tensors, char message[ARCH_MESSAGE_BYTES],
                struct names *ret_names)
{
    const struct style style = style_of(arch, tensors);
    int result = 0;
    memset(ret_names, 0, sizeof *ret_names);
    if (style.value_head) {
        arch->head = ARCH_HEAD_VALUE;
        arch->outputs = 1;
        arch->score_sigmoid = true;
    }
    for (uint32_t s = 0; s < NAMES_GLOBAL_COUNT && !result; s++)
        result = check_slot(arch, tensors, &style, s, 0, &ret_names->global[s], message);
    for (uint32_t l = 0; l < arch->layers && !result; l++)
        for (uint32_t s = 0; s < NAMES_LAYER_COUNT && !result; s++)
            result = check_slot(arch, tensors, &style, s + NAMES_GLOBAL_COUNT, l,
                                &ret_names->layer[l][s], message);
    result = result ? result : check_extra(arch, tensors, ret_names, message);
    if (result == 0 && arch->tied && arch->head != ARCH_HEAD_VALUE)
        ret_names->global[NAMES_HEAD] = ret_names->global[NAMES_EMBEDDING];
    return result;
}

const struct tensor *names_tensor(const struct names *names, enum names_slot slot, uint32_t layer)
{
    return slot < NAMES_GLOBAL_COUNT ? names->global[slot]
                                     : names->layer[layer][slot - NAMES_GLOBAL_COUNT];
}
