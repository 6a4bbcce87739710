/* timeout: 120 */
/* tests/unit/test_cluster_vectors.c: labelled free-form answers (tests/data/answers/freeform.tsv) clustered by the
 * models' vectors, as the daemon has them: pooled hidden states of the shipped policy model, and an encoder's
 * through the role that embeds. Prints precision, recall and F1 over pairs; the threshold is chosen on
 * the questions with even numbers, the scores are those of the others.
 *
 * The policy model knows sums and no English: its figure is that of one group for all, and that is what it
 * must be held to. What its vectors do tell is a text from others, even with a letter less. The encoder
 * knows words (tests/lib/lexical.h), no trained one is there; DYNASOR_ENCODER names the folder of another. */
#include <math.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/sched/embed.h"
#include "daemon/sched/sched.h"
#include "daemon/text/codec.h"
#include "tests/lib/check.h"
#include "tests/lib/labels.h"
#include "tests/lib/lexical.h"

#define POLICY "tools/model/dynasor-5m/policy"
#define TOKENS_MAX 512u
#define TEXT_BYTES_MAX 1024u
#define VECTOR_MAX 1024u

struct rig {
    struct codec *codec;
    struct codec_scratch *scratch;
    struct engine *engine;
    struct engine_info info;
    struct sched *sched;
    struct embed *embed;
};

static void rig_open(struct rig *r, enum engine_role role, const char *folder)
{
    char message[ENGINE_MESSAGE_BYTES] = "";
    struct engine_config config = {.ranks_count = 1,
                                   .threads_count = 1,
                                   .cpu_level = -1,
                                   .rows_max = 16,
                                   .tokens_max = TOKENS_MAX,
                                   .kv_bytes = 1u << 24,
                                   .dot_layer = -1};
    *r = (struct rig){0};
    config.directory[ENGINE_POLICY] = POLICY;
    config.directory[role] = folder;
    CHECK(codec_open(folder, message, &r->codec) == 0, "%s", message);
    assert_int_equal(codec_scratch_new(r->codec, TEXT_BYTES_MAX, &r->scratch), 0);
    CHECK(engine_open(&config, message, &r->engine) == 0, "%s", message);
    engine_info(r->engine, role, &r->info);
    if (role == ENGINE_EMBED)
        assert_int_equal(
            embed_new(
                &(struct embed_config){.texts_max = 1, .rows_max = 16, .tokens_max = TOKENS_MAX},
                r->engine, &r->embed),
            0);
    else
        assert_int_equal(sched_new(&(struct sched_config){.role = role,
                                                          .seqs_max = 4,
                                                          .groups_max = 1,
                                                          .rows_max = 16,
                                                          .tokens_max = TOKENS_MAX},
                                   r->engine, &r->sched),
                         0);
}

static void rig_close(struct rig *r)
{
    embed_free(r->embed);
    sched_free(r->sched);
    engine_close(r->engine);
    codec_scratch_free(r->scratch);
    codec_free(r->codec);
}

static uint32_t tokens_of(struct rig *r, const char *text, uint32_t *ids)
{
    uint32_t count;
    assert_int_equal(codec_encode(r->codec, r->scratch, (const uint8_t *)text, strlen(text), false,
                                  ids, TOKENS_MAX, &count),
                     CODEC_OK);
    CHECK(count <= r->info.context_tokens, "%s: %u tokens", text, count);
    return count;
}

static void wait_engine(const struct rig *r)
{
    struct pollfd fd = {.fd = engine_fd(r->engine, ENGINE_EMBED), .events = POLLIN};
    (void)poll(&fd, 1, 1000);
}

static void by_encoder(void *argument, const char *text, float *vector)
{
    struct rig *r = argument;
    uint32_t ids[TOKENS_MAX], at;
    struct embed_result result;
    assert_int_equal(embed_add(r->embed, 7, ids, tokens_of(r, text, ids), &at), EMBED_OK);
    assert_int_equal(embed_add(r->embed, 8, ids, 1, &at), EMBED_E_FULL);
    for (;;) {
        (void)embed_poll(r->embed, 0);
        if (embed_next(r->embed, &result))
            break;
        wait_engine(r);
    }
    assert_int_equal(result.user, 7);
    memcpy(vector, result.vector, embed_vector_size(r->embed) * sizeof *vector);
}

static void by_policy(void *argument, const char *text, float *vector)
{
    struct rig *r = argument;
    uint32_t ids[TOKENS_MAX], seq;
    struct sched_result result;
    struct sched_seq_args args = {.prompt = ids,
                                  .prompt_tokens = tokens_of(r, text, ids),
                                  .stem = true,
                                  .want = ENGINE_WANT_POOL,
                                  .sampling = {.repetition = 1}};
    assert_int_equal(sched_add(r->sched, &args, &seq), SCHED_OK);
    for (;;) {
        (void)sched_poll(r->sched, 0);
        if (sched_next(r->sched, &result))
            break;
        wait_engine(r);
    }
    assert_int_equal(result.kind, SCHED_READY);
    memcpy(vector, result.vector, sched_vector_size(r->sched) * sizeof *vector);
    sched_remove(r->sched, seq);
}

