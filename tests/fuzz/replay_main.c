/* tests/fuzz/replay_main.c: runs a fuzz target without libFuzzer.
 *
 * Linked with one fuzz_*.c. Feeds it nothing, then every file, or file of a folder, that is named,
 * then cut and bit-flipped copies of each file from a fixed seed, so that plain gcc builds and the
 * sanitizer builds replay what fuzzing once found. Exits 0, or 1 when there was no file to run,
 * or dies where the target does. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INPUT_BYTES_MAX = 1 << 20, MUTATIONS = 64 };

static uint64_t seed_next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

/* An exact-size copy, so that AddressSanitizer sees a read one byte beyond the input. */
static void feed(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1);

    if (!copy)
        exit(1);
    memcpy(copy, data, size);
    (void)LLVMFuzzerTestOneInput(copy, size); /* a target's return value means nothing */
    free(copy);
}

static void feed_mutated(uint8_t *data, size_t size)
{
    uint64_t seed = 0x9e3779b97f4a7c15u;

    for (int i = 0; i < MUTATIONS && size > 0; i++) {
        size_t at = (size_t)(seed_next(&seed) % size);
        uint8_t old = data[at];

        data[at] = (uint8_t)(old ^ (1u << (seed_next(&seed) % 8)));
        feed(data, i % 4 == 0 ? at : size);
        data[at] = old;
    }
}

static int feed_file(const char *path, uint8_t *data)
{
    FILE *f = fopen(path, "rb");
    size_t size;

    if (!f) {
        perror(path);
        return 1;
    }
    size = fread(data, 1, INPUT_BYTES_MAX, f);
    (void)fclose(f); /* only read from */
    feed(data, size);
    feed_mutated(data, size);
    return 0;
}

static int feed_folder(const char *folder, uint8_t *data, unsigned *count)
{
    DIR *dir = opendir(folder);
    struct dirent *entry;
    char path[4096];

    if (!dir) {
        perror(folder);
        return 1;
    }
    while ((entry = readdir(dir))) {
        if (entry->d_name[0] == '.')
            continue;
        (void)snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        if (feed_file(path, data))
            return 1;
        ++*count;
    }
    (void)closedir(dir); /* only read from */
    return 0;
}

int main(int argc, char **argv)
{
    uint8_t *data = calloc(1, INPUT_BYTES_MAX);
    unsigned count = 0;

    if (!data)
        return 1;
    feed(data, 0);
    for (int i = 1; i < argc; i++) {
        struct stat st;
        int is_folder = stat(argv[i], &st) == 0 && S_ISDIR(st.st_mode);

        if (is_folder ? feed_folder(argv[i], data, &count) : feed_file(argv[i], data))
            return 1;
        count += !is_folder;
    }
    printf("replayed %u files\n", count);
    free(data);
    return count == 0;
}
