/* The figures of the model card, task by task: sample, check, count. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/reasoner/reasoner.h"

#define SAMPLES_MAX 20u
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

static void task_figures(struct reasoner *r, const struct taken *t, struct figures *ret_figures)
{
    char caption[128];
    (void)snprintf(caption, sizeof caption, "`%s`: %u problems, %u %s each", task_names[t->task],
                   t->problems->count, t->samples_count,
                   t->samples_count > 1 ? "samples" : "sample");
    figures_begin(ret_figures, r->card, t->problems, caption);
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

static void bar_percent(enum bar_id id, const struct tally *tally)
{
    reasoner_bar_set(id, 100 * tally_mean(tally, 0));
}

/* Over pairs (right, wrong) of one problem: how often the right one scores higher; ties count half. */
static void rank(const struct taken *t, const struct scored *scored, struct tally *ret_won)
{
    *ret_won = (struct tally){0};
    for (uint32_t p = 0; p < t->problems->count; p++)
        for (uint32_t i = p * t->samples_count; i < (p + 1) * t->samples_count; i++)
            for (uint32_t j = p * t->samples_count; j < (p + 1) * t->samples_count; j++)
                if (t->right[i] && !t->right[j])
                    tally_add(ret_won, t->problems->items[p].level,
                              scored[i].last > scored[j].last   ? 1
                              : scored[i].last < scored[j].last ? 0
                                                                : 0.5);
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
    scorer_run(r->engine, scored, samples_count, r->progress ? task_names[t->task] : NULL);
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
    return xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : (double)NAN;
}

/* Points of accuracy from level to level, by least squares over the levels. */
static double slope(const struct tally *right)
{
    double n = 0, x = 0, y = 0, xx = 0, xy = 0;
    for (uint32_t l = 1; l < LEVELS_MAX; l++) {
        if (right->count[l] <= 0)
            continue;
        double accuracy = 100 * tally_mean(right, l);
        n++;
        x += l;
        y += accuracy;
        xx += (double)l * l;
        xy += l * accuracy;
    }
    return n > 1 ? (n * xy - x * y) / (n * xx - x * x) : (double)NAN;
}

/* Of all levels (0) or one: H~ of five samples against the samples needed for a lasting right majority. */
static double words_correlation(const struct taken *t, uint32_t level)
{
    uint32_t n = 0;
    double *x = need(calloc(t->problems->count, sizeof *x));
    double *y = need(calloc(t->problems->count, sizeof *y));
    for (uint32_t p = 0; p < t->problems->count; p++) {
        uint32_t needed = lasting(t, p);
        if (needed && (level == 0 || t->problems->items[p].level == level)) {
            x[n] = certainty(t, p, 5);
            y[n++] = needed;
        }
    }
    double correlation = pearson(x, y, n);
    free(x);
    free(y);
    return correlation;
}

struct words_tallies {
    struct tally single, most, unanimous, unanimous_wrong, never;
};

static void words_count(const struct taken *t, struct words_tallies *w)
{
    for (uint32_t p = 0; p < t->problems->count; p++) {
        const bool *right = &t->right[p * 20];
        const uint32_t *group = &t->group[p * 20];
        uint32_t level = t->problems->items[p].level;
        bool any = false, same = *t->answers[p * 20] != 0;
        for (uint32_t i = 0; i < 20; i++) {
            tally_add(&w->single, level, right[i]);
            any |= right[i];
            same &= i >= 5 || group[i] == group[0];
        }
        tally_add(&w->most, level, right[majority(t, p, 20)]);
        tally_add(&w->unanimous, level, same);
        tally_add(&w->never, level, !any);
        if (same)
            tally_add(&w->unanimous_wrong, level, !right[0]);
    }
}

