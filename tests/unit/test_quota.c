/* tests/unit/test_quota.c: what a uid is charged is exact to the unit and cannot overflow. The edges
 * (the limit, 2^64, no row left) by single cases; everything else by 100,000 random operations of 64
 * uids, each compared with an oracle that counts in 128 bits. Misuse must abort: shown in children. */
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/resource.h>
#include <cmocka.h>

#include "daemon/ipc/quota.h"
#include "tests/lib/check.h"

#define OPERATIONS 100000u
#define UIDS 64u
#define USERS_MAX 48u /* fewer than uids, so that the table is full now and then */

static struct quota *quota_of(uint32_t users_max, uint64_t max)
{
    struct quota *q = NULL;
    uint64_t all[QUOTA_KINDS];
    for (int i = 0; i < QUOTA_KINDS; i++)
        all[i] = max;
    assert_int_equal(quota_new(users_max, all, &q), 0);
    return q;
}

static void quota_charges_up_to_the_limit_and_not_one_beyond(void **state)
{
    struct quota *q = quota_of(2, 10);
    struct quota_user *u = quota_ref(q, 1000);
    (void)state;
    assert_true(quota_charge(q, u, QUOTA_PROGRAMS, 9));
    assert_false(quota_charge(q, u, QUOTA_PROGRAMS, 2));
    assert_int_equal(quota_used(u, QUOTA_PROGRAMS), 9); /* a refusal charges nothing */
    assert_true(quota_charge(q, u, QUOTA_PROGRAMS, 1));
    assert_false(quota_charge(q, u, QUOTA_PROGRAMS, 1));
    assert_true(quota_charge(q, u, QUOTA_PROGRAMS, 0));
    quota_give(q, u, QUOTA_PROGRAMS, 1);
    assert_true(quota_charge(q, u, QUOTA_PROGRAMS, 1));
    assert_int_equal(quota_max(q, QUOTA_PROGRAMS), 10);
    quota_give(q, u, QUOTA_PROGRAMS, 10);
    assert_int_equal(quota_total(q, QUOTA_PROGRAMS), 0);
    quota_unref(q, u);
    quota_free(q);
}

static void quota_kinds_and_uids_do_not_touch_each_other(void **state)
{
    struct quota *q = quota_of(2, 5);
    struct quota_user *a = quota_ref(q, 1), *b = quota_ref(q, 2);
    (void)state;
    for (int kind = 0; kind < QUOTA_KINDS; kind++) {
        assert_true(quota_charge(q, a, (enum quota_kind)kind, 5));
        assert_false(quota_charge(q, a, (enum quota_kind)kind, 1));
        assert_int_equal(quota_used(b, (enum quota_kind)kind), 0);
        assert_true(quota_charge(q, b, (enum quota_kind)kind, 3));
        assert_int_equal(quota_total(q, (enum quota_kind)kind), 8);
    }
    for (int kind = 0; kind < QUOTA_KINDS; kind++) {
        quota_give(q, a, (enum quota_kind)kind, 5);
        quota_give(q, b, (enum quota_kind)kind, 3);
    }
    quota_unref(q, a);
    quota_unref(q, b);
    quota_free(q);
}

