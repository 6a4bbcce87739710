/* tests/unit/test_ring.c: the slot ring at its edges: empty, full, wrapped, started anywhere in the
 * 64-bit positions, and against a peer that writes sequences and positions that cannot be. Both ends
 * run in one thread; what order means between two is tests/litmus and tests/models. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "shm/ring.h"

#define SLOTS 8u

struct pair {
    _Alignas(64) struct ring_slot slot[SLOTS];
    uint64_t consumed;
    struct ring_tx tx;
    struct ring_rx rx;
};

/* A ring that has lived up to pos, everything taken. */
static void pair_init(struct pair *p, uint64_t pos)
{
    memset(p, 0, sizeof *p);
    for (uint64_t at = pos < SLOTS ? 0 : pos - SLOTS; at < pos; at++)
        p->slot[at % SLOTS].seq = at + 1;
    p->consumed = pos;
    ring_tx_init(&p->tx, p->slot, SLOTS, pos, pos);
    ring_rx_init(&p->rx, p->slot, SLOTS, pos);
}

static void push(struct pair *p, uint64_t value)
{
    uint64_t word[RING_WORDS];
    for (uint64_t i = 0; i < RING_WORDS; i++)
        word[i] = value * 10 + i;
    ring_tx_push(&p->tx, word);
}

static void take(struct pair *p, uint64_t value)
{
    uint64_t word[RING_WORDS];
    assert_int_equal(ring_rx_peek(&p->rx), RING_READY);
    ring_rx_take(&p->rx, word);
    for (uint64_t i = 0; i < RING_WORDS; i++)
        assert_int_equal(word[i], value * 10 + i);
}

static void a_slot_is_one_cache_line_with_its_sequence_last(void **state)
{
    (void)state;
    assert_int_equal(sizeof(struct ring_slot), 64);
    assert_int_equal(offsetof(struct ring_slot, seq), 56);
}

static void new_ring_is_empty_and_has_all_its_room(void **state)
{
    struct pair p;
    (void)state;
    pair_init(&p, 0);
    assert_int_equal(ring_rx_peek(&p.rx), RING_EMPTY);
    assert_int_equal(ring_tx_room(&p.tx), SLOTS);
}

static void records_come_out_whole_and_in_order_over_many_laps(void **state)
{
    struct pair p;
    uint64_t pushed = 0, taken = 0;
    (void)state;
    pair_init(&p, 0);
    for (int round = 0; round < 100; round++) {
        for (int i = 0; i < 1 + round % (int)SLOTS && ring_tx_room(&p.tx) > 0; i++)
            push(&p, pushed++);
        while (ring_rx_peek(&p.rx) == RING_READY)
            take(&p, taken++);
        ring_rx_publish(&p.rx, &p.consumed);
        assert_true(ring_tx_credit(&p.tx, &p.consumed));
    }
    assert_int_equal(pushed, taken);
    assert_true(taken > 3 * SLOTS);
}

static void full_ring_has_no_room_until_credit_is_published_and_read(void **state)
{
    struct pair p;
    (void)state;
    pair_init(&p, 0);
    for (uint64_t i = 0; i < SLOTS; i++)
        push(&p, i);
    assert_int_equal(ring_tx_room(&p.tx), 0);
    assert_true(ring_tx_credit(&p.tx, &p.consumed));
    assert_int_equal(ring_tx_room(&p.tx), 0);
    take(&p, 0);
    take(&p, 1);
    assert_true(ring_tx_credit(&p.tx, &p.consumed));
    assert_int_equal(ring_tx_room(&p.tx), 0); /* taken, not published */
    ring_rx_publish(&p.rx, &p.consumed);
    assert_int_equal(ring_tx_room(&p.tx), 0); /* published, not read */
    assert_true(ring_tx_credit(&p.tx, &p.consumed));
    assert_int_equal(ring_tx_room(&p.tx), 2);
}

static void every_wrong_sequence_is_bad(void **state)
{
    const uint64_t starts[] = {0, 1, SLOTS - 1, SLOTS, SLOTS + 1, 1000};
    (void)state;
    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++) {
        struct pair p;
        uint64_t pos = starts[i], before = pos >= SLOTS ? pos + 1 - SLOTS : 0;
        pair_init(&p, pos);
        assert_int_equal(p.slot[pos % SLOTS].seq, before);
        const uint64_t bad[] = {pos,
                                pos + 2,
                                before + 1,
                                before - 1,
                                UINT64_MAX,
                                pos + 1 + SLOTS,
                                before - SLOTS,
                                1ull << 63,
                                (pos + 1) ^ (1ull << 32)};
        for (size_t j = 0; j < sizeof bad / sizeof bad[0]; j++) {
            if (bad[j] == pos + 1 || bad[j] == before)
                continue;
            p.slot[pos % SLOTS].seq = bad[j];
            assert_int_equal(ring_rx_peek(&p.rx), RING_BAD);
        }
        p.slot[pos % SLOTS].seq = before;
        assert_int_equal(ring_rx_peek(&p.rx), RING_EMPTY);
    }
}

static void zero_in_a_slot_is_empty_on_the_first_lap_only(void **state)
{
    struct pair p;
    (void)state;
    pair_init(&p, SLOTS - 1);
    p.slot[SLOTS - 1].seq = 0;
    assert_int_equal(ring_rx_peek(&p.rx), RING_EMPTY);
    pair_init(&p, SLOTS);
    p.slot[0].seq = 0; /* a punched hole, for example */
    assert_int_equal(ring_rx_peek(&p.rx), RING_BAD);
}

