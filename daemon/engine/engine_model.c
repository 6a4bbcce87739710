/* daemon/engine/engine_model.c — the engine with models: opening them on every rank, and the step.
 *
 * One device a rank, for all roles: their weights lie side by side in its slab, their caches too, and
 * a step's values share one place, because one step runs at a time whichever role it is for. */
#include "daemon/engine/engine_model.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/base/assert.h"
#include "daemon/engine/backend.h"
#include "daemon/engine/forward.h"
#include "daemon/engine/impl.h"
#include "daemon/engine/worker.h"

#define CONTEXT_TOKENS_MAX 131072u
#define THREADS_MAX 1024u  /* as the configuration has it */
#define HEAD_ROWS_MAX 256u /* rows of logits at once: 256 of 128,000 columns are 131 MB */

static_assert(ENGINE_MESSAGE_BYTES == ARCH_MESSAGE_BYTES, "one buffer");
static_assert(ENGINE_MESSAGE_BYTES == TENSORS_MESSAGE_BYTES, "one buffer");

struct rank {
    struct ops_device *device;
    int result; /* of sync() after the last step */
    struct model models[ENGINE_ROLE_COUNT];
};

struct role {
    struct arch arch;
    struct tensors *tensors; /* while opening, like the next */
    struct names *names;
};

struct engine_model {
    struct engine base;
    struct backend backend;
    const struct ops *ops; /* the backend's */
    struct ops_group *group;
    struct rank ranks[WORKER_RANKS_MAX];
    struct role roles[ENGINE_ROLE_COUNT];
    struct worker *worker;
    struct step step;
    uint8_t *image;
    uint64_t image_bytes;
    uint64_t slab_bytes; /* of one rank */
    bool in_flight;
};

static struct engine_model *of(const struct engine *e)
{
    return (struct engine_model *)(uintptr_t)e; /* its first member */
}

__attribute__((format(printf, 3, 4))) static int refuse(char message[ENGINE_MESSAGE_BYTES],
                                                        int result, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(message, ENGINE_MESSAGE_BYTES, format, args); /* a cut message is as good */
    va_end(args);
    return result;
}

