/* dynasor-bench programs: what the logs of a campaign show, after a random part of them was run again.
 *
 *   dynasor-bench programs --logs DIR [--out DIR] [--value BAR=NUMBER]...
 *       [--policy DIR --reward DIR --tasks DIR [--percent P] [--seed N] [--spent SECONDS]]
 *   dynasor-bench programs --names
 *
 * Runs P percent (1, rounded up) of each log's programs again, which must give the same tokens, and of a log of
 * batches one whole batch; a log of another level of instructions is skipped, by name. Then computes every
 * figure from the logs, writes tables to --out, and prints `bar NAME VALUE OP LIMIT ok|short` lines.
 * --value is a bar that was measured elsewhere, --spent what that took. Exits 0, 1 when a bar is short, 2 for wrong arguments. */
#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/clock.h"
#include "tests/bench/batch/study.h"
#include "tests/bench/dynasor/dynasor_bench.h"
#include "tests/bench/dynasor/options.h"

struct options {
    const char *logs;
    const char *out;
    const char *policy;
    const char *reward;
    const char *tasks;
    double percent;
    uint64_t seed;
    double spent_s;
};

struct replayed {
    uint32_t programs;
    uint32_t wanted; /* of all logs, skipped ones too */
    uint32_t differ;
    uint32_t skipped;    /* logs of another level of instructions */
    char level[16];      /* of one of them */
    double lost_percent; /* of what is charged, by the log that lost most, then or now */
};

