#include "daemon/config.h"

#include <errno.h>
#include <ini.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#include "daemon/base/assert.h"
#include "dynasor/types.h"

#define CONFIG_FILE_BYTES_MAX 1048576u
#define CONFIG_OPTIONS_MAX 64u /* bits of config_parse.seen */

#define FIELD(name) offsetof(struct daemon_config, name)
#define DAEMON(key, type, unit, initial, min, max, help)                                           \
    {                                                                                              \
        FIELD(key), "daemon", #key, type, unit, initial, min, max, help                            \
    }
#define IN(section, key, type, unit, initial, min, max, help)                                      \
    {                                                                                              \
        FIELD(section.key), #section, #key, type, unit, initial, min, max, help                    \
    }

#define TIB (1ull << 40)

static const struct config_option options[] = {
    DAEMON(socket_path, CONFIG_PATH_NAME, "", DYNASOR_SOCKET_PATH, 2, CONFIG_SOCKET_PATH_BYTES - 1,
           "socket of the clients; unused when the service manager passes it (dynasord.socket)"),
    DAEMON(socket_mode, CONFIG_MODE, "octal", "0660", 0, 0777,
           "permission bits of that socket: who may connect"),
    DAEMON(socket_group, CONFIG_GROUP_NAME, "", "", 0, CONFIG_GROUP_BYTES - 1,
           "group of that socket; empty: the daemon's own"),
    DAEMON(control_path, CONFIG_PATH_NAME, "", "/run/dynasor/control.sock", 2,
           CONFIG_SOCKET_PATH_BYTES - 1,
           "socket of dynasorctl; unused when the service manager passes it"),
    DAEMON(control_mode, CONFIG_MODE, "octal", "0660", 0, 0777,
           "permission bits of that socket: who may look at the daemon"),
    DAEMON(control_group, CONFIG_GROUP_NAME, "", "", 0, CONFIG_GROUP_BYTES - 1,
           "group of that socket; empty: the daemon's own"),
    DAEMON(clients_max, CONFIG_U32, "clients", "1024", 1, 4096,
           "connected clients; the next one is refused with LIMIT"),
    DAEMON(spin_max_us, CONFIG_U32, "us", "20", 0, 50,
           "how long the control thread looks for work before it sleeps; 0: never"),
    DAEMON(log_level, CONFIG_LEVEL, "", "info", 0, LOG_LEVEL_COUNT - 1,
           "least important lines that are still logged"),
    DAEMON(handshake_timeout_ms, CONFIG_U32, "ms", "2000", 10, 60000,
           "a connection that has not said hello by then is closed"),
    DAEMON(slow_consumer_grace_ms, CONFIG_U32, "ms", "30000", 100, 3600000,
           "a program whose client takes no events for so long ends with SLOW_CONSUMER"),
    DAEMON(prompt_pool_bytes, CONFIG_POWER_OF_TWO, "bytes", "268435456", 1048576, 64ull << 30,
           "memory for the prompts of accepted programs, of all clients together"),
    DAEMON(programs_max, CONFIG_U32, "programs", "65536", 1, 1048576,
           "accepted programs that have not ended, of all clients together"),

    IN(limits, max_tokens, CONFIG_U32, "tokens", "1048576", 1, DYNASOR_MAX_TOKENS_MAX,
       "largest max_tokens of one program"),
    IN(limits, prompt_bytes, CONFIG_U64, "bytes", "8388608", 64, 67108864,
       "largest prompt of one program"),

    IN(quota, connections, CONFIG_U32, "clients", "64", 1, 4096, "connected clients of one uid"),
    IN(quota, region_bytes, CONFIG_U64, "bytes", "268435456", 1, TIB,
       "shared memory of all clients of one uid"),
    IN(quota, programs, CONFIG_U32, "programs", "1024", 1, 1048576,
       "accepted programs of one uid that have not ended"),
    IN(quota, queued_bytes, CONFIG_U64, "bytes", "67108864", 1, TIB,
       "prompt bytes of those programs"),

    IN(engine, policy, CONFIG_DIRECTORY, "", "", 0, CONFIG_DIRECTORY_BYTES - 1,
       "directory of the model that writes: config.json, tokenizer.json, *.safetensors"),
    IN(engine, reward, CONFIG_DIRECTORY, "", "", 0, CONFIG_DIRECTORY_BYTES - 1,
       "directory of the model that scores steps; empty: none"),
    IN(engine, step_tag, CONFIG_U32, "token", "0", 0, 1048575,
       "token that the reward model scores steps at, put behind a step that does not end with it; 0: none"),
    IN(engine, embed, CONFIG_DIRECTORY, "", "", 0, CONFIG_DIRECTORY_BYTES - 1,
       "directory of the sentence encoder; empty: none"),
    IN(engine, chat, CONFIG_GROUP_NAME, "", "", 0, CONFIG_GROUP_BYTES - 1,
       "family of the policy's chat template; empty: recognised by the template's text"),
    IN(engine, backend, CONFIG_GROUP_NAME, "", "auto", 1, CONFIG_GROUP_BYTES - 1,
       "auto: GPUs if they can be used, otherwise the CPU, and the log says why; cpu; cuda: GPUs or no start"),
    IN(engine, device, CONFIG_U32, "", "0", 0, 63,
       "number of the first rank's GPU; each further rank has the next one"),
    IN(engine, reward_device, CONFIG_U32_OR_NONE, "", "", 0, 63,
       "number of the GPU that the reward model has apart from the policy; empty: where the policy is"),
    IN(engine, embed_device, CONFIG_U32_OR_NONE, "", "", 0, 63,
       "the same for the sentence encoder"),
    IN(engine, lock_directory, CONFIG_DIRECTORY, "", "/var/lib/dynasor", 0,
       CONFIG_DIRECTORY_BYTES - 1, "where a file for each GPU keeps other daemons off it"),
    IN(engine, simulate, CONFIG_SWITCH, "", "0", 0, 1,
       "1: no model; a simulated engine answers with random words, to try out everything else"),
    IN(engine, float32, CONFIG_SWITCH, "", "0", 0, 1,
       "1: weights, activations and KV in float32 instead of bf16: slower, twice the memory"),
    IN(engine, cpu_level, CONFIG_GROUP_NAME, "", "auto", 1, CONFIG_GROUP_BYTES - 1,
       "instructions that the CPU backend uses at most: auto, scalar, avx2, avx512 or amx; results differ by rounding"),
    IN(engine, ranks, CONFIG_U32, "ranks", "1", 1, 4,
       "tensor-parallel ranks: 1, 2 or 4, a GPU for each; on the CPU of use for tests only"),
    IN(engine, replicas, CONFIG_U32, "replicas", "1", 1, CONFIG_REPLICAS_MAX,
       "engines with the same models, each with GPUs of its own (on the CPU a share of the threads) and its own KV cache; a program stays with one"),
    IN(engine, threads, CONFIG_U32, "threads", "0", 0, 1024,
       "threads of the CPU backend, of all replicas together; 0: one for each core"),
    IN(engine, context_tokens, CONFIG_U32, "tokens", "0", 0, 1048576,
       "most tokens of prompt and output of one branch; 0: what the model allows, up to 131072"),
    IN(engine, kv_bytes, CONFIG_U64, "bytes", "1073741824", 1048576, TIB,
       "memory for the KV cache of the policy, of each replica; the reward model gets a quarter of it on top"),
    IN(engine, batch_rows_max, CONFIG_U32, "rows", "256", 1, 4096, "branches of one engine step"),
    IN(engine, batch_tokens_max, CONFIG_U32, "tokens", "512", 16, 16384,
       "new tokens of one engine step: longer prompts are computed in chunks"),
    IN(engine, sim_step_ns, CONFIG_U64, "ns", "2000000", 0, 1000000000,
       "duration of one step of the simulated engine"),
    IN(engine, sim_prefill_ns_per_token, CONFIG_U64, "ns", "1000", 0, 1000000,
       "what one prompt token adds to a step of the simulated engine"),

    IN(profiles, directory, CONFIG_DIRECTORY, "", "", 0, CONFIG_DIRECTORY_BYTES - 1,
       "directory whose *.profile files are loaded at the start; empty: built-in profiles only"),
    IN(profiles, sc, CONFIG_GROUP_NAME, "", "", 0, CONFIG_GROUP_BYTES - 1,
       "profile of sc programs that name none; empty: sc-math"),
    IN(profiles, rebase, CONFIG_GROUP_NAME, "", "", 0, CONFIG_GROUP_BYTES - 1,
       "profile of rebase programs that name none; empty: rebase-gsm8k"),
    IN(profiles, mcts, CONFIG_GROUP_NAME, "", "", 0, CONFIG_GROUP_BYTES - 1,
       "profile of mcts programs that name none; empty: mcts-gsm8k"),
    IN(profiles, cot, CONFIG_GROUP_NAME, "", "", 0, CONFIG_GROUP_BYTES - 1,
       "profile of cot programs that name none; empty: cot-mid"),
    IN(profiles, best_of_n, CONFIG_GROUP_NAME, "", "", 0, CONFIG_GROUP_BYTES - 1,
       "profile of best_of_n programs that name none; empty: even"),
    IN(profiles, beam, CONFIG_GROUP_NAME, "", "", 0, CONFIG_GROUP_BYTES - 1,
       "profile of beam programs that name none; empty: even"),
    IN(profiles, sc_cot, CONFIG_GROUP_NAME, "", "", 0, CONFIG_GROUP_BYTES - 1,
       "profile of sc_cot programs that name none; empty: sc_cot-math"),

    IN(log, programs, CONFIG_DIRECTORY, "", "", 0, CONFIG_DIRECTORY_BYTES - 1,
       "file that gets what each program did, for dynasor-calibrate --shadow; empty: none"),
    IN(log, programs_bytes, CONFIG_U64, "bytes", "268435456", 1048576, TIB,
       "length at which it becomes FILE.1, and a new one begins"),
};

