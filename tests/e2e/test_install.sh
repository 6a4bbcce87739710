#!/bin/bash
# End to end from an installed tree: `make install` into a scratch folder, the examples compiled with
# nothing but pkg-config (shared and static), the installed daemon, seeded tokens compared with
# tests/golden/e2e-stream.txt, bad input answered with key, value and range, and a clean stop.
# UPDATE=1 writes the golden file anew.
# timeout: 120

set -u
root=$PWD
build=${DYN_BUILD:-$root/build}
case $build in
*/asan | */tsan | */fuzz)
    echo "the installed tree is tested once, without a sanitizer"
    exit 77
    ;;
esac
work=$(mktemp -d "${TMPDIR:-/tmp}/e2e.XXXXXX") || exit 1
tree=$work/tree
socket=$work/dynasor.sock
control=$work/control.sock
golden=$root/tests/golden/e2e-stream.txt
daemon_pid=

# shellcheck disable=SC2317 # called by the trap
cleanup() {
    [ -z "$daemon_pid" ] || kill -9 "$daemon_pid" 2>/dev/null
    wait 2>/dev/null
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

fail() {
    echo "FAIL: $*"
    for f in "$work"/*.log; do
        [ -s "$f" ] && { echo "--- $(basename "$f")"; tail -n 20 "$f"; }
    done
    exit 1
}

# ---- install -----------------------------------------------------------------------------------

cd "$root" || exit 1
make --no-print-directory BUILD="${build#"$root"/}" DESTDIR="$tree" install >"$work/install.log" 2>&1 ||
    fail "make install"
while read -r mode f; do
    [ -s "$tree/$f" ] || fail "$f was not installed"
    [ "$(stat -c %a "$tree/$f")" = "$mode" ] || fail "$f has mode $(stat -c %a "$tree/$f"), not $mode"
done <<'END'
755 usr/sbin/dynasord
755 usr/bin/dynasorctl
755 usr/bin/dynasor-generate
644 usr/include/dynasor/client.h
644 usr/include/dynasor/custom.h
644 usr/include/dynasor/types.h
644 usr/lib/libdynasor-client.so.1
644 usr/lib/libdynasor-client.a
644 usr/lib/pkgconfig/dynasor-client.pc
644 usr/lib/systemd/system/dynasord.service
644 usr/lib/systemd/system/dynasord.socket
644 usr/lib/systemd/system/dynasord-control.socket
644 usr/lib/sysusers.d/dynasor.conf
644 usr/lib/tmpfiles.d/dynasor.conf
644 usr/share/man/man1/dynasorctl.1
644 usr/share/man/man1/dynasor-generate.1
644 usr/share/man/man5/dynasord.conf.5
644 usr/share/man/man8/dynasord.8
644 etc/dynasor/dynasord.conf
END
[ "$(readlink "$tree/usr/lib/libdynasor-client.so")" = libdynasor-client.so.1 ] ||
    fail "libdynasor-client.so is not a link to libdynasor-client.so.1"
odd=$(find "$tree" -type f ! -perm 644 ! -perm 755)
[ -z "$odd" ] || fail "odd modes: $odd"
[ "$(find "$tree" -type f -perm 755 | wc -l)" = 4 ] || fail "not four programs"
for f in systemd/*.service systemd/*.socket; do # /usr is what stands in the sources
    cmp -s "$f" "$tree/usr/lib/systemd/system/$(basename "$f")" || fail "$f was changed"
done
cmp -s systemd/dynasor.sysusers.conf "$tree/usr/lib/sysusers.d/dynasor.conf" || fail sysusers
cmp -s systemd/dynasor.tmpfiles.conf "$tree/usr/lib/tmpfiles.d/dynasor.conf" || fail tmpfiles
echo "installed $(find "$tree" -type f | wc -l) files"

# The same build elsewhere, over a configuration that somebody edited.
mkdir -p "$work/tree2/etc/dynasor"
echo '# edited' >"$work/tree2/etc/dynasor/dynasord.conf"
make --no-print-directory BUILD="${build#"$root"/}" DESTDIR="$work/tree2" PREFIX=/opt/dynasor \
    LIBDIR=/opt/dynasor/lib64 install >"$work/install.log" 2>&1 || fail "make install, PREFIX"
for line in prefix=/opt/dynasor libdir=/opt/dynasor/lib64 includedir=/opt/dynasor/include; do
    grep -qx "$line" "$work/tree2/opt/dynasor/lib64/pkgconfig/dynasor-client.pc" ||
        fail "the second installation's .pc lacks $line"
done
grep -qx 'ExecStart=/opt/dynasor/sbin/dynasord' \
    "$work/tree2/opt/dynasor/lib/systemd/system/dynasord.service" || fail "ExecStart of PREFIX"
[ -x "$work/tree2/opt/dynasor/sbin/dynasord" ] || fail "no daemon below PREFIX"
[ ! -e "$work/tree2/usr" ] || fail "something is installed outside PREFIX"
[ "$(cat "$work/tree2/etc/dynasor/dynasord.conf")" = '# edited' ] || fail "configuration overwritten"
grep -qx prefix=/usr "$tree/usr/lib/pkgconfig/dynasor-client.pc" || fail "the first .pc"
echo "a second installation has its own paths, and keeps the configuration"

# ---- compile against it ------------------------------------------------------------------------

pc() {
    PKG_CONFIG_SYSROOT_DIR=$tree PKG_CONFIG_LIBDIR=$tree/usr/lib/pkgconfig \
        PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1 PKG_CONFIG_ALLOW_SYSTEM_LIBS=1 \
        pkg-config "$@" dynasor-client
}
pc --exists || fail "pkg-config does not find dynasor-client"
cflags=$(pc --cflags) shared=$(pc --libs) static=$(pc --static --libs)
mkdir "$work/src" "$work/bin"
cp client/examples/*.c "$work/src/" # so that nothing of this tree can be included by chance
cd "$work/src" || exit 1
for name in hello stream own_loop my_sc; do
    # shellcheck disable=SC2086 # flags are words
    {
        "${CC:-cc}" -std=c11 -Wall -Wextra -Werror -D_GNU_SOURCE $cflags $name.c -o "$work/bin/$name" \
            $shared >"$work/cc.log" 2>&1 || fail "$name.c, shared"
        "${CC:-cc}" -std=c11 -Wall -Wextra -Werror -D_GNU_SOURCE $cflags $name.c \
            -o "$work/bin/$name-static" ${static/-ldynasor-client/-l:libdynasor-client.a} \
            >"$work/cc.log" 2>&1 || fail "$name.c, static"
    }
done
ldd "$work/bin/hello-static" | grep -q libdynasor && fail "hello-static needs the shared library"
export LD_LIBRARY_PATH=$tree/usr/lib
ldd "$work/bin/hello" | grep -q "libdynasor-client.so.1 => $tree" || fail "hello: another library"

# ---- bad configuration: refused by name, before anything is served -------------------------------

dynasord=$tree/usr/sbin/dynasord
config() { # lines after the paths
    printf '[daemon]\nsocket_path = %s\ncontrol_path = %s\n%b' "$socket" "$control" "$1" \
        >"$work/dynasord.conf"
}
refused() { # lines, then what the message must hold
    local word
    config "$1"
    shift
    timeout 10 "$dynasord" --config "$work/dynasord.conf" >"$work/refused.log" 2>&1 &&
        fail "started with a bad configuration ($*)"
    [ $? = 124 ] && fail "served with a bad configuration ($*)"
    for word; do
        grep -qF -- "$word" "$work/refused.log" || fail "the message lacks '$word'"
    done
    [ ! -e "$socket" ] || fail "a refused daemon left its socket"
}
refused 'clients_max = 0\n' clients_max ' 0' '1 to 4096'
refused 'clients_max = 99999\n' clients_max 99999 '1 to 4096'
refused 'clients_max = many\n' clients_max many '1 to 4096'
refused 'spin_max_us = 51\n' spin_max_us 51 '0 to 50'
refused 'colour = red\n' colour 'no such option'
refused '[engine]\nsim_step_ns = -1\n' sim_step_ns -1 '0 to 1000000000'
refused '[engnie]\nsim_step_ns = 1\n' engnie
refused 'log_level = loud\n' log_level loud debug
timeout 10 "$dynasord" --config "$work/none.conf" >"$work/refused.log" 2>&1 &&
    fail "started without its configuration file"
grep -qF none.conf "$work/refused.log" || fail "the message does not name the missing file"
echo "bad configurations were refused by key, value and range"

# ---- serve ------------------------------------------------------------------------------------

config '[engine]\nsimulate = 1\nsim_step_ns = 200000\n'
"$dynasord" --config "$work/dynasord.conf" >"$work/daemon.log" 2>&1 &
daemon_pid=$!
for _ in $(seq 500); do
    "$tree/usr/bin/dynasorctl" --socket "$control" status >"$work/status.log" 2>&1 && break
    kill -0 $daemon_pid 2>/dev/null || fail "the daemon ended"
    sleep 0.02
done
grep -q . "$work/status.log" || fail "dynasorctl status says nothing"
timeout 10 "$dynasord" --config "$work/dynasord.conf" >"$work/refused.log" 2>&1 &&
    fail "a second daemon took the socket of the first"
grep -qF "$socket" "$work/refused.log" || fail "the second daemon's message names no socket"

# Events hold as many tokens as there were; the streams themselves are always the same.
streams() { # program
    "$work/bin/$1" --socket "$socket" --seed 42 --max-tokens 48 --programs 4 "Count the ways." \
        2>"$work/stream.log" |
        awk '/ position /  { n = $2; sub(/^.*: */, ""); token[n] = token[n] " " $0 }
             / ended /     { end[$2] = $0 }
             END { for (n = 1; n <= 4; n++) print "program " n ":" token[n] "\n" end[n] }'
}
hello() { "$work/bin/$1" --socket "$socket" "Why is the sky blue?" 2>"$work/stream.log"; }
own_loop() { timeout 20 "$work/bin/$1" --socket "$socket" 2>"$work/stream.log" | grep ended | sort; }
for kind in '' -static; do
    {
        echo "# stream --seed 42 --max-tokens 48 --programs 4 \"Count the ways.\", simulated engine"
        streams "stream$kind"
        echo "# hello \"Why is the sky blue?\""
        hello "hello$kind"
        echo "# own_loop, how its programs ended"
        own_loop "own_loop$kind"
    } >"$work/got$kind.txt"
