/* Self-consistency as a policy of one's own: a CUSTOM program whose client begins all samples, reads their
 * texts, votes, says how sure it is, and finishes with the first sample that has the winning answer. The
 * tokens are those of DYNASOR_ALGORITHM_SC with the same seed, when its policy goes to the cap.
 *     ./my_sc [--socket PATH] [--seed N] [--count N] [--max-tokens N] MESSAGE */
#include <dynasor/custom.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLES_MAX 256u
#define TEXT_BYTES 8192u

struct sample {
    char text[TEXT_BYTES];
    size_t text_bytes;
    char answer[64]; /* "": none */
};

static int fail(const char *what, int rc, const char *why)
{
    fprintf(stderr, "my_sc: %s: %s: %s\n", what, dynasor_status_name(rc), why);
    return 1;
}

/* What stands in the last box, without blanks and a .0 at its end. */
static void find_answer(struct sample *s)
{
    static const char box[] = "\\boxed{";
    const char *at = NULL;
    size_t bytes = 0;
    for (const char *next = s->text; (next = strstr(next, box)) != NULL;)
        at = next += sizeof box - 1;
    for (; at && *at && *at != '}' && strncmp(at, ".0}", 3) && bytes < sizeof s->answer - 1; at++)
        if (*at != ' ')
            s->answer[bytes++] = *at;
}

/* The first sample with the answer that most have, and how many these are; of two the one that had so many
 * first. */
static uint32_t vote(const struct sample *samples, uint32_t count, uint32_t *ret_votes)
{
    uint32_t winner = 0, first = 0;
    *ret_votes = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t votes = 0;
        for (uint32_t j = 0; j <= i && samples[i].answer[0]; j++)
            votes += strcmp(samples[i].answer, samples[j].answer) == 0;
        winner = votes > *ret_votes ? i : winner;
        *ret_votes = votes > *ret_votes ? votes : *ret_votes;
    }
    while (strcmp(samples[first].answer, samples[winner].answer) != 0)
        first++;
    return first;
}

static int begin(struct dynasor_lane *lane, uint64_t program, uint32_t count)
{
    struct dynasor_branch_options o = {
        .size = sizeof o, .parent = DYNASOR_ROOT, .streams = DYNASOR_STREAM_TEXT};
    uint32_t branch;
    int rc = 0;
    for (uint32_t i = 0; i < count && rc == 0; i++)
        rc = dynasor_fork(lane, program, &o, &branch); /* branch is i */
    return rc ? fail("fork", rc, dynasor_error(lane)) : 0;
}

static int finish(struct dynasor_lane *lane, uint64_t program, struct sample *samples,
                  uint32_t count)
{
    uint32_t votes;
    for (uint32_t i = 0; i < count; i++)
        find_answer(&samples[i]);
    uint32_t winner = vote(samples, count, &votes);
    float share = (float)votes / (float)count;
    int rc = dynasor_report(lane, program, DYNASOR_SIGNAL_CONFIDENCE, share, count);
    if (rc == 0)
        rc = dynasor_finish(lane, program, DYNASOR_VERDICT_CAPPED, winner, winner);
    return rc ? fail("finish", rc, dynasor_error(lane)) : 0;
}

static int run(struct dynasor_lane *lane, struct sample *samples, uint32_t count)
{
    struct dynasor_event e = {0};
    uint32_t settled = 0;
    int status = 0;
    printf("tokens");
    while (status == 0 && e.kind != DYNASOR_EVENT_END) {
        int rc = dynasor_next(lane, &e, DYNASOR_FOREVER);
        if (rc != 0 && rc != -DYNASOR_E_RESTARTING) /* then its END says so */
            return fail("next", rc, dynasor_error(lane));
        if (rc == 0 && e.kind == DYNASOR_EVENT_TEXT) {
            struct sample *s = &samples[e.branch->number];
            if (s->text_bytes + e.count < TEXT_BYTES)
                memcpy(s->text + s->text_bytes, e.text, e.count);
            s->text_bytes += e.count;
        }
        if (rc == 0 && e.kind == DYNASOR_EVENT_READY)
            status = begin(lane, e.program, count);
        if (rc == 0 && e.kind == DYNASOR_EVENT_BRANCH && ++settled == count)
            status = finish(lane, e.program, samples, count);
        if (rc == 0 && e.kind == DYNASOR_EVENT_REFUSED)
            return fail("a command", (int)e.status, dynasor_error(lane));
        for (uint32_t i = 0; rc == 0 && e.kind == DYNASOR_EVENT_TOKENS && i < e.count; i++)
            printf(" %u", (unsigned)e.tokens[i]);
        if (rc == 0 && e.kind == DYNASOR_EVENT_RESULT)
            printf("\nconfidence %.6f\nanswer %s\n", e.result->value[DYNASOR_SIGNAL_CONFIDENCE],
                   e.result->answer);
    }
    return status || e.status == 0 ? status : fail("end", (int)e.status, dynasor_error(lane));
}

int main(int argc, char **argv)
{
    static struct sample samples[SAMPLES_MAX];
    struct dynasor_connect_options connect = {.size = sizeof connect};
    struct dynasor_setting cap = {.parameter = DYNASOR_PARAMETER_CAP, .value = 8};
    struct dynasor_program_options o = {
        .size = sizeof o, .algorithm = DYNASOR_ALGORITHM_CUSTOM, .seed = 1, .max_tokens = 256};
    o.chat = o.settings_count = 1;
    o.settings = &cap;
    for (int i = 1; i + 2 < argc; i += 2) {
        if (strcmp(argv[i], "--socket") == 0)
            connect.socket_path = argv[i + 1];
        else if (strcmp(argv[i], "--seed") == 0)
            o.seed = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--count") == 0)
            cap.value = strtod(argv[i + 1], NULL);
        else if (strcmp(argv[i], "--max-tokens") == 0)
            o.max_tokens = (uint32_t)strtoul(argv[i + 1], NULL, 10);
    }
    if (argc % 2 || !(cap.value >= 1 && cap.value <= SAMPLES_MAX))
        return fail("usage", DYNASOR_E_INVALID, "no prompt, or --count is not 1 .. 256");
    o.prompt_text = argv[argc - 1];
    o.prompt_bytes = strlen(o.prompt_text);
    struct dynasor_client *client = NULL;
    struct dynasor_lane *lane = NULL;
    uint64_t program;
    int status = 0, rc = dynasor_connect(&connect, &client);
    if (rc != 0)
        status = fail("connect", rc, dynasor_connect_error(client));
    else if ((rc = dynasor_lane_open(client, &lane)) != 0)
        status = fail("lane", rc, "");
    else if ((rc = dynasor_submit(lane, &o, &program)) != 0)
        status = fail("submit", rc, dynasor_error(lane));
    else
        status = run(lane, samples, (uint32_t)cap.value);
    dynasor_disconnect(client);
    return status;
}
