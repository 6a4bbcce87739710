/* tests/ipc/test_regress.c: defects found by review stay mended. Each case plays a client without the
 * library against a live daemon.
 *
 * A consumed position a lap behind, after a restart, ends that session and not the daemon; large
 * prompts that are refused do not hold the daemon up for others; a program whose event ring is full
 * can still be cancelled. */
/* timeout: 60 */
#include <stdio.h>
#include <string.h>

#include "tests/lib/fakepid1.h"
#include "tests/lib/raw.h"

static const struct daemon_options options = {
    .daemon = "clients_max = 64\nlog_level = error\nslow_consumer_grace_ms = 500\n",
    .engine = "sim_step_ns = 0\nsim_prefill_ns_per_token = 0\n",
};

static void submit_long(struct raw_session *r, uint32_t index)
{
    union wire_record record;
    raw_submit_record(&record, index, index + 1, 1, 1000000);
    CHECK(raw_push(r, 0, &record), "the ring is full");
    raw_ring(r);
}

static void restart(struct fakepid1 *p, struct test_daemon *d)
{
    fakepid1_spawn(p, d);
    fakepid1_run(p, d, 20 * NS_PER_S, true);
    daemon_wait_ready(d);
}

static void regress_reattach_with_an_impossible_consumed_position(void)
{
    static struct test_daemon d;
    static struct fakepid1 p;
    struct raw_session r;
    union wire_event event;
    daemon_open(&d, &options);
    fakepid1_open(&p, &d);
    restart(&p, &d);
    CHECK(raw_open(&r, d.socket_path, 1, 4096) == 0, "handshake");
    fakepid1_run(&p, &d, 300 * NS_PER_MS, false);
    CHECK(p.stored_count == 4, "%u descriptors are stored", p.stored_count);
    submit_long(&r, 0);
    for (int i = 0; i < 600; i++)
        CHECK(raw_event(&r, 0, &event, 2 * NS_PER_S), "event %d did not come", i);
    raw_ring(&r);
    fakepid1_run(&p, &d, 100 * NS_PER_MS, false);
    fakepid1_kill(&p, &d);
    const struct region_d2c_lane *lane =
        region_d2c_lane((void *)(uintptr_t)r.d2c, &r.reply.geometry, 0);
    uint64_t next = shm_load_u64(&lane->next);
    CHECK(next > REGION_EVENT_SLOTS, "only %llu events", (unsigned long long)next);
    shm_store_u64(&region_c2d_lane(r.c2d, 0)->consumed, next - REGION_EVENT_SLOTS);
    restart(&p, &d);
    fakepid1_run(&p, &d, NS_PER_S, false); /* beyond the grace of a slow consumer */
    CHECK(daemon_alive(&d), "the daemon ended");
    CHECK(raw_hung_up(&r), "the session goes on");
    daemon_stop(&d);
    daemon_log_check(&d);
    fakepid1_close(&p);
    daemon_close(&d);
    raw_close(&r);
}

/* 4 lanes of prompts of 8 MiB that turn out to be no UTF-8 at their last byte. */
static void flood_large(struct raw_session *r)
{
    const uint32_t bytes = 8u << 20;
    uint8_t *arena = r->c2d + r->reply.geometry.c2d_arena_off;
    struct wire_spec spec = {.spec_bytes = sizeof spec};
    memset(arena, 'x', bytes);
    memcpy(arena, &spec, sizeof spec);
    arena[bytes - 1] = 0xff;
    for (uint32_t i = 0; i < 32 * 4; i++) {
        union wire_record record;
        raw_submit_record(&record, 0, i + 1, 1, 10);
        memset(&record.submit.u, 0, sizeof record.submit.u);
        record.submit.flags |= WIRE_SUBMIT_PAYLOAD;
        record.submit.bytes = bytes;
        CHECK(raw_push(r, i % 4, &record), "the ring is full");
    }
    raw_ring(r);
}

static void regress_large_refused_prompts_are_paced(void)
{
    static struct test_daemon d;
    struct raw_session r;
    daemon_open(&d, &options);
    daemon_start(&d);
    CHECK(raw_open(&r, d.socket_path, 4, 16u << 20) == 0, "handshake");
    flood_large(&r);
    sleep_ns(500 * NS_PER_MS);
    uint64_t reads = daemon_counter(&d, COUNTER_payload_reads);
    /* 8 MiB are paid for in 33 ms: 15 of them in this time, and some slack for a slow machine. */
    CHECK(reads >= 1 && reads <= 40, "%llu prompts were read in 500 ms", (unsigned long long)reads);
    printf("%llu prompts of 8 MiB read in 500 ms, longest turn %.1f ms\n",
           (unsigned long long)reads, (double)daemon_counter(&d, COUNTER_loop_max_ns) / 1e6);
    raw_close(&r);
    daemon_stop(&d);
    daemon_log_check(&d);
    daemon_close(&d);
}

static void regress_cancel_needs_no_room_in_the_event_ring(void)
{
    static struct test_daemon d;
    struct raw_session r;
    union wire_record record;
    daemon_open(&d, &(struct daemon_options){.daemon = "clients_max = 64\nlog_level = error\n",
                                             .engine = options.engine});
    daemon_start(&d);
    CHECK(raw_open(&r, d.socket_path, 1, 4096) == 0, "handshake");
    submit_long(&r, 0);
    uint64_t deadline_ns = now_ns() + 5 * NS_PER_S;
    while (daemon_counter(&d, COUNTER_programs_paused) == 0)
        CHECK(now_ns() < deadline_ns, "the program never paused");
    raw_op_record(&record, WIRE_OP_CANCEL, 0, 1);
    CHECK(raw_push(&r, 0, &record), "the ring is full");
    raw_ring(&r);
    const struct region_program *entry =
        region_program((void *)(uintptr_t)r.d2c, &r.reply.geometry, 0);
    while (shm_load_u32(&entry->state) != DYNASOR_STATE_CANCELLED)
        CHECK(now_ns() < deadline_ns, "the program was not cancelled");
    raw_close(&r);
    daemon_stop(&d);
    daemon_log_check(&d);
    daemon_close(&d);
}

int main(void)
{
    regress_reattach_with_an_impossible_consumed_position();
    regress_large_refused_prompts_are_paced();
    regress_cancel_needs_no_room_in_the_event_ring();
    return 0;
}
