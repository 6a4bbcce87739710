/* Runs one reasoning program and prints what it came to.
 *
 *     ./reason [--socket PATH] [--seed N] [--max-tokens N] [--profile NAME] [--set NAME=NUMBER]...
 *              [--step-end TEXT] [--answer RULE] [--answer-prefix TEXT] [--tokens] [--chat]
 *              ALGORITHM PROMPT
 *
 * ALGORITHM is single, sc, rebase, mcts, cot, best_of_n, beam or sc_cot; NAME one of its parameters: cap, width,
 * depth, step_tokens and so on; RULE math,
 * boxed, choice, number, code or text (dynasor/types.h). One line of output for each fact; --tokens also prints
 * the tokens of the path that the program chose. --chat: PROMPT is a user's message. */
#include <dynasor/client.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* All but the last: that one waits to be told what to do (my_sc.c). */
static const char *const algorithms[DYNASOR_ALGORITHM_CUSTOM] = {
    "single", "sc", "rebase", "mcts", "cot", "best_of_n", "beam", "sc_cot"};
static const char *const parameters[DYNASOR_PARAMETER_COUNT] = {"cap",
                                                                "width",
                                                                "depth",
                                                                "step_tokens",
                                                                "spread",
                                                                "weight",
                                                                "vote",
                                                                "exploration",
                                                                "exploration_base",
                                                                "expansion",
                                                                "subtrees",
                                                                "probe_tokens",
                                                                "probe_temperature",
                                                                "probe_top_p",
                                                                "hesitation",
                                                                "likeness",
                                                                "likeness_by",
                                                                "guided",
                                                                "scores",
                                                                "batch",
                                                                "batch_programs",
                                                                "batch_place",
                                                                "batch_tokens",
                                                                "batch_cap",
                                                                "batch_step",
                                                                "prior"};
static const char *const answers[DYNASOR_ANSWER_COUNT] = {"default", "math", "boxed",  "choice",
                                                          "number",  "code", "prefix", "text"};
static const char *const verdicts[DYNASOR_VERDICT_COUNT] = {"settled", "capped", "given up",
                                                            "whole"};
static const char *const signals[DYNASOR_SIGNAL_COUNT] = {"certainty", "reward", "agreement",
                                                          "confidence"};

static int fail(const char *what, int rc, const char *why)
{
    fprintf(stderr, "reason: %s: %s: %s\n", what, dynasor_status_name(rc), why);
    return 1;
}

/* The index of a word of so many bytes, or count. */
static uint32_t find(const char *const *words, uint32_t count, const char *word, size_t bytes)
{
    uint32_t i = 0;
    while (i < count && (strlen(words[i]) != bytes || memcmp(words[i], word, bytes) != 0))
        i++;
    return i;
}

static int add_setting(struct dynasor_program_options *o, struct dynasor_setting *settings,
                       const char *text)
{
    size_t bytes = strcspn(text, "=");
    if (text[bytes] != '=' || o->settings_count == DYNASOR_PARAMETERS_MAX)
        return -1;
    settings[o->settings_count++] = (struct dynasor_setting){
        .parameter = find(parameters, DYNASOR_PARAMETER_COUNT, text, bytes),
        .value = strtod(text + bytes + 1, NULL)};
    o->settings = settings;
    return 0;
}

static void print_result(const struct dynasor_result *r)
{
    printf("verdict %s\nprofile %s\nknob %" PRIu32 "\nbranches %" PRIu32 "\n",
           r->verdict < DYNASOR_VERDICT_COUNT ? verdicts[r->verdict] : "?", r->profile, r->knob,
           r->branches_count);
    for (uint32_t i = 0; i < DYNASOR_SIGNAL_COUNT; i++)
        if (r->known >> i & 1)
            printf("%s %.6f\n", signals[i], r->value[i]);
    printf("decoded %" PRIu64 "\nprobe %" PRIu64 "\nreward_read %" PRIu64 "\nkilled %" PRIu64 "\n",
           r->decoded_tokens, r->probe_tokens, r->reward_tokens, r->killed_tokens);
    printf("answer %s\n", r->answer);
}

