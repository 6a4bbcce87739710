/* tests/unit/test_sched_ahead.c: steps that are planned while another is in flight, on engines without a model. A
 * crowd whose members decide by their own tokens when they are forced, pause, bring in others and go writes the same
 * with and without, token by token; calls at any other moment come out as sched.h says. Models that share devices
 * take turns, and the second place in the queue is used. With a model: test_sched_model.c. SEED from the
 * environment. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/base/rng.h"
#include "daemon/engine/impl.h"
#include "daemon/sched/sched.h"
#include "tests/lib/check.h"

#define STEP_NS 1000u
#define TOKENS_MAX 64u
#define ROWS_MAX 7u
#define LIVES_MAX 400u
#define OWN_MAX 400u
#define BEGINNERS 12u
#define RESTED 9u /* results that a pause lasts for, at most */

static uint64_t seed;

struct rig {
    struct engine *engine, *oracle;
    struct engine_batch *single;
    struct sched *sched;
    uint64_t now_ns;
};

struct life {
    uint64_t id; /* the same in each run, whatever comes before what */
    uint32_t seq;
    uint32_t own[OWN_MAX];
    uint32_t own_count;
    uint32_t forced; /* 1 + the next token; 0: as it comes */
    uint32_t
        perhaps; /* the same, of a call while a step was in flight: this token or the one after */
    uint32_t perhaps_from; /* position */
    uint32_t rests;        /* paused for so many results of others */
    uint32_t late_count;   /* results that may come though it is paused */
    bool paused;
    bool alive;
};

struct crowd {
    struct rig rig;
    struct life lives[LIVES_MAX];
    uint32_t lives_count;
    uint32_t alive_count;
};

static void rig_open(struct rig *r, uint32_t steps_max)
{
    char message[ENGINE_MESSAGE_BYTES];
    struct engine_config config = {.simulate = true,
                                   .sim_step_ns = STEP_NS,
                                   .steps_max = steps_max,
                                   .rows_max = ROWS_MAX,
                                   .tokens_max = TOKENS_MAX};
    *r = (struct rig){.now_ns = 1};
    assert_int_equal(engine_open(&config, message, &r->engine), 0);
    assert_int_equal(engine_open(&config, message, &r->oracle), 0);
    assert_int_equal(engine_batch_new(r->oracle, &r->single), 0);
    assert_int_equal(sched_new(&(struct sched_config){.seqs_max = LIVES_MAX,
                                                      .groups_max = 4,
                                                      .rows_max = ROWS_MAX,
                                                      .tokens_max = TOKENS_MAX},
                               r->engine, &r->sched),
                     0);
}

static void rig_close(struct rig *r)
{
    sched_free(r->sched);
    engine_close(r->engine);
    engine_batch_free(r->single);
    engine_close(r->oracle);
}

static struct sched_stats stats_of(const struct rig *r)
{
    struct sched_stats stats;
    sched_stats(r->sched, &stats);
    return stats;
}

/* What the engine samples there when nothing is forced. */
static uint32_t token_alone(struct rig *r, uint64_t id, uint32_t position)
{
    r->single->rows_count = r->single->tokens_count = 1;
    r->single->rows[0] = (struct engine_row){
        .tokens_count = 1,
        .want = ENGINE_WANT_TOKEN,
        .sampling = {.forced_token = OPS_NONE, .random = rng_u32(id, 0, position)}};
    assert_int_equal(engine_post(r->oracle, r->single, 0), ENGINE_OK);
    assert_ptr_equal(engine_next(r->oracle, ENGINE_POLICY, UINT64_MAX), r->single);
    return r->single->outputs[0].sampled.token;
}

static void join(struct crowd *c, uint64_t id)
{
    struct life *l = &c->lives[c->lives_count];
    if (c->lives_count == LIVES_MAX)
        return;
    *l = (struct life){.id = id, .alive = true};
    struct sched_seq_args args = {.seed = id,
                                  .user = c->lives_count++,
                                  .group = (uint32_t)(id % 4),
                                  .prompt_tokens = 1 + (uint32_t)(id % 200)}; /* some in chunks */
    assert_int_equal(sched_add(c->rig.sched, &args, &l->seq), SCHED_OK);
    c->alive_count++;
}

static void leave(struct crowd *c, struct life *l)
{
    sched_remove(c->rig.sched, l->seq);
    l->alive = false;
    c->alive_count--;
}

