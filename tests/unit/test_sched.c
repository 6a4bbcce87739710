/* tests/unit/test_sched.c: which sequences run in which step, under virtual time and on the simulated
 * engine: order, size, pause, removal at every moment, reuse of places, and when there is work. That
 * this holds for any order of calls is shown by tests/fuzz/fuzz_sched.c. And that nobody waits for the step of a
 * device that broke, nor frees what it may still write. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>
#include <sys/resource.h>
#include <cmocka.h>

#include "daemon/engine/impl.h"
#include "daemon/sched/embed.h"
#include "daemon/sched/sched.h"
#include "tests/lib/check.h"

#define STEP_NS 1000u
#define PREFILL_NS 10u
#define RESULTS_MAX 16u
#define TOKENS_MAX 4096u /* of a step: more than all prompts have */

struct rig {
    struct engine *engine;
    struct sched *sched;
    uint64_t now_ns;
    struct sched_result got[RESULTS_MAX];
};

static void rig_open_alive(struct rig *r, uint32_t seqs_max, uint32_t alive_max, uint32_t rows_max)
{
    *r = (struct rig){.now_ns = 1};
    char message[ENGINE_MESSAGE_BYTES];
    assert_int_equal(engine_open(&(struct engine_config){.simulate = true,
                                                         .sim_step_ns = STEP_NS,
                                                         .sim_prefill_ns_per_token = PREFILL_NS,
                                                         .rows_max = rows_max,
                                                         .tokens_max = TOKENS_MAX},
                                 message, &r->engine),
                     0);
    assert_int_equal(sched_new(&(struct sched_config){.seqs_max = seqs_max,
                                                      .alive_max = alive_max,
                                                      .groups_max = seqs_max,
                                                      .rows_max = rows_max,
                                                      .tokens_max = TOKENS_MAX},
                               r->engine, &r->sched),
                     0);
}

static void rig_open(struct rig *r, uint32_t seqs_max, uint32_t rows_max)
{
    rig_open_alive(r, seqs_max, 0, rows_max);
}

static void rig_close(struct rig *r)
{
    sched_free(r->sched);
    engine_close(r->engine);
}

/* SCHED_NONE: no room. */
static uint32_t add_prompt(struct rig *r, uint32_t user, uint32_t prompt_tokens)
{
    uint32_t seq;
    struct sched_seq_args args = {.seed = user, .user = user, .prompt_tokens = prompt_tokens};
    int code = sched_add(r->sched, &args, &seq);
    assert_true(code == SCHED_OK || code == SCHED_E_FULL);
    return code == SCHED_OK ? seq : SCHED_NONE;
}

static uint32_t add(struct rig *r, uint32_t user)
{
    return add_prompt(r, user, 1);
}

static uint64_t steps_count(const struct rig *r)
{
    struct sched_stats stats;
    sched_stats(r->sched, &stats);
    return stats.steps_count;
}

static uint32_t drain(struct rig *r)
{
    uint32_t count = 0;
    struct sched_result result;
    while (sched_next(r->sched, &result)) {
        assert_true(count < RESULTS_MAX);
        r->got[count++] = result;
    }
    return count;
}

/* Posts a step if none is in flight. */
static void post(struct rig *r)
{
    (void)sched_poll(r->sched, r->now_ns);
    assert_int_equal(drain(r), 0); /* it takes time */
}

/* Ends the step in flight; returns its results, now in got. */
static uint32_t collect(struct rig *r)
{
    uint64_t due_ns = sched_due_ns(r->sched);
    assert_true(due_ns > r->now_ns && due_ns < UINT64_MAX);
    r->now_ns = due_ns;
    (void)sched_poll(r->sched, r->now_ns);
    return drain(r);
}

static uint32_t step(struct rig *r)
{
    post(r);
    return collect(r);
}

static void expect(const struct rig *r, uint32_t i, uint32_t user, uint32_t position)
{
    assert_int_equal(r->got[i].user, user);
    assert_int_equal(r->got[i].position, position);
}

static void sched_without_sequences_is_idle(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, 4, 4);
    assert_int_equal(sched_due_ns(r.sched), UINT64_MAX);
    assert_int_equal(sched_poll(r.sched, r.now_ns), 0);
    assert_int_equal(steps_count(&r), 0);
    assert_int_equal(drain(&r), 0);
    rig_close(&r);
    sched_free(NULL);
}

