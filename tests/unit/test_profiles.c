/* tests/unit/test_profiles.c: the table of profiles that an administrator changes while programs run: what each
 * key is about, that a refused change changes nothing, that a profile's name and algorithm stay, the limits of
 * the table, and the directory that profiles are loaded from. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "daemon/program/algorithms.h"
#include "daemon/program/profiles.h"
#include "tests/lib/check.h"

static struct profiles ps, before;
static char message[PROFILE_MESSAGE_BYTES];
static char out[65536];

static FILE *open_out(void)
{
    FILE *file = fmemopen(out, sizeof out, "w");
    CHECK(file, "%m");
    return file;
}

/* What `get` answers, or the message. */
static const char *got(const char *key)
{
    FILE *file = open_out();
    int r = profiles_get(&ps, key, file, message);
    assert_int_equal(fclose(file), 0);
    return r < 0 ? message : out;
}

static const struct policy_options *policy_of(const char *name)
{
    uint32_t slot = profiles_find(&ps, name, strlen(name));
    CHECK(slot != PROFILES_NONE, "%s", name);
    return &ps.all[slot].policy;
}

static int load(const char *text)
{
    char copy[4096];
    (void)snprintf(copy, sizeof copy, "%s", text);
    FILE *file = fmemopen(copy, strlen(copy), "r");
    CHECK(file, "%m");
    int r = profiles_load(&ps, file, "text", message);
    assert_int_equal(fclose(file), 0);
    return r;
}

/* But for the scratch that changes are checked in. */
static bool same(void)
{
    memcpy(before.changed, ps.changed, sizeof ps.changed);
    return memcmp(&before, &ps, sizeof ps) == 0;
}

static void says(const char *what, const char *const *words)
{
    for (uint32_t i = 0; i < 4 && words[i]; i++)
        CHECK(strstr(what, words[i]), "\"%s\" does not say %s", what, words[i]);
}

static void profiles_keys_are_about_what_they_say(void **state)
{
    (void)state;
    profiles_init(&ps);
    assert_int_equal(profiles_set(&ps, "sc-math.certainty.5", "0.25", message), 0);
    assert_string_equal(got("sc-math.certainty.5"), "sc-math.certainty.5 0.25\n");
    assert_string_equal(got("sc-gsm8k.certainty.5"), "sc-gsm8k.certainty.5 0.7\n");
    /* Without a name: what programs use that name none, each once. */
    assert_int_equal(profiles_set(&ps, "policy.give_up_below", "0", message), 0);
    assert_int_equal(profiles_set(&ps, "policy.consensus", "0.5", message), 0);
    for (uint32_t a = 0; a < DYNASOR_ALGORITHM_COUNT; a++) {
        assert_true(ps.all[ps.defaults[a]].policy.consensus < 0.6);
        bool math = ps.defaults[a] == profiles_find(&ps, "sc-math", 7);
        assert_int_equal(ps.changes[ps.defaults[a]], math ? 3 : 2);
    }
    assert_int_equal(ps.changes[profiles_find(&ps, "sc-gsm8k", 8)], 0);
    assert_true(policy_of("sc-gsm8k")->consensus > 0.9);
    assert_true(strstr(got("policy.consensus"), "sc-math.policy.consensus 0.5\n") != NULL);
    assert_ptr_equal(strstr(strstr(out, "even.policy") + 1, "even.policy"), NULL);
    assert_string_equal(got("default.sc"), "default.sc sc-math\n");
    assert_int_equal(profiles_set(&ps, "default.sc", "sc-gsm8k", message), 0);
    assert_string_equal(got("default.sc"), "default.sc sc-gsm8k\n");
    assert_int_equal(profiles_set(&ps, "certainty.5", "0.125", message), 0);
    assert_string_equal(got("sc-gsm8k.certainty.5"), "sc-gsm8k.certainty.5 0.125\n");
    assert_string_equal(got("sc-math.certainty.5"), "sc-math.certainty.5 0.25\n");
    /* Names may have dots: the longest that fits is meant. */
    assert_int_equal(load("[profile]\nname = sc-math.b\nalgorithm = sc\n"), 0);
    assert_int_equal(profiles_set(&ps, "sc-math.b.policy.detect", "9", message), 0);
    assert_int_equal(policy_of("sc-math.b")->detect, 9);
    assert_int_equal(policy_of("sc-math")->detect, 5);
    FILE *file = open_out();
    profiles_list(&ps, file);
    assert_int_equal(fclose(file), 0);
    says(out, (const char *const[4]){"sc-math.b", "default of sc\n", "cot-mid", "even"});
}