static double cosine(const float *x, const float *y, uint32_t size)
{
    double xy = 0, xx = 0, yy = 0;
    for (uint32_t d = 0; d < size; d++) {
        xy += (double)x[d] * (double)y[d];
        xx += (double)x[d] * (double)x[d];
        yy += (double)y[d] * (double)y[d];
    }
    return xy / sqrt(xx * yy);
}

/* One vector for all: what F1 is without any knowledge, as each question has three groups. */
static void by_nothing(void *argument, const char *text, float *vector)
{
    (void)argument;
    (void)text;
    vector[0] = 1;
}

static double judge(const char *name, const struct labels_vectors *vectors)
{
    struct labels l;
    labels_read("tests/data/answers/freeform.tsv", &l);
    CHECK(l.count >= 300, "only %u answers", l.count);
    struct labels_result r = labels_judge(&l, vectors);
    labels_free(&l);
    printf("%s%s: %u answers to %u questions: threshold %.3f, precision %.3f, recall %.3f, "
           "F1 %.3f\n",
           name, vectors->linked ? ", linked" : "", r.answers, r.questions, r.threshold,
           r.score.precision, r.score.recall, r.score.f1);
    return r.score.f1;
}

/* How many of the answers, without their last letter, are nearest to themselves among their question's. */
static double recognised(struct rig *r)
{
    static float whole[16][VECTOR_MAX], part[VECTOR_MAX];
    struct labels l;
    uint32_t found = 0, asked = 0;
    uint32_t size = sched_vector_size(r->sched);
    labels_read("tests/data/answers/freeform.tsv", &l);
    for (uint32_t first = 0, count; first < l.count; first += count) {
        for (count = 0; first + count < l.count && count < 16 &&
                        strcmp(l.row[first + count].field[0], l.row[first].field[0]) == 0;
             count++)
            by_policy(r, l.row[first + count].field[2], whole[count]);
        for (uint32_t i = 0; i < count; i++, asked++) {
            char text[TEXT_BYTES_MAX];
            uint32_t best = 0;
            (void)snprintf(text, sizeof text, "%s", l.row[first + i].field[2]);
            text[strlen(text) - 2] = '\0';
            by_policy(r, text, part);
            for (uint32_t k = 1; k < count; k++)
                if (cosine(part, whole[k], size) > cosine(part, whole[best], size))
                    best = k;
            found += best == i;
        }
    }
    labels_free(&l);
    printf("policy model, pooled states: %u of %u answers are found without their end\n", found,
           asked);
    return (double)found / asked;
}

static void clusters_by_pooled_states_of_the_policy_model(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, ENGINE_POLICY, POLICY);
    assert_true(sched_vector_size(r.sched) <= VECTOR_MAX);
    struct labels_vectors v = {by_policy, &r, sched_vector_size(r.sched), true};
    (void)judge("policy model, pooled states", &v);
    v.linked = false;
    double f1 = judge("policy model, pooled states", &v);
    v = (struct labels_vectors){by_nothing, NULL, 1, false};
    double floor = judge("one group", &v);
    printf("f1_pooled %.3f\n", f1);
    CHECK(f1 >= floor - 0.05, "F1 %.3f, without any vectors %.3f", f1, floor);
    double share = recognised(&r);
    CHECK(share >= 0.9, "only %.3f are recognised", share);
    rig_close(&r);
}

static void clusters_by_the_role_that_embeds(void **state)
{
    struct rig r;
    struct labels l;
    const char *given = getenv("DYNASOR_ENCODER"), *texts[1024];
    char *made = NULL;
    (void)state;
    labels_read("tests/data/answers/freeform.tsv", &l);
    for (uint32_t i = 0; i < l.count; i++)
        texts[i] = l.row[i].field[2];
    if (!given)
        made = lexical_write(texts, l.count);
    labels_free(&l);
    rig_open(&r, ENGINE_EMBED, given ? given : made);
    struct labels_vectors v = {by_encoder, &r, embed_vector_size(r.embed), true};
    (void)judge("encoder", &v);
    v.linked = false;
    double f1 = judge("encoder", &v);
    printf("f1_embed %.3f\n", f1);
    CHECK(given || f1 >= 0.58, "F1 %.3f", f1);
    rig_close(&r);
    if (made)
        lexical_remove(made);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clusters_by_pooled_states_of_the_policy_model),
        cmocka_unit_test(clusters_by_the_role_that_embeds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