static void sched_results_come_in_order_of_arrival_with_positions_from_zero(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, 8, 8);
    for (uint32_t user = 0; user < 5; user++)
        (void)add(&r, user);
    for (uint32_t position = 0; position < 20; position++) {
        assert_int_equal(step(&r), 5);
        for (uint32_t user = 0; user < 5; user++)
            expect(&r, user, user, position);
    }
    assert_int_equal(steps_count(&r), 20);
    rig_close(&r);
}

static void sched_first_comers_come_first_and_more_than_rows_max_take_turns(void **state)
{
    struct rig r;
    uint32_t seq[10];
    (void)state;
    rig_open(&r, 16, 4);
    for (uint32_t user = 0; user < 10; user++)
        seq[user] = add(&r, user);
    for (uint32_t at = 0; at < 12; at += 4) {
        assert_int_equal(step(&r), 4);
        for (uint32_t i = 0; i < 4; i++)
            expect(&r, i, (at + i) % 10, (at + i) / 10);
    }
    sched_remove(r.sched, seq[3]);
    sched_remove(r.sched, seq[5]);
    assert_int_equal(step(&r), 4); /* 2 is next; 3 and 5 are gone */
    expect(&r, 0, 2, 1);
    expect(&r, 1, 4, 1);
    expect(&r, 2, 6, 1);
    expect(&r, 3, 7, 1);
    rig_close(&r);
}

static void sched_a_prompt_is_paid_for_once_in_its_first_step(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, 4, 4);
    (void)add_prompt(&r, 1, 30);
    (void)add_prompt(&r, 2, 12);
    post(&r);
    assert_int_equal(sched_due_ns(r.sched), r.now_ns + STEP_NS + 40 * PREFILL_NS);
    assert_int_equal(collect(&r), 2);
    post(&r);
    assert_int_equal(sched_due_ns(r.sched), r.now_ns + STEP_NS);
    assert_int_equal(collect(&r), 2);
    rig_close(&r);
}

static void sched_a_prompt_paused_before_its_first_step_is_still_owed(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, 4, 4);
    uint32_t seq = add_prompt(&r, 1, 30);
    (void)add(&r, 2);
    sched_pause(r.sched, seq);
    post(&r);
    assert_int_equal(sched_due_ns(r.sched), r.now_ns + STEP_NS);
    assert_int_equal(collect(&r), 1);
    sched_resume(r.sched, seq);
    post(&r);
    assert_int_equal(sched_due_ns(r.sched), r.now_ns + STEP_NS + 29 * PREFILL_NS);
    assert_int_equal(collect(&r), 2);
    expect(&r, 0, 2, 1);
    expect(&r, 1, 1, 0);
    rig_close(&r);
}

static void sched_a_paused_sequence_takes_part_in_no_step(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, 4, 4);
    uint32_t seq = add(&r, 1);
    (void)add(&r, 2);
    assert_int_equal(step(&r), 2);
    sched_pause(r.sched, seq);
    sched_pause(r.sched, seq); /* idempotent */
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(step(&r), 1);
        expect(&r, 0, 2, 1 + i);
    }
    sched_resume(r.sched, seq);
    sched_resume(r.sched, seq);
    assert_int_equal(step(&r), 2); /* behind those that were there, where it had stopped */
    expect(&r, 0, 2, 6);
    expect(&r, 1, 1, 1);
    rig_close(&r);
}

static void sched_with_everything_paused_is_idle(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, 4, 4);
    uint32_t seq = add(&r, 1);
    assert_int_equal(sched_due_ns(r.sched), 0);
    sched_pause(r.sched, seq);
    assert_int_equal(sched_due_ns(r.sched), UINT64_MAX);
    assert_int_equal(sched_poll(r.sched, r.now_ns), 0);
    sched_resume(r.sched, seq);
    assert_int_equal(sched_due_ns(r.sched), 0);
    sched_pause(r.sched, seq);
    sched_remove(r.sched, seq);
    assert_int_equal(sched_due_ns(r.sched), UINT64_MAX);
    rig_close(&r);
}

static void sched_pause_in_flight_delivers_that_row_and_no_more(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, 4, 4);
    uint32_t seq = add(&r, 1);
    post(&r);
    sched_pause(r.sched, seq);
    assert_int_equal(collect(&r), 1);
    expect(&r, 0, 1, 0);
    assert_int_equal(sched_due_ns(r.sched), UINT64_MAX);
    sched_resume(r.sched, seq);
    post(&r);
    sched_pause(r.sched, seq);
    sched_resume(r.sched, seq); /* while its row is away: must not run twice at one position */
    assert_int_equal(collect(&r), 1);
    expect(&r, 0, 1, 1);
    assert_int_equal(step(&r), 1);
    expect(&r, 0, 1, 2);
    rig_close(&r);
}

