#include "tests/bench/batch/ridge.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/batch/stats.h"
#include "tests/bench/dynasor/tasks.h"

static const double penalties[] = {0.001, 0.01, 0.03, 0.1, 0.3, 1, 3, 10};

/* Lower half of a to L with L Lt = a, then a x = b; b becomes x. a is positive definite by its penalty. */
static void solve(double *a, double *b, uint32_t n)
{
    for (uint32_t j = 0; j < n; j++) {
        for (uint32_t i = j; i < n; i++) {
            double sum = a[(size_t)i * n + j];
            for (uint32_t k = 0; k < j; k++)
                sum -= a[(size_t)i * n + k] * a[(size_t)j * n + k];
            a[(size_t)i * n + j] = i == j ? sqrt(sum) : sum / a[(size_t)j * n + j];
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t k = 0; k < i; k++)
            b[i] -= a[(size_t)i * n + k] * b[k];
        b[i] /= a[(size_t)i * n + i];
    }
    for (uint32_t i = n; i-- > 0;) {
        for (uint32_t k = i + 1; k < n; k++)
            b[i] -= a[(size_t)k * n + i] * b[k];
        b[i] /= a[(size_t)i * n + i];
    }
}

struct scale {
    double *mean;
    double *spread; /* 0: the column does not vary */
    double y_mean;
};

static struct scale scale_of(const float *x, const double *y, uint32_t rows, uint32_t columns)
{
    struct scale s = {.mean = need(calloc(columns + 1, sizeof(double))),
                      .spread = need(calloc(columns + 1, sizeof(double)))};
    for (uint32_t i = 0; i < rows; i++) {
        s.y_mean += y[i] / rows;
        for (uint32_t c = 0; c < columns; c++)
            s.mean[c] += (double)x[(size_t)i * columns + c] / rows;
    }
    for (uint32_t i = 0; i < rows; i++) {
        for (uint32_t c = 0; c < columns; c++) {
            double d = (double)x[(size_t)i * columns + c] - s.mean[c];
            s.spread[c] += d * d / rows;
        }
    }
    for (uint32_t c = 0; c < columns; c++)
        s.spread[c] = s.spread[c] > 1e-20 ? sqrt(s.spread[c]) : 0;
    return s;
}

void ridge_fit(const float *x, const double *y, uint32_t rows, uint32_t columns, double penalty,
               struct ridge *ret)
{
    struct scale s = scale_of(x, y, rows, columns);
    double *a = need(calloc((size_t)columns * columns + 1, sizeof *a));
    double *z = need(calloc(columns + 1, sizeof *z));
    *ret = (struct ridge){.columns = columns,
                          .weight = need(calloc(columns + 1, sizeof(double))),
                          .intercept = s.y_mean,
                          .penalty = penalty};
    for (uint32_t i = 0; i < rows; i++) {
        for (uint32_t c = 0; c < columns; c++) {
            double d = (double)x[(size_t)i * columns + c] - s.mean[c];
            z[c] = s.spread[c] > 0 ? d / s.spread[c] : 0;
            ret->weight[c] += z[c] * (y[i] - s.y_mean);
        }
        for (uint32_t c = 0; c < columns; c++)
            for (uint32_t k = 0; k <= c; k++)
                a[(size_t)c * columns + k] += z[c] * z[k];
    }
    for (uint32_t c = 0; c < columns; c++)
        a[(size_t)c * columns + c] += penalty * rows + 1e-9;
    solve(a, ret->weight, columns);
    for (uint32_t c = 0; c < columns; c++) {
        ret->weight[c] = s.spread[c] > 0 ? ret->weight[c] / s.spread[c] : 0;
        ret->intercept -= ret->weight[c] * s.mean[c];
    }
    free(s.mean);
    free(s.spread);
    free(a);
    free(z);
}

/* Pearson's of what is predicted for each row by a fit that has not seen it. */
static double left_out(const float *x, const double *y, uint32_t rows, uint32_t columns,
                       double penalty)
{
    float *some = need(calloc((size_t)rows * columns + 1, sizeof *some));
    double *of_some = need(calloc(rows + 1, sizeof *of_some));
    double *predicted = need(calloc(rows + 1, sizeof *predicted));
    for (uint32_t fold = 0; fold < RIDGE_FOLDS; fold++) {
        struct ridge r;
        uint32_t count = 0;
        for (uint32_t i = 0; i < rows; i++) {
            if (i % RIDGE_FOLDS == fold)
                continue;
            memcpy(some + (size_t)count * columns, x + (size_t)i * columns, columns * sizeof *x);
            of_some[count++] = y[i];
        }
        ridge_fit(some, of_some, count, columns, penalty, &r);
        for (uint32_t i = fold; i < rows; i += RIDGE_FOLDS)
            predicted[i] = ridge_value(&r, x + (size_t)i * columns);
        ridge_free(&r);
    }
    double c = pearson(predicted, y, rows);
    free(some);
    free(of_some);
    free(predicted);
    return c;
}

void ridge_choose(const float *x, const double *y, uint32_t rows, uint32_t columns,
                  struct ridge *ret)
{
    double best = -2, penalty = penalties[0];
    for (size_t i = 0; i < sizeof penalties / sizeof penalties[0]; i++) {
        double c = left_out(x, y, rows, columns, penalties[i]);
        if (c > best) {
            best = c;
            penalty = penalties[i];
        }
    }
    ridge_fit(x, y, rows, columns, penalty, ret);
    ret->correlation = best;
}

double ridge_value(const struct ridge *r, const float *row)
{
    double sum = r->intercept;
    for (uint32_t c = 0; c < r->columns; c++)
        sum += r->weight[c] * (double)row[c];
    return sum;
}

void ridge_free(struct ridge *r)
{
    free(r->weight);
    *r = (struct ridge){0};
}
