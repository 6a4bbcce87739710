/* dynasor-bench: measures parts of the product and says where they are short of what they are held to.
 *
 *   dynasor-bench engine|reasoner|batch|programs|hidden|budget ...
 *
 * The last lines are `bar NAME VALUE OP LIMIT ok|short`. Exits 0, 1 when a bar is short or something
 * failed, 2 for wrong arguments. */
#include <stdio.h>
#include <string.h>

#include "tests/bench/dynasor/dynasor_bench.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} benches[] = {{"engine", bench_engine_main}, {"reasoner", bench_reasoner_main},
               {"batch", bench_batch_main},   {"programs", bench_programs_main},
               {"hidden", bench_hidden_main}, {"budget", bench_budget_main}};

int main(int argc, char **argv)
{
    for (size_t i = 0; argc >= 2 && i < sizeof benches / sizeof benches[0]; i++)
        if (strcmp(argv[1], benches[i].name) == 0)
            return benches[i].run(argc - 2, argv + 2);
    (void)fprintf(stderr,
                  "usage: dynasor-bench engine|reasoner|batch|programs|hidden|budget ...\n");
    return 2;
}