static void sched_removal_in_flight_discards_that_row_alone(void **state)
{
    struct rig r;
    uint32_t seq[4];
    (void)state;
    for (uint32_t gone = 0; gone < 4; gone++) {
        rig_open(&r, 4, 4);
        for (uint32_t user = 0; user < 4; user++)
            seq[user] = add(&r, user);
        assert_int_equal(step(&r), 4);
        post(&r);
        sched_remove(r.sched, seq[gone]);
        assert_int_equal(collect(&r), 3);
        for (uint32_t i = 0; i < 3; i++)
            expect(&r, i, i < gone ? i : i + 1, 1);
        rig_close(&r);
    }
}

static void sched_a_reused_place_gets_nothing_of_its_predecessor(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, 1, 1); /* one place only: it must be the same */
    uint32_t seq = add(&r, 1);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(step(&r), 1);
    post(&r);
    sched_remove(r.sched, seq);
    assert_int_equal(add(&r, 2), seq);
    assert_int_equal(collect(&r), 0);
    assert_int_equal(step(&r), 1);
    expect(&r, 0, 2, 0);
    rig_close(&r);
}

static void sched_a_reused_place_in_flight_starts_unpaused_and_owes_its_prompt(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, 1, 1);
    uint32_t seq = add(&r, 1);
    post(&r);
    sched_pause(r.sched, seq);
    sched_remove(r.sched, seq);
    assert_int_equal(add_prompt(&r, 2, 5), seq);
    assert_int_equal(collect(&r), 0);
    post(&r);
    assert_int_equal(sched_due_ns(r.sched), r.now_ns + STEP_NS + 4 * PREFILL_NS);
    assert_int_equal(collect(&r), 1);
    expect(&r, 0, 2, 0);
    rig_close(&r);
}

static void sched_removal_while_results_are_read_stops_those_not_read_yet(void **state)
{
    struct rig r;
    struct sched_result result;
    uint32_t seq[3];
    (void)state;
    rig_open(&r, 3, 3);
    for (uint32_t user = 0; user < 3; user++)
        seq[user] = add(&r, user);
    post(&r);
    (void)sched_poll(r.sched, sched_due_ns(r.sched));
    assert_true(sched_next(r.sched, &result));
    assert_int_equal(result.user, 0);
    sched_remove(r.sched, seq[0]); /* read: nothing changes */
    sched_remove(r.sched, seq[1]); /* not read: never delivered, not even to who comes next */
    assert_int_equal(add(&r, 9), seq[1]);
    assert_true(sched_next(r.sched, &result));
    assert_int_equal(result.user, 2);
    assert_false(sched_next(r.sched, &result));
    rig_close(&r);
}

static void sched_says_none_when_all_places_are_taken(void **state)
{
    struct rig r;
    uint32_t seq[3];
    (void)state;
    rig_open(&r, 3, 2);
    for (uint32_t user = 0; user < 3; user++)
        assert_int_not_equal(seq[user] = add(&r, user), SCHED_NONE);
    assert_int_equal(add(&r, 3), SCHED_NONE);
    sched_pause(r.sched, seq[0]);
    assert_int_equal(add(&r, 3), SCHED_NONE); /* a paused one keeps its place */
    sched_remove(r.sched, seq[0]);
    assert_int_equal(add(&r, 3), seq[0]);
    assert_int_equal(add(&r, 4), SCHED_NONE);
    rig_close(&r);
}

static uint64_t parked_count(const struct rig *r)
{
    struct sched_stats stats;
    sched_stats(r->sched, &stats);
    return stats.parked_count;
}

