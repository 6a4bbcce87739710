/* tests/models/bell.pml: the wake-up protocol of shm/bell.h loses no wake-up, in either direction,
 * over daemon restarts.
 * seeded bugs: 6
 *
 * Two ends, client (0) and daemon (1). Each publishes ITEMS records to the other and takes as many;
 * an end with nothing to do raises its need word, looks again and sleeps. Every store passes through
 * an explicit x86-TSO store buffer (first in, first out, drained by memory at any time or by a
 * fence). Need words are tickets: odd while asleep, only ever growing; a publisher remembers the odd
 * value that it answered. The client sleeps on a futex word whose value it read before its second
 * look; the daemon on an eventfd, whose count stays until it is seen.
 *
 * The daemon may be killed at any point, KILLS times: its store buffer drains (stores that retired
 * are not undone), everything private is gone, and the next life goes on from the words.
 *
 * A lost wake-up leaves an end asleep for ever: an invalid end state. Assertions: positions never go
 * back, and one ticket is answered once by one life of a publisher.
 *
 * BUG=1 the publisher's fence removed        BUG=2 the sleeper's fence removed
 * BUG=3 the second look removed              BUG=4 futex value read after the second look
 * BUG=5 the restarted daemon takes the need word it finds for answered and wakes nobody
 * BUG=6 the restarted daemon starts its ticket at 0 instead of going on from its word */
#ifndef BUG
#define BUG 0
#endif
#define ITEMS 2
#ifndef KILLS
#define KILLS 1
#endif
#define CLIENT 0
#define DAEMON 1

byte pub[2], need[2], taken_word; /* memory; taken_word: the daemon's `consumed` */
byte futex_word;                  /* the client's lane: + 1 at each wake */
bool eventfd;
byte kills;

/* store buffers: location 0 is pub, 1 is need, 2 is taken_word */
chan buffer[2] = [3] of { byte, byte };

inline drain_one(who)
{
    d_step {
        buffer[who] ? where, value;
        if
        :: where == 0 -> assert(value > pub[who]); pub[who] = value
        :: where == 1 -> need[who] = value
        :: where == 2 -> assert(value > taken_word); taken_word = value
        fi;
        where = 0; value = 0
    }
}

proctype memory(byte who)
{
    byte where, value;
end:
    do
    :: nempty(buffer[who]) -> drain_one(who)
    od
}

#define FENCE(who) empty(buffer[who])

/* A point where the daemon may die. */
#define KILL_POINT \
    if \
    :: me == DAEMON && kills < KILLS -> kills++; goto dead \
    :: skip \
    fi

proctype party(byte me)
{
    byte sent = 0, taken = 0, ticket = 0, answered = 0, seen, futex_seen;
    bool asleep = false;
    goto awake;
dead:
    empty(buffer[me]); /* what had retired reaches memory */
    atomic {
        sent = pub[me]; taken = taken_word; answered = 0; asleep = false; seen = 0;
        ticket = (BUG == 6 -> 0 : need[me]);
#if BUG == 5
        answered = need[1 - me]
#else
        futex_word++ /* step 5 of the re-attachment: wake every lane */
#endif
    }
awake:
    do
    :: sent == ITEMS && taken == ITEMS -> break
    :: taken < pub[1 - me] -> /* look, take */
        taken++;
        if
        :: me == DAEMON -> KILL_POINT; buffer[me] ! 2, taken; KILL_POINT
        :: else
        fi
    :: sent < ITEMS -> /* publish, fence, look at the need word, wake */
        buffer[me] ! 0, sent + 1;
        sent++;
        KILL_POINT;
#if BUG != 1
        FENCE(me);
#endif
        seen = need[1 - me];
        if
        :: seen % 2 == 1 && seen != answered ->
            assert(seen > answered); /* tickets only grow, so one is answered once */
            answered = seen;
            KILL_POINT;
            atomic {
                if
                :: me == DAEMON -> futex_word++
                :: else -> eventfd = true
                fi
            }
        :: else
        fi;
        seen = 0
    :: taken == pub[1 - me] && (sent == ITEMS || me == DAEMON) && taken < ITEMS ->
        /* raise, fence, second look, sleep */
#if BUG != 4
        futex_seen = futex_word;
#endif
        ticket = ticket + 1 + ticket % 2;
        buffer[me] ! 1, ticket;
        KILL_POINT;
#if BUG != 2
        FENCE(me);
#endif
        if
        :: BUG != 3 && taken != pub[1 - me] -> skip
        :: BUG == 3 || taken == pub[1 - me] ->
#if BUG == 4
            futex_seen = futex_word;
#endif
            if
            :: me == CLIENT -> futex_word != futex_seen
            :: me == DAEMON -> atomic { eventfd -> eventfd = false }
            :: me == DAEMON && kills < KILLS -> kills++; goto dead
            fi
        fi;
        futex_seen = 0;
        ticket = ticket + ticket % 2;
        buffer[me] ! 1, ticket; /* bell_lower: relaxed */
        KILL_POINT
    od
}

init {
    atomic {
        run memory(CLIENT); run memory(DAEMON);
        run party(CLIENT); run party(DAEMON)
    }
}