#define OPTIONS_COUNT (sizeof(options) / sizeof(options[0]))
_Static_assert(OPTIONS_COUNT <= CONFIG_OPTIONS_MAX, "one bit an option");
_Static_assert(sizeof(enum log_level) == sizeof(uint32_t), "stored like a u32");
_Static_assert(DYNASOR_MAX_TOKENS_MAX == 1048576, "the default above is the maximum");

const struct config_option *config_options(uint32_t *ret_count)
{
    *ret_count = (uint32_t)OPTIONS_COUNT;
    return options;
}

__attribute__((format(printf, 3, 4))) static int refuse(char *message, size_t bytes,
                                                        const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (bytes > 0 && vsnprintf(message, bytes, format, args) < 0) {
        message[0] = '\0';
    }
    va_end(args);
    return -EINVAL;
}

/* Quoted text comes from a file: it must not move the reader's cursor or fill the message. */
static const char *readable(const char *text, char buffer[static 64])
{
    size_t i = 0;
    for (; text[i] != '\0' && i < 60; i++) {
        unsigned char c = (unsigned char)text[i];
        buffer[i] = c < 0x20 || c >= 0x7f ? '?' : text[i];
    }
    (void)snprintf(buffer + i, 64 - i, "%s", text[i] != '\0' ? "..." : "");
    return buffer;
}

