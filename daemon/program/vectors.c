#include "daemon/program/vectors.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "daemon/base/reserve.h"
#include "daemon/program/algorithms.h"

#define IDS_MAX                                                                                    \
    (VECTORS_TEXT_BYTES_MAX + 8u) /* a token has a byte at least; and what frames a text */
#define KEPT_BYTES 65536u /* of a run's vectors, beyond which memory goes back to the kernel */

enum source { SOURCE_EMBED = 0, SOURCE_POLICY = 1, SOURCES };

struct vectors {
    struct {
        const struct codec *codec;
        struct codec_scratch *scratch;
        uint32_t size; /* of a vector; 0: there is no such model */
        uint32_t tokens_max;
    } of[SOURCES];
    uint32_t ids[IDS_MAX];
    uint32_t size_max;
    uint32_t runs_max;
    uint32_t branches_max;
    float *nodes;   /* [branches_max, size_max] until they are counted */
    float *answers; /* [runs_max, BALLOT_ANSWERS_MAX, size_max] */
};

static size_t nodes_bytes(const struct vectors *v)
{
    return (size_t)v->branches_max * v->size_max * sizeof(float);
}

static size_t run_bytes(const struct vectors *v)
{
    return (size_t)BALLOT_ANSWERS_MAX * v->size_max * sizeof(float);
}

static void sources_find(const struct runs_config *config, struct vectors *v)
{
    uint32_t tokens = config->context_tokens < EMBED_TEXT_TOKENS_MAX ? config->context_tokens
                                                                     : EMBED_TEXT_TOKENS_MAX;
    while (tokens > 1 && !sched_fits(config->policy, tokens))
        tokens--;
    v->of[SOURCE_POLICY].codec = config->codec;
    v->of[SOURCE_POLICY].size = sched_vector_size(config->policy);
    v->of[SOURCE_POLICY].tokens_max = tokens;
    if (!config->embed)
        return;
    v->of[SOURCE_EMBED].codec = config->embed_codec;
    v->of[SOURCE_EMBED].size = embed_vector_size(config->embed);
    v->of[SOURCE_EMBED].tokens_max = embed_tokens_max(config->embed);
}

int vectors_new(const struct runs_config *config, struct vectors **ret_vectors)
{
    *ret_vectors = NULL;
    struct vectors *v = calloc(1, sizeof *v);
    if (!v)
        return -ENOMEM;
    v->runs_max = config->runs_max;
    v->branches_max = config->branches_max;
    sources_find(config, v);
    int r = 0;
    for (uint32_t s = 0; s < SOURCES && r == 0; s++) {
        if (v->of[s].size == 0)
            continue;
        v->size_max = v->of[s].size > v->size_max ? v->of[s].size : v->size_max;
        r = codec_scratch_new(v->of[s].codec, VECTORS_TEXT_BYTES_MAX, &v->of[s].scratch);
    }
    if (r == 0 && v->size_max > 0) {
        v->nodes = reserve(nodes_bytes(v));
        v->answers = reserve(run_bytes(v) * v->runs_max);
        r = v->nodes && v->answers ? 0 : -ENOMEM;
    }
    if (r < 0 || v->size_max == 0) {
        vectors_free(v);
        return r;
    }
    *ret_vectors = v;
    return 0;
}

void vectors_free(struct vectors *v)
{
    if (!v)
        return;
    unreserve(v->nodes, nodes_bytes(v));
    unreserve(v->answers, run_bytes(v) * v->runs_max);
    for (uint32_t s = 0; s < SOURCES; s++)
        codec_scratch_free(v->of[s].scratch);
    free(v);
}

static enum source source_of(const struct run *r)
{
    bool by_policy = parameter_whole(&r->args.parameters, DYNASOR_PARAMETER_LIKENESS_BY) == 1;
    return by_policy || !r->runs->config.embed ? SOURCE_POLICY : SOURCE_EMBED;
}

static float *answers_of(const struct run *r)
{
    const struct vectors *v = r->runs->vectors;
    return v->answers + (size_t)(r - r->runs->all) * BALLOT_ANSWERS_MAX * v->size_max;
}

static float *vector_of(const struct node *n)
{
    const struct runs *rs = n->run->runs;
    return rs->vectors->nodes + (size_t)(n - rs->nodes) * rs->vectors->size_max;
}

void vectors_begin(struct run *r)
{
    double likeness = r->args.parameters.value[DYNASOR_PARAMETER_LIKENESS];
    if (!(likeness > 0))
        return;
    ASSERT(r->runs->vectors);
    r->ballot.units = answers_of(r);
    r->ballot.dimensions = r->runs->vectors->of[source_of(r)].size;
    r->ballot.likeness = likeness;
}

void vectors_end(struct run *r)
{
    const struct ballot *b = &r->ballot;
    if (b->units && (size_t)b->cluster.count * b->dimensions * sizeof(float) > KEPT_BYTES)
        (void)madvise(b->units, run_bytes(r->runs->vectors),
                      MADV_DONTNEED); /* refused: they stay, until somebody uses them */
}

/* ---- one answer ------------------------------------------------------------------------------ */

static bool may_count(const struct node *n)
{
    struct run *r = n->run;
    uint32_t depth = parameter_whole(&r->args.parameters, DYNASOR_PARAMETER_DEPTH);
    if (is_probe(n))
        return true;
    return !r->args.algorithm->live &&
           ((depth > 0 && n->branch.depth + 1 >= depth) || algorithm_is_leaf(r, n->idx));
}

/* A text that is cut is not cut within a character. */
static uint32_t text_end(const char *text, uint32_t bytes)
{
    if (bytes <= VECTORS_TEXT_BYTES_MAX)
        return bytes;
    bytes = VECTORS_TEXT_BYTES_MAX;
    while (bytes > 0 && ((uint8_t)text[bytes] & 0xc0) == 0x80)
        bytes--;
    return bytes;
}

