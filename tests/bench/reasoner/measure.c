/* The figures of the model card, task by task: sample, check, count. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/reasoner/reasoner.h"

#define SAMPLES_MAX 20u
#define LEVELS_MAX 16u
#define SEQS 256u
#define SPEED_SEQS 64u

uint32_t *reasoner_prompt(struct reasoner *r, const char *user, const char *said,
                          uint32_t *ret_count)
{
    uint32_t *ids = need(calloc(REASONER_PROMPT_BYTES, sizeof *ids)), more = 0;
    if (strlen(user) + (said ? strlen(said) : 0) >= REASONER_PROMPT_BYTES)
        fail("a prompt is longer than %u bytes", REASONER_PROMPT_BYTES);
    if (codec_encode(r->codec, r->scratch, (const uint8_t *)user, strlen(user), true, ids,
                     REASONER_PROMPT_BYTES, ret_count) != CODEC_OK)
        fail("the model has no chat template that we know");
    if (said &&
        codec_encode(r->codec, r->scratch, (const uint8_t *)said, strlen(said), false,
                     ids + *ret_count, REASONER_PROMPT_BYTES - *ret_count, &more) != CODEC_OK)
        fail("a prompt has too many tokens");
    *ret_count += more;
    return ids;
}

/* ---- a task's samples, and what they answer ------------------------------------------------------ */

struct taken {
    enum task task;
    const struct problems *problems;
    uint32_t samples_count; /* of each problem */
    struct job *jobs;
    struct sample *samples;             /* [problems, samples_count] */
    char (*answers)[ANSWER_TEXT_BYTES]; /* likewise; empty: none */
    bool *right;                        /* likewise */
    uint32_t *group;                    /* likewise: first sample of the same problem and answer */
    struct sampler_stats stats;
};

static uint32_t group_of(const struct taken *t, uint32_t problem, uint32_t sample)
{
    uint32_t first = problem * t->samples_count;
    for (uint32_t i = 0; i < sample; i++)
        if (*t->answers[first + i] && *t->answers[first + sample] &&
            answer_same(t->task, t->answers[first + i], t->answers[first + sample]))
            return t->group[first + i];
    return sample;
}

static void take(struct reasoner *r, enum task task, const struct problems *problems,
                 uint32_t samples_count, uint32_t tokens_max, struct taken *t)
{
    uint32_t count = problems->count * samples_count;
    *t = (struct taken){.task = task, .problems = problems, .samples_count = samples_count};
    t->jobs = need(calloc(problems->count, sizeof *t->jobs));
    t->samples = need(calloc(count, sizeof *t->samples));
    t->answers = need(calloc(count, sizeof *t->answers));
    t->right = need(calloc(count, sizeof *t->right));
    t->group = need(calloc(count, sizeof *t->group));
    for (uint32_t p = 0; p < problems->count; p++) {
        char user[REASONER_PROMPT_BYTES];
        (void)snprintf(user, sizeof user, "%s%s", task == TASK_LONG ? LONG_ASK : "",
                       problems->items[p].text); /* lines are shorter */
        struct job *job = &t->jobs[p];
        *job = (struct job){
            .samples_count = samples_count, .seed = p, .samples = &t->samples[p * samples_count]};
        job->prompt = reasoner_prompt(r, user, NULL, &job->prompt_count);
    }
    sampler_run(r->engine, r->codec, SEQS,
                &(struct sampling_args){.temperature = r->temperature,
                                        .top_p = 1,
                                        .tokens_max = tokens_max,
                                        .progress = r->progress ? task_names[task] : NULL},
                t->jobs, problems->count, &t->stats);
    for (uint32_t p = 0; p < problems->count; p++)
        for (uint32_t i = 0; i < samples_count; i++) {
            uint32_t at = p * samples_count + i;
            t->right[at] = answer_of(t->samples[at].text, t->answers[at]) &&
                           answer_right(task, &problems->items[p], t->answers[at]);
            t->group[at] = group_of(t, p, i);
        }
    (void)fprintf(stderr, "%s: %u problems x %u samples, %.0f tokens a sample, %.0f tokens/s\n",
                  task_names[task], problems->count, samples_count,
                  (double)t->stats.tokens_count / count,
                  (double)t->stats.tokens_count / t->stats.seconds);
}

static void taken_free(struct taken *t)
{
    samples_free(t->samples, t->problems->count * t->samples_count);
    for (uint32_t p = 0; p < t->problems->count; p++)
        free((void *)(uintptr_t)t->jobs[p].prompt);
    free(t->jobs);
    free(t->samples);
    free(t->answers);
    free(t->right);
    free(t->group);
}

