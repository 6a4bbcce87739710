/* tests/bench/batch/figures.h — tables of a campaign, one file each: what figures.c, budget.c and signals.c share.
 *
 * Thread: main. Memory: heap; what cannot be had ends the process with a sentence. */
#pragma once
#include "tests/bench/batch/study.h"

/* OUT/NAME.tsv with its header; NULL when there is no out. */
FILE *figure_open(const char *out, const char *name, const char *columns);
void figure_close(FILE *file);

/* budget.c: one total for the programs of a seed, against even; and what was run live, against the replay. */
void figure_budget(const char *folder, const char *out);

/* signals.c: how well signals tell how much a program needs. */
void figures_signals(const char *folder, const char *out);
