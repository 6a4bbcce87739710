/* dynasorctl — looks at a running dynasord from outside, and changes its profiles.
 *
 * Asks the control socket for the daemon's counters page, maps it read-only and prints it. The daemon
 * does nothing more for it, however often one looks. Exit status: enum exit_status. */
#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "shm/atomic.h"
#include "shm/counters.h"

#define ANSWER_TIMEOUT_S 5
#define PAGE_BYTES_MAX (1u << 30) /* far above any daemon's */
#define WATCH_SECONDS_MAX 86400
#define PATH_BYTES_MAX 1200u

enum exit_status {
    EXIT_STATUS_OK = 0,
    EXIT_STATUS_SYSTEM = 1,     /* a system call failed; the message names it */
    EXIT_STATUS_USAGE = 2,      /* the command line makes no sense */
    EXIT_STATUS_NO_DAEMON = 3,  /* nobody answers on the socket */
    EXIT_STATUS_PERMISSION = 4, /* the socket's permissions keep us out */
    EXIT_STATUS_REFUSED = 5,    /* the daemon refused, or speaks another version */
};

#define WORDS_MAX 3u

struct arguments {
    const char *socket_path;
    const char *words[WORDS_MAX]; /* the command */
    uint32_t words_count;
    bool clients;
    bool json;
    uint32_t watch_s; /* 0: once */
};

/* The page of one life of the daemon, while it is mapped. */
struct view {
    struct control_reply reply;
    const uint8_t *base;
    size_t bytes;
    uint32_t counters_count;
    uint32_t rows_count;
    uint32_t rows_off;
};

struct snapshot {
    uint64_t taken_ns;
    uint64_t value[COUNTERS_COUNT];
};

struct counter_text {
    const char *name;
    const char *unit;
    const char *help;
};

static const struct counter_text counter_texts[COUNTERS_COUNT] = {
#define X(name, unit, help) {#name, unit, help},
    COUNTERS_TABLE(X)
#undef X
};

__attribute__((format(printf, 2, 3))) static enum exit_status complain(enum exit_status status,
                                                                       const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "dynasorctl: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    return status;
}

/* ---- connecting -------------------------------------------------------------------------------- */

/* A path component may keep us out as well as the socket; say which, and which group would help. */
static enum exit_status complain_permission(const char *path)
{
    struct stat st;
    char shown[128] = ".";
    const char *what = path;
    if (stat(path, &st) < 0) {
        const char *slash = strrchr(path, '/');
        size_t length = slash != NULL && slash != path ? (size_t)(slash - path) : 1;
        if (slash != NULL && length < sizeof(shown)) {
            memcpy(shown, path, length);
            shown[length] = '\0';
        }
        what = shown;
        if (stat(what, &st) < 0) {
            return complain(EXIT_STATUS_PERMISSION, "%s: permission denied", path);
        }
    }
    struct group *group = getgrgid(st.st_gid);
    char number[32];
    (void)snprintf(number, sizeof(number), "%u", (unsigned)st.st_gid);
    return complain(EXIT_STATUS_PERMISSION,
                    "%s: permission denied for uid %u: %s has mode %04o and group %s; "
                    "be a member of that group, or root",
                    path, (unsigned)geteuid(), what, (unsigned)(st.st_mode & 07777),
                    group != NULL ? group->gr_name : number);
}

static enum exit_status connect_to(const char *path, int *ret_fd)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof(address.sun_path)) {
        return complain(EXIT_STATUS_USAGE, "--socket %s: accepted 1 to %zu characters", path,
                        sizeof(address.sun_path) - 1);
    }
    memcpy(address.sun_path, path, length);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return complain(EXIT_STATUS_SYSTEM, "socket: %s", strerror(errno));
    }
    struct timeval timeout = {.tv_sec = ANSWER_TIMEOUT_S};
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)); /* also of connect */
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0) {
        *ret_fd = fd;
        return EXIT_STATUS_OK;
    }
    int error = errno;
    close(fd);
    switch (error) {
    case ENOENT:
        return complain(EXIT_STATUS_NO_DAEMON, "%s: no such socket: is dynasord running?", path);
    case ECONNREFUSED:
        return complain(EXIT_STATUS_NO_DAEMON, "%s: nobody listens: dynasord is not running", path);
    case EAGAIN:
        return complain(EXIT_STATUS_NO_DAEMON, "%s: no answer to connect within %d s", path,
                        ANSWER_TIMEOUT_S);
    case EACCES:
    case EPERM:
        return complain_permission(path);
    case EPROTOTYPE:
        return complain(EXIT_STATUS_REFUSED, "%s: not a SOCK_SEQPACKET socket, so not dynasord's",
                        path);
    default:
        return complain(EXIT_STATUS_SYSTEM, "%s: connect: %s", path, strerror(error));
    }
}

