/* tests/fuzz/fuzz_sched.c: the input is a script for the scheduler, or for programs on top of it, on
 * the simulated engine; the first byte says which. A model of a few lines runs beside it.
 *
 * Scheduler: add, remove, pause, resume and poll in any order, removal also while results are read.
 * The model keeps the queue, so it knows each row of each step: exactly those results must come whose
 * sequence still lives, in order, at the next position.
 *
 * Programs: with steps planned ahead or without; submit, end, free, consume and poll in any order. Tokens come without a gap; a paused
 * program decodes nothing; buffers never overflow; news name exactly those that have some; active and
 * paused are counted exactly.
 *
 * Both: the token of (seed, branch, position) is what a second engine gives for it alone. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/rng.h"
#include "daemon/program/program.h"
#include "daemon/text/codec.h"

#define PLACES_MAX 12u
#define TOKENS_MAX 4096u       /* of a step: more than all prompts have */
#define SCRIPT_BYTES_MAX 1024u /* longer ones are slow and show nothing else */
#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition))                                                                          \
            abort();                                                                               \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct script {
    const uint8_t *at;
    size_t left;
};

/* What both halves stand on. */
struct rig {
    struct script script;
    struct engine *engine;
    struct engine *oracle; /* computes single rows */
    struct engine_batch *single;
    struct sched *sched;
    uint64_t now_ns;
    uint32_t places; /* sequences, or programs */
    uint32_t rows_max;
};

static uint8_t next_u8(struct script *s)
{
    if (s->left == 0)
        return 0;
    s->left--;
    return *s->at++;
}

static uint32_t token_alone(struct rig *r, uint64_t seed, uint32_t branch, uint32_t position)
{
    r->single->rows_count = r->single->tokens_count = 1;
    r->single->rows[0] = (struct engine_row){
        .tokens_count = 1,
        .want = ENGINE_WANT_TOKEN,
        .sampling = {.forced_token = OPS_NONE, .random = rng_u32(seed, branch, position)}};
    REQUIRE(engine_post(r->oracle, r->single, 0) == ENGINE_OK);
    REQUIRE(engine_next(r->oracle, ENGINE_POLICY, UINT64_MAX) == r->single);
    return r->single->outputs[0].sampled.token;
}

/* Time passes: not at all, a little, or until there is something to do. */
static void time_pass(struct rig *r, uint64_t due_ns, uint8_t how)
{
    if (how == 0)
        return;
    if (how < 4)
        r->now_ns += how * 7;
    else if (due_ns != UINT64_MAX && due_ns > r->now_ns)
        r->now_ns = due_ns;
}

/* ---- the scheduler ------------------------------------------------------------------------------ */

struct model_seq {
    bool alive;
    uint32_t user;
    uint64_t seed;
    uint32_t branch;
    uint32_t position;
};

struct model_row {
    uint32_t seq;
    uint32_t user;
};

struct model {
    struct model_seq seq[PLACES_MAX];
    uint32_t alive_count;
    uint32_t users_count; /* each sequence has a user of its own */
    uint32_t queue[PLACES_MAX];
    uint32_t queue_count;
    struct model_row row[PLACES_MAX]; /* of the step in flight */
    uint32_t rows_count;
    uint32_t rows_read;
};

static uint32_t queue_find(const struct model *m, uint32_t seq)
{
    uint32_t i = 0;
    while (i < m->queue_count && m->queue[i] != seq)
        i++;
    return i;
}

static void queue_remove(struct model *m, uint32_t seq)
{
    uint32_t i = queue_find(m, seq);
    if (i == m->queue_count)
        return;
    memmove(&m->queue[i], &m->queue[i + 1], (m->queue_count - i - 1) * sizeof m->queue[0]);
    m->queue_count--;
}

static void queue_append(struct model *m, uint32_t seq)
{
    if (queue_find(m, seq) == m->queue_count)
        m->queue[m->queue_count++] = seq;
}

static void seq_add(struct rig *r, struct model *m, uint8_t what)
{
    struct model_seq add = {
        .alive = true, .user = m->users_count, .seed = what & 3, .branch = what >> 7};
    uint32_t seq;
    int code = sched_add(r->sched,
                         &(struct sched_seq_args){.seed = add.seed,
                                                  .branch = add.branch,
                                                  .prompt_tokens = 1 + (what & 31),
                                                  .user = add.user},
                         &seq);
    REQUIRE(code == (m->alive_count == r->places ? SCHED_E_FULL : SCHED_OK));
    if (code != SCHED_OK)
        return;
    REQUIRE(seq < r->places && !m->seq[seq].alive);
    m->seq[seq] = add;
    m->users_count++;
    m->alive_count++;
    queue_append(m, seq);
}

