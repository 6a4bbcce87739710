/* What the thread does: keeps the answers of programs that have not ended, and writes lines. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/base/assert.h"
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/program/algorithms.h"
#include "daemon/program/livelog_impl.h"
#include "daemon/program/runlog.h"
#include "shm/atomic.h"

#define KEPT_MAX 131072u          /* answers of programs that have not ended */
#define TEXT_BYTES (512u * 1024)  /* lines of one program; below LIVELOG_FILE_BYTES_MIN */
#define SAY_NS (60ull * NS_PER_S) /* between two lines about programs that are lost */
#define NONE UINT32_MAX
#define PATH_BYTES 1100u
#define HEADER_BYTES 512u
#define LINE_HEAD_BYTES 256u /* a line's columns up to the program fit */
#define PAGE_BYTES 4096u

struct kept {
    uint32_t next; /* in logical order, or of the free ones */
    struct live_answer answer;
};

struct gathered { /* of a handle */
    uint64_t serial;
    uint32_t first;
    uint32_t last;
    uint32_t count;
    bool broken; /* an answer is missing */
};

struct live_file {
    struct gathered *programs; /* [programs_max] */
    struct kept *kept;         /* [KEPT_MAX] */
    uint32_t kept_fresh;       /* from here on they were never touched */
    uint32_t free;
    char path[PATH_BYTES];
    char old_path[PATH_BYTES + 2];
    uint64_t file_bytes_max;
    uint64_t file_bytes;
    uint64_t life; /* names of programs begin with it */
    uint64_t said_ns;
    int fd;
    char header[HEADER_BYTES];
    size_t header_bytes;
    char *text;  /* [TEXT_BYTES] */
    FILE *lines; /* writes there */
    struct live_profiles profiles;
    struct livelog_stats stats; /* written here, read by any thread */
};

/* ---- the file ----------------------------------------------------------------------------------- */

static void file_close(struct live_file *f)
{
    if (f->fd >= 0)
        (void)close(f->fd); /* what was written is in the page cache */
    f->fd = -1;
}

static int write_all(struct live_file *f, const char *text, size_t bytes)
{
    size_t put = 0;
    while (put < bytes) {
        ssize_t n = write(f->fd, text + put, bytes - put);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            int r = n < 0 ? -errno : -EIO;
            if (ftruncate(f->fd, (off_t)f->file_bytes) != 0) /* a piece of a program says nothing */
                file_close(f);
            return r;
        }
        put += (size_t)n;
    }
    f->file_bytes += bytes;
    return 0;
}

/* Of a line: what says which program it is of, or what there is of that. */
struct head {
    char text[LINE_HEAD_BYTES];
    size_t bytes;
};

static int head_read(const struct live_file *f, uint64_t at, struct head *ret_head)
{
    size_t most = sizeof ret_head->text;
    most = f->file_bytes - at < most ? (size_t)(f->file_bytes - at) : most;
    if (pread(f->fd, ret_head->text, most, (off_t)at) != (ssize_t)most)
        return -EIO;
    most = strnlen(ret_head->text, most); /* zeros: lost when the machine went down */
    const char *tab = memchr(ret_head->text, '\t', most);
    if (tab) /* the next ends the name of the program */
        tab = memchr(tab + 1, '\t', most - (size_t)(tab + 1 - ret_head->text));
    ret_head->bytes = tab ? (size_t)(tab - ret_head->text) + 1 : most;
    return 0;
}

/* Of one program, by as much as both say. */
static bool heads_equal(const struct head *a, const struct head *b)
{
    return memcmp(a->text, b->text, a->bytes < b->bytes ? a->bytes : b->bytes) == 0;
}

/* Where the line begins that ends before `end`, with its newline or without one. */
static int line_start(const struct live_file *f, uint64_t end, uint64_t *ret_start)
{
    char text[LINE_HEAD_BYTES];
    for (uint64_t at = end - 1; at > 0;) {
        size_t bytes = at < sizeof text ? (size_t)at : sizeof text;
        if (pread(f->fd, text, bytes, (off_t)(at - bytes)) != (ssize_t)bytes)
            return -EIO;
        const char *newline = memrchr(text, '\n', bytes);
        if (newline) {
            *ret_start = at - bytes + (size_t)(newline - text) + 1;
            return 0;
        }
        at -= bytes;
    }
    *ret_start = 0;
    return 0;
}

