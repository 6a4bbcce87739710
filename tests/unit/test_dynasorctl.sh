#!/bin/bash
# dynasorctl from outside: what each exit status stands for, against a daemon of the test's own, against
# none, and against servers that are not dynasord (tests/ipc/ctl_peer.c). What it prints is compared
# with the counters that shm/counters.h names and with the daemon's pid.
set -u
ctl=$DYN_BUILD/bin/dynasorctl
daemon_pid='' server_pid='' watch_pid=''
folder=$(mktemp -d "${TMPDIR:-/tmp}/ctl.XXXXXX")
# Called by the trap.
# shellcheck disable=SC2317
cleanup() {
    local pid
    for pid in $daemon_pid $server_pid $watch_pid; do
        kill -9 "$pid" 2>/dev/null
    done
    wait 2>/dev/null
    rm -rf "$folder"
}
trap cleanup EXIT
fail() {
    echo "FAIL: $*"
    echo "--- output"
    cat "$folder/out" "$folder/err" 2>/dev/null
    echo "--- daemon"
    tail -n 20 "$folder/log" 2>/dev/null
    exit 1
}
out=$folder/out err=$folder/err
socket=$folder/control.sock

# expect STATUS [argument ...]: runs it; the output stays in $out and $err.
expect() {
    local want=$1 got
    shift
    timeout 20 "$ctl" "$@" >"$out" 2>"$err" </dev/null
    got=$?
    [ $got = "$want" ] || fail "dynasorctl $*: status $got, expected $want"
}
says() { # file text
    grep -qF -- "$2" "$1" || fail "'$2' is not said in $(basename "$1")"
}
until_true() { # command ...: 20 s for it to succeed
    local limit=$((SECONDS + 20))
    until "$@" 2>/dev/null; do
        [ $SECONDS -lt $limit ] || return 1
        sleep 0.02
    done
}

for program in dynasorctl dynasord; do
    [ -x "$DYN_BUILD/bin/$program" ] || fail "$program is not built"
done

# 2: the command line makes no sense.
expect 2
expect 2 start
expect 2 status status
expect 2 status --no-such-option
for seconds in 0 -1 86401 99999999999999999999 1s ' ' ''; do
    expect 2 status --watch="$seconds"
    says "$err" 'accepted 1 to 86400 seconds'
done
expect 2 --socket '' status
expect 2 --socket "/$(printf 'x%.0s' {1..107})" status
says "$err" 'accepted 1 to 107 characters'
expect 0 --help
says "$out" 'Exit status'

# 3: nobody there.
expect 3 --socket "$socket" status
says "$err" "$socket"
[ ! -s "$out" ] || fail 'prints something without a daemon'
expect 3 --socket "/$(printf 'x%.0s' {1..106})" status # the longest path there can be
expect 3 --socket "$socket" status --watch 1           # the first look must succeed

start() { # extra options
    "$DYN_BUILD/bin/dynasord" --config /dev/null --simulate --set daemon.socket_path="$folder/dynasor.sock" \
        --set daemon.control_path="$socket" --set daemon.clients_max=16 "$@" >>"$folder/log" 2>&1 &
    daemon_pid=$!
    answers() { "$ctl" --socket "$socket" status >/dev/null 2>&1 || ! kill -0 "$daemon_pid"; }
    until_true answers
    if ! kill -0 $daemon_pid 2>/dev/null; then
        if grep -q 'io_uring is required' "$folder/log"; then
            echo "the daemon does not start here: $(tail -n 1 "$folder/log")"
            exit 77
        fi
        fail 'the daemon does not start'
    fi
}
stop() { # signal
    kill "-$1" "$daemon_pid"
    wait "$daemon_pid" 2>/dev/null
    daemon_pid=
}

# 0: each counter of the table, once, with its unit; the pid is the daemon's.
start
expect 0 --socket "$socket" status
counters=$(sed -n 's/^ *X(\([a-z_]*\), ".*/\1/p' shm/counters.h)
[ "$(echo "$counters" | wc -l)" -gt 20 ] || fail 'shm/counters.h is written in another way'
for name in $counters; do
    [ "$(grep -cE "^$name +[0-9]+ " "$out")" = 1 ] || fail "counter $name is not there once"
