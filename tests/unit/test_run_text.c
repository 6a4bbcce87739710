/* tests/unit/test_run_text.c: what a program makes of its branches' text, on tokens that are made up: where a step
 * ends, by the token or by the text, against a search written apart, over characters in parts, forks behind a
 * parent's end, probes and ends in the middle; stop strings that a fork does not inherit from a probe; texts that
 * are too long keep their end; an answer that was there before is what it would be made again. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/program/ballot.h"
#include "tests/unit/made_up.h"

#define LENGTH 120u /* as far back as a fork behind its parent's end reads */

/* ---- whole programs ---------------------------------------------------------------------------------- */

/* A stop string that never comes makes every token's text be looked at, and changes nothing. */
static void text_steps_end_alike_by_token_and_by_text(void **state)
{
    (void)state;
    static const uint32_t trees[] = {DYNASOR_ALGORITHM_REBASE, DYNASOR_ALGORITHM_MCTS,
                                     DYNASOR_ALGORITHM_BEAM};
    static const char never[] = "\5~~~~~\3\n~~";
    static const char *const step_ends[] = {"\n", "e", "0"};
    uint64_t seed = check_number("SEED", now_ns());
    (void)printf("SEED=%" PRIu64 "\n", seed);
    write_token = write_anything;
    struct codec *codecs[] = {codec_make(), NULL};
    for (uint32_t trial = 0; trial < 90; trial++) {
        struct job job;
        struct outcome of[2];
        job_make(&job, trees[trial % 3], seed + trial, "even");
        set(&job,
            trees[trial % 3] == DYNASOR_ALGORITHM_BEAM ? DYNASOR_PARAMETER_WIDTH
                                                       : DYNASOR_PARAMETER_CAP,
            6);
        set(&job, DYNASOR_PARAMETER_DEPTH, 6);
        set(&job, DYNASOR_PARAMETER_STEP_TOKENS, 30);
        (void)snprintf(job.args.parameters.step_end, PARAMETER_STEP_END_BYTES, "%s",
                       step_ends[trial / 3 % 3]);
        for (uint32_t with = 0; with < 2; with++) {
            struct rig r;
            job.args.stops = (const uint8_t *)never;
            job.args.stops_bytes = with ? sizeof never - 1 : 0;
            rig_open_with(&r, codecs[trial % 2], seed, 0, 0);
            run_all(&r, &job, &of[with], 1);
            rig_close(&r);
        }
        CHECK(same(&of[0], &of[1]), "trial %u: %u branches, %u with stop strings", trial,
              of[0].cost.branches_count, of[1].cost.branches_count);
    }
    codec_free(codecs[0]);
}

/* ---- branches by hand ---------------------------------------------------------------------------------- */

/* Parts of characters, ends of all kinds, and now and then the end. */
static uint32_t write_odd(const struct seq *q, uint32_t position)
{
    static const uint8_t some[] = {'a', 'a', 'b', '\n', ' ', 0xc3, 0xa9, 0xff, 0xe2, 'a', 'b', 'c'};
    uint32_t h = rng_u32(q->args.seed, q->args.branch, position);
    return h % 37 == 0 ? END : some[h / 64 % sizeof some];
}

struct hand {
    struct rig rig;
    struct job job;
    struct run *run;
};

static void hand_open(struct hand *h, struct codec *codec, uint64_t seed, const char *step_end)
{
    job_make(&h->job, DYNASOR_ALGORITHM_CUSTOM, seed, "even");
    h->job.args.policy = &h->job.policy;
    h->job.args.parameters.max_tokens = 900;
    h->job.args.stop_tokens_count = 0;
    h->job.args.ignore_eos = true;
    h->job.args.parameters.algorithm = DYNASOR_ALGORITHM_CUSTOM;
    (void)snprintf(h->job.args.parameters.step_end, PARAMETER_STEP_END_BYTES, "%s", step_end);
    set(&h->job, DYNASOR_PARAMETER_CAP, 64);
    rig_open_with(&h->rig, codec, seed, 0, 0);
}

