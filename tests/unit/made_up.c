#include "tests/unit/made_up.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "daemon/base/reserve.h"
#include "daemon/program/profile.h"

/* ---- a scheduler that makes things up ---------------------------------------------------------- */

writer *write_token;
bool is_measured;
struct observer *observed_by;
void (*read_score)(const struct seq *seq);

float confidence_of(uint64_t seed, uint32_t key, uint32_t position)
{
    return 1 + (float)(rng_u32(seed ^ 77, key, position) % 1000) / 256; /* sums are exact */
}

static struct sched *sched_make(bool is_reward)
{
    struct sched *s = calloc(1, sizeof *s);
    CHECK(s, "%m");
    size_t bytes = SEQS_MAX * sizeof *s->seqs;
    /* What bench-steps times is not this; for others it is much to fill. */
    s->seqs = is_measured ? reserve_dense(bytes) : reserve(bytes);
    s->order = calloc(SEQS_MAX, sizeof *s->order);
    s->tokens = calloc((size_t)SEQS_MAX * CONTEXT, sizeof *s->tokens);
    CHECK(s->seqs && s->order && s->tokens, "%m");
    s->is_reward = is_reward;
    return s;
}

static void sched_unmake(struct sched *s)
{
    assert_int_equal(s->used, 0);
    free(s->order);
    free(s->tokens);
    unreserve(s->seqs, SEQS_MAX * sizeof *s->seqs);
    free(s);
}

uint32_t sched_vocabulary(const struct sched *s)
{
    (void)s;
    return UINT32_MAX;
}

bool sched_fits(const struct sched *s, uint64_t tokens)
{
    (void)s;
    return tokens <= CONTEXT;
}

static void state_set(struct sched *s, struct seq *q, enum seq_state state)
{
    uint32_t i = (uint32_t)(q - s->seqs);
    uint64_t bit = 1ull << i % 64;
    q->state = state;
    s->runs[i / 64] = state == RUNS ? s->runs[i / 64] | bit : s->runs[i / 64] & ~bit;
}

static int seq_make(struct sched *s, const struct seq *parent, const struct sched_seq_args *args,
                    uint32_t *ret_seq)
{
    uint32_t i, running = 0;
    for (i = 0; s->refuses && i < s->fresh; i++)
        running += s->seqs[i].state == RUNS;
    if (running && rng_below(&s->rng, 100) < s->refuses) /* they will make room */
        return SCHED_E_FULL;
    for (i = s->taken; i < SEQS_MAX && s->seqs[i].state != FREE; i++)
        ;
    CHECK(i < SEQS_MAX, "too many");
    s->taken = i + 1;
    struct seq *q = &s->seqs[i];
    state_set(s, q, RUNS);
    q->tokens = s->tokens + (size_t)i * CONTEXT;
    q->args = *args;
    q->stem = args->stem;
    q->count = parent ? parent->count : 0;
    if (parent)
        memcpy(q->tokens, parent->tokens, parent->count * sizeof *q->tokens);
    CHECK(q->count + args->prompt_tokens + args->max_tokens <= CONTEXT, "too long");
    CHECK(q->count + args->prompt_tokens > 0, "nothing to read");
    CHECK(!(parent && s->is_reward) || args->prompt_tokens > 0, "nothing new to read");
    memcpy(q->tokens + q->count, args->prompt, args->prompt_tokens * sizeof *q->tokens);
    q->count += args->prompt_tokens;
    q->own_first = q->count;
    q->told = 0;
    s->read_tokens += args->prompt_tokens;
    s->fresh = i >= s->fresh ? i + 1 : s->fresh;
    s->used++;
    *ret_seq = i;
    return SCHED_OK;
}

static struct seq *seq_of(struct sched *s, uint32_t seq)
{
    CHECK(seq < SEQS_MAX && s->seqs[seq].state != FREE, "sequence %u is not there", seq);
    return &s->seqs[seq];
}

int sched_add(struct sched *s, const struct sched_seq_args *args, uint32_t *ret_seq)
{
    return seq_make(s, NULL, args, ret_seq);
}

int sched_fork(struct sched *s, uint32_t parent, const struct sched_seq_args *args,
               uint32_t *ret_seq)
{
    return seq_make(s, seq_of(s, parent), args, ret_seq);
}

void sched_remove(struct sched *s, uint32_t seq)
{
    state_set(s, seq_of(s, seq), FREE);
    s->taken = seq < s->taken ? seq : s->taken;
    s->used--;
}

void sched_pause(struct sched *s, uint32_t seq)
{
    state_set(s, seq_of(s, seq), PAUSED);
}

void sched_resume(struct sched *s, uint32_t seq)
{
    CHECK(!seq_of(s, seq)->stem, "a stem is done");
    state_set(s, seq_of(s, seq), RUNS);
}

