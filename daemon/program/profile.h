/* daemon/program/profile.h — a profile: a named policy with its thresholds, and what its calibration
 * promises. Built in are the rows of the paper's table of thresholds and the presets of its probing
 * client; dynasor-calibrate writes others; an operator edits them as text (docs/CERTAINDEX.md).
 *
 * The file is INI: sections of `key = value`, `#` and `;` begin a comment line. Loading is
 * all-or-nothing, unknown and repeated keys are refused, and every message names file, line, key and
 * the accepted range. profile_write() writes what profile_read() reads back to the same bits.
 *
 * Thread: any; a profile is a value, and whoever shares one copies it at a decision. Memory: the
 * caller's struct, no pointers. Time: linear in the file. Fails: -EINVAL with a message, or the
 * -errno of reading. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "daemon/program/policy.h"

#define PROFILE_NAME_BYTES 48u
#define PROFILE_ALGORITHM_BYTES 16u
#define PROFILE_METHOD_BYTES 24u
#define PROFILE_MESSAGE_BYTES 384u
#define PROFILE_LINE_BYTES 1024u /* POLICY_BINS_MAX numbers of 23 characters fit */

/* What calibration measured and promises. Zero: nothing. */
struct profile_risk {
    char method[PROFILE_METHOD_BYTES]; /* none, empirical, or the test that bounds the risk */
    double allowed_points;             /* accuracy lost at most, in percentage points ... */
    double delta;                      /* ... but for this chance */
    double lost_points;                /* on the calibration set, or where empirical: to be expected
                                          elsewhere; below 0: gained */
    double saving_percent;             /* of its tokens */
    double stopped_percent;            /* of its programs, before the cap */
    uint32_t problems_count;           /* independent ones of the set */
    uint32_t cap;                      /* that the set was run to */
};

struct profile {
    char name[PROFILE_NAME_BYTES];           /* a-z A-Z 0-9 _ . - */
    char algorithm[PROFILE_ALGORITHM_BYTES]; /* likewise; "any": every algorithm */
    struct policy_options policy;
    struct profile_risk risk;
};

/* Every field at its default: policy even. */
void profile_default(struct profile *profile);

/* The built-in profiles: index 0 .. count-1, or by name. */
uint32_t profile_builtin_count(void);
void profile_builtin(uint32_t idx, struct profile *ret_profile);
int profile_find(const char *name, struct profile *ret_profile); /* -ENOENT */

/* path names the file in messages. *ret_profile is untouched on error. */
int profile_read(FILE *file, const char *path, struct profile *ret_profile,
                 char ret_message[PROFILE_MESSAGE_BYTES]);
int profile_load(const char *path, struct profile *ret_profile,
                 char ret_message[PROFILE_MESSAGE_BYTES]);
int profile_write(FILE *file, const struct profile *profile);

/* One value by "section.key", as it would stand in a file; takes effect at the next decision. The
 * profile is untouched on error. Rows: "certainty.5"; edges of bins: "curve.edges". */
int profile_set(struct profile *profile, const char *name, const char *value,
                char ret_message[PROFILE_MESSAGE_BYTES]);
/* -ENOENT, or -ENOSPC. */
int profile_get(const struct profile *profile, const char *name, char *ret_value,
                size_t value_bytes);
