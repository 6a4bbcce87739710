/* tests/models/reattach.pml: a daemon killed between any two of its stores and restarted up to KILLS times
 * loses and doubles no record, event or token (docs/ABI.md, "What a restarted daemon does").
 * seeded bugs: 9
 *
 * One lane. The client submits programs 1 (entry 0), 2 (entry 1) and 3 (entry 0 again, after the
 * RELEASE of 1), may cancel one of them at any time, takes events and releases what has ended. It
 * runs on while the daemon is dead. The daemon accepts or refuses each SUBMIT as it likes (a quota
 * may differ from life to life), decodes TOKENS tokens a program and ends it. The event ring has
 * four slots, so it wraps, and one slot stays reserved for each END. Stores happen in the order
 * written here: in the code each must be a release store, or the compiler may swap them (BUG=6).
 *
 * What the daemon does between two looks at the client's words is atomic, except that it may die
 * after each store: in between it reads nothing of the client's, so the client's steps commute.
 *
 * Shown: every program is answered exactly once (accepted or REFUSED), its tokens arrive without gap
 * or repetition, one END, nothing after it; a CANCEL that was consumed is never forgotten; positions
 * only grow; the client always finishes (no invalid end state).
 *
 * BUG=1 `next` stored before the entry        BUG=2 `consumed` stored before the entry
 * BUG=3 redo of the unaccounted slot missing  BUG=4 last event REFUSED is not looked at
 * BUG=5 a SUBMIT already accepted is not skipped
 * BUG=6 the entry is accounted before the event slot
 * BUG=7 CANCEL is consumed before the entry is CANCELLED
 * BUG=8 redo adds the count instead of setting position + count
 * BUG=9 an entry that is FREE still counts as holding its program_id */
#ifndef BUG
#define BUG 0
#endif
#ifndef KILLS
#define KILLS 2
#endif
#define TOKENS 2   /* of a program */
#define RECORDS 7  /* 3 SUBMIT, 1 CANCEL, 3 RELEASE at most */
#define EVENTS 4   /* slots of the event ring */
#define ENTRIES 2
#define NONE 255

mtype = { none, submit, cancel, release, tokens, end_event, refused,
          free, queued, running, done, cancelled };

typedef Record { mtype op; byte id; byte index };
typedef Event { mtype kind; byte index; byte arg; mtype state; byte seq };
typedef Entry { byte id; byte submit_pos; mtype state; byte sent; bool end_sent };

/* C2D: submissions never wrap here (ring.pml shows wrapping) */
Record record[RECORDS];
byte submitted;        /* the sequence of all slots in one number */
byte client_consumed;  /* events taken */

/* D2C */
Event event[EVENTS];
byte consumed, next;
Entry entry[ENTRIES];

/* what only the proof knows */
byte kills;
bool accepted[4], was_refused[4], ended[4];
byte cancel_pos = NONE, cancel_id;

#define INDEX_OF(i) ((i) == 2 -> 1 : 0)
#define KILL_POINT if :: kills < KILLS -> kills++; goto dead :: skip fi
#define TERMINAL(i) (entry[i].state == done || entry[i].state == cancelled)
#define RESERVED(i) (entry[i].state != free && !entry[i].end_sent)
#define ROOM (client_consumed + EVENTS - tx)
#define UNRESERVED (ROOM > RESERVED(0) + RESERVED(1))

/* Writes the words, then the sequence; a kill between leaves an unpublished slot. */
#define PUBLISH(k, i, a, st) \
    assert(tx - client_consumed < EVENTS); \
    d_step { \
        event[tx % EVENTS].kind = k; event[tx % EVENTS].index = i; event[tx % EVENTS].arg = a; \
        event[tx % EVENTS].state = st \
    } \
    KILL_POINT; \
    event[tx % EVENTS].seq = tx + 1

#define STORE_NEXT d_step { assert(tx == next); next = tx + 1; tx = next }
#define STORE_CONSUMED d_step { assert(rx == consumed); consumed = rx + 1; rx = consumed }