static void sched_a_paused_sequence_gives_its_room_to_who_needs_it(void **state)
{
    struct rig r;
    (void)state;
    rig_open_alive(&r, 4, 2, 4);
    uint32_t first = add_prompt(&r, 1, 30), second = add(&r, 2);
    assert_int_equal(step(&r), 2);
    assert_int_equal(add(&r, 3), SCHED_NONE); /* who runs keeps its room */
    sched_pause(r.sched, second);
    sched_pause(r.sched, first);
    assert_int_equal(parked_count(&r), 0); /* nobody needed it */
    assert_int_not_equal(add(&r, 3), SCHED_NONE);
    assert_int_equal(parked_count(&r), 1); /* the one that is paused longest, and no more */
    assert_int_equal(step(&r), 1);
    expect(&r, 0, 3, 0);
    sched_resume(r.sched, first); /* has its room yet */
    post(&r);
    assert_int_equal(sched_due_ns(r.sched), r.now_ns + STEP_NS);
    assert_int_equal(collect(&r), 2);
    expect(&r, 1, 1, 1);
    sched_pause(r.sched, first);
    sched_resume(r.sched, second); /* takes that of the first, and computes its two tokens again */
    post(&r);
    assert_int_equal(sched_due_ns(r.sched), r.now_ns + STEP_NS + PREFILL_NS);
    assert_int_equal(collect(&r), 2);
    expect(&r, 0, 3, 2);
    expect(&r, 1, 2, 1);
    assert_int_equal(parked_count(&r), 2);
    rig_close(&r);
}

static void sched_who_returns_comes_before_who_is_new(void **state)
{
    struct rig r;
    (void)state;
    rig_open_alive(&r, 8, 1, 4);
    uint32_t first = add(&r, 1);
    assert_int_equal(step(&r), 1);
    sched_pause(r.sched, first);
    uint32_t second = add(&r, 2);
    assert_int_equal(step(&r), 1);
    sched_resume(r.sched, first);
    assert_int_equal(add(&r, 3), SCHED_NONE);
    assert_int_equal(step(&r), 1); /* the second has the room */
    expect(&r, 0, 2, 1);
    sched_remove(r.sched, second);
    assert_int_equal(add(&r, 3), SCHED_NONE);
    assert_int_equal(step(&r), 1);
    expect(&r, 0, 1, 1);
    sched_pause(r.sched, first);
    uint32_t third = add(&r, 3);
    assert_int_not_equal(third, SCHED_NONE);
    sched_resume(r.sched, first);
    sched_pause(r.sched, first); /* while it waits: then nobody returns */
    sched_pause(r.sched, third);
    assert_int_not_equal(add(&r, 4), SCHED_NONE);
    assert_int_equal(step(&r), 1);
    expect(&r, 0, 4, 0);
    sched_resume(r.sched, first);
    sched_resume(r.sched, third);
    sched_remove(r.sched, first); /* while it waits */
    assert_int_equal(step(&r), 1);
    expect(&r, 0, 4, 1);
    rig_close(&r);
}

/* What is paused while its row is away has a result to come, and keeps its room until then. */
static void sched_a_row_in_flight_is_delivered_before_its_sequence_is_parked(void **state)
{
    struct rig r;
    (void)state;
    rig_open_alive(&r, 4, 1, 4);
    uint32_t first = add(&r, 1);
    post(&r);
    sched_pause(r.sched, first);
    assert_int_equal(add(&r, 2), SCHED_NONE);
    assert_int_equal(collect(&r), 1);
    expect(&r, 0, 1, 0);
    assert_int_not_equal(add(&r, 2), SCHED_NONE);
    assert_int_equal(step(&r), 1);
    expect(&r, 0, 2, 0);
    rig_close(&r);
}

/* A stem that is computed is paused, and its room is anybody's. */
static void sched_a_stem_that_is_ready_gives_its_room_to_who_needs_it(void **state)
{
    struct rig r;
    uint32_t stem;
    (void)state;
    rig_open_alive(&r, 4, 1, 4);
    uint32_t first = add(&r, 1);
    sched_pause(r.sched, first);
    struct sched_seq_args args = {.user = 2, .prompt_tokens = 3, .stem = true};
    assert_int_equal(sched_add(r.sched, &args, &stem), SCHED_OK);
    assert_int_equal(step(&r), 1);
    assert_int_equal(r.got[0].kind, SCHED_READY);
    assert_int_equal(sched_due_ns(r.sched), UINT64_MAX);
    sched_resume(r.sched, first);
    assert_int_equal(sched_due_ns(r.sched), 0);
    assert_int_equal(step(&r), 1);
    expect(&r, 0, 1, 0);
    assert_int_equal(parked_count(&r), 2);
    sched_remove(r.sched, stem);
    rig_close(&r);
}

