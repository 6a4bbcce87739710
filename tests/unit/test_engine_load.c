/* tests/unit/test_engine_load.c: weights on their way from file to device (daemon/engine/reader.c, weights.c).
 * Pieces come out right whatever their order and size; each row of a matrix of many stages is handed over once, with
 * the bytes of the file; where a read fails, the file is cut or changed meanwhile, or io_uring is forbidden, the
 * engine is refused by file and tensor, and its devices are closed. SEED= repeats a run. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cmocka.h>

#include "daemon/base/uring.h"
#include "daemon/engine/engine_model.h"
#include "daemon/engine/reader.h"
#include "daemon/model/tensors.h"
#include "kernels/cpu/cpu.h"
#include "tests/lib/check.h"
#include "tests/lib/tiny.h"

#define FILE_BYTES (6u << 20)
#define VOCABULARY 40000u /* of float32 rows of 64: an embedding of 10 MB, three pieces */

/* ---- reader ----------------------------------------------------------------------------------- */

static int file_of(struct rng *rng, uint8_t **ret_bytes)
{
    char path[] = "/tmp/test-load-XXXXXX";
    int fd = mkstemp(path);
    *ret_bytes = malloc(FILE_BYTES);
    CHECK(fd >= 0 && *ret_bytes && unlink(path) == 0, "no file");
    rng_fill(rng, *ret_bytes, FILE_BYTES);
    CHECK(write(fd, *ret_bytes, FILE_BYTES) == FILE_BYTES, "write");
    return fd;
}

static void pieces_of_any_size_come_in_any_order(void **state)
{
    struct rng rng = {.state = check_number("SEED", now_ns())};
    struct reader *r;
    uint8_t *bytes, *stages = malloc(READER_STAGES * FILE_BYTES);
    (void)state;
    printf("SEED=%" PRIu64 "\n", rng.state);
    int fd = file_of(&rng, &bytes);
    CHECK(stages && reader_new(&r) == 0, "no reader");
    for (uint32_t round = 0; round < 20; round++) {
        uint32_t first[READER_STAGES], count[READER_STAGES];
        for (uint32_t i = 0; i < READER_STAGES; i++) {
            count[i] = 1 + (uint32_t)rng_below(&rng, i ? 100000 : FILE_BYTES);
            first[i] = (uint32_t)rng_below(&rng, FILE_BYTES - count[i] + 1);
            reader_ask(r, i, fd, first[i], stages + i * FILE_BYTES, count[i]);
        }
        for (uint32_t k = 0, i = round; k < READER_STAGES; k++, i += 3) {
            uint32_t at = i % READER_STAGES;
            assert_int_equal(reader_wait(r, at), 0);
            CHECK(memcmp(stages + at * FILE_BYTES, bytes + first[at], count[at]) == 0,
                  "%u bytes from %u on", count[at], first[at]);
        }
    }
    reader_free(r);
    (void)close(fd);
    free(stages);
    free(bytes);
}

/* What is not waited for is not lost: freeing waits. */
static void failures_are_told_once_each(void **state)
{
    struct rng rng = {.state = 1};
    struct reader *r;
    uint8_t *bytes, to[4096];
    (void)state;
    int fd = file_of(&rng, &bytes), memory = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    CHECK(reader_new(&r) == 0 && memory >= 0, "no reader");
    reader_ask(r, 0, fd, FILE_BYTES - 10, to, 11);
    reader_ask(r, 1, fd, FILE_BYTES - 10, to + 100, 10);
    reader_ask(r, 2, memory, 0, to + 200, 10); /* nothing is mapped there */
    reader_ask(r, 3, -1, 0, to + 300, 10);
    assert_int_equal(reader_wait(r, 3), -EBADF);
    assert_int_equal(reader_wait(r, 0), -ENODATA);
    assert_int_equal(reader_wait(r, 1), 0);
    assert_int_equal(reader_wait(r, 2), -EIO);
    assert_int_equal(reader_wait(r, 7), 0);
    reader_ask(r, 3, fd, 0, to, sizeof to); /* a stage is as good as before */
    assert_int_equal(reader_wait(r, 3), 0);
    assert_memory_equal(to, bytes, sizeof to);
    reader_ask(r, 3, fd, 0, to, sizeof to);
    reader_free(r);
    (void)close(fd);
    (void)close(memory);
    free(bytes);
}

/* ---- weights ---------------------------------------------------------------------------------- */

/* A backend that sees what is loaded. */
static const struct ops *inner;
static int weights_fd; /* of model.safetensors, for what is done to it */
static void (*at_first_load)(void);
static uint32_t loads_count, open_count;
static uint32_t next_row[2]; /* of the embedding, and of the matrix of outputs */
static const uint8_t *file_bytes;
static uint64_t embedding_offset, head_offset;

static int seen_open(const struct ops_config *config, struct ops_device **ret_device)
{
    int result = inner->open(config, ret_device);
    open_count += result == 0;
    return result;
}

static void seen_close(struct ops_device *device)
{
    open_count--;
    inner->close(device);
}

static int seen_load(struct ops_device *device, const struct ops_load *l)
{
    if (loads_count++ == 0 && at_first_load)
        at_first_load();
    if (l->matrix.n == VOCABULARY && file_bytes) {
        uint32_t which = next_row[0] == VOCABULARY; /* the embedding comes first */
        uint64_t at = which ? head_offset : embedding_offset;
        CHECK(l->row_first == next_row[which], "row %u, wanted %u", l->row_first, next_row[which]);
        CHECK(l->row_first % 32 == 0, "no whole tiles");
        CHECK(memcmp(l->host_source, file_bytes + at + (uint64_t)l->row_first * TINY_HIDDEN * 4,
                     (uint64_t)l->rows_count * TINY_HIDDEN * 4) == 0,
              "rows %u + %u are not those of the file", l->row_first, l->rows_count);
        next_row[which] += l->rows_count;
    }
    return inner->load(device, l);
}

