/* tests/unit/test_budget.c: batches of programs that share one total, live: daemon/program/batches.c under
 * program.c, on a scheduler that makes up tokens, gives them out in any order and refuses at random
 * (made_up.h). What members come to is held to a replay of the rounds that is written apart, and must not
 * depend on who else runs, who came first, or how the steps fell. */
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/program/batches.h"
#include "daemon/program/profile.h"
#include "tests/unit/made_up.h"

#define PROGRAMS 64u
#define MEMBERS_MAX 12u
#define IDLE_NS 1000u
#define LETTERS_MAX 18u

static struct rng rng;

/* ---- what is written: letters, a digit, the end ------------------------------------------------- */

/* The greater the seed's hardness, the more answers there are. */
static uint32_t digit_of(uint64_t seed, uint32_t sample)
{
    return rng_u32(seed, sample, 1) % (uint32_t)(1 + seed % 5);
}

static uint32_t letters_of(uint64_t seed, uint32_t sample)
{
    return rng_u32(seed, sample, 2) % LETTERS_MAX;
}

static uint32_t write_samples(const struct seq *q, uint32_t position)
{
    uint32_t letters = letters_of(q->args.seed, q->args.branch);
    return position < letters    ? 'a'
           : position == letters ? '0' + digit_of(q->args.seed, q->args.branch)
                                 : END;
}

/* ---- a host of programs ------------------------------------------------------------------------- */

struct host {
    struct rig rig;
    struct programs *programs;
    uint64_t now_ns;
};

static void host_open(struct host *h, uint32_t branches_max, uint32_t lazy, uint32_t refuses)
{
    static struct codec *codec;
    if (!codec)
        codec = codec_make(); /* for all of them; it lives as long as the test */
    rig_open_with(&h->rig, codec, rng_next(&rng), lazy, refuses);
    h->now_ns = 50 * IDLE_NS;
    assert_int_equal(programs_new(&(struct programs_config){.programs_max = PROGRAMS,
                                                            .branches_max = branches_max,
                                                            .context_tokens = CONTEXT,
                                                            .prompt_bytes_max = 4096,
                                                            .codec = codec,
                                                            .policy = h->rig.sched[0],
                                                            .reward = h->rig.sched[1],
                                                            .idle_ns = IDLE_NS},
                                  &h->programs),
                     0);
    (void)programs_poll(h->programs, h->now_ns);
}

static void host_close(struct host *h)
{
    programs_free(h->programs);
    rig_close(&h->rig); /* no sequence is left */
}

/* ---- batches ------------------------------------------------------------------------------------ */

struct wish { /* what a batch says */
    uint64_t client;
    uint32_t number;
    uint32_t count;
    uint32_t algorithm;
    uint32_t cap;
    uint32_t batch_cap;
    uint32_t step;
    uint64_t tokens;
    struct policy_options policy;
    uint64_t seeds[MEMBERS_MAX];
};

struct came { /* of a member */
    uint32_t handle;
    uint32_t state;
    uint32_t status;
    uint32_t verdict;
    uint32_t knob;
    uint64_t tokens;
    uint32_t answer_bytes;
    char answer[ANSWER_BYTES_MAX];
};

static struct policy_options policy_of(enum policy_kind kind, uint32_t detect, double above)
{
    struct profile profile;
    profile_default(&profile);
    profile.policy.kind = kind;
    profile.policy.detect = detect;
    profile.policy.step = 2;
    profile.policy.limits_count = 1;
    profile.policy.limits[0].knob = detect;
    profile.policy.limits[0].limits.used = 1u << CERTAINDEX_CERTAINTY;
    profile.policy.limits[0].limits.above[CERTAINDEX_CERTAINTY] = above;
    profile.policy.length_tokens = 6 * detect;
    profile.policy.esc_window = 2;
    profile.policy.posterior = 0.9;
    profile.policy.warmup_count = 3;
    profile.policy.group_tokens = 3;
    profile.policy.kept_share = 0.7;
    profile.policy.consensus = 0.8;
    profile.policy.finished_count = 2;
    profile.policy.curve_count = 1;
    profile.policy.curve[0].knob = detect;
    for (uint32_t b = 0; b <= policy_tenths.count; b++) /* the surer, the less */
        profile.policy.curve[0].total[b] = detect + (policy_tenths.count + 1 - b) / 2;
    if (kind != POLICY_GIVE_UP)
        return profile.policy;
    profile.policy.give_up_below = 0.25;
    profile.policy.chance_count = 1;
    profile.policy.chance[0].knob = detect;
    for (uint32_t b = 0; b <= policy_tenths.count; b++)
        profile.policy.chance[0].chance[b] = b / 10.0;
    return profile.policy;
}

/* Of all of them but probe, which is of a chain. */
static enum policy_kind any_kind(void)
{
    enum policy_kind kind = (enum policy_kind)rng_below(&rng, POLICY_KINDS - 1);
    return kind < POLICY_PROBE ? kind : (enum policy_kind)(kind + 1);
}

