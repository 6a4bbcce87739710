/* What the engine is held to. The names are the list in tests/bench/bars-engine.txt. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/bench/engine/bench_engine.h"

enum op { OP_AT_MOST, OP_AT_LEAST, OP_EQUAL };
static const char *const op_text[] = {"<=", ">=", "=="};

static const struct bar {
    const char *name;
    enum op op;
    double limit;
} bars[BAR_COUNT] = {
    [BAR_DECODE_B1_BANDWIDTH] = {"decode_b1_bandwidth", OP_AT_LEAST, 0.75},
    [BAR_DECODE_B32_OVER_B1] = {"decode_b32_over_b1", OP_AT_LEAST, 12},
    [BAR_PREFILL512_AMX] = {"prefill512_amx", OP_AT_LEAST, 0.15},
    [BAR_SHARED_PREFIX_ATTENTION] = {"shared_prefix_attention", OP_AT_LEAST, 5},
    [BAR_SHARED_PREFIX_KV_PAGES] = {"shared_prefix_kv_pages", OP_EQUAL, 1},
    [BAR_SIGNALS_SHARE] = {"signals_share", OP_AT_MOST, 0.01},
    [BAR_FORK_US] = {"fork_us", OP_AT_MOST, 20},
    [BAR_PLAN_US] = {"plan_us", OP_AT_MOST, 100},
    [BAR_PEER_DECODE_B1] = {"peer_decode_b1", OP_AT_LEAST, 1},
    [BAR_PEER_DECODE_B32] = {"peer_decode_b32", OP_AT_LEAST, 1},
    [BAR_PEER_PREFILL512] = {"peer_prefill512", OP_AT_LEAST, 1},
};

static struct value {
    bool known;
    double value;
    const char *reason;
} values[BAR_COUNT];

void bars_names(void)
{
    for (uint32_t i = 0; i < BAR_COUNT; i++)
        printf("%s\n", bars[i].name);
}

void bars_set(enum bar_id id, double value)
{
    values[id] = (struct value){.known = true, .value = value};
}

void bars_missing(enum bar_id id, const char *reason)
{
    values[id] = (struct value){.reason = reason};
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

uint32_t bars_print(void)
{
    uint32_t short_count = 0;
    printf("\n");
    for (uint32_t i = 0; i < BAR_COUNT; i++) {
        const struct bar *bar = &bars[i];
        const struct value *v = &values[i];
        bool ok = v->known && holds(bar, v->value);
        short_count += !ok;
        if (v->known)
            printf("bar %s %.4f %s %g %s\n", bar->name, v->value, op_text[bar->op], bar->limit,
                   ok ? "ok" : "short");
        else
            printf("bar %s - short (%s)\n", bar->name, v->reason ? v->reason : "not measured");
    }
    return short_count;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *list, uint32_t count)
{
    qsort(list, count, sizeof *list, compare);
    return count % 2 ? list[count / 2] : (list[count / 2 - 1] + list[count / 2]) / 2;
}
