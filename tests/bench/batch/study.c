#include "tests/bench/batch/study.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/base/assert.h"

#define BOOTSTRAP_SEED 24u

static void path_of(const char *folder, const char *name, const char *ending, char path[4096])
{
    (void)snprintf(path, 4096, "%s/%s%s", folder, name, ending); /* too long: not found */
}

bool study_profile(const char *folder, const char *name, struct profile *ret_profile)
{
    char path[4096], message[PROFILE_MESSAGE_BYTES], below[256];
    if (profile_find(name, ret_profile) == 0)
        return true;
    (void)snprintf(below, sizeof below, "profiles/%s", name);
    path_of(folder, below, ".ini", path);
    return profile_load(path, ret_profile, message) == 0;
}

/* Calibration reads run logs from files: one in memory. */
static void log_make(struct study *s, const char *name)
{
    char path[64], message[LOG_MESSAGE_BYTES];
    int fd = memfd_create("runlog", MFD_CLOEXEC);
    FILE *file = fd >= 0 ? fdopen(fd, "we") : NULL;
    if (!file)
        fail("%s: %m", name);
    runlog_items_write(file, &s->items, true);
    if (fflush(file) != 0)
        fail("%s: no memory", name);
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (log_read(path, NULL, &s->log, message) != 0)
        fail("%s: %s", name, message);
    (void)fclose(file); /* only memory */
    if (s->log.runs_count != s->items.count)
        fail("%s: programs without an answer", name);
    replay_init(&s->replay, &s->log);
}

bool study_open(const char *folder, const char *name, struct study *s)
{
    char path[4096];
    *s = (struct study){.items = {.count = 0}};
    path_of(folder, name, ".tsv", path);
    if (!log_items_read(path, &s->items) || s->items.count == 0)
        return false;
    log_make(s, name);
    return true;
}

void study_close(struct study *s)
{
    if (s->items.count == 0)
        return;
    replay_free(&s->replay);
    log_free(&s->log);
    items_free(&s->items);
}

struct sums {
    double right, tokens, stopped, given_up, limit;
};

/* The base may have more of them, behind these. */
static void same_programs(const struct study *a, const struct study *b)
{
    bool same = a->items.count <= b->items.count;
    for (uint32_t i = 0; same && i < a->items.count; i++)
        same = a->items.all[i].problem == b->items.all[i].problem &&
               a->items.all[i].seed == b->items.all[i].seed;
    if (!same)
        fail("two logs that are compared have not the same problems and seeds");
}

static struct pair *pair_at(struct pair *pairs, uint32_t *count, const struct items *items,
                            uint32_t i)
{
    if (i == 0 || items->all[i].problem != items->all[i - 1].problem)
        pairs[(*count)++] = (struct pair){0};
    pairs[*count - 1].programs++;
    return &pairs[*count - 1];
}

static void judged_of(const struct sums *sums, const struct pair *pairs, uint32_t pairs_count,
                      uint32_t programs, struct judged *to)
{
    *to = (struct judged){.right_percent = 100 * sums->right / programs,
                          .tokens = sums->tokens / programs,
                          .stopped_percent = 100 * sums->stopped / programs,
                          .given_up_percent = 100 * sums->given_up / programs,
                          .limit_percent = 100 * sums->limit / programs};
    bootstrap_pairs(pairs, pairs_count, BOOTSTRAP_SEED, &to->gained, &to->saved);
}

void study_judge(struct study *s, const struct policy_options *options, uint32_t cap,
                 const struct study *base, struct judged *to)
{
    struct pair *pairs = need(calloc(s->items.count, sizeof *pairs));
    struct sums sums = {0};
    uint32_t pairs_count = 0;
    if (base)
        same_programs(s, base);
    for (uint32_t i = 0; i < s->items.count; i++) {
        struct outcome o = replay_run(&s->replay, i, options, cap);
        struct pair *p = pair_at(pairs, &pairs_count, &s->items, i);
        double tokens = (double)(o.tokens + o.probe_tokens);
        /* A chain's knob is tokens, and it has no share that a stop allows. */
        double steps = cap ? cap : s->log.runs[i].count;
        if (s->log.runs[i].chain)
            steps = (double)NAN;
        p->a_right += base ? base->items.all[i].right : o.full_right;
        p->a_tokens += base ? (double)item_tokens(&base->items.all[i]) : (double)o.full_tokens;
        p->b_right += o.right;
        p->b_tokens += tokens;
        sums.right += o.right;
        sums.tokens += tokens;
        sums.stopped += o.stopped;
        sums.given_up += o.gave_up;
        sums.limit += o.stopped ? (steps - o.knob) / steps : 0;
    }
    judged_of(&sums, pairs, pairs_count, s->items.count, to);
    free(pairs);
}

