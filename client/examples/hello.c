/* Prints what one program answers, as it comes.
 *
 *     cc hello.c $(pkg-config --cflags --libs dynasor-client) -o hello
 *     ./hello [--socket PATH] [prompt] */
#include <dynasor/client.h>

#include <stdio.h>
#include <string.h>

static int fail(const char *what, int rc, const char *why)
{
    fprintf(stderr, "hello: %s: %s: %s\n", what, dynasor_status_name(rc), why);
    return 1;
}

static int print_events(struct dynasor_lane *lane)
{
    for (;;) {
        struct dynasor_event event;
        int rc = dynasor_next(lane, &event, DYNASOR_FOREVER);
        if (rc == -DYNASOR_E_RESTARTING)
            continue; /* the stream goes on where it was */
        if (rc != 0)
            return fail("next", rc, dynasor_error(lane));
        if (event.kind == DYNASOR_EVENT_TEXT) {
            fwrite(event.text, 1, event.count, stdout);
            fflush(stdout);
        }
        if (event.kind == DYNASOR_EVENT_END) {
            printf("\n");
            if (event.state != DYNASOR_STATE_DONE)
                return fail("the program ended", (int)event.status, dynasor_error(lane));
            printf("ended DONE after %llu tokens\n", (unsigned long long)event.tokens_count);
            (void)dynasor_release(lane, event.program); /* the session ends anyway */
            return 0;
        }
    }
}

int main(int argc, char **argv)
{
    struct dynasor_connect_options connect = {.size = sizeof connect};
    const char *prompt = "Why is the sky blue?";
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--socket") == 0 && i + 1 < argc)
            connect.socket_path = argv[++i];
        else
            prompt = argv[i];
    }
    struct dynasor_client *client = NULL;
    struct dynasor_lane *lane = NULL;
    int rc = dynasor_connect(&connect, &client);
    if (rc != 0) {
        int status = fail("connect", rc, dynasor_connect_error(client));
        dynasor_disconnect(client);
        return status;
    }
    rc = dynasor_lane_open(client, &lane);
    int status = rc != 0 ? fail("lane", rc, "") : 0;
    if (rc == 0) {
        struct dynasor_program_options program = {.size = sizeof program,
                                                  .streams = DYNASOR_STREAM_TEXT,
                                                  .prompt_text = prompt,
                                                  .prompt_bytes = strlen(prompt),
                                                  .max_tokens = 64};
        uint64_t id;
        rc = dynasor_submit(lane, &program, &id);
        status = rc != 0 ? fail("submit", rc, dynasor_error(lane)) : print_events(lane);
    }
    dynasor_disconnect(client);
    return status;
}
