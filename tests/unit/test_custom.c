/* timeout: 120 */
/* tests/unit/test_custom.c: programs whose client decides, on a real engine with tiny models and freed pages
 * poisoned. Branches say what the samples of `sc` say with the same seed, whenever the commands come and in
 * however many pieces; forks behind an earlier token do not depend on how far their parent has got; each field
 * of each command is refused by name, and what was refused changes nothing; notes are whole and in order. */
#include <math.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/program/algorithms.h"
#include "daemon/program/custom.h"
#include "daemon/program/profile.h"
#include "tests/lib/check.h"
#include "tests/lib/tiny.h"

#define CONTEXT 160u
#define BRANCHES_MAX 64u
#define RUNS_MAX 4u
#define MAX_TOKENS 60u
#define PROMPT_TOKENS 33u
#define CAP 9u
#define END 300u
#define ROOM_TOKENS 20u

struct rig {
    char *folder[2];
    struct engine *engine;
    struct sched *sched[2];
    struct runs *runs;
    struct customs *customs;
    struct run *run;
    struct run_texts texts;
    uint32_t notes[3];    /* by kind */
    uint32_t next[CAP];   /* position of the next token */
    uint32_t states[CAP]; /* of the last note */
    struct dynasor_branch told[CAP];
    char text[CAP][4 * MAX_TOKENS];
    uint32_t text_bytes[CAP];
    bool ready;
};

/* Ends of lines and the end are made likely. */
static const struct ops_bias biases[] = {{'\n', 3.5f}, {END, 3.5f}};
static const uint32_t end_token = END;
static struct profile even;

static void rig_open(struct rig *r)
{
    char message[ENGINE_MESSAGE_BYTES] = "";
    struct engine_config config = {.ranks_count = 1,
                                   .threads_count = 1,
                                   .cpu_level = -1,
                                   .rows_max = 8,
                                   .tokens_max = 64,
                                   .context_tokens = CONTEXT,
                                   .kv_bytes = 1u << 22,
                                   .dot_layer = -1};
    *r = (struct rig){.folder = {tiny_write(TINY_LLAMA, 5), tiny_write(TINY_REWARD, 6)}};
    config.directory[ENGINE_POLICY] = r->folder[0];
    config.directory[ENGINE_REWARD] = r->folder[1];
    CHECK(engine_open(&config, message, &r->engine) == 0, "%s", message);
    for (uint32_t m = 0; m < 2; m++)
        assert_int_equal(sched_new(&(struct sched_config){.role = m ? ENGINE_REWARD : ENGINE_POLICY,
                                                          .seqs_max = BRANCHES_MAX + RUNS_MAX,
                                                          .groups_max = RUNS_MAX,
                                                          .rows_max = 8,
                                                          .tokens_max = 64,
                                                          .poison = true},
                                   r->engine, &r->sched[m]),
                         0);
    assert_int_equal(runs_new(&(struct runs_config){.runs_max = RUNS_MAX,
                                                    .branches_max = BRANCHES_MAX,
                                                    .context_tokens = CONTEXT,
                                                    .policy = r->sched[0],
                                                    .reward = r->sched[1],
                                                    .texts = &r->texts},
                              &r->runs),
                     0);
    assert_int_equal(customs_new(RUNS_MAX, NULL, &r->customs), 0);
}

static void rig_close(struct rig *r)
{
    if (r->run)
        run_stop(r->run);
    customs_free(r->customs);
    runs_free(r->runs);
    for (uint32_t m = 0; m < 2; m++) {
        struct sched_stats stats;
        sched_stats(r->sched[m], &stats);
        assert_int_equal(stats.kv_pages_used + stats.kv_pages_reserved, 0);
        sched_free(r->sched[m]);
        tiny_remove(r->folder[m]);
    }
    engine_close(r->engine);
}

static void notes_take(struct rig *r)
{
    struct program_note note;
    while (run_result(r->run)->end == RUN_GOES_ON && custom_note(r->customs, 0, r->run, &note)) {
        uint32_t b = note.branch, count = note.count > 3 ? 3 : note.count; /* in pieces */
        r->notes[note.kind]++;
        if (b == RUN_NONE) {
            assert_int_equal(note.state.path_tokens, PROMPT_TOKENS);
            r->ready = true;
        } else if (note.kind == PROGRAM_NOTE_TOKENS) {
            const struct branch *at = run_get(r->run, b);
            uint32_t more;
            assert_int_equal(note.position, r->next[b]);
            for (uint32_t i = 0; i < count; i++)
                assert_int_equal(note.tokens[i],
                                 *run_path(r->run, b,
                                           at->path_tokens - at->tokens_count + r->next[b] + i,
                                           &more));
            r->next[b] += count;
        } else if (note.kind == PROGRAM_NOTE_TEXT) {
            assert_int_equal(note.position, r->text_bytes[b]);
            memcpy(r->text[b] + r->text_bytes[b], note.text, count);
            r->text_bytes[b] += count;
        } else {
            r->told[b] = note.state;
        }
        custom_noted(r->customs, 0, r->run, &note, count);
    }
}

