#include "tests/lib/attack.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LANES = 2, ARENA_BYTES = 65536, SESSION_ACTIONS = 20000 };

const char *const attack_names[ATTACK_MODES] = {
    "scribble",    "flip",       "punch", "doorbell", "handshake",
    "descriptors", "never-read", "needs", "replay",
};

struct attacker {
    const struct attack *attack;
    struct attack_counts *counts;
    struct rng rng;
    struct raw_session session;
};

static void count(uint64_t *counter)
{
    shm_store_u64(counter, *counter + 1); /* one writer */
}

/* Opens a session, however long that takes: quotas and limits may refuse it for a while. */
static void open_session(struct attacker *a)
{
    for (;;) {
        int r = raw_open(&a->session, a->attack->socket_path, LANES, ARENA_BYTES);
        if (r == 0)
            break;
        if (r > 0)
            count(&a->counts->refusals);
        sleep_ns(NS_PER_MS + rng_below(&a->rng, NS_PER_MS));
    }
    count(&a->counts->sessions);
}

static void close_session(struct attacker *a)
{
    if (raw_hung_up(&a->session))
        count(&a->counts->byes);
    raw_close(&a->session);
}

/* A correct submission of a random kind, so that what follows meets a daemon at work. */
static void submit_some(struct attacker *a, uint32_t max_tokens)
{
    union wire_record record;
    uint64_t id = ++a->session.program_id;

    raw_submit_record(&record, (uint32_t)(id % DYNASOR_PROGRAMS_MAX), id, rng_next(&a->rng),
                      max_tokens);
    if (rng_next(&a->rng) & 1) { /* the prompt in the arena */
        struct wire_spec spec = {.spec_bytes = sizeof spec};
        uint64_t offset = rng_below(&a->rng, ARENA_BYTES / 128) * 64;
        uint8_t *payload = a->session.c2d + a->session.reply.geometry.c2d_arena_off + offset;
        uint32_t prompt_bytes = 1 + (uint32_t)rng_below(&a->rng, ARENA_BYTES / 4);
        memcpy(payload, &spec, sizeof spec);
        memset(payload + sizeof spec, 'x', prompt_bytes);
        record.submit.flags = WIRE_SUBMIT_PAYLOAD;
        memset(&record.submit.u, 0, sizeof record.submit.u);
        record.submit.u.payload.offset = offset;
        record.submit.bytes = (uint32_t)sizeof spec + prompt_bytes;
    }
    (void)raw_push(&a->session, (uint32_t)rng_below(&a->rng, LANES), &record);
    raw_ring(&a->session);
}

/* Goes on where the daemon is: what lay in the rings beyond that has been destroyed. */
static void resume_rings(struct attacker *a)
{
    struct raw_session *s = &a->session;

    for (uint32_t i = 0; i < LANES; i++) {
        uint64_t consumed = shm_load_acquire_u64(
            &region_d2c_lane((void *)(uintptr_t)s->d2c, &s->reply.geometry, i)->consumed);
        ring_tx_init(&s->submit[i], s->submit[i].slots, s->reply.geometry.sub_slots, consumed,
                     consumed);
    }
}

static void scribble(struct attacker *a)
{
    const struct wire_geometry *g = &a->session.reply.geometry;
    uint64_t *words = (uint64_t *)(void *)a->session.c2d;
    /* Part of the sessions spare the lane lines and sequences, and so live longer. */
    uint64_t kind = rng_below(&a->rng, 4);

    for (int i = 0; i < SESSION_ACTIONS && !raw_hung_up(&a->session); i++) {
        if (i % 64 == 0)
            submit_some(a, 8);
        for (int j = 0; j < 64; j++) {
            uint64_t at = rng_below(&a->rng, g->c2d_bytes / 8);
            if (kind == 0 && at * 8 < g->c2d_arena_off)
                at += g->c2d_arena_off / 8;
            if (kind == 1 && at * 8 < g->c2d_arena_off && at % 8 == 7)
                at--;
            if (at < g->c2d_bytes / 8)
                shm_store_u64(&words[at], rng_next(&a->rng));
        }
        if (kind == 2)
            rng_fill(&a->rng, a->session.c2d, g->c2d_bytes);
        count(&a->counts->actions);
        if (i % 16 == 0)
            raw_ring(&a->session);
    }
}

/* ---- flips -------------------------------------------------------------------------------------- */

/* What the flipping thread works on; word NULL: nothing. */
struct flipper {
    uint64_t *word;
    uint64_t good, bad;
    uint64_t generation;
    uint64_t flipping; /* the generation that flips now */
    bool stop;
};

