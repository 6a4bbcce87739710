#include "daemon/text/load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/text/byte_level.h"

#define MARK "\xe2\x96\x81" /* U+2581 */

/* value is null, one component, or a Sequence of them below `list`; each goes to function. */
static int each_component(struct load *l, const struct json *value, const char *path,
                          const char *list,
                          int (*function)(struct load *l, const struct json *value,
                                          const char *path, const char *type))
{
    const char *type;
    char element_path[LOAD_PATH_BYTES];
    if (json_kind(value) == JSON_KIND_NULL)
        return 0;
    int r = load_type(l, value, path, &type);
    if (r != 0 || strcmp(type, "Sequence") != 0)
        return r != 0 ? r : function(l, value, path, type);
    const struct json *elements = json_member(value, list);
    if (json_kind(elements) != JSON_KIND_ARRAY || json_count(elements) > NORMALIZE_STEPS_MAX)
        return load_fault(l, "%s.%s: not an array of at most %u", path, list, NORMALIZE_STEPS_MAX);
    for (uint32_t i = 0; r == 0 && i < json_count(elements); i++) {
        load_path(element_path, path, list, i);
        r = load_type(l, json_element(elements, i), element_path, &type);
        if (r == 0)
            r = function(l, json_element(elements, i), element_path, type);
    }
    return r;
}

static int unknown_type(struct load *l, const char *path, const char *type, const char *known)
{
    return load_fault(l, "%s.type: %.60s is not accepted; %s are", path, type, known);
}

/* pattern: {"String": text} */
static int load_pattern_is(struct load *l, const struct json *value, const char *path,
                           const char *text)
{
    const struct json *pattern = json_member(value, "pattern");
    if (json_count(pattern) == 1 && json_is(json_member(pattern, "String"), text))
        return 0;
    return load_fault(l, "%s.pattern: only {\"String\": \"%s\"} is accepted", path, text);
}

/* ---- normalizer -------------------------------------------------------------------------------- */

static int step_add(struct load *l, const char *path, enum normalize_kind kind, const char *content,
                    uint32_t content_bytes)
{
    struct normalizer *n = &l->tokenizer->normalizer;
    if (n->count == NORMALIZE_STEPS_MAX)
        return load_fault(l, "%s: more than %u steps", path, NORMALIZE_STEPS_MAX);
    struct normalize_step *step = &n->steps[n->count++];
    step->kind = kind;
    step->content_bytes = content_bytes;
    if (content_bytes > 0)
        memcpy(step->content, content, content_bytes);
    return 0;
}

static int bert_normalizer(struct load *l, const struct json *value, const char *path)
{
    bool clean, chinese, lower, strip;
    int r;
    if ((r = load_object(l, value, path,
                         "type clean_text handle_chinese_chars strip_accents lowercase ")) != 0 ||
        (r = load_bool(l, value, path, "clean_text", &clean)) != 0 ||
        (r = load_bool(l, value, path, "handle_chinese_chars", &chinese)) != 0 ||
        (r = load_bool(l, value, path, "lowercase", &lower)) != 0)
        return r;
    strip = lower;
    if (json_kind(json_member(value, "strip_accents")) != JSON_KIND_NULL &&
        (r = load_bool(l, value, path, "strip_accents", &strip)) != 0)
        return r;
    if (clean)
        r = step_add(l, path, NORMALIZE_CLEAN, NULL, 0);
    if (r == 0 && chinese)
        r = step_add(l, path, NORMALIZE_CHINESE, NULL, 0);
    if (r == 0 && strip)
        r = step_add(l, path, NORMALIZE_NFD, NULL, 0);
    if (r == 0 && strip)
        r = step_add(l, path, NORMALIZE_NO_MARKS, NULL, 0);
    if (r == 0 && lower)
        r = step_add(l, path, NORMALIZE_LOWER, NULL, 0);
    return r;
}

static int normalizer_step(struct load *l, const struct json *value, const char *path,
                           const char *type)
{
    static const struct {
        const char *type;
        enum normalize_kind kind;
    } plain[] = {{"NFC", NORMALIZE_NFC},
                 {"NFD", NORMALIZE_NFD},
                 {"NFKC", NORMALIZE_NFKC},
                 {"NFKD", NORMALIZE_NFKD},
                 {"Lowercase", NORMALIZE_LOWER}};
    const char *content = NULL;
    uint32_t bytes = 0;
    int r;
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++)
        if (strcmp(type, plain[i].type) == 0)
            return (r = load_object(l, value, path, "type ")) != 0
                       ? r
                       : step_add(l, path, plain[i].kind, NULL, 0);
    if (strcmp(type, "BertNormalizer") == 0)
        return bert_normalizer(l, value, path);
    if (strcmp(type, "Prepend") == 0)
        return (r = load_object(l, value, path, "type prepend ")) != 0 ||
                       (r = load_text(l, value, path, "prepend", NORMALIZE_TEXT_BYTES_MAX, &content,
                                      &bytes)) != 0
                   ? r
                   : step_add(l, path, NORMALIZE_PREPEND, content, bytes);
    if (strcmp(type, "Replace") == 0)
        return (r = load_object(l, value, path, "type pattern content ")) != 0 ||
                       (r = load_pattern_is(l, value, path, " ")) != 0 ||
                       (r = load_text(l, value, path, "content", NORMALIZE_TEXT_BYTES_MAX, &content,
                                      &bytes)) != 0
                   ? r
                   : step_add(l, path, NORMALIZE_REPLACE, content, bytes);
    return unknown_type(l, path, type,
                        "BertNormalizer, Lowercase, NFC, NFD, NFKC, NFKD, Prepend, Replace");
}

