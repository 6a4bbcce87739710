#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/base/assert.h"
#include "daemon/base/hash.h"
#include "daemon/program/livelog_impl.h"
#include "dynasor/types.h"
#include "shm/atomic.h"

#define RING 4096u         /* answers of one poll */
#define PIPE_BYTES 1048576 /* 8,192 answers that the disk is behind */
#define BLOCK (PIPE_BUF / LIVE_RECORD_BYTES)
#define PROMPT_HASHED_BYTES 4096u /* of its start, and of its end */

struct live_program {
    uint64_t serial;  /* 0: nothing of it was taken */
    uint32_t slot;    /* of its profile */
    uint32_t changes; /* of that, when it began */
    uint32_t version; /* place + 1; 0: there was none left, or it has no profile */
    bool lost;        /* something of it was; it is counted at its end */
};

struct version_use { /* of a place */
    uint64_t put;    /* records in the pipe up to the last one that names it */
    uint32_t slot;
    uint32_t changes;
    uint32_t users; /* programs that run */
};

struct livelog {
    struct observer observer;
    struct live_program *programs; /* [programs_max] by handle */
    uint64_t serials;
    uint64_t lost; /* programs, on this side of the pipe */
    uint64_t put;  /* records, into the pipe */
    uint64_t took; /* records, out of it: the thread's */
    const struct profiles *profiles;
    struct live_version *versions; /* [LIVE_VERSIONS] likewise the next */
    struct version_use uses[LIVE_VERSIONS];
    uint64_t versions_count; /* kept so far */
    uint32_t hand;           /* the next place to look at */
    int read_fd;
    int write_fd;
    uint32_t block_count;
    struct live_record block[BLOCK];
    struct live_file *file;
};

int livelog_new(const struct livelog_config *config, struct livelog **ret_log,
                char ret_message[MESSAGE_BYTES])
{
    int fds[2] = {-1, -1};
    struct livelog *log = calloc(1, sizeof *log);
    if (!log)
        return message_refuse(ret_message, -ENOMEM, "no memory");
    log->read_fd = log->write_fd = -1;
    log->observer =
        (struct observer){.ring = calloc(RING, sizeof *log->observer.ring), .size = RING};
    log->programs = calloc(config->programs_max, sizeof *log->programs);
    for (uint32_t i = 0; log->programs && i < config->programs_max; i++)
        log->programs[i].slot = PROFILES_NONE;
    log->versions = calloc(LIVE_VERSIONS, sizeof *log->versions);
    int r = log->observer.ring && log->programs && log->versions ? 0 : -ENOMEM;
    if (r == 0 && pipe2(fds, O_CLOEXEC) != 0)
        r = -errno;
    log->read_fd = fds[0];
    log->write_fd = fds[1];
    if (r == 0 && fcntl(fds[1], F_SETFL, O_NONBLOCK) != 0)
        r = -errno;
    if (r < 0)
        (void)message_refuse(ret_message, r, "the log of programs: %s", strerror(-r));
    else
        (void)fcntl(fds[1], F_SETPIPE_SZ, PIPE_BYTES); /* what it is otherwise will do */
    if (r == 0)
        r = live_file_new(config, log->versions, &log->file, ret_message);
    if (r < 0) {
        livelog_free(log);
        return r;
    }
    *ret_log = log;
    return 0;
}

void livelog_free(struct livelog *log)
{
    if (!log)
        return;
    livelog_stop(log);
    if (log->read_fd >= 0)
        (void)close(log->read_fd); /* a pipe that was read to its end */
    live_file_free(log->file);
    free(log->versions);
    free(log->programs);
    free(log->observer.ring);
    free(log);
}

void livelog_run(struct livelog *log)
{
    struct live_record records[16 * BLOCK];
    for (;;) {
        /* Whole records: each write is one of whole records, and atomic. */
        ssize_t got = read(log->read_fd, records, sizeof records);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return;
        for (size_t i = 0; i < (size_t)got / sizeof records[0]; i++)
            live_file_take(log->file, &records[i]);
        /* ORDER(livelog_took) publish: the versions that these records name were read. */
        shm_store_release_u64(&log->took, log->took + (size_t)got / sizeof records[0]);
    }
}

void livelog_stop(struct livelog *log)
{
    if (log->write_fd < 0)
        return;
    livelog_flush(log);
    (void)close(log->write_fd); /* the end of the pipe */
    log->write_fd = -1;
}

struct observer *livelog_observer(struct livelog *log)
{
    return &log->observer;
}

/* ---- records ------------------------------------------------------------------------------------ */

/* The pipe is full: the programs of the block are lost, those that have ended are counted. */
static void block_lost(struct livelog *log)
{
    for (uint32_t i = 0; i < log->block_count; i++) {
        const struct live_record *record = &log->block[i];
        struct live_program *p = &log->programs[record->program];
        log->lost += record->kind == LIVE_END;
        if (record->kind == LIVE_ANSWER && p->serial == record->serial)
            p->lost = true;
    }
}

void livelog_flush(struct livelog *log)
{
    size_t bytes = log->block_count * sizeof log->block[0];
    if (bytes == 0)
        return;
    ssize_t put = write(log->write_fd, log->block, bytes); /* all of it or nothing */
    if (put != (ssize_t)bytes)
        block_lost(log);
    else
        log->put += log->block_count;
    log->block_count = 0;
}

static struct live_record *record_add(struct livelog *log, uint32_t program, enum live_kind kind)
{
    struct live_program *p = &log->programs[program];
    if (log->block_count == BLOCK)
        livelog_flush(log);
    if (p->serial == 0)
        p->serial = ++log->serials;
    struct live_record *record = &log->block[log->block_count++];
    memset(record, 0, sizeof *record);
    record->program = program;
    record->kind = kind;
    record->serial = p->serial;
    return record;
}