/* Takes the first descriptor of a message; the kernel has made it close-on-exec. */
static int take_descriptor(struct msghdr *message)
{
    int fd = -1;
    struct cmsghdr *c = CMSG_FIRSTHDR(message);
    if (c != NULL && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
        c->cmsg_len == CMSG_LEN(sizeof(int))) {
        memcpy(&fd, CMSG_DATA(c), sizeof(fd));
    }
    return fd;
}

static enum exit_status receive_reply(const char *path, int socket_fd, struct control_reply *reply,
                                      int *ret_fd)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {.iov_base = reply, .iov_len = sizeof(*reply)};
    struct msghdr message = {
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = control.room,
        .msg_controllen = sizeof(control.room),
    };
    ssize_t n;
    do {
        n = recvmsg(socket_fd, &message, MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        return complain(EXIT_STATUS_NO_DAEMON, "%s: dynasord did not answer within %d s", path,
                        ANSWER_TIMEOUT_S);
    }
    if (n < 0 && errno != ECONNRESET) {
        return complain(EXIT_STATUS_SYSTEM, "%s: recvmsg: %s", path, strerror(errno));
    }
    if (n <= 0) {
        return complain(EXIT_STATUS_REFUSED,
                        "%s: dynasord closed the connection unanswered: accepted are root, its own "
                        "user and the group of the socket; its log says more",
                        path);
    }
    *ret_fd = take_descriptor(&message);
    if ((size_t)n != sizeof(*reply) || (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 ||
        reply->magic != CONTROL_MAGIC) {
        return complain(EXIT_STATUS_REFUSED, "%s: the answer is not dynasord's", path);
    }
    reply->daemon_version[sizeof(reply->daemon_version) - 1] = '\0';
    reply->socket_path[sizeof(reply->socket_path) - 1] = '\0';
    if (reply->version != CONTROL_VERSION) {
        return complain(EXIT_STATUS_REFUSED,
                        "%s: dynasord %s speaks control version %u, this is %u", path,
                        reply->daemon_version, (unsigned)reply->version, CONTROL_VERSION);
    }
    if (reply->status != 0) {
        return complain(EXIT_STATUS_REFUSED, "%s: refused by dynasord %s with status %u", path,
                        reply->daemon_version, (unsigned)reply->status);
    }
    if (*ret_fd < 0) {
        return complain(EXIT_STATUS_REFUSED, "%s: the answer has no descriptor", path);
    }
    return EXIT_STATUS_OK;
}

/* ---- the page ---------------------------------------------------------------------------------- */

/* A page of a newer daemon may have more counters; those we know stand first. */
static enum exit_status check_page(const char *path, struct view *view)
{
    struct counters_page header;
    if (view->bytes < sizeof(header)) {
        return complain(EXIT_STATUS_REFUSED, "%s: counters page of %zu bytes: accepted %zu or more",
                        path, view->bytes, sizeof(header));
    }
    memcpy(&header, view->base, sizeof(header));
    if (header.magic != COUNTERS_MAGIC || header.version != COUNTERS_VERSION) {
        return complain(EXIT_STATUS_REFUSED,
                        "%s: dynasord %s has counters page version %u, this dynasorctl reads %u",
                        path, view->reply.daemon_version,
                        header.magic == COUNTERS_MAGIC ? header.version : 0, COUNTERS_VERSION);
    }
    uint64_t counters_end =
        offsetof(struct counters_page, value) + (uint64_t)header.counters_count * sizeof(uint64_t);
    uint64_t rows_end = header.rows_off + (uint64_t)header.rows_count * sizeof(struct counters_row);
    if (header.counters_count < COUNTERS_COUNT || counters_end > header.rows_off ||
        header.rows_off % sizeof(uint64_t) != 0 || rows_end > view->bytes) {
        return complain(EXIT_STATUS_REFUSED,
                        "%s: counters page: %u counters and %u clients at %u do not fit %zu bytes",
                        path, header.counters_count, header.rows_count, header.rows_off,
                        view->bytes);
    }
    view->counters_count = header.counters_count;
    view->rows_count = header.rows_count;
    view->rows_off = header.rows_off;
    return EXIT_STATUS_OK;
}

static enum exit_status map_page(const char *path, int fd, struct view *view)
{
    struct stat st;
    uint64_t bytes = view->reply.page_bytes;
    if (fstat(fd, &st) < 0) {
        return complain(EXIT_STATUS_SYSTEM, "%s: fstat: %s", path, strerror(errno));
    }
    if (bytes == 0 || bytes > PAGE_BYTES_MAX || (uint64_t)st.st_size < bytes) {
        return complain(EXIT_STATUS_REFUSED,
                        "%s: counters page said to be %" PRIu64 " bytes, the file has %" PRIu64,
                        path, bytes, (uint64_t)st.st_size);
    }
    void *base = mmap(NULL, (size_t)bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        return complain(EXIT_STATUS_SYSTEM, "%s: mmap: %s", path, strerror(errno));
    }
    view->base = base;
    view->bytes = (size_t)bytes;
    return check_page(path, view);
}

static void view_close(struct view *view)
{
    if (view->base != NULL) {
        munmap((void *)(uintptr_t)view->base, view->bytes);
    }
    view->base = NULL;
}

static enum exit_status view_open(struct view *view, const char *path)
{
    int socket_fd = -1;
    int page_fd = -1;
    memset(view, 0, sizeof(*view));
    enum exit_status status = connect_to(path, &socket_fd);
    if (status != EXIT_STATUS_OK) {
        return status;
    }
    struct control_request request = {
        .magic = CONTROL_MAGIC,
        .version = CONTROL_VERSION,
        .op = CONTROL_OP_STATUS,
    };
    ssize_t sent = send(socket_fd, &request, sizeof(request), MSG_NOSIGNAL);
    /* A daemon that refused us has hung up already: receive_reply() explains that. */
    if (sent != (ssize_t)sizeof(request) && errno != EPIPE && errno != ECONNRESET) {
        status = complain(EXIT_STATUS_REFUSED, "%s: send: %s", path, strerror(errno));
    } else {
        status = receive_reply(path, socket_fd, &view->reply, &page_fd);
    }
    if (status == EXIT_STATUS_OK) {
        status = map_page(path, page_fd, view);
    }
    if (page_fd >= 0) {
        close(page_fd);
    }
    close(socket_fd);
    if (status != EXIT_STATUS_OK) {
        view_close(view);
    }
    return status;
}

static uint64_t monotonic_ns(void)
{
    struct timespec t = {0};
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void take_snapshot(const struct view *view, struct snapshot *snapshot)
{
    const struct counters_page *page = (const struct counters_page *)(const void *)view->base;
    snapshot->taken_ns = monotonic_ns();
    for (uint32_t i = 0; i < COUNTERS_COUNT; i++) {
        snapshot->value[i] = shm_load_u64(&page->value[i]);
    }
}

/* Copies row i; false when no client has it. The state is read again: a row may change hands. */
static bool take_row(const struct view *view, uint32_t i, struct counters_row *row)
{
    const struct counters_row *from =
        (const struct counters_row *)(const void *)(view->base + view->rows_off) + i;
    row->state = shm_load_u32(&from->state);
    row->slot = shm_load_u32(&from->slot);
    row->uid = shm_load_u32(&from->uid);
    row->pid = shm_load_u32(&from->pid);
    row->programs_active = shm_load_u64(&from->programs_active);
    row->programs_accepted = shm_load_u64(&from->programs_accepted);
    row->tokens_sent = shm_load_u64(&from->tokens_sent);
    row->events_sent = shm_load_u64(&from->events_sent);
    row->region_bytes = shm_load_u64(&from->region_bytes);
    row->queued_bytes = shm_load_u64(&from->queued_bytes);
    return row->state == 1 && shm_load_u32(&from->state) == 1;
}

/* ---- printing ---------------------------------------------------------------------------------- */

/* What is a level, not a sum: no rate is shown. */
static bool is_level(uint32_t i)
{
    switch (i) {
    case COUNTER_clients:
    case COUNTER_programs_active:
    case COUNTER_programs_paused:
    case COUNTER_loop_max_ns:
    case COUNTER_quota_region_bytes:
    case COUNTER_quota_queued_bytes:
    case COUNTER_descriptors:
    case COUNTER_generation:
    case COUNTER_started_ns:
    case COUNTER_pid:
    case COUNTER_clients_max:
        return true;
    default:
        return false;
    }
}

/* before: of the same life of the daemon, or NULL. */
static void print_counters(const struct snapshot *now, const struct snapshot *before)
{
    for (uint32_t i = 0; i < COUNTERS_COUNT; i++) {
        const struct counter_text *text = &counter_texts[i];
        printf("%-20s %20" PRIu64 " %-9s", text->name, now->value[i], text->unit);
        if (before != NULL && now->taken_ns > before->taken_ns && !is_level(i)) {
            double seconds = (double)(now->taken_ns - before->taken_ns) / 1e9;
            printf(" %12.0f/s", (double)(now->value[i] - before->value[i]) / seconds);
        } else if (before != NULL) {
            printf(" %14s", "");
        }
        printf("  %s\n", text->help);
    }
}

static void print_rows(const struct view *view)
{
    struct counters_row row;
    printf("\n%5s %10s %8s %9s %10s %14s %14s %13s %13s\n", "slot", "uid", "pid", "programs",
           "accepted", "tokens_sent", "events_sent", "region_bytes", "queued_bytes");
    for (uint32_t i = 0; i < view->rows_count; i++) {
        if (take_row(view, i, &row)) {
            printf("%5" PRIu32 " %10" PRIu32 " %8" PRIu32 " %9" PRIu64 " %10" PRIu64 " %14" PRIu64
                   " %14" PRIu64 " %13" PRIu64 " %13" PRIu64 "\n",
                   row.slot, row.uid, row.pid, row.programs_active, row.programs_accepted,
                   row.tokens_sent, row.events_sent, row.region_bytes, row.queued_bytes);
        }
    }
}

static void print_human(const struct view *view, const struct arguments *arguments,
                        const struct snapshot *now, const struct snapshot *before)
{
    uint64_t up_ns = now->taken_ns - now->value[COUNTER_started_ns];
    printf("dynasord %s, pid %" PRIu64 ", up %" PRIu64 " s, %s\n\n", view->reply.daemon_version,
           now->value[COUNTER_pid], up_ns / 1000000000u, view->reply.socket_path);
    print_counters(now, before);
    if (arguments->clients) {
        print_rows(view);
    }
}

static void print_json_string(const char *text)
{
    putchar('"');
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') {
            printf("\\%c", c);
        } else if (c < 0x20 || c >= 0x7f) {
            printf("\\u%04x", (unsigned)c);
        } else {
            putchar(c);
        }
    }
    putchar('"');
}

