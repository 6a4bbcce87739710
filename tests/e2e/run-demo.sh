#!/bin/bash
# What `make run` shows: a daemon of its own with the shipped models, problems that it solves side by side with
# the answers beside the right ones, token ids of programs as they come, the daemon's own view; then whole
# reasoning programs, with certaindex off and on: how many answers are right, for how many tokens.
# Takes a minute or two, needs no rights and leaves tables and pictures in BUILD/run.

set -u
cd "$(dirname "$0")/../.." || exit 1
build=${DYN_BUILD:-$PWD/build}
models=tools/model/dynasor-5m
work=$(mktemp -d "${TMPDIR:-/tmp}/dynasor.XXXXXX") || exit 1
socket=$work/dynasor.sock
control=$work/control.sock
daemon_pid=

# shellcheck disable=SC2317 # called by the trap
cleanup() {
    [ -z "$daemon_pid" ] || kill "$daemon_pid" 2>/dev/null
    wait 2>/dev/null
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

show() {
    printf '\n$ %s %s\n' "$(basename "$1")" "${*:2}"
    "$@"
}

printf '$ dynasord --policy %s --reward %s\n' $models/policy $models/reward
"$build/bin/dynasord" --policy $models/policy --reward $models/reward --config /dev/null --set daemon.socket_path="$socket" \
    --set daemon.control_path="$control" &
daemon_pid=$!
for _ in $(seq 250); do
    "$build/bin/dynasorctl" --socket "$control" status >/dev/null 2>&1 && break
    kill -0 $daemon_pid 2>/dev/null || exit 1
    sleep 0.02
done

show "$build/examples/solve" --socket "$socket" --count 64 --show 3 tools/model/tasks/words.test.tsv || exit 1
"$build/examples/stream" --socket "$socket" --seed 3 --max-tokens 200 --programs 8 \
    "keep the table busy" >/dev/null &
background=$!
show "$build/examples/stream" --socket "$socket" --seed 42 --max-tokens 40 --programs 3 \
    "Ann has 3 cups. Tom gives her 4 cups." || exit 1
show "$build/bin/dynasorctl" --socket "$control" status || exit 1
wait $background || exit 1

printf '\n$ kill %s\n' $daemon_pid
kill -TERM $daemon_pid
wait $daemon_pid
status=$?
daemon_pid=
echo "the daemon ended with status $status"
[ $status = 0 ] || exit $status

# The same programs by hundreds and their accuracy: the daemon's engine, scheduler and programs in one process.
mkdir -p "$build/run"
batch() {
    local name=$1
    shift
    show "$build/bin/dynasor-bench" batch --policy $models/policy --reward $models/reward --tasks tools/model/tasks \
        --csv "$build/run/$name.csv" --png "$build/run/$name.png" "$@" || exit 1
}
batch words --task words --algorithm sc --count 70 --cap 5,10,20 --profile sc-math
batch game24 --task game24 --algorithm rebase --count 24 --cap 32,64 --profile rebase-math
