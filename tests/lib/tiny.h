/* tests/lib/tiny.h — tiny models of random float32 weights, written as a Hugging Face directory.
 *
 * Small enough that a step costs microseconds, with shapes that are no multiples of a tile. */
#pragma once
#include <stdint.h>

enum tiny_kind {
    TINY_LLAMA = 0,  /* grouped queries, own output matrix */
    TINY_QWEN2 = 1,  /* biases, tied */
    TINY_QWEN3 = 2,  /* query and key norms */
    TINY_GEMMA2 = 3, /* norms behind, windows, softcaps, embedding scale */
    TINY_REWARD = 4, /* Qwen2ForSequenceClassification */
    TINY_BERT = 5,
    TINY_KIND_COUNT = 6,
};

#define TINY_VOCABULARY 320u
#define TINY_LAYERS 2u
#define TINY_CONTEXT 512u
#define TINY_HIDDEN 64u

/* Makes a new folder below the build folder's tmp and returns its path; removed by tiny_remove(). */
char *tiny_write(enum tiny_kind kind, uint64_t seed);
void tiny_remove(char *folder);
