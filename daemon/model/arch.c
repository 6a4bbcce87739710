#include "daemon/model/arch.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/base/files.h"
#include "daemon/model/fields.h"
#include "daemon/model/rope.h"
#include "daemon/model/sentence.h"

#define CONFIG_BYTES_MAX (1u << 20)
#define DEPTH_MAX 16u

/* ---- fields ----------------------------------------------------------------------------------- */

enum {
    C_ARCHITECTURES,
    C_MODEL_TYPE,
    C_HIDDEN,
    C_LAYERS,
    C_HEADS,
    C_KV_HEADS,
    C_HEAD_DIM,
    C_INNER,
    C_VOCABULARY,
    C_CONTEXT,
    C_RMS_EPSILON,
    C_LAYER_EPSILON,
    C_ACT,
    C_ACTIVATION,
    C_TIED,
    C_ATTENTION_BIAS,
    C_MLP_BIAS,
    C_THETA,
    C_ROPE_SCALING,
    C_ROPE_PARAMETERS,
    C_ORIGINAL,
    C_PARTIAL,
    C_WINDOW,
    C_USE_WINDOW,
    C_WINDOW_LAYERS,
    C_LAYER_TYPES,
    C_QUERY_SCALAR,
    C_ATTENTION_SOFTCAP,
    C_LOGITS_SOFTCAP,
    C_TYPES,
    C_POSITION_TYPE,
    C_LABELS,
    C_ID_TO_LABEL,
    C_BOS,
    C_EOS,
    C_PINNED, /* those after it have one value, or are another model */
    C_COUNT = C_PINNED + 9,
};

#define BIT(family) (1u << (family))
#define ALL (BIT(ARCH_FAMILY_COUNT) - 1)
#define BERT BIT(ARCH_BERT)
#define DECODERS (ALL & ~BERT)
#define LLAMA BIT(ARCH_LLAMA)
#define MISTRAL BIT(ARCH_MISTRAL)
#define QWEN2 BIT(ARCH_QWEN2)
#define QWEN3 BIT(ARCH_QWEN3)
#define GEMMA BIT(ARCH_GEMMA)
#define GEMMA2 BIT(ARCH_GEMMA2)
#define PHI3 BIT(ARCH_PHI3)

