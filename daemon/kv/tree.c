#include "daemon/kv/tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/assert.h"
#include "daemon/base/hash.h"

int tree_init(struct tree *t, const struct kv_config *c)
{
    t->pages_count = c->pages_count;
    t->page_tokens = c->page_tokens;
    t->buckets_count = c->buckets_count ? c->buckets_count : c->pages_count;
    t->pages = calloc(c->pages_count, sizeof *t->pages);
    t->groups = calloc(c->groups_max, sizeof *t->groups);
    t->tokens = calloc((size_t)c->pages_count * c->page_tokens, sizeof *t->tokens);
    t->buckets = calloc(t->buckets_count, sizeof *t->buckets);
    t->free = calloc(c->pages_count, sizeof *t->free);
    if (!t->pages || !t->groups || !t->tokens || !t->buckets || !t->free)
        return -ENOMEM;
    for (uint32_t i = 0; i < t->buckets_count; i++)
        t->buckets[i] = TREE_NONE;
    for (uint32_t i = 0; i < c->groups_max; i++)
        t->groups[i] = (struct tree_group){.oldest = TREE_NONE, .newest = TREE_NONE};
    for (uint32_t i = c->pages_count; i > 0; i--)
        t->free[t->free_count++] = i - 1;
    for (uint32_t i = 0; i < 2; i++)
        t->waiting[i] = (struct tree_list){TREE_NONE, TREE_NONE};
    return 0;
}

void tree_drop(struct tree *t)
{
    free(t->free);
    free(t->buckets);
    free(t->tokens);
    free(t->groups);
    free(t->pages);
}

uint32_t *tree_tokens(const struct tree *t, uint32_t page)
{
    return t->tokens + (size_t)page * t->page_tokens;
}

bool tree_is_free(const struct tree *t, uint32_t page)
{
    return t->pages[page].refs == 0 && !t->pages[page].in_tree;
}

/* ---- who waits for eviction ------------------------------------------------------------------ */

static void group_queue(struct tree *t, uint32_t group)
{
    struct tree_list *list = &t->waiting[t->groups[group].alive_count > 0];
    t->groups[group].before = list->last;
    t->groups[group].after = TREE_NONE;
    if (list->last == TREE_NONE)
        list->first = group;
    else
        t->groups[list->last].after = group;
    list->last = group;
}

static void group_unqueue(struct tree *t, uint32_t group)
{
    struct tree_group *g = &t->groups[group];
    struct tree_list *list = &t->waiting[g->alive_count > 0];
    if (g->before == TREE_NONE)
        list->first = g->after;
    else
        t->groups[g->before].after = g->after;
    if (g->after == TREE_NONE)
        list->last = g->before;
    else
        t->groups[g->after].before = g->before;
}

void tree_group_enter(struct tree *t, uint32_t group)
{
    struct tree_group *g = &t->groups[group];
    bool moves = g->alive_count == 0 && g->oldest != TREE_NONE;
    if (moves)
        group_unqueue(t, group);
    g->alive_count++;
    if (moves)
        group_queue(t, group);
}

void tree_group_leave(struct tree *t, uint32_t group)
{
    struct tree_group *g = &t->groups[group];
    ASSERT(g->alive_count > 0);
    bool moves = g->alive_count == 1 && g->oldest != TREE_NONE;
    if (moves)
        group_unqueue(t, group);
    g->alive_count--;
    if (moves)
        group_queue(t, group);
}

static void leaf_remove(struct tree *t, uint32_t page)
{
    struct tree_page *p = &t->pages[page];
    struct tree_group *g = &t->groups[p->group];
    if (p->older == TREE_NONE)
        g->oldest = p->newer;
    else
        t->pages[p->older].newer = p->newer;
    if (p->newer == TREE_NONE)
        g->newest = p->older;
    else
        t->pages[p->newer].older = p->older;
    if (g->oldest == TREE_NONE)
        group_unqueue(t, p->group);
}

/* A page whose followers were evicted may be older than what stands last: it goes to the end that
 * fits it. */
static void leaf_add(struct tree *t, uint32_t page)
{
    struct tree_page *p = &t->pages[page];
    struct tree_group *g = &t->groups[p->group];
    if (g->oldest == TREE_NONE) {
        p->older = p->newer = TREE_NONE;
        g->oldest = g->newest = page;
        group_queue(t, p->group);
    } else if (p->released < t->pages[g->oldest].released) {
        p->older = TREE_NONE;
        p->newer = g->oldest;
        t->pages[g->oldest].older = page;
        g->oldest = page;
    } else {
        p->newer = TREE_NONE;
        p->older = g->newest;
        t->pages[g->newest].newer = page;
        g->newest = page;
    }
}

static bool is_waiting(const struct tree_page *p)
{
    return p->in_tree && p->refs == 0 && p->children == 0;
}

/* ---- nodes ----------------------------------------------------------------------------------- */

static uint32_t bucket_of(const struct tree *t, uint32_t tenant, uint32_t before,
                          const uint32_t *tokens)
{
    struct hash128 h =
        hash_bytes(tokens, t->page_tokens * sizeof *tokens, (uint64_t)tenant << 32 | before);
    return (uint32_t)(h.low % t->buckets_count);
}