static void wish_make(struct wish *w, uint32_t algorithm)
{
    uint32_t cap = 1 + (uint32_t)rng_below(&rng, 6);
    *w = (struct wish){.client = rng_below(&rng, 1000),
                       .number = 1 + (uint32_t)rng_below(&rng, 1000),
                       .count = 1 + (uint32_t)rng_below(&rng, MEMBERS_MAX),
                       .algorithm = algorithm,
                       .cap = cap,
                       .batch_cap = cap + (uint32_t)rng_below(&rng, 10),
                       .step = 1 + (uint32_t)rng_below(&rng, 3)};
    w->policy = policy_of(any_kind(), 2 + (uint32_t)rng_below(&rng, 4), 0.6);
    w->tokens = 1 + rng_below(&rng, 2ull * w->count * w->cap * LETTERS_MAX);
    for (uint32_t i = 0; i < w->count; i++)
        w->seeds[i] = rng_next(&rng) >> 8;
}

enum { SETTINGS = 11 };

static struct program_spec spec_of(const struct wish *w, uint32_t place,
                                   struct program_setting settings[SETTINGS])
{
    static const char prompt[] = "how much?";
    const struct program_setting all[] = {
        {DYNASOR_PARAMETER_CAP, w->cap},
        {DYNASOR_PARAMETER_BATCH, w->number},
        {DYNASOR_PARAMETER_BATCH_PROGRAMS, w->count},
        {DYNASOR_PARAMETER_BATCH_PLACE, place},
        {DYNASOR_PARAMETER_BATCH_TOKENS, (double)w->tokens},
        {DYNASOR_PARAMETER_BATCH_CAP, w->batch_cap},
        {DYNASOR_PARAMETER_BATCH_STEP, w->step},
        {DYNASOR_PARAMETER_DEPTH, 3},
        {DYNASOR_PARAMETER_STEP_TOKENS, 9},
        {DYNASOR_PARAMETER_WIDTH, 3},
    };
    static const struct answer_rule number = {.kind = ANSWER_NUMBER};
    uint32_t count = 0;
    struct parameter_range range;
    for (uint32_t i = 0; i < COUNT_OF(all); i++)
        if (parameter_range(w->algorithm, all[i].parameter, &range))
            settings[count++] = all[i];
    return (struct program_spec){.sampling = {.temperature = 1, .repetition_penalty = 1},
                                 .prompt = (const uint8_t *)prompt,
                                 .prompt_bytes = sizeof prompt - 1,
                                 .seed = w->seeds[place],
                                 .client = w->client,
                                 .algorithm = w->algorithm,
                                 .streams = DYNASOR_STREAM_RESULT,
                                 .max_tokens = 60,
                                 .settings = settings,
                                 .settings_count = count,
                                 .answer = &number,
                                 .policy = &w->policy};
}

static uint32_t submit(struct host *h, const struct wish *w, uint32_t place)
{
    struct program_setting settings[SETTINGS];
    struct program_spec spec = spec_of(w, place, settings);
    struct program_refusal no = program_check(h->programs, &spec);
    CHECK(no.status == DYNASOR_OK, "refused: field %d, %" PRIu64 " of %" PRIu64 " .. %" PRIu64,
          (int)no.field, no.got, no.least, no.max);
    uint32_t handle = program_submit(h->programs, &spec);
    assert_int_not_equal(handle, PROGRAM_NONE);
    return handle;
}

/* One turn; ends with nothing to do only if nothing can. */
static void turn(struct host *h)
{
    (void)programs_poll(h->programs, h->now_ns);
}

static void take(struct host *h, struct came *c)
{
    const struct program_view *v = program_view(h->programs, c->handle);
    const struct run_cost *cost = &v->result.cost;
    c->state = v->state;
    c->status = v->status;
    c->verdict = v->result.verdict;
    c->knob = v->result.knob;
    c->tokens = cost->decoded_tokens + cost->probe_tokens + cost->reward_tokens;
    c->answer_bytes = v->result.answer_bytes;
    memcpy(c->answer, v->result.answer, c->answer_bytes);
    program_free(h->programs, c->handle);
}

static void run_until_ended(struct host *h, struct came *came, uint32_t count)
{
    uint32_t ended = 0;
    for (uint32_t turns = 0; ended < count; turns++) {
        CHECK(turns < 100000, "%u of %u members have ended, and nothing goes on", ended, count);
        turn(h);
        for (uint32_t i = 0; i < count; i++) {
            if (came[i].state >= DYNASOR_STATE_DONE ||
                program_view(h->programs, came[i].handle)->state < DYNASOR_STATE_DONE)
                continue;
            take(h, &came[i]);
            ended++;
        }
    }
}

static void run_alone(const struct wish *w, struct came came[MEMBERS_MAX])
{
    struct host h;
    host_open(&h, BRANCHES_MAX, 0, 0);
    memset(came, 0, MEMBERS_MAX * sizeof *came);
    for (uint32_t i = 0; i < w->count; i++)
        came[i].handle = submit(&h, w, i);
    run_until_ended(&h, came, w->count);
    host_close(&h);
}

static void same_came(const struct came *a, const struct came *b, uint32_t place)
{
    CHECK(a->state == b->state && a->status == b->status && a->verdict == b->verdict,
          "member %u: state %u, verdict %u and %u, %u", place, a->state, a->verdict, b->state,
          b->verdict);
    CHECK(a->knob == b->knob && a->tokens == b->tokens,
          "member %u: knob %u with %" PRIu64 " tokens, and %u with %" PRIu64, place, a->knob,
          a->tokens, b->knob, b->tokens);
    CHECK(a->answer_bytes == b->answer_bytes && memcmp(a->answer, b->answer, a->answer_bytes) == 0,
          "member %u: answers differ", place);
}

/* ---- the rounds, written apart ------------------------------------------------------------------ */

