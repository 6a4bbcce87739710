#include "daemon/text/normalize.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/text/unicode.h"
#include "daemon/text/utf8.h"

static uint64_t step_bytes_max(const struct normalize_step *step, uint64_t bytes)
{
    switch (step->kind) {
    case NORMALIZE_NFC:
    case NORMALIZE_NFD:
    case NORMALIZE_NFKC:
    case NORMALIZE_NFKD:
        return unicode_bytes_max((enum unicode_form)step->kind, bytes);
    case NORMALIZE_PREPEND:
        return bytes + step->content_bytes;
    case NORMALIZE_REPLACE:
        return bytes * (step->content_bytes > 1 ? step->content_bytes : 1);
    case NORMALIZE_LOWER: /* U+023A has 2 bytes, in lower case 3 */
    case NORMALIZE_CHINESE:
        return 2 * bytes;
    case NORMALIZE_NO_MARKS:
    case NORMALIZE_CLEAN:
        break;
    }
    return bytes;
}

static uint64_t step_work_count(const struct normalize_step *step, uint64_t bytes)
{
    return step->kind <= NORMALIZE_NFKD ? unicode_work_count((enum unicode_form)step->kind, bytes)
                                        : 0;
}

uint64_t normalize_bytes_max(const struct normalizer *n, uint64_t bytes)
{
    for (uint32_t i = 0; i < n->count; i++)
        bytes = step_bytes_max(&n->steps[i], bytes);
    return bytes;
}

int normalize_scratch_init(struct normalize_scratch *s, const struct normalizer *n, uint64_t bytes)
{
    uint64_t work_count = 1, bytes_max = bytes + 1;
    for (uint32_t i = 0; i < n->count; i++) {
        uint64_t count = step_work_count(&n->steps[i], bytes);
        work_count = count > work_count ? count : work_count;
        bytes = step_bytes_max(&n->steps[i], bytes);
        bytes_max = bytes > bytes_max ? bytes : bytes_max;
    }
    s->text[0] = malloc(bytes_max);
    s->text[1] = malloc(bytes_max);
    s->work = malloc(work_count * sizeof *s->work);
    return s->text[0] && s->text[1] && s->work ? 0 : -ENOMEM;
}

void normalize_scratch_free(struct normalize_scratch *s)
{
    free(s->text[0]);
    free(s->text[1]);
    free(s->work);
}

/* ---- steps that look at one character at a time ------------------------------------------------ */

static uint32_t lower(uint32_t code, uint8_t *out)
{
    uint32_t to[2], bytes = 0;
    uint32_t count = unicode_lower(code, to);
    for (uint32_t i = 0; i < count; i++)
        bytes += utf8_write(to[i], out + bytes);
    return bytes;
}

static uint32_t clean(uint32_t code, uint8_t *out)
{
    uint32_t classes = unicode_classes(code);
    if (code == '\t' || code == '\n' || code == '\r' ||
        (classes & UNICODE_SPACE && !(classes & UNICODE_OTHER))) {
        out[0] = ' ';
        return 1;
    }
    return code == UTF8_REPLACEMENT || classes & UNICODE_OTHER ? 0 : utf8_write(code, out);
}

static uint32_t chinese(uint32_t code, uint8_t *out)
{
    static const uint32_t ranges[][2] = {{0x3400, 0x4dbf},   {0x4e00, 0x9fff},   {0xf900, 0xfaff},
                                         {0x20000, 0x2a6df}, {0x2a700, 0x2b73f}, {0x2b740, 0x2b81f},
                                         {0x2b920, 0x2ceaf}, {0x2f800, 0x2fa1f}};
    for (uint32_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (code >= ranges[i][0] && code <= ranges[i][1]) {
            out[0] = ' ';
            uint32_t bytes = 1 + utf8_write(code, out + 1);
            out[bytes] = ' ';
            return bytes + 1;
        }
    return utf8_write(code, out);
}

static uint32_t no_marks(uint32_t code, uint8_t *out)
{
    return unicode_classes(code) & UNICODE_NONSPACING ? 0 : utf8_write(code, out);
}

static uint64_t each(uint32_t (*function)(uint32_t code, uint8_t *out), const uint8_t *text,
                     uint64_t bytes, uint8_t *out)
{
    uint64_t written = 0;
    for (uint64_t at = 0; at < bytes;) {
        uint32_t code;
        at += utf8_read_last(text + at, bytes - at, &code);
        written += function(code, out + written);
    }
    return written;
}

static uint64_t replace(const struct normalize_step *step, const uint8_t *text, uint64_t bytes,
                        uint8_t *out)
{
    uint64_t written = 0;
    for (uint64_t at = 0; at < bytes; at++) {
        if (text[at] == ' ') {
            memcpy(out + written, step->content, step->content_bytes);
            written += step->content_bytes;
        } else {
            out[written++] = text[at];
        }
    }
    return written;
}

static uint64_t prepend(const struct normalize_step *step, const uint8_t *text, uint64_t bytes,
                        uint8_t *out)
{
    if (bytes == 0)
        return 0;
    memcpy(out, step->content, step->content_bytes);
    memcpy(out + step->content_bytes, text, bytes);
    return bytes + step->content_bytes;
}

static uint64_t step_run(const struct normalize_step *step, const uint8_t *text, uint64_t bytes,
                         uint32_t *work, uint8_t *out)
{
    switch (step->kind) {
    case NORMALIZE_NFC:
    case NORMALIZE_NFD:
    case NORMALIZE_NFKC:
    case NORMALIZE_NFKD:
        return unicode_normalize((enum unicode_form)step->kind, text, bytes, work, out);
    case NORMALIZE_LOWER:
        return each(lower, text, bytes, out);
    case NORMALIZE_PREPEND:
        return prepend(step, text, bytes, out);
    case NORMALIZE_REPLACE:
        return replace(step, text, bytes, out);
    case NORMALIZE_CLEAN:
        return each(clean, text, bytes, out);
    case NORMALIZE_CHINESE:
        return each(chinese, text, bytes, out);
    case NORMALIZE_NO_MARKS:
        return each(no_marks, text, bytes, out);
    }
    return 0;
}

const uint8_t *normalize(const struct normalizer *n, struct normalize_scratch *s,
                         const uint8_t *text, uint64_t bytes, uint64_t *ret_bytes)
{
    for (uint32_t i = 0; i < n->count; i++) {
        uint8_t *out = s->text[i % 2];
        bytes = step_run(&n->steps[i], text, bytes, s->work, out);
        text = out;
    }
    *ret_bytes = bytes;
    return text;
}