/* The sample that speaks for the majority of the first n; ties to the group that was first. Answers
 * that are missing have no vote. */
static uint32_t majority(const struct taken *t, uint32_t problem, uint32_t n)
{
    const uint32_t *group = &t->group[problem * t->samples_count];
    uint32_t votes[SAMPLES_MAX] = {0}, best = 0;
    for (uint32_t i = 0; i < n; i++)
        votes[group[i]] += *t->answers[problem * t->samples_count + i] != 0;
    for (uint32_t i = 1; i < n; i++)
        if (votes[i] > votes[best])
            best = i;
    return best;
}

static double certainty(const struct taken *t, uint32_t problem, uint32_t n)
{
    const uint32_t *group = &t->group[problem * t->samples_count];
    uint32_t votes[SAMPLES_MAX] = {0};
    double entropy = 0;
    for (uint32_t i = 0; i < n; i++)
        votes[group[i]]++;
    for (uint32_t i = 0; i < n; i++)
        if (votes[i])
            entropy -= (double)votes[i] / n * log((double)votes[i] / n);
    return (log(n) - entropy) / log(n);
}

struct share {
    double part;
    double whole;
};
static void count(struct share *share, bool hit)
{
    share->part += hit;
    share->whole++;
}
static double percent(struct share share)
{
    return share.whole > 0 ? 100 * share.part / share.whole : 0;
}

static void card_levels(struct reasoner *r, const char *name, const struct share *levels)
{
    printf("  %s by level:", name);
    if (r->card)
        (void)fprintf(r->card, "| %s |", name);
    for (uint32_t l = 0; l < LEVELS_MAX; l++)
        if (levels[l].whole > 0) {
            printf(" %u: %.1f", l, percent(levels[l]));
            if (r->card)
                (void)fprintf(r->card, " %u: %.1f %%", l, percent(levels[l]));
        }
    printf("\n");
    if (r->card)
        (void)fprintf(r->card, " |\n");
}

static void card_row(struct reasoner *r, const char *name, double value, const char *unit)
{
    printf("  %s: %.3g %s\n", name, value, unit);
    if (r->card)
        (void)fprintf(r->card, "| %s | %.3g %s |\n", name, value, unit);
}

/* Over pairs (right, wrong) of one problem: how often the right one scores higher; ties count half. */
static double rank_auc(const struct taken *t, const struct scored *scored)
{
    double won = 0, pairs = 0;
    for (uint32_t p = 0; p < t->problems->count; p++)
        for (uint32_t i = p * t->samples_count; i < (p + 1) * t->samples_count; i++)
            for (uint32_t j = p * t->samples_count; j < (p + 1) * t->samples_count; j++)
                if (t->right[i] && !t->right[j]) {
                    pairs++;
                    won += scored[i].last > scored[j].last
                               ? 1
                               : (scored[i].last < scored[j].last ? 0 : 0.5);
                }
    return pairs > 0 ? won / pairs : 0;
}

/* What has not come to its end is scored where it was cut. */
static struct scored *score(struct reasoner *r, const struct taken *t)
{
    uint32_t samples_count = t->problems->count * t->samples_count;
    struct scored *scored = need(calloc(samples_count, sizeof *scored));
    for (uint32_t i = 0; i < samples_count; i++) {
        const struct job *job = &t->jobs[i / t->samples_count];
        const struct sample *sample = &t->samples[i];
        uint32_t *all = need(calloc(job->prompt_count + sample->count + 1, sizeof *all));
        memcpy(all, job->prompt, job->prompt_count * sizeof *all);
        memcpy(all + job->prompt_count, sample->tokens, sample->count * sizeof *all);
        all[job->prompt_count + sample->count] = sample->end;
        scored[i] = (struct scored){.tokens = all,
                                    .count = job->prompt_count + sample->count + sample->ended};
    }
    scorer_run(r->engine, scored, samples_count);
    return scored;
}

static void scored_free(struct scored *scored, uint32_t samples_count)
{
    for (uint32_t i = 0; i < samples_count; i++)
        free((void *)(uintptr_t)scored[i].tokens);
    free(scored);
}

/* ---- words --------------------------------------------------------------------------------------- */

/* Samples needed until the majority is right and stays right; 0: never. */
static uint32_t lasting(const struct taken *t, uint32_t problem)
{
    uint32_t n = t->samples_count + 1;
    while (n > 1 && t->right[problem * t->samples_count + majority(t, problem, n - 1)])
        n--;
    return n > t->samples_count ? 0 : n;
}

