/* Runs self-consistency programs that share one total of tokens, and prints what each came to.
 *
 *     ./batch [--socket PATH] [--tokens N] [--cap N] [--batch-cap N] [--step N] [--seed N]
 *             [--max-tokens N] [--profile NAME] [--chat] [PROMPT]...
 *
 * Each may have --cap samples; what those that settle before leave of --tokens raises the caps of the others, up
 * to --batch-cap. A line for each program, in the order of the prompts: verdict, samples, tokens,
 * answer. With RESTARTING the library goes on by itself; what cannot go on ends with a status. */
#include <dynasor/client.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROGRAMS_MAX 512
#define BATCH 1 /* the number is this client's own */

struct came {
    uint32_t state;
    uint32_t status;
    struct dynasor_result result;
};

static int fail(const char *what, int rc, const char *why)
{
    fprintf(stderr, "batch: %s: %s: %s\n", what, dynasor_status_name(rc), why);
    return 1;
}

/* All of them: the batch begins when the last one has come. */
static int submit(struct dynasor_lane *lane, struct dynasor_program_options *o, char **prompts,
                  uint32_t count, const double value[DYNASOR_PARAMETER_COUNT])
{
    struct dynasor_setting settings[] = {
        {.parameter = DYNASOR_PARAMETER_CAP, .value = value[DYNASOR_PARAMETER_CAP]},
        {.parameter = DYNASOR_PARAMETER_BATCH, .value = BATCH},
        {.parameter = DYNASOR_PARAMETER_BATCH_PROGRAMS, .value = count},
        {.parameter = DYNASOR_PARAMETER_BATCH_TOKENS,
         .value = value[DYNASOR_PARAMETER_BATCH_TOKENS]},
        {.parameter = DYNASOR_PARAMETER_BATCH_CAP, .value = value[DYNASOR_PARAMETER_BATCH_CAP]},
        {.parameter = DYNASOR_PARAMETER_BATCH_STEP, .value = value[DYNASOR_PARAMETER_BATCH_STEP]},
        {.parameter = DYNASOR_PARAMETER_BATCH_PLACE, .value = 0},
    };
    o->settings = settings;
    o->settings_count = sizeof settings / sizeof settings[0];
    for (uint32_t i = 0; i < count; i++) {
        uint64_t program;
        settings[o->settings_count - 1].value = i;
        o->prompt_text = prompts[i];
        o->prompt_bytes = strlen(prompts[i]);
        o->user_data = i;
        int rc = dynasor_submit(lane, o, &program);
        if (rc != 0)
            return fail("submit", rc, dynasor_error(lane));
    }
    return 0;
}

static int take(struct dynasor_lane *lane, struct came *came, uint32_t count)
{
    struct dynasor_event event;
    for (uint32_t ended = 0; ended < count;) {
        int rc = dynasor_next(lane, &event, DYNASOR_FOREVER);
        if (rc == -DYNASOR_E_RESTARTING)
            continue;
        if (rc != 0)
            return fail("next", rc, dynasor_error(lane));
        struct came *c = &came[event.user_data];
        if (event.kind == DYNASOR_EVENT_RESULT)
            c->result = *event.result;
        if (event.kind != DYNASOR_EVENT_END)
            continue;
        c->state = event.state;
        c->status = event.status;
        ended++;
    }
    return 0;
}

static int print(const struct came *came, uint32_t count)
{
    static const char *const verdicts[DYNASOR_VERDICT_COUNT] = {"settled", "capped", "given up",
                                                                "whole"};
    uint64_t sum = 0;
    int status = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct dynasor_result *r = &came[i].result;
        uint64_t tokens = r->decoded_tokens + r->probe_tokens + r->reward_tokens;
        if (came[i].state != DYNASOR_STATE_DONE) {
            printf("%" PRIu32 " ended %s\n", i, dynasor_status_name((int)came[i].status));
            status = 1;
            continue;
        }
        printf("%" PRIu32 " %s %" PRIu32 " %" PRIu64 " %s\n", i,
               r->verdict < DYNASOR_VERDICT_COUNT ? verdicts[r->verdict] : "?", r->knob, tokens,
               r->answer);
        sum += tokens;
    }
    printf("in all %" PRIu64 "\n", sum);
    return status;
}

static int usage(void)
{
    fprintf(stderr,
            "usage: batch [--socket PATH] [--tokens N] [--cap N] [--batch-cap N] [--step N]\n"
            "             [--seed N] [--max-tokens N] [--profile NAME] [--chat] PROMPT...\n");
    return 2;
}

/* The parameter that an option sets; COUNT: none. */
static uint32_t parameter_of(const char *name)
{
    static const struct {
        const char *name;
        uint32_t parameter;
    } table[] = {{"--tokens", DYNASOR_PARAMETER_BATCH_TOKENS},
                 {"--cap", DYNASOR_PARAMETER_CAP},
                 {"--batch-cap", DYNASOR_PARAMETER_BATCH_CAP},
                 {"--step", DYNASOR_PARAMETER_BATCH_STEP}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (strcmp(table[i].name, name) == 0)
            return table[i].parameter;
    return DYNASOR_PARAMETER_COUNT;
}

int main(int argc, char **argv)
{
    static struct came came[PROGRAMS_MAX];
    struct dynasor_connect_options connect = {.size = sizeof connect};
    struct dynasor_program_options o = {.size = sizeof o,
                                        .streams = DYNASOR_STREAM_RESULT,
                                        .seed = 1,
                                        .max_tokens = 256,
                                        .algorithm = DYNASOR_ALGORITHM_SC};
    double value[DYNASOR_PARAMETER_COUNT] = {[DYNASOR_PARAMETER_CAP] = 8,
                                             [DYNASOR_PARAMETER_BATCH_TOKENS] = 10000,
                                             [DYNASOR_PARAMETER_BATCH_STEP] = 1};
    int at = 1;
    for (; at < argc && strncmp(argv[at], "--", 2) == 0; at++) {
        const char *name = argv[at];
        uint32_t parameter = parameter_of(name);
        if (strcmp(name, "--chat") == 0)
            o.chat = 1;
        else if (++at == argc)
            return usage();
        else if (parameter < DYNASOR_PARAMETER_COUNT)
            value[parameter] = strtod(argv[at], NULL);
        else if (strcmp(name, "--socket") == 0)
            connect.socket_path = argv[at];
        else if (strcmp(name, "--seed") == 0)
            o.seed = strtoull(argv[at], NULL, 10);
        else if (strcmp(name, "--max-tokens") == 0)
            o.max_tokens = (uint32_t)strtoul(argv[at], NULL, 10);
        else if (strcmp(name, "--profile") == 0)
            o.profile = argv[at];
        else
            return usage();
    }
    if (at == argc || argc - at > PROGRAMS_MAX)
        return usage();
    uint32_t count = (uint32_t)(argc - at);
    struct dynasor_client *client = NULL;
    struct dynasor_lane *lane = NULL;
    int rc = dynasor_connect(&connect, &client);
    int status = rc != 0 ? fail("connect", rc, dynasor_connect_error(client)) : 0;
    if (status == 0 && (rc = dynasor_lane_open(client, &lane)) != 0)
        status = fail("lane", rc, "");
    if (status == 0)
        status = submit(lane, &o, argv + at, count, value);
    if (status == 0)
        status = take(lane, came, count);
    if (status == 0)
        status = print(came, count);
    dynasor_disconnect(client);
    return status;
}
