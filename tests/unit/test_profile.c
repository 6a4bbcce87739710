/* tests/unit/test_profile.c: profiles as text. The built-in ones are the published rows; a file that
 * is written reads back to the same bits, for the built-in and for random profiles, edges of bins among them; what is wrong is
 * refused with file, line, key and range, and changes nothing; and random damage to a good file never
 * gives a profile that the policies could not run. The run log's lines round-trip too. */
#include <errno.h>
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

#include "daemon/program/profile.h"
#include "daemon/program/runlog.h"
#include "tests/lib/check.h"

#define TEXT_BYTES 65536u

static struct rng rng;

static void text_of(const struct profile *profile, char text[TEXT_BYTES])
{
    memset(text, 0, TEXT_BYTES);
    FILE *file = fmemopen(text, TEXT_BYTES, "w");
    assert_non_null(file);
    assert_int_equal(profile_write(file, profile), 0);
    assert_int_equal(fclose(file), 0);
    assert_true(strlen(text) < TEXT_BYTES - 1);
}

static int read_text(const char *text, size_t bytes, struct profile *profile, char *message)
{
    char copy[TEXT_BYTES];
    memcpy(copy, text, bytes);
    FILE *file = fmemopen(copy, bytes, "r");
    assert_non_null(file);
    int rc = profile_read(file, "p.ini", profile, message);
    (void)fclose(file); /* memory */
    return rc;
}

/* ---- built in ----------------------------------------------------------------------------------- */

static void the_published_rows_are_built_in(void **state)
{
    static const struct {
        const char *name;
        uint32_t detect;
        uint32_t used;
        double certainty;
        double reward;
        enum certaindex_reward_rule rule;
    } rows[] = {
        {"sc-math", 5, 1, 0.7, 0, CERTAINDEX_REWARD_MEAN},
        {"sc-gsm8k", 5, 1, 0.7, 0, CERTAINDEX_REWARD_MEAN},
        {"sc-livecodebench", 5, 1, 0.4, 0, CERTAINDEX_REWARD_MEAN},
        {"mcts-gsm8k", 3, 3, 0.99, 0.4, CERTAINDEX_REWARD_MEAN},
        {"mcts-asdiv", 3, 2, 0, 0.4, CERTAINDEX_REWARD_MEAN},
        {"rebase-gsm8k", 16, 3, 0.85, 0.99, CERTAINDEX_REWARD_MAX},
        {"rebase-math", 16, 1, 0.75, 0, CERTAINDEX_REWARD_MAX},
    };
    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct profile p;
        assert_int_equal(profile_find(rows[i].name, &p), 0);
        assert_int_equal(p.policy.kind, POLICY_STATIC);
        assert_int_equal(p.policy.detect, rows[i].detect);
        assert_int_equal(p.policy.reward_rule, rows[i].rule);
        assert_int_equal(p.policy.limits_count, 1);
        assert_int_equal(p.policy.limits[0].knob, rows[i].detect);
        assert_int_equal(p.policy.limits[0].limits.used, rows[i].used);
        assert_true(p.policy.limits[0].limits.above[CERTAINDEX_CERTAINTY] == rows[i].certainty);
        assert_true(p.policy.limits[0].limits.above[CERTAINDEX_REWARD] == rows[i].reward);
    }
    static const uint32_t presets[][2] = {{8, 64}, {5, 64}, {3, 64}, {2, 64}, {2, 32}};
    static const char *const names[] = {"cot-mild", "cot-low", "cot-mid", "cot-high", "cot-crazy"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct profile p;
        assert_int_equal(profile_find(names[i], &p), 0);
        assert_int_equal(p.policy.kind, POLICY_PROBE);
        assert_int_equal(p.policy.probe.window, presets[i][0]);
        assert_int_equal(p.policy.probe.interval_tokens, presets[i][1]);
        assert_int_equal(p.policy.probe.rule, CERTAINDEX_HESITATION_BLOCKS);
        assert_true(p.policy.probe.agreement == 1 && p.policy.probe.growth == 0);
    }
    struct profile none;
    assert_int_equal(profile_find("sc-nothing", &none), -ENOENT);
}

