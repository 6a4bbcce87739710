/* tests/unit/test_livelog.c: the run log of a daemon at work. What goes in as observed answers and ends comes
 * out as lines that runlog.h reads, the lines of a program together; what does not come out is a whole
 * program, and counted: by a pipe that nobody reads, a ring that is full, a disk that is full. Which tokens a line
 * counts is held for chains, guided ones too, samples, samples with rewards, chains that vote and trees. A program
 * names the profile it ran under as it was in force, and the file has its text above. */
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "daemon/program/algorithms.h"
#include "daemon/program/livelog.h"
#include "daemon/program/runlog.h"
#include "dynasor/types.h"
#include "tests/lib/check.h"
#include "tools/calibrate/replay.h"

#define PROGRAMS 64u /* handles */

static struct rng rng;
static struct profiles profiles;
static char folder[] = "/tmp/livelog-XXXXXX";
static char path[64], old_path[72];

struct host {
    struct livelog *log;
    pthread_t thread;
    bool runs;
};

static void open_log(struct host *h, uint64_t file_bytes)
{
    char message[MESSAGE_BYTES] = "";
    *h = (struct host){0};
    int r = livelog_new(
        &(struct livelog_config){.path = path, .file_bytes = file_bytes, .programs_max = PROGRAMS},
        &h->log, message);
    CHECK(r == 0, "%s", message);
}

static void *body(void *log)
{
    livelog_run(log);
    return NULL;
}

static void write_out(struct host *h)
{
    CHECK(pthread_create(&h->thread, NULL, body, h->log) == 0, "%m");
    h->runs = true;
}

static void files_remove(void)
{
    (void)unlink(path);
    (void)unlink(old_path);
}

static void open_new(struct host *h)
{
    files_remove();
    open_log(h, 1u << 30);
    write_out(h);
}

/* Everything that was taken is in the file, or counted. */
static struct livelog_stats close_log(struct host *h)
{
    struct livelog_stats stats;
    if (!h->runs)
        write_out(h);
    livelog_stop(h->log);
    CHECK(pthread_join(h->thread, NULL) == 0, "%m");
    livelog_stats(h->log, &stats);
    livelog_free(h->log);
    return stats;
}

/* Until so many programs are written or lost. */
static struct livelog_stats wait_for(struct host *h, uint64_t count)
{
    struct livelog_stats stats = {0};
    for (uint32_t i = 0; stats.programs_written + stats.programs_lost < count; i++) {
        CHECK(i < 5000, "nothing is written");
        (void)usleep(1000);
        livelog_stats(h->log, &stats);
    }
    return stats;
}

/* ---- what goes in ------------------------------------------------------------------------------- */

/* Answer n of a program that is what its number says. */
static uint32_t group_of(uint32_t number, uint32_t n)
{
    uint32_t g = (number * 7 + n * 3) % 4;
    return g == 3 ? CERTAINDEX_EMPTY : g < n ? g : n;
}

static uint32_t length_of(uint32_t number, uint32_t n)
{
    return 1 + (number * 31 + n * 17) % 200;
}

static void observe(struct host *h, uint32_t handle, uint32_t number, uint32_t n)
{
    struct observer *to = livelog_observer(h->log);
    uint64_t decoded = 0;
    for (uint32_t i = 0; i <= n; i++)
        decoded += length_of(number, i);
    if (n == 0)
        livelog_begin(h->log, handle, &profiles, profiles_find(&profiles, "sc-math", 7));
    if (to->put - to->taken == to->size) {
        to->lost++;
        return;
    }
    to->ring[to->put++ & (to->size - 1)] =
        (struct observed){.user = handle,
                          .n = n,
                          .group = group_of(number, n),
                          .winner = n / 2,
                          .at_tokens = length_of(number, n),
                          .own_tokens = length_of(number, n),
                          .cost = {.decoded_tokens = decoded, .probe_tokens = 20 * (n + 1)},
                          .log_probability = -0.5,
                          .confidence = n % 2 ? 1.5f : 0};
}

static void end(struct host *h, uint32_t handle, uint32_t number, uint32_t count)
{
    static const uint8_t prompt[] = "what is it?";
    uint64_t decoded = 5; /* killed: on top of all */
    for (uint32_t i = 0; i < count; i++)
        decoded += length_of(number, i);
    livelog_end(h->log, &(struct livelog_end){.program = handle,
                                              .algorithm = DYNASOR_ALGORITHM_SC,
                                              .verdict = number % 2 ? RUN_SETTLED : RUN_CAPPED,
                                              .knob = number,
                                              .cap = number + 1,
                                              .of_batch = number % 3 == 0,
                                              .answers_count = count,
                                              .cost = {.decoded_tokens = decoded},
                                              .prompt = prompt,
                                              .prompt_bytes = 1 + number % 8});
}

