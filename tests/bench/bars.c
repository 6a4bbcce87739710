/* What the transport is held to. A ratio divides two variants of the same repeat; the value is the
 * median over the repeats. The names are the list in bars-ipc.txt (bench-ipc --names). */
#include <stdio.h>
#include <string.h>

#include "bench.h"

enum stat { STAT_P50, STAT_P99, STAT_RATE };
enum op { OP_AT_MOST, OP_AT_LEAST, OP_EQUAL };
static const char *const op_text[] = {"<=", ">=", "=="};

enum source { SOURCE_RATIO, SOURCE_COUNTS, SOURCE_IDLE };

struct bar {
    const char *name;
    enum op op;
    double limit;
    enum source source;
    enum bench_id above;
    enum bench_id below;
    enum stat stat;
    size_t offset; /* of the figure in bench_counts or bench_idle */
};

#define RATIO(bar_name, bar_op, bar_limit, a, b, s)                                                \
    {                                                                                              \
        .name = (bar_name), .op = (bar_op), .limit = (bar_limit), .source = SOURCE_RATIO,          \
        .above = (a), .below = (b), .stat = (s),                                                   \
    }
#define COUNT(bar_name, bar_op, bar_limit, field)                                                  \
    {                                                                                              \
        .name = (bar_name), .op = (bar_op), .limit = (bar_limit), .source = SOURCE_COUNTS,         \
        .offset = offsetof(struct bench_counts, field),                                            \
    }
#define IDLE(bar_name, bar_op, bar_limit, field)                                                   \
    {                                                                                              \
        .name = (bar_name), .op = (bar_op), .limit = (bar_limit), .source = SOURCE_IDLE,           \
        .offset = offsetof(struct bench_idle, field),                                              \
    }

static const struct bar bars[] = {
    RATIO("ring-p50-per-raw", OP_AT_MOST, 1.10, BENCH_RING, BENCH_RAW, STAT_P50),
    RATIO("ring-p99-per-raw", OP_AT_MOST, 1.40, BENCH_RING, BENCH_RAW, STAT_P99),
    RATIO("ring-p50-per-ck", OP_AT_MOST, 0.60, BENCH_RING, BENCH_CK, STAT_P50),
    RATIO("awake-p50-per-raw", OP_AT_MOST, 5.0, BENCH_PROGRAM_AWAKE, BENCH_RAW, STAT_P50),
    RATIO("awake-p99-per-raw", OP_AT_MOST, 12.0, BENCH_PROGRAM_AWAKE, BENCH_RAW, STAT_P99),
    RATIO("asleep-p50-per-eventfd", OP_AT_MOST, 1.25, BENCH_PROGRAM_ASLEEP, BENCH_EVENTFD_GAP,
          STAT_P50),
    RATIO("oneway-per-ck", OP_AT_LEAST, 2.5, BENCH_ONEWAY_RING, BENCH_ONEWAY_CK, STAT_RATE),
    RATIO("oneway-doorbell-per-ck", OP_AT_LEAST, 1.0, BENCH_ONEWAY_RING_BELL, BENCH_ONEWAY_CK,
          STAT_RATE),
    RATIO("oneway-batch32-per-ck", OP_AT_LEAST, 2.0, BENCH_ONEWAY_RING_BATCH, BENCH_ONEWAY_CK,
          STAT_RATE),
    RATIO("prompt4k-p50-per-stream", OP_AT_MOST, 0.15, BENCH_PROGRAM_PAYLOAD, BENCH_STREAM,
          STAT_P50),
    COUNT("awake-syscalls", OP_EQUAL, 0.0, inline_syscalls),
    COUNT("awake-allocations", OP_EQUAL, 0.0, inline_allocations),
    COUNT("payload-preads", OP_EQUAL, 1.0, payload_preads),
    COUNT("payload-other-syscalls", OP_EQUAL, 0.0, payload_syscalls),
    IDLE("idle-client-bytes", OP_AT_MOST, 16384.0, bytes_per_client),
    IDLE("idle-cpu-percent", OP_AT_MOST, 1.0, cpu_percent),
};
#define BARS_COUNT (sizeof bars / sizeof bars[0])

static bool chosen(const struct bar *bar, const char *only)
{
    return !only || strstr(bar->name, only) != NULL;
}

bool bars_match(const char *only)
{
    for (size_t i = 0; i < BARS_COUNT; i++)
        if (chosen(&bars[i], only))
            return true;
    return false;
}

