/* tests/lib/attack.h — clients that break every rule, one process each.
 *
 * An attack goes on until it is killed: it opens a session, does its damage at full speed, and
 * connects anew when the daemon throws it out. Everything it does follows from its seed and the
 * scheduler. What it achieved is counted, so that a test can tell an attack from a failed connect. */
#pragma once
#include "tests/lib/raw.h"

enum attack_mode {
    ATTACK_SCRIBBLE = 0,    /* random bytes everywhere in the writable region */
    ATTACK_FLIP = 1,        /* one word of a record flips, from another core, while it is read */
    ATTACK_PUNCH = 2,       /* holes, truncation, growth, seals on both regions */
    ATTACK_DOORBELL = 3,    /* filled, emptied, made blocking, rung without end */
    ATTACK_HANDSHAKE = 4,   /* hellos of random bytes and lengths, half of them broken off */
    ATTACK_DESCRIPTORS = 5, /* descriptors sent along, bytes after the hello */
    ATTACK_NEVER_READ = 6,  /* submits all it may and takes no event */
    ATTACK_NEEDS = 7,       /* asks to be woken all the time, in both ways, and never sleeps */
    ATTACK_REPLAY = 8,      /* puts old contents of the whole region back */
    ATTACK_MODES = 9,
};

extern const char *const attack_names[ATTACK_MODES];

/* Shared with the test; each attack has its own. */
struct attack_counts {
    uint64_t sessions; /* handshakes that gave a session */
    uint64_t refusals; /* handshakes answered with a status */
    uint64_t byes;     /* sessions that the daemon ended */
    uint64_t actions;  /* bad things done */
    uint8_t pad[96];
};

struct attack {
    enum attack_mode mode;
    const char *socket_path;
    const char *folder; /* to work in, and to become uid in; NULL: stay */
    uid_t uid;
    uint64_t seed;
    struct attack_counts *counts;
};

/* For child_start(); argument is a struct attack. Never returns. */
int attack_run(void *argument);

/* A process with as many threads as the attack's that only burns CPU, as the same uid. */
int burn_run(void *argument);
