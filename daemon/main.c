/* daemon/main.c — dynasord: arguments and configuration in, exit code out. */
#include <argp.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "daemon/base/log.h"
#include "daemon/base/notify.h"
#include "daemon/daemon.h"

#define INHERITED_MAX 16512u /* 4 descriptors of 4,096 clients, two listeners, and some junk */
#define SETS_MAX 64

const char *argp_program_version = "dynasord " DYNASOR_VERSION_TEXT;

struct arguments {
    const char *config_path; /* NULL: none given */
    const char *sets[SETS_MAX];
    int sets_count;
    const char *models[3]; /* --policy, --reward, --embed */
    bool simulate;
    bool check;
    bool print;
};

enum { KEY_SET = 256, KEY_CHECK, KEY_PRINT, KEY_SIMULATE, KEY_MODEL };

static const char *const model_options[3] = {"engine.policy", "engine.reward", "engine.embed"};

static const struct argp_option options[] = {
    {"config", 'c', "FILE", 0, "Read this file (default " CONFIG_PATH " if it exists)", 0},
    {"set", KEY_SET, "SECTION.KEY=VALUE", 0, "Set one option; after the file, may be repeated", 0},
    {"policy", KEY_MODEL, "DIR", 0, "Serve the model in this Hugging Face directory", 0},
    {"reward", KEY_MODEL + 1, "DIR", 0, "Score steps with the model in this directory", 0},
    {"embed", KEY_MODEL + 2, "DIR", 0, "Embed texts with the model in this directory", 0},
    {"simulate", KEY_SIMULATE, NULL, 0, "No model: answer with random words, for trying out", 0},
    {"check", KEY_CHECK, NULL, 0, "Check the configuration and exit", 0},
    {"print-config", KEY_PRINT, NULL, 0, "Print the configuration in force and exit", 0},
    {0},
};

static error_t parse(int key, char *value, struct argp_state *state)
{
    struct arguments *a = state->input;
    switch (key) {
    case 'c':
        a->config_path = value;
        return 0;
    case KEY_SET:
        if (a->sets_count == SETS_MAX)
            argp_error(state, "--set: at most %d times", SETS_MAX);
        a->sets[a->sets_count++] = value;
        return 0;
    case KEY_MODEL:
    case KEY_MODEL + 1:
    case KEY_MODEL + 2:
        a->models[key - KEY_MODEL] = value;
        return 0;
    case KEY_SIMULATE:
        a->simulate = true;
        return 0;
    case KEY_CHECK:
        a->check = true;
        return 0;
    case KEY_PRINT:
        a->print = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static int set_option(struct daemon_config *config, const char *set, char *message, size_t bytes)
{
    char name[128];
    const char *equals = strchr(set, '=');
    if (!equals || (size_t)(equals - set) >= sizeof name) {
        (void)snprintf(message, bytes, "--set %s: expected SECTION.KEY=VALUE", set);
        return -EINVAL;
    }
    memcpy(name, set, (size_t)(equals - set));
    name[equals - set] = '\0';
    return config_set(config, name, equals + 1, message, bytes);
}

/* As typed it is relative to where the daemon was started. */
static int set_model(struct daemon_config *config, const char *option, const char *directory,
                     char *message, size_t bytes)
{
    char *absolute = realpath(directory, NULL);
    if (!absolute) {
        int r = -errno;
        (void)snprintf(message, bytes, "--%s %s: %s", strchr(option, '.') + 1, directory,
                       strerror(-r));
        return r;
    }
    int r = config_set(config, option, absolute, message, bytes);
    free(absolute);
    return r;
}

static int configure(struct daemon_config *config, const struct arguments *a, char *message,
                     size_t bytes)
{
    config_default(config);
    const char *path = a->config_path ? a->config_path : CONFIG_PATH;
    int r = config_load(config, path, message, bytes);
    if (r == -ENOENT && !a->config_path)
        r = 0; /* no file: the defaults */
    for (int i = 0; i < a->sets_count && r == 0; i++)
        r = set_option(config, a->sets[i], message, bytes);
    for (int i = 0; i < 3 && r == 0; i++)
        if (a->models[i])
            r = set_model(config, model_options[i], a->models[i], message, bytes);
    if (r == 0 && a->simulate)
        r = config_set(config, "engine.simulate", "1", message, bytes);
    return r < 0 ? r : config_check(config, message, bytes);
}

/* In a user namespace that maps uids, strangers look like one uid: quotas and rights would be wrong. */
static bool uids_are_real(void)
{
    unsigned inside, outside, count;
    FILE *map = fopen("/proc/self/uid_map", "re");
    bool real = map && fscanf(map, "%u %u %u", &inside, &outside, &count) == 3 && inside == 0 &&
                outside == 0 && count == UINT32_MAX;
    if (map)
        (void)fclose(map); /* only read */
    return real;
}

static int inherited_read(struct ipc_fd *fds, struct notify_fd *raw, uint32_t *count)
{
    int r = notify_listen_fds(raw, INHERITED_MAX, count);
    for (uint32_t i = 0; i < *count; i++)
        fds[i] = (struct ipc_fd){.fd = raw[i].fd, .name = raw[i].name};
    return r;
}

static int serve(const struct daemon_config *config)
{
    char message[CONFIG_MESSAGE_BYTES] = "";
    static struct notify_fd raw[INHERITED_MAX];
    static struct ipc_fd inherited[INHERITED_MAX];
    uint32_t inherited_count;
    struct daemon *daemon;
    if (!uids_are_real()) {
        log_error("/proc/self/uid_map is not the identity: clients' uids cannot be told apart "
                  "(PrivateUsers=yes, or a container with its own uids)");
        return EX_CONFIG;
    }
    int r = notify_open();
    if (r == 0)
        r = inherited_read(inherited, raw, &inherited_count);
    if (r < 0) {
        log_error("descriptors of the service manager: %s", strerror(-r));
        return EX_OSERR;
    }
    r = daemon_new(config, inherited, inherited_count, &daemon, message, sizeof message);
    if (r != 0)
        log_error("%s", message);
    if (r < 0)
        return r == -EADDRINUSE ? EX_UNAVAILABLE : r == -EINVAL ? EX_CONFIG : EX_OSERR;
    if (r == 0)
        r = daemon_run(daemon);
    if (r == 0)
        r = daemon_free(daemon);
    if (r == DAEMON_E_BROKE) { /* what hangs would keep us in whatever gives its memory back */
        log_flush();
        _exit(EX_IOERR);
    }
    log_flush();
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    static const struct argp argp = {
        options, parse, NULL, "dynasord - serves reasoning programs over shared memory",
        NULL,    NULL,  NULL};
    struct arguments arguments = {0};
    struct daemon_config config;
    char message[CONFIG_MESSAGE_BYTES] = "";
    (void)argp_parse(&argp, argc, argv, 0, NULL, &arguments); /* exits by itself on errors */
    (void)signal(SIGPIPE, SIG_IGN); /* a closed stderr is no reason to stop serving */
    log_open(2, getenv("JOURNAL_STREAM") != NULL);
    if (configure(&config, &arguments, message, sizeof message) < 0) {
        log_error("%s", message);
        return EX_CONFIG;
    }
    log_set_level(config.log_level);
    if (arguments.print)
        config_print(stdout, &config);
    if (arguments.print || arguments.check)
        return EXIT_SUCCESS;
    return serve(&config);
}