/* ---- round trips -------------------------------------------------------------------------------- */

static double random_real(double most)
{
    return (double)rng_below(&rng, UINT32_MAX) / UINT32_MAX * most;
}

static void random_edges(struct policy_edges *edges)
{
    double least = 0;
    if (rng_below(&rng, 3) == 0)
        return; /* tenths */
    memset(edges, 0, sizeof *edges);
    edges->count = 1 + (uint32_t)rng_below(&rng, POLICY_EDGES_MAX);
    for (uint32_t e = 0; e < edges->count; e++) {
        least += (1 - least) * (0.01 + random_real(0.1));
        edges->at[e] = e + 1 == edges->count && rng_below(&rng, 2) == 0 ? 1 : least;
    }
}

static void random_rows(struct policy_options *p)
{
    uint32_t knob = 0;
    random_edges(&p->curve_edges);
    random_edges(&p->chance_edges);
    p->limits_count = 1 + (uint32_t)rng_below(&rng, POLICY_ROWS_MAX);
    p->curve_count = 1 + (uint32_t)rng_below(&rng, POLICY_ROWS_MAX);
    p->chance_count = 1 + (uint32_t)rng_below(&rng, POLICY_ROWS_MAX);
    for (uint32_t i = 0; i < POLICY_ROWS_MAX; i++) {
        knob += 1 + (uint32_t)rng_below(&rng, 9);
        p->limits[i] = (struct policy_limits_row){.knob = knob};
        p->limits[i].limits.used = 1 + (uint32_t)rng_below(&rng, 15);
        for (uint32_t s = 0; s < CERTAINDEX_SIGNALS; s++)
            if (p->limits[i].limits.used & 1u << s)
                p->limits[i].limits.above[s] = random_real(1);
        p->curve[i].knob = p->chance[i].knob = knob;
        for (uint32_t b = 0; b <= p->curve_edges.count; b++)
            p->curve[i].total[b] = (uint32_t)rng_below(&rng, 1u << 24);
        for (uint32_t b = 0; b <= p->chance_edges.count; b++)
            p->chance[i].chance[b] = random_real(1);
    }
    p->detect = knob + (uint32_t)rng_below(&rng, 100);
}

static void a_written_profile_reads_back_to_the_same_bits(void **state)
{
    char text[TEXT_BYTES], again[TEXT_BYTES], message[PROFILE_MESSAGE_BYTES] = "";
    (void)state;
    for (uint32_t round = 0; round < 300; round++) {
        struct profile out, back;
        profile_builtin(round % profile_builtin_count(), &out);
        if (round >= profile_builtin_count()) {
            random_rows(&out.policy);
            out.policy.kind = (enum policy_kind)rng_below(&rng, POLICY_KINDS);
            out.policy.posterior = random_real(1);
            out.policy.give_up_below = random_real(1);
            out.policy.length_tokens = rng_below(&rng, 1000000000);
            out.policy.probe.growth = random_real(10);
            out.risk.lost_points = random_real(1) - 0.5;
            out.risk.problems_count = (uint32_t)rng_next(&rng);
        }
        text_of(&out, text);
        CHECK(read_text(text, strlen(text), &back, message) == 0, "%s\n%s", message, text);
        text_of(&back, again);
        assert_string_equal(text, again);
        assert_true(back.policy.probe.growth == out.policy.probe.growth);
        for (uint32_t i = 0; i < out.policy.limits_count; i++)
            for (uint32_t s = 0; s < CERTAINDEX_SIGNALS; s++)
                assert_true(back.policy.limits[i].limits.above[s] ==
                            out.policy.limits[i].limits.above[s]);
        assert_memory_equal(&back.policy.curve_edges, &out.policy.curve_edges,
                            sizeof out.policy.curve_edges);
        assert_memory_equal(&back.policy.chance_edges, &out.policy.chance_edges,
                            sizeof out.policy.chance_edges);
        assert_int_equal(back.policy.curve_count, out.policy.curve_count);
        for (uint32_t i = 0; i < out.policy.curve_count; i++)
            assert_true(memcmp(&back.policy.curve[i], &out.policy.curve[i],
                               sizeof out.policy.curve[i]) == 0);
        for (uint32_t i = 0; i < out.policy.chance_count; i++)
            assert_true(memcmp(&back.policy.chance[i], &out.policy.chance[i],
                               sizeof out.policy.chance[i]) == 0);
    }
}