static void rest(struct crowd *c, struct life *l, uint32_t results)
{
    sched_pause(c->rig.sched, l->seq);
    l->paused = true;
    l->rests = results;
}

static void force(struct crowd *c, struct life *l, uint32_t token)
{
    sched_force(c->rig.sched, l->seq, token);
    l->forced = 1 + token;
    l->perhaps = 0; /* the last word counts */
}

/* What it does after a token depends on nothing but who it is and how many it has. */
static void react(struct crowd *c, struct life *l)
{
    struct rng rng = {seed ^ l->id * 1000003 ^ l->own_count};
    uint32_t what = (uint32_t)rng_below(&rng, 40);
    if (l->own_count == OWN_MAX || what < 3)
        leave(c, l);
    else if (what < 8)
        force(c, l, 'A' + (uint32_t)rng_below(&rng, 26));
    else if (what < 13)
        rest(c, l, 1 + (uint32_t)rng_below(&rng, RESTED));
    else if (what < 14)
        join(c, rng_next(&rng));
    if (what == 6 && l->alive)
        rest(c, l, 3); /* and forced */
    if (what == 7) {
        leave(c, l);
        join(c, l->id + 1); /* in its place */
    }
}

static void take(struct crowd *c, const struct sched_result *result)
{
    struct life *l = &c->lives[result->user];
    uint32_t alone = token_alone(&c->rig, l->id, l->own_count), token = result->sampled.token;
    CHECK(l->alive && (!l->paused || l->late_count), "user %u has a token too many", result->user);
    l->late_count -= l->paused;
    assert_int_equal(result->seq, l->seq);
    assert_int_equal(result->position, l->own_count);
    if (l->perhaps && token == l->perhaps - 1)
        l->perhaps = 0;
    else
        assert_int_equal(token, l->forced ? l->forced - 1 : alone);
    CHECK(!l->perhaps || l->own_count <= l->perhaps_from, "a forced token did not come");
    l->forced = 0;
    l->own[l->own_count++] = token;
}

/* One poll; what it brings is taken and answered. */
static uint32_t turn(struct crowd *c)
{
    struct sched_result result;
    uint32_t count = 0;
    uint64_t due_ns = sched_due_ns(c->rig.sched);
    if (due_ns != UINT64_MAX && due_ns > c->rig.now_ns)
        c->rig.now_ns = due_ns;
    uint32_t work = sched_poll(c->rig.sched, c->rig.now_ns);
    while (sched_next(c->rig.sched, &result)) {
        take(c, &result);
        react(c, &c->lives[result.user]);
        count++;
    }
    CHECK(work || due_ns == UINT64_MAX, "nothing to do where it was said that there is");
    for (uint32_t i = 0; i < c->lives_count; i++) {
        struct life *l = &c->lives[i];
        l->rests -= l->rests && (count || due_ns == UINT64_MAX);
        if (l->alive && l->paused && l->rests == 0) {
            sched_resume(c->rig.sched, l->seq);
            l->paused = false;
            l->late_count = 0;
        }
    }
    return count;
}

static void crowd_open(struct crowd *c, uint32_t steps_max)
{
    memset(c, 0, sizeof *c);
    rig_open(&c->rig, steps_max);
    for (uint32_t i = 0; i < BEGINNERS; i++)
        join(c, seed + i);
}

static const struct life *life_of(const struct crowd *c, uint64_t id, uint32_t like)
{
    if (like < c->lives_count && c->lives[like].id == id)
        return &c->lives[like];
    for (uint32_t i = 0; i < c->lives_count; i++)
        if (c->lives[i].id == id)
            return &c->lives[i];
    return NULL;
}

static void sched_a_crowd_writes_the_same_with_steps_planned_ahead(void **state)
{
    static struct crowd one, two;
    uint64_t discarded = 0, tokens = 0, first_seed = seed;
    (void)state;
    for (uint32_t round = 0; round < 40; round++, seed += 1000) {
        crowd_open(&one, 1);
        crowd_open(&two, 2);
        while (one.alive_count)
            (void)turn(&one);
        while (two.alive_count)
            (void)turn(&two);
        CHECK(one.lives_count < LIVES_MAX, "the crowd did not end");
        assert_int_equal(one.lives_count, two.lives_count);
        for (uint32_t i = 0; i < one.lives_count; i++) {
            const struct life *a = &one.lives[i], *b = life_of(&two, a->id, i);
            CHECK(b && a->own_count == b->own_count, "%u and %u tokens", a->own_count,
                  b ? b->own_count : 0);
            assert_memory_equal(a->own, b->own, a->own_count * sizeof a->own[0]);
            tokens += a->own_count;
        }
        assert_int_equal(stats_of(&one.rig).rows_discarded_count, 0);
        discarded += stats_of(&two.rig).rows_discarded_count;
        rig_close(&one.rig);
        rig_close(&two.rig);
    }
    printf("%" PRIu64 " tokens, %" PRIu64 " rows planned ahead in vain\n", tokens, discarded);
    assert_true(discarded > 100 && tokens > 1000);
    seed = first_seed;
}

