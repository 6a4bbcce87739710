#include "daemon/text/added.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/text/unicode.h"
#include "daemon/text/utf8.h"

void added_init(struct added *a, const struct added_token *tokens)
{
    *a = (struct added){.tokens = tokens};
    memset(a->first, 0xff, sizeof a->first);
}

void added_free(struct added *a)
{
    free(a->nodes);
}

static uint32_t node_new(struct added *a, uint8_t byte)
{
    if (a->nodes_count == a->nodes_room) {
        uint32_t room = a->nodes_room ? 2 * a->nodes_room : 256;
        struct added_node *nodes = realloc(a->nodes, room * sizeof *nodes);
        if (!nodes)
            return ADDED_NONE;
        a->nodes = nodes;
        a->nodes_room = room;
    }
    a->nodes[a->nodes_count] = (struct added_node){
        .child = ADDED_NONE, .sibling = ADDED_NONE, .token = ADDED_NONE, .byte = byte};
    return a->nodes_count++;
}

static uint32_t child_of(const struct added *a, uint32_t node, uint8_t byte)
{
    uint32_t child = a->nodes[node].child;
    while (child != ADDED_NONE && a->nodes[child].byte != byte)
        child = a->nodes[child].sibling;
    return child;
}

int added_insert(struct added *a, const uint8_t *text, uint64_t bytes, uint32_t token)
{
    uint32_t node = a->first[text[0]];
    if (node == ADDED_NONE) {
        node = node_new(a, text[0]);
        if (node == ADDED_NONE)
            return -ENOMEM;
        a->first[text[0]] = node;
    }
    for (uint64_t i = 1; i < bytes; i++) {
        uint32_t child = child_of(a, node, text[i]);
        if (child == ADDED_NONE) {
            child = node_new(a, text[i]);
            if (child == ADDED_NONE)
                return -ENOMEM;
            a->nodes[child].sibling = a->nodes[node].child;
            a->nodes[node].child = child;
        }
        node = child;
    }
    if (a->nodes[node].token != ADDED_NONE)
        return -EEXIST;
    a->nodes[node].token = token;
    return 0;
}

/* ---- finding ----------------------------------------------------------------------------------- */

/* A control token must lie in one range wholly, plain or not: where that range ends. */
static uint64_t range_end(struct added_scan *s, bool *ret_plain)
{
    struct added_plain *p = &s->plain;
    uint64_t at = s->at + p->base;
    while (p->count > 0 && p->ranges->end <= at) {
        p->ranges++;
        p->count--;
    }
    *ret_plain = p->count > 0 && p->ranges->start <= at;
    if (p->count == 0)
        return UINT64_MAX;
    uint64_t end = *ret_plain ? p->ranges->end : p->ranges->start;
    return end == UINT64_MAX ? end : end - p->base;
}

/* The longest token at s->at; ADDED_NONE when there is none. */
static uint32_t longest(struct added_scan *s, uint64_t *ret_end, bool *ret_plain)
{
    const struct added *a = s->added;
    uint32_t found = ADDED_NONE;
    uint64_t range = range_end(s, ret_plain);
    uint32_t node = a->first[s->text[s->at]];
    for (uint64_t end = s->at + 1; node != ADDED_NONE; end++) {
        uint32_t token = a->nodes[node].token;
        if (token != ADDED_NONE && (!a->tokens[token].control || end <= range)) {
            found = token;
            *ret_end = end;
        }
        if (end == s->bytes)
            break;
        node = child_of(a, node, s->text[end]);
    }
    return found;
}

/* The character before `at`, and where it starts. */
static uint32_t classes_before(const struct added_scan *s, uint64_t at, uint64_t *ret_start)
{
    uint32_t code;
    uint64_t start = at - 1;
    while (start > 0 && at - start < UTF8_BYTES_MAX && (s->text[start] & 0xc0) == 0x80)
        start--;
    utf8_read_last(s->text + start, at - start, &code);
    *ret_start = start;
    return unicode_classes(code);
}

static uint32_t classes_after(const struct added_scan *s, uint64_t at, uint64_t *ret_end)
{
    uint32_t code;
    *ret_end = at + utf8_read_last(s->text + at, s->bytes - at, &code);
    return unicode_classes(code);
}

static bool stands_alone(const struct added_scan *s, uint64_t start, uint64_t end)
{
    uint64_t edge;
    return !(start > 0 && classes_before(s, start, &edge) & UNICODE_WORD) &&
           !(end < s->bytes && classes_after(s, end, &edge) & UNICODE_WORD);
}

bool added_next(struct added_scan *s, struct added_match *ret)
{
    for (bool plain; s->at < s->bytes; s->at++) {
        uint64_t start = s->at, end = 0, edge;
        if (s->added->first[s->text[start]] == ADDED_NONE)
            continue;
        uint32_t token = longest(s, &end, &plain);
        if (token == ADDED_NONE)
            continue;
        const struct added_token *t = &s->added->tokens[token];
        if ((plain && t->control) || (t->single_word && !stands_alone(s, start, end))) {
            s->at = end - 1;
            continue;
        }
        if (t->strip_left)
            while (start > s->taken && classes_before(s, start, &edge) & UNICODE_SPACE)
                start = edge;
        if (t->strip_right)
            while (end < s->bytes && classes_after(s, end, &edge) & UNICODE_SPACE)
                end = edge;
        s->at = s->taken = end;
        *ret = (struct added_match){.start = start, .end = end, .id = t->id};
        return true;
    }
    return false;
}