/* ---- what comes out ----------------------------------------------------------------------------- */

/* Whether a profile is the one that program was to run under; NULL: any. */
static bool (*is_profile)(const struct profile *profile, uint32_t number);

static uint32_t lives = 1; /* that wrote into the file, each of which says its profiles */

#define KNOWN_MAX 4096u
static struct { /* lines of profiles, so far in the file that was read last */
    uint32_t count;
    struct {
        char name[80];
        struct profile profile;
    } all[KNOWN_MAX];
} known;

static void profile_read_line(char *line)
{
    char message[PROFILE_MESSAGE_BYTES];
    char *name = line + strlen("#profile\t"), *text = strchr(name, '\t');
    CHECK(strncmp(line, "#profile\t", 9) == 0 && text && known.count < KNOWN_MAX, "%s", line);
    *text++ = '\0';
    uint32_t before = 0;
    for (uint32_t i = 0; i < known.count; i++)
        before += strcmp(known.all[i].name, name) == 0;
    CHECK(before < lives, "%s is in the file %u times", name, before + 1);
    for (char *tab = text; *tab; tab++)
        *tab = *tab == '\t' ? '\n' : *tab;
    FILE *file = fmemopen(text, strlen(text), "r");
    int r = profile_read(file, "line", &known.all[known.count].profile, message);
    CHECK(file && r == 0 && fclose(file) == 0, "%s", message);
    (void)snprintf(known.all[known.count++].name, sizeof known.all[0].name, "%s", name);
}

/* Its text stands above it, and is the one that it ran under. */
static void version_is(const struct runlog_row *row)
{
    char name[80];
    uint32_t i = 0;
    assert_string_equal(row->profile, "sc-math");
    if (!row->version[0] || strcmp(row->version, "changed") == 0)
        return;
    (void)snprintf(name, sizeof name, "%s@%s", row->profile, row->version);
    while (i < known.count && strcmp(known.all[i].name, name) != 0)
        i++;
    CHECK(i < known.count, "the file does not say what %s was", name);
    assert_string_equal(known.all[i].profile.name, "sc-math");
    CHECK(!is_profile || is_profile(&known.all[i].profile, row->knob),
          "%u ran under another than %s", row->knob, name);
}

static void row_is(const struct runlog_row *row, uint32_t number, uint32_t n)
{
    char wanted[16];
    uint64_t tokens = 5;
    for (uint32_t i = 0; i <= n; i++)
        tokens += length_of(number, i);
    (void)snprintf(wanted, sizeof wanted, "%u", group_of(number, n));
    CHECK(row->n == n + 1 && row->tokens == tokens, "%u: n %u, %" PRIu64 " tokens, not %" PRIu64, n,
          row->n, row->tokens, tokens);
    assert_string_equal(row->answer, group_of(number, n) == CERTAINDEX_EMPTY ? "" : wanted);
    (void)snprintf(wanted, sizeof wanted, "%u", group_of(number, n / 2));
    assert_string_equal(row->answer_now, group_of(number, n / 2) == CERTAINDEX_EMPTY ? "" : wanted);
    assert_string_equal(row->ended, number % 2 ? "settled" : number % 3 ? "capped" : "budget");
    assert_string_equal(row->algorithm, "sc");
    assert_int_equal(row->batch, number % 3 == 0);
    assert_true(row->charged_tokens == 0); /* no chain */
    assert_int_equal(row->cap, number + 1);
    assert_int_equal(row->probe_tokens, 20);
    assert_true(row->right == RUNLOG_UNKNOWN && isnan(row->reward));
    assert_true(n % 2 ? row->confidence > 1.4 : isnan(row->confidence));
}

/* Programs of the file that was read last, by what they say of their profile. */
enum { SAID, CHANGED, NOT_SAID, VERSIONS };
static uint32_t versions[VERSIONS];

/* Programs of a file, each whole: its knob is its number and count_of(number) its answers. Returns how many. */
static uint32_t read_log(const char *name, uint32_t (*count_of)(uint32_t number))
{
    struct runlog_layout layout;
    struct runlog_row row;
    char message[RUNLOG_MESSAGE_BYTES], last[64] = "", problem[64] = "", *line = NULL;
    size_t room = 0;
    uint32_t programs = 0, left = 0, n = 0, lines = 0;
    known.count = 0;
    memset(versions, 0, sizeof versions);
    FILE *file = fopen(name, "re");
    CHECK(file, "%s: %m", name);
    while (getline(&line, &room, file) >= 0) {
        if (lines++ == 0) {
            CHECK(runlog_parse_header(line, &layout, message) == 0, "%s", message);
            continue;
        }
        if (line[0] == '#') {
            assert_int_equal(left, 0); /* between programs */
            profile_read_line(line);
            continue;
        }
        CHECK(runlog_parse(&layout, line, &row, message) == 0, "%u: %s", lines, message);
        version_is(&row);
        if (strcmp(row.program, last) != 0) {
            versions[!row.version[0]                       ? NOT_SAID
                     : strcmp(row.version, "changed") == 0 ? CHANGED
                                                           : SAID]++;
            CHECK(left == 0, "line %u: %u lines of program %s are missing", lines, left, last);
            (void)snprintf(last, sizeof last, "%s", row.program);
            (void)snprintf(problem, sizeof problem, "%s", row.problem);
            left = count_of(row.knob);
            programs++;
            n = 0;
        }
        CHECK(left > 0, "line %u: too many of program %s", lines, last);
        assert_string_equal(row.problem, problem);
        row_is(&row, row.knob, n++);
        left--;
    }
    assert_int_equal(left, 0);
    free(line);
    (void)fclose(file);
    return programs;
}

