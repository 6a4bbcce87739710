#!/bin/bash
# The bars that `dynasor-bench engine` measures are those of tests/bench/bars-engine.txt, in its order:
# none can be dropped or renamed unnoticed. Measures nothing.
set -u
cd "$(dirname "$0")/../.." || exit 1
"${DYN_BUILD:-$PWD/build}/bin/dynasor-bench" engine --names | diff -u tests/bench/bars-engine.txt - || {
    echo "dynasor-bench engine --names differs from tests/bench/bars-engine.txt"
    exit 1
}
echo "$(wc -l <tests/bench/bars-engine.txt) bars"
# A folder that is not there is said before anything is measured.
said=$("${DYN_BUILD:-$PWD/build}/bin/dynasor-bench" engine --model /nonexistent/model 2>&1)
[ "$said" = "dynasor-bench engine: --model /nonexistent/model: no such folder" ] || {
    echo "without its model, dynasor-bench engine says: $said"
    exit 1
}
