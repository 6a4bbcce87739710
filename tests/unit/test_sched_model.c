/* timeout: 240 */
/* tests/unit/test_sched_model.c: scheduler, KV pages and the real engine together, on a tiny model and a cache
 * that is too small. Sequences come, fork, pause and go at random, freed pages are poisoned with NaN, and
 * each must write, bit for bit, what it writes alone, also when it was paused and others had its pages
 * meanwhile, and where steps are planned ahead, with rows discarded for it; a numeric failure included. What one tenant gets and when does not depend on
 * whether another asked the same before. 100,000 short sequences leave nothing behind and allocate
 * nothing. */
#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <cmocka.h>

#include "daemon/engine/engine_model.h"
#include "daemon/engine/impl.h"
#include "daemon/sched/sched.h"
#include "tests/bench/count_malloc.h"
#include "tests/lib/check.h"
#include "tests/lib/tiny.h"

#define ROWS_MAX 12u
#define TOKENS_MAX 48u /* of a step: prompts come in chunks */
#define SEQS_MAX 24u
#define LENGTH_MAX 160u /* prompt and answer */
#define OWN_MAX 12u
#define PAGES 48u
#define ALIVE_MAX 10u /* with pages: the others are parked, or wait */

struct written {
    uint32_t token;
    float log_probability;
    float entropy;
};

static uint32_t steps_max = 1; /* of the engine: 2, and steps are planned ahead */
static uint32_t ranks_count = 1;
static bool spoiled; /* the embedding of: */
#define SPOILED 3u   /* no prompt has it, it is forced */

struct life { /* of one sequence */
    uint32_t prompt[LENGTH_MAX];
    uint32_t prompt_count;
    struct written own[OWN_MAX];
    uint32_t own_count;
    uint32_t forced[OWN_MAX]; /* 1 + the token that was; 0: none */
    uint32_t wanted;
    uint64_t seed;
    uint32_t seq;
    bool alive;
    bool paused;
    bool penalised;
};

struct rig {
    char *folder;
    struct engine *engine;
    struct sched *sched;
    uint32_t rows_max;
};

/* Those that wrote all they wanted, up to so many. */
#define ENDED_MAX 256u
static struct life ended[ENDED_MAX];
static uint32_t ended_count;

static void engine_make(struct rig *r, enum tiny_kind kind, uint32_t kv_pages, uint32_t rows_max)
{
    char message[ENGINE_MESSAGE_BYTES] = "";
    struct engine_info info;
    struct engine_config config = {.ranks_count = ranks_count,
                                   .threads_count = ranks_count, /* a step is too short for more */
                                   .cpu_level = -1,
                                   .rows_max = rows_max,
                                   .tokens_max = TOKENS_MAX,
                                   .context_tokens = LENGTH_MAX,
                                   .kv_bytes = 1u << 20,
                                   .steps_max = steps_max,
                                   .dot_layer = 0};
    float vector[TINY_HIDDEN];
    r->folder = tiny_write(kind, 5);
    if (spoiled)
        tiny_spoil(r->folder, SPOILED);
    r->rows_max = rows_max;
    config.directory[ENGINE_POLICY] = r->folder;
    CHECK(engine_open(&config, message, &r->engine) == 0, "%s", message);
    engine_info(r->engine, ENGINE_POLICY, &info);
    config.kv_bytes = config.kv_bytes / info.kv_pages * kv_pages; /* exactly so many */
    engine_close(r->engine);
    CHECK(engine_open(&config, message, &r->engine) == 0, "%s", message);
    engine_info(r->engine, ENGINE_POLICY, &info);
    assert_int_equal(info.kv_pages, kv_pages);
    for (uint32_t i = 0; i < TINY_HIDDEN; i++)
        vector[i] = (float)i - 20;
    engine_dot_vector(r->engine, vector);
}

static void sched_make(struct rig *r, uint32_t alive_max)
{
    assert_int_equal(sched_new(&(struct sched_config){.seqs_max = SEQS_MAX,
                                                      .alive_max = alive_max,
                                                      .groups_max = 4,
                                                      .rows_max = r->rows_max,
                                                      .tokens_max = TOKENS_MAX,
                                                      .poison = true},
                               r->engine, &r->sched),
                     0);
}

static void rig_close(struct rig *r)
{
    engine_close(r->engine);
    tiny_remove(r->folder);
}

static struct sched_seq_args args_of(const struct life *l, uint32_t user, uint32_t tenant)
{
    return (struct sched_seq_args){.seed = l->seed,
                                   .user = user,
                                   .tenant = tenant,
                                   .group = user % 4,
                                   .prompt = l->prompt,
                                   .prompt_tokens = l->prompt_count,
                                   .max_tokens = l->wanted,
                                   .sampling = {.temperature = 0.8f,
                                                .top_p = 0.95f,
                                                .repetition = user % 2 || l->penalised ? 1.1f : 1,
                                                .presence = l->penalised ? 0.2f : 0,
                                                .confidence_count = 8}};
}

/* One step, or nothing to do: false. Results go to the lives, whose number is the user. */
static bool step(struct rig *r, struct life *lives)
{
    struct sched_result result;
    if (sched_poll(r->sched, 0) == 0 && sched_due_ns(r->sched) == UINT64_MAX &&
        sched_fd(r->sched) < 0)
        return false;
    while (sched_due_ns(r->sched) == UINT64_MAX) {
        struct pollfd fd = {.fd = sched_fd(r->sched), .events = POLLIN};
        if (r->engine->queues[0].count == 0)
            return false; /* nothing is in flight */
        (void)poll(&fd, 1, 1000);
        if (sched_poll(r->sched, 0))
            break;
    }
    while (sched_next(r->sched, &result)) {
        struct life *l = &lives[result.user];
        assert_int_equal(result.sampled.numeric, 0); /* a poisoned page would show here */
        assert_int_equal(result.position, l->own_count);
        l->own[l->own_count++] = (struct written){
            result.sampled.token, result.sampled.log_probability, result.sampled.entropy};
        if (l->own_count == l->wanted) {
            sched_remove(r->sched, l->seq);
            l->alive = false;
            if (ended_count < ENDED_MAX)
                ended[ended_count++] = *l;
        }
    }
    return true;
}

