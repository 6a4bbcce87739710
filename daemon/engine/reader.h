/* daemon/engine/reader.h — pieces of files into stages, several at a time, by io_uring.
 *
 * A stage is memory of the caller with room for one piece; while some are being filled he works on another.
 * A read that comes back short goes on where it stopped.
 *
 * Thread: the one that called reader_new(). Memory: the ring; a stage is the kernel's from reader_ask() until
 * reader_wait() has returned. Fails: reader_new() with -errno where io_uring is forbidden; reader_wait() with
 * -errno of the read, -ENODATA where the file ends before the piece does. */
#pragma once
#include <stdint.h>

struct reader;

#define READER_STAGES 8u

int reader_new(struct reader **ret_reader);
void reader_free(struct reader *reader); /* waits for what was asked for; NULL is nothing */

/* stage: below READER_STAGES, and nothing asked for it that was not waited for. */
void reader_ask(struct reader *reader, uint32_t stage, int fd, uint64_t offset, void *to,
                uint32_t bytes);
/* Until the piece is there. A stage that nothing was asked for: 0. */
int reader_wait(struct reader *reader, uint32_t stage);
