/* tests/bench/batch/ridge.h — a linear probe: ridge regression in float64.
 *
 * Columns are centred and brought to variance 1 by the rows that are fitted; the intercept is free of the
 * penalty. The same input gives the same numbers.
 *
 * Thread: any. Memory: heap, until ridge_free(); what cannot be had ends the process with a sentence. Time:
 * rows times columns squared, and columns cubed. Fails: never; a column that does not vary weighs nothing. */
#pragma once
#include <stdint.h>

struct ridge {
    uint32_t columns;
    double *weight; /* [columns] of the columns as they are given */
    double intercept;
    double penalty;     /* per row */
    double correlation; /* Pearson's over rows that were left out, of the penalty chosen */
};

/* x: [rows, columns]. */
void ridge_fit(const float *x, const double *y, uint32_t rows, uint32_t columns, double penalty,
               struct ridge *ret_ridge);
/* The penalty that correlates best over RIDGE_FOLDS parts, each predicted from the others; row i is in
 * part i mod RIDGE_FOLDS. Fitted on all rows. */
#define RIDGE_FOLDS 5u
void ridge_choose(const float *x, const double *y, uint32_t rows, uint32_t columns,
                  struct ridge *ret_ridge);
double ridge_value(const struct ridge *ridge, const float *row);
void ridge_free(struct ridge *ridge);
