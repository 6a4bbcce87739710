/* bench-ipc [--repeats N] [--only NAME] [--quick] [--names]
 *
 * Prints machine, table and, last, one line a bar: `bar NAME VALUE OP LIMIT ok|short`. Ends with 1
 * when a bar is short. --only: bars whose name contains NAME and what they need. --quick: 3 repeats
 * of fewer samples, to see that it works; its figures are not for publication. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "bench.h"
#include "bench_daemon.h"

static const struct bench_variant *const variants[BENCH_COUNT] = {
    [BENCH_RAW] = &ref_raw,
    [BENCH_RING] = &ring_checked,
    [BENCH_RING_PLAIN] = &ring_plain,
    [BENCH_CK] = &ref_ck,
    [BENCH_EVENTFD] = &ref_eventfd,
    [BENCH_EVENTFD_GAP] = &ref_eventfd_gap,
    [BENCH_SEQPACKET] = &ref_seqpacket,
    [BENCH_STREAM] = &ref_stream,
    [BENCH_STREAM_SPIN] = &ref_stream_spin,
    [BENCH_ONEWAY_RING] = &oneway_plain,
    [BENCH_ONEWAY_RING_BELL] = &oneway_bell,
    [BENCH_ONEWAY_RING_BATCH] = &oneway_batch,
    [BENCH_ONEWAY_CK] = &ref_ck_oneway,
    [BENCH_PROGRAM_AWAKE] = &program_awake,
    [BENCH_PROGRAM_PAYLOAD] = &program_payload,
    [BENCH_PROGRAM_ASLEEP] = &program_asleep,
};

struct bench {
    const char *only;
    bool quick;
    uint64_t deadline_ns;
    struct bench_run *run;
    struct bench_daemon daemon[3]; /* by enum bench_daemon_kind; NONE stays unused */
    uint32_t *pool[BENCH_COUNT];   /* samples of a repeat, all slices */
    uint64_t pooled_count[BENCH_COUNT];
    double pooled_seconds[BENCH_COUNT];
    bool failed[BENCH_COUNT]; /* in this repeat */
    struct bench_results results;
};

/* Jiffies of all CPUs that were not idle, for the share that others took. */
static double busy_seconds(void)
{
    FILE *f = fopen("/proc/stat", "r");
    if (!f)
        return 0;
    unsigned long long v[8] = {0};
    int n = fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &v[0], &v[1], &v[2], &v[3],
                   &v[4], &v[5], &v[6], &v[7]);
    (void)fclose(f); /* only read */
    if (n < 8)
        return 0;
    return (double)(v[0] + v[1] + v[2] + v[5] + v[6] + v[7]) / (double)sysconf(_SC_CLK_TCK);
}

static double own_seconds(void)
{
    double sum = 0;
    const int who[2] = {RUSAGE_SELF, RUSAGE_CHILDREN};
    for (int i = 0; i < 2; i++) {
        struct rusage u;
        if (getrusage(who[i], &u) == 0)
            sum += (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
                   (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
    }
    return sum;
}

static void print_machine(void)
{
    struct utsname u;
    char line[256], model[128] = "unknown CPU";
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "model name : %127[^\n]", model) == 1)
            break;
    if (f)
        (void)fclose(f); /* only read */
    if (uname(&u) == 0)
        printf("machine: %s, %ld CPUs online, %s %s; pinned to CPUs %d and %d; %.4f ns a tick\n",
               model, sysconf(_SC_NPROCESSORS_ONLN), u.sysname, u.release, bench_cpu(0),
               bench_cpu(1), bench_ns_per_tick());
}

static void slice_fail(struct bench *b, enum bench_id id, const char *reason)
{
    b->failed[id] = true;
    (void)snprintf(b->results.reason[id], BENCH_REASON_BYTES, "%s", reason);
}

