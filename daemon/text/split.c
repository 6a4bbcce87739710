#include "daemon/text/split.h"

#include <string.h>

#include "daemon/text/unicode.h"
#include "daemon/text/utf8.h"

/* What the known expressions have in common: alternatives in this order, each with its variants. */
struct split_pattern {
    const char *expression;
    bool contractions; /* 's 't 're 've 'm 'll 'd */
    bool any_case;     /* of those */
    bool cased;        /* letters end before an upper case one after a lower case one */
    bool any_before;   /* what is no letter, number, line end may precede letters; else a space */
    bool space_before_numbers;
    uint32_t numbers_max;
    const char *after_symbols; /* may follow symbols, any number of them */
    bool lines;                /* white space up to its last line end is a word */
};

static const struct split_pattern patterns[] = {
    {.expression = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|"
                   "\\s+",
     .contractions = true,
     .space_before_numbers = true,
     .numbers_max = UINT32_MAX,
     .after_symbols = ""},
    {.expression = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
                   "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     .contractions = true,
     .any_case = true,
     .any_before = true,
     .numbers_max = 3,
     .after_symbols = "\r\n",
     .lines = true},
    {.expression = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
                   "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     .contractions = true,
     .any_case = true,
     .any_before = true,
     .numbers_max = 1,
     .after_symbols = "\r\n",
     .lines = true},
    {.expression = "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*"
                   "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r\\n\\p{L}\\p{N}]?"
                   "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}| "
                   "?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     .cased = true,
     .any_before = true,
     .numbers_max = 1,
     .after_symbols = "\r\n/",
     .lines = true},
};

const struct split_pattern *split_pattern(const char *expression, size_t bytes)
{
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++)
        if (strlen(patterns[i].expression) == bytes &&
            memcmp(patterns[i].expression, expression, bytes) == 0)
            return &patterns[i];
    return NULL;
}

const struct split_pattern *split_pattern_gpt2(void)
{
    return &patterns[0];
}

/* ---- alternatives: each returns where its match at `at` ends, or `at` when there is none ------- */

struct reader {
    const uint8_t *text;
    uint64_t bytes;
};

/* Classes of the character at `at`, 0 at the end of the text. */
static uint32_t classes_at(const struct reader *r, uint64_t at, uint64_t *ret_next)
{
    uint32_t code;
    if (at >= r->bytes) {
        *ret_next = at;
        return 0;
    }
    *ret_next = at + utf8_read_last(r->text + at, r->bytes - at, &code);
    /* A bit that every character has, so that 0 is the end alone. */
    return unicode_classes(code) | 1u << 31;
}

static uint64_t skip(const struct reader *r, uint64_t at, uint32_t classes)
{
    for (uint64_t next; classes_at(r, at, &next) & classes; at = next)
        ;
    return at;
}

/* Letters that fold to an ASCII one are those of two more characters. */
static uint32_t folded(const struct reader *r, uint64_t at, bool any_case, uint64_t *ret_next)
{
    uint32_t code = 0;
    *ret_next = at;
    if (at < r->bytes)
        *ret_next = at + utf8_read_last(r->text + at, r->bytes - at, &code);
    if (any_case && code >= 'A' && code <= 'Z')
        return code + 32;
    return any_case && code == 0x17f ? 's' : code;
}

static uint64_t match_contraction(const struct split_pattern *p, const struct reader *r,
                                  uint64_t at)
{
    static const char *const pairs[] = {"re", "ve", "ll"};
    uint64_t one, two;
    if (!p->contractions || r->text[at] != '\'')
        return at;
    uint32_t first = folded(r, at + 1, p->any_case, &one);
    uint32_t second = folded(r, one, p->any_case, &two);
    if (first == 's' || first == 't' || first == 'm' || first == 'd')
        return one;
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
        if (first == (uint8_t)pairs[i][0] && second == (uint8_t)pairs[i][1])
            return two;
    return at;
}

/* [Lu Lt Lm Lo M]*[Ll Lm Lo M]+: where no lower case letter follows, the star gives back up to the last
 * character that the second part takes. */
static uint64_t cased_low(const struct reader *r, uint64_t at)
{
    const uint32_t both = UNICODE_CASELESS | UNICODE_MARK;
    uint64_t next, last = at, upper = at;
    for (uint32_t c; (c = classes_at(r, upper, &next)) & (UNICODE_UPPER | both); upper = next)
        if (c & both)
            last = next;
    uint64_t end = skip(r, upper, UNICODE_LOWER | both);
    return end > upper ? end : last;
}

/* [Lu Lt Lm Lo M]+[Ll Lm Lo M]* */
static uint64_t cased_high(const struct reader *r, uint64_t at)
{
    const uint32_t both = UNICODE_CASELESS | UNICODE_MARK;
    uint64_t upper = skip(r, at, UNICODE_UPPER | both);
    return upper > at ? skip(r, upper, UNICODE_LOWER | both) : at;
}

static uint64_t letters(const struct reader *r, uint64_t at)
{
    return skip(r, at, UNICODE_LETTER);
}