static double pearson(const double *x, const double *y, uint32_t n)
{
    double mx = 0, my = 0, xy = 0, xx = 0, yy = 0;
    for (uint32_t i = 0; i < n; i++) {
        mx += x[i] / n;
        my += y[i] / n;
    }
    for (uint32_t i = 0; i < n; i++) {
        xy += (x[i] - mx) * (y[i] - my);
        xx += (x[i] - mx) * (x[i] - mx);
        yy += (y[i] - my) * (y[i] - my);
    }
    return xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : 0;
}

/* Points of accuracy from level to level, by least squares over the levels. */
static double slope(const struct share *level)
{
    double n = 0, x = 0, y = 0, xx = 0, xy = 0;
    for (uint32_t l = 0; l < LEVELS_MAX; l++) {
        if (level[l].whole <= 0)
            continue;
        n++;
        x += l;
        y += percent(level[l]);
        xx += (double)l * l;
        xy += l * percent(level[l]);
    }
    return n > 1 ? (n * xy - x * y) / (n * xx - x * x) : 0;
}

static void words_certainty(struct reasoner *r, const struct taken *t)
{
    uint32_t n = 0;
    double *x = need(calloc(t->problems->count, sizeof *x));
    double *y = need(calloc(t->problems->count, sizeof *y));
    for (uint32_t p = 0; p < t->problems->count; p++) {
        uint32_t needed = lasting(t, p);
        if (needed) {
            x[n] = certainty(t, p, 5);
            y[n++] = needed;
        }
    }
    double correlation = pearson(x, y, n);
    card_row(r, "correlation of H~ of five samples with the samples needed", correlation, "");
    reasoner_bar_set(BAR_CERTAINDEX_PEARSON, correlation);
    free(x);
    free(y);
}

void measure_words(struct reasoner *r, const struct problems *problems)
{
    struct taken t;
    take(r, TASK_WORDS, problems, 20, REASONER_TOKENS_WORDS, &t);
    struct share single = {0}, most = {0}, unanimous = {0}, unanimous_wrong = {0}, never = {0};
    struct share level[LEVELS_MAX] = {{0}};
    for (uint32_t p = 0; p < problems->count; p++) {
        const bool *right = &t.right[p * 20];
        const uint32_t *group = &t.group[p * 20];
        bool any = false, same = *t.answers[p * 20] != 0;
        for (uint32_t i = 0; i < 20; i++) {
            count(&single, right[i]);
            count(&level[problems->items[p].level], right[i]);
            any |= right[i];
            same &= i >= 5 || group[i] == group[0];
        }
        count(&most, right[majority(&t, p, 20)]);
        count(&unanimous, same);
        count(&never, !any);
        if (same)
            count(&unanimous_wrong, !right[0]);
    }
    card_row(r, "words: one sample right", percent(single), "%");
    card_row(r, "words: majority of 20 right", percent(most), "%");
    card_row(r, "words: first five unanimous", percent(unanimous), "%");
    card_row(r, "words: of those wrong", percent(unanimous_wrong), "%");
    card_row(r, "words: wrong in all 20", percent(never), "%");
    card_levels(r, "words: one sample right", level);
    reasoner_bar_set(BAR_WORDS_SINGLE_LEAST, percent(single));
    reasoner_bar_set(BAR_WORDS_SINGLE_MOST, percent(single));
    reasoner_bar_set(BAR_WORDS_MAJORITY_GAIN, percent(most) - percent(single));
    reasoner_bar_set(BAR_WORDS_UNANIMOUS, percent(unanimous));
    reasoner_bar_set(BAR_WORDS_UNANIMOUS_WRONG_LEAST, percent(unanimous_wrong));
    reasoner_bar_set(BAR_WORDS_UNANIMOUS_WRONG_MOST, percent(unanimous_wrong));
    reasoner_bar_set(BAR_WORDS_NEVER, percent(never));
    reasoner_bar_set(BAR_WORDS_LEVEL_SLOPE, slope(level));
    words_certainty(r, &t);
    if (r->has_reward) {
        struct scored *scored = score(r, &t);
        double auc = rank_auc(&t, scored);
        card_row(r, "words: reward model ranks right above wrong (AUC)", auc, "");
        reasoner_bar_set(BAR_WORDS_AUC, auc);
        scored_free(scored, problems->count * 20);
    }
    taken_free(&t);
}

/* ---- game24 -------------------------------------------------------------------------------------- */