struct replayed {
    uint32_t knob;
    uint64_t tokens;
    double certainty;
    uint32_t counts[8];
    uint32_t total; /* of curve_once, once it was read */
    bool settled;   /* or cancelled before it began */
    bool gave_up;
};

static void samples_read(const struct wish *w, uint32_t place, struct replayed *m, uint32_t knob)
{
    uint32_t *counts = m->counts, groups = 0;
    uint32_t group[8] = {
        0}; /* in the order of their first answers: sums of logarithms are not exact */
    memset(m->counts, 0, sizeof m->counts);
    m->knob = knob;
    m->tokens = 0;
    for (uint32_t s = 0; s < knob; s++) {
        uint32_t digit = digit_of(w->seeds[place], s);
        if (group[digit] == 0)
            group[digit] = ++groups;
        counts[group[digit] - 1]++;
        m->tokens += letters_of(w->seeds[place], s) + 2;
    }
    if (!certaindex_certainty(counts, COUNT_OF(m->counts), &m->certainty))
        m->certainty = 0;
}

static bool same_answers(const struct wish *w, uint32_t place, uint32_t first, uint32_t end)
{
    while (first + 1 < end &&
           digit_of(w->seeds[place], first) == digit_of(w->seeds[place], end - 1))
        first++;
    return first + 1 == end;
}

/* The knob that the policy wants it to go on to; what is not above the one it has ends it. Those that end
 * samples while they decode are not known here. */
static uint32_t wanted(const struct wish *w, uint32_t place, struct replayed *m)
{
    const struct policy_options *o = &w->policy;
    uint32_t n = m->knob,
             next = n < o->detect ? o->detect : n + o->step - (n - o->detect) % o->step;
    uint32_t total = o->curve[0].total[policy_bin(&policy_tenths, m->certainty)];
    bool sure = m->certainty > 0.6 + CERTAINDEX_EQUAL,
         reads = n >= o->detect && n + o->step == next;
    switch (o->kind) {
    case POLICY_LENGTH:
        return n < o->detect ? o->detect : n == o->detect && m->tokens <= o->length_tokens ? 0 : 99;
    case POLICY_STATIC:
        return n < o->detect ? o->detect : n == o->detect && sure ? 0 : 99;
    case POLICY_K_STEP:
        return reads && sure ? 0 : next;
    case POLICY_CURVE_ONCE:
        m->total = n == o->detect ? total : m->total;
        return n < o->detect ? o->detect : m->total;
    case POLICY_CURVE_EACH_STEP:
        return n < o->detect || next < total ? next : total;
    case POLICY_ESC:
        return n > 0 && n % 2 == 0 && same_answers(w, place, n - 2, n) ? 0 : n + 2 - n % 2;
    case POLICY_ADAPTIVE_CONSISTENCY:
        if (n < o->detect)
            return o->detect;
        return policy_posterior(POLICY_POSTERIOR_BETA, m->counts, COUNT_OF(m->counts)) >
                       o->posterior
                   ? 0
                   : n + o->step;
    case POLICY_GIVE_UP:
        m->gave_up =
            n >= o->detect && n < w->batch_cap && policy_bin(&policy_tenths, m->certainty) < 3;
        return m->gave_up ? 0 : next;
    default:
        return 99;
    }
}

static bool is_replayed(enum policy_kind kind)
{
    return kind != POLICY_DEEPCONF && kind != POLICY_M_OF_N;
}

static void wish_make_replayed(struct wish *w)
{
    do {
        wish_make(w, DYNASOR_ALGORITHM_SC);
    } while (!is_replayed(w->policy.kind));
}

/* To its grant, or where its policy ends it before; there it is read in any case. */
static void samples_go(const struct wish *w, uint32_t place, struct replayed *m, uint32_t grant)
{
    const struct policy_options *o = &w->policy;
    bool thresholds = o->kind == POLICY_STATIC || o->kind == POLICY_K_STEP;
    while (m->knob < grant && !m->settled) {
        uint32_t to = wanted(w, place, m);
        samples_read(w, place, m, to < grant ? to : grant);
        m->settled = wanted(w, place, m) <= m->knob ||
                     (thresholds && m->knob >= o->detect && m->certainty > 0.6 + CERTAINDEX_EQUAL);
    }
    m->settled |= m->knob == w->batch_cap;
}

static void replay(const struct wish *w, struct replayed all[MEMBERS_MAX])
{
    for (uint32_t i = 0; i < w->count; i++)
        samples_go(w, i, &all[i], w->cap);
    for (bool granted = true; granted;) {
        uint64_t spent = 0, left;
        bool asked[MEMBERS_MAX] = {false};
        granted = false;
        for (uint32_t i = 0; i < w->count; i++)
            spent += all[i].tokens;
        left = w->tokens > spent ? w->tokens - spent : 0;
        for (;;) { /* the most certain of those that have not been asked */
            uint32_t best = UINT32_MAX;
            for (uint32_t i = 0; i < w->count; i++)
                if (!all[i].settled && !asked[i] &&
                    (best == UINT32_MAX || all[i].certainty > all[best].certainty))
                    best = i;
            if (best == UINT32_MAX)
                break;
            struct replayed *m = &all[best];
            uint64_t cost = (m->tokens + m->knob - 1) / m->knob, more = left / cost;
            more = more < w->step ? more : w->step;
            more = more < w->batch_cap - m->knob ? more : w->batch_cap - m->knob;
            asked[best] = true;
            left -= more * cost;
            granted |= more > 0;
            /* Its own priority and cost have been used; nobody else's depend on them. */
            samples_go(w, best, m, m->knob + (uint32_t)more);
        }
    }
}

