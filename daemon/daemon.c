#include "daemon/daemon.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/base/assert.h"
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/notify.h"
#include "daemon/engine/engine.h"
#include "daemon/program/livelog.h"
#include "daemon/program/program.h"
#include "daemon/sched/sched.h"
#include "daemon/text/chat.h"
#include "daemon/text/codec.h"
#include "kernels/cuda/backend.h"
#include "shm/atomic.h"
#include "shm/spin.h"

#define KEEPERS_MAX 4u /* 4,096 clients / KEEPER_NODES_MAX */
#define THREAD_STACK_BYTES 262144u
#define BRANCHES_MAX 16384u       /* of all programs together */
#define SEQS_PER_ROW 4u           /* branches with KV pages for each row of a step */
#define EMBED_TEXTS_MAX 1024u     /* that wait for their vectors with the embed model */
#define SIM_TOKENS_MAX (1u << 30) /* the simulated engine has no chunks: its time is the work */

_Static_assert(CONFIG_REPLICAS_MAX == RUNS_REPLICAS_MAX, "one number");
_Static_assert(CONFIG_DEVICES_MAX == CUDA_RANKS_MAX, "one number");

struct daemon {
    struct daemon_config config;
    struct codec *codec;                         /* NULL: bytes, with the simulated engine */
    struct engine *engines[CONFIG_REPLICAS_MAX]; /* of replicas, like the next */
    struct runs_replica scheds[CONFIG_REPLICAS_MAX];
    struct codec *embed_codec; /* NULL: no embed model, like the next */
    struct embed *embed;
    struct programs *programs;
    struct ipc *ipc;
    struct spin spin;
    uint64_t spin_ns;       /* budget of this rest */
    uint64_t idle_since_ns; /* 0: the last turn did something */
    uint64_t watchdog_ns;   /* next ping */
    pthread_t keepers[KEEPERS_MAX];
    uint32_t keepers_count;
    pthread_t text_worker;
    bool text_worker_runs;
    struct livelog *log; /* NULL: none */
    pthread_t log_worker;
    bool log_worker_runs;
};

struct keeper_start {
    struct ipc *ipc;
    uint32_t keeper;
};

static void *keeper_main(void *argument)
{
    struct keeper_start start = *(struct keeper_start *)argument;
    free(argument);
    ipc_keeper_run(start.ipc, start.keeper);
    return NULL;
}

static void *text_main(void *programs)
{
    programs_text_run(programs);
    return NULL;
}

static void *log_main(void *log)
{
    livelog_run(log);
    return NULL;
}

static int keepers_start(struct daemon *d, const pthread_attr_t *attr)
{
    ASSERT(ipc_keepers_count(d->ipc) <= KEEPERS_MAX);
    int r = 0;
    for (uint32_t i = 0; i < ipc_keepers_count(d->ipc) && r == 0; i++) {
        struct keeper_start *start = malloc(sizeof *start);
        if (!start)
            return ENOMEM;
        *start = (struct keeper_start){.ipc = d->ipc, .keeper = i};
        r = pthread_create(&d->keepers[i], attr, keeper_main, start);
        if (r == 0)
            d->keepers_count++;
        else
            free(start);
    }
    return r;
}

static int threads_start(struct daemon *d)
{
    pthread_attr_t attr;
    int r = pthread_attr_init(&attr);
    if (r == 0)
        r = pthread_attr_setstacksize(&attr, THREAD_STACK_BYTES);
    if (r == 0)
        r = keepers_start(d, &attr);
    if (r == 0) {
        r = pthread_create(&d->text_worker, &attr, text_main, d->programs);
        d->text_worker_runs = r == 0;
    }
    if (r == 0 && d->log) {
        r = pthread_create(&d->log_worker, &attr, log_main, d->log);
        d->log_worker_runs = r == 0;
    }
    (void)pthread_attr_destroy(&attr); /* frees nothing that could fail */
    return -r;
}

static struct ipc_config ipc_config_of(const struct daemon_config *c, uint32_t vocabulary_count)
{
    return (struct ipc_config){
        .socket_path = c->socket_path,
        .control_path = c->control_path,
        .socket_group = c->socket_group,
        .control_group = c->control_group,
        .socket_mode = c->socket_mode,
        .control_mode = c->control_mode,
        .clients_max = c->clients_max,
        .programs_max = c->programs_max,
        .vocabulary_count = vocabulary_count,
        .max_tokens = c->limits.max_tokens,
        .handshake_timeout_ms = c->handshake_timeout_ms,
        .slow_consumer_grace_ms = c->slow_consumer_grace_ms,
        .prompt_bytes = c->limits.prompt_bytes,
        .prompt_pool_bytes = c->prompt_pool_bytes,
        .quota = {c->quota.connections, c->quota.region_bytes, c->quota.programs,
                  c->quota.queued_bytes},
        .version = DYNASOR_VERSION_TEXT,
    };
}

