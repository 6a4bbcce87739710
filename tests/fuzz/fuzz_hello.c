/* tests/fuzz/fuzz_hello.c: wire_check_hello over any message. OK must mean that every range that
 * docs/ABI.md promises holds; anything else must come with a fault that is filled in. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "shm/region.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int condition)
{
    if (!condition)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct wire_fault fault;
    struct wire_hello hello;
    memset(&fault, 0xa5, sizeof fault);
    enum wire_verdict verdict = wire_check_hello(data, size, &fault);
    if (verdict != WIRE_OK) {
        must(fault.status > 0 && fault.status < DYNASOR_STATUS_COUNT);
        must(fault.field > 0 && fault.field < DYNASOR_FIELD_COUNT && fault.reserved == 0);
        must((verdict == WIRE_VIOLATION) == (fault.status == DYNASOR_E_PROTOCOL));
        return 0;
    }
    must(size == sizeof hello);
    memcpy(&hello, data, sizeof hello);
    must(hello.magic == WIRE_MAGIC && hello.reserved0 == 0 && hello.reserved1 == 0);
    must(hello.version_min <= WIRE_VERSION_MAX && hello.version_max >= WIRE_VERSION_MIN);
    must((hello.features_required & ~WIRE_FEATURES_KNOWN) == 0);
    must(hello.lanes_count >= 1 && hello.lanes_count <= DYNASOR_LANES_MAX);
    /* what region_geometry_init asks for */
    struct wire_geometry geometry;
    region_geometry_init(&geometry, hello.lanes_count, hello.arena_bytes);
    must(region_geometry_valid(&geometry));
    return 0;
}
