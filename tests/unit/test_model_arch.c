/* tests/unit/test_model_arch.c: config.json of every family becomes the right record; rotation
 * frequencies are those of the published formulas, computed apart in double precision; each field
 * that is missing, mistyped, out of range or unknown is refused by its name. */
#include <glob.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/model/arch.h"
#include "tests/lib/check.h"

#define FOLDER "tests/data/configs/"
#define TEXT_BYTES 65536u

static char *config_text(const char *name)
{
    char path[256];
    static char text[TEXT_BYTES];
    (void)snprintf(path, sizeof path, FOLDER "%s.json", name);
    FILE *f = fopen(path, "rb");
    CHECK(f, "%s is not there", path);
    size_t bytes = fread(text, 1, sizeof text - 1, f);
    (void)fclose(f);
    text[bytes] = 0;
    return text;
}

static struct arch config(const char *name)
{
    struct arch a;
    char message[ARCH_MESSAGE_BYTES] = "";
    const char *text = config_text(name);
    int result = arch_parse(name, text, strlen(text), &a, message);
    CHECK(result == 0, "%s: %s", name, message);
    return a;
}

static void near(const char *what, double is, double wanted)
{
    CHECK(fabs(is - wanted) <= 2e-6 * fabs(wanted), "%s is %.9g, not %.9g", what, is, wanted);
}

static void every_family_is_read(void **state)
{
    static const struct {
        const char *name;
        enum arch_family family;
        enum arch_head head;
        enum arch_rope rope;
        uint32_t hidden, layers, heads, kv_heads, head_dim, rotary_dim, context;
        bool tied, qkv_bias, o_bias;
    } all[] = {
        {"llama2-7b", ARCH_LLAMA, 0, ARCH_ROPE_DEFAULT, 4096, 32, 32, 32, 128, 128, 4096, 0, 0, 0},
        {"llemma-7b", ARCH_LLAMA, 0, ARCH_ROPE_DEFAULT, 4096, 32, 32, 32, 128, 128, 4096, 0, 0, 0},
        {"llama3.1-8b", ARCH_LLAMA, 0, ARCH_ROPE_LLAMA3, 4096, 32, 32, 8, 128, 128, 131072, 0, 0,
         0},
        {"llama3.2-1b", ARCH_LLAMA, 0, ARCH_ROPE_LLAMA3, 2048, 16, 32, 8, 64, 64, 131072, 1, 0, 0},
        {"mistral-7b-v0.1", ARCH_MISTRAL, 0, ARCH_ROPE_DEFAULT, 4096, 32, 32, 8, 128, 128, 32768, 0,
         0, 0},
        {"qwen2.5-7b", ARCH_QWEN2, 0, ARCH_ROPE_DEFAULT, 3584, 28, 28, 4, 128, 128, 131072, 0, 1,
         0},
        {"qwen2.5-7b-yarn", ARCH_QWEN2, 0, ARCH_ROPE_YARN, 3584, 28, 28, 4, 128, 128, 131072, 0, 1,
         0},
        {"skywork-prm-7b", ARCH_QWEN2, ARCH_HEAD_VALUE, ARCH_ROPE_DEFAULT, 3584, 28, 28, 4, 128,
         128, 4096, 0, 1, 0},
        {"qwen2-0.5b-prm", ARCH_QWEN2, ARCH_HEAD_VALUE, ARCH_ROPE_DEFAULT, 896, 24, 14, 2, 64, 64,
         32768, 1, 1, 0},
        {"qwen3-8b", ARCH_QWEN3, 0, ARCH_ROPE_DEFAULT, 4096, 36, 32, 8, 128, 128, 40960, 0, 0, 0},
        {"qwen3-0.6b-v5", ARCH_QWEN3, 0, ARCH_ROPE_DEFAULT, 1024, 28, 16, 8, 128, 128, 40960, 1, 0,
         0},
        {"gemma-2b", ARCH_GEMMA, 0, ARCH_ROPE_DEFAULT, 2048, 18, 8, 1, 256, 256, 8192, 1, 0, 0},
        {"gemma2-2b", ARCH_GEMMA2, 0, ARCH_ROPE_DEFAULT, 2304, 26, 8, 4, 256, 256, 8192, 1, 0, 0},
        {"phi3-mini-4k", ARCH_PHI3, 0, ARCH_ROPE_DEFAULT, 3072, 32, 32, 32, 96, 96, 4096, 0, 0, 0},
        {"phi3.5-mini", ARCH_PHI3, 0, ARCH_ROPE_LONGROPE, 3072, 32, 32, 32, 96, 96, 131072, 0, 0,
         0},
        {"phi4-mini", ARCH_PHI3, 0, ARCH_ROPE_LONGROPE, 3072, 32, 24, 8, 128, 96, 131072, 1, 0, 0},
        {"llama3.1-8b-reward", ARCH_LLAMA, ARCH_HEAD_VALUE, ARCH_ROPE_LLAMA3, 4096, 32, 32, 8, 128,
         128, 131072, 0, 0, 0},
        {"minilm-l6", ARCH_BERT, ARCH_HEAD_NONE, ARCH_ROPE_NONE, 384, 6, 12, 12, 32, 0, 512, 0, 1,
         1},
    };
    (void)state;
    for (size_t i = 0; i < COUNT_OF(all); i++) {
        struct arch a = config(all[i].name);
        CHECK(a.family == all[i].family && a.head == all[i].head && a.rope == all[i].rope &&
                  a.hidden == all[i].hidden && a.layers == all[i].layers &&
                  a.heads == all[i].heads && a.kv_heads == all[i].kv_heads &&
                  a.head_dim == all[i].head_dim && a.rotary_dim == all[i].rotary_dim &&
                  a.context_tokens == all[i].context && a.tied == all[i].tied &&
                  a.qkv_bias == all[i].qkv_bias && a.o_bias == all[i].o_bias,
              "%s was read as something else", all[i].name);
        CHECK(a.encoder == (a.family == ARCH_BERT) && a.gated == !a.encoder, "%s", all[i].name);
        CHECK(a.fused == (a.family == ARCH_PHI3) && a.qk_norm == (a.family == ARCH_QWEN3), "%s",
              all[i].name);
    }
}

