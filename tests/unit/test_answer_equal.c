/* tests/unit/test_answer_equal.c: equality of answers on labelled pairs (tests/data/answers): precision
 * and recall are printed and held to what was reached, every pair beyond is named. Then what holds for any
 * answers: symmetry; the order of the bytes that no rule mentions; limits; the time that hostile
 * ones take. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/program/answer.h"
#include "tests/lib/check.h"
#include "tests/lib/labels.h"

#define RANDOM_PAIRS 20000u

static struct answer prepare(const char *text)
{
    struct answer a;
    answer_prepare(text, (uint32_t)strlen(text), &a);
    return a;
}

static bool same(const char *x, const char *y)
{
    struct answer a = prepare(x), b = prepare(y);
    bool equal = answer_equal(&a, &b);
    CHECK(equal == answer_equal(&b, &a), "not symmetric: %s and %s", x, y);
    return equal;
}

struct score {
    uint32_t both, found, wanted, pairs;
};

/* Fails on every pair that is judged otherwise than the file says we do. */
static struct score judge(const char *path, const char *otherwise)
{
    struct labels l;
    struct score s = {0};
    uint32_t wrong = 0;
    labels_read(path, &l);
    for (uint32_t i = 0; i < l.count; i++) {
        const struct labels_row *row = &l.row[i];
        bool label = row->field[0][0] == '1', equal = same(row->field[1], row->field[2]);
        bool known = strcmp(row->field[3], otherwise) == 0;
        if ((equal == label) == known) {
            printf("%s:%u: %s | %s: %s\n", path, row->line, row->field[1], row->field[2],
                   equal ? "taken as the same" : "taken as different");
            wrong++;
        }
        s.both += equal && label;
        s.found += equal;
        s.wanted += label;
        s.pairs++;
    }
    labels_free(&l);
    printf("%s: %u pairs, %u the same: precision %.4f, recall %.4f\n", path, s.pairs, s.wanted,
           (double)s.both / s.found, (double)s.both / s.wanted);
    CHECK(wrong == 0, "%u pairs", wrong);
    return s;
}

static void answer_pairs_are_judged_with_precision_one(void **state)
{
    struct score s = judge("tests/data/answers/pairs.tsv", "missed");
    (void)state;
    CHECK(s.pairs >= 300, "only %u pairs", s.pairs);
    printf("equivalence_precision %.4f\nequivalence_recall %.4f\n", (double)s.both / s.found,
           (double)s.both / s.wanted);
    assert_int_equal(s.both, s.found);
    CHECK(s.both * 100 >= s.wanted * 97, "recall: %u of %u", s.both, s.wanted);
}

static void answer_judges_real_answers_as_published_but_for_named_ones(void **state)
{
    struct score s = judge("tests/data/answers/math500.tsv", "!");
    (void)state;
    CHECK(s.pairs >= 190, "only %u pairs", s.pairs);
}

static void answer_empty_ones_agree_with_nothing(void **state)
{
    static const char *const empty[] = {"", " ", "$$", "\\text{ }", "...", "\\,", "``"};
    (void)state;
    for (uint32_t i = 0; i < COUNT_OF(empty); i++) {
        struct answer a = prepare(empty[i]);
        CHECK(!answer_valid(&a), "[%s] is an answer", empty[i]);
        for (uint32_t k = 0; k < COUNT_OF(empty); k++)
            assert_false(same(empty[i], empty[k]));
        assert_false(same(empty[i], "0"));
    }
}

static void answer_long_ones_are_compared_as_bytes(void **state)
{
    char x[ANSWER_BYTES_MAX + 44], y[sizeof x];
    struct answer a, b;
    (void)state;
    memset(x, '1', sizeof x);
    memcpy(y, x, sizeof x);
    answer_prepare(x, sizeof x, &a);
    answer_prepare(y, sizeof y, &b);
    assert_true(a.as_bytes && answer_equal(&a, &b));
    y[sizeof y - 1] = '2';
    answer_prepare(y, sizeof y, &b);
    assert_false(answer_equal(&a, &b));
    answer_prepare(x, sizeof x - 1, &b);
    assert_false(answer_equal(&a, &b));
    /* At the limit they are still read: spaces make no difference. */
    memset(x, ' ', sizeof x);
    x[0] = '7';
    answer_prepare(x, ANSWER_BYTES_MAX, &a);
    b = prepare("7.0");
    assert_true(!a.as_bytes && answer_equal(&a, &b));
    answer_prepare(x, ANSWER_BYTES_MAX + 1, &a);
    assert_true(a.as_bytes && !answer_equal(&a, &b));
}

/* Pieces that mean something, in any order. */
static uint32_t make_answer(struct rng *rng, char *text, uint32_t bytes_max)
{
    static const char *const pieces[] = {
        "1",
        "2.5",
        "x",
        "+",
        "-",
        "*",
        "/",
        "^",
        "(",
        ")",
        "{",
        "}",
        "[",
        "]",
        ",",
        "=",
        "\\frac",
        "\\sqrt",
        "\\pi",
        "\\{",
        "\\}",
        "\\pm ",
        "\\cup ",
        "%",
        "<",
        "\\le ",
        "!",
        "|",
        "\\text{",
        " cm",
        "\\infty",
        "\\begin{pmatrix}",
        "&",
        "\\\\",
        "\\end{pmatrix}",
        "\\sin ",
        "\\log_",
        "\\overline{",
        "i",
        "99999999999999999999",
        " and ",
        "^\\circ",
        "_",
        "A",
        "\xc2\xbd",
        ":",
        "\\binom",
        "1,000",
    };
    uint32_t bytes = 0, count = 1 + (uint32_t)rng_below(rng, 14);
    for (uint32_t i = 0; i < count; i++) {
        const char *piece = pieces[rng_below(rng, COUNT_OF(pieces))];
        uint32_t more = (uint32_t)strlen(piece);
        if (bytes + more > bytes_max)
            break;
        memcpy(text + bytes, piece, more);
        bytes += more;
    }
    return bytes;
}

