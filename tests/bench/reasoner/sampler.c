/* Keeps so many branches running as it may: the next prompt's stem is added when there is room for its
 * samples, which fork from it when its KV is there. */
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/clock.h"
#include "daemon/sched/sched.h"
#include "tests/bench/dynasor/options.h"
#include "tests/bench/reasoner/reasoner.h"

struct place { /* of a running sequence */
    struct job *job;
    uint32_t idx; /* its sample; UINT32_MAX: the stem */
    uint32_t seq;
    double log_sum;
};

struct sampler {
    struct sched *sched;
    const struct codec *codec;
    const struct sampling_args *args;
    struct place *places; /* [seqs] */
    uint32_t *free_places;
    uint32_t free_count;
    uint32_t room; /* branches that may be promised yet */
    struct sampler_stats *stats;
    uint32_t finished_count; /* samples */
};

static struct sched_seq_args seq_args(const struct sampler *s, const struct place *place,
                                      uint32_t user)
{
    return (struct sched_seq_args){
        .seed = place->job->seed,
        .branch = place->idx == UINT32_MAX ? 0 : place->idx,
        .user = user,
        .max_tokens = s->args->tokens_max,
        .sampling = {.temperature = s->args->temperature, .top_p = s->args->top_p, .repetition = 1},
    };
}

static bool start(struct sampler *s, struct job *job)
{
    if (s->room < job->samples_count)
        return false;
    uint32_t user = s->free_places[s->free_count - 1];
    struct place *place = &s->places[user];
    *place = (struct place){.job = job, .idx = UINT32_MAX};
    struct sched_seq_args args = seq_args(s, place, user);
    args.prompt = job->prompt;
    args.prompt_tokens = job->prompt_count;
    args.stem = true;
    int result = sched_add(s->sched, &args, &place->seq);
    if (result == SCHED_E_LONG)
        fail("a prompt of %u tokens and %u more do not fit", job->prompt_count, args.max_tokens);
    if (result != SCHED_OK)
        return false;
    s->free_count--;
    s->room -= job->samples_count;
    return true;
}

static void branch_out(struct sampler *s, uint32_t stem)
{
    struct job *job = s->places[stem].job;
    for (uint32_t i = 0; i < job->samples_count; i++) {
        uint32_t user = s->free_places[--s->free_count];
        struct place *place = &s->places[user];
        *place = (struct place){.job = job, .idx = i};
        struct sched_seq_args args = seq_args(s, place, user);
        if (sched_fork(s->sched, s->places[stem].seq, &args, &place->seq) != SCHED_OK)
            fail("the KV cache does not hold %u samples", job->samples_count);
        job->samples[i] =
            (struct sample){.tokens = need(calloc(args.max_tokens, sizeof(uint32_t)))};
    }
    sched_remove(s->sched, s->places[stem].seq);
    s->free_places[s->free_count++] = stem;
}

static void finish(struct sampler *s, uint32_t user)
{
    struct place *place = &s->places[user];
    struct sample *sample = &place->job->samples[place->idx];
    sched_remove(s->sched, place->seq);
    s->free_places[s->free_count++] = user;
    s->room++;
    s->finished_count++;
    sample->mean_log_probability =
        sample->count ? (float)(place->log_sum / (sample->count + sample->ended)) : 0;
    struct codec_stream stream;
    codec_stream_init(&stream, NULL);
    sample->text = need(calloc(sample->count + 1, CODEC_PUSH_BYTES_MAX));
    uint32_t bytes = 0, more;
    for (uint32_t i = 0; i < sample->count; i++, bytes += more)
        (void)codec_push(&stream, s->codec, sample->tokens[i], (uint8_t *)sample->text + bytes,
                         &more); /* no stops */
    bytes += codec_flush(&stream, s->codec, (uint8_t *)sample->text + bytes);
    sample->text[bytes] = 0;
    sample->text = need(realloc(sample->text, bytes + 1));
}

static void take(struct sampler *s, const struct sched_result *result)
{
    if (result->kind == SCHED_READY) {
        branch_out(s, result->user);
        return;
    }
    struct place *place = &s->places[result->user];
    struct sample *sample = &place->job->samples[place->idx];
    if (result->sampled.numeric)
        fail("the model's logits are not numbers");
    s->stats->tokens_count++;
    place->log_sum += (double)result->sampled.log_probability;
    sample->ended = codec_is_end(s->codec, result->sampled.token);
    if (sample->ended)
        sample->end = result->sampled.token;
    else
        sample->tokens[sample->count++] = result->sampled.token;
    if (sample->ended || sample->count == s->args->tokens_max)
        finish(s, result->user);
}

void sampler_run(struct engine *engine, const struct codec *codec, uint32_t seqs,
                 const struct sampling_args *args, struct job *jobs, uint32_t jobs_count,
                 struct sampler_stats *ret_stats)
{
    struct sampler s = {.codec = codec, .args = args, .room = seqs, .stats = ret_stats};
    uint32_t places = 2 * seqs; /* each branch may have a stem of its own */
    struct sched_config config = {.seqs_max = places,
                                  .groups_max = 1,
                                  .rows_max = seqs + 1,
                                  .tokens_max = 512 > seqs + 1 ? 512 : seqs + 1};
    if (sched_new(&config, engine, &s.sched) != 0)
        fail("no memory for %u branches", seqs);
    s.places = need(calloc(places, sizeof *s.places));
    s.free_places = need(calloc(places, sizeof *s.free_places));
    for (uint32_t i = 0; i < places; i++)
        s.free_places[s.free_count++] = i;
    uint64_t begin_ns = clock_now_ns();
    uint32_t next = 0, count = 0;
    for (uint32_t i = 0; i < jobs_count; i++)
        count += jobs[i].samples_count;
    struct progress said = {args->progress, "samples", begin_ns, begin_ns};
    while (next < jobs_count || s.free_count < places) {
        while (next < jobs_count && start(&s, &jobs[next]))
            next++;
        if (sched_poll(s.sched, clock_now_ns()) == 0 && sched_due_ns(s.sched) == UINT64_MAX) {
            struct pollfd fd = {.fd = sched_fd(s.sched), .events = POLLIN};
            (void)poll(&fd, 1, 1000); /* asked again either way */
        }
        struct sched_result result;
        while (sched_next(s.sched, &result))
            take(&s, &result);
        progress_say(&said, s.finished_count, count);
    }
    ret_stats->seconds += (double)(clock_now_ns() - begin_ns) / 1e9;
    sched_free(s.sched);
    free(s.places);
    free(s.free_places);
}

void samples_free(struct sample *samples, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        free(samples[i].tokens);
        free(samples[i].text);
    }
}
