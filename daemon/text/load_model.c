#include "daemon/text/load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/text/byte_level.h"

/* ---- vocabulary -------------------------------------------------------------------------------- */

struct extent {
    uint32_t count; /* the highest id and one */
    uint64_t bytes; /* of all texts */
    uint32_t tokens;
};

static void extent_add(struct extent *e, uint32_t id, uint64_t bytes)
{
    e->count = id >= e->count ? id + 1 : e->count;
    e->bytes += bytes;
    e->tokens++;
}

static int vocab_extent(struct load *l, const struct json *vocab, struct extent *e)
{
    void *cursor = NULL;
    const char *key;
    const struct json *value;
    uint32_t limit = l->ids_max < VOCABULARY_COUNT_MAX ? l->ids_max : VOCABULARY_COUNT_MAX;
    if (json_kind(vocab) != JSON_KIND_OBJECT || json_count(vocab) == 0)
        return load_fault(l, "model.vocab: not an object with tokens");
    while (json_next(vocab, &cursor, &key, &value)) {
        uint64_t id;
        if (!json_u64(value, &id) || id >= limit)
            return load_fault(l, "model.vocab: \"%.80s\": ids below %u are accepted", key, limit);
        if (strlen(key) > VOCABULARY_TEXT_BYTES_MAX)
            return load_fault(l, "model.vocab: token %llu is longer than %u bytes",
                              (unsigned long long)id, VOCABULARY_TEXT_BYTES_MAX);
        extent_add(e, (uint32_t)id, strlen(key));
    }
    return 0;
}

static int vocab_fill(struct load *l, const struct json *vocab)
{
    void *cursor = NULL;
    const char *key;
    const struct json *value;
    while (json_next(vocab, &cursor, &key, &value)) {
        uint64_t id = 0;
        (void)json_u64(value, &id);
        if (!vocabulary_add(&l->tokenizer->vocabulary, (uint32_t)id, key, (uint32_t)strlen(key)))
            return load_fault(l, "model.vocab: \"%.80s\": id %llu is another token's", key,
                              (unsigned long long)id);
    }
    return 0;
}

/* ---- added tokens ------------------------------------------------------------------------------ */

static int added_read(struct load *l, const struct json *value, const char *path,
                      struct added_token *token, const char **ret_text, uint32_t *ret_bytes)
{
    int r;
    if ((r = load_object(l, value, path,
                         "id content single_word lstrip rstrip normalized special ")) != 0 ||
        (r = load_u32(l, value, path, "id", 0, VOCABULARY_COUNT_MAX - 1, &token->id)) != 0 ||
        (r = load_text(l, value, path, "content", DETOKENIZER_TOKEN_BYTES_MAX, ret_text,
                       ret_bytes)) != 0 ||
        (r = load_bool(l, value, path, "single_word", &token->single_word)) != 0 ||
        (r = load_bool(l, value, path, "lstrip", &token->strip_left)) != 0 ||
        (r = load_bool(l, value, path, "rstrip", &token->strip_right)) != 0 ||
        (r = load_bool(l, value, path, "normalized", &token->normalized)) != 0 ||
        (r = load_bool(l, value, path, "special", &token->special)) != 0)
        return r;
    token->control = token->special;
    return 0;
}

static int added_extent(struct load *l, const struct json *added, struct extent *e)
{
    char path[LOAD_PATH_BYTES];
    if (json_kind(added) != JSON_KIND_ARRAY)
        return load_fault(l, "added_tokens: not an array");
    for (uint32_t i = 0; i < json_count(added); i++) {
        struct added_token token;
        const char *text;
        uint32_t bytes;
        (void)snprintf(path, sizeof path, "added_tokens[%u]", i);
        int r = added_read(l, json_element(added, i), path, &token, &text, &bytes);
        if (r != 0)
            return r;
        if (token.id < l->ids_max)
            extent_add(e, token.id, bytes);
    }
    return 0;
}

static int added_fill(struct load *l, const struct json *added)
{
    struct tokenizer *t = l->tokenizer;
    char path[LOAD_PATH_BYTES];
    t->added_tokens = calloc(json_count(added) + 1, sizeof *t->added_tokens);
    if (!t->added_tokens)
        return -ENOMEM;
    for (uint32_t i = 0; i < json_count(added); i++) {
        struct added_token *token = &t->added_tokens[t->added_count];
        const char *text;
        uint32_t bytes;
        (void)snprintf(path, sizeof path, "added_tokens[%u]", i);
        int r = added_read(l, json_element(added, i), path, token, &text, &bytes);
        if (r != 0)
            return r;
        if (token->id >= l->ids_max)
            continue;
        uint32_t there = vocabulary_find(&t->vocabulary, text, bytes);
        if (there != token->id && !vocabulary_add(&t->vocabulary, token->id, text, bytes))
            return load_fault(l, "%s.%s", path,
                              there == VOCABULARY_NONE ? "id: another token's"
                                                       : "content: a token with another id");
        uint8_t *flags = &t->vocabulary.entries[token->id].flags;
        if (*flags & VOCABULARY_ADDED)
            return load_fault(l, "%s.id: there already", path);
        *flags = VOCABULARY_ADDED;
        if (token->special)
            *flags |= VOCABULARY_SILENT | VOCABULARY_CONTROL;
        t->added_count++;
    }
    return 0;
}

