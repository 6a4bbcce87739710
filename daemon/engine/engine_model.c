/* daemon/engine/engine_model.c — the engine with models: opening them on every rank, and the step.
 *
 * Roles lie in places (backend.h). A place has one device a rank, for all its roles: their weights lie side by side
 * in its slab, their caches too, and a step's values share one part of it, because one step runs at a time whichever
 * role it is for. Places know nothing of each other: each has its worker and its steps.
 *
 * On GPUs two steps are in flight, so that the next is there when one ends. On the CPU one: its kernels take the cores
 * that planning ahead would need, and a row that is planned in vain costs there what it costs in use. */
#include "daemon/engine/engine_model.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
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
    struct model models[ENGINE_ROLE_COUNT];
};

/* Bytes of a rank's slab, of the first rank, which has the most. */
struct table {
    uint64_t weights[ENGINE_ROLE_COUNT];
    uint64_t state[ENGINE_ROLE_COUNT]; /* caches, pools */
    uint64_t step;                     /* values of one, of whichever role */
};

struct slot { /* for one of the steps in flight */
    struct step step;
    uint8_t *image;
    int results[WORKER_RANKS_MAX]; /* of sync() after it */
};

struct place {
    struct engine_model *engine;
    const struct backend_place *on; /* the backend's */
    struct ops_group *group;        /* NULL: one rank */
    struct rank ranks[WORKER_RANKS_MAX];
    struct worker *worker;
    struct slot slots[ENGINE_STEPS_MAX]; /* of steps by their number: steps posted before it */
    uint64_t posted_count;
    uint64_t taken_count;
    uint64_t image_bytes;
    uint64_t slab_bytes; /* of one rank */
    struct table table;
    bool records; /* the step is recorded, not run: at start-up */
    bool broken;  /* a step failed: none is run after it */
};

struct role {
    struct place *place;
    struct arch arch;
    struct tensors *tensors; /* while opening, like the next */
    struct names *names;
};