static void run_alone(struct rig *r, const struct life *like)
{
    struct life l = *like;
    struct sched *kept = r->sched;
    l.own_count = 0;
    sched_make(r, 0);
    struct sched_seq_args args = args_of(&l, 0, 1);
    args.sampling = args_of(&l, (uint32_t)like->seed, 1).sampling;
    assert_int_equal(sched_add(r->sched, &args, &l.seq), SCHED_OK);
    while (l.own_count < like->own_count) {
        if (l.forced[l.own_count])
            sched_force(r->sched, l.seq, l.forced[l.own_count] - 1);
        (void)step(r, &l);
    }
    assert_memory_equal(l.own, like->own, like->own_count * sizeof l.own[0]);
    sched_free(r->sched);
    r->sched = kept;
}

static void add(struct rig *r, struct life *lives, uint32_t user, struct rng *rng)
{
    struct life *l = &lives[user];
    *l = (struct life){.seed = user, .wanted = 1 + (uint32_t)rng_below(rng, OWN_MAX)};
    l->prompt_count = 1 + (uint32_t)rng_below(rng, 100);
    uint32_t like = (uint32_t)rng_below(rng, 3); /* few beginnings, so that some are known */
    for (uint32_t i = 0; i < l->prompt_count; i++)
        l->prompt[i] = (like * 31 + i * 7) % TINY_VOCABULARY;
    if (rng_below(rng, 2))
        l->prompt[l->prompt_count / 2] = (uint32_t)rng_below(rng, TINY_VOCABULARY);
    struct sched_seq_args args = args_of(l, user, 1);
    l->alive = sched_add(r->sched, &args, &l->seq) == SCHED_OK;
}

static void fork_one(struct rig *r, struct life *lives, uint32_t user, uint32_t parent,
                     struct rng *rng)
{
    const struct life *p = &lives[parent];
    struct life *l = &lives[user];
    *l = *p;
    l->seed = user;
    l->own_count = 0;
    memset(l->forced, 0, sizeof l->forced);
    l->wanted = 1 + (uint32_t)rng_below(rng, OWN_MAX);
    for (uint32_t i = 0; i < p->own_count; i++)
        l->prompt[l->prompt_count++] = p->own[i].token;
    uint32_t more = (uint32_t)rng_below(rng, 5);
    if (l->prompt_count + more + l->wanted > LENGTH_MAX) {
        l->alive = false;
        return;
    }
    struct sched_seq_args args = args_of(l, user, 1);
    args.prompt = l->prompt + l->prompt_count;
    args.prompt_tokens = more;
    for (uint32_t i = 0; i < more; i++)
        l->prompt[l->prompt_count++] = (uint32_t)rng_below(rng, TINY_VOCABULARY);
    l->paused = false;
    l->alive = sched_fork(r->sched, p->seq, &args, &l->seq) == SCHED_OK;
}

static void operate(struct rig *r, struct life *lives, uint32_t user, struct rng *rng)
{
    struct life *l = &lives[user];
    uint32_t what = (uint32_t)rng_below(rng, 12), other = (uint32_t)rng_below(rng, SEQS_MAX);
    if (!l->alive) {
        if (what < 6 || !lives[other].alive)
            add(r, lives, user, rng);
        else
            fork_one(r, lives, user, other, rng);
    } else if (what == 0) {
        sched_remove(r->sched, l->seq);
        l->alive = false;
        l->own_count = 0; /* in flight, perhaps: nothing to compare */
    } else if (what < 3) {
        sched_pause(r->sched, l->seq);
        l->paused = true;
    } else if (what == 3) {
        sched_resume(r->sched, l->seq);
        l->paused = false;
    } else if (what ==
               4) { /* no step is in flight but what is planned ahead: it is the next token */
        l->forced[l->own_count] = 1 + (uint32_t)rng_below(rng, TINY_VOCABULARY);
        sched_force(r->sched, l->seq, l->forced[l->own_count] - 1);
    }
}

/* Alone each is planned as it comes, a step at a time. */
static void write_alone(enum tiny_kind kind)
{
    uint32_t steps = steps_max;
    struct rig r;
    steps_max = 1;
    engine_make(&r, kind, PAGES, ROWS_MAX);
    assert_true(ended_count > 50);
    for (uint32_t i = 0, count = ended_count; i < count; i++)
        run_alone(&r, &ended[i]);
    rig_close(&r);
    steps_max = steps;
}