static void edges_are_written_where_they_are_not_tenths(void **state)
{
    char text[TEXT_BYTES], message[PROFILE_MESSAGE_BYTES], got[PROFILE_LINE_BYTES];
    struct profile p;
    (void)state;
    profile_default(&p);
    assert_int_equal(profile_get(&p, "curve.edges", got, sizeof got), 0);
    assert_string_equal(got, "0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9 1");
    assert_int_equal(profile_set(&p, "curve.5", "11 10 9 8 7 6 5 4 3 2 1", message), 0);
    text_of(&p, text);
    assert_null(strstr(text, "edges"));
    /* They may move below their rows, and not become fewer. */
    assert_int_equal(profile_set(&p, "curve.edges", "0.045 1", message), -EINVAL);
    assert_string_equal(message, "[curve] edges = 0.045 1: accepted 10 to 10 ascending numbers "
                                 "above 1e-09 and at most 1, more than that apart, one less than "
                                 "the rows have");
    assert_int_equal(
        profile_set(&p, "curve.edges", "0.01 0.02 0.03 0.04 0.05 0.06 0.07 0.08 0.09 1", message),
        0);
    text_of(&p, text);
    assert_non_null(strstr(text, "\n[curve]\nedges = 0.01 0.02 0.03 0.04 0.05 0.06 0.07 0.08 "
                                 "0.09 1\n5 = 11 10 9 8 7 6 5 4 3 2 1\n"));
    assert_true(policy_bin(&p.policy.curve_edges, 0.095) == 9);
    assert_int_equal(
        profile_set(&p, "curve.edges", "2e-9 4e-9 0.03 0.04 0.05 0.06 0.07 0.08 0.09 1", message),
        0);
    assert_true(policy_bin(&p.policy.curve_edges, 0) == 0); /* or none would be in the first bin */
    profile_default(&p);
    assert_int_equal(profile_set(&p, "chance.edges", " 0.045  1 ", message), 0);
    assert_int_equal(profile_set(&p, "chance.5", "0 0.5 1", message), 0);
    assert_int_equal(profile_set(&p, "chance.6", "0 0.5", message), -EINVAL);
    assert_string_equal(message, "[chance] 6 = 0 0.5: accepted 3 numbers of 0 to 1");
    text_of(&p, text);
    assert_non_null(strstr(text, "\n[chance]\nedges = 0.045 1\n5 = 0 0.5 1\n"));
    assert_null(strstr(text, "[curve]"));
    assert_int_equal(profile_get(&p, "certainty.edges", got, sizeof got), -ENOENT);
}

