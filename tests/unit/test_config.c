/* The configuration: every option at the edges of its range, unknown and repeated names, printing and
 * reading back, and that a file with anything wrong changes not one byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/config.h"
#include "tests/lib/check.h"

#define RANDOM_FILES 1000

static char path[300];
static char message[CONFIG_MESSAGE_BYTES];

static void write_bytes(const char *text, size_t bytes)
{
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

static int load(struct daemon_config *config, const char *text)
{
    message[0] = '\0';
    write_bytes(text, strlen(text));
    return config_load(config, path, message, sizeof(message));
}

static void expect_refused(const char *text, const char *line, const char *part)
{
    struct daemon_config config, before;
    char start[400];
    config_default(&config);
    config_default(&before);
    assert_int_equal(load(&config, text), -EINVAL);
    assert_memory_equal(&config, &before, sizeof(config));
    (void)snprintf(start, sizeof(start), "%s:%s: ", path, line);
    if (strncmp(message, start, strlen(start)) != 0 || strstr(message, part) == NULL) {
        fail_msg("`%s` gives `%s`, expected `%s...%s`", text, message, start, part);
    }
}

static uint64_t value_of(const struct daemon_config *config, const struct config_option *option)
{
    const char *field = (const char *)config + option->offset;
    if (option->type == CONFIG_U64 || option->type == CONFIG_POWER_OF_TWO) {
        uint64_t number;
        memcpy(&number, field, sizeof(number));
        return number;
    }
    uint32_t number;
    memcpy(&number, field, sizeof(number));
    return number;
}

static bool is_number(const struct config_option *option)
{
    return option->type == CONFIG_U32 || option->type == CONFIG_U32_OR_NONE ||
           option->type == CONFIG_U64 || option->type == CONFIG_POWER_OF_TWO ||
           option->type == CONFIG_MODE;
}

static void option_name(const struct config_option *option, char name[static 128])
{
    (void)snprintf(name, 128, "%s.%s", option->section, option->key);
}

static void set_accepted(const struct config_option *option, uint64_t value)
{
    struct daemon_config config;
    char name[128], text[32], file[256];
    config_default(&config);
    option_name(option, name);
    (void)snprintf(text, sizeof(text), option->type == CONFIG_MODE ? "%04llo" : "%llu",
                   (unsigned long long)value);
    if (config_set(&config, name, text, message, sizeof(message)) != 0) {
        fail_msg("%s = %s: %s", name, text, message);
    }
    assert_int_equal(value_of(&config, option), value);

    config_default(&config);
    (void)snprintf(file, sizeof(file), "[%s]\n%s = %s\n", option->section, option->key, text);
    assert_int_equal(load(&config, file), 0);
    assert_int_equal(value_of(&config, option), value);
}

static void set_refused(const struct config_option *option, const char *text)
{
    struct daemon_config config, before;
    char name[128], file[512];
    config_default(&config);
    config_default(&before);
    option_name(option, name);
    message[0] = '\0';
    if (config_set(&config, name, text, message, sizeof(message)) != -EINVAL) {
        fail_msg("%s = %s was not refused", name, text);
    }
    assert_memory_equal(&config, &before, sizeof(config));
    assert_non_null(strstr(message, option->section));
    assert_non_null(strstr(message, option->key));
    assert_non_null(strstr(message, "accepted "));
    (void)snprintf(file, sizeof(file), "[%s]\n%s = %s\n", option->section, option->key, text);
    expect_refused(file, "2", option->key);
}

static void set_refused_number(const struct config_option *option, uint64_t value)
{
    char text[32];
    (void)snprintf(text, sizeof(text), option->type == CONFIG_MODE ? "%llo" : "%llu",
                   (unsigned long long)value);
    set_refused(option, text);
}

static void config_range_edges(void **unused)
{
    (void)unused;
    static const char *const junk[] = {
        "", "-1", "+1", "1k", "0x10", "1 0", "1.0", "99999999999999999999999", "08", "ten"};
    uint32_t count = 0;
    const struct config_option *options = config_options(&count);
    for (uint32_t i = 0; i < count; i++) {
        const struct config_option *option = &options[i];
        if (!is_number(option)) {
            continue;
        }
        uint64_t above = option->type == CONFIG_POWER_OF_TWO ? option->max * 2 : option->max + 1;
        set_accepted(option, option->min);
        set_accepted(option, option->max);
        if (option->min > 0) {
            set_refused_number(option, option->min - 1);
        }
        if (option->max < UINT64_MAX) {
            set_refused_number(option, above);
        } else {
            set_refused(option, "18446744073709551616");
        }
        if (option->type == CONFIG_POWER_OF_TWO) {
            set_refused_number(option, option->min + 1);
            set_refused_number(option, option->min * 3);
        }
        for (size_t j = 0; j < COUNT_OF(junk); j++) {
            if (junk[j][0] != '\0' || option->type != CONFIG_U32_OR_NONE) {
                set_refused(option, junk[j]);
            }
        }
    }
}

/* The numbers that the documentation states; the table must not drift from them unseen. */
static void config_documented_ranges(void **unused)
{
    (void)unused;
    static const struct {
        const char *name;
        uint64_t min, max, initial;
    } expected[] = {
        {"daemon.socket_mode", 0, 0777, 0660},
        {"daemon.control_mode", 0, 0777, 0660},
        {"daemon.clients_max", 1, 4096, 1024},
        {"daemon.spin_max_us", 0, 50, 20},
        {"daemon.handshake_timeout_ms", 10, 60000, 2000},
        {"daemon.slow_consumer_grace_ms", 100, 3600000, 30000},
        {"daemon.prompt_pool_bytes", 1ull << 20, 64ull << 30, 256ull << 20},
        {"daemon.programs_max", 1, 1048576, 65536},
        {"limits.max_tokens", 1, 1048576, 1048576},
        {"limits.prompt_bytes", 64, 67108864, 8388608},
        {"quota.connections", 1, 4096, 64},
        {"quota.region_bytes", 1, 1ull << 40, 268435456},
        {"quota.programs", 1, 1048576, 1024},
        {"quota.queued_bytes", 1, 1ull << 40, 67108864},
        {"engine.step_tag", 0, 1048575, 0},
        {"engine.device", 0, 63, 0},
        {"engine.reward_device", 0, 63, CONFIG_NONE},
        {"engine.embed_device", 0, 63, CONFIG_NONE},
        {"engine.ranks", 1, 4, 1},
        {"engine.replicas", 1, 8, 1},
        {"engine.threads", 0, 1024, 0},
        {"engine.context_tokens", 0, 1048576, 0},
        {"engine.kv_bytes", 1048576, 1ull << 40, 1073741824},
        {"engine.batch_rows_max", 1, 4096, 256},
        {"engine.batch_tokens_max", 16, 16384, 512},
        {"engine.sim_step_ns", 0, 1000000000, 2000000},
        {"engine.sim_prefill_ns_per_token", 0, 1000000, 1000},
        {"log.programs_bytes", 1048576, 1ull << 40, 268435456},
    };
    struct daemon_config config;
    uint32_t count = 0, numbers = 0;
    const struct config_option *options = config_options(&count);
    config_default(&config);
    for (uint32_t i = 0; i < count; i++) {
        char name[128];
        if (!is_number(&options[i])) {
            continue;
        }
        option_name(&options[i], name);
        assert_true(numbers < COUNT_OF(expected));
        assert_string_equal(name, expected[numbers].name);
        assert_int_equal(options[i].min, expected[numbers].min);
        assert_int_equal(options[i].max, expected[numbers].max);
        assert_int_equal(value_of(&config, &options[i]), expected[numbers].initial);
        numbers++;
    }
    assert_int_equal(numbers, COUNT_OF(expected));
    assert_string_equal(config.socket_path, "/run/dynasor/dynasor.sock");
    assert_string_equal(config.control_path, "/run/dynasor/control.sock");
    assert_string_equal(config.socket_group, "");
    assert_string_equal(config.control_group, "");
    assert_int_equal(config.log_level, LOG_LEVEL_INFO);
}