/* Positions start anywhere in 64 bits when a restarted daemon goes on; here far up. */
static void ring_works_from_any_start(void **state)
{
    const uint64_t starts[] = {
        1, SLOTS, (1ull << 32) - 3, 1ull << 32, (1ull << 63) - 2, UINT64_MAX - 3 * SLOTS};
    (void)state;
    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++) {
        struct pair p;
        pair_init(&p, starts[i]);
        for (uint64_t n = 0; n < 2 * SLOTS; n++) {
            assert_int_equal(ring_rx_peek(&p.rx), RING_EMPTY);
            push(&p, n);
            take(&p, n);
            ring_rx_publish(&p.rx, &p.consumed);
            assert_true(ring_tx_credit(&p.tx, &p.consumed));
            assert_int_equal(ring_tx_room(&p.tx), SLOTS);
        }
    }
}

static void impossible_credit_is_refused_and_changes_nothing(void **state)
{
    struct pair p;
    (void)state;
    pair_init(&p, 100);
    for (uint64_t i = 0; i < 5; i++)
        push(&p, i);
    p.consumed = 103;
    assert_true(ring_tx_credit(&p.tx, &p.consumed));
    assert_int_equal(ring_tx_room(&p.tx), SLOTS - 2);
    /* ahead of us, one more, behind what it said, a lap behind, the far ends of the numbers */
    const uint64_t bad[] = {106,
                            107,
                            102,
                            100,
                            97,
                            96,
                            0,
                            UINT64_MAX,
                            1ull << 63,
                            105 + (1ull << 32),
                            105 - (1ull << 32)};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        p.consumed = bad[i];
        assert_false(ring_tx_credit(&p.tx, &p.consumed));
        assert_int_equal(ring_tx_room(&p.tx), SLOTS - 2);
        assert_int_equal(p.tx.pos, 105);
    }
    p.consumed = 103; /* the same as before */
    assert_true(ring_tx_credit(&p.tx, &p.consumed));
    p.consumed = 105; /* everything */
    assert_true(ring_tx_credit(&p.tx, &p.consumed));
    assert_int_equal(ring_tx_room(&p.tx), SLOTS);
}

/* How a restarted daemon must begin: no room by itself, then the client's word, checked. */
static void attaching_without_room_checks_the_first_credit_too(void **state)
{
    const uint64_t pos[] = {0, 3, SLOTS, 1000};
    (void)state;
    for (size_t i = 0; i < sizeof pos / sizeof pos[0]; i++) {
        struct pair p;
        for (uint64_t behind = 0; behind <= SLOTS; behind++) {
            pair_init(&p, pos[i]);
            ring_tx_init(&p.tx, p.slot, SLOTS, pos[i], pos[i] - SLOTS);
            assert_int_equal(ring_tx_room(&p.tx), 0);
            p.consumed = pos[i] - behind;
            assert_true(ring_tx_credit(&p.tx, &p.consumed));
            assert_int_equal(ring_tx_room(&p.tx), SLOTS - behind);
        }
        pair_init(&p, pos[i]);
        ring_tx_init(&p.tx, p.slot, SLOTS, pos[i], pos[i] - SLOTS);
        p.consumed = pos[i] + 1;
        assert_false(ring_tx_credit(&p.tx, &p.consumed));
        p.consumed = pos[i] - SLOTS - 1;
        assert_false(ring_tx_credit(&p.tx, &p.consumed));
        assert_int_equal(ring_tx_room(&p.tx), 0);
    }
}

static void unpublished_slot_of_a_killed_producer_is_never_seen(void **state)
{
    struct pair p;
    (void)state;
    pair_init(&p, 20);
    memset(p.slot[20 % SLOTS].word, 0xee, sizeof p.slot[0].word); /* words, no sequence */
    assert_int_equal(ring_rx_peek(&p.rx), RING_EMPTY);
    push(&p, 7);
    take(&p, 7);
}

static void slot_in_place_is_the_record(void **state)
{
    struct pair p;
    (void)state;
    pair_init(&p, 9);
    push(&p, 4);
    assert_int_equal(ring_rx_peek(&p.rx), RING_READY);
    assert_ptr_equal(ring_rx_slot(&p.rx), &p.slot[1]);
    assert_int_equal(ring_rx_slot(&p.rx)->word[6], 46);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_slot_is_one_cache_line_with_its_sequence_last),
        cmocka_unit_test(new_ring_is_empty_and_has_all_its_room),
        cmocka_unit_test(records_come_out_whole_and_in_order_over_many_laps),
        cmocka_unit_test(full_ring_has_no_room_until_credit_is_published_and_read),
        cmocka_unit_test(every_wrong_sequence_is_bad),
        cmocka_unit_test(zero_in_a_slot_is_empty_on_the_first_lap_only),
        cmocka_unit_test(ring_works_from_any_start),
        cmocka_unit_test(impossible_credit_is_refused_and_changes_nothing),
        cmocka_unit_test(attaching_without_room_checks_the_first_credit_too),
        cmocka_unit_test(unpublished_slot_of_a_killed_producer_is_never_seen),
        cmocka_unit_test(slot_in_place_is_the_record),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