static uint32_t few(uint32_t number)
{
    return 1 + number % 9;
}

static uint32_t eight(uint32_t number)
{
    (void)number;
    return 8;
}

/* ---- tests -------------------------------------------------------------------------------------- */

/* Programs in any order, mixed; some end otherwise, some without an answer; handles come again. */
static void each_program_comes_out_whole(void **state)
{
    (void)state;
    struct host h;
    uint32_t number[PROGRAMS] = {0}, answers[PROGRAMS] = {0}, done = 0, begun = 0, silent = 0;
    open_new(&h);
    while (done < 3000) {
        uint32_t at = (uint32_t)rng_below(&rng, PROGRAMS);
        if (number[at] == 0) {
            number[at] = ++begun;
            answers[at] = 0;
        }
        livelog_take(h.log);
        if (answers[at] < few(number[at]) && rng_below(&rng, 50) > 0) {
            observe(&h, at, number[at], answers[at]++);
            continue;
        }
        bool whole = answers[at] == few(number[at]);
        if (whole || answers[at] == 0) {
            end(&h, at, number[at], answers[at]);
            silent += !whole;
            done += whole;
        } else {
            livelog_forget(h.log, at);
        }
        number[at] = 0;
        if (done % 16 == 0) {
            livelog_flush(h.log);
            (void)usleep(100); /* or nobody would ever be asked to wait */
        }
    }
    struct livelog_stats stats = close_log(&h);
    assert_int_equal(stats.programs_written + stats.programs_lost, done);
    assert_int_equal(read_log(path, few), stats.programs_written);
    (void)printf("%" PRIu64 " written, %" PRIu64 " lost, %u without an answer\n",
                 stats.programs_written, stats.programs_lost, silent);
    assert_true(stats.programs_written > done / 2 && silent > 0);
}

/* Nobody reads: calls return at once, and what does not fit is counted by program. */
static void a_slow_disk_costs_whole_programs(void **state)
{
    (void)state;
    enum { COUNT = 4000 }; /* 36,000 records, and 8,192 fit */
    struct host h;
    files_remove();
    open_log(&h, 1u << 30);
    uint64_t began_ns = now_ns();
    for (uint32_t i = 0; i < COUNT; i++) {
        for (uint32_t n = 0; n < 8; n++)
            observe(&h, i % PROGRAMS, i, n);
        livelog_take(h.log);
        end(&h, i % PROGRAMS, i, 8);
        livelog_flush(h.log);
    }
    CHECK(now_ns() - began_ns < 5000000000u, "it waits for the disk");
    struct livelog_stats stats;
    livelog_stats(h.log, &stats);
    assert_true(stats.programs_lost > COUNT / 2 && stats.programs_lost < COUNT);
    stats = close_log(&h);
    assert_int_equal(stats.programs_written + stats.programs_lost, COUNT);
    assert_int_equal(read_log(path, eight), stats.programs_written);
    assert_true(stats.programs_written > 100);
}

/* More answers in one poll than are kept for it: the program is not written as if it were whole. */
static void an_answer_that_is_missing_costs_its_program(void **state)
{
    (void)state;
    struct host h;
    open_new(&h);
    for (uint32_t i = 0; i < 4; i++) {
        for (uint32_t n = 0; n < 8; n++)
            if ((i != 1 || n != 5) && (i != 2 || n != 7))
                observe(&h, i, 10 + i, n);
        livelog_take(h.log);
        end(&h, i, 10 + i, 8);
    }
    struct livelog_stats stats = close_log(&h);
    assert_int_equal(stats.programs_written, 2);
    assert_int_equal(stats.programs_lost, 2);
    assert_int_equal(read_log(path, eight), 2);
}

static void programs_put(struct host *h, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t n = 0; n < 8; n++)
            observe(h, i % PROGRAMS, i, n);
        livelog_take(h->log);
        end(h, i % PROGRAMS, i, 8);
        livelog_flush(h->log);
        if (i % 256 == 255)
            (void)usleep(20000);
    }
}

