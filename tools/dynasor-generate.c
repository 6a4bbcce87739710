/* dynasor-generate — one model, one prompt, in one process: what the daemon's engine writes, without
 * the daemon.
 *
 * Same engine, same codec, same random numbers (seed, branch, tokens written), so the same tokens.
 * The branches share the prompt's full pages; each has a copy of the last, partial one and pages of
 * its own after it. Text goes to stdout, figures to stderr. Exit status: 0, 1 (failed; the message
 * says what), 2 (the command line makes no sense). */
#include <argp.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/clock.h"
#include "daemon/base/rng.h"
#include "daemon/engine/engine.h"
#include "daemon/text/chat.h"
#include "daemon/text/codec.h"
#include "kernels/cpu/cpu.h"

#define PROMPT_BYTES_MAX (64u << 20)
#define PREFILL_TOKENS 512u /* of one step */
#define BRANCHES_MAX 1024u
#define ERROR_BYTES 1024u
#define STOP_TOKENS_MAX 8u
#define BIASES_MAX 256u

struct options {
    const char *directory;
    const char *prompt; /* NULL: prompt_file */
    const char *prompt_file;
    bool chat;
    const char *chat_family; /* NULL: the model's own */
    bool bytes;
    bool ids;
    bool ignore_eos;
    bool float32;
    uint32_t tokens_max;
    uint32_t branches_count;
    uint32_t threads_count;
    uint32_t ranks_count;
    uint32_t context_tokens;
    int32_t cpu_level;
    uint64_t kv_mib;
    uint64_t seed;
    struct ops_sample_row sampling;
    bool signals;
    uint8_t stops[STOPS_MAX * (1 + STOPS_STRING_BYTES_MAX)]; /* as stops_init() wants them */
    uint32_t stops_bytes;
    uint32_t stops_count;
    uint32_t stop_tokens[STOP_TOKENS_MAX];
    uint32_t stop_tokens_count;
    struct ops_bias biases[BIASES_MAX];
    uint32_t biases_count;
};

struct branch {
    struct codec_stream stream;
    struct stops stops;
    char *text; /* when there are several: printed at the end */
    size_t text_bytes;
    size_t text_room_bytes;
    uint32_t *tokens; /* written so far */
    uint32_t tokens_count;
    bool done;
};

struct run {
    struct options options;
    struct codec *codec;
    struct engine *engine;
    struct engine_info info;
    struct engine_batch *batch;
    uint32_t *prompt; /* token ids */
    uint32_t prompt_count;
    uint32_t shared_pages; /* full pages of the prompt without its last token */
    uint32_t own_pages;    /* of each branch, after them */
    struct branch *branches;
    char message[ERROR_BYTES];
};

__attribute__((format(printf, 2, 3))) static int fail(struct run *r, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(r->message, sizeof r->message, format, args); /* a cut message is as good */
    va_end(args);
    return 1;
}

/* ---- the command line ----------------------------------------------------------------------- */

enum option_key {
    KEY_PROMPT = 'p',
    KEY_FILE = 'f',
    KEY_COUNT = 'n',
    KEY_CHAT = 256,
    KEY_BYTES,
    KEY_IDS,
    KEY_TOKENS,
    KEY_TEMPERATURE,
    KEY_TOP_K,
    KEY_TOP_P,
    KEY_MIN_P,
    KEY_REPETITION,
    KEY_PRESENCE,
    KEY_FREQUENCY,
    KEY_SEED,
    KEY_THREADS,
    KEY_LEVEL,
    KEY_FLOAT32,
    KEY_RANKS,
    KEY_CONTEXT,
    KEY_KV,
    KEY_IGNORE_EOS,
    KEY_STOP,
    KEY_STOP_TOKEN,
    KEY_BIAS,
    KEY_SIGNALS,
};

