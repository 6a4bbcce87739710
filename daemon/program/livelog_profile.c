/* Profiles in the log of programs: a line for each that a program ran under, once in a file. */
#include <errno.h>
#include <string.h>

#include "daemon/base/assert.h"
#include "daemon/base/hash.h"
#include "daemon/program/livelog_impl.h"
#include "daemon/program/runlog.h"

int live_profiles_init(struct live_profiles *ps, const struct live_version *versions)
{
    ps->versions = versions;
    ps->lines = fmemopen(ps->text, sizeof ps->text, "w");
    /* The stream takes its memory with the first character. */
    return ps->lines && fputc(' ', ps->lines) >= 0 && fflush(ps->lines) == 0 ? 0 : -ENOMEM;
}

void live_profiles_free(struct live_profiles *ps)
{
    if (ps->lines)
        (void)fclose(ps->lines); /* memory */
}

/* The profile as it would stand in a file. Returns the bytes: each key and row that there can be fits. */
static size_t text_make(struct live_profiles *ps, uint32_t place)
{
    rewind(ps->lines);
    int r = profile_write(ps->lines, &ps->versions[place].profile);
    int flushed = fflush(ps->lines);
    ASSERT(r == 0);
    ASSERT(flushed == 0);
    return (size_t)ftell(ps->lines);
}

uint64_t live_profiles_digits(struct live_profiles *ps, uint32_t place)
{
    ASSERT(place < LIVE_VERSIONS);
    if (ps->made[place].serial != ps->versions[place].serial) {
        size_t bytes = text_make(ps, place);
        ps->made[place].serial = ps->versions[place].serial;
        ps->made[place].digits = hash_bytes(ps->text, bytes, 0).low;
    }
    return ps->made[place].digits;
}

static bool is_known(const struct live_profiles *ps, uint64_t digits)
{
    for (uint64_t i = 0; i < ps->known_count && i < LIVE_PROFILES_KNOWN; i++)
        if (ps->known[i] == digits)
            return true;
    return false;
}

size_t live_profiles_line(struct live_profiles *ps, uint32_t place, const char **ret_line)
{
    uint64_t digits = live_profiles_digits(ps, place);
    *ret_line = ps->text;
    if (is_known(ps, digits))
        return 0;
    char head[sizeof RUNLOG_PROFILE_LINE + PROFILE_NAME_BYTES + 24];
    int head_bytes =
        snprintf(head, sizeof head, RUNLOG_PROFILE_LINE "%s@%016llx\t",
                 ps->versions[place].profile.name, (unsigned long long)digits); /* fits */
    size_t bytes = text_make(ps, place);
    ASSERT((size_t)head_bytes + bytes <= sizeof ps->text);
    for (size_t i = 0; i + 1 < bytes; i++)
        if (ps->text[i] == '\n')
            ps->text[i] = '\t';
    memmove(ps->text + head_bytes, ps->text, bytes);
    memcpy(ps->text, head, (size_t)head_bytes);
    return (size_t)head_bytes + bytes;
}

void live_profiles_put(struct live_profiles *ps, uint32_t place)
{
    ps->known[ps->known_count++ % LIVE_PROFILES_KNOWN] = live_profiles_digits(ps, place);
}

void live_profiles_forget(struct live_profiles *ps)
{
    ps->known_count = 0;
}
