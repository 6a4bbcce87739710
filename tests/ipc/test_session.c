/* tests/ipc/test_session.c: the wire, rule by rule, against a live daemon (docs/ABI.md).
 *
 * Versions and features are negotiated before anything else is read; the regions are what the reply
 * says; an argument outside its range is refused with status, field, range and value, and the session
 * goes on; a record that no library writes ends the session with a BYE that names the field. Cancel
 * and release do what they say at every stage of a program. */
/* timeout: 60 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dynasor/client.h"
#include "tests/lib/daemon.h"
#include "tests/lib/raw.h"

enum { ARENA = 65536, MAX_TOKENS = 5000, PROMPT_MAX = 1000 };

static const char *path; /* of the daemon's socket */

/* ---- hello -------------------------------------------------------------------------------------- */

struct greeting {
    const char *what;
    struct wire_hello hello;
    size_t bytes;
    int status;
    enum dynasor_field field;
    uint64_t lo, hi, got;
};

#define HELLO(...)                                                                                 \
    {                                                                                              \
        .magic = WIRE_MAGIC, .version_min = 1, .version_max = 1, .lanes_count = 1,                 \
        .arena_bytes = 4096, .client_uuid = {1}, __VA_ARGS__                                       \
    }
#define WHOLE sizeof(struct wire_hello)

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Woverride-init" /* that is how a row differs from a good hello */
#ifdef __clang__
#pragma GCC diagnostic ignored "-Winitializer-overrides"
#endif
static const struct greeting greetings[] = {
    {"version 1", HELLO(.reserved0 = 0), WHOLE, 0, 0, 0, 0, 0},
    {"versions 0 to 1", HELLO(.version_min = 0), WHOLE, 0, 0, 0, 0, 0},
    {"versions 1 to 9", HELLO(.version_max = 9), WHOLE, 0, 0, 0, 0, 0},
    {"versions 0 to 65535", HELLO(.version_min = 0, .version_max = 65535), WHOLE, 0, 0, 0, 0, 0},
    {"version 0", HELLO(.version_min = 0, .version_max = 0), WHOLE, DYNASOR_E_VERSION,
     DYNASOR_FIELD_VERSION, 1, 1, 0},
    {"versions 2 to 9", HELLO(.version_min = 2, .version_max = 9), WHOLE, DYNASOR_E_VERSION,
     DYNASOR_FIELD_VERSION, 1, 1, 9},
    {"versions 9 to 1", HELLO(.version_min = 9), WHOLE, DYNASOR_E_VERSION, DYNASOR_FIELD_VERSION, 1,
     1, 1},
    /* Another version may have another size and other rules: only that is said. */
    {"version 2, cut short", HELLO(.version_min = 2, .version_max = 2), 16, DYNASOR_E_VERSION,
     DYNASOR_FIELD_VERSION, 1, 1, 2},
    {"version 2, nonsense", HELLO(.version_min = 2, .version_max = 2, .lanes_count = 999), WHOLE,
     DYNASOR_E_VERSION, DYNASOR_FIELD_VERSION, 1, 1, 2},
    {"a feature wanted, unknown", HELLO(.features_wanted = 1ull << 40), WHOLE, 0, 0, 0, 0, 0},
    {"a feature required, known", HELLO(.features_required = 3), WHOLE, 0, 0, 0, 0, 0},
    {"a feature required, unknown", HELLO(.features_required = 1ull << 40), WHOLE,
     DYNASOR_E_VERSION, DYNASOR_FIELD_FEATURES, 0, WIRE_FEATURES_KNOWN, 1ull << 40},
    {"no lane", HELLO(.lanes_count = 0), WHOLE, DYNASOR_E_INVALID, DYNASOR_FIELD_LANES, 1, 16, 0},
    {"17 lanes", HELLO(.lanes_count = 17), WHOLE, DYNASOR_E_INVALID, DYNASOR_FIELD_LANES, 1, 16,
     17},
    {"16 lanes", HELLO(.lanes_count = 16), WHOLE, 0, 0, 0, 0, 0},
    {"no arena", HELLO(.arena_bytes = 0), WHOLE, DYNASOR_E_INVALID, DYNASOR_FIELD_ARENA_BYTES, 4096,
     DYNASOR_ARENA_BYTES_MAX, 0},
    {"a small arena", HELLO(.arena_bytes = 2048), WHOLE, DYNASOR_E_INVALID,
     DYNASOR_FIELD_ARENA_BYTES, 4096, DYNASOR_ARENA_BYTES_MAX, 2048},
    {"an arena of 12288", HELLO(.arena_bytes = 12288), WHOLE, DYNASOR_E_INVALID,
     DYNASOR_FIELD_ARENA_BYTES, 4096, DYNASOR_ARENA_BYTES_MAX, 12288},
    {"a large arena", HELLO(.arena_bytes = 1ull << 27), WHOLE, DYNASOR_E_INVALID,
     DYNASOR_FIELD_ARENA_BYTES, 4096, DYNASOR_ARENA_BYTES_MAX, 1ull << 27},
    {"the largest arena", HELLO(.arena_bytes = DYNASOR_ARENA_BYTES_MAX), WHOLE, 0, 0, 0, 0, 0},
    {"another magic", HELLO(.magic = 77), WHOLE, DYNASOR_E_PROTOCOL, DYNASOR_FIELD_HELLO,
     WIRE_MAGIC, WIRE_MAGIC, 77},
    {"cut short", HELLO(.lanes_count = 1), 40, DYNASOR_E_PROTOCOL, DYNASOR_FIELD_HELLO, 64, 64, 40},
    {"reserved", HELLO(.reserved1 = 5), WHOLE, DYNASOR_E_PROTOCOL, DYNASOR_FIELD_RECORD_RESERVED, 0,
     0, 5},
};
#pragma GCC diagnostic pop

