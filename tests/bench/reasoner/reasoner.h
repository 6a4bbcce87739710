/* tests/bench/reasoner/reasoner.h — parts of `dynasor-bench reasoner`: the shipped model measured on
 * the tasks it was made for.
 *
 * Thread: main. Memory: each part frees what it takes; what cannot be had ends the process with a
 * sentence (a tool, not the daemon). */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "daemon/engine/engine.h"
#include "daemon/text/codec.h"
#include "tests/bench/dynasor/tasks.h"

/* ---- sampler.c: many prompts, several samples of each, through the scheduler ------------------- */

struct sampling_args {
    float temperature;
    float top_p;
    uint32_t tokens_max;
    const char *progress; /* a name for a line that says how far it is, or NULL */
};

struct job {
    const uint32_t *prompt;
    uint32_t prompt_count;
    uint32_t samples_count;
    uint64_t seed;
    struct sample *samples; /* [samples_count] results */
};

struct sample {
    uint32_t *tokens; /* without the model's end */
    uint32_t count;
    uint32_t end; /* the model's end, when ended */
    bool ended;   /* by the model, not by tokens_max */
    float mean_log_probability;
    char *text;
};

struct sampler_stats {
    uint64_t tokens_count;
    double seconds;
};

/* seqs: branches that run at once. Adds to ret_stats. */
void sampler_run(struct engine *engine, const struct codec *codec, uint32_t seqs,
                 const struct sampling_args *args, struct job *jobs, uint32_t jobs_count,
                 struct sampler_stats *ret_stats);
void samples_free(struct sample *samples, uint32_t count);

/* ---- scorer.c: the reward model over whole texts ------------------------------------------------ */

struct scored {
    const uint32_t *tokens; /* prompt and solution */
    uint32_t count;
    float last; /* result: score at the last token */
};
/* progress: a name for a line that says how far it is, or NULL. */
void scorer_run(struct engine *engine, struct scored *items, uint32_t count, const char *progress);

/* ---- figures.c: figures to stdout, and into the model card ---------------------------------------- */

#define LEVELS_MAX 16u /* of figures: [0] is of all levels */

struct tally {
    double sum[LEVELS_MAX];
    double count[LEVELS_MAX];
};
void tally_add(struct tally *tally, uint32_t level, double value);
double tally_mean(const struct tally *tally, uint32_t level); /* NAN: of nothing */

struct figures {
    FILE *card;              /* or NULL */
    bool levels[LEVELS_MAX]; /* that have a column */
};
/* The head, with a column for each level that problems have. */
void figures_begin(struct figures *figures, FILE *card, const struct problems *problems,
                   const char *caption);
void figures_row(const struct figures *figures, const char *name, const double values[LEVELS_MAX],
                 uint32_t decimals);
void figures_percent(const struct figures *figures, const char *name, const struct tally *tally);
/* A sentence, with an empty line before it. */
void figures_line(FILE *card, const char *format, ...) __attribute__((format(printf, 2, 3)));
void figures_mean(const struct figures *figures, const char *name, const struct tally *tally);

/* ---- measure.c ---------------------------------------------------------------------------------- */

struct reasoner {
    struct engine *engine;
    struct codec *codec;
    struct codec_scratch *scratch;
    float temperature;
    const char *tasks;  /* folder of the test sets */
    const char *golden; /* file of texts as transformers writes them, or NULL */
    bool has_reward;
    bool progress; /* is said */
    FILE *card;    /* tables for the model card, or NULL */
};

/* Tokens of text as a user's message, followed by what the model is made to have said (may be NULL). */
uint32_t *reasoner_prompt(struct reasoner *r, const char *user, const char *said,
                          uint32_t *ret_count);

void measure_words(struct reasoner *r, const struct problems *problems);
void measure_game24(struct reasoner *r, const struct problems *problems);
void measure_long(struct reasoner *r, const struct problems *problems);
void measure_speed(struct reasoner *r, const struct problems *problems);

/* ---- greedy.c: texts of the greatest logits against those of r->golden --------------------------- */

void measure_greedy(struct reasoner *r, const struct problems *problems);

/* To stdout, `problem <tab> right <tab> text` with line ends as \\n, for the training of a reward model. */
void write_samples(struct reasoner *r, enum task task, const char *file, uint32_t samples_count);

#define REASONER_ROWS 257u /* branches at once, and a stem */
#define REASONER_BATCH_TOKENS 2048u
#define REASONER_PROMPT_BYTES 8192u

/* ---- bars.c ------------------------------------------------------------------------------------- */

enum bar_id {
    BAR_WORDS_SINGLE_LEAST,
    BAR_WORDS_SINGLE_MOST,
    BAR_WORDS_MAJORITY_GAIN,
    BAR_WORDS_UNANIMOUS,
    BAR_WORDS_UNANIMOUS_WRONG_LEAST,
    BAR_WORDS_UNANIMOUS_WRONG_MOST,
    BAR_WORDS_NEVER,
    BAR_WORDS_LEVEL_SLOPE,
    BAR_GAME24_REWARD_GAIN,
    BAR_GAME24_AUC,
    BAR_WORDS_AUC,
    BAR_LONG_PROBE_AGREES,
    BAR_LONG_TOKENS_AFTER,
    BAR_LONG_SINGLE_LEAST,
    BAR_LONG_SINGLE_MOST,
    BAR_LONG_CHANGES,
    BAR_CERTAINDEX_PEARSON,
    BAR_GREEDY_DIFFER,
    BAR_TOKENS_PER_S,
    BAR_PAIR_MEGABYTES,
    BAR_COUNT,
};

void reasoner_bars_names(void);
void reasoner_bar_set(enum bar_id id, double value);
uint32_t reasoner_bars_print(void); /* returns how many are short */