/* The last program, but of the first line, which is the header: 0 when that is not whole. */
static int last_program(const struct live_file *f, uint64_t *ret_start)
{
    struct head last, head;
    uint64_t at = 0, start = 0;
    int r = line_start(f, f->file_bytes, &at);
    if (r == 0)
        r = head_read(f, at, &last);
    *ret_start = at;
    while (r == 0 && at > 0) {
        r = line_start(f, at, &start);
        if (r == 0)
            r = head_read(f, start, &head);
        if (r == 0 && (start == 0 || !heads_equal(&last, &head)))
            return 0;
        *ret_start = at = start;
        last = head; /* which says all */
    }
    return r;
}

/* When a daemon or its machine dies while a program is written, the write ends somewhere, a line's end not excepted,
 * but there only where a page ends. What is left of the program is not told from one of fewer answers. */
static int cut_piece(struct live_file *f)
{
    char c = '\n';
    uint64_t start = 0;
    if (f->file_bytes == 0)
        return 0;
    if (pread(f->fd, &c, 1, (off_t)f->file_bytes - 1) != 1)
        return -EIO;
    if (c == '\n' && f->file_bytes % PAGE_BYTES != 0)
        return 0;
    int r = last_program(f, &start);
    if (r < 0)
        return r;
    log_info(
        "log of programs: %s: the last %llu bytes may be a piece of a program, and are cut off",
        f->path, (unsigned long long)(f->file_bytes - start));
    f->file_bytes = start;
    return ftruncate(f->fd, (off_t)start) == 0 ? 0 : -errno;
}

/* Lines go with the header that they stand under. */
enum header { HEADER_OURS, HEADER_PIECE /* of it, or nothing */, HEADER_OTHER };

static int header_look(const struct live_file *f, enum header *ret_header)
{
    char text[HEADER_BYTES], what[RUNLOG_MESSAGE_BYTES];
    struct runlog_layout layout;
    ssize_t got = pread(f->fd, text, sizeof text - 1, 0);
    if (got < 0)
        return -errno;
    text[got] = '\0';
    size_t bytes = strlen(text); /* zeros: lost when the machine went down */
    *ret_header = bytes >= f->header_bytes ? HEADER_OURS : HEADER_PIECE;
    if (memcmp(text, f->header, bytes < f->header_bytes ? bytes : f->header_bytes) == 0)
        return 0;
    *ret_header = HEADER_OTHER;
    text[strcspn(text, "\n")] = '\0';
    return runlog_parse_header(text, &layout, what);
}

static int file_open_at(struct live_file *f, bool *ret_other)
{
    struct stat st;
    enum header header = HEADER_PIECE;
    f->fd = open(f->path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0640);
    int r = f->fd < 0 || fstat(f->fd, &st) != 0 ? -errno : S_ISREG(st.st_mode) ? 0 : -EINVAL;
    if (r == 0)
        r = header_look(f, &header);
    if (r == 0) {
        f->file_bytes = (uint64_t)st.st_size;
        r = header == HEADER_OTHER ? 0 : cut_piece(f);
    }
    if (r == 0 && f->file_bytes == 0) {
        r = write_all(f, f->header, f->header_bytes);
        header = HEADER_OURS;
    }
    *ret_other = header != HEADER_OURS;
    if (r < 0)
        file_close(f);
    live_profiles_forget(&f->profiles);
    return r;
}

/* FILE is FILE.1 from now on. */
static int file_put_away(struct live_file *f, const char *why)
{
    struct stat old;
    bool gone = stat(f->old_path, &old) == 0;
    if (rename(f->path, f->old_path) != 0)
        return -errno;
    if (gone)
        log_info("log of programs: %s %s and now %s, whose %llu bytes of before are gone", f->path,
                 why, f->old_path, (unsigned long long)old.st_size);
    else
        log_info("log of programs: %s %s and now %s", f->path, why, f->old_path);
    file_close(f);
    return 0;
}

static int file_open(struct live_file *f)
{
    bool other = false;
    int r = file_open_at(f, &other);
    if (r < 0 || !other)
        return r;
    r = file_put_away(f, "has other columns");
    if (r == 0)
        r = file_open_at(f, &other);
    r = r < 0 || !other ? r : -EBUSY;
    if (r < 0)
        file_close(f); /* or rows would stand under another's columns */
    return r;
}