static void words_bars(const struct words_tallies *w, double correlation)
{
    bar_percent(BAR_WORDS_SINGLE_LEAST, &w->single);
    bar_percent(BAR_WORDS_SINGLE_MOST, &w->single);
    reasoner_bar_set(BAR_WORDS_MAJORITY_GAIN,
                     100 * (tally_mean(&w->most, 0) - tally_mean(&w->single, 0)));
    bar_percent(BAR_WORDS_UNANIMOUS, &w->unanimous);
    bar_percent(BAR_WORDS_UNANIMOUS_WRONG_LEAST, &w->unanimous_wrong);
    bar_percent(BAR_WORDS_UNANIMOUS_WRONG_MOST, &w->unanimous_wrong);
    bar_percent(BAR_WORDS_NEVER, &w->never);
    reasoner_bar_set(BAR_WORDS_LEVEL_SLOPE, slope(&w->single));
    reasoner_bar_set(BAR_CERTAINDEX_PEARSON, correlation);
}

void measure_words(struct reasoner *r, const struct problems *problems)
{
    struct taken t;
    struct figures figures;
    struct words_tallies w = {0};
    double correlation[LEVELS_MAX];
    take(r, TASK_WORDS, problems, 20, REASONER_TOKENS_WORDS, &t);
    words_count(&t, &w);
    for (uint32_t l = 0; l < LEVELS_MAX; l++)
        correlation[l] = words_correlation(&t, l);
    task_figures(r, &t, &figures);
    figures_percent(&figures, "one sample right, %", &w.single);
    figures_percent(&figures, "majority of 20 right, %", &w.most);
    figures_percent(&figures, "first five unanimous, %", &w.unanimous);
    figures_percent(&figures, "of those wrong, %", &w.unanimous_wrong);
    figures_percent(&figures, "wrong in all 20, %", &w.never);
    figures_row(&figures, "H~ of five samples and samples needed, correlation", correlation, 3);
    words_bars(&w, correlation[0]);
    if (r->has_reward) {
        struct scored *scored = score(r, &t);
        struct tally won;
        rank(&t, scored, &won);
        figures_mean(&figures, "reward model ranks right above wrong, AUC", &won);
        reasoner_bar_set(BAR_WORDS_AUC, tally_mean(&won, 0));
        scored_free(scored, problems->count * 20);
    }
    taken_free(&t);
}

/* ---- game24 -------------------------------------------------------------------------------------- */

void measure_game24(struct reasoner *r, const struct problems *problems)
{
    struct taken t;
    struct figures figures;
    take(r, TASK_GAME24, problems, 16, REASONER_TOKENS_GAME24, &t);
    struct scored *scored = r->has_reward ? score(r, &t) : NULL;
    struct tally single = {0}, any = {0}, best = {0};
    for (uint32_t p = 0; p < problems->count; p++) {
        const bool *right = &t.right[p * 16];
        uint32_t top = 0, level = problems->items[p].level;
        bool hit = false;
        for (uint32_t i = 0; i < 16; i++) {
            tally_add(&single, level, right[i]);
            hit |= right[i];
            if (scored && scored[p * 16 + i].last > scored[p * 16 + top].last)
                top = i;
        }
        tally_add(&any, level, hit);
        tally_add(&best, level, right[top]);
    }
    task_figures(r, &t, &figures);
    figures_percent(&figures, "one sample right, %", &single);
    figures_percent(&figures, "any of 16 right, %", &any);
    if (scored) {
        struct tally won;
        rank(&t, scored, &won);
        figures_percent(&figures, "best of 16 by the reward model right, %", &best);
        figures_mean(&figures, "reward model ranks right above wrong, AUC", &won);
        reasoner_bar_set(BAR_GAME24_REWARD_GAIN,
                         100 * (tally_mean(&best, 0) - tally_mean(&single, 0)));
        reasoner_bar_set(BAR_GAME24_AUC, tally_mean(&won, 0));
        scored_free(scored, problems->count * 16);
    }
    taken_free(&t);
}

/* ---- long ---------------------------------------------------------------------------------------- */

