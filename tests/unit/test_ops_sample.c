/* tests/unit/test_ops_sample.c: sample() of kernels/ops.h at every level. Tokens and signals are those of
 * kernels/ref, which sorts, over random logits and options; both are those worked out by hand; logits at
 * the ends of float32; the same bits on any number of threads. SEED and ROUNDS from the environment. */
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/cpu/cpu.h"
#include "kernels/ref/ref.h"
#include "tests/lib/check.h"
#include "tests/lib/ground.h"

static uint64_t seed;
static uint32_t rounds;

#define SAMPLE_ROWS 8u
#define HISTORY_MAX 64u
#define BIAS_MAX 8u

struct sampling { /* on the host */
    uint32_t rows_count;
    uint32_t vocabulary;
    float *logits;
    struct ops_sample_row rows[SAMPLE_ROWS];
    uint32_t history[SAMPLE_ROWS * HISTORY_MAX];
    struct ops_bias bias[SAMPLE_ROWS * BIAS_MAX];
};

static const struct ops_sample_row plain = {.temperature = 1,
                                            .top_p = 1,
                                            .repetition = 1,
                                            .forced_token = OPS_NONE};

static void sampling_run(struct ground *g, const struct sampling *s, struct ops_sampled *out)
{
    uint64_t count = (uint64_t)s->rows_count * s->vocabulary;
    g->used = 0;
    struct ops_sample a = {.out = ground_take(g, s->rows_count * sizeof *out),
                           .logits = ground_put(g, s->logits, count * sizeof(float)),
                           .rows = ground_put(g, s->rows, sizeof s->rows),
                           .history = ground_put(g, s->history, sizeof s->history),
                           .bias = ground_put(g, s->bias, sizeof s->bias),
                           .rows_count = s->rows_count,
                           .vocabulary = s->vocabulary};
    g->ops->sample(g->device, &a);
    CHECK(g->ops->sync(g->device) == 0, "%s broke", g->ops->name);
    g->ops->copy_out(g->device, out, a.out, s->rows_count * sizeof *out);
}

static void sampling_draw_row(struct sampling *s, uint32_t row, struct rng *rng)
{
    struct ops_sample_row *r = &s->rows[row];
    *r = plain;
    r->temperature = draw(rng, 0, 5) ? 0.1f + 2 * (float)draw(rng, 0, 1000) / 1000 : 0;
    r->top_p = draw(rng, 0, 1) ? 1 : (float)draw(rng, 0, 1000) / 1000;
    r->min_p = draw(rng, 0, 2) ? 0 : (float)draw(rng, 1, 1000) / 1000;
    r->top_k = draw(rng, 0, 1) ? 0 : draw(rng, 1, draw(rng, 0, 1) ? 5 : 2 * s->vocabulary);
    r->random = draw(rng, 0, 9) ? (uint32_t)rng_next(rng) : draw(rng, 0, 1) ? 0 : UINT32_MAX;
    r->confidence_count = draw(rng, 0, 64);
    r->forced_token = draw(rng, 0, 9) ? OPS_NONE : draw(rng, 0, s->vocabulary - 1);
    r->history_first = row * HISTORY_MAX;
    r->bias_first = row * BIAS_MAX;
    if (draw(rng, 0, 1)) {
        r->repetition = 0.5f + (float)draw(rng, 0, 1000) / 500;
        r->presence = draw_float(rng);
        r->frequency = draw_float(rng);
        r->history_count = draw(rng, 0, HISTORY_MAX);
        r->history_prompt_count = draw(rng, 0, r->history_count);
        r->bias_count = draw(rng, 0, BIAS_MAX);
    }
    uint32_t most = s->vocabulary < 40 ? s->vocabulary - 1 : 40; /* they repeat */
    for (uint32_t i = 0; i < HISTORY_MAX; i++)
        s->history[row * HISTORY_MAX + i] = draw(rng, 0, most);
    for (uint32_t i = 0; i < BIAS_MAX; i++)
        s->bias[row * BIAS_MAX + i] = (struct ops_bias){draw(rng, 0, most), 3 * draw_float(rng)};
}

