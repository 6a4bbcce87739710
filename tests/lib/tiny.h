/* tests/lib/tiny.h — tiny models of random float32 weights, written as a Hugging Face directory.
 *
 * Small enough that a step costs microseconds, with shapes that are no multiples of a tile. */
#pragma once
#include <stdint.h>

enum tiny_kind {
    TINY_LLAMA = 0,  /* grouped queries, own output matrix */
    TINY_QWEN2 = 1,  /* biases, tied */
    TINY_QWEN3 = 2,  /* query and key norms */
    TINY_BIASED = 3, /* Llama with a bias at every matrix */
    TINY_GEMMA2 = 4, /* norms behind, windows, softcaps, embedding scale */
    TINY_PHI3 = 5,   /* fused matrices, partial rotation, longrope, windows; last that writes */
    TINY_REWARD = 6, /* Qwen2ForSequenceClassification */
    TINY_BERT = 7,
    TINY_KIND_COUNT = 8,
};
#define TINY_WRITERS_COUNT (TINY_PHI3 + 1u)

#define TINY_VOCABULARY 320u
#define TINY_LAYERS 2u
#define TINY_CONTEXT 512u
#define TINY_HIDDEN 64u

/* Makes a new folder below the build folder's tmp and returns its path; removed by tiny_remove(). */
char *tiny_write(enum tiny_kind kind, uint64_t seed);
/* The same with another vocabulary than TINY_VOCABULARY. */
char *tiny_write_vocabulary(enum tiny_kind kind, uint64_t seed, uint32_t vocabulary);
/* All numbers of one token's embedding: NaN. */
void tiny_spoil(const char *folder, uint32_t token);
void tiny_remove(char *folder);
