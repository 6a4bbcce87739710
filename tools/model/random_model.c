/* tools/model/random_model.c: writes a model of random weights for any config.json that the daemon
 * reads, so that engine and benchmarks need no download.
 *
 *   random_model CONFIG.json OUT_DIR [--seed N] [--dtype bf16|f16|f32] [--shard-bytes N]
 *
 * Matrices are normal with variance 1 / columns, so that what goes in and what comes out are alike in
 * size at any shape; norms lie around 1, biases around 0. The same seed gives the same bytes. Files
 * are cut at 4 GiB. Exits 0, or 1 with a sentence. */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/model/names.h"

enum { BLOCK = 1 << 16 }; /* elements made at once */

struct maker {
    struct arch arch;
    enum tensor_dtype dtype;
    uint64_t seed;
    uint64_t shard_bytes;
    const char *directory;
    struct names_want *list;
    uint32_t *shard; /* [count] of each tensor */
    uint32_t count;
    uint32_t shards_count;
};

static const struct {
    const char *option;
    const char *name;
    enum tensor_dtype dtype;
} dtypes[] = {{"bf16", "BF16", TENSOR_BF16},
              {"f16", "F16", TENSOR_F16},
              {"f32", "F32", TENSOR_F32}};

static uint64_t mix(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Four uniform numbers added are normal enough; their variance is 1/3. */
static float normal(uint64_t *state)
{
    uint64_t bits = mix(state);
    int32_t sum = (int32_t)(bits & 65535) + (int32_t)(bits >> 16 & 65535) +
                  (int32_t)(bits >> 32 & 65535) + (int32_t)(bits >> 48);
    return (float)(sum - 131070) * (1.7320508f / 65536.0f);
}

static uint16_t to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* For |value| < 2^15: all that is made here. Below 2^-14 the step is 2^-24. */
static uint16_t to_f16(float value)
{
    int exponent;
    uint32_t sign = signbit(value) ? 0x8000u : 0;
    float size = fabsf(value);
    (void)frexpf(size, &exponent); /* size < 2^exponent */
    if (size < 0x1p-14f)
        return (uint16_t)(sign | (uint32_t)lrintf(ldexpf(size, 24)));
    uint32_t mantissa = (uint32_t)lrintf(ldexpf(size, 11 - exponent)); /* 1024 .. 2048 */
    return (uint16_t)(sign | (((uint32_t)(exponent + 14) << 10) + (mantissa - 1024)));
}

static uint64_t unit(const struct maker *m)
{
    return m->dtype == TENSOR_F32 ? 4 : 2;
}

static uint64_t elements(const struct names_want *w)
{
    return w->dims[0] * (w->dims_count == 2 ? w->dims[1] : 1);
}

static int add(struct maker *m, enum names_slot slot, uint32_t layer)
{
    struct names_want *more = m->list;
    if (m->count % 1024 == 0)
        more = realloc(m->list, (m->count + 1024) * sizeof *more);
    if (!more)
        return -ENOMEM;
    m->list = more;
    m->count += names_want(&m->arch, slot, layer, &m->list[m->count]);
    return 0;
}

/* Which tensors, in which files. */
static int plan(struct maker *m)
{
    uint64_t used = 0;
    int result = 0;
    for (uint32_t s = 0; s < NAMES_GLOBAL_COUNT && !result; s++)
        result = add(m, s, 0);
    for (uint32_t l = 0; l < m->arch.layers && !result; l++)
        for (uint32_t s = NAMES_GLOBAL_COUNT; s < NAMES_SLOT_COUNT && !result; s++)
            result = add(m, s, l);
    m->shard = calloc(m->count + 1u, sizeof *m->shard);
    if (result || !m->shard)
        return -ENOMEM;
    for (uint32_t i = 0; i < m->count; i++) {
        uint64_t bytes = elements(&m->list[i]) * unit(m);
        if (used && used + bytes > m->shard_bytes) {
            m->shards_count++;
            used = 0;
        }
        used += bytes;
        m->shard[i] = m->shards_count;
    }
    m->shards_count++;
    return 0;
}

static void shard_name(const struct maker *m, uint32_t shard, char name[64])
{
    if (m->shards_count == 1)
        (void)snprintf(name, 64, "model.safetensors");
    else
        (void)snprintf(name, 64, "model-%05u-of-%05u.safetensors", shard + 1, m->shards_count);
}

static FILE *create(const struct maker *m, const char *name)
{
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/%s", m->directory, name);
    FILE *f = fopen(path, "wb");
    if (!f)
        perror(path);
    return f;
}

static int finish(FILE *f, const char *name)
{
    bool failed = ferror(f);
    if (fclose(f) != 0 || failed) {
        perror(name);
        return -EIO;
    }
    return 0;
}

/* Called twice: without a file it only counts. */
static uint64_t put_header(const struct maker *m, uint32_t shard, FILE *f)
{
    const char *dtype = "", *comma = "";
    uint64_t bytes = 1, at = 0;
    char entry[512];
    for (uint32_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
        if (dtypes[i].dtype == m->dtype)
            dtype = dtypes[i].name;
    if (f)
        (void)fputc('{', f); /* errors are seen in finish(), like the next */
    for (uint32_t i = 0; i < m->count; i++) {
        const struct names_want *w = &m->list[i];
        uint64_t end = at + elements(w) * unit(m);
        char columns[32] = "";
        if (m->shard[i] != shard)
            continue;
        if (w->dims_count == 2)
            (void)snprintf(columns, sizeof columns, ",%llu", (unsigned long long)w->dims[1]);
        int used = snprintf(entry, sizeof entry,
                            "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%llu%s],"
                            "\"data_offsets\":[%llu,%llu]}",
                            comma, w->name, dtype, (unsigned long long)w->dims[0], columns,
                            (unsigned long long)at, (unsigned long long)end);
        if (f)
            (void)fputs(entry, f);
        bytes += (uint64_t)used;
        at = end;
        comma = ",";
    }
    if (f)
        (void)fputc('}', f);
    return bytes + 1;
}

static void put_tensor(const struct maker *m, uint32_t idx, FILE *f)
{
    static float value[BLOCK];
    static uint16_t half[BLOCK];
    const struct names_want *w = &m->list[idx];
    uint64_t left = elements(w), state = m->seed + ((uint64_t)(idx + 1) << 40);
    bool matrix = w->dims_count == 2;
    bool norm = !matrix && strstr(w->name, "orm") && !strstr(w->name, ".bias");
    float scale = matrix ? 1.0f / sqrtf((float)w->dims[1]) : norm ? 0.05f : 0.02f;
    float middle = norm && !m->arch.norm_plus_one ? 1.0f : 0.0f;
    while (left > 0 && !ferror(f)) {
        size_t count = left < BLOCK ? (size_t)left : BLOCK;
        for (size_t i = 0; i < count; i++) {
            value[i] = middle + scale * normal(&state);
            half[i] = m->dtype == TENSOR_F16 ? to_f16(value[i]) : to_bf16(value[i]);
        }
        if (m->dtype == TENSOR_F32)
            (void)fwrite(value, sizeof value[0], count, f); /* ferror() tells */
        else
            (void)fwrite(half, sizeof half[0], count, f);
        left -= count;
    }
}

static int put_shard(const struct maker *m, uint32_t shard)
{
    char name[64];
    shard_name(m, shard, name);
    FILE *f = create(m, name);
    if (!f)
        return -EIO;
    uint64_t bytes = put_header(m, shard, NULL), padded = (bytes + 7) / 8 * 8;
    for (uint32_t i = 0; i < 8; i++)
        (void)fputc((int)(padded >> (8 * i) & 255), f); /* finish() tells, like the next */
    (void)put_header(m, shard, f);
    for (uint64_t i = bytes; i < padded; i++)
        (void)fputc(' ', f);
    for (uint32_t i = 0; i < m->count; i++)
        if (m->shard[i] == shard)
            put_tensor(m, i, f);
    return finish(f, name);
}

static int put_index(const struct maker *m)
{
    static const char name[] = "model.safetensors.index.json";
    char shard[64];
    uint64_t total = 0;
    FILE *f = create(m, name);
    if (!f)
        return -EIO;
    for (uint32_t i = 0; i < m->count; i++)
        total += elements(&m->list[i]) * unit(m);
    (void)fprintf(f, "{\"metadata\":{\"total_size\":%llu},\"weight_map\":{",
                  (unsigned long long)total); /* finish() tells, like the next */
    for (uint32_t i = 0; i < m->count; i++) {
        shard_name(m, m->shard[i], shard);
        (void)fprintf(f, "%s\n\"%s\":\"%s\"", i ? "," : "", m->list[i].name, shard);
    }
    (void)fputs("}}\n", f);
    return finish(f, name);
}

static int make(struct maker *m, const char *text, size_t bytes)
{
    int result = plan(m);
    if (mkdir(m->directory, 0755) != 0 && errno != EEXIST) {
        perror(m->directory);
        return -EIO;
    }
    for (uint32_t i = 0; i < m->shards_count && !result; i++)
        result = put_shard(m, i);
    if (!result && m->shards_count > 1)
        result = put_index(m);
    FILE *f = result ? NULL : create(m, "config.json");
    if (!f)
        return -EIO;
    (void)fwrite(text, 1, bytes, f); /* finish() tells */
    return finish(f, "config.json");
}

static bool options(struct maker *m, int argc, char **argv)
{
    for (int i = 3; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        char *end = NULL;
        uint64_t number = isdigit((unsigned char)value[0]) ? strtoull(value, &end, 10) : 0;
        bool is_number = end && !*end, known = false;
        for (uint32_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++)
            if (strcmp(argv[i], "--dtype") == 0 && strcmp(value, dtypes[d].option) == 0) {
                m->dtype = dtypes[d].dtype;
                known = true;
            }
        if (strcmp(argv[i], "--seed") == 0 && is_number) {
            m->seed = number;
            known = true;
        }
        if (strcmp(argv[i], "--shard-bytes") == 0 && is_number && number > 0) {
            m->shard_bytes = number;
            known = true;
        }
        if (!known)
            return false;
    }
    return argc >= 3;
}

int main(int argc, char **argv)
{
    static char text[1 << 20];
    char message[ARCH_MESSAGE_BYTES];
    struct maker m = {.dtype = TENSOR_BF16, .shard_bytes = UINT64_C(4) << 30};
    if (!options(&m, argc, argv)) {
        (void)fputs("usage: random_model CONFIG.json OUT_DIR [--seed N] [--dtype bf16|f16|f32] "
                    "[--shard-bytes N]\n",
                    stderr);
        return 1;
    }
    m.directory = argv[2];
    FILE *f = fopen(argv[1], "rb");
    if (!f) {
        perror(argv[1]);
        return 1;
    }
    size_t bytes = fread(text, 1, sizeof text, f);
    (void)fclose(f); /* only read from */
    if (arch_parse(argv[1], text, bytes, &m.arch, message) != 0) {
        (void)fprintf(stderr, "%s\n", message);
        return 1;
    }
    int result = make(&m, text, bytes);
    free(m.list);
    free(m.shard);
    return result != 0;
}