static void sched_due_time_is_now_then_the_end_of_the_step(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, 2, 2);
    r.now_ns = 5000;
    (void)add(&r, 1);
    assert_int_equal(sched_due_ns(r.sched), 0);
    assert_int_equal(sched_poll(r.sched, r.now_ns), 1); /* posted one row */
    assert_int_equal(sched_due_ns(r.sched), 5000 + STEP_NS);
    (void)add(&r, 2); /* joins the next step, not this one */
    assert_int_equal(sched_due_ns(r.sched), 5000 + STEP_NS);
    assert_int_equal(sched_poll(r.sched, 5000 + STEP_NS - 1), 0);
    assert_int_equal(steps_count(&r), 1);
    assert_int_equal(sched_poll(r.sched, 5000 + STEP_NS), 1); /* collected one */
    assert_int_equal(drain(&r), 1);
    assert_int_equal(sched_due_ns(r.sched), 0);
    assert_int_equal(sched_poll(r.sched, 5000 + STEP_NS), 2);
    rig_close(&r);
}

/* User 1 alone, and user 1 in a crowd that comes, pauses and goes. */
static void sched_tokens_are_the_same_alone_and_in_a_crowd(void **state)
{
    struct rig alone, crowd;
    uint32_t token[50], seen = 0, other = SCHED_NONE;
    (void)state;
    rig_open(&alone, 1, 1);
    (void)add(&alone, 1);
    for (uint32_t i = 0; i < 50; i++) {
        assert_int_equal(step(&alone), 1);
        token[i] = alone.got[0].sampled.token;
    }
    rig_open(&crowd, 8, 3);
    (void)add(&crowd, 7);
    (void)add(&crowd, 1);
    for (uint32_t round = 0; seen < 50; round++) {
        if (other != SCHED_NONE && round % 3 == 2)
            sched_remove(crowd.sched, other);
        if (round % 3 != 1)
            other = add(&crowd, 100 + round);
        uint32_t count = step(&crowd);
        for (uint32_t i = 0; i < count; i++)
            if (crowd.got[i].user == 1) {
                assert_int_equal(crowd.got[i].position, seen);
                assert_int_equal(crowd.got[i].sampled.token, token[seen]);
                seen++;
            }
    }
    rig_close(&alone);
    rig_close(&crowd);
}

enum misuse { POLL_UNDRAINED, REMOVE_TWICE, PAUSE_REMOVED, RESUME_REMOVED, NO_MISUSE };

static int misuse(void *argument)
{
    enum misuse what = *(const enum misuse *)argument;
    struct rlimit no_core = {0};
    struct rig r;
    (void)setrlimit(RLIMIT_CORE, &no_core); /* a core file would only be litter */
    (void)signal(SIGABRT, SIG_DFL);
    rig_open(&r, 2, 2);
    uint32_t seq = add(&r, 1);
    (void)sched_poll(r.sched, 0);
    (void)sched_poll(r.sched, STEP_NS);
    if (what != POLL_UNDRAINED)
        (void)drain(&r);
    (void)sched_poll(r.sched, STEP_NS);
    sched_remove(r.sched, seq);
    if (what == REMOVE_TWICE)
        sched_remove(r.sched, seq);
    if (what == PAUSE_REMOVED)
        sched_pause(r.sched, seq);
    if (what == RESUME_REMOVED)
        sched_resume(r.sched, seq);
    rig_close(&r);
    return 0;
}

static void sched_misuse_stops_the_process(void **state)
{
    (void)state;
    for (enum misuse what = POLL_UNDRAINED; what <= NO_MISUSE; what++)
        assert_int_equal(child_wait(child_start(misuse, &what)),
                         what == NO_MISUSE ? 0 : 128 + SIGABRT);
}

/* ---- a device that breaks --------------------------------------------------------------------- */

#define HANGS_S 20u

/* Its steps never come to an end, and it says so as soon as it is asked for one. Until it is closed it writes to
 * what was posted. */
struct broken {
    struct engine base;
    struct engine_batch *batch[4];
    uint32_t posted_count;
    uint32_t written_count;
};

static void broken_post(struct engine *e, struct engine_batch *batch, uint64_t at_ns)
{
    struct broken *b = (struct broken *)(void *)e;
    (void)at_ns;
    b->batch[b->posted_count++] = batch;
}

static struct engine_batch *broken_next(struct engine *e, uint32_t place, uint64_t at_ns)
{
    (void)place, (void)at_ns;
    (void)snprintf(e->failure, sizeof e->failure, "it broke");
    return NULL;
}

static uint64_t broken_due_ns(const struct engine *e)
{
    (void)e;
    return UINT64_MAX;
}

static int broken_fd(const struct engine *e, uint32_t place)
{
    (void)e, (void)place;
    return -1;
}