static void check_fault(const char *what, const struct wire_fault *f, int status,
                        enum dynasor_field field, const uint64_t lo_hi_got[3])
{
    CHECK(f->status == status && f->field == field && f->lo == lo_hi_got[0] &&
              f->hi == lo_hi_got[1] && f->got == lo_hi_got[2],
          "%s: %s, %s, %" PRIu64 " .. %" PRIu64 ", got %" PRIu64 "; expected %s, %s, %" PRIu64
          " .. %" PRIu64 ", got %" PRIu64,
          what, dynasor_status_name(f->status), dynasor_field_name(f->field), f->lo, f->hi, f->got,
          dynasor_status_name(status), dynasor_field_name((int)field), lo_hi_got[0], lo_hi_got[1],
          lo_hi_got[2]);
}

static void check_regions(const struct raw_session *s, const struct wire_hello *hello)
{
    const struct region_d2c_header *h = (const struct region_d2c_header *)(const void *)s->d2c;
    struct wire_geometry g;

    region_geometry_init(&g, hello->lanes_count, hello->arena_bytes);
    CHECK(memcmp(&g, &s->reply.geometry, sizeof g) == 0, "another geometry");
    CHECK(region_verify_c2d(s->c2d_fd, &g) == 0, "C2D is not sealed or not of its size");
    CHECK(region_verify_d2c(s->d2c_fd, g.d2c_bytes) == 0, "D2C is not what it should be");
    CHECK((fcntl(s->d2c_fd, F_GETFL) & O_ACCMODE) == O_RDONLY, "D2C is open for writing");
    CHECK(s->reply.layout_hash == wire_layout_hash() && h->layout_hash == wire_layout_hash(),
          "another layout");
    CHECK(shm_load_acquire_u64(&h->magic) == REGION_MAGIC && h->version == s->reply.version &&
              h->slot == s->reply.slot && h->features == s->reply.features &&
              h->owner.generation == s->reply.generation &&
              memcmp(&h->geometry, &g, sizeof g) == 0 &&
              memcmp(h->client_uuid, hello->client_uuid, sizeof h->client_uuid) == 0,
          "the header of D2C differs from the reply");
    CHECK(s->reply.max_tokens_max == MAX_TOKENS && s->reply.prompt_bytes_max == PROMPT_MAX,
          "limits %u, %" PRIu64, s->reply.max_tokens_max, s->reply.prompt_bytes_max);
    CHECK((s->reply.features & ~(hello->features_wanted | hello->features_required)) == 0 &&
              (s->reply.features & ~WIRE_FEATURES_KNOWN) == 0,
          "features %" PRIx64 " are in force", s->reply.features);
}