struct engine_model {
    struct engine base;
    struct backend backend;
    const struct ops *ops; /* the backend's */
    struct place places[ENGINE_ROLE_COUNT];
    uint32_t places_count;
    uint32_t steps_max;
    struct role roles[ENGINE_ROLE_COUNT];
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

static struct slot *slot_of(struct place *p, uint64_t step)
{
    return &p->slots[step % p->engine->steps_max];
}

static bool in_flight(const struct place *p)
{
    return p->posted_count != p->taken_count;
}

/* The step before has been run by all ranks: what this one needs of it is there. */
static void step_begin(void *context, uint64_t number)
{
    struct place *p = context;
    const struct slot *before = slot_of(p, number + p->engine->steps_max - 1);
    for (uint32_t r = 0; number && r < p->on->ranks_count; r++)
        p->broken |= before->results[r] != 0;
    step_follow(&slot_of(p, number)->step);
}

static void rank_run(void *context, uint32_t rank, uint64_t number)
{
    struct place *p = context;
    struct slot *slot = slot_of(p, number);
    struct model *m = &p->ranks[rank].models[slot->step.batch->role];
    if (p->broken) {
        slot->results[rank] = -EIO;
        return;
    }
    if (p->records)
        forward_record(m, &slot->step);
    else if (m->kv_pages)
        forward_run(m, &slot->step);
    else
        encoder_run(m, &slot->step);
    slot->results[rank] = m->ops->sync(m->device);
    if (rank == 0 && slot->results[rank] == 0)
        forward_results(m, &slot->step);
}

/* The first time counts. What the libraries say is better than a number. */
static void device_broke(const struct place *p, uint32_t rank, int result)
{
    struct engine_model *e = p->engine;
    char why[CUDA_TEXT_BYTES];
    backend_failure(&e->backend, why);
    if (e->base.failure[0] == '\0')
        (void)refuse(e->base.failure, result, "the device of rank %u broke: %s",
                     p->on->device_first + rank, why[0] ? why : strerror(-result));
}

/* The step that is taken next, of all ranks: one that fails makes the others fail after it. */
static bool devices_work(struct place *p)
{
    const struct slot *slot = slot_of(p, p->taken_count);
    for (uint32_t r = 0; r < p->on->ranks_count; r++)
        if (slot->results[r])
            device_broke(p, r, slot->results[r]);
    return p->engine->base.failure[0] == '\0';
}

static void post(struct engine_model *e, struct engine_batch *batch, float *all_logits)
{
    const struct engine_info *info = &e->base.info[batch->role];
    struct place *p = e->roles[batch->role].place;
    struct step *step = &slot_of(p, p->posted_count)->step;
    for (uint32_t i = 0; i < batch->tokens_count;
         i++) /* what looks them up holds them to nothing */
        ASSERT(batch->tokens[i] < info->vocabulary);
    step_build(step, batch, info->kv_pages > 0, all_logits);
    ASSERT(step->position_max < info->context_tokens);
    p->posted_count++;
    worker_post(p->worker);
}

static void model_post(struct engine *e, struct engine_batch *batch, uint64_t now_ns)
{
    (void)now_ns;
    post(of(e), batch, NULL);
}

int engine_model_post_logits(struct engine *e, struct engine_batch *batch, float *logits)
{
    int result = engine_admit(e, batch);
    if (result == ENGINE_OK)
        post(of(e), batch, logits);
    return result;
}

static struct engine_batch *model_next(struct engine *engine, uint32_t place, uint64_t now_ns)
{
    struct place *p = &of(engine)->places[place];
    (void)now_ns;
    if (!in_flight(p) || engine->failure[0] || !worker_take(p->worker) || !devices_work(p))
        return NULL;
    return slot_of(p, p->taken_count++)->step.batch;
}

static uint64_t model_due_ns(const struct engine *e)
{
    (void)e;
    return UINT64_MAX; /* the descriptor tells */
}

static int model_fd(const struct engine *e, uint32_t place)
{
    return worker_fd(of(e)->places[place].worker);
}

static void model_dot_vector(struct engine *engine, const float *vector)
{
    struct engine_model *e = of(engine);
    struct place *p = &e->places[0];
    struct model *m = &p->ranks[0].models[ENGINE_POLICY];
    ASSERT(!in_flight(p) && m->arch);
    e->ops->copy_in(m->device, m->dot_vector, vector, m->arch->hidden * sizeof(float));
    int result = e->ops->sync(m->device); /* the vector is the caller's again */
    if (result)
        device_broke(p, 0, result);
}

uint64_t engine_model_kv_bytes_read(const struct engine *engine)
{
    const struct engine_model *e = of(engine);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < e->places_count; i++)
        for (uint32_t r = 0; r < e->places[i].on->ranks_count; r++) {
            struct ops_stats stats;
            e->ops->stats(e->places[i].ranks[r].device, &stats);
            bytes += stats.kv_bytes_read;
        }
    return bytes;
}

uint64_t engine_model_graph_runs(const struct engine *engine)
{
    const struct engine_model *e = of(engine);
    struct ops_stats stats;
    e->ops->stats(e->places[0].ranks[0].device, &stats);
    return stats.graph_runs_count;
}

void engine_model_pad(struct engine *engine, bool pads)
{
    struct engine_model *e = of(engine);
    ASSERT(!in_flight(&e->places[0]));
    for (uint32_t i = 0; i < e->steps_max; i++)
        step_pad(&e->places[0].slots[i].step,
                 pads && e->ops->graph_run ? e->base.config.rows_max : 0,
                 e->base.info[ENGINE_POLICY].kv_pages);
}

/* What recordings take is known once they are made. */
static void describe_graphs(const struct engine_model *e, char *text, uint32_t bytes)
{
    struct ops_stats stats;
    uint32_t count = 0;
    text[0] = '\0';
    while (step_bucket_rows(count, e->places[0].slots[0].step.pad_rows_max))
        count++;
    if (count == 0)
        return;
    e->ops->stats(e->places[0].ranks[0].device, &stats);
    (void)snprintf(text, bytes, "\ngraphs: %u, for steps of up to %u rows, %llu MiB each rank",
                   count, step_bucket_rows(count - 1, e->places[0].slots[0].step.pad_rows_max),
                   (unsigned long long)(stats.graphs_bytes >> 20)); /* fits */
}

/* A line of words, as far as there is room. */
struct text {
    char *to;
    uint32_t bytes;
};

__attribute__((format(printf, 2, 3))) static void add(struct text *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int used = vsnprintf(t->to, t->bytes, format, args);
    va_end(args);
    uint32_t step = used < 0 ? 0 : least((uint32_t)used, t->bytes - 1);
    t->to += step;
    t->bytes -= step;
}