static uint64_t scatter(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static bool same(const struct item *a, const struct item *b)
{
    return a->hash == b->hash && a->verdict == b->verdict && a->knob == b->knob &&
           a->right == b->right && a->cost.decoded_tokens == b->cost.decoded_tokens &&
           a->cost.probe_tokens == b->cost.probe_tokens &&
           a->cost.reward_tokens == b->cost.reward_tokens && a->steps_count == b->steps_count;
}

struct spent { /* by a program */
    double charged, lost;
    double lost_percent;
};

static struct spent spent_of(const struct items *items)
{
    struct spent s = {0};
    for (uint32_t i = 0; i < items->count; i++) {
        s.charged += (double)item_tokens(&items->all[i]) / items->count;
        s.lost += (double)items->all[i].cost.lost_tokens / items->count;
    }
    s.lost_percent = s.charged > 0 ? 100 * s.lost / s.charged : 0;
    return s;
}

/* Says which are not as they were, and how much each decoded to no end. */
static void replay_compare(const char *name, const struct item *const *expected,
                           const struct items *fresh, const struct items *logged, uint32_t wanted,
                           struct replayed *to)
{
    uint32_t differ = 0, count = fresh->count;
    struct spent now = spent_of(fresh), then = spent_of(logged);
    for (uint32_t i = 0; i < count; i++) {
        const struct item *a = expected[i], *b = &fresh->all[i];
        if (same(b, a))
            continue;
        differ++;
        printf(
            "  %s: problem %u seed %u: hash %016llx, now %016llx; %llu tokens, now %llu; %u answers, now %u\n",
            name, a->problem, a->seed, (unsigned long long)a->hash, (unsigned long long)b->hash,
            (unsigned long long)item_tokens(a), (unsigned long long)item_tokens(b), a->steps_count,
            b->steps_count);
    }
    printf("  %-34s %u of %u programs again, %u differ; each %.1f tokens, %.1f lost (logged: %.1f, "
           "%.1f); %.1f s\n",
           name, count, logged->count, differ, now.charged, now.lost, then.charged, then.lost,
           fresh->seconds);
    /* Of a batch more are run than were wanted: they do not stand for a log that was skipped. */
    to->programs += count < wanted ? count : wanted;
    to->lost_percent = fmax(to->lost_percent, fmax(now.lost_percent, then.lost_percent));
    to->differ += differ;
}

/* So many of a log, each as likely as each other; of batches one that is whole. */
static uint32_t choose(const struct options *o, const struct items *items, uint32_t wanted,
                       uint32_t *ret_chosen)
{
    uint32_t count = 0, all = items->count;
    bool batched = experiment_batched(&items->experiment);
    uint32_t seed = all ? items->all[scatter(o->seed + 7) % all].seed : 0;
    for (uint32_t i = 0; i < all; i++) {
        uint64_t at = scatter(o->seed + (i + 1) * 0x9e3779b97f4a7c15u) % (all - i);
        if (batched ? items->all[i].seed == seed : at < wanted - count)
            ret_chosen[count++] = i;
    }
    return count;
}

static uint32_t wanted_of(const struct options *o, uint32_t count)
{
    double wanted = ceil(count * o->percent / 100);
    return wanted < count ? (uint32_t)wanted : count;
}

static void replay_log(const struct options *o, struct host *host, const char *name,
                       struct replayed *to)
{
    char path[4096];
    struct items items, fresh;
    struct problems problems;
    (void)snprintf(path, sizeof path, "%s/%s.tsv", o->logs, name);
    if (!log_items_read(path, &items))
        fail("%s: %m", path);
    uint32_t wanted = wanted_of(o, items.count);
    to->wanted += wanted;
    if (strcmp(items.level, host_level()) != 0) {
        printf("  %-40s skipped: made on %s, this is %s\n", name, items.level, host_level());
        (void)snprintf(to->level, sizeof to->level, "%s", items.level);
        to->skipped++;
        items_free(&items);
        return;
    }
    struct experiment *e = &items.experiment;
    struct profile profile;
    if (!study_profile(o->logs, e->profile.name, &profile))
        fail("%s: profile %s is neither built in nor in %s/profiles", path, e->profile.name,
             o->logs);
    e->profile = profile;
    (void)snprintf(path, sizeof path, "%s/%s.%s.tsv", o->tasks,
                   e->task == TASK_LONG ? "words" : task_names[e->task], e->set);
    problems_read(path, 1, &problems);
    struct work *work = need(calloc(items.count + 1, sizeof *work));
    const struct item **expected = need(calloc(items.count + 1, sizeof *expected));
    uint32_t *chosen = need(calloc(items.count + 1, sizeof *chosen));
    uint32_t count = choose(o, &items, wanted, chosen);
    for (uint32_t i = 0; i < count; i++) {
        expected[i] = &items.all[chosen[i]];
        if (expected[i]->problem >= problems.count)
            fail("%s: problem %u is not in the set", name, expected[i]->problem);
        work[i] = (struct work){.problem = &problems.items[expected[i]->problem],
                                .seed = expected[i]->seed};
    }
    struct host *whole = experiment_batched(e) ? host_open(o->policy, o->reward, count) : NULL;
    host_run(whole ? whole : host, e, work, count, NULL, &fresh);
    if (whole)
        host_close(whole);
    replay_compare(name, expected, &fresh, &items, wanted, to);
    items_free(&fresh);
    items_free(&items);
    problems_free(&problems);
    free(work);
    free((void *)expected);
    free(chosen);
}

static int is_log(const struct dirent *entry)
{
    size_t bytes = strlen(entry->d_name);
    return bytes > 4 && strcmp(entry->d_name + bytes - 4, ".tsv") == 0;
}

static void entries_free(struct dirent **entries, int count)
{
    for (int i = 0; i < count; i++)
        free(entries[i]);
    if (count >= 0)
        free((void *)entries);
}

/* A log that was not run again is not known to be the same. */
static void replayed_bars(const struct replayed *r)
{
    char why[96];
    programs_bar_limit("replay_programs", r->wanted);
    programs_bar_set("replay_programs", r->programs);
    programs_bar_set("replay_differ", r->differ);
    programs_bar_set("lost_tokens_percent", r->lost_percent);
    if (r->skipped == 0)
        return;
    (void)snprintf(why, sizeof why, "%u logs skipped: made on %s, this is %s", r->skipped, r->level,
                   host_level());
    if (r->programs == 0) {
        programs_bar_lacks("replay_programs", why);
        programs_bar_lacks("lost_tokens_percent", why);
    }
    if (r->differ == 0)
        programs_bar_lacks("replay_differ", why);
}

static void replay_all(const struct options *o)
{
    struct dirent **entries;
    struct replayed replayed = {0};
    int count = scandir(o->logs, &entries, is_log, alphasort);
    if (count <= 0 || !o->policy || !o->tasks) {
        const char *why = count <= 0 ? "there are no logs" : "no models were given";
        programs_bar_lacks("replay_programs", why);
        programs_bar_lacks("replay_differ", why);
        programs_bar_lacks("lost_tokens_percent", why);
        programs_bar_lacks("bench_minutes", why);
        entries_free(entries, count);
        return;
    }
    printf("replay, seed %llu\n", (unsigned long long)o->seed);
    struct host *host = host_open(o->policy, o->reward, 64);
    for (int i = 0; i < count; i++) {
        char name[256];
        (void)snprintf(name, sizeof name, "%.*s", (int)strlen(entries[i]->d_name) - 4,
                       entries[i]->d_name);
        replay_log(o, host, name, &replayed);
    }
    entries_free(entries, count);
    host_close(host);
    replayed_bars(&replayed);
}

static void value_take(const char *text)
{
    char name[64];
    const char *value = strchr(text, '=');
    if (!value || (size_t)(value - text) >= sizeof name)
        fail("--value %s: BAR=NUMBER is wanted", text);
    (void)snprintf(name, sizeof name, "%.*s", (int)(value - text), text);
    char *end;
    double number = strtod(value + 1, &end);
    if (end == value + 1 || *end)
        programs_bar_lacks(name, "it was not measured: no number came");
    else
        programs_bar_set(name, number);
}

static bool parse(struct options *o, const char *name, const char *value)
{
    const struct option table[] = {{"--logs", &o->logs, NULL},
                                   {"--out", &o->out, NULL},
                                   {"--policy", &o->policy, NULL},
                                   {"--reward", &o->reward, NULL},
                                   {"--tasks", &o->tasks, NULL}};
    if (option_take(table, sizeof table / sizeof table[0], name, value))
        return true;
    if (strcmp(name, "--percent") == 0)
        o->percent = strtod(value, NULL);
    else if (strcmp(name, "--spent") == 0)
        o->spent_s = strtod(value, NULL);
    else if (strcmp(name, "--seed") == 0)
        o->seed = strtoull(value, NULL, 10);
    else if (strcmp(name, "--value") == 0)
        value_take(value);
    else
        return false;
    return true;
}

int bench_programs_main(int argc, char **argv)
{
    struct options o = {.percent = 1, .seed = clock_now_ns()};
    uint64_t begin_ns = clock_now_ns();
    for (int i = 0; i < argc; i += 2) {
        if (strcmp(argv[i], "--names") == 0) {
            programs_bars_names();
            return 0;
        }
        if (i + 1 >= argc || !parse(&o, argv[i], argv[i + 1]))
            o.logs = NULL, i = argc;
    }
    if (!o.logs) {
        (void)fprintf(stderr,
                      "usage: dynasor-bench programs --logs DIR [--out DIR] [--value BAR=N]...\n"
                      "           [--policy DIR --reward DIR --tasks DIR [--percent P] [--seed N]\n"
                      "            [--spent SECONDS]]\n"
                      "       dynasor-bench programs --names\n");
        return 2;
    }
    (void)setvbuf(stdout, NULL, _IOLBF, 1u << 16); /* only for those who watch */
    replay_all(&o);
    figures_all(o.logs, o.out);
    printf("\n");
    if (o.policy && o.tasks)
        programs_bar_set("bench_minutes",
                         (o.spent_s + (double)(clock_now_ns() - begin_ns) / 1e9) / 60);
    return programs_bars_print() ? 1 : 0;
}