static void seq_remove(struct rig *r, struct model *m, uint32_t seq)
{
    if (!m->seq[seq].alive)
        return;
    sched_remove(r->sched, seq);
    queue_remove(m, seq);
    m->seq[seq].alive = false;
    m->alive_count--;
}

/* The next result that the model expects; false: none. */
static bool row_expect(struct model *m, struct model_seq **ret_seq)
{
    while (m->rows_read < m->rows_count) {
        const struct model_row *row = &m->row[m->rows_read++];
        struct model_seq *s = &m->seq[row->seq];
        if (s->alive && s->user == row->user) {
            *ret_seq = s;
            return true;
        }
    }
    return false;
}

static void results_read(struct rig *r, struct model *m)
{
    struct sched_result result;
    struct model_seq *s;
    while (sched_next(r->sched, &result)) {
        REQUIRE(row_expect(m, &s));
        REQUIRE(result.user == s->user && result.position == s->position);
        REQUIRE(result.sampled.token == token_alone(r, s->seed, s->branch, s->position));
        s->position++;
        uint8_t what = next_u8(&r->script);
        if ((what & 7) == 1)
            seq_remove(r, m, (uint32_t)(s - m->seq));
        else if ((what & 7) == 2)
            seq_remove(r, m, (what >> 3) % r->places);
        else if ((what & 7) == 3)
            seq_add(r, m, what);
    }
    REQUIRE(!row_expect(m, &s));
    m->rows_count = m->rows_read = 0;
}

static void queue_rotate(struct model *m, uint32_t by)
{
    uint32_t before[PLACES_MAX];
    memcpy(before, m->queue, sizeof before);
    for (uint32_t i = 0; i < m->queue_count; i++)
        m->queue[i] = before[(i + by) % m->queue_count];
}

static void sched_step(struct rig *r, struct model *m)
{
    bool in_flight = m->rows_count > 0;
    uint64_t due_ns = sched_due_ns(r->sched);
    struct sched_stats before, after;
    sched_stats(r->sched, &before);
    REQUIRE(in_flight ? due_ns != 0 && due_ns != UINT64_MAX
                      : due_ns == (m->queue_count ? 0 : UINT64_MAX));
    for (uint32_t i = 0; !in_flight && i < m->queue_count && i < r->rows_max; i++)
        m->row[m->rows_count++] = (struct model_row){m->queue[i], m->seq[m->queue[i]].user};
    if (!in_flight && m->queue_count > r->rows_max) /* who had to wait comes first next time */
        queue_rotate(m, r->rows_max);
    uint32_t work = sched_poll(r->sched, r->now_ns);
    sched_stats(r->sched, &after);
    REQUIRE(after.steps_count == before.steps_count + (!in_flight && m->rows_count));
    /* A step in flight has its due time in the future; collected, the next is due now or never. */
    due_ns = sched_due_ns(r->sched);
    bool collected = m->rows_count && (due_ns == 0 || due_ns == UINT64_MAX);
    REQUIRE(work == (in_flight ? 0 : m->rows_count) + (collected ? m->rows_count : 0));
    if (collected)
        results_read(r, m);
}

static void run_sched(struct rig *r)
{
    struct model m = {0};
    while (r->script.left) {
        uint8_t op = next_u8(&r->script), what = next_u8(&r->script);
        uint32_t seq = what % r->places;
        switch (op & 7) {
        case 0:
            seq_add(r, &m, what);
            break;
        case 1:
            seq_remove(r, &m, seq);
            break;
        case 2:
            if (m.seq[seq].alive) {
                sched_pause(r->sched, seq);
                queue_remove(&m, seq);
            }
            break;
        case 3:
            if (m.seq[seq].alive) {
                sched_resume(r->sched, seq);
                queue_append(&m, seq);
            }
            break;
        default:
            time_pass(r, sched_due_ns(r->sched), what & 7);
            sched_step(r, &m);
            break;
        }
    }
}

/* ---- programs ----------------------------------------------------------------------------------- */

struct model_program {
    bool used;
    bool ended;
    bool news;
    struct program_spec spec;
    uint32_t tokens_count;
};

struct model_programs {
    struct programs *programs;
    struct model_program program[PLACES_MAX];
    uint64_t tokens_count;
};