/* One object, one line: --watch gives JSON Lines. */
static void print_json(const struct view *view, const struct arguments *arguments,
                       const struct snapshot *now)
{
    printf("{\"daemon_version\":");
    print_json_string(view->reply.daemon_version);
    printf(",\"socket_path\":");
    print_json_string(view->reply.socket_path);
    printf(",\"taken_ns\":%" PRIu64 ",\"counters\":{", now->taken_ns);
    for (uint32_t i = 0; i < COUNTERS_COUNT; i++) {
        printf("%s\"%s\":%" PRIu64, i > 0 ? "," : "", counter_texts[i].name, now->value[i]);
    }
    printf("}");
    if (arguments->clients) {
        struct counters_row row;
        const char *comma = "";
        printf(",\"clients\":[");
        for (uint32_t i = 0; i < view->rows_count; i++) {
            if (take_row(view, i, &row)) {
                printf("%s{\"slot\":%" PRIu32 ",\"uid\":%" PRIu32 ",\"pid\":%" PRIu32
                       ",\"programs_active\":%" PRIu64 ",\"programs_accepted\":%" PRIu64
                       ",\"tokens_sent\":%" PRIu64 ",\"events_sent\":%" PRIu64
                       ",\"region_bytes\":%" PRIu64 ",\"queued_bytes\":%" PRIu64 "}",
                       comma, row.slot, row.uid, row.pid, row.programs_active,
                       row.programs_accepted, row.tokens_sent, row.events_sent, row.region_bytes,
                       row.queued_bytes);
                comma = ",";
            }
        }
        printf("]");
    }
    printf("}\n");
}