static const char *const role_names[ENGINE_ROLE_COUNT] = {"policy", "reward", "embed"};

static uint32_t mib(uint64_t bytes)
{
    return (uint32_t)((bytes + (1u << 20) - 1) >> 20);
}

/* How a device's slab is carved. */
static void describe_place(const struct engine_model *e, const struct place *p, struct text *to)
{
    uint32_t ranks = p->on->ranks_count;
    add(to, "\nmemory of ");
    if (!e->backend.gpus.ops)
        add(to, ranks > 1 ? "each of %u ranks" : "the host", ranks);
    else if (ranks > 1)
        add(to, "each of GPUs %u to %u", p->on->gpu, p->on->gpu + ranks - 1);
    else
        add(to, "GPU %u", p->on->gpu);
    const char *before = ":";
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT; i++) {
        if (!p->table.weights[i])
            continue;
        add(to, "%s %s: weights %u MiB, caches %u MiB", before, role_names[i],
            mib(p->table.weights[i]), mib(p->table.state[i]));
        before = ";";
    }
    add(to, "; a step's values %u MiB; %u of %u MiB", mib(p->table.step), mib(p->slab_bytes),
        mib(p->on->memory_bytes));
}

static void model_describe(const struct engine *engine, char *text, uint32_t bytes)
{
    const struct engine_model *e = of(engine);
    struct text to = {.to = text, .bytes = bytes};
    char graphs[128];
    describe_graphs(e, graphs, sizeof graphs);
    add(&to, "backend %s, %s, %u threads, %u rank%s%s%s%s", e->ops->name,
        e->base.config.float32 ? "float32" : "bf16", e->base.config.threads_count,
        e->base.config.ranks_count, e->base.config.ranks_count > 1 ? "s" : "", graphs,
        e->backend.note[0] ? "\n" : "", e->backend.note);
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT; i++) {
        const struct engine_info *info = &e->base.info[i];
        if (info->present)
            add(&to, "\n%s: %s, %u layers of %u, vocabulary %u, context %u, %u KV pages",
                role_names[i], e->roles[i].arch.name, e->roles[i].arch.layers,
                e->roles[i].arch.hidden, info->vocabulary, info->context_tokens, info->kv_pages);
    }
    for (uint32_t i = 0; i < e->places_count; i++)
        describe_place(e, &e->places[i], &to);
}

static void place_close(struct engine_model *e, struct place *p)
{
    worker_free(p->worker);
    for (uint32_t r = 0; r < WORKER_RANKS_MAX; r++) {
        for (uint32_t i = 0; i < ENGINE_ROLE_COUNT; i++) {
            struct model *m = &p->ranks[r].models[i];
            weights_free(&m->weights);
            free(m->kv);
            free(m->host_sampled);
            free(m->host_dots);
            free(m->host_scores);
        }
        if (p->ranks[r].device)
            e->ops->close(p->ranks[r].device);
    }
    if (p->group)
        e->ops->group_free(p->group);
    for (uint32_t i = 0; i < ENGINE_STEPS_MAX; i++)
        free(p->slots[i].image);
}

static void model_close(struct engine *engine)
{
    struct engine_model *e = of(engine);
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT; i++)
        place_close(e, &e->places[i]);
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT; i++) {
        tensors_close(e->roles[i].tensors);
        free(e->roles[i].names);
    }
    backend_close(&e->backend);
    free(e);
}

/* ---- opening -------------------------------------------------------------------------------- */

