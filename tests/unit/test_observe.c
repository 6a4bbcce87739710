/* tests/unit/test_observe.c: what is noted of each counted answer, on a scheduler that makes up tokens
 * (made_up.h), held to the tokens and costs that it made up; a ring that is full loses records, counts them,
 * and takes more when it is read. */
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "tests/unit/made_up.h"

#define RING 8u

static struct observed ring[RING];
static struct observer observer;

static void observer_open(uint32_t size)
{
    observer = (struct observer){.ring = ring, .size = size};
    observed_by = &observer;
    memset(ring, 0xa5, sizeof ring);
}

/* Sample i is i + 3 letters, a digit and the end. */
static uint32_t write_samples(const struct seq *q, uint32_t position)
{
    static const char digits[] = "1221x222";
    uint32_t i = q->args.branch;
    return position < i + 3 ? 'a' : position == i + 3 ? (uint8_t)digits[i % 8] : END;
}

/* FNV-1a of such a sample, token by token. */
static uint64_t sample_hash(uint32_t i)
{
    static const char digits[] = "1221x222";
    uint64_t hash = 0xcbf29ce484222325u;
    for (uint32_t at = 0; at < i + 5; at++) {
        uint32_t token = at < i + 3 ? 'a' : at == i + 3 ? (uint8_t)digits[i % 8] : END;
        hash = (hash ^ token) * 0x100000001b3u;
    }
    return hash;
}

static void samples(struct job *job, uint32_t cap)
{
    job_make(job, DYNASOR_ALGORITHM_SC, 1, "even");
    set(job, DYNASOR_PARAMETER_CAP, cap);
    job->policy.group_tokens = 4;
}

static void observe_notes_each_answer_in_logical_order(void **state)
{
    (void)state;
    /* 1 2 2 1 - 2 2 2: ties go to the group that got there first. */
    static const uint32_t groups[] = {0, 1, 1, 0, CERTAINDEX_EMPTY, 1, 1, 1};
    static const uint32_t winners[] = {0, 0, 1, 1, 1, 1, 1, 1};
    struct job job;
    struct outcome o;
    struct rig r;
    const struct observed *seen;
    uint32_t tokens = 0;
    for (uint32_t i = 0; i < 8; i++)
        tokens += i + 5;
    write_token = write_samples;
    observer_open(RING);
    samples(&job, 8);
    rig_open(&r, 1, 30, 0);
    run_all(&r, &job, &o, 1);
    assert_int_equal(observer.put, 8);
    for (uint32_t i = 0; i < 8; i++) {
        double log_sum = 0, least = INFINITY;
        seen = observe_next(&observer);
        assert_non_null(seen);
        for (uint32_t k = 0; k < i + 5; k++)
            log_sum -= (double)(float)(rng_u32(1, i ^ 9, k) % 100) / 50;
        for (uint32_t k = 0; k + 4 <= i + 5; k++) {
            double sum = 0;
            for (uint32_t t = k; t < k + 4; t++)
                sum += (double)confidence_of(1, i, t);
            least = fmin(least, sum / 4);
        }
        CHECK(seen->n == i && seen->group == groups[i] && seen->winner == winners[i],
              "%u: answer %u of group %u, winner %u", i, seen->n, seen->group, seen->winner);
        assert_int_equal(seen->own_tokens, i + 5);
        assert_int_equal(seen->at_tokens, i + 5);
        assert_int_equal(seen->cost.decoded_tokens, tokens);
        assert_int_equal(seen->tokens_hash, sample_hash(i));
        assert_int_equal(seen->answer_bytes, i == 4 ? 0 : 1);
        assert_true(i == 4 || seen->answer[0] == '1' + (int)groups[i]);
        assert_true(fabs(seen->log_probability - log_sum / (i + 5)) < 1e-5);
        assert_true(fabs((double)seen->confidence - least) < 1e-5);
        assert_true(!seen->has_reward && !seen->hesitant && seen->user == 0);
    }
    assert_null(observe_next(&observer));
    rig_close(&r);
}