static uint32_t chain_find(const struct tree *t, uint32_t bucket, uint32_t tenant, uint32_t before,
                           const uint32_t *tokens)
{
    uint32_t page = t->buckets[bucket];
    for (; page != TREE_NONE; page = t->pages[page].bucket_next) {
        const struct tree_page *p = &t->pages[page];
        if (p->tenant == tenant && p->before == before &&
            memcmp(tree_tokens(t, page), tokens, t->page_tokens * sizeof *tokens) == 0)
            break;
    }
    return page;
}

uint32_t tree_find(const struct tree *t, uint32_t tenant, uint32_t before, const uint32_t *tokens)
{
    return chain_find(t, bucket_of(t, tenant, before, tokens), tenant, before, tokens);
}

uint32_t tree_insert(struct tree *t, uint32_t tenant, uint32_t before, uint32_t page)
{
    struct tree_page *p = &t->pages[page];
    ASSERT(p->refs > 0);
    if (before != TREE_NONE && !t->pages[before].in_tree)
        return TREE_NONE;
    const uint32_t *tokens = tree_tokens(t, page);
    uint32_t bucket = bucket_of(t, tenant, before, tokens);
    uint32_t there = chain_find(t, bucket, tenant, before, tokens);
    if (there != TREE_NONE)
        return there;
    ASSERT(!p->in_tree);
    p->in_tree = true;
    p->tenant = tenant;
    p->before = before;
    p->children = 0;
    p->bucket = bucket;
    p->bucket_next = t->buckets[bucket];
    t->buckets[bucket] = page;
    if (before != TREE_NONE)
        t->pages[before].children++;
    return page;
}

/* A node without children leaves; the page before it may now wait for eviction. */
static void node_remove(struct tree *t, uint32_t page)
{
    struct tree_page *p = &t->pages[page];
    ASSERT(p->in_tree && p->children == 0);
    uint32_t *link = &t->buckets[p->bucket];
    while (*link != page)
        link = &t->pages[*link].bucket_next;
    *link = p->bucket_next;
    p->in_tree = false;
    if (p->before == TREE_NONE)
        return;
    struct tree_page *before = &t->pages[p->before];
    before->children--;
    if (is_waiting(before))
        leaf_add(t, p->before);
}

bool tree_remove_leaf(struct tree *t, uint32_t page)
{
    struct tree_page *p = &t->pages[page];
    ASSERT(p->refs > 0);
    if (!p->in_tree || p->children > 0)
        return false;
    node_remove(t, page);
    return true;
}

/* ---- pages ----------------------------------------------------------------------------------- */

static void evict(struct tree *t)
{
    uint32_t group = t->waiting[0].first;
    if (group == TREE_NONE)
        group = t->waiting[1].first;
    ASSERT(group != TREE_NONE);
    uint32_t page = t->groups[group].oldest;
    leaf_remove(t, page);
    node_remove(t, page);
    t->cached_count--;
    t->free[t->free_count++] = page;
    t->evictions_count++;
}

uint32_t tree_page_new(struct tree *t, uint32_t group)
{
    if (t->free_count == 0)
        evict(t);
    uint32_t page = t->free[--t->free_count];
    struct tree_page *p = &t->pages[page];
    ASSERT(p->refs == 0 && !p->in_tree);
    p->refs = 1;
    p->group = group;
    t->used_count++;
    return page;
}

void tree_hold(struct tree *t, uint32_t page, uint32_t group)
{
    struct tree_page *p = &t->pages[page];
    if (p->refs == 0) {
        ASSERT(p->in_tree);
        if (p->children == 0)
            leaf_remove(t, page);
        t->cached_count--;
        t->used_count++;
    }
    p->refs++;
    p->group = group;
}

bool tree_release(struct tree *t, uint32_t page)
{
    struct tree_page *p = &t->pages[page];
    ASSERT(p->refs > 0);
    if (--p->refs > 0)
        return false;
    t->used_count--;
    p->released = ++t->releases_count;
    if (!p->in_tree) {
        t->free[t->free_count++] = page;
        return true;
    }
    t->cached_count++;
    if (p->children == 0)
        leaf_add(t, page);
    return false;
}

uint64_t tree_audit(const struct tree *t)
{
    uint32_t counts[3] = {0}; /* used, cached, free */
    uint64_t refs = 0;
    uint64_t waiting = 0;
    uint64_t children = 0;
    uint64_t followers = 0;
    for (uint32_t i = 0; i < t->pages_count; i++) {
        const struct tree_page *p = &t->pages[i];
        counts[p->refs > 0 ? 0 : p->in_tree ? 1 : 2]++;
        refs += p->refs;
        waiting += is_waiting(p);
        if (!p->in_tree)
            continue;
        children += p->children;
        followers += p->before != TREE_NONE;
        ASSERT(p->before == TREE_NONE || t->pages[p->before].in_tree);
        ASSERT(tree_find(t, p->tenant, p->before, tree_tokens(t, i)) == i);
    }
    ASSERT(counts[0] == t->used_count && counts[1] == t->cached_count &&
           counts[2] == t->free_count);
    ASSERT(children == followers);
    for (uint32_t list = 0; list < 2; list++)
        for (uint32_t g = t->waiting[list].first; g != TREE_NONE; g = t->groups[g].after)
            for (uint32_t p = t->groups[g].oldest; p != TREE_NONE; p = t->pages[p].newer, waiting--)
                ASSERT(is_waiting(&t->pages[p]) && (t->groups[g].alive_count > 0) == (list == 1));
    ASSERT(waiting == 0);
    return refs;
}
