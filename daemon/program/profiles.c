#include "daemon/program/profiles.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/assert.h"
#include "daemon/program/algorithms.h"

#define FILES_MAX 256u

/* The paper's, or the authors' client's. */
static const char *const defaults[DYNASOR_ALGORITHM_COUNT] = {
    [DYNASOR_ALGORITHM_SC] = "sc-math",         [DYNASOR_ALGORITHM_REBASE] = "rebase-gsm8k",
    [DYNASOR_ALGORITHM_MCTS] = "mcts-gsm8k",    [DYNASOR_ALGORITHM_COT] = "cot-mid",
    [DYNASOR_ALGORITHM_SC_COT] = "sc_cot-math",
};

__attribute__((format(printf, 3, 4))) static int refuse(char *message, int rc, const char *format,
                                                        ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(message, PROFILE_MESSAGE_BYTES, format, args); /* cut: still readable */
    va_end(args);
    return rc;
}

void profiles_init(struct profiles *ps)
{
    ps->directory[0] = '\0';
    memset(ps->file, 0, sizeof ps->file);
    memset(ps->changes, 0, sizeof ps->changes);
    ps->count = profile_builtin_count();
    ASSERT(ps->count <= PROFILES_MAX);
    for (uint32_t i = 0; i < ps->count; i++)
        profile_builtin(i, &ps->all[i]);
    for (uint32_t a = 0; a < DYNASOR_ALGORITHM_COUNT; a++) {
        const char *name = defaults[a] ? defaults[a] : "even";
        ps->defaults[a] = profiles_find(ps, name, strlen(name));
        ASSERT(ps->defaults[a] != PROFILES_NONE);
    }
}

uint32_t profiles_find(const struct profiles *ps, const char *name, size_t name_bytes)
{
    for (uint32_t i = 0; i < ps->count; i++)
        if (strlen(ps->all[i].name) == name_bytes && memcmp(ps->all[i].name, name, name_bytes) == 0)
            return i;
    return PROFILES_NONE;
}

bool profiles_fit(const struct profiles *ps, uint32_t slot, uint32_t algorithm)
{
    const char *of = ps->all[slot].algorithm;
    return strcmp(of, "any") == 0 || strcmp(of, algorithm_get(algorithm)->name) == 0;
}

static int refuse_name(const char *name, char *message)
{
    return refuse(message, -ENOENT, "profile %.60s: accepted are those of `profile list`", name);
}

int profiles_load(struct profiles *ps, FILE *file, const char *path,
                  char ret_message[PROFILE_MESSAGE_BYTES])
{
    struct profile *read = &ps->changed[0];
    int r = profile_read(file, path, read, ret_message);
    if (r < 0)
        return r;
    uint32_t slot = profiles_find(ps, read->name, strlen(read->name));
    if (slot == PROFILES_NONE && ps->count == PROFILES_MAX)
        return refuse(ret_message, -ENOSPC, "%s: profile %s: accepted at most %u profiles", path,
                      read->name, PROFILES_MAX);
    if (slot != PROFILES_NONE && strcmp(ps->all[slot].algorithm, read->algorithm) != 0)
        return refuse(ret_message, -EINVAL,
                      "%s: profile %s: [profile] algorithm = %s: accepted %s, as it is loaded",
                      path, read->name, read->algorithm, ps->all[slot].algorithm);
    slot = slot == PROFILES_NONE ? ps->count++ : slot;
    ps->all[slot] = *read;
    ps->changes[slot]++;
    return 0;
}

/* ---- a directory ----------------------------------------------------------------------------- */

static int is_profile(const struct dirent *entry)
{
    static const char suffix[] = ".profile";
    size_t length = strlen(entry->d_name);
    return length >= sizeof suffix && entry->d_name[0] != '.' &&
           strcmp(entry->d_name + length - (sizeof suffix - 1), suffix) == 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(a, b);
}

static int directory_read(const char *path, char names[FILES_MAX][PROFILES_FILE_BYTES],
                          uint32_t *ret_count, char *message)
{
    DIR *directory = opendir(path);
    const struct dirent *entry;
    uint32_t count = 0;
    int r = 0;
    if (!directory)
        return refuse(message, -errno, "[profiles] directory = %.200s: %s", path, strerror(errno));
    while (r == 0 && (entry = readdir(directory))) {
        if (!is_profile(entry))
            continue;
        if (count == FILES_MAX || strlen(entry->d_name) >= PROFILES_FILE_BYTES)
            r = refuse(message, -EINVAL,
                       "%.200s/%.60s: accepted at most %u files with names of at most %u bytes",
                       path, entry->d_name, FILES_MAX, PROFILES_FILE_BYTES - 1);
        else
            (void)snprintf(names[count++], PROFILES_FILE_BYTES, "%s", entry->d_name);
    }
    (void)closedir(directory);
    qsort(names, count, PROFILES_FILE_BYTES, by_name);
    *ret_count = count;
    return r;
}

