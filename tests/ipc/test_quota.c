/* tests/ipc/test_quota.c: what a uid may make the daemon hold is counted exactly and given back.
 *
 * For each of the four quotas two uids fill theirs to the last unit: the next request is refused with
 * QUOTA, the field, the range and what was asked for; the other uid is not touched by it; what is
 * given back can be had again; the counters page shows the sums, and zero when everybody left. */
/* timeout: 60 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/daemon.h"
#include "tests/lib/raw.h"
#include "tests/lib/stream.h"

enum { CONNECTIONS = 3, PROGRAMS = 5, QUEUED_BYTES = 100, OTHER_UID = 65533 };

struct side {
    const struct test_daemon *daemon;
    uid_t uid;
};

static void check_fault(const struct wire_fault *fault, enum dynasor_field field, uint64_t max,
                        uint64_t got)
{
    CHECK(fault->status == DYNASOR_E_QUOTA && fault->field == field && fault->hi == max &&
              fault->got == got,
          "status %s, field %s, %" PRIu64 " .. %" PRIu64 ", got %" PRIu64
          "; expected QUOTA, %s, .. %" PRIu64 ", got %" PRIu64,
          dynasor_status_name(fault->status), dynasor_field_name(fault->field), fault->lo,
          fault->hi, fault->got, dynasor_field_name((int)field), max, got);
}

static void open_or_fail(struct raw_session *s, uint32_t lanes, uint64_t arena_bytes)
{
    int r = raw_open(s, DAEMON_SOCKET_NAME, lanes, arena_bytes);

    CHECK(r == 0, "a session within the quota: %d (%s)", r,
          r < 0 ? strerror(-r) : dynasor_status_name(r));
}

static void open_refused(uint32_t lanes, uint64_t arena_bytes, enum dynasor_field field,
                         uint64_t max, uint64_t got)
{
    struct raw_session s;
    int r = raw_open(&s, DAEMON_SOCKET_NAME, lanes, arena_bytes);

    CHECK(r > 0, "a session beyond the quota: %d", r);
    check_fault(&s.reply.fault, field, max, got);
}

/* A session that was closed is given back when the daemon has seen it. */
static void open_again(struct raw_session *s, uint32_t lanes, uint64_t arena_bytes)
{
    uint64_t deadline = now_ns() + NS_PER_S;
    int r;

    while ((r = raw_open(s, DAEMON_SOCKET_NAME, lanes, arena_bytes)) != 0) {
        CHECK(r == DYNASOR_E_QUOTA && now_ns() < deadline, "given back, and not to be had: %d", r);
        sleep_ns(NS_PER_MS);
    }
}

static void fill_connections(void)
{
    struct raw_session s[CONNECTIONS];

    for (int i = 0; i < CONNECTIONS; i++)
        open_or_fail(&s[i], 1, 4096);
    for (int i = 0; i < 3; i++)
        open_refused(1, 4096, DYNASOR_FIELD_CONNECTIONS_OF_UID, CONNECTIONS, CONNECTIONS + 1);
    raw_close(&s[1]);
    open_again(&s[1], 1, 4096);
    open_refused(1, 4096, DYNASOR_FIELD_CONNECTIONS_OF_UID, CONNECTIONS, CONNECTIONS + 1);
    for (int i = 0; i < CONNECTIONS; i++)
        raw_close(&s[i]);
}

/* One small session, one that fills the rest to the byte, none more. */
static void fill_regions(uint64_t quota_bytes)
{
    struct raw_session small, big, third;
    struct wire_geometry one, large;

    region_geometry_init(&one, 1, 4096);
    region_geometry_init(&large, 2, 1 << 20);
    uint64_t one_bytes = one.c2d_bytes + one.d2c_bytes;
    CHECK(quota_bytes == 2 * one_bytes + large.c2d_bytes + large.d2c_bytes, "this test's sizes");
    open_or_fail(&small, 1, 4096);
    open_or_fail(&big, 2, 1 << 20);
    open_refused(1, 8192, DYNASOR_FIELD_REGION_BYTES_OF_UID, quota_bytes, quota_bytes + 4096);
    open_or_fail(&third, 1, 4096);
    raw_close(&third);
    raw_close(&big);
    raw_close(&small);
}