/* Somebody may have moved the file away, or it could not be opened when the one before was full. */
static int file_be_there(struct live_file *f)
{
    struct stat there, ours;
    bool same = f->fd >= 0 && stat(f->path, &there) == 0 && fstat(f->fd, &ours) == 0 &&
                there.st_ino == ours.st_ino && there.st_dev == ours.st_dev;
    if (same)
        return 0;
    file_close(f);
    return file_open(f);
}

/* Once: when a file is full, text has the lines that are to come behind it. */
static int header_make(struct live_file *f)
{
    int r = runlog_write_header(f->lines);
    if (r < 0 || fflush(f->lines) != 0)
        return -EIO;
    f->header_bytes = (size_t)ftell(f->lines);
    ASSERT(f->header_bytes < sizeof f->header); /* a file's is read with a byte to spare */
    memcpy(f->header, f->text, f->header_bytes);
    return 0;
}

static int turn_over(struct live_file *f)
{
    int r = file_put_away(f, "is full");
    return r == 0 ? file_open(f) : r;
}

int live_file_new(const struct livelog_config *config, const struct live_version *versions,
                  struct live_file **ret_file, char ret_message[MESSAGE_BYTES])
{
    struct live_file *f = calloc(1, sizeof *f);
    if (!f)
        return message_refuse(ret_message, -ENOMEM, "no memory");
    f->fd = -1;
    f->free = NONE;
    if (getrandom(&f->life, sizeof f->life, 0) != sizeof f->life)
        f->life = clock_now_ns(); /* no two lives have the same */
    f->file_bytes_max = config->file_bytes;
    f->programs = calloc(config->programs_max, sizeof *f->programs);
    f->kept = calloc(KEPT_MAX, sizeof *f->kept);
    f->text = malloc(TEXT_BYTES);
    f->lines = f->text ? fmemopen(f->text, TEXT_BYTES, "w") : NULL;
    bool fits = strlen(config->path) < sizeof f->path;
    int r = !f->programs || !f->kept || !f->lines ? -ENOMEM : fits ? 0 : -ENAMETOOLONG;
    if (r == 0)
        r = live_profiles_init(&f->profiles, versions);
    if (r == 0) {
        (void)snprintf(f->path, sizeof f->path, "%s", config->path);      /* fits */
        (void)snprintf(f->old_path, sizeof f->old_path, "%s.1", f->path); /* likewise */
        r = header_make(f);
    }
    if (r == 0)
        r = file_open(f);
    if (r < 0) {
        live_file_free(f);
        return message_refuse(ret_message, r, "[log] programs = %s: %s", config->path,
                              r == -EINVAL ? "accepted a new file, or one of this log"
                                           : strerror(-r));
    }
    *ret_file = f;
    return 0;
}

void live_file_free(struct live_file *f)
{
    if (!f)
        return;
    file_close(f);
    live_profiles_free(&f->profiles);
    if (f->lines)
        (void)fclose(f->lines); /* memory */
    free(f->text);
    free(f->kept);
    free(f->programs);
    free(f);
}

void live_file_stats(struct live_file *f, struct livelog_stats *ret_stats)
{
    ret_stats->programs_written = shm_load_u64(&f->stats.programs_written);
    ret_stats->programs_lost = shm_load_u64(&f->stats.programs_lost);
}

/* This thread alone does. */
static void count(uint64_t *what)
{
    shm_store_u64(what, *what + 1);
}

/* ---- lines -------------------------------------------------------------------------------------- */

/* Answers that are paths of their own, all begun before the first is counted: each costs what it has. */
static bool is_flat(uint32_t algorithm)
{
    return algorithm == DYNASOR_ALGORITHM_SC || algorithm == DYNASOR_ALGORITHM_BEST_OF_N ||
           algorithm == DYNASOR_ALGORITHM_SC_COT;
}

static uint64_t own_tokens(const struct live_answer *a, uint32_t algorithm)
{
    uint64_t own = algorithm == DYNASOR_ALGORITHM_SC_COT ? a->at_tokens : a->own_tokens;
    return a->has_reward ? 2 * own : own;
}