static void config_texts(void **unused)
{
    (void)unused;
    struct daemon_config config;
    char text[200], name[128];
    uint32_t count = 0;
    const struct config_option *options = config_options(&count);
    for (uint32_t i = 0; i < count; i++) {
        const struct config_option *option = &options[i];
        if (option->type != CONFIG_PATH_NAME && option->type != CONFIG_GROUP_NAME) {
            continue;
        }
        option_name(option, name);
        memset(text, 'a', sizeof(text));
        text[0] = option->type == CONFIG_PATH_NAME ? '/' : 'a';
        text[option->max + 1] = '\0';
        set_refused(option, text);
        text[option->max] = '\0';
        config_default(&config);
        assert_int_equal(config_set(&config, name, text, message, sizeof(message)), 0);
        assert_string_equal((char *)&config + option->offset, text);
        set_refused(option, "a b");
        set_refused(option, "/a;b");
        set_refused(option, "/a\x01"
                            "b");
        set_refused(option, "/a\xc3\xa4");
        if (option->type == CONFIG_PATH_NAME) {
            set_refused(option, "");
            set_refused(option, "/");
            set_refused(option, "relative");
            set_refused(option, "/folder/");
        }
    }
    config_default(&config);
    assert_int_equal(load(&config, "[daemon]\nlog_level = debug\nsocket_group = dynasor\n"), 0);
    assert_int_equal(config.log_level, LOG_LEVEL_DEBUG);
    assert_string_equal(config.socket_group, "dynasor");
    assert_int_equal(load(&config, "[daemon]\nsocket_group =\n"), 0);
    assert_string_equal(config.socket_group, "");
    expect_refused("[daemon]\nlog_level = loud\n", "2", "accepted error, warn, info or debug");
}

