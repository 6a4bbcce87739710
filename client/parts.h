/* client/parts.h — the functions of the library's files. All return 0 or the negative of an enum
 * dynasor_status unless they say otherwise. */
#pragma once
#include "client/internal.h"

/* error.c: each notes why and returns -status. */
int reason_fault(struct reason *reason, const struct wire_fault *fault);
int reason_field(struct reason *reason, enum dynasor_field field, const uint64_t lo_hi_got[3]);
int reason_named(struct reason *reason, const char *name, const uint64_t lo_hi_got[3]);
int reason_call(struct reason *reason, const char *call, int error_number);
int reason_say(struct reason *reason, enum dynasor_status status, const char *sentence);
const char *reason_text(struct reason *reason);

/* table.c: indices of the program table. */
void table_init(struct dynasor_client *c);
uint32_t table_take(struct dynasor_client *c, const struct channel *ch); /* or PROGRAM_NONE */
/* sent: a RELEASE for it is the last record of ch; otherwise the daemon does not know it. */
void table_give(struct dynasor_client *c, const struct channel *ch, struct program *p, bool sent);
/* Back to where table_take() found it, as if nothing had been. */
void table_undo(struct dynasor_client *c, struct program *p);
struct program *table_find(struct dynasor_client *c, uint64_t tag, uint64_t program); /* or NULL */
static inline uint64_t table_tag(const struct channel *ch, const struct dynasor_lane *handle)
{
    return (handle ? handle->number : 0) << 8 | (ch->number + 1);
}
static inline bool table_mine(const struct program *p, const struct channel *ch)
{
    return (shm_load_u64(&p->tag) & 0xff) == ch->number + 1; /* only we set it to our number */
}

/* attach.c: one connection. */
int attach_check_path(struct reason *reason, const char *path);
void attach_init(struct attach *attach, uint64_t random);
void attach_reset(struct attach *attach);
/* Goes on connecting until deadline_ns: 0 with *ret_mapping (no references yet), -TIMEOUT: not yet,
 * call again; otherwise a refusal or a failure. */
int attach_step(struct dynasor_client *c, uint64_t deadline_ns, struct reason *reason,
                struct mapping **ret_mapping);
uint64_t attach_jitter(struct attach *attach, uint64_t max_ns); /* max_ns / 2 .. max_ns */

/* session.c: the newest mapping and the socket. */
void session_install(struct dynasor_client *c, struct mapping *mapping);
struct mapping *session_ref(struct dynasor_client *c); /* the newest */
void session_unref(struct dynasor_client *c, struct mapping *mapping);
void mapping_free(struct mapping *mapping);
/* Reads what the daemon said on the socket; a hang-up sets mapping->lost. Never waits. drain: WAKE
 * messages are for the caller; otherwise they stay for whoever polls the descriptor. */
void session_listen(struct dynasor_client *c, struct mapping *mapping, bool drain);
void session_tell_death(struct mapping *mapping); /* wakes all who sleep on a dead owner's word */
/* The session is over for good: every call answers PROTOCOL and this reason. Returns -PROTOCOL. */
int session_fail(struct dynasor_client *c, struct mapping *mapping, const struct wire_fault *fault);
int session_ended(struct dynasor_client *c, struct reason *reason); /* 0: it goes on */

/* resume.c: a daemon that is away. */
/* Waits until the channel can go on: it is bound to the newest mapping, the daemon lives. The
 * caller owns the channel. */
int resume_channel(struct dynasor_client *c, struct channel *ch, struct reason *reason,
                   uint64_t deadline_ns);
/* As far as that goes without binding it. */
int resume_session(struct dynasor_client *c, const struct channel *ch, struct reason *reason,
                   uint64_t deadline_ns);
int resume_bind(struct dynasor_client *c, struct channel *ch, struct reason *reason);
void resume_pump(struct dynasor_client *c, struct channel *ch); /* submits again what it can */