static void sched_sequences_write_what_they_write_alone(void **state)
{
    (void)state;
    struct rng rng = {.state = check_number("SEED", now_ns())};
    printf("SEED=%" PRIu64 "\n", rng.state);
    static const enum tiny_kind kinds[] = {TINY_LLAMA, TINY_GEMMA2, TINY_PHI3};
    for (uint32_t k = 0; k < COUNT_OF(kinds); k++) {
        static struct life lives[SEQS_MAX];
        struct rig r;
        memset(lives, 0, sizeof lives);
        ended_count = 0;
        ranks_count =
            steps_max == 2 && k == 0 ? 2 : 1; /* they are to begin and end steps together */
        engine_make(&r, kinds[k], PAGES, ROWS_MAX);
        sched_make(&r, ALIVE_MAX);
        for (uint32_t turn = 0; turn < 600; turn++) {
            for (uint32_t n = 0; n < 4; n++)
                operate(&r, lives, (uint32_t)rng_below(&rng, SEQS_MAX), &rng);
            (void)step(&r, lives);
        }
        for (uint32_t user = 0; user < SEQS_MAX; user++)
            if (lives[user].alive)
                sched_resume(r.sched, lives[user].seq);
        for (uint32_t user = 0; user < SEQS_MAX; user++)
            while (lives[user].alive)
                (void)step(&r, lives);
        struct sched_stats stats;
        sched_stats(r.sched, &stats);
        assert_true(stats.cached_tokens_count > 0); /* the prefix tree had its part */
        assert_true(stats.parked_count > 10 && stats.recomputed_tokens_count > 0);
        assert_int_equal(stats.kv_pages_used, 0);
        assert_int_equal(stats.kv_pages_reserved, 0);
        printf("%" PRIu64 " of %" PRIu64 " rows planned ahead in vain\n",
               stats.rows_discarded_count, stats.rows_count);
        assert_true(steps_max == 1 ? stats.rows_discarded_count == 0
                                   : stats.rows_discarded_count > 100);
        sched_free(r.sched);
        rig_close(&r);
        write_alone(kinds[k]);
        ranks_count = 1;
    }
}

/* A batch has room for the histories of 16 whole contexts. With more, some wait for the next step: all get
 * their turns, and the tokens that they get alone. */
static void sched_penalties_of_more_than_a_batch_holds_take_turns(void **state)
{
    (void)state;
    enum { COUNT = 22, STEM_TOKENS = 140, WANTED = 9 };
    static struct life lives[SEQS_MAX];
    struct sched_seq_args args;
    struct sched_result result;
    struct sched_stats stats;
    struct rig r;
    uint32_t stem, alive = COUNT;
    struct life like = {.prompt_count = STEM_TOKENS, .wanted = WANTED};
    for (uint32_t i = 0; i < STEM_TOKENS; i++)
        like.prompt[i] = i * 11 % TINY_VOCABULARY;
    engine_make(&r, TINY_LLAMA, PAGES, SEQS_MAX);
    sched_make(&r, 0);
    args = args_of(&like, 0, 1);
    args.stem = true;
    assert_int_equal(sched_add(r.sched, &args, &stem), SCHED_OK);
    do
        (void)sched_poll(r.sched, 0);
    while (!sched_next(r.sched, &result));
    assert_int_equal(result.kind, SCHED_READY);
    for (uint32_t user = 0; user < COUNT; user++) {
        lives[user] = like;
        lives[user].seed = user;
        lives[user].alive = true;
        lives[user].penalised = user % 5 != 4; /* a few need no room */
        args = args_of(&lives[user], user, 1);
        args.prompt_tokens = 0;
        assert_int_equal(sched_fork(r.sched, stem, &args, &lives[user].seq), SCHED_OK);
    }
    ended_count = 0;
    sched_stats(r.sched, &stats);
    uint64_t rows_before = stats.rows_count, steps_before = stats.steps_count;
    while (alive) {
        uint32_t least = WANTED, most = 0;
        (void)step(&r, lives);
        alive = 0;
        for (uint32_t user = 0; user < COUNT; user++) {
            alive += lives[user].alive;
            least = lives[user].own_count < least ? lives[user].own_count : least;
            most = lives[user].own_count > most ? lives[user].own_count : most;
        }
        assert_true(most - least <= 1);
    }
    sched_stats(r.sched, &stats);
    assert_int_equal(stats.rows_count - rows_before, COUNT * WANTED);
    assert_true(stats.steps_count - steps_before >
                WANTED); /* some had to wait, or this shows nothing */
    sched_free(r.sched);
    assert_int_equal(ended_count, COUNT);
    for (uint32_t i = 0; i < COUNT; i++)
        run_alone(&r, &ended[i]);
    rig_close(&r);
}

/* Steps, cached tokens and results of tenant 2 asking `like`, after tenant 1 asked first. */
static void ask_after(struct rig *r, const struct life *first, uint32_t first_tenant,
                      const struct life *like, struct life *ret, struct sched_stats *ret_stats)
{
    struct life lives[2] = {*first, *like};
    struct sched_stats before;
    sched_make(r, 0);
    struct sched_seq_args args = args_of(&lives[0], 0, first_tenant);
    assert_int_equal(sched_add(r->sched, &args, &lives[0].seq), SCHED_OK);
    lives[0].alive = true;
    while (lives[0].alive)
        (void)step(r, lives);
    sched_stats(r->sched, &before);
    args = args_of(&lives[1], 1, 2);
    assert_int_equal(sched_add(r->sched, &args, &lives[1].seq), SCHED_OK);
    lives[1].alive = true;
    while (lives[1].alive)
        (void)step(r, lives);
    sched_stats(r->sched, ret_stats);
    ret_stats->steps_count -= before.steps_count;
    ret_stats->cached_tokens_count -= before.cached_tokens_count;
    ret_stats->prompt_tokens_count -= before.prompt_tokens_count;
    *ret = lives[1];
    sched_free(r->sched);
}