static const struct field table[C_COUNT] = {
    [C_ARCHITECTURES] = {"architectures", FIELD_LIST, ALL, ALL, 0, 0},
    [C_MODEL_TYPE] = {"model_type", FIELD_TEXT, ALL, ALL, 0, 0},
    [C_HIDDEN] = {"hidden_size", FIELD_COUNT, ALL, ALL, 2, 65536},
    [C_LAYERS] = {"num_hidden_layers", FIELD_COUNT, ALL, ALL, 1, ARCH_LAYERS_MAX},
    [C_HEADS] = {"num_attention_heads", FIELD_COUNT, ALL, ALL, 1, 1024},
    [C_KV_HEADS] = {"num_key_value_heads", FIELD_COUNT, DECODERS, DECODERS & ~LLAMA, 1, 1024},
    [C_HEAD_DIM] = {"head_dim", FIELD_COUNT, DECODERS, QWEN3 | GEMMA | GEMMA2, 2,
                    2 * ARCH_FREQUENCIES_MAX},
    [C_INNER] = {"intermediate_size", FIELD_COUNT, ALL, ALL, 1, 1048576},
    [C_VOCABULARY] = {"vocab_size", FIELD_COUNT, ALL, ALL, 2, 4194304},
    [C_CONTEXT] = {"max_position_embeddings", FIELD_COUNT, ALL, ALL, 2, 16777216},
    [C_RMS_EPSILON] = {"rms_norm_eps", FIELD_NUMBER, DECODERS, DECODERS, 1e-12, 0.1},
    [C_LAYER_EPSILON] = {"layer_norm_eps", FIELD_NUMBER, BERT, BERT, 1e-12, 0.1},
    [C_ACT] = {"hidden_act", FIELD_TEXT, ALL, ALL & ~(GEMMA | GEMMA2), 0, 0},
    [C_ACTIVATION] = {"hidden_activation", FIELD_TEXT, GEMMA | GEMMA2, 0, 0, 0},
    [C_TIED] = {"tie_word_embeddings", FIELD_FLAG, ALL, 0, 0, 0},
    [C_ATTENTION_BIAS] = {"attention_bias", FIELD_FLAG, LLAMA | QWEN3 | GEMMA | GEMMA2, 0, 0, 0},
    [C_MLP_BIAS] = {"mlp_bias", FIELD_FLAG, LLAMA, 0, 0, 0},
    [C_THETA] = {"rope_theta", FIELD_NUMBER, DECODERS, 0, 1.5, 1e12},
    [C_ROPE_SCALING] = {"rope_scaling", FIELD_OBJECT, DECODERS, 0, 0, 0},
    [C_ROPE_PARAMETERS] = {"rope_parameters", FIELD_OBJECT, DECODERS, 0, 0, 0},
    [C_ORIGINAL] = {"original_max_position_embeddings", FIELD_COUNT, PHI3, 0, 2, 16777216},
    [C_PARTIAL] = {"partial_rotary_factor", FIELD_NUMBER, PHI3, 0, 0.01, 1},
    [C_WINDOW] = {"sliding_window", FIELD_COUNT, DECODERS & ~(LLAMA | GEMMA), GEMMA2, 1, 16777216},
    [C_USE_WINDOW] = {"use_sliding_window", FIELD_FLAG, QWEN2 | QWEN3, 0, 0, 0},
    [C_WINDOW_LAYERS] = {"max_window_layers", FIELD_COUNT, QWEN2 | QWEN3, 0, 0, 65536},
    [C_LAYER_TYPES] = {"layer_types", FIELD_LIST, DECODERS & ~(LLAMA | GEMMA), 0, 0, 0},
    [C_QUERY_SCALAR] = {"query_pre_attn_scalar", FIELD_NUMBER, GEMMA2, GEMMA2, 1, 65536},
    [C_ATTENTION_SOFTCAP] = {"attn_logit_softcapping", FIELD_NUMBER, GEMMA2, 0, 0.01, 1e6},
    [C_LOGITS_SOFTCAP] = {"final_logit_softcapping", FIELD_NUMBER, GEMMA2, 0, 0.01, 1e6},
    [C_TYPES] = {"type_vocab_size", FIELD_COUNT, BERT, BERT, 1, 1024},
    [C_POSITION_TYPE] = {"position_embedding_type", FIELD_TEXT, BERT, 0, 0, 0},
    [C_LABELS] = {"num_labels", FIELD_COUNT, ALL, 0, 1, 65536},
    [C_ID_TO_LABEL] = {"id2label", FIELD_OBJECT, ALL, 0, 0, 0},
    [C_BOS] = {"bos_token_id", FIELD_TOKENS, ALL, 0, 0, 0},
    [C_EOS] = {"eos_token_id", FIELD_TOKENS, ALL, 0, 0, 0},
    [C_PINNED + 0] = {"is_decoder", FIELD_OFF, ALL, 0, 0, 0},
    [C_PINNED + 1] = {"is_encoder_decoder", FIELD_OFF, ALL, 0, 0, 0},
    [C_PINNED + 2] = {"add_cross_attention", FIELD_OFF, ALL, 0, 0, 0},
    [C_PINNED + 3] = {"tie_encoder_decoder", FIELD_OFF, ALL, 0, 0, 0},
    [C_PINNED + 4] = {"use_mrope", FIELD_OFF, ALL, 0, 0, 0},
    [C_PINNED + 5] = {"use_bidirectional_attention", FIELD_OFF, ALL, 0, 0, 0},
    [C_PINNED + 6] = {"lm_head_bias", FIELD_OFF, ALL, 0, 0, 0},
    [C_PINNED + 7] = {"full_attn_mod", FIELD_COUNT, PHI3, 0, 1, 1},
    [C_PINNED + 8] = {"interpolate_factor", FIELD_NUMBER, PHI3, 0, 1, 1},
};

