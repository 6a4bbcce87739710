/* shm/wire.h — what travels: handshake messages, submission records, events.
 *
 * Layouts are fixed-width little-endian integers with explicit padding that must be zero; sizes and
 * offsets are asserted here and described in docs/ABI.md. Nothing in this file is a pointer.
 *
 * Whoever receives bytes from a less trusted peer copies them first (ring_rx_take, recv, pread) and
 * passes the copy to wire_check_*(); these are the only parsers of a client's bytes.
 *
 * Thread: any. Memory: none. Fails: wire_check_* return what is wrong as a struct wire_fault. */
#pragma once
#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dynasor/types.h"
#include "shm/ring.h"

#ifdef __cplusplus
#define WIRE_ASSERT(c) static_assert(c, #c)
#else
#define WIRE_ASSERT(c) _Static_assert(c, #c)
#endif

/* "DYNASOR1" as it lies in memory. The first 16 bytes of hello and reply never change. */
#define WIRE_MAGIC 0x31524f53414e5944ull
#define WIRE_VERSION_MIN 1u
#define WIRE_VERSION_MAX 1u

/* Feature bits. A client asks for some and requires some; the reply holds those in force. A
 * required bit that the daemon does not know is refused with VERSION. */
#define WIRE_FEATURE_TEXT (1ull << 0)       /* text streams */
#define WIRE_FEATURE_DESCRIPTOR (1ull << 1) /* wake-up by a datagram on the session's socket */
#define WIRE_FEATURES_KNOWN 3ull

struct wire_hello { /* client -> daemon, the first message, exactly this size */
    uint64_t magic;
    uint16_t version_min;
    uint16_t version_max;
    uint32_t reserved0;
    uint64_t features_wanted;
    uint64_t features_required;
    uint8_t client_uuid[16]; /* random, kept over reconnects */
    uint32_t lanes_count;    /* 1 .. DYNASOR_LANES_MAX */
    uint32_t reserved1;
    uint64_t arena_bytes; /* power of two, DYNASOR_ARENA_BYTES_MIN .. _MAX */
};
WIRE_ASSERT(sizeof(struct wire_hello) == 64);

/* Why something was refused: field's value was got, accepted is lo .. hi. */
struct wire_fault {
    uint16_t status; /* enum dynasor_status */
    uint16_t field;  /* enum dynasor_field */
    uint32_t reserved;
    uint64_t lo;
    uint64_t hi;
    uint64_t got;
};
WIRE_ASSERT(sizeof(struct wire_fault) == 32);

struct wire_geometry { /* offsets in bytes from the start of the region's file */
    uint64_t c2d_bytes;
    uint64_t d2c_bytes;
    uint64_t c2d_rings_off; /* lane i: + i * sub_slots * 64 */
    uint64_t c2d_arena_off;
    uint64_t c2d_arena_bytes;
    uint64_t d2c_lanes_off;
    uint64_t d2c_programs_off;
    uint64_t d2c_rings_off; /* lane i: + i * event_slots * 64 */
    uint32_t lanes_count;
    uint32_t sub_slots;
    uint32_t event_slots;
    uint32_t programs_count;
};
WIRE_ASSERT(sizeof(struct wire_geometry) == 80);

struct wire_reply { /* daemon -> client, the answer to hello; descriptors only when status is 0 */
    uint64_t magic;
    uint16_t version; /* in force; with status VERSION the highest that the daemon speaks */
    uint16_t version_min;
    uint32_t reserved0;
    struct wire_fault fault; /* status 0: accepted */
    uint64_t features;
    uint64_t generation;
    uint64_t layout_hash;
    uint64_t prompt_bytes_max;
    uint32_t max_tokens_max;
    uint32_t slot; /* the daemon's number for this client, for logs */
    struct wire_geometry geometry;
    uint64_t reserved1[5];
};
WIRE_ASSERT(sizeof(struct wire_reply) == 208);
WIRE_ASSERT(offsetof(struct wire_reply, geometry) == 88);

/* Descriptors that come with an accepting reply, in this order. */
enum wire_descriptor { WIRE_FD_C2D = 0, WIRE_FD_D2C = 1, WIRE_FD_DOORBELL = 2, WIRE_FD_COUNT = 3 };

