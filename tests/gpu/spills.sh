#!/bin/bash
# Prints `bar spilled_bytes VALUE <= 0 ok|short`: what kernels that a step spends its time in keep in local memory,
# which goes through the caches, summed over the architectures that the build folder has code for. Those are
# one after `make`, all of a release after `make release`; `make check-cuda-release` compiles for all, then
# comes here. Reads what ptxas said beside each object; each name below has to be there for each architecture.
# Status 1 if the bar is short.
set -u
cd "$(dirname "$0")/../.." || exit 1
build="${DYN_BUILD:-$PWD/build}"
hot='attention_kernel|gemm_bf16_kernel|gemm_f32_kernel|norm_kernel|gate_kernel|qkv_kernel|sample_kernel|embed_kernel'
if ! compgen -G "$build/obj/kernels/cuda/*.cu.ptxas" >/dev/null; then
    echo 'no nvcc: spills are not known'
    echo 'bar spilled_bytes unknown <= 0 short'
    exit 1
fi
cat "$build"/obj/kernels/cuda/*.cu.ptxas | awk -v hot="$hot" '
    BEGIN { count = split(hot, names, "|") }
    /Compiling entry function/ {
        is = $0 ~ hot
        match($0, /sm_[0-9]+[a-z]?/)
        arch = substr($0, RSTART, RLENGTH)
        kernels[arch] += is
        for (i = 1; i <= count; i++) if ($0 ~ names[i]) seen[arch, names[i]] = 1
    }
    is && /spill stores/ { for (i = 1; i <= NF; i++) if ($i == "bytes") sum += $(i - 1) }
    END {
        for (arch in kernels) {
            archs++
            printf "spills: %d hot kernels for %s looked at\n", kernels[arch], arch
            for (i = 1; i <= count; i++) if (!((arch, names[i]) in seen)) {
                printf "spills: no %s for %s\n", names[i], arch
                missing++
            }
        }
        ok = archs && !missing && !sum
        printf "bar spilled_bytes %s <= 0 %s\n", archs && !missing ? sum + 0 : "unknown", ok ? "ok" : "short"
        exit !ok
    }'