static void observe_a_full_ring_loses_and_counts(void **state)
{
    (void)state;
    struct job jobs[3];
    struct outcome o[3];
    struct rig r;
    write_token = write_samples;
    observer_open(4);
    for (uint32_t i = 0; i < 3; i++)
        samples(&jobs[i], 6);
    rig_open(&r, 1, 0, 0);
    run_all(&r, &jobs[0], &o[0], 1);
    assert_int_equal(observer.put, 4);
    assert_int_equal(observer.lost, 2);
    assert_int_equal(observe_next(&observer)->n, 0); /* those that came first are kept */
    assert_int_equal(observe_next(&observer)->n, 1);
    run_all(&r, &jobs[1], &o[1], 1); /* two places: over the ring's end */
    assert_int_equal(observer.put, 6);
    assert_int_equal(observer.lost, 6);
    static const uint32_t left[] = {2, 3, 0, 1};
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(observe_next(&observer)->n, left[i]);
    assert_null(observe_next(&observer));
    run_all(&r, &jobs[2], &o[2], 1);
    assert_int_equal(observer.put, 10);
    assert_int_equal(observer.lost, 8);
    rig_close(&r);
    assert_int_equal(ring[4].user, 0xa5a5a5a5u); /* nothing is written behind it */
}

/* The chain says nothing, its probes 7, then 8 with doubts. */
static uint32_t write_chain(const struct seq *q, uint32_t position)
{
    static const char *const responses[] = {"7}.....", "8} wait", "8}....."};
    if (q->args.branch < 1u << 31)
        return 'x';
    uint32_t probe = q->args.branch - (1u << 31);
    return position < 7 ? (uint8_t)responses[probe % 3][position] : '.';
}

static void observe_probes_where_they_are_asked(void **state)
{
    (void)state;
    static const uint32_t at[] = {64, 128, 192, 200};
    struct job job;
    struct outcome o;
    struct rig r;
    write_token = write_chain;
    observer_open(RING);
    job_make(&job, DYNASOR_ALGORITHM_COT, 1, "cot-mid");
    job.args.parameters.max_tokens = 200;
    rig_open(&r, 1, 0, 0);
    run_all(&r, &job, &o, 1);
    assert_int_equal(observer.put, 4);
    for (uint32_t i = 0; i < 4; i++) {
        const struct observed *seen = observe_next(&observer);
        CHECK(seen->n == i && seen->winner == i && seen->at_tokens == at[i], "%u: %u, %u at %u", i,
              seen->n, seen->winner, seen->at_tokens);
        assert_int_equal(seen->own_tokens, r.texts.probe_count + 20);
        assert_int_equal(seen->cost.probe_tokens, 20 * (i + 1));
        assert_int_equal(seen->cost.decoded_tokens, at[i]);
        assert_int_equal(seen->hesitant, i == 1);
        assert_int_equal(seen->group, i % 3 != 0);
        assert_int_equal(seen->answer[0], i % 3 ? '8' : '7');
    }
    rig_close(&r);
}

/* One record for each chain's vote, and the majority is the winner. */
static void observe_votes_of_chains(void **state)
{
    (void)state;
    struct job job;
    struct outcome o;
    struct rig r;
    write_token = write_chain;
    observer_open(RING);
    job_make(&job, DYNASOR_ALGORITHM_SC_COT, 1, "even");
    job.args.parameters.max_tokens = 50; /* asked at the cap alone: 7, 8, 8, 7, 8 */
    set(&job, DYNASOR_PARAMETER_CAP, 5);
    rig_open(&r, 1, 0, 0);
    run_all(&r, &job, &o, 1);
    static const uint32_t winners[] = {0, 0, 1, 1, 1};
    assert_int_equal(observer.put, 5);
    for (uint32_t i = 0; i < 5; i++) {
        const struct observed *seen = observe_next(&observer);
        CHECK(seen->n == i && seen->winner == winners[i] && seen->at_tokens == 50, "%u: %u, %u", i,
              seen->winner, seen->at_tokens);
        assert_int_equal(seen->answer[0], i % 3 ? '8' : '7');
        assert_int_equal(seen->cost.decoded_tokens, 250);
        assert_int_equal(seen->cost.probe_tokens, 100);
    }
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(observe_notes_each_answer_in_logical_order),
        cmocka_unit_test(observe_a_full_ring_loses_and_counts),
        cmocka_unit_test(observe_probes_where_they_are_asked),
        cmocka_unit_test(observe_votes_of_chains),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
