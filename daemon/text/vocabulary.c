#include "daemon/text/vocabulary.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/assert.h"
#include "daemon/base/hash.h"

int vocabulary_init(struct vocabulary *v, uint32_t count, uint64_t blob_bytes)
{
    uint32_t slots = 16;
    while (slots < 2 * count)
        slots *= 2;
    v->count = count;
    v->table_mask = slots - 1;
    v->blob_bytes = blob_bytes;
    v->entries = calloc(count ? count : 1, sizeof *v->entries);
    v->table = malloc(slots * sizeof *v->table);
    v->blob = calloc(1, blob_bytes + VOCABULARY_SLACK_BYTES);
    if (!v->entries || !v->table || !v->blob)
        return -ENOMEM;
    memset(v->table, 0xff, slots * sizeof *v->table);
    return 0;
}

void vocabulary_free(struct vocabulary *v)
{
    free(v->entries);
    free(v->table);
    free(v->blob);
}

static const uint8_t *blob_add(struct vocabulary *v, const void *text, uint32_t bytes)
{
    ASSERT(bytes <= v->blob_bytes - v->blob_used);
    uint8_t *copy = v->blob + v->blob_used;
    memcpy(copy, text, bytes);
    v->blob_used += bytes;
    return copy;
}

/* The slot that holds text, or the empty one where it belongs. */
static uint32_t *slot_of(const struct vocabulary *v, const void *text, uint64_t bytes)
{
    uint32_t at = (uint32_t)hash_bytes(text, bytes, 0).low & v->table_mask;
    for (;; at = (at + 1) & v->table_mask) {
        uint32_t id = v->table[at];
        if (id == VOCABULARY_NONE ||
            (v->entries[id].text_bytes == bytes && memcmp(v->entries[id].text, text, bytes) == 0))
            return &v->table[at];
    }
}

bool vocabulary_add(struct vocabulary *v, uint32_t id, const void *text, uint32_t bytes)
{
    ASSERT(id < v->count && bytes <= VOCABULARY_TEXT_BYTES_MAX);
    uint32_t *slot = slot_of(v, text, bytes);
    struct vocabulary_entry *e = &v->entries[id];
    if (*slot != VOCABULARY_NONE || e->text)
        return false;
    *slot = id;
    e->text = blob_add(v, text, bytes);
    e->text_bytes = (uint16_t)bytes;
    return true;
}

void vocabulary_set_decoded(struct vocabulary *v, uint32_t id, const void *text, uint32_t bytes)
{
    struct vocabulary_entry *e = &v->entries[id];
    e->decoded = blob_add(v, text, bytes);
    e->decoded_bytes = (uint16_t)bytes;
    uint8_t seen = 0;
    for (uint32_t i = 0; i < bytes; i++)
        seen |= e->decoded[i];
    e->flags = (uint8_t)(seen < 0x80 ? e->flags | VOCABULARY_ASCII : e->flags & ~VOCABULARY_ASCII);
}

uint32_t vocabulary_find(const struct vocabulary *v, const void *text, uint64_t bytes)
{
    return bytes > VOCABULARY_TEXT_BYTES_MAX ? VOCABULARY_NONE : *slot_of(v, text, bytes);
}
