#include "daemon/engine/backend.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "daemon/base/assert.h"
#include "kernels/cpu/cpu.h"

#define SYNC_LIMIT_NS 30000000000u /* the longest step is a tenth of it */

static const struct ops *cpu_best(int32_t level_max)
{
    int32_t level = (int32_t)cpu_level_best();
    if (level_max >= 0 && level_max < level)
        level = level_max;
    const struct ops *ops = NULL;
    for (; !ops && level >= 0; level--)
        ops = cpu_ops((enum cpu_level)level);
    ASSERT(ops); /* scalar is everywhere */
    return ops;
}

/* ---- places ----------------------------------------------------------------------------------- */

static const char *const device_options[ENGINE_ROLE_COUNT] = {
    "[engine] device", "[engine] reward_device", "[engine] embed_device"};

/* The place of a role that has a GPU apart. */
static int place_apart(struct backend *b, const struct engine_config *c, enum engine_role role,
                       char message[ENGINE_MESSAGE_BYTES])
{
    uint32_t gpu = c->role_device[role] - 1, i = 1, last = c->device + c->ranks_count - 1;
    if (gpu > c->device && gpu <= last) {
        (void)snprintf(message, ENGINE_MESSAGE_BYTES,
                       "%s = %u: accepted %u, to share GPUs %u to %u with the policy, or another "
                       "than these",
                       device_options[role], gpu, c->device, c->device, last); /* fits */
        return -EINVAL;
    }
    while (i < b->places_count && b->places[i].gpu != gpu)
        i++;
    if (i == b->places_count)
        b->places[b->places_count++] = (struct backend_place){
            .gpu = gpu, .ranks_count = 1, .device_first = c->ranks_count + i - 1};
    b->place_of[role] = i;
    return 0;
}

static int places_plan(struct backend *b, const struct engine_config *c, bool apart,
                       char message[ENGINE_MESSAGE_BYTES])
{
    int result = 0;
    b->places[0] = (struct backend_place){.gpu = c->device, .ranks_count = c->ranks_count};
    b->places_count = 1;
    for (uint32_t i = 0; i < ENGINE_ROLE_COUNT && apart && !result; i++)
        if (c->directory[i] && c->role_device[i] && c->role_device[i] != c->device + 1)
            result = place_apart(b, c, i, message);
    return result;
}

static uint32_t devices_count(const struct backend *b)
{
    const struct backend_place *last = &b->places[b->places_count - 1];
    return last->device_first + last->ranks_count;
}

static uint32_t replicas_count(const struct engine_config *config)
{
    return config->replicas_count ? config->replicas_count : 1;
}

/* Ranks on the CPU, of all replicas, share the host's memory. */
static void host_memory(const struct engine_config *config, struct backend *b)
{
    uint64_t there = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    for (uint32_t i = 0; i < b->places_count; i++)
        b->places[i].memory_bytes = there / devices_count(b) / replicas_count(config);
}

/* What every rank of a place has. */
static void gpu_memory(struct backend *b)
{
    for (uint32_t i = 0; i < b->places_count; i++) {
        struct backend_place *p = &b->places[i];
        p->memory_bytes = b->gpus.memory_bytes[p->device_first];
        for (uint32_t r = 1; r < p->ranks_count; r++)
            if (b->gpus.memory_bytes[p->device_first + r] < p->memory_bytes)
                p->memory_bytes = b->gpus.memory_bytes[p->device_first + r];
    }
}

int backend_on(const struct ops *ops, const struct engine_config *config,
               char message[ENGINE_MESSAGE_BYTES], struct backend *ret_backend)
{
    struct backend b = {.ops = ops};
    int result = places_plan(&b, config, true, message);
    if (result)
        return result;
    host_memory(config, &b);
    *ret_backend = b;
    return 0;
}

/* ---- opening ---------------------------------------------------------------------------------- */

