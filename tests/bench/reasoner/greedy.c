/* Whole texts of the greatest logits, through codec, scheduler and engine as they serve, against those that
 * transformers writes in float32 (tools/model/reasoner/golden.py). Where a token differs the text goes on after
 * the one that is expected, so that every token is compared. */
#include <stdlib.h>
#include <string.h>

#include "tests/bench/reasoner/reasoner.h"

#define TEXTS_MAX 64u
#define TOKENS_MAX REASONER_TOKENS_LONG
/* Both of the two greatest logits may be off by the bound of tests/unit/test_golden_models.c, 0.02 of the
 * greatest: docs/NUMERICS.md. In 1/10000. */
#define CLEAR_LEAD 400u

struct text {
    enum task task;
    uint32_t line; /* of the task's test set */
    uint32_t count;
    uint32_t tokens[TOKENS_MAX];
    uint32_t leads[TOKENS_MAX];
    uint32_t *prompt;
    uint32_t prompt_count;
    uint32_t done; /* tokens compared */
    struct sample sample;
};

static uint32_t numbers_read(char *field, uint32_t ret_numbers[TOKENS_MAX])
{
    uint32_t n = 0;
    for (char *end; field && *field && *field != '\n'; field = end + (*end == ' ')) {
        if (n == TOKENS_MAX)
            fail("a greedy text is longer than %u tokens", TOKENS_MAX);
        ret_numbers[n++] = (uint32_t)strtoul(field, &end, 10);
        if (end == field)
            fail("a greedy text: `%.20s` is no number", field);
    }
    return n;
}

static void text_read(char *line, struct text *ret_text)
{
    char *field[4] = {line};
    for (uint32_t i = 1; i < 4; i++) {
        field[i] = strchr(field[i - 1], '\t');
        if (!field[i])
            fail("a greedy text: `task <tab> line <tab> tokens <tab> leads` is wanted");
        *field[i]++ = 0;
    }
    while (ret_text->task < TASK_COUNT && strcmp(task_names[ret_text->task], field[0]) != 0)
        ret_text->task++;
    ret_text->line = (uint32_t)strtoul(field[1], NULL, 10);
    ret_text->count = numbers_read(field[2], ret_text->tokens);
    if (ret_text->task == TASK_COUNT || ret_text->count == 0 ||
        numbers_read(field[3], ret_text->leads) != ret_text->count)
        fail("a greedy text of `%s`: a task, and a lead for each token are wanted", field[0]);
}

static uint32_t texts_read(const char *path, struct text *texts)
{
    static char line[1u << 16];
    uint32_t n = 0;
    FILE *file = fopen(path, "re");
    if (!file)
        fail("%s: %m", path);
    while (n < TEXTS_MAX && fgets(line, sizeof line, file))
        text_read(line, &texts[n++]);
    (void)fclose(file); /* only read */
    if (n == 0)
        fail("%s has no text", path);
    return n;
}

static void prompt_make(struct reasoner *r, struct text *text)
{
    char path[4096], user[REASONER_PROMPT_BYTES];
    struct problems problems;
    (void)snprintf(path, sizeof path, "%s/%s.test.tsv", r->tasks,
                   text->task == TASK_GAME24 ? "game24" : "words");
    problems_read(path, 1, &problems);
    if (text->line >= problems.count)
        fail("%s has no line %u", path, text->line);
    (void)snprintf(user, sizeof user, "%s%s", text->task == TASK_LONG ? LONG_ASK : "",
                   problems.items[text->line].text); /* lines are shorter */
    text->prompt = reasoner_prompt(r, user, NULL, &text->prompt_count);
    problems_free(&problems);
}

/* The rest of all texts that are not compared to their ends; false: there is none. */
static bool write_on(struct reasoner *r, struct text *texts, uint32_t count)
{
    struct job jobs[TEXTS_MAX];
    uint32_t n = 0;
    struct sampler_stats stats = {0};
    for (uint32_t i = 0; i < count; i++) {
        struct text *t = &texts[i];
        if (t->done == t->count)
            continue;
        memcpy(t->prompt + t->prompt_count, t->tokens, t->done * sizeof *t->tokens);
        jobs[n++] = (struct job){.prompt = t->prompt,
                                 .prompt_count = t->prompt_count + t->done,
                                 .samples_count = 1,
                                 .samples = &t->sample};
    }
    if (n > 0)
        sampler_run(r->engine, r->codec, TEXTS_MAX,
                    &(struct sampling_args){.top_p = 1,
                                            .tokens_max = TOKENS_MAX,
                                            .progress = r->progress ? "greedy" : NULL},
                    jobs, n, &stats);
    return n > 0;
}

/* Up to the first token that differs, and that; returns how many of them differ though they lead clearly. */
static uint32_t compare(struct text *t)
{
    const struct sample *s = &t->sample;
    for (uint32_t i = 0; t->done < t->count; i++) {
        uint32_t want = t->tokens[t->done];
        bool same =
            i < s->count ? s->tokens[i] == want : s->ended && i == s->count && s->end == want;
        uint32_t lead = t->leads[t->done++];
        if (!same)
            return lead >= CLEAR_LEAD;
    }
    return 0;
}

void measure_greedy(struct reasoner *r, const struct problems *problems)
{
    (void)problems;
    if (!r->golden)
        return;
    struct text *texts = need(calloc(TEXTS_MAX, sizeof *texts));
    uint32_t count = texts_read(r->golden, texts), tokens = 0, clear = 0, differ = 0, ties = 0;
    for (uint32_t i = 0; i < count; i++) {
        prompt_make(r, &texts[i]);
        tokens += texts[i].count;
        for (uint32_t n = 0; n < texts[i].count; n++)
            clear += texts[i].leads[n] >= CLEAR_LEAD;
    }
    while (write_on(r, texts, count))
        for (uint32_t i = 0; i < count; i++)
            if (texts[i].done < texts[i].count) {
                uint32_t wrong = compare(&texts[i]);
                differ += wrong;
                ties += !wrong && texts[i].done < texts[i].count;
                samples_free(&texts[i].sample, 1);
            }
    for (uint32_t i = 0; i < count; i++)
        free(texts[i].prompt);
    free(texts);
    figures_line(
        r->card,
        "Greedy texts of %u problems in transformers (float32) and here (bf16): %u tokens, %u of "
        "them clear; differ: %u clear, %u others.",
        count, tokens, clear, differ, ties);
    reasoner_bar_set(BAR_GREEDY_DIFFER, differ);
}