int profiles_load_directory(struct profiles *ps, const char *path,
                            char ret_message[PROFILE_MESSAGE_BYTES])
{
    static char names[FILES_MAX][PROFILES_FILE_BYTES];
    uint32_t count = 0;
    int r = directory_read(path, names, &count, ret_message);
    for (uint32_t i = 0; i < count && r == 0; i++) {
        char file_path[1024 + PROFILES_FILE_BYTES + 2];
        (void)snprintf(file_path, sizeof file_path, "%.1024s/%.127s", path, names[i]);
        FILE *file = fopen(file_path, "re");
        if (!file)
            return refuse(ret_message, -errno, "%.250s: %s", file_path, strerror(errno));
        r = profiles_load(ps, file, file_path, ret_message);
        (void)fclose(file);                     /* only read */
        const char *name = ps->changed[0].name; /* that was read */
        if (r == 0)
            memcpy(ps->file[profiles_find(ps, name, strlen(name))], names[i], sizeof names[i]);
    }
    (void)snprintf(ps->directory, sizeof ps->directory, "%s", path);
    return r;
}

/* ---- keys ------------------------------------------------------------------------------------ */

/* What a key is about. */
struct target {
    uint32_t algorithm; /* default.ALGORITHM; DYNASOR_ALGORITHM_COUNT: not that */
    uint32_t slots[DYNASOR_ALGORITHM_COUNT];
    uint32_t slots_count;
    const char *rest; /* section.key */
};

static uint32_t algorithm_find(const char *name)
{
    uint32_t a = 0;
    while (a < DYNASOR_ALGORITHM_COUNT && strcmp(algorithm_get(a)->name, name) != 0)
        a++;
    return a;
}

/* Names may have dots: the longest one that fits is meant. */
static uint32_t prefix_find(const struct profiles *ps, const char *key, size_t *ret_bytes)
{
    uint32_t found = PROFILES_NONE;
    size_t longest = 0;
    for (uint32_t i = 0; i < ps->count; i++) {
        size_t bytes = strlen(ps->all[i].name);
        if (bytes > longest && strncmp(key, ps->all[i].name, bytes) == 0 && key[bytes] == '.' &&
            strchr(key + bytes + 1, '.')) {
            found = i;
            longest = bytes;
        }
    }
    *ret_bytes = longest;
    return found;
}

static int refuse_algorithm(const char *key, char *message)
{
    char names[160] = "";
    for (uint32_t a = 0; a < DYNASOR_ALGORITHM_COUNT; a++) {
        size_t bytes = strlen(names);
        (void)snprintf(names + bytes, sizeof names - bytes, "%s%s", a > 0 ? ", " : "",
                       algorithm_get(a)->name);
    }
    return refuse(message, -ENOENT, "%.60s: accepted default. and one of %s", key, names);
}

static int target_find(const struct profiles *ps, const char *key, struct target *ret,
                       char *message)
{
    static const char of_default[] = "default.";
    size_t bytes;
    *ret = (struct target){.algorithm = DYNASOR_ALGORITHM_COUNT, .rest = key};
    if (strncmp(key, of_default, sizeof of_default - 1) == 0) {
        ret->algorithm = algorithm_find(key + sizeof of_default - 1);
        return ret->algorithm < DYNASOR_ALGORITHM_COUNT ? 0 : refuse_algorithm(key, message);
    }
    uint32_t slot = prefix_find(ps, key, &bytes);
    if (slot != PROFILES_NONE) {
        ret->slots[ret->slots_count++] = slot;
        ret->rest = key + bytes + 1;
        return 0;
    }
    const char *dot = strrchr(key, '.');
    if (!dot || strchr(key, '.') != dot)
        return refuse(message, -ENOENT,
                      "%.60s: accepted section.key, PROFILE.section.key of a profile in `profile "
                      "list`, or default.ALGORITHM",
                      key);
    for (uint32_t a = 0; a < DYNASOR_ALGORITHM_COUNT; a++) {
        bool seen = false;
        for (uint32_t i = 0; i < ret->slots_count; i++)
            seen |= ret->slots[i] == ps->defaults[a];
        if (!seen)
            ret->slots[ret->slots_count++] = ps->defaults[a];
    }
    return 0;
}