static void expect_refused(struct raw_session *s, uint64_t program_id, enum dynasor_field field,
                           uint64_t max, uint64_t got)
{
    union wire_event event;

    do
        CHECK(raw_event(s, 0, &event, 2 * NS_PER_S), "no answer to a submission");
    while (event.kind != WIRE_EVENT_REFUSED);
    struct wire_fault fault = {.status = event.end.status,
                               .field = event.end.field,
                               .lo = event.end.lo,
                               .hi = event.end.hi,
                               .got = event.end.got};
    CHECK(event.end.program_id == program_id, "another program was refused");
    check_fault(&fault, field, max, got);
}

static void submit(struct raw_session *s, uint32_t index, uint64_t id, uint32_t prompt_bytes)
{
    union wire_record record;

    raw_submit_record(&record, index, id, id, 1000000);
    memset(record.submit.u.prompt, 0, sizeof record.submit.u.prompt);
    memset(record.submit.u.prompt, 'p', prompt_bytes);
    record.submit.bytes = prompt_bytes;
    CHECK(raw_push(s, 0, &record), "no room in the ring");
    raw_ring(s);
}

static void wait_state(struct raw_session *s, uint32_t index, uint32_t lowest)
{
    const struct region_program *entry =
        region_program((void *)(uintptr_t)s->d2c, &s->reply.geometry, index);
    uint64_t deadline = now_ns() + 2 * NS_PER_S;

    while (shm_load_acquire_u32(&entry->state) < lowest) {
        CHECK(now_ns() < deadline, "program %u is in state %u", index, entry->state);
        sleep_ns(NS_PER_MS);
    }
}

static void end_program(struct raw_session *s, uint32_t index, uint64_t id)
{
    union wire_record record;

    raw_op_record(&record, WIRE_OP_CANCEL, index, id);
    CHECK(raw_push(s, 0, &record), "no room in the ring");
    raw_ring(s);
    wait_state(s, index, DYNASOR_STATE_DONE);
}

static void fill_programs(void)
{
    struct raw_session s;

    open_or_fail(&s, 1, 4096);
    for (uint32_t i = 0; i < PROGRAMS; i++) {
        submit(&s, i, i + 1, 2);
        wait_state(&s, i, DYNASOR_STATE_QUEUED);
    }
    submit(&s, 100, 100, 2);
    expect_refused(&s, 100, DYNASOR_FIELD_PROGRAMS_OF_UID, PROGRAMS, PROGRAMS + 1);
    end_program(&s, 0, 1);
    submit(&s, 101, 101, 2);
    wait_state(&s, 101, DYNASOR_STATE_QUEUED);
    submit(&s, 102, 102, 2);
    expect_refused(&s, 102, DYNASOR_FIELD_PROGRAMS_OF_UID, PROGRAMS, PROGRAMS + 1);
    raw_close(&s);
}

static void fill_queued(void)
{
    struct raw_session s;

    open_or_fail(&s, 1, 4096);
    for (uint32_t i = 0; i < 4; i++) {
        submit(&s, i, i + 1, 24);
        wait_state(&s, i, DYNASOR_STATE_QUEUED);
    }
    submit(&s, 10, 10, 5);
    expect_refused(&s, 10, DYNASOR_FIELD_QUEUED_BYTES_OF_UID, QUEUED_BYTES, 4 * 24 + 5);
    submit(&s, 11, 11, 4); /* to the last byte */
    wait_state(&s, 11, DYNASOR_STATE_QUEUED);
    end_program(&s, 11, 11);
    submit(&s, 12, 12, 1);
    wait_state(&s, 12, DYNASOR_STATE_QUEUED);
    raw_close(&s);
}

static uint64_t region_quota(void)
{
    struct wire_geometry one, large;

    region_geometry_init(&one, 1, 4096);
    region_geometry_init(&large, 2, 1 << 20);
    return 2 * (one.c2d_bytes + one.d2c_bytes) + large.c2d_bytes + large.d2c_bytes;
}