static void sched_a_tenant_cannot_tell_what_another_asked(void **state)
{
    (void)state;
    struct rig r;
    struct life same = {.prompt_count = 100, .wanted = 5, .seed = 1}, other = same, got[3];
    struct sched_stats stats[3];
    for (uint32_t i = 0; i < 100; i++) {
        same.prompt[i] = i % TINY_VOCABULARY;
        other.prompt[i] = (i * 3 + 1) % TINY_VOCABULARY;
    }
    engine_make(&r, TINY_LLAMA, PAGES, ROWS_MAX);
    ask_after(&r, &other, 1, &same, &got[0], &stats[0]);
    ask_after(&r, &same, 1, &same, &got[1], &stats[1]);
    ask_after(&r, &same, 2, &same, &got[2], &stats[2]);
    assert_int_equal(stats[0].steps_count, stats[1].steps_count);
    assert_int_equal(stats[0].cached_tokens_count, 0);
    assert_int_equal(stats[1].cached_tokens_count, 0);
    assert_int_equal(stats[2].cached_tokens_count, 96); /* its own it finds */
    assert_true(stats[2].steps_count < stats[1].steps_count);
    for (uint32_t i = 1; i < 3; i++)
        assert_memory_equal(got[0].own, got[i].own, 5 * sizeof got[0].own[0]);
    rig_close(&r);
}

/* ---- two tenants at once, in a cache too small for both ---------------------------------------- */

#define TRACE_MAX 4096u
#define TURNS 500u

struct
    trace { /* what tenant 2 sees: tokens with the turn they came in, and KV found when it asks */
    struct {
        uint32_t turn;
        uint32_t user;
        uint32_t position; /* CACHED: of a prompt that was added */
        uint32_t value;    /* token, or cached tokens */
    } at[TRACE_MAX];
    uint32_t count;
    uint64_t company; /* what tenant 1 found when it asked, all of it in one number */
};
#define CACHED UINT32_MAX

static void trace_add(struct trace *t, uint32_t turn, uint32_t user, uint32_t position,
                      uint32_t value)
{
    CHECK(t->count < TRACE_MAX, "trace too long");
    t->at[t->count].turn = turn;
    t->at[t->count].user = user;
    t->at[t->count].position = position;
    t->at[t->count++].value = value;
}

/* Odd users are tenant 2's. Tenant 1 asks for the same tokens, or for those shift further: the same
 * lengths, and the same prefixes in common among its own. */
static void tenant_add(struct rig *r, struct life *l, uint32_t user, uint32_t shift,
                       struct rng *rng, struct trace *trace, uint32_t turn)
{
    struct sched_stats before, after;
    uint32_t tenant = 1 + user % 2, like = (uint32_t)rng_below(rng, 4);
    *l = (struct life){.seed = user + 100 * turn, .wanted = 1 + (uint32_t)rng_below(rng, OWN_MAX)};
    l->prompt_count = 40 + (uint32_t)rng_below(rng, 80);
    for (uint32_t i = 0; i < l->prompt_count; i++)
        l->prompt[i] = (like * 31 + i * 7 + (tenant == 1 ? shift : 0)) % TINY_VOCABULARY;
    struct sched_seq_args args = args_of(l, user, tenant);
    sched_stats(r->sched, &before);
    l->alive = sched_add(r->sched, &args, &l->seq) == SCHED_OK;
    sched_stats(r->sched, &after);
    uint32_t cached = (uint32_t)(after.cached_tokens_count - before.cached_tokens_count);
    if (tenant == 1)
        trace->company = trace->company * 31 + cached + l->alive;
    else if (l->alive)
        trace_add(trace, turn, user, CACHED, cached);
}

static void tenants_run(struct rig *r, uint64_t seed, uint32_t shift, struct trace *trace,
                        struct sched_stats *ret_stats)
{
    static struct life lives[SEQS_MAX];
    uint32_t seen[SEQS_MAX] = {0};
    struct rng rng = {.state = seed};
    memset(lives, 0, sizeof lives);
    memset(trace, 0, sizeof *trace);
    sched_make(r, ALIVE_MAX);
    for (uint32_t turn = 0; turn < TURNS; turn++) {
        for (uint32_t n = 0; n < 3; n++) {
            uint32_t user = (uint32_t)rng_below(&rng, SEQS_MAX),
                     what = (uint32_t)rng_below(&rng, 8);
            struct life *l = &lives[user];
            if (!l->alive) {
                tenant_add(r, l, user, shift, &rng, trace, turn);
                seen[user] = 0;
            } else if (what == 0) {
                sched_pause(r->sched, l->seq);
            } else if (what == 1) {
                sched_resume(r->sched, l->seq);
            }
        }
        (void)step(r, lives);
        for (uint32_t user = 1; user < SEQS_MAX; user += 2)
            for (; seen[user] < lives[user].own_count; seen[user]++)
                trace_add(trace, turn, user, seen[user], lives[user].own[seen[user]].token);
    }
    sched_stats(r->sched, ret_stats);
    sched_free(r->sched);
}

/* Beside a tenant that asks for the same all the time, and beside one that asks for something else:
 * the same tokens in the same steps, the same KV found, also where pages are evicted and branches parked. */