/* "" means none. */
static const char *directory_of(const char *option)
{
    return option[0] == '\0' ? NULL : option;
}

/* config_check() lets no other name pass. */
static enum engine_backend backend_of(const char *option)
{
    return strcmp(option, "cuda") == 0  ? ENGINE_BACKEND_CUDA
           : strcmp(option, "cpu") == 0 ? ENGINE_BACKEND_CPU
                                        : ENGINE_BACKEND_AUTO;
}

/* Models and tokenizers, as far as files say. */
static int codecs_open(struct daemon *d, char why[ENGINE_MESSAGE_BYTES])
{
    const struct daemon_config *c = &d->config;
    int r = codec_open(c->engine.policy, why, &d->codec);
    if (r == 0 && c->engine.reward[0] != '\0') /* it gets the policy's ids */
        r = codec_check_reader(d->codec, c->engine.reward, why);
    if (r == 0 && c->engine.embed[0] != '\0')
        r = codec_open(c->engine.embed, why, &d->embed_codec);
    if (r == 0 && c->engine.chat[0] != '\0')
        r = codec_set_chat(d->codec, c->engine.chat, why);
    return r;
}

/* One encoder does: it reads answers, a few words each. */
static int replica_open(struct daemon *d, uint32_t replica, char why[ENGINE_MESSAGE_BYTES])
{
    const struct daemon_config *c = &d->config;
    const char *embed = replica == 0 ? directory_of(c->engine.embed) : NULL;
    return engine_open(
        &(struct engine_config){
            .directory = {directory_of(c->engine.policy), directory_of(c->engine.reward), embed},
            .simulate = c->engine.simulate,
            .float32 = c->engine.float32,
            .backend = backend_of(c->engine.backend),
            .device = c->engine.device,
            .role_device = {0, 1 + c->engine.reward_device, 1 + c->engine.embed_device},
            .lock_directory = c->engine.lock_directory,
            .ranks_count = c->engine.ranks,
            .replicas_count = c->engine.replicas,
            .replica = replica,
            .first = d->engines[0],
            .threads_count = c->engine.threads,
            .cpu_level = config_cpu_level(c->engine.cpu_level),
            .rows_max = c->engine.batch_rows_max,
            .tokens_max = c->engine.simulate ? SIM_TOKENS_MAX : c->engine.batch_tokens_max,
            .context_tokens = c->engine.context_tokens,
            .kv_bytes = c->engine.kv_bytes,
            .dot_layer = -1,
            .sim_step_ns = c->engine.sim_step_ns,
            .sim_prefill_ns_per_token = c->engine.sim_prefill_ns_per_token,
        },
        why, &d->engines[replica]);
}

static int engines_open(struct daemon *d, char *message, size_t message_bytes)
{
    const struct daemon_config *c = &d->config;
    char why[ENGINE_MESSAGE_BYTES] = "";
    uint32_t replica = 0;
    if (!c->engine.simulate && c->engine.policy[0] == '\0') {
        (void)snprintf(message, message_bytes,
                       "no model: give --policy DIR ([engine] policy), or --simulate");
        return -EINVAL;
    }
    int r = c->engine.simulate ? 0 : codecs_open(d, why);
    for (; replica < c->engine.replicas && r == 0; replica++)
        r = replica_open(d, replica, why);
    if (r != 0 && replica > 1)
        (void)snprintf(message, message_bytes, "replica %u: %s", replica - 1, why);
    else if (r != 0)
        (void)snprintf(message, message_bytes, "%s", why);
    return r;
}

/* The model that turns texts into vectors, if there is one. */
static int embed_start(struct daemon *d)
{
    const struct daemon_config *c = &d->config;
    struct engine_info info;
    engine_info(d->engines[0], ENGINE_EMBED, &info);
    if (!info.present)
        return 0;
    return embed_new(&(struct embed_config){.texts_max = EMBED_TEXTS_MAX,
                                            .rows_max = c->engine.batch_rows_max,
                                            .tokens_max = c->engine.batch_tokens_max},
                     d->engines[0], &d->embed);
}