static void numbers_of_families_are_theirs(void **state)
{
    (void)state;
    struct arch g = config("gemma2-2b"), l = config("llama3.1-8b"), b = config("minilm-l6");
    near("embedding_scale", (double)g.embedding_scale, 48);
    near("attention_scale", (double)g.attention_scale, 1 / 16.0);
    near("softcap", (double)g.attention_softcap, 50);
    near("softcap", (double)g.logits_softcap, 30);
    assert_true(g.norm_plus_one && g.after_norms && g.gate == OPS_GATE_GELU_TANH);
    assert_true(!l.norm_plus_one && !l.after_norms && l.gate == OPS_GATE_SILU);
    near("attention_scale", (double)l.attention_scale, 1 / sqrt(128));
    near("embedding_scale", (double)l.embedding_scale, 1);
    assert_int_equal(l.eos_count, 3);
    assert_int_equal(l.eos[2], 128009);
    assert_int_equal(l.bos, 128000);
    assert_true(b.norm == OPS_NORM_LAYER && b.gate == OPS_GATE_GELU_ERF && b.types_count == 2);
    near("epsilon", (double)b.norm_epsilon, 1e-12);
    assert_true(config("gemma-2b").gate == OPS_GATE_GELU_TANH); /* says "gelu" */
    assert_int_equal(config("llama3.1-8b-reward").outputs, 1);
    assert_false(config("llama3.1-8b-reward").score_sigmoid);
    assert_int_equal(config("qwen2-0.5b-prm").outputs, 2);
    assert_true(config("skywork-prm-7b").score_sigmoid);
    arch_as_reward(&l);
    assert_true(l.head == ARCH_HEAD_TOKEN_MEAN && l.score_sigmoid);
}

