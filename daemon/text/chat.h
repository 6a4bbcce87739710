/* daemon/text/chat.h — the chat templates of the model families that we know, as tables.
 *
 * A model's own template is a program in Jinja, which we do not run: it is recognised by the hash of
 * its text, or names the family outright, and what it would write is written here. Nothing is guessed.
 *
 * Thread: any. Memory: the caller's. Time: linear. Fails: chat_find() with NULL; chat_render() when
 * the family has no place for a message. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/text/added.h"

enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT, CHAT_ROLES };

struct chat_message {
    enum chat_role role;
    const uint8_t *text; /* valid UTF-8 */
    uint64_t bytes;
};

#define CHAT_MESSAGES_MAX 64u
#define CHAT_BYTES_MAX 512u /* what a template adds to each message, and besides */

struct chat; /* a family's template */

/* The family whose template this is, or whose name. */
const struct chat *chat_find(const char *text, size_t bytes);
const struct chat *chat_named(const char *name); /* NULL: none */
/* By the hash of a published template; NULL: none that we know. */
const struct chat *chat_published(uint64_t hash);
uint64_t chat_fingerprint(uint32_t idx); /* such a hash; 0 after the last */
/* Of all families, with commas between them, cut where bytes end. */
void chat_names(char *text, size_t bytes);
const char *chat_name(const struct chat *chat);

/* Texts that mark roles, one after the other, NULL after the last: no user's text may become them. */
const char *chat_marker(const struct chat *chat, uint32_t idx);

struct chat_text {
    uint8_t *text; /* room for the messages and CHAT_BYTES_MAX for each, and once more */
    uint64_t bytes;
    struct added_range plain[CHAT_MESSAGES_MAX]; /* where the messages went */
    uint32_t plain_count;
};
/* The messages, and what asks for the assistant's answer. At most one of the system, the first; then
 * user and assistant in turn. False: not so, or the family has no system message. */
bool chat_render(const struct chat *chat, const struct chat_message *messages, uint32_t count,
                 struct chat_text *text);
