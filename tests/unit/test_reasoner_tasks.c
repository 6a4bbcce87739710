/* tests/unit/test_reasoner_tasks.c: the task sets of the shipped model are what its card says, and answers are
 * checked exactly. The level of each problem of game24 is that of its number of ways: every way is tried. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#undef fail /* tasks.h has one of its own */

#include "tests/bench/dynasor/tasks.h"
#include "tests/lib/check.h"

#define TASKS "tools/model/tasks/"
#define TEST 2000u
#define CALIBRATION 5000u

static void tasks_answers_are_found_in_the_last_box(void **state)
{
    char answer[ANSWER_TEXT_BYTES];
    (void)state;
    assert_true(answer_of("Step 1: 2+2=4\n\\boxed{4}", answer));
    assert_string_equal(answer, "4");
    assert_true(answer_of("\\boxed{1} no, \\boxed{2.5}.", answer));
    assert_string_equal(answer, "2.5");
    assert_false(answer_of("\\boxed{7", answer));
    assert_false(answer_of("\\boxed{}", answer));
    assert_false(answer_of("4", answer));
}

static void tasks_numbers_are_compared_exactly(void **state)
{
    static const struct {
        const char *a, *b;
        bool same;
    } pairs[] = {{"4", "4.0", true},      {"1/2", "0.5", true}, {"7/4", "1.75", true},
                 {"1/3", "0.333", false}, {"2/6", "1/3", true}, {"10", "1", false},
                 {"0.1", "0.10", true},   {"3/0", "3/0", true}, {"3/0", "3", false},
                 {"12a", "12", false},    {"", "0", false},     {"999999999", "999999998", false}};
    (void)state;
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
        CHECK(answer_same(TASK_WORDS, pairs[i].a, pairs[i].b) == pairs[i].same, "%s and %s",
              pairs[i].a, pairs[i].b);
}

static void tasks_expressions_use_each_number_once_and_make_24(void **state)
{
    static char numbers[] = "3 3 8 8";
    struct problem p = {.level = 3, .answer = numbers};
    (void)state;
    assert_true(answer_right(TASK_GAME24, &p, "8/(3-8/3)"));
    assert_false(answer_right(TASK_GAME24, &p, "8*3"));
    assert_false(answer_right(TASK_GAME24, &p, "8*3+3-8"));
    assert_false(answer_right(TASK_GAME24, &p, "8*3*(8-7)"));
    assert_false(answer_right(TASK_GAME24, &p, "8/(3-8/3"));
    assert_false(answer_right(TASK_GAME24, &p, "8/(3-3)+8"));
    assert_false(answer_right(TASK_GAME24, &p, ""));
    assert_false(answer_right(TASK_GAME24, &p, "((((((((((((((((((((24))))))))))))))))))))"));
}

/* ---- sets --------------------------------------------------------------------------------------- */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Two sets of a task, their levels even, no key twice. */
static void check_sets(const char *task, uint32_t level_first, uint32_t levels, bool key_is_answer)
{
    static const struct {
        const char *name;
        uint32_t count;
    } sets[] = {{"test", TEST}, {"calibration", CALIBRATION}};
    struct problems problems[2];
    char **keys = need(calloc(TEST + CALIBRATION, sizeof *keys));
    uint32_t n = 0;
    for (uint32_t s = 0; s < 2; s++) {
        char file[128];
        uint32_t of_level[16] = {0};
        (void)snprintf(file, sizeof file, TASKS "%s.%s.tsv", task, sets[s].name);
        problems_read(file, 1, &problems[s]);
        assert_int_equal(problems[s].count, sets[s].count);
        for (uint32_t i = 0; i < problems[s].count; i++) {
            struct problem *p = &problems[s].items[i];
            of_level[p->level]++;
            keys[n++] = key_is_answer ? p->answer : p->text;
        }
        for (uint32_t l = level_first; l < level_first + levels; l++)
            CHECK(of_level[l] >= sets[s].count / levels &&
                      of_level[l] <= sets[s].count / levels + 1,
                  "%s: %u problems of level %u", file, of_level[l], l);
    }
    qsort(keys, n, sizeof *keys, by_text);
    for (uint32_t i = 1; i < n; i++)
        CHECK(strcmp(keys[i - 1], keys[i]) != 0, "%s: twice: %s", task, keys[i]);
    free(keys);
    problems_free(&problems[0]);
    problems_free(&problems[1]);
}

