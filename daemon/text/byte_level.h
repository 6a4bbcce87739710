/* daemon/text/byte_level.h — the alphabet in which byte-level vocabularies spell bytes.
 *
 * Each byte has a printable character: itself where Latin-1 prints it, else one from U+0100 on.
 * Thread: any. Memory: the caller's. Fails: see byte_level_read(). */
#pragma once
#include <stdint.h>

#define BYTE_LEVEL_NONE UINT32_MAX

/* out[2 * bytes]; returns how many. */
uint32_t byte_level_spell(const uint8_t *bytes, uint32_t count, uint8_t *out);
/* The bytes that text spells, to out[text_bytes]; BYTE_LEVEL_NONE when it has another character. */
uint32_t byte_level_read(const uint8_t *text, uint32_t text_bytes, uint8_t *out);