static void quota_amounts_near_two_to_the_64_do_not_wrap(void **state)
{
    struct quota *q = quota_of(2, UINT64_MAX);
    struct quota_user *a = quota_ref(q, 1), *b = quota_ref(q, 2);
    (void)state;
    assert_true(quota_charge(q, a, QUOTA_REGION_BYTES, UINT64_MAX));
    assert_false(quota_charge(q, a, QUOTA_REGION_BYTES, 1));
    assert_false(quota_charge(q, a, QUOTA_REGION_BYTES, UINT64_MAX));
    /* b is within its own limit, but the sum over all would wrap. */
    assert_false(quota_charge(q, b, QUOTA_REGION_BYTES, 1));
    assert_int_equal(quota_total(q, QUOTA_REGION_BYTES), UINT64_MAX);
    quota_give(q, a, QUOTA_REGION_BYTES, UINT64_MAX);
    assert_int_equal(quota_used(a, QUOTA_REGION_BYTES), 0);
    assert_int_equal(quota_total(q, QUOTA_REGION_BYTES), 0);
    assert_true(quota_charge(q, a, QUOTA_REGION_BYTES, UINT64_MAX - 1));
    assert_true(quota_charge(q, b, QUOTA_REGION_BYTES, 1));
    assert_int_equal(quota_total(q, QUOTA_REGION_BYTES), UINT64_MAX);
    quota_give(q, b, QUOTA_REGION_BYTES, 1);
    quota_give(q, a, QUOTA_REGION_BYTES, UINT64_MAX - 1);
    assert_int_equal(quota_total(q, QUOTA_REGION_BYTES), 0);
    quota_unref(q, a);
    quota_unref(q, b);
    quota_free(q);
}

static void quota_a_sum_that_would_wrap_below_a_small_limit_is_refused(void **state)
{
    struct quota *q = quota_of(1, 100);
    struct quota_user *u = quota_ref(q, 7);
    (void)state;
    assert_true(quota_charge(q, u, QUOTA_QUEUED_BYTES, 60));
    /* 60 + (2^64 - 60) is 0 in 64 bits, and 60 + (2^64 - 10) is 50. */
    assert_false(quota_charge(q, u, QUOTA_QUEUED_BYTES, UINT64_MAX - 59));
    assert_false(quota_charge(q, u, QUOTA_QUEUED_BYTES, UINT64_MAX - 9));
    assert_false(quota_charge(q, u, QUOTA_QUEUED_BYTES, UINT64_MAX));
    assert_int_equal(quota_used(u, QUOTA_QUEUED_BYTES), 60);
    quota_give(q, u, QUOTA_QUEUED_BYTES, 60);
    quota_unref(q, u);
    quota_free(q);
}

static void quota_a_limit_of_zero_admits_nothing(void **state)
{
    struct quota *q = quota_of(1, 0);
    struct quota_user *u = quota_ref(q, 7);
    (void)state;
    assert_false(quota_charge(q, u, QUOTA_CONNECTIONS, 1));
    assert_false(quota_charge(q, u, QUOTA_CONNECTIONS, UINT64_MAX));
    assert_true(quota_charge(q, u, QUOTA_CONNECTIONS, 0));
    quota_unref(q, u);
    quota_free(q);
}

static void quota_a_row_lives_as_long_as_somebody_refers_to_it(void **state)
{
    struct quota *q = quota_of(2, 10);
    struct quota_user *a = quota_ref(q, 1), *b = quota_ref(q, 2);
    (void)state;
    assert_ptr_equal(quota_ref(q, 1), a);
    assert_int_equal(quota_users_count(q), 2);
    assert_null(quota_ref(q, 3)); /* no row left */
    assert_int_equal(quota_users_count(q), 2);
    quota_unref(q, a);
    assert_null(quota_ref(q, 3));
    assert_ptr_equal(quota_ref(q, 2), b); /* a known uid needs no row */
    quota_unref(q, a);
    struct quota_user *c = quota_ref(q, 3);
    assert_non_null(c);
    for (int kind = 0; kind < QUOTA_KINDS; kind++)
        assert_int_equal(quota_used(c, (enum quota_kind)kind), 0);
    assert_ptr_equal(quota_ref(q, 2), b); /* found behind a row that was free in between */
    quota_unref(q, c);
    for (int i = 0; i < 3; i++)
        quota_unref(q, b);
    assert_int_equal(quota_users_count(q), 0);
    quota_free(q);
    quota_free(NULL);
}

/* ---- the oracle --------------------------------------------------------------------------------- */

