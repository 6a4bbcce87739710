/* daemon/program/parameters.h — the named numbers of an algorithm: one table of names, ranges and
 * defaults.
 *
 * Defaults are the paper's, or those of the reference implementation it names (docs/CERTAINDEX.md has
 * the source of each). A parameter that an algorithm does not use is refused, not ignored.
 *
 * Thread: any. Memory: the caller's. Time: O(1). Fails: false, out of range or not of this algorithm. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "daemon/program/answer.h"
#include "dynasor/types.h"

#define PARAMETER_STEP_END_BYTES 16u

struct parameters {
    uint32_t algorithm;  /* enum dynasor_algorithm */
    uint32_t max_tokens; /* of a path, after the prompt */
    double value[DYNASOR_PARAMETER_COUNT];
    struct answer_rule answer;
    char step_end[PARAMETER_STEP_END_BYTES]; /* text that ends a step */
};

/* Every parameter of the algorithm at its default. */
void parameters_default(uint32_t algorithm, struct parameters *ret_parameters);
/* 0: it has none. */
double parameter_default(uint32_t algorithm, uint32_t parameter);

struct parameter_range {
    const char *name;
    double least;
    double most;
    bool whole;
};
/* False: there is none of that number, or the algorithm does not use it. */
bool parameter_range(uint32_t algorithm, uint32_t parameter, struct parameter_range *ret_range);
bool parameter_set(struct parameters *parameters, uint32_t parameter, double value);

static inline uint32_t parameter_whole(const struct parameters *parameters, uint32_t parameter)
{
    return (uint32_t)parameters->value[parameter];
}

static inline bool parameters_batched(const struct parameters *parameters)
{
    return parameters->value[DYNASOR_PARAMETER_BATCH] > 0;
}
/* The knob at most: cap, or what a batch may raise it to. */
uint32_t parameters_cap(const struct parameters *parameters);