/* ---- values ---------------------------------------------------------------------------------- */

/* Digits of the base and nothing else; no sign, no space, no prefix, no overflow. A decimal number
 * with a leading zero is refused: it looks like octal. */
static bool parse_number(const char *text, unsigned base, uint64_t *ret_number)
{
    if (text[0] == '\0' || (base == 10 && text[0] == '0' && text[1] != '\0')) {
        return false;
    }
    uint64_t number = 0;
    for (; *text != '\0'; text++) {
        unsigned digit = (unsigned)(unsigned char)*text - '0';
        if (digit >= base || __builtin_mul_overflow(number, (uint64_t)base, &number) ||
            __builtin_add_overflow(number, (uint64_t)digit, &number)) {
            return false;
        }
    }
    *ret_number = number;
    return true;
}

/* Characters that survive a way through the file: no spaces, no comment signs, no quotes. */
static bool plain_characters(const char *text, const char *more)
{
    for (; *text != '\0'; text++) {
        char c = *text;
        bool alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!alnum && strchr(more, c) == NULL) {
            return false;
        }
    }
    return true;
}

static bool parse_level(const char *text, uint64_t *ret_number)
{
    for (uint32_t i = 0; i < LOG_LEVEL_COUNT; i++) {
        if (strcmp(text, log_level_name((enum log_level)i)) == 0) {
            *ret_number = i;
            return true;
        }
    }
    return false;
}

