#include "daemon/program/batches.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "daemon/base/assert.h"
#include "daemon/program/algorithms.h"

#define PLACES_MAX DYNASOR_PROGRAMS_MAX
#define STAYS UINT32_MAX /* in place of an order: it goes on waiting */

struct batch;

struct member { /* of a program */
    TAILQ_ENTRY(member) link;
    struct batch *batch; /* NULL: it is in none */
    uint64_t tokens;     /* when it began to wait */
    uint32_t place;
    uint32_t order; /* knob, while orders are given */
    bool waits;
    struct budget_member shown;
};
TAILQ_HEAD(member_list, member);

/* What all members of a batch say alike. */
enum { AGREED_PROGRAMS, AGREED_TOKENS, AGREED_BATCH_CAP, AGREED_STEP, AGREED_CAP, AGREED };
static const uint32_t agreed[AGREED] = {[AGREED_PROGRAMS] = DYNASOR_PARAMETER_BATCH_PROGRAMS,
                                        [AGREED_TOKENS] = DYNASOR_PARAMETER_BATCH_TOKENS,
                                        [AGREED_BATCH_CAP] = DYNASOR_PARAMETER_BATCH_CAP,
                                        [AGREED_STEP] = DYNASOR_PARAMETER_BATCH_STEP,
                                        [AGREED_CAP] = DYNASOR_PARAMETER_CAP};

struct batch {
    LIST_ENTRY(batch) bucket_link;
    TAILQ_ENTRY(batch) link; /* in free, gathering or due */
    uint64_t client;
    uint64_t number;
    uint32_t algorithm;
    uint32_t came_count;
    uint32_t waiting_count;
    uint32_t live_count;              /* came and have not left */
    double values[AGREED];            /* of agreed[] */
    uint64_t left_tokens;             /* spent by those that have left */
    uint64_t active_ns;               /* when the last one came */
    bool restarted;                   /* one of them */
    bool due;                         /* in due */
    struct member_list living;        /* by place */
    uint64_t places[PLACES_MAX / 64]; /* taken */
};
TAILQ_HEAD(batch_list, batch);
LIST_HEAD(bucket, batch);

struct batches {
    uint32_t programs_max;
    uint32_t branches_max;
    uint32_t buckets_count; /* a power of two */
    uint32_t fresh_count;   /* batches that were never used are behind */
    struct member *members; /* [programs_max] by program */
    struct batch *all;      /* [programs_max] each has a living member */
    struct bucket *buckets;
    struct budget_member *round; /* [PLACES_MAX] */
    struct batch_list free;
    struct batch_list gathering; /* will not begin, then those that came longest ago, first */
    struct batch_list due;       /* everybody waits */
    struct member *ordered;      /* next one of the first due batch; NULL: it has had no round */
};

int batches_new(uint32_t programs_max, uint32_t branches_max, struct batches **ret_batches)
{
    struct batches *bs = calloc(1, sizeof *bs);
    if (!bs)
        return -ENOMEM;
    bs->programs_max = programs_max;
    bs->branches_max = branches_max;
    bs->buckets_count = 1;
    while (bs->buckets_count < programs_max)
        bs->buckets_count *= 2;
    TAILQ_INIT(&bs->free);
    TAILQ_INIT(&bs->gathering);
    TAILQ_INIT(&bs->due);
    bs->members = calloc(programs_max, sizeof *bs->members);
    bs->all = calloc(programs_max, sizeof *bs->all);
    bs->buckets = calloc(bs->buckets_count, sizeof *bs->buckets);
    bs->round = calloc(PLACES_MAX, sizeof *bs->round);
    if (!bs->members || !bs->all || !bs->buckets || !bs->round) {
        batches_free(bs);
        return -ENOMEM;
    }
    *ret_batches = bs;
    return 0;
}

void batches_free(struct batches *bs)
{
    if (!bs)
        return;
    free(bs->round);
    free(bs->buckets);
    free(bs->all);
    free(bs->members);
    free(bs);
}

/* ---- who may come ------------------------------------------------------------------------------- */

static uint64_t whole(const struct parameters *p, uint32_t parameter)
{
    return (uint64_t)p->value[parameter];
}

static struct bucket *bucket_of(const struct batches *bs, uint64_t client, uint64_t number)
{
    uint64_t hash = (client * 0x9e3779b97f4a7c15u ^ number) * 0xff51afd7ed558ccdu;
    return &bs->buckets[(hash >> 32) & (bs->buckets_count - 1)];
}