static int gpus_open(const struct engine_config *config, struct backend *b)
{
    struct cuda_request request = {.driver = "libcuda.so.1",
                                   .monitor = "libnvidia-ml.so.1",
                                   .backend = "libdynasor-cuda.so",
                                   .lock_directory = config->lock_directory,
                                   .sync_limit_ns = SYNC_LIMIT_NS,
                                   .ranks_count = devices_count(b) * replicas_count(config)};
    ASSERT(request.ranks_count <= CUDA_RANKS_MAX);
    ASSERT(replicas_count(config) == 1 || b->places_count == 1); /* check_config() */
    for (uint32_t i = 0; i < b->places_count; i++)
        for (uint32_t r = 0; r < b->places[i].ranks_count * replicas_count(config); r++)
            request.devices[b->places[i].device_first + r] = (int32_t)(b->places[i].gpu + r);
    int found = cuda_gpus_open(&request, &b->gpus, b->note);
    if (found != CUDA_FOUND)
        return found;
    b->ops = b->gpus.ops;
    gpu_memory(b);
    return found;
}

static int cpu_open(const struct engine_config *config, char message[ENGINE_MESSAGE_BYTES],
                    struct backend *b)
{
    b->ops = cpu_best(config->cpu_level);
    int result = places_plan(b, config, false, message);
    host_memory(config, b);
    return result;
}

/* Which option asks for a GPU that is not there. */
static const char *option_of(const struct engine_config *config, const struct backend *b)
{
    for (uint32_t i = 1; i < ENGINE_ROLE_COUNT; i++)
        if (b->place_of[i] && b->places[b->place_of[i]].gpu == b->gpus.missing)
            return device_options[i];
    if (b->gpus.missing == config->device)
        return device_options[0];
    return b->gpus.missing < config->device + config->ranks_count ? "[engine] ranks"
                                                                  : "[engine] replicas";
}

int backend_open(const struct engine_config *config, char message[ENGINE_MESSAGE_BYTES],
                 struct backend *ret_backend)
{
    struct backend b = {0};
    int result = 0;
    if (config->backend == ENGINE_BACKEND_CPU) {
        result = cpu_open(config, message, &b);
        *ret_backend = b;
        return result;
    }
    result = places_plan(&b, config, true, message);
    if (result)
        return result;
    int found = gpus_open(config, &b);
    if (found == CUDA_NO_SUCH_DEVICE) {
        (void)snprintf(message, ENGINE_MESSAGE_BYTES, "%s: %s", option_of(config, &b), b.note);
        return -ENODEV;
    }
    if (found != CUDA_FOUND && config->backend == ENGINE_BACKEND_CUDA) {
        (void)snprintf(message, ENGINE_MESSAGE_BYTES, "[engine] backend = cuda: %s", b.note);
        return found == CUDA_IN_USE         ? -EBUSY
               : found == CUDA_DRIVER_FAILS ? ENGINE_E_BROKE
                                            : -ENODEV;
    }
    if (found != CUDA_FOUND) {
        struct backend cpu = {0};
        (void)snprintf(cpu.note, sizeof cpu.note, "no GPU is used: %.230s", b.note);
        result = cpu_open(config, message, &cpu);
        b = cpu;
    }
    *ret_backend = b;
    return result;
}

void backend_beside(const struct backend *first, const struct engine_config *config,
                    struct backend *ret_backend)
{
    struct backend b = *first;
    uint32_t gpus = config->ranks_count * config->replica;
    ASSERT(config->replica && config->replica < replicas_count(config) && b.places_count == 1);
    b.places[0].gpu += gpus;
    b.places[0].device_first += gpus;
    b.gpus.locks_count = 0; /* the first one's */
    b.note[0] = '\0';
    if (b.gpus.ops)
        gpu_memory(&b);
    *ret_backend = b;
}

void backend_close(struct backend *b)
{
    if (b->gpus.ops)
        cuda_gpus_close(&b->gpus);
}

void backend_failure(const struct backend *b, char text[CUDA_TEXT_BYTES])
{
    text[0] = '\0';
    if (b->gpus.ops)
        b->gpus.failure(text);
}

bool backend_broke(const struct backend *b, int result)
{
    char text[CUDA_TEXT_BYTES];
    backend_failure(b, text);
    return (result == -EIO || result == -ETIMEDOUT || result == -ECOMM) && text[0];
}
