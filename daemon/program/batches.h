/* daemon/program/batches.h — programs of one client that share one total: who they are, what they have
 * shown, and when the next round is (budget.h).
 *
 * A batch begins when all of its members have come, and is over when all that came have ended; then its
 * number is free. A member that has used its grant waits; when every one that has not ended does,
 * budget_round() shares out what is left, in the order of their places. So what a member may reach is a
 * function of the members and their seeds: who came, waited or ended first does not matter. An ended one
 * counts with what it spent.
 *
 * No batch waits for room that another one holds: the members of one begin one behind the other, without
 * anybody between, and together may have no more branches than there are.
 *
 * Thread: control. Memory: fixed at batches_new(). Time: O(1) a call for members that come in order; a round
 * is O(n log n) in the members, of 512 below 0.1 ms. Fails: never. */
#pragma once
#include "daemon/program/budget.h"
#include "daemon/program/program.h"

struct batches;

int batches_new(uint32_t programs_max, uint32_t branches_max, struct batches **ret_batches);
void batches_free(struct batches *batches);

/* Whether the client's program with these parameters can be a member now, or needs not be one. */
struct program_refusal batches_check(const struct batches *batches, uint64_t client,
                                     const struct parameters *parameters);

struct batch_comer {
    uint32_t program; /* below programs_max, and a member of no other batch */
    uint64_t client;
    const struct parameters *parameters; /* checked */
    bool restarted;                      /* its batch had begun, in a daemon that is gone */
};
/* True: all are there and may begin, in the order of batches_member(). */
bool batches_come(struct batches *batches, const struct batch_comer *comer, uint64_t now_ns);
/* The one that comes behind `last` (PROGRAM_NONE: the first) in the batch of a member, by place;
 * PROGRAM_NONE: no other. */
uint32_t batches_member(const struct batches *batches, uint32_t program, uint32_t last);

/* It has used its grant. */
void batches_wait(struct batches *batches, uint32_t program, uint32_t knob_done, uint64_t tokens,
                  const struct certaindex *seen);
/* It decodes no more, having spent so much in all. No-op for a program that is no member, any more. */
void batches_leave(struct batches *batches, uint32_t program, uint64_t tokens);

/* What a member that waits is to do now; each once. False: nobody that waits can go on, for now. */
struct batch_order {
    uint32_t program;
    uint32_t knob; /* that it may reach; 0: it ends with what it has */
};
bool batches_next(struct batches *batches, struct batch_order *ret_order);

/* A member of a batch that will not begin: for idle_ns none has come, or some ended in a daemon that is gone.
 * It is named until it has left. PROGRAM_NONE: there is none. */
uint32_t batches_stuck(struct batches *batches, uint64_t now_ns, uint64_t idle_ns,
                       enum dynasor_status *ret_status);
/* When one of the two above has something to say. */
uint64_t batches_due_ns(const struct batches *batches, uint64_t idle_ns);