/* The folder goes before what is wrong in it. Returns result. */
static int of_folder(const char *directory, int result, char message[ENGINE_MESSAGE_BYTES])
{
    char why[ENGINE_MESSAGE_BYTES];
    if (result == 0)
        return 0;
    (void)snprintf(why, sizeof why, "%s", message);
    return refuse(message, result, "%.200s: %.300s", directory, why);
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t greatest(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* ---- running -------------------------------------------------------------------------------- */

static void rank_run(void *context, uint32_t rank)
{
    struct engine_model *e = context;
    struct model *m = &e->ranks[rank].models[e->step.batch->role];
    if (m->kv_pages)
        forward_run(m, &e->step);
    else
        encoder_run(m, &e->step);
    e->ranks[rank].result = e->ops->sync(m->device);
    if (rank == 0 && e->ranks[rank].result == 0)
        forward_results(m, &e->step);
}

/* The first time counts. What the libraries say is better than a number. */
static void device_broke(struct engine_model *e, uint32_t rank, int result)
{
    char why[CUDA_TEXT_BYTES];
    backend_failure(&e->backend, why);
    if (e->base.failure[0] == '\0')
        (void)refuse(e->base.failure, result, "the device of rank %u broke: %s", rank,
                     why[0] ? why : strerror(-result));
}

/* Of all ranks: one that fails makes the others fail after it. */
static bool devices_work(struct engine_model *e)
{
    for (uint32_t r = 0; r < e->base.config.ranks_count; r++)
        if (e->ranks[r].result)
            device_broke(e, r, e->ranks[r].result);
    return e->base.failure[0] == '\0';
}

static int post(struct engine_model *e, struct engine_batch *batch, float *all_logits)
{
    if (e->in_flight)
        return ENGINE_E_BUSY;
    for (uint32_t i = 0; i < batch->tokens_count;
         i++) /* what looks them up holds them to nothing */
        ASSERT(batch->tokens[i] < e->base.info[batch->role].vocabulary);
    bool paged = e->base.info[batch->role].kv_pages > 0;
    step_build(&e->step, batch, paged, all_logits);
    ASSERT(e->step.position_max < e->base.info[batch->role].context_tokens);
    e->in_flight = true;
    worker_post(e->worker);
    return ENGINE_OK;
}

static int model_post(struct engine *e, struct engine_batch *batch, uint64_t now_ns)
{
    (void)now_ns;
    return post(of(e), batch, NULL);
}

int engine_model_post_logits(struct engine *e, struct engine_batch *batch, float *logits)
{
    return post(of(e), batch, logits);
}

static struct engine_batch *model_next(struct engine *engine, uint64_t now_ns)
{
    struct engine_model *e = of(engine);
    (void)now_ns;
    if (!e->in_flight || e->base.failure[0] || !worker_take(e->worker) || !devices_work(e))
        return NULL;
    e->in_flight = false;
    return e->step.batch;
}

static uint64_t model_due_ns(const struct engine *e)
{
    (void)e;
    return UINT64_MAX; /* the descriptor tells */
}

static int model_fd(const struct engine *e)
{
    return worker_fd(of(e)->worker);
}

static void model_dot_vector(struct engine *engine, const float *vector)
{
    struct engine_model *e = of(engine);
    struct model *m = &e->ranks[0].models[ENGINE_POLICY];
    ASSERT(!e->in_flight && m->arch);
    e->ops->copy_in(m->device, m->dot_vector, vector, m->arch->hidden * sizeof(float));
    int result = e->ops->sync(m->device); /* the vector is the caller's again */
    if (result)
        device_broke(e, 0, result);
}

uint64_t engine_model_kv_bytes_read(const struct engine *engine)
{
    const struct engine_model *e = of(engine);
    uint64_t bytes = 0;
    for (uint32_t r = 0; r < e->base.config.ranks_count; r++) {
        struct ops_stats stats;
        e->ops->stats(e->ranks[r].device, &stats);
        bytes += stats.kv_bytes_read;
    }
    return bytes;
}

static void model_describe(const struct engine *engine, char *text, uint32_t bytes)
{
    static const char *const names[ENGINE_ROLE_COUNT] = {"policy", "reward", "embed"};
    const struct engine_model *e = of(engine);
    int used = snprintf(
        text, bytes, "backend %s, %s, %u threads, %u rank%s, %llu MiB each%s%s", e->ops->name,
        e->base.config.float32 ? "float32" : "bf16", e->base.config.threads_count,
        e->base.config.ranks_count, e->base.config.ranks_count > 1 ? "s" : "",
        (unsigned long long)(e->slab_bytes >> 20), e->backend.note[0] ? "\n" : "", e->backend.note);
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT && used >= 0 && (uint32_t)used < bytes; i++) {
        const struct engine_info *info = &e->base.info[i];
        if (info->present)
            used += snprintf(text + used, bytes - (uint32_t)used,
                             "\n%s: %s, %u layers of %u, vocabulary %u, context %u, %u KV pages",
                             names[i], e->roles[i].arch.name, e->roles[i].arch.layers,
                             e->roles[i].arch.hidden, info->vocabulary, info->context_tokens,
                             info->kv_pages);
    }
}

static void model_close(struct engine *engine)
{
    struct engine_model *e = of(engine);
    worker_free(e->worker);
    for (uint32_t r = 0; r < WORKER_RANKS_MAX; r++) {
        for (uint32_t i = 0; i < ENGINE_ROLE_COUNT; i++) {
            struct model *m = &e->ranks[r].models[i];
            weights_free(&m->weights);
            free(m->kv);
            free(m->host_sampled);
            free(m->host_dots);
            free(m->host_scores);
        }
        if (e->ranks[r].device)
            e->ops->close(e->ranks[r].device);
    }
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT; i++) {
        tensors_close(e->roles[i].tensors);
        free(e->roles[i].names);
    }
    if (e->group)
        e->ops->group_free(e->group);
    backend_close(&e->backend);
    free(e->image);
    free(e);
}

/* ---- opening -------------------------------------------------------------------------------- */

static int check_config(const struct engine_config *c, char message[ENGINE_MESSAGE_BYTES])
{
    if (c->ranks_count != 1 && c->ranks_count != 2 && c->ranks_count != 4)
        return refuse(message, -EINVAL, "[engine] ranks = %u: accepted 1, 2 or 4", c->ranks_count);
    if (c->threads_count && c->threads_count < c->ranks_count)
        return refuse(
            message, -EINVAL,
            "[engine] threads = %u: accepted %u to %u with [engine] ranks = %u, or 0: all "
            "cores",
            c->threads_count, c->ranks_count, THREADS_MAX, c->ranks_count);
    if (c->rows_max < 1 || c->tokens_max < c->rows_max)
        return refuse(message, -EINVAL, "batch of %u tokens, %u rows: at least a token a row",
                      c->tokens_max, c->rows_max);
    return 0;
}