static uint64_t size_of(const char *name)
{
    struct stat st;
    CHECK(stat(name, &st) == 0, "%s: %m", name);
    return (uint64_t)st.st_size;
}

static void a_full_file_is_turned_over(void **state)
{
    (void)state;
    struct host h;
    files_remove();
    open_log(&h, LIVELOG_FILE_BYTES_MIN);
    write_out(&h);
    programs_put(&h, 2500); /* about 2 MB */
    struct livelog_stats stats = close_log(&h);
    assert_true(size_of(path) <= LIVELOG_FILE_BYTES_MIN &&
                size_of(old_path) <= LIVELOG_FILE_BYTES_MIN);
    assert_true(size_of(old_path) > LIVELOG_FILE_BYTES_MIN - 4096);
    uint32_t kept = read_log(path, eight) + read_log(old_path, eight);
    assert_true(kept <= stats.programs_written && kept > 1000);
    assert_int_equal(stats.programs_written + stats.programs_lost, 2500);
}

/* The next life goes on behind it, without a second header; half a line is cut off. */
static void a_file_is_gone_on_with(void **state)
{
    (void)state;
    struct host h;
    uint64_t written = 0;
    files_remove();
    for (uint32_t life = 0; life < 3; life++) {
        FILE *file = life ? fopen(path, "ae") : NULL;
        if (file)
            CHECK(fputs("0123\tabc.7\tsc\t\t1\t50", file) >= 0 && fclose(file) == 0, "%m");
        open_log(&h, 1u << 30);
        write_out(&h);
        programs_put(&h, 20);
        written += close_log(&h).programs_written;
    }
    assert_int_equal(written, 60);
    lives = 3;
    assert_int_equal(read_log(path, eight), 60);
    lives = 1;
}

/* As logrotate does. */
static void a_file_that_was_moved_is_left_alone(void **state)
{
    (void)state;
    struct host h;
    open_new(&h);
    programs_put(&h, 20);
    (void)wait_for(&h, 20);
    CHECK(rename(path, old_path) == 0, "%m");
    programs_put(&h, 5);
    assert_int_equal(close_log(&h).programs_written, 25);
    assert_int_equal(read_log(old_path, eight), 20);
    assert_int_equal(read_log(path, eight), 5);
}

/* No piece of a program is left, and it goes on when there is room again. */
static void a_full_disk_costs_whole_programs(void **state)
{
    (void)state;
    struct host h;
    struct rlimit before, small;
    files_remove();
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    open_log(&h, 1u << 30);
    write_out(&h);
    small = before;
    small.rlim_cur = 20000;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    programs_put(&h, 60);
    struct livelog_stats stats = wait_for(&h, 60);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_true(stats.programs_lost > 20 && stats.programs_written > 5);
    assert_int_equal(read_log(path, eight), stats.programs_written);
    programs_put(&h, 10);
    struct livelog_stats after = close_log(&h);
    assert_int_equal(after.programs_lost, stats.programs_lost);
    assert_int_equal(read_log(path, eight), stats.programs_written + 10);
}

/* ---- profiles ----------------------------------------------------------------------------------- */

static void value_set(uint32_t value)
{
    char text[16], message[PROFILE_MESSAGE_BYTES];
    (void)snprintf(text, sizeof text, "%u", value);
    int r = profiles_set(&profiles, "sc-math.policy.length_tokens", text, message);
    CHECK(r == 0, "%s", message);
}

static void program_whole(struct host *h, uint32_t handle, uint32_t number)
{
    for (uint32_t n = 0; n < 8; n++)
        observe(h, handle, number, n);
    livelog_take(h->log);
    end(h, handle, number, 8);
    livelog_flush(h->log);
}

/* Each life says it, and each file. */
static void a_profile_is_said_once_in_a_file(void **state)
{
    (void)state;
    struct host h;
    files_remove();
    for (uint32_t life = 0; life < 3; life++) {
        open_log(&h, 1u << 30);
        write_out(&h);
        program_whole(&h, 0, 11);
        program_whole(&h, 1, 13);
        (void)close_log(&h);
        lives = life == 1 ? 2 : 1;
        assert_int_equal(read_log(path, eight), 2 * lives);
        assert_int_equal(versions[SAID], 2 * lives);
        if (life == 1)
            CHECK(rename(path, old_path) == 0, "%m");
    }
    lives = 1;
}

/* One that runs while it is changed names no version, not even when it is changed back; the same text has the same
 * name. */
static void programs_name_the_profile_they_ran_under(void **state)
{
    (void)state;
    struct host h;
    open_new(&h);
    for (uint32_t n = 0; n < 8; n++)
        observe(&h, 9, 100, n); /* under 3, as is said below */
    livelog_take(h.log);
    for (uint32_t i = 0; i < 6; i++) {
        value_set(3 + i % 2);
        program_whole(&h, i, i);
    }
    end(&h, 9, 100, 8);
    assert_int_equal(close_log(&h).programs_written, 7);
    assert_int_equal(read_log(path, eight), 7);
    assert_true(versions[SAID] == 6 && versions[CHANGED] == 1 && known.count == 2);
}