static void came_as_replayed(const struct wish *w, const struct came *came,
                             const struct replayed *all)
{
    for (uint32_t i = 0; i < w->count; i++) {
        bool at_end = all[i].knob == w->batch_cap;
        if (came[i].state != DYNASOR_STATE_DONE)
            continue;
        CHECK(came[i].knob == all[i].knob && came[i].tokens == all[i].tokens,
              "%s: member %u: knob %u with %" PRIu64 " tokens, by the replay %u with %" PRIu64,
              policy_kind_name(w->policy.kind), i, came[i].knob, came[i].tokens, all[i].knob,
              all[i].tokens);
        enum run_verdict verdict = at_end           ? RUN_CAPPED
                                   : all[i].gave_up ? RUN_GIVEN_UP
                                   : all[i].settled ? RUN_SETTLED
                                                    : RUN_CAPPED;
        CHECK(came[i].verdict == verdict, "member %u: verdict %u, by the replay %u", i,
              came[i].verdict, (unsigned)verdict);
    }
}

/* Each policy that can has ended some that were raised. */
static bool all_kinds(const uint32_t kinds[POLICY_KINDS])
{
    for (uint32_t k = 0; k < POLICY_KINDS; k++)
        if (is_replayed((enum policy_kind)k) && k != POLICY_EVEN && k != POLICY_PROBE && !kinds[k])
            return false;
    return true;
}

static void a_batch_comes_to_what_the_replay_says(void **state)
{
    (void)state;
    uint32_t raised = 0, members = 0, settled = 0, kinds[POLICY_KINDS] = {0};
    write_token = write_samples;
    for (uint32_t round = 0; round < 500 || !all_kinds(kinds); round++) {
        CHECK(round < 10000, "not every policy ends members that were raised");
        struct wish w;
        struct came came[MEMBERS_MAX];
        struct replayed all[MEMBERS_MAX] = {{0}};
        wish_make_replayed(&w);
        replay(&w, all);
        run_alone(&w, came);
        for (uint32_t i = 0; i < w.count; i++) {
            assert_int_equal(came[i].state, DYNASOR_STATE_DONE);
            raised += came[i].knob > w.cap;
            settled += came[i].verdict == RUN_SETTLED;
            kinds[w.policy.kind] += came[i].knob > w.cap && came[i].verdict != RUN_CAPPED;
        }
        members += w.count;
        came_as_replayed(&w, came, all);
    }
    (void)printf("%u members, %u raised above their cap, %u settled\n", members, raised, settled);
    assert_true(raised > members / 8 && settled > members / 8);
}

/* ---- others change nothing ---------------------------------------------------------------------- */

static void shuffle(uint32_t *order, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        order[i] = i;
    for (uint32_t i = count; i > 1; i--) {
        uint32_t k = (uint32_t)rng_below(&rng, i), swap = order[k];
        order[k] = order[i - 1];
        order[i - 1] = swap;
    }
}

/* Three batches at once, their members mixed, in no order of their places; two of them have the same
 * number, of different clients. */
static void run_together(const struct wish *w, struct came came[3][MEMBERS_MAX])
{
    struct host h;
    struct came flat[3 * MEMBERS_MAX] = {{0}};
    uint32_t order[3 * MEMBERS_MAX], batch[3 * MEMBERS_MAX], place[3 * MEMBERS_MAX], count = 0;
    for (uint32_t b = 0; b < 3; b++)
        for (uint32_t i = 0; i < w[b].count; i++, count++) {
            batch[count] = b;
            place[count] = i;
        }
    host_open(&h, BRANCHES_MAX, 60, 50);
    shuffle(order, count);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t n = order[i];
        flat[n].handle = submit(&h, &w[batch[n]], place[n]);
        if (rng_below(&rng, 3) == 0)
            turn(&h);
    }
    run_until_ended(&h, flat, count);
    for (uint32_t n = 0; n < count; n++)
        came[batch[n]][place[n]] = flat[n];
    host_close(&h);
}

static const uint32_t batched[] = {DYNASOR_ALGORITHM_SC, DYNASOR_ALGORITHM_BEST_OF_N,
                                   DYNASOR_ALGORITHM_REBASE, DYNASOR_ALGORITHM_MCTS,
                                   DYNASOR_ALGORITHM_SC_COT};

static void batches_come_to_the_same_in_any_company(void **state)
{
    (void)state;
    write_token = write_anything;
    for (uint32_t a = 0; a < COUNT_OF(batched); a++) {
        uint32_t raised = 0, members = 0;
        for (uint32_t round = 0; round < 12; round++) {
            struct wish w[3];
            static struct came alone[3][MEMBERS_MAX], together[3][MEMBERS_MAX];
            for (uint32_t b = 0; b < 3; b++) {
                wish_make(&w[b], batched[a]);
                w[b].tokens *= 6;
                w[b].number = 7 + b / 2;
                w[b].client = b % 2;
                run_alone(&w[b], alone[b]);
            }
            run_together(w, together);
            for (uint32_t b = 0; b < 3; b++)
                for (uint32_t i = 0; i < w[b].count; i++) {
                    assert_int_equal(alone[b][i].state, DYNASOR_STATE_DONE);
                    same_came(&alone[b][i], &together[b][i], i);
                    raised += alone[b][i].knob > w[b].cap;
                    members++;
                }
        }
        (void)printf("%s: %u members, %u raised\n", algorithm_get(batched[a])->name, members,
                     raised);
        assert_true(raised > members / 20);
    }
}

