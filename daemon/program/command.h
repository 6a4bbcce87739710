/* daemon/program/command.h — CUSTOM programs as their clients drive them (custom.h says how they behave):
 * commands down by call, notes up by poll, as program.h has it for all.
 *
 * Thread: control. Memory: none. */
#pragma once
#include "daemon/program/program.h"

/* What a CUSTOM program's client says to it: struct wire_command, checked as far as wire_check_record() does. */
struct program_command {
    uint32_t command;       /* enum dynasor_command */
    uint32_t branch;        /* FORK, PROBE: the number that it gets */
    uint32_t parent;        /* or RUN_NONE */
    uint32_t parent_tokens; /* own ones of it that are shared; 0: all */
    uint32_t tokens_max;
    uint32_t streams; /* enum dynasor_stream: TOKENS, TEXT */
    bool stops_at_step;
    bool wants_score;
    bool samples; /* by what follows, not as the program does */
    float temperature;
    float top_p;
    float min_p;
    uint32_t top_k;
    uint32_t signal; /* enum dynasor_signal */
    uint32_t knob;
    float value;
    uint32_t verdict; /* enum dynasor_verdict */
    uint32_t answer;  /* branch, or RUN_NONE */
    uint32_t text_bytes;
    const uint8_t *text;
};

/* What it is told. */
enum program_note_kind { PROGRAM_NOTE_TOKENS, PROGRAM_NOTE_TEXT, PROGRAM_NOTE_BRANCH };
#define PROGRAM_NOTE_TOKENS_MAX 10u
#define PROGRAM_NOTE_BYTES 40u
struct program_note {
    enum program_note_kind kind;
    uint32_t branch;   /* RUN_NONE: commands may come */
    uint32_t position; /* of the first token or byte among the branch's own */
    uint32_t count;    /* tokens, bytes, or 1 */
    uint32_t tokens[PROGRAM_NOTE_TOKENS_MAX];
    uint8_t text[PROGRAM_NOTE_BYTES];
    struct dynasor_branch state;
};

/* What is wrong with a command is returned as by program_check(); to a program
 * that has ended or finished it says nothing. */
struct program_refusal program_command(struct programs *programs, uint32_t handle,
                                       const struct program_command *command);
/* Whether its client drives it: CUSTOM, and running. */
bool program_is_driven(const struct programs *programs, uint32_t handle);
/* The next thing that such a program tells of its branches; false: nothing. So many tokens or bytes of it
 * were passed on (BRANCH: 1). */
bool program_note(struct programs *programs, uint32_t handle, struct program_note *ret_note);
void program_noted(struct programs *programs, uint32_t handle, const struct program_note *note,
                   uint32_t count);