/* A simulated branch cannot fork: each program has one. */
static uint32_t branches_max(const struct daemon_config *c)
{
    return c->engine.simulate ? c->programs_max : BRANCHES_MAX;
}

/* Each for as much as all programs have: nobody knows which replica they go to. */
static int scheds_new(struct daemon *d)
{
    const struct daemon_config *c = &d->config;
    uint32_t alive_max = c->programs_max;
    if (!c->engine.simulate && alive_max / SEQS_PER_ROW > c->engine.batch_rows_max)
        alive_max = c->engine.batch_rows_max * SEQS_PER_ROW; /* the others wait QUEUED */
    struct sched_config sched = {
        .role = ENGINE_POLICY,
        .seqs_max = branches_max(c) + c->programs_max + ENGINE_POOL_SLOTS_MAX,
        .alive_max = alive_max,
        .groups_max = c->programs_max,
        .rows_max = c->engine.batch_rows_max,
        .tokens_max = c->engine.simulate ? SIM_TOKENS_MAX : c->engine.batch_tokens_max};
    int r = 0;
    for (uint32_t i = 0; i < c->engine.replicas && r == 0; i++) {
        struct engine_info reward;
        engine_info(d->engines[i], ENGINE_REWARD, &reward);
        sched.role = ENGINE_POLICY;
        r = sched_new(&sched, d->engines[i], &d->scheds[i].policy);
        sched.role = ENGINE_REWARD;
        if (r == 0 && reward.present)
            r = sched_new(&sched, d->engines[i], &d->scheds[i].reward);
    }
    return r;
}

static int check_step_tag(const struct daemon *d, char *message, size_t message_bytes)
{
    struct engine_info reward;
    engine_info(d->engines[0], ENGINE_REWARD, &reward);
    if (!reward.present || d->config.engine.step_tag < reward.vocabulary)
        return 0;
    (void)snprintf(message, message_bytes,
                   "[engine] step_tag = %u: accepted a token of the reward model, 1 to %u, or 0",
                   d->config.engine.step_tag, reward.vocabulary - 1);
    return -EINVAL;
}

static int log_open_programs(struct daemon *d, char *message, size_t message_bytes)
{
    const struct daemon_config *c = &d->config;
    char why[MESSAGE_BYTES] = "";
    int r = livelog_new(&(struct livelog_config){.path = c->log.programs,
                                                 .file_bytes = c->log.programs_bytes,
                                                 .programs_max = c->programs_max},
                        &d->log, why);
    if (r < 0)
        (void)snprintf(message, message_bytes, "%s", why); /* cut: still readable */
    return r;
}

static int modules_new(struct daemon *d, const struct ipc_fd *inherited, uint32_t inherited_count,
                       char *message, size_t message_bytes)
{
    const struct daemon_config *c = &d->config;
    struct engine_info info; /* every replica's: what one program may have, one of them holds */
    int r = engines_open(d, message, message_bytes);
    if (r == 0)
        r = check_step_tag(d, message, message_bytes);
    if (r != 0)
        return r;
    engine_info(d->engines[0], ENGINE_POLICY, &info);
    r = scheds_new(d);
    if (r == 0)
        r = embed_start(d);
    if (r == 0 && c->log.programs[0] != '\0' &&
        (r = log_open_programs(d, message, message_bytes)) < 0)
        return r;
    if (r == 0)
        r = programs_new(&(struct programs_config){.programs_max = c->programs_max,
                                                   .branches_max = branches_max(c),
                                                   .context_tokens = info.context_tokens,
                                                   .prompt_bytes_max = c->limits.prompt_bytes,
                                                   .codec = d->codec,
                                                   .policy = d->scheds[0].policy,
                                                   .reward = d->scheds[0].reward,
                                                   .others = &d->scheds[1],
                                                   .others_count = c->engine.replicas - 1,
                                                   .step_tag = c->engine.step_tag,
                                                   .log = d->log,
                                                   .embed = d->embed,
                                                   .embed_codec = d->embed_codec},
                         &d->programs);
    if (r == -EFBIG)
        (void)snprintf(message, message_bytes,
                       "[limits] prompt_bytes = %llu: accepted at most %llu with this tokenizer",
                       (unsigned long long)c->limits.prompt_bytes,
                       (unsigned long long)codec_text_bytes_max(d->codec));
    else if (r < 0)
        (void)snprintf(message, message_bytes,
                       "memory for [daemon] programs_max = %u and [limits] prompt_bytes = %llu: %s",
                       c->programs_max, (unsigned long long)c->limits.prompt_bytes, strerror(-r));
    if (r < 0)
        return r;
    struct ipc_config ipc_config = ipc_config_of(c, info.vocabulary);
    ipc_config.inherited = inherited;
    ipc_config.inherited_count = inherited_count;
    return ipc_new(&ipc_config, d->programs, &d->ipc, message, message_bytes);
}

