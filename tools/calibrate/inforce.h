/* tools/calibrate/inforce.h — which profiles were in force when the programs of a live log ran: by the texts that the
 * log has of them, as a name says only what they were called.
 *
 * Memory: none of its own; heap while it prints. Fails: as said at each. */
#pragma once
#include "tools/calibrate/log.h"

/* The profile that a program ran under. Where the log has no text of it: the judged one, or a built-in one, by its
 * name. -ENOENT: not known; -ESTALE: it was changed while the program ran. */
int inforce_find(const struct log *log, const struct log_run *run, const struct profile *judged,
                 struct profile *ret_profile);

/* By NAME@VERSION, as inforce_print() says them. -ENOENT: the log does not have it. */
int inforce_named(const struct log *log, const char *name, struct profile *ret_profile);

/* A line for each that programs ran under. */
void inforce_print(const struct log *log, const struct profile *judged);