static void *flip_words(void *argument)
{
    struct flipper *f = argument;

    cpu_keep(cpu_count() - 1); /* where the daemon is not, when its test keeps it on the first */
    while (!__atomic_load_n(&f->stop, __ATOMIC_ACQUIRE)) {
        uint64_t generation = __atomic_load_n(&f->generation, __ATOMIC_ACQUIRE);
        uint64_t *word = __atomic_load_n(&f->word, __ATOMIC_ACQUIRE);
        if (!word)
            shm_pause();
        shm_store_release_u64(&f->flipping, generation);
        while (word && __atomic_load_n(&f->generation, __ATOMIC_ACQUIRE) == generation) {
            uint64_t good = shm_load_u64(&f->good), bad = shm_load_u64(&f->bad);
            for (int i = 0; i < 64; i++) {
                shm_store_u64(word, bad);
                for (uint64_t j = generation % 7; j > 0; j--)
                    shm_pause();
                shm_store_u64(word, good);
            }
        }
    }
    return NULL;
}

/* Which word of a record flips, and to what. */
static void choose_flip(struct attacker *a, struct flipper *f, struct ring_slot *slot,
                        const union wire_record *record)
{
    union wire_record bad = *record;
    uint32_t word = 0;

    switch (rng_below(&a->rng, 6)) {
    case 0:
        bad.submit.op = (uint8_t)(WIRE_OP_COMMAND + rng_below(&a->rng, 252));
        break;
    case 1:
        bad.submit.index = (uint32_t)rng_next(&a->rng) | 0x200;
        break;
    case 2:
        bad.submit.bytes = (uint32_t)rng_next(&a->rng) | 0x80000000u;
        word = 3;
        break;
    case 3:
        bad.submit.bytes = (uint32_t)rng_below(&a->rng, 1u << 24);
        word = 3;
        break;
    case 4:
        bad.submit.u.payload.offset = rng_next(&a->rng);
        word = 4;
        break;
    default:
        bad.submit.op = WIRE_OP_SUBMIT + WIRE_OP_RELEASE - bad.submit.op;
        bad.submit.index = (uint32_t)rng_next(&a->rng);
        break;
    }
    shm_store_u64(&f->good, record->word[word]);
    shm_store_u64(&f->bad, bad.word[word]);
    __atomic_store_n(&f->word, &slot->word[word], __ATOMIC_RELEASE);
    __atomic_add_fetch(&f->generation, 1, __ATOMIC_RELEASE);
}

/* Pushes one record after the other, and flips a word of each from before it is published until the
 * daemon has acted on it. */
static void flip_session(struct attacker *a, struct flipper *f)
{
    struct raw_session *s = &a->session;
    const struct region_d2c_lane *lane =
        region_d2c_lane((void *)(uintptr_t)s->d2c, &s->reply.geometry, 0);
    union wire_record record;

    for (int i = 0; i < SESSION_ACTIONS && !raw_hung_up(s); i++) {
        uint64_t id = ++s->program_id;
        uint32_t index = (uint32_t)(id % DYNASOR_PROGRAMS_MAX);
        if (id > 64 && id % 2 == 0) {
            raw_op_record(&record, WIRE_OP_CANCEL, index, id - 1);
        } else {
            raw_submit_record(&record, index, id, id, 4);
            record.submit.flags = WIRE_SUBMIT_PAYLOAD;
            memset(&record.submit.u, 0, sizeof record.submit.u);
            record.submit.bytes = sizeof(struct wire_spec) + 32;
            struct wire_spec spec = {.spec_bytes = sizeof spec};
            memcpy(s->c2d + s->reply.geometry.c2d_arena_off, &spec, sizeof spec);
            memset(s->c2d + s->reply.geometry.c2d_arena_off + sizeof spec, 'y', 32);
        }
        uint64_t pos = s->submit[0].pos;
        choose_flip(a, f, &s->submit[0].slots[pos & s->submit[0].mask], &record);
        uint64_t deadline = now_ns() + 2 * NS_PER_MS;
        while (shm_load_acquire_u64(&f->flipping) != f->generation && now_ns() < deadline)
            shm_pause(); /* published before it flips, the record would be read too soon */
        if (!raw_push(s, 0, &record))
            break;
        raw_ring(s);
        count(&a->counts->actions);
        /* Asleep: one processor is the daemon's, the other that of the thread that flips. */
        while (shm_load_acquire_u64(&lane->consumed) <= pos && now_ns() < deadline)
            sleep_ns(5000);
        ring_rx_init(&s->events[0], s->events[0].slots, s->reply.geometry.event_slots,
                     shm_load_acquire_u64(&lane->next));
        ring_rx_publish(&s->events[0], &region_c2d_lane(s->c2d, 0)->consumed);
    }
    __atomic_store_n(&f->word, NULL, __ATOMIC_RELEASE);
    __atomic_add_fetch(&f->generation, 1, __ATOMIC_RELEASE);
}