/* Fields of training, of generation (programs say their own) and of other software. */
static const char *const ignored[] = {"_attn_implementation",
                                      "_attn_implementation_autoset",
                                      "_commit_hash",
                                      "_name_or_path",
                                      "attention_dropout",
                                      "attention_probs_dropout_prob",
                                      "attn_implementation",
                                      "auto_map",
                                      "bad_words_ids",
                                      "cache_implementation",
                                      "chunk_size_feed_forward",
                                      "classifier_dropout",
                                      "cls_token_id",
                                      "decoder_start_token_id",
                                      "do_sample",
                                      "dtype",
                                      "embd_pdrop",
                                      "finetuning_task",
                                      "gradient_checkpointing",
                                      "hidden_dropout_prob",
                                      "initializer_range",
                                      "label2id",
                                      "max_length",
                                      "min_length",
                                      "output_attentions",
                                      "output_hidden_states",
                                      "pad_token_id",
                                      "pretraining_tp",
                                      "problem_type",
                                      "repetition_penalty",
                                      "resid_pdrop",
                                      "return_dict",
                                      "sep_token_id",
                                      "sliding_window_size", /* Gemma2: sliding_window is read */
                                      "task_specific_params",
                                      "temperature",
                                      "tokenizer_class",
                                      "top_k",
                                      "top_p",
                                      "torch_dtype",
                                      "torchscript",
                                      "transformers_version",
                                      "unsloth_fixed",
                                      "unsloth_version",
                                      "use_cache",
                                      NULL};

/* ---- families --------------------------------------------------------------------------------- */

enum windowed { WINDOWED_NEVER, WINDOWED_ALL, WINDOWED_EVEN, WINDOWED_UPPER };

static const struct family {
    const char *name; /* begins "architectures" */
    const char *model_type;
    enum windowed windowed;
    bool qkv_bias; /* without being asked */
    bool qk_norm;
    bool gemma;
    bool after_norms;
    bool fused;
} families[ARCH_FAMILY_COUNT] = {
    [ARCH_LLAMA] = {.name = "Llama", .model_type = "llama"},
    [ARCH_MISTRAL] = {.name = "Mistral", .model_type = "mistral", .windowed = WINDOWED_ALL},
    [ARCH_QWEN2] = {.name = "Qwen2",
                    .model_type = "qwen2",
                    .windowed = WINDOWED_UPPER,
                    .qkv_bias = true},
    [ARCH_QWEN3] = {.name = "Qwen3",
                    .model_type = "qwen3",
                    .windowed = WINDOWED_UPPER,
                    .qk_norm = true},
    [ARCH_GEMMA] = {.name = "Gemma", .model_type = "gemma", .gemma = true},
    [ARCH_GEMMA2] = {.name = "Gemma2",
                     .model_type = "gemma2",
                     .windowed = WINDOWED_EVEN,
                     .gemma = true,
                     .after_norms = true},
    [ARCH_PHI3] = {.name = "Phi3", .model_type = "phi3", .windowed = WINDOWED_ALL, .fused = true},
    [ARCH_BERT] = {.name = "Bert", .model_type = "bert", .qkv_bias = true},
};

static const struct ending {
    const char *name; /* ends "architectures" */
    enum arch_head head;
    uint32_t families;
    bool sigmoid;
    bool labels; /* as many outputs as labels, otherwise one */
} endings[] = {
    {"ForCausalLM", ARCH_HEAD_LOGITS, DECODERS, false, false},
    {"ForSequenceClassification", ARCH_HEAD_VALUE, DECODERS, false, true},
    {"ForTokenClassification", ARCH_HEAD_VALUE, DECODERS, true, true},
    {"ForRewardModel", ARCH_HEAD_VALUE, QWEN2, true, false},
    {"ForPrmModel", ARCH_HEAD_VALUE, QWEN2, true, false},
    {"Model", ARCH_HEAD_NONE, BERT, false, false},
};

