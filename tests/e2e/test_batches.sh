#!/bin/bash
# timeout: 240
# Batches over the ring: programs that share one total, through the client library and the shipped models. What each
# comes to is stored (tests/golden/e2e-batches.txt; lib_golden.sh), the same beside other programs, and the same when
# the daemon dies under it before any has ended; when some have: tests/ipc/test_fdstore.c.
#   test_batches.sh [--write | --level LEVEL]

set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/e2e/lib_daemon.sh
. tests/e2e/lib_golden.sh
model=tools/model/dynasor-5m tasks=tools/model/tasks/words.test.tsv
golden_levels='avx2 avx512 amx' # the scalar one would take minutes
golden_arguments "$@"

start() { daemon_start --policy $model/policy --reward $model/reward --set engine.cpu_level="$golden_level" "$@"; }
mapfile -t prompts < <(head -6 $tasks | cut -f3)
batch() { timeout 100 "$build/examples/batch" --socket "$socket" --chat --max-tokens 200 "$@" "${prompts[@]}"; }
shared() { batch --tokens 3000 --cap 5 --batch-cap 12 --step 2; }
batches() {
    echo "== shared"
    shared || fail "batch"
    echo "== spent before it began" # nobody gets more than its cap
    batch --tokens 1 --cap 5 --profile even || fail "batch"
    echo "== one by one"
    batch --tokens 2500 --cap 2 --batch-cap 16 --step 1 --seed 7 || fail "batch"
}

start || fail "the daemon does not start"
golden_check tests/golden/e2e-batches.txt batches
grep -q '^[0-9]* settled' "$work/results" || fail "nobody settled: nothing is left to the others"
awk '/^== shared/ { on = 1 } /^== spent/ { on = 0 } on && $3 > 5 { found = 1 } END { exit !found }' "$work/results" ||
    fail "nobody was raised above the cap"
awk '/^== spent/ { on = 1 } /^== one/ { on = 0 } on && /^[0-9]/ && $3 != 5 { exit 1 }' "$work/results" ||
    fail "somebody was raised without a token left"

# Beside others.
shared >"$work/alone" || fail "batch"
for seed in 1 2 3; do
    timeout 100 "$build/examples/reason" --socket "$socket" --chat --seed $seed --set cap=20 --profile even sc "${prompts[0]}" \
        >"$work/other.$seed" 2>&1 &
    others[seed]=$!
done
batch --tokens 2000 --cap 4 --seed 9 >"$work/another" 2>&1 & # its number is the same, its client is not
another=$!
shared >"$work/beside" || fail "batch beside others"
wait "${others[@]}" "$another" || fail "others"
diff "$work/alone" "$work/beside" >"$work/diff.log" || fail "a batch beside others comes to something else"
echo "batches come to the stored results, alone and beside others ($golden_level)"

# running COUNT: waits until so many programs run
running() {
    for _ in $(seq 1000); do
        "$build/bin/dynasorctl" --socket "$control" status >"$work/status" 2>/dev/null
        grep -q "^programs_active  *$1 " "$work/status" && return 0
        sleep 0.01
    done
    fail "programs_active is not $1"
}
dies() {
    kill -9 "$daemon_pid"
    wait "$daemon_pid" 2>/dev/null
    start || fail "the daemon does not start again"
}

# The daemon dies before any has ended: the batch runs again, to the same results.
batch --tokens 12000 --cap 25 --batch-cap 40 --step 10 --profile even >"$work/quiet" || fail "batch"
daemon_stop
start || fail "the daemon does not start again" # to count from 0
batch --tokens 12000 --cap 25 --batch-cap 40 --step 10 --profile even >"$work/again" 2>"$work/again.log" &
client=$!
running 6
sleep 0.2
grep -q '^programs_done  *0 ' "$work/status" || fail "programs ended before the daemon died"
dies
wait $client || fail "the batch did not live on"
diff "$work/quiet" "$work/again" >"$work/diff.log" || fail "after a restart it comes to something else"
rm "$work/again.log"
daemon_stop
echo "a batch whose daemon died came to the same"