/* With the one character before the letters if it may be one, else without. */
static uint64_t match_before(const struct split_pattern *p, const struct reader *r, uint64_t at,
                             uint64_t (*match)(const struct reader *, uint64_t))
{
    uint64_t next, end;
    uint32_t classes = classes_at(r, at, &next);
    uint8_t c = r->text[at];
    bool before = p->any_before
                      ? !(classes & (UNICODE_LETTER | UNICODE_NUMBER)) && c != '\r' && c != '\n'
                      : c == ' ';
    return before && (end = match(r, next)) > next ? end : match(r, at);
}

static uint64_t match_letters(const struct split_pattern *p, const struct reader *r, uint64_t at)
{
    if (!p->cased)
        return match_before(p, r, at, letters);
    uint64_t end = match_before(p, r, at, cased_low);
    return end > at ? end : match_before(p, r, at, cased_high);
}

static uint64_t match_numbers(const struct split_pattern *p, const struct reader *r, uint64_t at)
{
    uint64_t end = at, next;
    if (p->space_before_numbers && r->text[at] == ' ')
        end++;
    uint64_t start = end;
    for (uint32_t i = 0; i < p->numbers_max && classes_at(r, end, &next) & UNICODE_NUMBER; i++)
        end = next;
    return end > start ? end : at;
}

static uint64_t match_symbols(const struct split_pattern *p, const struct reader *r, uint64_t at)
{
    const uint32_t not = UNICODE_SPACE | UNICODE_LETTER | UNICODE_NUMBER;
    uint64_t start = at + (r->text[at] == ' '), end = start, next;
    for (uint32_t c; (c = classes_at(r, end, &next)) && !(c & not );)
        end = next;
    if (end == start)
        return at;
    while (end < r->bytes && r->text[end] != 0 && strchr(p->after_symbols, r->text[end]))
        end++;
    return end;
}

static uint64_t match_space(const struct split_pattern *p, const struct reader *r, uint64_t at)
{
    uint64_t line = 0, last = at, end = at, next;
    while (classes_at(r, end, &next) & UNICODE_SPACE) {
        if (r->text[end] == '\r' || r->text[end] == '\n')
            line = next;
        last = end;
        end = next;
    }
    if (p->lines && line > 0)
        return line;
    /* The last one is left for the word after it, unless it is the only one. */
    return end < r->bytes && last > at ? last : end;
}

static uint64_t pattern_end(const struct split_pattern *p, const struct reader *r, uint64_t at)
{
    uint64_t (*const matches[])(const struct split_pattern *, const struct reader *, uint64_t) = {
        match_contraction, match_letters, match_numbers, match_symbols, match_space};
    for (size_t i = 0; i < sizeof matches / sizeof matches[0]; i++) {
        uint64_t end = matches[i](p, r, at);
        if (end > at)
            return end;
    }
    /* Not reached: a character is a letter, a number, white space or a symbol. */
    return at + 1;
}

/* ---- other ways -------------------------------------------------------------------------------- */

static uint64_t space_end(const struct reader *r, uint64_t at)
{
    const uint8_t *space = memchr(r->text + at, ' ', r->bytes - at);
    return space ? (uint64_t)(space - r->text) + 1 : r->bytes;
}

static uint64_t metaspace_end(const struct reader *r, uint64_t at)
{
    const uint8_t *mark =
        r->bytes > at + 1 ? memmem(r->text + at + 1, r->bytes - at - 1, "\xe2\x96\x81", 3) : NULL;
    return mark ? (uint64_t)(mark - r->text) : r->bytes;
}

static bool bert_punctuation(uint32_t classes, uint8_t byte)
{
    return classes & UNICODE_PUNCTUATION || byte == '$' || byte == '+' || byte == '<' ||
           byte == '=' || byte == '>' || byte == '^' || byte == '`' || byte == '|' || byte == '~';
}

static uint64_t bert_end(const struct reader *r, uint64_t at)
{
    uint64_t next;
    uint32_t classes = classes_at(r, at, &next);
    if (bert_punctuation(classes, r->text[at]))
        return next;
    do {
        at = next;
        classes = classes_at(r, at, &next);
    } while (classes && !(classes & UNICODE_SPACE) && !bert_punctuation(classes, r->text[at]));
    return at;
}

bool split_next(const struct split *split, const uint8_t *text, uint64_t bytes, uint64_t *at,
                uint64_t *ret_start)
{
    struct reader r = {.text = text, .bytes = bytes};
    if (split->kind == SPLIT_BERT)
        *at = skip(&r, *at, UNICODE_SPACE);
    if (*at >= bytes)
        return false;
    *ret_start = *at;
    switch (split->kind) {
    case SPLIT_NONE:
        *at = bytes;
        break;
    case SPLIT_PATTERN:
        *at = pattern_end(split->pattern, &r, *at);
        break;
    case SPLIT_AFTER_SPACE:
        *at = space_end(&r, *at);
        break;
    case SPLIT_METASPACE:
        *at = metaspace_end(&r, *at);
        break;
    case SPLIT_BERT:
        *at = bert_end(&r, *at);
        break;
    }
    return true;
}
