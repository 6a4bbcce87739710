#include "tests/lib/lexical.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/check.h"

#define HIDDEN 256u
#define SILENT 8u /* the last of them: what the last norm drops */
#define INNER 32u
#define CONTEXT 128u
#define WORDS_MAX 4096u
#define WORD_BYTES 24u
#define STEM_BYTES 5u
#define FRAMES 3u /* unknown, begin, end */

static const char punctuation[] = "'(),-.:;^!?";
static const char silent[] =
    " the a an is are was were be been it its of to in on at by for and or that this they he she his "
    "her with from as not no so there because into than then have has had will would all one we you "
    "i s t up out off over before when which who what how did does do ";

struct words {
    char text[WORDS_MAX][WORD_BYTES];
    uint32_t count;
};

static void word_add(struct words *w, const char *text, size_t bytes)
{
    char word[WORD_BYTES] = "";
    CHECK(bytes < WORD_BYTES && w->count < WORDS_MAX, "%.*s: too many words, or too long",
          (int)bytes, text);
    for (size_t i = 0; i < bytes; i++)
        word[i] = (char)tolower((unsigned char)text[i]);
    for (uint32_t i = 0; i < w->count; i++)
        if (strcmp(w->text[i], word) == 0)
            return;
    memcpy(w->text[w->count++], word, WORD_BYTES);
}

static void words_add(struct words *w, const char *text)
{
    while (*text) {
        size_t bytes = 0;
        while (isalnum((unsigned char)text[bytes]))
            bytes++;
        if (bytes)
            word_add(w, text, bytes);
        text += bytes ? bytes : 1;
    }
}

static bool is_silent(const char *word)
{
    char framed[WORD_BYTES + 2];
    (void)snprintf(framed, sizeof framed, " %s ", word);
    return !isalnum((unsigned char)word[0]) || strstr(silent, framed) != NULL;
}

static FILE *create(const char *folder, const char *name)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "we");
    CHECK(file, "%s: %m", path);
    return file;
}

static void write_tokenizer(const char *folder, const struct words *w)
{
    FILE *file = create(folder, "tokenizer.json");
    (void)fprintf(
        file,
        "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[],"
        "\"normalizer\":{\"type\":\"BertNormalizer\",\"clean_text\":true,\"handle_chinese_chars\":true,"
        "\"strip_accents\":null,\"lowercase\":true},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},"
        "\"post_processor\":{\"type\":\"BertProcessing\",\"sep\":[\"[SEP]\",2],\"cls\":[\"[CLS]\",1]},"
        "\"decoder\":{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true},"
        "\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\",\"continuing_subword_prefix\":\"##\","
        "\"max_input_chars_per_word\":100,\"vocab\":{\"[UNK]\":0,\"[CLS]\":1,\"[SEP]\":2");
    for (uint32_t i = 0; i < w->count; i++)
        (void)fprintf(file, ",\"%s\":%u", w->text[i], FRAMES + i);
    (void)fprintf(file, "}}}\n");
    CHECK(fclose(file) == 0, "tokenizer.json: %m");
}

static void write_config(const char *folder, const struct words *w)
{
    FILE *file = create(folder, "config.json");
    (void)fprintf(
        file,
        "{\"architectures\":[\"BertModel\"],\"model_type\":\"bert\",\"hidden_act\":\"gelu\","
        "\"type_vocab_size\":2,\"position_embedding_type\":\"absolute\",\"layer_norm_eps\":1e-12,"
        "\"vocab_size\":%u,\"hidden_size\":%u,\"num_hidden_layers\":1,\"num_attention_heads\":4,"
        "\"intermediate_size\":%u,\"max_position_embeddings\":%u,\"torch_dtype\":\"float32\"}\n",
        FRAMES + w->count, HIDDEN, INNER, CONTEXT);
    CHECK(fclose(file) == 0, "config.json: %m");
}

/* ---- weights ---- */

enum fill { ZERO, ONE, LAST_NORM, WORDS };

