/* daemon/text/codec.h — between text and token ids, as the rest of the daemon sees it.
 *
 * A codec is a model's tokenizer with its chat template; NULL in its place is the byte codec, one token
 * a byte, the vocabulary of the simulated engine. A stream turns one sequence's tokens into text that never
 * splits a UTF-8 character, and looks for stop strings across token boundaries.
 *
 * Thread: a codec is immutable; codec_encode() needs a scratch of its own for each thread.
 * Memory: fixed at codec_open(), codec_scratch_new(). Time: linear in the text. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "daemon/text/detokenizer.h"
#include "daemon/text/stops.h"

struct codec;
struct codec_scratch;

#define CODEC_MESSAGE_BYTES 512u
/* Most text that one token brings: its own, and what was held back before it. */
#define CODEC_PUSH_BYTES_MAX (DETOKENIZER_PUSH_BYTES_MAX + STOPS_HELD_BYTES_MAX)

/* directory: of the model. Fails with a message that names the file. */
int codec_open(const char *directory, char message[CODEC_MESSAGE_BYTES], struct codec **ret_codec);
void codec_free(struct codec *codec);

/* Whether the model in directory can read this codec's tokens: it has a row for each of them, and a
 * tokenizer, if there is one, that gives each the same text (none, where both are control tokens).
 * Otherwise -EINVAL and a message that names the directory. */
int codec_check_reader(const struct codec *codec, const char *directory,
                       char message[CODEC_MESSAGE_BYTES]);

/* Takes a chat template by its family's name, whatever the directory says. Fails with a message that
 * lists the names there are, or names the mark that the tokenizer lacks. */
int codec_set_chat(struct codec *codec, const char *family, char message[CODEC_MESSAGE_BYTES]);
/* Of the chat template; NULL: none that we know. */
const char *codec_chat(const struct codec *codec);

/* Most bytes that codec_scratch_new() accepts; more are -EFBIG. */
uint64_t codec_text_bytes_max(const struct codec *codec);
/* Room to encode text_bytes_max bytes at once. */
int codec_scratch_new(const struct codec *codec, uint64_t text_bytes_max,
                      struct codec_scratch **ret_scratch);
void codec_scratch_free(struct codec_scratch *scratch);

enum codec_result {
    CODEC_OK = 0,
    CODEC_E_MANY = 1, /* more than ids_max tokens */
    CODEC_E_CHAT = 2, /* the model has no chat template that we know */
};

/* chat: text is a user's message, to be wrapped into the model's chat template. Special tokens that
 * the text spells are text. Returns enum codec_result. */
int codec_encode(const struct codec *codec, struct codec_scratch *scratch, const uint8_t *text,
                 uint64_t text_bytes, bool chat, uint32_t *ids, uint32_t ids_max,
                 uint32_t *ret_count);

/* Whether the model ends its answer with this token. */
bool codec_is_end(const struct codec *codec, uint32_t token);

struct codec_stream {
    struct detokenizer detokenizer;
    struct stops *stops; /* the caller's, after stops_init(); NULL: no stop strings */
};

void codec_stream_init(struct codec_stream *stream, struct stops *stops);
/* Text that token adds, to out[CODEC_PUSH_BYTES_MAX]; true: a stop string is complete, the text ends
 * here. */
bool codec_push(struct codec_stream *stream, const struct codec *codec, uint32_t token,
                uint8_t *out, uint32_t *ret_bytes);
/* Text that some tokens add, without those that end an answer, to out[count * CODEC_PUSH_BYTES_MAX]; of a stream
 * without stop strings. Returns how many bytes. */
uint32_t codec_push_all(struct codec_stream *stream, const struct codec *codec,
                        const uint32_t *tokens, uint32_t count, uint8_t *out);
/* Whether the token's text has this ASCII character, which is no space and no '#': wherever it stands in a text, it is
 * that character there. */
bool codec_has(const struct codec *codec, uint32_t token, char character);
/* What was held back, when no more tokens come. */
uint32_t codec_flush(struct codec_stream *stream, const struct codec *codec, uint8_t *out);
