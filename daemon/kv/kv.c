#include "daemon/kv/kv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/assert.h"
#include "daemon/kv/tree.h"

struct seq {
    uint32_t tenant;
    uint32_t group;
    uint32_t tokens_count;
    uint32_t pages_count;
    uint32_t committed; /* leading pages that were offered to the tree */
    uint32_t reserved;  /* pages it may still ask for */
    bool owns_last;     /* its last page may be written */
    bool untold;        /* its last token is not known */
    bool tainted;
    bool alive;
};

struct kv {
    struct kv_config config;
    struct tree tree;
    struct seq *seqs;
    uint32_t *seq_pages; /* [seqs_max, seq_pages_max] */
    uint32_t *seq_free;  /* stack */
    uint32_t seq_free_count;
    uint32_t *freed; /* stack of pages to poison */
    uint32_t freed_count;
    uint32_t reserved;
};

int kv_new(const struct kv_config *config, struct kv **ret_kv)
{
    ASSERT(config->page_tokens >= 1 && config->page_tokens <= KV_PAGE_TOKENS_MAX);
    struct kv *kv = calloc(1, sizeof *kv);
    if (!kv)
        return -ENOMEM;
    kv->config = *config;
    kv->seqs = calloc(config->seqs_max, sizeof *kv->seqs);
    kv->seq_pages = calloc((size_t)config->seqs_max * config->seq_pages_max, sizeof *kv->seq_pages);
    kv->seq_free = calloc(config->seqs_max, sizeof *kv->seq_free);
    kv->freed = calloc(config->pages_count, sizeof *kv->freed);
    int r = tree_init(&kv->tree, config);
    if (r < 0 || !kv->seqs || !kv->seq_pages || !kv->seq_free || !kv->freed) {
        kv_free(kv);
        return -ENOMEM;
    }
    for (uint32_t i = config->seqs_max; i > 0; i--)
        kv->seq_free[kv->seq_free_count++] = i - 1;
    *ret_kv = kv;
    return 0;
}

void kv_free(struct kv *kv)
{
    if (!kv)
        return;
    tree_drop(&kv->tree);
    free(kv->freed);
    free(kv->seq_free);
    free(kv->seq_pages);
    free(kv->seqs);
    free(kv);
}

static struct seq *seq_get(const struct kv *kv, uint32_t seq)
{
    ASSERT(seq < kv->config.seqs_max && kv->seqs[seq].alive);
    return &kv->seqs[seq];
}

static uint32_t *pages_of(const struct kv *kv, uint32_t seq)
{
    return kv->seq_pages + (size_t)seq * kv->config.seq_pages_max;
}

static uint32_t known(const struct seq *q)
{
    return q->tokens_count - q->untold;
}

/* ---- pages held by sequences ------------------------------------------------------------------- */

static void freed_push(struct kv *kv, uint32_t page)
{
    struct tree_page *p = &kv->tree.pages[page];
    if (p->poison)
        return;
    p->poison = true;
    kv->freed[kv->freed_count++] = page;
}

static void page_hold(struct kv *kv, uint32_t page, uint32_t group)
{
    tree_hold(&kv->tree, page, group);
}

static void page_release(struct kv *kv, uint32_t page)
{
    if (tree_release(&kv->tree, page))
        freed_push(kv, page);
}

/* A page that seq reserved. */
static uint32_t page_new(struct kv *kv, struct seq *q)
{
    ASSERT(q->reserved > 0);
    q->reserved--;
    kv->reserved--;
    return tree_page_new(&kv->tree, q->group);
}

bool kv_freed_next(struct kv *kv, uint32_t *ret_page)
{
    while (kv->freed_count) {
        uint32_t page = kv->freed[--kv->freed_count];
        kv->tree.pages[page].poison = false;
        if (tree_is_free(&kv->tree, page)) {
            *ret_page = page;
            return true;
        }
    }
    return false;
}

/* ---- sequences ------------------------------------------------------------------------------- */

static bool room_for(const struct kv *kv, uint32_t reserve_pages)
{
    return kv->seq_free_count > 0 &&
           (uint64_t)kv->tree.used_count + kv->reserved + reserve_pages <= kv->config.pages_count;
}

static uint32_t seq_take(struct kv *kv, uint32_t tenant, uint32_t group, uint32_t reserve_pages)
{
    uint32_t seq = kv->seq_free[--kv->seq_free_count];
    kv->seqs[seq] = (struct seq){.tenant = tenant,
                                 .group = group,
                                 .reserved = reserve_pages,
                                 .owns_last = true,
                                 .alive = true};
    kv->reserved += reserve_pages;
    tree_group_enter(&kv->tree, group);
    return seq;
}

