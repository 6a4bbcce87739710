/* daemon/program/livelog_impl.h — what livelog.c and livelog_file.c share: the records in the pipe, and
 * the thread's side.
 *
 * Thread: as said at each. Memory: of livelog_new(). Fails: as livelog.h. */
#pragma once
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
    bool of_batch;
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

/* ---- the thread's ----------------------------------------------------------------------------- */

struct live_file;
int live_file_new(const struct livelog_config *config, struct live_file **ret_file,
                  char ret_message[MESSAGE_BYTES]);
void live_file_free(struct live_file *file);
void live_file_take(struct live_file *file, const struct live_record *record);
/* Any thread, and waits for none: what has been written and lost by then. */
void live_file_stats(struct live_file *file, struct livelog_stats *ret_stats);