static bool is_text(const struct config_option *option)
{
    return option->type == CONFIG_PATH_NAME || option->type == CONFIG_GROUP_NAME ||
           option->type == CONFIG_DIRECTORY;
}

static bool text_accepted(const struct config_option *option, const char *text)
{
    size_t length = strlen(text);
    if (length < option->min || length > option->max) {
        return false;
    }
    if (option->type == CONFIG_GROUP_NAME) {
        return plain_characters(text, "_.-");
    }
    if (option->type == CONFIG_DIRECTORY && length == 0) {
        return true;
    }
    bool ends_well = option->type == CONFIG_DIRECTORY || text[length - 1] != '/';
    return text[0] == '/' && ends_well && plain_characters(text, "/_.-+@,:");
}

static bool number_accepted(const struct config_option *option, const char *text,
                            uint64_t *ret_number)
{
    if (option->type == CONFIG_U32_OR_NONE && text[0] == '\0') {
        *ret_number = CONFIG_NONE;
        return true;
    }
    bool parsed = option->type == CONFIG_LEVEL
                      ? parse_level(text, ret_number)
                      : parse_number(text, option->type == CONFIG_MODE ? 8 : 10, ret_number);
    if (!parsed || *ret_number < option->min || *ret_number > option->max) {
        return false;
    }
    return option->type != CONFIG_POWER_OF_TWO || (*ret_number & (*ret_number - 1)) == 0;
}

/* What would have been accepted, as the end of a sentence. */
static int refuse_value(const struct config_option *option, const char *value, char *message,
                        size_t bytes)
{
    char shown[64];
    const char *unit = option->unit;
    const char *space = unit[0] != '\0' ? " " : "";
    unsigned long long min = option->min;
    unsigned long long max = option->max;
    readable(value, shown);
    switch (option->type) {
    case CONFIG_U32:
    case CONFIG_U64:
        return refuse(message, bytes, "[%s] %s = %s: accepted %llu to %llu%s%s", option->section,
                      option->key, shown, min, max, space, unit);
    case CONFIG_U32_OR_NONE:
        return refuse(message, bytes, "[%s] %s = %s: accepted nothing, or %llu to %llu%s%s",
                      option->section, option->key, shown, min, max, space, unit);
    case CONFIG_POWER_OF_TWO:
        return refuse(message, bytes, "[%s] %s = %s: accepted a power of two, %llu to %llu%s%s",
                      option->section, option->key, shown, min, max, space, unit);
    case CONFIG_MODE:
        return refuse(message, bytes, "[%s] %s = %s: accepted %04llo to %04llo, octal",
                      option->section, option->key, shown, min, max);
    case CONFIG_LEVEL:
        return refuse(message, bytes, "[%s] %s = %s: accepted error, warn, info or debug",
                      option->section, option->key, shown);
    case CONFIG_PATH_NAME:
        return refuse(message, bytes,
                      "[%s] %s = %s: accepted an absolute path of %llu to %llu characters out of "
                      "A-Z a-z 0-9 / _ . - + @ , :",
                      option->section, option->key, shown, min, max);
    case CONFIG_DIRECTORY:
        return refuse(
            message, bytes,
            "[%s] %s = %s: accepted nothing, or an absolute path of up to %llu characters "
            "out of A-Z a-z 0-9 / _ . - + @ , :",
            option->section, option->key, shown, max);
    case CONFIG_SWITCH:
        return refuse(message, bytes, "[%s] %s = %s: accepted 0 or 1", option->section, option->key,
                      shown);
    case CONFIG_GROUP_NAME:
        return refuse(message, bytes,
                      "[%s] %s = %s: accepted a name of %llu to %llu characters out of "
                      "A-Z a-z 0-9 _ . -",
                      option->section, option->key, shown, min, max);
    }
    return -EINVAL;
}

