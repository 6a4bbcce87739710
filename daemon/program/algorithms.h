/* daemon/program/algorithms.h — the reasoning algorithms, one file each.
 *
 * Thread: control. Memory: a run's. Fails: never. */
#pragma once
#include "daemon/program/run.h"

extern const struct algorithm algorithm_single;
extern const struct algorithm algorithm_sc;
extern const struct algorithm algorithm_rebase;
extern const struct algorithm algorithm_mcts;
extern const struct algorithm algorithm_cot;
extern const struct algorithm algorithm_best_of_n;
extern const struct algorithm algorithm_beam;
extern const struct algorithm algorithm_sc_cot;
extern const struct algorithm algorithm_custom; /* custom.h has another one beside it */

/* By enum dynasor_algorithm. */
const struct algorithm *algorithm_get(uint32_t kind);

/* ---- common parts (algorithms.c) ------------------------------------------------------------- */

/* The answer of a finished path goes into the run's ballot. */
void algorithm_count(struct run *run, uint32_t branch);
/* Most steps of a path: each has a token at least. */
uint32_t algorithm_depth(const struct parameters *parameters);
/* Whether a settled branch ends its path: by itself, at the limit of tokens, or as its last step, whole, has
 * an answer already. */
bool algorithm_is_leaf(struct run *run, uint32_t branch);
/* Weight of a path from the scores of its steps, by DYNASOR_PARAMETER_WEIGHT. */
double algorithm_weight(const struct run *run, uint32_t branch);

/* Asks the policy about the answers from first on, at this knob. True: go on up to *ret_knob, which is
 * above it; false: the run has been finished, or waits for its batch. */
bool algorithm_decide(struct run *run, uint32_t first, uint32_t knob_done, uint32_t knob_cap,
                      uint32_t *ret_knob);
/* Finishes with the ballot's winner by DYNASOR_PARAMETER_VOTE. */
void algorithm_finish(struct run *run, enum run_verdict verdict);

/* REBASE's split of a width: scores descend; ret_counts[i] children for the i-th. */
void rebase_split(const double *scores, uint32_t count, uint32_t width, double spread,
                  uint32_t *ret_counts);
/* DYNASOR_PARAMETER_PRIOR: of an action, up to the factor that makes those of its siblings one together. The sum is
 * less the best sibling's, so that a long step's is not 0. */
enum mcts_prior_rule { MCTS_PRIOR_MEAN = 0, MCTS_PRIOR_SUM = 1, MCTS_PRIOR_UNIFORM = 2 };
double mcts_prior(uint32_t rule, double log_sum, uint32_t tokens_count, double log_sum_best);
/* PUCT: value + c * prior * sqrt(parent visits) / (1 + visits), c = log((parent visits + base + 1) /
 * base) + init (TS-LLM's tree.py). exploration: c * sqrt(parent visits), which siblings share. */
double mcts_exploration(uint32_t parent_visits, double base, double init);
double mcts_priority(double value, double prior, uint32_t visits, double exploration);
/* Starts a probe of a chain that rests. */
uint32_t cot_ask(struct run *run, uint32_t chain);
/* What a probe of a chain answered becomes the ballot's next answer. False: it had none. */
bool cot_hear(struct run *run, struct ballot *ballot, uint32_t probe, struct certaindex_probe *ret);
uint32_t cot_extra_tokens(const struct parameters *parameters, const struct run_texts *texts);
/* Whether a probe's response has a hesitation word, in any case, anywhere. */
bool cot_hesitates(const char *text, uint32_t bytes);