/* ---- BPE --------------------------------------------------------------------------------------- */

/* A merge is "left right" or ["left", "right"]; both halves, and what they make, are tokens. */
static int merge_read(const struct json *merge, const char **left, size_t *left_bytes,
                      const char **right, size_t *right_bytes)
{
    if (json_kind(merge) == JSON_KIND_ARRAY && json_count(merge) == 2) {
        *left = json_text(json_element(merge, 0), left_bytes);
        *right = json_text(json_element(merge, 1), right_bytes);
        return *left && *right ? 0 : -EINVAL;
    }
    size_t bytes = 0;
    *left = json_text(merge, &bytes);
    const char *space = *left ? memchr(*left, ' ', bytes) : NULL;
    if (!space)
        return -EINVAL;
    *left_bytes = (size_t)(space - *left);
    *right = space + 1;
    *right_bytes = bytes - *left_bytes - 1;
    return memchr(*right, ' ', *right_bytes) ? -EINVAL : 0;
}

static int merge_add(struct load *l, const struct json *merge, uint32_t idx)
{
    struct tokenizer *t = l->tokenizer;
    char both[VOCABULARY_TEXT_BYTES_MAX];
    const char *left, *right;
    size_t left_bytes = 0, right_bytes = 0;
    if (merge_read(merge, &left, &left_bytes, &right, &right_bytes) != 0 || left_bytes == 0 ||
        right_bytes == 0)
        return load_fault(l, "model.merges[%u]: not two tokens", idx);
    if (left_bytes + right_bytes > sizeof both)
        return load_fault(l, "model.merges[%u]: longer than a token", idx);
    memcpy(both, left, left_bytes);
    memcpy(both + left_bytes, right, right_bytes);
    uint32_t ids[3] = {vocabulary_find(&t->vocabulary, left, left_bytes),
                       vocabulary_find(&t->vocabulary, right, right_bytes),
                       vocabulary_find(&t->vocabulary, both, left_bytes + right_bytes)};
    for (uint32_t i = 0; i < 3; i++)
        if (ids[i] == VOCABULARY_NONE)
            return load_fault(l, "model.merges[%u]: %s is not in model.vocab", idx,
                              i == 0   ? "its left half"
                              : i == 1 ? "its right half"
                                       : "what it makes");
    if (!bpe_add(&t->bpe, ids[0], ids[1], ids[2]))
        return load_fault(l, "model.merges[%u]: there already", idx);
    return 0;
}

static int bytes_fill(struct load *l)
{
    struct bpe *b = &l->tokenizer->bpe;
    for (uint32_t i = 0; i < 256; i++) {
        char spelled[8];
        uint8_t byte = (uint8_t)i;
        uint32_t bytes = 6;
        if (b->byte_level)
            bytes = byte_level_spell(&byte, 1, (uint8_t *)spelled);
        else
            (void)snprintf(spelled, sizeof spelled, "<0x%02X>", i);
        b->byte_ids[i] = vocabulary_find(b->vocabulary, spelled, bytes);
        if (b->byte_fallback && b->byte_ids[i] == VOCABULARY_NONE)
            return load_fault(l, "model.vocab: %.6s is missing; model.byte_fallback needs all 256",
                              spelled);
    }
    return 0;
}

/* null, or a text that must be empty. */
static int load_empty(struct load *l, const struct json *model, const char *name)
{
    const struct json *value = json_member(model, name);
    if (json_kind(value) == JSON_KIND_NULL || json_is(value, ""))
        return 0;
    return load_fault(l, "model.%s: only null and \"\" are accepted", name);
}

static int load_unknown(struct load *l, const struct json *model, uint32_t *ret_id)
{
    const char *text;
    uint32_t bytes;
    int r = load_text(l, model, "model", "unk_token", VOCABULARY_TEXT_BYTES_MAX, &text, &bytes);
    if (r != 0)
        return r;
    *ret_id = vocabulary_find(&l->tokenizer->vocabulary, text, bytes);
    return *ret_id == VOCABULARY_NONE ? load_fault(l, "model.unk_token: not a token") : 0;
}