static int assign(struct daemon_config *config, const struct config_option *option,
                  const char *value, char *message, size_t bytes)
{
    char *field = (char *)config + option->offset;
    uint64_t number = 0;
    if (is_text(option)) {
        if (!text_accepted(option, value)) {
            return refuse_value(option, value, message, bytes);
        }
        /* The whole field, so that equal configurations are equal bytes. */
        memset(field, 0, (size_t)option->max + 1);
        memcpy(field, value, strlen(value));
        return 0;
    }
    if (!number_accepted(option, value, &number)) {
        return refuse_value(option, value, message, bytes);
    }
    if (option->type == CONFIG_U64 || option->type == CONFIG_POWER_OF_TWO) {
        memcpy(field, &number, sizeof(number));
    } else {
        uint32_t small = (uint32_t)number;
        memcpy(field, &small, sizeof(small));
    }
    return 0;
}

/* ---- options by name --------------------------------------------------------------------------- */

static const struct config_option *find_option(const char *section, size_t section_length,
                                               const char *key)
{
    for (uint32_t i = 0; i < OPTIONS_COUNT; i++) {
        if (strlen(options[i].section) == section_length &&
            memcmp(options[i].section, section, section_length) == 0 &&
            strcmp(options[i].key, key) == 0) {
            return &options[i];
        }
    }
    return NULL;
}

static bool section_known(const char *section, size_t length)
{
    for (uint32_t i = 0; i < OPTIONS_COUNT; i++) {
        if (strlen(options[i].section) == length &&
            memcmp(options[i].section, section, length) == 0) {
            return true;
        }
    }
    return false;
}

void config_default(struct daemon_config *config)
{
    char message[CONFIG_MESSAGE_BYTES] = "";
    memset(config, 0, sizeof(*config));
    for (uint32_t i = 0; i < OPTIONS_COUNT; i++) {
        int r = assign(config, &options[i], options[i].initial, message, sizeof(message));
        ASSERT(r == 0);
    }
}

int config_set(struct daemon_config *config, const char *name, const char *value, char *ret_message,
               size_t message_bytes)
{
    char shown[64];
    const char *dot = strchr(name, '.');
    if (dot == NULL) {
        return refuse(ret_message, message_bytes, "%s: accepted section.key, as in quota.programs",
                      readable(name, shown));
    }
    const struct config_option *option = find_option(name, (size_t)(dot - name), dot + 1);
    if (option == NULL) {
        return refuse(ret_message, message_bytes, "%s: no such option", readable(name, shown));
    }
    return assign(config, option, value, ret_message, message_bytes);
}

int32_t config_cpu_level(const char *name)
{
    static const char *const names[] = {"scalar", "avx2", "avx512",
                                        "amx"}; /* as kernels/cpu has them */
    for (int32_t i = 0; i < 4; i++) {
        if (strcmp(names[i], name) == 0)
            return i;
    }
    return strcmp(name, "auto") == 0 ? -1 : -2;
}