static void slice_run(struct bench *b, enum bench_id id, uint32_t turn)
{
    const struct bench_variant *v = variants[id];
    struct bench_run *run = b->run;
    uint32_t divide = b->quick ? 8 : 1;
    if (b->failed[id])
        return;
    if (bench_now_ns() > b->deadline_ns) {
        slice_fail(b, id, "out of time");
        return;
    }
    if (v->daemon != BENCH_DAEMON_NONE && b->daemon[v->daemon].reason[0] != '\0') {
        slice_fail(b, id, b->daemon[v->daemon].reason);
        return;
    }
    memset(run->memory, 0, BENCH_MEMORY_BYTES);
    run->samples_count = v->samples_count / divide;
    run->warmup_count = v->warmup_count;
    run->turn = turn;
    run->messages_count = v->messages_count / divide / 32 * 32;
    run->socket_path = b->daemon[v->daemon].socket_path; /* of kind NONE: an empty string */
    run->control_path = b->daemon[v->daemon].control_path;
    int r = v->prepare ? v->prepare(run) : 0;
    if (r < 0)
        slice_fail(b, id, strerror(-r));
    else if (bench_pair(run, v->server, v->client, 10.0) < 0)
        slice_fail(b, id, run->reason);
    for (size_t i = 0; i < sizeof run->fd / sizeof run->fd[0]; i++) {
        if (run->fd[i] >= 0)
            (void)close(run->fd[i]); /* a reference's descriptor: nothing to lose */
        run->fd[i] = -1;
    }
    if (b->failed[id])
        return;
    if (v->samples_count > 0) {
        memcpy(b->pool[id] + b->pooled_count[id], run->ticks,
               run->samples_count * sizeof *run->ticks);
        b->pooled_count[id] += run->samples_count;
    } else {
        b->pooled_count[id] += run->messages_count;
        b->pooled_seconds[id] += run->seconds;
    }
}

static void repeat_finish(struct bench *b, uint32_t repeat)
{
    for (uint32_t id = 0; id < BENCH_COUNT; id++) {
        struct bench_cell *cell = &b->results.cell[id][repeat];
        uint64_t count = b->pooled_count[id];
        cell->valid = !b->failed[id] && count > 0;
        if (cell->valid && variants[id]->samples_count > 0) {
            double ns = bench_ns_per_tick();
            cell->p50_ns = ns * bench_quantile_u32(b->pool[id], count, 0.50);
            cell->p99_ns = ns * bench_quantile_u32(b->pool[id], count, 0.99);
        } else if (cell->valid) {
            cell->rate_mps = (double)count / b->pooled_seconds[id] / 1e6;
        }
    }
}

static void repeat_run(struct bench *b, uint32_t repeat)
{
    memset(b->pooled_count, 0, sizeof b->pooled_count);
    memset(b->pooled_seconds, 0, sizeof b->pooled_seconds);
    memset(b->failed, 0, sizeof b->failed);
    for (uint32_t slice = 0; slice < BENCH_SLICES; slice++)
        for (uint32_t id = 0; id < BENCH_COUNT; id++)
            if (bars_need_variant(b->only, id))
                slice_run(b, id, repeat * BENCH_SLICES + slice);
    repeat_finish(b, repeat);
    b->results.repeats_count = repeat + 1;
}

/* Medians over the repeats, with the span. */
static void print_row(const struct bench_results *results, enum bench_id id)
{
    double p50[BENCH_REPEATS_MAX], p99[BENCH_REPEATS_MAX], rate[BENCH_REPEATS_MAX];
    size_t count = 0;
    for (uint32_t r = 0; r < results->repeats_count; r++) {
        const struct bench_cell *cell = &results->cell[id][r];
        if (!cell->valid)
            continue;
        p50[count] = cell->p50_ns;
        p99[count] = cell->p99_ns;
        rate[count++] = cell->rate_mps;
    }
    if (count == 0) {
        printf("  %-16s %-44s - (%s)\n", variants[id]->name, variants[id]->what,
               results->reason[id][0] != '\0' ? results->reason[id] : "not asked for");
        return;
    }
    printf("  %-16s %-44s", variants[id]->name, variants[id]->what);
    if (variants[id]->samples_count > 0) {
        double m50 = bench_median(p50, count), m99 = bench_median(p99, count);
        printf(" p50 %7.0f [%.0f .. %.0f] p99 %7.0f [%.0f .. %.0f] ns\n", m50, p50[0],
               p50[count - 1], m99, p99[0], p99[count - 1]);
    } else {
        double m = bench_median(rate, count);
        printf(" %6.1f [%.1f .. %.1f] M messages/s\n", m, rate[0], rate[count - 1]);
    }
}

static int pools_init(struct bench *b)
{
    b->run = bench_run_new();
    if (!b->run)
        return -ENOMEM;
    for (uint32_t id = 0; id < BENCH_COUNT; id++) {
        if (variants[id]->samples_count > BENCH_SAMPLES_MAX)
            return -EINVAL;
        b->pool[id] =
            calloc(BENCH_SLICES * ((size_t)variants[id]->samples_count + 1), sizeof(uint32_t));
        if (!b->pool[id])
            return -ENOMEM;
    }
    return 0;
}