/* Later messages of the daemon on the socket. */
enum wire_message_kind {
    WIRE_MESSAGE_WAKE = 1, /* something was published; sent only when the client asked for it */
    WIRE_MESSAGE_BYE = 2,  /* the session ends; fault says why */
};

struct wire_message {
    uint32_t kind;
    uint32_t reserved;
    struct wire_fault fault;
};
WIRE_ASSERT(sizeof(struct wire_message) == 40);

/* Submission records: the seven words of a slot. */
enum wire_op {
    WIRE_OP_SUBMIT = 1,
    WIRE_OP_CANCEL = 2,
    WIRE_OP_RELEASE = 3,
    WIRE_OP_COMMAND = 4,
};

#define WIRE_SUBMIT_PAYLOAD 1u       /* struct wire_spec and the prompt lie in the arena */
#define WIRE_SUBMIT_PROMPT_TOKENS 2u /* the prompt is uint32_t token ids, otherwise UTF-8 text */
#define WIRE_SUBMIT_RESUMED 4u /* a CUSTOM program that was told what to do by another daemon */
#define WIRE_SUBMIT_FLAGS_KNOWN 7u
#define WIRE_INLINE_BYTES 24u
#define WIRE_GIVE_BYTES 36u

struct wire_submit {
    uint8_t op;          /* WIRE_OP_SUBMIT */
    uint8_t flags;       /* WIRE_SUBMIT_* */
    uint8_t algorithm;   /* enum dynasor_algorithm */
    uint8_t streams;     /* enum dynasor_stream */
    uint32_t index;      /* entry of the program table; chosen by the client, must be free */
    uint64_t program_id; /* not 0; unique in the life of client_uuid */
    uint64_t seed;
    uint32_t max_tokens;
    uint32_t bytes; /* of the payload (spec and prompt together), or of the prompt inline */
    union {
        uint8_t prompt[WIRE_INLINE_BYTES]; /* bytes of it, the rest zero */
        struct {
            uint64_t offset; /* in the arena, a multiple of 64 */
            uint64_t reserved[2];
        } payload;
    } u;
};
WIRE_ASSERT(sizeof(struct wire_submit) == 8 * RING_WORDS);
WIRE_ASSERT(offsetof(struct wire_submit, program_id) == 8);
WIRE_ASSERT(offsetof(struct wire_submit, max_tokens) == 24);
WIRE_ASSERT(offsetof(struct wire_submit, u) == 32);

/* Head of a payload: what does not fit the record. Append-only: a reader takes spec_bytes of it
 * and refuses a longer one unless the part it does not know is zero; fields that a shorter one lacks
 * are zero. Behind it, without gaps: biases_count struct wire_bias, settings_count struct
 * wire_setting, stop_tokens_count uint32_t, stops_bytes of stop strings (each a byte with its length,
 * then so many bytes), answer prefix, step end and profile name (no byte of these is zero), then zeros
 * to a multiple of 8, then the prompt. The client keeps the payload as it is until the program has
 * ended: a restarted daemon reads it once more. */
struct wire_spec {
    uint32_t spec_bytes;        /* sizeof(struct wire_spec) of the writer, a multiple of 8 */
    uint32_t resume_tokens;     /* tokens that the client already has: they are not sent again */
    uint64_t resume_text_bytes; /* the same for its text stream */
    uint32_t flags;             /* WIRE_SPEC_* */
    float temperature;          /* this and what follows counts with WIRE_SPEC_SAMPLING only */
    float top_p;
    float min_p;
    float repetition_penalty;
    float presence_penalty;
    float frequency_penalty;
    uint32_t top_k;
    uint16_t biases_count;
    uint16_t stop_tokens_count;
    uint16_t stops_bytes;
    uint16_t reserved;
    uint16_t settings_count;
    uint8_t answer;      /* enum dynasor_answer */
    uint8_t choice_last; /* 0: the default */
    uint8_t answer_prefix_bytes;
    uint8_t step_end_bytes;
    uint8_t profile_bytes;
    uint8_t reserved1;
};
WIRE_ASSERT(sizeof(struct wire_spec) == 64);
#define WIRE_SPEC_BYTES_MIN 16u /* of the first version */
#define WIRE_SPEC_SAMPLING 1u
#define WIRE_SPEC_IGNORE_EOS 2u
#define WIRE_SPEC_STOP_INCLUDE 4u
#define WIRE_SPEC_CHAT 8u /* the prompt is one message of a user, for the model's chat template */
#define WIRE_SPEC_FLAGS_KNOWN 15u

