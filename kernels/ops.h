/* kernels/ops.h — the catalogue of operations: tensors in, tensors out. CPU (kernels/cpu) and CUDA
 * (kernels/cuda) implement it; kernels/ref judges both.
 *
 * A device is one rank: a slab of memory, carved by the caller at start-up, and a stream of launches.
 * Every pointer in an argument struct is device memory unless its name begins with host_. A launch
 * returns at once or when it is done, as the backend likes; launches of one device take effect in
 * order, and results may be read after sync(). No launch allocates, synchronises or reads the
 * environment. Arguments are copied; what they point at is kept until sync().
 *
 * Numerics. Activations that enter a matrix product have the device's activation type (bf16, or f32
 * by option); everything else is float32: sums, residual stream, norms, softmax, logits. The order
 * of every sum is a function of shapes and of the absolute position of a token alone: never of the
 * number of rows, of which rows lie together, of the number of threads. Bounds: docs/NUMERICS.md.
 *
 * Shapes are written [slowest, ..., fastest]; T is the tokens (rows) of a batch.
 *
 * Thread: one at a time for each device. Fails: open() and load() with -errno; launches never (their
 * arguments are our own, and asserted). A device that breaks says so in sync(). */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ops_dtype { OPS_F32 = 0, OPS_BF16 = 1, OPS_F16 = 2 }; /* F16 only as a source of load() */

#define OPS_PAGE_TOKENS 32u  /* tokens of a KV page: the K extent of one AMX tile product */
#define OPS_ALIGN_BYTES 256u /* every tensor in the slab begins at a multiple */
#define OPS_NONE UINT32_MAX
#define OPS_GRAPHS_MAX 32u /* of a device */

/* Host memory that weights are read into on their way to a device. */
#define OPS_STAGES 8u
#define OPS_STAGE_BYTES (4u << 20)

struct ops_device; /* opaque, the backend's */
struct ops_group;  /* likewise */

struct ops_config {
    uint64_t slab_bytes;
    enum ops_dtype activation; /* OPS_BF16 or OPS_F32: type of activations, matrices and KV */
    uint32_t rank;             /* of this device among ranks_count */
    uint32_t
        device_first; /* CUDA: rank 0's place among the backend's devices, further ranks follow */
    uint32_t threads_count;  /* CPU: threads of this rank, the caller's included; 0: one a core */
    uint32_t cpu_first;      /* CPU: threads are pinned to cpu_first, +1, ...; OPS_NONE: not */
    struct ops_group *group; /* ranks that all_reduce() joins; NULL when alone */
    uint32_t rows_max;       /* most rows (T) of any launch: sizes the backend's own scratch */
    uint32_t vocabulary_max; /* most columns of sample() */
    uint32_t k_max;          /* most columns of any matrix */
};

/* A weight matrix W [n, k], in the backend's own layout. Y = X W^T. */
struct ops_matrix {
    void *data; /* matrix_bytes(), OPS_ALIGN_BYTES aligned */
    uint32_t n;
    uint32_t k;
};

/* Rows [row_first, row_first + rows_count) of a matrix, converted from a checkpoint's layout. */
struct ops_load {
    struct ops_matrix matrix;
    uint32_t row_first;
    uint32_t rows_count;
    const void
        *host_source; /* [rows_count, source_stride] of source_dtype; columns 0 .. k-1 used */
    enum ops_dtype source_dtype;
    uint64_t source_stride; /* elements from row to row */
    uint32_t stage; /* 1 + number of the stage that holds the source; 0: it lies elsewhere */
};

/* What all launches over the tokens of a step need to know. Rows of one sequence lie together in
 * rising positions; rows that share pages lie side by side as far as the caller can arrange it. */
struct ops_batch {
    uint32_t tokens_count;        /* T */
    const uint32_t *token;        /* [T] ids */
    const uint32_t *position;     /* [T] absolute, from 0 */
    const uint32_t *seq;          /* [T] row of the page table; rows of unlike sequences differ */
    const uint32_t *pages;        /* page i of row s: pages[s * pages_stride + i]; it holds
                                     positions 32 i .. 32 i + 31 */
    const uint32_t *shared_pages; /* [T] leading pages that row i has in common with row i - 1 (at
                                     most those that both attend to); 0 for row 0 */
    uint32_t pages_stride;
};

/* Keys and values of one layer: [pages, kv_heads, page_bytes of one head], in the backend's layout. */
struct ops_kv {
    void *data; /* pages_count * kv_page_bytes() */
    uint32_t pages_count;
    uint32_t kv_heads;
    uint32_t head_dim;
};

