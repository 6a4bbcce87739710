/* daemon/program/run.h — the branches of reasoning programs: what an algorithm does things with.
 *
 * A run is one program that decodes. It has a root (the prompt) and branches; each goes on from the
 * root or from the end of another one, sharing its KV. An algorithm works in rounds: it starts
 * branches, lets others go on, probes; when all of them have settled, each at a step's end, at the
 * model's end or at its limit of tokens, and scored if that was asked for, algorithm->next() is
 * called once. So what it decides is a function of the program, its seed and its logical progress,
 * whoever else is running.
 *
 * Room is taken branch by branch: those that find none wait, oldest run first, and come before any
 * new run. A branch that has settled may be parked by the scheduler; none is lost.
 *
 * Thread: control. Memory: fixed at runs_new(). Time: O(1) a token; starting and forking are
 * O(prompt and path). Fails: RUN_NONE when there is no room for another run. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "daemon/program/ballot.h"
#include "daemon/program/certaindex.h"
#include "daemon/program/parameters.h"
#include "daemon/program/policy.h"
#include "daemon/sched/embed.h"
#include "daemon/sched/sched.h"
#include "daemon/text/codec.h"

struct runs;
struct run;
struct run_texts;

#define RUN_NONE UINT32_MAX

enum branch_state {
    BRANCH_FREE = 0,
    BRANCH_WAITING, /* for room */
    BRANCH_RUNNING,
    BRANCH_HELD,  /* at its own limit of tokens; may go on */
    BRANCH_STEP,  /* at a step's end; may go on */
    BRANCH_ENDED, /* by the model, a stop token or a stop string */
    BRANCH_CUT,   /* the program's limit of tokens */
    BRANCH_DEAD,  /* killed */
};

/* Everything of one branch but its text and tokens. Algorithms read it. Branch numbers are dense in a
 * run, in the order of their starts, unless some were forgotten: then the lowest free one is next. Random
 * numbers are keyed by the count of branches before it, of probes by that of probes: how often a chain
 * is probed does not change what is decoded. */
struct branch {
    uint32_t parent;       /* branch of the same run, or RUN_NONE: the root */
    uint32_t depth;        /* steps from the root */
    uint32_t tokens_count; /* of its own */
    uint32_t path_tokens;  /* with its parents' */
    uint32_t given_tokens; /* of its own, not decoded: what a probe appends */
    enum branch_state state;
    bool scored;
    float score;        /* of its last token, by the reward model */
    double log_sum;     /* log-probabilities of its own tokens */
    double entropy_sum; /* of their distributions */
    struct certaindex_groups confidence;
};

struct algorithm {
    const char *name;
    uint32_t kind; /* enum dynasor_algorithm */
    bool wants_reward;
    bool live; /* branch 0 is what the program says, as it is decoded */
    /* Most branches that exist at once, for these parameters; those that ended count until they are
     * forgotten. */
    uint32_t (*branches_max)(const struct parameters *parameters);
    /* Tokens that probes add to a path, given and decoded; NULL: none. */
    uint32_t (*extra_tokens)(const struct parameters *parameters, const struct run_texts *texts);
    void (*start)(struct run *run);
    void (*next)(struct run *run); /* NULL: its client decides (custom.h) */
    /* While run_watch() is on: after each token of a branch, and when it has been scored; with RUN_NONE
     * when the prompt has been read. It may kill, not start. */
    void (*watch)(struct run *run, uint32_t branch);
};

/* ---- what algorithms call -------------------------------------------------------------------- */

struct branch_args {
    uint32_t parent;        /* branch, or RUN_NONE */
    uint32_t parent_tokens; /* it goes on behind so many own ones of its parent; 0: all */
    uint32_t tokens_max;    /* then it is HELD; 0: up to the program's limit */
    bool stops_at_step;     /* at the parameter step_end: STEP */
    bool wants_score;       /* settled when the reward model has read it, too */
    const uint32_t *given;  /* a probe: tokens appended before it decodes; copied. No stop string or
                              stop token of the program ends it, only the model */
    uint32_t given_count;
    const struct ops_sample_row *sampling; /* NULL: the program's */
};
uint32_t run_branch(struct run *run, const struct branch_args *args); /* its number */
/* Lets a HELD or STEP branch decode so many more tokens (0: all it may). */
void run_extend(struct run *run, uint32_t branch, uint32_t tokens_max);
/* What a settled probe of a HELD branch was given and has said becomes the branch's own, nothing is decoded
 * twice, and run_extend() goes on behind it. ENDED where the probe was, or a stop string is complete. The
 * probe keeps its text and its cost, not its room. There must be room for a token more. */
