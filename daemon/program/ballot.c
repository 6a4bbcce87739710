#include "daemon/program/ballot.h"

#include <errno.h>
#include <string.h>

#include "daemon/base/assert.h"
#include "daemon/base/hash.h"
#include "daemon/base/reserve.h"
#include "daemon/program/certaindex.h"

#define ALIGN 64u
#define ALIKE_MAX 8u

/* Arrays of one run's ballot, one behind the other. */
enum part {
    PART_ANSWERS,
    PART_RAW,
    PART_GROUP,
    PART_LEADER,
    PART_BRANCH,
    PART_WEIGHT,
    PART_REWARD,
    PART_CONFIDENCE,
    PART_PROBES,
    PART_COUNTS,
    PART_SUMS,
    PART_COUNT
};
static const size_t part_bytes[PART_COUNT] = {[PART_ANSWERS] = sizeof(struct answer),
                                              [PART_RAW] = sizeof(struct hash128),
                                              [PART_GROUP] = sizeof(uint32_t),
                                              [PART_LEADER] = sizeof(uint32_t),
                                              [PART_BRANCH] = sizeof(uint32_t),
                                              [PART_WEIGHT] = sizeof(double),
                                              [PART_REWARD] = sizeof(float),
                                              [PART_CONFIDENCE] = sizeof(float),
                                              [PART_PROBES] = sizeof(struct certaindex_probe),
                                              [PART_COUNTS] = 2 * sizeof(uint32_t),
                                              [PART_SUMS] = sizeof(double)};

static size_t part_size(enum part part)
{
    return (part_bytes[part] * BALLOT_ANSWERS_MAX + ALIGN - 1) / ALIGN * ALIGN;
}

int ballots_new(uint32_t runs_max, struct ballot_room *ret_room)
{
    struct ballot_room room = {0};
    for (enum part p = 0; p < PART_COUNT; p++)
        room.bytes_each += part_size(p);
    room.bytes = room.bytes_each * runs_max;
    room.memory = reserve(room.bytes);
    if (!room.memory)
        return -ENOMEM;
    *ret_room = room;
    return 0;
}

void ballots_free(struct ballot_room *room)
{
    unreserve(room->memory, room->bytes);
    *room = (struct ballot_room){0};
}

void ballot_init(struct ballot *b, const struct ballot_room *room, uint32_t run)
{
    void *part[PART_COUNT];
    uint8_t *at = room->memory + room->bytes_each * run;
    for (enum part p = 0; p < PART_COUNT; p++) {
        part[p] = at;
        at += part_size(p);
    }
    *b = (struct ballot){.cluster = {.group = part[PART_GROUP], .leader = part[PART_LEADER]},
                         .answers = part[PART_ANSWERS],
                         .raw = part[PART_RAW],
                         .branch = part[PART_BRANCH],
                         .weight = part[PART_WEIGHT],
                         .reward = part[PART_REWARD],
                         .confidence = part[PART_CONFIDENCE],
                         .probes = part[PART_PROBES],
                         .counts = part[PART_COUNTS],
                         .sums = part[PART_SUMS]};
}

/* The same bytes are the same answer, and most answers have been there before: of the last few, one with the
 * same 128 bits of hash is taken over. The bytes are not there to compare: who makes two answers collide deceives its
 * own program. */
static void prepare(struct ballot *b, uint32_t idx, const char *text, uint32_t bytes)
{
    b->raw[idx] = hash_bytes(text, bytes, 0);
    for (uint32_t i = idx; i-- > 0 && idx - i <= ALIKE_MAX;)
        if (b->raw[i].low == b->raw[idx].low && b->raw[i].high == b->raw[idx].high) {
            b->answers[idx] = b->answers[i];
            return;
        }
    answer_prepare(text, bytes, &b->answers[idx]);
}

uint32_t ballot_add(struct ballot *b, const struct answer_rule *rule, const char *text,
                    uint32_t bytes, const struct ballot_vote *vote)
{
    uint32_t idx = b->cluster.count;
    ASSERT(idx < BALLOT_ANSWERS_MAX);
    struct answer_span span = {0};
    if (answer_extract(rule, text, bytes, &span) != 0)
        span.bytes = 0;
    prepare(b, idx, text + span.start, span.bytes);
    b->branch[idx] = vote->branch;
    b->weight[idx] = vote->weight;
    b->reward[idx] = vote->reward;
    b->rewards_count += vote->has_reward;
    b->confidence[idx] = vote->confidence;
    /* Its group is in the cluster. */
    if (!b->units) {
        (void)cluster_add(&b->cluster, b->answers);
        return idx;
    }
    float *unit = b->units + (size_t)idx * b->dimensions;
    memset(unit, 0, b->dimensions * sizeof *unit);
    if (vote->vector)
        (void)cluster_unit(vote->vector, b->dimensions, unit); /* 0: it has no direction */
    (void)cluster_add_alike(&b->cluster, b->answers, b->units, b->dimensions, b->likeness);
    return idx;
}

void ballot_view(struct ballot *b, uint32_t first, struct policy_view *v)
{
    ASSERT(first <= b->cluster.count);
    v->knob_decided = b->knob_decided;
    v->answers_count = b->cluster.count - first;
    v->answers = b->cluster.group + first;
    v->counts = b->counts;
    v->groups_count =
        certaindex_count(v->answers, v->answers_count, b->cluster.groups, true, b->counts);
    v->rewards_count = b->rewards_count == b->cluster.count ? v->answers_count : 0;
    v->rewards = b->reward + first;
    v->confidences_count = v->answers_count;
    v->confidences = b->confidence + first;
}

/* Of the group's answers the heaviest, or the first. */
static uint32_t speaker(const struct ballot *b, uint32_t group, bool heaviest)
{
    uint32_t best = BALLOT_NONE;
    for (uint32_t i = 0; i < b->cluster.count; i++)
        if (b->cluster.group[i] == group &&
            (best == BALLOT_NONE || (heaviest && b->weight[i] > b->weight[best])))
            best = i;
    return best;
}

uint32_t ballot_winner(struct ballot *b, enum ballot_rule rule)
{
    uint32_t best = BALLOT_NONE;
    if (b->cluster.count == 0)
        return BALLOT_NONE;
    if (rule != BALLOT_BEST) {
        uint32_t group =
            cluster_majority(&b->cluster, rule == BALLOT_WEIGHTED ? b->weight : NULL, b->sums);
        best = group == CLUSTER_NONE ? 0 : speaker(b, group, rule == BALLOT_WEIGHTED);
        return b->branch[best];
    }
    for (uint32_t i = 0; i < b->cluster.count; i++) {
        bool valid = answer_valid(&b->answers[i]);
        if (best == BALLOT_NONE || (valid && !answer_valid(&b->answers[best])) ||
            (valid == answer_valid(&b->answers[best]) && b->weight[i] > b->weight[best]))
            best = i;
    }
    return b->branch[best];
}
