#include "daemon/ipc/quota.h"

#include <errno.h>
#include <stdlib.h>

#include "daemon/base/assert.h"

struct quota_user {
    uint32_t uid;
    uint32_t refs_count; /* 0: free row */
    uint64_t used[QUOTA_KINDS];
    uint64_t bucket_paid_ns; /* when the bytes taken so far are made up for */
};

struct quota {
    uint64_t max[QUOTA_KINDS];
    uint64_t total[QUOTA_KINDS];
    uint32_t users_max;
    uint32_t users_count;
    struct quota_user *users; /* a search of at most users_count rows, at connect only */
};

int quota_new(uint32_t users_max, const uint64_t max[QUOTA_KINDS], struct quota **ret_quota)
{
    struct quota *q = calloc(1, sizeof *q);
    if (!q)
        return -ENOMEM;
    q->users = calloc(users_max, sizeof *q->users);
    if (!q->users) {
        free(q);
        return -ENOMEM;
    }
    q->users_max = users_max;
    for (int i = 0; i < QUOTA_KINDS; i++)
        q->max[i] = max[i];
    *ret_quota = q;
    return 0;
}

void quota_free(struct quota *q)
{
    if (!q)
        return;
    free(q->users);
    free(q);
}

struct quota_user *quota_ref(struct quota *q, uint32_t uid)
{
    struct quota_user *spare = NULL;
    uint32_t seen = 0;
    for (uint32_t i = 0; i < q->users_max && (seen < q->users_count || !spare); i++) {
        struct quota_user *u = &q->users[i];
        seen += u->refs_count != 0;
        if (u->refs_count == 0) {
            spare = spare ? spare : u;
        } else if (u->uid == uid) {
            u->refs_count++;
            return u;
        }
    }
    if (!spare)
        return NULL;
    *spare = (struct quota_user){.uid = uid, .refs_count = 1};
    q->users_count++;
    return spare;
}

void quota_unref(struct quota *q, struct quota_user *user)
{
    ASSERT(user->refs_count > 0);
    if (--user->refs_count > 0)
        return;
    for (int i = 0; i < QUOTA_KINDS; i++)
        ASSERT(user->used[i] == 0);
    q->users_count--;
}

bool quota_charge(struct quota *q, struct quota_user *user, enum quota_kind kind, uint64_t amount)
{
    /* By subtraction: used <= max always holds, so this cannot wrap, whatever amount is. */
    if (amount > q->max[kind] - user->used[kind] || amount > UINT64_MAX - q->total[kind])
        return false;
    user->used[kind] += amount;
    q->total[kind] += amount;
    return true;
}

void quota_give(struct quota *q, struct quota_user *user, enum quota_kind kind, uint64_t amount)
{
    ASSERT(amount <= user->used[kind]);
    user->used[kind] -= amount;
    q->total[kind] -= amount;
}

/* The bucket as one number: the time at which what was taken is made up for, never further back than
 * a burst ago. */
uint64_t quota_bytes_due_ns(struct quota_user *user, uint64_t now_ns)
{
    if (now_ns > QUOTA_BURST_NS && user->bucket_paid_ns < now_ns - QUOTA_BURST_NS)
        user->bucket_paid_ns = now_ns - QUOTA_BURST_NS;
    return user->bucket_paid_ns < now_ns ? 0 : user->bucket_paid_ns + 1;
}

void quota_bytes_take(struct quota_user *user, uint64_t bytes)
{
    user->bucket_paid_ns += bytes <= QUOTA_SMALL_BYTES ? bytes / QUOTA_SMALL_BYTES_PER_NS
                                                       : bytes * QUOTA_LARGE_NS_PER_BYTE;
}

uint64_t quota_used(const struct quota_user *user, enum quota_kind kind)
{
    return user->used[kind];
}

uint64_t quota_max(const struct quota *q, enum quota_kind kind)
{
    return q->max[kind];
}

uint64_t quota_total(const struct quota *q, enum quota_kind kind)
{
    return q->total[kind];
}

uint32_t quota_users_count(const struct quota *q)
{
    return q->users_count;
}
