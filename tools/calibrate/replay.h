/* tools/calibrate/replay.h — what a policy would have done with a program of the log.
 *
 * The decisions are those of the daemon: the same policy_decide() on the same view. What comes after
 * the stop is ignored, which is exact as long as the policy changes nothing before it. A program that was
 * stopped before its cap can be judged by policies that stop it there or earlier.
 *
 * Two policies change more than the end. Of a chain there are only the probes that were made: where there is none a
 * decision is taken at the next one, and counted. Rebase grows a tree for each grant, and the first leaves of
 * one tree are not a smaller tree: who says which policy grew them learns whether this one would have grown others.
 *
 * Memory: scratch grows on the heap, until replay_free(). */
#pragma once
#include "daemon/program/policy.h"
#include "tools/calibrate/log.h"

struct replay {
    const struct log *log;
    const struct policy_options *grown_by; /* the trees of the next program; NULL: not asked for */
    struct certaindex_probe *probes;       /* made so far by the current chain */
    uint32_t probes_room;
};

struct outcome {
    uint64_t tokens;       /* generated; of a guided chain with the probes that it took over */
    uint64_t probe_tokens; /* on top of them: the others */
    uint64_t full_tokens;  /* at the cap, without probes; of a stopped one what it spent so far */
    uint64_t full_probes;  /* chains: probes that the log has, beside them */
    uint32_t knob;         /* where it ended */
    bool right;
    bool full_right; /* at the cap */
    bool stopped;    /* before the cap */
    bool gave_up;
    bool changed; /* its answer is not the one at the cap, or where it was stopped */
    bool regrown; /* trees: it would have grown others; nothing of the above holds */
    uint32_t
        grants[2];  /* regrown: the knob that those of the log were grown to, and this policy's */
    uint32_t reads; /* chains: decisions on probes */
    uint32_t late;  /* of those, where no probe was made: at the next one, or never */
    bool
        unknown; /* it would have gone on where the program was stopped: nothing of the above holds */
    uint64_t more_tokens; /* unknown: what that costs to the cap, at the tokens a step so far */
};

void replay_init(struct replay *replay, const struct log *log);
void replay_free(struct replay *replay);

/* cap: steps, for chains tokens; 0: as the log. Unlabelled programs are never right. */
struct outcome replay_run(struct replay *replay, uint32_t run, const struct policy_options *options,
                          uint32_t cap);

/* The signals of a program after so many steps (not of chains). */
struct certaindex replay_signals(const struct log *log, uint32_t run,
                                 const struct policy_options *options, uint32_t steps);
