/* 4 KiB there and 64 bytes back over a UNIX stream socket: a prompt and its first event. The bar
 * compares with blocking sockets, which is how they are used; the variant that polls shows what is
 * left when nobody sleeps. */
#include "bench.h"
#include "ref_socket.h"

#define REQUEST_BYTES 4096
#define REPLY_BYTES 64

static int prepare(struct bench_run *run)
{
    return socket_prepare(run, SOCK_STREAM);
}

static void serve(struct bench_run *run, int flags)
{
    char request[REQUEST_BYTES];
    uint64_t total = (uint64_t)run->warmup_count + run->samples_count;
    for (uint64_t i = 0; i < total; i++) {
        socket_get(run, run->fd[0], request, sizeof request, flags);
        socket_put(run, run->fd[0], request, REPLY_BYTES);
    }
}

static void measure(struct bench_run *run, int flags)
{
    char request[REQUEST_BYTES], reply[REPLY_BYTES];
    memset(request, 'p', sizeof request);
    uint64_t total = (uint64_t)run->warmup_count + run->samples_count;
    for (uint64_t i = 0; i < total; i++) {
        uint64_t before = bench_ticks();
        socket_put(run, run->fd[1], request, sizeof request);
        socket_get(run, run->fd[1], reply, sizeof reply, flags);
        uint64_t now = bench_ticks();
        if (i >= run->warmup_count)
            run->ticks[i - run->warmup_count] = (uint32_t)(now - before);
    }
}

static void server(struct bench_run *run)
{
    serve(run, 0);
}

static void client(struct bench_run *run)
{
    measure(run, 0);
}

static void server_spin(struct bench_run *run)
{
    serve(run, MSG_DONTWAIT);
}

static void client_spin(struct bench_run *run)
{
    measure(run, MSG_DONTWAIT);
}

const struct bench_variant ref_stream_spin = {
    .name = "stream-spin",
    .what = "the same, both polling",
    .samples_count = 5000,
    .warmup_count = 500,
    .prepare = prepare,
    .server = server_spin,
    .client = client_spin,
};

const struct bench_variant ref_stream = {
    .name = "stream",
    .what = "UNIX stream, 4 KiB there and 64 B back",
    .samples_count = 2500,
    .warmup_count = 300,
    .prepare = prepare,
    .server = server,
    .client = client,
};