/* A library is told of so many devices. */
static int check_replicas(const struct daemon_config *config, char *message, size_t bytes)
{
    uint32_t replicas = config->engine.replicas, ranks = config->engine.ranks;
    if (replicas * ranks <= CONFIG_DEVICES_MAX)
        return 0;
    return refuse(message, bytes, "[engine] replicas = %u: accepted 1 to %u with ranks = %u",
                  replicas, CONFIG_DEVICES_MAX / ranks, ranks);
}

/* Roles with a GPU apart. Which numbers are taken and which exist, the engine says. */
static int check_devices(const struct daemon_config *config, char *message, size_t bytes)
{
    const struct {
        const char *role;
        const char *directory;
        uint32_t device;
    } roles[] = {{"reward", config->engine.reward, config->engine.reward_device},
                 {"embed", config->engine.embed, config->engine.embed_device}};
    for (uint32_t i = 0; i < sizeof roles / sizeof roles[0]; i++) {
        if (roles[i].device == CONFIG_NONE)
            continue;
        if (roles[i].directory[0] == '\0')
            return refuse(message, bytes, "[engine] %s_device = %u: accepted only with %s, a model",
                          roles[i].role, roles[i].device, roles[i].role);
        if (config->engine.replicas > 1)
            return refuse(message, bytes,
                          "[engine] %s_device = %u with replicas = %u: accepted nothing, each "
                          "replica has its own models on its own GPUs",
                          roles[i].role, roles[i].device, config->engine.replicas);
        if (strcmp(config->engine.backend, "cpu") == 0)
            return refuse(message, bytes,
                          "[engine] %s_device = %u with backend = cpu: accepted nothing",
                          roles[i].role, roles[i].device);
    }
    return 0;
}

int config_check(const struct daemon_config *config, char *ret_message, size_t message_bytes)
{
    if (config->limits.prompt_bytes > config->prompt_pool_bytes) {
        return refuse(ret_message, message_bytes,
                      "[limits] prompt_bytes = %llu: accepted at most [daemon] prompt_pool_bytes, "
                      "which is %llu",
                      (unsigned long long)config->limits.prompt_bytes,
                      (unsigned long long)config->prompt_pool_bytes);
    }
    if (strcmp(config->engine.backend, "auto") != 0 && strcmp(config->engine.backend, "cpu") != 0 &&
        strcmp(config->engine.backend, "cuda") != 0) {
        return refuse(ret_message, message_bytes,
                      "[engine] backend = %s: accepted auto, cpu or cuda", config->engine.backend);
    }
    if (config_cpu_level(config->engine.cpu_level) == -2) {
        return refuse(ret_message, message_bytes,
                      "[engine] cpu_level = %s: accepted auto, scalar, avx2, avx512 or amx",
                      config->engine.cpu_level);
    }
    if (config->engine.ranks == 3) {
        return refuse(ret_message, message_bytes, "[engine] ranks = 3: accepted 1, 2 or 4");
    }
    if (check_replicas(config, ret_message, message_bytes) < 0 ||
        check_devices(config, ret_message, message_bytes) < 0) {
        return -EINVAL;
    }
    if (config->engine.simulate && config->engine.policy[0] != '\0') {
        return refuse(ret_message, message_bytes,
                      "[engine] simulate = 1 with policy = %.200s: accepted one of the two",
                      config->engine.policy);
    }
    if (strcmp(config->socket_path, config->control_path) == 0) {
        return refuse(ret_message, message_bytes,
                      "[daemon] control_path = %s: accepted a path other than that of socket_path",
                      config->control_path);
    }
    return 0;
}

/* ---- the file ---------------------------------------------------------------------------------- */

struct config_parse {
    struct daemon_config config; /* what the file says so far; nobody else sees it */
    FILE *file;
    const char *path;
    char *message;
    size_t message_bytes;
    uint64_t seen; /* a bit for each option */
    uint32_t line; /* the one inih has now, from 1 */
    uint32_t bytes;
    uint32_t failed_line; /* 0: none */
};

