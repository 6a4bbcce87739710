/* tests/fuzz/fuzz_model_config.c: any bytes as a config.json. What is accepted must be a model that
 * the engine can size: everything within its bounds, every number finite. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "daemon/model/names.h"
#include "tests/lib/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arch a;
    struct names_want w;
    char message[ARCH_MESSAGE_BYTES] = "";
    int result = arch_parse("fuzz", (const char *)data, size, &a, message);
    CHECK(result == 0 || message[0], "refused without a word");
    for (const char *at = message; *at; at++)
        CHECK((unsigned char)*at >= ' ', "a control byte in a message");
    if (result)
        return 0;
    CHECK(a.hidden && a.layers && a.layers <= ARCH_LAYERS_MAX && a.heads && a.kv_heads, "shape");
    CHECK(a.heads % a.kv_heads == 0 && a.head_dim % 2 == 0, "heads");
    CHECK(a.head_dim >= 2 && a.head_dim <= 2 * ARCH_FREQUENCIES_MAX, "head_dim");
    CHECK(a.rotary_dim <= a.head_dim && a.rotary_dim % 2 == 0, "rotary_dim");
    CHECK(a.encoder == (a.rotary_dim == 0), "rotation");
    CHECK(a.eos_count <= ARCH_EOS_MAX, "eos");
    for (uint32_t i = 0; i < a.rotary_dim / 2; i++)
        CHECK(isfinite(a.inverse_frequency[i]) && a.inverse_frequency[i] >= 0, "frequency");
    CHECK(a.encoder || (isfinite(a.rope_scale) && a.rope_scale > 0), "rope_scale");
    CHECK(isfinite(a.attention_scale) && a.norm_epsilon > 0, "numbers");
    for (uint32_t s = 0; s < NAMES_SLOT_COUNT; s++)
        if (names_want(&a, s, a.layers - 1, &w))
            CHECK(w.dims[0] > 0 && strlen(w.name) + 1 < sizeof w.name, "tensor");
    return 0;
}