/* A batch of one that has all it wants comes to what the same program comes to under a policy that stops on the
 * way where the rounds are: nothing is counted twice, or forgotten. */
static void a_member_goes_on_as_if_it_had_had_more(void **state)
{
    (void)state;
    write_token = write_anything;
    for (uint32_t round = 0; round < 100; round++) {
        struct wish w;
        struct program_result results[2];
        wish_make(&w, batched[round % COUNT_OF(batched)]);
        w.count = 1;
        w.batch_cap = 3 * w.cap;
        w.step = w.cap;
        w.tokens = 1000000;
        for (uint32_t i = 0; i < 2; i++) {
            struct host h;
            struct program_setting settings[SETTINGS];
            w.policy = policy_of(i ? POLICY_K_STEP : POLICY_EVEN, w.cap, 2); /* is never certain */
            w.policy.step = w.cap;
            struct program_spec spec = spec_of(&w, 0, settings);
            if (i)
                settings[1].value = 0; /* no batch */
            for (uint32_t s = 2; i && s < 7; s++)
                settings[s].value = s == 3 ? 0 : 1;
            if (i)
                settings[0].value = w.batch_cap;
            host_open(&h, BRANCHES_MAX, 0, 0);
            uint32_t handle = program_submit(h.programs, &spec);
            const struct program_view *v = program_view(h.programs, handle);
            for (uint32_t turns = 0; v->state < DYNASOR_STATE_DONE; turns++) {
                CHECK(turns < 100000, "it does not end");
                turn(&h);
            }
            assert_int_equal(v->state, DYNASOR_STATE_DONE);
            results[i] = v->result;
            program_free(h.programs, handle);
            host_close(&h);
        }
        CHECK(memcmp(&results[0], &results[1], sizeof results[0]) == 0,
              "%s: knob %u and %u, certainty %g and %g, %" PRIu64 " and %" PRIu64 " tokens",
              algorithm_get(w.algorithm)->name, results[0].knob, results[1].knob,
              results[0].seen.value[0], results[1].seen.value[0], results[0].cost.decoded_tokens,
              results[1].cost.decoded_tokens);
    }
}

/* More batches than there is room for at once, all mixed: none waits for the room of another. */
static void batches_do_not_wait_for_each_other(void **state)
{
    (void)state;
    enum { BATCHES = 5, EACH = 8 };
    write_token = write_samples;
    for (uint32_t round = 0; round < 20; round++) {
        struct host h;
        struct wish w[BATCHES];
        struct came came[BATCHES * EACH] = {{0}};
        uint32_t order[BATCHES * EACH];
        host_open(&h, 80, 20, 20);
        for (uint32_t b = 0; b < BATCHES; b++) {
            wish_make(&w[b], DYNASOR_ALGORITHM_SC);
            w[b].count = EACH;
            w[b].number = b + 1;
            w[b].cap = 2;
            w[b].batch_cap = 10; /* so that one batch may have them all */
            for (uint32_t i = 0; i < EACH; i++)
                w[b].seeds[i] = rng_next(&rng);
        }
        shuffle(order, BATCHES * EACH);
        for (uint32_t i = 0; i < BATCHES * EACH; i++) {
            uint32_t n = order[i];
            came[n].handle = submit(&h, &w[n / EACH], n % EACH);
            turn(&h);
        }
        run_until_ended(&h, came, BATCHES * EACH);
        for (uint32_t n = 0; n < BATCHES * EACH; n++)
            assert_int_equal(came[n].state, DYNASOR_STATE_DONE);
        host_close(&h);
    }
}

/* ---- what a member may say ---------------------------------------------------------------------- */

static struct program_refusal refusal_of(struct host *h, const struct wish *w, uint32_t place)
{
    struct program_setting settings[SETTINGS];
    struct program_spec spec = spec_of(w, place, settings);
    return program_check(h->programs, &spec);
}

static void refused(struct host *h, const struct wish *w, uint32_t place, enum dynasor_field field,
                    uint64_t least, uint64_t max, uint64_t got)
{
    struct program_refusal no = refusal_of(h, w, place);
    CHECK(no.status == DYNASOR_E_INVALID && no.field == field && no.least == least &&
              no.max == max && no.got == got,
          "status %d, field %d, %" PRIu64 " of %" PRIu64 " .. %" PRIu64
          "; wanted field %d, %" PRIu64 " of %" PRIu64 " .. %" PRIu64,
          (int)no.status, (int)no.field, no.got, no.least, no.max, (int)field, got, least, max);
}