static void every_value_can_be_got_and_set(void **state)
{
    char text[TEXT_BYTES], message[PROFILE_MESSAGE_BYTES], section[32] = "";
    uint32_t values = 0;
    (void)state;
    struct profile from, to;
    assert_int_equal(profile_find("rebase-gsm8k", &from), 0);
    profile_default(&to);
    text_of(&from, text);
    /* The file's own lines are the names. Rows first, so that the kind has its threshold. */
    for (int pass = 0; pass < 2; pass++) {
        for (const char *line = text; *line != '\0'; line += strcspn(line, "\n") + 1) {
            char name[96], key[64], value[128], got[128];
            if (sscanf(line, "[%31[^]]", section) == 1 || line[0] == '#' || line[0] == '\n')
                continue;
            if (sscanf(line, "%63[^ ] = %127[^\n]", key, value) != 2)
                continue;
            (void)snprintf(name, sizeof name, "%s.%s", section, key);
            assert_int_equal(profile_get(&from, name, got, sizeof got), 0);
            assert_string_equal(got, value);
            if ((strcmp(section, "certainty") == 0 || strcmp(section, "reward") == 0) !=
                (pass == 0))
                continue;
            if (strcmp(name, "policy.kind") == 0)
                assert_int_equal(profile_set(&to, "policy.detect", "16", message), 0);
            CHECK(profile_set(&to, name, value, message) == 0, "%s", message);
            values++;
        }
    }
    char again[TEXT_BYTES];
    text_of(&to, again);
    assert_string_equal(again, text);
    assert_true(values > 30);
    assert_int_equal(profile_get(&to, "policy.nothing", again, 8), -ENOENT);
    assert_int_equal(profile_get(&to, "certainty.7", again, 8), -ENOENT);
    assert_int_equal(profile_get(&to, "profile.name", again, 4), -ENOSPC);
}

/* ---- what is wrong ------------------------------------------------------------------------------ */