static void test_hello(void)
{
    for (size_t i = 0; i < COUNT_OF(greetings); i++) {
        const struct greeting *g = &greetings[i];
        struct raw_session s;
        int r = raw_open_with(&s, path, &g->hello, g->bytes);
        CHECK(r == g->status, "%s: %d (%s)", g->what, r,
              r < 0 ? strerror(-r) : dynasor_status_name(r));
        CHECK(s.reply.version == WIRE_VERSION_MAX && s.reply.version_min == WIRE_VERSION_MIN,
              "%s: the reply is of version %u", g->what, s.reply.version);
        if (r == 0)
            check_regions(&s, &g->hello);
        else
            check_fault(g->what, &s.reply.fault, g->status, g->field,
                        (const uint64_t[3]){g->lo, g->hi, g->got});
        raw_close(&s);
    }
}

static ssize_t send_descriptor(int fd)
{
    char byte = 0;
    struct iovec iov = {&byte, 1};
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(sizeof fd)];
    } control = {0};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};

    control.head.cmsg_level = SOL_SOCKET;
    control.head.cmsg_type = SCM_RIGHTS;
    control.head.cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
    return sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Where the kernel can (Linux 6.16), it refuses a client's descriptors for us: on both sockets, also
 * on a connection that waits to be accepted. */
static void test_descriptors(const struct test_daemon *d)
{
    const char *paths[] = {d->socket_path, d->control_path};
    int pair[2], off = 0;

    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
    bool known = setsockopt(pair[0], SOL_SOCKET, 83 /* SO_PASSRIGHTS */, &off, sizeof off) == 0;
    (void)close(pair[0]);
    (void)close(pair[1]);
    for (size_t i = 0; known && i < COUNT_OF(paths); i++) {
        int fd = raw_connect(paths[i]);
        CHECK(fd >= 0, "connect to %s", paths[i]);
        CHECK(send_descriptor(fd) < 0 && errno == EPERM, "%s takes descriptors", paths[i]);
        (void)close(fd);
    }
}

/* ---- records ------------------------------------------------------------------------------------ */

struct bad_record {
    const char *what;
    void (*spoil)(union wire_record *record, uint8_t *arena);
    int status; /* PROTOCOL: the session ends; otherwise the answer is REFUSED */
    enum dynasor_field field;
    uint64_t lo, hi, got;
};

static void to_payload(union wire_record *r, uint8_t *arena, uint32_t prompt_bytes)
{
    struct wire_spec spec = {.spec_bytes = WIRE_SPEC_BYTES_MIN}; /* the least that is one */

    memcpy(arena, &spec, WIRE_SPEC_BYTES_MIN);
    memset(arena + WIRE_SPEC_BYTES_MIN, 'q', prompt_bytes);
    r->submit.flags |= WIRE_SUBMIT_PAYLOAD;
    memset(&r->submit.u, 0, sizeof r->submit.u);
    r->submit.bytes = WIRE_SPEC_BYTES_MIN + prompt_bytes;
}

#define SPOIL(name, ...)                                                                           \
    static void name(union wire_record *r, uint8_t *arena)                                         \
    {                                                                                              \
        (void)arena;                                                                               \
        __VA_ARGS__                                                                                \
    }
SPOIL(tokens_0, r->submit.max_tokens = 0;)
SPOIL(tokens_many, r->submit.max_tokens = MAX_TOKENS + 1;)
SPOIL(tokens_most, r->submit.max_tokens = UINT32_MAX;)
SPOIL(algorithm_9, r->submit.algorithm = 9;)
SPOIL(streams_0, r->submit.streams = 0;)
SPOIL(streams_8, r->submit.streams = 8;)
SPOIL(prompt_empty, r->submit.bytes = 0; memset(&r->submit.u, 0, sizeof r->submit.u);)
SPOIL(prompt_utf8, r->submit.u.prompt[3] = 0xff;)
SPOIL(prompt_cut, r->submit.u.prompt[r->submit.bytes - 1] = 0xc3;)
SPOIL(prompt_long, to_payload(r, arena, PROMPT_MAX + 1);)
SPOIL(prompt_longest, to_payload(r, arena, ARENA - 16);)
SPOIL(prompt_none, to_payload(r, arena, 0);)
SPOIL(tokens_odd, r->submit.flags = WIRE_SUBMIT_PROMPT_TOKENS; r->submit.bytes = 6;
      memset(&r->submit.u, 0, sizeof r->submit.u);)
SPOIL(tokens_big, r->submit.flags = WIRE_SUBMIT_PROMPT_TOKENS; r->submit.bytes = 8;
      memset(&r->submit.u, 0, sizeof r->submit.u); r->submit.u.prompt[7] = 0x7f;)