static void windows_are_of_the_right_layers(void **state)
{
    (void)state;
    struct arch g = config("gemma2-2b"), m = config("mistral-7b-v0.1"), q = config("qwen2.5-7b");
    struct arch w = config("qwen2.5-1.5b-window"), n = config("mistral-7b-v0.3");
    for (uint32_t i = 0; i < g.layers; i++)
        assert_int_equal(g.window[i], i % 2 ? 0 : 4096);
    for (uint32_t i = 0; i < m.layers; i++) {
        assert_int_equal(m.window[i], 4096);
        assert_int_equal(n.window[i], 0);
    }
    for (uint32_t i = 0; i < q.layers; i++) {
        assert_int_equal(q.window[i], 0);
        assert_int_equal(w.window[i], i < 21 ? 0 : 4096);
    }
    assert_int_equal(config("phi3-mini-4k").window[31], 2047);
    char message[ARCH_MESSAGE_BYTES], *text = config_text("qwen2.5-1.5b-window");
    char *flag = strstr(text, "\"use_sliding_window\": true,");
    assert_non_null(flag);
    flag[2] = 'S'; /* another field, which is unknown */
    assert_true(arch_parse("x", text, strlen(text), &w, message) != 0);
    memcpy(flag, "\"use_sliding_window\":false,", 27);
    assert_int_equal(arch_parse("x", text, strlen(text), &w, message), 0);
    for (uint32_t i = 0; i < w.layers; i++)
        assert_int_equal(w.window[i], 0);
}

static void frequencies_are_the_published_ones(void **state)
{
    (void)state;
    struct arch a = config("llama3.1-8b"), b = config("llama3.2-1b"), v5 = config("llama3.2-1b-v5");
    struct arch y = config("qwen2.5-7b-yarn"), p = config("phi3.5-mini"), d = config("llama2-7b");
    for (uint32_t i = 0; i < 64; i++)
        near("default", (double)d.inverse_frequency[i], pow(10000, -2.0 * i / 128));
    near("llama3", (double)a.inverse_frequency[1], 0.8146172338565447);
    near("llama3", (double)a.inverse_frequency[29], 0.002166570763503359);
    near("llama3", (double)a.inverse_frequency[32], 0.0005248461609929547);
    near("llama3", (double)a.inverse_frequency[63], 3.068925988914511e-07);
    near("llama3", (double)b.inverse_frequency[15], 0.001290547928209264);
    near("llama3", (double)b.inverse_frequency[31], 9.41830672543491e-08);
    assert_memory_equal(b.inverse_frequency, v5.inverse_frequency, sizeof b.inverse_frequency);
    near("yarn", (double)y.inverse_frequency[1], 0.8058421877614819);
    near("yarn", (double)y.inverse_frequency[30], 0.001064360981247002);
    near("yarn", (double)y.inverse_frequency[40], 4.445698525097307e-05);
    near("yarn", (double)y.inverse_frequency[63], 3.102344401879299e-07);
    near("yarn", (double)y.rope_scale, 1.138629436111989);
    near("longrope", (double)p.inverse_frequency[5], 0.05074419668287799);
    near("longrope", (double)p.rope_scale, 1.1902380714238083);
    arch_set_context(&p, 4097);
    near("longrope", (double)p.inverse_frequency[5], 0.05074419668287799);
    arch_set_context(&p, 4096);
    near("short longrope", (double)p.inverse_frequency[5], 0.306494947964583);
    assert_int_equal(p.context_tokens, 4096);
}

/* One edit of a config that is otherwise right. */
struct edit {
    const char *config;
    const char *from; /* "": before the closing brace */
    const char *to;
    const char *named; /* must be in the message; NULL: the edit is accepted */
};

