#include "tests/lib/tiny.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/check.h"

#define HEADS 4u
#define KV_HEADS 2u
#define HEAD_DIM 16u
#define INNER 96u
#define HEADER_BYTES_MAX 65536u

static const struct kind {
    const char *config;
    bool biases, more_biases, qk_norms, after_norms, fused, head, score, bert;
} kinds[TINY_KIND_COUNT] = {
    [TINY_LLAMA] = {.config = "\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\","
                              "\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,"
                              "\"rope_theta\":10000.0,\"rms_norm_eps\":1e-5",
                    .head = true},
    [TINY_QWEN2] = {.config = "\"architectures\":[\"Qwen2ForCausalLM\"],\"model_type\":\"qwen2\","
                              "\"hidden_act\":\"silu\",\"tie_word_embeddings\":true,"
                              "\"rope_theta\":1000000.0,\"rms_norm_eps\":1e-6",
                    .biases = true},
    [TINY_QWEN3] = {.config = "\"architectures\":[\"Qwen3ForCausalLM\"],\"model_type\":\"qwen3\","
                              "\"hidden_act\":\"silu\",\"tie_word_embeddings\":true,"
                              "\"attention_bias\":false,"
                              "\"rope_theta\":1000000.0,\"rms_norm_eps\":1e-6",
                    .qk_norms = true},
    [TINY_BIASED] = {.config = "\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\","
                               "\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,"
                               "\"attention_bias\":true,\"mlp_bias\":true,"
                               "\"rope_theta\":10000.0,\"rms_norm_eps\":1e-5",
                     .head = true,
                     .biases = true,
                     .more_biases = true},
    [TINY_GEMMA2] = {.config =
                         "\"architectures\":[\"Gemma2ForCausalLM\"],\"model_type\":\"gemma2\","
                         "\"hidden_act\":\"gelu_pytorch_tanh\","
                         "\"hidden_activation\":\"gelu_pytorch_tanh\","
                         "\"tie_word_embeddings\":true,\"query_pre_attn_scalar\":16,"
                         "\"attn_logit_softcapping\":50.0,\"final_logit_softcapping\":30.0,"
                         "\"sliding_window\":40,\"rope_theta\":10000.0,\"rms_norm_eps\":1e-6",
                     .after_norms = true},
    [TINY_PHI3] = {.config = "\"architectures\":[\"Phi3ForCausalLM\"],\"model_type\":\"phi3\","
                             "\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,"
                             "\"partial_rotary_factor\":0.75,\"sliding_window\":70,"
                             "\"original_max_position_embeddings\":128,\"rope_scaling\":{"
                             "\"type\":\"longrope\",\"short_factor\":[1,1,1.1,1.2,1.3,1.5],"
                             "\"long_factor\":[1,1.1,1.5,2.3,4,6]},"
                             "\"rope_theta\":10000.0,\"rms_norm_eps\":1e-5",
                   .fused = true,
                   .head = true},
    [TINY_REWARD] = {.config = "\"architectures\":[\"Qwen2ForSequenceClassification\"],"
                               "\"model_type\":\"qwen2\",\"num_labels\":1,"
                               "\"id2label\":{\"0\":\"LABEL_0\"},\"label2id\":{\"LABEL_0\":0},"
                               "\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,"
                               "\"pad_token_id\":0,"
                               "\"rope_theta\":1000000.0,\"rms_norm_eps\":1e-6",
                     .biases = true,
                     .score = true},
    [TINY_BERT] = {.config = "\"architectures\":[\"BertModel\"],\"model_type\":\"bert\","
                             "\"hidden_act\":\"gelu\",\"type_vocab_size\":2,"
                             "\"position_embedding_type\":\"absolute\","
                             "\"layer_norm_eps\":1e-12",
                   .bert = true},
};

struct writer {
    FILE *data;
    char header[HEADER_BYTES_MAX];
    size_t header_bytes;
    uint64_t data_bytes;
    uint32_t vocabulary;
    struct rng rng;
};

/* Weights about centre, spread either side; columns 0: a vector. */
__attribute__((format(printf, 6, 7))) static void put(struct writer *w, uint32_t rows,
                                                      uint32_t columns, float centre, float spread,
                                                      const char *format, ...)
{
    char name[128], shape[32];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(name, sizeof name, format, args);
    va_end(args);
    uint64_t count = (uint64_t)rows * (columns ? columns : 1);
    for (uint64_t i = 0; i < count; i++) {
        float unit = (float)(rng_next(&w->rng) >> 40) / 8388608.0f - 1.0f;
        float value = centre + spread * unit;
        CHECK(fwrite(&value, sizeof value, 1, w->data) == 1, "short write: %m");
    }
    (void)snprintf(shape, sizeof shape, columns ? "%u,%u" : "%u", rows, columns);
    int bytes = snprintf(
        w->header + w->header_bytes, HEADER_BYTES_MAX - w->header_bytes,
        "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}",
        w->header_bytes > 1 ? "," : "", name, shape, w->data_bytes, w->data_bytes + count * 4);
    w->header_bytes += (size_t)bytes;
    CHECK(w->header_bytes < HEADER_BYTES_MAX, "header too long");
    w->data_bytes += count * 4;
}

