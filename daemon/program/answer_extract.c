#include <string.h>

#include "daemon/program/answer.h"

#define BOXES_MAX 64u

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool word_at(const char *text, uint32_t bytes, uint32_t at, const char *word)
{
    size_t length = strlen(word);
    return bytes - at >= length && memcmp(text + at, word, length) == 0;
}

/* Without blanks around; false when nothing is left. */
static bool trim(const char *text, uint32_t start, uint32_t end, struct answer_span *ret)
{
    while (start < end && is_blank(text[start]))
        start++;
    while (start < end && is_blank(text[end - 1]))
        end--;
    if (start == end)
        return false;
    *ret = (struct answer_span){start, end - start};
    return true;
}

/* ---- boxes ---- */

/* Where the brace of a \boxed{ or \fbox{ at `at` is; 0 when there is none. */
static uint32_t box_brace(const char *text, uint32_t bytes, uint32_t at)
{
    uint32_t i = at;
    if (word_at(text, bytes, at, "\\boxed"))
        i += 6;
    else if (word_at(text, bytes, at, "\\fbox"))
        i += 5;
    else
        return 0;
    while (i < bytes && text[i] == ' ')
        i++;
    return i < bytes && text[i] == '{' ? i : 0;
}

/* One pass with a stack of the boxes that are open, so that a million open boxes cost no more. A box
 * that is never closed ends no answer; braces with a backslash count nothing. */
static bool find_box(const char *text, uint32_t bytes, struct answer_span *ret)
{
    struct {
        uint32_t start, depth;
    } open[BOXES_MAX];
    uint32_t opened = 0, depth = 0;
    bool found = false;
    for (uint32_t i = 0; i < bytes; i++) {
        if (text[i] == '\\') {
            uint32_t brace = box_brace(text, bytes, i);
            if (brace == 0) {
                i += i + 1 < bytes && !is_letter(text[i + 1]);
                continue;
            }
            /* When too many are open the oldest is forgotten: it is the least likely to end. */
            if (opened == BOXES_MAX)
                memmove(open, open + 1, --opened * sizeof open[0]);
            open[opened].start = brace + 1;
            open[opened++].depth = depth++;
            i = brace;
        } else if (text[i] == '{') {
            depth++;
        } else if (text[i] == '}' && depth > 0) {
            depth--;
            if (opened > 0 && open[opened - 1].depth == depth) {
                opened--;
                found |= trim(text, open[opened].start, i, ret);
            }
        }
    }
    return found;
}

/* ---- phrases ---- */

/* `3.` ends a sentence, `3.5` does not, and `$3.$` does. */
static bool ends_sentence(const char *text, uint32_t end, uint32_t at)
{
    return text[at] == '\n' ||
           (text[at] == '.' && (at + 1 == end || is_blank(text[at + 1]) || text[at + 1] == '*'));
}

static bool trim_answer(const char *text, uint32_t start, uint32_t end, struct answer_span *ret)
{
    while (start < end && (is_blank(text[start]) || text[start] == ':' || text[start] == '*'))
        start++;
    uint32_t stop = start;
    if (start < end && text[start] == '$') { /* $...$ may hold points and blanks */
        stop = start + 1;
        while (stop < end && text[stop] == '$')
            stop++;
        while (stop < end && text[stop] != '$' && text[stop] != '\n')
            stop++;
        while (stop < end && text[stop] == '$')
            stop++;
    }
    while (stop < end && !ends_sentence(text, end, stop))
        stop++;
    while (stop > start && (text[stop - 1] == '*' || is_blank(text[stop - 1])))
        stop--;
    return trim(text, start, stop, ret);
}

static bool find_phrase(const char *text, uint32_t bytes, struct answer_span *ret)
{
    static const char *const phrases[] = {
        "he answer is",
        "inal answer is",
        "nswer:",
        "nswer is",
        "NSWER:",
        "nswer:**",
        "\xe7\xad\x94\xe6\xa1\x88\xe6\x98\xaf",
    };
    for (uint32_t i = bytes; i-- > 0;) {
        for (size_t k = 0; k < sizeof phrases / sizeof phrases[0]; k++) {
            if (text[i] == phrases[k][0] && word_at(text, bytes, i, phrases[k]) &&
                trim_answer(text, i + (uint32_t)strlen(phrases[k]), bytes, ret))
                return true;
        }
    }
    return false;
}

/* ---- numbers ---- */

/* The last number, with its sign, point, thousands separators and exponent. */
static bool find_number(const char *text, uint32_t bytes, struct answer_span *ret)
{
    uint32_t end = bytes, start;
    while (end > 0 && !is_digit(text[end - 1]))
        end--;
    if (end == 0)
        return false;
    for (start = end; start > 0; start--) {
        char c = text[start - 1];
        bool joins = start > 1 && start < end && is_digit(text[start - 2]) && is_digit(text[start]);
        bool thousands = c == ',' && joins && end - start >= 3 &&
                         (end - start == 3 || !is_digit(text[start + 3]));
        bool point =
            c == '.' && start < end && (joins || start == 1 || !is_letter(text[start - 2]));
        if (!is_digit(c) && !thousands &&
            !(point && !memchr(text + start, '.', end - start) &&
              !memchr(text + start, ',', end - start)))
            break;
    }
    /* A minus sign that has nothing to subtract from. */
    if (start > 0 && text[start - 1] == '-') {
        uint32_t i = start - 1;
        while (i > 0 && text[i - 1] == ' ')
            i--;
        bool operand = i > 0 && (is_digit(text[i - 1]) || is_letter(text[i - 1]) ||
                                 text[i - 1] == ')' || text[i - 1] == '}');
        start -= !operand;
    }
    return trim(text, start, end, ret);
}