static void judge(const struct edit *e)
{
    static char text[2 * TEXT_BYTES];
    char message[ARCH_MESSAGE_BYTES] = "";
    struct arch a;
    const char *original = config_text(e->config);
    const char *at = e->from[0] ? strstr(original, e->from) : strrchr(original, '}');
    CHECK(at, "%s has no %s", e->config, e->from);
    (void)snprintf(text, sizeof text, "%.*s%s%s", (int)(at - original), original, e->to,
                   at + strlen(e->from));
    int result = arch_parse("config.json", text, strlen(text), &a, message);
    if (!e->named) {
        CHECK(result == 0, "%s, %s: refused: %s", e->config, e->to, message);
        return;
    }
    CHECK(result == -22, "%s, %s -> %s: accepted", e->config, e->from, e->to);
    CHECK(strstr(message, e->named) && !strncmp(message, "config.json: ", 13),
          "%s, %s: the message \"%s\" does not say \"%s\"", e->config, e->to, message, e->named);
}

static const char l3[] = "llama3.1-8b", g2[] = "gemma2-2b", bert[] = "minilm-l6",
                  q[] = "qwen2.5-7b", y[] = "qwen2.5-7b-yarn", p[] = "phi3.5-mini";
static const struct edit edits[] = {
    {l3, "\"hidden_size\": 4096", "\"hidden_size\": 0", "hidden_size is 0; 2 to 65536"},
    {l3, "\"hidden_size\": 4096", "\"hidden_size\": -1", "hidden_size is -1; 2 to 65536"},
    {l3, "\"hidden_size\": 4096", "\"hidden_size\": 4096.0", "hidden_size is not an integer"},
    {l3, "\"hidden_size\": 4096", "\"hidden_size\": \"4096\"", "hidden_size is not an integer"},
    {l3, "\"hidden_size\": 4096,", "", "hidden_size is missing; 2 to 65536"},
    {l3, "\"hidden_size\": 4096", "\"hidden_size\": null", "hidden_size is missing"},
    {l3, "\"hidden_size\": 4096", "\"hidden_size\": 4090", "num_attention_heads is 32; it must"},
    {l3, "\"num_hidden_layers\": 32", "\"num_hidden_layers\": 257", "num_hidden_layers is 257"},
    {l3, "\"num_hidden_layers\": 32", "\"num_hidden_layers\": true", "num_hidden_layers is not"},
    {l3, "\"num_attention_heads\": 32", "\"num_attention_heads\": 0", "num_attention_heads is 0"},
    {l3, "\"num_key_value_heads\": 8", "\"num_key_value_heads\": 5", "num_key_value_heads is 5"},
    {q, "\"num_key_value_heads\": 4,", "", "num_key_value_heads is missing"},
    {l3, "\"intermediate_size\": 14336", "\"intermediate_size\": 1e3", "intermediate_size is not"},
    {l3, "\"vocab_size\": 128256", "\"vocab_size\": 1", "vocab_size is 1; 2 to 4194304"},
    {l3, "\"vocab_size\": 128256", "\"vocab_size\": 1000", "bos_token_id is not a token id"},
    {l3, "128008", "999999", "eos_token_id is not a token id; 0 to 128255"},
    {l3, "128008", "1,2,3,4,5,6,7", "eos_token_id lists 9 tokens; 1 to 8"},
    {l3, "\"max_position_embeddings\": 131072", "\"max_position_embeddings\": 16777217",
     "max_position_embeddings is 16777217"},
    {l3, "\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": 0", "rms_norm_eps is 0"},
    {l3, "\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": [1]", "rms_norm_eps is not a number"},
    {l3, "\"silu\"", "\"relu\"", "hidden_act is not known"},
    {l3, "\"silu\"", "7", "hidden_act is not a string"},
    {l3, "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": 0",
     "tie_word_embeddings is not true or false"},
    {l3, "\"attention_bias\": false", "\"attention_bias\": \"no\"", "attention_bias is not true"},
    {l3, "\"LlamaForCausalLM\"", "\"LlamaForQuestionAnswering\"", "architectures: \"LlamaForQ"},
    {l3, "\"LlamaForCausalLM\"", "", "architectures is not a list of one name"},
    {l3, "\"model_type\": \"llama\"", "\"model_type\": \"mistral\"", "model_type is not \"llama\""},
    {l3, "", ", \"num_experts\": 8", "num_experts is not known"},
    {l3, "", ", \"num_experts\": null", NULL},
    {l3, "", ", \"quantization_config\": {}", "quantization_config is not known"},
    {l3, "", ", \"text_config\": {}",
     "text_config is not known"}, /* fields are taken from one place */
    {l3, "", ", \"text_config\": {\"hidden_size\": 2048}", "text_config is not known"},
    {l3, "\"hidden_size\": 4096", "\"text_config\": {\"hidden_size\": 4096}",
     "text_config is not known"},
    {l3, "", ", \"sliding_window\": 4096", "sliding_window is no field of LlamaForCausalLM"},
    {l3, "", ", \"use_sliding_window\": false", NULL},
    {l3, "", ", \"is_decoder\": true", "is_decoder is not false"},
    {l3, "", ", \"head_dim\": 258", "head_dim is 258; 2 to 256"},
    {l3, "", ", \"head_dim\": 127", "head_dim is 127; an even number"},
    {l3, "", ", \"hidden_size\": 4096", "duplicate"},
    {l3, "", ", \"rope_parameters\": {}", "rope_scaling and rope_parameters"},
    {l3, "\"rope_theta\": 500000.0", "\"rope_theta\": 1", "rope_theta is 1; 1.5 to 1e+12"},
    {l3, "\"factor\": 8.0", "\"factor\": 0.5", "rope_scaling.factor is 0.5"},
    {l3, "\"factor\": 8.0,", "", "rope_scaling.factor is missing"},
    {l3, "\"factor\": 8.0", "\"factor\": 8, \"beta_fast\": 1",
     "rope_scaling.beta_fast is no field"},
    {l3, "\"factor\": 8.0", "\"factor\": 8, \"wobble\": 1", "rope_scaling.wobble is not known"},
    {l3, "\"low_freq_factor\": 1.0", "\"low_freq_factor\": 4", "rope_scaling.low_freq_factor is 4"},
    {l3, "\"rope_type\": \"llama3\"", "\"rope_type\": \"mrope\"", "rope_scaling.rope_type is none"},
    {l3, "\"rope_type\": \"llama3\"", "\"rope_type\": \"llama3\", \"type\": \"yarn\"",
     "rope_scaling.type and rope_type differ"},
    {l3, ",\n    \"rope_type\": \"llama3\"", "", "rope_scaling.rope_type is missing"},
    {y, "\"factor\": 4.0", "\"factor\": 4, \"beta_fast\": 0", "rope_scaling.beta_fast is 0"},
    {y, "\"factor\": 4.0,", "", NULL}, /* the quotient of the two contexts */
    {p, "1.05,", "", "rope_scaling.short_factor has 47 factors; 48"},
    {p, "1.05,", "0,", "rope_scaling.short_factor[1] is not"},
    {q, "\"max_window_layers\": 28", "\"max_window_layers\": -1", "max_window_layers is -1"},
    {q, "", ", \"layer_types\": [\"full_attention\"]", "layer_types has 1 entries"},
    {"qwen3-0.6b-v5", "\"full_attention\"", "\"linear_attention\"", "layer_types[0] is neither"},
    {"qwen3-0.6b-v5", "\"full_attention\"", "\"sliding_attention\"",
     "layer_types[0] is sliding_attention without"},
    {"qwen3-8b", "\"head_dim\": 128,", "", "head_dim is missing"},
    {g2, "\"query_pre_attn_scalar\": 256,", "", "query_pre_attn_scalar is missing"},
    {g2, "\"attn_logit_softcapping\": 50.0", "\"attn_logit_softcapping\": 0",
     "attn_logit_softcapping is 0"},
    {g2, "\"gelu_pytorch_tanh\",\n  \"attn", "\"swiglu\",\n  \"attn", "hidden_activation is not"},
    {"phi4-mini", "\"full_attn_mod\": 1", "\"full_attn_mod\": 2", "full_attn_mod is 2; 1 to 1"},
    {"phi4-mini", "\"lm_head_bias\": false", "\"lm_head_bias\": true", "lm_head_bias is not false"},
    {"phi4-mini", "\"partial_rotary_factor\": 0.75", "\"partial_rotary_factor\": 0.01",
     "partial_rotary_factor gives 1 of 128"},
    {bert, "\"absolute\"", "\"relative_key\"", "position_embedding_type is not \"absolute\""},
    {bert, "\"type_vocab_size\": 2", "\"type_vocab_size\": 0", "type_vocab_size is 0"},
    {bert, "\"layer_norm_eps\": 1e-12", "\"layer_norm_eps\": \"x\"", "layer_norm_eps is not"},
    {bert, "\"gelu\"", "\"tanh\"", "hidden_act is not known"},
    {"mistral-7b-v0.1", ",\n  \"sliding_window\": 4096", "",
     "sliding_window is missing; null or 1 to"},
    {"mistral-7b-v0.1", "\"sliding_window\": 4096", "\"sliding_window\": null", NULL},
    {"qwen2.5-1.5b-window", "\"sliding_window\": 4096,", "", "sliding_window is missing"},
    {"qwen2.5-1.5b-window", "\"sliding_window\": 4096", "\"sliding_window\": null", NULL},
    {g2, "\"attn_logit_softcapping\": 50.0,", "", "attn_logit_softcapping is missing; null or"},
    {g2, "\"attn_logit_softcapping\": 50.0", "\"attn_logit_softcapping\": null", NULL},
    {g2, "\"final_logit_softcapping\": 30.0,", "", "final_logit_softcapping is missing; null or"},
    {g2, "\"final_logit_softcapping\": 30.0", "\"final_logit_softcapping\": null", NULL},
    {p, "\"original_max_position_embeddings\": 4096,", "",
     "original_max_position_embeddings is missing; 2 to"},
    {"qwen3-0.6b-v5", "", ", \"rope_theta\": 10000.0", "rope_theta is 10000 here and 1e+06 in"},
    {"qwen3-0.6b-v5", "", ", \"rope_theta\": 1000000.0", NULL},
    {"qwen2-0.5b-prm", "\"1\": \"LABEL_1\"", "\"1\": \"a\", \"2\": \"b\"", "id2label: 3 labels"},
    {l3, "\"LlamaForCausalLM\"", "\"Llama\\nFor\\u001b[2J\"", "architectures: \"Llama?For?[2J\""},
};

static void wrong_fields_are_refused_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(edits); i++)
        judge(&edits[i]);
}