static void sampling_draw(struct sampling *s, struct rng *rng)
{
    static const uint32_t vocabularies[] = {1, 2, 3, 17, 100, 1000, 1025, 5003, 32003};
    static const float scales[] = {0, 0.01f, 1, 4, 30};
    s->rows_count = draw(rng, 1, SAMPLE_ROWS);
    s->vocabulary = vocabularies[draw(rng, 0, COUNT_OF(vocabularies) - 1)];
    for (uint32_t row = 0; row < s->rows_count; row++) {
        float scale = scales[draw(rng, 0, COUNT_OF(scales) - 1)];
        bool ties = draw(rng, 0, 3) == 0, masked = draw(rng, 0, 3) == 0;
        uint32_t raw = draw(rng, 0, 9) ? 0 : draw(rng, 1, 20); /* one in so many is any bits */
        for (uint32_t i = 0; i < s->vocabulary; i++) {
            float x = scale * draw_float(rng);
            x = ties ? rintf(x) : x;
            if (masked && i % 3 && i != 1)
                x = -INFINITY;
            if (raw && draw(rng, 1, raw) == 1) {
                uint32_t bits = (uint32_t)rng_next(rng);
                memcpy(&x, &bits, sizeof x);
            }
            s->logits[(uint64_t)row * s->vocabulary + i] = x;
        }
        sampling_draw_row(s, row, rng);
    }
}

/* The reference's token of a row when random and top_p are a little different. */
static uint32_t moved_token(struct ground *ref, const struct sampling *s, uint32_t row,
                            int64_t random_step, float top_p_step)
{
    static struct sampling one;
    struct ops_sampled out;
    one = *s;
    one.rows_count = 1;
    one.logits = s->logits + (uint64_t)row * s->vocabulary;
    struct ops_sample_row r = s->rows[row];
    int64_t random = (int64_t)r.random + random_step;
    r.random = (uint32_t)(random < 0 ? 0 : random > UINT32_MAX ? UINT32_MAX : random);
    r.top_p = r.top_p < 1 ? fmaxf(r.top_p + top_p_step, 0) : r.top_p;
    one.rows[0] = r;
    sampling_run(ref, &one, &out);
    return out.token;
}

/* Whether token is what moving random and top_p by as much as a sum of float32 may be off can give: the
 * greater random, the greater the token. */
static bool is_at_an_edge(struct ground *ref, const struct sampling *s, uint32_t row,
                          uint32_t token)
{
    for (int32_t i = -1; i <= 1; i++) {
        float step = 2e-6f * (float)i;
        if (moved_token(ref, s, row, -8192, step) <= token &&
            token <= moved_token(ref, s, row, 8192, step))
            return true;
    }
    return false;
}

static bool is_near(float a, float b, float bound)
{
    return a == b || fabsf(a - b) <= bound * fmaxf(1, fabsf(b));
}

/* Where float32 cannot hold sums and differences of logits that double can. */
static bool is_huge(const float *logits, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (isfinite(logits[i]) && fabsf(logits[i]) > 1e30f)
            return true;
    return false;
}

static void sampled_check(struct ground *ref, const struct ground *g, const struct sampling *s,
                          uint32_t row, const struct ops_sampled *got,
                          const struct ops_sampled *want, uint32_t *edges)
{
    const struct ops_sample_row *r = &s->rows[row];
    const char *name = g->ops->name;
    const float *own = s->logits + (uint64_t)row * s->vocabulary;
    CHECK(got->numeric == want->numeric && got->token < s->vocabulary, "%s", name);
    if (got->token != want->token) {
        ++*edges;
        CHECK(is_at_an_edge(ref, s, row, got->token),
              "%s: token %u (logit %g), wanted %u (%g); vocabulary %u, temperature %g, top_p %g, "
              "top_k %u, min_p %g, random %u",
              name, got->token, (double)own[got->token], want->token, (double)own[want->token],
              s->vocabulary, (double)r->temperature, (double)r->top_p, r->top_k, (double)r->min_p,
              r->random);
    }
    if (is_huge(own, s->vocabulary)) {
        CHECK(!isnan(got->log_probability) && !isnan(got->entropy) && !isnan(got->confidence),
              "%s: NaN", name);
        return;
    }
    float moved = got->token == want->token ? 0 : own[got->token] - own[want->token];
    CHECK(is_near(got->log_probability, want->log_probability + moved, 4e-6f),
          "%s: log-probability %g, wanted %g", name, (double)got->log_probability,
          (double)want->log_probability);
    CHECK(is_near(got->entropy, want->entropy, 4e-6f), "%s: entropy %g, wanted %g", name,
          (double)got->entropy, (double)want->entropy);
    CHECK(is_near(got->confidence, want->confidence, 4e-6f), "%s: confidence %g, wanted %g", name,
          (double)got->confidence, (double)want->confidence);
    CHECK(is_near(got->top_gap, want->top_gap, 1e-6f), "%s: gap %g, wanted %g", name,
          (double)got->top_gap, (double)want->top_gap);
}