/* Until the daemon has seen that our sessions are closed. */
static void wait_gone(const struct side *side)
{
    uint64_t deadline = now_ns() + NS_PER_S;
    uint32_t rows_count;
    const struct counters_row *rows = daemon_rows(side->daemon, &rows_count);

    for (uint32_t i = 0; i < rows_count; i++) {
        while (shm_load_u32(&rows[i].state) == 1 && shm_load_u32(&rows[i].uid) == side->uid) {
            CHECK(now_ns() < deadline, "a closed session is still there after a second");
            sleep_ns(NS_PER_MS);
        }
    }
}

static int side_run(void *argument)
{
    const struct side *side = argument;

    become_uid(side->uid, side->daemon->folder);
    for (int round = 0; round < 5; round++) {
        fill_connections();
        wait_gone(side);
        fill_regions(region_quota());
        wait_gone(side);
        fill_programs();
        wait_gone(side);
        fill_queued();
        wait_gone(side);
    }
    return 0;
}

/* Sums on the counters page while known things are held. */
static void check_sums(const struct test_daemon *d)
{
    struct raw_session s;
    struct wire_geometry g;
    uint32_t rows_count;
    const struct counters_row *rows = daemon_rows(d, &rows_count), *row = NULL;

    region_geometry_init(&g, 3, 8192);
    CHECK(raw_open(&s, d->socket_path, 3, 8192) == 0, "no session");
    submit(&s, 7, 1, 24);
    submit(&s, 8, 2, 11);
    wait_state(&s, 8, DYNASOR_STATE_QUEUED);
    sleep_ns(200 * NS_PER_MS); /* rows may be brought up to date now and then */
    for (uint32_t i = 0; i < rows_count; i++)
        if (shm_load_u32(&rows[i].state) == 1)
            row = &rows[i];
    CHECK(row != NULL && row->slot == s.reply.slot, "the session has no row");
    CHECK(row->uid == geteuid() && row->region_bytes == g.c2d_bytes + g.d2c_bytes,
          "uid %u, %" PRIu64 " region bytes", row->uid, row->region_bytes);
    CHECK(row->queued_bytes == 35 && row->programs_active == 2 && row->programs_accepted == 2,
          "%" PRIu64 " queued bytes, %" PRIu64 " programs", row->queued_bytes,
          row->programs_active);
    CHECK(daemon_counter(d, COUNTER_quota_region_bytes) == g.c2d_bytes + g.d2c_bytes &&
              daemon_counter(d, COUNTER_quota_queued_bytes) == 35 &&
              daemon_counter(d, COUNTER_programs_active) == 2 &&
              daemon_counter(d, COUNTER_clients) == 1,
          "the sums differ from the one session's");
    raw_close(&s);
}

int main(void)
{
    struct test_daemon d;
    struct daemon_baseline baseline;
    char quota[256];
    struct side mine = {&d, geteuid()}, other = {&d, OTHER_UID};

    (void)snprintf(quota, sizeof quota,
                   "connections = %d\nregion_bytes = %" PRIu64
                   "\nprograms = %d\nqueued_bytes = %d\n",
                   CONNECTIONS, region_quota(), PROGRAMS, QUEUED_BYTES);
    struct daemon_options options = {
        .daemon = "clients_max = 32\nsocket_mode = 0666\nlog_level = error\n",
        .quota = quota,
        .engine = "sim_step_ns = 1000000\n",
    };
    daemon_open(&d, &options);
    daemon_start(&d);
    daemon_baseline_take(&d, &baseline);
    check_sums(&d);
    daemon_baseline_check(&d, &baseline, NS_PER_S);
    /* At the same time: what one fills may not be missing for the other. */
    bool root = geteuid() == 0; /* or there is only one uid to be had */
    pid_t one = child_start(side_run, &mine), two = root ? child_start(side_run, &other) : 0;
    CHECK(child_wait(one) == 0, "our uid was not served as its quota says");
    CHECK(!root || child_wait(two) == 0, "uid %d was not served as its quota says", OTHER_UID);
    daemon_baseline_check(&d, &baseline, NS_PER_S);
    daemon_stop(&d);
    daemon_log_check(&d);
    daemon_close(&d);
    return 0;
}
