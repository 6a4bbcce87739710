#include "daemon/program/budget.h"

#include "daemon/base/assert.h"

static bool comes_before(const struct budget_member *members, uint32_t a, uint32_t b)
{
    return members[a].priority > members[b].priority ||
           (members[a].priority == members[b].priority && a < b);
}

/* The orders of [0, count) are a heap, but for this one. */
static void sink(struct budget_member *members, uint32_t count, uint32_t at)
{
    uint32_t member = members[at].order;
    for (uint32_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count &&
            comes_before(members, members[child + 1].order, members[child].order))
            child++;
        if (comes_before(members, member, members[child].order))
            break;
        members[at].order = members[child].order;
    }
    members[at].order = member;
}

void budget_report(struct budget_member *member, uint32_t knob_done, uint64_t tokens,
                   const struct certaindex *seen)
{
    uint64_t cost = knob_done ? (tokens + knob_done - 1) / knob_done : 1;
    bool known = (seen->known & 1u << CERTAINDEX_CERTAINTY) != 0;
    member->knob_done = knob_done;
    member->cost = cost ? cost : 1;
    member->priority = known ? seen->value[CERTAINDEX_CERTAINTY] : 0;
}

uint64_t budget_round(const struct budget *budget, struct budget_member *members, uint32_t count,
                      uint32_t step)
{
    uint64_t left = budget->total > budget->spent ? budget->total - budget->spent : 0;
    uint64_t granted = 0;
    uint32_t waiting = 0; /* unsettled and not asked: a heap, the first of them on top */
    ASSERT(step > 0);
    for (uint32_t i = 0; i < count; i++) {
        ASSERT(members[i].cost > 0);
        members[i].knob_grant = members[i].knob_done;
        if (!members[i].settled)
            members[waiting++].order = i;
    }
    for (uint32_t i = waiting / 2; i-- > 0;)
        sink(members, waiting, i);
    while (waiting > 0) {
        struct budget_member *m = &members[members[0].order];
        uint64_t more = m->knob_max > m->knob_done ? m->knob_max - m->knob_done : 0;
        uint64_t affordable = left / m->cost;
        more = more < step ? more : step;
        more = more < affordable ? more : affordable;
        m->knob_grant += (uint32_t)more;
        left -= more * m->cost;
        granted += more * m->cost;
        members[0].order = members[--waiting].order;
        sink(members, waiting, 0);
    }
    return granted;
}