static const struct argp_option option_table[] = {
    {"prompt", KEY_PROMPT, "TEXT", 0, "the prompt; otherwise it is read from stdin", 0},
    {"prompt-file", KEY_FILE, "FILE", 0, "reads the prompt from FILE", 0},
    {"chat", KEY_CHAT, "FAMILY", OPTION_ARG_OPTIONAL,
     "wraps the prompt into the model's chat template, or that of a family", 0},
    {"max-tokens", KEY_TOKENS, "N", 0, "tokens to write at most (128)", 0},
    {"branches", KEY_COUNT, "N", 0, "continuations of the prompt (1)", 0},
    {"seed", KEY_SEED, "N", 0, "seed of the random numbers (0)", 0},
    {"temperature", KEY_TEMPERATURE, "T", 0, "0: the most probable token, always (1)", 0},
    {"top-k", KEY_TOP_K, "K", 0, "only the K most probable tokens (0: all)", 0},
    {"top-p", KEY_TOP_P, "P", 0, "only the most probable tokens that sum to P (1)", 0},
    {"min-p", KEY_MIN_P, "P", 0, "only tokens with P of the greatest probability (0)", 0},
    {"repetition", KEY_REPETITION, "R", 0, "penalty on tokens seen (1: none)", 0},
    {"presence", KEY_PRESENCE, "R", 0, "penalty on tokens written (0: none)", 0},
    {"frequency", KEY_FREQUENCY, "R", 0, "penalty on tokens by times written (0: none)", 0},
    {"ignore-eos", KEY_IGNORE_EOS, NULL, 0, "writes on after the end", 0},
    {"stop", KEY_STOP, "TEXT", 0, "ends before this text; up to 8 times", 0},
    {"stop-token", KEY_STOP_TOKEN, "ID", 0, "ends with this token; up to 8 times", 0},
    {"bias", KEY_BIAS, "ID:VALUE", 0, "adds VALUE to a token's logit; up to 256 times", 0},
    {"signals", KEY_SIGNALS, NULL, 0,
     "to stderr, for each token: branch, position, id, log-probability, entropy", 0},
    {"ids", KEY_IDS, NULL, 0, "prints token ids, one line a branch", 0},
    {"bytes", KEY_BYTES, NULL, 0, "one token a byte: for models without a tokenizer", 0},
    {"threads", KEY_THREADS, "N", 0, "threads (all cores)", 0},
    {"ranks", KEY_RANKS, "N", 0, "tensor-parallel ranks: 1, 2 or 4 (1)", 0},
    {"level", KEY_LEVEL, "NAME", 0, "at most scalar, avx2, avx512 or amx", 0},
    {"float32", KEY_FLOAT32, NULL, 0, "float32 matrices, activations and cache, not bf16", 0},
    {"context", KEY_CONTEXT, "N", 0, "most tokens of a sequence (what the model allows)", 0},
    {"kv-mib", KEY_KV, "N", 0, "memory of the KV cache (1024)", 0},
    {0},
};

static uint64_t number(struct argp_state *state, const char *text, uint64_t least, uint64_t most)
{
    char *end;
    unsigned long long value = strtoull(text, &end, 10);
    if (end == text || *end || text[0] == '-' || value < least || value > most)
        argp_error(state, "'%s': a number from %" PRIu64 " to %" PRIu64 " is wanted", text, least,
                   most);
    return value;
}

static float real(struct argp_state *state, const char *text, double least, double most)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= least && value <= most))
        argp_error(state, "'%s': a number from %g to %g is wanted", text, least, most);
    return (float)value;
}

static int32_t level(struct argp_state *state, const char *text)
{
    static const char *const names[CPU_LEVEL_COUNT] = {"scalar", "avx2", "avx512", "amx"};
    for (int32_t i = 0; i < CPU_LEVEL_COUNT; i++)
        if (strcmp(text, names[i]) == 0)
            return i;
    argp_error(state, "'%s': scalar, avx2, avx512 or amx is wanted", text);
    return -1;
}

static void add_stop(struct argp_state *state, const char *text)
{
    struct options *o = state->input;
    size_t bytes = strlen(text);
    if (o->stops_count == STOPS_MAX)
        argp_error(state, "--stop: at most %u are accepted", STOPS_MAX);
    if (bytes == 0 || bytes > STOPS_STRING_BYTES_MAX)
        argp_error(state, "--stop: a text of 1 to %u bytes is wanted", STOPS_STRING_BYTES_MAX);
    o->stops[o->stops_bytes] = (uint8_t)bytes;
    memcpy(o->stops + o->stops_bytes + 1, text, bytes);
    o->stops_bytes += 1 + (uint32_t)bytes;
    o->stops_count++;
}