static void sched_a_tenant_cannot_tell_what_another_asks_beside_it(void **state)
{
    (void)state;
    static struct trace same, other;
    struct sched_stats stats[2];
    struct rig r;
    uint64_t seed = check_number("SEED", now_ns());
    uint32_t found = 0;
    printf("SEED=%" PRIu64 "\n", seed);
    engine_make(&r, TINY_LLAMA, PAGES, ROWS_MAX);
    /* What tenant 1 is answered may happen to be how another of its prompts goes on, in one run and not in
     * the other: then it asked for something else. Were tenant 2's pages found, it would be so each time. */
    uint32_t tries = 0;
    do {
        assert_true(tries++ < 10);
        tenants_run(&r, seed, 0, &same, &stats[0]);
        tenants_run(&r, seed++, 3, &other, &stats[1]);
    } while (same.company != other.company);
    assert_int_equal(same.count, other.count);
    assert_memory_equal(&same, &other, sizeof same);
    assert_int_equal(stats[0].steps_count, stats[1].steps_count);
    for (uint32_t i = 0; i < same.count; i++)
        found += same.at[i].position == CACHED && same.at[i].value > 0;
    assert_true(same.count > 300 && found > 5); /* it does find its own */
    assert_true(stats[0].evictions_count > 10 && stats[0].parked_count > 10);
    rig_close(&r);
}

static long resident_pages(void)
{
    long all, resident;
    FILE *file = fopen("/proc/self/statm", "re");
    CHECK(file && fscanf(file, "%ld %ld", &all, &resident) == 2 && fclose(file) == 0, "statm: %m");
    return resident;
}

static void sched_100000_short_sequences_leave_nothing_behind(void **state)
{
    (void)state;
    enum { COUNT = 100000, WARM = 1000, GROWTH_PAGES_MAX = 16 };
    long resident = 0;
    static struct life lives[SEQS_MAX];
    struct rig r;
    struct sched_stats stats;
    static uint64_t calls;
    bool counts = false;
    uint32_t count = check_sanitized() ? COUNT / 20 : COUNT, added = 0;
    memset(lives, 0, sizeof lives);
    engine_make(&r, TINY_LLAMA, PAGES, ROWS_MAX);
    sched_make(&r, 0);
    while (added < count) {
        for (uint32_t user = 0; user < SEQS_MAX; user++) {
            struct life *l = &lives[user];
            if (l->alive)
                continue;
            *l = (struct life){.prompt_count = 1 + added % 3, .wanted = 1, .seed = added};
            for (uint32_t i = 0; i < 3; i++)
                l->prompt[i] = (added * 7 + i) % TINY_VOCABULARY;
            struct sched_seq_args args = args_of(l, user, added % 5);
            assert_int_equal(sched_add(r.sched, &args, &l->seq), SCHED_OK);
            l->alive = true;
            added++;
        }
        (void)step(&r, lives);
        if (!counts && added >= WARM) {
            resident = resident_pages();
            count_malloc_into(&calls);
            counts = true;
        }
    }
    for (uint32_t user = 0; user < SEQS_MAX; user++)
        while (lives[user].alive)
            (void)step(&r, lives);
    count_malloc_into(NULL);
    assert_int_equal(calls, 0); /* always where a sanitizer has malloc */
    CHECK(check_sanitized() || resident_pages() <= resident + GROWTH_PAGES_MAX,
          "%ld resident pages, %ld after the first %u sequences", resident_pages(), resident,
          (unsigned)WARM);
    sched_stats(r.sched, &stats);
    assert_int_equal(stats.kv_pages_used, 0);
    assert_int_equal(stats.kv_pages_reserved, 0);
    sched_free(r.sched);
    rig_close(&r);
}

struct force {
    uint32_t step; /* before it is posted, or while it is in flight */
    bool in_flight;
    uint32_t token;
    uint32_t position; /* where it must come out */
};

/* A sequence of its own to its end. False: a step was done before it could be met in flight. */
static bool run_forced(struct rig *r, struct life *l, const struct force *forces, uint32_t count)
{
    struct sched_seq_args args = args_of(l, 0, 1);
    struct pollfd fd = {.fd = sched_fd(r->sched), .events = POLLIN};
    struct sched_result result;
    bool missed = false;
    assert_int_equal(sched_add(r->sched, &args, &l->seq), SCHED_OK);
    for (uint32_t n = 0; l->own_count < l->wanted; n++) {
        for (uint32_t i = 0; i < count; i++)
            if (forces[i].step == n && !forces[i].in_flight)
                sched_force(r->sched, l->seq, forces[i].token);
        (void)sched_poll(r->sched, 0);
        for (uint32_t i = 0; i < count; i++)
            if (forces[i].step == n && forces[i].in_flight) {
                missed |= !engine_busy(r->engine, ENGINE_POLICY);
                sched_force(r->sched, l->seq, forces[i].token);
            }
        while (engine_busy(r->engine, ENGINE_POLICY) && sched_poll(r->sched, 0) == 0)
            (void)poll(&fd, 1, 1000);
        while (sched_next(r->sched, &result))
            l->own[l->own_count++].token = result.sampled.token;
    }
    sched_remove(r->sched, l->seq);
    return !missed;
}

/* Whenever it is forced, the token is the next one that is not on its way: before the first step, between
 * steps, while a step is in flight that brings another, and while the prompt is computed in chunks. */