SPOIL(spec_small, to_payload(r, arena, 100); arena[0] = 8;)
SPOIL(spec_odd, to_payload(r, arena, 100); arena[0] = 20;)
SPOIL(spec_large, to_payload(r, arena, 100); arena[1] = 0x10;)
SPOIL(spec_newer, to_payload(r, arena, 100); arena[0] = 72;)
SPOIL(resume_tokens, to_payload(r, arena, 100); arena[4] = 0xff; arena[5] = 0xff;)
SPOIL(resume_text, to_payload(r, arena, 100); arena[15] = 1;)
SPOIL(op_0, r->submit.op = 0;)
SPOIL(op_5, r->submit.op = 5;)
SPOIL(index_512, r->submit.index = DYNASOR_PROGRAMS_MAX;)
SPOIL(index_most, r->submit.index = UINT32_MAX;)
SPOIL(id_0, r->submit.program_id = 0;)
SPOIL(flags_4, r->submit.flags = 4;)
SPOIL(flags_8, r->submit.flags = 8;)
SPOIL(inline_25, r->submit.bytes = 25;)
SPOIL(inline_tail, r->submit.u.prompt[23] = 1;)
SPOIL(offset_odd, to_payload(r, arena, 50); r->submit.u.payload.offset = 32;)
SPOIL(offset_out, to_payload(r, arena, 50); r->submit.u.payload.offset = ARENA;)
SPOIL(offset_wraps, to_payload(r, arena, 50); r->submit.u.payload.offset = UINT64_MAX - 63;)
SPOIL(bytes_small, to_payload(r, arena, 50); r->submit.bytes = 15;)
SPOIL(bytes_large, to_payload(r, arena, 50); r->submit.bytes = ARENA + 1;)
SPOIL(bytes_most, to_payload(r, arena, 50); r->submit.bytes = UINT32_MAX;)
SPOIL(payload_reserved, to_payload(r, arena, 50); r->submit.u.payload.reserved[1] = 1;)
SPOIL(cancel_index, raw_op_record(r, WIRE_OP_CANCEL, 512, 1);)
SPOIL(cancel_reserved, raw_op_record(r, WIRE_OP_CANCEL, 1, 1); r->cancel.reserved1[4] = 1;)
SPOIL(release_reserved, raw_op_record(r, WIRE_OP_RELEASE, 1, 1); r->release.reserved0[2] = 1;)

#define F(name) DYNASOR_FIELD_##name
#define VOCABULARY 256
static const struct bad_record refusals[] = {
    {"max_tokens 0", tokens_0, DYNASOR_E_INVALID, F(MAX_TOKENS), 1, MAX_TOKENS, 0},
    {"max_tokens + 1", tokens_many, DYNASOR_E_INVALID, F(MAX_TOKENS), 1, MAX_TOKENS,
     MAX_TOKENS + 1},
    {"max_tokens most", tokens_most, DYNASOR_E_INVALID, F(MAX_TOKENS), 1, MAX_TOKENS, UINT32_MAX},
    {"algorithm", algorithm_9, DYNASOR_E_UNSUPPORTED, F(ALGORITHM), 0, 8, 9},
    {"streams 0", streams_0, DYNASOR_E_INVALID, F(STREAMS), 1, 7, 0},
    {"streams 8", streams_8, DYNASOR_E_INVALID, F(STREAMS), 1, 7, 8},
    {"empty prompt", prompt_empty, DYNASOR_E_INVALID, F(PROMPT_BYTES), 1, PROMPT_MAX, 0},
    {"no UTF-8", prompt_utf8, DYNASOR_E_INVALID, F(PROMPT_TEXT), 0, 0xf4, 0xff},
    {"UTF-8 cut", prompt_cut, DYNASOR_E_INVALID, F(PROMPT_TEXT), 0, 0xf4, 0xc3},
    {"long prompt", prompt_long, DYNASOR_E_INVALID, F(PROMPT_BYTES), 1, PROMPT_MAX, PROMPT_MAX + 1},
    {"longest prompt", prompt_longest, DYNASOR_E_INVALID, F(PROMPT_BYTES), 1, PROMPT_MAX, ARENA},
    {"no prompt behind the spec", prompt_none, DYNASOR_E_INVALID, F(PROMPT_BYTES), 1, PROMPT_MAX,
     0},
    {"half a token", tokens_odd, DYNASOR_E_INVALID, F(PROMPT_BYTES), 4, PROMPT_MAX, 6},
    {"token outside", tokens_big, DYNASOR_E_INVALID, F(PROMPT_TOKEN), 0, VOCABULARY - 1,
     0x7f000000},
    {"spec 8", spec_small, DYNASOR_E_INVALID, F(SPEC_SIZE), 16, 116, 8},
    {"spec 20", spec_odd, DYNASOR_E_INVALID, F(SPEC_SIZE), 16, 116, 20},
    {"spec 4112", spec_large, DYNASOR_E_INVALID, F(SPEC_SIZE), 16, 116, 4112},
    {"a newer spec", spec_newer, DYNASOR_E_UNSUPPORTED, F(SPEC_SIZE), 64, 64, 72},
    {"resume_tokens", resume_tokens, DYNASOR_E_INVALID, F(RESUME_TOKENS), 0, 10, 65535},
    {"resume_text_bytes", resume_text, DYNASOR_E_INVALID, F(RESUME_TEXT_BYTES), 0, 2560,
     1ull << 56},
};