/* False: nothing goes on. */
static bool turn(struct rig *r)
{
    uint32_t user, work = runs_poll(r->runs, 0);
    while (runs_news(r->runs, &user))
        work++;
    if (work || runs_due_ns(r->runs) == 0)
        return true;
    if (run_rests(r->run))
        return false;
    int fds[RUNS_FDS];
    runs_fds(r->runs, fds);
    struct pollfd fd = {.fd = fds[0], .events = POLLIN};
    return poll(&fd, 1, 5000) == 1;
}

static void rest(struct rig *r)
{
    do {
        CHECK(turn(r) || run_rests(r->run), "nothing goes on");
        notes_take(r);
    } while (!run_rests(r->run));
    (void)turn(r);
    notes_take(r);
}

static void program_begin(struct rig *r, uint32_t algorithm, bool scores)
{
    static uint32_t prompt[PROMPT_TOKENS];
    struct parameters p;
    parameters_default(algorithm, &p);
    p.max_tokens = MAX_TOKENS;
    p.value[DYNASOR_PARAMETER_CAP] = algorithm == DYNASOR_ALGORITHM_CUSTOM ? CAP : 6;
    p.answer = (struct answer_rule){.kind = ANSWER_NUMBER};
    if (algorithm == DYNASOR_ALGORITHM_CUSTOM) {
        p.value[DYNASOR_PARAMETER_PROBE_TOKENS] = ROOM_TOKENS;
        p.value[DYNASOR_PARAMETER_SCORES] = scores;
    }
    for (uint32_t i = 0; i < PROMPT_TOKENS; i++)
        prompt[i] = (i * 37 + 5) % 250;
    custom_begin(r->customs, 0);
    assert_int_equal(
        runs_start(r->runs,
                   &(struct run_args){.algorithm = algorithm == DYNASOR_ALGORITHM_CUSTOM
                                                       ? custom_algorithm(&p)
                                                       : algorithm_get(algorithm),
                                      .parameters = p,
                                      .policy = &even.policy,
                                      .seed = 77,
                                      .sampling = {.temperature = 0.9f,
                                                   .top_p = 1,
                                                   .repetition = 1,
                                                   .bias_count = COUNT_OF(biases),
                                                   .forced_token = OPS_NONE},
                                      .biases = biases,
                                      .stop_tokens = (const uint8_t *)&end_token,
                                      .stop_tokens_count = 1},
                   prompt, PROMPT_TOKENS, &r->run),
        RUNS_OK);
    if (algorithm != DYNASOR_ALGORITHM_CUSTOM)
        return;
    while (!r->ready) {
        struct program_refusal no = custom_command(
            r->customs, 0, r->run,
            &(struct program_command){.command = DYNASOR_COMMAND_FORK, .parent = RUN_NONE});
        assert_int_equal(no.status, DYNASOR_E_AGAIN); /* and nothing is taken */
        assert_true(turn(r));
        notes_take(r);
    }
    assert_int_equal(run_branches_count(r->run), 0);
}

static struct program_refusal say(struct rig *r, const struct program_command *c)
{
    return custom_command(r->customs, 0, r->run, c);
}

#define SAY(...)                                                                                   \
    assert_int_equal(say(&r, &(struct program_command){__VA_ARGS__}).status, DYNASOR_OK)
#define FORK(n, from, ...)                                                                         \
    SAY(.command = DYNASOR_COMMAND_FORK, .branch = (n), .parent = (from), __VA_ARGS__)

static void path_copy(const struct rig *r, uint32_t branch, uint32_t *path, uint32_t *ret_count)
{
    uint32_t more;
    *ret_count = run_get(r->run, branch)->path_tokens;
    for (uint32_t i = 0; i < *ret_count; i++)
        path[i] = *run_path(r->run, branch, i, &more);
}

