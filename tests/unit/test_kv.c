/* tests/unit/test_kv.c: KV pages. A model of the memory (which token's KV lies at each position of each
 * page) follows random adds, forks, extensions, commits, taints and ends on a pool too small for them,
 * with freed pages poisoned: every sequence must read its own tokens after every operation, the counts
 * must sum to the pool, and every reservation must be good. So must they where tokens are told later, and taken back. Single cases show the order of eviction,
 * the isolation of tenants, and that a table where everything collides only costs time. */
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/kv/kv.h"
#include "tests/lib/check.h"

#define PAGE 4u
#define PAGES 24u
#define SEQS 12u
#define LONG_MAX (PAGE * PAGES)
#define POISON UINT64_MAX
#define ALPHABET 2u /* so that equal prefixes happen */

struct shadow {
    uint32_t tokens[LONG_MAX];
    uint32_t count;
    uint32_t reserve_pages;
    uint32_t tenant;
    uint32_t computed;
    uint32_t truncate_min; /* forks and the tree have so many */
    bool untold;
    bool alive;
};

struct rig {
    struct kv *kv;
    uint64_t memory[PAGES][PAGE]; /* hash of the prefix whose KV lies here, with its tenant */
    struct shadow seqs[SEQS];
    struct rng rng;
};

static uint32_t draw(struct rig *r, uint32_t below)
{
    return (uint32_t)rng_below(&r->rng, below);
}

static struct kv *kv_make(uint32_t pages, uint32_t buckets)
{
    struct kv *kv = NULL;
    assert_int_equal(kv_new(&(struct kv_config){.pages_count = pages,
                                                .page_tokens = PAGE,
                                                .seqs_max = SEQS,
                                                .seq_pages_max = PAGES,
                                                .groups_max = 4,
                                                .buckets_count = buckets},
                            &kv),
                     0);
    return kv;
}

/* What KV of position i of these tokens would be: it depends on the whole prefix. */
static uint64_t value_at(const struct shadow *s, uint32_t i)
{
    uint64_t value = s->tenant + 1;
    for (uint32_t k = 0; k <= i; k++)
        value = (value ^ s->tokens[k]) * UINT64_C(0x9E3779B97F4A7C15) + k;
    return value;
}

static void poison(struct rig *r)
{
    uint32_t page;
    while (kv_freed_next(r->kv, &page))
        for (uint32_t i = 0; i < PAGE; i++)
            r->memory[page][i] = POISON;
}

static void check_all(struct rig *r)
{
    struct kv_stats stats;
    kv_audit(r->kv);
    kv_stats(r->kv, &stats);
    assert_int_equal(stats.pages_used + stats.pages_cached + stats.pages_free, PAGES);
    for (uint32_t seq = 0; seq < SEQS; seq++) {
        const struct shadow *s = &r->seqs[seq];
        uint32_t count;
        if (!s->alive)
            continue;
        const uint32_t *pages = kv_seq_pages(r->kv, seq, &count);
        for (uint32_t i = 0; i < s->computed; i++)
            assert_true(r->memory[pages[i / PAGE]][i % PAGE] == value_at(s, i));
    }
}

static void extend(struct rig *r, uint32_t seq, uint32_t tokens)
{
    struct shadow *s = &r->seqs[seq];
    struct kv_copy copy;
    uint32_t count;
    for (uint32_t i = 0; i < tokens; i++)
        s->tokens[s->count + i] = draw(r, ALPHABET);
    kv_seq_extend(r->kv, seq, s->tokens + s->count, tokens, &copy);
    s->count += tokens;
    if (copy.valid_tokens)
        for (uint32_t i = 0; i < PAGE; i++)
            r->memory[copy.to][i] = i < copy.valid_tokens ? r->memory[copy.from][i] : 0;
    poison(r);
    const uint32_t *pages = kv_seq_pages(r->kv, seq, &count);
    for (uint32_t i = s->computed; i < s->count; i++)
        r->memory[pages[i / PAGE]][i % PAGE] = value_at(s, i);
    s->computed = s->count;
}

