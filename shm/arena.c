#include "shm/arena.h"

#include <assert.h>
#include <string.h>

/* Free blocks of one order form a doubly linked list through node[], indexed by block number. */
#define NIL UINT32_MAX
#define TAG_FREE 0x80u  /* first block of a free run; low bits: order */
#define TAG_TAKEN 0x40u /* first block of a taken run */

struct node {
    uint32_t next;
    uint32_t prev;
};

struct arena {
    uint64_t block_bytes;
    uint64_t taken_blocks;
    uint32_t blocks_count;
    uint32_t orders_count;
    uint32_t head[ARENA_ORDERS_MAX];
    struct node *node;
    uint8_t *tag;
};

size_t arena_state_bytes(uint64_t bytes, uint64_t block_bytes)
{
    size_t blocks_count = (size_t)(bytes / block_bytes);
    return sizeof(struct arena) + blocks_count * (sizeof(struct node) + sizeof(uint8_t));
}

static void list_push(struct arena *a, uint32_t order, uint32_t block)
{
    a->node[block] = (struct node){.next = a->head[order], .prev = NIL};
    if (a->head[order] != NIL)
        a->node[a->head[order]].prev = block;
    a->head[order] = block;
    a->tag[block] = (uint8_t)(TAG_FREE | order);
}

static void list_remove(struct arena *a, uint32_t order, uint32_t block)
{
    struct node n = a->node[block];
    if (n.prev != NIL)
        a->node[n.prev].next = n.next;
    else
        a->head[order] = n.next;
    if (n.next != NIL)
        a->node[n.next].prev = n.prev;
    a->tag[block] = 0;
}

struct arena *arena_init(void *state, uint64_t bytes, uint64_t block_bytes)
{
    struct arena *a = state;
    uint64_t blocks_count = bytes / block_bytes;
    assert(block_bytes >= ARENA_BLOCK_BYTES_MIN && (block_bytes & (block_bytes - 1)) == 0);
    assert(blocks_count >= 1 && blocks_count <= 1u << 30);
    assert((blocks_count & (blocks_count - 1)) == 0);
    a->block_bytes = block_bytes;
    a->taken_blocks = 0;
    a->blocks_count = (uint32_t)blocks_count;
    a->orders_count = (uint32_t)__builtin_ctzll(blocks_count) + 1;
    a->node = (struct node *)(a + 1);
    a->tag = (uint8_t *)(a->node + blocks_count);
    memset(a->head, 0xff, sizeof a->head);
    memset(a->tag, 0, a->blocks_count);
    list_push(a, a->orders_count - 1, 0);
    return a;
}

uint64_t arena_take(struct arena *a, uint64_t bytes)
{
    assert(bytes > 0);
    if (bytes > (uint64_t)a->blocks_count * a->block_bytes)
        return ARENA_FULL;
    uint64_t blocks = (bytes + a->block_bytes - 1) / a->block_bytes;
    uint32_t order = blocks == 1 ? 0 : 64 - (uint32_t)__builtin_clzll(blocks - 1);
    uint32_t from = order;
    while (from < a->orders_count && a->head[from] == NIL)
        from++;
    if (from >= a->orders_count)
        return ARENA_FULL;
    uint32_t block = a->head[from];
    list_remove(a, from, block);
    while (from > order) {
        from--;
        list_push(a, from, block + (1u << from));
    }
    a->tag[block] = (uint8_t)(TAG_TAKEN | order);
    a->taken_blocks += 1ull << order;
    return block * a->block_bytes;
}

void arena_give(struct arena *a, uint64_t offset)
{
    assert(offset % a->block_bytes == 0 && offset / a->block_bytes < a->blocks_count);
    uint32_t block = (uint32_t)(offset / a->block_bytes);
    assert(a->tag[block] & TAG_TAKEN);
    uint32_t order = a->tag[block] & 0x3fu;
    a->tag[block] = 0;
    a->taken_blocks -= 1ull << order;
    while (order + 1 < a->orders_count) {
        uint32_t buddy = block ^ (1u << order);
        if (a->tag[buddy] != (TAG_FREE | order))
            break;
        list_remove(a, order, buddy);
        block = block < buddy ? block : buddy;
        order++;
    }
    list_push(a, order, block);
}

uint64_t arena_taken_bytes(const struct arena *a)
{
    return a->taken_blocks * a->block_bytes;
}