static int check_config(const struct engine_config *c, char message[ENGINE_MESSAGE_BYTES])
{
    if (c->ranks_count != 1 && c->ranks_count != 2 && c->ranks_count != 4)
        return refuse(message, -EINVAL, "[engine] ranks = %u: accepted 1, 2 or 4", c->ranks_count);
    uint32_t replicas = greatest(c->replicas_count, 1), all = c->ranks_count * replicas;
    char beside[64] = "";
    if (replicas > 1)
        (void)snprintf(beside, sizeof beside, " and replicas = %u", replicas); /* fits */
    if (c->threads_count && c->threads_count < all)
        return refuse(message, -EINVAL,
                      "[engine] threads = %u: accepted %u to %u with [engine] ranks = %u%s, or 0: "
                      "all cores",
                      c->threads_count, all, THREADS_MAX, c->ranks_count, beside);
    if (c->rows_max < 1 || c->tokens_max < c->rows_max)
        return refuse(message, -EINVAL,
                      "batch_tokens_max %u: at least batch_rows_max, which is %u, and 1",
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
    *info = (struct engine_info){.present = true,
                                 .vocabulary = a->vocabulary,
                                 .vector_size = a->hidden,
                                 .steps_max = e->steps_max};
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
    arch_set_context(a, context); /* before the cache's size: that decides no frequencies */
    struct place *p = e->roles[role].place;
    uint64_t page_bytes = 0;
    for (uint32_t r = 0; r < p->on->ranks_count; r++)
        page_bytes += forward_page_bytes(&p->ranks[r].models[role]);
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
    info->context_tokens = a->context_tokens = context;
    for (uint32_t r = 0; r < p->on->ranks_count; r++)
        p->ranks[r].models[role].kv_pages = info->kv_pages;
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
    struct place *p = it->place;
    for (uint32_t r = 0; r < p->on->ranks_count; r++) {
        struct model *m = &p->ranks[r].models[role];
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
            weights_init(&m->weights, &it->arch, it->names, r, p->on->ranks_count, message),
            message);
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

static bool holds(const struct place *p, uint32_t rank, uint32_t role)
{
    const struct model *m = &p->ranks[rank].models[role];
    return m->arch && (rank == 0 || !m->arch->encoder);
}

/* Places every model of a rank; counts only where the slab has no memory. */
static void carve(struct place *p, uint32_t rank, struct slab *slab, struct table *ret_table)
{
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT; i++) {
        struct model *m = &p->ranks[rank].models[i];
        uint64_t before = slab->used_bytes;
        if (!holds(p, rank, i))
            continue;
        weights_place(&m->weights, m->ops, m->activation, slab);
        ret_table->weights[i] = slab->used_bytes - before;
        forward_place_state(m, slab);
        ret_table->state[i] = slab->used_bytes - before - ret_table->weights[i];
    }
    uint64_t begin = slab->used_bytes, end = begin;
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT; i++) {
        if (!holds(p, rank, i))
            continue;
        slab->used_bytes = begin;
        forward_place_scratch(&p->ranks[rank].models[i], slab, p->image_bytes);
        end = end > slab->used_bytes ? end : slab->used_bytes;
    }
    slab->used_bytes = end;
    ret_table->step = end - begin;
}

/* Batches are made for the limits of all roles. */
static uint64_t image_bytes(const struct engine_model *e)
{
    const struct engine_config *c = &e->base.config;
    struct step_limits limits = {.rows_max = c->rows_max, .tokens_max = c->tokens_max};
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT; i++)
        if (e->base.info[i].kv_pages)
            limits.history_max = greatest(limits.history_max, e->base.info[i].context_tokens);
    limits.pages_stride = (limits.history_max + OPS_PAGE_TOKENS - 1) / OPS_PAGE_TOKENS;
    limits.history_max *= ENGINE_HISTORY_CONTEXTS;
    limits.biases_max = c->rows_max * ENGINE_BIASES_OF_ROW;
    return step_image_bytes(&limits);
}

static int plan_memory(struct engine_model *e, struct place *p, char message[ENGINE_MESSAGE_BYTES])
{
    struct slab slab = {0};
    p->image_bytes = image_bytes(e);
    carve(p, 0, &slab, &p->table); /* rank 0 has the most */
    p->slab_bytes = slab.used_bytes;
    if (p->slab_bytes > p->on->memory_bytes)
        return refuse(message, -ENOMEM,
                      "models, KV cache and a step need %llu MiB for each rank, the %s has %llu",
                      (unsigned long long)(p->slab_bytes >> 20),
                      e->backend.gpus.ops ? "GPU" : "machine",
                      (unsigned long long)(p->on->memory_bytes >> 20));
    for (uint32_t i = 0; i < e->steps_max; i++) {
        struct slot *slot = &p->slots[i];
        slot->image = aligned_alloc(OPS_ALIGN_BYTES, p->image_bytes);
        if (!slot->image)
            return refuse(message, -ENOMEM, "no memory for a step of %u tokens",
                          e->base.config.tokens_max);
        step_init(&slot->step, slot->image, p->image_bytes);
    }
    return 0;
}