static bool is_by_number(const struct profile *profile, uint32_t number)
{
    return profile->policy.length_tokens == number + 1;
}

/* Each program has a version of its own, many run at once, and far more come than are kept. */
static void versions_are_kept_while_they_are_needed(void **state)
{
    (void)state;
    enum { COUNT = 2000, AT_ONCE = 40 };
    struct host h;
    uint32_t number[AT_ONCE] = {0};
    open_new(&h);
    is_profile = is_by_number;
    for (uint32_t i = 1; i <= COUNT + AT_ONCE; i++) {
        uint32_t at = i <= COUNT ? (uint32_t)rng_below(&rng, AT_ONCE) : i - COUNT - 1;
        if (number[at] > 0) { /* its profile is as it was: nothing is said to have changed */
            profiles.changes[profiles_find(&profiles, "sc-math", 7)] = number[at];
            end(&h, at, number[at], 8);
            livelog_flush(h.log);
        }
        number[at] = 0;
        if (i > COUNT)
            continue;
        value_set(i + 1);
        profiles.changes[profiles_find(&profiles, "sc-math", 7)] = i;
        for (uint32_t n = 0; n < 8; n++)
            observe(&h, at, i, n);
        livelog_take(h.log);
        number[at] = i;
        if (i % 16 == 0)
            (void)usleep(2000);
    }
    uint32_t written = (uint32_t)close_log(&h).programs_written;
    assert_int_equal(read_log(path, eight), written);
    is_profile = NULL;
    (void)printf("%u programs: of %u the profile is said, of %u not\n", written, versions[SAID],
                 versions[NOT_SAID]);
    assert_true(versions[SAID] > COUNT / 2 && versions[CHANGED] == 0);
}

/* As many run as are kept, and nobody reads: the next has no place until one of them is written. */
static void a_program_without_a_place_does_not_say(void **state)
{
    (void)state;
    struct host h;
    files_remove();
    open_log(&h, 1u << 30);
    for (uint32_t at = 0; at < PROGRAMS - 1; at++) {
        value_set(at + 1);
        observe(&h, at, 8, 0);
        livelog_take(h.log);
    }
    value_set(1000);
    program_whole(&h, PROGRAMS - 1, 9); /* has the last place */
    value_set(1001);
    program_whole(&h, PROGRAMS - 1, 19); /* and still has it */
    write_out(&h);
    (void)wait_for(&h, 2);
    (void)usleep(200000); /* what was written is not yet said to be */
    program_whole(&h, PROGRAMS - 1, 29);
    for (uint32_t at = 0; at < PROGRAMS - 1; at++)
        livelog_forget(h.log, at);
    (void)close_log(&h);
    assert_int_equal(read_log(path, eight), 3);
    assert_true(versions[SAID] == 2 && versions[NOT_SAID] == 1);
}

/* ---- tokens ------------------------------------------------------------------------------------- */

struct seen {
    uint32_t at, own;
    uint32_t decoded, reward, probe; /* by the program so far */
    float score;                     /* below 0: not read */
    uint64_t tokens;                 /* wanted, like the next */
    uint32_t probe_tokens;
};

struct counted {
    const char *what;
    uint32_t algorithm;
    enum run_verdict verdict;
    uint32_t seen_count, lines;
    struct seen seen[4];
    uint32_t path; /* at the end, like the next two */
    uint32_t decoded, reward;
    uint64_t end_tokens; /* of the line after the answers */
};

