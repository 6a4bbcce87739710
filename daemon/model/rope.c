#include "daemon/model/rope.h"

#include <errno.h>
#include <math.h>
#include <string.h>

enum {
    R_TYPE,
    R_ROPE_TYPE,
    R_THETA,
    R_PARTIAL,
    R_FACTOR,
    R_ORIGINAL,
    R_ATTENTION,
    R_BETA_FAST,
    R_BETA_SLOW,
    R_MSCALE,
    R_MSCALE_ALL,
    R_TRUNCATE,
    R_LOW,
    R_HIGH,
    R_SHORT,
    R_LONG,
    R_COUNT,
};

#define BIT(kind) (1u << (kind))
#define ALL (BIT(ARCH_ROPE_COUNT) - 1)
#define LINEAR BIT(ARCH_ROPE_LINEAR)
#define DYNAMIC BIT(ARCH_ROPE_DYNAMIC)
#define LLAMA3 BIT(ARCH_ROPE_LLAMA3)
#define YARN BIT(ARCH_ROPE_YARN)
#define LONGROPE BIT(ARCH_ROPE_LONGROPE)

static const struct field table[R_COUNT] = {
    [R_TYPE] = {"type", FIELD_TEXT, ALL, 0, 0, 0},
    [R_ROPE_TYPE] = {"rope_type", FIELD_TEXT, ALL, 0, 0, 0},
    [R_THETA] = {"rope_theta", FIELD_NUMBER, ALL, 0, 1.5, 1e12},
    [R_PARTIAL] = {"partial_rotary_factor", FIELD_NUMBER, ALL, 0, 0.01, 1},
    [R_FACTOR] = {"factor", FIELD_NUMBER, LINEAR | DYNAMIC | LLAMA3 | YARN | LONGROPE,
                  LINEAR | DYNAMIC | LLAMA3, 1, 65536},
    [R_ORIGINAL] = {"original_max_position_embeddings", FIELD_COUNT,
                    DYNAMIC | LLAMA3 | YARN | LONGROPE, LLAMA3, 2, 16777216},
    [R_ATTENTION] = {"attention_factor", FIELD_NUMBER, YARN | LONGROPE, 0, 0.01, 100},
    [R_BETA_FAST] = {"beta_fast", FIELD_NUMBER, YARN, 0, 0.01, 65536},
    [R_BETA_SLOW] = {"beta_slow", FIELD_NUMBER, YARN, 0, 0.01, 65536},
    [R_MSCALE] = {"mscale", FIELD_NUMBER, YARN, 0, 0, 100},
    [R_MSCALE_ALL] = {"mscale_all_dim", FIELD_NUMBER, YARN, 0, 0, 100},
    [R_TRUNCATE] = {"truncate", FIELD_FLAG, YARN, 0, 0, 0},
    [R_LOW] = {"low_freq_factor", FIELD_NUMBER, LLAMA3, LLAMA3, 0.01, 65536},
    [R_HIGH] = {"high_freq_factor", FIELD_NUMBER, LLAMA3, LLAMA3, 0.01, 65536},
    [R_SHORT] = {"short_factor", FIELD_LIST, LONGROPE, LONGROPE, 0, 0},
    [R_LONG] = {"long_factor", FIELD_LIST, LONGROPE, LONGROPE, 0, 0},
};

static const struct {
    const char *name;
    enum arch_rope kind;
} kinds[] = {
    {"default", ARCH_ROPE_DEFAULT}, {"linear", ARCH_ROPE_LINEAR}, {"dynamic", ARCH_ROPE_DYNAMIC},
    {"llama3", ARCH_ROPE_LLAMA3},   {"yarn", ARCH_ROPE_YARN},     {"longrope", ARCH_ROPE_LONGROPE},
    {"su", ARCH_ROPE_LONGROPE}, /* the name that Phi3 first had for it */
};

struct rope {
    const struct rope_source *source;
    const struct json *value[R_COUNT];
    struct arch *arch;
    char *message;
    float theta;
    float factor; /* 0: not said */
    double original;
};