/* ID:VALUE */
static void add_bias(struct argp_state *state, char *text)
{
    struct options *o = state->input;
    char *value = strchr(text, ':');
    if (o->biases_count == BIASES_MAX)
        argp_error(state, "--bias: at most %u are accepted", BIASES_MAX);
    if (!value)
        argp_error(state, "'%s': ID:VALUE is wanted", text);
    *value++ = 0;
    o->biases[o->biases_count++] = (struct ops_bias){
        .token = (uint32_t)number(state, text, 0, UINT32_MAX - 1),
        .bias = real(state, value, -1000, 1000),
    };
}

static error_t parse_end(int key, char *text, struct argp_state *state)
{
    struct options *o = state->input;
    switch (key) {
    case KEY_STOP:
        add_stop(state, text);
        return 0;
    case KEY_STOP_TOKEN:
        if (o->stop_tokens_count == STOP_TOKENS_MAX)
            argp_error(state, "--stop-token: at most %u are accepted", STOP_TOKENS_MAX);
        o->stop_tokens[o->stop_tokens_count++] = (uint32_t)number(state, text, 0, UINT32_MAX - 1);
        return 0;
    case KEY_BIAS:
        add_bias(state, text);
        return 0;
    case KEY_SIGNALS:
        o->signals = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_sampling(int key, char *text, struct argp_state *state)
{
    struct options *o = state->input;
    switch (key) {
    case KEY_TEMPERATURE:
        o->sampling.temperature = real(state, text, 0, 100);
        return 0;
    case KEY_TOP_K:
        o->sampling.top_k = (uint32_t)number(state, text, 0, UINT32_MAX);
        return 0;
    case KEY_TOP_P:
        o->sampling.top_p = real(state, text, 0, 1);
        return 0;
    case KEY_MIN_P:
        o->sampling.min_p = real(state, text, 0, 1);
        return 0;
    case KEY_REPETITION:
        o->sampling.repetition = real(state, text, 0.01, 100);
        return 0;
    case KEY_PRESENCE:
        o->sampling.presence = real(state, text, -2, 2);
        return 0;
    case KEY_FREQUENCY:
        o->sampling.frequency = real(state, text, -2, 2);
        return 0;
    case KEY_SEED:
        o->seed = number(state, text, 0, UINT64_MAX);
        return 0;
    default:
        return parse_end(key, text, state);
    }
}

static error_t parse_engine(int key, char *text, struct argp_state *state)
{
    struct options *o = state->input;
    switch (key) {
    case KEY_THREADS:
        o->threads_count = (uint32_t)number(state, text, 1, 1024);
        return 0;
    case KEY_RANKS:
        o->ranks_count = (uint32_t)number(state, text, 1, 4);
        return 0;
    case KEY_LEVEL:
        o->cpu_level = level(state, text);
        return 0;
    case KEY_FLOAT32:
        o->float32 = true;
        return 0;
    case KEY_CONTEXT:
        o->context_tokens = (uint32_t)number(state, text, 1, 1u << 24);
        return 0;
    case KEY_KV:
        o->kv_mib = number(state, text, 1, UINT64_C(1) << 24);
        return 0;
    default:
        return parse_sampling(key, text, state);
    }
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct options *o = state->input;
    switch (key) {
    case KEY_PROMPT:
        o->prompt = text;
        return 0;
    case KEY_FILE:
        o->prompt_file = text;
        return 0;
    case KEY_CHAT:
        o->chat = true;
        o->chat_family = text;
        return 0;
    case KEY_BYTES:
        o->bytes = true;
        return 0;
    case KEY_IDS:
        o->ids = true;
        return 0;
    case KEY_IGNORE_EOS:
        o->ignore_eos = true;
        return 0;
    case KEY_TOKENS:
        o->tokens_max = (uint32_t)number(state, text, 1, 1u << 24);
        return 0;
    case KEY_COUNT:
        o->branches_count = (uint32_t)number(state, text, 1, BRANCHES_MAX);
        return 0;
    case ARGP_KEY_ARG:
        if (o->directory)
            argp_error(state, "one model folder is wanted");
        o->directory = text;
        return 0;
    case ARGP_KEY_END:
        if (!o->directory)
            argp_error(state, "the model's folder is missing");
        return 0;
    default:
        return parse_engine(key, text, state);
    }
}

/* ---- opening -------------------------------------------------------------------------------- */

static int read_all(struct run *r, FILE *file, const char *name, char **ret_text, size_t *ret_bytes)
{
    size_t room = 1u << 16, bytes = 0;
    char *text = NULL;
    for (;;) {
        char *more = realloc(text, room);
        if (!more) {
            free(text);
            return fail(r, "%s: no memory", name);
        }
        text = more;
        bytes += fread(text + bytes, 1, room - bytes, file);
        if (bytes < room)
            break;
        if (room >= PROMPT_BYTES_MAX) {
            free(text);
            return fail(r, "%s: a prompt has at most %u bytes", name, PROMPT_BYTES_MAX);
        }
        room *= 2;
    }
    if (ferror(file)) {
        free(text);
        return fail(r, "%s: %m", name);
    }
    *ret_text = text;
    *ret_bytes = bytes;
    return 0;
}

static int read_prompt(struct run *r, char **ret_text, size_t *ret_bytes)
{
    const struct options *o = &r->options;
    if (o->prompt) {
        *ret_text = strdup(o->prompt);
        *ret_bytes = strlen(o->prompt);
        return *ret_text ? 0 : fail(r, "no memory for the prompt");
    }
    if (!o->prompt_file)
        return read_all(r, stdin, "stdin", ret_text, ret_bytes);
    FILE *file = fopen(o->prompt_file, "re");
    if (!file)
        return fail(r, "%s: %m", o->prompt_file);
    int result = read_all(r, file, o->prompt_file, ret_text, ret_bytes);
    (void)fclose(file); /* only read */
    return result;
}

static int no_chat(struct run *r)
{
    char names[512];
    chat_names(names, sizeof names);
    return fail(r, "%.300s: no chat template that we know; --chat=FAMILY takes %s",
                r->options.directory, names);
}

static int encode(struct run *r)
{
    char *text;
    size_t bytes;
    if (read_prompt(r, &text, &bytes) != 0)
        return 1;
    struct codec_scratch *scratch = NULL;
    uint32_t ids_max = r->info.context_tokens;
    r->prompt = calloc(ids_max, sizeof *r->prompt);
    int result = r->prompt && codec_scratch_new(r->codec, bytes, &scratch) == 0
                     ? codec_encode(r->codec, scratch, (const uint8_t *)text, bytes,
                                    r->options.chat, r->prompt, ids_max, &r->prompt_count)
                     : -1;
    codec_scratch_free(scratch);
    free(text);
    if (result == CODEC_E_MANY)
        return fail(r, "the prompt has more than %u tokens, the context", ids_max);
    if (result == CODEC_E_CHAT)
        return no_chat(r);
    if (result != CODEC_OK)
        return fail(r, "no memory for the prompt");
    if (r->prompt_count == 0)
        return fail(r, "the prompt is empty");
    for (uint32_t i = 0; i < r->prompt_count; i++)
        if (r->prompt[i] >= r->info.vocabulary)
            return fail(r, "the tokenizer's id %u is not below the model's vocabulary %u",
                        r->prompt[i], r->info.vocabulary);
    return 0;
}

static int open_model(struct run *r)
{
    const struct options *o = &r->options;
    char message[ENGINE_MESSAGE_BYTES] = "";
    if (!o->bytes && codec_open(o->directory, message, &r->codec) != 0)
        return fail(r, "%s", message);
    if (o->chat_family && r->codec && codec_set_chat(r->codec, o->chat_family, message) != 0)
        return fail(r, "%s", message);
    struct engine_config config = {
        .directory[ENGINE_POLICY] = o->directory,
        .float32 = o->float32,
        .ranks_count = o->ranks_count,
        .threads_count = o->threads_count,
        .cpu_level = o->cpu_level,
        .rows_max = o->branches_count,
        .tokens_max = o->branches_count > PREFILL_TOKENS ? o->branches_count : PREFILL_TOKENS,
        .context_tokens = o->context_tokens,
        .kv_bytes = o->kv_mib << 20,
        .dot_layer = -1};
    if (engine_open(&config, message, &r->engine) != 0)
        return fail(r, "%s", message);
    engine_info(r->engine, ENGINE_POLICY, &r->info);
    if (engine_batch_new(r->engine, &r->batch) != 0)
        return fail(r, "no memory for a batch");
    return 0;
}

/* Ids of the command line are the model's. */
static int check_ids(struct run *r)
{
    const struct options *o = &r->options;
    for (uint32_t i = 0; i < o->stop_tokens_count; i++)
        if (o->stop_tokens[i] >= r->info.vocabulary)
            return fail(r, "--stop-token=%u: ids are below %u", o->stop_tokens[i],
                        r->info.vocabulary);
    for (uint32_t i = 0; i < o->biases_count; i++)
        if (o->biases[i].token >= r->info.vocabulary)
            return fail(r, "--bias=%u: ids are below %u", o->biases[i].token, r->info.vocabulary);
    if (o->biases_count > r->batch->biases_max)
        return fail(r, "--bias: %u of them, a batch holds %u", o->biases_count,
                    r->batch->biases_max);
    return 0;
}

static bool penalises(const struct ops_sample_row *s)
{
    return s->repetition != 1 || s->presence != 0 || s->frequency != 0;
}

static int plan(struct run *r)
{
    struct options *o = &r->options;
    uint32_t room = r->info.context_tokens - r->prompt_count;
    if (check_ids(r) != 0)
        return 1;
    if (room == 0)
        return fail(r, "the prompt has %u tokens, all that the context holds", r->prompt_count);
    if (o->tokens_max > room)
        o->tokens_max = room;
    uint32_t length = r->prompt_count + o->tokens_max;
    r->shared_pages = (r->prompt_count - 1) / OPS_PAGE_TOKENS;
    r->own_pages = (length + OPS_PAGE_TOKENS - 1) / OPS_PAGE_TOKENS - r->shared_pages;
    uint64_t pages = r->shared_pages + 1 + (uint64_t)r->own_pages * o->branches_count;
    if (pages > r->info.kv_pages)
        return fail(r, "%u branches of %u tokens need %" PRIu64 " pages, --kv-mib holds %u",
                    o->branches_count, length, pages, r->info.kv_pages);
    if (penalises(&o->sampling) && (uint64_t)length * o->branches_count > r->batch->history_max)
        return fail(r, "penalties: %u branches of %u tokens are more than the %u of a batch",
                    o->branches_count, length, r->batch->history_max);
    r->branches = calloc(o->branches_count, sizeof *r->branches);
    if (!r->branches)
        return fail(r, "no memory for %u branches", o->branches_count);
    for (uint32_t i = 0; i < o->branches_count; i++) {
        struct branch *b = &r->branches[i];
        stops_init(&b->stops, o->stops, o->stops_bytes, false);
        codec_stream_init(&b->stream, o->stops_bytes > 0 ? &b->stops : NULL);
        r->branches[i].tokens = calloc(o->tokens_max, sizeof(uint32_t));
        if (!r->branches[i].tokens)
            return fail(r, "no memory for %u tokens", o->tokens_max);
    }
    return 0;
}

/* ---- steps ---------------------------------------------------------------------------------- */

/* Page i of branch: the prompt's full pages come first, then its last page as the stem wrote it,
 * then those of branch 0, of branch 1, ... */
static uint32_t page_of(const struct run *r, uint32_t branch, uint32_t i)
{
    return i < r->shared_pages ? i
                               : r->shared_pages + 1 + branch * r->own_pages + i - r->shared_pages;
}

static int step(struct run *r)
{
    if (engine_post(r->engine, r->batch, clock_now_ns()) != ENGINE_OK)
        return fail(r, "the engine is busy");
    while (!engine_next(r->engine, ENGINE_POLICY, clock_now_ns())) {
        struct pollfd fd = {.fd = engine_fd(r->engine, ENGINE_POLICY), .events = POLLIN};
        (void)poll(&fd, 1, -1); /* interrupted: asked again */
    }
    return 0;
}

/* Everything of the prompt but its last token, which each branch computes by itself. */
static int prefill(struct run *r)
{
    struct engine_batch *b = r->batch;
    uint32_t tokens_max =
        r->options.branches_count > PREFILL_TOKENS ? r->options.branches_count : PREFILL_TOKENS;
    for (uint32_t at = 0; at + 1 < r->prompt_count; at += b->tokens_count) {
        uint32_t left = r->prompt_count - 1 - at;
        b->role = ENGINE_POLICY;
        b->rows_count = 1;
        b->tokens_count = left < tokens_max ? left : tokens_max;
        b->copies_count = b->freed_count = b->history_count = b->biases_count = 0;
        b->rows[0] = (struct engine_row){.tokens_count = b->tokens_count, .position = at};
        memcpy(b->tokens, r->prompt + at, b->tokens_count * sizeof(uint32_t));
        for (uint32_t i = 0; i <= r->shared_pages; i++)
            b->pages[i] = i;
        if (step(r) != 0)
            return 1;
    }
    return 0;
}

static void add_row(struct run *r, uint32_t idx, bool first)
{
    struct engine_batch *b = r->batch;
    struct branch *branch = &r->branches[idx];
    uint32_t position = r->prompt_count + branch->tokens_count - 1;
    uint32_t last_page = position / OPS_PAGE_TOKENS;
    uint32_t valid = (r->prompt_count - 1) % OPS_PAGE_TOKENS;
    struct engine_row *row = &b->rows[b->rows_count];
    *row = (struct engine_row){.seq = idx,
                               .tokens_first = b->tokens_count,
                               .tokens_count = 1,
                               .position = position,
                               .shared_pages = b->rows_count ? r->shared_pages : 0,
                               .want = ENGINE_WANT_TOKEN,
                               .sampling = r->options.sampling};
    row->sampling.bias_count = b->biases_count; /* all rows share them */
    row->sampling.random = rng_u32(r->options.seed, idx, branch->tokens_count);
    b->tokens[b->tokens_count] = branch->tokens_count ? branch->tokens[branch->tokens_count - 1]
                                                      : r->prompt[r->prompt_count - 1];
    uint32_t *pages = b->pages + (size_t)b->rows_count * b->pages_stride;
    for (uint32_t i = 0; i <= last_page; i++)
        pages[i] = page_of(r, idx, i);
    if (first && valid)
        b->copies[b->copies_count++] = (struct ops_page_copy){
            .from = r->shared_pages, .to = pages[last_page], .valid_tokens = valid};
    if (penalises(&row->sampling)) {
        uint32_t *history = b->history + b->history_count;
        memcpy(history, r->prompt, r->prompt_count * sizeof(uint32_t));
        memcpy(history + r->prompt_count, branch->tokens, branch->tokens_count * sizeof(uint32_t));
        row->sampling.history_first = b->history_count;
        row->sampling.history_count = r->prompt_count + branch->tokens_count;
        row->sampling.history_prompt_count = r->prompt_count;
        b->history_count += row->sampling.history_count;
    }
    b->rows_count++;
    b->tokens_count++;
}

/* ---- output --------------------------------------------------------------------------------- */

static int put_text(struct run *r, struct branch *branch, const void *text, uint32_t bytes)
{
    if (r->options.ids)
        return 0;
    if (r->options.branches_count == 1) {
        if (fwrite(text, 1, bytes, stdout) != bytes || fflush(stdout) != 0)
            return fail(r, "stdout: %m");
        return 0;
    }
    if (branch->text_bytes + bytes > branch->text_room_bytes) {
        size_t room = 2 * (branch->text_bytes + bytes);
        char *more = realloc(branch->text, room);
        if (!more)
            return fail(r, "no memory for the text");
        branch->text = more;
        branch->text_room_bytes = room;
    }
    if (bytes)
        memcpy(branch->text + branch->text_bytes, text, bytes);
    branch->text_bytes += bytes;
    return 0;
}

static bool is_stop_token(const struct options *o, uint32_t token)
{
    for (uint32_t i = 0; i < o->stop_tokens_count; i++)
        if (o->stop_tokens[i] == token)
            return true;
    return false;
}

static int take_token(struct run *r, struct branch *branch, const struct ops_sampled *sampled)
{
    uint8_t text[CODEC_PUSH_BYTES_MAX];
    uint32_t bytes = 0;
    if (sampled->numeric)
        return fail(r, "token %u: the logits are not numbers", branch->tokens_count);
    if (r->options.signals)
        (void)fprintf(stderr, "signal %u %u %u %.6g %.6g\n", (uint32_t)(branch - r->branches),
                      branch->tokens_count, sampled->token, (double)sampled->log_probability,
                      (double)sampled->entropy);
    branch->tokens[branch->tokens_count++] = sampled->token;
    bool ends = is_stop_token(&r->options, sampled->token) ||
                (r->codec && !r->options.ignore_eos && codec_is_end(r->codec, sampled->token));
    bool stopped = !ends && codec_push(&branch->stream, r->codec, sampled->token, text, &bytes);
    branch->done = ends || stopped || branch->tokens_count == r->options.tokens_max;
    if (put_text(r, branch, text, bytes) != 0)
        return 1;
    if (!branch->done || stopped) /* what was held back is the stop string */
        return 0;
    return put_text(r, branch, text, codec_flush(&branch->stream, r->codec, text));
}

static int print(struct run *r)
{
    for (uint32_t i = 0; i < r->options.branches_count; i++) {
        const struct branch *branch = &r->branches[i];
        if (r->options.ids) {
            for (uint32_t t = 0; t < branch->tokens_count; t++)
                (void)printf("%s%u", t ? " " : "", branch->tokens[t]);
        } else if (r->options.branches_count > 1) {
            (void)printf("--- %u ---\n", i);
            (void)fwrite(branch->text, 1, branch->text_bytes, stdout);
        }
        (void)printf("\n");
    }
    return fflush(stdout) == 0 && !ferror(stdout) ? 0 : fail(r, "stdout: %m");
}

static int generate(struct run *r)
{
    uint64_t begin_ns = clock_now_ns(), first_ns = 0, tokens = 0;
    if (prefill(r) != 0)
        return 1;
    struct engine_batch *b = r->batch;
    memcpy(b->biases, r->options.biases, r->options.biases_count * sizeof *b->biases);
    b->biases_count = r->options.biases_count;
    for (uint32_t turn = 0;; turn++) {
        b->rows_count = b->tokens_count = b->copies_count = b->history_count = 0;
        for (uint32_t i = 0; i < r->options.branches_count; i++)
            if (!r->branches[i].done)
                add_row(r, i, turn == 0);
        if (b->rows_count == 0)
            break;
        if (step(r) != 0)
            return 1;
        if (turn == 0)
            first_ns = clock_now_ns();
        tokens += b->rows_count;
        for (uint32_t i = 0; i < b->rows_count; i++)
            if (take_token(r, &r->branches[b->rows[i].seq], &b->outputs[i].sampled) != 0)
                return 1;
    }
    double decode_s = (double)(clock_now_ns() - first_ns) / NS_PER_S;
    if (print(r) != 0)
        return 1;
    (void)fprintf(stderr, "prompt %u tokens, first token after %.1f ms, %" PRIu64 " tokens",
                  r->prompt_count, (double)(first_ns - begin_ns) / NS_PER_MS, tokens);
    if (tokens > r->options.branches_count)
        (void)fprintf(stderr, ", %.1f tokens/s",
                      (double)(tokens - r->options.branches_count) / decode_s);
    (void)fprintf(stderr, "\n");
    return 0;
}

int main(int argc, char **argv)
{
    static const struct argp argp = {.options = option_table,
                                     .parser = parse,
                                     .args_doc = "FOLDER",
                                     .doc = "Continues a prompt with the model in FOLDER."};
    static struct run r = {
        .options = {
            .tokens_max = 128,
            .branches_count = 1,
            .ranks_count = 1,
            .cpu_level = -1,
            .kv_mib = 1024,
            .sampling = {.temperature = 1, .top_p = 1, .repetition = 1, .forced_token = OPS_NONE}}};
    argp_err_exit_status = 2;
    if (argp_parse(&argp, argc, argv, 0, NULL, &r.options) != 0)
        return 2;
    int result = open_model(&r);
    result = result ? result : encode(&r);
    result = result ? result : plan(&r);
    result = result ? result : generate(&r);
    if (result)
        (void)fprintf(stderr, "dynasor-generate: %s\n", r.message);
    for (uint32_t i = 0; r.branches && i < r.options.branches_count; i++) {
        free(r.branches[i].tokens);
        free(r.branches[i].text);
    }
    free(r.branches);
    free(r.prompt);
    engine_batch_free(r.batch);
    engine_close(r.engine);
    codec_free(r.codec);
    return result;
}
