#include <string.h>

#include "daemon/base/scratch.h"
#include "daemon/program/run.h"
#include "daemon/program/run_impl.h"

/* ---- tokens ---------------------------------------------------------------------------------- */

const uint32_t *run_path(const struct run *r, uint32_t branch, uint32_t from, uint32_t *ret_count)
{
    const struct node *n = node_of(r, branch);
    uint32_t end = n->branch.path_tokens; /* where the next branch on the way begins */
    *ret_count = 0;
    if (from >= end)
        return NULL;
    uint32_t first = end - n->branch.tokens_count;
    while (from < first) {
        end = first;
        first -= n->fork_tokens;
        n = parent_of(n);
    }
    *ret_count = end - from;
    return tokens_of(r->runs, n) + (from - first);
}

/* ---- facts ----------------------------------------------------------------------------------- */

bool run_settled(const struct run *r, uint32_t branch)
{
    return node_of(r, branch)->settled;
}

bool run_rests(const struct run *r)
{
    return r->pending == 0 && r->roots_pending == 0;
}

struct ops_sample_row run_sampling(const struct run *r)
{
    return r->args.sampling;
}

uint32_t run_prompt_tokens(const struct run *r)
{
    return r->prompt_tokens;
}

/* ---- text ------------------------------------------------------------------------------------ */

/* The end of what does not fit is kept. */
static uint32_t text_cut(struct runs *rs, uint32_t bytes)
{
    if (bytes <= RUN_TEXT_BYTES)
        return bytes;
    memmove(rs->text, rs->text + bytes - RUN_TEXT_BYTES / 2, RUN_TEXT_BYTES / 2);
    return RUN_TEXT_BYTES / 2;
}

static uint32_t text_of(struct runs *rs, const uint32_t *tokens, uint32_t count,
                        struct codec_stream *stream, uint32_t bytes)
{
    for (uint32_t i = 0, some; i < count; i += some) {
        some = count - i < RUN_TEXT_TOKENS ? count - i : RUN_TEXT_TOKENS;
        bytes +=
            codec_push_all(stream, rs->config.codec, tokens + i, some, (uint8_t *)rs->text + bytes);
        bytes = text_cut(rs, bytes);
    }
    return bytes;
}

static const char *text_done(struct runs *rs, struct codec_stream *stream, uint32_t bytes,
                             uint32_t *ret_bytes)
{
    bytes += codec_flush(stream, rs->config.codec, (uint8_t *)rs->text + bytes);
    *ret_bytes = text_cut(rs, bytes);
    return rs->text;
}

const char *run_text_own(struct run *r, uint32_t branch, uint32_t *ret_bytes)
{
    struct codec_stream stream;
    uint32_t bytes = 0;
    codec_stream_init(&stream, NULL);
    const struct node *n = node_of(r, branch);
    bytes = text_of(r->runs, tokens_of(r->runs, n) + n->branch.given_tokens,
                    n->branch.tokens_count - n->branch.given_tokens, &stream, bytes);
    return text_done(r->runs, &stream, bytes, ret_bytes);
}

const char *run_text(struct run *r, uint32_t branch, uint32_t *ret_bytes)
{
    struct codec_stream stream;
    SCRATCH uint32_t path[RUN_DEPTH_MAX];
    uint32_t depth = 0, bytes = 0;
    codec_stream_init(&stream, NULL);
    for (uint32_t b = branch; b != RUN_NONE; b = run_get(r, b)->parent)
        path[depth++] = b;
    while (depth--) {
        const struct node *n = node_of(r, path[depth]);
        uint32_t end = depth ? node_of(r, path[depth - 1])->fork_tokens : n->branch.tokens_count;
        bytes = text_of(r->runs, tokens_of(r->runs, n), end, &stream, bytes);
    }
    return text_done(r->runs, &stream, bytes, ret_bytes);
}

/* ---- answers --------------------------------------------------------------------------------- */

bool run_answer_of(struct run *r, uint32_t branch, const char **ret_text, uint32_t *ret_bytes)
{
    static const struct answer_rule of_probe = {.kind = ANSWER_PROBE};
    struct answer_span span;
    uint32_t bytes;
    if (r->args.parameters.answer.kind == ANSWER_NONE)
        return false;
    bool probe = run_get(r, branch)->given_tokens > 0;
    const char *text = probe ? run_text_own(r, branch, &bytes) : run_text(r, branch, &bytes);
    if (answer_extract(probe ? &of_probe : &r->args.parameters.answer, text, bytes, &span) != 0)
        return false;
    *ret_text = text + span.start;
    *ret_bytes = span.bytes;
    return true;
}

bool run_answer(struct run *r, const char **ret_text, uint32_t *ret_bytes)
{
    if (r->result.answer == RUN_NONE || !run_answer_of(r, r->result.answer, ret_text, ret_bytes))
        return false;
    *ret_bytes = *ret_bytes < ANSWER_BYTES_MAX ? *ret_bytes : ANSWER_BYTES_MAX;
    return true;
}