/* ---- commands ---------------------------------------------------------------------------------- */

/* One look. *before: the last look, taken_ns 0 when there was none; becomes this one. */
static enum exit_status look(const struct arguments *arguments, struct snapshot *before)
{
    struct view view;
    struct snapshot now;
    enum exit_status status = view_open(&view, arguments->socket_path);
    if (status != EXIT_STATUS_OK) {
        before->taken_ns = 0;
        return status;
    }
    take_snapshot(&view, &now);
    if (arguments->json) {
        print_json(&view, arguments, &now);
    } else {
        bool same_life = before->taken_ns != 0 &&
                         before->value[COUNTER_generation] == now.value[COUNTER_generation] &&
                         before->value[COUNTER_started_ns] == now.value[COUNTER_started_ns];
        if (arguments->watch_s > 0 && isatty(STDOUT_FILENO)) {
            printf("\033[H\033[J");
        }
        print_human(&view, arguments, &now, same_life ? before : NULL);
    }
    view_close(&view);
    *before = now;
    if (fflush(stdout) != 0 || ferror(stdout)) {
        return complain(EXIT_STATUS_SYSTEM, "standard output: %s", strerror(errno));
    }
    return EXIT_STATUS_OK;
}

/* The first look must succeed; later ones bridge a restart of the daemon. */
static enum exit_status run_status(const struct arguments *arguments)
{
    struct snapshot before = {0};
    enum exit_status status = look(arguments, &before);
    if (status != EXIT_STATUS_OK || arguments->watch_s == 0) {
        return status;
    }
    for (;;) {
        struct timespec pause = {.tv_sec = (time_t)arguments->watch_s};
        (void)nanosleep(&pause, NULL); /* a signal only makes the next look come sooner */
        status = look(arguments, &before);
        if (status == EXIT_STATUS_SYSTEM || status == EXIT_STATUS_PERMISSION) {
            return status;
        }
    }
}