static bool model_paused(const struct program_view *v)
{
    return v->state < DYNASOR_STATE_DONE &&
           (v->tokens_count - v->tokens_taken >= PROGRAM_BUFFER_TOKENS ||
            v->text_bytes_count - v->text_bytes_taken >
                PROGRAM_BUFFER_BYTES - CODEC_PUSH_BYTES_MAX);
}

static void sizes_check(const struct program_view *v)
{
    REQUIRE(v->tokens_taken <= v->tokens_count && v->text_bytes_taken <= v->text_bytes_count);
    REQUIRE(v->tokens_count - v->tokens_taken <= PROGRAM_BUFFER_TOKENS);
    REQUIRE(v->text_bytes_count == v->tokens_count); /* the byte codec */
    REQUIRE(v->text_bytes_count - v->text_bytes_taken <= PROGRAM_BUFFER_BYTES);
}

/* The untaken output is what the program alone would say there. */
static void content_check(struct rig *r, const struct model_program *p,
                          const struct program_view *v)
{
    for (uint32_t i = v->tokens_taken; i < v->tokens_count; i++)
        REQUIRE(v->tokens[i % PROGRAM_BUFFER_TOKENS] == token_alone(r, p->spec.seed, 0, i));
    for (uint32_t i = (uint32_t)v->text_bytes_taken; i < v->text_bytes_count; i++)
        REQUIRE(v->text[i % PROGRAM_BUFFER_BYTES] == token_alone(r, p->spec.seed, 0, i));
}

static void stats_check(const struct rig *r, const struct model_programs *m)
{
    struct programs_stats stats;
    uint64_t active = 0, paused = 0;
    for (uint32_t i = 0; i < r->places; i++) {
        if (!m->program[i].used)
            continue;
        const struct program_view *v = program_view(m->programs, i);
        active += !m->program[i].ended;
        paused += v->paused;
        REQUIRE((v->state >= DYNASOR_STATE_DONE) == m->program[i].ended);
        REQUIRE(v->paused == model_paused(v));
    }
    programs_stats(m->programs, &stats);
    REQUIRE(stats.active_count == active && stats.paused_count == paused);
    REQUIRE(stats.tokens_count == m->tokens_count);
}

static void programs_step(struct rig *r, struct model_programs *m)
{
    bool was_paused[PLACES_MAX];
    for (uint32_t i = 0; i < r->places; i++)
        was_paused[i] = m->program[i].used && program_view(m->programs, i)->paused;
    (void)programs_poll(m->programs, r->now_ns); /* the work done shows in the views */
    for (uint32_t i = 0; i < r->places; i++) {
        struct model_program *p = &m->program[i];
        if (!p->used)
            continue;
        const struct program_view *v = program_view(m->programs, i);
        uint32_t grown = v->tokens_count - p->tokens_count;
        REQUIRE(grown <= (p->ended || was_paused[i] ? 0 : 1));
        REQUIRE(v->tokens_count <= p->spec.max_tokens);
        p->tokens_count = v->tokens_count;
        m->tokens_count += grown;
        if (grown && v->tokens_count == p->spec.max_tokens) {
            REQUIRE(v->state == DYNASOR_STATE_DONE && v->status == DYNASOR_OK);
            p->ended = true;
            p->news = true;
        }
        if (grown &&
            (v->tokens_taken < v->tokens_count || v->text_bytes_taken < v->text_bytes_count))
            p->news = true;
        sizes_check(v);
    }
}

static void submit(struct rig *r, struct model_programs *m, uint8_t what)
{
    uint8_t more = next_u8(&r->script);
    static const uint8_t prompt[256];
    struct program_spec spec = {.seed = what & 3,
                                .prompt = prompt,
                                .streams = 1 + (what >> 2) % 3,
                                .max_tokens = 1 + (more & 127),
                                .prompt_bytes = 4 + (what >> 4) * 4u,
                                .prompt_is_tokens = (what & 4) != 0};
    if (more & 128) {
        spec.resume_tokens = next_u8(&r->script) % (spec.max_tokens + 1);
        spec.resume_text_bytes = next_u8(&r->script);
    }
    uint32_t used = 0;
    for (uint32_t i = 0; i < r->places; i++)
        used += m->program[i].used;
    uint32_t handle = program_submit(m->programs, &spec);
    REQUIRE((handle == PROGRAM_NONE) == (used == r->places));
    if (handle == PROGRAM_NONE)
        return;
    REQUIRE(handle < r->places && !m->program[handle].used);
    m->program[handle] = (struct model_program){.used = true, .spec = spec};
}