static const struct {
    const char *text;
    const char *message;
} wrong[] = {
    {"[policy]\ndetect = 0\n",
     "p.ini:2: [policy] detect = 0: accepted a whole number, 1 to 16777216"},
    {"[policy]\ndetect = 5x\n",
     "p.ini:2: [policy] detect = 5x: accepted a whole number, 1 to 16777216"},
    {"\n# c\n[policy]\nposterior = 1.5\n",
     "p.ini:4: [policy] posterior = 1.5: accepted a number, 0 to 1"},
    {"[policy]\nposterior = -0.1\n",
     "p.ini:2: [policy] posterior = -0.1: accepted a number, 0 to 1"},
    {"[policy]\nposterior = nan\n", "p.ini:2: [policy] posterior = nan: accepted a number, 0 to 1"},
    {"[policy]\nkind = best\n",
     "p.ini:2: [policy] kind = best: accepted even | length | static | k_step | curve_once | "
     "curve_each_step | esc | adaptive_consistency | deepconf | m_of_n | probe | give_up"},
    {"[policy]\nkind = k_step | curve_once\n", "p.ini:2: [policy] kind = k_step | curve_once: "},
    {"[policy]\nthreshold = 1\n", "p.ini:2: [policy] threshold: no such key"},
    {"[polcy]\n", "p.ini:1: [polcy]: accepted sections are profile, policy, probe, risk, "},
    {"[policy\n", "p.ini:1: [policy: accepted [section] or key = value"},
    {"detect = 5\n", "p.ini:1: detect = 5: accepted keys below a [section]"},
    {"[policy]\ndetect\n", "p.ini:2: detect: accepted [section] or key = value"},
    {"[policy]\ndetect = 5\ndetect = 5\n", "p.ini:3: [policy] detect: accepted once"},
    {"[certainty]\n5 = 0.5\n05 = 0.6\n", "p.ini:3: [certainty] 05: accepted once"},
    {"[certainty]\n5 = 1.01\n", "p.ini:2: [certainty] 5 = 1.01: accepted 1 numbers of 0 to 1"},
    {"[certainty]\nn = 0.5\n", "p.ini:2: [certainty] n: accepted keys are knobs, 1 to 16777216"},
    {"[curve]\n5 = 1 2 3\n", "p.ini:2: [curve] 5 = 1 2 3: accepted 11 whole numbers of 0 to "},
    {"[curve]\nedges = 0 0.5\n", "p.ini:2: [curve] edges = 0 0.5: accepted 1 to 31 ascending "
                                 "numbers above 1e-09 and at most 1, more than that apart"},
    {"[curve]\nedges = 1e-9 0.5\n", "p.ini:2: [curve] edges = 1e-9 0.5: accepted 1 to 31 "},
    {"[curve]\nedges = 0.5 0.5000000005\n",
     "p.ini:2: [curve] edges = 0.5 0.5000000005: accepted 1 to 31 "},
    {"[curve]\nedges = 0.5 0.5\n", "p.ini:2: [curve] edges = 0.5 0.5: accepted 1 to 31 "},
    {"[curve]\nedges = 0.5 0.4\n", "p.ini:2: [curve] edges = 0.5 0.4: accepted 1 to 31 "},
    {"[chance]\nedges = 0.5 1.1\n", "p.ini:2: [chance] edges = 0.5 1.1: accepted 1 to 31 "},
    {"[chance]\nedges = 0.5 x\n", "p.ini:2: [chance] edges = 0.5 x: accepted 1 to 31 "},
    {"[chance]\nedges =\n", "p.ini:2: [chance] edges = : accepted 1 to 31 "},
    {"[curve]\nedges = .01 .02 .03 .04 .05 .06 .07 .08 .09 .1 .11 .12 .13 .14 .15 .16 .17 .18 "
     ".19 .2 .21 .22 .23 .24 .25 .26 .27 .28 .29 .3 .31 .32\n",
     "p.ini:2: [curve] edges = .01 .02 "},
    {"[curve]\nedges = 0.5\nedges = 0.5\n", "p.ini:3: [curve] edges: accepted once"},
    {"[curve]\nedges = 0.5\n5 = 1 2 3\n",
     "p.ini:3: [curve] 5 = 1 2 3: accepted 2 whole numbers of 0 to 16777216"},
    {"[curve]\nedge = 0.5\n",
     "p.ini:2: [curve] edge: accepted keys are knobs, 1 to 16777216, and edges"},
    {"[reward]\nedges = 0.5\n", "p.ini:2: [reward] edges: accepted keys are knobs, 1 to 16777216"},
    {"[profile]\nname = a b\n", "p.ini:2: [profile] name = a b: accepted 1 to 47 characters"},
    {"[policy]\nkind = static\n",
     "p.ini: [policy] kind = static: needs a threshold ([certainty], [reward], [agreement] or "
     "[confidence]) for the knob detect = 5 or a lower one"},
    {"[policy]\nkind = static\n[certainty]\n6 = 0.7\n", "p.ini: [policy] kind = static: needs "},
    {"[policy]\nkind = curve_once\n", "p.ini: [policy] kind = curve_once: needs a [curve] "},
    {"[policy]\ngive_up_below = 0.1\n", "p.ini: [policy] give_up_below: needs a [chance] table"},
};

static void what_is_wrong_is_named_with_its_line_and_range(void **state)
{
    char message[PROFILE_MESSAGE_BYTES], before[TEXT_BYTES], after[TEXT_BYTES];
    struct profile p;
    (void)state;
    assert_int_equal(profile_find("sc-math", &p), 0);
    text_of(&p, before);
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        int rc = read_text(wrong[i].text, strlen(wrong[i].text), &p, message);
        CHECK(rc == -EINVAL && strncmp(message, wrong[i].message, strlen(wrong[i].message)) == 0,
              "case %zu: %d %s", i, rc, message);
        text_of(&p, after);
        assert_string_equal(before, after);
    }
    char line[PROFILE_LINE_BYTES + 64];
    memset(line, '#', sizeof line);
    assert_int_equal(read_text(line, sizeof line, &p, message), -EINVAL);
    assert_int_equal(read_text("[policy]\0\ndetect = 7\n", 21, &p, message), -EINVAL);
    assert_int_equal(profile_set(&p, "policy.detect", "2", message), -EINVAL); /* row is at 5 */
    assert_int_equal(profile_set(&p, "detect", "2", message), -EINVAL);
    text_of(&p, after);
    assert_string_equal(before, after);
    assert_int_equal(profile_load("/nowhere/p.ini", &p, message), -ENOENT);
    assert_string_equal(message, "/nowhere/p.ini: No such file or directory");
}

