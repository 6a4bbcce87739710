/* kernels/cpu/sample.h — the parts of sampling that are the same at every level. Inner part of sample_body.h.
 *
 * Thread: any. Memory: the caller's. Time: linear. */
#pragma once
#include "kernels/cpu/internal.h"

#define SAMPLE_CONFIDENCE_MAX 64u
#define SAMPLE_BLOCK 1024u /* tokens whose probability is summed before it is added to the rest */

/* Floats of scratch that a row needs: its logits as they came, and a second row. */
uint64_t sample_scratch_floats(uint32_t vocabulary);

/* Penalties and biases; counters: [vocabulary], all 0 before and after. */
void sample_penalise(const struct ops_sample *args, const struct ops_sample_row *row, float *logits,
                     uint32_t *counters);
uint32_t sample_greatest(const float *logits, uint32_t count);
/* Least logit among the k greatest; k below count. */
float sample_top_k(const float *logits, uint32_t count, uint32_t k);
/* Least logit of the smallest set of greatest ones that has the fraction top_p of all mass. */
float sample_top_p(const float *logits, const float *masses, uint32_t count, float top_p);
/* heap[0] is its least: replaced by x. */
void sample_heap_replace(float *heap, uint32_t count, float x);
