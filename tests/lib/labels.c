#include "tests/lib/labels.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/check.h"

#define ANSWERS_MAX 64u /* of one question */
#define ROWS_MAX 4096u
#define THRESHOLDS 999u

void labels_read(const char *path, struct labels *ret_labels)
{
    struct labels l = {.text = NULL};
    uint32_t lines = 1, line = 0;
    FILE *f = fopen(path, "rb");
    CHECK(f, "%s: %s", path, strerror(errno));
    (void)fseek(f, 0, SEEK_END); /* a plain file */
    long bytes = ftell(f);
    rewind(f);
    CHECK(bytes >= 0 && (l.text = malloc((size_t)bytes + 1)), "%s: no memory", path);
    CHECK(fread(l.text, 1, (size_t)bytes, f) == (size_t)bytes, "%s: cannot be read", path);
    (void)fclose(f); /* only read from */
    l.text[bytes] = '\0';
    for (const char *c = l.text; *c; c++)
        lines += *c == '\n';
    CHECK((l.row = calloc(lines, sizeof *l.row)), "%s: no memory", path);
    for (char *rest = l.text, *at; (at = strsep(&rest, "\n"));) {
        struct labels_row *row = &l.row[l.count];
        line++;
        if (at[0] == '#' || at[0] == '\0')
            continue;
        row->line = line;
        for (uint32_t i = 0; i < LABELS_FIELDS_MAX; i++) {
            char *field = at ? strsep(&at, "\t") : NULL;
            row->field[i] = field ? field : "";
        }
        l.count++;
    }
    *ret_labels = l;
}

void labels_free(struct labels *labels)
{
    free(labels->row);
    free(labels->text);
}

/* ---- free-form answers ---- */

struct question {
    uint32_t first, count;
    uint32_t truth[ANSWERS_MAX];
};

/* The question that starts at row `first`, and its groups as numbers. */
static struct question question_at(const struct labels *l, uint32_t first)
{
    struct question q = {.first = first};
    while (first + q.count < l->count &&
           strcmp(l->row[first + q.count].field[0], l->row[first].field[0]) == 0) {
        uint32_t group = 0;
        CHECK(q.count < ANSWERS_MAX, "question %s: too many answers", l->row[first].field[0]);
        while (strcmp(l->row[first + group].field[1], l->row[first + q.count].field[1]) != 0)
            group++;
        q.truth[q.count++] = group;
    }
    return q;
}

/* The groups of every second question's answers, numbered so that no two questions share one. */
static struct cluster_score score_half(const struct labels *l, const float *data, float threshold,
                                       const struct labels_vectors *vectors, uint32_t odd)
{
    static uint32_t group[ROWS_MAX], truth[ROWS_MAX];
    uint32_t count = 0;
    for (uint32_t first = 0, number = 0; first < l->count; number++) {
        struct question q = question_at(l, first);
        uint32_t leader[ANSWERS_MAX];
        double lengths[ANSWERS_MAX];
        struct cluster c = {.group = group + count, .leader = leader};
        struct cluster_vectors v = {.data = data + (size_t)first * vectors->dimensions,
                                    .count = q.count,
                                    .dimensions = vectors->dimensions,
                                    .threshold = threshold,
                                    .linked = vectors->linked,
                                    .lengths = lengths};
        first += q.count;
        if (number % 2 != odd)
            continue;
        cluster_likeness(&v, &c);
        for (uint32_t i = 0; i < q.count; i++) {
            if (c.group[i] != CLUSTER_NONE)
                c.group[i] += q.first;
            truth[count + i] = q.first + q.truth[i];
        }
        count += q.count;
    }
    return cluster_compare(group, truth, count);
}

struct labels_result labels_judge(const struct labels *freeform,
                                  const struct labels_vectors *vectors)
{
    float *data = calloc((size_t)freeform->count * vectors->dimensions, sizeof *data);
    float best = 1;
    double best_f1 = -1;
    struct labels_result r = {0};
    CHECK(freeform->count <= ROWS_MAX, "%u answers", freeform->count);
    CHECK(data, "no memory for %u vectors", freeform->count);
    for (uint32_t i = 0; i < freeform->count; i++)
        vectors->embed(vectors->argument, freeform->row[i].field[2],
                       data + (size_t)i * vectors->dimensions);
    for (uint32_t i = 1; i <= THRESHOLDS; i++) {
        float threshold = (float)i / (float)(THRESHOLDS + 1);
        double f1 = score_half(freeform, data, threshold, vectors, 0).f1;
        if (f1 > best_f1) {
            best_f1 = f1;
            best = threshold;
        }
    }
    for (uint32_t first = 0, number = 0; first < freeform->count; number++) {
        uint32_t count = question_at(freeform, first).count;
        r.questions += number % 2;
        r.answers += number % 2 ? count : 0;
        first += count;
    }
    r.threshold = (double)best;
    r.score = score_half(freeform, data, best, vectors, 1);
    free(data);
    return r;
}
