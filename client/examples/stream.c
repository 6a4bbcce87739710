/* Prints the token ids of programs that run side by side.
 *
 *     ./stream [--socket PATH] [--seed N] [--max-tokens N] [--programs N] [prompt]
 *
 * Program n of the output is the n-th submitted, with seed N + n - 1; its lines depend on nothing
 * else but the prompt. */
#include <dynasor/client.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct arguments {
    const char *socket_path;
    const char *prompt;
    uint64_t seed;
    uint64_t programs_count;
    uint32_t max_tokens;
};

static int fail(const char *what, int rc, const char *why)
{
    fprintf(stderr, "stream: %s: %s: %s\n", what, dynasor_status_name(rc), why);
    return 1;
}

static void print_tokens(const struct dynasor_event *event)
{
    printf("program %llu position %llu:", (unsigned long long)event->user_data,
           (unsigned long long)event->position);
    for (uint32_t i = 0; i < event->count; i++)
        printf(" %u", event->tokens[i]);
    printf("\n");
}

static int print_events(struct dynasor_lane *lane, uint64_t programs_count)
{
    int status = 0;
    while (programs_count > 0) {
        struct dynasor_event event;
        int rc = dynasor_next(lane, &event, DYNASOR_FOREVER);
        if (rc == -DYNASOR_E_RESTARTING)
            continue; /* the streams go on where they were */
        if (rc != 0)
            return fail("next", rc, dynasor_error(lane));
        if (event.kind == DYNASOR_EVENT_TOKENS) {
            print_tokens(&event);
        } else if (event.kind == DYNASOR_EVENT_END) {
            const char *how = event.status == 0 ? "DONE" : dynasor_status_name((int)event.status);
            printf("program %llu ended %s after %llu tokens\n", (unsigned long long)event.user_data,
                   how, (unsigned long long)event.tokens_count);
            if (event.status != 0)
                status = fail("the program ended", (int)event.status, dynasor_error(lane));
            (void)dynasor_release(lane, event.program); /* the session ends anyway */
            programs_count--;
        }
    }
    return status;
}

static int run(struct dynasor_lane *lane, const struct arguments *a)
{
    for (uint64_t i = 0; i < a->programs_count; i++) {
        struct dynasor_program_options program = {.size = sizeof program,
                                                  .prompt_text = a->prompt,
                                                  .prompt_bytes = strlen(a->prompt),
                                                  .max_tokens = a->max_tokens,
                                                  .seed = a->seed + i,
                                                  .user_data = i + 1};
        uint64_t id;
        int rc = dynasor_submit(lane, &program, &id);
        if (rc != 0)
            return fail("submit", rc, dynasor_error(lane));
    }
    return print_events(lane, a->programs_count);
}

static int read_arguments(int argc, char **argv, struct arguments *a)
{
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strncmp(argv[i], "--", 2) != 0) {
            a->prompt = argv[i];
            continue;
        }
        if (!value)
            return 2;
        if (strcmp(argv[i], "--socket") == 0)
            a->socket_path = value;
        else if (strcmp(argv[i], "--seed") == 0)
            a->seed = strtoull(value, NULL, 10);
        else if (strcmp(argv[i], "--max-tokens") == 0)
            a->max_tokens = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(argv[i], "--programs") == 0)
            a->programs_count = strtoull(value, NULL, 10);
        else
            return 2;
        i++;
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct arguments a = {
        .prompt = "Why is the sky blue?", .seed = 1, .programs_count = 1, .max_tokens = 32};
    if (read_arguments(argc, argv, &a) != 0) {
        fprintf(stderr, "usage: stream [--socket PATH] [--seed N] [--max-tokens N] "
                        "[--programs N] [prompt]\n");
        return 2;
    }
    struct dynasor_connect_options connect = {.size = sizeof connect, .socket_path = a.socket_path};
    struct dynasor_client *client = NULL;
    struct dynasor_lane *lane = NULL;
    int rc = dynasor_connect(&connect, &client);
    int status = 0;
    if (rc != 0)
        status = fail("connect", rc, dynasor_connect_error(client));
    else if ((rc = dynasor_lane_open(client, &lane)) != 0)
        status = fail("lane", rc, "");
    else
        status = run(lane, &a);
    dynasor_disconnect(client);
    return status;
}