/* The answer's tokens to vectors->ids; 0: it has none. What frames a text frames one that is cut, too. */
static uint32_t tokens_find(const struct node *n)
{
    struct vectors *v = n->run->runs->vectors;
    enum source s = source_of(n->run);
    const char *text;
    uint32_t bytes, count = 0, most = v->of[s].tokens_max;
    if (!run_answer_of(n->run, n->idx, &text, &bytes))
        return 0;
    int r = codec_encode(v->of[s].codec, v->of[s].scratch, (const uint8_t *)text,
                         text_end(text, bytes), false, v->ids, IDS_MAX, &count);
    if (r != CODEC_OK || count == 0)
        return 0;
    if (count > most) {
        v->ids[most - 1] = v->ids[count - 1];
        count = most;
    }
    return count;
}

/* False: no room now. */
static bool post(struct node *n)
{
    struct run *r = n->run;
    struct runs *rs = r->runs;
    uint32_t count = tokens_find(n), user = (uint32_t)(n - rs->nodes);
    struct sched_seq_args args = {.user = VECTORS_USER | user,
                                  .tenant = r->args.tenant,
                                  .group = r->args.group,
                                  .prompt = rs->vectors->ids,
                                  .prompt_tokens = count,
                                  .stem = true,
                                  .want = ENGINE_WANT_POOL,
                                  .sampling = r->args.sampling};
    ASSERT(count > 0); /* as it was when it was asked for */
    int result = source_of(r) == SOURCE_EMBED
                     ? embed_add(rs->config.embed, user, args.prompt, count, &n->vector_at)
                     : sched_add(r->replica->sched[MODEL_POLICY], &args, &n->vector_at);
    ASSERT(result != SCHED_E_LONG); /* tokens_max */
    if (result != SCHED_OK)
        return false;
    n->vector = VECTOR_AWAY;
    n->vector_tokens = count;
    return true;
}

bool vectors_ask(struct node *n)
{
    n->vector = VECTOR_NONE;
    if (!n->run->ballot.units || !may_count(n) || tokens_find(n) == 0)
        return false;
    n->vector = VECTOR_WAITS;
    TAILQ_INSERT_TAIL(&n->run->replica->vectors_waiting, n, vector_link);
    n->run->runs->vectors_due = true;
    return true;
}

/* No step and no list knows it any more. */
static void forget(struct node *n)
{
    struct runs *rs = n->run->runs;
    if (n->vector == VECTOR_WAITS)
        TAILQ_REMOVE(&n->run->replica->vectors_waiting, n, vector_link);
    else if (n->vector == VECTOR_AWAY && source_of(n->run) == SOURCE_POLICY)
        sched_remove(n->run->replica->sched[MODEL_POLICY], n->vector_at);
    rs->room_changed = rs->waiting_due = rs->vectors_due = true;
}

void vectors_drop(struct node *n)
{
    struct runs *rs = n->run->runs;
    if (!vectors_pending(n))
        return;
    if (n->vector == VECTOR_AWAY && source_of(n->run) == SOURCE_EMBED)
        embed_remove(rs->config.embed, n->vector_at);
    forget(n);
    n->vector = VECTOR_NONE;
}

static void take(struct node *n, const float *vector)
{
    ASSERT(n->vector == VECTOR_AWAY);
    memcpy(vector_of(n), vector, n->run->ballot.dimensions * sizeof *vector);
    forget(n);
    n->vector = VECTOR_THERE;
}

const float *run_vector_take(struct run *r, uint32_t branch)
{
    struct node *n = node_of(r, branch);
    if (n->vector != VECTOR_THERE)
        return NULL;
    r->cost.vector_tokens += n->vector_tokens;
    n->vector_tokens = 0; /* charged once, however often it is counted */
    return vector_of(n);
}

/* ---- all of them ----------------------------------------------------------------------------- */

struct node *vectors_result(struct runs *rs, const struct sched_result *result)
{
    struct node *n = &rs->nodes[result->user & ~VECTORS_USER];
    take(n, result->vector);
    return n;
}

/* Oldest first, of each replica until one finds no room. */
static uint32_t waiting_admit(struct runs *rs)
{
    uint32_t admitted = 0;
    struct node *n;
    rs->vectors_due = false;
    for (uint32_t i = 0; i < rs->replicas_count; i++) {
        struct node_list *waiting = &rs->replicas[i].vectors_waiting;
        while ((n = TAILQ_FIRST(waiting)) && post(n)) {
            TAILQ_REMOVE(waiting, n, vector_link);
            admitted++;
        }
    }
    return admitted;
}

uint32_t vectors_poll(struct runs *rs, uint64_t now_ns)
{
    if (!rs->vectors)
        return 0;
    uint32_t work = rs->vectors_due ? waiting_admit(rs) : 0;
    return rs->config.embed ? work + embed_poll(rs->config.embed, now_ns) : work;
}

struct node *vectors_next(struct runs *rs)
{
    struct embed_result result;
    if (!rs->config.embed || !embed_next(rs->config.embed, &result))
        return NULL;
    struct node *n = &rs->nodes[result.user];
    take(n, result.vector);
    return n;
}

uint64_t vectors_due_ns(const struct runs *rs)
{
    if (!rs->vectors)
        return UINT64_MAX;
    for (uint32_t i = 0; i < rs->replicas_count && rs->vectors_due; i++)
        if (!TAILQ_EMPTY(&rs->replicas[i].vectors_waiting))
            return 0;
    return rs->config.embed ? embed_due_ns(rs->config.embed) : UINT64_MAX;
}