/* ---- every member of every file, with values of other kinds ------------------------------------- */

struct member {
    size_t name, name_bytes; /* in the text */
    size_t value, value_end;
};

static size_t skip_string(const char *text, size_t at)
{
    for (at++; text[at] != '"'; at++)
        at += text[at] == '\\';
    return at + 1;
}

static size_t skip_value(const char *text, size_t at)
{
    uint32_t depth = 0;
    if (text[at] == '"')
        return skip_string(text, at);
    for (;; at++) {
        if (text[at] == '"')
            at = skip_string(text, at);
        if (depth == 0 && strchr(",}] \n", text[at]))
            return at;
        depth += text[at] == '{' || text[at] == '[';
        depth -= text[at] == '}' || text[at] == ']';
        if (depth == 0 && (text[at] == '}' || text[at] == ']'))
            return at + 1;
    }
}

/* The next from *at on, at any depth; false: no more. */
static bool member_next(const char *text, size_t *at, struct member *ret)
{
    while (text[*at]) {
        if (text[*at] != '"') {
            ++*at;
            continue;
        }
        *ret = (struct member){.name = *at + 1};
        *at = skip_string(text, *at);
        ret->name_bytes = *at - 1 - ret->name;
        ret->value = *at + strspn(text + *at, " \n");
        if (text[ret->value] != ':')
            continue;
        ret->value += 1 + strspn(text + ret->value + 1, " \n");
        ret->value_end = skip_value(text, ret->value);
        *at = strchr("{[", text[ret->value]) ? ret->value + 1 : ret->value_end;
        return true;
    }
    return false;
}

