/* daemon/program/profiles.h — the profiles that programs can name, and those of programs that name
 * none: a table of slots.
 *
 * The built-in profiles are there from the start, loaded ones follow; none is ever removed. A program
 * keeps its slot, so what is changed here holds at its next decision. Every change is all-or-nothing,
 * and its message names key and accepted range. A profile's name and algorithm do not change: whoever
 * uses it relies on them.
 *
 * Keys, "section.key" as in a profile's file (profile.h): NAME.section.key of one profile; section.key
 * alone of every profile that programs without one use; default.ALGORITHM which that is. NAME.profile.file
 * can only be got: the path of the file that it is loaded from at the start, or would be if it were there.
 * What it says is for whoever saves a profile; the daemon writes none.
 *
 * Thread: control. Memory: the caller's struct. Time: O(slots and length of the text). Fails: -EINVAL,
 * -ENOENT or -ENOSPC with a message. */
#pragma once
#include <stdbool.h>
#include <stdio.h>

#include "daemon/program/profile.h"
#include "dynasor/types.h"

#define PROFILES_MAX 64u
#define PROFILES_FILE_BYTES 128u
#define PROFILES_DIRECTORY_BYTES 1024u
#define PROFILES_NONE UINT32_MAX

struct profiles {
    uint32_t count;
    uint32_t defaults[DYNASOR_ALGORITHM_COUNT];
    uint32_t
        changes[PROFILES_MAX]; /* of each, so far: who remembers it knows whether there was one */
    struct profile all[PROFILES_MAX];
    char directory[PROFILES_DIRECTORY_BYTES];        /* empty: none */
    char file[PROFILES_MAX][PROFILES_FILE_BYTES];    /* in it; empty: none yet */
    struct profile changed[DYNASOR_ALGORITHM_COUNT]; /* while a change is checked */
};

void profiles_init(struct profiles *profiles);

uint32_t profiles_find(const struct profiles *profiles, const char *name, size_t name_bytes);
/* Whether programs of this algorithm may use the profile. */
bool profiles_fit(const struct profiles *profiles, uint32_t slot, uint32_t algorithm);

/* path names the file in messages. A profile of the same name is replaced. */
int profiles_load(struct profiles *profiles, FILE *file, const char *path,
                  char ret_message[PROFILE_MESSAGE_BYTES]);
/* Every *.profile of a directory, by name; it is where profiles have their files from now on. */
int profiles_load_directory(struct profiles *profiles, const char *path,
                            char ret_message[PROFILE_MESSAGE_BYTES]);

int profiles_set(struct profiles *profiles, const char *key, const char *value,
                 char ret_message[PROFILE_MESSAGE_BYTES]);
/* One line "KEY VALUE" for each profile that the key is about. */
int profiles_get(const struct profiles *profiles, const char *key, FILE *out,
                 char ret_message[PROFILE_MESSAGE_BYTES]);

/* A line for each: name, algorithm, policy, and the algorithms that use it by default. */
void profiles_list(const struct profiles *profiles, FILE *out);
int profiles_show(const struct profiles *profiles, const char *name, FILE *out,
                  char ret_message[PROFILE_MESSAGE_BYTES]);