static void same_paths(const struct rig *a, uint32_t i, const struct rig *b, uint32_t j)
{
    uint32_t one[CONTEXT], two[CONTEXT], one_count, two_count;
    path_copy(a, i, one, &one_count);
    path_copy(b, j, two, &two_count);
    assert_int_equal(one_count, two_count);
    assert_memory_equal(one, two, one_count * sizeof one[0]);
}

static void custom_branches_say_what_the_samples_of_sc_say(void **state)
{
    (void)state;
    static struct rig sc, r, late;
    rig_open(&sc);
    program_begin(&sc, DYNASOR_ALGORITHM_SC, false);
    while (run_result(sc.run)->end == RUN_GOES_ON)
        assert_true(turn(&sc));
    rig_open(&r);
    program_begin(&r, DYNASOR_ALGORITHM_CUSTOM, false);
    for (uint32_t i = 0; i < 6; i++)
        FORK(i, RUN_NONE, .streams = 3);
    rest(&r);
    for (uint32_t i = 0; i < 6; i++) {
        uint32_t bytes;
        same_paths(&sc, i, &r, i);
        assert_int_equal(r.told[i].tokens_count, run_get(sc.run, i)->tokens_count);
        assert_int_equal(r.next[i], r.told[i].tokens_count);
        assert_true(r.told[i].state == DYNASOR_BRANCH_ENDED ||
                    r.told[i].state == DYNASOR_BRANCH_CUT);
        const char *text = run_text_own(r.run, i, &bytes);
        assert_int_equal(r.text_bytes[i], bytes);
        assert_memory_equal(r.text[i], text, bytes);
        assert_int_equal(r.told[i].text_bytes, bytes);
    }
    /* In pieces, taking turns, told in between. */
    uint32_t held = 6;
    rig_open(&late);
    program_begin(&late, DYNASOR_ALGORITHM_CUSTOM, false);
    for (uint32_t i = 0; i < 6; i++) {
        assert_int_equal(say(&late, &(struct program_command){.command = DYNASOR_COMMAND_FORK,
                                                              .branch = i,
                                                              .parent = RUN_NONE,
                                                              .streams = 3,
                                                              .tokens_max = 1 + i})
                             .status,
                         DYNASOR_OK);
        if (i % 2)
            rest(&late);
    }
    while (held) {
        held = 0;
        for (uint32_t i = 0; i < 6; i++) {
            if (late.told[i].state != DYNASOR_BRANCH_HELD)
                continue;
            assert_int_equal(say(&late, &(struct program_command){.command = DYNASOR_COMMAND_EXTEND,
                                                                  .branch = i,
                                                                  .tokens_max = 1 + i * i})
                                 .status,
                             DYNASOR_OK);
            held++;
        }
        rest(&late);
    }
    for (uint32_t i = 0; i < 6; i++) {
        same_paths(&sc, i, &late, i);
        assert_int_equal(late.next[i], r.next[i]);
        assert_int_equal(late.text_bytes[i], r.text_bytes[i]);
        assert_memory_equal(late.text[i], r.text[i], r.text_bytes[i]);
    }
    struct run_result result = *run_result(sc.run);
    SAY(.command = DYNASOR_COMMAND_FINISH, .branch = result.branch, .answer = result.answer,
        .verdict = DYNASOR_VERDICT_CAPPED);
    assert_int_equal(run_result(r.run)->verdict, result.verdict);
    assert_int_equal(run_cost(r.run)->decoded_tokens, run_cost(sc.run)->decoded_tokens);
    rig_close(&sc);
    rig_close(&r);
    rig_close(&late);
}

