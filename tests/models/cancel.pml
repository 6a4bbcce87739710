/* tests/models/cancel.pml: CANCEL against completion against RELEASE: a program ends exactly once,
 * nothing comes after its END, and an entry that is used again never mixes up two programs.
 * seeded bugs: 5
 *
 * Thread A of the client submits PROGRAMS programs one after the other on entry 0, each after it
 * pushed the RELEASE of the one before on the same lane. Thread B, on a lane of its own, sends CANCEL
 * and RELEASE for any program at any time: not yet submitted, running, ended, released long ago. The
 * engine computes a step on its own and answers some time later, even when its program was cancelled,
 * released and replaced meanwhile; the daemon takes records, posts steps and takes results.
 *
 * Shown by assertions in the client and the daemon, and by the absence of invalid end states (every
 * program ends; nobody waits for ever). Events carry their program id as a ghost: the wire's TOKENS
 * events name the entry only, and the client must still never be wrong about whose they are.
 *
 * BUG=1 CANCEL ignores program_id             BUG=2 a result is matched by entry, not by program
 * BUG=3 a cancelled program's result ends it again
 * BUG=4 RELEASE frees a program that has not ended
 * BUG=5 RELEASE ignores program_id, so a late one frees the next program */
#ifndef BUG
#define BUG 0
#endif
#define PROGRAMS 3
#define STEPS 2
#define STRAYS 3 /* records of thread B */

mtype = { submit, cancel, release, tokens, end_event };
mtype = { free, running, done, cancelled };

chan lane_a = [4] of { mtype, byte };
chan lane_b = [2] of { mtype, byte };
chan events = [3] of { mtype, byte }; /* kind, ghost id; credit is the room of the channel */

byte entry_id;
mtype entry_state = free;
byte in_flight = 0; /* program whose step the engine computes */
bool result = false;

byte submitted = 0;
byte ends[PROGRAMS + 1]; /* END events sent */
bool released[PROGRAMS + 1]; /* by thread A, after it saw END */

#define ACTIVE (entry_state == running)
#define TERMINAL (entry_state == done || entry_state == cancelled)

inline finish(how)
{
    assert(ends[entry_id] == 0); /* one terminal state, one END */
    entry_state = how;
    ends[entry_id]++;
    events ! end_event, entry_id
}

active proctype daemon()
{
    byte id, steps = 0;
end:
    do
    :: atomic { lane_a ? [submit, id] ->
        lane_a ? submit, id;
        assert(entry_state == free); /* else a violation of a client that is sound */
        entry_id = id; steps = 0; entry_state = running; id = 0 }
    :: atomic { lane_a ? release, id -> goto take_release }
    :: atomic { lane_b ? release, id -> goto take_release }
    :: atomic { lane_b ? [cancel, id] && nfull(events) ->
        lane_b ? cancel, id;
        if
        :: (entry_id == id || BUG == 1) && ACTIVE ->
            assert(entry_id == id); /* it ends whom the client named */
            finish(cancelled)
        :: else /* ended, or another program's entry: ignored */
        fi;
        id = 0 }
    :: atomic { ACTIVE && in_flight == 0 && !result -> in_flight = entry_id } /* post a step */
    :: atomic { result && nfull(events) -> /* a step's result */
        if
        :: (in_flight == entry_id || BUG == 2) && (ACTIVE || (BUG == 3 && TERMINAL)) ->
            assert(in_flight == entry_id); /* tokens of this program, not of the one before */
            steps++;
            if
            :: steps < STEPS -> events ! tokens, entry_id
            :: else -> finish(done)
            fi
        :: else /* cancelled meanwhile: the result is dropped */
        fi;
        result = false; in_flight = 0 }
    od;
take_release:
    atomic {
        if
        :: (entry_id == id || BUG == 5) && (TERMINAL || (BUG == 4 && ACTIVE)) ->
            assert(entry_id == id && ends[id] == 1);
            entry_state = free
        :: else
        fi;
        id = 0;
        goto end
    }
}

active proctype engine()
{
end:
    do
    :: atomic { in_flight != 0 && !result -> result = true }
    od
}

active proctype client_a()
{
    byte current = 0, id;
    bool ended = true;
    do
    :: atomic { ended && submitted < PROGRAMS && nfull(lane_a) ->
        submitted++; current = submitted; ended = false;
        lane_a ! submit, current }
    :: atomic { events ? tokens, id ->
        assert(id == current && !ended) /* of the program we think, and before its END */; id = 0 }
    :: atomic { events ? end_event, id ->
        assert(id == current && !ended);
        ended = true; id = 0 }
       lane_a ! release, current;
       released[current] = true
    :: ended && submitted == PROGRAMS && released[PROGRAMS] -> break
    od;
    empty(lane_a) && entry_state == free; /* the last RELEASE takes effect */
    assert(empty(events) && ends[1] == 1 && ends[2] == 1 && ends[3] == 1)
}

active proctype client_b()
{
    byte count = 0, id;
    do
    :: count < STRAYS ->
        select(id : 1 .. PROGRAMS);
        if
        :: lane_b ! cancel, id
        :: lane_b ! release, id
        fi;
        count++
    :: break
    od
}
