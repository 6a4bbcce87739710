/* tests/unit/test_reasoner_tasks.c: the task sets of the shipped model are what its card says, and answers are
 * checked exactly. Problems of game24 at level 4, and no
 * others, have no way: every way is tried. */
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

/* Ways to 24: what two numbers are combined how, in float64; quotients that matter differ by more. */
static uint32_t ways(const double *numbers, uint32_t count)
{
    uint32_t found = 0;
    if (count == 1)
        return numbers[0] > 24 - 1e-9 && numbers[0] < 24 + 1e-9;
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t j = 0; j < i; j++) {
            double rest[4], a = numbers[i], b = numbers[j];
            uint32_t n = 0;
            for (uint32_t k = 0; k < count; k++)
                if (k != i && k != j)
                    rest[n++] = numbers[k];
            const double results[] = {
                a + b, a * b, a - b, b - a, b != 0 ? a / b : 1e6, a != 0 ? b / a : 1e6};
            for (uint32_t r = 0; r < 6; r++) {
                rest[n] = results[r];
                found += ways(rest, n + 1);
            }
        }
    return found;
}

static void tasks_game24_level_4_cannot_be_solved_and_the_others_can(void **state)
{
    struct problems problems;
    (void)state;
    problems_read(TASKS "game24.test.tsv", 1, &problems);
    for (uint32_t i = 0; i < problems.count; i++) {
        double numbers[4];
        CHECK(sscanf(problems.items[i].answer, "%lf %lf %lf %lf", &numbers[0], &numbers[1],
                     &numbers[2], &numbers[3]) == 4,
              "%s", problems.items[i].answer);
        CHECK((ways(numbers, 4) == 0) == (problems.items[i].level == 4), "level %u: %s",
              problems.items[i].level, problems.items[i].answer);
    }
    problems_free(&problems);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tasks_answers_are_found_in_the_last_box),
        cmocka_unit_test(tasks_numbers_are_compared_exactly),
        cmocka_unit_test(tasks_expressions_use_each_number_once_and_make_24),
        cmocka_unit_test(tasks_sets_are_even_and_share_no_problem),
        cmocka_unit_test(tasks_game24_level_4_cannot_be_solved_and_the_others_can),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