static void sampling_is_the_reference(void **state)
{
    (void)state;
    static struct sampling s;
    struct ops_sampled want[SAMPLE_ROWS], got[SAMPLE_ROWS], again[SAMPLE_ROWS];
    uint32_t edges = 0, drawn = 0;
    s.logits = malloc(sizeof(float) * SAMPLE_ROWS * GROUND_VOCABULARY_MAX);
    struct ground ref = ground_open(ref_ops(), OPS_F32, 1);
    for (uint32_t level = 0; level < CPU_LEVEL_COUNT && cpu_ops(level); level++) {
        struct ground one = ground_open(cpu_ops(level), OPS_F32, 1);
        struct ground more = ground_open(cpu_ops(level), OPS_F32, 3);
        struct rng rng = {seed};
        for (uint32_t round = 0; round < 25 * rounds; round++) {
            sampling_draw(&s, &rng);
            sampling_run(&ref, &s, want);
            sampling_run(&one, &s, got);
            sampling_run(&more, &s, again);
            CHECK(memcmp(got, again, s.rows_count * sizeof *got) == 0, "threads differ");
            drawn += s.rows_count;
            for (uint32_t row = 0; row < s.rows_count; row++)
                sampled_check(&ref, &one, &s, row, &got[row], &want[row], &edges);
        }
        ground_close(&one);
        ground_close(&more);
    }
    ground_close(&ref);
    free(s.logits);
    printf("%u rows, %u at an edge\n", drawn, edges);
    CHECK(edges <= 2 + drawn / 200, "%u of %u rows differ by rounding", edges, drawn);
}

/* Probabilities .1 .2 .3 .4 and what each option makes of them, worked out by hand: judges the
 * reference too. */
#define LN2 0.693147181f
#define LN4 1.386294361f
static const struct {
    float random; /* of 1 */
    uint32_t token;
    struct options {
        float temperature;
        float top_p;
        float min_p;
        uint32_t top_k;
        float repetition;
        float presence;
        float frequency;
        uint32_t history_count;
        uint32_t history_prompt_count;
        uint32_t bias_count;
        uint32_t forced_token;
    } options; /* zero: as plain has it */
} by_hand[] = {
    {0.09f, 0, {.top_k = 0}},
    {0.11f, 1, {.top_k = 0}},
    {0.29f, 1, {.top_k = 0}},
    {0.31f, 2, {.top_k = 0}},
    {0.61f, 3, {.top_k = 0}},
    {0.42f, 2, {.top_k = 2}}, /* 3/7, 4/7 */
    {0.43f, 3, {.top_k = 2}},
    {0.00f, 2, {.top_p = 0.6f}}, /* .4 is less than .6 */
    {0.00f, 3, {.top_p = 0.3f}},
    {0.00f, 2, {.top_p = 0.5f, .top_k = 3}},  /* .4 of .9 is less than .5 */
    {0.00f, 3, {.top_p = 0.56f, .top_k = 2}}, /* .4 of .7 is not: top-k comes first */
    {0.00f, 2, {.min_p = 0.6f}},
    {0.00f, 1, {.min_p = 0.45f}},
    {0.45f, 2, {.temperature = 0.5f}}, /* 1 4 9 16 of 30 */
    {0.47f, 3, {.temperature = 0.5f}},
    {0.74f, 2, {.repetition = 2, .history_count = 1, .history_prompt_count = 1}}, /* 1 2 3 2 */
    {0.76f, 3, {.repetition = 2, .history_count = 1, .history_prompt_count = 1}},
    {0.61f, 3, {.presence = LN4, .history_count = 1, .history_prompt_count = 1}}, /* prompt: not */
    {0.85f, 2, {.presence = LN4, .history_count = 2}},                            /* 1 2 3 1 */
    {0.86f, 3, {.presence = LN4, .history_count = 2}},
    {0.85f, 2, {.frequency = LN2, .history_count = 2}}, /* twice: 1 2 3 1 */
    {0.86f, 3, {.frequency = LN2, .history_count = 2}},
    {0.74f, 2, {.frequency = LN2, .history_count = 2, .history_prompt_count = 1}}, /* 1 2 3 2 */
    {0.76f, 3, {.frequency = LN2, .history_count = 2, .history_prompt_count = 1}},
    {0.30f, 0, {.bias_count = 1}}, /* 4 2 3 4 */
    {0.32f, 1, {.bias_count = 1}},
    {0.99f, 1, {.forced_token = 1}},
};