static void profiles_every_algorithm_has_a_default_that_fits(void **state)
{
    (void)state;
    profiles_init(&ps);
    for (uint32_t a = 0; a < DYNASOR_ALGORITHM_COUNT; a++)
        assert_true(profiles_fit(&ps, ps.defaults[a], a));
    uint32_t cot = profiles_find(&ps, "cot-mid", 7), even = profiles_find(&ps, "even", 4);
    assert_true(profiles_fit(&ps, cot, DYNASOR_ALGORITHM_COT));
    assert_false(profiles_fit(&ps, cot, DYNASOR_ALGORITHM_SC));
    assert_true(profiles_fit(&ps, even, DYNASOR_ALGORITHM_SC));
    assert_int_equal(profiles_find(&ps, "cot-midd", 8), PROFILES_NONE);
    assert_int_equal(profiles_find(&ps, "cot-mid", 6), PROFILES_NONE);
}

static const struct {
    const char *key, *value;
    const char *words[4]; /* of the message */
} wrong[] = {
    {"sc-math.certainty.5", "1.5", {"certainty", "1.5", "0 to 1"}},
    {"sc-math.certainty.5", "", {"certainty", "0 to 1"}},
    {"policy.detect", "0", {"detect", "1 to"}},
    {"policy.kind", "odd", {"kind", "odd", "static"}},
    /* One of the defaults would be wrong: none is changed. */
    {"policy.kind", "static", {"threshold", "detect"}},
    {"sc-math.profile.name", "other", {"profile.name", "file only"}},
    {"sc-math.profile.file", "other", {"profile.file", "file only"}},
    {"profile.algorithm", "any", {"profile.algorithm", "file only"}},
    {"default.sc", "nothing", {"nothing", "profile list"}},
    {"default.sc", "cot-mid", {"default.sc", "cot-mid", "sc or any", "not cot"}},
    {"default.nobody", "even", {"default.nobody", "single", "best_of_n", "sc_cot"}},
    {"nobody.policy.detect", "5", {"nobody.policy.detect", "PROFILE.section.key"}},
    {"detect", "5", {"detect", "section.key"}},
    {"", "5", {"section.key"}},
    {"sc-math.", "5", {"accepted sections"}},
    {"policy.nothing", "5", {"nothing"}},
};

static void profiles_refused_changes_change_nothing(void **state)
{
    (void)state;
    profiles_init(&ps);
    /* The first default could be static, others cannot. */
    assert_int_equal(load("[profile]\nname = roomy\nalgorithm = any\n[certainty]\n5 = 0.5\n"), 0);
    assert_int_equal(profiles_set(&ps, "default.single", "roomy", message), 0);
    before = ps;
    for (uint32_t i = 0; i < COUNT_OF(wrong); i++) {
        message[0] = '\0';
        CHECK(profiles_set(&ps, wrong[i].key, wrong[i].value, message) < 0, "%s = %s", wrong[i].key,
              wrong[i].value);
        says(message, wrong[i].words);
        CHECK(same(), "%s = %s changed something", wrong[i].key, wrong[i].value);
    }
    says(got("what"), (const char *const[4]){"what", "PROFILE.section.key"});
    says(got("policy.what"), (const char *const[4]){"policy.what", "profile show"});
    FILE *file = open_out();
    assert_int_equal(profiles_show(&ps, "nothing", file, message), -ENOENT);
    assert_int_equal(fclose(file), 0);
    says(message, (const char *const[4]){"nothing", "profile list"});
}