struct wire_bias {
    uint32_t token;
    float bias;
};
WIRE_ASSERT(sizeof(struct wire_bias) == 8);

struct wire_setting {
    uint32_t parameter; /* enum dynasor_parameter */
    uint32_t reserved;
    double value;
};
WIRE_ASSERT(sizeof(struct wire_setting) == 16);

/* Where the parts of a payload lie, in bytes from its start. */
struct wire_parts {
    uint32_t biases_off;
    uint32_t settings_off;
    uint32_t stop_tokens_off;
    uint32_t stops_off;
    uint32_t texts_off; /* answer prefix, step end, profile */
    uint32_t prompt_off;
};
#define WIRE_SPEC_BYTES_MAX 4096u

struct wire_cancel { /* ends the program CANCELLED before the next step; unknown ids are ignored */
    uint8_t op;      /* WIRE_OP_CANCEL */
    uint8_t reserved0[3];
    uint32_t index;
    uint64_t program_id;
    uint64_t reserved1[5];
};
WIRE_ASSERT(sizeof(struct wire_cancel) == 8 * RING_WORDS);

struct wire_release { /* frees the entry of an ended program; unknown ids are ignored */
    uint8_t op;       /* WIRE_OP_RELEASE */
    uint8_t reserved0[3];
    uint32_t index;
    uint64_t program_id;
    uint64_t reserved1[5];
};
WIRE_ASSERT(sizeof(struct wire_release) == 8 * RING_WORDS);

/* To a CUSTOM program. Those of a lane take effect in their order; unknown ids are ignored. Fields that a
 * command does not use are zero. */
struct wire_command {
    uint8_t op;      /* WIRE_OP_COMMAND */
    uint8_t command; /* enum dynasor_command */
    uint8_t flags;   /* FORK, PROBE: WIRE_COMMAND_* */
    uint8_t bytes;   /* GIVE: of text */
    uint32_t index;
    uint64_t program_id;
    uint32_t branch; /* FORK, PROBE: its number, which is the count of those before */
    union {
        struct {
            uint32_t parent;        /* branch, or DYNASOR_ROOT */
            uint32_t parent_tokens; /* own ones of the parent that it goes on behind; 0: all */
            uint32_t tokens_max;
            float temperature; /* this and what follows: with WIRE_COMMAND_SAMPLING only */
            float top_p;
            float min_p;
            uint32_t top_k;
            uint32_t streams; /* TOKENS, TEXT: events of this branch */
            uint32_t reserved;
        } begin; /* FORK, PROBE */
        struct {
            uint32_t tokens_max;
            uint32_t reserved[8];
        } extend;
        struct {
            uint32_t signal; /* enum dynasor_signal */
            uint32_t knob;
            float value;
            uint32_t reserved[6];
        } report;
        struct {
            uint32_t verdict; /* enum dynasor_verdict */
            uint32_t answer;  /* branch, or DYNASOR_ROOT: none; so may the branch be */
            uint32_t reserved[7];
        } finish;
        uint8_t text[WIRE_GIVE_BYTES]; /* GIVE: whole UTF-8 characters, the rest zero */
        uint32_t word[9];
    } u;
};
WIRE_ASSERT(sizeof(struct wire_command) == 8 * RING_WORDS);
WIRE_ASSERT(offsetof(struct wire_command, program_id) == 8);
#define WIRE_COMMAND_SAMPLING 1u
#define WIRE_COMMAND_STOPS_AT_STEP 2u
#define WIRE_COMMAND_WANTS_SCORE 4u
#define WIRE_COMMAND_FLAGS_KNOWN 7u