static struct batch *find(const struct batches *bs, uint64_t client, uint64_t number)
{
    struct batch *b;
    LIST_FOREACH(b, bucket_of(bs, client, number), bucket_link)
    {
        if (b->client == client && b->number == number)
            return b;
    }
    return NULL;
}

static bool is_taken(const struct batch *b, uint32_t place)
{
    return b->places[place / 64] >> place % 64 & 1;
}

static uint32_t count_of(const struct batch *b)
{
    return (uint32_t)b->values[AGREED_PROGRAMS];
}

static struct program_refusal refuse(enum dynasor_field field, uint64_t least, uint64_t max,
                                     uint64_t got)
{
    return (struct program_refusal){
        .status = DYNASOR_E_INVALID, .field = field, .least = least, .max = max, .got = got};
}

static enum dynasor_field field_of(uint32_t parameter)
{
    return (enum dynasor_field)(DYNASOR_FIELD_CAP + parameter);
}

static struct program_refusal refuse_range(const struct parameters *p, uint32_t parameter,
                                           uint64_t least)
{
    struct parameter_range range;
    bool has = parameter_range(p->algorithm, parameter, &range);
    ASSERT(has && range.whole);
    return refuse(field_of(parameter), least, (uint64_t)range.most, whole(p, parameter));
}

static const struct program_refusal accepted = {.status = DYNASOR_OK};

/* Branches that a member may have at once, if its cap may be raised so far. */
static uint64_t branches_of(const struct parameters *p, uint32_t raised)
{
    struct parameters other = *p;
    other.value[DYNASOR_PARAMETER_BATCH_CAP] = raised;
    return algorithm_get(p->algorithm)->branches_max(&other);
}

/* More branches than there are, of all members together: of trees by what their caps may be raised to, as
 * long as that helps, for a tree has that many times its depth. */
static struct program_refusal check_branches(const struct batches *bs, const struct parameters *p)
{
    uint64_t count = whole(p, DYNASOR_PARAMETER_BATCH_PROGRAMS);
    uint32_t least = parameter_whole(p, DYNASOR_PARAMETER_CAP), most = parameters_cap(p);
    if (count * branches_of(p, most) <= bs->branches_max)
        return accepted;
    if (most <= least || count * branches_of(p, least) > bs->branches_max)
        return refuse(DYNASOR_FIELD_BATCH_PROGRAMS, 1,
                      bs->branches_max / branches_of(p, most <= least ? most : least), count);
    uint32_t fits = least;
    while (count * branches_of(p, fits + 1) <= bs->branches_max)
        fits++;
    return refuse(DYNASOR_FIELD_BATCH_CAP, least, fits, most);
}

