/* tests/unit/test_chains.c: chains of thought that are probed on their way, on a scheduler that makes up
 * tokens (made_up.h): when they end, what they say, what it costs; what a guided chain takes over from its
 * probes; and the vote of several chains, held to a reference written apart. */
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "tests/unit/made_up.h"

/* ---- probes --------------------------------------------------------------------------------------------- */

#define PROBES_MAX 12u
static const char *responses[PROBES_MAX];
static uint32_t chain_ends;

/* A chain that says nothing, and probes that respond as they are told. */
static uint32_t write_chain(const struct seq *q, uint32_t position)
{
    if (q->args.branch < 1u << 31)
        return position + 1 == chain_ends ? END : 'x';
    uint32_t probe = q->args.branch - (1u << 31);
    CHECK(probe < PROBES_MAX && responses[probe], "probe %u", probe);
    char c = position < strlen(responses[probe]) ? responses[probe][position] : '.';
    return c == '$' ? END : (uint8_t)c;
}

struct probed {
    const char *responses[PROBES_MAX];
    uint32_t chain_ends; /* 0: never */
    double hesitation;
    uint32_t probes; /* asked */
    uint32_t tokens; /* of the chain */
    enum run_verdict verdict;
    const char *answer;
};

static const struct probed probed[] = {
    {{"8}\\]", "8}", "8}"}, 0, 1, 3, 192, RUN_SETTLED, "8"},
    /* The words come after the brace: a probe that stopped there would not see them. */
    {{"8}", "8}", "8} but wait", "8}", "8}", "8}"}, 0, 1, 6, 384, RUN_SETTLED, "8"},
    {{"8}", "8}", "8}\\]\n\nHmm", "8}", "8}", "8}"}, 0, 1, 6, 384, RUN_SETTLED, "8"},
    {{"8}", "8}", "8} but wait"}, 0, 0, 3, 192, RUN_SETTLED, "8"},
    {{"7}", "8}", "8}", "8}"}, 0, 1, 4, 256, RUN_SETTLED, "8"},
    {{"8}", "eight", "8}", "8}", "8}"}, 0, 1, 5, 320, RUN_SETTLED, "8"},
    {{"}", "}", "}", "}", "}", "8}", "}"}, 0, 1, 7, 400, RUN_CAPPED, "8"},
    {{"0.5}", "\\frac{1}{2}}", "1/2}"}, 0, 1, 3, 192, RUN_SETTLED, "1/2"},
    {{"1}", "2}", "3}", "4}", "5}", "6}", "7}"}, 0, 1, 7, 400, RUN_CAPPED, "7"},
    {{"1}", "2}"}, 150, 1, 2, 150, RUN_WHOLE, NULL},
    {{"8}", "8}"}, 192, 1, 2, 192, RUN_WHOLE, NULL},
};

static void chains_end_when_their_probes_agree(void **state)
{
    (void)state;
    write_token = write_chain;
    for (uint32_t i = 0; i < COUNT_OF(probed); i++) {
        const struct probed *p = &probed[i];
        struct job job;
        struct outcome outcome;
        struct rig r;
        job_make(&job, DYNASOR_ALGORITHM_COT, 1, "cot-mid");
        job.args.parameters.max_tokens = 400;
        set(&job, DYNASOR_PARAMETER_HESITATION, p->hesitation);
        memcpy(responses, p->responses, sizeof responses);
        chain_ends = p->chain_ends;
        rig_open(&r, 1, 0, 0);
        run_all(&r, &job, &outcome, 1);
        CHECK(outcome.result.verdict == p->verdict && outcome.said_count == p->tokens &&
                  outcome.cost.branches_count == 1 + p->probes,
              "case %u: verdict %d, %u tokens, %u probes", i, (int)outcome.result.verdict,
              outcome.said_count, outcome.cost.branches_count - 1);
        assert_int_equal(outcome.cost.probe_tokens, p->probes * 20);
        assert_int_equal(outcome.cost.decoded_tokens, p->tokens);
        /* A probe is given its text and nothing that it shares with the chain. */
        assert_int_equal(r.sched[0]->read_tokens, 8 + p->probes * r.texts.probe_count);
        CHECK(outcome.answer_bytes == (p->answer ? strlen(p->answer) : 0) &&
                  (!p->answer || memcmp(outcome.answer, p->answer, strlen(p->answer)) == 0),
              "case %u: the answer is \"%.*s\"", i, (int)outcome.answer_bytes, outcome.answer);
        rig_close(&r);
    }
    assert_true(cot_hesitates("8}. NO", 6) && cot_hesitates("know", 4) && cot_hesitates("hOld", 4));
    assert_false(cot_hesitates("8}. n", 5) || cot_hesitates("", 0) || cot_hesitates("8 hm", 4));
}

