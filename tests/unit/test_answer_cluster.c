/* tests/unit/test_answer_cluster.c: groups of answers by equality and by likeness, votes, pairwise F1.
 * By hand where a sentence says what must come out; likeness also against a plain transitive closure,
 * on random vectors. The labelled free-form answers (tests/data/answers/freeform.tsv) are clustered by
 * vectors of letter groups, which know no meaning: the floor for what a model's vectors must beat. */
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

#include "daemon/program/cluster.h"
#include "tests/lib/check.h"
#include "tests/lib/labels.h"

#define MAX 64u

struct store {
    uint32_t group[MAX], leader[MAX];
    double lengths[MAX], sums[MAX];
    struct answer answers[MAX];
};

static struct cluster group_texts(struct store *s, const char *const *texts, uint32_t count)
{
    struct cluster c = {.group = s->group, .leader = s->leader};
    for (uint32_t i = 0; i < count; i++) {
        answer_prepare(texts[i], (uint32_t)strlen(texts[i]), &s->answers[i]);
        uint32_t group = cluster_add(&c, s->answers);
        assert_int_equal(group, s->group[i]);
    }
    return c;
}

static void cluster_groups_are_numbered_by_their_first_answer(void **state)
{
    static const char *const texts[] = {"1/2", "3", "0.5", "", "x=3", "\\frac{2}{4}", "", "7"};
    static const uint32_t want[] = {0, 1, 0, CLUSTER_NONE, 1, 0, CLUSTER_NONE, 2};
    struct store s;
    struct cluster c = group_texts(&s, texts, COUNT_OF(texts));
    (void)state;
    assert_memory_equal(s.group, want, sizeof want);
    assert_int_equal(c.groups, 3);
    assert_int_equal(c.valid, 6);
    assert_int_equal(c.count, 8);
    assert_int_equal(s.leader[0], 0);
    assert_int_equal(s.leader[1], 1);
    assert_int_equal(s.leader[2], 7);
}

static void cluster_majority_goes_to_who_reached_the_maximum_first(void **state)
{
    static const char *const tie[] = {"1", "2", "", "2", "1"}, *const none[] = {"", ""};
    static const char *const late[] = {"1", "2", "2", "1", "1"};
    struct store s;
    struct cluster c = group_texts(&s, tie, COUNT_OF(tie));
    (void)state;
    assert_int_equal(cluster_majority(&c, NULL, s.sums), 1); /* 2 has two votes before 1 has */
    assert_true(s.sums[0] == 2 && s.sums[1] == 2);
    c = group_texts(&s, late, COUNT_OF(late));
    assert_int_equal(cluster_majority(&c, NULL, s.sums), 0);
    c = group_texts(&s, none, COUNT_OF(none));
    assert_int_equal(cluster_majority(&c, NULL, s.sums), CLUSTER_NONE);
    c = group_texts(&s, none, 0);
    assert_int_equal(cluster_majority(&c, NULL, s.sums), CLUSTER_NONE);
}

static void cluster_weights_decide_and_what_is_no_weight_counts_nothing(void **state)
{
    static const char *const texts[] = {"1", "2", "1", "3"};
    static const double heavy[] = {0.2, 0.9, 0.3, 0.1}, bad[] = {-5, 0.1, NAN, 0.05};
    static const double zero[] = {0, 0, 0, 0}, even[] = {0.25, 0.5, 0.25, 0.1};
    struct store s;
    struct cluster c = group_texts(&s, texts, COUNT_OF(texts));
    (void)state;
    assert_int_equal(cluster_majority(&c, NULL, s.sums), 0);
    assert_int_equal(cluster_majority(&c, heavy, s.sums), 1);
    assert_int_equal(cluster_majority(&c, bad, s.sums), 1);
    assert_true(s.sums[0] == 0);
    assert_int_equal(cluster_majority(&c, zero, s.sums), 0);
    assert_int_equal(cluster_majority(&c, even, s.sums), 1); /* 0.5 is reached by 2 first */
}

/* ---- likeness ---- */

static struct cluster group_vectors(struct store *s, const float *data, uint32_t count,
                                    uint32_t dimensions, float threshold, bool linked)
{
    struct cluster c = {.group = s->group, .leader = s->leader};
    struct cluster_vectors v = {.data = data,
                                .count = count,
                                .dimensions = dimensions,
                                .threshold = threshold,
                                .linked = linked,
                                .lengths = s->lengths};
    cluster_likeness(&v, &c);
    return c;
}

/* Directions at 0, 30, 60 and 180 degrees, of any length; one without, one that is infinite. */
static const float fan[] = {2, 0, 0.866025f, 0.5f, 5, 8.660254f, -1, 0, 0, 0, INFINITY, 1};

