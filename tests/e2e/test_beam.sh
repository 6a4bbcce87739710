#!/bin/bash
# timeout: 120
# Beam search and its diverse subtrees, submitted to a daemon with the shipped models: one subtree is the default, four
# say something else, and a number of them that is not accepted is refused by name.

set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/e2e/lib_daemon.sh
model=tools/model/dynasor-5m

reason() { timeout 60 "$build/examples/reason" --socket "$socket" --chat --tokens --profile even --max-tokens 200 "$@"; }
beam() { reason "$@" beam "$message" >"$work/said" 2>"$work/beam.log" || fail "beam $*"; }
# refused WANTED ... -- ARGUMENT ...
refused() {
    local words=()
    while [ "$1" != -- ]; do
        words+=("$1")
        shift
    done
    shift
    reason "$@" "$message" >"$work/said" 2>"$work/refused.log" && fail "$* is accepted"
    for word in "${words[@]}"; do grep -qF -- "$word" "$work/refused.log" || fail "$*: no \"$word\""; done
    rm "$work/refused.log"
}

daemon_start --policy $model/policy --reward $model/reward || fail "the daemon does not start"
count=0
for line in 1 2 3 4; do
    message=$(sed -n "${line}p" tools/model/tasks/game24.test.tsv | cut -f3)
    beam
    mv "$work/said" "$work/default"
    beam --set subtrees=1
    cmp -s "$work/said" "$work/default" || fail "one subtree is not the default"
    beam --set subtrees=4
    cmp -s "$work/said" "$work/default" || count=$((count + 1))
    # Each of the four beams has four children at its first step, one subtree or four.
    [ "$(sed -n 's/^branches //p' "$work/said")" -ge 16 ] || fail "too few branches"
done
[ $count -gt 0 ] || fail "four subtrees say what one says"
refused subtrees 65 '1 to 64' -- --set subtrees=65 beam
refused subtrees 0 '1 to 64' -- --set subtrees=0 beam
refused subtrees -- --set subtrees=2 sc
daemon_stop
echo "beam: $count of 4 problems said otherwise with four subtrees"