static const char *ending(const struct live_end *end)
{
    static const char *const names[] = {[RUN_SETTLED] = "settled",
                                        [RUN_CAPPED] = "capped",
                                        [RUN_GIVEN_UP] = "given_up",
                                        [RUN_WHOLE] = "whole"};
    bool short_of_cap = end->verdict == RUN_CAPPED && end->of_batch && end->knob < end->cap;
    return short_of_cap ? "budget" : names[end->verdict];
}

struct writing {
    struct live_file *file;
    const struct gathered *program;
    const struct live_end *end;
    uint64_t rest;   /* charged, but part of no answer: on top of each */
    uint64_t own;    /* of answers so far */
    uint64_t probes; /* likewise */
    char version[20];
    char name[48];
    char problem[24];
    char answer[16];
    char answer_now[16];
};

static void row_begin(struct writing *w, struct runlog_row *row, uint32_t n, uint32_t group)
{
    runlog_row_init(row);
    (void)snprintf(w->answer, sizeof w->answer, "%u", group); /* fits */
    row->problem = w->problem;
    row->program = w->name;
    row->algorithm = algorithm_get(w->end->algorithm)->name;
    row->answer = group == CERTAINDEX_EMPTY ? "" : w->answer;
    row->n = n;
    row->ended = ending(w->end);
    row->knob = w->end->knob;
    row->cap = w->end->cap;
    row->profile = w->end->profile;
    row->version = w->version;
    row->batch = w->end->of_batch;
}

static void version_say(struct writing *w)
{
    const struct live_end *end = w->end;
    uint64_t digits =
        end->version > 0 ? live_profiles_digits(&w->file->profiles, end->version - 1) : 0;
    if (end->changed)
        (void)snprintf(w->version, sizeof w->version, "%s", RUNLOG_CHANGED); /* fits, like that */
    else if (end->version > 0)
        (void)snprintf(w->version, sizeof w->version, "%016llx", (unsigned long long)digits);
}

static uint32_t group_at(const struct live_file *f, const struct gathered *g, uint32_t n)
{
    uint32_t at = g->first;
    while (n-- > 0)
        at = f->kept[at].next;
    return f->kept[at].answer.group;
}

static void answer_write(struct writing *w, const struct live_answer *a)
{
    uint32_t algorithm = w->end->algorithm;
    struct runlog_row row;
    row_begin(w, &row, a->n + 1, a->group);
    w->own += own_tokens(a, algorithm);
    bool chain = algorithm == DYNASOR_ALGORITHM_COT;
    row.charged_tokens = chain ? a->charged_tokens : 0;
    row.tokens = chain ? a->at_tokens : is_flat(algorithm) ? w->own + w->rest : a->charged_tokens;
    uint32_t now = chain || a->winner > a->n ? a->group : group_at(w->file, w->program, a->winner);
    (void)snprintf(w->answer_now, sizeof w->answer_now, "%u", now); /* fits */
    row.answer_now = now == CERTAINDEX_EMPTY ? "" : w->answer_now;
    row.reward = a->has_reward ? (double)a->reward : (double)NAN;
    row.logprob = (double)a->log_probability;
    row.entropy = (double)a->entropy;
    row.confidence = a->confidence > 0 ? (double)a->confidence : (double)NAN;
    row.hesitant = a->hesitant;
    row.probe_tokens = (uint32_t)(a->probe_tokens - w->probes);
    w->probes = a->probe_tokens;
    (void)runlog_write(w->file->lines, &row); /* checked with all of them */
}