/* Events: the seven words of a slot in a D2C ring. */
enum wire_event_kind {
    WIRE_EVENT_TOKENS = 1,
    WIRE_EVENT_TEXT = 2,
    WIRE_EVENT_END = 3,     /* terminal; the entry stays until it is released */
    WIRE_EVENT_REFUSED = 4, /* never accepted; the entry stayed free */
    /* Of CUSTOM programs. A restarted daemon has nothing to account for them. */
    WIRE_EVENT_BRANCH_TOKENS = 5,
    WIRE_EVENT_BRANCH_TEXT = 6,
    WIRE_EVENT_BRANCH = 7,          /* it has settled */
    WIRE_EVENT_COMMAND_REFUSED = 8, /* and did nothing */
    WIRE_EVENT_KINDS = 9,
};
#define WIRE_EVENT_TOKENS_MAX 11u
#define WIRE_EVENT_TEXT_BYTES_MAX 40u

struct wire_event_tokens {
    uint8_t kind;
    uint8_t count; /* 1 .. WIRE_EVENT_TOKENS_MAX */
    uint16_t reserved;
    uint32_t index;
    uint32_t position; /* of token[0] in the program's stream */
    uint32_t token[WIRE_EVENT_TOKENS_MAX];
};
WIRE_ASSERT(sizeof(struct wire_event_tokens) == 8 * RING_WORDS);

struct wire_event_text {
    uint8_t kind;
    uint8_t count; /* bytes, 1 .. WIRE_EVENT_TEXT_BYTES_MAX; never splits a UTF-8 character */
    uint16_t reserved;
    uint32_t index;
    uint64_t position_bytes; /* of text[0] in the program's text */
    uint8_t text[WIRE_EVENT_TEXT_BYTES_MAX];
};
WIRE_ASSERT(sizeof(struct wire_event_text) == 8 * RING_WORDS);

struct wire_event_end { /* END and REFUSED */
    uint8_t kind;
    uint8_t state;   /* enum dynasor_state; REFUSED: FAILED */
    uint16_t status; /* enum dynasor_status; 0 with DONE */
    uint32_t index;
    uint64_t program_id;
    uint32_t tokens_count; /* decoded; REFUSED: 0 */
    uint16_t field;        /* enum dynasor_field that the status is about */
    uint16_t flags;        /* WIRE_END_* */
    uint64_t lo;           /* accepted range of field, and what it was */
    uint64_t hi;
    uint64_t got;
    uint64_t submit_pos; /* position of the SUBMIT record in its lane */
};
WIRE_ASSERT(sizeof(struct wire_event_end) == 8 * RING_WORDS);
#define WIRE_END_RESULT 1u /* the program's place in the result table is filled */

#define WIRE_EVENT_BRANCH_TOKENS_MAX 10u
struct wire_event_branch_tokens {
    uint8_t kind;
    uint8_t count; /* 1 .. WIRE_EVENT_BRANCH_TOKENS_MAX */
    uint16_t reserved;
    uint32_t index;
    uint32_t branch;
    uint32_t position; /* of token[0] among the branch's own */
    uint32_t token[WIRE_EVENT_BRANCH_TOKENS_MAX];
};
WIRE_ASSERT(sizeof(struct wire_event_branch_tokens) == 8 * RING_WORDS);

struct wire_event_branch_text {
    uint8_t kind;
    uint8_t count; /* bytes, 1 .. WIRE_EVENT_TEXT_BYTES_MAX; never splits a UTF-8 character */
    uint16_t reserved;
    uint32_t index;
    uint32_t branch;
    uint32_t position_bytes; /* of text[0] in what the branch decoded itself */
    uint8_t text[WIRE_EVENT_TEXT_BYTES_MAX];
};
WIRE_ASSERT(sizeof(struct wire_event_branch_text) == 8 * RING_WORDS);

struct wire_event_branch {
    uint8_t kind;
    uint8_t state; /* enum dynasor_branch_state */
    uint8_t scored;
    uint8_t reserved0;
    uint32_t index;
    uint32_t branch;       /* DYNASOR_ROOT: the prompt has been read, commands may come */
    uint32_t tokens_count; /* as in struct dynasor_branch */
    uint32_t path_tokens;
    uint32_t text_bytes;
    float score;
    float log_probability;
    float entropy;
    uint32_t reserved1[5];
};
WIRE_ASSERT(sizeof(struct wire_event_branch) == 8 * RING_WORDS);

