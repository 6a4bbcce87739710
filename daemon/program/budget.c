#include "daemon/program/budget.h"

#include "daemon/base/assert.h"

/* The unsettled member that comes next after `last` (UINT32_MAX: the first) by priority, then index. */
static uint32_t next_member(const struct budget_member *members, uint32_t count, uint32_t last)
{
    uint32_t found = UINT32_MAX;
    for (uint32_t i = 0; i < count; i++) {
        bool after = last == UINT32_MAX || members[i].priority < members[last].priority ||
                     (members[i].priority == members[last].priority && i > last);
        if (!members[i].settled && after &&
            (found == UINT32_MAX || members[i].priority > members[found].priority)) {
            found = i;
        }
    }
    return found;
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
    ASSERT(step > 0);
    for (uint32_t i = 0; i < count; i++) {
        ASSERT(members[i].cost > 0);
        members[i].knob_grant = members[i].knob_done;
    }
    for (uint32_t i = next_member(members, count, UINT32_MAX); i != UINT32_MAX;
         i = next_member(members, count, i)) {
        struct budget_member *m = &members[i];
        uint64_t more = m->knob_max > m->knob_done ? m->knob_max - m->knob_done : 0;
        uint64_t affordable = left / m->cost;
        more = more < step ? more : step;
        more = more < affordable ? more : affordable;
        m->knob_grant += (uint32_t)more;
        left -= more * m->cost;
        granted += more * m->cost;
    }
    return granted;
}