/* Calls that fall between the polls, where a step is in flight that is no plan. */
static void sched_calls_at_any_moment_come_out_as_promised(void **state)
{
    static struct crowd c;
    struct rng rng = {seed};
    (void)state;
    for (uint32_t steps_max = 1; steps_max <= 2; steps_max++) {
        crowd_open(&c, steps_max);
        for (uint32_t n = 0; n < 4000; n++) {
            if (c.alive_count < BEGINNERS)
                join(&c, rng_next(&rng));
            struct life *l = &c.lives[rng_below(&rng, c.lives_count)];
            uint32_t what = (uint32_t)rng_below(&rng, 12),
                     token = 128 + (uint32_t)rng_below(&rng, 128); /* none that comes by itself */
            bool in_flight = turn(&c) == 0;
            if (c.lives_count == LIVES_MAX)
                break;
            if (!l->alive || l->paused || (what >= 4 && (l->forced || l->perhaps)))
                continue;
            if (what == 0) {
                leave(&c, l);
            } else if (what < 4) {
                l->late_count = in_flight;
                rest(&c, l, 1 + (uint32_t)rng_below(&rng, RESTED));
            } else if (what < 8 && !in_flight) {
                force(&c, l, token);
            } else if (what < 8) {
                sched_force(c.rig.sched, l->seq, token);
                l->perhaps = 1 + token;
                l->perhaps_from = l->own_count;
            }
        }
        rig_close(&c.rig);
    }
}

static uint32_t drain(struct rig *r)
{
    struct sched_result result;
    uint32_t count = 0;
    while (sched_next(r->sched, &result))
        count++;
    return count;
}

/* While the first step's results are looked at, the second is in flight. */
static void sched_the_next_step_is_posted_before_the_first_is_done(void **state)
{
    struct rig r;
    uint32_t seq[3];
    (void)state;
    rig_open(&r, 2);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(
            sched_add(r.sched, &(struct sched_seq_args){.seed = i, .user = i, .prompt_tokens = 1},
                      &seq[i]),
            SCHED_OK);
    assert_int_equal(sched_poll(r.sched, 1), 6);
    assert_int_equal(stats_of(&r).steps_count, 2);
    assert_int_equal(sched_due_ns(r.sched), 1 + STEP_NS);
    assert_int_equal(sched_poll(r.sched, 1 + STEP_NS), 3);
    assert_int_equal(drain(&r), 3);
    sched_pause(r.sched, seq[0]);
    sched_remove(r.sched, seq[1]);
    assert_int_equal(stats_of(&r).rows_discarded_count, 2);
    assert_int_equal(sched_due_ns(r.sched), 0);
    assert_int_equal(sched_poll(r.sched, 2 + STEP_NS), 1); /* the third step */
    sched_pause(r.sched,
                seq[2]); /* the second is no plan any more: it is delivered; the third's is none */
    assert_int_equal(stats_of(&r).rows_discarded_count, 3);
    assert_int_equal(sched_due_ns(r.sched), 1 + 2 * STEP_NS);
    assert_int_equal(sched_poll(r.sched, 1 + 2 * STEP_NS), 3);
    assert_int_equal(drain(&r), 1);
    assert_int_equal(sched_poll(r.sched, 2 + 3 * STEP_NS), 1);
    assert_int_equal(drain(&r), 0);
    assert_int_equal(sched_due_ns(r.sched), UINT64_MAX);
    rig_close(&r);
}

/* ---- models that share devices ---------------------------------------------------------------- */

struct shared {
    struct engine base;
    struct engine_batch *posted[ENGINE_STEPS_MAX];
    uint32_t posted_count;
    bool done; /* the oldest */
    uint32_t posts[ENGINE_ROLE_COUNT];
    uint32_t role_before, in_row, in_row_max;
};