uint32_t sched_poll(struct sched *s, uint64_t now_ns)
{
    (void)now_ns;
    assert_int_equal(s->results, s->next);
    s->results = s->next = 0;
    for (uint32_t w = 0; w < (s->fresh + 63) / 64; w++)
        for (uint64_t bits = s->runs[w]; bits; bits &= bits - 1)
            if (!s->lazy || rng_below(&s->rng, 100) >= s->lazy)
                s->order[s->results++] = w * 64 + (uint32_t)__builtin_ctzll(bits);
    for (uint32_t i = s->results; s->lazy && i > 1; i--) {
        uint32_t k = (uint32_t)rng_below(&s->rng, i), swap = s->order[k];
        s->order[k] = s->order[i - 1];
        s->order[i - 1] = swap;
    }
    return s->results;
}

uint64_t hash_of(const uint32_t *tokens, uint32_t count)
{
    uint64_t hash = 5;
    for (uint32_t i = 0; i < count; i++)
        hash = (hash ^ tokens[i]) * 0x9e3779b97f4a7c15u + (hash >> 29);
    return hash ^ hash >> 32;
}

float score_of(const uint32_t *tokens, uint32_t count)
{
    return (float)(hash_of(tokens, count) % 997) / 997;
}

bool sched_next(struct sched *s, struct sched_result *ret)
{
    while (s->next < s->results) {
        uint32_t idx = s->order[s->next++];
        struct seq *q = &s->seqs[idx];
        if (q->state != RUNS)
            continue; /* it was removed, or paused, by what came before it in this step */
        *ret = (struct sched_result){.user = q->args.user, .seq = idx};
        if (q->stem) {
            ret->kind = SCHED_READY;
            if (q->args.want & SCHED_WANT_SCORE)
                ret->score = is_measured ? (float)(rng_u32(q->args.seed, q->count, idx) % 997) / 997
                                         : score_of(q->tokens, q->count);
            if (q->args.want & SCHED_WANT_SCORE && read_score)
                read_score(q);
            state_set(s, q, PAUSED);
            return true;
        }
        CHECK(q->told < q->args.max_tokens, "nobody took it out");
        ret->position = q->told;
        ret->sampled.token = write_token(q, q->told);
        q->tokens[q->count++] = ret->sampled.token;
        q->told++;
        if (is_measured)
            return true;
        ret->sampled.log_probability =
            -(float)(rng_u32(q->args.seed, q->args.branch ^ 9, ret->position) % 100) / 50;
        ret->sampled.confidence = confidence_of(q->args.seed, q->args.branch, ret->position);
        return true;
    }
    return false;
}

uint32_t sched_user_ahead(const struct sched *s)
{
    return s->next + 1 < s->results ? s->seqs[s->order[s->next + 1]].args.user : SCHED_NONE;
}

uint64_t sched_due_ns(const struct sched *s)
{
    (void)s;
    return 0;
}

uint32_t sched_vector_size(const struct sched *s)
{
    (void)s;
    return 0;
}

int sched_fd(const struct sched *s)
{
    (void)s;
    return -1;
}

/* It has no pages. */
void sched_stats(const struct sched *s, struct sched_stats *ret)
{
    (void)s;
    *ret = (struct sched_stats){0};
}

/* ---- what is written ------------------------------------------------------------------------------ */

uint32_t write_anything(const struct seq *q, uint32_t position)
{
    uint32_t h = rng_u32(q->args.seed, q->args.branch, position);
    if (q->args.branch >> 31 && position < 2) /* a probe: mostly 0 or 1 */
        return position == 0 ? '0' + h % 2 : h % 5 ? '}' : 'n';
    if (h % 13 == 0)
        return '\n';
    if (h % 53 == 1)
        return END;
    return h % 3 == 0 ? '0' + h / 7 % 3 : 'a' + h / 11 % 26;
}

/* ---- one program -------------------------------------------------------------------------------- */

/* The byte-level alphabet, each character at the number of its byte. */
static void write_tokenizer(FILE *file)
{
    uint32_t more = 256;
    char many[LONG_BYTES + 1] = "";
    memset(many, 'x', LONG_BYTES);
    (void)fprintf(file,
                  "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,"
                  "\"added_tokens\":[{\"id\":256,\"content\":\"<end>\",\"single_word\":false,"
                  "\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true},"
                  "{\"id\":257,\"content\":\"%s\",\"single_word\":false,"
                  "\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":false}],"
                  "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\","
                  "\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true},"
                  "\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\","
                  "\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},"
                  "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
                  "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,"
                  "\"fuse_unk\":false,\"byte_fallback\":false,\"merges\":[],\"vocab\":{",
                  many);
    for (uint32_t b = 0; b < 256; b++) {
        bool itself = (b >= 33 && b <= 126) || (b >= 161 && b != 173);
        (void)fprintf(file, "%s\"\\u%04x\":%u", b ? "," : "", itself ? b : more, b);
        more += !itself;
    }
    (void)fprintf(file, "}}}");
}

