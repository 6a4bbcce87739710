/* daemon/engine/step.h — a batch as the device reads it: every array of the step packed into one
 * image, which goes to the device in one copy.
 *
 * Offsets are from the start of the image, the same on every rank. Built by the control thread when
 * the batch is posted; tokens that the step before samples are put in when that is done, before the rank
 * threads read the image, until the step is done.
 *
 * Decode steps: where launches can be recorded (ops.h, graphs), a step in which every row has one token
 * and wants the next is padded to one of a few row counts, its bucket. Counts and offsets of a padded
 * step are functions of its bucket alone, so the launches of all its steps are the same; what varies in
 * length lies at the end, found by indices. A padding row is token 0 at a place of its own in a page
 * that no sequence has; nobody reads what comes out of it.
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

#define STEP_EAGER UINT32_MAX /* bucket of a step that is not padded */

struct step {
    struct engine_batch *batch;
    float *all_logits; /* host [tokens_count, vocabulary]: of every position, none is sampled */
    uint8_t *image;
    uint64_t image_max_bytes;
    uint64_t image_bytes;
    uint32_t pad_rows_max; /* rows that steps are padded to at most; 0: none is padded */
    uint32_t pad_page;     /* of padding rows */
    uint32_t bucket;       /* number of it, or STEP_EAGER */
    uint32_t rows_count;   /* the batch's, and padding, like the next */
    uint32_t tokens_count;
    uint32_t position_max;  /* of the batch */
    uint32_t heads_count;   /* tokens whose logits are wanted */
    uint32_t samples_count; /* of which are sampled: all of them or none */
    uint32_t scores_count;  /* tokens whose score is wanted */
    bool pools;
    bool dots;
    /* Offsets; T is tokens_count. */
    uint64_t tokens;       /* [T] */
    uint64_t positions;    /* [T] */
    uint64_t seqs;         /* [T] where the pages of the token's row begin in lists */
    uint64_t shared_pages; /* [T] */
    uint64_t lasts;        /* [rows] each row's last token */
    uint64_t heads;        /* [heads_count] tokens */
    uint64_t scores;       /* [scores_count] tokens */
    uint64_t samples;      /* [samples_count] struct ops_sample_row */
    uint64_t history;      /* in lists: where the batch's begins */
    uint64_t lists; /* pages of one row after the other, history, biases; indices count from here */
    uint64_t pool_slots;    /* [T] */
    uint64_t pool_firsts;   /* [T] */
    uint64_t segment_first; /* [T] first token of the row's text; encoders, like the next */
    uint64_t segment_count; /* [T] */
    uint64_t zeros;         /* [T] token types: texts come alone, not in pairs */
};

uint64_t step_image_bytes(const struct step_limits *limits);

/* image: step_image_bytes(). */
void step_init(struct step *step, uint8_t *image, uint64_t image_bytes);

/* Rows of a bucket, from 0 on, rising; 0: there is none of this number. None has more than rows_max. */
uint32_t step_bucket_rows(uint32_t bucket, uint32_t rows_max);

/* From now on decode steps of up to rows_max rows are padded; rows_max 0: none. page: see above. */
void step_pad(struct step *step, uint32_t rows_max, uint32_t page);

/* paged: the role has a KV cache; all_logits: NULL but in tests. */
void step_build(struct step *step, struct engine_batch *batch, bool paged, float *all_logits);

/* The tokens of rows that follow those of batch.after, whose outputs are there: to be called once. */
void step_follow(struct step *step);

/* A step of nothing but padding; batch: empty, of a role with a KV cache. */
void step_build_empty(struct step *step, struct engine_batch *batch, uint32_t bucket);