/* Positions that the role may use, and pages for them. */
static int plan_context(struct engine_model *e, enum engine_role role,
                        char message[ENGINE_MESSAGE_BYTES])
{
    const struct engine_config *c = &e->base.config;
    struct arch *a = &e->roles[role].arch;
    struct engine_info *info = &e->base.info[role];
    *info = (struct engine_info){
        .present = true, .vocabulary = a->vocabulary, .vector_size = a->hidden};
    uint32_t context = least(a->context_tokens, CONTEXT_TOKENS_MAX);
    if (role == ENGINE_EMBED) {
        info->context_tokens = least(context, c->tokens_max); /* a text is one step */
        return 0;
    }
    if (c->context_tokens > a->context_tokens)
        return refuse(message, -EINVAL, "%s: context of %u tokens, the model allows 1 to %u",
                      c->directory[role], c->context_tokens, a->context_tokens);
    if (c->context_tokens)
        context = c->context_tokens;
    uint64_t page_bytes = 0;
    for (uint32_t r = 0; r < c->ranks_count; r++)
        page_bytes += forward_page_bytes(&e->ranks[r].models[role]);
    uint64_t pages = (role == ENGINE_REWARD ? c->kv_bytes / 4 : c->kv_bytes) / page_bytes;
    pages = pages < OPS_NONE ? pages : OPS_NONE - 1;
    uint64_t needed = c->context_tokens ? (context + OPS_PAGE_TOKENS - 1) / OPS_PAGE_TOKENS : 1;
    if (pages < needed)
        return refuse(message, -EINVAL,
                      "%s: a KV cache of %llu bytes holds %llu pages, %u tokens need %llu bytes",
                      c->directory[role], (unsigned long long)c->kv_bytes,
                      (unsigned long long)pages, context,
                      (unsigned long long)(needed * page_bytes * (role == ENGINE_REWARD ? 4 : 1)));
    info->kv_pages = (uint32_t)pages;
    if (context > pages * OPS_PAGE_TOKENS)
        context = (uint32_t)pages * OPS_PAGE_TOKENS;
    info->context_tokens = context;
    arch_set_context(a, context);
    for (uint32_t r = 0; r < c->ranks_count; r++)
        e->ranks[r].models[role].kv_pages = info->kv_pages;
    return 0;
}

/* Which heads a role can use. */
static int check_role(struct engine_model *e, enum engine_role role,
                      char message[ENGINE_MESSAGE_BYTES])
{
    static const char *const wanted[ENGINE_ROLE_COUNT] = {
        "policy role wants a language model",
        "reward role wants a value head, or a language model",
        "embed role wants a BERT encoder",
    };
    struct arch *a = &e->roles[role].arch;
    if (role == ENGINE_REWARD)
        arch_as_reward(a);
    bool fits = role == ENGINE_POLICY   ? a->head == ARCH_HEAD_LOGITS
                : role == ENGINE_REWARD ? a->head != ARCH_HEAD_NONE && !a->encoder
                                        : a->encoder;
    return fits ? 0
                : refuse(message, -EINVAL, "%s: %s: the %s", e->base.config.directory[role],
                         a->name, wanted[role]);
}

static int open_role(struct engine_model *e, enum engine_role role,
                     char message[ENGINE_MESSAGE_BYTES])
{
    const struct engine_config *c = &e->base.config;
    struct role *it = &e->roles[role];
    int result = arch_read(c->directory[role], &it->arch, message);
    result = result ? result : tensors_open(c->directory[role], message, &it->tensors);
    it->names = calloc(1, sizeof *it->names);
    if (!result && !it->names)
        return refuse(message, -ENOMEM, "no memory for the names of tensors");
    if (result)
        return result;
    result = of_folder(c->directory[role], names_check(&it->arch, it->tensors, message, it->names),
                       message);
    result = result ? result : check_role(e, role, message);
    if (result)
        return result;
    for (uint32_t r = 0; r < c->ranks_count; r++) {
        struct model *m = &e->ranks[r].models[role];
        *m = (struct model){.ops = e->ops,
                            .arch = &it->arch,
                            .activation = c->float32 ? OPS_F32 : OPS_BF16,
                            .role = role,
                            .dot_layer = role == ENGINE_POLICY ? c->dot_layer : -1,
                            .tokens_max = c->tokens_max,
                            .rows_max = c->rows_max,
                            .head_rows = least(HEAD_ROWS_MAX, c->tokens_max)};
        result = of_folder(
            c->directory[role],
            weights_init(&m->weights, &it->arch, it->names, r, c->ranks_count, message), message);
        m->kv = calloc(it->arch.layers, sizeof *m->kv);
        m->host_sampled = calloc(c->rows_max, sizeof *m->host_sampled);
        m->host_dots = calloc(c->rows_max, sizeof *m->host_dots);
        m->host_scores =
            calloc((size_t)WEIGHTS_OUTPUTS_MAX * c->tokens_max, sizeof *m->host_scores);
        if (result == 0 && (!m->kv || !m->host_sampled || !m->host_dots || !m->host_scores))
            result = refuse(message, -ENOMEM, "no memory for the tables of a model");
        if (result)
            return result;
    }
    if (c->dot_layer >= 0 && role == ENGINE_POLICY && (uint32_t)c->dot_layer >= it->arch.layers)
        return refuse(message, -EINVAL, "%s: dot layer %d, the model has 0 to %u",
                      c->directory[role], c->dot_layer, it->arch.layers - 1);
    return plan_context(e, role, message);
}

