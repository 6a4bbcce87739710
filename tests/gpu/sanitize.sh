#!/bin/bash
# tests/gpu/sanitize.sh FOLDER LOGS [part of a name ...]: the tests of `make check-gpu` under each tool of
# compute-sanitizer; a log for each pair below LOGS. Everything runs some fifty times slower, so of random cases
# there is one round, and each run has an hour. Status 1 if a tool finds something or a test fails, 77 without a GPU or
# without compute-sanitizer.
set -u
folder=$1 logs=$2
shift 2
sanitizer=$(command -v compute-sanitizer || command -v /usr/local/cuda/bin/compute-sanitizer) || {
    echo 'no compute-sanitizer'
    exit 77
}
export DYN_BUILD=$PWD/${folder#"$PWD"/} ROUNDS=1
[ "${folder#/}" = "$folder" ] || DYN_BUILD=$folder
export LD_LIBRARY_PATH=$DYN_BUILD/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
(cd "$DYN_BUILD" && tests/gpu/test_probe)
status=$?
[ $status = 0 ] || exit $status
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$logs"
logs=$(cd "$logs" && pwd)
cd "$DYN_BUILD" || exit 1
failed=0 passed=0
for tool in memcheck racecheck initcheck synccheck; do
    for name in sample ops shapes wide graphs ahead golden; do
        wanted=$([ $# -gt 0 ] || echo yes)
        for part in "$@"; do case $tool-test_$name in *"$part"*) wanted=yes ;; esac; done
        [ -n "$wanted" ] || continue
        log=$logs/$tool-$name.log
        (cd "$here/../.." && exec "$here/log.sh" "$log" timeout 3600 "$sanitizer" --tool $tool --error-exitcode 9 \
            "$DYN_BUILD/tests/gpu/test_$name") >/dev/null 2>&1
        status=$?
        case $status in
        0) passed=$((passed + 1)) word=ok ;;
        9) failed=$((failed + 1)) word=FOUND ;;
        *) failed=$((failed + 1)) word=FAIL ;;
        esac
        echo "$word $tool test_$name: $(grep 'SUMMARY' "$log" | tail -n 1)"
    done
done
echo "$passed clean, $failed not"
[ $failed = 0 ]