proctype daemon()
{
    byte tx = 0, rx = 0, i = 0;
    byte decoded[ENTRIES];
    goto serve;
dead:
    i = 0;
    atomic {
    d_step { tx = 0; rx = 0; decoded[0] = 0; decoded[1] = 0 }
    /* 2. positions; the slot that was published and not accounted for; a REFUSED not consumed */
    tx = next;
    rx = consumed;
    if
    :: event[tx % EVENTS].seq == tx + 1 && BUG != 3 ->
        i = event[tx % EVENTS].index;
        if
        :: event[tx % EVENTS].kind == tokens ->
            entry[i].sent = (BUG == 8 -> entry[i].sent : event[tx % EVENTS].arg) + 1
        :: event[tx % EVENTS].kind == end_event ->
            entry[i].state = event[tx % EVENTS].state;
            KILL_POINT;
            entry[i].end_sent = true
        :: event[tx % EVENTS].kind == refused
        fi;
        i = 0;
        KILL_POINT;
        STORE_NEXT;
        KILL_POINT
    :: else
    fi;
    if
    :: BUG != 4 && tx > 0 && event[(tx - 1) % EVENTS].kind == refused &&
       event[(tx - 1) % EVENTS].seq == tx && event[(tx - 1) % EVENTS].arg == rx ->
        STORE_CONSUMED;
        KILL_POINT
    :: else
    fi;
    /* 3. a SUBMIT that was accepted and not consumed: now, before anything runs or is taken */
    if
    :: BUG != 5 && rx < submitted && record[rx].op == submit &&
       (entry[record[rx].index].state != free || BUG == 9) &&
       entry[record[rx].index].id == record[rx].id && entry[record[rx].index].submit_pos == rx ->
        STORE_CONSUMED;
        KILL_POINT
    :: else
    fi;
    /* 4. what was running is queued again and runs from the start */
    i = 0;
    do
    :: i < ENTRIES ->
        if
        :: entry[i].state == running -> entry[i].state = queued; KILL_POINT
        :: else
        fi;
        i++
    :: else -> i = 0; break
    od
    };
serve:
end:
    do
    :: atomic { rx < submitted && record[rx].op == submit && UNRESERVED ->
        i = record[rx].index;
        if
        :: true -> /* accept */
            d_step {
                assert(entry[i].state == free); /* else a violation */
                assert(!accepted[record[rx].id] && !was_refused[record[rx].id])
            }
#if BUG == 2
            accepted[record[rx].id] = true;
            STORE_CONSUMED;
            KILL_POINT;
            rx = rx - 1;
#endif
            entry[i].id = record[rx].id;
            KILL_POINT;
            d_step { entry[i].submit_pos = rx; entry[i].sent = 0; entry[i].end_sent = false }
            decoded[i] = 0;
            KILL_POINT;
            d_step { entry[i].state = queued; accepted[record[rx].id] = true }
#if BUG == 2
            rx = rx + 1
#else
            KILL_POINT;
            STORE_CONSUMED
#endif
        :: true -> /* refuse */
            assert(!accepted[record[rx].id] && !was_refused[record[rx].id]);
            PUBLISH(refused, i, rx, none);
            was_refused[record[rx].id] = true;
            KILL_POINT;
            STORE_NEXT;
            KILL_POINT;
            STORE_CONSUMED
        fi;
        i = 0;
        KILL_POINT }
    :: atomic { rx < submitted && record[rx].op == cancel ->
        i = record[rx].index;
#if BUG == 7
        STORE_CONSUMED;
        KILL_POINT;
        rx = rx - 1;
#endif
        if
        :: entry[i].id == record[rx].id && (entry[i].state == queued || entry[i].state == running) ->
            entry[i].state = cancelled
        :: else
        fi;
        i = 0;
#if BUG == 7
        rx = rx + 1;
#else
        KILL_POINT;
        STORE_CONSUMED;
#endif
        KILL_POINT }
    :: atomic { rx < submitted && record[rx].op == release ->
        i = record[rx].index;
        if
        :: entry[i].id == record[rx].id && TERMINAL(i) && entry[i].end_sent ->
            entry[i].state = free
        :: else
        fi;
        i = 0;
        KILL_POINT;
        STORE_CONSUMED;
        KILL_POINT }
    :: atomic { (entry[0].state == queued || entry[0].state == running) -> i = 0; goto step }
    :: atomic { (entry[1].state == queued || entry[1].state == running) -> i = 1; goto step }
    :: atomic { TERMINAL(0) && !entry[0].end_sent -> i = 0; goto send_end }
    :: atomic { TERMINAL(1) && !entry[1].end_sent -> i = 1; goto send_end }
    od;
step:
    atomic {
    if
    :: entry[i].state == queued -> entry[i].state = running
    :: entry[i].state == running && decoded[i] < TOKENS && decoded[i] < entry[i].sent ->
        decoded[i] = decoded[i] + 1 /* sent by an earlier life */
    :: entry[i].state == running && decoded[i] < TOKENS && decoded[i] >= entry[i].sent ->
        if
        :: UNRESERVED ->
            /* a CANCEL that was consumed has taken effect */
            assert(cancel_pos >= consumed || cancel_id != entry[i].id);
#if BUG == 6
            entry[i].sent = decoded[i] + 1;
            KILL_POINT;
            PUBLISH(tokens, i, decoded[i], none);
            KILL_POINT;
            STORE_NEXT;
#elif BUG == 1
            PUBLISH(tokens, i, decoded[i], none);
            KILL_POINT;
            STORE_NEXT;
            KILL_POINT;
            entry[i].sent = decoded[i] + 1;
#else
            PUBLISH(tokens, i, decoded[i], none);
            KILL_POINT;
            entry[i].sent = decoded[i] + 1;
            KILL_POINT;
            STORE_NEXT;
#endif
            decoded[i] = decoded[i] + 1
        :: else -> skip /* the ring is full: this lane's programs pause */
        fi
    :: entry[i].state == running && decoded[i] == TOKENS ->
        assert(cancel_pos >= consumed || cancel_id != entry[i].id);
        PUBLISH(end_event, i, decoded[i], done);
        KILL_POINT;
        entry[i].state = done;
        KILL_POINT;
        entry[i].end_sent = true;
        KILL_POINT;
        STORE_NEXT
    fi;
    i = 0;
    KILL_POINT;
    goto serve
    };
send_end:
    atomic {
    PUBLISH(end_event, i, decoded[i], entry[i].state);
    KILL_POINT;
    entry[i].end_sent = true;
    i = 0;
    KILL_POINT;
    STORE_NEXT;
    KILL_POINT;
    goto serve
    }
}

