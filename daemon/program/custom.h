/* daemon/program/custom.h — programs whose client decides: it begins branches, probes, extends, scores and
 * kills them, says how sure it is, and finishes.
 *
 * A command is about what its client has been told. One that asks for more (a branch that has not got
 * there) is refused by name and changes nothing, but that the number of a branch that should have begun is
 * taken. So the tokens of a branch follow from the commands alone, not from when they came: its random
 * numbers are those of the count of branches, or of probes, before it. All branches ever of a program
 * are at most its parameter cap.
 *
 * What its client is told are notes, in order for each branch; a branch that has more of them stands in a
 * list of its run. They lie in the tokens of the branches: a client that does not read costs nothing more.
 *
 * Thread: control. Memory: fixed at customs_new(), touched as far as there are such programs. Time:
 * commands O(path), with a text of GIVEN_BYTES_MAX about 25 us; notes O(their tokens), and where text is
 * asked for O(tokens of the branch) each time that it settles. */
#pragma once
#include "daemon/program/command.h"

struct customs;

/* Each program's number is below programs_max. codec is kept. */
int customs_new(uint32_t programs_max, const struct codec *codec, struct customs **ret_customs);
void customs_free(struct customs *customs);

/* Which of its two algorithms it is: with the parameter scores the reward model reads the prompt, too. */
const struct algorithm *custom_algorithm(const struct parameters *parameters);

/* The program begins. */
void custom_begin(struct customs *customs, uint32_t program);
struct program_refusal custom_command(struct customs *customs, uint32_t program, struct run *run,
                                      const struct program_command *command);
/* False: there is nothing to tell, now. The note stays until custom_noted() says how much of it was passed
 * on. */
bool custom_note(struct customs *customs, uint32_t program, struct run *run,
                 struct program_note *ret_note);
void custom_noted(struct customs *customs, uint32_t program, struct run *run,
                  const struct program_note *note, uint32_t count);