/* ---- profiles ------------------------------------------------------------------------------------ */

/* A place whose version nobody needs any more; LIVE_VERSIONS: there is none. */
static uint32_t version_place(struct livelog *log)
{
    /* ORDER(livelog_took) observe: what they name may be written again. */
    uint64_t took = shm_load_acquire_u64(&log->took);
    for (uint32_t i = 0; i < LIVE_VERSIONS; i++) {
        uint32_t place = (log->hand + i) % LIVE_VERSIONS;
        if (log->uses[place].users == 0 && log->uses[place].put <= took) {
            log->hand = place + 1;
            return place;
        }
    }
    return LIVE_VERSIONS;
}

static uint32_t version_of(struct livelog *log, uint32_t slot, uint32_t changes)
{
    uint32_t place = 0;
    while (place < LIVE_VERSIONS &&
           (log->versions[place].serial == 0 || log->uses[place].slot != slot ||
            log->uses[place].changes != changes))
        place++;
    if (place == LIVE_VERSIONS && (place = version_place(log)) < LIVE_VERSIONS) {
        log->versions[place].profile = log->profiles->all[slot];
        log->versions[place].serial = ++log->versions_count;
        log->uses[place] = (struct version_use){.slot = slot, .changes = changes};
    }
    return place;
}

void livelog_begin(struct livelog *log, uint32_t program, const struct profiles *profiles,
                   uint32_t slot)
{
    struct live_program *p = &log->programs[program];
    ASSERT(p->serial == 0 && p->version == 0);
    log->profiles = profiles;
    *p = (struct live_program){.slot = slot};
    if (slot == PROFILES_NONE)
        return;
    p->changes = profiles->changes[slot];
    uint32_t place = version_of(log, slot, p->changes);
    if (place == LIVE_VERSIONS)
        return;
    log->uses[place].users++;
    p->version = place + 1;
}

static void program_forget(struct livelog *log, uint32_t program)
{
    struct live_program *p = &log->programs[program];
    if (p->version > 0)
        log->uses[p->version - 1].users--;
    *p = (struct live_program){.slot = PROFILES_NONE};
}

/* Into its last record, which is the latest of the block. */
static void profile_say(struct livelog *log, const struct live_program *p, struct live_end *end)
{
    if (p->slot == PROFILES_NONE)
        return;
    const char *name = log->profiles->all[p->slot].name;
    size_t bytes = strlen(name);
    ASSERT(bytes < sizeof end->profile);
    memcpy(end->profile, name, bytes); /* zeros follow */
    end->version = p->version;
    end->changed = log->profiles->changes[p->slot] != p->changes;
    if (p->version > 0)
        log->uses[p->version - 1].put = log->put + log->block_count;
}

/* ---- programs ------------------------------------------------------------------------------------ */

void livelog_take(struct livelog *log)
{
    const struct observed *o;
    while ((o = observe_next(&log->observer))) {
        struct live_record *record = record_add(log, o->user, LIVE_ANSWER);
        record->u.answer =
            (struct live_answer){.n = o->n,
                                 .group = o->group,
                                 .winner = o->winner,
                                 .at_tokens = o->at_tokens,
                                 .own_tokens = o->own_tokens,
                                 .has_reward = o->has_reward,
                                 .hesitant = o->hesitant,
                                 .charged_tokens = o->cost.decoded_tokens + o->cost.reward_tokens,
                                 .probe_tokens = o->cost.probe_tokens,
                                 .reward = o->reward,
                                 .confidence = o->confidence,
                                 .log_probability = (float)o->log_probability,
                                 .entropy = (float)o->entropy};
    }
}

/* Equal prompts give equal numbers; of a long one its ends and its length. */
static uint64_t problem_of(const uint8_t *prompt, uint32_t bytes)
{
    uint32_t head = bytes < PROMPT_HASHED_BYTES ? bytes : PROMPT_HASHED_BYTES;
    return hash_bytes(prompt + bytes - head, head, hash_bytes(prompt, head, bytes).low).low;
}

void livelog_end(struct livelog *log, const struct livelog_end *end)
{
    bool gone = log->programs[end->program].lost;
    log->lost += gone;
    if (gone || (end->answers_count == 0 && end->algorithm != DYNASOR_ALGORITHM_COT)) {
        livelog_forget(log, end->program); /* or it gave no answer, and has no lines */
        return;
    }
    struct live_record *record = record_add(log, end->program, LIVE_END);
    record->u.end =
        (struct live_end){.algorithm = end->algorithm,
                          .verdict = end->verdict,
                          .knob = end->knob,
                          .cap = end->cap,
                          .group = end->group,
                          .answers_count = end->answers_count,
                          .of_batch = end->of_batch,
                          .path_tokens = end->path_tokens,
                          .charged_tokens = end->cost.decoded_tokens + end->cost.reward_tokens,
                          .problem = problem_of(end->prompt, end->prompt_bytes)};
    profile_say(log, &log->programs[end->program], &record->u.end);
    program_forget(log, end->program);
}

void livelog_forget(struct livelog *log, uint32_t program)
{
    if (log->programs[program].serial > 0)
        (void)record_add(log, program, LIVE_FORGET);
    program_forget(log, program);
}

void livelog_stats(struct livelog *log, struct livelog_stats *ret_stats)
{
    live_file_stats(log->file, ret_stats);
    ret_stats->programs_lost += log->lost;
}
