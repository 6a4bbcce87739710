/* tests/unit/test_vectors_ahead.c: tests/unit/test_vectors.c with steps planned ahead (daemon/sched/sched.h), but where a
 * program is alone: that gives what is compared with, a step at a time. */
/* timeout: 300 */
#include <stdlib.h>

#include "tests/lib/runs_rig.h"

static void ahead_open(struct rig *r, char *const folder[ENGINE_ROLE_COUNT],
                       const struct sizes *sizes)
{
    bool alone = sizes->pages == 4096;
    CHECK(setenv("STEPS_MAX", alone ? "1" : "2", 1) == 0, "setenv: %m");
    rig_open(r, folder, sizes);
}
#define rig_open ahead_open
#include "tests/unit/test_vectors.c"