static void put_linear(struct writer *w, uint32_t n, uint32_t k, bool bias, const char *prefix,
                       uint32_t layer, const char *name)
{
    put(w, n, k, 0, 0.2f, "%s%u.%s.weight", prefix, layer, name);
    if (bias)
        put(w, n, 0, 0, 0.2f, "%s%u.%s.bias", prefix, layer, name);
}

/* What goes into attention and into the gate, and what comes out of attention. */
static void put_matrices(struct writer *w, const struct kind *kind, const char *prefix, uint32_t i)
{
    const uint32_t q = HEADS * HEAD_DIM, kv = KV_HEADS * HEAD_DIM;
    if (kind->fused) {
        put_linear(w, TINY_HIDDEN, q, kind->more_biases, prefix, i, "self_attn.o_proj");
        put_linear(w, q + 2 * kv, TINY_HIDDEN, false, prefix, i, "self_attn.qkv_proj");
        put_linear(w, 2 * INNER, TINY_HIDDEN, false, prefix, i, "mlp.gate_up_proj");
        return;
    }
    put_linear(w, q, TINY_HIDDEN, kind->biases, prefix, i, "self_attn.q_proj");
    put_linear(w, kv, TINY_HIDDEN, kind->biases, prefix, i, "self_attn.k_proj");
    put_linear(w, kv, TINY_HIDDEN, kind->biases, prefix, i, "self_attn.v_proj");
    put_linear(w, TINY_HIDDEN, q, kind->more_biases, prefix, i, "self_attn.o_proj");
    put_linear(w, INNER, TINY_HIDDEN, kind->more_biases, prefix, i, "mlp.gate_proj");
    put_linear(w, INNER, TINY_HIDDEN, kind->more_biases, prefix, i, "mlp.up_proj");
}

static void put_decoder(struct writer *w, const struct kind *kind)
{
    static const char prefix[] = "model.layers.";
    float one = kind->after_norms ? 0 : 1; /* Gemma writes w of (1 + w) */
    put(w, w->vocabulary, TINY_HIDDEN, 0, 1, "model.embed_tokens.weight");
    for (uint32_t i = 0; i < TINY_LAYERS; i++) {
        put_matrices(w, kind, prefix, i);
        put_linear(w, TINY_HIDDEN, INNER, kind->more_biases, prefix, i, "mlp.down_proj");
        put(w, TINY_HIDDEN, 0, one, 0.3f, "%s%u.input_layernorm.weight", prefix, i);
        put(w, TINY_HIDDEN, 0, one, 0.3f, "%s%u.post_attention_layernorm.weight", prefix, i);
        if (kind->after_norms) {
            put(w, TINY_HIDDEN, 0, one, 0.3f, "%s%u.pre_feedforward_layernorm.weight", prefix, i);
            put(w, TINY_HIDDEN, 0, one, 0.3f, "%s%u.post_feedforward_layernorm.weight", prefix, i);
        }
        if (kind->qk_norms) {
            put(w, HEAD_DIM, 0, one, 0.3f, "%s%u.self_attn.q_norm.weight", prefix, i);
            put(w, HEAD_DIM, 0, one, 0.3f, "%s%u.self_attn.k_norm.weight", prefix, i);
        }
    }
    put(w, TINY_HIDDEN, 0, one, 0.3f, "model.norm.weight");
    if (kind->head)
        put(w, w->vocabulary, TINY_HIDDEN, 0, 0.2f, "lm_head.weight");
    if (kind->score)
        put(w, 1, TINY_HIDDEN, 0, 0.2f, "score.weight");
}

static void put_layer_norm(struct writer *w, const char *name)
{
    put(w, TINY_HIDDEN, 0, 1, 0.3f, "%s.weight", name);
    put(w, TINY_HIDDEN, 0, 0, 0.3f, "%s.bias", name);
}

static void put_encoder(struct writer *w)
{
    static const char prefix[] = "encoder.layer.";
    char name[128];
    put(w, w->vocabulary, TINY_HIDDEN, 0, 1, "embeddings.word_embeddings.weight");
    put(w, TINY_CONTEXT, TINY_HIDDEN, 0, 1, "embeddings.position_embeddings.weight");
    put(w, 2, TINY_HIDDEN, 0, 1, "embeddings.token_type_embeddings.weight");
    put_layer_norm(w, "embeddings.LayerNorm");
    for (uint32_t i = 0; i < TINY_LAYERS; i++) {
        put_linear(w, TINY_HIDDEN, TINY_HIDDEN, true, prefix, i, "attention.self.query");
        put_linear(w, TINY_HIDDEN, TINY_HIDDEN, true, prefix, i, "attention.self.key");
        put_linear(w, TINY_HIDDEN, TINY_HIDDEN, true, prefix, i, "attention.self.value");
        put_linear(w, TINY_HIDDEN, TINY_HIDDEN, true, prefix, i, "attention.output.dense");
        (void)snprintf(name, sizeof name, "%s%u.attention.output.LayerNorm", prefix, i);
        put_layer_norm(w, name);
        put_linear(w, INNER, TINY_HIDDEN, true, prefix, i, "intermediate.dense");
        put_linear(w, TINY_HIDDEN, INNER, true, prefix, i, "output.dense");
        (void)snprintf(name, sizeof name, "%s%u.output.LayerNorm", prefix, i);
        put_layer_norm(w, name);
    }
}

