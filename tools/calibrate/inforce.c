#include "tools/calibrate/inforce.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int inforce_find(const struct log *log, const struct log_run *run, const struct profile *judged,
                 struct profile *ret_profile)
{
    if (run->changed)
        return -ESTALE;
    if (run->version != LOG_NO_VERSION) {
        *ret_profile = log->versions[run->version].profile;
        return 0;
    }
    if (strcmp(run->profile, judged->name) != 0)
        return profile_find(run->profile, ret_profile);
    *ret_profile = *judged;
    return 0;
}

int inforce_named(const struct log *log, const char *name, struct profile *ret_profile)
{
    for (uint32_t v = 0; v < log->versions_count; v++) {
        if (strcmp(log->versions[v].name, name) == 0) {
            *ret_profile = log->versions[v].profile;
            return 0;
        }
    }
    return -ENOENT;
}

/* The text of its policy alone; NULL: no memory. */
static char *policy_text(const struct profile *profile)
{
    struct profile policy;
    char *text = NULL;
    size_t bytes = 0;
    profile_default(&policy);
    policy.policy = profile->policy;
    FILE *file = open_memstream(&text, &bytes);
    if (file == NULL)
        return NULL;
    int rc = profile_write(file, &policy);
    if (fclose(file) == 0 && rc == 0)
        return text;
    free(text);
    return NULL;
}

static bool same_policy(const struct profile *a, const struct profile *b)
{
    char *texts[2] = {policy_text(a), policy_text(b)};
    bool same = texts[0] != NULL && texts[1] != NULL && strcmp(texts[0], texts[1]) == 0;
    free(texts[0]);
    free(texts[1]);
    return same;
}

static uint32_t count_of(const struct log *log, uint32_t version)
{
    uint32_t count = 0;
    for (uint32_t r = 0; r < log->runs_count; r++) {
        count += !log->runs[r].changed && log->runs[r].version == version;
    }
    return count;
}

static void print_version(const struct log_version *version, uint32_t count,
                          const struct profile *judged)
{
    struct profile builtin;
    printf("ran under %s: %u programs", version->name, count);
    if (profile_find(version->profile.name, &builtin) == 0) {
        printf(", %s built in", same_policy(&version->profile, &builtin) ? "as" : "not as");
    }
    printf("%s\n", same_policy(&version->profile, judged) ? ", the policy that is judged" : "");
}

/* The names of those of which no text says more, each once. */
static void print_names(const struct log *log, bool changed, const char *what)
{
    uint32_t r, before;
    for (r = 0; r < log->runs_count; r++) {
        const struct log_run *run = &log->runs[r], *other;
        uint32_t count = 0;
        if (run->changed != changed || (!changed && run->version != LOG_NO_VERSION))
            continue;
        for (before = 0, other = NULL; before < log->runs_count; before++) {
            other = &log->runs[before];
            bool alike = other->changed == changed &&
                         (changed || other->version == LOG_NO_VERSION) &&
                         strcmp(other->profile, run->profile) == 0;
            if (alike && before < r)
                break;
            count += alike;
        }
        if (before == log->runs_count)
            printf("ran under %s%s: %u programs\n", run->profile, what, count);
    }
}

void inforce_print(const struct log *log, const struct profile *judged)
{
    for (uint32_t v = 0; v < log->versions_count; v++) {
        uint32_t count = count_of(log, v);
        if (count > 0) {
            print_version(&log->versions[v], count, judged);
        }
    }
    print_names(log, true, ", which was changed before they ended");
    if (log->versions_count > 0) {
        print_names(log, false, ", whose values the log does not say");
    }
}