inline push(what, which)
{
    d_step {
        record[submitted].op = what; record[submitted].id = which;
        record[submitted].index = INDEX_OF(which);
        submitted++
    }
}

proctype client()
{
    byte got0 = 0, got1 = 0; /* tokens of the program on entry 0, of that on entry 1 */
    byte upcoming = 1, on0 = 0, on1 = 0, id, at, open = 0, taken = 0;
    do
    :: atomic { upcoming < 3 || (upcoming == 3 && on0 == 0) ->
        push(submit, upcoming);
        if
        :: upcoming == 2 -> on1 = 2; got1 = 0
        :: else -> on0 = upcoming; got0 = 0
        fi;
        upcoming = (upcoming == 1 && KILLS > 1 -> 3 : upcoming + 1);
        open++ }
    :: atomic { cancel_id == 0 && on0 != 0 ->
        cancel_id = on0; cancel_pos = submitted; push(cancel, on0) }
    :: atomic { event[taken % EVENTS].seq == taken + 1 ->
        at = taken % EVENTS;
        id = (event[at].index == 0 -> on0 : on1);
        assert(id != 0 && !ended[id]);
        if
        :: event[at].kind == tokens && event[at].index == 0 ->
            assert(event[at].arg == got0); got0++
        :: event[at].kind == tokens && event[at].index == 1 ->
            assert(event[at].arg == got1); got1++
        :: event[at].kind == end_event ->
            assert(event[at].state == cancelled || (id == 2 -> got1 : got0) == TOKENS);
            assert(event[at].state != cancelled || cancel_id == id);
            push(release, id) /* maybe before the daemon has accounted for the END */
        :: event[at].kind == refused ->
            assert((id == 2 -> got1 : got0) == 0)
        fi;
        if
        :: event[at].kind != tokens ->
            ended[id] = true;
            open--;
            if :: id == 2 -> on1 = 0; got1 = 0 :: else -> on0 = 0; got0 = 0 fi
        :: else
        fi;
        id = 0; at = 0; taken++ }
    :: taken != client_consumed -> client_consumed = taken /* credit, at some time */
    :: upcoming == 4 && open == 0 && taken == client_consumed -> break
    od;
    /* finished: all answered once, every record consumed, all entries free again */
    consumed == submitted;
    assert(entry[0].state == free && entry[1].state == free);
    assert(accepted[1] + was_refused[1] == 1 && accepted[3] + was_refused[3] == 1);
    assert(accepted[2] + was_refused[2] == (KILLS > 1 -> 0 : 1))
}

init {
    atomic {
        entry[0].state = free; entry[1].state = free;
        run daemon(); run client()
    }
}