void measure_game24(struct reasoner *r, const struct problems *problems)
{
    struct taken t;
    take(r, TASK_GAME24, problems, 16, REASONER_TOKENS_GAME24, &t);
    struct scored *scored = r->has_reward ? score(r, &t) : NULL;
    struct share single = {0}, any = {0}, best = {0}, level[LEVELS_MAX] = {{0}};
    for (uint32_t p = 0; p < problems->count; p++) {
        const bool *right = &t.right[p * 16];
        bool hit = false;
        uint32_t top = 0;
        for (uint32_t i = 0; i < 16; i++) {
            count(&single, right[i]);
            count(&level[problems->items[p].level], right[i]);
            hit |= right[i];
            if (scored && scored[p * 16 + i].last > scored[p * 16 + top].last)
                top = i;
        }
        count(&any, hit);
        count(&best, right[top]);
    }
    card_row(r, "game24: one sample right", percent(single), "%");
    card_row(r, "game24: any of 16 right", percent(any), "%");
    card_levels(r, "game24: one sample right", level);
    if (scored) {
        card_row(r, "game24: best of 16 by the reward model right", percent(best), "%");
        double auc = rank_auc(&t, scored);
        card_row(r, "game24: reward model ranks right above wrong (AUC)", auc, "");
        reasoner_bar_set(BAR_GAME24_REWARD_GAIN, percent(best) - percent(single));
        reasoner_bar_set(BAR_GAME24_AUC, auc);
        scored_free(scored, problems->count * 16);
    }
    taken_free(&t);
}

/* ---- long ---------------------------------------------------------------------------------------- */

/* As the paper's client asks, docs/CERTAINDEX.md. */
#define PROBE                                                                                      \
    "... Oh, I suddenly got the answer to the whole problem, **Final Answer**\n\n\\[ \\boxed{"
#define PROBE_TOKENS 20u

/* Whether the line states this answer: it is no step, and its last number is the answer. */
static bool states(const char *line, size_t bytes, const char *answer)
{
    char number[ANSWER_TEXT_BYTES];
    size_t end = bytes, begin;
    if (bytes >= 5 && memcmp(line, "Step ", 5) == 0)
        return false;
    while (end > 0 && !strchr("0123456789", line[end - 1]))
        end--;
    for (begin = end; begin > 0 && strchr("0123456789./", line[begin - 1]); begin--)
        ;
    if (begin == end || end - begin >= sizeof number || (begin > 0 && line[begin - 1] == '='))
        return false;
    memcpy(number, line + begin, end - begin);
    number[end - begin] = 0;
    return answer_same(TASK_LONG, number, answer);
}

/* Bytes of text up to the end of the first line that states the answer; 0: none does. */
static size_t first_stated(const char *text, const char *answer)
{
    const char *stop = strstr(text, "</think>");
    for (const char *line = text, *end; stop && line < stop; line = end + 1) {
        end = strchr(line, '\n');
        if (!end)
            return 0;
        if (states(line, (size_t)(end - line), answer))
            return (size_t)(end - text) + 1;
    }
    return 0;
}

static void probe_all(struct reasoner *r, const struct taken *t, const size_t *cut)
{
    struct share agrees = {0};
    struct sample *replies = need(calloc(t->problems->count, sizeof *replies));
    struct job *jobs = need(calloc(t->problems->count, sizeof *jobs));
    uint32_t jobs_count = 0, *problem_of = need(calloc(t->problems->count, sizeof *problem_of));
    for (uint32_t p = 0; p < t->problems->count; p++) {
        if (!cut[p])
            continue;
        char user[REASONER_PROMPT_BYTES], said[REASONER_PROMPT_BYTES];
        (void)snprintf(user, sizeof user, LONG_ASK "%s", t->problems->items[p].text);
        (void)snprintf(said, sizeof said, "%.*s" PROBE, (int)cut[p], t->samples[p].text);
        struct job *job = &jobs[jobs_count];
        *job =
            (struct job){.samples_count = 1, .seed = 1000000 + p, .samples = &replies[jobs_count]};
        job->prompt = reasoner_prompt(r, user, said, &job->prompt_count);
        problem_of[jobs_count++] = p;
    }
    struct sampler_stats stats = {0};
    sampler_run(
        r->engine, r->codec, SEQS,
        &(struct sampling_args){.temperature = 0.6f, .top_p = 0.95f, .tokens_max = PROBE_TOKENS},
        jobs, jobs_count, &stats);
    for (uint32_t i = 0; i < jobs_count; i++) {
        char *end = strchr(replies[i].text, '}');
        if (end)
            *end = 0;
        count(&agrees, end && answer_same(TASK_LONG, replies[i].text, t->answers[problem_of[i]]));
        free((void *)(uintptr_t)jobs[i].prompt);
    }
    card_row(r, "long: probe where the final answer is first stated agrees with it",
             percent(agrees), "%");
    reasoner_bar_set(BAR_LONG_PROBE_AGREES, percent(agrees));
    samples_free(replies, jobs_count);
    free(replies);
    free(jobs);
    free(problem_of);
}