done
[ -z "${UPDATE:-}" ] || cp "$work/got.txt" "$golden"
for kind in '' -static; do
    diff -u "$golden" "$work/got$kind.txt" >"$work/diff.log" || fail "tokens differ from $golden"
done
echo "streams are those of tests/golden/e2e-stream.txt, shared and static"

# ---- bad input --------------------------------------------------------------------------------

complains() { # words ... -- command ...
    local words=() word
    while [ "$1" != -- ]; do words+=("$1") && shift; done
    shift
    timeout 20 "$@" >"$work/complaint.log" 2>&1 && fail "this passed: $*"
    [ $? = 124 ] && fail "this did not end: $*"
    for word in "${words[@]}"; do
        grep -qF -- "$word" "$work/complaint.log" || fail "the message lacks '$word'"
    done
}
complains max_tokens ' 0' 1048576 -- "$work/bin/stream" --socket "$socket" --max-tokens 0
complains max_tokens 1048577 -- "$work/bin/stream" --socket "$socket" --max-tokens 1048577
complains TIMEOUT -- "$work/bin/hello" --socket "$work/nobody.sock"
complains INVALID -- "$work/bin/hello" --socket "$(printf 'x%.0s' {1..200})"
complains prompt -- "$work/bin/hello" --socket "$socket" ''
complains prompt -- "$work/bin/hello" --socket "$socket" "$(printf 'a\xff')"
hello hello >/dev/null || fail "the daemon does not serve any more"
echo "bad input was refused by name, and the daemon went on"

# ---- stop -------------------------------------------------------------------------------------

kill -TERM $daemon_pid
wait $daemon_pid
status=$?
daemon_pid=
[ $status = 0 ] || fail "SIGTERM: status $status"
if [ -e "$socket" ] || [ -e "$control" ]; then fail "a socket was left behind"; fi
grep -qiE 'assert|sanitizer|error' "$work/daemon.log" && fail "the daemon's log"
echo "SIGTERM stopped it and removed its sockets"
exit 0