static void profiles_loaded_ones_are_shown_and_keep_their_algorithm(void **state)
{
    (void)state;
    profiles_init(&ps);
    uint32_t count = ps.count;
    assert_int_equal(load("[profile]\nname = mine\nalgorithm = sc\n[policy]\nkind = static\n"
                          "detect = 3\n[certainty]\n3 = 0.5\n"),
                     0);
    assert_int_equal(ps.count, count + 1);
    FILE *file = open_out();
    assert_int_equal(profiles_show(&ps, "mine", file, message), 0);
    assert_int_equal(fclose(file), 0);
    before = ps;
    assert_int_equal(load(out), 0); /* what is shown can be loaded */
    before.changes[count]++;        /* which counts as a change */
    assert_true(same());
    assert_int_equal(load("[profile]\nname = mine\nalgorithm = cot\n"), -EINVAL);
    says(message, (const char *const[4]){"text", "mine", "cot", "accepted sc"});
    assert_int_equal(load("[profile]\nname = mine\nalgorithm = sc\n[policy]\ndetect = x\n"),
                     -EINVAL);
    says(message, (const char *const[4]){"text:5", "detect", "x"});
    assert_true(same());
    /* The table's end: no more names, but those that are there can be replaced. */
    while (ps.count < PROFILES_MAX) {
        char text[64];
        (void)snprintf(text, sizeof text, "[profile]\nname = p%u\nalgorithm = any\n", ps.count);
        assert_int_equal(load(text), 0);
    }
    before = ps;
    assert_int_equal(load("[profile]\nname = more\nalgorithm = any\n"), -ENOSPC);
    says(message, (const char *const[4]){"more", "at most 64"});
    assert_true(same());
    assert_int_equal(load("[profile]\nname = mine\nalgorithm = sc\n"), 0);
    assert_int_equal(policy_of("mine")->kind, POLICY_EVEN);
}

/* ---- a directory -------------------------------------------------------------------------------- */

static char folder[] = "/tmp/profiles-XXXXXX";

static void put(const char *name, const char *text)
{
    char path[128];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "we");
    CHECK(file && fputs(text, file) >= 0 && fclose(file) == 0, "%s: %m", path);
}

static void take(const char *name)
{
    char path[128];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    CHECK(unlink(path) == 0, "%s: %m", path);
}

static void profiles_of_a_directory_know_their_files(void **state)
{
    (void)state;
    char wanted[128];
    CHECK(mkdtemp(folder), "%m");
    profiles_init(&ps);
    says(got("sc-math.profile.file"), (const char *const[4]){"sc-math", "[profiles] directory"});
    for (uint32_t i = 0; i < 10; i++) {
        char name[16], text[128];
        (void)snprintf(name, sizeof name, "%c.profile", "ztyaxcwdve"[i]);
        (void)snprintf(text, sizeof text,
                       "[profile]\nname = mine\nalgorithm = sc\n[policy]\ndetect = %d\n", name[0]);
        put(name, text);
    }
    put("sc-gsm8k.profile", "[profile]\nname = other\nalgorithm = sc\n");
    put("b.profile.new", "half");
    put(".c.profile", "half");
    put("profile", "half");
    assert_int_equal(profiles_load_directory(&ps, folder, message), 0);
    assert_int_equal(policy_of("mine")->detect, 'z'); /* by name: the last holds */
    (void)snprintf(wanted, sizeof wanted, "mine.profile.file %s/z.profile\n", folder);
    assert_string_equal(got("mine.profile.file"), wanted);
    (void)snprintf(wanted, sizeof wanted, "sc-math.profile.file %s/sc-math.profile\n", folder);
    assert_string_equal(got("sc-math.profile.file"), wanted);
    says(got("sc-gsm8k.profile.file"),
         (const char *const[4]){"sc-gsm8k.profile", "another's file"});
    assert_int_equal(load("[profile]\nname = .hidden\nalgorithm = sc\n"), 0);
    says(got(".hidden.profile.file"), (const char *const[4]){".hidden.profile", "hidden"});
    put("d.profile", "[profile]\nname = d\nalgorithm = sc\n[certainty]\n5 = 2\n");
    assert_int_equal(profiles_load_directory(&ps, folder, message), -EINVAL);
    says(message, (const char *const[4]){"d.profile:5", "certainty", "0 to 1"});
    const char *const names[] = {"sc-gsm8k.profile", "b.profile.new", ".c.profile", "profile"};
    for (uint32_t i = 0; i < COUNT_OF(names); i++)
        take(names[i]);
    for (uint32_t i = 0; i < 10; i++)
        take((char[]){"ztyaxcwdve"[i], '.', 'p', 'r', 'o', 'f', 'i', 'l', 'e', 0});
    assert_int_equal(rmdir(folder), 0);
    assert_int_equal(profiles_load_directory(&ps, folder, message), -ENOENT);
    says(message, (const char *const[4]){folder, "[profiles] directory"});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(profiles_keys_are_about_what_they_say),
        cmocka_unit_test(profiles_every_algorithm_has_a_default_that_fits),
        cmocka_unit_test(profiles_refused_changes_change_nothing),
        cmocka_unit_test(profiles_loaded_ones_are_shown_and_keep_their_algorithm),
        cmocka_unit_test(profiles_of_a_directory_know_their_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
