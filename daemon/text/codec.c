#include "daemon/text/codec.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/base/assert.h"
#include "daemon/base/files.h"
#include "daemon/base/json.h"
#include "daemon/base/scratch.h"
#include "daemon/text/chat.h"
#include "daemon/text/tokenizer.h"

#define FILE_BYTES_MAX (256u << 20)
#define ENDS_MAX 16u
#define DEPTH_MAX 32u

struct codec {
    struct tokenizer *tokenizer;
    const struct chat *chat; /* NULL: none that we know */
    uint32_t ends[ENDS_MAX];
    uint32_t ends_count;
};

struct codec_scratch {
    struct tokenizer_scratch *tokenizer;
    uint8_t *clean;
    struct chat_text chat;
    uint64_t text_bytes_max;
};

/* ---- files ------------------------------------------------------------------------------------- */

struct open {
    const char *directory;
    int directory_fd;
    char *message;
    struct codec *codec;
    uint32_t ids_max;
};

static_assert(CODEC_MESSAGE_BYTES == MESSAGE_BYTES, "a file's message is a codec's");

static int fault(struct open *o, const char *file, const char *what)
{
    return message_refuse(o->message, -EINVAL, "%.300s/%s: %s", o->directory, file, what);
}

/* ret_text->bytes is NULL when there is no such file and it need not be there. */
static int text_read(struct open *o, const char *file, bool needed, struct file *ret_text)
{
    char why[MESSAGE_BYTES];
    int r = file_read(o->directory_fd, file, FILE_BYTES_MAX, why, ret_text);
    if (r == -ENOENT && needed)
        return fault(o, file, strerror(ENOENT));
    if (r == -ENOENT)
        return 0;
    return r == 0 ? 0 : message_refuse(o->message, -EINVAL, "%.300s/%s", o->directory, why);
}

static int json_read(struct open *o, const char *file, struct json **ret_document)
{
    struct file text;
    char message[JSON_ERROR_BYTES];
    *ret_document = NULL;
    int r = text_read(o, file, false, &text);
    if (r != 0 || !text.bytes)
        return r;
    r = json_parse((const char *)text.bytes, text.size, DEPTH_MAX, message, ret_document);
    file_close(&text);
    if (r == -EINVAL)
        return fault(o, file, message);
    if (r == 0 && json_kind(*ret_document) != JSON_KIND_OBJECT) {
        json_free(*ret_document);
        return fault(o, file, "not an object");
    }
    return r;
}

/* ---- what ends an answer ----------------------------------------------------------------------- */

static void end_add(struct codec *c, uint32_t id)
{
    if (!codec_is_end(c, id) && c->ends_count < ENDS_MAX)
        c->ends[c->ends_count++] = id;
}

/* null, an id or some. */
static int ends_read(struct open *o, const char *file, const struct json *value)
{
    bool list = json_kind(value) == JSON_KIND_ARRAY;
    uint32_t count = list ? json_count(value) : json_kind(value) == JSON_KIND_NULL ? 0 : 1;
    if (count > ENDS_MAX)
        return fault(o, file, "eos_token_id: more than 16");
    for (uint32_t i = 0; i < count; i++) {
        uint64_t id;
        if (!json_u64(list ? json_element(value, i) : value, &id) || id >= o->ids_max)
            return fault(o, file, "eos_token_id: not an id of the vocabulary");
        end_add(o->codec, (uint32_t)id);
    }
    return 0;
}

/* config.json says how many ids the model has, before the tokenizer is read. */
static int config_read(struct open *o)
{
    struct json *document;
    int r = json_read(o, "config.json", &document);
    uint64_t count;
    if (r != 0 || !document)
        return r;
    const struct json *size = json_member(document, "vocab_size");
    if (size && (!json_u64(size, &count) || count == 0 || count > UINT32_MAX))
        r = fault(o, "config.json", "vocab_size: not a number of tokens");
    else if (size)
        o->ids_max = (uint32_t)count;
    if (r == 0)
        r = ends_read(o, "config.json", json_member(document, "eos_token_id"));
    json_free(document);
    return r;
}

static int generation_read(struct open *o)
{
    struct json *document;
    int r = json_read(o, "generation_config.json", &document);
    if (r == 0 && document)
        r = ends_read(o, "generation_config.json", json_member(document, "eos_token_id"));
    json_free(document);
    return r;
}

/* ---- the chat template ------------------------------------------------------------------------- */