static void hand_check(struct ground *g, uint32_t i)
{
    float logits[4] = {0, LN2, 1.098612289f, LN4}, expected;
    struct sampling s = {.rows_count = 1, .vocabulary = 4, .logits = logits};
    struct ops_sampled out;
    const struct options *o = &by_hand[i].options;
    struct ops_sample_row r = plain;
    r.temperature = o->temperature > 0 ? o->temperature : 1;
    r.top_p = o->top_p > 0 ? o->top_p : 1;
    r.min_p = o->min_p;
    r.top_k = o->top_k;
    r.repetition = o->repetition > 0 ? o->repetition : 1;
    r.presence = o->presence;
    r.frequency = o->frequency;
    r.history_count = o->history_count;
    r.history_prompt_count = o->history_prompt_count;
    r.bias_count = o->bias_count;
    r.forced_token = o->forced_token ? o->forced_token : OPS_NONE;
    r.random = (uint32_t)((double)by_hand[i].random * 4294967296.0);
    r.confidence_count = 2;
    s.rows[0] = r;
    s.history[0] = s.history[1] = 3;
    s.bias[0] = (struct ops_bias){0, LN4};
    sampling_run(g, &s, &out);
    CHECK(out.token == by_hand[i].token, "%s, line %u: token %u, wanted %u", g->ops->name, i,
          out.token, by_hand[i].token);
    expected = logf(0.1f * (float)(out.token + 1));
    CHECK(is_near(out.log_probability, expected, 1e-6f), "%s, line %u: log-probability %g",
          g->ops->name, i, (double)out.log_probability);
    CHECK(is_near(out.entropy, 1.2798542f, 1e-6f), "entropy %g", (double)out.entropy);
    CHECK(is_near(out.confidence, (logf(0.4f) + logf(0.3f)) / 2, 1e-6f), "%g",
          (double)out.confidence);
    CHECK(is_near(out.top_gap, logf(4 / 3.0f), 1e-6f), "gap %g", (double)out.top_gap);
}

/* Logits at the ends of what there is: greatest, or numeric. */
static const struct {
    float logits[4];
    float temperature;
    float bias; /* of token 0 */
    uint32_t token;
    uint32_t numeric;
} at_the_end[] = {
    {{0, NAN, 1, 2}, 1, 0, 0, 1},
    {{0, 1, INFINITY, 2}, 0, 0, 0, 1},
    {{-INFINITY, -INFINITY, -INFINITY, -INFINITY}, 1, 0, 0, 1},
    {{-INFINITY, -INFINITY, 3, -INFINITY}, 1, 0, 2, 0},
    {{-INFINITY, 5, 5, 5}, 0, 0, 1, 0},
    {{1, 2, 4, 3}, 0, 0, 2, 0},
    {{-3e38f, -3e38f, 3e38f, 0}, 1, 0, 2, 0},
    {{1, 4, 8, 3}, 1e-38f, 0, 2, 0}, /* two of them infinite when divided */
    {{-1, -4, -2, -0.5f}, 1e-39f, 0, 3, 0},
    {{-4, -3, -2, -1}, 1e-30f, 0, 3, 0},
    {{3e38f, 1, 2, 3}, 1, 3e38f, 0, 0}, /* infinite by its bias */
    {{-0.0f, 0.0f, -1, -2}, 0, 0, 0, 0},
};

static void end_check(struct ground *g, uint32_t i)
{
    float logits[4];
    struct sampling s = {.rows_count = 1, .vocabulary = 4, .logits = logits};
    struct ops_sampled out;
    memcpy(logits, at_the_end[i].logits, sizeof logits);
    s.rows[0] = plain;
    s.rows[0].temperature = at_the_end[i].temperature;
    s.rows[0].bias_count = at_the_end[i].bias > 0;
    s.rows[0].random = 1u << 30;
    s.bias[0].bias = at_the_end[i].bias;
    sampling_run(g, &s, &out);
    CHECK(out.token == at_the_end[i].token && out.numeric == at_the_end[i].numeric,
          "%s, line %u: token %u, numeric %u", g->ops->name, i, out.token, out.numeric);
    CHECK(out.numeric || isfinite(out.log_probability), "%s, line %u: log-probability %g",
          g->ops->name, i, (double)out.log_probability);
}

static void sampling_by_hand(void **state)
{
    (void)state;
    for (uint32_t level = 0; level <= CPU_LEVEL_COUNT; level++) {
        const struct ops *ops = level == CPU_LEVEL_COUNT ? ref_ops() : cpu_ops(level);
        if (!ops)
            continue;
        struct ground g = ground_open(ops, OPS_F32, 1);
        for (uint32_t i = 0; i < COUNT_OF(by_hand); i++)
            hand_check(&g, i);
        for (uint32_t i = 0; i < COUNT_OF(at_the_end); i++)
            end_check(&g, i);
        ground_close(&g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sampling_by_hand),
        cmocka_unit_test(sampling_is_the_reference),
    };
    seed = check_number("SEED", now_ns());
    rounds = (uint32_t)check_number("ROUNDS", 4);
    printf("SEED=%" PRIu64 " ROUNDS=%" PRIu32 "\n", seed, rounds);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