static void flip(struct attacker *a)
{
    struct flipper f = {0};
    pthread_t thread;

    (void)prctl(PR_SET_TIMERSLACK, 1); /* so that short sleeps are short */
    if (pthread_create(&thread, NULL, flip_words, &f) != 0)
        return;
    flip_session(a, &f);
    __atomic_store_n(&f.stop, true, __ATOMIC_RELEASE);
    (void)pthread_join(thread, NULL); /* before the region is unmapped */
}

/* ---- system calls on what was handed out -------------------------------------------------------- */

static void punch(struct attacker *a)
{
    struct raw_session *s = &a->session;
    const struct wire_geometry *g = &s->reply.geometry;

    for (int i = 0; i < SESSION_ACTIONS && !raw_hung_up(s); i++) {
        int fd = rng_below(&a->rng, 8) == 0 ? s->d2c_fd : s->c2d_fd;
        off_t at = (off_t)rng_below(&a->rng, g->c2d_bytes) & ~4095;
        if (i % 8 == 0)
            submit_some(a, 8);
        switch (rng_below(&a->rng, 6)) {
        case 0:
            (void)!ftruncate(fd, (off_t)rng_below(&a->rng, 2 * g->c2d_bytes));
            break;
        case 1:
            (void)fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL);
            break;
        case 2:
            (void)fallocate(fd, 0, 0, (off_t)(g->c2d_bytes * 2));
            break;
        case 3:
            (void)madvise(s->c2d + at, 4096, MADV_REMOVE);
            break;
        default:
            (void)fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, 16384);
            break;
        }
        raw_ring(s);
        if (i % 32 == 31)
            resume_rings(a);
        count(&a->counts->actions);
    }
}

static void doorbell(struct attacker *a)
{
    static const uint64_t most = UINT64_MAX - 1;
    struct raw_session *s = &a->session;
    uint64_t value;

    /* The flags belong to the open file, which the daemon shares. */
    (void)fcntl(s->bell_fd, F_SETFL, rng_next(&a->rng) & 1 ? O_RDWR : O_RDWR | O_NONBLOCK);
    submit_some(a, 8);
    for (int i = 0; i < SESSION_ACTIONS * 10 && !raw_hung_up(s); i++) {
        int flags = fcntl(s->bell_fd, F_GETFL);
        switch (i / 1000 % 4) {
        case 0:
            raw_ring_rudely(s);
            break;
        case 1: /* fills it; our own write must not block for ever */
            (void)fcntl(s->bell_fd, F_SETFL, O_RDWR | O_NONBLOCK);
            (void)!write(s->bell_fd, &most, sizeof most);
            (void)fcntl(s->bell_fd, F_SETFL, flags);
            break;
        case 2:
            (void)fcntl(s->bell_fd, F_SETFL, O_RDWR | O_NONBLOCK);
            (void)!read(s->bell_fd, &value, sizeof value);
            (void)fcntl(s->bell_fd, F_SETFL, O_RDWR);
            break;
        default:
            (void)fcntl(s->bell_fd, F_SETFL, O_RDWR | O_NONBLOCK);
            (void)!read(s->bell_fd, &value, sizeof value);
            raw_ring_rudely(s);
            break;
        }
        count(&a->counts->actions);
    }
}

/* ---- handshakes and messages ---------------------------------------------------------------------- */