/* A fork behind the tenth token, while its parent runs, when it has ended, and of a dead one's sibling. */
static void custom_forks_do_not_depend_on_how_far_their_parent_is(void **state)
{
    (void)state;
    static struct rig r, late;
    uint32_t one[CONTEXT], count, parent[CONTEXT], parent_count;
    rig_open(&r);
    program_begin(&r, DYNASOR_ALGORITHM_CUSTOM, false);
    FORK(0, RUN_NONE, .tokens_max = 0);
    while (run_get(r.run, 0)->tokens_count < 6)
        assert_true(turn(&r));
    assert_false(run_settled(r.run, 0));
    FORK(1, 0, .parent_tokens = 5, .stops_at_step = true);
    rest(&r);
    FORK(2, 1, .parent_tokens = 1);
    rest(&r);
    rig_open(&late);
    program_begin(&late, DYNASOR_ALGORITHM_CUSTOM, false);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(say(&late, &(struct program_command){.command = DYNASOR_COMMAND_FORK,
                                                              .branch = i,
                                                              .parent = i == 0 ? RUN_NONE : i - 1,
                                                              .parent_tokens = i == 0   ? 0
                                                                               : i == 1 ? 5
                                                                                        : 1,
                                                              .stops_at_step = i == 1})
                             .status,
                         DYNASOR_OK);
        rest(&late);
        if (i == 2) /* its parent's room is gone */
            assert_int_equal(
                say(&late, &(struct program_command){.command = DYNASOR_COMMAND_KILL, .branch = 1})
                    .status,
                DYNASOR_OK);
        same_paths(&r, i, &late, i);
    }
    path_copy(&r, 0, parent, &parent_count);
    path_copy(&r, 1, one, &count);
    assert_memory_equal(one, parent, 5 * sizeof one[0]);
    path_copy(&r, 2, parent, &parent_count);
    assert_memory_equal(one, parent, 6 * sizeof one[0]);
    rig_close(&r);
    rig_close(&late);
}

static void custom_probes_and_scores(void **state)
{
    (void)state;
    static struct rig r, plain;
    static const char given[] = "so: {";
    rig_open(&plain);
    program_begin(&plain, DYNASOR_ALGORITHM_CUSTOM, false);
    assert_int_equal(
        say(&plain, &(struct program_command){.command = DYNASOR_COMMAND_FORK, .parent = RUN_NONE})
            .status,
        DYNASOR_OK);
    rest(&plain);
    rig_open(&r);
    program_begin(&r, DYNASOR_ALGORITHM_CUSTOM, true);
    FORK(0, RUN_NONE, .tokens_max = 4);
    rest(&r);
    SAY(.command = DYNASOR_COMMAND_GIVE, .text = (const uint8_t *)given, .text_bytes = 3);
    SAY(.command = DYNASOR_COMMAND_GIVE, .text = (const uint8_t *)given + 3,
        .text_bytes = sizeof given - 4);
    SAY(.command = DYNASOR_COMMAND_PROBE, .branch = 1, .parent = 0, .tokens_max = 7, .streams = 1);
    r.next[1] = sizeof given - 1; /* what it was given is its own, and not told */
    rest(&r);
    const struct branch *probe = run_get(r.run, 1);
    assert_int_equal(probe->given_tokens, sizeof given - 1);
    assert_int_equal(run_cost(r.run)->probe_tokens, probe->tokens_count - probe->given_tokens);
    assert_true(run_cost(r.run)->probe_tokens >= 1 && run_cost(r.run)->probe_tokens <= 7);
    SAY(.command = DYNASOR_COMMAND_EXTEND, .branch = 0);
    rest(&r);
    same_paths(&plain, 0, &r, 0); /* that it was probed changes nothing */
    uint64_t read = run_cost(r.run)->reward_tokens;
    assert_int_equal(read, PROMPT_TOKENS);
    SAY(.command = DYNASOR_COMMAND_SCORE, .branch = 0);
    rest(&r);
    assert_int_equal(r.told[0].scored, 1);
    assert_int_equal(run_cost(r.run)->reward_tokens - read, run_get(r.run, 0)->path_tokens);
    FORK(2, RUN_NONE, .wants_score = true);
    rest(&r);
    assert_int_equal(r.told[2].scored, 1);
    read = run_cost(r.run)->reward_tokens;
    SAY(.command = DYNASOR_COMMAND_SCORE, .branch = 2); /* it has one: told again, not read again */
    uint32_t notes = r.notes[PROGRAM_NOTE_BRANCH];
    rest(&r);
    assert_int_equal(r.notes[PROGRAM_NOTE_BRANCH], notes + 1);
    assert_int_equal(run_cost(r.run)->reward_tokens, read);
    SAY(.command = DYNASOR_COMMAND_REPORT, .signal = DYNASOR_SIGNAL_AGREEMENT, .value = 0.75f,
        .knob = 3);
    SAY(.command = DYNASOR_COMMAND_REPORT, .signal = DYNASOR_SIGNAL_REWARD, .value = 1, .knob = 4);
    SAY(.command = DYNASOR_COMMAND_KILL, .branch = 2);
    rest(&r);
    assert_int_equal(r.told[2].state, DYNASOR_BRANCH_DEAD);
    SAY(.command = DYNASOR_COMMAND_FINISH, .branch = 0, .answer = 1);
    const struct run_result *result = run_result(r.run);
    assert_int_equal(result->end, RUN_DONE);
    assert_int_equal(result->knob, 4);
    assert_int_equal(result->seen.known,
                     1u << DYNASOR_SIGNAL_AGREEMENT | 1u << DYNASOR_SIGNAL_REWARD);
    assert_true(fabs(result->seen.value[DYNASOR_SIGNAL_AGREEMENT] - 0.75) < 1e-9);
    rig_close(&r);
    rig_close(&plain);
}