/* More probes than a ballot holds: from there it goes to its end unasked, and is asked there. */
static uint32_t write_counting(const struct seq *q, uint32_t position)
{
    if (q->args.branch < 1u << 31)
        return 'x';
    uint32_t probe = q->args.branch - (1u << 31);
    return position == 0 ? '0' + probe % 7 : position == 1 ? '}' : '.';
}

static void chains_may_be_probed_at_every_token(void **state)
{
    (void)state;
    struct job job;
    struct outcome outcome;
    struct rig r;
    write_token = write_counting;
    job_make(&job, DYNASOR_ALGORITHM_COT, 1, "cot-crazy");
    job.args.parameters.max_tokens = 900;
    job.policy.probe.first_tokens = job.policy.probe.interval_tokens = 1;
    rig_open(&r, 1, 0, 0);
    run_all(&r, &job, &outcome, 1);
    rig_close(&r);
    assert_int_equal(outcome.cost.branches_count, 1 + 900);
    assert_int_equal(outcome.result.verdict, RUN_CAPPED);
    assert_int_equal(outcome.answer[0], '0' + 899 % 7);
}

/* ---- guided ---------------------------------------------------------------------------------------------- */

#define PROBE_BYTES 24u /* of the rig's text */
#define PROBE_TOKENS 20u
#define STEP 64u

struct guided {
    const char *responses[PROBES_MAX];
    const char *stop;
    double guided;
    uint32_t probes;
    uint32_t probe_tokens;
    uint32_t decoded;
    uint32_t said;
    enum run_verdict verdict;
    const char *answer;
};

/* Steps of 64 tokens, guidance of 24 and 20 behind each: at 64, 172 and 280. What is asked at 388 has no
 * room before the cap, and is thrown away as what is asked there. */
static const struct guided guided[] = {
    {{"8}", "8}", "8}", "8}", "8}"}, NULL, 1, 5, 100, 268, 400, RUN_CAPPED, "8"},
    {{"1}", "2}", "3}", "4}", "5}"}, NULL, 2, 5, 100, 268, 400, RUN_CAPPED, "5"},
    {{"8}", "8}", "8}"}, NULL, 2, 3, 60, 192, 324, RUN_SETTLED, "8"},
    {{"8}", "8} no", "8}", "8}", "8}"}, NULL, 2, 5, 100, 268, 400, RUN_CAPPED, "8"},
    /* Where the model ends its answer, the chain has ended. */
    {{"7}", "8}\\]$"}, NULL, 1, 2, 25, 128, 64 + 44 + 64 + 24 + 5, RUN_WHOLE, "8"},
    {{"7}", "e$"}, NULL, 2, 2, 22, 128, 64 + 44 + 64 + 24 + 2, RUN_WHOLE, "7"},
    {{"7}", "8}$", "8}$", "8}$"}, NULL, 0, 4, 29, 256, 256, RUN_SETTLED, "8"},
    /* Stop strings are looked for in what it is told, as by whoever reads it. */
    {{"8}"}, "\6Answer", 1, 1, 20, 64, 64 + 14, RUN_WHOLE, "8"},
    {{"7}", "8}mmm"}, "\2mm", 2, 2, 40, 128, 64 + 44 + 64 + 24 + 4, RUN_WHOLE, "8"},
    {{"7}", "mm"}, "\2mm", 2, 2, 40, 128, 64 + 44 + 64 + 24 + 2, RUN_WHOLE, "7"},
    {{"8}", "8}", "8}"}, NULL, 0, 3, 60, 192, 192, RUN_SETTLED, "8"},
};

/* The hash of what is said: the chain's own, and behind each of its steps what it was told. */
static uint64_t guided_said(const struct guided *g, const struct run_texts *texts)
{
    uint64_t said = 5;
    for (uint32_t i = 0; i < g->said; i++) {
        uint32_t round = i / (STEP + PROBE_BYTES + PROBE_TOKENS), token = 'x';
        uint32_t at = i % (STEP + PROBE_BYTES + PROBE_TOKENS);
        const char *response = g->responses[round];
        bool told = g->guided > 0 && round < 3 && at >= STEP;
        if (told && at - STEP < PROBE_BYTES)
            token = texts->probe[at - STEP];
        else if (told)
            token = at - STEP - PROBE_BYTES < strlen(response)
                        ? (uint8_t)response[at - STEP - PROBE_BYTES]
                        : '.';
        token = token == '$' ? END : token;
        said = said * 31 + hash_of(&token, 1);
    }
    return said;
}

