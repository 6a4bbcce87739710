/* daemon/program/livelog_impl.h — what livelog.c, livelog_file.c and livelog_profile.c share: the records in
 * the pipe, the profiles that they name, and the thread's side.
 *
 * Thread: as said at each. Memory: of livelog_new(). Fails: as livelog.h. */
#pragma once
#include <stdio.h>

#include "daemon/program/livelog.h"

enum live_kind { LIVE_ANSWER = 1, LIVE_END, LIVE_FORGET };

struct live_answer {
    uint32_t n;
    uint32_t group;
    uint32_t winner;
    uint32_t at_tokens;
    uint32_t own_tokens;
    bool has_reward;
    bool hesitant;
    uint64_t charged_tokens; /* by the program so far, but for probes */
    uint64_t probe_tokens;
    float reward;
    float confidence;
    float log_probability;
    float entropy;
};

struct live_end {
    uint32_t algorithm;
    uint32_t verdict;
    uint32_t knob;
    uint32_t cap;
    uint32_t group;
    uint32_t answers_count;
    uint32_t version; /* place + 1 of the profile's; 0: not kept */
    bool of_batch;
    bool changed; /* the profile, since the program began */
    uint64_t path_tokens;
    uint64_t charged_tokens;
    uint64_t problem;
    char profile[PROFILE_NAME_BYTES];
};

/* A power of two: so many fill a pipe's atomic write. */
#define LIVE_RECORD_BYTES 128u
struct live_record {
    uint32_t program;
    uint32_t kind;   /* enum live_kind */
    uint64_t serial; /* of the program; handles come again */
    union {
        struct live_answer answer;
        struct live_end end;
        uint8_t bytes[LIVE_RECORD_BYTES - 16];
    } u;
};
_Static_assert(sizeof(struct live_record) == LIVE_RECORD_BYTES, "");

/* A profile as it was when a program began. The control thread writes one when no program that runs and no
 * record in the pipe names what was there before. */
#define LIVE_VERSIONS 64u
struct live_version {
    uint64_t serial; /* of all that were kept */
    struct profile profile;
};

/* ---- the thread's ----------------------------------------------------------------------------- */

/* Texts of versions, by place, and which of them the file has. */
#define LIVE_PROFILE_BYTES 131072u
#define LIVE_PROFILES_KNOWN 256u
struct live_profiles {
    const struct live_version *versions; /* [LIVE_VERSIONS] */
    FILE *lines;                         /* writes into text */
    struct {
        uint64_t serial;
        uint64_t digits;
    } made[LIVE_VERSIONS];
    uint64_t known[LIVE_PROFILES_KNOWN]; /* by digits; the latest ones */
    uint64_t known_count;
    char text[LIVE_PROFILE_BYTES];
};
int live_profiles_init(struct live_profiles *profiles, const struct live_version *versions);
void live_profiles_free(struct live_profiles *profiles); /* not the struct */
/* What names the text of a version: equal texts have equal ones, in any life. */
uint64_t live_profiles_digits(struct live_profiles *profiles, uint32_t place);
/* Its line (runlog.h), valid until the next call; 0 bytes: the file has it. */
size_t live_profiles_line(struct live_profiles *profiles, uint32_t place, const char **ret_line);
void live_profiles_put(struct live_profiles *profiles, uint32_t place); /* it is in the file */
void live_profiles_forget(struct live_profiles *profiles);              /* a file without any */

struct live_file;
int live_file_new(const struct livelog_config *config, const struct live_version *versions,
                  struct live_file **ret_file, char ret_message[MESSAGE_BYTES]);
void live_file_free(struct live_file *file);
void live_file_take(struct live_file *file, const struct live_record *record);
/* Any thread, and waits for none: what has been written and lost by then. */
void live_file_stats(struct live_file *file, struct livelog_stats *ret_stats);