static void a_member_that_says_something_else_is_refused(void **state)
{
    (void)state;
    struct host h;
    struct wish good, bad;
    write_token = write_samples;
    host_open(&h, BRANCHES_MAX, 0, 0);
    wish_make(&good, DYNASOR_ALGORITHM_SC);
    good.count = 4;
    good.cap = 3;
    good.batch_cap = 9;
    good.step = 2;
    good.tokens = 500;
    for (uint32_t i = 0; i < 4; i++)
        good.seeds[i] = i;
#define BAD(member, value, place, ...)                                                             \
    bad = good;                                                                                    \
    bad.member = (value);                                                                          \
    refused(&h, &bad, place, __VA_ARGS__)
    /* by itself */
    BAD(count, 3, 3, DYNASOR_FIELD_BATCH_PLACE, 0, 2, 3);
    BAD(batch_cap, 2, 0, DYNASOR_FIELD_BATCH_CAP, 3, 1024, 2);
    BAD(number, 0, 0, DYNASOR_FIELD_BATCH, 1, UINT32_MAX, 0);
    BAD(tokens, 0, 0, DYNASOR_FIELD_BATCH_TOKENS, 1, 1000000000000, 0);
    BAD(batch_cap, 1024, 0, DYNASOR_FIELD_BATCH_CAP, 3, BRANCHES_MAX / 4, 1024);
    BAD(count, PROGRAMS + 1, 0, DYNASOR_FIELD_BATCH_PROGRAMS, 1, PROGRAMS, PROGRAMS + 1);
    /* beside others */
    (void)submit(&h, &good, 1);
    BAD(count, 5, 0, DYNASOR_FIELD_BATCH_PROGRAMS, 4, 4, 5);
    BAD(tokens, 499, 0, DYNASOR_FIELD_BATCH_TOKENS, 500, 500, 499);
    BAD(batch_cap, 10, 0, DYNASOR_FIELD_BATCH_CAP, 9, 9, 10);
    BAD(step, 1, 0, DYNASOR_FIELD_BATCH_STEP, 2, 2, 1);
    BAD(cap, 4, 0, DYNASOR_FIELD_CAP, 3, 3, 4);
    BAD(algorithm, DYNASOR_ALGORITHM_BEST_OF_N, 0, DYNASOR_FIELD_ALGORITHM, DYNASOR_ALGORITHM_SC,
        DYNASOR_ALGORITHM_SC, DYNASOR_ALGORITHM_BEST_OF_N);
    refused(&h, &good, 1, DYNASOR_FIELD_BATCH_PLACE, 0, 3, 1);
    (void)submit(&h, &good, 0);
    refused(&h, &good, 1, DYNASOR_FIELD_BATCH_PLACE, 2, 3, 1);
    bad = good;
    bad.client++; /* another one's batch of the same number */
    assert_int_equal(refusal_of(&h, &bad, 1).status, DYNASOR_OK);
    (void)submit(&h, &good, 3);
    (void)submit(&h, &good, 2);
    refused(&h, &good, 2, DYNASOR_FIELD_BATCH_PROGRAMS, 1, 4, 5); /* it is closed */
    host_close(&h);
}

static void algorithms_without_a_cap_are_refused(void **state)
{
    (void)state;
    static const uint32_t others[] = {DYNASOR_ALGORITHM_SINGLE, DYNASOR_ALGORITHM_COT,
                                      DYNASOR_ALGORITHM_BEAM, DYNASOR_ALGORITHM_CUSTOM};
    struct host h;
    host_open(&h, BRANCHES_MAX, 0, 0);
    for (uint32_t i = 0; i < COUNT_OF(others); i++) {
        const struct program_setting batch = {DYNASOR_PARAMETER_BATCH, 1};
        struct program_refusal no = program_check(
            h.programs,
            &(struct program_spec){
                .algorithm = others[i], .max_tokens = 10, .settings = &batch, .settings_count = 1});
        assert_int_equal(no.status, DYNASOR_E_UNSUPPORTED);
        assert_int_equal(no.field, DYNASOR_FIELD_BATCH);
    }
    /* A tree that may have more branches than there are: as deep as it has tokens. */
    const struct program_setting wide[] = {{DYNASOR_PARAMETER_CAP, 1024},
                                           {DYNASOR_PARAMETER_DEPTH, 64}};
    struct program_spec spec = {.algorithm = DYNASOR_ALGORITHM_REBASE,
                                .max_tokens = 100,
                                .settings = wide,
                                .settings_count = 2};
    struct program_refusal no = program_check(h.programs, &spec);
    assert_int_equal(no.field, DYNASOR_FIELD_BRANCHES);
    assert_int_equal(no.got, 65536);
    spec.max_tokens = 2;
    assert_int_equal(program_check(h.programs, &spec).status, DYNASOR_OK);
    host_close(&h);
}