static void daemons_start(struct bench *b)
{
    for (uint32_t id = 0; id < BENCH_COUNT; id++) {
        enum bench_daemon_kind kind = variants[id]->daemon;
        struct bench_daemon *d = &b->daemon[kind];
        if (kind == BENCH_DAEMON_NONE || !bars_need_variant(b->only, id) || d->pid != 0 ||
            d->reason[0] != '\0')
            continue;
        struct bench_daemon_options options = {
            .pinned = true, .spin_max_us = kind == BENCH_DAEMON_SPIN ? 50 : 0, .clients_max = 8};
        (void)bench_daemon_start(d, &options); /* says in d->reason why not */
    }
}

static int parse(int argc, char **argv, struct bench *b, uint32_t *ret_repeats)
{
    static const struct option options[] = {{"repeats", required_argument, NULL, 'r'},
                                            {"only", required_argument, NULL, 'o'},
                                            {"quick", no_argument, NULL, 'q'},
                                            {"names", no_argument, NULL, 'n'},
                                            {0}};
    bool names = false;
    unsigned long repeats = 0;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'r':
            repeats = strtoul(optarg, NULL, 10);
            if (repeats < 1 || repeats > BENCH_REPEATS_MAX) {
                (void)fprintf(stderr, "--repeats: 1 .. %u\n", BENCH_REPEATS_MAX);
                return -EINVAL;
            }
            break;
        case 'o':
            b->only = optarg;
            break;
        case 'q':
            b->quick = true;
            break;
        case 'n':
            names = true;
            break;
        default:
            return -EINVAL;
        }
    }
    if (optind != argc || !bars_match(b->only)) {
        (void)fprintf(stderr, "no such bar; bench-ipc --names lists them\n");
        return -EINVAL;
    }
    if (names) {
        bars_print_names();
        exit(0);
    }
    *ret_repeats = repeats != 0 ? (uint32_t)repeats : b->quick ? 3 : BENCH_REPEATS;
    return 0;
}

static void measure_single(struct bench *b)
{
    struct bench_results *r = &b->results;
    r->counts = (struct bench_counts){-1, -1, -1, -1, ""};
    r->idle = (struct bench_idle){-1, -1, ""};
    if (bars_need_counts(b->only) && bench_now_ns() < b->deadline_ns)
        counts_run(&r->counts, b->quick ? 2000 : 20000);
    if (bars_need_idle(b->only) && bench_now_ns() < b->deadline_ns)
        idle_clients_run(&r->idle, b->quick ? 256 : 0, b->quick ? 1 : 5);
}

int main(int argc, char **argv)
{
    static struct bench b; /* zero, and too large for the stack */
    uint32_t repeats;
    if (parse(argc, argv, &b, &repeats) < 0)
        return 2;
    (void)setvbuf(stdout, NULL, _IOLBF, 0); /* fails only for a bad mode */
    uint64_t started_ns = bench_now_ns();
    b.deadline_ns = started_ns + BENCH_SECONDS_MAX * 1000000000ull;
    double busy = busy_seconds(), own = own_seconds();
    int r = bench_cpus_init();
    if (r == 0)
        r = pools_init(&b);
    if (r < 0) {
        (void)fprintf(stderr, "bench-ipc: %s\n", r == -ENODEV ? "needs two CPUs" : strerror(-r));
        return 2;
    }
    bench_calibrate();
    print_machine();
    daemons_start(&b);
    for (uint32_t i = 0; i < repeats; i++)
        repeat_run(&b, i);
    for (size_t i = 0; i < sizeof b.daemon / sizeof b.daemon[0]; i++)
        bench_daemon_stop(&b.daemon[i]);
    measure_single(&b);
    printf("medians over %u repeats [min .. max]\n", repeats);
    for (uint32_t id = 0; id < BENCH_COUNT; id++)
        if (bars_need_variant(b.only, id))
            print_row(&b.results, id);
    double seconds = (double)(bench_now_ns() - started_ns) / 1e9;
    double foreign = (busy_seconds() - busy) - (own_seconds() - own);
    printf("took %.1f s; other processes used %.0f %% of two CPUs meanwhile\n", seconds,
           100 * (foreign > 0 ? foreign : 0) / (2 * seconds));
    return bars_print(b.only, &b.results) == 0 ? 0 : 1;
}
