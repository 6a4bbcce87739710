/* dynasor/custom.h — programs of DYNASOR_ALGORITHM_CUSTOM: the daemon keeps their branches, their client
 * decides about them. Branches share the KV of what they have in common, run in the same steps as everybody
 * else's, and decode what they would decode alone.
 *
 *     submit with algorithm CUSTOM; the parameter cap is the most branches that it may ever begin
 *     DYNASOR_EVENT_READY     the prompt has been read, commands may come
 *     dynasor_fork() ...      a branch begins
 *     DYNASOR_EVENT_TOKENS, TEXT with event.branch, if the branch streams them
 *     DYNASOR_EVENT_BRANCH    it has settled: at its own limit, at a step's end, or at its end
 *     dynasor_extend(), dynasor_probe(), dynasor_score(), dynasor_kill() ... as its policy has it
 *     dynasor_finish()        what the program says is the path to one branch: TOKENS and TEXT without
 *                             event.branch, RESULT and END as of every program
 *
 * Branches are numbered from 0 in the order of the commands that begin them. The same program with the same
 * seed and the same commands decodes the same tokens, whenever the commands come: random numbers are those of
 * a branch's number among the forks, or a probe's among the probes, and a command is about what the program
 * has told. One that is about more is refused by name with DYNASOR_EVENT_REFUSED (state: the command, status
 * and event.branch->field: why; dynasor_error() has the sentence) and changes nothing; where it should have
 * begun a branch, its number is taken, and that branch is DEAD.
 *
 * The text of a branch is what it decoded itself, with a stop string that ended it, and comes when it
 * settles, before its BRANCH event; its tokens come as they are decoded. After KILL one BRANCH event is the
 * last of the branch; after FINISH branches tell nothing more. A program that decodes nothing and gets no
 * command, be it a refused one, for a minute ends FAILED with TIMEOUT. A daemon that was restarted knows
 * nothing of branches: a program that was READY ends FAILED with RESTARTED.
 *
 * All functions: one thread at a time for a lane, no wait, no allocation, and no system call but to wake a
 * daemon that sleeps. They return 0 when the command is on its way, or the negative of INVALID, NOTFOUND (no
 * program of this lane), UNSUPPORTED (no CUSTOM program), AGAIN (not READY yet, or the submission ring is
 * full), CLOSED (it has ended), RESTARTING, PROTOCOL, and those of reconnecting. */
#pragma once
#include <dynasor/client.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* Zero means the default. */
struct dynasor_branch_options {
    uint32_t size; /* sizeof(struct dynasor_branch_options) */
    uint32_t
        parent; /* branch that it goes on from, or DYNASOR_ROOT: set it always, 0 is a branch */
    uint32_t
        parent_tokens; /* own tokens of the parent that it goes on behind, as far as they were told;
                               0: all it has, when it has settled. Of the root: 0 */
    uint32_t
        tokens_max;   /* it decodes, then it is HELD; 0: up to the program's max_tokens. Of a probe
                               at least 1; with what it is given at most the parameter probe_tokens */
    uint32_t streams; /* DYNASOR_STREAM_TOKENS, _TEXT: events of this branch; 0: only BRANCH */
    uint32_t stops_at_step; /* 1: settles STEP behind the program's step_end */
    uint32_t wants_score; /* 1: settled when the reward model has read it, too (parameter scores) */
    uint32_t sampling;    /* 1: by what follows instead of the program's */
    float temperature;    /* as in struct dynasor_sampling */
    float top_p;
    float min_p;
    uint32_t top_k;
};

/* Begins a branch; *ret_branch is its number. */
int dynasor_fork(struct dynasor_lane *lane, uint64_t program,
                 const struct dynasor_branch_options *options, uint32_t *ret_branch);

/* Begins a branch that reads text before it decodes: UTF-8, bytes long, 1 .. DYNASOR_GIVEN_BYTES_MAX, copied.
 * What the program says about stops does not end it, only the model and its tokens_max do. What it decodes is
 * charged as probe_tokens. Takes one slot of the ring for every 36 bytes, all or none. */
int dynasor_probe(struct dynasor_lane *lane, uint64_t program,
                  const struct dynasor_branch_options *options, const char *text, size_t bytes,
                  uint32_t *ret_branch);

/* Lets a branch that is HELD or STEP decode tokens_max more; 0: all it may. */
int dynasor_extend(struct dynasor_lane *lane, uint64_t program, uint32_t branch,
                   uint32_t tokens_max);

/* Has the reward model read a settled branch; a BRANCH event brings the score. Tokens that it has read on the
 * way to another one are not read again. */
int dynasor_score(struct dynasor_lane *lane, uint64_t program, uint32_t branch);

/* Ends a branch wherever it is. Those that went on from it stay. */
int dynasor_kill(struct dynasor_lane *lane, uint64_t program, uint32_t branch);

/* How sure the client is: certaindex, 0 .. 1, by signal (enum dynasor_signal), at a knob (samples, tokens ...:
 * what its policy counts). The last of each goes into the program's result. */
int dynasor_report(struct dynasor_lane *lane, uint64_t program, uint32_t signal, float value,
                   uint32_t knob);

/* The last command: the program says the path to branch (settled, or DYNASOR_ROOT: nothing), its answer is
 * that of the branch answer by the program's rule, or in a probe's own words what follows an opening brace
 * (or DYNASOR_ROOT: none). verdict: enum dynasor_verdict. */
int dynasor_finish(struct dynasor_lane *lane, uint64_t program, uint32_t verdict, uint32_t branch,
                   uint32_t answer);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