/* What is charged to a tree is its knob times its depth: the field that is refused is the one that helps. */
static void a_batch_of_trees_is_refused_by_what_would_help(void **state)
{
    (void)state;
    static const struct {
        uint32_t count, cap, batch_cap, depth;
        enum dynasor_field field; /* NONE: accepted */
        uint64_t least, most, got;
    } table[] = {
        {2, 60, 60, 25, DYNASOR_FIELD_BATCH_PROGRAMS, 1, BRANCHES_MAX / 1500, 2},
        {3, 40, 0, 25, DYNASOR_FIELD_BATCH_PROGRAMS, 1, BRANCHES_MAX / 1000, 3},
        {2, 40, 0, 25, DYNASOR_FIELD_BATCH_CAP, 40, BRANCHES_MAX / 50, 80},
        {2, 40, 41, 25, DYNASOR_FIELD_BATCH_CAP, 40, BRANCHES_MAX / 50, 41},
        {2, 40, 40, 25, DYNASOR_FIELD_NONE, 0, 0, 0},
        {2, 40, 0, 4, DYNASOR_FIELD_NONE, 0, 0, 0},
        {12, 64, 0, 1, DYNASOR_FIELD_NONE, 0, 0, 0},
    };
    struct host h;
    host_open(&h, BRANCHES_MAX, 0, 0);
    for (uint32_t i = 0; i < COUNT_OF(table); i++) {
        const struct program_setting settings[] = {
            {DYNASOR_PARAMETER_CAP, table[i].cap},
            {DYNASOR_PARAMETER_BATCH, 1},
            {DYNASOR_PARAMETER_BATCH_PROGRAMS, table[i].count},
            {DYNASOR_PARAMETER_BATCH_TOKENS, 1000},
            {DYNASOR_PARAMETER_BATCH_CAP, table[i].batch_cap},
            {DYNASOR_PARAMETER_DEPTH, table[i].depth}};
        struct program_refusal no =
            program_check(h.programs, &(struct program_spec){.algorithm = DYNASOR_ALGORITHM_REBASE,
                                                             .max_tokens = 100,
                                                             .settings = settings,
                                                             .settings_count = COUNT_OF(settings)});
        CHECK(no.field == table[i].field && no.least == table[i].least && no.max == table[i].most &&
                  no.got == table[i].got,
              "%u: field %d, %" PRIu64 " of %" PRIu64 " .. %" PRIu64, i, (int)no.field, no.got,
              no.least, no.max);
    }
    struct parameters p;
    parameters_default(DYNASOR_ALGORITHM_REBASE, &p); /* a round grows a tree, not a path */
    assert_int_equal(parameter_whole(&p, DYNASOR_PARAMETER_BATCH_STEP), 16);
    host_close(&h);
}

/* Also of those that wait for room is it known, before any of them can end, that their batch has begun. */
static void a_batch_that_begins_is_running_as_a_whole(void **state)
{
    (void)state;
    struct host h;
    struct wish w;
    struct came came[MEMBERS_MAX] = {{0}};
    write_token = write_samples;
    do {
        wish_make(&w, DYNASOR_ALGORITHM_SC);
    } while (w.count < 4);
    host_open(&h, BRANCHES_MAX, 0, 100); /* as long as one runs there is no room for another */
    for (uint32_t i = 0; i < w.count; i++) {
        assert_false(program_next(h.programs, &came[i].handle));
        came[i].handle = submit(&h, &w, i);
        assert_int_equal(program_view(h.programs, came[i].handle)->state,
                         i + 1 < w.count ? DYNASOR_STATE_QUEUED : DYNASOR_STATE_RUNNING);
    }
    for (uint32_t i = 0; i < w.count; i++) {
        uint32_t handle;
        assert_true(program_next(h.programs, &handle));
        assert_int_equal(handle, came[i].handle);
        assert_int_equal(program_view(h.programs, handle)->state, DYNASOR_STATE_RUNNING);
    }
    struct programs_stats stats;
    turn(&h);
    programs_stats(h.programs, &stats);
    assert_true(stats.queued_count > 0);
    run_until_ended(&h, came, w.count);
    host_close(&h);
}

/* ---- batches that lose members ------------------------------------------------------------------ */

static void a_batch_whose_members_do_not_come_ends(void **state)
{
    (void)state;
    struct host h;
    struct wish w;
    struct came came[MEMBERS_MAX] = {{0}};
    write_token = write_samples;
    host_open(&h, BRANCHES_MAX, 0, 0);
    wish_make(&w, DYNASOR_ALGORITHM_SC);
    w.count = 4;
    for (uint32_t i = 0; i < 4; i++)
        w.seeds[i] = i;
    for (uint32_t i = 0; i < 3; i++) { /* each at the last moment */
        h.now_ns += i ? IDLE_NS - 1 : 0;
        turn(&h);
        came[i].handle = submit(&h, &w, i);
    }
    assert_int_equal(h.rig.sched[0]->used, 0); /* they hold nothing */
    h.now_ns += IDLE_NS - 1;
    turn(&h);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(program_view(h.programs, came[i].handle)->state, DYNASOR_STATE_QUEUED);
    h.now_ns++;
    turn(&h);
    for (uint32_t i = 0; i < 3; i++) {
        take(&h, &came[i]);
        assert_int_equal(came[i].state, DYNASOR_STATE_FAILED);
        assert_int_equal(came[i].status, DYNASOR_E_TIMEOUT);
    }
    memset(came, 0, sizeof came); /* its number is free */
    for (uint32_t i = 0; i < 4; i++)
        came[i].handle = submit(&h, &w, i);
    run_until_ended(&h, came, 4);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(came[i].state, DYNASOR_STATE_DONE);
    host_close(&h);
}

/* One that is cancelled before the batch begins has spent nothing. */
static void a_member_that_ends_counts_with_what_it_spent(void **state)
{
    (void)state;
    write_token = write_samples;
    for (uint32_t round = 0; round < 100; round++) {
        struct host h;
        struct wish w;
        struct came came[MEMBERS_MAX] = {{0}};
        struct replayed all[MEMBERS_MAX] = {{0}};
        wish_make_replayed(&w);
        if (w.count < 2)
            continue;
        uint32_t first = (uint32_t)rng_below(&rng, w.count), last = (first + 1) % w.count;
        host_open(&h, BRANCHES_MAX, 30, 30);
        for (uint32_t i = 0; i < w.count; i++)
            if (i != last)
                came[i].handle = submit(&h, &w, i);
        bool gone = w.count > 2; /* or it would be forgotten */
        if (gone) {
            program_end(h.programs, came[first].handle, DYNASOR_STATE_CANCELLED,
                        DYNASOR_E_CANCELLED);
            all[first].settled = true;
        }
        came[last].handle = submit(&h, &w, last);
        run_until_ended(&h, came, w.count);
        assert_int_equal(came[first].state, gone ? DYNASOR_STATE_CANCELLED : DYNASOR_STATE_DONE);
        replay(&w, all);
        came_as_replayed(&w, came, all);
        host_close(&h);
    }
}