struct config {
    const char *file;
    char *message;
    const struct json *document;
    const struct family *family;
    const struct ending *ending;
    const struct json *value[C_COUNT];
    struct arch *arch;
};

#define REFUSE(c, format, ...)                                                                     \
    message_refuse((c)->message, -EINVAL, "%s: " format, (c)->file, __VA_ARGS__)

static int read_family(struct config *c)
{
    const struct json *list = json_member(c->document, "architectures");
    const char *name = json_text(json_element(list, 0), NULL);
    struct arch *a = c->arch;
    if (json_kind(list) != JSON_KIND_ARRAY || json_count(list) != 1 || !name)
        return REFUSE(c, "%s is not a list of one name", "architectures");
    (void)snprintf(a->name, sizeof a->name, "%.60s", name);
    for (uint32_t f = 0; f < ARCH_FAMILY_COUNT; f++)
        for (uint32_t e = 0; e < sizeof endings / sizeof endings[0]; e++) {
            size_t bytes = strlen(families[f].name);
            if (strncmp(name, families[f].name, bytes) != 0 || !(endings[e].families & BIT(f)) ||
                strcmp(name + bytes, endings[e].name) != 0)
                continue;
            c->family = &families[f];
            c->ending = &endings[e];
            a->family = (enum arch_family)f;
            a->head = endings[e].head;
            a->score_sigmoid = endings[e].sigmoid;
            a->encoder = f == ARCH_BERT;
            return 0;
        }
    return REFUSE(c,
                  "architectures: \"%.60s\" is not supported; Llama, Mistral, Qwen2, Qwen3, Gemma, "
                  "Gemma2 and Phi3 ForCausalLM, ForSequenceClassification and "
                  "ForTokenClassification, Qwen2ForPrmModel, Qwen2ForRewardModel and BertModel are",
                  name);
}

/* Where a file says nothing of these, transformers takes a number of its own; none is written as null. */
static int read_said(struct config *c)
{
    const struct {
        uint32_t field;
        bool needed;
    } said[] = {
        {C_WINDOW, c->arch->family == ARCH_MISTRAL || (c->family->windowed == WINDOWED_UPPER &&
                                                       field_flag(c->value[C_USE_WINDOW], false))},
        {C_ATTENTION_SOFTCAP, c->arch->family == ARCH_GEMMA2},
        {C_LOGITS_SOFTCAP, c->arch->family == ARCH_GEMMA2}};
    for (uint32_t i = 0; i < sizeof said / sizeof said[0]; i++) {
        const struct field *field = &table[said[i].field];
        if (said[i].needed && !json_member(c->document, field->name))
            return REFUSE(c, "%s is missing; null or %g to %.10g is accepted", field->name,
                          field->min, field->max);
    }
    return 0;
}

static int read_shape(struct config *c)
{
    const struct json *const *v = c->value;
    struct arch *a = c->arch;
    if (!json_is(v[C_MODEL_TYPE], c->family->model_type))
        return REFUSE(c, "model_type is not \"%s\", as architectures says", c->family->model_type);
    a->hidden = field_count(v[C_HIDDEN], 0);
    a->layers = field_count(v[C_LAYERS], 0);
    a->heads = field_count(v[C_HEADS], 0);
    a->kv_heads = field_count(v[C_KV_HEADS], a->heads);
    a->inner = field_count(v[C_INNER], 0);
    a->vocabulary = field_count(v[C_VOCABULARY], 0);
    a->context_tokens = field_count(v[C_CONTEXT], 0);
    a->types_count = field_count(v[C_TYPES], 0);
    if (a->heads % a->kv_heads)
        return REFUSE(c, "num_key_value_heads is %u; it must divide num_attention_heads, %u",
                      a->kv_heads, a->heads);
    if (!v[C_HEAD_DIM] && a->hidden % a->heads)
        return REFUSE(c, "num_attention_heads is %u; it must divide hidden_size, %u", a->heads,
                      a->hidden);
    a->head_dim = field_count(v[C_HEAD_DIM], a->hidden / a->heads);
    if (a->head_dim % 2 || a->head_dim < 2 || a->head_dim > 2 * ARCH_FREQUENCIES_MAX)
        return REFUSE(c, "head_dim is %u; an even number from 2 to %u is accepted", a->head_dim,
                      2 * ARCH_FREQUENCIES_MAX);
    return 0;
}