/* What it says by itself. */
static struct program_refusal check_alone(const struct batches *bs, const struct parameters *p)
{
    static const uint32_t wanted[] = {DYNASOR_PARAMETER_BATCH_PROGRAMS,
                                      DYNASOR_PARAMETER_BATCH_TOKENS};
    for (uint32_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        if (p->value[wanted[i]] < 1) /* there is no default */
            return refuse_range(p, wanted[i], 1);
    uint64_t count = whole(p, DYNASOR_PARAMETER_BATCH_PROGRAMS);
    if (count > bs->programs_max)
        return refuse(DYNASOR_FIELD_BATCH_PROGRAMS, 1, bs->programs_max, count);
    if (whole(p, DYNASOR_PARAMETER_BATCH_PLACE) >= count)
        return refuse(DYNASOR_FIELD_BATCH_PLACE, 0, count - 1,
                      whole(p, DYNASOR_PARAMETER_BATCH_PLACE));
    if (parameters_cap(p) < whole(p, DYNASOR_PARAMETER_CAP))
        return refuse_range(p, DYNASOR_PARAMETER_BATCH_CAP, whole(p, DYNASOR_PARAMETER_CAP));
    return check_branches(bs, p);
}

/* What the others say. */
static struct program_refusal check_among(const struct batch *b, const struct parameters *p)
{
    if (b->algorithm != p->algorithm)
        return refuse(DYNASOR_FIELD_ALGORITHM, b->algorithm, b->algorithm, p->algorithm);
    for (uint32_t i = 0; i < AGREED; i++) {
        uint64_t value = (uint64_t)b->values[i];
        if (whole(p, agreed[i]) != value)
            return refuse(field_of(agreed[i]), value, value, whole(p, agreed[i]));
    }
    uint32_t count = count_of(b), place = (uint32_t)whole(p, DYNASOR_PARAMETER_BATCH_PLACE);
    if (b->came_count == count) /* closed */
        return refuse(DYNASOR_FIELD_BATCH_PROGRAMS, 1, count, (uint64_t)count + 1);
    if (!is_taken(b, place))
        return accepted;
    uint32_t least = 0, last = count - 1;
    while (is_taken(b, least))
        least++;
    while (is_taken(b, last))
        last--;
    return refuse(DYNASOR_FIELD_BATCH_PLACE, least, last, place);
}

struct program_refusal batches_check(const struct batches *bs, uint64_t client,
                                     const struct parameters *p)
{
    if (!parameters_batched(p)) {
        /* A part of a batch that is not there is refused, not ignored. */
        for (uint32_t i = DYNASOR_PARAMETER_BATCH_PROGRAMS; i <= DYNASOR_PARAMETER_BATCH_STEP; i++)
            if (p->value[i] < parameter_default(p->algorithm, i) ||
                p->value[i] > parameter_default(p->algorithm, i))
                return refuse_range(p, DYNASOR_PARAMETER_BATCH, 1);
        return accepted;
    }
    struct program_refusal no = check_alone(bs, p);
    const struct batch *b = find(bs, client, whole(p, DYNASOR_PARAMETER_BATCH));
    return no.status != DYNASOR_OK || !b ? no : check_among(b, p);
}

/* ---- coming and leaving ------------------------------------------------------------------------- */

static struct batch *open_batch(struct batches *bs, const struct batch_comer *comer)
{
    const struct parameters *p = comer->parameters;
    struct batch *b = TAILQ_FIRST(&bs->free);
    if (b)
        TAILQ_REMOVE(&bs->free, b, link);
    else
        b = &bs->all[bs->fresh_count++];
    ASSERT(b < bs->all + bs->programs_max);
    memset(b, 0, sizeof *b);
    b->client = comer->client;
    b->number = whole(p, DYNASOR_PARAMETER_BATCH);
    b->algorithm = p->algorithm;
    for (uint32_t i = 0; i < AGREED; i++)
        b->values[i] = p->value[agreed[i]];
    TAILQ_INIT(&b->living);
    LIST_INSERT_HEAD(bucket_of(bs, b->client, b->number), b, bucket_link);
    TAILQ_INSERT_TAIL(&bs->gathering, b, link);
    return b;
}

static void insert(struct batch *b, struct member *m)
{
    struct member *before = TAILQ_LAST(&b->living, member_list);
    while (before && before->place > m->place)
        before = TAILQ_PREV(before, member_list, link);
    if (before)
        TAILQ_INSERT_AFTER(&b->living, before, m, link);
    else
        TAILQ_INSERT_HEAD(&b->living, m, link);
}

bool batches_come(struct batches *bs, const struct batch_comer *comer, uint64_t now_ns)
{
    const struct parameters *p = comer->parameters;
    uint32_t place = (uint32_t)whole(p, DYNASOR_PARAMETER_BATCH_PLACE);
    struct member *m = &bs->members[comer->program];
    struct batch *b = find(bs, comer->client, whole(p, DYNASOR_PARAMETER_BATCH));
    ASSERT(comer->program < bs->programs_max && !m->batch);
    if (!b)
        b = open_batch(bs, comer);
    ASSERT(b->came_count < count_of(b) && !is_taken(b, place));
    *m = (struct member){
        .batch = b, .place = place, .shown = {.cost = 1, .knob_max = parameters_cap(p)}};
    insert(b, m);
    b->places[place / 64] |= 1ull << place % 64;
    b->came_count++;
    b->live_count++;
    b->active_ns = now_ns;
    b->restarted |= comer->restarted;
    TAILQ_REMOVE(&bs->gathering, b, link);
    if (b->came_count == count_of(b))
        return true;
    if (b->restarted)
        TAILQ_INSERT_HEAD(&bs->gathering, b, link);
    else
        TAILQ_INSERT_TAIL(&bs->gathering, b, link);
    return false;
}

uint32_t batches_member(const struct batches *bs, uint32_t program, uint32_t last)
{
    ASSERT(bs->members[program].batch);
    const struct member *m = last == PROGRAM_NONE ? TAILQ_FIRST(&bs->members[program].batch->living)
                                                  : TAILQ_NEXT(&bs->members[last], link);
    return m ? (uint32_t)(m - bs->members) : PROGRAM_NONE;
}

static void due_check(struct batches *bs, struct batch *b)
{
    bool due = b->came_count == count_of(b) && b->waiting_count == b->live_count;
    if (!due || b->due)
        return;
    b->due = true;
    TAILQ_INSERT_TAIL(&bs->due, b, link);
}

void batches_wait(struct batches *bs, uint32_t program, uint32_t knob_done, uint64_t tokens,
                  const struct certaindex *seen)
{
    struct member *m = &bs->members[program];
    ASSERT(m->batch && !m->waits && knob_done < m->shown.knob_max);
    m->waits = true;
    m->tokens = tokens;
    budget_report(&m->shown, knob_done, tokens, seen);
    m->batch->waiting_count++;
    due_check(bs, m->batch);
}

void batches_leave(struct batches *bs, uint32_t program, uint64_t tokens)
{
    struct member *m = &bs->members[program];
    struct batch *b = m->batch;
    if (!b)
        return;
    ASSERT(!bs->ordered); /* orders are given one behind the other */
    TAILQ_REMOVE(&b->living, m, link);
    m->batch = NULL;
    b->left_tokens += tokens;
    b->waiting_count -= m->waits;
    if (--b->live_count > 0) {
        due_check(bs, b);
        return;
    }
    if (b->due)
        TAILQ_REMOVE(&bs->due, b, link);
    else if (b->came_count < count_of(b))
        TAILQ_REMOVE(&bs->gathering, b, link);
    LIST_REMOVE(b, bucket_link);
    TAILQ_INSERT_HEAD(&bs->free, b, link);
}

/* ---- rounds ------------------------------------------------------------------------------------- */

static void share(struct batches *bs, struct batch *b)
{
    struct budget budget = {.total = (uint64_t)b->values[AGREED_TOKENS], .spent = b->left_tokens};
    uint32_t step = (uint32_t)b->values[AGREED_STEP], count = 0;
    struct member *m;
    TAILQ_FOREACH(m, &b->living, link)
    {
        ASSERT(m->waits && count < PLACES_MAX);
        budget.spent += m->tokens;
        bs->round[count++] = m->shown;
    }
    uint64_t granted = budget_round(&budget, bs->round, count, step);
    const struct budget_member *shown = bs->round;
    TAILQ_FOREACH(m, &b->living, link)
    {
        uint32_t knob = shown->knob_grant > shown->knob_done ? shown->knob_grant : STAYS;
        m->order = granted ? knob : 0;
        shown++;
    }
}

static struct member *next_ordered(struct member *m)
{
    while (m && m->order == STAYS)
        m = TAILQ_NEXT(m, link);
    return m;
}

bool batches_next(struct batches *bs, struct batch_order *ret_order)
{
    struct batch *b = TAILQ_FIRST(&bs->due);
    if (!b)
        return false;
    struct member *m = bs->ordered;
    if (!m) {
        share(bs, b);
        m = next_ordered(TAILQ_FIRST(&b->living));
        ASSERT(m); /* something was granted, or all are to end */
    }
    m->waits = false;
    b->waiting_count--;
    *ret_order = (struct batch_order){.program = (uint32_t)(m - bs->members), .knob = m->order};
    bs->ordered = next_ordered(TAILQ_NEXT(m, link));
    if (!bs->ordered) {
        b->due = false;
        TAILQ_REMOVE(&bs->due, b, link);
    }
    return true;
}

/* ---- batches that do not begin ------------------------------------------------------------------ */

uint32_t batches_stuck(struct batches *bs, uint64_t now_ns, uint64_t idle_ns,
                       enum dynasor_status *ret_status)
{
    struct batch *b;
    TAILQ_FOREACH(b, &bs->gathering, link)
    {
        if (b->active_ns > 0) /* the others came before there was a clock */
            break;
        b->active_ns = now_ns;
    }
    b = TAILQ_FIRST(&bs->gathering);
    if (!b || (!b->restarted && now_ns - b->active_ns < idle_ns))
        return PROGRAM_NONE;
    *ret_status = b->restarted ? DYNASOR_E_RESTARTED : DYNASOR_E_TIMEOUT;
    return (uint32_t)(TAILQ_FIRST(&b->living) - bs->members);
}

uint64_t batches_due_ns(const struct batches *bs, uint64_t idle_ns)
{
    const struct batch *b = TAILQ_FIRST(&bs->gathering);
    if (!TAILQ_EMPTY(&bs->due) || (b && b->restarted))
        return 0;
    return b ? b->active_ns + idle_ns : UINT64_MAX;
}