/* Cancelled wherever they are: the others go on, and are never left to wait. */
static void members_are_cancelled_at_any_moment(void **state)
{
    (void)state;
    uint32_t cancelled = 0, done = 0;
    write_token = write_samples;
    for (uint32_t round = 0; round < 200; round++) {
        struct host h;
        struct wish w;
        struct came came[MEMBERS_MAX] = {{0}};
        wish_make(&w, DYNASOR_ALGORITHM_SC);
        w.tokens *= 3;
        host_open(&h, BRANCHES_MAX, 30, 30);
        for (uint32_t i = 0; i < w.count; i++)
            came[i].handle = submit(&h, &w, i);
        for (uint32_t i = 0; i < w.count / 2; i++) {
            for (uint64_t turns = rng_below(&rng, 60); turns > 0; turns--)
                turn(&h);
            program_end(h.programs, came[rng_below(&rng, w.count)].handle, DYNASOR_STATE_CANCELLED,
                        DYNASOR_E_CANCELLED);
        }
        run_until_ended(&h, came, w.count);
        for (uint32_t i = 0; i < w.count; i++) {
            cancelled += came[i].state == DYNASOR_STATE_CANCELLED;
            done += came[i].state == DYNASOR_STATE_DONE;
        }
        host_close(&h);
    }
    (void)printf("%u cancelled, %u done\n", cancelled, done);
    assert_true(cancelled > 100 && done > 100);
}

/* Its client goes: everything is given back, wherever the members are, and so is the number. */
static void a_batch_whose_client_is_gone_is_forgotten(void **state)
{
    (void)state;
    struct host h;
    write_token = write_samples;
    host_open(&h, BRANCHES_MAX, 30, 30);
    for (uint32_t round = 0; round < 300; round++) {
        struct wish w;
        uint32_t handles[MEMBERS_MAX];
        wish_make(&w, DYNASOR_ALGORITHM_SC);
        w.client = 1;
        w.number = 1 + round % 2;
        uint32_t come = 1 + (uint32_t)rng_below(&rng, w.count);
        for (uint32_t i = 0; i < come; i++)
            handles[i] = submit(&h, &w, i);
        for (uint64_t turns = rng_below(&rng, 80); turns > 0; turns--)
            turn(&h);
        for (uint32_t i = 0; i < come; i++)
            program_free(h.programs, handles[i]);
        turn(&h);
        assert_int_equal(h.rig.sched[0]->used, 0);
    }
    host_close(&h);
}

/* After a restart: all of a batch that had begun are there and it runs again, to the same end; or some had
 * ended, and what they spent nobody knows. */
static void a_batch_that_had_begun_runs_again_only_whole(void **state)
{
    (void)state;
    write_token = write_samples;
    for (uint32_t missing = 0; missing < 2; missing++) {
        struct host h;
        struct wish w;
        struct came came[MEMBERS_MAX] = {{0}}, alone[MEMBERS_MAX];
        struct program_setting settings[SETTINGS];
        do {
            wish_make(&w, DYNASOR_ALGORITHM_SC);
        } while (w.count < 3);
        run_alone(&w, alone);
        host_open(&h, BRANCHES_MAX, 0, 0);
        for (uint32_t i = 0; i < w.count - missing; i++) {
            struct program_spec spec = spec_of(&w, i, settings);
            spec.restarted = i == 1;
            came[i].handle = program_submit(h.programs, &spec);
        }
        run_until_ended(&h, came, w.count - missing);
        for (uint32_t i = 0; i < w.count - missing; i++) {
            if (!missing) {
                same_came(&alone[i], &came[i], i);
                continue;
            }
            assert_int_equal(came[i].state, DYNASOR_STATE_FAILED);
            assert_int_equal(came[i].status, DYNASOR_E_RESTARTED);
        }
        host_close(&h);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_batch_comes_to_what_the_replay_says),
        cmocka_unit_test(batches_come_to_the_same_in_any_company),
        cmocka_unit_test(a_member_goes_on_as_if_it_had_had_more),
        cmocka_unit_test(batches_do_not_wait_for_each_other),
        cmocka_unit_test(a_member_that_says_something_else_is_refused),
        cmocka_unit_test(algorithms_without_a_cap_are_refused),
        cmocka_unit_test(a_batch_of_trees_is_refused_by_what_would_help),
        cmocka_unit_test(a_batch_that_begins_is_running_as_a_whole),
        cmocka_unit_test(a_batch_whose_members_do_not_come_ends),
        cmocka_unit_test(a_member_that_ends_counts_with_what_it_spent),
        cmocka_unit_test(members_are_cancelled_at_any_moment),
        cmocka_unit_test(a_batch_whose_client_is_gone_is_forgotten),
        cmocka_unit_test(a_batch_that_had_begun_runs_again_only_whole),
    };
    rng.state = check_number("SEED", now_ns());
    (void)printf("SEED=%" PRIu64 "\n", rng.state);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