struct ops_embed { /* out[i] = scale * table[token[i]] */
    float *out;    /* [T, hidden] */
    struct ops_matrix table;
    const uint32_t *token;
    uint32_t tokens_count;
    float scale;
};

enum ops_norm_kind { OPS_NORM_RMS = 0, OPS_NORM_LAYER = 1 };
/* y = norm(in) * weight + bias. Weight comes with a checkpoint's (1 + w) already applied. */
struct ops_norm {
    void *out;           /* [rows, columns] activation type, or NULL */
    float *out_f32;      /* [rows, columns] or NULL; may be in */
    float *add_to;       /* [rows, columns] or NULL: add_to += y */
    const float *in;     /* [rows, columns] */
    const float *weight; /* [columns] */
    const float *bias;   /* [columns] or NULL */
    uint32_t rows_count;
    uint32_t columns;
    float epsilon;
    enum ops_norm_kind kind;
};

/* y = x w^T (+ bias), or y += x w^T (+ bias). x is in activation type. Sums in float32, over k from
 * first to last, the same at every rows_count. */
struct ops_gemm {
    float *y;      /* [rows, w.n] */
    const void *x; /* [rows, w.k] activation type */
    struct ops_matrix w;
    const float *bias; /* [w.n] or NULL */
    uint32_t rows_count;
    bool accumulate;
};

/* cosine[i, j] = scale * cos(position[i] * inverse_frequency[j]), sine likewise. */
struct ops_rope_angles {
    float *cosine; /* [T, pairs_count] */
    float *sine;   /* [T, pairs_count] */
    const uint32_t *position;
    const float *inverse_frequency; /* [pairs_count] */
    uint32_t tokens_count;
    uint32_t pairs_count;
    float scale; /* attention factor of yarn and longrope; otherwise 1 */
};

/* Splits the projected rows; norms (optional) and rotates queries and keys, NeoX halves: element j of
 * the first rotary_dim is paired with j + rotary_dim / 2; writes keys and values to their pages. The
 * first write to a page (position % 32 == 0) also clears the rest of it: attention multiplies unused
 * values by zero, and a NaN left there would survive that. */
struct ops_qkv {
    void *q;             /* [T, heads, head_dim] activation type */
    const float *qkv;    /* [T, (heads + 2 kv_heads) * head_dim]: q heads, k heads, v heads */
    const float *q_norm; /* [head_dim] RMS weight, or NULL */
    const float *k_norm; /* likewise */
    const float *cosine; /* [T, rotary_dim / 2] */
    const float *sine;
    struct ops_kv kv;
    struct ops_batch batch;
    uint32_t heads;
    uint32_t rotary_dim; /* 0: no rotation */
    float norm_epsilon;
};

/* Causal attention over the pages. Scores: softcap * tanh(scale * q.k / softcap) when softcap > 0.
 * Row i sees positions max(0, p - window + 1) .. p (window 0: from 0).
 * Order: pages from the first to the last, tokens likewise; a row has a reference, which its own
 * scores set and raise page by page, weights relative to it in activation type, and sums of those
 * weights and of values times them; so within spans of OPS_SPAN_PAGES pages, which are then added in
 * order. A page shared by neighbouring rows is read once for all of them that a block holds: on a CPU up to
 * 32 aligned rows, as many as a core's registers and cache go with; with CUDA 64 queries of a KV head (32
 * where head_dim is above 128), which is 64 / (heads / kv_heads) rows. Larger gangs read it once a block. */
#define OPS_SPAN_PAGES 64u
struct ops_attention {
    void *out;     /* [T, heads, head_dim] activation type */
    const void *q; /* [T, heads, head_dim] */
    struct ops_kv kv;
    struct ops_batch batch;
    uint32_t heads;
    uint32_t window;
    uint32_t position_max; /* greatest position of the batch */
    float scale;
    float softcap;
};

/* Every row of a segment sees the whole segment (encoders). float32 throughout. */
struct ops_attention_full {
    void *out;                 /* [T, heads, head_dim] activation type */
    const float *qkv;          /* [T, 3 * heads * head_dim] */
    const uint32_t *row_first; /* [T] first row of the row's segment */
    const uint32_t *row_count; /* [T] rows of that segment */
    uint32_t tokens_count;
    uint32_t heads;
    uint32_t head_dim;
    float scale;
};

