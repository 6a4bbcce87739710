#!/bin/bash
# A daemon of the test's own; sourced from the root of the repository. Gives $build, $work (a folder that goes when
# the test ends, with the logs that fail prints), $socket and $control.
#   daemon_start ARGUMENT...    true once it answers, and none that was left over; $daemon_pid is its process
#   daemon_stop                 SIGTERM, which must end it with 0
#   fail WORDS                  ends the test
# Its engine is on the CPU, whose tokens are the stored ones and those of dynasor-generate, also where there is a GPU;
# a test that wants another says --set engine.backend=auto.
# A test may set daemon_with, what stands before the daemon's command: (env NAME=VALUE).
build=${DYN_BUILD:-$PWD/build}
DYN_BUILD=$build
work=$(mktemp -d "${TMPDIR:-/tmp}/e2e.XXXXXX") || exit 1
socket=$work/socket
control=$work/control
daemon_pid=
daemon_with=()

fail() {
    echo "FAIL: $*"
    for log in "$work"/*.log; do [ -s "$log" ] && sed "s|^|$(basename "$log"): |" "$log" | tail -20; done
    exit 1
}
# shellcheck disable=SC2317 # called by the trap
cleanup() {
    local pids
    pids=$(jobs -p) # also what a test has lost track of
    # shellcheck disable=SC2086
    [ -z "$pids" ] || kill $pids 2>/dev/null
    wait 2>/dev/null
    rm -rf "$work"
}
trap cleanup EXIT

daemon_start() {
    [ -z "$daemon_pid" ] || ! kill -0 "$daemon_pid" 2>/dev/null || fail "a daemon of this test still runs"
    ${daemon_with[@]+"${daemon_with[@]}"} "$build/bin/dynasord" --config /dev/null \
        --set daemon.socket_path="$socket" --set daemon.control_path="$control" --set engine.backend=cpu "$@" \
        >"$work/daemon.log" 2>&1 &
    daemon_pid=$!
    for _ in $(seq 1500); do
        "$build/bin/dynasorctl" --socket "$control" status 2>/dev/null | grep -q "pid $daemon_pid," && return 0
        kill -0 $daemon_pid 2>/dev/null || return 1
        sleep 0.02
    done
    return 1
}
daemon_stop() {
    kill -TERM $daemon_pid && wait $daemon_pid || fail "the daemon ended with $?"
    daemon_pid=
}