int kv_seq_new(struct kv *kv, uint32_t tenant, uint32_t group, uint32_t reserve_pages,
               uint32_t *ret_seq)
{
    ASSERT(group < kv->config.groups_max && reserve_pages <= kv->config.seq_pages_max);
    if (!room_for(kv, reserve_pages))
        return KV_E_FULL;
    *ret_seq = seq_take(kv, tenant, group, reserve_pages);
    return KV_OK;
}

uint32_t kv_seq_match(struct kv *kv, uint32_t seq, const uint32_t *tokens, uint32_t count)
{
    struct seq *q = seq_get(kv, seq);
    ASSERT(q->pages_count == 0 && count > 0);
    uint32_t *pages = pages_of(kv, seq);
    uint32_t page_tokens = kv->config.page_tokens;
    uint32_t pages_max = (count - 1) / page_tokens;
    while (q->pages_count < pages_max && q->reserved > 0) {
        uint32_t before = q->pages_count ? pages[q->pages_count - 1] : TREE_NONE;
        uint32_t page =
            tree_find(&kv->tree, q->tenant, before, tokens + (size_t)q->pages_count * page_tokens);
        if (page == TREE_NONE)
            break;
        page_hold(kv, page, q->group);
        q->reserved--;
        kv->reserved--;
        pages[q->pages_count++] = page;
    }
    q->committed = q->pages_count;
    q->tokens_count = q->pages_count * page_tokens;
    return q->tokens_count;
}

int kv_seq_fork(struct kv *kv, uint32_t parent, uint32_t reserve_pages, uint32_t at_tokens,
                uint32_t *ret_seq)
{
    struct seq *p = seq_get(kv, parent);
    uint32_t page_tokens = kv->config.page_tokens;
    uint32_t whole = at_tokens / page_tokens;
    uint32_t pages_count = whole + (at_tokens % page_tokens != 0);
    ASSERT(at_tokens <= known(p) && reserve_pages <= kv->config.seq_pages_max &&
           pages_count <= reserve_pages);
    if (!room_for(kv, reserve_pages - whole))
        return KV_E_FULL;
    uint32_t seq = seq_take(kv, p->tenant, p->group, reserve_pages - whole);
    struct seq *q = &kv->seqs[seq];
    uint32_t *pages = pages_of(kv, seq);
    memcpy(pages, pages_of(kv, parent), pages_count * sizeof *pages);
    for (uint32_t i = 0; i < pages_count; i++)
        page_hold(kv, pages[i], q->group);
    q->pages_count = pages_count;
    q->tokens_count = at_tokens;
    q->owns_last = pages_count == whole;
    q->tainted = p->tainted;
    q->committed = p->committed < whole ? p->committed : whole;
    *ret_seq = seq;
    return KV_OK;
}

void kv_seq_extend(struct kv *kv, uint32_t seq, const uint32_t *tokens, uint32_t count,
                   struct kv_copy *ret_copy)
{
    struct seq *q = seq_get(kv, seq);
    uint32_t *pages = pages_of(kv, seq);
    uint32_t page_tokens = kv->config.page_tokens;
    *ret_copy = (struct kv_copy){0};
    ASSERT(!q->untold && (tokens || count == 1));
    q->untold = !tokens;
    if (!q->owns_last && count) {
        uint32_t from = pages[q->pages_count - 1];
        uint32_t to = page_new(kv, q);
        uint32_t valid = q->tokens_count % page_tokens;
        memcpy(tree_tokens(&kv->tree, to), tree_tokens(&kv->tree, from), valid * sizeof *tokens);
        *ret_copy = (struct kv_copy){.from = from, .to = to, .valid_tokens = valid};
        pages[q->pages_count - 1] = to;
        page_release(kv, from);
        q->owns_last = true;
    }
    for (uint32_t done = 0; done < count;) {
        uint32_t offset = q->tokens_count % page_tokens;
        if (offset == 0)
            pages[q->pages_count++] = page_new(kv, q);
        uint32_t room = page_tokens - offset;
        uint32_t part = count - done < room ? count - done : room;
        if (tokens)
            memcpy(tree_tokens(&kv->tree, pages[q->pages_count - 1]) + offset, tokens + done,
                   part * sizeof *tokens);
        q->tokens_count += part;
        done += part;
    }
}

