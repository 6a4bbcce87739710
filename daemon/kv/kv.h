/* daemon/kv/kv.h — who holds which KV page, and what the pages that nobody holds still know.
 *
 * A page is page_tokens consecutive positions of a sequence. Sequences share pages: by fork at any
 * token, and through the prefix tree, where a page lies once all its positions are computed, under its
 * tenant, the page before it and its tokens. A tenant finds only pages that it computed itself. A page
 * that no sequence holds any more stays in the tree until its room is needed: pages of groups without a
 * living sequence go first, then the longest unused, a page never before those that follow it.
 *
 * Promise: every sequence can grow to the pages it reserved, whatever the others do. Kept by
 * used + reserved <= pages, where used counts each page that sequences hold once and reserved what they
 * may still ask for.
 *
 * A page is written by one sequence only, the one that allocated it. A fork in the middle of a page
 * gets a copy of it when it first writes; until then the other's further positions in that page do not
 * concern it, for it never looks at them.
 *
 * Pages are numbers here; the memory behind them is the engine's.
 *
 * Thread: one. Memory: fixed at kv_new(). Time: O(pages touched). Fails: kv_new() -ENOMEM; kv_seq_new()
 * and kv_seq_fork() when the room is not there; nothing else. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct kv;

#define KV_PAGE_TOKENS_MAX 64u

struct kv_config {
    uint32_t pages_count;
    uint32_t page_tokens; /* at most KV_PAGE_TOKENS_MAX */
    uint32_t seqs_max;
    uint32_t seq_pages_max; /* of one sequence */
    uint32_t groups_max;    /* group numbers are below it */
    uint32_t buckets_count; /* of the tree's table; 0: by pages_count. Tests make it collide. */
};

struct
    kv_copy { /* positions 0 .. valid_tokens - 1 of page from go to page to; 0: nothing to copy */
    uint32_t from;
    uint32_t to;
    uint32_t valid_tokens;
};

enum kv_result { KV_OK = 0, KV_E_FULL = 1 };

int kv_new(const struct kv_config *config, struct kv **ret_kv);
void kv_free(struct kv *kv);

/* An empty sequence that may grow to reserve_pages. */
int kv_seq_new(struct kv *kv, uint32_t tenant, uint32_t group, uint32_t reserve_pages,
               uint32_t *ret_seq);

/* Once, on an empty sequence: takes over the longest computed prefix of tokens, whole pages, never
 * with the last token. Returns its tokens. */
uint32_t kv_seq_match(struct kv *kv, uint32_t seq, const uint32_t *tokens, uint32_t count);

/* A sequence with the first at_tokens of parent, which may grow to reserve_pages. */
int kv_seq_fork(struct kv *kv, uint32_t parent, uint32_t reserve_pages, uint32_t at_tokens,
                uint32_t *ret_seq);

/* Pages for count further tokens. The copy must be done before they are written. tokens NULL: one that is not
 * known yet; until it is told, the sequence is neither extended nor forked or committed beyond what is known. */
void kv_seq_extend(struct kv *kv, uint32_t seq, const uint32_t *tokens, uint32_t count,
                   struct kv_copy *ret_copy);
void kv_seq_tell(struct kv *kv, uint32_t seq, uint32_t token);

/* Takes back all tokens but the first tokens_count, which are the committed ones at least, and those that forks
 * have. Pages without a token left may be asked for again. */
void kv_seq_truncate(struct kv *kv, uint32_t seq, uint32_t tokens_count);

/* The first computed_tokens are in the pages: others may find them. */
void kv_seq_commit(struct kv *kv, uint32_t seq, uint32_t computed_tokens);

/* Something is wrong with this sequence's values: what of it only it uses leaves the tree, and nothing
 * of it enters again. */
void kv_seq_taint(struct kv *kv, uint32_t seq);

void kv_seq_free(struct kv *kv, uint32_t seq);

/* Page numbers in order of position; good until the sequence's next call. */
const uint32_t *kv_seq_pages(const struct kv *kv, uint32_t seq, uint32_t *ret_count);

/* The next page that was freed since the last call and is free still; false: no more. */
bool kv_freed_next(struct kv *kv, uint32_t *ret_page);

struct kv_stats {
    uint32_t pages;
    uint32_t pages_used;     /* held by sequences */
    uint32_t pages_cached;   /* in the tree only */
    uint32_t pages_free;     /* neither; the three sum to pages */
    uint32_t pages_reserved; /* that living sequences may still ask for */
    uint64_t evictions_count;
};
void kv_stats(const struct kv *kv, struct kv_stats *ret_stats);

/* Counts everything anew and asserts that it agrees; for tests, O(pages and sequences). */
void kv_audit(const struct kv *kv);