/* payload.c: spec, lists and prompt in the arena. put: false when that is full. */
int payload_check(const struct dynasor_program_options *o, struct reason *reason);
bool payload_needed(const struct dynasor_program_options *o);         /* beside a long prompt */
uint32_t payload_head_bytes(const struct dynasor_program_options *o); /* all before the prompt */
bool payload_put(struct mapping *m, struct program *p, const struct dynasor_program_options *o,
                 const void *prompt);
bool payload_save(const struct mapping *m, struct program *p); /* to parcel; false: no memory */
bool payload_put_again(struct mapping *m, struct program *p);  /* the parcel */
void payload_drop(struct mapping *m, struct program *p);

/* submit.c: records. */
bool channel_room(struct dynasor_client *c, struct channel *ch, uint64_t records);
void channel_push(struct channel *ch, const union wire_record *record);
void channel_ring(struct channel *ch); /* wakes the daemon if it sleeps */
/* Pushes CANCEL or RELEASE; needs room. */
void channel_control(struct channel *ch, enum wire_op op, const struct program *p);
/* Locks a guarded channel and makes sure that records can be pushed; 0: unlock it after. */
int channel_begin(struct dynasor_lane *lane);
void channel_end(struct dynasor_lane *lane);

/* next.c: events. */
#define NEXT_EMPTY 1
#define NEXT_BROKEN 2 /* no daemon says that */
/* The next event of a program that has a handle; tokens and text point into the slot, of an END
 * there is a copy in ch->ended. */
int next_take(struct dynasor_client *c, struct channel *ch, struct dynasor_event *event,
              struct program **ret_program);                 /* or NEXT_EMPTY */
const struct ring_slot *next_slot(const struct channel *ch); /* of the event taken last */
void next_credit(struct channel *ch);     /* publishes what was taken, when it is a quarter ring */
void next_credit_all(struct channel *ch); /* all of it; the caller may push */
void next_ended(struct reason *reason, struct program *p, const struct wire_event_end *end);
void next_refused(struct reason *reason, const struct wire_event_command *refused);
void next_look(struct dynasor_client *c, struct channel *ch); /* at the socket, now and then */

/* custom.c: events of branches; as next_take(). */
bool custom_event(uint32_t kind); /* enum wire_event_kind: it is one */
int custom_take(struct channel *ch, struct program *p, struct dynasor_event *event);

/* lane.c: what closed handles left behind. */
void channel_sweep(struct dynasor_client *c, struct channel *ch);
void table_reap(struct dynasor_client *c); /* of all channels without a handle */
void lane_free(struct dynasor_lane *lane);

/* guarded.c: the channel that many handles share. */
int guarded_next(struct dynasor_lane *lane, struct dynasor_event *event, uint64_t timeout_ns);
int guarded_resume(struct dynasor_lane *lane, uint64_t deadline_ns); /* with the mutex */
/* With the mutex: takes what has come unless somebody leads, so that orphans end. */
void guarded_help(struct dynasor_client *c, struct channel *ch);

/* wait.c: time and sleeping. */
uint64_t wait_now_ns(void);
uint64_t wait_deadline_ns(uint64_t timeout_ns);
/* Until when a call waits for a daemon that is away; spread by the low bits of the clock. */
uint64_t wait_away_ns(void);
/* Spins, then sleeps once until an event, a wake, trouble, or the earlier of deadline and
 * channel.belt_ns; briefly when programs are unsent. True: it slept to the end of that. */
bool wait_once(struct dynasor_client *c, struct channel *ch, uint64_t deadline_ns, bool unsent);
struct wait_word {
    const uint32_t *word;
    uint32_t value;
    uint32_t shared; /* lies in shared memory */
};
/* Sleeps while both words have their values; words[1].word may be NULL. False: until_ns came. */
bool wait_sleep(const struct wait_word words[2], uint64_t until_ns);
void wait_wake(const uint32_t *word, bool shared); /* all sleepers */
void wait_arm(struct channel *ch, enum region_need kind);
void wait_disarm(struct channel *ch);