/* Sends op with text; the text of the answer, until the next one, is *ret_answer. */
static enum exit_status ask(const char *path, uint16_t op, const char *text, size_t text_bytes,
                            const char **ret_answer)
{
    static char answer[CONTROL_TEXT_BYTES_MAX + 1];
    struct control_request request = {.magic = CONTROL_MAGIC, .version = CONTROL_VERSION, .op = op};
    struct control_reply reply;
    struct iovec out[2] = {{.iov_base = &request, .iov_len = sizeof(request)},
                           {.iov_base = (void *)(uintptr_t)text, .iov_len = text_bytes}};
    struct iovec in[2] = {{.iov_base = &reply, .iov_len = sizeof(reply)},
                          {.iov_base = answer, .iov_len = sizeof(answer) - 1}};
    struct msghdr sending = {.msg_iov = out, .msg_iovlen = 2};
    struct msghdr receiving = {.msg_iov = in, .msg_iovlen = 2};
    int fd = -1;
    enum exit_status status = connect_to(path, &fd);
    if (status != EXIT_STATUS_OK) {
        return status;
    }
    ssize_t n = sendmsg(fd, &sending, MSG_NOSIGNAL);
    if (n >= 0 || errno == EPIPE || errno == ECONNRESET) {
        n = recvmsg(fd, &receiving, MSG_CMSG_CLOEXEC);
    }
    int error = errno;
    close(fd);
    if (n < 0 && (error == EAGAIN || error == EWOULDBLOCK)) {
        return complain(EXIT_STATUS_NO_DAEMON, "%s: dynasord did not answer within %d s", path,
                        ANSWER_TIMEOUT_S);
    }
    if (n < (ssize_t)sizeof(reply) || reply.magic != CONTROL_MAGIC ||
        reply.version != CONTROL_VERSION) {
        return complain(EXIT_STATUS_REFUSED, "%s: no answer that is dynasord's: its log says more",
                        path);
    }
    answer[(size_t)n - sizeof(reply)] = '\0';
    if (reply.status != 0) {
        return complain(EXIT_STATUS_REFUSED, "%s",
                        answer[0] != '\0' ? answer : "refused by this version of dynasord");
    }
    *ret_answer = answer;
    return EXIT_STATUS_OK;
}

static enum exit_status converse(const char *path, uint16_t op, const char *text, size_t text_bytes)
{
    const char *answer;
    enum exit_status status = ask(path, op, text, text_bytes, &answer);
    if (status != EXIT_STATUS_OK) {
        return status;
    }
    if (fputs(answer, stdout) < 0 || fflush(stdout) != 0) {
        return complain(EXIT_STATUS_SYSTEM, "standard output: %s", strerror(errno));
    }
    return EXIT_STATUS_OK;
}

