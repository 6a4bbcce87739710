#include "daemon/program/parameters.h"

#include <math.h>
#include <string.h>

#include "daemon/base/assert.h"

#define BIT(algorithm) (1u << DYNASOR_ALGORITHM_##algorithm)
#define PROBED (BIT(COT) | BIT(SC_COT))
#define VOTES (BIT(SC) | BIT(REBASE) | BIT(MCTS) | BIT(COT) | BIT(BEST_OF_N) | BIT(BEAM))
#define TREES (BIT(REBASE) | BIT(MCTS) | BIT(BEAM))
#define BATCHED (BIT(SC) | BIT(SC_COT) | BIT(REBASE) | BIT(MCTS) | BIT(BEST_OF_N))
#define CAP_MAX 1024u
#define NUMBERS_MAX 4294967295.0
#define TOTAL_MAX 1e12

/* The default of an algorithm that is not listed is the first one. */
static const struct {
    const char *name;
    uint32_t algorithms;
    double least;
    double most;
    bool whole;
    struct {
        uint32_t algorithms;
        double value;
    } defaults[4];
} table[DYNASOR_PARAMETER_COUNT] = {
    [DYNASOR_PARAMETER_CAP] = {"cap",
                               BIT(SC) | BIT(SC_COT) | BIT(REBASE) | BIT(MCTS) | BIT(BEST_OF_N) |
                                   BIT(CUSTOM),
                               1,
                               CAP_MAX,
                               true,
                               {{BIT(SC) | BIT(SC_COT) | BIT(CUSTOM), 20},
                                {BIT(REBASE), 128},
                                {BIT(MCTS), 15},
                                {BIT(BEST_OF_N), 16}}},
    [DYNASOR_PARAMETER_WIDTH] =
        {"width", BIT(MCTS) | BIT(BEAM), 1, 256, true, {{BIT(MCTS), 6}, {BIT(BEAM), 4}}},
    [DYNASOR_PARAMETER_DEPTH] =
        {"depth", TREES, 1, 64, true, {{BIT(REBASE), 25}, {BIT(MCTS), 8}, {BIT(BEAM), 40}}},
    [DYNASOR_PARAMETER_STEP_TOKENS] = {"step_tokens",
                                       TREES,
                                       1,
                                       65536,
                                       true,
                                       {{BIT(REBASE), 256}, {BIT(MCTS), 64}, {BIT(BEAM), 256}}},
    [DYNASOR_PARAMETER_SPREAD] = {"spread", BIT(REBASE), 0.001, 100, false, {{BIT(REBASE), 0.2}}},
    [DYNASOR_PARAMETER_WEIGHT] =
        {"weight", TREES | BIT(BEST_OF_N), 0, 4, true, {{TREES | BIT(BEST_OF_N), 4}}},
    [DYNASOR_PARAMETER_VOTE] =
        {"vote",
         BIT(REBASE) | BIT(MCTS) | BIT(BEST_OF_N) | BIT(BEAM),
         0,
         2,
         true,
         {{BIT(REBASE), 1}, {BIT(MCTS), 2}, {BIT(BEST_OF_N), 2}, {BIT(BEAM), 2}}},
    [DYNASOR_PARAMETER_EXPLORATION] = {"exploration", BIT(MCTS), 0, 100, false, {{BIT(MCTS), 10}}},
    [DYNASOR_PARAMETER_EXPLORATION_BASE] =
        {"exploration_base", BIT(MCTS), 1, 1e9, false, {{BIT(MCTS), 19652}}},
    [DYNASOR_PARAMETER_EXPANSION] = {"expansion", BIT(BEAM), 1, 64, true, {{BIT(BEAM), 4}}},
    [DYNASOR_PARAMETER_SUBTREES] = {"subtrees", BIT(BEAM), 1, 64, true, {{BIT(BEAM), 1}}},
    [DYNASOR_PARAMETER_PROBE_TOKENS] =
        {"probe_tokens", PROBED | BIT(CUSTOM), 1, 256, true, {{PROBED, 20}, {BIT(CUSTOM), 1}}},
    [DYNASOR_PARAMETER_PROBE_TEMPERATURE] =
        {"probe_temperature", PROBED, 0, 100, false, {{PROBED, 0.6}}},
    [DYNASOR_PARAMETER_PROBE_TOP_P] = {"probe_top_p", PROBED, 0, 1, false, {{PROBED, 0.95}}},
    [DYNASOR_PARAMETER_HESITATION] = {"hesitation", PROBED, 0, 1, true, {{PROBED, 1}}},
    [DYNASOR_PARAMETER_LIKENESS] = {"likeness", VOTES, 0, 1, false, {{0}}},
    [DYNASOR_PARAMETER_GUIDED] = {"guided", BIT(COT), 0, 2, true, {{BIT(COT), 0}}},
    [DYNASOR_PARAMETER_SCORES] = {"scores", BIT(CUSTOM), 0, 1, true, {{0}}},
    [DYNASOR_PARAMETER_LIKENESS_BY] = {"likeness_by", VOTES, 0, 1, true, {{0}}},
    [DYNASOR_PARAMETER_BATCH] = {"batch", BATCHED, 0, NUMBERS_MAX, true, {{0}}},
    [DYNASOR_PARAMETER_BATCH_PROGRAMS] =
        {"batch_programs", BATCHED, 1, DYNASOR_PROGRAMS_MAX, true, {{0}}},
    [DYNASOR_PARAMETER_BATCH_PLACE] =
        {"batch_place", BATCHED, 0, DYNASOR_PROGRAMS_MAX - 1, true, {{0}}},
    [DYNASOR_PARAMETER_BATCH_TOKENS] = {"batch_tokens", BATCHED, 1, TOTAL_MAX, true, {{0}}},
    [DYNASOR_PARAMETER_BATCH_CAP] = {"batch_cap", BATCHED, 0, CAP_MAX, true, {{0}}},
    [DYNASOR_PARAMETER_BATCH_STEP] =
        {"batch_step", BATCHED, 1, CAP_MAX, true, {{BIT(REBASE), 16}, {BATCHED, 1}}},
    [DYNASOR_PARAMETER_PRIOR] = {"prior", BIT(MCTS), 0, 2, true, {{BIT(MCTS), 0}}},
};

