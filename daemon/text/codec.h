/* daemon/text/codec.h — between text and token ids.
 *
 * The byte codec: one token a byte, the vocabulary of the simulated engine.
 *
 * Thread: any. Memory: none. Fails: never. */
#pragma once
#include <stdint.h>

#define CODEC_TOKEN_BYTES_MAX 1u /* text of one token */

/* Number of tokens that a prompt of text_bytes becomes. */
static inline uint32_t codec_count(uint32_t text_bytes)
{
    return text_bytes;
}

/* Text of one token into out[CODEC_TOKEN_BYTES_MAX]; returns its length. token is in the vocabulary. */
static inline uint32_t codec_decode(uint32_t token, uint8_t *out)
{
    out[0] = (uint8_t)token;
    return 1;
}