int load_normalizer(struct load *l, const struct json *value)
{
    return each_component(l, value, "normalizer", "normalizers", normalizer_step);
}

/* ---- pre-tokenizer ----------------------------------------------------------------------------- */

static int byte_level(struct load *l, const struct json *value, const char *path)
{
    struct tokenizer *t = l->tokenizer;
    bool prefix, trim, regex = true;
    int r;
    if ((r = load_object(l, value, path, "type add_prefix_space trim_offsets use_regex ")) != 0 ||
        (r = load_bool(l, value, path, "add_prefix_space", &prefix)) != 0 ||
        (r = load_bool_or(l, value, path, "trim_offsets", &trim)) != 0 ||
        (r = load_bool_or(l, value, path, "use_regex", &regex)) != 0)
        return r;
    if (l->after_split && (prefix || regex))
        return load_fault(l, "%s.%s: only false is accepted after Split", path,
                          prefix ? "add_prefix_space" : "use_regex");
    t->byte_level = true;
    t->prefix = prefix ? TOKENIZER_PREFIX_ALWAYS : TOKENIZER_PREFIX_NEVER;
    if (regex)
        t->split = (struct split){.kind = SPLIT_PATTERN, .pattern = split_pattern_gpt2()};
    return 0;
}

static int metaspace_prefix(struct load *l, const struct json *value, const char *path)
{
    static const char *const schemes[] = {"never", "first", "always"};
    bool prefix = true;
    int r = load_bool_or(l, value, path, "add_prefix_space", &prefix);
    if (r != 0)
        return r;
    l->tokenizer->prefix = prefix ? TOKENIZER_PREFIX_ALWAYS : TOKENIZER_PREFIX_NEVER;
    if (!json_member(value, "prepend_scheme"))
        return 0;
    for (uint32_t i = 0; i < 3; i++)
        if (json_is(json_member(value, "prepend_scheme"), schemes[i])) {
            l->tokenizer->prefix = (enum tokenizer_prefix)i;
            return 0;
        }
    return load_fault(l, "%s.prepend_scheme: only always, first and never are accepted", path);
}

static int metaspace(struct load *l, const struct json *value, const char *path)
{
    bool split = true;
    int r;
    if ((r = load_object(l, value, path,
                         "type replacement str_rep add_prefix_space prepend_scheme split ")) != 0 ||
        (r = load_is(l, value, path, "replacement", MARK)) != 0 ||
        (r = load_bool_or(l, value, path, "split", &split)) != 0)
        return r;
    l->tokenizer->metaspace = true;
    l->tokenizer->split.kind = split ? SPLIT_METASPACE : SPLIT_NONE;
    return metaspace_prefix(l, value, path);
}

static int split(struct load *l, const struct json *value, const char *path)
{
    struct tokenizer *t = l->tokenizer;
    const struct json *pattern = json_member(value, "pattern");
    bool invert;
    int r;
    if ((r = load_object(l, value, path, "type pattern behavior invert ")) != 0 ||
        (r = load_bool(l, value, path, "invert", &invert)) != 0)
        return r;
    if (invert)
        return load_fault(l, "%s.invert: only false is accepted", path);
    if (json_count(pattern) == 1 && json_is(json_member(pattern, "String"), " ")) {
        t->split.kind = SPLIT_AFTER_SPACE;
        return load_is(l, value, path, "behavior", "MergedWithPrevious");
    }
    size_t bytes = 0;
    const char *text = json_text(json_member(pattern, "Regex"), &bytes);
    if (!text || json_count(pattern) != 1)
        return load_fault(l, "%s.pattern: not {\"Regex\": text} or {\"String\": \" \"}", path);
    t->split = (struct split){.kind = SPLIT_PATTERN, .pattern = split_pattern(text, bytes)};
    if (!t->split.pattern)
        return load_fault(l, "%s.pattern.Regex: not one of the known expressions: \"%.100s\"", path,
                          text);
    return load_is(l, value, path, "behavior", "Isolated");
}