/* Places every model of a rank; counts only where the slab has no memory. */
static void place(struct engine_model *e, uint32_t rank, struct slab *slab)
{
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT; i++) {
        struct model *m = &e->ranks[rank].models[i];
        if (!m->arch || (m->arch->encoder && rank != 0))
            continue;
        weights_place(&m->weights, e->ops, m->activation, slab);
        forward_place_state(m, slab);
    }
    uint64_t begin = slab->used_bytes, end = begin;
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT; i++) {
        struct model *m = &e->ranks[rank].models[i];
        if (!m->arch || (m->arch->encoder && rank != 0))
            continue;
        slab->used_bytes = begin;
        forward_place_scratch(m, slab, e->image_bytes);
        end = end > slab->used_bytes ? end : slab->used_bytes;
    }
    slab->used_bytes = end;
}

static int plan_memory(struct engine_model *e, char message[ENGINE_MESSAGE_BYTES])
{
    const struct engine_config *c = &e->base.config;
    struct step_limits limits = {.rows_max = c->rows_max, .tokens_max = c->tokens_max};
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT; i++)
        if (e->base.info[i].kv_pages)
            limits.history_max = greatest(limits.history_max, e->base.info[i].context_tokens);
    limits.pages_stride = (limits.history_max + OPS_PAGE_TOKENS - 1) / OPS_PAGE_TOKENS;
    limits.history_max *= ENGINE_HISTORY_CONTEXTS;
    limits.biases_max = c->rows_max * ENGINE_BIASES_OF_ROW;
    e->image_bytes = step_image_bytes(&limits);
    struct slab slab = {0};
    place(e, 0, &slab); /* rank 0 has the most */
    e->slab_bytes = slab.used_bytes;
    uint64_t there = e->backend.memory_bytes;
    if (e->slab_bytes > there)
        return refuse(message, -ENOMEM,
                      "models, KV cache and a step need %llu MiB for each rank, the %s has %llu",
                      (unsigned long long)(e->slab_bytes >> 20),
                      e->backend.gpus.ops ? "GPU" : "machine", (unsigned long long)(there >> 20));
    e->image = aligned_alloc(OPS_ALIGN_BYTES, e->image_bytes);
    if (!e->image)
        return refuse(message, -ENOMEM, "no memory for a step of %u tokens", c->tokens_max);
    step_init(&e->step, e->image, e->image_bytes);
    return 0;
}

