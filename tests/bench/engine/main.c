/* dynasor-bench engine: measures the engine and says where it is short of what it is held to.
 *
 *   dynasor-bench engine --model FOLDER [--peers FILE] [--quick] [--part host|shared|model]
 *   dynasor-bench engine --names
 *
 * The last lines are `bar NAME VALUE OP LIMIT ok|short`. Exits 0, 1 when a bar is short or something
 * failed, 2 for wrong arguments. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/bench/dynasor/dynasor_bench.h"
#include "tests/bench/engine/bench_engine.h"

static int usage(void)
{
    (void)fprintf(stderr, "usage: dynasor-bench engine --model FOLDER [--peers FILE] [--quick]\n"
                          "                            [--part host|shared|model]\n"
                          "       dynasor-bench engine --names\n");
    return 2;
}

static const struct {
    const char *name;
    int (*run)(const struct bench_options *options);
} parts[] = {{"host", bench_host}, {"shared", bench_shared}, {"model", bench_model}};
#define PARTS_COUNT (sizeof parts / sizeof parts[0])

int bench_engine_main(int argc, char **argv)
{
    struct bench_options options = {.repeats_count = 7};
    const char *only = NULL;
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--names") == 0) {
            bars_names();
            return 0;
        }
        if (strcmp(argv[i], "--quick") == 0) {
            options.quick = true;
            options.repeats_count = 3;
        } else if (strcmp(argv[i], "--model") == 0 && i + 1 < argc) {
            options.model = argv[++i];
        } else if (strcmp(argv[i], "--peers") == 0 && i + 1 < argc) {
            options.peers = argv[++i];
        } else if (strcmp(argv[i], "--part") == 0 && i + 1 < argc) {
            only = argv[++i];
        } else {
            return usage();
        }
    }
    if (!options.model)
        return usage();
    struct stat folder;
    if (stat(options.model, &folder) != 0 || !S_ISDIR(folder.st_mode)) {
        (void)fprintf(stderr, "dynasor-bench engine: --model %s: no such folder\n", options.model);
        return 1;
    }
    (void)setvbuf(stdout, NULL, _IOLBF, 0); /* only for those who watch */
    int failed = 0;
    for (size_t i = 0; i < PARTS_COUNT; i++)
        if (!only || strcmp(only, parts[i].name) == 0)
            failed |= parts[i].run(&options);
    uint32_t short_count = bars_print();
    return failed || short_count ? 1 : 0;
}