static int pre_tokenizer_step(struct load *l, const struct json *value, const char *path,
                              const char *type)
{
    struct tokenizer *t = l->tokenizer;
    /* Each works on what those before it left: we know of one that may come before another. */
    if (t->metaspace || t->byte_level || t->split.kind == SPLIT_BERT ||
        (l->after_split && strcmp(type, "ByteLevel") != 0))
        return load_fault(l, "%s.type: only ByteLevel is accepted, after Split", path);
    if (strcmp(type, "ByteLevel") == 0)
        return byte_level(l, value, path);
    if (strcmp(type, "Metaspace") == 0)
        return metaspace(l, value, path);
    if (strcmp(type, "BertPreTokenizer") == 0) {
        t->split.kind = SPLIT_BERT;
        return load_object(l, value, path, "type ");
    }
    if (strcmp(type, "Split") == 0) {
        l->after_split = true;
        return split(l, value, path);
    }
    return unknown_type(l, path, type, "BertPreTokenizer, ByteLevel, Metaspace, Split");
}

int load_pre_tokenizer(struct load *l, const struct json *value)
{
    return each_component(l, value, "pre_tokenizer", "pretokenizers", pre_tokenizer_step);
}

/* ---- post-processor ---------------------------------------------------------------------------- */

static int affix_add(struct load *l, const char *path, bool after, const struct json *text,
                     const struct json *id)
{
    struct tokenizer *t = l->tokenizer;
    uint32_t *count = after ? &t->after_count : &t->before_count;
    uint64_t value;
    size_t bytes = 0;
    const char *token = json_text(text, &bytes);
    if (!token || !json_u64(id, &value) || value >= t->vocabulary.count ||
        vocabulary_find(&t->vocabulary, token, bytes) != value)
        return load_fault(l, "%s: not a token and its id", path);
    if (*count == TOKENIZER_AFFIXES_MAX)
        return load_fault(l, "%s: more than %u tokens", path, TOKENIZER_AFFIXES_MAX);
    (after ? t->after : t->before)[(*count)++] = (uint32_t)value;
    return 0;
}

static int template_token(struct load *l, const struct json *value, const char *path,
                          const struct json *name, bool after)
{
    const char *text = json_text(name, NULL);
    const struct json *token =
        text ? json_member(json_member(value, "special_tokens"), text) : NULL;
    const struct json *ids = json_member(token, "ids"), *texts = json_member(token, "tokens");
    if (json_kind(ids) != JSON_KIND_ARRAY || json_kind(texts) != JSON_KIND_ARRAY ||
        json_count(ids) != json_count(texts))
        return load_fault(l, "%s.special_tokens: no ids and tokens of \"%.60s\"", path,
                          text ? text : "?");
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < json_count(ids); i++)
        r = affix_add(l, path, after, json_element(texts, i), json_element(ids, i));
    return r;
}

static int template_processing(struct load *l, const struct json *value, const char *path)
{
    const struct json *single = json_member(value, "single");
    bool after = false;
    int r = load_object(l, value, path, "type single pair special_tokens ");
    if (r == 0 && json_kind(single) != JSON_KIND_ARRAY)
        return load_fault(l, "%s.single: not an array", path);
    for (uint32_t i = 0; r == 0 && i < json_count(single); i++) {
        const struct json *element = json_element(single, i);
        const struct json *token = json_member(element, "SpecialToken");
        const struct json *sequence = json_member(element, "Sequence");
        if (json_count(element) == 1 && token)
            r = template_token(l, value, path, json_member(token, "id"), after);
        else if (json_count(element) == 1 && json_is(json_member(sequence, "id"), "A") && !after)
            after = true;
        else
            r = load_fault(l, "%s.single[%u]: not a SpecialToken or the only Sequence A", path, i);
    }
    if (r == 0 && !after)
        return load_fault(l, "%s.single: no Sequence A", path);
    return r;
}

static int bert_processing(struct load *l, const struct json *value, const char *path)
{
    const struct json *cls = json_member(value, "cls"), *sep = json_member(value, "sep");
    int r = load_object(l, value, path, "type sep cls trim_offsets add_prefix_space ");
    if (r == 0 && (json_count(cls) != 2 || json_count(sep) != 2))
        return load_fault(l, "%s.%s: not a token and its id", path,
                          json_count(cls) != 2 ? "cls" : "sep");
    if (r == 0)
        r = affix_add(l, path, false, json_element(cls, 0), json_element(cls, 1));
    return r == 0 ? affix_add(l, path, true, json_element(sep, 0), json_element(sep, 1)) : r;
}

static int post_processor_step(struct load *l, const struct json *value, const char *path,
                               const char *type)
{
    const struct tokenizer *t = l->tokenizer;
    if (strcmp(type, "ByteLevel") == 0) /* about offsets only */
        return load_object(l, value, path, "type add_prefix_space trim_offsets use_regex ");
    if (t->before_count + t->after_count > 0)
        return load_fault(l, "%s.type: only one component may add tokens", path);
    if (strcmp(type, "TemplateProcessing") == 0)
        return template_processing(l, value, path);
    if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0)
        return bert_processing(l, value, path);
    return unknown_type(l, path, type,
                        "BertProcessing, ByteLevel, RobertaProcessing, TemplateProcessing");
}

int load_post_processor(struct load *l, const struct json *value)
{
    return each_component(l, value, "post_processor", "processors", post_processor_step);
}