struct codec *codec_make(void)
{
    char folder[] = "/tmp/made-up-XXXXXX", path[2][64], message[CODEC_MESSAGE_BYTES];
    struct codec *codec;
    CHECK(mkdtemp(folder), "%m");
    (void)snprintf(path[0], sizeof path[0], "%s/tokenizer.json", folder);
    (void)snprintf(path[1], sizeof path[1], "%s/generation_config.json", folder);
    FILE *file = fopen(path[0], "we");
    CHECK(file, "%m");
    write_tokenizer(file);
    CHECK(fclose(file) == 0, "%m");
    file = fopen(path[1], "we");
    CHECK(file && fputs("{\"eos_token_id\":256}", file) >= 0 && fclose(file) == 0, "%m");
    CHECK(codec_open(folder, message, &codec) == 0, "%s", message);
    CHECK(unlink(path[0]) == 0 && unlink(path[1]) == 0 && rmdir(folder) == 0, "%m");
    return codec;
}

void rig_open(struct rig *r, uint64_t seed, uint32_t lazy, uint32_t refuses)
{
    rig_open_with(r, NULL, seed, lazy, refuses);
}

void rig_open_with(struct rig *r, struct codec *codec, uint64_t seed, uint32_t lazy,
                   uint32_t refuses)
{
    static const char probe[] = "**Final Answer** \\boxed{";
    *r = (struct rig){.sched = {sched_make(false), sched_make(true)}, .codec = codec};
    for (uint32_t m = 0; m < 2; m++) {
        r->sched[m]->rng.state = seed + m;
        r->sched[m]->lazy = lazy;
        r->sched[m]->refuses = refuses;
    }
    r->texts.probe_count = sizeof probe - 1;
    for (uint32_t i = 0; i < sizeof probe - 1; i++)
        r->texts.probe[i] = (uint8_t)probe[i];
    assert_int_equal(runs_new(&(struct runs_config){.runs_max = RUNS_MAX,
                                                    .branches_max = BRANCHES_MAX,
                                                    .context_tokens = CONTEXT,
                                                    .codec = codec,
                                                    .observer = observed_by,
                                                    .policy = r->sched[0],
                                                    .reward = r->sched[1],
                                                    .texts = &r->texts},
                              &r->runs),
                     0);
}

void rig_close(struct rig *r)
{
    runs_free(r->runs);
    sched_unmake(r->sched[0]);
    sched_unmake(r->sched[1]);
}

static const uint32_t end_token = END;

void job_make(struct job *job, uint32_t algorithm, uint64_t seed, const char *profile)
{
    struct profile found;
    memset(job, 0, sizeof *job);
    assert_int_equal(profile_find(profile, &found), 0);
    job->policy = found.policy;
    job->args = (struct run_args){.algorithm = algorithm_get(algorithm),
                                  .seed = seed,
                                  .sampling = {.repetition = 1},
                                  .stop_tokens = (const uint8_t *)&end_token,
                                  .stop_tokens_count = 1};
    parameters_default(algorithm, &job->args.parameters);
    job->args.parameters.max_tokens = 100;
    job->args.parameters.answer = (struct answer_rule){.kind = ANSWER_NUMBER};
    for (uint32_t i = 0; i < 8; i++)
        job->prompt[i] = rng_u32(seed, 1, i) % 256;
}

void set(struct job *job, uint32_t parameter, double value)
{
    CHECK(parameter_set(&job->args.parameters, parameter, value), "parameter %u = %g", parameter,
          value);
}

static void outcome_take(struct run *run, struct outcome *o)
{
    const char *answer;
    uint32_t count, at = 0, bytes;
    const uint32_t *tokens;
    memset(o, 0, sizeof *o);
    o->done = true;
    o->result = *run_result(run);
    o->cost = *run_cost(run);
    o->said = 5;
    while (o->result.branch != RUN_NONE &&
           (tokens = run_path(run, o->result.branch, at, &count)) != NULL) {
        o->said = o->said * 31 + hash_of(tokens, 1);
        at++;
    }
    o->said_count = at;
    if (run_answer(run, &answer, &bytes)) {
        memcpy(o->answer, answer, bytes);
        o->answer_bytes = bytes;
    }
}

void run_all(struct rig *r, struct job *jobs, struct outcome *outcomes, uint32_t count)
{
    uint32_t started = 0, done = 0, user, idle = 0;
    struct run *run;
    while (done < count) {
        for (enum runs_result full = RUNS_OK; started < count && full == RUNS_OK;) {
            struct job *job = &jobs[started];
            job->args.user = started;
            job->args.group = started;
            job->args.policy = &job->policy;
            full = runs_start(r->runs, &job->args, job->prompt, 8, &run);
            CHECK(full <= RUNS_E_FULL, "refused with %d", (int)full);
            started += full == RUNS_OK;
        }
        idle = runs_poll(r->runs, 0) ? 0 : idle + 1;
        CHECK(idle < 1000, "nothing goes on: %u of %u are done", done, count);
        while ((run = runs_news(r->runs, &user))) {
            if (run_result(run)->end == RUN_GOES_ON)
                continue;
            assert_int_equal(run_result(run)->end, RUN_DONE);
            outcome_take(run, &outcomes[user]);
            run_stop(run);
            done++;
        }
    }
}

bool same(const struct outcome *a, const struct outcome *b)
{
    struct outcome x = *a, y = *b;
    x.cost.lost_tokens = y.cost.lost_tokens = 0;
    return memcmp(&x, &y, sizeof x) == 0;
}