struct wire_event_command {
    uint8_t kind;
    uint8_t command; /* as it came */
    uint16_t status; /* enum dynasor_status */
    uint32_t index;
    uint32_t branch; /* likewise */
    uint16_t field;  /* enum dynasor_field */
    uint16_t reserved0;
    uint64_t lo; /* accepted range of field, and what it was */
    uint64_t hi;
    uint64_t got;
    uint64_t reserved1[2];
};
WIRE_ASSERT(sizeof(struct wire_event_command) == 8 * RING_WORDS);

/* A place of the result table in D2C. */
WIRE_ASSERT(sizeof(struct dynasor_result) == 448);
WIRE_ASSERT(offsetof(struct dynasor_result, profile) == 96);

/* A record or event as the words of a slot. Read a member only after kind or op says which. */
union wire_record {
    uint64_t word[RING_WORDS];
    uint8_t op;
    struct wire_submit submit;
    struct wire_cancel cancel;
    struct wire_release release;
    struct wire_command command;
};

union wire_event {
    uint64_t word[RING_WORDS];
    uint8_t kind;
    struct wire_event_tokens tokens;
    struct wire_event_text text;
    struct wire_event_end end;
    struct wire_event_branch_tokens branch_tokens;
    struct wire_event_branch_text branch_text;
    struct wire_event_branch branch;
    struct wire_event_command command;
};
WIRE_ASSERT(sizeof(union wire_record) == 8 * RING_WORDS);
WIRE_ASSERT(sizeof(union wire_event) == 8 * RING_WORDS);

/* What the checks hold a client to. Private to the daemon, fixed when the client attaches. */
struct wire_limits {
    uint64_t arena_bytes;
    uint64_t prompt_bytes_max;
    uint32_t max_tokens_max;
    uint32_t programs_count;
    uint32_t vocabulary_count; /* token ids of a prompt are below it */
    uint32_t streams;          /* enum dynasor_stream that are offered */
};

/* Two ways of being wrong: an argument outside its range is answered with a REFUSED or COMMAND_REFUSED
 * event; a record that no correct library writes ends the session. */
enum wire_verdict { WIRE_OK = 0, WIRE_REFUSE = 1, WIRE_VIOLATION = 2 };

/* All of them: input is a private copy; *fault is written only when the verdict is not WIRE_OK. */
enum wire_verdict wire_check_hello(const void *message, size_t message_bytes,
                                   struct wire_fault *fault);
enum wire_verdict wire_check_record(const union wire_record *record,
                                    const struct wire_limits *limits, struct wire_fault *fault);
/* payload: payload_bytes as the record said, already copied. On WIRE_OK *ret_spec holds the spec
 * (fields the writer did not know are zero) and *ret_parts where the rest lies. */
enum wire_verdict wire_check_payload(const struct wire_submit *submit, const uint8_t *payload,
                                     const struct wire_limits *limits, struct wire_spec *ret_spec,
                                     struct wire_parts *ret_parts, struct wire_fault *fault);
/* The numbers and counts of a spec; part of wire_check_payload(), and what the library asks first. */
enum wire_verdict wire_check_spec(const struct wire_spec *spec, struct wire_fault *fault);
/* Where the parts lie behind a spec of spec_bytes. */
void wire_parts_of(const struct wire_spec *spec, struct wire_parts *ret_parts);
/* The prompt itself, inline or behind the spec: whole tokens in the vocabulary, or valid UTF-8. */
enum wire_verdict wire_check_prompt(const struct wire_submit *submit, const uint8_t *prompt,
                                    uint32_t prompt_bytes, const struct wire_limits *limits,
                                    struct wire_fault *fault);

/* Length of the longest part of text that does not end inside a UTF-8 character. */
uint32_t wire_utf8_whole(const uint8_t *text, uint32_t bytes);

bool wire_utf8_valid(const uint8_t *text, uint32_t bytes);

/* One number over the size and offset of every field here and in region.h. Two sides that were
 * compiled from different layouts differ in it. */
uint64_t wire_layout_hash(void);
