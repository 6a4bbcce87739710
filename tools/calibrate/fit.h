/* tools/calibrate/fit.h — chooses among candidates: the largest saving whose loss of accuracy is
 * shown, or only estimated, to be within what is allowed.
 *
 * The unit of everything is the problem: programs of one problem depend on each other.
 *
 * Memory: heap, until *_free(). Thread: one. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "tools/calibrate/family.h"
#include "tools/calibrate/log.h"
#include "tools/calibrate/risk.h"

/* What each candidate does to each problem. Candidates times problems. */
struct evaluation {
    uint32_t candidates_count;
    uint32_t problems_count;
    float *lost;    /* right at the cap minus right, mean over the problem's programs: -1 .. 1 */
    float *flipped; /* share of its programs that turn from right to wrong: 0 .. 1 */
    float *tokens;  /* with probes, sum over its programs */
    float *probe_tokens;
    float *stopped;                 /* programs */
    float *given_up;                /* programs */
    float *full_tokens;             /* [problems_count] at the cap */
    float *full_right;              /* [problems_count] programs */
    float *runs;                    /* [problems_count] programs */
    const uint64_t *problem_hashes; /* [problems_count] of the log */
};

void evaluation_make(const struct log *log, const struct family *family, uint32_t cap,
                     struct evaluation *ret_evaluation);
void evaluation_free(struct evaluation *evaluation);

/* Means over the problems of a mask; accuracy counts each program once. */
struct score {
    uint32_t problems_count;
    uint32_t programs_count;
    double accuracy_percent; /* at the cap */
    double lost_points;
    double lost_error_points; /* standard error, over problems */
    double flipped_points;
    double saving_percent; /* of the tokens at the cap, probes charged */
    double probe_percent;  /* of them */
    double stopped_percent;
    double given_up_percent;
    double tokens_mean; /* of a program */
};
struct score score_of(const struct evaluation *evaluation, uint32_t candidate, const bool *mask);

enum fit_test {
    FIT_EMPIRICAL, /* an estimate of the loss is within what is allowed: no promise */
    FIT_BETTING,   /* net loss, by a bet against the hypothesis */
    FIT_FLIPS, /* right answers turned wrong alone, by Hoeffding-Bentkus or the exact binomial */
};
const char *fit_test_name(enum fit_test test);

struct fit_request {
    enum fit_test test;
    double allowed_points;
    double delta;
    double margin; /* empirical: standard errors that are added to the loss seen */
    uint32_t seed; /* empirical: of the folds of cross-validation */
};

/* The problems of a choice. What stood before any data was seen is decided on all of them; the rest
 * was learned from one part, or is put in order by it (Pareto testing), and is decided on the other. */
struct fit_parts {
    const bool *all;
    const bool *learn; /* of all, as is */
    const bool *test;  /* the others */
};
/* Those that a candidate is decided on. */
const bool *fit_mask(const struct family *family, const struct fit_request *request,
                     uint32_t candidate, const struct fit_parts *parts);

/* Of a way of choosing: what is to be expected on problems that it does not see. */
struct fit_estimate {
    double lost_points;
    double error_points; /* standard error, over problems */
};

/* Returns the candidate; 0, which never stops, when no other is shown to be safe.
 * Empirical: of the ways of choosing in cross.h the boldest whose loss on problems that it did not see is within what
 * is allowed; that way then chooses on all problems. ret_estimate, which may be
 * NULL, is that loss; of the other tests, and of never stopping, 0. */
uint32_t fit_choose(const struct evaluation *evaluation, const struct family *family,
                    const struct fit_request *request, const struct fit_parts *parts,
                    struct fit_estimate *ret_estimate);

/* Upper bound of the loss of one candidate, in points; 100 when nothing can be said. */
double fit_bound_points(const struct evaluation *evaluation, uint32_t candidate,
                        const struct fit_request *request, const bool *mask);