static void hand_start(struct hand *h)
{
    assert_int_equal(runs_start(h->rig.runs, &h->job.args, h->job.prompt, 8, &h->run), RUNS_OK);
}

static uint32_t branch(struct hand *h, const struct branch_args *args)
{
    uint32_t b = run_branch(h->run, args);
    for (uint32_t i = 0; i < 2000 && !run_settled(h->run, b); i++)
        (void)runs_poll(h->rig.runs, 0);
    assert_true(run_settled(h->run, b));
    return b;
}

static void hand_close(struct hand *h)
{
    run_stop(h->run);
    rig_close(&h->rig);
}

/* The text of a path from its first token, token by token; where each ends in it. */
static uint32_t path_read(struct hand *h, uint32_t b, uint8_t *text, uint32_t *ends)
{
    struct codec_stream stream;
    uint32_t bytes = 0, more, count;
    const uint32_t *tokens;
    codec_stream_init(&stream, NULL);
    for (uint32_t at = 0; (tokens = run_path(h->run, b, at, &count)); at++) {
        (void)codec_push(&stream, h->rig.codec, tokens[0], text + bytes, &more);
        ends[at] = bytes += more;
    }
    return bytes;
}

/* The steps of one path, each a branch behind the last, sometimes behind a token before its end: a step ends with
 * the first token that completes its end in what was written since the last one. */
static void steps_follow(struct hand *h, const char *step_end, struct rng *rng)
{
    static uint8_t text[LENGTH * 4 + 64];
    static uint32_t ends[LENGTH + 64];
    /* Bytes that the search begins at: for the parent, and behind its end. */
    uint32_t parent = RUN_NONE, parent_began = 0, began = 0;
    for (uint32_t i = 0; i < 40; i++) {
        struct branch_args args = {.parent = parent,
                                   .stops_at_step = true,
                                   .tokens_max = 1 + (uint32_t)rng_below(rng, 30)};
        uint32_t before = parent == RUN_NONE ? 0 : run_get(h->run, parent)->path_tokens;
        uint32_t tokens = parent == RUN_NONE ? 0 : run_get(h->run, parent)->tokens_count;
        if (tokens > 1 && rng_below(rng, 3) == 0) {
            args.parent_tokens = 1 + (uint32_t)rng_below(rng, tokens - 1);
            before -= tokens - args.parent_tokens;
            began = parent_began;
        }
        uint32_t b = branch(h, &args);
        const struct branch *got = run_get(h->run, b);
        if (got->path_tokens > LENGTH)
            break;
        (void)path_read(h, b, text, ends);
        uint32_t want = got->path_tokens;
        enum branch_state state = BRANCH_HELD;
        for (uint32_t t = before; t < got->path_tokens && state != BRANCH_STEP; t++)
            if (memmem(text + began, ends[t] - began, step_end, strlen(step_end))) {
                state = BRANCH_STEP;
                want = t + 1;
            }
        CHECK(got->state == state && got->path_tokens == want,
              "end \"%s\", branch %u: %u tokens, state %d, not %u, %d", step_end, b,
              got->path_tokens, (int)got->state, want, (int)state);
        parent_began = began;
        began = state == BRANCH_STEP ? ends[want - 1] : began;
        parent = b;
    }
}

static void text_steps_end_where_their_end_is_written(void **state)
{
    (void)state;
    static const char *const step_ends[] = {"\n", "a", " ", "\xc3\xa9", "ab", "aa", "aba", "\n\n"};
    static const char *const stops[] = {"", "\4~~~~\4ab~~"};
    struct rng rng = {.state = check_number("SEED", now_ns())};
    (void)printf("SEED=%" PRIu64 "\n", rng.state);
    write_token = write_odd;
    struct codec *codecs[] = {codec_make(), NULL};
    for (uint32_t trial = 0; trial < 320; trial++) {
        struct hand h;
        const char *end = step_ends[trial % 8], *stop = stops[trial / 8 % 2];
        hand_open(&h, codecs[trial / 16 % 2], trial, end);
        h.job.args.stops = (const uint8_t *)stop;
        h.job.args.stops_bytes = (uint32_t)strlen(stop);
        hand_start(&h);
        steps_follow(&h, end, &rng);
        hand_close(&h);
    }
    codec_free(codecs[0]);
}