static void too_many_rows_are_refused(void **state)
{
    char message[PROFILE_MESSAGE_BYTES], name[32];
    struct profile p;
    (void)state;
    profile_default(&p);
    for (uint32_t i = 0; i < POLICY_ROWS_MAX; i++) {
        /* From the last to the first: rows are kept in order of their knobs. */
        (void)snprintf(name, sizeof name, "certainty.%u", 100 - i);
        assert_int_equal(profile_set(&p, name, "0.5", message), 0);
    }
    for (uint32_t i = 1; i < POLICY_ROWS_MAX; i++)
        assert_true(p.policy.limits[i - 1].knob < p.policy.limits[i].knob);
    assert_int_equal(profile_set(&p, "certainty.5", "0.5", message), -EINVAL);
    assert_string_equal(message, "[certainty] 5: accepted at most 32 knobs");
    assert_int_equal(profile_set(&p, "reward.100", "0.5", message), 0); /* joins a row */
    assert_int_equal(p.policy.limits_count, POLICY_ROWS_MAX);
}

/* A decision is where a bad profile would abort. */
static void damaged_files_never_give_a_profile_that_cannot_run(void **state)
{
    char text[TEXT_BYTES], message[PROFILE_MESSAGE_BYTES];
    uint32_t accepted = 0;
    uint32_t answers[] = {0, 1, 0, 0, 0, 1, 0, 0}, counts[8];
    (void)state;
    for (uint32_t round = 0; round < 20000; round++) {
        struct profile p;
        profile_builtin((uint32_t)rng_below(&rng, profile_builtin_count()), &p);
        if (round % 4 == 0) {
            (void)profile_set(&p, "curve.edges", "0.045 0.25 1", message);
            (void)profile_set(&p, "curve.1", "9 8 7 6", message);
            p.policy.kind = POLICY_CURVE_EACH_STEP;
        }
        text_of(&p, text);
        size_t bytes = strlen(text);
        for (uint64_t hits = 1 + rng_below(&rng, 3); hits > 0; hits--)
            text[rng_below(&rng, bytes)] = "0123456789=[]#.\n -ex\0z"[rng_below(&rng, 22)];
        if (read_text(text, bytes, &p, message) != 0) {
            assert_true(strncmp(message, "p.ini", 5) == 0);
            continue;
        }
        accepted++;
        for (uint32_t n = 0; n <= 8; n++) {
            struct policy_view view = {.knob_done = n,
                                       .knob_cap = 30,
                                       .answers_count = n,
                                       .answers = answers,
                                       .counts = counts};
            view.groups_count = certaindex_count(answers, n, 2, true, counts);
            struct policy_decision d = policy_decide(&p.policy, &view);
            assert_true(d.verdict != POLICY_CONTINUE || (d.knob > n && d.knob <= 30));
        }
    }
    assert_true(accepted > 500);
}

/* ---- the run log -------------------------------------------------------------------------------- */