static void config_refuses_by_name(void **unused)
{
    (void)unused;
    expect_refused("[quota]\nconnections = 0\n", "2",
                   "[quota] connections = 0: accepted 1 to 4096");
    expect_refused("\n\n[quota]\nconections = 1\n", "4", "[quota] conections: no such option");
    expect_refused("[qota]\nconnections = 1\n", "1", "[qota]");
    expect_refused("[engine]\n\n[empty]\n", "3", "[empty]");
    expect_refused("connections = 1\n", "1", "connections");
    expect_refused("[quota]\nclients_max = 1\n", "2", "[quota] clients_max: no such option");
    expect_refused("[quota]\nprograms = 3\nprograms = 3\n", "3", "[quota] programs");
    expect_refused("[quota]\nprograms = 3\n[limits]\n[quota]\nprograms = 4\n", "5", "programs");
    expect_refused("[quota]\nprograms\n", "2", "accepted [section] or key = value");
    expect_refused("[quota]\n\njunk\nprograms = 0\n", "3", "accepted [section] or key = value");
    expect_refused("[quota]\nprograms = 0\njunk\n", "2", "programs = 0");
    expect_refused("[quota\n", "1", "[quota");
    expect_refused("[quota] programs = 3\n", "1", "nothing may follow");
    expect_refused("[quota]\nprograms = 3 # many\n", "2", "programs");
    expect_refused("[quota]\n\x1b[2J = 3\n", "2", "?[2J");

    struct daemon_config config;
    config_default(&config);
    assert_int_equal(config_set(&config, "quota", "1", message, sizeof(message)), -EINVAL);
    assert_int_equal(config_set(&config, "quota.", "1", message, sizeof(message)), -EINVAL);
    assert_int_equal(config_set(&config, ".programs", "1", message, sizeof(message)), -EINVAL);
    assert_int_equal(config_set(&config, "quot.programs", "1", message, sizeof(message)), -EINVAL);
    assert_int_equal(config_set(&config, "quota.program", "1", message, sizeof(message)), -EINVAL);
    assert_string_equal(message, "quota.program: no such option");
}

static void config_file_forms(void **unused)
{
    (void)unused;
    struct daemon_config config;
    config_default(&config);
    assert_int_equal(load(&config, ""), 0);
    assert_int_equal(load(&config, "[quota]"), 0);
    assert_int_equal(load(&config, "\xef\xbb\xbf[quota]\r\n  programs=7 ; note\r\n\r\n"
                                   "\tconnections : 9\r\n[quota] ; again\n# x\n; y\n"),
                     0);
    assert_int_equal(config.quota.programs, 7);
    assert_int_equal(config.quota.connections, 9);
    assert_int_equal(load(&config, "[quota]\nprograms = 8"), 0);
    assert_int_equal(config.quota.programs, 8);
    assert_int_equal(config.quota.connections, 9); /* not named: as it was */
}