/* Behind each guidance the chain's random numbers are others: its tokens count from 0 again. */
static uint32_t write_guided(const struct seq *q, uint32_t position)
{
    uint32_t rounds = (q->own_first - 8) / (STEP + PROBE_BYTES + PROBE_TOKENS);
    CHECK(q->args.branch >> 31 || q->args.branch == rounds, "%u after %u rounds", q->args.branch,
          rounds);
    return write_chain(q, position);
}

static void chains_are_guided_by_their_answers(void **state)
{
    (void)state;
    write_token = write_guided;
    chain_ends = 0;
    struct codec *codec = codec_make();
    for (uint32_t i = 0; i < COUNT_OF(guided); i++) {
        const struct guided *g = &guided[i];
        struct job job;
        struct outcome o;
        struct rig r;
        job_make(&job, DYNASOR_ALGORITHM_COT, 1, "cot-mid");
        job.args.parameters.max_tokens = 400;
        job.args.stops = (const uint8_t *)g->stop;
        job.args.stops_bytes = g->stop ? (uint32_t)strlen(g->stop) : 0;
        set(&job, DYNASOR_PARAMETER_GUIDED, g->guided);
        memcpy(responses, g->responses, sizeof responses);
        rig_open_with(&r, codec, 1, 0, 0);
        run_all(&r, &job, &o, 1);
        CHECK(o.result.verdict == g->verdict && o.said_count == g->said &&
                  o.cost.branches_count == 1 + g->probes && o.cost.decoded_tokens == g->decoded,
              "case %u: verdict %d, %u tokens, %" PRIu64 " of them decoded, %u probes", i,
              (int)o.result.verdict, o.said_count, o.cost.decoded_tokens,
              o.cost.branches_count - 1);
        CHECK(o.said == guided_said(g, &r.texts), "case %u said something else", i);
        /* Charged as any probe; read once, also what it goes on behind. */
        assert_int_equal(o.cost.probe_tokens, g->probe_tokens);
        assert_int_equal(r.sched[0]->read_tokens, 8 + g->probes * PROBE_BYTES);
        CHECK(o.answer_bytes == strlen(g->answer) &&
                  memcmp(o.answer, g->answer, o.answer_bytes) == 0,
              "case %u: the answer is \"%.*s\"", i, (int)o.answer_bytes, o.answer);
        rig_close(&r);
    }
    codec_free(codec);
}

/* ---- a vote of chains ------------------------------------------------------------------------------------ */

#define CHAINS 8u
#define FIRST 5u /* of them before the first reading */
#define CAP_TOKENS 200u
#define ASKED_MAX 8u
#define WINDOW 3u

/* What chain c answers when it is asked for the k-th time; where it ends; and what it says then. */
static struct {
    char response[CHAINS][ASKED_MAX][12];
    uint32_t ends[CHAINS]; /* tokens; above CAP_TOKENS: it does not */
    char last[CHAINS];
} script;

/* Chain c is the one whose random numbers have that key; it writes its letter, and a digit at its end. */
static uint32_t write_script(const struct seq *q, uint32_t position)
{
    if (q->args.branch < 1u << 31) {
        uint32_t c = q->args.branch;
        return position + 1 == script.ends[c]   ? END
               : position + 2 == script.ends[c] ? (uint8_t)script.last[c]
                                                : 'a' + c;
    }
    uint32_t c = q->tokens[8] - 'a', at = q->own_first - 8 - PROBE_BYTES;
    CHECK(c < CHAINS && (at % STEP == 0 || at == CAP_TOKENS), "chain %u is asked at %u", c, at);
    const char *response = script.response[c][at == CAP_TOKENS ? ASKED_MAX - 1 : at / STEP - 1];
    return position < strlen(response) ? (uint8_t)response[position] : '.';
}

static void script_make(struct rng *rng)
{
    static const char *const tails[] = {"", "\\]", " but", " Hmm", ""};
    for (uint32_t c = 0; c < CHAINS; c++) {
        for (uint32_t k = 0; k < ASKED_MAX; k++) {
            uint64_t kind = rng_below(rng, 20);
            char digit = (char)('1' + (kind > 15) + (kind > 18));
            (void)snprintf(script.response[c][k], sizeof script.response[c][k], "%.*s}%s",
                           kind == 0 ? 0 : 1, (const char[]){digit, 0},
                           tails[rng_below(rng, rng_below(rng, 4) ? 2 : 5)]);
        }
        script.ends[c] = 40 + (uint32_t)rng_below(rng, 400);
        script.last[c] = (char)('1' + rng_below(rng, 2));
    }
}