struct wrong {
    struct program_command command;
    enum dynasor_field field;
    uint64_t least, max, got;
    bool begins; /* its number is taken */
};
#define C(name) .command = DYNASOR_COMMAND_##name
#define F(name) DYNASOR_FIELD_##name

/* Branches: 0 HELD at 4 tokens, 1 dead, 2 running. */
static void custom_each_field_is_refused_by_name(void **state)
{
    (void)state;
    const struct wrong wrong[] = {
        {{C(FORK), .branch = 4, .parent = RUN_NONE}, F(BRANCH), 3, 3, 4, false},
        {{C(FORK), .branch = 3, .parent = 3}, F(BRANCH), 0, 2, 3, true},
        {{C(FORK), .branch = 4, .parent = 1}, F(BRANCH_STATE), 2, 5, 6, true},
        {{C(FORK), .branch = 5, .parent = 2}, F(BRANCH_STATE), 2, 5, 1, true},
        {{C(FORK), .branch = 6, .parent = 0, .parent_tokens = 5}, F(BRANCH_TOKENS), 0, 4, 5, true},
        {{C(FORK), .branch = 7, .parent = RUN_NONE, .parent_tokens = 1},
         F(BRANCH_TOKENS),
         0,
         0,
         1,
         true},
        {{C(FORK), .branch = 8, .parent = RUN_NONE, .tokens_max = MAX_TOKENS + 1},
         F(BRANCH_TOKENS),
         0,
         MAX_TOKENS,
         MAX_TOKENS + 1,
         true},
        {{C(FORK), .branch = 9, .parent = RUN_NONE}, F(BRANCHES), 0, CAP, CAP + 1, false},
        {{C(EXTEND), .branch = 9}, F(BRANCH), 0, 8, 9, false},
        {{C(EXTEND), .branch = 1}, F(BRANCH_STATE), 2, 3, 6, false},
        {{C(EXTEND), .branch = 2}, F(BRANCH_STATE), 2, 3, 1, false},
        {{C(EXTEND), .branch = 0, .tokens_max = MAX_TOKENS + 1},
         F(BRANCH_TOKENS),
         0,
         MAX_TOKENS,
         MAX_TOKENS + 1,
         false},
        {{C(SCORE), .branch = 0}, F(SCORES), 1, 1, 0, false},
        {{C(KILL), .branch = UINT32_MAX}, F(BRANCH), 0, 8, UINT32_MAX, false},
        {{C(REPORT), .signal = DYNASOR_SIGNAL_COUNT}, F(SIGNAL), 0, 3, 4, false},
        {{C(REPORT), .value = 1.5f}, F(SIGNAL_VALUE), 0, 1000, 1500, false},
        {{C(REPORT), .value = -0.5f}, F(SIGNAL_VALUE), 0, 1000, 500, false},
        {{C(REPORT), .value = NAN}, F(SIGNAL_VALUE), 0, 1000, UINT64_MAX, false},
        {{C(FINISH), .verdict = DYNASOR_VERDICT_COUNT}, F(VERDICT), 0, 3, 4, false},
        {{C(FINISH), .branch = 2, .answer = 0}, F(BRANCH_STATE), 2, 5, 1, false},
        {{C(FINISH), .branch = 0, .answer = 1}, F(BRANCH_STATE), 2, 5, 6, false},
        {{C(FINISH), .branch = 0, .answer = 9}, F(BRANCH), 0, 8, 9, false},
    };
    static struct rig r;
    rig_open(&r);
    program_begin(&r, DYNASOR_ALGORITHM_CUSTOM, false);
    FORK(0, RUN_NONE, .tokens_max = 4);
    rest(&r);
    assert_int_equal(r.told[0].state, DYNASOR_BRANCH_HELD);
    FORK(1, RUN_NONE, .tokens_max = 4);
    SAY(.command = DYNASOR_COMMAND_KILL, .branch = 1);
    FORK(2, RUN_NONE, .tokens_max = 0);
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        uint32_t before = run_branches_count(r.run);
        struct program_refusal no = say(&r, &wrong[i].command);
        CHECK(no.status == DYNASOR_E_INVALID && no.field == wrong[i].field &&
                  no.least == wrong[i].least && no.max == wrong[i].max && no.got == wrong[i].got,
              "row %zu: status %d, field %d, %lu .. %lu, got %lu", i, (int)no.status, (int)no.field,
              (unsigned long)no.least, (unsigned long)no.max, (unsigned long)no.got);
        assert_int_equal(run_branches_count(r.run), before + wrong[i].begins);
        if (wrong[i].begins)
            assert_int_equal(run_get(r.run, before)->state, BRANCH_DEAD);
        assert_int_equal(run_result(r.run)->end, RUN_GOES_ON);
    }
    assert_int_equal(run_result(r.run)->seen.known, 0);
    rest(&r);
    assert_int_equal(run_get(r.run, 0)->tokens_count, 4);
    rig_close(&r);
}