static void chat_take(struct codec *c, const struct chat *chat)
{
    const char *marker;
    c->chat = chat;
    for (uint32_t i = 0; c->chat && (marker = chat_marker(c->chat, i)); i++)
        tokenizer_set_control(c->tokenizer, marker);
}

int codec_set_chat(struct codec *c, const char *family, char message[CODEC_MESSAGE_BYTES])
{
    char names[CODEC_MESSAGE_BYTES / 2];
    uint32_t id;
    const struct chat *chat = chat_named(family);
    if (!chat) {
        chat_names(names, sizeof names);
        (void)snprintf(message, CODEC_MESSAGE_BYTES, "chat template \"%.60s\": accepted %s", family,
                       names);
        return -EINVAL;
    }
    if (!tokenizer_find(c->tokenizer, chat_marker(chat, 0), &id)) {
        (void)snprintf(message, CODEC_MESSAGE_BYTES,
                       "chat template %s: the model's tokenizer has no token %s", family,
                       chat_marker(chat, 0));
        return -EINVAL;
    }
    chat_take(c, chat);
    return 0;
}

const char *codec_chat(const struct codec *c)
{
    return c->chat ? chat_name(c->chat) : NULL;
}

/* A text, or a list of named ones of which we want the one named default. */
static const char *template_of(const struct json *document, size_t *ret_bytes)
{
    const struct json *value = json_member(document, "chat_template");
    for (uint32_t i = 0; json_kind(value) == JSON_KIND_ARRAY && i < json_count(value); i++) {
        const struct json *element = json_element(value, i);
        if (json_is(json_member(element, "name"), "default"))
            return json_text(json_member(element, "template"), ret_bytes);
    }
    return json_text(value, ret_bytes);
}

/* Its eos_token, a text or an object with one, counts where no other file names an end. */
static int tokenizer_config_read(struct open *o)
{
    struct json *document;
    struct file jinja = {.fd = -1};
    size_t bytes = 0;
    uint32_t id;
    int r = json_read(o, "tokenizer_config.json", &document);
    if (r == 0)
        r = text_read(o, "chat_template.jinja", false, &jinja);
    if (r == 0) {
        const struct json *eos = json_member(document, "eos_token");
        const struct json *content = json_member(eos, "content");
        const char *end = json_text(content ? content : eos, NULL);
        const char *text = template_of(document, &bytes);
        if (jinja.bytes)
            chat_take(o->codec, chat_find((const char *)jinja.bytes, jinja.size));
        else if (text)
            chat_take(o->codec, chat_find(text, bytes));
        if (end && o->codec->ends_count == 0 && tokenizer_find(o->codec->tokenizer, end, &id))
            end_add(o->codec, id);
    }
    file_close(&jinja);
    json_free(document);
    return r;
}

/* The codec has none afterwards where the file is not there and need not be. */
static int tokenizer_read(struct open *o, bool needed)
{
    char message[TOKENIZER_MESSAGE_BYTES];
    struct file text;
    int r = text_read(o, "tokenizer.json", needed, &text);
    if (r != 0 || !text.bytes)
        return r;
    r = tokenizer_load((const char *)text.bytes, text.size, o->ids_max, message,
                       &o->codec->tokenizer);
    file_close(&text);
    return r == -EINVAL ? fault(o, "tokenizer.json", message) : r;
}

/* Begins with an empty codec; open_end() follows in any case. */
static int open_begin(struct open *o, const char *directory, char *message)
{
    *o = (struct open){
        .directory = directory, .directory_fd = -1, .message = message, .ids_max = UINT32_MAX};
    message[0] = 0;
    o->codec = calloc(1, sizeof *o->codec);
    if (!o->codec)
        return -ENOMEM;
    o->directory_fd = file_directory(directory, message);
    return o->directory_fd < 0 ? -EINVAL : 0;
}

/* The codec is the caller's where ret_codec is given and r is 0. */
static int open_end(struct open *o, int r, struct codec **ret_codec)
{
    if (r != 0 && !o->message[0])
        (void)fault(o, "tokenizer.json", strerror(-r));
    if (o->directory_fd >= 0)
        (void)close(o->directory_fd); /* only read from */
    if (r == 0 && ret_codec)
        *ret_codec = o->codec;
    else
        codec_free(o->codec);
    return r;
}

