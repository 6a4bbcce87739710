/* tests/fuzz/fuzz_shard_index.c: any bytes as an index of shards. The names of files that are let
 * through lead nowhere but into the model's own folder. */
#include <stdint.h>
#include <string.h>

#include "daemon/model/safetensors.h"
#include "tests/lib/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct safetensors none[SHARDS_MAX]; /* files without a tensor */
    struct shards s;
    char message[MESSAGE_BYTES] = "";
    int result = shards_read("fuzz", (const char *)data, size, message, &s);
    CHECK(result == 0 || message[0], "refused without a word");
    if (result)
        return 0;
    CHECK(s.count >= 1 && s.count <= SHARDS_MAX, "shards");
    for (uint32_t i = 0; i < s.count; i++) {
        CHECK(!strchr(s.name[i], '/') && !strstr(s.name[i], "..") && s.name[i][0] != '.',
              "a way out");
        CHECK(strlen(s.name[i]) <= 255, "too long");
        CHECK(i == 0 || strcmp(s.name[i - 1], s.name[i]) < 0, "twice");
    }
    CHECK(shards_check(&s, none, message) != 0 && message[0], "tensors of nowhere");
    shards_free(&s);
    return 0;
}
