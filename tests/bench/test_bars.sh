#!/bin/bash
# The bars that bench-ipc measures are those of tests/bench/bars-ipc.txt, in its order: none can be
# dropped or renamed unnoticed. Measures nothing.
set -u
cd "$(dirname "$0")/../.." || exit 1
"${DYN_BUILD:-$PWD/build}/bin/bench-ipc" --names | diff -u tests/bench/bars-ipc.txt - || {
    echo "bench-ipc --names differs from tests/bench/bars-ipc.txt"
    exit 1
}
echo "$(wc -l <tests/bench/bars-ipc.txt) bars"
