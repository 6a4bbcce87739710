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
    TINY_GEMMA2 = 4, /* norms behind, windows, softcaps, embedding scale; last that writes */
    TINY_REWARD = 5, /* Qwen2ForSequenceClassification */
    TINY_BERT = 6,
    TINY_KIND_COUNT = 7,
};

#define TINY_VOCABULARY 320u
#define TINY_LAYERS 2u
#define TINY_CONTEXT 512u
#define TINY_HIDDEN 64u

/* Makes a new folder below the build folder's tmp and returns its path; removed by tiny_remove(). */
char *tiny_write(enum tiny_kind kind, uint64_t seed);
void tiny_remove(char *folder);