struct oracle {
    struct quota *quota;
    struct rng rng;
    uint64_t max[QUOTA_KINDS];
    unsigned __int128 total[QUOTA_KINDS];
    uint32_t users_count;
    uint64_t refusals; /* a run that refuses nothing shows nothing */
    struct {
        struct quota_user *user;
        uint32_t refs_count;
        unsigned __int128 used[QUOTA_KINDS];
    } row[UIDS];
};

/* Most amounts are of interest: the edge of the limit, the edge of 2^64, or of any magnitude. */
static uint64_t amount_pick(struct oracle *o, uint64_t used, uint64_t max)
{
    switch (rng_below(&o->rng, 8)) {
    case 0:
        return max - used;
    case 1:
        return max - used + 1; /* wraps to 0 for UINT64_MAX and nothing used */
    case 2:
        return UINT64_MAX - rng_below(&o->rng, 3);
    case 3:
        return UINT64_MAX - used + rng_below(&o->rng, 3);
    case 4:
        return rng_below(&o->rng, 3);
    default:
        return rng_next(&o->rng) >> rng_below(&o->rng, 64);
    }
}

static void oracle_ref(struct oracle *o, uint32_t uid)
{
    struct quota_user *user = quota_ref(o->quota, 100000 + uid);
    if (o->row[uid].refs_count == 0 && o->users_count == USERS_MAX) {
        assert_null(user);
        o->refusals++;
        return;
    }
    assert_non_null(user);
    if (o->row[uid].refs_count++ == 0)
        o->users_count++;
    else
        assert_ptr_equal(user, o->row[uid].user);
    o->row[uid].user = user;
}

static void oracle_give(struct oracle *o, uint32_t uid, int kind, uint64_t amount)
{
    quota_give(o->quota, o->row[uid].user, (enum quota_kind)kind, amount);
    o->row[uid].used[kind] -= amount;
    o->total[kind] -= amount;
}

static void oracle_unref(struct oracle *o, uint32_t uid)
{
    if (o->row[uid].refs_count == 1) {
        for (int kind = 0; kind < QUOTA_KINDS; kind++)
            oracle_give(o, uid, kind, (uint64_t)o->row[uid].used[kind]);
        o->users_count--;
    }
    o->row[uid].refs_count--;
    quota_unref(o->quota, o->row[uid].user);
}

static void oracle_charge(struct oracle *o, uint32_t uid, int kind)
{
    unsigned __int128 used = o->row[uid].used[kind];
    uint64_t amount = amount_pick(o, (uint64_t)used, o->max[kind]);
    bool fits = used + amount <= o->max[kind] && o->total[kind] + amount <= UINT64_MAX;
    assert_int_equal(quota_charge(o->quota, o->row[uid].user, (enum quota_kind)kind, amount), fits);
    if (fits) {
        o->row[uid].used[kind] += amount;
        o->total[kind] += amount;
    } else {
        o->refusals++;
    }
}

static void oracle_compare(const struct oracle *o)
{
    assert_int_equal(quota_users_count(o->quota), o->users_count);
    for (int kind = 0; kind < QUOTA_KINDS; kind++) {
        assert_true(quota_total(o->quota, (enum quota_kind)kind) == o->total[kind]);
        for (uint32_t uid = 0; uid < UIDS; uid++)
            if (o->row[uid].refs_count)
                assert_true(quota_used(o->row[uid].user, (enum quota_kind)kind) ==
                            o->row[uid].used[kind]);
    }
}