static void tasks_sets_are_even_and_share_no_problem(void **state)
{
    (void)state;
    check_sets("words", 2, 7, false);
    check_sets("game24", 1, 4, true);
}

/* ---- levels of game24: how many ways there are to 24 --------------------------------------------- */

struct ratio { /* of whole numbers, not reduced: four numbers to 20 keep it small */
    int64_t top;
    int64_t bottom;
};

static bool same(struct ratio a, struct ratio b)
{
    return a.top * b.bottom == b.top * a.bottom;
}

/* What comes of two numbers, a the greater; without negative results a is never less than b. */
static uint32_t results_of(struct ratio a, struct ratio b, struct ratio ret_results[5])
{
    uint32_t n = 0;
    ret_results[n++] = (struct ratio){a.top * b.bottom + b.top * a.bottom, a.bottom * b.bottom};
    ret_results[n++] = (struct ratio){a.top * b.top, a.bottom * b.bottom};
    ret_results[n++] = (struct ratio){a.top * b.bottom - b.top * a.bottom, a.bottom * b.bottom};
    if (b.top != 0)
        ret_results[n++] = (struct ratio){a.top * b.bottom, a.bottom * b.top};
    if (a.top != 0 && !same(a, b))
        ret_results[n++] = (struct ratio){b.top * a.bottom, b.bottom * a.top};
    return n;
}

/* Ways to 24: which two numbers are combined how; equal pairs are one way. */
static uint32_t ways(const struct ratio *numbers, uint32_t count)
{
    struct ratio seen[6][2];
    uint32_t found = 0, pairs = 0;
    if (count == 1)
        return same(numbers[0], (struct ratio){24, 1});
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t j = 0; j < i; j++) {
            struct ratio a = numbers[i], b = numbers[j], rest[4], results[5];
            if (a.top * b.bottom < b.top * a.bottom) {
                a = numbers[j];
                b = numbers[i];
            }
            uint32_t n = 0, known = 0;
            while (known < pairs && !(same(seen[known][0], a) && same(seen[known][1], b)))
                known++;
            if (known < pairs)
                continue;
            seen[pairs][0] = a;
            seen[pairs++][1] = b;
            for (uint32_t k = 0; k < count; k++)
                if (k != i && k != j)
                    rest[n++] = numbers[k];
            for (uint32_t r = results_of(a, b, results); r-- > 0;) {
                rest[n] = results[r];
                found += ways(rest, n + 1);
            }
        }
    return found;
}

static void check_levels(const char *file)
{
    struct problems problems;
    problems_read(file, 1, &problems);
    for (uint32_t i = 0; i < problems.count; i++) {
        const struct problem *p = &problems.items[i];
        struct ratio numbers[4];
        char *at = p->answer;
        for (uint32_t k = 0; k < 4; k++)
            numbers[k] = (struct ratio){strtol(at, &at, 10), 1};
        uint32_t n = ways(numbers, 4);
        uint32_t level = n == 0 ? 4 : n <= 4 ? 3 : n <= 11 ? 2 : 1;
        CHECK(!*at && p->level == level, "%s: level %u, but %u ways: %s", file, p->level, n,
              p->answer);
    }
    problems_free(&problems);
}

static void tasks_levels_of_game24_are_the_number_of_ways(void **state)
{
    (void)state;
    check_levels(TASKS "game24.test.tsv");
    check_levels(TASKS "game24.calibration.tsv");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tasks_answers_are_found_in_the_last_box),
        cmocka_unit_test(tasks_numbers_are_compared_exactly),
        cmocka_unit_test(tasks_expressions_use_each_number_once_and_make_24),
        cmocka_unit_test(tasks_sets_are_even_and_share_no_problem),
        cmocka_unit_test(tasks_levels_of_game24_are_the_number_of_ways),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