static int rank_fails(const struct place *p, uint32_t rank, int result,
                      char message[ENGINE_MESSAGE_BYTES])
{
    char why[CUDA_TEXT_BYTES];
    backend_failure(&p->engine->backend, why);
    return result ? refuse(message, result, "rank %u: the device broke: %s",
                           p->on->device_first + rank, why[0] ? why : strerror(-result))
                  : 0;
}

/* A device that breaks while a tensor is loaded: what its libraries say goes behind. Returns result. */
static int with_reason(const struct place *p, int result, char message[ENGINE_MESSAGE_BYTES])
{
    char what[ENGINE_MESSAGE_BYTES], why[CUDA_TEXT_BYTES];
    backend_failure(&p->engine->backend, why);
    if (result == 0 || why[0] == '\0')
        return result;
    (void)snprintf(what, sizeof what, "%s", message);
    return refuse(message, result, "%.250s: %s", what, why);
}

static int load_rank(struct place *p, uint32_t rank, char message[ENGINE_MESSAGE_BYTES])
{
    const struct engine_model *e = p->engine;
    const struct rank *it = &p->ranks[rank];
    int result = 0;
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT && !result; i++) {
        struct model *m = &p->ranks[rank].models[i];
        if (!holds(p, rank, i))
            continue;
        result = of_folder(e->base.config.directory[i],
                           weights_load(&m->weights, e->ops, it->device, message), message);
        if (result == 0 && m->arch->rotary_dim)
            e->ops->copy_in(it->device, m->inverse_frequency, m->arch->inverse_frequency,
                            m->arch->rotary_dim / 2 * sizeof(float));
    }
    return result ? with_reason(p, result, message)
                  : rank_fails(p, rank, e->ops->sync(it->device), message);
}

static uint32_t ranks_count(const struct engine_model *e)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < e->places_count; i++)
        count += e->places[i].on->ranks_count;
    return count;
}

static int open_rank(struct place *p, uint32_t rank, char message[ENGINE_MESSAGE_BYTES])
{
    const struct engine_model *e = p->engine;
    const struct engine_config *c = &e->base.config;
    struct rank *it = &p->ranks[rank];
    struct ops_config config = {.slab_bytes = p->slab_bytes,
                                .activation = c->float32 ? OPS_F32 : OPS_BF16,
                                .rank = rank,
                                .device_first = p->on->device_first,
                                .threads_count = c->threads_count / ranks_count(e),
                                .cpu_first = OPS_NONE,
                                .group = p->group,
                                .rows_max = c->tokens_max};
    struct table unused;
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
                      (unsigned long long)(p->slab_bytes >> 20), p->on->device_first + rank,
                      why[0] ? ": " : "", why);
    struct slab slab = {.base = e->ops->slab(it->device), .bytes = p->slab_bytes};
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT; i++)
        it->models[i].device = it->device;
    carve(p, rank, &slab, &unused);
    return load_rank(p, rank, message);
}

static int open_place(struct engine_model *e, struct place *p, char message[ENGINE_MESSAGE_BYTES])
{
    uint32_t ranks = p->on->ranks_count;
    int result = ranks > 1 ? e->ops->group_new(ranks, &p->group) : 0;
    if (result)
        return refuse(message, result, "no group of %u ranks", ranks);
    for (uint32_t r = 0; r < ranks && !result; r++)
        result = open_rank(p, r, message);
    return result;
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

/* False: a device broke. */
static bool run_empty(struct place *p, struct engine_batch *none, uint32_t bucket)
{
    struct pollfd fd = {.fd = worker_fd(p->worker), .events = POLLIN};
    step_build_empty(&slot_of(p, p->posted_count)->step, none, bucket);
    p->posted_count++;
    worker_post(p->worker);
    while (!worker_take(p->worker))
        (void)poll(&fd, 1, -1); /* interrupted: asked again; devices have a limit to their work */
    bool works = devices_work(p);
    p->taken_count++;
    return works;
}

/* Memory that recordings take is not in the table: a smaller cache leaves it. Whatever else fails is the device's. */
static int graphs_fail(struct place *p, char message[ENGINE_MESSAGE_BYTES])
{
    struct engine_model *e = p->engine;
    for (uint32_t r = 0; r < p->on->ranks_count; r++)
        if (slot_of(p, p->taken_count - 1)->results[r] == -ENOMEM)
            return refuse(
                message, -ENOMEM,
                "[engine] kv_bytes = %llu: too much beside graphs of steps of up to %u rows: %s",
                (unsigned long long)e->base.config.kv_bytes, e->base.config.rows_max,
                e->base.failure);
    return refuse(message, -EIO, "%s", e->base.failure);
}

/* One step of padding is run first: it has kernels loaded and ranks connected, which a recording cannot. */
static int record_graphs(struct engine_model *e, char message[ENGINE_MESSAGE_BYTES])
{
    struct engine_batch none = {.role = ENGINE_POLICY};
    uint32_t rows_max = e->base.config.rows_max;
    if (!e->ops->graph_run || !e->base.info[ENGINE_POLICY].present)
        return 0;
    struct place *p = &e->places[0]; /* the policy's */
    engine_model_pad(&e->base, true);
    bool works = run_empty(p, &none, 0);
    p->records = true;
    for (uint32_t i = 0; works && step_bucket_rows(i, rows_max); i++)
        works = run_empty(p, &none, i);
    p->records = false;
    return works ? 0 : graphs_fail(p, message);
}

static void places_begin(struct engine_model *e)
{
    e->places_count = e->backend.places_count;
    for (uint32_t i = 0; i < e->places_count; i++)
        e->places[i] = (struct place){.engine = e, .on = &e->backend.places[i]};
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT; i++) {
        e->base.place[i] = e->backend.place_of[i];
        e->roles[i].place = &e->places[e->backend.place_of[i]];
    }
}

