/* Token to accuracy, a line for each policy and cap. */
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/program/algorithms.h"
#include "tests/bench/batch/batch.h"
#include "tests/bench/batch/stats.h"

#define LEVELS_MAX 16u
#define BOOTSTRAP_SEED 24u

struct sums {
    double programs, right, decoded, probe, reward, killed, lost, tokens, stopped, given_up;
};

static void item_sum(struct sums *s, const struct item *it)
{
    s->programs++;
    s->right += it->right;
    s->decoded += (double)it->cost.decoded_tokens;
    s->probe += (double)it->cost.probe_tokens;
    s->reward += (double)it->cost.reward_tokens;
    s->killed += (double)it->cost.killed_tokens;
    s->lost += (double)it->cost.lost_tokens;
    s->tokens += (double)item_charged(it);
    s->stopped += it->verdict == RUN_SETTLED;
    s->given_up += it->verdict == RUN_GIVEN_UP;
}

void table_header(FILE *csv)
{
    printf("%-24s %5s %8s %8s %9s %7s %7s %7s %7s %6s %7s %7s %8s  %s\n", "policy", "cap",
           "programs", "right %", "decoded", "probe", "reward", "killed", "lost", "stop %", "steps",
           "mean s", "P90 s", "against even: points, tokens saved %");
    if (csv)
        (void)fprintf(csv,
                      "policy,cap,programs,right_percent,decoded,probe,reward,killed,lost,tokens,"
                      "stopped_percent,given_up_percent,steps_mean,steps_p90,seconds_mean,"
                      "seconds_p90,gained,gained_low,gained_high,saved,saved_low,saved_high\n");
}

/* Items of the same work, in the same order. */
static uint32_t pairs_of(const struct items *items, const struct items *even, struct pair *pairs)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < items->count; i++) {
        const struct item *b = &items->all[i], *a = &even->all[i];
        if (i == 0 || b->problem != items->all[i - 1].problem)
            pairs[count++] = (struct pair){0};
        struct pair *p = &pairs[count - 1];
        p->programs++;
        p->a_right += a->right;
        p->b_right += b->right;
        p->a_tokens += (double)item_charged(a);
        p->b_tokens += (double)item_charged(b);
    }
    return count;
}

struct latency {
    double mean_steps, p90_steps, mean_s, p90_s;
};

static struct latency latency_of(const struct items *items)
{
    struct latency l = {0};
    double *steps = need(calloc(items->count + 1, sizeof *steps));
    double *seconds = need(calloc(items->count + 1, sizeof *seconds));
    for (uint32_t i = 0; i < items->count; i++) {
        steps[i] = items->all[i].latency_steps;
        seconds[i] = items->all[i].latency_s;
        l.mean_steps += steps[i] / items->count;
        l.mean_s += seconds[i] / items->count;
    }
    l.p90_steps = quantile(steps, items->count, 0.9);
    l.p90_s = quantile(seconds, items->count, 0.9);
    free(steps);
    free(seconds);
    return l;
}

void table_row(const struct items *items, const struct items *even, FILE *csv)
{
    struct sums s = {0};
    struct interval gained = {0}, saved = {0};
    for (uint32_t i = 0; i < items->count; i++)
        item_sum(&s, &items->all[i]);
    if (even) {
        struct pair *pairs = need(calloc(items->count + 1, sizeof *pairs));
        bootstrap_pairs(pairs, pairs_of(items, even, pairs), BOOTSTRAP_SEED, &gained, &saved);
        free(pairs);
    }
    double n = s.programs > 0 ? s.programs : 1;
    struct latency l = latency_of(items);
    const char *name = items->experiment.profile.name;
    printf("%-24s %5u %8.0f %8.2f %9.1f %7.1f %7.1f %7.1f %7.1f %6.1f %7.0f %7.2f %8.2f", name,
           experiment_cap(&items->experiment), s.programs, 100 * s.right / n, s.decoded / n,
           s.probe / n, s.reward / n, s.killed / n, s.lost / n, 100 * (s.stopped + s.given_up) / n,
           l.mean_steps, l.mean_s, l.p90_s);
    if (even)
        printf("  %+.2f [%+.2f, %+.2f], %.1f [%.1f, %.1f]", gained.value, gained.low, gained.high,
               saved.value, saved.low, saved.high);
    printf("\n");
    if (csv)
        (void)fprintf(csv,
                      "%s,%u,%.0f,%.3f,%.2f,%.2f,%.2f,%.2f,%.2f,%.2f,%.2f,%.2f,%.1f,%.1f,%.4f,%.4f,"
                      "%.3f,%.3f,%.3f,%.3f,%.3f,%.3f\n",
                      name, experiment_cap(&items->experiment), s.programs, 100 * s.right / n,
                      s.decoded / n, s.probe / n, s.reward / n, s.killed / n, s.lost / n,
                      s.tokens / n, 100 * s.stopped / n, 100 * s.given_up / n, l.mean_steps,
                      l.p90_steps, l.mean_s, l.p90_s, gained.value, gained.low, gained.high,
                      saved.value, saved.low, saved.high);
}

void table_levels(const struct items *items)
{
    struct sums levels[LEVELS_MAX] = {{0}};
    for (uint32_t i = 0; i < items->count; i++)
        item_sum(&levels[items->all[i].level % LEVELS_MAX], &items->all[i]);
    printf("  level: programs, right %%, tokens:");
    for (uint32_t l = 0; l < LEVELS_MAX; l++)
        if (levels[l].programs > 0)
            printf("  %u: %.0f, %.1f, %.0f", l, levels[l].programs,
                   100 * levels[l].right / levels[l].programs,
                   levels[l].tokens / levels[l].programs);
    printf("\n");
}

static const char script[] =
    "set terminal pngcairo size 900,600\nset output '%s'\nset datafile separator ','\n"
    "set xlabel 'tokens of a program'\nset ylabel 'right, %%%%'\nset grid\nset key bottom right\n"
    "names = system(\"awk -F, 'NR > 1 && !seen[$1]++ { print $1 }' '%s'\")\n"
    "plot for [n in names] '%s' using (strcol(1) eq n ? $10 : NaN):4 with linespoints title n\n";

void table_draw(const char *csv, const char *png)
{
    char file[] = "/tmp/dynasor-bench.XXXXXX", name[] = "gnuplot";
    int fd = mkstemp(file), status = 1;
    FILE *out = fd >= 0 ? fdopen(fd, "we") : NULL;
    if (!out)
        fail("%s: %m", file);
    (void)fprintf(out, script, png, csv, csv);
    if (fclose(out) != 0)
        fail("%s: %m", file);
    char *arguments[] = {name, file, NULL};
    pid_t pid;
    if (posix_spawnp(&pid, name, NULL, NULL, arguments, environ) == 0)
        (void)waitpid(pid, &status, 0); /* our own child */
    (void)unlink(file);
    printf("%s: %s\n", png, status == 0 ? "drawn" : "not drawn: gnuplot is missing, or said why");
}
