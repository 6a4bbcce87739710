/* tools/calibrate/report.h — what dynasor-calibrate does with a log: fits, judges, prints.
 *
 * Memory: heap while it runs. Fails: a negative number with a message. */
#pragma once
#include "daemon/program/profile.h"
#include "tools/calibrate/fit.h"

#define ALLOWED_MAX 8u

struct request {
    struct family_request family;
    struct fit_request fit; /* but for allowed_points */
    double allowed_points[ALLOWED_MAX];
    uint32_t allowed_count;
    double judge_share;
    double learn_share; /* of the others, where something is learned */
    uint32_t splits_count;
    uint32_t seed;
    bool policy_given;
    bool ignore_hesitation;
    const char *log_path;
    const char *algorithm;
    const char *name;
    const char *output;
    const char *plot;
    const char *shadow;
};

int report_calibration(struct log *log, struct request *request, char message[LOG_MESSAGE_BYTES]);
int report_shadow(struct log *log, struct request *request, char message[LOG_MESSAGE_BYTES]);

/* prefix.dat and prefix.gp, and prefix.png where gnuplot is installed. */
int plot_write(const char *prefix, const struct evaluation *evaluation, const struct family *family,
               const bool *mask, uint32_t chosen, char message[LOG_MESSAGE_BYTES]);