static void cluster_chains_join_when_linked_and_not_otherwise(void **state)
{
    static const uint32_t to_leader[] = {0, 0, 1, 2, CLUSTER_NONE, CLUSTER_NONE};
    static const uint32_t linked[] = {0, 0, 0, 1, CLUSTER_NONE, CLUSTER_NONE};
    struct store s;
    struct cluster c = group_vectors(&s, fan, 6, 2, 0.86f, false);
    (void)state;
    assert_memory_equal(s.group, to_leader, sizeof to_leader);
    assert_true(c.groups == 3 && c.valid == 4 && s.leader[1] == 2 && s.leader[2] == 3);
    c = group_vectors(&s, fan, 6, 2, 0.86f, true);
    assert_memory_equal(s.group, linked, sizeof linked);
    assert_true(c.groups == 2 && c.valid == 4 && s.leader[0] == 0 && s.leader[1] == 3);
    c = group_vectors(&s, fan, 6, 2, 0.9f, true);
    assert_int_equal(c.groups, 4);
    c = group_vectors(&s, fan, 6, 2, -1.1f, false);
    assert_int_equal(c.groups, 1);
}

static void cluster_joins_the_most_alike_of_several_leaders(void **state)
{
    /* 0 and 60 degrees lead; 40 and 20 degrees are alike to both, and nearer to one. */
    static const float v[] = {1, 0, 0.5f, 0.866025f, 0.766044f, 0.642788f, 0.939693f, 0.342020f};
    static const uint32_t want[] = {0, 1, 1, 0};
    struct store s;
    (void)state;
    (void)group_vectors(&s, v, 4, 2, 0.7f, false);
    assert_memory_equal(s.group, want, sizeof want);
}

static void cluster_answers_one_by_one_join_the_most_alike_leader(void **state)
{
    /* Directions in degrees: 0, 60, 40, 20, one without, one that is not finite, 0 again, 180. */
    static const float v[][2] = {{3, 0},
                                 {0.5f, 0.866025f},
                                 {0.766044f, 0.642788f},
                                 {0.939693f, 0.342020f},
                                 {0, 0},
                                 {INFINITY, 1},
                                 {1e-3f, 0},
                                 {-1, 0}};
    static const char *const texts[] = {"one", "two", "three", "four", "two", "new", "six", ""};
    static const uint32_t want[] = {0, 1, 1, 0, 1, 2, 0, CLUSTER_NONE};
    float units[COUNT_OF(v)][2];
    struct store s;
    struct cluster c = {.group = s.group, .leader = s.leader};
    (void)state;
    for (uint32_t i = 0; i < COUNT_OF(v); i++) {
        bool has = cluster_unit(v[i], 2, units[i]);
        assert_int_equal(has, i != 4 && i != 5);
        answer_prepare(texts[i], (uint32_t)strlen(texts[i]), &s.answers[i]);
        uint32_t group = cluster_add_alike(&c, s.answers, units[0], 2, 0.7);
        CHECK(group == want[i], "answer %u: group %u", i, group);
    }
    assert_memory_equal(s.group, want, sizeof want);
    assert_true(c.groups == 3 && c.valid == 7 && c.count == 8 && s.leader[2] == 5);
    c = (struct cluster){.group = s.group, .leader = s.leader};
    (void)cluster_unit(v[2], 2, units[0]); /* the same twice, at 1 */
    (void)cluster_unit((const float[]){7.66044f, 6.42788f}, 2, units[1]);
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(cluster_add_alike(&c, s.answers, units[0], 2, 1), 0);
}

static double cosine_of(const float *x, const float *y, uint32_t dimensions)
{
    double xy = 0, xx = 0, yy = 0;
    for (uint32_t d = 0; d < dimensions; d++) {
        xy += (double)x[d] * (double)y[d];
        xx += (double)x[d] * (double)x[d];
        yy += (double)y[d] * (double)y[d];
    }
    return xy / (sqrt(xx) * sqrt(yy));
}

static void cluster_linked_is_the_transitive_closure_of_likeness(void **state)
{
    uint64_t seed = check_number("SEED", now_ns());
    struct rng rng = {seed};
    struct store s;
    (void)state;
    printf("SEED=%" PRIu64 "\n", seed);
    for (uint32_t round = 0; round < 200; round++) {
        enum { DIMENSIONS = 4 };
        float data[MAX * DIMENSIONS];
        bool alike[MAX][MAX];
        uint32_t count = 1 + (uint32_t)rng_below(&rng, MAX);
        float threshold = (float)rng_below(&rng, 100) / 100.0f;
        for (uint32_t i = 0; i < count * DIMENSIONS; i++)
            data[i] = (float)rng_below(&rng, 2001) / 1000.0f - 1.0f;
        for (uint32_t i = 0; i < count; i++) {
            for (uint32_t k = 0; k < count; k++)
                alike[i][k] = i == k || cosine_of(data + i * DIMENSIONS, data + k * DIMENSIONS,
                                                  DIMENSIONS) >= (double)threshold;
        }
        for (uint32_t m = 0; m < count; m++) {
            for (uint32_t i = 0; i < count; i++) {
                for (uint32_t k = 0; k < count; k++)
                    alike[i][k] |= alike[i][m] && alike[m][k];
            }
        }
        struct cluster c = group_vectors(&s, data, count, DIMENSIONS, threshold, true);
        uint32_t groups = 0;
        for (uint32_t i = 0; i < count; i++) {
            uint32_t first = 0;
            while (!alike[first][i])
                first++;
            CHECK(s.group[i] == (first == i ? groups : s.group[first]), "answer %u of %u", i,
                  count);
            if (first == i)
                assert_int_equal(s.leader[groups++], i);
        }
        assert_int_equal(c.groups, groups);
    }
}