static FILE *create(const char *folder, const char *name)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w+e");
    CHECK(file, "%s: %m", path);
    return file;
}

static void write_config(const char *folder, const struct kind *kind, uint32_t vocabulary)
{
    FILE *file = create(folder, "config.json");
    (void)fprintf(file,
                  "{%s,\"vocab_size\":%u,\"hidden_size\":%u,\"num_hidden_layers\":%u,"
                  "\"num_attention_heads\":%u,\"intermediate_size\":%u,"
                  "\"max_position_embeddings\":%u,\"torch_dtype\":\"float32\"",
                  kind->config, vocabulary, TINY_HIDDEN, TINY_LAYERS, HEADS, INNER, TINY_CONTEXT);
    if (!kind->bert)
        (void)fprintf(file, ",\"num_key_value_heads\":%u,\"head_dim\":%u", KV_HEADS, HEAD_DIM);
    (void)fprintf(file, "}\n");
    CHECK(fclose(file) == 0, "config.json: %m");
}

static void write_weights(const char *folder, const struct kind *kind, uint64_t seed,
                          uint32_t vocabulary)
{
    static struct writer w;
    w = (struct writer){.data = tmpfile(), .vocabulary = vocabulary, .rng = {.state = seed}};
    CHECK(w.data, "tmpfile: %m");
    w.header[w.header_bytes++] = '{';
    if (kind->bert)
        put_encoder(&w);
    else
        put_decoder(&w, kind);
    w.header[w.header_bytes++] = '}';
    while (w.header_bytes % 8)
        w.header[w.header_bytes++] = ' ';
    FILE *file = create(folder, "model.safetensors");
    uint64_t header_bytes = w.header_bytes;
    CHECK(fwrite(&header_bytes, 8, 1, file) == 1, "%m");
    CHECK(fwrite(w.header, 1, w.header_bytes, file) == w.header_bytes, "%m");
    rewind(w.data);
    char block[4096];
    for (size_t got; (got = fread(block, 1, sizeof block, w.data)) > 0;)
        CHECK(fwrite(block, 1, got, file) == got, "%m");
    CHECK(fclose(file) == 0, "model.safetensors: %m");
    (void)fclose(w.data); /* only read since */
}

char *tiny_write(enum tiny_kind kind, uint64_t seed)
{
    return tiny_write_vocabulary(kind, seed, TINY_VOCABULARY);
}

char *tiny_write_vocabulary(enum tiny_kind kind, uint64_t seed, uint32_t vocabulary)
{
    char *folder = strdup("/tmp/dynasor-tiny-XXXXXX");
    CHECK(folder && mkdtemp(folder), "mkdtemp: %m");
    write_config(folder, &kinds[kind], vocabulary);
    write_weights(folder, &kinds[kind], seed, vocabulary);
    return folder;
}

void tiny_spoil(const char *folder, uint32_t token)
{
    char path[512], header[65536] = "";
    uint64_t header_bytes, begin;
    const uint32_t nan_bits = 0x7fc00000;
    (void)snprintf(path, sizeof path, "%s/model.safetensors", folder);
    FILE *file = fopen(path, "r+e");
    CHECK(file && fread(&header_bytes, 8, 1, file) == 1 && header_bytes < sizeof header &&
              fread(header, 1, header_bytes, file) == header_bytes,
          "%s: %m", path);
    const char *at = strstr(header, "model.embed_tokens.weight");
    CHECK(at && (at = strstr(at, "data_offsets\":[")), "no embedding");
    begin = strtoull(at + strlen("data_offsets\":["), NULL, 10);
    uint64_t to = 8 + header_bytes + begin + (uint64_t)token * TINY_HIDDEN * sizeof nan_bits;
    CHECK(fseek(file, (long)to, SEEK_SET) == 0, "%m");
    for (uint32_t i = 0; i < TINY_HIDDEN; i++)
        CHECK(fwrite(&nan_bits, sizeof nan_bits, 1, file) == 1, "%m");
    CHECK(fclose(file) == 0, "%m");
}

void tiny_remove(char *folder)
{
    static const char *const names[] = {"config.json", "model.safetensors"};
    char path[512];
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        (void)snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        CHECK(unlink(path) == 0, "%s: %m", path);
    }
    CHECK(rmdir(folder) == 0, "%s: %m", folder);
    free(folder);
}