/* What the configuration says of profiles: files first, then who uses which. */
static int profiles_open(struct daemon *d, char *message, size_t message_bytes)
{
    const struct daemon_config *c = &d->config;
    struct profiles *profiles = programs_profiles(d->programs);
    const struct {
        const char *key;
        const char *value;
    } defaults[] = {{"default.sc", c->profiles.sc},
                    {"default.rebase", c->profiles.rebase},
                    {"default.mcts", c->profiles.mcts},
                    {"default.cot", c->profiles.cot},
                    {"default.best_of_n", c->profiles.best_of_n},
                    {"default.beam", c->profiles.beam},
                    {"default.sc_cot", c->profiles.sc_cot}};
    char why[PROFILE_MESSAGE_BYTES] = "";
    int r = 0;
    if (c->profiles.directory[0] != '\0')
        r = profiles_load_directory(profiles, c->profiles.directory, why);
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults && r == 0; i++)
        if (defaults[i].value[0] != '\0')
            r = profiles_set(profiles, defaults[i].key, defaults[i].value, why);
    if (r < 0)
        (void)snprintf(message, message_bytes, "profiles: %s", why); /* cut: still readable */
    return r;
}

static int wakes_add(struct daemon *d)
{
    int fds[PROGRAMS_FDS];
    int r = 0;
    programs_fds(d->programs, fds);
    for (uint32_t i = 0; i < PROGRAMS_FDS && r == 0; i++)
        if (fds[i] >= 0)
            r = ipc_watch(d->ipc, fds[i]);
    return r;
}

/* The engine's threads start before ipc blocks these and must not take them: they come by descriptor. One
 * that arrives while models are read waits until they are. */
static void signals_block(void)
{
    sigset_t set;
    (void)sigemptyset(&set); /* these fail for invalid numbers only */
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGHUP);
    (void)pthread_sigmask(SIG_BLOCK, &set, NULL);
}

int daemon_new(const struct daemon_config *config, const struct ipc_fd *inherited,
               uint32_t inherited_count, struct daemon **ret_daemon, char *message,
               size_t message_bytes)
{
    struct daemon *d = calloc(1, sizeof *d);
    if (!d) {
        (void)snprintf(message, message_bytes, "no memory");
        return -ENOMEM;
    }
    d->config = *config;
    signals_block();
    int r = modules_new(d, inherited, inherited_count, message, message_bytes);
    if (r == 0)
        r = profiles_open(d, message, message_bytes);
    if (r == 0 && (r = threads_start(d)) < 0)
        (void)snprintf(message, message_bytes, "threads: %s", strerror(-r));
    if (r == 0 && (r = wakes_add(d)) < 0)
        (void)snprintf(message, message_bytes, "io_uring: %s", strerror(-r));
    if (r == 0)
        r = ipc_start(d->ipc, clock_now_ns(), message, message_bytes);
    if (r == ENGINE_E_BROKE)
        return DAEMON_E_BROKE;
    if (r < 0) {
        (void)daemon_free(d); /* no step was posted */
        return r;
    }
    bool alone = sysconf(_SC_NPROCESSORS_ONLN) == 1;
    /* With one processor spinning only keeps the client from running. */
    spin_init(&d->spin, alone ? 0 : (uint32_t)(config->spin_max_us * NS_PER_US));
    *ret_daemon = d;
    return 0;
}

/* True, and the log says what: a device broke. */
static bool engine_broke(const struct daemon *d)
{
    for (uint32_t i = 0; i < d->config.engine.replicas; i++) {
        const char *failure = d->engines[i] ? engine_failure(d->engines[i]) : NULL;
        if (failure && d->config.engine.replicas > 1)
            log_error("engine %u: %s", i, failure);
        else if (failure)
            log_error("engine: %s", failure);
        if (failure)
            return true;
    }
    return false;
}

