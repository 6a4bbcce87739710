/* daemon/sched/embed.h — texts that wait for the vectors of the model whose role is to embed.
 *
 * Each text is computed whole, in one step, in the order in which it came; a text's vector depends on
 * its tokens alone. Shares the engine with the schedulers of other models: steps are posted in turn.
 *
 * Thread: control. Memory: fixed at embed_new(). Time: adding is O(tokens), poll O(texts of the step).
 * Fails: embed_new() without such a model (-ENOENT) or memory; EMBED_E_FULL: ask again when a text is
 * done or removed. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "daemon/engine/engine.h"

struct embed;

#define EMBED_NONE UINT32_MAX
#define EMBED_TEXT_TOKENS_MAX 512u

enum embed_result_code { EMBED_OK = 0, EMBED_E_FULL = 1 };

struct embed_config {
    uint32_t texts_max;  /* that wait or are computed, at once */
    uint32_t rows_max;   /* texts of a step */
    uint32_t tokens_max; /* of a step */
};
/* engine is kept until embed_free(), which waits for the step in flight, unless a device broke, and does not close
 * it. */
int embed_new(const struct embed_config *config, struct engine *engine, struct embed **ret_embed);
void embed_free(struct embed *embed);

uint32_t embed_tokens_max(const struct embed *embed); /* of one text */
uint32_t embed_vector_size(const struct embed *embed);

/* tokens: 1 to embed_tokens_max(), copied. Returns enum embed_result_code. */
int embed_add(struct embed *embed, uint32_t user, const uint32_t *tokens, uint32_t count,
              uint32_t *ret_text);
/* Nobody waits for it any more; it may be in a step. */
void embed_remove(struct embed *embed, uint32_t text);

/* Collects the step that is done and posts the next. Returns the texts collected and posted. */
uint32_t embed_poll(struct embed *embed, uint64_t now_ns);

struct embed_result {
    uint32_t user;
    const float *vector; /* [vector_size] until the next embed_poll() */
};
/* Next result of the collected step, whose text is forgotten with it; false: no more. Drain it before
 * the next embed_poll(). */
bool embed_next(struct embed *embed, struct embed_result *ret_result);

/* As sched_due_ns(). */
uint64_t embed_due_ns(const struct embed *embed);
int embed_fd(const struct embed *embed); /* as sched_fd() */
