/* daemon/kv/tree.h — the pages: free, used, or cached in the prefix tree. Inner part of daemon/kv.
 *
 * A node of the tree is a page; its key is (tenant, page before it, its tokens). The page before it
 * names the whole prefix, for a node leaves the tree after those that follow it. Lookup is by hash, and
 * what the hash finds is compared in full, so a collision costs time and nothing else.
 *
 * Cached pages that nothing follows wait for eviction in a list of their group, oldest first; groups
 * that have such pages stand in two lists, without and with a living sequence.
 *
 * Thread: one. Memory: fixed at tree_init(). Time: O(1) a page, but for chains of the hash table. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "daemon/kv/kv.h"

#define TREE_NONE UINT32_MAX

struct tree_page {
    uint64_t released; /* order of the last release */
    uint32_t refs;     /* sequences that hold it */
    uint32_t before;   /* node: the page before it, or TREE_NONE */
    uint32_t children; /* node: nodes after it */
    uint32_t bucket;
    uint32_t bucket_next;
    uint32_t tenant;
    uint32_t group; /* that used it last */
    uint32_t older; /* in the group's list of leaves */
    uint32_t newer;
    bool in_tree;
    bool poison; /* in the list of freed pages */
};

struct tree_group {
    uint32_t alive_count; /* sequences */
    uint32_t oldest;      /* leaves that can be evicted */
    uint32_t newest;
    uint32_t before; /* in one of the two lists, when it has leaves */
    uint32_t after;
};

struct tree_list { /* of groups */
    uint32_t first;
    uint32_t last;
};

struct tree {
    struct tree_page *pages;
    struct tree_group *groups;
    uint32_t *tokens;            /* [pages, page_tokens] */
    uint32_t *buckets;           /* first page of the chain */
    uint32_t *free;              /* stack */
    struct tree_list waiting[2]; /* groups with leaves: [0] without, [1] with a living sequence */
    uint64_t releases_count;
    uint64_t evictions_count;
    uint32_t pages_count;
    uint32_t page_tokens;
    uint32_t buckets_count;
    uint32_t free_count;
    uint32_t used_count;
    uint32_t cached_count;
};

int tree_init(struct tree *tree, const struct kv_config *config);
void tree_drop(struct tree *tree);

/* A page held once, evicted if need be; there is one, says the reservation. */
uint32_t tree_page_new(struct tree *tree, uint32_t group);
void tree_hold(struct tree *tree, uint32_t page, uint32_t group);
/* True: the page is free now. */
bool tree_release(struct tree *tree, uint32_t page);
bool tree_is_free(const struct tree *tree, uint32_t page);
uint32_t *tree_tokens(const struct tree *tree, uint32_t page);

void tree_group_enter(struct tree *tree, uint32_t group);
void tree_group_leave(struct tree *tree, uint32_t group);

/* TREE_NONE: not there. */
uint32_t tree_find(const struct tree *tree, uint32_t tenant, uint32_t before,
                   const uint32_t *tokens);
/* Makes a held page a node; returns it, or the node that has its key already, or TREE_NONE when the
 * page before it is no node. */
uint32_t tree_insert(struct tree *tree, uint32_t tenant, uint32_t before, uint32_t page);
/* A held page is no node any more; false: it was none, or others follow it. */
bool tree_remove_leaf(struct tree *tree, uint32_t page);

/* Counts anew and asserts; returns the sum of refs. */
uint64_t tree_audit(const struct tree *tree);
