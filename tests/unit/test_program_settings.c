/* tests/unit/test_program_settings.c: what is set of a program, by its client when it is submitted and by an
 * administrator while it runs: a value of its profile that changes is what its next decision is made with, and no
 * decision before. On a scheduler that makes up tokens (made_up.h), so that the moment of the change can be any. */
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/program/program.h"
#include "tests/unit/made_up.h"

#define CAP 16u
#define TURNS_MAX 500u

static struct observed ring[CAP];
static struct observer answers; /* that were counted, a decision's together */

struct host {
    struct rig rig;
    struct programs *programs;
};

/* Letters, of which each sample has another number, and the same digit. */
static uint32_t write_sevens(const struct seq *q, uint32_t position)
{
    uint32_t letters = 2 + rng_u32(q->args.seed, q->args.branch, 1) % 9;
    return position < letters ? 'a' : position == letters ? '7' : END;
}

static void host_open(struct host *h)
{
    static struct codec *codec;
    if (!codec)
        codec = codec_make();
    write_token = write_sevens;
    answers = (struct observer){.ring = ring, .size = CAP};
    rig_open_with(&h->rig, codec, 1, 0, 0);
    assert_int_equal(programs_new(&(struct programs_config){.programs_max = 4,
                                                            .branches_max = BRANCHES_MAX,
                                                            .context_tokens = CONTEXT,
                                                            .prompt_bytes_max = 4096,
                                                            .codec = codec,
                                                            .policy = h->rig.sched[0],
                                                            .reward = h->rig.sched[1],
                                                            .observer = &answers},
                                  &h->programs),
                     0);
}

static void host_close(struct host *h)
{
    programs_free(h->programs);
    rig_close(&h->rig);
}

static struct program_spec spec_of(uint32_t algorithm, const struct program_setting *setting)
{
    static const char prompt[] = "how much?";
    static const struct answer_rule number = {.kind = ANSWER_NUMBER};
    return (struct program_spec){.sampling = {.temperature = 1, .repetition_penalty = 1},
                                 .prompt = (const uint8_t *)prompt,
                                 .prompt_bytes = sizeof prompt - 1,
                                 .seed = 5,
                                 .algorithm = algorithm,
                                 .streams = DYNASOR_STREAM_RESULT,
                                 .max_tokens = 40,
                                 .settings = setting,
                                 .settings_count = 1,
                                 .answer = &number};
}

static void change(struct host *h, const char *key, const char *value)
{
    char why[PROFILE_MESSAGE_BYTES] = "";
    CHECK(profiles_set(programs_profiles(h->programs), key, value, why) == 0, "%s", why);
}

struct ended {
    uint32_t knob;
    enum run_verdict verdict;
    uint32_t turns;
    uint32_t counted; /* answers, when the value was changed: the last decision was on them */
};

/* SC that reads at 2 samples, 4, and so on, and by its threshold never stops; in turn change_at key becomes value. */
static struct ended run_with(uint32_t change_at, const char *key, const char *value)
{
    const struct program_setting cap = {DYNASOR_PARAMETER_CAP, CAP};
    const struct program_spec spec = spec_of(DYNASOR_ALGORITHM_SC, &cap);
    struct host h;
    struct ended e = {0};
    host_open(&h);
    change(&h, "sc-math.certainty.2", "1");
    change(&h, "sc-math.certainty.5", "1");
    change(&h, "sc-math.policy.detect", "2");
    change(&h, "sc-math.policy.step", "2");
    change(&h, "sc-math.policy.kind", "k_step");
    assert_int_equal(program_check(h.programs, &spec).status, DYNASOR_OK);
    uint32_t handle = program_submit(h.programs, &spec);
    const struct program_view *v = program_view(h.programs, handle);
    for (; v->state < DYNASOR_STATE_DONE; e.turns++) {
        CHECK(e.turns < TURNS_MAX, "it does not end");
        if (e.turns == change_at) {
            change(&h, key, value);
            e.counted = (uint32_t)answers.put;
        }
        (void)programs_poll(h.programs, 1 + e.turns);
    }
    assert_int_equal(v->state, DYNASOR_STATE_DONE);
    e.knob = v->result.knob;
    e.verdict = v->result.verdict;
    program_free(h.programs, handle);
    host_close(&h);
    return e;
}