static void broken_close(struct engine *e)
{
    struct broken *b = (struct broken *)(void *)e;
    for (uint32_t i = 0; i < b->posted_count; i++, b->written_count++)
        b->batch[i]->outputs[0].dot = 1;
}

static const struct engine_impl broken_impl = {.close = broken_close,
                                               .post = broken_post,
                                               .next = broken_next,
                                               .due_ns = broken_due_ns,
                                               .fd = broken_fd};

static struct broken broken_make(uint32_t steps_max)
{
    struct broken b = {
        .base = {.impl = &broken_impl, .config = {.rows_max = 4, .tokens_max = TOKENS_MAX}}};
    b.base.info[ENGINE_POLICY] =
        (struct engine_info){.present = true, .vocabulary = 9, .steps_max = steps_max};
    b.base.info[ENGINE_EMBED] = (struct engine_info){
        .present = true, .context_tokens = 8, .vector_size = 3, .steps_max = steps_max};
    return b;
}

/* SIGALRM ends what waits for ever. */
static void sched_does_not_wait_for_a_device_that_broke(void **state)
{
    (void)state;
    for (uint32_t steps_max = 1; steps_max <= 2; steps_max++) {
        struct broken b = broken_make(steps_max);
        struct rig r = {.engine = &b.base};
        (void)alarm(HANGS_S);
        assert_int_equal(sched_new(&(struct sched_config){.seqs_max = 4,
                                                          .groups_max = 4,
                                                          .rows_max = 4,
                                                          .tokens_max = TOKENS_MAX},
                                   r.engine, &r.sched),
                         0);
        (void)add(&r, 1);
        assert_int_equal(sched_poll(r.sched, 0), steps_max);
        assert_int_equal(b.posted_count, steps_max);
        sched_free(r.sched);
        engine_close(r.engine);
        assert_int_equal(b.written_count, steps_max);
        (void)alarm(0);
    }
}

static void embed_does_not_wait_for_a_device_that_broke(void **state)
{
    struct broken b = broken_make(1);
    struct embed *embed;
    uint32_t token = 1, text;
    (void)state;
    (void)alarm(HANGS_S);
    assert_int_equal(
        embed_new(&(struct embed_config){.texts_max = 1, .rows_max = 1, .tokens_max = 8}, &b.base,
                  &embed),
        0);
    assert_int_equal(embed_add(embed, 0, &token, 1, &text), EMBED_OK);
    assert_int_equal(embed_poll(embed, 0), 1);
    embed_free(embed);
    engine_close(&b.base);
    assert_int_equal(b.written_count, 1);
    (void)alarm(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sched_without_sequences_is_idle),
        cmocka_unit_test(sched_results_come_in_order_of_arrival_with_positions_from_zero),
        cmocka_unit_test(sched_first_comers_come_first_and_more_than_rows_max_take_turns),
        cmocka_unit_test(sched_a_prompt_is_paid_for_once_in_its_first_step),
        cmocka_unit_test(sched_a_prompt_paused_before_its_first_step_is_still_owed),
        cmocka_unit_test(sched_a_paused_sequence_takes_part_in_no_step),
        cmocka_unit_test(sched_with_everything_paused_is_idle),
        cmocka_unit_test(sched_pause_in_flight_delivers_that_row_and_no_more),
        cmocka_unit_test(sched_removal_in_flight_discards_that_row_alone),
        cmocka_unit_test(sched_a_reused_place_gets_nothing_of_its_predecessor),
        cmocka_unit_test(sched_a_reused_place_in_flight_starts_unpaused_and_owes_its_prompt),
        cmocka_unit_test(sched_removal_while_results_are_read_stops_those_not_read_yet),
        cmocka_unit_test(sched_says_none_when_all_places_are_taken),
        cmocka_unit_test(sched_a_paused_sequence_gives_its_room_to_who_needs_it),
        cmocka_unit_test(sched_who_returns_comes_before_who_is_new),
        cmocka_unit_test(sched_a_row_in_flight_is_delivered_before_its_sequence_is_parked),
        cmocka_unit_test(sched_a_stem_that_is_ready_gives_its_room_to_who_needs_it),
        cmocka_unit_test(sched_due_time_is_now_then_the_end_of_the_step),
        cmocka_unit_test(sched_tokens_are_the_same_alone_and_in_a_crowd),
        cmocka_unit_test(sched_misuse_stops_the_process),
        cmocka_unit_test(sched_does_not_wait_for_a_device_that_broke),
        cmocka_unit_test(embed_does_not_wait_for_a_device_that_broke),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
