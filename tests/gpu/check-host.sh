#!/bin/bash
# `make check-cuda-host`: the CUDA backend without a GPU. Runs the tests of kernels/cuda, reads what ptxas said
# of registers, and prints the bars of tests/bench/bars-cuda.txt, `bar NAME VALUE OP LIMIT ok|short`; status 1
# if one is short or missing, or a test fails.
set -u
cd "$(dirname "$0")/../.." || exit 1
export DYN_BUILD="${DYN_BUILD:-$PWD/build}"
status=0 bars=

# Kernels that a step spends its time in; what they keep in local memory goes through the caches.
hot='attention_kernel|gemm_bf16_kernel|gemm_f32_kernel|norm_kernel|gate_kernel|qkv_kernel|sample_kernel|embed_kernel'
if compgen -G "$DYN_BUILD/obj/kernels/cuda/*.cu.ptxas" >/dev/null; then
    spilled=$(cat "$DYN_BUILD"/obj/kernels/cuda/*.cu.ptxas | awk -v hot="$hot" '
        /Compiling entry function/ { is = $0 ~ hot; seen += is }
        is && /spill stores/ { for (i = 1; i <= NF; i++) if ($i == "bytes") sum += $(i - 1) }
        END { print(seen ? sum + 0 : "none") }')
    verdict=short
    [ "$spilled" = 0 ] && verdict=ok
    bars="bar spilled_bytes $spilled <= 0 $verdict"$'\n'
else
    echo 'no nvcc: spills are not known'
    bars="bar spilled_bytes unknown <= 0 short"$'\n'
fi

one() { # test: a program, or the daemon's script
    local command=("$DYN_BUILD/tests/unit/test_cuda_$1") log="$DYN_BUILD/test_cuda_$1.log"
    [ "$1" != daemon ] || command=(bash tests/e2e/test_cuda.sh)
    SECONDS=0
    if "${command[@]}" >"$log" 2>&1; then
        echo "test_cuda_$1: passed, $SECONDS s"
    else
        tail -n 40 "$log"
        echo "test_cuda_$1: FAILED"
        return 1
    fi
}
# Those that measure time run alone, the others two at a time, the longest first.
one loader || status=1
one bytes || status=1
export -f one
printf '%s\n' ops faults daemon graphs places sample engine | xargs -P 2 -I@ bash -c 'one @' || status=1
bars+=$(cat "$DYN_BUILD"/test_cuda_*.log | grep '^bar ')$'\n'

while read -r name; do
    line=$(printf '%s' "$bars" | grep "^bar $name " | tail -n 1)
    echo "${line:-bar $name missing <= 0 short}"
    case "$line" in *' ok') ;; *) status=1 ;; esac
done <tests/bench/bars-cuda.txt
exit $status