/* As the paper's client asks, docs/CERTAINDEX.md. */
#define PROBE                                                                                      \
    "... Oh, I suddenly got the answer to the whole problem, **Final Answer**\n\n\\[ \\boxed{"
#define PROBE_TOKENS 20u
#define PROBE_TEMPERATURE 0.6f
#define PROBE_TOP_P 0.95f

/* The answer that a line states: it is no step, and its last number is the answer; false: none. */
static bool stated(const char *line, size_t bytes, char ret_number[ANSWER_TEXT_BYTES])
{
    size_t end = bytes, begin;
    if (bytes >= 5 && memcmp(line, "Step ", 5) == 0)
        return false;
    while (end > 0 && !strchr("0123456789", line[end - 1]))
        end--;
    for (begin = end; begin > 0 && strchr("0123456789./", line[begin - 1]); begin--)
        ;
    if (begin == end || end - begin >= ANSWER_TEXT_BYTES || (begin > 0 && line[begin - 1] == '='))
        return false;
    memcpy(ret_number, line + begin, end - begin);
    ret_number[end - begin] = 0;
    return true;
}

struct chain { /* what is stated between the think tags */
    size_t
        cut; /* bytes up to the end of the first line that states the final answer; 0: none does */
    bool changes;                  /* a line states another answer than the first that did */
    char first[ANSWER_TEXT_BYTES]; /* the first that is stated; empty: none */
};

static void chain_read(const char *text, const char *answer, struct chain *ret_chain)
{
    const char *stop = strstr(text, "</think>");
    *ret_chain = (struct chain){0};
    for (const char *line = text, *end; stop && line < stop; line = end + 1) {
        char number[ANSWER_TEXT_BYTES];
        end = strchr(line, '\n');
        if (!end)
            return;
        if (!stated(line, (size_t)(end - line), number))
            continue;
        if (!*ret_chain->first)
            memcpy(ret_chain->first, number, sizeof number);
        ret_chain->changes |= !answer_same(TASK_LONG, number, ret_chain->first);
        if (ret_chain->cut == 0 && answer_same(TASK_LONG, number, answer))
            ret_chain->cut = (size_t)(end - text) + 1;
    }
}

/* The share of a text's tokens that come after so many bytes. */
static double tokens_after(const struct reasoner *r, const struct sample *sample, size_t bytes)
{
    struct codec_stream stream;
    uint8_t out[CODEC_PUSH_BYTES_MAX];
    uint32_t n = 0, more;
    codec_stream_init(&stream, NULL);
    for (size_t done = 0; n < sample->count && done < bytes; n++, done += more)
        (void)codec_push(&stream, r->codec, sample->tokens[n], out, &more); /* no stops */
    return 1 - (double)n / sample->count;
}

static void probe_all(struct reasoner *r, const struct taken *t, const struct chain *chains,
                      struct tally *ret_agrees)
{
    struct sample *replies = need(calloc(t->problems->count, sizeof *replies));
    struct job *jobs = need(calloc(t->problems->count, sizeof *jobs));
    uint32_t jobs_count = 0, *problem_of = need(calloc(t->problems->count, sizeof *problem_of));
    *ret_agrees = (struct tally){0};
    for (uint32_t p = 0; p < t->problems->count; p++) {
        if (!chains[p].cut)
            continue;
        char user[REASONER_PROMPT_BYTES], said[REASONER_PROMPT_BYTES];
        (void)snprintf(user, sizeof user, LONG_ASK "%s", t->problems->items[p].text);
        (void)snprintf(said, sizeof said, "%.*s" PROBE, (int)chains[p].cut, t->samples[p].text);
        struct job *job = &jobs[jobs_count];
        *job =
            (struct job){.samples_count = 1, .seed = 1000000 + p, .samples = &replies[jobs_count]};
        job->prompt = reasoner_prompt(r, user, said, &job->prompt_count);
        problem_of[jobs_count++] = p;
    }
    struct sampler_stats stats = {0};
    sampler_run(r->engine, r->codec, SEQS,
                &(struct sampling_args){.temperature = PROBE_TEMPERATURE,
                                        .top_p = PROBE_TOP_P,
                                        .tokens_max = PROBE_TOKENS,
                                        .progress = r->progress ? "probes" : NULL},
                jobs, jobs_count, &stats);
    for (uint32_t i = 0; i < jobs_count; i++) {
        uint32_t p = problem_of[i];
        char *end = strchr(replies[i].text, '}');
        if (end)
            *end = 0;
        tally_add(ret_agrees, t->problems->items[p].level,
                  end && answer_same(TASK_LONG, replies[i].text, t->answers[p]));
        free((void *)(uintptr_t)jobs[i].prompt);
    }
    samples_free(replies, jobs_count);
    free(replies);
    free(jobs);
    free(problem_of);
}

