/* daemon/program/run_impl.h — what run.c, run_room.c, run_replica.c and run_text.c share of runs and their branches.
 *
 * Thread: control. Memory: of runs_new(). Fails: never. */
#pragma once
#include <sys/queue.h>

#include "daemon/base/assert.h"
#include "daemon/program/runs.h"

enum model { MODEL_POLICY = 0, MODEL_REWARD = 1, MODELS = 2 };

/* What every token touches comes first: with hundreds of branches a step is as long as its cache
 * misses. */
struct node {
    _Alignas(64) struct run *run;
    uint32_t held_at;   /* own tokens */
    uint32_t cut_at;    /* likewise */
    uint32_t idx;       /* branch number in the run */
    uint32_t window;    /* of the group confidence; 0: not looked at */
    bool looks_at_text; /* for a stop string or the end of a step */
    bool stops_at_step;
    bool wants_score;
    bool settled; /* counted out of the round */
    bool adopted; /* its sequence was a probe's: it forks from it to go on */
    struct branch branch;
    uint32_t seq[MODELS];     /* SCHED_NONE: none */
    struct codec_stream text; /* goes on from its parent's */
    uint32_t key;             /* of its random numbers */
    uint32_t fork_tokens;     /* own tokens of its parent when it began */
    uint32_t read_tokens;     /* own ones that the reward model was given */
    TAILQ_ENTRY(node) link;   /* in waiting, or free */
    bool waits[MODELS];       /* for room */
    uint8_t tail_bytes;
    char tail
        [PARAMETER_STEP_END_BYTES]; /* end of the text since its last step, less than step_end */
    struct ops_sample_row sampling;
    _Alignas(RUN_BRANCH_STATE_BYTES) uint64_t state[RUN_BRANCH_STATE_BYTES / sizeof(uint64_t)];
    TAILQ_ENTRY(node) vector_link; /* as vectors.h has it */
    uint32_t vector;               /* enum vector_state */
    uint32_t vector_at;            /* AWAY: text or sequence */
    uint32_t vector_tokens;        /* read for it and not charged */
};
TAILQ_HEAD(node_list, node);

struct replica {
    struct sched *sched[MODELS];      /* REWARD: NULL without such a model */
    struct node_list waiting[MODELS]; /* for room, oldest first */
    struct node_list vectors_waiting; /* likewise, as vectors.h has it */
    uint32_t pending;                 /* branches that have not settled */
};

enum { RUN_FEW_BRANCHES = 8 };
enum { RUN_TEXT_TOKENS = 64 }; /* made into text at once */

struct run { /* as a node: what every token touches first */
    _Alignas(64) struct runs *runs;
    struct replica *replica;
    uint32_t
        *nodes; /* few, or [branches_max]: pool numbers by branch number; RUN_NONE: forgotten */
    uint32_t nodes_count;   /* numbers in use, with those forgotten below the last */
    uint32_t pending;       /* branches of the round that have not settled */
    uint32_t roots_pending; /* not computed yet */
    uint32_t tokens_below;  /* what every model of it knows; others cannot be read */
    bool news;
    bool watched; /* the algorithm wants to see every token */
    bool paused;  /* its live branch does not decode */
    bool waits;   /* for its batch */
    bool live;    /* as its algorithm */
    bool has_stop_tokens;
    uint8_t step_end_bytes; /* of the parameter */
    char step_end;          /* the whole of it, a character that needs no context; '\0': it does */
    struct run_result result; /* whether it goes on is what every token asks */
    struct run_cost cost;
    TAILQ_ENTRY(run) news_link; /* in news */
    uint32_t few[RUN_FEW_BRANCHES];
    struct run_args args;
    TAILQ_ENTRY(run) link; /* free */
    uint32_t root[MODELS]; /* sequences of the prompt; SCHED_NONE: branch 0 has it itself */
    uint32_t grant;        /* knob it may reach for now; 0: none above the one it has */
    uint32_t reserved;     /* branches it may have at once */
    uint32_t alive;        /* that it has */
    uint32_t keys[2];      /* that were given out: to branches, to probes */
    uint32_t prompt_tokens;
    const uint32_t *prompt; /* while it starts */
    struct ballot ballot;
    struct ballot asked;
    uint64_t state[RUN_STATE_BYTES / sizeof(uint64_t)];
};
TAILQ_HEAD(run_list, run);

struct runs {
    struct runs_config config;
    struct run *all;
    struct node *nodes;     /* [branches_max] */
    struct stops *stops;    /* likewise, of those with stop strings */
    uint32_t *node_numbers; /* [runs_max, row_numbers()], touched as far as runs are wide */
    uint32_t *tokens;       /* [branches_max, row_tokens()], touched as far as they are long */
    float *confidences;     /* likewise, of runs whose policy looks at them */
    char *text;             /* [RUN_TEXT_BYTES], and room for RUN_TEXT_TOKENS more tokens' */
    uint32_t *path;         /* [context_tokens] what a sequence is given */
    uint32_t runs_fresh;
    uint32_t nodes_fresh;
    uint32_t reserved;          /* nodes promised to runs */
    struct ballot_room ballots; /* [runs_max] */
    struct run_list free_runs;
    struct run_list news;
    struct node_list free_nodes;
    struct replica replicas[RUNS_REPLICAS_MAX];
    uint32_t replicas_count;
    uint64_t tokens_count;   /* decoded since start */
    bool room_changed;       /* since runs_room_changed() */
    bool waiting_due;        /* since those that wait were looked at */
    struct vectors *vectors; /* NULL: no model gives any */
    bool vectors_due;        /* as waiting_due, of those that wait for a vector */
};

static inline struct node *node_of(const struct run *r, uint32_t branch)
{
    ASSERT(branch < r->nodes_count && r->nodes[branch] != RUN_NONE);
    return &r->runs->nodes[r->nodes[branch]];
}

static inline struct node *parent_of(const struct node *n)
{
    return n->branch.parent == RUN_NONE ? NULL : node_of(n->run, n->branch.parent);
}

/* Apart from the node, as it is large and few look at it. */
static inline struct stops *stops_of(const struct node *n)
{
    return &n->run->runs->stops[n - n->run->runs->nodes];
}

/* Rows a power of two apart would all begin in the same cache set. */
static inline size_t row_tokens(const struct runs_config *config)
{
    return (size_t)config->context_tokens + 48;
}

static inline size_t row_numbers(const struct runs_config *config)
{
    return (size_t)config->branches_max + 16;
}

static inline uint32_t *tokens_of(const struct runs *rs, const struct node *n)
{
    return rs->tokens + (size_t)(n - rs->nodes) * row_tokens(&rs->config);
}

/* A probe is asked something of its own: what the program says about stops does not bind it. */
static inline bool is_probe(const struct node *n)
{
    return n->branch.given_tokens > 0;
}

/* Sequences of a branch in the schedulers, as sched_fork() (run_room.c). */
int room_to_decode(struct node *n);
int room_to_score(struct node *n);

/* As the configuration has them (run_replica.c). */
void replicas_begin(struct runs *runs);
/* Which to ask next for room for a run, of those that have not been asked; NULL: none is left. asked: a bit for
 * each, 0 at first. */
struct replica *replica_next(struct runs *runs, const struct run_args *args, uint32_t *asked);