static const struct counted counted[] = {
    {"chain",
     DYNASOR_ALGORITHM_COT,
     RUN_CAPPED,
     2,
     3,
     {{64, 9, 64, 0, 9, -1, 64, 9}, {128, 20, 128, 0, 29, -1, 128, 20}},
     150,
     150,
     0,
     150},
    /* Its probes stay in it: 9 and 20 tokens that are no part of what it decoded. */
    {"guided chain",
     DYNASOR_ALGORITHM_COT,
     RUN_WHOLE,
     2,
     3,
     {{32, 9, 32, 0, 9, -1, 32, 9}, {73, 20, 64, 0, 29, -1, 73, 20}},
     131,
     93,
     0,
     131},
    {"chain that was stopped",
     DYNASOR_ALGORITHM_COT,
     RUN_SETTLED,
     2,
     2,
     {{64, 9, 64, 0, 9, -1, 64, 9}, {128, 20, 128, 0, 29, -1, 128, 20}},
     128,
     128,
     0,
     0},
    {"chain without a probe", DYNASOR_ALGORITHM_COT, RUN_WHOLE, 0, 1, {{0}}, 40, 40, 0, 40},
    /* 7 killed, which every line has; what came beside an answer is no cost of its own. */
    {"samples",
     DYNASOR_ALGORITHM_SC,
     RUN_CAPPED,
     3,
     3,
     {{30, 30, 90, 0, 0, -1, 37, 0}, {20, 20, 97, 0, 0, -1, 57, 0}, {40, 40, 97, 0, 0, -1, 97, 0}},
     0,
     97,
     0,
     0},
    /* Read once more by the reward model. */
    {"best of n",
     DYNASOR_ALGORITHM_BEST_OF_N,
     RUN_CAPPED,
     2,
     2,
     {{30, 30, 55, 30, 0, 0.25f, 65, 0}, {20, 20, 55, 50, 0, 0.75f, 105, 0}},
     0,
     55,
     50,
     0},
    /* A chain costs where it stood, its answer is a probe's; the last has none. */
    {"chains that vote",
     DYNASOR_ALGORITHM_SC_COT,
     RUN_SETTLED,
     3,
     3,
     {{96, 8, 200, 0, 24, -1, 96, 24},
      {64, 6, 200, 0, 30, -1, 160, 6},
      {40, 40, 200, 0, 30, -1, 200, 0}},
     0,
     200,
     0,
     0},
    /* Leaves have steps in common: what the program was charged by then. */
    {"tree",
     DYNASOR_ALGORITHM_REBASE,
     RUN_CAPPED,
     3,
     3,
     {{50, 10, 80, 70, 0, 0.5f, 150, 0},
      {50, 12, 80, 70, 0, 0.5f, 150, 0},
      {90, 30, 140, 130, 0, 0.5f, 270, 0}},
     0,
     140,
     130,
     0},
};
#define COUNTED ((uint32_t)(sizeof counted / sizeof counted[0]))

static void counted_put(struct host *h, uint32_t handle)
{
    const struct counted *c = &counted[handle];
    struct observer *to = livelog_observer(h->log);
    for (uint32_t n = 0; n < c->seen_count; n++) {
        const struct seen *s = &c->seen[n];
        to->ring[to->put++ & (to->size - 1)] =
            (struct observed){.user = handle,
                              .n = n,
                              .winner = n,
                              .at_tokens = s->at,
                              .own_tokens = s->own,
                              .cost = {.decoded_tokens = s->decoded,
                                       .reward_tokens = s->reward,
                                       .probe_tokens = s->probe},
                              .has_reward = s->score >= 0,
                              .reward = s->score};
    }
    livelog_take(h->log);
    livelog_end(h->log, &(struct livelog_end){
                            .program = handle,
                            .algorithm = c->algorithm,
                            .verdict = c->verdict,
                            .knob = c->seen_count,
                            .path_tokens = c->path,
                            .answers_count = c->seen_count,
                            .cost = {.decoded_tokens = c->decoded, .reward_tokens = c->reward},
                            .prompt = (const uint8_t *)"?",
                            .prompt_bytes = 1});
}

/* It takes both of its probes over: they are charged once, from the next line on. */
static const uint64_t guided_costs[] = {32, 64 + 9, 93 + 9 + 20};

static bool is_guided(const struct counted *c)
{
    return strcmp(c->what, "guided chain") == 0;
}

/* And dynasor-calibrate reads them. */
static void counted_read(const struct counted *c, const struct log *log, uint32_t at)
{
    const struct log_run *run = &log->runs[at];
    CHECK(run->count == c->lines, "%s: %u lines", c->what, run->count);
    for (uint32_t n = 0; n < c->lines; n++) {
        uint32_t i = run->first + n;
        bool end = n == c->seen_count;
        uint64_t wanted = end ? c->end_tokens : c->seen[n].tokens;
        uint32_t probe = end ? 0 : c->seen[n].probe_tokens;
        CHECK(log->tokens[i] == wanted && log->probe_tokens[i] == probe,
              "%s: line %u: %" PRIu64 " tokens and %u of a probe, not %" PRIu64 " and %u", c->what,
              n, log->tokens[i], log->probe_tokens[i], wanted, probe);
        uint64_t cost = is_guided(c) ? guided_costs[n] : wanted;
        CHECK(log->costs[i] == cost && log->adopted[i] == (is_guided(c) && !end),
              "%s: line %u: %" PRIu64 " charged, not %" PRIu64, c->what, n, log->costs[i], cost);
        bool reads = !end && c->seen[n].score >= 0;
        CHECK(reads ? log->rewards[i] == c->seen[n].score : isnan(log->rewards[i]),
              "%s: line %u: %g", c->what, n, (double)log->rewards[i]);
    }
}