struct ended {
    char answer; /* 0: none */
    uint32_t tokens;
    uint32_t asked;
};

/* One chain by itself: cot.c's rule, written apart. */
static struct ended chain_end(uint32_t c)
{
    struct ended e = {0};
    uint32_t agreed = 0;
    char before = 0;
    for (;;) {
        uint32_t to = (e.asked + 1) * STEP < CAP_TOKENS ? (e.asked + 1) * STEP : CAP_TOKENS;
        if (script.ends[c] <= to) {
            return (struct ended){
                .answer = script.last[c], .tokens = script.ends[c], .asked = e.asked};
        }
        const char *response = script.response[c][to == CAP_TOKENS ? ASKED_MAX - 1 : to / STEP - 1];
        bool sure = !strchr(response, ' ') && response[0] != '}';
        e.tokens = to;
        e.asked++;
        agreed = !sure ? 0 : response[0] == before && agreed > 0 ? agreed + 1 : 1;
        before = response[0];
        e.answer = response[0] == '}' ? e.answer : response[0];
        if (to == CAP_TOKENS || agreed == WINDOW)
            return e;
    }
}

static void chains_vote(void **state)
{
    (void)state;
    uint64_t seed = check_number("SEED", now_ns());
    uint32_t settled = 0, early = 0;
    (void)printf("SEED=%" PRIu64 "\n", seed);
    struct rng rng = {.state = seed};
    write_token = write_script;
    for (uint32_t trial = 0; trial < 300; trial++) {
        struct job job;
        struct outcome o;
        struct rig r;
        uint32_t votes[256] = {0}, decoded = 0, asked = 0, said = UINT32_MAX, most = 0, c = 0;
        char leader = 0;
        script_make(&rng);
        for (; c < CHAINS && !(c == FIRST && votes[(uint8_t)leader] == FIRST); c++) {
            struct ended e = chain_end(c);
            decoded += e.tokens;
            asked += e.asked;
            early += e.tokens < CAP_TOKENS && e.tokens < script.ends[c];
            if (e.answer && ++votes[(uint8_t)e.answer] > most) {
                leader = e.answer;
                most = votes[(uint8_t)leader];
            }
        }
        for (uint32_t i = c; i-- > 0;)
            said = chain_end(i).answer == leader ? chain_end(i).tokens : said;
        job_make(&job, DYNASOR_ALGORITHM_SC_COT, seed + trial, "sc_cot-math");
        job.args.parameters.max_tokens = CAP_TOKENS;
        set(&job, DYNASOR_PARAMETER_CAP, CHAINS);
        rig_open(&r, seed + trial, 40, 20);
        run_all(&r, &job, &o, 1);
        rig_close(&r);
        settled += c == FIRST;
        CHECK(o.result.knob == c && o.result.verdict == (c == FIRST ? RUN_SETTLED : RUN_CAPPED) &&
                  o.cost.decoded_tokens == decoded && o.cost.probe_tokens == asked * PROBE_TOKENS &&
                  o.cost.branches_count == c + asked,
              "trial %u: %u of %u chains, verdict %d, %" PRIu64 " of %u tokens, %u of %u probes",
              trial, o.result.knob, c, (int)o.result.verdict, o.cost.decoded_tokens, decoded,
              o.cost.branches_count - o.result.knob, asked);
        CHECK(o.answer_bytes == (leader ? 1 : 0) && (!leader || o.answer[0] == leader),
              "trial %u: \"%.*s\" of %c", trial, (int)o.answer_bytes, o.answer, leader);
        CHECK(!leader || o.said_count == said, "trial %u says %u tokens of %u", trial, o.said_count,
              said);
    }
    assert_true(settled > 10 && settled < 290 && early > 300);
}

/* m_of_n: of CHAINS the FIRSTS that come first by length, then by number, vote. Chains rest together: at the
 * 2k-1st rest they are to be asked at k STEP tokens, at the 2k-th they have answered. */
#define FIRSTS 3u

static uint32_t tokens_at(uint32_t rest)
{
    uint32_t tokens = (rest + 1) / 2 * STEP;
    return tokens < CAP_TOKENS ? tokens : CAP_TOKENS;
}

static bool done_at(uint32_t c, uint32_t rest)
{
    struct ended e = chain_end(c);
    return rest >= 2 * e.asked + (script.ends[c] == e.tokens);
}

/* Whether chain c may yet come, or comes, before the FIRSTS-th of all. */
static bool is_first(uint32_t c)
{
    uint32_t before = 0;
    for (uint32_t i = 0; i < CHAINS; i++)
        before += chain_end(i).tokens < chain_end(c).tokens + (i < c);
    return before < FIRSTS;
}

