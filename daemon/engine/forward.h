/* daemon/engine/forward.h — one model on one rank, and a step through it.
 *
 * A step is a list of launches in order; nothing waits between them. Every rank runs the same list,
 * because sums are joined across ranks on the way; what is read off the result is read on rank 0.
 * The list of a padded step (step.h) is the same for its whole bucket: where the device has recorded
 * it, it is repeated from there.
 *
 * Thread: the rank's, between post and take of the worker; otherwise control. Memory: carved from the
 * device's slab, and host results, at start-up. Fails: never; a broken device shows in sync(). */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "daemon/engine/step.h"
#include "daemon/engine/weights.h"

/* Room for a step's values, in the order in which they come into being. Models of one device share
 * it, for one step runs at a time. T is tokens_max, H head_rows. */
struct scratch {
    float *x;       /* [T, hidden] the residual stream */
    void *h;        /* [T, hidden] activation type */
    float *qkv;     /* [T, (heads + 2 kv_heads) * head_dim] */
    void *q;        /* [T, heads, head_dim] activation type */
    void *mixed;    /* [T, heads, head_dim] activation type: what attention gives */
    float *sum;     /* [T, hidden] what a sub-layer adds to x */
    float *gate_up; /* [T, 2 * inner] */
    void *gated;    /* [T, inner] activation type */
    float *cosine;  /* [T, rotary_dim / 2] */
    float *sine;
    float *head_x;               /* [H, hidden] */
    void *head_h;                /* [H, hidden] activation type */
    float *logits_part;          /* [H, vocabulary of this rank]; NULL with one rank */
    float *logits;               /* [H, vocabulary] */
    struct ops_sampled *sampled; /* [rows_max] */
    float *dots;                 /* [rows_max] */
    float *scores;               /* [outputs max, T] */
    uint8_t *image;              /* the step's */
};

struct model { /* on one rank */
    const struct ops *ops;
    struct ops_device *device;
    const struct arch *arch;
    enum ops_dtype activation;
    enum engine_role role;
    int32_t dot_layer; /* negative: none */
    uint32_t tokens_max;
    uint32_t rows_max;
    uint32_t head_rows; /* rows of logits at once */
    uint32_t kv_pages;  /* 0: an encoder */
    struct weights weights;
    struct scratch scratch;
    struct ops_kv *kv;        /* [layers] */
    float *inverse_frequency; /* [rotary_dim / 2] */
    float *pool_sums;         /* [pool slots, hidden]; of an encoder [rows_max, hidden] */
    float *dot_vector;        /* [hidden] */
    /* Host, rank 0 only. */
    struct ops_sampled *host_sampled; /* [rows_max] */
    float *host_dots;                 /* [rows_max] */
    float *host_scores;               /* [outputs max, tokens_max] */
};

/* Places scratch, caches and pools of a model whose plain members are set; weights are separate. Where
 * launches can be recorded, a cache has one page more than kv_pages: padding rows use that. */
void forward_place_scratch(struct model *model, struct slab *slab, uint64_t image_bytes);
void forward_place_state(struct model *model, struct slab *slab);
uint64_t forward_page_bytes(const struct model *model); /* of one KV page, all layers, this rank */

/* Launches the step and the copies of its results; encoder.c's twin is for encoders. */
void forward_run(struct model *model, const struct step *step);
/* Records the launches of a padded step, if the device can; runs none. At start-up. */
void forward_record(struct model *model, const struct step *step);
void encoder_run(struct model *model, const struct step *step);

/* Rank 0, after sync(): from the host's copies to the batch's arrays. */
void forward_results(struct model *model, const struct step *step);

/* For both: sums the hidden states of rows that are pooled and copies the sums out. */
void forward_pool(struct model *model, const struct step *step, const float *hidden);