int codec_open(const char *directory, char message[CODEC_MESSAGE_BYTES], struct codec **ret_codec)
{
    struct open o;
    int r = open_begin(&o, directory, message);
    r = r ? r : config_read(&o);
    r = r ? r : generation_read(&o);
    r = r ? r : tokenizer_read(&o, true);
    r = r ? r : tokenizer_config_read(&o);
    return open_end(&o, r, ret_codec);
}

void codec_free(struct codec *c)
{
    if (!c)
        return;
    tokenizer_free(c->tokenizer);
    free(c);
}

static bool same_text(const struct tokenizer *a, const struct tokenizer *b, uint32_t token)
{
    uint32_t a_bytes, b_bytes;
    const uint8_t *of_a = tokenizer_text_of(a, token, false, &a_bytes);
    const uint8_t *of_b = tokenizer_text_of(b, token, false, &b_bytes);
    return a_bytes == b_bytes && (a_bytes == 0 || memcmp(of_a, of_b, a_bytes) == 0);
}

static int reader_check(struct open *o, const struct tokenizer *ours)
{
    uint32_t count = tokenizer_ids_count(ours);
    int r = config_read(o);
    if (r == 0 && o->ids_max < count) {
        (void)snprintf(
            o->message, CODEC_MESSAGE_BYTES,
            "%.200s: its vocabulary has %u tokens, fewer than the policy's tokenizer, %u",
            o->directory, o->ids_max, count);
        return -EINVAL;
    }
    if (r == 0)
        r = tokenizer_read(o, false);
    for (uint32_t i = 0; i < count && r == 0 && o->codec->tokenizer; i++)
        if (!same_text(ours, o->codec->tokenizer, i)) {
            (void)snprintf(o->message, CODEC_MESSAGE_BYTES,
                           "%.200s: its tokenizer differs from the policy's at token %u",
                           o->directory, i);
            r = -EINVAL;
        }
    return r;
}

int codec_check_reader(const struct codec *c, const char *directory,
                       char message[CODEC_MESSAGE_BYTES])
{
    struct open o;
    int r = open_begin(&o, directory, message);
    r = r ? r : reader_check(&o, c->tokenizer);
    return open_end(&o, r, NULL);
}

/* ---- encoding ---------------------------------------------------------------------------------- */

/* What is no UTF-8 becomes three times as long; a chat template adds to that, twice at most. */
static uint64_t clean_bytes_max(uint64_t text_bytes)
{
    return 3 * text_bytes;
}

#define CHAT_ADDS_BYTES_MAX (2u * CHAT_BYTES_MAX)

uint64_t codec_text_bytes_max(const struct codec *c)
{
    uint64_t most = c ? tokenizer_text_bytes_max(c->tokenizer) : UINT32_MAX;
    return most > CHAT_ADDS_BYTES_MAX ? (most - CHAT_ADDS_BYTES_MAX) / clean_bytes_max(1) : 0;
}

int codec_scratch_new(const struct codec *c, uint64_t text_bytes_max,
                      struct codec_scratch **ret_scratch)
{
    struct codec_scratch *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    uint64_t bytes = clean_bytes_max(text_bytes_max), chat_bytes = bytes + CHAT_ADDS_BYTES_MAX;
    int r = 0;
    s->text_bytes_max = text_bytes_max;
    if (c) {
        s->clean = malloc(bytes + 1);
        s->chat.text = malloc(chat_bytes);
        r = s->clean && s->chat.text
                ? tokenizer_scratch_new(c->tokenizer, chat_bytes, &s->tokenizer)
                : -ENOMEM;
    }
    if (r != 0) {
        codec_scratch_free(s);
        return r;
    }
    *ret_scratch = s;
    return 0;
}

void codec_scratch_free(struct codec_scratch *s)
{
    if (!s)
        return;
    tokenizer_scratch_free(s->tokenizer);
    free(s->clean);
    free(s->chat.text);
    free(s);
}

static int encode_bytes(const uint8_t *text, uint64_t text_bytes, uint32_t *ids, uint32_t ids_max,
                        uint32_t *ret_count)
{
    if (text_bytes > ids_max)
        return CODEC_E_MANY;
    for (uint64_t i = 0; i < text_bytes; i++)
        ids[i] = text[i];
    *ret_count = (uint32_t)text_bytes;
    return CODEC_OK;
}

