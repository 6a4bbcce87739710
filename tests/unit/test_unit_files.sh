#!/bin/bash
# The units: systemd reads them without a complaint, their exposure stays low, and what the daemon
# relies on stands in them. Needs systemd-analyze, not a running systemd.
set -u
fail() {
    echo "$*"
    exit 1
}
command -v systemd-analyze >/dev/null || { echo "no systemd-analyze"; exit 77; }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
root=$scratch/root
mkdir -p "$root/usr/lib/systemd/system" "$root/usr/sbin" "$root/usr/lib/sysusers.d" "$root/etc"
cp systemd/*.service systemd/*.socket "$root/usr/lib/systemd/system/"
printf '#!/bin/sh\n' >"$root/usr/sbin/dynasord"
chmod 755 "$root/usr/sbin/dynasord"

# 10 is 1.0 of 10.0: what a daemon with every sandbox directive reaches.
out=$(systemd-analyze security --offline=true --threshold=10 --no-pager \
    systemd/dynasord.service 2>&1) || fail "$(echo "$out" | grep -v '✓')"
echo "$out" | tail -n 1

# Units that belong to the system (sysinit.target ...) are not in this root; their absence is no fault
# of ours.
units=("$root"/usr/lib/systemd/system/dynasord*)
out=$(SYSTEMD_UNIT_PATH="$root/usr/lib/systemd/system:" \
    systemd-analyze verify --man=no --recursive-errors=no "${units[@]}" 2>&1)
bad=$(echo "$out" | grep -E 'dynasord' | grep -v 'Command /usr/sbin/dynasord is not executable')
[ -z "$bad" ] || fail "$bad"
# What drop-ins change is read without a complaint as well, and weakens nothing else.
for conf in systemd/drop-ins/*.conf; do
    mkdir -p "$root/usr/lib/systemd/system/dynasord.service.d"
    cp "$conf" "$root/usr/lib/systemd/system/dynasord.service.d/"
    out=$(SYSTEMD_UNIT_PATH="$root/usr/lib/systemd/system:" \
        systemd-analyze verify --man=no --recursive-errors=no "${units[@]}" 2>&1)
    bad=$(echo "$out" | grep -E "dynasord|$(basename "$conf")" | grep -v 'Command /usr/sbin/dynasord is not executable')
    [ -z "$bad" ] || fail "$bad"
    grep -qF "systemd/drop-ins/$(basename "$conf")" docs/OPERATIONS.md || fail "$conf stands in no documentation"
done
# The checks above must be able to fail.
sed -i 's/^MemoryDenyWriteExecute=/MemoryDenyWritExecute=/' "$root/usr/lib/systemd/system/dynasord.service.d/jit.conf"
out=$(SYSTEMD_UNIT_PATH="$root/usr/lib/systemd/system:" \
    systemd-analyze verify --man=no --recursive-errors=no "${units[@]}" 2>&1)
echo "$out" | grep -q MemoryDenyWritExecute || fail "systemd-analyze verify does not read drop-ins: $out"
rm -r "$root/usr/lib/systemd/system/dynasord.service.d"
sed 's/^WatchdogSec=.*/WatchdgSec=20s/' systemd/dynasord.service \
    >"$root/usr/lib/systemd/system/dynasord.service"
out=$(SYSTEMD_UNIT_PATH="$root/usr/lib/systemd/system:" \
    systemd-analyze verify --man=no --recursive-errors=no "${units[@]}" 2>&1)
echo "$out" | grep -q WatchdgSec || fail "systemd-analyze verify accepts a misspelt directive: $out"

has() { # file line
    grep -qxF -- "$2" "systemd/$1" || fail "systemd/$1: no line '$2'"
}
has dynasord.service 'Sockets=dynasord.socket dynasord-control.socket'
has dynasord.service 'FileDescriptorStoreMax=16448'
has dynasord.service 'PrivateUsers=no'
has dynasord.service 'LimitCORE=0'
has dynasord.service 'RestartPreventExitStatus=78 69'
grep -q '^RuntimeDirectory=' systemd/dynasord.service && fail 'a stop would remove the sockets'
has dynasord.service 'RestrictAddressFamilies=AF_UNIX'
has dynasord.service 'MemoryDenyWriteExecute=yes'
# GPUs must stay in reach, and other devices out of it.
has dynasord.service 'PrivateDevices=no'
has dynasord.service 'DevicePolicy=closed'
for devices in nvidia nvidia-frontend nvidiactl nvidia-uvm nvidia-caps; do
    has dynasord.service "DeviceAllow=char-$devices rw"
done
has dynasord.service 'ProcSubset=all' # the driver reads /proc/driver/nvidia
has dynasord.socket 'FileDescriptorName=dynasor.sock'
has dynasord.socket 'ListenSequentialPacket=/run/dynasor/dynasor.sock'
has dynasord-control.socket 'FileDescriptorName=control.sock'
has dynasord-control.socket 'ListenSequentialPacket=/run/dynasor/control.sock'
has dynasord-control.socket 'SocketGroup=dynasor-admin'

# io_uring must stay allowed: the daemon refuses to start without it.
systemd-analyze syscall-filter --no-pager @aio 2>/dev/null >"$scratch/aio"
grep -q io_uring_setup "$scratch/aio" || fail "io_uring_setup is not in @aio of this systemd"

if command -v systemd-sysusers >/dev/null; then
    printf 'root:x:0:0::/root:/bin/sh\n' >"$root/etc/passwd"
    printf 'root:x:0:\n' >"$root/etc/group"
    cp systemd/dynasor.sysusers.conf "$root/usr/lib/sysusers.d/dynasor.conf"
    systemd-sysusers --root="$root" dynasor.conf || fail "systemd-sysusers refuses its file"
    for g in dynasor dynasor-admin; do
        grep -q "^$g:" "$root/etc/group" || fail "no group $g"
    done
    grep -q '^dynasor:' "$root/etc/passwd" || fail "no user dynasor"
else
    echo '[  SKIPPED ] sysusers: no systemd-sysusers'
fi
echo "units are good"