static const struct bad_record violations[] = {
    {"op 0", op_0, DYNASOR_E_PROTOCOL, F(RECORD_OP), 1, 4, 0},
    {"op 5", op_5, DYNASOR_E_PROTOCOL, F(RECORD_OP), 1, 4, 5},
    {"index 512", index_512, DYNASOR_E_PROTOCOL, F(RECORD_INDEX), 0, 511, 512},
    {"index most", index_most, DYNASOR_E_PROTOCOL, F(RECORD_INDEX), 0, 511, UINT32_MAX},
    {"program 0", id_0, DYNASOR_E_PROTOCOL, F(PROGRAM_ID), 1, UINT64_MAX, 0},
    {"flags 4", flags_4, DYNASOR_E_PROTOCOL, F(RECORD_RESERVED), 0, 3, 4},
    {"flags 8", flags_8, DYNASOR_E_PROTOCOL, F(RECORD_RESERVED), 0, 7, 8},
    {"25 bytes inline", inline_25, DYNASOR_E_PROTOCOL, F(PROMPT_BYTES), 1, 24, 25},
    {"inline tail", inline_tail, DYNASOR_E_PROTOCOL, F(RECORD_RESERVED), 0, 0, 1},
    {"offset 32", offset_odd, DYNASOR_E_PROTOCOL, F(PAYLOAD_OFFSET), 0, ARENA - 66, 32},
    {"offset outside", offset_out, DYNASOR_E_PROTOCOL, F(PAYLOAD_OFFSET), 0, ARENA - 66, ARENA},
    {"offset wraps", offset_wraps, DYNASOR_E_PROTOCOL, F(PAYLOAD_OFFSET), 0, ARENA - 66,
     UINT64_MAX - 63},
    {"15 bytes", bytes_small, DYNASOR_E_PROTOCOL, F(PROMPT_BYTES), 16, ARENA, 15},
    {"more than the arena", bytes_large, DYNASOR_E_PROTOCOL, F(PROMPT_BYTES), 16, ARENA, ARENA + 1},
    {"bytes most", bytes_most, DYNASOR_E_PROTOCOL, F(PROMPT_BYTES), 16, ARENA, UINT32_MAX},
    {"payload reserved", payload_reserved, DYNASOR_E_PROTOCOL, F(RECORD_RESERVED), 0, 0, 0},
    {"cancel index", cancel_index, DYNASOR_E_PROTOCOL, F(RECORD_INDEX), 0, 511, 512},
    {"cancel reserved", cancel_reserved, DYNASOR_E_PROTOCOL, F(RECORD_RESERVED), 0, 0, 1},
    {"release reserved", release_reserved, DYNASOR_E_PROTOCOL, F(RECORD_RESERVED), 0, 0, 1},
};

static void open_session(struct raw_session *s, uint32_t lanes)
{
    int r = raw_open(s, path, lanes, ARENA);

    CHECK(r == 0, "no session: %d (%s)", r, r < 0 ? strerror(-r) : dynasor_status_name(r));
}

static void push(struct raw_session *s, uint32_t lane, const union wire_record *record)
{
    CHECK(raw_push(s, lane, record), "no room in the ring");
    raw_ring(s);
}