bool bars_need_variant(const char *only, enum bench_id id)
{
    if (!only)
        return true;
    for (size_t i = 0; i < BARS_COUNT; i++)
        if (chosen(&bars[i], only) && bars[i].source == SOURCE_RATIO &&
            (bars[i].above == id || bars[i].below == id))
            return true;
    return false;
}

static bool need_source(const char *only, enum source source)
{
    for (size_t i = 0; i < BARS_COUNT; i++)
        if (chosen(&bars[i], only) && bars[i].source == source)
            return true;
    return false;
}

bool bars_need_counts(const char *only)
{
    return need_source(only, SOURCE_COUNTS);
}

bool bars_need_idle(const char *only)
{
    return need_source(only, SOURCE_IDLE);
}

void bars_print_names(void)
{
    for (size_t i = 0; i < BARS_COUNT; i++)
        printf("%s\n", bars[i].name);
}

static double cell_value(const struct bench_cell *cell, enum stat stat)
{
    return stat == STAT_P50 ? cell->p50_ns : stat == STAT_P99 ? cell->p99_ns : cell->rate_mps;
}

/* More than half of the repeats must have both sides: a median of the lucky ones says little. */
static const char *ratio_value(const struct bar *bar, const struct bench_results *results,
                               double ret_span[3])
{
    double ratio[BENCH_REPEATS_MAX];
    size_t count = 0;
    for (uint32_t r = 0; r < results->repeats_count; r++) {
        const struct bench_cell *a = &results->cell[bar->above][r];
        const struct bench_cell *b = &results->cell[bar->below][r];
        if (a->valid && b->valid)
            ratio[count++] = cell_value(a, bar->stat) / cell_value(b, bar->stat);
    }
    if (count * 2 <= results->repeats_count || count == 0) {
        const char *above = results->reason[bar->above];
        const char *below = results->reason[bar->below];
        return above[0] != '\0' ? above : below[0] != '\0' ? below : "not measured";
    }
    ret_span[0] = bench_median(ratio, count); /* sorts */
    ret_span[1] = ratio[0];
    ret_span[2] = ratio[count - 1];
    return NULL;
}

static const char *bar_value(const struct bar *bar, const struct bench_results *results,
                             double ret_span[3])
{
    if (bar->source == SOURCE_RATIO)
        return ratio_value(bar, results, ret_span);
    bool idle = bar->source == SOURCE_IDLE;
    const void *base = idle ? (const void *)&results->idle : (const void *)&results->counts;
    const char *reason = idle ? results->idle.reason : results->counts.reason;
    double value;
    memcpy(&value, (const char *)base + bar->offset, sizeof value);
    if (value < 0)
        return reason[0] != '\0' ? reason : "not measured";
    ret_span[0] = ret_span[1] = ret_span[2] = value;
    return NULL;
}

static bool holds(const struct bar *bar, double value)
{
    switch (bar->op) {
    case OP_AT_MOST:
        return value <= bar->limit;
    case OP_AT_LEAST:
        return value >= bar->limit;
    case OP_EQUAL:
        return value >= bar->limit && value <= bar->limit;
    }
    return false;
}

uint32_t bars_print(const char *only, const struct bench_results *results)
{
    uint32_t short_count = 0;
    printf("\nratios over %u repeats: median [min .. max]\n", results->repeats_count);
    for (size_t i = 0; i < BARS_COUNT; i++) {
        double span[3];
        if (chosen(&bars[i], only) && bars[i].source == SOURCE_RATIO &&
            !bar_value(&bars[i], results, span))
            printf("  %-26s %8.3f [%.3f .. %.3f]\n", bars[i].name, span[0], span[1], span[2]);
    }
    printf("\n");
    for (size_t i = 0; i < BARS_COUNT; i++) {
        const struct bar *bar = &bars[i];
        if (!chosen(bar, only))
            continue;
        double span[3];
        const char *reason = bar_value(bar, results, span);
        bool ok = !reason && holds(bar, span[0]);
        short_count += !ok;
        if (reason)
            printf("bar %s - short (%s)\n", bar->name, reason);
        else
            printf("bar %s %.*f %s %g %s\n", bar->name, span[0] >= 100 ? 0 : 4, span[0],
                   op_text[bar->op], bar->limit, ok ? "ok" : "short");
    }
    return short_count;
}