__attribute__((format(printf, 2, 3))) static void fail(struct config_parse *parse,
                                                       const char *format, ...)
{
    char what[CONFIG_MESSAGE_BYTES];
    if (parse->failed_line != 0) {
        return; /* the first one is reported */
    }
    va_list args;
    va_start(args, format);
    int n = vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    parse->failed_line = parse->line;
    refuse(parse->message, parse->message_bytes, "%s:%u: %s", parse->path, (unsigned)parse->line,
           n < 0 ? "" : what);
}

/* inih tells of a section only when a key follows; a misspelt one must not pass for that. */
static void check_section_line(struct config_parse *parse, const char *line)
{
    char shown[64];
    const char *end = strchr(line, ']');
    if (end == NULL) {
        fail(parse, "%s: accepted [section] or key = value", readable(line, shown));
        return;
    }
    size_t length = (size_t)(end - line) - 1;
    const char *rest = end + 1 + strspn(end + 1, " \t");
    if (!section_known(line + 1, length)) {
        fail(
            parse,
            "%s: accepted sections are [daemon], [limits], [quota], [engine], [profiles] and [log]",
            readable(line, shown));
    } else if (*rest != '\0' && *rest != ';' && *rest != '#') {
        fail(parse, "%s: nothing may follow the section's name", readable(line, shown));
    }
}

/* One line a call, without leading spaces: inih would read an indented line as the continuation of
 * the value before it. Its own limit silently splits long lines, so they are refused here, except
 * for comments. */
static char *read_line(char *line, int capacity, void *stream)
{
    struct config_parse *parse = stream;
    size_t max = (size_t)capacity - 2; /* "\n" and the terminator */
    size_t length = 0;
    bool cut = false;
    int c = parse->failed_line != 0 ? EOF : getc(parse->file);
    if (c == EOF) {
        return NULL;
    }
    parse->line++;
    for (; c != EOF && c != '\n'; c = getc(parse->file)) {
        if (c == '\0' || ++parse->bytes > CONFIG_FILE_BYTES_MAX) {
            fail(parse, c == '\0' ? "a zero byte: accepted text only" : "accepted at most 1 MiB");
            return NULL;
        }
        if (length == 0 && (c == ' ' || c == '\t' || c == '\r')) {
            continue;
        }
        if (length < max) {
            line[length++] = (char)c;
        } else {
            cut = true;
        }
    }
    while (length > 0 && line[length - 1] == '\r') {
        length--;
    }
    line[length] = '\0';
    if (length > 0 && (line[0] == '#' || line[0] == ';')) {
        length = 1;
    } else if (cut) {
        fail(parse, "accepted lines of at most %zu characters", max);
        return NULL;
    } else if (line[0] == '[') {
        check_section_line(parse, line);
    }
    line[length] = '\n';
    line[length + 1] = '\0';
    return line;
}

static int take_value(void *user, const char *section, const char *name, const char *value)
{
    struct config_parse *parse = user;
    char shown[64];
    char message[CONFIG_MESSAGE_BYTES];
    readable(name, shown);
    if (section[0] == '\0') {
        fail(parse, "%s: accepted only below a [section]", shown);
        return 0;
    }
    const struct config_option *option = find_option(section, strlen(section), name);
    if (option == NULL) {
        fail(parse, "[%.32s] %s: no such option", section, shown);
        return 0;
    }
    uint64_t bit = 1ull << (option - options);
    if ((parse->seen & bit) != 0) {
        fail(parse, "[%s] %s: accepted once, stands here again", section, shown);
        return 0;
    }
    parse->seen |= bit;
    if (assign(&parse->config, option, value, message, sizeof(message)) < 0) {
        fail(parse, "%s", message);
        return 0;
    }
    return 1;
}