void measure_long(struct reasoner *r, const struct problems *problems)
{
    struct taken t;
    take(r, TASK_LONG, problems, 1, REASONER_TOKENS_LONG, &t);
    struct share single = {0}, level[LEVELS_MAX] = {{0}}, after = {0}, stated = {0};
    size_t *cut = need(calloc(problems->count, sizeof *cut));
    for (uint32_t p = 0; p < problems->count; p++) {
        count(&single, t.right[p]);
        count(&level[problems->items[p].level], t.right[p]);
        cut[p] = *t.answers[p] ? first_stated(t.samples[p].text, t.answers[p]) : 0;
        count(&stated, cut[p] != 0);
        if (cut[p]) {
            after.part += 1 - (double)cut[p] / (double)strlen(t.samples[p].text);
            after.whole++;
        }
    }
    card_row(r, "long: one chain right", percent(single), "%");
    card_levels(r, "long: one chain right", level);
    card_row(r, "long: chains that state their final answer before the end", percent(stated), "%");
    card_row(r, "long: text after the final answer is first stated", percent(after), "%");
    reasoner_bar_set(BAR_LONG_SINGLE_LEAST, percent(single));
    reasoner_bar_set(BAR_LONG_SINGLE_MOST, percent(single));
    reasoner_bar_set(BAR_LONG_TOKENS_AFTER, percent(after));
    probe_all(r, &t, cut);
    free(cut);
    taken_free(&t);
}

/* ---- speed ---------------------------------------------------------------------------------------- */

#define SPEED_PROBLEMS 64u

/* 64 branches at a time, of 64 problems. */
void measure_speed(struct reasoner *r, const struct problems *problems)
{
    struct job jobs[SPEED_PROBLEMS];
    struct sample samples[SPEED_PROBLEMS * 16];
    double best = 0;
    uint32_t jobs_count = problems->count < SPEED_PROBLEMS ? problems->count : SPEED_PROBLEMS;
    for (uint32_t p = 0; p < jobs_count; p++) {
        jobs[p] = (struct job){.samples_count = 16, .seed = p, .samples = &samples[p * 16]};
        jobs[p].prompt = reasoner_prompt(r, problems->items[p].text, NULL, &jobs[p].prompt_count);
    }
    for (uint32_t i = 0; i < 3; i++) {
        struct sampler_stats stats = {0};
        sampler_run(r->engine, r->codec, SPEED_SEQS,
                    &(struct sampling_args){.temperature = r->temperature,
                                            .top_p = 1,
                                            .tokens_max = REASONER_TOKENS_WORDS},
                    jobs, jobs_count, &stats);
        samples_free(samples, jobs_count * 16);
        if ((double)stats.tokens_count / stats.seconds > best)
            best = (double)stats.tokens_count / stats.seconds;
    }
    for (uint32_t p = 0; p < jobs_count; p++)
        free((void *)(uintptr_t)jobs[p].prompt);
    card_row(r, "tokens a second, 64 branches, prompts included, best of three", best, "");
    reasoner_bar_set(BAR_TOKENS_PER_S, best);
}

/* ---- samples for training a reward model ------------------------------------------------------------ */

void write_samples(struct reasoner *r, enum task task, const char *file, uint32_t samples_count)
{
    static const uint32_t tokens_max[] = {REASONER_TOKENS_WORDS, REASONER_TOKENS_GAME24,
                                          REASONER_TOKENS_LONG};
    struct problems problems;
    struct taken t;
    problems_read(file, 1, &problems);
    take(r, task, &problems, samples_count, tokens_max[task], &t);
    for (uint32_t i = 0; i < problems.count * samples_count; i++) {
        printf("%u\t%d\t", i / samples_count, t.right[i]);
        for (const char *c = t.samples[i].text; *c; c++) {
            if (*c == '\n')
                printf("\\n");
            else if (*c == '\\')
                printf("\\\\");
            else
                (void)putchar(*c);
        }
        printf("\n");
    }
    taken_free(&t);
    problems_free(&problems);
}