static int load_bpe(struct load *l, const struct json *model)
{
    struct tokenizer *t = l->tokenizer;
    struct bpe *b = &t->bpe;
    const struct json *merges = json_member(model, "merges");
    double dropout = 0;
    int r;
    b->vocabulary = &t->vocabulary;
    b->byte_level = t->byte_level;
    b->unknown = VOCABULARY_NONE;
    if (json_kind(json_member(model, "dropout")) != JSON_KIND_NULL &&
        (!json_double(json_member(model, "dropout"), &dropout) || dropout != 0))
        return load_fault(l, "model.dropout: only null and 0 are accepted");
    if ((r = load_empty(l, model, "continuing_subword_prefix")) != 0 ||
        (r = load_empty(l, model, "end_of_word_suffix")) != 0 ||
        (r = load_bool_or(l, model, "model", "fuse_unk", &b->fuse_unknown)) != 0 ||
        (r = load_bool_or(l, model, "model", "byte_fallback", &b->byte_fallback)) != 0 ||
        (r = load_bool_or(l, model, "model", "ignore_merges", &b->ignore_merges)) != 0)
        return r;
    if (json_kind(json_member(model, "unk_token")) != JSON_KIND_NULL &&
        (r = load_unknown(l, model, &b->unknown)) != 0)
        return r;
    if (b->byte_fallback && b->byte_level)
        return load_fault(l, "model.byte_fallback: only false is accepted with byte level");
    if (json_kind(merges) != JSON_KIND_ARRAY || json_count(merges) > VOCABULARY_COUNT_MAX)
        return load_fault(l, "model.merges: not an array of at most %u", VOCABULARY_COUNT_MAX);
    if ((r = bytes_fill(l)) != 0 || (r = bpe_init(b, json_count(merges))) != 0)
        return r;
    for (uint32_t i = 0; r == 0 && i < json_count(merges); i++)
        r = merge_add(l, json_element(merges, i), i);
    return r;
}

/* ---- WordPiece --------------------------------------------------------------------------------- */

static int load_wordpiece(struct load *l, const struct json *model)
{
    struct tokenizer *t = l->tokenizer;
    struct wordpiece *w = &t->wordpiece;
    const char *prefix;
    int r;
    w->vocabulary = &t->vocabulary;
    if (t->byte_level)
        return load_fault(l, "model.type: WordPiece is not accepted with byte level");
    if ((r = load_unknown(l, model, &w->unknown)) != 0 ||
        (r = load_text(l, model, "model", "continuing_subword_prefix", WORDPIECE_PREFIX_BYTES_MAX,
                       &prefix, &w->prefix_bytes)) != 0 ||
        (r = load_u32(l, model, "model", "max_input_chars_per_word", 1, WORDPIECE_CHARACTERS_MAX,
                      &w->characters_max)) != 0)
        return r;
    memcpy(w->prefix, prefix, w->prefix_bytes);
    for (uint32_t i = 0; i < t->vocabulary.count; i++)
        if (t->vocabulary.entries[i].text_bytes > w->token_bytes_max)
            w->token_bytes_max = t->vocabulary.entries[i].text_bytes;
    return 0;
}

/* ------------------------------------------------------------------------------------------------ */

/* Files before `tokenizers` 0.10 do not say the type. */
static int model_type(struct load *l, const struct json *model)
{
    const char *type = json_text(json_member(model, "type"), NULL);
    if (json_kind(model) != JSON_KIND_OBJECT)
        return load_fault(l, "model: not an object");
    if (!json_member(model, "type"))
        type = json_member(model, "merges") ? "BPE" : "WordPiece";
    if (type && strcmp(type, "BPE") == 0)
        l->tokenizer->model = TOKENIZER_BPE;
    else if (type && strcmp(type, "WordPiece") == 0)
        l->tokenizer->model = TOKENIZER_WORDPIECE;
    else
        return load_fault(l, "model.type: only BPE and WordPiece are accepted");
    return 0;
}

int load_model(struct load *l, const struct json *model, const struct json *added)
{
    struct extent extent = {0};
    const struct json *vocab = json_member(model, "vocab");
    int r = model_type(l, model);
    if (r != 0)
        return r;
    bool bpe = l->tokenizer->model == TOKENIZER_BPE;
    if ((r = load_object(
             l, model, "model",
             bpe ? "type dropout unk_token continuing_subword_prefix "
                   "end_of_word_suffix fuse_unk byte_fallback ignore_merges vocab merges "
                 : "type unk_token continuing_subword_prefix "
                   "max_input_chars_per_word vocab ")) != 0 ||
        (r = vocab_extent(l, vocab, &extent)) != 0 || (r = added_extent(l, added, &extent)) != 0)
        return r;
    /* Decoded texts are no longer, but for a space before words. */
    r = vocabulary_init(&l->tokenizer->vocabulary, extent.count, 2 * extent.bytes + extent.tokens);
    if (r != 0 || (r = vocab_fill(l, vocab)) != 0 || (r = added_fill(l, added)) != 0)
        return r;
    return bpe ? load_bpe(l, model) : load_wordpiece(l, model);
}
