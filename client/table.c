#include "client/parts.h"

#include <stdlib.h>

#define INDEX_BITS 9u
_Static_assert(1u << INDEX_BITS == DYNASOR_PROGRAMS_MAX, "program ids hold the index");

/* An index may be used for a SUBMIT on one lane only when the daemon has seen its RELEASE on
 * another. Until then it lies in limbo: its own lane, whose records stay in order, can have it at
 * once; others when the daemon's consumed position is past it. */

void table_init(struct dynasor_client *c)
{
    for (unsigned i = 0; i < PROGRAMS_WORDS; i++)
        c->free_bits[i] = UINT64_MAX;
}

static bool limbo_over(const struct channel *ch, const struct program *p)
{
    /* Relaxed: before the bit is claimed a hint, after it ours. */
    uint64_t epoch = shm_load_u64(&p->freed_epoch);
    uint64_t at = shm_load_u64(&p->freed_at);
    uint32_t number = (uint32_t)(at >> 56);
    if (epoch != ch->epoch) /* of an older session: nobody remembers. Of a newer one: bind first. */
        return epoch < ch->epoch;
    if (number == ch->number)
        return true;
    const struct wire_geometry *g = &ch->mapping->geometry;
    if (number >= g->lanes_count)
        return false;
    /* Relaxed: all that is wanted is that the daemon acted upon the record; nothing of the lane is
     * read or written after it. */
    uint64_t consumed = shm_load_u64(&region_d2c_lane(ch->mapping->d2c, g, number)->consumed);
    return consumed > (at & (UINT64_MAX >> 8));
}

static uint32_t claim(uint64_t *word, uint64_t bits)
{
    while (bits) {
        uint64_t bit = bits & -bits;
        uint64_t before = shm_fetch_and_u64(word, ~bit);
        if (before & bit)
            return (uint32_t)__builtin_ctzll(bit);
        bits &= before; /* other lanes took it and perhaps more */
    }
    return PROGRAM_NONE;
}

static uint32_t take_limbo(struct dynasor_client *c, const struct channel *ch, uint32_t w)
{
    for (uint64_t bits = shm_load_u64(&c->limbo_bits[w]); bits; bits &= bits - 1) {
        uint64_t bit = bits & -bits;
        uint32_t index = w * 64 + (uint32_t)__builtin_ctzll(bit);
        if (!limbo_over(ch, &c->programs[index]) ||
            (shm_fetch_and_u64(&c->limbo_bits[w], ~bit) & bit) == 0)
            continue;
        if (limbo_over(ch, &c->programs[index]))
            return index;
        (void)shm_fetch_or_u64(&c->limbo_bits[w], bit); /* it was taken and released in between */
    }
    return PROGRAM_NONE;
}

uint32_t table_take(struct dynasor_client *c, const struct channel *ch)
{
    for (uint32_t i = 0; i < PROGRAMS_WORDS; i++) {
        uint32_t w = (ch->number + i) % PROGRAMS_WORDS; /* lanes start apart */
        uint64_t bits = shm_load_u64(&c->free_bits[w]);
        uint32_t bit = bits ? claim(&c->free_bits[w], bits) : PROGRAM_NONE;
        if (bit != PROGRAM_NONE)
            return w * 64 + bit;
    }
    for (uint32_t i = 0; i < PROGRAMS_WORDS; i++) {
        uint32_t index = take_limbo(c, ch, (ch->number + i) % PROGRAMS_WORDS);
        if (index != PROGRAM_NONE)
            return index;
    }
    return PROGRAM_NONE;
}

void table_give(struct dynasor_client *c, const struct channel *ch, struct program *p, bool sent)
{
    uint32_t index = (uint32_t)(p - c->programs);
    p->phase = PHASE_FREE;
    if (p->parcel) { /* of a move to another mapping that did not take place */
        free(p->parcel);
        p->parcel = NULL;
    }
    shm_store_u64(&p->tag, 0);
    shm_store_u64(&p->program_id, 0);
    if (sent) {
        shm_store_u64(&p->freed_epoch, ch->epoch);
        shm_store_u64(&p->freed_at, (uint64_t)ch->number << 56 | (ch->tx.pos - 1));
    }
    /* Setting the bit hands the entry to whoever clears it. */
    (void)shm_fetch_or_u64(sent ? &c->limbo_bits[index / 64] : &c->free_bits[index / 64],
                           1ull << (index % 64));
}

void table_undo(struct dynasor_client *c, struct program *p)
{
    uint32_t index = (uint32_t)(p - c->programs);
    (void)shm_fetch_or_u64(&c->limbo_bits[index / 64], 1ull << (index % 64));
}

struct program *table_find(struct dynasor_client *c, uint64_t tag, uint64_t program)
{
    struct program *p = &c->programs[program % DYNASOR_PROGRAMS_MAX];
    /* Relaxed: nobody but this lane stores this lane's tag. */
    if (program == 0 || shm_load_u64(&p->tag) != tag || shm_load_u64(&p->program_id) != program)
        return NULL;
    return p;
}