/* Half a hello, none, or one too many; then gone, or silent until the daemon gives up. */
static void handshake(struct attacker *a)
{
    uint8_t bytes[4096];
    struct wire_hello hello;

    raw_hello(&hello, (uint32_t)rng_below(&a->rng, 20), 1ull << rng_below(&a->rng, 64));
    rng_fill(&a->rng, bytes, sizeof bytes);
    size_t length = rng_below(&a->rng, 200);
    switch (rng_below(&a->rng, 6)) {
    case 0: /* noise of any length */
        length = rng_below(&a->rng, sizeof bytes);
        break;
    case 1: /* the right magic and versions before the noise */
        memcpy(bytes, &hello, 16);
        break;
    case 2:
        memcpy(bytes, &hello, sizeof hello);
        length = sizeof hello;
        bytes[rng_below(&a->rng, sizeof hello)] ^= (uint8_t)(1u << rng_below(&a->rng, 8));
        break;
    case 3:
        hello.version_min = (uint16_t)rng_next(&a->rng);
        hello.version_max = (uint16_t)rng_next(&a->rng);
        memcpy(bytes, &hello, sizeof hello);
        length = sizeof hello;
        break;
    default: /* cut short */
        memcpy(bytes, &hello, sizeof hello);
        length = rng_below(&a->rng, sizeof hello);
        break;
    }
    int fd = raw_connect(a->attack->socket_path);
    if (fd < 0) {
        sleep_ns(NS_PER_MS);
        return;
    }
    if (rng_below(&a->rng, 8) != 0)
        (void)!send(fd, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (rng_next(&a->rng) & 1 && recv(fd, bytes, sizeof bytes, 0) > 0)
        count(&a->counts->refusals);
    (void)close(fd);
    count(&a->counts->actions);
}

/* Descriptors along with the hello, and with bytes that no client may send after it. */
static void descriptors(struct attacker *a)
{
    enum { FDS = 250 };
    struct wire_hello hello;
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(FDS * sizeof(int))];
    } control = {0};
    struct iovec iov = {&hello, sizeof hello};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    int fds[FDS];

    raw_hello(&hello, 1, DYNASOR_ARENA_BYTES_MIN);
    control.head.cmsg_level = SOL_SOCKET;
    control.head.cmsg_type = SCM_RIGHTS;
    control.head.cmsg_len = CMSG_LEN(sizeof fds);
    int fd = raw_connect(a->attack->socket_path);
    if (fd < 0) {
        sleep_ns(NS_PER_MS);
        return;
    }
    /* Of itself now and then: the kernel has to find the cycle when they are dropped. */
    bool cycle = rng_below(&a->rng, 8) == 0;
    for (int i = 0; i < FDS; i++)
        fds[i] = cycle ? fd : STDERR_FILENO;
    memcpy(CMSG_DATA(&control.head), fds, sizeof fds);
    /* One after the other until the daemon hangs up, or the kernel says that too many are under way:
     * then the daemon has not read the ones before. From Linux 6.16 on the kernel refuses them all. */
    for (int i = 0; i < 64; i++) {
        count(&a->counts->actions);
        if (sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno != EPERM)
            break;
    }
    sleep_ns(rng_below(&a->rng, NS_PER_MS));
    (void)close(fd);
}

static void never_read(struct attacker *a)
{
    for (int i = 0; i < SESSION_ACTIONS && !raw_hung_up(&a->session); i++) {
        submit_some(a, 1000);
        count(&a->counts->actions);
        if (i > 64)
            sleep_ns(NS_PER_MS);
    }
}

static void needs(struct attacker *a)
{
    struct raw_session *s = &a->session;
    uint32_t ticket = 0;

    for (int i = 0; i < SESSION_ACTIONS && !raw_hung_up(s); i++) {
        struct region_c2d_lane *lane = region_c2d_lane(s->c2d, (uint32_t)i % LANES);
        /* WAKE messages pile up unread in the socket, then futex wakes of nobody. */
        shm_store_u32(&lane->need_kind,
                      i % 16 == 0 ? (uint32_t)rng_next(&a->rng) : (uint32_t)i / 64 % 2);
        ticket += 2;
        shm_store_u32(&lane->need, ticket | 1);
        if (i % 32 == 0)
            submit_some(a, 200);
        if (i % 1024 == 1023) /* an impossible position, at last */
            shm_store_u64(&lane->consumed, rng_next(&a->rng));
        count(&a->counts->actions);
    }
}

static void replay(struct attacker *a)
{
    static uint8_t old[1u << 20];
    const struct wire_geometry *g = &a->session.reply.geometry;

    if (g->c2d_bytes > sizeof old)
        return;
    for (int i = 0; i < 8; i++)
        submit_some(a, 8);
    memcpy(old, a->session.c2d, g->c2d_bytes);
    for (int i = 0; i < SESSION_ACTIONS && !raw_hung_up(&a->session); i++) {
        submit_some(a, 8);
        if (i % 16 == 15) {
            memcpy(a->session.c2d, old, g->c2d_bytes);
            resume_rings(a);
        }
        raw_ring(&a->session);
        count(&a->counts->actions);
    }
}

int attack_run(void *argument)
{
    static void (*const attacks[ATTACK_MODES])(struct attacker *) = {
        scribble, flip, punch, doorbell, handshake, descriptors, never_read, needs, replay,
    };
    const struct attack *attack = argument;
    struct attacker a = {.attack = attack, .counts = attack->counts, .rng = {attack->seed}};

    if (attack->folder)
        become_uid(attack->uid, attack->folder);
    for (;;) {
        bool own_handshake = attack->mode == ATTACK_HANDSHAKE || attack->mode == ATTACK_DESCRIPTORS;
        if (!own_handshake)
            open_session(&a);
        attacks[attack->mode](&a);
        if (!own_handshake)
            close_session(&a);
    }
}

__attribute__((noreturn)) static void *burn(void *unused)
{
    (void)unused;
    for (;;)
        shm_fence_compiler();
}

int burn_run(void *argument)
{
    const struct attack *attack = argument;
    pthread_t thread;

    if (attack->folder)
        become_uid(attack->uid, attack->folder);
    if (attack->mode == ATTACK_FLIP && pthread_create(&thread, NULL, burn, NULL) != 0)
        return 1;
    burn(NULL);
}