static void config_hostile_files(void **unused)
{
    (void)unused;
    struct daemon_config config, before;
    static char big[1 << 21];
    config_default(&config);
    config_default(&before);

    write_bytes("[quota]\nprograms = 1\0002\n", 23);
    assert_int_equal(config_load(&config, path, message, sizeof(message)), -EINVAL);
    assert_non_null(strstr(message, ":2: a zero byte"));

    memset(big, 'x', sizeof(big));
    write_bytes(big, 300);
    assert_int_equal(config_load(&config, path, message, sizeof(message)), -EINVAL);
    assert_non_null(strstr(message, "accepted lines of at most"));
    big[0] = '#';
    big[5000] = '\n';
    write_bytes(big, 5001); /* a comment may be long */
    assert_int_equal(config_load(&config, path, message, sizeof(message)), 0);
    memset(big, '\n', sizeof(big));
    memset(big, '#', sizeof(big) - 1);
    write_bytes(big, sizeof(big));
    assert_int_equal(config_load(&config, path, message, sizeof(message)), -EINVAL);
    assert_non_null(strstr(message, "1 MiB"));

    assert_int_equal(config_load(&config, "/nonexistent/x", message, sizeof(message)), -ENOENT);
    assert_string_equal(message, "/nonexistent/x: open: No such file or directory");
    assert_int_equal(config_load(&config, "/", message, sizeof(message)), -EISDIR);
    assert_int_equal(config_load(&config, "/dev/zero", message, sizeof(message)), -EINVAL);
    char tiny[8];
    assert_int_equal(config_load(&config, "/nonexistent/x", tiny, sizeof(tiny)), -ENOENT);
    assert_string_equal(tiny, "/nonexi");
    assert_int_equal(config_load(&config, "/nonexistent/x", NULL, 0), -ENOENT);
    assert_memory_equal(&config, &before, sizeof(config));
}

static void config_check_combinations(void **unused)
{
    (void)unused;
    struct daemon_config config;
    config_default(&config);
    assert_int_equal(config_check(&config, message, sizeof(message)), 0);
    config.prompt_pool_bytes = 1 << 20;
    assert_int_equal(config_check(&config, message, sizeof(message)), -EINVAL);
    assert_non_null(strstr(message, "[limits] prompt_bytes = 8388608: accepted at most"));
    config.limits.prompt_bytes = 1 << 20;
    assert_int_equal(config_check(&config, message, sizeof(message)), 0);
    (void)snprintf(config.control_path, sizeof(config.control_path), "%s", config.socket_path);
    assert_int_equal(config_check(&config, message, sizeof(message)), -EINVAL);
    assert_non_null(strstr(message, "[daemon] control_path = "));
}

static void expect_checked(const struct daemon_config *config, const char *wanted)
{
    message[0] = '\0';
    assert_int_equal(config_check(config, message, sizeof(message)), wanted ? -EINVAL : 0);
    if (wanted)
        assert_string_equal(message, wanted);
}

static void config_check_counts_the_devices_of_replicas(void **unused)
{
    (void)unused;
    struct daemon_config config;
    config_default(&config);
    assert_int_equal(config_set(&config, "engine.replicas", "9", message, sizeof(message)),
                     -EINVAL);
    assert_string_equal(message, "[engine] replicas = 9: accepted 1 to 8 replicas");
    config.engine.replicas = 8;
    expect_checked(&config, NULL);
    config.engine.ranks = 2;
    expect_checked(&config, "[engine] replicas = 8: accepted 1 to 4 with ranks = 2");
    config.engine.replicas = 4;
    expect_checked(&config, NULL);
    config.engine.ranks = 4;
    expect_checked(&config, "[engine] replicas = 4: accepted 1 to 2 with ranks = 4");
    config.engine.replicas = 2;
    expect_checked(&config, NULL);
    assert_int_equal(config_set(&config, "engine.reward", "/models/r", message, sizeof(message)),
                     0);
    expect_checked(&config, NULL);
    config.engine.reward_device = 0;
    expect_checked(&config, "[engine] reward_device = 0 with replicas = 2: accepted nothing, each "
                            "replica has its own models on its own GPUs");
    config.engine.replicas = 1;
    expect_checked(&config, NULL);
}