static void sched_a_forced_token_is_the_next(void **state)
{
    (void)state;
    enum { A = 311, B = 17, CHUNKS = 3, FORCES = 2 };
    static const struct force cases[][FORCES] = {
        {{0, false, A, 0}},
        {{0, true, A, 0}},
        {{1, true, A, 0}},
        {{CHUNKS - 1, false, A, 0}},
        {{CHUNKS - 1, true, A, 1}},
        {{4, false, A, 2}},
        {{4, true, A, 3}},
        {{4, false, A, 2}, {4, true, B, 3}},
        {{4, false, A, 2}, {4, true, A, 3}},
        {{1, true, B, SCHED_NONE}, {CHUNKS - 1, false, A, 0}}, /* the last word counts */
    };
    struct rig r;
    struct life like = {.prompt_count = (CHUNKS - 1) * TOKENS_MAX + 4, .wanted = 6, .seed = 3};
    for (uint32_t i = 0; i < like.prompt_count; i++)
        like.prompt[i] = i * 11 % TINY_VOCABULARY;
    engine_make(&r, TINY_LLAMA, PAGES, ROWS_MAX);
    for (uint32_t i = 0; i < COUNT_OF(cases); i++) {
        uint32_t forced[OWN_MAX], count = cases[i][1].token ? 2 : 1;
        struct life l;
        bool met;
        do {
            l = like;
            sched_make(&r, 0);
            met = run_forced(&r, &l, cases[i], count);
            sched_free(r.sched);
        } while (!met);
        memset(forced, 0xff, sizeof forced);
        for (uint32_t f = 0; f < count; f++)
            if (cases[i][f].position != SCHED_NONE)
                forced[cases[i][f].position] = cases[i][f].token;
        for (uint32_t k = 0; k < like.wanted; k++)
            CHECK(forced[k] == UINT32_MAX ? l.own[k].token != A && l.own[k].token != B
                                          : l.own[k].token == forced[k],
                  "case %u: token %u is %u, forced %d", i, k, l.own[k].token, (int)forced[k]);
    }
    rig_close(&r);
}

/* The vector of a prompt in chunks beside a sequence that writes, paused for a step now and then. */
static void pool_read(struct rig *r, bool pauses, float vector[TINY_HIDDEN])
{
    struct life beside = {.prompt_count = 3, .wanted = OWN_MAX, .seed = 1};
    struct life like = {.prompt_count = 3 * TOKENS_MAX + 5, .seed = 2};
    struct sched_result result = {.kind = SCHED_TOKEN};
    uint32_t seq;
    for (uint32_t i = 0; i < like.prompt_count; i++)
        like.prompt[i] = i * 11 % TINY_VOCABULARY;
    struct sched_seq_args args = args_of(&beside, 0, 1);
    sched_make(r, 0);
    assert_int_equal(sched_add(r->sched, &args, &beside.seq), SCHED_OK);
    args = args_of(&like, 1, 1);
    args.stem = true;
    args.want = ENGINE_WANT_POOL;
    assert_int_equal(sched_add(r->sched, &args, &seq), SCHED_OK);
    for (uint32_t n = 0; result.kind != SCHED_READY; n++) {
        struct pollfd fd = {.fd = sched_fd(r->sched), .events = POLLIN};
        if (sched_poll(r->sched, 0) == 0)
            (void)poll(&fd, 1, 1000);
        while (result.kind != SCHED_READY && sched_next(r->sched, &result))
            continue;
        if (pauses && n % 4 == 1)
            sched_pause(r->sched, seq);
        if (pauses && n % 4 == 3)
            sched_resume(r->sched, seq);
    }
    memcpy(vector, result.vector, TINY_HIDDEN * sizeof *vector);
    while (sched_next(r->sched, &result))
        continue;
    sched_free(r->sched);
}

static void sched_hidden_states_are_pooled_once(void **state)
{
    float vectors[2][TINY_HIDDEN];
    struct rig r;
    (void)state;
    engine_make(&r, TINY_LLAMA, PAGES, ROWS_MAX);
    for (uint32_t i = 0; i < 2; i++)
        pool_read(&r, i == 1, vectors[i]);
    assert_memory_equal(vectors[0], vectors[1], sizeof vectors[0]);
    rig_close(&r);
}

/* The dots of a sequence's tokens, until it has written count. */
static void dots_read(struct rig *r, uint32_t seq, uint32_t count, uint32_t tokens[], float dots[])
{
    struct pollfd fd = {.fd = sched_fd(r->sched), .events = POLLIN};
    struct sched_result result;
    for (uint32_t n = 0; n < count;) {
        while (sched_poll(r->sched, 0) == 0 || engine_busy(r->engine, ENGINE_POLICY))
            (void)poll(&fd, 1, 1000);
        while (sched_next(r->sched, &result)) {
            if (result.seq != seq || result.kind != SCHED_TOKEN || n == count)
                continue;
            tokens[n] = result.sampled.token;
            dots[n++] = result.dot;
        }
    }
}

/* A dot product is one token's: a fork's are those of the sequence that was not forked. */
static void sched_forks_have_their_own_dots(void **state)
{
    (void)state;
    enum { COMMON = 70, MORE = 9, WANTED = 5 };
    uint32_t tokens[2][WANTED], stem, seq;
    float dots[2][WANTED];
    struct rig r;
    struct life like = {.prompt_count = COMMON + MORE, .wanted = WANTED, .seed = 4};
    for (uint32_t i = 0; i < like.prompt_count; i++)
        like.prompt[i] = i * 11 % TINY_VOCABULARY;
    engine_make(&r, TINY_LLAMA, PAGES, ROWS_MAX);
    struct sched_seq_args args = args_of(&like, 0, 1);
    args.want = ENGINE_WANT_DOT;
    sched_make(&r, 0);
    assert_int_equal(sched_add(r.sched, &args, &seq), SCHED_OK);
    dots_read(&r, seq, WANTED, tokens[0], dots[0]);
    sched_free(r.sched);
    sched_make(&r, 0);
    args.stem = true;
    args.want = 0;
    args.prompt_tokens = COMMON;
    assert_int_equal(sched_add(r.sched, &args, &stem), SCHED_OK);
    args.stem = false;
    args.want = ENGINE_WANT_DOT;
    args.prompt = like.prompt + COMMON;
    args.prompt_tokens = MORE;
    assert_int_equal(sched_fork(r.sched, stem, &args, &seq), SCHED_OK);
    dots_read(&r, seq, WANTED, tokens[1], dots[1]);
    assert_memory_equal(tokens[0], tokens[1], sizeof tokens[0]);
    assert_memory_equal(dots[0], dots[1], sizeof dots[0]);
    assert_true(dots[0][0] != 0 && dots[0][0] != dots[0][1]);
    sched_free(r.sched);
    rig_close(&r);
}