enum ops_gate_kind { OPS_GATE_SILU = 0, OPS_GATE_GELU_TANH = 1, OPS_GATE_GELU_ERF = 2 };
struct ops_gate {    /* out = f(in[0 .. n-1]) * in[n .. 2n-1]; not gated: out = f(in) */
    void *out;       /* [rows, columns] activation type */
    const float *in; /* [rows, 2 * columns], or [rows, columns] when not gated */
    uint32_t rows_count;
    uint32_t columns;
    enum ops_gate_kind kind;
    bool gated;
};

struct ops_add { /* to += from */
    float *to;
    const float *from;
    uint64_t count;
};

struct ops_gather { /* out[i] = in[row[i]] */
    float *out;     /* [rows, columns] */
    const float *in;
    const uint32_t *row; /* [rows] */
    uint32_t rows_count;
    uint32_t columns;
};

/* sum[slot[i]] += in[i], row after row, so that any chunking gives the same sum; slot OPS_NONE: not.
 * Row i starts its slot anew when first[i] is not 0. */
struct ops_pool {
    float *sum; /* [slots, columns] */
    const float *in;
    const uint32_t *slot;
    const uint32_t *first;
    uint32_t rows_count;
    uint32_t columns;
};

struct ops_dot { /* out[i] = in[i] . vector */
    float *out;  /* [rows] */
    const float *in;
    const float *vector; /* [columns] */
    uint32_t rows_count;
    uint32_t columns;
};

struct
    ops_row_mean { /* out[i] = mean of in[i]: the token-logit readout of a process reward model */
    float *out;
    const float *in; /* [rows, columns] */
    uint32_t rows_count;
    uint32_t columns;
};

struct ops_softcap { /* x = cap * tanh(x / cap) */
    float *x;
    uint64_t count;
    float cap;
};

/* One row of sample(). Order: penalties, bias, temperature, top-k, top-p, min-p, then the inverse of
 * the cumulated probability in order of token id, at random / 2^32. */
struct ops_sample_row {
    float temperature; /* 0: greedy, lowest id of the greatest logits */
    float top_p;       /* 1: off */
    float min_p;       /* 0: off; of the greatest probability */
    uint32_t top_k;    /* 0: off */
    float repetition;  /* 1: off; divides positive, multiplies negative logits of seen tokens */
    float presence;    /* 0: off; subtracted once for a generated token */
    float frequency;   /* 0: off; subtracted for each time it was generated */
    uint32_t history_first; /* tokens of the sequence in history[]; count 0 when no penalty is on */
    uint32_t history_count;
    uint32_t history_prompt_count; /* the first of them are prompt, the rest generated */
    uint32_t bias_first;           /* in bias[] */
    uint32_t bias_count;
    uint32_t forced_token; /* OPS_NONE: none; its probability is reported all the same */
    uint32_t random;
    uint32_t confidence_count; /* k of the mean top-k log-probability; 0: none, at most 64 */
    uint32_t pad;
};

struct ops_bias {
    uint32_t token;
    float bias;
};

/* Log-probability, entropy (nats) and confidence are of the model's own distribution: the softmax of
 * the logits as they came, before penalties, bias and temperature. */
struct ops_sampled {
    uint32_t token; /* below vocabulary whatever the logits are */
    float log_probability;
    float entropy;
    float confidence; /* mean log-probability of the confidence_count most probable tokens */
    float top_gap;    /* greatest logit minus the second, as they came */
    uint32_t numeric; /* 1: a logit is NaN or +infinity, or none is finite; token is 0 */
};

struct ops_sample {
    struct ops_sampled *out;           /* [rows] */
    float *logits;                     /* [rows, vocabulary]; may be overwritten */
    const struct ops_sample_row *rows; /* [rows] */
    const uint32_t *history;
    const struct ops_bias *bias;
    uint32_t rows_count;
    uint32_t vocabulary;
};

/* Copies positions 0 .. valid_tokens - 1 of a page and clears the rest of the copy. */
struct ops_page_copy {
    uint32_t from;
    uint32_t to;
    uint32_t valid_tokens;
};
struct ops_pages_copy {
    struct ops_kv kv;
    const struct ops_page_copy *host_copies;
    uint32_t copies_count;
};

struct ops_pages_poison { /* test builds: fills pages with NaN */
    struct ops_kv kv;
    const uint32_t *host_pages;
    uint32_t pages_count;
};

struct ops_all_reduce { /* x = sum over the ranks of x, in rank order */
    float *x;
    uint64_t count;
};

