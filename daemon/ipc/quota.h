/* daemon/ipc/quota.h — what one uid may make the daemon hold.
 *
 * Everything a client makes the daemon keep is charged to the uid it had at connect, and given back
 * by the same amount when it goes; the sums are exact and cannot overflow. A uid's row lives as long
 * as somebody refers to it, so there are never more rows than clients.
 *
 * Thread: control. Memory: fixed at quota_new(). Time: O(1), quota_ref() O(users).
 * Invariant: used <= max for each kind; a row without references has used 0 everywhere. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

enum quota_kind {
    QUOTA_CONNECTIONS = 0,
    QUOTA_REGION_BYTES = 1,
    QUOTA_PROGRAMS = 2,
    QUOTA_QUEUED_BYTES = 3,
    QUOTA_KINDS = 4,
};

struct quota;
struct quota_user;

/* max[kind]: the limit of each uid. users_max: uids referred to at once. */
int quota_new(uint32_t users_max, const uint64_t max[QUOTA_KINDS], struct quota **ret_quota);
void quota_free(struct quota *quota);

/* The row of uid, with one more reference; NULL only when users_max uids are referred to. */
struct quota_user *quota_ref(struct quota *quota, uint32_t uid);
/* Asserts, with the last reference, that everything was given back. */
void quota_unref(struct quota *quota, struct quota_user *user);

/* Charges all of amount, or nothing and returns false. */
bool quota_charge(struct quota *quota, struct quota_user *user, enum quota_kind kind,
                  uint64_t amount);
/* Asserts that so much was charged. */
void quota_give(struct quota *quota, struct quota_user *user, enum quota_kind kind,
                uint64_t amount);

/* Bytes that a uid hands in cost this thread time, refused ones too. A bucket holds QUOTA_BURST_NS and
 * fills with the clock, which stands still within a turn; a uid may go on while its bucket is not
 * empty, by any amount, then it waits until what it took is made up for. Payloads up to
 * QUOTA_SMALL_BYTES are charged less than they cost: only how many of them one turn takes is bounded
 * (256 KiB), never their rate. A longer one, which holds everybody up, is charged several times its
 * cost (0.6 ns a byte), so that a uid that sends nothing else leaves most of the time to others. */
#define QUOTA_BURST_NS 65536u
#define QUOTA_SMALL_BYTES 65536u
#define QUOTA_SMALL_BYTES_PER_NS 4u
#define QUOTA_LARGE_NS_PER_BYTE 4u

/* 0: the uid may hand in more; otherwise when it may (CLOCK_MONOTONIC ns). */
uint64_t quota_bytes_due_ns(struct quota_user *user, uint64_t now_ns);
void quota_bytes_take(struct quota_user *user, uint64_t bytes);

uint64_t quota_used(const struct quota_user *user, enum quota_kind kind);
uint64_t quota_max(const struct quota *quota, enum quota_kind kind);
/* Sum over all uids. */
uint64_t quota_total(const struct quota *quota, enum quota_kind kind);
uint32_t quota_users_count(const struct quota *quota);
