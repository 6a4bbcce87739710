/* config.h — the daemon's options: one table, one file, one parser.
 *
 * Every option stands in the table of config.c with section, key, range, default and help; the file
 * parser, the command line (--set section.key=value), config_print() and the tests all read it.
 * Loading is all-or-nothing: a file with anything wrong changes nothing, and the message names
 * file, line, key, value and the accepted range.
 *
 * Thread: control thread, at start-up. Memory: the caller's struct. Fails: -EINVAL with a message,
 * or the -errno of opening or reading the file. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "daemon/base/log.h"

#define CONFIG_PATH "/etc/dynasor/dynasord.conf"
#define CONFIG_SOCKET_PATH_BYTES 108u /* sun_path */
#define CONFIG_GROUP_BYTES 64u
#define CONFIG_DIRECTORY_BYTES 1024u
#define CONFIG_MESSAGE_BYTES 512u /* enough for every message */
#define CONFIG_REPLICAS_MAX 8u
#define CONFIG_DEVICES_MAX 8u /* of all replicas' ranks */

struct daemon_config {
    /* [daemon] */
    char socket_path[CONFIG_SOCKET_PATH_BYTES];
    uint32_t socket_mode;
    char socket_group[CONFIG_GROUP_BYTES]; /* empty: leave the group as it is */
    char control_path[CONFIG_SOCKET_PATH_BYTES];
    uint32_t control_mode;
    char control_group[CONFIG_GROUP_BYTES];
    uint32_t clients_max;
    uint32_t spin_max_us;
    enum log_level log_level;
    uint32_t handshake_timeout_ms;
    uint32_t slow_consumer_grace_ms;
    uint64_t prompt_pool_bytes; /* a power of two */
    uint32_t programs_max;

    struct {
        uint32_t max_tokens;
        uint64_t prompt_bytes;
    } limits;

    struct { /* of one uid */
        uint32_t connections;
        uint64_t region_bytes;
        uint32_t programs;
        uint64_t queued_bytes;
    } quota;

    struct {
        char policy[CONFIG_DIRECTORY_BYTES]; /* model directories; empty: none */
        char reward[CONFIG_DIRECTORY_BYTES];
        char embed[CONFIG_DIRECTORY_BYTES];
        uint32_t step_tag;
        char chat[CONFIG_GROUP_BYTES]; /* family of the chat template; empty: found by its text */
        char backend[CONFIG_GROUP_BYTES]; /* auto, cpu or cuda */
        uint32_t device;
        uint32_t reward_device; /* CONFIG_NONE: the policy's, like the next */
        uint32_t embed_device;
        char lock_directory[CONFIG_DIRECTORY_BYTES];
        uint32_t simulate;
        uint32_t float32;
        char cpu_level[CONFIG_GROUP_BYTES]; /* config_cpu_level() */
        uint32_t ranks;
        uint32_t replicas;
        uint32_t threads;
        uint32_t context_tokens;
        uint64_t kv_bytes;
        uint32_t batch_rows_max;
        uint32_t batch_tokens_max;
        uint64_t sim_step_ns;
        uint64_t sim_prefill_ns_per_token;
    } engine;

    struct { /* of reasoning programs; names: empty leaves the built-in choice */
        char directory[CONFIG_DIRECTORY_BYTES];
        char sc[CONFIG_GROUP_BYTES];
        char rebase[CONFIG_GROUP_BYTES];
        char mcts[CONFIG_GROUP_BYTES];
        char cot[CONFIG_GROUP_BYTES];
        char best_of_n[CONFIG_GROUP_BYTES];
        char beam[CONFIG_GROUP_BYTES];
        char sc_cot[CONFIG_GROUP_BYTES];
    } profiles;

    struct {                                   /* what programs did (daemon/program/livelog.h) */
        char programs[CONFIG_DIRECTORY_BYTES]; /* a file; empty: none */
        uint64_t programs_bytes;
    } log;
};

void config_default(struct daemon_config *config);

/* Options the file does not name keep the value they have in *config. */
int config_load(struct daemon_config *config, const char *path, char *ret_message,
                size_t message_bytes);

/* name: "section.key". */
int config_set(struct daemon_config *config, const char *name, const char *value, char *ret_message,
               size_t message_bytes);

/* What no single option can say; once, after the file and all --set. */
int config_check(const struct daemon_config *config, char *ret_message, size_t message_bytes);

/* enum cpu_level of [engine] cpu_level; -1: auto, -2: there is none of that name. */
int32_t config_cpu_level(const char *name);

/* A file that config_load() reads back to the same values, with the help as comments. */
void config_print(FILE *file, const struct daemon_config *config);

#define CONFIG_NONE UINT32_MAX

enum config_type {
    CONFIG_U32,
    CONFIG_U32_OR_NONE, /* empty: CONFIG_NONE */
    CONFIG_U64,
    CONFIG_POWER_OF_TWO, /* 64 bits */
    CONFIG_MODE,         /* octal permission bits */
    CONFIG_LEVEL,        /* enum log_level */
    CONFIG_PATH_NAME,    /* absolute path of a socket */
    CONFIG_DIRECTORY,    /* absolute path, or empty */
    CONFIG_SWITCH,       /* 0 or 1, 32 bits */
    CONFIG_GROUP_NAME,   /* may be empty */
};

struct config_option {
    size_t offset; /* in struct daemon_config */
    const char *section;
    const char *key;
    enum config_type type;
    const char *unit;    /* "" when it has none */
    const char *initial; /* the default, as it stands in a file */
    uint64_t min;
    uint64_t max;
    const char *help;
};

const struct config_option *config_options(uint32_t *ret_count);