static void submit(struct raw_session *s, uint32_t lane, uint32_t index, uint64_t id,
                   uint32_t max_tokens)
{
    union wire_record record;

    raw_submit_record(&record, index, id, id, max_tokens);
    push(s, lane, &record);
}

/* Takes a lane's events up to the END or REFUSED of program id; counts tokens. */
static void take_end(struct raw_session *s, uint32_t lane, uint64_t id, union wire_event *event,
                     uint64_t *ret_tokens)
{
    uint64_t tokens = 0;

    for (;;) {
        CHECK(raw_event(s, lane, event, 5 * NS_PER_S), "program %" PRIu64 " does not end", id);
        if (event->kind == WIRE_EVENT_TOKENS)
            tokens += event->tokens.count;
        if ((event->kind == WIRE_EVENT_END || event->kind == WIRE_EVENT_REFUSED) &&
            event->end.program_id == id)
            break;
    }
    if (ret_tokens)
        *ret_tokens = tokens;
}

static void check_works(struct raw_session *s, uint32_t index, uint64_t id)
{
    union wire_record record;
    union wire_event event;
    uint64_t tokens;

    submit(s, 0, index, id, 30);
    take_end(s, 0, id, &event, &tokens);
    CHECK(event.kind == WIRE_EVENT_END && event.end.state == DYNASOR_STATE_DONE &&
              event.end.status == 0 && event.end.tokens_count == 30 && tokens == 30,
          "the session does not go on: kind %u, state %u, %" PRIu64 " tokens", event.kind,
          event.end.state, tokens);
    raw_op_record(&record, WIRE_OP_RELEASE, index, id);
    push(s, 0, &record);
}

static void spoilt(struct raw_session *s, const struct bad_record *bad, uint64_t id)
{
    union wire_record record;

    raw_submit_record(&record, 9, id, 1, 10);
    bad->spoil(&record, s->c2d + s->reply.geometry.c2d_arena_off);
    push(s, 0, &record);
}

static void test_refusals(void)
{
    struct raw_session s;
    union wire_event event;

    open_session(&s, 1);
    for (uint64_t i = 0; i < COUNT_OF(refusals); i++) {
        const struct bad_record *bad = &refusals[i];
        uint64_t pos = s.submit[0].pos;
        spoilt(&s, bad, i + 1);
        take_end(&s, 0, i + 1, &event, NULL);
        struct wire_fault fault = {.status = event.end.status,
                                   .field = event.end.field,
                                   .lo = event.end.lo,
                                   .hi = event.end.hi,
                                   .got = event.end.got};
        CHECK(event.kind == WIRE_EVENT_REFUSED, "%s was accepted", bad->what);
        check_fault(bad->what, &fault, bad->status, bad->field,
                    (const uint64_t[3]){bad->lo, bad->hi, bad->got});
        CHECK(event.end.submit_pos == pos && event.end.index == 9, "%s: another record", bad->what);
        check_works(&s, 9, 1000 + i); /* the entry stayed free */
    }
    raw_close(&s);
}

static void expect_bye(struct raw_session *s, const char *what, enum dynasor_field field,
                       const uint64_t lo_hi_got[3])
{
    struct wire_fault fault;
    int r = raw_bye(s, &fault);

    CHECK(r == 0, "%s: no BYE: %s", what, strerror(-r));
    if (lo_hi_got)
        check_fault(what, &fault, DYNASOR_E_PROTOCOL, field, lo_hi_got);
    CHECK(fault.status == DYNASOR_E_PROTOCOL && fault.field == field, "%s: BYE says %s, %s", what,
          dynasor_status_name(fault.status), dynasor_field_name(fault.field));
    CHECK(raw_bye(s, &fault) == -ECONNRESET, "%s: something came after BYE", what);
    raw_close(s);
}

static void test_violations(void)
{
    for (size_t i = 0; i < COUNT_OF(violations); i++) {
        const struct bad_record *bad = &violations[i];
        struct raw_session s;
        open_session(&s, 1);
        spoilt(&s, bad, 5);
        expect_bye(&s, bad->what, bad->field, (const uint64_t[3]){bad->lo, bad->hi, bad->got});
    }
}