static int set_default(struct profiles *ps, uint32_t algorithm, const char *name, char *message)
{
    uint32_t slot = profiles_find(ps, name, strlen(name));
    if (slot == PROFILES_NONE)
        return refuse_name(name, message);
    if (!profiles_fit(ps, slot, algorithm))
        return refuse(message, -EINVAL, "default.%s = %s: accepted a profile for %s or any, not %s",
                      algorithm_get(algorithm)->name, name, algorithm_get(algorithm)->name,
                      ps->all[slot].algorithm);
    ps->defaults[algorithm] = slot;
    return 0;
}

int profiles_set(struct profiles *ps, const char *key, const char *value,
                 char ret_message[PROFILE_MESSAGE_BYTES])
{
    struct target target;
    int r = target_find(ps, key, &target, ret_message);
    if (r < 0)
        return r;
    if (target.algorithm < DYNASOR_ALGORITHM_COUNT)
        return set_default(ps, target.algorithm, value, ret_message);
    if (strncmp(target.rest, "profile.", 8) == 0)
        return refuse(ret_message, -EINVAL, "%.60s: accepted in a file only", target.rest);
    for (uint32_t i = 0; i < target.slots_count; i++) {
        ps->changed[i] = ps->all[target.slots[i]];
        r = profile_set(&ps->changed[i], target.rest, value, ret_message);
        if (r < 0)
            return r;
    }
    for (uint32_t i = 0; i < target.slots_count; i++) {
        ps->all[target.slots[i]] = ps->changed[i];
        ps->changes[target.slots[i]]++;
    }
    return 0;
}

/* Where the profile of a slot has its file. */
static int get_file(const struct profiles *ps, uint32_t slot, FILE *out, char *message)
{
    const char *name = ps->all[slot].name;
    char file[PROFILES_FILE_BYTES];
    if (ps->directory[0] == '\0')
        return refuse(message, -ENOENT,
                      "profile %s has no file: dynasord.conf names no [profiles] directory", name);
    (void)snprintf(file, sizeof file, "%s.profile", name);
    if (ps->file[slot][0] != '\0')
        memcpy(file, ps->file[slot], sizeof file);
    for (uint32_t i = 0; i < ps->count; i++)
        if (file[0] == '.' || (i != slot && strcmp(ps->file[i], file) == 0))
            return refuse(message, -EINVAL, "profile %s: %.200s/%s is %s", name, ps->directory,
                          file, file[0] == '.' ? "hidden, and not loaded" : "another's file");
    fprintf(out, "%s.profile.file %s/%s\n", name, ps->directory, file);
    return 0;
}

int profiles_get(const struct profiles *ps, const char *key, FILE *out,
                 char ret_message[PROFILE_MESSAGE_BYTES])
{
    struct target target;
    char value[PROFILE_LINE_BYTES];
    uint32_t found = 0;
    int r = target_find(ps, key, &target, ret_message);
    if (r < 0)
        return r;
    if (target.algorithm < DYNASOR_ALGORITHM_COUNT) {
        fprintf(out, "%s %s\n", key, ps->all[ps->defaults[target.algorithm]].name);
        return 0;
    }
    if (strcmp(target.rest, "profile.file") == 0)
        return get_file(ps, target.slots[0], out, ret_message);
    for (uint32_t i = 0; i < target.slots_count; i++) {
        const struct profile *profile = &ps->all[target.slots[i]];
        if (profile_get(profile, target.rest, value, sizeof value) < 0)
            continue;
        fprintf(out, "%s.%s %s\n", profile->name, target.rest, value);
        found++;
    }
    return found > 0 ? 0
                     : refuse(ret_message, -ENOENT,
                              "%.60s: not there; accepted are the keys of `profile show`", key);
}

void profiles_list(const struct profiles *ps, FILE *out)
{
    for (uint32_t i = 0; i < ps->count; i++) {
        const struct profile *profile = &ps->all[i];
        fprintf(out, "%-24s %-10s %-20s", profile->name, profile->algorithm,
                policy_kind_name(profile->policy.kind));
        const char *before = " default of ";
        for (uint32_t a = 0; a < DYNASOR_ALGORITHM_COUNT; a++)
            if (ps->defaults[a] == i) {
                fprintf(out, "%s%s", before, algorithm_get(a)->name);
                before = ", ";
            }
        fputc('\n', out);
    }
}

int profiles_show(const struct profiles *ps, const char *name, FILE *out,
                  char ret_message[PROFILE_MESSAGE_BYTES])
{
    uint32_t slot = profiles_find(ps, name, strlen(name));
    if (slot == PROFILES_NONE)
        return refuse_name(name, ret_message);
    return profile_write(out, &ps->all[slot]);
}
