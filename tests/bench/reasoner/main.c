/* dynasor-bench reasoner: measures the shipped policy and reward models on their tasks.
 *
 *   dynasor-bench reasoner --policy DIR [--reward DIR] --tasks DIR [--stride N] [--temperature T]
 *                          [--golden FILE] [--card FILE] [--part words|game24|long|greedy|speed] [--progress]
 *   dynasor-bench reasoner --policy DIR --sample TASK --problems FILE --samples N [--progress] > FILE
 *   dynasor-bench reasoner --names
 *
 * The first prints figures, then `bar NAME VALUE OP LIMIT ok|short` lines, and exits 0, or 1 when a bar
 * is short. --card: the figures go there too, when all of them are known. --golden: greedy texts of transformers
 * for the part `greedy`. The second writes samples, `problem <tab> right <tab> text` with line ends as \n, for the
 * training of a reward model. --progress: a line on stderr says how far it is. Wrong arguments: 2. */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/bench/dynasor/dynasor_bench.h"
#include "tests/bench/dynasor/options.h"
#include "tests/bench/reasoner/reasoner.h"

#define KV_BYTES (1ull << 30)
#define CONTEXT_TOKENS 1280u

struct options {
    const char *policy;
    const char *reward;
    const char *tasks;
    const char *golden;
    const char *card;
    const char *part;
    const char *sample;
    const char *problems;
    uint32_t samples_count;
    uint32_t stride;
    float temperature;
    bool progress;
};

static int usage(void)
{
    (void)fprintf(stderr,
                  "usage: dynasor-bench reasoner --policy DIR [--reward DIR] --tasks DIR\n"
                  "           [--stride N] [--temperature T] [--golden FILE] [--card FILE]\n"
                  "           [--part words|game24|long|greedy|speed] [--progress]\n"
                  "       dynasor-bench reasoner --policy DIR --sample words|game24|long\n"
                  "           --problems FILE --samples N [--temperature T] [--progress]\n"
                  "       dynasor-bench reasoner --names\n");
    return 2;
}

static void open_models(const struct options *o, struct reasoner *r)
{
    *r = (struct reasoner){.temperature = o->temperature,
                           .tasks = o->tasks,
                           .golden = o->golden,
                           .has_reward = o->reward,
                           .progress = o->progress};
    models_open(
        (struct engine_config){
            .directory = {[ENGINE_POLICY] = o->policy, [ENGINE_REWARD] = o->reward},
            .rows_max = REASONER_ROWS,
            .tokens_max = REASONER_BATCH_TOKENS,
            .context_tokens = CONTEXT_TOKENS,
            .kv_bytes = KV_BYTES},
        &r->codec, &r->engine);
    if (codec_scratch_new(r->codec, REASONER_PROMPT_BYTES, &r->scratch) != 0)
        fail("no memory");
}

static const struct {
    const char *name;
    enum task task;
    const char *file;
    void (*run)(struct reasoner *r, const struct problems *problems);
} parts[] = {{"words", TASK_WORDS, "words.test.tsv", measure_words},
             {"game24", TASK_GAME24, "game24.test.tsv", measure_game24},
             {"long", TASK_LONG, "words.test.tsv", measure_long},
             {"greedy", TASK_WORDS, "words.test.tsv", measure_greedy},
             {"speed", TASK_WORDS, "words.test.tsv", measure_speed}};
#define PARTS_COUNT (sizeof parts / sizeof parts[0])

/* Bytes of all that is in a model's folder. */
static double folder_bytes(const char *path)
{
    DIR *folder = opendir(path);
    double bytes = 0;
    if (!folder)
        fail("%s: %m", path);
    for (const struct dirent *entry; (entry = readdir(folder));) {
        struct stat about;
        if (fstatat(dirfd(folder), entry->d_name, &about, 0) == 0 && S_ISREG(about.st_mode))
            bytes += (double)about.st_size;
    }
    (void)closedir(folder);
    return bytes;
}