/* One step to its end: how many results it brought, and how many bytes of KV attention read for them. */
static uint32_t step_measured(struct rig *r, uint64_t *ret_kv_bytes)
{
    struct pollfd fd = {.fd = sched_fd(r->sched), .events = POLLIN};
    struct sched_result result;
    uint32_t count = 0;
    assert_false(engine_busy(r->engine, ENGINE_POLICY));
    *ret_kv_bytes = engine_model_kv_bytes_read(r->engine);
    while (sched_poll(r->sched, 0) == 0 || engine_busy(r->engine, ENGINE_POLICY))
        (void)poll(&fd, 1, 1000);
    *ret_kv_bytes = engine_model_kv_bytes_read(r->engine) - *ret_kv_bytes;
    while (sched_next(r->sched, &result))
        count++;
    return count;
}

/* Gangs whose branches come by turns: a page that a gang shares is read once, whoever came between. */
static void sched_a_gang_shares_its_pages(void **state)
{
    (void)state;
    enum { GANGS = 2, FORKS = 5, COMMON = 100, WHOLE = COMMON / OPS_PAGE_TOKENS };
    struct life like[GANGS] = {0};
    struct rig r;
    uint32_t stems[GANGS], forks[GANGS][FORKS];
    uint64_t bytes, page_bytes = 0;
    engine_make(&r, TINY_LLAMA, PAGES, ROWS_MAX);
    sched_make(&r, 0);
    for (uint32_t count = 1; count <= FORKS; count++)
        for (uint32_t g = 0; g < GANGS; g++) {
            struct sched_seq_args args = args_of(&like[g], g, 1);
            if (count == 1) {
                like[g] = (struct life){.prompt_count = COMMON, .wanted = OWN_MAX, .seed = g};
                for (uint32_t i = 0; i < COMMON; i++)
                    like[g].prompt[i] = (i * 11 + g) % TINY_VOCABULARY;
                args = args_of(&like[g], g, 1);
                args.stem = true;
                assert_int_equal(sched_add(r.sched, &args, &stems[g]), SCHED_OK);
                for (uint32_t i = 0; i < COMMON; i += TOKENS_MAX)
                    (void)step_measured(&r, &bytes);
                args.stem = false;
            }
            args.branch = count;
            args.max_tokens = 40;
            args.prompt_tokens = 0;
            assert_int_equal(sched_fork(r.sched, stems[g], &args, &forks[g][count - 1]), SCHED_OK);
            uint32_t rows = (count - 1) * GANGS + g + 1, gangs = count > 1 ? GANGS : g + 1;
            assert_int_equal(step_measured(&r, &bytes), rows); /* copies the page begun */
            assert_int_equal(step_measured(&r, &bytes), rows);
            page_bytes = rows == 1 ? bytes / (WHOLE + 1) : page_bytes;
            assert_int_equal(bytes, page_bytes * (gangs * WHOLE + rows));
        }
    for (uint32_t g = 0; g < GANGS; g++) { /* who comes back stands with its gang again */
        sched_pause(r.sched, forks[g][2]);
        assert_int_equal(step_measured(&r, &bytes), GANGS * FORKS - 1);
        sched_resume(r.sched, forks[g][2]);
        assert_int_equal(step_measured(&r, &bytes), GANGS * FORKS);
        assert_int_equal(bytes, page_bytes * (GANGS * WHOLE + GANGS * FORKS));
    }
    sched_free(r.sched);
    rig_close(&r);
}

enum misuse { ADD, FORK, POST, NO_MISUSE };

/* Everything is made in the child: threads do not come along. */
static int unknown_token(void *argument)
{
    enum misuse what = *(const enum misuse *)argument;
    const uint32_t unknown = TINY_VOCABULARY;
    struct rlimit no_core = {0};
    struct engine_batch *batch;
    struct rig r;
    uint32_t seq;
    (void)setrlimit(RLIMIT_CORE, &no_core); /* a core file would only be litter */
    (void)signal(SIGABRT, SIG_DFL);
    engine_make(&r, TINY_LLAMA, PAGES, ROWS_MAX);
    tiny_remove(r.folder); /* nobody does if we stop */
    sched_make(&r, 0);
    struct life like = {.prompt_count = 2, .wanted = 1};
    struct sched_seq_args args = args_of(&like, 0, 1);
    assert_int_equal(sched_add(r.sched, &args, &seq), SCHED_OK);
    args.prompt = &unknown;
    args.prompt_tokens = 1;
    if (what == ADD)
        (void)sched_add(r.sched, &args, &seq);
    if (what == FORK)
        (void)sched_fork(r.sched, seq, &args, &seq);
    assert_int_equal(engine_batch_new(r.engine, &batch), 0);
    batch->rows_count = batch->tokens_count = 1;
    batch->rows[0] = (struct engine_row){.tokens_count = 1};
    batch->tokens[0] = what == POST ? unknown : unknown - 1;
    assert_int_equal(engine_post(r.engine, batch, 0), ENGINE_OK);
    while (!engine_next(r.engine, ENGINE_POLICY, 0))
        (void)sched_yield();
    return 0;
}

static void sched_tokens_that_the_model_does_not_have_stop_the_process(void **state)
{
    (void)state;
    for (enum misuse what = ADD; what <= NO_MISUSE; what++)
        assert_int_equal(child_wait(child_start(unknown_token, &what)),
                         what == NO_MISUSE ? 0 : 128 + SIGABRT);
}

