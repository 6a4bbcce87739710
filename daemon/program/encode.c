#include "daemon/program/encode.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "daemon/program/program.h"
#include "daemon/text/codec.h"

enum job_state {
    JOB_NONE = 0,
    JOB_POSTED,  /* the worker has not begun: the text is still the program's */
    JOB_RUNNING, /* the worker has a copy of it */
    JOB_DONE,
};

struct encode {
    const struct codec *codec;
    struct codec_scratch *scratch; /* the worker's while a job is posted or running */
    uint32_t *ids;                 /* likewise */
    uint8_t *copy;                 /* the worker's */
    uint32_t ids_max;
    int done_fd;
    pthread_mutex_t mutex; /* of what follows */
    pthread_cond_t posted;
    const uint8_t *text;
    uint32_t text_bytes;
    bool chat;
    bool stop;
    bool forgotten; /* nobody wants what is running */
    enum job_state state;
    int result; /* enum codec_result of a job that is done */
    uint32_t count;
};

int encode_new(const struct codec *codec, uint64_t text_bytes_max, uint32_t ids_max,
               struct encode **ret_encode)
{
    struct encode *e = calloc(1, sizeof *e);
    if (!e)
        return -ENOMEM;
    e->codec = codec;
    e->ids_max = ids_max;
    e->done_fd = -1;
    (void)pthread_mutex_init(&e->mutex, NULL); /* cannot fail with default attributes */
    (void)pthread_cond_init(&e->posted, NULL);
    e->ids = calloc(ids_max, sizeof *e->ids);
    e->copy = calloc(text_bytes_max, 1);
    int r = e->ids && e->copy ? codec_scratch_new(codec, text_bytes_max, &e->scratch) : -ENOMEM;
    if (r == 0 && (e->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
        r = -errno;
    if (r < 0) {
        encode_free(e);
        return r;
    }
    *ret_encode = e;
    return 0;
}

void encode_free(struct encode *e)
{
    if (!e)
        return;
    codec_scratch_free(e->scratch);
    if (e->done_fd >= 0)
        (void)close(e->done_fd); /* an eventfd holds no data */
    free(e->ids);
    free(e->copy);
    (void)pthread_cond_destroy(&e->posted);
    (void)pthread_mutex_destroy(&e->mutex);
    free(e);
}

static void job_run(struct encode *e)
{
    e->state = JOB_RUNNING;
    uint32_t bytes = e->text_bytes;
    bool chat = e->chat;
    memcpy(e->copy, e->text, bytes); /* with the mutex: encode_forget() waits for it */
    pthread_mutex_unlock(&e->mutex);
    uint32_t count = 0;
    int result =
        codec_encode(e->codec, e->scratch, e->copy, bytes, chat, e->ids, e->ids_max, &count);
    pthread_mutex_lock(&e->mutex);
    e->result = result;
    e->count = count;
    e->state = e->forgotten ? JOB_NONE : JOB_DONE;
    e->forgotten = false;
    const uint64_t one = 1;
    ssize_t written = write(e->done_fd, &one, sizeof one);
    (void)written; /* a counter that is full is readable as well */
}

void encode_run(struct encode *e)
{
    pthread_mutex_lock(&e->mutex);
    while (!e->stop) {
        if (e->state == JOB_POSTED)
            job_run(e);
        else
            pthread_cond_wait(&e->posted, &e->mutex);
    }
    pthread_mutex_unlock(&e->mutex);
}

void encode_stop(struct encode *e)
{
    pthread_mutex_lock(&e->mutex);
    e->stop = true;
    pthread_cond_signal(&e->posted);
    pthread_mutex_unlock(&e->mutex);
}

int encode_fd(const struct encode *e)
{
    return e->done_fd;
}

static void job_begin(struct encode *e, const uint8_t *text, uint32_t text_bytes, bool chat)
{
    if (text_bytes <= PROGRAM_INLINE_TEXT_BYTES) {
        e->result = codec_encode(e->codec, e->scratch, text, text_bytes, chat, e->ids, e->ids_max,
                                 &e->count);
        e->state = JOB_DONE;
        return;
    }
    e->text = text;
    e->text_bytes = text_bytes;
    e->chat = chat;
    e->state = JOB_POSTED;
    pthread_cond_signal(&e->posted);
}

enum encode_result encode_prompt(struct encode *e, const uint8_t *text, uint32_t text_bytes,
                                 bool chat, const uint32_t **ret_ids, uint32_t *ret_count)
{
    static const enum encode_result results[] = {
        [CODEC_OK] = ENCODE_DONE, [CODEC_E_MANY] = ENCODE_E_MANY, [CODEC_E_CHAT] = ENCODE_E_CHAT};
    uint64_t rings;
    ssize_t got = read(e->done_fd, &rings, sizeof rings);
    (void)got; /* nothing there: as good */
    pthread_mutex_lock(&e->mutex);
    if (e->state == JOB_NONE)
        job_begin(e, text, text_bytes, chat);
    bool done = e->state == JOB_DONE;
    enum encode_result result = done ? results[e->result] : ENCODE_BUSY;
    *ret_ids = e->ids;
    *ret_count = e->count;
    pthread_mutex_unlock(&e->mutex);
    return result;
}

void encode_forget(struct encode *e)
{
    pthread_mutex_lock(&e->mutex);
    if (e->state == JOB_RUNNING)
        e->forgotten = true; /* until it is done nothing else begins */
    else
        e->state = JOB_NONE;
    pthread_mutex_unlock(&e->mutex);
}

bool encode_busy(const struct encode *e)
{
    struct encode *own = (struct encode *)(uintptr_t)e; /* for its mutex */
    pthread_mutex_lock(&own->mutex);
    bool busy = e->state == JOB_POSTED || e->state == JOB_RUNNING;
    pthread_mutex_unlock(&own->mutex);
    return busy;
}
