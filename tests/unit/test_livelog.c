/* tests/unit/test_livelog.c: the run log of a daemon at work. What goes in as observed answers and ends comes
 * out as lines that runlog.h reads, the lines of a program together; what does not come out is a whole
 * program, and counted: by a pipe that nobody reads, a ring that is full, a disk that is full. */
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

#include "daemon/program/livelog.h"
#include "daemon/program/runlog.h"
#include "dynasor/types.h"
#include "tests/lib/check.h"

#define PROGRAMS 64u /* handles */

static struct rng rng;
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
                                              .profile = "sc-math",
                                              .prompt = prompt,
                                              .prompt_bytes = 1 + number % 8});
}

/* ---- what comes out ----------------------------------------------------------------------------- */

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
    assert_string_equal(row->profile, "sc-math");
    assert_int_equal(row->cap, number + 1);
    assert_int_equal(row->probe_tokens, 20);
    assert_true(row->right == RUNLOG_UNKNOWN && isnan(row->reward));
    assert_true(n % 2 ? row->confidence > 1.4 : isnan(row->confidence));
}

/* Programs of a file, each whole: its knob is its number and count_of(number) its answers. Returns how many. */
static uint32_t read_log(const char *name, uint32_t (*count_of)(uint32_t number))
{
    struct runlog_layout layout;
    struct runlog_row row;
    char message[RUNLOG_MESSAGE_BYTES], last[64] = "", problem[64] = "", *line = NULL;
    size_t room = 0;
    uint32_t programs = 0, left = 0, n = 0, lines = 0;
    FILE *file = fopen(name, "re");
    CHECK(file, "%s: %m", name);
    while (getline(&line, &room, file) >= 0) {
        if (lines++ == 0) {
            CHECK(runlog_parse_header(line, &layout, message) == 0, "%s", message);
            continue;
        }
        CHECK(runlog_parse(&layout, line, &row, message) == 0, "%u: %s", lines, message);
        if (strcmp(row.program, last) != 0) {
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

static void files_remove(void)
{
    (void)unlink(path);
    (void)unlink(old_path);
}

/* ---- tests -------------------------------------------------------------------------------------- */

/* Programs in any order, mixed; some end otherwise, some without an answer; handles come again. */
static void each_program_comes_out_whole(void **state)
{
    (void)state;
    struct host h;
    uint32_t number[PROGRAMS] = {0}, answers[PROGRAMS] = {0}, done = 0, begun = 0, silent = 0;
    files_remove();
    open_log(&h, 1u << 30);
    write_out(&h);
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
    files_remove();
    open_log(&h, 1u << 30);
    write_out(&h);
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
    assert_int_equal(read_log(path, eight), 60);
}

/* As logrotate does. */
static void a_file_that_was_moved_is_left_alone(void **state)
{
    (void)state;
    struct host h;
    struct livelog_stats stats = {0};
    files_remove();
    open_log(&h, 1u << 30);
    write_out(&h);
    programs_put(&h, 20);
    for (uint32_t i = 0; stats.programs_written < 20; i++) {
        CHECK(i < 5000, "nothing is written");
        (void)usleep(1000);
        livelog_stats(h.log, &stats);
    }
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
    struct livelog_stats stats = {0};
    files_remove();
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    open_log(&h, 1u << 30);
    write_out(&h);
    small = before;
    small.rlim_cur = 20000;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    programs_put(&h, 60);
    for (uint32_t i = 0; stats.programs_written + stats.programs_lost < 60; i++) {
        CHECK(i < 5000, "nothing happens");
        (void)usleep(1000);
        livelog_stats(h.log, &stats);
    }
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_true(stats.programs_lost > 20 && stats.programs_written > 5);
    assert_int_equal(read_log(path, eight), stats.programs_written);
    programs_put(&h, 10);
    struct livelog_stats after = close_log(&h);
    assert_int_equal(after.programs_lost, stats.programs_lost);
    assert_int_equal(read_log(path, eight), stats.programs_written + 10);
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
        cmocka_unit_test(what_cannot_be_a_log_is_refused),
    };
    rng.state = check_number("SEED", now_ns());
    (void)printf("SEED=%" PRIu64 "\n", rng.state);
    CHECK(mkdtemp(folder), "%m");
    (void)snprintf(path, sizeof path, "%s/programs.tsv", folder);
    (void)snprintf(old_path, sizeof old_path, "%s.1", path);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    files_remove();
    (void)rmdir(folder); /* what a failed test left there is looked at */
    return failed;
}