static void end(struct model_programs *m, uint32_t handle)
{
    struct model_program *p = &m->program[handle];
    const struct program_view *v = program_view(m->programs, handle);
    uint32_t before = v->state, taken = v->tokens_taken;
    program_end(m->programs, handle, DYNASOR_STATE_CANCELLED, DYNASOR_E_CANCELLED);
    if (p->ended) {
        REQUIRE(v->state == before && v->tokens_taken == taken);
        return;
    }
    REQUIRE(v->state == DYNASOR_STATE_CANCELLED && v->status == DYNASOR_E_CANCELLED);
    REQUIRE(v->tokens_taken == v->tokens_count && v->text_bytes_taken == v->text_bytes_count);
    p->ended = true;
    p->news = true;
}

static void consume(struct rig *r, struct model_programs *m, uint32_t handle)
{
    const struct program_view *v = program_view(m->programs, handle);
    uint8_t how = next_u8(&r->script);
    content_check(r, &m->program[handle], v);
    uint32_t tokens = v->tokens_count - v->tokens_taken;
    uint64_t text = v->text_bytes_count - v->text_bytes_taken;
    program_consume(m->programs, handle, v->tokens_taken + tokens * (how & 15) / 15,
                    v->text_bytes_taken + text * (how >> 4) / 15);
}

static void news_read(struct rig *r, struct model_programs *m, uint8_t limit)
{
    uint32_t handle;
    for (;;) {
        if (limit-- == 0)
            return; /* some may be left */
        if (!program_next(m->programs, &handle))
            break;
        REQUIRE(handle < r->places && m->program[handle].used && m->program[handle].news);
        m->program[handle].news = false;
    }
    for (uint32_t i = 0; i < r->places; i++)
        REQUIRE(!m->program[i].news);
}

static void run_programs(struct rig *r)
{
    struct model_programs m = {0};
    REQUIRE(programs_new(&(struct programs_config){.programs_max = r->places,
                                                   .branches_max = r->places,
                                                   .context_tokens = UINT32_MAX,
                                                   .prompt_bytes_max = 4096,
                                                   .policy = r->sched},
                         &m.programs) == 0);
    while (r->script.left) {
        uint8_t op = next_u8(&r->script), what = next_u8(&r->script);
        uint32_t handle = what % r->places;
        bool used = m.program[handle].used;
        switch (op & 7) {
        case 0:
            submit(r, &m, what);
            break;
        case 1:
            if (used)
                end(&m, handle);
            break;
        case 2:
            if (used)
                program_free(m.programs, handle);
            m.program[handle] = (struct model_program){0};
            break;
        case 3:
            if (used)
                consume(r, &m, handle);
            break;
        case 4:
            news_read(r, &m, what);
            break;
        default: /* several at once, so that a short script fills a buffer */
            for (uint32_t i = 0; i <= op >> 3; i++) {
                time_pass(r, programs_due_ns(m.programs), what & 7);
                programs_step(r, &m);
            }
            break;
        }
        stats_check(r, &m);
    }
    for (uint32_t i = 0; i < r->places; i++)
        if (m.program[i].used)
            content_check(r, &m.program[i], program_view(m.programs, i));
    news_read(r, &m, UINT8_MAX);
    programs_free(m.programs);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rig r = {.script = {data, size < SCRIPT_BYTES_MAX ? size : SCRIPT_BYTES_MAX},
                    .now_ns = 1};
    uint8_t half = next_u8(&r.script), sizes = next_u8(&r.script);
    r.places = 1 + sizes % PLACES_MAX;
    r.rows_max = 1 + (sizes >> 4) % PLACES_MAX;
    struct engine_config config = {.simulate = true,
                                   .sim_step_ns = 10,
                                   .sim_prefill_ns_per_token = 1,
                                   .steps_max = (half & 3) == 3 ? 2 : 1,
                                   .rows_max = r.rows_max,
                                   .tokens_max = TOKENS_MAX};
    struct sched_config sched_config = {.seqs_max = r.places,
                                        .groups_max = r.places,
                                        .rows_max = r.rows_max,
                                        .tokens_max = TOKENS_MAX};
    char message[ENGINE_MESSAGE_BYTES];
    REQUIRE(engine_open(&config, message, &r.engine) == 0);
    REQUIRE(engine_open(&config, message, &r.oracle) == 0);
    REQUIRE(engine_batch_new(r.oracle, &r.single) == 0);
    REQUIRE(sched_new(&sched_config, r.engine, &r.sched) == 0);
    if (half & 1)
        run_programs(&r);
    else
        run_sched(&r);
    sched_free(r.sched);
    engine_close(r.engine);
    engine_batch_free(r.single);
    engine_close(r.oracle);
    return 0;
}