/* Two words with a new line between them; the second may be a file's contents. */
static enum exit_status run_set(const struct arguments *arguments)
{
    char text[1024];
    int n = snprintf(text, sizeof(text), "%s\n%s", arguments->words[1], arguments->words[2]);
    if (n < 0 || (size_t)n >= sizeof(text) || strchr(arguments->words[1], '\n') != NULL) {
        return complain(EXIT_STATUS_USAGE, "set: accepted a key and a value of at most %zu bytes",
                        sizeof(text) - 2);
    }
    return converse(arguments->socket_path, CONTROL_OP_SET, text, (size_t)n);
}

static enum exit_status run_get(const struct arguments *arguments)
{
    return converse(arguments->socket_path, CONTROL_OP_GET, arguments->words[1],
                    strlen(arguments->words[1]));
}

static enum exit_status run_list(const struct arguments *arguments)
{
    return converse(arguments->socket_path, CONTROL_OP_PROFILE_LIST, "", 0);
}

static enum exit_status run_show(const struct arguments *arguments)
{
    return converse(arguments->socket_path, CONTROL_OP_PROFILE_SHOW, arguments->words[2],
                    strlen(arguments->words[2]));
}

static enum exit_status run_load(const struct arguments *arguments)
{
    static char text[CONTROL_TEXT_BYTES_MAX];
    const char *path = arguments->words[2];
    size_t head = strlen(path) + 1;
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return complain(EXIT_STATUS_SYSTEM, "%s: %s", path, strerror(errno));
    }
    if (head > 1024 || strchr(path, '\n') != NULL) {
        (void)fclose(file); /* only read */
        return complain(EXIT_STATUS_USAGE, "profile load: accepted a path of at most 1023 bytes");
    }
    memcpy(text, path, head - 1);
    text[head - 1] = '\n';
    size_t bytes = fread(text + head, 1, sizeof(text) - head, file);
    bool whole = feof(file) && !ferror(file);
    (void)fclose(file); /* likewise */
    if (!whole) {
        return complain(EXIT_STATUS_USAGE, "%s: accepted a readable file of less than %zu bytes",
                        path, sizeof(text) - head);
    }
    return converse(arguments->socket_path, CONTROL_OP_PROFILE_LOAD, text, head + bytes);
}

