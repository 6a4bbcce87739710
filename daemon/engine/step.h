/* daemon/engine/step.h — a batch as the device reads it: every array of the step packed into one
 * image, which goes to the device in one copy.
 *
 * Offsets are from the start of the image, the same on every rank. Built by the control thread when
 * the batch is posted, read by the rank threads until the step is done.
 *
 * Memory: fixed at step_init(). Time: O(batch). Fails: never; the batch is our own. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "daemon/engine/engine.h"

struct step_limits {
    uint32_t rows_max;
    uint32_t tokens_max;
    uint32_t pages_stride; /* pages of the longest sequence */
    uint32_t history_max;
    uint32_t biases_max;
};

struct step {
    struct engine_batch *batch;
    float *all_logits; /* host [tokens_count, vocabulary]: of every position, none is sampled */
    uint8_t *image;
    uint64_t image_max_bytes;
    uint64_t image_bytes;
    uint32_t position_max;
    uint32_t pages_stride;  /* of this step's table */
    uint32_t heads_count;   /* tokens whose logits are wanted */
    uint32_t samples_count; /* of which are sampled: all of them or none */
    uint32_t scores_count;  /* tokens whose score is wanted */
    bool pools;
    bool dots;
    /* Offsets; T is tokens_count. */
    uint64_t tokens;        /* [T] */
    uint64_t positions;     /* [T] */
    uint64_t seqs;          /* [T] row of the table */
    uint64_t shared_pages;  /* [T] */
    uint64_t pages;         /* [rows, pages_stride] */
    uint64_t lasts;         /* [rows] each row's last token */
    uint64_t heads;         /* [heads_count] tokens */
    uint64_t scores;        /* [scores_count] tokens */
    uint64_t samples;       /* [samples_count] struct ops_sample_row */
    uint64_t history;       /* [history_count] */
    uint64_t biases;        /* [biases_count] */
    uint64_t pool_slots;    /* [T] */
    uint64_t pool_firsts;   /* [T] */
    uint64_t segment_first; /* [T] first token of the row's text; encoders, like the next */
    uint64_t segment_count; /* [T] */
    uint64_t zeros;         /* [T] token types: texts come alone, not in pairs */
};

uint64_t step_image_bytes(const struct step_limits *limits);

/* image: step_image_bytes(). */
void step_init(struct step *step, uint8_t *image, uint64_t image_bytes);

/* paged: the role has a KV cache; all_logits: NULL but in tests. */
void step_build(struct step *step, struct engine_batch *batch, bool paged, float *all_logits);
