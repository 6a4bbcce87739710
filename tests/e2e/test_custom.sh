#!/bin/bash
# timeout: 120
# A program whose client decides, through the library and a daemon with the shipped models: client/examples/my_sc
# says the tokens that `sc` says with the same seed, is small enough to be read, and ends RESTARTED, by name,
# when its daemon dies under it; what is submitted afterwards runs.

set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/e2e/lib_daemon.sh
model=tools/model/dynasor-5m

start() { daemon_start --policy $model/policy --reward $model/reward "$@"; }
my_sc() { timeout 60 "$build/examples/my_sc" --socket "$socket" "$@"; }
sc() { timeout 60 "$build/examples/reason" --socket "$socket" --chat --tokens --profile even "$@"; }

lines=$(wc -l <client/examples/my_sc.c)
[ "$lines" -le 150 ] || fail "my_sc.c has $lines lines"
start || fail "the daemon does not start"

count=0
several=0
for line in 1 2 4 5 7 11 14 40; do
    message=$(sed -n "${line}p" tools/model/tasks/words.test.tsv | cut -f3)
    sc --seed $line --set cap=6 --max-tokens 200 sc "$message" 2>"$work/sc.log" >"$work/all" || fail "sc"
    grep -E '^(tokens|answer)' "$work/all" >"$work/wanted"
    my_sc --seed $line --count 6 --max-tokens 200 "$message" >"$work/mine" 2>"$work/my_sc.log" || fail "my_sc"
    grep -E '^(tokens|answer)' "$work/mine" | diff "$work/wanted" - >"$work/diff.log" || fail "other tokens (line $line)"
    [ "$(wc -w <"$work/wanted")" -gt 10 ] || fail "hardly a token"
    grep -q '^confidence 1.000000' "$work/mine" || several=$((several + 1))
    count=$((count + 1))
done
[ $several -gt 0 ] || fail "all samples agreed every time: nothing was voted on"
echo "$count problems: my_sc says what sc says; $several were voted on"

my_sc --count 256 --max-tokens 1000 "Think first. $message" >"$work/out" 2>"$work/long.log" &
client=$!
for _ in $(seq 500); do
    "$build/bin/dynasorctl" --socket "$control" status | grep -q 'programs_active  *1' && break
    sleep 0.01
done
sleep 0.3 # it runs by now: one that waits would be submitted again
kill -9 $daemon_pid
wait $daemon_pid 2>/dev/null
start || fail "the daemon does not start again"
wait $client && fail "a program went on whose branches nobody knows"
grep -q RESTARTED "$work/long.log" || fail "the end is not RESTARTED"
rm "$work/long.log"
my_sc --seed 40 --count 6 --max-tokens 200 "$message" >"$work/again" 2>"$work/my_sc.log" || fail "my_sc after a restart"
cmp -s "$work/mine" "$work/again" || fail "other tokens after a restart"
daemon_stop
echo "a program of a daemon that died ended RESTARTED"