/* The first three are to be refused, whatever the field; by what is done with all of them a field is known
 * that nobody reads. */
static const char *const strange[] = {"[]", "{}", "\"?\"", "true", "false", "7"};
#define WRONG_KINDS 3u

static void judge_member(const char *file, const char *original, const struct arch *wanted,
                         const struct member *m)
{
    static char text[2 * TEXT_BYTES], messages[WRONG_KINDS][ARCH_MESSAGE_BYTES];
    char name[128], message[ARCH_MESSAGE_BYTES];
    bool same[COUNT_OF(strange)], read = false;
    int result[COUNT_OF(strange)];
    (void)snprintf(name, sizeof name, "%.*s", (int)m->name_bytes, original + m->name);
    for (uint32_t i = 0; i < COUNT_OF(strange); i++) {
        struct arch a;
        (void)snprintf(text, sizeof text, "%.*s%s%s", (int)m->value, original, strange[i],
                       original + m->value_end);
        message[0] = 0;
        result[i] = arch_parse("config.json", text, strlen(text), &a, message);
        same[i] = result[i] == 0 && memcmp(&a, wanted, sizeof a) == 0;
        read |= !same[i];
        if (i < WRONG_KINDS)
            memcpy(messages[i], message, sizeof message);
    }
    for (uint32_t i = 0; i < WRONG_KINDS && read; i++) {
        if (same[i] && original[m->value] == strange[i][0])
            continue; /* of the right kind, and this model has no use for it */
        CHECK(result[i] != 0, "%s: %s = %s is accepted", file, name, strange[i]);
        CHECK(strstr(messages[i], name), "%s: %s = %s: the message \"%s\" does not name it", file,
              name, strange[i], messages[i]);
    }
}

