/* tests/fuzz/fuzz_quota.c: the input is a script of references, charges and returns of 16 uids, with
 * limits and amounts of any 64-bit value; an oracle that counts in 128 bits must agree after each
 * operation, and at the end everything is given back and every sum is zero. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/ipc/quota.h"

#define UIDS 16u
#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition))                                                                          \
            abort();                                                                               \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct script {
    const uint8_t *at;
    size_t left;
};

struct oracle {
    struct quota *quota;
    uint32_t users_max;
    uint32_t users_count;
    uint64_t max[QUOTA_KINDS];
    unsigned __int128 total[QUOTA_KINDS];
    struct {
        struct quota_user *user;
        uint32_t refs_count;
        unsigned __int128 used[QUOTA_KINDS];
    } row[UIDS];
};

static uint8_t next_u8(struct script *s)
{
    if (s->left == 0)
        return 0;
    s->left--;
    return *s->at++;
}

/* One byte says how: eight raw bytes, or a small distance from an edge. */
static uint64_t next_amount(struct script *s, uint64_t used, uint64_t max)
{
    uint8_t how = next_u8(s);
    uint64_t raw = 0;
    switch (how & 3) {
    case 0:
        for (int i = 0; i < 8; i++)
            raw = raw << 8 | next_u8(s);
        return raw;
    case 1:
        return max - used + (how >> 2) - 32;
    case 2:
        return UINT64_MAX - used + (how >> 2) - 32;
    default:
        return how >> 2;
    }
}

static void give(struct oracle *o, uint32_t uid, int kind, uint64_t amount)
{
    quota_give(o->quota, o->row[uid].user, (enum quota_kind)kind, amount);
    o->row[uid].used[kind] -= amount;
    o->total[kind] -= amount;
}

static void ref(struct oracle *o, uint32_t uid)
{
    struct quota_user *user = quota_ref(o->quota, uid);
    bool known = o->row[uid].refs_count > 0;
    REQUIRE((user != NULL) == (known || o->users_count < o->users_max));
    REQUIRE(!known || user == o->row[uid].user);
    if (!user)
        return;
    o->row[uid].user = user;
    o->row[uid].refs_count++;
    o->users_count += !known;
}

static void unref(struct oracle *o, uint32_t uid)
{
    if (o->row[uid].refs_count == 1) {
        for (int kind = 0; kind < QUOTA_KINDS; kind++)
            give(o, uid, kind, (uint64_t)o->row[uid].used[kind]);
        o->users_count--;
    }
    o->row[uid].refs_count--;
    quota_unref(o->quota, o->row[uid].user);
}

static void charge(struct oracle *o, uint32_t uid, int kind, uint64_t amount)
{
    unsigned __int128 used = o->row[uid].used[kind] + amount;
    unsigned __int128 total = o->total[kind] + amount;
    bool fits = used <= o->max[kind] && total <= UINT64_MAX;
    REQUIRE(quota_charge(o->quota, o->row[uid].user, (enum quota_kind)kind, amount) == fits);
    if (!fits)
        return;
    o->row[uid].used[kind] = used;
    o->total[kind] = total;
}

static void compare(const struct oracle *o)
{
    REQUIRE(quota_users_count(o->quota) == o->users_count);
    for (int kind = 0; kind < QUOTA_KINDS; kind++) {
        REQUIRE(quota_total(o->quota, (enum quota_kind)kind) == o->total[kind]);
        for (uint32_t uid = 0; uid < UIDS; uid++)
            REQUIRE(o->row[uid].refs_count == 0 ||
                    quota_used(o->row[uid].user, (enum quota_kind)kind) == o->row[uid].used[kind]);
    }
}

static void run(struct oracle *o, struct script *s)
{
    while (s->left) {
        uint8_t op = next_u8(s);
        uint32_t uid = op & (UIDS - 1);
        uint8_t what = op >> 4;
        int kind = what & (QUOTA_KINDS - 1);
        if (o->row[uid].refs_count == 0 || what == 12)
            ref(o, uid);
        else if (what == 13)
            unref(o, uid);
        else if (what < 8)
            charge(o, uid, kind, next_amount(s, (uint64_t)o->row[uid].used[kind], o->max[kind]));
        else
            give(o, uid, kind, (uint64_t)o->row[uid].used[kind] >> (next_u8(s) & 63));
        compare(o);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct script s = {data, size};
    struct oracle o = {.users_max = 1 + (next_u8(&s) & (UIDS - 1))};
    for (int kind = 0; kind < QUOTA_KINDS; kind++)
        o.max[kind] = next_amount(&s, 0, UINT64_MAX);
    REQUIRE(quota_new(o.users_max, o.max, &o.quota) == 0);
    run(&o, &s);
    for (uint32_t uid = 0; uid < UIDS; uid++)
        while (o.row[uid].refs_count)
            unref(&o, uid);
    compare(&o);
    for (int kind = 0; kind < QUOTA_KINDS; kind++)
        REQUIRE(quota_total(o.quota, (enum quota_kind)kind) == 0);
    quota_free(o.quota);
    return 0;
}