static void settings_a_changed_threshold_is_what_the_next_decision_uses(void **state)
{
    (void)state;
    struct ended whole = run_with(UINT32_MAX, NULL, NULL);
    assert_int_equal(whole.knob, CAP);
    assert_int_equal(whole.verdict, RUN_CAPPED);
    uint32_t seen = 0;
    for (uint32_t turn = 0; turn < whole.turns; turn++) {
        struct ended e = run_with(turn, "sc-math.certainty.2", "0.5");
        /* Rows by knob: that of 5 still says never, so the change is for the readings at 2 and 4. */
        uint32_t next = e.counted + 2;
        bool stops = next < 5;
        CHECK(e.knob == (stops ? next : CAP) && e.verdict == (stops ? RUN_SETTLED : RUN_CAPPED),
              "changed in turn %u behind a decision on %u: knob %u", turn, e.counted, e.knob);
        e = run_with(turn, "sc-math.certainty.5", "0.5");
        next = e.counted < 4 ? 6 : e.counted + 2;
        CHECK(e.knob == next && (next == CAP || e.verdict == RUN_SETTLED),
              "changed in turn %u behind a decision on %u: knob %u", turn, e.counted, e.knob);
        seen |= 1u << e.knob;
    }
    assert_int_equal(seen, 1u << 6 | 1u << 8 | 1u << 10 | 1u << 12 | 1u << 14 | 1u << 16);
}

/* Another profile's value, and which one is the default, are not this program's any more. */
static void settings_of_another_profile_change_no_decision(void **state)
{
    (void)state;
    for (uint32_t turn = 0; turn < 60; turn += 3) {
        assert_int_equal(run_with(turn, "sc-gsm8k.certainty.5", "0").knob, CAP);
        if (turn > 0) /* it has begun */
            assert_int_equal(run_with(turn, "default.sc", "esc").knob, CAP);
    }
}

static void settings_prior_is_refused_by_name_and_range(void **state)
{
    (void)state;
    static const double wrong[] = {-1, 3, 0.5};
    struct host h;
    host_open(&h);
    for (uint32_t i = 0; i < 3; i++) {
        const struct program_setting prior = {DYNASOR_PARAMETER_PRIOR, i};
        struct program_spec spec = spec_of(DYNASOR_ALGORITHM_MCTS, &prior);
        assert_int_equal(program_check(h.programs, &spec).status, DYNASOR_OK);
        spec = spec_of(DYNASOR_ALGORITHM_REBASE, &prior);
        assert_int_equal(program_check(h.programs, &spec).status, DYNASOR_E_UNSUPPORTED);
        const struct program_setting bad = {DYNASOR_PARAMETER_PRIOR, wrong[i]};
        spec = spec_of(DYNASOR_ALGORITHM_MCTS, &bad);
        struct program_refusal no = program_check(h.programs, &spec);
        assert_int_equal(no.status, DYNASOR_E_INVALID);
        assert_int_equal(no.field, DYNASOR_FIELD_PRIOR);
        assert_int_equal(no.least, 0);
        assert_int_equal(no.max, 2);
    }
    host_close(&h);
    struct parameters p;
    parameters_default(DYNASOR_ALGORITHM_MCTS, &p);
    assert_int_equal(parameter_whole(&p, DYNASOR_PARAMETER_PRIOR), MCTS_PRIOR_MEAN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(settings_a_changed_threshold_is_what_the_next_decision_uses),
        cmocka_unit_test(settings_of_another_profile_change_no_decision),
        cmocka_unit_test(settings_prior_is_refused_by_name_and_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
