/* tests/models/ring.pml: the slot ring of shm/ring.h never loses, doubles or tears a record.
 * seeded bugs: 4
 *
 * Two slots, two payload words each, MESSAGES records, so every slot is written several times. The
 * producer's stores go through a buffer that hands them to memory in any order, which is weaker than
 * x86-TSO: only a release store waits for the words it publishes. The consumer's credit goes through
 * a buffer of its own and is published after any number of records.
 *
 * Shown by assertions (each record arrives once, in order, whole; a sequence is the next one or the
 * one a lap before) and by the absence of invalid end states (both ends finish).
 *
 * BUG=1 the sequence is stored relaxed: memory may get it before the words
 * BUG=2 the credit is published before the slot was read
 * BUG=3 the words are read before the sequence (acquire missing)
 * BUG=4 the producer does not ask for credit */
#ifndef BUG
#define BUG 0
#endif
#define SLOTS 2
#define MESSAGES 6

/* memory */
byte word0[SLOTS], word1[SLOTS], seq[SLOTS], consumed;

/* the producer's store buffer: one pending store a location; 255 is none */
#define NONE 255
byte pending_word0[SLOTS] = NONE, pending_word1[SLOTS] = NONE, pending_seq[SLOTS] = NONE;
byte pending_consumed = NONE;

active proctype producer()
{
    byte pos = 0, limit = SLOTS, at;
    do
    :: pos == MESSAGES -> break
    :: pos < MESSAGES && (pos < limit || BUG == 4) ->
        at = pos % SLOTS;
        /* a location holds one pending store: the next one waits for it (coherence) */
        atomic { pending_word0[at] == NONE -> pending_word0[at] = pos }
        atomic { pending_word1[at] == NONE -> pending_word1[at] = pos }
        atomic { pending_seq[at] == NONE -> pending_seq[at] = pos + 1; pos++ }
    :: pos < MESSAGES && pos >= limit && consumed + SLOTS != limit ->
        limit = consumed + SLOTS; /* ring_tx_credit */
        assert(pos <= limit && limit - pos <= SLOTS)
    od;
    at = 0
}

/* Stores reach memory in any order, except what release forbids. */
#define DRAIN(i) \
    :: atomic { pending_word0[i] != NONE -> word0[i] = pending_word0[i]; pending_word0[i] = NONE } \
    :: atomic { pending_word1[i] != NONE -> word1[i] = pending_word1[i]; pending_word1[i] = NONE } \
    :: atomic { pending_seq[i] != NONE && \
                ((pending_word0[i] == NONE && pending_word1[i] == NONE) || BUG == 1) -> \
                seq[i] = pending_seq[i]; pending_seq[i] = NONE }

active proctype memory()
{
end:
    do
    DRAIN(0)
    DRAIN(1)
    :: atomic { pending_consumed != NONE -> consumed = pending_consumed; pending_consumed = NONE }
    od
}

active proctype consumer()
{
    byte pos = 0, published = 0, at, s, got0, got1;
    do
    :: pos == MESSAGES -> break
    :: pos < MESSAGES ->
        at = pos % SLOTS;
#if BUG == 3
        got0 = word0[at]; got1 = word1[at];
        s = seq[at];
#else
        s = seq[at];
#endif
        if
        :: s == pos + 1 ->
#if BUG == 2
            atomic { pending_consumed == NONE -> pending_consumed = pos + 1; published = pos + 1 }
#endif
#if BUG != 3
            got0 = word0[at];
            got1 = word1[at];
#endif
            assert(got0 == pos && got1 == pos);
            pos++
        :: else ->
            assert(s == (pos >= SLOTS -> pos + 1 - SLOTS : 0)); /* never RING_BAD */
            /* wait: before it sleeps, what was taken is published */
            if
            :: published != pos ->
                atomic { pending_consumed == NONE -> pending_consumed = pos; published = pos }
            :: else -> seq[at] != s
            fi
        fi;
        if
        :: published != pos && pending_consumed == NONE ->
            atomic { pending_consumed == NONE -> pending_consumed = pos; published = pos }
        :: skip /* or later */
        fi
    od
}