static const char *said; /* each branch, by its place in its path */

static uint32_t write_said(const struct seq *q, uint32_t position)
{
    (void)q;
    return (uint8_t)said[position % strlen(said)];
}

/* A place that another program's branch had before keeps what that looked for: nobody else must look for it. What a
 * probe was given and has said is text of who goes on from it, and no stop string ended the probe. */
static void text_regress_a_fork_of_a_probe_looks_for_its_own_stops(void **state)
{
    (void)state;
    static const uint32_t given[] = {'x', 'y'};
    struct hand h;
    write_token = write_said;
    hand_open(&h, NULL, 1, "\n");
    struct job *job = &h.job;
    for (uint32_t turn = 0; turn < 2; turn++) {
        static const char *const stops[] = {"\2cd", "\3yab\2ef"};
        said = "abcdefgh";
        job->args.stops = (const uint8_t *)stops[turn];
        job->args.stops_bytes = (uint32_t)strlen(stops[turn]);
        hand_start(&h);
        uint32_t chain = branch(&h, &(struct branch_args){.parent = RUN_NONE, .tokens_max = 2});
        assert_int_equal(run_get(h.run, chain)->tokens_count, 2);
        uint32_t probe = branch(&h, &(struct branch_args){.parent = chain,
                                                          .tokens_max = 5,
                                                          .stops_at_step = true,
                                                          .given = given,
                                                          .given_count = 2});
        assert_int_equal(run_get(h.run, probe)->tokens_count, 7); /* xyabcde */
        for (uint32_t at = 0; at < 2; at++) {
            uint32_t fork = branch(
                &h,
                &(struct branch_args){.parent = probe, .parent_tokens = 7 * at, .tokens_max = 20});
            /* abcd at first; then what the probe said ends with e, and abcdef */
            uint32_t want = turn == 0 ? 4 : 6;
            CHECK(run_get(h.run, fork)->tokens_count == want, "turn %u, %u: %u tokens", turn, at,
                  run_get(h.run, fork)->tokens_count);
            assert_int_equal(run_get(h.run, fork)->state, BRANCH_ENDED);
        }
        run_stop(h.run);
    }
    rig_close(&h.rig);
}

/* Behind a text that a stop string ended, the next one is looked for from there. */
static void text_regress_behind_a_stop_string_all_begins_anew(void **state)
{
    (void)state;
    static const uint32_t wants[] = {2, 2, 2, 2};
    struct hand h;
    write_token = write_said;
    hand_open(&h, NULL, 1, "\n");
    said = "aa";
    h.job.args.stops = (const uint8_t *)"\2aa";
    h.job.args.stops_bytes = 3;
    hand_start(&h);
    uint32_t parent = RUN_NONE;
    for (uint32_t i = 0; i < COUNT_OF(wants); i++) {
        parent = branch(&h, &(struct branch_args){.parent = parent, .stops_at_step = true});
        assert_int_equal(run_get(h.run, parent)->state, BRANCH_ENDED);
        assert_int_equal(run_get(h.run, parent)->tokens_count, wants[i]);
    }
    hand_close(&h);
}

/* ---- long texts ----------------------------------------------------------------------------------------- */

static uint32_t write_long(const struct seq *q, uint32_t position)
{
    uint32_t h = rng_u32(q->args.seed, q->args.branch, position);
    return h % 3 ? LONG : h / 64 % 128;
}