/* A token whose KV is there before anybody knows it; whether it is told or taken back comes later. */
static void extend_unknown(struct rig *r, uint32_t seq)
{
    struct shadow *s = &r->seqs[seq];
    struct kv_copy copy;
    uint32_t count;
    kv_seq_extend(r->kv, seq, NULL, 1, &copy);
    if (copy.valid_tokens)
        for (uint32_t i = 0; i < PAGE; i++)
            r->memory[copy.to][i] = i < copy.valid_tokens ? r->memory[copy.from][i] : 0;
    poison(r);
    s->tokens[s->count] = draw(r, ALPHABET);
    const uint32_t *pages = kv_seq_pages(r->kv, seq, &count);
    r->memory[pages[s->count / PAGE]][s->count % PAGE] = value_at(s, s->count);
    s->untold = true;
}

static void tell(struct rig *r, uint32_t seq)
{
    struct shadow *s = &r->seqs[seq];
    kv_seq_tell(r->kv, seq, s->tokens[s->count]);
    s->computed = ++s->count;
    s->untold = false;
}

/* Not what the tree or a fork has. */
static void truncate_some(struct rig *r, uint32_t seq)
{
    struct shadow *s = &r->seqs[seq];
    if (s->untold && draw(r, 2)) {
        kv_seq_truncate(r->kv, seq, s->count); /* the unknown one alone */
    } else {
        s->count = s->computed = s->truncate_min + draw(r, s->count - s->truncate_min + 1);
        kv_seq_truncate(r->kv, seq, s->count);
    }
    s->untold = false;
}

static void add(struct rig *r)
{
    struct shadow s = {.count = 1 + draw(r, 20), .tenant = draw(r, 2), .alive = true};
    uint32_t seq;
    s.reserve_pages = (s.count + PAGE - 1) / PAGE + draw(r, 4);
    for (uint32_t i = 0; i < s.count; i++)
        s.tokens[i] = draw(r, ALPHABET);
    if (kv_seq_new(r->kv, s.tenant, draw(r, 4), s.reserve_pages, &seq) != KV_OK)
        return;
    uint32_t wanted = s.count;
    s.count = s.computed = kv_seq_match(r->kv, seq, s.tokens, s.count);
    assert_true(s.count < wanted && s.count % PAGE == 0);
    s.truncate_min = s.count;
    r->seqs[seq] = s;
}

static void fork_one(struct rig *r, uint32_t parent)
{
    struct shadow s = r->seqs[parent];
    uint32_t seq;
    s.count = s.computed = s.truncate_min = draw(r, s.computed + 1);
    s.untold = false;
    s.reserve_pages = (s.count + PAGE - 1) / PAGE + draw(r, 4);
    if (kv_seq_fork(r->kv, parent, s.reserve_pages, s.count, &seq) != KV_OK)
        return;
    r->seqs[seq] = s;
    if (s.count > r->seqs[parent].truncate_min)
        r->seqs[parent].truncate_min = s.count;
}

static void operate(struct rig *r)
{
    uint32_t seq = draw(r, SEQS);
    struct shadow *s = &r->seqs[seq];
    uint32_t what = draw(r, 16);
    if (!s->alive) {
        add(r);
    } else if (s->untold && what < 7) {
        tell(r, seq);
    } else if (what < 7) {
        uint32_t room = s->reserve_pages * PAGE - s->count;
        if (room && draw(r, 2))
            extend_unknown(r, seq);
        else if (room)
            extend(r, seq, 1 + draw(r, room < 9 ? room : 9));
    } else if (what < 9) {
        kv_seq_commit(r->kv, seq, s->computed);
        s->truncate_min = s->computed > s->truncate_min ? s->computed : s->truncate_min;
    } else if (what < 10) {
        truncate_some(r, seq);
    } else if (what < 13) {
        fork_one(r, seq);
    } else if (what < 14 && draw(r, 4) == 0) {
        kv_seq_taint(r->kv, seq);
    } else {
        kv_seq_free(r->kv, seq);
        s->alive = false;
    }
    poison(r);
}

static void run_random(uint64_t seed, uint32_t buckets, uint32_t operations)
{
    static struct rig r;
    r = (struct rig){.kv = kv_make(PAGES, buckets), .rng = {seed}};
    for (uint32_t i = 0; i < operations; i++) {
        operate(&r);
        check_all(&r);
    }
    kv_free(r.kv);
}

static void kv_survives_any_order_of_operations(void **state)
{
    (void)state;
    uint64_t seed = check_number("SEED", now_ns());
    (void)fprintf(stderr, "SEED=%" PRIu64 "\n", seed);
    for (uint32_t i = 0; i < 40; i++)
        run_random(seed + i, i % 4 == 0 ? 1 : 0, 3000);
}