static int open_engine(const char *folder, char message[ENGINE_MESSAGE_BYTES],
                       struct engine **ret_engine)
{
    static struct ops seen;
    struct engine_config config = {.ranks_count = 1,
                                   .threads_count = 1,
                                   .rows_max = 2,
                                   .tokens_max = 32,
                                   .kv_bytes = 1u << 20,
                                   .dot_layer = -1};
    inner = cpu_ops(CPU_SCALAR);
    seen = *inner;
    seen.open = seen_open;
    seen.close = seen_close;
    seen.load = seen_load;
    loads_count = open_count = next_row[0] = next_row[1] = 0;
    config.directory[ENGINE_POLICY] = folder;
    return engine_model_open_on(&config, &seen, message, ret_engine);
}

static int weights_open(const char *folder)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/model.safetensors", folder);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0, "%s", path);
    return fd;
}

static uint8_t *bytes_of(int fd, uint64_t *ret_count)
{
    struct stat s;
    CHECK(fstat(fd, &s) == 0, "stat");
    uint8_t *bytes = malloc((size_t)s.st_size);
    CHECK(bytes && pread(fd, bytes, (size_t)s.st_size, 0) == s.st_size, "read");
    *ret_count = (uint64_t)s.st_size;
    return bytes;
}

static void each_row_is_handed_over_once(void **state)
{
    char message[ENGINE_MESSAGE_BYTES] = "", *folder;
    struct tensors *tensors;
    struct engine *engine;
    uint64_t count;
    (void)state;
    folder = tiny_write_vocabulary(TINY_LLAMA, 1, VOCABULARY);
    CHECK(tensors_open(folder, message, &tensors) == 0, "%s", message);
    embedding_offset = tensors_find(tensors, "model.embed_tokens.weight")->offset;
    head_offset = tensors_find(tensors, "lm_head.weight")->offset;
    tensors_close(tensors);
    int fd = weights_open(folder);
    uint8_t *bytes = bytes_of(fd, &count);
    file_bytes = bytes;
    CHECK(open_engine(folder, message, &engine) == 0, "%s", message);
    CHECK(next_row[0] == VOCABULARY && next_row[1] == VOCABULARY, "rows %u, %u", next_row[0],
          next_row[1]);
    CHECK(loads_count >= 6 + 2 * 7, "%u pieces", loads_count);
    engine_close(engine);
    file_bytes = NULL;
    (void)close(fd);
    free(bytes);
    tiny_remove(folder);
}

static void file_cut(void)
{
    CHECK(ftruncate(weights_fd, 1 << 20) == 0, "truncate");
}

static void file_touched(void)
{
    const struct timespec times[2] = {{.tv_sec = 1}, {.tv_sec = 1}};
    CHECK(futimens(weights_fd, times) == 0, "futimens");
}

static void refused(void (*meanwhile)(void), const char *const words[3])
{
    char message[ENGINE_MESSAGE_BYTES] = "", *folder;
    struct engine *engine = NULL;
    folder = tiny_write_vocabulary(TINY_LLAMA, 1, VOCABULARY);
    weights_fd = weights_open(folder);
    at_first_load = meanwhile;
    CHECK(open_engine(folder, message, &engine) < 0 && !engine, "it opens");
    at_first_load = NULL;
    printf("%s\n", message);
    for (uint32_t i = 0; i < 3; i++)
        CHECK(strstr(message, words[i]), "\"%s\" does not say \"%s\"", message, words[i]);
    CHECK(strstr(message, folder), "\"%s\" does not name the folder", message);
    CHECK(loads_count > 0 && open_count == 0, "%u loads, %u devices left open", loads_count,
          open_count);
    (void)close(weights_fd);
    tiny_remove(folder);
}

static void a_file_that_is_cut_meanwhile_is_refused(void **state)
{
    (void)state;
    refused(file_cut, (const char *const[3]){
                          ": model.safetensors: ", ".weight: loading it: ", "the file ends in it"});
}

static void a_file_that_is_changed_meanwhile_is_refused(void **state)
{
    (void)state;
    refused(file_touched,
            (const char *const[3]){"model.safetensors", "changed", "while it was read"});
}

/* As in a container whose filter knows no io_uring. */
static int without_uring(void *folder)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {.len = COUNT_OF(code), .filter = code};
    char message[ENGINE_MESSAGE_BYTES] = "";
    struct engine *engine;
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
              prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0,
          "no filter");
    int result = open_engine(folder, message, &engine);
    printf("%s\n", message);
    CHECK(result == -EPERM, "%d", result);
    CHECK(strstr(message, URING_REQUIRED ": Operation not permitted"), "%s", message);
    CHECK(open_count == 0, "a device is left open");
    return 0;
}

static void without_io_uring_it_says_so(void **state)
{
    char *folder = tiny_write(TINY_LLAMA, 1);
    (void)state;
    (void)fflush(stdout); /* else the child prints it again */
    assert_int_equal(child_wait(child_start(without_uring, folder)), 0);
    tiny_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_of_any_size_come_in_any_order),
        cmocka_unit_test(failures_are_told_once_each),
        cmocka_unit_test(each_row_is_handed_over_once),
        cmocka_unit_test(a_file_that_is_cut_meanwhile_is_refused),
        cmocka_unit_test(a_file_that_is_changed_meanwhile_is_refused),
        cmocka_unit_test(without_io_uring_it_says_so),
    };
    struct reader *r = NULL;
    int result = reader_new(&r);
    reader_free(r);
    if (result == -ENOSYS || result == -EPERM)
        check_skip("io_uring_setup: %s", strerror(-result));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