int codec_encode(const struct codec *c, struct codec_scratch *s, const uint8_t *text,
                 uint64_t text_bytes, bool chat, uint32_t *ids, uint32_t ids_max,
                 uint32_t *ret_count)
{
    *ret_count = 0;
    ASSERT(text_bytes <= s->text_bytes_max);
    if (chat && !(c && c->chat))
        return CODEC_E_CHAT;
    if (!c)
        return encode_bytes(text, text_bytes, ids, ids_max, ret_count);
    uint64_t bytes = tokenizer_clean(text, text_bytes, s->clean);
    struct added_range all = {0, bytes};
    struct tokenizer_text in = {
        .text = s->clean, .bytes = bytes, .plain = &all, .plain_count = 1, .affixes = true};
    if (chat) {
        struct chat_message message = {.role = CHAT_USER, .text = s->clean, .bytes = bytes};
        if (!chat_render(c->chat, &message, 1, &s->chat))
            return CODEC_E_CHAT;
        in = (struct tokenizer_text){.text = s->chat.text,
                                     .bytes = s->chat.bytes,
                                     .plain = s->chat.plain,
                                     .plain_count = s->chat.plain_count};
    }
    return tokenizer_encode(c->tokenizer, s->tokenizer, &in, ids, ids_max, ret_count)
               ? CODEC_OK
               : CODEC_E_MANY;
}

bool codec_is_end(const struct codec *c, uint32_t token)
{
    for (uint32_t i = 0; c && i < c->ends_count; i++)
        if (c->ends[i] == token)
            return true;
    return false;
}

/* ---- streams ----------------------------------------------------------------------------------- */

void codec_stream_init(struct codec_stream *stream, struct stops *stops)
{
    *stream = (struct codec_stream){.stops = stops};
}

static uint32_t text_push(struct codec_stream *stream, const struct codec *c, uint32_t token,
                          uint8_t *out)
{
    struct detokenizer *d = &stream->detokenizer;
    return c ? detokenizer_push(d, c->tokenizer, token, out)
             : detokenizer_push_byte(d, (uint8_t)token, out);
}

static bool stops_take(struct codec_stream *stream, const struct codec *c, uint32_t token,
                       uint8_t *out, uint32_t *ret_bytes)
{
    SCRATCH uint8_t text[DETOKENIZER_PUSH_BYTES_MAX];
    uint32_t bytes = text_push(stream, c, token, text);
    return stops_push(stream->stops, text, bytes, out, ret_bytes);
}

bool codec_push(struct codec_stream *stream, const struct codec *c, uint32_t token, uint8_t *out,
                uint32_t *ret_bytes)
{
    if (!stream->stops) {
        *ret_bytes = text_push(stream, c, token, out);
        return false;
    }
    return stops_take(stream, c, token, out, ret_bytes);
}

uint32_t codec_push_all(struct codec_stream *stream, const struct codec *c, const uint32_t *tokens,
                        uint32_t count, uint8_t *out)
{
    uint32_t bytes = 0, first = 0, i;
    ASSERT(!stream->stops);
    for (i = 0; !c && i < count; i++)
        bytes += detokenizer_push_byte(&stream->detokenizer, (uint8_t)tokens[i], out + bytes);
    for (i = 0; c && i <= count; i++) {
        if (i < count && !codec_is_end(c, tokens[i]))
            continue;
        bytes += detokenizer_push_all(&stream->detokenizer, c->tokenizer, tokens + first, i - first,
                                      out + bytes);
        first = i + 1;
    }
    return bytes;
}

bool codec_has(const struct codec *c, uint32_t token, char character)
{
    uint32_t bytes;
    const uint8_t *text;
    ASSERT(character != ' ' && character != '#');
    if (!c)
        return (uint8_t)token == (uint8_t)character;
    text = tokenizer_text_of(c->tokenizer, token, false, &bytes);
    for (uint32_t i = 0; text && i < bytes; i++)
        if (text[i] == (uint8_t)character)
            return true;
    return false;
}

uint32_t codec_flush(struct codec_stream *stream, const struct codec *c, uint8_t *out)
{
    SCRATCH uint8_t text[DETOKENIZER_PUSH_BYTES_MAX];
    uint32_t bytes = 0;
    (void)c;
    if (!stream->stops)
        return detokenizer_flush(&stream->detokenizer, out);
    /* A replacement character may complete a stop string; all the same the text ends here. */
    uint32_t text_bytes = detokenizer_flush(&stream->detokenizer, text);
    bool stopped = stops_push(stream->stops, text, text_bytes, out, &bytes);
    return stopped ? bytes : bytes + stops_flush(stream->stops, out + bytes);
}