/* A chain that states its final answer only at its end has no tokens after it. */
void measure_long(struct reasoner *r, const struct problems *problems)
{
    struct taken t;
    struct figures figures;
    take(r, TASK_LONG, problems, 1, REASONER_TOKENS_LONG, &t);
    struct tally single = {0}, after = {0}, settles = {0}, changes = {0}, mended = {0}, agrees;
    struct chain *chains = need(calloc(problems->count, sizeof *chains));
    for (uint32_t p = 0; p < problems->count; p++) {
        struct chain *chain = &chains[p];
        uint32_t level = problems->items[p].level;
        tally_add(&single, level, t.right[p]);
        if (!*t.answers[p])
            continue;
        chain_read(t.samples[p].text, t.answers[p], chain);
        tally_add(&settles, level, chain->cut != 0);
        tally_add(&after, level, chain->cut ? tokens_after(r, &t.samples[p], chain->cut) : 0);
        tally_add(&changes, level, chain->changes);
        if (chain->changes)
            tally_add(&mended, level,
                      t.right[p] && !answer_right(TASK_LONG, &problems->items[p], chain->first));
    }
    probe_all(r, &t, chains, &agrees);
    task_figures(r, &t, &figures);
    figures_percent(&figures, "one chain right, %", &single);
    figures_percent(&figures, "chains that state their final answer before the end, %", &settles);
    figures_percent(&figures, "tokens after the final answer is first stated, %", &after);
    figures_percent(&figures, "probe where the final answer is first stated agrees, %", &agrees);
    figures_percent(&figures, "the stated answer changes, %", &changes);
    figures_percent(&figures, "of those from wrong to right, %", &mended);
    bar_percent(BAR_LONG_SINGLE_LEAST, &single);
    bar_percent(BAR_LONG_SINGLE_MOST, &single);
    bar_percent(BAR_LONG_TOKENS_AFTER, &after);
    bar_percent(BAR_LONG_PROBE_AGREES, &agrees);
    bar_percent(BAR_LONG_CHANGES, &changes);
    free(chains);
    taken_free(&t);
}

/* ---- speed ---------------------------------------------------------------------------------------- */

#define SPEED_PROBLEMS 64u
#define SPEED_RUNS 3u

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
    for (uint32_t i = 0; i < SPEED_RUNS; i++) {
        struct sampler_stats stats = {0};
        sampler_run(r->engine, r->codec, SPEED_SEQS,
                    &(struct sampling_args){.temperature = r->temperature,
                                            .top_p = 1,
                                            .tokens_max = REASONER_TOKENS_WORDS,
                                            .progress = r->progress ? "speed" : NULL},
                    jobs, jobs_count, &stats);
        samples_free(samples, jobs_count * 16);
        if ((double)stats.tokens_count / stats.seconds > best)
            best = (double)stats.tokens_count / stats.seconds;
    }
    for (uint32_t p = 0; p < jobs_count; p++)
        free((void *)(uintptr_t)jobs[p].prompt);
    figures_line(r->card, "Tokens a second with %u branches, prompts included, best of %u: %.0f.",
                 SPEED_SEQS, SPEED_RUNS, best);
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