int config_load(struct daemon_config *config, const char *path, char *ret_message,
                size_t message_bytes)
{
    struct config_parse parse = {
        .config = *config,
        .path = path,
        .message = ret_message,
        .message_bytes = message_bytes,
    };
    parse.file = fopen(path, "re");
    if (parse.file == NULL) {
        int r = -errno;
        refuse(ret_message, message_bytes, "%s: open: %s", path, strerror(-r));
        return r;
    }
    errno = 0;
    int first = ini_parse_stream(read_line, &parse, take_value, &parse);
    int r = ferror(parse.file) ? (errno != 0 ? -errno : -EIO) : 0;
    (void)fclose(parse.file);
    if (r < 0) {
        refuse(ret_message, message_bytes, "%s: read: %s", path, strerror(-r));
        return r;
    }
    /* inih goes on after a line it cannot read; the first fault of the file is the one to name. */
    if (first > 0 && (parse.failed_line == 0 || (uint32_t)first < parse.failed_line)) {
        return refuse(ret_message, message_bytes, "%s:%d: accepted [section] or key = value", path,
                      first);
    }
    if (parse.failed_line != 0) {
        return -EINVAL;
    }
    *config = parse.config;
    return 0;
}

/* ---- printing ---------------------------------------------------------------------------------- */

static void print_range(FILE *file, const struct config_option *option)
{
    unsigned long long min = option->min;
    unsigned long long max = option->max;
    switch (option->type) {
    case CONFIG_POWER_OF_TWO:
        fprintf(file, "a power of two, %llu to %llu %s", min, max, option->unit);
        break;
    case CONFIG_MODE:
        fprintf(file, "%04llo to %04llo", min, max);
        break;
    case CONFIG_LEVEL:
        fprintf(file, "error, warn, info or debug");
        break;
    case CONFIG_PATH_NAME:
        fprintf(file, "an absolute path");
        break;
    case CONFIG_DIRECTORY:
        fprintf(file, "an absolute path, or nothing");
        break;
    case CONFIG_SWITCH:
        fprintf(file, "0 or 1");
        break;
    case CONFIG_GROUP_NAME:
        fprintf(file, "a name");
        break;
    case CONFIG_U32:
    case CONFIG_U32_OR_NONE:
    case CONFIG_U64:
        fprintf(file, "%llu to %llu%s%s%s", min, max, option->unit[0] != '\0' ? " " : "",
                option->unit, option->type == CONFIG_U32_OR_NONE ? ", or nothing" : "");
        break;
    }
}

static void print_value(FILE *file, const struct config_option *option,
                        const struct daemon_config *config)
{
    const char *field = (const char *)config + option->offset;
    uint64_t number = 0;
    uint32_t small = 0;
    if (is_text(option)) {
        fprintf(file, "%s%s", field[0] != '\0' ? " " : "", field);
        return;
    }
    if (option->type == CONFIG_U64 || option->type == CONFIG_POWER_OF_TWO) {
        memcpy(&number, field, sizeof(number));
        fprintf(file, " %llu", (unsigned long long)number);
        return;
    }
    memcpy(&small, field, sizeof(small));
    if (option->type == CONFIG_MODE) {
        fprintf(file, " %04o", (unsigned)small);
    } else if (option->type == CONFIG_U32_OR_NONE && small == CONFIG_NONE) {
        return;
    } else if (option->type == CONFIG_LEVEL) {
        fprintf(file, " %s", log_level_name((enum log_level)small));
    } else {
        fprintf(file, " %u", (unsigned)small);
    }
}

void config_print(FILE *file, const struct daemon_config *config)
{
    const char *section = "";
    fprintf(file, "# Configuration of dynasord; see dynasord.conf(5).\n");
    for (uint32_t i = 0; i < OPTIONS_COUNT; i++) {
        const struct config_option *option = &options[i];
        if (strcmp(section, option->section) != 0) {
            section = option->section;
            fprintf(file, "\n[%s]\n", section);
        }
        fprintf(file, "\n# %s\n# accepted: ", option->help);
        print_range(file, option);
        const char *initial = option->initial[0] != '\0' ? option->initial : "empty";
        fprintf(file, "; default: %s\n%s =", initial, option->key);
        print_value(file, option, config);
        fprintf(file, "\n");
    }
}