bool parameter_range(uint32_t algorithm, uint32_t parameter, struct parameter_range *ret_range)
{
    if (parameter >= DYNASOR_PARAMETER_COUNT || algorithm >= DYNASOR_ALGORITHM_COUNT ||
        !(table[parameter].algorithms >> algorithm & 1))
        return false;
    *ret_range = (struct parameter_range){.name = table[parameter].name,
                                          .least = table[parameter].least,
                                          .most = table[parameter].most,
                                          .whole = table[parameter].whole};
    return true;
}

double parameter_default(uint32_t algorithm, uint32_t parameter)
{
    for (uint32_t i = 0; i < 4 && table[parameter].defaults[i].algorithms; i++)
        if (table[parameter].defaults[i].algorithms >> algorithm & 1)
            return table[parameter].defaults[i].value;
    return 0;
}

void parameters_default(uint32_t algorithm, struct parameters *ret_parameters)
{
    ASSERT(algorithm < DYNASOR_ALGORITHM_COUNT);
    memset(ret_parameters, 0, sizeof *ret_parameters);
    ret_parameters->algorithm = algorithm;
    ret_parameters->answer = (struct answer_rule){
        .kind = algorithm == DYNASOR_ALGORITHM_SINGLE ? ANSWER_NONE : ANSWER_MATH};
    memcpy(ret_parameters->step_end, "\n", 2);
    for (uint32_t p = 0; p < DYNASOR_PARAMETER_COUNT; p++)
        ret_parameters->value[p] = parameter_default(algorithm, p);
}

bool parameter_set(struct parameters *parameters, uint32_t parameter, double value)
{
    struct parameter_range range;
    if (!parameter_range(parameters->algorithm, parameter, &range) || !(value >= range.least) ||
        value > range.most || (range.whole && floor(value) < value))
        return false;
    parameters->value[parameter] = value;
    return true;
}

uint32_t parameters_cap(const struct parameters *p)
{
    uint32_t cap = parameter_whole(p, DYNASOR_PARAMETER_CAP);
    uint32_t raised = parameter_whole(p, DYNASOR_PARAMETER_BATCH_CAP);
    if (!parameters_batched(p))
        return cap;
    if (raised == 0)
        raised = 2 * cap < CAP_MAX ? 2 * cap : CAP_MAX;
    return raised;
}