static void text_too_long_keeps_its_end(void **state)
{
    (void)state;
    static uint8_t text[900 * LONG_BYTES];
    static uint32_t ends[900];
    struct codec *codec = codec_make();
    write_token = write_long;
    uint32_t cut = 0;
    for (uint32_t trial = 0; trial < 60; trial++) {
        struct hand h;
        uint32_t bytes, parent = RUN_NONE;
        hand_open(&h, codec, trial, "\n");
        hand_start(&h);
        for (uint32_t i = 0; i < 3; i++)
            parent =
                branch(&h, &(struct branch_args){.parent = parent,
                                                 .tokens_max = 90 + rng_u32(trial, i, 0) % 210});
        uint32_t all = path_read(&h, parent, text, ends);
        uint32_t before = ends[run_get(h.run, run_get(h.run, parent)->parent)->path_tokens - 1];
        for (uint32_t whole = 0; whole < 2; whole++) {
            const char *got =
                whole ? run_text(h.run, parent, &bytes) : run_text_own(h.run, parent, &bytes);
            uint32_t want = whole ? all : all - before;
            CHECK(want <= RUN_TEXT_BYTES / 2
                      ? bytes == want
                      : bytes >= RUN_TEXT_BYTES / 2 && bytes <= RUN_TEXT_BYTES && bytes <= want,
                  "%u bytes of %u", bytes, want);
            assert_memory_equal(got, text + all - bytes, bytes);
        }
        cut += all > RUN_TEXT_BYTES;
        hand_close(&h);
    }
    assert_true(cut > 5);
    codec_free(codec);
}

/* ---- answers that were there before --------------------------------------------------------------------- */

static void text_an_answer_taken_over_is_as_if_made_again(void **state)
{
    (void)state;
    static const char *const answers[] = {"4",     " 4 ", "4.0",  "\\frac{8}{2}", "",    "5",
                                          "x=4",   "4%",  "0.04", "(1,2)",        "7 m", "7",
                                          "1{,}2", "a",   "A",    "\\sqrt{16}",   "?",   "12"};
    static const struct answer_rule rule = {.kind = ANSWER_TEXT};
    struct rng rng = {.state = check_number("SEED", now_ns())};
    struct ballot_room room;
    (void)printf("SEED=%" PRIu64 "\n", rng.state);
    assert_int_equal(ballots_new(2, &room), 0);
    for (uint32_t trial = 0; trial < 300; trial++) {
        struct ballot b;
        uint32_t kinds = 1 + (uint32_t)rng_below(&rng, COUNT_OF(answers));
        ballot_init(&b, &room, trial % 2);
        for (uint32_t i = 0; i < 60; i++) {
            struct ballot_vote vote = {.branch = i, .weight = 1};
            static char longer[ANSWER_BYTES_MAX + 80];
            const char *text = answers[rng_below(&rng, kinds)];
            struct answer fresh;
            struct answer_span span = {0};
            if (rng_below(&rng, 10) == 0) { /* only the bytes count, and they differ at the end */
                memset(longer, '1', sizeof longer);
                longer[sizeof longer - 1] = '\0';
                longer[sizeof longer - 2] = (char)('0' + rng_below(&rng, 2));
                text = longer;
            }
            uint32_t idx = ballot_add(&b, &rule, text, (uint32_t)strlen(text), &vote);
            if (answer_extract(&rule, text, (uint32_t)strlen(text), &span) != 0)
                span.bytes = 0;
            answer_prepare(text + span.start, span.bytes, &fresh);
            assert_int_equal(idx, i);
            assert_int_equal(answer_valid(&fresh), answer_valid(&b.answers[i]));
            assert_int_equal(fresh.bytes, b.answers[i].bytes);
            assert_memory_equal(fresh.text, b.answers[i].text, fresh.bytes);
            for (uint32_t k = 0; k <= i; k++)
                CHECK(answer_equal(&fresh, &b.answers[k]) ==
                          answer_equal(&b.answers[i], &b.answers[k]),
                      "\"%s\" and answer %u", text, k);
            CHECK(answer_equal(&fresh, &b.answers[i]) == answer_valid(&fresh), "\"%s\"", text);
        }
    }
    ballots_free(&room);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_steps_end_alike_by_token_and_by_text),
        cmocka_unit_test(text_steps_end_where_their_end_is_written),
        cmocka_unit_test(text_regress_a_fork_of_a_probe_looks_for_its_own_stops),
        cmocka_unit_test(text_regress_behind_a_stop_string_all_begins_anew),
        cmocka_unit_test(text_too_long_keeps_its_end),
        cmocka_unit_test(text_an_answer_taken_over_is_as_if_made_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