/* Adds a sequence of these tokens, computed and committed. */
static uint32_t computed(struct kv *kv, uint32_t tenant, uint32_t group, uint32_t first,
                         uint32_t pages, uint32_t *ret_matched)
{
    uint32_t tokens[PAGES * PAGE];
    uint32_t seq;
    struct kv_copy copy;
    for (uint32_t i = 0; i < pages * PAGE; i++)
        tokens[i] = first + i;
    assert_int_equal(kv_seq_new(kv, tenant, group, pages, &seq), KV_OK);
    *ret_matched = kv_seq_match(kv, seq, tokens, pages * PAGE);
    kv_seq_extend(kv, seq, tokens + *ret_matched, pages * PAGE - *ret_matched, &copy);
    kv_seq_commit(kv, seq, pages * PAGE);
    kv_audit(kv);
    return seq;
}

static void kv_finds_only_what_the_same_tenant_computed(void **state)
{
    (void)state;
    for (uint32_t buckets = 0; buckets < 2; buckets++) {
        struct kv *kv = kv_make(PAGES, buckets);
        uint32_t matched;
        kv_seq_free(kv, computed(kv, 7, 0, 100, 4, &matched));
        assert_int_equal(matched, 0);
        kv_seq_free(kv, computed(kv, 8, 1, 100, 4, &matched));
        assert_int_equal(matched, 0);
        kv_seq_free(kv, computed(kv, 7, 2, 100, 4, &matched));
        assert_int_equal(matched, 3 * PAGE); /* never the last token's page */
        kv_seq_free(kv, computed(kv, 7, 2, 101, 4, &matched));
        assert_int_equal(matched, 0);
        kv_free(kv);
    }
}

static void kv_evicts_idle_groups_first_and_leaves_before_their_prefix(void **state)
{
    (void)state;
    struct kv *kv = kv_make(12, 0);
    uint32_t matched;
    uint32_t alive = computed(kv, 1, 0, 500, 1, &matched); /* keeps group 0 in use */
    kv_seq_free(kv, computed(kv, 1, 0, 100, 4, &matched)); /* older, but of a living group */
    kv_seq_free(kv, computed(kv, 1, 1, 200, 4, &matched));
    uint32_t more = computed(kv, 1, 2, 300, 5, &matched); /* 3 are free: 2 must go */
    kv_seq_free(kv, more);
    struct kv_stats stats;
    kv_stats(kv, &stats);
    assert_int_equal(stats.evictions_count, 2);
    uint32_t a = computed(kv, 1, 1, 200, 3, &matched);
    assert_int_equal(matched, 2 * PAGE); /* the last two of group 1 went */
    uint32_t b = computed(kv, 1, 0, 100, 5, &matched);
    assert_int_equal(matched, 4 * PAGE); /* group 0 kept all */
    kv_seq_free(kv, a);
    kv_seq_free(kv, b);
    kv_seq_free(kv, alive);
    kv_audit(kv);
    kv_free(kv);
}

static void kv_refuses_what_it_could_not_promise(void **state)
{
    (void)state;
    struct kv *kv = kv_make(10, 0);
    uint32_t a, b, c;
    struct kv_copy copy;
    uint32_t tokens[6 * PAGE] = {0};
    assert_int_equal(kv_seq_new(kv, 1, 0, 6, &a), KV_OK);
    assert_int_equal(kv_seq_new(kv, 1, 0, 5, &b), KV_E_FULL);
    kv_seq_extend(kv, a, tokens, 5 * PAGE + 1, &copy);
    assert_int_equal(kv_seq_fork(kv, a, 10, 5 * PAGE + 1, &b), KV_E_FULL); /* 5 shared, 5 new */
    assert_int_equal(kv_seq_fork(kv, a, 9, 5 * PAGE + 1, &b), KV_OK);
    assert_int_equal(kv_seq_new(kv, 1, 0, 1, &c), KV_E_FULL);
    kv_seq_extend(kv, b, tokens, 3 * PAGE, &copy); /* up to the last page promised */
    assert_int_equal(copy.valid_tokens, 1);
    kv_seq_free(kv, a);
    kv_audit(kv);
    kv_seq_free(kv, b);
    kv_free(kv);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kv_survives_any_order_of_operations),
        cmocka_unit_test(kv_finds_only_what_the_same_tenant_computed),
        cmocka_unit_test(kv_evicts_idle_groups_first_and_leaves_before_their_prefix),
        cmocka_unit_test(kv_refuses_what_it_could_not_promise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
