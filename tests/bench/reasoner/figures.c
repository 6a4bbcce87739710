/* Tables of figures, as a model card has them: a column for all problems, one for each level. */
#include <math.h>
#include <stdarg.h>

#include "tests/bench/reasoner/reasoner.h"

#define NAME_COLUMNS 64

static void __attribute__((format(printf, 2, 3)))
cell(const struct figures *t, const char *format, ...)
{
    char text[600];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args); /* names are ours and shorter */
    va_end(args);
    (void)fputs(text, stdout);
    if (t->card)
        (void)fputs(text, t->card); /* fclose() tells whether all came there */
}

void figures_line(FILE *card, const char *format, ...)
{
    char text[512];
    struct figures f = {.card = card};
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args); /* sentences are shorter */
    va_end(args);
    cell(&f, "\n%s\n", text);
}

void figures_begin(struct figures *t, FILE *card, const struct problems *problems,
                   const char *caption)
{
    *t = (struct figures){.card = card};
    for (uint32_t p = 0; p < problems->count; p++)
        t->levels[problems->items[p].level] = true;
    cell(t, "\n| %-*s |    all |", NAME_COLUMNS, caption);
    for (uint32_t l = 1; l < LEVELS_MAX; l++)
        if (t->levels[l])
            cell(t, " %6u |", l);
    cell(t, "\n| --- | ---: |");
    for (uint32_t l = 1; l < LEVELS_MAX; l++)
        if (t->levels[l])
            cell(t, " ---: |");
    cell(t, "\n");
}

void figures_row(const struct figures *t, const char *name, const double values[LEVELS_MAX],
                 uint32_t decimals)
{
    cell(t, "| %-*s |", NAME_COLUMNS, name);
    for (uint32_t l = 0; l < LEVELS_MAX; l++) {
        if (l > 0 && !t->levels[l])
            continue;
        if (isnan(values[l]))
            cell(t, "      - |");
        else
            cell(t, " %6.*f |", (int)decimals, values[l]);
    }
    cell(t, "\n");
}

void figures_percent(const struct figures *t, const char *name, const struct tally *tally)
{
    double values[LEVELS_MAX];
    for (uint32_t l = 0; l < LEVELS_MAX; l++)
        values[l] = 100 * tally_mean(tally, l);
    figures_row(t, name, values, 1);
}

void figures_mean(const struct figures *t, const char *name, const struct tally *tally)
{
    double values[LEVELS_MAX];
    for (uint32_t l = 0; l < LEVELS_MAX; l++)
        values[l] = tally_mean(tally, l);
    figures_row(t, name, values, 3);
}

void tally_add(struct tally *tally, uint32_t level, double value)
{
    tally->sum[0] += value;
    tally->count[0]++;
    if (level > 0) {
        tally->sum[level] += value;
        tally->count[level]++;
    }
}

double tally_mean(const struct tally *tally, uint32_t level)
{
    return tally->count[level] > 0 ? tally->sum[level] / tally->count[level] : (double)NAN;
}
