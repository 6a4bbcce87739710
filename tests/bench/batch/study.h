/* tests/bench/batch/study.h — logs of a campaign, replayed under policies; and the bars on what comes out.
 *
 * A policy changes nothing before it stops, so what it would have done follows from the log of a program
 * that ran to its cap: tools/calibrate/replay.h. Trees whose shape depends on what was granted have logs
 * of their own.
 *
 * Thread: main. Memory: heap; what cannot be had ends the process with a sentence. */
#pragma once
#include "tests/bench/batch/batch.h"
#include "tests/bench/batch/stats.h"
#include "tools/calibrate/family.h"
#include "tools/calibrate/replay.h"

/* ---- study.c ------------------------------------------------------------------------------------ */

struct study {
    struct items items;
    struct log log; /* runs are the items, in their order */
    struct replay replay;
};

/* DIR/NAME.tsv; false: there is none, or nobody ran. */
bool study_open(const char *folder, const char *name, struct study *ret_study);
void study_close(struct study *study);

/* DIR/profiles/NAME.ini, or the built-in one; false: neither. */
bool study_profile(const char *folder, const char *name, struct profile *ret_profile);

struct judged {
    double right_percent;
    double tokens; /* mean of a program, probes charged */
    double stopped_percent;
    double given_up_percent;
    double limit_percent;   /* what its share of stopped programs allows to save: f (cap - d) / cap;
                             NAN where it is not known, or saves otherwise */
    struct interval gained; /* against the base, in points */
    struct interval saved;  /* in percent */
};
/* base: a study of the same programs run to their cap, and maybe of more problems behind these; NULL: this
 * one at this cap. cap 0: as logged. */
void study_judge(struct study *study, const struct policy_options *options, uint32_t cap,
                 const struct study *base, struct judged *ret_judged);
/* m_of_n, of samples that were all run to their end: no prefix of a log is what it sees, so its own function
 * says which samples count. The others are charged for as far as they could have been among them. */
void study_first(const struct study *study, const struct policy_options *options,
                 struct judged *ret_judged);
/* What was run, as it was run, against another run of the same programs, likewise. */
void study_live(const struct study *study, const struct study *base, struct judged *ret_judged);
/* Against nothing, and only the problems up to this one: those of a smaller log. */
void study_live_until(const struct study *study, uint32_t problem_last, struct judged *ret_judged);
double study_latency_s(const struct study *study);

/* ---- figures.c ---------------------------------------------------------------------------------- */

/* Everything that the logs of a folder say: tables to out (NULL: none), values to the bars. */
void figures_all(const char *folder, const char *out);

/* ---- bars_programs.c ------------------------------------------------------------------------------ */

void programs_bars_names(void);
void programs_bar_set(const char *name, double value);
/* In place of the limit that the list has. */
void programs_bar_limit(const char *name, double limit);
/* Why it cannot be told. */
void programs_bar_lacks(const char *name, const char *reason);
uint32_t programs_bars_print(void); /* returns how many are short */
bool programs_bar_known(const char *name);