int daemon_free(struct daemon *d)
{
    if (!d)
        return 0;
    bool keep = notify_fdstore_enabled();
    if (d->ipc) {
        ipc_stop(d->ipc, keep);
        for (uint32_t i = 0; i < d->keepers_count; i++)
            (void)pthread_join(d->keepers[i], NULL); /* joinable and not joined before */
    }
    if (d->text_worker_runs) {
        programs_text_stop(d->programs);
        (void)pthread_join(d->text_worker, NULL); /* likewise */
    }
    ipc_free(d->ipc);
    programs_free(d->programs);
    if (d->log_worker_runs) {
        livelog_stop(d->log);
        (void)pthread_join(d->log_worker, NULL); /* likewise */
    }
    livelog_free(d->log);
    embed_free(d->embed);
    for (uint32_t i = 0; i < CONFIG_REPLICAS_MAX; i++) {
        sched_free(d->scheds[i].reward);
        sched_free(d->scheds[i].policy);
    }
    if (engine_broke(d))
        return DAEMON_E_BROKE;
    for (uint32_t i = CONFIG_REPLICAS_MAX; i-- > 0;) /* the first one last (engine.h) */
        engine_close(d->engines[i]);
    codec_free(d->embed_codec);
    codec_free(d->codec);
    free(d);
    return 0;
}

static void engine_say(const struct daemon *d, uint32_t replica)
{
    char text[2048], name[24] = "engine";
    if (d->config.engine.replicas > 1)
        (void)snprintf(name, sizeof name, "engine %u", replica); /* fits */
    engine_describe(d->engines[replica], text, sizeof text);
    for (char *rest = text, *line; (line = strsep(&rest, "\n"));)
        log_info("%s: %s", name, line);
}

static uint32_t turn(struct daemon *d, uint64_t now_ns)
{
    uint32_t work = programs_poll(d->programs, now_ns);
    work += ipc_poll(d->ipc, now_ns);
    return work;
}

static void watchdog(struct daemon *d, uint64_t now_ns)
{
    uint64_t interval_ns = notify_watchdog_interval_ns();
    if (interval_ns == 0 || now_ns < d->watchdog_ns)
        return;
    d->watchdog_ns = now_ns + interval_ns;
    (void)notify_watchdog(); /* if there is no room, the next one counts */
}

/* Nothing to do: spins while that pays, then sleeps. Returns the time after it. */
static uint64_t rest(struct daemon *d, uint64_t now_ns)
{
    uint64_t due_ns = programs_due_ns(d->programs);
    if (d->idle_since_ns == 0) {
        d->idle_since_ns = now_ns;
        d->spin_ns = spin_begin(&d->spin);
    }
    if (now_ns - d->idle_since_ns < d->spin_ns || due_ns <= now_ns) {
        shm_pause();
        return clock_now_ns();
    }
    spin_end(&d->spin, false);
    if (d->watchdog_ns && d->watchdog_ns < due_ns)
        due_ns = d->watchdog_ns;
    (void)ipc_sleep(d->ipc, now_ns, due_ns); /* not having slept is as good */
    d->idle_since_ns = 0;
    return clock_now_ns();
}

int daemon_run(struct daemon *d)
{
    (void)notify_status(d->config.socket_path); /* without a service manager: nobody to tell */
    (void)notify_ready();
    for (uint32_t i = 0; i < d->config.engine.replicas; i++)
        engine_say(d, i);
    char names[512];
    chat_names(names, sizeof names);
    if (d->codec && codec_chat(d->codec))
        log_info("chat: %s", codec_chat(d->codec));
    else if (d->codec)
        log_info("chat: no template that we know; [engine] chat takes %s", names);
    log_info("ready: %s", d->config.socket_path);
    uint64_t now_ns = clock_now_ns();
    for (;;) {
        uint32_t work = turn(d, now_ns);
        if (ipc_signals(d->ipc) & (1ull << SIGTERM | 1ull << SIGINT))
            break;
        if (engine_broke(d))
            return DAEMON_E_BROKE;
        watchdog(d, now_ns);
        if (work == 0) {
            now_ns = rest(d, now_ns);
            continue;
        }
        if (d->idle_since_ns)
            spin_end(&d->spin, true);
        d->idle_since_ns = 0;
        uint64_t after_ns = clock_now_ns();
        ipc_turn_done(d->ipc, after_ns - now_ns);
        now_ns = after_ns;
    }
    log_info("stopping");
    (void)notify_stopping();
    return 0;
}
