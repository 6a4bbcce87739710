/* daemon/program/cluster.h — which of n answers are the same, and which answer wins.
 *
 * Both ways, by equality of answers and by likeness of vectors, give a group for each answer: groups
 * are numbered from 0 in the order of their first answer; CLUSTER_NONE stands for an answer that is
 * empty or has no direction, which agrees with nothing. The order of the answers is the program's
 * logical order, and decides what is left open: the result is a function of the input alone.
 *
 * Vectors of answers that come one by one (cluster_add_alike()) are compared with the leaders only.
 *
 * Thread: any. Memory: the caller's. Time: answers times groups comparisons; likeness, answers squared
 * times dimensions. Fails: never. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "daemon/program/answer.h"

#define CLUSTER_NONE UINT32_MAX /* = CERTAINDEX_EMPTY */

struct cluster {
    uint32_t *group;  /* [count], the caller's: the group of each answer */
    uint32_t *leader; /* [count], the caller's: the first answer of each group */
    uint32_t count;   /* of answers */
    uint32_t groups;
    uint32_t valid; /* answers that have a group */
};

/* Adds one answer after the cluster->count before it: the first group whose leader equals it, or a new
 * one. answers: all of them, [count + 1], in order. Returns its group. */
uint32_t cluster_add(struct cluster *cluster, const struct answer *answers);

/* Likewise by likeness: the group whose leader is most alike, of equals the first, or a new one. An
 * answer without a direction is compared with the leaders as cluster_add() does. units: [count + 1,
 * dimensions] vectors of length 1, or 0. */
uint32_t cluster_add_alike(struct cluster *cluster, const struct answer *answers,
                           const float *units, uint32_t dimensions, double threshold);
/* vector[dimensions] to length 1; to 0 when it has no direction. Returns whether it has one. */
bool cluster_unit(const float *vector, uint32_t dimensions, float *ret_unit);

struct cluster_vectors {
    const float *data; /* [count, dimensions] */
    uint32_t count, dimensions;
    float threshold; /* cosine at which two answers are alike */
    double *lengths; /* [count] of scratch */
    bool linked; /* chains of likeness join (single linkage); else likeness to the leader, and of
                      * several alike leaders to the most alike */
};

/* A vector that is 0 or not finite has no direction. */
void cluster_likeness(const struct cluster_vectors *vectors, struct cluster *ret_cluster);

/* The group with most answers, or most weight; of equals the one that reached it first, in order.
 * weights may be NULL: 1 each; what is not a positive number counts 0. CLUSTER_NONE: no valid answer.
 * sums: [groups] of scratch; each group's sum afterwards. */
uint32_t cluster_majority(const struct cluster *cluster, const double *weights, double *sums);

/* Of all pairs of answers: how well "in one group" says "in one group of truth". An answer without a
 * group is in no pair. */
struct cluster_score {
    double precision, recall, f1; /* 1 when there was nothing to find */
};
struct cluster_score cluster_compare(const uint32_t *group, const uint32_t *truth, uint32_t count);