/* What a probe became a part of costs once, wherever a policy stops. */
static void adopted_replay(const struct log *log, uint32_t at)
{
    static const struct {
        uint32_t window, tokens, probes;
    } stops[] = {{1, 32, 9}, {2, 73, 20}, {3, 122, 0}};
    for (uint32_t i = 0; i < sizeof stops / sizeof stops[0]; i++) {
        struct replay replay;
        struct profile profile;
        profile_default(&profile);
        profile.policy.kind = POLICY_PROBE;
        profile.policy.probe.first_tokens = 8;
        profile.policy.probe.interval_tokens = 8;
        profile.policy.probe.window = stops[i].window;
        replay_init(&replay, log);
        struct outcome o = replay_run(&replay, at, &profile.policy, 0);
        replay_free(&replay);
        CHECK(o.tokens == stops[i].tokens && o.probe_tokens == stops[i].probes &&
                  o.full_tokens == 122 && o.full_probes == 0,
              "window %u: %" PRIu64 " tokens and %" PRIu64 " of probes, of %" PRIu64
              " and %" PRIu64,
              stops[i].window, o.tokens, o.probe_tokens, o.full_tokens, o.full_probes);
    }
}

static void tokens_are_counted_by_algorithm(void **state)
{
    (void)state;
    struct host h;
    open_new(&h);
    for (uint32_t i = 0; i < COUNTED; i++)
        counted_put(&h, i);
    assert_int_equal(close_log(&h).programs_written, COUNTED);
    for (uint32_t i = 0, at = 0; i < COUNTED; i++, at++) {
        struct log log;
        char message[LOG_MESSAGE_BYTES];
        int r = log_read(path, algorithm_get(counted[i].algorithm)->name, &log, message);
        CHECK(r == 0, "%s", message);
        at = i > 0 && counted[i].algorithm == counted[i - 1].algorithm ? at : 0;
        counted_read(&counted[i], &log, at);
        if (is_guided(&counted[i]))
            adopted_replay(&log, at);
        log_free(&log);
    }
}

/* ---- crashes ------------------------------------------------------------------------------------ */

static size_t file_take(char *text, size_t room)
{
    FILE *file = fopen(path, "re");
    CHECK(file, "%m");
    size_t bytes = fread(text, 1, room, file);
    CHECK(bytes < room && fclose(file) == 0, "%m");
    return bytes;
}

static void file_put(const char *text, size_t bytes, size_t zeros)
{
    FILE *file = fopen(path, "we");
    CHECK(file && fwrite(text, 1, bytes, file) == bytes, "%m");
    while (zeros-- > 0)
        CHECK(fputc(0, file) == 0, "%m");
    CHECK(fclose(file) == 0, "%m");
}

/* Wherever in the last program the file ends: those before it stay, but for one that the piece may be of, by as
 * much as it says of itself. */
static void a_piece_of_a_program_is_cut_off(void **state)
{
    (void)state;
    static char text[65536];
    struct host h;
    size_t begins[4], cuts = 0, doubts = 0;
    files_remove();
    open_log(&h, 1u << 30);
    size_t header = size_of(path);
    write_out(&h);
    for (uint32_t i = 0; i < 4; i++)
        program_whole(&h, 0, 8 * i); /* of one problem */
    assert_int_equal(close_log(&h).programs_written, 4);
    size_t bytes = file_take(text, sizeof text);
    begins[0] = (size_t)((const char *)memchr(text + header, '\n', bytes - header) + 1 - text);
    for (uint32_t i = 1; i < 4; i++) { /* each has eight lines */
        begins[i] = begins[i - 1];
        for (uint32_t n = 0; n < 8; n++)
            begins[i] = (size_t)(strchr(text + begins[i], '\n') + 1 - text);
    }
    for (size_t at = header + 1; at + 1 < begins[0]; at++) { /* the line of the profile */
        file_put(text, at, at % 7 == 0 ? 3 : 0);
        open_log(&h, 1u << 30);
        (void)close_log(&h);
        assert_int_equal(size_of(path), header);
    }
    for (size_t at = begins[3] + 1; at < bytes; at++) {
        bool whole_lines = text[at - 1] == '\n';
        if (whole_lines && at % 4096 != 0)
            continue; /* no write ends there */
        file_put(text, at, at % 7 == 0 && !whole_lines ? 3 : 0);
        open_log(&h, 1u << 30);
        (void)close_log(&h);
        bool doubt = memcmp(text + begins[3], text + begins[2], at - begins[3]) == 0;
        size_t wanted = begins[doubt ? 2 : 3];
        CHECK(size_of(path) == wanted, "cut at %zu: %" PRIu64 " bytes, not %zu", at, size_of(path),
              wanted);
        assert_int_equal(read_log(path, eight), doubt ? 2 : 3);
        cuts++;
        doubts += doubt;
    }
    assert_true(header + 500 < begins[0] && cuts > 300 && doubts >= 17);
}