/* ---- m_of_n -------------------------------------------------------------------------------------- */

struct first { /* of one program */
    bool right;
    double tokens;
    double all_tokens;
};

static void lengths_of(const struct item *it, uint64_t *ret_lengths)
{
    for (uint32_t i = 0; i < it->steps_count; i++)
        ret_lengths[i] = it->steps[i].tokens - (i ? it->steps[i - 1].tokens : 0);
}

/* Of the answer of most that count, of equals the one that had so many first (cluster_majority()). */
static bool first_right(const struct item *it, const bool *counts)
{
    uint32_t votes[POLICY_ANSWERS_MAX] = {0}, most = 0;
    bool right = false;
    for (uint32_t i = 0; i < it->steps_count; i++) {
        uint32_t group = it->steps[i].group;
        if (!counts[i] || group == CERTAINDEX_EMPTY || ++votes[group] <= most)
            continue;
        most = votes[group];
        right = it->steps[i].right;
    }
    return right;
}

static struct first first_of(const struct item *it, const struct policy_options *options)
{
    ASSERT(it->steps_count <= POLICY_ANSWERS_MAX);
    uint64_t lengths[POLICY_ANSWERS_MAX];
    bool ended[POLICY_ANSWERS_MAX], counts[POLICY_ANSWERS_MAX];
    uint32_t last = UINT32_MAX, n = it->steps_count; /* M are at least 1 */
    struct policy_view view = {
        .branches_count = n, .branch_tokens = lengths, .branch_finished = ended};
    struct first f = {.right = false};
    lengths_of(it, lengths);
    memset(ended, 1, sizeof ended);
    for (uint32_t i = 0; i < n; i++) {
        counts[i] = policy_branch_counts(options, &view, i);
        if (counts[i] && (last == UINT32_MAX || lengths[i] >= lengths[last]))
            last = i;
    }
    for (uint32_t i = 0; i < n; i++) {
        f.tokens += (double)(counts[i] ? lengths[i] : lengths[last] - (i > last));
        f.all_tokens += (double)lengths[i];
    }
    f.right = first_right(it, counts);
    return f;
}

void study_first(const struct study *s, const struct policy_options *options, struct judged *to)
{
    struct pair *pairs = need(calloc(s->items.count, sizeof *pairs));
    struct sums sums = {0};
    uint32_t pairs_count = 0;
    for (uint32_t i = 0; i < s->items.count; i++) {
        const struct item *it = &s->items.all[i];
        struct first f = first_of(it, options);
        struct pair *p = pair_at(pairs, &pairs_count, &s->items, i);
        p->a_right += it->right;
        p->a_tokens += f.all_tokens;
        p->b_right += f.right;
        p->b_tokens += f.tokens;
        sums.right += f.right;
        sums.tokens += f.tokens;
        sums.stopped += options->finished_count < it->steps_count;
    }
    sums.limit = NAN;
    judged_of(&sums, pairs, pairs_count, s->items.count, to);
    free(pairs);
}

void study_live(const struct study *s, const struct study *base, struct judged *to)
{
    struct pair *pairs = need(calloc(s->items.count, sizeof *pairs));
    struct sums sums = {0};
    uint32_t pairs_count = 0;
    same_programs(s, base);
    for (uint32_t i = 0; i < s->items.count; i++) {
        const struct item *a = &base->items.all[i], *b = &s->items.all[i];
        struct pair *p = pair_at(pairs, &pairs_count, &s->items, i);
        p->a_right += a->right;
        p->a_tokens += (double)item_charged(a);
        p->b_right += b->right;
        p->b_tokens += (double)item_charged(b);
        sums.right += b->right;
        sums.tokens += (double)item_charged(b);
        sums.stopped += b->verdict == RUN_SETTLED || b->verdict == RUN_GIVEN_UP;
        sums.given_up += b->verdict == RUN_GIVEN_UP;
    }
    sums.limit = NAN;
    judged_of(&sums, pairs, pairs_count, s->items.count, to);
    free(pairs);
}

void study_live_until(const struct study *s, uint32_t problem_last, struct judged *to)
{
    struct study part = *s;
    while (part.items.count > 1 && part.items.all[part.items.count - 1].problem > problem_last)
        part.items.count--;
    study_live(&part, &part, to);
}

double study_latency_s(const struct study *s)
{
    double sum = 0;
    for (uint32_t i = 0; i < s->items.count; i++)
        sum += s->items.all[i].latency_s;
    return sum / s->items.count;
}