static int open_rank(struct engine_model *e, uint32_t rank, char message[ENGINE_MESSAGE_BYTES])
{
    const struct engine_config *c = &e->base.config;
    struct rank *it = &e->ranks[rank];
    struct ops_config config = {.slab_bytes = e->slab_bytes,
                                .activation = c->float32 ? OPS_F32 : OPS_BF16,
                                .rank = rank,
                                .threads_count = e->base.config.threads_count / c->ranks_count,
                                .cpu_first = OPS_NONE,
                                .group = e->group,
                                .rows_max = c->tokens_max};
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT; i++) {
        if (!it->models[i].arch)
            continue;
        config.vocabulary_max = greatest(config.vocabulary_max, e->base.info[i].vocabulary);
        config.k_max = greatest(config.k_max, weights_k_max(&it->models[i].weights));
    }
    int result = e->ops->open(&config, &it->device);
    char why[CUDA_TEXT_BYTES];
    backend_failure(&e->backend, why);
    if (result)
        return refuse(message, result, "%s: no device with %llu MiB for rank %u%s%s", e->ops->name,
                      (unsigned long long)(e->slab_bytes >> 20), rank, why[0] ? ": " : "", why);
    struct slab slab = {.base = e->ops->slab(it->device), .bytes = e->slab_bytes};
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT; i++)
        it->models[i].device = it->device;
    place(e, rank, &slab);
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT && !result; i++) {
        struct model *m = &it->models[i];
        if (!m->arch || (m->arch->encoder && rank != 0))
            continue;
        result = of_folder(c->directory[i], weights_load(&m->weights, e->ops, it->device, message),
                           message);
        if (result == 0 && m->arch->rotary_dim)
            e->ops->copy_in(it->device, m->inverse_frequency, m->arch->inverse_frequency,
                            m->arch->rotary_dim / 2 * sizeof(float));
    }
    if (result)
        return result;
    result = e->ops->sync(it->device);
    backend_failure(&e->backend, why);
    return result ? refuse(message, result, "rank %u: the device broke: %s", rank,
                           why[0] ? why : strerror(-result))
                  : 0;
}

/* Those this process may use: a container has fewer than the machine. */
static uint32_t cores_count(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return (uint32_t)CPU_COUNT(&set);
    long count = sysconf(_SC_NPROCESSORS_ONLN); /* more cores than the set holds */
    return count > 0 ? (uint32_t)count : 1;
}

static int open_all(struct engine_model *e, char message[ENGINE_MESSAGE_BYTES])
{
    struct engine_config *c = &e->base.config;
    int result = check_config(c, message);
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT && !result; i++)
        if (c->directory[i])
            result = open_role(e, i, message);
    result = result ? result : plan_memory(e, message);
    if (result)
        return result;
    if (c->threads_count == 0)
        c->threads_count = cores_count();
    c->threads_count = greatest(c->threads_count, c->ranks_count);
    if (c->ranks_count > 1 && (result = e->ops->group_new(c->ranks_count, &e->group)) != 0)
        return refuse(message, result, "no group of %u ranks", c->ranks_count);
    for (uint32_t r = 0; r < c->ranks_count && !result; r++)
        result = open_rank(e, r, message);
    if (result)
        return result;
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT && !result; i++)
        if (c->directory[i])
            result =
                of_folder(c->directory[i], tensors_check(e->roles[i].tensors, message), message);
    if (result)
        return result;
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT; i++) {
        tensors_close(e->roles[i].tensors);
        free(e->roles[i].names);
        e->roles[i].tensors = NULL;
        e->roles[i].names = NULL;
        c->directory[i] = NULL; /* the caller's */
    }
    result = worker_new(c->ranks_count, rank_run, e, &e->worker);
    return result ? refuse(message, result, "no thread for a rank") : 0;
}

static int open_on(const struct engine_config *config, const struct backend *backend,
                   char message[ENGINE_MESSAGE_BYTES], struct engine **ret_engine)
{
    static const struct engine_impl impl = {.close = model_close,
                                            .describe = model_describe,
                                            .dot_vector = model_dot_vector,
                                            .post = model_post,
                                            .next = model_next,
                                            .due_ns = model_due_ns,
                                            .fd = model_fd};
    struct engine_model *e = calloc(1, sizeof *e);
    if (!e) {
        struct backend unused = *backend;
        backend_close(&unused);
        return refuse(message, -ENOMEM, "no memory for the engine");
    }
    e->base.impl = &impl;
    e->base.config = *config;
    e->base.config.lock_directory = NULL; /* the caller's */
    e->backend = *backend;
    e->ops = backend->ops;
    int result = open_all(e, message);
    if (result) {
        model_close(&e->base);
        return result;
    }
    *ret_engine = &e->base;
    return 0;
}

int engine_model_open_on(const struct engine_config *config, const struct ops *ops,
                         char message[ENGINE_MESSAGE_BYTES], struct engine **ret_engine)
{
    struct backend backend = backend_on(ops, config->ranks_count);
    return open_on(config, &backend, message, ret_engine);
}

int engine_model_open(const struct engine_config *config, char message[ENGINE_MESSAGE_BYTES],
                      struct engine **ret_engine)
{
    struct backend backend;
    int result = check_config(config, message);
    result = result ? result : backend_open(config, message, &backend);
    return result ? result : open_on(config, &backend, message, ret_engine);
}