static void quota_agrees_with_128_bits_over_random_operations(void **state)
{
    struct oracle o = {.rng = {.state = check_number("SEED", 1)},
                       .max = {UINT64_MAX, 1000, UINT64_C(1) << 63, UINT64_MAX - 1}};
    (void)state;
    assert_int_equal(quota_new(USERS_MAX, o.max, &o.quota), 0);
    for (uint32_t i = 0; i < OPERATIONS; i++) {
        uint32_t uid = (uint32_t)rng_below(&o.rng, UIDS);
        int kind = (int)rng_below(&o.rng, QUOTA_KINDS);
        uint64_t pick = rng_below(&o.rng, 16);
        if (o.row[uid].refs_count == 0 || pick < 2)
            oracle_ref(&o, uid);
        else if (pick < 5)
            oracle_unref(&o, uid);
        else if (pick < 8) /* all or part of what was charged */
            oracle_give(&o, uid, kind,
                        (uint64_t)o.row[uid].used[kind] >> (rng_below(&o.rng, 2) * 7));
        else
            oracle_charge(&o, uid, kind);
        oracle_compare(&o);
    }
    assert_true(o.refusals > OPERATIONS / 20);
    for (uint32_t uid = 0; uid < UIDS; uid++)
        while (o.row[uid].refs_count)
            oracle_unref(&o, uid);
    for (int kind = 0; kind < QUOTA_KINDS; kind++)
        assert_int_equal(quota_total(o.quota, (enum quota_kind)kind), 0);
    assert_int_equal(quota_users_count(o.quota), 0);
    quota_free(o.quota);
}

/* ---- misuse ------------------------------------------------------------------------------------- */

enum misuse { GIVE_TOO_MUCH, GIVE_OTHER_KIND, UNREF_CHARGED, UNREF_TWICE, NO_MISUSE };

/* In a child: status 0 when nothing stopped it. */
static int misuse(void *argument)
{
    enum misuse what = *(const enum misuse *)argument;
    struct rlimit no_core = {0};
    (void)setrlimit(RLIMIT_CORE, &no_core); /* a core file would only be litter */
    (void)signal(SIGABRT, SIG_DFL);
    struct quota *q = quota_of(2, 10);
    struct quota_user *u = quota_ref(q, 1);
    struct quota_user *other = quota_ref(q, 2);
    if (!quota_charge(q, u, QUOTA_PROGRAMS, 3) || !quota_charge(q, other, QUOTA_PROGRAMS, 3) ||
        !quota_charge(q, other, QUOTA_CONNECTIONS, 4))
        return 1;
    if (what == GIVE_TOO_MUCH || what == GIVE_OTHER_KIND) {
        /* The total over all uids would still be positive. */
        quota_give(q, u, what == GIVE_TOO_MUCH ? QUOTA_PROGRAMS : QUOTA_CONNECTIONS, 4);
        return 0;
    }
    if (what != UNREF_CHARGED)
        quota_give(q, u, QUOTA_PROGRAMS, 3);
    quota_unref(q, u);
    if (what == UNREF_TWICE)
        quota_unref(q, u);
    quota_give(q, other, QUOTA_PROGRAMS, 3);
    quota_give(q, other, QUOTA_CONNECTIONS, 4);
    quota_unref(q, other);
    quota_free(q);
    return 0;
}

static void quota_misuse_stops_the_process(void **state)
{
    (void)state;
    for (enum misuse what = GIVE_TOO_MUCH; what <= NO_MISUSE; what++)
        assert_int_equal(child_wait(child_start(misuse, &what)),
                         what == NO_MISUSE ? 0 : 128 + SIGABRT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quota_charges_up_to_the_limit_and_not_one_beyond),
        cmocka_unit_test(quota_kinds_and_uids_do_not_touch_each_other),
        cmocka_unit_test(quota_amounts_near_two_to_the_64_do_not_wrap),
        cmocka_unit_test(quota_a_sum_that_would_wrap_below_a_small_limit_is_refused),
        cmocka_unit_test(quota_a_limit_of_zero_admits_nothing),
        cmocka_unit_test(quota_a_row_lives_as_long_as_somebody_refers_to_it),
        cmocka_unit_test(quota_agrees_with_128_bits_over_random_operations),
        cmocka_unit_test(quota_misuse_stops_the_process),
    };
    printf("SEED=%" PRIu64 "\n", check_number("SEED", 1));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