static const struct tensor {
    const char *name;
    uint32_t rows;    /* 0: as many as there are tokens */
    uint32_t columns; /* 0: a vector */
    enum fill fill;
} tensors[] = {
    {"embeddings.word_embeddings.weight", 0, HIDDEN, WORDS},
    {"embeddings.position_embeddings.weight", CONTEXT, HIDDEN, ZERO},
    {"embeddings.token_type_embeddings.weight", 2, HIDDEN, ZERO},
    {"embeddings.LayerNorm.weight", HIDDEN, 0, ONE},
    {"embeddings.LayerNorm.bias", HIDDEN, 0, ZERO},
    {"encoder.layer.0.attention.self.query.weight", HIDDEN, HIDDEN, ZERO},
    {"encoder.layer.0.attention.self.query.bias", HIDDEN, 0, ZERO},
    {"encoder.layer.0.attention.self.key.weight", HIDDEN, HIDDEN, ZERO},
    {"encoder.layer.0.attention.self.key.bias", HIDDEN, 0, ZERO},
    {"encoder.layer.0.attention.self.value.weight", HIDDEN, HIDDEN, ZERO},
    {"encoder.layer.0.attention.self.value.bias", HIDDEN, 0, ZERO},
    {"encoder.layer.0.attention.output.dense.weight", HIDDEN, HIDDEN, ZERO},
    {"encoder.layer.0.attention.output.dense.bias", HIDDEN, 0, ZERO},
    {"encoder.layer.0.attention.output.LayerNorm.weight", HIDDEN, 0, ONE},
    {"encoder.layer.0.attention.output.LayerNorm.bias", HIDDEN, 0, ZERO},
    {"encoder.layer.0.intermediate.dense.weight", INNER, HIDDEN, ZERO},
    {"encoder.layer.0.intermediate.dense.bias", INNER, 0, ZERO},
    {"encoder.layer.0.output.dense.weight", HIDDEN, INNER, ZERO},
    {"encoder.layer.0.output.dense.bias", HIDDEN, 0, ZERO},
    {"encoder.layer.0.output.LayerNorm.weight", HIDDEN, 0, LAST_NORM},
    {"encoder.layer.0.output.LayerNorm.bias", HIDDEN, 0, ZERO},
};

/* 1 or -1 for what is heard; silent words lie where nothing else does. */
static void word_vector(const struct words *w, uint32_t token, float *vector)
{
    const char *word = token < FRAMES ? "." : w->text[token - FRAMES];
    struct rng rng = {.state = 0xcbf29ce484222325u};
    memset(vector, 0, HIDDEN * sizeof *vector);
    for (uint32_t i = 0; i < STEM_BYTES && word[i]; i++)
        rng.state = (rng.state ^ (uint8_t)word[i]) * 0x100000001b3u;
    for (uint32_t d = 0; d < HIDDEN; d++) {
        float sign = rng_next(&rng) & 1 ? 1.0f : -1.0f;
        bool heard = d < HIDDEN - SILENT;
        if (heard != is_silent(word))
            vector[d] = heard ? sign : (d % 2 ? 10.0f : -10.0f);
    }
}

static void write_tensor(FILE *file, const struct words *w, const struct tensor *t, uint32_t rows)
{
    float row[HIDDEN];
    uint32_t columns = t->columns ? t->columns : 1;
    for (uint32_t r = 0; r < rows; r++) {
        memset(row, 0, sizeof row);
        if (t->fill == WORDS)
            word_vector(w, r, row);
        else if (t->fill != ZERO)
            row[0] = t->fill == ONE || r < HIDDEN - SILENT ? 1 : 0;
        CHECK(fwrite(row, sizeof row[0], columns, file) == columns, "short write: %m");
    }
}

static void write_weights(const char *folder, const struct words *w)
{
    static char header[8192];
    uint64_t bytes = 0, at = 0, end;
    FILE *file = create(folder, "model.safetensors");
    memset(header, 0, sizeof header);
    for (size_t i = 0; i < COUNT_OF(tensors); i++, at = end) {
        const struct tensor *t = &tensors[i];
        uint32_t rows = t->rows ? t->rows : FRAMES + w->count;
        char shape[32];
        (void)snprintf(shape, sizeof shape, t->columns ? "%u,%u" : "%u", rows, t->columns);
        end = at + (uint64_t)rows * (t->columns ? t->columns : 1) * sizeof(float);
        bytes += (uint64_t)snprintf(
            header + bytes, sizeof header - bytes,
            "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%" PRIu64 ",%" PRIu64
            "]}",
            i ? "," : "{", t->name, shape, at, end);
        CHECK(bytes + 16 < sizeof header, "header too long");
    }
    header[bytes++] = '}';
    while (bytes % 8)
        header[bytes++] = ' ';
    CHECK(fwrite(&bytes, 8, 1, file) == 1 && fwrite(header, 1, bytes, file) == bytes, "%m");
    for (size_t i = 0; i < COUNT_OF(tensors); i++)
        write_tensor(file, w, &tensors[i], tensors[i].rows ? tensors[i].rows : FRAMES + w->count);
    CHECK(fclose(file) == 0, "model.safetensors: %m");
}

char *lexical_write(const char *const *texts, uint32_t count)
{
    static struct words w;
    char *folder = strdup("/tmp/dynasor-lexical-XXXXXX");
    CHECK(folder && mkdtemp(folder), "mkdtemp: %m");
    w.count = 0;
    for (const char *c = punctuation; *c; c++)
        word_add(&w, c, 1);
    for (uint32_t i = 0; i < count; i++)
        words_add(&w, texts[i]);
    write_tokenizer(folder, &w);
    write_config(folder, &w);
    write_weights(folder, &w);
    return folder;
}

void lexical_remove(char *folder)
{
    static const char *const names[] = {"tokenizer.json", "config.json", "model.safetensors"};
    char path[512];
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        (void)snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        CHECK(unlink(path) == 0, "%s: %m", path);
    }
    CHECK(rmdir(folder) == 0, "%s: %m", folder);
    free(folder);
}
