/* tools/calibrate/cross.h — what a way of choosing among candidates loses on problems that it did not
 * see: cross-validation of the choice itself, inside the problems that it may see.
 *
 * Of many candidates the one that saves most of those that seem to lose little is also one that was
 * lucky, and what was seen of it says too little by that luck (the winner's curse). So ways are
 * measured, not candidates: way i takes the largest saving of all candidates whose loss seen, and
 * margin + cross_ways[i] standard errors of it, are within what is allowed. Each fold of the problems
 * is left out in turn, the way chooses on the others, and what its choices lose on the folds left out
 * is its loss. With one candidate that is the plain estimate. Where a way chooses to never stop nothing is lost, which
 * says nothing of what it else chooses: such folds are left out; of a way that mostly does the loss is infinite.
 *
 * Where a problem goes depends on its name and the seed alone. Memory: heap while it runs. Thread: any. */
#pragma once
#include "tools/calibrate/fit.h"

/* With ten folds nearly the same is chosen without each, and the estimate is that one's luck once more: it
 * scatters more (tests/unit/test_cross.c has such a world). With two, half of the problems choose worse than all.
 * Repeated with other folds, so that what is chosen hangs less on where they end. */
#define CROSS_FOLDS 5u
#define CROSS_REPEATS 20u
#define CROSS_WAYS 12u

extern const double cross_ways[CROSS_WAYS]; /* from the boldest: the plain choice */

/* Standard errors that fit between the loss seen and what is allowed; those of no loss are countless. */
double cross_room(double lost_points, double error_points, double allowed_points);

void cross_measure(const struct evaluation *evaluation, const struct family *family,
                   const struct fit_request *request, const struct fit_parts *parts,
                   struct fit_estimate ret_losses[CROSS_WAYS]);