/* ---- choices ---- */

static bool is_word_byte(const char *text, uint32_t bytes, uint32_t at)
{
    return at < bytes && (is_letter(text[at]) || is_digit(text[at]) || text[at] == '_' ||
                          text[at] == '\'' || (uint8_t)text[at] >= 0x80);
}

/* A letter of the rule that stands alone. Before a word in small letters, A is an article. */
static bool is_choice_at(const char *text, uint32_t bytes, uint32_t at, char last)
{
    if (text[at] < 'A' || text[at] > last || is_word_byte(text, bytes, at + 1) ||
        (at > 0 && (is_word_byte(text, bytes, at - 1) || text[at - 1] == '\\')))
        return false;
    bool word = at + 2 < bytes && text[at + 1] == ' ' && text[at + 2] >= 'a' && text[at + 2] <= 'z';
    return !(word && (text[at] == 'A' || text[at] == 'I'));
}

static bool last_choice(const char *text, uint32_t start, uint32_t end, char last,
                        struct answer_span *ret)
{
    for (uint32_t i = end; i-- > start;) {
        if (is_choice_at(text, end, i, last)) {
            *ret = (struct answer_span){i, 1};
            return true;
        }
    }
    return false;
}

static bool find_choice(const char *text, uint32_t bytes, char last, struct answer_span *ret)
{
    struct answer_span part;
    if (find_box(text, bytes, &part)) {
        uint32_t end = part.start + part.bytes;
        for (uint32_t i = part.start; i < end; i++) { /* (B) 5 cm: the first letter */
            if (is_choice_at(text, end, i, last)) {
                *ret = (struct answer_span){i, 1};
                return true;
            }
        }
    }
    if (find_phrase(text, bytes, &part)) {
        uint32_t end = part.start + part.bytes;
        for (uint32_t i = part.start; i < end; i++) {
            if (is_choice_at(text, end, i, last)) {
                *ret = (struct answer_span){i, 1};
                return true;
            }
        }
    }
    return last_choice(text, 0, bytes, last, ret);
}

/* ---- code ---- */

static bool at_line_start(const char *text, uint32_t at)
{
    while (at > 0 && (text[at - 1] == ' ' || text[at - 1] == '\t'))
        at--;
    return at == 0 || text[at - 1] == '\n';
}

static bool find_code(const char *text, uint32_t bytes, struct answer_span *ret)
{
    bool found = false, inside = false;
    uint32_t start = 0;
    for (uint32_t i = 0; i + 3 <= bytes; i++) {
        if (text[i] != '`' || memcmp(text + i, "```", 3) != 0)
            continue;
        if (i > 0 && !inside && !at_line_start(text, i)) {
            i += 2;
            continue;
        }
        if (inside) {
            found |= trim(text, start, i, ret);
            i += 2;
        } else { /* the language is not part of it */
            while (i < bytes && text[i] != '\n')
                i++;
            start = i;
        }
        inside = !inside;
    }
    if (inside && start < bytes)
        found |= trim(text, start, bytes, ret);
    return found;
}

/* ---- the rest ---- */

static bool find_prefix(const struct answer_rule *rule, const char *text, uint32_t bytes,
                        struct answer_span *ret)
{
    uint32_t length = rule->prefix_bytes;
    if (length == 0 || length > ANSWER_PREFIX_BYTES_MAX || length > bytes)
        return false;
    for (uint32_t i = bytes - length + 1; i-- > 0;) {
        if (text[i] != rule->prefix[0] || memcmp(text + i, rule->prefix, length) != 0)
            continue;
        uint32_t end = i + length;
        while (end < bytes && text[end] != '\n')
            end++;
        if (trim(text, i + length, end, ret))
            return true;
    }
    return false;
}

static bool find_probe(const char *text, uint32_t bytes, struct answer_span *ret)
{
    uint32_t depth = 0;
    for (uint32_t i = 0; i < bytes; i++) {
        if (text[i] == '\\')
            i += i + 1 < bytes && !is_letter(text[i + 1]);
        else if (text[i] == '{')
            depth++;
        else if (text[i] == '}' && depth-- == 0)
            return trim(text, 0, i, ret);
    }
    return false;
}

int answer_extract(const struct answer_rule *rule, const char *text, uint32_t bytes,
                   struct answer_span *ret_span)
{
    bool found = false;
    switch (rule->kind) {
    case ANSWER_MATH:
        found = find_box(text, bytes, ret_span) || find_phrase(text, bytes, ret_span) ||
                find_number(text, bytes, ret_span);
        break;
    case ANSWER_BOXED:
        found = find_box(text, bytes, ret_span);
        break;
    case ANSWER_CHOICE:
        found = find_choice(text, bytes, rule->choice_last ? rule->choice_last : 'E', ret_span);
        break;
    case ANSWER_NUMBER:
        found = find_number(text, bytes, ret_span);
        break;
    case ANSWER_CODE:
        found = find_code(text, bytes, ret_span);
        break;
    case ANSWER_PREFIX:
        found = find_prefix(rule, text, bytes, ret_span);
        break;
    case ANSWER_PROBE:
        found = find_probe(text, bytes, ret_span);
        break;
    case ANSWER_TEXT:
        found = trim(text, 0, bytes, ret_span);
        break;
    case ANSWER_NONE:
    case ANSWER_KINDS:
        break;
    }
    return found ? 0 : ANSWER_E_NONE;
}