/* The first rest at which those are known: they are done, and no other is where it could end before one. */
static uint32_t known_at(void)
{
    for (uint32_t rest = 1;; rest++) {
        bool known = true;
        for (uint32_t c = 0; c < CHAINS; c++) {
            known &= !is_first(c) || done_at(c, rest);
            for (uint32_t i = 0; i < CHAINS; i++)
                known &= !is_first(c) || done_at(i, rest) ||
                         tokens_at(rest) >= chain_end(c).tokens + (i < c);
        }
        if (known)
            return rest;
    }
}

static void chains_that_end_first_vote(void **state)
{
    (void)state;
    uint64_t seed = check_number("SEED", now_ns());
    uint32_t cut = 0, odd = 0;
    (void)printf("SEED=%" PRIu64 "\n", seed);
    struct rng rng = {.state = seed};
    write_token = write_script;
    for (uint32_t trial = 0; trial < 300; trial++) {
        struct job job;
        struct outcome o;
        struct rig r;
        uint32_t votes[256] = {0}, most = 0, decoded = 0, asked = 0, begun = 0, killed = 0;
        char leader = 0;
        script_make(&rng);
        uint32_t rest = known_at();
        for (uint32_t c = 0; c < CHAINS; c++) {
            struct ended e = chain_end(c);
            bool done = done_at(c, rest);
            decoded += done ? e.tokens : tokens_at(rest);
            asked += done ? e.asked : rest / 2;
            begun += !done && rest % 2;
            killed += done ? 0 : tokens_at(rest);
            if (is_first(c) && e.answer && ++votes[(uint8_t)e.answer] > most) {
                leader = e.answer;
                most = votes[(uint8_t)leader];
            }
        }
        cut += killed > 0;
        odd += begun > 0;
        job_make(&job, DYNASOR_ALGORITHM_SC_COT, seed + trial, "m_of_n");
        job.args.parameters.max_tokens = CAP_TOKENS;
        job.policy.finished_count = FIRSTS;
        set(&job, DYNASOR_PARAMETER_CAP, CHAINS);
        rig_open(&r, seed + trial, 40, 20);
        run_all(&r, &job, &o, 1);
        rig_close(&r);
        CHECK(o.result.knob == CHAINS && o.result.verdict == RUN_SETTLED &&
                  o.cost.decoded_tokens == decoded && o.cost.killed_tokens == killed &&
                  o.cost.probe_tokens == asked * PROBE_TOKENS &&
                  o.cost.branches_count == CHAINS + asked + begun,
              "trial %u, rest %u: verdict %d, %" PRIu64 " of %u tokens, %" PRIu64
              " of %u killed, %u branches, %u probes and %u begun",
              trial, rest, (int)o.result.verdict, o.cost.decoded_tokens, decoded,
              o.cost.killed_tokens, killed, o.cost.branches_count, asked, begun);
        CHECK(o.answer_bytes == (leader ? 1 : 0) && (!leader || o.answer[0] == leader),
              "trial %u: \"%.*s\" of %c", trial, (int)o.answer_bytes, o.answer, leader);
    }
    assert_true(cut > 200 && odd > 50);
}

/* A chain that has used its part of the probes goes on to its end, and is asked there. */
static void chains_share_the_probes(void **state)
{
    (void)state;
    enum { CAP = 100, PART = BALLOT_ANSWERS_MAX / CAP };
    struct job job;
    struct outcome o;
    struct rig r;
    write_token = write_counting;
    job_make(&job, DYNASOR_ALGORITHM_SC_COT, 1, "even");
    job.args.parameters.max_tokens = 90;
    job.policy.probe.first_tokens = job.policy.probe.interval_tokens = 1;
    job.policy.probe.agreement = 2; /* never */
    set(&job, DYNASOR_PARAMETER_CAP, CAP);
    rig_open(&r, 1, 0, 0);
    run_all(&r, &job, &o, 1);
    rig_close(&r);
    assert_int_equal(o.cost.branches_count, CAP + CAP * PART);
    assert_int_equal(o.cost.decoded_tokens, CAP * 90);
    assert_int_equal(o.result.verdict, RUN_CAPPED);
    assert_int_equal(o.answer_bytes, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chains_end_when_their_probes_agree),
        cmocka_unit_test(chains_may_be_probed_at_every_token),
        cmocka_unit_test(chains_are_guided_by_their_answers),
        cmocka_unit_test(chains_vote),
        cmocka_unit_test(chains_that_end_first_vote),
        cmocka_unit_test(chains_share_the_probes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