static void shared_post(struct engine *e, struct engine_batch *batch, uint64_t at_ns)
{
    struct shared *s = (struct shared *)(void *)e;
    (void)at_ns;
    s->posted[s->posted_count++] = batch;
    s->posts[batch->role]++;
    s->in_row = batch->role == s->role_before ? s->in_row + 1 : 1;
    s->in_row_max = s->in_row > s->in_row_max ? s->in_row : s->in_row_max;
    s->role_before = batch->role;
}

static struct engine_batch *shared_next(struct engine *e, uint32_t place, uint64_t at_ns)
{
    struct shared *s = (struct shared *)(void *)e;
    struct engine_batch *batch = s->posted[0];
    (void)place, (void)at_ns;
    if (!s->done || s->posted_count == 0)
        return NULL;
    s->done = false;
    s->posted[0] = s->posted[1];
    s->posted_count--;
    memset(batch->outputs, 0, batch->rows_count * sizeof *batch->outputs);
    return batch;
}

static uint64_t shared_due_ns(const struct engine *e)
{
    (void)e;
    return UINT64_MAX;
}

static int shared_fd(const struct engine *e, uint32_t place)
{
    (void)e, (void)place;
    return -1;
}

static const struct engine_impl shared_impl = {.post = shared_post,
                                               .next = shared_next,
                                               .due_ns = shared_due_ns,
                                               .fd = shared_fd};

static void sched_models_that_share_devices_take_turns(void **state)
{
    enum { TURNS = 400 };
    (void)state;
    for (uint32_t steps_max = 1; steps_max <= 2; steps_max++) {
        struct shared e = {.base = {.impl = &shared_impl,
                                    .config = {.rows_max = ROWS_MAX, .tokens_max = TOKENS_MAX}}};
        struct sched *scheds[2]; /* of POLICY and REWARD */
        uint32_t seq, idle = 0;  /* turns that leave the device without work */
        for (uint32_t role = 0; role < 2; role++) {
            e.base.info[role] = (struct engine_info){.present = true,
                                                     .vocabulary = 9,
                                                     .context_tokens = UINT32_MAX,
                                                     .steps_max = steps_max};
            struct sched_config config = {.role = (enum engine_role)role,
                                          .seqs_max = 4,
                                          .groups_max = 4,
                                          .rows_max = ROWS_MAX,
                                          .tokens_max = TOKENS_MAX};
            struct sched_seq_args args = {.prompt_tokens = role ? TURNS * TOKENS_MAX : 1,
                                          .stem = role == 1};
            assert_int_equal(sched_new(&config, &e.base, &scheds[role]), 0);
            assert_int_equal(sched_add(scheds[role], &args, &seq), SCHED_OK);
        }
        for (uint32_t turns = 0; turns < TURNS; turns++) {
            for (uint32_t role = 2; role-- > 0;) { /* as daemon/program does */
                struct sched_result result;
                (void)sched_poll(scheds[role], 0);
                while (sched_next(scheds[role], &result))
                    assert_int_equal(result.kind, SCHED_TOKEN);
            }
            idle += e.posted_count == 0;
            if (turns == 2) /* both are under way */
                e.in_row_max = 0;
            e.done = true;
        }
        printf("%u steps of the policy, %u of the reward model, at most %u in a row\n", e.posts[0],
               e.posts[1], e.in_row_max);
        assert_true(e.posts[0] > TURNS / 3 && e.posts[1] > TURNS / 3);
        assert_int_equal(e.in_row_max, 1);
        assert_true(steps_max == 1 || idle == 0);
        for (uint32_t role = 0; role < 2; role++) {
            (void)snprintf(e.base.failure, sizeof e.base.failure, "the end");
            sched_free(scheds[role]);
        }
        for (uint32_t i = 0; i < e.posted_count; i++) {
            e.posted[i]->posted = false;
            engine_batch_free(e.posted[i]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sched_a_crowd_writes_the_same_with_steps_planned_ahead),
        cmocka_unit_test(sched_calls_at_any_moment_come_out_as_promised),
        cmocka_unit_test(sched_the_next_step_is_posted_before_the_first_is_done),
        cmocka_unit_test(sched_models_that_share_devices_take_turns),
    };
    seed = check_number("SEED", now_ns());
    printf("SEED=%" PRIu64 "\n", seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
