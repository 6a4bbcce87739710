/* 64 bytes there and 64 back over a UNIX SEQPACKET socket. */
#include "bench.h"
#include "ref_socket.h"

#define MESSAGE_BYTES 64

static int prepare(struct bench_run *run)
{
    return socket_prepare(run, SOCK_SEQPACKET);
}

static void server(struct bench_run *run)
{
    char message[MESSAGE_BYTES];
    uint64_t total = (uint64_t)run->warmup_count + run->samples_count;
    for (uint64_t i = 0; i < total; i++) {
        socket_get(run, run->fd[0], message, sizeof message, 0);
        socket_put(run, run->fd[0], message, sizeof message);
    }
}

static void client(struct bench_run *run)
{
    char message[MESSAGE_BYTES] = {0};
    uint64_t total = (uint64_t)run->warmup_count + run->samples_count;
    for (uint64_t i = 0; i < total; i++) {
        uint64_t before = bench_ticks();
        socket_put(run, run->fd[1], message, sizeof message);
        socket_get(run, run->fd[1], message, sizeof message, 0);
        uint64_t now = bench_ticks();
        if (i >= run->warmup_count)
            run->ticks[i - run->warmup_count] = (uint32_t)(now - before);
    }
}

const struct bench_variant ref_seqpacket = {
    .name = "seqpacket",
    .what = "UNIX SEQPACKET ping-pong, 64 B",
    .samples_count = 2500,
    .warmup_count = 300,
    .prepare = prepare,
    .server = server,
    .client = client,
};