static void a_run_log_line_reads_back(void **state)
{
    char text[4096] = "", message[RUNLOG_MESSAGE_BYTES];
    struct runlog_row row, back;
    struct runlog_layout layout;
    (void)state;
    runlog_row_init(&row);
    row.problem = "words-17";
    row.program = "17/3";
    row.algorithm = "sc";
    row.answer = "1,2\tand\n3";
    row.n = 4;
    row.tokens = 1ull << 40;
    row.right = 1;
    row.reward = 0.25;
    row.logprob = -1.5;
    row.hesitant = true;
    row.probe_tokens = 20;
    FILE *file = fmemopen(text, sizeof text, "w");
    assert_int_equal(runlog_write_header(file), 0);
    assert_int_equal(runlog_write(file, &row), 0);
    assert_int_equal(fclose(file), 0);
    char *second = strchr(text, '\n') + 1;
    second[-1] = '\0';
    assert_int_equal(runlog_parse_header(text, &layout, message), 0);
    assert_int_equal(layout.fields_count, RUNLOG_COLUMNS);
    assert_int_equal(runlog_parse(&layout, second, &back, message), 0);
    assert_string_equal(back.problem, "words-17");
    assert_string_equal(back.answer, "1,2 and 3");
    assert_string_equal(back.level, "");
    assert_int_equal(back.n, 4);
    assert_true(back.tokens == row.tokens && back.reward == 0.25 && back.logprob == -1.5);
    assert_true(isnan(back.entropy) && isnan(back.confidence));
    assert_true(back.right == 1 && back.right_now == RUNLOG_UNKNOWN && back.hesitant);
    assert_int_equal(back.probe_tokens, 20);
}

static void a_bad_run_log_is_refused_by_column(void **state)
{
    static const char header[] = "answer,n,problem,program,algorithm,tokens,right,other";
    static const struct {
        const char *line;
        const char *message; /* NULL: good */
    } cases[] = {
        {"a,1,p,q,sc,10,1,x", NULL},
        {",1,p,q,sc,10,,", NULL},
        {"a,0,p,q,sc,10,1,x", "n = 0: accepted 1 or more"},
        {"a,1,p,q,sc,,1,x", "tokens = : accepted a whole number, 0 to 281474976710656"},
        {"a,1,p,q,sc,-3,1,x", "tokens = -3: accepted a whole number, 0 to 281474976710656"},
        {"a,1,p,q,sc,10,2,x", "right = 2: accepted a whole number, 0 to 1"},
        {"a,1,p,q,sc,10,1", "7 fields: accepted 8, as in the header"},
        {"a,1,p,q,sc,10,1,x,y", "more than 8 fields: accepted as many as in the header"},
    };
    char line[256], message[RUNLOG_MESSAGE_BYTES];
    struct runlog_layout layout;
    struct runlog_row row;
    (void)state;
    memcpy(line, header, sizeof header);
    assert_int_equal(runlog_parse_header(line, &layout, message), 0);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        memcpy(line, cases[i].line, strlen(cases[i].line) + 1);
        int rc = runlog_parse(&layout, line, &row, message);
        assert_int_equal(rc, cases[i].message != NULL ? -EINVAL : 0);
        if (cases[i].message != NULL)
            assert_string_equal(message, cases[i].message);
    }
    (void)snprintf(line, sizeof line, "problem\tprogram\tn\ttokens\tanswer");
    assert_int_equal(runlog_parse_header(line, &layout, message), -EINVAL);
    assert_string_equal(message, "column algorithm is missing");
    (void)snprintf(line, sizeof line, "n\tn");
    assert_int_equal(runlog_parse_header(line, &layout, message), -EINVAL);
    assert_string_equal(message, "column n: accepted once");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_published_rows_are_built_in),
        cmocka_unit_test(a_written_profile_reads_back_to_the_same_bits),
        cmocka_unit_test(edges_are_written_where_they_are_not_tenths),
        cmocka_unit_test(every_value_can_be_got_and_set),
        cmocka_unit_test(what_is_wrong_is_named_with_its_line_and_range),
        cmocka_unit_test(too_many_rows_are_refused),
        cmocka_unit_test(damaged_files_never_give_a_profile_that_cannot_run),
        cmocka_unit_test(a_run_log_line_reads_back),
        cmocka_unit_test(a_bad_run_log_is_refused_by_column),
    };
    rng.state = check_number("SEED", 1);
    printf("SEED=%" PRIu64 "\n", rng.state);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