static void config_check_holds_devices_to_their_roles(void **unused)
{
    (void)unused;
    struct daemon_config config;
    config_default(&config);
    assert_int_equal(config.engine.reward_device, CONFIG_NONE);
    assert_int_equal(config_set(&config, "engine.embed_device", "64", message, sizeof(message)),
                     -EINVAL);
    assert_string_equal(message, "[engine] embed_device = 64: accepted nothing, or 0 to 63");
    assert_int_equal(config_set(&config, "engine.reward_device", "1", message, sizeof(message)), 0);
    assert_int_equal(config_check(&config, message, sizeof(message)), -EINVAL);
    assert_string_equal(message, "[engine] reward_device = 1: accepted only with reward, a model");
    assert_int_equal(config_set(&config, "engine.reward", "/models/r", message, sizeof(message)),
                     0);
    assert_int_equal(config_check(&config, message, sizeof(message)), 0);
    assert_int_equal(config_set(&config, "engine.backend", "cpu", message, sizeof(message)), 0);
    assert_int_equal(config_check(&config, message, sizeof(message)), -EINVAL);
    assert_string_equal(message, "[engine] reward_device = 1 with backend = cpu: accepted nothing");
    assert_int_equal(config_set(&config, "engine.reward_device", "", message, sizeof(message)), 0);
    assert_int_equal(config_check(&config, message, sizeof(message)), 0);
}

/* ---- properties -------------------------------------------------------------------------------- */

/* A valid value for the option, at random. */
static void random_value(struct rng *rng, const struct config_option *option, char text[static 160])
{
    static const char letters[] = "abcXYZ019_-.";
    uint64_t span = option->max - option->min;
    uint64_t number = option->min + (span == UINT64_MAX ? rng_next(rng) : rng_below(rng, span + 1));
    size_t length = 0;
    switch (option->type) {
    case CONFIG_U32:
    case CONFIG_U64:
        (void)snprintf(text, 160, "%llu", (unsigned long long)number);
        break;
    case CONFIG_U32_OR_NONE:
        text[0] = '\0';
        if (rng_below(rng, 2))
            (void)snprintf(text, 160, "%llu", (unsigned long long)number);
        break;
    case CONFIG_POWER_OF_TWO:
        number = 1ull << (20 + rng_below(rng, 17));
        (void)snprintf(text, 160, "%llu", (unsigned long long)number);
        break;
    case CONFIG_MODE:
        (void)snprintf(text, 160, "%llo", (unsigned long long)number);
        break;
    case CONFIG_LEVEL:
        (void)snprintf(text, 160, "%s", log_level_name((enum log_level)number));
        break;
    case CONFIG_SWITCH:
        (void)snprintf(text, 160, "%llu", (unsigned long long)number);
        break;
    case CONFIG_DIRECTORY:
    case CONFIG_PATH_NAME:
    case CONFIG_GROUP_NAME:
        length = (size_t)number < 159 ? (size_t)number : 159;
        for (size_t i = 0; i < length; i++) {
            text[i] = letters[rng_below(rng, sizeof(letters) - 1)];
        }
        text[length] = '\0';
        if (length > 0 && option->type != CONFIG_GROUP_NAME) {
            text[0] = '/';
        }
        break;
    }
}

static void random_config(struct rng *rng, struct daemon_config *config)
{
    uint32_t count = 0;
    const struct config_option *options = config_options(&count);
    config_default(config);
    for (uint32_t i = 0; i < count; i++) {
        char name[128], text[160];
        option_name(&options[i], name);
        random_value(rng, &options[i], text);
        if (config_set(config, name, text, message, sizeof(message)) != 0) {
            fail_msg("%s", message);
        }
    }
}

static size_t print_to(char *text, size_t bytes, const struct daemon_config *config)
{
    memset(text, 0, bytes);
    FILE *file = fmemopen(text, bytes, "w");
    assert_non_null(file);
    config_print(file, config);
    assert_int_equal(fclose(file), 0);
    assert_true(strlen(text) < bytes - 1);
    return strlen(text);
}

