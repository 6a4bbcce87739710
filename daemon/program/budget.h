/* daemon/program/budget.h — one total for a batch of programs: what settled programs leave over
 * raises the caps of those that are not settled.
 *
 * Works in rounds. When every unsettled program of the batch has used what it was granted, the next
 * round shares out what remains. A round is a function of the members in their order in the batch,
 * so it does not matter which program reached it first.
 *
 * Thread: any. Memory: the caller's. Time: n log n in the members.
 * Fails: never; never grants more than the total. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "daemon/program/certaindex.h"

struct budget_member {
    uint64_t cost;       /* of one step, in the total's unit; above 0 */
    uint32_t knob_done;  /* in steps of the program's own knob */
    uint32_t knob_max;   /* beyond which more is of no use */
    bool settled;        /* stopped, given up or at its end */
    double priority;     /* higher first; equal ones in order of the batch */
    uint32_t knob_grant; /* result: it may reach this knob */
    uint32_t order;      /* budget_round()'s own */
};

struct budget {
    uint64_t total; /* for instance members * cap * cost */
    uint64_t spent; /* by all members up to their knob_done; the caller's to keep */
};

/* What a member has shown when it has used its grant: a step costs what its steps did so far, and who is
 * closest to agreement comes first. */
void budget_report(struct budget_member *member, uint32_t knob_done, uint64_t tokens,
                   const struct certaindex *seen);

/* Grants up to `step` more knob to each unsettled member, by priority, while the total lasts; whole
 * steps of 1, and the last member may get a part. Returns what was granted in all, in the total's
 * unit; 0: the batch is at its end. */
uint64_t budget_round(const struct budget *budget, struct budget_member *members, uint32_t count,
                      uint32_t step);