static void every_member_of_another_kind_is_refused_by_name(void **state)
{
    (void)state;
    glob_t files;
    uint32_t members = 0;
    assert_int_equal(glob(FOLDER "*.json", 0, NULL, &files), 0);
    for (size_t i = 0; i < files.gl_pathc; i++) {
        char name[128], *text;
        struct arch wanted;
        struct member m;
        const char *path = files.gl_pathv[i] + strlen(FOLDER);
        (void)snprintf(name, sizeof name, "%.*s", (int)(strlen(path) - strlen(".json")), path);
        wanted = config(name);
        text = config_text(name);
        for (size_t at = 0; member_next(text, &at, &m); members++)
            judge_member(name, text, &wanted, &m);
    }
    CHECK(files.gl_pathc > 30 && members > 700, "%zu files, %u members", files.gl_pathc, members);
    globfree(&files);
}

/* Nothing but the whole text is a model, and no cut of it crashes. */
static void cut_texts_are_refused(void **state)
{
    struct arch a;
    char message[ARCH_MESSAGE_BYTES];
    const char *text = config_text("llama3.1-8b");
    size_t whole = (size_t)(strrchr(text, '}') - text) + 1;
    (void)state;
    for (size_t i = 0; i < whole; i++)
        assert_true(arch_parse("config.json", text, i, &a, message) != 0);
    assert_int_equal(arch_parse("config.json", text, whole, &a, message), 0);
}

static void a_folder_without_a_config_is_named(void **state)
{
    struct arch a;
    char message[ARCH_MESSAGE_BYTES];
    (void)state;
    assert_int_equal(arch_read("tests/data/nowhere", &a, message), -2);
    assert_non_null(strstr(message, "tests/data/nowhere"));
    assert_int_equal(arch_read("tests/data", &a, message), -2);
    assert_non_null(strstr(message, "no config.json"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_family_is_read),
        cmocka_unit_test(numbers_of_families_are_theirs),
        cmocka_unit_test(windows_are_of_the_right_layers),
        cmocka_unit_test(frequencies_are_the_published_ones),
        cmocka_unit_test(wrong_fields_are_refused_by_name),
        cmocka_unit_test(every_member_of_another_kind_is_refused_by_name),
        cmocka_unit_test(cut_texts_are_refused),
        cmocka_unit_test(a_folder_without_a_config_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