void kv_seq_tell(struct kv *kv, uint32_t seq, uint32_t token)
{
    struct seq *q = seq_get(kv, seq);
    ASSERT(q->untold);
    tree_tokens(&kv->tree,
                pages_of(kv, seq)[q->pages_count - 1])[known(q) % kv->config.page_tokens] = token;
    q->untold = false;
}

/* What is taken back was extended here, so the page where it began is the sequence's own. */
void kv_seq_truncate(struct kv *kv, uint32_t seq, uint32_t tokens_count)
{
    struct seq *q = seq_get(kv, seq);
    uint32_t page_tokens = kv->config.page_tokens;
    const uint32_t *pages = pages_of(kv, seq);
    ASSERT(tokens_count <= q->tokens_count && tokens_count >= q->committed * page_tokens);
    while (q->pages_count && (q->pages_count - 1) * page_tokens >= tokens_count) {
        ASSERT(kv->tree.pages[pages[q->pages_count - 1]].refs == 1);
        page_release(kv, pages[--q->pages_count]);
        q->reserved++;
        kv->reserved++;
    }
    q->untold &= tokens_count == q->tokens_count;
    q->tokens_count = tokens_count;
}

void kv_seq_commit(struct kv *kv, uint32_t seq, uint32_t computed_tokens)
{
    struct seq *q = seq_get(kv, seq);
    uint32_t *pages = pages_of(kv, seq);
    ASSERT(computed_tokens <= known(q));
    uint32_t whole = computed_tokens / kv->config.page_tokens;
    while (q->committed < whole && !q->tainted) {
        uint32_t own = pages[q->committed];
        uint32_t before = q->committed ? pages[q->committed - 1] : TREE_NONE;
        uint32_t there = tree_insert(&kv->tree, q->tenant, before, own);
        if (there == own) {
            q->committed++;
            continue;
        }
        /* Either what came before has left the tree, or somebody computed the same at the same time
         * and one copy is enough. The other must not become used by this while ours stays so, for
         * nobody reserved it; then our further pages do without the tree. */
        if (there == TREE_NONE ||
            (kv->tree.pages[own].refs > 1 && kv->tree.pages[there].refs == 0)) {
            q->tainted = true;
            return;
        }
        page_hold(kv, there, q->group);
        page_release(kv, own);
        pages[q->committed++] = there;
    }
}

void kv_seq_taint(struct kv *kv, uint32_t seq)
{
    struct seq *q = seq_get(kv, seq);
    const uint32_t *pages = pages_of(kv, seq);
    q->tainted = true;
    for (uint32_t i = q->committed; i > 0; i--)
        if (!tree_remove_leaf(&kv->tree, pages[i - 1]))
            break;
}

void kv_seq_free(struct kv *kv, uint32_t seq)
{
    struct seq *q = seq_get(kv, seq);
    const uint32_t *pages = pages_of(kv, seq);
    for (uint32_t i = q->pages_count; i > 0; i--)
        page_release(kv, pages[i - 1]);
    kv->reserved -= q->reserved;
    tree_group_leave(&kv->tree, q->group);
    q->alive = false;
    kv->seq_free[kv->seq_free_count++] = seq;
}

const uint32_t *kv_seq_pages(const struct kv *kv, uint32_t seq, uint32_t *ret_count)
{
    *ret_count = seq_get(kv, seq)->pages_count;
    return pages_of(kv, seq);
}

void kv_stats(const struct kv *kv, struct kv_stats *ret_stats)
{
    const struct tree *t = &kv->tree;
    *ret_stats = (struct kv_stats){.pages = kv->config.pages_count,
                                   .pages_used = t->used_count,
                                   .pages_cached = t->cached_count,
                                   .pages_free = t->free_count,
                                   .pages_reserved = kv->reserved,
                                   .evictions_count = t->evictions_count};
}

void kv_audit(const struct kv *kv)
{
    const struct kv_config *c = &kv->config;
    uint64_t reserved = 0;
    uint64_t held = 0;
    for (uint32_t seq = 0; seq < c->seqs_max; seq++) {
        const struct seq *q = &kv->seqs[seq];
        if (!q->alive)
            continue;
        reserved += q->reserved;
        held += q->pages_count;
        ASSERT(q->pages_count == (q->tokens_count + c->page_tokens - 1) / c->page_tokens);
        for (uint32_t i = 0; i < q->pages_count; i++)
            ASSERT(kv->tree.pages[pages_of(kv, seq)[i]].refs > 0);
    }
    ASSERT(reserved == kv->reserved);
    ASSERT(tree_audit(&kv->tree) == held);
    ASSERT((uint64_t)kv->tree.used_count + kv->reserved <= c->pages_count);
}