static int reason(struct dynasor_lane *lane, const struct dynasor_program_options *o, int tokens)
{
    struct dynasor_event event;
    uint64_t program;
    int rc = dynasor_submit(lane, o, &program);
    if (rc != 0)
        return fail("submit", rc, dynasor_error(lane));
    if (tokens)
        printf("tokens");
    do {
        rc = dynasor_next(lane, &event, DYNASOR_FOREVER);
        if (rc == -DYNASOR_E_RESTARTING)
            continue; /* the program goes on where it was */
        if (rc != 0)
            return fail("next", rc, dynasor_error(lane));
        for (uint32_t i = 0; tokens && event.kind == DYNASOR_EVENT_TOKENS && i < event.count; i++)
            printf(" %" PRIu32, event.tokens[i]);
        if (event.kind == DYNASOR_EVENT_RESULT) {
            printf("%s", tokens ? "\n" : "");
            print_result(event.result);
        }
    } while (rc != 0 || event.kind != DYNASOR_EVENT_END);
    if (event.status != 0)
        return fail("the program ended", (int)event.status, dynasor_error(lane));
    return 0;
}

static int usage(void)
{
    fprintf(stderr,
            "usage: reason [--socket PATH] [--seed N] [--max-tokens N] [--profile NAME]\n"
            "              [--set NAME=NUMBER]... [--step-end TEXT] [--answer-prefix TEXT]\n"
            "              [--tokens] [--chat] ALGORITHM PROMPT\n");
    return 2;
}

static int take_option(const char *name, const char *value, struct dynasor_program_options *o,
                       struct dynasor_connect_options *connect, struct dynasor_setting *settings)
{
    if (strcmp(name, "--socket") == 0)
        connect->socket_path = value;
    else if (strcmp(name, "--seed") == 0)
        o->seed = strtoull(value, NULL, 10);
    else if (strcmp(name, "--max-tokens") == 0)
        o->max_tokens = (uint32_t)strtoul(value, NULL, 10);
    else if (strcmp(name, "--profile") == 0)
        o->profile = value;
    else if (strcmp(name, "--step-end") == 0)
        o->step_end = value;
    else if (strcmp(name, "--answer") == 0)
        o->answer = find(answers, DYNASOR_ANSWER_COUNT, value, strlen(value));
    else if (strcmp(name, "--answer-prefix") == 0) {
        o->answer_prefix = value;
        o->answer = DYNASOR_ANSWER_PREFIX;
    } else
        return strcmp(name, "--set") == 0 ? add_setting(o, settings, value) : -1;
    return 0;
}

int main(int argc, char **argv)
{
    struct dynasor_connect_options connect = {.size = sizeof connect};
    struct dynasor_program_options o = {
        .size = sizeof o, .streams = DYNASOR_STREAM_RESULT, .seed = 1, .max_tokens = 256};
    struct dynasor_setting settings[DYNASOR_PARAMETERS_MAX];
    int at = 1, tokens = 0;
    for (; at < argc && strncmp(argv[at], "--", 2) == 0; at++) {
        if (strcmp(argv[at], "--chat") == 0) {
            o.chat = 1;
        } else if (strcmp(argv[at], "--tokens") == 0) {
            tokens = 1;
            o.streams |= DYNASOR_STREAM_TOKENS;
        } else if (at + 1 == argc || take_option(argv[at], argv[at + 1], &o, &connect, settings)) {
            return usage();
        } else {
            at++;
        }
    }
    if (at + 2 != argc)
        return usage();
    o.algorithm = find(algorithms, DYNASOR_ALGORITHM_CUSTOM, argv[at], strlen(argv[at]));
    if (o.algorithm == DYNASOR_ALGORITHM_CUSTOM)
        return usage();
    o.prompt_text = argv[at + 1];
    o.prompt_bytes = strlen(argv[at + 1]);
    struct dynasor_client *client = NULL;
    struct dynasor_lane *lane = NULL;
    int rc = dynasor_connect(&connect, &client);
    int status = 0;
    if (rc != 0)
        status = fail("connect", rc, dynasor_connect_error(client));
    else if ((rc = dynasor_lane_open(client, &lane)) != 0)
        status = fail("lane", rc, "");
    else
        status = reason(lane, &o, tokens);
    dynasor_disconnect(client);
    return status;
}