/* A file is there whole or as it was, whenever the machine stops. */
static bool write_whole(const char *path, const char *text)
{
    char next[PATH_BYTES_MAX + sizeof(".new")], folder[PATH_BYTES_MAX];
    size_t length = strlen(text);
    (void)snprintf(next, sizeof(next), "%s.new", path); /* fits */
    (void)snprintf(folder, sizeof(folder), "%s", path); /* likewise */
    *strrchr(folder, '/') = '\0';
    int folder_fd = open(folder[0] != '\0' ? folder : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int fd = open(next, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
    bool good = folder_fd >= 0 && fd >= 0 && write(fd, text, length) == (ssize_t)length &&
                fsync(fd) == 0 && rename(next, path) == 0 && fsync(folder_fd) == 0;
    int error = errno;
    if (fd >= 0) {
        (void)close(fd); /* what was written is on the disk, or lost anyway */
    }
    if (folder_fd >= 0) {
        (void)close(folder_fd); /* only read */
    }
    errno = error;
    return good;
}

/* What the profile is now goes to the file that it is loaded from at the start. */
static enum exit_status run_save(const struct arguments *arguments)
{
    static const char of_file[] = ".profile.file";
    const char *name = arguments->words[2], *answer;
    char key[128], path[PATH_BYTES_MAX] = "";
    int n = snprintf(key, sizeof(key), "%s%s", name, of_file);
    if (n < 0 || (size_t)n >= sizeof(key)) {
        return complain(EXIT_STATUS_USAGE, "profile save: accepted the name of a profile");
    }
    enum exit_status status = ask(arguments->socket_path, CONTROL_OP_GET, key, (size_t)n, &answer);
    if (status != EXIT_STATUS_OK) {
        return status;
    }
    const char *at = strchr(answer, '/');
    size_t length = at != NULL ? strcspn(at, "\n") : 0;
    if (length == 0 || length >= sizeof(path)) {
        return complain(EXIT_STATUS_REFUSED, "%s: no answer that can be understood", key);
    }
    memcpy(path, at, length);
    status = ask(arguments->socket_path, CONTROL_OP_PROFILE_SHOW, name, strlen(name), &answer);
    if (status != EXIT_STATUS_OK) {
        return status;
    }
    if (!write_whole(path, answer)) {
        return complain(errno == EACCES || errno == EPERM ? EXIT_STATUS_PERMISSION
                                                          : EXIT_STATUS_SYSTEM,
                        "%s: %s", path, strerror(errno));
    }
    printf("saved to %s\n", path);
    return EXIT_STATUS_OK;
}

#define COMMANDS                                                                                   \
    "status, get KEY, set KEY VALUE, profile list, profile show NAME, profile load FILE or "       \
    "profile save NAME"

static const struct command {
    const char *word;
    const char *second; /* NULL: any */
    uint32_t words_count;
    enum exit_status (*run)(const struct arguments *arguments);
} commands[] = {
    {"status", NULL, 1, run_status},  {"get", NULL, 2, run_get},
    {"set", NULL, 3, run_set},        {"profile", "list", 2, run_list},
    {"profile", "show", 3, run_show}, {"profile", "load", 3, run_load},
    {"profile", "save", 3, run_save},
};

static enum exit_status run(const struct arguments *arguments)
{
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        const struct command *c = &commands[i];
        if (strcmp(arguments->words[0], c->word) == 0 && arguments->words_count == c->words_count &&
            (c->second == NULL || strcmp(arguments->words[1], c->second) == 0)) {
            return c->run(arguments);
        }
    }
    return complain(EXIT_STATUS_USAGE, "%s: accepted commands are " COMMANDS, arguments->words[0]);
}

static error_t parse_option(int key, char *value, struct argp_state *state)
{
    struct arguments *arguments = state->input;
    char *end = NULL;
    long number = 0;
    switch (key) {
    case 's':
        arguments->socket_path = value;
        return 0;
    case 'c':
        arguments->clients = true;
        return 0;
    case 'j':
        arguments->json = true;
        return 0;
    case 'w':
        errno = 0;
        number = strtol(value, &end, 10);
        if (errno != 0 || end == value || *end != '\0' || number < 1 ||
            number > WATCH_SECONDS_MAX) {
            argp_error(state, "--watch %s: accepted 1 to %d seconds", value, WATCH_SECONDS_MAX);
            return EINVAL;
        }
        arguments->watch_s = (uint32_t)number;
        return 0;
    case ARGP_KEY_ARG:
        if (arguments->words_count == WORDS_MAX) {
            argp_error(state, "%s: one word too many", value);
            return EINVAL;
        }
        arguments->words[arguments->words_count++] = value;
        return 0;
    case ARGP_KEY_NO_ARGS:
        argp_error(state, "a command is missing: " COMMANDS);
        return EINVAL;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int main(int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"socket", 's', "PATH", 0, "control socket (default " CONTROL_SOCKET_PATH ")", 0},
        {"clients", 'c', NULL, 0, "also one line for each connected client", 0},
        {"json", 'j', NULL, 0, "one JSON object a line", 0},
        {"watch", 'w', "SECONDS", 0, "look again every so many seconds, until interrupted", 0},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_option,
        .args_doc = "status\nget KEY\nset KEY VALUE\nprofile list\nprofile show NAME\n"
                    "profile load FILE\nprofile save NAME",
        .doc =
            "Shows the counters of a running dynasord; shows and changes the profiles of its "
            "reasoning programs.\v"
            "KEY is PROFILE.section.key as in a profile's file, section.key for every profile that "
            "programs use which name none, or default.ALGORITHM: the name of that profile. A change "
            "holds at each program's next decision, until the daemon ends; profile save writes the "
            "profile as it is now to the file that it is loaded from at the start, below [profiles] "
            "directory of dynasord.conf, where the defaults are named, too.\n\n"
            "Exit status: 0 success, 1 a system call failed, 2 wrong usage, 3 no daemon answers, "
            "4 permission denied, 5 refused or another version.",
    };
    struct arguments arguments = {.socket_path = CONTROL_SOCKET_PATH};
    argp_err_exit_status = EXIT_STATUS_USAGE;
    if (argp_parse(&argp, argc, argv, 0, NULL, &arguments) != 0) {
        return EXIT_STATUS_USAGE;
    }
    return (int)run(&arguments);
}