/* Those that are not the fault of one record. */
static void test_violations_of_order(void)
{
    struct raw_session s;
    union wire_event event;

    open_session(&s, 2);
    submit(&s, 0, 3, 1, MAX_TOKENS);
    submit(&s, 0, 3, 2, 5);
    expect_bye(&s, "a taken entry", F(RECORD_INDEX), (const uint64_t[3]){0, 511, 3});

    open_session(&s, 1);
    submit(&s, 0, 3, 1, 5);
    take_end(&s, 0, 1, &event, NULL);
    submit(&s, 0, 3, 2, 5);
    expect_bye(&s, "an ended, unreleased entry", F(RECORD_INDEX), (const uint64_t[3]){0, 511, 3});

    open_session(&s, 2);
    s.submit[1].pos += 1; /* as if a record had been there */
    s.submit[1].slots -= 1;
    submit(&s, 1, 3, 1, 5);
    expect_bye(&s, "a sequence that skips", F(RECORD_SEQUENCE), NULL);

    open_session(&s, 1);
    shm_store_u64(&region_c2d_lane(s.c2d, 0)->consumed, 1ull << 40);
    submit(&s, 0, 3, 1, MAX_TOKENS);
    expect_bye(&s, "events taken that never came", F(CONSUMED_POSITION), NULL);

    open_session(&s, 1);
    CHECK(send(s.fd, "x", 1, MSG_NOSIGNAL) == 1, "send");
    struct wire_fault fault;
    int r = raw_bye(&s, &fault);
    CHECK(r == -ECONNRESET || (r == 0 && fault.status == DYNASOR_E_PROTOCOL),
          "a byte on the socket: %d", r);
    raw_close(&s);
}

/* ---- cancel and release --------------------------------------------------------------------------- */

static uint32_t state_of(const struct raw_session *s, uint32_t index)
{
    return shm_load_acquire_u32(
        &region_program((void *)(uintptr_t)s->d2c, &s->reply.geometry, index)->state);
}

static void cancel(struct raw_session *s, uint32_t lane, uint32_t index, uint64_t id,
                   enum wire_op op)
{
    union wire_record record;

    raw_op_record(&record, op, index, id);
    push(s, lane, &record);
}

static void expect_cancelled(struct raw_session *s, uint64_t id, uint64_t tokens_min,
                             uint64_t tokens_max)
{
    union wire_event event;
    uint64_t tokens;

    take_end(s, 0, id, &event, &tokens);
    CHECK(event.kind == WIRE_EVENT_END && event.end.state == DYNASOR_STATE_CANCELLED &&
              event.end.status == DYNASOR_E_CANCELLED,
          "program %" PRIu64 " ended in state %u with %s", id, event.end.state,
          dynasor_status_name(event.end.status));
    CHECK(tokens >= tokens_min && tokens <= tokens_max && event.end.tokens_count >= tokens,
          "%" PRIu64 " tokens before the end of a cancelled program", tokens);
}

static void test_cancel(void)
{
    struct raw_session s;
    union wire_record record;
    union wire_event event;

    open_session(&s, 2);
    /* In the same breath as its submission. */
    raw_submit_record(&record, 1, 1, 1, MAX_TOKENS);
    CHECK(raw_push(&s, 0, &record), "no room");
    cancel(&s, 0, 1, 1, WIRE_OP_CANCEL);
    expect_cancelled(&s, 1, 0, 1000);
    CHECK(state_of(&s, 1) == DYNASOR_STATE_CANCELLED, "the table says %u", state_of(&s, 1));
    /* While it runs; a second time; and from another lane. */
    submit(&s, 0, 2, 2, MAX_TOKENS);
    CHECK(raw_event(&s, 0, &event, 5 * NS_PER_S), "no token");
    cancel(&s, 1, 2, 2, WIRE_OP_CANCEL);
    cancel(&s, 1, 2, 2, WIRE_OP_CANCEL);
    expect_cancelled(&s, 2, 0, MAX_TOKENS - 1);
    /* Ended: nothing changes. Of another program: likewise. */
    submit(&s, 0, 3, 3, 4);
    take_end(&s, 0, 3, &event, NULL);
    cancel(&s, 0, 3, 3, WIRE_OP_CANCEL);
    submit(&s, 0, 4, 4, 200);
    cancel(&s, 0, 4, 777, WIRE_OP_CANCEL);
    cancel(&s, 0, 4, 777, WIRE_OP_RELEASE);
    cancel(&s, 0, 4, 4, WIRE_OP_RELEASE);  /* has not ended: ignored */
    cancel(&s, 0, 400, 9, WIRE_OP_CANCEL); /* free entry */
    take_end(&s, 0, 4, &event, NULL);
    CHECK(event.end.state == DYNASOR_STATE_DONE && event.end.tokens_count == 200, "state %u",
          event.end.state);
    CHECK(state_of(&s, 3) == DYNASOR_STATE_DONE && state_of(&s, 4) == DYNASOR_STATE_DONE,
          "the table lost an ended program");
    for (uint32_t i = 1; i <= 4; i++)
        cancel(&s, 0, i, i, WIRE_OP_RELEASE);
    check_works(&s, 5, 5);
    for (uint32_t i = 1; i <= 4; i++)
        CHECK(state_of(&s, i) == DYNASOR_STATE_FREE, "entry %u was released and is in state %u", i,
              state_of(&s, i));
    for (uint32_t i = 1; i <= 4; i++)
        check_works(&s, i, 100 + i);
    raw_close(&s);
}