/* ---- a numeric failure ------------------------------------------------------------------------- */

/* Two that share pages and forced tokens: to the first it is the spoiled one where asked. Returns how many
 * results that one had; the neighbour's go to own. */
static uint32_t neighbours_run(struct rig *r, bool fails, struct written own[OWN_MAX],
                               uint64_t *ret_discarded)
{
    enum { COMMON = 3 * OPS_PAGE_TOKENS, AFTER = 3 }; /* what fails is the last of a page */
    struct life like = {.prompt_count = COMMON + OPS_PAGE_TOKENS - AFTER - 1, .wanted = OWN_MAX};
    struct sched_result result;
    struct sched_stats stats;
    uint32_t seqs[2], counts[2] = {0, 0};
    bool failed = false;
    sched_make(r, 0);
    for (uint32_t i = 0; i < like.prompt_count; i++)
        like.prompt[i] = 8 + i * 11 % (TINY_VOCABULARY - 8);
    for (uint32_t user = 0; user < 2; user++) {
        like.seed = user;
        struct sched_seq_args args = args_of(&like, user, 1);
        assert_int_equal(sched_add(r->sched, &args, &seqs[user]), SCHED_OK);
    }
    while (counts[1] < OWN_MAX || (!failed && counts[0] < OWN_MAX)) {
        struct pollfd fd = {.fd = sched_fd(r->sched), .events = POLLIN};
        if (sched_poll(r->sched, 0) == 0)
            (void)poll(&fd, 1, 1000);
        while (sched_next(r->sched, &result)) {
            uint32_t user = (uint32_t)result.user;
            assert_false(user == 0 && failed); /* what was planned ahead of it is nobody's */
            assert_true(counts[user] < OWN_MAX);
            failed |= user == 0 && result.sampled.numeric;
            assert_int_equal(result.sampled.numeric, user == 0 && failed);
            if (user == 1)
                own[counts[1]] = (struct written){
                    result.sampled.token, result.sampled.log_probability, result.sampled.entropy};
            if (++counts[user] == OWN_MAX)
                sched_remove(r->sched, seqs[user]); /* who failed stays, and nothing comes of it */
            else if (user == 0 && counts[0] == AFTER && fails)
                sched_force(r->sched, seqs[0], SPOILED);
        }
    }
    if (failed)
        sched_remove(r->sched, seqs[0]);
    while (engine_busy(r->engine, ENGINE_POLICY) || r->engine->queues[0].count)
        if (sched_poll(r->sched, 0))
            assert_false(sched_next(r->sched, &result)); /* both are gone */
    sched_stats(r->sched, &stats);
    *ret_discarded = stats.rows_discarded_count;
    /* The prompt's three, and the fourth of each; but what is no number is nobody's to find, nor, as nothing
     * hung on them yet, what came before it. */
    assert_int_equal(stats.kv_pages_cached, failed ? 0 : 5);
    assert_int_equal(stats.kv_pages_used, 0);
    assert_int_equal(stats.kv_pages_reserved, 0);
    sched_free(r->sched);
    return counts[0];
}

/* A branch whose numbers are none ends there, though its next row is planned, or on its way: that row is discarded,
 * its pages come back, and who shares pages with it writes what it writes beside one that is well. */
static void sched_a_numeric_failure_is_its_own(void **state)
{
    struct written well[OWN_MAX], beside[OWN_MAX];
    uint64_t discarded;
    struct rig r;
    (void)state;
    spoiled = true;
    engine_make(&r, TINY_LLAMA, PAGES, ROWS_MAX);
    spoiled = false;
    assert_int_equal(neighbours_run(&r, false, well, &discarded), OWN_MAX);
    assert_int_equal(discarded, 0);
    assert_true(neighbours_run(&r, true, beside, &discarded) < OWN_MAX);
    assert_int_equal(discarded,
                     steps_max == 1 ? 0 : 2); /* for the forced token, and for what failed */
    assert_memory_equal(well, beside, sizeof well);
    rig_close(&r);
}

/* From here on. */
static int plan_ahead(void **state)
{
    (void)state;
    steps_max = 2;
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sched_a_forced_token_is_the_next),
        cmocka_unit_test(sched_hidden_states_are_pooled_once),
        cmocka_unit_test(sched_forks_have_their_own_dots),
        cmocka_unit_test(sched_a_gang_shares_its_pages),
        cmocka_unit_test(sched_a_numeric_failure_is_its_own),
        cmocka_unit_test(sched_sequences_write_what_they_write_alone),
        cmocka_unit_test(sched_penalties_of_more_than_a_batch_holds_take_turns),
        cmocka_unit_test(sched_a_tenant_cannot_tell_what_another_asked),
        cmocka_unit_test(sched_a_tenant_cannot_tell_what_another_asks_beside_it),
        cmocka_unit_test(sched_tokens_that_the_model_does_not_have_stop_the_process),
        cmocka_unit_test(sched_100000_short_sequences_leave_nothing_behind),
        cmocka_unit_test_setup(sched_sequences_write_what_they_write_alone, plan_ahead),
        cmocka_unit_test(sched_a_numeric_failure_is_its_own),
        cmocka_unit_test(sched_hidden_states_are_pooled_once),
        cmocka_unit_test(sched_penalties_of_more_than_a_batch_holds_take_turns),
        cmocka_unit_test(sched_a_tenant_cannot_tell_what_another_asks_beside_it),
        cmocka_unit_test(sched_100000_short_sequences_leave_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
