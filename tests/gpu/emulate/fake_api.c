#include "tests/gpu/emulate/fake_api.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/check.h"

#define PINNED_MAX 16u
#define COMMS_MAX 8u
#define STREAMS_MAX 16u

enum work_kind { WORK_COPY, WORK_FILL, WORK_LAUNCH, WORK_RECORD, WORK_WAIT, WORK_GATHER };

struct work {
    struct work *next;
    enum work_kind kind;
    void *to;
    const void *from;
    uint64_t bytes;
    int byte;
    bool owned; /* from: a snapshot */
    struct cuda_launch launch;
    struct event *event;
    uint64_t record;
    struct comm *comm;
    bool arrived, copied; /* WORK_GATHER */
    int device;
};

struct list {
    struct work *first, **end;
};

struct stream {
    struct list work;
    struct list *captured; /* while it captures */
    int device;
};

struct event {
    uint64_t recorded; /* calls */
    uint64_t reached;  /* of them, by their stream */
    int device;
};

struct comm { /* of a rank */
    struct comm *peers[COMMS_MAX];
    uint32_t ranks_count;
    uint32_t rank;
    int device;
    const void *shown; /* while a gather goes on */
    uint64_t arrived_count, copied_count;
    uint64_t busy_count; /* questions until the last call is over */
    bool aborted;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct stream *streams[STREAMS_MAX];
static struct fake_config config;
static struct fake_counts counts;
static struct rng rng;
static uint64_t virtual_ns;
static bool failed;
static __thread int thread_device;
static __thread bool comms_begun;
static const char *failed_call = "";
static struct {
    uint8_t *first;
    uint64_t bytes;
} pinned[PINNED_MAX];

void fake_reset(const struct fake_config *new_config)
{
    config = *new_config;
    counts = (struct fake_counts){0};
    rng.state = config.seed;
    simt_seed(config.seed);
    virtual_ns = 0;
    failed = false;
    failed_call = "";
}

void fake_hang(void)
{
    config.hangs = true;
}

void fake_fail(uint64_t call, int error)
{
    pthread_mutex_lock(&mutex);
    config.fail_call = call;
    config.fail_error = error;
    config.fail_stays = true;
    pthread_mutex_unlock(&mutex);
}

struct fake_counts fake_counts(void)
{
    return counts;
}

const char *fake_failed_call(void)
{
    return failed_call;
}

/* Locked. The call's error if it is the one to fail. */
static int call_count(const char *name, bool fails)
{
    counts.calls++;
    config.hangs |= config.hang_call && counts.calls >= config.hang_call;
    if (fails || (config.fail_call && counts.calls == config.fail_call)) {
        failed = true;
        failed_call = name;
        return config.fail_error;
    }
    return failed && config.fail_stays ? config.fail_error : 0;
}

/* Begins a call: locked from here, and its error if it is the one to fail. */
static int call_begin(const char *name)
{
    pthread_mutex_lock(&mutex);
    return call_count(name, false);
}

/* The same of NCCL, which has its own numbers. */
static int comm_begin(const char *name)
{
    int own = config.fail_comm_error ? config.fail_comm_error : FAKE_COMM_ERROR;
    return call_begin(name) ? own : 0;
}

/* Begins a call that gives back, for which the runtime may wait for the device. */
static int waiting_begin(const char *name)
{
    int error = call_begin(name);
    CHECK(!config.hangs, "%s, which never returns: a device hangs", name);
    return error;
}

static int call_end(int error)
{
    pthread_mutex_unlock(&mutex);
    return error;
}

static bool is_pinned(const void *p)
{
    for (uint32_t i = 0; i < PINNED_MAX; i++)
        if (pinned[i].first && (const uint8_t *)p >= pinned[i].first &&
            (const uint8_t *)p < pinned[i].first + pinned[i].bytes)
            return true;
    return false;
}

/* ---- work ------------------------------------------------------------------------------------- */

/* Returns whether it is done. */
static bool gather_run(struct work *w)
{
    struct comm *c = w->comm;
    uint64_t arrived = 0, copied = 0;
    if (!w->arrived) {
        c->shown = w->from;
        c->arrived_count++;
        w->arrived = true;
    }
    for (uint32_t r = 0; r < c->ranks_count; r++)
        arrived += c->peers[r]->arrived_count >= c->arrived_count;
    if (arrived < c->ranks_count)
        return false;
    if (!w->copied) {
        for (uint32_t r = 0; r < c->ranks_count; r++)
            memcpy((uint8_t *)w->to + r * w->bytes, c->peers[r]->shown, w->bytes);
        c->copied_count++;
        w->copied = true;
    }
    for (uint32_t r = 0; r < c->ranks_count; r++)
        copied += c->peers[r]->copied_count >= c->copied_count;
    return copied == c->ranks_count;
}

static void launch_run(const struct cuda_launch *l, int device)
{
    struct simt_shape shape = {{l->grid[0], l->grid[1]}, l->block, l->shared_bytes, device};
    struct simt_counts seen = {0};
    simt_run(&shape, l->host_call, l->kernel, l->argument, l->argument_bytes, l->name,
             config.launched ? &seen : NULL);
    if (config.launched)
        config.launched(l, &seen);
}

static bool work_run(struct work *w)
{
    switch (w->kind) {
    case WORK_COPY:
        memmove(w->to, w->from, w->bytes);
        return true;
    case WORK_FILL:
        memset(w->to, w->byte, w->bytes);
        return true;
    case WORK_LAUNCH:
        launch_run(&w->launch, w->device);
        return true;
    case WORK_RECORD:
        w->event->reached = w->record;
        return true;
    case WORK_WAIT:
        return w->event->reached >= w->record;
    case WORK_GATHER:
        return w->comm->aborted || gather_run(w);
    }
    return false;
}

static void list_pop(struct list *l)
{
    struct work *w = l->first;
    l->first = w->next;
    if (!l->first)
        l->end = &l->first;
    if (w->owned)
        free((void *)(uintptr_t)w->from);
    free((void *)(uintptr_t)w->launch.argument);
    free(w);
}

static struct list *list_new(void)
{
    struct list *l = calloc(1, sizeof *l);
    CHECK(l, "no memory");
    l->end = &l->first;
    return l;
}

static void list_free(struct list *l)
{
    while (l->first)
        list_pop(l);
    free(l);
}

/* At most so many pieces; returns whether nothing is left. */
static bool stream_run(struct stream *s, uint64_t most)
{
    CHECK(!s->captured, "asked whether a stream that captures is done");
    while (s->work.first && most-- > 0 && !config.hangs && work_run(s->work.first))
        list_pop(&s->work);
    return !s->work.first;
}

static struct work *work_add(struct stream *s, enum work_kind kind)
{
    struct list *l = s->captured ? s->captured : &s->work;
    struct work *w = calloc(1, sizeof *w);
    CHECK(w, "no memory");
    CHECK(!s->captured || kind == WORK_LAUNCH || kind == WORK_GATHER,
          "a stream that captures is given work %d", (int)kind);
    w->kind = kind;
    w->device = s->device;
    *l->end = w;
    l->end = &w->next;
    return w;
}

static void device_check(const struct stream *s)
{
    CHECK(s->device == thread_device, "a call for device %d from a thread of device %d", s->device,
          thread_device);
}

static const void *snapshot(const void *from, uint64_t bytes)
{
    void *to = malloc(bytes + 1);
    CHECK(to, "no memory");
    memcpy(to, from, bytes);
    return to;
}

/* ---- memory ----------------------------------------------------------------------------------- */

static int device_count(int *ret_count)
{
    int error = call_begin("cudaGetDeviceCount");
    if (!error)
        *ret_count = (int)config.devices_count;
    return call_end(error);
}

static int device_info(int device, struct cuda_device_info *ret_info)
{
    int error = call_begin("cudaDeviceGetAttribute");
    CHECK((uint32_t)device < config.devices_count, "device %d", device);
    if (!error)
        *ret_info = (struct cuda_device_info){.capability = 80,
                                              .shared_bytes_max = config.shared_bytes_max};
    return call_end(error);
}

static int device_set(int device)
{
    int error = call_begin("cudaSetDevice");
    error = error ? error : (uint32_t)device < config.devices_count ? 0 : 101;
    thread_device = error ? thread_device : device;
    return call_end(error);
}

static int memory_new(void **ret_memory, uint64_t bytes)
{
    int error = call_begin("cudaMalloc");
    if (!error) {
        *ret_memory = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
        CHECK(*ret_memory, "no memory");
        if (!config.lean)
            memset(*ret_memory, config.idle ? 0 : 0xff, bytes);
        if (!config.idle) {
            simt_memory_add(*ret_memory, bytes, thread_device);
        }
        counts.live++;
    }
    return call_end(error);
}

static int memory_free(void *memory)
{
    int error = waiting_begin("cudaFree");
    simt_memory_remove(memory); /* a failing free gives it back here: the process is ending */
    free(memory);
    counts.live--;
    return call_end(error);
}

static int memory_room(uint64_t *ret_bytes)
{
    int error = call_begin("cudaMemGetInfo");
    if (!error)
        *ret_bytes = config.memory_bytes - counts.graphs * FAKE_GRAPH_BYTES;
    return call_end(error);
}

static int pinned_new(void **ret_memory, uint64_t bytes)
{
    int error = call_begin("cudaMallocHost");
    for (uint32_t i = 0; !error && i < PINNED_MAX; i++) {
        if (pinned[i].first)
            continue;
        *ret_memory = pinned[i].first = malloc(bytes);
        pinned[i].bytes = bytes;
        CHECK(*ret_memory, "no memory");
        memset(*ret_memory, 0xff, bytes);
        counts.live++;
        break;
    }
    return call_end(error);
}

static int pinned_free(void *memory)
{
    int error = waiting_begin("cudaFreeHost");
    for (uint32_t i = 0; i < PINNED_MAX; i++)
        if (pinned[i].first == memory)
            pinned[i].first = NULL;
    free(memory);
    counts.live--;
    return call_end(error);
}

/* ---- streams and events ----------------------------------------------------------------------- */

static int stream_new(void **ret_stream)
{
    int error = call_begin("cudaStreamCreate");
    if (!error) {
        struct stream *s = calloc(1, sizeof *s);
        CHECK(s, "no memory");
        s->work.end = &s->work.first;
        s->device = thread_device;
        *ret_stream = s;
        uint32_t i = 0;
        while (streams[i])
            CHECK(++i < STREAMS_MAX, "too many streams");
        streams[i] = s;
        counts.live++;
    }
    return call_end(error);
}

static int stream_free(void *stream)
{
    int error = call_begin("cudaStreamDestroy");
    struct stream *s = stream;
    CHECK(!s->captured, "a stream that captures is closed");
    while (s->work.first)
        list_pop(&s->work);
    for (uint32_t i = 0; i < STREAMS_MAX; i++)
        if (streams[i] == s)
            streams[i] = NULL;
    free(s);
    counts.live--;
    return call_end(error);
}

static int stream_query(void *stream)
{
    int error = call_begin("cudaStreamQuery");
    device_check(stream);
    if (!error && !stream_run(stream, rng_below(&rng, 8)))
        error = CUDA_API_NOT_READY;
    return call_end(error);
}

static int event_new(void **ret_event)
{
    int error = call_begin("cudaEventCreate");
    if (!error) {
        struct event *e = calloc(1, sizeof *e);
        CHECK(e, "no memory");
        e->device = thread_device;
        *ret_event = e;
        counts.live++;
    }
    return call_end(error);
}

static int event_free(void *event)
{
    int error = call_begin("cudaEventDestroy");
    free(event);
    counts.live--;
    return call_end(error);
}

static int event_record(void *event, void *stream)
{
    int error = call_begin("cudaEventRecord");
    device_check(stream);
    CHECK(((struct event *)event)->device == thread_device, "an event of device %d",
          ((struct event *)event)->device);
    if (!error) {
        struct work *w = work_add(stream, WORK_RECORD);
        w->event = event;
        w->record = ++w->event->recorded;
    }
    return call_end(error);
}

/* For what was recorded last; if nothing was, for nothing. */
static int event_wait(void *event, void *stream)
{
    int error = call_begin("cudaStreamWaitEvent");
    device_check(stream);
    if (!error) {
        struct work *w = work_add(stream, WORK_WAIT);
        w->event = event;
        w->record = w->event->recorded;
    }
    return call_end(error);
}

/* It may be any stream's: all of them go on a little. */
static int event_query(void *event)
{
    int error = call_begin("cudaEventQuery");
    struct event *e = event;
    for (uint32_t i = 0; !error && i < STREAMS_MAX; i++)
        if (streams[i] && !streams[i]->captured)
            (void)stream_run(streams[i], rng_below(&rng, 4));
    if (!error && e->reached < e->recorded)
        error = CUDA_API_NOT_READY;
    return call_end(error);
}

/* ---- work that is asked for ------------------------------------------------------------------- */

static int copy(void *to, const void *from, uint64_t bytes, void *stream)
{
    int error = call_begin("cudaMemcpyAsync");
    device_check(stream);
    bool to_device = simt_memory_has(to, bytes), from_device = simt_memory_has(from, bytes);
    counts.copied_bytes += error ? 0 : bytes;
    if (config.idle) {
        if (!error)
            memcpy(to, from, bytes); /* what a copy costs the host */
        return call_end(error);
    }
    CHECK(to_device || from_device, "a copy of %llu bytes with no end on a device",
          (unsigned long long)bytes);
    if (!error && !to_device && !is_pinned(to)) {
        while (!stream_run(stream, UINT64_MAX)) /* a hang hangs here as well */
            CHECK(!config.hangs, "a copy that waits for a device that hangs");
        memcpy(to, from, bytes);
    } else if (!error) {
        struct work *w = work_add(stream, WORK_COPY);
        w->owned = !from_device && !is_pinned(from);
        w->to = to;
        w->from = w->owned ? snapshot(from, bytes) : from;
        w->bytes = bytes;
    }
    return call_end(error);
}

static int fill(void *to, int byte, uint64_t bytes, void *stream)
{
    int error = call_begin("cudaMemsetAsync");
    device_check(stream);
    counts.filled_bytes += error ? 0 : bytes;
    CHECK(config.idle || simt_memory_has(to, bytes), "fills what is not the device's");
    if (!error && !config.idle && !config.lean) {
        struct work *w = work_add(stream, WORK_FILL);
        w->to = to;
        w->byte = byte;
        w->bytes = bytes;
    }
    return call_end(error);
}

static int kernel_shared(const void *kernel, uint32_t bytes)
{
    (void)kernel;
    (void)bytes;
    return call_end(call_begin("cudaFuncSetAttribute"));
}

static int launch(const struct cuda_launch *l, void *stream)
{
    int error = call_begin("cudaLaunchKernel");
    device_check(stream);
    CHECK(l->argument_bytes <= 4096, "kernel %s: an argument of %llu bytes", l->name,
          (unsigned long long)l->argument_bytes);
    counts.launches += !error;
    counts.launch_bytes += error ? 0 : l->bytes;
    if (!error && !config.idle) {
        struct work *w = work_add(stream, WORK_LAUNCH);
        w->launch = *l;
        w->launch.argument = snapshot(l->argument, l->argument_bytes);
    }
    return call_end(error);
}

/* ---- graphs: lists of work -------------------------------------------------------------------- */

static int capture_begin(void *stream)
{
    int error = call_begin("cudaStreamBeginCapture");
    struct stream *s = stream;
    device_check(s);
    CHECK(!s->captured, "a stream that captures is to capture");
    if (!error)
        s->captured = list_new();
    return call_end(error);
}

/* A capture ends with the call, error or not. */
static int capture_end(void *stream, void **ret_captured)
{
    int error = call_begin("cudaStreamEndCapture");
    struct stream *s = stream;
    CHECK(s->captured, "a stream that does not capture is to end it");
    if (error) {
        list_free(s->captured);
    } else {
        *ret_captured = s->captured;
        counts.live++;
    }
    s->captured = NULL;
    return call_end(error);
}

static int capture_free(void *captured)
{
    int error = call_begin("cudaGraphDestroy");
    list_free(captured);
    counts.live--;
    return call_end(error);
}

static void work_repeat(struct stream *s, const struct work *from)
{
    struct work *w = work_add(s, from->kind), *next = w->next;
    CHECK(s->device == from->device, "a graph of device %d on device %d", from->device, s->device);
    *w = *from;
    w->next = next;
    if (from->kind == WORK_LAUNCH)
        w->launch.argument = snapshot(from->launch.argument, from->launch.argument_bytes);
}

static int graph_new(void **ret_graph, void *captured)
{
    int error = call_begin("cudaGraphInstantiate");
    if (!error) {
        struct stream *graph = calloc(1, sizeof *graph);
        CHECK(graph, "no memory");
        graph->device = thread_device;
        graph->work.end = &graph->work.first;
        for (const struct work *w = ((struct list *)captured)->first; w; w = w->next)
            work_repeat(graph, w);
        *ret_graph = graph;
        counts.live++;
        counts.graphs++;
    }
    return call_end(error);
}

static int graph_free(void *graph)
{
    int error = call_begin("cudaGraphExecDestroy");
    struct stream *g = graph;
    while (g->work.first)
        list_pop(&g->work);
    free(g);
    counts.live--;
    counts.graphs--;
    return call_end(error);
}

static int graph_upload(void *graph, void *stream)
{
    int error = call_begin("cudaGraphUpload");
    device_check(stream);
    CHECK(graph && !((struct stream *)stream)->captured, "no graph, or the stream captures");
    return call_end(error);
}

static int graph_launch(void *graph, void *stream)
{
    pthread_mutex_lock(&mutex);
    device_check(stream);
    bool counted = (uint32_t)thread_device >= config.graph_device_first;
    config.hangs |= counted && config.hang_graph && --config.hang_graph == 0;
    int error =
        call_count("cudaGraphLaunch", counted && config.fail_graph && --config.fail_graph == 0);
    for (const struct work *w = ((struct stream *)graph)->work.first; w && !error; w = w->next) {
        counts.replayed += w->kind == WORK_LAUNCH;
        work_repeat(stream, w);
    }
    return call_end(error);
}

static const char *error_text(int error)
{
    return error == CUDA_API_MEMORY ? "out of memory" : "a fault that was asked for";
}

static uint64_t time_ns(void)
{
    return config.virtual_time ? virtual_ns : now_ns();
}

static void give_way(void)
{
    virtual_ns += 100 * NS_PER_MS;
    sleep_ns(5000); /* on a busy machine, giving the processor away costs milliseconds */
}

/* ---- communicators ---------------------------------------------------------------------------- */

/* A group of ranks that is being made; one at a time. */
static struct comm *made[COMMS_MAX];
static uint32_t made_count;

static int comm_id(struct cuda_comm_id *ret_id)
{
    int error = comm_begin("ncclGetUniqueId");
    if (!error && config.has_nccl)
        *ret_id = (struct cuda_comm_id){"a group"};
    return call_end(error ? error : config.has_nccl ? 0 : -ENOENT);
}

static int comms_begin(void)
{
    int error = comm_begin("ncclGroupStart");
    CHECK(!comms_begun, "a group in a group");
    comms_begun = !error;
    made_count = 0;
    return call_end(error);
}

static int comm_new(void **ret_comm, uint32_t count, const struct cuda_comm_id *id, uint32_t rank)
{
    int error = comm_begin("ncclCommInitRankConfig");
    CHECK(comms_begun && rank < count && count <= COMMS_MAX && strcmp(id->bytes, "a group") == 0,
          "rank %u of %u", rank, count);
    if (error)
        return call_end(error);
    struct comm *c = calloc(1, sizeof *c);
    CHECK(c, "no memory");
    *c = (struct comm){.ranks_count = count, .rank = rank, .device = thread_device};
    c->busy_count = rng_below(&rng, 4);
    for (uint32_t r = 0; r < made_count; r++)
        CHECK(made[r]->device != c->device, "two ranks on device %d", c->device);
    made[made_count++] = c;
    counts.live++;
    *ret_comm = c;
    return call_end(CUDA_API_COMM_BUSY);
}

static int comms_end(void)
{
    int error = comm_begin("ncclGroupEnd");
    CHECK(comms_begun, "the end of no group");
    comms_begun = false;
    for (uint32_t r = 0; r < made_count && !error; r++)
        memcpy(made[r]->peers, made, sizeof made);
    return call_end(error ? error : CUDA_API_COMM_BUSY);
}

static int comm_gather(void *comm, const void *from, void *to, uint64_t bytes, void *stream)
{
    int error = comm_begin("ncclAllGather");
    struct comm *c = comm;
    device_check(stream);
    CHECK(c->device == thread_device, "a communicator of device %d", c->device);
    CHECK(c->busy_count == 0, "a call while the last one goes on");
    if (error)
        return call_end(error);
    struct work *w = work_add(stream, WORK_GATHER);
    w->comm = comm;
    w->to = to;
    w->from = from;
    w->bytes = bytes;
    c->busy_count = rng_below(&rng, 3);
    return call_end(c->busy_count ? CUDA_API_COMM_BUSY : 0);
}

static int comm_error(void *comm)
{
    int error = comm_begin("ncclCommGetAsyncError");
    struct comm *c = comm;
    if (!error && c->busy_count) {
        c->busy_count -= !config.hangs;
        error = CUDA_API_COMM_BUSY;
    }
    return call_end(error);
}

/* Not freed: other ranks may still look at it. */
static void comm_abort(void *comm)
{
    (void)waiting_begin("ncclCommAbort");
    ((struct comm *)comm)->aborted = true;
    counts.live--;
    counts.aborted++;
    (void)call_end(0);
}

static const char *comm_text(int error)
{
    return error == FAKE_COMM_ERROR ? "internal error" : "a fault of NCCL that was asked for";
}

const struct cuda_api *fake_api(void)
{
    static const struct cuda_api api = {.device_count = device_count,
                                        .device_info = device_info,
                                        .device_set = device_set,
                                        .memory_new = memory_new,
                                        .memory_free = memory_free,
                                        .memory_room = memory_room,
                                        .pinned_new = pinned_new,
                                        .pinned_free = pinned_free,
                                        .stream_new = stream_new,
                                        .stream_free = stream_free,
                                        .stream_query = stream_query,
                                        .event_new = event_new,
                                        .event_free = event_free,
                                        .event_record = event_record,
                                        .event_wait = event_wait,
                                        .event_query = event_query,
                                        .copy = copy,
                                        .fill = fill,
                                        .kernel_shared = kernel_shared,
                                        .launch = launch,
                                        .capture_begin = capture_begin,
                                        .capture_end = capture_end,
                                        .capture_free = capture_free,
                                        .graph_new = graph_new,
                                        .graph_free = graph_free,
                                        .graph_upload = graph_upload,
                                        .graph_launch = graph_launch,
                                        .error_text = error_text,
                                        .time_ns = time_ns,
                                        .give_way = give_way,
                                        .comm_id = comm_id,
                                        .comms_begin = comms_begin,
                                        .comm_new = comm_new,
                                        .comms_end = comms_end,
                                        .comm_gather = comm_gather,
                                        .comm_error = comm_error,
                                        .comm_abort = comm_abort,
                                        .comm_text = comm_text};
    return &api;
}