/* A record that waits for room for its answer, and is then taken back: nothing is left to wait for, so
 * that the daemon may not look for room any more. */
static void test_taken_back(const struct test_daemon *d)
{
    struct raw_session s;
    union wire_record record;
    const uint32_t slots = REGION_EVENT_SLOTS;

    open_session(&s, 1);
    const struct region_d2c_lane *lane =
        region_d2c_lane((void *)(uintptr_t)s.d2c, &s.reply.geometry, 0);
    for (uint64_t id = 1; id <= slots + 1; id++) { /* each is refused: one event, not taken */
        raw_submit_record(&record, 1, id, 1, 0);
        while (!raw_push(&s, 0, &record))
            sleep_ns(NS_PER_MS);
        raw_ring(&s);
    }
    uint64_t deadline = now_ns() + 5 * NS_PER_S;
    while (shm_load_acquire_u64(&lane->consumed) < slots) {
        CHECK(now_ns() < deadline, "%" PRIu64 " records were taken", lane->consumed);
        sleep_ns(NS_PER_MS);
    }
    sleep_ns(20 * NS_PER_MS);
    CHECK(lane->consumed == slots, "a submission was taken without room for its answer");
    struct ring_slot *slot = &s.submit[0].slots[slots & s.submit[0].mask];
    shm_store_release_u64(&slot->seq, slots - s.submit[0].mask); /* as it was the lap before */
    sleep_ns(20 * NS_PER_MS);
    raw_ring_rudely(&s);
    sleep_ns(20 * NS_PER_MS);
    shm_store_release_u64(&region_c2d_lane(s.c2d, 0)->consumed, 5);
    raw_ring_rudely(&s);
    sleep_ns(50 * NS_PER_MS);
    uint64_t before = process_cpu_ns(d->pid);
    sleep_ns(300 * NS_PER_MS);
    uint64_t used = process_cpu_ns(d->pid) - before;
    CHECK(used < 30 * NS_PER_MS, "%" PRIu64 " us of CPU in 300 ms for a record taken back",
          used / 1000);
    raw_close(&s);
}

/* A session that ends with everything in flight leaves nothing, and a program id may be used anew. */
static void test_reconnect(void)
{
    for (int round = 0; round < 3; round++) {
        struct raw_session s;
        open_session(&s, 2);
        for (uint32_t i = 0; i < 200; i++)
            submit(&s, i % 2, i, i + 1, MAX_TOKENS);
        raw_close(&s);
    }
}

int main(void)
{
    struct test_daemon d;
    struct daemon_baseline baseline;
    struct daemon_options options = {
        .daemon = "log_level = error\n",
        .engine = "sim_step_ns = 20000\nsim_prefill_ns_per_token = 0\n",
        .limits = "max_tokens = 5000\nprompt_bytes = 1000\n",
    };

    daemon_open(&d, &options);
    daemon_start(&d);
    path = d.socket_path;
    daemon_baseline_take(&d, &baseline);
    test_hello();
    test_descriptors(&d);
    daemon_baseline_check(&d, &baseline, NS_PER_S);
    test_refusals();
    test_violations();
    test_violations_of_order();
    test_cancel();
    test_taken_back(&d);
    test_reconnect();
    daemon_baseline_check(&d, &baseline, NS_PER_S);
    daemon_stop(&d);
    daemon_log_check(&d);
    daemon_close(&d);
    return 0;
}