done
says "$out" ", pid $daemon_pid, "
says "$out" "$folder/dynasor.sock"
grep -qE "^pid +$daemon_pid " "$out" || fail 'counter pid is another'
grep -qE '^clients_max +16 ' "$out" || fail 'counter clients_max is another'
grep -q 'slot' "$out" && fail 'clients are listed unasked'
[ ! -s "$err" ] || fail 'complains although all is well'
expect 0 -s "$socket" -c status
says "$out" 'slot        uid      pid'

# JSON: one line, of one form; what stands in it is picked out by name.
number() { # file name: of the first member of that name
    grep -oE "\"$2\":[0-9]+" "$1" | head -n 1 | cut -d : -f 2
}
expect 0 --socket "$socket" status --json
[ "$(wc -l <"$out")" = 1 ] || fail 'JSON is not one line'
form='\{"daemon_version":"[^"]+","socket_path":"[^"]+","taken_ns":[0-9]+,"counters":\{("[a-z_]+":[0-9]+,)*"[a-z_]+":[0-9]+\}'
grep -qE "^$form\\}\$" "$out" || fail 'JSON has another form'
[ "$(sed 's/.*"counters"://' "$out" | grep -oE '"[a-z_]+":' | tr -d '":')" = "$counters" ] ||
    fail 'the counters of JSON are not those of shm/counters.h, in its order'
[ "$(number "$out" pid)" = $daemon_pid ] || fail 'JSON: counter pid is another'
says "$out" "\"socket_path\":\"$folder/dynasor.sock\""
started=$(number "$out" started_ns)
{ [ "$started" -gt 0 ] && [ "$(number "$out" taken_ns)" -ge "$started" ]; } || fail 'JSON: taken_ns'
expect 0 --socket "$socket" status --json --clients
grep -qE "^$form,\"clients\":\\[\\]\\}\$" "$out" || fail 'no client is no empty array'

# A session is a row of --clients for as long as it lasts.
peer=$DYN_BUILD/tests/ipc/ctl_peer
[ -x "$peer" ] || fail 'ctl_peer is not built'
"$peer" session "$folder/dynasor.sock" >"$folder/session" 2>&1 &
server_pid=$!
# shellcheck disable=SC2317
row_there() { "$ctl" -s "$socket" -cj status | grep -q "\"pid\":$server_pid,"; }
until_true row_there || fail "no row for the session: $(cat "$folder/session")"
expect 0 --socket "$socket" status --json --clients
row='\{("[a-z_]+":[0-9]+,)*"[a-z_]+":[0-9]+\}'
grep -qE "^$form,\"clients\":\\[$row\\]\\}\$" "$out" || fail 'JSON: not one client'
sed 's/.*"clients":\[//' "$out" >"$folder/row"
[ "$(number "$folder/row" uid)" = "$(id -u)" ] || fail 'JSON: the client has another uid'
bytes=$(number "$folder/row" region_bytes)
{ [ "$bytes" -gt 4096 ] && [ "$bytes" = "$(number "$out" quota_region_bytes)" ]; } ||
    fail "JSON: region_bytes of the client are $bytes"
expect 0 --socket "$socket" status --clients
grep -qE "^ +[0-9]+ +$(id -u) +$server_pid +0 +0 " "$out" || fail 'no line for the session'
kill -9 $server_pid
wait $server_pid 2>/dev/null
server_pid=
# shellcheck disable=SC2317
row_gone() { "$ctl" -s "$socket" -cj status | grep -q '"clients":\[\]'; }
until_true row_gone || fail 'the row of a dead client stays'

# 1: a system call failed, here write().
timeout 20 "$ctl" -s "$socket" status >/dev/full 2>"$err"
[ $? = 1 ] || fail 'a full disk is not status 1'
says "$err" 'standard output'

# Looking costs the daemon no descriptor.
descriptors() { find "/proc/$daemon_pid/fd" -mindepth 1 2>/dev/null | wc -l; }
# shellcheck disable=SC2317
settled() { [ "$(descriptors)" = "$fds" ]; }
fds=$(descriptors)
for _ in {1..50}; do "$ctl" -s "$socket" status >/dev/null || fail 'one of 50 looks failed'; done
until_true settled || fail "the daemon had $fds descriptors and has $(descriptors)"

# --watch looks again, and bridges an absence of the daemon. Two lives: two pids.
"$ctl" -s "$socket" -j -w 1 status >"$folder/watch" 2>"$folder/away" </dev/null &
watch_pid=$!
# shellcheck disable=SC2317
watched() { [ "$(wc -l <"$folder/watch")" -ge "$1" ]; }
until_true watched 2 || fail '--watch looks once only'
first=$daemon_pid

# 3 again, with the socket that a killed daemon leaves behind.
stop KILL
[ -S "$socket" ] || fail 'a killed daemon cannot remove its socket'
# The kernel takes an io_uring apart in the background, and its polls keep the listener for so long.
# shellcheck disable=SC2317
nobody() { "$ctl" -s "$socket" status >/dev/null 2>&1; [ $? = 3 ]; }
until_true nobody || fail 'the socket of a killed daemon answers'
expect 3 --socket "$socket" status
says "$err" 'nobody listens'
until_true test -s "$folder/away" || fail '--watch does not report that the daemon is away'
start
# shellcheck disable=SC2317
bridged() { grep -q "\"pid\":${daemon_pid}[,}]" "$folder/watch"; }
until_true bridged || fail '--watch does not see the next daemon'
grep -q "\"pid\":${first}[,}]" "$folder/watch" || fail '--watch has not seen the first daemon'
kill $watch_pid
wait $watch_pid 2>/dev/null
watch_pid=

# 4 and 5: as somebody else. The socket keeps out at 0660; the daemon refuses at 0666. The test's
# folder is entered beforehand and the program copied: the way there may be closed to others.
other() { # status, what it says
    local got
    cp -f "$ctl" "$folder/ctl" && chmod 755 "$folder/ctl" "$folder"
    (cd "$folder" && timeout 20 setpriv --reuid 65534 --regid 65534 --clear-groups ./ctl \
        --socket control.sock status >"$out" 2>"$err" </dev/null)
    got=$?
    [ $got = "$1" ] || fail "as uid 65534: status $got, expected $1"
    says "$err" "$2"
}
if [ "$(id -u)" = 0 ] && setpriv --reuid 65534 --regid 65534 --clear-groups true 2>/dev/null; then
    other 4 'permission denied for uid 65534'
    stop TERM
    start --set daemon.control_mode=0666
    other 5 'control.sock: ' # closed before or after the request was sent: the text differs
    says "$folder/log" 'refused uid 65534'
    expect 0 --socket "$socket" status # and goes on serving
else
    echo '[  SKIPPED ] another uid: needs root and setpriv'
fi
stop TERM
expect 3 --socket "$socket" status

# 5: who answers is not dynasord, or of another version.
reply() { # kind, hex of the answer; without it the server closes
    rm -f "$folder/fake.sock"
    "$peer" "$1" "$folder/fake.sock" ${2:+"$2"} &
    server_pid=$!
    # shellcheck disable=SC2317
    listening() { grep -q "00010000 .* $folder/fake.sock\$" /proc/net/unix; }
    until_true listening || fail 'the fake server does not start'
    expect 5 --socket "$folder/fake.sock" status
    kill -9 $server_pid 2>/dev/null
    wait $server_pid 2>/dev/null
    server_pid=
}
# CONTROL_MAGIC in hex, little-endian.
magic=$(sed -n 's/^#define CONTROL_MAGIC 0x\([0-9a-f]*\)ull.*/\1/p' shm/counters.h |
    sed 's/\(..\)\(..\)\(..\)\(..\)\(..\)\(..\)\(..\)\(..\)/\8\7\6\5\4\3\2\1/')
zeros() { printf '00%.0s' $(seq "$1"); }
reply stream
says "$err" 'not a SOCK_SEQPACKET socket'
reply packet
reply packet "$(zeros 168)"
says "$err" "the answer is not dynasord's"
reply packet "${magic}01000000$(zeros 8)" # cut short
says "$err" "the answer is not dynasord's"
reply packet "${magic}63000000$(zeros 156)"
says "$err" 'speaks control version 99'
reply packet "${magic}01000300$(zeros 156)"
says "$err" 'refused by dynasord'
reply packet "${magic}01000000$(zeros 156)"
says "$err" 'the answer has no descriptor'
echo "each exit status is what the manual says"