void run_adopt(struct run *run, uint32_t branch, uint32_t probe);
/* The reward model reads a settled branch that has no score; then it settles once more. */
void run_score(struct run *run, uint32_t branch);
/* At its end, and scored if that was asked for. */
bool run_settled(const struct run *run, uint32_t branch);
/* Nothing decodes, nothing is read. */
bool run_rests(const struct run *run);
/* Its owner looks at it at the end of this poll. */
void run_tell(struct run *run);
uint32_t run_prompt_tokens(const struct run *run);
struct ops_sample_row run_sampling(const struct run *run); /* the program's */
/* Its tokens have been in vain. */
void run_kill(struct run *run, uint32_t branch);
/* A killed branch logically went no further than its first tokens_kept: those beyond were decoded because
 * others were slower. They count as lost, neither as decoded nor as killed, and are forgotten. */
void run_cut_back(struct run *run, uint32_t branch, uint32_t tokens_kept);
/* It takes no further part, and keeps its tokens and text: its room is given back. */
void run_retire(struct run *run, uint32_t branch);
/* It was never there, but for its cost; nothing may have gone on from it. */
void run_forget(struct run *run, uint32_t branch);
void run_watch(struct run *run, bool watched);

const struct branch *run_get(const struct run *run, uint32_t branch);
uint32_t run_branches_count(const struct run *run);
const struct parameters *run_parameters(const struct run *run);
/* May change between two decisions, not during one. */
const struct policy_options *run_policy(const struct run *run);
struct ballot *run_ballot(struct run *run);
/* Another one, of what branches were asked on their way. */
struct ballot *run_asked(struct run *run);
/* Text from the root's end to the branch's, not terminated; valid until the next call on any run. Of a
 * longer one than RUN_TEXT_BYTES the end, at least half of that. */
#define RUN_TEXT_BYTES 65536u
const char *run_text(struct run *run, uint32_t branch, uint32_t *ret_bytes);
/* The text that this branch decoded itself. */
const char *run_text_own(struct run *run, uint32_t branch, uint32_t *ret_bytes);

/* The answer in it by the program's rule, a probe's in its own text; false: none. As run_text(). */
bool run_answer_of(struct run *run, uint32_t branch, const char **ret_text, uint32_t *ret_bytes);
/* Vector of the answer of a settled branch, until the next one is taken; what it cost is charged with
 * this. NULL: it has none. */
const float *run_vector_take(struct run *run, uint32_t branch);

/* Least group confidence of a branch's own tokens, by the policy's window; 0: it has none. */
float run_confidence(const struct run *run, uint32_t branch);

/* Texts that are appended, as tokens of the model. */
#define RUN_TEXT_TOKENS_MAX 256u
struct run_texts {
    uint32_t probe_count;
    uint32_t probe[RUN_TEXT_TOKENS_MAX]; /* asks a chain of thought for its answer now */
    uint32_t
        step_tag; /* token behind every step that the reward model scores, if the step does not end with
                          it; 0: none */
};
const struct run_texts *run_texts(const struct run *run);

/* What has been spent so far. */
struct run_cost {
    uint64_t decoded_tokens; /* by all branches but probes */
    uint64_t probe_tokens;
    uint64_t reward_tokens; /* read by the reward model */
    uint64_t killed_tokens; /* of decoded: in branches that were killed */
    uint64_t lost_tokens;   /* beyond a logical end: depends on who else ran, and on nothing else */
    uint32_t branches_count;
    uint64_t vector_tokens; /* read to compare answers by likeness */
};
const struct run_cost *run_cost(const struct run *run);

enum run_verdict {
    RUN_SETTLED, /* the policy stopped it */
    RUN_CAPPED,  /* it used all it was allowed */
    RUN_GIVEN_UP,
    RUN_WHOLE, /* an algorithm without a policy came to its end */
};
/* What the program says is the path to `branch`, its answer that of `answer`, often the same or else a
 * probe (RUN_NONE: none). Last call of an algorithm. */
void run_finish(struct run *run, enum run_verdict verdict, uint32_t branch, uint32_t answer);
/* In a batch: the knob that it may reach for now, 0: none above the one it has. One that has, without being
 * settled, waits with its branches at their ends; then next() is called once more. */
uint32_t run_grant(const struct run *run);
void run_wait(struct run *run);
/* The signals that led to the last decision, for the result. */
void run_report(struct run *run, const struct certaindex *seen, uint32_t knob);

/* Where answers are noted (observe.h); NULL: nowhere. */
struct observer;
struct observer *run_observer(const struct run *run);
uint32_t run_user(const struct run *run); /* number that its owner gave it */

/* Room for an algorithm's own state, zeroed at its start. */
#define RUN_DEPTH_MAX 1024u /* steps of a path */
#define RUN_STATE_BYTES 512u
void *run_state(struct run *run);
/* Per branch likewise. */
#define RUN_BRANCH_STATE_BYTES 32u
void *run_branch_state(struct run *run, uint32_t branch);
