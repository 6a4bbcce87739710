#include "daemon/program/cluster.h"

#include <math.h>
#include <stddef.h>

uint32_t cluster_add(struct cluster *cluster, const struct answer *answers)
{
    uint32_t idx = cluster->count++, g = 0;
    cluster->group[idx] = CLUSTER_NONE;
    if (!answer_valid(&answers[idx]))
        return CLUSTER_NONE;
    while (g < cluster->groups && !answer_equal(&answers[idx], &answers[cluster->leader[g]]))
        g++;
    if (g == cluster->groups)
        cluster->leader[cluster->groups++] = idx;
    cluster->valid++;
    return cluster->group[idx] = g;
}

/* ---- likeness ---- */

static double product(const float *x, const float *y, uint32_t dimensions)
{
    double sum = 0;
    for (uint32_t d = 0; d < dimensions; d++)
        sum += (double)x[d] * (double)y[d];
    return sum;
}

bool cluster_unit(const float *vector, uint32_t dimensions, float *ret_unit)
{
    double length = sqrt(product(vector, vector, dimensions));
    bool has = isfinite(length) && length > 0;
    for (uint32_t d = 0; d < dimensions; d++)
        ret_unit[d] = has ? (float)((double)vector[d] / length) : 0;
    return has;
}

uint32_t cluster_add_alike(struct cluster *c, const struct answer *answers, const float *units,
                           uint32_t dimensions, double threshold)
{
    uint32_t idx = c->count, joined = CLUSTER_NONE;
    const float *unit = units + (size_t)idx * dimensions;
    double best = threshold - 1e-6; /* units are rounded: the same vectors are alike at 1 */
    if (!answer_valid(&answers[idx]) || !(product(unit, unit, dimensions) > 0))
        return cluster_add(c, answers);
    for (uint32_t g = 0; g < c->groups; g++) {
        double likeness = product(unit, units + (size_t)c->leader[g] * dimensions, dimensions);
        if (likeness > best || (likeness >= best && joined == CLUSTER_NONE)) {
            best = likeness;
            joined = g;
        }
    }
    if (joined == CLUSTER_NONE) {
        joined = c->groups++;
        c->leader[joined] = idx;
    }
    c->count++;
    c->valid++;
    return c->group[idx] = joined;
}

static double dot(const struct cluster_vectors *v, uint32_t i, uint32_t k)
{
    return product(v->data + (size_t)i * v->dimensions, v->data + (size_t)k * v->dimensions,
                   v->dimensions);
}

static double cosine(const struct cluster_vectors *v, uint32_t i, uint32_t k)
{
    return dot(v, i, k) / (v->lengths[i] * v->lengths[k]);
}

/* Answers that have a direction are in group 0 until they are in another. */
static void measure(const struct cluster_vectors *v, struct cluster *c)
{
    for (uint32_t i = 0; i < v->count; i++) {
        double length = sqrt(dot(v, i, i));
        bool valid = isfinite(length) && length > 0;
        v->lengths[i] = length;
        c->valid += valid;
        c->group[i] = valid ? 0 : CLUSTER_NONE;
    }
}

static void join_leaders(const struct cluster_vectors *v, struct cluster *c)
{
    for (uint32_t i = 0; i < v->count; i++) {
        uint32_t joined = c->groups;
        double best = -2;
        if (c->group[i] == CLUSTER_NONE)
            continue;
        for (uint32_t g = 0; g < c->groups; g++) {
            double likeness = cosine(v, i, c->leader[g]);
            if (likeness >= (double)v->threshold && likeness > best) {
                best = likeness;
                joined = g;
            }
        }
        if (joined == c->groups)
            c->leader[c->groups++] = i;
        c->group[i] = joined;
    }
}

static uint32_t find_root(uint32_t *parent, uint32_t i)
{
    while (parent[i] != i)
        i = parent[i] = parent[parent[i]];
    return i;
}

/* leader is the forest first: no answer stands below a later one, so roots lead. */
static void link_alike(const struct cluster_vectors *v, struct cluster *c)
{
    uint32_t *parent = c->leader;
    for (uint32_t i = 0; i < v->count; i++) {
        parent[i] = i;
        for (uint32_t k = 0; k < i && c->group[i] != CLUSTER_NONE; k++) {
            uint32_t a = find_root(parent, i), b = find_root(parent, k);
            if (a != b && c->group[k] != CLUSTER_NONE && cosine(v, i, k) >= (double)v->threshold)
                parent[a < b ? b : a] = a < b ? a : b;
        }
    }
    for (uint32_t i = 0; i < v->count; i++) {
        uint32_t root = find_root(parent, i);
        if (c->group[i] != CLUSTER_NONE)
            c->group[i] = root == i ? c->groups++ : c->group[root];
    }
    for (uint32_t i = 0, g = 0; i < v->count && g < c->groups; i++) {
        if (c->group[i] == g)
            c->leader[g++] = i;
    }
}

void cluster_likeness(const struct cluster_vectors *vectors, struct cluster *ret_cluster)
{
    ret_cluster->count = vectors->count;
    ret_cluster->groups = ret_cluster->valid = 0;
    measure(vectors, ret_cluster);
    if (vectors->linked)
        link_alike(vectors, ret_cluster);
    else
        join_leaders(vectors, ret_cluster);
}

/* ---- votes ---- */

uint32_t cluster_majority(const struct cluster *cluster, const double *weights, double *sums)
{
    uint32_t winner = CLUSTER_NONE;
    double best = -1;
    for (uint32_t g = 0; g < cluster->groups; g++)
        sums[g] = 0;
    /* A sum only grows, so whoever passes the final maximum first is the last to become the winner. */
    for (uint32_t i = 0; i < cluster->count; i++) {
        uint32_t g = cluster->group[i];
        if (g == CLUSTER_NONE)
            continue;
        double weight = weights ? weights[i] : 1;
        sums[g] += weight > 0 ? weight : 0;
        if (sums[g] > best) {
            best = sums[g];
            winner = g;
        }
    }
    return winner;
}

/* ---- agreement of two groupings ---- */

struct cluster_score cluster_compare(const uint32_t *group, const uint32_t *truth, uint32_t count)
{
    uint64_t both = 0, found = 0, wanted = 0;
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t k = 0; k < i; k++) {
            bool mine = group[i] == group[k] && group[i] != CLUSTER_NONE;
            bool theirs = truth[i] == truth[k] && truth[i] != CLUSTER_NONE;
            both += mine && theirs;
            found += mine;
            wanted += theirs;
        }
    }
    struct cluster_score s = {.precision = found ? (double)both / (double)found : 1,
                              .recall = wanted ? (double)both / (double)wanted : 1};
    s.f1 = both ? 2 * s.precision * s.recall / (s.precision + s.recall)
                : (double)(found + wanted == 0);
    return s;
}