static int read_activation(struct config *c)
{
    static const struct {
        const char *name;
        enum ops_gate_kind kind;
    } kinds[] = {{"silu", OPS_GATE_SILU},
                 {"swish", OPS_GATE_SILU},
                 {"gelu", OPS_GATE_GELU_ERF},
                 {"gelu_new", OPS_GATE_GELU_TANH},
                 {"gelu_pytorch_tanh", OPS_GATE_GELU_TANH}};
    struct arch *a = c->arch;
    const struct json *text = c->value[C_ACT];
    a->gated = !a->encoder;
    if (c->family->gemma) { /* hidden_act "gelu" was a mistake there: the models are of tanh */
        a->gate = OPS_GATE_GELU_TANH;
        text = c->value[C_ACTIVATION];
        if (!text && (!c->value[C_ACT] || json_is(c->value[C_ACT], "gelu")))
            return 0;
        text = text ? text : c->value[C_ACT];
    }
    for (uint32_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (json_is(text, kinds[i].name)) {
            a->gate = kinds[i].kind;
            return 0;
        }
    return REFUSE(c, "%s is not known; silu, gelu, gelu_new, gelu_pytorch_tanh are",
                  text == c->value[C_ACT] ? "hidden_act" : "hidden_activation");
}

static int read_numbers(struct config *c)
{
    const struct json *const *v = c->value;
    struct arch *a = c->arch;
    bool bias = field_flag(v[C_ATTENTION_BIAS], false);
    a->norm = a->encoder ? OPS_NORM_LAYER : OPS_NORM_RMS;
    a->norm_epsilon = (float)field_number(v[a->encoder ? C_LAYER_EPSILON : C_RMS_EPSILON], 0);
    a->norm_plus_one = c->family->gemma;
    a->embedding_scale = c->family->gemma ? sqrtf((float)a->hidden) : 1;
    double scalar = field_number(v[C_QUERY_SCALAR], a->head_dim);
    a->attention_scale = (float)(1 / sqrt(scalar));
    a->attention_softcap = (float)field_number(v[C_ATTENTION_SOFTCAP], 0);
    a->logits_softcap = (float)field_number(v[C_LOGITS_SOFTCAP], 0);
    a->qkv_bias = c->family->qkv_bias || bias;
    a->o_bias = bias || a->encoder;
    a->ffn_bias = field_flag(v[C_MLP_BIAS], false) || a->encoder;
    a->qk_norm = c->family->qk_norm;
    a->after_norms = c->family->after_norms;
    a->fused = c->family->fused;
    a->tied = !a->encoder && field_flag(v[C_TIED], c->family->gemma);
    if (a->encoder && v[C_POSITION_TYPE] && !json_is(v[C_POSITION_TYPE], "absolute"))
        return REFUSE(c, "%s is not \"absolute\"", "position_embedding_type");
    return read_activation(c);
}

static int read_labels(struct config *c)
{
    struct arch *a = c->arch;
    uint32_t named = c->value[C_ID_TO_LABEL] ? json_count(c->value[C_ID_TO_LABEL]) : 2;
    if (a->head != ARCH_HEAD_VALUE)
        return 0;
    a->outputs = c->ending->labels ? field_count(c->value[C_LABELS], named) : 1;
    if (a->outputs < 1 || a->outputs > 2)
        return REFUSE(c, "%s: %u labels; 1 or 2 are accepted",
                      c->value[C_LABELS] ? "num_labels" : "id2label", a->outputs);
    a->score_sigmoid |= a->outputs == 2;
    return 0;
}

static int read_layer_types(struct config *c, uint32_t window)
{
    const struct json *list = c->value[C_LAYER_TYPES];
    struct arch *a = c->arch;
    if (json_count(list) != a->layers)
        return REFUSE(c, "layer_types has %u entries; num_hidden_layers is %u", json_count(list),
                      a->layers);
    for (uint32_t i = 0; i < a->layers; i++) {
        bool slides = json_is(json_element(list, i), "sliding_attention");
        if (!slides && !json_is(json_element(list, i), "full_attention"))
            return REFUSE(c, "layer_types[%u] is neither full_attention nor sliding_attention", i);
        if (slides && !window)
            return REFUSE(c, "layer_types[%u] is sliding_attention without sliding_window", i);
        a->window[i] = slides ? window : 0;
    }
    return 0;
}

static int read_windows(struct config *c)
{
    struct arch *a = c->arch;
    enum windowed windowed = c->family->windowed;
    uint32_t window = field_count(c->value[C_WINDOW], 0);
    uint32_t first = field_count(c->value[C_WINDOW_LAYERS], 28); /* as transformers has it */
    if (windowed == WINDOWED_UPPER && !field_flag(c->value[C_USE_WINDOW], false))
        window = 0;
    if (c->value[C_LAYER_TYPES])
        return read_layer_types(c, window);
    for (uint32_t i = 0; i < a->layers; i++) {
        bool slides = windowed == WINDOWED_ALL || (windowed == WINDOWED_EVEN && i % 2 == 0) ||
                      (windowed == WINDOWED_UPPER && i >= first);
        a->window[i] = slides ? window : 0;
    }
    return 0;
}

static int read_rope(struct config *c)
{
    const struct json *const *v = c->value;
    const struct json *both[] = {v[C_ROPE_SCALING], v[C_ROPE_PARAMETERS]};
    if (c->arch->encoder)
        return 0;
    if (both[0] && both[1])
        return REFUSE(c, "%s and rope_parameters are both there", "rope_scaling");
    const struct json *inner = json_member(both[0] ? both[0] : both[1], "rope_theta");
    double theta = field_number(v[C_THETA], 10000), inner_theta = field_number(inner, theta);
    if (v[C_THETA] && inner_theta != theta)
        return REFUSE(c, "rope_theta is %g here and %g in %s", theta, inner_theta,
                      both[1] ? "rope_parameters" : "rope_scaling");
    if (both[1] && !v[C_THETA] && !inner)
        return REFUSE(c, "%s is missing", "rope_parameters.rope_theta");
    const struct rope_source source = {.file = c->file,
                                       .field = both[1] ? "rope_parameters" : "rope_scaling",
                                       .object = both[0] ? both[0] : both[1],
                                       .theta = theta,
                                       .original_tokens = field_count(v[C_ORIGINAL], 0),
                                       .partial = field_number(v[C_PARTIAL], 1)};
    return rope_read(&source, c->arch, c->message);
}

static int read_token(struct config *c, const char *field, const struct json *value, uint32_t *ret)
{
    uint64_t id;
    if (!json_u64(value, &id) || id >= c->arch->vocabulary)
        return REFUSE(c, "%s is not a token id; 0 to %u is accepted", field,
                      c->arch->vocabulary - 1);
    *ret = (uint32_t)id;
    return 0;
}

static int read_tokens(struct config *c)
{
    struct arch *a = c->arch;
    const struct json *bos = c->value[C_BOS], *eos = c->value[C_EOS];
    int result = 0;
    a->bos = OPS_NONE;
    if (bos)
        result = read_token(c, "bos_token_id", bos, &a->bos);
    if (eos && json_kind(eos) == JSON_KIND_INTEGER) {
        a->eos_count = 1;
        return result ? result : read_token(c, "eos_token_id", eos, &a->eos[0]);
    }
    a->eos_count = json_count(eos);
    if (a->eos_count > ARCH_EOS_MAX || (eos && a->eos_count == 0))
        return REFUSE(c, "eos_token_id lists %u tokens; 1 to %u are accepted", a->eos_count,
                      ARCH_EOS_MAX);
    for (uint32_t i = 0; i < a->eos_count && !result; i++)
        result = read_token(c, "eos_token_id", json_element(eos, i), &a->eos[i]);
    return result;
}

static int read_config(struct config *c)
{
    static int (*const steps[])(struct config *) = {
        read_said, read_shape, read_numbers, read_labels, read_windows, read_rope, read_tokens};
    if (json_kind(c->document) != JSON_KIND_OBJECT)
        return REFUSE(c, "%s", "not an object");
    int result = read_family(c);
    if (result)
        return result;
    const struct fields fields = {.file = c->file,
                                  .prefix = "",
                                  .variant_name = c->arch->name,
                                  .table = table,
                                  .count = C_COUNT,
                                  .variant = BIT(c->arch->family),
                                  .ignored = ignored};
    result = fields_read(&fields, c->document, c->message, c->value);
    for (uint32_t i = 0; i < sizeof steps / sizeof steps[0] && !result; i++)
        result = steps[i](c);
    return result;
}

int arch_parse(const char *name, const char *text, size_t bytes, struct arch *ret_arch,
               char message[ARCH_MESSAGE_BYTES])
{
    char why[JSON_ERROR_BYTES];
    struct json *document = NULL;
    *ret_arch = (struct arch){0};
    int result = json_parse(text, bytes, DEPTH_MAX, why, &document);
    if (result)
        return message_refuse(message, result, "%s: %s", name,
                              result == -ENOMEM ? "no memory" : why);
    struct config c = {.file = name, .message = message, .document = document, .arch = ret_arch};
    result = read_config(&c);
    json_free(document);
    return result;
}

int arch_read(const char *directory, struct arch *ret_arch, char message[ARCH_MESSAGE_BYTES])
{
    char name[256], why[MESSAGE_BYTES];
    struct file file;
    int fd = file_directory(directory, message);
    if (fd < 0)
        return fd;
    int result = file_read(fd, "config.json", CONFIG_BYTES_MAX, why, &file);
    if (result == 0) {
        (void)snprintf(name, sizeof name, "%.200s/config.json", directory);
        result = arch_parse(name, (const char *)file.bytes, file.size, ret_arch, message);
        file_close(&file);
        if (result == 0 && ret_arch->encoder && (result = sentence_read(fd, ret_arch, why)) != 0)
            (void)message_refuse(message, result, "%.200s: %s", directory, why);
    } else if (result == -ENOENT) {
        (void)message_refuse(message, result, "%.200s: no config.json there", directory);
    } else {
        (void)message_refuse(message, result, "%.200s: %s", directory, why);
    }
    (void)close(fd); /* only read from */
    return result;
}

void arch_set_context(struct arch *arch, uint32_t tokens)
{
    if (tokens < arch->context_tokens)
        arch->context_tokens = tokens;
    if (arch->rope == ARCH_ROPE_LONGROPE && arch->context_tokens <= arch->rope_original_tokens)
        memcpy(arch->inverse_frequency, arch->short_frequency, sizeof arch->inverse_frequency);
}

void arch_as_reward(struct arch *arch)
{
    if (arch->head != ARCH_HEAD_LOGITS)
        return;
    arch->head = ARCH_HEAD_TOKEN_MEAN;
    arch->score_sigmoid = true;
}