/* The card is there when all its figures are. */
static void card_open(const struct options *o, char unfinished[4096], struct reasoner *r)
{
    if (!o->card)
        return;
    if (snprintf(unfinished, 4096, "%s.new", o->card) >= 4096)
        fail("%s: the name is too long", o->card);
    r->card = fopen(unfinished, "we");
    if (!r->card)
        fail("%s: %m", unfinished);
}

static void card_close(const struct options *o, const char *unfinished, struct reasoner *r)
{
    if (r->card && (fclose(r->card) != 0 || rename(unfinished, o->card) != 0))
        fail("%s: %m", o->card);
}

static bool part_known(const char *name)
{
    for (size_t i = 0; i < PARTS_COUNT; i++)
        if (strcmp(name, parts[i].name) == 0)
            return true;
    return false;
}

static int measure(const struct options *o)
{
    struct reasoner r;
    char unfinished[4096];
    open_models(o, &r);
    card_open(o, unfinished, &r);
    if (o->stride > 1)
        figures_line(r.card,
                     "Temperature %.2g, one of %u test problems of each level; all of them, then "
                     "level by level:",
                     (double)o->temperature, o->stride);
    else
        figures_line(r.card,
                     "Temperature %.2g, all test problems; all of them, then level by level:",
                     (double)o->temperature);
    for (size_t i = 0; i < PARTS_COUNT; i++) {
        if (o->part && strcmp(o->part, parts[i].name) != 0)
            continue;
        char file[4096];
        struct problems problems;
        (void)snprintf(file, sizeof file, "%s/%s", o->tasks,
                       parts[i].file); /* too long: not found */
        problems_read(file, o->stride, &problems);
        parts[i].run(&r, &problems);
        problems_free(&problems);
    }
    card_close(o, unfinished, &r);
    engine_close(r.engine);
    codec_scratch_free(r.scratch);
    codec_free(r.codec);
    if (!o->part && o->reward)
        reasoner_bar_set(BAR_PAIR_MEGABYTES,
                         (folder_bytes(o->policy) + folder_bytes(o->reward)) / 1e6);
    printf("\n");
    return reasoner_bars_print() ? 1 : 0;
}

static int sample(const struct options *o)
{
    struct reasoner r;
    enum task task = TASK_WORDS;
    while (task < TASK_COUNT && strcmp(task_names[task], o->sample) != 0)
        task++;
    if (task == TASK_COUNT || !o->problems || o->samples_count < 1 ||
        o->samples_count >= REASONER_ROWS)
        return usage();
    open_models(o, &r);
    write_samples(&r, task, o->problems, o->samples_count);
    engine_close(r.engine);
    codec_scratch_free(r.scratch);
    codec_free(r.codec);
    return fflush(stdout) == 0 && !ferror(stdout) ? 0 : 1;
}

static bool parse(struct options *o, const char *name, const char *value)
{
    const struct option table[] = {
        {"--policy", &o->policy, NULL},         {"--reward", &o->reward, NULL},
        {"--tasks", &o->tasks, NULL},           {"--card", &o->card, NULL},
        {"--golden", &o->golden, NULL},         {"--part", &o->part, NULL},
        {"--sample", &o->sample, NULL},         {"--problems", &o->problems, NULL},
        {"--samples", NULL, &o->samples_count}, {"--stride", NULL, &o->stride}};
    if (strcmp(name, "--temperature") == 0) {
        o->temperature = strtof(value, NULL);
        return o->temperature > 0;
    }
    return option_take(table, sizeof table / sizeof table[0], name, value);
}

int bench_reasoner_main(int argc, char **argv)
{
    struct options o = {.stride = 10, .temperature = 0.9f, .samples_count = 8};
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--names") == 0) {
            reasoner_bars_names();
            return 0;
        }
        if (strcmp(argv[i], "--progress") == 0)
            o.progress = true;
        else if (i + 1 >= argc || !parse(&o, argv[i], argv[i + 1]))
            return usage();
        else
            i++;
    }
    if (!o.policy || o.stride < 1 || (!o.tasks && !o.sample) || (o.part && !part_known(o.part)))
        return usage();
    (void)setvbuf(stdout, NULL, o.sample ? _IOFBF : _IOLBF,
                  1u << 16); /* only for those who watch */
    return o.sample ? sample(&o) : measure(&o);
}
