/* tools/calibrate/family.h — the candidates that calibration chooses from: one policy with many
 * settings, in chains from the safest setting to the boldest.
 *
 * Some families are grids that stand before any data was seen; others read curves or thresholds off
 * part of the log, and are then tested on another part.
 *
 * Memory: heap, until family_free(). */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "daemon/program/policy.h"
#include "daemon/program/profile.h"
#include "tools/calibrate/log.h"

#define DETECTS_MAX 16u

struct family_request {
    struct policy_options base; /* kind, step and what is not varied */
    uint32_t detects[DETECTS_MAX];
    uint32_t detects_count;
    bool use_certainty;
    bool use_reward;
    uint32_t cap;         /* 0: as the log */
    double give_up_below; /* 0: without the table */
};

struct family {
    struct policy_options *options; /* [count]; the first never stops early */
    uint32_t *chain;                /* [count] ascending; candidates of a chain from safe to bold */
    uint32_t count;
    uint32_t chains_count;
    uint32_t
        ordered_count; /* the first chains: they and their order stood before any data was seen */
    bool learned;      /* some of the others, from the problems of the mask */
};

/* learn_from: [problems_count] problems that thresholds and curves may be read off. */
void family_build(const struct log *log, const struct family_request *request,
                  const bool *learn_from, struct family *ret_family);
void family_free(struct family *family);
bool family_is_learned(const struct family_request *request);

/* Whether a policy of this kind has anything that is varied. */
bool family_has_choice(enum policy_kind kind);
/* First readings that a family of this kind can have at most; 0: it reads nowhere first. */
uint32_t family_detects(enum policy_kind kind);
/* Steps of the longest program, up to the cap; a reading is before them. */
uint32_t family_longest(const struct log *log, uint32_t cap);

/* Step from which the program's answer is right for good; UINT32_MAX: wrong at the cap. */
uint32_t family_oracle_step(const struct log *log, uint32_t run, uint32_t cap);