/* A header that is cut is written anew. A write ends where a page ends: a line may, too, and its program is in doubt. */
static void a_piece_that_ends_with_a_line_is_cut_off(void **state)
{
    (void)state;
    static char text[65536];
    struct host h;
    files_remove();
    open_log(&h, 1u << 30);
    (void)close_log(&h);
    size_t header = file_take(text, sizeof text);
    file_put(text, header / 2, 0);
    open_log(&h, 1u << 30);
    (void)close_log(&h);
    assert_int_equal(size_of(path), header);
    /* Lines of 16 bytes, two programs, up to the end of a page. */
    size_t at = header, first = 0;
    while (at % 16 != 4096 % 16)
        text[at++] = 'x';
    text[at - 1] = '\n';
    for (; at < 4096; at += 16) {
        first = at < 2048 ? at + 16 : first;
        memcpy(text + at, at < 2048 ? "ab\tcd.11\tsc\t\t1\t\n" : "ab\tcd.12\tsc\t\t1\t\n", 16);
    }
    file_put(text, 4096, 0);
    open_log(&h, 1u << 30);
    (void)close_log(&h);
    assert_int_equal(size_of(path), first);
    file_put(text, 4096 - 16, 0);
    open_log(&h, 1u << 30);
    (void)close_log(&h);
    assert_int_equal(size_of(path), 4096 - 16);
}

static void write_one(void)
{
    struct host h;
    open_log(&h, 1u << 30);
    write_out(&h);
    program_whole(&h, 0, 11);
    (void)close_log(&h);
    assert_int_equal(read_log(path, eight), 1);
}

/* Lines of one file have the same columns; what is no log of programs is not touched. */
static void a_file_with_other_columns_is_put_away(void **state)
{
    (void)state;
    static const char before[] =
        "problem\tprogram\talgorithm\tn\ttokens\tanswer\na\tb\tsc\t1\t9\t0\n";
    static const char hosts[] = "127.0.0.1 localhost\nno line end";
    char message[MESSAGE_BYTES] = "";
    struct livelog *log;
    files_remove();
    file_put(before, sizeof before - 1, 0);
    write_one();
    assert_int_equal(size_of(old_path), sizeof before - 1);
    file_put(hosts, sizeof hosts - 1, 0);
    assert_true(livelog_new(&(struct livelog_config){.path = path,
                                                     .file_bytes = LIVELOG_FILE_BYTES_MIN,
                                                     .programs_max = 4},
                            &log, message) < 0);
    CHECK(strstr(message, path) && strstr(message, "accepted a new file"), "%s", message);
    assert_int_equal(size_of(path), sizeof hosts - 1); /* nothing is cut off */
    file_put("", 0, 4096);                             /* lost when the machine went down */
    write_one();
}

static void what_cannot_be_a_log_is_refused(void **state)
{
    (void)state;
    char message[MESSAGE_BYTES];
    struct livelog *log;
    static const char *const names[] = {"/", "/nowhere/programs.tsv", "/dev/null"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct livelog_config config = {
            .path = names[i], .file_bytes = LIVELOG_FILE_BYTES_MIN, .programs_max = 4};
        assert_true(livelog_new(&config, &log, message) < 0);
        CHECK(strstr(message, "[log] programs") && strstr(message, names[i]), "%s", message);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_program_comes_out_whole),
        cmocka_unit_test(a_slow_disk_costs_whole_programs),
        cmocka_unit_test(an_answer_that_is_missing_costs_its_program),
        cmocka_unit_test(a_full_file_is_turned_over),
        cmocka_unit_test(a_file_is_gone_on_with),
        cmocka_unit_test(a_file_that_was_moved_is_left_alone),
        cmocka_unit_test(a_full_disk_costs_whole_programs),
        cmocka_unit_test(a_profile_is_said_once_in_a_file),
        cmocka_unit_test(programs_name_the_profile_they_ran_under),
        cmocka_unit_test(versions_are_kept_while_they_are_needed),
        cmocka_unit_test(a_program_without_a_place_does_not_say),
        cmocka_unit_test(tokens_are_counted_by_algorithm),
        cmocka_unit_test(a_piece_of_a_program_is_cut_off),
        cmocka_unit_test(a_piece_that_ends_with_a_line_is_cut_off),
        cmocka_unit_test(a_file_with_other_columns_is_put_away),
        cmocka_unit_test(what_cannot_be_a_log_is_refused),
    };
    rng.state = check_number("SEED", now_ns());
    (void)printf("SEED=%" PRIu64 "\n", rng.state);
    profiles_init(&profiles);
    CHECK(mkdtemp(folder), "%m");
    (void)snprintf(path, sizeof path, "%s/programs.tsv", folder);
    (void)snprintf(old_path, sizeof old_path, "%s.1", path);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    files_remove();
    (void)rmdir(folder); /* what a failed test left there is looked at */
    return failed;
}
