#!/bin/bash
# `make check-cuda-host`: the CUDA backend without a GPU. Runs the tests of kernels/cuda, reads what ptxas said
# of registers, and prints the bars of tests/bench/bars-cuda.txt, `bar NAME VALUE OP LIMIT ok|short`; status 1
# if one is short or missing, or a test fails.
set -u
cd "$(dirname "$0")/../.." || exit 1
export DYN_BUILD="${DYN_BUILD:-$PWD/build}"
status=0

bars=$(tests/gpu/spills.sh)$'\n' || status=1
echo "${bars%%bar *}" | sed '/^$/d'

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
printf '%s\n' faults ops wide daemon ahead graphs places ranks sample engine | xargs -P 2 -I@ bash -c 'one @' || status=1
bars+=$(cat "$DYN_BUILD"/test_cuda_*.log | grep '^bar ')$'\n'

while read -r name; do
    line=$(printf '%s' "$bars" | grep "^bar $name " | tail -n 1)
    echo "${line:-bar $name missing <= 0 short}"
    case "$line" in *' ok') ;; *) status=1 ;; esac
done <tests/bench/bars-cuda.txt
exit $status
