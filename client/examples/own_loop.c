/* Several programs in an epoll loop of one's own, beside a timer; the third is cancelled half-way.
 *
 *     ./own_loop [--socket PATH] */
#include <dynasor/client.h>

#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define PROGRAMS 3
#define CANCELLED 2           /* index of the one that is cancelled */
#define CANCEL_AFTER_TOKENS 8 /* of its own */
#define AWAY_MS 10            /* while the daemon restarts there is no descriptor to wait for */

struct loop {
    struct dynasor_client *client;
    struct dynasor_lane *lane;
    int epoll_fd;
    int watched_fd; /* the client's descriptor, -1: ask for it */
    uint64_t program[PROGRAMS];
    unsigned running;
};

static int fail(const struct loop *l, const char *what, int rc)
{
    const char *why = l->lane ? dynasor_error(l->lane) : dynasor_connect_error(l->client);
    fprintf(stderr, "own_loop: %s: %s: %s\n", what, dynasor_status_name(rc), why);
    return 1;
}

static int submit_all(struct loop *l)
{
    static const char prompt[] = "Count the ways.";
    for (unsigned i = 0; i < PROGRAMS; i++) {
        struct dynasor_program_options options = {.size = sizeof options,
                                                  .prompt_text = prompt,
                                                  .prompt_bytes = sizeof prompt - 1,
                                                  .max_tokens = i == CANCELLED ? 4000 : 32,
                                                  .seed = i,
                                                  .user_data = i};
        int rc = dynasor_submit(l->lane, &options, &l->program[i]);
        if (rc != 0)
            return fail(l, "submit", rc);
        l->running++;
    }
    return 0;
}

static void handle(struct loop *l, const struct dynasor_event *event)
{
    unsigned i = (unsigned)event->user_data;
    if (event->kind == DYNASOR_EVENT_TOKENS) {
        printf("program %u: %u tokens at %llu\n", i + 1, event->count,
               (unsigned long long)event->position);
        if (i == CANCELLED && event->position + event->count >= CANCEL_AFTER_TOKENS)
            (void)dynasor_cancel(l->lane, event->program); /* AGAIN: with its next event */
    } else if (event->kind == DYNASOR_EVENT_END) {
        printf("program %u ended %s\n", i + 1,
               event->status == 0 ? "DONE" : dynasor_status_name((int)event->status));
        (void)dynasor_release(l->lane, event->program); /* the session ends soon */
        l->running--;
    }
}

/* Takes what is there. Returns how long to wait for more, in milliseconds (-1: for the descriptor),
 * or -2 after a failure. */
static int turn(struct loop *l)
{
    for (;;) {
        struct dynasor_event event;
        int rc = dynasor_next(l->lane, &event, 0);
        if (rc == 0) {
            handle(l, &event);
            continue;
        }
        if (rc == -DYNASOR_E_TIMEOUT)
            rc = dynasor_arm(l->lane);
        if (rc == 1)
            continue; /* something came in between */
        if (rc == -DYNASOR_E_RESTARTING) {
            l->watched_fd = -1;
            return AWAY_MS;
        }
        if (rc != 0) {
            (void)fail(l, "next", rc); /* told by -2 */
            return -2;
        }
        return -1;
    }
}

static int watch(struct loop *l)
{
    int fd = dynasor_descriptor(l->client);
    if (fd == -DYNASOR_E_RESTARTING)
        return 0;
    if (fd < 0) { /* it belongs to no lane, so that no sentence says more */
        fprintf(stderr, "own_loop: descriptor: %s\n", dynasor_status_name(fd));
        return 1;
    }
    struct epoll_event interest = {.events = EPOLLIN};
    /* The old descriptor left the set when the library closed it; its number may be the same. */
    if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &interest) != 0 &&
        epoll_ctl(l->epoll_fd, EPOLL_CTL_MOD, fd, &interest) != 0)
        return 1;
    l->watched_fd = fd;
    return 0;
}

static int run(struct loop *l)
{
    int status = submit_all(l);
    while (status == 0 && l->running > 0) {
        struct epoll_event ready;
        if (l->watched_fd < 0 && watch(l) != 0)
            return 1;
        int wait_ms = turn(l);
        if (wait_ms == -2)
            return 1;
        if (l->running > 0)
            (void)epoll_wait(l->epoll_fd, &ready, 1, wait_ms); /* turn() looks at everything */
    }
    return status;
}

int main(int argc, char **argv)
{
    struct dynasor_connect_options connect = {.size = sizeof connect, .lanes_count = 1};
    struct loop l = {.watched_fd = -1};
    if (argc == 3 && strcmp(argv[1], "--socket") == 0)
        connect.socket_path = argv[2];
    l.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    int rc = dynasor_connect(&connect, &l.client);
    if (rc == 0)
        rc = dynasor_lane_open(l.client, &l.lane);
    int status = rc != 0 ? fail(&l, "connect", rc) : run(&l);
    dynasor_disconnect(l.client);
    close(l.epoll_fd);
    return status;
}