static void cluster_f1_counts_pairs(void **state)
{
    static const uint32_t mine[] = {0, 0, 0, 1, CLUSTER_NONE, CLUSTER_NONE};
    static const uint32_t truth[] = {0, 0, 1, 1, 2, 2};
    struct cluster_score s = cluster_compare(mine, truth, COUNT_OF(mine));
    (void)state;
    /* Pairs: mine 01 02 12; truth 01 23 45; both 01. */
    assert_true(s.precision == 1.0 / 3 && s.recall == 1.0 / 3);
    assert_true(fabs(s.f1 - 1.0 / 3) < 1e-15);
    s = cluster_compare(truth, truth, COUNT_OF(truth));
    assert_true(s.f1 == 1 && s.precision == 1 && s.recall == 1);
    s = cluster_compare(mine, mine, 1);
    assert_true(s.f1 == 1);
    s = cluster_compare(mine, (const uint32_t[]){0, 1, 2}, 3);
    assert_true(s.f1 == 0 && s.precision == 0 && s.recall == 1);
}

/* ---- free-form answers ---- */

#define DIMENSIONS 512u

/* Each group of three letters counts at a place of its own. */
static void embed_letters(void *argument, const char *text, float *vector)
{
    size_t bytes = strlen(text);
    (void)argument;
    memset(vector, 0, DIMENSIONS * sizeof *vector);
    for (size_t i = 0; i + 3 <= bytes; i++) {
        uint32_t h = UINT32_C(2166136261);
        for (size_t k = 0; k < 3; k++)
            h = (h ^ (uint8_t)(text[i + k] | 0x20)) * UINT32_C(16777619);
        vector[(h >> 8) % DIMENSIONS] += 1;
    }
}

/* The truth itself as a vector, with some noise: what perfect vectors reach. */
static void embed_truth(void *argument, const char *text, float *vector)
{
    const struct labels *l = argument;
    uint32_t i = 0;
    while (strcmp(l->row[i].field[2], text) != 0)
        i++;
    embed_letters(NULL, l->row[i].field[1], vector);
    for (uint32_t d = 0; d < DIMENSIONS; d++)
        vector[d] += 0.01f * (float)((i + d) % 3);
}

static void cluster_of_free_form_answers_is_judged_by_pairs(void **state)
{
    struct labels l;
    (void)state;
    labels_read("tests/data/answers/freeform.tsv", &l);
    CHECK(l.count >= 300, "only %u answers", l.count);
    for (int linked = 0; linked < 2; linked++) {
        struct labels_vectors v = {embed_letters, NULL, DIMENSIONS, linked != 0};
        struct labels_result r = labels_judge(&l, &v);
        printf("letters, %s: %u answers to %u questions: threshold %.2f, precision %.3f, recall "
               "%.3f, F1 %.3f\n",
               linked ? "linked" : "to leaders", r.answers, r.questions, r.threshold,
               r.score.precision, r.score.recall, r.score.f1);
        CHECK(r.score.f1 >= 0.4 && r.score.f1 < 0.95, "F1 %.3f: the harness does not measure",
              r.score.f1);
        v = (struct labels_vectors){embed_truth, &l, DIMENSIONS, linked != 0};
        r = labels_judge(&l, &v);
        CHECK(r.score.f1 > 0.999, "F1 of the truth is %.3f", r.score.f1);
    }
    labels_free(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cluster_groups_are_numbered_by_their_first_answer),
        cmocka_unit_test(cluster_majority_goes_to_who_reached_the_maximum_first),
        cmocka_unit_test(cluster_weights_decide_and_what_is_no_weight_counts_nothing),
        cmocka_unit_test(cluster_chains_join_when_linked_and_not_otherwise),
        cmocka_unit_test(cluster_joins_the_most_alike_of_several_leaders),
        cmocka_unit_test(cluster_answers_one_by_one_join_the_most_alike_leader),
        cmocka_unit_test(cluster_linked_is_the_transitive_closure_of_likeness),
        cmocka_unit_test(cluster_f1_counts_pairs),
        cmocka_unit_test(cluster_of_free_form_answers_is_judged_by_pairs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