static void config_print_round_trips(void **unused)
{
    (void)unused;
    struct rng rng = {check_number("SEED", 7)};
    static char text[65536];
    for (int i = 0; i < 300; i++) {
        struct daemon_config written, read;
        random_config(&rng, &written);
        print_to(text, sizeof(text), &written);
        config_default(&read);
        if (load(&read, text) != 0) {
            fail_msg("%s", message);
        }
        assert_memory_equal(&read, &written, sizeof(read));
    }
}

/* A printed file with some bytes changed, lines dropped, doubled or cut short: it either loads whole
 * or changes nothing. Printing what has been loaded must load again. */
static void config_all_or_nothing(void **unused)
{
    (void)unused;
    uint64_t seed = check_number("SEED", 20240117);
    struct rng rng = {seed};
    static char text[65536], again[65536];
    uint32_t refused = 0, accepted = 0;
    printf("SEED=%llu\n", (unsigned long long)seed);
    while (refused < RANDOM_FILES) {
        struct daemon_config source, config, before;
        random_config(&rng, &source);
        size_t length = print_to(text, sizeof(text), &source);
        uint64_t edits = 1 + rng_below(&rng, 4);
        for (uint64_t i = 0; i < edits; i++) {
            size_t at = (size_t)rng_below(&rng, length);
            switch (rng_below(&rng, 4)) {
            case 0:
                text[at] = (char)rng_next(&rng);
                break;
            case 1:
                text[at] = "0123456789[]=;# \n\0"[rng_below(&rng, 18)];
                break;
            case 2:
                length = at + 1;
                break;
            default:
                memmove(text + at / 2, text + at, length - at);
                length -= at - at / 2;
                break;
            }
        }
        write_bytes(text, length);
        random_config(&rng, &config);
        before = config;
        message[0] = '\0';
        if (config_load(&config, path, message, sizeof(message)) == 0) {
            accepted++;
            struct daemon_config read;
            print_to(again, sizeof(again), &config);
            config_default(&read);
            assert_int_equal(load(&read, again), 0);
            assert_memory_equal(&read, &config, sizeof(read));
        } else {
            refused++;
            assert_memory_equal(&config, &before, sizeof(config));
            assert_true(strncmp(message, path, strlen(path)) == 0);
            for (const char *c = message; *c != '\0'; c++) {
                assert_true((unsigned char)*c >= 0x20 && (unsigned char)*c < 0x7f);
            }
        }
    }
    printf("%u refused, %u accepted\n", refused, accepted);
    assert_true(accepted > 0);
}

/* The file that is installed says what the table says. */
static void config_shipped_file(void **unused)
{
    (void)unused;
    static char text[65536], shipped[65536];
    struct daemon_config config;
    config_default(&config);
    size_t length = print_to(text, sizeof(text), &config);
    FILE *file = fopen("systemd/dynasord.conf", "re");
    if (file == NULL) {
        skip(); /* not started in the root of the tree */
    }
    assert_int_equal(fread(shipped, 1, sizeof(shipped), file), length);
    assert_memory_equal(shipped, text, length);
    (void)fclose(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(config_range_edges),
        cmocka_unit_test(config_documented_ranges),
        cmocka_unit_test(config_texts),
        cmocka_unit_test(config_refuses_by_name),
        cmocka_unit_test(config_file_forms),
        cmocka_unit_test(config_hostile_files),
        cmocka_unit_test(config_check_combinations),
        cmocka_unit_test(config_check_holds_devices_to_their_roles),
        cmocka_unit_test(config_check_counts_the_devices_of_replicas),
        cmocka_unit_test(config_print_round_trips),
        cmocka_unit_test(config_all_or_nothing),
        cmocka_unit_test(config_shipped_file),
    };
    const char *folder = getenv("TMPDIR");
    (void)snprintf(path, sizeof(path), "%s/config-XXXXXX", folder != NULL ? folder : "/tmp");
    int fd = mkstemp(path);
    CHECK(fd >= 0, "%s: %s", path, strerror(errno));
    (void)close(fd);
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    (void)unlink(path);
    return r;
}