static void answer_equality_is_symmetric_and_has_every_answer_equal_itself(void **state)
{
    uint64_t seed = check_number("SEED", now_ns());
    struct rng rng = {seed};
    (void)state;
    printf("SEED=%" PRIu64 "\n", seed);
    for (uint32_t i = 0; i < RANDOM_PAIRS; i++) {
        char x[ANSWER_BYTES_MAX], y[ANSWER_BYTES_MAX];
        uint32_t bytes_x = make_answer(&rng, x, sizeof x), bytes_y = make_answer(&rng, y, sizeof y);
        struct answer a, b;
        answer_prepare(x, bytes_x, &a);
        answer_prepare(y, bytes_y, &b);
        CHECK(answer_equal(&a, &a) == answer_valid(&a), "not itself: %.*s", (int)bytes_x, x);
        CHECK(answer_equal(&a, &b) == answer_equal(&b, &a), "not symmetric: %.*s and %.*s",
              (int)bytes_x, x, (int)bytes_y, y);
    }
}

/* Repeats a piece to the limit, and compares it with one that differs at the end. */
static uint64_t time_of(const char *before, const char *piece, const char *after)
{
    char x[ANSWER_BYTES_MAX + 64], y[sizeof x + 64];
    uint32_t bytes = 0, room = ANSWER_BYTES_MAX - (uint32_t)strlen(after) - 2;
    struct answer a, b;
    bytes += (uint32_t)snprintf(x, sizeof x, "%s", before);
    while (bytes + strlen(piece) <= room)
        bytes += (uint32_t)snprintf(x + bytes, sizeof x - bytes, "%s", piece);
    (void)snprintf(y, sizeof y, "%s2%s", x, after);
    (void)snprintf(x + bytes, sizeof x - bytes, "1%s", after);
    uint64_t best = UINT64_MAX;
    for (uint32_t i = 0; i < 5; i++) {
        uint64_t start = now_ns();
        answer_prepare(x, (uint32_t)strlen(x), &a);
        answer_prepare(y, (uint32_t)strlen(y), &b);
        (void)answer_equal(&a, &b); /* only its time matters */
        uint64_t took = now_ns() - start;
        best = took < best ? took : best;
    }
    return best;
}

/* Two sets of twelve costly elements in opposite orders: most pairs are compared. */
static uint64_t time_of_sets(void)
{
    char x[ANSWER_BYTES_MAX + 1] = "\\{", y[ANSWER_BYTES_MAX + 1] = "\\{";
    struct answer a, b;
    for (uint32_t i = 0, at = 2; i < 12; i++, at += 16) {
        (void)snprintf(x + at, sizeof x - at, "\\binom{x+%c}{16},", (int)('M' + i));
        (void)snprintf(y + at, sizeof y - at, "\\binom{%c+x}{16},", (int)('X' - i));
    }
    memcpy(x + 2 + 12 * 16 - 1, "\\}", 3);
    memcpy(y + 2 + 12 * 16 - 1, "\\}", 3);
    uint64_t start = now_ns();
    a = prepare(x);
    b = prepare(y);
    assert_true(answer_equal(&a, &b));
    return now_ns() - start;
}

static void answer_hostile_ones_take_bounded_time(void **state)
{
    static const struct {
        const char *before, *piece, *after;
    } cases[] = {
        {"", "((((", ""},
        {"", "\\frac{", ""},
        {"", "x^", "1"},
        {"", "170!", ""},
        {"", "170!+x+", ""},
        {"\\{", "170!x,", "\\}"},
        {"\\{", "x!!,", "\\}"},
        {"\\{", "\\{x!,y!\\},", "\\}"},
        {"", "\\sqrt{1099511627689}+", ""},
        {"", "\\sqrt{1099511627689}\\sqrt", ""},
        {"\\{", "\\pm x!,", "\\}"},
        {"", "\\binom{x}{64}", ""},
        {"", "\\binom{x}{64}=", ""},
        {"", "2^{", ""},
        {"", "1/3+", ""},
        {"", "9223372036854775783/9223372036854775782+", ""},
        {"", "|", ""},
        {"", "\\pm", ""},
        {"", "1,000,", ""},
        {"", "\\sin", ""},
        {"", "a=", ""},
    };
    uint64_t worst = 0, limit = check_sanitized() ? 100 * NS_PER_MS : 20 * NS_PER_MS;
    uint32_t which = 0;
    (void)state;
    for (uint32_t i = 0; i < COUNT_OF(cases); i++) {
        uint64_t took = time_of(cases[i].before, cases[i].piece, cases[i].after);
        if (took > worst) {
            worst = took;
            which = i;
        }
    }
    uint64_t sets = time_of_sets();
    printf("two sets: %" PRIu64 " us\n", sets / 1000);
    CHECK(sets < limit, "two sets take %" PRIu64 " us", sets / 1000);
    printf("slowest: %s, %" PRIu64 " us\n", cases[which].piece, worst / 1000);
    CHECK(worst < limit, "%s takes %" PRIu64 " us", cases[which].piece, worst / 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answer_pairs_are_judged_with_precision_one),
        cmocka_unit_test(answer_judges_real_answers_as_published_but_for_named_ones),
        cmocka_unit_test(answer_empty_ones_agree_with_nothing),
        cmocka_unit_test(answer_long_ones_are_compared_as_bytes),
        cmocka_unit_test(answer_equality_is_symmetric_and_has_every_answer_equal_itself),
        cmocka_unit_test(answer_hostile_ones_take_bounded_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