/* All lines of a program into text. */
static int lines_make(struct live_file *f, const struct gathered *g, const struct live_record *r,
                      size_t *ret_bytes)
{
    const struct live_end *end = &r->u.end;
    struct writing w = {.file = f, .program = g, .end = end};
    uint64_t own = 0;
    uint32_t i, at;
    for (i = 0, at = g->first; i < g->count; i++, at = f->kept[at].next)
        own += own_tokens(&f->kept[at].answer, end->algorithm);
    w.rest = end->charged_tokens > own ? end->charged_tokens - own : 0;
    (void)snprintf(w.name, sizeof w.name, "%llx.%llu", (unsigned long long)f->life,
                   (unsigned long long)r->serial); /* fits, like the next */
    (void)snprintf(w.problem, sizeof w.problem, "%016llx", (unsigned long long)end->problem);
    version_say(&w);
    rewind(f->lines);
    for (i = 0, at = g->first; i < g->count; i++, at = f->kept[at].next)
        answer_write(&w, &f->kept[at].answer);
    if (end->algorithm == DYNASOR_ALGORITHM_COT && end->verdict != RUN_SETTLED &&
        end->verdict != RUN_GIVEN_UP) {
        struct runlog_row row;
        row_begin(&w, &row, g->count + 1, end->group);
        row.tokens = end->path_tokens;
        row.charged_tokens = end->charged_tokens;
        row.answer_now = row.answer;
        (void)runlog_write(f->lines, &row); /* likewise */
    }
    if (fflush(f->lines) != 0 || ferror(f->lines)) {
        clearerr(f->lines);
        return -EFBIG;
    }
    *ret_bytes = (size_t)ftell(f->lines);
    return 0;
}

/* ---- records ------------------------------------------------------------------------------------ */

static void gathered_free(struct live_file *f, struct gathered *g)
{
    if (g->count > 0) {
        f->kept[g->last].next = f->free;
        f->free = g->first;
    }
    *g = (struct gathered){.first = NONE, .last = NONE};
}

static uint32_t kept_take(struct live_file *f)
{
    uint32_t at = f->free;
    if (at != NONE)
        f->free = f->kept[at].next;
    else if (f->kept_fresh < KEPT_MAX)
        at = f->kept_fresh++;
    return at;
}

static void answer_take(struct live_file *f, struct gathered *g, const struct live_answer *a)
{
    uint32_t at = g->broken || a->n != g->count ? NONE : kept_take(f);
    if (at == NONE) {
        g->broken = true;
        return;
    }
    f->kept[at] = (struct kept){.next = NONE, .answer = *a};
    if (g->count++ > 0)
        f->kept[g->last].next = at;
    else
        g->first = at;
    g->last = at;
}

static void lost(struct live_file *f, const char *why)
{
    count(&f->stats.programs_lost);
    uint64_t now_ns = clock_now_ns();
    if (f->said_ns > 0 && now_ns - f->said_ns < SAY_NS)
        return;
    log_warn("log of programs: %s: %s; %llu programs of this life are not in it", f->path, why,
             (unsigned long long)f->stats.programs_lost);
    f->said_ns = now_ns;
}

/* The lines in text, and above them the profile, if the file does not have it. */
static int lines_put(struct live_file *f, const struct live_end *end, size_t bytes)
{
    bool named = end->version > 0 && !end->changed;
    const char *line = NULL;
    int r = file_be_there(f);
    size_t line_bytes =
        r == 0 && named ? live_profiles_line(&f->profiles, end->version - 1, &line) : 0;
    if (r == 0 && f->file_bytes + line_bytes + bytes > f->file_bytes_max) {
        r = turn_over(f);
        line_bytes =
            r == 0 && named ? live_profiles_line(&f->profiles, end->version - 1, &line) : 0;
    }
    if (r == 0 && line_bytes > 0) {
        r = write_all(f, line, line_bytes);
        if (r == 0)
            live_profiles_put(&f->profiles, end->version - 1);
    }
    return r < 0 ? r : write_all(f, f->text, bytes);
}

static void end_take(struct live_file *f, const struct gathered *g,
                     const struct live_record *record)
{
    size_t bytes = 0;
    if (g->broken || g->count != record->u.end.answers_count) {
        lost(f, "more answers came than there was room for");
        return;
    }
    int r = lines_make(f, g, record, &bytes);
    if (r == 0 && bytes == 0)
        return; /* it gave no answer */
    if (r == 0)
        r = lines_put(f, &record->u.end, bytes);
    if (r < 0)
        lost(f, strerror(-r));
    else
        count(&f->stats.programs_written);
}

void live_file_take(struct live_file *f, const struct live_record *record)
{
    struct gathered *g = &f->programs[record->program];
    if (g->serial != record->serial) { /* a program whose end was lost, and is counted there */
        gathered_free(f, g);
        g->serial = record->serial;
    }
    switch (record->kind) {
    case LIVE_ANSWER:
        answer_take(f, g, &record->u.answer);
        return;
    case LIVE_END:
        end_take(f, g, record);
        break;
    default:
        break;
    }
    gathered_free(f, g);
}
