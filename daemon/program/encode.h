/* daemon/program/encode.h — the tokens of one prompt at a time; long ones on the text worker.
 *
 * encode_prompt() is asked again and again for the same prompt until it is done: short prompts are
 * tokenized in the call, longer ones are handed to the worker, which copies the text first, so that
 * the program may end meanwhile.
 *
 * Thread: control, except encode_run(). Memory: fixed at encode_new(): text, tokens and scratch for
 * the longest prompt, touched as far as prompts are long. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct codec;
struct encode;

int encode_new(const struct codec *codec, uint64_t text_bytes_max, uint32_t ids_max,
               struct encode **ret_encode);
void encode_free(struct encode *encode);

enum encode_result {
    ENCODE_DONE = 0,
    ENCODE_BUSY = 1,   /* the worker is at it: ask again when encode_fd() is readable */
    ENCODE_E_MANY = 2, /* more than ids_max tokens */
    ENCODE_E_CHAT = 3, /* the model has no chat template that we know */
};

/* text is kept until the answer is another than BUSY, or encode_forget(). *ret_ids stays as it is
 * until the next call for another prompt. */
enum encode_result encode_prompt(struct encode *encode, const uint8_t *text, uint32_t text_bytes,
                                 bool chat, const uint32_t **ret_ids, uint32_t *ret_count);
/* The prompt is no longer wanted, or was taken: the next call is about another one. */
void encode_forget(struct encode *encode);
/* The worker has something to do: encode_prompt() would say BUSY. */
bool encode_busy(const struct encode *encode);

/* The worker's body; returns after encode_stop(). */
void encode_run(struct encode *encode);
void encode_stop(struct encode *encode);
int encode_fd(const struct encode *encode);