#define REFUSE(r, format, ...)                                                                     \
    message_refuse((r)->message, -EINVAL, "%s: %s." format, (r)->source->file, (r)->source->field, \
                   __VA_ARGS__)

static enum arch_rope kind_of(const struct json *text)
{
    for (uint32_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (json_is(text, kinds[i].name))
            return kinds[i].kind;
    return ARCH_ROPE_NONE;
}

static int read_kind(struct rope *r)
{
    const struct json *o = r->source->object;
    const struct json *type = json_member(o, "type"), *rope_type = json_member(o, "rope_type");
    const struct json *text = rope_type ? rope_type : type;
    r->arch->rope = text ? kind_of(text) : ARCH_ROPE_DEFAULT;
    if (o && !text && r->source->field[5] == 's') /* version 5 may leave it out, 4 may not */
        return REFUSE(r, "%s is missing", "rope_type");
    if (r->arch->rope == ARCH_ROPE_NONE)
        return REFUSE(r, "%s is none of default, linear, dynamic, llama3, yarn, longrope",
                      rope_type ? "rope_type" : "type");
    if (type && rope_type && kind_of(type) != r->arch->rope)
        return REFUSE(r, "%s and rope_type differ", "type");
    return 0;
}

/* As torch: the exponent, the power and the quotient are each rounded to float32. */
static void plain(const struct rope *r, float frequency[ARCH_FREQUENCIES_MAX])
{
    float dim = (float)r->arch->rotary_dim;
    for (uint32_t i = 0; i < r->arch->rotary_dim / 2; i++)
        frequency[i] = 1.0f / powf(r->theta, (float)(2 * i) / dim);
}

static int linear(struct rope *r)
{
    for (uint32_t i = 0; i < r->arch->rotary_dim / 2; i++)
        r->arch->inverse_frequency[i] /= r->factor;
    return 0;
}

static int llama3(struct rope *r)
{
    float low = (float)field_number(r->value[R_LOW], 0);
    float high = (float)field_number(r->value[R_HIGH], 0);
    float original = (float)r->original;
    if (low >= high)
        return REFUSE(r, "low_freq_factor is %g; it must be below high_freq_factor, %g",
                      (double)low, (double)high);
    for (uint32_t i = 0; i < r->arch->rotary_dim / 2; i++) {
        float *f = &r->arch->inverse_frequency[i];
        float wave = 2.0f * (float)M_PI / *f;
        if (wave > original / low) {
            *f /= r->factor;
        } else if (wave >= original / high) {
            float smooth = (original / wave - low) / (high - low);
            *f = (1.0f - smooth) * *f / r->factor + smooth * *f;
        }
    }
    return 0;
}

/* The dimension that turns so often within the original context. */
static double turning(const struct rope *r, double turns)
{
    return r->arch->rotary_dim * log(r->original / (turns * 2 * M_PI)) /
           (2 * log((double)r->theta));
}

static double mscale(double factor, double scale)
{
    return factor <= 1 ? 1 : 0.1 * scale * log(factor) + 1;
}

static int yarn(struct rope *r)
{
    double dim = r->arch->rotary_dim;
    double low = turning(r, field_number(r->value[R_BETA_FAST], 32));
    double high = turning(r, field_number(r->value[R_BETA_SLOW], 1));
    if (field_flag(r->value[R_TRUNCATE], true)) {
        low = floor(low);
        high = ceil(high);
    }
    low = low > 0 ? low : 0;
    high = high < dim - 1 ? high : dim - 1;
    if (low == high)
        high += 0.001;
    for (uint32_t i = 0; i < r->arch->rotary_dim / 2; i++) {
        float *f = &r->arch->inverse_frequency[i];
        float ramp = ((float)i - (float)low) / (float)(high - low);
        ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        float keep = 1.0f - ramp;
        float slow = 1.0f / (r->factor * powf(r->theta, (float)(2 * i) / (float)dim));
        *f = slow * (1.0f - keep) + *f * keep;
    }
    double one = field_number(r->value[R_MSCALE], 0), all = field_number(r->value[R_MSCALE_ALL], 0);
    double scale = one > 0 && all > 0
                       ? mscale((double)r->factor, one) / mscale((double)r->factor, all)
                       : mscale((double)r->factor, 1);
    r->arch->rope_scale = (float)field_number(r->value[R_ATTENTION], scale);
    return 0;
}

static int factors(struct rope *r, uint32_t which, float frequency[ARCH_FREQUENCIES_MAX])
{
    const struct json *list = r->value[which];
    uint32_t pairs = r->arch->rotary_dim / 2;
    if (json_count(list) != pairs)
        return REFUSE(r, "%s has %u factors; %u are accepted", table[which].name, json_count(list),
                      pairs);
    for (uint32_t i = 0; i < pairs; i++) {
        double factor = 0;
        if (!json_double(json_element(list, i), &factor) || !(factor >= 0.01 && factor <= 1e6))
            return REFUSE(r, "%s[%u] is not a number from 0.01 to 1e6", table[which].name, i);
        float power = powf(r->theta, (float)(2 * i) / (float)r->arch->rotary_dim);
        frequency[i] = 1.0f / ((float)factor * power);
    }
    return 0;
}

static int longrope(struct rope *r)
{
    struct arch *a = r->arch;
    int result = factors(r, R_SHORT, a->short_frequency);
    result = result ? result : factors(r, R_LONG, a->inverse_frequency);
    double factor = (double)r->factor;
    double scale = factor > 1 ? sqrt(1 + log(factor) / log(r->original)) : 1;
    a->rope_scale = (float)field_number(r->value[R_ATTENTION], scale);
    a->rope_original_tokens = (uint32_t)r->original;
    arch_set_context(a, a->context_tokens);
    return result;
}

int rope_read(const struct rope_source *source, struct arch *arch, char message[MESSAGE_BYTES])
{
    static int (*const kind_read[ARCH_ROPE_COUNT])(struct rope *) = {[ARCH_ROPE_LINEAR] = linear,
                                                                     [ARCH_ROPE_LLAMA3] = llama3,
                                                                     [ARCH_ROPE_YARN] = yarn,
                                                                     [ARCH_ROPE_LONGROPE] =
                                                                         longrope};
    struct rope r = {.source = source, .arch = arch, .message = message};
    char prefix[32], variant[48];
    int result = read_kind(&r);
    if (result)
        return result;
    (void)snprintf(prefix, sizeof prefix, "%s.", source->field);
    for (uint32_t i = 0; i < sizeof kinds / sizeof kinds[0] - 1; i++)
        if (kinds[i].kind == arch->rope)
            (void)snprintf(variant, sizeof variant, "rope type %s", kinds[i].name);
    const struct fields fields = {.file = source->file,
                                  .prefix = prefix,
                                  .variant_name = variant,
                                  .table = table,
                                  .count = R_COUNT,
                                  .variant = BIT(arch->rope)};
    result = fields_read(&fields, source->object, message, r.value);
    if (result)
        return result;
    r.theta = (float)field_number(r.value[R_THETA], source->theta);
    uint32_t original = field_count(r.value[R_ORIGINAL], source->original_tokens);
    if (!original && arch->family == ARCH_PHI3 && arch->rope == ARCH_ROPE_LONGROPE)
        return message_refuse(message, -EINVAL, "%s: %s is missing; 2 to %.10g is accepted",
                              source->file, table[R_ORIGINAL].name, table[R_ORIGINAL].max);
    r.original = original ? original : arch->context_tokens;
    r.factor = (float)field_number(r.value[R_FACTOR], arch->context_tokens / r.original);
    double rotary = arch->head_dim * field_number(r.value[R_PARTIAL], source->partial);
    arch->rotary_dim = (uint32_t)rotary;
    if (arch->rotary_dim < 2 || arch->rotary_dim % 2)
        return REFUSE(&r, "partial_rotary_factor gives %u of %u dimensions; an even number from 2",
                      arch->rotary_dim, arch->head_dim);
    arch->rope_scale = 1;
    plain(&r, arch->inverse_frequency);
    return kind_read[arch->rope] ? kind_read[arch->rope](&r) : 0;
}