static void custom_each_field_of_a_probe_is_refused_by_name(void **state)
{
    (void)state;
    static const uint8_t given[DYNASOR_GIVEN_BYTES_MAX + 1] = "12345678901234567890";
    static struct rig r;
    struct program_command give = {C(GIVE), .text = given, .text_bytes = 5};
    struct program_command probe = {C(PROBE), .parent = 0, .branch = 1, .tokens_max = 1};
    rig_open(&r);
    program_begin(&r, DYNASOR_ALGORITHM_CUSTOM, false);
    FORK(0, RUN_NONE, .tokens_max = 4);
    rest(&r);
#define PROBE(name, from, to, was)                                                                 \
    do {                                                                                           \
        struct program_refusal no = say(&r, &probe);                                               \
        assert_int_equal(no.field, F(name));                                                       \
        assert_int_equal(no.least, from);                                                          \
        assert_int_equal(no.max, to);                                                              \
        assert_int_equal(no.got, was);                                                             \
        probe.branch++;                                                                            \
    } while (0)
    PROBE(GIVEN_BYTES, 1, DYNASOR_GIVEN_BYTES_MAX, 0);
    assert_int_equal(say(&r, &give).status, DYNASOR_OK);
    probe.tokens_max = 0;
    PROBE(BRANCH_TOKENS, 1, ROOM_TOKENS - 5, 0);
    PROBE(GIVEN_BYTES, 1, DYNASOR_GIVEN_BYTES_MAX, 0); /* the text went with the refused one */
    assert_int_equal(say(&r, &give).status, DYNASOR_OK);
    probe.tokens_max = ROOM_TOKENS - 4;
    PROBE(BRANCH_TOKENS, 1, ROOM_TOKENS - 5, ROOM_TOKENS - 4);
    give.text_bytes = ROOM_TOKENS;
    assert_int_equal(say(&r, &give).status, DYNASOR_OK);
    probe.tokens_max = 1;
    PROBE(PROBE_TOKENS, 2, ROOM_TOKENS, ROOM_TOKENS + 1);
    give.text_bytes = DYNASOR_GIVEN_BYTES_MAX + 1;
    struct program_refusal many = say(&r, &give);
    assert_int_equal(many.field, DYNASOR_FIELD_GIVEN_BYTES);
    assert_int_equal(many.got, DYNASOR_GIVEN_BYTES_MAX + 1);
    probe.wants_score = true;
    PROBE(SCORES, 1, 1, 0);
    /* Those that were refused took no random numbers of branches. */
    static struct rig plain;
    rig_open(&plain);
    program_begin(&plain, DYNASOR_ALGORITHM_CUSTOM, false);
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(
            say(&plain, &(struct program_command){C(FORK), .branch = i, .parent = RUN_NONE}).status,
            DYNASOR_OK);
    FORK(probe.branch, RUN_NONE, .tokens_max = 0);
    rest(&plain);
    rest(&r);
    same_paths(&plain, 1, &r, probe.branch);
    rig_close(&plain);
    rig_close(&r);
}

int main(void)
{
    CHECK(profile_find("even", &even) == 0, "no profile");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(custom_branches_say_what_the_samples_of_sc_say),
        cmocka_unit_test(custom_forks_do_not_depend_on_how_far_their_parent_is),
        cmocka_unit_test(custom_probes_and_scores),
        cmocka_unit_test(custom_each_field_is_refused_by_name),
        cmocka_unit_test(custom_each_field_of_a_probe_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