struct ops_all_gather { /* out[row] = in of rank 0, in of rank 1, ... */
    float *out;         /* [rows, ranks * columns] */
    const float *in;    /* [rows, columns] of this rank */
    uint32_t rows_count;
    uint32_t columns;
};

struct ops_stats {
    uint64_t
        kv_bytes_read; /* by attention, since open: each page that a launch reads, once a read */
    uint64_t launches_count; /* those that graphs repeat are not */
    uint64_t graph_runs_count;
    uint64_t own_bytes;    /* of the device's memory, that open() took beside the slab */
    uint64_t graphs_bytes; /* of it, beside what open() took */
};

/* A backend. Pool, memory and copies first, then one launch for each operation above. */
struct ops {
    const char *name; /* "cpu amx", "cpu avx512", "cpu avx2", "cpu scalar", "cuda sm_90" */

    /* Ranks of one process that share sums; outlives their devices. */
    int (*group_new)(uint32_t ranks_count, struct ops_group **ret_group);
    void (*group_free)(struct ops_group *group);
    int (*open)(const struct ops_config *config, struct ops_device **ret_device);
    void (*close)(struct ops_device *device);
    void *(*slab)(struct ops_device *device); /* its first byte, page-aligned */
    uint64_t (*matrix_bytes)(enum ops_dtype activation, uint32_t n, uint32_t k);
    /* One head of one page of one layer. */
    uint64_t (*kv_page_bytes)(enum ops_dtype activation, uint32_t head_dim);
    /* Memory that load() takes from while the caller goes on: OPS_STAGES pieces of OPS_STAGE_BYTES, side by side.
     * NULL, like the next two: any memory is as good. */
    int (*stages_open)(struct ops_device *device, void **ret_stages);
    void (*stages_close)(struct ops_device *device);
    /* Until the last load() from the stage has read it. */
    int (*stage_wait)(struct ops_device *device, uint32_t stage);
    /* Synchronous, but from a stage. */
    int (*load)(struct ops_device *device, const struct ops_load *load);
    void (*copy_in)(struct ops_device *device, void *to, const void *host_from, uint64_t bytes);
    void (*copy_out)(struct ops_device *device, void *host_to, const void *from, uint64_t bytes);
    int (*sync)(struct ops_device *device);
    void (*stats)(const struct ops_device *device, struct ops_stats *ret_stats);

    /* Graphs, or NULL, NULL, NULL. What is launched between begin and end (start-up: this allocates) is
     * recorded under a key below OPS_GRAPHS_MAX, once, and not run; run repeats it, with the arguments as
     * they were: row counts and pointers stay, what those point at may differ. No copies with the host, no
     * host_ arguments, no sync() in between. begin: false if the device is broken; run: false, and
     * nothing is done, if so or where nothing was recorded. With a group, all ranks record the same. */
    bool (*graph_begin)(struct ops_device *device, uint32_t key);
    void (*graph_end)(struct ops_device *device);
    bool (*graph_run)(struct ops_device *device, uint32_t key);

    void (*embed)(struct ops_device *device, const struct ops_embed *args);
    void (*norm)(struct ops_device *device, const struct ops_norm *args);
    void (*gemm)(struct ops_device *device, const struct ops_gemm *args);
    void (*rope_angles)(struct ops_device *device, const struct ops_rope_angles *args);
    void (*qkv)(struct ops_device *device, const struct ops_qkv *args);
    void (*attention)(struct ops_device *device, const struct ops_attention *args);
    void (*attention_full)(struct ops_device *device, const struct ops_attention_full *args);
    void (*gate)(struct ops_device *device, const struct ops_gate *args);
    void (*add)(struct ops_device *device, const struct ops_add *args);
    void (*gather)(struct ops_device *device, const struct ops_gather *args);
    void (*pool)(struct ops_device *device, const struct ops_pool *args);
    void (*dot)(struct ops_device *device, const struct ops_dot *args);
    void (*row_mean)(struct ops_device *device, const struct ops_row_mean *args);
    void (*softcap)(struct ops_device *device, const struct ops_softcap *args);
    void (*sample)(struct ops_device *device, const struct ops_sample *args);
    void (*pages_copy)(struct ops_device *device, const struct ops_pages_copy *args);
    void (*pages_poison)(struct ops_device *device, const struct ops_pages_poison *args);
    void (*all_reduce)(struct ops_device *device, const struct ops_all_reduce *args);
    void (*all_gather)(struct ops_device *device, const struct ops_all_gather *args);
};
