/* eventfd ping-pong with blocking reads: what a wake-up costs each way. The second variant pauses
 * between samples exactly as the sleeping program round trip does, so that both sleep as deeply. */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "bench.h"

#define GAP_NS 50000u

static int prepare(struct bench_run *run)
{
    for (int i = 0; i < 2; i++) {
        run->fd[i] = eventfd(0, EFD_CLOEXEC);
        if (run->fd[i] < 0)
            return -errno;
    }
    return 0;
}

static void put(struct bench_run *run, int fd)
{
    uint64_t one = 1;
    if (write(fd, &one, sizeof one) != sizeof one)
        bench_fail(run, "eventfd write: %s", strerror(errno));
}

static void get(struct bench_run *run, int fd)
{
    uint64_t value;
    if (read(fd, &value, sizeof value) != sizeof value)
        bench_fail(run, "eventfd read: %s", strerror(errno));
}

static void server(struct bench_run *run)
{
    uint64_t total = (uint64_t)run->warmup_count + run->samples_count;
    for (uint64_t i = 0; i < total; i++) {
        get(run, run->fd[0]);
        put(run, run->fd[1]);
    }
}

static void measure(struct bench_run *run, uint64_t gap_ns)
{
    uint64_t total = (uint64_t)run->warmup_count + run->samples_count;
    for (uint64_t i = 0; i < total; i++) {
        if (gap_ns > 0)
            bench_spin_ns(gap_ns);
        uint64_t before = bench_ticks();
        put(run, run->fd[0]);
        get(run, run->fd[1]);
        uint64_t now = bench_ticks();
        if (i >= run->warmup_count)
            run->ticks[i - run->warmup_count] = (uint32_t)(now - before);
    }
}

static void client(struct bench_run *run)
{
    measure(run, 0);
}

static void client_gap(struct bench_run *run)
{
    measure(run, GAP_NS);
}

const struct bench_variant ref_eventfd = {
    .name = "eventfd",
    .what = "eventfd ping-pong, blocking",
    .samples_count = 2500,
    .warmup_count = 300,
    .prepare = prepare,
    .server = server,
    .client = client,
};

const struct bench_variant ref_eventfd_gap = {
    .name = "eventfd-gap",
    .what = "the same, 50 us between samples",
    .samples_count = 2000,
    .warmup_count = 200,
    .prepare = prepare,
    .server = server,
    .client = client_gap,
};