/* What is needed only while opening; the directories are the caller's. */
static void roles_opened(struct engine_model *e)
{
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT; i++) {
        tensors_close(e->roles[i].tensors);
        free(e->roles[i].names);
        e->roles[i].tensors = NULL;
        e->roles[i].names = NULL;
        e->base.config.directory[i] = NULL;
    }
}

static int open_all(struct engine_model *e, char message[ENGINE_MESSAGE_BYTES])
{
    struct engine_config *c = &e->base.config;
    int result = check_config(c, message);
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT && !result; i++)
        if (c->directory[i])
            result = open_role(e, i, message);
    for (uint32_t i = 0; i < e->places_count && !result; i++)
        result = plan_memory(e, &e->places[i], message);
    if (c->threads_count == 0)
        c->threads_count = cores_count();
    c->threads_count /= greatest(c->replicas_count, 1);
    c->threads_count = greatest(c->threads_count, ranks_count(e));
    for (uint32_t i = 0; i < e->places_count && !result; i++)
        result = open_place(e, &e->places[i], message);
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT && !result; i++)
        if (c->directory[i])
            result =
                of_folder(c->directory[i], tensors_check(e->roles[i].tensors, message), message);
    if (result)
        return result;
    roles_opened(e);
    for (uint32_t i = 0; i < e->places_count && !result; i++)
        result = worker_new(e->places[i].on->ranks_count, e->steps_max,
                            &(struct worker_calls){step_begin, rank_run, &e->places[i]},
                            &e->places[i].worker);
    return result ? refuse(message, result, "no thread for a rank") : record_graphs(e, message);
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
    e->base.config.lock_directory = NULL; /* the caller's, like the next */
    e->base.config.first = NULL;
    e->backend = *backend;
    e->ops = backend->ops;
    e->steps_max = config->steps_max ? config->steps_max : backend->gpus.ops ? 2 : 1;
    ASSERT(e->steps_max <= ENGINE_STEPS_MAX);
    places_begin(e);
    int result = open_all(e, message);
    if (backend_broke(&e->backend, result))
        result = ENGINE_E_BROKE;
    else if (result)
        model_close(&e->base);
    if (result == 0 || result == ENGINE_E_BROKE)
        *ret_engine = &e->base;
    return result;
}

int engine_model_open_on(const struct engine_config *config, const struct ops *ops,
                         char message[ENGINE_MESSAGE_BYTES], struct engine **ret_engine)
{
    struct backend backend;
    int result = check_config(config, message);
    if (!result && config->first)
        backend_beside(&of(config->first)->backend, config, &backend);
    else if (!result)
        result = ops ? backend_on(ops, config, message, &backend)
                     : backend_open(config, message, &backend);
    return result ? result : open_on(config, &backend, message, ret_engine);
}

int engine_model_open(const struct engine_config *config, char message[ENGINE_MESSAGE_BYTES],
                      struct engine **ret_engine)
{
    return engine_model_open_on(config, NULL, message, ret_engine);
}
